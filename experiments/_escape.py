"""What the experiments on escape share: wells, and runs long enough for so many exits."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import sde_sgd as ss


def well_processes(
    learning_rate: float, diffusion: float, substeps: int, batch_size: int = 1
) -> dict[str, ss.AbstractProcess]:
    """SGD, Gaussian SGD and the SDE in (x² − 1)²/4 with D = ηC/2.

    SGD draws batches of tilts ±σ, σ² = BC, so that the batch gradient takes B + 1 values.
    """
    covariance = 2 * diffusion / learning_rate
    well = ss.double_well(batch_size * covariance)
    sampling = ss.WithReplacement(batch_size)
    # The same C as MinibatchNoise(sampling), known to be constant.
    noise = ss.ConstantNoise(np.array([[covariance]]))
    return {
        "SGD": ss.SGD(well, learning_rate, sampling),
        "Gaussian SGD": ss.GaussianSGD(well, learning_rate, noise),
        "SDE": ss.ModifiedEquation(well, learning_rate, noise, substeps=substeps),
    }


def force(x):
    """−V′ of (x² − 1)²/4."""
    return x - x**3


def at_other_well(theta):
    """x ≥ 1."""
    return theta[0] >= 1.0


def passages(
    process: ss.AbstractProcess,
    exited: Callable,
    *,
    start,
    mean_steps: float,
    exits: float,
    members: int,
    key,
    measure: ss.AbstractMeasure | None = None,
) -> Any:
    """First passages with refill, in a run that sees about `exits` of them.

    What is returned is the result of `measure`, by default `ss.FirstPassage(exited)`.

    `mean_steps` is the expected time in iterations: of the length of the run nothing but the
    error depends, and a bias (1 − Var τ/T²)/2 of the number of exits a member, 7e-3.
    """
    steps = max(1, int(np.ceil(exits * mean_steps / members)))
    run = ss.simulate(
        process,
        jnp.atleast_1d(jnp.asarray(start, float)),
        num_steps=steps,
        ensemble_size=members,
        key=key,
        measures={"exit": ss.FirstPassage(exited) if measure is None else measure},
        refill=True,
    )
    return run["exit"]


def stack(estimates: list[ss.Estimate]) -> ss.Estimate:
    """Estimates of numbers as one of an array."""
    return ss.Estimate(
        np.array([float(e.value) for e in estimates]),
        np.array([float(e.standard_error) for e in estimates]),
        min(e.num_samples for e in estimates),
    )
