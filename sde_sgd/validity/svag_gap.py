"""How far SGD is from SVAG(l), and so on the way to its SDE, in a short simulation."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from sde_sgd.estimate import Estimate
from sde_sgd.measure.snapshots import Snapshots
from sde_sgd.noise.sampling import RandomReshuffling, WithoutReplacement
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.processes.discrete.svag import SVAG
from sde_sgd.simulate.engine import simulate
from sde_sgd.types import Key, Vector


def svag_gaps(
    sgd: SGD,
    theta: Vector,
    direction: Float[np.ndarray, " d"],
    levels: tuple[int, ...],
    *,
    num_steps: int,
    members: int,
    key: Key,
    loss: Callable | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, Estimate]]:
    """Differences SGD − SVAG(l) after `num_steps` iterations, by test function and l.

    Test functions: "loss", in units of the standard deviation of the loss over SVAG's members;
    "squared displacement" E(u·(θ − θ₀))² along `direction` u, relative to SVAG's. Ensembles are
    independent (there is no common noise to pair), errors are of the difference. With shuffled
    epochs SVAG takes fresh subsets, which have the SDE of one step's covariance.

    `loss` is that of a sample of examples, if not of all; `tick` is called after every ensemble.
    A member that diverges makes its entry infinite.
    """
    sampling = sgd.sampling
    if isinstance(sampling, RandomReshuffling):
        sampling = WithoutReplacement(sampling.batch_size)
    rate = sgd.learning_rate.constant()
    unit, start = jnp.asarray(direction, theta.dtype), theta
    of: dict[str, Callable] = {
        "loss": sgd.landscape.loss if loss is None else loss,
        "squared displacement": lambda x: jnp.dot(unit, x - start) ** 2,
    }
    keys = jr.split(key, len(levels) + 1)

    def run(process: Any, own) -> dict[str, np.ndarray] | None:
        measures = {name: Snapshots([num_steps], f) for name, f in of.items()}
        found = simulate(
            process,
            theta,
            num_steps=num_steps,
            ensemble_size=members,
            key=own,
            measures=measures,
            progress=False,
            on_divergence="mask",
            check_stability=False,
        )
        tick()
        if not found.alive.all():
            return None
        return {name: np.asarray(found[name].values[0], float) for name in of}

    plain = run(sgd, keys[0])
    gaps: dict[str, dict[int, Estimate]] = {name: {} for name in of}
    for level, own in zip(levels, keys[1:], strict=True):
        other = run(SVAG(sgd.landscape, rate, sampling, level), own)
        for name in of:
            if plain is None or other is None:
                gaps[name][level] = Estimate(np.inf, np.inf, members)
            else:
                gaps[name][level] = _gap(plain[name], other[name], name == "loss")
    return gaps


def _gap(first: np.ndarray, second: np.ndarray, by_deviation: bool) -> Estimate:
    a, b = Estimate.from_samples(first), Estimate.from_samples(second)
    if by_deviation:
        return (a - b) / float(second.std(ddof=1))
    return a / b - 1
