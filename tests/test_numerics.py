"""Scalar functions against mpmath at 60 digits, from 1e-12 to the ends of the float range."""

import mpmath as mp
import numpy as np
import pytest

import klrlhf
import reference
from reference import relative_error

pytestmark = pytest.mark.filterwarnings("error")
SWITCH = 0.7


def worst(function, truth, points):
    return max(relative_error(value, truth(float(t)))
               for value, t in zip(function(points), points, strict=True))


def test_sharp_hoeffding_from_tiny_to_huge():
    points = np.concatenate([np.logspace(-12, 3, 400), np.linspace(0.01, 20, 300)])
    assert worst(klrlhf.sharp_hoeffding, reference.hoeffding, points) < 1e-13


def test_sharp_hoeffding_at_the_series_switch():
    near = SWITCH * (1 + np.concatenate([-np.logspace(-16, -1, 40), np.logspace(-16, -1, 40)]))
    points = np.concatenate([near, [np.nextafter(SWITCH, 0), SWITCH, np.nextafter(SWITCH, 1)]])
    assert worst(klrlhf.sharp_hoeffding, reference.hoeffding, points) < 1e-14


def test_sharp_hoeffding_at_the_ends():
    assert klrlhf.sharp_hoeffding(0.0) == 0.0
    assert klrlhf.sharp_hoeffding(1e-150) == pytest.approx(1e-300 / 8, rel=1e-12)
    assert klrlhf.sharp_hoeffding(1e300) == pytest.approx(1e300, rel=1e-12)
    t = np.logspace(-12, 5, 500)
    h = klrlhf.sharp_hoeffding(t)
    assert (h <= np.minimum(t**2 / 8, t) * (1 + 1e-14)).all()
    assert (np.diff(h) > 0).all()


def test_sharp_hoeffding_is_attained_by_the_two_point_law():
    for t in (1e-3, 0.3, 1.0, 5.0, 40.0):
        exact_t = mp.mpf(t)
        q = 1 / (1 - mp.exp(-exact_t)) - 1 / exact_t
        # log dP/dQ takes two values that differ by t; Q is then fixed by normalization.
        low = mp.log(q * mp.exp(-exact_t) + 1 - q)
        divergence = q * (exact_t + low) + (1 - q) * low
        assert relative_error(klrlhf.sharp_hoeffding(t), divergence) < 1e-13


POINTS = np.concatenate([np.linspace(-740, 700, 200), np.linspace(-3, 3, 101),
                         [1e-300, -1e-300, 1e-17, -1e-17]])


@pytest.mark.parametrize("function, truth", [
    (klrlhf.sigmoid, lambda t: 1 / (1 + mp.exp(-mp.mpf(t)))),
    (klrlhf.log_sigmoid, lambda t: -mp.log(1 + mp.exp(-mp.mpf(t)))),
    (klrlhf.sigmoid_slope, lambda t: 1 / (2 + mp.exp(mp.mpf(t)) + mp.exp(-mp.mpf(t)))),
    (klrlhf.expm1_minus, lambda t: mp.expm1(mp.mpf(t)) - mp.mpf(t)),
    (klrlhf.log_ratio_excess, lambda t: mp.mpf(t) + mp.expm1(-mp.mpf(t))),
])
def test_scalar_functions(function, truth):
    with mp.workdps(700):
        points = POINTS[np.abs(POINTS) <= 690]
        for value, t in zip(function(points), points, strict=True):
            expected = truth(float(t))
            if abs(expected) > 1e-290:
                assert relative_error(value, expected) < 4e-15, t


@pytest.mark.parametrize("scale", [1e-300, 1e3, 1e100, 1e308])
def test_scalar_functions_at_the_ends_of_the_float_range(scale):
    t = np.array([-scale, scale])
    for function in (klrlhf.sigmoid, klrlhf.log_sigmoid, klrlhf.sigmoid_slope):
        assert np.isfinite(function(t)).all()
    assert not np.isnan(klrlhf.expm1_minus(t)).any()
    assert not np.isnan(klrlhf.log_ratio_excess(t)).any()
    assert (klrlhf.expm1_minus(t) >= 0).all()


def test_expm1_minus_at_its_series_switch():
    points = np.concatenate([0.5 * (1 + np.linspace(-1e-9, 1e-9, 51)),
                             -0.5 * (1 + np.linspace(-1e-9, 1e-9, 51)),
                             np.logspace(-150, 0, 200), -np.logspace(-150, 0, 200)])
    with mp.workdps(400):
        assert worst(klrlhf.expm1_minus, lambda t: mp.expm1(mp.mpf(t)) - mp.mpf(t), points) < 3e-15


def test_log_mean_exp():
    rng = np.random.default_rng(1)
    for scale in (1e-8, 1.0, 1e3, 1e6):
        values = scale * rng.standard_normal((5, 4))
        weights = rng.dirichlet(np.ones(4), size=5)
        result = klrlhf.log_mean_exp(values, np.log(weights))
        for value, v, w in zip(result, values, weights, strict=True):
            v, w = reference.exact(v), reference.exact(w)
            top = max(v)
            truth = top + mp.log(mp.fsum(b * mp.exp(a - top) for a, b in zip(v, w, strict=True)))
            assert float(abs(mp.mpf(float(value)) - truth)) < 1e-15 * max(scale, 1) * 10
    assert klrlhf.log_mean_exp([1.0, 5.0], [0.0, -np.inf]) == 1.0
    assert klrlhf.log_mean_exp([1.0, 5.0], [-np.inf, -np.inf]) == -np.inf


def test_bregman_terms_sum_to_the_divergence():
    rng = np.random.default_rng(2)
    for size in (1e-12, 1e-6, 1e-2, 1.0, 30.0):
        q = rng.dirichlet(np.ones(6))
        p = q * np.exp(size * rng.uniform(-1, 1, 6))
        p /= p.sum()
        terms = klrlhf.bregman_kl_terms(np.log(p), np.log(q))
        assert (terms >= 0).all()
        exact_p = [mp.exp(mp.mpf(float(v))) for v in np.log(p)]
        exact_q = [mp.exp(mp.mpf(float(v))) for v in np.log(q)]
        for term, a, b in zip(terms, exact_p, exact_q, strict=True):
            assert relative_error(term, a * mp.log(a / b) - a + b) < 1e-12 + 1e-15 / size


def test_bregman_terms_at_zero_probabilities():
    inf = np.inf
    terms = klrlhf.bregman_kl_terms([-inf, -inf, 0.0, -800.0, -800.0], [-inf, 0.0, -inf, -inf, 0.0])
    assert terms.tolist() == [0.0, 1.0, inf, inf, 1.0]
