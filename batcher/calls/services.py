"""The services known by name: base URL, variable of the API key, and their words for limits and refusals.

Invariant: every fact here was read in a service's documentation, its code or its answers; unconfirmed facts are left
out. If a service lacks a word for a case, none is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from batcher.calls import batch_facts
from batcher.calls.batch_facts import BatchFacts
from batcher.endpoint import OFFLINE, OPENAI_URL, Endpoint
from batcher.errors import SettingsError
from batcher.records import Failure, Task
from batcher.tables import Readable, html_table
from batcher.words import as_given, option

AZURE = "azure"
RESOURCE, DEPLOYMENT = "RESOURCE", "DEPLOYMENT"
"""Placeholders in Azure's base URL for names that the user chose."""


@dataclass(frozen=True, slots=True)
class Service:
    """A provider, or a server program, by name.

    The words are codes, types or phrases of its error bodies. They are known whatever service sent them, because relays
    pass them on; what follows from them is decided in `fate`.

    Attributes:
        name: as `--provider` takes it.
        base_url: its base URL; `RESOURCE` and `DEPLOYMENT` stand for the user's names.
        key_variables: the variables that may hold its key, of which the first that is set is used; empty: it needs no
            key.
        limits_per: the scope of its limits, such as an account, in which more keys do not raise them; empty: unknown.
        closed: its words for an account that no wait opens: it is empty, closed, or at a limit that a person set.
        empty_account: its words for an account without money or quota that may also pass, as of a relay's channel.
        throttle: its words for a request that exceeds a rate limit.
        unknown_model: its words for a model, or a deployment, that it does not have.
        wrong_key: its words for a wrong API key, if it says so under another status than 401.
        filtered: its words for a prompt or an answer that its filter refused.
        too_long: its words for a request that is longer than its model, or its limit of a minute, can ever take.
        headers: further headers that it reads, with the variable that holds each value.
        inputs: the most texts in one request for embeddings, by the beginning of the model's name, the longest that
            fits; empty for all others. Without it nothing is known.
        input_tokens: the most model tokens of all texts in one such request; 0: it is not known, or there is no limit.
        structured: the strictest form in which it is said to answer with labels or fields (`calls.forms`), where the
            trying begins.
        tiers: its service tiers that a request can ask for: the value of `service_tier` by the name that `--tier` has
            for it; an empty value: the parameter is left out. Empty: none are known.
        full: its words for a tier that has no capacity at present.
        batch: what is known of its batch API; None: nothing.
    """

    name: str
    base_url: str
    key_variables: tuple[str, ...] = ()
    limits_per: str = "server"
    closed: tuple[str, ...] = ()
    empty_account: tuple[str, ...] = ()
    throttle: tuple[str, ...] = ()
    unknown_model: tuple[str, ...] = ()
    wrong_key: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()
    too_long: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    inputs: Mapping[str, int] = field(default_factory=dict, hash=False)
    input_tokens: int = 0
    structured: str = "strict"
    tiers: Mapping[str, str] = field(default_factory=dict, hash=False)
    full: tuple[str, ...] = ()
    batch: BatchFacts | None = None

    def inputs_of(self, model: str) -> int:
        """Return the most texts in one request for the embeddings of a model; 0 if that is not known."""
        fitting = [name for name in self.inputs if model.startswith(name)]
        return self.inputs[max(fitting, key=len)] if fitting else 0

    @property
    def keys_share_limits(self) -> bool:
        """Whether a second key brings no further limits, unless it belongs to another account."""
        return self.limits_per not in ("", "key")

    @property
    def needs_key(self) -> bool:
        """Whether every request needs a key; a server of the user's own may be set up with or without one."""
        return bool(self.key_variables) and self.base_url.startswith("https:")

    def listens_at(self, base_url: str) -> bool:
        """Return whether a base URL leads to this service, whatever its path."""
        mine, asked = urlsplit(self.base_url), urlsplit(base_url)
        if mine.scheme != asked.scheme or not mine.netloc:
            return False
        if mine.netloc.startswith(RESOURCE):
            return (asked.hostname or "").endswith(mine.netloc.removeprefix(RESOURCE))
        return mine.netloc == asked.netloc.lower().removesuffix(":443").replace("localhost", "127.0.0.1")


def _named(*tiers: str) -> dict[str, str]:
    """Return service tiers that `--tier` and the service call the same."""
    return dict(zip(tiers, tiers, strict=True))


SERVICES = {
    service.name: service
    for service in (
        Service(
            "openai",
            OPENAI_URL,
            ("OPENAI_API_KEY",),
            "organization and project",
            closed=(
                "billing_not_active",
                "billing_hard_limit_reached",
                "billing hard limit",
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
            ),
            empty_account=("insufficient_quota",),
            throttle=("rate_limit_exceeded", "slow_down"),
            unknown_model=("model_not_found", "does not exist or you do not have access"),
            wrong_key=("invalid_api_key", "incorrect api key"),
            filtered=("invalid_prompt", "moderation_blocked"),
            too_long=("context_length_exceeded", "string_above_max_length", "request too large"),
            headers={"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"},
            inputs={"": 2048},
            input_tokens=300_000,
            tiers=_named("flex", "priority", "default", "auto"),
            full=("resource_unavailable", "resource unavailable"),
            batch=batch_facts.OPENAI,
        ),
        Service(
            AZURE,
            f"https://{RESOURCE}.openai.azure.com/openai/deployments/{DEPLOYMENT}",
            ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            "deployment",
            throttle=("RateLimitReached", "Quota will be replenished"),
            unknown_model=("DeploymentNotFound",),
            filtered=("content_filter", "ResponsibleAIPolicyViolation"),
            inputs={"": 2048},
            input_tokens=300_000,
            tiers=_named("flex", "priority", "default", "auto"),
            batch=batch_facts.AZURE,
        ),
        Service(
            "deepseek",
            "https://api.deepseek.com/v1",
            ("DEEPSEEK_API_KEY",),
            "account",
            empty_account=("Insufficient Balance",),
            throttle=("rate_limit_error",),
            unknown_model=("Model Not Exist",),
            filtered=("Content Exists Risk",),
            structured="json",
        ),
        Service(
            "dashscope",
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
            ("DASHSCOPE_API_KEY",),
            "account",
            closed=(
                "Arrearage",
                "FreeTierOnly",
                "Free allocated quota exceeded",
                "BillOverdue",
                "CommodityNotPurchased",
            ),
            throttle=(
                "limit_requests",
                "limit_burst_rate",
                "Throttling",
                "error-code#rate-limit",
                "error-code#token-limit",
            ),
            unknown_model=("model_not_found", "Model.AccessDenied"),
            filtered=("data_inspection_failed", "DataInspectionFailed"),
            too_long=("Range of input length",),
            inputs={"": 10, "text-embedding-v1": 25, "text-embedding-v2": 25},
            batch=batch_facts.DASHSCOPE,
        ),
        Service(
            "deepinfra",
            "https://api.deepinfra.com/v1/openai",
            ("DEEPINFRA_API_KEY",),
            "account",
            throttle=("engine_overloaded",),
            too_long=("exceeds maximum input length",),
            batch=batch_facts.DEEPINFRA,
        ),
        Service(
            "mistral",
            "https://api.mistral.ai/v1",
            ("MISTRAL_API_KEY",),
            "organization",
            throttle=("3505", "service_tier_capacity_exceeded", "Requests rate limit exceeded"),
            unknown_model=("unknown_model", "unknown model"),
            too_long=("3051", "too large for model with"),
            inputs={"": 64},
            input_tokens=16_000,
        ),
        Service(
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            ("GEMINI_API_KEY",),
            "project",
            closed=("limit: 0, model",),
            throttle=("RESOURCE_EXHAUSTED", "quota_exceeded"),
            wrong_key=("API_KEY_INVALID", "API key not valid", "API key expired", "reported as leaked"),
            too_long=("exceeds the maximum number of tokens",),
            inputs={"": 100},
        ),
        Service(
            "zhipu",
            "https://open.bigmodel.cn/api/paas/v4",
            ("ZHIPUAI_API_KEY", "ZHIPU_API_KEY"),
            "account",
            closed=("1113", "欠费", "1112", "1121", "1311"),
            throttle=("1302", "1303", "1304", "1305", "1308", "1310"),
            unknown_model=("1211", "模型不存在"),
            filtered=("1301", "sensitive"),
            too_long=("1261", "Prompt 超长"),
            inputs={"": 64},
            batch=batch_facts.ZHIPU,
        ),
        Service("infini", "https://cloud.infini-ai.com/maas/v1", ("INFINI_API_KEY",), ""),
        Service(
            "moonshot",
            "https://api.moonshot.cn/v1",
            ("MOONSHOT_API_KEY",),
            "account",
            closed=("exceeded_current_quota_error",),
            throttle=("rate_limit_reached_error", "engine_overloaded_error"),
            unknown_model=("resource_not_found_error",),
            filtered=("content_filter",),
            too_long=("exceeded model token limit",),
            batch=batch_facts.MOONSHOT,
        ),
        Service(
            "siliconflow",
            "https://api.siliconflow.cn/v1",
            ("SILICONFLOW_API_KEY", "SILICONFLOW_CN_API_KEY"),
            "account",
            empty_account=("30001", "balance is insufficient"),
            throttle=("rejected due to rate limiting",),
            unknown_model=("20012",),
            too_long=("must be less than max_seq_len",),
            inputs={"": 32},
            batch=batch_facts.SILICONFLOW,
        ),
        Service(
            "ark",
            "https://ark.cn-beijing.volces.com/api/v3",
            ("ARK_API_KEY",),
            "account",
            closed=("AccountOverdueError", "SetLimitExceeded"),
            throttle=("ModelAccountTpmRateLimitExceeded", "ServerOverloaded"),
            unknown_model=("ModelNotOpen", "InvalidEndpoint.ClosedEndpoint", "InvalidEndpointOrModel"),
            filtered=("SensitiveContentDetected", "RiskDetection"),
            too_long=("exceed max message tokens",),
        ),
        Service(
            "qianfan",
            "https://qianfan.baidubce.com/v2",
            ("QIANFAN_API_KEY",),
            "account",
            closed=("BILLING_INSUFFICIENT_BALANCE",),
            throttle=("rpm_rate_limit_exceeded", "preemptible_rate_limit_exceeded", "qps request limit reached"),
            unknown_model=("invalid_model",),
            wrong_key=("invalid_iam_token",),
            filtered=("unsafe_request",),
            too_long=("tokens_too_long",),
            batch=batch_facts.QIANFAN,
        ),
        Service(
            "minimax",
            "https://api.minimaxi.com/v1",
            ("MINIMAX_API_KEY",),
            "account",
            closed=("1008",),
            throttle=("1002", "1039"),
            wrong_key=("1004", "2049"),
            filtered=("1026", "1027", "new_sensitive"),
            too_long=("context window exceeds limit",),
            structured="json",
        ),
        Service(
            "openrouter",
            "https://openrouter.ai/api/v1",
            ("OPENROUTER_API_KEY",),
            "account",
            empty_account=("Insufficient credits", "requires more credits", "Key limit exceeded"),
            throttle=("temporarily rate-limited upstream",),
            unknown_model=("No endpoints found",),
            filtered=("requires moderation", "input was flagged", "Request blocked:"),
            tiers=_named("flex", "priority", "default", "auto"),
        ),
        Service(
            "together",
            "https://api.together.xyz/v1",
            ("TOGETHER_API_KEY",),
            "account",
            empty_account=("credit_limit",),
            throttle=("dynamic_request_limited",),
            unknown_model=("model_not_available",),
            too_long=("must be less than the context length",),
            batch=batch_facts.TOGETHER,
        ),
        Service(
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
            ("FIREWORKS_API_KEY",),
            "account",
            empty_account=("account is suspended", "is suspended, possibly due to"),
            throttle=("rate_limit_exceeded",),
            unknown_model=("NOT_FOUND",),
            tiers={"priority": "priority", "default": ""},
        ),
        Service(
            "groq",
            "https://api.groq.com/openai/v1",
            ("GROQ_API_KEY",),
            "organization",
            empty_account=("organization_restricted",),
            throttle=("rate_limit_exceeded",),
            unknown_model=("model_permission_blocked_org", "model_permission_blocked_project"),
            tiers={**_named("flex", "on_demand", "performance", "auto"), "default": "on_demand"},
            full=("capacity_exceeded",),
            batch=batch_facts.GROQ,
        ),
        Service(
            "cerebras",
            "https://api.cerebras.ai/v1",
            ("CEREBRAS_API_KEY",),
            "organization",
            throttle=("request_quota_exceeded", "token_quota_exceeded"),
            tiers=_named("flex", "priority", "default", "auto"),
        ),
        Service(
            "nvidia",
            "https://integrate.api.nvidia.com/v1",
            ("NVIDIA_API_KEY",),
            "key",
            throttle=("Too Many Requests",),
            unknown_model=("Not found for account",),
        ),
        Service(
            "xai",
            "https://api.x.ai/v1",
            ("XAI_API_KEY",),
            "team",
            empty_account=("used all available credits", "reached its monthly spending limit"),
            throttle=("Some resource has been exhausted",),
            filtered=("Content violates usage guidelines",),
            too_long=("maximum prompt length is",),
            tiers=_named("priority", "default"),
        ),
        Service(
            "cohere",
            "https://api.cohere.ai/compatibility/v1",
            ("COHERE_API_KEY", "CO_API_KEY"),
            "account",
            closed=("Maximum billing reached", "API calls / month"),
            throttle=("API calls / minute",),
            unknown_model=("make sure the correct model ID was used",),
            filtered=("blocked output",),
            too_long=("too many tokens: size limit exceeded",),
            inputs={"": 96},
        ),
        Service(
            "huggingface",
            "https://router.huggingface.co/v1",
            ("HF_TOKEN",),
            "account",
            closed=("exceeded your monthly included credits",),
            unknown_model=("model_not_supported",),
        ),
        Service(
            "ollama",
            "http://127.0.0.1:11434/v1",
            throttle=("maximum pending requests exceeded",),
            unknown_model=("try pulling it first",),
        ),
        Service(
            "vllm",
            "http://127.0.0.1:8000/v1",
            unknown_model=("NotFoundError",),
            too_long=("maximum context length is",),
            structured="choice",
        ),
        Service("sglang", "http://127.0.0.1:30000/v1", throttle=("The request queue is full",)),
        Service("lmdeploy", "http://127.0.0.1:23333/v1"),
        Service("llamafactory", "http://127.0.0.1:8000/v1"),
        Service(
            "llamacpp",
            "http://127.0.0.1:8080/v1",
            unknown_model=("model not found",),
            too_long=("exceed_context_size_error",),
        ),
        Service(
            "lmstudio",
            "http://127.0.0.1:1234/v1",
            unknown_model=("No models loaded",),
            too_long=("is loaded with context length of only",),
        ),
        Service(
            "litellm",
            "http://127.0.0.1:4000/v1",
            ("LITELLM_API_KEY",),
            "key",
            closed=("budget_exceeded",),
            throttle=("No deployments available",),
            unknown_model=("Invalid model name passed",),
            wrong_key=("token_not_found_in_db", "No connected db", "no_db_connection"),
            filtered=("ContentPolicyViolationError",),
            too_long=("ContextWindowExceededError",),
            batch=batch_facts.LITELLM,
        ),
        Service(OFFLINE, OFFLINE),
    )
}
"""The services by name, in the order of display."""


CLOSED, EMPTY, THROTTLE, MODEL = "closed", "empty_account", "throttle", "unknown_model"
KEY, FILTERED, TOO_LONG, AGAIN, FULL = "wrong_key", "filtered", "too_long", "again", "full"
"""The groups of words: the fields of `Service`, and words for a failure that passes."""

# Words of several services, of relays and of servers that have no row above.
_COMMON = {
    CLOSED: (
        "PrepaidBillOverdue",
        "enforced_spend_limit_reached",  # Anthropic, as the next
        "monthly API usage threshold",
        "limit_reached_month",
        "AppIdNoAuthError",  # iFlytek
    ),
    EMPTY: (
        "insufficient_balance",
        "insufficient balance",
        "insufficient_user_quota",  # one-api and its relatives
        "余额不足",
        "arrear",
        "credit balance is too low",  # Anthropic
        "no connected payment",
        "top up balance",  # DeepInfra
    ),
    THROTTLE: (
        "11202",  # iFlytek, as the next
        "AppIdQpsOverFlowError",
        "18",  # Baidu's older interface
        "RequestLimitExceeded",  # Tencent
        "LimitExceeded.TooManyRequests",
        "429",
    ),
    MODEL: (
        "model_not_exist",
        "model not exist",
        "model does not exist",
        "unknown model",
        "invalid model name",
        "no models loaded",
        "no model loaded",
        "server is pinned to",
        "user location is not supported",  # Gemini: of the place, not of the row
    ),
    KEY: ("invalid api key", "api key is invalid", "invalid_token"),
    FILTERED: (
        "content_filter",
        "content_policy_violation",
        "content policy violation",
        "prompt was flagged",
        "content was flagged",
        "request was flagged",
        "data may contain inappropriate content",
        "content management policy",
        "may contain sensitive information",
        "10013",  # iFlytek, as the next
        "10014",
        "content audit failed",
        "safety_check_type",
    ),
    TOO_LONG: (
        "maximum context length",
        "exceeds the available context size",
        "exceeds the context length",
        "exceeds the context window",
        "prompt is too long",
        "prompt tokens too long",
        "input is too long",
        "'inputs' tokens and",
        "the sum of prompt length",
        "`inputs` tokens +",
        "tokens must be <=",
        "超长",
    ),
    AGAIN: (
        "bad_response_status_code",  # new-api: another channel may take the row
        "upstream_error",
        "client disconnected",  # LMDeploy
        "request was cancelled",
        "is not ready",  # Triton, of a model that is being loaded
        "DEGRADED function",  # NVIDIA
        "the model has crashed",  # LM Studio
        "loading model",
    ),
    FULL: (
        "no capacity",
        "not enough capacity",
        "insufficient capacity",
        "capacity is unavailable",
        "capacity unavailable",
        "at capacity",
        "over capacity",
        "out of capacity",
        "resources are unavailable",
    ),
}
_SHORTEST_PHRASE = 6
"""The fewest characters of a word that is looked for in the middle of a text. A shorter one has to be a code."""
_CODES = {"content_filter", "sensitive", "not_found", "invalid_prompt"}
"""Words that are codes alone: in a message they may stand for something else."""


class _Words(NamedTuple):
    """The words of a group in lower case: whole codes, and phrases for which a text is searched."""

    codes: frozenset[str]
    phrases: tuple[str, ...]


def _words(group: str) -> _Words:
    own = (word for service in SERVICES.values() for word in getattr(service, group, ()))
    words = {word.lower() for word in (*own, *_COMMON.get(group, ()))}
    phrases = {word for word in words if len(word) >= _SHORTEST_PHRASE or not word.isascii()} - _CODES
    return _Words(frozenset(words), tuple(sorted(phrases)))


_GROUPS = {group: _words(group) for group in (CLOSED, EMPTY, THROTTLE, MODEL, KEY, FILTERED, TOO_LONG, AGAIN, FULL)}


def says(failure: Failure, group: str) -> bool:
    """Return whether an error says one of a group's words, as a code or in its message."""
    words, said = _GROUPS[group], failure.said
    codes = failure.codes or ((failure.code or "").lower(),)
    return not words.codes.isdisjoint(codes) or any(phrase in said for phrase in words.phrases)


def batch_share(base_url: str) -> float:
    """Return what requests in batches cost at a base URL, as a share of the price; 1 if nothing is known."""
    service = service_at(base_url)
    return service.batch.share if service and service.batch else batch_facts.UNKNOWN.share


def check_batches(endpoint: Endpoint, task: Task | None = None) -> None:
    """Refuse an endpoint whose batch API cannot be used.

    Args:
        endpoint: any.
        task: of the run, if it is known.

    Raises:
        SettingsError: its service is known to have none, or none for the task; or it has a chat model.
    """
    way = as_given("via", "batch")
    if endpoint.llm is not None:
        raise SettingsError(f"{way}: a chat model in llm= has no batches: give its model and its base URL instead")
    service = service_at(endpoint.base_url)
    if service and (why := batch_facts.NO_BATCHES.get(service.name)):
        raise SettingsError(
            f"{way}: {service.name} cannot be used by batches: {why}; leave {option('via')} out, or choose an endpoint"
            " that `batcher services` shows with batches"
        )
    if service and service.batch and task and task not in service.batch.tasks:
        known = " and ".join(service.batch.tasks)
        raise SettingsError(f"{way}: batches of {service.name} are for the task {known}, not for {task}")


def service_at(base_url: str) -> Service | None:
    """Return the service that a base URL leads to; None for any other URL."""
    return next((service for service in SERVICES.values() if service.listens_at(base_url)), None)


@dataclass(frozen=True, slots=True)
class Services(Readable):
    """The services known by name, as `batcher services` shows them."""

    services: tuple[Service, ...]

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def __str__(self) -> str:
        return "\n".join([*(line for service in self for line in _shown(service)), _OF_OTHERS])

    def _repr_html_(self) -> str:
        """Show the services as a table in a notebook."""
        rows = [(each.name, _keys(each), each.limits_per, _url(each), batches_in_words(each)) for each in self]
        return html_table("", rows, ("provider", "API key", "limits per", "base URL", "batches"), has_labels=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as a dictionary that JSON can hold."""
        return {"services": [_as_dict(service) for service in self]}


def services() -> Services:
    """Return the services that `provider=` and `--provider` know; any other base URL works without a name."""
    return Services(tuple(SERVICES.values()))


def _shown(service: Service) -> Iterator[str]:
    """Yield a service's lines in the table, of at most 80 columns."""
    yield f"{service.name:<13} {_keys(service)}{service.limits_per and f'; limits per {service.limits_per}'}"
    if url := _url(service):
        yield f"{'':<13} {url}"
    if said := batches_in_words(service):
        yield f"{'':<13} batches: {said}"
    if service.tiers:
        yield f"{'':<13} tiers: {', '.join(service.tiers)}"


_OF_OTHERS = "Nothing is known of the batches of the others: they count at the full price."


def batches_in_words(service: Service) -> str:
    """Return in a few words what is known of a service's batches; "" if nothing is."""
    if service.name in batch_facts.NO_BATCHES:
        return "none that batcher can use"
    facts = service.batch
    if facts is None:
        return ""
    limits = facts.limits
    most = (
        f"{limits.requests:,} rows" if limits.requests else "",
        f"{limits.bytes // batch_facts.MB:,} MB a file" if limits.bytes else "",
    )
    known = " and ".join(filter(None, most))
    at = "the full price" if facts.share == 1 else f"{facts.share:.0%} of the price"
    return f"{at}, at most {known}" if known else f"{at}, limits not known"


def _as_dict(service: Service) -> dict[str, Any]:
    """Return a service as JSON can hold it."""
    facts = service.batch
    batch = facts and asdict(facts) | {"limits": facts.limits._asdict(), "test_limits": facts.test_limits._asdict()}
    return asdict(replace(service, batch=None)) | {
        "batch": batch,
        "no_batch": batch_facts.NO_BATCHES.get(service.name, ""),
    }


def _keys(service: Service) -> str:
    return " or ".join(service.key_variables) or "no key"


def _url(service: Service) -> str:
    return "" if service.base_url == service.name else service.base_url  # the embedded server has none
