"""Embeddings of a table: many rows in a request, each vector at its own row, and nothing paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Lab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import call, local_server, started, write_table

import batcher
from batcher.answer.vectors import packed
from batcher.calls.batch_service import BatchService
from batcher.calls.batches import Filling, Size, is_of_one_row, is_too_large, lowered, size_at, smallest
from batcher.calls.embeddings import NOT_ONE_EACH
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, RunStopped, SettingsError
from batcher.journal.entries import divided
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Task, Terms, Usage
from batcher.server.vectors import vector_of

BAD = "bad"
EMBED: dict[str, Any] = {"task": "embedding", "inputs_per_request": 8}
SLOW = Endpoint("m", max_concurrency=1)


class Asked(NamedTuple):
    """A request as the service sees it arrive: its texts, and how often it has been asked for exactly these."""

    texts: tuple[str, ...]
    nth: int
    at: float


def refusal(said: str = "the input is invalid", status: int = 400) -> Failure:
    return Failure(Fault.STATUS, said, status, words=said)


def refuses_bad(asked: Asked) -> Completion | Failure | None:
    return refusal() if BAD in asked.texts else None


def numbers_of(text: str) -> list[float]:
    return vector_of(text, 3)


class Vectors:
    """A service that knows the vector of every text, and keeps its own books.

    Args:
        instead: what a request gets instead of its vectors, or None.
        latency: seconds that it takes.

    Attributes:
        asked: every request, in the order of arrival.
        embedded: how often each text got its vector.
    """

    def __init__(
        self, instead: Callable[[Asked], Completion | Failure | None] = lambda _asked: None, latency: float = 1.0
    ) -> None:
        self.asked: list[Asked] = []
        self.embedded: Counter[str] = Counter()
        self._instead = instead
        self._latency = latency

    def __call__(self) -> Vectors:
        return self

    def caller(self, _endpoint: Endpoint) -> Vectors:
        return self

    def batches(self, _endpoint: Endpoint) -> BatchService:
        raise AssertionError("nothing is asked by batch")

    async def close(self) -> None:
        pass

    async def call(
        self,
        messages: Sequence[Message],
        _timeout_s: float,
        _params: object = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        assert terms.task is Task.EMBEDDING
        texts = tuple(message["content"] for message in messages)
        nth = sum(each.texts == texts for each in self.asked) + 1
        asked = Asked(texts, nth, asyncio.get_running_loop().time())
        self.asked.append(asked)
        await asyncio.sleep(self._latency)
        if (other := self._instead(asked)) is not None:
            return other
        self.embedded.update(texts)
        vectors = tuple(packed(numbers_of(text)) or "" for text in texts)
        return Completion(vectors[0], usage=Usage(10 * len(texts) + 1, 0), vectors=vectors)

    def sizes(self) -> list[int]:
        return [len(each.texts) for each in self.asked]


def texts_of(count: int, *bad: int) -> list[str]:
    return [BAD if number in bad else f"text {number}" for number in range(count)]


def result(lab: Lab) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(lab.directory / "all_k.parquet").to_pydict()
    return columns


def checked(lab: Lab, texts: Sequence[str], *bad: int) -> None:
    """Check that each row has the vector of its own text, and that the run can be verified."""
    columns = result(lab)
    assert columns["infer"] == [None if row in bad else numbers_of(text) for row, text in enumerate(texts)]
    assert columns["infer_status"] == ["error" if row in bad else "ok" for row in range(len(texts))]
    found = batcher.verify("k", [*texts], output_dir=lab.directory)
    assert found.ok, str(found)


def test_rows_share_requests_and_each_vector_stands_at_its_own_row(lab: Lab) -> None:
    texts, service = texts_of(20), Vectors()
    report = lab.run(texts, service, **EMBED)
    assert sorted(service.sizes()) == [4, 8, 8]
    assert set(service.embedded.values()) == {1}
    assert (report.ok, report.requests, report.prompt_tokens) == (20, 3, 203)
    checked(lab, texts)
    schema = pq.read_schema(lab.directory / "all_k.parquet")
    assert schema.field("infer").type == pa.list_(pa.float32())
    [endpoint] = batcher.verify("k", texts, output_dir=lab.directory).endpoints
    assert (endpoint.sent, endpoint.answered, endpoint.failed) == (3, 3, 0)


def test_each_row_has_its_line_in_the_journal_and_their_shares_add_up_exactly(lab: Lab) -> None:
    service = Vectors()
    lab.run(["a", "bb" * 50, "c"], service, **EMBED, price_in=1.0, endpoints=None, model="m", base_url="http://x/v1")
    lines = lab.query("SELECT id, batch, outcome, prompt_tokens, completion_tokens, cost, answer_cost FROM requests")
    assert [line[:3] for line in lines] == [(1, 1, "answered"), (2, 1, "answered"), (3, 1, "answered")]
    assert (sum(line[3] for line in lines), sum(line[5] for line in lines)) == (31, 31_000)
    assert lines[1][3] > 10 * lines[0][3]
    assert {line[4] for line in lines} == {0}
    assert {line[6] for line in lines} == {None}
    assert lab.query("SELECT count(*), count(body) FROM responses") == [(3, 0)]


@given(st.one_of(st.none(), st.integers(0, 2**62)), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_what_is_divided_adds_up_to_what_it_was(total: int | None, weights: list[int]) -> None:
    parts = divided(total, weights)
    assert len(parts) == len(weights)
    assert {*parts} == {None} if total is None else sum(filter(None, parts)) == total
    assert all(part is None or part >= 0 for part in parts)


def test_a_resumed_run_asks_only_for_what_has_no_vector(lab: Lab) -> None:
    texts = texts_of(40)
    first = Vectors()
    with pytest.raises(Interrupted):
        lab.run(texts, first, endpoints=[SLOW], at={2.5: lab.request_stop}, grace=0, **EMBED)
    assert 0 < len(first.embedded) < 40
    second = Vectors()
    report = lab.run(texts, second, **EMBED)
    assert first.embedded + second.embedded == Counter(texts)
    assert report.requests == len(first.asked) + len(second.asked)
    checked(lab, texts)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_each_row_gets_its_own_vector_and_none_is_paid_for_twice(
    tmp_path: Path, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, 29), max_size=2))
    texts, chance = texts_of(30, *bad), data.draw(st.randoms(use_true_random=False))

    def mishap(asked: Asked) -> Failure | None:
        if BAD in asked.texts:
            return refusal()
        return chance.choice([None, None, None, refusal("slow down", 429), refusal("crash", 500)])

    service, lab = Vectors(mishap), Lab(Path(tempfile.mkdtemp(dir=tmp_path)) / "output")
    for _ in range(3):
        seconds = data.draw(st.floats(0.5, 20.0))
        with contextlib.suppress(Interrupted):
            lab.run(texts, service, at={seconds: lab.request_stop}, grace=0, max_attempts=50, **EMBED)
            break
    else:
        lab.run(texts, service, max_attempts=50, **EMBED)
    assert service.embedded == Counter(text for text in texts if text != BAD)
    checked(lab, texts, *bad)
    [endpoint] = batcher.verify("k", texts, output_dir=lab.directory).endpoints
    assert endpoint.sent == len(service.asked)


# -- A row at fault


def test_the_row_at_fault_is_found_by_halves_and_the_others_get_their_vectors(lab: Lab) -> None:
    texts, service = texts_of(64, 37), Vectors(refuses_bad)
    report = lab.run(texts, service, **{**EMBED, "inputs_per_request": 64})
    assert (report.ok, report.error) == (63, 1)
    refused = [each for each in service.asked if BAD in each.texts]
    assert sorted({len(each.texts) for each in refused}) == [1, 2, 4, 8, 16, 32, 64]
    assert len(refused) == 6 + 3  # alone it is refused three times, like any other row
    assert len(service.asked) == len(refused) + 6
    assert set(service.embedded.values()) == {1}
    checked(lab, texts, 37)
    assert "the input is invalid" in result(lab)["infer_error"][37]


def test_a_row_whose_vector_is_none_is_paid_and_invalid_and_no_other_row_is_asked_again(lab: Lab) -> None:
    def spoilt(asked: Asked) -> Completion | None:
        if BAD not in asked.texts or len(asked.texts) == 1:
            return None
        vectors = tuple("" if text == BAD else packed(numbers_of(text)) or "" for text in asked.texts)
        return Completion(None, usage=Usage(10 * len(vectors), 0), vectors=vectors)

    texts, service = texts_of(40, 7), Vectors(spoilt)
    report = lab.run(texts, service, **EMBED, with_="npy")
    assert (report.ok, report.invalid, sum(service.sizes())) == (39, 1, 40)
    columns = result(lab)
    assert columns["infer"] == [None if row == 7 else numbers_of(text) for row, text in enumerate(texts)]
    assert columns["infer_status"][7] == "invalid"
    assert columns["infer_error"][7] == "the vector is no list of finite numbers"
    assert batcher.verify("k", texts, output_dir=lab.directory).ok
    assert lab.run(texts, service, **EMBED, with_="npy").requests_now == 0
    assert lab.run(texts, service, **EMBED, with_="npy", retry_failed=True).ok == 40
    assert sum(service.sizes()) == 41


def test_an_endpoint_that_refuses_everything_is_left_after_a_few_rows(lab: Lab) -> None:
    service = Vectors(lambda _asked: refusal("dimensions is not known"))
    with pytest.raises(RunStopped, match="dimensions is not known"):
        lab.run(texts_of(500), service, **{**EMBED, "inputs_per_request": 64})
    assert len(service.asked) < 30


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_of_the_service_splits_nothing(lab: Lab, status: int) -> None:
    service = Vectors(lambda asked: refusal("later", status) if asked.nth == 1 and "text 9" in asked.texts else None)
    lab.run(texts_of(16), service, **EMBED)
    assert service.sizes() == [8, 8, 8]


def test_rows_that_fail_with_one_that_crashes_the_service_get_one_more_attempt_without_it(lab: Lab) -> None:
    texts, service = texts_of(16, 3), Vectors(lambda asked: refusal("crash", 500) if BAD in asked.texts else None)
    report = lab.run(texts, service, endpoints=[Endpoint("m", max_concurrency=2)], max_attempts=3, **EMBED)
    assert (report.ok, report.error) == (15, 1)
    checked(lab, texts, 3)


def test_a_row_that_crashes_a_service_takes_no_other_with_it_if_all_share_the_first_request(
    lab: Lab,
) -> None:
    texts, service = texts_of(8, 3), Vectors(lambda asked: refusal("crash", 500) if BAD in asked.texts else None)
    report = lab.run(texts, service, max_attempts=3, **EMBED)
    assert (report.ok, report.error) == (7, 1)
    assert set(service.embedded.values()) == {1}
    checked(lab, texts, 3)


def test_a_service_that_fails_at_every_row_is_left_after_a_few_requests(lab: Lab) -> None:
    service = Vectors(lambda _asked: refusal("crash", 500))
    with pytest.raises(RunStopped, match="crash"):
        lab.run(texts_of(8), service, max_attempts=3, **EMBED)
    assert len(service.asked) <= 8


def test_halves_of_a_response_that_cannot_be_used_count_as_one_failure(lab: Lab) -> None:
    def too_few(asked: Asked) -> Failure | None:
        failure = Failure(Fault.PROTOCOL, "too few came", code=NOT_ONE_EACH, may_be_billed=True)
        return failure if len(asked.texts) > 1 else None

    texts, service = texts_of(64), Vectors(too_few)
    lab.run(texts, service, **{**EMBED, "inputs_per_request": 64})
    checked(lab, texts)
    assert service.asked[-1].at - service.asked[0].at < 60


def test_vectors_that_cannot_be_used_are_never_given_to_a_row(lab: Lab) -> None:
    unusable = Failure(Fault.PROTOCOL, "the embeddings cannot be used", may_be_billed=True)
    texts = texts_of(16, 5)
    service = Vectors(lambda asked: unusable if BAD in asked.texts else None)
    report = lab.run(texts, service, max_attempts=2, **EMBED)
    assert (report.ok, report.error) == (15, 1)
    checked(lab, texts, 5)


def test_a_service_that_answers_the_first_of_several_inputs_is_asked_for_one_at_a_time(lab: Lab) -> None:
    def first_alone(asked: Asked) -> Failure | None:
        said = f"1 came for {len(asked.texts)} inputs"
        return Failure(Fault.PROTOCOL, said, code=NOT_ONE_EACH, may_be_billed=True) if asked.texts[1:] else None

    texts, service = texts_of(40), Vectors(first_alone)
    lab.run(texts, service, **EMBED)
    assert {2, 4, 8} == {size for size in service.sizes() if size > 1}
    assert sum(size > 1 for size in service.sizes()) <= 6  # a request that waited meanwhile may still leave
    checked(lab, texts)


def test_a_caller_that_brings_other_vectors_than_were_asked_for_is_refused(lab: Lab) -> None:
    def too_few(asked: Asked) -> Completion | None:
        return Completion("x", vectors=(packed([1.0]) or "",)) if len(asked.texts) > 1 else None

    texts = texts_of(8)
    lab.run(texts, Vectors(too_few), **EMBED)
    checked(lab, texts)


def test_an_empty_text_ends_without_a_request(lab: Lab) -> None:
    texts = ["a", "", "b"]
    service = Vectors()
    report = lab.run(texts, service, **EMBED)
    assert (report.ok, report.error, service.sizes()) == (2, 1, [2])
    assert result(lab)["infer"][1] is None
    assert "empty" in result(lab)["infer_error"][1]
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


# -- The size of a request


def test_a_size_that_the_service_refuses_is_lowered_and_remembered(lab: Lab) -> None:
    def takes_ten(asked: Asked) -> Failure | None:
        words = "batch size is invalid, it should not be larger than 10.: input.contents"
        return refusal(words) if len(asked.texts) > 10 else None

    texts, service = texts_of(200), Vectors(takes_ten)
    lab.run(texts, service, endpoints=[SLOW], **{**EMBED, "inputs_per_request": 64})
    refused = [size for size in service.sizes() if size > 10]
    assert refused == [64]
    assert set(service.embedded.values()) == {1}
    checked(lab, texts)


@pytest.mark.parametrize(
    ("said", "status", "size"),
    [
        ("<400> InternalError: batch size is invalid, it should not be larger than 10.: input.contents", 400, 10),
        ("input batch size 100 > maximum allowed batch size 32", 413, 32),
        ("'input' array too long. Expected an array with maximum length 48, but got an array of length 64", 400, 48),
        ("at most 20 requests can be in one batch", 400, 20),
        ("Requested 400000 tokens, max 300000 tokens per request", 400, 32),
        ("Payload too large", 413, 32),
        ("413: 48 is the most, not 64 (batch size)", 413, 48),
    ],
)
def test_what_a_service_says_of_its_limit_is_obeyed(said: str, status: int, size: int) -> None:
    failure = refusal(said.lower(), status)
    assert is_too_large(failure)
    assert is_of_one_row(failure)
    assert lowered(Size(64, 0), failure, 64) == Size(size, 0)


@pytest.mark.parametrize(
    ("base_url", "model", "size"),
    [
        ("https://api.openai.com/v1", "text-embedding-3-small", Size(256, 300_000)),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "text-embedding-v4", Size(10, 0)),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "text-embedding-v2", Size(25, 0)),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-embedding-001", Size(100, 0)),
        ("https://api.siliconflow.cn/v1", "BAAI/bge-m3", Size(32, 0)),
        ("http://127.0.0.1:9999/v1", "m", Size(64, 0)),
    ],
)
def test_the_limits_of_services_are_known(base_url: str, model: str, size: Size) -> None:
    assert size_at(Endpoint(model, base_url=base_url), None) == size
    assert size_at(Endpoint(model, base_url=base_url), 5).inputs == 5
    assert size_at(Endpoint(model, base_url=base_url, tpm=1000), None).tokens == 1000


def test_a_request_is_filled_by_rows_and_tokens_and_the_smallest_endpoint_counts() -> None:
    assert smallest([Size(64, 0), Size(10, 500), Size(32, 900)]) == Size(10, 500)
    filling = Filling(Size(3, 10))
    longer = [{"role": "user", "content": "x" * 90}]
    assert filling.takes(longer)  # the first one always fits
    assert not filling.takes(longer)
    filling = Filling(Size(2, 0))
    assert [filling.takes(longer) for _ in range(3)] == [True, True, False]


def test_a_plan_counts_requests_as_the_run_sends_them(lab: Lab) -> None:
    texts = [*texts_of(30), *(["long " * 20] * 5), "", "end"]
    options: dict[str, Any] = {
        **EMBED,
        "endpoints": [Endpoint("m", tpm=60)],
        "keyword": "k",
        "output_dir": lab.directory,
    }
    planned = batcher.plan(texts, **options)
    assert not lab.directory.exists()
    service = Vectors()
    lab.run(texts, service, **options)
    assert planned.requests == len(service.asked)
    assert planned.completion_tokens == 0


def test_duplicates_are_embedded_once(lab: Lab) -> None:
    texts = [f"text {number % 5}" for number in range(60)]
    service = Vectors()
    report = lab.run(texts, service, dedup=True, **EMBED)
    assert (service.sizes(), report.ok) == ([5], 60)
    checked(lab, texts)


def test_a_limit_of_requests_counts_a_shared_one_once(lab: Lab) -> None:
    service = Vectors(latency=0.1)
    lab.run(texts_of(80), service, endpoints=[Endpoint("m", rpm=5)], **EMBED)
    times = [each.at for each in service.asked]
    assert len(times) == 10
    assert all(later - earlier >= 59.9 for earlier, later in zip(times, times[5:], strict=False))


def test_a_budget_holds_and_what_is_left_of_the_run_goes_on_with_more_money(lab: Lab) -> None:
    texts = texts_of(64)
    priced: dict[str, Any] = {"endpoints": [Endpoint("m", prices={"in": 1.0, "out": 0.0}, max_concurrency=1)]}
    service = Vectors()
    with pytest.raises(RunStopped, match="budget"):
        lab.run(texts, service, budget=0.001, **priced, **EMBED)
    assert 0 < len(service.embedded) < 64
    report = lab.run(texts, service, budget=1.0, **priced, **EMBED)
    assert set(service.embedded.values()) == {1}
    assert report.cost_usd == pytest.approx(sum(10 * size + 1 for size in service.sizes()) / 1e6)
    checked(lab, texts)


def test_the_price_table_has_models_that_write_nothing(tmp_path: Path) -> None:
    planned = batcher.plan(
        ["one", "two"],
        task="embedding",
        keyword="p",
        output_dir=tmp_path,
        endpoints=[Endpoint("text-embedding-3-small", base_url="https://api.openai.com/v1", api_key="k")],
        budget=1.0,
    )
    assert planned.cost_usd is not None
    assert planned.most_usd is not None
    assert 0 < planned.cost_usd <= planned.most_usd < 0.001
    assert "for embeddings" not in planned.money


# -- What becomes of the vectors


def test_vectors_are_lists_in_a_frame_a_matrix_and_a_file_of_numpy(lab: Lab) -> None:
    df = pd.DataFrame({"text": texts_of(20, 3)}, index=range(100, 120))
    report = lab.run(df, Vectors(refuses_bad), prompt_column="text", with_="npy,tokens", chunk_size=6, **EMBED)
    wanted = [None if text == BAD else numbers_of(text) for text in df["text"]]
    assert [*report.answers] == wanted
    assert report.answers.index.equals(df.index)
    frame = report.frame()
    assert frame["infer"].tolist() == wanted
    matrix = report.matrix()
    assert matrix.shape == (20, 3)
    assert matrix.dtype == np.dtype(np.float32)
    assert np.isnan(matrix[3]).all()
    assert [row.tolist() for number, row in enumerate(matrix) if number != 3] == [each for each in wanted if each]
    stored = np.load(lab.directory / "all_k.npy")
    assert np.array_equal(stored, matrix, equal_nan=True)
    assert batcher.verify("k", df, output_dir=lab.directory).ok
    batcher.merge("k", lab.directory, with_="npy,cost")
    assert np.array_equal(np.load(lab.directory / "all_k.npy"), matrix, equal_nan=True)
    (lab.directory / "all_k.npy").write_bytes(b"x")
    assert [each.kind for each in batcher.verify("k", df, output_dir=lab.directory).findings] == ["npy-other"]
    batcher.merge("k", lab.directory)
    assert np.array_equal(np.load(lab.directory / "all_k.npy"), matrix, equal_nan=True)
    assert (lab.directory / "all_k.npy.bak").read_bytes() == b"x"


def test_an_unfinished_run_gives_the_vectors_that_are_there(lab: Lab) -> None:
    texts = texts_of(24)
    with pytest.raises(Interrupted) as stopped:
        lab.run(texts, Vectors(), endpoints=[SLOW], at={1.5: lab.request_stop}, grace=0, **EMBED)
    report = stopped.value.report
    assert report is not None
    matrix = report.matrix()
    assert matrix.shape == (24, 3)
    assert matrix[0].tolist() == numbers_of("text 0")
    assert np.isnan(matrix[-1]).all()
    assert report.frame()["infer"].tolist()[0] == numbers_of("text 0")
    with pytest.raises(SettingsError, match="npy is made of a whole result"):
        batcher.merge("k", lab.directory, partial=True, data=texts, with_="npy")
    path = batcher.merge("k", lab.directory, partial=True, data=texts)
    assert pq.read_table(path).to_pydict()["infer"][0] == numbers_of("text 0")


def test_a_file_of_numpy_is_not_left_behind_by_a_run_that_writes_none(lab: Lab) -> None:
    lab.run(texts_of(3), Vectors(), with_="npy", **EMBED)
    assert (lab.directory / "all_k.npy").exists()
    lab.run(texts_of(4), Vectors(), **EMBED)
    assert not list(lab.directory.glob("all_k.npy*"))


def test_vectors_of_different_lengths_make_no_matrix_and_that_is_said_once(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(asked: Asked) -> Completion | None:
        wide = packed([1.0] * 5) or ""
        return Completion(wide, vectors=(wide,) * len(asked.texts)) if "text 9" in asked.texts else None

    report = lab.run(texts_of(32), Vectors(other), **EMBED | {"quiet": False})
    with pytest.raises(batcher.BatcherError, match="different lengths"):
        report.matrix()
    assert capsys.readouterr().err.count("gives vectors of") == 1


def test_a_pool_of_different_models_is_told_before_anything_is_sent(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = [Endpoint("BAAI/bge-m3", base_url="http://a/v1"), Endpoint("bge-m3:latest", base_url="http://b/v1")]
    lab.run(texts_of(8), Vectors(), endpoints=alike, keyword="alike", **EMBED | {"quiet": False})
    assert "cannot be compared" not in capsys.readouterr().err
    others = [Endpoint("one", base_url="http://a/v1"), Endpoint("two", base_url="http://b/v1")]
    lab.run(texts_of(8), Vectors(), endpoints=others, **EMBED | {"quiet": False})
    assert "different models (one and two). Their vectors cannot be compared" in capsys.readouterr().err


def test_a_pool_that_asks_for_different_dimensions_is_refused(lab: Lab) -> None:
    sizes = [Endpoint(str(size), base_url=f"http://{size}/v1", params={"dimensions": size}) for size in (4, 8)]
    service = Vectors()
    with pytest.raises(SettingsError, match="4 and 8 dimensions"):
        lab.run(texts_of(8), service, endpoints=sizes, **EMBED)
    assert not service.asked


def test_a_matrix_needs_embeddings(lab: Lab) -> None:
    from fake_service import Service  # noqa: PLC0415

    with pytest.raises(SettingsError, match="task='embedding'"):
        lab.run(["a"], Service(["a"])).matrix()


def test_a_part_that_another_program_wrote_into_the_journal_is_found(lab: Lab) -> None:
    lab.run(texts_of(8), Vectors(), **EMBED)
    lab.change("UPDATE requests SET batch = 3 WHERE id = 2")
    assert [each.kind for each in batcher.verify("k", output_dir=lab.directory).findings] == ["batch-other"]


# -- Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"system": "be brief"}, "system is for chats"),
        ({"schema": {"type": "object"}}, "schema is for chats"),
        ({"labels": "a,b"}, "gives vectors"),
        ({"messages_column": "text", "prompt_column": None}, "messages_column is for chats"),
        ({"format": "csv"}, "cannot hold vectors"),
        ({"param": {"temperature": 0}}, "temperature is no parameter of"),
        ({"param": {"stream": True}}, "stream is no parameter of"),
        ({"param": {"encoding_format": "base64", "output_dtype": "int8"}}, "32-bit floats"),
        ({"endpoints": [Endpoint("m", params={"max_tokens": 5})]}, "max_tokens is no parameter of"),
        ({"repair": 2}, "repair is for chats"),
        ({"image_column": "text"}, "image_column is for chats"),
        ({"stream": True}, "stream is about answers in words"),
    ],
)
def test_what_makes_no_sense_for_embeddings_is_refused_before_anything_is_sent(
    lab: Lab, options: dict[str, Any], words: str
) -> None:
    service = Vectors()
    given: dict[str, Any] = {"prompt_column": "text", "task": "embedding", **options}
    with pytest.raises(SettingsError, match=words):
        lab.run(pd.DataFrame({"text": ["a"]}), service, **given)
    assert not service.asked
    assert not lab.directory.exists()


@pytest.mark.parametrize(
    ("options", "words"), [({"inputs_per_request": 5}, "needs task="), ({"with_": "npy"}, "npy holds vectors")]
)
def test_what_is_for_embeddings_is_refused_for_a_chat(lab: Lab, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        lab.run(["a"], Vectors(), **options)


def test_another_task_is_another_question(lab: Lab) -> None:
    from fake_service import Service  # noqa: PLC0415

    lab.run(["a"], Service(["a"]))
    with pytest.raises(
        batcher.BatcherError, match=r"(?s)the task was chat, is embedding.*cannot keep answers to another"
    ):
        lab.run(["a"], Vectors(), **EMBED)
    with pytest.raises(SettingsError, match="reuse"):
        lab.run(["a"], Vectors(), on_change="reuse", **EMBED)
    lab.run(["a"], Vectors(), on_change="redo", **EMBED)
    checked(lab, ["a"])
    assert not (lab.directory / "all_k.csv").exists()


# -- Real processes


def test_a_killed_run_pays_for_no_vector_twice(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(300)]
    table = tmp_path / "texts.csv"
    write_table(table, ["text"], [[text] for text in texts])
    options: list[str | Path] = [
        "--task",
        "embedding",
        "--prompt-column",
        "text",
        "--inputs-per-request",
        "10",
        "--with",
        "npy",
    ]
    options += ["--max-concurrency", "2", "--chunk-size", "50", "--no-progress"]
    with local_server("--latency", "0.02", cwd=tmp_path) as server:
        asked: list[str | Path] = [*options, "--base-url", server.base_url, "--model", "sim", "-o", tmp_path / "out"]
        with started("run", table, *asked, cwd=tmp_path) as program:
            while server.books()["embedded"] < 100:
                assert program.poll() is None
            program.send_signal(signal.SIGKILL)
            program.wait()
        done = call("run", table, *asked, cwd=tmp_path)
        books = server.books()
        verified = call("verify", "texts", table, "-o", tmp_path / "out", "--json", cwd=tmp_path)
    assert (done.status, verified.status) == (0, 0), done.stderr
    [endpoint] = json.loads(verified.stdout)["endpoints"]
    assert books["requests"] <= endpoint["sent"] <= books["requests"] + endpoint["in_flight"]
    assert {*books["embedded_by_text"]} == {*texts}
    twice = sum(count - 1 for count in books["embedded_by_text"].values())
    assert twice <= 10 * endpoint["in_flight"] <= 20  # only what was in flight when it was killed
    matrix = np.load(tmp_path / "out" / "all_texts.npy")
    assert [row.tolist() for row in matrix] == [vector_of(text) for text in texts]


def test_the_embedded_server_gives_vectors(tmp_path: Path) -> None:
    texts = ["one", "two", "three"]
    report = batcher.run(
        texts,
        task="embedding",
        provider="offline",
        keyword="e",
        output_dir=tmp_path,
        param={"dimensions": 16, "encoding_format": "base64"},
        quiet=True,
    )
    assert [row.tolist() for row in report.matrix()] == [vector_of(text, 16) for text in texts]
    assert math.isclose(float(np.linalg.norm(report.matrix()[0])), 1.0, rel_tol=1e-5)


def test_a_rehearsal_of_embeddings_holds(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    write_table(table, ["text"], [[f"text {number}"] for number in range(60)])
    done = call(
        *("rehearse", table, "--task", "embedding", "--prompt-column", "text", "--provider", "offline"),
        *("--inputs-per-request", "4", "-o", tmp_path / "out", "--json"),
        cwd=tmp_path,
    )
    assert done.status == 0, done.stderr
