"""A model whose errors are stated: it answers as the matrix says, repeatably, with calibrated probabilities."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from programs import call, local_server, table, write_table
from server_client import chat, request

import batcher
from batcher.errors import SettingsError
from batcher.server.confusion import Speaker, Spoken
from batcher.server.confusion_file import confusion_of, read_confusion
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

LABELS = ("good", "bad", "mixed")
TRUTH = {f"This is text {number}, as it stands.": LABELS[number % 3] for number in range(3_000)}


def speaker(seed: int = 0, **stated: Any) -> Speaker:
    return Speaker(confusion_of({"truth": TRUTH, **stated}), seed)


def said(speaker: Speaker, prompt: str, model: str = "m", temperature: float | None = None) -> Spoken:
    spoken = speaker.say(prompt, model, temperature)
    assert spoken is not None
    return spoken


def answers(speaker: Speaker, texts: Sequence[str] = tuple(TRUTH), **options: Any) -> list[str]:
    return [said(speaker, f"Judge: {text}", **options).label for text in texts]


def shares(true: str, found: Sequence[str]) -> dict[str, float]:
    """Return the shares of the answers to the rows of a true label."""
    own = [label for label, each in zip(found, TRUTH.values(), strict=True) if each == true]
    return {label: count / len(own) for label, count in Counter(own).items()}


# --- what it answers ---


def test_each_true_label_is_answered_by_its_row_of_the_matrix() -> None:
    rows = {"good": {"good": 0.7, "bad": 0.1, "mixed": 0.2}, "bad": {"bad": 0.9}, "mixed": {"unsure": 0.5, "good": 0.5}}
    found = answers(speaker(chances=rows))
    near = 0.047  # three standard errors of a share in 1,000 rows
    assert shares("good", found) == pytest.approx(rows["good"], abs=near)
    assert shares("bad", found) == pytest.approx({"bad": 0.9, "good": 0.05, "mixed": 0.05}, abs=near)
    assert shares("mixed", found) == pytest.approx(rows["mixed"], abs=near)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_accuracy_holds_for_every_label_however_unlike_the_rows_are(spread: float) -> None:
    found = answers(speaker(accuracy=0.8, spread=spread))
    for label in LABELS:
        assert shares(label, found)[label] == pytest.approx(0.8, abs=0.035)


def test_the_same_seed_gives_the_same_answers_and_another_seed_or_model_others() -> None:
    first = answers(speaker(7, accuracy=0.6))
    assert answers(speaker(7, accuracy=0.6)) == first
    assert answers(speaker(8, accuracy=0.6)) != first
    assert answers(speaker(7, accuracy=0.6), model="other") != first


def test_a_model_that_is_named_has_errors_of_its_own_and_what_it_leaves_out_is_as_for_all() -> None:
    stated: dict[str, Any] = {
        "accuracy": 0.5,
        "spread": 0.4,
        "models": {"dear": {"accuracy": 1}, "biased": {"chances": {"bad": {"good": 1}}}},
    }
    assert answers(speaker(**stated), model="dear") == list(TRUTH.values())
    biased = answers(speaker(**stated), model="biased")
    assert shares("bad", biased) == {"good": 1}
    assert shares("good", biased)["good"] == pytest.approx(0.5, abs=0.05)
    assert confusion_of({"truth": TRUTH, **stated}).models["biased"][0].errors.spread == 0.4


def test_a_drift_changes_the_errors_after_so_many_answers_of_that_model() -> None:
    steps = [{"after": 1_000, "accuracy": 0}, {"after": 2_000, "chances": {"good": {"good": 1}}}]
    one = speaker(accuracy=1, drift=steps, models={"steady": {"accuracy": 1}})
    texts, right = list(TRUTH), list(TRUTH.values())
    found = answers(one, texts)
    assert found[:1_000] == right[:1_000]
    assert not [each for each, true in zip(found[1_000:2_000], right[1_000:2_000], strict=True) if each == true]
    later = list(zip(found[2_000:], right[2_000:], strict=True))
    assert {(each == true, true == "good") for each, true in later} == {(True, True), (False, False)}
    assert answers(one, texts, model="steady") == right
    one.reset()
    assert answers(one, texts[:10]) == right[:10]


# --- asked again ---


@pytest.mark.parametrize(
    ("stay", "temperature", "expected"),
    [(None, None, 1.0), (None, 0, 1.0), (None, 0.7, 0.5), (0.8, None, 0.9), (0.8, 0, 0.9), (1, 1.5, 1.0)],
)
def test_a_question_that_is_asked_again_keeps_its_answer_as_stated(
    stay: float | None, temperature: float | None, expected: float
) -> None:
    # Of two labels with the chance 1/2 each, an answer that is drawn anew is the same in half of the cases.
    rows = {label: {"good": 0.5, "bad": 0.5} for label in LABELS}
    one = speaker(chances=rows) if stay is None else speaker(chances=rows, stay=stay)
    first, second, third = (answers(one, temperature=temperature) for _ in range(3))
    for later in (second, third):
        same = sum(map(str.__eq__, first, later)) / len(first)
        assert same == pytest.approx(expected, abs=0.03)


def test_rows_that_are_harder_are_disagreed_about_more_often() -> None:
    one = speaker(accuracy=0.8, spread=1)
    votes = [Counter(each) for each in zip(*(answers(one, temperature=1) for _ in range(3)), strict=True)]
    agreed = [max(vote, key=lambda label: vote[label]) for vote in votes]
    right: dict[int, list[bool]] = {}
    for vote, label, true in zip(votes, agreed, TRUTH.values(), strict=True):
        right.setdefault(max(vote.values()), []).append(label == true)
    accuracy = {count: sum(each) / len(each) for count, each in right.items()}
    assert accuracy[3] > accuracy[2] + 0.1


# --- its probabilities ---


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_probability_of_an_answer_is_the_share_of_such_answers_that_are_right(spread: float) -> None:
    one = speaker(accuracy=0.7, spread=spread)
    found = []
    for text, true in TRUTH.items():
        spoken = said(one, text)
        assert math.fsum(spoken.chances.values()) == pytest.approx(1)
        found.append((spoken.chances[spoken.label], spoken.label == true))
    found.sort(key=lambda pair: pair[0])
    for start in range(0, len(found), 500):
        part = found[start : start + 500]
        stated, right = (sum(each) / len(part) for each in zip(*part, strict=True))
        assert right == pytest.approx(stated, abs=0.07)


FORMS: list[dict[str, Any]] = [
    {},
    {"structured_outputs": {"choice": ["card_arrival", "card_lost", "card"]}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "strict": True,
                "schema": {"type": "object", "properties": {"label": {"enum": ["card_arrival", "card_lost", "card"]}}},
            },
        }
    },
    {"response_format": {"type": "json_object"}},
    {"stream": True},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("true", ["card_arrival", "card_lost", "card"])
def test_the_probabilities_of_the_tokens_multiply_to_that_of_the_label(form: Mapping[str, Any], true: str) -> None:
    others = [label for label in ("card_arrival", "card_lost", "card") if label != true]
    confusion = confusion_of({"truth": {"Where is it": true}, "chances": {true: {true: 0.7, others[0]: 0.3}}})
    body = {"model": "m", "messages": [{"role": "user", "content": "As JSON? Where is it?"}], "logprobs": True}
    with embedded(Knobs(confusion=confusion, seed=1)) as server:
        whole = json.dumps({**body, "top_logprobs": 3, **form}).encode()
        reply = request(server.base_url, "POST", "/v1/chat/completions", whole)
    pieces = reply.json if not form.get("stream") else None
    choices = [pieces["choices"][0]] if pieces else [each["choices"][0] for each in _events(reply.body)]
    tokens = [token for choice in choices if choice.get("logprobs") for token in choice["logprobs"]["content"]]
    text = "".join(token["token"] for token in tokens)
    label = max((label for label in (true, others[0]) if label in text), key=len)
    start, end, own, at = text.rindex(label), text.rindex(label) + len(label), 0.0, 0
    for token in tokens:
        own += token["logprob"] if at < end and at + len(token["token"]) > start else 0.0
        at += len(token["token"])
    assert math.exp(own) == pytest.approx(0.7)
    assert own == pytest.approx(sum(token["logprob"] for token in tokens))
    for token in tokens:
        chances = [math.exp(each["logprob"]) for each in token["top_logprobs"]]
        assert chances == sorted(chances, reverse=True)
        assert math.fsum(chances) < 1 + 1e-9


def _events(raw: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in raw.decode().splitlines() if line.startswith("data: {")]
    return [event for event in map(json.loads, lines) if event["choices"]]


# --- which text a prompt holds ---


def test_the_longest_text_in_a_prompt_counts() -> None:
    truth = {"ok": "good", "not ok at all, really not": "bad", "not ok at all, really": "mixed", "x": "good"}
    one = Speaker(confusion_of({"truth": truth, "accuracy": 1}))
    assert said(one, "Is x ok? not ok at all, really not").label == "bad"
    assert said(one, "Is x ok? not ok at all, really").label == "mixed"
    assert said(one, "x: ok").label == "good"
    assert one.say("nothing of that") is None


def test_a_marker_in_the_prompt_says_the_true_label() -> None:
    stated = {"marker": r"\[(\w+)\]", "labels": ["a", "b"], "accuracy": 1}
    one = Speaker(confusion_of(stated))
    assert said(one, "row 3 [b], which").label == "b"
    assert one.say("row 3 [c]") is None
    assert one.say("row 3") is None


def test_prompts_without_a_true_label_are_answered_otherwise_and_counted() -> None:
    confusion = confusion_of({"truth": {"It broke": "bad"}, "accuracy": 1})
    with embedded(Knobs(confusion=confusion)) as server:
        assert chat(server.base_url, "It broke, one of: good, bad.").text == "bad"
        assert chat(server.base_url, "2 + 2").text == "4"
        assert server.books.to_dict()["without_truth"] == 1


def test_a_number_may_be_the_label() -> None:
    confusion = confusion_of({"truth": {"It broke": 2}, "chances": {"2": {"2": 1}}})
    schema = {"type": "object", "properties": {"why": {"type": "string"}, "stars": {"type": "integer", "maximum": 5}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with embedded(Knobs(confusion=confusion)) as server:
        assert json.loads(chat(server.base_url, "It broke", response_format=form).text)["stars"] == 2


def test_an_answer_may_be_empty() -> None:
    confusion = confusion_of({"truth": {"It broke": "bad"}, "chances": {"bad": {"": 1}}})
    with embedded(Knobs(confusion=confusion)) as server:
        for options in ({}, {"logprobs": True}, {"guided_choice": ["good", "bad"]}):
            assert chat(server.base_url, "It broke, one of: good, bad.", **options).text == ""


# --- a run ---


def labelled(server: Server, folder: Path, **options: Any) -> Any:
    """Label the first 200 texts."""
    given: dict[str, Any] = {
        "labels": LABELS,
        "base_url": server.base_url,
        "model": "any",
        "keyword": "k",
        "quiet": True,
        "canary": 0,
    }
    return batcher.run(list(TRUTH)[:200], "Judge: {text}", output_dir=folder, **given, **options)


def test_the_labels_of_a_run_are_those_that_the_server_was_told_to_give_in_whatever_form(tmp_path: Path) -> None:
    with embedded(Knobs(confusion=confusion_of({"truth": TRUTH, "accuracy": 0.6}), seed=4)) as server:
        found = [[*labelled(server, tmp_path / each, structured=each).answers] for each in ("auto", "prompt", "json")]
        assert server.books.without_truth == 0
    assert found[0] == found[1] == found[2]
    right = sum(label == true for label, true in zip(found[0], TRUTH.values(), strict=False))
    assert right / len(found[0]) == pytest.approx(0.6, abs=0.11)


def test_an_answer_outside_the_list_reaches_the_run_as_invalid(tmp_path: Path) -> None:
    confusion = confusion_of({"truth": TRUTH, "chances": {"good": {"good": 1}, "bad": {"bad": 1}, "mixed": {"n/a": 1}}})
    with embedded(Knobs(confusion=confusion)) as server:
        report = labelled(server, tmp_path)
    assert (report.ok, report.invalid) == (134, 66)


def test_the_command_line_takes_a_file_and_says_what_it_knows(tmp_path: Path) -> None:
    write_table(
        tmp_path / "gold.csv",
        ["id", "text", "gold"],
        [["1", "It broke.", "bad"], ["2", "A joy.", "good"], ["3", "?", ""]],
    )
    (tmp_path / "model.toml").write_text('table = "gold.csv"\ntext = "text"\ngold = "gold"\naccuracy = 1\n')
    with local_server("--confusion", "model.toml", cwd=tmp_path) as server:
        done = call(
            "run", "gold.csv", "--prompt", "{text}", "--labels", "good,bad", "--base-url", server.base_url,
            "--model", "any", "--quiet", cwd=tmp_path,
        )  # fmt: skip
        assert done.status == 0, done.stderr
        assert server.books()["without_truth"] == 1
    assert [row["infer"] for row in table(tmp_path / "output" / "all_gold.csv")][:2] == ["bad", "good"]


def test_json_toml_and_any_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text('{"t": "It broke.", "g": "bad"}\n{"t": "A joy.", "g": "good"}\n')
    stated = {"table": "gold.jsonl", "text": "t", "gold": "g", "accuracy": 1, "labels": ["mixed"], "stay": 0.5}
    (tmp_path / "model.json").write_text(json.dumps(stated))
    confusion = read_confusion(tmp_path / "model.json")
    [stage] = confusion.models[""]
    assert stage.errors.stay == 0.5
    assert stage.errors.chances == {label: {label: 1} for label in ("mixed", "bad", "good")}
    assert confusion.in_words().startswith("the true labels of 2 texts of ")


# --- what cannot be used ---

GOOD = {"truth": {"a": "x", "b": "y"}, "accuracy": 0.8}


@pytest.mark.parametrize(
    ("stated", "error"),
    [
        ({"accuracy": 0.8}, "give the true labels in one way"),
        (GOOD | {"marker": "(a)"}, "in one way: .* it has truth and marker"),
        (GOOD | {"text": "t"}, "text names a column of a table"),
        ({"truth": {"a": "x"}}, "say how the model answers"),
        (GOOD | {"acuracy": 1}, "no key 'acuracy': did you mean accuracy"),
        (GOOD | {"accuracy": 80}, "accuracy must be a share from 0 to 1, not 80"),
        (GOOD | {"stay": "often"}, "stay must be a share"),
        (GOOD | {"spread": float("nan")}, "spread must be a share"),
        ({"truth": {"a": "x"}, "chances": {"y": {"y": 1}}}, "nothing says how rows with the true label 'x'"),
        (GOOD | {"chances": {"x": {"x": 0.8, "y": 0.3}}}, r"chances.x: the chances add up to 1.1"),
        (GOOD | {"chances": {"x": {"x": 0.5, "y": 0.3}}}, r"chances.x: the chances add up to 0.8, and no other label"),
        (GOOD | {"chances": {"x": 0.8}}, r"chances.x must be a table from answer to chance, not 0.8"),
        (GOOD | {"chances": [0.8]}, "chances must be a table"),
        (GOOD | {"models": {"m": 0.7}}, "models.m must be a table"),
        (GOOD | {"models": {"m": {"after": 1}}}, "models.m: there is no key 'after'"),
        (GOOD | {"drift": {"after": 1}}, "drift must be a list of tables"),
        (GOOD | {"drift": [{"accuracy": 1}]}, "drift 1: after must be a number of answers, 1 or more, not None"),
        (GOOD | {"drift": [{"after": 9}, {"after": 9}]}, "drift 2: after must be a number of answers, more than 9"),
        (GOOD | {"labels": "x,y"}, "labels must be a list of labels"),
        (GOOD | {"truth": {"": "x"}}, "the text of a row with a true label is empty"),
        (GOOD | {"truth": {"a": "x", "a ": "y"}}, "'a' has the true label 'y' here and 'x' before"),
        (GOOD | {"truth": {"a": ""}}, "has no true labels"),
        ({"marker": r"\w+", "accuracy": 1}, "marker must be a regular expression with the true label in its first"),
        ({"marker": r"(\w+", "accuracy": 1}, "marker is not a regular expression"),
        ([], "must hold an object"),
    ],
)
def test_what_cannot_be_used_is_named(stated: Any, error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        confusion_of(stated)


def test_a_wrong_file_or_table_is_named_with_its_row(tmp_path: Path) -> None:
    def refused(text: str, name: str = "model.toml") -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingsError) as error:
            read_confusion(tmp_path / name)
        return str(error.value)

    write_table(tmp_path / "gold.csv", ["text", "gold"], [["a", "x"], ["b", "y"], ["a", "y"]])
    stated = 'table = "gold.csv"\ntext = "text"\ngold = "gold"\naccuracy = 1\n'
    assert "gold.csv, row 2 (counted from 0): the text 'a' has the true label 'y' here and 'x'" in refused(stated)
    assert "the table has no column 'label'" in refused(stated.replace('gold = "gold"', 'gold = "label"'))
    assert "there is no such file" in refused(stated.replace("gold.csv", "none.csv"))
    assert "model.toml is not a TOML file" in refused("accuracy = ")
    assert "model.json is not a JSON file" in refused("{", "model.json")
    with pytest.raises(SettingsError, match="No such file"):
        read_confusion(tmp_path / "none.toml")
