"""The distributions behind exact tests agree with tables and with SciPy."""

from __future__ import annotations

import itertools

import pytest

from batcher.quality import special

OTHER = "the extra `oracles` is not installed: pip install -e '.[oracles]'"


def test_exact_intervals_are_the_published_ones() -> None:
    # Brown, Cai and DasGupta 2001, and every table since.
    assert special.clopper_pearson(27, 30) == pytest.approx((0.7347115495, 0.9788828630), abs=1e-9)
    assert special.clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert special.clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1))


def test_the_quantiles_of_chi_square_and_t_are_those_of_the_tables() -> None:
    assert special.chi_square_tail(3.841458821, 1) == pytest.approx(0.05, rel=1e-8)
    assert special.chi_square_tail(96.21667075, 76) == pytest.approx(0.0588, abs=1e-3)
    assert special.chi_square_tail(0, 5) == 1.0
    assert special.t_quantile(0.975, 10) == pytest.approx(2.228138852, rel=1e-8)
    assert special.t_quantile(0.975, 1e7) == pytest.approx(1.959964, rel=1e-6)


def test_a_binomial_test_doubles_the_smaller_tail() -> None:
    assert special.binomial_tails(3, 20) == pytest.approx(2 * (1 + 20 + 190 + 1140) / 2**20)
    assert special.binomial_tails(17, 20) == special.binomial_tails(3, 20)
    assert (special.binomial_tails(0, 0), special.binomial_tails(5, 10)) == (1.0, 1.0)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.0, 40.5), (300.0, 3.0), (2e4, 5e4)])
def test_a_quantile_of_beta_is_where_its_distribution_reaches_it(a: float, b: float) -> None:
    for chance in (1e-6, 0.025, 0.5, 0.975):
        assert special.beta_cdf(special.beta_quantile(chance, a, b), a, b) == pytest.approx(chance, rel=1e-6)


def test_the_distributions_are_those_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.special", reason=OTHER)
    for a, b, x in itertools.product((0.5, 3, 70, 4e3), (0.5, 2, 90, 5e3), (1e-4, 0.03, 0.5, 0.97)):
        assert special.beta_cdf(x, a, b) == pytest.approx(float(scipy.betainc(a, b, x)), rel=1e-9, abs=1e-200)
    for freedom, x in itertools.product((1, 2, 30, 760, 2e4), (1e-3, 1, 40, 900, 2.1e4)):
        expected = float(scipy.gammaincc(freedom / 2, x / 2))
        assert special.chi_square_tail(x, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-14)
