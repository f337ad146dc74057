"""JSON is found in a text as a whole, in a fence or among words, and repaired last; in time that grows as the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answer.json_in_text import found

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=3)


def values(text: str) -> list[Any]:
    return [each.value for each in found(text) if not each.error]


def errors(text: str) -> list[str]:
    return [each.error for each in found(text) if each.error]


@given(VALUES)
def test_a_whole_text_is_found_as_it_is(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert values(f"\ufeff \n{text}\n")[0] == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```",
        "```\n{}```",
        "Of course!\n\n~~~\n{}\n~~~\nAnything else?",
        "Here it is: {}. It is {{text}}, see [the note].",
        "The set {{x}} and \\frac{{a}}{{b}} say: {}",
        "{} and nothing else",
        "```json\n{}",
    ],
)
@given(value=OBJECTS)
def test_an_object_is_found_in_a_fence_and_among_words(around: str, value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert value in values(around.format(text)) or not value


def test_braces_quotes_and_escapes_in_texts_do_not_end_an_object() -> None:
    value = {"a": 'a "}" and {', "b": {"c": ["]", "\\"]}}
    assert values(f"So: {json.dumps(value)} {{")[0] == value


def test_the_first_of_several_comes_first() -> None:
    assert values('{"a": 1} or {"a": 2}') == [{"a": 1}, {"a": 2}]
    assert values('Not {"a": 1}:\n```\n{"a": 2}\n```')[0] == {"a": 2}


def test_json_that_was_written_as_a_text_is_read_once_more() -> None:
    assert values(json.dumps(json.dumps({"a": 1})))[-1] == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': True, 'b': None}", {"a": True, "b": None}),
        ('{"a": 1, "b": [1, 2,],}', {"a": 1, "b": [1, 2]}),
        ('{a: "x"}', {"a": "x"}),
        ('{"a": "x" "b": 2}', {"a": "x", "b": 2}),
        ('{"a": "he said "no" to me", "b": 2}', {"a": 'he said "no" to me', "b": 2}),
        ('{"a": "5" tall", "b": 2}', {"a": '5" tall', "b": 2}),
        ('Sure: {"a": "x"', {"a": "x"}),
        ('```json\n{"a": {"b": 1}\n```', {"a": {"b": 1}}),
        ('{\n  "a": 1, // the first\n  "b": 2 # the 2nd\n}', {"a": 1, "b": 2}),
        ('{"a": $1_500, "b": .5}', {"a": 1500, "b": 0.5}),
        ('{"a": "\\(5 \\cdot 3\\)"}', {"a": "\\(5 \\cdot 3\\)"}),
    ],
)
def test_what_is_nearly_json_is_repaired(text: str, value: object) -> None:
    assert values(text) == [value]


@pytest.mark.parametrize(
    "text", ['{"a": "x', '{"a": 1', '{"a": [1, 2', '{"a": {"b": "x"', '{"a": {"b": 1}, "c": 1', '[{"a": 1}, {"a": "x"']
)
def test_what_may_be_cut_off_is_not_repaired_and_its_parts_are_no_answer(text: str) -> None:
    assert (values(text), errors(text)) == ([], ["the JSON is not closed: was the answer cut off?"])


def test_a_part_of_a_broken_object_is_no_answer() -> None:
    assert values('{"items": [{"a": 1}, {"a": 2},]}') == [{"items": [{"a": 1}, {"a": 2}]}]
    assert values("{'items': [{\"a\": 1}]}") == [{"items": [{"a": 1}]}]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('So: {"a": -Infinity}', "-Infinity is no number of JSON"),
        ('{"a": 1e999}', "1e999 is too large for a number"),
        ('{"a": 1, "b": 0, "a": 2}', "the key 'a' comes twice, with different values"),
        ('{"a": 1, "a": true}', "the key 'a' comes twice, with different values"),
        ('{"a": ' + "9" * 5000 + "}", "a number has too many digits"),
        ("[" * 201 + "]" * 201, "it is nested deeper than 200 levels"),
    ],
)
def test_what_json_cannot_say_or_says_twice_is_refused(text: str, error: str) -> None:
    assert (values(text), errors(text)) == ([], [error])


@pytest.mark.parametrize("number", ["12 + 3", "1/2", "50%", "3 apples", "1.2.3", "5 or 6", "- 5 x"])
def test_a_number_that_goes_on_is_not_cut_to_its_beginning(number: str) -> None:
    assert (values(f'{{"a": {number}, "b": 1}}'), errors(f'{{"a": {number}, "b": 1}}')) == (
        [],
        [f"{number!r} is no number of JSON"],
    )


def test_a_line_break_within_a_string_is_kept() -> None:
    assert values('{"a": "one\n two \n"}') == [{"a": "one\n two \n"}]


def test_a_key_may_come_twice_with_one_value_and_a_long_number_is_kept() -> None:
    assert values('{"a": 1, "a": 1.0, "b": ' + "9" * 4000 + "}") == [{"a": 1.0, "b": int("9" * 4000)}]


def test_half_of_a_pair_of_surrogates_is_replaced_and_a_pair_is_not() -> None:
    assert values(r'{"a": "\ud83d\ude00 \ud83d", "\udc00": []}') == [{"a": "😀 \ufffd", "\ufffd": []}]


@given(st.text() | st.lists(st.sampled_from([*"{}[]\",:\\ \n`'", '"a"', "1", "true", "```", "NaN"])).map("".join))
def test_any_text_is_searched_and_gives_what_json_can_write(text: str) -> None:
    for each in found(text):
        json.dumps(each.value, allow_nan=False).encode()


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "[",
        '{"',
        '{"a":',
        "[1,",
        '{"a":[1,x]}',
        '"\\"',
        '{"\\"',
        "{x}",
        "```\n",
        "`",
        "~~~ \n",
        "{ ",
        "{'a': '",
        '[{"a" ',
    ],
)
def test_a_long_text_is_searched_in_no_more_than_its_share(piece: str) -> None:
    """Each would take minutes if time grew as the square of its length."""
    pieces = piece * (100_000 // len(piece))
    for text in (pieces, f'{{"a": "{pieces}', f"{'[]' * 201}{pieces}"):
        assert sum(1 for _ in found(text)) < 10**6
