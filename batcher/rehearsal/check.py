"""Compares the local server's books with the journal.

Invariant: it only reads, and takes neither's word for the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from batcher.records import Result, Status
from batcher.reports.verification.verify import Verification
from batcher.server.answers import core_of
from batcher.server.books import Books
from batcher.words import counted


class Check:
    """Compares the server's books with the journal.

    Args:
        asked: the texts that each row asks about; none of a row that cannot be asked.
        results: of the rows, as the journal has them.
        books: of the server.
        found: what `verify` says.
        is_deduplicated: rows with the same prompt share an answer.
        rows_in_flight: rows whose requests have no end in the journal; default: no two of them share one.
        samples: how many answers each row should have.
        repeated: the rows that were asked once more.
        second: the rows that a second endpoint was asked about as well.

    Attributes:
        unended: requests without an end in the journal.
        twice: answers that were bought a second time.
    """

    def __init__(
        self,
        asked: Sequence[Sequence[str]],
        results: Sequence[Result],
        books: Books,
        found: Verification,
        *,
        is_deduplicated: bool,
        rows_in_flight: int | None = None,
        samples: int = 1,
        repeated: Sequence[int] = (),
        second: Sequence[int] = (),
    ) -> None:
        # A row without a result is verify's business. A prompt may show a schema in one form, and none in another.
        self._rows = [([*map(core_of, texts)], result) for texts, result in zip(asked, results, strict=False)]
        self._books = books
        online = _by_core(books.answered_by_prompt) + _by_core(books.embedded_by_text)
        # An answer that no file of results holds was never there for the run.
        self._answered_by = online + _by_core(books.batches.billed_by_prompt)
        unfit = _by_core(books.unfit_by_prompt)
        self._met = {*_by_core(books.faults_by_prompt), *_by_core(books.refused_by_prompt), *unfit}
        self._sent, self._answered, self.unended = (
            sum(getattr(each, name) for each in found.endpoints) for name in ("sent", "answered", "in_flight")
        )
        self._rows_in_flight = self.unended if rows_in_flight is None else rows_in_flight
        needed = Counter(text for texts, result in self._rows if result.status is not Status.ERROR for text in texts)
        if is_deduplicated:
            needed = Counter(dict.fromkeys(needed, 1))
        needed += Counter(text for row in repeated for text in self._rows[row][0])
        beyond = Counter(text for row in second for text in self._rows[row][0])
        # An answer that was not what was asked for may be asked for again, in another form.
        fit = self._answered_by - unfit
        self.twice = sum(max(count - samples * needed[prompt] - beyond[prompt], 0) for prompt, count in fit.items())

    def disagreements(self) -> Iterator[str]:
        """Yield what does not fit."""
        books = self._books
        # A run cannot know whether a batch came to a line of which there is no result.
        received = books.requests + books.batches.billed + books.batches.refused
        given = books.answered + books.batches.billed
        if received > self._sent:
            yield f"the server received {counted(received, 'request')}, and the journal knows of {self._sent:,}"
        if self._answered > given + books.lost + books.replies:
            sent = f"sent {given:,}, lost {books.lost:,}, and sent {counted(books.replies, 'reply', 'replies')}"
            answers = counted(self._answered, "answer")
            yield f"the journal has {answers}, and the server {sent} of faults that may hold one"
        if self.twice > self._rows_in_flight:
            in_flight = counted(self._rows_in_flight, "row was", "rows were")
            yield f"{counted(self.twice, 'answer')} bought twice, and only {in_flight} in flight at a kill"
        for number, (texts, result) in enumerate(self._rows):
            if not texts:
                continue
            was_answered = all(text in self._answered_by for text in texts)
            met_fault = any(text in self._met for text in texts)
            if result.status is Status.ERROR and not met_fault:
                yield f"row {number} ended as error without a fault: {result.error}"
            if result.status is not Status.ERROR and not (was_answered or met_fault):
                yield f"row {number} has an answer that the server did not send"


def _by_core(counts: Mapping[str, int]) -> Counter[str]:
    """Return counts by prompt, of prompts without the schema that they may show."""
    found: Counter[str] = Counter()
    for prompt, count in counts.items():
        found[core_of(prompt)] += count
    return found
