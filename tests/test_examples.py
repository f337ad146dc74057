"""Rows labelled by hand as examples: chosen from all labels, the same in every prompt, and never the row itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service
from programs import write_table

import batcher
from batcher.cli import main
from batcher.errors import ChangedError, InputError, SettingsError
from batcher.input.key import keyer
from batcher.money.tariff import tariffs_of
from batcher.planning.job import prepare
from batcher.records import Completion, Message, Usage
from batcher.rehearsal.scene import Scene
from batcher.settings import Settings

LABELS = ["good", "bad", "mixed"]
PRICES = {"in": 1.0, "out": 1.0}
LINE = "Answer with exactly one of these labels and nothing else: good, bad, mixed"
GOLD = [
    {"text": "A joy.", "label": "good"},
    {"text": "Well made.", "label": "Good."},
    {"text": "It broke.", "label": "bad"},
    {"text": "Works, but loud.", "label": "mixed"},
    {"text": "Never again.", "label": "bad"},
]


class Everything(Service):
    """Answers any prompt, and keeps the messages of each call."""

    def __init__(self, answer: str = "good") -> None:
        super().__init__([])
        self.text = answer
        self.sent: list[Sequence[Message]] = []

    def caller(self, _endpoint: Any) -> Any:
        return self

    async def call(
        self, messages: Sequence[Message], _timeout_s: float, _params: Mapping[str, Any] = {}, _terms: Any = None
    ) -> Completion:
        self.sent.append(messages)
        return Completion(self.text, "stop", Usage(10, 2))


def planned(data: Any, folder: Path, prompt: Any = "Judge: {text}", **options: Any) -> Any:
    given: dict[str, Any] = {"keyword": "k", "output_dir": folder, "provider": "offline"}
    return batcher.plan(data, prompt, **(given | options))


def first(data: Any, folder: Path, prompt: Any = "Judge: {text}", **options: Any) -> list[tuple[str, str]]:
    """Return role and content of each message of the first row."""
    return [(each["role"], each["content"]) for each in planned(data, folder, prompt, **options).first]


def pairs(*texts: str) -> list[tuple[str, str]]:
    return [(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


# -- Which examples, and where they stand


def test_each_label_has_an_example_before_one_has_two(tmp_path: Path) -> None:
    shown = first(["x"], tmp_path, labels=LABELS, examples=GOLD, shots=4)
    in_turn = ("Judge: A joy.", "good", "Judge: It broke.", "bad", "Judge: Works, but loud.", "mixed")
    assert shown == pairs(*in_turn, "Judge: Well made.", "good", f"Judge: x\n\n{LINE}")
    assert first(["x"], tmp_path, labels=LABELS, examples=GOLD, shots=1) == pairs(*in_turn[:2], f"Judge: x\n\n{LINE}")
    backwards = first(["x"], tmp_path, labels=LABELS[::-1], examples=GOLD, shots=2)
    assert [text for role, text in backwards if role == "assistant"] == ["mixed", "bad"]


def test_without_labels_the_answers_take_turns_as_they_are_found(tmp_path: Path) -> None:
    gold = [{"text": text, "gold": answer} for text, answer in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")]]
    shown = first(["x"], tmp_path, "{text}", examples=gold, shots=3)
    assert shown == pairs("a", "1", "c", "2", "d", "3", "x")


def test_with_a_schema_an_example_is_json_that_fits_it(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    gold = [{"text": "a", "answer": {"score": 3}}, {"text": "b", "answer": '{"score": 4}'}]
    shown = first(["x"], tmp_path, "{text}", schema=schema, structured="schema", examples=gold)
    assert shown == pairs("a", '{"score": 3}', "b", '{"score": 4}', "x")
    with pytest.raises(InputError, match=r"row 0 .*cannot be an answer"):
        planned(["x"], tmp_path, schema=schema, examples=[{"text": "a", "answer": '{"score": "much"}'}])


def test_instructions_stay_before_the_examples_and_what_the_user_placed_stays_in_its_place(tmp_path: Path) -> None:
    shown = first(["x"], tmp_path, labels=LABELS, examples=GOLD, shots=1, system="One of {labels}.")
    assert shown == [("system", "One of good, bad, mixed."), *pairs("Judge: A joy.", "good", "Judge: x")]
    shown = first(["x"], tmp_path, "Of {labels}: {text}", labels=LABELS, examples=GOLD, shots=1)
    assert shown == pairs("Of good, bad, mixed: A joy.", "good", "Of good, bad, mixed: x")


def test_a_function_and_a_column_of_messages_ask_an_example_as_they_ask_a_row(tmp_path: Path) -> None:
    def prompt(row: dict[str, Any]) -> Any:
        return [{"role": "system", "content": "Judge."}, {"role": "user", "content": row["text"].upper()}]

    expected = [("system", "Judge."), *pairs("A JOY.", "good", f"X\n\n{LINE}")]
    assert first(["x"], tmp_path, prompt, labels=LABELS, examples=GOLD, shots=1) == expected
    table = pd.DataFrame({"chat": [json.dumps(prompt({"text": "x"}))]})
    gold = [{"chat": json.dumps(prompt(each)), "label": each["label"]} for each in GOLD]
    options: dict[str, Any] = {"messages_column": "chat", "labels": LABELS, "examples": gold, "shots": 1}
    assert first(table, tmp_path, None, **options) == expected


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "xlsx", "frame", "gbk"])
def test_examples_come_from_any_table_that_the_input_may_be(tmp_path: Path, kind: str) -> None:
    frame, path = (
        pd.DataFrame([{"text": "好", "label": "good"}, {"text": "差", "label": "bad"}]),
        tmp_path / f"g.{kind}",
    )
    options: dict[str, Any] = {"examples": path, "labels": LABELS}
    match kind:
        case "csv" | "tsv":
            frame.to_csv(path, index=False, sep=";" if kind == "csv" else "\t")
            options["input_encoding"] = "gb18030" if kind == "csv" else None  # the examples are UTF-8 all the same
        case "gbk":
            path = options["examples"] = tmp_path / "g.csv"
            frame.to_csv(path, index=False, encoding="gb18030")
            options["input_encoding"] = "gb18030"
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case "xlsx":
            frame.to_excel(path, index=False)
        case _:
            options["examples"] = frame
    source = write_table(tmp_path / "t.csv", ["text"], [["x"]])
    assert first(source, tmp_path, **options)[:4] == pairs("Judge: 好", "good", "Judge: 差", "bad")


# -- Never the row itself


def test_a_row_never_sees_its_own_answer_and_all_others_share_the_beginning(lab: Lab) -> None:
    texts = ["x", "It broke.", "y", "Works, but\r\nloud. ", "Never again."]
    service = Everything()
    lab.run(texts, service, "Judge: {text}", labels=LABELS, structured="prompt", examples=GOLD, shots=3)
    sent = {messages[-1]["content"].split("\n\n")[0]: messages[:-1] for messages in service.sent}
    beginning = sent["Judge: x"]
    assert [each["content"] for each in beginning[::2]] == [
        "Judge: A joy.",
        "Judge: It broke.",
        "Judge: Works, but loud.",
    ]
    assert sent["Judge: y"] == sent["Judge: Never again."] == beginning
    # The next example of its label takes the place; if there is none, the next one at all.
    other = [{"role": "user", "content": "Judge: Never again."}, {"role": "assistant", "content": "bad"}]
    assert sent["Judge: It broke."] == [*beginning[:2], *other, *beginning[4:]]
    other = [{"role": "user", "content": "Judge: Well made."}, {"role": "assistant", "content": "good"}]
    assert sent["Judge: Works, but\r\nloud. "] == [*beginning[:4], *other]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


def test_if_no_other_example_is_left_the_row_has_one_less(lab: Lab) -> None:
    service = Everything()
    lab.run(["A joy.", "x"], service, "{text}", labels=LABELS, structured="prompt", examples=GOLD[:1])
    assert sorted(map(len, service.sent)) == [1, 3]


def test_the_journal_knows_which_rows_of_the_table_are_examples(lab: Lab) -> None:
    texts = ["x", "It broke.", "Never again.", "y", "It broke."]
    lab.run(texts, Everything(), "{text}", labels=LABELS, structured="prompt", examples=GOLD, shots=3)
    [(question,)] = lab.query("SELECT question FROM runs")
    record = json.loads(question)["examples"]
    assert [each["row"] for each in record["held"][:3]] == [0, 2, 3]
    rows = {key.hex(): position for position, key in lab.query("SELECT position, key FROM rows ORDER BY position DESC")}
    assert {rows[key] for key in record["keys"]} == {1, 2}
    [note] = [each for each in batcher.verify("k", texts, output_dir=lab.directory).notes if "example" in each]
    assert note == "The prompts begin with 3 examples from the list; 2 questions of the table are among them."


# -- Another run


def test_examples_that_change_are_the_reason_and_the_same_ones_send_nothing(lab: Lab, tmp_path: Path) -> None:
    path = write_table(tmp_path / "gold.csv", ["text", "label"], [[*each.values()] for each in GOLD])
    texts = ["x", "A joy."]
    options: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "shots": 3}
    lab.run(texts, Everything(), "{text}", examples=path, **options)
    assert lab.run(texts, Service([]), "{text}", examples=path, **options).requests_now == 0
    path.rename(tmp_path / "renamed.csv")
    assert lab.run(texts, Service([]), "{text}", examples=tmp_path / "renamed.csv", **options).requests_now == 0
    assert batcher.verify("k", texts, output_dir=lab.directory).ok
    cases: list[tuple[dict[str, Any], str]] = [
        ({"examples": GOLD[1:]}, "the examples changed"),
        ({"examples": GOLD, "shots": 2}, "the examples changed"),
        ({}, "examples are gone"),
    ]
    for changes, said in cases:
        with pytest.raises(ChangedError, match=re.escape(said)):
            lab.run(texts, Service([]), "{text}", **(options | {"shots": 3 if changes else 8} | changes))
    kept = lab.run(texts, Service([]), "{text}", examples=GOLD[1:], on_change="reuse", **options)
    assert (kept.ok, kept.requests_now) == (2, 0)
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


def test_examples_that_are_new_are_the_reason(lab: Lab) -> None:
    lab.run(["x"], Everything(), "{text}", labels=LABELS, structured="prompt")
    with pytest.raises(ChangedError, match="examples are new"):
        lab.run(["x"], Service([]), "{text}", labels=LABELS, structured="prompt", examples=GOLD)


# -- What is said


def test_the_plan_counts_the_examples_and_says_which_there_are(tmp_path: Path) -> None:
    def said(**options: Any) -> str:
        return str(planned(["x", "y"], tmp_path, labels=LABELS, examples=GOLD, **options))

    assert "3 examples of 5 from the list are in each prompt." in said(shots=3)
    assert "1 example of 5 from the list is in each prompt; 2 labels have none." in said(shots=1)
    assert "5 examples from the list are in each prompt, all that it has (`shots=8` asks for more)." in said()
    assert "prompt    user: Judge: A joy." in said()
    bare = planned(["x", "y"], tmp_path, labels=LABELS)
    more = planned(["x", "y"], tmp_path, labels=LABELS, examples=GOLD, shots=1)
    # An example has the marks of two messages, 3 tokens each, and 4 bytes a token: user, 13; assistant, good.
    assert more.prompt_tokens - bare.prompt_tokens == 2 * (3 + 1 + 4 + 3 + 3 + 1)


def test_a_budget_bounds_the_examples_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"price_in": 1.0, "price_out": 1.0, "param": {"max_tokens": 5}, "labels": LABELS}
    options |= {"provider": None, "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    bare = planned(["x"], tmp_path, **options)
    with_examples = planned(["x"], tmp_path, examples=GOLD, **options)
    assert with_examples.most_usd - bare.most_usd >= 1e-6 * sum(len(each["text"]) for each in GOLD)


# -- What cannot be used


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"examples": "none.csv"}, "examples: none.csv: there is no such file"),
        ({"examples": pd.DataFrame(GOLD)[:0]}, "examples: the DataFrame has no rows"),
        ({"shots": 3}, "shots needs examples"),
        ({"examples": GOLD, "shots": 0}, "shots must be a whole number"),
        ({"examples": [{"txt": "a", "label": "good"}]}, "the list has no column 'text', which the prompt uses (did"),
        (
            {"examples": [{"text": "a", "lable": "good"}]},
            "has no column of right answers: name it 'label' or 'gold' or",
        ),
        ({"examples": [{"text": "a", "gold": "good", "label": "bad"}]}, "may hold the right answers, 'label' and 'g"),
        ({"examples": [*GOLD, {"text": "b", "label": "god"}]}, "row 5 (counted from 0): 'god' cannot be an answer: th"),
        ({"examples": [*GOLD, {"text": "b", "label": None}]}, "row 5 (counted from 0): column 'label' is empty: give"),
        ({"examples": [*GOLD, {"text": "A  joy.", "label": "bad"}]}, "rows 0 and 5 of the list (counted from 0) ask"),
    ],
)
def test_examples_that_cannot_be_used_are_refused_before_anything_is_asked(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        planned(["x"], tmp_path, **({"labels": LABELS} | options))
    assert said in str(refused.value)
    assert not [*tmp_path.iterdir()]


def test_a_function_that_fails_on_an_example_is_named_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"function failed on examples: the list, row 1 .*: AttributeError"):
        planned(["x"], tmp_path, lambda row: row["text"].upper(), examples=[*GOLD[:1], {"text": 3, "label": "bad"}])


def test_equal_examples_count_once(tmp_path: Path) -> None:
    plan = planned(["x"], tmp_path, labels=LABELS, examples=[*GOLD, *GOLD], shots=9)
    assert len(plan.first) == 2 * len(GOLD) + 1


# -- The command line


def test_the_command_line_takes_a_file_and_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "gold.csv", ["text", "label"], [[*each.values()] for each in GOLD])
    write_table(tmp_path / "t.csv", ["text"], [["x"], ["A joy."]])
    options = ["--prompt", "{text}", "--labels", "good,bad,mixed", "--provider", "offline"]
    assert main(["run", "t.csv", *options, "--examples", "gold.csv", "-k", "2"]) == 0
    assert "2 examples of 5 from gold.csv are in each prompt; 1 label has none." in capsys.readouterr().err
    assert main(["verify", "t", "t.csv"]) == 0
    capsys.readouterr()
    assert main(["run", "t.csv", *options, "-k", "2024"]) == 2
    assert "--shots needs --examples (the name of the run is --keyword NAME)" in capsys.readouterr().err


def test_the_file_of_a_job_names_examples_from_its_own_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "gold.csv", ["text", "label"], [["a", "good"], ["b", "nice"]])
    write_table(tmp_path / "t.csv", ["text"], [["x"]])
    job = tmp_path / "job.toml"
    job.write_text(
        'input = "t.csv"\nprompt = "{text}"\nlabels = "good,bad"\nprovider = "offline"\nexamples = "gold.csv"'
    )
    assert main(["plan", "--config", str(job)]) == 2
    said = capsys.readouterr().err
    assert "job.toml, line 5: examples: " in said
    assert "gold.csv, row 1 (counted from 0): 'nice' cannot be an answer" in said


def test_a_rehearsal_takes_labels_and_examples_that_are_in_memory(tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": {"good": "praise, or so", "bad": ""}, "examples": pd.DataFrame(GOLD[:3])}
    settings = Settings.of({"keyword": "k", "model": "m", **options})
    command = Scene.of(["x", "y"], "{text}", settings, tmp_path).command("http://127.0.0.1:9/v1")
    given = dict(each[2:].split("=", 1) for each in command if each.startswith(("--labels=", "--examples=")))
    asked = planned(["x"], tmp_path / "none", "{text}", **given).first
    assert asked == planned(["x"], tmp_path / "none", "{text}", **options).first


# -- What it costs


def test_what_answers_teach_about_the_examples_bounds_every_row(tmp_path: Path) -> None:
    texts = [*(f"row {number} of many" for number in range(40)), "It broke.", "Works, but loud."]
    gold = [*GOLD, {"text": "Dense: " + "x" * 200, "label": "mixed"}]  # only instead of another one
    given: dict[str, Any] = {
        "keyword": "k",
        "output_dir": tmp_path,
        "endpoints": [batcher.Endpoint("m", prices=PRICES)],
    }
    settings = Settings.of({**given, "labels": LABELS, "examples": gold, "shots": 3, "param": {"max_tokens": 5}})
    job = prepare(texts, "Judge: {text}", settings)

    def tokens(messages: Sequence[Message]) -> int:
        return sum(len(each["content"]) // (1 if "Dense" in each["content"] else 4) + 4 for each in messages)

    [tariff] = tariffs_of(job.endpoints, job.settings.params, job.wording)
    prompts = [job.question_of(position, (text,)).messages for position, text in enumerate(texts)]
    widest = tariff.bound(prompts[0]).prompt_tokens or 0
    for prompt in prompts[:40]:
        usage = Usage(tokens(prompt), 1)
        assert not [*filter(lambda each: each.said, tariff.learn(prompt, Completion("good", "stop", usage)))]
    bounds = [tariff.bound(prompt).prompt_tokens or 0 for prompt in prompts]
    assert all(bound >= tokens(prompt) for bound, prompt in zip(bounds, prompts, strict=True))
    assert bounds[0] < widest


def test_the_key_of_a_row_is_that_of_its_messages(lab: Lab) -> None:
    service = Everything()
    lab.run(["x"], service, "{text}", labels=LABELS, structured="prompt", examples=GOLD)
    [(question, key)] = lab.query("SELECT question, key FROM runs, rows")
    record = json.loads(question)
    assert keyer(record["params"], record["shape"])(service.sent[0]) == key
