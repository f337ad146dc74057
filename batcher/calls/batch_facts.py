"""What is known of the batch APIs of services: price, limits, and what they do differently from OpenAI's.

Invariant: a fact has its source beside it (`BatchFacts.confirmed`); what was not found confirmed is in `unconfirmed`,
and nothing is built on it that would cost an answer if it were wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batcher.calls.batch_service import BatchLimits
from batcher.records import Task

MB = 1_000_000
LARGEST = BatchLimits(requests=50_000, bytes=200 * MB, inputs=50_000)
"""OpenAI's limits, which are kept wherever others are not known."""
_NOT_KNOWN = BatchLimits(0, 0)


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What is known of a batch API.

    Attributes:
        share: what a request costs in a batch, as a share of its price.
        limits: the most that it takes.
        window: the `completion_window` that is sent; empty: none.
        windows: those that it takes, in words.
        path: what the paths of lines begin with; empty: as the base URL ends (`/v1`).
        tasks: what its lines may ask for.
        purpose: of the uploaded file.
        upload: the path of uploads.
        keeps_metadata: batches have metadata, which listing gives back.
        pages: how its list goes on: `after`, `cursor` (by a mark in the answer), or empty: in one piece.
        lists_files: uploaded files can be listed with their names.
        further: more fields of the request that makes a batch.
        test: a model that costs nothing, for a rehearsal, and the path of its lines.
        test_limits: the most that it takes.
        note: what users should know, in one sentence; empty: nothing.
        confirmed: where facts were read, by what is said there.
        unconfirmed: what is assumed, or was not found.
    """

    share: float
    limits: BatchLimits = LARGEST
    window: str = "24h"
    windows: str = "24h"
    path: str = ""
    tasks: tuple[Task, ...] = (Task.CHAT,)
    purpose: str = "batch"
    upload: str = "/files"
    keeps_metadata: bool = True
    pages: str = "after"
    lists_files: bool = True
    further: Mapping[str, Any] = field(default_factory=dict, hash=False)
    test: tuple[str, str] = ("", "")
    test_limits: BatchLimits = LARGEST
    note: str = ""
    confirmed: Mapping[str, str] = field(default_factory=dict, hash=False)
    unconfirmed: tuple[str, ...] = ()


UNKNOWN = BatchFacts(1.0, _NOT_KNOWN, tasks=tuple(Task))
"""What is assumed of a service of which nothing is known: OpenAI's shape, and no discount."""

_AZURE_DOCS = "MicrosoftDocs/azure-ai-docs, articles/ai-foundry/openai"
_OPENAI_GUIDE = "platform.openai.com/docs/guides/batch"
_DASHSCOPE = "alibabacloud.com/help/en/model-studio/batch-interfaces-compatible-with-openai"
_ZHIPU = "docs.bigmodel.cn/cn/guide/tools/batch"
_SILICONFLOW = "docs.siliconflow.cn/cn/userguide/guides/batch"
_GROQ = "console.groq.com/docs/batch"
_TOGETHER = "docs.together.ai/docs/inference/batch/overview"
_MOONSHOT = "platform.kimi.com/docs/guide/use-batch-api"

OPENAI = BatchFacts(
    0.5,
    tasks=(Task.CHAT, Task.COMPLETION, Task.EMBEDDING),
    note="prompt tokens that wait in all batches together are limited for each model",
    confirmed={
        "price, limits, window, states, both result files, billing of expired batches": _OPENAI_GUIDE,
        "metadata, list, paths of lines": "platform.openai.com/docs/api-reference/batch",
        "a full queue: the batch fails with token_limit_exceeded": "github.com/openai/openai-python/issues/2084",
        "list of files with their names": "platform.openai.com/docs/api-reference/files/list",
        "price of each model in a batch": "the table of genai-prices",
    },
    unconfirmed=("whether a second create with the same Idempotency-Key makes a second batch",),
)
AZURE = BatchFacts(
    0.5,
    BatchLimits(requests=100_000, bytes=200 * MB),
    path="/",
    note="the model is the name of a deployment of the type Global Batch",
    confirmed={
        "price, no expiry (late batches go on), states, codes of whole batches, billing": (
            f"{_AZURE_DOCS}/how-to/batch.md"
        ),
        "paths, deployment as model, list": f"{_AZURE_DOCS}/includes/batch/batch-rest.md",
        "limits": f"{_AZURE_DOCS}/includes/global-batch-limits.md",
        "a full queue: token_limit_exceeded": "learn.microsoft.com/en-us/answers/questions/2285577",
    },
    unconfirmed=(
        "the older routes with an api-version (.../openai/files?api-version=..., for base URLs of deployments)",
        "the order of the list",
        "whether an Idempotency-Key counts",
    ),
)
DASHSCOPE = BatchFacts(
    0.5,
    BatchLimits(requests=50_000, bytes=500 * MB, line_bytes=6 * MB),
    tasks=(Task.CHAT, Task.EMBEDDING),
    test=("batch-test-model", "/v1/chat/ds-test"),
    test_limits=BatchLimits(requests=100, bytes=MB, at_once=2),
    note="only some models; thinking is on by default for Qwen 3.5 and later (--param enable_thinking=false)",
    confirmed={
        "price, billing of answered requests alone, test model and its limits": _DASHSCOPE,
        "limits, one model and one path a file": "alibabacloud.com/help/en/model-studio/batch-inference",
        "routes, window of 24h, metadata as a map": (
            "help.aliyun.com/zh/dashscope/developer-reference/openai-batch-interface"
        ),
    },
    unconfirmed=(
        "completion windows of up to 336h",
        "codes of a full queue and of whole batches",
        "whether a cancelled batch keeps the answers that it bills",
    ),
)
ZHIPU = BatchFacts(
    0.5,
    BatchLimits(requests=50_000, bytes=100 * MB, inputs=10_000),
    window="",
    windows="none (24 h expected, cancelled after 7 days)",
    path="/v4",
    tasks=(Task.CHAT, Task.EMBEDDING),
    further={"auto_delete_input_file": False},
    note="only older models (GLM-4 family, Embedding); the queue of each model is limited in requests",
    confirmed={
        "price, limits, window, paths, states, shape of result lines, list, auto_delete_input_file": _ZHIPU,
        "queue limits of models": "docs.bigmodel.cn/cn/faq/batch-api-issues",
    },
    unconfirmed=("the code of a full queue", "whether an Idempotency-Key counts"),
)
MOONSHOT = BatchFacts(
    0.6,
    BatchLimits(requests=0, bytes=100 * MB),
    window="1d",
    windows="12h to 7d",
    note="only kimi-k2.5 and kimi-k2.6; temperature, top_p, n and penalties must be left out",
    confirmed={
        "price": "platform.kimi.ai/docs/pricing/batch",
        "limits, models, parameters, path": _MOONSHOT,
        "routes, windows, states, list, metadata": "api-evangelist/kimi-moonshot, openapi",
    },
    unconfirmed=("the most lines of a file", "the code of a full queue", "the list of files"),
)
SILICONFLOW = BatchFacts(
    0.5,
    BatchLimits(requests=5_000, bytes=1_000 * MB),
    windows="24h to 336h",
    note="output files are kept for a month",
    confirmed={
        "price, limits, window, one model a file": _SILICONFLOW,
        "path, metadata, wrapped answer of uploads, states, list": "docs.siliconflow.cn/cn/api-reference/batch",
    },
    unconfirmed=(
        "the code of a full queue",
        "whether the output file is named by an id or by a URL (both are read)",
        "whether the list has pages (both are read)",
    ),
)
GROQ = BatchFacts(
    0.5,
    BatchLimits(requests=50_000, bytes=100 * MB),
    windows="24h to 7d",
    pages="cursor",
    note="under load batches expire; what was answered until then is kept, and billed alone",
    confirmed={
        "price, requests, windows, states, pages, billing of expired batches": _GROQ,
        "100 MB (the guide says 200 MB; the smaller one counts)": "groq/groq-python, types/batch_create_params.py",
        "price of some models in a batch": "the table of genai-prices",
    },
    unconfirmed=("the code of a full queue", "whether an Idempotency-Key counts"),
)
TOGETHER = BatchFacts(
    1.0,
    BatchLimits(requests=50_000, bytes=100 * MB),
    purpose="batch-api",
    upload="/files/upload",
    keeps_metadata=False,
    pages="",
    note="up to half off, for some models only: no discount is counted unless --price-batch says so",
    confirmed={
        "limits, window, up to half off on selected models": _TOGETHER,
        "states in upper case, progress, both files": "docs.together.ai/docs/inference/batch/manage",
        "shape of the answers": "docs.together.ai/reference/batch-create",
        "path and purpose of uploads": "docs.together.ai/reference/upload-file",
    },
    unconfirmed=("the list in one piece (third parties)", "billing of expired and cancelled batches"),
)
DEEPINFRA = BatchFacts(
    0.8,
    _NOT_KNOWN,
    tasks=(Task.CHAT, Task.COMPLETION),
    confirmed={
        "price": "deepinfra.com/blog/batch-api",
        "fields, paths, window": "docs.deepinfra.com/api-reference/create-openai-batch",
    },
    unconfirmed=("limits (OpenAI's are kept)", "metadata in the list", "states"),
)
QIANFAN = BatchFacts(
    0.4,
    _NOT_KNOWN,
    path="/v2",
    note="needs object storage (BOS) to be opened",
    confirmed={"price, path": "cloud.baidu.com/doc/qianfan/s/Oml4r78ea"},
    unconfirmed=("limits (OpenAI's are kept)", "metadata in the list", "states"),
)
LITELLM = BatchFacts(
    1.0,
    _NOT_KNOWN,
    tasks=tuple(Task),
    note="the proxy passes batches on to OpenAI, Azure and others, at their prices: give --price-batch",
    confirmed={"routes, lines, list": "docs.litellm.ai/docs/batches"},
    unconfirmed=("limits (those of the service behind it)", "metadata in the list"),
)

NO_BATCHES: Mapping[str, str] = {
    "mistral": "its batch jobs have another shape (POST /v1/batch/jobs)",
    "fireworks": "its batch jobs have another shape (batchInferenceJobs of an account)",
    "ark": "its batch jobs have another shape (CreateBatchInferenceJob, files in object storage)",
    "gemini": "its OpenAI-compatible layer takes no uploads",
}
"""Services that are known to have no batch API of this shape, and why. Servers of the user's own are not among them:
what listens at their port may be another program."""
