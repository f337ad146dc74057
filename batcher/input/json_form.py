"""Says what a JSON file holds instead of rows, and what to do: rows inside an object, or as pandas writes them.

Invariant: only files that are refused come here; no rows are taken out of an object unasked, because an object may be a
row itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batcher.words import by_reader

_DEEPEST = 3  # levels that are searched for rows
_NAMES = ("data", "rows", "records")
"""Where rows are, even if the object holds single values, too."""

_FEWEST = 2  # rows that make such a list one of rows
_PLAIN = re.compile(r"[A-Za-z_]\w*")


def is_wrapped(found: Mapping[str, Any]) -> bool:
    """Return whether the only object of a file holds rows, or is made of rows, instead of being one."""
    if not found or all(isinstance(value, (dict, list)) for value in found.values()) or _is_geojson(found):
        return True
    return any(_are_rows(found.get(name)) and len(found[name]) >= _FEWEST for name in _NAMES)


def advice(name: str, found: Mapping[str, Any]) -> str:
    """Return what such an object is, and how to get its rows out.

    Args:
        name: of the file.
        found: the object.
    """
    if _is_geojson(found):
        return f"a GeoJSON, with the rows in its features: {_taken(name, ('features',), ('properties',))}"
    if isinstance(found.get("columns"), list) and isinstance(found.get("data"), list):
        return f'it looks like pandas\' orient="split": {_by_pandas(name, "**%s")}'
    if paths := sorted(_lists(found, ()), key=lambda path: (path[-1] not in _NAMES, len(path))):
        shown = " and ".join(repr(".".join(path)) for path in paths[:3])
        several = "s are" if len(paths) > 1 else " is"
        return f"the list{several} in {shown}: {_taken(name, paths[0])}"
    values = list(found.values())
    if values and all(isinstance(value, dict) and value for value in values) and len({*map(tuple, values)}) == 1:
        kind, way = ("columns", "%s") if all(key.isdigit() for key in values[0]) else ("index", "list(%s.values())")
        return f'it looks like pandas\' orient="{kind}": {_by_pandas(name, way)}'
    if values and values[0] and all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return f"it has a list for each column: {_by_pandas(name, '%s')}"
    return 'write an array of objects, or one object a line (DataFrame.to_json(path, orient="records") in pandas)'


def advice_on_items(name: str, beginning: str) -> str:
    """Return what to do about an array of other things than objects, by the beginning of an item; empty if unknown."""
    if beginning == '"':
        way = by_reader(command_line=f"jq -c '.[] | {{text: .}}' {_files(name)}", python=f"give {_loaded(name)}")
        return f"; of texts, {way}"
    if beginning == "[":
        return f"; of lists, give pandas.DataFrame({_loaded(name)}, columns=[...]) in Python"
    return ""


def _is_geojson(found: Mapping[str, Any]) -> bool:
    return found.get("type") == "FeatureCollection" and isinstance(found.get("features"), list)


def _are_rows(value: object) -> bool:
    """Return whether a value is a list of objects, and not the messages of one chat."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) for each in value)
        and not all("role" in each for each in value)
    )


def _lists(found: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the lists of objects in an object."""
    for key, value in found.items():
        if _are_rows(value):
            yield (*path, key)
        elif isinstance(value, dict) and len(path) + 1 < _DEEPEST:
            yield from _lists(value, (*path, key))


def _taken(name: str, path: tuple[str, ...], inner: tuple[str, ...] = ()) -> str:
    steps, behind = ("".join(map(_step, each)) for each in (path, inner))
    loaded = _loaded(name) + "".join(f"[{each!r}]" for each in path)
    if inner:
        loaded = f"[each{''.join(f'[{key!r}]' for key in inner)} for each in {loaded}]"
    return by_reader(
        command_line=f"take them out with jq -c '{steps}[]{behind}' {_files(name)}", python=f"give {loaded}"
    )


def _step(key: str) -> str:
    return f".{key}" if _PLAIN.fullmatch(key) and key.isascii() else f"[{json.dumps(key)}]"


def _files(name: str) -> str:
    path = Path(name)
    return f"{name} > {path.with_suffix('.jsonl')}" if path.suffix else "FILE > rows.jsonl"


def _loaded(name: str) -> str:
    return f"json.load(open({name if Path(name).suffix else 'FILE'!r}, encoding='utf-8'))"


def _by_pandas(name: str, arguments: str) -> str:
    read = f"pandas.DataFrame({arguments % _loaded(name)})"
    written = repr(str(Path(name).with_suffix(".jsonl")) if Path(name).suffix else "rows.jsonl")
    saved = f"{read}.to_json({written}, orient='records', lines=True, force_ascii=False)"
    return by_reader(
        command_line=f'write it anew with python -c "import json, pandas; {saved}"',
        python=f"give {read}",
    )
