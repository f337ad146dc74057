"""Reads what the first endpoints said about rows, and how certain that is, also of rows that a second one answered.

Invariant: it only reads; a row whose first answer is not known is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from batcher.journal.corrections import AS_ANSWERED, BY_HAND
from batcher.journal.reading import ROOT
from batcher.journal.rules import listed
from batcher.journal.sampling import SampleReader
from batcher.journal.schema import IN_SCOPE, text_of, waiting

# Scores in steps, downwards, so that they are not as many as rows.
_STEP = "cast(score * 100000 AS INTEGER) / 100000.0"


class FirstAnswer(NamedTuple):
    """What the first endpoints said about a row.

    Attributes:
        position: of the row.
        score: the confidence or the agreement, in steps of 0.00001; None if it is not known, or the answer is not `ok`.
        answer: that counts of them; None if it is not `ok`.
        second: the answer of the second endpoint; None if there is none that is `ok`.
    """

    position: int
    score: float | None
    answer: str | None
    second: str | None


class ScoreReader(SampleReader):
    """Reads a journal with the samples and the scores in it."""

    def count_scores(self, second: Collection[int], *, by_confidence: bool) -> dict[float | None, int]:
        """Count the rows by the score of their first answers; under None those without one.

        Args:
            second: ids of the sources that are not first.
            by_confidence: the score is the confidence, and not the agreement.
        """
        query = f"SELECT {_STEP}, count(*) FROM ({_firsts(second, by_confidence=by_confidence)}) GROUP BY 1"
        return dict(self._all(query))

    def first_answers(
        self, positions: Iterable[int], second: Collection[int], *, by_confidence: bool
    ) -> dict[int, FirstAnswer]:
        """Return what the first endpoints said about rows, by their positions.

        Args:
            positions: of the rows.
            second: ids of the sources that are not first.
            by_confidence: the score is the confidence, and not the agreement.
        """
        firsts = _firsts(second, by_confidence=by_confidence)
        found = self.look_up(
            f"SELECT position, {_STEP}, answer, second FROM ({firsts}) WHERE position IN ({{}})", sorted({*positions})
        )
        return {
            position: FirstAnswer(position, score, *(None if text is None else text_of(text) for text in texts))
            for position, score, *texts in found
        }


def _firsts(second: Collection[int], *, by_confidence: bool) -> str:
    """Return the query for the first answers to rows.

    A row's result is one, made of one answer or of several; or it is a second endpoint's, and the first ones are beside
    it; or the row has no result, because its first answers wait for the second one's.
    """
    is_second = f"source IN ({listed(second)})"
    score = "coalesce(v.confidence, s.confidence)" if by_confidence else "v.for_it * 1.0 / v.answers"
    of_second = "v.confidence" if by_confidence else "v.for_it * 1.0 / v.answers"
    # The answer that most agree on; of those that equally many do, the one that came first.
    chosen = (
        "SELECT p.answer FROM opinions p WHERE {} AND p.round = 0 AND p.status = 'ok'"
        f" AND NOT p.{is_second} GROUP BY p.answer ORDER BY count(*) DESC, min(p.id) LIMIT 1"
    )
    ok = "iif(a.status = 'ok', a.answer, NULL)"
    of_row = f"{waiting('p')} AND p.key = r.key AND p.position = r.position"
    return (
        f"SELECT r.position, iif(a.status = 'ok', {score}, NULL) AS score, {ok} AS answer, NULL AS second"
        f" FROM {AS_ANSWERED} r"
        " JOIN results a ON a.id = r.result LEFT JOIN votes v ON v.id = a.id"
        f" LEFT JOIN responses s ON s.id = {ROOT.format('a.id')}"
        f" WHERE r.{IN_SCOPE} AND r.is_kept IS NULL AND a.status <> 'error' AND a.source NOT IN {BY_HAND}"
        f" AND NOT a.{is_second}"
        f" UNION ALL SELECT r.position, {of_second}, ({chosen.format('p.result = a.id')}), {ok} FROM {AS_ANSWERED} r"
        " JOIN results a ON a.id = r.result JOIN votes v ON v.id = a.id"
        f" WHERE r.{IN_SCOPE} AND r.is_kept IS NULL AND a.{is_second}"
        f" UNION ALL SELECT r.position, {_OF_WAITING[by_confidence]}, ({chosen.format(of_row)}), NULL FROM rows r"
        f" WHERE r.{IN_SCOPE} AND r.result IS NULL AND EXISTS (SELECT 1 FROM opinions p WHERE {of_row})"
    )


# The score of answers that wait: of the one that most agree on.
_WAITING = (
    f"SELECT {{}} FROM opinions p LEFT JOIN responses s ON s.id = {ROOT.format('p.id')}"
    f" WHERE {waiting('p')} AND p.key = r.key"
    " AND p.position = r.position AND p.round = 0 AND p.status = 'ok' GROUP BY p.answer"
    " ORDER BY count(*) DESC, min(p.id) LIMIT 1"
)
_ALL = (
    f"(SELECT count(*) FROM opinions w WHERE {waiting('w')} AND w.key = r.key AND w.position = r.position"
    " AND w.round = 0 AND w.status <> 'error')"
)
_OF_WAITING = {
    True: f"({_WAITING.format('avg(s.confidence)')})",
    False: f"({_WAITING.format(f'count(*) * 1.0 / {_ALL}')})",
}
