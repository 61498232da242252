"""Experiments on selection: identities of single steps, exact pieces, rules of the checks."""

import itertools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from scipy.optimize import minimize_scalar

import sde_sgd as ss
from experiments import (
    _best_batch,
    diagonal_linear_network_bias,
    evidence_and_memorisation,
    label_noise_flattens,
    optimal_batch_size,
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
    assert run.records is not None
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


def test_plateau_of_the_best_batch_size():
    """log B_opt is the middle of the sizes within one standard error of the best; B ≥ N is out."""
    sizes = (1, 4, 16, 64)
    flat = np.array([[0.5, 0.5], [0.88, 0.92], [0.885, 0.905], [np.nan, np.nan]])
    assert np.exp(_best_batch.log_best(sizes, flat)) == pytest.approx(8)
    sharp = np.array([[0.5, 0.5], [0.899, 0.901], [0.7, 0.7], [0.6, 0.6]])
    assert np.exp(_best_batch.log_best(sizes, sharp)) == pytest.approx(4)


@pytest.mark.parametrize("setting", [(0.4, 800, 0.0), (0.1, 200, 0.0), (0.1, 800, 0.875)])
def test_best_batch_of_the_quadratic(setting):
    """v by the Lyapunov equation of (θ, m); B_opt by maximising P(|θ − 2/√N| < 1/√N) over log B."""
    setting = _best_batch.Setting(*setting)
    eps, num, m = setting
    for size in (1.0, 7.0, 150.0):
        noise = [[(num - size) / (size * (num - 1))]]
        exact = ss.theory.stationary.momentum_covariance(
            [[1.0]], noise, learning_rate=eps, momentum=m
        ).item()
        assert _best_batch.known_variance(setting, size) == pytest.approx(exact, rel=1e-9)
    found: Any = minimize_scalar(
        lambda x: -_best_batch.known_accuracy(setting, np.exp(x)),
        bounds=(0, np.log(0.9 * num)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert _best_batch.known_best(setting) == pytest.approx(found.x, abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_of_curves_whose_exponent_is_known(power):
    """Bell curves about B = 4·scale^p: the interval holds p; what it says of p = 1 follows p."""
    sizes, scales = (1, 2, 4, 8, 16, 32, 64, 128), (1.0, 2.0, 4.0)
    rng = np.random.default_rng(7)
    curves = [
        np.exp(-(np.log(np.array(sizes) / (4 * s**power)) ** 2))[:, None]
        + 0.02 * rng.normal(size=(len(sizes), 40))
        for s in scales
    ]
    found = _best_batch.exponent(sizes, scales, curves, 200)
    assert found.low <= power <= found.high and found.inside
    expected = {0.0: "rejected", 1.0: "supported", 2.0: "rejected"}
    assert power == 0.5 or found.says == expected[power]
    # A curve that still rises at the end of the range has an optimum that nobody saw.
    cut = [curve[:3] for curve in curves]
    assert _best_batch.exponent(sizes[:3], scales, cut, 20).says.startswith("undecided")


def scores_of(config, shift=0.0):
    """Data of the batch-size experiment without a network: bell curves in log(B(1 − m)/ε)."""
    trained = [s for each in optimal_batch_size.settings(config).values() for s in each]
    rng, tables = np.random.default_rng(1), []
    for eps, _, m in dict.fromkeys(trained):
        ratio = np.array(config.batch_sizes) * (1 - m) / eps * (1 + shift * m)
        bell = 0.7 * np.exp(-(np.log(ratio / 5) ** 2))
        draws = 0.02 * rng.normal(size=(len(bell), config.ensemble_size, 2))
        tables.append(bell[:, None, None] + draws)
    names = [optimal_batch_size.label(s) for s in dict.fromkeys(trained)]
    curves = dict.fromkeys(s for each in _best_batch.KNOWN.values() for s in each)
    known = [
        [np.full(40, _best_batch.known_accuracy(s, b)) for b in _best_batch.KNOWN_SIZES]
        for s in curves
    ]
    known = np.array(known) + 0.002 * rng.normal(size=np.shape(known))
    return xr.Dataset(
        {
            "known": (("curve", "known_batch", "known_block"), known),
            "network": (("setting", "batch", "member", "score"), np.stack(tables)),
        },
        coords={
            "curve": [_best_batch.label(s) for s in curves],
            "setting": names,
            "score": list(optimal_batch_size.SCORES),
        },
    )


def test_rows_of_the_batch_size_experiment():
    """Curves in ε/(1 − m) pass every row; m entering otherwise, or no optimum, does not."""
    config = optimal_batch_size.Config(resamples=50)
    predicted = optimal_batch_size.predict(config)
    rows = optimal_batch_size.check(config, scores_of(config), predicted)
    assert all(r.as_expected for r in rows)
    wrong = optimal_batch_size.check(config, scores_of(config, shift=1.0), predicted)
    assert [r.name for r in wrong if not r.as_expected] == [rows[-2].name]
    rising = scores_of(config)
    rising["network"] = rising["network"] * 0 + np.arange(5)[None, :, None, None] / 10
    failed = [
        r.name for r in optimal_batch_size.check(config, rising, predicted) if not r.as_expected
    ]
    assert "gain in accuracy over the largest batch, network" in failed
