"""Hands out the rows that a run has to ask, and reads the input as rows are taken.

Invariant: each row is handed out once, in input order but for a few that bear witness. Memory holds the rows that may
be asked at once, those up to the farthest witness, and the rest of their chunks, but no more.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from batcher.calls.batches import Filling, Size
from batcher.engine.chunks import Chunks, OpenChunk
from batcher.engine.planned_input import PlannedInput
from batcher.engine.stop import to_the_end
from batcher.journal.writing import Journal
from batcher.records import Question, RowState, Values

# The most rows that one call of the reading thread brings: with small chunks, one call reads several.
_ROWS_AT_ONCE = 500
# The most characters of rows in memory beyond which no further row is read to bear witness.
_WITNESS_CHARACTERS = 16_000_000


class Row(NamedTuple):
    """A row to be asked.

    Attributes:
        position: in the input, from 0.
        key: of its question.
        question: what it asks.
        chunk: the chunk that it belongs to; None of a row that is asked before its turn.
        followers: the number of rows that ask the same and get its answer (`--dedup`).
    """

    position: int
    key: bytes
    question: Question
    chunk: OpenChunk | None
    followers: int


class _Read(NamedTuple):
    """A row that has been read and has no result yet."""

    position: int
    values: Values
    state: RowState
    chunk: OpenChunk


Skips = Callable[[int, RowState], bool]
"""Says of a row without a result, by its position and its state, whether it is left as it is."""


class Feed:
    """Hands out the rows that have no result, and the chunks that lack only their file.

    Args:
        planned_input: what to read.
        journal: says which rows have a result.
        chunks: opens a chunk for each part of the input.
        most_rows: how many rows may be asked at once.
        skips: returns whether a row without a result is left as it is, and its chunk open; None: no row is.

    Attributes:
        is_read: the input was read to its end.
    """

    def __init__(
        self,
        planned_input: PlannedInput,
        journal: Journal,
        chunks: Chunks,
        most_rows: int,
        skips: Skips | None = None,
    ) -> None:
        self.is_read = False
        self._skips = skips
        # The rows that were handed out, and left as they are: those that wait for their result do so, too.
        self._left: set[int] = set()
        self._input = planned_input
        self._journal = journal
        self._chunks = chunks
        self._most_rows = most_rows
        self._loop = asyncio.get_running_loop()
        self._parts = self._read()
        self._ready: collections.deque[_Read | OpenChunk] = collections.deque()
        # Rows that were taken to fill a request, and did not fit.
        self._set_aside: collections.deque[Row] = collections.deque()
        self._filling = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._is_closed = False
        # For each row that is asked in place of others: the chunks of those others, as far as they are read.
        self._led: dict[int, list[OpenChunk]] = {}
        self._led_rows = 0
        self._led_changed = asyncio.Event()
        # The rows that are asked before their turn, until they have their result: the chunk of each, once it is read.
        self._early: dict[int, OpenChunk | None] = {}
        # Those of them that got their result before their chunk came.
        self._early_ended: set[int] = set()

    def allow(self, rows: int) -> None:
        """Let this many rows be asked at once."""
        self._most_rows = rows
        self._led_changed.set()

    def close(self) -> None:
        """Read no further: the run is stopping."""
        self._is_closed = True
        self._led_changed.set()

    def at_hand(self) -> Row | None:
        """Return a row that has no result, if one is read and its question takes no time; else `next` returns it.

        Raises:
            InputError: the input was changed.
        """
        if self._input.reads_files or self._set_aside or (plain := self._plain_row()) is None:
            return None
        self._lead(plain)
        return _asking(plain, self._input.question(plain.position, plain.values, plain.state.key))

    async def next(self) -> Row | OpenChunk | None:
        """Return a row that has no result, or a chunk that lacks only its file; None at the end of the input.

        The input is read in a thread: a long stretch of finished chunks does not hold up the loop.

        Raises:
            InputError: it cannot be read, or was changed.
        """
        if self._set_aside:
            return self._set_aside.popleft()
        if (plain := self._plain_row()) is not None:
            return await self._row(plain)
        while True:
            async with self._reading:
                while not self._ready:
                    if not await self._read_on():
                        return None
                item = self._ready.popleft()
            if isinstance(item, OpenChunk):
                return item
            if item.state.leader is None:
                return await self._row(item)
            # Without the lock: the leader may wait for a witness.
            if await self._completes_its_chunk(item, item.state.leader):
                return item.chunk

    async def next_few(self, size: Size) -> list[Row] | OpenChunk | None:
        """Return rows that may share a request, or what `next` returns if the next item is no row that can be asked.

        Args:
            size: the most that the request may hold. It is filled as far as there are rows, one request after the
                other, so that a table makes as few requests as it can.
        """
        async with self._filling:
            item = await self.next()
            if not isinstance(item, Row):
                return item
            rows, filling = [item], Filling(size)
            if item.question.fault or not filling.takes(item.question.messages):
                return rows
            while not filling.is_full and (plain := await self._next_plain()) is not None:
                row = await self._row(plain)
                if not row.question.fault and filling.takes(row.question.messages):
                    rows.append(row)
                    continue
                self._set_aside.append(row)
                if not row.question.fault:
                    break
            return rows

    async def _next_plain(self) -> _Read | None:
        """Return the next row that only has to be asked; None if something else comes before it, or the input ends."""
        while True:
            async with self._reading:
                while not self._ready:
                    if not await self._read_on():
                        return None
                item = self._ready[0]
                if isinstance(item, OpenChunk):
                    return None
                leader = item.state.leader
                if leader is None:
                    return self._plain_row()
                if leader not in self._led or self._led_rows >= self._most_rows:
                    return None
                self._ready.popleft()
                self._input.question(item.position, item.values, item.state.key)
                self._led[leader].append(item.chunk)
                self._led_rows += 1

    async def early(self, positions: Sequence[int]) -> list[Row]:
        """Return rows before their turn, to be asked first: those of these positions that have no result.

        Raises:
            InputError: the input cannot be read, or was changed.
        """
        rows = await to_the_end(self._loop.run_in_executor(None, self._read_early, positions))
        self._early = dict.fromkeys((row.position for row in rows), None)
        self._led |= {row.position: [] for row in rows if row.followers}
        return rows

    def _read_early(self, positions: Sequence[int]) -> list[Row]:
        """Read the input as far as needed; runs in a thread."""
        states = zip(positions, self._journal.states_at(positions), strict=True)
        wanted = {
            position: state
            for position, state in states
            if state.result is None and state.leader is None and not (self._skips and self._skips(position, state))
        }
        rows: list[Row] = []
        for start, values in self._input.chunks() if wanted else ():
            for position in range(start, start + len(values)):
                if state := wanted.get(position):
                    question = self._input.question(position, values[position - start], state.key)
                    rows.append(Row(position, state.key, question, None, state.followers))
            if self._is_closed or len(rows) == len(wanted):
                break
        return rows

    async def witness(self, ahead: int) -> Row | None:
        """Return a row out of turn, from further on in the input.

        Args:
            ahead: how many rows further on, at most; those before it are handed out later. Long texts, which fill the
                memory, make it fewer.

        Returns:
            The row, or None if there is none.

        Raises:
            InputError: the input cannot be read, or was changed.
        """
        async with self._reading:
            while len(self._ready) < ahead and self._has_room() and await self._read_on():
                pass
            for number in reversed(range(min(ahead, len(self._ready)))):
                item = self._ready[number]
                if isinstance(item, _Read) and item.state.leader is None:
                    del self._ready[number]
                    return await self._row(item)
            return None

    def _has_room(self) -> bool:
        """Return whether the rows that were read ahead leave room for more."""
        rows = (item for item in self._ready if isinstance(item, _Read))
        return sum(len(row.chunk.lines[row.position - row.chunk.start]) for row in rows) < _WITNESS_CHARACTERS

    def holds(self, ahead: int) -> bool:
        """Return whether it has a row that is as far on as that."""
        return len(self._ready) >= ahead or not self.is_read

    def finished_by(self, row: Row) -> list[OpenChunk]:
        """Record that a row and its followers have their result; return the chunks that lack only their file now."""
        led = self._led.pop(row.position, [])
        self._led_rows -= len(led)
        self._led_changed.set()
        own = self._chunk_of_early(row.position) if row.chunk is None else row.chunk
        chunks = [*([own] if own else []), *led]
        finished = []
        for chunk in chunks:
            chunk.pending -= 1
            if not chunk.pending:
                finished.append(chunk)
        return finished

    def leave(self, row: Row) -> None:
        """Record that a row stays without a result, and so do those that wait for it; their chunks stay open."""
        self._left.add(row.position)
        self._led_rows -= len(self._led.pop(row.position, []))
        self._led_changed.set()

    def _chunk_of_early(self, position: int) -> OpenChunk | None:
        """Return the chunk of a row that was asked before its turn, if it is read; the row has its result now."""
        chunk = self._early.pop(position, None)
        if chunk is None:
            self._early_ended.add(position)
        return chunk

    def _without_early(self, read: Iterable[_Read | OpenChunk]) -> Iterator[_Read | OpenChunk]:
        """Take out the rows that were asked before their turn; their chunks wait for those without a result."""
        for item in read:
            if isinstance(item, OpenChunk) or not self._has_taken(item.position):
                yield item
            elif item.position in self._early:
                self._early[item.position] = item.chunk
            else:  # its result came after its state was read
                self._early_ended.discard(item.position)
                item.chunk.pending -= 1
                if not item.chunk.pending:
                    yield item.chunk

    def _has_taken(self, position: int) -> bool:
        """Return whether a row was handed out before its turn."""
        return position in self._early or position in self._early_ended

    def _plain_row(self) -> _Read | None:
        """Take the next row without the lock if it only has to be asked: the lock admits one task a loop turn."""
        if self._ready and isinstance(row := self._ready[0], _Read) and row.state.leader is None:
            self._ready.popleft()
            return row
        return None

    async def _row(self, read: _Read) -> Row:
        """Make a row's question; if that takes a while, in a thread."""
        self._lead(read)
        position, values, state, _ = read
        if not self._input.reads_files:
            return _asking(read, self._input.question(position, values, state.key))
        made = self._loop.run_in_executor(None, self._input.question, position, values, state.key)
        return _asking(read, await to_the_end(made))

    def _lead(self, read: _Read) -> None:
        """Let those that ask the same wait for a row, before its question is made: that may fail, or take a while."""
        if read.state.followers:
            self._led[read.position] = []

    async def _completes_its_chunk(self, row: _Read, leader: int) -> bool:
        """Let a row wait for the one that is asked in its place; return whether that completes its chunk."""
        if not self._input.reads_files:
            self._input.question(row.position, row.values, row.state.key)
        # Waiting rows count as asked rows: otherwise their chunks would fill the memory behind one slow answer.
        while self._led_rows >= self._most_rows and leader in self._led and not self._is_closed:
            self._led_changed.clear()
            await self._led_changed.wait()
        if leader in self._led:
            self._led[leader].append(row.chunk)
            self._led_rows += 1
            return False
        if leader in self._left:
            return False
        # The leader comes before this row. It is no longer being asked, so both rows have their result.
        row.chunk.pending -= 1
        return not row.chunk.pending

    async def _read_on(self) -> bool:
        """Read the next chunks; return False at the end of the input."""
        if self._is_closed:
            return False
        read = await to_the_end(self._loop.run_in_executor(None, self._next_parts))
        # Here and not in the thread: only the loop counts what is pending, once a chunk is open.
        self._ready += self._without_early(read) if self._early or self._early_ended else read
        return bool(read)

    def _next_parts(self) -> list[_Read | OpenChunk]:
        """Return the work in the next chunks; runs in a thread."""
        found: list[_Read | OpenChunk] = []
        for part in self._parts:
            found += part
            if len(found) >= min(self._most_rows, _ROWS_AT_ONCE) or self._is_closed:
                break
        return found

    def _read(self) -> Iterator[list[_Read | OpenChunk]]:
        """Read the input, and yield the work in each chunk; runs in a thread."""
        end = 0
        for start, rows in self._input.chunks():
            end = start + len(rows)
            states = self._journal.states(start, end)
            if len(states) != len(rows):
                raise self._input.changed(start + len(states))
            if self._skips and (skipped := self._skipped(start, states)):
                yield self._part_of(start, rows, states, skipped)
                continue
            chunk = self._chunks.open(start, rows, states)
            yield self._part(chunk, rows, states) if chunk else []
        if end != self._input.rows:
            raise self._input.changed(end)
        self.is_read = True

    def _skipped(self, start: int, states: Sequence[RowState]) -> set[int]:
        """Return the rows of a chunk that are left as they are; a row does as the one that is asked in its place."""
        skips, skipped = self._skips, set()
        for position, state in enumerate(states, start):
            if skips is None or state.result is not None:
                continue
            leader, of_leader = position, state
            if state.leader is not None:
                leader, [of_leader] = state.leader, self._journal.states_at([state.leader])
            if of_leader.result is None and skips(leader, of_leader):
                skipped.add(position)
        return skipped

    def _part_of(
        self, start: int, rows: Sequence[Values], states: Sequence[RowState], skipped: set[int]
    ) -> list[_Read | OpenChunk]:
        """Return the work in a chunk of which rows are left as they are, so that it stays open."""
        if len(skipped) == sum(state.result is None for state in states):
            self._chunks.leave(start)
            return []
        chunk = self._chunks.open(start, rows, states)
        return self._part(chunk, rows, states, skipped) if chunk else []

    def _part(
        self,
        chunk: OpenChunk,
        rows: Sequence[Values],
        states: Sequence[RowState],
        skipped: Collection[int] = (),
    ) -> list[_Read | OpenChunk]:
        """Return the work in a chunk."""
        self._input.check(chunk.start, rows)
        part: list[_Read | OpenChunk] = []
        for position, (values, state) in enumerate(zip(rows, states, strict=True), chunk.start):
            if position in skipped:
                continue
            if state.result is None:
                part.append(_Read(position, values, state, chunk))
            elif not self._input.reads_files:  # the file will hold the present cells of this row beside its answer
                self._input.question(position, values, state.key)
        return part or [chunk]


def _asking(read: _Read, question: Question) -> Row:
    return Row(read.position, read.state.key, question, read.chunk, read.state.followers)
