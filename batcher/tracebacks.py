"""Tracebacks without batcher's own frames, for errors that batcher raises on purpose.

Invariant: an error keeps its message and its cause; only frames are left out.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Sequence
from types import TracebackType

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def shortened(error: BaseException, ours: type[BaseException] | tuple[type[BaseException], ...]) -> None:
    """Remove the frames below the caller from an error of batcher's, and batcher's frames from its causes.

    Args:
        error: that is raised again.
        ours: the errors that batcher raises on purpose.
    """
    error.__traceback__ = None
    for cause in _causes(error):
        cause.__traceback__ = None if isinstance(cause, ours) else _joined(_after_ours(cause.__traceback__))


def rendered(error: BaseException) -> list[str]:
    """Return what IPython shows of an error: the user's own frames, and the message.

    A cause is shown only if the user's own code raised it: the message says what all others say.
    """
    message = [f"{type(error).__name__}: {error}"]
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    frames = _joined(_before_ours(error.__traceback__))
    if shell is None or frames is None:
        return message
    causes = list(_causes(error))
    kept = [(each, each.__cause__, each.__context__, each.__suppress_context__, each.__traceback__) for each in causes]
    own = next((each for each in causes if _is_users(each.__traceback__)), None)
    above = error.__cause__, error.__context__, error.__suppress_context__
    try:
        error.__cause__ = own
        if own is not None:
            own.__traceback__, own.__cause__ = _joined(_after_ours(own.__traceback__)), None
        lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, frames, tb_offset=0)
    finally:
        for each, cause, context, is_suppressed, trace in kept:
            each.__cause__, each.__context__, each.__traceback__ = cause, context, trace
            each.__suppress_context__ = is_suppressed
        error.__cause__, error.__context__, error.__suppress_context__ = above
    return lines


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the nearest first."""
    seen = {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _is_ours(trace: TracebackType) -> bool:
    module = trace.tb_frame.f_globals.get("__name__", "")
    return isinstance(module, str) and module.partition(".")[0] == _PACKAGE


def _file(trace: TracebackType) -> str:
    return trace.tb_frame.f_code.co_filename


def _before_ours(trace: TracebackType | None) -> list[TracebackType]:
    """Return the user's frames: those above the first of batcher's, without IPython's."""
    frames = _frames(trace)
    end = next((number for number, each in enumerate(frames) if _is_ours(each)), len(frames))
    return [each for each in frames[:end] if not _file(each).startswith(_LIBRARIES)]


def _after_ours(trace: TracebackType | None) -> list[TracebackType]:
    """Return the frames below the last of batcher's."""
    frames = _frames(trace)
    ours = [number for number, each in enumerate(frames) if _is_ours(each)]
    return frames[ours[-1] + 1 :] if ours else frames


def _is_users(trace: TracebackType | None) -> bool:
    """Return whether a function of the user was called by batcher and raised an error."""
    below = _after_ours(trace)
    return bool(below) and not _file(below[0]).startswith(("<", *_LIBRARIES))


def _joined(frames: Sequence[TracebackType]) -> TracebackType | None:
    """Make one traceback of frames."""
    joined = None
    for each in reversed(frames):
        joined = TracebackType(joined, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return joined
