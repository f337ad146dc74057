"""Runs through a service's batch API, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import Lab
from fake_service import Service, answer_to

from batcher.endpoint import Endpoint

PROMPTS = [f"question {number}" for number in range(20)]


def test_a_table_goes_through_one_batch_and_each_row_gets_its_own_answer(lab: Lab) -> None:
    service = Service(PROMPTS)
    report = lab.run(PROMPTS, service, via="batch", chunk_size=7)
    assert (report.status, report.ok) == ("done", 20)
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]
    assert service.billed == Counter(PROMPTS)
