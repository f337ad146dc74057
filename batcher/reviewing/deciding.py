"""Brings what people decide on the page into the journal: corrections, their undoing, and hand labels.

Invariant: a decision that was acknowledged is in the journal exactly once, whatever ends or starts meanwhile; the lock
is held only for the moment in which it is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from batcher.answer.shape import Shape, shape_of_recorded
from batcher.errors import BatcherError, KeywordBusy, OutputError, SettingsError
from batcher.journal.corrections import REVIEW, Overtaken
from batcher.journal.deciding import Pen
from batcher.journal.entries import DECIDED, OVERTAKEN, REFUSED_BY_HAND, ByHand, Decision, LastRun
from batcher.journal.locking import Work, holder_of, is_at_work
from batcher.journal.opening import open_to_decide, read_kind
from batcher.journal.reading import Reader
from batcher.journal.sampling import Gold, SampleReader
from batcher.output.control import ControlFile, Wish
from batcher.output.directory import Store
from batcher.output.following import follow
from batcher.output.joining import merge
from batcher.records import Result, Status, Task
from batcher.words import counted

T = TypeVar("T")

_PATIENCE_S = 15.0  # a run at work looks every second
_LOOK_S = 0.05
_LOOKS = 20  # at a journal that others write at the same time
_ANSWERS = (DECIDED, OVERTAKEN, REFUSED_BY_HAND)


class Changed(BatcherError):
    """The row has another result by now than the one that the person saw.

    Attributes:
        position: of the row.
        result: `results.id` of its present result; None: it has none.
    """

    def __init__(self, message: str, position: int, result: int | None) -> None:
        super().__init__(message)
        self.position = position
        self.result = result


class Decided(NamedTuple):
    """What became of a decision.

    Attributes:
        result: `results.id` of the row's new result; None for hand labels.
        via: `journal`: no run is at work, and it was written under the lock; `run`: the run at work has recorded it.
        said: this in words.
    """

    result: int | None
    via: str
    said: str


class Decisions:
    """Brings decisions into a journal; several requests may use it at once, and several processes have one each.

    Every method raises `KeywordBusy` if the journal cannot be written now, because a run is being planned or does not
    answer; `OutputError` if it cannot be written at all.

    Args:
        store: the files of the run.
        who: the name of the person.
        patience_s: how long a decision waits for a run that is being planned or does not answer.
    """

    def __init__(self, store: Store, who: str, *, patience_s: float = _PATIENCE_S) -> None:
        self._store = store
        self._who = who
        self._patience_s = patience_s
        self._turn = asyncio.Lock()

    async def correct(self, position: int, seen: int | None, result: Result, why: str = "") -> Decided:
        """Give a row the answer of a person.

        Args:
            position: of the row.
            seen: `results.id` of the result that the person saw.
            result: the answer; with a schema, JSON.
            why: what the person says about it.

        Raises:
            Changed: the row has another result by now.
            SettingsError: it is not a label, does not fit the schema, or there is no such row, or it has no result.
        """
        last = await asyncio.to_thread(self._looked, Reader.last_run)
        if last:
            _check_is_chat(last)
            result = _fitting(result, last)
        return await self._decide(Decision(position, seen, result, self._who, why))

    async def undo(self, position: int, seen: int, why: str = "") -> Decided:
        """Bring the model's answer of a corrected row back; of a row whose correction was undone, the correction.

        Args:
            position: of the row.
            seen: `results.id` of the result that the person saw.
            why: what the person says about it.

        Raises:
            Changed: the row has another result by now.
            SettingsError: the row is not corrected, or no model has answered it.
        """
        return await self._decide(Decision(position, seen, None, self._who, why))

    async def label(self, golds: Sequence[Gold]) -> Decided:
        """Record hand labels of rows of the sample; `who` and `origin` are filled in if they are empty.

        Labels that were read in a file keep an empty `who`: anybody may have written them.

        Raises:
            SettingsError: there is no such row in the sample.
        """
        golds = [each._replace(origin=each.origin or REVIEW) for each in golds]
        golds = [each._replace(who=self._who) if each.origin == REVIEW and not each.who else each for each in golds]
        known = {each.id for each in await asyncio.to_thread(self._looked, SampleReader.drawn)}
        if (other := next((each.drawn for each in golds if each.drawn not in known), None)) is not None:
            raise SettingsError(f"the sample has no row {other}")

        def write(pen: Pen) -> None:
            pen.label(golds)

        values = {"golds": [[each.drawn, each.text, each.origin, 0.0, each.who, each.note] for each in golds]}
        return await self._brought("label", values, write)

    async def finish(self) -> str:
        """Write the files that corrections have changed: chunk files, then the result; return what it did.

        Raises:
            KeywordBusy: a run is at work; it writes them itself when it ends.
            OutputError: a file cannot be read or written.
        """
        async with self._turn:
            return await asyncio.to_thread(self._finish)

    def pending(self) -> int:
        """Count the rows corrected on the page whose chunk files do not have that yet."""
        return self._looked(Reader.behind)

    def _looked(self, read: Callable[[SampleReader], T]) -> T:
        """Return what a reader finds; another page may write just now."""
        for is_last in (*[False] * _LOOKS, True):
            try:
                with read_kind(self._store.journal_path, SampleReader) as journal:
                    return read(journal)
            except OutputError:
                if is_last:
                    raise
                time.sleep(_LOOK_S)
        raise AssertionError

    def _finish(self) -> str:
        try:
            pen = open_to_decide(self._store.journal_path)
        except KeywordBusy:
            if self._run_at_work() is None:
                raise
            said = f"a run of {self._store.keyword!r} is at work: it writes the files itself when it ends"
            raise KeywordBusy(said) from None
        with pen:
            if not pen.is_reviewed():
                return "No row was corrected: the files stay as they are."
            said = follow(self._store, pen)
            is_whole = pen.left() == 0
        if is_whole:
            path = merge(self._store.keyword, self._store.directory)
            return f"{said} {path} is up to date.".strip()
        return f"{said} Rows are left: the run that asks them writes the result.".strip()

    async def _decide(self, decision: Decision) -> Decided:
        try:
            return await self._brought("decide", decision._asdict(), lambda pen: pen.decide(decision))
        except Overtaken as error:
            said = f"row {decision.position:,} has another answer by now: look at it again"
            raise Changed(said, decision.position, error.result) from None

    async def _brought(self, verb: str, values: Mapping[str, Any], write: Callable[[Pen], int | None]) -> Decided:
        """Write a decision under the lock, or let the run at work write it; whichever is there.

        Raises:
            KeywordBusy: neither is possible for a while.
            Overtaken, SettingsError: it is not possible at all.
        """
        async with self._turn:
            until = time.monotonic() + self._patience_s
            asked: Wish | None = None
            while True:
                try:
                    return await asyncio.to_thread(self._written, write, asked)
                except KeywordBusy as error:
                    busy = error
                if asked and (answer := await asyncio.to_thread(self._answer, asked)):
                    return _of_run(answer)  # the run that was asked has taken it, and another one is at work now
                last = await asyncio.to_thread(self._run_at_work)
                if last is not None:
                    asked = Wish(uuid.uuid4().hex, last.id, verb, values)
                    if answer := await self._answered(last, asked, until):
                        return _of_run(answer)
                if time.monotonic() > until:
                    raise KeywordBusy(_why_busy(self._store, busy))
                await asyncio.sleep(_LOOK_S)

    def _written(self, write: Callable[[Pen], int | None], asked: Wish | None) -> Decided:
        """Write a decision under the lock, unless a run that was asked for it, and is over, has done so."""
        with open_to_decide(self._store.journal_path) as pen:
            if asked and (done := pen.done_by(asked.run, asked.id)) is not None:
                return _of_run(ByHand(0.0, DECIDED, asked.id, done))
            return Decided(write(pen), "journal", "written into the journal")

    def _run_at_work(self) -> LastRun | None:
        """Return the run that is at work; None if there is none, or it is being planned."""
        with contextlib.suppress(OutputError), read_kind(self._store.journal_path, Reader) as journal:
            last = journal.last_run()
            if last is not None and is_at_work(self._store.journal_path, last):
                return last
        return None

    async def _answered(self, last: LastRun, wish: Wish, until: float) -> ByHand | None:
        """Ask a run, and return its answer; None if it is over, or does not answer in time."""
        file = ControlFile(self._store.control_path)
        try:
            while time.monotonic() <= until:
                await asyncio.to_thread(file.add, wish)  # another one may have written over it
                await asyncio.sleep(_LOOK_S)
                if answer := await asyncio.to_thread(self._answer, wish):
                    return answer
                if await asyncio.to_thread(is_at_work, self._store.journal_path, last) is False:
                    break
        finally:
            file.withdraw(wish)
        return await asyncio.to_thread(self._answer, wish)

    def _answer(self, wish: Wish) -> ByHand | None:
        found = self._looked(lambda journal: journal.by_hand(wish.run, _ANSWERS))
        return next((each for each in found if each.request == wish.id), None)


def _of_run(answer: ByHand) -> Decided:
    """Return what a run's answer to a decision says.

    Raises:
        Overtaken, SettingsError: it refused.
    """
    if answer.kind == REFUSED_BY_HAND:
        raise SettingsError(answer.said)
    number = int(answer.said) if answer.said else None
    if answer.kind == OVERTAKEN:
        raise Overtaken(number)
    return Decided(number, "run", "the run at work has recorded it")


def _why_busy(store: Store, error: KeywordBusy) -> str:
    holder = holder_of(store.journal_path)
    if holder and holder.work is Work.PLANS:
        return f"a run of {store.keyword!r} is being planned by {holder.process}: decide again when it sends"
    if holder and holder.work is Work.RUNS:
        return f"the run of {store.keyword!r} does not answer ({holder.process}): decide again"
    return str(error)


def _check_is_chat(last: LastRun) -> None:
    """Refuse to correct vectors.

    Raises:
        SettingsError: the answers are vectors.
    """
    if last.question.get("task") == Task.EMBEDDING:
        raise SettingsError("the answers of this run are vectors, which cannot be corrected by hand")


def _fitting(result: Result, last: LastRun) -> Result:
    """Return a person's answer as the run's own would be written.

    Raises:
        SettingsError: it is no label of the run, or does not fit its schema.
    """
    shape = last.question.get("shape")
    if result.status is not Status.OK or shape is None:
        return result
    made: Shape = shape_of_recorded(shape)
    labels = getattr(made, "names", ())
    if result.answer in labels:
        return result
    read = made.read(result.answer)
    if labels or read.status is not Status.OK:
        what = f"{result.answer!r} is none of the {counted(len(labels), 'label')}" if labels else read.error
        raise SettingsError(f"{what}: the row stays as it is")
    return result
