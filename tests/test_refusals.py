"""What the local server sends in the name of a service agrees with what is known of it, and is read as a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from programs import SHARED

from batcher.calls.dialect import answer_in
from batcher.calls.services import SERVICES
from batcher.records import Failure
from batcher.server.refusals import REFUSALS

DIALECTS = SHARED / "dialects.jsonl"
CASES = [(service, case) for service, cases in REFUSALS.items() for case in cases]
NAMES = {"ark": "volcengine ark", "lmstudio": "lm studio"}
# Replies of which the shared table has none with the same status and codes; they come from manuals and from code.
ELSEWHERE = {
    *(("openai", "key"), ("groq", "model"), ("gemini", "model"), ("xai", "model"), ("xai", "server")),
    *(("qianfan", "server"), ("minimax", "server"), ("fireworks", "server"), ("cohere", "server")),
    *(("litellm", "server"), ("nginx", "blocked"), ("nginx", "moved")),
}


def marks(body: Any) -> Iterator[str]:
    """Yield the codes in a body: what a client decides by."""
    if isinstance(body, list):
        for each in body:
            yield from marks(each)
    if isinstance(body, dict):
        for name, value in body.items():
            if name in {"code", "type", "status", "status_code", "reason"} and isinstance(value, (str, int)):
                yield str(value)
            yield from marks(value)


@pytest.mark.parametrize(("service", "case"), CASES)
def test_every_reply_is_read_as_a_failure_with_its_status_and_words(service: str, case: str) -> None:
    reply = REFUSALS[service][case]
    headers = {name.decode(): value.decode() for name, value in reply.header_lines}
    read = answer_in(reply.status, headers, reply.raw("a prompt", "a-model"))
    assert isinstance(read, Failure)
    assert reply.status in {read.status, 200}, "a 200 may hold the status of the error in it"
    assert read.message.strip()
    assert "a prompt" not in read.message


def test_the_cases_have_the_same_names_for_all_services() -> None:
    common = {"rate", "money", "key", "model", "content", "server"}
    proxies = {"nginx", "cloudflare"}
    others = {case for service, cases in REFUSALS.items() if service not in proxies for case in cases} - common
    assert others == {"channel", "hidden-rate"}
    assert {*REFUSALS} - {*SERVICES} == {"anthropic", "lmstudio", "one-api", *proxies} - {*SERVICES}


@pytest.mark.skipif(not DIALECTS.exists(), reason="the shared table is not here")
def test_status_and_codes_of_every_reply_are_those_that_the_service_is_known_to_send() -> None:
    known: dict[str, set[tuple[int, tuple[str, ...]]]] = {}
    for line in DIALECTS.read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        known.setdefault(each["provider"], set()).add((each["status"], tuple(sorted(marks(each["body"])))))
    unknown = {
        (service, case)
        for service, case in CASES
        if (REFUSALS[service][case].status, tuple(sorted(marks(REFUSALS[service][case].body))))
        not in known.get(NAMES.get(service, service), set())
    }
    assert unknown == ELSEWHERE
