"""What ran: the question, whom it was put to, the processes that did, and what they had planned.

Invariant: what an older batcher did not record is missing, and never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batcher.answer.shape import shape_of_recorded
from batcher.endpoint import OFFLINE
from batcher.hiding import public_url
from batcher.input.several import is_pattern
from batcher.journal.entries import LastRun
from batcher.journal.reading import Reader
from batcher.journal.times import Process, Used
from batcher.money.prices import NANO
from batcher.output.directory import Store
from batcher.records import Task
from batcher.reports.whole.facts import Input, Planned, Ran
from batcher.shards import Part

_MOST_INPUTS = 20
_MOST_PROCESSES = 50
_HASHED_AT_MOST = 2**28
"""Bytes of a file that is read again to see whether it has changed."""
_MORE = {
    "samples": "answers to a row",
    "with": "beside the answers",
    "limit": "the first rows alone",
    "params_column": "parameters in columns",
    "answer_column": "column of the answers",
    "sheet": "sheet",
    "input_encoding": "encoding of the input",
    "separator": "separator of the input",
    "format": "format of the files",
}


def ran_of(store: Store, journal: Reader, last: LastRun, processes: Sequence[Process], used: Sequence[Used]) -> Ran:
    """Return what ran, as the latest process asked it."""
    question = last.question
    # What was recorded last holds: a process that had nothing to ask records nothing.
    recorded: Mapping[str, Any] = next((each.planned for each in reversed(processes) if each.planned), {})
    shape = _shape_of(question)
    inputs = [*_inputs(question, _list(recorded.get("input")))]
    shown = processes[-_MOST_PROCESSES:]
    seconds = journal.seconds()
    return Ran(
        task=str(question.get("task") or Task.CHAT.value),
        prompt=_text(question.get("prompt")),
        prompt_option=str(question.get("prompt_option") or ""),
        system=_text(question.get("system")),
        examples=_examples(question.get("examples")),
        asked=tuple(_asked(question)),
        params=_params(question),
        labels=tuple(getattr(shape, "names", ())),
        fields=tuple(shape.fields) if shape is not None else (),
        more=tuple(_more(question)),
        versions=tuple((str(name), str(value)) for name, value in _mapping(recorded.get("versions")).items()),
        inputs=tuple(inputs[:_MOST_INPUTS]),
        inputs_left=max(0, len(inputs) - _MOST_INPUTS) + int(_number(recorded.get("inputs_left")) or 0),
        rows_hash="" if inputs else rows_hash(journal),
        columns=tuple(map(str, question.get("table") or ())),
        output=next((path.name for path in store.results() if path.exists()), ""),
        processes=tuple(_planned(each, used, seconds.get(each.id, 0.0)) for each in shown),
        processes_left=len(processes) - len(shown),
    )


def _shape_of(question: Mapping[str, Any]) -> Any:
    recorded = question.get("shape")
    return shape_of_recorded(recorded) if recorded else None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=1)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole_number(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def _examples(recorded: Any) -> str:
    if not isinstance(recorded, dict):
        return ""
    held = len(recorded.get("held") or ())
    source = recorded.get("source")
    return f"{held:,} in each prompt, from {source}" if source else f"{held:,} in each prompt"


def _asked(question: Mapping[str, Any]) -> Iterator[str]:
    then = {json.dumps(each) for each in (question.get("then") or {}).get("sources", ())}
    counts: dict[str, int] = {}
    for each in question.get("pool") or question.get("sources") or ():
        said = name_of(str(each[0]), str(each[1]), question)
        if json.dumps(each) in then:
            said = f"then, if the first answer is not certain enough: {said}"
        counts[said] = counts.get(said, 0) + 1
    yield from (f"{said} ({times:,} endpoints)" if times > 1 else said for said, times in counts.items())


def name_of(model: str, url: str, question: Mapping[str, Any]) -> str:
    """Return the name of a source of answers: its model, and the endpoint's name or its base URL."""
    named = {str(name): str(real) for name, real in question.get("named") or ()}
    where = f"{url} ({public_url(named[url])})" if url in named else public_url(url)
    if where == OFFLINE:
        return f"{model} on the embedded server"
    return f"{model} at {where}" if where else model


def _params(question: Mapping[str, Any]) -> str:
    params = question.get("params") or {}
    own = {str(each[2]) for each in question.get("pool") or () if len(each) > 2 and each[2]}
    texts = [json.dumps(params, ensure_ascii=False, sort_keys=True)] if params else []
    return "; ".join([*texts, *sorted(own)])


def _more(question: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, words in _MORE.items():
        if (value := question.get(name)) not in (None, "", [], False, "infer"):
            yield words, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if mark := question.get("shard"):
        yield "part of the table", Part.recorded_in(mark).in_words()
    if sample := question.get("sample"):
        yield "drawn at random", f"{sample['rows']:,} of {sample['of']:,} rows"
    if images := question.get("images"):
        yield "images", _text(images) or ""
    if question.get("requests"):
        yield "requests file", "each row has a request of its own"
    if gold := question.get("gold"):
        yield "hand labels", f"column {gold['column']}, rows chosen: {gold['drawn']}"
    if then := question.get("then"):
        by = "confidence" if then.get("by_confidence") else "agreement"
        yield "second endpoint", f"asked if {by} is below {then.get('threshold')}"


def _inputs(question: Mapping[str, Any], recorded: Sequence[Any]) -> Iterator[Input]:
    if recorded:
        for each in recorded:
            if isinstance(each, dict) and "path" in each:
                yield Input(str(each["path"]), str(each.get("sha256", "")), _state(each))
        return
    for path in question.get("input") or ():
        is_there = is_pattern(path) or Path(path).exists()
        yield Input(str(path), "", "" if is_there else "gone")


def _state(recorded: Mapping[str, Any]) -> str:
    path = Path(str(recorded["path"]))
    try:
        now = path.stat()
    except (OSError, ValueError):
        return "gone"
    if now.st_size != recorded.get("bytes"):
        return "changed"
    if now.st_mtime == recorded.get("modified"):
        return "unchanged"
    if now.st_size > _HASHED_AT_MOST or not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
    return "unchanged" if digest == recorded.get("sha256") else "changed"


def rows_hash(journal: Reader) -> str:
    """Return a SHA-256 of the marks of all rows, which are hashes of their cells."""
    digest, start, step = hashlib.sha256(), 0, 10_000
    rows = journal.scope()
    is_known = False
    while start < rows:
        for marks in journal.marks(start, min(start + step, rows)):
            is_known = is_known or bool(marks)
            digest.update(marks)
        start += step
    return digest.hexdigest() if is_known else ""


def _planned(process: Process, used: Sequence[Used], seconds: float) -> Planned:
    plan, own = process.planned, [each for each in used if each.run == process.id]
    answered = [each for each in own if each.is_answered]
    is_priced = any(each.requests > each.unpriced for each in answered)
    return Planned(
        id=process.id,
        started=process.started,
        ended=process.ended,
        host=process.host,
        pid=process.pid,
        outcome=process.outcome,
        is_recorded=bool(plan),
        requests=_whole_number(plan.get("requests")),
        prompt_tokens=_whole_number(plan.get("prompt_tokens")),
        completion_tokens=_whole_number(plan.get("completion_tokens")),
        cost_usd=_number(plan.get("cost_usd")),
        seconds=_number(plan.get("seconds")),
        budget_usd=_number(plan.get("budget_usd")),
        sent=sum(each.requests for each in own),
        failed=sum(each.requests for each in own if each.is_failed),
        used_prompt_tokens=sum(each.prompt_tokens for each in answered),
        used_completion_tokens=sum(each.completion_tokens for each in answered),
        spent_usd=sum(each.cost for each in answered) / NANO if is_priced else None,
        worked_s=seconds,
    )
