"""The services known by name: base URL, variable of the API key, and their words for limits and refusals.

Invariant: every fact here was read in a service's documentation, its code or its answers; unconfirmed facts are left
out. If a service lacks a word for a case, none is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from batcher.endpoint import OFFLINE, OPENAI_URL

AZURE = "azure"
RESOURCE, DEPLOYMENT = "RESOURCE", "DEPLOYMENT"
"""Placeholders in Azure's base URL for names that the user chose."""


@dataclass(frozen=True, slots=True)
class Service:
    """A provider, or a server program, by name.

    The words are codes, types or phrases of its error bodies, for people to read: what follows from an error is decided
    in `retry`, whatever service sent it.

    Attributes:
        name: as `--provider` takes it.
        base_url: its base URL; `RESOURCE` and `DEPLOYMENT` stand for the user's names.
        key_variables: the variables that may hold its key, of which the first that is set is used; empty: it needs no
            key.
        limits_per: the scope of its limits, such as an account, in which more keys do not raise them; empty: unknown.
        empty_account: its words for an account without money or quota.
        throttle: its words for a request that exceeds a rate limit.
        unknown_model: its words for a model, or a deployment, that it does not have.
        filtered: its words for a prompt or an answer that its filter refused.
        headers: further headers that it reads, with the variable that holds each value.
    """

    name: str
    base_url: str
    key_variables: tuple[str, ...] = ()
    limits_per: str = "server"
    empty_account: tuple[str, ...] = ()
    throttle: tuple[str, ...] = ()
    unknown_model: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)

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


SERVICES = {
    service.name: service
    for service in (
        Service(
            "openai",
            OPENAI_URL,
            ("OPENAI_API_KEY",),
            "organization and project",
            empty_account=(
                "insufficient_quota",
                "billing_not_active",
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
            ),
            throttle=("rate_limit_exceeded", "slow_down"),
            unknown_model=("model_not_found",),
            filtered=("invalid_prompt",),
            headers={"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"},
        ),
        Service(
            AZURE,
            f"https://{RESOURCE}.openai.azure.com/openai/deployments/{DEPLOYMENT}",
            ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            "deployment",
            throttle=("429",),
            unknown_model=("DeploymentNotFound",),
            filtered=("content_filter", "ResponsibleAIPolicyViolation"),
        ),
        Service(
            "deepseek",
            "https://api.deepseek.com/v1",
            ("DEEPSEEK_API_KEY",),
            "account",
            empty_account=("Insufficient Balance",),
            throttle=("rate_limit_error",),
            unknown_model=("Model Not Exist",),
        ),
        Service(
            "dashscope",
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
            ("DASHSCOPE_API_KEY",),
            "account",
            empty_account=("Arrearage", "AllocationQuota.FreeTierOnly"),
            throttle=(
                "limit_requests",
                "limit_burst_rate",
                "Throttling",
                "Throttling.AllocationQuota",
                "Throttling.Concurrency",
                "insufficient_quota",
            ),
            unknown_model=("model_not_found",),
            filtered=("data_inspection_failed", "DataInspectionFailed"),
        ),
        Service(
            "deepinfra",
            "https://api.deepinfra.com/v1/openai",
            ("DEEPINFRA_API_KEY",),
            "account",
            throttle=("engine_overloaded",),
        ),
        Service(
            "mistral",
            "https://api.mistral.ai/v1",
            ("MISTRAL_API_KEY",),
            "organization",
            throttle=("3505", "service_tier_capacity_exceeded", "Requests rate limit exceeded"),
            unknown_model=("unknown_model",),
        ),
        Service(
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            ("GEMINI_API_KEY",),
            "project",
            empty_account=("limit: 0,",),
            throttle=("RESOURCE_EXHAUSTED", "quota_exceeded"),
        ),
        Service(
            "zhipu",
            "https://open.bigmodel.cn/api/paas/v4",
            ("ZHIPUAI_API_KEY", "ZHIPU_API_KEY"),
            "account",
            empty_account=("1113",),
            throttle=("1302", "1303", "1304", "1305", "1308"),
            unknown_model=("1211",),
            filtered=("1301", "sensitive"),
        ),
        Service("infini", "https://cloud.infini-ai.com/maas/v1", ("INFINI_API_KEY",), ""),
        Service(
            "moonshot",
            "https://api.moonshot.cn/v1",
            ("MOONSHOT_API_KEY",),
            "account",
            empty_account=("exceeded_current_quota_error",),
            throttle=("rate_limit_reached_error", "engine_overloaded_error"),
            unknown_model=("resource_not_found_error",),
            filtered=("content_filter",),
        ),
        Service(
            "siliconflow",
            "https://api.siliconflow.cn/v1",
            ("SILICONFLOW_API_KEY", "SILICONFLOW_CN_API_KEY"),
            "account",
            empty_account=("30001",),
            throttle=("rejected due to rate limiting",),
            unknown_model=("20012",),
        ),
        Service(
            "ark",
            "https://ark.cn-beijing.volces.com/api/v3",
            ("ARK_API_KEY",),
            "account",
            empty_account=("AccountOverdueError", "SetLimitExceeded"),
            throttle=("ModelAccountTpmRateLimitExceeded", "ServerOverloaded"),
            unknown_model=("ModelNotOpen",),
            filtered=("SensitiveContentDetected",),
        ),
        Service(
            "qianfan",
            "https://qianfan.baidubce.com/v2",
            ("QIANFAN_API_KEY",),
            "account",
            empty_account=("BILLING_INSUFFICIENT_BALANCE",),
            throttle=("rpm_rate_limit_exceeded", "preemptible_rate_limit_exceeded"),
            unknown_model=("invalid_model",),
            filtered=("unsafe_request",),
        ),
        Service(
            "minimax",
            "https://api.minimaxi.com/v1",
            ("MINIMAX_API_KEY",),
            "account",
            empty_account=("1008",),
            throttle=("1002",),
            filtered=("1026",),
        ),
        Service(
            "openrouter",
            "https://openrouter.ai/api/v1",
            ("OPENROUTER_API_KEY",),
            "account",
            empty_account=("Insufficient credits", "requires more credits", "Key limit exceeded"),
            throttle=("rate_limit_exceeded", "temporarily rate-limited upstream"),
            unknown_model=("No endpoints found",),
            filtered=("requires moderation", "Request blocked"),
        ),
        Service(
            "together",
            "https://api.together.xyz/v1",
            ("TOGETHER_API_KEY",),
            "account",
            empty_account=("credit_limit",),
            throttle=("dynamic_request_limited",),
        ),
        Service(
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
            ("FIREWORKS_API_KEY",),
            "account",
            empty_account=("is suspended",),
            throttle=("rate_limit_exceeded",),
            unknown_model=("NOT_FOUND",),
        ),
        Service(
            "groq",
            "https://api.groq.com/openai/v1",
            ("GROQ_API_KEY",),
            "organization",
            throttle=("rate_limit_exceeded", "capacity_exceeded"),
        ),
        Service(
            "cerebras",
            "https://api.cerebras.ai/v1",
            ("CEREBRAS_API_KEY",),
            "organization",
            throttle=("request_quota_exceeded", "token_quota_exceeded"),
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
            empty_account=("used all available credits",),
            throttle=("Some resource has been exhausted",),
            filtered=("Content violates usage guidelines",),
        ),
        Service(
            "cohere",
            "https://api.cohere.ai/compatibility/v1",
            ("COHERE_API_KEY", "CO_API_KEY"),
            "account",
            empty_account=("Maximum billing reached",),
            throttle=("API calls / minute",),
            unknown_model=("make sure the correct model ID was used",),
            filtered=("blocked output",),
        ),
        Service(
            "huggingface",
            "https://router.huggingface.co/v1",
            ("HF_TOKEN",),
            "account",
            empty_account=("exceeded your monthly included credits",),
        ),
        Service(
            "ollama",
            "http://127.0.0.1:11434/v1",
            throttle=("maximum pending requests exceeded",),
            unknown_model=("try pulling it first",),
        ),
        Service("vllm", "http://127.0.0.1:8000/v1", unknown_model=("NotFoundError",)),
        Service("sglang", "http://127.0.0.1:30000/v1", throttle=("The request queue is full",)),
        Service("lmdeploy", "http://127.0.0.1:23333/v1"),
        Service("llamafactory", "http://127.0.0.1:8000/v1"),
        Service("llamacpp", "http://127.0.0.1:8080/v1"),
        Service("lmstudio", "http://127.0.0.1:1234/v1", unknown_model=("No models loaded",)),
        Service(
            "litellm",
            "http://127.0.0.1:4000/v1",
            ("LITELLM_API_KEY",),
            "key",
            empty_account=("budget_exceeded",),
            throttle=("No deployments available", "Rate limit exceeded"),
            unknown_model=("Invalid model name passed",),
            filtered=("ContentPolicyViolationError",),
        ),
        Service(OFFLINE, OFFLINE),
    )
}
"""The services by name, in the order of display."""


def service_at(base_url: str) -> Service | None:
    """Return the service that a base URL leads to; None for any other URL."""
    return next((service for service in SERVICES.values() if service.listens_at(base_url)), None)


@dataclass(frozen=True, slots=True)
class Services:
    """The services known by name, as `batcher services` shows them."""

    services: tuple[Service, ...]

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def __str__(self) -> str:
        return "\n".join(line for service in self for line in _shown(service))

    def to_dict(self) -> dict[str, Any]:
        """Return the table as a dictionary that JSON can hold."""
        return {"services": [asdict(service) for service in self]}


def services() -> Services:
    """Return the services that `provider=` and `--provider` know; any other base URL works without a name."""
    return Services(tuple(SERVICES.values()))


def _shown(service: Service) -> Iterator[str]:
    """Yield a service's lines in the table, of at most 80 columns."""
    keys = " or ".join(service.key_variables) or "no key"
    yield f"{service.name:<13} {keys}{service.limits_per and f'; limits per {service.limits_per}'}"
    if service.base_url != service.name:
        yield f"{'':<13} {service.base_url}"
