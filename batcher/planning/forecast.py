"""Forecasts a run: rows, requests, model tokens, money and time, without a call and without a file.

Invariant: it makes its plan with the run's own code, on a copy of the journal.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from batcher.endpoint import Endpoint, by_account
from batcher.errors import outermost
from batcher.input.prompt import PromptFunction
from batcher.journal.opening import rehearse
from batcher.journal.reading import Reader
from batcher.money.prices import NANO, nano_dollars
from batcher.money.spending import note_of_reserves, note_of_tiers
from batcher.money.tariff import LESSONS, Tariff, tariffs_of
from batcher.money.tokens import Counter, counter, prompt_tokens
from batcher.planning.job import ROWS_AT_ONCE, Job, prepare
from batcher.planning.making import make
from batcher.planning.words import in_words, notes
from batcher.records import Usage
from batcher.settings import Options, Settings
from batcher.signatures import with_options
from batcher.tables import Described, Line
from batcher.words import counted, dollars, duration, option

if TYPE_CHECKING:
    from batcher.input.opening import Data


@dataclass(frozen=True)
class Forecast(Described):
    """What `run` would do with the same arguments.

    Attributes:
        rows: of the input (of its first `limit` rows).
        chunks: the number of chunk files.
        answered: rows whose answer can be used, adopted ones included.
        adopted: rows whose answer was found in chunk files without a journal.
        error: rows that failed before and are not sent again.
        new: rows that were never sent.
        changed: rows that have an answer to another question; a run stops there unless `on_change` says what to do.
        gone: answered rows that are gone while there are new ones; a run stops there as well.
        reasons: what changed, in words.
        same: rows with the same question as another row; with `dedup` they are not sent.
        requests: to be sent, each row at its first attempt.
        prompt_tokens: of those requests.
        counted_by: `tiktoken`, or `estimated`, from the length of the text.
        completion_tokens: of their answers, if these are as long as the answers so far; None before the first answer.
        cost_usd: the expected cost in US dollars; None if a price or the length of the answers is unknown.
        most_usd: the highest possible cost in US dollars; None if nothing bounds an answer (`max_tokens`).
        seconds: the duration that the limits impose; None if an endpoint has no limit.
    """

    keyword: str
    rows: int
    chunks: int
    answered: int
    adopted: int
    error: int
    new: int
    changed: int
    gone: int
    reasons: tuple[str, ...]
    same: int
    requests: int
    prompt_tokens: int
    counted_by: str
    completion_tokens: int | None
    cost_usd: float | None
    most_usd: float | None
    seconds: float | None
    summary: str

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as a dictionary that JSON can hold."""
        return asdict(self)

    def _title(self) -> str:
        return self.summary

    def _lines(self) -> Iterator[Line]:
        by = "counted by tiktoken" if self.counted_by == "tiktoken" else "estimated by length"
        completion = self.completion_tokens
        answers = "not yet known" if completion is None else f"about {completion:,}"
        yield Line("requests", f"{self.requests:,}, into {counted(self.chunks, 'chunk')}")
        yield Line("tokens", f"{self.prompt_tokens:,} prompt ({by}), completion {answers}")
        yield Line("money", self._money())
        yield Line("time", "as the service allows" if self.seconds is None else duration(self.seconds))

    def _money(self) -> str:
        if self.most_usd == 0:
            return "none: nothing is sent" if not self.requests else "none: the endpoints are free"
        parts = [f"about {dollars(round(self.cost_usd * NANO))}"] if self.cost_usd is not None else []
        parts += [f"at most {dollars(round(self.most_usd * NANO))}"] if self.most_usd is not None else []
        ways = (option("price_in"), option("price_out"), option("param", {"max_tokens": "N"}))
        return ", ".join(parts) or f"unknown ({', '.join(ways)})"


class _Load(NamedTuple):
    """The requests to send: their number, the model tokens of their prompts, and their highest cost in nano-dollars."""

    requests: int
    prompt_tokens: int
    most: int | None


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
    job = prepare(data, prompt, settings)
    job.store.check()
    with rehearse(job.store.journal_path) as journal:
        planned = make(job, journal, lambda: False, is_rehearsal=True)
        tariffs = tariffs_of(job.endpoints, settings.params, job.wording, journal.details(LESSONS))
        count = counter(job.endpoints[0].source.model)
        load = _load(job, journal, tariffs, count)
        usual = journal.usual()
        reserves = _reserves(job, journal, tariffs) if load.requests else []
    left = load.requests
    completion = None if usual is None else round(usual.completion_tokens * left)
    cost = _cost(load, completion, tariffs)
    return Forecast(
        keyword=job.keyword,
        rows=planned.counts.rows,
        chunks=-(-planned.counts.rows // settings.chunk_size),
        answered=planned.counts.ok + planned.counts.invalid,
        adopted=planned.adopted,
        error=planned.counts.error,
        new=planned.counts.left - planned.changed,
        changed=planned.changed,
        gone=planned.gone,
        reasons=planned.reasons,
        same=planned.same,
        requests=left,
        prompt_tokens=load.prompt_tokens,
        counted_by=count.name,
        completion_tokens=completion,
        cost_usd=None if cost is None else cost / NANO,
        most_usd=None if load.most is None else load.most / NANO,
        seconds=_seconds(job.endpoints, load, completion),
        summary="\n".join([in_words(job.keyword, planned), *notes(job, planned), *reserves]),
    )


def _reserves(job: Job, journal: Reader, tariffs: Sequence[Tariff]) -> list[str]:
    """Return the run's notes about its money before the first call."""
    if job.settings.budget is None:
        return [note for note in [note_of_tiers(tariffs)] if note]
    left = nano_dollars(job.settings.budget) - journal.spent().total
    return [note for note in [note_of_reserves(tariffs, left)] if note]


def _load(job: Job, journal: Reader, tariffs: Sequence[Tariff], count: Counter) -> _Load:
    """Read the input again, and add up what would be sent."""
    requests = tokens = 0
    most: int | None = 0
    for start, rows in job.dataset.slices(ROWS_AT_ONCE, job.settings.limit):
        states = journal.states(start, start + len(rows))
        for position, (values, state) in enumerate(zip(rows, states, strict=True), start):
            if state.result is not None or state.leader is not None:
                continue
            messages = job.messages(position, values)
            requests += 1
            tokens += prompt_tokens(messages, count)
            each = [tariff.most(messages) for tariff in tariffs] if most is not None else [None]
            most = None if most is None or None in each else most + max(filter(None, each), default=0)
    return _Load(requests, tokens, most)


def _cost(load: _Load, completion_tokens: int | None, tariffs: Sequence[Tariff]) -> int | None:
    """Return the cost of the requests, in nano-dollars, if the endpoints share them evenly."""
    prices = [tariff.price for tariff in tariffs if tariff.price]
    if not load.requests:
        return 0
    if completion_tokens is None or len(prices) < len(tariffs):
        return None
    one = Usage(round(load.prompt_tokens / load.requests), round(completion_tokens / load.requests))
    return round(statistics.mean(price.cost(one) for price in prices) * load.requests)


def _seconds(endpoints: Sequence[Endpoint], load: _Load, completion_tokens: int | None) -> float | None:
    """Return the seconds that the requests take under the accounts' limits."""
    if not load.requests:
        return 0.0
    tokens = (load.prompt_tokens + (completion_tokens or 0)) / load.requests
    rates = []
    for endpoint, *_ in by_account(endpoints):
        limits = (endpoint.rps, endpoint.rpm and endpoint.rpm / 60, endpoint.tpm and endpoint.tpm / 60 / tokens)
        rates.append(min((limit for limit in limits if limit), default=0.0))
    return load.requests / sum(rates) if all(rates) else None
