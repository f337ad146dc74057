"""Reads the faults of the local server from a TOML file.

Invariant: a file is read as a whole or refused; the message names the file, the table, the key, and what to write.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batcher.calls.endpoints import keys_of
from batcher.checks import check_variable
from batcher.errors import SettingsError
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.server.faults import Fate, FaultRule, Reply
from batcher.server.refusals import REFUSALS
from batcher.server.ways import WAYS
from batcher.visible import on_one_line
from batcher.words import blamed, escape_hint, toml_hint

_KEYS = {
    **dict.fromkeys(("match", "model", "tier", "api_key_env", "service", "case", "do", "forms", "name"), (str,)),
    **dict.fromkeys(("from", "to", "delay"), (str, int, float)),
    **dict.fromkeys(("share", "rpm"), (int, float)),
    **dict.fromkeys(("times", "after_answers", "status"), (int,)),
    "requests": (str, int),
    "body": (str, dict, list),
    "headers": (dict,),
    "paid": (bool,),
}
"""The keys of a table, and the types that each can have."""

DOES = {
    "hang": "never answers",
    "cut": "ends the connection in the middle of the answer",
    "drop": "ends the connection without a byte",
    "empty": "answers without choices",
    "length": "answers with the first half, as if cut off at max_tokens",
    "choices": "answers with three choices",
    "hole": "answers by a stream with a line that is no JSON",
    "break": "answers by a stream that ends with an error in the middle",
    "stall": "begins its answer, and never goes on with it",
}
"""What `do` can be, each a `Fate`, and what the server does then."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BODILESS = {204, 205, 304}
_FRAMING = {"connection", "content-length", "transfer-encoding"}


def read_faults(path: str | os.PathLike[str], env: Mapping[str, str]) -> tuple[FaultRule, ...]:
    """Read the `[[fault]]` tables of a file.

    Args:
        path: of the file.
        env: the variables that `api_key_env` may name.

    Raises:
        SettingsError: it cannot be read, or a table is wrong.
    """
    return faults_in(*text_of(path, "faults"), env)


def seconds_in(text: str) -> float | None:
    """Return the seconds of a time such as `90s`, `500ms`, `5m` or `1h`; None if it is none."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h)", text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def text_of(path: str | os.PathLike[str], name: str) -> tuple[str, str]:
    """Return the text of the file that an option names, and how messages name it.

    Raises:
        SettingsError: it cannot be read.
    """
    where = f"{blamed(name)} {on_one_line(os.fspath(path))}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{where}: {error.strerror}{escape_hint(os.fspath(path))}") from error
    except ValueError as error:  # bad UTF-8, or a NUL in the path
        raise SettingsError(f"{where} is not a TOML file: {error}") from error
    return text, where


def faults_in(text: str, where: str, env: Mapping[str, str]) -> tuple[FaultRule, ...]:
    """Read `[[fault]]` tables.

    Args:
        text: of the file.
        where: its name in messages.
        env: the variables that `api_key_env` may name.

    Raises:
        SettingsError: it is not TOML, or a table is wrong.
    """
    return tuple(Table(table, f"{where}, fault {number}", env).rule() for number, table in tables_in(text, where))


def tables_in(text: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the `[[fault]]` tables of a file with their numbers, from 1.

    Raises:
        SettingsError: it is not TOML, or holds something else.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where} is not a TOML file: {error}{toml_hint(error)}") from error
    tables = content.get("fault")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or len(content) > 1:
        others = ", ".join(repr(name) for name in content if name != "fault")
        found = f"; it holds {others}" if others else ""
        raise SettingsError(f"{where} must hold [[fault]] tables, and nothing else{found}")
    yield from enumerate(tables, 1)


class Table:
    """One `[[fault]]` table.

    Args:
        table: as TOML has it.
        where: its name in messages.
        env: the variables that `api_key_env` may name.

    Attributes:
        keys: that it may have, each with the types of its value.
        needed: the keys of which one must be there if a key is.
    """

    keys: Mapping[str, tuple[type, ...]] = _KEYS
    needed: Mapping[str, tuple[str, ...]] = {
        "case": ("service",),
        "body": ("status",),
        "headers": ("status", "service"),
        "paid": ("status", "service"),
    }

    def __init__(self, table: Mapping[str, Any], where: str, env: Mapping[str, str]) -> None:
        self._table = table
        self._where = where
        self._env = env

    def rule(self) -> FaultRule:
        """Return its rule.

        Raises:
            SettingsError: a key or a value is wrong.
        """
        self._check()
        does, reply, what = self._effect()
        first, last = self._requests()
        start, end = self._seconds("from", 0.0), self._seconds("to", math.inf)
        if start >= end:
            raise self._wrong("to", f"a time after from, which is {start:g} s")
        return FaultRule(
            does,
            reply,
            delay=self._seconds("delay", 0.0),
            is_paid=bool(self._table.get("paid", False)),
            match=self._match(),
            model=self._table.get("model", ""),
            keys=self._keys(),
            start=start,
            end=end,
            first=first,
            last=last,
            share=self._number("share", 1.0, most=1.0),
            times=int(self._number("times", 0)),
            after_answers=int(self._number("after_answers", 0)),
            rpm=self._number("rpm", 0.0),
            name=self._table.get("name") or what,
            forms=self._table.get("forms", ""),
            tier=self._table.get("tier", ""),
        )

    def _check(self) -> None:
        for key, value in self._table.items():
            self._check_type(key, value)

    def _check_type(self, key: str, value: object) -> None:
        if key not in self.keys:
            near = difflib.get_close_matches(key, self.keys, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(self.keys)}"
            raise SettingsError(f"{self._where}: there is no key {key!r}: {advice}")
        kinds = self.keys[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = {str: "a text", bool: "true or false", dict: "a table", list: "a list"}
            wanted = list(dict.fromkeys(names.get(kind, "a number") for kind in kinds))
            raise self._wrong(key, " or ".join(wanted))

    def _wrong(self, key: str, wanted: str, known: Iterable[str] = ()) -> SettingsError:
        value = self._table.get(key)
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        near = difflib.get_close_matches(str(value), known, 1, cutoff=0.65)  # 0.6 takes "money" for "model"
        advice = f": did you mean {near[0]!r}?" if near else ""
        return SettingsError(f"{self._where}: {key} must be {wanted}, not {shown}{advice}")

    # --- what happens ---

    def _effect(self) -> tuple[Fate, Reply | None, str]:
        """Return what becomes of the request, the reply to it, and a name for both."""
        given = [key for key in ("service", "status", "do", "forms") if key in self._table]
        if len(given) > 1:
            raise SettingsError(f"{self._where}: {' and '.join(given)} exclude each other: keep one of them")
        self._check_belongs()
        if "service" in self._table:
            return Fate.ERROR, self._of_service(), f"{self._table['service']} {self._table['case']}"
        if "status" in self._table:
            return Fate.ERROR, self._of_status(), f"HTTP {self._table['status']}"
        if "do" in self._table:
            if self._table["do"] not in DOES:
                raise self._wrong("do", " or ".join(f"{name!r} ({what})" for name, what in DOES.items()), DOES)
            return Fate(self._table["do"]), None, self._table["do"]
        if "forms" in self._table:
            if self._table["forms"] not in WAYS:
                raise self._wrong("forms", f"one of {', '.join(WAYS)}", WAYS)
            return Fate.ANSWER, None, f"forms as {self._table['forms']}"
        if "delay" not in self._table:
            raise SettingsError(f"{self._where} does nothing: give it service and case, status, do, forms, or delay")
        return Fate.ANSWER, None, "slow"

    def _check_belongs(self) -> None:
        """Refuse keys that only make sense beside another one."""
        for key, others in self.needed.items():
            if key in self._table and not any(other in self._table for other in others):
                raise SettingsError(f"{self._where}: {key} needs {' or '.join(others)} beside it")

    def _of_service(self) -> Reply:
        cases = REFUSALS.get(self._table["service"])
        if cases is None:
            raise self._wrong("service", f"one of {', '.join(REFUSALS)}", REFUSALS)
        reply = cases.get(self._table.get("case", ""))
        if reply is None:
            known = f"one of {', '.join(cases)} for {self._table['service']}"
            raise (
                self._wrong("case", known, cases)
                if "case" in self._table
                else SettingsError(f"{self._where}: service needs a case beside it: {known}")
            )
        return reply._replace(headers={**reply.headers, **self._headers()})

    def _of_status(self) -> Reply:
        status, body = self._table["status"], self._table.get("body", "")
        if not 200 <= status <= 599 or status in _BODILESS:
            raise self._wrong("status", "an HTTP status from 200 to 599 of a response that has a body")
        if not isinstance(body, str):
            try:
                written = json.dumps(body, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:  # a date, an infinite number, or nested too deep
                raise SettingsError(f"{self._where}: body cannot be written as JSON: {error}") from error
            if is_too_deep(written):
                raise SettingsError(f"{self._where}: body cannot be written as JSON: {TOO_DEEP}")
        return Reply(status, body, self._headers())

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, value in self._table.get("headers", {}).items():
            text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or name.lower() in _FRAMING:
                raise SettingsError(
                    f"{self._where}: headers: {name!r} cannot be set: it is not a header's name, or the server sets it"
                )
            if not isinstance(text, str) or not (text.isascii() and text.isprintable()):
                raise SettingsError(f"{self._where}: headers: {name} must be a line of ASCII text, not {value!r}")
            headers[name.lower()] = text.strip()
        return headers

    # --- whom it concerns ---

    def _match(self) -> str:
        pattern: str = self._table.get("match", "")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise SettingsError(
                f"{self._where}: match is not a regular expression: {error}; a backslash goes before ( ) [ ] . * + ? |"
                f" to find the character itself: {pattern[:60]!r}"
            ) from error
        return pattern

    def _keys(self) -> tuple[str, ...]:
        name = self._table.get("api_key_env")
        if name is None:
            return ()
        check_variable(name, f"{self._where}: api_key_env")
        keys = keys_of(name, self._env)
        if not keys:
            raise SettingsError(f"{self._where}: api_key_env: {name} is not set in the environment or .env")
        return tuple(keys)

    def _seconds(self, key: str, default: float) -> float:
        value = self._table.get(key, default)
        if isinstance(value, str):
            seconds = seconds_in(value)
            if seconds is None:
                raise self._wrong(key, "a time such as '90s', '500ms', '5m' or '1h'")
            return seconds
        if key in self._table and not 0 <= value < 1e9:
            raise self._wrong(key, "seconds, 0 or more, or a time such as '5m'")
        return float(value)

    def _number(self, key: str, default: float, most: float = 1e9) -> float:
        value = self._table.get(key, default)
        if key in self._table and not 0 < value <= most:
            above = "a share above 0, of 1 at most" if most == 1.0 else "a number above 0"
            raise self._wrong(key, above)
        return float(value)

    def _requests(self, key: str = "requests") -> tuple[int, float]:
        """Return the numbers of the first and the last request."""
        found = re.fullmatch(r"([0-9]{1,9})?( ?- ?)?([0-9]{1,9})?", str(self._table.get(key, "1-")))
        # One number alone is one request; two numbers need the hyphen between them.
        if not found or not (found[1] or found[3]) or not (found[2] or not found[3]):
            raise self._wrong(key, f"numbers of {key} such as '1000-2000', '1000-' or 7")
        first = int(found[1] or 1)
        last = float(found[3]) if found[3] else (math.inf if found[2] else float(first))
        if not 1 <= first <= last:
            raise self._wrong(key, "a range of numbers, counted from 1, of which the first is not the higher")
        return first, last
