"""`rehearse`: a whole rehearsal, from the options to what came out.

Invariant: it ends in `verify` and in the comparison of the server's books with the journal, whatever happened before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from batcher.checks import check_whole
from batcher.engine.process import allow_connections
from batcher.errors import OutputError, SettingsError, outermost
from batcher.input.opening import default_keyword
from batcher.journal.opening import read_journal
from batcher.output.opening import opened
from batcher.rehearsal.check import Check
from batcher.rehearsal.child import Child, Moment, answers_in, interruptible, moments_of, variables_with
from batcher.rehearsal.directory import made
from batcher.rehearsal.mishaps import default_batch_faults, default_faults
from batcher.rehearsal.result import FaultCount, Rehearsal
from batcher.rehearsal.scene import Scene
from batcher.reports.verification.verify import verify
from batcher.server.batch_fault_file import read_batch_faults
from batcher.server.batch_rules import BatchKnobs, BatchRule
from batcher.server.fault_file import read_faults
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs
from batcher.settings import Options, Settings, check_keyword
from batcher.signatures import with_options
from batcher.words import blamed, by_reader, counted, option, say

if TYPE_CHECKING:
    from batcher.input.opening import Data

_MOST_KILLS = 100
_LATENCY_S, _LATENCY_SIGMA = 0.02, 0.5
_BATCH_S = 1.0
_BATCHES = 3
"""The batches into which the rows must be split, because the server takes no larger files."""


@with_options
@outermost
def rehearse(
    data: Data,
    prompt: str | None = None,
    *,
    faults: str | os.PathLike[str] | None = None,
    batch_faults: str | os.PathLike[str] | None = None,
    forms: str = "full",
    dressed: float = 0.0,
    kills: int = 2,
    keep: bool = False,
    **options: Unpack[Options],
) -> Rehearsal:
    """Run a job against the local server, in processes that are killed, and check what came out.

    Args:
        data: the input, as for `run`.
        prompt: a template with `{column}` holes. It may be left out if an option names another source.
        faults: a TOML file with `[[fault]]` tables; default: a few faults of every kind.
        batch_faults: the same for batches (`via="batch"`).
        forms: how the server treats structured output: the name of a way, or `"full,200:deepseek"` to change after 200
            requests.
        dressed: share of the prompts whose answer is dressed up, if no form holds it.
        kills: how often the run is killed; with `via="batch"` at requests about batches.
        keep: keep the files also if the rehearsal passes.
        **options: those of `run`. Without `limit` or `sample` the first 1,000 rows are rehearsed.

    Returns:
        What happened. It does not raise if the rehearsal fails.

    Raises:
        SettingsError: an option, the input, the prompt or the file of faults is wrong.
        OutputError: the directory of the rehearsal cannot be used.
    """
    began = time.monotonic()
    settings = Settings.of(options)
    if kills != 0:
        check_whole(kills, blamed("kills"))
    if kills > _MOST_KILLS:
        raise SettingsError(f"{blamed('kills')} must be {_MOST_KILLS} at most, not {kills}")
    if settings.shard is not None:
        raise SettingsError(
            f"{blamed('shard')}: a rehearsal is of the whole command, with all of its limits: leave it out"
        )
    if callable(prompt):
        raise SettingsError(
            "a rehearsal runs in a process of its own, to which a prompt function cannot go: write the prompts into a"
            f" column and give {option('prompt_column')}"
        )
    of_batches = _batch_rules(batch_faults, settings)
    knobs = Knobs(_LATENCY_S, _LATENCY_SIGMA, forms=forms, dressed=dressed)
    keyword = settings.keyword or default_keyword(data)
    if keyword is None:
        give = by_reader(command_line="give --keyword", python="give keyword=")
        raise SettingsError(f"the table has no file name to name the run after: {give}")
    check_keyword(keyword)
    with interruptible(), made(Path(settings.output_dir), keyword) as directory:
        scene = Scene.of(data, prompt, replace(settings, keyword=keyword), directory.path)
        rules = None if faults is None else read_faults(faults, scene.keys)
        if settings.limit is None and len(scene.asked) == scene.job.settings.limit and not settings.quiet:
            say(f"Only the first {counted(len(scene.asked), 'row')}: {option('limit')} takes more or fewer.")
        played = default_faults(scene.texts, settings.idle_s) if rules is None else rules
        most = max(len(scene.asked) // _BATCHES + 1, 2)
        batches = BatchKnobs(_BATCH_S, file_requests=most, rules=of_batches)
        moments = moments_of(len(scene.asked), kills, by_batch=settings.in_batches)
        done = _played(scene, replace(knobs, faults=played, batches=batches), moments, began)
        if keep or not done.passed:
            directory.keep()
            return replace(done, directory=directory.path)
        return done


def _batch_rules(path: str | os.PathLike[str] | None, settings: Settings) -> tuple[BatchRule, ...]:
    """Return the faults of batches; without a file, the usual ones."""
    if path is None:
        return default_batch_faults()
    if not (settings.in_batches or settings.by or settings.within):
        raise SettingsError(f"{blamed('batch_faults')} is for {option('via', 'batch')}")
    return read_batch_faults(path)


def _played(scene: Scene, knobs: Knobs, moments: Sequence[Moment], began: float) -> Rehearsal:
    """Run the job to its end, and check what came out."""
    endpoints, settings, rows = scene.job.endpoints, scene.job.settings, len(scene.asked)
    keys = tuple(endpoint.api_key or "" for endpoint in endpoints)
    allow_connections(endpoints)
    with embedded(replace(knobs, keys=keys)) as server:
        child = Child(
            scene.command(server.base_url), variables_with(keys, scene.used), scene.directory / "run.log", server.books
        )
        child.play(moments, is_quiet=settings.quiet)
    books = server.books
    if not scene.job.store.journal_path.exists():
        raise OutputError(f"the run did not begin: {child.stops[-1]}")
    found = verify(scene.job.keyword, scene.paths, output_dir=scene.directory)
    with opened(scene.job.keyword, scene.directory, read_journal) as run:
        results = run.journal.results(0, rows)
        in_flight = run.journal.rows_in_flight()
        repeated = [each.position for each in run.journal.repeated(str)]
        second = run.journal.answered_from(len(scene.job.tiers.first))
    check = Check(
        scene.asked,
        results,
        books,
        found,
        is_deduplicated=settings.dedup,
        rows_in_flight=in_flight,
        samples=settings.samples,
        repeated=repeated,
        second=second,
    )
    real_rows, real_s = scene.real_run(books.requests) if not books.batches.made else (None, None)
    return Rehearsal(
        keyword=scene.job.keyword,
        rows=rows,
        ok=found.counts.ok,
        invalid=found.counts.invalid,
        error=found.counts.error,
        kills=child.kills,
        kills_wanted=len(moments),
        starts=child.starts,
        stops=tuple(child.stops),
        requests=books.requests + books.batches.lines,
        answered=answers_in(books),
        batches=dict(sorted((str(state), count) for state, count in books.batches.by_end.items())),
        in_flight=check.unended,
        twice=check.twice,
        faults=tuple(
            FaultCount(f"{of}{fault}", count)
            for of, counts in (("", books.by_fault), ("batches ", books.batches.by_fault))
            for fault, count in sorted(counts.items(), key=_number_of)
        ),
        verified=found.ok,
        findings=tuple(map(str, found.findings)),
        disagreements=tuple(check.disagreements()),
        elapsed_s=time.monotonic() - began,
        rows_per_s=rows / child.working_s if child.working_s else 0.0,
        real_rows=real_rows,
        real_s=real_s,
    )


def _number_of(fault: tuple[str, int]) -> int:
    return int(fault[0].partition(" ")[0])
