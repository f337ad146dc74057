"""Refuses endpoints that no run could use.

Invariant: everything that `run` would refuse later is refused here, before the input is read or a file is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from batcher.calls.endpoints import check_chat_model
from batcher.calls.ways import way_to
from batcher.endpoint import OFFLINE, Endpoint, by_account
from batcher.errors import SettingsError
from batcher.money.spending import check_bounded
from batcher.money.tariff import Tariff
from batcher.planning.service_tiers import asked_in
from batcher.records import Task, Terms
from batcher.settings import Settings
from batcher.words import as_given

_OTHER_FILES = 128
"""Files that a process opens besides its connections: the journal, chunk files, libraries."""


def check_endpoints(
    endpoints: Sequence[Endpoint], settings: Settings, *, by_row: bool = False, second: Sequence[Endpoint] = ()
) -> None:
    """Refuse endpoints to which no request could be sent.

    Args:
        endpoints: the pool.
        settings: the options.
        by_row: rows may have parameters of their own, which may bound their answers.
        second: those of them that are asked only about some rows (`--then`).

    Raises:
        SettingsError: an `llm` is not a chat model, a proxy or a file of certificates cannot be used, a budget cannot
            bound what a request costs, or the system allows too few open files for the requests in flight.
    """
    for endpoint in endpoints:
        check_chat_model(endpoint)
    _check_ways(endpoints)
    if settings.budget is not None:
        for endpoint in endpoints:
            tiers = asked_in(endpoint, settings, is_second=endpoint in second).values
            tariff = Tariff.of(endpoint, settings.params, tiers=tiers).on(Terms(Task(settings.task)))
            check_bounded(tariff, has_images=settings.image_column is not None, by_row=by_row)
    check_open_files(endpoints, are_distant=settings.ray is not None)


def _check_ways(endpoints: Sequence[Endpoint]) -> None:
    """Refuse proxies that cannot be used, and certificates that cannot be read if a way needs them."""
    ways = [way_to(each.base_url) for each in endpoints if each.llm is None and each.base_url != OFFLINE]
    if any(way.needs_tls for way in ways):
        from batcher.calls.certificates import check_variables  # noqa: PLC0415 - it loads `ssl`

        check_variables()


def ends_of(endpoint: Endpoint, *, are_distant: bool = False) -> int:
    """Return how many ends each connection to an endpoint has in this process.

    Args:
        endpoint: the embedded server is in this process as well.
        are_distant: workers make the calls.
    """
    return (0 if are_distant else 1) + (endpoint.base_url == OFFLINE)


def check_open_files(endpoints: Sequence[Endpoint], *, are_distant: bool = False) -> int:
    """Return the number of files and connections that may be open at once: each request in flight has a connection.

    Args:
        endpoints: the pool.
        are_distant: the connections are those of workers, which open as many as their own systems allow.

    Raises:
        SettingsError: the system does not allow that many.
    """
    accounts = [first for first, *_ in by_account(endpoints)]
    needed = _OTHER_FILES + sum(each.max_concurrency * ends_of(each, are_distant=are_distant) for each in accounts)
    if os.name == "posix":
        import resource  # noqa: PLC0415 - POSIX alone has it

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = math.inf if hard == resource.RLIM_INFINITY else hard
        if allowed < needed:
            raise SettingsError(
                f"{needed:,} files and connections may be open at once, and the system allows {allowed:,}: lower"
                f" {as_given('max_concurrency')}, use fewer keys, or raise the limit (ulimit -n)"
            )
    return needed
