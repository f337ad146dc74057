"""A second endpoint is asked about the rows whose answers at the first are not certain enough (`--then`)."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from test_confidence import scored

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import BudgetReached, RunStopped, SettingsError
from batcher.records import Completion, Failure, Usage

CHEAP, DEAR = "cheap", "dear"
LABELS = ["yes", "no"]
# What the first endpoint says about each row, and how sure it is; the second says "no" about all.
SURE = {f"row {number}": number / 10 for number in range(10)}
ROWS = [{"text": text} for text in SURE]
USAGE = Usage(prompt_tokens=10, completion_tokens=2)
ENDPOINTS = [Endpoint(CHEAP), Endpoint(DEAR)]
THEN: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "endpoints": ENDPOINTS, "then": DEAR}
PROMPT = "{text}: {labels}?"


def text_of(prompt: str) -> str:
    return prompt.partition(":")[0]


def answer(call: Call) -> Completion:
    text = text_of(call.prompt)
    if call.endpoint == DEAR:
        return Completion("no", "stop", USAGE)
    return Completion("yes", "stop", USAGE, scored=scored([("yes", max(SURE[text], 1e-9))]))


def service(instead: Any = answer, **options: Any) -> Service:
    return Service([f"{text}: yes, no?" for text in SURE], instead=instead, **options)


def asked(found: Service) -> dict[str, list[str]]:
    """Return the rows that each endpoint was asked about, in the order of the table."""
    return {
        model: sorted(text_of(call.prompt) for call in found.calls if call.endpoint == model) for model in (CHEAP, DEAR)
    }


def labels(lab: Lab) -> list[tuple[str, str]]:
    return [(row["infer"], row["infer_by"]) for row in lab.rows()]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


BELOW = [f"row {number}" for number in range(7)]


def test_rows_below_the_threshold_go_on_and_the_others_keep_their_answer(lab: Lab) -> None:
    found = service()
    report = lab.run(ROWS, found, PROMPT, threshold=0.65, **THEN)
    assert (report.ok, report.requests, report.retries, report.went_on, report.kept) == (10, 17, 0, 7, 0)
    assert "7 rows answered by the second endpoint" in str(report)
    assert asked(found) == {CHEAP: [*SURE], DEAR: BELOW}
    assert labels(lab) == [("no", DEAR)] * 7 + [("yes", CHEAP)] * 3
    # Both answers are in the journal.
    opinions = lab.query(
        "SELECT o.answer, o.round, a.answer, v.answers, v.for_it, round(v.confidence, 3) FROM opinions o"
        " JOIN results a ON a.id = o.result JOIN votes v ON v.id = a.id ORDER BY o.position"
    )
    assert opinions[1:] == [("yes", 0, "no", 1, 1, number / 10) for number in range(1, 7)]
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


def test_the_same_command_asks_nothing_again_and_a_lower_threshold_or_none_keeps_what_is_there(lab: Lab) -> None:
    lab.run(ROWS, service(), PROMPT, threshold=0.65, **THEN)
    before = lab.files()
    for options in ({"threshold": 0.65, **THEN}, {"threshold": 0.2, **THEN}):
        found = service()
        lab.run(ROWS, found, PROMPT, **options)
        assert (found.calls, lab.files()) == ([], before)
    without = {name: value for name, value in THEN.items() if name != "then"} | {"endpoints": [Endpoint(CHEAP)]}
    found = service()
    lab.run(ROWS, found, PROMPT, with_="by", **without)
    assert (found.calls, lab.files()) == ([], before)
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


def test_a_second_endpoint_and_a_higher_threshold_pay_no_first_answer_again(lab: Lab) -> None:
    first = {name: value for name, value in THEN.items() if name != "then"} | {"endpoints": [Endpoint(CHEAP)]}
    lab.run(ROWS, service(), PROMPT, with_="confidence", **first)
    found = service()
    lab.run(ROWS, found, PROMPT, threshold=0.35, **THEN)
    assert asked(found) == {CHEAP: [], DEAR: BELOW[:4]}
    found = service()
    lab.run(ROWS, found, PROMPT, threshold=0.65, **THEN)
    assert asked(found) == {CHEAP: [], DEAR: BELOW[4:]}
    assert labels(lab) == [("no", DEAR)] * 7 + [("yes", CHEAP)] * 3
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 5.5])
def test_a_run_that_was_cut_goes_on_where_it_was_and_ends_in_the_same_bytes(tmp_path: Path, seconds: float) -> None:
    whole = Lab(tmp_path / "whole")
    one = [Endpoint(CHEAP, max_concurrency=2), Endpoint(DEAR, max_concurrency=1)]
    options = {**THEN, "endpoints": one, "threshold": 0.65}
    whole.run(ROWS, service(), PROMPT, **options)
    lab, found = Lab(tmp_path / "cut"), service()
    with pytest.raises(batcher.Interrupted):
        lab.run(ROWS, found, PROMPT, at={seconds: lab.request_stop}, grace=100, **options)
    lab.run(ROWS, found, PROMPT, **options)
    assert Counter(call.endpoint for call in found.calls) == {CHEAP: 10, DEAR: 7}
    assert lab.files() == whole.files()
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


def test_verify_finds_a_row_that_should_have_gone_on(lab: Lab) -> None:
    lab.run(ROWS, service(), PROMPT, threshold=0.65, **THEN)
    with contextlib.closing(sqlite3.connect(lab.directory / "journal_k.sqlite")) as journal, journal:
        journal.execute("UPDATE responses SET confidence = 0.6 WHERE id = (SELECT result FROM rows WHERE position = 8)")
    found = batcher.verify("k", ROWS, output_dir=lab.directory)
    assert [(each.kind, each.rows) for each in found.findings] == [("uncertain", ((8, 8),))]


def test_several_answers_go_by_their_agreement(lab: Lab) -> None:
    def split(call: Call) -> Completion:
        if call.endpoint == DEAR:
            return Completion("no", "stop", USAGE)
        number = int(text_of(call.prompt).split()[1])
        return Completion("yes" if number >= 5 or call.nth != 2 else "no", "stop", USAGE)

    found = service(split)
    report = lab.run(ROWS, found, PROMPT, threshold=0.9, samples=3, **THEN)
    assert (report.ok, asked(found)[DEAR]) == (10, [f"row {number}" for number in range(5)])
    assert [row["infer_agreement"] for row in lab.rows()] == ["0.6667"] * 5 + ["1"] * 5
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


@pytest.mark.parametrize("came", [Completion("perhaps", "stop", USAGE), refusal(400)])
def test_a_second_answer_that_cannot_be_used_leaves_the_first_until_failed_rows_are_retried(
    lab: Lab, came: Completion | Failure
) -> None:
    def odd(call: Call) -> Completion | Failure:
        return came if call.endpoint == DEAR and text_of(call.prompt) == "row 3" else answer(call)

    found = service(odd)
    report = lab.run(ROWS, found, PROMPT, threshold=0.65, **THEN)
    assert (report.ok, report.went_on, report.kept) == (10, 6, 1)
    assert "1 row keeps its first answer, because no other came that can be used" in str(
        batcher.status("k", lab.directory)
    )
    assert labels(lab) == [("no", DEAR)] * 3 + [("yes", CHEAP)] + [("no", DEAR)] * 3 + [("yes", CHEAP)] * 3
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok
    again = service()
    lab.run(ROWS, again, PROMPT, threshold=0.65, **THEN)
    assert again.calls == []
    lab.run(ROWS, again, PROMPT, threshold=0.65, retry_failed=True, **THEN)
    assert asked(again) == {CHEAP: [], DEAR: ["row 3"]}
    assert labels(lab)[3] == ("no", DEAR)
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


def test_what_the_first_endpoint_is_asked_to_repair_is_not_shown_to_the_second(lab: Lab) -> None:
    repair = "This answer does not fit: the answer is not one of the labels. Answer again, and only as asked for."

    def odd(call: Call) -> Completion:
        if call.endpoint == CHEAP and call.prompt != repair:
            return Completion("perhaps", "stop", USAGE)
        return answer(call) if call.endpoint == DEAR else Completion("yes", scored=scored([("yes", 0.1)]))

    found = Service(["row 0: yes, no?", repair], instead=odd)
    options = {**THEN, "threshold": 0.65, "repair": 1}
    with pytest.raises(batcher.Interrupted):
        lab.run(ROWS[:1], found, PROMPT, at={1.4: lab.request_stop, 1.5: lab.request_stop}, **options)
    lab.run(ROWS[:1], found, PROMPT, **options)
    assert [(call.endpoint, call.prompt) for call in found.calls] == [
        (CHEAP, "row 0: yes, no?"),
        (CHEAP, repair),
        (CHEAP, repair),
        (DEAR, "row 0: yes, no?"),
    ]


def test_a_second_endpoint_that_leaves_the_pool_stops_the_run_and_no_first_answer_is_lost(lab: Lab) -> None:
    def closed(call: Call) -> Completion | Failure:
        return refusal(401) if call.endpoint == DEAR else answer(call)

    found = service(closed)
    with pytest.raises(RunStopped, match="endpoint 2 \\(dear"):
        lab.run(ROWS, found, PROMPT, threshold=0.65, **THEN)
    asked_first = asked(found)[CHEAP]
    again = service()
    lab.run(ROWS, again, PROMPT, threshold=0.65, **THEN)
    assert sorted([*asked_first, *asked(again)[CHEAP]]) == [*SURE]
    assert asked(again)[DEAR] == BELOW


def test_a_first_endpoint_without_log_probabilities_stops_the_run_before_all_rows_are_asked_twice(lab: Lab) -> None:
    found = service(lambda _: Completion("yes", "stop", USAGE))
    with pytest.raises(RunStopped, match="cheap gives no log-probabilities, so no answer has a confidence"):
        lab.run(
            ROWS,
            found,
            PROMPT,
            threshold=0.65,
            **{**THEN, "endpoints": [Endpoint(CHEAP, max_concurrency=1), Endpoint(DEAR)]},
        )
    assert len(asked(found)[DEAR]) <= 3


def test_answers_that_were_asked_for_without_a_confidence_are_not_all_asked_twice(lab: Lab) -> None:
    first = {name: value for name, value in THEN.items() if name != "then"} | {"endpoints": [Endpoint(CHEAP)]}
    lab.run(ROWS, service(lambda _: Completion("yes", "stop", USAGE)), PROMPT, **first)
    with pytest.raises(SettingsError, match="the 10 answers of cheap have no confidence"):
        lab.run(ROWS, service(), PROMPT, threshold=0.65, **THEN)


# -- A threshold from hand labels

MANY = [{"text": f"row {number}", "gold": "yes" if number >= 80 else "no"} for number in range(200)]
PRICED = [
    Endpoint(CHEAP, prices={"in": 1.0, "out": 1.0}),
    Endpoint(DEAR, prices={"in": 100.0, "out": 100.0}),
]


def many(call: Call) -> Completion:
    if call.endpoint == DEAR:
        return Completion("no", "stop", USAGE)
    return Completion("yes", "stop", USAGE, scored=scored([("yes", (int(text_of(call.prompt)[4:]) + 1) / 200)]))


def of_many() -> Service:
    return Service([f"{row['text']}: yes, no?" for row in MANY], instead=many)


FIRST: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "endpoints": PRICED[:1], "with_": "confidence"}
HOLD: dict[str, Any] = {**THEN, "endpoints": PRICED, "hold": 0.9, "gold": "gold", "gold_drawn": "all"}


def planned(lab: Lab, rows: Any, **options: Any) -> batcher.Forecast:
    chosen: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "canary": 0} | options
    return batcher.plan(rows, PROMPT, **chosen)


def test_the_threshold_that_holds_an_accuracy_is_chosen_from_hand_labels_and_kept(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run(MANY, of_many(), PROMPT, **FIRST)
    forecast = planned(lab, MANY, **HOLD)
    assert forecast.threshold is not None
    assert 0.3 < forecast.threshold < 0.5
    below = [row["text"] for number, row in enumerate(MANY) if (number + 1) / 200 < forecast.threshold]
    assert (forecast.requests, forecast.then_requests, forecast.then_most) == (0, len(below), len(below))
    assert "is chosen from the hand labels to hold 0.9" in forecast.summary
    found = of_many()
    report = lab.run(MANY, found, PROMPT, quiet=False, no_progress=True, **HOLD)
    assert (report.ok, asked(found)) == (200, {CHEAP: [], DEAR: sorted(below)})
    assert "go on to dear" in capsys.readouterr().err
    rows = lab.rows()
    kept = [row for row in rows if row["infer_by"] == CHEAP]
    assert sum(row["infer"] == row["gold"] for row in kept) >= 0.9 * len(kept)
    assert batcher.verify("k", MANY, output_dir=lab.directory).ok
    # A resume has the same threshold, and says when the wish has changed.
    again = of_many()
    lab.run(MANY, again, PROMPT, quiet=False, no_progress=True, **HOLD)
    assert again.calls == []
    assert "is the last run's" in capsys.readouterr().err
    lab.run(MANY, again, PROMPT, quiet=False, no_progress=True, **{**HOLD, "hold": 0.95})
    assert f"Note: it was {forecast.threshold:g} in the last run" in capsys.readouterr().err
    assert asked(again)[CHEAP] == []


def test_a_drawn_sample_that_was_labelled_by_hand_is_what_the_threshold_rests_on(lab: Lab) -> None:
    rows = [{"text": row["text"]} for row in MANY]
    lab.run(rows, of_many(), PROMPT, **FIRST)
    path = batcher.sample("k", 120, output_dir=lab.directory, data=rows).path
    with path.open(encoding="utf-8", newline="") as file:
        drawn = list(csv.DictReader(file))
    gold = {row["text"]: row["gold"] for row in MANY}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*drawn[0]])
        writer.writeheader()
        writer.writerows({**row, "gold": gold[row["text"]]} for row in drawn)
    assert batcher.sample("k", output_dir=lab.directory, data=rows).labelled == 120
    options = {**HOLD, "hold": 0.8, "gold": None, "gold_drawn": None}
    forecast = planned(lab, rows, **options)
    assert forecast.threshold is not None
    assert 0.3 < forecast.threshold < 0.6
    assert forecast.saved_usd is not None
    assert "as well would cost about" in forecast.summary
    found = of_many()
    report = lab.run(rows, found, PROMPT, **options)
    assert report.went_on == len(found.calls) == forecast.then_requests
    # A row more without a hand label changes nothing.
    batcher.sample("k", 121, output_dir=lab.directory, data=rows)
    assert "is the last run's" in planned(lab, rows, **options).summary


def test_without_hand_labels_or_first_answers_it_says_what_to_do(lab: Lab) -> None:
    with pytest.raises(SettingsError, match=r"no hand labels to choose a threshold by\. First run without then"):
        lab.run(MANY, of_many(), PROMPT, **HOLD)
    lab.run(MANY, of_many(), PROMPT, **FIRST)
    for options, said in (
        ({"gold": None, "gold_drawn": None}, "batcher.sample\\('k', n=200\\)"),
        ({"gold_drawn": "unknown"}, "how the rows with a hand label in column 'gold' were chosen is not known"),
        ({"hold": 0.999}, "200 hand labels of rows that are answered are too few for 0.999: 2,995 would be the least"),
        ({"hold": 1}, "no sample can show that all answers are right"),
    ):
        with pytest.raises(SettingsError, match=said):
            planned(lab, MANY, **{**HOLD, **options})
    wrong = [{**row, "gold": "no"} for row in MANY]
    with pytest.raises(SettingsError, match=r"no threshold holds 0\.9 by 200 hand labels"):
        planned(lab, wrong, **HOLD)


def test_the_plan_says_what_goes_on_and_what_it_costs(lab: Lab) -> None:
    options = {**HOLD, "hold": None, "threshold": 0.5, "param": {"max_tokens": 5}}
    unknown = planned(lab, MANY, **options)
    assert (unknown.requests, unknown.then_requests, unknown.then_most) == (200, None, 200)
    assert "how many rows go on to dear is not known until some are answered" in unknown.money
    lab.run(MANY, of_many(), PROMPT, limit=100, param={"max_tokens": 5}, **FIRST)
    some = planned(lab, MANY, **options)
    # 99 of the 100 that are answered go on, and 99% of the others may.
    assert (some.requests, some.then_requests, some.then_most) == (100, 198, 199)
    assert some.cost_usd is not None
    assert some.most_usd is not None
    assert some.cost_usd < some.most_usd
    assert "99 rows have answers that are not certain enough" in some.summary
    assert [each.model for each in some.then] == [DEAR]


def test_each_endpoint_is_bounded_by_its_own_price(lab: Lab) -> None:
    # 10 + 2 tokens: 0.000012 dollars at the first, 100 times as much at the second.
    options = {**THEN, "endpoints": PRICED, "threshold": 0.5, "param": {"max_tokens": 2}}
    found = of_many()
    with pytest.raises(BudgetReached):
        lab.run(MANY, found, PROMPT, budget=0.02, **options)
    spent = Counter(call.endpoint for call in found.calls)
    assert spent[DEAR] * 1200e-6 + spent[CHEAP] * 12e-6 <= 0.02
    again = of_many()
    assert lab.run(MANY, again, PROMPT, **options).ok == 200
    assert Counter(text_of(call.prompt) for call in [*found.calls, *again.calls]) == Counter(
        [row["text"] for row in MANY] + [row["text"] for row in MANY[:99]]
    )


@pytest.mark.parametrize(
    ("endpoints", "then"),
    [
        ([Endpoint(CHEAP)], Endpoint(DEAR)),
        ([Endpoint(CHEAP)], DEAR),
        ([Endpoint(DEAR, name="b"), Endpoint(CHEAP, name="a")], "b"),
        ([Endpoint(CHEAP), Endpoint(DEAR, "http://other/v1")], DEAR),
    ],
)
def test_the_second_endpoint_is_given_itself_or_by_its_name_or_model(lab: Lab, endpoints: Any, then: Any) -> None:
    found = service()
    lab.run(ROWS, found, PROMPT, **{**THEN, "endpoints": endpoints, "then": then}, threshold=0.65)
    assert asked(found) == {CHEAP: [*SURE], DEAR: BELOW}


def test_a_model_of_the_same_service_needs_only_its_name(tmp_path: Path) -> None:
    job = planned(
        Lab(tmp_path), ROWS, model="a", base_url="http://127.0.0.1:1/v1", then="b", threshold=0.5, labels=LABELS
    )
    assert [(each.model, each.base_url) for each in job.asks] == [
        ("a", "http://127.0.0.1:1/v1"),
        ("b", "http://127.0.0.1:1/v1"),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"then": DEAR}, "then needs to know which answers count"),
        ({"threshold": 0.5}, "threshold goes with then"),
        ({"hold": 0.5}, "hold goes with then"),
        ({"then": CHEAP, "threshold": 0.5, "endpoints": [Endpoint(CHEAP)]}, "'cheap' is the only model of the pool"),
        ({"then": Endpoint(CHEAP), "threshold": 0.5}, "cheap is asked first already"),
        ({"then": DEAR, "threshold": 0.5, "labels": None}, "goes by how certain an answer is"),
        ({"then": DEAR, "threshold": 0.5, "repeat_sample": 5}, "then and repeat_sample exclude each other"),
        ({"then": 5.5, "threshold": 0.5}, "then must name an endpoint or a model"),
        ({"then": object(), "threshold": 0.5}, "then must be an Endpoint"),
        (
            {"then": "x", "threshold": 0.5, "endpoints": [Endpoint("a", "http://a/v1"), Endpoint("b", "http://b/v1")]},
            "no endpoint has the name or the model 'x'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(lab: Lab, options: dict[str, Any], said: str) -> None:
    given = {"labels": LABELS, "structured": "prompt", "endpoints": ENDPOINTS} | options
    with pytest.raises(SettingsError, match=said):
        planned(lab, ROWS, **given)
    assert list(lab.directory.iterdir()) == []


def test_a_second_endpoint_that_stays_broken_ends_the_wait_of_its_rows(lab: Lab) -> None:
    def breaks(call: Call) -> Completion | Failure:
        is_broken = call.endpoint == DEAR and sum(each.endpoint == DEAR for each in found.calls) > 3
        return refusal(500) if is_broken else answer(call)

    rows = [{"text": f"row {number}"} for number in range(10)] * 4
    found = service(breaks)
    report = lab.run(rows, found, PROMPT, threshold=0.65, **THEN)
    assert (report.ok, report.went_on + report.kept) == (40, 28)
    assert 1 <= report.went_on <= 3
    assert 6 * 3600 < lab.seconds < 24 * 3600


def test_a_result_of_the_second_endpoint_stands_when_the_first_is_asked_more_often(lab: Lab) -> None:
    lab.run(ROWS, service(), PROMPT, threshold=0.65, **THEN)
    found = service()
    lab.run(ROWS, found, PROMPT, samples=3, threshold=0.65, **THEN)
    assert asked(found) == {CHEAP: sorted(2 * [*SURE][7:]), DEAR: []}
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


def test_a_second_answer_that_did_not_fit_has_no_vote_when_answers_are_read_again(lab: Lab) -> None:
    def odd(call: Call) -> Completion:
        return Completion("odd", "stop", USAGE) if call.endpoint == DEAR else answer(call)

    lab.run(ROWS, service(odd), PROMPT, threshold=0.65, **THEN)
    assert labels(lab) == [("yes", CHEAP)] * 10
    for label, expected in (("perhaps", ("yes", CHEAP)), ("odd", ("odd", DEAR))):
        options: dict[str, Any] = THEN | {"labels": [*LABELS, label]}
        found = service()
        lab.run(ROWS, found, PROMPT, threshold=0.65, on_change="reuse", **options)
        assert found.calls == []
        assert labels(lab) == [expected] * 7 + [("yes", CHEAP)] * 3
        assert batcher.verify("k", ROWS, output_dir=lab.directory).ok
