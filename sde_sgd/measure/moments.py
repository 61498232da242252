"""Mean and covariance over members and time."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from sde_sgd._checks import in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_of,
    check_schedule,
    due,
    evaluate,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.types import Alive, Positions


class MomentsCarry(eqx.Module):
    """Sums about each member's first counted value, with Kahan compensations."""

    count: Array
    shift: Array
    first: Array
    first_compensation: Array
    second: Array | None
    second_compensation: Array | None


class MomentsResult(MeasureResult):
    """What `Moments` measured over all counted iterations of the members alive.

    - `mean`: Estimate of E f, shape of f.
    - `covariance`: Estimate of Cov f, (size, size) for the size entries of f in order (so
      (1, 1) for a scalar f), or None.
    - `variance`: Estimate of Var f, shape of f, or None.
    - `num_iterations`: counted iterations of each member.

    Errors come from the spread between members, so that correlation in time needs no model.
    """

    mean: Estimate
    covariance: Estimate | None
    variance: Estimate | None
    num_iterations: int


class Moments(AbstractMeasure):
    """Time and ensemble averages of f(θ) and, if asked, its covariance.

    Each member is averaged over its counted iterations; the covariance is taken about the
    mean over members *and* time, so that a stationary run gives the stationary covariance.
    The estimator is unbiased, (1/n) Σ_i V_i + S with V_i the covariance in time of member i about
    its own mean and S that of the member means (`Estimate.of_variance`).

    **Arguments:**

    - `of`: f, a function of θ (d,); θ itself by default.
    - `burn_in`: iterations left out at the start.
    - `every`: measure every so many iterations.
    - `covariance`: True, "diagonal" (variances only) or False.
    """

    of: Callable | None = None
    burn_in: int = eqx.field(static=True, default=0)
    every: int = eqx.field(static=True, default=1)
    covariance: Literal[True, False, "diagonal"] = eqx.field(static=True, default=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __check_init__(self):
        check_of("Moments", self.of)
        kind = self.covariance
        if not (isinstance(kind, bool) or (isinstance(kind, str) and kind == "diagonal")):
            raise ValueError(
                f'Moments: covariance must be True, "diagonal" or False; got {in_brief(kind)}.'
            )

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Moments", self.burn_in, self.every, num_steps)
        shape_of_value("Moments", self.of, process.landscape)

    def init(self, theta: Positions) -> MomentsCarry:
        value = evaluate(self.of, theta).reshape(theta.shape[0], -1)
        zero = jnp.zeros_like(value)
        count = jnp.zeros(theta.shape[0], jnp.int32)
        if self.covariance is False:
            return MomentsCarry(count, zero, zero, zero, None, None)
        second = jnp.zeros_like(self._second(value))
        return MomentsCarry(count, zero, zero, zero, second, second)

    def _second(self, value: Array) -> Array:
        if self.covariance == "diagonal":
            return value * value
        return value[:, :, None] * value[:, None, :]

    def update(
        self, carry: MomentsCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> MomentsCarry:
        def add() -> MomentsCarry:
            value = evaluate(self.of, after).reshape(after.shape[0], -1)
            shift = jnp.where(carry.count[:, None] == 0, value, carry.shift)
            moved = value - shift
            first, first_c = add_compensated(carry.first, carry.first_compensation, moved)
            second, second_c = carry.second, carry.second_compensation
            if second is not None:
                second, second_c = add_compensated(second, second_c, self._second(moved))
            return MomentsCarry(carry.count + 1, shift, first, first_c, second, second_c)

        if self.burn_in == 0 and self.every == 1:
            return add()
        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry: MomentsCarry) -> None:
        return None

    def restart(self, carry: MomentsCarry, restarted: Alive) -> MomentsCarry:
        return carry

    def result(self, carry: MomentsCarry, alive: np.ndarray, process: Any) -> MomentsResult:
        kept = alive & (np.asarray(carry.count) > 0)
        count = np.asarray(carry.count)[kept].astype(float)
        shift = np.asarray(carry.shift, dtype=float)[kept]
        offset = (np.asarray(carry.first, dtype=float)[kept].T / count).T
        member_mean = shift + offset
        shape = shape_of_value("Moments", self.of, process.landscape)
        mean = Estimate.from_samples(member_mean)
        steps = int(count.min()) if count.size else 0
        shaped = Estimate(
            mean.value.reshape(shape), mean.standard_error.reshape(shape), mean.num_samples
        )
        if carry.second is None:
            return MomentsResult(shaped, None, None, steps)
        second = np.asarray(carry.second)
        centre = member_mean - mean.value
        if self.covariance == "diagonal":
            second = (second[kept].T.astype(float) / count).T
            variance = Estimate.of_variance(second - offset**2, centre**2)
            covariance = None
        else:
            covariance = _covariance(second, kept, count, offset, centre)
            index = np.arange(centre.shape[1])
            variance = covariance[index, index]
        variance = Estimate(
            variance.value.reshape(shape),
            variance.standard_error.reshape(shape),
            variance.num_samples,
        )
        return MomentsResult(shaped, covariance, variance, steps)


def _covariance(
    second: np.ndarray, kept: np.ndarray, count: np.ndarray, offset: np.ndarray, centre: np.ndarray
) -> Estimate:
    """The covariance row by row: float64 copies of all its rows at once would outweigh the run.

    `second`: sums of products (members, d, d), of the members `kept` and others.
    """
    rows = []
    for i in range(centre.shape[1]):
        within = second[kept, i].astype(float) / count[:, None] - offset[:, i, None] * offset
        rows.append(Estimate.of_variance(within, centre[:, i, None] * centre))
    value = np.stack([row.value for row in rows])
    return Estimate(value, np.stack([row.standard_error for row in rows]), len(centre))
