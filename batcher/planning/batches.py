"""Refuses options that make no sense for a run through batch APIs.

Invariant: an option that a batch cannot have is named before anything is sent, and never ignored.
"""

from __future__ import annotations

from batcher.errors import SettingsError
from batcher.settings import BATCH, NO_WAIT, OPTIONS, Settings
from batcher.words import as_given, blamed, option

_NOT_IN_BATCHES = {
    "stream": "a batch's answers come in files, so nothing is streamed",
    "repeat_sample": "a row is asked once more only when all rows have their result: leave it out now, and give it to a"
    " later run of the same rows without {via}",
    "inputs_per_request": "in a batch, each text has a line of its own",
}


def obstacle_to_batches(settings: Settings) -> tuple[str, str] | None:
    """Return the option with which rows cannot go into batches, and why; None if there is none."""
    given = (name for name in _NOT_IN_BATCHES if getattr(settings, name) != OPTIONS[name].default)
    return next(((name, _NOT_IN_BATCHES[name].format(via=option("via", BATCH))) for name in given), None)


def check_batch_options(settings: Settings) -> None:
    """Refuse options that do not go with batches, and those that need them.

    Raises:
        SettingsError: the message names the option, and what to do.
    """
    if not settings.in_batches:
        if not settings.waits:
            raise SettingsError(
                f"{blamed('wait')}: {NO_WAIT} goes with {option('via', BATCH)}: nothing else goes on without this"
                " process"
            )
        return
    if obstacle := obstacle_to_batches(settings):
        name, why = obstacle
        raise SettingsError(f"{as_given(name)} and {option('via', BATCH)} exclude each other: {why}")
    if settings.asks_chat_model:
        raise SettingsError(
            f"{option('via', BATCH)}: a chat model in llm= has no batch API: give the endpoint by its model and"
            " base_url"
        )
