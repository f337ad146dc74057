"""The ways by which a run with a deadline may ask its rows: batches, the flex tier, and online requests as ever.

Invariant: a way that a service is not known to have, or that is not cheaper there, is left out, and the reason said.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.calls.batch_facts import NO_BATCHES
from batcher.calls.services import batch_share, service_at
from batcher.endpoint import Endpoint
from batcher.records import Task
from batcher.settings import Settings
from batcher.words import as_given, option


def takes_batches(endpoint: Endpoint, settings: Settings) -> bool:
    """Return whether rows of a run with a deadline go into batches of an endpoint's service."""
    return not why_no_batches(endpoint, settings)


def why_no_batches(endpoint: Endpoint, settings: Settings) -> str:
    """Return why no rows go into batches of an endpoint's service; empty if some do.

    Args:
        endpoint: one that is asked about every row.
        settings: the options. With `via` batches are used at any price.
    """
    if settings.in_batches:  # whether they can be used was checked
        return ""
    if settings.via == "online":
        return as_given("via", "online")
    return _why_none(endpoint) or _why_not_cheaper(endpoint, settings)


def _why_none(endpoint: Endpoint) -> str:
    """Return why an endpoint has no batches, if that is known."""
    if endpoint.llm is not None:
        return f"the chat model {type(endpoint.llm).__name__} has no batches"
    service = service_at(endpoint.base_url)
    why = "" if service is None else NO_BATCHES.get(service.name, "")
    return f"{service.name} has no batches that can be used: {why}" if service and why else ""


def _why_not_cheaper(endpoint: Endpoint, settings: Settings) -> str:
    """Return why batches of an endpoint save nothing, as far as is known."""
    base_url = endpoint.real_source.base_url
    service, own = service_at(base_url), (endpoint.prices or {}).get("batch")
    at = endpoint.where or endpoint.source.model
    if own is None and (service is None or service.batch is None):
        return f"nothing is known of batches at {at} ({option('via', 'batch')} or {option('price_batch')} tries them)"
    if service is not None and service.batch is not None and Task(settings.task) not in service.batch.tasks:
        return f"batches at {at} take no {settings.task}s"
    share = batch_share(base_url) if own is None else own
    return "" if share < 1 else f"batches at {at} are not known to be cheaper ({option('price_batch')} says so)"


def batches_in_words(endpoints: Sequence[Endpoint], settings: Settings) -> str:
    """Return why no endpoint takes batches; empty if one does."""
    reasons = [why_no_batches(each, settings) for each in endpoints]
    return "" if not all(reasons) else "; ".join(dict.fromkeys(reasons))
