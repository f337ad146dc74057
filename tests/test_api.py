"""`batcher.run` and `batcher.arun` as a script calls them, against the embedded server."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from langchain_openai import ChatOpenAI
from programs import call, expected_answer, table

import batcher
from batcher.errors import EndpointsLost
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL", "BASE_URL", "API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_three_runs_in_one_process() -> None:
    for keyword, count in (("a", 3), ("b", 40), ("a", 5)):
        report = batcher.run([f"item {n}" for n in range(count)], keyword=keyword, provider="offline", quiet=True)
        assert (report.status, report.rows, report.ok) == ("done", count, count)
    again = batcher.run([f"item {n}" for n in range(7)], keyword="a", provider="offline", quiet=True)
    assert again.requests_now == 2, "five of the seven had their answer"


def test_two_runs_at_once_in_threads_and_one_in_a_loop() -> None:
    reports: list[batcher.Report] = []

    def work(keyword: str) -> None:
        reports.append(
            batcher.run([f"{keyword} {n}" for n in range(50)], keyword=keyword, provider="offline", quiet=True)
        )

    threads = [threading.Thread(target=work, args=(keyword,)) for keyword in "xy"]
    for thread in threads:
        thread.start()
    reports.append(asyncio.run(batcher.arun(["1 + 1"], keyword="z", provider="offline", quiet=True)))
    for thread in threads:
        thread.join()
    assert sorted(report.ok for report in reports) == [1, 50, 50]
    for keyword in "xy":
        rows = table(Path("output") / f"all_{keyword}.csv")
        assert [row["infer"] for row in rows] == [expected_answer(f"{keyword} {n}") for n in range(50)]


async def test_run_works_where_a_loop_is_running_and_arun_beside_it() -> None:
    inside = batcher.run(["1 + 1"], keyword="inside", provider="offline", quiet=True)
    awaited = await batcher.arun(["2 + 2"], keyword="awaited", provider="offline", quiet=True)
    assert inside.frame()["infer"].tolist() == ["2"]
    assert awaited.frame()["infer"].tolist() == ["4"]


def test_a_frame_of_any_index_keeps_it_out_of_the_files() -> None:
    frame = pd.DataFrame({"id": [7, 8], "note": ["NA", None]}, index=["x", "x"])
    report = batcher.run(frame, "{id} {note}", keyword="frame", provider="offline", quiet=True)
    [first, second] = table(Path("output") / "all_frame.csv")
    assert list(first) == ["id", "note", "infer", "infer_status", "infer_error"]
    assert (first["note"], second["note"]) == ("NA", "")
    assert second["infer"] == expected_answer("8 ")
    with pytest.warns(UserWarning, match="labels of the DataFrame occur more than once"):
        read = report.frame()
    assert (read["id"].tolist(), [*read.index]) == ([7, 8], ["x", "x"])
    del frame
    with pytest.warns(UserWarning, match="labels"):
        gone = report.frame()
    assert gone["id"].tolist() == ["7", "8"], "text, as in the file, if the caller has it no more"


@pytest.mark.parametrize(
    ("data", "prompt", "answer"),
    [
        (pd.Series(["1 + 1"], name="sum"), None, "2"),
        (pd.Series(["1 + 1"], name="sum"), "{sum} + 1", "3"),
        (["1 + 1"], None, "2"),
        (["3"], "{text} + 1", "4"),
    ],
)
def test_a_series_and_a_list_are_their_own_prompts_or_fill_a_template(
    data: Any, prompt: str | None, answer: str
) -> None:
    report = batcher.run(data, prompt, keyword="k", provider="offline", quiet=True)
    assert report.frame()["infer"].tolist() == [answer]


def test_a_function_sees_the_values_as_they_are() -> None:
    frame = pd.DataFrame({"a": [2, 3]})
    report = batcher.run(frame, lambda row: f"{row['a'] + 1} * 2", keyword="f", provider="offline", quiet=True)
    assert report.frame()["infer"].tolist() == ["6", "8"]


def test_any_chat_model_of_langchain_may_be_an_endpoint() -> None:
    with embedded(Knobs(keys=("sk-mine",))) as server:
        llm = ChatOpenAI(model="mine", base_url=server.base_url, api_key="sk-mine", max_retries=0)  # type: ignore[arg-type]
        endpoint = batcher.Endpoint(llm=llm, max_concurrency=4)
        prompts = [f"{n} + 1" for n in range(20)]
        report = batcher.run(prompts, keyword="llm", endpoints=[endpoint], quiet=True)
        assert server.books.peak_in_flight <= 4
    assert report.frame()["infer"].tolist() == [str(n + 1) for n in range(20)]


def test_a_pool_of_endpoints_with_different_models_and_urls() -> None:
    with embedded(Knobs(model="one")) as first, embedded(Knobs(model="two")) as second:
        pool = [batcher.Endpoint(name, base_url=each.base_url) for name, each in (("one", first), ("two", second))]
        report = batcher.run([f"item {n}" for n in range(60)], keyword="pool", endpoints=pool, quiet=True)
        assert report.ok == 60
        assert [each.requests_now for each in report.endpoints] == [first.books.requests, second.books.requests]
        assert all(each.requests_now for each in report.endpoints)


def test_wrong_calls_say_what_is_wrong() -> None:
    with pytest.raises(batcher.SettingsError, match="no option 'chunksize': did you mean chunk_size"):
        batcher.run(["x"], keyword="k", chunksize=5)  # type: ignore[call-arg]
    with pytest.raises(batcher.SettingsError, match="give keyword="):
        batcher.run(["x"], provider="offline")
    with pytest.raises(batcher.SettingsError, match="no model"):
        batcher.run(["x"], keyword="k")
    with pytest.raises(batcher.InputError, match="no column 'y'"):
        batcher.run(["x"], "{y}", keyword="k", provider="offline")
    assert not Path("output").exists(), "nothing is written before everything is checked"


def test_the_result_of_a_run_cannot_be_its_own_input() -> None:
    batcher.run(["x"], keyword="k", provider="offline", quiet=True)
    with pytest.raises(batcher.SettingsError, match="a file that the run 'k' writes itself"):
        batcher.run("output/all_k.csv", "{text}", keyword="k", provider="offline", answer_column="other")


def test_ctrl_c_in_a_script_is_a_keyboard_interrupt_with_the_report() -> None:
    with embedded(Knobs(latency=0.05)) as server:

        def press_ctrl_c() -> None:
            while server.books.requests < 30:
                pass
            signal.raise_signal(signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        presser = threading.Thread(target=press_ctrl_c)
        presser.start()
        endpoints = [batcher.Endpoint("m", base_url=server.base_url, max_concurrency=5)]
        with pytest.raises(KeyboardInterrupt) as stopped:
            batcher.run([f"item {n}" for n in range(500)], keyword="k", endpoints=endpoints, quiet=True)
        presser.join()
        assert isinstance(stopped.value, batcher.Interrupted)
        assert stopped.value.report.ok == server.books.answered == server.books.requests
        assert signal.getsignal(signal.SIGINT) is before


def test_a_lost_endpoint_raises_with_the_report() -> None:
    with embedded(Knobs(keys=("sk-right",))) as server:
        wrong = batcher.Endpoint("m", base_url=server.base_url, api_key="sk-wrong")
        with pytest.raises(EndpointsLost, match="the API key was refused") as lost:
            batcher.run(["x", "y"], keyword="k", endpoints=[wrong], quiet=True)
        assert (lost.value.report.status, lost.value.report.left, server.books.requests) == ("stopped", 2, 2)
        frame = lost.value.report.frame()
        assert (frame["text"].tolist(), frame["infer_status"].tolist()) == (["x", "y"], ["", ""])


def test_the_parameters_of_a_chat_model_belong_to_who_gives_the_answer() -> None:
    def endpoint(temperature: float) -> batcher.Endpoint:
        llm = ChatOpenAI(model="m", api_key="sk-1", temperature=temperature)  # type: ignore[arg-type]
        return batcher.Endpoint(llm=llm)

    assert endpoint(0).source == endpoint(0).source != endpoint(1).source
    assert "sk-1" not in str(endpoint(0).source)


CANCELLED_WHILE_PLANNING = """
import asyncio, batcher
async def main():
    run = asyncio.create_task(batcher.arun([f"item {n}" for n in range(300_000)], keyword="k", provider="offline"))
    while not list(__import__("pathlib").Path().glob("output/journal_k.sqlite-wal")):
        await asyncio.sleep(0)
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    report = await batcher.arun(["1 + 1"], keyword="k", provider="offline", quiet=True)
    print(report.ok)
asyncio.run(main())
"""
LEFT_BEHIND = """
import asyncio, batcher
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs
async def main():
    with embedded(Knobs(latency=0.02)) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url, max_concurrency=30)
        prompts = [f"item {n}" for n in range(2_000)]
        run = batcher.arun(prompts, keyword="k", endpoints=[endpoint], chunk_size=5, quiet=True)
        task = asyncio.create_task(run)
        while server.books.requests < 200:
            await asyncio.sleep(0)
        print(1)
asyncio.run(main())
"""


@pytest.mark.parametrize("script", [CANCELLED_WHILE_PLANNING, LEFT_BEHIND], ids=["while planning", "left behind"])
def test_a_run_that_a_script_drops_ends_in_order(tmp_path: Path, script: str) -> None:
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    done = call("script.py", cwd=tmp_path)
    assert (done.status, done.stdout) == (0, "1\n"), done.stderr
    assert "Error" not in done.stderr.replace("CancelledError", "")


FAILING_PROMPT = """
import sys, batcher
def prompt(row):
    return row["text"] if row["text"] != "item 777" else next(iter(()))
try:
    batcher.run([f"item {n}" for n in range(1000)], prompt, keyword="k", provider="offline")
except batcher.InputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.timeout(60)  # such a slip once made the run wait for ever
def test_a_slip_with_next_in_a_prompt_function_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FAILING_PROMPT, encoding="utf-8")
    done = call("script.py", cwd=tmp_path)
    assert done.status == 2, done.stderr
    assert done.stdout == "the prompt function failed on the list, row 777 (counted from 0): StopIteration\n"
    assert not list(tmp_path.glob("output/*.csv"))


FEW_FILES = """
import resource, sys, batcher
resource.setrlimit(resource.RLIMIT_NOFILE, (100, int(sys.argv[1])))
prompts = [f"item {n}" for n in range(300)]
print(batcher.run(prompts, keyword="k", provider="offline", max_concurrency=150, quiet=True).ok)
"""


def test_the_limit_of_open_files_is_raised_to_what_the_connections_need_or_said_to_be_too_low(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FEW_FILES, encoding="utf-8")
    refused = call("script.py", "300", cwd=tmp_path)
    assert "428 files and connections may be open at once, and the system allows 300" in refused.stderr
    assert call("script.py", "4000", cwd=tmp_path).stdout == "300\n"


FEW_FILES_WITH_WORKERS = """
import resource
from batcher.endpoint import Endpoint
from batcher.engine.process import allow_connections
from batcher.errors import SettingsError
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 900))
far = Endpoint("m", base_url="http://127.0.0.1:1", max_concurrency=5000)
here = Endpoint("sim", base_url="offline", max_concurrency=200)
allow_connections([far], are_distant=True)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
allow_connections([here], are_distant=True)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
try:
    allow_connections([far])
except SettingsError as error:
    print(error)
"""


def test_connections_of_workers_need_no_files_here_but_at_the_embedded_server(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FEW_FILES_WITH_WORKERS, encoding="utf-8")
    *limits, refused = call("script.py", cwd=tmp_path).stdout.splitlines()
    assert limits == ["128", "840"]  # 128 other files, 200 connections, and 512 that rest
    assert "5,128 files and connections may be open at once, and the system allows 900" in refused


def test_beside_the_embedded_server_a_real_endpoint_is_still_called_where_it_listens() -> None:
    with embedded(Knobs(model="real", keys=("sk-real",))) as server:
        real = batcher.Endpoint("real", base_url=server.base_url, api_key="sk-real", max_concurrency=4)
        pool = [batcher.Endpoint("sim", base_url="offline", max_concurrency=4), real]
        report = batcher.run([f"item {n}" for n in range(60)], keyword="mixed", endpoints=pool, quiet=True)
        assert report.ok == 60
        assert 0 < report.endpoints[1].requests_now == server.books.requests < 60


def test_the_collector_is_as_it_was_when_the_last_of_overlapping_runs_has_ended(tmp_path: Path) -> None:
    async def both() -> list[tuple[int, int, int]]:
        seen = []

        def prompt(row: dict[str, object]) -> str:
            seen.append(gc.get_threshold())
            return str(row["text"])

        runs = [
            batcher.arun([f"{n}" for n in range(rows)], prompt, keyword=f"k{rows}", output_dir=tmp_path,
                         provider="offline", quiet=True)
            for rows in (5, 300)
        ]  # fmt: skip
        await asyncio.gather(*runs)
        return seen

    before = gc.get_threshold(), gc.get_freeze_count()
    seen = asyncio.run(both())
    assert max(seen) > before[0]
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
