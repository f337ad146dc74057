"""Values of NumPy and pandas as the Python values that they mean, without loading either.

Invariant: a number of 16 or 32 bits becomes the shortest one that reads back as the same: 0.1, not 0.10000000149011612.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def is_missing(value: object) -> bool:
    """Return whether it is pandas.NA, NaT or a decimal NaN."""
    if isinstance(value, Decimal):
        return value.is_nan()
    pandas = sys.modules.get("pandas")  # its values cannot be here before it is loaded
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def without_numpy(value: object) -> object:
    """Return the Python value of a NumPy scalar, a list for an array, and anything else itself."""
    numpy = sys.modules.get("numpy")  # its values cannot be here before it is loaded
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return value
    if isinstance(value, numpy.ndarray):
        return list(value) if value.ndim else value[()]
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):  # item() would make an integer of nanoseconds
        return None if numpy.isnat(value) else str(value)
    if isinstance(value, numpy.float32 | numpy.float16):
        return shortest(value)
    item: object = value.item()
    return str(item) if isinstance(item, numpy.generic) else item  # long doubles have no Python value


def shortest(number: np.floating[Any]) -> float:
    """Return the shortest number that reads back as a number of 16 or 32 bits: 0.1, not 0.10000000149011612.

    A whole number stays as it is: 71358912 would be 71358910.
    """
    import numpy as np  # noqa: PLC0415 - whoever has such a number has loaded it

    exact = float(number)
    return exact if is_whole(exact) else float(np.format_float_scientific(number))


def is_whole(number: float) -> bool:
    """Return whether it is a whole number that is written with all its digits."""
    return -1e16 < number < 1e16 and number.is_integer()
