"""Densities of single entries: exact with averages over the joint law, a closure with product laws.

The network is ½(uwx − y)² with two weights and tilts ξ of its gradient, so that Σ has full rank:
its joint density solves a Fokker–Planck equation in the plane, which shares no averages with
the equations of the entries.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.processes import Diffusion

ETA, SIZE, CELLS, KNOTS = 0.1, 2.8, 96, 17
X, Y = np.array([-1.5, 0.6, 1.0]), np.array([-1.0, 0.9, 0.3])
TILTS = np.array([[1.2, 0.0], [-1.2, 0.0], [0.0, 0.7], [0.0, -0.7]])
TIMES = np.linspace(0, 1.5, 16)
START = ((0.3, 0.35), (0.1, 0.45))
ONE = ss.WithReplacement(1)


class Two(eqx.Module):
    """uwx, and the weights themselves for the tilts."""

    u: jax.Array
    w: jax.Array

    def __call__(self, x):
        return jnp.stack([self.u[0] * self.w[0] * x, self.u[0], self.w[0]])


@functools.cache
def network():
    targets = np.concatenate([np.repeat(Y, 4)[:, None], np.tile(TILTS, (3, 1))], axis=1)
    return ss.EmpiricalRisk(
        Two(jnp.zeros(1), jnp.zeros(1)),
        jnp.asarray(np.repeat(X, 4)),
        jnp.asarray(targets),
        lambda p, t: 0.5 * (p[0] - t[0]) ** 2 + p[1:] @ t[1:],
    )


def normal(x, mean, spread):
    return np.exp(-((x - mean) ** 2) / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))


@functools.cache
def plane():
    """The joint densities at TIMES."""
    box = ((-SIZE, SIZE), (-SIZE, SIZE))
    equation = theory.laws.FokkerPlanck(
        ss.ModifiedEquation(network(), ETA, ss.MinibatchNoise(ONE)).limit(), box, CELLS
    )
    assert equation.added_diffusion == 0
    first, second = (normal(equation.grid.axis_centres(i), *START[i]) for i in range(2))
    values = np.outer(first, second)
    found = equation.propagate(values / (values.sum() * equation.grid.volume), TIMES)
    return equation.grid, found


def starts():
    centres = np.linspace(-SIZE, SIZE, 2 * CELLS + 1)[1::2]
    values = [normal(centres, *pair) for pair in START]
    return [v / (v.sum() * 2 * SIZE / CELLS) for v in values]


@functools.cache
def averages(noise, knots=KNOTS):
    """Coefficients of u and of w at TIMES, over the joint law, its cells as weighted points."""
    grid, joint = plane()
    return [
        theory.matrices.conditional_coefficients(
            network(),
            noise,
            grid.centres,
            [[0], [1]],
            learning_rate=ETA,
            weights=p.masses,
            num_knots=knots,
        )
        for p in joint
    ]


def variation(first, second):
    return 0.5 * np.abs(first.masses - second.masses).sum()


def errors(coefficients, **options):
    """Total variation of both entries from the marginals of the joint density, at the end."""
    _, joint = plane()
    found = theory.matrices.evolve_entries(
        coefficients, TIMES, starts(), box=(-SIZE, SIZE), cells=CELLS, **options
    )
    return np.array([variation(found[-1][i], joint[-1].marginal(i)) for i in range(2)])


def changed(name):
    """Wrong coefficients."""
    if name == "trace/d":
        return averages(ss.IsotropicNoise(ONE))
    sign, factor = {"sign": (-1, 1), "2D": (1, 2), "no noise": (1, 0.02)}[name]
    return [
        theory.matrices.EntryCoefficients(c.knots, sign * c.drift, factor * c.diffusion)
        for c in averages(ss.MinibatchNoise(ONE))
    ]


def test_marginals_of_the_joint_density():
    """∂p(u) = −∂(E[b|u]p) + ∂²(E[D|u]p) has the joint law's marginals, to K⁻² and h²."""
    _, joint = plane()
    exact = averages(ss.MinibatchNoise(ONE))
    fine, coarse = errors(exact), errors(averages(ss.MinibatchNoise(ONE), 9))
    assert (fine < 0.01).all() and (fine < coarse / 2).all()
    moved = [variation(joint[0].marginal(i), joint[-1].marginal(i)) for i in range(2)]
    assert min(moved) > 0.2
    # The laws are far from independent by now.
    covariance = joint[-1].covariance
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) > 0.5


@pytest.mark.parametrize("name", ["sign", "2D", "no noise", "trace/d"])
def test_wrong_coefficients_are_seen(name):
    """Controls: another sign of the drift, other noise, and tr Σ/d for Σ_ii."""
    assert errors(changed(name), mass_tolerance=1.0).min() > 0.03


def exact_product(densities):
    """b and D of u and w under the product law, by its moments."""
    m = [[d.masses @ d.grid.centres[:, 0] ** k for k in range(5)] for d in densities]
    square, cross = np.mean(X**2), np.mean(X * Y)
    xx, xy, yy = np.var(X**2), np.cov(X**2, X * Y, bias=True)[0, 1], np.var(X * Y)
    tilt = np.mean(TILTS**2, axis=0)

    def drift(i, q):
        other = m[1 - i]
        return cross * other[1] - q * square * other[2]

    def diffusion(i, q):
        other = m[1 - i]
        noise = q**2 * xx * other[4] - 2 * q * xy * other[3] + yy * other[2]
        return ETA / 2 * (noise + tilt[i])

    return drift, diffusion


def test_averages_over_a_product_law():
    """Fits over `product_points` are the polynomials E[w²], E[w⁴], … of the other law's moments."""
    densities = [plane()[1][0].marginal(i) for i in range(2)]
    points = theory.matrices.product_points(densities, [[0], [1]], 2**13)
    found = theory.matrices.conditional_coefficients(
        network(), ss.MinibatchNoise(ONE), points, [[0], [1]], learning_rate=ETA, num_knots=25
    )
    q = densities[0].grid.centres[:, 0]
    for i, exact in enumerate(exact_product(densities)[0](j, q) for j in range(2)):
        masses, other = densities[i].masses, exact_product(densities)[0](1 - i, q)
        fitted = np.interp(q, found.knots[i], found.drift[i])
        assert masses @ np.abs(fitted - exact) < 0.005 < 0.03 < masses @ np.abs(fitted - other)
        exact, other = (exact_product(densities)[1](j, q) for j in (i, 1 - i))
        fitted = np.interp(q, found.knots[i], found.diffusion[i])
        assert masses @ np.abs(fitted / exact - 1) < 0.02 < masses @ np.abs(fitted / other - 1)


def by_moments(densities):
    """Coefficients of the product law, its exact polynomials on a fine table."""
    at = np.broadcast_to(np.linspace(-SIZE, SIZE, 4 * CELLS + 1), (2, 4 * CELLS + 1))
    drift, diffusion = exact_product(densities)
    tables = [np.stack([f(i, at[i]) for i in range(2)]) for f in (drift, diffusion)]
    return theory.matrices.EntryCoefficients(at, *tables)


def test_product_closure_by_moments():
    """The closure by averages over points is the one by exact moments; it is not the truth."""
    _, joint = plane()
    box, step = (-SIZE, SIZE), 0.1
    now = [joint[0].marginal(i) for i in range(2)]

    def advance(table, length):
        return [table.equation(i, box, CELLS).propagate(now[i], [length])[0] for i in range(2)]

    for _ in range(15):
        now = advance(by_moments(advance(by_moments(now), step / 2)), step)
    closure = theory.matrices.product_closure(
        network(),
        ss.MinibatchNoise(ONE),
        starts(),
        [[0], [1]],
        learning_rate=ETA,
        times=[0.1, 1.5],
        time_step=step,
        box=box,
        cells=CELLS,
        num_points=2048,
    )
    for i in range(2):
        assert variation(closure[1][i], now[i]) < 0.01
        # Exact at the start: early the error is small, later it is not.
        assert variation(closure[0][i], joint[1].marginal(i)) < 0.01
        assert variation(closure[1][i], joint[-1].marginal(i)) > 0.1
        assert variation(closure[1][i], joint[0].marginal(i)) > 0.1


def test_closure_is_exact_where_entries_do_not_meet():
    """U = Σ f_j(θ_j), constant noise: each law is that of its own equation in one dimension."""
    tilts = jnp.array([[1.0, 0.5], [-1.0, -0.5], [0.2, -0.9], [-0.2, 0.9]])
    landscape = ss.Potential(lambda x: x[0] ** 4 / 4 + x[1] ** 2 - 0.3 * x[1], tilts=tilts)
    noise = ss.MinibatchNoise(ONE)
    closure = theory.matrices.product_closure(
        landscape,
        noise,
        starts(),
        [[0], [1]],
        learning_rate=0.3,
        times=[0.5],
        time_step=0.1,
        box=(-SIZE, SIZE),
        cells=CELLS,
        num_points=2048,
        num_knots=25,
    )[0]
    levels = 0.15 * np.mean(np.asarray(tilts) ** 2, axis=0)
    drifts = (lambda q: -(q**3), lambda q: 0.3 - 2 * q)
    for i in range(2):
        equation = theory.laws.FokkerPlanck(
            Diffusion(drifts[i], lambda q, i=i: levels[i] + 0 * q), (-SIZE, SIZE), CELLS
        )
        own = equation.propagate(starts()[i], [0.5])[0]
        assert variation(closure[i], own) < 0.003
        assert variation(closure[1 - i], own) > 0.1


def test_product_points():
    """Means over the points are products of the densities' moments; other entries do not meet."""
    densities = [plane()[1][0].marginal(i) for i in range(2)]
    points = theory.matrices.product_points(densities, [[0, 2], [1]], 2**12, shift=3)
    assert points.shape == (4096, 3)
    first, second = densities
    for column, density in ((0, first), (2, first), (1, second)):
        np.testing.assert_allclose(points[:, column].mean(), density.mean[0], atol=2e-3)
        np.testing.assert_allclose(
            points[:, column].var(), density.covariance[0, 0], rtol=0.01, atol=1e-3
        )
    assert np.abs(np.corrcoef(points.T) - np.eye(3)).max() < 0.01
    again = theory.matrices.product_points(densities, [[0, 2], [1]], 2**12, shift=4)
    assert np.abs(np.sort(again[:, 0]) - np.sort(points[:, 0])).max() > 1e-6


def test_rates_of_an_entry():
    """b_i = −∂_iL and D_i = (η/2)Var ∂_iℓ, from all examples (Itô); −∂_iL − ½∂_iD_i is another."""
    points = np.random.default_rng(4).normal(size=(6, 2))
    found = theory.matrices.entry_rates(
        network(), ss.MinibatchNoise(ONE), points, learning_rate=ETA
    )
    (u, w), x, y = points.T[..., None], np.repeat(X, 4), np.repeat(Y, 4)
    rest, tilt = u * w * x - y, np.tile(TILTS, (3, 1))
    slopes = np.stack([rest * w * x + tilt[:, 0], rest * u * x + tilt[:, 1]], -1)
    curvatures = np.stack([(w * x) ** 2, (u * x) ** 2], -1)
    np.testing.assert_allclose(found[0], -slopes.mean(axis=1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], ETA / 2 * slopes.var(axis=1), rtol=1e-10)
    together = (slopes - slopes.mean(axis=1, keepdims=True)) * curvatures
    assert np.abs(ETA / 2 * together.mean(axis=1)).max() > 0.01


NORMAL = np.random.default_rng(0).normal(size=(400, 2))
BAD: dict[str, Any] = {
    "dimension": (dict(positions=NORMAL[:, :1]), [[0]], "positions"),
    "index": ({}, [[2]], "groups"),
    "twice": ({}, [[0], [0, 1]], "one group only"),
    "few points": (dict(positions=NORMAL[:40]), [[0]], "num_knots"),
    "one point": (dict(positions=np.zeros((400, 2))), [[0]], "different values"),
    "weights": (dict(weights=-np.ones(400)), [[0]], "weights"),
    "rate": (dict(learning_rate=0.0), [[0]], "learning_rate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    """One clear ValueError that names the value."""
    changes, groups, text = BAD[name]
    options: Any = dict(positions=NORMAL, learning_rate=ETA) | changes
    positions = options.pop("positions")
    with pytest.raises(ValueError, match=text):
        theory.matrices.conditional_coefficients(
            network(), ss.MinibatchNoise(ONE), positions, groups, **options
        )


def test_bad_closure():
    """Entries without a law, numbers of points, times and lengths."""
    laws = [plane()[1][0].marginal(0)]
    with pytest.raises(ValueError, match="power of two"):
        theory.matrices.product_points(laws, [[0]], 100)
    with pytest.raises(ValueError, match="densities for"):
        theory.matrices.product_points(laws, [[0], [1]], 64)
    options: Any = dict(learning_rate=ETA, time_step=0.1, box=(-SIZE, SIZE), cells=CELLS)
    noise = ss.MinibatchNoise(ONE)
    with pytest.raises(ValueError, match="all 2 entries"):
        theory.matrices.product_closure(network(), noise, laws, [[0]], times=[1.0], **options)
    with pytest.raises(ValueError, match="increase"):
        theory.matrices.product_closure(
            network(), noise, starts(), [[0], [1]], times=[1.0, 0.5], **options
        )
    with pytest.raises(ValueError, match="times must increase"):
        theory.matrices.evolve_entries(
            averages(noise)[:2], [0.0], starts(), box=(-SIZE, SIZE), cells=CELLS
        )
