"""Finds the way to a URL: straight, or through the proxy that the environment or the system's settings name.

Invariant: the user and the password of a proxy go into its own header alone; no message and no `repr` shows them. What
is said of a way hides its secrets in URLs and in the words of others, never in our own words.
"""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batcher.calls.texts import one_line
from batcher.errors import SettingsError
from batcher.hiding import (
    basic_of,
    credentials_of,
    credentials_of_proxy,
    hide,
    longest_first,
    public_url,
    secrets_among,
    user_of,
)

_KINDS = {"http", "https"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy on the way to a service.

    Attributes:
        url: its URL, with user and password.
        source: the variable that names it, or `the system's settings`.
    """

    url: str = field(repr=False)
    source: str

    @property
    def place(self) -> str:
        """Its URL without user and password."""
        return public_url(self.url).rstrip("/")

    @property
    def authorization(self) -> dict[str, str]:
        """The header with user and password, if it has them."""
        user = user_of(self.url)
        return {"Proxy-Authorization": f"Basic {basic_of(user[0])}"} if user else {}

    @property
    def secrets(self) -> tuple[str, ...]:
        """User and password, in every form in which they may come back."""
        return credentials_of(self.url)


@dataclass(frozen=True, slots=True)
class Way:
    """The way of a request.

    Attributes:
        url: where it is sent; empty if that is unknown.
        proxy: the proxy before it.
        secrets: texts that no message about it may show, the longest first.
    """

    url: str = field(repr=False)
    proxy: Proxy | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def told(self, text: object) -> str:
        """Return what a server, a proxy or a library said as a message may show it."""
        return one_line(str(text), self.secrets)

    @property
    def place(self) -> str:
        """The scheme, the host and the port of the URL."""
        parts = urlsplit(public_url(self.url))
        return f"{parts.scheme}://{self._named(parts.netloc)}" if parts.netloc else "the service"

    @property
    def host(self) -> str:
        """The host of the URL, as NO_PROXY names it."""
        return self._named(urlsplit(self.url).hostname or "")

    @property
    def proxy_place(self) -> str:
        """The URL of the proxy, if there is one."""
        return self._named(self.proxy.place) if self.proxy else ""

    def _named(self, place: str) -> str:
        """Return a place without secrets; a label of a host name, or a port, that equals a short one is not secret."""
        return hide(place, secrets_among(self.secrets))

    @property
    def first(self) -> str:
        """Where the connection goes: to the proxy, if there is one."""
        return f"the proxy at {self.proxy_place} ({self.proxy.source})" if self.proxy else self.place

    @property
    def needs_tls(self) -> bool:
        """Whether the service or the proxy speaks TLS."""
        return any(map(_is_tls, (self.url, self.proxy.url if self.proxy else "")))

    @property
    def is_tunnelled(self) -> bool:
        """Whether the proxy only passes bytes on, and TLS is spoken with the service."""
        return self.proxy is not None and _is_tls(self.url)

    @property
    def whole(self) -> str:
        """The service, and the proxy before it."""
        return f"{self.place} (through {self.first})" if self.proxy else self.place


def way_to(url: str) -> Way:
    """Return the way to a URL.

    Raises:
        SettingsError: as `proxy_for`.
    """
    return Way(url, proxy_for(url))


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for a URL: that of its scheme, else that for all; None if it needs none, as loopback does.

    aiohttp's own `trust_env` looks it up, and reads `~/.netrc`, in each request, and does not know ALL_PROXY.

    Raises:
        SettingsError: it is not an HTTP proxy, or its URL is invalid.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in (parts.scheme, "all") if proxies.get(kind)), None)
    if kind is None or _is_loopback(parts.hostname or "") or urllib.request.proxy_bypass(parts.netloc):
        return None
    text, source = proxies[kind], _source(kind)
    scheme, separator, _ = text.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+-]*", scheme) and scheme.lower() not in _KINDS:
        raise SettingsError(
            f"{source} names a {scheme} proxy, which cannot be used: name one of http:// (most proxy programs offer"
            f" both), or set NO_PROXY={parts.hostname}"
        )
    proxy = Proxy(text if separator else f"http://{text}", source)
    if not _is_valid(proxy.url):
        raise SettingsError(
            f"{source} must look like http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with @ : / in user and"
            " password written as %40 %3A %2F; it is not shown"
        )
    return proxy


def proxy_secrets() -> tuple[str, ...]:
    """Return users and passwords of all proxies that the environment or the system names."""
    return longest_first(each for text in urllib.request.getproxies().values() for each in credentials_of_proxy(text))


def _source(kind: str) -> str:
    """Return the variable that names the proxy of a kind; as in curl, lower case goes before upper case."""
    names = sorted(name for name, value in os.environ.items() if name.lower() == f"{kind}_proxy" and value)
    return names[-1] if names else "the system's settings"


def _is_tls(url: str) -> bool:
    return url.lower().startswith("https:")


def _is_valid(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url) and parts.path in {"", "/"}
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
