"""What can go wrong with a run as a whole, sorted by what the caller can do about it.

A failed row is never an exception: it is a value (`records.Failure`) that ends in the row's own result.
What is raised stops the run:

    BatcherError
     +- SettingsError       an option is wrong: mend it; nothing was sent, nothing was written
     |   +- InputError      the table, a row of it or the prompt is wrong: mend the input
     |   +- ChangedError    rows have an answer to a different question: choose
     +- OutputError         the output directory or its journal cannot be used: mend the directory
     |   +- DiskFull        the disk has no room: make room, and run the same command again
     |   +- KeywordBusy     another run or program has the journal open: wait for its end, or stop it
     +- RunStopped          the run ended early, all that arrived is saved: the same call goes on
         +- BudgetReached   the budget does not cover the next request: raise it
         +- AnswersUnfit    too many answers cannot be used: change the prompt or the labels
         +- BatchesOut      its batches go on at the service: the same call fetches them
         +- EndpointsLost   no endpoint is left that takes calls: mend the key, the model or the service
    Interrupted             a KeyboardInterrupt that carries the report; all that arrived is saved

Any other exception is a fault in batcher, or was raised by a library: what had arrived is saved, and the command line
prints the traceback and exits with status 70.
"""

from __future__ import annotations

import errno
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from batcher.tracebacks import rendered, shortened
from batcher.visible import harmless

if TYPE_CHECKING:
    from batcher.output.report import Report

P = ParamSpec("P")
T = TypeVar("T")

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas of this kind
_LONGEST = 500  # characters of a foreign error's message


def in_words(error: BaseException) -> str:
    """Return an error of foreign code as one line: its class, and its message if it has one."""
    try:
        said = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - its own code may raise anything, and the class is still worth knowing
        said = ""
    line = " ".join("".join(char if char.isprintable() else " " for char in said[: 2 * _LONGEST]).split())
    name = type(error).__name__
    return f"{name}: {line[:_LONGEST]}" if line else name


class BatcherError(Exception):
    """The base of every error that batcher raises on purpose."""

    def __init__(self, message: str = "") -> None:
        super().__init__(harmless(message))

    def _render_traceback_(self) -> list[str]:
        """Show it in IPython, which asks for this, with the user's own frames alone."""
        return rendered(self)


class SettingsError(BatcherError):
    """An option, an environment variable or an endpoint file is wrong. Nothing was sent."""


class InputError(SettingsError):
    """The table, a row of it, or the prompt cannot be used. Nothing was sent."""


class ChangedError(SettingsError):
    """Rows of this keyword have an answer already, but to a different question. Nothing was sent."""


class OutputError(BatcherError):
    """The output directory or the journal in it cannot be used. What it holds is left as it is."""


class DiskFull(OutputError):
    """The disk, or the user's share of it, has no room for the journal or a file."""


def output_error(message: str, error: BaseException) -> OutputError:
    """Return the error about a file that cannot be written or read.

    Args:
        message: what failed.
        error: of the system or of SQLite, whose errors have a name.
    """
    is_full = getattr(error, "errno", None) in _FULL or getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
    return (DiskFull if is_full else OutputError)(message)


class KeywordBusy(OutputError):
    """Another run, in this process or in another one, or another program has the journal of this keyword open."""


class RunStopped(BatcherError):
    """The run ended before every row had its result.

    Attributes:
        report: what was done; everything in it is saved.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class BudgetReached(RunStopped):
    """The budget does not cover the next request."""


class AnswersUnfit(RunStopped):
    """Too many answers cannot be used: the canary stopped the run. Change the prompt or the labels."""


class BatchesOut(RunStopped):
    """Everything is submitted, and batches are at work at their services: the same call fetches what came of them."""


class EndpointsLost(RunStopped):
    """Every endpoint has left the pool: a wrong key, an unknown model, no quota, no service at the address."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything that had arrived was saved.

    Attributes:
        report: what was done; everything in it is saved.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def _render_traceback_(self) -> list[str]:
        """Show it in IPython, which asks for this, with the user's own frames alone."""
        return rendered(self)


def outermost(function: Callable[P, T]) -> Callable[P, T]:
    """Let a public function raise batcher's errors itself: a traceback then shows no frame below it.

    Faults, and errors of libraries, keep all their frames.
    """
    ours = (BatcherError, Interrupted)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ours as error:
            shortened(error, ours)
            raise error  # noqa: TRY201 - a bare `raise` would bring the frames back

    @functools.wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
        try:
            return await cast("Awaitable[object]", function(*args, **kwargs))
        except ours as error:
            shortened(error, ours)
            raise error  # noqa: TRY201 - as above

    return cast("Callable[P, T]", awaited) if inspect.iscoroutinefunction(function) else called
