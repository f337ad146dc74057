"""The entry of the command line: `batcher` and `python -m batcher`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from batcher.cli import main as run_cli  # noqa: PLC0415 - `import batcher.__main__` stays free of effects

    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
