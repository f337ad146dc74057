"""Writes the body of a request: of one that is sent by itself, and of a line in a batch's file.

Invariant: what the user wrote is sent as it is. The same row has the same body, byte for byte, whichever way it goes,
apart from what only a stream needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batcher.records import Message, Task, Terms

PATHS = {Task.CHAT: "chat/completions", Task.COMPLETION: "completions", Task.EMBEDDING: "embeddings"}
"""The place of each task below a base URL."""

# The name of what a row asks in a request's body.
_ASKED = {Task.CHAT: "messages", Task.COMPLETION: "prompt", Task.EMBEDDING: "input"}


class RequestBody:
    """Writes the bodies of an endpoint's requests; what is the same for many, such as a schema, is written once.

    Args:
        model: the model's name.
        params: request parameters, sent under the names given; `model` among them goes before the other.
    """

    def __init__(self, model: str, params: Mapping[str, Any]) -> None:
        self._params = dict(params)
        self._model = self._params.pop("model", model)
        self._begun = {task: f'{{"model": {json.dumps(self._model)}, "{name}": ' for task, name in _ASKED.items()}
        # The parameters of a request as JSON, by the object of the further ones, which is kept so that its id is.
        self._written: dict[tuple[Task, int], tuple[str, Mapping[str, Any]]] = {}

    def forget(self) -> None:
        """Write the parameters anew from now on: what is added to requests has changed."""
        self._written.clear()

    def of(
        self, messages: Sequence[Message], added: Mapping[str, Any], further: Mapping[str, Any], terms: Terms
    ) -> bytes:
        """Return a body, in ASCII: half of a surrogate pair cannot be sent otherwise.

        Args:
            messages: of the row.
            added: the parameters that batcher adds; always the same for a task, until `forget` is called.
            further: further parameters; if there are many calls, always the same few objects.
            terms: how the row asks.
        """
        asked = asked_in(messages, terms.task)
        if terms.params:
            body = {"model": self._model, _ASKED[terms.task]: asked, **self._params, **added, **further, **terms.params}
            return json.dumps(body).encode()
        rest = self._written.get((terms.task, id(further)))
        if rest is None:
            parts = json.dumps({**self._params, **added, **further})[1:]
            rest = self._written[terms.task, id(further)] = (", " if len(parts) > 1 else "") + parts, further
        return f"{self._begun[terms.task]}{json.dumps(asked)}{rest[0]}".encode()


def asked_in(messages: Sequence[Message], task: Task) -> Any:
    """Return what a request asks: messages, a text, or the texts of several rows that share it."""
    if task is Task.CHAT:
        return messages
    contents = [message["content"] for message in messages]
    return contents[0] if len(contents) == 1 else contents
