"""The values that pass between modules are readable for people, and cannot be changed."""

from __future__ import annotations

import dataclasses

import pytest

from batcher.records import Completion, EndpointCount, Failure, Fault, Status


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Failure(Fault.STATUS, "slow down", 429, "rate_limit"), "HTTP 429 (rate_limit): slow down"),
        (Failure(Fault.STATUS, "oops", 500), "HTTP 500: oops"),
        (Failure(Fault.TIMEOUT, "nothing came within 2 s"), "nothing came within 2 s"),
    ],
)
def test_a_failure_says_what_happened(failure: Failure, said: str) -> None:
    assert str(failure) == said


def test_a_status_is_the_word_that_stands_in_the_file() -> None:
    assert [f"{status}" for status in Status] == ["ok", "invalid", "error"]


def test_values_that_are_shared_cannot_be_changed() -> None:
    for value, name in (
        (EndpointCount("m", 1), "requests_now"),
        (Completion("x"), "text"),
        (Failure(Fault.OTHER, "x"), "message"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
