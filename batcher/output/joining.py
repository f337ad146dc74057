"""`merge`: joins the chunk files as they are, so that corrections by hand get into the result.

Invariant: a result is never made of fewer or older rows than the journal has; an error names the reason.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batcher.checks import check_directory
from batcher.errors import OutputError, SettingsError, outermost
from batcher.input.marks import Marks
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.opening import open_to_decide, read_journal, record_joined
from batcher.journal.reading import Reader
from batcher.output.changed import Changed, Layout, Reading, both_changed
from batcher.output.directory import Facts, Store, came_back, result_changed
from batcher.output.following import follow
from batcher.output.opening import opened
from batcher.output.partial import write_partial
from batcher.output.responses import lines_of_chunks
from batcher.output.shards import fold_shards, shards_of
from batcher.output.so_far import anew, facts_of, is_current, with_columns
from batcher.settings import OPTIONS, check_keyword, facts_in, has_npy, home_expanded
from batcher.words import blamed, counted, option, say

if TYPE_CHECKING:
    from batcher.input.opening import Data


@outermost
def merge(
    keyword: str,
    output_dir: str | os.PathLike[str] = "output",
    *,
    partial: bool = False,
    data: Data | None = None,
    with_: str | Sequence[str] | None = None,
) -> Path:
    """Join the chunk files as they are, and return the path of the result; of a requests file that of its responses.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        partial: write all rows with the answers that are there so far to `partial_<keyword>.csv`, instead of a finished
            run's to `all_<keyword>.csv`. The run may be at work; and so may shards that are not merged yet, whose rows
            so far are written together.
        data: the run's input, for `partial`; a file is found again by itself.
        with_: facts of the journal to put into further columns of the result, named as in `run`. The chunk files stay
            as they are, and the next `run` writes its own result again.

    Raises:
        SettingsError: the keyword is invalid, the input is not the run's, or there is no such fact.
        OutputError: there is no run, a run is writing, rows are left, or a chunk file is missing, damaged or older than
            the journal; or a shard is missing, unfinished, or differs from the others.
    """
    names = _facts(with_, partial=partial)
    if partial:
        return write_partial(keyword, output_dir, data, names)
    if data is not None:
        raise SettingsError(f"the input is only needed with {option('partial', value=True)}")
    _fold(keyword, output_dir)
    if _is_reviewed(keyword, output_dir):
        _follow(Store(Path(home_expanded(output_dir)), keyword))
    with opened(keyword, output_dir, functools.partial(read_journal, alone=True)) as run:
        store, journal, last = run.store, run.journal, run.last()
        rows, left = journal.scope(), journal.left()
        if left:
            raise OutputError(
                f"{left:,} of {counted(rows, 'row')} of {keyword!r} {'has' if left == 1 else 'have'} no result yet:"
                f" run it again, or give {option('partial', value=True)} for what is answered so far"
            )
        store = with_columns(store, range(0, rows, last.chunk_size), last.question)
        names = _lacking(store, names)
        starts = list(_finished(store, journal, range(0, rows, last.chunk_size), rows, last))
        if not store.columns:
            raise OutputError(f"no chunk of {keyword!r} is finished yet: run it again")
        path = store.all_path

        def facts(start: int) -> list[list[str]]:
            return facts_of(journal, store, start, min(start + last.chunk_size, rows), names)

        write_vectors = _vectors_writer(store, journal, last, is_wanted=has_npy(with_))
        record = functools.partial(record_joined, journal.path, last.id, path.name)
        _, copy = store.join(starts, path, known=journal.joined(path.name), record=record, facts=Facts(names, facts))
        if copy:
            say(result_changed(path, copy))
        write_vectors()
        if not last.question.get("requests"):
            return path
    # What is recorded of the result changes the journal, so it is opened once more.
    with opened(keyword, output_dir, functools.partial(read_journal, alone=True)) as run:
        return _join_responses(store, run.journal, run.last(), rows)


def _fold(keyword: str, output_dir: str | os.PathLike[str]) -> None:
    """Make the whole run of its shards, if it has any.

    All that a merge does to chunk files which people have changed is done in the shards, before: so the whole run's are
    copies, and what differs from these later was changed by people in the whole run.
    """
    check_keyword(keyword)
    check_directory(output_dir, blamed("output_dir"))
    directory = Path(home_expanded(output_dir))
    if shards := shards_of(directory, keyword):
        begun = [each for each in shards if Store(each, keyword).journal_path.exists()]
        if any(_is_reviewed(keyword, each) for each in begun):
            for each in begun:
                _follow(Store(each, keyword), is_reviewed=True)
        fold_shards(directory, keyword, _settle)


def _is_reviewed(keyword: str, output_dir: str | os.PathLike[str]) -> bool:
    with opened(keyword, output_dir, read_journal) as run:
        return run.journal.is_reviewed()


def _follow(store: Store, *, is_reviewed: bool = False) -> None:
    """Let the chunk files follow what people have decided on the page."""
    with open_to_decide(store.journal_path) as pen:
        said = follow(store, pen, is_reviewed=is_reviewed)
    if said:
        say(said)


def _settle(store: Store, journal: Reader, last: LastRun) -> None:
    """Write the chunk files that came back in another form in their own again, and set workbooks aside."""
    reading, workbooks = _reading(store, journal, last), store.workbooks()
    for start, chunk in journal.chunks().items():
        is_there = start in workbooks or not store.is_empty(start)
        if is_there and (start in workbooks or store.sha256(start) != chunk.sha256):
            _settle_one(store, reading, start, chunk, is_workbook=start in workbooks)


def _join_responses(store: Store, journal: Reader, last: LastRun, rows: int) -> Path:
    """Write the responses to the lines of a requests file; return their path."""
    path = store.responses_path
    copy = store.join_responses(
        lines_of_chunks(store, journal, last, rows),
        known=journal.joined(path.name),
        record=functools.partial(record_joined, journal.path, last.id, path.name),
    )
    if copy:
        say(result_changed(path, copy))
    return path


def _facts(with_: str | Sequence[str] | None, *, partial: bool) -> Sequence[str]:
    """Return the facts that are to be in further columns.

    Raises:
        SettingsError: there is no such fact, or a file of all vectors is wanted of a part.
    """
    if with_ is not None:
        OPTIONS["with_"].check(with_)
    if partial and has_npy(with_):
        whole = option("partial", value=True)
        raise SettingsError(f"{option('with_')}: npy is made of a whole result: leave out {whole}")
    return facts_in(with_)


def _vectors_writer(store: Store, journal: Reader, last: LastRun, *, is_wanted: bool) -> Callable[[], None]:
    """Return what writes the file of all vectors, if it is wanted now or by the run.

    All that it needs of the journal is read before: what is recorded of the result changes the journal.

    Raises:
        SettingsError: it is wanted, and the answers are no vectors.
    """
    if is_wanted and not store.answer_columns.is_vector:
        raise SettingsError(f"{option('with_')}: npy holds vectors, and {store.keyword!r} did not ask for embeddings")
    if not is_wanted and not last.question.get("npy"):
        return lambda: None
    path = store.npy_path
    known, record = journal.joined(path.name), functools.partial(record_joined, journal.path, last.id, path.name)

    def write() -> None:
        if copy := store.join_vectors(known, record):
            say(result_changed(path, copy))

    return write


def _lacking(store: Store, names: Sequence[str]) -> Sequence[str]:
    """Return those of the facts that the chunk files lack.

    Raises:
        SettingsError: one cannot have a column.
    """
    return store.with_facts(names).answer_columns.extras[len(store.answer_columns.extras) :]


def _reading(store: Store, journal: Reader, last: LastRun) -> Reading:
    return Reading([Layout(store, tuple(Marks(last.question.get("table", ())).columns))], journal)


def _finished(store: Store, journal: Reader, starts: range, rows: int, last: LastRun) -> Iterator[int]:
    """Yield the chunks to join, after checking each.

    Raises:
        OutputError: a chunk file is missing, damaged or older than the journal, or its cells differ from the input's.
    """
    chunks, reading, workbooks = journal.chunks(), _reading(store, journal, last), store.workbooks()
    for start in starts:
        stop = min(start + starts.step, rows)
        chunk = chunks.get(start)
        if chunk is None or chunk.rows != stop - start:
            raise OutputError(f"no chunk file holds exactly rows {start:,} to {stop - 1:,}: {anew()}")
        is_workbook = start in workbooks
        if not is_workbook and (store.is_empty(start) or not store.chunk_path(start).exists()):
            raise OutputError(f"{store.chunk_path(start)} is missing, or empty: {anew()}")
        if is_workbook or store.sha256(start) != chunk.sha256:
            _settle_one(store, reading, start, chunk, is_workbook=is_workbook)
        elif not is_current(store, journal, start, chunk):
            raise OutputError(f"{store.chunk_path(start)} is older than the answers in the journal: {anew()}")
        yield start


def _settle_one(store: Store, reading: Reading, start: int, chunk: Chunk, *, is_workbook: bool) -> None:
    """Give a chunk file that a person has changed its own form, with the corrections.

    Raises:
        OutputError: it is not certain what was corrected.
    """
    if is_workbook:
        _join_workbook(store, chunk, reading.read(start, chunk, store.workbook_path(start), None))
        return
    changed = reading.read(start, chunk, store.chunk_path(start), None)
    if changed.how:
        copy = store.write_edited(start, changed.lines)
        said = came_back(changed.path, changed.how, len(changed.corrections))
        say(f"{said}; your version is kept as {copy}.")


def _join_workbook(store: Store, chunk: Chunk, changed: Changed) -> None:
    """Write a chunk file with the corrections of the workbook beside it, which is set aside.

    Raises:
        OutputError: the chunk file was changed, too.
    """
    path = store.chunk_path(changed.start)
    if not store.is_empty(changed.start) and store.sha256(changed.start) != chunk.sha256:
        raise both_changed(path, changed.path)
    store.write_edited(changed.start, changed.lines, {chunk.sha256})
    say(store.set_workbook_aside(changed.start, len(changed.corrections)))
