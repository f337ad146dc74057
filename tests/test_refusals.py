"""What the local server sends in the name of a service agrees with what is known of it, and is read as a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from programs import SHARED

from batcher.calls.dialect import answer_in
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.services import SERVICES, Service
from batcher.endpoint import OFFLINE
from batcher.records import Failure
from batcher.server.refusals import REFUSALS

AGAIN, WAIT, ROW_ENDS, ROW, ENDPOINT, OUT = Fate
DIALECTS = SHARED / "dialects.jsonl"
CASES = [(service, case) for service, cases in REFUSALS.items() for case in cases]
PROXIES = {"proxy", "nginx", "cloudflare"}
NAMES = {
    "ark": "volcengine ark",
    "llamacpp": "llama.cpp",
    "lmstudio": "lm studio",
    "nvidia": "nvidia nim",
}
SERVED = [service for service in SERVICES.values() if service.name != OFFLINE]
# Servers of one's own that have no limit, but let requests wait; LLaMA-Factory answers for any model's name.
WITHOUT = {
    "vllm": {"rate"},
    "lmdeploy": {"rate"},
    "llamafactory": {"rate", "model"},
    "llamacpp": {"rate"},
    "lmstudio": {"rate"},
}
# The fates that a person would give: of what is the row's or the endpoint's, either word for it is right.
RIGHT = {
    "rate": {WAIT},
    "hidden-rate": {WAIT},
    "flex": {WAIT},
    "overloaded": {WAIT, AGAIN},
    "server": {AGAIN},
    "key": {ENDPOINT},
    "model": {ENDPOINT},
    "money": {ENDPOINT, OUT},
    "channel": {ENDPOINT},
    "content": {ROW_ENDS},
    "too-long": {ROW_ENDS, ROW},
    # Of proxies: the API has said nothing of the row or the key.
    "unreachable": {AGAIN},
    "down": {AGAIN},
    "bad-gateway": {AGAIN},
    "unavailable": {AGAIN},
    "timeout": {AGAIN},
    "login": {ENDPOINT},
    "missing": {ENDPOINT},
    "moved": {ENDPOINT},
    "too-large": {ROW_ENDS},
    "blocked": {ROW},
    "challenge": {ROW},
}
# Moonshot tells an overload by a 429; a relay without a channel for a model may have one the next time.
OTHERWISE = {("moonshot", "server"): {WAIT}, ("one-api", "model"): {AGAIN}}
# Replies of which the shared table has none with the same status and codes. They come from manuals, issues and code;
# nothing is known of infini's.
ELSEWHERE = {
    "openai": {"key"},
    "azure": {"too-long"},
    "moonshot": {"too-long"},
    "siliconflow": {"too-long"},
    "ark": {"too-long"},
    "qianfan": {"server"},
    "minimax": {"model", "server", "too-long"},
    "openrouter": {"too-long"},
    "groq": {"model", "overloaded"},
    "together": {"key", "model"},
    "fireworks": {"key", "server", "too-long"},
    "gemini": {"model"},
    "xai": {"model", "server"},
    "cohere": {"server"},
    "deepinfra": {"key", "model", "too-long"},
    "infini": {"key", "model", "rate", "server"},
    "cerebras": {"key", "model", "overloaded", "too-long"},
    "nvidia": {"money", "overloaded", "server"},
    "huggingface": {"key", "model", "overloaded", "rate", "too-long"},
    "sglang": {"key", "model", "rate", "server"},
    "lmdeploy": {"key", "model"},
    "llamafactory": {"key", "server"},
    "llamacpp": {"model"},
    "ollama": {"key", "rate"},
    "lmstudio": {"key", "server", "too-long"},
    "litellm": {"server"},
    "proxy": {"down", "login", "unreachable"},
    "nginx": {"blocked", "moved", "rate"},
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
    assert meaning_of(read).fate in OTHERWISE.get((service, case), RIGHT[case])


@pytest.mark.parametrize("service", SERVED, ids=lambda service: service.name)
def test_every_service_that_is_known_by_name_has_its_answers_by_name(service: Service) -> None:
    cases = {*REFUSALS[service.name]}
    assert {"key", "model", "rate"} - cases == WITHOUT.get(service.name, set())
    assert cases & {"server", "overloaded"}
    for case, words in {
        "money": service.closed + service.empty_account,
        "content": service.filtered,
        "too-long": service.too_long,
    }.items():
        assert not words or case in cases, f"it has words for {case}: {words}"


def test_the_cases_have_the_same_names_for_all_services() -> None:
    common = {"rate", "money", "key", "model", "content", "too-long", "server", "overloaded"}
    others = {case for service, cases in REFUSALS.items() if service not in PROXIES for case in cases} - common
    assert others == {"channel", "flex", "hidden-rate"}
    assert {*REFUSALS} - {*SERVICES} == {"anthropic", "one-api", *PROXIES}


def test_a_proxy_that_wants_a_login_says_which() -> None:
    login = REFUSALS["proxy"]["login"]
    assert (login.status, login.headers["proxy-authenticate"]) == (407, 'Basic realm="proxy"')


@pytest.mark.skipif(not DIALECTS.exists(), reason="the shared table is not here")
def test_status_and_codes_of_every_reply_are_those_that_the_service_is_known_to_send() -> None:
    known: dict[str, set[tuple[int, tuple[str, ...]]]] = {}
    for line in DIALECTS.read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        known.setdefault(each["provider"], set()).add((each["status"], tuple(sorted(marks(each["body"])))))
    unknown: dict[str, set[str]] = {}
    for service, case in CASES:
        reply = REFUSALS[service][case]
        if (reply.status, tuple(sorted(marks(reply.body)))) not in known.get(NAMES.get(service, service), set()):
            unknown.setdefault(service, set()).add(case)
    assert unknown == ELSEWHERE
