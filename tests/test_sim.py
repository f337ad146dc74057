from __future__ import annotations

import json
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batcher.errors import SettingsError
from batcher.sim import SECONDS_KEPT, Books, Fate, Knobs, answer, draw, prompt_of


def ask(prompt: object, **options: object) -> str:
    return answer({"model": "m", "messages": [{"role": "user", "content": prompt}], **options})


def ask_schema(prompt: str, schema: object) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return json.loads(ask(prompt, response_format=wanted))


# --- knobs ---


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"latency": -1}, "latency must be a number, 0 or more"),
        ({"latency": float("nan")}, "latency must be"),
        ({"latency_sigma": -0.1}, "latency_sigma must be"),
        ({"rpm": float("inf")}, "rpm must be"),
        ({"rpm": True}, "rpm must be"),
        ({"error_rate": 1.5}, "error_rate must be a share from 0 to 1"),
        ({"drop_rate": -0.5}, "drop_rate must be a share from 0 to 1"),
        ({"hang_rate": "all"}, "hang_rate must be a share from 0 to 1"),
        ({"error_rate": 0.6, "drop_rate": 0.6}, "lower one of them"),
        ({"keys": "sk-1"}, "keys must be a tuple"),
        ({"keys": ("",)}, "keys must be a tuple"),
        ({"model": None}, "model must be"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_it_must_be(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Knobs(**knobs)


def test_shares_that_add_up_to_one_are_accepted() -> None:
    assert Knobs(error_rate=0.1, drop_rate=0.2, hang_rate=0.7).hang_rate == 0.7


def test_the_repr_of_the_knobs_holds_no_key() -> None:
    assert "sk-secret" not in repr(Knobs(keys=("sk-secret",)))


def test_importing_the_simulator_loads_no_web_framework() -> None:
    code = (
        "import sys, batcher.serve; print([m for m in ('fastapi', 'uvicorn', 'aiohttp', 'pandas') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- fates ---


def test_without_rates_every_request_is_answered_at_once() -> None:
    assert {draw(Knobs(), f"prompt {number}", 0) for number in range(100)} == {(Fate.ANSWER, 0.0)}


def test_the_same_seed_prompt_and_turn_get_the_same_fate() -> None:
    knobs = Knobs(error_rate=0.3, drop_rate=0.3, hang_rate=0.3, latency=1, latency_sigma=0.5)
    assert [draw(knobs, "p", turn) for turn in range(50)] == [draw(knobs, "p", turn) for turn in range(50)]


def test_a_retry_and_another_seed_draw_anew() -> None:
    knobs = Knobs(error_rate=0.5, seed=1)
    other = Knobs(error_rate=0.5, seed=2)
    assert len({draw(knobs, "p", turn)[0] for turn in range(50)}) == 2
    assert [draw(knobs, "p", turn) for turn in range(50)] != [draw(other, "p", turn) for turn in range(50)]


def test_each_fate_gets_its_share() -> None:
    knobs = Knobs(error_rate=0.2, drop_rate=0.1, hang_rate=0.05)
    fates = [draw(knobs, f"prompt {number}", 0)[0] for number in range(10_000)]
    shares = {fate: fates.count(fate) / len(fates) for fate in Fate}
    assert shares == pytest.approx({Fate.ERROR: 0.2, Fate.DROP: 0.1, Fate.HANG: 0.05, Fate.ANSWER: 0.65}, abs=0.02)


def test_a_share_of_one_is_every_request() -> None:
    assert {draw(Knobs(drop_rate=1), f"{number}", 0)[0] for number in range(1000)} == {Fate.DROP}


def test_latency_is_log_normal_around_its_median() -> None:
    knobs = Knobs(latency=2.0, latency_sigma=0.5)
    logs = [Fraction(draw(knobs, f"prompt {number}", 0)[1]) for number in range(4_000)]
    assert statistics.median(logs) == pytest.approx(2.0, rel=0.05)
    assert sum(value > 2 * 1.6487 for value in logs) / len(logs) == pytest.approx(0.1587, abs=0.02)


def test_latency_without_sigma_is_fixed() -> None:
    assert draw(Knobs(latency=2.0), "p", 3) == (Fate.ANSWER, 2.0)


# --- books ---


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_way_to_end_keeps_the_books_even() -> None:
    books = Books(_Clock())
    for _ in range(5):
        books.arrive("p", "sk-secret")
    books.respond(200, "p")
    books.respond(500)
    books.drop()
    books.abandon()
    books.hang()
    assert (books.in_flight, books.peak_in_flight) == (1, 5)
    books.let_go()
    assert books.in_flight == 0
    assert books.requests == sum(books.by_status.values()) + books.dropped + books.hung + books.abandoned
    assert books.requests_by_prompt == {"p": 5}
    assert books.answered_by_prompt == {"p": 1}


def test_the_books_hold_a_digest_of_the_key_alone() -> None:
    books = Books(_Clock())
    books.arrive("p", "sk-secret")
    books.arrive("p", "")
    written = json.dumps(books.to_dict())
    assert "sk-secret" not in written
    assert sorted(books.by_key.values()) == [1, 1]
    assert books.by_key["none"] == 1


def test_requests_are_counted_by_whole_seconds() -> None:
    clock = _Clock()
    books = Books(clock)
    for step in (0.0, 0.5, 0.6, 2.0):
        clock.now += step
        books.arrive("p", "")
    assert list(books.per_second) == [2, 1, 0, 1]
    assert (books.first_request, books.last_request) == (1000.0, 1003.1)


def test_only_the_last_seconds_are_kept() -> None:
    clock = _Clock()
    books = Books(clock)
    books.arrive("p", "")
    for _ in range(2):
        clock.now += SECONDS_KEPT * 2
        books.arrive("p", "")
    assert len(books.per_second) == SECONDS_KEPT
    assert list(books.per_second)[-1] == 1
    assert sum(books.per_second) == 1
    assert books.per_second_start == 3 * SECONDS_KEPT + 1


def test_a_clock_that_is_set_back_loses_no_request() -> None:
    clock = _Clock()
    books = Books(clock)
    books.arrive("p", "")
    clock.now -= 50
    books.arrive("p", "")
    assert list(books.per_second) == [2]


def test_a_reset_repeats_the_fates() -> None:
    books = Books(_Clock())
    assert [books.admit("p"), books.admit("p"), books.admit("q")] == [0, 1, 0]
    books.reset()
    assert books.admit("p") == 0


# --- sums ---


@pytest.mark.parametrize(
    ("prompt", "value"),
    [
        ("What is (12 + 7) * 3 - 4 / 2?", "55"),
        ("Compute 17*23.", "391"),
        ("计算12+34等于多少", "46"),  # Chinese letters may touch a sum
        ("3 × (4 − 1)", "9"),  # noqa: RUF001 - as typed
        ("12 ÷ 5", "2.4"),
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
        ("2024-01-05", "2018"),
        ("555-1234", "-679"),
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
        "2 ** 10",
        "7 // 2",
        "42",
        "3 + x",
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
    assert ask("What is 2 + 3? One of: 4, 5, 6.") == "5"


@pytest.mark.parametrize("prompt", ["I like cats.", "A class: of its own", "This is one of the best, funniest films"])
def test_ordinary_text_offers_no_labels(prompt: str) -> None:
    assert ask(prompt).startswith("Echo ")


# --- JSON ---


def test_a_skeleton_gets_the_value_of_the_sum() -> None:
    said = json.loads(ask('What is 6*7? Answer as JSON: {"answer": <number>, "why": "..."}'))
    assert said["answer"] == 42
    assert said["why"].startswith("Echo ")


def test_a_skeleton_gives_names_and_types() -> None:
    shown = (
        '{"label": "pos|neg", "n": 1, "tags": ["..."], "in": {"ok": true, "no": null}, "x": <a number, 0 to 1>, ...}'
    )
    said = json.loads(ask(f"Reply in JSON like {shown} for: good"))
    assert said["label"] in {"pos", "neg"}
    assert isinstance(said["n"], int)
    assert isinstance(said["tags"][0], str)
    assert isinstance(said["in"]["ok"], bool)
    assert said["in"]["no"] is None
    assert isinstance(said["x"], int | float)


def test_a_skeleton_holds_the_offered_label() -> None:
    prompt = 'Classify as good or bad. Answer as JSON: {"label": "...", "reason": "..."}'
    said = json.loads(ask(prompt))
    assert said["label"] in {"good", "bad"}
    assert said["reason"].startswith("Echo ")


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
            "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2},
            "maybe": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
            "none": {"type": "null"},
            "sure": {"type": "boolean"},
            "code": {"type": ["string", "null"], "minLength": 90},
        },
        "required": ["answer", "extra"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number", "multipleOf": 0.5}}}},
    }
    said = ask_schema("What is 6 * 7?", schema)
    assert said["answer"] == 42
    assert said["label"] in {"a", "b"}
    assert said["kind"] == "k"
    assert 0 < said["share"] < 1
    assert [len(tag) for tag in said["tags"]] == [3, 3]
    assert said["maybe"]["x"] * 2 % 1 == 0
    assert said["none"] is None
    assert isinstance(said["sure"], bool)
    assert len(said["code"]) == 90
    assert "extra" in said


def test_a_sum_that_does_not_fit_the_schema_is_not_forced_into_it() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}}}
    assert 1 <= ask_schema("6 * 7", schema)["score"] <= 5
    assert isinstance(ask_schema("1 / 3 + 1", schema)["score"], int)


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {
        "type": "object",
        "properties": {name: {"$ref": "#"} for name in "abcdefgh"}
        | {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    }
    assert set(ask_schema("p", schema)) == {*"abcdefgh", "next"}


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema["type"]
    if kind == "object":
        inner = schema["properties"]
        return set(value) == set(inner) and all(_fits(value[name], inner[name]) for name in inner)
    if kind == "array":
        return len(value) >= schema.get("minItems", 0) and all(_fits(item, schema["items"]) for item in value)
    return _fits_plain(value, kind, schema)


def _fits_plain(value: Any, kind: str, schema: dict[str, Any]) -> bool:
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or kind == "number"
        return whole and bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if kind == "string":
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    return isinstance(value, bool) if kind == "boolean" else value is None


def _between(kind: str, low: int, size: int) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": low + size}


leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(["integer", "number", "string", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.builds(_between, st.sampled_from(["integer", "number"]), st.integers(-500, 500), st.integers(0, 50)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 30)),
    st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 300)),
    st.lists(st.text() | st.integers(), min_size=1).map(lambda options: {"enum": options}),
    st.text().map(lambda text: {"const": text}),
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(st.text(), inner, max_size=4).map(lambda p: {"type": "object", "properties": p})
        | st.builds(lambda i, n: {"type": "array", "items": i, "minItems": n}, inner, st.integers(0, 3))
    ),
    max_leaves=10,
)


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


@given(bodies)
def test_no_request_is_too_strange_to_be_answered(body: dict[str, Any]) -> None:
    assert isinstance(answer(body), str)
    assert answer(body) == answer(json.loads(json.dumps(body)))


@pytest.mark.parametrize(
    "piece", ["-", "(", "1+", "a,", "as a/", "one of a, ", "one of [", '{"a":', "\n- ", "labels: "]
)
def test_a_long_prompt_is_no_trap(piece: str) -> None:
    assert isinstance(ask("json labels: " + piece * (200_000 // len(piece))), str)
