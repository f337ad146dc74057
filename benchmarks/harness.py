"""The common parts of the benchmarks: the input, the server, a program's cost, the machine, a table.

Invariant: a program's cost is what the system says that this process used (`wait4`), start-up and all; nothing is
measured by the program itself.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from server import answer_to

HERE = Path(__file__).parent
TEMPLATE = "About {text}"
_WORDS = "lorem ipsum dolor sit amet "
_MIB = 2**20


class Failed(Exception):
    """A program failed."""


class Cost(NamedTuple):
    """What a program used, and how it ended.

    Attributes:
        status: its exit status.
        wall_s: seconds from its start to its end.
        cpu_s: seconds of CPU time, user and system.
        peak_mb: its largest resident memory in MiB.
    """

    status: int
    wall_s: float
    cpu_s: float
    peak_mb: float


class Served(NamedTuple):
    """What the server did meanwhile: requests, seconds of CPU time, requests in flight at most."""

    requests: int
    cpu_s: float
    in_flight_at_most: int


def cores() -> tuple[int | None, int | None]:
    """Return the cores of the measured program and of the server; None if programs cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Start programs on one core: they inherit it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """The server in its own process, on its own core."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._before = self._stats()

    @classmethod
    @contextlib.contextmanager
    def running(cls, latency_s: float = 0.0) -> Iterator[Server]:
        """Run the server meanwhile."""
        argv = [sys.executable, str(HERE / "server.py"), "--latency", str(latency_s)]
        with pinned(cores()[1]), _started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield cls(next(iter(process.stdout or ())).strip())

    def served(self) -> Served:
        """Return its figures since the last call."""
        before, self._before = self._before, self._stats()
        requests, cpu_s = (self._before[name] - before[name] for name in ("requests", "cpu_s"))
        return Served(int(requests), cpu_s, int(self._before["in_flight_at_most"]))

    def _stats(self) -> dict[str, float]:
        with contextlib.closing(HTTPConnection(urlsplit(self.base_url).netloc)) as connection:
            connection.request("GET", "/stats")
            found: dict[str, float] = json.load(connection.getresponse())
        return found


@contextlib.contextmanager
def _started(argv: Sequence[str], **streams: int) -> Iterator[subprocess.Popen[str]]:
    """Run a program meanwhile; closing its stdin ends it."""
    with subprocess.Popen(argv, text=True, **streams) as process:  # type: ignore[call-overload]
        yield process


def cost_of(argv: Sequence[str], expected: Iterable[int] = (0,), directory: Path | None = None) -> Cost:
    """Run a program to its end on the first core, and return what it used.

    Args:
        argv: the program and its arguments.
        expected: the exit statuses that are none of a failure.
        directory: where it runs; elsewhere than in the project, so that it finds no `.env`.

    Raises:
        Failed: it ended with another status; the message has what it said.
    """
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        with pinned(cores()[0]):
            process = subprocess.Popen(argv, cwd=directory, env=_environment(), stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in expected:
            said.seek(0)
            told = said.read().decode(errors="replace").strip()[-2000:]
            raise Failed(f"{' '.join(argv)}\nexit status {process.returncode}: {told}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Cost(process.returncode, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / _MIB)


def output_of(argv: Sequence[str]) -> str:
    """Return what a program prints to stdout."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=_environment()).stdout


def _environment() -> Mapping[str, str]:
    """Return the environment with a key for every SDK, and without a tracer or a proxy that somebody has set up."""
    unwanted = ("LANGCHAIN_", "LANGSMITH_", "OPENAI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "API_KEY": "sk-bench", "OPENAI_API_KEY": "sk-bench", "NO_PROXY": "127.0.0.1"}


def batcher_run(table: Path, output: Path, base_url: str, *options: str) -> list[str]:
    """Return the command line of a whole run."""
    argv = [sys.executable, "-m", "batcher", "run", str(table), "--prompt", TEMPLATE, "--model", "bench"]
    return [*argv, "--base-url", base_url, "--output-dir", str(output), "--keyword", "bench", *options]


# --- the table that goes in, and the answers that come out ---


def text_of(position: int, size: int) -> str:
    """Return a text of about this many bytes, different for each row."""
    head = f"row {position} "
    return head + (_WORDS * (size // len(_WORDS) + 1))[: max(size - len(head), 0)]


def write_table(path: Path, rows: int, size: int = 190) -> Path:
    """Write an input of rows with a number and a text of this many bytes, unless it exists."""
    if not path.exists():
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "text"])
            writer.writerows((position, text_of(position, size)) for position in range(rows))
    return path


def check_answers(path: Path, rows: int, column: str = "infer", template: str = TEMPLATE, model: str = "bench") -> None:
    """Compare every answer in a result with the one right answer to its row's prompt.

    Raises:
        Failed: a row is missing, twice there, or has the answer to another prompt.
    """
    csv.field_size_limit(2**25)
    with path.open(encoding="utf-8", newline="") as file:
        position = -1
        for position, row in enumerate(csv.DictReader(file)):
            if row["id"] != str(position) or row[column] != answer_to(template.format(**row), model):
                raise Failed(f"{path.name}, row {position}: not the answer to its prompt: {row[column]!r:.80}")
    if position + 1 != rows:
        raise Failed(f"{path.name} has {position + 1:,} rows, not {rows:,}")


# --- what people read ---


def machine() -> str:
    """Say in one line on what this was measured."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    measured, serving = cores()
    pinning = "nothing pinned" if measured is None else f"measured on core {measured}, server on core {serving}"
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; {pinning}"


def versions(names: Iterable[str]) -> str:
    """Say which releases of these packages are installed."""
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown: the first column to the left, figures to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def say(text: str) -> None:
    """Tell people how far it is; the results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)
