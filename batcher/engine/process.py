"""Settings of the whole process that a run changes: Python's garbage collector, and the limit of open files.

Invariant: the collector is as it was when the last of the runs under way has ended; the limit is only ever raised.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import threading
from collections.abc import Iterator, Sequence

from batcher.endpoint import Endpoint, by_account
from batcher.planning.refusals import check_open_files, ends_of

_OBJECTS_PER_CALL = 50
_FEWEST_OBJECTS = 50_000
"""The number of new objects after which Python's collector looks for cycles among them."""

_RESTING = 512
"""The fewest connections that may rest, besides those in use: at 5,000 answers a second each rests for 0.1 s."""


class _Collector:
    """The state of Python's collector before the first of the runs under way; the last run restores it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs = 0
        self.before = gc.get_threshold()
        self.is_frozen_by_us = False


_collector = _Collector()


@contextlib.contextmanager
def rare_collections(calls: int) -> Iterator[None]:
    """Let Python's collector of cycles look rarely while calls are in flight.

    A call makes some 50 objects that the collector tracks, and hardly any is part of a cycle. By default the collector
    runs after every 700 objects, and visits all imported modules as well: a quarter of the CPU time at 256 calls
    in flight, a third at 4,096.

    Args:
        calls: how many may be in flight at once.
    """
    with _collector.lock:
        _collector.runs += 1
        if _collector.runs == 1:
            _collector.before = gc.get_threshold()
            _collector.is_frozen_by_us = gc.get_freeze_count() == 0  # else the user froze some
            if _collector.is_frozen_by_us:
                gc.freeze()
        if _collector.before[0]:  # else it is switched off
            objects = max(gc.get_threshold()[0], _FEWEST_OBJECTS, calls * _OBJECTS_PER_CALL)
            gc.set_threshold(objects, *_collector.before[1:])
    try:
        yield
    finally:
        with _collector.lock:
            _collector.runs -= 1
            if not _collector.runs:
                gc.set_threshold(*_collector.before)
                if _collector.is_frozen_by_us:
                    gc.unfreeze()


def allow_connections(endpoints: Sequence[Endpoint], *, are_distant: bool = False) -> int:
    """Raise the process's limit of open files, 1,024 on many systems, to what the connections may need.

    Args:
        endpoints: the pool.
        are_distant: workers make the calls: this process has an end of their connections to the embedded server alone.

    Returns:
        The number of connections that may be open: one for each call in flight, and as many resting ones as the system
        allows.

    Raises:
        SettingsError: the system does not allow even one for each call.
    """
    calls = sum(first.max_concurrency for first, *_ in by_account(endpoints))
    resting = max(calls, _RESTING)  # a connection rests as long as its answer took
    if os.name != "posix":
        return calls + resting
    import resource  # noqa: PLC0415 - POSIX alone has it

    needed = check_open_files(endpoints, are_distant=are_distant)
    ends = max(ends_of(each, are_distant=are_distant) for each in endpoints)
    wanted = needed + resting * ends
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in before)
    allowed = min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(allowed), before[1]))
    return calls + (int(allowed - needed) // ends if ends else resting)
