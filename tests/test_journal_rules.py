"""A plan gives each row the answer to its question, rule by rule, and any series of plans follows the rules."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import COMPARISON, answer, change, ended, key, look, plan, results, say

from batcher.errors import OutputError
from batcher.journal.entries import Outcome
from batcher.journal.matching import Matched
from batcher.journal.opening import open_journal
from batcher.journal.writing import Journal
from batcher.records import RowState


@pytest.fixture
def empty(path: Path) -> Iterator[Journal]:
    with open_journal(path) as journal:
        yield journal


@pytest.mark.parametrize(
    ("before", "now", "expected", "changed"),
    [
        ("abc", "abc", [1, 2, 3], 0),
        ("abc", "cab", [3, 1, 2], 0),
        ("abc", "bc", [2, 3], 0),
        ("abc", "", [], 0),
        ("abc", "abcd", [1, 2, 3, None], 0),
        ("abc", "xabc", [None, 1, 2, 3], 0),
        ("abc", "abx", [1, 2, None], 1),
        ("abc", "xyz", [None, None, None], 3),
        ("aab", "baa", [3, 2, 1], 0),
        ("aab", "xaab", [None, 2, 1, 3], 0),
        ("ab", "aabb", [1, None, 2, None], 0),
    ],
)
def test_an_answer_goes_where_its_question_stands(
    empty: Journal, before: str, now: str, expected: list[int | None], changed: int
) -> None:
    plan(empty, before)
    answer(empty, *["ok"] * len(before))
    assert plan(empty, now) == changed
    assert results(empty) == expected


def test_answers_of_removed_rows_wait_for_their_return(empty: Journal) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "ok")
    plan(empty, "a")
    assert plan(empty, "acb") == 0
    assert results(empty) == [1, 3, 2]


@pytest.mark.parametrize(("models", "changed"), [("m", 0), ("mn", 0), ("n", 2)])
def test_answers_count_as_long_as_their_source_is_in_the_pool(empty: Journal, models: str, changed: int) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    assert plan(empty, "abc", models) == changed
    assert results(empty) == ([None, None, 3] if changed else [1, 2, 3])


@pytest.mark.parametrize("now", ["abc", "cba"])
def test_retry_failed_clears_errors_and_invalid_answers_alone(empty: Journal, now: str) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    assert plan(empty, now, retry_failed=True) == 0
    assert dict(zip(now, results(empty), strict=True)) == {"a": 1, "b": None, "c": None}


def test_an_invalid_answer_of_a_source_that_left_can_be_retried(empty: Journal) -> None:
    plan(empty, "ab")
    answer(empty, "invalid", "error")
    assert plan(empty, "xb", "n", retry_failed=True) == 0


def test_an_error_moves_with_its_row_but_a_new_row_is_asked(empty: Journal) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "ok", "error")
    assert plan(empty, "cabc") == 0
    assert results(empty) == [3, 1, 2, None]


def test_an_answer_is_used_before_an_error(empty: Journal) -> None:
    plan(empty, "aa")
    answer(empty, "error", "ok")
    plan(empty, "xya")
    assert results(empty) == [None, None, 2]


def test_an_error_that_was_retried_is_never_used_again(empty: Journal) -> None:
    plan(empty, "a")
    answer(empty, "error")
    plan(empty, "a", retry_failed=True)
    answer(empty, "ok")
    assert plan(empty, "xaa") == 0
    assert results(empty) == [None, 2, None]


def test_a_limit_leaves_the_rows_behind_it_as_they_are_but_for_what_it_needs(empty: Journal) -> None:
    plan(empty, "abcdd")
    answer(empty, *["ok"] * 5)
    assert plan(empty, "da", limit=2) == 0
    assert results(empty) == [4, 1, 3, None, 5]
    assert empty.counts() == (2, 2, 0, 0)
    assert plan(empty, "dabcd") == 0
    assert results(empty) == [4, 1, 2, 3, 5]


def test_one_answer_for_several_rows_is_spared_once(empty: Journal) -> None:
    plan(empty, "abbb", dedup=True)

    async def work() -> None:
        requests = [await empty.sent(position, key("ab"[position]), 0, 1) for position in range(2)]
        await asyncio.gather(*(empty.settled(each, Outcome("answered"), ended(), followers=True) for each in requests))

    asyncio.run(work())
    assert results(empty) == [1, 2, 2, 2]
    assert plan(empty, "b", limit=1) == 0
    assert results(empty) == [2, None, 2, 2], "one row gives up what is now in front"
    assert plan(empty, "babb") == 0
    assert results(empty) == [2, 1, 2, 2]


def test_a_kept_answer_that_is_retried_is_a_new_one(empty: Journal) -> None:
    plan(empty, ["a1"])
    answer(empty, "invalid")
    assert plan(empty, ["a2"], on_change="reuse") == 1
    plan(empty, ["a2"], retry_failed=True)
    answer(empty, "ok")
    assert plan(empty, ["a2"], "n") == 1


def test_a_row_that_keeps_an_old_answer_is_not_changed_until_it_is_redone(empty: Journal) -> None:
    plan(empty, ["a1", "b1"])
    answer(empty, "ok", "ok")
    assert plan(empty, ["a2", "b2"], on_change="reuse") == 2
    for questions, models in (["a2", "b2"], "m"), (["a2", "b2"], "n"), (["b2", "c2", "a2"], "n"):
        assert plan(empty, questions, models) == 0
    assert results(empty) == [2, None, 1]
    assert plan(empty, ["b2", "c2", "a2"], on_change="redo") == 2
    assert results(empty) == [None, None, None]


class Step(NamedTuple):
    """A plan, and the run after it: how each row that is sent ends, as long as that lasts.

    A question is a row's text and the prompt's number, such as `a1`. `found` is what chunk files hold, by position.
    """

    texts: str
    prompt: str
    models: str
    limit: int | None
    how: dict[str, Any]
    found: dict[int, str]
    is_kept: bool
    statuses: list[str | None]

    @property
    def questions(self) -> list[str]:
        return [text + self.prompt for text in self.texts[: self.limit]]


ENDS = ["ok", "ok", "invalid", "error"]


STEPS = st.lists(
    st.builds(
        Step,
        st.text("abc", min_size=1, max_size=7),
        st.sampled_from("112"),
        st.sampled_from(["m", "mn", "n"]),
        st.none() | st.integers(1, 4),
        st.fixed_dictionaries(
            {},
            optional={"on_change": st.sampled_from(["redo", "reuse"])}
            | dict.fromkeys(["retry_failed", "dedup"], st.just(True)),
        ),
        st.dictionaries(st.integers(0, 6), st.sampled_from(ENDS), max_size=2),
        st.sampled_from([True, True, False]),
        st.lists(st.sampled_from([*ENDS, None]), min_size=4),
    ),
    min_size=2,
    max_size=5,
)


class Known(NamedTuple):
    """A result, as the model sees it."""

    question: str
    source: str
    status: str


class Row(NamedTuple):
    """A row, as the model sees it; `leader` is the row that is asked in its place."""

    question: str
    result: int | None = None
    keeps_old: bool = False
    leader: int | None = None


class Model:
    """What the rules say, row by row and in plain words.

    Attributes:
        rows: those of the last plan, and behind them those that its limit left as they were.
        scope: how many of them the last plan was about.
        known: every result there ever was.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.scope = 0
        self.known: dict[int, Known] = {}

    def plan(self, step: Step) -> tuple[Model, Matched]:
        """Return what should be there after a plan, and what should be told of it."""
        after = Model()
        after.known = dict(self.known)
        return after, after._planned(self.rows, step)

    def _planned(self, had: list[Row], step: Step) -> Matched:
        self.scope = len(step.questions)
        self.rows = [
            Row(question, old.result, old.keeps_old) if old and self._stays(old, question, step) else Row(question)
            for question, old in itertools.zip_longest(step.questions, had[: self.scope])
        ] + [Row(*row[:3]) for row in had[self.scope :] if step.limit]
        moved = {place: row for place, row in enumerate(had) if row.result and row.result != self._result(place)}
        gone = [row for place, row in enumerate(had) if row.question != self._question(place) or place >= self.scope]
        waiting = Counter(row.question for row in gone if row.result is None)
        if step.how.get("retry_failed"):
            failed = [place for place, row in moved.items() if self.known[row.result or 0].status != "ok"]
            waiting += Counter(row.question for row in map(moved.pop, failed) if row in gone)
        given = self._reuse(moved, step)
        if step.how.get("on_change") != "redo":
            kept = [(row.question, row.result) for row in moved.values() if row.keeps_old]
            given += self._pair(kept, lambda row: row.question, keeps_old=True)
        adopted = self._adopt(had, step)
        given += self._share(step)
        lost = {place: moved[place] for place in self._lost(moved, given)}
        spared = {n: row for n, row in enumerate(self.rows) if n >= self.scope and self._is_answered(row)}
        own = self._own(lost | spared)
        new = {n for n in self._bare() if n >= len(had) or had[n].question != self.rows[n].question}
        likely = {n for n in lost.keys() - set(own.values()) if n in new - own.keys()}
        left = Counter(self.rows[n].question for n in new - own.keys() - likely) - waiting
        over = lost.keys() - set(own.values()) - likely
        masks = Counter([0] * len(own) + [int(self.rows[n].question[0] != lost[n].question[0]) for n in likely])
        if step.how.get("on_change") == "reuse":
            for place, source in own.items():
                self._give(place, (lost | spared)[source].result, keeps_old=True)
                if source in spared:
                    self._give(source, None)
        if step.how.get("dedup"):
            self._improve(step)
            self._follow()
        bare = [self.rows[place].question for place in self._bare()]
        return Matched(dict(masks), len(own), len(over) if left else 0, adopted, len(bare) - len(set(bare)), 0)

    def _question(self, place: int) -> str | None:
        return self.rows[place].question if place < len(self.rows) else None

    def _is_answered(self, row: Row) -> bool:
        return row.result is not None and self.known[row.result].status != "error"

    def _own(self, lost: dict[int, Row]) -> dict[int, int]:
        """Return whose answer each row may keep: that of its position if the question is the same, else by its text, in
        order."""
        own = {n: n for n in self._bare() if n in lost and lost[n].question == self.rows[n].question}
        behind = range(self.scope, len(self.rows))
        left = sorted(lost.keys() - own.keys(), key=lambda n: (n in behind, n))
        for place in self._bare():
            fitting = (n for n in left if lost[n].question[0] == self.rows[place].question[0])
            if place not in own and (source := next(fitting, None)) is not None:
                left.remove(source)
                own[place] = source
        return own

    def _result(self, place: int) -> int | None:
        return self.rows[place].result if place < len(self.rows) else None

    def _give(self, place: int, result: int | None, *, keeps_old: bool = False) -> None:
        self.rows[place] = Row(self.rows[place].question, result, keeps_old)

    def _fits(self, result: int, step: Step) -> bool:
        _, source, status = self.known[result]
        is_good = status == "ok" or (status == "invalid" and not step.how.get("retry_failed"))
        return is_good and source in step.models + "files"

    def _worth(self, result: int) -> tuple[bool, int]:
        """Return the order in which answers are used: those that are ok first."""
        return self.known[result].status != "ok", result

    def _stays(self, old: Row, question: str | None, step: Step) -> bool:
        """Say whether a row that has not moved keeps its result."""
        if old.result is None or old.question != question:
            return False
        status = self.known[old.result].status
        if step.how.get("retry_failed") and status != "ok":
            return False
        return status == "error" or (
            step.how.get("on_change") != "redo" if old.keeps_old else self._fits(old.result, step)
        )

    def _bare(self) -> list[int]:
        return [place for place, row in enumerate(self.rows[: self.scope]) if row.result is None]

    def _pair(
        self, answers: list[tuple[str, int | None]], of: Callable[[Row], str], *, keeps_old: bool = False
    ) -> list[int]:
        """Give rows without a result the answers that fit, first come first served; return those that were given."""
        given = []
        for place in self._bare():
            fitting = (answer for answer in answers if answer[0] == of(self.rows[place]))
            if answer := next(fitting, None):
                answers.remove(answer)
                self._give(place, answer[1], keeps_old=keeps_old)
                given.append(answer[1] or 0)
        return given

    def _reuse(self, moved: dict[int, Row], step: Step) -> list[int]:
        """Each answer that has lost a row, or has none, goes to a row that asks its question; each in order."""
        holders = [row.result or 0 for row in moved.values()]
        had = {row.result for row in self.rows} | set(holders)
        free = [each for each in [*holders, *set(self.known).difference(had)] if self._fits(each, step)]
        free.sort(key=self._worth)
        given = self._pair([(self.known[each].question, each) for each in free], lambda row: row.question)
        behind = [(row.result, place) for place, row in enumerate(self.rows) if place >= self.scope and row.result]
        for result, place in sorted(
            behind, key=lambda each: (*self._worth(each[0] or 0), each[1])
        ):  # what a row behind the limit has is of more use to one within it
            if self._fits(result, step) and self._pair(
                [(self.known[result].question, result)], lambda row: row.question
            ):
                self._give(place, None)
                given.append(result)
        errors = sorted(each for each in holders if self.known[each].status == "error")
        return given + self._pair([(self.known[each].question, each) for each in errors], lambda row: row.question)

    def _adopt(self, had: list[Row], step: Step) -> int:
        """Rows that never had a result take what a chunk file holds."""
        taken = [n for n in self._bare() if n in step.found and not (n < len(had) and had[n].result)]
        lowest = min([0, *self.known])
        for number, place in enumerate(taken, 1):
            self.known[lowest - number] = Known(self.rows[place].question, "files", step.found[place])
            if step.found[place] == "ok" or not step.how.get("retry_failed"):
                self._give(place, lowest - number)
        return len(taken)

    def _share(self, step: Step) -> list[int]:
        """Rows that ask the same have one answer."""
        given = []
        for place in self._bare() if step.how.get("dedup") else ():
            question = self.rows[place].question
            answers = [n for n, known in self.known.items() if known.question == question and self._fits(n, step)]
            if answers:
                best = min(answers, key=self._worth)
                self._give(place, best)
                given.append(best)
        return given

    def _improve(self, step: Step) -> None:
        """A row that failed has the answer that is ok, if another row that asks the same got one."""
        for place, row in enumerate(self.rows[: self.scope]):
            if row.result and not row.keeps_old and self.known[row.result].status != "ok":
                same = [n for n, known in self.known.items() if known.question == row.question and known.status == "ok"]
                self._give(place, min((n for n in same if self._fits(n, step)), default=row.result))

    def _follow(self) -> None:
        """Rows that ask the same wait for the first of them."""
        first: dict[str, int] = {}
        for place in self._bare():
            question = self.rows[place].question
            if first.setdefault(question, place) != place:
                self.rows[place] = Row(question, leader=first[question])

    def _lost(self, moved: dict[int, Row], given: list[int]) -> list[int]:
        """Return the rows whose answers no row has got; if one answer served several rows, those that need it most."""
        again, lost = Counter(given), []
        for place in sorted(moved, key=lambda place: (place in self._bare(), place)):
            result = moved[place].result or 0
            if again[result]:
                again[result] -= 1
            elif self.known[result].status != "error":
                lost.append(place)
        return sorted(lost)

    def states(self) -> list[RowState]:
        leaders = [row.leader for row in self.rows]
        return [
            RowState(key(row.question), row.result, row.leader, leaders.count(place))
            for place, row in enumerate(self.rows)
        ]


async def finish(journal: Journal, model: Model, step: Step) -> None:
    """Send the rows that are left, as a run does."""
    source = {"m": 1, "n": 2}[step.models[0]]

    async def send_one(place: int, status: str | None) -> None:
        question = model.rows[place].question
        request = await journal.sent(place, key(question), 0, source)
        if status:
            followers = [n for n, row in enumerate(model.rows) if row.leader == place]
            await journal.settled(request, Outcome("answered"), ended(status), followers=bool(followers))
            model.known[request.id] = Known(question, step.models[0], status)
            for row in (place, *followers):
                model.rows[row] = model.rows[row]._replace(result=request.id)

    asked = [place for place in model._bare() if model.rows[place].leader is None]
    await asyncio.gather(*map(send_one, asked, step.statuses))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_series_of_plans_does_what_the_rules_say(steps: list[Step]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder, open_journal(path := Path(folder) / "j") as journal:
        plan(journal, "", "mn")
        for step in steps:
            after, expected = model.plan(step)
            with contextlib.suppress(KeyError), journal.planning(COMPARISON) as matching:
                questions = [text + step.prompt for text in step.texts]
                matched = say(matching, questions, step.models, step.limit, list(step.found.items()), **step.how)
                assert matched == expected
                if not step.is_kept:
                    raise KeyError
                model = after
            asyncio.run(finish(journal, model, step))
            assert [state[:2] for state in journal.states(0, 99)] == [state[:2] for state in model.states()]
            assert journal.states(0, model.scope) == model.states()[: model.scope]
            answers = [row for row in model.rows if row.result is not None and not row.keeps_old]
            assert all(model.known[row.result or 0].question == row.question for row in answers)
            assert look(path, "SELECT id FROM results ORDER BY id") == [(n,) for n in sorted(model.known)]


def test_a_plan_that_fails_leaves_everything_as_it_was(empty: Journal, path: Path) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "ok", "error")
    with contextlib.closing(sqlite3.connect(path)) as other:
        before = list(other.iterdump())
        change(path, "CREATE TRIGGER t BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(OutputError, match="full"):
            plan(empty, "xa", "n")
        change(path, "DROP TRIGGER t")
        assert list(other.iterdump()) == before
    assert plan(empty, "abc") == 0  # and the next one works


def test_planning_an_unchanged_table_writes_nothing(empty: Journal, path: Path) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    with contextlib.closing(sqlite3.connect(path)) as other:
        [before] = other.execute("PRAGMA data_version")
        assert plan(empty, "abc") == 0
        assert list(other.execute("PRAGMA data_version")) == [before]
        plan(empty, "abcd")  # to see that it would be seen
        assert list(other.execute("PRAGMA data_version")) != [before]


def test_the_work_of_a_plan_grows_with_its_rows_only(empty: Journal) -> None:
    """The steps of SQLite's virtual machine are counted while the order of all rows is reversed."""
    work = []
    for rows in (500, 1000):
        plan(empty, range(rows))
        answer(empty, *["ok"] * rows)
        steps: list[None] = []
        empty._db.connection.set_progress_handler(lambda steps=steps: steps.append(None), 100)  # type: ignore[misc]
        assert plan(empty, range(rows)[::-1]) == 0
        empty._db.connection.set_progress_handler(None, 0)
        work.append(len(steps))
    assert work[1] < 2.5 * work[0]
