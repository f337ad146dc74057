"""A result that somebody changed is kept as a copy, whoever writes it next; one that nobody changed is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import KeywordBusy
from batcher.journal.opening import open_journal, read_journal, record_joined
from batcher.output.csv_file import sha256_of
from batcher.output.directory import Store
from batcher.output.joining import merge
from batcher.rehearsal.directory import made

TEXTS = [f"item {number}" for number in range(12)]
MORE = [*TEXTS, "one more"]
OPTIONS: dict[str, Any] = {"chunk_size": 5, "endpoints": [Endpoint("m")]}


@pytest.fixture
def done(lab: Lab) -> Lab:
    lab.run(TEXTS, Service(TEXTS), **OPTIONS)
    return lab


def edit(path: Path) -> bytes:
    path.write_bytes(path.read_bytes().replace(b"answer to item 7", b"by hand"))
    return path.read_bytes()


def run(lab: Lab) -> None:
    lab.run(TEXTS, Service([]), **OPTIONS | {"quiet": False, "no_progress": True})


def resume(lab: Lab) -> None:
    lab.run(MORE, Service(["one more"]), **OPTIONS | {"quiet": False, "no_progress": True})


def merge_on_the_command_line(lab: Lab) -> None:
    assert main(["merge", "k", "--output-dir", str(lab.directory)]) == 0


WRITERS: dict[str, Callable[[Lab], None]] = {"run": run, "resume": resume, "merge": merge_on_the_command_line}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_result_that_was_changed_is_kept_and_said_by_whoever_writes_it_next(
    done: Lab, capsys: pytest.CaptureFixture[str], writer: str
) -> None:
    edited = edit(done.path())
    WRITERS[writer](done)
    assert f"{done.path()} was changed since it was written: your version is kept as" in capsys.readouterr().err
    assert done.files()["all_k.csv.bak"] == edited
    assert b"by hand" not in done.path().read_bytes()
    again = edit(done.path())
    WRITERS[writer](done)
    assert (done.files()["all_k.csv.bak"], done.files()["all_k.csv.bak1"]) == (edited, again)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_result_that_nobody_changed_is_replaced(done: Lab, capsys: pytest.CaptureFixture[str], writer: str) -> None:
    for write in (edit(done.path(5)), None):
        WRITERS[writer](done)
        assert "was changed" not in capsys.readouterr().err, write
    assert "all_k.csv.bak" not in done.files()
    assert b"by hand" in done.path().read_bytes()
    assert len(done.query("SELECT 1 FROM events WHERE kind = 'joined'")) == 2


@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_process_that_ended_between_record_and_result_leaves_no_copy(done: Lab, *, is_in_place: bool) -> None:
    """The record comes first: so the file is known whether or not it is in its place."""
    before = done.path().read_bytes()
    edit(done.path(5))
    journal = done.directory / "journal_k.sqlite"
    with read_journal(journal, alone=True) as reader:
        store = Store(done.directory, "k", ["text"])
        path, copy = store.join([0, 5, 10], known=reader.joined("all_k.csv"), record=lambda _: None)
        assert copy is None
        record_joined(journal, 1, path.name, sha256_of(path))
    if not is_in_place:
        done.path().write_bytes(before)
    run(done)
    assert [name for name in done.files() if "bak" in name] == []


@pytest.mark.parametrize("is_edited", [False, True])
def test_the_result_of_an_older_batcher_is_kept_only_if_it_is_not_what_its_chunks_make(
    done: Lab, *, is_edited: bool
) -> None:
    done.change("DELETE FROM events")
    if is_edited:
        edit(done.path())
    run(done)
    assert ("all_k.csv.bak" in done.files()) == is_edited


def test_merge_and_a_run_exclude_each_other(done: Lab) -> None:
    with open_journal(done.directory / "journal_k.sqlite"), pytest.raises(KeywordBusy):
        merge("k", done.directory)


@pytest.mark.parametrize("is_edited", [False, True])
def test_a_rehearsal_that_was_kept_and_changed_is_set_aside_by_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_edited: bool
) -> None:
    with made(tmp_path, "k") as directory:
        directory.keep()
        kept = Lab(directory.path)
        kept.run(TEXTS, Service(TEXTS), **OPTIONS)
    if is_edited:
        edit(kept.path())
    with made(tmp_path, "k"):
        assert not kept.path().exists()
    assert (tmp_path / "rehearsal_k.bak" / "all_k.csv").exists() == is_edited
    assert ("was changed since it was written" in capsys.readouterr().err) == is_edited
