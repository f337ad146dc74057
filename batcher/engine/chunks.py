"""The chunk files of a run: open chunks, written files, and the result that is joined from them.

Invariant: a file is written when the journal has the result of each of its rows, and says what the journal says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from batcher.engine.planned_input import PlannedInput
from batcher.engine.progress import Progress
from batcher.engine.stop import to_the_end
from batcher.errors import OutputError
from batcher.input.marks import Marks
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.writing import Journal
from batcher.output.changed import OfJournal
from batcher.output.directory import came_back, result_changed
from batcher.output.edited import UnfitError, message
from batcher.output.following import Following
from batcher.output.responses import lines_of_chunks
from batcher.output.so_far import recorded_with, with_by
from batcher.planning.job import Job, chunks_of
from batcher.planning.plan import Plan
from batcher.records import RowState, Values
from batcher.words import counted, verb


class OpenChunk:
    """A chunk whose file is still to be written.

    Attributes:
        start: the position of its first row.
        lines: the input's part of each line of its file.
        pending: its rows that have no result yet.
    """

    __slots__ = ("lines", "pending", "start")

    def __init__(self, start: int, lines: Sequence[str], pending: int) -> None:
        self.start = start
        self.lines = lines
        self.pending = pending

    @property
    def stop(self) -> int:
        return self.start + len(self.lines)


class Chunks:
    """Opens the chunks as the input is read, writes the file of each, and joins them.

    Args:
        job: with the output directory.
        journal: with the results.
        planned: tells which files are unchanged since they were written.
        planned_input: is compared once more before the files are joined.
        progress: tells people of files that were changed by hand.
    """

    def __init__(
        self, job: Job, journal: Journal, planned: Plan, planned_input: PlannedInput, progress: Progress
    ) -> None:
        self._job = job
        self._store = job.store
        self._journal = journal
        self._input = planned_input
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._written = journal.chunks()
        self._intact = planned.intact
        self._by_hand = planned.by_hand
        self._starts: list[int] = []
        self._stale: set[int] = set()  # rows whose files do not say that a person gave the answer
        self._unwritten = 0

    @property
    def are_written(self) -> bool:
        """Whether every chunk that was opened has its file."""
        return not self._unwritten

    def open(self, start: int, rows: Sequence[Values], states: Sequence[RowState]) -> OpenChunk | None:
        """Open the next chunk of the input; return None if its file is complete already. Runs in a thread."""
        chunk = OpenChunk(start, self._store.lines(rows), sum(state.result is None for state in states))
        self._starts.append(start)
        if not chunk.pending and self._is_written(chunk, states):
            return None
        self._unwritten += 1
        return chunk

    def leave(self, start: int) -> None:
        """Leave the next chunk of the input without a file: rows of it have no result, and get none now."""
        self._starts.append(start)
        self._unwritten += 1

    def _is_written(self, chunk: OpenChunk, states: Sequence[RowState]) -> bool:
        """Return whether the chunk's file holds the journal's results."""
        written = self._written.get(chunk.start)
        if written is None or written.origin != self._store.origin(chunk.lines, states):
            return False
        return chunk.start in self._intact

    async def write(self, chunk: OpenChunk) -> None:
        """Write a chunk's file from the journal, and record that in the journal, before and after."""
        await self._finish(self._write(chunk))

    async def join(self) -> None:
        """Remove the chunk files that are no longer part of the result, and join the others.

        Raises:
            InputError: the input was changed meanwhile.
            OutputError: a chunk file was changed meanwhile and no longer fits the input, or is gone.
        """
        await self._finish(self._join())

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish the work even if cancelled: its thread goes on anyway, and must not outlive the run."""
        await to_the_end(self._loop.create_task(work))

    async def _write(self, chunk: OpenChunk) -> None:
        if chunk.start not in self._written:
            await self._journal.chunk_begun(chunk.start)
        record, copy = await self._loop.run_in_executor(None, self._write_file, chunk)
        await self._journal.chunk_written(chunk.start, record)
        self._written[chunk.start] = record
        self._unwritten -= 1
        self._report_copy(chunk.start, copy)

    def _write_file(self, chunk: OpenChunk) -> tuple[Chunk, Path | None]:
        """Do the blocking part of `_write`; runs in a thread."""
        states = self._journal.states(chunk.start, chunk.stop)
        results = self._journal.results(chunk.start, chunk.stop)
        written = self._written.get(chunk.start)
        beside = self._journal.beside(chunk.start, chunk.stop, self._store.answer_columns.extras)
        self._journal.check_in_place()  # the directory may be gone or replaced
        known = written and written.sha256
        sha256, copy = self._store.write_chunk(chunk.start, chunk.lines, results, known, beside)
        others = self._store.remove_other_format(chunk.start, {known})
        return Chunk(len(results), self._store.origin(chunk.lines, states), sha256), next(iter(others), copy)

    async def _join(self) -> None:
        self._journal.check_in_place()
        for start in (self._written.keys() | self._store.starts()) - set(self._starts):
            written = self._written.get(start)
            self._report_copy(start, self._store.remove_chunk(start, written and written.sha256))
            await self._journal.chunk_removed(start)
        for said in await self._loop.run_in_executor(None, self._join_files):
            self._progress.say(said)

    def _join_files(self) -> list[str]:
        """Join the chunk files, if they and the input are unchanged; return what people are told. Runs in a thread."""
        said = [*self._read_changed_files(), *self._follow()]
        self._input.check_all()
        name = self._store.all_path.name

        def record(sha256: bytes) -> None:
            self._wait_for(self._journal.joining(name, sha256))

        _, copy = self._store.join(self._starts, known=self._journal.joined(name), record=record)
        if self._job.settings.requests and (last := self._journal.last_run()):
            said += self._join_responses(last)
        copies = [*([copy] if copy else []), *self._store.remove_other_results(self._journal.joined)]
        copies += self._join_vectors()
        if self._journal.decided:
            rows = counted(len(self._journal.decided), "row was", "rows were")
            said.append(f"{rows} corrected while the result was written: {verb('merge')} puts that into the files.")
        for start in self._starts:  # left by a process that was killed while it wrote another format
            said += [f"A chunk file of another format was left, and is kept as {each}." for each in self._left(start)]
        return [*said, *(result_changed(self._store.all_path, each) for each in copies)]

    def _join_responses(self, last: LastRun) -> list[str]:
        """Write the responses to the lines of a requests file; return what people are told."""
        path = self._store.responses_path
        lines = lines_of_chunks(self._store, self._journal, last, self._journal.scope())

        def record(sha256: bytes) -> None:
            self._wait_for(self._journal.joining(path.name, sha256))

        copy = self._store.join_responses(lines, known=self._journal.joined(path.name), record=record)
        return [result_changed(path, copy)] if copy else []

    def _join_vectors(self) -> list[Path]:
        """Write the file of all vectors, if it is wanted; return the copy of the file that was there."""
        name = self._store.npy_path.name
        if not self._job.settings.writes_npy:
            return self._store.remove_vectors(self._journal.joined(name))

        def record(sha256: bytes) -> None:
            self._wait_for(self._journal.joining(name, sha256))

        copy = self._store.join_vectors(self._journal.joined(name), record)
        return [copy] if copy else []

    def _follow(self) -> list[str]:
        """Write the chunk files again that lack what people have decided on the page meanwhile."""
        late, self._journal.decided = self._journal.decided, {}
        decided = self._stale.union(late)
        if not decided or (last := self._journal.last_run()) is None:
            return []
        before, size = self._store, self._job.settings.chunk_size
        self._store, clash = with_by(before, self._journal)
        if self._store is not before:
            self._wait_for(self._journal.files_have(recorded_with(last.question, self._store)))
        chunks = self._journal.chunks()
        following = Following(self._store, self._journal, Marks(self._job.dataset.columns))
        others = set()  # whose cells are not the input's: a file holds no NUL, and no half of a surrogate pair
        for start in self._starts:
            if self._store is before and not decided.intersection(range(start, start + size)):
                continue
            if (done := following.write(start, chunks[start])) is None:
                others.add(start)
            else:
                self._wait_for(self._journal.chunk_written(start, done.chunk))
                self._written[start] = done.chunk
        for start, rows in chunks_of(self._job, others):
            self._unwritten += 1
            self._wait_for(self._write(OpenChunk(start, self._store.lines(rows), 0)))
        return [clash] if clash else []

    def _left(self, start: int) -> list[Path]:
        return self._store.remove_other_format(start, {self._written[start].sha256})

    def _read_changed_files(self) -> list[str]:
        """Check the files that were changed, and write those that cannot be joined as they are in their own form."""
        store, said = self._store, []
        changed = {start for start in self._starts if store.sha256(start) != self._written[start].sha256}
        for start in sorted(changed):
            if not store.chunk_path(start).exists():
                raise OutputError(
                    f"{store.chunk_path(start)} was removed while the run worked: run it again to write it once more"
                )
        for start, rows in chunks_of(self._job, changed):
            said += self._read_changed(start, rows)
        return said

    def _read_changed(self, start: int, rows: Sequence[Values]) -> list[str]:
        """Record the corrections in a file that was changed while the run worked; return what people are told."""
        store, stop, path = self._store, start + len(rows), self._store.chunk_path(start)
        ours = OfJournal.read(self._journal, store.answer_columns, start, self._journal.chunks()[start])
        try:
            edited = store.read_edited(start, rows, ours.in_file)
        except UnfitError as error:
            if error.is_cell:
                raise OutputError(message(path, error)) from error
            raise OutputError(
                f"{path} was changed while the run worked, and is damaged: {error}; move it away, and the next run"
                " writes it again from the journal"
            ) from error
        corrections = ours.corrections(store.answer_columns, edited.lines, path.name)
        self._wait_for(self._journal.corrected_by_hand(corrections))
        if "by" in store.answer_columns.extras:  # the file does not say that the answer is a person's
            self._stale.update(each.position for each in corrections)
        copy = store.write_edited(start, edited.lines, rows=rows) if edited.how else None
        origin = store.origin(store.lines(rows), self._journal.states(start, stop))
        written = Chunk(len(rows), origin, store.sha256(start) or b"")
        self._wait_for(self._journal.chunk_written(start, written))
        self._written[start] = written
        said = came_back(path, edited.how, edited.corrections)
        return [f"{said}; your version is kept as {copy}."] if copy else []

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the loop do what a thread needs done."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _report_copy(self, start: int, copy: Path | None) -> None:
        if copy is None:
            return
        if said := self._by_hand.came_back.get(start):
            self._progress.say(f"{said}; your version is kept as {copy}.")
        elif self._store.chunk_path(start) in self._by_hand.kept:
            self._progress.say(f"A copy of a chunk file with answers by hand of rows that are asked again: {copy}.")
        else:
            self._progress.say(
                f"A chunk file was changed by hand and had to be written again: your version is kept as {copy}, and its"
                " corrections are not in the result."
            )
