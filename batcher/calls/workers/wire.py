"""What passes between this process and its workers, as bytes: groups of calls one way, groups of news the other.

Records travel as tuples: a frozen dataclass with slots is pickled by code in Python, which takes four times as long.

Invariant: what is unpacked equals what was packed in every field, those that a comparison leaves out included. Both
ends run the same release (`setup.VERSIONS`), so the form may change with any of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple

from batcher.records import (
    NO_PARAMS,
    NO_TERMS,
    Allowance,
    Completion,
    Failure,
    Fault,
    Message,
    ModelToken,
    ServerLimits,
    Task,
    Terms,
    Usage,
)

PROTOCOL = pickle.HIGHEST_PROTOCOL

# A call on its way: id, endpoint, messages, seconds, number of its parameters, its terms.
_Sent = tuple[int, int, list[Message], float, int, tuple[str, str, dict[str, Any]] | None]


class Call(NamedTuple):
    """A call that a worker makes.

    Attributes:
        id: by which its news name it.
        endpoint: its place in `Setup.endpoints`.
        messages: of the row.
        timeout_s: the most seconds that it may take.
        params: further request parameters; those of many calls are the same few objects.
        terms: how the row asks.
    """

    id: int
    endpoint: int
    messages: Sequence[Message]
    timeout_s: float
    params: Mapping[str, Any] = NO_PARAMS
    terms: Terms = NO_TERMS


class Group(NamedTuple):
    """What is handed to a worker at once.

    Attributes:
        calls: to be made.
        cuts: the ids of calls that nothing waits for any more.
    """

    calls: Sequence[Call]
    cuts: Sequence[int]


class News(NamedTuple):
    """What has become of a worker's calls.

    Attributes:
        departed: the ids of those whose requests have left.
        ended: the ids of those that have ended, with what came. A call that was cut ends with a failure that holds what
            had come of its streamed answer, or None.
    """

    departed: Sequence[int]
    ended: Sequence[tuple[int, Completion | Failure | None]]


class Packer:
    """Packs the calls to one worker: parameters that many calls share travel once."""

    def __init__(self) -> None:
        # The objects are kept, so that none of their ids becomes another's.
        self._known: dict[int, tuple[int, Mapping[str, Any]]] = {id(NO_PARAMS): (0, NO_PARAMS)}

    def pack(self, calls: Sequence[Call], cuts: Sequence[int]) -> bytes:
        """Return a group as bytes."""
        news: list[tuple[int, dict[str, Any]]] = []
        sent: list[_Sent] = []
        for call_id, endpoint, messages, timeout_s, params, terms in calls:
            known = self._known.get(id(params))
            if known is None:
                known = self._known[id(params)] = len(self._known), params
                news.append((known[0], dict(params)))
            own = None if terms is NO_TERMS else (terms.task.value, terms.model, dict(terms.params))
            sent.append((call_id, endpoint, list(messages), timeout_s, known[0], own))
        return pickle.dumps((news, sent, list(cuts)), PROTOCOL)


class Unpacker:
    """Unpacks what the `Packer` for one worker has packed, in the same order."""

    def __init__(self) -> None:
        self._known: dict[int, Mapping[str, Any]] = {0: NO_PARAMS}

    def unpack(self, group: bytes) -> Group:
        news, sent, cuts = pickle.loads(group)  # noqa: S301 - from this program's own process
        self._known.update(news)
        calls = [
            Call(
                call_id,
                endpoint,
                messages,
                timeout_s,
                self._known[params],
                NO_TERMS if own is None else Terms(Task(own[0]), own[1], own[2] or NO_PARAMS),
            )
            for call_id, endpoint, messages, timeout_s, params, own in sent
        ]
        return Group(calls, cuts)


def pack_news(departed: Sequence[int], ended: Sequence[tuple[int, Completion | Failure | None]]) -> bytes:
    """Return news as bytes."""
    return pickle.dumps((list(departed), [(call_id, _flat(came)) for call_id, came in ended]), PROTOCOL)


def unpack_news(news: bytes) -> News:
    departed, ended = pickle.loads(news)  # noqa: S301 - from this program's own process
    return News(departed, [(call_id, _whole(flat)) for call_id, flat in ended])


_NAMES = {kind: tuple(each.name for each in fields(kind)) for kind in (Completion, Failure)}
_VALUES = {kind: attrgetter(*names) for kind, names in _NAMES.items()}
_PLACES = {kind: {name: place for place, name in enumerate(names)} for kind, names in _NAMES.items()}
_USAGE = attrgetter(*(each.name for each in fields(Usage)))
_NO_USAGE = Usage()


def _flat(came: Completion | Failure | None) -> tuple[Any, ...] | None:
    """Return a record as a tuple of builtin values: its kind, and its fields in their order."""
    if came is None:
        return None
    kind = type(came)
    values, place = list(_VALUES[kind](came)), _PLACES[kind]
    if (limits := came.limits) is not None:
        values[place["limits"]] = tuple(each and tuple(each) for each in limits)
    if isinstance(came, Completion):
        values[place["usage"]] = _USAGE(came.usage)
        if came.as_it_came is not None:
            values[place["as_it_came"]] = _flat(came.as_it_came)
        if came.scored:
            values[place["scored"]] = [tuple(each) for each in came.scored]
        return "answer", *values
    values[place["fault"]] = came.fault.value
    if came.partial is not None:
        values[place["partial"]] = _flat(came.partial)
    return "failure", *values


def _whole(flat: tuple[Any, ...] | None) -> Completion | Failure | None:
    """Return the record of which `_flat` made a tuple."""
    if flat is None:
        return None
    kind: type[Completion | Failure] = Completion if flat[0] == "answer" else Failure
    values, place = list(flat[1:]), _PLACES[kind]
    if (limits := values[place["limits"]]) is not None:
        values[place["limits"]] = ServerLimits(*(each and Allowance(*each) for each in limits))
    if kind is Completion:
        values[place["usage"]] = Usage(*values[place["usage"]])
        values[place["as_it_came"]] = _whole(values[place["as_it_came"]])
        values[place["scored"]] = tuple(ModelToken(*each) for each in values[place["scored"]])
    else:
        values[place["fault"]] = Fault(values[place["fault"]])
        values[place["partial"]] = _whole(values[place["partial"]])
    return kind(*values)
