"""Mends a value that almost fits its schema: `"3"` for 3, `"Positive"` for `positive`, null for what may be absent.

Invariant: only a value that the schema refuses is changed, and only to one that says the same.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from batcher.answer.json_in_text import found
from batcher.answer.labels import Labels

_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?(?:[eE][+-]?\d{1,3})?")
_WORDS = {"true": True, "false": False, "null": None}
_NO_VALUE = object()


def place(path: Iterable[str | int]) -> str:
    """Return where in a value something stands, as `$.items[0].name`."""
    return "$" + "".join(
        f".{part}" if isinstance(part, str) and _NAME.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"
        for part in path
    )


def mended(holder: list[Any], error: Any) -> bool:
    """Change the place that an error is about, if it can be mended; return whether it was changed.

    Args:
        holder: holds the value, alone.
        error: a `jsonschema_rs.ValidationError`.
    """
    path: list[Any] = [0, *error.instance_path]
    parent: Any = holder
    try:
        for part in path[:-1]:
            parent = parent[part]
        value = parent[path[-1]]
    except (LookupError, TypeError):  # another error's mending removed it
        return False
    if value is None and isinstance(parent, dict):
        del parent[path[-1]]  # if the field is required, the value fails by that
        return True
    if isinstance(value, (dict, list)):
        return False
    meant = next(_meant(value, [*_refusals(error)]), _NO_VALUE)
    if meant is _NO_VALUE:
        return False
    parent[path[-1]] = meant
    return True


def _refusals(error: Any) -> Iterator[Any]:
    """Yield an error, or instead of one about several schemas what each of them says of the value itself."""
    branches = getattr(error.kind, "context", None)
    if branches is None:
        yield error
        return
    for branch in branches:
        for each in branch:
            yield from _refusals(each)


def _meant(value: Any, refusals: list[Any]) -> Iterator[Any]:
    """Yield what a value may mean to schemas that all refuse it; nothing if one of them admits texts."""
    types = {name for each in refusals for name in getattr(each.kind, "types", None) or ()}
    options = [option for each in refusals for option in _options(each.kind)]
    is_about_kind = all(hasattr(each.kind, "types") or _options(each.kind) for each in refusals)
    if not isinstance(value, str):
        text = json.dumps(value)
        yield from (option for option in options if option == text)
        return
    texts = tuple(option for option in options if isinstance(option, str))
    if texts and (label := _labels(texts).said_by(value)) is not None:
        yield label
    if is_about_kind and "string" not in types and not texts:
        yield from (each for each in _typed(value) if _kind(each) & types or _is_in(each, options))


def _options(kind: Any) -> list[Any]:
    if hasattr(kind, "expected_value"):
        return [kind.expected_value]
    return [*(getattr(kind, "options", None) or ())]


def _typed(text: str) -> Iterator[Any]:
    """Yield the value other than a text that a text spells."""
    text = text.strip()
    if text.lower() in _WORDS:
        yield _WORDS[text.lower()]
    elif _NUMBER.fullmatch(text) or text[:1] in {"[", "{"}:
        yield from (each.value for each in found(text, repaired=False) if not each.error)


def _kind(value: Any) -> set[str]:
    names = {bool: {"boolean"}, int: {"integer", "number"}, float: {"integer", "number"}, type(None): {"null"}}
    return names.get(type(value), {"array"} if isinstance(value, list) else {"object"})


def _is_in(value: Any, options: list[Any]) -> bool:
    return any(type(value) is type(option) and value == option for option in options)


@functools.lru_cache(100)
def _labels(names: tuple[str, ...]) -> Labels:
    return Labels(names)
