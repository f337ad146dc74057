"""Finds request parameters that a service accepts and ignores, by what came back.

Invariant: nothing is said unless it is certain: an answer that may be as it was asked for speaks against no service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from batcher.answer.reading import is_cut
from batcher.records import NO_PARAMS, Completion
from batcher.words import counted

_ENOUGH = 3
"""The answers that must honour a parameter before it is not looked at any more."""

_LIMITS = ("max_completion_tokens", "max_tokens")
_JSON = {"json_object", "json_schema"}
_OF_TOOLS = {"tool_calls", "function_call"}
# With these, a stop text in an answer is no sign that the parameter was ignored.
_LETS_STOPS_THROUGH = ("include_stop_str_in_output", "no_stop_trim", "min_tokens", "echo")
# A number among log probabilities; in the text of an answer the quotes would be escaped.
_LOGPROB = re.compile(rb'(?<!\\)"(?:logprob"\s*:|token_logprobs"\s*:\s*\[\s*(?:null\s*,\s*)?)\s*-?\d')
# How much longer than its limit an answer must be: services count marks at its ends in different ways.
_SHARE, _TOKENS = 1.1, 16
# The least bytes of a model token. Thoughts that are not sent are counted by some services, and not by others.
_BYTES = 2


class Ignored(NamedTuple):
    """A parameter that was ignored, and what came instead."""

    name: str
    said: str


class _Check(NamedTuple):
    """How an answer shows what became of a parameter.

    Attributes:
        name: of the parameter.
        look: returns "" if the answer honours it, None if it shows nothing, or else what came instead.
    """

    name: str
    look: Callable[[Completion], str | None]


class Watch:
    """Watches the answers of one source for parameters that it ignores, each until that is known.

    Args:
        params: of its requests.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self._checks = tuple(_checks(params))
        self._honoured: dict[str, int] = {}
        self._known: set[str] = set()

    def look(self, came: Completion, own: Mapping[str, Any] = NO_PARAMS) -> list[Ignored]:
        """Return the parameters that an answer shows to be ignored, each once.

        Args:
            came: the answer.
            own: further parameters of its request, which win over those of the others.
        """
        checks = tuple(_checks({**self._params, **own})) if own else self._checks
        found = []
        for check in checks:
            if check.name not in self._known and (said := check.look(came)) is not None:
                self._record(check.name, said)
                found += [Ignored(check.name, said)] if said else []
        if self._known and not own:
            self._checks = tuple(check for check in self._checks if check.name not in self._known)
        return found

    def _record(self, name: str, said: str) -> None:
        self._honoured[name] = self._honoured.get(name, 0) + 1
        if said or self._honoured[name] >= _ENOUGH:
            self._known.add(name)


def ignored(params: Mapping[str, Any], came: Completion) -> list[Ignored]:
    """Return the parameters of a request that its answer shows to be ignored."""
    return Watch(params).look(came)


def _checks(params: Mapping[str, Any]) -> Iterator[_Check]:
    """Yield a check for each parameter that an answer can show to be ignored."""
    wanted = _number(params.get("n")) or 1
    if wanted > 1:
        yield _Check("n", lambda came: _choices(came, wanted))
    if params.get("logprobs"):
        yield _Check("logprobs", _logprobs)
    match params.get("response_format"):
        case {"type": str(kind)} if kind in _JSON:
            yield _Check("response_format", _json)
    stops = params.get("stop")
    texts = [
        each for each in (stops if isinstance(stops, (list, tuple)) else [stops]) if each and isinstance(each, str)
    ]
    if texts and not any(params.get(name) for name in _LETS_STOPS_THROUGH):
        yield _Check("stop", lambda came: _stop(came, texts))
    limits = {name: most for name in _LIMITS if (most := _number(params.get(name)))}
    if limits:
        name = max(limits, key=lambda name: limits[name])
        most = limits[name] * max(wanted, _number(params.get("best_of")) or 1)
        yield _Check(name, lambda came: _tokens(came, most))


def _number(value: object) -> int | None:
    """Return a whole number above 0, or None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _texts(came: Completion) -> list[str]:
    """Return the texts of the answers."""
    if came.choices <= 1:
        return [came.text or ""]
    try:
        found = json.loads(came.text or "")
    except ValueError:
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _is_of_tools(came: Completion) -> bool:
    return came.finish_reason in _OF_TOOLS


def _choices(came: Completion, wanted: int) -> str | None:
    if not came.choices:
        return None
    return f"{counted(came.choices, 'answer')} came where {wanted:,} were asked for" if came.choices < wanted else ""


def _logprobs(came: Completion) -> str | None:
    if not (came.raw or came.scored) or not (came.text or "").strip() or _is_of_tools(came):
        return None
    return "" if came.scored or _LOGPROB.search(came.raw) else "none came"


def _json(came: Completion) -> str | None:
    texts = [each for each in _texts(came) if each.strip()]
    if not texts or is_cut(came) or came.refusal or _is_of_tools(came):
        return None
    return "" if all(map(_is_json, texts)) else "an answer came that is no JSON"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _stop(came: Completion, stops: list[str]) -> str | None:
    if _is_of_tools(came):
        return None
    for text in map(str.rstrip, _texts(came)):
        for stop in stops:
            place = text.find(stop)
            if 0 <= place < len(text) - len(stop):  # at the very end, a service may leave it
                return f"an answer goes on after {stop!r}"
    return None


def _tokens(came: Completion, most: int) -> str | None:
    used = came.usage
    if used.completion_tokens is None or (came.reasoning and not used.reasoning_tokens):
        return None
    given = used.completion_tokens - used.reasoning_tokens
    if given <= most:
        return "" if is_cut(came) else None
    length = len((came.text or "").encode("utf-8", "surrogatepass"))
    if given <= _SHARE * most + _TOKENS or length < _BYTES * most:
        return None
    return f"an answer has {given:,} tokens where {most:,} were allowed"
