"""A text is read as a label whatever stands around it, and as none if it says two labels, or more than one."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answer.labels import Labels
from batcher.answer.shape import Read, shape_of_recorded
from batcher.errors import SettingsError
from batcher.records import Status

FEELINGS = Labels.of("positive,negative,neutral", "--labels")
INTENTS = Labels.of(
    ["card_arrival", "card_linking", "top_up", "top_up_failed", "age limit", "Yes, definitely"], "--labels"
)
CHINESE = Labels.of("正面,负面,中性", "--labels")
AWKWARD = {
    "grades": Labels.of("A,A-,B+,B", "--labels"),
    "languages": Labels.of("C,c,C++,C#", "--labels"),
    "ratings": Labels.of([1, 2, 3, 4, 5], "--labels"),
    "signed": Labels.of("-1,0,1", "--labels"),
    "versions": Labels.of("1,1.0,1.5", "--labels"),
    "bounds": Labels.of("<5,5,>5", "--labels"),
    "nothing": Labels.of("none,null,true,false", "--labels"),
    "emoji": Labels.of("👍,👎,❤", "--labels"),
    "texts": Labels.of(["Yes, definitely", 'a "quoted" one', "two\nlines", "it's"], "--labels"),
    "hindi": Labels.of("सकारात्मक,नकारात्मक", "--labels"),
    "words": Labels.of("answer,question", "--labels"),
    "parts": Labels.of("card,arrival,card arrival", "--labels"),
    "ends": Labels.of("yes,yes?,no", "--labels"),
}
EVERYONE = [FEELINGS, INTENTS, CHINESE, *AWKWARD.values()]


def label(labels: Labels, text: str) -> str | None:
    read = labels.read(text)
    return read.answer if read.status is Status.OK else None


AROUND = [
    "{}",
    " {}\n",
    "\ufeff{}",
    '"{}"',
    "'{}'",
    "“{}”",
    "`{}`",
    "**{}**",
    "***{}***",
    "```\n{}\n```",
    "```text\n{}\n```",
    '**"{}"**',
    "({})",
    "[{}]",
    "- **{}**",
    "## {}",
    "1) `{}`",
    "→ {}",
    "Label: {}",
    "label:{}",
    "LABEL = {}",
    "**Label:** {}",
    "**Final answer**: {}",
    "The predicted category is: {}",
    "The sentiment of this review is `{}`",
    "Output:\n\n{}",
    "### Answer\n**{}**",
    "答案：{}",  # noqa: RUF001
    "分类结果是“{}”。",
    "<label>{}</label>",
    "$\\boxed{{{}}}$",
    "{{'label': '{}'}}",
]


def may_stand(around: str, labels: Labels) -> bool:
    """Return whether what stands around a label is no label itself."""
    return not (around[0] == "1" and labels.names[0].lstrip("-<>").isdecimal()) and not (
        "nswer" in around and "answer" in labels.names
    )


@pytest.mark.parametrize("around", AROUND)
def test_a_label_is_read_whatever_stands_around_it(around: str) -> None:
    for labels in EVERYONE:
        for name in labels.names if may_stand(around, labels) else ():
            assert label(labels, around.format(name)) == name, (around, name)


def test_a_bullet_is_no_sign_and_a_sign_no_bullet() -> None:
    assert (
        label(AWKWARD["ratings"], "- 4") == label(AWKWARD["ratings"], "> 4") == label(AWKWARD["ratings"], "* 4") == "4"
    )
    assert label(AWKWARD["signed"], "-1") == label(AWKWARD["signed"], "Score: -1") == "-1"
    assert label(AWKWARD["signed"], "- 1") is None
    assert label(AWKWARD["bounds"], "> 5") == ">5"


@given(
    st.sampled_from([(labels, name) for labels in EVERYONE for name in labels.names]),
    st.lists(st.sampled_from([around for around in AROUND if "{{" not in around]), max_size=4),
)
def test_layers_may_be_in_each_other(named: tuple[Labels, str], layers: list[str]) -> None:
    labels, name = named
    text = name
    for around in layers:
        if may_stand(around, labels) and not ("`" in around and "`" in text):  # Markdown nests no code
            text = around.format(text)
    assert label(labels, text) == name


@given(
    st.sampled_from(INTENTS.names), st.sampled_from("_- "), st.booleans(), st.sampled_from(["", ".", "!", "。", "…"])
)
def test_case_and_what_stands_between_words_do_not_matter(name: str, between: str, is_upper: bool, end: str) -> None:
    text = name.replace("_", between).replace(" ", between)
    assert label(INTENTS, (text.upper() if is_upper else text.title()) + end) == name


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("languages", "**c**", "c"),
        ("languages", "c#.", "C#"),
        ("languages", "C+", None),
        ("languages", "Ｃ", "C"),  # noqa: RUF001
        ("ratings", "4.0", "4"),
        ("ratings", "４", "4"),  # noqa: RUF001
        ("ratings", "4.5", None),
        ("ratings", "-4", None),
        ("ratings", "4/5", None),
        ("ratings", '{"rating": 4}', "4"),
        ("versions", "1.0", "1.0"),
        ("grades", "a-", "A-"),
        ("grades", "A+", None),
        ("nothing", '{"label": null}', "null"),
        ("nothing", '{"label": true}', "true"),
        ("emoji", "👍🏽", None),
        ("emoji", "❤️", "❤"),
        ("texts", "Its", "it's"),
        ("texts", "two lines", "two\nlines"),
        ("hindi", "नकारात्मक।", "नकारात्मक"),
        ("words", "answer: question", None),
        ("parts", "card, arrival", None),
        ("parts", "card\narrival", None),
        ("parts", "Card-Arrival", "card arrival"),
        ("ends", "Yes?", "yes?"),
        ("ends", "no?", "no"),
    ],
)
def test_labels_that_are_alike_are_told_apart_or_not_matched(kind: str, text: str, expected: str | None) -> None:
    assert label(AWKWARD[kind], text) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "positive", "confidence": 0.9, "reason": "not negative"}',
        '```json\n{"sentiment": "Positive"}\n```',
        'It is not negative. {"result": {"label": "positive"}}',
        '["positive"]',
        "positive\n\nThe customer is happy.",
        "The customer is happy.\n\n**Positive**.",
        "It could be negative, but it is not.\nLabel: positive",
        "Label: positive\nReason: nothing negative in it",
        "Sentiment:\n`positive`\n\nThe negative word is meant as a joke.",
        "Label: positive\n\nFinal answer: Positive.",
    ],
)
def test_a_label_is_read_that_json_or_a_line_of_its_own_says(text: str) -> None:
    assert label(FEELINGS, text) == "positive"


@pytest.mark.parametrize(
    "text",
    [
        "positive or negative",
        "positive/negative",
        "positive, negative",
        "positive\nnegative",
        "positive\n\nIt is not negative.",
        "Label: positive\nLabel: negative",
        '["positive", "negative"]',
        '{"label": "positive"} {"label": "negative"}',
        '{"label": "positive", "answer": "negative"}',
        "Label: positive or negative\nLabel: positive",
    ],
)
def test_two_labels_are_none_and_the_error_names_them(text: str) -> None:
    read = FEELINGS.read(text)
    assert read == Read(Status.INVALID, text, "two labels: 'positive' and 'negative'")


@pytest.mark.parametrize(
    "text",
    [
        "not positive",
        "non-positive",
        "!positive",
        "unpositive",
        "positively",
        "The answer is not positive",
        "Label: not positive\nLabel: positive",
        "I would say that it is positive because it praises the film",
        '{"label": "not positive"}',
        '{"positive": 0.9}',
        "",
        "\n",
        "{}",
        "[]",
        "Label:",
    ],
)
def test_more_or_less_than_a_label_is_invalid_and_stays_as_it_came(text: str) -> None:
    read = FEELINGS.read(text)
    assert (read.status, read.answer) == (Status.INVALID, text)
    assert read.error


def test_a_label_within_a_longer_one_is_not_said_beside_it() -> None:
    assert label(INTENTS, "top_up_failed\n\nThe top up failed.") == "top_up_failed"
    assert label(INTENTS, "top_up_failed\n\nThe top up was late.") is None


def test_a_chinese_label_is_read_but_not_within_other_words() -> None:
    assert label(CHINESE, "情感倾向：正面。") == "正面"  # noqa: RUF001
    assert label(CHINESE, "不是正面") is None
    assert label(CHINESE, "正面和负面") is None


def test_an_alias_is_read_as_its_label_and_labels_come_first() -> None:
    labels = Labels.of({"labels": ["good", "bad", "Fine"], "aliases": {"fine": "good", "👍": "good"}}, "labels")
    assert [label(labels, text) for text in ("👍", "**fine**", "Fine", "FINE")] == ["good", "good", "Fine", None]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("card arrived", "card_arrival"),
        ("Label: card_arival", "card_arrival"),
        ("card_linking issue", "card_linking"),
        ("not card_linking", ""),
        ("something else", ""),
        ("card_arrival or card_linking", ""),
        ("card_linking " * 100, ""),
    ],
)
def test_an_invalid_text_may_come_near_a_label(text: str, near: str) -> None:
    assert (INTENTS.read(text).status, INTENTS.near(text)) == (Status.INVALID, near)


@given(
    st.sampled_from(EVERYONE), st.text() | st.lists(st.sampled_from([*FEELINGS.names, *AROUND, "\n", " "])).map("".join)
)
def test_any_text_gives_a_reading_that_is_the_same_again(labels: Labels, text: str) -> None:
    read = labels.read(text)
    assert labels.read(text) == read == Labels(labels.names, labels.descriptions, labels.aliases).read(text)
    assert read.answer in labels.names if read.status is Status.OK else read.answer == text and read.error
    assert (labels.fields, labels.cells(read.answer), labels.values(read.answer)) == ((), (), ())


def test_a_long_text_is_read_in_no_more_than_its_share() -> None:
    """Each would take hours if time grew as the square of its length."""
    for piece in ("label: x\n", "positive ", '{"label": ', "\u0301\u0327", "**", "- ", "\n", "标签", '"\\"'):
        assert FEELINGS.read(piece * (200_000 // len(piece))).status is Status.INVALID


class Feeling(Enum):
    GOOD = "positive"
    BAD = "negative"


@pytest.mark.parametrize(
    "value",
    [
        "positive,negative",
        " positive , negative ",
        '["positive", "negative"]',
        ["positive", "negative"],
        ("positive", "negative"),
        Feeling,
        [*Feeling],
        {"positive": "", "negative": None},
        {"labels": ["positive", "negative"]},
        pd.Series(["positive", "negative", "positive"]).unique(),
        pd.Index(["positive", "negative"]),
        pd.Categorical(["positive", "negative"]),
        np.array(["positive", "negative"]),
    ],
)
def test_labels_are_given_in_any_of_these_ways(value: object) -> None:
    assert Labels.of(value, "labels") == Labels(("positive", "negative"))


@pytest.mark.parametrize(
    "text",
    ["positive\r\n\r\n negative \n", '["positive", "negative"]', '\ufeff{"positive": "", "negative": ""}'],
)
def test_a_file_holds_one_label_a_line_or_json(text: str, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text(text, encoding="utf-8")
    assert Labels.of(f"@{file}", "--labels") == Labels.of(file, "labels") == Labels(("positive", "negative"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("positive", "--labels has one label only, 'positive': give two at least"),
        ("正面，负面", "--labels has one label only, '正面，负面': separate labels with ',', not with '，'"),  # noqa: RUF001
        ("", "--labels is empty: give the labels, as in positive,negative"),
        ("a,,b", "--labels, label 2: the label is empty"),
        ("a,b,a", "--labels, label 3: the label 'a' is there already, as label 1: remove one"),
        ([], "--labels has no label: give two at least"),
        (["a", " a"], "--labels, label 2: the label 'a' is there already, as label 1: remove one"),
        (["a", None], "--labels, label 2: the label is missing (None): leave it out"),
        (pd.Series(["a", None]), "--labels, label 2: the label is missing (nan): leave it out"),
        (["a", ["b"]], "--labels, label 2: a label must be a text, not of type list"),
        ([0.5, 1], "--labels, label 1: a label must be a text; write '0.5' with quotation marks"),
        (Feeling.GOOD, "--labels must be labels: a text such as 'a,b,c', '@FILE', a list"),
        (["a", True], "--labels, label 2: a label must be a text; write 'true' with quotation marks"),
        ({"a": 1, "b": ""}, "--labels: the description of 'a' must be a text, not of type int"),
        (
            {"good": ["fine"], "bad": []},
            "--labels: the description of 'good' must be a text, not of type list; other texts for it: {'labels': [",
        ),
        ({"labels": ["a", "b"], "aliases": {"x": "c"}}, "--labels: the alias 'x' stands for 'c', which is not a label"),
        ({"labels": ["a", "b"], "aliases": {"b": "a"}}, "--labels: the alias 'b' of 'a' is a label itself"),
        ({"labels": ["a", "b"], "aliases": ["b"]}, "--labels: 'aliases' must hold labels by other texts"),
        ("@", "--labels: the name of the file is missing"),
        (3, "--labels must be labels: a text such as 'a,b,c', '@FILE', a list"),
    ],
)
def test_what_cannot_be_labels_is_refused_with_the_option_and_the_place(value: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Labels.of(value, "--labels")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels.txt",
            b"a\nb\n\na\n",
            "--labels, line 4 of {}: the label 'a' is there already, as line 1 of {}: remove one",
        ),
        ("labels.txt", b"a\nb\xff\n", "--labels: {}, line 2: it is not UTF-8; save the file as UTF-8"),
        ("labels.txt", "a\nb".encode("utf-16"), "--labels: {} is UTF-16, not UTF-8; save the file as UTF-8"),
        ("labels.json", b'["a",\n"b"', "--labels: {}, line 2: it is not JSON: "),
        ("labels.json", b'{"a": "x", "a": "y"}', "--labels: {}: 'a' is given twice"),
        ("labels.json", b'"a"', "--labels: {} must be labels"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        Labels.of(f"@{file}", "--labels")
    assert str(caught.value).startswith(message.replace("{}", str(file)))


def test_a_set_is_refused_because_it_has_no_order() -> None:
    with pytest.raises(SettingsError, match=r"it is of type set: a set has no order, write sorted\(\.\.\.\)$"):
        Labels.of({"a", "b"}, "labels")


def test_a_file_that_is_missing_or_lacks_its_sign_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--labels: '.*nowhere' cannot be read: No such file or directory"):
        Labels.of(f"@{tmp_path / 'nowhere'}", "--labels")
    (tmp_path / "labels.txt").write_text("a\nb")
    with pytest.raises(SettingsError, match=r"is a file; if it holds the labels, write @"):
        Labels.of(str(tmp_path / "labels.txt"), "--labels")


def test_labels_are_listed_for_a_prompt() -> None:
    assert FEELINGS.line == "Answer with exactly one of these labels and nothing else: positive, negative, neutral"
    assert Labels.of({"a": "the first", "b": ""}, "labels").listed == "- a: the first\n- b"
    assert Labels.of(["Yes, sure", "No"], "labels").listed == '"Yes, sure", "No"'


@pytest.mark.parametrize(
    ("labels", "text", "is_stated"),
    [
        (FEELINGS, "Is it Positive, negative or **neutral**?", True),
        (FEELINGS, "Is it positive or negative?", False),
        (FEELINGS, "positively negative neutral", False),
        (INTENTS, "\n".join(INTENTS.names), True),
        (INTENTS, "\n".join(name for name in INTENTS.names if name != "top_up"), False),
        (AWKWARD["languages"], "C, c, C++ or C#", True),
        (AWKWARD["languages"], "C, C++ or C#", False),
        (CHINESE, "正面、负面还是中性", True),
        (AWKWARD["ratings"], "from 1 to 5", False),
    ],
)
def test_a_prompt_states_the_labels_if_it_holds_each_as_whole_words(labels: Labels, text: str, is_stated: bool) -> None:
    assert labels.stated_in(text) is is_stated


@pytest.mark.parametrize(
    "labels", [FEELINGS, Labels.of({"labels": {"a": "x", "b": ""}, "aliases": {"c": "a"}}, "labels")]
)
def test_what_was_recorded_makes_the_labels_again(labels: Labels) -> None:
    assert shape_of_recorded(json.loads(json.dumps(labels.recorded))) == labels


def test_the_json_schema_of_labels_asks_for_one_of_them() -> None:
    assert FEELINGS.json_schema() == FEELINGS.strict_schema()
    assert FEELINGS.json_schema() == {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["positive", "negative", "neutral"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
