"""The shards of a run: finds them in the output directory, and folds them into one run (`merge`).

Invariant: a whole run is made of all shards or not at all, and never in place of what people decided in it.

Its journal is renamed last. Until then there is no run of the keyword, and `merge` begins anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.checks import check_directory
from batcher.errors import BatcherError, OutputError
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.folding import ShardJournal, fold, folded_from, is_sampled, results_of, state_of
from batcher.journal.opening import kept_from_runs, read_journal
from batcher.journal.reading import Reader
from batcher.output.csv_file import as_output_errors, csv_line, replace, sha256_of
from batcher.output.directory import Store
from batcher.output.so_far import with_columns
from batcher.records import RowState
from batcher.settings import check_keyword, home_expanded
from batcher.shards import Part, Shard, named, shards_directory
from batcher.words import blamed, by_reader, counted, option

_ALIKE = (
    *("prompt_option", "prompt", "system", "params", "task", "npy", "samples", "shape", "reader", "columns", "table"),
    *("answer_column", "limit", "sample", "encoding", "format", "types", "requests", "params_column"),
)
"""What the runs of all shards must have asked alike."""
_CHANGED = "changed_files"
"""The name of what is recorded of chunk files that people had changed in shards when these were folded."""


class ShardRun(NamedTuple):
    """A shard's run, open to be read; nobody writes it meanwhile.

    Attributes:
        name: `2-of-8`.
        store: its files, with the columns that they have.
        journal: its journal.
        last: its latest run.
        start: the place of its first row in the whole table.
    """

    name: str
    store: Store
    journal: Reader
    last: LastRun
    start: int


def shards_of(directory: Path, keyword: str) -> list[Path]:
    """Return the directories of the shards of a keyword, in the order of the table; none if it has no shards."""
    above = shards_directory(directory, keyword)
    if not above.is_dir():
        return []
    with as_output_errors(above, "read"):
        found = [(shard, each) for each in above.iterdir() if (shard := named(each.name))]
    return [path for _, path in sorted(found)]


def unmerged_in(directory: Path) -> dict[str, list[Path]]:
    """Return the directories of shards by keyword, of the keywords that have shards and no whole run.

    Raises:
        OSError: the directory cannot be read.
    """
    names = sorted(each.name.removeprefix("shards_") for each in directory.iterdir() if each.name.startswith("shards_"))
    found = {name: shards_of(directory, name) for name in names if not Store(directory, name).journal_path.exists()}
    return {name: paths for name, paths in found.items() if paths}


def unmerged(output_dir: str | os.PathLike[str], keyword: str) -> list[Path]:
    """Return the directories of a keyword's shards if they are not merged yet.

    Raises:
        SettingsError: the keyword, or the directory's name, is invalid.
    """
    check_keyword(keyword)
    check_directory(output_dir, blamed("output_dir"))
    directory = Path(home_expanded(output_dir))
    return [] if Store(directory, keyword).journal_path.exists() else shards_of(directory, keyword)


class NotBegunError(OutputError):
    """A journal, or the directory of a shard, has no run yet."""


def begun_shards(paths: Sequence[Path], keyword: str, stack: contextlib.ExitStack) -> tuple[list[ShardRun], list[str]]:
    """Open the shards that have begun, each in one state although it may be at work; return also the others' names.

    Args:
        paths: the directories of the shards.
        keyword: of the run.
        stack: closes them.

    Raises:
        OutputError: none has begun, or one is damaged or differs from the others.
    """
    found, absent = [], _absent(paths)
    for path in paths:
        try:
            found.append(_read(path, keyword, stack))
        except NotBegunError:
            absent.append(path.name)
    if not found:
        raise OutputError(f"no shard of {keyword!r} in {paths[0].parent} has begun: run it with {_option(absent[0])}")
    _check_alike(found)
    return found, sorted(absent, key=lambda name: int(name.partition("-")[0]))


def gaps(paths: Sequence[Path], keyword: str) -> tuple[list[str], list[Path]]:
    """Return what keeps shards from being one run, in words, and the directories of those that can be read.

    They may be missing, unreadable, or differ from the others.
    """
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            try:
                found.append(_read(path, keyword, stack))
            except OutputError as error:
                said.append(str(error))
        try:
            _check_all_there(paths, keyword)
            _check_alike(found)
            if not said:
                _check_whole(found)
        except OutputError as error:
            said.append(str(error))
        return said, [each.store.directory for each in found]


def fold_shards(directory: Path, keyword: str, settle: Callable[[Store, Reader, LastRun], object]) -> None:
    """Make the whole run of a keyword of its shards; leave it as it is if it is made of what they hold now.

    Args:
        directory: the output directory.
        keyword: of the run.
        settle: is called with the files, the journal and the latest run of each shard: it writes files that people
            have changed in the form in which they are joined.

    Raises:
        OutputError: a shard is missing, unfinished, damaged or differs from the others; or people have decided
            something in the whole run since, and shards went on.
        KeywordBusy: a shard, or the whole run, is at work.
    """
    whole = Store(directory, keyword)
    paths = shards_of(directory, keyword)
    _check_all_there(paths, keyword)
    with kept_from_runs(whole.journal_path), contextlib.ExitStack() as stack:
        shards = [_opened(path, keyword, stack) for path in paths]
        _check_alike(shards)
        _check_whole(shards)
        by_end = sorted(shards, key=_ended)  # the latest run of all is the latest one of the whole
        question = _question(shards, by_end[-1].last.question)
        for each in shards:
            settle(each.store, each.journal, each.last)
        looked = {each.name: _state(each) for each in shards}
        said: dict[str, Any] = {
            "shards": {name: state for name, (state, _) in looked.items()},
            _CHANGED: {start: sha256 for _, changed in looked.values() for start, sha256 in changed.items()},
        }
        earlier = _made_before(whole, said["shards"]) if whole.journal_path.exists() else _Made(is_current=False)
        if earlier.is_current:
            return
        made = whole.journal_path.with_name(f".{whole.journal_path.name}.tmp")
        origin = functools.partial(_origin, [each.store for each in by_end])
        parts = [ShardJournal(f"shard {each.name}", each.store.journal_path, each.start) for each in by_end]
        try:
            fold(parts, made, question, origin, said, earlier.results)
            # An earlier one holds nothing of its own. Beside files of the new one it would look as if people had.
            with as_output_errors(whole.journal_path, "removed"):
                _remove_log(whole.journal_path)
                whole.journal_path.unlink(missing_ok=True)
            _copy_files(whole, shards)
            with as_output_errors(whole.journal_path, "written"):
                made.replace(whole.journal_path)
        finally:
            made.unlink(missing_ok=True)


def _remove_log(path: Path) -> None:
    """Remove the log of a journal that is replaced: a log belongs to its own file."""
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _absent(paths: Sequence[Path]) -> list[str]:
    """Return the names of the shards that have no directory.

    Raises:
        OutputError: there are shards of several numbers.
    """
    found = [shard for path in paths if (shard := named(path.name))]
    ofs = sorted({each.of for each in found})
    if len(ofs) > 1:
        names = " and ".join(f"{of:,}" for of in ofs)
        raise OutputError(f"{paths[0].parent} has shards of {names}: move away those that are not of this run")
    there = {each.number for each in found}
    return [Shard(number, ofs[0]).name for number in range(1, ofs[0] + 1) if number not in there]


def _check_all_there(paths: Sequence[Path], keyword: str) -> None:
    if lacking := _absent(paths):
        raise OutputError(
            f"{keyword!r} lacks {counted(len(lacking), 'shard')} ({', '.join(lacking[:10])}): run it with"
            f" {_option(lacking[0])}, or copy its directory into {paths[0].parent}"
        )


def _option(name: str) -> str:
    """Return the option that runs a shard, from the name of its directory."""
    shard = named(name)
    return option("shard", shard and shard.option)


def _read(path: Path, keyword: str, stack: contextlib.ExitStack, *, alone: bool = False) -> ShardRun:
    """Open a shard.

    Args:
        path: its directory.
        keyword: of the run.
        stack: closes it.
        alone: keep runs from writing it meanwhile.

    Raises:
        OutputError: its journal is missing, damaged, or another's.
    """
    store, name = Store(path, keyword), path.name
    if not store.journal_path.exists():
        raise NotBegunError(f"shard {name} has no journal ({store.journal_path}): run it, or copy its directory again")
    try:
        journal = stack.enter_context(read_journal(store.journal_path, alone=alone))
        if not alone:
            stack.enter_context(journal.snapshot())
        last = journal.last_run()
    except BatcherError as error:
        raise type(error)(f"shard {name}: {error}") from error
    if last is None:
        raise NotBegunError(f"shard {name} has no run yet: run it with {_option(name)}")
    mark = last.question.get("shard")
    if not mark or Part.recorded_in(mark).shard.name != name:
        raise OutputError(f"the journal in {path} is not that of shard {name}: move it away, and run the shard")
    store = with_columns(store, range(0, journal.scope(), last.chunk_size), last.question)
    return ShardRun(name, store, journal, last, int(mark["start"]))


def _opened(path: Path, keyword: str, stack: contextlib.ExitStack) -> ShardRun:
    """Open a finished shard that nobody writes meanwhile.

    Raises:
        OutputError: as for `_read`; or rows of it have no result, or it has a sample of its own.
    """
    shard = _read(path, keyword, stack, alone=True)
    name, left = shard.name, shard.journal.left()
    if left:
        raise OutputError(
            f"shard {name}: {counted(left, 'row has', 'rows have')} no result yet: run it again with {_option(name)},"
            f" or give {option('partial', value=True)} for what is answered so far"
        )
    if is_sampled(shard.journal):
        raise OutputError(
            f"shard {name} has a sample of its own, which says nothing about the whole table: estimate it there"
            f" ({option('output_dir', os.fspath(path))}); to fold the shards, move a copy without the sample there"
        )
    return shard


def _check_alike(shards: Sequence[ShardRun]) -> None:
    """Refuse shards that asked differently, or that could have rows of each other."""
    if not shards:
        return
    first = shards[0]
    for each in shards:
        question = each.last.question
        differs = [name for name in _ALIKE if question.get(name) != first.last.question.get(name)]
        golds = [(one.last.question.get("gold") or {}).get("column") for one in (each, first)]
        differs += ["gold"] if golds[0] != golds[1] else []
        differs += ["chunk_size"] if each.last.chunk_size != first.last.chunk_size else []
        part, of_first = (Part.recorded_in(one.last.question["shard"]) for one in (each, first))
        differs += ["number of rows"] if part.of_rows != of_first.of_rows else []
        if differs:
            raise OutputError(
                f"shard {each.name} has another {', '.join(differs)} than shard {first.name}: run it again as the"
                " others were run"
            )
        if part != Part.of(part.shard, each.last.chunk_size, part.of_rows):
            raise OutputError(f"{part.in_words()}: these are not the rows of this shard: run it again")


def _check_whole(shards: Sequence[ShardRun]) -> None:
    """Refuse shards that do not hold all rows of the table together."""
    rows, held = shards[0].last.question["shard"]["rows_of_table"], sum(each.journal.scope() for each in shards)
    if held != rows:
        raise OutputError(f"the shards hold {held:,} of {rows:,} rows: run the shards again with the whole table")


def _ended(shard: ShardRun) -> float:
    return shard.last.started if shard.last.ended is None else shard.last.ended


def _question(shards: Sequence[ShardRun], latest: dict[str, Any]) -> dict[str, Any]:
    """Return the question of the whole run: that of the latest one, with all that differs among shards together."""
    question = dict(latest)
    del question["shard"]
    with_ = dict.fromkeys(name for each in shards for name in each.last.question.get("with", ()))
    if with_:
        question["with"] = [*with_]
    if "examples" in question:
        keys = dict.fromkeys(key for each in shards for key in each.last.question["examples"]["keys"])
        question["examples"] = {**question["examples"], "keys": [*keys]}
    if "gold" in question:
        with_rows = [each for each in shards if each.journal.scope()]
        question["gold"] = _gold([each.last.question["gold"] for each in with_rows or shards])
    return question


def _gold(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is known of the column with right answers, from what each shard knows of its own.

    One without rows knows nothing; if no shard has any, neither has the table.
    """
    drawn = {each["drawn"] for each in found}
    gold = {"column": found[0]["column"], "drawn": drawn.pop() if len(drawn) == 1 else "unknown"}
    if all("texts" in each for each in found):
        gold["texts"] = {text: label for each in found for text, label in each["texts"].items()}
    return gold


def _origin(  # noqa: PLR0917 - it is called as `OriginOf` says
    stores: Sequence[Store],
    number: int,
    start: int,
    chunk: Chunk,
    before: Sequence[RowState],
    after: Sequence[RowState],
) -> bytes:
    """Return the origin of a chunk file with the ids of the whole run; as it was if the file is not made of these rows.

    What people have corrected in it are answers, which the origin is not made of.
    """
    store = stores[number]
    if not chunk.origin or store.is_empty(start):
        return chunk.origin
    lines = [csv_line(store.answer_columns.split(line)[0]) for line in store.lines_of(start)]
    is_so = store.origin(lines, before) == chunk.made_from
    return store.origin(lines, after) if is_so else chunk.origin


def _files(shard: ShardRun) -> Iterator[tuple[Path, int]]:
    """Yield the chunk files of a shard, and the workbooks beside them, with their first rows there."""
    for start in range(0, shard.journal.scope(), shard.last.chunk_size):
        for path in (shard.store.chunk_file(start), shard.store.workbook_path(start)):
            if path.exists():
                yield path, start


def _copy_files(whole: Store, shards: Sequence[ShardRun]) -> None:
    for shard in shards:
        for path, start in _files(shard):
            to = whole.directory / f"{start + shard.start}{path.name.removeprefix(str(start))}"
            with as_output_errors(path, "read"), path.open("rb") as file:
                replace(to, functools.partial(shutil.copyfileobj, file))


def _state(shard: ShardRun) -> tuple[dict[str, Any], dict[str, str]]:
    """Return by what it is seen that a shard went on, or that a person changed one of its files.

    The second part has the SHA-256 of each chunk file that a person has changed, by its first row in the whole table.
    """
    digest, chunks, changed = hashlib.sha256(), shard.journal.chunks(), {}
    for path, start in _files(shard):
        sha256 = sha256_of(path)
        digest.update(path.name.encode() + sha256)
        is_chunk = path == shard.store.chunk_file(start) and start in chunks
        if is_chunk and chunks[start].sha256 != sha256:
            changed[str(start + shard.start)] = sha256.hex()
    return {"journal": state_of(shard.journal), "files": digest.hexdigest()}, changed


class _Made(NamedTuple):
    """The whole run as it was made of its shards before.

    Attributes:
        is_current: it is made of what they hold now.
        results: the result files that were written, and the SHA-256 of each.
    """

    is_current: bool
    results: Sequence[tuple[str, str]] = ()


def _made_before(whole: Store, states: dict[str, Any]) -> _Made:
    """Look at the whole run that is there.

    Args:
        whole: its files.
        states: of the shards now.

    Raises:
        OutputError: shards went on since it was made of them, and it holds what none of them has; or it is not made of
            them.
    """
    with read_journal(whole.journal_path) as journal:
        found = folded_from(journal)
        if found is None:
            raise OutputError(
                f"{whole.journal_path} is a run of its own, and not made of the shards in shards_{whole.keyword}:"
                " choose another output directory for one of the two"
            )
        if found["shards"] == states:
            return _Made(is_current=True)
        went_on, results = state_of(journal) != found["state"], results_of(journal)
        chunks, last = journal.chunks(), journal.last_run()
        store = with_columns(whole, chunks, last.question if last else {})
    copied = {int(start): bytes.fromhex(sha256) for start, sha256 in found.get(_CHANGED, {}).items()}
    written = {start: copied.get(start, chunk.sha256) for start, chunk in chunks.items()}
    is_changed = any(store.sha256(start) not in {None, sha256} for start, sha256 in written.items())
    if went_on or is_changed or whole.workbooks():
        raise OutputError(
            f"shards of {whole.keyword!r} went on since they were merged, and so did the merged run: people decided"
            f" something in it, or it was run again. Nothing is changed. Move {whole.journal_path.name} and its files"
            " to keep them, and merge again; or go on with the merged run alone"
        )
    return _Made(is_current=False, results=results)


def how_to_merge(keyword: str) -> str:
    """Return what merges the shards of a keyword, as the reader would write it; in backquotes."""
    return by_reader(command_line=f"`batcher merge {shlex.quote(keyword)}`", python=f"`batcher.merge({keyword!r})`")


def merge_first(directory: Path, keyword: str) -> str:
    """Return what to do about a keyword that has shards and no whole run yet; empty if it has none."""
    if not (paths := shards_of(directory, keyword)):
        return ""
    return (
        f"{keyword!r} is {counted(len(paths), 'shard')} that are not merged yet: {how_to_merge(keyword)}; or give"
        f" the directory of one: {option('output_dir', os.fspath(paths[0]))}"
    )
