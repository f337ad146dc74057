"""The file of faults of batches."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from batcher.errors import SettingsError
from batcher.server.batch_fault_file import batch_faults_in, read_batch_faults
from batcher.server.batch_rules import BatchRule, Place, Slip, State
from batcher.server.faults import Fate, Reply


def read(text: str) -> BatchRule:
    (rule,) = batch_faults_in(f"[[fault]]\n{text}", "f.toml")
    return rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            'at = "create"\ndo = "drop"\ndone = true\ntimes = 1',
            BatchRule(at=Place.CREATE, does=Fate.DROP, is_done=True, times=1),
        ),
        (
            'at = "look"\nstatus = 503\nrequests = "2-3"\ndelay = "2s"',
            BatchRule(at=Place.LOOK, does=Fate.ERROR, reply=Reply(503), first=2, last=3, delay=2),
        ),
        ('at = "content"\ndelay = 2', BatchRule(at=Place.CONTENT, delay=2)),
        ('at = "list"\nlate = "1m"\nbatches = 2', BatchRule(at=Place.LIST, late=60, first=2, last=2)),
        (
            'end = "expired"\nanswered = 0.8\nmatch = "x"\nfrom = "1h"\nname = "n"',
            BatchRule(end=State.EXPIRED, answered=0.8, match="x", start=3600, name="n"),
        ),
        (
            'end = "failed"\ncode = "c"\nmessage = "m"\nlisted = true\nmodel = "m"',
            BatchRule(end=State.FAILED, code="c", message="m", is_listed=True, model="m"),
        ),
        ('lines = "double"\nshare = 0.1\nto = 5', BatchRule(lines=Slip.DOUBLE, share=0.1, end_s=5)),
        ('takes = "2h"\nbatches = "3-"', BatchRule(takes=7200, first=3, last=math.inf)),
    ],
)
def test_a_table_is_a_rule(text: str, rule: BatchRule) -> None:
    found = read(text)
    if rule.end is State.EXPIRED:
        rule = BatchRule(**{**vars(rule), "code": found.code, "message": found.message})
    assert found == rule


def test_a_service_answers_as_it_does() -> None:
    rule = read('at = "upload"\nservice = "openai"\ncase = "rate"')
    assert rule.reply
    assert rule.reply.status == 429


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("times = 1", "does nothing: give it one of at"),
        ('end = "failed"\nlines = "drop"', "has end and lines: give it one of"),
        ('at = "create"', "does nothing: give it service and case"),
        ('at = "creat"\ndo = "drop"', "did you mean 'create'?"),
        ('at = "create"\ndo = "length"', "do must be one of hang, drop, cut, stall"),
        ('end = "expire"', "did you mean 'expired'?"),
        ('lines = "lost"', "lines must be one of drop, double, foreign, broken"),
        ('at = "look"\ndo = "cut"\ndone = true', "done goes with at = 'upload' or"),
        ('at = "look"\nlate = 3', "late goes with at = 'files' or 'list' or 'content'"),
        ('at = "list"\nlate = 3\ndo = "cut"', "late and do exclude each other"),
        ('at = "list"\ndo = "cut"\nstatus = 500', "status and do exclude each other"),
        ('at = "create"\ndo = "cut"\nbatches = 2', "use requests or times"),
        ("takes = 3\nrequests = 2", "requests needs at beside it"),
        ("takes = 3\nanswered = 0.2", "answered needs end beside it"),
        ('end = "failed"\nshare = 0.2', "share needs lines beside it"),
        ('end = "failed"\nanswered = 2', "answered must be a share from 0 to 1, not 2"),
        ("takes = 'soon'", "takes must be a time such as"),
        ("takes = 3\nbatches = '3-1'", "batches must be a range"),
        ("takes = 3\nfrom = 2\nto = 1", "to must be a time after from"),
        ("takes = 3\nmatch = '('", "match is not a regular expression"),
        ("takes = 3\nanswer = 1", "there is no key 'answer': did you mean answered?"),
    ],
)
def test_a_wrong_table_is_named(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        read(text)
    assert said in str(error.value)
    assert "f.toml, fault 1" in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"batch_faults.*none\.toml: No such file"):
        read_batch_faults(tmp_path / "none.toml")
    (tmp_path / "f.toml").write_text('[fault]\nend = "failed"\n')
    with pytest.raises(SettingsError, match=r"must hold \[\[fault\]\] tables"):
        read_batch_faults(tmp_path / "f.toml")


def test_a_rule_is_said_in_words() -> None:
    assert (
        read('at = "create"\ndo = "drop"\ndone = true\ntimes = 1').in_words() == "create: drop when it is done, 1 time"
    )
    assert read('end = "expired"\nanswered = 0.8\nbatches = 2').in_words() == (
        "expired, 0.8 of the lines answered, batches 2 to 2"
    )
    assert read('lines = "drop"\nshare = 0.1\nmatch = "x"').in_words() == (
        "lines: drop, for prompts that match 'x', for 0.1 of the lines"
    )
