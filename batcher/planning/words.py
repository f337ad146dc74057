"""A plan in words: what there is to do, what changed since the last run, and what the user may do about it.

Invariant: it reads the plan alone, and counts nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batcher.chat_model import retries_of
from batcher.journal.entries import Usual
from batcher.planning.job import Job
from batcher.words import counted, dollars

if TYPE_CHECKING:
    from batcher.planning.plan import Plan


def in_words(keyword: str, plan: Plan) -> str:
    """Say what there is to do, such as `reviews: 500 rows: 480 answered, 20 new`."""
    counts, changed = plan.counts, plan.changed
    answered = counts.ok + counts.invalid
    adopted = f" ({counted(plan.adopted, 'row')} adopted from chunk files without a journal)" if plan.adopted else ""
    parts = [f"{answered:,} answered{adopted}"] if answered or adopted else []
    parts += [f"{counts.error:,} failed before (--retry-failed sends them again)"] if counts.error else []
    gone = f", and {counted(plan.gone, 'answered row')} {'is' if plan.gone == 1 else 'are'} gone: edited?"
    parts += [f"{counts.left - changed:,} new{gone if plan.gone else ''}"]
    parts += [f"{changed:,} answered to another question ({'; '.join(plan.reasons)})"] if changed else []
    return f"{keyword}: {counted(counts.rows, 'row')}: {', '.join(parts)}"


def notes(job: Job, plan: Plan) -> list[str]:
    """Say what else the user should know before the first call."""
    found = []
    if plan.in_flight.requests:
        bill = "they" if plan.in_flight.most is None else f"at most {dollars(plan.in_flight.most)}"
        count = plan.in_flight.requests
        requests = counted(count, "request was", "requests were")
        found.append(f"{requests} in flight when the last process ended; {bill} may be billed twice.")
    retrying = [each for each in job.endpoints if each.llm is not None and retries_of(each.llm)]
    if retrying and plan.counts.left:
        found.append(
            f"Note: the chat model {retrying[0].source.model} sends failed requests again by itself, and neither counts"
            " nor journal see that: make it with max_retries=0; batcher tries again."
        )
    if job.is_same_for_all and plan.counts.left > 1:
        found.append("Note: the prompt has no {column} hole, so every row asks the same question.")
    elif plan.same:
        done = "are sent once" if job.settings.dedup else "could be sent once (--dedup)"
        rows, those = counted(plan.same, "row asks", "rows ask"), "the two" if plan.same == 1 else "those"
        found.append(f"{rows} what another row asks: {those} {done}.")
    if plan.gone and job.settings.on_change == "reuse" and not job.settings.id_column:
        found.append(
            "The new rows are asked: the place of a row does not tell whether it is one of those that are gone. If a"
            " column identifies the rows, --id-column COLUMN keeps their answers."
        )
    return found


def reasons_of(before: Mapping[str, Any], now: Mapping[str, Any], changed: Mapping[int, int]) -> tuple[str, ...]:
    """Say what changed since the last run, as far as it explains that rows ask something else."""
    reasons = []
    prompt = ("prompt_option", "prompt")
    if "prompt_option" in before and [before[name] for name in prompt] != [now[name] for name in prompt]:
        reasons.append("the prompt changed")
    if before.get("system", now["system"]) != now["system"]:
        reasons.append("the system message changed")
    reasons += _changes(before.get("params", now["params"]), now["params"])
    reasons += _source_changes(before.get("sources", now["sources"]), now["sources"])
    is_comparable = before.get("columns") == now["columns"]
    if changed and not reasons and (0 in changed or not is_comparable):
        is_function = now["prompt_option"] == "function"
        reasons.append("the prompt function returns something else" if is_function else "the rows changed")
    return (*reasons, *(_column_changes(now["columns"], changed) if is_comparable else ()))


def _column_changes(columns: Sequence[str], changed: Mapping[int, int]) -> list[str]:
    """Say which columns of the changed rows hold something else."""
    found = []
    for bit, name in enumerate(columns):
        count = sum(count for mask, count in changed.items() if mask >> bit & 1)
        if count:
            rows = f" in {counted(count, 'row')}" if count < sum(changed.values()) else ""
            found.append(f"column {name} changed{rows}")
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which request parameters changed."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before:
            found.append(f"{name} is new")
        elif name not in now:
            found.append(f"{name} is gone")
        elif before[name] != now[name]:
            is_short = not isinstance(before[name], (dict, list)) and not isinstance(now[name], (dict, list))
            found.append(f"{name} was {before[name]}, is {now[name]}" if is_short else f"{name} changed")
    return found


def _source_changes(before: list[list[str]], now: list[list[str]]) -> list[str]:
    """Say whose answers are no longer wanted."""
    gone, new = [source for source in before if source not in now], [source for source in now if source not in before]
    if len(gone) == len(new) == 1:
        names = ("model", "base URL", "endpoint's parameters")
        pairs = zip(names, gone[0], new[0], strict=True)
        return [f"{name} was {was or 'none'}, is {is_now or 'none'}" for name, was, is_now in pairs if was != is_now]
    return [f"{model} at {base_url or 'its own place'} is not in the pool" for model, base_url, _ in gone]


def explained(job: Job, plan: Plan, usual: Usual | None) -> str:
    new = plan.counts.left - plan.changed
    count, estimate = plan.changed or new, ""
    if usual and usual.cost:
        estimate = f" (about {dollars(round(usual.cost * count))})"
    elif usual:
        estimate = f" (about {(usual.prompt_tokens + usual.completion_tokens) * count:,.0f} model tokens)"
    redo = f"asks {count:,} again" if plan.changed else f"asks the {counted(new, 'new row')}"
    said = in_words(job.keyword, plan)
    return (
        f"{said}{'' if said.endswith('?') else '.'}\n"
        f"Nothing was sent. `--on-change redo` {redo}{estimate}, {_reuse_explained(job, plan)} Or give the new question"
        " another --keyword. Every answer stays in the journal."
    )


def _reuse_explained(job: Job, plan: Plan) -> str:
    if not plan.has_marks:
        return (
            "`--on-change reuse` cannot be used yet: an older batcher wrote this journal. Run the earlier command once:"
            " it sends nothing, and notes what tells the rows apart."
        )
    if plan.own == plan.changed and not plan.gone:
        return "`--on-change reuse` keeps the old answers."
    keeps = f"`reuse` keeps {counted(plan.own, 'answer')} and asks the others" if plan.own else "and so does `reuse`"
    because = f"{keeps}, because the place of a row does not tell which answer is its own."
    if job.settings.id_column:
        return because
    return f"{because} If a column identifies the rows, `--on-change reuse --id-column COLUMN` keeps their answers."
