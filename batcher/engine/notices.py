"""Tells people and the journal what a run notices about its endpoints.

Invariant: people are told each thing once for each endpoint or source, however many rows show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from batcher.answer.shape import ReadAs
from batcher.answer.vectors import unpacked
from batcher.calls.ignored import Watch
from batcher.calls.naming import is_another
from batcher.calls.streaming import LOGPROBS, STREAM
from batcher.calls.texts import one_line
from batcher.engine.progress import Progress
from batcher.journal.entries import IGNORED, LEFT_OUT
from batcher.journal.writing import Journal
from batcher.money.tariff import Lesson
from batcher.pool.blame import Decision, is_not_up
from batcher.pool.forms import FOUND
from batcher.pool.member import Member, Silence
from batcher.records import Completion, Failure, Terms
from batcher.settings import Settings
from batcher.words import as_given, duration, option

# The other names of models that are told: a relay may have one for each of its upstreams.
_MOST_NAMES = 10
# Seconds without capacity after which people are told.
_NO_CAPACITY_S = 60.0


class Notices:
    """Tells what is noticed.

    Args:
        settings: the options.
        journal: gets an event for each notice.
        progress: shows messages.
        read_as: what answers are read as; None: they stay as they come.
        scores: requests ask for log-probabilities.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        progress: Progress,
        read_as: ReadAs | None,
        *,
        scores: bool = False,
    ) -> None:
        self._scores = scores
        self._settings = settings
        self._journal = journal
        self._progress = progress
        self._shape = "" if read_as is None else read_as.shape
        self._told: set[tuple[object, ...]] = set()
        # For each source the parameters that it may ignore, and its model.
        self._watches: dict[int, tuple[Watch, str]] = {}
        self._names = 0
        # The first vector, and the endpoint that gave it.
        self._first: tuple[str, str] | None = None

    def _is_news(self, *what: object) -> bool:
        """Return whether something is told for the first time."""
        is_new = what not in self._told
        self._told.add(what)
        return is_new

    def of_silence(self, silence: Silence) -> None:
        """Tell that an endpoint has stopped answering, or answers again."""
        label, why, lasted = silence.member.label, silence.why, duration(silence.seconds)
        if why:
            self._progress.say(
                f"Paused: {label} has answered nothing for {lasted} ({why}). Its rows wait, and the wait does not count"
                f" against {as_given('max_attempts')}; batcher asks it again once a minute or more often.",
                "warning",
            )
            self._journal.note("paused", label, why)
        else:
            self._progress.say(f"Going on: {label} answers again, after {lasted}.")
            self._journal.note("resumed", label)

    def of_no_capacity(self, member: Member, tier: str, now: float, failure: Failure) -> None:
        """Tell that a service tier has had no capacity for a while."""
        if not member.tiers.should_tell(tier, _NO_CAPACITY_S, now):
            return
        others = [name for name in member.tiers.names if name != tier]
        said = f"{tier} has no capacity at {member.name} ({str(failure).rstrip('.')})."
        if others:
            self._progress.say(
                f"Note: {said} Rows are asked in {others[0]} meanwhile, and a few requests at a time show when {tier}"
                " has capacity again."
            )
            return
        fallback = option("tier", f"{tier},default")
        self._progress.say(
            f"Paused: {said} The rows wait for it, and no attempt of theirs is used up; a few requests at a time show"
            f" when it has some again. {fallback} would ask the rows in default meanwhile.",
            "warning",
        )
        self._journal.note("paused", member.label, f"{tier} has no capacity")

    def of_capacity(self, member: Member, tier: str, seconds: float) -> None:
        """Tell that a service tier has capacity again, of which people know that it had none."""
        self._progress.say(f"Going on: {tier} has capacity again at {member.name}, after {duration(seconds)}.")
        if len(member.tiers.names) == 1:
            self._journal.note("resumed", member.label)

    def of_denied_tier(self, member: Member, tier: str, failure: Failure) -> None:
        """Tell that a service refuses a tier, so that its requests ask for the next one."""
        self._progress.say(
            f"{member.name} refuses the service tier {tier} ({str(failure).rstrip('.')}). It is asked in"
            f" {member.tiers.names[0]} from now on.",
            "warning",
        )

    def of_start(self, member: Member, failure: Failure, decision: Decision) -> None:
        """Tell why an endpoint has not answered its first row yet."""
        if not self._is_news("start", member, decision.short):
            return
        reason = decision.reason.rstrip(".")
        if not is_not_up(failure):
            self._progress.say(f"The first rows at {member.label}: {reason}; trying again.")
        else:
            self._progress.say(
                f"Waiting for {member.label}: {reason}. It is asked again for {duration(self._settings.wait_s)}"
                f" ({as_given('wait')})."
            )

    def of_left_out(self, member: Member, failure: Failure) -> None:
        """Tell that an endpoint is asked without a parameter that batcher had added."""
        name = failure.left_out
        if not self._is_news("left out", member.source, name):
            return
        then = "so its answers come in one piece"
        if name == LOGPROBS:
            then = "so its answers have no confidence"
        elif name != STREAM:
            then = "and an answer whose tokens it does not report counts as the most that it may cost"
        why = str(failure).rstrip(".")
        self._progress.say(f"{member.label} refuses {name} ({why}). It is asked without it from now on, {then}.")
        self._journal.note(LEFT_OUT, member.label, name)

    def of_size(self, member: Member, rows: int) -> None:
        """Tell that an endpoint refused a request of so many rows; its requests have fewer now."""
        size = member.size.inputs
        self._progress.say(
            f"{member.label} takes no {rows:,} rows in one request: from now on at most {size:,}."
            f" {option('inputs_per_request', size)} says so from the start."
        )

    def of_form(self, member: Member) -> None:
        """Tell in which form an endpoint is asked from now on, if that was found."""
        if member.choice is None or (form := member.choice.news()) is None:
            return
        label = member.label
        self._progress.say(f"{label} is asked with {form.in_words}: the strictest form whose answers fit.")
        self._journal.note(FOUND, label, json.dumps({"source": member.source, "form": form, "shape": self._shape}))

    def of_lessons(self, member: Member, lessons: Iterable[Lesson]) -> None:
        """Tell what answers have taught about costs."""
        for lesson in lessons:
            self._journal.note(lesson.kind, member.label, lesson.detail)
            if lesson.said and self._settings.budget is not None:
                self._progress.say(
                    f"{member.label} {lesson.said}. From now on its requests reserve more of the budget."
                )

    def of_answer(self, member: Member, came: Completion, terms: Terms | None) -> None:
        """Tell what is odd about an answer: what it ignores, the tokens that it reports, the model that it names.

        Args:
            member: that gave it.
            came: the answer.
            terms: how its row asks; None: with parameters of its own that are not known here.
        """
        known = self._watches.get(member.source)
        if known is None:
            scores = self._scores and ("left out", member.source, LOGPROBS) not in self._told
            added = {LOGPROBS: True} if scores else {}
            watch = Watch({**added, **self._settings.params, **member.endpoint.params})
            known = self._watches[member.source] = watch, member.endpoint.real_source.model
        watch, model = known
        for name, said in watch.look(came, terms.params) if terms is not None else ():
            self._progress.say(f"{member.name} ignores {name}: {said}.", "warning")
            self._journal.note(IGNORED, member.name, f"{name}: {said}")
        if came.usage.implausible:
            self._of_usage(member, came.usage.implausible)
        if came.model and is_another(came.model, model):
            self._of_model(member, came.model)

    def of_vector(self, member: Member, vector: str) -> None:
        """Tell that the vectors of an endpoint have another length than those of the first one."""
        first, label = self._first = self._first or (vector, member.label)
        if len(vector) == len(first) or not self._is_news("length", member.source):
            return
        length, before = (len(unpacked(each) or ()) for each in (vector, first))
        self._progress.say(
            f"{member.label} gives vectors of {length:,} numbers, and {label} has given some of {before:,}: they cannot"
            f" be compared, and make no matrix and no {as_given('with_', 'npy')}.",
            "warning",
        )

    def _of_usage(self, member: Member, implausible: str) -> None:
        """Record an answer with more reported tokens than any call can use; show an endpoint's first such answer."""
        self._journal.note("implausible usage", member.label, implausible)
        if self._is_news("usage", member):
            self._progress.say(
                f"{member.label} says that an answer used {implausible}, more than any call can. batcher charges"
                " the maximum for such a request."
            )

    def _of_model(self, member: Member, model: str) -> None:
        if self._names < _MOST_NAMES and self._is_news("model", member.source, model):
            self._names += 1
            self._progress.say(f"{member.label} answers as {one_line(model)}.")
            self._journal.note("another model", member.label, model)
