"""What passes between the engine and its workers arrives as it was sent."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.workers.wire import Call, Packer, Unpacker, pack_news, unpack_news
from batcher.records import (
    NO_PARAMS,
    NO_TERMS,
    Allowance,
    Completion,
    Failure,
    Fault,
    ModelToken,
    ServerLimits,
    Task,
    Terms,
    Usage,
)

texts = st.text(max_size=12) | st.just("\ud800 lone")
maybe = st.none() | texts
numbers = st.none() | st.integers(0, 2**24)
seconds = st.none() | st.floats(0, 1e6)
usages = st.builds(Usage, numbers, numbers, st.integers(0, 99), st.integers(0, 99), texts)
allowances = st.none() | st.builds(Allowance, seconds, seconds, seconds)
limits = st.none() | st.builds(ServerLimits, allowances, allowances)
scored = st.lists(
    st.builds(ModelToken, st.binary(max_size=4), st.floats(allow_nan=True, allow_infinity=False)), max_size=3
).map(tuple)
completions = st.recursive(
    st.builds(
        Completion,
        maybe,
        maybe,
        usages,
        maybe,
        limits,
        texts,
        maybe,
        texts,
        texts,
        st.binary(max_size=20),
        st.lists(texts, max_size=2).map(tuple),
        st.booleans(),
        st.none(),
        st.integers(0, 4),
        scored,
    ),
    lambda below: st.builds(lambda each, thoughts: dataclasses.replace(each, as_it_came=thoughts), below, below),
    max_leaves=2,
)
failures = st.builds(
    Failure,
    st.sampled_from(Fault),
    texts,
    numbers,
    maybe,
    seconds,
    limits,
    st.booleans(),
    st.lists(texts, max_size=2).map(tuple),
    maybe,
    st.booleans(),
    st.booleans(),
    texts,
    st.none() | completions,
    texts,
)


def spelled(value: Any) -> Any:
    """Return a record as its fields, those that a comparison leaves out included; NaN equals itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: spelled(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return type(value).__name__, fields
    if isinstance(value, tuple):
        return type(value).__name__, [spelled(each) for each in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


@given(st.lists(st.integers(0)), st.lists(st.tuples(st.integers(0), st.none() | completions | failures), max_size=4))
def test_news_arrive_as_they_were_sent(departed: list[int], ended: list[tuple[int, Any]]) -> None:
    news = unpack_news(pack_news(departed, ended))
    assert news.departed == departed
    assert [(call_id, spelled(came)) for call_id, came in news.ended] == [
        (call_id, spelled(came)) for call_id, came in ended
    ]


messages = st.lists(st.fixed_dictionaries({"role": texts, "content": texts | st.lists(st.just({"type": "text"}))}))
terms = st.just(NO_TERMS) | st.builds(
    Terms, st.sampled_from(Task), texts, st.just(NO_PARAMS) | st.dictionaries(texts, st.integers(), min_size=1)
)


@given(st.data())
def test_groups_arrive_as_they_were_sent_and_equal_parameters_stay_one_object(data: st.DataObject) -> None:
    shared = [NO_PARAMS, {"temperature": 0}, {"temperature": 0}]
    packer, unpacker = Packer(), Unpacker()
    made: dict[int, set[int]] = {}
    for _ in range(3):
        calls = data.draw(
            st.lists(
                st.builds(Call, st.integers(), st.integers(), messages, st.floats(0, 9), st.sampled_from(shared), terms)
            )
        )
        cuts = data.draw(st.lists(st.integers()))
        group = unpacker.unpack(packer.pack(calls, cuts))
        assert list(group.cuts) == cuts
        assert [tuple(each) for each in group.calls] == [tuple(each) for each in calls]
        for sent, came in zip(calls, group.calls, strict=True):
            made.setdefault(id(sent.params), set()).add(id(came.params))
    assert all(len(objects) == 1 for objects in made.values())
