"""What a refused batch means: a wait, a smaller file, or the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batcher.calls.batch_refusals import queue_limit_in, refused_as_full, refused_as_too_large, refused_for_good
from batcher.calls.batch_service import BatchError, Remote, RemoteState
from batcher.calls.error_bodies import failure_in
from batcher.records import Failure, Fault


def failed(code: str, message: str = "", state: RemoteState = RemoteState.FAILED) -> Remote:
    return Remote("b", state, errors=(BatchError(code, message),))


def refused(status: int, error: Any = None, headers: dict[str, str] | None = None) -> Failure:
    return failure_in(status, headers or {}, json.dumps({"error": error}) if isinstance(error, dict) else error or "")


def meant(said: Remote | Failure) -> str:
    found = {
        "full": refused_as_full(said),
        "large": refused_as_too_large(said),
        "good": bool(refused_for_good(said)),
    }
    assert sum(found.values()) <= 1
    return next((name for name, holds in found.items() if holds), "")


OPENAI_FULL = (
    "Enqueued token limit reached for gpt-4o-mini in organization org-abc. Limit: 2,000,000 enqueued tokens. Please try"
    " again once some in_progress batches have been completed."
)
AZURE_FULL = (
    "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'gpt-4.1-batch'. Please"
    " either increase the limit or try again once the current jobs have finished."
)


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (OPENAI_FULL, (2_000_000, True)),
        (AZURE_FULL, (30_000, True)),
        ("Enqueued request limit reached for m. Limit: 15 enqueued requests.", (15, False)),
        ("The batch queue is full", None),
        ("Too many batches: the limit is 3", None),
        ("Rate limit: , tokens", None),
    ],
)
def test_the_limit_of_a_queue_is_read(said: str, limit: tuple[int, bool] | None) -> None:
    assert queue_limit_in(said) == limit


@pytest.mark.parametrize(
    "said",
    [
        failed("token_limit_exceeded", OPENAI_FULL),
        failed("token_limit_exceeded", AZURE_FULL),
        failed("", OPENAI_FULL),
        refused(429, {"message": "Batch rate limit exceeded for key", "code": "429"}),
        refused(429, {"message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED"}),
        refused(429, "<html>Too Many Requests</html>"),
        refused(400, {"message": "Too many concurrent batches: at most 2 running batch tasks", "code": "x"}),
        refused(400, {"message": "模型排队任务数已达上限", "code": "1302"}),
        refused(403, {"message": "batch queue is full", "code": "queue_full"}),
    ],
)
def test_a_queue_that_is_full_is_a_wait(said: Remote | Failure) -> None:
    assert meant(said) == "full"


@pytest.mark.parametrize(
    "said",
    [
        refused(413, "<html>413 Request Entity Too Large</html>"),
        refused(413, {"message": "Payload too large"}),
        refused(400, {"message": "File size 210 MB exceeds the maximum of 200 MB", "code": "invalid_request_error"}),
        refused(400, {"message": "The batch input file has too many requests in it: at most 50,000 requests"}),
        failed("too_many_tasks", "The number of requests in the input file exceeds the maximum of 100000"),
        failed("invalid_request", "This file is too large: more than 50,000 lines"),
        failed("", "文件过大"),
    ],
)
def test_a_file_that_is_too_large_is_halved(said: Remote | Failure) -> None:
    assert meant(said) == "large"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            refused(401, {"message": "Incorrect API key", "code": "invalid_api_key"}),
            "the API key was refused: HTTP 401",
        ),
        (refused(403, {"message": "no access"}), "access was refused: HTTP 403"),
        (refused(402, {"message": "pay"}), "no quota is left"),
        (
            refused(429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
            "no quota is left",
        ),
        (refused(404, "<html>404</html>"), "the service has no batch API at this address"),
        (refused(405, {"detail": "Method Not Allowed"}), "the service has no batch API at this address"),
        (refused(501, {"detail": "no"}), "the service has no batch API at this address"),
        (refused(400, {"message": "x", "code": "model_not_found"}), "the model is unknown there, or takes no batches"),
        (failed("model_not_found", "The provided model 'gpt-9' is not supported by the Batch API."), "the model is"),
        (failed("model_mismatch", "two"), "lines of the batch name different models: two"),
        (failed("mismatched_model", "two"), "lines of the batch name different models: two"),
        (failed("url_mismatch", "no"), "its lines ask another path than the batch: no"),
        (failed("invalid_json_line", "This line is not parseable as valid JSON."), "a line of its file cannot be read"),
        (failed("billing_hard_limit_reached", "Billing hard limit has been reached"), "the account is at a limit"),
        (
            refused(400, {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}),
            "the ",
        ),
        (refused(307, ""), "the base URL leads elsewhere"),
        (Failure(Fault.UNREACHABLE, "the certificate of h is signed by nobody"), "the certificate of h"),
    ],
)
def test_a_batch_that_can_never_work_says_why(said: Remote | Failure, why: str) -> None:
    assert meant(said) == "good"
    assert refused_for_good(said).startswith(why)


@pytest.mark.parametrize(
    "said",
    [
        refused(500, {"message": "The server had an error"}),
        refused(503, "<html>Service Unavailable</html>"),
        refused(400, {"message": "Cannot find file file-1 or project proj_1 does not have access to it"}),
        refused(404, {"message": "No such File object: file-1"}),
        refused(400, {"message": "The file is not yet processed"}),
        refused(400, {"message": "something that is not known"}),
        refused(409, {"message": "conflict"}),
        Failure(Fault.CONNECTION, "the batch queue is full of bytes, too large"),
        Failure(Fault.TIMEOUT, "nothing came within 120 s"),
        failed("server_error", "we failed"),
        failed("", ""),
        Remote("b", RemoteState.FAILED),
        failed("token_limit_exceeded", OPENAI_FULL, RemoteState.EXPIRED),
        failed("model_not_found", "no", RemoteState.COMPLETED),
        Remote("b", RemoteState.IN_PROGRESS),
    ],
)
def test_what_is_not_known_is_none_of_these(said: Remote | Failure) -> None:
    assert meant(said) == ""


def test_words_in_quotes_decide_nothing() -> None:
    assert meant(failed("x", "the row says 'the file is too large' and \"enqueued tokens\"")) == ""
