"""A finished output directory is damaged in one place, and `verify` names that place and nothing else."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import write_table

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import InputError, OutputError, SettingsError
from batcher.records import Completion, Failure
from batcher.reports.verification.verify import Verification, verify

TEXTS = tuple(f"item {number}" for number in range(12))
PROMPT = "ask {text}"
Rows = Sequence[tuple[str, str]]
Damage = Callable[[Lab], object]
Named = dict[str, list[Any]]


def asked(texts: Sequence[str]) -> list[str]:
    return [f"ask {text}" for text in texts]


def numbered(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"n{number}", text) for number, text in enumerate(texts)]


def write_input(lab: Lab, rows: Rows) -> Path:
    lab.directory.parent.mkdir(exist_ok=True, parents=True)
    return write_table(lab.directory.parent / "table.csv", ["id", "text"], rows)


def finish(lab: Lab, service: Service | None = None, **options: Any) -> Lab:
    """Run the table to its end: chunks 0, 5 and 10; the request of row N has the number N + 1."""
    lab.run(write_input(lab, numbered(TEXTS)), service or Service(asked(TEXTS)), PROMPT, chunk_size=5, **options)
    return lab


def never(_row: dict[str, Any]) -> str:
    raise GeneratorExit


def test_a_prompt_function_that_fails_ends_verify_with_the_row(lab: Lab) -> None:
    finish(lab)
    with pytest.raises(InputError, match=r"the prompt function failed on .*table.csv, row 0 .*: GeneratorExit$"):
        verify("k", lab.directory.parent / "table.csv", never, output_dir=lab.directory)


@pytest.fixture
def done(lab: Lab) -> Lab:
    return finish(lab)


@pytest.fixture
def alike(lab: Lab) -> Lab:
    """A run in which every row has the same answer, so that only their cells distinguish rows."""
    return finish(lab, Service(asked(TEXTS), instead=lambda _call: Completion("yes")))


def check(lab: Lab, data: Any = None, prompt: Any = None) -> Verification:
    return verify("k", data, prompt, output_dir=lab.directory)


def input_of(lab: Lab) -> Path:
    return lab.directory.parent / "table.csv"


def named(lab: Lab, data: Any = None, prompt: Any = None) -> Named:
    """Return the findings: the rows, as (first, last), then `#` and the requests, then the lines of files."""
    return {
        each.kind: [
            *each.rows,
            *(f"#{number}" for first, last in each.requests for number in range(first, last + 1)),
            *(place.partition(", ")[2] for place in each.places if ", line" in place),
        ]
        for each in check(lab, data, prompt).findings
    }


def execute(*statements: str) -> Damage:
    def damage(lab: Lab) -> None:
        with contextlib.closing(sqlite3.connect(lab.directory / "journal_k.sqlite")) as journal:
            for statement in statements:
                journal.execute(statement)
            journal.commit()

    return damage


def swap(table: str, column: str, ids: str, one: int, other: int) -> str:
    """Return the statement that swaps a column of two lines."""
    old = f"(SELECT {ids} AS old_id, {column} AS old FROM {table})"  # noqa: S608 - constants of this file
    chosen = f"{ids} IN ({one}, {other}) AND old_id = {one + other} - {ids}"
    return f"UPDATE {table} SET {column} = old FROM {old} WHERE {chosen}"  # noqa: S608 - the same


def edit(part: int | str, change: Callable[[list[list[str]]], object]) -> Damage:
    """Change the lines of a file, its header the first."""

    def damage(lab: Lab) -> None:
        path = lab.path(part)
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        change(lines)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(lab: Lab) -> None:
        for each in damages:
            each(lab)

    return damage


def put(line: int, column: int, value: str) -> Callable[[list[list[str]]], object]:
    return lambda lines: lines[line].__setitem__(column, value)


def exchange(one: int, other: int, columns: slice = slice(None)) -> Callable[[list[list[str]]], object]:
    def change(lines: list[list[str]]) -> None:
        lines[one][columns], lines[other][columns] = lines[other][columns], lines[one][columns]

    return change


def cut(part: int | str, back: int) -> Damage:
    def damage(lab: Lab) -> None:
        path = lab.path(part)
        path.write_bytes(path.read_bytes()[:-back])

    return damage


def remove(part: int | str) -> Damage:
    return lambda lab: lab.path(part).unlink()


def test_a_run_that_fits_is_proven(done: Lab) -> None:
    found = check(done, input_of(done))
    assert (found.ok, found.findings, found.notes) == (True, (), ())
    assert found.counts == (12, 12, 0, 0)
    assert found.chunks == 3
    assert found.endpoints == ((0, "m", "https://api.openai.com/v1", 12, 12, 0, 0, 0, 0, 12, 0, 0),)
    assert str(found).splitlines()[0] == "k: everything fits"


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        (execute("UPDATE rows SET result = NULL WHERE position = 2"), "1 row has no result yet"),
        (
            execute("UPDATE rows SET result = NULL WHERE position < 5", "UPDATE results SET answer = '' WHERE id = 9"),
            "5 rows have no result yet, and 1 finding",
        ),
        (both(remove("all"), remove(5)), "2 findings"),
    ],
)
def test_the_first_line_says_what_keeps_a_run_from_being_verified(done: Lab, damage: Damage, verdict: str) -> None:
    damage(done)
    assert str(check(done)).splitlines()[0] == f"k: NOT verified: {verdict}"


def test_what_differs_in_the_result_is_named_up_to_where_it_cannot_be_read(done: Lab) -> None:
    both(edit("all", put(10, 2, "better")), cut("all", 20))(done)
    expected = {
        "all-other": [(9, 9), "line 11"],
        "all-broken": ["line 13: 3 fields, the header has 5; delete it, and the next run writes it again"],
    }
    assert named(done) == named(done, input_of(done)) == expected


def test_without_the_input_it_says_that_the_table_was_not_compared(done: Lab) -> None:
    found = check(done)
    assert found.ok
    assert found.notes == (
        "`data` was not given: journal and files were compared with each other, but not with the table.",
    )


JOURNAL: list[tuple[Damage, Named]] = [
    (execute(swap("rows", "result", "position", 2, 7)), {"other-question": [(2, 2), (7, 7)]}),
    (execute(swap("rows", "key", "position", 2, 3)), {"other-question": [(2, 3)]}),
    (execute(swap("results", "answer", "id", 3, 4)), {"changed": [(2, 3)]}),
    (execute(swap("results", "answer", "id", 3, 4), swap("results", "seal", "id", 3, 4)), {"changed": [(2, 3)]}),
    (execute("UPDATE results SET answer = 'other' WHERE id = 3"), {"changed": [(2, 2)]}),
    (execute("UPDATE results SET status = 'fine' WHERE id = 3"), {"changed": [(2, 2)]}),
    (
        execute("UPDATE results SET status = 'error', error = 'no' WHERE id = 3"),
        {"changed": [(2, 2)], "outcome": ["#3"]},
    ),
    (execute("DELETE FROM rows WHERE position IN (2, 11)"), {"row-lost": [(2, 2), (11, 11)]}),
    (execute("DELETE FROM results WHERE id = 3"), {"answer-lost": [(2, 2)]}),
    (execute("DELETE FROM requests WHERE id = 3"), {"request-lost": ["#3"], "brought-by-none": [(2, 2), "#3"]}),
    (execute("DELETE FROM requests WHERE id = 12"), {"brought-by-none": [(11, 11), "#12"]}),
    (
        execute(
            "INSERT INTO results SELECT 99, key, source, status, answer, error, seal, reading FROM results WHERE id = 3"
        ),
        {"brought-by-none": ["#99"]},
    ),
    (
        execute(
            "INSERT INTO results SELECT -1, key, source, status, answer, error, seal, reading FROM results WHERE id = 3"
        ),
        {"brought-by-none": ["#-1"]},
    ),
    (
        execute(
            "INSERT INTO results SELECT 99, key, source, status, answer, error, seal, reading FROM results"
            " WHERE id = 3",
            "UPDATE rows SET result = 99 WHERE position = 2",
            "DELETE FROM results WHERE id = 3",
        ),
        {"brought-by-none": [(2, 2), "#99"], "brought-none": ["#3"]},
    ),
    (execute("UPDATE requests SET outcome = '429' WHERE id = 3"), {"outcome": [(2, 2), "#3"]}),
    (
        execute("UPDATE requests SET outcome = NULL, ended = NULL WHERE id = 3"),
        {"outcome": [(2, 2), "#3"], "never-ended": ["#3"]},
    ),
    (execute("UPDATE requests SET key = x'00' WHERE id = 3"), {"request-other": [(2, 2), "#3"]}),
    (execute("UPDATE results SET source = 2 WHERE id = 3"), {"request-other": [(2, 2), "#3"]}),
    (execute("UPDATE requests SET run = 9 WHERE id = 3"), {"of-nobody": [(2, 2), "#3"]}),
    (execute("INSERT INTO partials VALUES (3, 1.5, 'cut', 'a', '', 1, NULL, NULL)"), {"cut-off": [(2, 2), "#3"]}),
    (execute("INSERT INTO partials VALUES (99, 1.5, 'cut', 'a', '', 1, NULL, NULL)"), {"cut-off": ["#99"]}),
]


@pytest.mark.parametrize(("damage", "expected"), JOURNAL)
def test_damage_to_the_journal_is_named_with_and_without_the_input(done: Lab, damage: Damage, expected: Named) -> None:
    damage(done)
    assert named(done) == named(done, input_of(done)) == expected


FILES: list[tuple[Damage, Named]] = [
    (edit(0, put(3, 3, "fine")), {"file-answer": [(2, 2), "line 4"]}),
    (both(edit(0, put(3, 2, "better")), edit("all", put(3, 2, "worse"))), {"all-other": [(2, 2), "line 4"]}),
    (edit(0, put(3, 0, "n9")), {"file-cells": [(2, 2), "line 4"]}),
    (edit(0, exchange(3, 5)), {"file-cells": [(2, 2), (4, 4), "line 4", "line 6"]}),
    (edit(5, lambda lines: lines.pop(3)), {"file-lacks": [(7, 7)]}),
    (edit(5, lambda lines: lines.pop()), {"file-lacks": [(9, 9)]}),
    (edit(5, lambda lines: lines.insert(3, lines[3])), {"file-more": ["line 5"]}),
    (edit(5, lambda lines: lines.append(lines.pop(1))), {"file-lacks": [(5, 5)], "file-more": ["line 6"]}),
    (remove(5), {"file-lost": [(5, 9)]}),
    (
        cut(5, 20),
        {"file-broken": [(5, 9), "line 6: 3 fields, the header has 5; delete it, and the next run writes it again"]},
    ),
    (edit(5, lambda lines: [line.pop() for line in lines]), {"file-columns": [(5, 9)]}),
    (lambda lab: lab.path(5).write_bytes(b""), {"file-columns": [(5, 9)]}),
    (lambda lab: shutil.copy(lab.path(5), lab.path(7)), {"file-extra": []}),
    (edit("all", put(3, 2, "better")), {"all-other": [(2, 2), "line 4"]}),
    (edit("all", exchange(3, 9)), {"all-other": [(2, 2), (8, 8), "line 4", "line 10"]}),
    (edit("all", lambda lines: lines.pop(3)), {"all-lacks": [(2, 2)]}),
    (edit("all", lambda lines: lines.insert(3, lines[3])), {"all-more": ["line 5"]}),
    (edit("all", lambda lines: lines.append(lines.pop(1))), {"all-lacks": [(0, 0)], "all-more": ["line 13"]}),
    (edit("all", lambda lines: lines.__delitem__(slice(6, 11))), {"all-lacks": [(5, 9)]}),
    (edit("all", lambda lines: [line.pop() for line in lines]), {"all-columns": []}),
    (
        cut("all", 20),
        {"all-broken": ["line 13: 3 fields, the header has 5; delete it, and the next run writes it again"]},
    ),
    (remove("all"), {"all-lost": []}),
]


@pytest.mark.parametrize(("damage", "expected"), FILES)
def test_damage_to_a_file_is_named_with_and_without_the_input(done: Lab, damage: Damage, expected: Named) -> None:
    damage(done)
    assert named(done) == named(done, input_of(done)) == expected


@pytest.mark.parametrize(
    ("damage", "cells", "counts"),
    [
        (edit(0, put(3, 2, "better")), 1, (12, 12, 0, 0)),
        (both(edit(0, put(3, 2, "better")), edit("all", put(3, 2, "better"))), 1, (12, 12, 0, 0)),
        (edit(0, put(3, 3, "error")), 1, (12, 11, 0, 1)),
        (both(edit(0, put(3, 2, "better")), edit(0, put(3, 4, "seen by Ann"))), 2, (12, 12, 0, 0)),
    ],
)
def test_an_answer_by_hand_is_counted_and_is_no_finding(
    done: Lab, damage: Damage, cells: int, counts: tuple[int, ...]
) -> None:
    """It is the same before and after a run has taken it into its journal."""
    damage(done)
    for again in (False, True):
        if again:
            finish(done, Service([]))
        for found in (check(done), check(done, input_of(done))):
            assert (found.findings, found.counts) == ((), counts)
            assert found.corrected == ((str(done.path(0)), 1, cells),)
            assert f"1 answer by hand ({cells} cell{'s' * (cells > 1)}): {done.path(0)} (1)" in str(found)


@pytest.mark.parametrize(("encoding", "separator"), [("utf-16", ","), ("utf-8", ";")])
def test_a_file_that_came_back_in_another_form_is_compared_as_run_reads_it(
    done: Lab, encoding: str, separator: str
) -> None:
    edit(0, put(3, 2, "更好"))(done)
    done.path(0).write_bytes(done.path(0).read_text("utf-8").replace(",", separator).encode(encoding))
    for found in (check(done), check(done, input_of(done))):
        assert found.findings == ()
        assert found.corrected == ((str(done.path(0)), 1, 1),)
        assert any("0_k.csv came back " in note for note in found.notes)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (edit(0, exchange(2, 4)), {"file-cells": [(1, 1), (3, 3), "line 3", "line 5"]}),
        (edit(0, lambda lines: lines.pop(3)), {"file-lacks": [(2, 2)]}),
        (edit(0, lambda lines: lines.append(lines.pop(1))), {"file-lacks": [(0, 0)], "file-more": ["line 6"]}),
        (edit("all", exchange(2, 4)), {"all-other": [(1, 1), (3, 3), "line 3", "line 5"]}),
        (edit("all", lambda lines: lines.pop(3)), {"all-lacks": [(2, 2)]}),
    ],
)
def test_rows_are_told_apart_where_all_answers_are_the_same(alike: Lab, damage: Damage, expected: Named) -> None:
    damage(alike)
    assert named(alike) == named(alike, input_of(alike)) == expected


def in_both(change: Callable[[list[list[str]]], object]) -> Damage:
    return both(edit(0, change), edit("all", change))


@pytest.mark.parametrize(
    ("damage", "expected", "without_input"),
    [
        (in_both(exchange(2, 4)), {"file-cells": [(1, 1), (3, 3), "line 3", "line 5"]}, {"file-unproven": [(0, 4)]}),
        (in_both(put(3, 0, "n9")), {"file-cells": [(2, 2), "line 4"]}, {"file-unproven": [(0, 4)]}),
        (
            both(edit(0, lambda lines: lines.pop(3)), edit("all", lambda lines: lines.pop(3))),
            {"file-lacks": [(2, 2)], "all-lacks": [(2, 2)]},
            {"file-rows": [(0, 4)]},
        ),
    ],
)
def test_what_was_changed_in_all_files_alike_is_named_with_the_input(
    alike: Lab, damage: Damage, expected: Named, without_input: Named
) -> None:
    damage(alike)
    assert named(alike, input_of(alike)) == expected
    assert named(alike) == without_input


def test_answers_swapped_between_two_prompts_everywhere_are_found(done: Lab) -> None:
    execute(swap("rows", "result", "position", 1, 3), swap("rows", "key", "position", 1, 3))(done)
    assert named(done, input_of(done)) == {"input-other": [(1, 1), (3, 3)]}
    assert named(done) == {"file-old": [(1, 1), (3, 3)]}
    in_both(exchange(2, 4, slice(2, None)))(done)
    assert named(done, input_of(done)) == {"input-other": [(1, 1), (3, 3)]}
    assert named(done) == {"file-unproven": [(0, 4)]}


SWAPPED_RESULTS = swap("rows", "result", "position", 1, 3)
SWAPPED_PROOFS = swap("rows", "is_kept", "position", 1, 3)
SWAPPED_QUESTIONS = [swap("results", column, "id", 2, 4) for column in ("key", "answer", "seal")] + [
    swap("requests", "key", "id", 2, 4)
]


@pytest.mark.parametrize("with_files", [False, True])
@pytest.mark.parametrize(
    ("statements", "without_input"),
    [([SWAPPED_RESULTS], True), ([SWAPPED_RESULTS, SWAPPED_PROOFS], True), (SWAPPED_QUESTIONS, False)],
    ids=["the answers", "the proofs too", "the earlier questions"],
)
def test_answers_that_two_rows_keep_are_told_apart(
    done: Lab, statements: list[str], without_input: bool, with_files: bool
) -> None:
    done.run(input_of(done), Service([]), "say {text}", chunk_size=5, on_change="reuse")
    execute(*statements)(done)
    if with_files:
        in_both(exchange(2, 4, slice(2, None)))(done)
    expected = [(1, 1), (3, 3)]
    assert named(done, input_of(done))["other-row"] == expected
    if without_input:
        assert named(done)["other-row"] == expected


def test_rows_that_are_known_by_their_id_alone_are_told(lab: Lab) -> None:
    finish(lab)
    rows = [(number, f"{text}!") for number, text in numbered(TEXTS)]
    data = write_input(lab, [*rows[:3], *numbered(TEXTS)[3:]])
    lab.run(data, Service([]), PROMPT, chunk_size=5, on_change="reuse", id_column="id")
    found = check(lab, data)
    assert found.ok
    assert "3 of them were edited, and recognised by the id alone" in found.notes[0]
    execute(swap("rows", "result", "position", 1, 2))(lab)
    assert named(lab)["other-row"] == [(1, 2)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO sources VALUES (99, 'other', 'https://other', '')",
        "UPDATE sources SET model = 'other'",
    ],
)
def test_who_gave_an_answer_is_compared_with_whom_the_run_asks(done: Lab, statement: str) -> None:
    execute(statement)(done)
    if "INSERT" in statement:
        execute("UPDATE results SET source = 99 WHERE id = 4", "UPDATE requests SET source = 99 WHERE id = 4")(done)
        assert named(done) == {"other-source": [(3, 3)], "asked-other": ["#4"]}
    else:
        assert named(done) == {"other-source": [(0, 11)], "asked-other": [f"#{n}" for n in range(1, 13)]}


def test_an_answer_of_another_endpoint_of_the_pool_is_told(lab: Lab) -> None:
    finish(lab, endpoints=[Endpoint("m"), Endpoint("n", max_concurrency=1)])
    [(number, source)] = lab.query("SELECT id, source FROM requests WHERE endpoint = 0 ORDER BY id LIMIT 1")
    for table in ("requests", "results"):
        lab.change(f"UPDATE {table} SET source = {3 - source} WHERE id = {number}")  # noqa: S608 - numbers of ours
    assert named(lab) == {"asked-other": [(number - 1, number - 1), f"#{number}"]}


MORE = [*numbered(TEXTS)[:4], ("new", "new"), *numbered(TEXTS)[4:]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([*numbered(TEXTS)[:4], ("n4", "edited"), *numbered(TEXTS)[5:]], {"input-other": [(4, 4)]}),
        ([*numbered(TEXTS)[:4], ("edited", "item 4"), *numbered(TEXTS)[5:]], {"file-old": [(4, 4)]}),
        ([*numbered(TEXTS)[:4], *numbered(TEXTS)[5:]], {"input-lacks": [(4, 4)]}),
        (numbered(TEXTS)[:-2], {"input-lacks": [(10, 11)]}),
        (MORE, {"input-more": [(4, 4)]}),
        ([*numbered(TEXTS), ("new", "new")], {"input-more": [(12, 12)]}),
        (
            [*numbered(TEXTS)[6:7], *numbered(TEXTS)[1:6], ("n0", "item 0"), *numbered(TEXTS)[7:]],
            {"input-other": [(0, 0), (6, 6)]},
        ),
    ],
)
def test_an_input_that_was_changed_is_named_row_by_row(done: Lab, rows: Rows, expected: Named) -> None:
    assert named(done, write_input(done, rows)) == expected


def test_an_input_without_a_column_that_was_asked_about_is_refused(done: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column 'text'"):
        check(done, write_table(tmp_path / "other.csv", ["id"], [["n0"]]))


# -- Runs that fit


def doubled(call: Call) -> Completion | Failure | None:
    """Fail each prompt once, one of them for good, and answer another one with nothing."""
    if call.prompt == "ask item 3":
        return refusal(400)
    if call.prompt == "ask item 5":
        return Completion(" ")
    return refusal(500) if call.nth == 1 else None


ODD = ["NA", "", "007", 'say "hi"', "a,b", "two\nlines", "a\rb", "\r\n", "😀数学", " ", "nul\0nul", "\ud800 half"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dedup": True},
        {"encoding": "utf-8-sig"},
        {"answer_column": "label"},
        {"limit": 7},
        {"param": {"temperature": 0.1}},
        {"endpoints": [Endpoint("m", max_concurrency=2), Endpoint("n", params={"top_k": 1})]},
    ],
)
def test_a_run_with_failures_fits_whatever_its_options(lab: Lab, options: dict[str, Any]) -> None:
    finish(lab, Service(asked(TEXTS), instead=doubled), **options)
    found = check(lab, input_of(lab))
    assert found.ok, str(found)
    assert found.notes == ()
    assert check(lab).ok
    sent, answered, failed = (sum(getattr(each, n) for each in found.endpoints) for n in ("sent", "answered", "failed"))
    assert sent == answered + failed == lab.query("SELECT count(*) FROM requests")[0][0]
    assert len(found.endpoints) == len(options.get("endpoints", "m"))


@pytest.mark.parametrize("label", ["infer", "label"])
def test_odd_text_fits_in_every_cell(lab: Lab, label: str) -> None:
    service = Service(ODD, instead=lambda call: Completion(f"{call.prompt},\0\ud800\r"))
    lab.run(ODD, service, chunk_size=5, answer_column=label)
    assert check(lab, ODD).ok
    assert check(lab).ok


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (PROMPT, {"system": "about {id}"}),
        (None, {"prompt_column": "text"}),
        (None, {"messages_column": "text", "system": "be kind"}),
    ],
)
def test_each_source_of_prompts_is_made_again(lab: Lab, source: str | None, options: dict[str, Any]) -> None:
    is_json = "messages_column" in options
    texts = [json.dumps([{"role": "user", "content": text}]) if is_json else text for text in TEXTS]
    data = write_input(lab, numbered(texts))
    lab.run(data, Service([*TEXTS, *asked(TEXTS)]), source, chunk_size=5, **options)
    assert check(lab, data).ok
    texts[4] = texts[4].replace("item", "edited")
    assert named(lab, write_input(lab, numbered(texts))) == {"input-other": [(4, 4)]}


def test_a_function_is_made_again_where_it_is_given_and_else_its_cells_are_compared(lab: Lab) -> None:
    data = write_input(lab, numbered(TEXTS))
    lab.run(data, Service(asked(TEXTS)), lambda row: f"ask {row['text']}", chunk_size=5)
    assert check(lab, data, lambda row: f"ask {row['text']}").notes == ()
    assert named(lab, data, lambda row: f"ask {row['text']}" if row["id"] != "n4" else "?") == {"input-other": [(4, 4)]}
    assert named(lab, data, PROMPT) == {}
    assert named(lab, data) == {}
    [note] = check(lab, data).notes
    assert "cannot hold a function" in note
    assert named(lab, write_input(lab, MORE)) == {"input-more": [(4, 4)]}
    edited = [*numbered(TEXTS)[:4], ("edited", "item 4"), *numbered(TEXTS)[5:]]
    assert named(lab, write_input(lab, edited)) == {"input-other": [(4, 4)]}


def test_a_table_without_rows_fits(lab: Lab) -> None:
    data = write_input(lab, [])
    lab.run(data, Service([]), PROMPT)
    assert check(lab, data).ok
    assert check(lab).ok


def test_answers_that_were_kept_or_adopted_are_told(done: Lab) -> None:
    done.run(input_of(done), Service([]), "say {text}", chunk_size=5, on_change="reuse")
    found = check(done, input_of(done))
    assert found.ok
    assert found.notes == ('12 rows keep an answer to an earlier question, as on_change="reuse" asked for.',)
    (done.directory / "journal_k.sqlite").unlink()
    done.run(input_of(done), Service([]), PROMPT, chunk_size=5)
    found = check(done, input_of(done))
    assert found.ok
    assert found.endpoints == ()
    assert found.notes == ("12 answers were adopted from files: their source and their questions are unknown.",)


def test_answers_of_an_older_batcher_have_no_seal(done: Lab) -> None:
    execute("UPDATE results SET seal = NULL")(done)
    found = check(done, input_of(done))
    assert found.ok
    assert found.notes == ("12 answers were journalled by an older batcher and have no seal to check them by.",)


def test_money_is_told_per_endpoint(lab: Lab) -> None:
    finish(lab, endpoints=[Endpoint("m", prices={"in": 1.0, "out": 10.0})])
    [account] = check(lab).to_dict()["endpoints"]
    assert account["cost_usd"] == pytest.approx(12 * (10 * 1e-6 + 2 * 10e-6))
    assert account["unpriced"] == 0
    assert "endpoint 1, m at https://api.openai.com/v1: 12 = 12 + 0 + 0; $0.00036 for answers" in str(check(lab))


# -- Runs that have not ended


def test_a_run_that_was_stopped_has_rows_left_and_nothing_else(lab: Lab) -> None:
    with pytest.raises(KeyboardInterrupt):
        finish(lab, endpoints=[Endpoint("m", max_concurrency=2)], at={3.5: lab.request_stop})
    left = 12 - len(lab.query("SELECT 1 FROM results"))
    assert 0 < left < 12
    found = check(lab, input_of(lab))
    shutil.copy(lab.path(0), lab.path(3))  # what runs leave behind is cleared away at the end
    assert named(lab) == named(lab, input_of(lab)) == {"left": [(12 - left, 11)]}
    lab.path(3).unlink()
    assert found.counts.left == left
    finish(lab)
    assert check(lab, input_of(lab)).ok


def test_a_run_at_work_is_told(lab: Lab) -> None:
    seen: list[Verification] = []
    finish(lab, endpoints=[Endpoint("m", max_concurrency=2)], at={3.5: lambda: seen.append(check(lab, input_of(lab)))})
    [found] = seen
    assert [each.kind for each in found.findings] == ["left"]
    assert found.endpoints[0].in_flight == 2
    assert found.notes[0].startswith("A run is at work")


def test_asking_again_leaves_files_behind_until_it_is_done(done: Lab) -> None:
    failing = Service(asked(TEXTS), instead=lambda call: refusal(400) if call.prompt == "ask item 3" else None)
    texts = [*TEXTS[:3], "changed", *TEXTS[4:]]
    data = write_input(done, numbered(texts))
    failing.prompts.add("ask changed")
    image = done.directory.parent / "image"
    done.run(
        data, failing, PROMPT, chunk_size=5, on_change="redo", at={0.5: lambda: shutil.copytree(done.directory, image)}
    )
    assert check(done, data).ok
    assert named(Lab(image), data) == {"left": [(3, 3)]}


# What a killed run may leave: rows to be asked, and files from before it.
TO_BE_MADE_ANEW = {"left", "file-old", "file-lost", "file-extra", "all-lost", "all-other", "all-lacks", "all-more"}

Step = tuple[list[int], dict[str, Any], float | None]

STEPS = st.lists(
    st.tuples(
        st.permutations(range(8)).flatmap(lambda order: st.integers(1, 8).map(lambda count: order[:count])),
        st.fixed_dictionaries(
            {
                "chunk_size": st.integers(1, 5),
                "on_change": st.sampled_from(["redo", "reuse"]),
                "dedup": st.booleans(),
                "retry_failed": st.booleans(),
                "limit": st.none() | st.integers(1, 8),
            }
        ),
        st.none() | st.floats(0, 6),
    ),
    min_size=1,
    max_size=4,
)


@given(STEPS)
@settings(max_examples=25, deadline=None)
def test_whatever_happened_before_a_run_that_ended_fits(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory) / "output")
        for number, (texts, options, killed_at) in enumerate(steps):
            image = Path(directory) / f"image {number}"

            def kill(lab: Lab = lab, image: Path = image) -> None:
                if lab.directory.exists():
                    shutil.copytree(lab.directory, image)

            data = [f"q{text % 6}" for text in texts]
            service = Service(data, lambda call: call.nth + len(call.prompt) % 3, instead=sometimes_refused)
            lab.run(data, service, at={} if killed_at is None else {killed_at: kill}, **options)
            found = check(lab, data)
            assert found.ok, str(found)
            assert check(lab).ok
            if image.exists():
                lab = Lab(image)
                kinds = {each.kind for each in check(lab).findings} if lab.query("SELECT 1 FROM runs") else set()
                assert kinds <= TO_BE_MADE_ANEW


def sometimes_refused(call: Call) -> Failure | None:
    return refusal(400) if call.prompt == "q3" else refusal(500) if call.prompt == "q4" and call.nth == 1 else None


# -- The journal's file


@pytest.fixture(scope="module")
def finished() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as directory:
        yield finish(Lab(Path(directory) / "output"))


def content_of(lab: Lab) -> list[Any]:
    """Read what matters; the texts as bytes, because the journal may keep them as either."""
    return lab.query(
        "SELECT position, r.key, status, cast(answer AS BLOB), cast(error AS BLOB)"
        " FROM rows r LEFT JOIN results a ON a.id = result"
    )


@given(at=st.integers(0, 10**6), bits=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_no_byte_of_the_journal_changes_an_answer_unseen(finished: Lab, at: int, bits: int) -> None:
    journal = bytearray((finished.directory / "journal_k.sqlite").read_bytes())
    used = [place for place, byte in enumerate(journal) if byte]  # most of the pages is empty
    journal[used[at % len(used)]] ^= bits
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        (lab.directory / "journal_k.sqlite").write_bytes(journal)
        try:
            kinds = named(lab).keys() - {"file-lost", "all-lost"}
        except OutputError:
            return
        assert kinds or content_of(lab) == content_of(finished)


def test_a_damaged_structure_is_named_or_cannot_be_read(done: Lab) -> None:
    path = done.directory / "journal_k.sqlite"
    content = path.read_bytes()
    [(page,)] = done.query("SELECT rootpage FROM sqlite_master WHERE name = 'chunks'")
    [(size,)] = done.query("PRAGMA page_size")
    [(pages,)] = done.query("PRAGMA page_count")
    path.write_bytes(content[:28] + (pages + 1).to_bytes(4) + content[32:] + bytes(size))
    assert list(named(done)) == ["damaged"]
    path.write_bytes(content[: (page - 1) * size + 3] + b"\xff\xff" + content[(page - 1) * size + 5 :])
    with pytest.raises(OutputError, match="malformed"):
        check(done)


# -- The command line


def test_the_exit_status_tells_whether_it_is_proven(done: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "k", str(input_of(done)), "--output-dir", str(done.directory)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{check(done, input_of(done))}\n"
    edit(0, put(3, 2, "better"))(done)
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert said["corrected"] == [{"path": str(done.path(0)), "rows": 1, "cells": 1}]
    edit(0, put(3, 0, "n9"))(done)
    assert main([*arguments, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["counts"] == {"rows": 12, "ok": 12, "invalid": 0, "error": 0, "left": 0}
    [finding] = said["findings"]
    assert finding["kind"] == "file-cells"
    assert finding["rows"] == [[2, 2]]
    assert finding["places"] == [f"{done.path(0)}, line 4"]


@pytest.mark.parametrize(
    ("keyword", "message"), [("other", "there is no run 'other' in"), ("a/b", "cannot be part of a file name")]
)
def test_where_nothing_can_be_verified_the_status_is_2(
    done: Lab, capsys: pytest.CaptureFixture[str], keyword: str, message: str
) -> None:
    assert main(["verify", keyword, "--output-dir", str(done.directory)]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises((OutputError, SettingsError), match=message):
        verify(keyword, output_dir=done.directory)


def test_verifying_writes_nothing(done: Lab) -> None:
    before = {path.name: path.read_bytes() for path in done.directory.iterdir()}
    check(done, input_of(done))
    assert {path.name: path.read_bytes() for path in done.directory.iterdir()} == before


def test_rows_are_named_as_ranges_and_not_without_end(lab: Lab) -> None:
    texts = [f"item {number}" for number in range(60)]
    data = write_input(lab, numbered(texts))
    lab.run(data, Service(asked(texts)), PROMPT)
    execute("UPDATE results SET answer = '' WHERE (id - 1) % 2 = 0 OR id IN (2, 4)")(lab)
    [finding] = check(lab, data).findings
    assert finding.rows[:2] == ((0, 4), (6, 6))
    assert str(finding).endswith(
        ": rows 0-4, 6, 8, "
        + ", ".join(map(str, range(10, 44, 2)))
        + " and 8 more (`rows` of the finding has them all)"
    )
