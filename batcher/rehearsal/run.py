"""The program of a rehearsed run: `batcher`, which also ends when the rehearsal has gone, even if by `kill -9`.

Invariant: on POSIX systems it does not outlive the process that holds the other end of its stdin. On Windows a thread
that reads a pipe blocks all others that look at it.
"""

from __future__ import annotations

import os
import runpy
import threading

_GONE = 1
"""The exit status then; there is no process left to see it."""


def _end_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(_GONE)


if __name__ == "__main__":
    if os.name == "posix":
        threading.Thread(target=_end_with_stdin, name="batcher-rehearsal", daemon=True).start()
    runpy.run_module("batcher", run_name="__main__", alter_sys=True)
