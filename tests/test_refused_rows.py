"""A refusal of one row costs that row, whoever refuses it: for when one answer no longer decides over an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import batcher
from batcher.server.faults import Fate, FaultRule
from batcher.server.refusals import REFUSALS
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs

ROWS = 2_000


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(base_url: str, keys: int, texts: list[str], **options: Any) -> batcher.Report:
    endpoints = [batcher.Endpoint("m", base_url=base_url, api_key=f"key-{number}") for number in range(keys)]
    return batcher.run(texts, keyword="k", endpoints=endpoints, quiet=True, **options)


@pytest.mark.parametrize(
    ("service", "case"),
    [("xai", "content"), ("openrouter", "content"), ("cloudflare", "blocked"), ("nginx", "blocked")],
)
def test_refusals_of_one_row_in_a_hundred_over_ten_keys_end_exactly_those_rows(service: str, case: str) -> None:
    texts = [f"text {number}" for number in range(ROWS)]
    rule = FaultRule(Fate.ERROR, REFUSALS[service][case], share=0.01)
    with embedded(Knobs(faults=(rule,))) as server:
        report = run(server.base_url, 10, texts)
        frame = report.frame()
        refused = set(server.books.faults_by_prompt)
    assert 5 < len(refused) < 50
    assert set(frame["text"][frame["infer_status"] == "error"]) == refused
    assert report.ok == ROWS - len(refused)


@pytest.mark.parametrize(
    ("service", "case"), [("openai", "key"), ("one-api", "channel"), ("nginx", "moved"), ("nginx", "missing")]
)
def test_a_refusal_that_passes_does_not_end_the_run(service: str, case: str) -> None:
    texts = [f"text {number}" for number in range(1000)]
    rule = FaultRule(Fate.ERROR, REFUSALS[service][case], start=0.3, end=2.0)
    with embedded(Knobs(latency=0.2, faults=(rule,))) as server:
        assert run(server.base_url, 1, texts).ok == len(texts)
        assert sum(server.books.by_fault.values()) > 0


@pytest.mark.parametrize("does", [Fate.EMPTY, Fate.CUT, Fate.DROP])
def test_a_dead_first_row_ends_alone(does: Fate) -> None:
    texts = [f"text {number}" for number in range(50)]
    with embedded(Knobs(faults=(FaultRule(does, match=r"\Atext 0\Z"),))) as server:
        frame = run(server.base_url, 1, texts, max_attempts=2).frame()
    assert list(frame["text"][frame["infer_status"] != "ok"]) == ["text 0"]
