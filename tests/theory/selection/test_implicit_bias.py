"""Diagonal networks and label noise: mirror-flow integration, limits, exact recursions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import linprog

import sde_sgd as ss
from sde_sgd.theory.selection import (
    diagonal_network_limit,
    hyperbolic_entropy,
    label_noise_balance,
    label_noise_flow,
)

RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, 12))
Y = X @ np.r_[1.0, -1.5, np.zeros(10)]


def test_limit_is_where_gradient_flow_ends():
    """dw± = ∓w± g from w± = α, g = Xᵀ(Xβ − y)/n, integrated to its end; w₊w₋ = α² throughout."""
    alpha = 0.3

    def field(_, state):
        plus, minus = np.split(state, 2)
        g = X.T @ (X @ (plus**2 - minus**2) - Y) / len(X)
        return np.concatenate([-plus * g, minus * g])

    flow = solve_ivp(field, (0, 400), np.full(24, alpha), method="LSODA", rtol=1e-11, atol=1e-13)
    plus, minus = np.split(flow.y[:, -1], 2)
    np.testing.assert_allclose(plus * minus, alpha**2, rtol=1e-8)
    found = diagonal_network_limit(X, Y, scale=alpha)
    np.testing.assert_allclose(found.beta, plus**2 - minus**2, atol=1e-7)
    other = diagonal_network_limit(X, Y, scale=2 * alpha)  # control
    assert np.abs(found.beta - other.beta).max() > 0.01


def test_limit_minimises_the_entropy():
    """ψ_α(β∞) is below that of every other interpolator nearby, and ∇ψ ⟂ ker X."""
    found = diagonal_network_limit(X, Y, scale=0.2)
    assert found.residual < 1e-11
    kernel = np.linalg.svd(X)[2][5:]
    slope = np.arcsinh(found.beta / (2 * 0.2**2)) / 2
    np.testing.assert_allclose(kernel @ slope, 0, atol=1e-9)
    numeric = [
        (hyperbolic_entropy(found.beta + 1e-5 * e, 0.2)
         - hyperbolic_entropy(found.beta - 1e-5 * e, 0.2)) / 2e-5
        for e in np.eye(12)
    ]  # fmt: skip
    np.testing.assert_allclose(numeric, slope, atol=1e-7)
    for direction in kernel:
        moved = hyperbolic_entropy(found.beta + 0.1 * direction, 0.2)
        assert moved > hyperbolic_entropy(found.beta, 0.2)


def test_small_and_large_scale():
    """α → 0: least ℓ₁ norm (linear program); α → ∞: least ℓ₂ norm."""
    program = linprog(np.ones(24), A_eq=np.hstack([X, -X]), b_eq=Y)
    sparse = program.x[:12] - program.x[12:]
    found = diagonal_network_limit(X, Y, scale=1e-8).beta
    np.testing.assert_allclose(found, sparse, atol=1e-6)
    dense = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(diagonal_network_limit(X, Y, scale=30.0).beta, dense, atol=1e-5)
    norms = [
        np.abs(diagonal_network_limit(X, Y, scale=a).beta).sum() for a in (1.0, 0.3, 0.1, 0.01)
    ]
    assert (np.diff(norms) < 0).all()


def test_start_and_scales_of_their_own():
    """β₀ shifts arcsinh(β/2α²) by a constant, coordinatewise scales hold coordinatewise."""
    scale, start = np.linspace(0.1, 0.5, 12), np.linspace(-0.2, 0.2, 12)
    found = diagonal_network_limit(X, Y, scale=scale, start=start)
    inner = X.T @ found.multipliers + np.arcsinh(start / (2 * scale**2))
    np.testing.assert_allclose(found.beta, 2 * scale**2 * np.sinh(inner), atol=1e-11)
    np.testing.assert_allclose(X @ found.beta, Y, atol=1e-10)


def test_dependent_examples():
    """A repeated example changes nothing."""
    twice = diagonal_network_limit(np.vstack([X, X[:1]]), np.r_[Y, Y[0]], scale=0.2)
    np.testing.assert_allclose(twice.beta, diagonal_network_limit(X, Y, scale=0.2).beta, atol=1e-10)


class Product(eqx.Module):
    """f(x) = u w x."""

    u: jax.Array
    w: jax.Array

    def __call__(self, x):
        return self.u * self.w * x


def product_landscape():
    return ss.EmpiricalRisk(
        Product(jnp.array(2.0), jnp.array(0.5)), jnp.ones(1), jnp.ones(1), ss.squared_error
    )


def test_label_noise_flow_of_a_product():
    """On uw = 1: u² − w² decays by exactly e^{−ησ²t}, whatever u² + w²."""
    landscape = product_landscape()
    times = np.array([0.0, 50.0, 200.0])
    path = label_noise_flow(landscape, [2.0, 0.5], learning_rate=0.02, label_noise=0.5, times=times)
    ratio = (path[:, 0] ** 2 - path[:, 1] ** 2) / 3.75
    np.testing.assert_allclose(ratio, np.exp(-0.02 * 0.25 * times), rtol=1e-6)
    np.testing.assert_allclose(path[:, 0] * path[:, 1], 1, atol=1e-8)
    assert ratio[-1] == pytest.approx(0.3679, abs=5e-5)  # leading order, 10⁴ steps
    half = label_noise_flow(
        landscape, [2.0, 0.5], learning_rate=0.02, label_noise=0.5, batch_size=2, times=[200.0]
    )
    assert (half[0, 0] ** 2 - half[0, 1] ** 2) / 3.75 == pytest.approx(np.exp(-0.5), rel=1e-6)


def test_label_noise_balance_number():
    """Theory §6: .35624 after 10⁴ steps, beyond the leading order .3679."""
    found = label_noise_balance(2.0, 0.5, learning_rate=0.02, label_noise=0.5, num_steps=10_000)
    assert found == pytest.approx(0.35624, abs=5e-6)
    leading = np.exp(-(0.02**2) * 0.25 * 10_000)
    assert abs(found / leading - 1) > 0.03


def test_label_noise_balance_by_second_moments():
    """E g² of the frozen recursion r ← (1 − ηs) r + noise, by iterating its variance."""
    eta, variance, s = 0.1, 0.04, 4.25
    spread = 0.0
    for _ in range(500):
        spread = (1 - eta * s) ** 2 * spread + eta**2 * s**2 * variance
    mean_square = spread + variance
    one = label_noise_balance(2.0, 0.5, learning_rate=eta, label_noise=0.2, num_steps=1)
    assert 1 - one == pytest.approx(eta**2 * mean_square, rel=1e-12)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: diagonal_network_limit(np.ones((3, 2)), [1.0, 2, 3], scale=1.0), "interpolates"),
        (lambda: diagonal_network_limit(X, Y, scale=0.0), "scale"),
        (lambda: diagonal_network_limit(X, Y[:3], scale=0.1), "equally many"),
        (lambda: hyperbolic_entropy([1.0], [0.1, 0.2]), "scale"),
        (
            lambda: label_noise_balance(
                2.0, 0.5, learning_rate=0.5, label_noise=0.1, num_steps=1
            ),
            "unstable",
        ),
        (
            lambda: label_noise_flow(
                product_landscape(), [2.0, 0.6], learning_rate=0.1, label_noise=0.1, times=[1.0]
            ),
            "off the zero-loss manifold",
        ),
        (
            lambda: label_noise_flow(  # faint: |∇L| = 4e-10, and as far off as the one before
                ss.Potential(lambda x: 1e-9 * (x[0] * x[1] - 1) ** 2 / 2, 0.1 * np.eye(2)),
                [2.0, 0.6],
                learning_rate=0.1,
                label_noise=0.1,
                times=[1.0],
            ),
            "off the zero-loss manifold",
        ),
        (
            lambda: label_noise_flow(
                ss.quadratic(1.0, 0.1), [0.0], learning_rate=0.1, label_noise=0.1, times=[1.0]
            ),
            "isolated minimum",
        ),
    ],
)  # fmt: skip
def test_refuses(call, match):
    """Inconsistent data, α = 0, unstable steps, starts that are on no manifold."""
    with pytest.raises(ValueError, match=match):
        call()
