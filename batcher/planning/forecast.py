"""Forecasts a run: rows, requests, model tokens, money and time, without a call and without a file.

Invariant: it makes its plan with the run's own code, on a copy of the journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from batcher.calls.batches import Filling, Size, smallest
from batcher.calls.forms import Wire
from batcher.errors import outermost
from batcher.input.prompt import PromptFunction
from batcher.journal.opening import rehearse
from batcher.journal.reading import Reader
from batcher.money.prices import NANO, nano_dollars
from batcher.money.spending import note_of_reserves, note_of_tiers
from batcher.money.tariff import LESSONS, Tariff
from batcher.money.tokens import Counter, counter, prompt_tokens
from batcher.planning.asking import forms_found, in_batches, tariffs_in_forms
from batcher.planning.costs import Further, Load, costs_of, pace_of, tokens_of_an_answer, with_further
from batcher.planning.first import First, typical_answer
from batcher.planning.job import ROWS_AT_ONCE, Job, prepare
from batcher.planning.making import make
from batcher.planning.opinions import Times
from batcher.planning.outlook import Mix, mix_of
from batcher.planning.plan import Plan
from batcher.planning.whom import asked_of, in_lines
from batcher.planning.words import came_back, for_what, in_words, notes, saves
from batcher.records import Asked, Message, Task, Terms
from batcher.settings import HEDGED_OF, Options, Settings
from batcher.signatures import with_options
from batcher.tables import Described, Line
from batcher.words import counted, dollars, option

if TYPE_CHECKING:
    from batcher.input.opening import Data


@dataclass(frozen=True)
class Forecast(Described):
    """What `run` would do with the same arguments.

    Attributes:
        rows: of the input; with `limit` or `sample` those that it leaves.
        chunks: the number of chunk files.
        answered: rows whose answer can be used, adopted ones included.
        adopted: rows whose answer was found in chunk files without a journal.
        corrected: rows whose answer a person gave in a chunk file.
        corrections_lost: answers by hand of rows that would be asked again, or are gone.
        error: rows that failed before and are not sent again.
        few: rows that have answers, but fewer than they should have (`samples`).
        new: rows that were never sent.
        changed: rows that have an answer to another question; a run stops there unless `on_change` says what to do.
        gone: answered rows that are gone while there are new ones; a run stops there as well.
        reasons: what changed, in words.
        same: rows with the same question as another row; with `dedup` they are not sent.
        requests: to be sent, each answer at its first attempt; of embeddings many rows share one. With `then` those to
            the first endpoints.
        then_requests: to be sent to the second endpoint, as far as the answers that are there tell; None if they do
            not, or without `then`.
        then_most: the most requests to the second endpoint; 0 without `then`.
        threshold: from which on the first endpoint's answers count; None without `then`.
        saved_usd: the expected cost of asking the second endpoint about the other rows as well; None if a price or the
            number of these rows is unknown, or without `then`.
        prompt_tokens: of those requests, and of the ones to the second endpoint that are expected.
        counted_by: `tiktoken`, or `estimated`, from the length of the text.
        completion_tokens: of their answers, if these are as long as the answers of the same models so far, or as the
            labels or the schema let expect; None if nothing tells.
        prompts_usd: the part of the expected cost that the prompts have; None if a price is unknown.
        cost_usd: the expected cost in US dollars; None if a price or the length of the answers is unknown.
        most_usd: the highest possible cost in US dollars; None if nothing bounds an answer (`max_tokens`).
        left_usd: the rest of the budget, without what earlier processes spent; None without a budget.
        enough_for: how many requests that covers: about, if the expected cost is known, else at least; None without a
            budget, or if it is unknown.
        seconds: the duration that the limits impose; None if an account has no limit.
        money, budget, time: the same in words; `budget` is empty without one.
        reread: rows whose result changes because their answer was read again, as another label or by another schema.
        asks: whom the run asks, and where the API keys came from.
        then: those of them that are asked only about rows that are not certain enough.
        task: what for: `chat`, `completion` or `embedding`.
        form: how labels or a schema are asked for, in words; empty without them.
        tier: the service tiers to ask for, and what they cost against the ordinary one, in words; empty without them.
        first: the messages of the first row that is sent, as they will go out.
        mix: the ways by which rows are asked, with the price of each, and the chance to be in time (`by`, `within`);
            None: they are asked online, and no time is given.
        summary: the plan in words, with notes.
    """

    keyword: str
    rows: int
    chunks: int
    answered: int
    adopted: int
    corrected: int
    corrections_lost: int
    error: int
    few: int
    new: int
    changed: int
    gone: int
    reasons: tuple[str, ...]
    same: int
    reread: int
    requests: int
    then_requests: int | None
    then_most: int
    threshold: float | None
    saved_usd: float | None
    prompt_tokens: int
    counted_by: str
    completion_tokens: int | None
    prompts_usd: float | None
    cost_usd: float | None
    most_usd: float | None
    left_usd: float | None
    enough_for: int | None
    seconds: float | None
    money: str
    budget: str
    time: str
    asks: tuple[Asked, ...]
    then: tuple[Asked, ...]
    task: str
    form: str
    tier: str
    first: tuple[Message, ...]
    summary: str
    mix: Mix | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as a dictionary that JSON can hold."""
        return asdict(self)

    def _title(self) -> str:
        return self.summary

    def _lines(self) -> Iterator[Line]:
        by = "counted by tiktoken" if self.counted_by == "tiktoken" else "estimated by length"
        completion = self.completion_tokens
        answers = "not yet known" if completion is None else f"about {completion:,}" if completion else "none"
        what = for_what(self.task)
        first = in_lines([each for each in self.asks if each not in self.then])
        lines = [*(f"{line}{what}" for line in first), *(f"then {line}" for line in in_lines(self.then))]
        yield from (Line("" if number else "asks", line) for number, line in enumerate(lines))
        then = ""
        if self.then_most:
            known = f"about {self.then_requests:,}" if self.then_requests is not None else f"0 to {self.then_most:,}"
            then = f"; then {known} to the second endpoint"
        yield Line("requests", f"{self.requests:,}{then}, into {counted(self.chunks, 'chunk')}")
        yield Line("tokens", f"{self.prompt_tokens:,} prompt ({by}), completion {answers}")
        yield Line("money", self.money)
        if self.budget:
            yield Line("budget", self.budget)
        yield Line("time", self.time)
        if self.mix:
            yield from self.mix.shown()
        if self.tier:
            yield Line("tier", self.tier)
        if self.form:
            yield Line("form", self.form)
        for number, line in enumerate(First(self.first).lines()):
            yield Line("" if number else "prompt", line)


@with_options
@outermost
def plan(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Forecast:
    """Forecast what `run` would do with the same arguments. Nothing is sent, and no file is written.

    Args:
        data: as in `run`.
        prompt: as in `run`.
        **options: as in `run`.

    Raises:
        SettingsError: an option, the input or the prompt is wrong.
        OutputError: the output directory or the journal in it cannot be used.
    """
    settings = Settings.of(options)
    job = prepare(data, prompt, settings, needs_keys=False)
    job.store.check()
    with rehearse(job.store.journal_path) as journal:
        planned = make(job, journal, lambda: False, is_rehearsal=True)
        asking = _asking(job, journal, planned.sources[0])
        load, further, first, counted_by = _load(job, journal, planned, asking)
        mix = mix_of(job, journal, planned, load, tariffs=asking.tariffs)
        left = None if settings.budget is None else nano_dollars(settings.budget) - journal.spent().total
        tier = _tier(job, journal, planned.sources[0], load, asking.tariffs)
    is_by_option = settings.endpoints is None
    how_to_price = f"{option('price_in')}, {option('price_out')}" if is_by_option else "prices in the endpoint"
    in_use = in_batches(asking.tariffs) if settings.in_batches and job.due is None else asking.tariffs
    costs, pace = costs_of(load, in_use, left, how_to_price), pace_of(job.tiers.first, load)
    costs = with_further(costs, load, further, asking.second, how_to_price)
    kept = (planned.cut.kept if planned.cut else 0) + (further.kept or 0)
    saved = costs_of(further.of(kept), asking.second, None, how_to_price).all if further.load.requests else None
    beyond = further.of(further.certain if further.expected is None else further.expected)
    asked = load.requests + beyond.requests
    reserves = _reserves([*asking.tariffs, *asking.second], left) if asked else []
    return Forecast(
        keyword=job.keyword,
        rows=planned.counts.rows,
        chunks=-(-planned.counts.rows // settings.chunk_size),
        answered=planned.counts.ok + planned.counts.invalid,
        adopted=planned.adopted,
        corrected=planned.by_hand.corrected,
        corrections_lost=planned.by_hand.lost,
        error=planned.counts.error,
        few=planned.few,
        new=planned.counts.left - planned.changed - planned.few - planned.out,
        changed=planned.changed,
        gone=planned.gone,
        reasons=planned.reasons,
        same=planned.same,
        reread=planned.reread,
        requests=load.requests,
        then_requests=further.expected if job.seconds else None,
        then_most=further.load.requests,
        threshold=planned.cut.threshold if planned.cut else None,
        saved_usd=_in_dollars(saved),
        prompt_tokens=load.prompt_tokens + beyond.prompt_tokens,
        counted_by=counted_by,
        completion_tokens=load._replace(requests=asked).completion_tokens,
        prompts_usd=_in_dollars(costs.prompts),
        cost_usd=_in_dollars(costs.all),
        most_usd=_in_dollars(costs.most),
        left_usd=_in_dollars(costs.left),
        enough_for=costs.enough_for,
        seconds=pace.seconds,
        money=costs.in_words(asked),
        budget=costs.budget_in_words(
            asked, "row" if load.requests in {0, planned.counts.left - planned.out} else "request"
        ),
        time=pace.in_words(load.requests) if load.requests or not asked else "as the second endpoint allows",
        asks=asked_of(job.endpoints),
        then=asked_of(job.tiers.second),
        task=job.task.value,
        form=first.form,
        tier=tier,
        first=first.messages,
        mix=mix,
        summary="\n".join(
            [
                in_words(job, planned),
                *notes(job, planned),
                *came_back(job, planned),
                *saves(job, kept, saved),
                *reserves,
            ]
        ),
    )


class _Asking(NamedTuple):
    """How the endpoints are asked.

    Attributes:
        tariffs: of those that are asked about every row, in every form in which they may be asked.
        second: of those that are asked then.
        ladder: the forms of the first one.
    """

    tariffs: list[Tariff]
    second: list[Tariff]
    ladder: Sequence[Wire]


def _asking(job: Job, journal: Reader, source: int) -> _Asking:
    """Return how the endpoints are asked.

    Args:
        job: the run.
        journal: knows the form that was found for a source; then that is the only one.
        source: of the first endpoint.
    """
    ladders = [job.ladder(endpoint) for endpoint in job.endpoints]
    in_forms = tariffs_in_forms(job, job.endpoints, ladders, journal.details(LESSONS))
    known = forms_found(job, journal).get(source)
    found = [wire for wire in ladders[0] if wire.form and wire.form == known]
    firsts = len(job.endpoints) - job.seconds
    tariffs = [tariff for each in in_forms.values() for tariff in each[:firsts]]
    return _Asking(tariffs, [tariff for each in in_forms.values() for tariff in each[firsts:]], found or ladders[0])


def _tier(job: Job, journal: Reader, source: int, load: Load, tariffs: Sequence[Tariff]) -> str:
    """Return the service tiers to ask for, and what they cost against the ordinary one; empty without them.

    Args:
        job: the run.
        journal: of the run.
        source: of the first endpoint.
        load: the requests to the endpoints that are asked about every row.
        tariffs: of these endpoints.
    """
    names = ", then ".join(job.settings.tiers)
    if not names or not load.requests:
        return names
    usual = _asking(replace(job, settings=replace(job.settings, tier=None)), journal, source).tariffs
    here, there = costs_of(load, tariffs, None, ""), costs_of(load, usual, None, "")
    for cost, other, of in ((here.all, there.all, "about "), (here.prompts, there.prompts, "for the prompts ")):
        if cost is not None and other is not None and cost != other:
            return f"{names}: {of}{dollars(cost)} in {job.settings.tiers[0]}, {dollars(other)} in the ordinary tier"
    return names


def _in_dollars(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO


def _reserves(tariffs: Sequence[Tariff], left: int | None) -> list[str]:
    """Return the run's notes about its money before the first call."""
    note = note_of_tiers(tariffs) if left is None else note_of_reserves(tariffs, left)
    return [note] if note else []


class _Sum:
    """Adds up requests to some endpoints.

    Args:
        tariffs: of the endpoints.
        hedged: rows may be asked a second time, which counts in the highest cost.
    """

    def __init__(self, tariffs: Sequence[Tariff], *, hedged: bool) -> None:
        self._tariffs = tariffs
        self._hedged = hedged
        self._largest = 0
        self._requests = self._tokens = 0
        self._most: int | None = 0

    def add(self, messages: Sequence[Message], terms: Terms, tokens: int, times: int) -> None:
        self._requests += times
        self._tokens += times * tokens
        if self._most is not None:
            each = [tariff.on(terms, messages).most(messages) for tariff in self._tariffs]
            largest = max(filter(None, each), default=0)
            self._most = None if None in each else self._most + times * largest
            self._largest = max(self._largest, largest)

    def load(self) -> Load:
        most = self._most
        if self._hedged and most is not None:
            most += self._requests // HEDGED_OF * self._largest
        return Load(self._requests, self._tokens, most, None)


class _Ahead(NamedTuple):
    """What would be sent.

    Attributes:
        load: to the endpoints that are asked about every row.
        further: to those that are asked then.
        first: the first request.
        counted_by: the name of what counted the tokens.
    """

    load: Load
    further: Further
    first: First
    counted_by: str


def _load(job: Job, journal: Reader, planned: Plan, asking: _Asking) -> _Ahead:
    """Read the input again, and add up what would be sent."""
    first, ladder = First(), asking.ladder
    model = job.endpoints[0].real_source.model
    plain = counter(model).seeing(model)
    typical = None if job.shape is None else plain.count(typical_answer(job.shape)) + 1
    answer_tokens = tokens_of_an_answer(journal, planned.sources, asking.tariffs, typical)
    count = plain.knowing(job.examples.texts if job.examples else ())
    more = count.count(json.dumps([*ladder[0].params.values(), ladder[0].line])) if ladder else 0
    size = smallest([job.size_at(endpoint) for endpoint in job.endpoints])
    is_hedged = job.settings.hedge is not None
    firsts = _Sum(asking.tariffs, hedged=is_hedged and len(job.tiers.first) > 1)
    seconds, is_first, certain = _Sum(asking.second, hedged=is_hedged and len(job.tiers.second) > 1), True, 0
    for messages, terms, times in _requests(job, journal, planned, size):
        shown = messages[:1] if job.task is Task.EMBEDDING else messages
        first, is_first = First.of(shown, ladder) if is_first else first, False
        tokens = _prompt_tokens(messages, job.task, count) + more
        firsts.add(messages, terms, tokens, times)
        if job.seconds:
            seconds.add(messages, terms, tokens, 1)
            certain += not times
    share = planned.cut.share if planned.cut else None
    return _Ahead(
        firsts.load()._replace(answer_tokens=0.0 if job.task is Task.EMBEDDING else answer_tokens),
        Further(seconds.load()._replace(answer_tokens=answer_tokens), certain, share),
        first,
        plain.name,
    )


def _prompt_tokens(messages: Sequence[Message], task: Task, count: Counter) -> int:
    """Return the estimated model tokens of a request; texts without a chat have nothing around them."""
    if task is Task.CHAT:
        return prompt_tokens(messages, count)
    return sum(count.count(message["content"]) for message in messages)


def _requests(job: Job, journal: Reader, planned: Plan, size: Size) -> Iterator[tuple[Sequence[Message], Terms, int]]:
    """Read the input again, and yield the messages of each request that would be sent, and how often it is.

    Args:
        job: the run.
        journal: knows which rows have a result.
        planned: what is left to do.
        size: the most that a request may hold.
    """
    waiting: list[Message] = []
    filling = Filling(size)
    times = Times(job.settings, job.keyword, journal, planned.first_sources, planned.counts.rows)
    for start, rows in job.selection.slices(ROWS_AT_ONCE):
        states = journal.states(start, start + len(rows))
        job.look_ahead(rows)
        for position, (values, state) in enumerate(zip(rows, states, strict=True), start):
            asked = times.of(position, state)
            # A row whose answers are there may go on to a second endpoint.
            if not asked and (not job.seconds or state.result is not None or state.leader is not None):
                continue
            messages, terms, fault = job.question_of(position, values)
            if fault:
                continue
            if job.task is not Task.EMBEDDING:
                yield messages, terms, asked
            elif filling.takes(messages):
                waiting += messages
            else:
                yield waiting, terms, 1
                waiting, filling = [*messages], Filling(size)
                filling.takes(messages)
    if waiting:
        yield waiting, job.terms, 1
