"""Says in plain words why a request did not reach a service, or lost its connection, and whether a wait can heal it.

Invariant: exceptions are read by their classes' names and by those of the standard library, so that every HTTP client's
are understood; the secrets of a way are hidden in what others said, and our own words stay whole.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import NamedTuple

from batcher.calls.ways import Way
from batcher.records import Failure, Fault

# What the system's error numbers mean; the first line that holds one of them counts.
_OF_SYSTEM: tuple[tuple[set[int | None], str], ...] = (
    ({errno.ECONNREFUSED}, "nothing listens at {listener}"),
    (
        {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN},
        "there is no route to {first}; is this machine online?",
    ),
    ({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}, "the connection to {whole} was reset"),
    ({errno.EMFILE, errno.ENFILE}, "there is no connection to {whole}: the system allows no more open files"),
    ({errno.ETIMEDOUT}, "{first} does not answer"),
)
# An exception that is not the system's has no number.
_KINDS = {
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
    ConnectionAbortedError: errno.ECONNABORTED,
    BrokenPipeError: errno.EPIPE,
}
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_TLS_ALERT = r"\x15\x03"  # as an exception shows the first bytes of an alert in place of HTTP
# What OpenSSL says if the other end answers a TLS handshake with text.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
# OpenSSL's numbers for a certificate that is refused (x509_vfy.h).
_NOT_YET_VALID, _EXPIRED, _WRONG_NAMES = 9, 10, {62, 64}
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}

# What a proxy answers if it does not reach the service, and a service if it does not reach its own servers.
_NOT_REACHED = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


class Cause(NamedTuple):
    """Why there was no connection: `Fault.UNREACHABLE` if no wait can heal it, else `Fault.CONNECTION`."""

    fault: Fault
    words: str


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those below it: its cause, or another one that it holds, as urllib3's and httpcore's do.

    Of a group, such as one for each address of a host, the first counts.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        held = (error.__cause__, *getattr(error, "exceptions", ()), getattr(error, "reason", None), *error.args)
        error = next((each for each in held if isinstance(each, BaseException)), None)


def cause_of(error: BaseException, way: Way) -> Cause | None:
    """Return why a request has no connection, in words that name the place; None if the exception does not say."""
    causes = list(causes_of(error))
    readers = (_of_certificate, _of_tls, _of_name, _of_proxy, _of_system, _of_library)
    return next((found for read in readers for each in reversed(causes) if (found := read(each, way))), None)


def perhaps_of_proxy(failure: Failure, way: Way) -> Failure:
    """Return a refusal in words that name the proxy, if the proxy sent it or may have sent it.

    A 407 is always the proxy's. Over plain HTTP, a page that says that something behind could not be reached may be the
    proxy's or the service's. An error object is the API's, and inside a tunnel only the service speaks.
    """
    if way.proxy is None:
        return failure
    if failure.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return Failure(*_refused_by_proxy(failure.status, way))
    if way.is_tunnelled or not failure.is_page or failure.status not in _NOT_REACHED:
        return failure
    said = f"{way.first}, or the service behind it, answered: {failure.message}"
    return replace(failure, message=f"{said}; if it was the proxy, correct {way.proxy.source}, or {_around(way)}")


def _refused_by_proxy(status: int, way: Way) -> Cause:
    """Return what it means that the proxy itself answers, in place of the service."""
    fault = Fault.UNREACHABLE if status in {401, 403, 405, 407} else Fault.CONNECTION
    if way.proxy is None:
        return Cause(fault, f"the proxy refused a connection to {way.place} (HTTP {status})")
    if status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        words = f"refused a connection to {way.place} (HTTP {status}): correct {way.proxy.source}, or {_around(way)}"
    elif way.proxy.secrets:
        words = f"refused the user and the password in {way.proxy.source} (HTTP 407): correct them, or {_around(way)}"
    else:
        words = (
            f"requires a user and a password (HTTP 407): write them into {way.proxy.source}, as in"
            f" http://USER:PASSWORD@HOST:PORT, or {_around(way)}"
        )
    return Cause(fault, f"{way.first} {words}")


def _around(way: Way) -> str:
    return f"set NO_PROXY={way.host} to go around the proxy"


def _of_certificate(error: BaseException, way: Way) -> Cause | None:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    code, said = getattr(error, "verify_code", 0), way.told(getattr(error, "verify_message", "") or error)
    subject = f"the certificate of {_tls_place(way)}"
    if code in _UNKNOWN_AUTHORITY:
        who = "is signed by itself" if code == 18 else "is signed by an authority that this machine does not know"
        words = f"{subject} {who}: set SSL_CERT_FILE to a file (PEM) that holds the authority's certificate"
    elif code == _EXPIRED:
        words = f"{subject} has expired: the service has to renew it, unless the clock of this machine is wrong"
    elif code == _NOT_YET_VALID:
        words = f"{subject} is not valid yet: check the clock of this machine"
    elif code in _WRONG_NAMES:
        words = f"{subject} is for another host name ({said.rstrip('.')}): check the base URL"
    else:
        words = f"{subject} is not accepted: {said}. SSL_CERT_FILE may name a file (PEM) with further authorities"
    return Cause(Fault.UNREACHABLE, words)


def _of_tls(error: BaseException, way: Way) -> Cause | None:
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Cause(Fault.CONNECTION, f"{way.whole} closed the connection during TLS")
    if not isinstance(error, ssl.SSLError):
        return None
    place = _tls_place(way)
    reason = getattr(error, "reason", None) or ""
    if reason in _NO_TLS:
        return Cause(Fault.UNREACHABLE, f"{place} does not speak TLS: begin the base URL with http://")
    said = way.told(reason.replace("_", " ").lower() or error)
    return Cause(Fault.CONNECTION, f"TLS with {place} failed ({said})")


def _tls_place(way: Way) -> str:
    """Return the other end of a TLS connection: the service, unless the proxy speaks TLS and the service does not."""
    return way.place if way.is_tunnelled else way.first


def _of_name(error: BaseException, way: Way) -> Cause | None:
    variable = way.proxy.source if way.proxy else "the base URL"
    if isinstance(error, socket.gaierror):
        if error.errno in _UNKNOWN_NAME:
            return Cause(Fault.UNREACHABLE, f"the host name of {way.first} is unknown: check {variable}")
        return Cause(Fault.CONNECTION, f"the host name of {way.first} cannot be looked up now; is this machine online?")
    if isinstance(error, UnicodeError) and re.search("idna|label", str(error)):
        return Cause(Fault.UNREACHABLE, f"the host name of {way.first} is not a valid one: check {variable}")
    return None


def _of_proxy(error: BaseException, way: Way) -> Cause | None:
    names = _names(error)
    status = getattr(error, "status", None)
    if "ClientHttpProxyError" in names and isinstance(status, int):
        return _refused_by_proxy(status, way)
    if "ProxyError" in names and (said := re.match(r"[1-5]\d\d\b", str(error))):
        return _refused_by_proxy(int(said[0]), way)
    return None


def _of_system(error: BaseException, way: Way) -> Cause | None:
    if not isinstance(error, OSError):
        return None
    # One exception may stand for several, one for each address of the host.
    numbers = {error.errno, *map(int, re.findall(r"\[Errno (\d+)\]", str(error)))}
    numbers |= {number for kind, number in _KINDS.items() if isinstance(error, kind)}
    words = next((words for known, words in _OF_SYSTEM if known & numbers), None)
    return (
        None
        if words is None
        else Cause(Fault.CONNECTION, words.format(listener=_listener(way), first=way.first, whole=way.whole))
    )


def _listener(way: Way) -> str:
    if way.proxy:
        return f"{way.proxy_place} (connection refused), the proxy of {way.proxy.source}"
    return f"{way.place} (connection refused)"


def _of_library(error: BaseException, way: Way) -> Cause | None:
    names, said = _names(error), str(error)
    if _TLS_ALERT in said and names & {"BadHttpMessage", "RemoteProtocolError"}:
        return tls_expected(way)
    if "ServerDisconnectedError" in names or "Server disconnected" in said:
        return Cause(Fault.CONNECTION, f"{way.whole} closed the connection without an answer")
    if "payload is not completed" in said or "peer closed connection" in said:
        return Cause(Fault.CONNECTION, f"{way.whole} closed the connection before its answer had ended")
    if "InvalidURL" in names:
        return Cause(Fault.UNREACHABLE, f"no request can be sent to {way.place}: check the base URL")
    return None


def tls_expected(way: Way) -> Cause:
    """Return what it means that a port refuses plain HTTP because it speaks TLS."""
    return Cause(Fault.UNREACHABLE, f"{way.place} expects TLS: begin the base URL with https://")


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


_HTTP_TO_TLS = (
    b"the plain http request was sent to https port",  # nginx
    b"client sent an http request to an https server",  # Go
    b"speaking plain http to an ssl-enabled server port",  # Apache
    b"this combination of host and port requires tls",  # Spring
)


def speaks_tls(raw: bytes) -> bool:
    """Return whether the body of a 400 says that the port expects TLS; it is a page or a line, never JSON."""
    head = raw[:4096].lower()
    return not head.lstrip().startswith((b"{", b"[")) and any(words in head for words in _HTTP_TO_TLS)


def too_much_head(error: BaseException) -> bool:
    """Return whether a response was refused because its headers are too long or too many."""
    causes: Sequence[BaseException] = list(causes_of(error))
    return any("LineTooLong" in _names(each) or "Too many headers" in str(each) for each in causes)
