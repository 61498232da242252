"""The law of balance against the two-weight SDE it comes from, and against single steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import stationary_density
from sde_sgd.theory.selection import (
    balance_factor,
    balance_moments,
    balance_moments_gaussian,
    BalanceMoments,
    law_of_balance_density,
    law_of_balance_equation,
)

GAUSSIAN = balance_moments_gaussian()
INPUTS = np.array([0.7, -1.1, 1.6, 0.4, -0.9])
TARGETS = np.array([0.5, -1.9, 1.0, 1.2, -0.1])


def losses(theta, x, y):
    """(u w x − y)²."""
    return (theta[0] * theta[1] * x - y) ** 2


def test_gaussian_data():
    """x ~ N(0,1), y = x + N(0,1): α = 2, 2, 3, β = 1, 1; collapse at T = 1/3."""
    assert tuple(GAUSSIAN) == (2.0, 2.0, 3.0, 1.0, 1.0)
    assert GAUSSIAN.collapse_temperature == pytest.approx(1 / 3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    x, noise = (axis.ravel() for axis in np.meshgrid(np.sqrt(2) * nodes, 0.5 * nodes))
    chance = np.outer(weights, weights).ravel() / (2 * np.pi)
    y = 1.5 * x + noise
    second = {"xx": x**2, "xy": x * y}
    mean = {k: np.sum(chance * v) for k, v in second.items()}
    pairs = [("xx", "xx"), ("xx", "xy"), ("xy", "xy")]
    alpha = [np.sum(chance * second[a] * second[b]) - mean[a] * mean[b] for a, b in pairs]
    found = balance_moments_gaussian(feature_variance=2.0, slope=1.5, label_noise=0.5)
    np.testing.assert_allclose(found, [*alpha, mean["xx"], mean["xy"]], rtol=1e-12)


@pytest.mark.parametrize("temperature, mean", [(0.05, 0.93763), (0.15, 0.72587), (0.25, 0.40372)])
def test_mean(temperature, mean):
    """E v = .93763, .72587, .40372, also by quadrature of the printed density in log v."""
    found = law_of_balance_density(GAUSSIAN, temperature=temperature)
    assert found.mean == pytest.approx(mean, abs=5e-6)

    def density(u):  # α = 2, 2, 3, β = 1, 1: Δ = 2, α₃β₁ − α₂β₂ = 1
        v, t = np.exp(u), temperature
        power = (2 * v**2 - 4 * v + 3) ** (-1 - 1 / (12 * t))
        bend = np.exp(-np.arctan((2 * v - 2) / np.sqrt(2)) / (6 * t * np.sqrt(2)))
        return v ** (1 / (6 * t) - 0.5) * power * bend

    cuts = [-200, -30, -3, 0, 3, 60]
    weight, first = (
        sum(
            quad(f, a, b, epsabs=1e-14, limit=400)[0]
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        )
        for f in (density, lambda u: density(u) * np.exp(u))
    )
    assert found.mean == pytest.approx(first / weight, rel=1e-8)


@pytest.mark.parametrize("temperature", [0.05, 0.25])
@pytest.mark.parametrize("moments", [GAUSSIAN, balance_moments(INPUTS, TARGETS)])
def test_density_is_that_of_the_equation(temperature, moments):
    """p of the closed form = (1/D) exp ∫ drift/D, integrated numerically; Stratonovich is not."""
    found = law_of_balance_density(moments, temperature=temperature)

    a1, a2, a3, b1, b2 = (float(x) for x in moments)

    def equation(v):
        strength = 4 * (a1 * v**2 - 2 * a2 * v + a3)
        drift = -4 * v * (b1 * v - b2) + temperature * v * strength
        return drift, 2 * temperature * v**2 * strength

    places = np.array([0.01, 0.3, 0.9, 1.0, 1.2, 5.0])
    own = law_of_balance_equation(moments, places, temperature=temperature)
    np.testing.assert_allclose(equation(places), own, rtol=1e-12)
    kinds = {
        kind: stationary_density(
            Diffusion(lambda v: equation(v)[0], lambda v: equation(v)[1]),
            lower=0.0,
            convention=kind,
        )
        for kind in ("ito", "stratonovich")
    }
    np.testing.assert_allclose(found.cdf(places), kinds["ito"].cdf(places), rtol=1e-8)
    assert np.abs(found.cdf(places) - kinds["stratonovich"].cdf(places)).max() > 0.01  # control


@pytest.mark.parametrize("v", [0.2, 1.0, 2.5])
def test_equation_is_itos_formula_for_two_weights(v):
    """drift = −∇v·∇L + (T/2) tr(Σ ∇²v), D = (T/2) ∇vᵀΣ∇v, at u = w = √v, by autodiff."""
    theta, t = jnp.sqrt(jnp.array([v, v])), 0.3
    moments = balance_moments(INPUTS, TARGETS)
    grads = jax.vmap(lambda x, y: jax.grad(losses)(theta, x, y))(
        jnp.asarray(INPUTS), jnp.asarray(TARGETS)
    )
    sigma = np.cov(np.asarray(grads).T, bias=True)
    slope = np.asarray(theta)[::-1]
    drift, diffusion = law_of_balance_equation(moments, v, temperature=t)
    # ∇²(uw) is the exchange matrix: tr(Σ ∇²v) = 2Σ_uw.
    assert drift == pytest.approx(-slope @ np.asarray(grads).mean(0) + t * sigma[0, 1], rel=1e-10)
    assert diffusion == pytest.approx(t / 2 * slope @ sigma @ slope, rel=1e-10)


@pytest.mark.parametrize("batch", [[0], [1, 3], [0, 0, 4]])
def test_one_step(batch):
    """(u² − w²)' = (u² − w²)(1 − η²g²) for any batch, to rounding."""
    u, w, eta = 1.3, -0.4, 0.07
    x, y = INPUTS[batch], TARGETS[batch]
    g = np.mean(2 * x * (u * w * x - y))
    after = u - eta * w * g, w - eta * u * g
    ratio = (after[0] ** 2 - after[1] ** 2) / (u**2 - w**2)
    factor = balance_factor(g, learning_rate=eta)
    assert factor == pytest.approx(ratio, rel=1e-13)
    assert abs(factor - 1) > 1e-4


def test_moments_that_exist():
    """v^{−7/2} at every T: E v² is finite, E v^2.5 and E v³ are not."""
    for temperature in (0.05, 0.25):
        found = law_of_balance_density(GAUSSIAN, temperature=temperature)
        assert found.tail_index == pytest.approx(2.5, abs=1e-9)
        assert np.isfinite(found.variance)
        assert found.absolute_moment(3) == np.inf
        with pytest.raises(ValueError, match="order 3 does not exist"):
            found.moment(3)


def test_collapse():
    """E v → 0 as T → 1/3; there and above there is no law."""
    near = law_of_balance_density(GAUSSIAN, temperature=1 / 3 - 1e-4)
    assert 0 < near.mean < 1e-3
    assert near.cdf(1e-100) > 0.8
    for temperature in (1 / 3 + 1e-12, 1.0):
        with pytest.raises(ValueError, match="collapses.*0.333333"):
            law_of_balance_density(GAUSSIAN, temperature=temperature)


def test_equal_inputs_are_gamma():
    """x = ±1 has no Var x²: v is gamma with shape β₂/(2α₃T) − ½ and rate β₁/(2α₃T)."""
    inputs, targets = np.array([1.0, -1.0, 1.0]), np.array([2.0, -1.0, 0.6])
    moments = balance_moments(inputs, targets)
    assert moments[:2] == (0.0, 0.0)
    found = law_of_balance_density(moments, temperature=0.3)
    strength = 2 * moments.alpha3 * 0.3
    exact = stats.gamma(moments.beta2 / strength - 0.5, scale=strength)
    places = np.array([0.2, 1.0, 3.0])
    np.testing.assert_allclose(found.cdf(places), exact.cdf(places), rtol=1e-9)


def test_refuses():
    """Noise that vanishes somewhere, moments of no data, and shapes."""
    with pytest.raises(ValueError, match="noise vanishes at v = alpha2/alpha1 = 2"):
        law_of_balance_density(balance_moments(INPUTS, 2 * INPUTS), temperature=0.01)
    with pytest.raises(ValueError, match="moments must have"):
        law_of_balance_density(BalanceMoments(1.0, 0.0, 0.0, 1.0, 1.0), temperature=0.1)
    with pytest.raises(ValueError, match="alpha2"):
        law_of_balance_density(BalanceMoments(1.0, 3.0, 1.0, 1.0, 1.0), temperature=0.1)
    with pytest.raises(ValueError, match="temperature"):
        law_of_balance_density(GAUSSIAN, temperature=0.0)
    with pytest.raises(ValueError, match="equally many"):
        balance_moments(INPUTS, TARGETS[:2])
