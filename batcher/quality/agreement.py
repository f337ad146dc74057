"""Agreement beyond chance between model and hand, and tests of two runs on the same hand labels.

Invariant: a measure that is not defined, because all rows have one label, is NaN here and None in a figure.
"""

from __future__ import annotations

import numpy as np

from batcher.quality.figures import Floats


def kappa_of(agreed: Floats, model: Floats, gold: Floats) -> Floats:
    """Return Cohen's kappa, ``(a - e) / (1 - e)`` with ``e = sum of model x gold`` over the labels (Cohen 1960).

    Args:
        agreed: share of rows on which both agree, of any shape.
        model: shares of the labels by the one, along the last axis.
        gold: by the other.
    """
    by_chance = (model * gold).sum(-1)
    return _beyond(1 - agreed, 1 - by_chance)


def alpha_of(agreed: Floats, model: Floats, gold: Floats, rows: int) -> Floats:
    """Return Krippendorff's alpha for nominal labels and two raters without gaps, ``1 - observed / expected``.

    The expected disagreement is ``(1 - sum of p^2) 2N / (2N - 1)``, with p the mean share of a label by both raters
    and N the rows (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    Args:
        agreed: share of rows on which both agree, of any shape.
        model: shares of the labels by the one, along the last axis.
        gold: by the other.
        rows: N.
    """
    expected = (1 - (((model + gold) / 2) ** 2).sum(-1)) * 2 * rows / max(2 * rows - 1, 1)
    return _beyond(1 - agreed, expected)


def _beyond(observed: Floats, expected: Floats) -> Floats:
    defined = expected > 1e-12  # below that there is one label, and rounding
    return np.where(defined, 1 - observed / np.where(defined, expected, 1), np.nan)
