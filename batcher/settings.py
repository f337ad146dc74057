"""The options of a run: each is written here once, with its default, its help and its check.

Invariant: a `Settings` that exists is valid. The help of the command line, the docstring of `Settings`, `Options` and
`docs/cli.md` are made from its fields.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

from batcher.chat_model import request_of, streams
from batcher.checks import (
    check_count,
    check_directory,
    check_duration,
    check_encoding,
    check_file_name,
    check_number,
    check_price,
    check_separator,
    check_share,
    check_text,
    check_variable,
    check_whole,
)
from batcher.endpoint import MAX_CONCURRENCY, check_name
from batcher.errors import SettingsError
from batcher.hiding import names_key, shown
from batcher.moments import check_moment, check_span
from batcher.params import REQUEST_PARAMS, as_json, check_params, unfolded
from batcher.records import Beside, Task
from batcher.shards import Shard
from batcher.words import as_given, blamed, by_reader, option

if TYPE_CHECKING:
    from batcher.endpoint import Endpoint

ON_CHANGE = ("abort", "redo", "reuse")
ENCODINGS = ("utf-8", "utf-8-sig")
FORMATS = ("csv", "parquet")
GOLD_DRAWN = ("random", "all", "unknown")
DETAILS = ("low", "high", "auto", "original")
FACTS_BEFORE = {"finish_reason": "finish"}
"""The names that an older batcher gave to facts (`--with`): its commands and its journals still have them."""
STRUCTURED = ("auto", "choice", "schema", "json", "prompt")
TASKS = tuple(map(str, Task))
NPY = "npy"
"""The name in `--with` of a file with all vectors, beside the result."""
ONLINE, BATCH = WAYS = ("online", "batch")
"""How rows are asked (`via`)."""
LIMITS_PER = ("account", "key")
FLEX = "flex"
TIERS = (FLEX, "priority", "default", "auto", "on_demand", "performance")
"""The service tiers that `--tier` knows; each service has some of them (`batcher services`)."""
TIMEOUT_S, DEADLINE_S = 120.0, 1800.0
FLEX_TIMEOUT_S = 900.0
"""The most seconds for an attempt in flex, which OpenAI advises: requests wait there until the service has time."""
HEDGED_OF = 20
"""Rows may be asked a second time (`hedge`) once for so many other requests: 5% more."""
_NOT_IN_SHARDS = {
    "hold": "each shard would choose a threshold of its own. Choose it by a run of a part of the table, and give that"
    " threshold to all shards",
    "repeat_sample": "rows of the whole table are to be drawn. Merge the shards, and give it to the same run without"
    " shards, which asks nothing else again",
}
"""Options that make no sense for a shard, and why."""
IN_ENDPOINTS = (
    *("model", "base_url", "provider", "endpoint_name", "api_key_env", "header"),
    *("rpm", "rps", "tpm", "price_in", "price_batch"),
)
"""Options that are set in the endpoints, if these are given."""

T = TypeVar("T")


class Usual(float):
    """A default that depends on other options; a value that the user gives is a plain number."""


def check_keyword(keyword: str) -> None:
    """Refuse a keyword that is not a safe part of a file name.

    Raises:
        SettingsError: it is empty, hidden, reserved, too long, or holds a separator or a control character.
    """
    check_file_name(keyword, blamed("keyword"))


def home_expanded(path: str | os.PathLike[str]) -> str:
    """Return a path with the home directory for `~`, as most shells write it."""
    return os.path.expanduser(os.fsdecode(path))  # noqa: PTH111 - Path.expanduser fails for an unknown user


class Group(StrEnum):
    """The groups of the options, in the order of the help."""

    PROMPT = "prompt (exactly one of the first four)"
    ANSWERS = "answers"
    ENDPOINTS = "model and service"
    LIMITS = "limits"
    MACHINES = "more than one machine"
    FILES = "rows and files"
    DISPLAY = "display"


class Kind(NamedTuple):
    """The kind of value that an option takes.

    Attributes:
        check: refuses a value; its message names the option. None is accepted if it is the default.
        argument: how the command line reads it, as keyword arguments of argparse's `add_argument`.
    """

    check: Callable[[Any, str], None]
    argument: Mapping[str, Any]


def _typed(*kinds: type) -> Callable[[object, str], None]:
    def check(value: object, where: str) -> None:
        if not isinstance(value, kinds):
            raise SettingsError(f"{where} cannot be of type {type(value).__name__}")

    return check


@dataclass(frozen=True)
class _OneOf:
    """Refuses a value that is not one of these."""

    choices: Sequence[str]

    def __call__(self, value: object, where: str) -> None:
        if value not in self.choices:
            near = difflib.get_close_matches(str(value).lower(), self.choices, 1)
            meant = f": did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{where} must be one of {', '.join(self.choices)}, not {value!r}{meant}")


def _one_of(choices: Sequence[str]) -> _OneOf:
    return _OneOf(choices)


def _is_simple(value: object) -> bool:
    return isinstance(value, (bool, int, float, bytes))


def _is_empty(value: object) -> bool:
    return isinstance(value, (str, list, tuple, Mapping)) and not value


def _check_labels(value: object, where: str) -> None:
    if _is_simple(value) or _is_empty(value):  # the rest is checked as they are read
        raise SettingsError(f"{where} must be a list of labels, or 'a,b,c', or '@FILE', not {value!r:.80}")


def _check_schema(value: object, where: str) -> None:
    if _is_simple(value) or _is_empty(value):
        raise SettingsError(f"{where} must be a JSON Schema, or the path of its file, not {value!r:.80}")


def _check_then(value: object, where: str) -> None:
    if _is_simple(value) or _is_empty(value):  # the rest is checked when the endpoints are known
        raise SettingsError(f"{where} must name an endpoint or a model, not {value!r:.80}")


def _check_share(value: object, where: str) -> None:
    check_number(value, where)
    if float(value) > 1:  # type: ignore[arg-type]
        raise SettingsError(f"{where} must be above 0 and at most 1, as in 0.95, not {value}")


def _check_percentile(value: object, where: str) -> None:
    check_number(value, where)
    if not 50 <= float(value) < 100:  # type: ignore[arg-type]
        raise SettingsError(f"{where} must be a percentile from 50 to under 100, as in 90, not {value}")


def _check_ray(value: object, where: str) -> None:
    kinds = "local, auto, HOST:PORT or ray://HOST:PORT"
    if not isinstance(value, str):
        raise SettingsError(f"{where} must be {kinds}, not {value!r:.80}")
    if value in {"local", "auto"}:
        return
    found = re.fullmatch(r"(?:ray://)?(?:\[[\da-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?", value)
    if found is None or (found[1] and not 0 < int(found[1]) < 2**16):
        raise SettingsError(f"{where} must be {kinds}, not {shown(value)}")
    if found[1] is None:
        raise SettingsError(f"{where} must be {kinds}: {value!r} has no port")


def _check_part(value: object, where: str) -> None:
    Shard.parsed(value, where)


def _check_table(value: object, where: str) -> None:
    if _is_simple(value) or (isinstance(value, (str, list, tuple)) and not value):  # the rest is checked as it is read
        raise SettingsError(f"{where} must be a table, or the path of its file, not {value!r:.80}")


def _check_headers(value: object, where: str) -> None:
    if not isinstance(value, Mapping):  # its names and values are checked when the base URL is known
        raise SettingsError(f"{where} must hold texts by name, as in {{'X-Team': 'labels'}}")


def _listed(value: str | Sequence[str]) -> list[str]:
    """Return the names that a value lists: one by one, or in a text with commas between them."""
    return [name.strip() for each in ([value] if isinstance(value, str) else value) for name in str(each).split(",")]


def _names_in(value: str | Sequence[str]) -> list[str]:
    """Return the facts that a value lists."""
    return [FACTS_BEFORE.get(name, name) for name in _listed(value)]


def facts_in(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the facts that a value of `with_` names, each once; the order given does not matter."""
    names = _names_in(value or ())
    return tuple(name for name in Beside._fields if name in names)


def has_npy(value: str | Sequence[str] | None) -> bool:
    """Return whether a value of `with_` asks for the file with all vectors."""
    return NPY in _names_in(value or ())


def _check_beside(value: Any, where: str) -> None:
    names = _names_in(value) if isinstance(value, (str, list, tuple)) else []
    known = (*Beside._fields, NPY)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0], known, 1) if unknown else []
        meant = f": did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{where} must be out of {', '.join(known)}, not {value!r}{meant}")


def tiers_in(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the service tiers that a value of `tier` names, in their order, each once."""
    return tuple(dict.fromkeys(name.lower() for name in _listed(value or ())))


def _check_tier(value: Any, where: str) -> None:
    names = tiers_in(value) if isinstance(value, (str, list, tuple)) else ()
    if "batch" in names:
        raise SettingsError(
            f"{where}: a batch is not a tier of requests that are sent one by one: {option('via', 'batch')} asks"
            " through the service's batch API"
        )
    unknown = [name for name in names if name not in TIERS]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0], TIERS, 1) if unknown else []
        near = near or (["default"] if unknown and unknown[0] in {"standard", "normal", "ordinary"} else [])
        meant = f": did you mean {near[0]}?" if near else ""
        raise SettingsError(
            f"{where} must be out of {', '.join(TIERS)}, or several with commas in the order in which they are tried,"
            f" as in flex,default, not {value!r}{meant}"
        )


def columns_in(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns that a value of `params_column` names, each once."""
    return tuple(dict.fromkeys(_listed(value or ())))


def _check_names(value: Any, where: str) -> None:
    names = _listed(value) if isinstance(value, (str, list, tuple)) else []
    if not names or not all(names):
        raise SettingsError(f"{where} must name columns, as in model,temperature, not {value!r}")


def _check_files(value: Any, where: str) -> None:
    files = value if isinstance(value, (list, tuple)) else [value]
    if not files or not all(isinstance(each, (str, os.PathLike)) and os.fspath(each) for each in files):
        raise SettingsError(f"{where} must be the path of a file, or a list of paths, not {value!r:.80}")


def _check_mapping(value: object, where: str) -> None:
    check_params(value, where, for_llm=True)  # the rest is checked when the endpoints are known


def _check_keyword(value: Any, where: str) -> None:
    _typed(str)(value, where)
    check_file_name(value, where)


def _check_variable(value: Any, where: str) -> None:
    check_text(value, where)
    check_variable(value, where)


def _text(metavar: str) -> Kind:
    return Kind(check_text, {"metavar": metavar})


def _number(metavar: str = "N") -> Kind:
    return Kind(check_number, {"metavar": metavar, "type": float})


NO_WAIT = "no"
"""What `wait` is given to submit batches and not to wait for them."""


def _check_wait(value: object, where: str) -> None:
    if value != NO_WAIT:
        check_duration(value, where)


def _wait_of(text: str) -> float | str:
    return text if text == NO_WAIT else float(text)


_wait_of.__name__ = "number"  # as argparse names what it cannot read


_FACTS = (
    "raw (the answer as the model wrote it), reasoning (what it thought), tokens, prompt_tokens, completion_tokens,"
    " cost (US dollars), latency (seconds), model (that answered), attempts, finish (why it stopped), form (how labels"
    " or a schema were asked for), request_id, agreement and votes (of several answers), confidence (how likely the"
    " model finds its label, by the log-probabilities of its tokens), by (the model that was asked, or hand), tier (the"
    " service tier that answered, or batch); and for embeddings npy: a file all_<keyword>.npy with all vectors"
)
_ANY_TEXT = Kind(_typed(str), {"metavar": "TEXT"})
_NAMES = Kind(_check_names, {"metavar": "COLUMNS", "action": "append"})
_FILES = Kind(_check_files, {"metavar": "FILE", "action": "append"})
_BESIDE = Kind(_check_beside, {"metavar": "NAMES", "action": "append"})
_COLUMN = _text("COLUMN")
_DIRECTORY = Kind(check_directory, {"metavar": "DIR"})
_ENDPOINTS = Kind(lambda _value, _where: None, {"metavar": "FILE"})  # checked as they are read
_FILE = Kind(_typed(str, os.PathLike), {"metavar": "FILE"})
_FLAG = Kind(_typed(bool), {"action": "store_true"})
_KEYWORD = Kind(_check_keyword, {"metavar": "NAME"})
_NAME = _text("NAME")
_MOMENT = Kind(check_moment, {"metavar": "TIME"})
_NUMBER = _number()
_HEADERS = Kind(_check_headers, {"metavar": "NAME=VALUE", "action": "append"})
_PARAMS = Kind(_check_mapping, {"metavar": "KEY=VALUE", "action": "append"})
_PRICE = Kind(check_price, {"metavar": "USD", "type": float})
_SECONDS = _number("S")
_SHARE = Kind(check_share, {"metavar": "SHARE", "type": float})
_SPAN = Kind(check_span, {"metavar": "SPAN"})
_URL = _text("URL")
_USD = _number("USD")
_VARIABLE = Kind(_check_variable, {"metavar": "VARIABLE"})
_GRACE = Kind(check_duration, {"metavar": "S", "type": float})
_WAIT = Kind(_check_wait, {"metavar": "S", "type": _wait_of})
_RAY = Kind(_check_ray, {"metavar": "ADDRESS"})
_SHARD = Kind(_check_part, {"metavar": "I/N"})
_WHOLE = Kind(check_whole, {"metavar": "N", "type": int})


def _option(
    default: T,
    group: Group,
    kind: Kind,
    help: str,  # noqa: A002 - argparse's word
    *,
    in_python: str = "",
    is_shown: bool = True,
    short: str = "",
) -> T:
    """Describe an option, as a field of `Settings`.

    Args:
        default: its value if it is not given.
        group: the part of the help that it belongs to.
        kind: what it takes.
        help: its purpose. It names the default only if that is None and means something else.
        in_python: replaces `help` in Python, if the option takes more there than on the command line.
        is_shown: the `repr` of the settings shows its value.
        short: the letter of its short form, if it has one.
    """
    in_python = in_python or help.replace("`batcher services`", "`batcher.services()`")
    words: dict[str, Any] = {"group": group, "kind": kind, "help": help, "in_python": in_python, "short": short}
    described: Any = field(default=default, repr=is_shown, metadata=words)
    return described  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Settings:
    """The options of a run, checked."""

    prompt_file: str | os.PathLike[str] | None = _option(None, Group.PROMPT, _FILE, "a file that holds the template")
    prompt_column: str | None = _option(None, Group.PROMPT, _COLUMN, "the column that holds the prompt")
    messages_column: str | None = _option(None, Group.PROMPT, _COLUMN, "the column that holds a JSON list of messages")
    system: str | None = _option(None, Group.PROMPT, _ANY_TEXT, "system message, also a template")
    system_file: str | os.PathLike[str] | None = _option(
        None, Group.PROMPT, _FILE, "a file that holds the system message"
    )
    same_prompt: bool = _option(
        False, Group.PROMPT, _FLAG, "every row asks the same: accept a prompt without a {column} hole"
    )
    image_column: str | None = _option(
        None,
        Group.PROMPT,
        _COLUMN,
        "the column that names the image to send with each row: a path, an http(s) URL or a data URL, or a JSON list of"
        ' several; empty: none. It needs Pillow: pip install "batcher-llm[images]"',
        in_python="the column of the image to send with each row: a path, an http(s) URL, a data URL, bytes, or a list"
        ' of several; empty: none. It needs Pillow: pip install "batcher-llm[images]"',
    )
    image_size: int = _option(
        2048,
        Group.PROMPT,
        Kind(check_count, {"metavar": "N", "type": int}),
        "the most pixels of an image's longer side; a larger image is made smaller. 0: any number",
    )
    image_detail: str | None = _option(
        None,
        Group.PROMPT,
        Kind(_one_of(DETAILS), {"metavar": "NAME"}),
        "how closely the service shall look at images: low, high, auto or original; default: as it likes",
    )
    param: Mapping[str, Any] | None = _option(
        None,
        Group.PROMPT,
        _PARAMS,
        "a request parameter, sent on under this name; VALUE is JSON, or else text: temperature=0, max_tokens=200. May"
        " be given several times",
        in_python="request parameters, sent on under the names given, as in {'temperature': 0, 'max_tokens': 200}",
    )
    params_column: str | Sequence[str] | None = _option(
        None,
        Group.PROMPT,
        _NAMES,
        "columns, separated by commas, that hold request parameters of their row: a column with the name of a parameter"
        " (model, temperature, max_tokens) its value, any other an object of parameters. An empty cell sends nothing",
        in_python="columns, a list or a text with commas, that hold request parameters of their row: a column with the"
        " name of a parameter (model, temperature, max_tokens) its value, any other an object of parameters. An empty"
        " cell sends nothing",
    )
    requests: bool = _option(
        False,
        Group.PROMPT,
        _FLAG,
        "INPUT is a requests file: each line is a request in OpenAI's batch format, or the bare body of one, and is"
        " sent as it stands; the responses are in all_<keyword>.jsonl",
        in_python="`data` is the path of a requests file, or a list of dictionaries: each is a request in OpenAI's"
        " batch format, or the bare body of one, and is sent as it stands; the responses are in all_<keyword>.jsonl",
    )
    adopt: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = _option(
        None,
        Group.PROMPT,
        _FILES,
        "with --requests, a results file of api_request_parallel_processor.py or of batcher: what has an answer there"
        " is not asked again. May be given several times; default: INPUT's name with _results, if it exists",
        in_python="with `requests`, the path of a results file of api_request_parallel_processor.py or of batcher, or a"
        " list of paths: what has an answer there is not asked again. Default: the input's name with _results, if it"
        " exists",
    )
    task: str = _option(
        Task.CHAT.value,
        Group.ANSWERS,
        Kind(_one_of(TASKS), {"metavar": "TASK"}),
        "what the model does with a row: chat, completion (it goes on with a text, at /v1/completions) or embedding"
        " (a vector for each row's text, at /v1/embeddings, many rows in one request)",
    )
    labels: Any = _option(
        None,
        Group.ANSWERS,
        Kind(_check_labels, {"metavar": "LABELS"}),
        "the labels, of which each answer must be one: a,b,c, or @FILE with a JSON list, or with one label a line. The"
        " prompt may list them with {labels}; else a line is added to it",
        in_python="the labels, of which each answer must be one: a list, an Enum, a dictionary from label to"
        " description, 'a,b,c', or '@FILE'. The prompt may list them with {labels}; else a line is added to it",
    )
    schema: Any = _option(
        None,
        Group.ANSWERS,
        Kind(_check_schema, {"metavar": "FILE"}),
        "a JSON Schema that each answer must fit; its fields become columns. The prompt may hold it with {schema}",
        in_python="what each answer must fit: a JSON Schema (a dictionary, or the path of a file), a pydantic model or"
        " a dataclass; its fields become columns. The prompt may hold it with {schema}",
    )
    examples: Any = _option(
        None,
        Group.ANSWERS,
        Kind(_check_table, {"metavar": "FILE"}),
        "a table of rows labelled by hand, of any kind that INPUT may be: examples that stand before each row's"
        " question. It has the columns that the prompt uses, and the right answer in a column label, gold or answer",
        in_python="a table of rows labelled by hand, of any kind that `data` may be: examples that stand before each"
        " row's question. It has the columns that the prompt uses, and the right answer in a column label, gold or"
        " answer",
        is_shown=False,
    )
    shots: int = _option(
        8,
        Group.ANSWERS,
        Kind(check_whole, {"metavar": "K", "type": int}),
        "state K of the examples before each row, of as many labels as there are",
        short="k",
    )
    structured: str = _option(
        STRUCTURED[0],
        Group.ANSWERS,
        Kind(_one_of(STRUCTURED), {"metavar": "FORM"}),
        "how labels or a schema are asked for: choice, schema, json (mode) or prompt (words alone); auto finds the"
        " strictest form by the answers to the first rows that fit",
    )
    repair: int = _option(
        0,
        Group.ANSWERS,
        Kind(check_count, {"metavar": "N", "type": int}),
        "ask up to N times more, with the error shown, if an answer does not fit",
    )
    samples: int = _option(
        1,
        Group.ANSWERS,
        _WHOLE,
        "ask about each row N times: the answer that most agree on counts, and a column says how many do",
    )
    repeat_sample: int | None = _option(
        None,
        Group.ANSWERS,
        _WHOLE,
        "ask N rows, drawn at random, once more: `batcher compare` shows how many answers change by themselves",
    )
    gold: str | None = _option(
        None,
        Group.ANSWERS,
        _COLUMN,
        "the column that holds the right label, in some rows or in all, for `batcher estimate`; it is not sent",
    )
    gold_drawn: str | None = _option(
        None,
        Group.ANSWERS,
        Kind(_one_of(GOLD_DRAWN), {"metavar": "HOW"}),
        "how the rows with a right label in --gold were chosen: all, random, or unknown (then there are no intervals);"
        " default: all if each row has one",
        in_python="how the rows with a right label in `gold` were chosen: all, random, or unknown (then there are no"
        " intervals); default: all if each row has one",
    )
    then: Any = _option(
        None,
        Group.ENDPOINTS,
        Kind(_check_then, {"metavar": "NAME"}),
        "a second, better endpoint, which is asked about the rows whose answer is not certain enough (--hold or"
        " --threshold): the name or model of an endpoint in --endpoints, or else a model of the same service",
        in_python="a second, better endpoint, which is asked about the rows whose answer is not certain enough (`hold`"
        " or `threshold`): an Endpoint, the name or model of one in `endpoints`, or else a model of the same service",
    )
    hold: float | None = _option(
        None,
        Group.ENDPOINTS,
        Kind(_check_share, {"metavar": "SHARE", "type": float}),
        "with --then, the accuracy of the answers that the first endpoint keeps, as in 0.95: the threshold is chosen"
        " from the hand labels",
        in_python="with `then`, the accuracy of the answers that the first endpoint keeps, as in 0.95: the threshold is"
        " chosen from the hand labels",
    )
    threshold: float | None = _option(
        None,
        Group.ENDPOINTS,
        Kind(_check_share, {"metavar": "SHARE", "type": float}),
        "with --then, the agreement (--samples) or the confidence from which on the first endpoint's answer counts",
        in_python="with `then`, the agreement (`samples`) or the confidence from which on the first endpoint's answer"
        " counts",
    )
    canary: int = _option(
        20,
        Group.ANSWERS,
        Kind(check_count, {"metavar": "N", "type": int}),
        "ask N rows first, drawn at random from the whole table, and stop if clearly more than a quarter bring no"
        " usable answer: 9 of 20 (with 95% certainty); later 142 of the latest 500 answers stop the run. The same"
        " command then goes on all the same. 0: never look",
    )
    yes: bool = _option(False, Group.ANSWERS, _FLAG, "ask no questions in a terminal", short="y")
    model: str | None = _option(
        None, Group.ENDPOINTS, _NAME, "the model; default: MODEL of the environment or .env", short="m"
    )
    base_url: str | None = _option(
        None,
        Group.ENDPOINTS,
        _URL,
        "the base URL of the service; default: BASE_URL, then OPENAI_BASE_URL, OPENAI_API_BASE, then OpenAI's own",
    )
    provider: str | None = _option(
        None,
        Group.ENDPOINTS,
        _NAME,
        "a service by name instead of a base URL; offline is the embedded server, which needs no key and no network."
        " `batcher services` lists them",
        in_python="a service by name instead of a base URL; `batcher.services()` lists them. 'offline' is the embedded"
        " server, which needs no key and no network",
    )
    api_key_env: str | None = _option(
        None,
        Group.ENDPOINTS,
        _VARIABLE,
        "the variable that holds the key, or several keys separated by commas; default: API_KEY for BASE_URL, and the"
        " service's own variable, such as OPENAI_API_KEY, for a known service",
    )
    header: Mapping[str, str] | None = _option(
        None,
        Group.ENDPOINTS,
        _HEADERS,
        "a header sent with each request; a VALUE env:VARIABLE is read from the environment or .env, and never shown."
        " May be given several times",
        in_python="headers sent with each request, by name; a value env:VARIABLE is read from the environment or .env,"
        " and never shown",
        is_shown=False,
    )
    endpoint_name: str | None = _option(
        None,
        Group.ENDPOINTS,
        Kind(check_name, {"metavar": "NAME"}),
        "a name of your own for the server, such as my-vllm: the answers belong to the name, and stay valid if the"
        " server's host or port changes",
    )
    via: str | None = _option(
        None,
        Group.ENDPOINTS,
        Kind(_one_of(WAYS), {"metavar": "WAY"}),
        "how rows are asked: online, each by itself, or batch: through the service's batch API, at a lower price and"
        " within a day; default: online, and with --by whichever is cheapest in time",
        in_python="how rows are asked: online, each by itself, or batch: through the service's batch API, at a lower"
        " price and within a day; default: online, and with `by` whichever is cheapest in time",
    )
    endpoints: str | os.PathLike[str] | Sequence[Endpoint] | None = _option(
        None,
        Group.ENDPOINTS,
        _ENDPOINTS,
        "a TOML file with [[endpoint]] tables: model, base_url, api_key_env, rpm, rps, tpm, max_concurrency, params,"
        " prices, headers, account, name",
        in_python="a list of batcher.Endpoint, or a TOML file with [[endpoint]] tables",
    )
    tier: str | Sequence[str] | None = _option(
        None,
        Group.ENDPOINTS,
        Kind(_check_tier, {"metavar": "NAME"}),
        "the service tier to ask for: flex (half the price at OpenAI, slower, and not always there), priority or"
        " default; or several with commas, tried in this order: flex,default goes on in default where flex has no"
        " capacity. Default: none is named. `batcher services` lists who has which",
    )
    rpm: float | None = _option(None, Group.LIMITS, _NUMBER, "the most requests per minute, for each account")
    rps: float | None = _option(None, Group.LIMITS, _NUMBER, "the most requests per second, for each account")
    tpm: float | None = _option(None, Group.LIMITS, _NUMBER, "the most model tokens per minute, for each account")
    max_concurrency: int = _option(
        MAX_CONCURRENCY, Group.LIMITS, _WHOLE, "the most requests in flight, for each account"
    )
    inputs_per_request: int | None = _option(
        None,
        Group.LIMITS,
        _WHOLE,
        "the most rows in one request for embeddings; default: what the service allows, but no more than 256, and 64"
        " at a base URL that batcher does not know",
    )
    limits_per: str | None = _option(
        None,
        Group.LIMITS,
        Kind(_one_of(LIMITS_PER), {"metavar": "WHAT"}),
        "what these four limit if a variable holds several keys: account (the keys share them) or key (each key belongs"
        " to an account of its own); default: what the service limits (`batcher services`), and key at any other base"
        " URL",
    )
    timeout: float = _option(
        Usual(TIMEOUT_S),
        Group.LIMITS,
        _SECONDS,
        "the most seconds for one attempt; in the tier flex 900, if it is not given",
    )
    stream: bool = _option(
        False,
        Group.LIMITS,
        _FLAG,
        "for long answers: have them sent piece by piece. Then silence of --idle-timeout seconds ends an attempt, not"
        " --timeout",
        in_python="for long answers: have them sent piece by piece. Then silence of `idle_timeout` seconds ends an"
        " attempt, not `timeout`",
    )
    idle_timeout: float | None = _option(
        None,
        Group.LIMITS,
        _SECONDS,
        "with --stream: the most seconds without a byte of the answer, before its first as well; default: --timeout",
        in_python="with `stream`: the most seconds without a byte of the answer, before its first as well; default:"
        " `timeout`",
    )
    deadline: float = _option(
        Usual(DEADLINE_S),
        Group.LIMITS,
        _SECONDS,
        "the most seconds in flight for a row, over all attempts; with the tier flex as many as these may take, if it"
        " is not given",
    )
    max_attempts: int = _option(6, Group.LIMITS, _WHOLE, "the most attempts for a row; a 429 does not count")
    wait: float | str = _option(
        600.0,
        Group.LIMITS,
        _WAIT,
        "the most seconds for a service that is not up yet: at the start, refused connections and 503 are waited for."
        " no: submit batches, and do not wait for them: the same command fetches them later",
        in_python="the most seconds for a service that is not up yet: at the start, refused connections and 503 are"
        " waited for. 'no': submit batches, and do not wait for them: the same call fetches them later",
    )
    grace: float = _option(
        30.0,
        Group.LIMITS,
        _GRACE,
        "the most seconds for requests in flight to arrive after Ctrl-C or SIGTERM; 0 stops at once",
        in_python="the most seconds for requests in flight to arrive after Ctrl-C, SIGTERM or the cancellation of arun;"
        " 0 stops at once",
    )
    max_response_mb: float = _option(
        64.0,
        Group.LIMITS,
        _NUMBER,
        "the most megabytes (10^6 bytes, unpacked) in a response; a longer response ends its row as error",
    )
    hedge: float | None = _option(
        None,
        Group.LIMITS,
        Kind(_check_percentile, {"metavar": "P", "type": float}),
        "ask a row a second time, at another endpoint, if its answer takes longer than P percent of the latest answers:"
        " 75 or 90, from 50 to under 100. The first answer counts, and the other request is cancelled, but may be"
        " billed. It shortens the end of a run, with at most 5% more requests; default: ask once",
    )
    by: Any = _option(
        None,
        Group.LIMITS,
        _MOMENT,
        "be finished by then, as cheaply as possible: 07:00 (the next one) or '2026-12-01 07:00', local or with an"
        " offset. Rows go where they are cheapest as long as they can still be asked online in time",
        in_python="be finished by then, as cheaply as possible: a datetime, '07:00' (the next one) or '2026-12-01"
        " 07:00', local or with an offset. Rows go where they are cheapest as long as they can still be asked online in"
        " time",
    )
    within: Any = _option(
        None,
        Group.LIMITS,
        _SPAN,
        "as --by, counted from now: 8h, 90m, 1h30m",
        in_python="as `by`, counted from now: a timedelta, '8h', '90m' or '1h30m'",
    )
    budget: float | None = _option(None, Group.LIMITS, _USD, "the most US dollars, for the whole run with its resumes")
    price_in: float | None = _option(
        None, Group.LIMITS, _PRICE, "US dollars per million prompt tokens; default: the price table"
    )
    price_out: float | None = _option(
        None, Group.LIMITS, _PRICE, "US dollars per million completion tokens; default: the price table"
    )
    price_batch: float | None = _option(
        None,
        Group.LIMITS,
        _SHARE,
        "what a request in a batch costs, as a share of the price, above 0 to 1; default: the price table, or what"
        " `batcher services` shows, and 1 at any other URL",
    )
    ray: str | None = _option(
        None,
        Group.MACHINES,
        _RAY,
        "let workers of Ray make the calls: local (on this machine), auto (the cluster that it is part of), HOST:PORT"
        " or ray://HOST:PORT; default: this process makes them",
    )
    ray_workers: int | None = _option(
        None,
        Group.MACHINES,
        _WHOLE,
        "how many workers, with one CPU each; default: as many as the cluster has CPUs, less one for this process",
    )
    shard: str | None = _option(
        None,
        Group.MACHINES,
        _SHARD,
        "only shard I of N, as in 3/8: a part of the rows, with a share of the limits and of the budget, in"
        " DIR/shards_<keyword>/I-of-N. N machines do one each, and `batcher merge` makes one run of them",
        in_python="only one shard of several, as in '3/8': a part of the rows, with a share of the limits and of the"
        " budget, in a directory of its own. Several machines do one each, and `batcher.merge` makes one run of them",
    )
    sheet: str | None = _option(
        None, Group.FILES, _NAME, "the sheet of a workbook (.xlsx) to read; default: the first one that is not hidden"
    )
    keyword: str | None = _option(
        None,
        Group.FILES,
        _KEYWORD,
        "names the run and its files; default: the name of the input's file without its ending, or of its directory",
    )
    output_dir: str | os.PathLike[str] = _option(
        "output", Group.FILES, _DIRECTORY, "the directory of all files", short="o"
    )
    with_: str | Sequence[str] | None = _option(
        None,
        Group.FILES,
        _BESIDE,
        f"further columns of the result, separated by commas, out of {_FACTS}",
        in_python=f"further columns of the result, a list or a text with commas, out of {_FACTS}",
    )
    keep_thinking: bool = _option(
        False, Group.FILES, _FLAG, "leave <think>...</think> in the answers, as the model sent it"
    )
    format: str | None = _option(
        None,
        Group.FILES,
        Kind(_one_of(FORMATS), {"metavar": "NAME"}),
        "of chunk files and result: csv, or parquet, which has the types of the input's columns (those of a CSV are"
        " text), of a schema's fields, of facts and of vectors; default: csv, but parquet for embeddings",
    )
    chunk_size: int = _option(500, Group.FILES, _WHOLE, "rows per chunk file")
    answer_column: str = _option(
        "infer",
        Group.FILES,
        _NAME,
        "the name of the answer column; the columns of status and error are named after it",
    )
    limit: int | None = _option(
        None,
        Group.FILES,
        _WHOLE,
        "only the first N rows",
        in_python="ask only about the first rows; default: all",
        short="n",
    )
    sample: int | None = _option(
        None,
        Group.FILES,
        _WHOLE,
        "only N rows, drawn at random: the same ones each time, and a later run keeps their answers",
    )
    retry_failed: bool = _option(False, Group.FILES, _FLAG, "send again the rows that ended as error or invalid")
    on_change: str = _option(
        "abort",
        Group.FILES,
        Kind(_one_of(ON_CHANGE), {"metavar": "WHAT"}),
        "what to do about rows that have an answer to a different question: abort before any call, redo (ask again) or"
        " reuse (keep an old answer if it is provably the row's own, ask the others)",
    )
    id_column: str | None = _option(
        None,
        Group.FILES,
        _COLUMN,
        "a column of unique values that identify the rows; reuse then keeps the answer of an edited row if its id is"
        " the same",
    )
    dedup: bool = _option(False, Group.FILES, _FLAG, "send identical prompts once; all their rows get the answer")
    input_encoding: str | None = _option(
        None,
        Group.FILES,
        Kind(check_encoding, {"metavar": "NAME"}),
        "the encoding of a text INPUT, such as gb18030 or cp1252; default: that of its byte order mark, or else UTF-8",
        in_python="the encoding of a text file, such as 'gb18030' or 'cp1252'; default: that of its byte order mark, or"
        " else UTF-8",
    )
    separator: str | None = _option(
        None,
        Group.FILES,
        Kind(check_separator, {"metavar": "CHAR"}),
        "the character between the columns of a CSV INPUT, such as ';' or tab; default: the one in its header, if there"
        " is no doubt, or else a comma",
        in_python="the character between the columns of a CSV file, such as ';' or 'tab'; default: the one in its"
        " header, if there is no doubt, or else a comma",
    )
    encoding: str = _option(
        "utf-8",
        Group.FILES,
        Kind(_one_of(ENCODINGS), {"metavar": "NAME"}),
        "the encoding of the CSV files: utf-8, or utf-8-sig, which spreadsheets recognise",
    )
    no_progress: bool = _option(False, Group.DISPLAY, _FLAG, "show messages only, no progress")
    log_json: bool = _option(
        False,
        Group.DISPLAY,
        _FLAG,
        "write messages and progress to stderr as JSON lines",
    )
    quiet: bool = _option(False, Group.DISPLAY, _FLAG, "show errors only", short="q")

    def __post_init__(self) -> None:
        for name in ("prompt_file", "system_file", "endpoints", "output_dir"):
            value = getattr(self, name)
            if isinstance(value, (str, os.PathLike)) and os.fsdecode(value).startswith("~"):
                object.__setattr__(self, name, home_expanded(value))
        for each in OPTIONS.values():
            each.check(getattr(self, each.name))
        if self.param is not None:
            check_params(self.param, blamed("param"), for_llm=self.asks_chat_model)
            object.__setattr__(self, "param", as_json(self.param, blamed("param")))
        _only_one(self, "system", "system_file")
        _only_one(self, "labels", "schema")
        _only_one(self, "provider", "base_url")
        _only_one(self, "limit", "sample")
        _only_one(self, "image_column", "examples")
        _only_one(self, "hold", "threshold")
        _only_one(self, "by", "within")
        self._check_due()
        _check_tiers(self)
        self._check_one_by_one()
        if self.gold_drawn is not None and self.gold is None:
            raise SettingsError(f"{blamed('gold_drawn')} goes with {option('gold')}: give both")
        if self.task == Task.EMBEDDING and self.price_in is not None and self.price_out is None:
            object.__setattr__(self, "price_out", 0.0)  # nothing is written
        if (self.price_in is None) != (self.price_out is None):
            pair = f"{as_given('price_in')} and {as_given('price_out')}"
            raise SettingsError(f"{pair} go together: give both, in dollars per million tokens")
        self._check_images()
        self._check_stream()
        self._check_machines()
        for name in IN_ENDPOINTS:
            if self.endpoints is not None and getattr(self, name) is not None:
                pair = f"{as_given(name)} and {as_given('endpoints')}"
                raise SettingsError(f"{pair} exclude each other: set it in the endpoints")

    def _check_one_by_one(self) -> None:
        given = [name for name in ("tier", "hedge", "ray") if getattr(self, name) is not None]
        if given and self.in_batches and self.by is None and self.within is None:
            name = as_given(given[0])
            raise SettingsError(
                f"{name} is for requests that are sent one by one, and {as_given('via', BATCH)} sends none: give one of"
                " them"
            )
        if self.tier is None:
            return
        if "service_tier" in {**self.params, **(self.params.get("extra_body") or {})}:
            raise SettingsError(
                f"{as_given('tier')} and the parameter service_tier of {as_given('param')} exclude each other: give one"
                " of them"
            )
        if "service_tier" in self.param_columns:
            raise SettingsError(
                f"{as_given('tier')} and the column service_tier of {as_given('params_column')} exclude each other:"
                " leave one of them out"
            )

    def _check_due(self) -> None:
        for name in ("by", "within"):
            if getattr(self, name) is not None and not self.waits:
                raise SettingsError(
                    f"{as_given(name)} and {as_given('wait', NO_WAIT)} exclude each other: a run that does not wait"
                    " cannot see to it that it is finished"
                )

    def _check_machines(self) -> None:
        self._check_shard()
        if self.ray is None:
            if self.ray_workers is not None:
                raise SettingsError(f"{blamed('ray_workers')} goes with {option('ray', 'auto')}: give both")
            return
        if importlib.util.find_spec("ray") is None:
            raise SettingsError(f"{blamed('ray')} needs the extra ray: pip install 'batcher-llm[ray]'")
        if self.asks_chat_model:
            raise SettingsError(
                f"{as_given('ray', self.ray)}: a chat model in llm= cannot be sent to workers: give the endpoint by its"
                " model and base_url"
            )

    def _check_shard(self) -> None:
        if self.shard is None:
            return
        for name, why in _NOT_IN_SHARDS.items():
            if getattr(self, name) is not None:
                raise SettingsError(f"{as_given(name)} and {as_given('shard', self.shard)} exclude each other: {why}")

    def _check_images(self) -> None:
        for name in ("image_size", "image_detail"):
            if self.image_column is None and getattr(self, name) != OPTIONS[name].default:
                raise SettingsError(f"{blamed(name)} needs {option('image_column')}")

    def _check_stream(self) -> None:
        if not self.stream:
            if self.idle_timeout is not None:
                raise SettingsError(f"{blamed('idle_timeout')} goes with {as_given('stream')}: give both")
            return
        pool = self.endpoints if isinstance(self.endpoints, (list, tuple)) else ()
        for llm in filter(None, (getattr(each, "llm", None) for each in pool)):
            kind = type(llm).__name__
            if not streams(llm):
                raise SettingsError(f"{blamed('stream')}: the chat model {kind} in llm= does not stream: leave it out")
            request = request_of(llm, self.params) or self.params
            if (request.get("n") or 1) != 1:
                raise SettingsError(
                    f"{blamed('stream')}: of a chat model in llm=, LangChain streams one answer, and n is"
                    f" {request['n']}: leave one of them out, or give the endpoint by its model and base_url"
                )
        if self.params.get("stream", True) is not True:
            pair = f"{as_given('stream')} and {option('param', {'stream': self.params['stream']})}"
            raise SettingsError(f"{pair} exclude each other: give one of them")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Check options given by name.

        Raises:
            SettingsError: an option is unknown or its value cannot be used.
        """
        for name in options:
            if name not in OPTIONS:
                raise SettingsError(f"there is no option {name!r}: {advice_on(name, options[name])}")
        return cls(**options)

    @property
    def params(self) -> dict[str, Any]:
        """The request parameters of every row; a chat model takes `extra_body` apart itself."""
        return dict(self.param or {}) if self.asks_chat_model else unfolded(self.param or {}, blamed("param"))

    @property
    def tiers(self) -> tuple[str, ...]:
        """The service tiers to ask for, in the order in which they are tried; empty: requests name none."""
        return tiers_in(self.tier)

    def timeout_in(self, tier: str) -> float:
        """Return the most seconds for an attempt in one piece that asks for a service tier; empty: for none."""
        return FLEX_TIMEOUT_S if tier == FLEX and isinstance(self.timeout, Usual) else self.timeout

    @property
    def longest_s(self) -> float:
        """The most seconds for an attempt in one piece, in whatever tier."""
        return max(map(self.timeout_in, self._named_tiers))

    @property
    def _named_tiers(self) -> tuple[str, ...]:
        """The service tiers that requests may name, by the option or as a parameter; an empty one if they name none."""
        return self.tiers or (str(self.params.get("service_tier") or ""),)

    def attempt_s_in(self, tier: str) -> float:
        """Return the most seconds for one attempt in a service tier; a stream may take as long as its row has left."""
        return self.deadline_s if self.stream else self.timeout_in(tier)

    @property
    def attempt_s(self) -> float:
        """The most seconds for one attempt, in whatever tier."""
        return self.deadline_s if self.stream else self.longest_s

    @property
    def deadline_s(self) -> float:
        """The most seconds in flight for a row. In flex these are mostly a wait, which must not end the row."""
        if FLEX not in self._named_tiers or not isinstance(self.deadline, Usual):
            return self.deadline
        return max(self.deadline, self.max_attempts * self.longest_s)

    @property
    def part(self) -> Shard | None:
        """The shard that the run is; None: it is whole."""
        return None if self.shard is None else Shard.parsed(self.shard, blamed("shard"))

    @property
    def in_batches(self) -> bool:
        """Whether rows are asked through the batch APIs of services."""
        return self.via == BATCH

    @property
    def waits(self) -> bool:
        """Whether the run waits for its batches."""
        return self.wait != NO_WAIT

    @property
    def wait_s(self) -> float:
        """The most seconds for a service that is not up yet."""
        return OPTIONS["wait"].default if isinstance(self.wait, str) else self.wait

    @property
    def idle_s(self) -> float | None:
        """The most seconds for which a stream may be silent; None if none is asked for."""
        return (self.idle_timeout or self.longest_s) if self.stream else None

    @property
    def asks_chat_model(self) -> bool:
        """Whether an endpoint is a chat model in `llm=`."""
        pool = self.endpoints
        return isinstance(pool, (list, tuple)) and any(getattr(each, "llm", None) is not None for each in pool)

    @property
    def param_columns(self) -> tuple[str, ...]:
        """The columns that hold request parameters of their row."""
        return columns_in(self.params_column)

    @property
    def extras(self) -> tuple[str, ...]:
        """The further columns of the result, each once; the order given does not matter.

        With several answers to a row, one of them says how many agree; with a second endpoint, one says whose counts.
        """
        several, second = ["agreement"] if self.samples > 1 else [], [] if self.then is None else ["by"]
        return facts_in([*facts_in(self.with_), *several, *second])

    @property
    def file_format(self) -> str:
        """The format of chunk files and result."""
        return self.format or FORMATS[self.task == Task.EMBEDDING]

    @property
    def writes_npy(self) -> bool:
        """Whether all vectors go into a file of their own, too."""
        return has_npy(self.with_)

    @property
    def prices(self) -> dict[str, float] | None:
        """The prices given, in the form of an endpoint's prices."""
        given = {"in": self.price_in, "out": self.price_out, "batch": self.price_batch}
        return {name: price for name, price in given.items() if price is not None} or None


class Option(NamedTuple):
    """An option of a run, read from its field of `Settings`.

    Attributes:
        name: as Python spells it.
        type: as it is written in the code.
        default: its value if it is not given.
        group: the part of the help that it belongs to.
        kind: what it takes.
        help: its purpose, for the command line, with its default.
        in_python: the same for Python.
        short: the letter of its short form, or empty.
    """

    name: str
    type: str
    default: Any
    group: Group
    kind: Kind
    help: str
    in_python: str
    short: str = ""

    @classmethod
    def of(cls, described: Field[Any]) -> Option:
        made = cls(described.name, str(described.type), described.default, **described.metadata)
        if made.default is None or made.default is False:
            return made
        shown = f"{made.default:g}" if isinstance(made.default, float) else str(made.default)
        return made._replace(help=f"{made.help} ({shown})", in_python=f"{made.in_python} ({shown})")

    @property
    def flag(self) -> str:
        """The option as the command line spells it."""
        return "--" + self.name.rstrip("_").replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All forms of the option on the command line, the short one first."""
        return (f"-{self.short}", self.flag) if self.short else (self.flag,)

    @property
    def is_flag(self) -> bool:
        """Whether it is only switched on or off."""
        return self.kind is _FLAG

    @property
    def choices(self) -> Sequence[str]:
        """Its possible values, if it has a few."""
        check = self.kind.check
        return check.choices if isinstance(check, _OneOf) else ()

    def check(self, value: object) -> None:
        """Refuse a value that the option cannot take.

        Raises:
            SettingsError: the message names the option.
        """
        if value is not None or self.default is not None:
            self.kind.check(value, blamed(self.name))


OPTIONS = {each.name: Option.of(each) for each in fields(Settings)}
"""The options by name, in the order of the help."""


def _documented() -> str:
    """Return the docstring of `Settings`: every option with its help."""
    lines = (
        textwrap.fill(f"{each.name}: {each.in_python}.", 116, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for each in OPTIONS.values()
    )
    return "\n".join(["The options of a run, checked.", "", "    Attributes:", *lines, "    "])


Settings.__doc__ = _documented()


def means_key(name: str) -> bool:
    """Return whether an option that does not exist would take an API key.

    Args:
        name: of the option, as Python spells it.
    """
    return names_key(name) and name not in OPTIONS and name not in REQUEST_PARAMS


def is_request_param(name: str) -> bool:
    """Return whether services know a request parameter of this name."""
    return name in REQUEST_PARAMS


def advice_on(name: str, value: object = None) -> str:
    """Return advice on an option that does not exist.

    Args:
        name: of the option, as Python spells it.
        value: the value given; the advice repeats it only if it is a number, because other values may be secrets.
    """
    if means_key(name):
        other = by_reader(
            command_line=f"from the variable that {option('api_key_env')} names",
            python="from endpoints=[batcher.Endpoint(model, api_key=...)]",
        )
        return f"API keys come from API_KEY in the environment or .env, or {other}"
    if name in REQUEST_PARAMS:
        return f"a request parameter goes into {_as_param(name, value)}"
    known = [*OPTIONS, "data", "prompt", *REQUEST_PARAMS]
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
        return f"did you mean {_as_param(near[0], value) if near[0] in REQUEST_PARAMS else option(near[0])}?"
    return by_reader(
        command_line="`batcher run --help` lists the options", python="`help(batcher.run)` lists the options"
    )


def _as_param(name: str, value: object) -> str:
    return option("param", {name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else "..."})


# Type checkers and editors read the source, so the options are written there a second time, by `make docs`.
# [[[cog
# from batcher.settings import OPTIONS
# print("class Options(TypedDict, total=False):")
# print('    """The keyword arguments of `run`, `arun` and `plan`."""\n')
# print("\n".join(f"    {option.name}: {option.type}" for option in OPTIONS.values()), end="\n\n\n")
# ]]]
class Options(TypedDict, total=False):
    """The keyword arguments of `run`, `arun` and `plan`."""

    prompt_file: str | os.PathLike[str] | None
    prompt_column: str | None
    messages_column: str | None
    system: str | None
    system_file: str | os.PathLike[str] | None
    same_prompt: bool
    image_column: str | None
    image_size: int
    image_detail: str | None
    param: Mapping[str, Any] | None
    params_column: str | Sequence[str] | None
    requests: bool
    adopt: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    task: str
    labels: Any
    schema: Any
    examples: Any
    shots: int
    structured: str
    repair: int
    samples: int
    repeat_sample: int | None
    gold: str | None
    gold_drawn: str | None
    then: Any
    hold: float | None
    threshold: float | None
    canary: int
    yes: bool
    model: str | None
    base_url: str | None
    provider: str | None
    api_key_env: str | None
    header: Mapping[str, str] | None
    endpoint_name: str | None
    via: str | None
    endpoints: str | os.PathLike[str] | Sequence[Endpoint] | None
    tier: str | Sequence[str] | None
    rpm: float | None
    rps: float | None
    tpm: float | None
    max_concurrency: int
    inputs_per_request: int | None
    limits_per: str | None
    timeout: float
    stream: bool
    idle_timeout: float | None
    deadline: float
    max_attempts: int
    wait: float | str
    grace: float
    max_response_mb: float
    hedge: float | None
    by: Any
    within: Any
    budget: float | None
    price_in: float | None
    price_out: float | None
    price_batch: float | None
    ray: str | None
    ray_workers: int | None
    shard: str | None
    sheet: str | None
    keyword: str | None
    output_dir: str | os.PathLike[str]
    with_: str | Sequence[str] | None
    keep_thinking: bool
    format: str | None
    chunk_size: int
    answer_column: str
    limit: int | None
    sample: int | None
    retry_failed: bool
    on_change: str
    id_column: str | None
    dedup: bool
    input_encoding: str | None
    separator: str | None
    encoding: str
    no_progress: bool
    log_json: bool
    quiet: bool


# [[[end]]]


def _check_tiers(settings: Settings) -> None:
    """Refuse options that do not say which answers a second endpoint is asked about (`--then`)."""
    hold, threshold = option("hold", 0.95), option("threshold", 0.8)
    if settings.then is None:
        for name in ("hold", "threshold"):
            if getattr(settings, name) is not None:
                raise SettingsError(f"{blamed(name)} goes with {option('then', 'NAME')}: give both")
        return
    if settings.hold is None and settings.threshold is None:
        raise SettingsError(
            f"{blamed('then')} needs to know which answers count without a second one: give {threshold}, the least"
            f" confidence, or {hold}, an accuracy, for which it is chosen from hand labels"
        )
    if settings.hold is not None and (settings.hold == 1 or settings.labels is None):
        why = "no sample can show that all answers are right: give less than 1" if settings.hold == 1 else ""
        why = why or f"whether an answer is right can be seen if it is a label: give {option('labels')}, or {threshold}"
        raise SettingsError(f"{blamed('hold')}: {why}")
    if settings.requests:
        raise SettingsError(f"{as_given('then')} and {as_given('requests')} exclude each other: give one of them")
    if settings.task == Task.EMBEDDING:
        raise SettingsError(f"{as_given('then')} and {as_given('task', settings.task)} exclude each other")
    if settings.repeat_sample is not None:
        raise SettingsError(
            f"{as_given('then')} and {as_given('repeat_sample')} exclude each other, because a repeated answer is"
            f" one of the first endpoint: repeat before {as_given('then')} is given"
        )
    if settings.samples == 1 and settings.labels is None:
        raise SettingsError(
            f"{blamed('then')} goes by how certain an answer is: give {option('labels')}, for the probability of the"
            f" label, or {option('samples', 3)}, for the agreement of several answers"
        )


def _only_one(settings: Settings, first: str, second: str) -> None:
    if getattr(settings, first) is not None and getattr(settings, second) is not None:
        raise SettingsError(f"{as_given(first)} and {as_given(second)} exclude each other: give one of them")
