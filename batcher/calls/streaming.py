"""What batcher adds to requests so that their answers are streamed, as far as an endpoint takes it.

Invariant: a parameter that the user gave is sent as it is. One that batcher has added is left out for good where the
endpoint refuses it, and the row that met the refusal is asked again: it is not the row's fault.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from batcher.calls.fate import Fate, meaning_of
from batcher.calls.services import KEY, MODEL, says
from batcher.records import Failure

STREAM, OPTIONS = "stream", "stream_options"

_USAGE = {"include_usage": True}  # else servers do not report the usage of a stream
# Statuses of services that do not know a parameter, or do not support it.
_REFUSALS = {400, 403, 404, 405, 406, 415, 422, 500, 501}
_VAGUE = {400, 422}
_OF_OPTIONS = re.compile(r"stream[_ ]?options|include_usage")
_OF_STREAM = re.compile(r"\bstream(?:s|ed|ing)?\b")


class Added:
    """The parameters that batcher adds to the requests of one endpoint.

    Args:
        params: that the user gave.
        is_wanted: answers shall be streamed unless `params` says otherwise (`--stream`).

    Attributes:
        params: what is added now.
        streams: a stream is asked for, by the user or by batcher.
        is_whole: the endpoint was asked for a stream, and answered in one piece.
    """

    def __init__(self, params: Mapping[str, Any], *, is_wanted: bool = False) -> None:
        self.params: dict[str, Any] = {}
        self.streams = params.get(STREAM, is_wanted) is True
        self.is_whole = False
        self._has_answered = False
        self._has_guessed = self._is_guess = False
        if self.streams and STREAM not in params:
            self.params[STREAM] = True
        if self.streams and OPTIONS not in params:
            self.params[OPTIONS] = _USAGE

    def answered(self, *, is_stream: bool) -> None:
        """Record an answer to a request for a stream."""
        self._has_answered = True
        self._is_guess = False
        self.is_whole = not is_stream

    def refused(self, failure: Failure, sent: Collection[str]) -> str:
        """Record a refusal; return the parameter that is its reason, and is left out from now on, or "".

        An endpoint that has never answered may refuse in words that name no parameter; then the request is tried once
        without the options of the stream.

        Args:
            failure: the refusal.
            sent: the added parameters that the request had.
        """
        if failure.status not in _REFUSALS or failure.is_page or says(failure, MODEL) or says(failure, KEY):
            return ""
        if OPTIONS in sent and _OF_OPTIONS.search(failure.said):
            return self._without(OPTIONS)
        is_of_stream = _OF_STREAM.search(failure.said) and not _OF_OPTIONS.search(failure.said)
        if STREAM in sent and is_of_stream and failure.status < 500 and not self._has_answered:
            self.streams = False
            self._without(OPTIONS)
            return self._without(STREAM)
        if self._is_guess and OPTIONS not in sent:
            self.params[OPTIONS] = _USAGE  # it was not the reason
            self._is_guess = False
        elif OPTIONS in sent and self._may_guess(failure):
            self._has_guessed = self._is_guess = True
            return self._without(OPTIONS)
        return ""

    def _may_guess(self, failure: Failure) -> bool:
        if self._has_answered or self._has_guessed or failure.status not in _VAGUE:
            return False
        return meaning_of(failure).fate is Fate.ROW_REFUSED

    def _without(self, name: str) -> str:
        self.params.pop(name, None)
        return name
