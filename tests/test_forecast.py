"""What a plan says is what the run does then, and it leaves no trace."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, refusal
from programs import call, local_server, started, write_table

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import InputError, Interrupted, OutputError
from batcher.planning.forecast import Forecast

PROMPTS = [f"question {number:02}" for number in range(20)]
PRICED = Endpoint("m", prices={"in": 1, "out": 10})


def plan(lab: Lab, data: Any, prompt: Any = None, **options: Any) -> Forecast:
    given: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "endpoints": [Endpoint("m")]}
    return batcher.plan(data, prompt, **(given | options))


def traces(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def stop_early(lab: Lab) -> None:
    service = Service(PROMPTS, lambda call: 1 if call.prompt < PROMPTS[8] else 1e4)
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, service, at={50: lab.request_stop, 60: lab.request_stop}, timeout=1e5)


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (PROMPTS, {}, {"answered": 8, "new": 12, "requests": 12}),
        (PROMPTS[:10], {}, {"answered": 8, "new": 2, "requests": 2}),
        (PROMPTS, {"limit": 5}, {"rows": 5, "answered": 5, "requests": 0}),
        ([*reversed(PROMPTS)], {"chunk_size": 3}, {"answered": 8, "chunks": 7, "requests": 12}),
        (PROMPTS * 2, {}, {"answered": 8, "same": 12, "requests": 32}),
        (PROMPTS * 2, {"dedup": True}, {"answered": 16, "same": 12, "requests": 12}),
        (PROMPTS, {"param": {"top_k": 1}, "on_change": "redo"}, {"changed": 8, "new": 12, "requests": 20}),
        (PROMPTS, {"param": {"top_k": 1}, "on_change": "reuse"}, {"changed": 0, "answered": 8, "requests": 12}),
    ],
)
def test_the_run_sends_what_the_plan_said(
    lab: Lab, data: Any, options: dict[str, Any], expected: dict[str, int]
) -> None:
    stop_early(lab)
    before = traces(lab.directory)
    found = plan(lab, data, **options).to_dict()
    assert traces(lab.directory) == before
    assert {name: found[name] for name in expected} == expected
    service = Service(data)
    report = lab.run(data, service, **options)
    assert (len(service.calls), report.rows) == (found["requests"], found["rows"])


def test_a_plan_for_nothing_yet_makes_no_directory(lab: Lab) -> None:
    found = plan(lab, PROMPTS)
    assert (found.rows, found.new, found.requests, found.chunks) == (20, 20, 20, 1)
    assert (found.completion_tokens, found.cost_usd, found.most_usd, found.seconds) == (None, None, None, None)
    assert not lab.directory.exists()


def test_a_plan_says_what_changed_and_does_not_refuse(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), "{text}")
    found = plan(lab, [*PROMPTS[:19], "another"], "{text}")
    assert (found.changed, found.new, found.reasons) == (1, 0, ("column text changed",))
    assert str(found).startswith("k: 20 rows: 19 answered, 0 new, 1 answered to another question (column text changed)")


def test_rows_that_failed_stay_so_until_they_are_retried(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS, instead=lambda call: refusal(400) if call.prompt in PROMPTS[3:5] else None))
    assert (plan(lab, PROMPTS).error, plan(lab, PROMPTS).requests) == (2, 0)
    assert (plan(lab, PROMPTS, retry_failed=True).error, plan(lab, PROMPTS, retry_failed=True).requests) == (0, 2)


def test_chunk_files_without_a_journal_are_counted_and_left(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=5)
    (lab.directory / "journal_k.sqlite").unlink()
    before = traces(lab.directory)
    found = plan(lab, PROMPTS)
    assert (found.adopted, found.answered, found.requests) == (20, 20, 0)
    assert traces(lab.directory) == before
    lab.path(5).write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match=r"5_k\.csv"):
        plan(lab, PROMPTS)


# -- Tokens, money, time


def test_money_follows_the_answers_so_far(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), limit=5, endpoints=[PRICED])  # two tokens in each answer
    found = plan(lab, PROMPTS, endpoints=[PRICED], param={"max_tokens": 7}, on_change="reuse")
    assert found.completion_tokens == 15 * 2
    assert found.cost_usd == pytest.approx((found.prompt_tokens + 10 * 30) / 1e6)
    assert found.most_usd is not None
    assert found.most_usd >= (found.prompt_tokens + 10 * 15 * 7) / 1e6


@pytest.mark.parametrize(
    ("endpoints", "seconds"),
    [
        ([Endpoint("m", rpm=60)], 20),
        ([Endpoint("m", rpm=60, rps=0.5)], 40),
        ([Endpoint("m", rps=1), Endpoint("n", rps=3)], 5),
        ([Endpoint("m", rps=1), Endpoint("n")], None),
        ([Endpoint("m")], None),
    ],
)
def test_time_follows_from_the_limits(lab: Lab, endpoints: list[Endpoint], seconds: float | None) -> None:
    assert plan(lab, PROMPTS, endpoints=endpoints).seconds == seconds


def test_a_limit_of_tokens_makes_its_time(lab: Lab) -> None:
    found = plan(lab, PROMPTS, endpoints=[Endpoint("m", tpm=100)])
    assert found.seconds == pytest.approx(found.prompt_tokens / 100 * 60)


def test_a_broken_row_is_named(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text\na\nb,c\n")
    with pytest.raises(InputError, match="line 3"):
        plan(lab, path, "{text}")


# -- The command line


def test_plan_and_dry_run_say_the_same_and_call_nobody(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[f"row {n}"] for n in range(30)])
    with local_server("--latency", "1", cwd=tmp_path) as server:  # so that the run outlasts a plan
        options = ["t.csv", "--prompt", "{text}", "--base-url", server.base_url, "--model", "m", "--chunk-size", "10"]
        planned = call("plan", *options, cwd=tmp_path)
        dry = call("run", *options, "--dry-run", cwd=tmp_path)
        assert planned == dry
        assert planned.status == 0
        assert planned.stdout.splitlines()[:3] == [
            "t: 30 rows: 30 new",
            f"  asks      m at {server.base_url}, no key",
            "  requests  30, into 3 chunks",
        ]
        assert all(len(line) <= 80 for line in planned.stdout.splitlines())
        assert server.books()["requests"] == 0
        assert not (tmp_path / "output").exists()
        with started("run", *options, "--max-concurrency", "1", cwd=tmp_path) as program:  # plan beside a run
            server.wait_for(3)
            program.send_signal(signal.SIGSTOP)  # it must not end before it is looked at
            beside = json.loads(call("plan", *options, "--json", cwd=tmp_path).stdout)
            program.kill()
        assert 0 < beside["requests"] <= 28
        before = traces(tmp_path / "output")
        killed = call("plan", *options, cwd=tmp_path)
        assert "1 request was in flight when the last process ended" in killed.stdout
        assert traces(tmp_path / "output") == before
