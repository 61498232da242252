"""Shuffled epochs: the numbers of the literature, enumerated permutations, and white noise."""

import itertools
from typing import Any

import numpy as np
import pytest

from sde_sgd.theory.stationary import (
    epoch_covariance,
    epoch_noise_autocovariance,
    linear_covariance,
)

HESS = np.array([[1.0, 0.3], [0.3, 0.5]])
NOISES = np.array([[1.0, 0.2], [-0.4, 1.1], [0.3, -1.6], [-0.9, 0.3]])


def chain(hess, eta, mu):
    """z ← Fz + Gξ for θ, or for (θ, m) with momentum."""
    eye = np.eye(len(hess))
    if mu == 0:
        return eye - eta * hess, -eta * eye
    buffer = np.hstack([hess, mu * eye])
    top = np.hstack([eye, 0 * eye]) - eta * buffer
    return np.vstack([top, buffer]), np.vstack([-eta * eye, eye])


def enumerated(hess, noises, eta, mu, orders, epochs=400):
    """E zzᵀ at each phase after many epochs, averaging over every order of the noises."""
    step, push = chain(hess, eta, mu)
    count = len(orders[0])
    added = np.zeros((count + 1, len(step), len(step)))
    for order in orders:
        z = np.zeros(len(step))
        for k, batch in enumerate(order):
            z = step @ z + push @ batch
            added[k + 1] += np.outer(z, z) / len(orders)
    powers = [np.linalg.matrix_power(step, k) for k in range(count + 1)]
    end = np.zeros_like(step)
    for _ in range(epochs):
        end = powers[count] @ end @ powers[count].T + added[count]
    dim = len(hess)
    return np.array([(powers[k] @ end @ powers[k].T + added[k])[:dim, :dim] for k in range(count)])


@pytest.mark.parametrize("mu", [0.0, 0.6])
@pytest.mark.parametrize("hess", [HESS, np.diag([0.0, 1.0]), np.zeros((2, 2))])
def test_all_permutations(hess, mu):
    """M = 4 given batch noises in every one of 24 orders: each phase, flat directions as well."""
    orders = list(itertools.permutations(NOISES))
    exact = enumerated(hess, NOISES, 0.3, mu, orders)
    found = epoch_covariance(
        hess, NOISES.T @ NOISES / 4, learning_rate=0.3, batches_per_epoch=4, momentum=mu
    )
    np.testing.assert_allclose(found.phases, exact, atol=1e-12)
    np.testing.assert_allclose(found.average, exact.mean(0), atol=1e-12)
    np.testing.assert_array_equal(found.epoch_end, found.phases[0])
    resampled = [list(order) for order in itertools.product(NOISES, repeat=4)]
    control = enumerated(hess, NOISES, 0.3, mu, resampled, epochs=40)
    assert np.abs(control / np.where(exact == 0, 1, exact) - 1).max() > 0.5


def test_all_permutations_of_examples():
    """N = 6, B = 2 in all 720 orders: S = c Σ with c = (N−B)/(B(N−1))."""
    tilts = np.array([1.0, -2.0, 0.5, 0.7, 1.3, -1.5])
    batches = [
        np.reshape(order, (3, 2)).mean(axis=1)[:, None] for order in itertools.permutations(tilts)
    ]
    exact = enumerated(np.array([[0.8]]), None, 0.4, 0.0, batches)
    factor = (6 - 2) / (2 * 5)
    found = epoch_covariance(
        [[0.8]], [[factor * np.mean(tilts**2)]], learning_rate=0.4, batches_per_epoch=3
    )
    np.testing.assert_allclose(found.phases, exact, rtol=1e-12)


CASES = [(0.1, 0.0336454, 0.00176939, 0.502513), (0.01, 0.0348605, None, 5.0025)]
CASES += [(0.0, 0.0350, 0.0, None)]


@pytest.mark.parametrize("curvature, average, end, independent", CASES)
def test_numbers(curvature, average, end, independent):
    """η = .1, s² = 1, M = 20: .0336454, .0348605, .0350; at epoch end .00176939 and 0."""
    found = epoch_covariance([[curvature]], [[1.0]], learning_rate=0.1, batches_per_epoch=20)
    assert found.average[0, 0] == pytest.approx(average, abs=5e-8)
    if end is not None:
        assert found.epoch_end[0, 0] == pytest.approx(end, abs=5e-9)
    if curvature == 0:
        m = np.arange(20)
        np.testing.assert_allclose(found.phases[:, 0, 0], 0.01 * m * (20 - m) / 19, rtol=1e-12)
        assert found.epoch_end[0, 0] == 0
    if independent is not None:
        white = linear_covariance([[curvature]], [[1.0]], learning_rate=0.1, time_step=0.1)
        assert white[0, 0] == pytest.approx(independent, rel=2e-5)


def test_filtered_noise():
    """Var = Σ_kl v_k R_kl v_l over the last 600 epochs, R written out, at every phase."""
    eta, curvature, count = 0.1, 0.1, 20
    block = (count * np.eye(count) - 1) / (count - 1)
    found = epoch_covariance([[curvature]], [[1.0]], learning_rate=eta, batches_per_epoch=count)
    for phase in (0, 1, 13):
        total = 0.0
        for epoch in range(600):
            age = np.arange(count) + phase + (epoch - 1) * count  # oldest last; < 0: to come
            response = np.where(age >= 0, eta * (1 - eta * curvature) ** np.maximum(age, 0), 0.0)
            total += response @ block @ response
        assert found.phases[phase, 0, 0] == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_small_curvature_keeps_its_digits(mu):
    """Var is continuous at h = 0; Var at epoch end is half of η³hM(M+1)s²/6 for small h, μ = 0."""
    flat, near = (
        epoch_covariance([[h]], [[1.0]], learning_rate=0.1, batches_per_epoch=20, momentum=mu)
        for h in (0.0, 1e-10)
    )
    np.testing.assert_allclose(near.phases[1:], flat.phases[1:], rtol=1e-8)
    if mu == 0:
        expected = 1e-3 * 1e-10 * 20 * 21 / 24
        assert near.epoch_end[0, 0] == pytest.approx(expected, rel=1e-7)


def test_noise_autocovariance():
    """R(k) = −(M−k)/(M(M−1)) sums to zero; literally, over the phases of enumerated epochs."""
    lags = np.arange(-6, 7)
    found = epoch_noise_autocovariance(4, lags)
    assert np.sum(found) == pytest.approx(0, abs=1e-15)
    x = NOISES[:, 0]
    orders = np.array(list(itertools.permutations(x)))
    pairs = np.einsum("ok,ol->kl", orders, orders) / len(orders)  # two steps of one epoch
    pairs = np.block([[pairs, np.zeros((4, 4))], [np.zeros((4, 4)), pairs]])
    literal = [np.mean([pairs[m, m + k] for m in range(4)]) for k in range(5)]
    np.testing.assert_allclose(found[6:11], literal / np.mean(x**2), atol=1e-14)
    assert found[10] == 0
    with pytest.raises(ValueError, match="integers"):
        epoch_noise_autocovariance(4, [0.5])


BAD = [
    ({"batches_per_epoch": 1}, "integer ≥ 2"),
    ({"hessian": np.diag([1.0, -0.1])}, "positive semidefinite"),
    ({"hessian": np.diag([1.0, 20.0])}, r"= 2 must be < 2\(1 \+ momentum\)"),
    ({"gradient_noise": np.eye(3)}, r"\(2, 2\)"),
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"momentum": 1.0}, "momentum"),
]


@pytest.mark.parametrize("change, match", BAD)
def test_refuses(change, match):
    """Bad numbers, shapes and unstable steps raise `ValueError`."""
    good: dict[str, Any] = {
        "hessian": np.eye(2),
        "gradient_noise": np.eye(2),
        "learning_rate": 0.1,
        "batches_per_epoch": 4,
    }
    with pytest.raises(ValueError, match=match):
        epoch_covariance(**(good | change))
