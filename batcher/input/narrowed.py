"""A table in memory that has more columns than when it was asked: `df["label"] = report.answers` adds one.

Invariant: the columns that are left are those of the run, in the run's order, with the rows of the table.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from batcher.input.dataset import Dataset
from batcher.input.types import Types
from batcher.records import Values


def narrowed(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Return a table in memory with only the columns of a run; a file, and a table that lacks one, as they are."""
    if dataset.paths or not columns or dataset.columns == (*columns,) or not {*columns} <= {*dataset.columns}:
        return dataset
    return _Narrowed(dataset, columns)


class _Narrowed(Dataset):
    """Some columns of a table."""

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self.name = dataset.name
        self.columns = tuple(columns)
        self.row_labels = dataset.row_labels
        self.may_hold_added_nulls = dataset.may_hold_added_nulls
        self._dataset = dataset
        self._places = [dataset.columns.index(name) for name in columns]

    def types(self) -> Types:
        return self._dataset.types().of_columns(self.columns)

    def where(self, position: int) -> str:
        return self._dataset.where(position)

    def _rows(self) -> Generator[Values, None, None]:
        for part in self._dataset.slices(_AT_ONCE):
            yield from (tuple([values[place] for place in self._places]) for values in part.rows)


_AT_ONCE = 1000
"""Rows in memory at a time."""
