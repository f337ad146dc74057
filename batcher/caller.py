"""One call: messages in, a completion or a failure out, through `ChatOpenAI.agenerate`.

Invariant: a call never raises for what the server, the network or the model did; it returns a `Failure`. What it
raises is cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import openai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_openai import ChatOpenAI

from batcher.config import Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message, Usage
from batcher.transport import CallFailed, Completions, connection_failure, open_session, status_failure

_PLAIN: dict[str, Callable[[str], BaseMessage]] = {
    "user": lambda text: HumanMessage(content=text),
    "system": lambda text: SystemMessage(content=text),
}


class Caller(Protocol):
    """Whatever can make a call. The run knows no more of a model than this."""

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        """Make one attempt that takes at most so many seconds."""


class Callers(Protocol):
    """Makes the callers of a run, and frees what they share at its end."""

    def caller(self, endpoint: Endpoint) -> Caller: ...

    async def close(self) -> None: ...


class ChatCallers:
    """The callers of real endpoints: one HTTP client for all of them.

    Args:
        params: the request parameters of every row.
        offline_url: where the embedded server listens, if endpoints ask for it.
    """

    def __init__(self, params: Mapping[str, Any], offline_url: str | None = None) -> None:
        self._params = params
        self._offline_url = offline_url
        self._session = open_session()

    def caller(self, endpoint: Endpoint) -> Caller:
        if endpoint.llm is not None:
            if not isinstance(endpoint.llm, BaseChatModel):
                raise SettingsError(
                    f"Endpoint(llm=...) takes a LangChain chat model, not {type(endpoint.llm).__name__}"
                )
            return ChatCaller(endpoint.llm, self._params)
        base_url = self._offline_url or endpoint.base_url
        completions = Completions(self._session, base_url, endpoint.api_key)
        return ChatCaller(_chat_openai(endpoint, base_url, completions, {**self._params, **endpoint.params}), {})

    async def close(self) -> None:
        await self._session.close()


def _chat_openai(endpoint: Endpoint, base_url: str, completions: Completions, params: Mapping[str, Any]) -> ChatOpenAI:
    """Build the model over our own client; the SDK's clients are never made.

    The parameters go into `extra_body`, because `ChatOpenAI` renames those that it knows (`max_tokens`).
    """
    return ChatOpenAI(
        model=cast("str", endpoint.model),
        api_key=lambda: "",  # the real key is in `completions` alone: nothing here can print it
        base_url=base_url,
        client=completions,
        root_client=completions,
        async_client=completions,
        root_async_client=completions,
        max_retries=0,
        use_responses_api=False,
        cache=False,
        extra_body=dict(params),
    )


class ChatCaller:
    """Calls a LangChain chat model.

    Args:
        llm: the model.
        params: request parameters that go out with each call.
    """

    def __init__(self, llm: BaseChatModel, params: Mapping[str, Any]) -> None:
        self._llm = llm
        self._params = dict(params)

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        try:
            async with asyncio.timeout(timeout_s):
                # One list a call: agenerate() drops the paid answers beside one that fails.
                result = await self._llm.agenerate([to_langchain(messages)], **self._params)
        except CallFailed as error:
            return error.failure
        except Exception as error:  # noqa: BLE001 - any chat model may stand here, and one row's trouble is a value
            return failure_of(error, timeout_s)
        return completion_of(result)


def to_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """Turn messages of the protocol into LangChain's."""
    if all(len(message) == 2 and message["role"] in _PLAIN for message in messages):
        return [_PLAIN[message["role"]](message["content"]) for message in messages]
    return convert_to_messages(messages)


def completion_of(result: LLMResult) -> Completion:
    """Read what `agenerate` returned for its one prompt."""
    generation = result.generations[0][0]
    info = generation.generation_info or {}
    usage = None
    if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
        usage = generation.message.usage_metadata
        info = {**generation.message.response_metadata, **info}
    return Completion(
        generation.text or None,
        info.get("finish_reason"),
        Usage(usage["input_tokens"], usage["output_tokens"]) if usage else Usage(),
    )


def failure_of(error: Exception, timeout_s: float) -> Failure:
    """Read what a chat model raised, as far as its class or its attributes tell."""
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Failure(Fault.TIMEOUT, f"nothing came within {timeout_s:g} s")
    if isinstance(error, (openai.APIConnectionError, ConnectionError)):
        return connection_failure(error.__cause__ or error)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        response = getattr(error, "response", None)
        return status_failure(status, getattr(response, "headers", {}), getattr(response, "text", "") or str(error))
    return Failure(Fault.OTHER, " ".join(f"{type(error).__name__}: {error}".split())[:500])
