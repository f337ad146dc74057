"""A question as a run records it, asked about rows again.

Invariant: it is made from the recorded prompt and parameters, never from recorded keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from batcher.answer.shape import shape_of_recorded
from batcher.errors import InputError
from batcher.input.dataset import Dataset
from batcher.input.examples import Examples
from batcher.input.images import Images
from batcher.input.key import Keyer, keyer
from batcher.input.prompt import PromptFunction, from_function, with_system
from batcher.input.question import asking
from batcher.input.request_line import asking_with
from batcher.input.stating import Stating
from batcher.planning.own import row_params
from batcher.planning.prompts import prompts_of
from batcher.records import Question, Task, Values
from batcher.words import option

Prompt = str | PromptFunction | None
"""The caller's replacement for the recorded prompt."""


class Recorded(NamedTuple):
    """A question that a run has recorded, asked about the rows of INPUT.

    Attributes:
        ask: makes the question of a row.
        key: makes its key.
        images: puts the rows' images into their questions; None: there are none.
    """

    ask: Callable[[Values], Question]
    key: Keyer
    images: Images | None = None

    @classmethod
    def of(cls, recorded: Mapping[str, Any], dataset: Dataset, prompt: Prompt = None) -> Recorded | None:
        """Make it from a run's record; None if the run used a function and no prompt is given.

        Raises:
            InputError: INPUT lacks a column.
        """
        if recorded.get("requests"):
            return cls(asking_with(recorded.get("params", {})), keyer({}))
        columns, system, shape = dataset.columns, recorded.get("system"), recorded.get("shape")
        stating = Stating(None if shape is None else shape_of_recorded(shape), columns)
        if callable(prompt):
            render = stating.completing(from_function(prompt, columns), system)
        elif prompt is not None:
            render = prompts_of("--prompt", prompt, dataset, stating, system=system, source="prompt").render
        elif recorded.get("prompt_option", "function") != "function":
            text = recorded.get("prompt", "")
            render = prompts_of(recorded["prompt_option"], text, dataset, stating, system=system).render
        else:
            return None
        if system is not None:
            render = with_system(render, stating.filled(system), option("system"), columns)
        if (examples := Examples.recorded_in(recorded)) is not None:
            render = examples.before(render)
        shared = examples.messages if examples else ()
        named = recorded.get("params_column")
        terms = row_params(named, dataset).terms if named else None
        images, task = Images.recorded_in(recorded, dataset), Task(recorded.get("task", Task.CHAT))
        ask = asking(render, terms, task=task, images=images)
        return cls(ask, keyer(recorded.get("params", {}), shape, shared), images)

    def about(self, values: Values) -> bytes:
        """Return the key of the question about a row; empty if the row gives no prompt."""
        return self.known(values)[0]

    def known(self, values: Values) -> tuple[bytes, str]:
        """Return the key of the question about a row, as `about`, and why the row cannot be asked; empty if it can."""
        try:
            question = self.ask(values)
        except InputError:
            return b"", ""
        return self.key(question.messages, question.terms), question.fault
