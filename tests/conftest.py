"""A place to run in: virtual time, a fake service, and an output directory that is read without batcher."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from journals import begun
from virtual_time import run_virtually

from batcher.calls import certificates
from batcher.endpoint import Endpoint
from batcher.engine.runner import execute
from batcher.engine.stop import Stop
from batcher.journal.writing import Journal
from batcher.output.report import Report
from batcher.settings import Settings

if TYPE_CHECKING:
    from browser import Visit
    from playwright.sync_api import Browser
    from tiny_model import Paths

    from batcher.calls.caller import Callers


# Tests never bound wall time: machines are shared and noisy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Each commit waits for the disk, and a test makes hundreds. What a test ends is a process, never the machine: files in
# memory survive that as files on a disk do. So temporary directories are in memory, unless TMPDIR names a place.
_MEMORY = Path("/dev/shm")  # noqa: S108 - a test makes a directory of its own in it
_ENOUGH_BYTES = 2**30
if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# Each run reads the certificates that these variables name: with the system's hundreds, that is most of a short run.
for _name in certificates.VARIABLES:
    os.environ.pop(_name, None)

# `nohup` ignores SIGHUP, and a shell ignores SIGINT in what it starts in the background. Programs that tests start
# would inherit that, and batcher leaves an ignored signal ignored. A handler is not inherited; this one does nothing.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The workers share the tests out as they go: what takes long begins first, or one of them works on alone at the end.
_LONGEST = ("test_nights", "test_matching", "test_kill", "test_pages", "test_review_in_a_browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


class Lab:
    """Runs tables through fake services into one directory, under the keyword `k`.

    Attributes:
        directory: the output directory.
        stop: counts the requests to stop the run that is under way.
        seconds: virtual seconds that the last run took.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stop = Stop()
        self.seconds = 0.0
        self._task: asyncio.Task[Any] | None = None

    def run(
        self,
        data: Any,
        service: Callable[[], Callers],
        prompt: Any = None,
        at: Mapping[float, Callable[[], object]] | None = None,
        **options: Any,
    ) -> Report:
        """Run a table, or go on with it.

        Args:
            data: the table.
            service: who answers.
            prompt: as in `batcher.run`.
            at: what else happens, by the second at which it does.
            **options: as in `batcher.run`.
        """
        settings = Settings.of(
            {"keyword": "k", "output_dir": self.directory, "quiet": True, "canary": 0, "endpoints": [Endpoint("m")]}
            | options
        )

        async def work() -> Any:
            loop = asyncio.get_running_loop()
            for moment, happens in (at or {}).items():
                loop.call_later(moment, happens)
            self._task = loop.create_task(execute(data, prompt, settings, self.stop, callers=service))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._task])
            self.seconds = loop.time()
            return await self._task

        try:
            end, _ = run_virtually(work())
        finally:
            self.stop = Stop()
        report: Report = end.report_or_raise()
        return report

    def request_stop(self) -> None:
        self.stop.request()

    def cancel(self) -> None:
        assert self._task
        self._task.cancel()

    def path(self, part: int | str = "all") -> Path:
        return self.directory / f"{part}_k.csv"

    def rows(self, part: int | str = "all", encoding: str = "utf-8") -> list[dict[str, str]]:
        """Read the result, or the chunk that starts at a position."""
        with self.path(part).open(encoding=encoding, newline="") as file:
            return list(csv.DictReader(file, strict=True))

    def files(self) -> dict[str, bytes]:
        """Read every CSV of the directory, hidden ones and copies included."""
        return {path.name: path.read_bytes() for path in sorted(self.directory.glob("*.csv*"))}

    def query(self, question: str) -> list[tuple[Any, ...]]:
        """Ask the journal."""
        with contextlib.closing(sqlite3.connect(self.directory / "journal_k.sqlite")) as journal:
            return journal.execute(question).fetchall()

    def change(self, statement: str) -> None:
        """Do something to the journal."""
        with contextlib.closing(sqlite3.connect(self.directory / "journal_k.sqlite")) as journal, journal:
            journal.execute(statement)

    def journal(self) -> list[str]:
        """Read all that the journal holds."""
        with contextlib.closing(sqlite3.connect(self.directory / "journal_k.sqlite")) as journal:
            return list(journal.iterdump())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "output")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a journal that does not exist yet."""
    return tmp_path / "journal_x.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Open a journal in which rows are planned and a run has begun."""
    with begun(path) as journal:
        yield journal


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of a module, in which no other event loop can run meanwhile."""
    from browser import launched  # noqa: PLC0415 - few modules need it

    with launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """Windows of a browser; whatever goes wrong in them fails the test."""
    from browser import Visit  # noqa: PLC0415 - few modules need it

    visit = Visit(chromium)
    yield visit
    visit.end()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The directories of a tiny model and its LoRA; without torch the test is skipped."""
    from tiny_model import make  # noqa: PLC0415 - loads torch

    return make(tmp_path_factory.mktemp("tiny"))
