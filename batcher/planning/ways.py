"""The ways by which a run with a deadline may ask its rows: batches, the flex tier, and online requests as ever.

Invariant: a way that a service is not known to have, or that is not cheaper there, is left out, and the reason said.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.calls.batch_facts import NO_BATCHES
from batcher.calls.services import batch_share, service_at
from batcher.endpoint import Endpoint
from batcher.money.prices import price_of
from batcher.planning.batches import obstacle_to_batches
from batcher.planning.service_tiers import AskedIn, has_tier
from batcher.records import Task
from batcher.settings import FLEX, Settings
from batcher.words import as_given, option

DEFAULT = "default"
"""The service tier at the usual price."""
_TYPICAL = 1000  # tokens of a request, to compare prices


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
    if obstacle := obstacle_to_batches(settings):
        return f"{as_given(obstacle[0])}: {obstacle[1]}"
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


def with_flex(endpoint: Endpoint, settings: Settings, asked: AskedIn) -> AskedIn:
    """Return the tiers that requests of a run with a deadline may ask for: it chooses among them as it goes on.

    Args:
        endpoint: one that is asked about every row.
        settings: the options.
        asked: the tiers that they ask for without a deadline.
    """
    if DEFAULT not in asked.words or FLEX not in asked.words:
        return asked
    if asked.names:
        return asked._replace(names=tuple(dict.fromkeys((*asked.names, DEFAULT)))) if FLEX in asked.names else asked
    return asked._replace(names=(DEFAULT, FLEX)) if _saves_in_flex(endpoint, settings) else asked


def _saves_in_flex(endpoint: Endpoint, settings: Settings) -> bool:
    """Return whether an endpoint has a flex tier that is known to be cheaper."""
    if "in" in (endpoint.prices or {}) or not has_tier(endpoint, settings, FLEX):
        return False
    model, base_url, _ = endpoint.real_source
    usual, flex = price_of(model, base_url), price_of(model, base_url, FLEX)
    return usual is not None and flex is not None and flex.most(_TYPICAL, _TYPICAL) < usual.most(_TYPICAL, _TYPICAL)


def batches_in_words(endpoints: Sequence[Endpoint], settings: Settings) -> str:
    """Return why no endpoint takes batches; empty if one does."""
    reasons = [why_no_batches(each, settings) for each in endpoints]
    return "" if not all(reasons) else "; ".join(dict.fromkeys(reasons))
