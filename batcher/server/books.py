"""The books of the local server: every request, by status, key and prompt.

Invariant: each request is counted once when it arrives and once when it ends.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from batcher.server.batch_books import BatchBooks

SECONDS_KEPT = 3_600


class Books:
    """The server's own counts, against which a client's counts can be checked.

    Only the server writes them. Each request ends exactly once: when none is in flight, `requests` equals
    `sum(by_status.values()) + dropped + hung + abandoned`.

    Attributes:
        requests: chats, completions and embeddings requests that arrived, and requests for a tunnel through the server.
        answered: requests that were answered with 200.
        requests_by_prompt, answered_by_prompt: both by the text of the last user message, or by each prompt of a
            completion.
        by_route: requests by the end of their path, such as `chat/completions`.
        inputs: texts of embeddings requests that arrived.
        embedded: those of requests that were answered with 200.
        inputs_by_text, embedded_by_text: both by text.
        by_key: requests by a digest of the API key (`none` without a key).
        by_status: responses by HTTP status.
        in_flight, peak_in_flight: requests in flight now, and the highest number so far.
        dropped: connections cut without a response, or in the middle of one.
        hung: requests that were never answered.
        abandoned: requests whose client left before the answer.
        lost: answers that were made, so that a service would bill them, but did not reach the client as an answer.
        replies: responses of faults with a status of success, each of which may hold an answer.
        by_fault: requests that met a fault, by its number and name.
        faults_by_prompt: the same by the text of the last user message; for a tunnel, by host and port.
        by_form: requests by the form of structured output that they ask for, a value of `batcher.server.forms.Form`.
        forms_by_prompt: the forms of the requests of each prompt, in their order.
        refused_by_form: requests that were refused for their form, by form.
        refused_by_prompt: the same by prompt.
        unfit: answers that are not what was asked for, or not only that: prose, nothing, or dressed up.
        unfit_by_prompt: the same by prompt.
        without_truth: answers to prompts whose true label is not known, by a server whose errors are stated.
        first_request, last_request: Unix times in seconds, None before the first.
        per_second: requests in each of the last seconds (3,600 at most); the first one kept is second
            `per_second_start` since the first request.
        batches: the counts of files, batches and their lines, which count nowhere else, except for faults and forms.

    Args:
        clock: Unix time in seconds.
        by_prompt: whether to count by prompt, which takes memory for each prompt; otherwise those counts stay empty.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, by_prompt: bool = True) -> None:
        self._clock = clock
        self._by_prompt = by_prompt
        self.batches = BatchBooks(by_prompt=by_prompt)
        self.reset()

    def reset(self) -> None:
        """Reset all counts except the requests in flight, whose ends go into the new counts."""
        self.requests = 0
        self.answered = 0
        self.requests_by_prompt: dict[str, int] = {}
        self.answered_by_prompt: dict[str, int] = {}
        self.by_route: dict[str, int] = {}
        self.inputs = self.embedded = 0
        self.inputs_by_text: dict[str, int] = {}
        self.embedded_by_text: dict[str, int] = {}
        self.by_key: dict[str, int] = {}
        self.by_status: dict[int, int] = {}
        self.in_flight: int = getattr(self, "in_flight", 0)
        self.peak_in_flight: int = self.in_flight
        self.dropped = self.hung = self.abandoned = 0
        self.lost = self.replies = 0
        self.by_fault: dict[str, int] = {}
        self.faults_by_prompt: dict[str, int] = {}
        self.by_form: dict[str, int] = {}
        self.forms_by_prompt: dict[str, list[str]] = {}
        self.refused_by_form: dict[str, int] = {}
        self.refused_by_prompt: dict[str, int] = {}
        self.unfit = 0
        self.without_truth = 0
        self.unfit_by_prompt: dict[str, int] = {}
        self.first_request: float | None = None
        self.last_request: float | None = None
        self.per_second: deque[int] = deque(maxlen=SECONDS_KEPT)
        self.per_second_start = 0
        self._admitted: dict[str, int] = {}
        self.batches.reset()

    def arrive(self, prompt: str | None, key: str, *further: str, route: str = "") -> None:
        """Record a request: its prompt and further ones, if it has any, a digest of its API key, and its route."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if prompt is not None and self._by_prompt:
            for each in (prompt, *further):
                _add(self.requests_by_prompt, each)
        if route:
            _add(self.by_route, route)
        _add(self.by_key, hashlib.sha256(key.encode()).hexdigest()[:12] if key else "none")
        self._tick()

    def take_inputs(self, texts: Sequence[str]) -> None:
        """Record the texts of an embeddings request, which has arrived."""
        self.inputs += len(texts)
        if self._by_prompt:
            for text in texts:
                _add(self.inputs_by_text, text)

    def embed(self, texts: Sequence[str]) -> None:
        """Record the answer to an embeddings request with these texts."""
        self.respond(200)
        self.answered += 1
        self.embedded += len(texts)
        if self._by_prompt:
            for text in texts:
                _add(self.embedded_by_text, text)

    def admit(self, prompt: str) -> int:
        """Record that a request was admitted; return how many of its prompt were admitted before.

        Without counts by prompt it returns the number of all requests: a retry still gets a new draw, but a run cannot
        be repeated.
        """
        if not self._by_prompt:
            return self.requests
        # Refusals are left out: their number depends on timing, and so the fates would.
        turn = self._admitted.get(prompt, 0)
        self._admitted[prompt] = turn + 1
        return turn

    def meet(self, fault: str, prompt: str) -> None:
        """Record that a request met a fault, which does not end it."""
        _add(self.by_fault, fault)
        if self._by_prompt:
            _add(self.faults_by_prompt, prompt)

    def ask_for(self, form: str, prompt: str) -> None:
        """Record the form that a request asks for."""
        _add(self.by_form, form)
        if self._by_prompt:
            self.forms_by_prompt.setdefault(prompt, []).append(form)

    def refuse_form(self, form: str, prompt: str) -> None:
        """Record that a request is refused for its form, which does not end it."""
        _add(self.refused_by_form, form)
        if self._by_prompt:
            _add(self.refused_by_prompt, prompt)

    def misfit(self, prompt: str) -> None:
        """Record that an answer is not what was asked for; how its request ends is recorded besides."""
        self.unfit += 1
        if self._by_prompt:
            _add(self.unfit_by_prompt, prompt)

    def miss_truth(self, _prompt: str) -> None:
        """Record an answer to a prompt whose true label is not known."""
        self.without_truth += 1

    def lose(self) -> None:
        """Record an answer that was made and will not arrive; how its request ends is recorded besides."""
        self.lost += 1

    def respond(self, status: int, prompt: str | None = None, *further: str) -> None:
        """Record a response, with its prompt and further ones if it is an answer."""
        self.in_flight -= 1
        _add(self.by_status, status)
        if prompt is not None:
            self.answered += 1
            if self._by_prompt:
                for each in (prompt, *further):
                    _add(self.answered_by_prompt, each)

    def reply(self, status: int) -> None:
        """Record a response that a fault gives."""
        self.replies += 200 <= status < 300
        self.respond(status)

    def drop(self) -> None:
        """Record a connection that was cut, with or without half a response."""
        self.in_flight -= 1
        self.dropped += 1

    def hang(self) -> None:
        """Record a request that will not be answered; it is in flight until `let_go`."""
        self.hung += 1

    def let_go(self) -> None:
        """Record that the client of a hung request has left."""
        self.in_flight -= 1

    def abandon(self) -> None:
        """Record that a client left before its answer."""
        self.in_flight -= 1
        self.abandoned += 1

    def _tick(self) -> None:
        now = self._clock()
        if self.first_request is None:
            self.first_request = now
        self.last_request = now
        second = max(int(now - self.first_request), self.per_second_start)
        behind = second - (self.per_second_start + len(self.per_second) - 1)
        if behind > 0:
            kept = len(self.per_second)
            self.per_second.extend([0] * min(behind, SECONDS_KEPT))
            self.per_second_start += max(kept + behind - SECONDS_KEPT, 0)
        # If the clock was set back, the request counts into an earlier second.
        self.per_second[second - self.per_second_start] += 1

    def to_dict(self) -> dict[str, Any]:
        """Copy the counts into a dictionary that JSON can hold; safe to call from another thread."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "dropped": self.dropped,
            "hung": self.hung,
            "abandoned": self.abandoned,
            "lost": self.lost,
            "replies": self.replies,
            "by_status": {str(status): count for status, count in list(self.by_status.items())},
            "by_route": dict(self.by_route),
            "by_key": dict(self.by_key),
            "by_fault": dict(self.by_fault),
            "requests_by_prompt": dict(self.requests_by_prompt),
            "answered_by_prompt": dict(self.answered_by_prompt),
            "inputs": self.inputs,
            "embedded": self.embedded,
            "inputs_by_text": dict(self.inputs_by_text),
            "embedded_by_text": dict(self.embedded_by_text),
            "faults_by_prompt": dict(self.faults_by_prompt),
            "by_form": dict(self.by_form),
            "forms_by_prompt": {prompt: list(forms) for prompt, forms in list(self.forms_by_prompt.items())},
            "refused_by_form": dict(self.refused_by_form),
            "refused_by_prompt": dict(self.refused_by_prompt),
            "unfit": self.unfit,
            "without_truth": self.without_truth,
            "unfit_by_prompt": dict(self.unfit_by_prompt),
            "per_second": list(self.per_second),
            "per_second_start": self.per_second_start,
            "first_request": self.first_request,
            "last_request": self.last_request,
            "batches": self.batches.to_dict(),
        }


def _add(counts: dict[Any, int], name: str | int) -> None:
    counts[name] = counts.get(name, 0) + 1
