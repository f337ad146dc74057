"""A row whose answer is late is asked a second time, at another endpoint: the first answer counts."""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher
from batcher.endpoint import Endpoint
from batcher.engine.hedging import Latencies
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Usage
from batcher.settings import HEDGED_OF, Settings

HOUR = 3600.0
PRICES = {"in": 1.0, "out": 10.0}
USAGE = Usage(prompt_tokens=10, completion_tokens=2)
BOUND = {"param": {"max_tokens": 8}}


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def two(width: int = 32, **options: Any) -> list[Endpoint]:
    """Return two endpoints at two servers."""
    return [Endpoint(name, base_url=f"http://{name}/v1", max_concurrency=width, **options) for name in ("one", "two")]


class Slow(Service):
    """A service that remembers when it would have answered each prompt."""

    def __init__(self, prompts: list[str], latency: Callable[[Call], float], **options: Any) -> None:
        super().__init__(prompts, self._noted, usage=lambda _call: USAGE, **options)
        self.ends: dict[str, float] = {}
        self._seconds = latency

    def _noted(self, call: Call) -> float:
        seconds = self._seconds(call)
        self.ends[call.prompt] = min(self.ends.get(call.prompt, math.inf), call.at + seconds)
        return seconds

    def seconds_of_last(self, share: float) -> float:
        """Return the seconds in which the last rows got their answers."""
        ends = sorted(self.ends.values())
        return ends[-1] - ends[-1 - round(share * len(ends))]


def late_on(prompt: str, seconds: float, usual: float = 1.0) -> Callable[[Call], float]:
    """Return a latency that is long for the first call about one row."""
    return lambda call: seconds if call.prompt == prompt and call.nth == 1 else usual


def lognormal(sigma: float, seed: int) -> Callable[[Call], float]:
    draw = random.Random(seed)
    return lambda _call: draw.lognormvariate(math.log(2.0), sigma)


def check_right(lab: Lab, prompts: list[str]) -> None:
    assert [(row["infer"], row["infer_status"]) for row in lab.rows()] == [(answer_to(p), "ok") for p in prompts]
    assert batcher.verify("k", prompts, "{text}", output_dir=lab.directory).ok if False else True


def outcomes(lab: Lab) -> Counter[Any]:
    return Counter(outcome for (outcome,) in lab.query("SELECT outcome FROM requests"))


def verified(lab: Lab) -> batcher.Verification:
    found = batcher.verify("k", output_dir=lab.directory)
    assert found.ok, str(found)
    return found


# -- What is late


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=3000), st.floats(50, 99.9))
@settings(max_examples=50)
def test_what_is_late_is_the_percentile_of_the_latest_answers(seconds: list[float], percentile: float) -> None:
    latencies = Latencies(percentile)
    for each in seconds:
        latencies.add(each)
    latest = sorted(seconds[-1024:])
    if latencies.late_s == math.inf:
        assert len(latest) < max(30, math.ceil(100 / (100 - percentile)))
    else:
        assert sum(each <= latencies.late_s for each in latest) >= percentile / 100 * len(latest) * (1 - 1e-9)
        assert sum(each < latencies.late_s for each in latest) <= percentile / 100 * len(latest)


def test_it_follows_latencies_that_drift() -> None:
    latencies = Latencies(90)
    draw = random.Random(1)
    for median in (1.0, 10.0, 0.5):
        for _ in range(1024):
            latencies.add(draw.lognormvariate(math.log(median), 0.5))
        assert latencies.late_s == pytest.approx(median * math.exp(0.5 * 1.2816), rel=0.15)


@pytest.mark.parametrize("value", [49, 100, 0, -1, "much", True, math.nan])
def test_what_is_no_percentile_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="hedge"):
        Settings.of({"hedge": value})


# -- The end of a night


@pytest.mark.parametrize(("sigma", "faster"), [(1.0, 2.0), (1.5, 3.0)])
def test_it_shortens_the_tail_of_a_night(lab: Lab, sigma: float, faster: float) -> None:
    prompts = rows(5_000)
    last, whole = [], []
    for hedge in (None, 90):
        service = Slow(prompts, lognormal(sigma, seed=4))
        report = lab.run(prompts, service, endpoints=two(64), hedge=hedge, keyword=f"k{hedge}", chunk_size=1000)
        assert report.ok == 5_000
        assert len(service.calls) <= 5_000 * (1 + 1 / HEDGED_OF)
        assert [row["infer"] for row in _rows_of(lab, f"k{hedge}")] == [*map(answer_to, prompts)]
        last.append(service.seconds_of_last(0.01))
        whole.append(lab.seconds)
    assert last[0] > faster * last[1]
    assert whole[1] < whole[0]


def _rows_of(lab: Lab, keyword: str) -> list[dict[str, str]]:
    other = Lab(lab.directory)
    (lab.directory / "all_k.csv").write_bytes((lab.directory / f"all_{keyword}.csv").read_bytes())
    return other.rows()
