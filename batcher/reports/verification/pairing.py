"""Pairs two readings of the same rows, of which either may lack rows or have extra rows.

Invariant: every item of both is returned once and in its order, in time linear in their number and with at most two
windows of them in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

E = TypeVar("E")
F = TypeVar("F")
T = TypeVar("T")

_WINDOW = 1000
"""The most missing or extra rows in one place; a longer gap looks like changed rows."""

_CONFIRMED_BY = 4
"""The rows that must fit after a gap: if two rows have changed places, one fits by chance."""

# A search for a gap costs up to two windows of comparisons. This many may fail, and one more per _ROWS_PER_TRY rows.
_TRIES = 200
_ROWS_PER_TRY = 200


def aligned(
    expected: Iterable[E], found: Iterable[F], same: Callable[[E, F], bool]
) -> Iterator[tuple[E | None, F | None]]:
    """Pair expected items with found items.

    If two items differ, rows of one side are skipped if the rows after them then fit. Otherwise the two have changed
    places, or one was edited, and they are returned as a pair.

    Args:
        expected: items, none of them None.
        found: items, none of them None.
        same: returns whether two items are the same row.

    Yields:
        Pairs; the right one is None if an item is missing, the left one is None for an extra item.
    """
    left, right = _Ahead(expected), _Ahead(found)
    rows, failed = 0, 0
    while (this := left.take()) is not None:
        other = right.take()
        rows += 1
        if other is None or same(this, other) or failed > _TRIES + rows // _ROWS_PER_TRY:
            yield this, other
            continue
        missing, extra = _shift([this, *left.ahead()], [other, *right.ahead()], same)
        failed += not missing and not extra
        if extra:
            yield None, other
            left.put_back(this)
            yield from ((None, right.take()) for _ in range(extra - 1))
        elif missing:
            yield this, None
            right.put_back(other)
            yield from ((left.take(), None) for _ in range(missing - 1))
        else:
            yield this, other
    while (other := right.take()) is not None:
        yield None, other


class _Ahead(Generic[T]):
    """Items one by one, with a look-ahead."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._seen: deque[T] = deque()

    def take(self) -> T | None:
        return self._seen.popleft() if self._seen else next(self._items, None)

    def put_back(self, item: T) -> None:
        self._seen.appendleft(item)

    def ahead(self) -> deque[T]:
        self._seen.extend(islice(self._items, max(_WINDOW - len(self._seen), 0)))
        return self._seen


def _shift(left: Sequence[E], right: Sequence[F], same: Callable[[E, F], bool]) -> tuple[int, int]:
    """Return the fewest items to skip on the left, or on the right, after which both sides agree."""

    def go_on_alike(from_left: int, from_right: int) -> bool:
        ours = left[from_left : from_left + _CONFIRMED_BY]
        theirs = right[from_right : from_right + _CONFIRMED_BY]
        return len(ours) == len(theirs) and all(map(same, ours, theirs))

    for count in range(1, max(len(left), len(right))):
        if count < len(left) and same(left[count], right[0]) and go_on_alike(count, 0):
            return count, 0
        if count < len(right) and same(left[0], right[count]) and go_on_alike(0, count):
            return 0, count
    return 0, 0
