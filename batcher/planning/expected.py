"""What a run expects when it begins: requests, model tokens, money and time, with the versions and the input's hash.

Invariant: it is recorded for people, and decides nothing; no row's prompt is made for it, and what cannot be
known is None.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.errors import BatcherError
from batcher.input.several import parts_of
from batcher.journal.reading import Reader
from batcher.money.prices import NANO, nano_dollars
from batcher.money.tariff import Tariff
from batcher.money.tokens import ESTIMATE
from batcher.planning.costs import Load, costs_of, pace_of, tokens_of_an_answer
from batcher.planning.first import typical_answer
from batcher.planning.job import Job
from batcher.planning.plan import Plan
from batcher.records import Task
from batcher.version import __version__

_MOST_FILES = 20
_HASHED_AT_MOST = 2**33
"""Bytes of a file that is hashed: some 20 seconds."""
_PACKAGES = ("openai", "langchain-core", "langchain-openai", "aiohttp", "httpx", "pandas", "pyarrow", "numpy")


def expected(job: Job, journal: Reader, planned: Plan, tariffs: Sequence[Tariff]) -> str:
    """Return what to record, as JSON; see `planned` in the table `events`.

    Args:
        job: the run.
        journal: knows how long answers were so far.
        planned: what is left to do.
        tariffs: of the endpoints that are asked about every row.
    """
    budget = job.settings.budget
    files = [*_files(job.question.get("input") or ())]
    found = {
        "versions": versions(),
        "input": [_hashed(path) for path in files[:_MOST_FILES]],
        "inputs_left": max(0, len(files) - _MOST_FILES),
        "budget_usd": None if budget is None else nano_dollars(budget) / NANO,
        **_ahead(job, journal, planned, tariffs),
    }
    return json.dumps(found)


def versions() -> dict[str, str]:
    """Return the versions of batcher, of Python, and of the packages that make a run's calls and files."""
    found = {
        "batcher": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _ahead(job: Job, journal: Reader, planned: Plan, tariffs: Sequence[Tariff]) -> Mapping[str, Any]:
    rows = planned.counts.left - planned.out - (planned.same if job.settings.dedup else 0)
    tokens = sum(planned.prompts) / len(planned.prompts) if planned.prompts else None
    requests: int | None
    answer: float | None = 0.0
    if job.task is Task.EMBEDDING:
        requests = None  # rows share requests, as many as fit
    else:
        # Rows that have some of their answers lack fewer.
        requests = planned.missing + (rows - planned.few) * job.settings.samples
        typical = None if job.shape is None else _typical(job.shape)
        answer = tokens_of_an_answer(journal, planned.first_sources, tariffs, typical)
    asked = rows if requests is None else requests
    prompts = None if tokens is None else round(tokens * asked)
    load = Load(asked, prompts or 0, None, answer)
    cost = None if prompts is None or answer is None else costs_of(load, tariffs, None, "").all
    return {
        "rows": rows,
        "requests": requests,
        "prompt_tokens": prompts,
        "completion_tokens": load.completion_tokens,
        "cost_usd": None if cost is None else cost / NANO,
        "seconds": pace_of(job.tiers.first, load).seconds if requests is not None else None,
        "from_rows": len(planned.prompts),
    }


def _typical(shape: Shape) -> int:
    """Return the model tokens of an answer, and of its end: of labels those of all of them on average."""
    if isinstance(shape, Labels):
        return 1 + round(sum(map(ESTIMATE.count, shape.names)) / len(shape.names))
    return 1 + ESTIMATE.count(typical_answer(shape))


def _files(paths: Sequence[str]) -> Iterator[Path]:
    try:
        yield from (Path(part.path) for part in parts_of(paths)) if paths else ()
    except (BatcherError, OSError):  # they were read before: someone moves them
        yield from map(Path, paths)


def _hashed(path: Path) -> dict[str, Any]:
    """Return a file with its size and its hash; without a hash if it is too large, or cannot be read any more."""
    try:
        facts = path.stat()
        if facts.st_size > _HASHED_AT_MOST:
            return {"path": str(path), "bytes": facts.st_size, "modified": facts.st_mtime}
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return {"path": str(path)}
    return {"path": str(path), "sha256": digest, "bytes": facts.st_size, "modified": facts.st_mtime}
