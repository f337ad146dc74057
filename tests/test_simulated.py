from __future__ import annotations

import json
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from batcher.errors import SettingsError
from batcher.server.books import SECONDS_KEPT, Books
from batcher.server.faults import Fate
from batcher.server.simulated import Knobs, draw

# --- knobs ---


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"latency": -1}, "latency must be a number, 0 or more"),
        ({"latency": float("nan")}, "latency must be"),
        ({"latency_sigma": -0.1}, "latency_sigma must be"),
        ({"rpm": float("inf")}, "rpm must be"),
        ({"rpm": True}, "rpm must be"),
        ({"max_in_flight": -1}, "max_in_flight must be a whole number, 0 or more"),
        ({"max_in_flight": 1.5}, "max_in_flight must be"),
        ({"error_rate": 1.5}, "error_rate must be a share from 0 to 1"),
        ({"drop_rate": -0.5}, "drop_rate must be a share from 0 to 1"),
        ({"hang_rate": "all"}, "hang_rate must be a share from 0 to 1"),
        ({"error_rate": 0.6, "drop_rate": 0.6}, "lower one of them"),
        ({"keys": "sk-1"}, "keys must be a tuple"),
        ({"keys": ("",)}, "keys must be a tuple"),
        ({"model": None}, "model must be"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_it_must_be(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Knobs(**knobs)


def test_shares_that_add_up_to_one_are_accepted() -> None:
    assert Knobs(error_rate=0.1, drop_rate=0.2, hang_rate=0.7).hang_rate == 0.7


def test_the_repr_of_the_knobs_holds_no_key() -> None:
    assert "sk-secret" not in repr(Knobs(keys=("sk-secret",)))


def test_importing_the_simulator_loads_no_web_framework() -> None:
    code = (
        "import sys, batcher.server.serve;"
        " print([m for m in ('fastapi', 'uvicorn', 'aiohttp', 'pandas') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- fates ---


def test_without_rates_every_request_is_answered_at_once() -> None:
    assert {draw(Knobs(), f"prompt {number}", 0) for number in range(100)} == {(Fate.ANSWER, 0.0)}


def test_the_same_seed_prompt_and_turn_get_the_same_fate() -> None:
    knobs = Knobs(error_rate=0.3, drop_rate=0.3, hang_rate=0.3, latency=1, latency_sigma=0.5)
    assert [draw(knobs, "p", turn) for turn in range(50)] == [draw(knobs, "p", turn) for turn in range(50)]


def test_a_retry_and_another_seed_draw_anew() -> None:
    knobs = Knobs(error_rate=0.5, seed=1)
    other = Knobs(error_rate=0.5, seed=2)
    assert len({draw(knobs, "p", turn)[0] for turn in range(50)}) == 2
    assert [draw(knobs, "p", turn) for turn in range(50)] != [draw(other, "p", turn) for turn in range(50)]


def test_each_fate_gets_its_share() -> None:
    knobs = Knobs(error_rate=0.2, drop_rate=0.1, hang_rate=0.05, cut_rate=0.15)
    fates = [draw(knobs, f"prompt {number}", 0)[0] for number in range(10_000)]
    shares = {fate: fates.count(fate) / len(fates) for fate in Fate}
    expected = {Fate.ERROR: 0.2, Fate.DROP: 0.1, Fate.HANG: 0.05, Fate.CUT: 0.15, Fate.ANSWER: 0.5}
    assert shares == pytest.approx(dict.fromkeys(Fate, 0) | expected, abs=0.02)


def test_a_share_of_one_is_every_request() -> None:
    assert {draw(Knobs(drop_rate=1), f"{number}", 0)[0] for number in range(1000)} == {Fate.DROP}


def test_latency_is_log_normal_around_its_median() -> None:
    knobs = Knobs(latency=2.0, latency_sigma=0.5)
    logs = [Fraction(draw(knobs, f"prompt {number}", 0)[1]) for number in range(4_000)]
    assert statistics.median(logs) == pytest.approx(2.0, rel=0.05)
    assert sum(value > 2 * 1.6487 for value in logs) / len(logs) == pytest.approx(0.1587, abs=0.02)


def test_latency_without_sigma_is_fixed() -> None:
    assert draw(Knobs(latency=2.0), "p", 3) == (Fate.ANSWER, 2.0)


# --- books ---


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_way_to_end_keeps_the_books_even() -> None:
    books = Books(_Clock())
    for _ in range(5):
        books.arrive("p", "sk-secret")
    books.respond(200, "p")
    books.respond(500)
    books.drop()
    books.abandon()
    books.hang()
    assert (books.in_flight, books.peak_in_flight) == (1, 5)
    books.let_go()
    assert books.in_flight == 0
    assert books.requests == sum(books.by_status.values()) + books.dropped + books.hung + books.abandoned
    assert books.requests_by_prompt == {"p": 5}
    assert books.answered_by_prompt == {"p": 1}


def test_the_books_hold_a_digest_of_the_key_alone() -> None:
    books = Books(_Clock())
    books.arrive("p", "sk-secret")
    books.arrive("p", "")
    written = json.dumps(books.to_dict())
    assert "sk-secret" not in written
    assert sorted(books.by_key.values()) == [1, 1]
    assert books.by_key["none"] == 1


def test_requests_are_counted_by_whole_seconds() -> None:
    clock = _Clock()
    books = Books(clock)
    for step in (0.0, 0.5, 0.6, 2.0):
        clock.now += step
        books.arrive("p", "")
    assert list(books.per_second) == [2, 1, 0, 1]
    assert (books.first_request, books.last_request) == (1000.0, 1003.1)


def test_only_the_last_seconds_are_kept() -> None:
    clock = _Clock()
    books = Books(clock)
    books.arrive("p", "")
    for _ in range(2):
        clock.now += SECONDS_KEPT * 2
        books.arrive("p", "")
    assert len(books.per_second) == SECONDS_KEPT
    assert list(books.per_second)[-1] == 1
    assert sum(books.per_second) == 1
    assert books.per_second_start == 3 * SECONDS_KEPT + 1


def test_a_clock_that_is_set_back_loses_no_request() -> None:
    clock = _Clock()
    books = Books(clock)
    books.arrive("p", "")
    clock.now -= 50
    books.arrive("p", "")
    assert list(books.per_second) == [2]


def test_a_reset_repeats_the_fates() -> None:
    books = Books(_Clock())
    assert [books.admit("p"), books.admit("p"), books.admit("q")] == [0, 1, 0]
    books.reset()
    assert books.admit("p") == 0


def test_books_without_counts_by_prompt_grow_with_no_prompt_and_still_tell_retries_apart() -> None:
    books = Books(_Clock(), by_prompt=False)
    turns = []
    for number in range(3):
        for _ in range(2):
            books.arrive(f"p{number}", "")
            turns.append(books.admit(f"p{number}"))
            books.respond(200, f"p{number}")
    assert (books.requests, books.answered) == (6, 6)
    assert len(set(turns)) == 6
    assert "p1" not in repr(vars(books))
