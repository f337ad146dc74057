"""The figures of a run mean one thing: in its report and in its status, after kills and resumes, with their parts."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted
from batcher.output.figures import Figures
from batcher.output.report import Report
from batcher.records import Usage
from batcher.reports.status import status

TEXTS = [*"abcdefgh", *"aab"]
REFUSED, STUMBLING = "g", "h"  # always; the first time in each process
PRICES = {"in": 100_000, "out": 1_000_000}  # dollars for a million: a prompt of ten costs $1, an answer of two $2
NAMES = [field.name for field in dataclasses.fields(Figures)]


class Step(NamedTuple):
    """A process that works on the run.

    Attributes:
        seconds: it is stopped then, or None.
        is_killed: the stop lets nothing arrive, and leaves no record.
        is_priced: the price is known.
        reports_usage: the server reports the tokens.
    """

    seconds: int | None
    is_killed: bool
    dedup: bool
    retry_failed: bool
    is_priced: bool
    reports_usage: bool


steps = st.builds(
    Step, st.none() | st.integers(0, 5), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans()
)


class Books:
    """What the service knows of one process: its calls, and how those ended that did."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.ended: Counter[str] = Counter()
        usage = Usage(10, 2) if step.reports_usage else Usage()
        self.service = Service(TEXTS, instead=self._instead, usage=lambda _call: usage)

    def _instead(self, call: Call) -> Any:
        failure = {REFUSED: refusal(400), STUMBLING: refusal(500) if call.nth == 1 else None}.get(call.prompt)
        self.ended["failed" if failure else "answered"] += 1
        return failure

    def figures(self) -> dict[str, Any]:
        calls, answered, failed = len(self.service.calls), self.ended["answered"], self.ended["failed"]
        is_told = self.step.reports_usage or not answered
        is_priced = self.step.is_priced and is_told
        asked = self.service.asked
        return {
            "requests": calls,
            "answered": answered,
            "failed": failed,
            "out": calls - answered - failed,
            "retries": sum(max(asked[prompt] - 1, 0) for prompt in (REFUSED, STUMBLING)),
            "prompt_tokens": 10 * answered if is_told else None,
            "completion_tokens": 2 * answered if is_told else None,
            "cost_usd": 3.0 * answered if is_priced or not answered else None,
        }


def work(lab: Lab, step: Step) -> tuple[Report, Books]:
    books = Books(step)
    stops: dict[float, Any] = {}
    if step.seconds is not None:
        stops = {step.seconds + 0.5: lab.request_stop}
        stops |= {step.seconds + 0.51: lab.request_stop} if step.is_killed else {}
    endpoint = Endpoint("m", prices=PRICES if step.is_priced else None, max_concurrency=3)
    options: dict[str, Any] = {"dedup": step.dedup, "retry_failed": step.retry_failed, "chunk_size": 4}
    try:
        report = lab.run(TEXTS, books.service, at=stops, endpoints=[endpoint], **options)
    except Interrupted as stopped:
        report = stopped.report
    return report, books


def added(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Add figures up; a sum of which a part is unknown is unknown."""
    return {
        name: None if any(each[name] is None for each in figures) else sum(each[name] for each in figures)
        for name in figures[0]
    }


@given(st.lists(steps, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_the_report_and_the_status_say_what_the_service_has_seen(story: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab, told = Lab(Path(folder) / "output"), []
        for step in story:
            report, books = work(lab, step)
            told.append(books.figures())
            values = report.to_dict()
            expected = added(told) | {f"{name}_now": value for name, value in told[-1].items()}
            assert {name: values[name] for name in expected} == expected
            assert report.requests == report.answered + report.failed + report.out
            assert report.rows == report.ok + report.invalid + report.error + report.left == len(TEXTS)
            found = status("k", lab.directory)
            assert [getattr(found, name) for name in NAMES] == [getattr(report, name) for name in NAMES]
            if report.left and step.is_killed:
                lab.change("UPDATE runs SET ended = NULL, outcome = NULL WHERE id = (SELECT max(id) FROM runs)")
        lasted = lab.query("SELECT sum(ended - started) FROM runs WHERE ended IS NOT NULL")[0][0] or 0
        assert status("k", lab.directory).elapsed_s >= lasted - 1e-6


def test_rows_are_rows_and_requests_are_requests_if_equal_prompts_are_sent_once(lab: Lab) -> None:
    report = lab.run(["a"] * 7 + ["b"], Service("ab"), dedup=True)
    assert (report.rows, report.ok, report.requests, report.answered) == (8, 8, 2, 2)


def test_an_unknown_price_of_one_process_makes_the_whole_cost_unknown_and_only_that(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run([*"abcd"], Service("abcd"), limit=1)
    report = lab.run([*"abcd"], Service("abcd"), endpoints=[Endpoint("m", prices=PRICES)])
    assert (report.cost_usd, report.cost_usd_now, report.unpriced, report.unpriced_now) == (None, 9.0, 1, 0)
    assert (report.requests, report.requests_now, report.elapsed_s > report.elapsed_s_now) == (4, 3, True)
    assert (
        str(report).count("; 4 requests in ") == str(report).count(" (now 3 in ") == str(report).count(", $9.00)") == 1
    )
    arguments = ["status", "k", "--output-dir", str(lab.directory)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in NAMES} == {name: report.to_dict()[name] for name in NAMES}
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "  requests  4: 4 answered, 0 failed, 0 out; by the latest process 3\n" in said
    assert "  money     unknown for 1 request\n" in said
