"""Hands out the rows that a run has to ask, and reads the input as rows are taken.

Invariant: each row is handed out once, in input order but for a few that bear witness. Memory holds the rows that may
be asked at once, those up to the farthest witness, and the rest of their chunks, but no more.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batcher.engine.chunks import Chunks, OpenChunk
from batcher.engine.planned_input import PlannedInput
from batcher.engine.stop import to_the_end
from batcher.journal.writing import Journal
from batcher.records import Message, RowState, Values

# The most rows that one call of the reading thread brings: with small chunks, one call reads several.
_ROWS_AT_ONCE = 500
# The most characters of rows in memory beyond which no further row is read to bear witness.
_WITNESS_CHARACTERS = 16_000_000


class Row(NamedTuple):
    """A row to be asked.

    Attributes:
        position: in the input, from 0.
        key: of its question.
        messages: its question.
        chunk: the chunk that it belongs to.
        followers: the number of rows that ask the same and get its answer (`--dedup`).
    """

    position: int
    key: bytes
    messages: list[Message]
    chunk: OpenChunk
    followers: int


class _Read(NamedTuple):
    """A row that has been read and has no result yet."""

    position: int
    values: Values
    state: RowState
    chunk: OpenChunk


class Feed:
    """Hands out the rows that have no result, and the chunks that lack only their file.

    Args:
        planned_input: what to read.
        journal: says which rows have a result.
        chunks: opens a chunk for each part of the input.
        most_rows: how many rows may be asked at once.

    Attributes:
        is_read: the input was read to its end.
    """

    def __init__(self, planned_input: PlannedInput, journal: Journal, chunks: Chunks, most_rows: int) -> None:
        self.is_read = False
        self._input = planned_input
        self._journal = journal
        self._chunks = chunks
        self._most_rows = most_rows
        self._loop = asyncio.get_running_loop()
        self._parts = self._read()
        self._ready: collections.deque[_Read | OpenChunk] = collections.deque()
        self._reading = asyncio.Lock()
        self._is_closed = False
        # For each row that is asked in place of others: the chunks of those others, as far as they are read.
        self._led: dict[int, list[OpenChunk]] = {}
        self._led_rows = 0
        self._led_changed = asyncio.Event()

    def allow(self, rows: int) -> None:
        """Let this many rows be asked at once."""
        self._most_rows = rows
        self._led_changed.set()

    def close(self) -> None:
        """Read no further: the run is stopping."""
        self._is_closed = True
        self._led_changed.set()

    async def next(self) -> Row | OpenChunk | None:
        """Return a row that has no result, or a chunk that lacks only its file; None at the end of the input.

        The input is read in a thread: a long stretch of finished chunks does not hold up the loop.

        Raises:
            InputError: it cannot be read, or was changed.
        """
        if (plain := self._plain_row()) is not None:
            return self._row(plain)
        while True:
            async with self._reading:
                while not self._ready:
                    if not await self._read_on():
                        return None
                item = self._ready.popleft()
            if isinstance(item, OpenChunk):
                return item
            if item.state.leader is None:
                return self._row(item)
            # Without the lock: the leader may wait for a witness.
            if await self._completes_its_chunk(item, item.state.leader):
                return item.chunk

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
                    return self._row(item)
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
        chunks = [row.chunk, *self._led.pop(row.position, [])]
        self._led_rows -= len(chunks) - 1
        self._led_changed.set()
        finished = []
        for chunk in chunks:
            chunk.pending -= 1
            if not chunk.pending:
                finished.append(chunk)
        return finished

    def _plain_row(self) -> _Read | None:
        """Take the next row without the lock if it only has to be asked: the lock admits one task a loop turn."""
        if self._ready and isinstance(row := self._ready[0], _Read) and row.state.leader is None:
            self._ready.popleft()
            return row
        return None

    def _row(self, read: _Read) -> Row:
        position, values, state, chunk = read
        if state.followers:
            self._led[position] = []
        return Row(position, state.key, self._input.messages(position, values, state.key), chunk, state.followers)

    async def _completes_its_chunk(self, row: _Read, leader: int) -> bool:
        """Let a row wait for the one that is asked in its place; return whether that completes its chunk."""
        self._input.messages(row.position, row.values, row.state.key)
        # Waiting rows count as asked rows: otherwise their chunks would fill the memory behind one slow answer.
        while self._led_rows >= self._most_rows and leader in self._led and not self._is_closed:
            self._led_changed.clear()
            await self._led_changed.wait()
        if leader in self._led:
            self._led[leader].append(row.chunk)
            self._led_rows += 1
            return False
        # The leader comes before this row. It is no longer being asked, so both rows have their result.
        row.chunk.pending -= 1
        return not row.chunk.pending

    async def _read_on(self) -> bool:
        """Read the next chunks; return False at the end of the input."""
        if self._is_closed:
            return False
        read = await to_the_end(self._loop.run_in_executor(None, self._next_parts))
        self._ready += read
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
            chunk = self._chunks.open(start, rows, states)
            yield self._part(chunk, rows, states) if chunk else []
        if end != self._input.rows:
            raise self._input.changed(end)
        self.is_read = True

    def _part(self, chunk: OpenChunk, rows: Sequence[Values], states: Sequence[RowState]) -> list[_Read | OpenChunk]:
        """Return the work in a chunk."""
        self._input.check(chunk.start, rows)
        part: list[_Read | OpenChunk] = []
        for position, (values, state) in enumerate(zip(rows, states, strict=True), chunk.start):
            if state.result is None:
                part.append(_Read(position, values, state, chunk))
            else:  # the file will hold the present cells of this row beside its answer
                self._input.messages(position, values, state.key)
        return part if chunk.pending else [chunk]
