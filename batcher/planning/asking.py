"""In which form the endpoints of a run are asked, and what its requests may cost in each form.

Invariant: the bound on a request covers all that its form adds to it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from batcher.calls.forms import Form, Wire
from batcher.calls.services import batch_share
from batcher.endpoint import Endpoint
from batcher.journal.reading import Reader
from batcher.money.tariff import Tariff, tariffs_by_form, tariffs_of
from batcher.planning.job import Job
from batcher.pool.forms import FOUND


def tariffs_in_forms(
    job: Job, endpoints: Sequence[Endpoint], ladders: Sequence[Sequence[Wire]], learnt: Sequence[str]
) -> dict[Form | None, list[Tariff]]:
    """Return the tariffs of endpoints, in their order, by the form in which they are asked; None: for any text.

    Args:
        job: the run.
        endpoints: its own; none if nothing is left to ask.
        ladders: the forms to try at each of them.
        learnt: the details of the lessons of earlier processes.
    """
    params, wording = job.settings.params, job.wording

    def tiers(endpoint: Endpoint) -> Sequence[str]:
        return job.asked_in(endpoint).values

    forms = {wire.form: (wire.params, wire.line) for ladder in ladders for wire in ladder if wire.form}
    if not forms:
        found: dict[Form | None, list[Tariff]] = {None: tariffs_of(endpoints, params, wording, learnt, tiers=tiers)}
    else:
        by_form = tariffs_by_form(endpoints, params, wording, forms, learnt, tiers=tiers)
        found = {form: by_form[form] for form in forms}
    if not endpoints:
        return {}
    return {form: [with_share(each).on(job.terms) for each in tariffs] for form, tariffs in found.items()}


def in_batches(tariffs: Sequence[Tariff]) -> list[Tariff]:
    """Return the tariffs of the same endpoints' requests in batches; those that learn together still do."""
    return [with_share(each).in_batches() for each in tariffs]


def with_share(tariff: Tariff) -> Tariff:
    """Return a tariff that knows what its service asks in batches."""
    return tariff._replace(batch_share=batch_share(tariff.endpoint.real_source.base_url))


def forms_found(job: Job, journal: Reader) -> dict[int, str]:
    """Return the form that an earlier process found for each source, by the source's id."""
    asked_for = job.reading.shape if job.reading else ""
    found: dict[int, str] = {}
    for detail in journal.details([FOUND]) if asked_for else ():
        with contextlib.suppress(ValueError):  # a disk has changed it
            match json.loads(detail):
                case {"source": int(source), "form": str(form), "shape": shape} if shape == asked_for:
                    found[source] = form
    return found
