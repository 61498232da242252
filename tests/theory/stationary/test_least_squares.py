"""Finite-sum least squares against the enumeration of every batch (or every sign vector).

Each SGD batch, and each vector of two-point weights for Euler, is an affine map θ ← M_b θ + v_b;
averaging the maps gives the first two moments without any formula for Σ.
"""

import itertools
from typing import Any

import closed_forms
import numpy as np
import pytest

from sde_sgd.theory.stationary import linear_covariance

N, B, D, ETA = 5, 2, 2, 0.12
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
THETA0 = np.array([1.5, -0.8])
FACTOR = {"with": 1 / B, "without": (N - B) / (B * (N - 1))}
BATCHES = {
    "with": list(itertools.product(range(N), repeat=B)),
    "without": list(itertools.combinations(range(N), B)),
}


def sgd_maps(scheme, eta, l2, mu=0.0):
    """(θ, m) ← M_b (θ, m) + v_b for each batch b; m ← μm + ĝ_b, θ ← θ − ηm."""
    maps = []
    for batch in BATCHES[scheme]:
        x, y = X[list(batch)], Y[list(batch)]
        curve, load = x.T @ x / B + l2 * np.eye(D), -x.T @ y / B
        buffer = np.hstack([curve, mu * np.eye(D)])
        top = np.hstack([np.eye(D), np.zeros((D, D))]) - eta * buffer
        maps.append((np.vstack([top, buffer]), np.concatenate([-eta * load, load])))
    return maps


def euler_maps(c, eta, h, l2, order=1):
    """θ ← θ − h∇L' + √(hηc/N) Σ s_i (g_i − g) for each sign vector s: covariance hηcΣ(θ)."""
    hess = X.T @ X / N + l2 * np.eye(D)
    low = np.eye(D) + (eta / 2 * hess if order == 2 else 0.0)
    maps = []
    for signs in itertools.product([-1.0, 1.0], repeat=N):
        weights = np.array(signs) - np.mean(signs)
        noise, push = X.T @ (weights[:, None] * X), -X.T @ (weights * Y)
        scale = np.sqrt(h * eta * c / N)
        matrix = np.eye(D) - h * low @ hess + scale * noise
        maps.append((matrix, h * low @ X.T @ Y / N + scale * push))
    return maps


def operator(maps):
    """vec S ← E[M ⊗ M] vec S."""
    return np.mean([np.kron(m, m) for m, _ in maps], axis=0)


def enumerate_stationary(maps):
    """The fixed point of mean and covariance, by linear solves."""
    matrices, shifts = np.array([m for m, _ in maps]), np.array([v for _, v in maps])
    size = shifts.shape[1]
    mean = np.linalg.solve(np.eye(size) - matrices.mean(0), shifts.mean(0))
    moved = matrices @ mean + shifts - mean  # the increments at the fixed point have mean zero
    source = np.einsum("bi,bj->ij", moved, moved) / len(maps)
    covariance = np.linalg.solve(np.eye(size**2) - operator(maps), source.ravel())
    return mean, covariance.reshape(size, size)


def enumerate_transient(maps, steps, start):
    """Mean and covariance after each of `steps` by repeating the averaged recursion."""
    matrices, shifts = np.array([m for m, _ in maps]), np.array([v for _, v in maps])
    mean, second = start, np.outer(start, start)
    means, covariances = [], []
    for k in range(max(steps) + 1):
        if k in steps:
            means.append(mean)
            covariances.append(second - np.outer(mean, mean))
        cross = np.einsum("bij,j,bk->ik", matrices, mean, shifts) / len(maps)
        second = (
            np.einsum("bij,jk,blk->il", matrices, second, matrices) / len(maps)
            + cross
            + cross.T
            + np.einsum("bi,bj->ij", shifts, shifts) / len(maps)
        )
        mean = matrices.mean(0) @ mean + shifts.mean(0)
    return np.array(means), np.array(covariances)


@pytest.mark.parametrize("mu", [0.0, 0.6])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("scheme", ["with", "without"])
def test_sgd_stationary_by_enumeration(scheme, l2, mu):
    """M of HM + MH − ηHMH − ηc[(1/N)ΣH_iMH_i − AMA] = ηcΣ* is that of all batches."""
    mean, joint = enumerate_stationary(sgd_maps(scheme, ETA, l2, mu))
    options: dict[str, Any] = {
        "learning_rate": ETA,
        "noise_factor": FACTOR[scheme],
        "time_step": ETA,
        "l2": l2,
    }
    m = closed_forms.covariance(X, Y, momentum=mu, **options)
    np.testing.assert_allclose(m, joint[:D, :D], atol=1e-12)
    both = closed_forms.process_of(X, Y, momentum=mu, **options).linear().joint()
    size = len(both)  # without momentum there is no buffer
    np.testing.assert_allclose(both, joint[:size, :size], atol=1e-12)
    np.testing.assert_allclose(closed_forms.mean(X, Y, l2=l2), mean[:D], atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_euler_stationary_by_enumeration(l2, order):
    """The same equation with h HMH, h = η/4, is that of Euler with the exact noise cΣ(θ)."""
    _, covariance = enumerate_stationary(euler_maps(0.5, ETA, ETA / 4, l2, order))
    m = closed_forms.covariance(
        X, Y, learning_rate=ETA, noise_factor=0.5, time_step=ETA / 4, l2=l2, order=order
    )
    np.testing.assert_allclose(m, covariance, atol=1e-12)


def test_controls_are_told_apart():
    """Wrong c, h = 0 for h = η, frozen for exact noise, and λ in K: each misses by over 1 %."""
    options: dict[str, Any] = {
        "learning_rate": ETA,
        "noise_factor": 0.5,
        "time_step": ETA,
        "l2": 0.3,
    }
    exact = enumerate_stationary(sgd_maps("with", ETA, 0.3))[1][:D, :D]
    wrong: list[dict[str, Any]] = [
        {"noise_factor": FACTOR["without"]},
        {"time_step": 0.0},
        {"frozen_noise": True},
        {"l2": 0.0},
        {"momentum": 0.1},
        {"order": 2},
    ]
    for change in wrong:
        m = closed_forms.covariance(X, Y, **(options | change))
        assert np.abs(m / exact - 1).max() > 0.01, change


def test_frozen_noise_is_the_constant_noise_equation():
    """HM + MH − hHMH = ηcΣ*, Σ* the covariance of x_i r_i at θ*, which λ does not enter."""
    for l2, h in itertools.product((0.0, 0.3), (0.0, ETA / 3)):
        theta = closed_forms.mean(X, Y, l2=l2)
        gradients = X * (X @ theta - Y)[:, None]
        star = np.cov(gradients.T, bias=True)
        expected = linear_covariance(
            X.T @ X / N + l2 * np.eye(D), 0.5 * star, learning_rate=ETA, time_step=h
        )
        m = closed_forms.covariance(
            X, Y, learning_rate=ETA, noise_factor=0.5, time_step=h, l2=l2, frozen_noise=True
        )
        np.testing.assert_allclose(m, expected, atol=1e-14)


STEPS = [0, 1, 2, 7, 40]


@pytest.mark.parametrize("mu", [0.0, 0.6])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("scheme", ["with", "without"])
def test_sgd_transient_by_enumeration(scheme, l2, mu):
    """E θ_k and Cov θ_k over all sequences of batches, from θ0 and an empty buffer."""
    start = np.concatenate([THETA0, np.zeros(D)])
    means, covariances = enumerate_transient(sgd_maps(scheme, ETA, l2, mu), STEPS, start)
    found = closed_forms.transient(
        X,
        Y,
        learning_rate=ETA,
        noise_factor=FACTOR[scheme],
        time_step=ETA,
        times=ETA * np.array(STEPS),
        theta0=THETA0,
        l2=l2,
        momentum=mu,
    )
    np.testing.assert_allclose(found.mean, means[:, :D], atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariances[:, :D, :D], atol=1e-12)
    assert np.all(found.covariance[0] == 0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_euler_transient_by_enumeration(l2, order):
    """E θ and Cov θ of Euler with h = η/4, times unsorted and repeated."""
    steps, h = [0, 3, 11, 64], ETA / 4
    means, covariances = enumerate_transient(euler_maps(0.5, ETA, h, l2, order), steps, THETA0)
    pick = [2, 0, 3, 1, 2]
    found = closed_forms.transient(
        X,
        Y,
        learning_rate=ETA,
        noise_factor=0.5,
        time_step=h,
        times=h * np.array(steps)[pick],
        theta0=THETA0,
        l2=l2,
        order=order,
    )
    np.testing.assert_allclose(found.mean, means[pick], atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariances[pick], atol=1e-12)


def richardson(values):
    """Limit of values at h, h/2, h/4, ... with an error series in powers of h."""
    for power in range(1, len(values)):
        weight = 2.0**power
        values = [(weight * b - a) / (weight - 1) for a, b in itertools.pairwise(values)]
    return values[0]


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_continuous_limit_by_richardson(l2):
    """h → 0 of the enumerated Euler chain is the h = 0 stationary and transient law."""
    halvings = [ETA / 2**k for k in range(2, 9)]
    limit = richardson([enumerate_stationary(euler_maps(0.5, ETA, h, l2))[1] for h in halvings])
    options: dict[str, Any] = {"learning_rate": ETA, "noise_factor": 0.5, "l2": l2}
    m = closed_forms.covariance(X, Y, time_step=0.0, **options)
    np.testing.assert_allclose(m, limit, atol=1e-11)
    times = [0.0, ETA, 4 * ETA]
    moving: dict[str, Any] = dict(times=times, theta0=THETA0, **options)
    steps = [closed_forms.transient(X, Y, time_step=h, **moving) for h in halvings]
    exact = closed_forms.transient(X, Y, time_step=0.0, **moving)
    np.testing.assert_allclose(exact.mean, richardson([s.mean for s in steps]), atol=1e-11)
    limit = richardson([s.covariance for s in steps])
    np.testing.assert_allclose(exact.covariance, limit, atol=1e-11)
    assert np.abs(steps[-1].covariance - exact.covariance).max() > 1e-5  # control: no extrapolation


@pytest.mark.parametrize("h", [0.0, ETA / 2, ETA])
def test_long_runs_reach_the_stationary_law(h):
    """t → ∞ of the transient, by powers and exponentials, is the stationary law."""
    options: dict[str, Any] = {"learning_rate": ETA, "noise_factor": 0.5, "time_step": h, "l2": 0.1}
    late = closed_forms.transient(X, Y, times=[450.0], theta0=THETA0, **options)
    np.testing.assert_allclose(
        late.covariance[0], closed_forms.covariance(X, Y, **options), atol=1e-13
    )
    np.testing.assert_allclose(late.mean[0], closed_forms.mean(X, Y, l2=0.1), atol=1e-13)


@pytest.mark.parametrize("mu", [0.0, 0.6])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_growth_by_enumeration(l2, mu):
    """E|θ − θ*|² grows by the radius of E[M_b ⊗ M_b] in an iteration, of (θ, m) with momentum.

    Of Euler's chain by that of its sign vectors, to the power of its steps; of the equation by the
    limit of this at ever finer steps.
    """
    options: dict[str, Any] = {"learning_rate": ETA, "noise_factor": 0.5, "l2": l2}

    def radius(maps):
        return np.abs(np.linalg.eigvals(operator(maps))).max()

    if mu:
        found = closed_forms.growth(X, time_step=ETA, momentum=mu, **options)
        assert found == pytest.approx(radius(sgd_maps("with", ETA, l2, mu)), rel=1e-12)
        return
    maps = [(m[:D, :D], v[:D]) for m, v in sgd_maps("with", ETA, l2)]
    found = closed_forms.growth(X, time_step=ETA, **options)
    assert found == pytest.approx(radius(maps), rel=1e-12)
    chains = [radius(euler_maps(0.5, ETA, ETA / m, l2)) ** m for m in (4, 8, 16, 32, 64, 128)]
    found = closed_forms.growth(X, time_step=ETA / 4, **options)
    assert found == pytest.approx(chains[0], rel=1e-12)
    found = closed_forms.growth(X, time_step=0.0, **options)
    assert found == pytest.approx(richardson(chains), rel=1e-10)
    assert abs(chains[-1] - found) > 1e-6  # control: no extrapolation


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("scheme, l2", [("with", 0.0), ("without", 0.0), ("with", 0.5)])
def test_largest_stable_rate_by_enumeration(scheme, l2, mu):
    """ρ(E[M_b ⊗ M_b]) = 1 at η_max: below 2(1+μ)/λ_max, momentum's joint chain included."""
    c = FACTOR[scheme]
    limit = closed_forms.largest_stable(X, noise_factor=c, l2=l2, momentum=mu)
    for factor, stable in ((0.999, True), (1.0, None), (1.001, False)):
        p = operator(sgd_maps(scheme, factor * limit, l2, mu))
        radius = np.abs(np.linalg.eigvals(p)).max()
        if stable is None:
            assert radius == pytest.approx(1.0, abs=1e-9)
        else:
            assert (radius < 1) == stable
        if mu == 0 and stable is not None:
            rate = factor * limit
            found = closed_forms.growth(
                X, learning_rate=rate, noise_factor=c, time_step=rate, l2=l2
            )
            assert (found < 1) == stable
    top = np.linalg.eigvalsh(X.T @ X / N + l2 * np.eye(D))[-1]
    assert limit < 0.9 * 2 * (1 + mu) / top  # control: contraction of the mean is not enough
    frozen = closed_forms.largest_stable(X, noise_factor=0.0, l2=l2, momentum=mu)
    assert frozen == pytest.approx(2 * (1 + mu) / top, rel=1e-11)


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_largest_stable_rate_of_the_sde(ratio):
    """The top eigenvalue of the second-moment equation crosses at η_max with h = ratio·η."""
    limit = closed_forms.largest_stable(X, noise_factor=1.0, step_ratio=ratio)
    for factor in (0.999, 1.001):
        found = closed_forms.growth(
            X, learning_rate=factor * limit, noise_factor=1.0, time_step=ratio * factor * limit
        )
        assert (found < 1) == (factor < 1)
    if ratio == 0:
        assert closed_forms.largest_stable(X, noise_factor=0.0, step_ratio=0.0) == np.inf
