"""Does what a command line asks for: one function for each verb.

Invariant: stdout carries data only, and each way to end has its own exit status.
"""

from __future__ import annotations

import argparse
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batcher
from batcher.calls.services import services
from batcher.cli.parser import MODEL_OPTIONS, REACHING_OPTIONS, build_parser
from batcher.cli.reading import complete, options_of, parsed
from batcher.errors import BatcherError, Interrupted, KeywordBusy, RunStopped
from batcher.words import begin_json_lines, command_line, counted, print_out, say, written_in_file

if TYPE_CHECKING:
    from batcher.output.report import Report

OK, SOME_FAILED, NOTHING_DONE, STOPPED, BUSY = range(5)


def main(argv: Sequence[str]) -> int:
    """Run a command line.

    Args:
        argv: the arguments, without the program's name.

    Returns:
        The exit status.
    """
    if not argv:
        say(build_parser().format_help().rstrip())
        return NOTHING_DONE
    # Pillow's warning of a very large image: such a row ends as error, with the reason.
    warnings.filterwarnings("ignore", message=r"Image size \([0-9]+ pixels\) exceeds limit")
    with command_line():
        arguments = parsed(argv)
        if getattr(arguments, "log_json", None):
            begin_json_lines()
        return _done(arguments)


def _done(arguments: argparse.Namespace) -> int:
    """Do what a command line asks for, and return the exit status."""
    try:
        with written_in_file(complete(arguments)):
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


def _plan(arguments: argparse.Namespace) -> int:
    found = batcher.plan(**options_of(arguments))
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    report = batcher.run(**options_of(arguments))
    if not arguments.quiet:
        _print_summary(report)
    if arguments.json:
        _print_json(report.to_dict())
    else:
        print_out(report.output)
    return OK if report.ok == report.rows else SOME_FAILED


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
    from batcher.reports.runs import Runs  # noqa: PLC0415 - both load the journal, which the help need not
    from batcher.reports.status import status_of_shards  # noqa: PLC0415

    shards = status_of_shards(arguments.keyword, arguments.output_dir) if arguments.keyword else None
    found = shards or batcher.status(arguments.keyword, arguments.output_dir)
    if arguments.json:
        _print_json(found.to_dict())
        return OK
    print_out(found)
    own = arguments.of_file
    if own is not None and isinstance(found, Runs) and any(own == each.keyword for each in found):
        print_out(f"{own} is the run of batcher.toml: `batcher status {shlex.quote(own)}` shows more")
    return OK


def _limit(arguments: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(arguments).items() if name not in {"verb", "config"}}
    print_out(batcher.limit(**given))
    return OK


def _pause(arguments: argparse.Namespace) -> int:
    print_out(batcher.pause(arguments.keyword, arguments.output_dir))
    return OK


def _resume(arguments: argparse.Namespace) -> int:
    print_out(batcher.resume(arguments.keyword, arguments.output_dir))
    return OK


def _cancel(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in ("wait", "forget", "output_dir", *REACHING_OPTIONS)}
    found = batcher.cancel(arguments.keyword, **given)
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return STOPPED if found.open else OK


def _verify(arguments: argparse.Namespace) -> int:
    found = batcher.verify(
        arguments.keyword,
        arguments.data,
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
    given = {"partial": arguments.partial, "data": arguments.data, "with_": arguments.with_}
    print_out(batcher.merge(arguments.keyword, arguments.output_dir, **given))
    return OK


def _sample(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in ("per_label", "seed", "read", "data", "output_dir")}
    found = batcher.sample(arguments.keyword, arguments.n, **given)
    if arguments.label:
        from batcher.engine.labelling import label  # noqa: PLC0415 - for this option alone

        label(arguments.keyword, data=arguments.data, output_dir=arguments.output_dir)
        found = batcher.sample(arguments.keyword, data=arguments.data, output_dir=arguments.output_dir)
    say(found)
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found.path)
    return OK


def _estimate(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in ("field", "seed", "export", "html")}
    return _show(batcher.estimate(arguments.keyword, arguments.output_dir, **given), arguments)


def _report(arguments: argparse.Namespace) -> int:
    found = batcher.report(arguments.keyword, arguments.output_dir, html=arguments.html)
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found.path)
    return OK


def _compare(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in ("other_dir", "field", "html")}
    found = batcher.compare(arguments.keyword, arguments.other, arguments.output_dir, **given)
    return _show(found, arguments)


def _review(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in ("output_dir", "host", "port", "browser", "who")}
    batcher.review(arguments.keyword, arguments.data, **given)
    return OK


def _show(found: Any, arguments: argparse.Namespace) -> int:
    if arguments.html:
        say(f"{arguments.html} is written")
    if arguments.json:
        _print_json(found.to_dict())
    else:
        print_out(found)
    return OK


def _serve(arguments: argparse.Namespace) -> int:
    from batcher.calls.endpoints import environment, keys_of  # noqa: PLC0415

    variable = arguments.api_key_env
    env = environment() if variable or arguments.faults else {}
    keys = keys_of(variable, env) if variable else []
    if variable and not keys:
        raise batcher.SettingsError(f"--api-key-env: {variable} is not set in the environment or .env")
    shared = {"verb", "backend", "host", "port", "api_key_env"}
    given = {name: value for name, value in vars(arguments).items() if name not in shared}
    model = {name: given.pop(name) for name in MODEL_OPTIONS}
    if arguments.backend == "hf":
        return _serve_model(arguments, model, given, keys)
    if others := [name for name, value in model.items() if value]:
        raise batcher.SettingsError(f"{_flag(others[0])} is for a model of your own: add --backend hf")
    return _serve_simulated(arguments, given, keys, env)


def _serve_simulated(
    arguments: argparse.Namespace, knobs: dict[str, Any], keys: list[str], env: Mapping[str, str]
) -> int:
    from batcher.server.batch_fault_file import read_batch_faults  # noqa: PLC0415
    from batcher.server.batch_rules import BatchKnobs  # noqa: PLC0415
    from batcher.server.confusion_file import read_confusion  # noqa: PLC0415
    from batcher.server.fault_file import read_faults  # noqa: PLC0415
    from batcher.server.serve import serve  # noqa: PLC0415 - uvicorn is for this verb
    from batcher.server.simulated import Knobs  # noqa: PLC0415

    file, stated = knobs.pop("faults"), knobs.pop("confusion")
    faults = read_faults(file, env) if file else ()
    confusion = read_confusion(stated) if stated else None
    of_batches = {name.removeprefix("batch_"): knobs.pop(name) for name in [*knobs] if name.startswith("batch_")}
    batch_file = of_batches.pop("faults")
    rules = read_batch_faults(batch_file) if batch_file else ()
    batches = BatchKnobs(**of_batches, rules=rules, seed=knobs["seed"])
    made = Knobs(**knobs, keys=tuple(keys), faults=faults, confusion=confusion, batches=batches)
    serve(made, arguments.host, arguments.port)
    return OK


def _serve_model(arguments: argparse.Namespace, model: dict[str, Any], given: dict[str, Any], keys: list[str]) -> int:
    from batcher.server.hf.options import ModelOptions  # noqa: PLC0415 - for this backend alone

    name, plain = given.pop("model"), vars(parsed(["serve"]))
    if others := [each for each, value in given.items() if value != plain[each]]:
        raise batcher.SettingsError(f"{_flag(others[0])} is for the simulated model: leave it out with --backend hf")
    options = ModelOptions(**model)
    from batcher.server.hf.serve import serve_model  # noqa: PLC0415 - needs torch, for which the options have looked

    serve_model(options, arguments.host, arguments.port, name=name, keys=keys)
    return OK


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _rehearse(arguments: argparse.Namespace) -> int:
    from batcher.rehearsal.rehearse import rehearse  # noqa: PLC0415 - uvicorn and LangChain are for this verb

    try:
        found = rehearse(**options_of(arguments))
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


def _completion(arguments: argparse.Namespace) -> int:
    from batcher.cli.completion import script  # noqa: PLC0415 - for this verb alone

    print_out(script(arguments.shell))
    return OK


VERBS = {
    "run": _run,
    "plan": _plan,
    "status": _status,
    "limit": _limit,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "verify": _verify,
    "merge": _merge,
    "sample": _sample,
    "estimate": _estimate,
    "compare": _compare,
    "report": _report,
    "review": _review,
    "serve": _serve,
    "rehearse": _rehearse,
    "services": _services,
    "demo": _demo,
    "completion": _completion,
}


def _print_json(value: dict[str, Any]) -> None:
    print_out(json.dumps(value, ensure_ascii=False))
