"""Every exception of the libraries below a call has a fate, its own or that of the class it is based on."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from batcher.calls.failures import failure_of
from batcher.calls.fate import Fate, meaning_of
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
        # Of web sockets, webhooks, agents, browsers and its command line; of wrong use of the SDK; caught within its
        # token exchange.
        # What LengthFinishReasonError carries is an answer, and is kept: test_caller shows it.
        NEVER: """
            APIRemovedInV1 AgentFilePreparationError AgentFileStagingError AgentOutputParseError AgentTurnResultError
            BrowserCancelledError BrowserError CancelledError ComputerUseError DecisionsToolRunnerCancelledError
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
            ClientConnectionError ClientConnectionResetError ClientConnectorDNSError ClientConnectorError
            ClientConnectorSSLError ClientError ClientHttpProxyError ClientOSError ClientPayloadError
            ClientProxyConnectionError ClientResponseError ClientSSLError ConnectionTimeoutError ContentTypeError
            NonHttpUrlClientError NonHttpUrlRedirectClientError RedirectClientError ServerConnectionError
            ServerDisconnectedError ServerFingerprintMismatch ServerTimeoutError SocketTimeoutError TooManyRedirects
            UnixClientConnectorError UploadAbortedError
        """,
        OUT: "ClientConnectorCertificateError InvalidURL InvalidUrlClientError InvalidUrlRedirectClientError",
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


class Kind(NamedTuple):
    """An exception class: its module, and the names of classes that it is based on."""

    module: str
    bases: set[str]


def classes_of(package: str) -> Iterator[tuple[str, Kind]]:
    """Read the sources of a package: each class, and what stands between its brackets."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for name, bases in CLASS.findall(path.read_text(encoding="utf-8")):
            yield name, Kind(module, set(re.findall(r"\w+", bases)))


@pytest.fixture(scope="module")
def exceptions() -> dict[str, dict[str, Kind]]:
    """Every exception class of each package, by its name.

    The sources are read, since importing all modules would take long and some need other packages; what has been
    loaded is asked, since the sources do not always name the bases.
    """
    known = ("builtins", "asyncio", *FATES)
    loaded = {kind for kind in subclasses(BaseException) if kind.__module__.startswith(known)}
    found = {
        package: {
            kind.__name__: Kind(kind.__module__, {base.__name__ for base in kind.__mro__[1:]})
            for kind in loaded
            if kind.__module__.startswith(package)
        }
        for package in FATES
    }
    classes = [(package, *each) for package in FATES for each in classes_of(package)]
    names = {kind.__name__ for kind in loaded}
    size = -1
    while len(names) > size:  # until no class is based on one that was found before
        size = len(names)
        for package, name, kind in classes:
            if kind.bases & names:
                names.add(name)
                found[package].setdefault(name, kind)
    return {
        package: {name: kind for name, kind in each.items() if kind.module != SERVERS_SIDE}
        for package, each in found.items()
    }


def subclasses(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


DECIDED = {name for fates in FATES.values() for names in fates.values() for name in names.split()}


def undecided(bases: Mapping[str, set[str]], decided: Iterable[str]) -> set[str]:
    """Return the classes of a package that neither are decided nor are based, over any number of steps, on one that is.

    Args:
        bases: the names of each class's bases, which may be classes of any package.
        decided: the classes of this package that have a fate; another package may use the same name.
    """
    found = bases.keys() & set(decided)
    size = -1
    while len(found) > size:
        size = len(found)
        found |= {name for name in bases if bases[name] & (DECIDED | found)}
    return bases.keys() - found


@pytest.mark.parametrize("package", FATES)
def test_every_exception_has_a_fate_or_that_of_a_class_it_is_based_on(
    package: str, exceptions: dict[str, dict[str, Kind]]
) -> None:
    decided = [name for names in FATES[package].values() for name in names.split()]
    assert undecided({name: kind.bases for name, kind in exceptions[package].items()}, decided) == set()


def test_a_release_asks_for_a_decision_only_with_a_class_that_is_based_on_no_known_one() -> None:
    new = {"Child": {"Generic", "APIError"}, "Grandchild": {"Child"}, "Root": {"Exception"}, "RootsChild": {"Root"}}
    assert undecided(new, []) == {"Root", "RootsChild"}
    namesake = {"ClientError": {"Exception"}}  # of another package it is known
    assert undecided(namesake, []) == {"ClientError"}
    assert undecided(namesake, ["ClientError"]) == set()


@pytest.mark.parametrize("package", FATES)
def test_no_exception_has_two_fates(package: str) -> None:
    decided = [name for names in FATES[package].values() for name in names.split()]
    assert len(decided) == len(set(decided))


# --- and the call gives it that fate ---

INFO: Any = SimpleNamespace(real_url="http://127.0.0.1/v1")
PLACE = ConnectionKey("127.0.0.1", 80, False, False, None, None, None)


def made(kind: type[Exception]) -> Exception:
    """Make an exception as its library does, with the arguments that it takes."""
    status = getattr(kind, "status_code", None)
    response = SimpleNamespace(
        request=None, status_code=status or 500, headers={}, text='{"error": {"message": "said"}}'
    )
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
    """Return the fate in the three words of this table: a refusal counts for the more likely of the two."""
    assert isinstance(failure, Failure)
    likely = {Fate.WAIT: AGAIN, Fate.ROW_REFUSED: ROW_ENDS, Fate.ENDPOINT_REFUSES: OUT}
    fate = meaning_of(failure).fate
    return likely.get(fate, fate)


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


EACH_CASE = pytest.mark.parametrize(
    ("package", "name", "fate"), CASES, ids=[f"{package}.{name}" for package, name, _ in CASES]
)


def kind_of(package: str, name: str, exceptions: dict[str, dict[str, Kind]]) -> type[Exception]:
    if name not in exceptions[package]:
        pytest.skip("the installed release does not have it")
    kind: type[Exception] = getattr(importlib.import_module(exceptions[package][name].module), name)
    return kind


async def met_by(error: Exception, package: str) -> Fate:
    """Return the fate of a row whose call raises this."""
    if package != "aiohttp":
        return fate_of(failure_of(error, 1.0))
    attempt = Attempt([])  # our own client's; what a user's model raises of it is read as any other
    session: Any = Session(error)
    await Completions(session, "http://127.0.0.1:1/v1", None, "m", {}).send(attempt)
    return fate_of(attempt.outcome)


@EACH_CASE
async def test_an_exception_meets_its_fate(
    package: str, name: str, fate: Fate, exceptions: dict[str, dict[str, Kind]]
) -> None:
    assert await met_by(made(kind_of(package, name, exceptions)), package) is fate


@EACH_CASE
async def test_an_exception_that_a_later_release_brings_meets_the_fate_of_its_base(
    package: str, name: str, fate: Fate, exceptions: dict[str, dict[str, Kind]]
) -> None:
    brought = type("Brought", (kind_of(package, name, exceptions),), {})
    assert await met_by(made(type("BroughtLater", (brought,), {})), package) is fate


def test_what_a_users_model_lets_through_of_aiohttp_is_read_alike() -> None:
    for kind in (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ServerTimeoutError):
        assert fate_of(failure_of(made(kind), 1.0)) is AGAIN
    assert fate_of(failure_of(aiohttp.ClientResponseError(INFO, (), status=401), 1.0)) is OUT
