from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_service import Service, refusal

from batcher.endpoint import Endpoint
from batcher.errors import ChangedError, EndpointsLost, InputError, SettingsError
from batcher.journal.entries import Counts
from batcher.journal.opening import open_journal
from batcher.planning import job as jobs
from batcher.planning import making
from batcher.planning.job import Job
from batcher.planning.making import Stopped
from batcher.planning.plan import Plan
from batcher.planning.words import in_words, notes
from batcher.settings import Settings

if TYPE_CHECKING:
    from conftest import Lab

TEXTS = ["a", "b", "c", "d"]


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Job]:
    """Prepare a run of the lab's directory without running it."""

    def prepared(data: Any, prompt: Any = None, **options: Any) -> Job:
        defaults = {"keyword": "k", "output_dir": tmp_path / "output", "endpoints": [Endpoint("m")]}
        return jobs.prepare(data, prompt, Settings.of(defaults | options))

    return prepared


def make(job: Job, is_stopping: Callable[[], bool] = lambda: False) -> Plan:
    with job.store.prepared(), open_journal(job.store.journal_path) as journal:
        return making.make(job, journal, is_stopping)


def asked(job: Job, *values: object) -> Any:
    [message] = job.question_of(0, values).messages
    return message["content"]


# -- Preparing


def test_a_file_names_its_run(prepare: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "数学计算.csv").write_text("text\na\n", encoding="utf-8")
    job = prepare(tmp_path / "数学计算.csv", "{text}", keyword=None)
    assert job.keyword == "数学计算"
    assert job.store.all_path == tmp_path / "output" / "all_数学计算.csv"
    assert prepare(tmp_path / "数学计算.csv", "{text}").keyword == "k"


def test_texts_are_their_own_prompts(prepare: Callable[..., Job]) -> None:
    assert asked(prepare(TEXTS), "{a}") == "{a}"


def test_each_source_of_prompts_makes_the_messages(prepare: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("\ufeffFile: {text}", encoding="utf-8")
    assert asked(prepare(TEXTS, "Is {text}?"), "x") == "Is x?"
    assert asked(prepare(TEXTS, lambda row: row["text"] * 2), "x") == "xx"
    assert asked(prepare(TEXTS, prompt_file=tmp_path / "prompt.txt"), "x") == "File: x"
    assert asked(prepare(TEXTS, prompt_column="text"), "x") == "x"
    assert asked(prepare(TEXTS, messages_column="text"), '[{"role": "user", "content": "y"}]') == "y"


def test_a_system_message_comes_first(prepare: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("About {text}")
    for options in ({"system": "About {text}"}, {"system_file": tmp_path / "system.txt"}):
        assert prepare(TEXTS, **options).question_of(0, ("x",)).messages == [
            {"role": "system", "content": "About x"},
            {"role": "user", "content": "x"},
        ]


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        (None, {"keyword": None}, "the list has no file name to name the run after: give keyword="),
        ("{text}", {"prompt_column": "text"}, "given were prompt and prompt_column"),
        ("{text}", {"messages_column": "text"}, "given were prompt and messages_column"),
        (None, {"prompt_file": "missing.txt"}, "prompt_file missing.txt cannot be read"),
        (None, {"system_file": "missing.txt"}, "system_file missing.txt cannot be read"),
        ("{nothing}", {}, "prompt: the table has no column 'nothing'"),
        (None, {"system": "{nothing}"}, "system: the table has no column 'nothing'"),
        (None, {"prompt_column": "nothing"}, "prompt_column: the table has no column 'nothing'"),
        (None, {"answer_column": "text"}, "the input has a column 'text' already"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    prepare: Callable[..., Job], tmp_path: Path, prompt: str | None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        prepare(TEXTS, prompt, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_needs_a_prompt(prepare: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text\na\n")
    with pytest.raises(SettingsError, match=r"one of prompt, prompt_file, prompt_column and messages_column$"):
        prepare(tmp_path / "table.csv")


def test_a_row_without_messages_is_named(prepare: Callable[..., Job]) -> None:
    with pytest.raises(InputError, match=r"the list, row 2 .*column 'text' is not valid JSON"):
        make(prepare(['[{"role": "user", "content": "y"}]'] * 2 + ["nonsense"], messages_column="text"))


# -- Making


def test_a_plan_counts_the_rows_by_how_they_ended(prepare: Callable[..., Job], lab: Lab) -> None:
    assert make(prepare(TEXTS)).counts == Counts(4, 0, 0, 0)
    service = Service(TEXTS, instead=lambda call: refusal(400) if call.prompt == "b" else None)
    lab.run(TEXTS, service)
    assert make(prepare(TEXTS)).counts == Counts(4, 3, 0, 1)
    assert make(prepare([*TEXTS, "e"])).counts.left == 1
    assert make(prepare(TEXTS, limit=2)).counts == Counts(2, 1, 0, 1)
    assert make(prepare(TEXTS, retry_failed=True)).counts == Counts(4, 3, 0, 0)


def test_endpoints_that_differ_in_key_alone_are_one_source(prepare: Callable[..., Job]) -> None:
    endpoints = [Endpoint("m", api_key="sk-1"), Endpoint("m", api_key="sk-2", rpm=5), Endpoint("n", api_key="sk-3")]
    job = prepare(TEXTS, endpoints=endpoints)
    first, second, third = make(job).sources
    assert first == second != third
    assert "sk-" not in f"{job.question}"


def test_what_was_in_flight_when_a_run_was_cut_is_told(prepare: Callable[..., Job], lab: Lab) -> None:
    service = Service(TEXTS, lambda call: 1 if call.prompt == "a" else 9)
    with pytest.raises(asyncio.CancelledError):
        lab.run(TEXTS, service, at={5: lab.cancel}, grace=0)
    assert make(prepare(TEXTS)).in_flight == (3, None)


def test_a_plan_that_fails_or_is_stopped_leaves_the_journal_as_it_was(prepare: Callable[..., Job], lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS))
    before = lab.journal()
    with pytest.raises(Stopped):
        make(prepare([*TEXTS, "e"]), lambda: True)
    with pytest.raises(ChangedError):
        make(prepare(["w", "x", "y", "z"]))
    with pytest.raises(InputError):
        make(prepare([*TEXTS, "e"], lambda row: 5 if row["text"] == "e" else row["text"]))
    assert lab.journal() == before


SCHEMA = {"type": "json_object"}
M, N, REMOTE = Endpoint("m"), Endpoint("n"), Endpoint("n", "http://a/v1")
NAMED = Endpoint("n", "http://b/v1", name="my-vllm")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"prompt": "Is {text}?"}, "the prompt changed"),
        ({}, {"system": "Be brief."}, "the system message changed"),
        ({"param": {"temperature": 0}}, {"param": {"temperature": 1}}, "parameter temperature was 0, is 1"),
        ({}, {"param": {"top_k": 1}}, "parameter top_k is new"),
        ({"param": {"top_k": 1}}, {}, "parameter top_k is gone"),
        (
            {"param": {"response_format": SCHEMA}},
            {"param": {"response_format": {}}},
            'parameter response_format was {"type": "json_object"}, is {}',
        ),
        ({}, {"endpoints": [N]}, "model was m, is n"),
        ({}, {"endpoints": [REMOTE]}, "model was m, is n; base URL was https://api.openai.com/v1, is http://a/v1"),
        ({"endpoints": [REMOTE]}, {"endpoints": [NAMED]}, "endpoint was http://a/v1, is my-vllm"),
        ({"endpoints": [NAMED]}, {"endpoints": [REMOTE]}, "endpoint was my-vllm, is http://a/v1"),
        (
            {},
            {"endpoints": [Endpoint("m", params={"seed": 1})]},
            'endpoint\'s parameters was none, is {"seed": 1}',
        ),
        ({"endpoints": [M, N]}, {"endpoints": [N]}, "m at https://api.openai.com/v1 is not in the pool"),
        ({}, {"data": ["a", "b", "c", "x"]}, "column text changed"),
        ({}, {"prompt": "{text}!", "param": {"top_k": 1}}, "the prompt changed; parameter top_k is new"),
        (
            {},
            {"data": ["a", "b", "x", "y"], "prompt": "{text}!"},
            "the prompt changed; column text changed in 2 rows",
        ),
        ({"prompt": lambda row: row["text"]}, {"prompt": str}, "the prompt function returns something else"),
        ({"prompt": lambda row: row["text"]}, {"prompt": "{text}!"}, "the prompt changed"),
        (
            {"prompt": lambda row: row["text"]},
            {"prompt": lambda row: row["text"] + "!", "data": ["a", "b", "c", "x"]},
            "the prompt function returns something else; column text changed in 1 row",
        ),
    ],
)
def test_a_change_is_explained_in_words(
    prepare: Callable[..., Job], lab: Lab, before: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    usual = {"data": TEXTS, "prompt": "{text}"}
    lab.run(**usual | before, service=Service(TEXTS))
    with pytest.raises(ChangedError) as changed:
        make(prepare(**usual | now))
    first, second = str(changed.value).splitlines()
    assert first.endswith(f"answered to another question ({said}).")
    assert second.startswith("Nothing was sent.")


def test_each_column_that_changed_is_named(prepare: Callable[..., Job], lab: Lab, tmp_path: Path) -> None:
    def table(*rows: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join(["id,title,text", *rows]))
        return path

    lab.run(table("1,a,b", "2,c,d"), Service(["a: b", "c: d"]), "{title}: {text}")
    with pytest.raises(ChangedError, match=r"\(column title changed in 1 row; column text changed\)"):
        make(prepare(table("1,A,B", "2,c,D"), "{title}: {text}"))
    assert make(prepare(table("9,a,b", "9,c,d"), "{title}: {text}")).changed == 0


def test_another_endpoint_beside_the_old_one_is_no_change(prepare: Callable[..., Job], lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS))
    assert make(prepare(TEXTS, endpoints=[Endpoint("n"), Endpoint("m", api_key="new")])).counts.left == 0


def test_rows_without_an_answer_may_change_at_will(prepare: Callable[..., Job], lab: Lab) -> None:
    with pytest.raises(EndpointsLost):
        lab.run(TEXTS, Service(TEXTS, instead=lambda _call: refusal(401)))
    assert make(prepare(["x", "y"], "Is {text}?", endpoints=[Endpoint("n")])).counts == Counts(2, 0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "more", "said"),
    [
        (Counts(0, 0, 0, 0), {}, "k: 0 rows: 0 new"),
        (
            Counts(50_000, 38_000, 112, 0),
            {"changed": 488, "reasons": ("m is new", "n is gone")},
            "k: 50,000 rows: 38,112 answered, 11,400 new, 488 answered to another question (m is new; n is gone)",
        ),
        (Counts(3, 1, 1, 1), {}, "k: 3 rows: 2 answered, 1 failed before (retry_failed=True sends them again), 0 new"),
        (
            Counts(9, 6, 0, 0),
            {"adopted": 4},
            "k: 9 rows: 6 answered (4 rows adopted from chunk files without a journal), 3 new",
        ),
    ],
)
def test_a_plan_reads_in_words(prepare: Callable[..., Job], counts: Counts, more: dict[str, Any], said: str) -> None:
    job = prepare([])
    assert in_words(job, make(job)._replace(counts=counts, **more)) == said


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (
            ["a", "b", "a", "a"],
            {},
            ["2 rows have the same question as another row: they could be sent once (dedup=True)."],
        ),
        (["a", "b", "a", "a"], {"dedup": True}, ["2 rows have the same question as another row: they are sent once."]),
        (
            ["a", "b"],
            {"prompt": "Hello", "same_prompt": True},
            ["Note: the prompt has no {column} hole, so every row asks the same question."],
        ),
        (["a", "b"], {"dedup": True}, []),
    ],
)
def test_rows_that_ask_the_same_are_told(
    prepare: Callable[..., Job], texts: list[str], options: dict[str, Any], said: list[str]
) -> None:
    job = prepare(texts, **options)
    assert notes(job, make(job)) == said
