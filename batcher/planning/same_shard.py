"""Compares a shard with its own last run and with the other shards, before anything is sent.

Invariant: a shard never has the rows of another one, and what is in its directory is about its own rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import BatcherError, SettingsError
from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.output.directory import Store
from batcher.output.shards import shards_of
from batcher.planning.job import Job
from batcher.shards import Part, Shard
from batcher.words import as_given, option


class _Split(NamedTuple):
    """What makes the ranges of all shards: if it is the same in two shards, they have no row in common."""

    chunk_size: int
    rows: int
    limit: int | None
    sample: Any

    @classmethod
    def of(cls, chunk_size: int, selected: Any) -> _Split:
        return cls(chunk_size, selected["shard"]["rows_of_table"], selected.get("limit"), selected.get("sample"))


def check_same_shard(job: Job, last: LastRun | None) -> None:
    """Refuse a shard with other rows than its last run had, or than the other shards leave to it.

    Raises:
        SettingsError: the message says what to do.
    """
    part = job.selection.part
    mark = last.question.get("shard") if last else None
    if last is not None and (part is None) != (mark is None):
        raise SettingsError(_not_so(job, part, Part.recorded_in(mark) if mark else None))
    if part is None:
        return
    now = _Split.of(job.settings.chunk_size, job.selection.recorded())
    if last is not None:
        _check(part.shard, now, _Split.of(last.chunk_size, last.question), "it was run")
    elif (found := _other(job, part.shard)) is not None:
        _check(part.shard, now, found[1], f"shard {found[0]} was run")


def _not_so(job: Job, part: Part | None, before: Part | None) -> str:
    path = job.store.journal_path
    if before is not None:
        return (
            f"{path} is that of {before.shard}: give {option('shard', before.shard.option)}, and as"
            f" {as_given('output_dir')} the directory that holds all shards"
        )
    return (
        f"{path} is no run of a shard, but lies where {part and part.shard} has its own: move it away, or choose"
        f" another {as_given('output_dir')}"
    )


def _other(job: Job, shard: Shard) -> tuple[str, _Split] | None:
    """Return another shard that has run here, and how it was split; None if there is none."""
    above = job.store.directory.parent
    for path in shards_of(above.parent, job.keyword):
        if path.name != shard.name and (found := _split_of(path, job.keyword)):
            return path.name, found
    return None


def _split_of(directory: Path, keyword: str) -> _Split | None:
    path = Store(directory, keyword).journal_path
    # Whatever is wrong with its journal, `merge` says so; here its shard is not at issue.
    with contextlib.suppress(BatcherError, OSError):
        if path.exists():
            with read_journal(path) as journal:
                last = journal.last_run()
            if last is not None and "shard" in last.question:
                return _Split.of(last.chunk_size, last.question)
    return None


def _check(shard: Shard, now: _Split, before: _Split, who: str) -> None:
    if now == before:
        return
    if now.chunk_size != before.chunk_size:
        differs, advice = f"chunks of {before.chunk_size:,} rows", f"give {option('chunk_size', before.chunk_size)}"
    elif (now.limit, now.sample) != (before.limit, before.sample):
        how = [option(name, found) for name, found in _chosen(before)]
        differs = " ".join(how) or f"neither {option('limit')} nor {option('sample')}"
        advice = "give the same" + (" from the same table" if before.sample and now.sample else "")
    else:
        differs, advice = f"{before.rows:,} rows, not {now.rows:,}", "give the table as it was"
    raise SettingsError(
        f"{as_given('shard', shard.option)}: {who} with {differs}; other ones would give shards rows of each other:"
        f" {advice}, or choose another {as_given('keyword')} or {as_given('output_dir')}"
    )


def _chosen(split: _Split) -> list[tuple[str, int]]:
    found = [("limit", split.limit), ("sample", split.sample and split.sample["rows"])]
    return [(name, int(value)) for name, value in found if value]


def check_longest(job: Job, prompts: Sequence[int]) -> None:
    """Refuse a share of the tokens a minute in which a row does not fit: it would leave as soon as nothing else does.

    Args:
        job: the run.
        prompts: the estimated model tokens of the first prompts.

    Raises:
        SettingsError: the message says what to do.
    """
    part, longest = job.selection.part, max(prompts, default=0)
    if part is None or part.shard.of == 1:
        return
    for endpoint in job.endpoints:
        if endpoint.tpm is not None and longest > endpoint.tpm:
            raise SettingsError(
                f"{as_given('shard', part.shard.option)}: its share of tpm is {endpoint.tpm:,.15g} tokens a minute, and"
                f" one prompt has about {longest:,}, so that all shards together would exceed the limit: make fewer"
                " shards, or run without"
            )
