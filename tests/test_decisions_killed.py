"""A decision that was acknowledged is in the journal once, whatever is killed or started meanwhile."""

from __future__ import annotations

import contextlib
import csv
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import LocalServer, call, environment, local_server, started, write_table

import batcher

ROWS = 40
DECIDING = Path(__file__).with_name("deciding.py")


class Acknowledged(NamedTuple):
    """A decision that a page heard of."""

    who: str
    number: int
    position: int
    result: int
    via: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server("--latency", "0.3", cwd=tmp_path_factory.mktemp("server")) as served:
        yield served


@contextlib.contextmanager
def page(folder: Path, who: str, count: int = 10_000) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, str(DECIDING), who, str(count), str(ROWS)]
    with subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def some(program: subprocess.Popen[str], count: int) -> list[Acknowledged]:
    """Wait for some decisions; fewer if the program ends."""
    assert program.stdout
    lines = [line.split() for _, line in zip(range(count), program.stdout, strict=False)]
    return [Acknowledged(who, int(n), int(at), int(result), via) for who, n, at, result, via in lines]


def check(folder: Path, acknowledged: list[Acknowledged], unheard: int) -> None:
    """Check that each is there once, and besides at most this many that were not acknowledged."""
    with contextlib.closing(sqlite3.connect(folder / "output" / "journal_k.sqlite")) as db:
        lines = db.execute("SELECT id, who, why FROM corrections").fetchall()
        events = db.execute("SELECT subject FROM events WHERE kind = 'decided by hand'").fetchall()
    there = Counter((who, why) for _, who, why in lines)
    assert max(there.values()) == 1
    assert max(Counter(events).values(), default=1) == 1
    by_id = {number: (who, why) for number, who, why in lines}
    assert [by_id[each.result] for each in acknowledged] == [(e.who, f"decision {e.number}") for e in acknowledged]
    assert len(lines) - len(acknowledged) in range(unheard + 1)


def arguments(server: LocalServer) -> list[str]:
    words = ["run", "items.csv", "--prompt", "Say {item}", "--keyword", "k", "--model", "m", "--chunk-size", "7"]
    return [*words, "--base-url", server.base_url, "--max-concurrency", "2", "--canary", "0"]


def finished(folder: Path, server: LocalServer) -> None:
    """Let the run end, and check that the files have the latest decision about each row."""
    assert call(*arguments(server), cwd=folder).status == 0
    found = batcher.verify("k", folder / "items.csv", output_dir=folder / "output")
    assert found.findings == ()
    with contextlib.closing(sqlite3.connect(folder / "output" / "journal_k.sqlite")) as db:
        latest = [
            text for (text,) in db.execute("SELECT answer FROM rows JOIN results ON id = result ORDER BY position")
        ]
    with (folder / "output" / "all_k.csv").open(encoding="utf-8", newline="") as file:
        assert [row["infer"] for row in csv.DictReader(file)] == latest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "items.csv", ["item"], [[f"item {number}"] for number in range(ROWS)])
    return tmp_path


def test_pages_that_are_killed_without_a_run_lose_nothing(folder: Path, server: LocalServer) -> None:
    finished(folder, server)
    acknowledged: list[Acknowledged] = []
    for number in range(2):
        with page(folder, f"a{number}") as one, page(folder, f"b{number}") as other:
            acknowledged += [*some(one, 5), *some(other, 5)]
            one.kill()
            acknowledged += some(one, 10_000)
            acknowledged += some(other, 2)
            other.kill()
            acknowledged += some(other, 10_000)
    assert {each.via for each in acknowledged} == {"journal"}
    check(folder, acknowledged, unheard=4)
    server.reset()
    finished(folder, server)
    assert server.books()["requests"] == 0


def test_runs_that_are_killed_and_started_while_two_pages_decide_lose_nothing(
    folder: Path, server: LocalServer
) -> None:
    server.reset()
    chance = random.Random(7)
    acknowledged: list[Acknowledged] = []
    with contextlib.ExitStack() as pages:
        with started(*arguments(server), cwd=folder) as run:
            server.wait_for(4)
            one, other = (pages.enter_context(page(folder, who)) for who in ("Ada", "Bea"))
            acknowledged += [*some(one, chance.randrange(1, 4)), *some(other, 1)]
            run.kill()
            run.wait()
        acknowledged += [*some(one, 2), *some(other, 2)]
        with started(*arguments(server), cwd=folder) as run:
            acknowledged += [*some(one, 3), *some(other, 3)]
            run.kill()
            run.wait()
        acknowledged += some(one, 2)
        with started(*arguments(server), cwd=folder) as run:
            acknowledged += some(other, 3)
            assert run.wait() == 0
        acknowledged += some(one, 3)
        for each in (one, other):
            each.kill()
            acknowledged += some(each, 10_000)
    assert {each.via for each in acknowledged} == {"journal", "run"}
    check(folder, acknowledged, unheard=2)
    finished(folder, server)
