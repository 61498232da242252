"""Online least squares with Gaussian features: check numbers and Isserlis fixed points."""

import closed_forms
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.theory.stationary import covariance


def population(a, *, label_noise, learning_rate, batch_size, momentum=0.0, process=None, steps=1):
    """The covariance of SGD, or of another process with its batches, on x ~ N(0, A)."""
    landscape = ss.landscapes.PopulationLeastSquares(np.array(a), label_noise)
    sampling = ss.WithReplacement(batch_size)
    noise = ss.MinibatchNoise(sampling)
    if process == "frozen":
        noise = ss.ConstantNoise.at(landscape, landscape.minimum(), sampling)
    if process == "SVAG":
        return covariance(ss.SVAG(landscape, learning_rate, sampling, steps))
    if process == "frozen" and (momentum or steps == 1):
        return covariance(ss.GaussianSGD(landscape, learning_rate, noise, momentum))
    if process is not None:
        return covariance(ss.ModifiedEquation(landscape, learning_rate, noise).limit())
    return covariance(ss.SGD(landscape, learning_rate, sampling, momentum))


TABLE = [
    (0.5, 4, 0.0, (0.104247, 0.084942)),
    (1.0, 8, 0.0, (0.175573, 0.106870)),
    (0.2, 4, 0.5, (0.061737, 0.057913)),
]


@pytest.mark.parametrize("eta, batch, mu, variances", TABLE)
def test_published_numbers(eta, batch, mu, variances):
    """M = (σ²/B)(1 + κ/B) η G⁻¹ at A = diag(1, .5), σ = 1."""
    m = population(
        np.diag([1.0, 0.5]), label_noise=1.0, learning_rate=eta, batch_size=batch, momentum=mu
    )
    np.testing.assert_allclose(m, np.diag(variances), atol=5e-7)
    exact = closed_forms.population(
        np.diag([1.0, 0.5]), label_noise=1.0, learning_rate=eta, batch_size=batch, momentum=mu
    )
    np.testing.assert_allclose(m, exact, rtol=1e-11)


LINKS = [
    ({"process": "frozen", "steps": None}, 0.0625),
    ({"process": "SDE"}, 0.0714286),
    ({"process": "SVAG", "steps": 4}, 0.076923),
    ({"process": "SVAG", "steps": 2}, 0.083333),
    ({}, 0.1),
]


@pytest.mark.parametrize("options, variance", LINKS)
def test_links_between_sde_and_sgd(options, variance):
    """(η, a, B) = (.5, 1, 4): frozen OU, SDE, SVAG(4), SVAG(2) and SGD are told apart."""
    m = population([[1.0]], label_noise=1.0, learning_rate=0.5, batch_size=4, **options)
    assert m[0, 0] == pytest.approx(variance, abs=5e-7)


SPACINGS = [(0.05, 10, 0.18020), (0.1, 10, 0.25923), (0.05, 40, 0.08984)]


@pytest.mark.parametrize("eta, batch, spacing", SPACINGS)
def test_level_spacing(eta, batch, spacing):
    """Mean level spacing 2√(πv) of the 2×2 teacher–student network, v = M_11 at A = I."""
    v = population(np.eye(2), label_noise=1.0, learning_rate=eta, batch_size=batch)[0, 0]
    assert 2 * np.sqrt(np.pi * v) == pytest.approx(spacing, abs=6e-6)


@pytest.mark.parametrize("mu, frozen", [(0.0, False), (0.0, True), (0.6, False), (0.6, True)])
def test_fixed_point_of_the_joint_chain(mu, frozen):
    """S = F S Fᵀ + G C Gᵀ with C = (AMA + Tr(AM) A + σ²A)/B, iterated at a non-diagonal A."""
    a, eta, batch, sigma = np.array([[1.0, 0.4], [0.4, 0.6]]), 0.3, 3, 0.7
    eye = np.eye(2)
    step = np.block([[eye - eta * a, -eta * mu * eye], [a, mu * eye]])
    push = np.vstack([-eta * eye, eye])
    s = np.zeros((4, 4))
    for _ in range(1500):
        m = 0 * eye if frozen else s[:2, :2]
        noise = (a @ m @ a + np.trace(a @ m) * a + sigma**2 * a) / batch
        s = step @ s @ step.T + push @ noise @ push.T
    m = population(
        a,
        label_noise=sigma,
        learning_rate=eta,
        batch_size=batch,
        momentum=mu,
        process="frozen" if frozen else None,
    )
    np.testing.assert_allclose(m, s[:2, :2], rtol=1e-11)


def test_published_isserlis_identity():
    """E[xxᵀ S xxᵀ] = 2 A S A + Tr(AS) A for x ~ N(0, A), by Gauss–Hermite quadrature."""
    a, s = np.array([[1.0, 0.4], [0.4, 0.6]]), np.array([[0.3, -0.1], [-0.1, 0.9]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    root = np.linalg.cholesky(a)
    total = np.zeros((2, 2))
    for u, p in zip(nodes, weights, strict=True):
        for v, q in zip(nodes, weights, strict=True):
            x = root @ np.array([u, v])
            total += p * q * (x @ s @ x) * np.outer(x, x)
    np.testing.assert_allclose(total, 2 * a @ s @ a + np.trace(a @ s) * a, rtol=1e-13)


def test_refuses():
    """Flat directions, and rates without a second moment."""
    good = {"label_noise": 1.0, "learning_rate": 0.1, "batch_size": 4}
    cases = [
        (np.diag([1.0, 0.0]), {}, "no curvature"),
        (np.eye(2), {"learning_rate": 2.0}, "it is stable below 1.14286"),
        (np.eye(2), {"learning_rate": 0.7, "batch_size": 1}, "it is stable below 0.5"),
    ]
    for a, change, match in cases:
        with pytest.raises(ValueError, match=match):
            population(a, **(good | change))
