"""The entry of the command line: `batcher` and `python -m batcher`.

Invariant: the process always ends with one of the documented exit statuses, and shows no API key.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FAULT = 70
"""The exit status after a fault in batcher (`EX_SOFTWARE` of sysexits.h)."""


def main() -> None:
    """Run the command line and exit with its status."""
    _open_closed_streams()
    from batcher.words import command_line, give_up, say  # noqa: PLC0415 - `import batcher.__main__` stays free of effects

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe's encoding may lack the characters of a keyword
            stream.reconfigure(errors="backslashreplace")
    with command_line():  # around the report of a fault, too: it is a JSON line if the other messages are
        try:
            from batcher.cli import main as run_cli  # noqa: PLC0415 - as above

            status: str | int | None = run_cli(sys.argv[1:])
        except SystemExit as ended:  # raised by argparse after --help or a wrong option
            status = ended.code
        except Exception:  # noqa: BLE001 - foreseen errors are handled already: this is a fault, and is reported as one
            say(_fault(sys.argv[1:], traceback.format_exc()), "error")
            status = FAULT
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # as in `batcher --help | head`: the work was done before it was printed
            give_up(stream)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed (`2>&-`, `pythonw`).

    Otherwise the next file to be opened, such as the journal, would get the stream's number and a library's prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the process ends


def _fault(arguments: Sequence[str], trace: str) -> str:
    """Return the message about a fault: the traceback without secrets, and the facts that a bug report needs."""
    from batcher import __version__  # noqa: PLC0415 - as above
    from batcher.calls.endpoints import environment  # noqa: PLC0415 - as above
    from batcher.errors import SettingsError  # noqa: PLC0415 - as above
    from batcher.hiding import hide, secrets_in, without_user  # noqa: PLC0415 - as above

    variables: Mapping[str, str]
    try:
        variables = environment()
    except SettingsError:  # the .env cannot be read
        variables = dict(os.environ)
    verb = next((each for each in arguments if not each.startswith("-")), "")
    secrets = (*secrets_in(variables), *_secrets_in_arguments(arguments, variables))
    trace, verb = (hide(without_user(text), secrets) for text in (trace, verb))
    return (
        f"{trace}batcher: this is a fault in batcher, not in your input. What the journal has recorded is saved.\n"
        "Please report it with the traceback above, the command that you ran (without keys), and this line:\n"
        f"  batcher {__version__} {verb}, Python {platform.python_version()}, {platform.platform()}"
    )


def _secrets_in_arguments(arguments: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
    """Yield what the arguments, and the files that they name, give as keys: headers, and variables by name."""
    from batcher.hiding import secrets_among  # noqa: PLC0415 - as above

    texts = [*arguments]
    for name in (*arguments, "batcher.toml"):  # the file of a job is read without being named
        with contextlib.suppress(OSError, ValueError):  # no file, or none that holds text
            if (path := Path(name.rpartition("=")[2])).suffix == ".toml":
                texts.append(path.read_text(encoding="utf-8"))
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    headers = [each.partition("=")[2] for each in arguments if "=" in each and not each.startswith("-")]
    yield from secrets_among([*(variables[word] for word in words if word in variables), *headers])


if __name__ == "__main__":
    main()
