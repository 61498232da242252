"""The noise of a run as control variate of E f at its end: a martingale with known mean, zero."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, UInt32

from sde_sgd._checks import as_real, real_output
from sde_sgd.measure.base import AbstractMeasure, Tick
from sde_sgd.types import Alive, Positions, Vector

# Lengths are rounded up to this many steps, so that one executable serves many.
_ROWS = 256


class NoiseControl(AbstractMeasure):
    """S = Σ_j G_j·(θ_{j+1} − θ_j − m_j(θ_j)) over all solver steps j, m_j(θ) = E[θ_{j+1} − θ | θ].

    E S = 0 whatever the G_j are, as long as they do not look ahead: they are the derivatives
    ∂f(θ̄_J)/∂θ̄_{j+1} along the path without noise, θ̄_{j+1} = θ̄_j + m_j(θ̄_j). S is then f(θ_J) to
    first order in the noise. m is the process's own `mean_step`, so that a wrong drift shows.

    **Fields:** `process`; `weights` G, (rows, *shape of f, d), a row for each of the solver `steps`
    at least.
    """

    process: Any
    weights: Float[Array, "rows *shape d"]
    steps: UInt32[Array, ""]
    watches: ClassVar[Literal["iterations", "substeps"]] = "substeps"

    def check(self, process: Any, num_steps: int) -> None:
        if num_steps * process.substeps != int(self.steps):
            raise ValueError(
                f"This control belongs to {int(self.steps)} solver steps; the run has "
                f"{num_steps * process.substeps}."
            )

    def init(self, theta: Positions) -> Array:
        return jnp.zeros((len(theta), *self.weights.shape[1:-1]), theta.dtype)

    def update(self, carry, before: Positions, after: Positions, tick: Tick, alive: Alive):
        iteration = tick.iteration - jnp.uint32(1)
        index = iteration * jnp.uint32(self.process.substeps) + tick.substep
        mean = jax.vmap(lambda theta: self.process.mean_step(theta, iteration))(before)
        return carry + (after - before - mean) @ jnp.moveaxis(self.weights[index], -1, 0)

    def finished(self, carry) -> None:
        return None

    def restart(self, carry, restarted: Alive):
        return carry

    def result(self, carry, alive: np.ndarray, process: Any) -> np.ndarray:
        return np.asarray(carry, float)[alive]


def noise_control(process: Any, theta0: Any, num_steps: int, of: Callable) -> NoiseControl | None:
    """The control of f(θ) after `num_steps` iterations from θ0, a point, points or a sampler.

    Its weights belong to the path from their mean (from one draw of the sampler).

    None for a process that does not know its mean step (momentum, shuffled epochs).
    """
    if not process.knows_mean_step:
        return None
    point = theta0(jr.key(0)) if callable(theta0) else theta0
    start = as_real("theta0", point, process.landscape.dtype)
    start = start if start.ndim == 1 else start.mean(axis=0)
    steps = num_steps * process.substeps
    rows = -(-steps // _ROWS) * _ROWS
    weights = _weights(process, start, jnp.uint32(steps), rows, of)
    return NoiseControl(process, weights, jnp.uint32(steps))


@eqx.filter_jit
def _weights(process: Any, start: Vector, steps: Array, rows: int, of: Callable) -> Array:
    """G of the first `steps` (an array: one compilation for all lengths) of `rows`, else zero."""
    index = jnp.arange(rows, dtype=jnp.uint32)

    def end(pushes):
        def move(theta, row):
            push, j = row
            step = process.mean_step(theta, j // jnp.uint32(process.substeps)) + push
            return theta + jnp.where(j < steps, step, 0), None

        theta, _ = jax.lax.scan(move, start, (pushes, index))
        return real_output("of(θ)", of(theta), start.dtype)

    found = jax.jacrev(end)(jnp.zeros((rows, *start.shape), start.dtype))
    return jnp.moveaxis(found, -2, 0)


def controlled(values: np.ndarray, control: np.ndarray | None) -> np.ndarray:
    """values − b·control, b by regression, (members, *shape) each.

    b from the same sample biases the mean by O(1/members), below its error of O(members^{−½}), and
    never adds variance to the sample.
    """
    if control is None:
        return values
    centred = control - control.mean(axis=0)
    power = (centred**2).sum(axis=0)
    slope = (centred * values).sum(axis=0) / np.where(power > 0, power, 1.0)
    return values - slope * control
