"""Workers that are actors of Ray, on this machine or on the nodes of a cluster.

Invariant: API keys reach a worker as an argument of a call to it, and stay in memory: they are in no constructor, which
the cluster keeps, and in no environment of a Ray that was started here. A Ray that was started here ends with the run.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import itertools
import logging
import math
import os
import queue
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import ray
from ray.exceptions import RayError

from batcher.calls.workers.setup import VERSIONS, Setup
from batcher.calls.workers.worker import WorkerLost
from batcher.errors import BatcherError, SettingsError, in_words
from batcher.words import duration, option

if TYPE_CHECKING:
    from batcher.calls.workers.hands import Hands
    from batcher.calls.workers.worker import Watcher

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
"""Addresses: a Ray of the run's own on this machine; the cluster that this machine is part of; Ray's client."""

# What is passed up to 100 KB goes directly; what is larger passes through a store that may be written to a disk.
_PIECE = 2**16
_STORE_BYTES = 100 * 2**20
# How long a first worker may take, in seconds.
_START_S, _WORDS_AFTER_S = 600, 15
# How long a cluster may not answer, in seconds. Ray ends this process after 60: before that the run has ended in order.
_SILENT_S = 30
_CONNECT_S = 5
# How long the last answers of workers that are ended may take, in seconds, and the end of a connection that is lost.
_CLOSE_S, _END_S = 5, 10
# ... and of one whose head may just have died: Ray ends the process after 60.
_LONGEST_END_S = 25
# The most seconds between two tries to start a worker after failures, and the most tries to have a first one.
_LONGEST_PAUSE_S, _MOST_TRIES = 60, 8
# Open files of a worker that are no connection, and connections that rest.
_FILES, _RESTING = 128, 512
_DIRECTORY = "batcher-ray-"
# Signals that a closed terminal, or who ends a whole group of processes, sends to all of them.
_STOPPING = {getattr(signal, name) for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name)}
# Characters of the directory in which that one is made: what Ray makes in it has 80 more.
_LONGEST_DIRECTORY = 12


T = TypeVar("T")
# What Ray, or its client, raises if it does not answer; a `TimeoutError` is an `OSError`.
_SILENCES = (RayError, RuntimeError, OSError, ValueError, grpc.RpcError)


class ClusterLost(BatcherError):
    """Ray itself does not answer any more: no worker can be had, and Ray would soon end this process as well."""


class _Thread:
    """Does one thing after the other, in a thread that the end of the process does not wait for.

    For what Ray may never return from if its head is dead.
    """

    def __init__(self) -> None:
        self._works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, function: Callable[[], T]) -> Future[T]:
        """Do something, unless its future is cancelled before."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                future.set_exception(error)

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batcher-ray", daemon=True)
            self._thread.start()
        self._works.put(work)
        return future

    def end(self) -> None:
        """Let the thread end when it has done what was asked for."""
        self._works.put(None)

    def _work(self) -> None:
        while (work := self._works.get()) is not None:
            work()


class _Ready(NamedTuple):
    """What a worker says when it is ready.

    Attributes:
        address: of its node.
        node: Ray's id of it.
        room: calls that it may have in flight.
        remarks: what people should know.
        error: why it cannot make the calls; empty if it can.
    """

    address: str
    node: str
    room: int
    remarks: tuple[str, ...] = ()
    error: str = ""


class _Actor:
    """What Ray runs in a worker. Pieces of groups may arrive in another order than they were sent."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._hands: Hands | None = None
        self._early: dict[int, tuple[bytes, bool]] = {}
        self._untold: deque[bytes] = deque()
        self._next = 0

    async def hear(self, piece: bytes) -> None:
        """Take a piece of the setup."""
        self._pieces.append(piece)

    async def begin(self, calls: int, versions: str) -> tuple[Any, ...]:
        """Make the callers, for so many calls in flight at most, if the other end has the same versions."""
        from batcher.calls.workers.hands import Hands  # noqa: PLC0415 - LangChain is for workers alone

        context = ray.get_runtime_context()
        ready = _Ready(ray.util.get_node_ip_address(), context.get_node_id(), 0)
        if versions != VERSIONS:
            error = f"it has {VERSIONS}, and the process that began the run {versions}: install the same there"
            return tuple(ready._replace(error=error))
        packed = b"".join(self._pieces)
        self._pieces.clear()
        room = _room_for(calls)
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # a call makes many objects, and hardly any is part of a cycle
        try:
            self._hands = Hands(packed, room + _RESTING)
        except SettingsError as error:
            return tuple(ready._replace(error=str(error)))
        return tuple(ready._replace(room=room, remarks=tuple(self._hands.remarks)))

    async def take(self, number: int, piece: bytes, *, is_last: bool) -> None:
        """Take the pieces of groups up to the first one that is missing."""
        self._early[number] = piece, is_last
        while self._hands and (following := self._early.pop(self._next, None)):
            self._next += 1
            self._pieces.append(following[0])
            if following[1]:
                self._hands.take(b"".join(self._pieces))
                self._pieces.clear()

    async def news(self, gather_s: float) -> tuple[bytes, bool]:
        """Return a piece of the news, and whether it is the last one."""
        if self._hands is None:
            raise AssertionError
        if not self._untold:
            news = await self._hands.news(gather_s)
            self._untold.extend(news[start : start + _PIECE] for start in range(0, len(news), _PIECE))
        return self._untold.popleft(), not self._untold


def _room_for(calls: int) -> int:
    """Let this process open files for so many calls, if the system allows it; return for how many it does."""
    if os.name != "posix":
        return calls
    import resource  # noqa: PLC0415 - POSIX alone has it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = math.inf if hard == resource.RLIM_INFINITY else hard
    wanted = int(min(calls + _RESTING + _FILES, most))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(min(calls, wanted - _FILES), 1)


class _RayLink:
    """One actor, as the crew sees it."""

    def __init__(self, actor: Any, name: str, ready: _Ready, answer: Callable[[Any], Awaitable[Any]]) -> None:
        self.name = name
        self.room = ready.room
        self.node = ready.node
        self._actor = actor
        self._answer = answer
        self._take = actor.take.options(num_returns=0)
        self._pieces = itertools.count()

    def send(self, group: bytes) -> None:
        # If the worker is dead, its news say so.
        with contextlib.suppress(*_SILENCES):
            for start in range(0, len(group), _PIECE):
                end = start + _PIECE
                self._take.remote(next(self._pieces), group[start:end], is_last=end >= len(group))

    async def news(self, gather_s: float) -> bytes:
        pieces, is_last = [], False
        try:
            while not is_last:
                piece, is_last = await self._answer(self._actor.news.remote(gather_s))
                pieces.append(piece)
        except _SILENCES as error:
            raise WorkerLost(_in_short(error)) from None
        return b"".join(pieces)

    def kill(self) -> None:
        _kill(self._actor)


class _Connection:
    """The connection of this process to Ray: a process has one at most, and runs at the same time share it."""

    def __init__(self) -> None:
        # Ray's processes on this machine end with the thread that began them, so it outlives each run's loop. And Ray
        # would take over signals in the main thread.
        self._thread = _Thread()
        self._left: Future[None] | None = None
        self._runs = 0
        self._address: str | None = None
        self._directory: Path | None = None

    async def begin(self, address: str, workers: int | None, keys: Sequence[str]) -> None:
        """Connect to Ray, or start one; a connection that the user has made is used.

        Raises:
            SettingsError: there is none at the address, or another run is connected to another one, or was and its
                connection does not end.
        """
        if self._left and not self._left.done():
            raise SettingsError(
                f"{option('ray', address)}: the connection of an earlier run to Ray does not end: begin this run in"
                " another process"
            )
        work = asyncio.wrap_future(self._thread.begin(lambda: self._begin(address, workers, keys)))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            if not work.exception():
                await self.end()
            raise
        _take_signals_back()

    async def end(self, *, is_lost: bool = False) -> None:
        """End the connection with the last run, unless it is the user's."""
        ending = self._thread.begin(self._end)
        work = asyncio.wrap_future(ending)
        await asyncio.wait([work], timeout=_END_S if is_lost else _LONGEST_END_S)
        if work.done():
            work.result()
        else:  # a head that stands still keeps Ray waiting: that thread is left behind
            self._thread, self._left = _Thread(), ending
            atexit.unregister(ray.shutdown)

    def _begin(self, address: str, workers: int | None, keys: Sequence[str]) -> None:
        if not ray.is_initialized():
            self._connect(address, workers, keys)
            self._address, self._runs = address, 0
        elif self._runs and self._address not in {None, address}:
            raise SettingsError(
                f"{option('ray', address)}: another run in this process is connected to Ray ({self._address}), and a"
                " process has one connection at most: begin this run when that one has ended"
            )
        self._runs += 1

    def _end(self) -> None:
        self._runs -= 1
        if self._runs or self._address is None:
            return
        self._undo()

    def _undo(self) -> None:
        # Before what may take long: another run may begin meanwhile, if this thread is left behind.
        self._address, directory, self._directory = None, self._directory, None
        ray.shutdown()
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    def _connect(self, address: str, workers: int | None, keys: Sequence[str]) -> None:
        shared: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        try:
            with _quiet(), _discreet():
                if address == LOCAL:
                    self._start_local(workers, keys, shared)
                else:
                    _check_is_there(address)
                    ray.init(address, **shared)
        except Exception as error:  # Ray raises bare ones as well
            self._undo()
            why = _in_short(error)
            if address == LOCAL:
                raise SettingsError(f"{option('ray', address)}: Ray does not start ({why})") from error
            advice = "start one with `ray start --head`, or give " if address == AUTO else "check "
            raise SettingsError(
                f"{option('ray', address)}: no Ray can be reached there ({why}): {advice}the address"
            ) from error

    def _start_local(self, workers: int | None, keys: Sequence[str], shared: dict[str, Any]) -> None:
        try:
            self._try_local(workers, keys, shared)
        except Exception:  # noqa: BLE001 - on a busy machine Ray's processes may wait for each other in vain
            self._undo()
            self._try_local(workers, keys, shared)

    def _try_local(self, workers: int | None, keys: Sequence[str], shared: dict[str, Any]) -> None:
        _remove_left_over()
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}{os.getpid()}-", dir=_temporary()))
        with _environment(keys), _out_of_reach():
            ray.init(
                LOCAL,
                num_cpus=workers or max((os.cpu_count() or 1) - 1, 1),
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._directory),
                **shared,
            )


_connection = _Connection()


class RayCluster:
    """Starts actors of Ray, and watches them and their nodes.

    Args:
        address: `local`, `auto`, `ray://HOST:PORT` or `HOST:PORT`.
        workers: how many; None: one for each CPU, less one for this process.
        calls: the most calls that a worker may have in flight.
        keys: API keys, which no environment of a Ray that is started here may hold.
        say: shows people what becomes of workers.
    """

    def __init__(self, address: str, workers: int | None, calls: int, keys: Sequence[str], say: Any) -> None:
        self.name = f"Ray ({address})"
        self._address = address
        self._wanted = workers
        self._calls = calls
        self._keys = keys
        self._say = say
        self._packed = b""
        self._is_connected = False
        self._numbers = itertools.count(1)
        self._links: dict[_RayLink, None] = {}
        self._beginning: set[asyncio.Task[None]] = set()
        self._unanswered: set[asyncio.Future[Any]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._thread = _Thread()
        self._first: asyncio.Future[None] | None = None
        self._nodes = 0
        self._is_lost = False
        self._failures: list[str] = []
        self._troubles = 0
        self._starts_at = 0.0
        self._remarked: set[str] = set()
        self._watcher: Watcher

    async def start(self, setup: Setup, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        self._packed = setup.packed()
        self._watcher = watcher
        await _connection.begin(self._address, self._wanted, self._keys)
        self._is_connected = True
        self._first = loop.create_future()
        self._watching = loop.create_task(self._watch())
        waits = asyncio.ensure_future(self._first)
        for is_last in (False, True):
            done, _ = await asyncio.wait(
                {waits, self._watching},
                timeout=_START_S if is_last else _WORDS_AFTER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done:
                break
            if not is_last:
                self._say(f"{self.name}: waiting for a worker; is a CPU of the cluster free?", "warning")
        else:
            causes = "; ".join(dict.fromkeys(self._failures)) or "it has no free CPU"
            raise SettingsError(f"{self.name} gave no worker within {duration(_START_S)}: {causes}")
        if self._watching.done():
            self._watching.result()
        await waits

    def released(self, link: Any) -> None:
        link.kill()
        self._links.pop(link, None)

    async def close(self) -> None:
        tasks = [*self._beginning, *filter(None, [self._watching])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.end()
        if not self._is_lost:  # else nothing would answer
            for link in self._links:
                link.kill()
            if self._unanswered:
                await asyncio.wait(self._unanswered, timeout=_CLOSE_S)
        if self._is_connected:
            self._is_connected = False
            await _connection.end(is_lost=self._is_lost)

    # -- Workers

    async def _watch(self) -> None:
        """Start workers while there are too few, and see which nodes go, until the cluster is lost."""
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while True:
            try:
                # However long this process itself stood still, the cluster has a moment to answer.
                async with asyncio.timeout_at(max(heard_at + _SILENT_S, loop.time() + _CONNECT_S)):
                    seen = await asyncio.wrap_future(self._thread.begin(_look))
                heard_at = loop.time()
                self._keep_up(seen)
            except ClusterLost as error:
                self._lose(str(error))
                return
            except _SILENCES as error:
                if loop.time() - heard_at >= _SILENT_S:
                    self._lose(f"it does not answer any more ({in_words(error)})")
                    return
            await asyncio.sleep(1)

    def _keep_up(self, seen: _Seen) -> None:
        """Let workers go whose nodes do, and start workers if there are too few."""
        loop = asyncio.get_running_loop()
        self._nodes = seen.nodes
        for link in [each for each in self._links if each.node in seen.draining]:
            self._watcher.drains(link)
        wanted = self._wanted or max(seen.cpus - (self._address != LOCAL), 1)
        while len(self._links) + len(self._beginning) < wanted and loop.time() >= self._starts_at:
            task = loop.create_task(self._begin(next(self._numbers)))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _lose(self, why: str) -> None:
        """Let the run stop: no worker can be had any more."""
        self._is_lost = True
        lost = ClusterLost(f"{self.name} is lost: {why}{'' if self._address == LOCAL else '. Start it again'}")
        if self._first and not self._first.done():
            self._first.set_exception(lost)
        self._watcher.gone(lost)

    async def _answer(self, asked: Any) -> Any:
        """Return what a call to a worker brings. It is never cancelled: Ray's client fails at answers nobody awaits."""
        future = asyncio.wrap_future(asked.future())
        self._unanswered.add(future)
        future.add_done_callback(self._answered)
        return await asyncio.shield(future)

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._unanswered.discard(future)
        future.exception()  # of an actor that is ended: nobody awaits that

    async def _begin(self, number: int) -> None:
        """Start a worker; it waits at Ray until a node has a CPU for it."""
        # Ray's head has to answer before there is an actor.
        making = self._thread.begin(_made_actor)
        try:
            actor = await asyncio.wrap_future(making)
        except asyncio.CancelledError:
            making.add_done_callback(_kill_made)
            raise
        except _SILENCES as error:
            self._failed(number, _in_short(error))
            return
        ready, is_kept = None, False
        try:
            for start in range(0, len(self._packed), _PIECE):
                await self._answer(actor.hear.remote(self._packed[start : start + _PIECE]))
            ready = _Ready(*await self._answer(actor.begin.remote(self._calls, VERSIONS)))
            why, is_kept = ready.error, not ready.error
        except _SILENCES as error:
            why = _in_short(error)
        finally:
            if not is_kept:
                _kill(actor)
        if ready is None or not is_kept:
            self._failed(number, why if ready is None else f"{ready.address}: {why}")
            return
        self._joined(_RayLink(actor, f"worker {number} on {ready.address}", ready, self._answer), ready.remarks)

    def _joined(self, link: _RayLink, remarks: Sequence[str]) -> None:
        self._troubles = 0
        for remark in remarks:
            self._remark(remark, f"{link.name}: {remark}")
        self._links[link] = None
        if self._first and not self._first.done():
            self._first.set_result(None)
            for why in self._failures:
                self._remark(why, f"{self.name}: a worker cannot start: {why}")
        self._watcher.joined(link)

    def _failed(self, number: int, why: str) -> None:
        """Try again later. If none has ever started, and each node had its turn, the run cannot begin."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._starts_at:  # else others have failed at the same time
            self._troubles += 1
            self._starts_at = loop.time() + min(2**self._troubles, _LONGEST_PAUSE_S)
        if self._first is None or self._first.done():
            self._remark(why, f"worker {number} cannot start: {why}")
            return
        self._failures.append(why)
        if len(self._beginning) <= 1 and len(self._failures) >= min(self._nodes, _MOST_TRIES):
            causes = "; ".join(dict.fromkeys(self._failures))
            self._first.set_exception(SettingsError(f"{self.name}: no worker can start: {causes}"))

    def _remark(self, remark: str, said: str) -> None:
        """Say something to people, once for all workers."""
        if remark not in self._remarked:
            self._remarked.add(remark)
            self._say(said, "warning")


class _Seen(NamedTuple):
    """What a cluster is like.

    Attributes:
        cpus: of nodes that stay.
        nodes: how many of them have a CPU.
        draining: the ids of those that go.
    """

    cpus: int
    nodes: int
    draining: frozenset[str] = frozenset()


def _look() -> _Seen:
    """Return what the cluster is like now.

    Raises:
        ClusterLost: this machine is no part of it any more.
        OSError: its head does not listen, or the connection is lost.
    """
    _check_connected()
    context = ray.get_runtime_context()
    if is_distant := ray.util.client.ray.is_connected():
        draining: frozenset[str] = frozenset()  # Ray's client does not tell
    else:
        # First: what is asked of a dead head keeps Ray waiting for it, and after a minute Ray ends this process.
        _check_listens(context.gcs_address)
        draining = frozenset(ray._private.state.state.get_draining_nodes())  # noqa: SLF001 - Ray's own libraries use it
    nodes = [each for each in ray.nodes() if each["Alive"]]
    if not is_distant and all(each["NodeID"] != context.get_node_id() for each in nodes):
        raise ClusterLost("Ray's node on this machine is dead")
    at_work = [int(each["Resources"].get("CPU", 0)) for each in nodes if each["NodeID"] not in draining]
    return _Seen(sum(at_work), sum(map(bool, at_work)), draining)


def _made_actor() -> Any:
    _check_connected()
    # Ray would fill one node before it uses the next; calls are to come from as many machines as there are.
    options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(_Actor).options(**options).remote()


def _kill_made(making: Future[Any]) -> None:
    if not making.cancelled() and not making.exception():
        _kill(making.result())


def _kill(actor: Any) -> None:
    with contextlib.suppress(*_SILENCES):
        _check_connected()
        ray.kill(actor)


def _check_connected() -> None:
    """Raise a `ConnectionError` if Ray's client has lost its server: Ray would connect to any other Ray by itself."""
    if not ray.is_initialized():
        raise ConnectionError("the connection is lost")


def _in_short(error: BaseException) -> str:
    """Return an error of Ray in one line: the other lines are logs and stacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "creation task" in lines[0]:  # a stack of the worker, which ends with the reason
        found = re.search(r"\bip=([\w.:]+)", lines[0])
        return f"{found[1]}: {lines[-1][:200]}" if found else lines[-1][:200]
    return f"{type(error).__name__}{': ' + lines[0][:200] if lines else ''}"


def _check_is_there(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for a minute.

    Raises:
        OSError: there is no connection.
        ValueError: it is no address.
    """
    if address == AUTO:
        return
    host = address.removeprefix(CLIENT)
    if not host.rpartition(":")[1]:
        host += ":10001" if address.startswith(CLIENT) else ":6379"
    _check_listens(host)
    if os.environ.get("RAY_USE_TLS", "0").lower() in {"0", "false", ""}:
        with grpc.insecure_channel(host) as channel:
            try:
                grpc.channel_ready_future(channel).result(_CONNECT_S)
            except grpc.FutureTimeoutError:
                raise TimeoutError("what listens there is not Ray") from None


def _check_listens(address: str) -> None:
    """Raise an `OSError` if nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


@contextlib.contextmanager
def _environment(keys: Sequence[str]) -> Iterator[None]:
    """Start Ray's processes without API keys in their environment, and without statistics for Ray's authors.

    Its token is for this run alone: Ray would otherwise write one into the home directory.
    """
    instead = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    hidden = [name for name, value in os.environ.items() if any(key in value for key in keys)]
    # Ray sets the last of these itself.
    before = {name: os.environ.get(name) for name in [*instead, *hidden, "RAY_AUTH_MODE"]}
    for name in hidden:
        del os.environ[name]
    os.environ.update(instead)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray tell errors alone: what becomes of workers is told in batcher's own words."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _discreet() -> Iterator[None]:
    """Connect without two habits of Ray, for which it has no switch.

    It tells the cluster this process's command line, which its dashboard shows: a header in it may hold a key. And a
    thread of it prints on stdout what becomes of nodes; at the end it waits for that thread, also if the head is dead.
    """
    private: Any = ray._private  # noqa: SLF001 - there is no other way
    with (
        _replaced(private.utils, "get_entrypoint_name", lambda: "batcher"),
        _replaced(private.worker, "listen_error_messages", lambda *_: None),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _out_of_reach() -> Iterator[None]:
    """Start Ray's processes so that what stops this one in order does not end them: answers are on their way.

    Ray itself sees to it that Ctrl-C does not. They end with the thread that starts them in any case.
    """
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_signals_back() -> None:
    """Put Python's handler back in the place of Ray's, which prints a stack before it lets Python's work."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        if hasattr(signal, "siginterrupt"):
            signal.siginterrupt(signal.SIGTERM, False)  # as the event loop has it


def _temporary() -> str:
    """Return the directory for temporary files, or a shorter one: a socket's path has at most 107 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_DIRECTORY or os.name != "posix" else "/tmp"  # noqa: S108 - mkdtemp is safe there


def _remove_left_over() -> None:
    """Remove the directories of runs that were killed."""
    for path in Path(_temporary()).glob(f"{_DIRECTORY}*-*"):
        pid = path.name.removeprefix(_DIRECTORY).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(path, ignore_errors=True)
