"""The file of a job: it holds any option, the command line wins, and a mistake in it is named with its line."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from faults import fault
from programs import call, table, write_table

from batcher.calls.endpoints import EndpointTables, endpoints_of
from batcher.cli import main
from batcher.cli.config import DEFAULT, fill, read
from batcher.cli.reading import complete, options_of, parsed
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.settings import OPTIONS, Settings
from batcher.words import command_line, written_in_file

JOB = """
input = "data.csv"
prompt = "Is {text} odd?"
provider = "offline"
keyword = "odd"
output-dir = "out"
chunk_size = 2

[param]
temperature = 0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "data.csv", ["text"], [[str(number)] for number in range(5)])
    return tmp_path


def job(text: str, path: str = DEFAULT) -> str:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def options(*argv: str) -> dict[str, Any]:
    arguments = parsed(argv)
    complete(arguments)
    return options_of(arguments)


def status_of(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_a_batcher_toml_is_a_whole_job_for_every_verb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(JOB)
    assert main(["plan"]) == 0
    assert main(["run", "--no-progress"]) == 0
    said = capsys.readouterr()
    assert "Options from batcher.toml; the command line wins." in said.err
    assert len(table(folder / "out" / "all_odd.csv")) == 5
    assert sorted(path.name for path in (folder / "out").glob("[0-9]*.csv")) == ["0_odd.csv", "2_odd.csv", "4_odd.csv"]
    for argv in (["status"], ["status", "odd"], ["verify"], ["verify", "odd"], ["merge"]):
        assert main(argv) == 0, argv
    assert "INPUT was not given" in main_said(capsys, ["verify", "odd"])
    assert "INPUT was not given" not in main_said(capsys, ["verify"])


def main_said(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    capsys.readouterr()
    main(argv)
    return capsys.readouterr().out


def test_a_rehearsal_and_a_dry_run_take_the_file_too(folder: Path) -> None:
    job(JOB)
    done = call("rehearse", "--kills", "0", "--json", cwd=folder)
    assert (done.status, json.loads(done.stdout)["rows"]) == (0, 5), done.stderr
    done = call("run", "--dry-run", "--json", cwd=folder)
    assert (done.status, json.loads(done.stdout)["keyword"]) == (0, "odd"), done.stderr


def test_the_command_line_wins_and_what_it_leaves_out_comes_from_the_file() -> None:
    job(JOB)
    assert options("run", "--keyword", "other", "-n", "3", "--param", "top_p=1") == {
        "data": "data.csv",
        "prompt": "Is {text} odd?",
        "provider": "offline",
        "keyword": "other",
        "limit": 3,
        "output_dir": "out",
        "chunk_size": 2,
        "param": {"temperature": 0, "top_p": 1},
    }
    assert options("run", "--param", "temperature=1")["param"] == {"temperature": 1}
    instead = options("run", "--prompt-column", "text")
    assert instead["prompt_column"] == "text"
    assert "prompt" not in instead


def test_with_an_input_on_the_command_line_only_a_file_that_is_named_is_read(folder: Path) -> None:
    path = job(JOB)
    assert options("run", "other.csv") == {"data": "other.csv"}
    assert options("run", "other.csv", "--config", path)["data"] == "other.csv"
    assert options("run", "other.csv", "--config", path)["keyword"] == "odd"


def test_without_input_or_file_the_command_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert [main([verb]) for verb in ("run", "plan", "rehearse", "status", "verify", "merge")] == [2] * 6
    said = capsys.readouterr().err
    assert "give INPUT, the table: `batcher run data.csv --prompt ...`" in said
    assert "give KEYWORD, the name of the run" in said
    assert status_of("run", "--config", "none.toml") == 2
    assert "none.toml: No such file or directory" in capsys.readouterr().err


def test_paths_are_taken_from_the_place_of_the_file(folder: Path) -> None:
    path = job('input = "../data.csv"\nprompt_file = "p.txt"\nprovider = "offline"\n', "jobs/a.toml")
    (folder / "jobs" / "p.txt").write_text("Is {text} odd?", encoding="utf-8")
    assert main(["run", "--config", path, "--no-progress"]) == 0
    assert len(table(folder / "jobs" / "output" / "all_data.csv")) == 5
    assert main(["verify", "--config", path]) == 0
    assert options("run", "--config", path, "-o", "here")["output_dir"] == "here"
    job('input = "a.csv"\nlabels = "@a.txt"\nschema = "@b.json"', "jobs/b.toml")
    named = options("run", "--config", "jobs/b.toml")
    assert (named["labels"], named["schema"]) == (f"@{Path('jobs/a.txt')}", f"@{Path('jobs/b.json')}")
    job('input = "a.csv"\nlabels = "a,b"\nschema = \'{"type": "object", "description": "\\n"}\'', "jobs/b.toml")
    named = options("run", "--config", "jobs/b.toml")
    assert (named["labels"], named["schema"]) == ("a,b", '{"type": "object", "description": "\\n"}')
    job('input = ["a.csv", "/b.csv"]', "jobs/b.toml")
    assert options("run", "--config", "jobs/b.toml")["data"] == [Path("jobs/a.csv"), Path("/b.csv")]
    job('input = "~/a.csv"', "jobs/b.toml")
    assert options("run", "--config", "jobs/b.toml")["data"] == str(Path.home() / "a.csv")


def test_endpoint_tables_in_the_file_are_those_of_the_endpoints_file() -> None:
    text = '\n[[endpoint]]\nmodel = "m"\nbase_url = "http://a/v1"\nname = "mine"\n[[endpoint]]\nmodel = "n"\n'
    job(f'input = "data.csv"\nmax_concurrency = 9{text}')
    given = options("run")
    assert isinstance(given["endpoints"], EndpointTables)
    settings = Settings.of({"endpoints": given["endpoints"], "max_concurrency": given["max_concurrency"]})
    assert endpoints_of(settings, {"OPENAI_API_KEY": "sk-1"}) == (
        Endpoint("m", "http://a/v1", max_concurrency=9, name="mine"),
        Endpoint("n", api_key="sk-1", max_concurrency=9),
    )
    job(f'input = "data.csv"{text}api_key = "sk-1"\n')
    wrong = Settings(endpoints=options("run")["endpoints"])
    assert fault(lambda: endpoints_of(wrong, {})).startswith("batcher.toml, endpoint 2: there is no key 'api_key'")


def test_another_service_on_the_command_line_never_gets_the_key_or_the_price_of_the_one_in_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job(
        'input = "data.csv"\nmodel = "m"\nbase_url = "http://a/v1"\napi_key_env = "KEY"\n'
        'header = { X-Key = "env:KEY" }\n'
        "price_in = 1\nprice_out = 2\nrpm = 60\nendpoint_name = 'a'\n"
    )
    assert options("run", "--base-url", "http://b/v1") == {
        "data": "data.csv",
        "base_url": "http://b/v1",
        "model": "m",
        "rpm": 60,
    }
    said = "batcher.toml: api_key_env, endpoint_name, header, price_in, price_out not used: the command line names"
    assert said in capsys.readouterr().err
    assert {"price_in", "price_out"}.isdisjoint(options("run", "-m", "n"))
    assert options("run", "--endpoints", "pool.toml", "-q") == {
        "data": "data.csv",
        "endpoints": "pool.toml",
        "quiet": True,
    }


POOL = """
[[endpoint]]
model = "a"
base_url = "http://a/v1"
rpm = 600
max_concurrency = 50
prices = { in = 1, out = 2 }
[[endpoint]]
model = "b"
base_url = "http://b/v1"
params = { temperature = 0, top_k = 5 }
"""
ONE = POOL.partition('[[endpoint]]\nmodel = "b"')[0]
"""A pool of two services, and one endpoint alone."""


def asked(*argv: str) -> tuple[Endpoint, ...]:
    return endpoints_of(Settings.of(without_data(options("run", *argv))), {"K": "sk-1"})


def refusal(given: dict[str, Any]) -> str:
    return fault(lambda: Settings.of(without_data(given)))


def without_data(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in {"data", "prompt"}}


@pytest.mark.parametrize("is_apart", [False, True])
def test_limits_and_a_model_of_the_command_line_go_before_those_of_every_endpoint_in_the_file(
    is_apart: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_apart:
        job(POOL, "pool.toml")
    job('input = "data.csv"\nmax_concurrency = 9\n' + ('endpoints = "pool.toml"' if is_apart else POOL))
    found = asked("--rpm", "10", "--tpm", "70", "--max-concurrency", "3")
    assert [(each.rpm, each.tpm, each.max_concurrency) for each in found] == [(10, 70, 3)] * 2
    assert [each.max_concurrency for each in asked("--rps", "1")] == [9 if is_apart else 50, 9]
    capsys.readouterr()
    found = asked("-m", "n")
    assert [(each.model, each.base_url, each.prices, each.rpm) for each in found] == [
        ("n", "http://a/v1", None, 600),
        ("n", "http://b/v1", None, None),
    ]
    assert "batcher.toml: prices not used: the command line names another service or model" in capsys.readouterr().err
    assert [each.params for each in asked("--param", "temperature=1")] == [{}, {"top_k": 5}]
    assert fault(lambda: asked("--rpm", "0")) == "rpm must be a number above 0, not 0.0"
    job(POOL.replace("http://b/v1", "http://a/v1"), "pool.toml")
    job('input = "data.csv"\nendpoints = "pool.toml"')
    assert "model, endpoint 2 repeats endpoint 1" in fault(lambda: asked("-m", "n")).replace(":", ",")


def test_a_key_or_header_of_the_command_line_goes_to_the_one_server_in_the_file_and_never_to_several() -> None:
    job(f'input = "data.csv"{ONE}headers = {{ X-A = "1", x-b = "2" }}')
    [found] = asked("--header", "X-B=3", "--api-key-env", "K", "--endpoint-name", "mine")
    assert (found.headers, found.api_key, found.source.base_url) == ({"X-A": "1", "X-B": "3"}, "sk-1", "mine")
    [found] = asked("-m", "n", "--price-in", "3", "--price-out", "4")
    assert (found.model, found.prices) == ("n", {"in": 3, "out": 4})
    job(f'input = "data.csv"{POOL}')
    for argv in (["--header", "X-B=3"], ["--api-key-env", "K"], ["--price-in", "3", "--price-out", "4"]):
        arguments = parsed(["run", *argv])
        with written_in_file(complete(arguments)), command_line():
            said = refusal(options_of(arguments))
        assert said.startswith(f"{argv[0]} and [[endpoint]] (batcher.toml, line 2) exclude each other"), said


def test_a_limit_beside_a_file_of_endpoints_goes_before_those_in_it() -> None:
    job(POOL, "pool.toml")
    made = endpoints_of(Settings(endpoints="pool.toml", max_concurrency=3), {})
    assert [each.max_concurrency for each in made] == [3, 3]
    job('input = "data.csv"\nmax_concurrency = 9')
    assert [each.max_concurrency for each in asked("--endpoints", "pool.toml")] == [50, 256]


def test_a_switch_that_the_file_turns_on_is_turned_off_by_the_command_line() -> None:
    flags = [option for option in OPTIONS.values() if option.is_flag]
    names = [*(option.name for option in flags), "json", "dry_run"]
    job('input = "data.csv"\n' + "".join(f"{name} = true\n" for name in names))
    off = [f"--no-{name.replace('_', '-')}".replace("--no-no-", "--") for name in names]
    assert {"--no-retry-failed", "--no-dedup", "--progress"} < {*off}
    on, arguments = parsed(["run"]), parsed(["run", *off])
    complete(on)
    complete(arguments)
    assert [getattr(on, name) for name in names] == [True] * len(names)
    assert [getattr(arguments, name) for name in names] == [False] * len(names)
    assert options_of(arguments) == {"data": "data.csv"}
    assert options("run", "--no-dedup", "--dedup")["dedup"] is True


@pytest.mark.parametrize("name", ["reviews.csv.gz", "corpus.v1", "corpus.v1/"])
def test_verbs_that_look_at_a_run_take_the_keyword_that_run_took(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "data.csv").read_bytes()
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(content))
    else:
        (folder / name).mkdir()
        (folder / name / "a.csv").write_bytes(content)
    job(JOB.replace("data.csv", name).replace('keyword = "odd"', ""))
    keyword = options_keyword(folder)
    assert main(["verify"]) == 0
    assert main(["merge"]) == 0
    assert main(["status", keyword]) == 0  # in the output directory of the file
    assert main(["pause"]) == 2
    assert f"'{keyword}'" in capsys.readouterr().err


def options_keyword(folder: Path) -> str:
    assert main(["run", "--quiet"]) == 0
    [path] = (folder / "out").glob("journal_*.sqlite")
    return path.stem.removeprefix("journal_")


def test_status_beside_a_file_lists_all_runs_of_its_directory_and_marks_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job(JOB)
    assert main(["run", "--quiet"]) == 0
    assert main(["run", "--quiet", "--keyword", "other"]) == 0
    said = main_said(capsys, ["status"])
    assert said.startswith("keyword")
    assert "\nother " in said
    assert said.endswith("\nodd is the run of batcher.toml: `batcher status odd` shows more\n")
    assert len(json.loads(main_said(capsys, ["status", "--json"]))["runs"]) == 2
    assert main_said(capsys, ["status", "--config", DEFAULT]).startswith("odd: ")
    assert "batcher.toml" not in main_said(capsys, ["status", "-o", "out"])


@pytest.mark.parametrize(
    ("mistake", "directory", "said"),
    [
        ("promt = 'x'", "out", "batcher.toml, line 9: there is no option 'promt': did you mean prompt?"),
        ("prompt = 'x", "output", "batcher.toml is not a TOML file"),
    ],
)
def test_a_run_that_is_named_is_found_although_the_file_is_wrong(
    mistake: str, directory: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job(JOB.replace('"out"', f'"{directory}"'))
    assert main(["run", "--quiet"]) == 0
    job(JOB.replace("[param]\ntemperature = 0", mistake))
    for verb in ("status", "merge"):
        assert main([verb, "odd"]) == 0
        found = capsys.readouterr().err
        assert f"batcher: a mistake in the file, which is not needed here: {said}" in found
        assert ("the run is looked for in output" in found) == (directory == "output")
    assert main(["pause", "odd"]) == 2  # it has ended
    assert "'odd'" in capsys.readouterr().err.split("\n")[-2]
    assert "odd" in main_said(capsys, ["status"])
    assert main(["status", "odd", "--config", path]) == 2
    assert main(["merge"]) == 2


def test_messages_are_json_lines_if_the_file_asks_for_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job("log-json = true\n" + JOB)
    assert main(["run"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "Options from batcher.toml; the command line wins." in {line["message"] for line in lines}
    assert main(["run", "--no-log-json"]) == 0
    assert capsys.readouterr().err.startswith("Options from batcher.toml")
    job("log_json = true\npromt = 5\n" + JOB)
    assert main(["run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "line 2: there is no option 'promt'" in json.loads(line)["message"]
    assert main(["services", "--json"]) == 0
    assert main(["status", "none", "-o", "none"]) == 2
    assert capsys.readouterr().err.startswith("batcher: ")


def test_a_rehearsal_takes_its_own_options_from_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "jobs").mkdir()
    path = job('faults = "f.toml"\nkills = 0\nkeep = true\ninput = "../data.csv"\n', "jobs/r.toml")
    arguments = parsed(["rehearse", "--config", path])
    complete(arguments)
    assert options_of(arguments) == {
        "faults": "jobs/f.toml",
        "kills": 0,
        "keep": True,
        "data": "jobs/../data.csv",
        "output_dir": "jobs/output",
    }
    assert options("rehearse", "--config", path, "--kills", "3", "--no-keep").items() >= {("kills", 3)}
    assert "kills" not in options("run", "--config", path)
    for text, said in (
        ("kills = -1", "kills must be a whole number above 0, not -1"),
        ("kills = 101", "kills must be 100 at most, not 101"),
        ("keep = 1", "keep must be true or false, not 1"),
        ("faults = 1", "faults must be the path of a file, not 1"),
        ("faults = 'none.toml'", "faults none.toml"),
    ):
        job(JOB.replace("[param]\ntemperature = 0", text))
        assert status_of("rehearse") == 2
        assert f"batcher.toml, line 9: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chunksize = 5", "batcher.toml, line 2: there is no option 'chunksize': did you mean chunk_size?"),
        ("promt = 'x'", "batcher.toml, line 2: there is no option 'promt': did you mean prompt?"),
        ("zzz = 5", "batcher.toml, line 2: there is no option 'zzz': `batcher run --help` lists the options"),
        ("temperature = 0", "there is no option 'temperature': a request parameter goes into param: param = { temp"),
        ('api_key = "sk-1"', "there is no option 'api_key': an API key is never in a file: put it into the envi"),
        ("chunk_size = '5'", "batcher.toml, line 2: chunk_size must be a whole number above 0, not '5'"),
        (
            'prompt = """\nchunk-size = 5\n"""\nchunk-size = 0',
            "batcher.toml, line 5: chunk-size must be a whole number",
        ),
        ("dedup = 'yes'", "batcher.toml, line 2: dedup cannot be of type str"),
        ("on_change = 'rdo'", "line 2: on_change must be one of abort, redo, reuse, not 'rdo': did you mean redo?"),
        ("keyword = 2024", "batcher.toml, line 2: keyword cannot be of type int"),
        ("input = 5", "batcher.toml, line 2: input must be a path, or a list of paths, not 5"),
        ("input = []", "batcher.toml, line 2: input must be a path, or a list of paths, not []"),
        ("prompt = ['x']", "batcher.toml, line 2: prompt must be a text, not ['x']"),
        ("json = 1", "batcher.toml, line 2: json must be true or false, not 1"),
        ("param = 'x=1'", "batcher.toml, line 2: param must"),
        (
            "[param]\ntop_p = 1\nchunk_size = 5",
            "batcher.toml, line 2: chunk_size is an option, not a request parameter",
        ),
        (
            "[param]\ntemprature = 0",
            "batcher.toml, line 2: param: there is no parameter 'temprature'; did you mean 'tem",
        ),
        ("param = { seed = 'x' }", "batcher.toml, line 2: param: seed must be a whole number, not 'x'"),
        ("header = ['X=1']", "batcher.toml, line 2: header must hold texts by name"),
        ("endpoints = [1]", "batcher.toml, line 2: endpoints must be the path of a file; tables are written as [[end"),
        ("[endpoint]\nmodel = 'm'", "batcher.toml, line 2: endpoints are either [[endpoint]] tables or a file"),
        ("endpoints = 'x'\n[[endpoint]]", "endpoints are either [[endpoint]] tables or a file"),
        ("chunk-size = 5\nchunk_size = 6", "batcher.toml, line 3: chunk_size is given twice"),
        ("prompt = 'x", "batcher.toml is not a TOML file: "),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line_and_what_to_do(text: str, said: str) -> None:
    job(f"# a job\n{text}\n")
    found = fault(lambda: read(Path(DEFAULT)))
    assert said in found
    assert found.startswith("batcher.toml")


JOB_OF = 'input = "data.csv"\nprompt = "{text}?"\nprovider = "offline"\n'
"""The first three lines of a job."""


@pytest.mark.parametrize(
    ("text", "argv", "said"),
    [
        ('input = "none.csv"\nprompt = "x"', [], "job.toml, line 1: input: none.csv: there is no such file"),
        ('input = ["none.csv", "data.csv"]', [], "job.toml, line 1: input: none.csv: there is no such file"),
        ('prompt = "x"', [], 'job.toml has no input: write input = "data.csv" into it, or give INPUT'),
        ('prompt = "{txt}"', ["data.csv"], "job.toml, line 1: prompt: the table has no column 'txt'"),
        ('prompt = "{text"', ["data.csv"], "job.toml, line 1: prompt, line 1, column 1: a single '{'"),
        ('prompt = "text"', ["data.csv"], "job.toml, line 1: prompt has no hole"),
        (f'{JOB_OF}system = "{{x}}"', [], "job.toml, line 4: system: the table has no column 'x'"),
        ('prompt-file = "p.txt"', ["data.csv"], "job.toml, line 1: prompt-file p.txt cannot be read: No such file"),
        (
            f'{JOB_OF}prompt_file = "p.txt"',
            [],
            "--messages-column; given were prompt (job.toml, line 2) and prompt_file (job.toml, line 4)",
        ),
        (f'{JOB_OF}id_column = "x"', [], "job.toml, line 4: id_column: the table has no column 'x'"),
        (
            f'{JOB_OF}base_url = "http://h/v1"',
            [],
            "provider (job.toml, line 3) and base_url (job.toml, line 4) exclude",
        ),
        (f"{JOB_OF}price_in = 1", [], "price_in (job.toml, line 4) and --price-out go together"),
        (f"{JOB_OF}limit = 1\nsample = 1", [], "limit (job.toml, line 4) and sample (job.toml, line 5) exclude"),
        (f'{JOB_OF}[[endpoint]]\nmodel = "m"', [], "provider (job.toml, line 3) and [[endpoint]] (job.toml, line 4)"),
        (f'{JOB_OF}sheet = "x"', [], "job.toml, line 4: sheet: data.csv is no workbook"),
        (f'{JOB_OF}output_dir = "data.csv"', [], "data.csv is not a directory: choose another output_dir (job.toml, l"),
        (f'{JOB_OF}answer_column = "text"', [], "choose another answer_column (job.toml, line 4)"),
        (f"{JOB_OF}param = {{ temprature = 0 }}", [], "job.toml, line 4: param: there is no parameter 'temprature'"),
        (
            'prompt = "{text}"\nmodel = "m"\nbase_url = "http://h/v1"\nheader = { "a b" = "c" }',
            ["data.csv"],
            "job.toml, line 4: header: 'a b' cannot be the name of a header",
        ),
        ('prompt = "{text}"\nprovider = "opnai"', ["data.csv"], "job.toml, line 2: provider 'opnai' is not known: did"),
        (
            'prompt = "{text}"\nbase_url = "h"\nmodel = "m"',
            ["data.csv"],
            "job.toml, line 2: base_url is 'h': it",
        ),
        ('prompt = "{text}"\nendpoints = "e.toml"', ["data.csv"], "job.toml, line 2: endpoints e.toml: No such file"),
        (f'{JOB_OF}ray = "head"', [], "job.toml, line 4: ray must be local, auto, HOST:PORT or ray://HOST:PORT"),
        (f"{JOB_OF}ray-workers = 0", [], "job.toml, line 4: ray-workers must be a whole number above 0"),
        (f"{JOB_OF}ray-workers = 2", [], "job.toml, line 4: ray-workers goes with --ray auto: give both"),
        (f"{JOB_OF}limit = 1", ["--limit", "0"], "--limit must be a whole number above 0, not 0"),
        ('prompt = "{txt}"', ["data.csv", "-p", "{abc}"], "batcher: --prompt: the table has no column 'abc'"),
        (f"{JOB_OF}[param]\nseed = 1", ["--param", "sed=1"], "--param: there is no parameter 'sed'"),
    ],
)
def test_a_mistake_is_blamed_on_the_file_if_the_file_made_it(
    text: str, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job(text, "job.toml")
    status = status_of("run", "--config", path, *argv)
    found = capsys.readouterr().err
    assert status == 2
    assert said in found


def test_verbs_that_look_at_a_run_blame_the_file_too(capsys: pytest.CaptureFixture[str]) -> None:
    job('keyword = "k"\ninput = "none.csv"\noutput_dir = "none"')
    assert main(["status", "k"]) == 2
    assert "there is no run 'k' in none" in capsys.readouterr().err
    job(JOB.replace('keyword = "odd"', ""))
    assert main(["run", "--quiet"]) == 0
    job(JOB.replace('keyword = "odd"', 'keyword = "data"').replace("data.csv", "none.csv"))
    assert main(["verify"]) == 2
    assert "batcher.toml, line 2: input: none.csv: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'input = "C:\\new\\table.csv"',
            r"line 1: input is C:\new\table.csv, with a control character in it: in double",
        ),
        (
            'output_dir = "\\temp"',
            r"line 1: output_dir is \temp, with a control character in it: in double quotes a back",
        ),
        ('prompt_file = "a\\r.txt"', r"line 1: prompt_file is a\r.txt, with a control character in it"),
        ('input = "C:\\data\\x.csv"', "is not a TOML file: Unescaped"),
        ('input = "C:\\users\\x.csv"', "is not a TOML file: Invalid hex value"),
    ],
)
def test_a_backslash_in_a_path_of_the_file_is_explained(text: str, said: str) -> None:
    job(text, "job.toml")
    found = fault(lambda: read(Path("job.toml")))
    assert said in found
    assert "write it in 'single quotes', or with /" in found


def test_a_key_in_the_file_is_refused_and_not_shown() -> None:
    key = "sk-" + "a1" * 20
    for name in ("model", "prompt", "base_url", "api_key_env", "zzz_key"):
        job(f'{name} = "{key}"\n')
        with pytest.raises(SettingsError) as refused:
            read(Path(DEFAULT))
        assert "api_key_env" in str(refused.value)
        assert key not in str(refused.value)


def test_a_batcher_toml_says_who_makes_the_calls_and_is_blamed_if_it_cannot_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job(f'ray = "10.0.0.7:6379"\nray-workers = 4\n{JOB}')
    found = options("run")
    assert (found["ray"], found["ray_workers"]) == ("10.0.0.7:6379", 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert status_of("run") == 2
    said = "batcher.toml, line 1: ray needs the extra ray: pip install 'batcher-llm[ray]'"
    assert said in capsys.readouterr().err


def test_every_option_of_python_may_stand_in_the_file() -> None:
    values = {
        "param": "{ top_p = 1 }",
        "header": "{ X-A = 'b' }",
        "endpoints": "'pool.toml'",
        "with_": "'reasoning'",
        "hold": "0.9",
        "threshold": "0.9",
        "price_batch": "0.5",
        "hedge": "90",
        "ray": "'auto'",
        "shard": "'3/8'",
        "tier": "'flex'",
        "by": "'07:00'",
        "within": "'8h'",
        "input_encoding": "'gbk'",
        "separator": "';'",
    }
    kinds = {"int": "3", "float": "3", "bool": "true"}
    for option in OPTIONS.values():
        text = option.choices[0] if option.choices else "x"
        job(f"{option.name} = {values.get(option.name) or kinds.get(option.type.split(' ')[0], repr(text))}\n")
        assert option.name in read(Path(DEFAULT)), option.name


def test_short_forms_are_those_of_the_long_options() -> None:
    argv = ["run", "x.csv", "-p", "{text}", "-m", "m", "-k", "4", "-o", "d", "-n", "5", "-q"]
    assert options(*argv) == {
        "data": "x.csv",
        "prompt": "{text}",
        "model": "m",
        "shots": 4,
        "output_dir": "d",
        "limit": 5,
        "quiet": True,
    }
    assert parsed(["status", "k", "-o", "d"]).output_dir == "d"


def test_a_key_behind_a_short_option_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    key = "sk-" + "a1" * 20
    for argv in (["run", "-m", key], ["run", f"-m{key}"], ["run", f"-x{key}"], ["run", f"-m={key}"]):
        assert status_of(*argv) == 2
        said = capsys.readouterr().err
        assert "API key" in said
        assert key not in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rnu", "x.csv"], "there is no verb 'rnu': did you mean run?"),
        (["zzzzz"], "there is no verb 'zzzzz': choose from run, plan, status"),
        (["status", "k", "--outptu-dir", "d"], "did you mean --output-dir?"),
        (["run", "x.csv", "--chunk_size", "5"], "did you mean --chunk-size?"),
        (["run", "x.csv", "--confg", "f"], "did you mean --config?"),
        (["run", "x.csv", "--temperature", "0"], "a request parameter goes into --param temperature=0"),
        (["serve", "--zzz"], "`batcher serve --help` lists the options"),
        (["run", "x.csv", "-p", "{text}", "--encoding", "utf8"], "not 'utf8': did you mean utf-8?"),
        (["plan", "data.csv", "-p", "{text}", "--provider", "opnai"], "did you mean openai?"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*argv) == 2
    assert said in capsys.readouterr().err


def test_batcher_alone_shows_its_help_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: batcher [-h] [--version] VERB ...")
    assert "completion" in said.err


def test_a_verb_without_a_file_of_a_job_is_left_alone() -> None:
    arguments = argparse.Namespace(verb="services", json=False)
    complete(arguments)
    assert vars(arguments) == {"verb": "services", "json": False}
    with pytest.raises(SettingsError, match="give KEYWORD"):
        fill(argparse.Namespace(verb="merge", config=None, keyword=None, output_dir=None))
