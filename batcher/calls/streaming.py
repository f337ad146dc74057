"""What batcher adds to requests: that answers are streamed, and come with log-probabilities, if the endpoint takes it.

Invariant: a parameter that the user gave is sent as it is. One that batcher has added is left out for good where the
endpoint refuses it, and the row that met the refusal is asked again: it is not the row's fault.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from batcher.calls.fate import Fate, meaning_of
from batcher.calls.services import KEY, MODEL, says
from batcher.records import NO_PARAMS, Failure, Task, Terms

STREAM, OPTIONS, LOGPROBS = "stream", "stream_options", "logprobs"

_USAGE = {"include_usage": True}  # else servers do not report the usage of a stream
# Statuses of services that do not know a parameter, or do not support it.
_REFUSALS = {400, 403, 404, 405, 406, 415, 422, 500, 501}
_VAGUE = {400, 422}
_OF_OPTIONS = re.compile(r"stream[_ ]?options|include_usage")
_OF_STREAM = re.compile(r"\bstream(?:s|ed|ing)?\b")
_OF_LOGPROBS = re.compile(r"log[-_ ]?prob")
# A text completion is asked for a number of alternatives; some servers take 0 for none at all.
_OF_TEXT = {LOGPROBS: 1}


class Added:
    """The parameters that batcher adds to the requests of one endpoint.

    Args:
        params: that the user gave.
        is_wanted: answers shall be streamed unless `params` says otherwise (`--stream`).
        scores: answers shall come with the log-probabilities of their tokens (`--with confidence`).

    Attributes:
        params: what is added to a chat now.
        streams: a stream is asked for, by the user or by batcher.
        is_whole: the endpoint was asked for a stream, and answered in one piece.
    """

    def __init__(self, params: Mapping[str, Any], *, is_wanted: bool = False, scores: bool = False) -> None:
        self.params: dict[str, Any] = {}
        self.streams = params.get(STREAM, is_wanted) is True
        self.is_whole = False
        self._has_answered = False
        # What may be guessed to be the reason of a refusal, and the present guess.
        self._guesses: dict[str, Any] = {}
        self._guess = ""
        if self.streams and STREAM not in params:
            self.params[STREAM] = True
        if self.streams and OPTIONS not in params:
            self._guesses[OPTIONS] = _USAGE
        if scores and LOGPROBS not in params:
            self._guesses[LOGPROBS] = True
        self.params |= self._guesses

    def to(self, terms: Terms) -> Mapping[str, Any]:
        """Return what is added to a request that asks by these terms."""
        if not self.params or terms.task is Task.EMBEDDING:
            return NO_PARAMS
        added = self.params | _OF_TEXT if terms.task is Task.COMPLETION and LOGPROBS in self.params else self.params
        is_streamed = terms.params.get(STREAM, True) is True
        return {
            name: value
            for name, value in added.items()
            if name not in terms.params and (is_streamed or name not in {STREAM, OPTIONS})
        }

    def answered(self, *, is_stream: bool | None = None) -> None:
        """Record an answer.

        Args:
            is_stream: whether it came as a stream; None: none was asked for.
        """
        self._has_answered = True
        self._guess = ""
        if is_stream is not None:
            self.is_whole = not is_stream

    def refused(self, failure: Failure, sent: Collection[str]) -> str:
        """Record a refusal; return the parameter that is its reason, and is left out from now on, or "".

        An endpoint that has never answered may refuse in words that name no parameter; then the request is tried once
        without the options of the stream, and once without the log-probabilities.

        Args:
            failure: the refusal.
            sent: the added parameters that the request had.
        """
        if failure.status not in _REFUSALS or failure.is_page:
            return ""
        if LOGPROBS in sent and self.is_of_scores(failure):
            return self._without(LOGPROBS)
        if says(failure, MODEL) or says(failure, KEY):
            return ""
        if OPTIONS in sent and _OF_OPTIONS.search(failure.said):
            return self._without(OPTIONS)
        is_of_stream = _OF_STREAM.search(failure.said) and not _OF_OPTIONS.search(failure.said)
        if STREAM in sent and is_of_stream and failure.status < 500 and not self._has_answered:
            self.streams = False
            self._without(OPTIONS)
            return self._without(STREAM)
        return self._guessed(failure, sent)

    @staticmethod
    def is_of_scores(failure: Failure) -> bool:
        """Return whether a refusal names the log-probabilities."""
        return failure.status in _REFUSALS and not failure.is_page and bool(_OF_LOGPROBS.search(failure.said))

    def _guessed(self, failure: Failure, sent: Collection[str]) -> str:
        """Guess the parameter that is the reason of a refusal; one that was left out in vain is sent again."""
        if self._guess and self._guess not in sent:
            self.params[self._guess] = self._guesses.pop(self._guess)  # it was not the reason
            self._guess = ""
        left = [name for name in self._guesses if name in sent]
        if self._guess or not left or not self._may_guess(failure):
            return ""
        self._guess = left[0]
        return self._without(left[0])

    def _may_guess(self, failure: Failure) -> bool:
        if self._has_answered or failure.status not in _VAGUE:
            return False
        return meaning_of(failure).fate is Fate.ROW_REFUSED

    def _without(self, name: str) -> str:
        self.params.pop(name, None)
        return name
