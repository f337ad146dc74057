"""The faults of a rehearsal for which the user gives no file: a few of every kind.

Invariant: of what they do to a row, all but one pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from batcher.server.batch_rules import BatchRule, Place, Slip, State
from batcher.server.faults import Fate, FaultRule
from batcher.server.refusals import REFUSALS

# A rehearsal does not wait for longer until a silent stream is given up.
_SHORT_S = 10.0


def default_faults(prompts: Sequence[str], idle_s: float | None = None) -> tuple[FaultRule, ...]:
    """Return the faults of a rehearsal: a few of every kind, and one row that is refused for ever.

    Args:
        prompts: of the rows.
        idle_s: how long a stream may be silent; None: answers are not streamed.
    """
    rows, seen = len(prompts), Counter(prompts)
    burst = max(rows // 50, 1)
    # Not among the first three rows: at an endpoint that has never answered, refusals of two rows in the same words (of
    # three with HTTP 400 and 422) end a run.
    dislike = [prompt for prompt in prompts[rows // 2 :] if seen[prompt] == 1][:1] if rows > 3 else []

    def reply(service: str, case: str, **conditions: Any) -> FaultRule:
        return FaultRule(Fate.ERROR, REFUSALS[service][case], **conditions)

    return (
        *(reply("openai", "content", match=_exactly(prompt), name="one row is refused") for prompt in dislike),
        reply("openai", "rate", first=rows // 4, last=rows // 4 + burst, name="a rate limit (429)"),
        reply("openai", "key", first=rows // 3, last=rows // 3 + 1, name="a refusal that passes (401)"),
        reply("nginx", "unavailable", first=rows // 2, last=rows // 2 + burst, name="a proxy's page (503)"),
        reply("openai", "server", share=0.03, times=1, name="a server error (500)"),
        reply("nginx", "timeout", share=0.01, times=1, is_paid=True, name="a proxy's page (504), after the answer"),
        FaultRule(Fate.CUT, share=0.01, times=1, name="a response cut half way"),
        FaultRule(Fate.DROP, share=0.01, times=1, name="a connection cut"),
        FaultRule(Fate.ANSWER, delay=1.0, share=0.02, times=1, name="a slow answer (1 s)"),
        *_of_streams(idle_s),
    )


def default_batch_faults() -> tuple[BatchRule, ...]:
    """Return the faults of batches in a rehearsal: a few of every kind, of which each is over after a while."""

    def once(at: Place, does: Fate, **more: Any) -> BatchRule:
        return BatchRule(at=at, does=does, times=1, **more)

    busy = REFUSALS["nginx"]["unavailable"]
    return (
        once(Place.CREATE, Fate.DROP, is_done=True, name="a batch is made, and the connection cut"),
        once(Place.UPLOAD, Fate.DROP, is_done=True, first=2, name="an upload is kept, and the connection cut"),
        once(Place.LOOK, Fate.ERROR, reply=busy, first=2, name="a proxy's page (503)"),
        once(Place.CONTENT, Fate.CUT, name="results that break off"),
        BatchRule(end=State.EXPIRED, answered=0.6, times=1, name="a batch expires, six tenths answered"),
        BatchRule(lines=Slip.DROP, share=0.03, times=3, name="a line without a result"),
        BatchRule(lines=Slip.DOUBLE, share=0.05, times=3, name="a line with two results"),
        BatchRule(lines=Slip.FOREIGN, share=0.05, times=3, name="a result that fits no line"),
    )


def _of_streams(idle_s: float | None) -> Iterator[FaultRule]:
    if idle_s is not None:
        yield FaultRule(Fate.BREAK, share=0.02, times=1, name="an error in the middle of a stream")
        if idle_s <= _SHORT_S:
            yield FaultRule(Fate.STALL, share=0.01, times=1, name="a stream that falls silent")


def _exactly(prompt: str) -> str:
    return rf"\A{re.escape(prompt)}\Z"
