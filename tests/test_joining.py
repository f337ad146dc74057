"""`merge` joins what is there, and refuses what would lose a row or bring back an old answer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, refusal

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import InputError, OutputError, SettingsError
from batcher.output.joining import merge

TEXTS = [f"item {number}" for number in range(12)]


def change(lab: Lab, statement: str) -> None:
    """Change the journal."""
    with contextlib.closing(sqlite3.connect(lab.directory / "journal_k.sqlite")) as journal:
        journal.execute(statement)
        journal.commit()


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def finish(lab: Lab, texts: list[str] = TEXTS, service: Service | None = None, **options: Any) -> Lab:
    chosen: dict[str, Any] = {"chunk_size": 5, "endpoints": [Endpoint("m", max_concurrency=2)]} | options
    lab.run(texts, service or Service(texts), **chosen)
    return lab


@pytest.fixture
def done(lab: Lab) -> Lab:
    return finish(lab)


@pytest.fixture
def unfinished(lab: Lab) -> Lab:
    """Seven rows have a result: the chunk of the first five is written."""
    with pytest.raises(KeyboardInterrupt):
        finish(lab, at={3.5: lab.request_stop})
    assert set(lab.files()) == {"0_k.csv"}
    return lab


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (TEXTS, {}),
        (TEXTS, {"encoding": "utf-8-sig", "answer_column": "label"}),
        (TEXTS, {"limit": 7}),
        (["NA", "", "a,b", "two\nlines", "a\rb", "nul\0nul", "\ud800 half"], {}),
    ],
)
def test_it_makes_the_result_that_the_run_made(lab: Lab, texts: list[str], options: dict[str, Any]) -> None:
    finish(lab, texts, **options)
    before = lab.files()
    lab.path().unlink()
    assert merge("k", lab.directory) == lab.path()
    assert lab.files() == before


def test_a_label_that_was_corrected_by_hand_is_in_the_result_and_stays_there(done: Lab) -> None:
    chunk = done.path(5)
    chunk.write_bytes(chunk.read_bytes().replace(b"answer to item 7", b"corrected"))
    corrected = chunk.read_bytes()
    for join in (lambda: merge("k", done.directory), lambda: finish(done, service=Service([]))):
        join()
        assert [row["infer"] for row in done.rows()] == [f"answer to {text}" for text in TEXTS[:7]] + ["corrected"] + [
            f"answer to {text}" for text in TEXTS[8:]
        ]
        assert chunk.read_bytes() == corrected


def test_a_chunk_file_that_a_spreadsheet_saved_is_joined_by_its_cells(done: Lab) -> None:
    before = done.files()
    chunk = done.path(5)
    chunk.write_bytes(b"\xef\xbb\xbf" + chunk.read_bytes().replace(b"\n", b"\r\n"))
    merge("k", done.directory)
    assert done.path().read_bytes() == before["all_k.csv"]


def test_an_unfinished_run_is_refused_and_its_finished_chunks_are_a_partial_result(
    unfinished: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["merge", "k", "--output-dir", str(unfinished.directory)]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "5 of 12 rows of 'k' have no result yet" in said.err
    assert main([*arguments, "--partial"]) == 0
    assert capsys.readouterr().out == f"{unfinished.path('partial')}\n"
    assert unfinished.rows("partial") == unfinished.rows(0)
    assert set(unfinished.files()) == {"0_k.csv", "partial_k.csv"}
    finish(unfinished)
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{unfinished.path()}\n"


def test_a_partial_result_of_nothing_is_refused(unfinished: Lab) -> None:
    unfinished.path(0).unlink()
    with pytest.raises(OutputError, match="no chunk of 'k' is finished yet"):
        merge("k", unfinished.directory, partial=True)


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_partial_result_reads_the_input_as_the_run_read_it(lab: Lab, tmp_path: Path, *, is_moved: bool) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id|text\n" + "".join(f"{number}|é {number}\n" for number in range(12)), encoding="cp1252")
    texts = [f"é {number}" for number in range(12)]
    options: dict[str, Any] = {"input_encoding": "cp1252", "separator": "|", "sample": 8, "chunk_size": 5}
    with pytest.raises(KeyboardInterrupt):
        lab.run(
            table, Service(texts), "{text}", at={1.5: lab.request_stop}, endpoints=[Endpoint("m", rps=1)], **options
        )
    where = table.rename(tmp_path / "moved.csv") if is_moved else None
    merge("k", lab.directory, partial=True, data=where)
    found = lab.rows("partial")
    assert len(found) == 8
    assert {row["text"] for row in found} <= {*texts}
    answered = [row for row in found if row["infer_status"]]
    assert 0 < len(answered) < 8
    assert all(row["infer"] == f"answer to {row['text']}" for row in answered)


def test_of_a_file_every_row_is_in_a_partial_result_with_what_it_has_so_far(lab: Lab, tmp_path: Path) -> None:
    rows = ["id,text", *(f"{number},item {number}" for number in range(12))]
    table = write(tmp_path / "t.csv", rows)
    seen: list[list[dict[str, str]]] = []

    def look() -> None:
        merge("k", lab.directory, partial=True)
        seen.append(lab.rows("partial"))

    failing = Service(TEXTS, instead=lambda call: refusal(400) if call.prompt == TEXTS[1] else None)
    options: dict[str, Any] = {"chunk_size": 5, "endpoints": [Endpoint("m", max_concurrency=2)]}
    with pytest.raises(KeyboardInterrupt):
        lab.run(table, failing, "{text}", at={4.5: look, 4.6: lab.request_stop}, **options)
    merge("k", lab.directory, partial=True)
    for found in (*seen, lab.rows("partial")):
        assert [row["text"] for row in found] == TEXTS
        assert [row["infer"] for row in found if row["infer_status"] == "ok"] == [
            f"answer to {row['text']}" for row in found if row["infer_status"] == "ok"
        ]
        assert {row["infer_status"] for row in found} >= {"ok", ""}
    done = lab.query("SELECT position, status FROM rows JOIN results ON results.id = result")
    assert {(at, row["infer_status"]) for at, row in enumerate(lab.rows("partial")) if row["infer_status"]} == {*done}
    # The file has moved, is another one, or has another column.
    table.rename(tmp_path / "moved.csv")
    with pytest.raises(OutputError, match=r"no chunk of 'k' is finished yet: .*give the run's input"):
        merge("k", lab.directory, partial=True)
    merge("k", lab.directory, partial=True, data=tmp_path / "moved.csv")
    assert len(lab.rows("partial")) == 12
    for lines, said in (
        ([*rows[:8], "7,item seven", *rows[9:]], "row 7 .*column 'text'"),
        (rows[:9], "has 8 rows, and the run asked about 12"),
        (rows[:11], "has 10 rows, and the run asked about 12"),
        ([f"{row},x" for row in rows], "other columns"),
    ):
        with pytest.raises(InputError, match=said):
            merge("k", lab.directory, partial=True, data=write(tmp_path / "wrong.csv", lines))
    assert {path.name for path in lab.directory.iterdir() if "tmp" in path.name} == set()


def test_a_finished_run_has_a_partial_result_that_is_its_result(lab: Lab, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", ["text", *TEXTS])
    for encoding in ("utf-8", "utf-8-sig"):
        lab.run(table, Service(TEXTS), "{text}", chunk_size=5, encoding=encoding)
        merge("k", lab.directory, partial=True)
        assert lab.path("partial").read_bytes() == lab.path().read_bytes()
    lab.path(5).write_bytes(lab.path(5).read_bytes().replace(b"answer to item 7", b"corrected"))
    merge("k", lab.directory, partial=True)
    assert [row["infer"] for row in lab.rows("partial", "utf-8-sig")][7] == "corrected"
    lab.path(5).write_bytes(lab.path(5).read_bytes().replace(b"item 8", b"item 9"))
    with pytest.raises(OutputError, match=r"5_k\.csv, line 5, column 'text'"):
        merge("k", lab.directory, partial=True)


def test_files_of_another_table_are_not_in_a_partial_result(lab: Lab, tmp_path: Path) -> None:
    lab.run(
        write(tmp_path / "t.csv", ["text,note", *(f"{text},a" for text in TEXTS)]),
        Service(TEXTS),
        "{text}",
        chunk_size=5,
    )
    table = write(tmp_path / "t.csv", ["text,note", *(f"{text},b" for text in [*TEXTS, "new"])])
    with pytest.raises(KeyboardInterrupt):  # before it has written the chunk files anew
        lab.run(table, Service(["new"]), "{text}", chunk_size=5, at={0.5: lab.request_stop, 0.6: lab.request_stop})
    merge("k", lab.directory, partial=True)
    assert [row["note"] for row in lab.rows("partial")] == ["b"] * 13


def test_an_input_for_a_whole_result_is_refused(done: Lab) -> None:
    with pytest.raises(SettingsError, match="only needed with partial"):
        merge("k", done.directory, data=TEXTS)


def test_chunks_of_rows_that_are_asked_again_are_not_finished(done: Lab) -> None:
    texts = [*TEXTS[:3], "changed", *TEXTS[4:]]
    with pytest.raises(KeyboardInterrupt):
        done.run(texts, Service(texts, lambda _call: 100), on_change="redo", chunk_size=5, at={1: done.request_stop})
    merge("k", done.directory, partial=True)
    assert [row["text"] for row in done.rows("partial")] == TEXTS[5:]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in a line": lambda content: content[:-9],
    "cut between lines": lambda content: b"\n".join(content.split(b"\n")[:-2]),
    "other columns": lambda content: content.replace(b"text,infer", b"text,other"),
    "no text": lambda content: content.replace(b"item", b"it\xff"),
}


@pytest.mark.parametrize("how", ["missing", *BROKEN])
def test_a_chunk_file_that_is_missing_or_broken_is_named_and_run_makes_it_anew(done: Lab, how: str) -> None:
    before = done.files()
    done.path(5).unlink()
    if how != "missing":
        done.path(5).write_bytes(BROKEN[how](before["5_k.csv"]))
    with pytest.raises(OutputError, match=r"5_k\.csv (is missing|cannot be read).*`batcher\.run` writes it again"):
        merge("k", done.directory)
    assert done.path().read_bytes() == before["all_k.csv"]
    if how not in {"missing", "empty"}:
        files = done.files()
        with pytest.raises(OutputError, match=r"5_k\.csv cannot be read.*`batcher\.run` writes it again"):
            finish(done, service=Service([]))
        assert done.files() == files, "it may hold corrections"
        done.path(5).unlink()
    finish(done, service=Service([]))
    merge("k", done.directory)
    assert {name: content for name, content in done.files().items() if ".bak" not in name} == before


def test_a_chunk_file_that_is_older_than_its_answers_is_refused(lab: Lab) -> None:
    finish(lab, service=Service(TEXTS, instead=lambda call: refusal(400) if call.prompt == TEXTS[2] else None))
    old = lab.path(0).read_bytes()
    [(origin, sha256)] = lab.query("SELECT hex(origin), hex(sha256) FROM chunks WHERE start = 0")
    finish(lab, retry_failed=True)
    # As if that run was killed after its last answer, before it wrote the file.
    lab.path(0).write_bytes(old)
    change(lab, f"UPDATE chunks SET origin = x'{origin}', sha256 = x'{sha256}' WHERE start = 0")  # noqa: S608 - our own
    with pytest.raises(OutputError, match=r"0_k\.csv is older than the answers in the journal"):
        merge("k", lab.directory)
    finish(lab, service=Service([]))
    merge("k", lab.directory)
    assert all(row["infer_status"] == "ok" for row in lab.rows())


def test_chunks_of_another_size_are_refused_until_they_are_made_anew(done: Lab) -> None:
    change(done, "UPDATE runs SET chunk_size = 4")  # as if a run with --chunk-size 4 was killed at its start
    with pytest.raises(OutputError, match="no chunk file holds exactly rows 0 to 3"):
        merge("k", done.directory)


def test_while_a_run_is_at_work_it_says_who_writes(lab: Lab) -> None:
    said: list[str] = []

    def try_to() -> None:
        with pytest.raises(OutputError) as refused:
            merge("k", lab.directory)
        said.append(str(refused.value))

    finish(lab, at={2.5: try_to})
    assert "another run in this process has it: await it or cancel it" in said[0]


def test_a_table_without_rows_has_a_result_without_rows(lab: Lab) -> None:
    lab.run([], Service([]))
    assert merge("k", lab.directory).read_bytes() == b"text,infer,infer_status,infer_error\n"


@pytest.mark.parametrize(
    ("keyword", "error", "message"),
    [("other", OutputError, "there is no run 'other' in"), ("a/b", SettingsError, "cannot be part of a file name")],
)
def test_where_there_is_no_run_there_is_nothing_to_merge(
    done: Lab, keyword: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        merge(keyword, done.directory)
    assert not (done.directory / "journal_other.sqlite").exists()


def test_cells_that_are_not_the_inputs_are_not_joined(done: Lab) -> None:
    path = done.path(5)
    path.write_text(path.read_text().replace("item 7,", "item 8,"))
    before = done.files()
    with pytest.raises(OutputError, match=r"5_k\.csv, line 4, column 'text': the cell differs from the input's"):
        merge("k", done.directory)
    assert done.files() == before
