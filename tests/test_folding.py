"""`merge` folds the journals of shards into one run, which is the run of one process in all that counts."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Service
from openpyxl import Workbook

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import OutputError
from batcher.journal.opening import open_to_decide
from batcher.output.directory import Store
from batcher.output.joining import merge
from batcher.records import Result, Status
from batcher.reports.runs import runs_in
from batcher.reports.status import status
from batcher.reports.verification.verify import verify
from batcher.reviewing.deciding import Decisions

TEXTS = [f"item {number}" for number in range(23)]
CHUNK = 5


def run(directory: Path, texts: list[str], service: Service | None = None, **options: Any) -> Lab:
    lab = Lab(directory)
    chosen: dict[str, Any] = {"chunk_size": CHUNK, "endpoints": [Endpoint("m", max_concurrency=2)]} | options
    if service is None:
        service = Service(texts)
        service.prompts = Anything()
    lab.run(texts, service, **chosen)
    return lab


def mark(lab: Lab, number: int, of: int, start: int, rows: int) -> None:
    """Say in the journal that the run is a shard, as `--shard` does."""
    [(own,)] = lab.query("SELECT rows FROM scope")
    shard = json.dumps({"number": number, "of": of, "start": start, "rows": own, "rows_of_table": rows})
    with contextlib.closing(sqlite3.connect(lab.directory / "journal_k.sqlite")) as journal, journal:
        journal.execute("UPDATE runs SET question = json_set(question, '$.shard', json(?))", (shard,))


def sharded(output: Path, texts: list[str], of: int = 2, **options: Any) -> list[Lab]:
    """Run each shard of a table."""
    chunks, labs = -(-len(texts) // CHUNK), []
    for number in range(1, of + 1):
        start, stop = ((each * chunks // of) * CHUNK for each in (number - 1, number))
        lab = run(output / "shards_k" / f"{number}-of-{of}", texts[start:stop], **options)
        mark(lab, number, of, start, len(texts))
        labs.append(lab)
    return labs


@pytest.fixture
def two(tmp_path: Path) -> list[Lab]:
    return sharded(tmp_path / "output", TEXTS)


def facts(lab: Lab) -> list[list[tuple[Any, ...]]]:
    """Return what a journal says that does not depend on ids and moments."""
    return [
        lab.query(question)
        for question in (
            """SELECT position, rows.key, rows.cells, r.key, status, answer, error, seal, model FROM rows
            JOIN results r ON r.id = rows.result JOIN sources ON sources.id = r.source ORDER BY position""",
            """SELECT position, key, outcome, prompt_tokens, completion_tokens, cost FROM requests
            ORDER BY position, outcome""",
            "SELECT outcome, count(*), sum(cost) FROM requests GROUP BY outcome",
            "SELECT start, rows, origin <> '', sha256 FROM chunks ORDER BY start",
            "SELECT rows FROM scope",
            "SELECT count(*) FROM responses JOIN results USING (id)",
        )
    ]


def test_the_files_are_those_of_one_run_byte_for_byte_and_verify_finds_nothing(tmp_path: Path, two: list[Lab]) -> None:
    whole, folded = run(tmp_path / "whole", TEXTS), Lab(tmp_path / "output")
    merge("k", folded.directory)
    assert folded.files() == whole.files()
    assert facts(folded) == facts(whole)
    for data in (None, TEXTS):
        found = verify("k", data, output_dir=folded.directory)
        assert found.ok, found


def test_the_same_run_without_shards_asks_nothing_and_leaves_the_files(tmp_path: Path, two: list[Lab]) -> None:
    folded = Lab(tmp_path / "output")
    merge("k", folded.directory)
    before, modified = folded.files(), folded.path(15).stat().st_mtime_ns
    service = Service([])
    run(folded.directory, TEXTS, service)
    assert folded.files() == before
    assert folded.path(15).stat().st_mtime_ns == modified


def test_merging_again_changes_nothing(tmp_path: Path, two: list[Lab]) -> None:
    folded = Lab(tmp_path / "output")
    merge("k", folded.directory)
    before, journal = folded.files(), folded.journal()
    merge("k", folded.directory)
    assert (folded.files(), folded.journal()) == (before, journal)


def test_a_correction_in_a_chunk_file_of_a_shard_gets_into_the_result(tmp_path: Path, two: list[Lab]) -> None:
    chunk = two[1].path(5)
    chunk.write_bytes(chunk.read_bytes().replace(b"answer to item 16", b"corrected"))
    merge("k", tmp_path / "output")
    assert Lab(tmp_path / "output").rows()[16]["infer"] == "corrected"


def drop_journal(two: list[Lab]) -> None:
    (two[0].directory / "journal_k.sqlite").unlink()


def drop_shard(two: list[Lab]) -> None:
    shutil.rmtree(two[1].directory)


def drop_answer(two: list[Lab]) -> None:
    two[1].change("UPDATE rows SET result = NULL WHERE position = 3")


def ask_otherwise(two: list[Lab]) -> None:
    two[1].change("UPDATE runs SET question = json_set(question, '$.system', 'Be brief.')")


def chunk_otherwise(two: list[Lab]) -> None:
    two[1].change("UPDATE runs SET chunk_size = 7")


def grow_the_table(two: list[Lab]) -> None:
    two[1].change("UPDATE runs SET question = json_set(question, '$.shard.rows_of_table', 24)")


def leave_another_split(two: list[Lab]) -> None:
    two[1].directory.with_name("3-of-3").mkdir()


def damage(two: list[Lab]) -> None:
    with (two[1].directory / "journal_k.sqlite").open("r+b") as file:
        file.truncate(5000)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (drop_journal, "1-of-2 has no journal"),
        (drop_shard, "lacks 1 shard (2-of-2)"),
        (drop_answer, '2-of-2: 1 row has no result yet: run it again with shard="2/2"'),
        (ask_otherwise, "2-of-2 has another system"),
        (chunk_otherwise, "2-of-2 has another chunk_size"),
        (grow_the_table, "2-of-2 has another number of rows"),
        (leave_another_split, "has shards of 2 and 3"),
        (damage, "2-of-2"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_nothing_is_written(
    tmp_path: Path, two: list[Lab], harm: Callable[[list[Lab]], None], said: str
) -> None:
    harm(two)
    with pytest.raises(OutputError) as error:
        merge("k", tmp_path / "output")
    assert said in str(error.value)
    assert not (tmp_path / "output" / "journal_k.sqlite").exists()
    assert not Lab(tmp_path / "output").files()


def go_on(lab: Lab) -> None:
    with open_to_decide(lab.directory / "journal_k.sqlite") as pen:
        last = pen.last_run()
    assert last
    lab.change("INSERT INTO runs SELECT id + 1, host, pid, started, ended, outcome, chunk_size, question FROM runs")


def test_shards_that_went_on_are_merged_anew(tmp_path: Path, two: list[Lab]) -> None:
    folded = Lab(tmp_path / "output")
    merge("k", folded.directory)
    go_on(two[1])
    merge("k", folded.directory)
    assert folded.query("SELECT count(*) FROM runs") == [(3,)]
    assert verify("k", TEXTS, output_dir=folded.directory).ok


def test_what_people_decided_in_the_merged_run_is_not_overwritten(tmp_path: Path, two: list[Lab]) -> None:
    folded = Lab(tmp_path / "output")
    merge("k", folded.directory)
    chunk = folded.path(5)
    chunk.write_bytes(chunk.read_bytes().replace(b"answer to item 7", b"corrected"))
    go_on(two[1])
    before, journal = folded.files(), folded.journal()
    with pytest.raises(OutputError, match="people decided"):
        merge("k", folded.directory)
    assert (folded.files(), folded.journal()) == (before, journal)


@pytest.mark.parametrize("late", [0, 1])
def test_the_latest_run_of_a_merged_one_is_that_which_ended_last(tmp_path: Path, two: list[Lab], late: int) -> None:
    two[late].change("UPDATE runs SET ended = ended + 60, host = 'late'")
    merge("k", tmp_path / "output")
    folded, whole = Lab(tmp_path / "output"), run(tmp_path / "whole", TEXTS)
    assert status("k", folded.directory).process.startswith("host late,")
    assert folded.query("SELECT host FROM runs ORDER BY id")[-1] == ("late",)
    assert folded.files() == whole.files()
    assert facts(folded) == facts(whole)
    assert verify("k", TEXTS, output_dir=folded.directory).ok


def change(path: Path, old: str, new: str) -> None:
    assert old.encode() in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


def correct_in_file(shard: Lab) -> None:
    change(shard.path(5), "answer to item 16", "corrected")


def correct_with_semicolons(shard: Lab) -> None:
    correct_in_file(shard)
    change(shard.path(5), ",", ";")


def correct_in_workbook(shard: Lab) -> None:
    book = Workbook()
    with shard.path(5).open(newline="") as file:
        for line in csv.reader(file):
            book.active.append([cell.replace("answer to item 16", "corrected") for cell in line])
    book.save(shard.directory / "5_k.xlsx")


def correct_on_page_and_in_file(shard: Lab) -> None:
    decisions = Decisions(Store(shard.directory, "k"), "Ada")
    [(result,)] = shard.query("SELECT result FROM rows WHERE position = 6")
    asyncio.run(decisions.correct(6, result, Result(Status.OK, "corrected", ""), ""))


@pytest.mark.parametrize(
    "correct", [correct_in_file, correct_with_semicolons, correct_in_workbook, correct_on_page_and_in_file]
)
def test_corrections_in_shards_are_merged_again_with_later_ones(
    tmp_path: Path, two: list[Lab], correct: Callable[[Lab], None]
) -> None:
    folded = Lab(tmp_path / "output")
    correct(two[1])
    change(two[0].path(0), "answer to item 3", "by hand")
    merge("k", folded.directory)
    first = {3: "by hand", 16: "corrected"}
    assert {at: row["infer"] for at, row in enumerate(folded.rows()) if row["infer"] != f"answer to item {at}"} == first
    assert verify("k", TEXTS, output_dir=folded.directory).ok
    go_on(two[1])
    change(two[1].path(0), "answer to item 11", "another")
    merge("k", folded.directory)
    second = first | {11: "another"}
    found = {at: row["infer"] for at, row in enumerate(folded.rows()) if row["infer"] != f"answer to item {at}"}
    assert found == second
    assert verify("k", TEXTS, output_dir=folded.directory).ok
    run(folded.directory, TEXTS, Service([]))
    answers = [second.get(at, f"answer to {text}") for at, text in enumerate(TEXTS)]
    assert [row["infer"] for row in folded.rows()] == answers
    assert not [*folded.directory.glob("*.bak*")]


@pytest.mark.parametrize("now", ["answer to item 16", "something else"])
def test_a_correction_in_a_shard_that_was_changed_in_the_merged_run_is_not_overwritten(
    tmp_path: Path, two: list[Lab], now: str
) -> None:
    folded = Lab(tmp_path / "output")
    correct_in_file(two[1])
    merge("k", folded.directory)
    change(folded.path(15), "corrected", now)
    go_on(two[1])
    with pytest.raises(OutputError, match="people decided"):
        merge("k", folded.directory)
    assert folded.rows(15)[1]["infer"] == now


@pytest.mark.parametrize("moment", ["fold", "_copy_files", "_remove_log"])
def test_a_merge_that_is_killed_leaves_no_run_and_is_done_again(tmp_path: Path, two: list[Lab], moment: str) -> None:
    folded, whole = Lab(tmp_path / "output"), run(tmp_path / "whole", TEXTS)
    program = f"""
import os, signal
from batcher.output import shards
from batcher.output.directory import Store
from batcher.output.joining import merge
from batcher.records import Result, Status
done = shards.{moment}
def then_die(*given):
    done(*given)
    os.kill(os.getpid(), signal.SIGKILL)
shards.{moment} = then_die
merge("k", {str(folded.directory)!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (folded.directory / "journal_k.sqlite").exists()
    merge("k", folded.directory)
    assert folded.files() == whole.files()
    assert not [*folded.directory.glob(".*.tmp")]
    assert verify("k", TEXTS, output_dir=folded.directory).ok


@pytest.mark.parametrize("verb", ["sample", "estimate", "report", "limit", "review"])
def test_other_verbs_say_to_merge_first(
    tmp_path: Path, two: list[Lab], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--rpm", "5"] if verb == "limit" else []
    assert main([verb, "k", "--output-dir", str(tmp_path / "output"), *more]) != 0
    assert "not merged yet: `batcher merge k`; or give the directory of one: --output-dir" in capsys.readouterr().err


def test_verify_checks_each_shard_before_they_are_merged(tmp_path: Path, two: list[Lab]) -> None:
    found = verify("k", output_dir=tmp_path / "output")
    assert found.ok, found
    assert (found.counts.rows, found.counts.ok, found.chunks) == (23, 23, 5)
    two[1].change("UPDATE results SET answer = 'changed' WHERE id = 2")
    changed = verify("k", output_dir=tmp_path / "output")
    assert not changed.ok
    assert any(each.what.startswith("shard 2-of-2: ") and each.kind == "changed" for each in changed.findings)


def test_verify_finds_that_a_shard_is_missing(tmp_path: Path, two: list[Lab]) -> None:
    drop_shard(two)
    found = verify("k", output_dir=tmp_path / "output")
    assert [each.kind for each in found.findings] == ["shards"]
    assert "2-of-2" in str(found)


@pytest.mark.parametrize(
    ("harm", "said"), [(drop_journal, "has no journal"), (damage, "journal_k.sqlite cannot be read")]
)
def test_verify_finds_a_shard_that_cannot_be_read_once_and_checks_the_others(
    tmp_path: Path, two: list[Lab], harm: Callable[[list[Lab]], None], said: str
) -> None:
    harm(two)
    [read, unread] = reversed(two) if harm is drop_journal else two
    read.change("UPDATE results SET answer = 'changed' WHERE id = 2")
    found = verify("k", output_dir=tmp_path / "output")
    [first, second] = found.findings
    assert first.kind == "shards"
    [place] = first.places
    assert said in place
    assert unread.directory.name in place
    assert second.what.startswith(f"shard {read.directory.name}: ")
    assert found.counts.rows == {"1-of-2": 10, "2-of-2": 13}[read.directory.name]


def test_the_list_of_runs_has_the_sum_and_each_shard_until_they_are_merged(tmp_path: Path, two: list[Lab]) -> None:
    def listed() -> list[tuple[str, str, str, int | None, int | None]]:
        found = runs_in(tmp_path / "output")
        return [(each.keyword, each.shard, each.state, each.rows, each.ok) for each in found]

    run(tmp_path / "output", TEXTS[:1], keyword="another")
    drop_answer(two)
    shards = [("k", "1-of-2", "done", 10, 10), ("k", "2-of-2", "stopped", 13, 12)]
    assert listed()[:3] == [("k", "", "shards", 23, 22), *shards]
    lines = [line.split() for line in str(runs_in(tmp_path / "output")).splitlines()]
    assert lines[2][:5] == ["k", "1-of-2", "done", "10", "10"]
    damage(two)
    [summed, _, unread, _] = runs_in(tmp_path / "output")
    assert (summed.state, summed.rows, unread.shard, unread.state) == ("shards", None, "2-of-2", "unreadable")


def test_the_list_of_runs_has_one_line_of_shards_that_are_merged(tmp_path: Path, two: list[Lab]) -> None:
    merge("k", tmp_path / "output")
    [only] = runs_in(tmp_path / "output")
    assert (only.keyword, only.shard, only.rows) == ("k", "", 23)


@pytest.mark.parametrize(
    "options",
    [
        {"dedup": False, "max_attempts": 1},
        {"encoding": "utf-8-sig", "answer_column": "label"},
        {"format": "parquet"},
    ],
    ids=["repeated", "encoding", "parquet"],
)
def test_runs_of_other_kinds_are_folded_to_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    texts = [f"item {number % 9}" for number in range(23)]
    whole = run(tmp_path / "whole", texts, **options)
    sharded(tmp_path / "output", texts, 3, **options)
    merge("k", tmp_path / "output")

    def files(directory: Path) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in directory.iterdir() if each.suffix in {".csv", ".parquet"}}

    assert files(tmp_path / "output") == files(whole.directory)
    assert verify("k", texts, output_dir=tmp_path / "output").ok


def test_status_has_the_sum_and_each_shard(tmp_path: Path, two: list[Lab], capsys: pytest.CaptureFixture[str]) -> None:
    drop_answer(two)
    output = str(tmp_path / "output")
    assert main(["status", "k", "--output-dir", output, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["ok"], found["left"], found["of"]) == (23, 22, 1, 2)
    assert [(each["shard"], each["rows"], each["left"]) for each in found["shards"]] == [
        ("1-of-2", 10, 0),
        ("2-of-2", 13, 1),
    ]
    assert main(["status", "k", "--output-dir", output]) == 0
    said = capsys.readouterr().out
    assert "22 of 23" in said
    assert "2-of-2" in said


def test_status_has_the_others_if_a_shard_cannot_be_read(
    tmp_path: Path, two: list[Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(two)
    output = str(tmp_path / "output")
    assert main(["status", "k", "--output-dir", output, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["ok"], found["not_begun"]) == (10, 10, 0)
    [unread] = found["unreadable"]
    assert unread["shard"] == "2-of-2"
    assert "2-of-2/journal_k.sqlite" in unread["reason"]
    assert main(["status", "k", "--output-dir", output]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 shards" in said
    assert "1-of-2 done: 10 of 10 rows" in said
    assert "2-of-2 unreadable, its rows are not counted: " in said
    two[0].change("DELETE FROM runs")
    assert main(["status", "k", "--output-dir", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_begun"] == 1
