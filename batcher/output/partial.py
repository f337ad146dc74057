"""`merge --partial`: writes all rows of a run, or of its shards, with the answers that are there so far.

Invariant: each journal is read in one state, also while runs are at work, and what is left out is said.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batcher.errors import OutputError
from batcher.input.dataset import Dataset
from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.journal.reading import Reader
from batcher.output.directory import Store
from batcher.output.file_format import Block
from batcher.output.opening import opened
from batcher.output.responses import lines_of_rows
from batcher.output.shards import begun_shards, unmerged
from batcher.output.so_far import ChunkSoFar, SoFar, facts_of, input_of
from batcher.words import by_reader, counted, say

if TYPE_CHECKING:
    from batcher.input.opening import Data


class _Source(NamedTuple):
    """Where rows come from: a run, or one of its shards.

    Attributes:
        store: its files.
        journal: open, in one state.
        last: its latest run.
        start: the place of its first row in the whole run.
    """

    store: Store
    journal: Reader
    last: LastRun
    start: int = 0


def write_partial(keyword: str, output_dir: str | os.PathLike[str], data: Data | None, names: Sequence[str]) -> Path:
    """Write all rows with the answers that are there; without the input, the rows of finished chunks. Return the path.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        data: the run's input, if it is not where it was.
        names: facts of the journal for further columns.

    Raises:
        InputError: the input is not the run's.
        OutputError: there is no run, a chunk file or a journal is damaged, shards differ, or there is nothing to write.
        SettingsError: the keyword is invalid, or a fact cannot have a column.
    """
    with contextlib.ExitStack() as stack:
        if paths := unmerged(output_dir, keyword):
            shards, absent = begun_shards(paths, keyword, stack)
            directory = paths[0].parent.parent
            sources = [_Source(each.store, each.journal, each.last, each.start) for each in shards]
        else:
            run, absent = stack.enter_context(opened(keyword, output_dir, read_journal)), []
            stack.enter_context(run.journal.snapshot())
            directory, sources = run.store.directory, [_Source(run.store, run.journal, run.last())]
        partial = _Partial(directory, sources, _input([each.last for each in sources], data))
        path = partial.write(names)
    if partial.omitted:
        rows = counted(partial.omitted, "row of an unfinished chunk is", "rows of unfinished chunks are")
        say(f"Note: {rows} left out, because no file has the rest of their cells: {_advice(keyword)}.")
    if absent:
        some = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        begun = counted(len(absent), "shard has", "shards have")
        say(f"Note: {begun} not begun here ({some}): {'its' if len(absent) == 1 else 'their'} rows are left out.")
    return path


def _input(runs: Sequence[LastRun], data: Data | None) -> Dataset | None:
    """Open the input once for all shards, as the first one read it that finds it."""
    if data is not None:
        return input_of(runs[0].question, data)
    return next((found for each in runs if (found := input_of(each.question)) is not None), None)


class _Partial:
    """The file of all rows with the answers that are there so far.

    Args:
        directory: for the file.
        sources: of the rows, in the order of the table; at least one.
        dataset: the run's input; without it, only chunk files have the input's cells.

    Attributes:
        omitted: how many rows were left out because the rest of their cells is not known.
    """

    def __init__(self, directory: Path, sources: Sequence[_Source], dataset: Dataset | None) -> None:
        # A column that one shard has is a column of the whole.
        is_reviewed = any(each.journal.is_reviewed() for each in sources)
        self._rows = [SoFar(each.store, each.journal, each.last, dataset, is_reviewed=is_reviewed) for each in sources]
        self._sources = sources
        extras = dict.fromkeys(name for each in self._rows for name in each.store.answer_columns.extras)
        first = self._rows[0].store
        added, keyword = first.answer_columns.with_facts(extras), first.keyword
        self._store = Store(directory, keyword, first.columns, added, first.encoding, types=first.types)
        self.omitted = 0

    def write(self, names: Sequence[str]) -> Path:
        """Write it with further facts of these names; of a requests file also the responses. Return the path.

        Raises:
            SettingsError: a fact cannot have a column.
        """
        store = self._store.with_facts(names)
        store.write_rows(store.partial_path, self._blocks(store))
        if not self._sources[0].last.question.get("requests"):
            return store.partial_path
        return store.write_responses(self._responses())

    def _blocks(self, store: Store) -> Iterator[Block]:
        is_empty = True
        for rows, source in zip(self._rows, self._sources, strict=True):
            ends = _ends_of(source.journal, rows.store, store)
            for part in rows.parts():
                if part.inputs is None:
                    self.omitted += len(part.answers)
                    continue
                is_empty = False
                yield Block(part.inputs, part.values, ends(part))
        if is_empty and self.omitted:
            keyword = store.keyword
            raise OutputError(f"no chunk of {keyword!r} is finished yet: run it again, or {_advice(keyword)}")

    def _responses(self) -> Iterator[bytes]:
        """Yield the responses to the lines of a requests file that are there so far."""
        for rows, source in zip(self._rows, self._sources, strict=True):
            for part in rows.parts():
                if part.inputs is not None:
                    keyword, before = self._store.keyword, source.start
                    yield from lines_of_rows(keyword, source.journal, part.start, part.inputs, before=before)


def _ends_of(journal: Reader, own: Store, store: Store) -> Callable[[ChunkSoFar], Sequence[Sequence[str]]]:
    """Return what makes the cells of a file's answer columns from those of a run or a shard, which may have fewer."""
    had, wanted = own.answer_columns, store.answer_columns.extras
    lacking = [name for name in wanted if name not in had.extras]
    at = len(had) - len(had.extras)

    def ends(part: ChunkSoFar) -> Sequence[Sequence[str]]:
        if had.extras == wanted:
            return part.answers
        nothing = [""] * len(lacking)  # of a row that has no result
        found: Sequence[Sequence[str]] = [nothing] * len(part.answers)
        if lacking:
            found = facts_of(journal, own, part.start, part.start + len(part.answers), lacking)
        made = []
        for answer, more in zip(part.answers, found, strict=True):
            facts = more if had.status_in(answer) else nothing
            of = dict(zip(itertools.chain(had.extras, lacking), itertools.chain(answer[at:], facts), strict=True))
            made.append([*answer[:at], *(of[name] for name in wanted)])
        return made

    return ends


def _advice(keyword: str) -> str:
    return by_reader(
        command_line=f"give the run's input: batcher merge {shlex.quote(keyword)} INPUT --partial",
        python="give the run's input as data=, or take report.frame()",
    )
