"""Several answers to a row: each is journalled and paid once, and the one that most agree on is the row's result."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service

import batcher
from batcher.records import Completion, Failure, Fault, Usage

PROMPT = "Q {text}"
TEXTS = [f"t{number}" for number in range(8)]
ROWS = [{"text": text} for text in TEXTS]
QUESTIONS = [f"Q {text}" for text in TEXTS]
USAGE = Usage(prompt_tokens=10, completion_tokens=2)
# What a row is told, in the order of its answers.
SAID = {
    "Q t0": ["yes", "yes", "yes", "yes", "yes"],
    "Q t1": ["no", "yes", "no", "yes", "yes"],
    "Q t2": ["yes", "no", "perhaps", "no", "no"],
    "Q t3": ["no", "no", "yes", "no", "no"],
    "Q t4": ["odd", "yes", "odd", "no", "no"],
    "Q t5": ["odd", "strange", "odd", "yes", "odd"],
    "Q t6": ["yes", "no", "yes", "no", "no"],
    "Q t7": ["no", "no", "no", "yes", "yes"],
}


def said(call: Call) -> Completion:
    return Completion(SAID[call.prompt][call.nth - 1], "stop", USAGE)


def service(**options: Any) -> Service:
    return Service(QUESTIONS, **({"instead": said} | options))


OPTIONS: dict[str, Any] = {
    "prompt": PROMPT,
    "labels": ["yes", "no", "perhaps"],
    "structured": "prompt",
    "chunk_size": 3,
}


def in_the_prompt(options: dict[str, Any]) -> dict[str, Any]:
    """State the labels in the prompt, so that the service knows each prompt."""
    return options | {"labels": None, "structured": "auto"}


def run(lab: Lab, asked: Service, **options: Any) -> list[dict[str, str]]:
    lab.run(ROWS, asked, **({"prompt": PROMPT, "chunk_size": 3, "samples": 3} | options))
    return lab.rows()


def test_the_answer_that_most_agree_on_counts_and_a_column_says_how_many_do(lab: Lab) -> None:
    asked = service()
    rows = run(lab, asked)
    assert [row["infer"] for row in rows] == ["yes", "no", "yes", "no", "odd", "odd", "yes", "no"]
    assert [row["infer_agreement"] for row in rows] == [
        "1", "0.6667", "0.3333", "0.6667", "0.6667", "0.6667", "0.6667", "1",
    ]  # fmt: skip
    assert asked.asked == dict.fromkeys(QUESTIONS, 3)
    assert lab.query("SELECT id, is_tied FROM votes WHERE is_tied") == lab.query(
        "SELECT result, 1 FROM rows WHERE position = 2"
    )
    assert lab.query("SELECT count(*), count(result) FROM opinions") == [(24, 24)]
    assert batcher.verify("k", ROWS, output_dir=lab.directory, prompt=PROMPT).ok


def test_one_answer_to_a_row_writes_no_opinion(lab: Lab) -> None:
    lab.run(ROWS, service(), prompt=PROMPT)
    assert lab.query("SELECT (SELECT count(*) FROM opinions), (SELECT count(*) FROM votes)") == [(0, 0)]
    assert "infer_agreement" not in lab.rows()[0]
