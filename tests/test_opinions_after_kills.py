"""A run of several answers to each row, killed at any moment, pays for no answer twice and gives the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from programs import LocalServer, call, environment, local_server, write_table

KILLED = Path(__file__).with_name("killed.py")
ROWS, SAMPLES, AGAIN, CONCURRENCY = 30, 3, 5, 4
ANSWERS = (ROWS + AGAIN) * SAMPLES
PROMPTS = [f"Say something of item {n}" for n in range(ROWS)]
# As `killed.py` takes them. The journal's thread writes an intent, then its answer, and so on.
MOMENTS = {
    "before the first answer is noted": ("batcher-journal", "execute", 5),
    "while second answers come": ("batcher-journal", "execute", 150),
    "while third answers come with the results": ("batcher-journal", "execute", 331),
    "an answer is in the socket": ("MainThread", "recv", 70),
    "before a chunk file is in its place": ("os.rename", "/.10_k.csv.tmp", 1),
    "before the result is in its place": ("os.rename", "/.all_k.csv.tmp", 1),
}


class Scene:
    """Runs one table under the keyword `k` in one directory, each time in a process of its own that may be ended."""

    def __init__(self, folder: Path, server: LocalServer, nursery: subprocess.Popen[str]) -> None:
        self.folder = folder
        self._server = server
        self._nursery = nursery
        write_table(folder / "items.csv", ["item"], [[f"item {n}"] for n in range(ROWS)])
        server.reset()

    def run(self, at: Sequence[Any] | None = None, meanwhile: Callable[[int], object] = lambda _: None) -> int:
        options = {
            "--prompt": "Say something of {item}",
            "--keyword": "k",
            "--chunk-size": "10",
            "--max-concurrency": str(CONCURRENCY),
            "--base-url": self._server.base_url,
            "--model": "m",
            "--canary": "0",
            "--samples": str(SAMPLES),
            "--repeat-sample": str(AGAIN),
            "--with": "votes,raw",
        }
        arguments = ["run", "items.csv", *(word for option in options.items() for word in option)]
        assert self._nursery.stdin
        assert self._nursery.stdout
        print(
            json.dumps({"arguments": arguments, "folder": str(self.folder), "at": at}),
            file=self._nursery.stdin,
            flush=True,
        )
        process = int(self._nursery.stdout.readline())
        meanwhile(process)
        return int(self._nursery.stdout.readline())

    @property
    def said(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def query(self, question: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "output" / "journal_k.sqlite")) as journal:
            return journal.execute(question).fetchall()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "output").glob("[0-9a]*_k.csv")}

    def check(self) -> None:
        """See that each answer was paid once, or was in flight when a process ended; the server's books know."""
        lost: Counter[int] = Counter(row for (row,) in self.query("SELECT position FROM requests WHERE ended IS NULL"))
        asked = Counter(self._server.books()["requests_by_prompt"])
        again = {position for (position,) in self.query("SELECT position FROM opinions WHERE round = 1")}
        assert len(again) == AGAIN
        due = {n: SAMPLES * (1 + (n in again)) for n in range(ROWS)}
        assert [n for n, prompt in enumerate(PROMPTS) if not due[n] <= asked[prompt] <= due[n] + lost[n]] == []
        [counted] = self.query("SELECT count(*), count(result), sum(round) FROM opinions")
        assert counted == (ANSWERS, ANSWERS, AGAIN * SAMPLES)
        assert self.query("SELECT count(*), sum(answers) FROM votes") == [(ROWS, ROWS * SAMPLES)]
        found = call("verify", "k", "items.csv", cwd=self.folder)
        assert found.status == 0, found.stdout


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalServer, subprocess.Popen[str]]]:
    forks = subprocess.Popen(
        [sys.executable, KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    with local_server("--latency", "0.01", cwd=tmp_path_factory.mktemp("server")) as server, forks:
        yield server, forks


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, nursery: tuple[LocalServer, subprocess.Popen[str]]
) -> dict[str, bytes]:
    """The files of a run that nothing interrupted."""
    scene = Scene(tmp_path_factory.mktemp("whole"), *nursery)
    assert scene.run() == 0, scene.said
    scene.check()
    return scene.files()


def when(server: LocalServer, requests: int) -> Callable[[int], None]:
    """Return what kills a process when the server has got this many requests."""

    def kill(process: int) -> None:
        server.wait_for(requests)
        os.kill(process, signal.SIGKILL)

    return kill


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_goes_on_that_was_killed(
    tmp_path: Path, nursery: tuple[LocalServer, subprocess.Popen[str]], whole: dict[str, bytes], moment: str
) -> None:
    scene = Scene(tmp_path, *nursery)
    assert scene.run(at=MOMENTS[moment]) == -signal.SIGKILL, scene.said
    assert scene.run() == 0, scene.said
    assert scene.files() == whole
    scene.check()


def test_a_run_that_is_killed_over_and_over_comes_to_its_end(
    tmp_path: Path, nursery: tuple[LocalServer, subprocess.Popen[str]], whole: dict[str, bytes]
) -> None:
    scene = Scene(tmp_path, *nursery)
    for requests in (10, 50, 80, ROWS * SAMPLES, ROWS * SAMPLES + AGAIN, ANSWERS):
        assert scene.run(meanwhile=when(nursery[0], requests)) == -signal.SIGKILL, scene.said
    # What was lost in flight is asked again, so that rows are still asked once more.
    assert scene.run() == 0, scene.said
    assert scene.files() == whole
    scene.check()
