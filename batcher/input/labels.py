"""The labels of the caller's rows: the index of a DataFrame or a Series, by which its rows are known again.

Invariant: a DataFrame is not kept alive, and a table whose rows may be others by now is refused, or doubted aloud.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from batcher.errors import InputError
from batcher.words import counted

if TYPE_CHECKING:
    import pandas as pd


class Labels:
    """The index of a table at the start of a run.

    pandas never changes an index: to add, drop or reorder rows it gives the table another one. Tables with the same
    rows share an index by identity, as do a DataFrame and its columns.

    Args:
        name: of the table, for messages.
        table: the caller's own. Of a Series the values are kept: `df["text"]` is gone as soon as the run has ended.

    Attributes:
        name: of the table.
        index: its labels; the memory is the table's own.
    """

    _alive: ClassVar[weakref.WeakSet[Labels]] = weakref.WeakSet()

    def __init__(self, name: str, table: pd.DataFrame | pd.Series[Any]) -> None:
        self.index: pd.Index[Any] = table.index.view()  # a view of our own, so that users can be counted
        self.name = name
        self._table = weakref.ref(table)
        self._values: tuple[Any, Any] | None = None if table.ndim > 1 else (table.array, table.name)
        self._alive.add(self)

    def doubt(self) -> str:
        """Return why the labels may stand for other rows by now; empty if the table is there, or no others do."""
        if self._table() is not None or (self._values and self._is_used_elsewhere()):
            return ""
        if not self.index.is_unique:
            return (
                "its labels occur more than once: the answers go by the order of its rows. A table that was sorted or"
                " filtered since may have other rows at these labels"
            )
        if self.are_numbers or self._are_numbers_in_any_order():
            return (
                "its labels are row numbers: the answers belong to its rows, in its order. A table that was filtered or"
                " sorted since and numbered anew (reset_index) has other rows at these numbers"
            )
        return ""

    @property
    def are_numbers(self) -> bool:
        """Whether they are the numbers of the rows, which any other table may have, too."""
        import pandas as pd  # noqa: PLC0415 - whoever has an index has loaded pandas

        return isinstance(self.index, pd.RangeIndex) and self.index.start == 0 and self.index.step == 1

    def _are_numbers_in_any_order(self) -> bool:
        """Return whether they are the numbers of shuffled rows."""
        index = self.index
        return index.dtype.kind in "iu" and len(index) > 0 and index.min() == 0 and index.max() == len(index) - 1

    def _is_used_elsewhere(self) -> bool:
        """Return whether the caller still has a table with this very index."""
        import pandas as pd  # noqa: PLC0415 - whoever has an index has loaded pandas

        ours = sum(each.index.is_(self.index) for each in self._alive)
        return _users(self.index) - ours > _users(pd.Index([0])) - 1

    def at(self, position: int) -> object:
        """Return the label of a row, as a value of Python."""
        [label] = self.index[position : position + 1].tolist()
        return label

    def table(self) -> pd.DataFrame | pd.Series[Any] | None:
        """Return the table; None if it is gone.

        Raises:
            InputError: its rows were changed.
        """
        table = self._table()
        if table is not None and not table.index.is_(self.index):
            before, now = counted(len(self.index), "row"), counted(len(table), "row")
            is_as_long = len(table) == len(self.index)
            raise self.changed("its index was replaced" if is_as_long else f"it had {before}, and has {now} now")
        if table is None and self._values:
            import pandas as pd  # noqa: PLC0415 - whoever has an index has loaded pandas

            values, name = self._values
            return pd.Series(values, index=self.index, name=name, copy=False)
        return table

    def changed(self, what: str) -> InputError:
        """Return the error to raise if the table is not the one that was asked."""
        return InputError(
            f"{self.name} was changed since the run began: {what}. So its rows can no longer be matched with their"
            " answers: call run with it again (an answered row costs nothing), and use that report"
        )


def _users(index: pd.Index[Any]) -> int:
    # All views of an index share the object by which `Index.is_` knows them.
    return sys.getrefcount(index._id)  # type: ignore[attr-defined]  # noqa: SLF001 - pandas has no other way to know
