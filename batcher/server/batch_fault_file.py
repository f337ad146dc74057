"""Reads the faults of batches from a TOML file.

Invariant: a file is read as a whole or refused; the message names the file, the table, the key, and what to write.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from batcher.errors import SettingsError
from batcher.server.batch_rules import CHANGING, HIDDEN, BatchRule, Place, Slip, State
from batcher.server.fault_file import Table, tables_in, text_of
from batcher.server.faults import Fate, Reply

_DOES = (Fate.HANG, Fate.DROP, Fate.CUT, Fate.STALL)
_KINDS = ("at", "end", "lines", "takes")


def read_batch_faults(path: str | os.PathLike[str]) -> tuple[BatchRule, ...]:
    """Read the `[[fault]]` tables of a file.

    Raises:
        SettingsError: it cannot be read, or a table is wrong.
    """
    return batch_faults_in(*text_of(path, "batch_faults"))


def batch_faults_in(text: str, where: str) -> tuple[BatchRule, ...]:
    """Read `[[fault]]` tables.

    Args:
        text: of the file.
        where: its name in messages.

    Raises:
        SettingsError: it is not TOML, or a table is wrong.
    """
    return tuple(_BatchTable(table, f"{where}, fault {number}", {}).read() for number, table in tables_in(text, where))


class _BatchTable(Table):
    keys: Mapping[str, tuple[type, ...]] = {
        **dict.fromkeys(
            ("at", "end", "lines", "do", "service", "case", "match", "model", "code", "message", "name"), (str,)
        ),
        **dict.fromkeys(("takes", "delay", "late", "from", "to"), (str, int, float)),
        **dict.fromkeys(("answered", "share"), (int, float)),
        **dict.fromkeys(("times", "status"), (int,)),
        **dict.fromkeys(("batches", "requests"), (str, int)),
        **dict.fromkeys(("done", "listed"), (bool,)),
        "body": (str, dict, list),
        "headers": (dict,),
    }
    needed: Mapping[str, tuple[str, ...]] = {
        **dict.fromkeys(("do", "service", "status", "delay", "late", "requests"), ("at",)),
        **dict.fromkeys(("answered", "listed", "code", "message"), ("end",)),
        "share": ("lines",),
        "case": ("service",),
        "body": ("status",),
        "headers": ("status", "service"),
        "done": ("do", "status", "service"),
    }

    def read(self) -> BatchRule:
        """Return its rule.

        Raises:
            SettingsError: a key or a value is wrong.
        """
        self._check()
        self._check_belongs()
        given = [key for key in _KINDS if key in self._table]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "does nothing"
            raise SettingsError(
                f"{self._where} {what}: give it one of at (a request), end (of a batch), lines (of the results), takes"
                " (a time)"
            )
        start, end = self._seconds("from", 0.0), self._seconds("to", math.inf)
        if start >= end:
            raise self._wrong("to", f"a time after from, which is {start:g} s")
        first, last = self._of()
        return BatchRule(
            **self._kind(given[0]),
            match=self._match(),
            model=self._table.get("model", ""),
            share=self._number("share", 1.0, most=1.0),
            first=first,
            last=last,
            start=start,
            end_s=end,
            times=int(self._number("times", 0)),
            name=self._table.get("name", ""),
        )

    def _of(self) -> tuple[int, float]:
        """Return the numbers of the first and last batch, upload or request."""
        is_request = "at" in self._table and "late" not in self._table
        if is_request and ("batches" in self._table or "match" in self._table or "model" in self._table):
            raise SettingsError(f"{self._where}: batches, match and model do not go with at: use requests or times")
        if not is_request and "requests" in self._table:
            raise SettingsError(f"{self._where}: requests does not go with late: use batches")
        return self._requests("requests" if is_request else "batches")

    def _kind(self, kind: str) -> dict[str, Any]:
        """Return what happens."""
        if kind == "lines":
            return {"lines": self._one_of("lines", Slip)}
        if kind == "takes":
            return {"takes": self._seconds("takes", 0.0)}
        if kind == "end":
            return {"end": self._one_of("end", [State.EXPIRED, State.FAILED, State.CANCELLED]), **self._end()}
        place = Place(self._one_of("at", Place))
        return {"at": place, **(self._late(place) if "late" in self._table else self._does(place))}

    def _end(self) -> dict[str, Any]:
        answered = self._table.get("answered", 0)
        if not 0 <= answered <= 1:
            raise self._wrong("answered", "a share from 0 to 1")
        return {
            "answered": float(answered),
            "is_listed": self._table.get("listed"),
            "code": self._table.get("code", "server_error"),
            "message": self._table.get("message", "The batch failed (simulated)."),
        }

    def _late(self, place: Place) -> dict[str, Any]:
        if place not in HIDDEN:
            raise SettingsError(f"{self._where}: late goes with at = {' or '.join(map(repr, map(str, HIDDEN)))}")
        if others := [key for key in ("do", "service", "status", "delay") if key in self._table]:
            raise SettingsError(f"{self._where}: late and {others[0]} exclude each other: keep one of them")
        return {"late": self._seconds("late", 0.0)}

    def _does(self, place: Place) -> dict[str, Any]:
        given = [key for key in ("service", "status", "do") if key in self._table]
        if len(given) > 1:
            raise SettingsError(f"{self._where}: {' and '.join(given)} exclude each other: keep one of them")
        if self._table.get("done") and place not in CHANGING:
            raise SettingsError(f"{self._where}: done goes with at = {' or '.join(map(repr, map(str, CHANGING)))}")
        reply: Reply | None = None
        if not given:
            if "delay" not in self._table:
                raise SettingsError(f"{self._where} does nothing: give it service and case, status, do, delay, or late")
            does = Fate.ANSWER
        elif given == ["do"]:
            does = Fate(self._one_of("do", _DOES))
        else:
            does, reply = Fate.ERROR, self._of_service() if given == ["service"] else self._of_status()
        delay = self._seconds("delay", 0.0)
        return {"does": does, "reply": reply, "delay": delay, "is_done": self._table.get("done", False)}

    def _one_of(self, key: str, known: Any) -> Any:
        """Return the value of a key as one of those that are known."""
        names: dict[str, StrEnum] = {str(each): each for each in known}
        value = self._table[key]
        if value not in names:
            raise self._wrong(key, f"one of {', '.join(names)}", names)
        return names[value]
