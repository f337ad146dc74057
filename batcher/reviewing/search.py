"""Searches the text of all rows: the input's cells, the answer and the error, whatever the case of their letters.

Invariant: the search that was asked for last goes first, a block of rows at a time, so that it is never behind an older
one; what is found so far can be read at any moment.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from batcher.errors import BatcherError
from batcher.journal.looking import Looks
from batcher.reviewing.index import Bits
from batcher.reviewing.table import Reading, Table

_AT_ONCE = 500  # rows
_MOST = 6
"""Searches that are held, a byte a row each; the one that was not asked for the longest is dropped."""


class Search:
    """A text that is searched for.

    Args:
        text: it.
        rows: of the table.

    Attributes:
        done: rows that were searched, from the first.
        hits: which rows have it.
    """

    def __init__(self, text: str, rows: int) -> None:
        self.text = text.casefold()
        self.done = 0
        self.hits: Bits = np.zeros(rows, np.bool_)
        self._late: set[int] = set()  # rows that have changed while they may have been searched
        self._lock = threading.Lock()

    @property
    def searching(self) -> Reading | None:
        """How far it is; None if it is done."""
        return None if self.done >= len(self.hits) else Reading(self.done, len(self.hits))

    def go_on(self, table: Table, looks: Looks, stop: int) -> None:
        """Search the next rows, up to one.

        Raises:
            OutputError: the journal or the table cannot be read.
        """
        start = self.done
        self._look(table, looks, start, stop)
        with self._lock:
            self.done = stop
            late = [position for position in self._late if position < stop]
        for position in late:
            self._look(table, looks, position, position + 1)
        with self._lock:
            self._late.difference_update(late)

    def renew(self, table: Table, looks: Looks, positions: Iterable[int]) -> None:
        """Search rows again that have changed; those that come later, or are being searched just now, in their turn.

        Raises:
            OutputError: the journal or the table cannot be read.
        """
        wanted = {*positions}
        with self._lock:
            later = {position for position in wanted if position >= self.done}
            self._late |= {position for position in later if position < self.done + _AT_ONCE}
        for position in wanted - later:
            self._look(table, looks, position, position + 1)

    def _look(self, table: Table, looks: Looks, start: int, stop: int) -> None:
        """Search some rows: first in all of them at once, which is a tenth of the work, and often enough."""
        self.hits[start:stop] = False
        if self.text in table.text_of(start, stop).casefold():
            self._hit(table.between(start, stop).items())
        whole = looks.look(lambda journal: journal.text_of(start, stop))
        if whole is None or self.text in whole.casefold():
            self._hit(looks.look(lambda journal: journal.texts_between(start, stop)))

    def _hit(self, texts: Iterable[tuple[int, str]]) -> None:
        wanted = self.text
        found = [position for position, text in texts if wanted in text.casefold()]
        self.hits[found] = True


class Searches:
    """The searches of a page, and the thread that does them.

    Args:
        table: has the cells.
        looks: at the journal.
        stops: says when to end.
    """

    def __init__(self, table: Table, looks: Looks, stops: Callable[[], bool]) -> None:
        self._table = table
        self._looks = looks
        self._stops = stops
        self._asked: OrderedDict[str, Search] = OrderedDict()
        self._work = threading.Condition()

    def for_text(self, text: str) -> Search:
        """Return the search for a text, which goes on first from now on."""
        with self._work:
            found = self._asked.pop(text, None) or Search(text, self._table.rows)
            self._asked[text] = found
            while len(self._asked) > _MOST:
                self._asked.popitem(last=False)
            self._work.notify_all()
        return found

    def renew(self, positions: Iterable[int]) -> None:
        """Search rows again that have changed."""
        wanted = [*positions]
        with self._work:
            searches = [*self._asked.values()]
        for each in searches:
            each.renew(self._table, self._looks, wanted)

    def work(self) -> None:
        """Search until the page ends."""
        while not self._stops():
            search = self._next()
            if search is None:
                continue
            stop = min(search.done + _AT_ONCE, self._table.done, len(search.hits))
            try:
                search.go_on(self._table, self._looks, stop)
            except BatcherError:  # the journal is being written, or has gone: the list says so
                with self._work:
                    self._work.wait(0.5)

    def _next(self) -> Search | None:
        """Return the open search that was asked for last; None after a while without one."""
        with self._work:
            for search in reversed(self._asked.values()):
                if search.done < min(self._table.done, len(search.hits)):
                    return search
            self._work.wait(0.2)
        return None
