"""Labels and fields: asked for in the strictest form that works, read by what fits, and kept through every change."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Call, Service

import batcher
from batcher.answer.labels import Labels
from batcher.calls.error_bodies import failure_in
from batcher.errors import ChangedError, InputError, SettingsError
from batcher.records import Completion, Failure, Fault, Usage
from batcher.server.answers import label_for
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs
from batcher.server.ways import WAYS

LABELS = ["card_arrival", "lost_card", "top_up", "exchange rate", "PIN"]
LINE = Labels.of(LABELS, "labels").line
TEXTS = [f"Message {number} about my money" for number in range(40)]
TABLE = pd.DataFrame({"text": TEXTS})
TEMPLATE = "What does the customer want? {text}"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["reason", "score"],
}


def truth(text: str) -> str:
    return label_for(f"{TEMPLATE.format(text=text)}\n\n{LINE}", LABELS)


@contextlib.contextmanager
def server_of(way: str, **knobs: Any) -> Iterator[Server]:
    with embedded(Knobs(forms=way, **knobs)) as server:
        yield server


def run(folder: Path, *servers: Server, **options: Any) -> batcher.Report:
    endpoints = [batcher.Endpoint(f"m{n}", base_url=each.base_url) for n, each in enumerate(servers)]
    given: dict[str, Any] = {
        "keyword": "k",
        "output_dir": folder,
        "quiet": True,
        "canary": 0,
        "endpoints": endpoints,
        "chunk_size": 7,
    }
    return batcher.run(TABLE, TEMPLATE, **(given | options))


def look(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "journal_k.sqlite")) as journal:
        return journal.execute(query).fetchall()


# -- Forms


@pytest.mark.parametrize("way", [*WAYS, "full,15:groq", "openai,20:prompt_only", "prompt_only,10:full"])
def test_each_row_has_its_own_label_whatever_a_service_makes_of_the_forms(tmp_path: Path, way: str) -> None:
    with server_of(way) as server:
        report = run(tmp_path, server, labels=LABELS)
        found = report.frame()
        assert [*found["infer"]] == [*map(truth, TEXTS)]
        assert set(found["infer_status"]) == {"ok"}
        assert batcher.verify("k", TABLE, output_dir=tmp_path).ok
        sent = server.books.requests
        assert run(tmp_path, server, labels=LABELS).requests_now == 0
        assert server.books.requests == sent


@pytest.mark.parametrize("way", ["full", "ignore", "deepseek", "not_strict", "one_in_ten", "prompt_only", "empty"])
def test_each_row_has_fields_that_fit_the_schema_in_columns_of_their_own(tmp_path: Path, way: str) -> None:
    with server_of(way) as server:
        found = run(tmp_path, server, schema=SCHEMA).frame()
        assert [*found.columns] == ["text", "infer", "infer_reason", "infer_score", "infer_status", "infer_error"]
        assert set(found["infer_status"]) == {"ok"}
        assert all(0 <= int(score) <= 10 for score in found["infer_score"])
        assert all(json.loads(answer[answer.index("{") : answer.rindex("}") + 1]) for answer in found["infer"])
        assert batcher.verify("k", TABLE, output_dir=tmp_path).ok


def test_two_services_with_different_forms_share_one_pool_and_one_key_for_each_row(tmp_path: Path) -> None:
    with server_of("vllm") as one, server_of("deepseek_old") as other, server_of("ignore") as third:
        found = run(tmp_path / "pool", one, other, third, labels=LABELS).frame()
        assert [*found["infer"]] == [*map(truth, TEXTS)]
        assert all(each.books.answered for each in (one, other, third))
        run(tmp_path / "alone", one, labels=LABELS)
    keys = "SELECT position, key FROM rows ORDER BY position"
    assert look(tmp_path / "pool", keys) == look(tmp_path / "alone", keys)


def test_the_form_that_was_found_is_kept_in_the_journal_and_not_looked_for_again(tmp_path: Path) -> None:
    with server_of("openai") as server:
        run(tmp_path, server, labels=LABELS, limit=10)
        refused = server.books.refused_by_form.copy()
        assert sum(refused.values()) <= 4
        [(detail,)] = look(tmp_path, "SELECT detail FROM events WHERE kind = 'form'")
        assert json.loads(detail)["form"] == "strict"
        run(tmp_path, server, labels=LABELS)
        assert server.books.refused_by_form == refused


def test_if_no_answer_holds_no_form_is_found_and_the_next_process_looks_for_one(tmp_path: Path) -> None:
    with server_of("full") as server:
        options: dict[str, Any] = {"schema": SCHEMA, "limit": 10, "with_": "form", "on_change": "redo"}
        cut = run(tmp_path, server, param={"max_tokens": 2}, **options)
        assert (cut.invalid, set(cut.frame()["infer_form"])) == (10, {"strict"})  # the cut is to blame, not the form
        assert set(cut.frame()["infer_error"]) == {"the JSON is not closed; it was cut off at max_tokens"}
        assert look(tmp_path, "SELECT * FROM events WHERE kind = 'form'") == []
        whole = run(tmp_path, server, param={"max_tokens": 200}, **options)
        assert (whole.ok, set(whole.frame()["infer_form"])) == (10, {"strict"})


@pytest.mark.parametrize(
    ("structured", "forms"),
    [("choice", {"choice"}), ("schema", {"strict"}), ("json", {"json"}), ("prompt", {"prompt"})],
)
def test_a_form_can_be_chosen(tmp_path: Path, structured: str, forms: set[str]) -> None:
    with server_of("full") as server:
        found = run(tmp_path, server, labels=LABELS, structured=structured, with_="form").frame()
    assert set(found["infer_form"]) == forms
    assert set(found["infer_status"]) == {"ok"}


def test_the_first_rows_are_asked_three_at_a_time_until_a_form_is_found(lab: Lab) -> None:
    texts = [f"row {n}" for n in range(50)]
    widest = 0

    def instead(call: Call) -> Completion:
        nonlocal widest
        answered = sum(service.answered.values()) + len(given)
        widest = max(widest, service.in_flight) if answered < 3 else widest
        given.append(call)
        return Completion("a")

    given: list[Call] = []
    service = Service([f"{text}\n\n{Labels.of(['a', 'b'], '').line}" for text in texts], instead=instead)
    endpoints = [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1")]
    lab.run(texts, service, "{text}", labels=["a", "b"], endpoints=endpoints)
    assert widest <= 3
    assert service.peak > 3
    assert {form_of(call.params) for call in given} == {"choice"}


def form_of(params: Mapping[str, Any]) -> str:
    if "structured_outputs" in params:
        return "choice"
    kind = params.get("response_format", {}).get("type", "prompt")
    return "strict" if kind == "json_schema" and params["response_format"]["json_schema"].get("strict") else str(kind)


# -- Repair


def answering(answers: Callable[[Call], str]) -> Service:
    class AnyPrompt(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    service = Service([], instead=lambda call: Completion(answers(call), "stop", Usage(10, 5)))
    service.prompts = AnyPrompt()
    return service


def test_an_answer_that_does_not_fit_is_asked_for_again_with_the_error_shown(lab: Lab) -> None:
    asked: list[str] = []

    def answers(call: Call) -> str:
        asked.append(call.prompt)
        return "I cannot say" if "does not fit" not in call.prompt else "b"

    prices = {"in": 1.0, "out": 1.0}
    endpoints = [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1", prices=prices)]
    options: dict[str, Any] = {"labels": ["a", "b"], "structured": "prompt", "endpoints": endpoints, "repair": 1}
    report = lab.run(["x", "y"], answering(answers), "{text}", **options)
    assert (report.ok, report.requests) == (2, 4)
    assert report.cost_usd == pytest.approx(4 * 15e-6)
    assert sum("does not fit: the answer is not one of the labels" in prompt for prompt in asked) == 2
    outcomes = Counter(outcome for (outcome,) in look(lab.directory, "SELECT outcome FROM requests"))
    assert outcomes == {"unfit": 2, "answered": 2}
    assert look(lab.directory, "SELECT count(*) FROM responses WHERE text = 'I cannot say'") == [(2,)]
    assert batcher.verify("k", ["x", "y"], output_dir=lab.directory).ok


def test_without_repair_an_answer_that_does_not_fit_is_invalid_and_its_text_is_kept(lab: Lab) -> None:
    options: dict[str, Any] = {"labels": ["a", "b"], "structured": "prompt"}
    report = lab.run(["x"], answering(lambda _: "a or b"), "{text}", **options)
    assert (report.invalid, report.requests) == (1, 1)
    [line] = lab.rows()
    assert line["infer"] == "a or b"


# -- Other labels, another schema, and what is read again


def test_other_labels_read_the_answers_that_are_there_anew_for_nothing(lab: Lab) -> None:
    texts = [f"row {n}" for n in range(6)]
    service = answering(lambda call: "Yes." if "row 1" in call.prompt else "no")
    options: dict[str, Any] = {"structured": "prompt", "chunk_size": 4}
    lab.run(texts, service, "{text}", labels=["yes", "no"], **options)
    assert [line["infer"] for line in lab.rows()].count("yes") == 1
    silent = Service([])
    with pytest.raises(ChangedError, match="the labels changed"):
        lab.run(texts, silent, "{text}", labels=["no", "never"], **options)
    plan = batcher.plan(
        texts,
        "{text}",
        keyword="k",
        output_dir=lab.directory,
        labels=["no", "never"],
        on_change="reuse",
        endpoints=[batcher.Endpoint("m")],
    )
    assert (plan.reread, plan.requests) == (1, 0)
    report = lab.run(texts, silent, "{text}", labels=["no", "never"], on_change="reuse", **options)
    assert (report.ok, report.invalid, report.requests_now) == (5, 1, 0)
    assert [line["infer"] for line in lab.rows()] == ["no", "Yes.", "no", "no", "no", "no"]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok
    # Back again, and with an alias: each time the model's own text is read.
    report = lab.run(texts, silent, "{text}", labels=["yes", "no"], on_change="reuse", **options)
    assert (report.ok, report.requests_now) == (6, 0)
    aliases = {"labels": ["agreed", "no"], "aliases": {"yes": "agreed"}}
    report = lab.run(texts, silent, "{text}", labels=aliases, on_change="reuse", **options)
    assert [line["infer"] for line in lab.rows()] == ["no", "agreed", "no", "no", "no", "no"]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok
    report = lab.run(texts, silent, "{text}", on_change="reuse", chunk_size=4)
    assert [line["infer"] for line in lab.rows()] == ["no", "Yes.", "no", "no", "no", "no"]


def test_raw_answers_become_labels_and_only_what_does_not_fit_is_asked_again(lab: Lab) -> None:
    texts = ["x", "y", "z"]
    lab.run(texts, answering(lambda call: "**No**" if "z" not in call.prompt else "Who knows?"), "{text}")
    options: dict[str, Any] = {"labels": ["yes", "no"], "structured": "prompt", "on_change": "reuse"}
    service = answering(lambda _: "yes")
    report = lab.run(texts, service, "{text}", retry_failed=True, **options)
    assert (report.ok, report.requests_now) == (3, 1)
    assert [line["infer"] for line in lab.rows()] == ["no", "no", "yes"]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


def test_a_newer_reader_reads_the_answers_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x", "y"]
    options: dict[str, Any] = {"labels": ["yes", "no"], "structured": "prompt"}
    lab.run(texts, answering(lambda _: "yes"), "{text}", **options)
    monkeypatch.setattr("batcher.answer.shape.READER", 2)
    monkeypatch.setattr("batcher.planning.job.READER", 2)
    report = lab.run(texts, Service([]), "{text}", **options)
    assert (report.ok, report.requests_now) == (2, 0)
    assert look(lab.directory, "SELECT count(*) FROM rereads") == [(2,)]
    report = lab.run(texts, Service([]), "{text}", **options)
    assert look(lab.directory, "SELECT count(*) FROM rereads") == [(2,)]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


def test_rows_with_equal_questions_do_not_share_an_answer_that_was_read_again(lab: Lab) -> None:
    options: dict[str, Any] = {"structured": "prompt"}
    lab.run(["x"], answering(lambda _: "yes"), "{text}", labels=["yes", "no"], **options)
    lab.run(["x"], Service([]), "{text}", labels=["yes", "no", "?"], on_change="reuse", **options)
    lab.run(["x"], Service([]), "{text}", labels=["yes", "no"], on_change="reuse", **options)
    service = answering(lambda _: "no")
    report = lab.run(["x", "x"], service, "{text}", labels=["yes", "no"], **options)
    assert (report.ok, report.requests_now) == (2, 1)
    assert sorted(line["infer"] for line in lab.rows()) == ["no", "yes"]


def test_another_order_of_a_schemas_fields_or_of_described_labels_is_another_question(lab: Lab) -> None:
    def schema(*names: str) -> dict[str, Any]:
        return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": ["label"]}

    def answers(call: Call) -> str:
        asked = call.params["response_format"]["json_schema"]["schema"]["properties"]
        return json.dumps(dict.fromkeys(asked, "a"))

    options: dict[str, Any] = {"endpoints": [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1")]}
    lab.run(["x"], answering(answers), "{text}", schema=schema("label", "reason"), **options)
    with pytest.raises(ChangedError, match="the order in the schema changed"):
        lab.run(["x"], Service([]), "{text}", schema=schema("reason", "label"), **options)
    options["on_change"] = "redo"
    assert lab.run(["x"], answering(answers), "{text}", schema=schema("reason", "label"), **options).requests_now == 1
    assert [*json.loads(lab.rows()[0]["infer"])] == ["reason", "label"]
    assert batcher.verify("k", ["x"], output_dir=lab.directory).ok
    [(kept,)] = lab.query("SELECT question FROM runs ORDER BY id DESC LIMIT 1")
    assert [*json.loads(kept)["shape"]["schema"]["properties"]] == ["reason", "label"]

    said = {"aa": "good", "bb": "bad"}
    options = {"keyword": "l", "structured": "prompt"}
    lab.run(["x"], answering(lambda _: "aa"), "{text}", labels=said, **options)
    with pytest.raises(ChangedError, match="the order in the labels changed"):
        lab.run(["x"], Service([]), "{text}", labels=dict(reversed(said.items())), **options)


# -- Chunk files without a journal


def lose_journal(lab: Lab) -> None:
    (lab.directory / "journal_k.sqlite").unlink()


def test_adopted_answers_are_read_by_the_labels_of_the_run(lab: Lab) -> None:
    texts, said = ["x", "y", "z"], {"x": "aa", "y": "Well, I would say it is aa", "z": "**cc**"}
    lab.run(texts, answering(lambda call: said[call.prompt]), "{text}")
    options: dict[str, Any] = {"structured": "prompt"}
    for labels, expected in (
        (["aa", "bb"], [("aa", "ok"), (said["y"], "invalid"), ("**cc**", "invalid")]),
        (["cc", "dd"], [("aa", "invalid"), (said["y"], "invalid"), ("cc", "ok")]),
    ):
        lose_journal(lab)
        report = lab.run(texts, Service([]), "{text}", labels=labels, **options)
        assert (report.requests_now, report.invalid) == (0, 2)
        assert [(row["infer"], row["infer_status"]) for row in lab.rows()] == expected
        assert batcher.verify("k", texts, output_dir=lab.directory).ok
    report = lab.run(texts, answering(lambda _: "dd"), "{text}", labels=["cc", "dd"], retry_failed=True, **options)
    assert [row["infer"] for row in lab.rows()] == ["dd", "dd", "cc"]


def test_an_adopted_file_keeps_errors_and_what_a_person_has_called_invalid(lab: Lab) -> None:
    options: dict[str, Any] = {"labels": ["aa", "bb"], "structured": "prompt"}
    lab.run(["x", "y", "z"], answering(lambda _: "aa"), "{text}", **options)
    lose_journal(lab)
    text = lab.path(0).read_text()
    text = text.replace("x,aa,ok,", "x,aa,error,HTTP 500").replace("y,aa,ok,", "y,aa,invalid,")
    lab.path(0).write_text(text.replace("z,aa,ok,", "z,aa,invalid,a content filter cut the answer off"))
    lab.run(["x", "y", "z"], Service([]), "{text}", **options)
    assert [row["infer_status"] for row in lab.rows()] == ["error", "invalid", "invalid"]


def test_a_field_that_was_corrected_by_hand_is_adopted_with_its_file(tmp_path: Path) -> None:
    with server_of("full") as server:
        run(tmp_path, server, schema=SCHEMA)
        path = tmp_path / "0_k.csv"
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.loc[2, "infer_score"] = "9"
        table.loc[3, "infer_score"] = "eleven"
        table.to_csv(path, index=False)
        (tmp_path / "journal_k.sqlite").unlink()
        found = run(tmp_path, server, schema=SCHEMA).frame()
        assert server.books.requests == len(TEXTS)
    assert (found["infer_score"][2], json.loads(found["infer"][2])["score"]) == ("9", 9)
    assert found["infer_status"][3] == "invalid"
    assert batcher.verify("k", TABLE, output_dir=tmp_path).ok


def test_verify_names_ok_answers_that_are_not_among_the_labels_of_the_run(lab: Lab) -> None:
    texts = ["x", "y"]
    options: dict[str, Any] = {"labels": ["aa", "bb"], "structured": "prompt"}
    lab.run(texts, answering(lambda _: "aa"), "{text}", **options)
    lab.change("""UPDATE runs SET question = replace(question, '["aa", "bb"]', '["cc", "bb"]')""")
    kinds = {finding.kind: finding.rows for finding in batcher.verify("k", output_dir=lab.directory).findings}
    assert kinds["unfit"] == ((0, 1),)


# -- The prompt


def plan(template: Any, columns: Mapping[str, list[str]], tmp_path: Path, **options: Any) -> Any:
    table = pd.DataFrame(columns)
    return batcher.plan(table, template, keyword="k", output_dir=tmp_path, provider="offline", **options)


def first(template: Any, columns: Mapping[str, list[str]], tmp_path: Path, **options: Any) -> str:
    messages = plan(template, columns, tmp_path, **options).first
    return "\n".join(message["content"] for message in messages)


def test_the_prompt_states_the_labels_once_where_the_user_put_them_or_at_its_end(tmp_path: Path) -> None:
    table = {"text": ["good", "bad"]}
    line = Labels.of(["yes", "no"], "").line
    assert first("{text}", table, tmp_path, labels="yes,no") == f"good\n\n{line}"
    assert first("{text}", table, tmp_path, labels=pd.Series(["yes", "no", "yes"]).unique()) == f"good\n\n{line}"
    assert first("One of {labels}: {text}", table, tmp_path, labels="yes,no") == "One of yes, no: good"
    assert first("Say yes or no: {text}", table, tmp_path, labels="yes,no") == "Say yes or no: good"
    assert first("{text}", table, tmp_path, labels="yes,no", system="One of {labels}.") == "One of yes, no.\ngood"
    assert first(lambda row: row["text"], table, tmp_path, labels="yes,no") == f"good\n\n{line}"
    system = {"system": "One of {labels}."}
    assert first(lambda row: row["text"], table, tmp_path, labels="yes,no", **system) == "One of yes, no.\ngood"
    described = {"yes": "it is {good}", "no": "it is not"}
    assert "- yes: it is {good}\n- no: it is not" in first("{text}", table, tmp_path, labels=described)
    columns = {**table, "labels": ["of a column"] * 2}
    assert "of a column: good" in first("{labels}: {text}", columns, tmp_path, labels="yes,no")


def test_a_rows_own_text_does_not_decide_whether_its_prompt_states_the_labels(tmp_path: Path) -> None:
    line = Labels.of(["yes", "no"], "").line
    text = "Yes or no? It was fine"
    asked = f"{text}\n\n{line}"
    messages = json.dumps([{"role": "user", "content": text}])
    assert first("{text}", {"text": [text]}, tmp_path, labels="yes,no") == asked
    assert first(lambda row: row["text"], {"text": [text]}, tmp_path, labels="yes,no") == asked
    assert first(None, {"text": [text]}, tmp_path, labels="yes,no", prompt_column="text") == asked
    assert first(None, {"text": [messages]}, tmp_path, labels="yes,no", messages_column="text") == asked


def test_the_plan_shows_the_whole_first_prompt_with_what_its_form_adds(tmp_path: Path) -> None:
    found = plan("{text}", {"text": ["a", "b"]}, tmp_path, schema=SCHEMA, structured="json")
    assert '"maximum":10' in found.first[-1]["content"].replace(": ", ":")
    assert "prompt    user: a" in str(found)
    assert "form      JSON mode\n" in str(found)
    assert "form      a strict JSON Schema first; the answers decide\n" in str(
        plan("{text}", {"text": ["a", "b"]}, tmp_path, schema=SCHEMA)
    )
    assert found.completion_tokens is not None
    placed = first("{text} {schema}", {"text": ["a", "b"]}, tmp_path, schema=SCHEMA, structured="json")
    assert placed.count("maximum") == 1


def test_the_plan_of_a_resume_shows_the_form_that_was_found(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(20)]
    service = answering(lambda _: "")
    service.instead = lambda call: (
        Completion('{"a": "x"}')
        if form_of(call.params) in {"json_object", "prompt"}
        else Failure(Fault.STATUS, "This response_format type is unavailable now", 400)
    )
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    options: dict[str, Any] = {"schema": schema, "endpoints": [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1")]}

    def planned() -> Any:
        return batcher.plan(texts, "{text}", keyword="k", output_dir=lab.directory, **options)

    before = planned()
    assert before.form == "a strict JSON Schema first; the answers decide"
    lab.run(texts, service, "{text}", limit=10, **options)
    found = planned()
    service.calls.clear()
    lab.run(texts, service, "{text}", **options)
    assert {form_of(call.params) for call in service.calls} == {"json_object"}
    assert found.form == "JSON mode"
    assert found.first[-1]["content"] == service.calls[0].prompt
    assert found.requests == 10
    assert found.prompt_tokens / 10 > 5, "the line with the schema counts"


def test_the_plan_says_when_a_label_stands_before_its_reason(tmp_path: Path) -> None:
    late = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}, "reason": {"type": "string"}}}
    said = str(plan("{text}", {"text": ["a", "b"]}, tmp_path, schema=late))
    assert "asks for 'label' before 'reason'" in said
    early = {**late, "properties": dict(reversed(late["properties"].items()))}  # type: ignore[attr-defined]
    assert "before" not in str(plan("{text}", {"text": ["a", "b"]}, tmp_path, schema=early))


# -- Options that contradict each other


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "a,b", "schema": SCHEMA}, "labels and schema exclude each other"),
        ({"structured": "json"}, "structured needs labels or schema"),
        (
            {"schema": SCHEMA, "structured": "choice"},
            'structured="choice" needs labels: a schema has no list of choices',
        ),
        ({"repair": 2}, "repair needs labels or schema"),
        ({"repair": -1, "labels": "a,b"}, "repair must be a whole number, 0 or more"),
        ({"labels": "a,b", "structured": "xml"}, "structured must be one of auto, choice"),
        ({"labels": "a,b", "param": {"response_format": {"type": "json_object"}}}, "exclude each other"),
        ({"labels": "a,b", "param": {"n": 3}}, "exclude each other"),
        ({"schema": {"type": "object", "properties": {"status": {}}}}, "the field 'status' would get the column"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        plan("{text}", {"text": ["a", "b"]}, tmp_path, **options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("template", "options", "said"),
    [
        (
            "{text} {lables}",
            {"labels": "a,b"},
            "prompt: the table has no column 'lables': did you mean {labels}, which",
        ),
        ("{text} {label}", {"labels": "a,b"}, "prompt: the table has no column 'label': did you mean {labels}, which"),
        (
            "{text} {Schema}",
            {"schema": SCHEMA},
            "prompt: the table has no column 'Schema': did you mean {schema}, which",
        ),
        ("{text} {labels}", {}, "prompt: {labels} stands for the labels, and none are given (labels)"),
        ("{text} {schema}", {"labels": "a,b"}, "none is given (schema); {labels} stands for the labels"),
        ("{text}", {"labels": "a,b", "system": "{lables}"}, "system: the table has no column 'lables': did you mean"),
        ("{text} {other}", {"labels": "a,b"}, "prompt: the table has no column 'other'; its only column is 'text'"),
    ],
)
def test_a_slip_for_the_hole_of_the_labels_is_answered_with_it(
    tmp_path: Path, template: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        plan(template, {"text": ["a", "b"]}, tmp_path, **options)
    assert said in str(refused.value)


def test_a_column_of_the_table_in_the_place_of_the_labels_is_said(tmp_path: Path) -> None:
    def said(template: str, column: str, **options: Any) -> list[str]:
        found = plan(template, {"text": ["a", "b"], column: ["c", "d"]}, tmp_path, **options)
        return [line for line in found.summary.splitlines() if line.startswith("Note: ")]

    gold = "{label} is the column 'label' of the table, which the model reads; {labels} stands for the labels"
    assert said("{text} {label}", "label", labels="a,b") == [f"Note: prompt: {gold}."]
    assert said("{text} {labels} {label}", "label", labels="a,b") == []
    assert said("{text} {label}", "label") == []
    column = "Note: prompt: {labels} is the column 'labels' of the table here, not the labels."
    assert said("{text} {labels}", "labels", labels="a,b") == [column]


def test_a_field_whose_column_the_input_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the input has a column 'infer_score' already"):
        plan("{text}", {"text": ["a", "b"], "infer_score": ["1", "2"]}, tmp_path, schema=SCHEMA)


# -- Facts of the journal


def test_facts_of_the_journal_stand_behind_the_answers(tmp_path: Path) -> None:
    names = "raw,tokens,cost,latency,model,attempts,finish,form,request_id,reasoning"
    with server_of("full") as server:
        found = run(
            tmp_path,
            server,
            labels=LABELS,
            with_=names,
            price_in=1.0,
            price_out=2.0,
            endpoints=None,
            base_url=server.base_url,
            model="m",
        ).frame()
        again = run(
            tmp_path,
            server,
            labels=LABELS,
            endpoints=None,
            base_url=server.base_url,
            model="m",
            price_in=1.0,
            price_out=2.0,
            with_="attempts,raw",
        )
        assert again.requests_now == 0
    assert set(found["infer_attempts"]) == {"1"}
    assert set(found["infer_form"]) == {"choice"}
    assert [*found["infer_raw"]] == [*found["infer"]]
    assert all(
        float(cost) > 0 and float(seconds) >= 0
        for cost, seconds in zip(found["infer_cost"], found["infer_latency"], strict=True)
    )
    assert all(found["infer_request_id"])
    assert [*again.frame().columns][-2:] == ["infer_raw", "infer_attempts"]
    assert batcher.verify("k", TABLE, output_dir=tmp_path).ok


def test_a_fact_may_still_be_asked_for_by_its_earlier_name(lab: Lab) -> None:
    lab.run(["x", "y"], answering(lambda _: "a"), "{text}", with_="finish,model")
    lab.change("""UPDATE runs SET question = replace(question, '"finish"', '"finish_reason"')""")
    report = lab.run(["x", "y"], Service([]), "{text}", with_=["model", "finish_reason"])
    assert (report.ok, report.requests_now) == (2, 0)
    assert [row["infer_finish"] for row in lab.rows()] == ["stop", "stop"]
    assert batcher.verify("k", ["x", "y"], output_dir=lab.directory).ok


def test_attempts_count_every_request_for_the_rows_question(lab: Lab) -> None:
    given: Counter[str] = Counter()

    def answers(call: Call) -> str:
        text = call.prompt.splitlines()[0]
        given[text] += 1
        return "what?" if text == "y" and given[text] == 1 else "a"

    options: dict[str, Any] = {"labels": ["a", "b"], "structured": "prompt", "with_": "attempts"}
    lab.run(["x", "y"], answering(answers), "{text}", **options)
    lab.run(["x", "y"], answering(answers), "{text}", retry_failed=True, **options)
    assert [line["infer_attempts"] for line in lab.rows()] == ["1", "2"]
    assert batcher.verify("k", ["x", "y"], output_dir=lab.directory).ok


# -- By hand


def test_a_field_that_was_corrected_by_hand_survives_ordinary_commands(tmp_path: Path) -> None:
    with server_of("full") as server:
        run(tmp_path, server, schema=SCHEMA)
        path = tmp_path / "0_k.csv"
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.loc[2, "infer_score"] = "9"
        table.loc[3, "infer_reason"] = "because, I say"
        table.to_csv(path, index=False)
        for options in ({}, {"chunk_size": 11}, {"with_": "model,cost"}, {"retry_failed": True}):
            found = run(tmp_path, server, schema=SCHEMA, **options).frame()
            assert (found["infer_score"][2], found["infer_reason"][3]) == ("9", "because, I say")
            assert json.loads(found["infer"][2])["score"] == 9
            assert batcher.verify("k", TABLE, output_dir=tmp_path).ok
        assert server.books.requests == len(TEXTS)


def test_a_label_by_hand_stays_when_other_labels_read_the_answers_anew(lab: Lab) -> None:
    texts = ["x", "y", "z"]
    options: dict[str, Any] = {"structured": "prompt", "on_change": "reuse"}
    lab.run(texts, answering(lambda _: "no"), "{text}", labels=["yes", "no"], **options)
    path = lab.path(0)
    path.write_text(path.read_text().replace("y,no,ok,", "y,maybe,ok,"))
    report = lab.run(texts, Service([]), "{text}", labels=["yes", "no", "maybe"], **options)
    assert [row["infer"] for row in lab.rows()] == ["no", "maybe", "no"]
    report = lab.run(texts, Service([]), "{text}", labels=["no", "maybe"], **options)
    assert (report.ok, report.requests_now) == (3, 0)
    assert [row["infer"] for row in lab.rows()] == ["no", "maybe", "no"]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


# -- Who is to blame: the form, the row, the prompt, or the endpoint


def forms_of(service: Service) -> Counter[str]:
    return Counter(form_of(call.params) for call in service.calls)


def own(**more: Any) -> dict[str, Any]:
    return {"endpoints": [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1")], "labels": ["a", "b"], **more}


def number(call: Call) -> int:
    return int(call.prompt.splitlines()[0].removeprefix("row "))


ROWS = [f"row {n}" for n in range(200)]
STRANGE = Failure(Fault.STATUS, "the generated text does not match the expected schema", 400)


@pytest.mark.parametrize("bad", [Completion("a or b"), Completion("b b", "length"), STRANGE])
@pytest.mark.parametrize("rows", [{0}, {3, 9, 12, 40}, {*range(50, 90)}])
def test_odd_rows_take_the_form_from_no_other(lab: Lab, bad: Completion | Failure, rows: set[int]) -> None:
    service = answering(lambda _: "a")
    service.instead = lambda call: bad if number(call) in rows else Completion("a")
    lab.run(ROWS, service, "{text}", **own())
    others = [call for call in service.calls if number(call) not in rows]
    assert {form_of(call.params) for call in others} == {"choice"}
    assert len(others) == len(ROWS) - len(rows)


def test_a_row_that_is_refused_in_a_found_form_is_asked_in_the_next_one(lab: Lab) -> None:
    service = answering(lambda _: "a")
    service.instead = lambda call: (
        STRANGE
        if number(call) % 10 == 7 and form_of(call.params) == "choice" and number(call) < 20
        else Completion("a")
    )
    report = lab.run(ROWS, service, "{text}", **own())
    assert (report.ok, report.requests) == (200, 202)


def test_a_bad_prompt_finds_no_form_and_does_not_buy_each_row_five_times(lab: Lab) -> None:
    service = answering(lambda _: "hello")
    report = lab.run(ROWS, service, "{text}", **own())
    assert report.invalid == 200
    assert report.requests <= 200 + 5 * 23
    assert look(lab.directory, "SELECT count(*) FROM events WHERE kind = 'form'") == [(0,)]
    report = lab.run(ROWS, answering(lambda _: "a"), "{text}", retry_failed=True, **own(with_="form"))
    assert {row["infer_form"] for row in lab.rows()} == {"choice"}


def test_a_server_that_ignores_choices_is_asked_by_the_schema_that_it_obeys(lab: Lab) -> None:
    """The answers of a good model fit by themselves, so that a list of choices is found: llama.cpp's server."""
    service = answering(lambda _: "a")
    service.instead = lambda call: Completion(
        '{"label": "b"}' if "response_format" in call.params else "well" if number(call) % 10 == 7 else "a"
    )
    few = [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1", max_concurrency=4)]
    report = lab.run(ROWS, service, "{text}", **own(endpoints=few))
    assert report.ok == 200
    assert forms_of(service)["strict"] > 150
    found = look(lab.directory, "SELECT detail FROM events WHERE kind = 'form' ORDER BY id")
    assert [json.loads(detail)["form"] for (detail,) in found] == ["choice", "strict"]


def test_a_server_that_ignores_every_form_is_asked_for_few_rows_in_all_of_them(lab: Lab) -> None:
    service = answering(lambda _: "a")
    service.instead = lambda call: Completion("well" if number(call) % 4 == 3 else "a")
    report = lab.run(ROWS, service, "{text}", **own())
    assert (report.ok, report.invalid) == (150, 50)
    assert report.requests <= 200 + 4 * 20


def test_a_server_fault_that_names_a_field_of_the_form_is_of_the_form(lab: Lab) -> None:
    """llama-cpp-python's server says by a 500 that it knows no JSON Schema; it has JSON mode."""
    said = "1 validation error: {'loc': ('body', 'response_format', 'type'), 'input': 'json_schema'}"
    unknown = failure_in(500, {}, json.dumps({"error": {"message": said, "type": "internal_server_error"}}))
    service = answering(lambda _: "")
    answers = {"choice": Completion("hello"), "json_object": Completion('{"label": "b"}')}
    service.instead = lambda call: answers.get(form_of(call.params), unknown)
    report = lab.run(ROWS, service, "{text}", **own(with_="form"))
    assert report.ok == 200
    assert {row["infer_form"] for row in lab.rows()} == {"json"}
    assert report.requests <= 200 + 3 * 5


@pytest.mark.parametrize(
    ("refusal", "most"),
    [
        (Failure(Fault.STATUS, "The model `m` does not exist", 404, "model_not_found", codes=("model_not_found",)), 2),
        (Failure(Fault.STATUS, "Not Found", 404), 4),
        (Failure(Fault.STATUS, "no", 400), 7),
    ],
)
def test_a_wrong_model_costs_few_requests(lab: Lab, refusal: Failure, most: int) -> None:
    service = answering(lambda _: "a")
    service.instead = lambda _: refusal
    with pytest.raises(batcher.RunStopped):
        lab.run(ROWS, service, "{text}", **own())
    assert len(service.calls) <= most


def test_a_row_keeps_the_answer_that_was_paid_if_what_follows_fails(lab: Lab) -> None:
    service = answering(lambda _: "")
    service.instead = lambda call: (
        Failure(Fault.STATUS, "too long", 413) if "does not fit" in call.prompt else Completion("who knows", "stop")
    )
    report = lab.run(["x"], service, "{text}", labels=["a", "b"], structured="prompt", repair=1)
    assert (report.invalid, report.error, report.requests) == (1, 0, 2)
    assert lab.rows()[0]["infer"] == "who knows"
    assert batcher.verify("k", ["x"], output_dir=lab.directory).ok


def test_a_repair_that_was_interrupted_goes_on_with_the_answer_that_is_there(lab: Lab) -> None:
    service = answering(lambda _: "")
    service.latency = lambda call: 1.0 if "does not fit" not in call.prompt else 1000.0
    service.instead = lambda call: Completion("?" if "does not fit" not in call.prompt else "a", "stop")
    options: dict[str, Any] = {"labels": ["a", "b"], "structured": "prompt", "repair": 1, "grace": 0}
    with pytest.raises(batcher.Interrupted):
        lab.run(["x", "y"], service, "{text}", at={5.0: lab.request_stop}, **options)
    asked = len(service.calls)
    service.latency = lambda _: 1.0
    report = lab.run(["x", "y"], service, "{text}", **options)
    assert (report.ok, len(service.calls) - asked) == (2, 2)
    assert batcher.verify("k", ["x", "y"], output_dir=lab.directory).ok
