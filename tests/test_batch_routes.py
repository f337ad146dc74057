"""Files and batches at the local server, as OpenAI's own client sees them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from programs import started
from server_client import request

from batcher.cli import main
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, Slip, State
from batcher.server.confusion_file import confusion_of
from batcher.server.faults import Fate, FaultRule, Reply
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

CHAT = "/v1/chat/completions"
PROMPTS = [f"What is {number} x 7?" for number in range(10)]
OVER = {"completed", "failed", "expired", "cancelled"}


@contextlib.contextmanager
def serving(
    *rules: BatchRule, path: str = "/v1", knobs: dict[str, Any] | None = None, **of_batches: Any
) -> Iterator[tuple[openai.OpenAI, Server]]:
    """Serve batches that meet faults, to a client that tries once."""
    batches = BatchKnobs(rules=rules, **of_batches)
    with embedded(Knobs(batches=batches, **(knobs or {}))) as server:
        base_url = server.base_url.removesuffix("/v1") + path
        with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0, timeout=20) as client:
            yield client, server


def line(custom_id: str, said: str, url: str = CHAT, **body: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": said}]} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def lines(prompts: Sequence[str] = PROMPTS, **body: Any) -> bytes:
    return b"".join(line(f"row-{number}", prompt, **body) for number, prompt in enumerate(prompts))


def upload(client: openai.OpenAI, content: bytes, name: str = "batch_k.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="batch").id


def create(client: openai.OpenAI, content: bytes | None = None, url: Any = CHAT, **more: Any) -> Any:
    file = upload(client, lines() if content is None else content)
    return client.batches.create(input_file_id=file, endpoint=url, completion_window="24h", **more)


def at_its_end(client: openai.OpenAI, batch: Any) -> Any:
    """Ask for a batch until it is over; only the test's timeout ends the wait."""
    while batch.status not in OVER:
        batch = client.batches.retrieve(batch.id)
    return batch


def results(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [json.loads(raw) for raw in client.files.content(file).content.splitlines()]


def ran(client: openai.OpenAI, content: bytes | None = None, **more: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return a batch at its end, and the lines of its output and error file."""
    batch = at_its_end(client, create(client, content, **more))
    return batch, results(client, batch.output_file_id), results(client, batch.error_file_id)


def ids(found: Sequence[dict[str, Any]]) -> list[str]:
    return [each["custom_id"] for each in found]


def text(result: dict[str, Any]) -> str:
    return str(result["response"]["body"]["choices"][0]["message"]["content"])


# --- a batch ---


def test_a_batch_gives_the_answers_of_the_same_requests_in_another_order() -> None:
    with serving() as (client, server):
        batch, output, errors = ran(client, metadata={"batcher_batch": "0123"})
        assert not errors
        assert batch.error_file_id is None
        assert ids(output) != [f"row-{number}" for number in range(10)]
        assert {each["custom_id"]: text(each) for each in output} == {
            f"row-{number}": str(number * 7) for number in range(10)
        }
        assert all(each["error"] is None and each["response"]["status_code"] == 200 for each in output)
        asked = client.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPTS[3]}])
        assert asked.choices[0].message.content == "21"
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (10, 10, 0)
        assert batch.metadata == {"batcher_batch": "0123"}
        assert batch.usage.total_tokens == sum(each["response"]["body"]["usage"]["total_tokens"] for each in output)
        # Online and in a batch are counted apart.
        assert server.books.batches.billed_by_prompt == Counter(PROMPTS)
        assert server.books.answered_by_prompt == {PROMPTS[3]: 1}


def test_its_times_are_in_order_and_those_of_other_ends_are_empty() -> None:
    with serving(latency=7200, speed=36_000) as (client, _):
        made = create(client)
        assert (made.status, made.in_progress_at, made.output_file_id) == ("validating", None, None)
        end = at_its_end(client, made)
        assert made.created_at <= end.in_progress_at <= end.finalizing_at <= end.completed_at
        assert end.completed_at - end.created_at == pytest.approx(7200, abs=1)
        assert end.expires_at - end.created_at == 86_400
        assert end.cancelled_at is end.expired_at is end.failed_at is end.cancelling_at is None


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "What is 3 x 4?", "messages": None}),
        ("/v1/embeddings", {"input": ["one", "two"], "messages": None}),
    ],
)
def test_completions_and_embeddings_are_answered_too(url: str, body: Any) -> None:
    with serving() as (client, _):
        _, output, _ = ran(client, line("a", "", url, **body), url=url)
        found = output[0]["response"]["body"]
        assert found.get("choices", [{"text": "12"}])[0]["text"] == "12"
        assert len(found.get("data", [1, 2])) == 2 or found["object"] == "text_completion"


def test_forms_logprobs_and_wrong_labels_are_those_of_requests() -> None:
    stated = confusion_of({"truth": {"It broke.": "bad", "It is fine.": "good"}, "accuracy": 1.0}, "test")
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    with serving(knobs={"confusion": stated, "forms": "deepseek"}) as (client, _):
        content = line("a", "It broke.", logprobs=True) + line("b", "It is fine.", response_format=form)
        _, output, errors = ran(client, content)
        assert [text(each) for each in output] == ["bad"]
        assert output[0]["response"]["body"]["choices"][0]["logprobs"]["content"]
        assert [each["response"]["status_code"] for each in errors] == [400]  # DeepSeek refuses schemas


def test_a_line_that_is_wrong_as_a_request_is_in_the_error_file_alone() -> None:
    with serving() as (client, _):
        batch, output, errors = ran(client, lines() + line("bad", "x", temperature=9) + line("s", "x", stream=True))
        assert len(output) == 10
        assert {each["custom_id"]: each["response"]["status_code"] for each in errors} == {"bad": 400, "s": 400}
        assert errors[0]["error"] is None
        assert (batch.status, batch.request_counts.failed) == ("completed", 2)


def test_a_batch_of_which_no_line_was_answered_has_no_output_file() -> None:
    with serving(knobs={"error_rate": 1.0}) as (client, server):
        batch, output, errors = ran(client)
        assert (batch.status, batch.output_file_id, output) == ("completed", None, [])
        assert [each["response"]["status_code"] for each in errors] == [500] * 10
        assert server.books.batches.billed == 0


def test_lines_meet_the_faults_of_requests() -> None:
    rules = (
        FaultRule(
            Fate.ERROR, Reply(429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), match="3 x"
        ),
        FaultRule(Fate.ERROR, Reply(502, "<html>bad gateway</html>"), match="4 x"),
        FaultRule(Fate.DROP, match="5 x"),
        FaultRule(Fate.LENGTH, match="6 x"),
        FaultRule(Fate.ERROR, Reply(429), rpm=1),  # a limit a minute, which batches do not have
    )
    with serving(knobs={"faults": rules}) as (client, server):
        _, output, errors = ran(client)
        found = {each["custom_id"]: each["response"]["status_code"] for each in errors}
        assert found == {"row-3": 429, "row-4": 502, "row-5": 500}
        assert next(each["response"]["body"] for each in errors if each["custom_id"] == "row-3")["error"]["code"]
        cut = next(each for each in output if each["custom_id"] == "row-6")
        assert cut["response"]["body"]["choices"][0]["finish_reason"] == "length"
        assert server.books.faults_by_prompt == Counter(PROMPTS[3:7])


def test_the_model_for_tests_of_dashscope_answers_every_line_alike() -> None:
    with serving(path="/compatible-mode/v1") as (client, _):
        url = "/v1/chat/ds-test"
        content = b"".join(line(str(number), "x", url, model="batch-test-model") for number in range(3))
        _, output, _ = ran(client, content, url=url)
        assert {text(each) for each in output} == {"This is a test result."}
        batch, _, _ = ran(client, line("a", "x", url), url=url)
        assert batch.errors.data[0].code == "model_mismatch"
        content = b"".join(line(str(number), "x", url, model="batch-test-model") for number in range(101))
        assert ran(client, content, url=url)[0].status == "failed"


@pytest.mark.parametrize(
    ("path", "url"),
    [("/openai/v1", CHAT), ("/compatible-mode/v1", CHAT), ("/api/paas/v4", "/v4/chat/completions"), ("/openai", CHAT)],
)
def test_the_routes_are_below_the_prefix_of_each_service(path: str, url: str) -> None:
    with serving(path=path) as (client, _):
        batch, output, _ = ran(client, line("a", PROMPTS[2], url), url=url)
        assert (batch.status, text(output[0])) == ("completed", "14")
        assert [each.id for each in client.batches.list()] == [batch.id]
        assert client.files.delete(batch.input_file_id).deleted


# --- files ---


def test_a_file_comes_back_byte_for_byte() -> None:
    content = b"".join(b"\r\n--boundary\r\n-" + bytes([number % 256]) * 999 + b"\r" for number in range(3000))
    with serving() as (client, _):
        file = client.files.create(file=('na"me.jsonl', content), purpose="batch")
        assert (file.bytes, file.filename, file.purpose) == (len(content), 'na"me.jsonl', "batch")
        assert client.files.content(file.id).content == content


def test_files_are_listed_shown_and_removed() -> None:
    with serving() as (client, server):
        first, second = upload(client, b"1\n", "a.jsonl"), upload(client, b"22\n", "b.jsonl")
        other = client.files.create(file=("c.txt", b"3"), purpose="assistants").id
        assert [each.id for each in client.files.list()] == [other, second, first]
        assert [each.id for each in client.files.list(purpose="batch", order="asc")] == [first, second]
        page = client.files.list(limit=1, after=other)
        assert [each.id for each in page.data] == [second]
        assert page.has_more
        assert client.files.retrieve(second).bytes == 3
        assert client.files.delete(first).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(first)
        with pytest.raises(openai.NotFoundError):
            client.files.delete(first)
        assert server.books.batches.uploads == 3


@pytest.mark.parametrize(
    ("name", "purpose"), [("a.csv", "batch"), ("a.jsonl", "batsh"), ("a.jsonl", "")], ids=["name", "purpose", "none"]
)
def test_an_upload_without_a_right_name_or_purpose_is_refused(name: str, purpose: Any) -> None:
    with serving() as (client, server):
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=(name, b"{}\n"), purpose=purpose)
        assert server.books.batches.uploads == 0


def test_a_file_that_is_too_large_is_refused() -> None:
    with serving(file_bytes=1000) as (client, _):
        upload(client, b"x" * 1000)
        with pytest.raises(openai.APIStatusError, match="may have 1,000") as refused:
            upload(client, b"x" * 1_000_000)
        assert refused.value.status_code == 413


def test_what_is_no_form_is_refused() -> None:
    with serving() as (_, server):
        for body in (b"", b"{}", b"--x\r\n"):
            assert request(server.base_url, "POST", "/v1/files", body).status == 400


# --- batches that are refused ---


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (line("a", "x") + line("a", "y"), "duplicate_custom_id", 2),
        (line("a", "x") + b"{oops\n", "invalid_json_line", 2),
        (line("a", "x") + b"[]\n", "invalid_json_line", 2),
        (line("a", "x", "/v1/embeddings"), "url_mismatch", 1),
        (line("a", "x") + line("b", "x", model="n"), "model_mismatch", 2),
        (b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}\n', "missing_required_parameter", 1),
        (b"", "empty_file", None),
        (lines([str(number) for number in range(21)]), "too_many_tasks", None),
    ],
)
def test_a_file_with_a_fault_fails_as_a_whole(content: bytes, code: str, number: int | None) -> None:
    with serving(file_requests=20) as (client, server):
        made = create(client, content)
        assert made.status == "validating"
        batch = at_its_end(client, made)
        assert batch.status == "failed"
        assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, number)
        assert batch.failed_at >= batch.created_at
        assert batch.output_file_id is batch.error_file_id is None
        assert (server.books.batches.made, server.books.batches.lines) == (1, 0)


def test_another_model_than_the_one_that_is_served_fails_the_batch() -> None:
    with serving(knobs={"model": "served"}) as (client, _):
        assert ran(client)[0].errors.data[0].code == "model_not_found"
        assert ran(client, lines(model="served"))[0].status == "completed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_file_id": "file-none"},
        {"endpoint": "/v1/other"},
        {"completion_window": "1 day"},
        {"metadata": {str(number): "x" for number in range(17)}},
        {"metadata": {"name": "x" * 513}},
        {"metadata": {"name": 1}},
    ],
)
def test_a_wrong_request_makes_no_batch(wrong: Any) -> None:
    with serving() as (client, server):
        right = {"input_file_id": upload(client, lines()), "endpoint": CHAT, "completion_window": "24h"}
        with pytest.raises(openai.BadRequestError):
            client.batches.create(**(right | wrong))
        assert server.books.batches.made == 0


def test_a_full_queue_fails_the_batch_until_there_is_room() -> None:
    with serving(BatchRule(takes=1e9, last=1), queue_requests=15) as (client, _):
        first = create(client)
        full = at_its_end(client, create(client))
        assert full.errors.data[0].code == "request_limit_exceeded"
        client.batches.cancel(first.id)
        assert at_its_end(client, create(client)).status == "completed"


def test_a_full_queue_counts_prompt_tokens() -> None:
    with serving(BatchRule(takes=1e9, last=1), queue_tokens=150) as (client, _):
        create(client)
        full = at_its_end(client, create(client))
        assert full.errors.data[0].code == "token_limit_exceeded"
        assert "Limit: 150 enqueued tokens" in full.errors.data[0].message


def test_a_key_that_is_not_accepted_is_refused() -> None:
    with serving(knobs={"keys": ("other",)}) as (client, _):
        for ask in (client.batches.list, client.files.list, lambda: upload(client, lines())):
            with pytest.raises(openai.AuthenticationError):
                ask()


def test_batches_are_listed_page_by_page_the_newest_first() -> None:
    with serving() as (client, _):
        made = [create(client, line("a", "x"), metadata={"number": str(number)}).id for number in range(5)]
        assert [each.id for each in client.batches.list(limit=2)] == made[::-1]
        page = client.batches.list(limit=2, after=made[3])
        assert [each.metadata for each in page.data] == [{"number": "2"}, {"number": "1"}]
        assert page.has_more
        with pytest.raises(openai.BadRequestError):
            client.batches.list(limit=101)
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_none")


# --- ends ---


def test_a_batch_that_takes_longer_than_its_window_expires_with_what_was_answered() -> None:
    with serving(latency=2 * 86_400, speed=1_000_000) as (client, server):
        batch, output, errors = ran(client)
        assert batch.status == "expired"
        assert batch.expired_at == batch.expires_at
        assert 3 <= len(output) <= 6
        assert sorted(ids([*output, *errors])) == sorted(f"row-{number}" for number in range(10))
        assert {(each["response"], each["error"]["code"]) for each in errors} == {(None, "batch_expired")}
        assert server.books.batches.billed == server.books.batches.answered == len(output)


@pytest.mark.parametrize("end", [State.EXPIRED, State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("listed", [None, True, False])
def test_each_end_can_have_answered_a_part(end: State, *, listed: bool | None) -> None:
    rule = BatchRule(end=end, answered=0.7, is_listed=listed, code="server_error", message="oh")
    with serving(rule) as (client, server):
        batch, output, errors = ran(client)
        assert batch.status == end
        assert len(output) == server.books.batches.billed == 7
        is_listed = end is State.EXPIRED if listed is None else listed
        assert len(errors) == (3 if is_listed else 0)
        assert (batch.errors is not None) == (end is State.FAILED)
        assert server.books.batches.by_end == {str(end): 1}


def test_a_cancelled_batch_keeps_what_was_answered_and_takes_its_time() -> None:
    with serving(latency=86_400, cancelling=600, speed=100_000) as (client, _):
        batch = create(client)
        while batch.request_counts.completed < 3:
            batch = client.batches.retrieve(batch.id)
        said = client.batches.cancel(batch.id)
        assert said.status == "cancelling"
        end = at_its_end(client, said)
        assert end.status == "cancelled"
        assert end.cancelled_at - end.cancelling_at == pytest.approx(600, abs=1)
        assert 3 <= len(results(client, end.output_file_id)) < 10
        assert end.error_file_id is None
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


# --- faults ---


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("does", [Fate.DROP, Fate.CUT])
def test_a_create_without_an_answer_may_have_made_the_batch(does: Fate, *, done: bool) -> None:
    with serving(BatchRule(at=Place.CREATE, does=does, is_done=done, times=1)) as (client, server):
        with pytest.raises(openai.APIConnectionError):
            create(client, metadata={"name": "n"})
        assert [each.metadata for each in client.batches.list()] == [{"name": "n"}] * done
        assert server.books.batches.made == done
        assert create(client).status == "validating"


@pytest.mark.parametrize("done", [True, False])
def test_an_upload_without_an_answer_may_have_kept_the_file(*, done: bool) -> None:
    with serving(BatchRule(at=Place.UPLOAD, does=Fate.DROP, is_done=done, times=1)) as (client, _):
        with pytest.raises(openai.APIConnectionError):
            upload(client, lines())
        assert [each.filename for each in client.files.list()] == ["batch_k.jsonl"] * done


@pytest.mark.parametrize("place", list(Place))
def test_each_request_can_hang_and_then_be_answered(place: Place) -> None:
    rule = BatchRule(at=place, does=Fate.HANG, times=1)
    with serving(rule) as (client, _):
        asks = {
            Place.UPLOAD: lambda each: each.files.create(file=("a.jsonl", lines()), purpose="batch"),
            Place.FILES: lambda each: each.files.list(),
            Place.LIST: lambda each: each.batches.list(),
        }
        if place not in asks:
            batch: Any = create(client) if place is not Place.CREATE else None
            file = upload(client, lines())
            asks |= {
                Place.FILE: lambda each: each.files.retrieve(file),
                Place.CONTENT: lambda each: each.files.content(file),
                Place.DELETE: lambda each: each.files.delete(file),
                Place.CREATE: lambda each: each.batches.create(
                    input_file_id=file, endpoint=CHAT, completion_window="24h"
                ),
                Place.LOOK: lambda each: each.batches.retrieve(batch.id),
                Place.CANCEL: lambda each: each.batches.cancel(batch.id),
            }
        with pytest.raises(openai.APITimeoutError):
            asks[place](client.with_options(timeout=0.05))
        try:
            assert asks[place](client)
        except openai.ConflictError:
            assert place is Place.CANCEL  # it is over


def test_a_request_can_be_refused_for_a_while() -> None:
    reply = Reply(429, {"error": {"message": "wait", "code": "rate_limit_exceeded"}}, {"retry-after": "7"})
    with serving(BatchRule(at=Place.LOOK, does=Fate.ERROR, reply=reply, first=2, last=2)) as (client, _):
        batch = create(client)
        client.batches.retrieve(batch.id)
        with pytest.raises(openai.RateLimitError) as refused:
            client.batches.retrieve(batch.id)
        assert refused.value.response.headers["retry-after"] == "7"
        assert client.batches.retrieve(batch.id).status == "completed"


@pytest.mark.parametrize("does", [Fate.CUT, Fate.STALL])
def test_a_download_can_break_off_in_the_middle(does: Fate) -> None:
    with serving(BatchRule(at=Place.CONTENT, does=does, times=1)) as (client, _):
        batch = at_its_end(client, create(client))
        with pytest.raises(openai.APIConnectionError):
            client.with_options(timeout=0.3).files.content(batch.output_file_id)
        assert len(results(client, batch.output_file_id)) == 10


def test_results_can_lose_double_and_break_lines_and_hold_others() -> None:
    rules = (
        BatchRule(lines=Slip.DROP, match="What is 1 "),
        BatchRule(lines=Slip.DOUBLE, match="What is 2 "),
        BatchRule(lines=Slip.FOREIGN, match="What is 3 "),
        BatchRule(lines=Slip.BROKEN, match="What is 4 "),
    )
    with serving(*rules) as (client, server):
        batch = at_its_end(client, create(client))
        found, broken = Counter[str](), 0
        for raw in client.files.content(batch.output_file_id).content.splitlines():
            try:
                found[json.loads(raw)["custom_id"]] += 1
            except ValueError:
                broken += 1
        names = Counter({f"row-{number}": 1 for number in range(10) if number not in (1, 4)})
        assert found == names + Counter({"row-2": 1, "stranger-4": 1})
        assert broken == 1
        assert server.books.batches.billed == 8
        assert server.books.batches.lost_by_prompt == {PROMPTS[1]: 1, PROMPTS[4]: 1}
        assert batch.request_counts.completed == 10


def test_a_share_of_the_lines_and_a_number_of_them_can_be_chosen() -> None:
    prompts = [f"row {number}" for number in range(200)]
    with serving(BatchRule(lines=Slip.DROP, share=0.2)) as (client, _):
        assert 140 < len(ran(client, lines(prompts))[1]) < 180
    with serving(BatchRule(lines=Slip.DROP, times=3)) as (client, _):
        assert len(ran(client, lines(prompts))[1]) == 197


def test_a_new_batch_can_be_listed_late_but_is_there() -> None:
    with serving(BatchRule(at=Place.LIST, late=3600), speed=36_000) as (client, _):
        batch = create(client)
        assert client.batches.list().data == []
        assert client.batches.retrieve(batch.id).id == batch.id
        while not client.batches.list().data:
            pass


def test_results_can_show_late() -> None:
    with serving(BatchRule(at=Place.CONTENT, late=3600), speed=36_000) as (client, _):
        batch = at_its_end(client, create(client))
        assert batch.output_file_id is None
        while client.batches.retrieve(batch.id).output_file_id is None:
            pass


def test_a_fault_of_a_batch_can_be_for_one_with_a_certain_prompt() -> None:
    with serving(BatchRule(end=State.FAILED, match="What is 9 ", code="x", message="y")) as (client, _):
        assert ran(client, lines(PROMPTS[:5]))[0].status == "completed"
        assert ran(client)[0].status == "failed"


# --- books ---


def test_the_books_are_shown_and_begin_anew() -> None:
    with serving(BatchRule(lines=Slip.DROP, times=1)) as (client, server):
        ran(client)
        stats = request(server.base_url, "GET", "/stats").json["batches"]
        assert (stats["made"], stats["lines"], stats["answered"], stats["billed"], stats["lost"]) == (1, 10, 10, 9, 1)
        assert stats["by_call"]["create"] == 1
        assert stats["by_end"] == {"completed": 1}
        assert stats["by_fault"] == {"1 lines: drop": 1}
        assert request(server.base_url, "POST", "/stats/reset").status == 200
        assert request(server.base_url, "GET", "/stats").json["batches"]["made"] == 0
        assert ran(client)[0].status == "completed"


def test_other_requests_are_answered_while_a_large_batch_is() -> None:
    with serving() as (client, server):
        batch = create(client, lines([f"row {number}" for number in range(3000)]))
        assert client.batches.retrieve(batch.id).status == "in_progress"
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert at_its_end(client, batch).request_counts.completed == 3000
        assert server.books.batches.billed == 3000


# --- the program ---


def test_the_program_takes_times_faults_and_limits_and_says_at_its_end_what_it_met(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('[[fault]]\nname = "early"\nend = "expired"\nanswered = 0.5\nbatches = 1\n')
    knobs = (
        "--batch-latency",
        "2h",
        "--batch-speed",
        "36000",
        "--batch-faults",
        "f.toml",
        "--batch-file-requests",
        "10",
    )
    with started("serve", *knobs, "--port", "0", cwd=tmp_path) as program:
        assert program.stdout
        with openai.OpenAI(base_url=program.stdout.readline().strip(), api_key="k", max_retries=0) as client:
            batch, output, _ = ran(client)
            assert (batch.status, len(output)) == ("expired", 5)
            assert ran(client, lines([*PROMPTS, "more"]))[0].errors.data[0].code == "too_many_tasks"
        program.terminate()
        said = program.communicate()[1]
    assert "fault of batches 1: early, batches 1 to 1" in said
    assert "2 batches of 10 lines, 5 answered." in said
    assert "fault of batches 1 early: 1 time" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-latency", "soon"], "argument --batch-latency: must be a time such as 90s, 5m or 2h, not 'soon'"),
        (["--batch-window", "0"], "--batch-window must be above 0"),
        (["--batch-speed", "-1"], "--batch-speed must be above 0"),
        (["--batch-idle", "1"], "--batch-idle must be a share from 0 to below 1"),
        (["--batch-file-bytes", "0"], "--batch-file-bytes must be a whole number, 1 or more"),
        (["--batch-queue-tokens", "-1"], "--batch-queue-tokens must be a whole number, 0 or more"),
        (["--batch-faults", "none.toml"], "--batch-faults none.toml: No such file or directory"),
        (["--backend", "hf", "--batch-in-order"], "--batch-in-order is for the simulated model"),
    ],
)
def test_a_wrong_option_is_named_before_it_listens(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["serve", *options])
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in err
