"""Experiments on selection: identities of single steps, exact pieces, rules of the checks."""

import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from experiments import (
    diagonal_linear_network_bias,
    evidence_and_memorisation,
    label_noise_flattens,
    sharp_or_flat_well,
)


def path(process, start, steps=40, members=6):
    run = ss.simulate(
        process,
        jnp.asarray(start),
        num_steps=steps,
        ensemble_size=members,
        key=jr.key(0),
        measures={},
        record_every=1,
    )
    return run.records[1]


@pytest.mark.parametrize("name", label_noise_flattens.PROCESSES)
def test_balance_identity_of_every_step(name):
    """(u² − w²)' = (u² − w²)(1 − η²g²), g = (u − u')/(ηw): to 1e-12, and not for other noise."""
    config = label_noise_flattens.Config(learning_rate=0.05)
    theta = path(label_noise_flattens.processes(config)[name], config.start)
    u, w = theta[:-1, :, 0], theta[:-1, :, 1]
    g = (u - theta[1:, :, 0]) / (config.learning_rate * w)
    predicted = (u**2 - w**2) * (1 - config.learning_rate**2 * g**2)
    error = np.abs(theta[1:, :, 0] ** 2 - theta[1:, :, 1] ** 2 - predicted).max()
    assert error < 1e-12 if name in ("SGD", "Gaussian SGD") else error > 1e-3


def test_diagonal_network_identity_of_every_step():
    """w₊w₋ ← w₊w₋(1 − γ²ĝ²) with ĝ the batch mean of r x, recomputed from the data."""
    config = diagonal_linear_network_bias.Config()
    process = diagonal_linear_network_bias.processes(config, 0.7)["SGD"]
    start = process.landscape.initial  # pyright: ignore
    plus, minus = np.split(path(process, start), 2, axis=2)
    inputs, targets, _ = diagonal_linear_network_bias.problem(config)
    labels = [targets + 0.7, targets - 0.7]
    gradient = np.stack(
        [
            ((plus[:-1] ** 2 - minus[:-1] ** 2) @ x - y)[..., None] * x
            for each in labels
            for x, y in zip(inputs, each, strict=True)
        ]
    )
    factor = 1 - config.learning_rate**2 * gradient**2
    product = plus[1:] * minus[1:] / (plus[:-1] * minus[:-1])
    miss = np.abs(factor - product).max(axis=3).min(axis=0)
    assert miss.max() < 1e-12
    wrong = 1 - 4 * config.learning_rate**2 * gradient**2  # control: the losses ½r²
    assert np.abs(wrong - product).max(axis=3).min(axis=0).max() > 1e-4


def test_noise_of_the_wells():
    """Σ(x) = σ²(1 + bx)², and the mean gradient is (x² − 1)(x + a)."""
    config = sharp_or_flat_well.Config()
    landscape = sharp_or_flat_well.NoisyWells(config)
    for x in (-1.3, 0.2, 1.0):
        at = jnp.array([x])
        spread = config.noise**2 * (1 + config.noise_slope * x) ** 2
        assert float(landscape.gradient_covariance(at)[0, 0]) == pytest.approx(spread, rel=1e-12)
        slope = (x**2 - 1) * (x + config.asymmetry)
        assert float(landscape.gradient(at)[0]) == pytest.approx(slope, abs=1e-12)


def test_separability_by_the_linear_program():
    """Corners of a square: exclusive-or is not separable, every other labelling with both is."""
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    for labels in itertools.product([0, 1], repeat=4):
        crossed = labels in ((0, 1, 1, 0), (1, 0, 0, 1))
        found = evidence_and_memorisation.separable(corners, np.array(labels))
        assert found != crossed, labels
