"""Real programs for tests: the command line, and the local server with its books."""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from batcher.calls.services import SERVICES
from batcher.server.answers import answer

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
# What a developer has in the environment or in a .env must not reach the programs.
_PRIVATE = {"API_KEY", "BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "MODEL"}
_PRIVATE |= {"AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"}
_PRIVATE |= {variable for service in SERVICES.values() for variable in service.key_variables}


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **extra}


class Fork:
    """A program that is a fork of `killed.py`; it is used as one of `subprocess.Popen` is.

    Attributes:
        pid: of the process itself.
        stdout: what it prints.
        stderr: what it prints for people.
        returncode: its exit status, negative for the signal that ended it, as soon as that was asked for.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, variables: dict[str, str]) -> None:
        order = {"arguments": arguments, "folder": str(cwd), "environment": variables}
        (out, written), (err, told) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(forks()))
            message = json.dumps(order).encode() + b"\n"
            sent = socket.send_fds(connection, [message], [nothing, written, told])
            connection.sendall(message[sent:])
            self._replies = connection.makefile("rb", buffering=0)
        for stream in (nothing, written, told):
            os.close(stream)
        self.stdout, self.stderr = (open(stream, encoding="utf-8") for stream in (out, err))  # noqa: PTH123, SIM115
        self.returncode: int | None = None
        self.pid = int(self._replies.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._replies], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._replies.readline())
            self._replies.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Read what it prints until its end."""
        with self.stdout, self.stderr, ThreadPoolExecutor(1) as beside:
            err = beside.submit(self.stderr.read)
            out = self.stdout.read()
            self.wait()
            return out, err.result()


Program: TypeAlias = subprocess.Popen[str] | Fork


@functools.cache
def forks() -> Path:
    """Start `killed.py`, which ends with this process; return the path of its socket."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, "socket")
    parent = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("killed.py"), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    atexit.register(folder.cleanup)
    atexit.register(parent.communicate)
    assert parent.stdout
    parent.stdout.readline()
    return path


@contextlib.contextmanager
def started(*arguments: str | Path, cwd: Path, **extra: str) -> Iterator[Program]:
    """Start `batcher` with these arguments, or a script; it does not outlive the block.

    It is a fork of a process that has its libraries loaded, which take most of a short program's time. With a variable
    that says how an interpreter starts, such as `PYTHONPATH`, it is a new one.
    """
    words = [*map(str, arguments)]
    program: Program
    if os.name != "posix" or any(name.startswith("PYTHON") for name in extra):
        program = subprocess.Popen(
            [sys.executable, *([] if words[0].endswith(".py") else ["-m", "batcher"]), *words],
            cwd=cwd,
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
    else:
        program = Fork(words, cwd, environment(**extra))
    try:
        yield program
    finally:
        program.kill()
        if program.stdout and not program.stdout.closed:
            program.communicate()


class Done(NamedTuple):
    """How a program ended."""

    status: int
    stdout: str
    stderr: str


def finish(program: Program) -> Done:
    """Wait for its end."""
    stdout, stderr = program.communicate()
    assert program.returncode is not None
    return Done(program.returncode, stdout, stderr)


def call(*arguments: str | Path, cwd: Path, **extra: str) -> Done:
    """Run `batcher` with these arguments to its end."""
    with started(*arguments, cwd=cwd, **extra) as program:
        return finish(program)


class LocalServer(NamedTuple):
    """A `batcher serve` in a process of its own."""

    base_url: str

    def books(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.base_url.removesuffix('/v1')}/stats") as response:  # noqa: S310 - ours
            books: dict[str, Any] = json.load(response)
        return books

    def reset(self) -> None:
        """Begin new books."""
        urllib.request.urlopen(f"{self.base_url.removesuffix('/v1')}/stats/reset", b"").close()  # noqa: S310 - ours

    def wait_for(self, count: int, what: str = "requests") -> None:
        """Return when the books hold this count.

        Between two looks the programs have the processor: at least for as long as a look at long books takes.
        """
        while True:
            began = time.perf_counter()
            found = self.books()[what]
            if found >= count:
                return
            time.sleep(max(0.002 if found else 0.02, 2 * (time.perf_counter() - began)))


@contextlib.contextmanager
def local_server(*knobs: str, cwd: Path, **extra: str) -> Iterator[LocalServer]:
    """Start `batcher serve` with these knobs and variables of the environment."""
    with started("serve", "--port", "0", *knobs, cwd=cwd, **extra) as program:
        assert program.stdout is not None
        yield LocalServer(program.stdout.readline().strip())


def table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with `csv` alone."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
    return path


def expected_answer(prompt: str) -> str:
    """Return what the local server answers to a prompt."""
    return answer({"messages": [{"role": "user", "content": prompt}]})
