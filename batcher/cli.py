"""The command line: the library in a shell, verb for verb.

Invariant: stdout carries data only; what people read goes to stderr. Exit status: 0 every row is ok, 1 finished with
rows that are not, 2 nothing was done, 3 stopped early and the same command goes on, 4 another process works on this
keyword. `__main__` adds 70, a fault in batcher.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batcher
from batcher.calls.services import SERVICES, services
from batcher.errors import BatcherError, Interrupted, KeywordBusy, RunStopped
from batcher.hiding import looks_like_key, shown
from batcher.params import param_of
from batcher.settings import OPTIONS, Group, advice_on, means_key
from batcher.words import command_line, counted, json_lines, print_out, say

if TYPE_CHECKING:
    from batcher.output.report import Report

OK, SOME_FAILED, NOTHING_DONE, STOPPED, BUSY = range(5)

_WIDTH = 80
_LONG = 20  # characters of an argument that may be an API key, although it does not begin like one
_INPUT = (
    "a .csv, .tsv, .txt, .jsonl, .json (also .gz, .bz2 or .zst), .parquet or .xlsx file, a directory of them, a pattern"
    " in quotes ('data/*.parquet'), or - for standard input; several are one table, in the order given"
)
_FAULTS = (
    "a TOML file with [[fault]] tables: which requests (match, model, api_key_env, from, to, requests, share, times,"
    " after_answers, rpm) meet what (service and case, status with body, headers, do, delay, paid), and its name. do is"
    " hang, drop, cut, empty, length (cut off at max_tokens), choices (several) or hole (a stream with a broken line)."
    " service may also be proxy, nginx or cloudflare"
)


class _Formatter(argparse.HelpFormatter):
    """Help of a fixed width, so that the docs can quote it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_WIDTH)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="batcher",
        description="Run a large table through an LLM, row by row.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"batcher {batcher.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_run(verbs)
    _add_plan(verbs)
    _add_status(verbs)
    _add_limit(verbs)
    _add_pause(verbs)
    _add_resume(verbs)
    _add_verify(verbs)
    _add_merge(verbs)
    _add_serve(verbs)
    _add_rehearse(verbs)
    _add_services(verbs)
    _add_demo(verbs)
    return parser


def help_of(verb: str) -> str:
    """Return the help of a verb, as `--help` prints it."""
    [verbs] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no public way
    text: str = verbs.choices[verb].format_help()
    return text


def _verb(verbs: Any, name: str, usage: str, summary: str, description: str = "") -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=description or summary,
        usage=usage,
        formatter_class=_Formatter,
        allow_abbrev=False,  # `--api-key sk-...` must not be taken for --api-key-env
    )
    return made


def _add_run(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "run",
        "batcher run INPUT... [options]",
        "the job; running the same command again resumes it",
        "Ask a model about every row of INPUT and save the answers. Running the same command again resumes it.",
    )
    _add_options(parser)


def _add_plan(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "plan",
        "batcher plan INPUT... [options]",
        "what run would do: rows, whom it asks, tokens, money, time",
        "Show what `batcher run` would do with the same options: rows with and without an answer, and the reasons;"
        " whom it asks, requests, model tokens, cost, how far the budget goes, and the time that the limits impose."
        " Nothing is sent, no API key is needed, and no file is written.",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `batcher.run`: its data, its prompt and its options."""
    parser.add_argument("data", metavar="INPUT", nargs="+", help=_INPUT)
    groups = {group: parser.add_argument_group(group) for group in Group}
    groups[Group.PROMPT].add_argument(
        "--prompt", metavar="TEXT", help="a template with {column} holes; {{ and }} are braces"
    )
    display = groups[Group.DISPLAY]
    display.add_argument("--dry-run", action="store_true", help="send nothing: the same as `batcher plan`")
    display.add_argument("--json", action="store_true", help="print one JSON object about the run to stdout")
    _add_settings(groups)


def _add_settings(groups: Mapping[Group, Any]) -> None:
    """Add the options that are fields of `Settings`, each to its group."""
    for option in OPTIONS.values():
        # argparse reads `%` as its own; what is not given is left to the default of `Settings`.
        words = option.help.replace("%", "%%")
        if option.name == "provider":
            words += f": {', '.join(SERVICES)}"
        shown = argparse.SUPPRESS if groups[option.group].title is None else words
        groups[option.group].add_argument(
            option.flag, dest=option.name, help=shown, default=None, **option.kind.argument
        )


def _add_status(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "status",
        "batcher status [KEYWORD] [options]",
        "rows and chunks done, failures by reason, rate, time left; without a keyword all runs",
        "Show the state of a run, also while it works: rows and chunks done, failures by reason, rate, time left."
        " Without a keyword, list the runs of the directory.",
    )
    parser.add_argument(
        "keyword", metavar="KEYWORD", nargs="?", help="the run's keyword; default: all runs of the directory"
    )
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_limit(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "limit",
        "batcher limit KEYWORD [options]",
        "changes the limits of a run while it works",
        "Change the limits of a run while it works. The running process takes the change within a second or two;"
        " requests in flight go on. The next run begins with the limits of its own command.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the run's keyword")
    for name in ("rpm", "rps", "tpm", "max_concurrency"):
        option = OPTIONS[name]
        parser.add_argument(option.flag, help=option.help.partition(" (")[0], **option.kind.argument)
    parser.add_argument(
        "--endpoint", metavar="N", type=int, help="only the account of endpoint N, from 1; default: all accounts"
    )
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")


def _add_pause(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "pause",
        "batcher pause KEYWORD [options]",
        "lets a run send no further request, until resume",
        "Let a run at work send no further request until `batcher resume`. Requests in flight arrive and are saved.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the run's keyword")
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")


def _add_resume(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "resume",
        "batcher resume KEYWORD [options]",
        "lets a paused run go on",
        "Let a run go on that `batcher pause` has paused. A run that has ended goes on with its own command.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the run's keyword")
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")


def _add_verify(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "verify",
        "batcher verify KEYWORD [INPUT...] [options]",
        "proves that every row has the answer to its own prompt, and names those that do not",
        "Prove that every row is in the result once, in order, with the answer to its own prompt, and that requests"
        " and answers match. Problems are listed, and the exit status is then 1. Nothing is written.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the run's keyword")
    parser.add_argument(
        "data",
        metavar="INPUT",
        nargs="*",
        help="the run's input, from which each row's prompt is made again; without it, the journal and the files are"
        " compared with each other",
    )
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")
    for name in ("sheet", "input_encoding", "separator"):
        words = f"{OPTIONS[name].help.partition('; default')[0]}; default: as the run read it"
        parser.add_argument(OPTIONS[name].flag, help=words, **OPTIONS[name].kind.argument)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_merge(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "merge",
        "batcher merge KEYWORD [INPUT] [options]",
        "rebuilds all_<keyword>.csv from the chunk files as they are",
        "Join the chunk files as they are, with labels that were corrected by hand, into all_<keyword>.csv."
        " With --partial, write all rows with the answers that are there so far, also while the run works."
        " Prints the path.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the run's keyword")
    parser.add_argument(
        "data", metavar="INPUT", nargs="?", help="for --partial: the run's input, if it is not where it was"
    )
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the run's output directory (output)")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write all rows with the answers that are there so far to partial_<keyword>.csv",
    )


def _add_serve(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "serve",
        "batcher serve [options]",
        "a local OpenAI-compatible server with simulated answers",
        "Run a local server that speaks OpenAI's protocol, answers by rules and fails as often as you ask: a rehearsal"
        " at no cost. As a proxy (HTTP_PROXY) it stands for every host. Prints its base URL to stdout; its own counts"
        " are at /stats.",
    )
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="port; 0 takes a free one (8000)")
    parser.add_argument("--model", metavar="NAME", default="", help="the only model served; default: any")
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help="accept only the API keys in this variable; default: any key"
    )
    parser.add_argument("--latency", metavar="S", type=float, default=0.0, help="median latency in seconds (0)")
    parser.add_argument(
        "--latency-sigma", metavar="X", type=float, default=0.0, help="spread of a log-normal latency (0: fixed)"
    )
    parser.add_argument("--rpm", metavar="N", type=float, default=0.0, help="answer 429 beyond N requests a minute")
    parser.add_argument("--max-in-flight", metavar="N", type=int, default=0, help="answer 429 beyond N in flight")
    for name, what in (
        ("error", "that are answered with 500"),
        ("drop", "whose connection is cut"),
        ("cut", "whose response is cut half way"),
        ("hang", "that are never answered"),
    ):
        parser.add_argument(
            f"--{name}-rate", metavar="P", type=float, default=0.0, help=f"share of requests {what}, 0 to 1"
        )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of faults and latencies (0)")
    parser.add_argument("--faults", metavar="FILE", help=_FAULTS)


def _add_rehearse(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "rehearse",
        "batcher rehearse INPUT... [options]",
        "the job against the local server, with faults and kills, ending in verify",
        "Run the job against the local server, which fails now and then; kill it, start it again, and verify the"
        " result. No request leaves this machine, and no API key is used. It takes the options of `batcher run` as"
        " well; without --limit or --sample it takes the first 1,000 rows, or what a minute of your limits allows. The"
        " exit status is 0 if the result is verified and the server's counts agree with the journal, else 1.",
    )
    parser.add_argument("data", metavar="INPUT", nargs="+", help=_INPUT)
    parser.add_argument("--faults", metavar="FILE", help=f"{_FAULTS}. Default: a few of every kind")
    parser.add_argument("--kills", metavar="N", type=int, default=2, help="kill the run N times (2)")
    parser.add_argument(
        "--keep", action="store_true", help="keep the files in rehearsal_<keyword> also if the rehearsal passes"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    hidden = parser.add_argument_group()
    hidden.add_argument("--prompt", help=argparse.SUPPRESS)
    _add_settings(dict.fromkeys(Group, hidden))


def _add_services(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "services",
        "batcher services [options]",
        "the services known by name",
        "Show the services that --provider knows: the variable of the API key, the scope of the limits, the base URL."
        " Any other service works with --base-url.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout, with every known fact")


def _add_demo(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "demo",
        "batcher demo [options]",
        "a complete run on the embedded server: no key, no network",
        "Label a thousand sums with the embedded server and mark the answers: no key, no network.",
    )
    parser.add_argument("--output-dir", metavar="DIR", default="output", help="the directory of all files (output)")


def main(argv: Sequence[str]) -> int:
    """Run a command line.

    Args:
        argv: the arguments, without the program's name.

    Returns:
        The exit status.
    """
    with command_line():
        arguments = _parsed(argv)
        with json_lines(is_on=bool(getattr(arguments, "log_json", False))):
            return _done(arguments)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    _refuse_keys(parser, argv)
    arguments, unknown = parser.parse_known_args(argv)
    unknown = [*_no_inputs(arguments), *unknown]
    if unknown:
        advice = _advice_on(unknown) if arguments.verb in {"run", "plan", "rehearse"} else ""
        parser.error(f"unrecognized arguments: {' '.join(_without_values(unknown))}{advice}")
    return arguments


def _no_inputs(arguments: argparse.Namespace) -> list[str]:
    """Return further inputs that are no path by their look, and no file: a mistake, perhaps an API key."""
    given = getattr(arguments, "data", None) or []
    return [text for text in given[1:] if not set(text) & set("./*?[" + os.sep) and not Path(text).exists()]


def _refuse_keys(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse an API key in any place, before a message can show it: a command line stays in the shell's history."""
    for before, text in itertools.pairwise(["", *argv]):
        flag, _, value = text.partition("=") if text.startswith("-") else ("", "", text)
        if means_key(flag.lstrip("-").replace("-", "_")):
            parser.error(f"unrecognized arguments: {flag}: {advice_on('api_key')}")
        if looks_like_key(value) and "--header" not in {flag, before}:  # a header's error says more
            where = f"the value of {flag or before}" if flag or before.startswith("-") else "an argument"
            parser.error(f"{where} looks like an API key, and is not shown: {advice_on('api_key')}")


def _without_values(unknown: Sequence[str]) -> list[str]:
    """Return the arguments without possible values of unknown options: a value may be an API key."""
    return [
        shown(text) if len(text) >= _LONG else text.partition("=")[0]
        for before, text in itertools.pairwise(["", *unknown])
        if text.startswith("-") or not before.startswith("-") or "=" in before
    ]


def _advice_on(unknown: Sequence[str]) -> str:
    """Return advice on the first option that `run` does not know."""
    for text, after in itertools.pairwise([*unknown, ""]):
        name, separator, value = text.partition("=")
        if name.startswith("--"):
            return f": {advice_on(name[2:].replace('-', '_'), _json_or_text(value if separator else after))}"
    return ""


def _done(arguments: argparse.Namespace) -> int:
    """Do what a command line asks for, and return the exit status."""
    try:
        return VERBS[arguments.verb](arguments)
    except (RunStopped, Interrupted) as stopped:
        say(f"batcher: {stopped}", "error")
        if getattr(arguments, "json", False):
            _print_json(stopped.report.to_dict())
        return STOPPED
    except KeywordBusy as busy:
        say(f"batcher: {busy}", "error")
        return BUSY
    except BatcherError as error:
        say(f"batcher: {error}", "error")
        return NOTHING_DONE
    except KeyboardInterrupt:
        say("batcher: stopped before anything was sent", "error")
        return STOPPED


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options as keyword arguments, with `data` and `prompt` among them."""
    options = {name: value for name, value in vars(arguments).items() if value is not None and value is not False}
    for name in ("verb", "json", "dry_run"):
        options.pop(name, None)
    options["data"] = _data(arguments)
    if "param" in options:
        options["param"] = _params(options["param"])
    if "header" in options:
        options["header"] = _headers(options["header"])
    return options


def _data(arguments: argparse.Namespace) -> str | list[Path] | None:
    """Return the input: a path, or the paths of several; a list of strings would be a list of texts."""
    given: list[str] = arguments.data
    return list(map(Path, given)) if len(given) > 1 else next(iter(given), None)


def _plan(arguments: argparse.Namespace) -> int:
    found = batcher.plan(**_options(arguments))
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    report = batcher.run(**_options(arguments))
    if not arguments.quiet:
        _print_summary(report)
    if arguments.json:
        _print_json(report.to_dict())
    else:
        print_out(report.output)
    return OK if report.ok == report.rows else SOME_FAILED


def _params(texts: Sequence[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise batcher.SettingsError(f"--param {shown(text)} must look like KEY=VALUE, as in temperature=0")
        if name in params:
            raise batcher.SettingsError(f"--param {name} is given twice")
        params[name] = param_of(name, value, "--param")
    return params


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _headers(texts: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or ":" in name:  # not shown: it may be a key
            raise batcher.SettingsError("--header must look like NAME=VALUE, as in X-Team=labels or X-Key=env:TEAM_KEY")
        if name in headers:
            raise batcher.SettingsError(f"--header {name} is given twice")
        headers[name] = value
    return headers


def _print_summary(report: Report) -> None:
    say(report)
    if len(report.endpoints) > 1:
        for endpoint in report.endpoints:
            out = f"; left the pool: {endpoint.out}" if endpoint.out else ""
            say(f"  {endpoint.endpoint}: {counted(endpoint.requests_now, 'request')}{out}")
    if failed := report.invalid + report.error:
        name = report.keyword
        again = f"--retry-failed sends {'it' if failed == 1 else 'them'} again"
        say(f"{counted(failed, 'row')} failed: `batcher status {name}` says why; {again}")


def _status(arguments: argparse.Namespace) -> int:
    found = batcher.status(arguments.keyword, arguments.output_dir)
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK


def _limit(arguments: argparse.Namespace) -> int:
    print_out(batcher.limit(**{name: value for name, value in vars(arguments).items() if name != "verb"}))
    return OK


def _pause(arguments: argparse.Namespace) -> int:
    print_out(batcher.pause(arguments.keyword, arguments.output_dir))
    return OK


def _resume(arguments: argparse.Namespace) -> int:
    print_out(batcher.resume(arguments.keyword, arguments.output_dir))
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    found = batcher.verify(
        arguments.keyword,
        _data(arguments),
        output_dir=arguments.output_dir,
        sheet=arguments.sheet,
        input_encoding=arguments.input_encoding,
        separator=arguments.separator,
    )
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK if found.ok else SOME_FAILED


def _merge(arguments: argparse.Namespace) -> int:
    print_out(batcher.merge(arguments.keyword, arguments.output_dir, partial=arguments.partial, data=arguments.data))
    return OK


def _serve(arguments: argparse.Namespace) -> int:
    from batcher.calls.endpoints import environment, keys_of  # noqa: PLC0415
    from batcher.server.fault_file import read_faults  # noqa: PLC0415
    from batcher.server.serve import serve  # noqa: PLC0415 - FastAPI is for this verb
    from batcher.server.simulated import Knobs  # noqa: PLC0415

    knobs = {name: value for name, value in vars(arguments).items() if name not in {"verb", "host", "port"}}
    variable, file = knobs.pop("api_key_env"), knobs.pop("faults")
    env = environment() if variable or file else {}
    keys = keys_of(variable, env) if variable else []
    if variable and not keys:
        raise batcher.SettingsError(f"--api-key-env: {variable} is not set in the environment or .env")
    faults = read_faults(file, env) if file else ()
    serve(Knobs(**knobs, keys=tuple(keys), faults=faults), arguments.host, arguments.port)
    return OK


def _rehearse(arguments: argparse.Namespace) -> int:
    from batcher.rehearsal.rehearse import rehearse  # noqa: PLC0415 - FastAPI and LangChain are for this verb

    kills = {"kills": arguments.kills}  # 0 is a number of kills, too
    try:
        found = rehearse(**(_options(arguments) | kills))
    except KeyboardInterrupt:
        say("batcher: the rehearsal was interrupted; nothing left this machine")
        return STOPPED
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK if found.passed else SOME_FAILED


def _services(arguments: argparse.Namespace) -> int:
    found = services()
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from batcher.demo import demo  # noqa: PLC0415 - for this verb alone

    return demo(Path(arguments.output_dir))


VERBS = {
    "run": _run,
    "plan": _plan,
    "status": _status,
    "limit": _limit,
    "pause": _pause,
    "resume": _resume,
    "verify": _verify,
    "merge": _merge,
    "serve": _serve,
    "rehearse": _rehearse,
    "services": _services,
    "demo": _demo,
}


def _print_json(value: dict[str, Any]) -> None:
    print_out(json.dumps(value, ensure_ascii=False))
