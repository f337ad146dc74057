"""Reads a command line: refuses keys and what no verb knows, and takes what is left out from the file of a job.

Invariant: no message shows an API key, or the value of an unknown option, which may be one.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from batcher.cli.parser import build_parser, verbs_of
from batcher.errors import SettingsError
from batcher.hiding import looks_like_key, shown
from batcher.input.spool import STDIN
from batcher.params import param_of
from batcher.settings import advice_on, is_request_param, means_key
from batcher.visible import on_one_line
from batcher.words import Place

_LONG = 20  # characters of an argument that may be an API key, although it does not begin like one


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says, without the file of a job. A wrong one ends the process with exit status 2."""
    parser = build_parser()
    _refuse_keys(parser, argv)
    arguments, unknown = parser.parse_known_args(argv)
    unknown = [*_no_inputs(arguments), *unknown]
    if unknown:
        advice = _advice_on(unknown, arguments.verb)
        parser.error(f"unrecognized arguments: {on_one_line(' '.join(_without_values(unknown)))}{advice}")
    return arguments


def _no_inputs(arguments: argparse.Namespace) -> list[str]:
    """Return further inputs that are no path by their look, and no file: a mistake, perhaps an API key."""
    given = getattr(arguments, "data", None)
    if not isinstance(given, list):
        return []
    return [
        text
        for text in given[1:]
        if text != STDIN and not set(text) & set("./*?[" + os.sep) and not Path(text).exists()
    ]


def _refuse_keys(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse an API key in any place, before a message can show it: a command line stays in the shell's history."""
    for before, text in itertools.pairwise(["", *argv]):
        flag, _, value = text.partition("=") if text.startswith("-") else ("", "", text)
        if means_key(flag.lstrip("-").replace("-", "_")):
            parser.error(f"unrecognized arguments: {flag}: {advice_on('api_key')}")
        if text[:1] == "-" != text[1:2] and looks_like_key(text[2:]):  # the value of a short option may follow at once
            flag, value = text[:2], text[2:]
        if looks_like_key(value) and "--header" not in {flag, before}:  # a header's error says more
            where = f"the value of {flag or before}" if flag or before.startswith("-") else "an argument"
            parser.error(f"{where} looks like an API key, and is not shown: {advice_on('api_key')}")


def _without_values(unknown: Sequence[str]) -> list[str]:
    """Return the arguments without possible values of unknown options: a value may be an API key."""
    return [
        shown(text) if len(text) >= _LONG else text.partition("=")[0]
        for before, text in itertools.pairwise(["", *unknown])
        if text.startswith("-") or not before.startswith("-") or "=" in before
    ]


def _advice_on(unknown: Sequence[str], verb: str) -> str:
    """Return advice on the first option that a verb does not know."""
    takes_options = verb in {"run", "plan", "rehearse"}
    flags = next(_long_flags(each.actions) for each in verbs_of() if each.name == verb)
    for text, after in itertools.pairwise([*unknown, ""]):
        flag, separator, value = text.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--"):
            continue
        near = difflib.get_close_matches(flag.replace("_", "-"), flags, 1, 0.7)
        if takes_options and (not near or means_key(name) or is_request_param(name)):
            return f": {advice_on(name, _json_or_text(value if separator else after))}"
        return f": did you mean {near[0]}?" if near else f": `batcher {verb} --help` lists the options"
    return ""


def _long_flags(actions: Iterable[argparse.Action]) -> list[str]:
    return [flag for action in actions for flag in action.option_strings if flag.startswith("--")]


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that are given, as keyword arguments, with `data` and `prompt` among them."""
    options = {name: value for name, value in vars(arguments).items() if value is not None and value is not False}
    for name in ("verb", "json", "dry_run", "config"):
        options.pop(name, None)
    return options


def complete(arguments: argparse.Namespace) -> dict[str, Place]:
    """Read the parameters and headers given, and fill what the command line leaves out from the file of a job.

    Returns:
        Where the options stand that come from the file.

    Raises:
        SettingsError: a parameter, a header or the file cannot be read, or no input or keyword is given.
    """
    if isinstance(given := getattr(arguments, "data", None), list):
        # The paths of several inputs; a list of strings would be a list of texts.
        arguments.data = list(map(Path, given)) if len(given) > 1 else next(iter(given), None)
    if getattr(arguments, "param", None):
        arguments.param = _params(arguments.param)
    if getattr(arguments, "header", None):
        arguments.header = _headers(arguments.header)
    if not hasattr(arguments, "config"):
        return {}
    from batcher.cli.config import fill  # noqa: PLC0415 - for the verbs that take a file

    return fill(arguments)


def _params(texts: Sequence[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise SettingsError(f"--param {shown(text)} must look like KEY=VALUE, as in temperature=0")
        if name in params:
            raise SettingsError(f"--param {name} is given twice")
        if not value.strip():
            empty = shlex.quote(f'{name}=""')
            raise SettingsError(f"--param {name}= has no value: leave it out, or write {empty} for an empty text")
        params[name] = param_of(name, value, "--param")
    return params


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _headers(texts: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or ":" in name:  # not shown: it may be a key
            raise SettingsError("--header must look like NAME=VALUE, as in X-Team=labels or X-Key=env:TEAM_KEY")
        if name in headers:
            raise SettingsError(f"--header {name} is given twice")
        headers[name] = value
    return headers
