"""How quickly the page of a run answers (`batcher review`), at a million rows or as many as are asked for.

    python benchmarks/review.py [--rows 1000000] [--keep DIR]

A run of a few rows against the simulated server gives the journal its form; the other rows are then written into it,
each with a request, a response with its body, and a result. The page is served from this process, and asked over a
socket of 127.0.0.1. The table says seconds until the page answers, until filters know all rows and until the table is
copied; then, of each kind of request, the median and the highest of its milliseconds. The promise is a row in at most
50 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import random
import resource
import sqlite3
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import batcher
from batcher.input.marks import Marks
from batcher.input.opening import open_dataset
from batcher.journal.entries import seal
from batcher.output.directory import Store
from batcher.planning.recorded import Recorded
from batcher.records import Result, Status
from batcher.reviewing.review import Served, served_page
from batcher.server.serve import embedded

KEYWORD = "k"
LABELS = ["positive", "negative", "neutral", "mixed"]
TEMPLATE = "Classify the sentiment of this review:\n\n{text}"
COLUMNS = ["id", "text", "place"]
WORDS = ["the room", "was", "quiet", "clean", "small", "noisy", "lovely", "staff", "very", "kind", "breakfast", "很好"]
BODY = {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}], "usage": {"total_tokens": 57}}
FEW = 20
_REQUEST = (
    "id, run, endpoint, source, position, key, sent, ended, outcome, prompt_tokens, completion_tokens, cached_tokens,"
    " reasoning_tokens, cost"
)
_RESPONSE = "id, finish_reason, is_cut, model, reasoning, body, text, form, request_id, confidence"


def rows_of(number: int) -> Iterator[list[str]]:
    drawn = random.Random(1)  # noqa: S311 - the same table each time
    for row in range(number):
        yield [str(row), " ".join(drawn.choices(WORDS, k=30)), f"hotel {row % 1000}"]


def make_run(directory: Path, number: int) -> None:
    """Make a run of this many rows, of which a few were really asked."""
    data = directory / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows_of(number))
    options: dict[str, Any] = {
        "labels": LABELS,
        "output_dir": directory,
        "keyword": KEYWORD,
        "quiet": True,
        "limit": FEW,
    }
    with embedded() as server:
        batcher.run(data, TEMPLATE, model="m", base_url=server.base_url, **options)
    fill(directory / f"journal_{KEYWORD}.sqlite", data, number)


def fill(path: Path, data: Path, number: int) -> None:
    """Write the other rows into the journal."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        [text] = db.execute("SELECT question FROM runs").fetchone()
        question = json.loads(text)
        question["limit"] = None
        asked = Recorded.of(question, open_dataset(data))
        if asked is None:
            raise SystemExit("the run has no question")
        for table in ("rows", "requests", "results", "responses", "chunks"):
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of this file
        db.execute("UPDATE runs SET question = ?", (json.dumps(question),))
        db.execute("UPDATE scope SET rows = ?", (number,))
        marks, drawn, lines = Marks(COLUMNS), random.Random(2), rows_of(number)  # noqa: S311 - as above
        for start in range(0, number, 10_000):
            rows, requests, results, responses = [], [], [], []
            for position, values in zip(range(start, min(start + 10_000, number)), lines, strict=False):
                key, ended = asked.about(tuple(values)), result_of(drawn)
                rows.append((position, key, position + 1, marks.of(tuple(values))))
                sent = 1.7e9 + position / 100
                requests.append((position + 1, 1, 0, 1, position, key, sent, sent + 1, "answered", 50, 7, 0, 0, 1500))
                results.append((position + 1, key, 1, ended.status.value, ended.answer, ended.error, seal(key, ended)))
                body = zlib.compress(json.dumps({**BODY, "id": f"chatcmpl-{position}-{drawn.random()}"}).encode())
                responses.append((position + 1, "stop", 0, "m-2026", "", body, None, "choice", f"id-{position}", None))
            for table, values_of in (
                ("rows (position, key, result, cells)", rows),
                (f"requests ({_REQUEST})", requests),
                ("results (id, key, source, status, answer, error, seal)", results),
                (f"responses ({_RESPONSE})", responses),
            ):
                marks_of = ", ".join("?" * len(values_of[0]))
                db.executemany(f"INSERT INTO {table} VALUES ({marks_of})", values_of)  # noqa: S608 - as above
            db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def result_of(drawn: random.Random) -> Result:
    if drawn.random() < 0.01:
        return Result(Status.INVALID, "I cannot say", "none of the labels")
    return Result(Status.OK, drawn.choices(LABELS, [60, 25, 10, 5])[0], "")


class Asked(NamedTuple):
    """A kind of request, and how long each of its kind took, in milliseconds."""

    name: str
    took: list[float]

    def shown(self) -> str:
        return f"{self.name:44} {statistics.median(self.took):9.1f} {max(self.took):9.1f}"


class Client:
    """Asks a page over one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def get(self, path: str) -> tuple[Any, float]:
        self._connection.close()  # the page closes connections that wait for long
        self._connection.connect()
        began = time.perf_counter()
        self._connection.request("GET", f"{self._path}{path}")
        content = self._connection.getresponse().read()
        took = 1000 * (time.perf_counter() - began)
        return (json.loads(content) if content[:1] == b"{" else content), took

    def time(self, name: str, *paths: str) -> Asked:
        return Asked(name, [self.get(path)[1] for path in paths])


def until(is_so: Any) -> float:
    began = time.perf_counter()
    while not is_so():
        time.sleep(0.01)
    return time.perf_counter() - began


def measure(served: Served, number: int) -> Iterator[Asked]:
    client = Client(served.url)
    drawn = random.Random(3)  # noqa: S311 - as above
    places = [drawn.randrange(number) for _ in range(50)]
    yield client.time("api/run", *["api/run"] * 10)
    yield client.time("a row", *[f"api/row/{each}" for each in places])
    near = [",".join(str(each + step) for step in range(20) if each + step < number) for each in places[:20]]
    yield client.time("20 rows", *[f"api/rowset?at={each}" for each in near])
    yield client.time("200 rows of the list, no filter", *[f"api/rows?from={each}" for each in places[:20]])
    yield client.time("... one label", *[f"api/rows?label=negative&from={each}" for each in places[:20]])
    status = [f"api/rows?status=invalid&status=error&from={each}" for each in places[:20]]
    yield client.time("... rows that failed", *status)
    both = "api/rows?label=mixed&label=neutral&status=ok&corrected=1"
    yield client.time("... three filters, no row", *[both] * 10)
    yield client.time(
        "search: the first answer", *[f"api/rows?text={quote(f'lovely very {each}')}" for each in WORDS[:5]]
    )
    began = time.perf_counter()
    while (found := client.get("api/rows?text=" + quote("QUIET CLEAN SMALL"))[0])["searching"]:
        time.sleep(0.05)
    yield Asked(f"search: all rows ({found['total']:,} found)", [1000 * (time.perf_counter() - began)])
    yield client.time("... a page of it", *["api/rows?text=" + quote("QUIET CLEAN SMALL")] * 5)
    yield client.time("export of one label, CSV", "api/export?label=neutral")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="make the run here, or use the one that is here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(exist_ok=True, parents=True)
        path = directory / f"journal_{KEYWORD}.sqlite"
        if not path.exists():
            make_run(directory, options.rows)
        print(f"{options.rows:,} rows, a journal of {path.stat().st_size / 1e6:,.0f} MB")
        began = time.perf_counter()
        served = stack.enter_context(served_page(Store(directory, KEYWORD), "me"))
        client = Client(served.url)
        client.get("api/rows")
        print(f"until the first page of the list   {time.perf_counter() - began:7.2f} s")
        took = [client.get(f"api/row/{each}")[1] for each in range(0, options.rows, options.rows // 20)]
        until(served.page.view.indexed.is_set)
        print(f"until filters know all rows        {time.perf_counter() - began:7.2f} s")
        took += [client.get(f"api/row/{each}")[1] for each in range(0, options.rows, options.rows // 20)]
        until(lambda: served.page.view.table.is_whole)
        print(f"until the table is copied          {time.perf_counter() - began:7.2f} s")
        print(f"\n{'':44} {'median ms':>9} {'most ms':>9}")
        print(Asked("a row, while all this is read", took).shown())
        for each in measure(served, options.rows):
            print(each.shown())
        print(f"\nmemory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB at most")


if __name__ == "__main__":
    main()
