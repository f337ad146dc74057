"""What came of cancelling the batches of a run.

Invariant: it is a value, and says what the journal has of the batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from batcher.journal.entries import BatchCounts
from batcher.money.prices import NANO
from batcher.tables import Described, Line
from batcher.words import counted, dollars


@dataclass(frozen=True, kw_only=True)
class Cancellation(Described):
    """What came of cancelling the batches of a run.

    Attributes:
        keyword: of the run.
        batches: that were out.
        open: those of them that are still out: their services have not said yet that they are over, or cannot be asked.
        answered: rows whose answers were fetched, those that do not fit included.
        failed: rows that their service refused, or could not answer.
        cancelled: rows that their service had not asked, or that never left; they cost nothing.
        lost: rows about which nothing came although they may be billed.
        cost_usd: US dollars for the answers, as far as prices are known.
        uncertain_usd: the most US dollars that the other rows may be billed.
        left: rows of the run that have no result.
        trouble: why batches are still out although it was not asked to leave them; else empty.
    """

    keyword: str
    batches: int
    open: int
    answered: int
    failed: int
    cancelled: int
    lost: int
    cost_usd: float
    uncertain_usd: float
    left: int
    trouble: str = ""

    @classmethod
    def of(
        cls, keyword: str, counts: Sequence[BatchCounts], ids: Collection[int], left: int, *, trouble: str = ""
    ) -> Self:
        """Return what the journal has of some batches.

        Args:
            keyword: of the run.
            counts: of all batches of the journal.
            ids: of the batches that were out. Halves of one that was too large count with it.
            left: rows without a result.
            trouble: as the attribute.
        """
        first = min(ids, default=0)
        mine = [each for each in counts if each.batch.id in ids or (each.batch.id > first and each.batch.is_open)]
        return cls(
            keyword=keyword,
            batches=len(mine),
            open=sum(each.batch.is_open for each in mine),
            answered=sum(each.answered + each.unfit for each in mine),
            failed=sum(sum(each.failed.values()) for each in mine),
            cancelled=sum(each.expired + each.cancelled + each.unsent for each in mine),
            lost=sum(each.lost for each in mine),
            cost_usd=sum(each.cost for each in mine) / NANO,
            uncertain_usd=sum(each.uncertain for each in mine) / NANO,
            left=left,
            trouble=trouble,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold."""
        return asdict(self)

    def _title(self) -> str:
        if not self.open and self.lost and not (self.answered or self.failed or self.cancelled):
            return f"{self.keyword}: {counted(self.batches, 'batch', 'batches')} given up"
        if not self.open:
            return f"{self.keyword}: {counted(self.batches, 'batch', 'batches')} cancelled and fetched"
        being = "is being cancelled" if self.open == 1 else "are being cancelled"
        return f"{self.keyword}: {self.open:,} of {counted(self.batches, 'batch', 'batches')} {being}"

    def _lines(self) -> Iterator[Line]:
        names = ("answered", "failed", "cancelled", "lost")
        parts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        yield Line("rows", ", ".join(parts) or "nothing has come back yet")
        money = [f"{dollars(round(self.cost_usd * NANO))} for answers"] if self.cost_usd else []
        if self.uncertain_usd:
            money.append(f"at most {dollars(round(self.uncertain_usd * NANO))} without one")
        if money:
            yield Line("money", ", ".join(money))
        yield Line("left", f"{counted(self.left, 'row')} without a result")
        if self.trouble:
            yield Line("because", self.trouble)
