"""Fokker–Planck in two dimensions: exact covariances, currents, manufactured densities."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import spsolve

from sde_sgd.processes import Diffusion
from sde_sgd.theory._fields import evaluate
from sde_sgd.theory.laws import FokkerPlanck
from sde_sgd.theory.laws._finite_volume import selling

HESS = np.diag([1.0, 3.0])
BOX = ((-1.5, 1.5), (-0.9, 0.9))


def order(errors):
    """Slope of log error over halvings of the cell."""
    errors = np.abs(np.asarray(errors, dtype=float))
    return np.log2(errors[:-1] / errors[1:])


@functools.cache
def two_temperatures(cells, cross=0.8, eta=0.1):
    """dθ = −Hθ dt + √η C^{1/2} dW and its stationary density."""
    if cells > 40:
        equation = two_temperatures(40, cross, eta)[0].refined(cells // 40)
    else:
        noise = jnp.array([[1.0, cross], [cross, 1.0]])
        equation = FokkerPlanck(
            Diffusion(lambda x: -HESS @ x, lambda x: eta / 2 * noise), BOX, cells
        )
    return equation, equation.stationary()


def refinements(equation, count=3):
    """The equation, and its refinements by 2, 4, ..."""
    return [equation] + [equation.refined(2**k) for k in range(1, count)]


def test_selling_is_a_positive_decomposition():
    """A = Σ_k ρ_k e_k e_kᵀ with ρ_k ≥ 0, for random tensors; a singular one says what it got."""
    root = np.random.default_rng(0).normal(size=(200, 2, 2))
    tensors = root @ root.transpose(0, 2, 1) + 0.02 * np.eye(2)
    offsets, weights, added = selling(tensors, 400)
    rebuilt = np.einsum("nk,nki,nkj->nij", weights, offsets, offsets)
    assert np.abs(rebuilt - tensors).max() < 1e-10 and weights.min() >= 0 and added == 0
    line = np.array([1.0, np.sqrt(2)])
    _, weights, added = selling(np.outer(line, line)[None], 100)
    assert weights.min() >= 0 and added == pytest.approx(0.01)


def test_ornstein_uhlenbeck_covariance():
    """H=diag(1,3), C=[[1,.8],[.8,1]]: M = η[[.5,.2],[.2,1/6]], errors of order 2."""
    exact = 0.1 * np.array([[0.5, 0.2], [0.2, 1 / 6]])
    found = [two_temperatures(n)[1].covariance for n in (40, 80, 160)]
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert order([m[i, j] - exact[i, j] for m in found]) == pytest.approx([2, 2], abs=0.1)
    np.testing.assert_allclose(found[-1] + (found[-1] - found[-2]) / 3, exact, rtol=1e-5)
    p = two_temperatures(80)[1]
    across = p.marginal(1)
    assert across.mass == pytest.approx(1) and p.values.min() >= 0 and abs(p.mass - 1) < 1e-12
    assert across.covariance[0, 0] == pytest.approx(p.covariance[1, 1], rel=1e-12)
    assert p.pdf([0.1, 0.1]) > p.pdf([0.1, -0.1]) and p.pdf([9.0, 0.0]) == 0


def areal_velocity(equation, p):
    """½∫(x₁J₂ − x₂J₁)."""
    x, flow = p.grid.centres, equation.current(p).reshape(-1, 2)
    return 0.5 * np.sum(x[:, 0] * flow[:, 1] - x[:, 1] * flow[:, 0]) * p.grid.volume


def test_current_circulates():
    """½⟨x₁dx₂ − x₂dx₁⟩/dt = −.2η; no cross noise, no circulation; C₁₂ < 0 turns it round."""
    eta = 0.1
    found = np.array([areal_velocity(*two_temperatures(n)) for n in (40, 80, 160)])
    assert order(found + 0.2 * eta) == pytest.approx([2, 2], abs=0.1)
    assert found[-1] + (found[-1] - found[-2]) / 3 == pytest.approx(-0.2 * eta, rel=1e-4)
    assert abs(areal_velocity(*two_temperatures(40, 0.0))) < 1e-12
    assert areal_velocity(*two_temperatures(40, -0.8)) == pytest.approx(-found[0], rel=1e-9)


def test_current_carries_the_mean():
    """∫J dθ = d⟨θ⟩/dt → −H⟨θ⟩ and ⟨θ⟩ → e^{−Ht}θ0 with order 2."""
    rates, means = [], []
    for cells in (40, 80):
        equation, _ = two_temperatures(cells)
        (p,) = equation.propagate([0.4, -0.2], [0.3])
        flow = equation.current(p).sum(axis=(0, 1)) * p.grid.volume
        np.testing.assert_allclose(flow, p.masses @ (equation.generator @ p.grid.centres))
        rates.append(flow + HESS @ p.mean)
        means.append(p.mean - np.exp(-np.diag(HESS) * 0.3) * [0.4, -0.2])
        assert abs(p.mass - 1) < 1e-12 and p.values.min() >= 0
    assert order(rates) == pytest.approx(np.full((1, 2), 2), abs=0.3)
    assert order(means) == pytest.approx(np.full((1, 2), 2), abs=0.3)


def energy(x):
    """−log p of the manufactured problem."""
    return (
        1.5 * x[0] ** 2
        + 0.5 * x[0] * x[1]
        + 1.2 * x[1] ** 2
        + 0.3 * x[0] ** 3 * x[1] / (1 + x[0] ** 2)
    )


def tensor(x):
    """A full D(θ) whose directions change sign and reduction."""
    cross = 0.6 * jnp.sin(2 * x[0] + x[1])
    return 0.3 * jnp.array([[1.2 + 0.5 * jnp.cos(x[1]), cross], [cross, 1.0 + 0.4 * jnp.sin(x[0])]])


def turn(x):
    """R₁₂ of the antisymmetric R that drives a current J = ∇·(R p)."""
    return 0.4 * jnp.cos(x[0] - x[1])


def manufactured_drift(x):
    """b = ∇·(D + R) − (D + R)∇U, so that p = e^{−U} is stationary with J = ∇·(R p)."""

    def both(y):
        return tensor(y) + turn(y) * jnp.array([[0.0, 1.0], [-1.0, 0.0]])

    divergence = jnp.einsum("ijj->i", jax.jacfwd(both)(x))
    return divergence - both(x) @ jax.grad(energy)(x)


def test_varying_tensor_with_current():
    """p = e^{−U} with J = ∇·(R p): L¹ error of order 2, E f of order 2, areal velocity E R₁₂."""
    box = ((-3.2, 3.2), (-3.4, 3.4))
    nodes, weights = np.polynomial.legendre.leggauss(120)
    mesh = np.stack(np.meshgrid(3.2 * nodes, 3.4 * nodes, indexing="ij"), -1).reshape(-1, 2)
    mass = np.outer(3.2 * weights, 3.4 * weights).ravel() * np.exp(-evaluate("of", energy, mesh))
    total = mass.sum()
    second = np.array([mass @ mesh[:, 0] ** 2, mass @ (mesh[:, 0] * mesh[:, 1])]) / total
    spin = mass @ evaluate("of", turn, mesh) / total
    far, moments, spins = [], [], []
    for equation in refinements(
        FokkerPlanck(Diffusion(manufactured_drift, tensor), box, 30, mass_tolerance=1e-4)
    ):
        p = equation.stationary()
        assert p.values.min() >= 0 and equation.generator.diagonal().max() < 0
        exact = np.exp(-evaluate("of", energy, p.grid.centres)) / total
        far.append(np.abs(p.values.ravel() - exact).sum() * p.grid.volume)
        moments.append(p.expect(lambda x: jnp.array([x[0] ** 2, x[0] * x[1]])) - second)
        spins.append(areal_velocity(equation, p) - spin)
    assert order(far) == pytest.approx([2, 2], abs=0.15)
    for values in (*np.transpose(moments), spins):
        assert order(values) == pytest.approx([2, 2], abs=0.1)


def test_absorbing_square():
    """𝓛u = f with u = (1−x²)(1−y²)e^{x/2} on an absorbing square, D with cross terms: order 2."""
    diffusion = 0.2 * np.array([[1.0, 1.5], [1.5, 3.0]])

    def drift(x):
        return jnp.array([x[1] - x[0], x[0] * x[1]])

    def exact(x):
        return (1 - x[0] ** 2) * (1 - x[1] ** 2) * jnp.exp(x[0] / 2)

    def image(x):
        return drift(x) @ jax.grad(exact)(x) + jnp.sum(diffusion * jax.hessian(exact)(x))

    errors = []
    for equation in refinements(
        FokkerPlanck(Diffusion(drift, lambda x: diffusion), ((-1, 1), (-1, 1)), 20, "absorbing")
    ):
        centres = equation.grid.centres
        solved = spsolve(equation.generator.tocsc(), evaluate("of", image, centres))
        errors.append(np.abs(solved - evaluate("of", exact, centres)).mean())
    assert order(errors) == pytest.approx([2, 2], abs=0.15)


def test_degenerate_noise_is_upwinded():
    """dx = v dt, dv = −(x + v)dt + √.2 dW: Var = .1 both, first order, non-negative."""
    errors = []
    for cells in (50, 100):
        equation = FokkerPlanck(
            Diffusion(lambda x: jnp.array([x[1], -x[0] - x[1]]), lambda x: jnp.array([0.0, 0.1])),
            ((-2.5, 2.5), (-2.5, 2.5)),
            cells,
        )
        p = equation.stationary()
        assert p.values.min() >= 0 and equation.added_diffusion == 0
        errors.append(p.covariance[0, 0] - 0.1)
    assert 0.9 < order(errors)[0] < 1.3


def test_200_by_200_in_seconds():
    """A 200×200 stationary solve takes under 10 s of CPU (about 1 s, setting up included)."""
    begin = time.process_time()
    p = two_temperatures(200)[1]
    assert time.process_time() - begin < 10
    assert p.values.min() >= 0 and abs(p.mass - 1) < 1e-12
