"""The responses that services are known to send, in a table beside the project, are read rightly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from programs import SHARED

from batcher.calls.dialect import answer_in
from batcher.records import Completion, Failure

TABLE = SHARED / "dialects.jsonl"
LINES = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()] if TABLE.is_file() else []
DATE = "Wed, 25 Nov 2026 10:42:35 GMT"  # when the table's moments lie ahead

pytestmark = pytest.mark.skipif(not LINES, reason="the shared table is not part of the project")


def read(line: dict[str, Any]) -> Completion | Failure:
    body = line["body"] if isinstance(line["body"], str) else json.dumps(line["body"], ensure_ascii=False)
    headers = {name.lower(): value for name, value in line["headers"].items()}
    return answer_in(line["status"], {"date": DATE, **headers}, body.encode())


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['provider']}: {line['name']}")
def test_a_response_is_an_answer_or_a_failure_with_its_wait(line: dict[str, Any]) -> None:
    answer = read(line)
    assert isinstance(answer, Completion) == (line["right_fate"] == "answer")
    if isinstance(answer, Failure) and line["right_fate"] != "endpoint_out":
        expected = line["right_wait_s"]
        assert answer.retry_after == (None if expected is None else pytest.approx(expected, abs=1))


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['provider']}: {line['name']}")
def test_every_code_of_an_error_is_read(line: dict[str, Any]) -> None:
    error = line["body"][0] if isinstance(line["body"], list) else line["body"]
    error = error.get("error", error) if isinstance(error, dict) else {}
    answer = read(line)
    if isinstance(answer, Failure) and isinstance(error, dict):
        said = [error.get(name) for name in ("code", "type", "status")]
        assert {str(code).lower() for code in said if code and code != "None"} <= set(answer.codes)
        assert answer.is_page == (line["status"] >= 300 and _is_page(line["body"]))


def _is_page(body: object) -> bool:
    return isinstance(body, str) and not body.startswith('"')
