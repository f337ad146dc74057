"""What the page knows of its run: readers of the journal, the index, the table, and who is told of changes.

Invariant: nothing here blocks the loop: what reads files works in a thread. The index and the table are replaced as a
whole when another plan is in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from batcher.answer.gold import Golds
from batcher.answer.shape import Shape, shape_of_recorded
from batcher.errors import BatcherError, OutputError
from batcher.input.dataset import Dataset
from batcher.journal.entries import LastRun
from batcher.journal.locking import is_at_work
from batcher.journal.looking import Looks, RowReader
from batcher.output.directory import Store
from batcher.output.hand_labels import HandLabels
from batcher.output.so_far import input_of, with_columns
from batcher.records import Task
from batcher.reviewing.deciding import Decisions
from batcher.reviewing.desk import Desk
from batcher.reviewing.filters import disagrees
from batcher.reviewing.index import Index, Sampled
from batcher.reviewing.live import Live
from batcher.reviewing.prompts import Prompts
from batcher.reviewing.search import Searches
from batcher.reviewing.sides import Sides
from batcher.reviewing.table import Table
from batcher.reviewing.way import Way
from batcher.words import say

T = TypeVar("T")

_LATE_S = 60.0  # before an end is written, its moment may be this old
_LOOK_S = 1.5  # between two looks at what another process has written
_MOST_WAITING = 5000  # events of a tab that does not read them
_MOST_BY_NAME = 1000  # changed rows whose positions other tabs are told


class View:
    """The plan that the page shows: its question, and what was read of its rows.

    Args:
        store: the files.
        last: the run.
        rows: of the plan.
        looks: at the journal.
        data: the input, if the user gave it.
        stops: says when the page ends.
    """

    def __init__(
        self,
        store: Store,
        last: LastRun,
        rows: int,
        looks: Looks,
        *,
        data: Dataset | None,
        stops: Callable[[], bool],
    ) -> None:
        self.last = last
        self.question: Mapping[str, Any] = last.question
        recorded = last.question.get("shape")
        self.shape: Shape | None = None if recorded is None else shape_of_recorded(recorded)
        self.golds = Golds(self.shape)
        self.way = Way()
        self._has_ended = threading.Event()
        self._page_ends = stops
        self._looks = looks
        self.store = looks.look(lambda journal: with_columns(store, journal.chunks(), last.question))
        is_vector = last.question.get("task") == Task.EMBEDDING
        self.index = Index(rows, self.shape, is_vector=is_vector)
        self.table = Table(self.store, looks, last, rows, data)
        self.searches = Searches(self.table, looks, self.stops)
        self.gold_seen: tuple[int, int, int] = (0, 0, 0)
        self.trouble = ""
        self.prompts: Prompts | None = None
        self._drawn_at: dict[int, int] = {}
        self._threads = [
            threading.Thread(target=work, name=f"batcher-review-{name}", daemon=True)
            for name, work in (("index", self._build), ("table", self._copy), ("search", self.searches.work))
        ]
        self.indexed = threading.Event()

    def begin(self) -> None:
        for each in self._threads:
            each.start()

    def stops(self) -> bool:
        return self._has_ended.is_set() or self._page_ends()

    def _stops_now(self) -> bool:
        """Let the page's requests go first, then return whether to stop."""
        self.way.give()
        return self.stops()

    def end(self) -> None:
        """End its threads, and remove the copy of the table."""
        self._has_ended.set()
        for each in self._threads:
            if each.ident is not None:
                each.join()
        self.table.close()

    def _copy(self) -> None:
        try:
            self.table.copy(self._wait_for_index, self._stops_now)
        except BatcherError as error:
            self.table.give_up(str(error))

    def _wait_for_index(self) -> None:
        """Let the index be made first: filters need it, and both would take longer side by side."""
        while not self.indexed.wait(_LOOK_S) and not self.stops():
            continue

    def _build(self) -> None:
        while not self.stops():
            try:
                # One reader for all of it: a run may write meanwhile, and `follow` brings what it wrote.
                with self._looks.reader() as (journal, _):
                    sampled = self.sampled(journal)
                    if self.index.build(journal, sampled, self._stops_now):
                        self.trouble = ""
                        self.indexed.set()
                        return
            except BatcherError as error:
                self.trouble = str(error)
                self._has_ended.wait(_LOOK_S)

    def sampled(self, journal: RowReader) -> Sampled:
        """Return the rows of the sample, and those that people have labelled otherwise than the model."""
        self.gold_seen = journal.latest().gold
        drawn = journal.drawn()
        if not drawn:
            return Sampled()
        places = HandLabels(self.store, journal, self.last).places(drawn)
        self._drawn_at = {row.position: number for number, row in places.items()}
        gold = journal.gold()
        disagreeing = [
            row.position
            for number, row in places.items()
            if number in gold and disagrees(self.golds, gold[number].text, row.label)
        ]
        return Sampled([row.position for row in places.values()], disagreeing)

    def drawn_at(self, position: int) -> int | None:
        """Return which row of the sample a row is, as `drawn.id`; None if it is none."""
        return self._drawn_at.get(position)

    def follow(self, journal: RowReader) -> set[int]:
        """Read the rows again that have changed since the index was made; return their positions."""
        index, before = self.index, self.index.latest
        if before is None:
            return set()
        now = journal.latest()
        positions: set[int] = set()
        if now.request > before.request or index.requests.open:
            positions |= index.requests.append(journal.each_request(index.requests.last))
            positions |= journal.positions_of(sorted(index.requests.open))
            first = min([*index.requests.open, before.request + 1])
            index.requests.open = set(journal.open_requests(now.run, first))
            positions = journal.with_followers(positions)
        if now.line > before.line:
            # An end may be written a while after its moment.
            positions |= journal.with_followers(journal.positions_of_lines(before.line - _LATE_S))
        if now.made < before.made:
            positions.update(journal.positions_below(before.made))
        self.renew(journal, positions)
        if now.gold != self.gold_seen:
            index.mark(self.sampled(journal))
        index.latest = now
        return positions

    def renew(self, journal: RowReader, positions: Iterable[int]) -> None:
        """Read some rows again."""
        positions = [*positions]
        self.index.renew(journal, positions)
        self.searches.renew(positions)


class Page:
    """The page that is served.

    Args:
        store: the files of the run.
        who: the name of the person.
        data: the input, if the user gave it.

    Attributes:
        store: the files, with the columns of the run.
        who: the same.
        looks: at the journal.
        view: what it shows.
        decisions: bring into the journal what people decide.
        desk: shows the sample, and takes labels.
        live: tells of the run as it works.
        sides: show the rows that another run answers differently.
    """

    def __init__(self, store: Store, who: str, data: Any = None) -> None:
        self.who = who
        self.looks = Looks(store.journal_path)
        self._store = store
        self._given = data
        self._ending = threading.Event()
        self._listeners: set[asyncio.Queue[tuple[str, Any]]] = set()
        self._stamp: object = None
        self.decisions = Decisions(store, who)
        self.view = self._made()
        self.desk = Desk(store, self.looks, self.decisions, tell=self.tell, data=data)
        self.live = Live(store, self.looks, self.listening, self.tell)
        self.sides = Sides(store, self.looks, self._cells)

    @property
    def store(self) -> Store:
        return self.view.store

    def _cells(self, positions: Sequence[int]) -> Mapping[int, Sequence[str]]:
        return self.view.table.at(positions)  # the view may be another one by then

    def _made(self) -> View:
        last, rows = self.looks.look(lambda journal: (_last(journal), journal.scope()))
        dataset = None if self._given is None else input_of(last.question, self._given)
        return View(self._store, last, rows, self.looks, data=dataset, stops=self._ending.is_set)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Read and follow the journal during the block."""
        self.view.begin()
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            self._ending.set()
            if said := await self.desk.close():
                say(said, "warning")
            await asyncio.to_thread(self.sides.close)
            await asyncio.to_thread(self.view.end)
            self.looks.close()

    # -- Reading

    async def read(self, work: Callable[[RowReader], T]) -> T:
        """Return what some work finds in the journal; it runs in a thread, with a reader of its own.

        Raises:
            OutputError: the journal cannot be read.
        """
        return await asyncio.to_thread(self.looks.look, work)

    async def is_at_work(self) -> bool:
        """Return whether a run is at work now."""
        return bool(await self.read(lambda journal: is_at_work(self._store.journal_path, _last(journal))))

    # -- Telling

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[tuple[str, Any]]]:
        """Yield a queue that gets each (event, value) from now on, for the block: see `tell`."""
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def tell(self, event: str, value: Any) -> None:
        """Tell all open pages of a change: `row` {position}, `sample` {drawn}, `plan` {}.

        One that has not listened for long is told to load everything again.
        """
        for each in self._listeners:
            if each.qsize() >= _MOST_WAITING:
                while not each.empty():
                    each.get_nowait()
                each.put_nowait(("plan", {}))
            each.put_nowait((event, value))

    async def decided(self, positions: Sequence[int] = (), drawn: Sequence[int] = ()) -> None:
        """Take what this page has decided into the index, and tell the others."""
        await self.read(lambda journal: self._take(journal, positions, is_sample=bool(drawn)))
        for position in positions:
            self.tell("row", {"position": position})
        for number in drawn:
            self.tell("sample", {"drawn": number})

    def _take(self, journal: RowReader, positions: Sequence[int], *, is_sample: bool) -> None:
        self.view.renew(journal, positions)
        if is_sample:
            self.view.index.mark(self.view.sampled(journal))

    async def _follow(self) -> None:
        """Follow what other processes write."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(BatcherError):  # it is written just now, or gone: the next look says more
                await self.follow()

    async def follow(self) -> None:
        """Look once at what other processes have written.

        Raises:
            OutputError: the journal cannot be read.
        """
        stamp = self.looks.stamp()
        if stamp == self._stamp or not self.view.indexed.is_set():
            return
        last, rows, changed = await self.read(self._changes)
        if last.id != self.view.last.id or rows != self.view.index.rows:
            await self._show_another()
        for position in sorted(changed)[:_MOST_BY_NAME]:
            self.tell("row", {"position": position})
        self._stamp = stamp

    def _changes(self, journal: RowReader) -> tuple[LastRun, int, set[int]]:
        last, rows = _last(journal), journal.scope()
        is_same = last.id == self.view.last.id and rows == self.view.index.rows
        return last, rows, self.view.follow(journal) if is_same else set()

    async def _show_another(self) -> None:
        """Show another plan; the list says how far it is read."""
        view = await asyncio.to_thread(self._made)
        view.begin()
        old, self.view = self.view, view
        await asyncio.to_thread(old.end)
        self.tell("plan", {})


def _last(journal: RowReader) -> LastRun:
    last = journal.last_run()
    if last is None:
        raise OutputError(f"{journal.path} holds no run yet")
    return last
