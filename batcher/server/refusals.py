"""What services, and the proxies in front of them, answer instead of an answer: one table by service and case.

Invariant: status, codes and shape are those that the service is known to send; the sentences may differ from its own.
"""

from __future__ import annotations

from typing import Any

from batcher.server.faults import Reply

_CLOUDFLARE = {"server": "cloudflare", "cf-ray": "8c0ffee0deadbeef-FRA"}
_VIA = {"via": "1.1 proxy.example"}


def _openai(message: str, kind: str | None, code: str | int | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape, which most services have taken over."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_0"}


def _google(code: int, status: str, message: str, *details: dict[str, Any]) -> list[dict[str, Any]]:
    """An error of Google's, which comes in a list."""
    error = {"code": code, "message": message, "status": status}
    return [{"error": error | ({"details": list(details)} if details else {})}]


def _dashscope(code: str, message: str) -> dict[str, Any]:
    return _openai(message, code, code) | {"id": "chatcmpl-0", "request_id": "0"}


def _moonshot(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


def _coded(code: str | int, message: str, **rest: Any) -> dict[str, Any]:
    """An error object of a code and a message."""
    return {"error": {"code": code, "message": message, **rest}}


def _minimax(code: int, message: str) -> dict[str, Any]:
    """An error of MiniMax's, which comes with HTTP 200."""
    return {"choices": None, "base_resp": {"status_code": code, "status_msg": message}}


def _one_api(message: str, kind: str = "one_api_error", code: str = "") -> dict[str, Any]:
    return _openai(f"{message} (request id: 20261129000000000)", kind, code, "")


def _litellm(message: str, kind: str | None, code: int) -> dict[str, Any]:
    return _openai(message, kind, str(code), "None")


def _page(title: str, sign: str = "nginx") -> str:
    head = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    return f"{head}<hr><center>{sign}</center>\r\n</body>\r\n</html>\r\n"


def _cloudflare_page(title: str, text: str) -> str:
    head = f'<!DOCTYPE html>\n<html lang="en-US"><head><title>{title}</title></head>'
    return f"{head}\n<body><h1>{text}</h1><p>Cloudflare Ray ID: 8c0ffee0deadbeef</p></body></html>\n"


REFUSALS: dict[str, dict[str, Reply]] = {
    "openai": {
        "rate": Reply(
            429,
            _openai("Rate limit reached for {model} on requests per min (RPM).", "requests", "rate_limit_exceeded"),
            {"retry-after": "1", "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "0"},
        ),
        "money": Reply(
            429,
            _openai(
                "You exceeded your current quota: check plan and billing.", "insufficient_quota", "insufficient_quota"
            ),
        ),
        "key": Reply(401, _openai("Incorrect API key provided: sk-0***0.", "invalid_request_error", "invalid_api_key")),
        "model": Reply(404, _openai("The model `{model}` does not exist.", "invalid_request_error", "model_not_found")),
        "content": Reply(
            400, _openai("Invalid prompt: it was flagged by our policy.", "invalid_request_error", "invalid_prompt")
        ),
        "server": Reply(500, _openai("The server had an error. Sorry about that!", "server_error")),
    },
    "azure": {
        "rate": Reply(
            429,
            _coded("429", "Requests have exceeded the token rate limit. Please retry after 2 seconds."),
            {"retry-after": "2", "retry-after-ms": "2000"},
        ),
        "key": Reply(401, _coded("401", "Access denied: the subscription key or the API endpoint is wrong.")),
        "model": Reply(404, _coded("DeploymentNotFound", "The API deployment for this resource does not exist.")),
        "content": Reply(
            400,
            _coded(
                "content_filter",
                "The prompt triggered the content management policy.",
                type=None,
                param="prompt",
                status=400,
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
        ),
        "server": Reply(408, _coded("Timeout", "The operation was timeout.")),
    },
    "deepseek": {
        "rate": Reply(429, {"error": {"message": "Rate limit reached", "type": "rate_limit_error"}}),
        "money": Reply(402, _openai("Insufficient Balance", "unknown_error", "invalid_request_error")),
        "key": Reply(
            401,
            _openai("Authentication Fails, Your api key is invalid", "authentication_error", "invalid_request_error"),
        ),
        "model": Reply(400, _openai("Model Not Exist", "invalid_request_error", "invalid_request_error")),
        "content": Reply(400, _openai("Content Exists Risk", "invalid_request_error", "invalid_request_error")),
        "server": Reply(503, _openai("Service is too busy.", "service_unavailable_error", "invalid_request_error")),
    },
    "dashscope": {
        "rate": Reply(429, _dashscope("limit_requests", "You exceeded your current requests list.")),
        "money": Reply(400, _dashscope("Arrearage", "Access denied: your account is not in good standing.")),
        "key": Reply(401, _dashscope("invalid_api_key", "Incorrect API key provided.")),
        "model": Reply(404, _dashscope("model_not_found", "The model `{model}` does not exist.")),
        "content": Reply(400, _dashscope("data_inspection_failed", "Input data may contain inappropriate content.")),
        "server": Reply(
            503, {"code": "ModelUnavailable", "message": "Model is unavailable, try again later.", "request_id": "0"}
        ),
    },
    "zhipu": {
        "rate": Reply(429, _coded("1302", "您的账户已达到速率限制，请您控制请求频率")),  # noqa: RUF001 - as sent
        "money": Reply(429, _coded("1113", "您的账户已欠费，请充值后重试")),  # noqa: RUF001 - as sent
        "key": Reply(401, _coded("1002", "Authentication Token 非法")),
        "model": Reply(400, _coded("1211", "模型不存在，请检查模型代码。")),  # noqa: RUF001 - as sent
        "content": Reply(
            400,
            {"contentFilter": [{"level": 1, "role": "user"}]} | _coded("1301", "系统检测到输入可能包含敏感内容。"),
        ),
        "server": Reply(500, _coded("1234", "网络错误，请联系客服。")),  # noqa: RUF001 - as sent
    },
    "moonshot": {
        "rate": Reply(429, _moonshot("rate_limit_reached_error", "Your account reached max concurrency: 3.")),
        "money": Reply(429, _moonshot("exceeded_current_quota_error", "Your account is suspended: recharge it.")),
        "key": Reply(401, _moonshot("invalid_authentication_error", "Invalid Authentication")),
        "model": Reply(404, _moonshot("resource_not_found_error", "Not found the model {model} or Permission denied")),
        "content": Reply(400, _moonshot("content_filter", "The request was considered high risk")),
        "server": Reply(429, _moonshot("engine_overloaded_error", "The engine is currently overloaded.")),
    },
    "siliconflow": {
        "rate": Reply(
            429, {"message": "Request was rejected due to rate limiting. Details:RPM limit reached.", "data": "string"}
        ),
        "money": Reply(403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
        "key": Reply(401, '"Invalid token"', {"content-type": "application/json"}),
        "model": Reply(400, {"code": 20012, "message": "Model does not exist.", "data": None}),
        "server": Reply(503, {"code": 50505, "message": "Model service overloaded.", "data": None}),
    },
    "ark": {
        "rate": Reply(
            429,
            _coded(
                "ModelAccountTpmRateLimitExceeded", "The TPM limit of the account is exceeded.", type="TooManyRequests"
            ),
        ),
        "money": Reply(403, _coded("AccountOverdueError", "Your account has an overdue balance.", type="Forbidden")),
        "key": Reply(401, _coded("AuthenticationError", "The API key is missing or invalid.", type="Unauthorized")),
        "model": Reply(404, _coded("ModelNotOpen", "Your account has not activated {model}.", type="NotFound")),
        "content": Reply(
            400, _coded("SensitiveContentDetected", "The input may contain sensitive information.", type="BadRequest")
        ),
        "server": Reply(
            500, _coded("InternalServiceError", "The service met an internal error.", type="InternalServerError")
        ),
    },
    "qianfan": {
        "rate": Reply(429, _coded("rpm_rate_limit_exceeded", "Rate limit reached for RPM", type="rate_limit_exceeded")),
        "hidden-rate": Reply(200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}),
        "money": Reply(429, {"code": "BILLING_INSUFFICIENT_BALANCE", "message": "Your account lacks balance"}),
        "key": Reply(401, _coded("invalid_iam_token", "IAM Certification failed", type="invalid_request_error")),
        "model": Reply(401, _coded("invalid_model", "No permission to use the model", type="invalid_request_error")),
        "server": Reply(500, _coded("internal_error", "Internal error", type="server_error")),
    },
    "minimax": {
        "rate": Reply(200, _minimax(1002, "rate limit exceeded(RPM)")),
        "money": Reply(200, _minimax(1008, "insufficient balance")),
        "key": Reply(200, _minimax(1004, "not authorized")),
        "content": Reply(200, _minimax(1026, "input new_sensitive") | {"input_sensitive": True}),
        "server": Reply(200, _minimax(1000, "unknown error")),
    },
    "openrouter": {
        "rate": Reply(429, _coded(429, "Rate limit exceeded"), {"retry-after": "5"}),
        "hidden-rate": Reply(
            200,
            {
                "choices": [
                    {
                        "message": {"role": "assistant", "content": ""},
                        "finish_reason": "error",
                        "error": {"code": 429, "message": "Rate limit exceeded"},
                    }
                ]
            },
        ),
        "money": Reply(402, _coded(402, "Insufficient credits. Add more in the settings.")),
        "key": Reply(401, _coded(401, "User not found.")),
        "model": Reply(404, _coded(404, "No endpoints found for {model}.")),
        "content": Reply(403, _coded(403, "{model} requires moderation. Your input was flagged.")),
        "server": Reply(502, _coded(502, "Provider returned error")),
    },
    "groq": {
        "rate": Reply(
            429,
            _openai("Rate limit reached for model `{model}`. Please try again in 2s.", "tokens", "rate_limit_exceeded"),
            {"retry-after": "2"},
        ),
        "key": Reply(401, _openai("Invalid API Key", "invalid_request_error", "invalid_api_key")),
        "model": Reply(404, _openai("The model `{model}` does not exist.", "invalid_request_error", "model_not_found")),
        "server": Reply(498, _openai("Flex tier capacity exceeded", "internal_server_error", "capacity_exceeded")),
    },
    "together": {
        "rate": Reply(429, _openai("You have been rate limited: 60 queries per minute.", "dynamic_request_limited")),
        "money": Reply(402, _openai("Credit limit exceeded, please add credit.", "credit_limit")),
        "server": Reply(503, {"error": {"message": "The server is overloaded", "type": "service_unavailable"}}),
    },
    "fireworks": {
        "rate": Reply(
            429,
            {
                "error": {
                    "message": "rate limit exceeded",
                    "object": "error",
                    "type": "rate_limit_error",
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        "money": Reply(
            412,
            {
                "error": {
                    "message": "Account x is suspended: the monthly spending limit is reached.",
                    "param": None,
                    "type": "error",
                    "code": "PRECONDITION_FAILED",
                }
            },
        ),
        "model": Reply(
            404,
            {
                "error": {
                    "message": "Model not found",
                    "object": "error",
                    "type": "invalid_request_error",
                    "code": "NOT_FOUND",
                }
            },
        ),
        "server": Reply(503, {"error": {"message": "Service unavailable", "object": "error", "type": "server_error"}}),
    },
    "mistral": {
        "rate": Reply(429, {"message": "Requests rate limit exceeded"}),
        "key": Reply(401, {"detail": "Unauthorized"}),
        "model": Reply(
            400,
            {
                "object": "error",
                "message": "Unknown model: {model}",
                "type": "invalid_request_error",
                "param": "model",
                "code": "unknown_model",
            },
        ),
        "server": Reply(503, {"object": "error", "message": "The request queue is full.", "code": 503}),
    },
    "gemini": {
        "rate": Reply(
            429,
            _google(
                429,
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota. Please retry in 2s.",
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"},
            ),
        ),
        "money": Reply(
            429,
            _google(
                429, "RESOURCE_EXHAUSTED", "You exceeded your current quota. Quota exceeded, limit: 0, model: {model}"
            ),
        ),
        "key": Reply(
            400,
            _google(
                400,
                "INVALID_ARGUMENT",
                "API key not valid.",
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
            ),
        ),
        "model": Reply(404, _google(404, "NOT_FOUND", "models/{model} is not found for API version v1main")),
        "server": Reply(503, _google(503, "UNAVAILABLE", "The model is overloaded.")),
    },
    "xai": {
        "rate": Reply(429, {"code": "Some resource has been exhausted", "error": "Too many requests for team x."}),
        "money": Reply(403, {"code": "permission-denied", "error": "Your team x has used all available credits."}),
        "key": Reply(
            400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x***0."}
        ),
        "model": Reply(
            404, {"code": "Some requested entity was not found", "error": "The model {model} does not exist."}
        ),
        "content": Reply(
            403, {"code": "permission-denied", "error": "Content violates usage guidelines. Team: x, Model: {model}"}
        ),
        "server": Reply(503, {"code": "The service is currently unavailable", "error": "Service unavailable."}),
    },
    "cohere": {
        "rate": Reply(429, {"message": "You are using a Trial key, which is limited to 40 API calls / minute."}),
        "money": Reply(402, {"message": "Maximum billing reached for this API key, as set in your dashboard."}),
        "key": Reply(401, {"message": "invalid api token", "id": "0"}),
        "model": Reply(
            404, {"message": "model '{model}' not found, make sure the correct model ID was used", "id": "0"}
        ),
        "content": Reply(498, {"message": "blocked output: please adjust your prompt", "id": "0"}),
        "server": Reply(500, {"message": "internal server error", "id": "0"}),
    },
    "anthropic": {
        "rate": Reply(
            429,
            _anthropic("rate_limit_error", "This request would exceed the rate limit of your organization."),
            {"retry-after": "5", "x-should-retry": "true"},
        ),
        "money": Reply(
            400,
            _anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            {"x-should-retry": "false"},
        ),
        "key": Reply(401, _anthropic("authentication_error", "invalid x-api-key")),
        "model": Reply(404, _anthropic("not_found_error", "model: {model}")),
        "server": Reply(529, _anthropic("overloaded_error", "Overloaded"), {"x-should-retry": "true"}),
    },
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
        "server": Reply(500, _openai("EngineCore encountered an issue.", "InternalServerError", 500)),
    },
    "ollama": {
        "model": Reply(404, _openai('model "{model}" not found, try pulling it first', "not_found_error")),
        "server": Reply(503, _openai("server busy: maximum pending requests exceeded", "api_error")),
    },
    "lmstudio": {
        "model": Reply(
            400, _openai("No models loaded. Please load a model first.", "invalid_request_error", None, "model")
        ),
    },
    "litellm": {
        "rate": Reply(
            429, _litellm("Rate limit exceeded for api_key: 0. Limit type: tokens.", "None", 429), {"retry-after": "5"}
        ),
        "money": Reply(422, _openai("Budget has been exceeded! Max budget: 5.0", "budget_exceeded", "422")),
        "key": Reply(
            401,
            _openai("Authentication Error, Invalid proxy server token passed.", "token_not_found_in_db", "401", "key"),
        ),
        "model": Reply(
            400,
            _openai("/chat/completions: Invalid model name passed in model={model}.", "invalid_request_error", "400"),
        ),
        "content": Reply(400, _openai("litellm.ContentPolicyViolationError: it was filtered", None, "400")),
        "server": Reply(500, _openai("litellm.InternalServerError: Internal Server Error", None, "500")),
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
    "nginx": {
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
that is unknown or not loaded, `content` a refusal of the row, `server` a fault of the service. A case that a service is
not known to send is left out.
"""
