"""Calls through our own client, below `ChatOpenAI.agenerate`.

If a release of LangChain no longer lets our client in, another caller takes over for good.

Invariant: errors of the server, the network or LangChain are returned as values; only cancellation is raised. An answer
that has arrived is returned, even if LangChain or a tracer fails afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.calls.caller import CallCut, Caller, Streaming
from batcher.calls.failures import failure_of
from batcher.calls.patience import Patience
from batcher.calls.texts import shown_parts
from batcher.calls.transport import Attempt, Completions
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Message, Task, Terms, Usage


class CallFailed(Exception):
    """Shows LangChain and its tracers an attempt without a completion."""


_UNSEEN = LLMResult(generations=[[]])


class _Chat(ChatOpenAI):
    """`ChatOpenAI` over our own client, which sends the question as the user wrote it.

    `ChatOpenAI` would rename parameters (`max_tokens`) and roles (o-series), add some (`temperature` for o1), and drop
    unknown parts of a message. The rest of `agenerate` (callbacks, tracing) is unchanged.

    It also takes much less CPU time: no thread hop for the result, no parameters gathered five times a call, and no
    messages of LangChain's if nobody sees them.
    """

    async def _agenerate(
        self,
        messages: list[BaseMessage],  # noqa: ARG002 - the attempt has them as the user wrote them
        stop: list[str] | None = None,  # noqa: ARG002 - the parameters are the client's
        run_manager: Any = None,  # noqa: ARG002 - there is nothing to tell it before the end
        **options: Any,
    ) -> ChatResult:
        completion = await self._sent(options["attempt"])
        message = AIMessage(
            completion.text or "",
            usage_metadata=_usage_metadata(completion.usage),
            response_metadata={"finish_reason": completion.finish_reason},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **options: Any) -> LLMResult:
        """Like `super().agenerate()`; if no callbacks are registered, which cost as much as the call, just send it.

        The attempt holds what came; the result is empty then.
        """
        if args or self.is_watched:
            return await super().agenerate(messages, *args, **options)
        await self._sent(options["attempt"])
        return _UNSEEN

    async def _sent(self, attempt: Attempt) -> Completion:
        await self.async_client.send(attempt)
        if not isinstance(attempt.outcome, Completion):
            raise CallFailed(str(attempt.outcome))
        return attempt.outcome

    @cached_property
    def is_watched(self) -> bool:
        """Whether callbacks, a tracer or LangChain's debug mode observe the calls of this run."""
        return bool(AsyncCallbackManager.configure(None, self.callbacks, self.verbose).handlers)


def _usage_metadata(usage: Usage) -> UsageMetadata | None:
    """Return a call's usage in LangChain's form, or None if a part is unknown: the form has no way to say so."""
    asked, given, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if asked is None or given is None or total is None:
        return None
    return UsageMetadata(input_tokens=asked, output_tokens=given, total_tokens=total)


def _chat_over(completions: Completions, model: str) -> _Chat:
    """Build the model over our own client; the SDK's clients are never made."""
    return _Chat(
        model=model,
        api_key=SecretStr("-"),  # the real key is in `completions` alone: nothing here can print it
        client=completions,
        async_client=completions,
        cache=False,
        disable_streaming=True,
    )


def as_text(messages: Sequence[Message]) -> list[BaseMessage]:
    """Make messages for tracers to show; the user's own messages are sent."""
    wrapped: list[BaseMessage] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            shown = content
        else:
            shown = shown_parts(content) if isinstance(content, list) else json.dumps(content)
        wrapped.append(ChatMessage(role=str(message.get("role")), content=shown))
    return wrapped


class OwnCaller:
    """Calls through our own client, or for good through another caller if LangChain does not let it.

    Args:
        completions: our client.
        model: the model's name.
        instead: makes the other caller, given the reason.
        streaming: answers are streamed (`--stream`), and may be silent for so long.
    """

    def __init__(
        self,
        completions: Completions,
        model: str,
        instead: Callable[[Exception], Caller],
        streaming: Streaming | None = None,
    ) -> None:
        self._completions = completions
        self._streaming = streaming
        self._make_other = instead
        self._other: Caller | None = None
        try:
            self._llm = _chat_over(completions, model)
        except Exception as error:  # noqa: BLE001 - a future release may raise anything
            self._other = instead(error)

    async def call(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        """Make one attempt that takes at most `timeout_s` seconds; one that is streamed may also not be silent."""
        return await self.call_telling(messages, timeout_s, params, terms)

    async def call_telling(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any],
        terms: Terms,
        departed: Callable[[], None] | None = None,
    ) -> Completion | Failure:
        """Do what `call` does, and call `departed` when the request is about to be written to the server."""
        other = self._other if terms.task is Task.CHAT else None
        idle_s = self._streaming.idle_s if self._streaming else timeout_s
        if self._streaming and (other or not self._completions.asks_for_stream(terms)):
            timeout_s = min(timeout_s, self._streaming.whole_s)
            idle_s = timeout_s
        if other is None:
            attempt = Attempt(messages, params, terms, departed)
            try:
                raised = await self._make(attempt, timeout_s, idle_s)
            except asyncio.CancelledError as cancelled:
                if (partial := attempt.so_far()) is not None:
                    raise CallCut(partial) from cancelled
                raise
            if attempt.outcome is not None:
                return attempt.outcome
            error = raised or RuntimeError("agenerate() did not call _agenerate()")
            if attempt.has_begun or isinstance(error, TimeoutError):
                failure = failure_of(error, timeout_s, may_be_billed=attempt.has_left)
                return replace(failure, partial=attempt.so_far())
            other = self._other = self._other or self._make_other(error)
        if departed:
            departed()
        return await other.call(messages, timeout_s, params, terms)

    async def _make(self, attempt: Attempt, timeout_s: float, idle_s: float) -> Exception | None:
        """Make an attempt, and return the error that ended it, if any; the attempt holds its outcome."""
        try:
            async with Patience(timeout_s):
                work = self._work(attempt)
                await (work if idle_s >= timeout_s else attempt.signs.unless_silent(work, idle_s))
        except Exception as error:  # noqa: BLE001 - LangChain's, or a tracer's: an answer that has arrived still counts
            if isinstance(error, TimeoutError) and self._streaming and attempt.signs.have_come and not str(error):
                return TimeoutError(f"the answer was not complete within {timeout_s:g} s")
            return error
        return None

    def _work(self, attempt: Attempt) -> Awaitable[object]:
        if attempt.terms.task is not Task.CHAT:  # LangChain's chat models know chats alone
            return self._completions.send(attempt)
        # One list a call: agenerate() drops the paid answers beside one that fails.
        shown = as_text(attempt.messages) if self._llm.is_watched else []
        return self._llm.agenerate([shown], attempt=attempt)
