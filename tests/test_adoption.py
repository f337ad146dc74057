"""Chunk files without a journal are adopted if they fit; files that do not fit are refused or ignored."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service, answer_to, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import Interrupted, OutputError
from batcher.records import Completion, Failure, Fault

PROMPTS = [f"question {number}" for number in range(20)]
OLDER = [f"older {number}" for number in range(20)]
Files = dict[str, bytes]


def write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def infer_only(lab: Lab, chunk_size: int = 5, *, with_index: bool = False) -> None:
    """Write the file of an older script: only the answers, as pandas writes them."""
    lab.directory.mkdir()
    for start in range(0, len(OLDER), chunk_size):
        frame = pd.DataFrame({"infer": OLDER[start : start + chunk_size]})
        frame.to_csv(lab.path(start), index=with_index)


def with_input(lab: Lab) -> None:
    """Write chunk files of the input's columns and the answer, without statuses."""
    for start in range(0, 20, 5):
        write(lab.path(start), ["text", "infer"], list(zip(PROMPTS, OLDER, strict=True))[start : start + 5])


def ours(lab: Lab) -> None:
    """Write chunk files by a run, and lose its journal."""
    lab.run(PROMPTS, Service(PROMPTS, instead=lambda call: Completion(OLDER[PROMPTS.index(call.prompt)])), chunk_size=5)
    lose_journal(lab)


def ours_by_a_spreadsheet(lab: Lab) -> None:
    ours(lab)
    for start in range(0, 20, 5):
        rows = lab.rows(start)
        with lab.path(start).open("w", encoding="utf-8-sig", newline="") as file:
            saved = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
            saved.writeheader()
            saved.writerows(rows)


def lose_journal(lab: Lab) -> None:
    (lab.directory / "journal_k.sqlite").unlink()


KINDS = {
    "answers alone": infer_only,
    "answers behind an index": lambda lab: infer_only(lab, with_index=True),
    "input and answers": with_input,
    "ours": ours,
    "ours, saved by a spreadsheet": ours_by_a_spreadsheet,
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def answers(lab: Lab) -> list[str]:
    assert [row["text"] for row in lab.rows()] == PROMPTS
    assert {row["infer_status"] for row in lab.rows()} == {"ok"}
    return [row["infer"] for row in lab.rows()]


@kinds
def test_chunk_files_of_every_kind_are_taken_over_whole(
    lab: Lab, make: Callable[[Lab], None], capsys: pytest.CaptureFixture[str]
) -> None:
    make(lab)
    report = lab.run(PROMPTS, Service([]), chunk_size=5, quiet=False)
    assert (report.requests_now, report.ok) == (0, 20)
    assert "20 answered (20 rows adopted from chunk files without a journal), 0 new" in capsys.readouterr().err
    assert answers(lab) == OLDER
    assert set(lab.files()) == {"all_k.csv", *(f"{start}_k.csv" for start in range(0, 20, 5))}, (
        "and there are no copies"
    )
    assert lab.run(PROMPTS[::-1], Service([]), chunk_size=7).requests_now == 0, "they are answers like all others"


@kinds
@pytest.mark.parametrize("missing", [[0], [10], [5, 15], [0, 5, 10, 15]])
def test_only_the_rows_without_a_file_are_sent(lab: Lab, make: Callable[[Lab], None], missing: list[int]) -> None:
    make(lab)
    for start in missing:
        lab.path(start).unlink()
    lab.path().unlink(missing_ok=True)
    new = {number for start in missing for number in range(start, start + 5)}
    service = Service(PROMPTS)
    lab.run(PROMPTS, service, chunk_size=5)
    assert service.asked == Counter(PROMPTS[number] for number in new)
    assert answers(lab) == [answer_to(PROMPTS[n]) if n in new else OLDER[n] for n in range(20)]


@pytest.mark.parametrize("make", [with_input, ours])
@pytest.mark.parametrize("chunk_size", [3, 20, 500])
def test_files_that_hold_their_rows_fit_any_chunk_size(lab: Lab, make: Callable[[Lab], None], chunk_size: int) -> None:
    make(lab)
    assert lab.run(PROMPTS, Service([]), chunk_size=chunk_size).requests_now == 0
    assert answers(lab) == OLDER
    assert set(lab.files()) == {"all_k.csv", *(f"{start}_k.csv" for start in range(0, 20, chunk_size))}


def test_failures_are_adopted_as_what_they_are_and_sent_again_when_asked(lab: Lab) -> None:
    fates: dict[str, Completion | Failure] = {PROMPTS[3]: refusal(400), PROMPTS[4]: Completion("")}
    lab.run(PROMPTS, Service(PROMPTS, instead=lambda call: fates.get(call.prompt)), chunk_size=5)
    before = lab.files()
    for retry_failed, sent in ((False, []), (True, PROMPTS[3:5])):
        lose_journal(lab)
        service = Service(sent)
        report = lab.run(PROMPTS, service, chunk_size=5, retry_failed=retry_failed)
        assert service.asked == Counter(sent)
        assert (report.error, report.invalid) == ((0, 0) if sent else (1, 1))
        assert (lab.files() == before) == (not sent)


def test_an_adopted_empty_answer_is_invalid(lab: Lab) -> None:
    write(lab.path(0), ["infer"], [["yes"], [" "], [""]])
    assert lab.run(PROMPTS[:3], Service([])).invalid == 2


def replaced(old: str, new: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        lab.path(5).write_text(lab.path(5).read_text().replace(old, new))

    return change


def renamed(start: int) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        lab.path(5).replace(lab.path(start))

    return change


def not_text(lab: Lab) -> None:
    lab.path(5).write_bytes(b"text,infer\n\xff,yes\n")


@pytest.mark.parametrize(
    ("make", "spoil", "options", "said"),
    [
        (
            ours,
            replaced("question 7", "question 8"),
            {},
            r"5_k.csv does not fit.*: its row 2 is not the input's row 7 ",
        ),
        (ours, replaced("older 7,ok", "older 7,fine"), {}, r"5_k.csv .*: its row 2 has infer_status 'fine'"),
        (ours, replaced("text,", "txt,"), {}, r"5_k.csv .*: its columns are 'txt', 'infer', 'infer_status'"),
        (
            ours,
            replaced("older 7,ok", "older 7"),
            {},
            r"5_k.csv, line 4: 3 fields, the header has 4; repair it, move it",
        ),
        (ours, not_text, {}, r"5_k.csv cannot be read: .*; repair it, move it away, or put its journal"),
        (ours, lambda lab: lab.path(5).write_text(""), {}, r"5_k.csv .*: its columns are missing"),
        (ours, renamed(3), {}, r"0_k.csv .*: it reaches into 3_k.csv"),
        (ours, renamed(25), {}, r"25_k.csv .*: it reaches to row 30, and the input, or limit, ends at row 20"),
        (ours, str, {"limit": 17}, r"15_k.csv .*: it reaches to row 20, and the input, or limit, ends at row 17"),
        (ours, str, {"answer_column": "label"}, r"0_k.csv .*: its columns are 'text', 'infer'"),
        (infer_only, renamed(6), {}, r"6_k.csv .*: it holds 5 answers, and a chunk 5 \(chunk_size\)"),
        (infer_only, replaced("older 7\n", ""), {}, r"5_k.csv .*: it holds 4 answers, and a chunk 5 \(chunk_size\)"),
        (infer_only, str, {"chunk_size": 4}, r"0_k.csv .*: it holds 5 answers, and a chunk 4 \(chunk_size\)"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_sent_or_changed(
    lab: Lab, make: Callable[[Lab], None], spoil: Callable[[Lab], object], options: dict[str, Any], said: str
) -> None:
    make(lab)
    spoil(lab)
    before = lab.files()
    for _ in range(2):
        with pytest.raises(OutputError, match=said):
            lab.run(PROMPTS, Service([]), **{"chunk_size": 5} | options)
        assert lab.files() == before


def test_the_last_file_of_answers_alone_may_be_short_where_the_input_ends(lab: Lab) -> None:
    infer_only(lab, 6)
    assert lab.run(PROMPTS, Service([]), chunk_size=6).requests_now == 0
    assert answers(lab) == OLDER


# -- Beside a journal


def interrupted(lab: Lab) -> None:
    """Begin a run that ends before its second chunk."""
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, Service(PROMPTS, lambda _call: 1), at={0.5: lab.request_stop}, chunk_size=5)
    assert lab.query("SELECT count(*) FROM results") == [(1,)]


@pytest.mark.parametrize("make", [with_input, infer_only])
def test_files_put_beside_a_journal_answer_rows_that_never_had_an_answer(
    lab: Lab, tmp_path: Path, make: Callable[[Lab], None]
) -> None:
    interrupted(lab)
    make(colleague := Lab(tmp_path / "colleague"))
    for path in colleague.directory.iterdir():
        path.replace(lab.path(int(path.name.partition("_")[0])))
    assert lab.run(PROMPTS, Service([]), chunk_size=5).requests_now == 0
    assert answers(lab) == [answer_to(PROMPTS[0]), *OLDER[1:]]


def test_what_does_not_fit_beside_a_journal_is_left_alone_and_kept_as_a_copy(lab: Lab) -> None:
    interrupted(lab)
    lab.path(5).write_text("something,else\n1,2\n")
    write(lab.path(10), ["text", "infer"], [[PROMPTS[10], "taken"], ["another row", "left alone"]])
    report = lab.run(PROMPTS, Service(PROMPTS), chunk_size=5)
    assert report.requests_now == 18
    assert answers(lab)[10:12] == ["taken", answer_to(PROMPTS[11])]
    assert {name for name in lab.files() if "bak" in name} == {"5_k.csv.bak", "10_k.csv.bak"}


@pytest.mark.parametrize("again", [{"prompt": "{text}!", "on_change": "redo"}, {"retry_failed": True}])
def test_an_own_file_is_never_taken_for_a_foreign_one(lab: Lab, again: dict[str, Any]) -> None:
    """A kill between a file's renaming and its entry in the journal leaves what this test leaves."""
    lab.run(PROMPTS, Service(PROMPTS, instead=lambda _call: Completion("")), "{text}", chunk_size=5)
    lab.change("UPDATE chunks SET rows = 0, origin = x'', sha256 = x'' WHERE start = 5")
    assert lab.run(PROMPTS, Service([*PROMPTS, *(f"{p}!" for p in PROMPTS)]), chunk_size=5, **again).requests_now == 20


# -- Whatever it holds


TEXT = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(
    ["", "NA", '"', "\r", "\0", "\ufeff"]
)
ROWS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["ok", "ok", "invalid", "error"])), min_size=1, max_size=9)


def end(status: str, text: str) -> Completion | Failure:
    return Failure(Fault.STATUS, text, 400) if status == "error" else Completion(text if status == "ok" else None)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 4), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_whatever_a_run_has_written_is_taken_over_byte_for_byte(
    rows: list[tuple[str, str, str]], chunk_size: int, encoding: str
) -> None:
    texts = [f"{number}{text}" for number, (text, _, _) in enumerate(rows)]
    ends = {text: end(status, f"{text}{answer}") for text, (_, answer, status) in zip(texts, rows, strict=True)}
    options: dict[str, Any] = {"chunk_size": chunk_size, "encoding": encoding}
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory) / "output")
        lab.run(texts, Service(texts, instead=lambda call: ends[call.prompt]), **options)
        before = lab.files()
        lose_journal(lab)
        assert lab.run(texts, Service([]), **options).requests_now == 0
        assert lab.files() == before
