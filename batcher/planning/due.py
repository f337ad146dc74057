"""By when a run shall be finished: the moment of `--by` or `--within`, which a resumed run keeps.

Invariant: the same options mean the same moment until it is past: a run that is stopped and goes on is due when it was
due before, as long as it was not finished.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from pathlib import Path
from typing import NamedTuple

from batcher.errors import OutputError, SettingsError
from batcher.journal.opening import read_journal
from batcher.journal.paces import Noted, noted
from batcher.moments import moment_as_text, moment_in_words, moment_of, past, span_of
from batcher.settings import Settings
from batcher.words import blamed, duration, option


class Due(NamedTuple):
    """When a run shall be finished.

    Attributes:
        at: seconds since the epoch.
        given: as the user gave it, for the journal.
        is_kept: an earlier process of the run was to be finished then.
    """

    at: float
    given: str
    is_kept: bool = False

    @property
    def detail(self) -> str:
        """The detail of the journal's event."""
        return json.dumps({"at": self.at})

    def in_words(self, now: float) -> str:
        """Return the moment and how far it is away."""
        away = f"in {duration(self.at - now)}" if self.at > now else f"{duration(now - self.at)} ago"
        kept = ", as before" if self.is_kept and self.given.startswith("within") else ""
        return f"{moment_in_words(self.at, now)} ({away}{kept})"

    @property
    def text(self) -> str:
        """The moment in local time, with its offset."""
        return moment_as_text(self.at)


def due_of(settings: Settings, journal_path: Path, now: float | None = None) -> Due | None:
    """Return when the run shall be finished; None if that is not given.

    Args:
        settings: the options.
        journal_path: of the run, which may not exist yet.
        now: seconds since the epoch; default: the present.

    Raises:
        SettingsError: the moment is past, and no earlier process of the run was to be finished then.
    """
    if settings.by is None and settings.within is None:
        return None
    now = time.time() if now is None else now
    given = _given(settings)
    before = _before(journal_path)
    is_same = before is not None and before.given == given and not before.is_done
    if before is not None and is_same and before.at > now:
        return Due(before.at, given, is_kept=True)
    if settings.by is None:
        return Due(now + span_of(settings.within, blamed("within")), given)
    at = moment_of(settings.by, blamed("by"), now)
    if at > now:
        return Due(at, given)
    if before is not None and is_same and before.at == at:
        return Due(at, given, is_kept=True)  # it was not met: the run goes on all the same
    raise SettingsError(f"{blamed('by')}: {past(at, now)}: give a later time, or {option('within', '8h')}")


def _given(settings: Settings) -> str:
    """Return the option's value as a text that is the same for the same value."""
    if settings.within is not None:
        return f"within {span_of(settings.within, blamed('within')):g}s"
    value = settings.by
    text = value.isoformat() if isinstance(value, (dt.datetime, dt.time)) else str(value)
    return f"by {' '.join(text.split())}"


def _before(path: Path) -> Noted | None:
    if not path.exists():
        return None
    with contextlib.suppress(OutputError), read_journal(path) as journal:
        return noted(journal)
    return None  # opening the journal for the run says what is wrong with it
