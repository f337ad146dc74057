"""Two runs on one table side by side: the rows that they answer differently.

Invariant: a row is paired only with a row of the same cells, each once. Rows that agree take no memory, and of each
that differs 24 bytes are kept. Only while rows are paired that stand elsewhere in the other run, each takes some 200.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batcher.errors import BatcherError, OutputError, SettingsError
from batcher.journal.comparing import in_place
from batcher.journal.looking import Looks, RowReader
from batcher.journal.schema import text_of
from batcher.output.directory import Store
from batcher.output.opening import PastRun
from batcher.records import Status
from batcher.reports.quality.compare import RunToCompare, columns_to_pair, to_compare
from batcher.reports.quality.pairs import MOST_PAIRS, reading_of
from batcher.reviewing.exchange import invalid
from batcher.settings import check_keyword
from batcher.words import counted, percent

Ints = NDArray[np.int64]
Row = tuple[bytes, int, str, str | bytes]
"""Mark, position, status and answer, as `in_place` yields them."""

LABEL, STATUS = "label", "status"
"""How a row can differ: both runs have an answer, and not the same; or it ended otherwise."""
_STATUSES = ("", *(each.value for each in Status))
_CODES = {status: code for code, status in enumerate(_STATUSES)}
_OK = _CODES[Status.OK.value]
_LONGEST = 300  # characters of a text on the page
_MOST_TRANSITIONS = 200
_AT_ONCE = 10_000  # rows between two looks at whether to stop
_SHORT_S, _PATIENCE_S, _MOST_PATIENCE_S = 0.3, 1.0, 10.0
"""How long a page waits: for all rows; for its own, then for as many as there are; for the first of all."""
_LOOK_S = 0.02
_FRESH = 10  # a pairing counts for this many times the seconds that it took, even if a run works on
_ATTEMPTS = 3  # a journal may be written while it is read
_OTHERS = 2  # runs whose pairing is kept


Transition = tuple[str | None, str | None]


class _Ends(NamedTuple):
    """A pair of different ends: the status of a row in each run, and its answer, cut for the page."""

    statuses: tuple[str, str]
    answers: tuple[str, str]

    @property
    def texts(self) -> tuple[str, str]:
        """What the page shows: the answer, or how the row ended without one."""
        mine, theirs = (
            (answer or "(empty)") if status == Status.OK.value else f"({status or 'no result'})"
            for status, answer in zip(self.statuses, self.answers, strict=True)
        )
        return mine, theirs

    @property
    def kind(self) -> str:
        return LABEL if self.statuses[0] == self.statuses[1] else STATUS


class _Columns:
    """Columns of numbers that grow."""

    def __init__(self, count: int) -> None:
        self._columns = [array("q") for _ in range(count)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, *values: int) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def arrays(self) -> list[Ints]:
        """Return a copy of them."""
        return [np.array(column, np.int64) for column in self._columns]


class Pairing:
    """Pairs the rows of two runs, and keeps those that differ.

    First come the rows that stand at the same place with the same cells, as nearly all do; then the others, by the
    hashes of their cells, of equal rows the first with the first.

    Args:
        mine, theirs: the names of the runs.
        normal: returns the same text for answers that are equal.

    Attributes:
        done: rows read, of the longer run.
        of: rows to read.
        is_whole: all rows are paired.
        paired: rows that both runs have.
        only: rows that only this run, and only the other run has; known at the end.
    """

    def __init__(self, mine: str, theirs: str, of: int, normal: Callable[[str], str]) -> None:
        self.names = (mine, theirs)
        self.done = self.paired = 0
        self.of = of
        self.is_whole = False
        self.only = (0, 0)
        self._normal = normal
        self._lock = threading.Lock()
        self._ends: dict[_Ends, int] = {}
        self._differing = _Columns(3)  # position in either run, and the number of the ends
        self._left = (_Columns(4), _Columns(4))  # hash of the cells, position, status and hash of the answer
        self._texts: dict[int, str] = {}  # answers by their hashes
        self._found: Differing | None = None

    # -- Pairing

    def read(
        self, rows: Iterator[tuple[Any, ...]], others: Iterator[tuple[Any, ...]], stops: Callable[[], bool]
    ) -> None:
        """Read the rows of both runs, in the order of their tables."""
        for number, (one, two) in enumerate(zip_longest(rows, others)):
            if not number % _AT_ONCE:
                self.done = number
                if stops():
                    return
            if one == two:
                self.paired += 1
            elif one is not None and two is not None and one[0] == two[0]:
                self.paired += 1
                self._compare(one, two)
            else:
                self._put_aside(0, one)
                self._put_aside(1, two)
        self._pair_rest()
        self.done, self.is_whole = self.of, True

    def _compare(self, one: Row, two: Row) -> None:
        """Keep a row that ended differently in two runs."""
        statuses, texts = (one[2], two[2]), (text_of(one[3]), text_of(two[3]))
        if statuses[0] == statuses[1] and self._normal(texts[0]) == self._normal(texts[1]):
            return
        ends = _Ends(statuses, (texts[0][:_LONGEST], texts[1][:_LONGEST]))
        with self._lock:
            self._differing.add(one[1], two[1], self._number_of(ends))

    def _number_of(self, ends: _Ends) -> int:
        """Return the number of a pair of ends; of those that are too many one for each pair of statuses."""
        if ends not in self._ends and len(self._ends) >= MOST_PAIRS:
            ends = _Ends(ends.statuses, ("(another answer)", "(another answer)"))
        return self._ends.setdefault(ends, len(self._ends))

    def _put_aside(self, side: int, row: Row | None) -> None:
        if row is None:
            return
        mark, position, status, answer = row
        text = self._normal(text_of(answer))
        if len(self._texts) < MOST_PAIRS:
            self._texts.setdefault(hash(text), text[:_LONGEST])
        self._left[side].add(hash(mark), position, _CODES[status], hash(text))

    def _pair_rest(self) -> None:
        """Pair the rows that stand elsewhere in the other run."""
        (mark, *mine), (other_mark, *theirs) = (each.arrays() for each in self._left)
        self._left = (_Columns(4), _Columns(4))
        _, groups = np.unique(np.concatenate([mark, other_mark]), return_inverse=True)
        own_keys, other_keys = (_keys(each, len(groups)) for each in (groups[: len(mark)], groups[len(mark) :]))
        _, at, other_at = np.intersect1d(own_keys, other_keys, assume_unique=True, return_indices=True)
        self.paired += len(at)
        self.only = len(mark) - len(at), len(other_mark) - len(at)
        positions, statuses, hashes = ((own[at], other[other_at]) for own, other in zip(mine, theirs, strict=True))
        differ = (statuses[0] != statuses[1]) | (hashes[0] != hashes[1])
        found = (*positions, *statuses, *hashes)
        with self._lock:
            for own, other, status, other_status, said, other_said in zip(
                *(each[differ].tolist() for each in found), strict=True
            ):
                texts = self._texts.get(said, "(another answer)"), self._texts.get(other_said, "(another answer)")
                ends = _Ends((_STATUSES[status], _STATUSES[other_status]), texts)
                self._differing.add(own, other, self._number_of(ends))
        self._texts.clear()

    # -- What was found

    def found(self) -> Differing:
        """Return the rows that differ, as far as they are known."""
        if self._found is not None:
            return self._found
        is_whole = self.is_whole
        with self._lock:
            (own, other, ends), known = self._differing.arrays(), [*self._ends]
        order = np.argsort(own, kind="stable")
        found = Differing(own[order], other[order], ends[order], known)
        if is_whole:
            self._found, self._differing = found, _Columns(3)
        return found

    @property
    def differing(self) -> int:
        """The number of rows found so far that differ."""
        return len(self._differing)


def _keys(groups: Ints, most: int) -> Ints:
    """Return a number for each row: its group's, and how many rows of the group, of at most `most`, stand before it."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    nth = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    keys = np.empty(len(groups), np.int64)
    keys[order] = ordered * most + nth
    return keys


class Differing(NamedTuple):
    """The rows that differ.

    Attributes:
        own, other: their positions in either run; `own` rises.
        ends: the numbers of their ends.
        known: the ends by number.
    """

    own: Ints
    other: Ints
    ends: Ints
    known: list[_Ends]

    def transitions(self, only: str) -> list[list[Any]]:
        """Return what became of what, and how many rows that is: the most frequent first."""
        counts = np.bincount(self.ends, minlength=len(self.known)).tolist() if self.known else []
        found: dict[tuple[str, str], int] = {}
        for ends, count in zip(self.known, counts, strict=True):
            if not only or ends.kind == only:
                found[ends.texts] = found.get(ends.texts, 0) + count
        ordered = sorted(found.items(), key=lambda each: (-each[1], each[0]))
        return [[*texts, count] for texts, count in ordered[:_MOST_TRANSITIONS] if count]

    def filtered(self, only: str, transition: Transition) -> Differing:
        """Return those of one kind, and of one transition.

        Args:
            only: `LABEL` or `STATUS`; empty: both.
            transition: texts as the transitions have them; None: any.
        """
        mine, theirs = transition
        wanted = np.array(
            [
                (not only or each.kind == only)
                and (mine is None or each.texts[0] == mine)
                and (theirs is None or each.texts[1] == theirs)
                for each in self.known
            ],
            bool,
        )
        if wanted.all():
            return self
        keep = wanted[self.ends]
        return self._replace(own=self.own[keep], other=self.other[keep], ends=self.ends[keep])

    def count(self, kind: str) -> int:
        """Count those of a kind."""
        counts = np.bincount(self.ends, minlength=len(self.known)).tolist() if self.known else []
        return sum(count for ends, count in zip(self.known, counts, strict=True) if ends.kind == kind)


class _Work:
    """The pairing with one other run, under way or whole.

    Attributes:
        looks: at the journal of the other run.
        pairing: as far as it is; None: it has not begun.
        error: why there is none.
    """

    def __init__(self, store: Store, looks: Looks, other: str) -> None:
        self._store, self._own, self.other = store, looks, other
        self._other = Store(store.directory, other)
        self.looks = Looks(self._other.journal_path)
        self.pairing: Pairing | None = None
        self.error: BatcherError | None = None
        self._stamps: object = None
        self._until = 0.0
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Pair the rows, unless that was done for the present journals, or only just now."""
        if self._thread is not None and self._thread.is_alive():
            return
        stamps = self._own.stamp(), self.looks.stamp()
        if self.pairing is not None and (stamps == self._stamps or time.monotonic() < self._until):
            return
        self._stamps, self.error = stamps, None
        self._thread = threading.Thread(target=self._pair, name="batcher-review-sides", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join()
        self.looks.close()

    def _pair(self) -> None:
        began = time.monotonic()
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._pair_once()
                break
            except BatcherError as error:
                if not left or not isinstance(error, OutputError):
                    self.error = error
                    break
        now = time.monotonic()
        self._until = now + _FRESH * (now - began)

    def _pair_once(self) -> None:
        with ExitStack() as stack:
            readers = [stack.enter_context(each.reader())[0] for each in (self._own, self.looks)]
            for reader in readers:
                stack.enter_context(reader.snapshot())
            first, other = (
                to_compare(PastRun(store, reader))
                for store, reader in zip((self._store, self._other), readers, strict=True)
            )
            columns = columns_to_pair(first, other)
            rows = max(reader.scope() for reader in readers)
            pairing = Pairing(first.keyword, other.keyword, rows, _normal(first, other))
            if self.pairing is None:
                self.pairing = pairing  # else the earlier one is shown until this one is whole
            mine, theirs = (in_place(run.journal, run.marks, columns) for run in (first, other))
            pairing.read(mine, theirs, self._ends.is_set)
            self.pairing = pairing


def _normal(first: RunToCompare, other: RunToCompare) -> Callable[[str], str]:
    """Return what gives the same text for equal answers: the order of the fields of an object does not count."""
    if "schema" not in first.shape or "schema" not in other.shape:
        return lambda answer: answer
    read = reading_of(None, is_object=True)
    return lambda answer: json.dumps(read(answer), ensure_ascii=False, sort_keys=True)


class _Asked(NamedTuple):
    """Which page is asked for: see `Sides.page`."""

    start: int
    limit: int
    only: str
    transition: Transition


class Sides:
    """Shows the rows that another run answers differently.

    Args:
        store: the files of the run.
        looks: at its journal.
        cells: returns the input's cells of rows by their positions.
    """

    def __init__(
        self, store: Store, looks: Looks, cells: Callable[[Sequence[int]], Mapping[int, Sequence[str]]]
    ) -> None:
        self._store, self._looks, self._cells = store, looks, cells
        self._works: dict[str, _Work] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End what works beside."""
        with self._lock:
            for each in self._works.values():
                each.end()
            self._works.clear()

    async def page(
        self,
        other: str,
        *,
        start: int = 0,
        limit: int = 200,
        only: str = "",
        transition: Transition = (None, None),
    ) -> dict[str, Any]:
        """Return rows that differ, from a position on.

        Args:
            other: the keyword of the other run, in the same directory.
            start: the first position.
            limit: rows at most.
            only: `label` or `status`: those that differ in it; empty: both.
            transition: what this run says, and what the other, as the transitions have it; None: anything.

        Raises:
            SettingsError: the keyword or a filter is wrong.
            NotServed: there is no such run.
            InputError: the runs are of different tables.
            OutputError: its journal cannot be read.
        """
        if only not in {"", LABEL, STATUS}:
            raise SettingsError(f"only must be {LABEL} or {STATUS}, not {only!r:.80}")
        work = await asyncio.to_thread(self._work, other)
        await asyncio.to_thread(_wait, work, start + limit)
        if work.error is not None:
            raise work.error
        return await asyncio.to_thread(self._shown, work, _Asked(start, limit, only, transition))

    def _work(self, other: str) -> _Work:
        check_keyword(other)
        if other == self._store.keyword:
            raise SettingsError(f"{other!r} is the run that this page shows: choose another one")
        if not (path := Store(self._store.directory, other).journal_path).exists():
            raise invalid(f"there is no run {other!r} in {self._store.directory}: {path} does not exist")
        with self._lock:
            work = self._works.pop(other, None) or _Work(self._store, self._looks, other)
            self._works[other] = work  # the latest is last
            if len(self._works) > _OTHERS:
                self._works.pop(next(iter(self._works))).end()
            work.begin()
        return work

    def _shown(self, work: _Work, asked: _Asked) -> dict[str, Any]:
        """Return a page."""
        if (pairing := work.pairing) is None:
            raise OutputError(f"the rows of {work.other!r} cannot be read just now: ask again")
        is_whole = pairing.is_whole  # asked first: what is found afterwards is at least as much
        whole = pairing.found()
        found = whole.filtered(asked.only, asked.transition)
        first = int(np.searchsorted(found.own, asked.start))
        last = first + asked.limit
        before, after = found.own[max(first - asked.limit, 0) : first], found.own[last : last + 1]
        return {
            "total": len(found.own),
            "before": first,
            "rows": self._rows(work, found.own[first:last].tolist(), found.other[first:last].tolist()),
            "next": int(after[0]) if len(after) else None,
            "previous": int(before[0]) if len(before) else None,
            "summary": _summary(pairing, whole, is_whole=is_whole),
            "transitions": whole.transitions(asked.only),
            "reading": None if is_whole else {"done": pairing.done, "of": pairing.of},
            "names": [*pairing.names],
            "paired": pairing.paired,
            "only_mine": pairing.only[0],
            "only_theirs": pairing.only[1],
        }

    def _rows(self, work: _Work, own: Sequence[int], other: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows with their cells and answers."""
        cells = self._cells(own)
        mine, theirs = (looks.look(_lines_of(at)) for looks, at in ((self._looks, own), (work.looks, other)))
        return [
            {
                "position": position,
                "other_position": place,
                "cells": [*map(_cut, cells[position])] if position in cells else None,
                "mine": mine.get(position),
                "theirs": theirs.get(place),
            }
            for position, place in zip(own, other, strict=True)
        ]


def _wait(work: _Work, rows: int) -> None:
    """Wait until a page can be shown, or nothing more is to be waited for."""
    began = time.monotonic()
    while not _is_enough(work, rows, time.monotonic() - began):
        time.sleep(_LOOK_S)


def _is_enough(work: _Work, rows: int, waited: float) -> bool:
    """Return whether a page can be shown, or nothing more is to be waited for."""
    pairing = work.pairing
    if work.error is not None or (pairing is not None and pairing.is_whole):
        return True
    if pairing is None:
        return waited > _MOST_PATIENCE_S
    return waited > _PATIENCE_S or (waited > _SHORT_S and pairing.differing > rows)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\u2026"


def _lines_of(positions: Sequence[int]) -> Callable[[RowReader], dict[int, dict[str, Any]]]:
    """Return what reads how rows ended."""

    def read(journal: RowReader) -> dict[int, dict[str, Any]]:
        sources = journal.sources(positions)
        return {
            position: {
                "status": line.status,
                "answer": _cut(line.answer),
                "error": _cut(line.error),
                "by": sources.get(position, ""),
            }
            for position, line in journal.lines_at(positions).items()
        }

    return read


def _summary(pairing: Pairing, found: Differing, *, is_whole: bool) -> str:
    mine, theirs = pairing.names
    labels, statuses = found.count(LABEL), found.count(STATUS)
    share = f" ({percent((labels + statuses) / pairing.paired)})" if pairing.paired else ""
    said = (
        f"{mine} and {theirs} differ in {labels + statuses:,} of {counted(pairing.paired, 'row')}{share}:"
        f" {labels:,} with another answer, {statuses:,} that ended otherwise"
    )
    alone = "".join(
        f"; {counted(rows, 'row is', 'rows are')} only in {name}"
        for rows, name in zip(pairing.only, pairing.names, strict=True)
        if rows
    )
    return f"{said}{alone}." if is_whole else f"So far, {said}."
