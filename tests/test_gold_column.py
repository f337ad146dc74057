"""`--gold` takes the right answers that the table holds: they are checked, recorded and never sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from test_sampling import LABELS, ODD, TABLE, found, label_of, number_in, run, sample, service, write

import batcher
from batcher.errors import InputError, OutputError, SettingsError
from batcher.journal.opening import read_samples
from batcher.output.opening import opened
from batcher.reports.quality.labelled import GoldRow, Labelled, LabelledRun

HEADER = ["id", "text", "truth"]


def truth(number: int) -> str:
    """Return the right label: the model is right in the first half, and says the next label in the second."""
    return LABELS[(number + (number >= 30)) % 3]


def table(path: Path, *, without: int = 0, changed: str = "") -> Path:
    """Write the table; each row whose number is a multiple of `without` has no right label."""
    rows = [[*row, truth(number) if not without or number % without else changed] for number, row in enumerate(TABLE)]
    return write(path / "table.csv", rows, HEADER)


def rows_of(lab: Lab, **options: Any) -> list[GoldRow]:
    with opened("k", lab.directory, read_samples) as past, past.journal.snapshot():
        reads = LabelledRun(past, **options)
        return [*reads.gold_rows(reads.found())]


def expected(*, without: int = 0) -> dict[tuple[str | None, str], int]:
    pairs: dict[tuple[str | None, str], int] = {}
    for number, (_, text) in enumerate(TABLE):
        if not without or number % without:
            label = label_of(text) if number % ODD else None
            pairs[label, truth(number)] = pairs.get((label, truth(number)), 0) + 1
    return pairs


def test_every_row_is_counted_by_both_labels(lab: Lab, tmp_path: Path) -> None:
    asked = run(lab, table(tmp_path), gold="truth")
    assert not any("truth" in call.prompt for call in asked.calls)
    now = found(lab)
    assert (now.source, now.kind, now.column) == ("column", "all", "truth")
    assert now.pairs == expected()
    assert (now.gold, now.drawn, now.counts) == (60, 60, {"good": 19, "bad": 19, "ugly": 19, None: 3})
    assert now.design == "60 hand labels in column 'truth': each row has one"
    rows = rows_of(lab)
    assert [each.position for each in rows] == [*range(60)]
    assert {(each.label, each.gold, each.chance) for each in rows} == {(*pair, 1.0) for pair in expected()}


def test_it_may_be_added_to_a_run_that_is_done_and_asks_nothing_anew(lab: Lab, tmp_path: Path) -> None:
    run(lab, table(tmp_path))
    before = lab.files()
    keys = lab.query("SELECT key FROM rows ORDER BY position")
    assert found(lab).source == ""
    assert not run(lab, table(tmp_path), gold="truth").calls
    assert lab.query("SELECT key FROM rows ORDER BY position") == keys
    assert lab.files() == before
    assert found(lab).pairs == expected()


def test_a_column_that_is_added_to_the_table_later_asks_nothing_anew(lab: Lab, tmp_path: Path) -> None:
    run(lab, write(tmp_path / "table.csv", TABLE))
    sample(lab, 5)
    assert not run(lab, table(tmp_path), gold="truth").calls
    assert found(lab).kind == "all"


@pytest.mark.parametrize("empty", ["", "?", "  "])
def test_a_column_with_gaps_has_rows_of_which_nobody_says_how_they_were_chosen(
    lab: Lab, tmp_path: Path, empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lab, table(tmp_path, without=4, changed=empty), gold="truth", quiet=False)
    said = capsys.readouterr().err
    assert "Column 'truth' has the right answer of 45 of 60 rows; it is not sent." in said
    assert 'so there will be no intervals: if at random, gold_drawn="random".' in said
    assert (found(lab).kind, found(lab).pairs) == ("unknown", expected(without=4))
    assert len(rows_of(lab)) == 45
    run(lab, table(tmp_path, without=4, changed=empty), gold="truth", gold_drawn="random")
    assert found(lab).kind == "random column"


def test_hand_labels_of_a_drawn_sample_come_before_a_column_with_gaps(lab: Lab, tmp_path: Path) -> None:
    run(lab, table(tmp_path, without=4), gold="truth")
    sample(lab, 3)
    assert (found(lab).source, found(lab).gold) == ("column", 45)
    path = lab.path("sample")
    path.write_text(path.read_text("utf-8").replace(",\n", ",bad\n"), "utf-8")
    sample(lab)
    assert (found(lab).source, found(lab).gold) == ("sample", 3)


def test_texts_are_read_as_answers_are(lab: Lab, tmp_path: Path) -> None:
    said = ["GOOD", " bad", "the worst", "good."]
    write(tmp_path / "table.csv", [[*row, said[number % 4]] for number, row in enumerate(TABLE)], HEADER)
    run(lab, tmp_path / "table.csv", labels={"labels": LABELS, "aliases": {"the worst": "ugly"}}, gold="truth")
    assert found(lab).kind == "all"
    golds = [each.gold for each in rows_of(lab)]
    assert golds == ["good", "bad", "ugly", "good"] * 15


def test_rows_of_examples_have_no_hand_label(lab: Lab, tmp_path: Path) -> None:
    examples = [[row[1], label_of(row[1])] for row in TABLE[1:4]]
    write(tmp_path / "examples.csv", examples, ["text", "label"])
    run(lab, table(tmp_path), gold="truth", examples=tmp_path / "examples.csv", shots=2)
    now = found(lab)
    assert (now.gold, now.rows, now.examples) == (57, 57, 3)
    assert {1, 2, 3}.isdisjoint(each.position for each in rows_of(lab))


# -- What is refused before anything is sent


def refused(lab: Lab, path: Path, error: type[Exception], said: str, **options: Any) -> None:
    asked = service()
    with pytest.raises(error, match=said):
        lab.run(path, asked, **{"prompt": "{text}", "labels": LABELS, "gold": "truth"} | options)
    assert not asked.calls
    assert not lab.directory.exists()


def test_a_label_that_is_none_is_named_with_its_row(lab: Lab, tmp_path: Path) -> None:
    rows = [[*row, "godo" if number == 7 else "good"] for number, row in enumerate(TABLE)]
    path = write(tmp_path / "table.csv", rows, HEADER)
    said = r"row 7 \(counted from 0\), column 'truth' \(gold\): 'godo' is none of the labels: did you mean 'good'"
    refused(lab, path, InputError, said)
    with pytest.raises(InputError, match=said):
        batcher.plan(path, "{text}", labels=LABELS, gold="truth", keyword="k", model="m", output_dir=lab.directory)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"gold": "Truth"}, InputError, r"no column 'Truth' \(did you mean 'truth'\?\)"),
        ({"prompt": "{text} {truth}"}, SettingsError, "the model would see the right answer"),
        ({"prompt": "{text}", "system": "Say {truth}"}, SettingsError, "the model would see the right answer"),
        ({"prompt": None, "prompt_column": "truth"}, SettingsError, "the model would see the right answer"),
        ({"gold": None, "gold_drawn": "all"}, SettingsError, "goes with gold"),
        ({"labels": None, "task": "embedding"}, SettingsError, "these are vectors"),
    ],
)
def test_a_column_that_the_model_would_see_or_that_is_not_there_is_refused(
    lab: Lab, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    refused(lab, table(tmp_path), error, said, **options)


def test_a_gap_contradicts_all(lab: Lab, tmp_path: Path) -> None:
    said = r"row 0 \(counted from 0\): column 'truth' is empty, and gold_drawn=\"all\" says that each row has its"
    refused(lab, table(tmp_path, without=4), InputError, said, gold_drawn="all")


def test_a_prompt_function_gets_the_row_without_it(lab: Lab, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def prompt(row: dict[str, Any]) -> str:
        seen.append(row)
        return str(row["text"])

    lab.run(table(tmp_path), service(), prompt, labels=LABELS, gold="truth")
    assert {*map(tuple, seen)} == {("id", "text")}
    assert found(lab).pairs == expected()
    with pytest.raises(InputError, match="the prompt function reads column 'truth', which holds the right answers"):
        lab.run(table(tmp_path), service(), lambda row: f"{row['truth']}", labels=LABELS, gold="truth")
    with pytest.raises(InputError, match="KeyError: 'none'"):
        lab.run(table(tmp_path), service(), lambda row: f"{row['none']}", labels=LABELS, gold="truth")


# -- Without labels


def test_right_texts_and_numbers_are_read_in_the_table(lab: Lab, tmp_path: Path) -> None:
    rows = [[*row, str(number_in(row[1]) * 2)] for row in TABLE]
    path = write(tmp_path / "table.csv", rows, HEADER)
    asked = service(lambda text: str(number_in(text)))
    lab.run(path, asked, "{text}", gold="truth")
    found_rows = rows_of(lab)
    assert [(each.label, each.gold) for each in found_rows] == [(str(number), str(2 * number)) for number in range(60)]
    assert found(lab).gold == 60
    path.unlink()
    with pytest.raises(OutputError, match="which is not where it was: put it back there"):
        rows_of(lab)
    rows[5][2] = "another"
    write(path, rows, HEADER)
    with pytest.raises(OutputError, match=r"column 'truth' of the input has changed since the run, in row 5"):
        rows_of(lab)


def test_right_texts_of_a_table_in_memory_are_read_from_it(lab: Lab) -> None:
    frame = pd.DataFrame([[*row, str(number_in(row[1]) * 2)] for row in TABLE], columns=HEADER)
    lab.run(frame, service(lambda text: str(number_in(text))), "{text}", gold="truth")
    with pytest.raises(OutputError, match=r"if it was in memory, give it to `batcher.estimate` as data="):
        batcher.estimate("k", lab.directory)
    assert batcher.estimate("k", lab.directory, data=frame).gold == 60
    frame.loc[5, "truth"] = "another"
    with pytest.raises(OutputError, match=r"column 'truth' of the input has changed since the run, in row 5"):
        batcher.estimate("k", lab.directory, data=frame)


def test_right_answers_count_even_if_there_are_too_many_different_ones_to_count_each() -> None:
    many = Labelled(rows=40_000, source="column", kind="random column", drawn=20_000, pairs=None)
    assert (many.gold, many.chance) == (20_000, 0.5)


def test_a_table_in_memory_with_labels_needs_not_be_given_again(lab: Lab) -> None:
    frame = pd.DataFrame([[*row, truth(number)] for number, row in enumerate(TABLE)], columns=HEADER)
    run(lab, frame, gold="truth")
    assert found(lab).pairs == expected()


def test_right_fields_of_a_schema_are_json(lab: Lab, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["up", "down"]}, "n": {"type": "integer"}}}
    golds = ['{"mood": "UP", "n": 3}', '{"mood": "down"}', ""]
    write(tmp_path / "table.csv", [[*row, golds[number % 3]] for number, row in enumerate(TABLE)], HEADER)
    answer = service(lambda text: json.dumps({"mood": "up", "n": number_in(text)}))
    lab.run(tmp_path / "table.csv", answer, "{text}", schema=schema, gold="truth")
    assert found(lab, field="mood").pairs == {("up", "up"): 20, ("up", "down"): 20}
    assert [each.gold for each in rows_of(lab, field="n")] == ["3"] * 20
    assert found(lab, field="mood").counts == {"up": 60}
    with pytest.raises(SettingsError, match="give field=, one of mood, n"):
        found(lab)
    with pytest.raises(SettingsError, match="there is no field 'x'; it is one of mood, n"):
        found(lab, field="x")


def test_a_mark_that_several_columns_share_is_not_relied_on(lab: Lab, tmp_path: Path) -> None:
    header = ["text", *(f"c{number}" for number in range(70)), "truth"]
    rows = [[row[1], *[""] * 70, truth(number)] for number, row in enumerate(TABLE)]
    run(lab, write(tmp_path / "table.csv", rows, header), gold="truth")
    assert found(lab).pairs == expected()


def test_verify_and_status_know_such_runs(lab: Lab, tmp_path: Path) -> None:
    path = table(tmp_path)
    run(lab, path, gold="truth")
    assert batcher.verify("k", path, output_dir=lab.directory).ok
    assert batcher.status("k", lab.directory).ok == 57
    assert {*lab.rows()[0]} == {*HEADER, "infer", "infer_status", "infer_error"}
