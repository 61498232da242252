"""Experiments on samplers and driving noises: their checks on exact data, and on exchanged data."""

import jax
import numpy as np
import xarray as xr

import sde_sgd as ss
from experiments import fractional_noise, minibatch_noise_tails, sgworld_against_sgld as sgworld
from experiments.framework import put


def store(values, error):
    """A data set of exact values with a standard error, from 4 096 members."""
    variables = {}
    for name, value in values.items():
        value = np.asarray(value, float)
        dims = ("i", "j")[: value.ndim]
        put(variables, name, ss.Estimate(value, np.full(value.shape, error), 4096), dims)
    return xr.Dataset(variables)


def unexpected(rows):
    return {f"{row.process}: {row.name}" for row in rows if not row.as_expected}


def test_samplers_are_told_apart():
    """Exact data pass; SGWORLD on independent batches fails its own rows."""
    config = sgworld.Config(num_examples=8, learning_rates=(0.1, 0.2), batch_sizes=(2,))
    predicted = sgworld.predict(config)
    eta, aim, slow = predicted["matched"][2]
    matched = sgworld.whitened(config, sgworld.exact(config, "SGLD", slow, 2))
    assert slow < eta and abs(sgworld.bias(matched) - aim) < 1e-9
    values = predicted["laws"] | {"SGLD B=2 matched": matched}
    assert unexpected(sgworld.check(config, store(values, 1e-4), predicted)) == set()
    for eta in config.learning_rates:
        swap = {name: sgworld.label(name, eta, 2) for name in ("SGLD", "SGWORLD")}
        values[swap["SGWORLD"]] = values[swap["SGLD"]]
    wrong = unexpected(sgworld.check(config, store(values, 1e-4), predicted))
    assert len(wrong) == 2 and all(name.startswith("SGWORLD") for name in wrong)


def test_hurst_index_exchanged():
    """Exact data pass; with H and 1 − H exchanged every row of H ≠ ½ fails."""
    config = fractional_noise.Config()
    predicted = fractional_noise.predict(config)
    runs = predicted["runs"]
    values = {f"H={h:g} η={eta:g}": value for (h, eta), value in runs.items()}
    values["epochs"] = predicted["epochs"]
    assert unexpected(fractional_noise.check(config, store(values, 1e-4), predicted)) == set()
    swapped = {f"H={h:g} η={eta:g}": runs[round(1 - h, 12), eta] for (h, eta) in runs} | {
        "epochs": predicted["epochs"]
    }
    wrong = unexpected(fractional_noise.check(config, store(swapped, 1e-4), predicted))
    assert all(any(f"H={h:g}" in name for name in wrong) for h in (0.3, 0.7))
    assert not any("H=0.5" in name for name in wrong)


def test_reading_of_gaussian_noise():
    """The exact pooled reading is that of samples drawn with another root of Σ."""
    config = minibatch_noise_tails.Config(
        num_examples=64, directions=10, width=12, training_steps=2, num_vectors=512
    )
    sigma = minibatch_noise_tails.covariance(config, "start")
    values, vectors = np.linalg.eigh(sigma)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    draws = np.random.default_rng(0).normal(size=(1024, len(sigma))) @ root.T
    found = minibatch_noise_tails.pooled(config, draws)
    exact = minibatch_noise_tails.gaussian_reading(config, "start")
    assert abs(found.value - exact) < 4.5 * found.standard_error
    assert exact < 1.9 and jax.config.read("jax_enable_x64")
