"""The job as it is rehearsed: its options, its rows, and the command line that runs it against the local server.

Invariant: it holds no API key of the user's, and takes none from the environment.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.calls.endpoints import endpoints_of, environment, tiers_of
from batcher.endpoint import OFFLINE, Endpoint, by_account
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell
from batcher.input.dataset import Dataset
from batcher.input.images import Images
from batcher.input.opening import Reading, as_arguments, open_dataset
from batcher.input.prompt import failed_on
from batcher.input.request_line import NAMES, question_of
from batcher.input.selection import Selection
from batcher.money.prices import NANO
from batcher.money.tariff import Tariff
from batcher.planning.asking import in_batches
from batcher.planning.job import ROWS_AT_ONCE, Job, prepare
from batcher.planning.own import Own
from batcher.records import Question, Task, Terms, Usage
from batcher.rehearsal.child import KEY_VARIABLE
from batcher.server.answers import prompt_of
from batcher.server.completions import plain
from batcher.server.requests import ChatRequest, read_chat, read_completion, read_embedding
from batcher.server.responses import Refusal
from batcher.settings import NPY, OPTIONS, Settings
from batcher.words import blamed

_READERS = {Task.CHAT: read_chat, Task.COMPLETION: read_completion, Task.EMBEDDING: read_embedding}
ROWS = 1_000
"""The rows of a rehearsal if no `limit` is given; fewer if the limits of the endpoints would make it long."""
_FEWEST_ROWS = 100
_LONGEST_S = 60.0  # that the limits may make a rehearsal take, if no `limit` is given

# What the rehearsal sets itself, or what a run in a new directory has no use for.
_REPLACED = {"model", "base_url", "provider", "api_key_env", "header", "endpoint_name"}
_REPLACED |= {
    "by",
    "within",
    "endpoints",
    "limits_per",
    "rpm",
    "rps",
    "tpm",
    "max_concurrency",
    "price_in",
    "price_out",
    "price_batch",
    "keyword",
    "output_dir",
}
_REPLACED |= {"limit", "retry_failed", "no_progress", "log_json", "quiet"}
# The name of the second endpoint (`--then`), and what stands for a threshold that is chosen from hand labels.
_SECOND, _THRESHOLD = "the second endpoint", 0.5
# Variables of the environment that choose the model and the URL. Each other one may hold a key.
_PLAIN = {"MODEL", "BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"}


class Scene(NamedTuple):
    """A job and its place.

    Attributes:
        job: as the child runs it, but with endpoints of the embedded server.
        prompt: the template, if it was given as a text.
        asked: the texts that each row asks about, as the server sees them; none of a row that cannot be asked.
        paths: of the input, from the root; a directory and a pattern are one path.
        real: the endpoints of the real run, without keys and headers.
        keys: the dummy keys that stand for the keys in each variable, separated by commas, as a file of faults names
            them.
        used: the variables that the endpoints of the real run are made of.
        limit: of the real run; None: all rows.
        directory: of the rehearsal.
    """

    job: Job
    prompt: str | None
    asked: list[tuple[str, ...]]
    paths: list[Path]
    real: tuple[Endpoint, ...]
    keys: Mapping[str, str]
    used: frozenset[str]
    limit: int | None
    directory: Path

    @classmethod
    def of(cls, data: Any, prompt: str | None, settings: Settings, directory: Path) -> Scene:
        """Check everything that can be checked before the run.

        Raises:
            SettingsError: an option, the input or the prompt is wrong.
        """
        paths, settings = _as_files(data, prompt, settings, directory)
        settings = _with_files(settings, directory)
        variables = _Variables.with_dummies(environment())
        held = _endpoints(settings, variables, _models(paths, settings))
        held, settings = _with_second(held, settings, variables)
        real = tuple(replace(endpoint, api_key=None, headers={}) for endpoint in held)
        rows = None if settings.sample else settings.limit or _rows_in_a_minute(real)
        job = prepare(paths, prompt, _as_rehearsed(settings, directory, rows, real))
        asked = [
            _texts_of(job.question_of(position, values), is_line=settings.requests)
            for part in job.selection.slices(ROWS_AT_ONCE)
            for position, values in enumerate(part.rows, part.start)
        ]
        if not asked:
            raise InputError(f"{job.dataset.name} has no rows to rehearse")
        keys, used = variables.sent_by(held), frozenset(variables.used)
        return cls(job, prompt, asked, paths, real, keys, used, settings.limit, directory)

    @property
    def texts(self) -> list[str]:
        """The rows' prompts, one of each row that can be asked."""
        return [texts[0] for texts in self.asked if texts]

    def command(self, base_url: str) -> list[str]:
        """Write the files that a run needs, and return the command line of one that asks a server.

        Raises:
            SettingsError: the parameters of an endpoint cannot be written into the file.
        """
        settings, path = self.job.settings, self.directory / "endpoints.toml"
        _write_endpoints(path, self.real, settings, base_url)
        given = {name: getattr(settings, name) for name in ("keyword", "output_dir", "limit")} | {"endpoints": path}
        options = [
            *self._unchanged(),
            *(f"{OPTIONS[name].flag}={value}" for name, value in given.items() if value is not None),
            *(self._text("prompt", self.prompt) if self.prompt is not None else ()),
            *(self._text("system", settings.system) if settings.system is not None else ()),
        ]
        return [sys.executable, "-m", "batcher.rehearsal.run", "run", *map(str, self.paths), *options]

    def _unchanged(self) -> Iterator[str]:
        """Yield the options that the child has from the real run."""
        settings = self.job.settings
        for name, each in OPTIONS.items():
            value = getattr(settings, name)
            if name in {*_REPLACED, "system"} or value == each.default or (name == "wait" and not settings.waits):
                continue
            if name == "param":
                yield from (f"{each.flag}={key}={json.dumps(part)}" for key, part in value.items())
            elif name in {"params_column", "adopt"}:
                given = value if isinstance(value, list | tuple) else [value]
                yield from (f"{each.flag}={os.fspath(part)}" for part in given)
            elif name == "with_":
                yield f"{each.flag}={','.join([*settings.extras, *([NPY] if settings.writes_npy else [])])}"
            else:
                yield each.flag if value is True else f"{each.flag}={value}"

    def _text(self, name: str, text: str) -> Iterator[str]:
        """Yield a text as an option: in a file, where it may be longer than a command line, unless that changes it."""
        if re.search("\r|^\ufeff|[\ud800-\udfff]", text):
            yield f"--{name}={text}"
        else:
            path = self.directory / f"{name}.txt"
            path.write_text(f"{text}\n", encoding="utf-8", newline="")
            yield f"--{name}-file={path}"

    def real_run(self, requests: int) -> tuple[int | None, float | None]:
        """Return the rows of the real run, and the seconds that its limits impose, if each endpoint has one.

        Args:
            requests: that the rehearsal took.
        """
        rate = _rate(self.real)
        if rate is None:
            return None, None
        if self.job.settings.sample:
            rows = len(self.asked)
        else:
            rows = sum(len(part.rows) for part in self.job.dataset.slices(ROWS_AT_ONCE, self.limit))
        return rows, rows * requests / len(self.asked) / rate


def _as_files(data: Any, prompt: str | None, settings: Settings, directory: Path) -> tuple[list[Path], Settings]:
    """Return the paths of the input, and the options for them.

    A table in memory is written to a file first, cell by cell as text; if it has one column, that may hold the prompts.
    """
    if (paths := as_arguments(data)) is not None:
        return list(map(Path, paths)), settings
    reading = Reading.of(settings.input_encoding, settings.separator, requests=settings.requests)
    dataset = open_dataset(data, reading)
    settings = replace(settings, input_encoding=None, separator=None)
    path = directory / "input.jsonl"
    if settings.requests:
        _write_requests(dataset, path)
        return [path], settings
    _write_rows(dataset, path, Images.of(settings, dataset))
    given = (prompt, settings.prompt_file, settings.prompt_column, settings.messages_column)
    if len(dataset.columns) == 1 and all(each is None for each in (*given, settings.image_column)):
        settings = replace(settings, prompt_column=dataset.columns[0])
    return [path], settings


def _with_files(settings: Settings, directory: Path) -> Settings:
    """Write labels, a schema and examples that are in memory into files, which a command line can name.

    Raises:
        SettingsError: the labels or the schema cannot be used.
    """
    files: dict[str, Any] = {}
    if settings.labels is not None and not isinstance(settings.labels, str):
        shape, path = Labels.of(settings.labels, blamed("labels")), directory / "labels.json"
        path.write_text(json.dumps(shape.recorded), encoding="utf-8")
        files["labels"] = f"@{path}"
    if settings.schema is not None and not isinstance(settings.schema, str | os.PathLike):
        files["schema"] = directory / "schema.json"
        document = Schema.of(settings.schema, blamed("schema")).json_schema()
        files["schema"].write_text(json.dumps(document), encoding="utf-8")
    if settings.examples is not None and not isinstance(settings.examples, str | os.PathLike):
        files["examples"] = directory / "examples.jsonl"
        _write_rows(open_dataset(settings.examples, name="examples"), files["examples"])
    return replace(settings, **files)


def _models(paths: Sequence[Path], settings: Settings) -> tuple[str, ...]:
    """Return the models that rows name."""
    if not (settings.requests or settings.param_columns):
        return ()
    reading = Reading.of(settings.input_encoding, settings.separator, settings.sheet, requests=settings.requests)
    dataset = open_dataset([*paths], reading)
    keyword = settings.keyword or ""
    return Own.of(settings, dataset, Selection(dataset, keyword, limit=settings.limit, sample=settings.sample)).models


def _texts_of(question: Question, *, is_line: bool) -> tuple[str, ...]:
    """Return the texts that a row asks about, as the server's books have them.

    A line of a requests file may hold what the server refuses, as a service would: then it is asked about nothing.
    """
    if question.fault:
        return ()
    terms, content = question.terms, cast("Any", question.messages[0].get("content"))
    if is_line:
        asked = question.messages if terms.task is Task.CHAT else content
        read = _READERS[terms.task](json.dumps({**terms.params, NAMES[terms.task]: asked}).encode())
        if isinstance(read, Refusal):
            return ()
        if isinstance(read, ChatRequest):  # it knows older shapes of messages
            return (prompt_of({"messages": read.messages}),)
    elif terms.task is Task.CHAT:
        return (prompt_of({"messages": question.messages}),)
    is_several = isinstance(content, list) and not all(isinstance(each, int) for each in content)
    return tuple(map(plain, content if is_several else [content]))


def _write_requests(dataset: Dataset, path: Path) -> None:
    """Write requests in memory as a requests file, with the broken ones as they are."""
    with path.open("w", encoding="utf-8") as file:
        for part in dataset.slices(ROWS_AT_ONCE):
            for values in part.rows:
                _, custom_id, metadata, url, request = values
                if question_of(values).fault:
                    file.write(" ".join(f"broken {request}".split()) + "\n")
                    continue
                line = {"custom_id": custom_id, "url": url, "body": json.loads(str(request))}
                more = {"metadata": json.loads(str(metadata))} if metadata else {}
                file.write(json.dumps({name: value for name, value in line.items() if value} | more) + "\n")


def _write_rows(dataset: Dataset, path: Path, images: Images | None = None) -> None:
    written = dict.fromkeys(dataset.columns, cell)
    if images is not None:
        written[images.column] = images.as_text
    is_empty = True
    with path.open("w", encoding="utf-8") as file:
        for part in dataset.slices(ROWS_AT_ONCE):
            for position, values in enumerate(part.rows, part.start):
                try:
                    cells = {name: write(value) for (name, write), value in zip(written.items(), values, strict=True)}
                except InputError as error:
                    raise failed_on(dataset.where(position), error) from error
                file.write(json.dumps(cells) + "\n")
                is_empty = False
    if is_empty:
        raise InputError(f"{dataset.name} has no rows to rehearse")


class _Variables(dict[str, str]):
    """An environment with a dummy for each key that it may hold; equal keys have the same dummy.

    Attributes:
        fills: every variable for a key is set, those that the user has not set too.
        used: the variables that were asked for.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.fills = False
        self.used: set[str] = set()

    @classmethod
    def with_dummies(cls, env: Mapping[str, str]) -> _Variables:
        plain = {"MODEL": "sim"} | {name: value for name, value in env.items() if name in _PLAIN}
        dummies: dict[str, str] = {}
        held = {name: _dummies(name, value, dummies) for name, value in env.items() if name not in _PLAIN}
        return cls(held | plain)

    def __missing__(self, name: str) -> str:
        if not self.fills:
            raise KeyError(name)
        return "" if name in _PLAIN else self.setdefault(name, _dummy(name, 1))

    def __getitem__(self, name: str) -> str:
        self.used.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.used.add(name)
        return (self[name] or default) if self.fills else super().get(name, default)

    def sent_by(self, endpoints: Sequence[Endpoint]) -> dict[str, str]:
        """Return the variables with the keys that the rehearsed endpoints send; one without an endpoint stays."""
        sent: dict[str, list[str]] = {}
        for number, each in enumerate(endpoints, 1):
            for dummy in filter(None, {each.api_key, *each.headers.values()}):
                sent.setdefault(dummy, []).append(_key(number))
        return {
            name: ",".join(key for dummy in value.split(",") for key in sent.get(dummy, [dummy]))
            for name, value in self.items()
            if name not in _PLAIN
        }


def _endpoints(settings: Settings, variables: _Variables, models: Sequence[str]) -> tuple[Endpoint, ...]:
    """Return the endpoints of the real run with dummy keys, as many as it has keys; it may still lack a key."""
    try:
        found = endpoints_of(settings, variables, models=models)
    except SettingsError:
        variables.fills = True
        found = endpoints_of(settings, variables, models=models)
    if any(endpoint.llm is not None for endpoint in found):
        raise SettingsError(
            "a rehearsal runs in a process of its own, to which a chat model cannot go: give the endpoint by its model"
            " and base_url"
        )
    return found


def _with_second(
    held: tuple[Endpoint, ...], settings: Settings, variables: _Variables
) -> tuple[tuple[Endpoint, ...], Settings]:
    """Return the endpoints with the second ones under a name, and the options that name them (`--then`).

    A rehearsal has no hand labels: a threshold stands for one that is chosen from them, so that some rows go on.
    """
    tiers = tiers_of(settings, held, variables)
    if not tiers.second:
        return held, settings
    second = tuple(replace(endpoint, name=_SECOND) for endpoint in tiers.second)
    threshold = _THRESHOLD if settings.threshold is None else settings.threshold
    return (*tiers.first, *second), replace(settings, then=_SECOND, hold=None, threshold=threshold)


def _dummies(name: str, value: str, known: dict[str, str]) -> str:
    """Return a dummy for each key that a variable may hold.

    Args:
        name: of the variable.
        value: of it.
        known: the dummies of the keys so far; new ones are added.
    """
    keys = filter(None, map(str.strip, value.split(",")))
    return ",".join(known.setdefault(key, _dummy(name, number)) for number, key in enumerate(keys, 1))


def _dummy(name: str, number: int) -> str:
    return f"rehearsal-{name}-{number}"


def _key(number: int) -> str:
    """Return the key that a rehearsed endpoint sends; two endpoints that share a key send two."""
    return f"rehearsal-{number}"


def _rate(endpoints: Sequence[Endpoint]) -> float | None:
    """Return the requests a second that the accounts' limits allow; None if one has no limit."""
    firsts = [keys[0] for keys in by_account(endpoints)]  # the keys of an account have the same limits
    rates = [min((limit for limit in (each.rps, each.rpm and each.rpm / 60) if limit), default=0.0) for each in firsts]
    return sum(rates) if all(rates) else None


def _rows_in_a_minute(endpoints: Sequence[Endpoint]) -> int:
    rate = _rate(endpoints)
    return ROWS if rate is None else min(ROWS, max(_FEWEST_ROWS, int(rate * _LONGEST_S)))


def _as_rehearsed(settings: Settings, directory: Path, rows: int | None, real: Sequence[Endpoint]) -> Settings:
    """Return the options of the rehearsed run, with endpoints of the embedded server in the place of the real ones."""
    values = {name: getattr(settings, name) for name in OPTIONS if name not in _REPLACED}
    endpoints = [
        Endpoint(
            each.model,
            base_url=OFFLINE,
            api_key=_key(number),
            max_concurrency=each.max_concurrency,
            name=_SECOND if each.name == _SECOND else None,
        )
        for number, each in enumerate(real, 1)
    ]
    return Settings(
        **values, endpoints=endpoints, keyword=settings.keyword, output_dir=directory, limit=rows, quiet=settings.quiet
    )


def _write_endpoints(path: Path, real: Sequence[Endpoint], settings: Settings, base_url: str) -> None:
    """Write the file of endpoints for the child: the limits of the real ones, at the local server."""
    lines: list[str] = []
    for number, each in enumerate(real, 1):
        values: dict[str, Any] = {"model": each.model, "base_url": base_url, "api_key_env": f"{KEY_VARIABLE}{number}"}
        values |= {name: getattr(each, name) for name in ("name", "account", "rpm", "rps", "tpm", "max_concurrency")}
        # The names in extra_body are not checked again: they have been.
        values |= {"params": each.params and {"extra_body": dict(each.params)}, "prices": _prices(each, settings)}
        lines += ["[[endpoint]]", *(f"{name} = {_toml(value)}" for name, value in values.items() if value), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _prices(endpoint: Endpoint, settings: Settings) -> dict[str, float] | None:
    """Return an endpoint's prices; with a budget those of the price table, which has none for the local server."""
    given = dict(endpoint.prices or {})
    if "in" in given or settings.budget is None:
        return given or None
    tariff = Tariff.of(endpoint, settings.params).on(Terms(Task(settings.task)))
    (in_batch,) = in_batches([tariff])
    if tariff.price is None or in_batch.price is None:
        return given or None
    of = {"in": Usage(1_000, 0), "out": Usage(0, 1_000)}
    whole, cut = ({name: each.cost(usage) for name, usage in of.items()} for each in (tariff.price, in_batch.price))
    share = max((cut[name] / whole[name] for name in of if whole[name]), default=1.0)
    return {name: cost * 1_000 / NANO for name, cost in whole.items()} | {"batch": min(share, 1.0)} | given


def _toml(value: Any) -> str:
    """Write a value as TOML."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{_toml(str(name))} = {_toml(each)}" for name, each in value.items()) + " }"
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case None:
            raise SettingsError("params of an endpoint cannot be None in a rehearsal: leave the parameter out")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
