"""Writes the lines of a batch's file, and reads those of its output and error files.

Invariant: a line asks what a request that is sent by itself would ask, with the same bytes; a result is read by the
code that reads such a request's response. Reading never raises, for any bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.calls.batch_service import LINE_CANCELLED, LINE_EXPIRED, Answer
from batcher.calls.dialect import answer_in
from batcher.calls.error_bodies import failure_in
from batcher.calls.request_body import RequestBody
from batcher.calls.streaming import LOGPROBS, OPTIONS, STREAM, Added
from batcher.calls.streams import too_many_parts
from batcher.calls.texts import has_too_many_parts, json_in
from batcher.records import NO_PARAMS, Completion, Failure, Message, Terms

_BOM = "\ufeff".encode()
_ID = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.){1,1000}")')
_EXPIRED = {"batch_expired", "expired", "request_expired", "batch_timeout", "timeout_exceeded"}
_CANCELLED = {"batch_cancelled", "batch_canceled", "cancelled", "canceled", "request_cancelled", "request_canceled"}


class Lines:
    """The lines of one endpoint's batches.

    Args:
        model: the model's name, or that of its deployment.
        params: request parameters of every line.
        scores: ask for the log-probabilities of the tokens of answers.
        secrets: texts that no message may show.
    """

    def __init__(
        self, model: str, params: Mapping[str, Any], *, scores: bool = False, secrets: Sequence[str] = ()
    ) -> None:
        self._body = RequestBody(model, _whole(params))
        self._added = Added(_whole(params), scores=scores)
        self._scores = {*self._added.params}
        self._secrets = secrets
        wanted = params.get("n")
        self._wants_all = isinstance(wanted, int) and wanted > 1

    def line(
        self, custom_id: str, url: str, messages: Sequence[Message], params: Mapping[str, Any], terms: Terms
    ) -> bytes:
        """Return a line, with its line break."""
        if terms.params:
            terms = terms._replace(params=_whole(terms.params))
        body = self._body.of(messages, self._added.to(terms), params, terms)
        head = json.dumps({"custom_id": custom_id, "method": "POST", "url": url})[:-1]
        return f'{head}, "body": '.encode() + body + b"}\n"

    def read(self, line: bytes) -> Answer | None:
        """Read a line of a result; None: it is empty, cut off, or no JSON object."""
        line = line.removeprefix(_BOM).strip()
        if has_too_many_parts(line):
            found = _ID.search(line)
            return Answer(str(json_in(found[1]) or ""), too_many_parts()) if found else None
        said = json_in(line) if line else None
        if not isinstance(said, dict):
            return None
        outcome = self._outcome(said)
        if isinstance(outcome, Failure) and self._is_of_scores(outcome):
            outcome = replace(outcome, left_out=LOGPROBS)
        return Answer(_text_of(said.get("custom_id")), outcome)

    def _outcome(self, said: dict[str, Any]) -> Completion | Failure:
        status, body = _response_in(said)
        error = said.get("error")
        if 200 <= status < 300 and body is not None:
            inputs = _inputs(body)
            return answer_in(status, NO_PARAMS, _json(body), self._secrets, wants_all=self._wants_all, inputs=inputs)
        told = body if status and body else {"error": error if isinstance(error, (dict, str)) else None}
        if not status or 200 <= status < 300:
            # Under 200, because there was no response: then the codes of the error tell.
            failure = replace(failure_in(200, NO_PARAMS, _json(told), self._secrets), may_be_billed=False)
        else:
            failure = failure_in(status, NO_PARAMS, _json(told), self._secrets)
        return replace(failure, code=_end_of(error) or failure.code)

    def _is_of_scores(self, failure: Failure) -> bool:
        """Return whether the log-probabilities are what was refused; they are not asked for any more."""
        if not self._scores or not self._added.is_of_scores(failure):
            return False
        if LOGPROBS in self._added.params:
            self._added.refused(failure, self._scores)
            self._body.forget()
        return True


def _whole(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters that ask for no stream: a line has its answer in one piece."""
    return {name: value for name, value in params.items() if name not in {STREAM, OPTIONS}}


def _response_in(said: dict[str, Any]) -> tuple[int, Any]:
    """Return the status and the body of a line's response; 0 if it has no status, None if it has no body.

    Most say `{"response": {"status_code": 200, "body": {...}}}`. Some leave out the status, and some have the body in
    place of the response.
    """
    response = said.get("response", said.get("body"))
    if not isinstance(response, dict):
        return 0, None
    if not {"status_code", "body"} & response.keys():
        return (200, response) if response else (0, None)
    body = response.get("body")
    body = json_in(body) if isinstance(body, str) and body.lstrip().startswith("{") else body
    text = _text_of(response.get("status_code"))
    status = int(text) if re.fullmatch(r"[1-5]\d\d", text, re.ASCII) else 0
    return status or (200 if isinstance(body, dict) and not said.get("error") else 0), body or None


def _inputs(body: object) -> int | None:
    """Return the number of texts that a body has vectors for; None: it is no answer to embeddings."""
    match body:
        case {"choices": _}:
            return None
        case {"data": [{"embedding": _}, *_] as data}:
            return len(data)
        case {"object": "list", "data": [*data]}:
            return max(len(data), 1)
    return None


def _end_of(error: object) -> str:
    """Return the code of a line that the service did not ask, in one spelling; empty if it is another error."""
    code = str(error.get("code") or error.get("type") or "").lower() if isinstance(error, dict) else ""
    return LINE_EXPIRED if code in _EXPIRED else LINE_CANCELLED if code in _CANCELLED else ""


def _text_of(value: object) -> str:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _json(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except RecursionError:  # it was just shallow enough to be read
        return b""
