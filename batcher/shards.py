"""A shard: one of N parts of a run, which is a run of its own in a directory of its own (`--shard 3/8`).

Invariant: the shards of a run are a partition of its rows at the borders of chunks, and their shares of a limit and of
the budget never add up to more than the whole. So N machines need not know of each other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import SettingsError
from batcher.hiding import shown

_TEXT = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
_NAME = re.compile(r"([1-9][0-9]*)-of-([1-9][0-9]*)")


class Shard(NamedTuple):
    """A shard, by its number.

    Attributes:
        number: of the shard, counted from 1.
        of: how many shards there are.
    """

    number: int
    of: int

    @classmethod
    def parsed(cls, text: object, where: str) -> Shard:
        """Read a shard as users give it: `3/8`.

        Raises:
            SettingsError: it is none; the message begins with `where`.
        """
        found = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            said = shown(text) if isinstance(text, str) else type(text).__name__
            raise SettingsError(
                f"{where} must be the number of the shard and how many there are, as in 3/8, not {said}"
            )
        shard = cls(int(found[1]), int(found[2]))
        if shard.number > shard.of:
            raise SettingsError(f"{where}: there is no shard {shard.number} of {shard.of}: they are counted from 1")
        return shard

    @property
    def name(self) -> str:
        """The name of its directory, such as `3-of-8`."""
        return f"{self.number}-of-{self.of}"

    @property
    def option(self) -> str:
        """The shard as users give it, such as `3/8`."""
        return f"{self.number}/{self.of}"

    def __str__(self) -> str:
        return f"shard {self.number:,} of {self.of:,}"

    def directory(self, output: Path, keyword: str) -> Path:
        """Return the directory of its run."""
        return shards_directory(output, keyword) / self.name

    def share(self, whole: int) -> int:
        """Return its share of a whole number: those of all shards add up to the whole, and differ by 1 at most."""
        return self.number * whole // self.of - (self.number - 1) * whole // self.of

    def chunks(self, chunks: int) -> range:
        """Return its chunks out of those of the whole run."""
        return range((self.number - 1) * chunks // self.of, self.number * chunks // self.of)

    def rows(self, rows: int, chunk_size: int) -> range:
        """Return its rows out of those of the whole run: whole chunks, but for the last one of all."""
        chunks = self.chunks(-(-rows // chunk_size))
        return range(min(chunks.start * chunk_size, rows), min(chunks.stop * chunk_size, rows))


class Part(NamedTuple):
    """The rows of a shard.

    Attributes:
        shard: whose they are.
        start: where the first one stands among the rows of the whole run, counted from 0.
        rows: their number; 0 if there are more shards than chunks.
        of_rows: the number of rows of the whole run.
    """

    shard: Shard
    start: int
    rows: int
    of_rows: int

    @classmethod
    def of(cls, shard: Shard, chunk_size: int, of_rows: int) -> Part:
        """Return the rows of a shard of a run with so many rows."""
        rows = shard.rows(of_rows, chunk_size)
        return cls(shard, rows.start, len(rows), of_rows)

    @classmethod
    def recorded_in(cls, mark: dict[str, Any]) -> Part:
        """Return the rows of a shard from its record, made by `recorded`."""
        return cls(Shard(mark["number"], mark["of"]), mark["start"], mark["rows"], mark["rows_of_table"])

    def recorded(self) -> dict[str, int]:
        """Return the rows as the journal records them with the run's question."""
        number, of = self.shard
        return {"number": number, "of": of, "start": self.start, "rows": self.rows, "rows_of_table": self.of_rows}

    def in_words(self) -> str:
        """Return which rows these are: `shard 3 of 8: rows 1,001 to 1,500 of 4,000`."""
        if not self.rows:
            return f"{self.shard}: no row of {self.of_rows:,}, because there are fewer chunks than shards"
        return f"{self.shard}: rows {self.start + 1:,} to {self.start + self.rows:,} of {self.of_rows:,}"


def shards_directory(output: Path, keyword: str) -> Path:
    """Return the directory that holds the directories of a keyword's shards."""
    return output / f"shards_{keyword}"


def named(name: str) -> Shard | None:
    """Return the shard whose directory has this name; None if it is not that of a shard."""
    found = _NAME.fullmatch(name)
    return Shard(int(found[1]), int(found[2])) if found else None
