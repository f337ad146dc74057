"""Reads an exception of a chat model as a failure.

Invariant: reading never raises; the text that is shown of an error is one printable line without API key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from batcher.calls.error_bodies import failure_in
from batcher.calls.texts import json_of, one_line
from batcher.calls.unreached import cause_of, perhaps_of_proxy
from batcher.calls.ways import Way, way_to
from batcher.errors import SettingsError
from batcher.records import Failure, Fault

# By name, because each provider's SDK has its own classes, over one of several HTTP libraries.
_TIMEOUTS = {"TimeoutError", "APITimeoutError", "TimeoutException", "Timeout", "ModelTimeoutError"}
_NO_CONNECTION = {
    "ConnectionError",
    "APIConnectionError",
    "TransportError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ModelConnectionError",
}
# Those of them that are raised before a request has left.
_NEVER_LEFT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "ClientConnectorError",
    "ConnectionTimeoutError",
    "ConnectionRefusedError",
    "gaierror",
}
# An error in the stream of an answer, or an answer that the SDK cannot read.
_NO_ANSWER = {"APIError"}
# LangChain's own errors name by their class what a server's status means.
_STATUS = {
    "ModelAuthenticationError": 401,
    "ModelPermissionDeniedError": 403,
    "ModelNotFoundError": 404,
    "ModelRateLimitError": 429,
    "ModelInvalidRequestError": 400,
    "ContextOverflowError": 400,
    "ModelAPIError": 500,
}


def failure_of(
    error: Exception, timeout_s: float, secrets: Sequence[str] = (), *, may_be_billed: bool = True
) -> Failure:
    """Read an exception of a chat model by its attributes, its class and its causes.

    Args:
        error: the exception.
        timeout_s: the call's timeout in seconds.
        secrets: texts that the failure must not show.
        may_be_billed: the request may have left; the exception may still show that it had not, or was refused.
    """
    causes = list(_causes(error))
    way = replace(_way_of(causes), secrets=tuple(secrets))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    response = getattr(error, "response", None)
    said = (getattr(source, name, None) for source in (error, response) for name in ("status_code", "status"))
    status = next((code for code in said if isinstance(code, int)), None)
    if status is None:
        status = next((code for name, code in _STATUS.items() if name in names), None)
    if status is not None:
        headers = {name.lower(): value for name, value in dict(getattr(response, "headers", {})).items()}
        body = _body_of(response) or _body_of_error(error)
        failure = perhaps_of_proxy(failure_in(status, headers, body or str(error), secrets), way)
        return failure if body else replace(failure, is_page=False)  # the text is the library's
    may_be_billed = may_be_billed and not names & _NEVER_LEFT
    if names & _TIMEOUTS:
        message = one_line(str(error), secrets) or f"nothing came within {timeout_s:g} s"
        return Failure(Fault.TIMEOUT, message, may_be_billed=may_be_billed)
    if cause := cause_of(error, way):
        is_billed = may_be_billed and cause.fault is not Fault.UNREACHABLE
        return Failure(cause.fault, cause.words, may_be_billed=is_billed)
    if names & _NO_CONNECTION:
        deepest = next((cause for cause in reversed(causes) if str(cause)), error)
        message = one_line(str(deepest), secrets) or type(error).__name__
        return Failure(Fault.CONNECTION, message, may_be_billed=may_be_billed)
    if names & _NO_ANSWER and (body := _body_of_error(error)):
        return replace(failure_in(200, {}, body, secrets), may_be_billed=may_be_billed)
    fault = Fault.PROTOCOL if names & _NO_ANSWER else Fault.OTHER
    return Failure(fault, one_line(f"{type(error).__name__}: {error}", secrets), may_be_billed=may_be_billed)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _way_of(errors: Iterable[BaseException]) -> Way:
    """Return the way of a request that an exception knows; httpx's raise an error if they know none."""
    for error in errors:
        try:
            url = str(error.request.url)  # type: ignore[attr-defined]
            return way_to(url)
        except (AttributeError, RuntimeError, ValueError, SettingsError):
            continue
    return Way("")


def _body_of_error(error: Exception) -> str:
    """Return the error object that OpenAI's SDK has taken out of a response, or an empty text."""
    body = getattr(error, "body", None)
    return json_of({"error": body}) if isinstance(body, dict) and body else ""


def _body_of(response: object) -> str:
    try:
        return str(getattr(response, "text", ""))
    except RuntimeError:  # it was not read
        return ""
