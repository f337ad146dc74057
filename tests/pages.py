"""The pages of the documentation: their blocks of code, run as they stand, and renewed.

A block of a page is one of these, by the words behind its fence:

- `console`: commands behind `$ `, each with the output that a terminal shows below it; `^C` in an output is pressed as
  soon as the local server has answered ten requests, or a page says its address;
- `python`: a script; a `text` block right below it holds its output;
- a language and a file's name: that file, written before what follows;
- `text` anywhere else: a picture.

A comment right above a block says what is special: `<!-- not run: REASON -->`, or `<!-- numbers vary: REASON -->`: its
output is compared without its digits. The blocks of a page run in order, in one directory with a copy of `data/`.

`python tests/pages.py` writes the outputs of today into the pages, and the blocks of the README into its translation.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from programs import ROOT, LocalServer, environment, forks, local_server

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRANSLATION = ROOT / "README.zh-CN.md"

_FENCE = "```"
_CTRL_C = "^C\n"
_NOTE = re.compile(r"<!-- (not run|numbers vary): (.+) -->")
_SHOWN_URL = "http://127.0.0.1:19327"  # of `batcher serve` in a page; a test takes a free port

# What differs from one machine, or one second, to the next.
_VARIABLE = (
    (re.compile(r"\b(?:[\d,.]+ s|\d+m \d\ds)\b"), "N s"),
    (re.compile(r"\bN s {2,}"), "N s  "),  # the space up to the next column of a table
    (re.compile(r"host \S+, process \d+"), "host H, process N"),
    (re.compile(r"http://127\.0\.0\.1:\d+/[\w-]{32,}/"), "http://127.0.0.1:N/TOKEN/"),
    (re.compile(r"[\d,.]+ rows/s"), "N rows/s"),
    (re.compile(r"\d\d:\d\d:\d\d"), "HH:MM:SS"),
    # Whether a request is in flight when Ctrl-C is pressed is chance.
    (re.compile(r"^Stopping: waiting up to .*\n", re.MULTILINE), ""),
    # A few slow rows among the first are not waited for.
    (re.compile(r"^The first [\d,]+ rows, drawn at random: .*$", re.MULTILINE), "The first rows"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        first, last: the numbers of its lines, from 0, without the fences.
        info: what stands behind its fence.
        text: its lines.
        note: `not run` or `numbers vary`, or empty.
        reason: of the note.
    """

    first: int
    last: int
    info: str
    text: str
    note: str
    reason: str

    @property
    def file(self) -> str:
        """The file that it is, or empty."""
        return self.info.partition(" ")[2]


@dataclass(frozen=True)
class Difference:
    """An output that is not what its page shows."""

    line: int
    command: str
    shown: str
    found: str


def blocks_of(page: Path) -> list[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith(_FENCE)]
    assert len(fences) % 2 == 0, f"{page.name}: a block is not closed"
    return [_block(lines, *pair) for pair in zip(fences[::2], fences[1::2], strict=True)]


def _block(lines: list[str], opening: int, closing: int) -> Block:
    found = _NOTE.fullmatch(lines[opening - 1]) if opening else None
    note, reason = found.groups() if found else ("", "")
    text = "".join(f"{line}\n" for line in lines[opening + 1 : closing])
    return Block(opening + 1, closing, lines[opening].removeprefix(_FENCE), text, note, reason)


def prose_of(page: Path) -> str:
    """Return a page without its blocks."""
    return re.sub(rf"^{_FENCE}.*?^{_FENCE}$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def steps_of(text: str) -> list[tuple[str, str]]:
    """Split a console block into commands and what each shows; a command goes on behind a backslash."""
    steps: list[tuple[str, str]] = []
    goes_on = False
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif goes_on:
            steps[-1] = (steps[-1][0] + line, "")
        else:
            command, shown = steps[-1]
            steps[-1] = (command, shown + line)
            continue
        goes_on = line.rstrip().endswith("\\")
    return steps


class Session:
    """A directory in which the blocks of one page run, with `batcher` and `python` on the path.

    Attributes:
        folder: in which the commands run.
        status: of the command that ended last.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, programs = folder / "work", folder / "bin"
        shutil.copytree(ROOT / "data", self.folder / "data")
        shutil.copy(ROOT / ".env.example", self.folder)
        programs.mkdir()
        python = f'exec "{sys.executable}"'
        fork = f'{python} -IS "{Path(__file__).with_name("forked.py")}" "{forks()}" "$@"'
        scripts = f'case $1 in -c | *.py) {fork} ;; *) {python} "$@" ;; esac'
        for name, program in (("python", scripts), ("batcher", fork)):
            (programs / name).write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        path = f"{programs}:{environment()['PATH']}"
        # What is printed and what is told come in the order in which a terminal shows them.
        self._environment = environment(PATH=path, COLUMNS="80", PYTHONUNBUFFERED="1")
        # A command that would open a browser finds none.
        self._environment |= {"DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": "true"}
        self._stack = stack
        self._server: LocalServer | None = None
        self.status = 0

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, command: str, *, is_interrupted: bool = False) -> str:
        """Run a command of a shell, and return what it shows."""
        if command.startswith("batcher serve ") and command.endswith("&\n"):
            knobs = shlex.split(command.partition("2>")[0].removeprefix("batcher serve ").removesuffix("&\n"))
            self._server = self._stack.enter_context(local_server(*knobs, cwd=self.folder))
            return f"{_SHOWN_URL}/v1\n"
        if command == "kill %1\n":
            self._stack.close()
            return ""
        return self._do("bash", "-c", f"(exit {self.status})\n{command}", is_interrupted=is_interrupted)

    def run_script(self, text: str) -> str:
        """Run a script of Python, and return what it shows."""
        return self._do("python", "-c", text)

    def _do(self, *arguments: str, is_interrupted: bool = False) -> str:
        url = self._server.base_url.removesuffix("/v1") if self._server else _SHOWN_URL
        if is_interrupted and self._server:
            self._server.reset()
        program = subprocess.Popen(
            [argument.replace(_SHOWN_URL, url) for argument in arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )
        shown = ""
        if is_interrupted and any("batcher review " in argument for argument in arguments):
            assert program.stdout
            while line := program.stdout.readline():
                shown += line
                if line.startswith("http://"):
                    break
            os.killpg(program.pid, signal.SIGINT)
        elif is_interrupted and self._server:
            while program.poll() is None and self._server.books()["answered"] < 10:
                time.sleep(0.005)  # leaves the processor to the programs
            os.killpg(program.pid, signal.SIGINT)
        shown += program.communicate()[0]
        self.status = program.returncode
        return shown.replace(url, _SHOWN_URL)


def differences(page: Path) -> Iterator[Difference]:
    """Run the blocks of a page, and compare what they show with what stands there."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        session = Session(Path(folder), stack)
        blocks = blocks_of(page)
        for block, after in itertools.zip_longest(blocks, blocks[1:]):
            if block.note == "not run":
                continue
            if block.file:
                session.write(block.file, block.text)
            elif block.info == "console":
                yield from _of_console(session, block)
            elif block.info == "python":
                is_output = after is not None and after.info == "text" and after.first <= block.last + 3
                yield from _of_script(session, block, after if is_output else None)


def _of_console(session: Session, block: Block) -> Iterator[Difference]:
    line = block.first
    for command, shown in steps_of(block.text):
        line += command.count("\n")
        found = session.run(command, is_interrupted=_CTRL_C in shown)
        if steady(found, block.note) != steady(shown.replace(_CTRL_C, ""), block.note):
            yield Difference(line, command, shown, _CTRL_C * (_CTRL_C in shown) + found)
        line += shown.count("\n")


def _of_script(session: Session, block: Block, output: Block | None) -> Iterator[Difference]:
    found = session.run_script(block.text)
    if output is None:
        assert session.status == 0, found
    elif steady(found, output.note) != steady(output.text, output.note):
        yield Difference(output.first, block.text, output.text, found)


def steady(text: str, note: str = "") -> list[str]:
    """Return lines without what differs from run to run."""
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    if note:
        # With the number varies the noun: `1 request in flight`, `2 requests in flight`.
        text = re.sub(r"\d[\d,.]*( (?:chunk|request|row)s?\b)?", lambda found: "N" + (found[1] or "").rstrip("s"), text)
    return [line.rstrip() for line in text.splitlines()]


def renew(page: Path) -> None:
    """Write what the commands of a page show today into it."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    for each in reversed(list(differences(page))):
        lines[each.line : each.line + each.shown.count("\n")] = each.found.splitlines(keepends=True)
        sys.stdout.write(f"{page.name}, line {each.line + 1}: {each.command}")
    page.write_text("".join(lines), encoding="utf-8")


def renew_translation() -> None:
    """Put the blocks of the README in the place of those of its translation."""
    lines = TRANSLATION.read_text(encoding="utf-8").splitlines(keepends=True)
    pairs = list(zip(blocks_of(ROOT / "README.md"), blocks_of(TRANSLATION), strict=True))
    for block, translated in reversed(pairs):
        lines[translated.first : translated.last] = block.text.splitlines(keepends=True)
    TRANSLATION.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    for each in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        renew(each)
    renew_translation()
