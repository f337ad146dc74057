"""The distributions that exact tests and intervals need: binomial, beta and chi-square.

Invariant: they agree with SciPy to nine digits, without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY = 1e-300
_CLOSE = 1e-15
_MOST = 10_000  # steps of a continued fraction; it takes some ten times the root of its arguments


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b).

    By the continued fraction of DLMF 8.17.22, on the side on which it converges fast (Press et al., Numerical Recipes,
    section 6.4).

    Args:
        x: in [0, 1].
        a: above 0.
        b: above 0.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))

    def terms(at: int) -> tuple[float, float]:
        m = at // 2
        if at % 2:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0

    return front / a / _fraction(1.0, terms)


def beta_quantile(chance: float, a: float, b: float) -> float:
    """Return the x with I_x(a, b) = `chance`, by bisection."""
    return _bisected(lambda x: beta_cdf(x, a, b), chance)


def t_quantile(chance: float, freedom: float) -> float:
    """Return the t with P(T <= t) = `chance`, at least 1/2, by I_x(freedom/2, 1/2) with x = freedom/(freedom + t^2)."""
    x = beta_quantile(2 * (1 - chance), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def chi_square_tail(x: float, freedom: float) -> float:
    """Return the chance that chi-square with `freedom` degrees is at least x: the incomplete gamma Q(freedom/2, x/2).

    By the series of DLMF 8.7.1 below the mean, and the continued fraction of DLMF 8.9.2 above it (Numerical Recipes,
    section 6.2).
    """
    a, z = freedom / 2, x / 2
    if z <= 0:
        return 1.0
    front = math.exp(a * math.log(z) - z - math.lgamma(a))
    if z < a + 1:
        total = term = 1 / a
        for at in range(1, _MOST):
            term *= z / (a + at)
            total += term
            if term < total * _CLOSE:
                break
        return max(1 - front * total, 0.0)
    return front / _fraction(z + 1 - a, lambda at: (-at * (at - a), z + 2 * at + 1 - a))


def binomial_tails(count: int, trials: int) -> float:
    """Return the two-sided exact p-value of `count` in `trials` at the chance 1/2: twice the smaller tail."""
    fewer = min(count, trials - count)
    if trials == 0 or 2 * fewer == trials:
        return 1.0
    # P(X <= k) = I_1/2(n - k, k + 1)
    return min(2 * beta_cdf(0.5, trials - fewer, fewer + 1), 1.0)


def clopper_pearson(count: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934): its coverage is never below `level`."""
    tail = (1 - level) / 2
    return (
        beta_quantile(tail, count, trials - count + 1) if count else 0.0,
        beta_quantile(1 - tail, count + 1, trials - count) if count < trials else 1.0,
    )


def _fraction(first: float, terms: Callable[[int], tuple[float, float]]) -> float:
    """Return b0 + a1/(b1 + a2/(b2 + ...)) by Lentz's method; `terms` gives (a, b) of each step."""
    found = c = _kept_off_0(first)
    d = 0.0
    for at in range(1, _MOST):
        a, b = terms(at)
        d = 1 / _kept_off_0(b + a * d)
        c = _kept_off_0(b + a / c)
        found *= c * d
        if abs(c * d - 1) < _CLOSE:
            break
    return found


def _kept_off_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _bisected(rising: Callable[[float], float], wanted: float) -> float:
    low, high = 0.0, 1.0
    while high - low > 1e-15 * high and (middle := (low + high) / 2) not in {low, high}:
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
