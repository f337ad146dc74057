"""A shard is a run of its own about its own rows, and all shards together keep to the limits and to the budget."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import test_then
from conftest import Lab
from fake_service import Anything, Service, refusal
from hypothesis import given
from hypothesis import strategies as st
from programs import call, expected_answer, finish, local_server, started, table, write_table
from virtual_time import run_virtually

import batcher
from batcher.calls.endpoints import Tiers
from batcher.endpoint import Endpoint
from batcher.engine.runner import execute
from batcher.engine.stop import Stop
from batcher.errors import BatcherError, InputError, Interrupted, SettingsError
from batcher.input.opening import open_dataset
from batcher.input.parquet_file import ParquetDataset
from batcher.input.selection import Selection
from batcher.output.joining import merge
from batcher.planning.shares import with_share_of_budget, with_shares
from batcher.records import Completion, Usage
from batcher.reports.verification.verify import verify
from batcher.settings import Settings
from batcher.shards import Part, Shard, named

TEXTS = [f"item {number}" for number in range(23)]
CHUNK = 5


def service(**more: Any) -> Service:
    made = Service((), **more)
    made.prompts = Anything()
    return made


def run(lab: Lab, data: Any = TEXTS, asked: Service | None = None, **options: Any) -> Any:
    return lab.run(data, asked or service(), **{"chunk_size": CHUNK, **options})


def of_shard(lab: Lab, name: str) -> Lab:
    """Return what lies in the directory of a shard."""
    return Lab(lab.directory / "shards_k" / name)


def run_all(lab: Lab, of: int, data: Any = TEXTS, **options: Any) -> list[Lab]:
    for number in range(1, of + 1):
        run(lab, data, shard=f"{number}/{of}", **options)
    return [of_shard(lab, f"{number}-of-{of}") for number in range(1, of + 1)]


# --- numbers ---


@given(st.integers(0, 10_000), st.integers(1, 700), st.integers(1, 300))
def test_the_ranges_of_all_shards_are_a_partition_at_the_borders_of_chunks(rows: int, chunk: int, of: int) -> None:
    found = [Shard(number, of).rows(rows, chunk) for number in range(1, of + 1)]
    assert list(itertools.chain(*found)) == list(range(rows))
    assert all(each.start % chunk == 0 for each in found if each)
    sizes = [len(Shard(number, of).chunks(-(-rows // chunk))) for number in range(1, of + 1)]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 10**15), st.integers(1, 1000))
def test_the_shares_of_all_shards_add_up_to_the_whole(whole: int, of: int) -> None:
    shares = [Shard(number, of).share(whole) for number in range(1, of + 1)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1
    assert whole < of or min(shares) >= 1


RATES = st.none() | st.floats(0.1, 5000, allow_nan=False)
LIMITS = st.fixed_dictionaries({"rpm": RATES, "rps": RATES, "tpm": RATES, "max_concurrency": st.integers(1, 500)})


@given(LIMITS, st.integers(1, 40))
def test_limits_are_shared_in_whole_numbers_and_never_exceeded_or_they_are_refused(
    limits: dict[str, Any], of: int
) -> None:
    whole = Endpoint("m", **limits)
    shared: list[Endpoint] = []
    try:
        for number in range(1, of + 1):
            settings = Settings(shard=f"{number}/{of}", endpoints=[whole])
            [one] = with_shares(Tiers((whole,)), settings).first
            shared.append(one)
    except SettingsError:
        assert any(limit is not None and limit < of for limit in limits.values())
        return
    for name, limit in limits.items():
        shares = [getattr(each, name) for each in shared]
        if limit is None:
            assert set(shares) == {None}
        elif of > 1:
            assert sum(shares) <= limit < sum(shares) + 1
            assert all(isinstance(each, int) and each >= 1 for each in shares)
        else:
            assert shares == [limit]


@given(st.floats(0.01, 10_000), st.integers(1, 500))
def test_the_shares_of_a_budget_add_up_to_at_most_the_budget(budget: float, of: int) -> None:
    shares = []
    for number in range(1, of + 1):
        share = with_share_of_budget(Settings(shard=f"{number}/{of}", budget=budget)).budget
        assert share is not None
        shares.append(int(share * 10**9 + 1e-6))
    assert sum(shares) <= budget * 10**9 + 1
    assert sum(shares) >= budget * 10**9 - of - 1


@pytest.mark.parametrize("text", ["3", "0/3", "4/3", "a/b", "1/0", "1/-2", "", "1.5/2", "01/2", 7, 0.5])
def test_what_is_no_shard_is_refused(text: Any) -> None:
    with pytest.raises(SettingsError, match="shard"):
        Settings.of({"shard": text})


def test_the_directory_of_a_shard_is_found_by_its_name() -> None:
    shard = Shard.parsed("3/8", "shard")
    assert named(shard.directory(Path("output"), "k").name) == shard == Shard(3, 8)
    assert shard.directory(Path("output"), "k") == Path("output/shards_k/3-of-8")
    assert named("3-of-8.bak") is named("0-of-8") is None


# --- rows ---


def written(tmp_path: Path, kind: str) -> Any:
    frame = pd.DataFrame({"text": TEXTS, "n": range(23)})
    if kind == "frame":
        return frame
    if kind == "list":
        return TEXTS
    if kind == "several":
        (tmp_path / "parts").mkdir()
        for number, start in enumerate((0, 4, 4, 17)):
            stop = (4, 4, 17, 23)[number]
            frame[start:stop].to_csv(tmp_path / "parts" / f"{number}.csv", index=False)
        return tmp_path / "parts"
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, row_group_size=7)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame", "list", "several"])
@pytest.mark.parametrize("chosen", [{}, {"limit": 17}, {"sample": 12}], ids=str)
@pytest.mark.parametrize("of", [1, 2, 3, 9])
def test_shards_have_the_rows_of_the_whole_selection_in_its_order(
    tmp_path: Path, kind: str, chosen: dict[str, Any], of: int
) -> None:
    data = written(tmp_path, kind)
    whole = Selection(open_dataset(data), "k", **chosen)
    rows = [row for part in whole.slices(4) for row in part.rows]
    found, places = [], []
    for number in range(1, of + 1):
        dataset = open_dataset(data)
        shard = Selection(dataset, "k", **chosen, part=partial(Part.of, Shard(number, of), CHUNK))
        again = Selection.recorded_in(json.loads(json.dumps(shard.recorded())), open_dataset(data), "k")
        assert again.recorded() == shard.recorded()
        own = [row for part in shard.slices(4) for row in part.rows]
        assert [row for part in again.slices(CHUNK) for row in part.rows] == own
        assert [part.start for part in shard.slices(4)] == [*range(0, len(own), 4)]
        assert shard.part is not None
        assert shard.part.rows == len(own)
        places += [(shard.place(position), again.where(position)) for position in range(len(own))]
        found += own
    assert found == rows
    assert places == [(whole.place(position), whole.where(position)) for position in range(len(rows))]


def test_rows_of_a_parquet_file_are_counted_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(written(tmp_path, "parquet"))
    assert pq.read_metadata(tmp_path / "t.parquet").num_rows == 23
    monkeypatch.delattr(ParquetDataset, "_rows")
    monkeypatch.setattr(ParquetDataset, "__abstractmethods__", frozenset())
    assert (dataset.count(), dataset.count(4), dataset.count(40)) == (23, 4, 23)


# --- runs ---


@pytest.mark.parametrize(
    "options",
    [{}, {"format": "parquet"}, {"limit": 18}, {"sample": 14}, {"with_": "raw,tokens"}, {"encoding": "utf-8-sig"}],
    ids=str,
)
def test_the_chunk_files_of_shards_are_those_of_a_run_without_shards(
    tmp_path: Path, lab: Lab, options: dict[str, Any]
) -> None:
    whole, data = Lab(tmp_path / "whole"), written(tmp_path, "parquet")
    run(whole, data, prompt="{text}", **options)
    run_all(lab, 3, data, prompt="{text}", **options)

    def files(directory: Path) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in directory.iterdir() if each.suffix in {".csv", ".parquet"}}

    starts = {number: of_shard(lab, f"{number}-of-3") for number in (1, 2, 3)}
    found: dict[str, bytes] = {}
    for shard in starts.values():
        start = shard.query("SELECT json_extract(question, '$.shard.start') FROM runs")[0][0]
        for name, content in files(shard.directory).items():
            number, _, rest = name.partition("_")
            if number != "all":
                found[f"{int(number) + start}_{rest}"] = content
        assert verify("k", data, output_dir=shard.directory).ok
    assert found == {name: content for name, content in files(whole.directory).items() if name[0].isdigit()}
    merge("k", lab.directory)
    assert files(lab.directory) == files(whole.directory)
    assert verify("k", data, output_dir=lab.directory).ok
    asked = service()
    run(lab, data, asked, prompt="{text}", **options)
    assert not asked.calls


@pytest.mark.parametrize(
    ("known", "drawn"),
    [(range(23), "all"), (range(10, 23), "unknown"), (range(2, 9), "unknown"), ((), "unknown")],
    ids=str,
)
def test_right_answers_in_a_column_are_known_of_all_shards_after_the_merge(
    tmp_path: Path, lab: Lab, known: Any, drawn: str
) -> None:
    golds = [("good" if number % 2 else "bad") if number in known else "" for number in range(23)]
    data, whole = pd.DataFrame({"text": TEXTS, "gold": golds}), Lab(tmp_path / "whole")

    def ask(at: Lab, **options: Any) -> None:
        answers = service(instead=lambda _: Completion("good"))
        run(at, data, answers, prompt="{text}", labels="good,bad", gold="gold", **options)

    ask(whole)
    for number in range(1, 7):
        ask(lab, shard=f"{number}/6")
    merge("k", lab.directory)
    found = [json.loads(each.query("SELECT question FROM runs ORDER BY id")[-1][0])["gold"] for each in (lab, whole)]
    assert found[0] == found[1]
    assert found[0]["drawn"] == drawn


def test_of_an_empty_table_with_a_column_for_right_answers_a_run_without_rows_is_made(tmp_path: Path, lab: Lab) -> None:
    data, whole = pd.DataFrame({"text": [], "gold": []}, dtype=str), Lab(tmp_path / "whole")
    options: dict[str, Any] = {"prompt": "{text}", "labels": "good,bad", "gold": "gold"}
    run(whole, data, **options)
    run_all(lab, 2, data, **options)
    merge("k", lab.directory)
    assert lab.files() == whole.files()
    found = [json.loads(each.query("SELECT question FROM runs ORDER BY id")[-1][0])["gold"] for each in (lab, whole)]
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{"via": "batch"}, {"samples": 3}, {"dedup": True}], ids=str)
def test_shards_that_ask_in_other_ways_make_the_files_of_one_run(
    tmp_path: Path, lab: Lab, options: dict[str, Any]
) -> None:
    whole = Lab(tmp_path / "whole")

    run(whole, **options)
    for number in (1, 2, 3):
        run(lab, shard=f"{number}/3", **options)
    merge("k", lab.directory)
    assert verify("k", TEXTS, output_dir=lab.directory).ok

    def files(at: Lab) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in at.directory.iterdir() if each.suffix in {".csv", ".parquet"}}

    assert files(lab) == files(whole)


def test_rows_that_are_not_certain_go_on_in_shards_as_in_one_run(tmp_path: Path, lab: Lab) -> None:
    whole = Lab(tmp_path / "whole")
    options: dict[str, Any] = {**test_then.THEN, "prompt": test_then.PROMPT, "threshold": 0.65, "chunk_size": 2}
    whole.run(test_then.ROWS, test_then.service(), **options)
    for number in (1, 2, 3):
        lab.run(test_then.ROWS, test_then.service(), shard=f"{number}/3", **options)
    merge("k", lab.directory)
    assert {row["infer_by"] for row in lab.rows()} == {test_then.CHEAP, test_then.DEAR}
    assert lab.files() == whole.files()
    assert verify("k", test_then.ROWS, output_dir=lab.directory).ok
    asked = test_then.service()
    lab.run(test_then.ROWS, asked, **options)
    assert not asked.calls
    assert lab.files() == whole.files()


@pytest.mark.parametrize("merged", [False, True])
def test_failed_rows_are_asked_again_in_shards_or_after_the_merge(tmp_path: Path, lab: Lab, *, merged: bool) -> None:
    whole, bad = Lab(tmp_path / "whole"), {TEXTS[2], TEXTS[7], TEXTS[22]}
    broken = partial(service, instead=lambda call: refusal(400) if call.prompt in bad else None)
    run(whole, asked=broken())
    run_all(lab, 3, asked=broken())
    first = whole.files()
    if merged:
        merge("k", lab.directory)
        assert lab.files() == first
    run(whole, retry_failed=True)
    again = service()
    for shard in (None,) if merged else ("1/3", "2/3", "3/3"):
        run(lab, asked=again, shard=shard, retry_failed=True)
    assert again.asked == Counter(bad)
    merge("k", lab.directory)
    assert lab.files() == whole.files() != first
    assert verify("k", TEXTS, output_dir=lab.directory).ok


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("on_change", ["redo", "reuse"])
def test_shards_are_asked_another_question_as_one_run_is(
    tmp_path: Path, lab: Lab, on_change: str, *, merged: bool
) -> None:
    whole, data = Lab(tmp_path / "whole"), pd.DataFrame({"text": TEXTS})
    first, then = "Mood? {text}", "Topic? {text}"
    run(whole, data, prompt=first)
    run(whole, data, prompt=then, on_change=on_change)
    run_all(lab, 3, data, prompt=first)
    if merged:
        merge("k", lab.directory)
    again = service()
    for shard in (None,) if merged else ("1/3", "2/3", "3/3"):
        if shard == "3/3":
            with pytest.raises(BatcherError, match="shard 3-of-3 has another prompt than shard 1-of-3"):
                merge("k", lab.directory)
        run(lab, data, again, shard=shard, prompt=then, on_change=on_change)
    assert len(again.calls) == (23 if on_change == "redo" else 0)
    merge("k", lab.directory)
    assert lab.files() == whole.files()
    assert verify("k", data, output_dir=lab.directory).ok


def test_the_lines_of_a_requests_file_are_split_as_the_rows_of_a_table(tmp_path: Path, lab: Lab) -> None:
    lines = [{"custom_id": text, "body": {"messages": [{"role": "user", "content": text}]}} for text in TEXTS]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    given_ = ["run", "t.jsonl", "--requests", "--provider=offline", "--chunk-size=5", "--canary=0"]
    for number in (1, 2):
        assert call(*given_, f"--shard={number}/2", cwd=tmp_path).status == 0
    assert call("merge", "t", cwd=tmp_path).status == 0
    found = [json.loads(line) for line in (tmp_path / "output" / "all_t.jsonl").read_text().splitlines()]
    assert [each["custom_id"] for each in found] == TEXTS
    assert call("verify", "t", "t.jsonl", cwd=tmp_path).status == 0


def test_vectors_of_shards_are_in_one_file_after_the_merge(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[text] for text in TEXTS])
    given_ = ["run", "t.csv", "--task=embedding", "--prompt-column=text", "--provider=offline", "--chunk-size=5"]
    given_ += ["--with=npy", "--model=sim"]
    for more in (["--shard=1/2"], ["--shard=2/2"], ["--output-dir=whole"]):
        assert call(*given_, *more, cwd=tmp_path).status == 0
    assert call("merge", "t", cwd=tmp_path).status == 0
    for name in ("0_t.parquet", "20_t.parquet", "all_t.parquet", "all_t.npy"):
        assert (tmp_path / "output" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_report_of_a_shard_of_a_table_in_memory_has_its_rows_and_their_index(lab: Lab) -> None:
    frame = pd.DataFrame({"text": TEXTS}, index=[f"row {number}" for number in range(23)])
    report = run(lab, frame, prompt="{text}", shard="2/3")
    assert [*report.answers] == [f"answer to item {number}" for number in range(5, 15)]
    assert [*report.answers.index] == [f"row {number}" for number in range(5, 15)]
    assert [*report.frame()["text"]] == TEXTS[5:15]


def test_a_message_about_a_row_names_its_place_in_the_table(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "t.jsonl").write_text('{"p": "no messages"}\n' * 23)
    with pytest.raises(InputError, match=r"row 5 \(counted from 0\)"):
        run(lab, tmp_path / "t.jsonl", shard="2/3", messages_column="p")


def test_verify_finds_that_a_row_of_the_table_was_changed(tmp_path: Path, lab: Lab) -> None:
    run(lab, shard="2/3")
    changed = [*TEXTS[:7], "another", *TEXTS[8:]]
    assert not verify("k", changed, output_dir=of_shard(lab, "2-of-3").directory).ok
    beside = ["another", *TEXTS[1:]]
    assert verify("k", beside, output_dir=of_shard(lab, "2-of-3").directory).ok


def test_partial_results_of_a_shard_have_its_rows(lab: Lab) -> None:
    with pytest.raises(Interrupted):
        lab.run(
            TEXTS, service(latency=lambda _: 5.0), at={7.5: lab.request_stop}, shard="2/3", chunk_size=CHUNK,
            endpoints=[Endpoint("m", max_concurrency=9)], grace=0.0,
        )  # fmt: skip
    shard = of_shard(lab, "2-of-3")
    merge("k", shard.directory, partial=True, data=TEXTS)
    answers = [row["infer"] for row in shard.rows("partial")]
    assert answers
    assert {*answers} <= {"", *(f"answer to {text}" for text in TEXTS[5:15])}


def test_the_same_command_goes_on_with_a_shard_and_asks_nothing_again(lab: Lab) -> None:
    asked = service(latency=lambda each: 1.0 + each.nth)
    slow = {"endpoints": [Endpoint("m", max_concurrency=3)], "shard": "2/3", "grace": 0.0}
    with pytest.raises(Interrupted):
        lab.run(TEXTS, asked, at={5.0: lab.request_stop}, chunk_size=CHUNK, **slow)
    assert 0 < sum(asked.answered.values()) < 10
    run(lab, TEXTS, asked, **slow)
    run(lab, TEXTS, asked, **slow)
    assert asked.answered == Counter(TEXTS[5:15])


def test_a_shard_without_rows_ends_at_once_and_is_merged_with_the_others(tmp_path: Path, lab: Lab) -> None:
    asked = service()
    report = run(lab, TEXTS, asked, shard="1/8")
    assert (report.status, report.rows, len(asked.calls)) == ("done", 0, 0)
    empty = of_shard(lab, "1-of-8")
    assert empty.rows() == []
    assert empty.path().read_text().startswith("text,") or empty.path().read_text().startswith('"text"')
    mark = json.loads(empty.query("SELECT json_extract(question, '$.shard') FROM runs")[0][0])
    assert mark == {"number": 1, "of": 8, "start": 0, "rows": 0, "rows_of_table": 23}
    run_all(lab, 8)
    merge("k", lab.directory)
    whole = Lab(tmp_path / "whole")
    run(whole)
    assert lab.files() == whole.files()


def test_the_plan_says_which_rows_and_which_shares(tmp_path: Path, lab: Lab) -> None:
    options: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "chunk_size": CHUNK, "shard": "2/3"}
    endpoint = Endpoint("m", rpm=100, max_concurrency=10, prices={"in": 1, "out": 1}, params={"max_tokens": 9})
    said = batcher.plan(TEXTS, endpoints=[endpoint], budget=3, dedup=True, **options).summary
    assert "shard 2 of 3: rows 6 to 15 of 23" in said
    assert "33 requests a minute, 3 requests in flight; $1.00 of the budget" in said
    assert "merge('k')" in said
    assert "equal rows of others" in said
    assert not lab.directory.exists()


# --- limits and money, in virtual time ---


class Open(Service):
    """A service that several runs use at the same time."""

    async def close(self) -> None:
        """Stay open for the others."""


def all_at_once(lab: Lab, of: int, asked: Service, data: Any, **options: Any) -> None:
    """Run all shards in one virtual time."""

    async def work() -> None:
        def one(number: int) -> Any:
            settings = Settings.of(
                {"keyword": "k", "output_dir": lab.directory, "quiet": True, "canary": 0, "chunk_size": 4}
                | {"shard": f"{number}/{of}", **options}
            )
            return execute(data, None, settings, Stop(), callers=asked)

        for end in await asyncio.gather(*map(one, range(1, of + 1))):
            end.report_or_raise()

    run_virtually(work())


def most_in(moments: list[float], window_s: float) -> int:
    """Return the most moments in any window."""
    moments, most, begin = sorted(moments), 0, 0
    for end, moment in enumerate(moments):
        while moments[begin] <= moment - window_s:
            begin += 1
        most = max(most, end - begin + 1)
    return most


@pytest.mark.parametrize(
    "limits", [{"rps": 7}, {"rpm": 40}, {"rps": 7.5, "max_concurrency": 5}, {"max_concurrency": 4}], ids=str
)
def test_all_shards_at_once_keep_to_the_limits_of_one_run(lab: Lab, limits: dict[str, Any]) -> None:
    asked = Open((), latency=lambda _: 1.3)
    asked.prompts = Anything()
    texts = [f"t {number}" for number in range(90)]
    shared = [Endpoint("m", api_key=f"key-{number}", account="a", **limits) for number in (1, 2)]
    all_at_once(lab, 3, asked, texts, endpoints=shared)
    moments = [each.at for each in asked.calls]
    assert most_in(moments, 1.0) <= limits.get("rps", 99)
    assert most_in(moments, 60.0) <= limits.get("rpm", 999)
    assert asked.peak <= limits.get("max_concurrency", 256)
    assert asked.answered == Counter(texts)


def test_all_shards_at_once_spend_at_most_the_budget(lab: Lab) -> None:
    texts = [f"t {number}" for number in range(60)]
    asked = Open((), latency=lambda _: 0.5, usage=lambda _: Usage(prompt_tokens=300, completion_tokens=10))
    asked.prompts = Anything()
    dear = [Endpoint("m", prices={"in": 100, "out": 100}, params={"max_tokens": 10}, max_concurrency=6)]
    budget = 0.6
    with pytest.raises(BatcherError, match="the budget is used up"):
        all_at_once(lab, 3, asked, texts, endpoints=dear, budget=budget)
    spent = 0
    for number in (1, 2, 3):
        spent += of_shard(lab, f"{number}-of-3").query("SELECT total(cost) FROM requests")[0][0]
    assert 0 < spent <= budget * 10**9
    assert {*asked.asked.values()} == {1}
    assert 9 <= len(asked.calls) < 60


# --- refusals ---


def with_shard_of_three(lab: Lab) -> None:
    run(lab, shard="1/3")


def with_whole_run(lab: Lab) -> None:
    run(lab)


def with_merged(lab: Lab) -> None:
    run_all(lab, 3)
    merge("k", lab.directory)


def with_chunk_files(lab: Lab) -> None:
    run(lab)
    (lab.directory / "journal_k.sqlite").unlink()


def with_foreign_run(lab: Lab) -> None:
    other = Lab(lab.directory.parent / "other")
    run(other, TEXTS[:5])
    shutil.copytree(other.directory, of_shard(lab, "1-of-3").directory)


def nothing(_lab: Lab) -> None:
    pass


NARROW = [Endpoint("m", max_concurrency=4)]
LONG = ["word " * 4000, *TEXTS]


@pytest.mark.parametrize(
    ("before", "options", "said"),
    [
        (with_shard_of_three, {"shard": "1/4"}, "has shards of 3"),
        (with_shard_of_three, {}, r"whole run would ask again .* `batcher\.merge\('k'\)`; .* output_dir=\""),
        (with_shard_of_three, {"shard": "1/3", "chunk_size": 4}, "it was run with chunks of 5 rows.* chunk_size=5"),
        (with_shard_of_three, {"shard": "2/3", "chunk_size": 4}, "shard 1-of-3 was run with chunks of 5"),
        (
            with_shard_of_three,
            {"shard": "1/3", "data": TEXTS[:20]},
            "it was run with 23 rows, not 20; .* give the table as it was",
        ),
        (with_shard_of_three, {"shard": "2/3", "data": TEXTS[:20]}, "shard 1-of-3 was run with 23 rows, not 20"),
        (with_shard_of_three, {"shard": "2/3", "limit": 23}, "neither limit nor sample"),
        (with_whole_run, {"shard": "1/3"}, "is a whole run"),
        (with_merged, {"shard": "1/3"}, "merged already"),
        (with_chunk_files, {"shard": "1/3"}, "has chunk files"),
        (with_foreign_run, {"shard": "1/3"}, "is no run of a shard"),
        (nothing, {"shard": "1/3", "hold": 0.9, "then": "b", "labels": "a,b"}, "hold.* exclude each other"),
        (nothing, {"shard": "1/3", "repeat_sample": 5}, "repeat_sample.* exclude each other"),
        (
            nothing,
            {"shard": "1/8", "endpoints": [Endpoint("m", rps=4)]},
            "give rpm=240 in its place, or make at most 4",
        ),
        (nothing, {"shard": "1/8", "endpoints": [Endpoint("m", rpm=4)]}, "make at most 4 shards"),
        (nothing, {"shard": "1/8", "endpoints": NARROW}, "max_concurrency=8 or more"),
        (nothing, {"shard": "1/3", "data": LONG, "endpoints": [Endpoint("m", tpm=9000)]}, "make fewer shards"),
        (nothing, {"shard": "1/800", "budget": 1e-4}, "too little"),
    ],
)
def test_what_would_be_paid_twice_or_exceed_a_limit_is_refused_before_anything_is_sent_or_written(
    lab: Lab, before: Callable[[Lab], None], options: dict[str, Any], said: str
) -> None:
    before(lab)
    there = {path: path.read_bytes() for path in lab.directory.rglob("*.*") if path.is_file()}
    asked = service()
    given_ = dict(options)
    with pytest.raises(SettingsError, match=said):
        run(lab, given_.pop("data", TEXTS), asked, **given_)
    assert not asked.calls
    assert {path: path.read_bytes() for path in lab.directory.rglob("*.*") if path.is_file()} == there


def test_a_shard_in_its_own_directory_is_told_where_to_run(lab: Lab) -> None:
    run(lab, shard="1/3")
    with pytest.raises(SettingsError, match=r"that of shard 1 of 3: give shard='1/3'|that of shard 1 of 3"):
        run(of_shard(lab, "1-of-3"))
    with pytest.raises(SettingsError, match="is the directory of shard 1/3"):
        run(of_shard(lab, "1-of-3"), shard="1/3")


def test_the_result_of_the_whole_run_is_not_the_input_of_a_shard(tmp_path: Path, lab: Lab) -> None:
    lab.directory.mkdir()
    write_table(lab.path(), ["text"], [[text] for text in TEXTS])
    with pytest.raises(SettingsError, match="writes itself"):
        run(lab, lab.path(), prompt="{text}", shard="1/3")


def test_a_rehearsal_is_of_the_whole_command(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [["a"]])
    with pytest.raises(SettingsError, match="of the whole command"):
        batcher.rehearse(tmp_path / "t.csv", "{text}", shard="1/2", output_dir=tmp_path / "o")


# --- real processes ---


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_shards_in_processes_of_their_own_ask_each_row_once_also_if_one_is_killed(tmp_path: Path) -> None:
    rows, of, in_flight = 120, 3, 12
    prompts = [f"Say something of item {number}" for number in range(rows)]
    write_table(tmp_path / "t.csv", ["text"], [[prompt] for prompt in prompts])
    with local_server("--latency", "0.1", f"--max-in-flight={in_flight}", cwd=tmp_path) as server, ExitStack() as stack:
        given_ = ["--prompt-column=text", "--model=m", f"--base-url={server.base_url}", "--chunk-size=10", "--canary=0"]
        command = ["run", "t.csv", *given_, f"--max-concurrency={in_flight}"]
        programs = [
            stack.enter_context(started(*command, f"--shard={number}/{of}", cwd=tmp_path))
            for number in range(1, of + 1)
        ]
        shard = tmp_path / "output" / "shards_t" / "2-of-3"
        while not [*shard.glob("[0-9]*_t.csv")]:
            server.wait_for(1)
            assert programs[1].poll() is None
        programs[1].kill()
        programs[1].wait()
        assert [finish(programs[number]).status for number in (0, 2)] == [0, 0]
        assert call(*command, f"--shard=2/{of}", cwd=tmp_path).status == 0
        books = server.books()
    asked = books["requests_by_prompt"]
    assert {*asked} == {*prompts}
    assert rows <= books["requests"] <= rows + in_flight // of
    assert {prompt for prompt, times in asked.items() if times > 1} <= {*prompts[40:80]}
    assert set(books["by_status"]) == {"200"}  # more in flight than allowed would have been refused
    assert books["peak_in_flight"] <= in_flight
    assert call("merge", "t", cwd=tmp_path).status == 0
    assert call("verify", "t", "t.csv", cwd=tmp_path).status == 0
    found = table(tmp_path / "output" / "all_t.csv")
    assert [(row["text"], row["infer"]) for row in found] == [(text, expected_answer(text)) for text in prompts]
