"""The file of a job: options, input, prompt and endpoints in TOML, for all that the command line leaves out.

Invariant: the command line wins. No key is read from the file, and a key that the file names by its variable is never
sent to a service that the command line names instead.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from batcher.calls.endpoints import EndpointTables, read_toml, tables_in, tables_of
from batcher.checks import check_whole
from batcher.cli.parser import REACHING_OPTIONS
from batcher.endpoint import LIMITS
from batcher.errors import SettingsError
from batcher.hiding import looks_like_key
from batcher.input.opening import default_keyword
from batcher.params import check_params
from batcher.settings import IN_ENDPOINTS, OPTIONS, Group, is_request_param, means_key
from batcher.visible import holds_controls, on_one_line
from batcher.words import IN_TOML, Place, begin_json_lines, option, say, written_in_file

DEFAULT = "batcher.toml"
"""The file that is read if the command line names neither a file nor an input."""

_FLAGS = {"json", "dry_run", "keep"}
_FILES = ("faults", "batch_faults")
_OWN = {"input": "data", **{name: name for name in ("prompt", "json", "dry_run", "kills", *_FILES, "keep")}}
"""What the file may hold besides the options of `Settings`, and the names of the arguments."""

_OF_RUN = {"data", "keyword", "output_dir"}
"""What the verbs that look at a run take from the file."""

_ALTERNATIVES = (
    {"prompt", "prompt_file", "prompt_column", "messages_column"},
    {"system", "system_file"},
    {"limit", "sample"},
)
_SERVICE = {"base_url", "provider", "endpoints"}
_PRICES = {"price_in", "price_out"}
_OF_SERVER = {"api_key_env": "api_key_env", "header": "headers", "endpoint_name": "name"}
"""Options of one server, and what they are called in a table."""

_OF_SERVICE = {each.name for each in OPTIONS.values() if each.group is Group.ENDPOINTS} - {"model"} | _PRICES
_OF_SERVICE |= {"price_batch"}
"""Options that make sense, or are safe, only with the service that they were written for."""


class Written(dict[str, Any]):
    """The values in a file, by the names of the arguments.

    Attributes:
        places: where each of them stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}


def fill(arguments: argparse.Namespace) -> dict[str, Place]:
    """Fill what the command line leaves out from the file of the job, if there is one; return where that stands.

    Raises:
        SettingsError: the file is wrong, or no input or keyword is given.
    """
    before = dict(vars(arguments))
    written = _fill_job(arguments) if hasattr(arguments, "on_change") else _fill_run(arguments)
    now = vars(arguments)
    # A parameter beside one of the command line is not the file's: that one was checked with the file.
    return {name: place for name, place in written.places.items() if name in now and _is_unset(before[name])}


def _is_unset(value: object) -> bool:
    return value is None


def _fill_job(arguments: argparse.Namespace) -> Written:
    """Fill the options of a verb that takes all those of `run`."""
    is_found = arguments.config is None and arguments.data is None and Path(DEFAULT).is_file()
    path = DEFAULT if is_found else arguments.config
    values = Written()
    if path is not None:
        values = _read_job(Path(path), arguments)
        given = {name: value for name, value in vars(arguments).items() if not _is_unset(value)}
        dropped = _left_out(given)
        foreign = sorted(name for name in dropped & values.keys() if not _is_alternative(name, given))
        for name, value in values.items():
            if name in {"param", "header"} and name in given and name not in dropped:
                setattr(arguments, name, value | getattr(arguments, name))
            elif name not in {*given, *dropped} and hasattr(arguments, name):
                setattr(arguments, name, value)
        if "endpoints" in values and "endpoints" not in {*given, *dropped}:
            foreign += _go_before_tables(arguments, given, values)
        if not arguments.quiet:
            _say_used(path, foreign, is_found=is_found)
    if arguments.data is None and path is not None:
        raise SettingsError(f'{on_one_line(path)} has no input: write input = "data.csv" into it, or give INPUT')
    if arguments.data is None:
        raise SettingsError(
            f"give INPUT, the table: `batcher {arguments.verb} data.csv --prompt ...`; or write input and the options"
            f" into a {DEFAULT} in this directory"
        )
    return values


def _read_job(path: Path, arguments: argparse.Namespace) -> Written:
    """Read the file; what is said about it is a JSON line if the file itself, or the command line, asks for that."""
    content = read_toml(path, on_one_line(str(path)))
    if arguments.log_json is None and True in (content.get("log_json"), content.get("log-json")):
        begin_json_lines()
    return read(path, content)


def _go_before_tables(arguments: argparse.Namespace, given: Mapping[str, Any], values: Written) -> list[str]:
    """Let the command line go before what the tables of the file's endpoints say; return what is not used of these.

    Limits and a model are those of every endpoint. A key, headers, a name and prices are meant for one server: if the
    tables have several, `Settings` refuses them.
    """
    taken = [name for name in (*LIMITS, "model", *_OF_SERVER, *sorted(_PRICES), "price_batch") if name in given]
    own_params = given.get("param") or {}
    if not taken and not own_params:
        return []
    tables: str | EndpointTables = arguments.endpoints
    instead: dict[str, Any] = {}
    if not isinstance(tables, EndpointTables):  # a file of its own, before which the job's option goes as well
        instead = {name: value for name, value in values.items() if name == "max_concurrency"}
        with written_in_file(values.places):
            tables = tables_of(Path(tables))
    if len({str(table.get("base_url")) for table in tables.tables}) > 1:
        taken = [name for name in taken if name in {*LIMITS, "model"}]
    elif not given.keys() >= _PRICES:
        taken = [name for name in taken if name not in _PRICES]
    for name in taken:
        OPTIONS[name].check(given[name])
        instead[_OF_SERVER.get(name, name)] = given[name]
        setattr(arguments, name, None)
    prices = {"in": "price_in", "out": "price_out", "batch": "price_batch"}
    if prices := {key: instead.pop(name) for key, name in prices.items() if name in instead}:
        instead["prices"] = prices
    where = tables.where + (f" with {' and '.join(map(option, taken))}" if taken else "")
    arguments.endpoints = EndpointTables(where, tables.tables, instead, own_params.keys())
    has_prices = any("prices" in table for table in tables.tables)
    return ["prices"] if "model" in instead and has_prices and "prices" not in instead else []


def _say_used(path: str, foreign: Collection[str], *, is_found: bool) -> None:
    if is_found:
        say(f"Options from {path}; the command line wins.")
    if foreign:
        say(f"{on_one_line(path)}: {', '.join(foreign)} not used: the command line names another service or model.")


def _fill_run(arguments: argparse.Namespace) -> Written:
    """Fill the keyword, the directory and the input of a verb that looks at a run."""
    is_asked = arguments.config is not None
    is_list = arguments.verb == "status" and arguments.keyword is None and not is_asked
    path = Path(arguments.config or DEFAULT)
    values = Written()
    is_named = arguments.keyword is not None or is_list
    if is_asked or (path.is_file() and not (is_named and arguments.output_dir)):
        values = _read_for_run(path, is_needed=is_asked or not is_named)
    keyword = values.get("keyword") or default_keyword(values.get("data"))
    if is_list:
        arguments.of_file = keyword
    elif arguments.keyword is None:
        if keyword is None:
            raise SettingsError("give KEYWORD, the name of the run" + (f", or keyword in {path}" if values else ""))
        arguments.keyword = keyword
        if arguments.verb == "verify" and arguments.data is None:  # a verb that takes an input
            arguments.data = values.get("data")
    is_its_run = is_asked or is_list or keyword in {arguments.keyword, getattr(arguments, "other", None)}
    if arguments.verb == "cancel" and is_its_run:
        _reach(arguments, values)
    if arguments.output_dir is None:
        arguments.output_dir = values.get("output_dir", "output") if is_its_run else "output"
    return values


def _reach(arguments: argparse.Namespace, values: Written) -> None:
    """Fill how the services of a run are reached, unless the command line says that itself."""
    if any(getattr(arguments, name) is not None for name in REACHING_OPTIONS):
        return
    for name in REACHING_OPTIONS:
        if name in values:
            setattr(arguments, name, values[name])


def _read_for_run(path: Path, *, is_needed: bool) -> Written:
    """Read the file. A run that the command line names is found, and can be paused, although the file is wrong.

    Raises:
        SettingsError: it is wrong, and needed.
    """
    try:
        return read(path)
    except SettingsError as error:
        if is_needed:
            raise
        found = Written()
        with contextlib.suppress(SettingsError):
            found = read(path, only=_OF_RUN)
        say(f"batcher: a mistake in the file, which is not needed here: {error}", "warning")
        if not found:
            say(f"batcher: the run is looked for in output; {option('output_dir')} names another directory", "warning")
        return found


def _left_out(given: Collection[str]) -> set[str]:
    """Return the options of the file that what is given on the command line replaces."""
    found = {name for each in _ALTERNATIVES if each & set(given) for name in each}
    if _SERVICE & set(given):
        found |= _OF_SERVICE
    if "endpoints" in given:
        found |= {*IN_ENDPOINTS, "max_concurrency"}
    return found | _PRICES if "model" in given else found


def _is_alternative(name: str, given: Collection[str]) -> bool:
    """Return whether the command line has the option itself or another one in its place."""
    groups = (*_ALTERNATIVES, _SERVICE)
    return name in given or any(name in each and each & set(given) for each in groups)


# --- reading ---


def read(path: Path, content: Mapping[str, Any] | None = None, only: Collection[str] | None = None) -> Written:
    """Return the arguments that a file holds, by their names on the command line; paths in it are taken from its place.

    Args:
        path: of the file.
        content: what it holds, if that is known.
        only: the names of the arguments to return; the rest of the file may hold mistakes. None: all.

    Raises:
        SettingsError: it cannot be read, or holds an option that there is not, or a wrong value.
    """
    shown = on_one_line(str(path))
    content = read_toml(path, shown) if content is None else content
    lines = _without_texts(path.read_text(encoding="utf-8-sig"))
    values = Written()
    for written, value in content.items():
        where = f"{shown}{_line_of(written, lines)}"
        name = written.replace("-", "_")
        if only is not None and _OWN.get(name, name) not in only:
            continue
        if name == "endpoint":
            tables = tables_in(content)
            if tables is None or "endpoints" in content:
                raise SettingsError(f"{where}: endpoints are either [[endpoint]] tables or a file: endpoints = FILE")
            values["endpoints"] = EndpointTables(shown, tables)
            values.places["endpoints"] = Place(where, "[[endpoint]]")
            continue
        _check_no_key(name, value, f"{where}: {written}")
        name = _argument_of(name, where)
        if name in values:
            raise SettingsError(f"{where}: {written} is given twice")
        if name == "data" or _holds_path(name, value):
            _check_escapes(value, path.parent, f"{where}: {written}")
        _check(name, written, value, where)
        values[name] = _from_its_place(name, value, path.parent)
        values.places[name] = Place(where, written)
    if path.parent != Path() and "output_dir" not in values:
        values["output_dir"] = _beside("output", path.parent)
    return values


def _without_texts(text: str) -> list[str]:
    """Return the lines with the inner lines of long texts emptied: they may look like options."""
    return re.sub(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'', lambda found: "\n" * found[0].count("\n"), text).split("\n")


def _line_of(name: str, lines: list[str]) -> str:
    quoted = re.escape(name)
    pattern = re.compile(rf"""\s*(\[+\s*)?["']?{quoted}["']?\s*[=.\]]""")
    number = next((number for number, line in enumerate(lines, 1) if pattern.match(line)), None)
    return f", line {number}" if number else ""


def _argument_of(name: str, where: str) -> str:
    """Return the name of the argument that an option of the file is for.

    Raises:
        SettingsError: there is no such option; the message says what was probably meant.
    """
    if name in _OWN:
        return _OWN[name]
    if name in OPTIONS:
        return name
    if name + "_" in OPTIONS:  # a word that Python keeps for itself
        return name + "_"
    if means_key(name):
        advice = (
            'an API key is never in a file: put it into the environment or .env, and write api_key_env = "VARIABLE"'
        )
    elif is_request_param(name):
        advice = f"a request parameter goes into param: param = {{ {name} = ... }}"
    else:
        known = ["endpoint", *_OWN, *OPTIONS]
        near = difflib.get_close_matches(name, known, 1, 0.7)
        advice = f"did you mean {near[0]}?" if near else "`batcher run --help` lists the options"
    raise SettingsError(f"{where}: there is no option {name!r}: {advice}")


def _check_no_key(name: str, value: Any, where: str) -> None:
    if name != "header" and any(map(looks_like_key, _texts_in(value))):  # a header's own error says more
        raise SettingsError(
            f"{where} looks like an API key, and is not shown: put the key into the environment or .env, and write"
            ' api_key_env = "VARIABLE"'
        )


def _check(name: str, written: str, value: Any, where: str) -> None:
    """Refuse a value of the wrong kind.

    Raises:
        SettingsError: the message names the file, the line and the option.
    """
    if name in OPTIONS:
        if name == "endpoints" and not isinstance(value, str):
            raise SettingsError(f"{where}: {written} must be the path of a file; tables are written as [[endpoint]]")
        OPTIONS[name].kind.check(value, f"{where}: {written}")
        if name == "param":
            _check_no_options(value, where)
            check_params(value, f"{where}: {written}")
        return
    if name == "kills":
        if value != 0 or isinstance(value, bool):
            check_whole(value, f"{where}: {written}")
        return
    is_right = isinstance(value, bool) if name in _FLAGS else isinstance(value, str)
    if name == "data" and isinstance(value, list):
        is_right = bool(value) and all(isinstance(each, str) for each in value)
    if not is_right:
        kinds = {
            "data": "a path, or a list of paths",
            "prompt": "a text",
            **dict.fromkeys(_FILES, "the path of a file"),
        }
        raise SettingsError(f"{where}: {written} must be {kinds.get(name, 'true or false')}, not {value!r:.40}")


def _check_no_options(params: Mapping[str, Any], where: str) -> None:
    """Refuse options that stand below the heading [param], where TOML takes them for parameters."""
    for name in params:
        if name.replace("-", "_") in {*OPTIONS, *_OWN} and not is_request_param(name):
            raise SettingsError(
                f"{where}: {name} is an option, not a request parameter: write it above the heading [param]"
            )


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


def _holds_path(name: str, value: object) -> bool:
    """Return whether an option's value is a path; a schema may be written out instead."""
    is_for_paths = name in OPTIONS and OPTIONS[name].kind.argument.get("metavar") in {"FILE", "DIR"}
    is_written_out = name == "schema" and isinstance(value, str) and value.lstrip().startswith("{")
    return (name in _FILES or is_for_paths) and isinstance(value, str) and not is_written_out


def _check_escapes(value: object, directory: Path, where: str) -> None:
    r"""Refuse paths that hold a control character, unless there is such a file: `"C:\new"` holds a line break."""
    for path in filter(holds_controls, _texts_in(value)):
        if "\0" in path or not (directory / path).exists():
            raise SettingsError(f"{where} is {on_one_line(path)}, with a control character in it: {IN_TOML}")


def _from_its_place(name: str, value: Any, directory: Path) -> Any:
    """Return a value with its paths taken from the directory of the file."""
    if name == "data":
        paths = [_beside(each, directory) for each in ([value] if isinstance(value, str) else value)]
        return paths[0] if len(paths) == 1 else list(map(Path, paths))
    if name in {"labels", "schema"} and isinstance(value, str) and value.strip().startswith("@"):
        return f"@{_beside(value.strip()[1:].strip(), directory)}"
    if isinstance(value, list) and value and all(_holds_path(name, each) for each in value):
        return [_beside(each, directory) for each in value]
    return _beside(value, directory) if _holds_path(name, value) else value


def _beside(path: str, directory: Path) -> str:
    """Return a path from the directory of the file; `-`, an absolute path and one from the home directory stay."""
    if path == "-" or directory == Path():
        return os.path.expanduser(path)  # noqa: PTH111 - a Path would drop a slash at the end
    return str(directory / os.path.expanduser(path))  # noqa: PTH111 - the same
