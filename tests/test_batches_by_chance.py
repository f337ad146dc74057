"""Whatever a service does with batches: each row gets its own answer or a reason, and no budget is exceeded."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from conftest import Lab
from fake_service import Call, Service, answer_to, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.calls.batch_service import BatchLimits
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, RunStopped
from batcher.records import Failure, Usage
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, Slip, State
from batcher.server.faults import Fate, Reply

PROMPTS = [f"row {number}" for number in range(12)]
PRICED = Endpoint("m", prices={"in": 1.0, "out": 4.0, "batch": 0.5})
DOWN = Reply(503, {"error": {"message": "down"}})

ends = st.builds(
    BatchRule,
    end=st.sampled_from([State.EXPIRED, State.CANCELLED, State.FAILED]),
    answered=st.sampled_from([0.0, 0.3, 0.8]),
    is_listed=st.sampled_from([None, True, False]),
    first=st.integers(1, 2),
    times=st.integers(1, 2),
)
slips = st.builds(
    BatchRule,
    lines=st.sampled_from([*Slip]),
    share=st.sampled_from([0.2, 0.6]),
    times=st.integers(1, 6),
)
failures = st.builds(
    BatchRule,
    at=st.sampled_from([Place.UPLOAD, Place.CREATE, Place.LOOK, Place.CONTENT, Place.LIST, Place.FILES]),
    does=st.sampled_from([Fate.CUT, Fate.HANG]),
    is_done=st.booleans(),
    first=st.integers(1, 3),
    times=st.integers(1, 2),
)
late = st.builds(BatchRule, at=st.sampled_from([Place.LIST, Place.CONTENT]), late=st.sampled_from([1.0, 5.0]))
rules = st.lists(st.one_of(ends, slips, failures, late), max_size=4).map(tuple)
knobs = st.fixed_dictionaries(
    {"latency": st.sampled_from([0.0, 300.0]), "queue_requests": st.sampled_from([0, 5, 12])},
    optional={"file_requests": st.sampled_from([4, 9])},
)


class Books:
    """What the journal says that was spent, at each moment."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.most = 0.0

    def look(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # there is no journal yet
            [(total,)] = self._lab.query("SELECT coalesce(sum(cost), 0) FROM requests")
            self.most = max(self.most, total / 1e9)


class Night(NamedTuple):
    """What a service does, and how it is asked.

    Attributes:
        of_row: the statuses with which rows are refused at first.
        requests: lines of a batch, at most.
        stops: the seconds after which a run is stopped.
        via: how the last runs ask.
    """

    rules: tuple[BatchRule, ...]
    knobs: dict[str, Any]
    of_row: dict[str, int]
    requests: int
    stops: list[float]
    budget: float | None
    via: str | None


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    night=st.builds(
        Night,
        rules=rules,
        knobs=knobs,
        of_row=st.dictionaries(st.sampled_from(PROMPTS), st.sampled_from([400, 429, 503]), max_size=2),
        requests=st.sampled_from([3, 5, 50]),
        stops=st.lists(st.floats(0.0, 1500.0), max_size=2),
        budget=st.sampled_from([None, 0.0009, 0.002, 0.02]),
        via=st.sampled_from(["batch", "batch", None]),
    )
)
def test_each_row_gets_its_own_answer_within_the_budget_whatever_the_service_does(
    night: Night,
) -> None:
    """It is stopped now and then, and the last runs go on with batches, or online."""
    rules, knobs, of_row, requests, stops, budget, via = night

    def instead(call: Call) -> Failure | None:
        return refusal(of_row[call.prompt]) if call.prompt in of_row and call.nth <= 2 else None

    usage = Usage(prompt_tokens=10, completion_tokens=2)
    service = Service(
        PROMPTS,
        instead=instead,
        usage=lambda _call: usage,
        batch_knobs=BatchKnobs(**knobs, rules=rules),
        batch_limits=BatchLimits(requests=requests, bytes=10**6),
    )
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder) / "output")
        books = Books(lab)
        options: dict[str, Any] = {"endpoints": [PRICED], "param": {"max_tokens": 50}, "chunk_size": 5}
        options["budget"] = budget
        looks: dict[float, Any] = {7.0 * number: books.look for number in range(300)}
        for stop in stops:
            with contextlib.suppress(Interrupted, RunStopped):
                lab.run(PROMPTS, service, via="batch", at={**looks, stop: lab.request_stop}, **options)
            service.pass_by(100.0)
        for _ in range(5):
            try:
                report = lab.run(PROMPTS, service, via=via, at=looks, **options)
            except RunStopped as stopped:
                report = stopped.report
                service.pass_by(1000.0)
                continue
            assert report.status == "done"
            rows = lab.rows()
            assert [row["text"] for row in rows] == PROMPTS
            assert all(row["infer_status"] == "ok" or row["infer_error"] for row in rows)
            break
        for row, answer in lab.query(
            "SELECT r.position, a.answer FROM rows r JOIN results a ON a.id = r.result WHERE a.status = 'ok'"
        ):
            assert answer == answer_to(PROMPTS[row])
        if budget is not None:
            assert books.most <= budget
            billed = sum(service.billed.values()) * (10 * 1.0 + 2 * 4.0) / 1e6 / 2
            assert billed <= budget + 1e-12 or via is None
