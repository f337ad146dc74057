"""What to look at in a run: rules in plain words, each with a threshold.

Invariant: a rule reads the facts alone, and says numbers that they hold; docs/report.md lists rules and thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median

from batcher.reports.quality.estimated import Estimate, Kind, shown_label
from batcher.reports.quality.texts import command_of
from batcher.reports.whole.facts import Facts, Hint
from batcher.tables import cut
from batcher.words import counted, dollars, duration, option, percent, same_command

FEWEST_ROWS = 20
"""Rows, or requests, below which a share says little."""
ONE_LABEL = 0.95
CUT_OFF = 0.01
NEAR_MISSES = 3
EMPTY = 0.005
ROWS_A_LABEL = 20
FAILED = 0.01
INVALID = 0.02
LIMITED = 0.05
RETRIES = 0.10
SLOWER = 3.0
FEWEST_ANSWERS = 30
TAIL, TAIL_S = 10.0, 10.0
PAUSED = 0.20
BUDGET = 0.80
OVER_PLAN = 1.5
THINKING = 0.80
FEW_HAND_LABELS = 50
WIDE = 0.20
MIXED_UP, FEWEST_MIXED_UP = 0.30, 5
TIED = 0.05
UNPRICED = 1
_NANO = 1e9
_NAME = 40  # columns of a label in a sentence
_MOST_NEAR = 3


def hints_of(facts: Facts) -> Iterator[Hint]:
    """Yield what to look at, the most important first."""
    for rule, find in RULES.items():
        yield from (Hint(rule, said, advice) for said, advice in find(facts))


Found = Iterable[tuple[str, str]]


def _unfinished(facts: Facts) -> Found:
    if facts.figures.left and facts.state in {"stopped", "killed"}:
        rows = counted(facts.figures.left, "row has", "rows have")
        yield f"The run is not finished: {rows} no result yet.", f"Give {same_command()} again: it goes on there."


def _failed(facts: Facts) -> Found:
    figures = facts.figures
    if figures.error and figures.error >= FAILED * figures.rows:
        share = percent(figures.error / figures.rows)
        again = option("retry_failed", value=True)
        yield (
            f"{counted(figures.error, 'row')} ({share}) ended without an answer.",
            f"The reasons stand under Failures; {same_command()} with {again} sends these rows again.",
        )


def _invalid(facts: Facts) -> Found:
    figures = facts.figures
    if figures.invalid and figures.invalid >= INVALID * figures.rows:
        yield (
            f"{counted(figures.invalid, 'answer')} ({percent(figures.invalid / figures.rows)}) came, and do not fit."
            if figures.invalid > 1
            else f"1 answer ({percent(1 / figures.rows)}) came, and does not fit.",
            (
                "Their texts stand under Failures. Say in the prompt what an answer must look like, or let more count"
                " (aliases of labels)."
            ),
        )


def _near(facts: Facts) -> Found:
    for label, rows in facts.near[:_MOST_NEAR]:
        if rows >= NEAR_MISSES:
            yield (
                f"{rows:,} invalid rows are near misses of {_name(label)}.",
                (
                    f"Make what they say an alias of the label, and run it with {option('on_change', 'reuse')}: the"
                    " answers are read anew, and nothing is sent."
                ),
            )


def _cut(facts: Facts) -> Found:
    figures = facts.figures
    answered = figures.ok + figures.invalid
    if answered and figures.cut and figures.cut >= CUT_OFF * answered:
        yield (
            f"{percent(figures.cut / answered)} of the answers ({figures.cut:,}) end at max_tokens.",
            "Raise max_tokens, or ask for shorter answers: what was cut off is lost.",
        )


def _empty(facts: Facts) -> Found:
    answered = facts.figures.ok + facts.figures.invalid
    if answered and facts.empty and facts.empty >= EMPTY * answered:
        yield (
            f"{counted(facts.empty, 'answer is', 'answers are')} empty ({percent(facts.empty / answered)}).",
            "A service answers so if a filter stops it, or if max_tokens ends while the model still thinks.",
        )


def _one_label(facts: Facts) -> Found:
    for found in _of_labels(facts):
        if found.ok < FEWEST_ROWS or len(facts.ran.labels) == 1:
            continue
        most = max(found.labels, key=lambda each: each.rows)
        if most.rows == found.ok:
            yield (
                f"{_of(found)}All {found.ok:,} rows have the same answer: {_name(most.label)}",
                "Look at a few of them: often the prompt does not name the column, or an example decides.",
            )
        elif most.rows >= ONE_LABEL * found.ok:
            yield (
                f"{_of(found)}One label, {_name(most.label)}, takes {percent(most.rows / found.ok)} of the rows.",
                "If that is not so in the table, look at rows of the other labels, and at what the prompt says.",
            )


def _unused(facts: Facts) -> Found:
    labels = facts.ran.labels
    if not labels or facts.figures.ok < ROWS_A_LABEL * len(labels) or not facts.estimates:
        return
    seen = {each.label for each in facts.estimates[0].labels if each.rows}
    if never := [label for label in labels if label not in seen]:
        shown = ", ".join(map(_name, never[:3])) + (f" and {len(never) - 3:,} more" if len(never) > 3 else "")
        yield (
            f"{counted(len(never), 'label')} of {len(labels):,} never occur{'s' if len(never) == 1 else ''}: {shown}.",
            "Either the table has no such rows, or the prompt does not say what these labels mean.",
        )


def _mixed_up(facts: Facts) -> Found:
    for found in _of_labels(facts):
        mistakes = [each for each in found.mistakes if each.label is not None]
        rows = sum(each.rows for each in mistakes)
        if rows and mistakes[0].rows >= max(FEWEST_MIXED_UP, MIXED_UP * rows):
            worst = mistakes[0]
            yield (
                (
                    f"{_of(found)}{worst.rows:,} of {rows:,} mistakes are {_name(worst.gold)} taken for"
                    f" {_name(worst.label or '')}."
                ),
                "Describe in the prompt what tells these two labels apart, or make them one.",
            )


def _few_hand_labels(facts: Facts) -> Found:
    for found in facts.estimates[:1]:
        if 0 < found.gold < FEW_HAND_LABELS and found.gold < found.rows:
            more = f" About {found.more:,} more would halve the interval." if found.more else ""
            yield (
                f"Only {counted(found.gold, 'row has', 'rows have')} a hand label.",
                f"{command_of(facts, 'sample', max(100, 2 * FEW_HAND_LABELS))} draws more at random.{more}",
            )
        elif found.kind is not Kind.NUMBERS and _is_wide(found):
            yield (
                "The interval of the accuracy is more than 20 points wide.",
                f"About {counted(found.more or 0, 'more hand label')} would make it half as wide.",
            )


def _is_wide(found: Estimate) -> bool:
    low, high = found.accuracy.low, found.accuracy.high
    return bool(found.more) and low is not None and high is not None and high - low > WIDE


def _limited(facts: Facts) -> Found:
    requests = facts.figures.requests
    limited = sum(each.limited for each in facts.endpoints.each)
    if requests >= FEWEST_ROWS and limited >= LIMITED * requests:
        yield (
            f"{percent(limited / requests)} of the requests were refused as too many (HTTP 429).",
            f"Set {option('rpm')} to the limit of the service: staying below it is faster than meeting it.",
        )


def _retries(facts: Facts) -> Found:
    figures = facts.figures
    if figures.requests >= FEWEST_ROWS and figures.retries >= RETRIES * figures.requests:
        yield (
            f"{percent(figures.retries / figures.requests)} of the requests were further attempts at a row.",
            "Requests that failed stand under Tokens and money, and when they did, under Over time.",
        )


def _slow(facts: Facts) -> Found:
    known = [each for each in facts.endpoints.each if each.quantiles and each.answered >= FEWEST_ANSWERS]
    for each in known:
        others = [other.quantiles[0] for other in known if other is not each]
        if others and each.quantiles[0] >= SLOWER * median(others) > 0:
            times = each.quantiles[0] / median(others)
            yield (
                (
                    f"{cut(each.name, 2 * _NAME)} takes {times:.1f} times as long as the others"
                    f" ({each.quantiles[0]:.2f} s against {median(others):.2f} s at the median)."
                ),
                "A pool gives it fewer rows by itself; leave it out if it costs as much as the others.",
            )


def _tail(facts: Facts) -> Found:
    for each in facts.endpoints.each:
        if each.quantiles and each.answered >= 10 * FEWEST_ROWS:
            half, _, _, most, _ = each.quantiles
            if most >= TAIL_S and most >= TAIL * half:
                yield (
                    (
                        f"1 in 100 answers of {cut(each.name, 2 * _NAME)} takes {most:.0f} s or longer; half take"
                        f" {half:.1f} s or less."
                    ),
                    f"If the service hangs, a shorter {option('timeout')} gives up on such requests earlier.",
                )


def _paused(facts: Facts) -> Found:
    if facts.timeline is None:
        return
    paused: dict[str, float] = {}
    for each in facts.timeline.pauses:
        if each.who != "by hand":
            paused[each.who] = paused.get(each.who, 0.0) + each.end - each.start
    longest = max(paused.values(), default=0.0)
    if longest > max(PAUSED * facts.timeline.seconds, 1.0):
        yield (
            f"An endpoint answered nothing for {duration(longest)} of {duration(facts.timeline.seconds)} at work.",
            "A second endpoint in the pool takes the rows meanwhile.",
        )


def _budget(facts: Facts) -> Found:
    processes = facts.ran.processes
    budget = processes[-1].budget_usd if processes else None
    spent = (facts.figures.cost_usd or 0.0) + (facts.figures.uncertain_usd or 0.0)
    if budget and spent >= BUDGET * budget:
        yield (
            (
                f"{dollars(round(spent * _NANO))} of the budget of {dollars(round(budget * _NANO))} may be spent"
                f" ({percent(min(spent / budget, 1.0))})."
            ),
            f"A run stops before the budget is exceeded; {option('budget')} raises it.",
        )


def _over_plan(facts: Facts) -> Found:
    costs = [each for each in facts.ran.processes if each.cost_usd and each.spent_usd]
    if facts.ran.processes and costs and costs[-1] is facts.ran.processes[-1]:
        last = costs[-1]
        planned, spent = last.cost_usd or 0.0, last.spent_usd or 0.0
        if spent > OVER_PLAN * planned:
            yield (
                (
                    f"The answers cost {spent / planned:.1f} times what was planned"
                    f" ({dollars(round(spent * _NANO))} against {dollars(round(planned * _NANO))})."
                ),
                "Compare the tokens under Tokens and money: longer answers than expected are the usual reason.",
            )


def _thinking(facts: Facts) -> Found:
    thought = sum(each.reasoning_tokens for each in facts.endpoints.each)
    given = sum(each.completion_tokens for each in facts.endpoints.each)
    if given and thought >= THINKING * given:
        yield (
            f"{percent(thought / given)} of the completion tokens were spent on thinking.",
            "If the answers are as good without, a lower reasoning effort costs less.",
        )


def _tied(facts: Facts) -> Found:
    figures = facts.figures
    if figures.tied and figures.ok >= FEWEST_ROWS and figures.tied >= TIED * figures.ok:
        share = percent(figures.tied / figures.ok)
        yield (
            f"{counted(figures.tied, 'vote was', 'votes were')} tied ({share} of the rows).",
            f"An odd {option('samples')} avoids most ties; the split rows stand under Least certain rows.",
        )


def _unpriced(facts: Facts) -> Found:
    if facts.figures.unpriced >= UNPRICED and facts.ran.processes and facts.ran.processes[-1].budget_usd:
        requests = counted(facts.figures.unpriced, "request")
        yield (
            f"The price of {requests} is unknown: that part is not in the budget.",
            f"Give {option('price_in')} and {option('price_out')}.",
        )


def _warnings(facts: Facts) -> Found:
    for found in facts.estimates:
        for warning in found.warnings:
            if not warning.startswith("the run is not finished"):
                yield f"{_of(found)}{warning[:1].upper()}{warning[1:]}.", ""


def _of_labels(facts: Facts) -> list[Estimate]:
    return [each for each in facts.estimates if each.kind is Kind.LABELS and each.labels]


def _of(found: Estimate) -> str:
    return f"{found.field}: " if found.field is not None else ""


def _name(label: str) -> str:
    return cut(shown_label(label).replace("\n", " "), _NAME)


RULES: Mapping[str, Callable[[Facts], Found]] = {
    "unfinished": _unfinished,
    "failed rows": _failed,
    "invalid answers": _invalid,
    "near misses": _near,
    "cut off": _cut,
    "empty answers": _empty,
    "one label": _one_label,
    "labels that never occur": _unused,
    "mixed up": _mixed_up,
    "few hand labels": _few_hand_labels,
    "429": _limited,
    "retries": _retries,
    "slow endpoint": _slow,
    "slow answers": _tail,
    "pauses": _paused,
    "budget": _budget,
    "over the plan": _over_plan,
    "unknown prices": _unpriced,
    "thinking": _thinking,
    "tied votes": _tied,
    "warnings": _warnings,
}
"""The rules by their names, the most important first."""
