"""The export of an estimate: means and regressions of its pseudo-outcomes are right if those of the labels are not."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Lab
from labelled_runs import answering, label_by_hand, noisy, run_with

import batcher
from batcher.errors import OutputError, SettingsError
from batcher.reports.quality.estimated import Estimate

LABELS = ["yes", "no"]
ROWS = 600


def export(lab: Lab, to: Any = True, **options: Any) -> Estimate:
    return batcher.estimate("k", lab.directory, export=to, **options)


def read(path: Path | None) -> list[dict[str, str]]:
    assert path is not None
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def column(rows: Sequence[dict[str, str]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(row[name]) for row in rows])


def draw_again(lab: Lab, gold: dict[int, str], **options: Any) -> None:
    for table in ("draws", "drawn", "gold"):
        lab.change(f"DELETE FROM {table}")  # noqa: S608 - our own
    label_by_hand(lab.directory, gold, **options)


@pytest.fixture
def truth() -> list[str]:
    """The right label of each row: the more often `yes`, the higher its number is."""
    draw = random.Random(2)
    return ["yes" if draw.random() < 0.2 + 0.6 * place / ROWS else "no" for place in range(ROWS)]


@pytest.fixture
def mood(lab: Lab, truth: list[str]) -> Lab:
    """A run whose labels are wrong most often if the right one is `yes` and the row's number is high."""
    draw = random.Random(3)
    answers = [
        "no" if label == "yes" and draw.random() < 0.8 * place / ROWS else label for place, label in enumerate(truth)
    ]
    answers[7] = answers[400] = "what?"
    table = [{"text": f"row {number}", "x": number / ROWS} for number in range(ROWS)]
    service = answering({f"row {number}": answer for number, answer in enumerate(answers)})
    lab.run(table, service, "{text}", labels=LABELS, chunk_size=100)
    return lab


def test_the_mean_of_a_column_is_the_difference_estimator_of_its_label(mood: Lab, truth: list[str]) -> None:
    places = sorted(random.Random(5).sample(range(ROWS), 150))
    label_by_hand(mood.directory, {place: truth[place] for place in places})
    found = export(mood)
    assert found.export == mood.directory / "export_k.csv"
    rows = read(found.export)
    assert [*rows[0]] == [
        *("text", "x", "infer", "infer_status", "infer_error", "gold", "drawn", "chance", "pseudo_no", "pseudo_yes")
    ]
    assert len(rows) == ROWS
    assert [row["text"] for row in rows] == [f"row {number}" for number in range(ROWS)]
    assert [place for place, row in enumerate(rows) if row["drawn"] == "1"] == places
    assert {row["chance"] for row in rows} == {"0.25"}
    for label in LABELS:
        own = np.array([row["infer"] == label for row in rows], float)
        right = np.array([truth[place] == label for place in places], float)
        expected = own.mean() + (right - own[places]).sum() / 0.25 / ROWS
        assert column(rows, f"pseudo_{label}").mean() == pytest.approx(expected)
    assert [row["gold"] for row in rows if row["gold"]] == [truth[place] for place in places]


def test_with_a_draw_per_label_the_chances_are_those_of_the_labels(mood: Lab, truth: list[str]) -> None:
    answers = [row["infer"] for row in mood.rows()]
    places = [place for label in LABELS for place in [n for n, own in enumerate(answers) if own == label][:40]]
    label_by_hand(mood.directory, {place: truth[place] for place in places}, design="per label")
    found = export(mood)
    rows = read(found.export)
    for label in LABELS:
        chance = 40 / answers.count(label)
        assert {float(row["chance"]) for row in rows if row["infer"] == label} == {chance}
    assert {row["chance"] for row in rows if row["infer"] == "what?"} == {""}
    assert "2 rows of the export could not be drawn" in " ".join(str(found).split())
    shares = [column(rows, f"pseudo_{label}").mean() for label in LABELS]
    assert sum(shares) == pytest.approx(1 - 2 / ROWS)


def slope(x: Any, y: Any) -> float:
    """Return the slope of a least-squares line."""
    [found, _], *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    return float(found)


def test_a_regression_on_a_pseudo_outcome_finds_the_slope_that_the_labels_hide(mood: Lab, truth: list[str]) -> None:
    x = np.arange(ROWS) / ROWS
    true = slope(x, np.array([label == "yes" for label in truth], float))
    raw = slope(x, np.array([row["infer"] == "yes" for row in mood.rows()], float))
    found = []
    for seed in range(30):
        places = random.Random(seed).sample(range(ROWS), 150)
        draw_again(mood, {place: truth[place] for place in sorted(places)})
        found.append(slope(x, column(read(export(mood).export), "pseudo_yes")))
    error = float(np.std(found)) / np.sqrt(len(found))
    assert abs(np.mean(found) - true) < 4 * error
    assert abs(raw - true) > 10 * error


def test_an_export_can_be_parquet_whatever_the_files_of_the_run_are(
    mood: Lab, truth: list[str], tmp_path: Path
) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in range(0, ROWS, 5)})
    as_csv = pd.DataFrame(read(export(mood, tmp_path / "e.csv").export))
    frame = pd.read_parquet(export(mood, tmp_path / "e.parquet").export or "")
    assert [*frame.columns] == [*as_csv.columns]
    assert frame["pseudo_yes"].tolist() == as_csv["pseudo_yes"].astype(float).tolist()
    assert frame["drawn"].tolist() == as_csv["drawn"].astype(int).tolist()
    assert frame["gold"].fillna("").tolist() == as_csv["gold"].tolist()


def test_the_columns_of_a_typed_table_keep_their_types(lab: Lab, tmp_path: Path) -> None:
    table = pd.DataFrame({"text": [f"row {number}" for number in range(40)], "x": np.arange(40) / 8})
    service = answering({f"row {number}": LABELS[number % 2] for number in range(40)})
    lab.run(table, service, "{text}", labels=LABELS, format="parquet")
    label_by_hand(lab.directory, {place: LABELS[place % 2] for place in range(20)})
    frame = pd.read_parquet(export(lab, tmp_path / "e.parquet").export or "")
    assert frame["x"].tolist() == table["x"].tolist()
    assert frame["x"].dtype == table["x"].dtype
    assert read(export(lab, tmp_path / "e.csv").export)[3]["x"] == "0.375"


def test_columns_that_the_table_has_already_get_other_names(lab: Lab, truth: list[str]) -> None:
    table = [{"text": f"row {number}", "gold": label, "drawn": "a"} for number, label in enumerate(truth)]
    answers = noisy(truth, LABELS, 0.9)
    service = answering({f"row {number}": answer for number, answer in enumerate(answers)})
    lab.run(table, service, "{text}", labels=LABELS, gold="gold")
    found = export(lab)
    rows = read(found.export)
    assert [*rows[0]][-5:] == ["infer_gold", "infer_drawn", "chance", "pseudo_no", "pseudo_yes"]
    assert "'infer_gold', 'infer_drawn'" in " ".join(str(found).split())
    assert {(row["infer_drawn"], row["chance"]) for row in rows} == {("1", "1.0")}
    assert column(rows, "pseudo_yes").tolist() == [float(label == "yes") for label in truth]
    export(lab)


def test_numbers_have_one_pseudo_outcome(lab: Lab) -> None:
    truth = [number % 11 for number in range(200)]
    run_with(lab, [json.dumps({"score": each + (each > 5)}) for each in truth], schema=SCORE)
    label_by_hand(lab.directory, {place: json.dumps({"score": truth[place]}) for place in range(0, 200, 4)})
    rows = read(export(lab).export)
    assert [*rows[0]][-4:] == ["gold", "drawn", "chance", "pseudo"]
    own = np.array([each + (each > 5) for each in truth], float)
    places = np.arange(0, 200, 4)
    expected = own.mean() + (np.array(truth)[places] - own[places]).sum() / 0.25 / 200
    assert column(rows, "pseudo").mean() == pytest.approx(expected)


SCORE = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def test_nothing_is_exported_without_what_it_is_made_of(lab: Lab, truth: list[str], tmp_path: Path) -> None:
    run_with(lab, truth, labels=LABELS)
    with pytest.raises(SettingsError, match=r"is made of hand labels, and there are none: batcher\.sample"):
        export(lab)
    label_by_hand(lab.directory, {place: truth[place] for place in range(50)})
    mine = tmp_path / "mine.csv"
    mine.write_text("id,text\n1,a\n", encoding="utf-8")
    for to, why in (
        (mine, "is no earlier export: name another file"),
        (tmp_path / "x.sav", r"must end in .csv or .parquet"),
        (tmp_path / "nowhere" / "x.csv", "there is no directory"),
        (lab.path(), "is no earlier export"),
    ):
        with pytest.raises(SettingsError, match=why):
            export(lab, to)
    assert mine.read_text(encoding="utf-8") == "id,text\n1,a\n"
    assert sorted(path.name for path in lab.directory.glob("export*")) == []


def test_an_unfinished_run_is_exported_if_its_input_is_there(lab: Lab, truth: list[str], tmp_path: Path) -> None:
    path, texts = tmp_path / "table.csv", [f"row {number}" for number in range(ROWS)]
    path.write_text("\n".join(["text", *texts, ""]), encoding="utf-8")
    service = answering(dict(zip(texts, truth, strict=True)))
    service.latency = lambda _call: 1.0
    with pytest.raises(batcher.Interrupted):
        lab.run(path, service, "{text}", labels=LABELS, at={2.5: lab.request_stop}, chunk_size=100)
    answered = [place for place, row in enumerate(read_journal(lab)) if row is not None]
    label_by_hand(lab.directory, {place: truth[place] for place in answered[:20]})
    rows = read(export(lab).export)
    assert [row["text"] for row in rows] == texts
    assert [row["pseudo_yes"] for row in rows if not row["infer_status"]] == ["0"] * (ROWS - len(answered))
    path.unlink()
    with pytest.raises(OutputError, match="are in no file yet: finish the run first"):
        export(lab)


def read_journal(lab: Lab) -> list[int | None]:
    return [result for (result,) in lab.query("SELECT result FROM rows ORDER BY position")]


def test_texts_and_rows_chosen_in_an_unknown_way_have_no_pseudo_outcome(lab: Lab, truth: list[str]) -> None:
    table = [{"text": f"row {n}", "right": label if n < 50 else ""} for n, label in enumerate(truth)]
    service = answering({f"row {number}": label for number, label in enumerate(truth)})
    lab.run(table, service, "{text}", labels=LABELS, gold="right", gold_drawn="unknown")
    with pytest.raises(SettingsError, match="how the rows of column 'right' were chosen is not known"):
        export(lab)
    other = Lab(lab.directory.parent / "other")
    run_with(other, [f"text {number}" for number in range(20)])
    label_by_hand(other.directory, {3: "text 3"})
    with pytest.raises(SettingsError, match="the answers are free text"):
        export(other)
