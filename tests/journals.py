"""Journals to test with: rows that ask, runs that answer, disks that are slow or full, and a look at the file."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import resource
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from batcher.input.marks import Comparison, Marks
from batcher.journal.entries import Batch, Line, Outcome, Request
from batcher.journal.matching import Matched, Matching
from batcher.journal.opening import open_journal
from batcher.journal.reading import Reader
from batcher.journal.rules import Rules
from batcher.journal.schema import ADOPTED
from batcher.journal.writing import Journal
from batcher.output.figures import Figures
from batcher.records import Bound, Completion, Result, Source, Status, Usage

ROWS = 400


def key(question: object) -> bytes:
    return str(question).encode().rjust(16, b"\0")


MARKS = Marks(["text"])


COMPARISON = Comparison(MARKS, ("text",), MARKS, ("text",), ("text",))


def cells(question: object) -> bytes:
    """Return the marks of a row: its question's first letter is its text, the others are the prompt's."""
    return MARKS.of((str(question)[:1],))


def say(
    matching: Matching,
    questions: Sequence[object],
    models: Sequence[str] = "m",
    limit: int | None = None,
    found: Iterable[tuple[int, str]] = (),
    **how: Any,
) -> Matched:
    """Add the rows' questions, in slices as a run does, and the results that were found in chunk files."""
    sources = matching.source_ids([*(Source(model, "http://somewhere") for model in models), ADOPTED])
    questions = questions[:limit]
    for start in range(0, len(questions), 3):
        asked = questions[start : start + 3]
        matching.add_rows(start, list(map(key, asked)), list(map(cells, asked)))
        inside = ((n, key(questions[n]), ended(status)) for n, status in found if start <= n < start + len(asked))
        matching.add_found(inside)
    return matching.finish(len(questions), Rules(frozenset(sources), is_limited=limit is not None, **how))


def figures(keyword: str = "k", **known: Any) -> dict[str, Any]:
    """Return the figures of a report: those that are known, which count for this process too, and zeros."""
    names = [each.name for each in dataclasses.fields(Figures) if each.name != "keyword"]
    values = {name: known.get(name.removesuffix("_now"), 0) for name in names}
    return {"keyword": keyword, **values, **known}


def plan(journal: Journal, questions: Sequence[object], models: Sequence[str] = "m", **how: Any) -> int:
    """Plan as a run does; return how many rows are answered to another question."""
    with journal.planning(COMPARISON) as matching:
        return sum(say(matching, questions, models, **how).changed.values())


@contextlib.contextmanager
def begun(path: Path) -> Iterator[Journal]:
    """Open a new journal whose run has begun."""
    with open_journal(path) as journal:
        plan(journal, range(ROWS))
        journal.start_run(500, {"prompt": "Is it good?"})
        yield journal


def ended(status: str = "ok", answer: str = "yes") -> Result:
    return Result(Status(status), answer, "" if status == "ok" else f"this row is {status}")


async def send(journal: Journal, position: int) -> Request:
    return await journal.sent(position, key(position), endpoint=0, source=1)


async def ask(journal: Journal, position: int, result: Result) -> int:
    """Send a row's request and settle it; return the result's id."""
    [state] = journal.states(position, position + 1)
    request = await journal.sent(position, state.key, endpoint=0, source=1)
    await journal.settled(request, Outcome("answered", Usage(10, 5)), result)
    return request.id


def answer(journal: Journal, *statuses: str | None) -> None:
    """Settle the rows from the first on, one status each; None leaves a row open."""

    async def work() -> None:
        await asyncio.gather(*(ask(journal, n, ended(status)) for n, status in enumerate(statuses) if status))

    asyncio.run(work())


def results(journal: Journal) -> list[int | None]:
    return [state.result for state in journal.states(0, 10**6)]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".journal_x.lock")


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def change(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(script)


@contextlib.contextmanager
def slow_disk(path: Path) -> Iterator[None]:
    """No commit ends before the block does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process grows until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(f"{path.name}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def turns() -> None:
    """Let every task that can begin do so."""
    for _ in range(5):
        await asyncio.sleep(0)


TENTH = (
    "DROP TABLE batches",
    "DROP INDEX requests_batch",
    "DROP INDEX requests_line",
    "ALTER TABLE requests DROP COLUMN sent_in",
    "ALTER TABLE responses DROP COLUMN tier",
)
"""The statements that take from a journal what version 10 has added."""
BOUND = Bound(100, 50, 1000, None)
"""What a line of a batch may use and cost."""


async def out(journal: Journal, positions: Sequence[int], bound: Bound = BOUND, source: int = 1) -> Batch:
    """Put rows into a batch, one line each."""
    keys = {at: state.key for at in positions for state in journal.states(at, at + 1)}
    lines = [(Request(journal.number(), at, keys[at], 0, source), bound) for at in positions]
    batch = Batch(endpoint=0, source=source, name="0123456789abcdef", url="/v1/chat/completions", sha256=b"\1" * 32)
    return await journal.batch_made(batch, lines)


async def come(journal: Journal, batch: Batch, text: str = "yes", most: int = 10_000) -> list[Line]:
    """Let lines of a batch be answered, and return them."""
    lines = journal.lines(batch.id, most=most)
    outcome = Outcome("answered", Usage(10, 5), 20, Completion(text, "stop", Usage(10, 5), model="m", raw=b"{}"))
    for line in lines:
        result = ended(answer=text)
        await journal.settled(line.request, outcome, result, followers=line.followers > 0, is_late=line.is_answered)
    return lines


def is_out(journal: Reader) -> list[int]:
    return [state.out for state in journal.states(0, 10**6)]
