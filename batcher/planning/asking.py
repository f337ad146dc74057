"""What the requests of a run may cost, in each form in which its endpoints may be asked.

Invariant: the bound on a request covers all that its form adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.calls.forms import Form, Wire
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff, tariffs_by_form, tariffs_of
from batcher.planning.job import Job


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
    forms = {wire.form: (wire.params, wire.line) for ladder in ladders for wire in ladder if wire.form}
    if not forms:
        return {None: tariffs_of(endpoints, params, wording, learnt)} if endpoints else {}
    found = tariffs_by_form(endpoints, params, wording, forms, learnt)
    return {form: found[form] for form in forms}
