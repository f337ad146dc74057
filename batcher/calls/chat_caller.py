"""Calls through any LangChain chat model.

Invariant: errors of the model are returned as values; only cancellation is raised. An answer that has arrived is
returned, even if something fails afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import openai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_openai.chat_models.base import BaseChatOpenAI

from batcher.calls.caller import CallCut, Streaming
from batcher.calls.choices import Choice, completion_in, reasoning_of, usage_in, used, whole_of, without_keys
from batcher.calls.dialect import too_long
from batcher.calls.error_bodies import without_echo
from batcher.calls.failures import failure_of
from batcher.calls.logprobs import logprobs_in
from batcher.calls.patience import Patience, Signs
from batcher.calls.streaming import LOGPROBS, OPTIONS, Added
from batcher.calls.transport import MOST_BYTES
from batcher.calls.waits import limits_in
from batcher.chat_model import Secrets, request_of
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Terms, Usage

# The SDK cannot tell which request a response on a used connection belongs to.
CLOSE = {"Connection": "close"}


def unshared(llm: BaseChatModel, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a model's `agenerate`: the parameters, and for OpenAI's SDK new connections."""
    if not isinstance(llm, BaseChatOpenAI) or (request := request_of(llm, params)) is None:
        return dict(params)
    return {**params, "extra_headers": {**(request.get("extra_headers") or {}), **CLOSE}}


class ChatCaller:
    """Calls a LangChain chat model.

    Args:
        llm: the model.
        question: converts our messages, and further request parameters, into its messages and the other arguments of
            `agenerate`.
        must_finish: refuse an answer without a finish reason, because LangChain accepts half a stream as an answer.
        most_bytes: the most bytes of an answer.
        keys: texts to hide in answers and failures, besides the secrets of the model.
        streaming: answers are streamed (`--stream`), and may be silent for so long.
        scores: ask for the log-probabilities of the tokens of answers, if it is one of OpenAI's models: others may not
            know the argument.
    """

    def __init__(
        self,
        llm: BaseChatModel,
        question: Callable[[Sequence[Message], Mapping[str, Any]], tuple[list[BaseMessage], Mapping[str, Any]]],
        *,
        must_finish: bool = False,
        most_bytes: int = MOST_BYTES,
        keys: Sequence[str] = (),
        streaming: Streaming | None = None,
        scores: bool = False,
    ) -> None:
        self._llm = llm
        self._streaming = streaming
        # Whether a stream is asked to report its usage: only OpenAI's models have to be asked.
        is_wanted = streaming is not None and _may_ask_for_usage(llm)
        self._added = Added({}, is_wanted=is_wanted, scores=scores and _takes_logprobs(llm))
        self._more_keys = keys
        self._question = question
        self._must_finish = must_finish
        self._most_bytes = most_bytes

    @cached_property
    def _secrets(self) -> Secrets:
        """The secrets that a server may repeat; the user may change the model's key meanwhile."""
        return Secrets(self._llm)

    def _hidden(self, secrets: Sequence[str]) -> Sequence[str]:
        return [*secrets, *self._more_keys] if self._more_keys else secrets

    async def call(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        """Make one attempt at a chat that takes at most `timeout_s` seconds; a stream may also not be silent."""
        has_begun = False
        came = _Parts()
        sent = [name for name in self._added.params if name in {OPTIONS, LOGPROBS}]
        try:
            converted, options = self._question(messages, {**params, **terms.params} if terms.params else params)
            if LOGPROBS in sent:
                options = {LOGPROBS: True, **options}
            has_begun = True
            async with Patience(timeout_s):
                if self._streaming:
                    result = await self._streamed(converted, options, came, self._streaming.idle_s)
                else:
                    result = await self._llm.agenerate([converted], **options)
                    self._added.answered()
        except asyncio.CancelledError as cancelled:
            if (partial := came.so_far(self._hidden(self._secrets.keys))) is not None:
                raise CallCut(partial) from cancelled
            raise
        except Exception as error:  # noqa: BLE001 - any chat model may be behind it, and one row's failure is a value
            failure = failure_of(error, timeout_s, self._hidden(self._secrets.all), may_be_billed=has_begun)
            failure = without_echo(failure, messages)
            keys = self._hidden(self._secrets.keys)
            partial, left_out = came.so_far(keys), self._added.refused(failure, sent)
            completion = _paid_for(error, keys) or replace(failure, partial=partial, left_out=left_out)
        else:
            completion = completion_of(result, self._hidden(self._secrets.keys))
        return self._checked(completion, came)

    async def _streamed(
        self, messages: list[BaseMessage], options: Mapping[str, Any], came: _Parts, idle_s: float
    ) -> LLMResult:
        """Read an answer as it comes, and put its parts together.

        Raises:
            TimeoutError: nothing came for `idle_s` seconds.
        """
        if isinstance(self._llm, BaseChatOpenAI) and self._added.streams:
            options = {"stream_usage": OPTIONS in self._added.params, **options}

        async def read() -> None:
            async for part in self._llm.astream(messages, **options):
                came.add(part)

        await came.signs.unless_silent(read(), idle_s)
        self._added.answered(is_stream=True)
        return came.result()

    def _checked(self, outcome: Completion | Failure, came: _Parts) -> Completion | Failure:
        """Refuse an incomplete answer, and one that is too long: only the model's own client could stop reading it."""
        if isinstance(outcome, Failure):
            return outcome
        must_finish = self._must_finish or (self._streaming and isinstance(self._llm, BaseChatOpenAI))
        if must_finish and outcome.finish_reason is None:
            partial = came.so_far(self._hidden(self._secrets.keys))
            message = "the stream ended before the answer did"
            return Failure(Fault.PROTOCOL, message, may_be_billed=True, partial=partial)
        length = len((outcome.text or "").encode("utf-8", "surrogatepass"))
        return too_long(self._most_bytes) if length > self._most_bytes else outcome


class _Parts:
    """The parts of a streamed answer that have come.

    Attributes:
        signs: of life: each part is one.
    """

    def __init__(self) -> None:
        self.signs = Signs()
        self._parts: list[AIMessageChunk] = []

    def add(self, part: AIMessageChunk) -> None:
        self.signs.hear()
        self._parts.append(part)

    def result(self) -> LLMResult:
        """Return the parts together as what `agenerate` returns."""
        if not self._parts:
            return LLMResult(generations=[[]])
        first, *others = self._parts
        whole = first + others if others else first
        return LLMResult(generations=[[ChatGeneration(message=whole)]])

    def so_far(self, secrets: Sequence[str]) -> Completion | None:
        """Return what has come of an answer that is cut off; None if that is no text."""
        completion = completion_of(self.result(), secrets) if self._parts else None
        if not isinstance(completion, Completion) or not completion.characters:
            return None
        return replace(completion, finish_reason=None)


def _may_ask_for_usage(llm: BaseChatModel) -> bool:
    """Return whether a model takes `stream_usage`: those of OpenAI's chat completions, unless the user said no."""
    return isinstance(llm, BaseChatOpenAI) and llm.stream_usage is not False and request_of(llm, {}) is not None


def _takes_logprobs(llm: BaseChatModel) -> bool:
    """Return whether a model takes `logprobs`, and its user has not decided about it."""
    if not isinstance(llm, BaseChatOpenAI) or llm.logprobs is not None:
        return False
    request = request_of(llm, {})
    return request is not None and LOGPROBS not in request


def completion_of(result: LLMResult, secrets: Sequence[str] = ()) -> Completion | Failure:
    """Read the result of `agenerate` for its one prompt, and remove API keys from it."""
    generations = [each for candidates in result.generations for each in candidates]
    if not generations:
        return Failure(Fault.PROTOCOL, "the model returned no generation", may_be_billed=True)
    first = _message_of(generations[0])
    info = _info_of(generations[0])
    headers, tier = info.get("headers"), info.get("service_tier")
    headers = headers if isinstance(headers, Mapping) else {}
    limits = limits_in({str(name).lower(): str(value) for name, value in headers.items()})
    model = str(info.get("model_name") or info.get("model") or "")
    choices = [_choice_of(number, each) for number, each in enumerate(generations)]
    tier = tier if isinstance(tier, str) else None
    completion = whole_of(choices, usage=_usage_of(result, first), limits=limits, model=model, service_tier=tier)
    return without_keys(completion, secrets)


def _message_of(generation: Generation) -> BaseMessage:
    return generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)


def _info_of(generation: Generation) -> dict[str, Any]:
    return {**_message_of(generation).response_metadata, **(generation.generation_info or {})}


def _choice_of(number: int, generation: Generation) -> Choice:
    message, info = _message_of(generation), _info_of(generation)
    reason = info.get("finish_reason") or info.get("stop_reason") or info.get("done_reason")
    calls = getattr(message, "tool_calls", None) or message.additional_kwargs.get("function_call")
    refusal = message.additional_kwargs.get("refusal")
    return Choice(
        number,
        generation.text or (json.dumps(calls, ensure_ascii=False, default=str) if calls else None),
        None if reason is None else str(reason),
        refusal if isinstance(refusal, str) else None,
        reasoning_of({**message.additional_kwargs, "content": message.content}),
        scored=logprobs_in(info.get("logprobs")),
    )


def _usage_of(result: LLMResult, message: BaseMessage) -> Usage:
    """Read the usage of the call: in the server's fields if the model kept them, else in LangChain's."""
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


def _paid_for(error: Exception, secrets: Sequence[str]) -> Completion | None:
    """Return the answer that an error carries: the SDK raises if `response_format` cannot parse a paid answer."""
    completion = getattr(error, "completion", None)
    return completion_in(completion.model_dump(), {}, secrets) if isinstance(completion, openai.BaseModel) else None
