"""Certificates for servers on loopback, of an authority that no machine knows."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
from pathlib import Path

import trustme

_NOW = dt.datetime.now(dt.UTC)
_DAY = dt.timedelta(days=1)


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def authority_in(folder: Path) -> Path:
    """Write the authority's certificate to a file."""
    path = folder / "authority.pem"
    authority().cert_pem.write_to_path(path)
    return path


def serving(*names: str, begins: float = -2, ends: float = 2) -> ssl.SSLContext:
    """Return a server's context with a certificate for these host names; it begins and ends at these days from now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority().issue_cert(*names, not_before=_NOW + begins * _DAY, not_after=_NOW + ends * _DAY)
    issued.configure_cert(context)
    return context


def serving_self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's context whose certificate is that of an authority of its own."""
    own = trustme.CA()
    key, certificate = folder / "own.key", folder / "own.pem"
    own.private_key_pem.write_to_path(key)
    own.cert_pem.write_to_path(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
