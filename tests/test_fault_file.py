"""Files of faults: what they mean, and what is said of those that are wrong."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import ROOT, call, local_server
from server_client import chat, request

from batcher.cli import help_of
from batcher.errors import SettingsError
from batcher.server.fault_file import DOES, faults_in, read_faults
from batcher.server.faults import Fate, FaultRule, Reply
from batcher.server.refusals import REFUSALS


def rules(text: str, **env: str) -> tuple[FaultRule, ...]:
    return faults_in(text, "faults.toml", env)


def rule(lines: str, **env: str) -> FaultRule:
    [made] = rules(f"[[fault]]\n{lines}", **env)
    return made


def test_a_whole_file_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(
        """
        [[fault]]
        name = "the firewall"
        match = 'DROP TABLE|<script>'
        status = 403
        body = "<html>blocked</html>"
        headers = { Server = "cloudflare", retry-after = 5 }

        [[fault]]
        from = "90s"
        to = "2m"
        share = 0.01
        times = 3
        service = "xai"
        case = "content"

        [[fault]]
        requests = "1000-2000"
        do = "hang"
        """,
        encoding="utf-8-sig",
    )
    assert read_faults(path, {}) == (
        FaultRule(
            Fate.ERROR,
            Reply(403, "<html>blocked</html>", {"server": "cloudflare", "retry-after": "5"}),
            match="DROP TABLE|<script>",
            name="the firewall",
        ),
        FaultRule(Fate.ERROR, REFUSALS["xai"]["content"], start=90, end=120, share=0.01, times=3, name="xai content"),
        FaultRule(Fate.HANG, first=1000, last=2000, name="hang"),
    )


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ('"7"', 7, 7), ("7", 7, 7), ('"7-"', 7, math.inf), ('"-7"', 1, 7), ('"7-9"', 7, 9), ('"7 - 9"', 7, 9),
    ],
)  # fmt: skip
def test_requests_are_a_number_or_a_range_open_at_either_end(written: str, first: int, last: float) -> None:
    made = rule(f'requests = {written}\ndo = "hang"')
    assert (made.first, made.last) == (first, last)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [('"90s"', 90), ('"500ms"', 0.5), ('"1.5 h"', 5400), ('"2m"', 120), ("30", 30), ("0.5", 0.5)],
)
def test_a_time_has_a_unit_or_is_in_seconds(written: str, seconds: float) -> None:
    made = rule(f"from = {written}\ndelay = {written}")
    assert (made.start, made.delay, made.does) == (seconds, seconds, Fate.ANSWER)


def test_a_body_is_json_as_it_stands_or_a_text() -> None:
    made = rule('status = 429\nbody = { error = { code = 429, list = [1, "{prompt}"] } }')
    assert made.reply == Reply(429, {"error": {"code": 429, "list": [1, "{prompt}"]}})
    assert rule("status = 503").reply == Reply(503, "")
    assert rule("status = 400\nbody = [{ error = 1 }]").reply == Reply(400, [{"error": 1}])


def test_headers_come_on_top_of_those_of_a_service() -> None:
    made = rule('service = "openai"\ncase = "rate"\nheaders = { Retry-After = "86400" }')
    assert made.reply
    assert made.reply.headers["retry-after"] == "86400"
    assert made.reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert REFUSALS["openai"]["rate"].headers["retry-after"] == "1"


def test_the_keys_of_an_account_come_from_a_variable_and_are_not_shown() -> None:
    made = rule('api_key_env = "ACCOUNT_A"\nrpm = 60\nservice = "groq"\ncase = "rate"', ACCOUNT_A="sk-one, sk-two")
    assert made.keys == ("sk-one", "sk-two")
    assert "sk-" not in f"{made!r} {made} {made.in_words()}"


def test_a_rule_is_told_with_its_conditions() -> None:
    made = rule(
        'match = "x"\nmodel = "m"\nshare = 0.01\ntimes = 2\nfrom = "5s"\nto = "1m"\nrequests = "3-"\n'
        'after_answers = 1\nrpm = 6\ndelay = "2s"\nstatus = 403'
    )
    assert made.in_words() == (
        "HTTP 403, for model m, for prompts that match 'x', for 0.01 of the prompts, 2 times each, from 5 s to 60 s,"
        " requests 3 and later ones, after 1 answer, beyond 6 requests a minute, 2 s late"
    )
    assert rule('do = "cut"').in_words() == "cut"
    assert rule('do = "hang"\nfrom = "1.5m"').in_words() == "hang, from 90 s on"
    assert rule('do = "drop"\nrequests = "-9"').in_words() == "drop, requests 1 to 9"


@pytest.mark.parametrize("name", DOES)
def test_what_a_server_can_do_has_a_name_that_the_help_and_the_docs_know(name: str) -> None:
    made = rule(f'do = "{name}"')
    assert (made.does, made.reply, str(made)) == (Fate(name), None, name)
    assert f'`do = "{name}"`' in (ROOT / "docs" / "rehearse.md").read_text(encoding="utf-8")
    assert re.search(rf"\bdo is\b[^.]*\b{name}\b", " ".join(help_of("serve").split()))


def test_an_empty_list_of_faults_is_no_fault() -> None:
    assert rules("fault = []") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"faults.toml must hold \[\[fault\]\] tables, and nothing else"),
        ("[[faults]]\nstatus = 500", r"must hold \[\[fault\]\] tables, and nothing else; it holds 'faults'"),
        ("[fault]\nstatus = 500", r"must hold \[\[fault\]\] tables"),
        ("fault = [1]", r"must hold \[\[fault\]\] tables"),
        ("seed = 1\n[[fault]]\nstatus = 500", "it holds 'seed'"),
        ("[[fault]", "faults.toml is not a TOML file"),
        ("x = " + "[" * 5_000, "is not a TOML file"),
    ],
)
def test_what_is_no_list_of_faults_is_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        rules(text)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "does nothing: give it service and case, status, do, forms, or delay"),
        ('match = "x"', "does nothing"),
        ("staus = 500", r"there is no key 'staus': did you mean status\?"),
        ("zzz = 500", "there is no key 'zzz': known are match, model"),
        ('status = "500"', "status must be a number, not '500'"),
        ("status = true", "status must be a number, not True"),
        ("status = 99", "status must be an HTTP status from 200 to 599"),
        ("status = 600", "status must be an HTTP status"),
        ("status = 204", "of a response that has a body, not 204"),
        ("status = -1", "status must be"),
        ('status = 500\ndo = "cut"', "status and do exclude each other: keep one of them"),
        ('service = "xai"\ncase = "content"\nstatus = 500', "service and status exclude each other"),
        ('service = "xia"\ncase = "content"', "service must be one of openai, azure.*, not 'xia'"),
        (
            'service = "xai"',
            "service needs a case beside it: one of rate, money, key, model, content, too-long, server for xai",
        ),
        ('service = "xia"\ncase = "content"', r"not 'xia': did you mean 'xai'\?"),
        ('service = "gpt"\ncase = "rate"', "llamacpp.*proxy, nginx, cloudflare, not 'gpt'$"),
        (
            'service = "ollama"\ncase = "money"',
            "case must be one of rate, key, model, too-long, server for ollama, not 'money'$",
        ),
        ('service = "vllm"\ncase = "modell"', r"for vllm, not 'modell': did you mean 'model'\?"),
        ('case = "money"', "case needs service beside it"),
        ('do = "explode"', r"do must be 'hang' \(never answers\) or 'cut'"),
        ('do = "lenght"', r"'length' \(.*\) or 'choices' \(.*\) or 'hole' \(.*, not 'lenght': did you mean 'length'\?"),
        ('do = "cut"\nbody = "x"', "body needs status beside it"),
        ('do = "cut"\npaid = true', "paid needs status or service beside it"),
        ('delay = "1s"\nheaders = { a = "b" }', "headers needs status or service beside it"),
        ('delay = "soon"', "delay must be a time such as '90s', '500ms', '5m' or '1h', not 'soon'"),
        ('delay = "-1s"', "delay must be a time"),
        ("delay = -1", "delay must be seconds, 0 or more"),
        ("delay = nan", "delay must be seconds"),
        ("delay = inf", "delay must be seconds"),
        ("delay = true", "delay must be a text or a number, not True"),
        ('do = "cut"\nfrom = "2m"\nto = "90s"', "to must be a time after from, which is 120 s, not '90s'"),
        ('do = "cut"\nto = 0', "to must be a time after from"),
        ('do = "cut"\nshare = 0', "share must be a share above 0, of 1 at most, not 0"),
        ('do = "cut"\nshare = 1.5', "share must be a share above 0"),
        ('do = "cut"\nshare = nan', "share must be a share above 0"),
        ('do = "cut"\ntimes = 0', "times must be a number above 0"),
        ('do = "cut"\ntimes = 1.5', "times must be a number, not 1.5"),
        ('do = "cut"\nafter_answers = -3', "after_answers must be a number above 0"),
        ('do = "cut"\nrpm = inf', "rpm must be a number above 0"),
        ('do = "cut"\nrequests = ""', "requests must be numbers of requests such as '1000-2000', '1000-' or 7"),
        ('do = "cut"\nrequests = "-"', "requests must be numbers"),
        ('do = "cut"\nrequests = "5 9"', "requests must be numbers"),
        ('do = "cut"\nrequests = "1234567890123"', "requests must be numbers"),
        ('do = "cut"\nrequests = "9-5"', "of which the first is not the higher, not '9-5'"),
        ('do = "cut"\nrequests = 0', "counted from 1"),
        ('do = "cut"\nrequests = -7.5', "requests must be a text or a number"),
        ('do = "cut"\nmatch = "("', r"match is not a regular expression: .*a backslash goes before .*: '\('"),
        ('do = "cut"\nmatch = 5', "match must be a text, not 5"),
        ("status = 400\nbody = { at = 2026-11-29 }", "body cannot be written as JSON: .*date"),
        ("status = 400\nbody = { x = inf }", "body cannot be written as JSON"),
        ("status = 400\nbody = " + "[" * 400 + "]" * 400, "body cannot be written as JSON"),
        ('status = 400\nheaders = "x"', "headers must be a table, not 'x'"),
        ('status = 400\nheaders = { "a b" = "c" }', "headers: 'a b' cannot be set"),
        (
            "status = 400\nheaders = { Content-Length = 5 }",
            "headers: 'Content-Length' cannot be set.*or the server sets",
        ),
        ('status = 400\nheaders = { x = "a\\r\\nb" }', "headers: x must be a line of ASCII text"),
        ('status = 400\nheaders = { x = "é" }', "headers: x must be a line of ASCII text"),
        ("status = 400\nheaders = { x = [] }", "headers: x must be a line of ASCII text"),
        ('do = "cut"\napi_key_env = "NOT_SET"', "api_key_env: NOT_SET is not set in the environment or .env"),
        ('do = "cut"\napi_key_env = "sk-the-key-itself"', "api_key_env must be the name of a variable"),
    ],
)
def test_a_wrong_table_is_refused_with_its_number_its_key_and_what_to_do(lines: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"^faults.toml, fault 2.*{said}") as refused:
        rules(f'[[fault]]\ndo = "cut"\n[[fault]]\n{lines}')
    assert "sk-the-key" not in str(refused.value)
    assert len(str(refused.value)) < 600


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules(text)
    except SettingsError:
        return
    assert "fault" in text


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    [
        "match",
        "model",
        "from",
        "to",
        "requests",
        "share",
        "times",
        "after_answers",
        "rpm",
        "status",
        "do",
        "delay",
        "service",
        "case",
        "body",
        "headers",
        "paid",
        "name",
        "api_key_env",
        "other",
    ]
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_table_is_read_or_refused_in_a_sentence_of_ours(table: dict[str, object]) -> None:
    lines = [f"{name} = {_toml(value)}" for name, value in table.items()]
    try:
        rule("\n".join(lines))
    except SettingsError as error:
        assert str(error).startswith("faults.toml")  # noqa: PT017 - either end is right


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value.encode("ascii", "replace").decode()).replace("\x7f", "?")
    return str(value).lower()


# --- the program ---


def test_serve_plays_the_faults_of_a_file_and_counts_them(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(
        '[[fault]]\nmatch = "insult"\nservice = "xai"\ncase = "content"\n'
        '[[fault]]\napi_key_env = "ACCOUNT_A"\nafter_answers = 1\nservice = "openai"\ncase = "money"\n',
        encoding="utf-8",
    )
    with local_server("--faults", "faults.toml", cwd=tmp_path, ACCOUNT_A="sk-account-a") as server:
        assert chat(server.base_url, "an insult").status == 403
        assert [chat(server.base_url, key=key).status for key in ("sk-account-a",) * 2 + ("other",)] == [200, 429, 200]
        books = server.books()
        assert books["by_fault"] == {"1 xai content": 1, "2 openai money": 1}
        assert request(server.base_url, "POST", "/stats/reset").status == 200
        assert chat(server.base_url, key="sk-account-a").status == 200


def test_serve_refuses_a_wrong_file_before_it_listens(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text("[[fault]]\nstatus = 1\n", encoding="utf-8")
    done = call("serve", "--port", "0", "--faults", "faults.toml", cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("batcher: --faults faults.toml, fault 1: status must be an HTTP status from 200")
    done = call("serve", "--port", "0", "--faults", "missing.toml", cwd=tmp_path)
    assert (done.status, done.stderr) == (2, "batcher: --faults missing.toml: No such file or directory\n")
