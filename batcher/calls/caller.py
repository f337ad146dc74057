"""One call: messages in, a completion or a failure out, through `ChatOpenAI.agenerate`.

Below `agenerate` goes our own client. Should a release of LangChain no longer let it, the SDK's own takes over.

Invariant: a call never raises for what the server, the network or the model did; it returns a `Failure`. What it
raises is cancellation. An answer that has arrived is returned, whatever happens after.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import openai
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from batcher.calls.dialect import completion_in, failure_in, limits_in, one_line, too_long, usage_in, used, without_keys
from batcher.calls.patience import Patience
from batcher.calls.transport import MOST_BYTES, MOST_CONNECTIONS, Attempt, Completions, open_session, proxy_for
from batcher.chat_model import Secrets, request_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message, Usage


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
        most_bytes: that a response may have, unpacked.
        most_connections: that may be open at once.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        offline_url: str | None = None,
        most_bytes: int = MOST_BYTES,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._params = params
        self._offline_url = offline_url
        self._most_bytes = most_bytes
        self._session = open_session(most_connections)
        self._sdk_clients: list[openai.DefaultAsyncHttpxClient] = []

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
            options = _unshared(endpoint.llm, self._params)
            return ChatCaller(
                endpoint.llm, lambda messages: (convert_to_messages(messages), options), most_bytes=self._most_bytes
            )
        base_url = (endpoint.base_url == OFFLINE and self._offline_url) or endpoint.base_url
        params = {**self._params, **endpoint.params}
        model = cast("str", endpoint.model)
        completions = Completions(self._session, base_url, endpoint.api_key, model, params, most_bytes=self._most_bytes)
        return OwnCaller(completions, model, lambda reason: self._through_the_sdk(endpoint, base_url, params, reason))

    def _through_the_sdk(
        self, endpoint: Endpoint, base_url: str, params: Mapping[str, Any], reason: Exception
    ) -> ChatCaller:
        """Make the caller that takes over if LangChain has changed under our own; warn of the first."""
        if not self._sdk_clients:
            warnings.warn(
                "the installed langchain-openai does not let batcher's own client make the calls"
                f" ({type(reason).__name__}: {reason}); the slower one of the SDK takes over. A newer batcher, or an"
                " older langchain-openai, will be faster.",
                RuntimeWarning,
                stacklevel=2,
            )
        # The SDK would share a client between event loops, and the second loop would fail.
        client = openai.DefaultAsyncHttpxClient(proxy=proxy_for(base_url), trust_env=False)
        self._sdk_clients.append(client)
        llm = ChatOpenAI(
            model=cast("str", endpoint.model),
            api_key=SecretStr(endpoint.api_key or "-"),
            base_url=base_url,
            extra_body=dict(params),
            max_retries=0,
            use_responses_api=False,
            include_response_headers=True,
            stream_usage=True,
            streaming=params.get("stream") is True,
            cache=False,
            http_async_client=client,
            default_headers=_CLOSE,
        )

        def question(messages: Sequence[Message]) -> tuple[list[BaseMessage], dict[str, Any]]:
            # The SDK puts `extra_body` over the body that it makes, and so the words of the user go out. Its own
            # timeout would count the seconds in which this process stands still.
            return _as_text(messages), {"timeout": None, "extra_body": {**params, "messages": messages}}

        return ChatCaller(llm, question, must_finish=llm.streaming, most_bytes=self._most_bytes)

    async def close(self) -> None:
        await self._session.close()
        for client in self._sdk_clients:
            await client.aclose()


# --- through our own client ---


class CallFailed(Exception):
    """What LangChain and its tracers see of an attempt that brought no completion."""


class _Chat(ChatOpenAI):
    """`ChatOpenAI` over our own client: what goes out is the question as the user wrote it.

    `ChatOpenAI` would rename parameters (`max_tokens`) and roles (o-series), add some (`temperature` for o1), and
    drop what it does not know of a message. The rest of `agenerate` (callbacks, tracing) is as it was.

    It is a quarter cheaper, too: no thread hop for the result, no parameters gathered five times a call.
    """

    async def _agenerate(
        self,
        messages: list[BaseMessage],  # noqa: ARG002 - the attempt has them as the user wrote them
        stop: list[str] | None = None,  # noqa: ARG002 - the parameters are the client's
        run_manager: Any = None,  # noqa: ARG002 - there is nothing to tell it before the end
        **options: Any,
    ) -> ChatResult:
        attempt: Attempt = options["attempt"]
        await self.async_client.send(attempt)
        completion = attempt.outcome
        if not isinstance(completion, Completion):
            raise CallFailed(str(completion))
        message = AIMessage(
            completion.text or "",
            usage_metadata=_usage_metadata(completion.usage),
            response_metadata={"finish_reason": completion.finish_reason},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **options: Any) -> LLMResult:
        """Generate as ever, but skip LangChain's callbacks if none are registered: they take as long as the call."""
        if args or self.is_watched:
            return await super().agenerate(messages, *args, **options)
        results = [await self._agenerate(each, **options) for each in messages]
        return LLMResult(generations=[list(result.generations) for result in results])

    @cached_property
    def is_watched(self) -> bool:
        """Whether callbacks, a tracer or LangChain's debug mode are to hear of the calls of this run."""
        return bool(AsyncCallbackManager.configure(None, self.callbacks, self.verbose).handlers)


def _usage_metadata(usage: Usage) -> UsageMetadata | None:
    """Return what a call used in LangChain's words, which have none for a part that is not known."""
    asked, given, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if asked is None or given is None or total is None:
        return None
    return UsageMetadata(input_tokens=asked, output_tokens=given, total_tokens=total)


def _chat_over(completions: Completions, model: str) -> ChatOpenAI:
    """Build the model over our own client; the SDK's clients are never made."""
    return _Chat(
        model=model,
        api_key=SecretStr("-"),  # the real key is in `completions` alone: nothing here can print it
        client=completions,
        async_client=completions,
        cache=False,
        disable_streaming=True,
    )


def _as_text(messages: Sequence[Message]) -> list[BaseMessage]:
    """Make messages for tracers to show; what goes out are the user's own."""
    wrapped: list[BaseMessage] = []
    for message in messages:
        content = message.get("content")
        shown = content if isinstance(content, str) else json.dumps(content)
        wrapped.append(ChatMessage(role=str(message.get("role")), content=shown))
    return wrapped


class OwnCaller:
    """Calls through our own client, or for good through another caller if LangChain does not let it.

    Args:
        completions: our client.
        model: the model's name.
        instead: makes the other caller, and is told why.
    """

    def __init__(self, completions: Completions, model: str, instead: Callable[[Exception], Caller]) -> None:
        self._make_other = instead
        self._other: Caller | None = None
        try:
            self._llm = _chat_over(completions, model)
        except Exception as error:  # noqa: BLE001 - nobody knows what a future release will raise
            self._other = instead(error)

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        """Make one attempt that takes at most so many seconds."""
        if self._other is None:
            attempt = Attempt(messages)
            raised = await self._make(attempt, timeout_s)
            if attempt.outcome is not None:
                return attempt.outcome
            error = raised or RuntimeError("agenerate() did not call _agenerate()")
            if attempt.has_begun or isinstance(error, TimeoutError):
                return failure_of(error, timeout_s, may_be_billed=attempt.has_left)
            self._other = self._other or self._make_other(error)
        return await self._other.call(messages, timeout_s)

    async def _make(self, attempt: Attempt, timeout_s: float) -> Exception | None:
        """Make an attempt and return the error that ended it, if one did; what came of it is in the attempt."""
        try:
            async with Patience(timeout_s):
                # One list a call: agenerate() drops the paid answers beside one that fails.
                await self._llm.agenerate([_as_text(attempt.messages)], attempt=attempt)
        except Exception as error:  # noqa: BLE001 - LangChain's, or a tracer's: an answer that has arrived still counts
            return error
        return None


# --- through any chat model ---

# The SDK cannot tell whose response comes on a connection that it has used before.
_CLOSE = {"Connection": "close"}


def _unshared(llm: BaseChatModel, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a model's `agenerate`: the parameters, and for OpenAI's SDK new connections."""
    if not isinstance(llm, BaseChatOpenAI) or (request := request_of(llm, params)) is None:
        return dict(params)
    return {**params, "extra_headers": {**(request.get("extra_headers") or {}), **_CLOSE}}


class ChatCaller:
    """Calls a LangChain chat model.

    Args:
        llm: the model.
        question: makes its messages, and the other arguments of `agenerate`, of our messages.
        must_finish: an answer without a reason why it ended is none; LangChain takes half a stream for an answer.
        most_bytes: that an answer may have.
    """

    def __init__(
        self,
        llm: BaseChatModel,
        question: Callable[[Sequence[Message]], tuple[list[BaseMessage], Mapping[str, Any]]],
        *,
        must_finish: bool = False,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._llm = llm
        self._question = question
        self._must_finish = must_finish
        self._most_bytes = most_bytes

    @cached_property
    def _secrets(self) -> Secrets:
        """What a server may repeat; a model may get another key meanwhile."""
        return Secrets(self._llm)

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        """Make one attempt that takes at most so many seconds."""
        has_begun = False
        try:
            converted, options = self._question(messages)
            has_begun = True
            async with Patience(timeout_s):
                result = await self._llm.agenerate([converted], **options)
        except Exception as error:  # noqa: BLE001 - any chat model may stand here, and one row's trouble is a value
            failure = failure_of(error, timeout_s, self._secrets.all, may_be_billed=has_begun)
            completion = _paid_for(error, self._secrets.keys) or failure
        else:
            completion = completion_of(result, self._secrets.keys)
        return self._checked(completion)

    def _checked(self, outcome: Completion | Failure) -> Completion | Failure:
        """Refuse half an answer, and one that is too long: only the model's own client could stop reading it."""
        if isinstance(outcome, Failure):
            return outcome
        if self._must_finish and outcome.finish_reason is None:
            return Failure(Fault.PROTOCOL, "the stream ended before the answer did", may_be_billed=True)
        length = len((outcome.text or "").encode("utf-8", "surrogatepass"))
        return too_long(self._most_bytes) if length > self._most_bytes else outcome


def completion_of(result: LLMResult, secrets: Sequence[str] = ()) -> Completion | Failure:
    """Read what `agenerate` returned for its one prompt; no API key is left in it."""
    generation = next((each for candidates in result.generations for each in candidates), None)
    if generation is None:
        return Failure(Fault.PROTOCOL, "the model returned no generation", may_be_billed=True)
    message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
    info = {**message.response_metadata, **(generation.generation_info or {})}
    reason = info.get("finish_reason") or info.get("stop_reason") or info.get("done_reason")
    refusal = message.additional_kwargs.get("refusal")
    calls = getattr(message, "tool_calls", None)
    headers = info.get("headers")
    headers = headers if isinstance(headers, Mapping) else {}
    completion = Completion(
        generation.text or (json.dumps(calls, ensure_ascii=False, default=str) if calls else None),
        None if reason is None else str(reason),
        _usage_of(result, message),
        refusal if isinstance(refusal, str) else None,
        limits_in({str(name).lower(): str(value) for name, value in headers.items()}),
    )
    return without_keys(completion, secrets)


def _usage_of(result: LLMResult, message: BaseMessage) -> Usage:
    """Read what the call used: in the server's words where the model kept them, else in LangChain's."""
    kept = (result.llm_output or {}).get("token_usage")
    if kept:
        return usage_in(kept)
    usage = getattr(message, "usage_metadata", None) or {}
    asked, given = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
    return used(
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        usage.get("total_tokens"),
        asked.get("cache_read"),
        given.get("reasoning"),
    )


# --- what a model raised ---

# By name, because each provider's SDK has classes of its own, over one of several HTTP libraries.
_TIMEOUTS = {"TimeoutError", "APITimeoutError", "TimeoutException", "Timeout", "ModelTimeoutError"}
_NO_CONNECTION = {
    "ConnectionError",
    "APIConnectionError",
    "TransportError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ModelConnectionError",
}
# Of those, the ones that come before a request has left.
_NEVER_LEFT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "ClientConnectorError",
    "ConnectionTimeoutError",
    "ConnectionRefusedError",
    "gaierror",
}
# An error in the stream of an answer, or an answer that the SDK cannot read.
_NO_ANSWER = {"APIError"}
# LangChain's own tree of errors says with a class what a server says with a status.
_STATUS = {
    "ModelAuthenticationError": 401,
    "ModelPermissionDeniedError": 403,
    "ModelNotFoundError": 404,
    "ModelRateLimitError": 429,
    "ModelInvalidRequestError": 400,
    "ContextOverflowError": 400,
    "ModelAPIError": 500,
}


def failure_of(
    error: Exception, timeout_s: float, secrets: Sequence[str] = (), *, may_be_billed: bool = True
) -> Failure:
    """Read what a chat model raised, as far as its attributes, its class or what caused it tell.

    Args:
        error: what it raised.
        timeout_s: seconds that the call was given.
        secrets: what the failure must not show.
        may_be_billed: the request may have left; what was raised may still say that it had not, or was refused.
    """
    causes = list(_causes(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    response = getattr(error, "response", None)
    said = (getattr(source, name, None) for source in (error, response) for name in ("status_code", "status"))
    status = next((code for code in said if isinstance(code, int)), None)
    if status is None:
        status = next((code for name, code in _STATUS.items() if name in names), None)
    if status is not None:
        headers = {name.lower(): value for name, value in dict(getattr(response, "headers", {})).items()}
        return failure_in(status, headers, _body_of(response) or str(error), secrets)
    may_be_billed = may_be_billed and not names & _NEVER_LEFT
    if names & _TIMEOUTS:
        message = one_line(str(error), secrets) or f"nothing came within {timeout_s:g} s"
        return Failure(Fault.TIMEOUT, message, may_be_billed=may_be_billed)
    if names & _NO_CONNECTION:
        deepest = next((cause for cause in reversed(causes) if str(cause)), error)
        message = one_line(str(deepest), secrets) or type(error).__name__
        return Failure(Fault.CONNECTION, message, may_be_billed=may_be_billed)
    fault = Fault.PROTOCOL if names & _NO_ANSWER else Fault.OTHER
    return Failure(fault, one_line(f"{type(error).__name__}: {error}", secrets), may_be_billed=may_be_billed)


def _paid_for(error: Exception, secrets: Sequence[str]) -> Completion | None:
    """Return the answer that an error carries: the SDK raises for one that `response_format` cannot take."""
    completion = getattr(error, "completion", None)
    return completion_in(completion.model_dump(), {}, secrets) if isinstance(completion, openai.BaseModel) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _body_of(response: object) -> str:
    try:
        return str(getattr(response, "text", ""))
    except RuntimeError:  # it was not read
        return ""
