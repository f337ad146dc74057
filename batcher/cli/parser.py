"""The parser of the command line: its verbs, their arguments and options, and their help.

Invariant: an option of a run is described in `batcher.settings` alone; the docs and the completion are made from this
parser.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import batcher
from batcher.calls.services import SERVICES
from batcher.endpoint import AS_STARTED
from batcher.hiding import shown
from batcher.settings import OPTIONS, Group
from batcher.visible import harmless

BACKENDS = ("sim", "hf")
MODEL_OPTIONS = ("base_model", "lora_model", "tokenizer_path", "gpus", "only_cpu", "load_in_8bit")
"""The options of `serve` that are for `--backend hf` alone."""

REACHING_OPTIONS = (
    *("endpoints", "provider", "base_url", "api_key_env", "header"),
    *("price_in", "price_out", "price_batch"),
)
"""The options of `run` that `cancel` takes, too: how services are reached, and what they cost."""

SHELLS = ("bash", "zsh", "fish")

_PROMPT_FLAGS = ("-p", "--prompt")
_WIDTH = 80
_INPUT = (
    "a .csv, .tsv, .txt, .jsonl, .json (also .gz, .bz2 or .zst), .parquet or .xlsx file, a directory of them, a pattern"
    " in quotes ('data/*.parquet'), or - for standard input; several are one table, in the order given"
)
_FAULTS = (
    "a TOML file with [[fault]] tables: which requests (match, model, tier, api_key_env, from, to, requests, share,"
    " times, after_answers, rpm) meet what (service and case, status with body, headers, do, forms, delay, paid), and"
    " its name. do is hang, stall (hang in the middle of an answer), drop, cut, empty, length (cut off at max_tokens),"
    " choices (several), hole (a stream with a broken line) or break (a stream with an error in the middle). forms is"
    " as for --forms. service may also be proxy, nginx or cloudflare"
)
_BATCH_FAULTS = (
    "a TOML file with [[fault]] tables: which batches, lines or requests (match, model, batches, requests, from, to,"
    " share, times) meet what, and its name. It is one of at (upload, files, file, content, delete, create, list, look"
    " or cancel) with do (hang, stall, drop or cut), status with body and headers, service and case, delay, or late;"
    " done = true has the effect all the same. end (expired, failed or cancelled) with answered (a share), code,"
    " message, listed. lines (drop, double, foreign or broken). takes (a time)"
)
_FORMS = (
    "how the server treats lists of choices, JSON Schema and JSON mode: full (all work), ignore, empty, one_in_ten,"
    " prompt_only, not_strict, or as one of vllm, vllm_old, openai, azure_old, deepseek, deepseek_old, dashscope,"
    " siliconflow, groq, openrouter, mistral, gemini, lmstudio, ollama. full,200:deepseek changes after 200 requests"
    " (full)"
)
_DRESSED = "share of prompts whose answer gets Markdown, thoughts or prose around it, if no form holds it (0)"


class _Formatter(argparse.HelpFormatter):
    """Help of a fixed width, the same in every version of Python, so that the docs can quote it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, Flag):  # `--no-...` is explained once, at --config
            return ", ".join(action.on)
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


class Flag(argparse.Action):
    """An option of a run that is switched on, or off again if the file of the job switches it on.

    Attributes:
        on: the forms that switch it on.
        off: the form that switches it off: `--no-dedup`, and `--progress` for `--no-progress`.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, **described: Any) -> None:
        self.on = tuple(option_strings)
        long = self.on[-1].removeprefix("--")
        self.off = f"--{long.removeprefix('no-')}" if long.startswith("no-") else f"--no-{long}"
        super().__init__([*self.on, self.off], dest, nargs=0, **described)

    def __call__(
        self, _parser: object, namespace: argparse.Namespace, _values: object, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, flag != self.off)


class _Parser(argparse.ArgumentParser):
    """A parser that names what was probably meant."""

    def error(self, message: str) -> NoReturn:
        super().error(harmless(message))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if choices and value not in choices:
            what = "there is no verb" if isinstance(action, argparse._SubParsersAction) else "it cannot be"  # noqa: SLF001 - argparse has no public name for it
            near = difflib.get_close_matches(str(value).lower(), choices, 1)
            advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"{what} {shown(str(value))}: {advice}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _Parser(
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
    _add_cancel(verbs)
    _add_verify(verbs)
    _add_merge(verbs)
    _add_sample(verbs)
    _add_estimate(verbs)
    _add_compare(verbs)
    _add_report(verbs)
    _add_review(verbs)
    _add_serve(verbs)
    _add_rehearse(verbs)
    _add_services(verbs)
    _add_demo(verbs)
    _add_completion(verbs)
    return parser


class Verb(NamedTuple):
    """A verb of the command line: its name, what it does in a few words, its help, and its arguments and options."""

    name: str
    summary: str
    help: str
    actions: tuple[argparse.Action, ...]


def verbs_of() -> list[Verb]:
    """Return the verbs, in the order of the help."""
    [verbs] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no public way
    summaries = {each.dest: each.help or "" for each in verbs._choices_actions}  # noqa: SLF001 - the same
    return [
        Verb(name, summaries[name], made.format_help(), tuple(made._actions))  # noqa: SLF001 - the same
        for name, made in verbs.choices.items()
    ]


def help_of(verb: str) -> str:
    """Return the help of a verb, as `--help` prints it."""
    return next(each.help for each in verbs_of() if each.name == verb)


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


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="INPUT",
        nargs="*",
        help=f"{_INPUT}; default: the input of --config, or else of batcher.toml",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with any of these options, input and prompt, and [[endpoint]] tables; the command line wins,"
        " and no- undoes a switch: --no-dedup. Default without INPUT: batcher.toml",
    )


def _add_which_run(
    parser: argparse.ArgumentParser,
    words: str = "the run's keyword; default: that of --config, or else of batcher.toml",
) -> None:
    """Add the arguments that say which run is meant."""
    parser.add_argument("keyword", metavar="KEYWORD", nargs="?", help=words)
    _add_output_dir(parser, "the run's output directory; default: that of the file, if it is of this run, or output")
    parser.add_argument("--config", metavar="FILE", help="the TOML file of the run; default: batcher.toml")


def _add_output_dir(parser: argparse.ArgumentParser, words: str, default: str | None = None) -> None:
    option = OPTIONS["output_dir"]
    parser.add_argument(*option.flags, metavar="DIR", default=default, help=words)


def _add_run(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "run",
        "batcher run [INPUT...] [options]",
        "the job; running the same command again resumes it",
        "Ask a model about every row of INPUT and save the answers. Running the same command again resumes it.",
    )
    _add_options(parser)


def _add_plan(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "plan",
        "batcher plan [INPUT...] [options]",
        "what run would do: rows, whom it asks, tokens, money, time",
        "Show what `batcher run` would do with the same options: rows with and without an answer, and the reasons;"
        " whom it asks, requests, model tokens, cost, how far the budget goes, and the time that the limits impose."
        " Nothing is sent, no API key is needed, and no file is written.",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `batcher.run`: its data, its prompt and its options."""
    _add_input(parser)
    groups = {group: parser.add_argument_group(group) for group in Group}
    groups[Group.PROMPT].add_argument(
        *_PROMPT_FLAGS, metavar="TEXT", help="a template with {column} holes; {{ and }} are braces"
    )
    display = groups[Group.DISPLAY]
    display.add_argument("--dry-run", action=Flag, help="send nothing: the same as `batcher plan`")
    display.add_argument("--json", action=Flag, help="print one JSON object about the run to stdout")
    _add_settings(groups)


def _add_settings(groups: Mapping[Group, Any]) -> None:
    """Add the options that are fields of `Settings`, each to its group."""
    for option in OPTIONS.values():
        # argparse reads `%` as its own; what is not given is left to the default of `Settings`.
        words = option.help.replace("%", "%%")
        if option.name == "provider":
            words += f": {', '.join(SERVICES)}"
        if groups[option.group].title is None:
            words = argparse.SUPPRESS
        argument = {"action": Flag} if option.is_flag else option.kind.argument
        groups[option.group].add_argument(*option.flags, dest=option.name, help=words, default=None, **argument)


def _add_status(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "status",
        "batcher status [KEYWORD] [options]",
        "rows and chunks done, failures by reason, rate, time left; without a keyword all runs",
        "Show the state of a run, also while it works: rows and chunks done, failures by reason, rate, time left."
        " Without a keyword, list the runs of the directory.",
    )
    _add_which_run(parser, "the run's keyword; default: that of --config, or else all runs")
    parser.set_defaults(of_file=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_limit(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "limit",
        "batcher limit [KEYWORD] [options]",
        "changes the limits of a run while it works",
        "Change the limits of a run while it works. The running process takes the change within a second or two;"
        " requests in flight go on. The next run begins with the limits of its own command.",
    )
    _add_which_run(parser)
    for name in ("rpm", "rps", "tpm", "max_concurrency"):
        option = OPTIONS[name]
        kind = option.kind.argument
        words = f"{option.help.partition(' (')[0]}; none: as the run was started"
        parser.add_argument(option.flag, help=words, **{**kind, "type": _number_or_none(kind["type"])})
    parser.add_argument(
        "--endpoint", metavar="N", type=int, help="only the account of endpoint N, from 1; default: all accounts"
    )


def _number_or_none(number: Callable[[str], float]) -> Callable[[str], float | str]:
    """Return what reads the new value of a limit: a number, or `none`."""

    def read(text: str) -> float | str:
        return AS_STARTED if text.strip().lower() == AS_STARTED else number(text)

    read.__name__ = f"{getattr(number, '__name__', 'number')} or none"  # argparse shows it: invalid int or none value
    return read


def _add_pause(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "pause",
        "batcher pause [KEYWORD] [options]",
        "lets a run send no further request, until resume",
        "Let a run at work send no further request until `batcher resume`. Requests in flight arrive and are saved.",
    )
    _add_which_run(parser)


def _add_resume(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "resume",
        "batcher resume [KEYWORD] [options]",
        "lets a paused run go on",
        "Let a run go on that `batcher pause` has paused. A run that has ended goes on with its own command.",
    )
    _add_which_run(parser)


def _add_cancel(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "cancel",
        "batcher cancel [KEYWORD] [options]",
        "cancels the batches of a run at their services, and fetches what was answered",
        "Cancel the batches of a run (--via batch) at their services, and fetch what was answered until then: it is"
        " paid. If a process works on the run, it does that, and ends. Else API keys are found as `batcher run` finds"
        " them. The rows that are left go into the next run. The exit status is 0 if every batch is fetched, 3 if some"
        " are still out (--wait, Ctrl-C, or a service that cannot be asked), and 2 if there is nothing to cancel, or"
        " nothing could be done.",
    )
    _add_which_run(parser)
    parser.add_argument(
        "--wait",
        metavar="S",
        type=OPTIONS["wait"].kind.argument["type"],
        help="the most seconds until all batches are fetched; no: cancel, and let the next run or call fetch them;"
        " default: as long as it takes, which may be ten minutes",
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="give up batches that their service does not know any more, or that cannot be asked or fetched: their rows"
        " are asked again, and may be billed twice",
    )
    for name in REACHING_OPTIONS:
        option = OPTIONS[name]
        words = "where the batches were made; default: as recorded" if name == "base_url" else option.help
        words = f"{words}: {', '.join(SERVICES)}" if name == "provider" else words
        parser.add_argument(option.flag, dest=name, help=words, default=None, **option.kind.argument)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_verify(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "verify",
        "batcher verify [KEYWORD] [INPUT...] [options]",
        "proves that every row has the answer to its own prompt, and names those that do not",
        "Prove that every row is in the result once, in order, with the answer to its own prompt, and that requests"
        " and answers match. Problems are listed, and the exit status is then 1. Nothing is written.",
    )
    _add_which_run(parser)
    parser.add_argument(
        "data",
        metavar="INPUT",
        nargs="*",
        help="the run's input, from which each row's prompt is made again; without it, the journal and the files are"
        " compared with each other",
    )
    for name in ("sheet", "input_encoding", "separator"):
        words = f"{OPTIONS[name].help.partition('; default')[0]}; default: as the run read it"
        parser.add_argument(OPTIONS[name].flag, help=words, **OPTIONS[name].kind.argument)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_merge(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "merge",
        "batcher merge [KEYWORD] [INPUT] [options]",
        "rebuilds all_<keyword>.csv from the chunk files as they are",
        "Join the chunk files as they are, with labels that were corrected by hand, into all_<keyword>.csv; of shards"
        " (--shard) that are all done make one run first. With --partial, write all rows with the answers that are"
        " there so far, also while the run, or shards of it, are at work."
        " Prints the path.",
    )
    _add_which_run(parser)
    parser.add_argument(
        "data", metavar="INPUT", nargs="?", help="for --partial: the run's input, if it is not where it was"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write all rows with the answers that are there so far to partial_<keyword>.csv",
    )
    facts = OPTIONS["with_"]
    parser.add_argument(
        facts.flag,
        dest="with_",
        help="put facts of the journal into further columns of the result, at no cost; the chunk files stay as they"
        f" are. {facts.help.partition(', ')[2].capitalize()}",
        **facts.kind.argument,
    )


def _add_sample(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "sample",
        "batcher sample [KEYWORD] [INPUT] [options]",
        "draws rows to be labelled by hand, at random, and reads the labels back",
        "Draw rows at random to be labelled by hand, and write them to sample_<keyword>.csv, without the model's"
        " answers and with an empty column gold (of a schema one for each field). What people have written there is"
        " read first, and stays. Prints the path.",
    )
    _add_which_run(parser)
    parser.add_argument("data", metavar="INPUT", nargs="?", help="the run's input, if it is not where it was")
    parser.add_argument(
        "-n",
        type=int,
        metavar="N",
        help="rows of the sample; a larger N later adds rows to it, and the sample stays random",
    )
    parser.add_argument(
        "--per-label",
        action="store_true",
        help="draw N rows of each label of the model, and of the rows without one, so that rare labels have enough",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="decides which rows are drawn; default: 0, or that of the first draw"
    )
    parser.add_argument(
        "--read",
        metavar="FILE",
        help="read hand labels from this file: a sample's file, as a spreadsheet or a colleague saved it (CSV, .xlsx)",
    )
    parser.add_argument(
        "--label",
        action="store_true",
        help="label the rows that have no hand label yet here, by keyboard: row after row, saved at once",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_estimate(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "estimate",
        "batcher estimate [KEYWORD] [options]",
        "how good the labels are: accuracy, shares and more, with intervals, from hand labels",
        "Show how good the answers of a run are, from the rows with a hand label (`batcher sample`, or --gold of"
        " `batcher run`): accuracy; the share of each label in the whole table; precision, recall and F1 of each label;"
        " each with its 95% interval. Without hand labels it shows what can be counted, and how to get an interval.",
    )
    _add_which_run(parser)
    parser.add_argument(
        "--field", metavar="NAME", help="the field of the schema that it is about, if the answers have several"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of the numbers drawn for the intervals (0)"
    )
    parser.add_argument(
        "--export",
        metavar="[FILE]",
        nargs="?",
        const=True,
        help="write the whole table to a .csv or .parquet file, with a pseudo-outcome for each label, of which means"
        " and regressions are right; default: export_<keyword>.csv in the output directory",
    )
    parser.add_argument("--html", metavar="FILE", help="write the estimate to a page, with its pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_compare(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "compare",
        "batcher compare KEYWORD OTHER [options]",
        "two runs on one table, such as two prompts or models: how far they agree, and which is better",
        "Compare two runs on one table, such as two prompts or two models. Rows are paired by the cells that the"
        " questions read. It shows how far the runs agree and where they differ, the accuracy of both on the same hand"
        " labels (`batcher sample`) with McNemar's test, money, tokens and time; and, if --repeat-sample of `batcher"
        " run` measured it, how many answers change by themselves, below which a difference says nothing.",
    )
    parser.add_argument("keyword", metavar="KEYWORD", help="the keyword of one run")
    parser.add_argument("other", metavar="OTHER", help="the keyword of the other run")
    _add_output_dir(parser, "the output directory; default: that of the file, if it is of one of the runs, or output")
    parser.add_argument("--other-dir", metavar="DIR", help="that of the other run; default: the same")
    parser.add_argument("--config", metavar="FILE", help="the TOML file of a run; default: batcher.toml")
    parser.add_argument(
        "--field", metavar="NAME", help="the field of the schema that is compared; default: the whole answer"
    )
    parser.add_argument("--html", metavar="FILE", help="write the comparison to a page, with its pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_report(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "report",
        "batcher report [KEYWORD] [options]",
        "writes what happened in a run to a page: quality, time, money, failures, and what to look at",
        "Write what happened in a run to report_<keyword>.html, also while it works: how good the answers are, what"
        " ran, rows by status, labels, speed, money, failures with examples, and hints. The page is one file that loads"
        " nothing; it is all from the journal. Prints the path.",
    )
    _add_which_run(parser)
    parser.add_argument("--html", metavar="FILE", help="write the page to this file instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout: path and facts")


def _add_review(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "review",
        "batcher review [KEYWORD] [INPUT] [options]",
        "a local page: read, filter, label the sample by keyboard, correct",
        "Serve a page on this machine to read and filter the rows of a run, to label its sample by keyboard, and to"
        " correct answers, also while the run works. Prints its address, which holds a secret token, to stdout, and"
        " opens it in the browser. Ctrl-C ends it, and writes the files that it changed.",
    )
    _add_which_run(parser)
    parser.add_argument("data", metavar="INPUT", nargs="?", help="the run's input, if it is not where it was")
    parser.add_argument(
        "--host",
        metavar="HOST",
        default="127.0.0.1",
        help="address to listen on (127.0.0.1). Beyond this machine everyone who reaches it and knows the token can"
        " read and change everything, and nothing is encrypted",
    )
    parser.add_argument("--port", metavar="N", type=int, default=0, help="port; default: a free one")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="only print the address")
    parser.add_argument(
        "--who",
        metavar="NAME",
        help="the name that is recorded with corrections and hand labels; default: your login name",
    )


def _add_serve(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "serve",
        "batcher serve [options]",
        "a local OpenAI-compatible server with simulated answers, or with a model of your own",
        "Run a local server that speaks OpenAI's protocol (chats, completions, embeddings). By default it answers by"
        " rules and fails as often as you ask: a rehearsal at no cost. As a proxy (HTTP_PROXY) it stands for every"
        " host. With --backend hf it answers with a Hugging Face model of this machine. Prints its base URL to stdout;"
        " its own counts are at /stats.",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        choices=BACKENDS,
        default="sim",
        help="sim (simulated answers) or hf (a model of your own); default: sim",
    )
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, default=19_327, help="port; 0 takes a free one (19327)")
    parser.add_argument("--model", metavar="NAME", default="", help="the only model served; default: any")
    parser.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="accept only the API keys in this variable; default: open to all, with any key or none",
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
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of faults, latencies and wrong labels (0)"
    )
    parser.add_argument("--forms", metavar="WAY", default="full", help=_FORMS)
    parser.add_argument(
        "--wrong-labels", metavar="P", type=float, default=0.0, help="share of prompts that get a wrong label (0)"
    )
    parser.add_argument("--dressed", metavar="P", type=float, default=0.0, help=_DRESSED)
    parser.add_argument(
        "--confusion",
        metavar="FILE",
        help="the true labels of the texts, and how often the model takes which label for which, as TOML or JSON"
        " (docs/serve.md)",
    )
    parser.add_argument("--faults", metavar="FILE", help=_FAULTS)
    _add_batches(parser)
    _add_model(parser)


def _add_batches(parser: argparse.ArgumentParser) -> None:
    """Add the options of the simulated batch API: the knobs of `batcher.server.batch_rules.BatchKnobs`."""
    group = parser.add_argument_group("batches (/v1/files and /v1/batches; docs/serve.md)")
    for name, default, what in (
        ("latency", "0", "time that a batch takes, such as 90s, 5m or 2h (0: it is answered at once)"),
        ("window", "24h", "time after which a batch with a completion window of 24h expires (24h)"),
        ("cancelling", "0", "time until a batch that is being cancelled is cancelled (0)"),
    ):
        group.add_argument(f"--batch-{name}", metavar="TIME", type=_seconds, default=_seconds(default), help=what)
    group.add_argument(
        "--batch-idle",
        metavar="P",
        type=float,
        default=0.0,
        help="share of a batch's time before its first line is answered; then they come evenly (0)",
    )
    group.add_argument(
        "--batch-speed",
        metavar="N",
        type=float,
        default=1.0,
        help="how many times as fast the clock of batches goes: 3600 makes seconds of hours (1)",
    )
    for name, of in (("tokens", "prompt tokens"), ("requests", "lines")):
        group.add_argument(
            f"--batch-queue-{name}",
            metavar="N",
            type=int,
            default=0,
            help=f"most {of} of the batches that are not over; one that exceeds it fails (0: any number)",
        )
    group.add_argument(
        "--batch-file-requests", metavar="N", type=int, default=50_000, help="most lines of a file (50000)"
    )
    group.add_argument(
        "--batch-file-bytes", metavar="N", type=int, default=200_000_000, help="most bytes of a file (200000000)"
    )
    group.add_argument(
        "--batch-in-order", action="store_true", help="give the results in the order of the lines, not shuffled"
    )
    group.add_argument("--batch-faults", metavar="FILE", help=_BATCH_FAULTS)


def _seconds(text: str) -> float:
    """Read a time: `90s`, `5m`, `2h`, `14d`, or seconds."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 5m or 2h, not {text!r}")
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}[found[2] or "s"]


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that `MODEL_OPTIONS` names."""
    group = parser.add_argument_group("a model of your own (--backend hf; docs/serve.md)")
    group.add_argument(
        "--base-model",
        metavar="DIR",
        help="directory of a model in Hugging Face format; --model is another name for it. Nothing is downloaded",
    )
    group.add_argument("--lora-model", metavar="DIR", help="directory of a LoRA of this model, as peft saves it")
    group.add_argument(
        "--tokenizer-path", metavar="DIR", help="directory of the tokenizer; default: the LoRA's, else the base model's"
    )
    group.add_argument(
        "--gpus", metavar="N,N", help="numbers of the GPUs, such as 0,1: the model is spread over them; default: one"
    )
    group.add_argument("--only-cpu", action="store_true", help="run the model on the processor, without a GPU")
    group.add_argument(
        "--load-in-8bit", action="store_true", help="load the weights in 8 bits: less memory, a little less exact"
    )


def _add_rehearse(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "rehearse",
        "batcher rehearse [INPUT...] [options]",
        "the job against the local server, with faults and kills, ending in verify",
        "Run the job against the local server, which fails now and then; kill it, start it again, and verify the"
        " result. No request leaves this machine, and no API key is used. It takes the options of `batcher run` as"
        " well; without --limit or --sample it takes the first 1,000 rows, or what a minute of your limits allows. The"
        " exit status is 0 if the result is verified and the server's counts agree with the journal, else 1.",
    )
    _add_input(parser)
    parser.add_argument("--faults", metavar="FILE", help=f"{_FAULTS}. Default: a few of every kind")
    parser.add_argument(
        "--batch-faults", metavar="FILE", help="with --via batch: the same for batches, as for `batcher serve`"
    )
    parser.add_argument("--forms", metavar="WAY", help=_FORMS)
    parser.add_argument("--dressed", metavar="P", type=float, help=_DRESSED)
    parser.add_argument(
        "--kills",
        metavar="N",
        type=int,
        help="kill the run N times (2); with --via batch when it makes a batch, reads results and so on",
    )
    parser.add_argument(
        "--keep", action=Flag, help="keep the files in rehearsal_<keyword> also if the rehearsal passes"
    )
    parser.add_argument("--json", action=Flag, help="print one JSON object to stdout")
    hidden = parser.add_argument_group()
    hidden.add_argument(*_PROMPT_FLAGS, metavar="TEXT", help=argparse.SUPPRESS)
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
    _add_output_dir(parser, "the directory of all files (output)", "output")


def _add_completion(verbs: Any) -> None:
    parser = _verb(
        verbs,
        "completion",
        "batcher completion SHELL",
        "a script that completes verbs, options, files and keywords in a shell",
        'Print a script that completes verbs, options, their values, files and keywords. bash: eval "$(batcher'
        ' completion bash)" in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, after compinit. fish: batcher completion'
        " fish > ~/.config/fish/completions/batcher.fish",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
