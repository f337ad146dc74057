"""The shell of a local server: a listening socket, and uvicorn around an ASGI app, in this thread or in another one.

Invariant: when a base URL is announced, the server behind it takes requests; at its end no connection stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from batcher.errors import SettingsError
from batcher.server.asgi import App
from batcher.words import print_out, say

if TYPE_CHECKING:
    import uvicorn

PORT = 19_327
"""Where `batcher serve` listens if no port is given."""

_PORTS = 65_535
_LOCAL = ("127.", "::1")


def serve_app(app: App, host: str, port: int, announce: Callable[[], None], *, is_open: bool) -> None:
    """Serve an app until Ctrl-C or SIGTERM.

    When the server listens, its base URL is printed, the only line on stdout.

    Args:
        app: of any backend.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        announce: says on stderr what listens, right before the URL is printed.
        is_open: it takes requests without a key, which is said if others than this machine can reach it.

    Raises:
        SettingsError: it cannot listen on that address.
    """
    listener = listen(host, port)

    def announced() -> None:
        announce()
        if is_open and not is_local(listener):
            say("It is open: whoever reaches this address may use it without a key. --api-key-env VARIABLE closes it.")
        print_out(base_url(listener))

    with contextlib.closing(listener):
        _server(app, announced).run(sockets=[listener])


@contextlib.contextmanager
def served(app: App) -> Iterator[str]:
    """Serve an app from a thread of this process, on a free port of 127.0.0.1, during a `with` block.

    Yields:
        The base URL.
    """
    listener = listen("127.0.0.1", 0)
    with served_on(app, listener):
        yield base_url(listener)


@contextlib.contextmanager
def served_on(
    app: App,
    listener: socket.socket,
    at_work: Callable[[], contextlib.AbstractAsyncContextManager[None]] = contextlib.nullcontext,
) -> Iterator[None]:
    """Serve an app on a listening socket, from a thread of this process, during a `with` block; then close the socket.

    Args:
        app: to serve.
        listener: where it listens.
        at_work: what goes on in the loop beside it; it ends when the app takes no more requests.

    Raises:
        Exception: what `at_work` raised.
    """
    ready, failed = threading.Event(), list[BaseException]()
    server = _server(app, ready.set)

    async def work() -> None:
        async with at_work():
            await server.serve(sockets=[listener])

    def run() -> None:
        try:
            asyncio.run(work())
        except Exception as error:  # noqa: BLE001 - it is raised in the other thread
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="batcher-server", daemon=True)
    thread.start()
    try:
        ready.wait()
        if not failed:
            yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    if failed:
        raise failed[0]


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        SettingsError: the port is taken, or the address cannot be used.
    """
    where = f"port {port} of {host!r}"
    if not 0 <= port <= _PORTS:
        raise SettingsError(f"cannot listen at {where}: a port is a number from 0 (any free one) to {_PORTS}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
        raise SettingsError(f"cannot listen at {where}: {_why(error)}") from error
    # asyncio switches Nagle's delay, 40 ms for each answer, off only if a socket declares itself as TCP.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listener.detach())


def _why(error: OSError | UnicodeError) -> str:
    """Say why an address cannot be had, and what to do."""
    if not isinstance(error, OSError) or (error.errno or 0) < 0:  # a negative number is the resolver's
        return "there is no such host. --host takes an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    if error.errno == errno.EADDRINUSE:
        return "another program listens there. Choose another --port; 0 takes a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address. --host 0.0.0.0 listens on all that it has"
    if error.errno == errno.EACCES:
        return "ports below 1024 may be kept for the system. Choose another --port"
    return f"{error}. Choose another --port; 0 takes a free one"


def base_url(listener: socket.socket) -> str:
    """Return the base URL with which this machine reaches a listening socket."""
    return f"{root_url(listener)}/v1"


def root_url(listener: socket.socket) -> str:
    """Return the URL with which this machine reaches a listening socket, without a path."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - a client cannot go to "any"
    return f"http://{host if '[' in host or ':' not in host else f'[{host}]'}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a listening socket."""
    return str(listener.getsockname()[0]).startswith(_LOCAL)


def _server(app: App, on_ready: Callable[[], None]) -> uvicorn.Server:
    """Put uvicorn around the app. It can cut a connection, and it does not wait for requests at its end."""
    import uvicorn  # noqa: PLC0415 - a fifth of a second to load, needed only for serving
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415 - the same

    class Protocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # uvicorn copies this state into the scope of each request.
            self.app_state = {**self.app_state, "cut": transport.abort}
            if server.should_exit:
                transport.abort()  # it was opened while the others were being closed

        def shutdown(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                super().shutdown()
            else:
                self.transport.abort()

    class ReadyServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's names
            # uvicorn would raise the signal again at its end, so that the exit status would not be 0.
            self.should_exit = True

    server = ReadyServer(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )
    return server
