"""The books of the local server about batches: files, batches, and each of their lines.

Invariant: a line is counted once when its batch is accepted, once if it is answered, and once if its answer is in a
file of results, however often it stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


class BatchBooks:
    """The server's own counts of batches, against which a client's can be checked.

    Attributes:
        by_call: requests about files and batches, by what they ask: `upload`, `create`, `look` and so on.
        uploads: files that were kept.
        made: batches that were made, whatever became of them.
        by_fault: what met a fault of batches, by its number and name.
        by_end: batches that are over, by their last state.
        lines: lines of the batches that passed the check of their file.
        answered: those that were answered with 200, so that a service would bill them.
        refused: those that got another status.
        billed: answered lines that are in the output file of a batch that is over, whatever its state.
        lost: answered lines that are in no file.
        lines_by_prompt, answered_by_prompt, billed_by_prompt, lost_by_prompt: the same by prompt.
        by_input: batches made, by their input file.

    Args:
        by_prompt: whether to count by prompt, which takes memory for each prompt.
    """

    def __init__(self, *, by_prompt: bool = True) -> None:
        self._by_prompt = by_prompt
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        self.uploads = self.made = 0
        self.lines = self.answered = self.refused = self.billed = self.lost = 0
        self.by_call: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.by_end: Counter[str] = Counter()
        self.by_input: Counter[str] = Counter()
        self.lines_by_prompt: Counter[str] = Counter()
        self.answered_by_prompt: Counter[str] = Counter()
        self.billed_by_prompt: Counter[str] = Counter()
        self.lost_by_prompt: Counter[str] = Counter()

    def meet(self, fault: str) -> None:
        """Record that something met a fault."""
        self.by_fault[fault] += 1

    def make(self, file: str, asked: Sequence[Sequence[str]]) -> None:
        """Record a batch of a file, and what each of its lines asks if they are accepted."""
        self.made += 1
        self.by_input[file] += 1
        self.lines += len(asked)
        for prompts in asked:
            self._count(self.lines_by_prompt, prompts)

    def answer(self, prompts: Sequence[str], *, is_answered: bool) -> None:
        """Record a line that was answered or refused."""
        self.answered += is_answered
        self.refused += not is_answered
        if is_answered:
            self._count(self.answered_by_prompt, prompts)

    def bill(self, prompts: Sequence[str]) -> None:
        """Record an answered line of a file of results."""
        self.billed += 1
        self._count(self.billed_by_prompt, prompts)

    def lose(self, prompts: Sequence[str]) -> None:
        """Record an answered line that is in no file."""
        self.lost += 1
        self._count(self.lost_by_prompt, prompts)

    def _count(self, counts: Counter[str], prompts: Sequence[str]) -> None:
        if self._by_prompt:
            counts.update(prompts)

    def to_dict(self) -> dict[str, Any]:
        """Copy the counts into a dictionary that JSON can hold."""
        return {
            name: {str(of): count for of, count in list(value.items())} if isinstance(value, Counter) else value
            for name, value in self._counts()
        }

    def _counts(self) -> list[tuple[str, int | Counter[str]]]:
        return [(name, value) for name, value in vars(self).items() if not name.startswith("_")]
