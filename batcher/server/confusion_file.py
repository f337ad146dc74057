"""Reads the stated errors of the local server's model from a TOML or JSON file.

Invariant: a file is read as a whole or refused; the message names the file, the key, and what to write.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import InputError, SettingsError
from batcher.server.confusion import Confusion, Errors, MarkedTruth, Stage, TextTruth, Truth
from batcher.visible import on_one_line
from batcher.words import blamed, escape_hint, toml_hint

_TRUTH = ("table", "text", "gold", "truth", "marker", "labels")
_ERRORS = ("accuracy", "chances", "spread", "stay")
_SLACK = 1e-6  # by which chances may miss 1
_ROWS_AT_ONCE = 1000


def read_confusion(path: str | os.PathLike[str]) -> Confusion:
    """Read a file; a table that it names is looked for beside it.

    Raises:
        SettingsError: it cannot be read, or what it states is wrong.
        InputError: its table cannot be read.
    """
    name = os.fspath(path)
    where = f"{blamed('confusion')} {on_one_line(name)}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror}{escape_hint(name)}") from error
    except ValueError as error:  # bad UTF-8, or a NUL in the path
        raise SettingsError(f"{where} is not a text file: {error}") from error
    is_json = Path(path).suffix.lower() == ".json"
    try:
        stated = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if is_json else toml_hint(error)
        raise SettingsError(f"{where} is not a {'JSON' if is_json else 'TOML'} file: {error}{hint}") from error
    return confusion_of(stated, where, Path(path).parent)


def confusion_of(stated: Mapping[str, Any], where: str = "confusion", folder: Path = Path()) -> Confusion:
    """Return what a file states, or a dictionary like it.

    Args:
        stated: the truth by `truth` (a dictionary from text to true label), by `table`, `text` and `gold`, or by
            `marker`; the errors by `accuracy`, `chances`, `spread` and `stay`; `labels`, `models`, `drift`.
        where: its name in messages.
        folder: in which `table` is looked for.

    Raises:
        SettingsError: what is stated is wrong.
        InputError: the table cannot be read.
    """
    if not isinstance(stated, Mapping):
        raise SettingsError(f'{where} must hold an object such as {{"truth": {{...}}, "accuracy": 0.8}}')
    _check_keys(stated, (*_TRUTH, *_ERRORS, "models", "drift"), where)
    known = _truth(stated, where, folder)
    labels = [*_labels(stated, where), *known.labels, *_true_labels(stated, where)]
    reader = _Reader(where, tuple(dict.fromkeys(labels)), known.labels)
    return Confusion(known.truth, reader.models(stated), known.source, known.texts)


class _Known(NamedTuple):
    """The truth, the true labels that it can say as far as they are known, its name, and how many texts it has."""

    truth: Truth
    labels: Sequence[str]
    source: str
    texts: int


def _truth(stated: Mapping[str, Any], where: str, folder: Path) -> _Known:
    given = [key for key in ("table", "truth", "marker") if key in stated]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise SettingsError(
            f"{where}: give the true labels in one way: table (with text and gold), truth, or marker; it has {found}"
        )
    if stray := [key for key in ("text", "gold") if key in stated and given != ["table"]]:
        raise SettingsError(f"{where}: {stray[0]} names a column of a table: give table beside it")
    if given == ["marker"]:
        marker = _marker(stated["marker"], where)
        return _Known(MarkedTruth(marker), (), f"the marker {marker.pattern!r}", 0)
    if given == ["truth"]:
        texts = _mapping(stated, "truth", "a table from text to true label", where)
        source = f"{where}, truth"
        pairs: Iterable[tuple[str, object, object]] = ((source, text, label) for text, label in texts.items())
    else:
        source, pairs = _rows(stated, where, folder)
    labels = _by_text(pairs, source)
    return _Known(TextTruth(labels), tuple(dict.fromkeys(labels.values())), source, len(labels))


def _marker(given: object, where: str) -> re.Pattern[str]:
    try:
        marker = re.compile(given) if isinstance(given, str) else None
    except (re.error, RecursionError, OverflowError) as error:
        raise SettingsError(f"{where}: marker is not a regular expression: {error}") from error
    if marker is None or marker.groups < 1:
        raise SettingsError(
            f"{where}: marker must be a regular expression with the true label in its first group, such as"
            rf" 'kind: (\w+)', not {_shown(given)}"
        )
    return marker


def _rows(stated: Mapping[str, Any], where: str, folder: Path) -> tuple[str, Iterable[tuple[str, object, object]]]:
    """Return the name of the table, and place, text and true label of each row."""
    from batcher.input.column_names import column_index  # noqa: PLC0415 - pyarrow is for this alone
    from batcher.input.opening import open_dataset  # noqa: PLC0415

    for key in ("table", "text", "gold"):
        if not isinstance(stated.get(key), str):
            what = "the path of a table" if key == "table" else f"the name of a column of {stated['table']}"
            raise SettingsError(f"{where}: {key} must be {what}, not {_shown(stated.get(key))}")
    try:
        dataset = open_dataset(str(folder / Path(stated["table"]).expanduser()))
        text, gold = (column_index(stated[key], dataset.columns, dataset.name) for key in ("text", "gold"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error

    def pairs() -> Iterable[tuple[str, object, object]]:
        for part in dataset.slices(_ROWS_AT_ONCE):
            for position, values in enumerate(part.rows, part.start):
                yield dataset.where(position), values[text], values[gold]

    return dataset.name, pairs()


def _by_text(pairs: Iterable[tuple[str, object, object]], source: str) -> dict[str, str]:
    """Return the true label of each text; rows without a label are left out."""
    labels: dict[str, str] = {}
    for place, *cells in pairs:
        # A number is a label, too.
        text, label = (("" if each is None else str(each)).strip() for each in cells)
        if not label:
            continue
        if not text:
            raise SettingsError(f"{place}: the text of a row with a true label is empty: leave the row out")
        if labels.setdefault(text, label) != label:
            said = f"has the true label {label!r} here and {labels[text]!r} before: keep one of them"
            raise SettingsError(f"{place}: the text {_shown(text)} {said}")
    if not labels:
        raise SettingsError(f"{source} has no true labels")
    return labels


class _Reader:
    """Reads the errors of each model.

    Args:
        where: the name of the file in messages.
        labels: all true labels.
        known: those that the truth is known to say.
    """

    def __init__(self, where: str, labels: Sequence[str], known: Sequence[str]) -> None:
        self._where = where
        self._labels = labels
        self._known = known

    def models(self, stated: Mapping[str, Any]) -> dict[str, tuple[Stage, ...]]:
        """Return the stages of each model; those of "" are for models without a name in the file."""
        models = _mapping(stated, "models", "a table from a model's name to its errors", self._where)
        is_bare = not any(key in stated for key in ("accuracy", "chances"))
        if is_bare and not models:
            raise SettingsError(
                f"{self._where}: say how the model answers, by accuracy (such as 0.8), chances, or models"
            )
        common = self._errors(stated, Errors({}), self._where, is_whole=not is_bare)
        found = {"": (Stage(0, common), *self._drift(stated, common, self._where))}
        for name, given in models.items():
            where = f"{self._where}, models.{name}"
            if not isinstance(given, Mapping):
                raise SettingsError(f"{where} must be a table such as {{accuracy = 0.8}}, not {_shown(given)}")
            _check_keys(given, (*_ERRORS, "drift"), where)
            own = self._errors(given, common, where)
            found[str(name)] = (Stage(0, own), *self._drift(given, own, where))
        return found

    def _drift(self, stated: Mapping[str, Any], errors: Errors, where: str) -> Iterable[Stage]:
        """Yield the later stages, each with what the one before has and it does not state."""
        steps = stated.get("drift", [])
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
            raise SettingsError(f"{where}: drift must be a list of tables, each with after: write [[drift]] in TOML")
        before = 0
        for number, step in enumerate(steps, 1):
            place = f"{where}, drift {number}"
            _check_keys(step, ("after", *_ERRORS), place)
            after = step.get("after")
            if not isinstance(after, int) or isinstance(after, bool) or after <= before:
                least = f", more than {before}" if before else ", 1 or more"
                raise SettingsError(f"{place}: after must be a number of answers{least}, not {_shown(after)}")
            errors, before = self._errors(step, errors, place), after
            yield Stage(after, errors)

    def _errors(self, stated: Mapping[str, Any], outer: Errors, where: str, *, is_whole: bool = True) -> Errors:
        """Return the errors that a table states; what it does not state is as outside of it.

        Args:
            stated: the table.
            outer: the errors outside.
            where: its name in messages.
            is_whole: refuse a table that leaves a true label without chances.
        """
        accuracy = _share(stated, "accuracy", None, where)
        chances = dict(outer.chances) if accuracy is None else {each: {each: accuracy} for each in self._labels}
        rows = _mapping(stated, "chances", "a table from true label to the chances of each answer", where)
        chances |= {str(true): self._row(given, f"{where}, chances.{true}") for true, given in rows.items()}
        if is_whole and (missing := [label for label in self._known if label not in chances]):
            raise SettingsError(
                f"{where}: nothing says how rows with the true label {missing[0]!r} are answered: give"
                f" chances.{missing[0]}, or accuracy for all that have none"
            )
        whole = {true: self._whole(true, row, f"{where}, chances.{true}") for true, row in chances.items()}
        spread = _share(stated, "spread", outer.spread, where) or 0.0
        return Errors(whole, spread, _share(stated, "stay", outer.stay, where))

    def _row(self, given: object, where: str) -> dict[str, float]:
        if not isinstance(given, Mapping):
            raise SettingsError(f"{where} must be a table from answer to chance, not {_shown(given)}")
        return {str(label): _share(given, label, None, where) or 0.0 for label in given}

    def _whole(self, true: str, row: Mapping[str, float], where: str) -> dict[str, float]:
        """Return a row of the matrix whose chances add up to 1: what is left goes evenly to labels without a chance."""
        total = sum(row.values())
        others = [label for label in self._labels if label not in row]
        if total > 1 + _SLACK:
            raise SettingsError(f"{where}: the chances add up to {total:g}, and may not exceed 1")
        if total >= 1 - _SLACK:
            return {true: 0.0, **{label: chance / total for label, chance in row.items()}}
        if not others:
            raise SettingsError(f"{where}: the chances add up to {total:g}, and no other label is left for the rest")
        rest = dict.fromkeys(others, (1 - total) / len(others))
        return {**row, **rest}


def _labels(stated: Mapping[str, Any], where: str) -> list[str]:
    given = stated.get("labels", [])
    if not isinstance(given, list) or not all(isinstance(label, str | int) and str(label) for label in given):
        raise SettingsError(f"{where}: labels must be a list of labels, not {_shown(given)}")
    return [str(label) for label in given]


def _true_labels(stated: Mapping[str, Any], where: str) -> Iterable[str]:
    """Yield the true labels that the chances of any model and stage have a row for."""
    models = _mapping(stated, "models", "a table from a model's name to its errors", where).values()
    tables = [table for table in (stated, *models) if isinstance(table, Mapping)]
    steps = [step for table in tables for step in _list(table.get("drift")) if isinstance(step, Mapping)]
    for table in (*tables, *steps):
        chances = table.get("chances")
        yield from map(str, chances if isinstance(chances, Mapping) else ())


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_keys(stated: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in stated:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise SettingsError(f"{where}: there is no key {key!r}: {advice}")


def _mapping(stated: Mapping[str, Any], key: str, what: str, where: str) -> Mapping[str, Any]:
    given = stated.get(key, {})
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where}: {key} must be {what}, not {_shown(given)}")
    return given


def _share(stated: Mapping[str, Any], key: str, default: float | None, where: str) -> float | None:
    if key not in stated:
        return default
    value = stated[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise SettingsError(f"{where}: {key} must be a share from 0 to 1, not {_shown(value)}")
    return float(value)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
