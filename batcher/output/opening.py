"""Opens the files that earlier runs of a keyword left, for reading.

Invariant: nothing is created or changed, and an error names what is missing.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from batcher.checks import check_directory
from batcher.errors import OutputError
from batcher.input.column_names import like
from batcher.journal.entries import LastRun
from batcher.journal.reading import Reader
from batcher.output.directory import Store, journals_in
from batcher.output.shards import NotBegunError, merge_first
from batcher.settings import check_keyword, home_expanded
from batcher.words import blamed

R = TypeVar("R", bound=Reader)

_MOST_SHOWN = 10  # keywords in a message
_NEAR = 0.6
"""How alike two keywords are (`difflib`, from 0 to 1) if one may be a slip for the other."""


class PastRun(NamedTuple, Generic[R]):
    """The files that runs of a keyword left in a directory.

    Attributes:
        store: the files; their columns are unknown at first.
        journal: open to be read.
    """

    store: Store
    journal: R

    def last(self) -> LastRun:
        """Return the latest run.

        Raises:
            NotBegunError: there was none.
            OutputError: the journal is damaged.
        """
        last = self.journal.last_run()
        if last is None:
            raise NotBegunError(f"{self.store.journal_path} holds no run yet")
        return last


@contextlib.contextmanager
def opened(keyword: str, output_dir: str | os.PathLike[str], read: Callable[[Path], R]) -> Iterator[PastRun[R]]:
    """Open the journal of a keyword for reading.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        read: opens the journal, such as `journal.opening.read_journal`.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: there is no run, or its journal cannot be read.
    """
    check_keyword(keyword)
    check_directory(output_dir, blamed("output_dir"))
    store = Store(Path(home_expanded(output_dir)), keyword)
    if not store.journal_path.exists():
        if advice := merge_first(store.directory, keyword):
            raise OutputError(advice)
        raise OutputError(f"there is no run {keyword!r} in {store.directory}{_instead(store)}")
    with read(store.journal_path) as journal:
        yield PastRun(store, journal)


def _instead(store: Store) -> str:
    """Return the end of a message about a missing run: the keyword that is probably meant, and those that there are."""
    keyword, there = store.keyword, {}
    with contextlib.suppress(OSError):
        there = journals_in(store.directory)
    if not there:
        return f": {store.journal_path} does not exist"
    folded = {name.casefold(): name for name in there}
    near = difflib.get_close_matches(keyword.casefold(), folded, _MOST_SHOWN, _NEAR)
    similar = [*like(keyword, [*there]), *(folded[each] for each in near)]
    meant = f" (did you mean {similar[0]!r}?)" if similar else ""
    nearest = list(dict.fromkeys([*similar, *there]))
    if len(nearest) == 1:
        return f"{meant}; its only run is {nearest[0]!r}"
    more = f" and {len(nearest) - _MOST_SHOWN:,} more" if len(nearest) > _MOST_SHOWN else ""
    return f"{meant}; its runs are: {', '.join(map(repr, nearest[:_MOST_SHOWN]))}{more}"
