"""How the local server treats structured output: each form, each way, wrong and dressed-up answers, and its books."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, SHARED, call, local_server
from server_client import Reply, chat, request

from batcher.calls.dialect import answer_in
from batcher.cli import help_of
from batcher.errors import SettingsError
from batcher.records import Failure
from batcher.server.answers import answer, core_of, label_for
from batcher.server.dressing import LABELS, OBJECTS, dressed
from batcher.server.fault_file import faults_in
from batcher.server.faults import Fate, FaultRule
from batcher.server.forms import Form
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs
from batcher.server.ways import WAYS, Treatment, schedule_of

COLOURS = ["bright_red", "green", "blue"]
OBJECT = {
    "type": "object",
    "properties": {"label": {"enum": COLOURS}},
    "required": ["label"],
    "additionalProperties": False,
}
ASKED = f"Which colour? Answer with one of: {', '.join(COLOURS)}. "
SHOWN = f"{ASKED}row\nAnswer with an object that fits this JSON Schema: {json.dumps(OBJECT)}"


def schema(strict: bool | None = None, of: dict[str, Any] = OBJECT) -> dict[str, Any]:
    given = {"name": "colour", "schema": of} | ({} if strict is None else {"strict": strict})
    return {"response_format": {"type": "json_schema", "json_schema": given}}


FIELDS: dict[Form, dict[str, Any]] = {
    Form.CHOICE: {"structured_outputs": {"choice": COLOURS}},
    Form.GUIDED: {"guided_choice": COLOURS},
    Form.STRICT: schema(strict=True),
    Form.SCHEMA: schema(),
    Form.JSON: {"response_format": {"type": "json_object"}},
    Form.PROMPT: {},
}
JSON_FORMS = (Form.STRICT, Form.SCHEMA, Form.JSON)


@pytest.fixture(scope="module")
def full() -> Iterator[Server]:
    with embedded(Knobs()) as server:
        yield server


def label_in(reply: Reply, form: Form) -> str:
    return str(json.loads(reply.text)["label"]) if form in JSON_FORMS else reply.text


# --- the forms ---


@pytest.mark.parametrize("form", Form)
def test_every_form_gets_the_label_of_the_prompt(full: Server, form: Form) -> None:
    right = []
    for number in range(12):
        prompt = f"{ASKED}row {number}"
        reply = chat(full.base_url, prompt, **FIELDS[form])
        assert label_in(reply, form) == label_for(prompt, COLOURS)
        right.append(label_for(prompt, COLOURS))
    assert set(right) == set(COLOURS)


def test_choices_and_enums_need_no_list_in_the_prompt(full: Server) -> None:
    for form in (Form.CHOICE, Form.GUIDED, Form.STRICT, Form.SCHEMA):
        reply = chat(full.base_url, "no list here", **FIELDS[form])
        assert label_in(reply, form) == label_for("no list here", COLOURS)


@pytest.mark.parametrize("fields", [FIELDS[Form.JSON], {}])
def test_a_schema_in_the_prompt_is_filled_with_or_without_json_mode(full: Server, fields: dict[str, Any]) -> None:
    assert json.loads(chat(full.base_url, SHOWN, **fields).text) == {"label": label_for(SHOWN, COLOURS)}


@pytest.mark.parametrize(
    "shown",
    [
        SHOWN,
        f"{ASKED}row\n\nAnswer in JSON by the JSON Schema:\n{json.dumps(OBJECT, indent=2)}\n",
        f"{ASKED}row\nJSON Schema: ```json\n{json.dumps(OBJECT)}\n```",
        f"{ASKED}row\nJSON schema: {json.dumps(OBJECT)}",
        f"{ASKED}row\n",
    ],
)
def test_a_prompt_has_the_same_label_with_and_without_a_schema(shown: str) -> None:
    assert core_of(shown) == f"{ASKED}row"
    assert label_for(shown, COLOURS) == label_for(f"{ASKED}row", COLOURS)


@pytest.mark.parametrize("broken", ["JSON Schema: {not json", "JSON Schema: []", "JSON Schema:", "JSON Schema: {{"])
def test_what_only_looks_like_a_schema_stays_in_the_prompt(broken: str) -> None:
    assert core_of(f"a {broken}") == f"a {broken}"


def test_a_system_message_can_show_the_schema() -> None:
    messages = [{"role": "system", "content": SHOWN}, {"role": "user", "content": "a row"}]
    found = json.loads(answer({"messages": messages, **FIELDS[Form.JSON]}))
    assert found == {"label": label_for("a row", COLOURS)}


@pytest.mark.parametrize(
    ("listed", "labels"),
    [
        ("Labels: " + json.dumps(["a, or b", 'with "quotes"', "c" * 100]), ["a, or b", 'with "quotes"', "c" * 100]),
        ("One of these labels:\n- red: the colour of blood\n- sky blue: that of the sky\n", ["red", "sky blue"]),
        (f"Answer with one of: {', '.join(f'label_{n}' for n in range(150))}", [f"label_{n}" for n in range(150)]),
    ],
)
def test_listed_labels_are_found_as_they_are(listed: str, labels: list[str]) -> None:
    for number in range(8):
        prompt = f"{listed}\nText: row {number}"
        assert answer({"messages": [{"role": "user", "content": prompt}]}) == label_for(prompt, labels)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared tables are not here")
def test_the_77_labels_of_banking77_are_found_in_a_prompt_that_lists_them() -> None:
    labels = json.loads((SHARED / "banking77_categories.json").read_text(encoding="utf-8"))
    for number in range(20):
        for listed in (", ".join(labels), json.dumps(labels), "\n" + "\n".join(f"- {label}" for label in labels)):
            prompt = f"Answer with one of these labels: {listed}\n\nMy card is lost, {number} days ago"
            assert answer({"messages": [{"role": "user", "content": prompt}]}) == label_for(prompt, labels)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": ["a"]}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice"),
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": "yes"}}},
            "response_format.json_schema.strict",
        ),
    ],
)
def test_a_malformed_form_is_refused(full: Server, fields: dict[str, Any], param: str) -> None:
    reply = chat(full.base_url, "p", **fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize("fields", [{"structured_outputs": None}, {"response_format": {"type": "text"}}])
def test_a_form_that_asks_for_nothing_is_the_prompt_alone(full: Server, fields: dict[str, Any]) -> None:
    request(full.base_url, "POST", "/stats/reset")
    assert chat(full.base_url, "2 + 3", **fields).text == "5"
    assert full.books.by_form == {"prompt": 1}


# --- the ways ---

# What each way does with each form if the prompt says JSON: the status, and what the answer is.
FITS, PLAIN, SENTENCE, NOTHING = "fits", "plain", "sentence", "nothing"
MET: dict[str, dict[Form, str | int]] = {
    "full": {},
    "ignore": {form: SENTENCE for form in Form if form is not Form.PROMPT},
    "empty": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.STRICT: 400, Form.SCHEMA: 400, Form.JSON: NOTHING},
    "one_in_ten": {Form.CHOICE: 400, Form.GUIDED: 400},
    "prompt_only": {form: 400 for form in Form if form is not Form.PROMPT},
    "not_strict": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.STRICT: 400},
    "vllm": {Form.GUIDED: PLAIN},
    "vllm_old": {Form.CHOICE: PLAIN},
    "openai": {Form.CHOICE: 400, Form.GUIDED: 400},
    "azure_old": {Form.CHOICE: 400, Form.GUIDED: 400, Form.STRICT: 400, Form.SCHEMA: 400},
    "deepseek": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.STRICT: 400, Form.SCHEMA: 400},
    "deepseek_old": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.STRICT: 422, Form.SCHEMA: 422},
    "dashscope": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN},
    "siliconflow": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, **dict.fromkeys(JSON_FORMS, 400)},
    "groq": {Form.CHOICE: 400, Form.GUIDED: 400, Form.STRICT: 400, Form.SCHEMA: 400},
    "openrouter": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.STRICT: 404, Form.SCHEMA: 404},
    "mistral": {Form.CHOICE: 422, Form.GUIDED: 422},
    "gemini": {Form.CHOICE: 400, Form.GUIDED: 400},
    "lmstudio": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN, Form.JSON: 400},
    "ollama": {Form.CHOICE: PLAIN, Form.GUIDED: PLAIN},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_each_way_meets_each_form_as_its_service_does(way: str) -> None:
    # "Reply in JSON" makes the answer to the prompt alone a label still: no skeleton and no schema is shown.
    prompt = f"{ASKED}Reply in JSON if you can. row 3"
    right = label_for(prompt, COLOURS)
    with embedded(Knobs(forms=way)) as server:
        for form in Form:
            met = MET[way].get(form, FITS)
            reply = chat(server.base_url, prompt, **FIELDS[form])
            if isinstance(met, int):
                assert reply.status == met, form
                read = answer_in(reply.status, reply.headers, reply.body)
                assert isinstance(read, Failure)
                assert read.message.strip()
                continue
            assert reply.status == 200, form
            if met == FITS:
                assert label_in(reply, form) == right
            elif met == PLAIN:
                assert reply.text == right
            elif met == SENTENCE:
                assert right in reply.text
                assert len(reply.text.split()) > 5
            else:
                assert reply.text.strip() == ""
        refused = {str(form): 1 for form in Form if isinstance(MET[way].get(form), int)}
        assert server.books.refused_by_form == refused
        assert server.books.by_form == {str(form): 1 for form in Form}
        assert server.books.by_status[200] == len(Form) - len(refused)


def test_the_ways_refuse_a_form_in_thirteen_wordings_with_three_statuses() -> None:
    replies = [met for way in WAYS.values() for met in way.forms.values() if not isinstance(met, Treatment)]
    shapes = {
        (reply.status, re.sub(r"structured_outputs|guided_choice|json_\w+", "", str(reply.body))) for reply in replies
    }
    assert len(shapes) == 13
    assert {status for status, _ in shapes} == {400, 404, 422}


@pytest.mark.parametrize(
    ("way", "forms"),
    [
        ("openai", {Form.JSON}),
        ("azure_old", {Form.JSON}),
        ("deepseek", {Form.JSON}),
        ("deepseek_old", {Form.JSON}),
        ("empty", {Form.JSON}),
        ("groq", {Form.JSON}),
        ("one_in_ten", {Form.JSON}),
        ("dashscope", set(JSON_FORMS)),
    ],
)
def test_json_mode_needs_the_word_json_in_any_case_and_message(way: str, forms: set[Form]) -> None:
    with embedded(Knobs(forms=way)) as server:
        for form in forms:
            reply = chat(server.base_url, ASKED, **FIELDS[form])
            assert (reply.status, "contain the word 'json'" in reply.json["error"]["message"]) == (400, True)
            said = [{"role": "system", "content": "Answer in jSoN."}, {"role": "user", "content": "row"}]
            body = json.dumps({"model": "m", "messages": said, **FIELDS[form]}).encode()
            assert request(server.base_url, "POST", "/v1/chat/completions", body).status == 200


def test_dashscope_takes_a_schema_as_json_mode_so_that_the_answer_need_not_fit() -> None:
    of = {"type": "object", "properties": {"colour": {"enum": COLOURS}}, "required": ["colour"]}
    with embedded(Knobs(forms="dashscope")) as server:
        reply = chat(server.base_url, f"{ASKED}In JSON", **schema(of=of))
        assert list(json.loads(reply.text)) == ["label"]
        assert server.books.unfit == 1


def without(*names: str, **changed: Any) -> dict[str, Any]:
    return {name: value for name, value in (OBJECT | changed).items() if name not in names}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (without("additionalProperties"), "In context=(), 'additionalProperties' is required to be supplied and to be"),
        (without(additionalProperties=True), "'additionalProperties' is required to be supplied and to be false."),
        (without("required"), "'required' is required to be supplied and to be an array including every key in"),
        (without(required=[]), "Missing 'label'."),
        (without(properties={"label": {"default": "green"}}), "('properties', 'label'), 'default' is not permitted"),
        (without("type"), "schema must be a JSON Schema of 'type: \"object\"'"),
        (without(properties={"label": {"oneOf": [OBJECT]}}), "'oneOf' is not permitted."),
        (without(properties={"label": {"anyOf": [without("required")]}}), "'label', 'anyOf', '0'), 'required' is"),
        (without(properties={"label": {"items": without("additionalProperties")}}), "'items'), 'additional"),
        (without(**{"$defs": {"x": without("additionalProperties")}}), "('$defs', 'x'), 'additionalProperties'"),
    ],
)  # fmt: skip
def test_openai_refuses_a_strict_schema_for_what_it_lacks_and_takes_it_otherwise(of: dict[str, Any], said: str) -> None:
    with embedded(Knobs(forms="openai")) as server:
        reply = chat(server.base_url, "p", **schema(strict=True, of=of))
        error = reply.json["error"]
        assert (reply.status, error["param"], error["type"]) == (400, "response_format", "invalid_request_error")
        assert error["message"].startswith("Invalid schema for response_format 'colour': ")
        assert said in error["message"]
        assert chat(server.base_url, "p", **schema(of=of)).status == 200
        assert server.books.refused_by_form == {"strict": 1}


def test_one_prompt_in_ten_is_refused_each_time_with_the_answer_in_the_refusal() -> None:
    prompts = [f"{ASKED}JSON, row {number}" for number in range(400)]
    with embedded(Knobs(forms="one_in_ten")) as server:
        replies = {prompt: chat(server.base_url, prompt, **FIELDS[Form.JSON]) for prompt in prompts}
        failed = {prompt: reply for prompt, reply in replies.items() if reply.status != 200}
        assert 20 < len(failed) < 60
        again = {prompt: chat(server.base_url, prompt, **FIELDS[Form.STRICT]).status for prompt in failed}
        assert set(again.values()) == {400}, "chosen by the prompt, not by the form or the try"
        assert server.books.lost == 2 * len(failed)
        assert server.books.refused_by_prompt == dict.fromkeys(failed, 2)
    whole = 0
    for prompt, reply in failed.items():
        error = reply.json["error"]
        assert (reply.status, error["code"]) == (400, "json_validate_failed")
        right = json.dumps({"label": label_for(prompt, COLOURS)})
        if error["failed_generation"].startswith("```json\n"):
            whole += 1
            assert error["failed_generation"] == f"```json\n{right}\n```"
        else:
            assert right.startswith(error["failed_generation"])
    assert len(failed) / 2 < whole < len(failed)


def test_a_server_changes_its_mind_after_a_number_of_requests() -> None:
    with embedded(Knobs(forms="full,3:deepseek,5:ignore")) as server:
        for _ in range(2):
            met = [chat(server.base_url, "p", **FIELDS[Form.STRICT]) for _ in range(7)]
            assert [reply.status for reply in met] == [200, 200, 200, 400, 400, 200, 200]
            assert [len(reply.text.split()) > 5 for reply in met if reply.status == 200] == [False] * 3 + [True] * 2
            assert request(server.base_url, "POST", "/stats/reset").status == 200


def test_requests_that_a_limit_stops_do_not_count_towards_a_change() -> None:
    with embedded(Knobs(forms="full,1:deepseek", keys=("sk",))) as server:
        assert [chat(server.base_url, "p", **FIELDS[Form.STRICT]).status for _ in range(3)] == [401] * 3
        assert [chat(server.base_url, "p", "sk", **FIELDS[Form.STRICT]).status for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deepsek", "simulator: forms: there is no way 'deepsek': did you mean deepseek?"),
        ("xyz", "there is no way 'xyz': known are full, ignore"),
        ("full,deepseek", "such as 'full,200:deepseek', not 'full,deepseek'"),
        ("5:full", "such as 'full,200:deepseek', not '5:full'"),
        ("", "such as 'full,200:deepseek', not ''"),
        ("full,5:groq,5:ignore", "the numbers of 'full,5:groq,5:ignore' must rise"),
        ("full,0:groq", "must rise"),
    ],
)
def test_a_wrong_way_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        Knobs(forms=text)


def test_a_way_may_be_written_with_hyphens_and_spaces() -> None:
    assert schedule_of("full, 200 : one-in-ten") == ((0, "full"), (200, "one_in_ten"))


# --- by a file of faults ---


def test_a_fault_gives_a_model_a_way_of_its_own_from_a_request_on() -> None:
    text = '[[fault]]\nmodel = "small"\nrequests = "3-"\nforms = "deepseek"\n'
    with embedded(Knobs(faults=faults_in(text, "faults.toml", {}))) as server:
        asked = [("small", 200), ("large", 200), ("small", 400), ("large", 200), ("small", 400)]
        for model, status in asked:
            body = {"model": model, "messages": [{"role": "user", "content": "p"}], **FIELDS[Form.STRICT]}
            reply = request(server.base_url, "POST", "/v1/chat/completions", json.dumps(body).encode())
            assert reply.status == status
        assert server.books.refused_by_form == {"strict": 2}
        assert server.books.by_fault == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('forms = "deepsek"', "forms must be one of full, ignore,.*did you mean 'deepseek'"),
        ('forms = "groq"\ndo = "hang"', "do and forms exclude each other"),
        ("forms = 5", "forms must be a text, not 5"),
    ],
)
def test_a_wrong_way_in_a_file_is_refused(lines: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"^faults.toml, fault 1: .*{said}"):
        faults_in(f"[[fault]]\n{lines}", "faults.toml", {})


def test_a_rule_may_have_hyphens_in_its_way_too() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.ANSWER, forms="prompt-only"),))) as server:
        assert chat(server.base_url, "p", **FIELDS[Form.JSON]).status == 400


def test_a_rule_with_an_unknown_way_or_another_effect_is_refused() -> None:
    with pytest.raises(SettingsError, match="a fault's forms: there is no way 'x'"):
        Knobs(faults=(FaultRule(Fate.ANSWER, forms="x"),))
    with pytest.raises(SettingsError, match="must answer"):
        FaultRule(Fate.HANG, forms="full")


# --- wrong labels and dressed-up answers ---


@pytest.mark.parametrize("form", Form)
def test_a_stated_share_of_the_labels_is_wrong_and_always_the_same_ones(form: Form) -> None:
    prompts = [f"{ASKED}JSON, row {number}" for number in range(200)]
    given: list[dict[str, str]] = []
    for seed in (1, 1, 2):
        with embedded(Knobs(wrong_labels=0.2, seed=seed)) as server:
            given.append({each: label_in(chat(server.base_url, each, **FIELDS[form]), form) for each in prompts})
            assert server.books.unfit == 0
    assert given[0] == given[1] != given[2]
    assert {label for labels in given for label in labels.values()} == set(COLOURS)
    wrong = [prompt for prompt, label in given[0].items() if label != label_for(prompt, COLOURS)]
    assert 20 < len(wrong) < 62


def test_the_same_prompts_get_a_wrong_label_in_every_form() -> None:
    with embedded(Knobs(wrong_labels=0.3)) as server:
        for number in range(30):
            prompt = f"{ASKED}row {number}"
            shown = f"{prompt}\nAnswer by this JSON Schema: {json.dumps(OBJECT)}"
            labels = {label_in(chat(server.base_url, prompt, **FIELDS[form]), form) for form in Form}
            labels.add(json.loads(chat(server.base_url, shown, **FIELDS[Form.JSON]).text)["label"])
            assert len(labels) == 1


def test_a_stated_share_of_the_answers_is_dressed_up_if_no_form_holds_them() -> None:
    prompts = [f"{ASKED}row {number}" for number in range(300)]
    with embedded(Knobs(dressed=0.5)) as server:
        said = {prompt: chat(server.base_url, prompt).text for prompt in prompts}
        plain = [prompt for prompt, text in said.items() if text == label_for(prompt, COLOURS)]
        assert 100 < len(plain) < 200
        assert server.books.unfit_by_prompt == dict.fromkeys((each for each in prompts if each not in plain), 1)
        shapes = {text.replace(label_for(prompt, COLOURS), "X") for prompt, text in said.items()}
        assert {"X.", "**X**", "label: X", "Bright red", "Green", '```json\n{"label": "X"}\n```'} <= shapes
        assert any(shape.startswith("<think>") and shape.endswith("</think> X") for shape in shapes)
        for form in (Form.CHOICE, Form.GUIDED, Form.STRICT, Form.SCHEMA):
            for prompt in prompts[:20]:
                assert label_in(chat(server.base_url, prompt, **FIELDS[form]), form) == label_for(prompt, COLOURS)
        assert server.books.unfit == len(prompts) - len(plain)


def test_json_is_dressed_up_with_the_object_in_it() -> None:
    starts = Counter[str]()
    with embedded(Knobs(dressed=1)) as server:
        for number in range(40):
            prompt = f"{ASKED}row {number}"
            text = chat(server.base_url, prompt, **FIELDS[Form.JSON]).text
            assert json.dumps({"label": label_for(prompt, COLOURS)}) in text
            starts[text.split()[0]] += 1
    assert set(starts) == {"```json", "Here", "<think>Several", "Sure!"}


def test_an_echo_is_never_dressed_up() -> None:
    with embedded(Knobs(dressed=1)) as server:
        assert chat(server.base_url, "hello").text.startswith("Echo ")
        assert server.books.unfit == 0


@pytest.mark.parametrize("text", ["card_arrival", "Card arrival", "a", "7", "标签", '{"label": "a"}', "[1]"])
def test_a_dressed_answer_differs_from_the_answer(text: str) -> None:
    for draw in range(100):
        assert dressed(text, draw / 100) != text
    assert len(OBJECTS) >= 4
    assert len(LABELS) >= 7


@pytest.mark.parametrize("name", ["wrong_labels", "dressed"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "all"])
def test_a_share_is_from_0_to_1(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"simulator: {name} must be a share from 0 to 1"):
        Knobs(**{name: value})


# --- the books ---


def test_the_books_know_the_form_of_each_request(full: Server) -> None:
    request(full.base_url, "POST", "/stats/reset")
    for form in (Form.CHOICE, Form.JSON, Form.JSON):
        chat(full.base_url, "JSON", **FIELDS[form])
    chat(full.base_url, "other")
    stats = request(full.base_url, "GET", "/stats").json
    assert stats["by_form"] == {"choice": 1, "json": 2, "prompt": 1}
    assert stats["forms_by_prompt"] == {"JSON": ["choice", "json", "json"], "other": ["prompt"]}
    assert (stats["refused_by_form"], stats["unfit"]) == ({}, 0)


# --- on the command line, and in the docs ---


def test_serve_plays_a_way_with_wrong_and_dressed_answers(tmp_path: Path) -> None:
    with local_server("--forms", "deepseek", "--wrong-labels", "1", "--dressed", "1", cwd=tmp_path) as server:
        assert chat(server.base_url, ASKED, **FIELDS[Form.STRICT]).status == 400
        text = chat(server.base_url, f"{ASKED}JSON", **FIELDS[Form.JSON]).text
        assert any(label in text for label in COLOURS)
        assert json.dumps({"label": label_for(f"{ASKED}JSON", COLOURS)}) not in text
        books = server.books()
        assert (books["refused_by_form"], books["unfit"]) == ({"strict": 1}, 1)


@pytest.mark.parametrize("verb", ["serve", "rehearse"])
def test_an_unknown_way_is_refused_before_anything_begins(tmp_path: Path, verb: str) -> None:
    (tmp_path / "t.csv").write_text("text\na\n", encoding="utf-8")
    table = ("t.csv", "--prompt", "{text}") if verb == "rehearse" else ("--port", "0")
    done = call(verb, *table, "--forms", "deepsek", cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert "there is no way 'deepsek': did you mean deepseek?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_every_way_is_in_the_help_and_in_the_docs() -> None:
    page = (ROOT / "docs" / "rehearse.md").read_text(encoding="utf-8")
    for verb in ("serve", "rehearse"):
        shown = " ".join(help_of(verb).split())
        assert all(re.search(rf"[ ,]{re.escape(way)}[ ,.]", shown) for way in WAYS), verb
    assert all(f"| `{way}` |" in page for way in WAYS)
