"""One call: messages in, a completion or a failure out, through `ChatOpenAI.agenerate`.

Invariant: a call never raises for what the server, the network or the model did; it returns a `Failure`. What it
raises is cancellation.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.config import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message, Usage
from batcher.transport import CallFailed, Completions, connection_failure, one_line, open_session, status_failure


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
        """Make the caller of an endpoint.

        Raises:
            SettingsError: its `llm` is no chat model, or its proxy cannot be used.
        """
        if endpoint.llm is not None:
            if not isinstance(endpoint.llm, BaseChatModel):
                raise SettingsError(
                    f"Endpoint(llm=...) takes a LangChain chat model, not {type(endpoint.llm).__name__}"
                )
            return ChatCaller(endpoint.llm, convert_to_messages, self._params)
        base_url = (endpoint.base_url == OFFLINE and self._offline_url) or endpoint.base_url
        params = {**self._params, **endpoint.params}
        model = cast("str", endpoint.model)
        completions = Completions(self._session, base_url, endpoint.api_key, model, params)
        return ChatCaller(_chat_over(completions, model, base_url), _as_they_are)

    async def close(self) -> None:
        await self._session.close()


class _Chat(ChatOpenAI):
    """`ChatOpenAI` over our own client: what goes out is the question as the user wrote it.

    `ChatOpenAI` would rename parameters (`max_tokens`) and roles (o-series), add some (`temperature` for o1), and
    drop what it does not know of a message. The rest of `agenerate` (callbacks, tracing) is as it was.

    It is a quarter cheaper, too: no thread hop for the result, no parameters gathered five times a call.
    """

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        completion: Completion = await self.async_client.create([each.additional_kwargs for each in messages])
        asked, given = completion.usage.prompt_tokens, completion.usage.completion_tokens
        message = AIMessage(
            completion.text or "",
            usage_metadata=UsageMetadata(input_tokens=asked, output_tokens=given, total_tokens=asked + given),
            response_metadata={"finish_reason": completion.finish_reason},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _get_invocation_params(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"model": self.model_name}  # tracers alone see it; should its name change, only time is lost


# langchain-core inspects the signature anew in each call; this is where `inspect` looks first.
_Chat._agenerate.__signature__ = inspect.signature(_Chat._agenerate)  # type: ignore[attr-defined]  # noqa: SLF001


def _chat_over(completions: Completions, model: str, base_url: str) -> ChatOpenAI:
    """Build the model over our own client; the SDK's clients are never made."""
    return _Chat(
        model=model,
        api_key=SecretStr("-"),  # the real key is in `completions` alone: nothing here can print it
        base_url=base_url,
        client=completions,
        async_client=completions,
        cache=False,
    )


def _as_they_are(messages: Sequence[Message]) -> list[BaseMessage]:
    """Wrap messages for `_Chat`, which sends their `additional_kwargs`; the content is for tracers."""
    wrapped: list[BaseMessage] = []
    for message in messages:
        content = message.get("content")
        shown = content if isinstance(content, str) else json.dumps(content)
        wrapped.append(ChatMessage(role=message["role"], content=shown, additional_kwargs=message))
    return wrapped


class ChatCaller:
    """Calls a LangChain chat model.

    Args:
        llm: the model.
        convert: makes its messages.
        params: request parameters that go out with each call.
    """

    def __init__(
        self,
        llm: BaseChatModel,
        convert: Callable[[Sequence[Message]], list[BaseMessage]],
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._llm = llm
        self._convert = convert
        self._params = dict(params or {})
        # A server may repeat the API key in its errors. Models of LangChain keep theirs in such fields.
        kept = (value.get_secret_value() for value in vars(llm).values() if isinstance(value, SecretStr))
        self._secrets = [secret for secret in kept if secret]

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        """Make one attempt that takes at most so many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                # One list a call: agenerate() drops the paid answers beside one that fails.
                result = await self._llm.agenerate([self._convert(messages)], **self._params)
        except CallFailed as error:
            return error.failure
        except Exception as error:  # noqa: BLE001 - any chat model may stand here, and one row's trouble is a value
            return failure_of(error, timeout_s, self._secrets)
        return completion_of(result)


def completion_of(result: LLMResult) -> Completion | Failure:
    """Read what `agenerate` returned for its one prompt."""
    generation = next((each for candidates in result.generations for each in candidates), None)
    if generation is None:
        return Failure(Fault.PROTOCOL, "the model returned no generation")
    info = generation.generation_info or {}
    usage = None
    if isinstance(generation, ChatGeneration):
        usage = getattr(generation.message, "usage_metadata", None)
        info = {**generation.message.response_metadata, **info}
    reason = info.get("finish_reason") or info.get("stop_reason") or info.get("done_reason")
    return Completion(
        generation.text or None,
        None if reason is None else str(reason),
        Usage(usage["input_tokens"], usage["output_tokens"]) if usage else Usage(),
    )


# By name, because each provider's SDK has classes of its own, over one of several HTTP libraries.
_TIMEOUTS = {"TimeoutError", "APITimeoutError", "TimeoutException", "Timeout"}
_NO_CONNECTION = {"ConnectionError", "APIConnectionError", "TransportError", "ClientConnectionError"}


def failure_of(error: Exception, timeout_s: float, secrets: Sequence[str] = ()) -> Failure:
    """Read what a chat model raised, as far as its attributes, its class or what caused it tell.

    Args:
        error: what it raised.
        timeout_s: seconds that the call was given.
        secrets: what the failure must not show.
    """
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int):
        headers = {name.lower(): value for name, value in dict(getattr(response, "headers", {})).items()}
        return status_failure(status, headers, _body_of(response) or str(error), secrets)
    causes = list(_causes(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if names & _TIMEOUTS:
        return Failure(Fault.TIMEOUT, one_line(str(error), secrets) or f"nothing came within {timeout_s:g} s")
    if names & _NO_CONNECTION:
        return connection_failure(next((cause for cause in reversed(causes) if str(cause)), error), secrets)
    return Failure(Fault.OTHER, one_line(f"{type(error).__name__}: {error}", secrets))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _body_of(response: object) -> str:
    try:
        return str(getattr(response, "text", ""))
    except RuntimeError:  # it was not read
        return ""
