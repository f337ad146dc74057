"""A call through LangChain sends the question unchanged, returns the answer unchanged, and never raises."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import openai
import pytest
from canned_server import CannedServer, Reply, Then, canned, closed_port, completion, http, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tracers.context import collect_runs, register_configure_hook
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.calls.connections import QUIET_S
from batcher.calls.factory import ChatCallers
from batcher.calls.fast_chat import OwnCaller
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.hiding import Secret
from batcher.records import Allowance, Completion, Failure, Fault, Message, ServerLimits, Usage
from batcher.server.answers import answer
from batcher.server.serve import Server, embedded

KEY = "sk-5ecret/With+all=kinds"
HELLO = [{"role": "user", "content": "hello"}]
OK = http(200, completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 1}))
FINE = Completion("fine", "stop", Usage(3, 1))
LONG = 60.0  # seconds that no test waits


async def called(endpoint: Endpoint, messages: list[Message] = HELLO, timeout_s: float = LONG, **params: Any) -> Any:
    callers = ChatCallers(params)
    try:
        return await callers.caller(endpoint).call(messages, timeout_s)
    finally:
        await callers.close()


async def sent(messages: list[Message], model: str = "m", **params: Any) -> Any:
    """Return the body that goes over the wire."""
    async with canned(OK) as server:
        assert await called(Endpoint(model, server.base_url), messages, **params) == FINE
    (request,) = server.asked
    return request.json


# --- what goes over the wire ---

TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":  1}'}, "index": 0}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": ""},
        {"role": "user", "content": "emoji 👋🏽, 汉字, half \ud83d of a pair, \x00"},
        {"role": "user", "content": "hello", "name": "ann", "unknown": {"deep": [1, None]}},
        {"role": "user", "content": [{"type": "text", "text": "what is this?"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iV"}}]},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}, {"type": "thinking"}]},
        {"role": "assistant", "content": "yes", "prefix": True, "reasoning_content": "because"},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{no"}}]},
        {"role": "assistant", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"},
        {"role": "function", "content": "3", "name": "add"},
    ],
)
@pytest.mark.parametrize("model", ["m", "o3-mini"])
async def test_a_message_goes_out_as_the_user_wrote_it(message: Message, model: str) -> None:
    before = repr(message)
    assert await sent([message], model) == {"model": model, "messages": [message]}
    assert repr(message) == before


@pytest.mark.parametrize("model", ["m", "gpt-4o-mini", "o1", "o3-mini", "gpt-5", "gpt-5-pro", "codex-mini"])
async def test_a_parameter_goes_out_under_the_name_that_the_user_wrote(model: str) -> None:
    params = {
        "max_tokens": 20,
        "max_completion_tokens": 30,
        "temperature": 0,
        "top_p": 1.0,
        "top_k": 40,
        "n": 2,
        "stop": ["\n"],
        "seed": None,
        "logprobs": True,
        "reasoning": {"effort": "low"},
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "metadata": {"a": "b"},
        "extra_body": {"a": 1},
        "timeout": 3,
    }
    unfolded = {name: value for name, value in params.items() if name != "extra_body"} | {"a": 1}
    assert await sent(HELLO, model, **params) == {"model": model, "messages": HELLO, **unfolded}
    assert await sent(HELLO, model) == {"model": model, "messages": HELLO}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": JSON, "extra": JSON}), min_size=1))
def test_any_message_goes_out_as_it_is(messages: list[Message]) -> None:
    assert asyncio.run(sent(messages))["messages"] == messages


async def test_an_endpoint_has_parameters_of_its_own() -> None:
    async with canned(OK) as server:
        endpoint = Endpoint("m", server.base_url, params={"temperature": 1, "top_k": 3})
        assert await called(endpoint, temperature=0, max_tokens=5) == FINE
    body = server.asked[0].json
    assert body == {"model": "m", "messages": HELLO, "temperature": 1, "top_k": 3, "max_tokens": 5}


async def test_an_offline_endpoint_is_answered_by_the_embedded_server(server: Server) -> None:
    callers = ChatCallers({}, server.base_url)
    completion = await callers.caller(Endpoint("m", "offline")).call([{"role": "user", "content": "2 + 3"}], LONG)
    await callers.close()
    assert isinstance(completion, Completion)
    assert completion.text == "5"


# --- many calls ---


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded() as running:
        yield running


async def test_each_of_500_concurrent_calls_gets_the_answer_to_its_own_prompt(server: Server) -> None:
    prompts = [f"Say something about {number}" for number in range(500)]
    callers = ChatCallers({})
    caller = callers.caller(Endpoint("m", server.base_url))
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    completions = await asyncio.gather(*(caller.call(messages, LONG) for messages in asked))
    await callers.close()
    expected = [answer({"messages": messages}) for messages in asked]
    assert len(set(expected)) > 1
    assert [completion.text for completion in completions if isinstance(completion, Completion)] == expected
    assert server.books.answered == 500


def test_one_event_loop_after_another_can_call(server: Server) -> None:
    for _ in range(3):
        assert isinstance(asyncio.run(called(Endpoint("m", server.base_url))), Completion)


async def test_calls_share_connections_and_start_no_thread() -> None:
    async with canned(OK) as server:
        callers = ChatCallers({})
        caller, other = (callers.caller(Endpoint("m", server.base_url, api_key=key)) for key in ("one", "two"))
        threads = threading.active_count()
        for each in (caller, other, caller):
            assert await each.call(HELLO, LONG) == FINE
            await asyncio.sleep(1.5 * QUIET_S)  # that long a connection rests
        assert threading.active_count() == threads
        await callers.close()
    assert server.connections == 1
    assert [request.headers["authorization"][-3:] for request in server.asked] == ["one", "two", "one"]


async def test_a_cache_of_langchain_is_left_alone() -> None:
    set_llm_cache(InMemoryCache())
    try:
        async with canned(OK) as server:
            for _ in range(2):
                await called(Endpoint("m", server.base_url))
    finally:
        set_llm_cache(None)
    assert len(server.asked) == 2


async def test_an_answer_comes_back_whole() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 4}}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, **details}
    reply = http(200, completion(None, refusal="I cannot", usage=usage), ["X-RateLimit-Remaining-Requests: 7"])
    async with canned(reply) as server:
        answer = await called(Endpoint("m", server.base_url))
    limits = ServerLimits(Allowance(None, 7.0, None), None)
    assert answer == Completion(None, "stop", Usage(3, 5, 2, 4), "I cannot", limits)


# --- the seam: LangChain as it is installed, and as it may become ---


@pytest.mark.parametrize("model", [BaseChatModel, ChatOpenAI])
def test_langchain_has_what_our_model_puts_itself_in_the_place_of(model: type[BaseChatModel]) -> None:
    """If a release changes this, `_Chat` has to be reviewed; until then, the SDK's client makes the calls."""

    def parameters(function: Callable[..., Any]) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(model._agenerate) == ["self", "messages", "stop", "run_manager", "kwargs"]
    assert parameters(model._get_invocation_params) == ["self", "stop", "kwargs"]
    assert parameters(model.agenerate)[-1] == "kwargs"


async def test_no_client_of_the_sdk_is_made() -> None:
    callers = ChatCallers({})
    caller: Any = callers.caller(Endpoint("m", "http://127.0.0.1:1/v1"))
    await callers.close()
    assert isinstance(caller, OwnCaller)
    assert not [each for each in vars(caller._llm).values() if isinstance(each, (openai.OpenAI, openai.AsyncOpenAI))]


async def test_langchain_and_its_tracers_see_each_call() -> None:
    async with canned(OK, http(400, "No")) as server:
        with collect_runs() as seen:
            for _ in range(2):
                await called(Endpoint("m", server.base_url), [{"role": "user", "content": "half \ud83d"}])
    fine, failed = seen.traced_runs
    assert "half" in str(fine.inputs)
    assert fine.outputs is not None
    assert fine.outputs["generations"][0][0]["text"] == "fine"
    assert failed.error is not None
    assert "HTTP 400: No" in failed.error


class Broken(AsyncCallbackHandler):
    """A tracer that breaks down when it hears of an answer."""

    raise_error = True

    async def on_llm_end(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the tracer broke")


TRACER: ContextVar[Broken | None] = ContextVar("TRACER", default=None)
register_configure_hook(TRACER, inheritable=True)


async def test_a_tracer_that_breaks_costs_no_answer() -> None:
    async with canned(OK) as server:
        token = TRACER.set(Broken())
        assert await called(Endpoint("m", server.base_url)) == FINE
        TRACER.reset(token)
    assert len(server.asked) == 1


def refuse_our_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ChatOpenAI` accept no `async_client`."""
    make = ChatOpenAI.__init__

    def init(self: ChatOpenAI, **options: Any) -> None:
        if "async_client" in options:
            raise TypeError("no async_client")
        make(self, **options)

    monkeypatch.setattr(ChatOpenAI, "__init__", init)


def call_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `agenerate` bypass `_agenerate`."""

    async def past(self: ChatOpenAI, messages: list[BaseMessage], **options: Any) -> ChatResult:
        return await ChatOpenAI._agenerate(self, messages, **options)

    monkeypatch.setattr(BaseChatModel, "_agenerate_with_cache", past)


def drop_our_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `agenerate` drop its caller's arguments."""
    hand_on = BaseChatModel._agenerate_with_cache

    async def drop(self: BaseChatModel, messages: list[BaseMessage], **_: Any) -> ChatResult:
        return await hand_on(self, messages)

    monkeypatch.setattr(BaseChatModel, "_agenerate_with_cache", drop)


def answer_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let our model get its answer elsewhere."""
    ask = BaseChatModel._agenerate_with_cache

    async def find(self: BaseChatModel, messages: list[BaseMessage], **options: Any) -> ChatResult:
        if "attempt" not in options:
            return await ask(self, messages, **options)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("found"))])

    monkeypatch.setattr(BaseChatModel, "_agenerate_with_cache", find)


CHANGES = [refuse_our_client, call_another_method, drop_our_arguments, answer_without_asking]


@pytest.mark.parametrize("change", CHANGES)
async def test_where_langchain_has_changed_the_client_of_the_sdk_takes_over(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests are the same, with one warning in all; LangChain treats each of these models differently."""
    change(monkeypatch)
    params = {"max_tokens": 20, "top_k": 3, "response_format": {"type": "json_object"}, "logprobs": True, "n": 2}
    async with canned(OK) as server:
        callers = ChatCallers(params)

        async def ask_twice(model: str) -> None:
            caller = callers.caller(Endpoint(model, server.base_url, api_key=KEY))
            assert [await caller.call(HELLO, LONG) for _ in range(2)] == [FINE] * 2

        with get_usage_metadata_callback():  # without a watcher, calls skip a part of LangChain
            with pytest.warns(RuntimeWarning, match="the slower one of the SDK takes over") as warned:
                await ask_twice("m")
            await ask_twice("o3-mini")
            await ask_twice("gpt-5-pro")
        await callers.close()
    assert len(warned) == 1
    assert KEY not in str(warned[0].message)
    assert len(server.asked) == 6
    for request, model in zip(server.asked[::2], ("m", "o3-mini", "gpt-5-pro"), strict=True):
        assert request.json == {"model": model, "messages": HELLO, **params, "stream": False}
        assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.fixture
def through_the_sdk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call as if LangChain had changed."""
    refuse_our_client(monkeypatch)

    async def call(reply: Reply, messages: list[Message] = HELLO, timeout_s: float = LONG, **params: Any) -> Any:
        async with canned(reply) as server:
            with pytest.warns(RuntimeWarning):
                answer = await called(Endpoint("m", server.base_url, api_key=KEY), messages, timeout_s, **params)
            return answer, [request.json for request in server.asked]

    return call


async def test_the_client_of_the_sdk_sends_messages_as_they_are(through_the_sdk: Callable[..., Any]) -> None:
    messages = [{"role": "developer", "content": [{"type": "odd"}], "unknown": 1}, {"role": "tool", "content": None}]
    assert (await through_the_sdk(OK, messages))[1][0]["messages"] == messages


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"api_key": KEY}, {"authorization": f"Bearer {KEY}"}),
        ({}, {}),
        ({"base_url": "?api-version=2024-10-21", "api_key": KEY}, {"api-key": KEY}),
        ({"headers": {"X-Team": "labels"}}, {"x-team": "labels"}),
        ({"headers": {"OpenAI-Organization": "org-1"}}, {"openai-organization": "org-1"}),
    ],
)
async def test_the_client_of_the_sdk_sends_the_headers_of_the_endpoint_and_no_others_that_name_an_account(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: dict[str, str]
) -> None:
    refuse_our_client(monkeypatch)
    for variable in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(variable, "of-the-environment")
    query = options.get("base_url", "")
    async with canned(OK) as server:
        endpoint = Endpoint("m", **{**options, "base_url": server.base_url + query})
        with pytest.warns(RuntimeWarning):
            assert await called(endpoint) == FINE
    (request,) = server.asked
    assert request.line == f"POST /v1/chat/completions{query} HTTP/1.1"
    told = ("authorization", "api-key", "x-team", "openai-organization", "openai-project")
    assert {name: request.headers[name] for name in told if name in request.headers} == expected


async def test_a_key_in_a_header_is_hidden_through_the_client_of_the_sdk_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_our_client(monkeypatch)
    for reply in (http(200, completion(f"your key is {KEY}")), http(400, f"your key is {KEY}")):
        async with canned(reply) as server:
            with pytest.warns(RuntimeWarning):
                outcome = await called(Endpoint("m", server.base_url, headers={"X-Mine": Secret(KEY)}))
        assert "your key is [API key]" in str(outcome)


async def test_what_comes_back_through_the_client_of_the_sdk_is_read(through_the_sdk: Callable[..., Any]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 9, "prompt_cache_hit_tokens": 1}
    reply = http(200, completion("", refusal="I cannot", usage=usage), ["x-ratelimit-remaining-requests: 7"])
    limits = ServerLimits(Allowance(None, 7.0, None), None)
    assert (await through_the_sdk(reply))[0] == Completion(None, "stop", Usage(3, 6, 1, 4), "I cannot", limits)
    assert (await through_the_sdk(said(429, "limit", "Retry-After: 3")))[0] == Failure(
        Fault.STATUS, "said with [API key]", 429, "limit", 3.0
    )
    hung = await through_the_sdk(Reply(b"", Then.HANG), timeout_s=0.1)
    assert hung[0].fault is Fault.TIMEOUT


def piece(content: str, finish_reason: str | None = None) -> object:
    choice = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


async def test_a_stream_is_never_half_an_answer_through_the_client_of_the_sdk_either(
    through_the_sdk: Callable[..., Any],
) -> None:
    answer, sent = await through_the_sdk(stream(piece("fi"), piece("ne"), piece("", "stop")), stream=True)
    assert answer == Completion("fine", "stop")
    assert sent == [{"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}]
    for cut in (stream(piece("fi")), stream(piece("fi"), end=False, then=Then.CLOSE)):
        answer, _ = await through_the_sdk(cut, stream=True)
        assert (answer.may_be_billed, answer.fault) in [(True, Fault.PROTOCOL), (True, Fault.CONNECTION)]


async def test_a_call_that_has_no_time_at_all_is_no_change_of_langchain() -> None:
    failure = await called(Endpoint("m", f"http://127.0.0.1:{closed_port()}/v1"), timeout_s=0)
    assert failure == Failure(Fault.TIMEOUT, "nothing came within 0 s")


# --- failures ---


async def test_what_the_transport_says_is_the_failure() -> None:
    async with canned(http(429, {"error": {"message": "Slow down", "code": "limit"}}, ["Retry-After: 3"])) as server:
        failure = await called(Endpoint("m", server.base_url))
    assert failure == Failure(Fault.STATUS, "Slow down", 429, "limit", 3.0)


async def waited(endpoint: Endpoint, server: CannedServer) -> Any:
    """Call a server that hangs, with more time until the request has reached it: a busy machine may need that."""
    for timeout_s in (0.05, 0.5, 5.0, LONG):
        failure = await called(endpoint, timeout_s=timeout_s)
        if server.came.is_set():
            await server.left.wait()
            return failure, timeout_s
    return None


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"])
async def test_an_answer_that_does_not_come_in_time_is_a_timeout_and_hangs_up(begun: bytes) -> None:
    async with canned(Reply(begun, Then.HANG)) as server:
        failure, seconds = await waited(Endpoint("m", server.base_url), server)
    assert failure == Failure(Fault.TIMEOUT, f"nothing came within {seconds:g} s", may_be_billed=True)


async def test_a_cancelled_call_raises_and_hangs_up() -> None:
    async with canned(Reply(b"", Then.HANG)) as server:
        callers = ChatCallers({})
        call = asyncio.ensure_future(callers.caller(Endpoint("m", server.base_url)).call(HELLO, LONG))
        await server.came.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.left.wait()
        await callers.close()


async def test_nothing_shows_the_api_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with canned(http(401, f"Not with {KEY}")) as server:
        callers = ChatCallers({})
        endpoint = Endpoint("m", server.base_url, api_key=KEY)
        caller: Any = callers.caller(endpoint)
        failure = await caller.call(HELLO, LONG)
        await callers.close()
    llm = caller._llm
    shown = [repr(each) for each in (failure, endpoint, callers, caller, llm, vars(llm), vars(caller))]
    shown += [str(failure), str(llm), str(llm._serialized), repr(llm.model_dump())]
    assert not [text for text in (*shown, caplog.text) if KEY in text]
    assert failure.message == "Not with [API key]"


# --- models of the user's own ---


USAGE = UsageMetadata(input_tokens=2, output_tokens=1, total_tokens=3)


class Model(BaseChatModel):
    """Does what it was made to do."""

    outcome: Any
    secret: SecretStr = SecretStr(KEY)

    @property
    def _llm_type(self) -> str:
        return "test"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        assert messages
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return ChatResult(generations=[ChatGeneration(message=each) for each in self.outcome])


@pytest.fixture
async def http_client() -> AsyncIterator[Any]:
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as client:
        yield client


def own(client: Any, base_url: str, **options: Any) -> Endpoint:
    options = {"max_retries": 0, "api_key": KEY, **options}
    return Endpoint(llm=ChatOpenAI(model="mine", base_url=base_url, http_async_client=client, **options))


async def test_a_chat_model_of_the_users_own_answers() -> None:
    assert await called(Endpoint(llm=FakeListChatModel(responses=["one"]))) == Completion("one")


async def test_a_chatopenai_of_the_users_own_answers_with_the_runs_parameters(http_client: Any) -> None:
    async with canned(OK) as server:
        assert await called(own(http_client, server.base_url), temperature=0, stop=["."]) == FINE
    (request,) = server.asked
    assert request.json == {"model": "mine", "messages": HELLO, "temperature": 0, "stop": ["."], "stream": False}
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (AIMessage("yes", response_metadata={"finish_reason": "length"}), Completion("yes", "length")),
        (AIMessage("yes", response_metadata={"stop_reason": "end_turn"}), Completion("yes", "end_turn")),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), Completion("ab")),
        (AIMessage(""), Completion(None)),
        (AIMessage("yes", usage_metadata=USAGE), Completion("yes", None, Usage(2, 1))),
        (
            AIMessage(
                "yes",
                usage_metadata=UsageMetadata(
                    input_tokens=20,
                    output_tokens=5,
                    total_tokens=25,
                    input_token_details=InputTokenDetails(cache_read=16),
                    output_token_details=OutputTokenDetails(reasoning=4),
                ),
            ),
            Completion("yes", None, Usage(20, 5, 16, 4)),
        ),
        (AIMessage("", additional_kwargs={"refusal": "I cannot"}), Completion(None, refusal="I cannot")),
        (
            AIMessage("", tool_calls=[ToolCall(name="add", args={"a": "é"}, id="1")]),
            Completion('[{"name": "add", "args": {"a": "é"}, "id": "1", "type": "tool_call"}]'),
        ),
    ],
)
async def test_a_message_of_any_model_is_read(message: AIMessage, read: Completion) -> None:
    assert await called(Endpoint(llm=Model(outcome=[message]))) == read


ORDINARY: list[dict[str, Any]] = [
    {"default_query": {"api-version": "2024-10-21"}},
    {"default_headers": {"X-Title": "Sentiment 2025", "Accept": "application/json"}},
    {"model_kwargs": {"prompt_cache_key": "very negative"}},
]


@pytest.mark.parametrize("options", ORDINARY, ids=str)
async def test_an_answer_keeps_the_words_that_a_chat_model_sends_beside_it(
    http_client: Any, options: dict[str, Any]
) -> None:
    said = "very negative since 2024-10-21, says Sentiment 2025 in application/json"
    async with canned(http(200, completion(f"{said}; {KEY}"))) as server:
        assert (await called(own(http_client, server.base_url, **options))).text == f"{said}; [API key]"


def risked(fault: Fault, message: str) -> Failure:
    """Make a failure that the server may have billed."""
    return Failure(fault, message, may_be_billed=True)


def said(status: int, code: str, *headers: str) -> Reply:
    return http(status, {"error": {"message": f"said with {KEY}", "code": code}}, headers)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (said(401, "bad_key"), Failure(Fault.STATUS, "said with [API key]", 401, "bad_key")),
        (said(429, "limit", "Retry-After: 3"), Failure(Fault.STATUS, "said with [API key]", 429, "limit", 3.0)),
        (said(400, "too_long"), Failure(Fault.STATUS, "said with [API key]", 400, "too_long")),
        (http(500, "<p>\nsorry"), Failure(Fault.STATUS, "<p> sorry", 500)),
    ],
    ids=["401", "429", "400", "500"],
)
async def test_a_failure_of_the_sdk_is_read(http_client: Any, reply: Reply, failure: Failure) -> None:
    async with canned(reply) as server:
        assert await called(own(http_client, server.base_url)) == failure


async def test_a_connection_of_the_sdk_that_closes_is_named(http_client: Any) -> None:
    async with canned(Reply(b"", Then.CLOSE)) as server:
        place = server.base_url.removesuffix("/v1")
        said = f"{place} closed the connection without an answer"
        assert await called(own(http_client, server.base_url)) == risked(Fault.CONNECTION, said)


async def test_a_timeout_of_the_sdk_is_read(http_client: Any) -> None:
    async with canned(Reply(b"", Then.HANG)) as server:
        failure = await called(own(http_client, server.base_url, timeout=0.05))
    assert (failure.fault, failure.message) == (Fault.TIMEOUT, "Request timed out.")


async def test_what_the_server_says_of_tokens_and_limits_is_read_through_the_sdk(http_client: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 9, "prompt_cache_hit_tokens": 1}
    async with canned(http(200, completion(usage=usage), ["x-ratelimit-remaining-requests: 7"])) as server:
        answer = await called(own(http_client, server.base_url, include_response_headers=True))
    limits = ServerLimits(Allowance(None, 7.0, None), None)
    assert answer == Completion("fine", "stop", Usage(3, 6, 1, 4), limits=limits)


async def test_an_answer_that_the_sdk_rejects_for_its_length_was_paid_for(http_client: Any) -> None:
    long = http(200, completion("cut sho", finish_reason="length", usage={"prompt_tokens": 3, "completion_tokens": 1}))
    async with canned(long) as server:
        answer = await called(own(http_client, server.base_url), response_format={"type": "json_object"})
    assert answer == Completion("cut sho", "length", Usage(3, 1))


async def test_the_sdk_is_cut_off_in_time(http_client: Any) -> None:
    async with canned(Reply(b"", Then.HANG)) as server:
        failure, seconds = await waited(own(http_client, server.base_url), server)
    assert failure == risked(Fault.TIMEOUT, f"nothing came within {seconds:g} s")


async def test_the_sdk_finds_nobody(http_client: Any) -> None:
    place = f"http://127.0.0.1:{closed_port()}"
    failure = await called(own(http_client, f"{place}/v1"))
    assert failure == Failure(Fault.CONNECTION, f"nothing listens at {place} (connection refused)")


class TransportError(Exception):
    """Has the name of httpx's error, on which the SDKs of other providers build."""


class TimeoutException(TransportError):
    pass


class ConnectTimeout(TimeoutException):
    pass


class WithStatus(Exception):
    def __init__(self, status_code: int, response: object = None) -> None:
        super().__init__("said by the class")
        self.status_code = status_code
        self.response = response


class Unread:
    headers = {"Retry-After": "4"}  # noqa: RUF012 - a canned response

    @property
    def text(self) -> str:
        raise RuntimeError("the body was not read")


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError(f"wrapped with {KEY}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TimeoutError(), risked(Fault.TIMEOUT, "nothing came within 60 s")),
        (wrapped(TimeoutException()), risked(Fault.TIMEOUT, "wrapped with [API key]")),
        (wrapped(ConnectTimeout("slow")), Failure(Fault.TIMEOUT, "wrapped with [API key]")),
        (wrapped(TransportError("broke")), risked(Fault.CONNECTION, "broke")),
        (
            wrapped(ConnectionRefusedError("said")),
            Failure(Fault.CONNECTION, "nothing listens at the service (connection refused)"),
        ),
        (ConnectionResetError(), risked(Fault.CONNECTION, "the connection to the service was reset")),
        (WithStatus(404), Failure(Fault.STATUS, "said by the class", 404)),
        (WithStatus(503, Unread()), Failure(Fault.STATUS, "said by the class", 503, None, 4.0)),
        (ValueError(f"odd\n{KEY}"), risked(Fault.OTHER, "ValueError: odd [API key]")),
        (KeyError("x" * 600), risked(Fault.OTHER, "KeyError: '" + "x" * 489 + " ...")),
        (StopAsyncIteration(), risked(Fault.OTHER, "StopAsyncIteration:")),
    ],
)
async def test_an_error_of_any_model_is_read(error: Exception, failure: Failure) -> None:
    assert await called(Endpoint(llm=Model(outcome=error))) == failure


async def test_a_model_that_generates_nothing_is_a_failure() -> None:
    failure = await called(Endpoint(llm=Model(outcome=[])))
    assert failure == risked(Fault.PROTOCOL, "the model returned no generation")


async def test_all_that_a_model_generates_is_kept() -> None:
    info = {"finish_reason": "stop", "model_name": "m-2026"}
    thought = {"reasoning_content": "because"}
    one = AIMessage("a", response_metadata=info, additional_kwargs=thought)
    answer = await called(Endpoint(llm=Model(outcome=[one])))
    assert (answer.text, answer.finish_reason, answer.model, answer.reasoning) == ("a", "stop", "m-2026", "because")
    cut = AIMessage("b", response_metadata=info | {"finish_reason": "length"})
    several = await called(Endpoint(llm=Model(outcome=[one, cut])))
    assert (several.text, several.finish_reason, several.reasoning) == ('["a", "b"]', "length", '["because", ""]')
    call = AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}})
    assert (await called(Endpoint(llm=Model(outcome=[call])))).text == '{"name": "f", "arguments": "{}"}'


async def test_an_error_of_the_sdk_is_read_whole(http_client: Any) -> None:
    body = {
        "error": {"message": "no more, hello there my own words", "code": 412, "metadata": {"error_type": "paused"}}
    }
    async with canned(http(412, body, ["X-Should-Retry: false"])) as server:
        failure = await called(
            own(http_client, server.base_url), [{"role": "user", "content": "hello there my own words"}]
        )
    assert (failure.codes, failure.words) == (("412", "paused"), "no more,")
    assert (failure.is_final, failure.is_page) == (True, False)
    async with canned(http(403, "<html>no</html>")) as server:
        assert (await called(own(http_client, server.base_url))).is_page
    told = await called(Endpoint(llm=Model(outcome=WithStatus(404))))
    assert not told.is_page


async def test_an_error_in_a_stream_of_the_sdk_is_read_whole(http_client: Any) -> None:
    event = {"error": {"message": "Slow down", "code": 429, "type": "limit"}}
    async with canned(stream(event)) as server:
        failure = await called(own(http_client, server.base_url, streaming=True))
    assert (failure.status, failure.codes, failure.may_be_billed) == (429, ("429", "limit"), True)


async def test_a_message_that_langchain_does_not_take_is_a_failure() -> None:
    failure = await called(Endpoint(llm=Model(outcome=[])), [{"role": "tool", "content": "no id"}])
    assert (failure.fault, failure.message.split(":")[0], failure.may_be_billed) == (Fault.OTHER, "KeyError", False)


async def test_what_is_no_chat_model_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Endpoint\(llm=...\) takes a LangChain chat model, not str"):
        await called(Endpoint(llm="gpt-4o"))
