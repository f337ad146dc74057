"""No row gets another row's answer, and no answer is bought twice, for any data that a server sends at any time."""

from __future__ import annotations

import csv
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canned_server import Then, completion, http
from hostile_server import Ask, HostileServer, Script, Step, answer_to, answered, hostile, refused
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

import batcher

ROWS = 100
WIDTHS = [1, 8]


def rows_of(server: HostileServer, folder: Path, width: int, **options: object) -> list[dict[str, str]]:
    """Run a table through a server and read the result without batcher."""
    prompts = [f"row {number}" for number in range(ROWS)]
    endpoint = batcher.Endpoint("m", base_url=server.base_url, max_concurrency=width)
    settings: dict[str, Any] = {"endpoints": [endpoint], "quiet": True, "canary": 0, **options}
    batcher.run(prompts, keyword="k", output_dir=folder, **settings)
    with (folder / "all_k.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, strict=True))
    assert len(found) == ROWS
    return found


def check_each_has_its_own(found: list[dict[str, str]]) -> None:
    assert [row["infer"] for row in found] == [answer_to(f"row {number}") for number in range(ROWS)]
    assert {row["infer_status"] for row in found} == {"ok"}


def is_odd(ask: Ask, share: int = 5) -> bool:
    """Pick the prompts to which something odd happens, at the first time."""
    return ask.nth == 1 and int(ask.prompt.split()[1]) % share == 1


# --- what comes twice ---


def twice(wait_s: float, second: Callable[[Ask], bytes]) -> Script:
    def script(ask: Ask) -> Iterator[Step]:
        yield answered(ask)
        if is_odd(ask, 50 if second is garbage and not wait_s else 5):
            if wait_s:
                yield wait_s
            yield second(ask)

    return script


def same(ask: Ask) -> bytes:
    return answered(ask)


def with_another_id(ask: Ask) -> bytes:
    return answered(ask, id=f"chatcmpl-again-{ask.number}")


def without_an_id(ask: Ask) -> bytes:
    return answered(ask, id=None)


def garbage(_ask: Ask) -> bytes:
    return b"\x16\x03\x01 this is no HTTP"


def half(ask: Ask) -> bytes:
    return answered(ask)[:50]


def half_a_head(_ask: Ask) -> bytes:
    return b"HTTP/1."


def interim(_ask: Ask) -> bytes:
    return b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("wait_s", [0, 0.005, 0.05])
@pytest.mark.parametrize("second", [same, with_another_id, without_an_id, garbage, half, half_a_head, interim])
def test_what_follows_an_answer_unasked_reaches_no_other_row_and_costs_no_request(
    tmp_path: Path, second: Callable[[Ask], bytes], wait_s: float, width: int
) -> None:
    with hostile(twice(wait_s, second)) as server:
        check_each_has_its_own(rows_of(server, tmp_path, width))
        again = Counter(ask.prompt for ask in server.asks if ask.nth > 1)
        # If both arrive in one piece, as they may on a busy machine, an answer cannot be distinguished from garbage.
        assert not again or second is garbage
        assert again <= Counter({ask.prompt for ask in server.asks if is_odd(ask)})


@pytest.mark.parametrize("second", [without_an_id, with_another_id])
def test_a_second_answer_that_takes_as_long_as_the_first_reaches_no_other_row(
    tmp_path: Path, second: Callable[[Ask], bytes]
) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield 0.4
        yield answered(ask, id=None) if second is without_an_id else answered(ask)
        if is_odd(ask):
            yield 0.3
            yield second(ask)

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 8))
        assert max(server.asked.values()) == 1


@pytest.mark.parametrize("status", [400, 409, 413, 425, 451, 499])
def test_an_answer_that_follows_a_refusal_reaches_no_other_row(tmp_path: Path, status: int) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield 0.01
        if is_odd(ask):
            yield refused(status)
            yield 0.2
        yield answered(ask)

    with hostile(script) as server:
        found = rows_of(server, tmp_path, 8)
    assert {row["infer"] for row in found if row["infer_status"] == "ok"} == {
        answer_to(row["text"]) for row in found if row["infer_status"] == "ok"
    }
    assert all(row["infer"] in {"", answer_to(row["text"])} for row in found)


def test_once_something_has_come_unasked_no_connection_there_is_used_twice(tmp_path: Path) -> None:
    seen: list[int] = []

    def script(ask: Ask) -> Iterator[Step]:
        seen.append(ask.connection)
        yield answered(ask)
        if ask.prompt == "row 0":  # which goes alone
            yield answered(ask)

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 8))
        assert server.connections == ROWS
    assert len(set(seen)) == ROWS


@pytest.mark.parametrize("width", [3, 40])
def test_an_answer_that_comes_once_more_after_the_rest_is_known_by_its_id(tmp_path: Path, width: int) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        again = answered(ask)
        yield 0.01
        yield again
        if is_odd(ask):
            yield 0.15
            yield again

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, width))


@pytest.mark.parametrize("where", ["header", "id", "id without hyphens"])
def test_a_response_that_names_another_request_is_refused_and_asked_again(tmp_path: Path, where: str) -> None:
    """A gateway gives some requests the answer of the one before it."""
    last: list[Ask] = []

    def script(ask: Ask) -> Iterator[Step]:
        whose = last[-1] if is_odd(ask, 50) else ask
        last.append(ask)
        name = whose.headers["x-request-id"].replace("-", "" if "without" in where else "-")
        yield answered(whose, f"X-Request-ID: {name}") if where == "header" else answered(whose, id=f"chatcmpl-{name}")

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 1))
        assert len(server.asks) == ROWS + 2


def test_a_request_has_a_uuid_of_its_own(tmp_path: Path) -> None:
    """llama-cpp-python's server refuses other ids, by a 400 without a body."""
    with hostile(lambda ask: [refused(500) if is_odd(ask, 50) else answered(ask)]) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 3))
        names = [ask.headers["x-request-id"] for ask in server.asks]
    assert all(str(uuid.UUID(name, version=4)) == name for name in names)
    assert len(set(names)) == len(names) == ROWS + 2


@pytest.mark.parametrize("name", [None, "", "constant", "chatcmpl-ba7c4e12"])
def test_a_server_whose_ids_say_nothing_is_asked_once_for_each_row(tmp_path: Path, name: str | None) -> None:
    with hostile(lambda ask: [0.02, answered(ask, id=name, text="the same")]) as server:
        found = rows_of(server, tmp_path, 3)
        assert len(server.asks) == ROWS
        assert server.connections < ROWS
    assert {row["infer"] for row in found} == {"the same"}


@pytest.mark.parametrize(
    "ids",
    [lambda ask: ask.nth_there % 3, lambda ask: ask.number // 4, lambda ask: ask.connection % 2],
    ids=["counted on each connection", "some share one", "of one of two machines"],
)
def test_a_server_whose_ids_repeat_for_reasons_of_its_own_has_every_row_answered(
    tmp_path: Path, ids: Callable[[Ask], int]
) -> None:
    with hostile(lambda ask: [answered(ask, id=str(ids(ask)), text="the same")]) as server:
        found = rows_of(server, tmp_path, 3)
    assert {row["infer_status"] for row in found} == {"ok"}


def test_a_gateway_that_remembers_its_answers_may_give_equal_prompts_the_same_one(tmp_path: Path) -> None:
    """With ids of our own in it, and one after the other on the same connections."""
    known: dict[str, bytes] = {}

    def script(ask: Ask) -> Iterator[Step]:
        yield known.setdefault(ask.prompt, answered(ask, id=f"chatcmpl-{ask.headers['x-request-id']}"))

    prompts = [f"row {number // 10}" for number in range(100)]
    with hostile(script) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url, max_concurrency=2)
        report = batcher.run(prompts, keyword="k", output_dir=tmp_path, endpoints=[endpoint], quiet=True)
        assert (report.ok, len(server.asks)) == (100, 100)


# --- what comes late ---


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("status", [408, 500, 502, 504])
@pytest.mark.parametrize("wait_s", [0, 0.05, 0.3])
def test_the_answer_that_follows_a_gateways_error_reaches_no_row(
    tmp_path: Path, wait_s: float, status: int, width: int
) -> None:
    odd = 0

    def script(ask: Ask) -> Iterator[Step]:
        nonlocal odd
        if is_odd(ask, 25):
            odd += 1
            yield refused(status)
            yield wait_s
        yield answered(ask)

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, width))
        assert len(server.asks) == ROWS + odd
        after_it = [ask for ask in server.asks if ask.nth_there > 1]
        assert not [ask for ask in after_it if (ask.connection, ask.nth_there - 1) in odd_ones(server)]


def odd_ones(server: HostileServer) -> set[tuple[int, int]]:
    return {(ask.connection, ask.nth_there) for ask in server.asks if is_odd(ask, 25)}


ERRORS_IN_200 = [
    http(200, {"error": {"message": "upstream", "code": 504}}).data,
    http(200, "<html>504</html>").data,
    http(200, completion("half", finish_reason="error")).data,
]


@pytest.mark.parametrize("error", ERRORS_IN_200, ids=["an error", "a page", "broken off"])
def test_an_error_in_a_200_ends_its_connection(tmp_path: Path, error: bytes) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        if is_odd(ask, 50):
            yield error
            yield 0.3
        yield answered(ask)

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 3))
        assert len(server.asks) == ROWS + 2


def test_a_refusal_of_a_row_keeps_its_connection(tmp_path: Path) -> None:
    with hostile(lambda ask: [0.02, refused(413) if is_odd(ask, 3) else answered(ask)]) as server:
        found = rows_of(server, tmp_path, 1)
        assert server.connections < ROWS / 2
    assert [row["infer_status"] for row in found] == ["error" if n % 3 == 1 else "ok" for n in range(ROWS)]


# --- what is cut ---


def whole(ask: Ask) -> bytes:
    return answered(ask)


STAGES: dict[str, Callable[[Ask], bytes]] = {
    "before": lambda _: b"",
    "in the head": lambda ask: whole(ask)[:20],
    "after the head": lambda ask: whole(ask).partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "in the body": lambda ask: whole(ask)[:-5],
    "after a shorter body than it has": lambda ask: whole(ask).replace(b"Content-Length: 1", b"Content-Length: ", 1),
}


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("stage", STAGES)
def test_a_connection_that_breaks_at_any_stage_costs_one_more_request(tmp_path: Path, stage: str, then: Then) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        if is_odd(ask, 50):
            yield STAGES[stage](ask)
            yield then
        else:
            yield answered(ask)

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 3))
        assert len(server.asks) == ROWS + 2


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_a_connection_that_breaks_after_the_answer_costs_nothing(tmp_path: Path, then: Then) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield answered(ask)
        yield 0.02
        if ask.number % 3 == 0:
            yield then

    with hostile(script) as server:
        check_each_has_its_own(rows_of(server, tmp_path, 3))
        assert len(server.asks) == ROWS


# --- through a chat model of the user's own ---


def late_or_double(ask: Ask) -> Iterator[Step]:
    if is_odd(ask, 10):
        yield refused(504)
        yield 0.05
    yield answered(ask)
    if is_odd(ask, 3):
        yield answered(ask)


def test_a_chatopenai_of_the_users_own_gives_no_row_the_answer_of_another(tmp_path: Path) -> None:
    with hostile(late_or_double) as server:
        llm = ChatOpenAI(model="m", api_key=SecretStr("k"), base_url=server.base_url, max_retries=0)
        check_each_has_its_own(rows_of(server, tmp_path, 4, endpoints=[batcher.Endpoint(llm=llm, max_concurrency=4)]))
        assert {ask.nth_there for ask in server.asks} == {1}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"model_kwargs": {"extra_headers": {"X-Mine": "yes"}}}, {}),
        ({}, {"extra_headers": {"X-Mine": "yes"}}),
        ({"default_headers": {"X-Mine": "yes", "Connection": "keep-alive"}}, {}),
    ],
)
def test_a_chatopenai_keeps_its_own_headers(tmp_path: Path, options: dict[str, Any], param: dict[str, Any]) -> None:
    with hostile(lambda ask: [answered(ask)]) as server:
        llm = ChatOpenAI(model="m", api_key=SecretStr("k"), base_url=server.base_url, max_retries=0, **options)
        endpoints = [batcher.Endpoint(llm=llm)]
        check_each_has_its_own(rows_of(server, tmp_path, 4, endpoints=endpoints, param=param))
        sent = {(ask.headers["x-mine"], ask.headers["connection"]) for ask in server.asks}
    assert sent == {("yes", "close")}
