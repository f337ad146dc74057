"""A run with batches, killed at any moment, makes no second batch: each row is answered and billed once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import environment, write_table

from batcher.server.batch_books import BatchBooks
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place
from batcher.server.faults import Fate
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

KILLED = Path(__file__).with_name("killed.py")
ITEMS = [f"item {number}" for number in range(60)]
PROMPTS = [f"Say something of {item}" for item in ITEMS]


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """Makes the processes: forks of one that has its libraries loaded."""
    with subprocess.Popen(
        [sys.executable, KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        yield process
        process.communicate()


class Scene:
    """Runs one table through the batches of a server, each time in a process that may be killed.

    Attributes:
        books: of the server, about batches.
    """

    def __init__(self, nursery: subprocess.Popen[str], folder: Path, server: Server) -> None:
        self._nursery = nursery
        self._folder = folder
        self._url = server.base_url
        self.books: BatchBooks = server.books.batches
        write_table(folder / "items.csv", ["item"], [[item] for item in ITEMS])

    def run(self, meanwhile: Callable[[int], object] = lambda _pid: None) -> int:
        """Run the table; return the exit status, negative for the signal that ended it."""
        options = {
            "--prompt": "Say something of {item}",
            "--keyword": "k",
            "--chunk-size": "13",
            "--base-url": self._url,
            "--model": "m",
            "--via": "batch",
        }
        arguments = ["run", "items.csv", *(word for option in options.items() for word in option)]
        orders, replies = self._nursery.stdin, self._nursery.stdout
        assert orders
        assert replies
        print(json.dumps({"arguments": arguments, "folder": str(self._folder)}), file=orders, flush=True)
        process = int(replies.readline())
        try:
            meanwhile(process)
        except BaseException:
            os.kill(process, signal.SIGKILL)
            replies.readline()
            raise
        return int(replies.readline())

    def kill_at(self, place: Place, nth: int = 1) -> None:
        """Kill a run as soon as a request of a kind has reached the server."""

        def kill(process: int) -> None:
            while self.books.by_call[place] < nth:
                time.sleep(0.005)
            os.kill(process, signal.SIGKILL)

        assert self.run(kill) == -signal.SIGKILL

    def wait_long(self) -> None:
        """Let so much time pass, by the journal, that the service lists whatever it has made."""
        with contextlib.closing(sqlite3.connect(self._journal)) as journal, journal:
            journal.execute("UPDATE batches SET submitted = submitted - 3600")

    def states(self) -> list[str]:
        """Return how far the batches had come when the process was killed."""
        with contextlib.closing(sqlite3.connect(self._journal)) as journal:
            return [state for (state,) in journal.execute("SELECT state FROM batches WHERE state <> 'done'")]

    @property
    def _journal(self) -> Path:
        return self._folder / "output" / "journal_k.sqlite"

    def kill_after(self, seconds: float) -> int:
        """Kill a run after a while, unless it has ended; return how it ended."""

        def kill(process: int) -> None:
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGKILL)

        return self.run(kill)

    @property
    def said(self) -> str:
        return (self._folder / "stderr").read_text(encoding="utf-8")

    def files(self) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes()
            for path in sorted((self._folder / "output").iterdir())
            if not path.name.startswith("journal_")
        }

    def check(self, whole: dict[str, bytes]) -> None:
        """The files are those of a run that nothing disturbed, and each row was answered and billed once."""
        assert self.files() == whole
        assert self.books.answered_by_prompt == self.books.billed_by_prompt == Counter(PROMPTS)


def served(**knobs: Any) -> Any:
    return embedded(Knobs(batches=BatchKnobs(**{"latency": 0.4} | knobs)))


@pytest.fixture(scope="module")
def whole(nursery: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    with served() as server:
        scene = Scene(nursery, tmp_path_factory.mktemp("whole"), server)
        assert scene.run() == 0, scene.said
        assert scene.books.answered_by_prompt == Counter(PROMPTS)
        return scene.files()


MOMENTS = [
    (Place.UPLOAD, False, "uploading"),
    (Place.UPLOAD, True, "uploading"),
    (Place.CREATE, False, "creating"),
    (Place.CREATE, True, "creating"),
    (Place.LOOK, False, "sent"),
    (Place.CONTENT, False, "over"),
]


@pytest.mark.parametrize(("place", "is_done", "state"), MOMENTS)
def test_a_kill_while_the_service_is_asked_makes_no_second_batch(
    nursery: subprocess.Popen[str], tmp_path: Path, whole: dict[str, bytes], place: Place, *, is_done: bool, state: str
) -> None:
    """The service may have done what it was asked for, or not; its answer has not come."""
    with served(rules=(BatchRule(at=place, does=Fate.HANG, is_done=is_done, last=1),)) as server:
        scene = Scene(nursery, tmp_path, server)
        scene.kill_at(place)
        assert scene.states() == [state]
        assert scene.books.made == (state in {"sent", "over"} or (place, is_done) == (Place.CREATE, True))
        scene.wait_long()
        assert scene.run() == 0, scene.said
        scene.check(whole)
        assert scene.books.made == 1


def test_kills_one_after_the_other_lose_nothing(
    nursery: subprocess.Popen[str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    hang = [BatchRule(at=place, does=Fate.HANG, is_done=done, first=nth, last=nth) for nth, (place, done) in NTH]
    with served(rules=tuple(hang)) as server:
        scene = Scene(nursery, tmp_path, server)
        for nth, (place, _) in NTH:
            scene.kill_at(place, nth)
            scene.wait_long()
        assert scene.run() == 0, scene.said
        scene.check(whole)


NTH = [
    (1, (Place.UPLOAD, False)),
    (2, (Place.UPLOAD, True)),
    (1, (Place.CREATE, True)),
    (1, (Place.LOOK, False)),
    (1, (Place.CONTENT, False)),
]


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_lose_nothing(
    nursery: subprocess.Popen[str], tmp_path: Path, whole: dict[str, bytes], seed: int
) -> None:
    """The server takes fewer lines in a file than the table has, so that batches are also cut into halves."""
    draw = random.Random(seed)
    with served(file_requests=25) as server:
        scene = Scene(nursery, tmp_path, server)
        for _ in range(5):
            assert scene.kill_after(draw.uniform(0.2, 3.0)) in {0, -signal.SIGKILL}, scene.said
            with contextlib.suppress(sqlite3.OperationalError):  # it was killed before there was a journal
                scene.wait_long()
        assert scene.run() == 0, scene.said
        scene.check(whole)
