"""What `status` and the report say of the batches of a run."""

from __future__ import annotations

import json
import re

import pytest
from conftest import Lab
from fake_service import Service, refusal

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import BatchesOut
from batcher.server.batch_rules import BatchKnobs, BatchRule, Slip

ROWS = [f"question {number}" for number in range(20)]
PRICED = [Endpoint("m", "https://batches.example/v1", prices={"in": 1, "out": 2, "batch": 0.5})]


def service_of(*rules: BatchRule) -> Service:
    return Service(ROWS, batch_knobs=BatchKnobs(latency=6000.0, rules=rules))


def submit(lab: Lab, service: Service) -> None:
    with pytest.raises(BatchesOut):
        lab.run(ROWS, service, via="batch", wait="no", endpoints=PRICED, param={"max_tokens": 10})


def test_batches_that_are_out_are_shown_with_place_time_and_money(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    submit(lab, service_of())

    found = batcher.status("k", lab.directory)

    [batch] = found.batches
    assert (batch.is_out, batch.rows, batch.where) == (True, 20, "batches.example")
    assert batch.reserved_usd > 0
    assert batch.submitted is not None
    assert found.left_s is None
    said = str(found)
    assert re.search(r"batches   1 out at batches\.example with 20 rows: 0 answered so far, \$0\.0\d+ reserved", said)
    assert re.search(r"batch     batch_\w+ at batches\.example: \w+, .*20 rows.*; submitted \d\d:\d\d", said)
    assert "expires" in said
    runs = batcher.status(None, lab.directory)
    assert runs[0].batches_out == 1
    assert "k: 1 batch with 20 rows is out at batches.example" in str(runs)
    assert main(["status", "k", "--output-dir", str(lab.directory), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["batches"][0]["rows"], shown["batches"][0]["is_out"]) == (20, True)


def test_batches_that_are_fetched_are_summed_up_and_what_was_odd_is_said(lab: Lab) -> None:
    service = service_of(
        BatchRule(lines=Slip.DOUBLE, match="question 5$"), BatchRule(lines=Slip.DROP, match="question 7$")
    )
    service.instead = lambda call: refusal(500) if call.in_batch and call.prompt == ROWS[3] and call.nth == 1 else None
    submit(lab, service)
    service.pass_by(7000)
    lab.run(ROWS, service, endpoints=PRICED, param={"max_tokens": 10})

    found = batcher.status("k", lab.directory)

    assert re.search(r"batches   1 fetched with 20 rows: 18 answered, 1 failed, 1 lost", str(found))
    assert re.search(r"odd       batch_\w+: line \d+ of the output file is there a second time", str(found))
    assert batcher.status(None, lab.directory)[0].batches_out == 0


def test_a_run_without_batches_says_nothing_of_them(lab: Lab) -> None:
    lab.run(ROWS, Service(ROWS))

    assert batcher.status("k", lab.directory).batches == ()
    assert "batch" not in str(batcher.status("k", lab.directory))


def test_the_report_has_a_table_of_them(lab: Lab) -> None:
    submit(lab, service_of())

    page = batcher.report("k", lab.directory).path.read_text(encoding="utf-8")

    assert "Batches, the latest first" in page
    assert "batches.example" in page
