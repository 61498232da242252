"""Splitting against chains that are solved exactly: probability, mean time, coverage."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy import stats

import sde_sgd as ss
from sde_sgd.rare_events import wave as waves
from sde_sgd.rare_events.compiled import branch

FAILURE_RATE = 2e-5
START, TOP = 3, 10


def first(theta):
    return theta[0]


def lattice():
    """x ← x + 1 with chance 1/3, x ← x − 2 with 2/3: SGD on U = x with tilts −2, 1, 1, η = 1."""
    tilts = np.array([[-2.0], [1.0], [1.0]])
    return ss.SGD(ss.Potential(first, tilts=tilts), 1.0, ss.WithReplacement(1))


@functools.cache
def exact_ruin():
    """q(x) = (q(x + 1) + 2 q(x − 2))/3 on 1…9, q = 0 at x ≤ 0 and 1 at x ≥ 10; q(3)."""
    states = np.arange(1, TOP)
    matrix = np.eye(len(states))
    matrix[states[:-1] - 1, states[:-1]] -= 1 / 3
    matrix[states[2:] - 1, states[2:] - 3] -= 2 / 3
    right = np.where(states == TOP - 1, 1 / 3, 0.0)
    return np.linalg.solve(matrix, right)[START - 1]


def split(process=None, theta0=None, **options):
    given = dict(level=first, origin=0.0, target=float(TOP), num_levels=TOP, key=jr.key(0))
    process = lattice() if process is None else process
    theta0 = jnp.array([float(START)]) if theta0 is None else theta0
    return ss.splitting(process, theta0, **(given | options))


def ruins_of(size):
    """4000 repetitions; always as many, so that all share one executable."""
    return split(num_replicas=size, num_repetitions=4000)


@functools.cache
def ruins():
    """16 replicas each: few, so that a bias would show."""
    return ruins_of(16)


def test_the_ruin_problem_is_itself_right():
    """q(3) by the linear system equals the absorbed mass of the chain, step by step."""
    mass = np.zeros(TOP + 1)
    mass[START], reached = 1.0, 0.0
    for _ in range(2000):
        new = np.zeros_like(mass)
        for x in range(1, TOP):
            new[x + 1] += mass[x] / 3
            new[max(x - 2, 0)] += 2 * mass[x] / 3
        reached += new[TOP]
        mass = new
    np.testing.assert_allclose(reached, exact_ruin(), rtol=1e-12)
    assert 1e-4 < exact_ruin() < 2e-3


def test_few_replicas_give_no_bias():
    """E p̂ = q(3) for 16 replicas, ties at every level (a lattice): z < 4.3."""
    found = ruins()
    assert found.num_repetitions == 4000 and found.complete
    assert ss.compare(found.probability, exact_ruin(), failure_rate=FAILURE_RATE).verdict == (
        "agrees"
    )
    assert found.probability.standard_error < 0.03 * exact_ruin()


def test_ties_that_survive_are_seen(monkeypatch):
    """Control: killing only k of those who tie gives another number."""

    def untied(rung, killed):
        level = np.partition(rung, killed - 1, axis=1)[:, killed - 1]
        rank = np.argsort(np.argsort(rung, axis=1, kind="stable"), axis=1)
        return level, rank < killed

    monkeypatch.setattr(waves, "below_threshold", untied)
    found = ruins_of(16)
    assert ss.compare(found.probability, exact_ruin(), failure_rate=FAILURE_RATE).verdict == (
        "disagrees"
    )


def test_clones_that_share_their_parents_numbers_are_seen(monkeypatch):
    """Control: without fresh numbers a clone repeats its parent, and the error is crude sampling's.

    Crude sampling with n replicas has variance q(1 − q)/n.
    """

    def shared(fixed, replicas, rungs):
        passage, child, parent, below, _ = fixed
        return branch((passage, child, parent, below, replicas.identity[parent]), replicas, rungs)

    good = ruins().probabilities.std()
    monkeypatch.setattr(waves, "branch", shared)
    bad = ruins_of(16).probabilities.std()
    crude = np.sqrt(exact_ruin() * (1 - exact_ruin()) / 16)
    assert bad > 2 * good
    assert 0.5 < bad / crude < 2


def test_the_error_covers():
    """400 experiments of 10 repetitions at q ≈ 10⁻³: 95 % intervals cover, binomially."""
    groups = ruins_of(64).probabilities.reshape(400, 10)
    estimates = [ss.Estimate.from_samples(group) for group in groups]
    half = stats.t.isf(0.025, 9)

    def covered(factor):
        return sum(
            abs(e.value - exact_ruin()) <= factor * half * e.standard_error for e in estimates
        )

    low, high = stats.binom.ppf([FAILURE_RATE / 2, 1 - FAILURE_RATE / 2], 400, 0.95)
    assert low <= covered(1.0) <= high
    assert covered(0.5) < low
