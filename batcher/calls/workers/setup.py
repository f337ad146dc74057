"""What a worker needs to make the calls of a run.

Invariant: neither its `repr` nor anything but `packed` shows an API key.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batcher.calls.caller import Streaming
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.version import __version__


@dataclass(frozen=True)
class Setup:
    """The arguments of `ChatCallers`, and the endpoints.

    Attributes:
        endpoints: of the pool, in its order.
        params: the request parameters of every row.
        offline_url: the base URL of the embedded server, if endpoints need it.
        most_bytes: the most bytes of a response, unpacked.
        streaming: ask for streamed answers, which may be silent for so long.
        scores: ask for the log-probabilities of the tokens of answers.
    """

    endpoints: Sequence[Endpoint] = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)
    offline_url: str | None = None
    most_bytes: int = 64_000_000
    streaming: Streaming | None = None
    scores: bool = False

    def packed(self) -> bytes:
        """Return it as bytes, API keys included: they go to workers as an argument of a call, and nowhere else.

        Raises:
            SettingsError: an endpoint has a chat model of the user's, which cannot travel.
        """
        if any(each.llm is not None for each in self.endpoints):
            raise SettingsError(
                "a chat model in Endpoint(llm=...) stays in this process: leave ray= out, or give the endpoint's"
                " base_url and model"
            )
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)


VERSIONS = f"batcher {__version__}, Python {sys.version_info.major}.{sys.version_info.minor}"
"""What a worker and this process must have in common: what passes between them has no form of its own."""
