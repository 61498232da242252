"""Tails: how often |f| exceeds a level, and a multiple of it."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sde_sgd._checks import check_number, in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.measure.autocovariance import ratio
from sde_sgd.measure.base import (
    AbstractMeasure,
    check_of,
    check_schedule,
    due,
    evaluate,
    MeasureResult,
    own_values,
    shape_of_value,
    Tick,
)
from sde_sgd.measure.histogram import round_up
from sde_sgd.types import Alive, Positions


class TailCarry(eqx.Module):
    """Values counted (members,), and above u_j and factor·u_j, (members, 2, levels).

    `undefined` (members,): how many of them were NaN, which is above no level.
    """

    count: Array
    beyond: Array
    undefined: Array


class TailRatiosResult(MeasureResult):
    """Tail ratios at each level u, Estimates (levels,); errors from the spread over members.

    - `levels`, `factor`.
    - `probability`: P(|f| > u); `far_probability`: P(|f| > factor·u).
    - `ratio`: their quotient, factor^{−β} for a power-law tail p ∝ |f|^{−1−β}.
    - `index`: β = −ln(ratio)/ln(factor), by linearisation.
    - `members_beyond`: how many members ever exceeded factor·u. Below about 20 of them the error
      itself is unknown; where it is 0, the ratio is 0 with the error 1/(members that exceeded
      u), and the index NaN.

    Where f was NaN in any member, everything is NaN with an infinite error.
    """

    levels: np.ndarray
    factor: float
    probability: Estimate
    far_probability: Estimate
    ratio: Estimate
    index: Estimate
    members_beyond: np.ndarray
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        name: ("level",)
        for name in (
            "levels",
            "probability",
            "far_probability",
            "ratio",
            "index",
            "members_beyond",
        )
    }
    coordinates: ClassVar[dict[str, str]] = {"level": "levels"}


class TailRatios(AbstractMeasure):
    """P(|f| > factor·u)/P(|f| > u) at increasing levels u: a tail index without a fit.

    For a density with power-law tail p ∝ |f|^{−1−β} it tends to factor^{−β} as u grows, at any
    β, however few moments exist.

    **Arguments:** `levels` u > 0, increasing; `of` a scalar function of θ (θ itself in one
    dimension by default); `factor` > 1, 2 by default; `burn_in`, `every` as in `Moments`.
    """

    thresholds: Float[Array, "2 levels"]
    factor: float = eqx.field(static=True)
    of: Callable | None
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(
        self,
        levels: Sequence[float] | np.ndarray,
        of: Callable | None = None,
        factor: float = 2.0,
        burn_in: int = 0,
        every: int = 1,
    ):
        array = own_values("levels", levels)
        rising = array.ndim == 1 and array.size > 0 and bool((np.diff(array) > 0).all())
        if not rising or not np.isfinite(array).all() or array[0] <= 0:
            raise ValueError(
                f"TailRatios needs increasing, finite levels > 0; got {in_brief(levels)}."
            )
        self.factor = check_number("TailRatios: factor", factor, above=1.0)
        self.of = check_of("TailRatios", of)
        # Rounded down: a number of the dtype exceeds that exactly where it exceeds the level given.
        below = -round_up(-np.stack([array, self.factor * array]), jnp.result_type(float))
        if not np.isfinite(below).all() or not (np.diff(below) > 0).all():
            raise ValueError(
                f"TailRatios: levels {in_brief(levels)} and {self.factor:g} times them must be "
                f"different numbers of {below.dtype}: take them further apart, or use float64."
            )
        self.thresholds = jnp.asarray(below)
        self.burn_in, self.every = burn_in, every

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("TailRatios", self.burn_in, self.every, num_steps)
        if process.two_point:
            raise ValueError(
                "Two-point increments have no tails: use increments='gaussian' with TailRatios."
            )
        shape = shape_of_value("TailRatios", self.of, process.landscape)
        if np.prod(shape, dtype=int) != 1:
            raise ValueError(
                f"TailRatios needs `of=`, a scalar function of θ; f(θ) has shape {shape}."
            )

    def init(self, theta: Positions) -> TailCarry:
        members = theta.shape[0]
        beyond = jnp.zeros((members, 2, self.thresholds.shape[1]), jnp.int32)
        none = jnp.zeros(members, jnp.int32)
        return TailCarry(none, beyond, none)

    def update(
        self, carry: TailCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> TailCarry:
        def add() -> TailCarry:
            size = jnp.abs(evaluate(self.of, after).reshape(after.shape[0], 1, 1))
            beyond = size.astype(self.thresholds.dtype) > self.thresholds[None]
            undefined = carry.undefined + jnp.isnan(size[:, 0, 0]).astype(jnp.int32)
            return TailCarry(carry.count + 1, carry.beyond + beyond.astype(jnp.int32), undefined)

        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry: TailCarry) -> None:
        return None

    def restart(self, carry: TailCarry, restarted: Alive) -> TailCarry:
        return carry

    def result(self, carry: TailCarry, alive: np.ndarray, process: Any) -> TailRatiosResult:
        kept = alive & (np.asarray(carry.count) > 0)
        count = np.asarray(carry.count, dtype=float)[kept]
        beyond = np.asarray(carry.beyond, dtype=float)[kept]
        beyond[np.asarray(carry.undefined)[kept] > 0] = np.nan
        shares = beyond / count[:, None, None]
        near, far = Estimate.from_samples(shares[:, 0]), Estimate.from_samples(shares[:, 1])
        quotient = ratio(shares[:, 1], shares[:, 0])
        # Nobody beyond is no certainty: as in Histogram, one member of those that came near.
        visitors = np.maximum((beyond[:, 0] > 0).sum(axis=0), 1)
        error = np.where(quotient.value == 0, 1 / visitors, quotient.standard_error)
        quotient = Estimate(quotient.value, error, quotient.num_samples)
        with np.errstate(divide="ignore", invalid="ignore"):
            beta = -np.log(quotient.value) / np.log(self.factor)
            slack = error / (quotient.value * np.log(self.factor))
        known = quotient.value > 0
        index = Estimate(np.where(known, beta, np.nan), np.where(known, slack, np.inf), len(count))
        levels = np.asarray(self.thresholds[0], dtype=float)
        members = (beyond[:, 1] > 0).sum(axis=0)
        return TailRatiosResult(levels, self.factor, near, far, quotient, index, members)
