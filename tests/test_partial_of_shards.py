"""`merge --partial` over shards writes what it would write of one run with the same rows done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Service, answer_to
from programs import write_table

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import InputError, Interrupted, OutputError
from batcher.journal.opening import read_journal
from batcher.output.directory import Store
from batcher.output.joining import merge
from batcher.records import Result, Status
from batcher.reviewing.deciding import Decisions

TEXTS = [f"item {number}" for number in range(23)]
CHUNK = 5
OF = 3  # the shards have the rows 0 to 4, 5 to 14 and 15 to 22
LATE = {8, 12, 13, 16}


def run(
    at: Lab, data: Any, late: Iterable[int] = LATE, when: Callable[[], object] = lambda: None, **options: Any
) -> None:
    """Run a table, or a shard of it, until all rows but the late ones have a result."""
    slow = {TEXTS[number] for number in late}
    asked = Service((), latency=lambda call: 1000 if call.prompt in slow else 1)
    asked.prompts = Anything()
    many = {"endpoints": [Endpoint("m", max_concurrency=100)], "grace": 0.0, "chunk_size": CHUNK}
    with contextlib.suppress(Interrupted):
        at.run(data, asked, at={40: when, 50: at.request_stop}, **many, **options)


def run_shards(lab: Lab, data: Any, numbers: Iterable[int] = (1, 2, 3), **options: Any) -> None:
    for number in numbers:
        run(lab, data, shard=f"{number}/{OF}", **options)


def of_shard(lab: Lab, number: int) -> Lab:
    return Lab(lab.directory / "shards_k" / f"{number}-of-{OF}")


def partial(lab: Lab, **options: Any) -> bytes:
    """Return the bytes of the partial result, with which no temporary file is left."""
    found = merge("k", lab.directory, partial=True, **options)
    assert found.parent == lab.directory
    assert not [*lab.directory.glob(".*.tmp")]
    return found.read_bytes()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(tmp_path / "t.csv", ["text"], [[text] for text in TEXTS])
    return tmp_path / "t.csv"


@pytest.fixture
def whole(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "whole")


def without(content: bytes, rows: range) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(line for number, line in enumerate(lines, -1) if number not in rows)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({}, None),
        ({}, "model,tokens,by"),
        ({"with_": "tokens"}, "model,tokens"),
        ({"encoding": "utf-8-sig", "answer_column": "label"}, None),
        ({"format": "parquet", "with_": "attempts"}, "tokens"),
        ({"limit": 17}, None),
        ({"sample": 15}, None),
    ],
    ids=str,
)
def test_it_is_that_of_one_run_with_the_same_rows_done(
    lab: Lab, whole: Lab, table: Path, options: dict[str, Any], facts: str | None
) -> None:
    run(whole, table, prompt="{text}", **options)
    run_shards(lab, table, prompt="{text}", **options)
    found = partial(lab, with_=facts)
    assert found == partial(whole, with_=facts)
    assert not (lab.directory / "journal_k.sqlite").exists()
    run_shards(lab, table, prompt="{text}", late=(), **options)
    assert partial(lab) == merge("k", lab.directory).read_bytes()


def test_rows_of_shards_that_have_not_begun_are_left_out_and_named(
    lab: Lab, whole: Lab, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(whole, table, prompt="{text}")
    run_shards(lab, table, (1, 3), prompt="{text}")
    assert partial(lab) == without(partial(whole), range(5, 15))
    assert "1 shard has not begun here (2-of-3): its rows are left out" in capsys.readouterr().err
    of_shard(lab, 2).directory.mkdir()
    shutil.rmtree(of_shard(lab, 1).directory)
    assert partial(lab) == without(partial(whole), range(15))
    assert "2 shards have not begun here (1-of-3, 2-of-3): their rows are left out" in capsys.readouterr().err
    shutil.rmtree(of_shard(lab, 3).directory)
    with pytest.raises(OutputError, match=r"no shard of 'k' in .*shards_k has begun"):
        partial(lab)


def test_shards_may_be_at_work(lab: Lab, whole: Lab, table: Path) -> None:
    seen: list[bytes] = []
    run_shards(lab, table, (1,), prompt="{text}")
    run(whole, table, prompt="{text}", when=lambda: seen.append(partial(whole)))
    run(lab, table, prompt="{text}", shard="2/3", when=lambda: seen.append(partial(lab)))
    assert seen[1] == without(seen[0], range(15, 23))
    assert seen[1].count(b"ok") == 12


def test_without_the_input_it_has_the_finished_chunks(
    lab: Lab, whole: Lab, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(whole, table, prompt="{text}")
    run_shards(lab, table, prompt="{text}")
    table.rename(table.with_name("moved.csv"))
    assert partial(lab) == partial(whole)
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == notes[1]
    assert "15 rows of unfinished chunks are left out" in notes[0]
    assert partial(lab, data=table.with_name("moved.csv")) == partial(whole, data=table.with_name("moved.csv"))
    changed = TEXTS.copy()
    changed[13] = "another"
    with pytest.raises(InputError, match="row 13"):
        partial(lab, data=changed)
    shutil.rmtree(of_shard(lab, 1).directory)
    shutil.rmtree(of_shard(lab, 3).directory)
    of_shard(lab, 2).path(5).unlink(missing_ok=True)
    with pytest.raises(OutputError, match=r"no chunk of 'k' is finished yet.*give the run's input"):
        partial(lab)


def test_an_input_in_memory_is_given_again(lab: Lab, whole: Lab) -> None:
    run(whole, TEXTS)
    run_shards(lab, TEXTS)
    assert partial(lab, data=TEXTS) == partial(whole, data=TEXTS)


def test_responses_to_the_lines_of_a_requests_file_are_those_of_one_run(lab: Lab, whole: Lab, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"custom_id": text, "body": {"messages": [{"role": "user", "content": text}]}} for text in TEXTS]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    run(whole, path, requests=True)
    run_shards(lab, path, requests=True)
    found = partial(lab)
    assert found == partial(whole)
    read = [json.loads(line) for line in found.splitlines()]
    assert [each["id"] for each in read] == [f"k-{number}" for number in range(23)]
    assert {number for number, each in enumerate(read) if each["response"] is None} == LATE
    assert lab.path("partial").read_bytes() == whole.path("partial").read_bytes()


def correct(lab: Lab, position: int) -> None:
    """Correct an answer as on the page."""
    with read_journal(lab.directory / "journal_k.sqlite") as journal:
        [state] = journal.states(position, position + 1)
    decisions = Decisions(Store(lab.directory, "k"), "Ada")
    asyncio.run(decisions.correct(position, state.result, Result(Status.OK, "by hand", ""), ""))


def test_who_gave_an_answer_is_said_of_all_shards_if_people_have_decided_in_one(
    lab: Lab, whole: Lab, table: Path
) -> None:
    run(whole, table, prompt="{text}")
    run_shards(lab, table, prompt="{text}")
    correct(whole, 18)
    correct(of_shard(lab, 3), 3)
    for chunk in (whole.path(0), of_shard(lab, 1).path(0)):
        chunk.write_bytes(chunk.read_bytes().replace(answer_to("item 2").encode(), b"in the file"))
    found = partial(lab)
    assert found == partial(whole)
    rows = lab.rows("partial")
    assert {number: row["infer"] for number, row in enumerate(rows) if row["infer_by"] == "hand"} == {
        2: "in the file",
        18: "by hand",
    }


def test_shards_that_differ_are_refused_and_an_earlier_file_stays(lab: Lab, table: Path) -> None:
    run_shards(lab, table, prompt="{text}")
    before = partial(lab)
    of_shard(lab, 2).change("UPDATE runs SET question = json_set(question, '$.system', 'Be brief.')")
    with pytest.raises(OutputError, match="2-of-3 has another system"):
        partial(lab)
    of_shard(lab, 2).change("UPDATE runs SET question = json_remove(question, '$.system')")
    of_shard(lab, 2).change("UPDATE runs SET question = json_set(question, '$.shard.start', 0)")
    with pytest.raises(OutputError, match=r"shard 2 of 3: rows 1 to 10 of 23: these are not the rows"):
        partial(lab)
    with (of_shard(lab, 1).directory / "journal_k.sqlite").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(OutputError, match="1-of-3"):
        partial(lab)
    assert lab.path("partial").read_bytes() == before


def test_the_command_line_prints_its_path(lab: Lab, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shards(lab, table, (2,), prompt="{text}")
    assert main(["merge", "k", "--partial", "--output-dir", str(lab.directory)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{lab.path('partial')}\n"
    assert "2 shards have not begun here (1-of-3, 3-of-3)" in said.err
