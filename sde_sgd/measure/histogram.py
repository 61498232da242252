"""Histogram of a scalar function of θ, over members and time."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..types import Alive, Positions
from .base import AbstractMeasure, check_schedule, due, evaluate, Tick
from .estimate import Estimate


class HistogramResult(eqx.Module):
    """Bin edges (bins+1,), density Estimate (bins,) per unit of f, mass of every bin (bins,).

    `below` and `above` are the probabilities outside the edges; density integrates to
    1 − below − above. Errors come from the spread between members. A bin that none of n members
    visited (or that none ever left) has no spread and yet no certainty: its error is 1/n, one
    member in n elsewhere all the time, an upper bound whatever the correlation in time.
    """

    edges: np.ndarray
    density: Estimate
    probability: Estimate
    below: Estimate
    above: Estimate

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins, (bins,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


class Histogram(AbstractMeasure):
    """How often f(θ) falls into each bin [e_j, e_{j+1}).

    **Arguments:** `edges` (bins+1,) increasing; `of` a scalar function of θ (θ itself in one
    dimension by default); `burn_in`, `every` as in `Moments`.
    """

    edges: Float[Array, " edges"]
    of: Callable | None
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(self, edges, of: Callable | None = None, burn_in: int = 0, every: int = 1):
        array = np.asarray(edges, dtype=float)
        if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
            raise ValueError(f"Histogram needs at least two finite edges; got {array}.")
        if not (np.diff(array) > 0).all():
            raise ValueError(f"Histogram needs increasing edges; got {array}.")
        self.edges = jnp.asarray(array, jnp.result_type(float))
        self.of, self.burn_in, self.every = of, burn_in, every

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Histogram", self.burn_in, self.every, num_steps)
        if self.of is None and process.landscape.dimension != 1:
            raise ValueError(
                f"Histogram needs `of=`, a scalar function of θ: θ has "
                f"{process.landscape.dimension} entries."
            )

        landscape = process.landscape
        probe = jax.ShapeDtypeStruct((1, landscape.dimension), landscape.dtype)
        shape = jax.eval_shape(lambda x: evaluate(self.of, x), probe).shape
        if np.prod(shape, dtype=int) != 1:
            raise ValueError(
                f"Histogram needs a scalar function of θ; `of` has shape {shape[1:]}. Take one "
                f"entry of it, or use Snapshots."
            )

    def init(self, theta: Positions) -> Int[Array, "members bins"]:
        return jnp.zeros((theta.shape[0], self.edges.shape[0] + 1), jnp.int32)

    def update(self, carry, before: Positions, after: Positions, tick: Tick, alive: Alive):
        def add():
            value = evaluate(self.of, after).reshape(after.shape[0])
            edges = self.edges.astype(value.dtype)
            index = jnp.searchsorted(edges, value, side="right")
            return carry.at[jnp.arange(value.shape[0]), index].add(1)

        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry) -> None:
        return None

    def restart(self, carry, restarted: Alive):
        return carry

    def result(self, carry, alive: np.ndarray, process: Any) -> HistogramResult:
        counts = np.asarray(carry, dtype=float)[alive]
        counts = counts[counts.sum(1) > 0]
        shares = counts / counts.sum(1, keepdims=True)
        edges = np.asarray(self.edges, dtype=float)
        everything = _bounded(Estimate.from_samples(shares))
        inside = everything[1:-1]
        width = np.diff(edges)
        density = Estimate(inside.value / width, inside.standard_error / width, inside.num_samples)
        return HistogramResult(edges, density, inside, everything[0], everything[-1])


def _bounded(shares: Estimate) -> Estimate:
    """Probabilities of exactly 0 or 1 get the error of one member, 1/n."""
    if shares.num_samples < 2:
        return shares
    settled = (shares.value == 0) | (shares.value == 1)
    error = np.where(settled, 1 / shares.num_samples, shares.standard_error)
    return Estimate(shares.value, error, shares.num_samples)
