"""`merge --with` puts facts of the journal into a result afterwards; nothing else changes, and nothing is asked."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service

import batcher
from batcher.answer.columns import AnswerColumns
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.output.joining import merge
from batcher.records import Beside, Completion, Usage
from batcher.reports.verification.verify import verify

TEXTS = [f"item {number}" for number in range(7)]
OPTIONS: dict[str, Any] = {"chunk_size": 3, "endpoints": [Endpoint("m")]}
SLOW = {"endpoints": [Endpoint("m", max_concurrency=2)]}
FACTS = ["infer_tokens", "infer_model"]


def answer(call: Call) -> Completion:
    return Completion(f"about, {call.prompt}", usage=Usage(6, 2), model="m-1", finish_reason="stop")


def service() -> Service:
    return Service(TEXTS, instead=answer)


@pytest.fixture
def done(lab: Lab) -> Lab:
    lab.run(TEXTS, service(), **OPTIONS)
    return lab


def again(lab: Lab, **options: Any) -> None:
    lab.run(TEXTS, Service([]), **OPTIONS | options)


def found(lab: Lab) -> dict[str, list[tuple[tuple[int, int], ...]]]:
    return {each.kind: [each.rows] for each in verify("k", output_dir=lab.directory).findings}


def test_the_facts_stand_behind_the_columns_and_the_next_run_writes_its_own_result_again(done: Lab) -> None:
    before = done.files()
    assert merge("k", done.directory, with_="model,tokens") == done.path()
    rows = done.rows()
    assert [[row[name] for name in FACTS] for row in rows] == [["8", "m-1"]] * len(TEXTS)
    plain = [dict(list(row.items())[:-2]) for row in rows]
    after = done.files()
    assert after.pop("all_k.csv") != before["all_k.csv"]
    assert after == {name: content for name, content in before.items() if name != "all_k.csv"}
    assert verify("k", output_dir=done.directory).ok
    again(done)
    assert (done.files(), done.rows()) == (before, plain)


def test_the_command_line_takes_names_and_refuses_others(done: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["merge", "k", "--output-dir", str(done.directory)]
    assert main([*arguments, "--with", "tokens", "--with", "model"]) == 0
    assert capsys.readouterr().out == f"{done.path()}\n"
    assert [*done.rows()[0]][-2:] == FACTS
    assert main([*arguments, "--with", "token"]) == 2
    assert "--with must be out of raw, reasoning, tokens" in capsys.readouterr().err
    assert main(arguments) == 0
    assert [*done.rows()[0]][-1] == "infer_error"


def test_facts_that_the_files_have_already_are_there_once(lab: Lab) -> None:
    lab.run(TEXTS, service(), **OPTIONS, with_="tokens")
    merge("k", lab.directory, with_=["tokens", "model"])
    assert [*lab.rows()[0]][-2:] == FACTS
    before = lab.files()
    assert verify("k", output_dir=lab.directory).ok
    merge("k", lab.directory, with_="tokens")
    again(lab, with_="tokens")
    assert "all_k.csv.bak" not in lab.files()
    assert lab.files() != before


def damage_fact(text: str) -> str:
    return text.replace("ok,,8,m-1\n", "ok,,9,m-1\n", 1)


def damage_answer(text: str) -> str:
    return text.replace('"about, item 0"', "other", 1)


@pytest.mark.parametrize("damage", [damage_fact, damage_answer])
def test_a_fact_that_is_not_the_journals_is_found_and_a_changed_result_is_set_aside(
    done: Lab, damage: Callable[[str], str]
) -> None:
    merge("k", done.directory, with_="model,tokens")
    done.path().write_text(edited := damage(done.path().read_text()))
    assert found(done) == {"all-other": [((0, 0),)]}
    again(done)
    assert done.files()["all_k.csv.bak"].decode() == edited
    assert found(done) == {}


def test_rows_that_such_a_result_lacks_are_named(done: Lab) -> None:
    merge("k", done.directory, with_="model")
    lines = done.path().read_text().splitlines(keepends=True)
    done.path().write_text("".join(lines[:3] + lines[4:]))
    assert found(done) == {"all-lacks": [((2, 2),)]}


def test_corrections_by_hand_are_in_it_beside_the_facts_of_the_model(done: Lab) -> None:
    chunk = done.path(3)
    chunk.write_text(chunk.read_text().replace('"about, item 4"', "mine"))
    for is_read in (False, True):
        if is_read:
            again(done)
        merge("k", done.directory, with_="tokens")
        assert [(row["infer"], row["infer_tokens"]) for row in done.rows()][4] == ("mine", "8")
        checked = verify("k", output_dir=done.directory)
        assert (checked.ok, [each.rows for each in checked.corrected]) == (True, [1])


def test_a_partial_result_has_the_facts_of_the_rows_that_have_a_result(lab: Lab, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    with pytest.raises(KeyboardInterrupt):
        lab.run(table, service(), "{text}", at={1.5: lab.request_stop}, **OPTIONS | SLOW)
    merge("k", lab.directory, partial=True, with_="model,attempts")
    rows = lab.rows("partial")
    assert len(rows) == len(TEXTS)
    assert {(row["infer_status"], row["infer_model"], row["infer_attempts"]) for row in rows} == {
        ("ok", "m-1", "1"),
        ("", "", ""),
    }


def test_a_report_still_reads_its_rows_from_such_a_result(lab: Lab) -> None:
    report = lab.run(TEXTS, service(), **OPTIONS)
    frame = report.frame()
    batcher.merge("k", lab.directory, with_="tokens,model")
    assert report.frame().equals(frame)
    assert [*report.answers] == [f"about, {text}" for text in TEXTS]


def test_a_fact_whose_column_is_there_already_is_refused(lab: Lab) -> None:
    lab.run([{"text": text, "infer_model": text} for text in TEXTS], service(), "{text}", **OPTIONS)
    with pytest.raises(SettingsError, match="the table has a column 'infer_model' already: leave 'model' out"):
        merge("k", lab.directory, with_="tokens,model")
    columns = AnswerColumns.of("infer", (), None).with_facts(["tokens"])
    with pytest.raises(SettingsError, match="'raw' is a field of the schema"):
        AnswerColumns("infer", (), ("raw",)).with_facts(["raw"])
    assert [*columns][-1] == "infer_tokens"


@pytest.mark.parametrize("own", [(), ("tokens",), ("raw", "tokens")])
@pytest.mark.parametrize("more", [(), ("model",), ("cost", "form")])
def test_a_header_tells_the_facts_behind_from_those_of_the_run(own: tuple[str, ...], more: tuple[str, ...]) -> None:
    added = AnswerColumns("infer", own, ("label",))
    assert added.facts_behind(["text", *added, *(f"infer_{name}" for name in more)]) == more
    assert added.facts_behind(["text", *added, "infer_other"]) == ()
    assert added.facts_behind([*added, "infer_model"]) == ("model",)
    assert set(more) <= set(Beside._fields)
