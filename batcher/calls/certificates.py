"""Makes the TLS context of a run: it trusts the authorities that the system trusts, and those that variables name.

Invariant: a certificate is always verified, and so is the host's name; a variable that leads to no certificate is
refused before any call.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from batcher.errors import SettingsError

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""OpenSSL's two variables, and those of requests and curl, which name a file or a directory."""

# OpenSSL finds a certificate in a directory by the hash of its name.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+", re.IGNORECASE)


def trusted() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and those in the files that the environment names.

    Raises:
        SettingsError: a variable names something that holds no certificate.
    """
    context = _of_the_system()
    _load_named(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


def check_variables() -> None:
    """Refuse a variable that names something without a certificate.

    Raises:
        SettingsError: the message names the variable.
    """
    _load_named(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _of_the_system() -> ssl.SSLContext:
    # macOS and Windows verify certificates themselves. Elsewhere truststore finds the authorities if OpenSSL does not,
    # but loads them anew for each connection, which takes 20 ms.
    if sys.platform in {"darwin", "win32"} or not ssl.get_default_verify_paths().cafile:
        import truststore  # noqa: PLC0415 - not needed elsewhere

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()


def _load_named(context: ssl.SSLContext) -> None:
    for name in VARIABLES:
        if text := os.environ.get(name):
            _load(context, name, text)


def _load(context: ssl.SSLContext, name: str, text: str) -> None:
    try:
        if name == "SSL_CERT_DIR" or (name != "SSL_CERT_FILE" and Path(text).is_dir()):
            _load_directories(context, [Path(part) for part in text.split(os.pathsep) if part])
        else:
            context.load_verify_locations(cafile=text)
    except ssl.SSLError:  # an OSError too, so it comes first
        form = "that `openssl rehash` has named" if Path(text).is_dir() else "in PEM format"
        raise SettingsError(f"{name} names {text}, which holds no certificate {form}: {_advice(name)}") from None
    except OSError as error:
        raise SettingsError(f"{name} names {text}: {error.strerror}; {_advice(name)}") from None


def _load_directories(context: ssl.SSLContext, paths: Sequence[Path]) -> None:
    """Load directories, of which one at least holds a certificate: OpenSSL itself reads them when it needs them."""
    paths = [path for path in paths if path.is_dir()] or paths  # OpenSSL skips a directory that does not exist
    if not any(_HASHED.fullmatch(each.name) for path in paths for each in path.iterdir()):
        raise ssl.SSLError
    for path in paths:
        context.load_verify_locations(capath=path)


def _advice(name: str) -> str:
    return f"correct it, or unset {name}"
