from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batcher.server.answers import answer, prompt_of


def ask(prompt: object, **options: object) -> str:
    return answer({"model": "m", "messages": [{"role": "user", "content": prompt}], **options})


def ask_schema(prompt: str, schema: object) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return json.loads(ask(prompt, response_format=wanted))


# --- sums ---


@pytest.mark.parametrize(
    ("prompt", "value"),
    [
        ("What is (12 + 7) * 3 - 4 / 2?", "55"),
        ("Compute 17*23.", "391"),
        ("计算12+34等于多少", "46"),  # Chinese letters may touch a sum
        ("3 × (4 − 1)", "9"),  # noqa: RUF001 - as typed
        ("12 ÷ 5", "2.4"),
        ("计算10/4", "2.5"),
        ("（1＋2）×3", "9"),  # noqa: RUF001 - as typed
        ("0.1+0.2", "0.3"),
        ("1/3 + 1/3", "0.6666666667"),
        ("1/0 =", "undefined"),
        ("1,234 + 5", "1239"),
        ("007 + 1", "8"),
        ("5--3", "8"),
        ("2*-3", "-6"),
        ("- 2 + 3", "5"),  # the item of a list
        ("-2 + 3", "1"),
        ("1) 2 + 3", "5"),
        ("(1+2", "3"),
        ("Q: 1+1 A: 2 Q: 3+4 A:", "7"),
        ("1+1, explained in 1-2 sentences", "2"),
        ("What's 7-2?", "5"),
        ("Compute 10/4", "2.5"),
        ("Compute 1000-50", "950"),
        ("f(2 + 3) is", "5"),
        ("1 + 2 + x", "3"),
        ("555-1234", "-679"),  # a whole prompt without a word
        ("99999999999999999999 * 99999999999999999999", "9999999999999999999800000000000000000001"),
    ],
)
def test_a_sum_is_really_computed(prompt: str, value: str) -> None:
    assert ask(prompt) == value


@pytest.mark.parametrize(
    "prompt",
    [
        "Ordered on 2024-01-05 and again on 05/01/2024",
        "Call 555-123-4567 or +1-555-123-4567",
        "Compute the age of who was born on 2001-02-03",
        "A state-of-the-art, well-known thing - really",
        "covid-19 and GPT-4-32k",
        "Open 24/7, 3/5 stars, pages 10-20",
        "version 1.2.3-4 of http://10.0.0.1//5-6",
        "2024-01-05",
        "Compute 2024-01",
        "2 ** 10 + 3",
        "3 + 2 ** 10",
        "7 // 2",
        "42",
        "3 + x",
        "1 + (2",
        "+".join("1" * 150),
        "1" * 31 + " + 1",
    ],
)
def test_what_only_looks_like_a_sum_is_left_alone(prompt: str) -> None:
    assert ask(prompt).startswith("Echo ")


Sum = tuple[str, Fraction | None]


def _joined(pair: tuple[Sum, Sum], sign: str, brackets: bool) -> Sum:
    (left, x), (right, y) = pair
    text = f"({left}) {sign} ({right})" if brackets else f"({left}){sign}({right})"
    if x is None or y is None or (sign == "/" and y == 0):
        return text, None
    return text, {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[sign]


numbers: st.SearchStrategy[Sum] = st.one_of(
    st.integers(-999, 999).map(lambda number: (str(number), Fraction(number))),
    st.decimals(0, 99, places=2).map(lambda number: (str(number), Fraction(str(number)))),
)
sums = st.recursive(
    numbers,
    lambda inner: st.builds(_joined, st.tuples(inner, inner), st.sampled_from("+-*/"), st.booleans()),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no failure
@given(sums)
def test_sums_are_exact(drawn: Sum) -> None:
    text, value = drawn
    assume(text.count("(") and len(text) <= 180)
    said = ask(f"Compute {text} please")
    if value is None:
        assert said == "undefined"
    elif value.denominator == 1:
        assert said == str(value)
    else:
        assert float(said) == pytest.approx(float(value), rel=1e-9)
        assert "e" not in said.lower()


# --- labels ---


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        ("Classify as positive, negative or neutral: works 24/7", {"positive", "negative", "neutral"}),
        ("Reply with one of: a, b, c. Text: 2 + 2", {"a", "b", "c"}),
        ('Labels: ["x y", "z"]\nText: fine', {"x y", "z"}),
        ("Choose one of [red, green]", {"red", "green"}),
        ("Sort into these categories:\n- red\n- dark blue\n\nText: sky", {"red", "dark blue"}),
        ("Is it spam? Answer yes or no.", {"yes", "no"}),
        ("Pick one of positive, negative, neutral: great phone, bad battery", {"positive", "negative", "neutral"}),
        ("Options: good / bad", {"good", "bad"}),
        ("Labels: ['food and drink', \"won't say\"]", {"food and drink", "won't say"}),
        ("Is it spam? Answer yes/no.", {"yes", "no"}),
        ("Labels: lost_card, why?, other\nText: x", {"lost_card", "why?", "other"}),
        ("Classify the review into 'very good', 'good', or 'bad'.", {"very good", "good", "bad"}),
        ("分类为正面、负面或中性。", {"正面", "负面", "中性"}),
    ],
)
def test_one_of_the_offered_labels_is_chosen(prompt: str, labels: set[str]) -> None:
    seen = {ask(prompt.replace("Text:", f"({number}) Text:") + f"\nRow {number}") for number in range(40)}
    assert seen <= labels
    assert ask(prompt) in labels


def test_labels_spread_over_the_rows() -> None:
    said = [ask(f"Classify as positive, negative or neutral: row {number}") for number in range(300)]
    assert min(said.count(label) for label in ("positive", "negative", "neutral")) > 60


def test_labels_of_the_system_message_apply_to_the_row() -> None:
    messages = [{"role": "system", "content": "Answer with one of: spam, ham"}, {"role": "user", "content": "1 + 1"}]
    assert answer({"messages": messages}) in {"spam", "ham"}


def test_the_value_of_a_sum_is_chosen_among_labels() -> None:
    for number in range(9):
        assert ask(f"What is {number} + 3? One of: {', '.join(map(str, range(12)))}.") == str(number + 3)
        assert ask_schema(f"{number} + 3", {"enum": [*range(12)]}) == number + 3
        assert ask_schema(f"{number} + 3", {"enum": [*map(str, range(12))]}) == str(number + 3)


def test_an_option_that_is_nothing_is_one_of_many() -> None:
    said = [ask_schema(f"row {number}", {"enum": ["", None, "a", "b"]}) for number in range(40)]
    assert set(said) == {"", None, "a", "b"}


@pytest.mark.parametrize(
    "prompt",
    [
        "I like cats and dogs, with milk.",
        "A class: of its own",
        "This is one of the best, funniest films",
        "Options: pay $5,000 at once or in a good many small parts each month",
    ],
)
def test_ordinary_text_offers_no_labels(prompt: str) -> None:
    assert ask(prompt).startswith("Echo ")


# --- JSON ---


def test_a_skeleton_gets_the_value_of_the_sum() -> None:
    said = json.loads(ask('What is 6*7? Answer as JSON: {"answer": <number>, "why": "..."}'))
    assert said["answer"] == 42
    assert said["why"].startswith("Echo ")


def test_a_skeleton_gives_names_and_types() -> None:
    shown = '{"label": "pos|neg", "n": 1, "tags": ["..."], "in": {"ok": true/false, "no": null}, "x": <number>, ...}'
    said = json.loads(ask(f"Reply in JSON like {shown} for: good"))
    assert said["label"] in {"pos", "neg"}
    assert isinstance(said["n"], int)
    assert isinstance(said["tags"][0], str)
    assert isinstance(said["in"]["ok"], bool)
    assert said["in"]["no"] is None
    assert isinstance(said["x"], int | float)


def test_a_skeleton_holds_the_offered_label() -> None:
    prompt = (
        'Classify as good or bad. Answer as JSON: {"label": "...", "reason": "a number of words", "sure": "number"}'
    )
    said = json.loads(ask(prompt))
    assert said["label"] in {"good", "bad"}
    assert said["reason"].startswith("Echo ")
    assert isinstance(said["sure"], int)


def test_a_skeleton_after_the_word_json_goes_before_data() -> None:
    assert list(json.loads(ask('Row {"a": 1}. As JSON: {"b": "..."}'))) == ["b"]


def test_braces_without_the_word_json_are_data() -> None:
    assert ask('Row {"a": "x"}').startswith("Echo ")


def test_a_json_object_without_a_skeleton_holds_the_answer() -> None:
    wanted = {"type": "json_object"}
    assert json.loads(ask("2 + 3", response_format=wanted)) == {"answer": 5}
    assert json.loads(ask("hello", response_format=wanted))["answer"].startswith("Echo ")


def test_a_schema_is_followed() -> None:
    schema = {
        "type": "object",
        "properties": {
            "answer": {"type": "integer"},
            "label": {"enum": ["a", "b"]},
            "kind": {"const": "k"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "maybe": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
            "whole": {"allOf": [{"$ref": "#/$defs/point"}]},
            "none": {"type": "null"},
            "sure": {"type": "boolean"},
            "text": {"type": ["null", "string"]},
        },
        "required": ["answer", "extra"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    said = ask_schema("What is 6 * 7?", schema)
    assert said.pop("label") in {"a", "b"}
    assert isinstance(said.pop("sure"), bool)
    echo = ask_schema("What is 6 * 7?", {"type": "string"})
    point = {"x": 42}
    assert said == {"answer": 42, "kind": "k", "tags": [echo], "maybe": point, "whole": point, "none": None} | {
        "text": echo,
        "extra": 42,
    }


def test_a_sum_that_does_not_fit_the_schema_is_not_forced_into_it() -> None:
    assert 1 <= ask_schema("6 * 7", {"type": "integer", "minimum": 1, "maximum": 5}) <= 5
    assert isinstance(ask_schema("1 / 3 + 1", {"type": "integer"}), int)
    assert ask_schema("0.1 + 0.9", {"type": "integer"}) == 1
    assert isinstance(ask_schema("row", {"type": "integer", "maximum": -5.5}), int)


@pytest.mark.parametrize(
    "bounds",
    [{"maximum": -5}, {"minimum": 0.2, "maximum": 0.8}, {"minimum": 500}, {"minimum": 0.5, "maximum": 1}],
)
def test_a_number_stays_within_its_bounds(bounds: dict[str, float]) -> None:
    for number in range(20):
        said = ask_schema(f"row {number}", {"type": "number", **bounds})
        assert bounds.get("minimum", said) <= said <= bounds.get("maximum", said)


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), 1e300, "1", True, None])
def test_a_bound_that_is_none_is_passed_over(bound: object) -> None:
    assert isinstance(ask_schema("row", {"type": "integer", "minimum": bound, "maximum": bound}), int)


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"properties": {name: {"$ref": "#"} for name in "abcdefgh"} | {"next": {"anyOf": [{"$ref": "#"}]}}}
    assert set(ask_schema("p", schema)) == {*"abcdefgh", "next"}
    assert ask_schema("p", {"$ref": "#"}) is None


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema["type"]
    if kind == "object":
        inner = schema["properties"]
        return set(value) == set(inner) and all(_fits(value[name], inner[name]) for name in inner)
    if kind == "array":
        return len(value) == 1 and _fits(value[0], schema["items"])
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or kind == "number"
        return whole and bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return isinstance(value, {"string": str, "boolean": bool, "null": type(None)}[kind])


def _between(kind: str, low: int, size: int) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": low + size}


leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(["integer", "number", "string", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.builds(_between, st.sampled_from(["integer", "number"]), st.integers(-500, 500), st.integers(0, 50)),
    st.lists(st.text() | st.integers(), min_size=1).map(lambda options: {"enum": options}),
    st.text().map(lambda text: {"const": text}),
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(st.text(), inner, max_size=4).map(lambda p: {"type": "object", "properties": p})
        | st.builds(lambda items: {"type": "array", "items": items}, inner)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(schemas, st.sampled_from(["hello", "6 * 7", "1/3 + 1", "1 / 0", "one of: a, b"]))
def test_whatever_the_schema_the_answer_fits(schema: dict[str, Any], prompt: str) -> None:
    assert _fits(ask_schema(prompt, schema), schema)


# --- any request at all ---


def test_the_prompt_is_the_text_of_the_last_user_message() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "three"}]
    assert prompt_of({"messages": messages}) == "one\ntwo"
    assert prompt_of({"messages": messages[1:]}) == "three"
    assert prompt_of({"messages": []}) == ""


@pytest.mark.parametrize("prompt", ["你好", "👋🏽", "half \ud83d of a pair", "", " ", "\x00"])
def test_any_text_is_echoed(prompt: str) -> None:
    assert ask(prompt).startswith("Echo ")
    assert ask(f"One of: a, b.\n{prompt}") in {"a", "b"}


def test_different_messages_get_different_echoes() -> None:
    same = "x" * 100
    answers = {ask(f"{same} {number}") for number in range(5_000)}
    assert len(answers) == 5_000
    with_system = [{"role": "system", "content": "s"}, {"role": "user", "content": same}]
    assert answer({"messages": with_system}) != ask(same)


def test_an_answer_is_the_same_in_another_process() -> None:
    assert ask("hello") == "Echo 8ffea5ca6f9b: hello"


texts = st.text() | st.text(alphabet="0123456789+-*/(). ,{}[]<>\"':|jsonlabelsorX\n\ud800")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
keywords = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "required",
        "minimum",
        "maximum",
    ]
)
words = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "enum",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "required",
        "minimum",
        "maximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "format",
        "exclusiveMinimum",
        "const",
    ]
)
words = st.sampled_from(["object", "array", "string", "integer", "number", "null", "boolean", "#", "#/properties"])
wild = st.recursive(
    anything | words, lambda inner: st.dictionaries(keywords, inner, max_size=5) | st.lists(inner, max_size=3)
)
message = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "system"]), "content": texts | anything})
formats = st.fixed_dictionaries(
    {"type": st.sampled_from(["json_schema", "json_object", "text"])},
    optional={"json_schema": st.fixed_dictionaries({"schema": wild}) | anything},
)
bodies = st.fixed_dictionaries(
    {"messages": st.lists(message | st.dictionaries(texts, anything, max_size=2), max_size=3)},
    optional={"response_format": formats | anything},
)


@settings(deadline=None)
@given(bodies)
def test_no_request_is_too_strange_to_be_answered(body: dict[str, Any]) -> None:
    assert isinstance(answer(body), str)
    assert answer(body) == answer(json.loads(json.dumps(body)))


@pytest.mark.parametrize(
    "piece", ["-", "(", "1+", "a,", "as a/", "one of a, ", "one of [", '{"a":', "\n- ", "labels: "]
)
def test_a_long_prompt_is_no_trap(piece: str) -> None:
    assert isinstance(ask("json labels: " + piece * (200_000 // len(piece))), str)
