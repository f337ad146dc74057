"""The labels of the caller's rows: the index of a DataFrame or a Series, by which its rows are known again.

Invariant: the table itself is not kept alive, and a table whose rows may be others by now is refused.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError
from batcher.words import counted

if TYPE_CHECKING:
    import pandas as pd


class Labels:
    """The index of a table at the start of a run.

    pandas never changes an index: to add, drop or reorder rows it gives the table another one.

    Args:
        name: of the table, for messages.
        table: the caller's own.

    Attributes:
        name: of the table.
        index: its labels; the memory is the table's own.
    """

    def __init__(self, name: str, table: pd.DataFrame | pd.Series[Any]) -> None:
        self.index: pd.Index[Any] = table.index
        self.name = name
        self._table = weakref.ref(table)

    @property
    def are_numbers(self) -> bool:
        """Whether they are the numbers of the rows, which any other table may have, too."""
        import pandas as pd  # noqa: PLC0415 - whoever has an index has loaded pandas

        return isinstance(self.index, pd.RangeIndex) and self.index.start == 0 and self.index.step == 1

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
            what = "its index was replaced" if len(table) == len(self.index) else f"it had {before}, and has {now} now"
            raise InputError(
                f"{self.name} was changed since the run began: {what}. So its rows can no longer be matched with"
                " their answers: call run with it again (an answered row costs nothing), and use that report"
            )
        return table

    def own_table(self) -> pd.DataFrame | pd.Series[Any]:
        """Return the table.

        Raises:
            InputError: its rows were changed, or it is gone.
        """
        table = self.table()
        if table is None:
            raise InputError(
                f"{self.name} is gone, and no file holds all of its rows yet: report.answers has their answers; or"
                " keep it in a variable, and call run with it again"
            )
        return table
