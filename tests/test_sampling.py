"""`batcher sample` draws rows to be labelled by hand, keeps what people have written, and finds its rows again."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import TENTH

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import InputError, KeywordBusy, OutputError, SettingsError
from batcher.journal.opening import open_journal, read_samples
from batcher.journal.sampling import Draw, DrawnRow, Gold, chances_of_labelled, labelling, record
from batcher.output.opening import opened
from batcher.records import Completion, Stratum
from batcher.reports.quality.labelled import Labelled, LabelledRun

LABELS = ["good", "bad", "ugly"]
ROWS = 60
ODD = 20
"""Each row whose number is a multiple of it gets an answer that is no label."""
HEADER = ["id", "text"]
TABLE = [[f"{number:03}", f"item {number}, né"] for number in range(ROWS)]

SLOWLY: dict[str, Any] = {"endpoints": [Endpoint("m", max_concurrency=10)]}

Row = list[str]


def number_in(text: str) -> int:
    return int(text.split()[1].strip(","))


def label_of(text: str) -> str:
    number = number_in(text)
    return LABELS[number % 3] if number % ODD else "neither"


class Anything(set[str]):
    """The prompts of a service that answers whatever it is asked."""

    def __contains__(self, _prompt: object) -> bool:
        return True


def service(answer: Callable[[str], str] = label_of) -> Service:
    made = Service([], instead=lambda call: Completion(answer(call.prompt), "stop"))
    made.prompts = Anything()
    return made


def write(path: Path, rows: Sequence[Row], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def run(lab: Lab, path: Any, **options: Any) -> Service:
    asked = service()
    given = {"prompt": "{text}", "labels": LABELS, "chunk_size": 25, **options}
    lab.run(path, asked, **given)
    return asked


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv", TABLE)


@pytest.fixture
def done(lab: Lab, table: Path) -> Lab:
    run(lab, table)
    return lab


def sample(lab: Lab, n: int | None = None, **options: Any) -> Any:
    return batcher.sample("k", n, output_dir=lab.directory, **options)


def filled(lab: Lab, gold: Callable[[Row], str], name: str = "gold") -> None:
    """Label the sample by hand, in a program that writes CSV as batcher does."""
    rows = lab.rows("sample")
    for row in rows:
        row[name] = gold([*row.values()]) or row[name]
    with lab.path("sample").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def found(lab: Lab, **options: Any) -> Labelled:
    with opened("k", lab.directory, read_samples) as past, past.journal.snapshot():
        return LabelledRun(past, **options).found()


def texts_in(lab: Lab) -> list[str]:
    return [row["text"] for row in lab.rows("sample")]


# -- Drawing


def test_the_file_has_the_input_and_an_empty_column_and_nothing_of_the_model(done: Lab) -> None:
    report = sample(done, 10)
    assert report.path == done.path("sample")
    rows = done.rows("sample")
    assert [*rows[0]] == ["sample_row", "id", "text", "gold"]
    assert [row["sample_row"] for row in rows] == [str(number) for number in range(1, 11)]
    assert all([row["id"], row["text"]] in TABLE and row["gold"] == "" for row in rows)
    ids = [row["id"] for row in rows]
    assert len({*ids}) == 10
    assert ids != sorted(ids)
    assert (report.rows, report.new, report.labelled, report.population) == (10, 10, 0, ROWS)


def test_a_larger_sample_keeps_the_rows_and_what_is_filled_in(done: Lab) -> None:
    sample(done, 10)
    before = texts_in(done)
    filled(done, lambda row: "Good" if row[0] in {"1", "4"} else "")
    report = sample(done, 25)
    rows = done.rows("sample")
    assert texts_in(done)[:10] == before
    assert [row["gold"] for row in rows] == ["good", "", "", "good", *[""] * 21]
    assert (report.rows, report.new, report.read, report.labelled) == (25, 15, 2, 2)
    assert done.query("SELECT design, rows, seed FROM draws") == [("random", 10, 0), ("random", 25, 0)]
    assert {chance for (chance,) in done.query("SELECT chance FROM drawn")} == {25 / ROWS}


def test_a_draw_per_label_takes_rows_of_each_label_and_of_those_without_one(done: Lab) -> None:
    report = sample(done, 2, per_label=True)
    labels = [label for (label,) in done.query("SELECT label FROM drawn")]
    assert sorted(labels, key=str) == sorted([*LABELS * 2, None, None], key=str)
    counts = {each.label: each.rows for each in report.strata}
    assert counts == found(done).counts == {"good": 19, "bad": 19, "ugly": 19, None: 3}
    by_label = dict(done.query("SELECT label, chance FROM drawn"))
    assert by_label == {label: 2 / rows for label, rows in counts.items()}
    assert "(no label): 2 of 3" in str(report)
    assert "of each" in report._repr_html_()


def test_the_chance_of_a_row_is_the_largest_of_all_draws(done: Lab) -> None:
    sample(done, 12)
    sample(done, 2, per_label=True)
    chances = {*done.query("SELECT DISTINCT label, chance FROM drawn")}
    assert chances == {("good", 0.2), ("bad", 0.2), ("ugly", 0.2), (None, 2 / 3)}


def test_the_same_draw_again_adds_nothing(done: Lab) -> None:
    sample(done, 10)
    content = done.path("sample").read_bytes()
    report = sample(done, 10)
    assert report.new == 0
    assert "the sample has these rows already" in str(report)
    assert done.path("sample").read_bytes() == content
    assert done.query("SELECT count(*) FROM draws") == [(1,)]


def test_a_smaller_draw_takes_no_row_out(done: Lab) -> None:
    sample(done, 20)
    assert sample(done, 5).rows == len(done.rows("sample")) == 20


def test_another_seed_draws_other_rows_and_cannot_be_mixed_with_the_first(done: Lab) -> None:
    sample(done, 10, seed=5)
    others = {*texts_in(done)}
    with pytest.raises(SettingsError, match=r"seed=5, and a larger one holds it only with the same"):
        sample(done, 20, seed=6)
    assert done.query("SELECT count(*) FROM drawn") == [(10,)]
    assert sample(done, 20).seed == 5
    done.change("DELETE FROM drawn")
    done.change("DELETE FROM draws")
    done.path("sample").unlink()
    sample(done, 10)
    assert {*texts_in(done)} != others


def test_a_sample_of_more_rows_than_there_are_is_all_of_them(done: Lab) -> None:
    assert sample(done, 1000).rows == ROWS
    assert {chance for (chance,) in done.query("SELECT chance FROM drawn")} == {1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no sample of 'k' was drawn yet: give n"),
        ({"n": 0}, "n must be"),
        ({"n": 5, "seed": -1}, "seed"),
        ({"per_label": True}, "give n, too"),
        ({"n": 5, "read": "none.csv"}, "none.csv: there is no such file"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_changes_nothing(done: Lab, options: dict[str, Any], said: str) -> None:
    before = done.journal()
    with pytest.raises((SettingsError, OutputError), match=said):
        sample(done, **options)
    assert done.journal() == before
    assert not done.path("sample").exists()


def test_rows_per_label_need_labels(lab: Lab, table: Path) -> None:
    run(lab, table, labels=None)
    with pytest.raises(SettingsError, match="has no list of labels"):
        sample(lab, 5, per_label=True)
    assert sample(lab, 5).rows == 5
    assert found(lab).counts == {"good": 19, "bad": 19, "ugly": 19, "neither": 3}


def test_vectors_are_no_answers_to_be_labelled(done: Lab) -> None:
    done.change("UPDATE runs SET question = json_set(question, '$.task', 'embedding')")
    with pytest.raises(SettingsError, match="are vectors, which cannot be labelled by hand"):
        sample(done, 5)


def test_a_journal_that_does_not_know_its_table_is_brought_up_to_date_by_a_run(done: Lab, table: Path) -> None:
    done.change("UPDATE runs SET question = json_remove(question, '$.table')")
    with pytest.raises(OutputError, match="run its command once, which asks nothing"):
        sample(done, 5)
    assert not run(done, table).calls
    assert sample(done, 5).rows == 5


def test_an_unfinished_run_has_rows_without_a_label_and_says_so(lab: Lab, table: Path) -> None:
    with pytest.raises(batcher.Interrupted):
        lab.run(table, service(), "{text}", {2.5: lab.request_stop}, labels=LABELS, **SLOWLY)
    report = sample(lab, 3, per_label=True)
    left = lab.query("SELECT count(*) FROM rows WHERE result IS NULL")[0][0]
    assert 0 < left < ROWS
    assert f"{left} rows have no result yet" in str(report)
    assert next(each for each in report.strata if each.label is None).rows >= left


@pytest.mark.parametrize("options", [{"limit": 20}, {"sample": 20}])
def test_the_sample_is_of_the_rows_of_the_run_alone(lab: Lab, table: Path, options: dict[str, int]) -> None:
    run(lab, table, **options)
    report = sample(lab, 15)
    assert report.population == 20
    assert "drawn from the 20 rows of the run" in str(report)
    cells = {position: text for position, (_, text) in enumerate(TABLE)}
    own = {row["text"] for row in lab.rows()}
    assert {*texts_in(lab)} <= own <= {*cells.values()}


def test_rows_of_examples_are_not_drawn_and_are_in_no_number(lab: Lab, table: Path, tmp_path: Path) -> None:
    examples = [["text", "label"], *([row[1], label_of(row[1])] for row in TABLE[1:4])]
    run(lab, table, examples=write(tmp_path / "examples.csv", examples[1:], examples[0]), shots=2)
    held = len(lab.query("SELECT 1 FROM runs, json_each(question, '$.examples.keys')"))
    assert held == 3
    report = sample(lab, 1000)
    assert report.rows == report.population == ROWS - held
    assert not {row[1] for row in TABLE[1:4]} & {*texts_in(lab)}
    assert (found(lab).rows, found(lab).examples) == (ROWS - held, held)
    assert "3 rows ask what an example in the prompt asks, and cannot be drawn" in str(report)


def test_a_run_at_work_is_left_alone(lab: Lab, table: Path) -> None:
    said: list[str] = []

    def draw_now() -> None:
        with pytest.raises(KeywordBusy) as busy:
            sample(lab, 5)
        said.append(str(busy.value))

    lab.run(table, service(), "{text}", {2.5: draw_now}, labels=LABELS, **SLOWLY)
    assert len(said) == 1
    assert "another run in this process has it" in said[0]
    assert main(["sample", "k", "-n", "5", "--output-dir", str(lab.directory)]) == 0
    with open_journal(lab.directory / "journal_k.sqlite"):
        assert main(["sample", "k", "-n", "5", "--output-dir", str(lab.directory)]) == 4


# -- The table changes


def changed(lab: Lab, table: Path, rows: Sequence[Row], header: Sequence[str] = HEADER, **options: Any) -> None:
    write(table, rows, header)
    run(lab, table, on_change="redo", **options)


def labelled_texts(lab: Lab) -> dict[str, tuple[str, float]]:
    """Return the hand label and the chance of each row that has one, by the text at its present position."""
    texts = [row["text"] for row in lab.rows()]
    return {texts[each.position]: (each.gold, each.chance or 0.0) for each in found(lab).sampled}


@pytest.fixture
def by_hand(done: Lab) -> Lab:
    """A sample whose first eight rows are labelled."""
    sample(done, 12)
    filled(done, lambda row: label_of(row[2]) if label_of(row[2]) in LABELS else "bad")
    sample(done)
    return done


def test_rows_are_found_again_after_the_table_was_sorted_and_rows_came_and_went(by_hand: Lab, table: Path) -> None:
    before = labelled_texts(by_hand)
    drawn = texts_in(by_hand)
    kept = [row for row in TABLE if row[1] not in drawn[:2]]
    changed(by_hand, table, [*reversed(kept[:30]), ["new", "item 900, né"], *kept[30:]])
    after = labelled_texts(by_hand)
    assert after == {text: before[text] for text in drawn[2:]}
    now = found(by_hand)
    assert (now.gone, now.drawn, now.waiting) == (2, 12, 0)
    report = sample(by_hand)
    assert "2 rows that were drawn are in the table no more, or changed, 2 of them with a hand label" in str(report)
    changed(by_hand, table, TABLE)
    assert labelled_texts(by_hand) == before


def test_a_row_is_known_by_its_question_if_another_cell_of_it_changes(by_hand: Lab, table: Path) -> None:
    before = labelled_texts(by_hand)
    changed(by_hand, table, [[f"new {row[0]}", row[1]] for row in reversed(TABLE)])
    assert labelled_texts(by_hand) == before


def test_a_row_is_found_in_a_table_with_more_columns_and_a_larger_sample_still_holds_it(
    by_hand: Lab, table: Path
) -> None:
    before = texts_in(by_hand)
    changed(by_hand, table, [["x", *row] for row in reversed(TABLE)], ["more", *HEADER])
    assert sample(by_hand, 20).rows == 20
    assert texts_in(by_hand)[:12] == before
    assert [*by_hand.rows("sample")[0]] == ["sample_row", "more", "id", "text", "gold"]


def test_without_a_column_of_the_first_draw_no_more_rows_can_be_drawn(by_hand: Lab, table: Path) -> None:
    before = labelled_texts(by_hand)
    changed(by_hand, table, [[row[1]] for row in TABLE], ["text"])
    assert labelled_texts(by_hand) == before
    with pytest.raises(OutputError, match="the table has no column 'id' any more"):
        sample(by_hand, 30)


def test_equal_rows_are_found_again_in_order(lab: Lab, table: Path) -> None:
    twins = [["7", "item 7, né"] for _ in range(10)]
    write(table, twins)
    run(lab, table)
    sample(lab, 4)
    filled(lab, lambda row: LABELS[int(row[0]) % 3])
    sample(lab)
    before = positions(lab)
    changed(lab, table, [["9", "item 9, né"], *twins])
    after = positions(lab)
    assert len(after) == len(before) == 4
    assert [after[each] for each in sorted(after)] == [before[each] for each in sorted(before)]


def positions(lab: Lab) -> dict[int, str]:
    return {each.position: each.gold for each in found(lab).sampled}


def test_rows_that_are_added_had_no_chance_until_more_are_drawn(by_hand: Lab, table: Path) -> None:
    assert found(by_hand).never == 0
    more = [[f"n{number}", f"item {number}, né"] for number in range(1000, 1060)]
    changed(by_hand, table, [*TABLE, *more])
    assert found(by_hand).never == 60
    sample(by_hand, 40)
    assert found(by_hand).never == 0
    chances = dict(by_hand.query("SELECT id, chance FROM drawn"))
    assert chances == dict.fromkeys(chances, 40 / 120)


def test_a_draw_from_a_longer_table_gives_new_rows_their_own_chance(by_hand: Lab, table: Path) -> None:
    more = [[f"n{number}", f"item {number}, né"] for number in range(1000, 1060)]
    changed(by_hand, table, [*TABLE, *more])
    sample(by_hand, 12)
    texts = [row["text"] for row in by_hand.rows()]
    chances = {texts[position]: chance for position, chance in by_hand.query("SELECT position, chance FROM drawn")}
    new = {text: chance for text, chance in chances.items() if number_in(text) >= 1000}
    assert new
    assert {*new.values()} == {12 / 120}
    assert {chance for text, chance in chances.items() if text not in new} == {12 / 60}


@settings(max_examples=12)
@given(st.permutations(range(ROWS)), st.sets(st.integers(0, ROWS - 1), max_size=20))
def test_every_row_that_is_left_is_found_after_any_shuffling(order: list[int], without: set[int]) -> None:
    import tempfile  # noqa: PLC0415 - one directory for each example

    with tempfile.TemporaryDirectory() as name:
        table = write(Path(name) / "table.csv", TABLE)
        lab = Lab(Path(name) / "output")
        run(lab, table)
        sample(lab, 15)
        filled(lab, lambda row: LABELS[number_in(row[2]) % 3])
        sample(lab)
        before = labelled_texts(lab)
        write(table, [TABLE[number] for number in order if number not in without])
        run(lab, table, on_change="redo")
        expected = {text: gold for text, gold in before.items() if number_in(text) not in without}
        assert labelled_texts(lab) == expected


# -- Inputs


def test_a_table_in_memory_gives_its_rows_by_the_chunk_files(lab: Lab) -> None:
    frame = pd.DataFrame(TABLE, columns=HEADER)
    run(lab, frame)
    sample(lab, 10)
    assert all([row["id"], row["text"]] in TABLE for row in lab.rows("sample"))


def test_an_unfinished_run_of_a_table_in_memory_needs_the_table(lab: Lab) -> None:
    frame = pd.DataFrame(TABLE, columns=HEADER)
    with pytest.raises(batcher.Interrupted):
        lab.run(frame, service(), "{text}", {2.5: lab.request_stop}, labels=LABELS, **SLOWLY)
    with pytest.raises(InputError, match=r"give the input as data=, or run again"):
        sample(lab, 10)
    assert lab.query("SELECT count(*) FROM draws") == [(0,)]
    frame["another"] = 1
    assert sample(lab, 10, data=frame).rows == len(lab.rows("sample")) == 10


def test_an_input_that_has_changed_since_leaves_the_rows_to_the_chunk_files(done: Lab, table: Path) -> None:
    write(table, [["x", "y"]] * ROWS)
    sample(done, 10)
    assert all([row["id"], row["text"]] in TABLE for row in done.rows("sample"))


def test_files_of_parquet_give_a_sample_in_csv(lab: Lab, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": range(ROWS), "text": [row[1] for row in TABLE], "when": pd.Timestamp("2026-01-02")})
    frame.to_parquet(tmp_path / "table.parquet")
    lab.run(tmp_path / "table.parquet", service(), "{text}", labels=LABELS, format="parquet")
    sample(lab, 10)
    rows = lab.rows("sample")
    assert all(TABLE[int(row["id"])][1] == row["text"] for row in rows)
    filled(lab, lambda _row: "ugly")
    assert sample(lab).labelled == 10


def test_the_file_has_the_encoding_of_the_run(lab: Lab, table: Path) -> None:
    run(lab, table, encoding="utf-8-sig")
    sample(lab, 5)
    assert lab.path("sample").read_bytes().startswith("\ufeffsample_row,id".encode())


def test_columns_of_the_input_keep_their_names(lab: Lab, table: Path) -> None:
    write(table, [[*row, "mine"] for row in TABLE], [*HEADER, "gold"])
    run(lab, table)
    report = sample(lab, 5)
    assert "so the file's is 'gold_'" in str(report)
    assert {row["gold"] for row in lab.rows("sample")} == {"mine"}
    filled(lab, lambda _row: "bad", "gold_")
    assert sample(lab).labelled == 5


def test_the_column_of_right_answers_is_not_shown(lab: Lab, table: Path) -> None:
    write(table, [[*row, "bad"] for row in TABLE], [*HEADER, "gold"])
    run(lab, table, gold="gold")
    sample(lab, 5)
    assert [*lab.rows("sample")[0]] == ["sample_row", "id", "text", "gold"]
    assert {row["gold"] for row in lab.rows("sample")} == {""}


def test_rows_of_a_file_of_messages_are_drawn_as_they_stand(lab: Lab, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": row[1]}]} for row in TABLE]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    lab.run(path, service(), messages_column="messages", labels=LABELS)
    sample(lab, 5)
    drawn = [json.loads(row["messages"]) for row in lab.rows("sample")]
    assert all({"messages": messages} in lines for messages in drawn)


def test_rows_that_share_a_question_are_drawn_each_for_itself(lab: Lab, table: Path) -> None:
    write(table, [[str(number), "item 7, né"] for number in range(20)])
    asked = run(lab, table, dedup=True)
    assert asked.answered.total() == 0
    assert len(asked.calls) == 1
    assert sample(lab, 10).rows == 10
    assert found(lab).counts == {"bad": 20}


# -- Interruptions


def test_a_file_that_could_not_be_written_is_written_by_the_next_call(done: Lab) -> None:
    done.path("sample").mkdir()
    with pytest.raises(OutputError, match=r"sample_k\.csv"):
        sample(done, 5)
    done.path("sample").rmdir()
    assert sample(done, 5).rows == len(done.rows("sample")) == 5


def test_a_lost_file_comes_back_with_the_hand_labels(by_hand: Lab) -> None:
    before = by_hand.rows("sample")
    by_hand.path("sample").unlink()
    assert sample(by_hand).labelled == 12
    assert by_hand.rows("sample") == before


def test_a_journal_of_version_7_is_brought_up_to_date_when_something_is_drawn(done: Lab) -> None:
    for statement in TENTH:
        done.change(statement)
    for table in ("opinions", "votes", "draws", "drawn", "gold", "corrections"):
        done.change(f"DROP TABLE {table}")
    done.change("ALTER TABLE responses DROP COLUMN confidence")
    [(stamp,)] = done.query("PRAGMA user_version")
    done.change(f"PRAGMA user_version = {stamp - 3}")
    assert found(done).drawn == 0
    assert sample(done, 5).rows == 5
    assert batcher.verify("k", output_dir=done.directory).ok
    again = service()
    done.run(write(done.directory.parent / "table.csv", TABLE), again, "{text}", labels=LABELS, chunk_size=25)
    assert not again.calls


def test_a_journal_of_version_8_has_its_hand_labels_and_gets_more_with_who_gave_them(by_hand: Lab) -> None:
    for statement in TENTH:
        by_hand.change(statement)
    by_hand.change("DROP TABLE corrections")
    for column in ("who", "note"):
        by_hand.change(f"ALTER TABLE gold DROP COLUMN {column}")
    [(stamp,)] = by_hand.query("PRAGMA user_version")
    by_hand.change(f"PRAGMA user_version = {stamp - 2}")
    with read_samples(by_hand.directory / "journal_k.sqlite") as journal:
        before = journal.gold()
        assert len(before) == 12
        assert {(each.who, each.note) for each in before.values()} == {("", "")}
    assert found(by_hand).gold == 12
    [first, *_] = before
    given = Gold(first, "good", "review", who="Ada \udc80", note="sure")
    record(by_hand.directory / "journal_k.sqlite", labelling([given]))
    with read_samples(by_hand.directory / "journal_k.sqlite") as journal:
        after = journal.gold()
    assert after[first]._replace(at=0.0) == given
    assert {**after, first: before[first]} == before
    assert batcher.verify("k", output_dir=by_hand.directory).ok


def test_a_copy_of_the_directory_has_the_sample(by_hand: Lab, tmp_path: Path) -> None:
    shutil.copytree(by_hand.directory, tmp_path / "copy")
    assert found(Lab(tmp_path / "copy")).gold == 12


# -- In use


def test_the_command_line_prints_the_path_and_says_the_rest(done: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "k", "-n", "5", "--per-label", "--output-dir", str(done.directory)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(done.path("sample"))
    assert "k: a sample of 18 rows, drawn from 60" in err
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["new"], said["waiting"], said["path"]) == (18, 0, 18, str(done.path("sample")))
    assert {"label": None, "rows": 3, "drawn": 3} in said["strata"]
    assert main(["sample", "k", "--output-dir", str(done.directory), "--seed", "9"]) == 2


def test_the_sample_is_drawn_in_a_notebook_too(done: Lab) -> None:
    async def cell() -> Any:
        return sample(done, 5)

    report = asyncio.run(cell())
    assert "<table>" in report._repr_html_()
    assert report.waiting == 5


def test_a_sample_changes_nothing_that_a_run_wrote(done: Lab, table: Path) -> None:
    before = {name: content for name, content in done.files().items() if "sample" not in name}
    sample(done, 10)
    filled(done, lambda _row: "good")
    sample(done)
    again = run(done, table)
    assert not again.calls
    assert {name: content for name, content in done.files().items() if "sample" not in name} == before
    assert batcher.verify("k", table, output_dir=done.directory).ok
    assert [row["gold"] for row in done.rows("sample")] == ["good"] * 10


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("UPDATE drawn SET chance = 1.5 WHERE id = 3", "drawn 3"),
        ("UPDATE drawn SET draw = 7 WHERE id = 2", "drawn 2"),
        ("DELETE FROM drawn WHERE id = 12", "gold 12"),
        ("UPDATE draws SET strata = '[[null, 5, 10, 0.5]]'", "draws 1"),
        ("UPDATE draws SET strata = 'odd'", "draws 1"),
    ],
)
def test_verify_names_what_contradicts_itself_in_the_sample(by_hand: Lab, damage: str, place: str) -> None:
    assert batcher.verify("k", output_dir=by_hand.directory).ok
    by_hand.change(damage)
    [finding] = batcher.verify("k", output_dir=by_hand.directory).findings
    assert (finding.kind, finding.places) == ("sample-other", (place,))


def test_a_later_draw_that_is_labelled_in_part_leaves_the_chances_of_the_earlier_one() -> None:
    draws = [
        Draw(1, 0.0, "random", 4, 0, (Stratum(None, 100, 4, 0.04),)),
        Draw(2, 0.0, "per label", 4, 0, (Stratum("a", 90, 4, 0.05), Stratum("b", 10, 4, 0.4))),
    ]
    kinds = [(1, "a"), (1, "a"), (1, "a"), (1, "b"), (2, "a"), (2, "b"), (2, "b"), (2, "b")]
    chance = {"a": 4 / 90, "b": 4 / 10}
    rows = [DrawnRow(at, draw, at, b"", b"", label, chance[label]) for at, (draw, label) in enumerate(kinds)]
    # All of the first draw, and one of four of the second.
    found = chances_of_labelled(draws, rows, range(8), range(5))
    assert found[0] == pytest.approx(0.04 + (4 / 90 - 0.04) / 4)
    assert found[5] == pytest.approx(0.04 + (0.4 - 0.04) / 4)
    # All that are in the table are labelled.
    assert chances_of_labelled(draws, rows, range(5), range(5))[5] == pytest.approx(0.4)
    # One draw: all chances are smaller by the same share.
    one = chances_of_labelled(draws[:1], rows[:4], range(4), [0, 2])
    assert one == {row.id: pytest.approx(row.chance / 2) for row in rows[:4]}
