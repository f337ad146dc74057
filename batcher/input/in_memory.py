"""A table in the caller's memory: a DataFrame, a Series or a list of texts.

Invariant: it is only read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError
from batcher.input.dataset import Dataset, check_has_columns, columns_of
from batcher.input.labels import Labels
from batcher.records import Values

if TYPE_CHECKING:
    import pandas as pd

_FRAME_BATCH = 4096
"""Rows of a DataFrame turned into Python values at a time."""


class FrameDataset(Dataset):
    """The caller's DataFrame, which is only read; its index is not a column.

    Args:
        name: of the table.
        frame: its values.
        labels: the names of its columns.
        table: the caller's own, which has the index; default: the frame.
    """

    def __init__(
        self, name: str, frame: pd.DataFrame, labels: Iterable[object], table: pd.Series[Any] | None = None
    ) -> None:
        if getattr(labels, "nlevels", 1) > 1:
            raise InputError(f"{name}: the columns are a MultiIndex: give each column one name, as text")
        self.name = name
        self.columns = columns_of(name, map(str, labels))
        self._frame = frame
        self.row_labels = Labels(name, frame if table is None else table)
        check_has_columns(name, self.columns, len(frame))

    def _rows(self) -> Generator[Values, None, None]:
        for start in range(0, len(self._frame), _FRAME_BATCH):
            yield from self._frame.iloc[start : start + _FRAME_BATCH].itertuples(index=False, name=None)


class TextsDataset(Dataset):
    """A list of strings: one column, `text`."""

    def __init__(self, texts: list[str]) -> None:
        self.name = "the list"
        self.columns = ("text",)
        self._texts = list(texts)
        for position, text in enumerate(self._texts):
            if not isinstance(text, str):
                raise InputError(f"{self.where(position)}: must be a string, not of type {type(text).__qualname__}")

    def _rows(self) -> Generator[Values, None, None]:
        for text in self._texts:
            yield (text,)
