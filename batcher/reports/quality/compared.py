"""Two runs on one table beside each other: the numbers, and how they are shown.

Invariant: a comparison is a value: it reads nothing. All text in a page is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from batcher.money.prices import NANO
from batcher.tables import Readable, cut, told_apart, width, wrapped
from batcher.visible import harmless
from batcher.words import counted, dollars, elapsed, option, percent, verb

_COLUMNS = 80  # of a line of the text
_LABEL = 12  # columns of a label, with the spaces around it
_ANSWER = 30  # columns of an answer
_SHOWN = 8  # pairs of answers in the text


class Ranged(NamedTuple):
    """A number with its 95% interval; `low` and `high` are None if it has none."""

    value: float
    low: float | None = None
    high: float | None = None


class Noise(NamedTuple):
    """How many answers change when the same question is asked again.

    Attributes:
        rows: that were drawn at random and asked again.
        changed: those of them with another answer.
        share: of rows whose answer changes, with its interval.
    """

    rows: int
    changed: int
    share: Ranged


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs.

    Attributes:
        keyword: names the run.
        directory: its output directory.
        asks: the models that it asked.
        rows, ok, invalid, error, left: the paired rows, and those by status; `left` have no result yet.
        accuracy: the share of right answers, by the hand labels; None without them.
        cost_usd: US dollars for the answers; None if the price of some is unknown.
        prompt_tokens, completion_tokens: model tokens of the answers; None if a server did not report some.
        elapsed_s: seconds of work.
        noise: None if no question was asked again.
    """

    keyword: str
    directory: str
    asks: tuple[str, ...]
    rows: int
    ok: int
    invalid: int
    error: int
    left: int
    accuracy: Ranged | None
    cost_usd: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    elapsed_s: float
    noise: Noise | None

    @property
    def invalid_share(self) -> float | None:
        """The share of `invalid` rows among those that were answered; None if none was."""
        answered = self.ok + self.invalid
        return self.invalid / answered if answered else None


class Example(NamedTuple):
    """A row that the two runs answer differently.

    Attributes:
        row: its position in the first run, from 0.
        other_row: its position in the other run.
        text: what it holds in the columns of the question; None if its cells are gone.
    """

    row: int
    other_row: int
    text: str | None


class Difference(NamedTuple):
    """A pair of answers that differ: of the first run, and of the other; the rows that have it; and some of them."""

    answer: str
    other: str
    rows: int
    examples: tuple[Example, ...]


class OnGold(NamedTuple):
    """The accuracy of both runs on the same hand labels.

    Attributes:
        rows: paired, with a hand label; a row without an answer is wrong.
        both: of which both answers are right.
        only_first, only_other: of which only that run's answer is right.
        neither: of which no answer is right.
        difference: the other run's accuracy minus the first's.
        p: of the test that both are right equally often.
        test: its name.
        note: why there is no interval, or empty.
    """

    rows: int
    both: int
    only_first: int
    only_other: int
    neither: int
    difference: Ranged
    p: float
    test: str
    note: str = ""


class InNumbers(NamedTuple):
    """Answers that are numbers, of the rows that have one in both runs.

    Attributes:
        rows: that have one.
        mean, other_mean: of each run.
        difference: the mean of the other run's number minus the first's.
        absolute: the mean of the absolute difference.
    """

    rows: int
    mean: float
    other_mean: float
    difference: float
    absolute: float


class Crossed(NamedTuple):
    """Rows with an answer in both runs, counted by both answers.

    Attributes:
        answers: of either run.
        counts: rows, for each answer of the first run by that of the other, in the same order.
    """

    answers: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()


class FieldAgreement(NamedTuple):
    """A field of the answers: rows that have it in both runs, and those of them that agree in it."""

    name: str
    rows: int
    agree: int


@dataclass(frozen=True, kw_only=True)
class Compared(Readable):
    """Two runs on one table.

    Attributes:
        first, other: the runs.
        field: of the answers that is compared; None: the whole answer.
        columns: by which rows are paired: those that the questions read.
        differ_in: what differs between the questions: `prompt`, `system`, `examples`, `labels`, `schema`,
            `parameters`, `model`.
        rows: paired.
        only_first, only_other: rows that only one run has.
        both: paired rows with an answer in both runs: it is `ok`, and has the field that is compared.
        agree: those of them with the same answer.
        kappa: Cohen's, between the runs; None if the answers are no categories.
        differences: pairs of answers that differ, the most frequent first.
        kinds: the number of different such pairs; None if there are too many to count.
        crossed: rows by both answers; empty if there are more than 100 different ones.
        on_gold: None without hand labels.
        hint: why there is no accuracy, and how to get it; empty if there is one.
        numbers: None if the answers are no numbers.
        fields: how the fields of a schema agree.
        verdict: what the noise says about the difference of the two runs, in words.
        notes: what else to know.
    """

    first: Side
    other: Side
    field: str | None
    columns: tuple[str, ...]
    differ_in: tuple[str, ...]
    rows: int
    only_first: int
    only_other: int
    both: int
    agree: int
    kappa: float | None
    differences: tuple[Difference, ...]
    kinds: int | None
    crossed: Crossed
    on_gold: OnGold | None
    hint: str
    numbers: InNumbers | None
    fields: tuple[FieldAgreement, ...]
    verdict: str
    notes: tuple[str, ...] = ()

    @property
    def agreement(self) -> float | None:
        """The share of rows with the same answer, of those that have one in both runs; None if there are none."""
        return self.agree / self.both if self.both else None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary that JSON can hold."""
        values = _plain(asdict(self)) | {"agreement": self.agreement}
        for name, side in (("first", self.first), ("other", self.other)):
            values[name] = _plain_side(side)
        values["differences"] = [
            each._asdict() | {"examples": [example._asdict() for example in each.examples]} for each in self.differences
        ]
        values["crossed"] = {name: [*each] for name, each in self.crossed._asdict().items()}
        values["on_gold"] = None if self.on_gold is None else _named(self.on_gold)
        values["numbers"] = None if self.numbers is None else self.numbers._asdict()
        values["fields"] = [each._asdict() for each in self.fields]
        return values

    def __str__(self) -> str:
        return harmless("\n".join(_text(self)))

    def _repr_html_(self) -> str:
        """Show tables and a picture in a notebook."""
        from batcher.reports.quality.compared_page import html_of  # noqa: PLC0415 - it needs this module

        return html_of(self)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, tuple) else value for name, value in values.items()}


def _named(values: Any) -> dict[str, Any]:
    return {name: each._asdict() if isinstance(each, Ranged) else each for name, each in values._asdict().items()}


def _plain_side(side: Side) -> dict[str, Any]:
    values = _plain(asdict(side)) | {"invalid_share": side.invalid_share, "elapsed_s": round(side.elapsed_s, 3)}
    values["accuracy"] = None if side.accuracy is None else side.accuracy._asdict()
    values["noise"] = None if side.noise is None else _named(side.noise)
    return values


# -- In words


def with_interval(number: Ranged) -> str:
    """Return a share with its interval: `86.0% (78.1% to 91.9%)`."""
    ends = "" if number.low is None or number.high is None else f" ({percent(number.low)} to {percent(number.high)})"
    return f"{percent(number.value)}{ends}"


def _points(number: Ranged) -> str:
    """Return a difference of two shares, in percentage points."""
    ends = "" if number.low is None or number.high is None else f" ({_signed(number.low)} to {_signed(number.high)})"
    return f"{_signed(number.value)} points{ends}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0: no -0.0


def p_value(p: float) -> str:
    """Return the p-value of a test: `p = 0.23`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def noise_in_words(noise: Noise) -> str:
    """Return how many answers change when asked again: `4 of 100 change: 4.0% (1.1% to 9.9%)`."""
    return f"{noise.changed:,} of {noise.rows:,} change: {with_interval(noise.share)}"


def names_of(found: Compared) -> tuple[str, str]:
    """Return what tells the two runs apart: their keywords, or if these are the same their directories."""
    if found.first.keyword != found.other.keyword:
        return found.first.keyword, found.other.keyword
    return tuple(f"{side.directory}/{side.keyword}" for side in (found.first, found.other))  # type: ignore[return-value]


def title_of(found: Compared) -> str:
    """Return what stands above a comparison."""
    of = f", field {found.field!r}" if found.field is not None else ""
    return f"{' and '.join(names_of(found))}{of}"


def _pairing(found: Compared) -> str:
    first, other = names_of(found)
    only = [(found.only_first, first), (found.only_other, other)]
    alone = "".join(f"; {count:,} only in {name}" for count, name in only if count)
    by = ", ".join(map(repr, found.columns)) or "their order"
    return f"{counted(found.rows, 'row')} by {by}{alone}"


def _agreement(found: Compared) -> str:
    if found.agreement is None:
        return "no row has an answer in both runs"
    kappa = "" if found.kappa is None else f"; Cohen's kappa {found.kappa:.2f}"
    return f"{percent(found.agreement)}: {found.agree:,} of {found.both:,} rows with an answer in both{kappa}"


def _gold(gold: OnGold, names: tuple[str, str]) -> Iterator[str]:
    rows = f"{counted(gold.rows, 'row')} with a hand label"
    yield f"{names[1]} against {names[0]}: {_points(gold.difference)} on {rows}; {gold.test} {p_value(gold.p)}"
    yield (
        f"right in both {gold.both:,}, only in {names[0]} {gold.only_first:,}, only in {names[1]}"
        f" {gold.only_other:,}, in neither {gold.neither:,}"
    )
    if gold.note:
        yield gold.note


def _numbers(found: InNumbers) -> str:
    return (
        f"mean {found.mean:.4g} and {found.other_mean:.4g}: {found.difference:+.4g}; a row differs by"
        f" {found.absolute:.4g} on average"
    )


def _money(side: Side) -> str:
    return "unknown" if side.cost_usd is None else dollars(round(side.cost_usd * NANO))


def _tokens(side: Side) -> str:
    if side.prompt_tokens is None or side.completion_tokens is None:
        return "unknown"
    return f"{side.prompt_tokens:,} + {side.completion_tokens:,}"


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)


def sides_of(found: Compared) -> list[tuple[str, ...]]:
    """Return what is known of each run, a line for each fact."""
    sides = found.first, found.other
    facts = [
        ("asks", *(", ".join(side.asks) or "unknown" for side in sides)),
        ("ok", *(f"{side.ok:,}" for side in sides)),
        ("invalid", *(f"{side.invalid:,} ({_share(side.invalid_share)})" if side.invalid else "0" for side in sides)),
        ("error", *(f"{side.error:,}" for side in sides)),
        ("left", *(f"{side.left:,}" for side in sides)),
        ("accuracy", *("" if side.accuracy is None else with_interval(side.accuracy) for side in sides)),
        ("noise", *("not measured" if side.noise is None else with_interval(side.noise.share) for side in sides)),
        ("money", *map(_money, sides)),
        ("tokens", *map(_tokens, sides)),
        ("time", *(elapsed(side.elapsed_s) for side in sides)),
    ]
    dull = {"left": "0", "error": "0", "accuracy": ""}
    return [each for each in facts if each[0] not in dull or {*each[1:]} != {dull[each[0]]}]


def facts_of(found: Compared) -> Iterator[tuple[str, str]]:
    """Yield the facts about both runs, each with its label; a fact without one belongs to that before it."""
    for name, side in zip(names_of(found), (found.first, found.other), strict=True):
        if side.left:
            wrong = "" if found.on_gold is None else "; those with a hand label count as wrong"
            yield "warning", f"{name} is not finished: {side.left:,} of {side.rows:,} rows have no result yet{wrong}"
    yield "paired", _pairing(found)
    yield "questions", f"differ in {', '.join(found.differ_in)}" if found.differ_in else "are the same"
    yield "agreement", _agreement(found)
    for each in found.fields:
        yield "", f"{each.name}: {percent(each.agree / each.rows)} of {counted(each.rows, 'row')}"
    if found.numbers is not None:
        yield "numbers", _numbers(found.numbers)
    yield "noise", found.verdict
    said = [found.hint] if found.on_gold is None else [*_gold(found.on_gold, names_of(found))]
    yield from zip(("accuracy", "", ""), said, strict=False)
    for note in found.notes:
        yield "note", note


# -- As text


def _text(found: Compared) -> Iterator[str]:
    names = names_of(found)
    yield title_of(found)
    for label, text in facts_of(found):
        yield from wrapped(f"  {label:<{_LABEL - 3}} ", on_one_line(text), _COLUMNS)
    yield ""
    yield from _table(("", *names), sides_of(found))
    if found.differences:
        yield ""
        more = f", the most frequent of {found.kinds:,}" if found.kinds and found.kinds > _SHOWN else ""
        yield f"  rows that differ, {names[0]} -> {names[1]}{more}"
        shown = found.differences[:_SHOWN]
        short = told_apart((on_one_line(text) for each in shown for text in (each.answer, each.other)), _ANSWER)
        for each in shown:
            pair = (short[on_one_line(text)] or "(empty)" for text in (each.answer, each.other))
            yield f"{each.rows:>9,}  {' -> '.join(pair)}"
            for example in each.examples[:1]:
                yield cut(f"{'':11}row {example.row}: {on_one_line(example.text or '(cells gone)')}", _COLUMNS)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    room = (_COLUMNS - _LABEL) // 2
    for label, *cells in (heads, *lines):
        padded = (_padded(cut(on_one_line(each), room - 2), room) for each in cells)
        yield f"  {label:<{_LABEL - 2}}{''.join(padded)}".rstrip()


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def on_one_line(text: str) -> str:
    return harmless(" ".join(text.split()))


def how_to_measure(keyword: str, rows: int = 100) -> str:
    """Return the command that measures how many answers change by themselves."""
    return f"{verb('run')} with the options of {keyword} and {option('repeat_sample', rows)}"
