"""Whatever is done to a table between two runs, a row has no answer but its own, and none is bought unasked."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import ChangedError
from batcher.input.marks import EMPTY, Comparison, Marks
from batcher.journal.entries import Outcome
from batcher.journal.opening import open_journal
from batcher.journal.rules import Rules
from batcher.journal.writing import Journal
from batcher.records import Result, Source, Status


class Row(NamedTuple):
    """A row of the table; all that the journal knows of it are its marks."""

    id: str
    text: str
    note: str


MARKS = Marks(Row._fields)
PROMPTS: dict[str, tuple[str, ...]] = {"1": ("text",), "2": ("text",), "3": ("text", "note"), "4": ("note",), "5": ()}
"""The columns that each prompt reads."""

Edit = Callable[[list[Row], int, int], object]


def replaced(change: Callable[[Row], Row]) -> Edit:
    return lambda rows, here, _there: rows.__setitem__(here, change(rows[here])) if rows else None


def swap(rows: list[Row], here: int, there: int) -> None:
    if rows:
        rows[here], rows[there] = rows[there], rows[here]


EDITS: dict[str, Edit] = {
    "delete": lambda rows, here, _there: rows and rows.pop(here),
    "insert": lambda rows, here, there: rows.insert(here, Row(str(10 + there), "ab"[there % 2], "xy"[here % 2])),
    "edit": replaced(lambda row: row._replace(text=f"{row.text}!")),
    "edit beside the text": replaced(lambda row: row._replace(note=f"{row.note}!")),
    "other id": replaced(lambda row: row._replace(id=f"{row.id}0")),
    "no id": replaced(lambda row: row._replace(id="")),
    "swap": swap,
    "strip": lambda rows, _here, _there: rows.__setitem__(slice(None), [r._replace(text=r.text.strip()) for r in rows]),
    "sort": lambda rows, _here, _there: rows.sort(key=lambda row: (row.text, row.id)),
    "reverse": lambda rows, _here, _there: rows.reverse(),
}


class Step(NamedTuple):
    """What is done to the table, the run after it, and how the rows end that it asks; None is an interruption."""

    edits: list[tuple[str, int, int]]
    prompt: str
    limit: int | None
    on_change: str
    by_id: bool
    dedup: bool
    ends: list[Status | None]


STEPS = st.lists(
    st.builds(
        Step,
        st.lists(st.tuples(st.sampled_from([*EDITS]), st.integers(0, 5), st.integers(0, 5)), max_size=3),
        st.sampled_from("1112345"),
        st.none() | st.none() | st.integers(1, 4),
        st.sampled_from(["abort", "redo", "reuse", "reuse"]),
        st.booleans(),
        st.sampled_from([False, False, True]),
        st.lists(st.sampled_from([Status.OK, Status.OK, Status.OK, Status.INVALID, Status.ERROR, None]), min_size=1),
    ),
    min_size=1,
    max_size=4,
)
TABLE = [Row("1", " a", "x"), Row("2", " b", "y"), Row("3", "c ", "x"), Row("4", "c ", "y")]


def key(prompt: str, row: Row) -> bytes:
    asked = [getattr(row, name) for name in PROMPTS[prompt]]
    return f"{prompt} {asked}".encode().ljust(16)[-16:]


def read(row: Row, columns: Sequence[str]) -> list[str]:
    return [getattr(row, name) for name in columns]


class Answer(NamedTuple):
    """An answer as the model knows it: the row that it was given to, the columns that its question read, its key."""

    row: Row
    columns: tuple[str, ...]
    key: bytes
    status: Status


class Held(NamedTuple):
    """A row of the journal, and the row of the table that it stands for."""

    row: Row
    key: bytes
    result: int | None
    is_kept: bool


class World:
    """A table on its way through runs, and whose answer each of its rows may have.

    Attributes:
        held: the rows that the journal knew after the last plan, those behind its limit included.
        scope: how many of them that plan was about.
        prompt: the last one.
        asked_ever: the columns that any prompt has read.
        answers: every answer there ever was.
    """

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._path = path
        self._number = 0
        self.table = list(TABLE)
        self.held: list[Held] = []
        self.scope = 0
        self.prompt = "1"
        self.asked_ever: set[str] = set()
        self.answers: dict[int, Answer] = {}

    def go_on(self, step: Step) -> None:
        for name, here, there in step.edits:
            last = max(len(self.table) - 1, 0)
            EDITS[name](self.table, min(here, last), min(there, last))
        rows = self.table[: step.limit]
        ids = [row.id for row in rows if row.id]
        by_id = step.by_id and len(ids) == len(set(ids))
        try:
            self._plan(rows, step, by_id=by_id)
        except ChangedError:
            return
        held = self._look(rows)
        self._check(held, step, by_id=by_id)
        self.asked_ever.update(PROMPTS[step.prompt])
        self.held, self.scope, self.prompt = held, len(rows), step.prompt
        asyncio.run(self._ask(step))
        self.held = self._look(rows)

    def _plan(self, rows: Sequence[Row], step: Step, *, by_id: bool) -> None:
        """Plan as a run does.

        Raises:
            ChangedError: the user has to say what is to become of answered rows.
        """
        before, prompt = MARKS if self.held else None, PROMPTS[step.prompt]
        ids = "id" if by_id else None
        with self._journal.planning(
            Comparison(MARKS, prompt, before, PROMPTS[self.prompt], tuple(self.asked_ever), ids)
        ) as matching:
            sources = frozenset(matching.source_ids([Source("m", "")]))
            matching.add_rows(0, [key(step.prompt, row) for row in rows], list(map(MARKS.of, rows)))
            is_limited = step.limit is not None
            rules = Rules(sources, on_change=step.on_change, dedup=step.dedup, is_limited=is_limited)
            matched = matching.finish(len(rows), rules)
            if step.on_change == "abort" and (matched.changed or matched.gone):
                raise ChangedError
            self._journal.start_run(2, {})

    def _look(self, rows: Sequence[Row]) -> list[Held]:
        """Read the journal's rows, without batcher."""
        behind = [held.row for held in self.held[len(rows) :]]
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            found = db.execute("SELECT key, result, is_kept IS NOT NULL FROM rows ORDER BY position").fetchall()
        return [Held(row, *each) for row, each in zip([*rows, *behind], found, strict=False)]

    def _check(self, held: list[Held], step: Step, *, by_id: bool) -> None:
        scope = len(self.table[: step.limit])
        for each in held[:scope]:
            assert each.key == key(step.prompt, each.row)
            if each.result is None:
                continue
            answer = self.answers[each.result]
            if not each.is_kept:
                assert answer.key == each.key
            else:
                assert answer.status is not Status.ERROR
                assert any(
                    self._may_pass(before, each.row, by_id=by_id)
                    for before in self.held
                    if before.result == each.result
                )
        lost = self._lost(held)
        new = self._new(held, scope)
        if step.on_change == "abort":
            assert not (lost and new), "what may be an edited row is asked about first"
        if step.on_change == "reuse":
            bare = [each.row for each in held[:scope] if each.result is None]
            latest = self.held[: self.scope]  # of older questions the plan does not know which columns they read
            surely = [each for each in lost if each in latest]
            assert not any(self._is_same(before, row) for before in surely for row in bare), "nothing is bought twice"

    def _may_pass(self, before: Held, now: Row, *, by_id: bool) -> bool:
        """Say whether the answer of a row may be the answer of this row of the next plan."""
        return self._is_same(before, now) or (by_id and before.row.id == now.id != "")

    def _is_same(self, before: Held, now: Row) -> bool:
        """Say whether a row is the one before as far as its questions went."""
        answer = self.answers[before.result or 0]
        columns = [*self.asked_ever] if before.is_kept else answer.columns
        return read(before.row, columns) == read(now, columns)

    def _lost(self, held: list[Held]) -> list[Held]:
        """Return the rows of the last plan whose answers no row has any more."""
        has = Counter(each.result for each in held)
        had = [each for each in self.held if each.result and self.answers[each.result].status is not Status.ERROR]
        better = {each.key for each in held if each.result and self.answers[each.result].status is Status.OK}
        return [each for each in had if not has[each.result] and not self._is_improved(each, better)]

    def _is_improved(self, before: Held, better: set[bytes]) -> bool:
        """Say whether a row that failed may have the ok answer of another row that asks the same."""
        return self.answers[before.result or 0].status is Status.INVALID and before.key in better

    def _new(self, held: list[Held], scope: int) -> list[Held]:
        """Return the rows to be asked whose question was not waiting to be asked before."""
        waiting = Counter(each.key for each in self.held if each.result is None)
        bare = Counter(each.key for each in held[:scope] if each.result is None)
        return [each for each in held[:scope] if (bare - waiting)[each.key] and each.result is None]

    async def _ask(self, step: Step) -> None:
        """Ask about the rows that have no result, as a run does, until it is interrupted."""
        ends = iter(step.ends * 9)
        for position, state in enumerate(self._journal.states(0, self.scope)):
            if state.result is not None or state.leader is not None:
                continue
            request = await self._journal.sent(position, state.key, 0, 1)
            status = next(ends)
            if status is None:
                return
            result = Result(status, f"answer {request.id}", "")
            outcome = Outcome("400" if status is Status.ERROR else "answered")
            await self._journal.settled(request, outcome, result, followers=state.followers > 0)
            row = self.held[position].row
            self.answers[request.id] = Answer(row, PROMPTS[step.prompt], state.key, status)


@pytest.mark.parametrize("part", range(4))
@settings(max_examples=250, deadline=None)
@given(steps=STEPS)
def test_no_series_of_edits_gives_a_row_the_answer_of_another(steps: list[Step], part: int) -> None:
    """A thousand of them, in parts, so that no part takes long."""
    with tempfile.TemporaryDirectory() as folder, open_journal(path := Path(folder) / "j") as journal:
        world = World(journal, path)
        for step in [Step([], "1", None, "abort", by_id=False, dedup=False, ends=[Status.OK]), *steps]:
            world.go_on(step)


def test_marks_are_compared_by_the_names_of_columns() -> None:
    one, other = Marks(["a", "b"]), Marks(["b", "c", "a"])
    first, second = one.of((1, "x")), other.of(("x", None, "1"))
    for names in ("a", "b", "ab"):
        assert one.cut(first, names) == other.cut(second, names) != b""
    assert one.cut(first, "c") == one.cut(second, "a") == b""
    assert other.cut(second, "c") == EMPTY


def test_a_wide_table_has_marks_of_bounded_size() -> None:
    names = [f"column {n}" for n in range(200)]
    marks, values = Marks(names), tuple(range(200))
    assert len(marks.of(values)) < 512
    for changed in (0, 60, 61, 62, 199):
        other = (*values[:changed], "x", *values[changed + 1 :])
        assert names[changed] in marks.differing(marks.of(values), marks.of(other))
    assert marks.of((*values[:198], "19", "8199")) != marks.of((*values[:198], "198", "199"))
