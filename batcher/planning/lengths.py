"""How long a run's prompts are, by the first rows of the table.

Invariant: they are looked at while the plan reads them, so that no row's prompt is made once more.
"""

from __future__ import annotations

from batcher.money.tokens import ESTIMATE, prompt_tokens
from batcher.planning.job import Job
from batcher.records import Question, Task

_LOOKED_AT, _LOOKED_AT_IMAGES = 100, 10
"""Rows that are looked at; counting an image takes longer."""


class Lengths:
    """Estimates the model tokens of the first prompts, from the length of their texts.

    Args:
        job: the run.

    Attributes:
        tokens: of each of them.
    """

    def __init__(self, job: Job) -> None:
        self.tokens: list[int] = []
        self._is_chat = job.task is Task.CHAT
        self._most = _LOOKED_AT if job.images is None else _LOOKED_AT_IMAGES
        count = ESTIMATE.seeing(job.endpoints[0].real_source.model)
        self._count = count.knowing(job.examples.texts if job.examples else ())

    def add(self, question: Question) -> None:
        """Look at the question of the next row."""
        if len(self.tokens) >= self._most or question.fault:
            return
        if self._is_chat:
            self.tokens.append(prompt_tokens(question.messages, self._count))
        else:
            self.tokens.append(sum(self._count.count(message["content"]) for message in question.messages))
