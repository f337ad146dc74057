"""The faults of the local server: which requests meet them, what is served, and what the books say of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_client import Reply, chat, request, stats_when, unanswered

from batcher.calls.dialect import answer_in
from batcher.calls.transport import Attempt, Completions, open_session
from batcher.errors import SettingsError
from batcher.records import Completion, Failure
from batcher.server import faults
from batcher.server.answers import answer
from batcher.server.faults import Fate, FaultRule, Faults, Request
from batcher.server.refusals import REFUSALS
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

SORRY = faults.Reply(403, "<html>no</html>")


def refuse(**conditions: Any) -> FaultRule:
    return FaultRule(Fate.ERROR, SORRY, **conditions)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def met(watching: Faults, prompt: str = "p", model: str = "m", key: str = "k") -> int:
    """Return the number of the rule that a request meets, or 0."""
    found = watching.meet(prompt, model, key)
    return found.number if found else 0


# --- which requests ---


def test_a_rule_without_conditions_is_met_by_every_request() -> None:
    watching = Faults([refuse()])
    assert [met(watching, f"p{number}") for number in range(5)] == [1] * 5


@pytest.mark.parametrize(
    ("pattern", "prompt", "is_met"),
    [
        ("DROP TABLE", "x; DROP TABLE users", True),
        ("DROP TABLE", "x; drop table users", False),
        ("(?i)drop table", "x; DROP TABLE users", True),
        (r"\Aexactly\Z", "exactly", True),
        (r"\Aexactly\Z", "not exactly", False),
        ("余额不足", "我的账户余额不足", True),
        ("\ud83d", "half \ud83d of a pair", True),
    ],
)
def test_words_are_found_anywhere_in_the_prompt_by_a_regular_expression(
    pattern: str, prompt: str, *, is_met: bool
) -> None:
    assert met(Faults([refuse(match=pattern)]), prompt) == is_met


def test_a_model_and_a_key_are_compared_as_wholes() -> None:
    watching = Faults([refuse(model="a", keys=("k1", "k2"))])
    asked = [("a", "k1"), ("a", "k2"), ("a", "k3"), ("b", "k1"), ("ab", "k1"), ("a", "")]
    assert [met(watching, "p", *each) for each in asked] == [1, 1, 0, 0, 0, 0]


def test_requests_are_counted_from_1_up_to_the_last_one() -> None:
    watching = Faults([refuse(first=2, last=4)])
    assert [met(watching) for _ in range(6)] == [0, 1, 1, 1, 0, 0]


def test_seconds_are_counted_from_the_first_request_up_to_the_end() -> None:
    clock = Clock()
    watching = Faults([refuse(start=10, end=20)], clock=clock)
    clock.now += 500  # before the first request no time passes
    seen = []
    for step in (0.0, 9.75, 0.25, 9.75, 0.25):
        clock.now += step
        seen.append(met(watching))
    assert seen == [0, 0, 1, 1, 0]


def test_a_share_is_drawn_from_the_prompt_and_stays_the_same() -> None:
    watching = Faults([refuse(share=0.1)])
    drawn = [met(watching, f"p{number}") for number in range(5_000)]
    assert sum(drawn) == pytest.approx(500, abs=100)
    assert [met(watching, f"p{number}") for number in range(5_000)] == drawn
    assert [met(Faults([refuse(share=0.1)], seed=1), f"p{number}") for number in range(5_000)] != drawn


def test_two_rules_draw_their_shares_apart() -> None:
    watching = Faults([refuse(share=0.5), refuse(share=0.5)])
    found = Counter(met(watching, f"p{number}") for number in range(4_000))
    assert found[1] == pytest.approx(2_000, abs=150)
    assert found[2] == pytest.approx(1_000, abs=150)


def test_the_first_requests_of_each_prompt_meet_a_fault_and_the_later_ones_do_not() -> None:
    watching = Faults([refuse(times=2)])
    assert [met(watching, prompt) for prompt in "aababba"] == [1, 1, 1, 0, 1, 0, 0]


def test_only_requests_that_met_the_fault_count_as_times() -> None:
    watching = Faults([refuse(times=1, first=3)])
    assert [met(watching) for _ in range(5)] == [0, 0, 1, 0, 0]


def test_the_first_rule_that_fits_decides() -> None:
    watching = Faults([refuse(match="a", times=1), refuse(match="[ab]", times=1), refuse(match="b")])
    assert [met(watching, prompt) for prompt in "aaabbc"] == [1, 2, 0, 2, 3, 0]


def test_an_account_is_empty_after_its_answers_and_other_keys_do_not_matter() -> None:
    watching = Faults([refuse(after_answers=2, keys=("k1", "k2"))])
    for key in ("k1", "k3", "k3"):
        watching.answered(key)
    assert met(watching, key="k1") == 0
    watching.answered("k2")
    assert [met(watching, key=key) for key in ("k1", "k2", "k3")] == [1, 1, 0]


def test_keys_of_one_account_share_its_limit_and_are_told_when_it_admits_again() -> None:
    clock = Clock()
    watching = Faults([refuse(rpm=60, keys=("k1", "k2"))], clock=clock)
    assert [met(watching, key=key) for key in ("k1", "k2", "k1", "k3")] == [0, 0, 1, 0]
    found = watching.meet("p", "m", "k2")
    assert found
    assert found.wait_s == 1
    clock.now += 1
    assert [met(watching, key=key) for key in ("k2", "k1")] == [0, 1]


def test_a_reset_begins_anew() -> None:
    clock = Clock()
    watching = Faults([refuse(times=1, first=2, end=5), refuse(after_answers=1)], clock=clock)
    watching.answered("k")
    first = [met(watching) for _ in range(3)]
    clock.now += 60
    watching.reset()
    watching.answered("k")
    assert [met(watching) for _ in range(3)] == first == [2, 1, 2]


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "match": st.sampled_from(["a", "^b", "c$", "[ab]{2}"]),
        "model": st.sampled_from(["m", "n"]),
        "keys": st.sampled_from([("k",), ("k", "l")]),
        "start": st.integers(0, 5),
        "end": st.integers(6, 9),
        "first": st.integers(1, 8),
        "last": st.integers(8, 20),
        "times": st.integers(1, 3),
        "after_answers": st.integers(1, 3),
    },
)
ASKED = st.tuples(
    st.text("abc", max_size=3), st.sampled_from("mn"), st.sampled_from("kl"), st.integers(0, 3), st.booleans()
)


@given(st.lists(CONDITIONS, min_size=1, max_size=4), st.lists(ASKED, max_size=25))
def test_a_request_meets_the_first_rule_of_which_every_condition_holds(
    conditions: list[dict[str, Any]], asked: list[tuple[str, str, str, int, bool]]
) -> None:
    clock = Clock()
    watching = Faults([refuse(**each) for each in conditions], clock=clock)
    hits: Counter[tuple[int, str]] = Counter()
    answers: Counter[str] = Counter()
    began: float | None = None
    for number, (prompt, model, key, step, is_answered) in enumerate(asked, 1):
        clock.now += step
        began = clock.now if began is None else began
        seconds = clock.now - began
        expected = 0
        for place, each in enumerate(conditions, 1):
            holds = [
                re.search(each.get("match", ""), prompt) is not None,
                each.get("model", model) == model,
                key in each.get("keys", (key,)),
                each.get("start", 0) <= seconds < each.get("end", math.inf),
                each.get("first", 1) <= number <= each.get("last", math.inf),
                hits[place, prompt] < each.get("times", math.inf),
                sum(answers[one] for one in each.get("keys", "kl")) >= each.get("after_answers", 0),
            ]
            if all(holds):
                expected = place
                hits[place, prompt] += 1
                break
        assert met(watching, prompt, model, key) == expected
        if is_answered:
            watching.answered(key)
            answers[key] += 1


@given(st.text(), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_draw_depends_on_the_prompt_the_rule_and_the_seed_alone(prompt: str, share: float, seed: int) -> None:
    rule = refuse(share=share)
    assert len({rule.fits(Request(prompt, number=number), seed) for number in range(1, 4)}) == 1
    if rule.fits(Request(prompt), seed):
        assert refuse(share=min(share * 1.5, 1)).fits(Request(prompt), seed), "a larger share holds the smaller one"


@pytest.mark.parametrize(
    ("does", "reply", "match"),
    [(Fate.ERROR, None, ""), (Fate.CUT, SORRY, ""), (Fate.ANSWER, SORRY, ""), (Fate.CUT, None, "(")],
)
def test_a_rule_that_cannot_be_played_is_refused(does: Fate, reply: faults.Reply | None, match: str) -> None:
    with pytest.raises(SettingsError):
        FaultRule(does, reply, match=match)


# --- what is served ---


def test_a_firewall_refuses_one_row_by_its_words_with_a_page() -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["cloudflare"]["blocked"], match="(?i)drop table", name="firewall")
    with embedded(Knobs(faults=(rule,))) as server:
        blocked, fine = chat(server.base_url, "x'; DROP TABLE users"), chat(server.base_url, "2 + 3")
        assert (blocked.status, blocked.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert blocked.headers["server"] == "cloudflare"
        assert b"you have been blocked" in blocked.body
        assert (fine.status, fine.text) == (200, "5")
        stats = request(server.base_url, "GET", "/stats").json
        assert stats == server.books.to_dict()
        assert stats["by_fault"] == {"1 firewall": 1}
        assert stats["faults_by_prompt"] == {"x'; DROP TABLE users": 1}
        assert stats["by_status"] == {"403": 1, "200": 1}


def test_a_fault_is_met_before_key_and_model_are_looked_at() -> None:
    with embedded(Knobs(faults=(refuse(times=1),), keys=("right",), model="sim")) as server:
        assert [chat(server.base_url, key="wrong").status for _ in range(2)] == [403, 401]


def test_a_refusal_quotes_the_prompt_and_the_model_as_they_are() -> None:
    body = {"error": {"message": "bad: {prompt} ({model})", "deep": ["{prompt}", 5, None]}, "{prompt}": 1}
    rules = (
        FaultRule(Fate.ERROR, faults.Reply(400, body), match="balance"),
        FaultRule(Fate.ERROR, faults.Reply(400, "no {prompt}")),
    )
    with embedded(Knobs(faults=rules)) as server:
        quoted = 'insufficient "balance" {model}\n'
        assert chat(server.base_url, quoted).json == {
            "error": {"message": f"bad: {quoted} (m)", "deep": [quoted, 5, None]},
            "{prompt}": 1,
        }
        assert chat(server.base_url, "half \ud83d of a pair").body == b"no half ? of a pair"


@pytest.mark.parametrize(("does", "status"), [(Fate.EMPTY, 200), (Fate.ERROR, 500)])
def test_a_dead_row_never_gets_its_answer_and_the_others_do(does: Fate, status: int) -> None:
    reply = REFUSALS["openai"]["server"] if does is Fate.ERROR else None
    with embedded(Knobs(faults=(FaultRule(does, reply, match="dead"),))) as server:
        replies = [chat(server.base_url, "dead") for _ in range(5)]
        assert [reply.status for reply in replies] == [status] * 5
        assert all(not reply.json.get("choices") for reply in replies)
        assert chat(server.base_url, "alive").text
        assert server.books.answered_by_prompt == {"alive": 1}
        assert server.books.lost == (5 if does is Fate.EMPTY else 0)


def test_an_answer_without_choices_is_billed() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.EMPTY),))) as server:
        reply = chat(server.base_url, "What is 2 + 3?").json
        assert (reply["choices"], reply["usage"]["completion_tokens"]) == ([], 1)
        streamed = chat(server.base_url, "p", stream=True, stream_options={"include_usage": True}).body.decode()
        events = [json.loads(event.removeprefix("data: ")) for event in streamed.split("\n\n")[:-2]]
        assert [event["choices"] for event in events] == [[]]
        assert server.books.lost == 2


def test_an_answer_is_cut_off_as_at_a_limit_and_its_usage_says_so() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.LENGTH, match="long"),))) as server:
        whole = answer({"messages": [{"role": "user", "content": "a long story"}]})
        cut = chat(server.base_url, "a long story").json
        [choice] = cut["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (whole[: len(whole) // 2], "length")
        assert cut["usage"]["completion_tokens"] == math.ceil(len(whole) // 2 / 4)
        streamed = chat(server.base_url, "a long story", stream=True)
        assert answer_in(200, streamed.headers, streamed.body) == Completion(
            whole[: len(whole) // 2], "length", id="chatcmpl-sim-2", model="m"
        )
        assert chat(server.base_url, "2 + 3").json["choices"][0]["finish_reason"] == "stop"
        assert (server.books.answered, server.books.lost) == (3, 0)


def test_several_choices_come_although_one_was_asked_for() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.CHOICES),))) as server:
        for n, count in ((None, 3), (1, 3), (5, 5)):
            several = chat(server.base_url, "2 + 3", n=n).json
            assert [choice["message"]["content"] for choice in several["choices"]] == ["5"] * count
            assert several["usage"]["completion_tokens"] == count
        assert server.books.answered_by_prompt == {"2 + 3": 3}


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_has_a_line_that_is_no_json_and_is_read_as_no_answer(*, stream: bool) -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.HOLE, match="hole", times=1),))) as server:
        holed = chat(server.base_url, "a hole", stream=stream)
        assert holed.headers["content-type"] == "text/event-stream"
        lines = [line.removeprefix("data: ") for line in holed.body.decode().split("\n\n")[:-2]]
        assert [is_json(line) for line in lines] == [place != 1 for place in range(len(lines))]
        read = answer_in(holed.status, holed.headers, holed.body)
        assert isinstance(read, Failure)
        assert read.may_be_billed
        assert chat(server.base_url, "a hole").text.endswith("a hole")
        books = server.books
        assert (books.by_status, books.answered, books.lost) == ({200: 2}, 1, 1)


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("does", [Fate.CUT, Fate.DROP])
def test_a_row_whose_connection_is_always_cut_leaves_the_others_alone(does: Fate) -> None:
    with embedded(Knobs(faults=(FaultRule(does, match="dead"),))) as server:
        for _ in range(3):
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                chat(server.base_url, "dead")
        assert chat(server.base_url, "alive").status == 200
        assert (server.books.dropped, server.books.answered) == (3, 1)
        assert server.books.lost == (3 if does is Fate.CUT else 0), "half an answer was made"


def test_a_row_that_hangs_ends_with_its_client() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.HANG, match="dead"),))) as server:
        with unanswered(server.base_url, "dead"):
            stats_when(server.base_url, "hung", 1)
            assert chat(server.base_url, "alive").status == 200
        assert stats_when(server.base_url, "in_flight", 0)["by_fault"] == {"1 hang": 1}


def test_a_slow_row_is_answered_late_and_still_meets_key_and_limits() -> None:
    rule = FaultRule(Fate.ANSWER, delay=3_600, match="slow")
    with embedded(Knobs(faults=(rule,))) as server:
        with unanswered(server.base_url, "slow"):
            stats_when(server.base_url, "in_flight", 1)
            assert chat(server.base_url, "quick").status == 200
        assert stats_when(server.base_url, "abandoned", 1)["answered"] == 1
    with embedded(Knobs(faults=(FaultRule(Fate.ANSWER, delay=0.01),), keys=("right",))) as server:
        assert [chat(server.base_url, key=key).status for key in ("right", "wrong")] == [200, 401]


def test_a_proxy_gives_up_after_the_answer_was_made() -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["nginx"]["timeout"], delay=0.01, is_paid=True, times=1)
    with embedded(Knobs(faults=(rule,))) as server:
        assert [chat(server.base_url).status for _ in range(2)] == [504, 200]
        assert (server.books.lost, server.books.answered) == (1, 1)


def test_a_refusal_passes_after_its_requests() -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["openai"]["key"], first=2, last=3)
    with embedded(Knobs(faults=(rule,))) as server:
        assert [chat(server.base_url).status for _ in range(5)] == [200, 401, 401, 200, 200]
        assert request(server.base_url, "POST", "/stats/reset").status == 200
        assert server.books.by_fault == {}
        assert [chat(server.base_url).status for _ in range(3)] == [200, 401, 401]


def test_an_account_becomes_empty_after_its_answers() -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["deepseek"]["money"], keys=("a1", "a2"), after_answers=3)
    with embedded(Knobs(faults=(rule,))) as server:
        keys = ("a1", "a2", "b", "a1", "a2", "a1", "b")
        assert [chat(server.base_url, key=key).status for key in keys] == [200, 200, 200, 200, 402, 402, 200]


def test_keys_of_one_account_share_a_limit_and_hear_when_to_come_back() -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["dashscope"]["rate"], keys=("a1", "a2"), rpm=0.06)
    with embedded(Knobs(faults=(rule,))) as server:
        replies = [chat(server.base_url, key=key) for key in ("a1", "a2", "b")]
        assert [reply.status for reply in replies] == [200, 429, 200]
        assert 900 < int(replies[1].headers["retry-after"]) <= 1_000
    told = FaultRule(Fate.ERROR, REFUSALS["openai"]["rate"], rpm=0.06)
    with embedded(Knobs(faults=(told,))) as server:
        assert [chat(server.base_url).headers.get("retry-after") for _ in range(2)] == [None, "1"]


# --- a proxy ---


def through(server: Server, url: str, prompt: str = "2 + 3") -> Reply:
    """Ask as a client of a proxy does, with the whole URL in the first line."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return request(server.base_url, "POST", url, json.dumps(body).encode())


def tunnel(server: Server, host: str) -> str:
    """Ask for a tunnel, and return what is said of the refusal."""
    place = urlsplit(server.base_url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    connection.set_tunnel(host, 443)
    with contextlib.closing(connection), pytest.raises(OSError, match=r"Tunnel|Remote") as refused:
        connection.connect()
    return str(refused.value)


def test_whatever_host_is_asked_through_the_proxy_the_server_answers() -> None:
    with embedded(Knobs(faults=(refuse(match="blocked"),))) as server:
        assert through(server, "http://model.example/v1/chat/completions").text == "5"
        assert through(server, "http://other.example:81/v1/chat/completions", "blocked").status == 403
        assert request(server.base_url, "GET", "http://model.example/health").json == {"status": "ok"}
        assert request(server.base_url, "GET", "http://model.example").status == 404
        assert server.books.by_status == {200: 1, 403: 1}


@pytest.mark.parametrize(("case", "status"), [("login", 407), ("unreachable", 502), ("down", 503)])
def test_a_proxy_refuses_requests_and_tunnels_as_long_as_the_fault_lasts(case: str, status: int) -> None:
    rule = FaultRule(Fate.ERROR, REFUSALS["proxy"][case], first=1, last=2)
    with embedded(Knobs(faults=(rule,))) as server:
        refused = through(server, "http://model.example/v1/chat/completions")
        assert refused.status == status
        assert refused.headers.get("proxy-authenticate") == ('Basic realm="proxy"' if case == "login" else None)
        assert f": {status} " in tunnel(server, "model.example")
        assert through(server, "http://model.example/v1/chat/completions").status == 200
        assert server.books.by_status == {status: 2, 200: 1}


def test_a_tunnel_is_refused_by_a_fault_for_its_host_and_never_opened() -> None:
    rules = (
        FaultRule(Fate.EMPTY),
        FaultRule(Fate.CUT),
        FaultRule(Fate.ERROR, faults.Reply(200, "fine")),
        FaultRule(Fate.ANSWER, delay=3_600),
        FaultRule(Fate.DROP, match=r"^dropped\.example:443$"),
        FaultRule(Fate.ERROR, REFUSALS["proxy"]["down"], match=r"^down\."),
        FaultRule(Fate.ERROR, REFUSALS["proxy"]["login"], model="m"),
    )
    with embedded(Knobs(faults=rules)) as server:
        assert "503" in tunnel(server, "down.example")
        assert "without response" in tunnel(server, "dropped.example")
        assert "405" in tunnel(server, "model.example")
        books = server.books
        assert (books.requests, books.in_flight, books.dropped) == (3, 0, 1)
        assert books.by_status == {503: 1, 405: 1}
        assert books.by_fault == {"6 HTTP 503": 1, "5 drop": 1}


@pytest.mark.parametrize(
    ("case", "scheme", "said"),
    [
        ("login", "http", "requires a user and a password (HTTP 407)"),
        ("login", "https", "requires a user and a password (HTTP 407)"),
        ("unreachable", "https", "refused a connection to https://model.example (HTTP 502)"),
        ("down", "http", "503 Service Unavailable"),
    ],
)
async def test_a_run_reads_the_refusals_of_the_proxy_and_then_its_answers(
    monkeypatch: pytest.MonkeyPatch, case: str, scheme: str, said: str
) -> None:
    for name in ("all_proxy", "no_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    rule = FaultRule(Fate.ERROR, REFUSALS["proxy"][case], last=1)
    with embedded(Knobs(faults=(rule,))) as server:
        monkeypatch.setenv("ALL_PROXY", server.base_url.removesuffix("/v1"))
        async with open_session() as session:
            outcomes = []
            for base_url in (f"{scheme}://model.example/v1", "http://model.example/v1"):
                attempt = Attempt([{"role": "user", "content": "2 + 3"}])
                await Completions(session, base_url, "sk-5ecret", "m", {}).send(attempt)
                outcomes.append(attempt.outcome)
    refused, answered = outcomes
    assert isinstance(refused, Failure)
    assert said in refused.message
    assert isinstance(answered, Completion)
    assert answered.text == "5"


def test_rates_and_faults_go_together() -> None:
    with embedded(Knobs(error_rate=1, faults=(refuse(match="blocked"),))) as server:
        assert [chat(server.base_url, prompt).status for prompt in ("blocked", "p")] == [403, 500]
        assert server.books.by_fault == {"1 HTTP 403": 1}


# --- what services answer ---


CASES = [(service, case) for service, cases in REFUSALS.items() for case in cases]


@pytest.fixture(scope="module")
def services() -> Iterator[Server]:
    """A server that answers as the service and the case that a prompt names."""
    rules = [
        FaultRule(Fate.ERROR, REFUSALS[service][case], match=rf"\A{service} {case}\Z", name=f"{service} {case}")
        for service, case in CASES
    ]
    with embedded(Knobs(faults=tuple(rules))) as server:
        yield server


@pytest.mark.parametrize(("service", "case"), CASES)
def test_what_a_service_answers_arrives_as_it_stands_in_the_table(services: Server, service: str, case: str) -> None:
    reply = REFUSALS[service][case]
    came: Reply = chat(services.base_url, f"{service} {case}", model="a-model")
    assert came.status == reply.status
    assert {name: came.headers[name] for name in reply.headers} == dict(reply.headers)
    said = came.body.decode()
    assert "{model}" not in said
    if isinstance(reply.body, str):
        assert said == reply.body
    else:
        assert came.headers["content-type"] == "application/json"
        assert came.json == json.loads(json.dumps(reply.body).replace("{model}", "a-model"))
    assert services.books.by_fault[f"{CASES.index((service, case)) + 1} {service} {case}"] == 1
    assert services.books.answered == 0


def test_every_end_keeps_the_books_even() -> None:
    rules = (
        FaultRule(Fate.DROP, match="drop"),
        FaultRule(Fate.CUT, match="cut"),
        FaultRule(Fate.EMPTY, match="empty"),
        refuse(match="refuse", is_paid=True),
    )
    with embedded(Knobs(faults=rules)) as server:
        for prompt in ("drop", "cut", "empty", "refuse", "answer") * 2:
            with contextlib.suppress(http.client.HTTPException, ConnectionError):
                chat(server.base_url, prompt)
        books = server.books
        assert (books.requests, books.in_flight, books.answered) == (10, 0, 2)
        assert books.requests == sum(books.by_status.values()) + books.dropped + books.hung + books.abandoned
        assert books.by_fault == {"1 drop": 2, "2 cut": 2, "3 empty": 2, "4 HTTP 403": 2}
        assert books.lost == 6
