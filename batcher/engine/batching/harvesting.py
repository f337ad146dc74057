"""The harvest of a batch that is over: its output and error file are read, and each of its lines gets its end.

Invariant: a row gets the answer of its own line and no other. What was harvested is in the journal before it counts, so
that a harvest which was broken off is done again, and skips what has its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batcher.engine.progress import Progress, Tally
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.records import Failure
from batcher.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from batcher.answer.shape import Shape
    from batcher.calls.batch_service import BatchService, Remote
    from batcher.engine.canary import Canary
    from batcher.journal.entries import Batch
    from batcher.pool.member import Member
    from batcher.records import Completion, Result


class Harvest(NamedTuple):
    """What came of a batch.

    Attributes:
        answered: lines whose answer is a row's result, or one of several, or a late one.
        unfit: lines whose answer did not fit, and whose row is asked again.
        failed: lines that were refused or failed at the service.
        ended: of these, the rows that ended as error.
        expired, cancelled: lines that the service did not ask: they cost nothing, and their rows are left to ask.
        lost: lines about which the files of a completed batch say nothing: they may be billed.
        late: of the answered lines, those whose row had a result already.
        doubled, strangers: lines of the files that are there twice, or that are no line of the batch.
        refused: why every line was refused, if it was, and nothing shows that this endpoint answers at all; else empty.
        looks_wrong: why the run should stop because of the answers so far (the canary); else empty.
    """

    answered: int = 0
    unfit: int = 0
    failed: int = 0
    ended: int = 0
    expired: int = 0
    cancelled: int = 0
    lost: int = 0
    late: int = 0
    doubled: int = 0
    strangers: int = 0
    refused: str = ""
    looks_wrong: str = ""


class Harvester:
    """Harvests the batches of a run, one after the other.

    Args:
        journal: has the lines, and gets their ends.
        settings: the options: attempts, repairs, thoughts, the longest response.
        directory: the output directory, into which results are downloaded.
        keyword: of the run.
        shape: what answers must be; None: any text will do.
        read: reads an answer; default: by the shape.
        scores: lines ask for log-probabilities.
        is_one_of_several: an answer is not yet its row's result (`--samples` above 1, or `--then`): it is recorded as
            an opinion, and a pass of the window makes the result.
        spending: gets back what lines did not cost.
        tally: counts rows, tokens and money.
        progress: shows messages.
        canary: looks at the answers; None: nobody does.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        *,
        directory: Path,
        keyword: str,
        shape: Shape | None = None,
        read: Callable[[Completion], Result] | None = None,
        scores: bool = False,
        is_one_of_several: bool = False,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        canary: Canary | None = None,
    ) -> None:
        raise NotImplementedError

    async def harvest(
        self, batch: Batch, remote: Remote | None, service: BatchService, member: Member
    ) -> Harvest | Failure:
        """Give each line of a batch that is over its end, and the batch the state `DONE`.

        The tariff of the member is the online one; lines cost its `in_batches()`. What the lines were charged until
        now, their bounds, counts as spent: the harvest gives back what they did not cost (`Spending.give_back`).

        Args:
            batch: as the journal has it.
            remote: as the service says it; it is over. None: the service does not know it any more, and it is given up:
                every line is lost, and may be billed.
            service: of its endpoint.
            member: its endpoint.

        Returns:
            What came of it; or why a file could not be downloaded: then the harvest is to be tried again. What was
            harvested until then stays.

        Raises:
            OutputError: the journal, or a file in the output directory, cannot be written.
        """
        raise NotImplementedError

    def step_of(self, member: Member, position: int) -> int:
        """Return the first form in which a row may be asked (`FormChoice.wire`), after answers that did not fit."""
        raise NotImplementedError
