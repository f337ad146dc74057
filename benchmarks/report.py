"""What the report of a large run takes: seconds, bytes of the page, and the most memory.

    python benchmarks/report.py               # a million rows: two minutes, most of them to build the run
    python benchmarks/report.py --rows 100000

The run is built here: a table of three columns with its chunk files, 77 labels, five endpoints, 3% of the requests
failed, 1% of the answers invalid, and 300 rows with a hand label.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import batcher
from batcher.input.marks import Marks
from batcher.journal.schema import bring_up_to_date, connect

CHUNK = 500
LABELS = [f"label_{number:02}_of_many" for number in range(77)]
COLUMNS = ("id", "title", "text")
WORDS = ("the", "card", "has", "not", "come", "yet", "and", "I", "would", "like", "to", "know", "when", "it", "will")
SOURCES = [(f"model-{number}", f"https://service{number}.example/v1") for number in range(5)]
HAND = 300
Lines = list[tuple[Any, ...]]
BODY = zlib.compress(b'{"choices": [{"message": {"content": "an answer"}}]}' * 3)
QUESTION = {
    "prompt_option": "prompt",
    "prompt": "Which label has this text? {text}",
    "system": None,
    "params": {"temperature": 0},
    "sources": [[*source, ""] for source in SOURCES],
    "pool": [[*source, ""] for source in SOURCES],
    "columns": ["text"],
    "table": [*COLUMNS],
    "answer_column": "infer",
    "with": [],
    "encoding": "utf-8",
    "input": None,
    "shape": {"labels": LABELS},
    "reader": 1,
}


def row(number: int, draw: random.Random) -> tuple[str, str, str]:
    return f"r{number}", " ".join(draw.sample(WORDS, 4)), " ".join(draw.choices(WORDS, k=25))


def build(directory: Path, rows: int) -> None:
    """Write the journal and the chunk files of a run that has ended."""
    path, draw = directory / "journal_large.sqlite", random.Random(1)  # noqa: S311 - a benchmark
    with closing(connect(path, "mode=rwc")) as db:
        bring_up_to_date(db, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.execute(
            "INSERT INTO runs VALUES (1, 'a host', 1, 0, ?, 'done', ?, ?)", (rows / 200, CHUNK, json.dumps(QUESTION))
        )
        db.executemany("INSERT INTO sources VALUES (?, ?, ?, '')", [(n, *each) for n, each in enumerate(SOURCES, 1)])
        db.execute("DELETE FROM scope")
        db.execute("INSERT INTO scope VALUES (?)", (rows,))
        for start in range(0, rows, CHUNK):
            _add(db, directory, [row(number, draw) for number in range(start, min(start + CHUNK, rows))], start, draw)
        _label(db, rows, draw)
        db.execute("COMMIT")


def _add(
    db: sqlite3.Connection, directory: Path, cells: list[tuple[str, str, str]], start: int, draw: random.Random
) -> None:
    marks = Marks(COLUMNS)
    lines: Lines = []
    sent: Lines = []
    ended: Lines = []
    came: Lines = []
    for position, values in enumerate(cells, start):
        source, at, key = 1 + position % 5, position / 200, position.to_bytes(16)
        request = 2 * position + 1  # a gap is a request that did not leave
        failed: tuple[Any, ...] = (request, source, position, key, at, at + 0.3, "429", None, None, 0)
        sent += [failed] if position % 33 == 0 else []
        label = LABELS[min(76, int(draw.expovariate(0.06)))]
        answer, status = (f"{label[:-2]}xx", "invalid") if position % 100 == 7 else (label, "ok")
        latency = draw.lognormvariate(0, 0.5) * source
        sent.append((request + 1, source, position, key, at, at + latency, "answered", 300, 8, 20_000))
        ended.append((request + 1, key, source, status, answer, "" if status == "ok" else "it is not a label"))
        came.append((request + 1, 0.2 + 0.8 * draw.random(), BODY))
        lines.append((position, key, request + 1, marks.of(values)))
    _insert(db, lines, sent, ended, came)
    _chunk(directory, start, cells, ended)
    db.execute("INSERT INTO chunks VALUES (?, ?, x'01', x'01')", (start, len(cells)))


def _insert(db: sqlite3.Connection, lines: Lines, sent: Lines, ended: Lines, came: Lines) -> None:
    db.executemany("INSERT INTO rows (position, key, result, cells) VALUES (?, ?, ?, ?)", lines)
    db.executemany(
        "INSERT INTO requests (id, run, endpoint, source, position, key, sent, ended, outcome, prompt_tokens,"
        " completion_tokens, cost) VALUES (?1, 1, ?2 - 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        sent,
    )
    db.executemany(
        "INSERT INTO results (id, key, source, status, answer, error) VALUES (?, ?, ?, ?, ?, ?)",
        ended,
    )
    db.executemany(
        "INSERT INTO responses (id, finish_reason, is_cut, model, reasoning, confidence, body)"
        " VALUES (?, 'stop', 0, 'm', '', ?, ?)",
        came,
    )


def _chunk(directory: Path, start: int, cells: list[tuple[str, str, str]], ended: Lines) -> None:
    with (directory / f"{start}_large.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "infer", "infer_status", "infer_error"])
        writer.writerows(
            (*values, answer if status == "ok" else "", status, error)
            for values, (_, _, _, status, answer, error) in zip(cells, ended, strict=True)
        )


def _label(db: sqlite3.Connection, rows: int, draw: random.Random) -> None:
    db.execute("INSERT INTO draws VALUES (1, 0, 'random', ?, 0, ?)", (HAND, json.dumps([[None, rows, HAND, 0.5]])))
    for number, position in enumerate(sorted(draw.sample(range(rows), min(HAND, rows))), 1):
        [(key, cells, label)] = db.execute(
            "SELECT r.key, r.cells, iif(a.status = 'ok', a.answer, NULL) FROM rows r JOIN results a ON a.id = r.result"
            " WHERE position = ?",
            (position,),
        )
        gold = label if label and draw.random() < 0.9 else draw.choice(LABELS)
        db.execute("INSERT INTO drawn VALUES (?, 1, ?, ?, ?, ?, ?)", (number, position, key, cells, label, HAND / rows))
        db.execute("INSERT INTO gold (drawn, at, gold, origin) VALUES (?, 0, ?, 'a file')", (number, gold))


def measured(directory: Path) -> Iterator[tuple[str, str]]:
    start = time.perf_counter()
    found = batcher.report("large", directory)
    yield "seconds", f"{time.perf_counter() - start:.1f}"
    yield "bytes", f"{found.path.stat().st_size:,}"
    yield "most memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="build the run in this directory, or measure the one that is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(exist_ok=True)
        if not (directory / "journal_large.sqlite").exists():
            build(directory, arguments.rows)
        print(f"| a report of {arguments.rows:,} rows | |\n| --- | --- |")
        for what, said in measured(directory):
            print(f"| {what} | {said} |", flush=True)


if __name__ == "__main__":
    main()
