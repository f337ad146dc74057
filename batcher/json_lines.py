"""The lines of `--log-json`: one JSON object for each message and for each look at the run.

Invariant: every line has every field, in one order; what is not known at that moment is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

FIELDS = {
    "ts": "local time of the line, ISO 8601 with seconds and offset",
    "level": "`info`, `warning` (the run goes on, but look at it) or `error` (why it ended)",
    "kind": "`message`, or `progress`: every 30 s, and at the end of the run",
    "keyword": "names the run; null before it is known",
    "rows": "rows of the run: all of the input, or those that `--limit` or `--sample` take",
    "ok": "rows that ended as ok",
    "invalid": "rows that ended as invalid",
    "error": "rows that ended as error",
    "left": "rows without a result",
    "requests": "requests sent, over all processes of the run",
    "cost_usd": "US dollars for the answers, over all processes of the run; null if the price of some is unknown",
    "rate": "rows a second, over the last minute of this process",
    "eta_s": "seconds left at that rate; null if it is 0",
    "in_flight": "requests in flight",
    "waiting_for": "what the run waits for; empty if for answers alone",
    "due": "when the run shall be finished (`--by`, `--within`), ISO 8601; null if that is not given",
    "expected_end": "when its last row is expected, ISO 8601; null if that is not known, or without `due`",
    "outlook": "`in time`, `by batch` (only if batches come back in time), `late` or `unknown`; null without `due`",
    "message": "for people; of `progress`, the same in words",
}
"""The fields of a line in their order, each with its meaning."""


def now() -> str:
    """Return the local time, as `2026-11-30T09:15:00+08:00`."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def json_line(kind: str, level: str, message: str, facts: Mapping[str, object]) -> str:
    """Return a line of the log.

    Args:
        kind: `message` or `progress`.
        level: `info`, `warning` or `error`.
        message: for people.
        facts: the other fields, as far as they are known.
    """
    known = {**facts, "ts": now(), "level": level, "kind": kind, "message": message}
    return json.dumps({name: known.get(name) for name in FIELDS}, ensure_ascii=False)
