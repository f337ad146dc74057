"""Runs `batcher` in forks of one process, which may end themselves with SIGKILL at a chosen moment or find no room.

Each line on stdin is an order: a JSON object with the arguments of `_become`. Said of it on stdout: the process id and,
when the process has ended, its exit status. Each process is a fork of this one, which has LangChain loaded already: the
second that this takes is most of a short run's time, and is not what is tested here. Nothing of batcher's is patched.

With the path of a socket as its argument, it makes any number of processes at once, until stdin ends. Each connection
brings one order, with the process's standard streams, and gets the same two lines.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

# What most programs of the tests load.
_NEEDED = (
    "batcher.calls.factory",
    "batcher.cli.config",
    "batcher.engine.runner",
    "batcher.planning.outlook",
    "batcher.server.serve",
    "dotenv",
    "genai_prices",
)
_LONGEST = 2**20
"""Bytes of an order that are read at once."""


def main() -> None:
    for module in _NEEDED:
        importlib.import_module(module)
    gc.freeze()  # a fork would look through all of LangChain at its end
    if len(sys.argv) > 1:
        _listen(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        print(child, flush=True)  # noqa: T201 - to who gave the order
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - the same


def _listen(path: str) -> None:
    """Take orders until stdin ends: each gets a process that waits for the one that is ordered."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print(flush=True)  # noqa: T201 - to who waits until it may connect
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _keep(connection)
            connection.close()
            _forget()
        _forget()


def _forget() -> None:
    """Leave no zombies of the processes that waited."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(connection: socket.socket) -> NoReturn:
    """Make the process that a connection orders, and say how it ends."""
    order, streams, _, _ = socket.recv_fds(connection, _LONGEST, 3)
    while not order.endswith(b"\n"):
        order += connection.recv(_LONGEST)
    child = os.fork()
    if not child:
        connection.close()
        _become(**json.loads(order), streams=streams)
    for stream in [*range(3), *streams]:  # the process alone holds them: so who reads them sees its end
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # who gave the order may have been killed
        connection.sendall(b"%d\n" % child)
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def _become(
    arguments: Sequence[str],
    folder: str,
    *,
    streams: Sequence[int] | None = None,
    at: Sequence[Any] | None = None,
    largest: int | None = None,
    on_largest: str = "SIG_DFL",
    environment: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run `batcher` with these arguments to its end, or Python if they begin with `-c` or a script's name.

    Args:
        arguments: of the command line.
        folder: to work in.
        streams: stdin, stdout and stderr; default: nothing, and two files.
        at: the moment of death, as `_die_at` takes it.
        largest: bytes that a file may have.
        on_largest: what becomes of the signal that comes beyond them: with `SIG_IGN` the write fails, with `SIG_DFL`
            the process ends in the middle of it.
        environment: the variables of the process; default: those of this one.
    """
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)
    if streams is None:
        streams = [os.open(os.devnull, os.O_RDONLY)]
        streams += [os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of this process were made for a pipe or a file, and remember which.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    buffering = 1 if os.environ.get("PYTHONUNBUFFERED") else -1
    sys.stdout = open(1, "w", buffering, encoding="utf-8", closefd=False)  # noqa: SIM115 - the same
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    is_script = arguments[0] == "-c" or arguments[0].endswith(".py")
    sys.path[0] = os.path.dirname(arguments[0]) if is_script else os.getcwd()  # noqa: PTH109, PTH120 - as Python does
    sys.argv = [*arguments] if is_script else ["batcher", *arguments]
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.Handlers[on_largest])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if at:
        _die_at(*at)
    if is_script:
        _run_script()
    else:
        importlib.import_module("batcher.__main__").main()
    sys.exit()


def _run_script() -> None:
    """Run `-c TEXT` or a file, which `sys.argv` begins with, as Python would."""
    script = ModuleType("__main__")
    sys.modules["__main__"] = script
    if sys.argv[0] == "-c":
        name, text = "<string>", sys.argv.pop(1)
    else:
        name = script.__file__ = sys.argv[0]
        with open(name, encoding="utf-8") as file:  # noqa: PTH123 - as above
            text = file.read()
    exec(compile(text, name, "exec", dont_inherit=True), script.__dict__)  # noqa: S102 - what the test wrote


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
