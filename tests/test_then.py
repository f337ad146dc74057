"""A second endpoint is asked about the rows whose answers at the first are not certain enough (`--then`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from test_confidence import scored

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import RunStopped, SettingsError
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
    assert (report.ok, report.requests) == (10, 17)
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
    assert report.ok == 10
    assert labels(lab) == [("no", DEAR)] * 3 + [("yes", CHEAP)] + [("no", DEAR)] * 3 + [("yes", CHEAP)] * 3
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok
    again = service()
    lab.run(ROWS, again, PROMPT, threshold=0.65, **THEN)
    assert again.calls == []
    lab.run(ROWS, again, PROMPT, threshold=0.65, retry_failed=True, **THEN)
    assert asked(again) == {CHEAP: [], DEAR: ["row 3"]}
    assert labels(lab)[3] == ("no", DEAR)
    assert batcher.verify("k", ROWS, output_dir=lab.directory).ok


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
    with pytest.raises(SettingsError, match="10 answers of cheap have no confidence"):
        lab.run(ROWS, service(), PROMPT, threshold=0.65, **THEN)
