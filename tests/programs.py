"""Real programs for tests: the command line, and the local server with its books."""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


@contextlib.contextmanager
def started(*arguments: str | Path, cwd: Path, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """Start `batcher` with these arguments, or a script; it does not outlive the block."""
    entry = [] if str(arguments[0]).endswith(".py") else ["-m", "batcher"]
    program = subprocess.Popen(
        [sys.executable, *entry, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


class Done(NamedTuple):
    """How a program ended."""

    status: int
    stdout: str
    stderr: str


def finish(program: subprocess.Popen[str]) -> Done:
    """Wait for its end."""
    stdout, stderr = program.communicate()
    return Done(program.returncode, stdout, stderr)


def call(*arguments: str | Path, cwd: Path, **extra: str) -> Done:
    """Run `batcher` with these arguments to its end.

    It is a fork of a process that has its libraries loaded, unless the interpreter itself is to start in another way.
    """
    if os.name != "posix" or "PYTHONPATH" in extra or str(arguments[0]).endswith(".py"):
        with started(*arguments, cwd=cwd, **extra) as program:
            return finish(program)
    return _forks().call([*map(str, arguments)], cwd, environment(**extra))


class _Forks:
    """Makes forks of `killed.py`: loading LangChain takes most of a short program's time."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("killed.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        atexit.register(self._parent.communicate)

    def call(self, arguments: list[str], folder: Path, variables: dict[str, str]) -> Done:
        with tempfile.TemporaryDirectory() as output:
            order = {"arguments": arguments, "folder": str(folder), "output": output, "environment": variables}
            assert self._parent.stdin
            assert self._parent.stdout
            print(json.dumps(order), file=self._parent.stdin, flush=True)
            self._parent.stdout.readline()  # the process id
            status = int(self._parent.stdout.readline())
            said = [Path(output, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return Done(status, *said)


@functools.cache
def _forks() -> _Forks:
    return _Forks()


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
        """Return when the books hold this count; between two checks the programs have the processor."""
        while (found := self.books()[what]) < count:
            time.sleep(0.002 if found else 0.02)  # before the first one a program loads its libraries


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
