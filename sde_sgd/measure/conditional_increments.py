"""Drift and diffusion of a scalar, read off the increments of an iteration."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sde_sgd._checks import check_callable
from sde_sgd.estimate import Estimate
from sde_sgd.measure.autocovariance import ratio
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_schedule,
    due,
    evaluate,
    MeasureResult,
    shape_of_value,
    Tick,
)
from sde_sgd.measure.histogram import bins, check_resolved
from sde_sgd.types import Alive, Positions


class ConditionalIncrementsResult(MeasureResult):
    """Moments of f_{k+1} − f_k, given the bin of f_k; arrays (bins,) over members and time.

    - `edges` (bins+1,); `where`: mean of f_k in each bin.
    - `drift`: E[Δf | bin], of one *iteration*; `square`: E[Δf² | bin].

    Divided by the time η of an iteration they are the Kramers–Moyal coefficients at that step:
    drift/η → K and square/η → 2D as η → 0, with errors of order η that are not part of the
    standard errors (compare with the exact transition where it is known). Bins without a visit
    are NaN with an infinite error, and all of them are if f_k was NaN in any member.
    """

    edges: np.ndarray
    where: Estimate
    drift: Estimate
    square: Estimate


class ConditionalIncrements(AbstractMeasure):
    """Mean and mean square of the change of f(θ) in an iteration, by the bin it started in.

    Streaming: three sums and a count for each bin of each member. Values outside the edges are
    left out.

    **Arguments:** `of`, a scalar function of θ; `edges` (bins+1,) increasing; `burn_in`, `every`
    as in `Moments`.

    **Raises:** `ValueError` for edges that do not increase and an f that is no scalar.
    """

    of: Callable
    edges: Float[Array, " edges"]
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(
        self,
        of: Callable,
        edges: Sequence[float] | np.ndarray,
        burn_in: int = 0,
        every: int = 1,
    ):
        self.of = check_callable("ConditionalIncrements: of", of, "lambda theta: theta[0]")
        self.edges = bins("ConditionalIncrements", edges)
        self.burn_in, self.every = burn_in, every

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("ConditionalIncrements", self.burn_in, self.every, num_steps)
        shape = shape_of_value("ConditionalIncrements", self.of, process.landscape)
        if np.prod(shape, dtype=int) != 1:
            raise ValueError(
                f"ConditionalIncrements needs a scalar function of θ; f(θ) has shape {shape}."
            )
        check_resolved("ConditionalIncrements", self.edges, process.landscape.dtype)

    def init(self, theta: Positions) -> Float[Array, "members bins 8"]:
        # Count, f, Δf, Δf², each with Kahan's compensation behind.
        return jnp.zeros((theta.shape[0], self.edges.shape[0] + 1, 8), theta.dtype)

    def update(self, carry, before: Positions, after: Positions, tick: Tick, alive: Alive):
        def add():
            old = evaluate(self.of, before).reshape(before.shape[0])
            change = evaluate(self.of, after).reshape(after.shape[0]) - old
            place = jnp.searchsorted(self.edges, old.astype(self.edges.dtype), side="right")
            row = jnp.stack([jnp.ones_like(old), old, change, change**2], axis=1)
            member = jnp.arange(old.shape[0])
            here = carry[member, place]
            total = jnp.concatenate(add_compensated(here[:, :4], here[:, 4:], row), axis=1)
            return carry.at[member, place].set(total)

        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry) -> None:
        return None

    def restart(self, carry, restarted: Alive):
        return carry

    def result(self, carry, alive: np.ndarray, process: Any) -> ConditionalIncrementsResult:
        sums = np.asarray(carry, dtype=float)[alive][..., :4]
        # NaN is sorted behind all edges.
        sums[np.isnan(sums[:, -1, 1])] = np.nan
        sums = sums[:, 1:-1]
        count = sums[..., 0]
        where, drift, square = (ratio(sums[..., i], count) for i in (1, 2, 3))
        return ConditionalIncrementsResult(np.asarray(self.edges, float), where, drift, square)
