"""What services, and the proxies in front of them, answer instead of an answer: one table by service and case.

Invariant: status, codes and shape are those that the service is known to send; the sentences may differ from its own.
"""

from __future__ import annotations

from typing import Any

from batcher.server.error_shapes import coded_error, flat_error, openai_error
from batcher.server.faults import Reply
from batcher.server.hosted_refusals import HOSTED

_CLOUDFLARE = {"server": "cloudflare", "cf-ray": "8c0ffee0deadbeef-FRA"}
_VIA = {"via": "1.1 proxy.example"}


def _one_api(message: str, kind: str = "one_api_error", code: str = "") -> dict[str, Any]:
    return openai_error(f"{message} (request id: 20261129000000000)", kind, code, "")


def _litellm(message: str, kind: str | None, code: int) -> dict[str, Any]:
    return openai_error(message, kind, str(code), "None")


def _page(title: str, sign: str = "nginx") -> str:
    head = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    return f"{head}<hr><center>{sign}</center>\r\n</body>\r\n</html>\r\n"


def _cloudflare_page(title: str, text: str) -> str:
    head = f'<!DOCTYPE html>\n<html lang="en-US"><head><title>{title}</title></head>'
    return f"{head}\n<body><h1>{text}</h1><p>Cloudflare Ray ID: 8c0ffee0deadbeef</p></body></html>\n"


REFUSALS: dict[str, dict[str, Reply]] = {
    **HOSTED,
    # Servers of one's own, and relays.
    "vllm": {
        "key": Reply(401, {"error": "Unauthorized"}),
        "model": Reply(
            404,
            {
                "object": "error",
                "message": "The model `{model}` does not exist.",
                "type": "NotFoundError",
                "param": None,
                "code": 404,
            },
        ),
        "too-long": Reply(
            400, openai_error("This model's maximum context length is 32768 tokens.", "BadRequestError", 400)
        ),
        "server": Reply(500, openai_error("EngineCore encountered an issue.", "InternalServerError", 500)),
    },
    "sglang": {
        # The first two come from its gateway: a server by itself has one model, and no limit but its queue.
        "rate": Reply(429),
        "model": Reply(
            404, coded_error("model_not_found", "No worker available for model '{model}'", type="Not Found", param=None)
        ),
        "key": Reply(401, {"error": "Unauthorized"}),
        "too-long": Reply(
            400,
            flat_error(
                "The input is longer than the model's maximum context length of 8192 tokens.", "BadRequestError", 400
            ),
        ),
        "server": Reply(500, flat_error("Internal server error", "InternalServerError", 500)),
        "overloaded": Reply(503, flat_error("The request queue is full.", "InternalServerError", 503)),
    },
    "lmdeploy": {
        "key": Reply(
            401,
            {"detail": openai_error("Please request with valid api key!", "invalid_request_error", "invalid_api_key")},
        ),
        "model": Reply(404, flat_error("The model '{model}' does not exist.", "invalid_request_error", 404)),
        "server": Reply(503, flat_error("The inference engine is unavailable.", "server_error", 503)),
    },
    "llamafactory": {
        "key": Reply(401, {"detail": "Invalid API key."}),
        "server": Reply(500, "Internal Server Error"),
    },
    "llamacpp": {
        "key": Reply(401, coded_error(401, "Invalid API Key", type="authentication_error")),
        "model": Reply(400, coded_error(400, "model not found", type="invalid_request_error")),
        "too-long": Reply(
            400,
            coded_error(
                400,
                "request (13392 tokens) exceeds the available context size (8192 tokens)",
                type="exceed_context_size_error",
                n_prompt_tokens=13392,
                n_ctx=8192,
            ),
        ),
        "server": Reply(503, coded_error(503, "Loading model", type="unavailable_error")),
    },
    "ollama": {
        # The first two come with its models in the cloud: a server by itself has neither keys nor limits.
        "rate": Reply(429, openai_error("you have reached your hourly usage limit", "api_error")),
        "key": Reply(401, openai_error("unauthorized", "api_error")),
        "model": Reply(404, openai_error('model "{model}" not found, try pulling it first', "not_found_error")),
        "too-long": Reply(400, openai_error("the input length exceeds the context length", "invalid_request_error")),
        "server": Reply(503, openai_error("server busy: maximum pending requests exceeded", "api_error")),
    },
    "lmstudio": {
        "key": Reply(
            401,
            {
                "error": {
                    "type": "invalid_request",
                    "code": "invalid_api_key",
                    "message": "An LM Studio API token is required to make requests to this server.",
                }
            },
        ),
        "model": Reply(
            400, openai_error("No models loaded. Please load a model first.", "invalid_request_error", None, "model")
        ),
        "too-long": Reply(
            400, {"error": "The model is loaded with context length of only 4096 tokens, which is not enough."}
        ),
        "server": Reply(400, {"error": "The model has crashed without additional information. (Exit code: 6)"}),
    },
    "litellm": {
        "rate": Reply(
            429, _litellm("Rate limit exceeded for api_key: 0. Limit type: tokens.", "None", 429), {"retry-after": "5"}
        ),
        "money": Reply(422, openai_error("Budget has been exceeded! Max budget: 5.0", "budget_exceeded", "422")),
        "key": Reply(
            401,
            openai_error(
                "Authentication Error, Invalid proxy server token passed.", "token_not_found_in_db", "401", "key"
            ),
        ),
        "model": Reply(
            400,
            openai_error(
                "/chat/completions: Invalid model name passed in model={model}.", "invalid_request_error", "400"
            ),
        ),
        "content": Reply(400, openai_error("litellm.ContentPolicyViolationError: it was filtered", None, "400")),
        "too-long": Reply(400, openai_error("litellm.ContextWindowExceededError: the prompt is too long", None, "400")),
        "server": Reply(500, openai_error("litellm.InternalServerError: Internal Server Error", None, "500")),
        "overloaded": Reply(
            429, _litellm("No deployments available for selected model, Try again in 60 seconds.", "None", 429)
        ),
    },
    "one-api": {
        "rate": Reply(429, _one_api("当前分组上游负载已饱和，请稍后再试", "rate_limit_error", "rate_limit_exceeded")),  # noqa: RUF001 - as sent
        "channel": Reply(429, _one_api("当前分组上游负载已饱和", "insufficient_quota", "insufficient_quota")),
        "money": Reply(403, _one_api("user quota is not enough", code="insufficient_user_quota")),
        "key": Reply(
            401, {"error": {"message": "无效的令牌 (request id: 20261129000000000)", "type": "one_api_error"}}
        ),
        "model": Reply(
            503,
            {"error": {"message": "当前分组 default 下对于模型 {model} 无可用渠道", "type": "one_api_error"}},
        ),
        "server": Reply(500, _one_api("unexpected EOF", code="do_request_failed")),
    },
    # Proxies, gateways and firewalls. `blocked` is a firewall that dislikes a request's words.
    "proxy": {
        "login": Reply(
            407, _page("407 Proxy Authentication Required", "proxy"), {"proxy-authenticate": 'Basic realm="proxy"'}
        ),
        "unreachable": Reply(502, _page("502 Bad Gateway", "proxy"), _VIA),
        "down": Reply(503, _page("503 Service Unavailable", "proxy"), _VIA),
    },
    "nginx": {
        "rate": Reply(429, _page("429 Too Many Requests"), {"server": "nginx"}),
        "bad-gateway": Reply(502, _page("502 Bad Gateway"), {"server": "nginx"}),
        "unavailable": Reply(503, _page("503 Service Temporarily Unavailable"), {"server": "nginx"}),
        "timeout": Reply(504, _page("504 Gateway Time-out"), {"server": "nginx"}),
        "too-large": Reply(413, _page("413 Request Entity Too Large"), {"server": "nginx"}),
        "blocked": Reply(403, _page("403 Forbidden"), {"server": "nginx"} | _VIA),
        "missing": Reply(404, "default backend - 404"),
        "moved": Reply(302, _page("302 Found"), {"server": "nginx", "location": "/login"}),
    },
    "cloudflare": {
        "rate": Reply(429, "error code: 1015", {"retry-after": "10"} | _CLOUDFLARE),
        "blocked": Reply(
            403, _cloudflare_page("Attention Required! | Cloudflare", "Sorry, you have been blocked"), _CLOUDFLARE
        ),
        "challenge": Reply(
            403,
            _cloudflare_page("Just a moment...", "Checking your browser"),
            {"cf-mitigated": "challenge"} | _CLOUDFLARE,
        ),
        "down": Reply(521, _cloudflare_page("api.example | 521: Web server is down", "Error 521"), _CLOUDFLARE),
        "timeout": Reply(524, _cloudflare_page("api.example | 524: A timeout occurred", "Error 524"), _CLOUDFLARE),
    },
}
"""The replies by service, then by case.

`rate` is a limit (`hidden-rate`: inside an HTTP 200), `money` an account without it, `key` a wrong one, `model` one
that is unknown or not loaded, `content` a refusal of the row, `too-long` a row that no model of it can take, `server` a
fault of the service, `overloaded` a lack of capacity. A case that a service is not known to send is left out.
"""
