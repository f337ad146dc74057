"""The text of a file that holds labels or a schema.

Invariant: what cannot be read is a `SettingsError` that names the option, the file and the line.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from batcher.errors import SettingsError
from batcher.nesting import TOO_DEEP, is_too_deep


def text_of(path: str, where: str) -> str:
    """Read a file's text.

    Raises:
        SettingsError: there is none, or it is not UTF-8.
    """
    if not path:
        raise SettingsError(f"{where}: the name of the file is missing")
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # the latter for a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"{where}: {path!r} cannot be read: {reason}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SettingsError(f"{where}: {path} is UTF-16, not UTF-8; save the file as UTF-8") from None
        line = content[: error.start].count(b"\n") + 1
        raise SettingsError(f"{where}: {path}, line {line}: it is not UTF-8; save the file as UTF-8") from None


def json_of(text: str, path: str, where: str) -> Any:
    """Return the value of a file's JSON.

    Raises:
        SettingsError: it is not JSON, or gives a key twice.
    """
    if is_too_deep(text):
        raise SettingsError(f"{where}: {path}: {TOO_DEEP}")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{where}: {path}, line {error.lineno}: it is not JSON: {error.msg}") from None
    except ValueError as error:
        raise SettingsError(f"{where}: {path}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return made
