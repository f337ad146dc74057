"""A file in the output directory is whole, holds the given data, and a correction by hand is never lost."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import environment

from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, OutputError
from batcher.input.cell import writable
from batcher.output.csv_file import csv_line
from batcher.output.directory import Store
from batcher.output.edited import Edited, UnfitError
from batcher.records import Result, RowState, Status
from batcher.settings import ENCODINGS

COLUMNS = ("id", "text")
ADDED = AnswerColumns("infer")
AWKWARD = [
    "NA",
    "None",
    "007",
    " a ",
    '"',
    'say "hi"',
    "a,b",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "\ud800",
    "\ufeff",
    "😀",
    "数学",
]
TEXT = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=()))  # lone surrogates too
# Columns, then rows of cells and an answer.
TABLES = st.lists(TEXT, unique_by=writable, min_size=1, max_size=3).flatmap(
    lambda columns: st.tuples(
        st.just(columns), st.lists(st.lists(TEXT, min_size=len(columns) + 1, max_size=len(columns) + 1))
    )
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "kw", COLUMNS, ADDED)


def ok(answer: str) -> Result:
    return Result(Status.OK, answer, "")


def save(store: Store, *answers: str, start: int = 0, known: bytes | None = None) -> bytes:
    """Write a chunk file with a row for each answer; return its SHA-256."""
    lines = store.lines([(start + number, f"text {start + number}") for number in range(len(answers))])
    sha256, _ = store.write_chunk(start, lines, [ok(answer) for answer in answers], known)
    return sha256


def read(path: Path, encoding: str = "utf-8") -> list[list[str]]:
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.reader(file, strict=True))


def answers(path: Path) -> list[str]:
    header, *rows = read(path)
    return [row[header.index("infer")] for row in rows]


def lines_of(rows: list[list[str]]) -> list[tuple[object, ...]]:
    return [tuple(row[:-1]) for row in rows]


def edited(store: Store, start: int, rows: Sequence[tuple[object, ...]], answers: Sequence[str]) -> Edited:
    """Read a chunk file that was changed, all of whose rows were ok."""
    return store.read_edited(start, rows, store.answers([ok(answer) for answer in answers]))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def in_excel(content: bytes) -> bytes:
    """Return a CSV file as a spreadsheet may save it: a byte order mark, other line ends, other quotes."""
    saved = io.StringIO(newline="")
    csv.writer(saved, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(
        csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    )
    return saved.getvalue().encode("utf-8-sig")


# -- What is in a file


@settings(max_examples=120, deadline=None)
@given(TABLES, st.sampled_from(ENCODINGS))
def test_any_text_comes_back_but_for_what_no_csv_file_can_hold(
    table: tuple[list[str], list[list[str]]], encoding: str
) -> None:
    columns, rows = table
    given_lines = [[*columns, *ADDED], *([*row, "ok", ""] for row in rows)]
    expected = [[re.sub("[\0\ud800-\udfff]", "\ufffd", text) for text in line] for line in given_lines]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), "kw", columns, ADDED, encoding)
        path = store.chunk_path(0)
        lines = store.lines([tuple(row[:-1]) for row in rows])
        sha256, _ = store.write_chunk(0, lines, [ok(row[-1]) for row in rows], None)
        assert sha256 == hashlib.sha256(path.read_bytes()).digest()
        assert read(path, encoding) == expected
        assert pd.read_csv(path, dtype=str, keep_default_na=False, header=None).to_numpy().tolist() == expected
        whole = store.join([0])[0].read_bytes()
        assert whole == path.read_bytes()
        assert [store.look(0), *store.lines_of(0)] == [(expected[0], len(rows), sha256), *expected[1:]]
        path.write_bytes(in_excel(whole))
        assert edited(store, 0, lines_of(rows), [row[-1] for row in rows]).how == ""
        assert store.join([0])[0].read_bytes() == whole


def test_columns_that_would_have_one_name_in_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the columns 'a\\x00', 'a\\ud800' would have the same name in the files"):
        Store(tmp_path, "kw", ["a\0", "id", "a\ud800"])


def test_a_byte_order_mark_stands_once_in_each_file(tmp_path: Path) -> None:
    store = Store(tmp_path, "kw", COLUMNS, ADDED, "utf-8-sig")
    plain = Store(tmp_path, "plain", COLUMNS, ADDED)
    for each in (store, plain):
        save(each, "数学", start=0)
        save(each, "b", start=1)
        each.join([0, 1])
    mark = b"\xef\xbb\xbf"
    for path in (store.chunk_path(0), store.chunk_path(1), store.all_path):
        other = path.with_name(path.name.replace("_kw", "_plain"))
        assert path.read_bytes() == mark + other.read_bytes()


def test_how_a_row_ended_stands_behind_its_values(store: Store) -> None:
    results = [ok("yes"), Result(Status.INVALID, "maybe", "not a label"), Result(Status.ERROR, "", "HTTP 400, bad")]
    store.write_chunk(500, store.lines([(7, "a,b"), (None, ""), (float("nan"), True)]), results, None)
    assert (store.directory / "500_kw.csv").read_bytes().decode() == (
        "id,text,infer,infer_status,infer_error\n"
        '7,"a,b",yes,ok,\n'
        ",,maybe,invalid,not a label\n"
        ',True,,error,"HTTP 400, bad"\n'
    )


@pytest.mark.parametrize("added", [*ADDED])
def test_an_added_column_must_not_be_one_of_the_inputs(tmp_path: Path, added: str) -> None:
    with pytest.raises(InputError, match=f"'{added}'.*another answer_column, or leave"):
        Store(tmp_path, "kw", ["id", added], ADDED)


def test_the_origin_tells_whatever_a_chunk_is_made_from(store: Store) -> None:
    first, second = RowState(b"k1", 1), RowState(b"k2", 2)
    lines, states = ["1,a", "2,b"], [first, second]
    other = Store(store.directory, "kw", COLUMNS, AnswerColumns("label"))
    for_excel = Store(store.directory, "kw", COLUMNS, ADDED, "utf-8-sig")
    origins = [
        store.origin(lines, states),
        other.origin(lines, states),
        for_excel.origin(lines, states),
        store.origin(["1,a", "2,c"], states),
        store.origin(lines, [first, second._replace(key=b"k3")]),
        store.origin(lines, [first, second._replace(result=12)]),
        store.origin(lines, [first, second._replace(result=None)]),
    ]
    assert len(set(origins)) == len(origins)
    assert Store(Path("elsewhere"), "other", COLUMNS, ADDED).origin(lines, states) == origins[0]


# -- Whole or not at all

LIMITED = """
import resource, signal, sys
from pathlib import Path
from batcher.records import Result, Status
from batcher.output.directory import Store

store = Store(Path(sys.argv[1]), "kw", ("id", "text"))
signal.signal(signal.SIGXFSZ, signal.Handlers[sys.argv[2]])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store.write_chunk(0, ["1,a"], [Result(Status.OK, "x" * 100_000, "")], bytes.fromhex(sys.argv[3]))
"""


def write_too_much(store: Store, on_limit: str, sha256: bytes) -> subprocess.CompletedProcess[str]:
    """Let a process write a chunk file on a disk that takes only the half of it."""
    arguments = [sys.executable, "-c", LIMITED, str(store.directory), on_limit, sha256.hex()]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment())


def test_a_full_disk_leaves_the_old_file_and_says_so(store: Store) -> None:
    sha256 = save(store, "old")
    done = write_too_much(store, "SIG_IGN", sha256)
    assert "OutputError" in done.stderr
    assert f"{store.chunk_path(0)} cannot be written: File too large" in done.stderr
    assert names(store.directory) == ["0_kw.csv"]
    assert answers(store.chunk_path(0)) == ["old"]


def test_a_kill_half_way_leaves_the_old_file_and_the_next_run_clears_away(store: Store) -> None:
    sha256 = save(store, "old")
    store.journal_path.touch()
    others = [".0_other_kw.csv.tmp", ".all_other_kw.csv.tmp", ".x_kw.csv.tmp"]  # keywords may end alike
    for name in [*others, ".all_kw.csv.tmp"]:
        (store.directory / name).touch()
    assert write_too_much(store, "SIG_DFL", sha256).returncode == -signal.SIGXFSZ
    assert (store.directory / ".0_kw.csv.tmp").stat().st_size == 50_000
    store.clear()
    assert names(store.directory) == sorted([*others, "0_kw.csv", "journal_kw.sqlite"])
    assert answers(store.chunk_path(0)) == ["old"]


def test_a_join_that_fails_half_way_leaves_the_old_result(store: Store) -> None:
    save(store, "a")
    whole = store.join([0])[0].read_bytes()
    (store.directory / "1_kw.csv").write_text("something,else\n1,2\n")
    with pytest.raises(OutputError, match=r"1_kw.csv has other columns than this run: something,else"):
        store.join([0, 1])
    with pytest.raises(OutputError, match=r"2_kw.csv cannot be read: No such file"):
        store.join([0, 2])
    assert store.all_path.read_bytes() == whole
    assert names(store.directory) == ["0_kw.csv", "1_kw.csv", "all_kw.csv"]


# -- The directory


@pytest.mark.parametrize("keyword", ["kw", "[x]", "a+b", "a.b", "(1)", "50%", "数学计算", "all", "0"])
def test_any_keyword_finds_its_own_files_and_no_others(tmp_path: Path, keyword: str) -> None:
    others = [".0_x.csv.tmp", ".0_aab.csv.tmp", ".0_a1b.csv.tmp", "0_x.csv", "0_aab.csv", f"0_z_{keyword}.csv"]
    for name in [*others, f".0_{keyword}.csv.tmp"]:
        (tmp_path / name).touch()
    store = Store(tmp_path, keyword, COLUMNS, ADDED)
    store.clear()
    assert names(tmp_path) == sorted(others)
    save(store, "a")
    assert answers(store.join([0])[0]) == ["a"]
    assert store.starts() == {0}


def test_the_directory_is_made_with_its_parents_and_stays_if_something_is_in_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "some" / "where", "kw")
    with store.prepared(), store.prepared():
        (store.directory / "file").touch()
    assert names(store.directory) == ["file"]


@pytest.mark.parametrize("folder", ["output", "some/where"])
def test_a_directory_that_was_made_for_nothing_is_removed_and_one_that_was_there_stays(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "some").mkdir()
    with Store(tmp_path / folder, "kw").prepared():
        assert (tmp_path / folder).is_dir()
    assert names(tmp_path) == ["some"]


def test_a_directory_that_another_program_puts_in_its_place_stays(tmp_path: Path) -> None:
    directory = tmp_path / "output"
    with Store(directory, "kw").prepared():
        directory.rename(tmp_path / "moved")
        directory.mkdir()
    assert names(tmp_path) == ["moved", "output"]


@pytest.mark.parametrize("other", ["journal_kw.sqlite", "500_kw.csv"])
def test_a_result_without_what_it_was_made_from_is_not_written_over(store: Store, other: str) -> None:
    store.all_path.write_text("precious")
    with pytest.raises(
        OutputError, match=r"all_kw.csv exists, but neither its journal \(journal_kw.sqlite\) nor a chunk file"
    ):
        store.check()
    assert names(store.directory) == ["all_kw.csv"]
    (store.directory / other).touch()
    store.check()
    assert store.all_path.read_text() == "precious"


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(OutputError, match=r"output is not a directory: choose another output_dir"):
        Store(tmp_path / "output", "kw").check()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_an_error_before_anything_is_asked(store: Store) -> None:
    sha256 = save(store, "old")
    store.directory.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="check its permissions"):
            store.check()
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            save(store, "new", known=sha256)
    finally:
        store.directory.chmod(0o700)
    assert answers(store.chunk_path(0)) == ["old"]


# -- Files that somebody has changed


def test_every_changed_file_is_kept_when_it_is_made_anew(store: Store) -> None:
    lines = store.lines([(0, "text 0")])
    known, copies = None, []
    for number in range(3):
        store.chunk_path(0).write_text(f"by hand {number}")
        known, copy = store.write_chunk(0, lines, [ok(f"made {number}")], known)
        copies.append(copy)
        assert answers(store.chunk_path(0)) == [f"made {number}"]
    assert [copy and (copy.name, copy.read_text()) for copy in copies] == [
        ("0_kw.csv.bak", "by hand 0"),
        ("0_kw.csv.bak1", "by hand 1"),
        ("0_kw.csv.bak2", "by hand 2"),
    ]


def test_a_file_that_nobody_has_changed_is_not_kept(store: Store) -> None:
    known = save(store, "old")
    lines = store.lines([(0, "text 0")])
    new, copy = store.write_chunk(0, lines, [ok("new")], known)
    assert copy is None
    assert store.write_chunk(0, lines, [ok("new")], None) == (new, None)  # written by a process that was killed then
    assert names(store.directory) == ["0_kw.csv"]


@pytest.mark.parametrize(("content", "kept"), [(None, []), (b"by hand", ["0_kw.csv.bak"])])
def test_a_chunk_that_is_removed_is_kept_if_it_was_changed(
    store: Store, content: bytes | None, kept: Sequence[str]
) -> None:
    known = save(store, "old")
    if content:
        store.chunk_path(0).write_bytes(content)
    copy = store.remove_chunk(0, known)
    assert names(store.directory) == kept == ([copy.name] if copy else [])
    assert store.remove_chunk(0, known) is None


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new)


def corrected(content: bytes) -> bytes:
    return content.replace(b"yes", b"no", 1)


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "a label": corrected,
    "the spreadsheet's manner": lambda content: in_excel(corrected(content)),
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + corrected(content),
    "line ends": lambda content: corrected(content).replace(b"\n", b"\r\n"),
    "no end of the last line": lambda content: corrected(content).removesuffix(b"\n"),
    "empty lines at the end": lambda content: corrected(content) + b"\n\n",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_correction_survives_in_whatever_manner_it_is_saved(store: Store, edit: Callable[[bytes], bytes]) -> None:
    chunks = [save(store, "yes", "long" * 50_000, start=0), save(store, "yes", "yes", start=2)]
    store.chunk_path(0).write_bytes(edit(store.chunk_path(0).read_bytes()))
    assert [store.sha256(2 * number) == sha256 for number, sha256 in enumerate(chunks)] == [False, True]
    assert edited(store, 0, [("0", "text 0"), ("1", "text 1")], ["yes", "long" * 50_000]).how == ""
    store.join([0, 2])
    assert read(store.all_path) == [
        [*COLUMNS, *ADDED],
        ["0", "text 0", "no", "ok", ""],
        ["1", "text 1", "long" * 50_000, "ok", ""],
        ["2", "text 2", "yes", "ok", ""],
        ["3", "text 3", "yes", "ok", ""],
    ]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing left": lambda _: b"",
    "a row is missing": replaced(b"1,text 1,b,ok,\n", b""),
    "a row twice": replaced(b"1,text 1,b,ok,\n", 2 * b"1,text 1,b,ok,\n"),
    "a field too many": replaced(b"b,ok", b"b,,ok"),
    "a column has another name": replaced(b"infer,", b"inferred,"),
    "an open quote": replaced(b",b,", b',"b,'),
    "an open quote in the last field": replaced(b"b,ok,", b'b,ok,"'),
    "not UTF-8": replaced(b",b,", b",\xff,"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_broken_file_is_told_from_an_edited_one(store: Store, damage: Callable[[bytes], bytes]) -> None:
    sha256 = save(store, "a", "b")
    store.chunk_path(0).write_bytes(damage(store.chunk_path(0).read_bytes()))
    assert store.sha256(0) != sha256
    with pytest.raises(UnfitError):
        edited(store, 0, [("0", "text 0"), ("1", "text 1")], ["a", "b"])


def test_a_missing_file_and_an_empty_one_hold_nothing(store: Store) -> None:
    assert store.is_empty(0)
    store.chunk_path(0).write_bytes(b"")
    assert store.is_empty(0)
    save(store, "a")
    assert not store.is_empty(0)


# -- All of it


def test_chunks_are_joined_in_the_order_that_is_asked_for(store: Store) -> None:
    for start in (10, 2, 0):
        save(store, f"answer {start}", start=start)
    assert store.join([0, 2, 10])[0] == store.directory / "all_kw.csv"
    assert answers(store.all_path) == ["answer 0", "answer 2", "answer 10"]


def test_no_chunks_make_a_header(store: Store) -> None:
    assert store.join([])[0].read_text() == csv_line([*COLUMNS, *ADDED]) + "\n"


def test_the_memory_of_a_join_does_not_grow_with_the_files(store: Store) -> None:
    for start in (0, 2000):
        save(store, *["x" * 3000] * 2000, start=start)
    store.chunk_path(2000).write_bytes(in_excel(store.chunk_path(2000).read_bytes()))
    tracemalloc.start()
    try:
        store.join([0, 2000])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.all_path.stat().st_size > 12_000_000
    assert peak < 4_000_000
