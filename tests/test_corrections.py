"""An answer that somebody gave in a chunk file stays with its row, whatever ordinary commands do to the files."""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError, Interrupted, OutputError
from batcher.output.joining import merge
from batcher.records import Completion, Failure

TEXTS = [f"item {number}" for number in range(12)]
FAILING = {"item 3", "item 8"}
PROMPT = "{text}"
ENDPOINT = {"endpoints": [Endpoint("m")]}


def write(path: Path, texts: Sequence[str] = TEXTS, *more: str) -> Path:
    """Write a table: the id of a row is its text's, in front of zeros that a spreadsheet drops."""
    lines = [["id", "text", *more], *([f"00{text.split()[-1]}", text, *more] for text in texts)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def failing(texts: Sequence[str] = TEXTS) -> Service:
    def instead(call: Call) -> Failure | None:
        return refusal(400) if call.prompt in FAILING else None

    return Service(texts, instead=instead)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv")


@pytest.fixture
def done(lab: Lab, table: Path) -> Lab:
    lab.run(table, Service(TEXTS), PROMPT, chunk_size=5)
    return lab


@pytest.fixture
def failed(lab: Lab, table: Path) -> Lab:
    """A run of which two rows have no answer."""
    assert lab.run(table, failing(), PROMPT, chunk_size=5).error == 2
    return lab


def edit(path: Path, text: str, **cells: str) -> bytes:
    """Change cells in the line of a row, as a program does that leaves all else as it is."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    for line in lines:
        if line[header.index("text")] == text:
            for name, value in cells.items():
                line[header.index(name)] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
    return path.read_bytes()


def copies(lab: Lab) -> list[str]:
    return sorted(each.name for each in lab.directory.iterdir() if "bak" in each.name)


def answers(lab: Lab, column: str = "infer") -> dict[str, str]:
    return {row["text"]: row[column] for row in lab.rows()}


def expected(texts: Sequence[str] = TEXTS, **corrected: str) -> dict[str, str]:
    by_hand = {name.replace("_", " "): answer for name, answer in corrected.items()}
    return {text: by_hand.get(text, answer_to(text)) for text in texts}


def planned(lab: Lab, table: Path, **options: Any) -> batcher.Forecast:
    return batcher.plan(table, PROMPT, keyword="k", output_dir=lab.directory, **ENDPOINT | options)


def verified(lab: Lab, table: Path) -> batcher.Verification:
    found = batcher.verify("k", table, output_dir=lab.directory)
    assert found.findings == ()
    return found


# -- What ordinary commands do


COMMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "another chunk size": ({"chunk_size": 3}, "infer"),
    "a chunk size that was forgotten": ({}, "infer"),
    "another column": ({"chunk_size": 5, "answer_column": "label"}, "label"),
    "more beside the answers": ({"chunk_size": 5, "with_": "model"}, "infer"),
    "another encoding": ({"chunk_size": 5, "encoding": "utf-8-sig"}, "infer"),
    "retry-failed": ({"chunk_size": 5, "retry_failed": True}, "infer"),
    "dedup": ({"chunk_size": 5, "dedup": True}, "infer"),
    "another model": ({"chunk_size": 5, "endpoints": [Endpoint("m"), Endpoint("other")]}, "infer"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_by_hand_is_in_the_files_after(
    done: Lab, table: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    options, column = COMMANDS[command]
    edit(done.path(5), "item 7", infer="by hand")
    assert str(planned(done, table, **options)).startswith("k: 12 rows: 12 answered (1 by hand), 0 new\n")
    report = done.run(table, Service([]), PROMPT, quiet=False, no_progress=True, **options)
    assert (report.requests_now, report.ok, report.corrected) == (0, 12, 1)
    assert {row["text"]: row[column] for row in done.rows(encoding="utf-8-sig")} == expected(item_7="by hand")
    assert verified(done, table).ok
    assert (copies(done), "kept as" in capsys.readouterr().err) == ([], False)


ROWS: dict[str, Sequence[str]] = {
    "a row in front": ["new", *TEXTS],
    "a row behind": [*TEXTS, "new"],
    "another order": TEXTS[::-1],
    "fewer rows": TEXTS[2:9],
}


@pytest.mark.parametrize("name", ROWS)
def test_an_answer_by_hand_moves_with_its_row(done: Lab, table: Path, name: str) -> None:
    edit(done.path(5), "item 7", infer="by hand")
    done.run(write(table, ROWS[name]), Service(["new"]), PROMPT, chunk_size=5)
    assert answers(done) == expected(ROWS[name], item_7="by hand")
    done.run(write(table), Service([]), PROMPT, chunk_size=5, on_change="redo")
    assert answers(done) == expected(item_7="by hand")
    assert verified(done, table).ok
    assert copies(done) == []


def test_a_row_that_was_left_out_for_a_while_has_its_answer_by_hand_when_it_is_back(done: Lab, table: Path) -> None:
    edit(done.path(10), "item 11", infer="by hand")
    ways: list[dict[str, Any]] = [{"limit": 4}, {"sample": 3}, {}]
    for options in ways:
        done.run(table, Service([]), PROMPT, chunk_size=5, **options)
    assert answers(done) == expected(item_11="by hand")
    assert copies(done) == []


def test_another_model_is_not_asked_about_a_row_that_a_person_has_answered(done: Lab, table: Path) -> None:
    edit(done.path(5), "item 7", infer="by hand")
    others = Service([text for text in TEXTS if text != "item 7"])
    done.run(table, others, PROMPT, chunk_size=5, endpoints=[Endpoint("other")], on_change="redo")
    assert others.calls
    assert answers(done) == expected(item_7="by hand")
    assert verified(done, table).ok


def test_another_column_of_the_table_changes_no_answer_by_hand(done: Lab, table: Path) -> None:
    edit(done.path(5), "item 7", infer="by hand")
    done.run(write(table, TEXTS, "note"), Service([]), PROMPT, chunk_size=5)
    assert answers(done) == expected(item_7="by hand")
    assert {row["note"] for row in done.rows()} == {"note"}


def test_of_two_rows_with_one_question_each_keeps_its_own(lab: Lab) -> None:
    frame = pd.DataFrame({"id": ["a", "b", "c"], "text": ["same", "same", "other"]})
    lab.run(frame, Service(["same", "other"]), PROMPT)
    lab.path(0).write_bytes(lab.path(0).read_bytes().replace(b"b,same,answer to same", b"b,same,by hand"))
    for rows in ([1, 0, 2], [2, 0, 1], [0, 1, 2]):
        lab.run(frame.iloc[rows], Service([]), PROMPT)
        assert {row["id"]: row["infer"] for row in lab.rows()} == {
            "a": "answer to same",
            "b": "by hand",
            "c": "answer to other",
        }


def test_the_answer_that_a_person_replaced_is_given_to_no_other_row(lab: Lab) -> None:
    lab.run(["same"], Service(["same"]))
    lab.path(0).write_bytes(lab.path(0).read_bytes().replace(b"answer to same", b"by hand"))
    service = Service(["same"])
    assert lab.run(["same", "same"], service).requests_now == 1
    assert [row["infer"] for row in lab.rows()] == ["by hand", "answer to same"]
    assert lab.run(["same"] * 3, Service([]), dedup=True).requests_now == 0
    assert [row["infer"] for row in lab.rows()][:2] == ["by hand", "answer to same"]


def test_what_was_beside_an_answer_stays_beside_the_one_by_hand(lab: Lab, table: Path) -> None:
    service = Service(TEXTS, instead=lambda call: Completion(answer_to(call.prompt), "stop", model="m-1"))
    lab.run(table, service, PROMPT, with_="model")
    edit(lab.path(0), "item 7", infer="by hand")
    for with_ in ("finish_reason", "model,finish_reason", "model"):
        lab.run(table, Service([]), PROMPT, with_=with_)
        assert answers(lab) == expected(item_7="by hand")
        name = f"infer_{with_.split(',')[0]}"
        assert {row[name] for row in lab.rows()} == {{"infer_model": "m-1", "infer_finish_reason": "stop"}[name]}


def test_a_correction_can_be_corrected_and_taken_back(done: Lab, table: Path) -> None:
    for answer in ("by hand", "better", answer_to("item 7"), "once more"):
        edit(done.path(5), "item 7", infer=answer)
        done.run(table, Service([]), PROMPT, chunk_size=5)
        assert answers(done) == expected(item_7=answer)
        assert verified(done, table).ok
    done.path(5).unlink()
    done.run(table, Service([]), PROMPT, chunk_size=5)
    assert answers(done) == expected(item_7="once more")


def test_nothing_is_written_into_the_journal_if_nothing_was_corrected(done: Lab, table: Path) -> None:
    done.path(5).write_bytes(done.path(5).read_bytes().replace(b"\n", b"\r\n"))
    done.run(table, Service([]), PROMPT, chunk_size=4)
    assert done.query("SELECT 1 FROM results WHERE id < 0") == []
    assert done.query("SELECT 1 FROM events WHERE kind = 'corrected by hand'") == []


@given(data=st.data())
@settings(max_examples=12)
def test_answers_by_hand_survive_any_sequence_of_ordinary_commands(data: st.DataObject) -> None:
    sizes, columns = st.sampled_from([3, 5, 500]), st.sampled_from(["infer", "label"])
    with tempfile.TemporaryDirectory() as directory:
        lab, table = Lab(Path(directory) / "output"), Path(directory) / "table.csv"
        by_hand: dict[str, str] = {}
        column = "infer"
        for step in range(data.draw(st.integers(2, 6))):
            texts = data.draw(st.permutations(TEXTS))[: data.draw(st.integers(8, 12))]
            column = data.draw(columns)
            extra: dict[str, Any] = data.draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "with_": st.sampled_from(["model", "reasoning"]),
                        "limit": st.integers(5, 12),
                        "sample": st.integers(5, 12),
                        "retry_failed": st.just(True),
                        "dedup": st.just(True),
                        "encoding": st.just("utf-8-sig"),
                    },
                )
            )
            if "limit" in extra:
                extra.pop("sample", None)
            # Fewer rows, then others: that may be an edit, and a person says that it is none.
            how: dict[str, Any] = {"on_change": "redo", "answer_column": column, "chunk_size": data.draw(sizes)} | extra
            lab.run(write(table, texts), failing(), PROMPT, **how)
            rows = {row["text"]: row for row in lab.rows(encoding="utf-8-sig")}
            for text, row in rows.items():
                answer = by_hand.get(text, "" if text in FAILING else answer_to(text))
                assert (row[column], row[f"{column}_status"]) == (answer, "ok" if answer else "error")
            text = data.draw(st.sampled_from([*rows]))
            by_hand[text] = f"by hand {step}"
            for path in lab.directory.glob("[0-9]*_k.csv"):
                if text in path.read_text("utf-8-sig"):
                    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
                    frame.loc[frame["text"] == text, column] = by_hand[text]
                    frame.to_csv(path, index=False)
            if data.draw(st.booleans()):
                merge("k", lab.directory)
                assert {row["text"]: row[column] for row in lab.rows(encoding="utf-8-sig")}[text] == by_hand[text]


# -- A row that is asked again


def test_only_a_row_that_is_asked_again_loses_its_answer_by_hand_and_that_is_said_before(
    done: Lab, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = edit(done.path(5), "item 7", infer="by hand")
    edit(done.path(0), "item 1", infer="by hand")
    done.run(table, Service([]), PROMPT, chunk_size=5)
    other = [text.replace("item 7", "item seven") for text in TEXTS]
    table.write_text(table.read_text("utf-8").replace("item 7", "item seven"), encoding="utf-8")
    with pytest.raises(ChangedError, match=r"\(column text changed\)\. 1 answer was given by hand\.\nNothing was sent"):
        done.run(table, Service([]), PROMPT, chunk_size=5)
    before = done.files()
    found = planned(done, table, chunk_size=5, on_change="redo")
    said = f"1 answer by hand belongs to a row that is asked again, or gone. A copy of {done.path(5)} is kept as .bak."
    assert said in found.summary
    assert (found.corrected, found.corrections_lost) == (1, 1)
    assert done.files() == before
    done.run(table, Service(["item seven"]), PROMPT, chunk_size=5, on_change="redo", quiet=False, no_progress=True)
    told = capsys.readouterr().err
    assert said in told
    assert f"{done.path(5)}.bak" in told
    assert answers(done) == expected(other, item_1="by hand")
    assert copies(done) == ["5_k.csv.bak"]
    assert done.files()["5_k.csv.bak"] == edited


def test_reuse_keeps_an_answer_by_hand_that_is_the_rows_own(done: Lab, table: Path) -> None:
    edit(done.path(5), "item 7", infer="by hand")
    done.run(table, Service([]), "Say {text}.", chunk_size=5, on_change="reuse")
    assert answers(done) == expected(item_7="by hand")
    edit(done.path(5), "item 6", infer="by hand, too")
    service = Service([f"Say {text}." for text in TEXTS])
    done.run(table, service, "Say {text}.", chunk_size=5, on_change="redo")
    found = answers(done)
    assert (found["item 6"], found["item 7"]) == ("by hand, too", answer_to("Say item 7."))
    assert verified(done, table).ok


# -- Rows that failed


LABELLED: dict[str, dict[str, str]] = {
    "the answer alone": {"infer": "by hand"},
    "answer and status": {"infer": "by hand", "infer_status": "ok"},
    "all three": {"infer": "by hand", "infer_status": "ok", "infer_error": ""},
    "a status in capitals": {"infer": "by hand", "infer_status": "OK "},
    "no status": {"infer": "by hand", "infer_status": ""},
}


@pytest.mark.parametrize("name", LABELLED)
def test_a_row_that_failed_and_was_labelled_by_hand_has_not_failed(failed: Lab, table: Path, name: str) -> None:
    edit(failed.path(0), "item 3", **LABELLED[name])
    state = batcher.status("k", failed.directory)
    assert (state.ok, state.error, state.corrected, [count for _, count in state.failures]) == (11, 1, 1, [1])
    [line] = batcher.status(output_dir=failed.directory)
    assert (line.ok, line.error) == (11, 1)
    found = planned(failed, table, retry_failed=True)
    assert (found.answered, found.error, found.requests, found.corrected) == (11, 0, 1, 1)
    assert verified(failed, table).counts == (12, 11, 0, 1)
    report = failed.run(table, failing(["item 8"]), PROMPT, chunk_size=5, retry_failed=True)
    assert (report.ok, report.error, report.corrected) == (11, 1, 1)
    [row] = [row for row in failed.rows() if row["text"] == "item 3"]
    assert (row["infer"], row["infer_status"], row["infer_error"]) == ("by hand", "ok", "")
    state = batcher.status("k", failed.directory)
    assert (state.ok, state.error, state.corrected) == (11, 1, 1)
    assert verified(failed, table).counts == (12, 11, 0, 1)


def test_merge_gives_such_a_row_its_status_and_the_next_run_agrees(failed: Lab, table: Path) -> None:
    edit(failed.path(0), "item 3", infer="by hand")
    assert main(["merge", "k", "--output-dir", str(failed.directory)]) == 0
    assert [row["infer_status"] for row in failed.rows()].count("error") == 1
    assert main(["verify", "k", str(table), "--output-dir", str(failed.directory)]) == 0
    assert batcher.status("k", failed.directory).error == 1
    assert failed.run(table, Service([]), PROMPT).error == 1
    assert [row["infer_status"] for row in failed.rows()].count("error") == 1


@pytest.mark.parametrize(
    ("cells", "ended"),
    [
        ({"infer_status": "error"}, "error"),
        ({"infer_status": "invalid", "infer_error": "no label"}, "invalid"),
    ],
)
def test_a_status_that_a_person_sets_is_meant(done: Lab, table: Path, cells: dict[str, str], ended: str) -> None:
    edit(done.path(5), "item 7", **cells)
    report = done.run(table, Service([]), PROMPT, chunk_size=5)
    assert getattr(report, ended) == 1
    assert planned(done, table, retry_failed=True).corrections_lost == 1
    service = Service(["item 7"])
    assert done.run(table, service, PROMPT, chunk_size=5, retry_failed=True).requests_now == 1
    assert answers(done, "infer_status") == dict.fromkeys(TEXTS, "ok")


def test_another_word_in_the_place_of_the_status_is_refused(done: Lab, table: Path) -> None:
    edit(done.path(5), "item 7", infer="by hand", infer_status="checked")
    files, journal = done.files(), done.journal()
    said = r"5_k\.csv cannot be read: line 4, column 'infer_status': 'checked' is none of ok, invalid, error"
    for verb in (lambda: done.run(table, Service([]), PROMPT), lambda: planned(done, table)):
        with pytest.raises(OutputError, match=said):
            verb()
    assert (done.files(), done.journal()) == (files, journal)
    [note] = batcher.status("k", done.directory).notes
    assert "'checked' is none of ok, invalid, error" in note


# -- Files that are older than the journal


def test_rows_that_are_labelled_after_a_retry_was_stopped_are_not_sent_again(failed: Lab, table: Path) -> None:
    """The chunk files are those of before the retry, and the journal has taken the errors from the rows."""
    service = Service([*FAILING], lambda call: 1 if call.prompt == "item 3" else 1000)
    stops: dict[float, Any] = {5: failed.request_stop, 6: failed.request_stop}
    with pytest.raises(Interrupted):
        failed.run(table, service, PROMPT, at=stops, chunk_size=12, retry_failed=True, timeout=1e4)
    assert failed.rows(0)[3]["infer_status"] == "error"
    edit(failed.path(0), "item 1", infer="by hand")
    edit(failed.path(5), "item 8", infer="by hand")
    state = batcher.status("k", failed.directory)
    assert (state.ok, state.left, state.corrected) == (12, 0, 2)
    report = failed.run(table, Service([]), PROMPT, chunk_size=5)
    assert (report.requests_now, report.ok) == (0, 12)
    assert answers(failed) == expected(item_1="by hand", item_8="by hand")


def test_an_old_error_that_a_program_saved_again_is_no_correction(failed: Lab, table: Path) -> None:
    open_in_excel = {start: failed.path(start).read_bytes() for start in (0, 5)}
    failed.run(table, Service([*FAILING]), PROMPT, chunk_size=5, retry_failed=True)
    for start, content in open_in_excel.items():
        failed.path(start).write_bytes(content)
    edit(failed.path(0), "item 1", infer="by hand")
    report = failed.run(table, Service([]), PROMPT, chunk_size=5)
    assert (report.requests_now, report.ok, report.corrected) == (0, 12, 1)
    assert answers(failed) == expected(item_1="by hand")


def test_if_it_is_not_certain_what_is_only_old_the_run_stops_before(done: Lab, table: Path) -> None:
    again = Service([f"Say {text}." for text in TEXTS], lambda call: 1 if "item 0" in call.prompt else 1000)
    options: dict[str, Any] = {"chunk_size": 5, "on_change": "redo", "timeout": 1e4}
    with pytest.raises(Interrupted):
        done.run(table, again, "Say {text}.", at={5: done.request_stop, 6: done.request_stop}, **options)
    edit(done.path(5), "item 7", infer="by hand")
    files, journal = done.files(), done.journal()
    said = r"5_k\.csv was changed, and its answers are older than the journal's, so that it is not certain what was"
    with pytest.raises(OutputError, match=said):
        done.run(table, Service([]), "Say {text}.", **options)
    assert (done.files(), done.journal()) == (files, journal)
    done.path(5).rename(done.directory / "away.csv")
    done.run(table, Service(again.prompts), "Say {text}.", **options)
    assert answers(done) == {text: answer_to(f"Say {text}.") for text in TEXTS}


def test_an_answer_that_is_corrected_while_the_run_works_is_in_its_journal_and_its_counts(
    lab: Lab, table: Path
) -> None:
    service = Service(
        TEXTS,
        lambda call: 100 if call.prompt == "item 11" else 1,
        instead=lambda call: Completion("") if call.prompt == "item 3" else None,
    )
    by_hand: dict[float, Callable[[], object]] = {50: lambda: edit(lab.path(0), "item 3", infer="by hand")}
    report = lab.run(table, service, PROMPT, at=by_hand, chunk_size=5, timeout=1000)
    assert (report.ok, report.invalid, report.corrected) == (12, 0, 1)
    assert answers(lab) == expected(item_3="by hand")
    assert answers(lab, "infer_status") == dict.fromkeys(TEXTS, "ok")
    assert copies(lab) == ["0_k.csv.bak"]
    assert lab.run(table, Service([]), PROMPT, retry_failed=True).requests_now == 0
    assert answers(lab) == expected(item_3="by hand")
    assert verified(lab, table).ok


# -- Workbooks


def by_openpyxl(source: Path, path: Path) -> None:
    """Save a chunk file as Excel does that has opened it: numbers are numbers."""
    book = openpyxl.Workbook()
    with source.open(encoding="utf-8", newline="") as file:
        for line in csv.reader(file):
            book.active.append([int(cell) if cell.isdigit() else cell for cell in line])
    book.save(path)


def by_pandas(source: Path, path: Path) -> None:
    pd.read_csv(source).to_excel(path, index=False)


SAVED: dict[str, Callable[[Path, Path], None]] = {"openpyxl": by_openpyxl, "pandas": by_pandas}


@pytest.mark.parametrize("program", SAVED)
@pytest.mark.parametrize("is_alone", [False, True])
def test_a_workbook_beside_a_chunk_file_is_read(
    done: Lab, table: Path, capsys: pytest.CaptureFixture[str], program: str, *, is_alone: bool
) -> None:
    ours = done.path(5).read_bytes()
    edit(done.path(5), "item 7", infer="更好")
    workbook = done.directory / "5_k.xlsx"
    SAVED[program](done.path(5), workbook)
    done.path(5).write_bytes(ours)
    if is_alone:
        done.path(5).unlink()
    content = workbook.read_bytes()
    assert f"{workbook} is read: 1 row was corrected" in planned(done, table).summary
    assert batcher.status("k", done.directory).corrected == 1
    assert workbook.read_bytes() == content
    done.run(table, Service([]), PROMPT, chunk_size=5, quiet=False, no_progress=True)
    assert f"{workbook} is read: 1 row was corrected. 5_k.csv has its answers" in capsys.readouterr().err
    assert answers(done) == expected(item_7="更好")
    assert [row["id"] for row in done.rows()] == [f"00{number}" for number in range(12)]
    assert copies(done) == ["5_k.xlsx.bak"]
    assert (done.directory / "5_k.xlsx.bak").read_bytes() == content
    assert verified(done, table).ok
    done.run(table, Service([]), PROMPT, chunk_size=3)
    assert answers(done) == expected(item_7="更好")


def test_merge_reads_a_workbook_with_every_cell_of_the_input(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run(TEXTS, Service(TEXTS))
    frame = pd.read_csv(lab.path(0))
    frame.loc[7, "infer"] = "by hand"
    frame.to_excel(lab.directory / "0_k.xlsx", index=False)
    merge("k", lab.directory)
    assert "0_k.xlsx is read: 1 row was corrected" in capsys.readouterr().err
    assert [row["infer"] for row in lab.rows()][7] == "by hand"
    assert copies(lab) == ["0_k.xlsx.bak"]
    assert lab.run(TEXTS, Service([])).corrected == 1


def test_a_workbook_that_is_not_certain_stops_the_run_with_the_reason(
    done: Lab, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbook = done.directory / "5_k.xlsx"
    by_openpyxl(done.path(0), workbook)
    with pytest.raises(OutputError, match=r"5_k\.xlsx, line 2, column 'id': the file has '0', the input has '005'"):
        planned(done, table)
    by_openpyxl(done.path(5), workbook)
    edit(done.path(5), "item 7", infer="by hand")
    with pytest.raises(OutputError, match=r"5_k\.csv was changed, and beside it is a workbook .*: move one of them"):
        planned(done, table)
    done.path(5).unlink()
    workbook.write_bytes(b"PK no workbook")
    with pytest.raises(OutputError, match=r"5_k\.xlsx cannot be read: it is no workbook that can be read"):
        planned(done, table)
    by_openpyxl(done.path(0), workbook)
    monkeypatch.setitem(sys.modules, "openpyxl.reader.excel", None)
    with pytest.raises(OutputError, match=r'needs openpyxl: pip install "batcher-llm\[excel\]", or save it as CSV'):
        planned(done, table)


def test_a_workbook_of_the_result_is_not_read_and_that_is_said(done: Lab, table: Path) -> None:
    by_openpyxl(done.path(), done.directory / "all_k.xlsx")
    assert "all_k.xlsx is not read, because the result is made from the chunk files" in planned(done, table).summary


def test_a_workbook_without_a_journal_is_not_paid_for_again_unseen(lab: Lab, table: Path) -> None:
    lab.directory.mkdir()
    (lab.directory / "0_k.xlsx").write_bytes(b"")
    with pytest.raises(OutputError, match=r"0_k\.xlsx may hold answers, .*: save it as 0_k\.csv \(CSV UTF-8\)"):
        lab.run(table, Service([]), PROMPT)
