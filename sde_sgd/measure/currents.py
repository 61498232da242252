"""Areas that paths sweep out: the part of stationary motion that no potential has."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import as_real, in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_of,
    check_schedule,
    evaluate,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.types import Alive, Positions


class ArealCarry(eqx.Module):
    """Solver steps (members,), areas (members, pairs) and their compensations."""

    steps: Array
    area: Array
    compensation: Array


class ArealVelocityResult(MeasureResult):
    """Mean area swept out, antisymmetric Estimates (p, p): entry ij is ½⟨x_i dx_j − x_j dx_i⟩.

    - `per_time`: per unit of the physical time t (= ηk).
    - `per_iteration`: per SGD iteration.
    - `num_iterations`: iterations of a member that were counted.
    """

    per_time: Estimate
    per_iteration: Estimate
    num_iterations: float


class ArealVelocity(AbstractMeasure):
    """½⟨x_i dx_j − x_j dx_i⟩ of x = f(θ) ∈ R^p: how fast paths turn round in each plane.

    Zero in equilibrium. Each solver step from x to x' sweeps the triangle ½(x_i x'_j − x_j x'_i):
    the chord's, in which Itô and Stratonovich agree. A stationary linear chain x' = (1 − hA)x +
    noise of covariance M has the mean (AM − MAᵀ)_ij/2 of it per unit of h, so that a run
    is compared with the M of its own step.

    **Arguments:**

    - `of`: f, a function of θ with at least two entries; θ itself by default.
    - `centre`: (p,) point from which areas are measured, 0 by default. In a stationary state it
      does not change the mean; the mean of x makes the error smallest.
    - `burn_in`: iterations left out at the start.
    """

    of: Callable | None
    centre: Float[Array, " p"] | None
    burn_in: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "substeps"

    def __init__(self, of: Callable | None = None, centre=None, burn_in: int = 0):
        self.of, self.burn_in = check_of("ArealVelocity", of), burn_in
        self.centre = None if centre is None else as_real("centre", centre, jnp.result_type(float))
        if self.centre is not None and not bool(jnp.isfinite(self.centre).all()):
            raise ValueError(f"centre must be finite; got {in_brief(centre)}.")

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("ArealVelocity", self.burn_in, 1, num_steps)
        shape = shape_of_value("ArealVelocity", self.of, process.landscape)
        if len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                f"ArealVelocity needs a vector of two entries or more; f(θ) has shape {shape}. In "
                f"one dimension nothing turns round."
            )
        if self.centre is not None and self.centre.shape != shape:
            raise ValueError(f"centre must have shape {shape}; got {self.centre.shape}.")

    def init(self, theta: Positions) -> ArealCarry:
        value = evaluate(self.of, theta)
        size = value.shape[1]
        area = jnp.zeros((value.shape[0], size * (size - 1) // 2), value.dtype)
        return ArealCarry(jnp.zeros(value.shape[0], jnp.int32), area, area)

    def update(
        self, carry: ArealCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> ArealCarry:
        x, y = evaluate(self.of, before), evaluate(self.of, after)
        if self.centre is not None:
            x, y = x - self.centre.astype(x.dtype), y - self.centre.astype(y.dtype)
        first, second = np.triu_indices(x.shape[1], 1)
        swept = 0.5 * (x[:, first] * y[:, second] - x[:, second] * y[:, first])
        counts = tick.iteration.astype(jnp.int32) > self.burn_in
        area, compensation = add_compensated(
            carry.area, carry.compensation, jnp.where(counts, swept, 0)
        )
        return ArealCarry(carry.steps + counts.astype(jnp.int32), area, compensation)

    def finished(self, carry: ArealCarry) -> None:
        return None

    def restart(self, carry: ArealCarry, restarted: Alive) -> ArealCarry:
        return carry

    def result(self, carry: ArealCarry, alive: np.ndarray, process: Any) -> ArealVelocityResult:
        kept = alive & (np.asarray(carry.steps) > 0)
        area = np.asarray(carry.area, dtype=float)[kept]
        iterations, duration = elapsed(np.asarray(carry.steps)[kept], self.burn_in, process)
        num, pairs = area.shape
        size = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
        matrix = np.zeros((num, size, size))
        first, second = np.triu_indices(size, 1)
        matrix[:, first, second], matrix[:, second, first] = area, -area
        return ArealVelocityResult(
            Estimate.from_samples(matrix / duration),
            Estimate.from_samples(matrix / iterations),
            iterations,
        )


def elapsed(steps: np.ndarray, burn_in: int, process: Any) -> tuple[float, float]:
    """Iterations and physical time behind the counted solver steps; NaN without any."""
    if steps.size == 0:
        return np.nan, np.nan
    iterations = int(steps.min()) // process.substeps
    ends = process.time(np.array([burn_in, burn_in + iterations]))
    return float(iterations), float(ends[1] - ends[0])
