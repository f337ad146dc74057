"""Every exception of the libraries below a call has a fate; a release that brings a new one asks for a decision."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from batcher.calls.failures import failure_of
from batcher.calls.retry import Fate, Policy, Record, decide
from batcher.calls.transport import Attempt, Completions
from batcher.records import Failure

AGAIN, ROW_ENDS, OUT = Fate.AGAIN, Fate.ROW_ENDS, Fate.ENDPOINT_OUT
NEVER = None
"""No call raises it, or something on the way turns it into one of the others."""

FATES: dict[str, dict[Fate | None, str]] = {
    "openai": {
        AGAIN: """
            APIConnectionError APIError APIResponseValidationError APIStatusError APITimeoutError ConflictError
            InternalServerError RateLimitError
        """,
        ROW_ENDS: """
            BadRequestError ContentFilterFinishReasonError OpenAIError SubjectTokenProviderError
            UnprocessableEntityError
        """,
        OUT: "AuthenticationError NotFoundError OAuthError PermissionDeniedError",
        # Of web sockets, webhooks, agents and browsers; of wrong use of the SDK; caught within its token exchange.
        # What LengthFinishReasonError carries is an answer, and is kept: test_caller shows it.
        NEVER: """
            APIRemovedInV1 AgentFilePreparationError AgentFileStagingError AgentOutputParseError AgentTurnResultError
            BrowserCancelledError BrowserError ComputerUseError DecisionsToolRunnerCancelledError
            DecisionsToolRunnerError InvalidWebhookSignatureError LengthFinishReasonError MissingDependencyError
            MissingStreamClassError MutuallyExclusiveAuthError ResponsesWebSocketBufferError ResponsesWebSocketError
            StreamAlreadyConsumed ToolRunnerCancelledError ToolRunnerError WebSocketConnectionClosedError
            WebSocketQueueFullError _AmbiguousModuleClientUsageError _TransientTokenExchangeError
        """,
    },
    "langchain_openai": {
        AGAIN: "OpenAIAPIError OpenAIConnectionError OpenAIRateLimitError OpenAITimeoutError StreamChunkTimeoutError",
        ROW_ENDS: """
            OpenAIAPIContextOverflowError OpenAIContextOverflowError OpenAIInvalidRequestError OpenAIRefusalError
        """,
        OUT: "OpenAIAuthenticationError OpenAIModelNotFoundError OpenAIPermissionDeniedError",
        NEVER: "OpenAIModerationError _ChatGPTOAuthRefreshError",
    },
    "langchain_core": {
        AGAIN: "ModelAPIError ModelConnectionError ModelRateLimitError ModelTimeoutError",
        ROW_ENDS: """
            ContextOverflowError FakeListChatModelError LangChainException ModelError ModelInvalidRequestError
            ModelRefusalError OutputParserException TracerException
        """,
        OUT: "ModelAuthenticationError ModelNotFoundError ModelPermissionDeniedError",
        # Of tools, stores, templates and indexes; warnings.
        NEVER: """
            ChevronError FakeListLLMError IndexingException InvalidKeyException LangChainBetaWarning
            LangChainDeprecationWarning LangChainPendingDeprecationWarning SSRFBlockedError SchemaAnnotationError
            ToolException
        """,
    },
    "aiohttp": {
        AGAIN: """
            ClientConnectionError ClientConnectionResetError ClientConnectorCertificateError ClientConnectorDNSError
            ClientConnectorError ClientConnectorSSLError ClientError ClientHttpProxyError ClientOSError
            ClientPayloadError ClientProxyConnectionError ClientResponseError ClientSSLError ConnectionTimeoutError
            ContentTypeError InvalidURL InvalidUrlClientError InvalidUrlRedirectClientError NonHttpUrlClientError
            NonHttpUrlRedirectClientError RedirectClientError ServerConnectionError ServerDisconnectedError
            ServerFingerprintMismatch ServerTimeoutError SocketTimeoutError TooManyRedirects UnixClientConnectorError
            UploadAbortedError
        """,
        # Of web sockets, forms and aiohttp's own server; of the parser, which ClientResponseError and
        # ClientPayloadError stand for.
        NEVER: """
            BadContentDispositionHeader BadContentDispositionParam BadHttpMessage BadHttpMethod BadStatusLine
            CleanupError ContentEncodingError ContentLengthError DecompressSizeError EofStream GracefulExit
            HttpBadRequest HttpProcessingError InvalidHeader InvalidURLError LineTooLong LookupError NotAppKeyWarning
            PayloadAccessError PayloadEncodingError RequestPayloadError TooManyMembersError TransferEncodingError
            WSHandshakeError WSMessageTypeError WSServerHandshakeError WebSocketError
        """,
    },
}
# A server written with aiohttp raises these.
SERVERS_SIDE = "aiohttp.web_exceptions"

CLASS = re.compile(r"^[ \t]*class (\w+)\(([^)]*)\)", re.MULTILINE)


def classes_of(package: str) -> Iterator[tuple[str, str, set[str]]]:
    """Read the sources of a package: module, class, and what stands between its brackets."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for name, bases in CLASS.findall(path.read_text(encoding="utf-8")):
            yield module, name, set(re.findall(r"\w+", bases))


@pytest.fixture(scope="module")
def exceptions() -> dict[str, dict[str, str]]:
    """Every exception class of each package: its module by its name.

    The sources are read, since importing all modules would take long and some need other packages; what has been
    loaded is asked, since the sources do not always name the bases.
    """
    classes = [(package, *each) for package in FATES for each in classes_of(package)]
    known = ("builtins", "asyncio", *FATES)
    loaded = {(module, name) for module, name in subclasses(BaseException) if module.startswith(known)}
    found = {package: {name: module for module, name in loaded if module.startswith(package)} for package in FATES}
    names = {name for _, name in loaded}
    size = -1
    while len(names) > size:  # until no class is based on one that was found before
        size = len(names)
        for package, module, name, bases in classes:
            if bases & names:
                names.add(name)
                found[package].setdefault(name, module)
    return {
        package: {name: module for name, module in each.items() if module != SERVERS_SIDE}
        for package, each in found.items()
    }


def subclasses(kind: type[BaseException]) -> Iterator[tuple[str, str]]:
    for each in kind.__subclasses__():
        yield each.__module__, each.__name__
        yield from subclasses(each)


@pytest.mark.parametrize("package", FATES)
def test_every_exception_has_a_fate(package: str, exceptions: dict[str, dict[str, str]]) -> None:
    decided = [name for names in FATES[package].values() for name in names.split()]
    assert len(decided) == len(set(decided))
    assert exceptions[package].keys() - set(decided) == set()


# --- and the call gives it that fate ---

INFO: Any = SimpleNamespace(real_url="http://127.0.0.1/v1")
PLACE = ConnectionKey("127.0.0.1", 80, False, False, None, None, None)


def made(kind: type[Exception]) -> Exception:
    """Make an exception as its library does, with the arguments that it takes."""
    status = getattr(kind, "status_code", None)
    response = SimpleNamespace(request=None, status_code=status or 500, headers={}, text="said")
    ways: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((PLACE, OSError(1, "said")), {}),
        (("/socket", PLACE, OSError(1, "said")), {}),
        ((INFO, ()), {}),
        ((b"one", b"other", "127.0.0.1", 80), {}),
        (("said",), {"response": response, "body": None}),
        ((), {"response": response, "body": None}),
        ((), {"request": None}),
        (("said",), {"request": None, "body": None}),
        (("said",), {"key": "x"}),
        (("said",), {}),
        ((1.0,), {}),
        ((), {}),
    ]
    for args, options in ways:
        try:
            error = kind(*args, **options)
            str(error)
        except (TypeError, AttributeError, ValueError):
            continue
        return error
    pytest.fail(f"nobody knows how to make {kind.__name__}")


def fate_of(failure: object) -> Fate:
    assert isinstance(failure, Failure)
    return decide(failure, Record().after(failure, 1.0), Policy(), 0.5).fate


class Session:
    """A session of aiohttp that can only raise."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def post(self, *_: Any, **__: Any) -> Any:
        raise self.error


CASES = [
    (package, name, fate)
    for package, fates in FATES.items()
    for fate, names in fates.items()
    for name in names.split()
    if fate is not NEVER
]


@pytest.mark.parametrize(("package", "name", "fate"), CASES, ids=[f"{package}.{name}" for package, name, _ in CASES])
async def test_an_exception_meets_its_fate(
    package: str, name: str, fate: Fate, exceptions: dict[str, dict[str, str]]
) -> None:
    if name not in exceptions[package]:
        pytest.skip("the installed release does not have it")
    error = made(getattr(importlib.import_module(exceptions[package][name]), name))
    if package == "aiohttp":  # our own client's; what a user's model raises of it is read as any other
        attempt = Attempt([])
        session: Any = Session(error)
        await Completions(session, "http://127.0.0.1:1/v1", None, "m", {}).send(attempt)
        assert fate_of(attempt.outcome) is fate
    else:
        assert fate_of(failure_of(error, 1.0)) is fate


def test_what_a_users_model_lets_through_of_aiohttp_is_read_alike() -> None:
    for kind in (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ServerTimeoutError):
        assert fate_of(failure_of(made(kind), 1.0)) is AGAIN
    assert fate_of(failure_of(aiohttp.ClientResponseError(INFO, (), status=401), 1.0)) is OUT
