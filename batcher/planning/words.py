"""A plan in words: the work, the changes since the last run, and the user's choices.

Invariant: it reads only the plan, and counts nothing itself.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape, as_text
from batcher.chat_model import retries_of
from batcher.endpoint import Endpoint, by_account, is_name
from batcher.equality import same
from batcher.input.examples import Examples
from batcher.journal.entries import Usual, source_of
from batcher.journal.matching import Cause
from batcher.money.prices import nano_dollars
from batcher.output.directory import workbook_read
from batcher.output.shards import how_to_merge
from batcher.planning.due import Due
from batcher.planning.escalation import Cut
from batcher.planning.job import Job
from batcher.planning.plan import Older, Plan
from batcher.planning.tasks import of_different_models
from batcher.planning.ways import batches_in_words
from batcher.planning.whom import asked_of, in_lines
from batcher.records import Task
from batcher.settings import FLEX
from batcher.words import as_given, by_reader, counted, dollars, option

_LONGEST_SHOWN = 60  # characters of a parameter in a reason
_MOST_FILES = 3
_OTHER_TASK = "the task"


def in_words(job: Job, plan: Plan) -> str:
    """Return the plan in one line, such as `reviews: 500 rows: 480 answered, 20 new`."""
    counts, changed = plan.counts, plan.changed
    answered = counts.ok + counts.invalid
    origin = "chunk files without a journal" if plan.older is None else " and ".join(map(str, plan.older.paths))
    adopted = f" ({counted(plan.adopted, 'row')} adopted from {origin})" if plan.adopted else ""
    by_hand = f" ({plan.by_hand.corrected:,} by hand)" if plan.by_hand.corrected else ""
    parts = [f"{answered:,} answered{by_hand}{adopted}"] if answered or adopted else []
    again = f" ({option('retry_failed', value=True)} sends them again)"
    if job.settings.requests and counts.error == plan.faulty:
        again = ""  # they are broken lines, for which nothing can be sent
    parts += [f"{counts.error:,} failed before{again}"] if counts.error else []
    parts += [f"{plan.few - plan.beyond:,} with some of their answers"] if plan.few > plan.beyond else []
    parts += [f"{plan.beyond:,} to go on with"] if plan.beyond else []
    parts += [f"{plan.out:,} out in {counted(plan.batches, 'batch', 'batches')}"] if plan.out else []
    parts += [f"{counts.left - changed - plan.few - plan.out:,} new{_gone_in_words(job, plan)}"]
    parts += [_changed_in_words(plan)] if changed else []
    return f"{job.keyword}: {job.selection.in_words(counts.rows)}: {', '.join(parts)}"


def first_lines(job: Job, plan: Plan) -> str:
    """Return the plan, and whom the run asks: in one line for one model, else in a line for each."""
    said = in_words(job, plan)
    if not plan.asks:
        return said
    lines = in_lines(asked_of(job.tiers.first))
    if plan.cut is not None:
        lines += [f"then {line}{_if_below(plan.cut)}" for line in in_lines(asked_of(job.tiers.second))]
    if len(lines) == 1:
        return f"{said}; asks {lines[0]}{for_what(job.task)}"
    return "\n  ".join([f"{said}; asks{for_what(job.task)}", *lines])


def _if_below(cut: Cut) -> str:
    return f", if the {cut.score} is below {cut.threshold:g}"


def _of_second(job: Job, plan: Plan) -> list[str]:
    """Return notes on which rows a second endpoint is asked about."""
    cut = plan.cut
    if cut is None:
        return []
    second, found = job.tiers.second[0].source.model, []
    if cut.held is not None:
        figure, held = cut.held.accuracy, cut.held
        interval = (
            ""
            if figure.low is None or figure.high is None
            else f" (95% interval {figure.low:.3f} to {figure.high:.3f})"
        )
        found.append(
            f"The threshold {cut.threshold:g} of the {cut.score} is chosen from the hand labels to hold {cut.hold:g}:"
            f" {held.kept:,} of {counted(held.kept + held.sent, 'answered row')} keep their answer, with an accuracy of"
            f" {figure.value or 0:.3f}{interval} by {counted(held.checked, 'hand label')}; {held.sent:,} go on to"
            f" {second}."
        )
    elif cut.hold is not None:
        found.append(
            f"The threshold {cut.threshold:g} of the {cut.score} is the last run's, which chose it from the same hand"
            f" labels to hold {cut.hold:g}."
        )
    if cut.was is not None:
        found.append(f"Note: it was {cut.was:g} in the last run: the hand labels or the accuracy to hold have changed.")
    if plan.beyond and plan.counts.left:
        rows = counted(plan.beyond, "row has an answer that is", "rows have answers that are")
        found.append(f"{rows} not certain enough: {second} is asked, and no first answer is paid again.")
    return found


def saves(job: Job, kept: int, cost: int | None) -> list[str]:
    """Return what it would cost to ask a second endpoint about all rows, if there is one and that is known.

    Args:
        job: the run.
        kept: rows that have not gone on to it, and are not expected to.
        cost: of asking about these as well, in nano-dollars.
    """
    if not kept or not cost:
        return []
    second = job.tiers.second[0].source.model
    return [f"Asking {second} about the other {counted(kept, 'row')} as well would cost about {dollars(cost)} more."]


def for_what(task: str) -> str:
    """Return what a run asks for, to stand behind whom it asks; empty for chats."""
    return "" if task == Task.CHAT else f", for {task}s"


def notes(job: Job, plan: Plan) -> list[str]:
    """Return further notes for the user before the first call."""
    found = []
    if plan.in_flight.requests:
        most, count = plan.in_flight.most, plan.in_flight.requests
        requests = counted(count, "request was", "requests were")
        they = "it" if count == 1 else "they"
        bill = "" if most == 0 else f"; {they if most is None else f'at most {dollars(most)}'} may be billed twice"
        found.append(f"{requests} in flight when the last process ended{bill}.")
    found += [*_of_shard(job, plan), *_of_batches(plan)]
    found += _files_by_hand(job, plan)
    found += _of_calls(job) if plan.asks else ()
    found += _of_prompts(job, plan) if plan.asks else ()
    found += _of_late_rows(job) if plan.asks else ()
    found += _on_lines(job, plan)
    found += _same(job, plan)
    found += _of_second(job, plan) if job.seconds else _few(job, plan)
    if plan.repeats:
        drawn = counted(job.settings.repeat_sample or 0, "row")
        found.append(f"When all have their result, {drawn} drawn at random are asked once more.")
    if plan.reread:
        rows = counted(plan.reread, "row changes", "rows change")
        found.append(f"The answers that are there were read again, for nothing: {rows}.")
    if job.shape is not None and plan.counts.left and (late := _late_reason(job.shape)):
        found.append(late)
    return found + _gone(job, plan)


def _of_calls(job: Job) -> list[str]:
    """Return notes on from where calls are made, which limits they share, and by when."""
    found = [] if job.settings.ray is None else [_of_workers(job.settings.ray, job.settings.ray_workers)]
    found += [_shared(job, keys) for keys in by_account(job.endpoints) if len(keys) > 1]
    retrying = [each for each in job.endpoints if each.llm is not None and retries_of(each.llm)]
    if retrying:
        found.append(
            f"Note: the chat model {retrying[0].source.model} retries failed requests itself, and neither the counts"
            " nor the journal include those retries: create it with max_retries=0; batcher does the retries."
        )
    return found if job.due is None else [*found, _of_due(job, job.due)]


def _of_shard(job: Job, plan: Plan) -> list[str]:
    """Return to what share of limits and budget a shard keeps, and what to do when all shards are done."""
    part = job.selection.part
    if part is None:
        return []
    found = [f"When all {part.shard.of:,} shards are done, {how_to_merge(job.keyword)} makes one run of them."]
    if plan.asks:
        limits = dict.fromkeys(", ".join(_limits_of(each)) for each in job.endpoints)
        budget = "" if job.settings.budget is None else f"; {dollars(nano_dollars(job.settings.budget))} of the budget"
        shares = f"Its share of the limits is {' or '.join(limits)}{budget}: all shards together keep to what is given."
        found.insert(0, shares)
    if job.settings.dedup and part.shard.of > 1:
        found.append(
            f"Note: {as_given('dedup', value=True)} is for the rows of this shard: equal rows of others are"
            " asked there."
        )
    return found


def _limits_of(endpoint: Endpoint) -> list[str]:
    """Return the limits of an endpoint, in words."""
    rates = [
        (endpoint.rps, "requests a second"),
        (endpoint.rpm, "requests a minute"),
        (endpoint.tpm, "tokens a minute"),
    ]
    return [*(f"{rate:,.15g} {of}" for rate, of in rates if rate), f"{endpoint.max_concurrency:,} requests in flight"]


def _of_late_rows(job: Job) -> list[str]:
    """Return what becomes of rows whose answer is late (`--hedge`)."""
    percentile = job.settings.hedge
    if percentile is None:
        return []
    asked_for = option("hedge", int(percentile) if percentile == int(percentile) else percentile)
    if all(len(each) <= 1 for each in (job.tiers.first, job.tiers.second)):
        said = (
            f"Note: {asked_for} does nothing here: it asks late rows a second time at another endpoint, and there is"
            f" only one. A second API key, server or service is another one ({option('endpoints', 'FILE')})."
        )
    else:
        said = (
            f"A row whose answer takes longer than {percentile:g}% of the latest is asked a second time, at another"
            f" endpoint ({asked_for}): with at most 5% more requests, mostly at the end. The first answer counts; the"
            " other request is cancelled, but may be billed."
        )
    return [said]


def _of_workers(address: str, workers: int | None) -> str:
    """Return from where calls are made that leave from other processes (`--ray`)."""
    if workers is None:
        return f"Calls are made by workers of Ray ({address}), as many as it has CPUs, less one for this process."
    up_to = "up to " if workers > 1 else ""
    return f"Calls are made by {up_to}{counted(workers, 'worker')} of Ray ({address})."


def _gone_in_words(job: Job, plan: Plan) -> str:
    """Return how many rows with an answer, or with a question in a batch, are not in the table any more."""
    if not plan.gone:
        return ""
    out = plan.changed_out - plan.own_out if job.settings.on_change == "reuse" else 0
    kinds = [(plan.gone - out, counted(plan.gone - out, "answered row")), (out, f"{counted(out, 'row')} in a batch")]
    found = " and ".join(said for number, said in kinds if number > 0)
    return f", and {found} {'is' if plan.gone == 1 else 'are'} gone: edited?"


def _of_due(job: Job, due: Due) -> str:
    """Return by when the run shall be finished, and which ways it has for that."""
    why = batches_in_words(job.tiers.first, job.settings)
    flex = any(FLEX in job.asked_in(each).names for each in job.tiers.first)
    ways = [*([] if why else ["batches"]), *(["flex"] if flex else []), "online requests"]
    without = f" No batches: {why}." if why else ""
    return f"To be finished by {due.in_words(time.time())}, by {', then '.join(ways)}.{without}"


def _few(job: Job, plan: Plan) -> list[str]:
    """Return a note on rows that have some answers and lack others, if there are any."""
    if not plan.few:
        return []
    rows, samples = counted(plan.few, "row has", "rows have"), option("samples", job.settings.samples)
    if not plan.missing:
        return [f"{rows} the answers that {samples} asks for: nothing is asked again."]
    more = "1 more is" if plan.missing == 1 else f"{plan.missing:,} more are"
    return [f"{rows} fewer answers than {samples} asks for: {more} asked for, and those that are there count, too."]


def _gone(job: Job, plan: Plan) -> list[str]:
    """Return a note on answered rows that are gone, if there are any and new ones are sent."""
    if not plan.gone or job.settings.on_change != "reuse" or job.settings.id_column:
        return []
    keeps = f"If a column identifies the rows, {option('id_column', 'COLUMN')} keeps their answers."
    said = "The new rows are sent: a row's position does not show whether it is one of the rows that are gone."
    return [f"{said} {keeps}"]


def _on_lines(job: Job, plan: Plan) -> list[str]:
    """Return what to know of the lines of a requests file, and of what older scripts answered."""
    found = [] if plan.older is None else [_older_in_words(plan.older, plan.adopted)]
    if plan.twins is not None and plan.counts.left:
        one, other = (job.selection.where(position) for position in plan.twins)
        found.append(f"Note: {one} and {other.rpartition(', ')[2]} have the same custom_id; each is asked.")
    return found


def _of_prompts(job: Job, plan: Plan) -> list[str]:
    """Return notes on what the rows ask."""
    found = [*job.oddities]
    if job.task is Task.COMPLETION and not all(map(job.bounds_length, job.endpoints)):
        found.append(
            "Note: without max_tokens the service decides how long a completion may be, and OpenAI's cuts it after 16"
            f" tokens: {option('param', {'max_tokens': 'N'})}."
        )
    if job.task is Task.EMBEDDING and (models := of_different_models(job.endpoints)):
        found.append(
            f"Note: the pool has different models ({' and '.join(models)}). Their vectors cannot be compared with each"
            " other, even if they have the same length: ask each model under a keyword of its own."
        )
    if "confidence" in job.settings.extras and not job.scores:
        found.append(
            f"Note: {job.store.answer_columns.answer}_confidence stays empty: it is the probability of a label, and"
            f" there is no {as_given('labels')}."
        )
    if job.examples is not None:
        found.append(_examples_in_words(job.examples, job))
    found += [plan.gold] if plan.gold else []
    if plan.faulty and not job.settings.requests:  # broken lines are named already
        rows = counted(plan.faulty, "row cannot be asked and ends", "rows cannot be asked and end")
        first = "It is" if plan.faulty == 1 else "The first is"
        found.append(f"Note: {rows} as error. {first} {plan.fault}{'' if plan.fault.endswith('?') else '.'}")
    return found


def _older_in_words(older: Older, adopted: int) -> str:
    """Return what was found in results files of older scripts."""
    names = " and ".join(map(str, older.paths))
    others = f" and {counted(older.others, 'line', 'lines')} without one" if older.others else ""
    return f"{names}: {counted(older.answers, 'answer')}{others}; {counted(adopted, 'row')} adopted."


def _same(job: Job, plan: Plan) -> list[str]:
    """Return a note on rows that ask the same, if there are any."""
    if job.is_same_for_all and plan.counts.left > 1:
        return ["Note: the prompt has no {column} hole, so every row asks the same question."]
    if not plan.same:
        return []
    sent = "sent once" if job.settings.dedup else f"could be sent once ({option('dedup', value=True)})"
    if plan.same + 1 == plan.counts.rows:
        done = f"it {'is ' if job.settings.dedup else ''}{sent}"
        return [f"Note: all {plan.counts.rows:,} rows ask the same question: {done}."]
    rows = counted(plan.same, "row has", "rows have")
    return [f"{rows} the same question as another row: they {'are ' if job.settings.dedup else ''}{sent}."]


def _examples_in_words(examples: Examples, job: Job) -> str:
    """Return which examples stand before each row."""
    shown = len(examples.shown)
    shots = option("shots", job.settings.shots)
    fewer = f", all that it has (`{shots}` asks for more)" if shown < job.settings.shots else ""
    of = "" if fewer else f" of {examples.rows:,}"
    said = f"{counted(shown, 'example')}{of} from {examples.source} {'is' if shown == 1 else 'are'} in each prompt"
    if not isinstance(job.shape, Labels):
        return f"{said}{fewer}."
    has = {each.messages[-1]["content"] for each in examples.shown}
    without = len(job.shape.names) - len(has)
    return f"{said}{fewer}; {counted(without, 'label has', 'labels have')} none." if without else f"{said}{fewer}."


def _late_reason(shape: Shape) -> str:
    """Return a note if a model decides before it reasons; else an empty text."""
    found = shape.late_reasons() if isinstance(shape, Schema) else None
    if found is None:
        return ""
    return (
        f"Note: the schema asks for {found[0]!r} before {found[1]!r}, so the reason cannot influence it: a model writes"
        f" fields in their order. Put {found[1]!r} first if it should."
    )


def _files_by_hand(job: Job, plan: Plan) -> list[str]:
    """Return what becomes of the files that people have changed."""
    found, by_hand, store = [], plan.by_hand, job.store
    if by_hand.lost:
        belong = "belongs to a row that is" if by_hand.lost == 1 else "belong to rows that are"
        found.append(f"{counted(by_hand.lost, 'answer')} by hand {belong} asked again, or gone.{_kept(by_hand.kept)}")
    if store.workbook_path("all").exists():
        found.append(
            f"Note: {store.workbook_path('all')} is not read, because the result is made from the chunk files: correct"
            " the answers there."
        )
    return found


def came_back(job: Job, plan: Plan) -> list[str]:
    """Return what a run will do with files that came back in another form; when it has done so, it says it itself."""
    store, by_hand = job.store, plan.by_hand
    found = [f"{said}; a copy of yours is kept as .bak." for said in by_hand.came_back.values()]
    for start, corrections in by_hand.workbooks.items():
        found.append(workbook_read(store.workbook_path(start), store.chunk_path(start), corrections, ".bak"))
    return found


def _kept(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    names = ", ".join(map(str, paths[:_MOST_FILES]))
    more = f" and {len(paths) - _MOST_FILES:,} more files" if len(paths) > _MOST_FILES else ""
    return f" A copy of {names}{more} is kept as .bak."


def _shared(job: Job, endpoints: Sequence[Endpoint]) -> str:
    """Return what the endpoints of one account share, and how to say that their keys belong to different accounts."""
    first = endpoints[0]
    noun = "keys" if all(each.api_key for each in endpoints) else "endpoints"
    rates = [(first.rpm, "request", "minute"), (first.rps, "request", "second"), (first.tpm, "model token", "minute")]
    limits = [f"{limit:,.10g} {what}{'' if limit == 1 else 's'} a {time}" for limit, what, time in rates if limit]
    most = first.max_concurrency
    limits.append(f"{most:,} in flight" if limits else f"{counted(most, 'request')} in flight")
    said = f"{len(endpoints)} {noun} of one account share {', '.join(limits)}."
    settings = job.settings
    if settings.endpoints is not None or settings.limits_per is not None:
        return said
    return f"{said} If they belong to different accounts, {option('limits_per', 'key')} gives each key these limits."


def reasons_of(
    causes: Sequence[tuple[Cause, Mapping[str, Any]]], now: Mapping[str, Any], changed: Mapping[int, int]
) -> tuple[str, ...]:
    """Return the changes that explain why rows have an answer to another question.

    Args:
        causes: each with the question that its answers answer.
        now: the question of this run.
        changed: see `Matched.changed`.
    """
    reasons: list[str] = []
    columns: list[str] = []
    for cause, before in causes:
        is_comparable = before.get("columns") == now["columns"]
        is_edited = bool(cause.columns) and is_comparable
        found = _source_changes(before.get("sources", now["sources"]), now["sources"])
        if not cause.is_same_question:
            # If other rows still ask the earlier question, this row was edited; else both may have changed.
            found = [*([] if is_edited and cause.still_asks else _question_changes(before, now)), *found]
            columns = _column_changes(now["columns"], changed) if is_comparable else columns
        if not found and not is_edited:
            found = [_unnamed_change(now)]
        reasons += found
    return tuple(dict.fromkeys([*reasons, *columns]))


def _unnamed_change(now: Mapping[str, Any]) -> str:
    """Return what has changed of a row's question if neither the row nor what all rows share did."""
    changes = ["the image changed"] if "images" in now else []
    if now["prompt_option"] == "function":
        changes.append("the prompt function returns something else")
    return " or ".join(changes) or "the rows changed"


def _images_change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """Return what changed of the options for images."""
    if before is None or now is None:
        return [] if before == now else [f"images are {'new' if now else 'gone'}"]
    names = {"column": "image_column", "size": "image_size", "detail": "image_detail"}
    return [
        f"{as_given(names[name])} was {before[name] or 'none'}, is {now[name] or 'none'}"
        for name in names
        if before[name] != now[name]
    ]


def _question_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what two runs ask differently about a row."""
    reasons = []
    prompt = ("prompt_option", "prompt")
    if "prompt_option" in before and [before[name] for name in prompt] != [now[name] for name in prompt]:
        reasons.append("the prompt changed")
    tasks = [each.get("task", Task.CHAT.value) for each in (before, now)]
    if tasks[0] != tasks[1]:
        reasons.append(f"{_OTHER_TASK} was {tasks[0]}, is {tasks[1]}")
    if before.get("system", now["system"]) != now["system"]:
        reasons.append("the system message changed")
    if said := _shape_change(before.get("shape"), now.get("shape")):
        reasons.append(said)
    if said := _examples_change(before, now):
        reasons.append(said)
    reasons += _images_change(before.get("images"), now.get("images"))
    return reasons + _changes(before.get("params", now["params"]), now["params"])


def _examples_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what changed of the examples, or empty."""
    stated = [[each["messages"] for each in (one.get("examples") or {}).get("held", ())] for one in (before, now)]
    if stated[0] == stated[1]:
        return ""
    if stated[0] and stated[1]:
        return "the examples changed"
    return f"examples are {'new' if stated[1] else 'gone'}"


def _shape_change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Return what changed of the labels or the schema, or empty."""
    if as_text(before) == as_text(now):
        return ""
    if before == now:
        return f"the order in the {'schema' if now and 'schema' in now else 'labels'} changed"
    if before is None or now is None:
        kind = "a schema is" if "schema" in (before or now or {}) else "labels are"
        return f"{kind} {'gone' if now is None else 'new'}"
    if ("schema" in before) != ("schema" in now):
        return "a schema takes the place of labels" if "schema" in now else "labels take the place of a schema"
    return "the schema changed" if "schema" in now else "the labels changed"


def _column_changes(columns: Sequence[str], changed: Mapping[int, int]) -> list[str]:
    """Return the columns whose cells differ in the changed rows."""
    found = []
    for bit, name in enumerate(columns):
        count = sum(count for mask, count in changed.items() if mask >> bit & 1)
        if count:
            rows = f" in {counted(count, 'row')}" if count < sum(changed.values()) else ""
            found.append(f"column {name} changed{rows}")
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the request parameters that changed."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before:
            found.append(f"parameter {name} is new")
        elif name not in now:
            found.append(f"parameter {name} is gone")
        elif not same(before[name], now[name]):
            was, is_now = (json.dumps(each[name], ensure_ascii=False) for each in (before, now))
            is_short = max(len(was), len(is_now)) <= _LONGEST_SHOWN
            found.append(f"parameter {name} " + (f"was {was}, is {is_now}" if is_short else "changed"))
    return found


def _source_changes(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> list[str]:
    """Return the sources whose answers are no longer used."""
    then, today = [source_of(each) for each in before], [source_of(each) for each in now]
    gone, new = [source for source in then if source not in today], [source for source in today if source not in then]
    if len(gone) == len(new) == 1:
        is_named = is_name(gone[0][1]) or is_name(new[0][1])
        names = ("model", "endpoint" if is_named else "base URL", "endpoint's parameters")
        pairs = zip(names, gone[0], new[0], strict=True)
        return [f"{name} was {was or 'none'}, is {is_now or 'none'}" for name, was, is_now in pairs if was != is_now]
    return [f"{model} at {base_url or 'no base URL'} is not in the pool" for model, base_url, _ in gone]


def explained(job: Job, plan: Plan, usual: Usual | None) -> str:
    new = plan.counts.left - plan.changed - plan.few - plan.out
    count, estimate = plan.changed or new, ""
    if usual and usual.cost:
        estimate = f" (about {dollars(round(usual.cost * count))})"
    elif usual:
        estimate = f" (about {(usual.prompt_tokens + usual.completion_tokens) * count:,.0f} model tokens)"
    redo = f"asks {count:,} again" if plan.changed else f"asks the {counted(new, 'new row')}"
    said = in_words(job, plan)
    lost = plan.by_hand.lost
    by_hand = f" {counted(lost, 'answer was', 'answers were')} given by hand." if lost else ""
    return (
        f"{said}{'' if said.endswith('?') else '.'}{by_hand}{_still_paid(plan)}\n"
        f"Nothing was sent. `{option('on_change', 'redo')}` {redo}{estimate}, {_reuse_explained(job, plan)} Or give the"
        f" new question another {as_given('keyword')}. Every answer stays in the journal."
    )


def _still_paid(plan: Plan) -> str:
    if not plan.changed_out:
        return ""
    out = counted(plan.changed_out, "row is", "rows are")
    return f" {out} out: what the service answers of them is paid for in any case."


def not_here_yet(job: Job, plan: Plan) -> str:
    """Return why answers to an earlier question cannot be kept: they are still to come."""
    rows = f"{plan.own_out:,} of {counted(plan.counts.rows, 'row')} {'is' if plan.own_out == 1 else 'are'}"
    return (
        f"{job.keyword}: {rows} out in batches that ask an earlier question ({'; '.join(plan.reasons)}), so there is no"
        f" answer yet that `{option('on_change', 'reuse')}` could keep.\n"
        f"Nothing was sent. {_fetching(job.keyword)} Or take `{option('on_change', 'redo')}`, which asks the new"
        " question at once, and is paid for besides."
    )


def _fetching(keyword: str) -> str:
    """Return how answers come that can be kept."""
    return (
        f"Let the earlier command fetch them first, or end them now with {cancelling(keyword)}, which keeps what came."
    )


def _changed_in_words(plan: Plan) -> str:
    """Return how many rows have an answer to another question, or will have one."""
    reasons = "; ".join(plan.reasons)
    if plan.changed == plan.changed_out:
        return f"{plan.changed:,} out in batches to another question ({reasons})"
    still = f", {plan.changed_out:,} of them still out in batches" if plan.changed_out else ""
    return f"{plan.changed:,} answered to another question ({reasons}){still}"


def cancelling(keyword: str) -> str:
    """Return how to cancel the batches of a run, as the reader would write it."""
    return by_reader(command_line=f"`batcher cancel {shlex.quote(keyword)}`", python=f"`batcher.cancel({keyword!r})`")


def _of_batches(plan: Plan) -> list[str]:
    """Return notes on what is out in batches, if anything is."""
    if not plan.changed_out:
        return []
    rows = counted(plan.changed_out, "row is", "rows are")
    paid = "what is answered is still paid for, and stays in the journal"
    return [f"{rows} out in batches to the earlier question: {paid}."]


def _reuse_explained(job: Job, plan: Plan) -> str:
    reuse = option("on_change", "reuse")
    if any(each.startswith(_OTHER_TASK) for each in plan.reasons):
        return f"and `{reuse}` cannot keep answers to another task."
    if not plan.has_marks:
        return (
            f"`{reuse}` cannot be used yet: an older batcher wrote this journal. Run the earlier command once:"
            " it sends nothing, and records how to recognise the rows."
        )
    if plan.own_out:
        return f"and `{reuse}` can keep the old answers once they are here. {_fetching(job.keyword)}"
    if plan.own == plan.changed and not plan.gone:
        shape = "labels" if isinstance(job.shape, Labels) else "schema"
        reads = f" and reads them by the present {shape}, for nothing" if job.shape else ""
        return f"`{reuse}` keeps the old answers{reads}."
    keeps = f"`reuse` keeps {counted(plan.own, 'answer')} and asks the others" if plan.own else "and so does `reuse`"
    because = f"{keeps}, because a row's position does not show which answer is its own."
    if job.settings.id_column:
        return because
    both = by_reader(
        command_line=f"{reuse} {option('id_column', 'COLUMN')}", python=f"{reuse}, {option('id_column', 'COLUMN')}"
    )
    return f"{because} If a column identifies the rows, `{both}` keeps their answers."
