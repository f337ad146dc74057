"""By when a run shall be finished, what its plan says of that, and what its journal holds."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service
from journals import begun

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.journal.entries import DUE
from batcher.journal.opening import read_journal as batcher_journal
from batcher.journal.paces import noted
from batcher.moments import moment_as_text
from batcher.planning.due import Due, due_of
from batcher.planning.forecast import Forecast
from batcher.settings import Settings

POOL = [Endpoint("gpt-4.1-nano", prices={"in": 1.0, "out": 1.0, "batch": 0.5}, max_concurrency=4)]
HOUR = 3600.0


def night(lab: Lab, **options: Any) -> None:
    """Let a process leave a journal, whose time was given."""
    service = Service([f"question {number}" for number in range(10)])
    lab.run([f"question {number}" for number in range(10)], service, endpoints=POOL, **options)


def plan(tmp_path: Path, rows: int = 1000, **options: Any) -> Forecast:
    usual = {"output_dir": tmp_path / "output", "keyword": "k", "endpoints": POOL, "param": {"max_tokens": 5}}
    make: Any = batcher.plan
    found: Forecast = make([f"question {number}" for number in range(rows)], "{text}", **usual | options)
    return found


def journal_of(path: Path, due: Due) -> Path:
    """Make the journal of a process that was to be finished by then, and was killed."""

    async def work() -> None:
        journal.note(DUE, due.given, due.detail)
        await journal.flush()

    with begun(path) as journal:
        asyncio.run(work())
    return path


def test_a_span_counts_from_the_first_start_until_it_is_past(path: Path) -> None:
    settings = Settings(within="8h")
    first = due_of(settings, path, now=1000.0)
    assert first == Due(1000 + 8 * HOUR, "within 28800s")
    journal_of(path, first)
    assert due_of(settings, path, now=1000 + 2 * HOUR) == first._replace(is_kept=True)
    assert due_of(Settings(within="480m"), path, now=1000 + 2 * HOUR) == first._replace(is_kept=True)
    assert due_of(settings, path, now=1000 + 9 * HOUR) == Due(1000 + 17 * HOUR, "within 28800s")
    assert due_of(Settings(within="9h"), path, now=1000 + 2 * HOUR) == Due(1000 + 11 * HOUR, "within 32400s")


def test_a_moment_that_is_past_is_refused_unless_the_run_was_to_be_finished_then(path: Path) -> None:
    at = 1_796_000_000.0
    settings = Settings(by=moment_as_text(at))
    with pytest.raises(SettingsError, match=r"by: .* is past \(1h 00m ago\): give a later time, or within=\"8h\""):
        due_of(settings, path, now=at + HOUR)
    first = due_of(settings, path, now=at - HOUR)
    assert first is not None
    assert first.at == at
    journal_of(path, first)
    assert due_of(settings, path, now=at + HOUR) == first._replace(is_kept=True)


def test_a_run_that_is_finished_has_no_time_to_keep(lab: Lab) -> None:
    night(lab, within="8h")
    with batcher_journal(lab.directory / "journal_k.sqlite") as journal:
        found = noted(journal)
    assert found is not None
    assert (found.given, found.is_done) == ("within 28800s", True)
    due = due_of(Settings(within="8h"), lab.directory / "journal_k.sqlite", now=found.at - HOUR)
    assert due == Due(found.at + 7 * HOUR, "within 28800s")


def test_no_time_is_given(path: Path) -> None:
    assert due_of(Settings(), path) is None


def test_a_past_moment_ends_a_plan_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is past"):
        plan(tmp_path, by=moment_as_text(time.time() - 60))
    assert not (tmp_path / "output").exists()


def test_the_plan_shows_what_goes_where_and_the_price_by_each_way(tmp_path: Path) -> None:
    found = plan(tmp_path, within="8h", labels=["yes", "no"])
    mix = found.mix
    assert mix is not None
    assert (mix.batch_rows, mix.online_rows, mix.left_out) == (980, 20, "")
    assert mix.online_usd
    assert mix.batch_usd is not None
    assert mix.batch_usd == pytest.approx(mix.online_usd / 2)
    assert mix.expected_usd == pytest.approx(0.98 * mix.batch_usd + 0.02 * mix.online_usd)
    assert (mix.chance, mix.chance_of_batches, mix.chance_online) == (None, None, None)
    said = str(found)
    assert "20 rows online at once, 980 rows in batches; what is not back by" in said
    assert "if all batches come back in time; by one way alone: batch $" in said
    assert "unknown: no earlier batch tells how long they take, and no earlier request" in said
    json.dumps(found.to_dict())


def test_the_plan_says_at_once_that_a_time_cannot_be_met(tmp_path: Path) -> None:
    online = plan(tmp_path, within="5m", via="online")
    assert online.mix is not None
    assert online.mix.end_s is not None
    assert online.mix.end_s > 300
    assert "cannot be met: the end is expected at" in str(online)
    assert 'all 1,000 rows online (via="online")' in str(online)
    batches = plan(tmp_path, rows=10_000, within="1h", endpoints=[Endpoint("m", prices=POOL[0].prices, rpm=60)])
    assert "needs batches that come back" in str(batches)
    assert "at 60 requests a minute" in str(batches)


def test_the_plan_counts_earlier_requests_and_batches(lab: Lab, tmp_path: Path) -> None:
    service = Service([f"question {number}" for number in range(1000)])
    lab.run([f"question {number}" for number in range(50)], service, endpoints=POOL, within="8h")
    found = plan(tmp_path, within="8h")
    assert found.mix is not None
    assert found.mix.chance is not None
    assert 0.5 < found.mix.chance < 1
    assert "online requests were fast enough in 1 of 1 earlier span" in str(found)


def test_a_service_without_cheaper_batches_is_asked_online_and_the_plan_says_why(tmp_path: Path) -> None:
    found = plan(tmp_path, within="8h", endpoints=[Endpoint("m", base_url="http://localhost:8000/v1")])
    assert "all 1,000 rows online (nothing is known of batches at http://localhost:8000/v1" in str(found)
    found = plan(tmp_path, within="8h", endpoints=None, model="m", provider="mistral")
    assert "mistral has no batches that can be used" in str(found)


def test_the_plan_of_batches_without_a_time_shows_their_price_beside_that_of_online_requests(tmp_path: Path) -> None:
    found = plan(tmp_path, via="batch", labels=["yes", "no"])
    assert found.mix is not None
    assert found.mix.due is None
    assert found.cost_usd == pytest.approx(found.mix.batch_usd)
    assert found.mix.batch_usd
    assert found.mix.online_usd == pytest.approx(2 * found.mix.batch_usd)
    assert "price     batch $" in str(found)
    assert plan(tmp_path).mix is None


def test_the_status_says_by_when_a_run_shall_be_finished_and_what_it_expects(lab: Lab) -> None:
    night(lab, within="8h")
    found = batcher.status("k", lab.directory)
    assert found.due is not None
    assert found.due.startswith("20")
    assert (found.outlook, found.outlook_text[:9]) == ("", "finished ")
    assert "\n  by        finished " in str(found)
