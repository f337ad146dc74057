"""What several answers to a row, and a second round of answers, mean for the other options of a run.

Invariant: what would make all answers to a row one answer is refused or named before anything is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.input.selection import in_drawn_order
from batcher.journal.entries import Again
from batcher.journal.reading import Reader
from batcher.records import RowState, Task
from batcher.settings import OPTIONS, Settings
from batcher.words import as_given, blamed

_OPTIONS = ("samples", "repeat_sample")
# What the keyword is followed by in the seed of the rows that are asked once more: they are others than those that
# `--sample` takes and that the canary asks first.
_AGAIN = "\0again"
# The rows that are drawn beyond those wanted, in the place of some that may not be asked once more.
_SPARE = 20


def _given(settings: Settings) -> str:
    """Return the first of the options that is given; empty if none is."""
    return next((name for name in _OPTIONS if getattr(settings, name) != OPTIONS[name].default), "")


def check_samples(settings: Settings) -> None:
    """Refuse to ask several times for what is no answer in words, or for several answers at once.

    Raises:
        SettingsError: the message names the option, and what to do.
    """
    if not (name := _given(settings)):
        return
    if settings.task == Task.EMBEDDING:
        raise SettingsError(
            f"{blamed(name)}: {as_given('task', Task.EMBEDDING.value)} gives vectors, which have no majority and do not"
            " change when a text is embedded again: leave it out"
        )
    _check_one(settings.params, name, as_given("param"))


def check_samples_at(endpoints: Sequence[Endpoint], settings: Settings) -> None:
    """Refuse endpoints that give several answers to each request.

    Raises:
        SettingsError: the message names the parameter.
    """
    if name := _given(settings):
        for endpoint in endpoints:
            _check_one(endpoint.params, name, "params of an endpoint")


def _check_one(params: Mapping[str, Any], name: str, where: str) -> None:
    given = {**params, **(params.get("extra_body") or {})}
    if given.get("n", 1) != 1:
        raise SettingsError(
            f"{where}: n={given['n']} and {as_given(name)} exclude each other: batcher asks for each answer by itself,"
            " so that each is in the journal: leave n out"
        )


def notes_on_samples(settings: Settings, endpoints: Sequence[Endpoint]) -> list[str]:
    """Return a note if parameters may make a model give the same answer each time."""
    if settings.samples == 1:
        return []
    each = [{**settings.params, **endpoint.params} for endpoint in endpoints]
    if any(params.get("temperature") == 0 for params in each):
        cause, way_out = "with temperature 0 a model gives", "leave the temperature out"
    elif any(params.get("seed") is not None for params in each):
        cause, way_out = "with a seed a service may give", "leave the seed out"
    else:
        return []
    return [f"Note: {cause} the same answer each time, and agreement says little then: {way_out}."]


class Times:
    """Counts how often each row of a plan is asked.

    Args:
        settings: the options.
        keyword: of the run.
        journal: with the plan.
        sources: ids of the endpoints' sources.
        rows: of the run.
    """

    def __init__(self, settings: Settings, keyword: str, journal: Reader, sources: Sequence[int], rows: int) -> None:
        self._samples = settings.samples
        self._journal = journal
        self._sources = sources
        self._has_opinions = journal.has_open_opinions()
        self._taken: set[int] = set()
        again = rows_asked_again(settings, keyword, journal, rows, sources)
        self._again = {each.position: max(self._samples - each.answers, 0) for each in again}

    def of(self, position: int, state: RowState) -> int:
        """Return how often a row is asked; call it once for each row, in order."""
        again = self._again.get(position, 0)
        if state.result is not None or state.leader is not None:
            return again
        lacking = max(self._samples - state.out, 0)
        if not self._has_opinions:
            return lacking + again
        own, others = self._journal.open_opinions(position, state.key, self._sources)
        free = [each.id for each in others if each.id not in self._taken][: max(lacking - len(own), 0)]
        self._taken.update(free)
        return max(lacking - len(own) - len(free), 0) + again


def rows_asked_again(
    settings: Settings, keyword: str, journal: Reader, rows: int, sources: Collection[int]
) -> list[Again]:
    """Return the rows that are asked once more (`--repeat-sample`), in the order in which they were drawn.

    A row that has no result yet is among them; when it has one that is no answer, another row takes its place.

    Args:
        settings: the options.
        keyword: of the run.
        journal: with the plan.
        rows: of the run.
        sources: ids of those whose answers count.
    """
    wanted = settings.repeat_sample or 0
    drawn = wanted + _SPARE if wanted else 0
    while True:
        places = in_drawn_order(f"{keyword}{_AGAIN}", drawn, rows)
        found = [*journal.asked_again(places, sources, settings.samples)] if wanted else []
        if len(found) >= wanted or drawn >= rows:
            return found[:wanted]
        drawn *= 2
