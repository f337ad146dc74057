"""The entry of the command line: `batcher` and `python -m batcher`."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from batcher.cli import main as run_cli  # noqa: PLC0415 - `import batcher.__main__` stays free of effects

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a keyword may be in any script, and a pipe's encoding narrow
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run_cli(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `batcher demo | head`: nobody reads on, and the rest was done before it was printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    main()
