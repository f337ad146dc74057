"""Checks that answer and reasoning are what the response held, for answers that came with a thought.

Invariant: the response that the journal keeps is read again as the run read it; what else is in it is not judged.
"""

from __future__ import annotations

import zlib

from batcher.calls.dialect import answer_in
from batcher.journal.evidence import Evidence
from batcher.planning.job import ROWS_AT_ONCE
from batcher.records import Completion
from batcher.reports.verification.findings import Kind
from batcher.reports.verification.rows import Row

_HIDDEN = "[API key]"


class Thoughts:
    """Checks the answers that came with a thought; rows come in order."""

    def __init__(self, journal: Evidence) -> None:
        self._journal = journal
        self._stop = 0
        self._ahead: dict[int, tuple[bytes, bytes, bytes]] = {}

    def check(self, row: Row) -> Kind | None:
        """Return the fault of a row's answer, or None."""
        if row.position >= self._stop:
            self._stop = row.position + ROWS_AT_ONCE
            found = self._journal.thoughts(row.position, self._stop)
            self._ahead = {position: (answer, reasoning, body) for position, answer, reasoning, body in found}
        kept = self._ahead.pop(row.position, None)
        return Kind.BODY_OTHER if kept and not _holds(*kept) else None


def _holds(answer: bytes, reasoning: bytes, body: bytes) -> bool:
    """Return whether a response, read again, gives these texts, with the thoughts apart or as they came."""
    try:
        wanted = (answer.decode("utf-8", "surrogatepass"), reasoning.decode("utf-8", "surrogatepass"))
        raw = zlib.decompress(body)
    except (UnicodeDecodeError, zlib.error):  # a disk has changed it
        return False
    if any(_HIDDEN in text for text in wanted):
        return True  # a key was hidden in each of them by itself
    read = (answer_in(200, {}, raw, wants_all=wants_all) for wants_all in (False, True))
    found = [each for each in read if isinstance(each, Completion)]
    found += [each.as_it_came for each in found if each.as_it_came]
    return wanted in [(each.text or "", each.reasoning) for each in found]
