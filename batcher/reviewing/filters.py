"""The filters of the list, as the address has them, and how many rows each of them shows.

Invariant: all filters hold at once; each count is of the rows that all other filters show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batcher.answer.gold import Golds
from batcher.journal.certainty import AGREEMENT, CONFIDENCE
from batcher.reviewing.exchange import Request, invalid
from batcher.reviewing.index import OTHER, STATUSES, Bits, Codes, Index, as_counts, codes_of, tallied

Positions = NDArray[np.intp]

_FIELD = "field."
_LOW = 0.7
_MOST_LABELS, _MOST_REASONS = 200, 50
_ON = ("corrected", "sample", "disagree")


class Filters(NamedTuple):
    """What a person wants to see.

    Attributes:
        status: how rows have ended; any of them.
        label: answers; any of them.
        fields: texts of fields; of each field any of them.
        reason: why rows are not `ok`; any of them.
        text: to search for.
        below: the highest agreement and confidence, exclusive.
        on: `corrected`, `sample` and `disagree`, if they are wanted.
    """

    status: Sequence[str] = ()
    label: Sequence[str] = ()
    fields: Mapping[str, Sequence[str]] = {}
    reason: Sequence[str] = ()
    text: str = ""
    below: Mapping[str, float] = {}
    on: Sequence[str] = ()

    @classmethod
    def of(cls, request: Request) -> Filters:
        """Read them in the query of a request.

        Raises:
            NotServed: one cannot be read.
        """
        asked = request.query
        status = ["" if each == "none" else each for each in asked.get("status", ())]
        if wrong := next((each for each in status if each not in STATUSES), None):
            raise invalid(f"status must be ok, invalid, error or none, not {wrong[:40]!r}")
        if "\0" in (text := request.one("text").strip()):
            raise invalid("text must not hold the character NUL, which no row has")
        return cls(
            status,
            asked.get("label", ()),
            {name.removeprefix(_FIELD): texts for name, texts in asked.items() if name.startswith(_FIELD)},
            asked.get("reason", ()),
            text,
            {kind: _share(request, kind) for kind in (AGREEMENT, CONFIDENCE) if request.one(f"{kind}_below")},
            [name for name in _ON if request.one(name) not in {"", "0"}],
        )

    @property
    def are_any(self) -> bool:
        """Whether they leave out anything."""
        return any(self)


def _share(request: Request, kind: str) -> float:
    text = request.one(f"{kind}_below")
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise invalid(f"{kind}_below must be a number from 0 to 1, not {text[:40]!r}")
    return found


class Shown:
    """The rows that filters show, of those that the index has read.

    Args:
        index: of the run.
        filters: what is wanted.
        matching: which rows have the text that is searched for, as far as they are searched; None: no text is.
        with_answer: returns the positions of the rows with an answer that the index does not tell from others.

    Attributes:
        index: the same.
        positions: of the rows, ascending.
    """

    def __init__(
        self, index: Index, filters: Filters, matching: Bits | None, with_answer: Callable[[str], Sequence[int]]
    ) -> None:
        self.index = index
        self._filters = filters
        self._done = index.done
        self._with_answer = with_answer
        self._masks = self._made(matching)
        shown = self._all_but()
        self.positions: Positions = np.arange(self._done) if shown is None else np.flatnonzero(shown)

    def _made(self, matching: Bits | None) -> dict[str, Bits]:
        index, filters = self.index, self._filters
        masks: dict[str, Bits] = {}
        if filters.status:
            codes = [STATUSES.index(each) for each in filters.status]
            masks["status"] = np.isin(index.status[: self._done], codes)
        if filters.label:
            masks["label"] = self._with_texts(index.answer, index.answers, filters.label)
        for name, texts in filters.fields.items():
            if name not in index.fields:
                raise invalid(f"the answers have no field {name[:40]!r}")
            codes, _ = codes_of(texts, index.fields[name])
            masks[_FIELD + name] = np.isin(index.of_fields[name][: self._done], codes)
        if filters.reason:
            codes, _ = codes_of(filters.reason, index.reasons)
            masks["reason"] = np.isin(index.reason[: self._done], codes)
        if matching is not None:
            masks["text"] = matching[: self._done]
        for kind, most in filters.below.items():
            masks[kind] = index.below(kind, most)[: self._done]
        for name in filters.on:
            masks[name] = self._flag(name)
        return masks

    def _flag(self, name: str) -> Bits:
        flags = {"corrected": self.index.corrected, "sample": self.index.sampled, "disagree": self.index.disagreeing}
        return flags[name][: self._done]

    def _with_texts(self, column: Any, codes: Codes, texts: Sequence[str]) -> Bits:
        known, unknown = codes_of(texts, codes)
        mask: Bits = np.isin(column[: self._done], known)
        for text in unknown if (column[: self._done] == OTHER).any() else ():
            at = np.array(self._with_answer(text), np.int64)
            mask[at[at < self._done]] = True
        return mask

    def _all_but(self, name: str = "") -> Bits | None:
        """Return the rows that all filters but one show; None: all rows."""
        others = [mask for each, mask in self._masks.items() if each != name]
        return reduce(np.logical_and, others) if others else None

    @property
    def total(self) -> int:
        return len(self.positions)

    def page(self, start: int, limit: int) -> tuple[list[int], dict[str, int | None]]:
        """Return the positions of a page, and where it stands.

        Args:
            start: the first position that it may have.
            limit: rows of a page.
        """
        before = int(np.searchsorted(self.positions, start))
        own = self.positions[before : before + limit]
        after = before + len(own)

        def at(place: int) -> int | None:
            return int(self.positions[place]) if 0 <= place < self.total else None

        return [*map(int, own)], {
            "total": self.total,
            "before": before,
            "next": at(after),
            "previous": at(max(before - limit, 0)) if before else None,
            "last": at((self.total - 1) // limit * limit),
        }

    def counts(self) -> dict[str, Any]:
        """Return how many rows each filter would show beside the others."""
        index, done = self.index, self._done

        def number(mask: Bits, name: str) -> int:
            shown = self._all_but(name)
            return int(np.count_nonzero(mask if shown is None else mask & shown))

        counts: dict[str, Any] = {
            "status": as_counts(index.status[:done], self._all_but("status")),
            "label": tallied(index.answer[:done], index.answers, self._all_but("label"), _MOST_LABELS),
            "fields": {
                name: tallied(index.of_fields[name][:done], codes, self._all_but(_FIELD + name), _MOST_LABELS)
                for name, codes in index.fields.items()
            },
            "reason": tallied(index.reason[:done], index.reasons, self._all_but("reason"), _MOST_REASONS),
        }
        counts["label_other"] = number(index.answer[:done] == OTHER, "label")
        counts["reason_other"] = number(index.reason[:done] == OTHER, "reason")
        for name in _ON:
            counts[name] = number(self._flag(name), name)
        for kind in (AGREEMENT, CONFIDENCE):
            counts[f"{kind}_below"] = number(index.below(kind, self._filters.below.get(kind, _LOW))[:done], kind)
        return counts


def disagrees(golds: Golds, gold: str, answer: str | None) -> bool:
    """Return whether a person has labelled a row otherwise than the model, which may have no answer that is `ok`."""
    if not gold or answer is None:
        return bool(gold)
    if not golds.fields or golds.shape is None:
        return gold.strip() != answer.strip() if not golds.labels else gold != answer
    texts = dict(zip(golds.fields, golds.shape.cells(answer), strict=True))
    return any(text != texts[name] for name in golds.fields if (text := golds.of_field(gold, name)))
