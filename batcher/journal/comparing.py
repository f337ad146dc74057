"""Queries of two runs on one table, and of one run along its way: every row's answer, in an order that pairs rows.

Invariant: nothing is held but the lines that are read next; what is sorted is sorted by SQLite, in temporary files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from batcher.input.marks import Comparison, Marks
from batcher.journal.corrections import AS_ANSWERED
from batcher.journal.reading import ROOT, Reader
from batcher.journal.schema import IN_SCOPE, text_of

ROWS_AT_ONCE = 8192
"""Rows of `in_order` in memory: a multiple of what is compared with each other."""


class Marked(NamedTuple):
    """A row with its answer.

    Attributes:
        mark: of the columns by which it is recognised; empty if its marks are of another table, or it has none.
        position: its place in the run.
        status: `ok`, `invalid` or `error`; empty if it has no result.
        answer: of a row that is `ok`; of the others empty.
    """

    mark: bytes
    position: int
    status: str
    answer: str


class Answers(NamedTuple):
    """Consecutive rows that a model has answered, in the order of the table.

    Attributes:
        positions: their places in the run.
        requests: the ids of the requests that brought the answers; ids rise with time.
        sources: the ids of the sources that gave them.
        labels: the answers; None for an `invalid` one. Without labels they are empty texts.
        seconds: from the request to the answer; None if that is not known.
    """

    positions: Sequence[int]
    requests: Sequence[int]
    sources: Sequence[int]
    labels: Sequence[str | None]
    seconds: Sequence[float | None]


def by_marks(journal: Reader, marks: Marks, columns: Sequence[str]) -> Iterator[Marked]:
    """Yield the rows of a run in the order of the marks of some columns, equal rows in the order of the table.

    Their answers are the model's, before any correction.

    Args:
        journal: of the run.
        marks: of the run's table.
        columns: of that table.
    """
    found = journal.stream(
        f"SELECT cast(coalesce({Comparison(marks).sql(columns)}, x'') AS BLOB) AS mark, r.position,"
        " coalesce(a.status, ''), iif(a.status = 'ok', a.answer, '')"
        f" FROM {AS_ANSWERED} r LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE} ORDER BY mark, r.position"
    )
    for mark, position, status, answer in found:
        yield Marked(mark, position, status, text_of(answer))


def in_place(journal: Reader, marks: Marks, columns: Sequence[str]) -> Iterator[tuple[bytes, int, str, str | bytes]]:
    """Yield the rows of a run in the order of the table, each as `Marked`, with the answers that count now.

    They are plain tuples, and texts as the journal has them: a million rows take a second.

    Args:
        journal: of the run.
        marks: of the run's table.
        columns: of that table.
    """
    yield from journal.stream(
        f"SELECT cast(coalesce({Comparison(marks).sql(columns)}, x'') AS BLOB), r.position, coalesce(a.status, ''),"
        " iif(a.status = 'ok', a.answer, '')"
        f" FROM rows r LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE} ORDER BY r.position"
    )


def in_order(journal: Reader, *, has_labels: bool, has_times: bool = False) -> Iterator[Answers]:
    """Yield the rows of a run that a model has answered, in the order of the table.

    Rows that share an answer (`--dedup`) come once. A row is left out if a person gave the answer, if it was adopted,
    or if a second endpoint was asked because the first was not certain (`--then`): such rows are chosen.

    Args:
        journal: of the run.
        has_labels: answers are labels; else they are not read.
        has_times: read how long answers took, which takes as long again; those that came with a batch have no time.
    """
    answer = "a.answer" if has_labels else "''"
    seconds = "iif(q.sent_in IS NULL, max(q.ended - q.sent, 0.0), NULL)" if has_times else "NULL"
    found = journal.stream(
        f"SELECT r.position, o.id, a.source, iif(a.status = 'ok', {answer}, NULL), {seconds}"
        f" FROM rows r JOIN results a ON a.id = r.result JOIN results o ON o.id = {ROOT.format('a.id')}"
        f"{' JOIN requests q ON q.id = o.id' if has_times else ''} LEFT JOIN same s ON s.position = r.position"
        f" WHERE r.{IN_SCOPE} AND a.status <> 'error' AND o.id > 0 AND a.source = o.source AND s.leader IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM opinions p WHERE p.result = a.id AND p.round = 0 AND p.source <> a.source)"
        " ORDER BY r.position"
    )
    while lines := [*islice(found, ROWS_AT_ONCE)]:
        positions, requests, sources, labels, times = zip(*lines, strict=True)
        texts = [None if each is None else text_of(each) for each in labels]
        yield Answers(positions, requests, sources, texts, times)


def last_request(journal: Reader) -> int:
    """Return the highest id of a request; 0 if there was none."""
    [(latest,)] = journal.stream("SELECT coalesce(max(id), 0) FROM requests")
    return int(latest)


def sent_at(journal: Reader, request: int) -> float | None:
    """Return when the first request from an id on was sent; None if there is none."""
    found = next(journal.stream("SELECT sent FROM requests WHERE id >= ? ORDER BY id LIMIT 1", (request,)), None)
    return None if found is None else found[0]


def source_names(journal: Reader) -> dict[int, str]:
    """Return what people call the sources of answers, by id: model and base URL, or the endpoint's own name."""
    found = journal.stream("SELECT id, model, base_url FROM sources")
    return {number: f"{model} at {base_url}" if base_url else model for number, model, base_url in found}
