"""Langevin samplers: enumeration, closed forms and quadrature against the exact moments."""

import itertools
from typing import Any

import closed_forms
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov

import sde_sgd as ss
from sde_sgd.theory.stationary import (
    posterior,
    posterior_by_quadrature,
)

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(6, 2)) * np.array([1.0, 0.6])
TARGETS = RNG.normal(size=6)
ETA, BATH, L2 = 0.2, 1 / 6, 0.1
LANDSCAPE = ss.LeastSquares(INPUTS, TARGETS, l2=L2)
MINIMUM = LANDSCAPE.rest()
COMMON: dict[str, Any] = {"learning_rate": ETA, "temperature": BATH, "l2": L2}


def epoch_by_enumeration(orders, anchor=None, epochs=400):
    """Mean and covariance of θ at each phase: every order of batches, step by step.

    The law of (1, θ)(1, θ)ᵀ, flattened, is mapped by F ⊗ F and heated; orders are averaged.
    """
    heat = np.zeros((9, 9))
    heat[:, 0] = np.diag([0, 2 * ETA * BATH, 2 * ETA * BATH]).ravel()
    maps = {}
    for batch in {batch for order in orders for batch in order}:
        x, y = INPUTS[list(batch)], TARGETS[list(batch)]
        hess = x.T @ x / len(x) + L2 * np.eye(2)
        shift = -x.T @ y / len(x)  # gradient Hθ + shift
        if anchor is not None:
            mean = INPUTS.T @ INPUTS / 6 + L2 * np.eye(2)
            shift = (mean - hess) @ anchor - INPUTS.T @ TARGETS / 6
        step = np.block([[np.eye(1), np.zeros((1, 2))], [-ETA * shift[:, None], -ETA * hess]])
        step[1:, 1:] += np.eye(2)
        maps[batch] = np.kron(step, step) + heat
    phases = np.zeros((len(orders[0]) + 1, 9, 9))
    for order in orders:
        move = np.eye(9)
        phases[0] += move / len(orders)
        for k, batch in enumerate(order):
            move = maps[batch] @ move
            phases[k + 1] += move / len(orders)
    law = np.eye(9)[0]
    for _ in range(epochs):
        law = phases[-1] @ law
    joint = (phases[:-1] @ law).reshape(-1, 3, 3)
    means = joint[:, 0, 1:]
    return means, joint[:, 1:, 1:] - means[:, :, None] * means[:, None, :]


def batches_of(order, size):
    starts = range(0, len(order) - size + 1, size)
    return tuple(tuple(sorted(order[i : i + size])) for i in starts)


@pytest.mark.parametrize("anchor", [None, MINIMUM + np.array([0.3, -0.2])])
@pytest.mark.parametrize("size", [2, 4])
def test_epochs_by_enumeration(size, anchor):
    """All 720 orders of N = 6: SGWORLD and its control variate at every phase; B = 4 drops two."""
    orders = sorted({batches_of(order, size) for order in itertools.permutations(range(6))})
    means, covariances = epoch_by_enumeration(orders, anchor)
    found = closed_forms.langevin_epochs(INPUTS, TARGETS, batch_size=size, anchor=anchor, **COMMON)
    np.testing.assert_allclose(found.means, means, atol=1e-12)
    np.testing.assert_allclose(found.covariances, covariances, atol=1e-12)
    pooled = means.mean(0)
    second = (covariances + means[:, :, None] * means[:, None, :]).mean(0)
    np.testing.assert_allclose(found.average.mean, pooled, atol=1e-12)
    np.testing.assert_allclose(
        found.average.covariance, second - np.outer(pooled, pooled), atol=1e-12
    )


def test_independent_batches_are_another_law():
    """Control: epochs of independent subsets have the closure's covariance, not SGWORLD's."""
    subsets = list(itertools.combinations(range(6), 2))
    independent = [list(triple) for triple in itertools.product(subsets, repeat=3)]
    means, covariances = epoch_by_enumeration(independent)
    exact = closed_forms.langevin(INPUTS, TARGETS, noise_factor=(6 - 2) / (2 * 5), **COMMON)
    np.testing.assert_allclose(covariances[0], exact, atol=1e-8)
    np.testing.assert_allclose(means[0], MINIMUM, atol=1e-6)
    shuffled = closed_forms.langevin_epochs(
        INPUTS, TARGETS, batch_size=2, **COMMON
    ).average.covariance
    assert np.trace(exact) > 1.1 * np.trace(shuffled)


@pytest.mark.parametrize("anchor", [None, MINIMUM, MINIMUM + 0.5])
@pytest.mark.parametrize("size", [4, 6])
def test_one_batch_an_epoch(size, anchor):
    """⌊N/B⌋ = 1: an epoch is one fresh subset, so the two closures agree; B = N has no noise."""
    factor = (6 - size) / (size * 5)
    exact = closed_forms.langevin(INPUTS, TARGETS, noise_factor=factor, anchor=anchor, **COMMON)
    found = closed_forms.langevin_epochs(INPUTS, TARGETS, batch_size=size, anchor=anchor, **COMMON)
    np.testing.assert_allclose(found.epoch_end.covariance, exact, rtol=1e-11)
    np.testing.assert_allclose(found.epoch_end.mean, MINIMUM, atol=1e-12)


def test_bias_of_first_order():
    """θ of SGWORLD is at first order in η that of the loss L + (η/4) E|∇L_B − ∇L|² (Smith et al.).

    So δ⟨θ⟩/η → −H⁻¹ (c/2) E[(H_i − A)∇ℓ_i], δ Cov/η → −T H⁻¹ (c/2) E[(H_i − A)²] H⁻¹, beyond what
    full batches have; where all examples share H_i, only η² is left. Independent batches have
    δ Cov/η = D with HD + DH = c E Σ instead, of the opposite sign.
    """
    each = INPUTS[:, :, None] * INPUTS[:, None, :] - INPUTS.T @ INPUTS / 6
    inverse = np.linalg.inv(INPUTS.T @ INPUTS / 6 + L2 * np.eye(2))
    bent = 0.2 * np.einsum("nij,njk->ik", each, each) / 6
    slopes = (INPUTS @ MINIMUM - TARGETS)[:, None] * INPUTS
    pulled = 0.2 * np.einsum("nij,nj->i", each, slopes) / 6
    given = COMMON | {"learning_rate": 1e-4}
    plain = closed_forms.langevin(INPUTS, TARGETS, noise_factor=0.0, **given)
    epochs = closed_forms.langevin_epochs(INPUTS, TARGETS, batch_size=2, **given).average
    change = (epochs.covariance - plain) / 1e-4
    np.testing.assert_allclose(change, -BATH * inverse @ bent @ inverse, rtol=2e-3)
    np.testing.assert_allclose((epochs.mean - MINIMUM) / 1e-4, -inverse @ pulled, rtol=2e-3)
    subsets = closed_forms.langevin(INPUTS, TARGETS, noise_factor=0.4, **given)
    star = np.cov((slopes + L2 * MINIMUM).T, bias=True)
    star = star + BATH * np.einsum("nij,jk,nkl->il", each, inverse, each) / 6
    white = solve_continuous_lyapunov(np.linalg.inv(inverse), 0.4 * star)
    np.testing.assert_allclose((subsets - plain) / 1e-4, white, rtol=2e-3)
    assert np.trace(change) < 0 < np.trace(white)

    signs, y = np.sign(INPUTS[:, :1]), TARGETS
    gaps = []
    for eta in (1e-2, 5e-3):
        one = {"learning_rate": eta, "temperature": BATH}
        full = closed_forms.langevin(signs, y, noise_factor=0.0, **one)
        shuffled = closed_forms.langevin_epochs(signs, y, batch_size=2, **one).average
        gaps.append(float((shuffled.covariance - full)[0, 0]))
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.05)


def test_limit_is_the_posterior():
    """η → 0 and h → 0: T H⁻¹ about θ*."""
    law = posterior(LANDSCAPE, temperature=BATH)
    given = COMMON | {"learning_rate": 1e-8}
    limit = closed_forms.langevin(INPUTS, TARGETS, noise_factor=0.4, time_step=0.0, **given)
    np.testing.assert_allclose(limit, law.covariance, rtol=1e-6)
    np.testing.assert_allclose(law.mean, MINIMUM, atol=1e-13)


def test_full_batches_and_no_bath():
    """T/(h(1 − ηh/2)) without batch noise; at T = 0 the covariance is that of SGD."""
    hess = INPUTS.T @ INPUTS / 6 + L2 * np.eye(2)
    exact = BATH * np.linalg.inv(hess @ (np.eye(2) - ETA / 2 * hess))
    found = closed_forms.langevin(INPUTS, TARGETS, noise_factor=0.0, **COMMON)
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    cold: dict[str, Any] = {"learning_rate": ETA, "l2": L2, "noise_factor": 0.25}
    np.testing.assert_allclose(
        closed_forms.langevin(INPUTS, TARGETS, temperature=0.0, **cold),
        closed_forms.covariance(INPUTS, TARGETS, time_step=ETA, **cold),
        rtol=1e-12,
    )


def test_control_variate_by_residuals():
    """One step of the second moment, with Σ(θ) = Cov_i[H_i(θ − a)] summed over examples."""
    anchor = MINIMUM + np.array([0.4, 0.1])
    exact = closed_forms.langevin(INPUTS, TARGETS, noise_factor=0.25, anchor=anchor, **COMMON)
    each = INPUTS[:, :, None] * INPUTS[:, None, :]
    mean = each.mean(0)
    second = exact + np.outer(MINIMUM - anchor, MINIMUM - anchor)
    noise = np.einsum("nij,jk,nkl->il", each, second, each) / 6 - mean @ second @ mean
    step = np.eye(2) - ETA * (mean + L2 * np.eye(2))
    after = step @ exact @ step + ETA**2 * 0.25 * noise + 2 * ETA * BATH * np.eye(2)
    np.testing.assert_allclose(after, exact, rtol=1e-12)


def test_posterior_by_quadrature():
    """Least squares in closed form; logistic regression by a Gauss rule for e^{−NL}."""
    gaussian = posterior(LANDSCAPE, temperature=BATH)
    found = posterior_by_quadrature(ss.LeastSquares(INPUTS, TARGETS, l2=L2), temperature=BATH)
    np.testing.assert_allclose(found.mean, gaussian.mean, atol=1e-8)
    np.testing.assert_allclose(found.covariance, gaussian.covariance, rtol=1e-7)
    labels = np.array([0, 1, 1, 0, 1, 0])
    model = ss.LogisticRegression(INPUTS, labels, l2=0.2, bias=False)
    found = posterior_by_quadrature(model, temperature=1 / 6)
    margins = (2 * labels - 1)[:, None] * INPUTS

    nodes, weights = np.polynomial.legendre.leggauss(160)
    theta = 8 * np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    cost = np.logaddexp(0, -theta @ margins.T).sum(1) + 0.6 * (theta**2).sum(1)
    weight = np.outer(weights, weights).ravel() * np.exp(-cost)
    mean = weight @ theta / weight.sum()
    cross = np.einsum("n,ni,nj->ij", weight, theta, theta) / weight.sum() - np.outer(mean, mean)
    np.testing.assert_allclose(found.mean, mean, atol=1e-7)
    np.testing.assert_allclose(found.covariance, cross, atol=1e-7)


def epochs(**options):
    return closed_forms.langevin_epochs(INPUTS, TARGETS, **options)


BAD = [
    (
        lambda: epochs(batch_size=7, **COMMON),
        "batch_size",
    ),
    (
        lambda: closed_forms.langevin_epochs(
            np.tile(INPUTS, (5, 1)), np.tile(TARGETS, 5), batch_size=3, **COMMON
        ),
        "fewer examples",
    ),
    (
        lambda: epochs(batch_size=2, learning_rate=5.0, temperature=0.1),
        "smaller learning_rate",
    ),
    (
        lambda: epochs(batch_size=2, anchor=[1.0], **COMMON),
        r"control_variate",
    ),
    (
        lambda: closed_forms.langevin(
            INPUTS, TARGETS, noise_factor=0.25, learning_rate=9.0, temperature=0.1
        ),
        "stable below",
    ),
    (lambda: posterior(LANDSCAPE, temperature=0.0), "temperature"),
    (
        lambda: posterior_by_quadrature(
            ss.LogisticRegression(INPUTS, np.array([0, 1, 1, 0, 1, 0]), bias=False),
            temperature=-1.0,
        ),
        "temperature",
    ),
    (
        lambda: posterior_by_quadrature(
            ss.LeastSquares(np.ones((3, 2)), jnp.ones(3)), temperature=1.0
        ),
        "l2",
    ),
]


@pytest.mark.parametrize("call, match", BAD)
def test_refuses(call, match):
    """Bad shapes and numbers, too many sets, unstable rates, improper posteriors."""
    with pytest.raises(ValueError, match=match):
        call()
