"""Runs `batcher` in forks of one process, which may end themselves with SIGKILL at a chosen moment or find no room.

Each line on stdin is an order: a JSON object with the arguments of `_become`. Said of it on stdout: the process id and,
when the process has ended, its exit status. Each process is a fork of this one, which has LangChain loaded already: the
second that this takes is most of a short run's time, and is not what is tested here. Nothing of batcher's is patched.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any


def main() -> None:
    for module in ("batcher.cli", "batcher.engine.runner", "batcher.calls.factory"):
        importlib.import_module(module)
    gc.freeze()  # a fork would look through all of LangChain at its end
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        print(child, flush=True)  # noqa: T201 - to who gave the order
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - the same


def _become(
    arguments: Sequence[str],
    folder: str,
    *,
    at: Sequence[Any] | None = None,
    largest: int | None = None,
    on_largest: str = "SIG_DFL",
    output: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `batcher` with these arguments to its end.

    Args:
        arguments: of the command line.
        folder: to work in.
        at: the moment of death, as `_die_at` takes it.
        largest: bytes that a file may have.
        on_largest: what becomes of the signal that comes beyond them: with `SIG_IGN` the write fails, with `SIG_DFL`
            the process ends in the middle of it.
        output: the folder of the files `stdout` and `stderr`, which get what is printed; default: `folder`.
        environment: the variables of the process; default: those of this one.
    """
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(os.path.join(output or ".", name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)  # noqa: PTH118
    sys.argv = ["batcher", *arguments]
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.Handlers[on_largest])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if at:
        _die_at(*at)
    importlib.import_module("batcher.__main__").main()


def _die_at(where: str, what: str, nth: int) -> None:
    """Die just before something happens for the nth time.

    Args:
        where: one of Python's audit events, such as `os.rename`; or how a thread's name begins.
        what: what the event's arguments contain, as Python shows them; or how the name of a function of C begins,
            such as `execute`, which is called in such a thread.
        nth: from 1.
    """
    happened = 0

    def count() -> None:
        nonlocal happened
        happened += 1
        if happened == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == where and what in str(arguments):
            count()

    def watch(_frame: object, event: str, function: Any) -> None:
        if (
            event == "c_call"
            and function.__name__.startswith(what)
            and threading.current_thread().name.startswith(where)
        ):
            count()

    sys.addaudithook(hear)
    threading.setprofile(watch)
    sys.setprofile(watch)


if __name__ == "__main__":
    main()
