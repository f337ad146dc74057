"""A response with embeddings gives each input its own vector, or none: whatever order, gaps or numbers it has."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answer.vectors import packed, unpacked
from batcher.calls.dialect import answer_in
from batcher.calls.embeddings import inputs_in
from batcher.records import Completion, Failure, Fault, Usage


def item(index: object, vector: object) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": vector}


def read(data: object, inputs: int, **rest: object) -> Completion | Failure:
    body = {"object": "list", "data": data, "model": "m", **rest}
    return answer_in(200, {}, json.dumps(body).encode(), inputs=inputs)


def numbers(completion: Completion) -> list[list[float]]:
    return [[*(unpacked(text) or ())] for text in completion.vectors]


def test_vectors_come_in_the_order_of_their_inputs_with_the_usage_of_the_prompt() -> None:
    came = read([item(1, [0.5, 2]), item(0, [1, -0.25])], 2, usage={"prompt_tokens": 7, "total_tokens": 7})
    assert isinstance(came, Completion)
    assert numbers(came) == [[1.0, -0.25], [0.5, 2.0]]
    assert (came.usage, came.model) == (Usage(7, 0), "m")
    assert json.loads(came.text or "") == [*came.vectors]


def test_one_vector_is_the_text_and_a_total_alone_is_the_usage() -> None:
    came = read([item(0, [1.5])], 1, usage={"total_tokens": 3})
    assert isinstance(came, Completion)
    assert (came.text, came.usage) == (came.vectors[0], Usage(3, 0))


def test_base64_and_a_list_of_the_same_numbers_are_one_vector() -> None:
    vector = [0.1, -3e-8, 1e30]
    as_text = base64.b64encode(struct.pack("<3f", *vector)).decode()
    assert read([item(0, vector)], 1) == read([item(0, as_text)], 1)


@pytest.mark.parametrize(
    ("asked", "inputs"), [("text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a"], 1)]
)
def test_a_list_of_model_tokens_is_one_input(asked: object, inputs: int) -> None:
    assert inputs_in(asked) == inputs


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "0 came for 2 inputs"),
        ([item(0, [1])], "1 came for 2"),
        ([item(0, [1]), item(1, [1]), item(2, [1])], "3 came for 2"),
        ([item(0, [1]), item(0, [1])], "two have the index 0"),
        ([item(0, [1]), item(2, [1])], "item 1 has no index"),
        ([item(0, [1]), item(-1, [1])], "item 1 has no index"),
        ([item(0, [1]), item(True, [1])], "item 1 has no index"),
        ([{"embedding": [1]}, {"embedding": [1]}], "item 0 has no index"),
        ([item(0, [1]), item(1, [1, 2])], "different lengths"),
        ([item(0, [1]), 3], "item 1 has no index"),
        ([item(0, None), item(1, [])], "none is a list of finite numbers"),
    ],
)
def test_what_is_not_one_good_vector_for_each_input_is_a_failure_that_may_be_billed(data: object, words: str) -> None:
    came = read(data, 2)
    assert isinstance(came, Failure)
    assert came.fault is Fault.PROTOCOL
    assert came.may_be_billed
    assert words in str(came)


@pytest.mark.parametrize(
    "spoilt",
    [
        [math.nan],
        [math.inf],
        [1e39],
        [10**400],
        [True],
        [[1]],
        [],
        None,
        "AAA",
        "AADAfw==",  # not a number, in base64
    ],
)
def test_an_input_whose_vector_is_none_has_none_and_the_others_keep_theirs(spoilt: object) -> None:
    came = read([item(1, spoilt), item(0, [1])], 2)
    assert isinstance(came, Completion)
    assert [bool(vector) for vector in came.vectors] == [True, False]
    assert numbers(came)[0] == [1]


def test_an_error_under_200_is_a_failure() -> None:
    assert isinstance(read(None, 1, error={"message": "no such model"}), Failure)
    assert isinstance(answer_in(200, {}, b"<html>", inputs=1), Failure)


VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)


@given(vectors=st.lists(VECTORS, min_size=1, max_size=6), data=st.data())
def test_no_order_and_no_defect_of_a_response_gives_an_input_another_ones_vector(
    vectors: list[list[float]], data: st.DataObject
) -> None:
    items: list[Any] = [item(index, vector) for index, vector in enumerate(vectors)]
    items = data.draw(st.permutations(items))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(items)))
        defect = data.draw(st.sampled_from(["drop", "repeat", "renumber", "spoil"]))
        if not items[place:]:
            continue
        if defect == "drop":
            del items[place]
        elif defect == "repeat":
            items.append(items[place])
        elif defect == "renumber":
            items[place] = {**items[place], "index": data.draw(st.one_of(st.none(), st.integers(-1, 7)))}
        else:
            items[place] = {
                **items[place],
                "embedding": data.draw(st.sampled_from([None, [], [1.0], "x", ["1", 2, 3]])),
            }
    said = {each["index"]: each["embedding"] for each in items}
    came = read(items, len(vectors))
    is_whole = len(items) == len(vectors) == len(said) and {*said} == {*range(len(vectors))}
    if isinstance(came, Completion):
        assert is_whole
        sent = [said[index] for index in range(len(vectors))]
        assert numbers(came) == [
            [*(unpacked(packed(each) or "") or ())] if isinstance(each, list) else [] for each in sent
        ]
    elif all(len(packed(each["embedding"]) or "") == 16 for each in items if isinstance(each["embedding"], list)):
        assert not is_whole or any(not isinstance(each["embedding"], list) for each in items)


@given(st.binary())
def test_any_bytes_are_read_without_an_error(raw: bytes) -> None:
    assert isinstance(answer_in(200, {}, raw, inputs=2), Failure)
