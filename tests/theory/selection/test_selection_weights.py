"""Weights of minima: closed forms, quadrature, enumeration of all spanning trees."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import FokkerPlanck
from sde_sgd.theory.selection import (
    boltzmann_weights,
    large_deviation_weights,
    spanning_tree_energies,
    splitting_on_grid,
    weights_on_grid,
)


def right(theta):
    return (theta[0] > 0).astype(int)


def test_boltzmann_weights_are_the_low_temperature_limit():
    """∫_{well i} e^{−U/T} → e^{−L_i/T}/√det H_i with an error of O(T), halved when T is."""
    asymmetry, losses, misses = 0.02, [2 * 0.02 / 3, -2 * 0.02 / 3], []
    hessians = [np.diag([2 * (1 - asymmetry), 1.0]), np.diag([2 * (1 + asymmetry), 10.0])]
    for t in (0.01, 0.005):

        def marginal(x, t=t):
            s = 2 * x / (1 + x * x)
            k = 10 ** ((1 + s) / 2)
            return np.exp(-((x**2 - 1) ** 2 / 4 + asymmetry * (x**3 / 3 - x)) / t) / np.sqrt(k)

        left = quad(marginal, -3, 0, epsabs=0, points=[-1])[0]
        sharp = quad(marginal, 0, 3, epsabs=0, points=[1])[0]
        found = boltzmann_weights(losses, hessians, temperature=t)
        misses.append(np.log(found[1] / found[0]) - np.log(sharp / left))
        assert found.sum() == pytest.approx(1, abs=1e-14)
    assert abs(misses[0]) < 0.005 and misses[0] / misses[1] == pytest.approx(2, rel=0.2)


def test_boltzmann_by_hand():
    """w₂/w₁ = √(det H₁/det H₂) e^{−(L₂−L₁)/T}, matrices or eigenvalues alike."""
    found = boltzmann_weights([0.0, 0.1], [[1.0, 4.0], [1.0, 1.0]], temperature=0.1)
    assert found[1] / found[0] == pytest.approx(2 * np.exp(-1), rel=1e-13)
    same = boltzmann_weights([0.0, 0.1], [np.diag([1.0, 4.0]), np.eye(2)], temperature=0.1)
    np.testing.assert_allclose(found, same, rtol=1e-14)


def test_exact_ito_weights_on_the_grid():
    """Theory §3: V = (x²−1)²/4, D = .05(1 + .3x): P(x > 0) = .12593 Itô; not .16209."""
    equation = FokkerPlanck(
        Diffusion(lambda x: -(x**3 - x), lambda x: 0.05 * (1 + 0.3 * x[0])), (-2.5, 2.5), 2000
    )
    weights = weights_on_grid(equation.stationary(), right, 2)
    assert weights[1] == pytest.approx(0.12593, abs=2e-5)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_two_dimensions_against_the_exact_marginal():
    """Isotropic noise: the marginal of x is ∝ k(x)^{−1/2} e^{−U(x,0)/T} exactly."""
    t = 0.08
    landscape = ss.landscapes.sharp_and_flat_wells(1.0)
    equation = FokkerPlanck(
        ss.ModifiedEquation(landscape, 1.0, ss.ConstantNoise(2 * t * jnp.eye(2))).limit(),
        ((-2.6, 2.6), (-3.0, 3.0)),
        (130, 240),
        mass_tolerance=1e-4,
    )
    weights = weights_on_grid(equation.stationary(), right, 2)

    def marginal(x):
        return np.exp(-((x**2 - 1) ** 2) / 4 / t) * 10 ** (-0.25 - 0.5 * x / (1 + x * x))

    left, sharp = quad(marginal, -4, 0)[0], quad(marginal, 0, 4)[0]
    assert weights[1] == pytest.approx(sharp / (left + sharp), abs=5e-4)
    numbers = np.where(equation.grid.centres[:, 0] > 0, 1, 0)
    np.testing.assert_array_equal(weights_on_grid(equation.stationary(), numbers, 2), weights)


def test_splitting_probabilities_of_three_targets():
    """dx = √(2D) dW between targets at 0 and 1, started at x: q = (1 − x, x); they sum to 1."""
    equation = FokkerPlanck(Diffusion(lambda x: 0 * x, lambda x: 0.5), (-0.5, 1.5), 400, "wall")
    q0, q1 = splitting_on_grid(equation, [lambda x: x[0] <= 0.0, lambda x: x[0] >= 1.0])
    at = np.array([[0.2], [0.5], [0.9]])
    np.testing.assert_allclose(q1(at), at[:, 0], atol=1e-6)
    np.testing.assert_allclose(q0(at) + q1(at), 1, atol=1e-10)


def trees(cost):
    """min over all in-trees by enumeration: every node but the root picks a successor."""
    size, energy = len(cost), []
    for root in range(size):
        others = [i for i in range(size) if i != root]
        best = np.inf
        for picks in itertools.product(range(size), repeat=size - 1):
            successor = dict(zip(others, picks, strict=True))
            if any(i == j for i, j in successor.items()):
                continue
            if all(_ends(successor, i, root, size) for i in others):
                best = min(best, sum(cost[i, j] for i, j in successor.items()))
        energy.append(best)
    return np.array(energy) - min(energy)


def _ends(successor, i, root, size):
    for _ in range(size):
        if i == root:
            return True
        i = successor[i]
    return i == root


@pytest.mark.parametrize("seed", range(6))
def test_spanning_trees_by_enumeration(seed):
    """E_i = min over spanning in-trees of Σ W, all of them enumerated (5 minima)."""
    cost = np.random.default_rng(seed).exponential(size=(5, 5))
    if seed > 3:
        cost[0, 2] = cost[3, 1] = cost[4, 0] = np.inf
    np.testing.assert_allclose(spanning_tree_energies(cost), trees(cost), atol=1e-12)


def test_weights_of_the_chain_between_minima():
    """π of the chain with rates e^{−W/η} has −η log π → E_i − min E; two minima exactly."""
    cost = np.array([[0.0, 0.7, 1.1], [0.4, 0.0, 0.9], [0.6, 0.5, 0.0]])
    eta = 0.02
    rates = np.exp(-cost / eta) * (1 - np.eye(3))
    minors = [
        np.linalg.det(np.delete(np.delete(np.diag(rates.sum(1)) - rates, i, 0), i, 1))
        for i in range(3)
    ]
    exponents = -eta * np.log(np.array(minors) / max(minors))
    np.testing.assert_allclose(spanning_tree_energies(cost), exponents, atol=2 * eta)
    two = large_deviation_weights([[0, 0.5], [0.3, 0]], learning_rate=0.1)
    assert two[0] / two[1] == pytest.approx(np.exp(2.0), rel=1e-12)
    # Control: the cheapest way out is not the energy.
    assert abs(cost[1, 0] - spanning_tree_energies(cost)[0]) > 0.1


def test_two_wells_of_sgd_from_quasi_potentials():
    """−η log(w₁/w₀) = W₀₁ − W₁₀ on a tilted double well, W by `quasi_potential`."""
    well = ss.double_well(0.36, asymmetry=0.1)
    noise = ss.ConstantNoise(jnp.array([[0.36]]))
    sde = ss.ModifiedEquation(well, 0.1, noise)
    up = ss.theory.escape.quasi_potential(sde, -1.0, 1.0).barrier
    down = ss.theory.escape.quasi_potential(sde, 1.0, -1.0).barrier
    energy = spanning_tree_energies([[0, up], [down, 0]])
    assert energy[0] == pytest.approx(2 / 0.36 * 0.4 / 3, rel=1e-8)  # 2ΔL/C, ΔL = 4a/3
    assert energy[1] == 0


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: boltzmann_weights([0.0], [[0.0, 1.0]], temperature=1.0), "flat direction"),
        (lambda: boltzmann_weights([0.0, 1.0], [[1.0]], temperature=1.0), "hessians"),
        (lambda: boltzmann_weights([0.0], [[1.0]], temperature=0.0), "temperature"),
        (lambda: spanning_tree_energies([[0, np.inf], [1.0, 0]]), "reached"),
        (lambda: spanning_tree_energies([[0, -1.0], [1.0, 0]]), ">= 0"),
        (lambda: spanning_tree_energies([[0, 1.0]]), r"\(m, m\)"),
        (lambda: large_deviation_weights([[0, 1.0], [1.0, 0]], learning_rate=0), "learning_rate"),
    ],
)
def test_refuses(call, match):
    """Flat minima, wrong shapes, minima that are never reached."""
    with pytest.raises(ValueError, match=match):
        call()


def test_labels_that_do_not_match():
    """More labels than basins, or labels that are no integers, are refused."""
    density = FokkerPlanck(Diffusion(lambda x: -x, lambda x: 0.1), (-3.0, 3.0), 60).stationary()
    with pytest.raises(ValueError, match="num_basins=2"):
        weights_on_grid(density, lambda x: jnp.where(x[0] > 0, 2, 0), 2)
    with pytest.raises(ValueError, match="integer"):
        weights_on_grid(density, lambda x: x[0], 2)
    with pytest.raises(ValueError, match="two targets"):
        splitting_on_grid(
            FokkerPlanck(Diffusion(lambda x: -x, lambda x: 0.1), (-3.0, 3.0), 60),
            [lambda x: x[0] > 0],
        )
