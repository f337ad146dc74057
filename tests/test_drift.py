"""A run warns if one endpoint, or a later time, answers otherwise; the order of the table alone is no reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import Lab
from fake_service import Anything, Call, Service

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError
from batcher.quality.neighbours import FLOOR, Block, Neighbours, Unlike
from batcher.records import Completion, Usage
from batcher.reports.quality.along import Along, Change, Stretch

LABELS = ["good", "bad", "so-so"]
ROWS = 1200
POOL = [Endpoint("first"), Endpoint("second")]


def answering(answer: Callable[[int, Call], str]) -> Service:
    """Return a service that answers by the number in the first line of a prompt."""

    def instead(call: Call) -> Completion:
        return Completion(answer(int(call.prompt.partition("\n")[0]), call), "stop", Usage(10, 2))

    pace = random.Random(0)
    made = Service([], instead=instead, latency=lambda _call: pace.uniform(0.2, 2.0))
    made.prompts = Anything()
    return made


def said_by(lab: Lab, capsys: pytest.CaptureFixture[str], service: Service, rows: int = ROWS, **options: Any) -> str:
    """Run a table of numbers, and return the warnings of drift."""
    texts = [str(number) for number in range(rows)]
    capsys.readouterr()
    given: dict[str, Any] = {"labels": LABELS, "quiet": False} | options
    lab.run(texts, service, "{text}", **given)
    said = capsys.readouterr().err.splitlines()
    return "\n".join(line for line in said if "beside them" in line)


# -- At the end of a run


def test_an_endpoint_that_answers_otherwise_is_named_and_its_rows_alone_can_be_asked_again(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)

    def answer(number: int, call: Call) -> str:
        is_lazy = call.endpoint == "second" and rng.random() < 0.5
        return "good" if is_lazy else LABELS[number % 3]

    service = answering(answer)
    said = said_by(lab, capsys, service, endpoints=POOL)
    at = "at https://api.openai.com/v1"
    assert said.startswith(f"first {at} and second {at} answer otherwise: 'good' in ")
    assert 'leave the other out, and add on_change="redo"' in said
    [(rows,)] = lab.query("SELECT count(*) FROM results JOIN sources s ON s.id = source WHERE s.model = 'second'")
    before = len(service.calls)
    with pytest.raises(ChangedError):
        said_by(lab, capsys, service, endpoints=POOL[:1])
    assert said_by(lab, capsys, service, endpoints=POOL[:1], on_change="redo") == ""
    assert len(service.calls) - before == rows
    assert [row["infer"] for row in lab.rows()] == [LABELS[number % 3] for number in range(ROWS)]


def test_a_service_that_answers_otherwise_from_some_request_on_is_seen_by_the_canarys_rows(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0

    def answer(number: int, _call: Call) -> str:
        nonlocal asked
        asked += 1
        return LABELS[number % 3] if asked <= 200 else "good"

    said = said_by(lab, capsys, answering(answer), canary=20)
    assert "20 rows that were asked early (by the canary, or in an earlier sample) differ from the rows beside" in said
    assert "repeat_sample=100" in said


@pytest.mark.parametrize("pool", [POOL[:1], POOL])
def test_a_table_that_is_sorted_by_class_is_no_reason_to_warn(
    lab: Lab, capsys: pytest.CaptureFixture[str], pool: Sequence[Endpoint]
) -> None:
    service = answering(lambda number, _call: LABELS[number * 3 // ROWS])
    assert said_by(lab, capsys, service, canary=20, endpoints=pool) == ""


def test_an_endpoint_whose_answers_are_often_no_label_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = answering(
        lambda number, call: (
            "as a model I cannot" if call.endpoint == "first" and number % 4 == 0 else LABELS[number % 3]
        )
    )
    said = said_by(lab, capsys, service, endpoints=POOL, repair=0)
    assert "answer otherwise: invalid in " in said


def test_rows_that_go_on_to_a_second_endpoint_are_not_compared_with_those_that_do_not(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(number: int, call: Call) -> str:
        is_hard = number % 5 == 0
        return "so-so" if is_hard and call.endpoint == "second" else LABELS[(number + is_hard * call.nth) % 3]

    options: dict[str, Any] = {"samples": 2, "then": Endpoint("second"), "threshold": 0.9}
    assert said_by(lab, capsys, answering(answer), endpoints=POOL[:1], **options) == ""
    [(hard,)] = lab.query("SELECT count(*) FROM rows JOIN results r ON r.id = result WHERE answer = 'so-so'")
    assert hard > ROWS // 5


def test_few_rows_and_free_texts_are_not_looked_at(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = answering(lambda _number, call: LABELS[call.endpoint == "second"])
    assert said_by(lab, capsys, service, rows=150, endpoints=POOL) == ""
    assert said_by(lab, capsys, service, endpoints=POOL, labels=None, keyword="texts") == ""


# -- The test


class Run:
    """Labels of a run that are drawn at random."""

    def __init__(self, seed: int, rows: int = 4000, labels: int = 5, wave: int = 1, *, is_sorted: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        truth = self.rng.integers(0, labels, rows)
        self.truth = np.sort(truth) if is_sorted else truth
        self.requests = np.arange(20, rows + 20)
        self.early = self.rng.choice(rows, 20, replace=False)
        self.requests[self.early] = np.arange(20)
        lengths = self.rng.integers(1, wave + 1, rows)
        self.sources = np.repeat(np.arange(rows) % 2, lengths)[:rows]
        self.labels = np.where(self.rng.random(rows) < 0.8, self.truth, self.rng.integers(0, labels, rows))

    def change(self, where: np.ndarray[Any, Any], chance: float) -> Run:
        """Give some of the rows another label, each with this chance."""
        self.labels = np.where(where & (self.rng.random(len(where)) < chance), 0, self.labels)
        return self

    def unlike(self) -> list[Unlike]:
        found = Neighbours(int(self.requests.max()))
        for start in range(0, len(self.labels), 2048):
            part = slice(start, start + 2048)
            labels = [str(each) for each in self.labels[part]]
            found.add(Block(self.requests[part].tolist(), self.sources[part].tolist(), labels))
        return found.unlike()


@pytest.mark.parametrize("wave", [1, 40, 200])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_twenty_runs_in_which_nothing_differs_bring_no_warning(wave: int, *, is_sorted: bool) -> None:
    assert not any(Run(seed, wave=wave, is_sorted=is_sorted).unlike() for seed in range(100, 120))


@pytest.mark.parametrize("wave", [1, 40, 200])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_an_endpoint_that_differs_in_twenty_points_is_found_also_if_its_rows_come_in_waves(
    wave: int, *, is_sorted: bool
) -> None:
    for seed in range(20):
        run = Run(seed, wave=wave, is_sorted=is_sorted)
        [found] = run.change(run.sources == 1, 0.25).unlike()
        assert found.source is not None
        assert abs(found.share - found.beside) > FLOOR


def test_early_rows_show_a_service_that_has_lost_all_but_one_label() -> None:
    for seed in range(20):
        run = Run(seed)
        assert [each.source for each in run.change(run.requests > 800, 1.0).unlike()] == [None]


# -- Along the run


def along(lab: Lab) -> Along:
    found = batcher.estimate("k", lab.directory).drift
    assert isinstance(found, Along)
    return found


def test_an_estimate_says_from_which_row_on_labels_change_and_that_the_tables_order_may_be_the_reason(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_by(lab, capsys, answering(lambda number, _call: LABELS[number % 3 if number < 700 else 0]))
    assert said == ""
    found = along(lab)
    assert found is not None
    change = next(each for each in found.changes if each.label == "good")
    assert (change.by, change.stretch, change.rows, change.here) == ("input", "rows 700 to 1,199", 500, 1.0)
    assert change.elsewhere == pytest.approx(1 / 3, abs=0.001)
    assert found.warnings == ()
    assert "The table's own order may be the reason" in str(found)
    assert max(map(len, str(found).splitlines())) <= 80
    assert json.loads(json.dumps(found.to_dict()))["changes"][0]["stretch"] == "rows 700 to 1,199"


def test_an_estimate_repeats_the_warning_about_an_endpoint_and_counts_by_endpoint(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    service = answering(lambda number, call: LABELS[0 if call.endpoint == "second" else number % 3])
    said = said_by(lab, capsys, service, endpoints=POOL)
    found = along(lab)
    assert found is not None
    assert [*found.warnings] == said.splitlines()
    by_name = {each.name.split()[0]: each for each in found.by_endpoint}
    assert by_name["second"].labels == {"good": by_name["second"].rows}
    assert sum(each.rows for each in found.by_endpoint) == ROWS


def test_hand_labels_show_a_model_that_has_become_worse_though_its_shares_are_the_same(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)

    def answer(number: int, _call: Call) -> str:
        is_wrong = number >= 600 and rng.random() < 0.7
        return LABELS[(number + is_wrong * rng.choice([1, 2])) % 3]

    texts = [str(number) for number in range(ROWS)]
    rows = [{"text": text, "truth": LABELS[int(text) % 3] if int(text) % 10 == 0 else ""} for text in texts]
    options: dict[str, Any] = {"labels": LABELS, "gold": "truth", "gold_drawn": "random"}
    lab.run(rows, answering(answer), "{text}", **options)
    found = along(lab)
    [change] = found.changes_in_accuracy
    assert (change.by, change.stretch, change.rows) == ("part", "rows 600 to 1,199", 60)
    assert "rows 600 to 1,199: accuracy " in str(found)
    assert found.changes_in_answers == ()
    assert found.remark == ""


def test_hand_labels_show_which_endpoint_is_wrong(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(3)

    def answer(number: int, call: Call) -> str:
        is_wrong = call.endpoint == "second" and rng.random() < 0.6
        return LABELS[(number + is_wrong * rng.choice([1, 2])) % 3]

    rows = [{"text": str(number), "truth": LABELS[number % 3] if number % 8 == 0 else ""} for number in range(ROWS)]
    options: dict[str, Any] = {"labels": LABELS, "gold": "truth", "gold_drawn": "random", "endpoints": POOL}
    lab.run(rows, answering(answer), "{text}", **options)
    found = along(lab)
    [change] = found.changes_in_accuracy
    assert change.by == "endpoint"
    assert "second at https://api.openai.com/v1: accuracy " in str(found)


def test_rows_that_were_asked_in_another_order_are_shown_by_time_too(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [str(number) for number in range(ROWS)]
    service = answering(lambda number, _call: LABELS[number % 3])
    lab.run(texts[ROWS // 2 :], service, "{text}", labels=LABELS)
    said_by(lab, capsys, service)
    found = along(lab)
    assert found is not None
    assert not found.is_one_order
    assert sum(each.rows for each in found.by_time) == sum(each.rows for each in found.by_input) == ROWS
    assert found.changes_in_answers == ()
    assert "no stretch differs" in str(found) or "latency" in str(found)


def test_a_page_of_a_run_escapes_labels_and_endpoints(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["<b>good</b>", '"bad"', "so & so"]
    service = answering(lambda number, _call: labels[number % 3 if number < 700 else 0])
    said_by(lab, capsys, service, labels=labels, endpoints=[Endpoint("<i>first</i>"), Endpoint("second")])
    found = along(lab)
    assert found is not None
    page = found._repr_html_()
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;good&lt;/b&gt;" in page


def test_a_page_shows_the_largest_changes_and_the_others_when_opened_and_a_long_label_hides_no_number() -> None:
    label = "a label of more columns than there is room for " * 3
    changes = [
        Change("input", "label", f"rows {place}00 to {place}99", label, 100, 0.5, 0.1, 1e-9) for place in range(9)
    ]
    changes += [Change("input", "latency", f"rows {place}00 to {place}99", None, 100, 2, 1, 1e-9) for place in range(4)]
    found = Along(
        rows=900, labels=(label,), by_input=(Stretch("rows 0 to 899", 900, 0, {label: 900}, 1.0),), by_time=(),
        by_endpoint=(), is_one_order=True, changes=tuple(changes), warnings=(),
    )  # fmt: skip
    first, _, opened = found._repr_html_().partition("<details")
    assert first.count("elsewhere") == 6
    assert opened.count("elsewhere") == 4
    assert "4 more differences in answers" in opened
    lines = [line for line in str(found).splitlines() if "elsewhere" in line]
    assert len(lines) == 6
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].endswith("50.0%, elsewhere 10.0%")


def test_a_run_of_few_rows_has_no_stretches(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    said_by(lab, capsys, answering(lambda number, _call: LABELS[number % 3]), rows=150)
    assert batcher.estimate("k", lab.directory).drift is None
