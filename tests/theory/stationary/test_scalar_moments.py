"""Moments 1 to 4 of scalar least squares: enumerated batches, weak orders, stationary laws."""

import itertools
from typing import Any

import closed_forms
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import stationary_density, tail_index
from sde_sgd.theory.stationary import (
    stationary_scalar_moments,
    transient_scalar_moments,
)

INPUTS = np.array([0.9, -0.4, 1.3, 0.2, -1.1])
TARGETS = np.array([0.5, 0.7, 0.1, -1.2, -0.4])
POWERS = np.arange(1, 5)


def squares(inputs: Any = INPUTS, targets: Any = TARGETS, l2: float = 0.0):
    """½(x_iθ − y_i)² + (λ/2)θ²."""
    return ss.LeastSquares(np.array(inputs)[:, None], np.array(targets), l2=l2)


PAIR = squares([1.0, 1.0], [1.0, -1.0])


def batches(size, replacement=True):
    return ss.WithReplacement(size) if replacement else ss.WithoutReplacement(size)


def process_of(landscape, eta, sampling, step=None, order: Any = 1):
    """SGD for a step None, Euler for h = η/m, the equation itself for h = 0."""
    if step is None:
        return ss.SGD(landscape, eta, sampling)
    noise = ss.MinibatchNoise(sampling)
    substeps = round(eta / step) if step else 1
    equation = ss.ModifiedEquation(landscape, eta, noise, order=order, substeps=substeps)
    return equation if step else equation.limit()


def every_batch(num, size, replacement):
    """All batches of `size` from `num` examples, equally likely."""
    if replacement:
        return list(itertools.product(range(num), repeat=size))
    return list(itertools.combinations(range(num), size))


SCHEMES = [(3, 2, True), (3, 2, False), (2, 1, False), (5, 3, False), (4, 4, False), (1, 1, False)]


@pytest.mark.parametrize("num, size, replacement", [*SCHEMES, (5, 4, False), (2, 3, True)])
def test_sgd_with_every_batch(num, size, replacement):
    """All trajectories of three steps, one by one: raw and central moments to rounding."""
    x, y, eta, decay = INPUTS[:num], TARGETS[:num], 0.3, 0.2
    every = [list(batch) for batch in every_batch(num, size, replacement)]
    theta = np.array([0.7])
    for _ in range(3):
        slopes = [np.mean(x[b] ** 2) + decay for b in every]
        pulls = [np.mean(x[b] * y[b]) for b in every]
        theta = np.concatenate(
            [theta - eta * (s * theta - p) for s, p in zip(slopes, pulls, strict=True)]
        )
    landscape = squares(x, y, decay)
    sgd = ss.SGD(landscape, eta, batches(size, replacement))
    found = transient_scalar_moments(sgd, [3 * eta, 0.0], 0.7)
    np.testing.assert_allclose(found.raw[0], [np.mean(theta**n) for n in POWERS], atol=1e-14)
    spread = theta - theta.mean()
    np.testing.assert_allclose(found.central[0], [np.mean(spread**n) for n in POWERS], atol=1e-14)
    np.testing.assert_allclose(found.raw[1], 0.7**POWERS, rtol=1e-13)
    if size == 2 and num == 3:  # control: the other scheme
        control = ss.SGD(landscape, eta, batches(size, not replacement))
        other = transient_scalar_moments(control, [3 * eta], 0.7)
        assert np.abs(other.central[0, 1:] / found.central[0, 1:] - 1).min() > 0.05


@pytest.mark.parametrize("order", [1, 2])
def test_euler_step(order):
    """θ + hb + √(hηcΣ) ξ after two steps, ξ by Gauss–Hermite, exact for fourth moments."""
    eta, h, size, decay = 0.4, 0.1, 2, 0.15
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    theta, chance = np.array([0.7]), np.array([1.0])
    for _ in range(2):
        slopes = np.outer(theta, INPUTS**2) - INPUTS * TARGETS
        gradient = slopes.mean(1) + decay * theta
        hess = np.mean(INPUTS**2) + decay
        drift = -gradient * (1 + (eta / 2 * hess if order == 2 else 0))
        noise = np.sqrt(h * eta / size * slopes.var(axis=1))
        theta = (theta + h * drift)[:, None] + noise[:, None] * nodes
        theta, chance = theta.ravel(), np.outer(chance, weights).ravel()
    euler = process_of(squares(l2=decay), eta, batches(size), h, order)
    found = transient_scalar_moments(euler, [2 * h], 0.7)
    exact = [np.sum(chance * theta**n) for n in POWERS]
    np.testing.assert_allclose(found.raw[0], exact, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_equation_is_the_limit_of_euler(order):
    """h = 0 by the exponential of the generator; Richardson in h of Euler's exact moments."""
    limit, coarse, fine = (
        transient_scalar_moments(process_of(squares(), 0.3, batches(2), h, order), [0.6], 1.0).raw[
            0
        ]
        for h in (0.0, 0.3 / 2**12, 0.3 / 2**13)
    )
    np.testing.assert_allclose(2 * fine - coarse, limit, rtol=1e-8)
    assert np.abs(coarse - limit).max() > 1e-6


def weak_errors(eta, order):
    """|E θⁿ of SGD − of the modified equation| at T = 1 for ½(x − γ)², γ = ±1, x0 = 1."""
    sgd, equation = (
        transient_scalar_moments(process_of(PAIR, eta, batches(1), *options), [1.0], 1.0).raw[0]
        for options in ((), (0.0, order))
    )
    return np.abs(sgd - equation)


TABLE = [(1 / 16, 1, 1.181e-2, 7.40e-3), (1 / 16, 2, 4.869e-4, 1.371e-3)]
TABLE += [(1 / 32, 1, 5.824e-3, 3.97e-3), (1 / 32, 2, 1.207e-4, 3.383e-4)]


@pytest.mark.parametrize("eta, order, mean, second", TABLE)
def test_weak_errors(eta, order, mean, second):
    """η = 1/16 and 1/32: errors of the mean and of E x² of both orders, to the digits given."""
    found = weak_errors(eta, order)
    # The second printed moment of order 1 has three digits, the others have four.
    assert found[0] == pytest.approx(mean, rel=5e-4)
    assert found[1] == pytest.approx(second, rel=1.4e-3 if order == 1 else 5e-4)


def test_weak_orders():
    """Fits over 2⁻⁴…2⁻⁸: 1.009 and 2.005 for the mean, .957 and 2.008 for E x²; 3 and 4 too."""
    rates = 2.0 ** -np.arange(4, 9)
    errors = np.array([[weak_errors(eta, order) for eta in rates] for order in (1, 2)])
    slopes = np.polyfit(np.log(rates), np.log(errors.transpose(1, 0, 2).reshape(5, -1)), 1)[0]
    slopes = slopes.reshape(2, 4)
    np.testing.assert_allclose(slopes[:, 0], [1.009, 2.005], atol=5e-4)
    np.testing.assert_allclose(slopes[:, 1], [0.957, 2.008], atol=5e-4)
    np.testing.assert_allclose(slopes[1, 2:], 2, atol=0.1)
    assert np.abs(slopes[0, 2:] - 1).max() < 0.1


@pytest.mark.parametrize("replacement", [True, False])
def test_weak_orders_with_state_dependent_noise(replacement):
    """Slopes 1 and 2 of all four moments where Σ depends on θ, for both schemes."""
    rates = 2.0 ** -np.arange(9, 13)

    def after(eta, *options):
        process = process_of(squares(), eta, batches(2, replacement), *options)
        return transient_scalar_moments(process, [1.0], 1.0).raw[0]

    for order in (1, 2):
        errors = [after(eta) - after(eta, 0.0, order) for eta in rates]
        slopes = np.polyfit(np.log(rates), np.log(np.abs(errors)), 1)[0]
        np.testing.assert_allclose(slopes, order, atol=0.15)


def test_stationary_variances():
    """η/(2−η) SGD, η/2 order 1, η/(2+η) order 2, which is the worse one."""
    eta = 0.1
    options = [(), (0.0,), (0.0, 2), (eta,)]
    expected = [eta / (2 - eta), eta / 2, eta / (2 + eta), eta / (2 - eta)]
    for option, variance in zip(options, expected, strict=True):
        found = stationary_scalar_moments(process_of(PAIR, eta, batches(1), *option))
        assert found.variance == pytest.approx(variance, rel=1e-13)
        assert found.mean == pytest.approx(0, abs=1e-15)
    # Two-point noise is lighter than Gaussian: x = Σ η(1−η)^k γ_k has E x⁴ from its cumulant.
    sgd = stationary_scalar_moments(ss.SGD(PAIR, eta, batches(1)))
    cumulant = -2 * eta**4 / (1 - (1 - eta) ** 4)
    assert sgd.raw[3] == pytest.approx(3 * sgd.variance**2 + cumulant, rel=1e-12)


@pytest.mark.parametrize("replacement, factor", [(True, 1 / 2), (False, 3 / 8)])
@pytest.mark.parametrize("step", [None, 0.0, 0.1])
def test_stationary_variance_of_the_second_moment_closure(replacement, factor, step):
    """The variance of `covariance`, for SGD, Euler and the SDE."""
    eta, decay = 0.5, 0.1
    exact = closed_forms.covariance(
        INPUTS[:, None],
        TARGETS,
        learning_rate=eta,
        noise_factor=factor,
        time_step=eta if step is None else step,
        l2=decay,
    )
    process = process_of(squares(l2=decay), eta, batches(2, replacement), step)
    found = stationary_scalar_moments(process)
    assert found.variance == pytest.approx(exact[0, 0], rel=1e-12)


def test_stationary_moments_of_the_equation_are_those_of_its_density():
    """h = 0: moments 1–4 by quadrature over the Itô density; Stratonovich has others."""
    eta, size = 0.4, 2

    def slopes(theta):
        return theta * INPUTS**2 - INPUTS * TARGETS

    laws = {
        kind: stationary_density(
            Diffusion(lambda t: -slopes(t).mean(), lambda t: eta / (2 * size) * slopes(t).var()),
            convention=kind,
        )
        for kind in ("ito", "stratonovich")
    }
    found = stationary_scalar_moments(process_of(squares(), eta, batches(size), 0.0))
    exact = [laws["ito"].moment(int(n)) for n in POWERS]
    np.testing.assert_allclose(found.raw, exact, rtol=1e-8)
    assert abs(laws["stratonovich"].moment(2) / found.raw[1] - 1) > 0.01  # control


def test_late_is_stationary():
    """t → ∞ of each process is its stationary law."""
    for option in ((), (0.1,), (0.0, 2)):
        process = process_of(squares(), 0.3, batches(2), *option)
        late = transient_scalar_moments(process, [150.0], 2.0)
        np.testing.assert_allclose(late.raw[0], stationary_scalar_moments(process).raw, rtol=1e-10)


def test_missing_moments_are_told_apart():
    """E(1−ηx²)⁴ > 1 > E(1−ηx²)²: E θ² exists and E θ⁴ does not, as the tail index says."""
    landscape, one = squares([2.0, 1.0, 1.0, 1.0], [1.0, 0.5, -0.2, 0.4]), batches(1)
    sgd = ss.SGD(landscape, 0.62, one)
    assert 2 < tail_index(sgd) < 4
    assert stationary_scalar_moments(sgd, max_moment=2).variance > 0
    for most in (3, 4):
        with pytest.raises(ValueError, match="no moment of order 4.*max_moment <= 2"):
            stationary_scalar_moments(sgd, max_moment=most)
    with pytest.raises(ValueError, match="no moment of order 2.*smaller learning rate"):
        stationary_scalar_moments(ss.SGD(landscape, 0.9, one), max_moment=2)
    # The SDE's tail: 1 + 2 E x²/(η Var x²) = 1 + 2(7/4)/(27η/16), which is 3.59 at η = .8.
    assert stationary_scalar_moments(process_of(landscape, 0.3, one, 0.0)).raw[3] > 0
    with pytest.raises(ValueError, match="no moment of order 4.*per iteration"):
        stationary_scalar_moments(process_of(landscape, 0.8, one, 0.0))


def test_moments_far_from_a_stationary_state_grow():
    """E u² = (E(1 − ηx²)²)ᵏ u₀² where all examples have one minimum, at an unstable η too."""
    landscape = squares([2.0, 1.0], [2.0, 1.0])
    sgd = ss.SGD(landscape, 1.0, batches(1))
    found = transient_scalar_moments(sgd, [5.0], 2.0, max_moment=2)
    assert found.raw[0, 1] == pytest.approx(4.5**5 + 2 * (-1.5) ** 5 + 1, rel=1e-13)
    with pytest.raises(ValueError, match="overflow before t = 5000"):
        transient_scalar_moments(sgd, [5000.0], 2.0)


BAD = [
    ({"max_moment": 101}, "max_moment"),
    ({"times": [0.15]}, "multiples of one step"),
    ({"theta0": np.inf}, "theta0"),
    ({"process": "sgd"}, "process must be"),
    ({"process": ss.SGD(PAIR, 0.1, batches(1), 0.5)}, "momentum"),
]


@pytest.mark.parametrize("change, match", BAD)
def test_refuses(change, match):
    """Bad numbers and processes raise `ValueError`."""
    good = {"process": ss.SGD(PAIR, 0.1, batches(1)), "times": [0.1], "theta0": 1.0}
    with pytest.raises(ValueError, match=match):
        transient_scalar_moments(**(good | change))


def test_a_flat_loss_has_no_stationary_law():
    """x = 0 and λ = 0: θ never moves."""
    with pytest.raises(ValueError, match="no moment of order 2"):
        stationary_scalar_moments(ss.SGD(squares([0.0, 0.0], [1.0, -1.0]), 0.1, batches(1)))
