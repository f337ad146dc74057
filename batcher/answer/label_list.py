"""The list of labels as a user gives it.

Invariant: labels are texts with something to read in them, two at least, all different; an error names the place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from batcher.answer.decoration import BLANKS
from batcher.answer.given_file import json_of, text_of
from batcher.errors import SettingsError

_OTHER_SIGNS = "，、；;|"  # noqa: RUF001 - that may be meant to separate labels


class _Given(NamedTuple):
    """Labels that were given, each with its place for messages, and what was said of them."""

    names: list[tuple[str, str]]
    descriptions: dict[str, str]
    aliases: dict[str, str]


def label_list(value: object, where: str) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """Return the names of labels, their descriptions and their aliases. See `Labels.of`.

    Raises:
        SettingsError: they cannot be labels.
    """
    if isinstance(value, os.PathLike):
        value = f"@{os.fspath(value)}"
    given = _of_text(value, where) if isinstance(value, str) else _of_value(value, where)
    _check(given, where)
    return tuple(name for name, _ in given.names), given.descriptions, given.aliases


def _of_text(text: str, where: str) -> _Given:
    text = text.strip(BLANKS)
    if text.startswith("@"):
        return _of_file(text[1:].strip(), where)
    if text[:1] in {"[", "{"}:  # a list in JSON, whose labels may hold commas
        try:
            return _of_value(json.loads(text), where)
        except (ValueError, RecursionError):
            pass
    names = [name.strip(BLANKS) for name in text.split(",")]
    if len(names) == 1:
        _check_one(text, where)
    return _Given([(name, f"label {number}") for number, name in enumerate(names, 1)], {}, {})


def _check_one(text: str, where: str) -> None:
    if not text:
        raise SettingsError(f"{where} is empty: give the labels, as in positive,negative")
    if Path(text).is_file():
        raise SettingsError(f"{where}: {text!r} is a file; if it holds the labels, write @{text}")
    if sign := next((sign for sign in _OTHER_SIGNS if sign in text), ""):
        raise SettingsError(f"{where} has one label only, {text!r}: separate labels with ',', not with '{sign}'")


def _of_file(path: str, where: str) -> _Given:
    text = text_of(path, where)
    if path.lower().endswith(".json") or text.lstrip(BLANKS)[:1] in {"[", "{"}:
        return _of_value(json_of(text, path, where), f"{where}: {path}")
    lines = ((line.strip(BLANKS), number) for number, line in enumerate(text.splitlines(), 1))
    return _Given([(line, f"line {number} of {path}") for line, number in lines if line], {}, {})


def _of_value(value: Any, where: str) -> _Given:
    if isinstance(value, type) and issubclass(value, Enum):
        return _Given(_named((member.value for member in value), where), {}, {})
    if isinstance(value, Mapping):
        if isinstance(value.get("labels"), (list, tuple, Mapping)) and {*value} <= {"labels", "aliases"}:
            return _with_aliases(value, where)
        names = _named(value, where)
        return _Given(
            names, _descriptions(dict(zip((name for name, _ in names), value.values(), strict=True)), where), {}
        )
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # of NumPy and pandas, as df["label"].unique() is
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return _Given(_named(value, where), {}, {})
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    unordered = ": a set has no order, write sorted(...)" if isinstance(value, (set, frozenset)) else ""
    raise SettingsError(
        f"{where} must be labels: a text such as 'a,b,c', '@FILE', a list, an Enum, or a dictionary"
        f" label -> description; it is of type {name}{unordered}"
    )


def _with_aliases(value: Mapping[Any, Any], where: str) -> _Given:
    given = _of_value(value["labels"], where)
    aliases = value.get("aliases", {})
    if not isinstance(aliases, Mapping) or not all(isinstance(each, str) for pair in aliases.items() for each in pair):
        raise SettingsError(f"{where}: 'aliases' must hold labels by other texts, as in {{'good': 'positive'}}")
    return given._replace(aliases=dict(aliases))


def _named(values: Iterable[object], where: str) -> list[tuple[str, str]]:
    return [(_text(each, f"label {number}", where), f"label {number}") for number, each in enumerate(values, 1)]


def _text(value: object, place: str, where: str) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value != value:  # noqa: PLR0124 - as NaN is, which pandas has for a missing text
        raise SettingsError(f"{where}, {place}: the label is missing ({value}): leave it out")
    if isinstance(value, bool | float):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        raise SettingsError(f"{where}, {place}: a label must be a text; write {text!r} with quotation marks")
    raise SettingsError(f"{where}, {place}: a label must be a text, not of type {type(value).__name__}")


def _descriptions(values: Mapping[str, object], where: str) -> dict[str, str]:
    for name, said in values.items():
        is_list = isinstance(said, (list, tuple))
        aliases = f"; other texts for it: {{'labels': [...], 'aliases': {{'text': {name!r}}}}}" if is_list else ""
        if said is not None and not isinstance(said, str):
            raise SettingsError(
                f"{where}: the description of {name!r} must be a text, not of type {type(said).__name__}{aliases}"
            )
    return {name: said for name, said in values.items() if isinstance(said, str) and said}


def _check(given: _Given, where: str) -> None:
    seen: dict[str, str] = {}
    for name, place in given.names:
        text = name.strip(BLANKS)
        if not text:
            raise SettingsError(f"{where}, {place}: the label is empty")
        if text in seen:
            raise SettingsError(f"{where}, {place}: the label {text!r} is there already, as {seen[text]}: remove one")
        seen[text] = place
    if len(seen) < 2:
        what = f"has one label only, {next(iter(seen))!r}" if seen else "has no label"
        raise SettingsError(f"{where} {what}: give two at least")
    names = {name for name, _ in given.names}
    for alias, label in given.aliases.items():
        if label not in names:
            raise SettingsError(f"{where}: the alias {alias!r} stands for {label!r}, which is not a label")
        if not alias.strip(BLANKS):
            raise SettingsError(f"{where}: an alias of {label!r} is empty")
        if alias.strip(BLANKS) in seen and alias.strip(BLANKS) != label.strip(BLANKS):
            raise SettingsError(f"{where}: the alias {alias!r} of {label!r} is a label itself")
