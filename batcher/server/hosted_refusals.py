"""What the services that are reached over the internet answer instead of an answer.

Invariant: status, codes and shape are those that the service is known to send; the sentences may differ from its own.
Of `infini` none is known: it answers in OpenAI's shape.
"""

from __future__ import annotations

from typing import Any

from batcher.server.error_shapes import coded_error, flat_error, openai_error
from batcher.server.faults import Reply


def _anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_0"}


def _google(code: int, status: str, message: str, *details: dict[str, Any]) -> list[dict[str, Any]]:
    """An error of Google's, which comes in a list."""
    error = {"code": code, "message": message, "status": status}
    return [{"error": error | ({"details": list(details)} if details else {})}]


def _dashscope(code: str, message: str) -> dict[str, Any]:
    return openai_error(message, code, code) | {"id": "chatcmpl-0", "request_id": "0"}


def _moonshot(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


def _minimax(code: int, message: str) -> dict[str, Any]:
    """An error of MiniMax's, which comes with HTTP 200."""
    return {"choices": None, "base_resp": {"status_code": code, "status_msg": message}}


def _minimax_400(message: str) -> dict[str, Any]:
    """An error of MiniMax's newer interface, with its number in the message."""
    error = {"type": "bad_request_error", "message": message, "http_code": "400"}
    return {"type": "error", "error": error, "request_id": "0"}


def _cerebras(message: str, kind: str, param: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": param, "code": code}


def _nvidia(status: int, title: str, detail: str) -> dict[str, Any]:
    return {"status": status, "title": title, "detail": detail}


def _deepinfra(message: str) -> dict[str, Any]:
    return {"detail": {"error": message}}


HOSTED: dict[str, dict[str, Reply]] = {
    "openai": {
        "flex": Reply(
            429,
            openai_error(
                "Flex resources are unavailable at the moment. You were not charged.", None, "resource_unavailable"
            ),
        ),
        "rate": Reply(
            429,
            openai_error(
                "Rate limit reached for {model} on requests per min (RPM).", "requests", "rate_limit_exceeded"
            ),
            {"retry-after": "1", "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "0"},
        ),
        "money": Reply(
            429,
            openai_error(
                "You exceeded your current quota: check plan and billing.", "insufficient_quota", "insufficient_quota"
            ),
        ),
        "key": Reply(
            401, openai_error("Incorrect API key provided: sk-0***0.", "invalid_request_error", "invalid_api_key")
        ),
        "model": Reply(
            404, openai_error("The model `{model}` does not exist.", "invalid_request_error", "model_not_found")
        ),
        "content": Reply(
            400,
            openai_error("Invalid prompt: it was flagged by our policy.", "invalid_request_error", "invalid_prompt"),
        ),
        "too-long": Reply(
            400,
            openai_error(
                "This model's maximum context length is 8192 tokens.",
                "invalid_request_error",
                "context_length_exceeded",
                "messages",
            ),
        ),
        "server": Reply(500, openai_error("The server had an error. Sorry about that!", "server_error")),
        "overloaded": Reply(503, openai_error("The engine is currently overloaded.", "server_error")),
    },
    "azure": {
        "rate": Reply(
            429,
            coded_error("429", "Requests have exceeded the token rate limit. Please retry after 2 seconds."),
            {"retry-after": "2", "retry-after-ms": "2000"},
        ),
        "key": Reply(401, coded_error("401", "Access denied: the subscription key or the API endpoint is wrong.")),
        "model": Reply(404, coded_error("DeploymentNotFound", "The API deployment for this resource does not exist.")),
        "content": Reply(
            400,
            coded_error(
                "content_filter",
                "The prompt triggered the content management policy.",
                type=None,
                param="prompt",
                status=400,
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
        ),
        "too-long": Reply(
            400,
            openai_error(
                "This model's maximum context length is 8192 tokens.",
                "invalid_request_error",
                "context_length_exceeded",
                "messages",
            ),
        ),
        "server": Reply(408, coded_error("Timeout", "The operation was timeout.")),
    },
    "deepseek": {
        "rate": Reply(429, {"error": {"message": "Rate limit reached", "type": "rate_limit_error"}}),
        "money": Reply(402, openai_error("Insufficient Balance", "unknown_error", "invalid_request_error")),
        "key": Reply(
            401,
            openai_error(
                "Authentication Fails, Your api key is invalid", "authentication_error", "invalid_request_error"
            ),
        ),
        "model": Reply(400, openai_error("Model Not Exist", "invalid_request_error", "invalid_request_error")),
        "content": Reply(400, openai_error("Content Exists Risk", "invalid_request_error", "invalid_request_error")),
        "too-long": Reply(
            400,
            openai_error(
                "This model's maximum context length is 65536 tokens.", "invalid_request_error", "invalid_request_error"
            ),
        ),
        "server": Reply(
            503, openai_error("Service is too busy.", "service_unavailable_error", "invalid_request_error")
        ),
    },
    "dashscope": {
        "rate": Reply(429, _dashscope("limit_requests", "You exceeded your current requests list.")),
        "money": Reply(400, _dashscope("Arrearage", "Access denied: your account is not in good standing.")),
        "key": Reply(401, _dashscope("invalid_api_key", "Incorrect API key provided.")),
        "model": Reply(404, _dashscope("model_not_found", "The model `{model}` does not exist.")),
        "content": Reply(400, _dashscope("data_inspection_failed", "Input data may contain inappropriate content.")),
        "too-long": Reply(
            400,
            openai_error(
                "Range of input length should be [1, 30720]", "invalid_parameter_error", "invalid_parameter_error"
            )
            | {"id": "chatcmpl-0", "request_id": "0"},
        ),
        "server": Reply(
            503, {"code": "ModelUnavailable", "message": "Model is unavailable, try again later.", "request_id": "0"}
        ),
    },
    "zhipu": {
        "rate": Reply(429, coded_error("1302", "您的账户已达到速率限制，请您控制请求频率")),  # noqa: RUF001 - as sent
        "money": Reply(429, coded_error("1113", "您的账户已欠费，请充值后重试")),  # noqa: RUF001 - as sent
        "key": Reply(401, coded_error("1002", "Authentication Token 非法")),
        "model": Reply(400, coded_error("1211", "模型不存在，请检查模型代码。")),  # noqa: RUF001 - as sent
        "content": Reply(
            400,
            {"contentFilter": [{"level": 1, "role": "user"}]} | coded_error("1301", "系统检测到输入可能包含敏感内容。"),
        ),
        "too-long": Reply(400, coded_error("1261", "Prompt 超长")),
        "server": Reply(500, coded_error("1234", "网络错误，请联系客服。")),  # noqa: RUF001 - as sent
        "overloaded": Reply(429, coded_error("1305", "该模型当前访问量过大，请您稍后再试")),  # noqa: RUF001 - as sent
    },
    "moonshot": {
        "rate": Reply(429, _moonshot("rate_limit_reached_error", "Your account reached max concurrency: 3.")),
        "money": Reply(429, _moonshot("exceeded_current_quota_error", "Your account is suspended: recharge it.")),
        "key": Reply(401, _moonshot("invalid_authentication_error", "Invalid Authentication")),
        "model": Reply(404, _moonshot("resource_not_found_error", "Not found the model {model} or Permission denied")),
        "content": Reply(400, _moonshot("content_filter", "The request was considered high risk")),
        "too-long": Reply(400, _moonshot("invalid_request_error", "Your request exceeded model token limit: 8192")),
        "server": Reply(429, _moonshot("engine_overloaded_error", "The engine is currently overloaded.")),
    },
    "siliconflow": {
        "rate": Reply(
            429, {"message": "Request was rejected due to rate limiting. Details:RPM limit reached.", "data": "string"}
        ),
        "money": Reply(403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
        "key": Reply(401, '"Invalid token"', {"content-type": "application/json"}),
        "model": Reply(400, {"code": 20012, "message": "Model does not exist.", "data": None}),
        "too-long": Reply(
            400,
            {
                "code": 20015,
                "message": "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
                "data": None,
            },
        ),
        "server": Reply(503, {"code": 50505, "message": "Model service overloaded.", "data": None}),
    },
    "ark": {
        "rate": Reply(
            429,
            coded_error(
                "ModelAccountTpmRateLimitExceeded", "The TPM limit of the account is exceeded.", type="TooManyRequests"
            ),
        ),
        "money": Reply(
            403, coded_error("AccountOverdueError", "Your account has an overdue balance.", type="Forbidden")
        ),
        "key": Reply(
            401, coded_error("AuthenticationError", "The API key is missing or invalid.", type="Unauthorized")
        ),
        "model": Reply(404, coded_error("ModelNotOpen", "Your account has not activated {model}.", type="NotFound")),
        "content": Reply(
            400,
            coded_error("SensitiveContentDetected", "The input may contain sensitive information.", type="BadRequest"),
        ),
        "too-long": Reply(
            400,
            coded_error(
                "InvalidParameter", "Total tokens of image and text exceed max message tokens.", type="BadRequest"
            ),
        ),
        "server": Reply(
            500, coded_error("InternalServiceError", "The service met an internal error.", type="InternalServerError")
        ),
        "overloaded": Reply(
            429, coded_error("ServerOverloaded", "The service cannot take more requests now.", type="TooManyRequests")
        ),
    },
    "qianfan": {
        "rate": Reply(
            429, coded_error("rpm_rate_limit_exceeded", "Rate limit reached for RPM", type="rate_limit_exceeded")
        ),
        "hidden-rate": Reply(200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}),
        "money": Reply(429, {"code": "BILLING_INSUFFICIENT_BALANCE", "message": "Your account lacks balance"}),
        "key": Reply(401, coded_error("invalid_iam_token", "IAM Certification failed", type="invalid_request_error")),
        "model": Reply(
            401, coded_error("invalid_model", "No permission to use the model", type="invalid_request_error")
        ),
        "content": Reply(
            400, coded_error("image_url_unsafe", "the content of image_url.url is unsafe", type="unsafe_request")
        ),
        "too-long": Reply(400, coded_error("tokens_too_long", "Prompt tokens too long", type="invalid_request_error")),
        "server": Reply(500, coded_error("internal_error", "Internal error", type="server_error")),
    },
    "minimax": {
        "rate": Reply(200, _minimax(1002, "rate limit exceeded(RPM)")),
        "money": Reply(200, _minimax(1008, "insufficient balance")),
        "key": Reply(200, _minimax(1004, "not authorized")),
        "model": Reply(400, _minimax_400("invalid params, unknown model '{model}' (2013)")),
        "content": Reply(200, _minimax(1026, "input new_sensitive") | {"input_sensitive": True}),
        "too-long": Reply(400, _minimax_400("invalid params, context window exceeds limit (2013)")),
        "server": Reply(200, _minimax(1000, "unknown error")),
    },
    "openrouter": {
        "rate": Reply(429, coded_error(429, "Rate limit exceeded"), {"retry-after": "5"}),
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
        "money": Reply(402, coded_error(402, "Insufficient credits. Add more in the settings.")),
        "key": Reply(401, coded_error(401, "User not found.")),
        "model": Reply(404, coded_error(404, "No endpoints found for {model}.")),
        "content": Reply(403, coded_error(403, "{model} requires moderation. Your input was flagged.")),
        "too-long": Reply(400, coded_error(400, "This endpoint's maximum context length is 8192 tokens.")),
        "server": Reply(502, coded_error(502, "Provider returned error")),
        "overloaded": Reply(529, coded_error(529, "Provider returned error")),
    },
    "groq": {
        "rate": Reply(
            429,
            openai_error(
                "Rate limit reached for model `{model}`. Please try again in 2s.", "tokens", "rate_limit_exceeded"
            ),
            {"retry-after": "2"},
        ),
        "money": Reply(
            400, openai_error("Organization has been restricted.", "invalid_request_error", "organization_restricted")
        ),
        "key": Reply(401, openai_error("Invalid API Key", "invalid_request_error", "invalid_api_key")),
        "model": Reply(
            404, openai_error("The model `{model}` does not exist.", "invalid_request_error", "model_not_found")
        ),
        "too-long": Reply(
            413,
            openai_error(
                "Request too large for model `{model}` on tokens per minute (TPM): Limit 6000.",
                "tokens",
                "rate_limit_exceeded",
            ),
            {"x-should-retry": "false"},
        ),
        "server": Reply(498, openai_error("Flex tier capacity exceeded", "internal_server_error", "capacity_exceeded")),
        "overloaded": Reply(503, openai_error("{model} is currently over capacity.", "internal_server_error")),
    },
    "together": {
        "rate": Reply(
            429, openai_error("You have been rate limited: 60 queries per minute.", "dynamic_request_limited")
        ),
        "money": Reply(402, openai_error("Credit limit exceeded, please add credit.", "credit_limit")),
        "key": Reply(401, openai_error("Invalid API key provided.", "invalid_request_error", "invalid_api_key")),
        "model": Reply(
            400, openai_error("Unable to access model {model}.", "invalid_request_error", "model_not_available")
        ),
        "too-long": Reply(
            403,
            openai_error(
                "Input token count + max_tokens must be less than the context length of the model.",
                "invalid_request_error",
                None,
                "max_tokens",
            ),
        ),
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
                    "message": "Account x is suspended, possibly due to reaching the monthly spending limit.",
                    "param": None,
                    "type": "error",
                    "code": "PRECONDITION_FAILED",
                }
            },
        ),
        "key": Reply(401, openai_error("The API key you provided is invalid.", "error", "UNAUTHORIZED")),
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
        "too-long": Reply(
            400,
            openai_error(
                "The prompt is too long: 9000, model maximum context length: 8191",
                "invalid_request_error",
                "invalid_request_error",
            ),
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
        "too-long": Reply(
            400,
            flat_error(
                "Prompt contains 40046 tokens, too large for model with 32768 maximum context length",
                "invalid_request_error",
                "3051",
            ),
        ),
        "server": Reply(503, {"object": "error", "message": "The request queue is full.", "code": 503}),
        "overloaded": Reply(
            429,
            flat_error("Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505"),
            {"retry-after": "1"},
        ),
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
        "too-long": Reply(
            400,
            _google(
                400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens allowed (1048576)."
            ),
        ),
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
        "too-long": Reply(
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "This model's maximum prompt length is 131072 tokens.",
            },
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
        "too-long": Reply(400, {"message": "too many tokens: size limit exceeded by 11326 tokens.", "id": "0"}),
        "server": Reply(500, {"message": "internal server error", "id": "0"}),
    },
    "deepinfra": {
        "rate": Reply(429, _deepinfra("Model busy, retry later")),
        "money": Reply(402, _deepinfra("inference prohibited, please enter a payment method or top up balance")),
        "key": Reply(403, _deepinfra("Not authenticated")),
        "model": Reply(404, _deepinfra("Model is not available")),
        "too-long": Reply(
            400,
            openai_error("Requested input length 40000 exceeds maximum input length 32768", "invalid_request_error"),
        ),
        "overloaded": Reply(429, openai_error("Model busy, retry later", "invalid_request_error", "engine_overloaded")),
    },
    "infini": {
        "rate": Reply(429, openai_error("Rate limit reached", "requests", "rate_limit_exceeded")),
        "key": Reply(401, openai_error("Incorrect API key provided", "invalid_request_error", "invalid_api_key")),
        "model": Reply(
            404, openai_error("The model `{model}` does not exist", "invalid_request_error", "model_not_found")
        ),
        "server": Reply(500, openai_error("The server had an error", "server_error")),
    },
    "cerebras": {
        "rate": Reply(
            429,
            _cerebras(
                "Requests per minute limit exceeded", "too_many_requests_error", "quota", "request_quota_exceeded"
            ),
        ),
        "key": Reply(401, _cerebras("Wrong API Key", "invalid_request_error", "api_key", "wrong_api_key")),
        "model": Reply(404, _cerebras("Model {model} does not exist.", "not_found_error", "model", "model_not_found")),
        "too-long": Reply(
            400,
            _cerebras(
                "Please reduce the length of the messages: the limit is 8192",
                "invalid_request_error",
                "messages",
                "context_length_exceeded",
            ),
        ),
        "overloaded": Reply(
            429,
            _cerebras(
                "We're experiencing high traffic right now!", "too_many_requests_error", "queue", "queue_exceeded"
            ),
        ),
    },
    "nvidia": {
        "rate": Reply(429, {"status": 429, "title": "Too Many Requests"}),
        "money": Reply(402, _nvidia(402, "Payment Required", "Account 'x': Cloud credits expired")),
        "key": Reply(403, _nvidia(403, "Forbidden", "Authorization failed")),
        "model": Reply(404, _nvidia(404, "Not Found", "Function 'x': Not found for account 'y'")),
        "server": Reply(400, _nvidia(400, "Bad Request", "Function id 'x': DEGRADED function cannot be invoked")),
        "overloaded": Reply(
            503,
            openai_error(
                "ResourceExhausted: Worker local total request limit reached (16/16)", "Service Unavailable", 503
            ),
        ),
    },
    "huggingface": {
        "rate": Reply(
            429, {"error": "Too Many Requests: you have reached your 'api' rate limit. Retry after 55 seconds."}
        ),
        "money": Reply(402, {"error": "You have exceeded your monthly included credits for Inference Providers."}),
        "key": Reply(401, {"error": "Invalid username or password."}),
        "model": Reply(
            400,
            openai_error(
                "The requested model '{model}' is not supported by any provider you have enabled.",
                "invalid_request_error",
                "model_not_supported",
                "model",
            ),
        ),
        "too-long": Reply(
            422,
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
                "error_type": "validation",
            },
        ),
        "server": Reply(503, "503 Service Unavailable"),
        "overloaded": Reply(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
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
        "too-long": Reply(
            400, _anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
        ),
        "server": Reply(529, _anthropic("overloaded_error", "Overloaded"), {"x-should-retry": "true"}),
    },
}
"""The replies by service, then by case; `refusals` says what the cases are."""
