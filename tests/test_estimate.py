"""`batcher.estimate`: what the hand labels of a run say about its answers, for every way to have hand labels."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from labelled_runs import answering, label_by_hand, noisy, run_with
from programs import call

import batcher
from batcher.errors import InputError, SettingsError
from batcher.reports.quality.estimated import Estimate, Kind
from batcher.reports.quality.numeric import NumberCounts

LABELS = ["good", "bad", "so-so"]
ROWS = 300


@pytest.fixture
def truth() -> list[str]:
    return random.Random(7).choices(LABELS, [6, 3, 1], k=ROWS)


@pytest.fixture
def mood(lab: Lab, truth: list[str]) -> Lab:
    """A run of 300 rows, of which four have no label."""
    answers = noisy(truth, LABELS, 0.8)
    answers[:4] = ["what?"] * 4
    run_with(lab, answers, labels=LABELS)
    return lab


def estimate(lab: Lab, **options: Any) -> Estimate:
    return batcher.estimate("k", lab.directory, **options)


def drawn(rows: int, seed: int = 1) -> list[int]:
    return sorted(random.Random(seed).sample(range(ROWS), rows))


def test_a_random_sample_gives_every_number_an_interval_that_holds_it(mood: Lab, truth: list[str]) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in drawn(100)})
    found = estimate(mood)
    assert (found.kind, found.rows, found.ok, found.invalid, found.gold) == (Kind.LABELS, ROWS, ROWS - 4, 4, 100)
    for figure in (found.accuracy, found.kappa, found.alpha, *found.shares.values()):
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high
        assert figure.low < figure.high
    right = sum(row["infer"] == true for row, true in zip(mood.rows(), truth, strict=True)) / (ROWS - 4)
    assert found.accuracy.low is not None
    assert found.accuracy.high is not None
    assert found.accuracy.low < right < found.accuracy.high
    assert list(found.shares) == ["good", "bad", "so-so"]
    assert sum(figure.value or 0 for figure in found.shares.values()) == pytest.approx(1)
    assert {label: each.rows for label, each in found.per_label.items()} == {
        label: sum(row["infer"] == label for row in mood.rows()) for label in LABELS
    }
    assert found.more
    assert found.design.kind == "random"
    assert found.steps == ()


def test_the_same_seed_gives_the_same_estimate_and_another_one_other_intervals(mood: Lab, truth: list[str]) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in drawn(60)})
    assert estimate(mood).to_dict() == estimate(mood).to_dict()
    other = estimate(mood, seed=5)
    assert other.accuracy.value == estimate(mood).accuracy.value
    assert [each.share.low for each in other.labels] != [each.share.low for each in estimate(mood).labels]


def test_without_hand_labels_there_are_raw_shares_and_no_interval_and_the_two_commands_are_named(mood: Lab) -> None:
    found = estimate(mood)
    assert found.gold == 0
    assert not [each for each in found.labels if each.share.value is not None]
    assert sum(each.raw for each in found.labels) == pytest.approx(1)
    assert str(mood.directory) in found.steps[0]
    assert "batcher.sample('k', n=100, " in found.steps[0]
    assert found.steps[0].endswith(f"  # then fill the column gold of {mood.directory / 'sample_k.csv'}")
    assert found.steps[1] == f"batcher.estimate('k', output_dir='{mood.directory}')"
    assert "interval" not in str(found).replace("no number has an interval", "")
    assert "raw numbers only" in found._repr_html_()


def test_rows_that_were_drawn_and_wait_for_their_label_are_told(mood: Lab, truth: list[str]) -> None:
    places = drawn(80)
    label_by_hand(mood.directory, {}, drawn=places)
    assert "none of the 80 rows drawn has a hand label yet" in str(estimate(mood))
    assert len(estimate(mood).steps) == 1
    with closing(sqlite3.connect(mood.directory / "journal_k.sqlite")) as db, db:
        for number, place in enumerate(places[:60], 1):
            db.execute("INSERT INTO gold (drawn, at, gold, origin) VALUES (?, 0, ?, 'f')", (number, truth[place]))
    found = estimate(mood)
    assert (found.gold, found.design.drawn) == (60, 80)
    assert "20 rows that were drawn have no hand label yet" in str(found)


def test_a_draw_per_label_weighs_each_label_by_its_rows(mood: Lab, truth: list[str]) -> None:
    rows = mood.rows()
    places = [
        place
        for label in (*LABELS, "what?")
        for place in [number for number, row in enumerate(rows) if row["infer"] == label][:15]
    ]
    label_by_hand(mood.directory, {place: truth[place] for place in places}, design="per label")
    found = estimate(mood)
    assert found.design.kind == "per label"
    weights = {label: each.rows / (ROWS - 4) for label, each in found.per_label.items()}
    right = {label: sum(truth[place] == label for place in places if rows[place]["infer"] == label) for label in LABELS}
    expected = sum(weights[label] * right[label] / 15 for label in LABELS)
    assert found.accuracy.value == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("how", "has_interval"), [("all", False), ("random", True), ("unknown", False)])
def test_a_column_of_the_table_gives_what_its_choice_allows(
    lab: Lab, truth: list[str], how: str, has_interval: bool
) -> None:
    answers = noisy(truth, LABELS, 0.8)
    chosen = {*range(ROWS)} if how == "all" else {*drawn(90)}
    table = [
        {"text": f"row {number}", "right": label if number in chosen else ""} for number, label in enumerate(truth)
    ]
    service = answering({f"row {number}": answer for number, answer in enumerate(answers)})
    lab.run(table, service, "{text}", labels=LABELS, gold="right", gold_drawn=how)
    found = estimate(lab)
    assert (found.gold, found.design.column) == (len(chosen), "right")
    assert found.accuracy.value is not None
    assert ((found.accuracy.low or 0) < (found.accuracy.high or 0)) is has_interval
    right = sum(answers[place] == truth[place] for place in chosen) / len(chosen)
    if how == "all":
        assert found.accuracy.value == pytest.approx(right)
        assert "exactly" in str(found)
        assert found.more in {0, None}
    if how == "unknown":
        assert found.accuracy.value == pytest.approx(right, abs=0.05)
        assert found.accuracy.low is None
        assert "is not known, so there is no interval" in " ".join(str(found).split())
        assert len(found.steps) == 2


def test_an_unfinished_run_says_so(lab: Lab, truth: list[str]) -> None:
    answers = {f"row {number}": label for number, label in enumerate(truth)}
    service = answering(answers)
    service.latency = lambda _call: 1.0
    with pytest.raises(batcher.Interrupted):
        lab.run([*answers], service, labels=LABELS, at={2.5: lab.request_stop})
    found = estimate(lab)
    assert 0 < found.left < ROWS
    assert found.left + found.ok == ROWS
    assert f"the run is not finished: {found.left} of 300 rows have no result yet" in " ".join(str(found).split())


def test_texts_are_right_if_they_are_the_same_apart_from_spaces_around_them(lab: Lab) -> None:
    run_with(lab, [f"answer {number}" for number in range(40)])
    label_by_hand(lab.directory, {place: f" answer {place}\n" if place % 4 else "no" for place in range(0, 40, 2)})
    found = estimate(lab)
    assert (found.kind, found.labels, found.confusion.counted) == (Kind.TEXT, (), ())
    assert found.accuracy.value == pytest.approx(0.5)
    assert "free text" in str(found)


def test_a_few_different_answers_count_as_labels_though_the_run_has_no_list(lab: Lab, truth: list[str]) -> None:
    run_with(lab, [f"{label} " for label in truth])
    label_by_hand(lab.directory, {place: truth[place] for place in range(50)})
    found = estimate(lab)
    assert (found.kind, found.accuracy.value, [*found.shares]) == (Kind.LABELS, 1.0, ["good", "bad", "so-so"])
    assert "no list of labels: its 3 different answers count as labels" in " ".join(str(found).split())


def test_a_label_that_only_people_gave_is_in_the_shares(mood: Lab, truth: list[str]) -> None:
    label_by_hand(mood.directory, {place: "strange" if place % 10 == 0 else truth[place] for place in drawn(100)})
    found = estimate(mood)
    assert found.per_label["strange"].rows == 0
    assert (found.shares["strange"].value or 0) > 0


def test_labels_with_few_hand_labels_are_named(mood: Lab, truth: list[str]) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in drawn(40)})
    assert "so-so" in estimate(mood).few
    assert "too few" in str(estimate(mood))


def test_the_fields_of_a_schema_are_estimated_one_by_one(lab: Lab, truth: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": LABELS}, "word": {"type": "string"}},
        "required": ["mood", "word"],
    }
    run_with(lab, [json.dumps({"mood": label, "word": f"w{n}"}) for n, label in enumerate(truth)], schema=schema)
    gold = {place: json.dumps({"mood": truth[place], "word": f"w{place}"}) for place in range(60)}
    label_by_hand(lab.directory, gold)
    with pytest.raises(SettingsError, match=r"the answers have 2 fields: give field=, one of mood, word"):
        estimate(lab)
    with pytest.raises(SettingsError, match="there is no field 'nose'"):
        estimate(lab, field="nose")
    found = estimate(lab, field="mood")
    assert (found.kind, found.field, found.accuracy.value) == (Kind.LABELS, "mood", 1.0)
    assert estimate(lab, field="word").kind is Kind.TEXT
    assert str(found).startswith("k, field mood: accuracy 100.0%, 95% interval 9")


SCORE = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}


@pytest.mark.parametrize("schema", [None, SCORE])
def test_numbers_have_a_mean_and_quantiles(lab: Lab, schema: dict[str, Any] | None) -> None:
    draw = random.Random(4)
    truth = [round(draw.gauss(50, 10), 1) for _ in range(ROWS)]
    answers = [round(each + draw.gauss(2, 3), 1) for each in truth]

    def written(number: float) -> str:
        return str(number) if schema is None else json.dumps({"score": number})

    run_with(lab, [*map(written, answers[:-1]), "none"], schema=schema)
    if schema is None:
        lab.change("UPDATE results SET status = 'invalid', answer = '' WHERE answer = 'none'")
    label_by_hand(lab.directory, {place: written(truth[place]) for place in drawn(80)})
    found = estimate(lab)
    assert (found.kind, found.ok, found.labels) == (Kind.NUMBERS, ROWS - 1, ())
    assert [each.name for each in found.quantities] == ["mean", "10% quantile", "median", "90% quantile"]
    mean = found.quantities[0]
    assert mean.raw is not None
    assert mean.raw == pytest.approx(sum(answers[:-1]) / (ROWS - 1))
    assert mean.figure == found.main
    assert mean.figure.low is not None
    assert mean.figure.high is not None
    assert mean.figure.low < sum(truth) / ROWS < mean.figure.high < mean.raw
    assert found.bias.value == pytest.approx(2, abs=1)
    assert found.distance.value == pytest.approx(3, abs=1)
    assert "mean " in str(found).splitlines()[0]
    assert "quantile" in found._repr_html_()


def test_numbers_without_hand_labels_have_raw_ones(lab: Lab) -> None:
    run_with(lab, [str(number) for number in range(50)])
    found = estimate(lab)
    mean = found.quantities[0]
    assert (mean.name, mean.raw, mean.figure.value) == ("mean", 24.5, None)
    assert "raw" in str(found)


def test_very_many_different_numbers_are_rounded_to_one_step() -> None:
    counts, draw = NumberCounts(most=1000), random.Random(1)
    numbers = [draw.gauss(0, 1) for _ in range(20_000)]
    counts.add([*numbers, None])
    assert len(counts.counts) <= 1000
    assert counts.counts[None] == 1
    assert sum(counts.counts.values()) == 20_001
    mean = sum((number or 0) * rows for number, rows in counts.counts.items()) / 20_000
    assert mean == pytest.approx(sum(numbers) / 20_000, abs=1e-3)
    assert {counts.rounded(number) for number in numbers} == counts.counts.keys() - {None}


# -- Agreement and confidence

OPINION = "SELECT id + {0}, key, 0, source + {1}, status, answer, error, 0, id FROM results WHERE id {2} 100"


def test_agreement_is_an_order_without_hand_labels_and_calibrated_with_them(lab: Lab, truth: list[str]) -> None:
    draw = random.Random(6)
    sure = [draw.choice([1, 2, 3]) for _ in range(ROWS)]
    answers = [label if draw.random() < votes / 3 else "bad" for label, votes in zip(truth, sure, strict=True)]
    run_with(lab, answers, labels=LABELS)
    for position, votes in enumerate(sure):
        lab.change(
            "INSERT INTO votes (id, answers, for_it, is_tied)"  # noqa: S608 - our own
            f" SELECT result, 3, {votes}, 0 FROM rows WHERE position = {position}"
        )
    lab.change(f"INSERT INTO opinions {OPINION.format(1000, 0, '!= -')}")
    [certain] = estimate(lab).certainty
    assert (certain.by, certain.rows, certain.calibration) == ("agreement", ROWS, None)
    assert [each.position for each in certain.least[: sure.count(1)]] == [
        n for n, votes in enumerate(sure) if votes == 1
    ]
    assert "it is an order, and no probability" in " ".join(str(estimate(lab)).split())
    label_by_hand(lab.directory, {place: truth[place] for place in drawn(150)})
    [certain] = estimate(lab).certainty
    assert certain.calibration is not None
    assert [round(each.score, 2) for each in certain.calibration.bins] == [0.33, 0.67, 1.0]
    assert sum(each.hand for each in certain.calibration.bins) == 150
    assert certain.calibration.bins[-1].accuracy.value == 1
    assert (certain.calibration.surer or 0) > 0.6
    for each in certain.calibration.bins:
        places = [place for place in drawn(150) if sure[place] / 3 == pytest.approx(each.score, abs=1e-3)]
        assert each.hand == len(places)
        right = sum(answers[place] == truth[place] for place in places)
        assert each.accuracy.value == pytest.approx(right / len(places))


def test_the_certainty_of_an_answer_that_a_second_endpoint_replaced_does_not_count(lab: Lab, truth: list[str]) -> None:
    run_with(lab, truth, labels=LABELS)
    lab.change("INSERT INTO votes (id, answers, for_it, is_tied) SELECT result, 3, 2, 0 FROM rows")
    lab.change(f"INSERT INTO opinions {OPINION.format(1000, 0, 'BETWEEN 1 AND')}")
    lab.change(f"INSERT INTO opinions {OPINION.format(2000, 7, '>')}")
    [certain] = estimate(lab).certainty
    assert certain.rows == 100
    assert len(certain.least) == 100


def test_confidence_is_shown_where_the_service_gives_it(lab: Lab, truth: list[str]) -> None:
    run_with(lab, truth, labels=LABELS)
    lab.change("UPDATE responses SET confidence = 0.5 + id * 0.001")
    label_by_hand(lab.directory, {place: truth[place] for place in drawn(50)})
    [certain] = estimate(lab).certainty
    assert (certain.by, certain.rows) == ("confidence", ROWS)
    assert len(certain.least) == ROWS
    assert certain.calibration is not None
    assert sum(each.hand for each in certain.calibration.bins) == 50
    assert certain.calibration.surer is None, "all are right"


def test_answers_that_people_corrected_are_told(mood: Lab, truth: list[str]) -> None:
    text = mood.path(0).read_text(encoding="utf-8").replace("row 9,bad", "row 9,good").replace("row 9,so", "row 9,good")
    mood.path(0).write_text(text, encoding="utf-8")
    run_with(mood, truth, labels=LABELS)
    if mood.query("SELECT count(*) FROM rereads") == [(0,)]:
        pytest.skip("row 9 was good before")
    assert "1 answer was corrected by hand" in str(estimate(mood))


def test_vectors_are_not_estimated(tmp_path: Path) -> None:
    batcher.run(["a", "b"], keyword="v", task="embedding", provider="offline", output_dir=tmp_path, quiet=True)
    with pytest.raises(SettingsError, match="the answers of 'v' are vectors"):
        batcher.estimate("v", tmp_path)


def test_the_drift_along_the_run_is_shown_below_and_its_warnings_on_top(lab: Lab) -> None:
    answers = ["good"] * 400 + ["bad"] * 400
    run_with(lab, answers, labels=LABELS)
    found = estimate(lab)
    assert found.drift is not None
    assert str(found).endswith(str(found.drift))
    assert found.drift._repr_html_() in found._repr_html_()
    assert found.to_dict()["drift"] == json.loads(json.dumps(found.drift.to_dict()))
    assert found.warnings[: len(found.drift.warnings)] == found.drift.warnings


# -- The report and the command line


def test_the_report_of_a_run_gives_its_accuracy_or_says_how_to_get_it(lab: Lab, truth: list[str]) -> None:
    texts = [f"row {number}" for number in range(ROWS)]
    report = lab.run(texts, answering(dict(zip(texts, truth, strict=True))), labels=LABELS)
    with pytest.raises(InputError, match=r"^k has no hand labels yet: batcher.sample\('k', n=100, "):
        report.accuracy()
    label_by_hand(lab.directory, {place: truth[place] for place in range(50)})
    found = report.accuracy()
    assert found == estimate(lab)
    assert found.accuracy.value == 1


def test_the_command_line_prints_the_text_or_one_json_object(mood: Lab, truth: list[str], tmp_path: Path) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in drawn(100)})
    done = call("estimate", "k", "-o", str(mood.directory), "--html", "page.html", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "page.html is written\n")
    assert done.stdout.startswith("k: accuracy ")
    assert "batcher sample k -n " in " ".join(done.stdout.split())
    as_json = call("estimate", "k", "-o", str(mood.directory), "--json", cwd=tmp_path)
    values = json.loads(as_json.stdout)
    assert values == json.loads(json.dumps(estimate(mood).to_dict()))
    assert [*values] == [
        *("keyword", "field", "rows", "ok", "invalid", "error", "left", "gold", "more", "seed", "kind", "level"),
        *(
            "design",
            "accuracy",
            "kappa",
            "alpha",
            "bias",
            "distance",
            "confusion",
            "labels",
            "quantities",
            "certainty",
            "drift",
            "few",
        ),
        *("warnings", "notes", "steps", "output_dir", "export"),
    ]
    assert values["accuracy"].keys() == {"value", "low", "high", "more"}
    missing = call("estimate", "nobody", "-o", str(mood.directory), cwd=tmp_path)
    assert (missing.status, missing.stdout) == (2, "")


def test_a_page_takes_the_place_of_an_earlier_one_and_of_no_other_file(mood: Lab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for _ in range(2):
        estimate(mood, html=page)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    page.write_text("<p>my own</p>", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"^html: .*page.html is there, and is no page of batcher"):
        estimate(mood, html=page)
    with pytest.raises(SettingsError, match="there is no directory"):
        estimate(mood, html=tmp_path / "nowhere" / "page.html")
    assert page.read_text(encoding="utf-8") == "<p>my own</p>"


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("seed", -1, "seed must be a whole number from 0, not -1"),
        ("seed", 1.5, "seed must be a whole number from 0, not 1.5"),
        ("html", "", "html must be the path of a file, not ''"),
        ("export", 5, "export must be the path of a file, not 5"),
        ("export", "", "export must be the path of a file, not ''"),
    ],
)
def test_an_option_that_cannot_be_is_refused(mood: Lab, option: str, value: Any, why: str) -> None:
    with pytest.raises(SettingsError, match=f"^{why}$"):
        estimate(mood, **{option: value})


def test_nothing_is_written_but_what_is_named(mood: Lab, truth: list[str]) -> None:
    label_by_hand(mood.directory, {place: truth[place] for place in drawn(30)})
    before = {path.name: path.stat().st_mtime_ns for path in mood.directory.iterdir()}
    estimate(mood)
    assert {path.name: path.stat().st_mtime_ns for path in mood.directory.iterdir()} == before
