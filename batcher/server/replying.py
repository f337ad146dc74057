"""What the simulated model says to a request: its answer, as the way of the service and the model's slips have it.

Invariant: it depends on the request, the way and the seed alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from batcher.server.answers import Given, answer, core_of, prompt_of
from batcher.server.confusion import Spoken
from batcher.server.dressing import dressed, in_prose
from batcher.server.faults import Reply, unit
from batcher.server.forms import Form, Wanted, without_form
from batcher.server.ways import Treatment, Way, failed

_FAILING = 0.1  # of the prompts, of `Treatment.ONE_IN_TEN`
_JSON_MODE = {"type": "json_object"}
_ECHO = "Echo "


class Slips(NamedTuple):
    """The mistakes of the model.

    Attributes:
        wrong_labels: share of the prompts that get a wrong label.
        dressed: share of the prompts whose answer is dressed up, if no form holds it.
        seed: draws other prompts.
    """

    wrong_labels: float = 0.0
    dressed: float = 0.0
    seed: int = 0

    def draw(self, what: str, prompt: str) -> float:
        """Draw a number between 0 and 1 for a prompt, whatever schema is shown in it."""
        return unit(what, self.seed, core_of(prompt))


class Said(NamedTuple):
    """An answer.

    Attributes:
        text: of it.
        fits: it is what was asked for, and nothing else.
        chances: of this text and of others in its place, if they are stated.
        decided: the characters that decide which of them it is.
    """

    text: str
    fits: bool = True
    chances: Mapping[str, float] = {}
    decided: int = 0

    def of(self, spoken: Spoken | None) -> Said:
        """Return it with the chances of its label, and of other labels in its place."""
        if spoken is None:
            return self
        label, *others = (json.dumps(each, ensure_ascii=False)[1:-1] for each in spoken.chances)
        before, found, after = self.text.rpartition(label) if label else ("", "", self.text)  # an answer may be empty
        texts = [self.text, *(f"{before}{each}{after}" for each in others if found)]
        chances = dict(zip(texts, spoken.chances.values(), strict=False))
        return self._replace(chances=chances, decided=len(before) + len(found))


def reply_to(
    body: Mapping[str, Any], wanted: Wanted, way: Way, slips: Slips, spoken: Spoken | None = None
) -> Said | Reply:
    """Answer a request that is not refused at once, or return the refusal of its answer.

    Args:
        body: the request's JSON.
        wanted: what it asks for.
        way: of the service.
        slips: of the model.
        spoken: the label that it answers; None: it finds one itself.

    Raises:
        RecursionError: the messages are nested too deeply to be written as JSON.
    """
    given = Given(spoken.label, spoken.labels) if spoken else None
    said = _said(body, wanted, way, slips, given)
    return said if isinstance(said, Reply) else said.of(spoken)


def _said(body: Mapping[str, Any], wanted: Wanted, way: Way, slips: Slips, given: Given | None) -> Said | Reply:
    prompt, treatment = prompt_of(body), way.treatment(wanted.form)
    is_wrong = bool(slips.wrong_labels) and slips.draw("wrong label", prompt) < slips.wrong_labels
    if treatment is Treatment.BLANK:
        return Said("" if slips.draw("blank", prompt) < 1 / 2 else "   ", fits=False)
    if treatment is Treatment.PROSE:
        return Said(in_prose(answer(without_form(body), is_wrong=is_wrong, given=given)), fits=False)
    if treatment in {Treatment.UNSEEN, Treatment.LOOSE}:
        body = without_form(body, _JSON_MODE if treatment is Treatment.LOOSE else None)
    text = answer(body, is_wrong=is_wrong, given=given)
    if treatment is Treatment.ONE_IN_TEN and (draw := slips.draw("failed", prompt)) < _FAILING:
        # Of three, two are JSON in a fence, and the third breaks off.
        return failed(f"```json\n{text}\n```" if draw < _FAILING * 2 / 3 else text[: len(text) // 2])
    is_held = wanted.form not in {Form.JSON, Form.PROMPT} and treatment in {Treatment.ANSWER, Treatment.ONE_IN_TEN}
    is_dressed = bool(slips.dressed) and slips.draw("dressed", prompt) < slips.dressed
    if is_dressed and not is_held and not text.startswith(_ECHO):
        return Said(dressed(text, slips.draw("dress", prompt)), fits=False)
    return Said(text, fits=treatment is not Treatment.LOOSE)
