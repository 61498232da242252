"""Distribution of a scalar, or joint distribution of a pair, over members and time."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from sde_sgd._checks import as_float64, in_brief
from sde_sgd.estimate import Estimate
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
from sde_sgd.types import Alive, Positions


class HistogramResult(MeasureResult):
    """Bin edges (bins+1,), density Estimate (bins,) per unit of f, mass of every bin (bins,).

    `below` and `above` are the probabilities outside the edges; density integrates to
    1 − below − above. `cumulative` (bins+1,) is P(f < e_j) at every edge. Errors come from the
    spread between members. A bin that none of n members visited (or that none ever left) has no
    spread and yet no certainty: its error is 1/n, one member in n elsewhere all the time, an
    upper bound whatever the correlation in time.
    """

    edges: np.ndarray
    density: Estimate
    probability: Estimate
    below: Estimate
    above: Estimate
    cumulative: Estimate

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins, (bins,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def quantile(self, level: Any) -> Estimate:
        """x with P(f < x) = level, linear inside its bin; the error is that of P over p(x).

        It exists where moments do not: the median of |θ| instead of its variance. The bin's
        width is a resolution that the error does not hold: make bins narrow beside it.

        **Arguments:** `level`, a number or array in (0, 1).

        **Raises:** `ValueError` for a level outside (0, 1), or whose quantile lies outside the
        edges.
        """
        wanted = as_float64("level", level)
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"quantile needs levels in (0, 1); got {in_brief(level)}.")
        heights, errors = self.cumulative.value, self.cumulative.standard_error
        if not ((wanted >= heights[0]) & (wanted < heights[-1])).all():
            raise ValueError(
                f"The quantile {level} lies outside the edges, which hold the levels "
                f"{heights[0]:.4g} to {heights[-1]:.4g} only: widen the edges of the Histogram."
            )
        left = np.searchsorted(heights, wanted, side="right") - 1
        mass, width = heights[left + 1] - heights[left], np.diff(self.edges)[left]
        share = (wanted - heights[left]) / mass
        error = (1 - share) * errors[left] + share * errors[left + 1]
        value = self.edges[left] + share * width
        return Estimate(value, error * width / mass, self.cumulative.num_samples)


class JointHistogramResult(MeasureResult):
    """Edges of both coordinates, density and mass of each cell, Estimates (rows, columns).

    Row i holds x_edges[i] ≤ f₁ < x_edges[i+1], column j the same of f₂. `outside` is the
    probability of lying outside the box; `x` and `y` are the marginals, `HistogramResult`s
    with their own `below` and `above`, over *all* values of the other coordinate. Errors as in
    `HistogramResult`.
    """

    x_edges: np.ndarray
    y_edges: np.ndarray
    density: Estimate
    probability: Estimate
    outside: Estimate
    x: HistogramResult
    y: HistogramResult

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(x_edges, y_edges)."""
        return self.x_edges, self.y_edges


class Histogram(AbstractMeasure):
    """How often f(θ) falls into each bin [e_j, e_{j+1}), or a pair into each cell of a box.

    A pair of edges makes a joint histogram (`JointHistogramResult`). A NaN is in no bin, nor
    outside: where f was NaN in any member, the result is NaN with infinite errors. Each member
    holds its own counts, 4·(bins + 3) bytes, or 4·(rows + 2)(columns + 2): for one instant of very
    many members take `run.positions` and `compare_law` instead.

    **Arguments:** `edges` (bins+1,) increasing, or two such arrays; `of` a scalar function of θ
    (of two entries for a pair; θ itself by default where d is 1 or 2); `burn_in`, `every` as in
    `Moments`.

    **Raises:** `ValueError` for edges that do not increase, or are so close that a bin holds too
    few numbers of the dtype of θ to have a width.
    """

    edges: tuple[Float[Array, " edges"], ...]
    of: Callable | None
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(self, edges, of: Callable | None = None, burn_in: int = 0, every: int = 1):
        is_pair = np.ndim(edges) == 2 if hasattr(edges, "ndim") else _are_rows(edges)
        pair = is_pair and len(edges) == 2
        self.edges = tuple(bins("Histogram", e) for e in (edges if pair else (edges,)))
        self.of, self.burn_in, self.every = check_of("Histogram", of), burn_in, every

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Histogram", self.burn_in, self.every, num_steps)
        landscape = process.landscape
        wanted = "a scalar function of θ" if len(self.edges) == 1 else "a pair of functions of θ"
        if self.of is None and landscape.dimension != len(self.edges):
            raise ValueError(
                f"Histogram needs `of=`, {wanted}: θ has {landscape.dimension} entries."
            )
        shape = shape_of_value("Histogram", self.of, landscape)
        if np.prod(shape, dtype=int) != len(self.edges):
            raise ValueError(
                f"Histogram needs {wanted}; `of` has shape {shape}. Take one entry of it for "
                f"each array of edges, or use Snapshots."
            )
        for edges in self.edges:
            check_resolved("Histogram", edges, landscape.dtype)

    def init(self, theta: Positions) -> Int[Array, "members bins"]:
        bins = int(np.prod([e.shape[0] + 1 for e in self.edges]))
        # NaN are counted behind the bins.
        return jnp.zeros((theta.shape[0], bins + 1), jnp.int32)

    def update(self, carry, before: Positions, after: Positions, tick: Tick, alive: Alive):
        def add():
            value = evaluate(self.of, after).reshape(after.shape[0], len(self.edges))
            index = jnp.zeros(value.shape[0], jnp.int32)
            for column, edges in enumerate(self.edges):
                own = value[:, column].astype(edges.dtype)
                place = jnp.searchsorted(edges, own, side="right").astype(jnp.int32)
                index = index * (edges.shape[0] + 1) + place
            index = jnp.where(jnp.isnan(value).any(axis=1), carry.shape[1] - 1, index)
            return carry.at[jnp.arange(value.shape[0]), index].add(1)

        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry) -> None:
        return None

    def restart(self, carry, restarted: Alive):
        return carry

    def result(
        self, carry, alive: np.ndarray, process: Any
    ) -> HistogramResult | JointHistogramResult:
        counts = np.asarray(carry, dtype=float)[alive]
        counts = counts[counts.sum(1) > 0]
        shares = counts[:, :-1] / counts.sum(1, keepdims=True)
        shares[counts[:, -1] > 0] = np.nan
        edges = [np.asarray(e, dtype=float) for e in self.edges]
        if len(edges) == 1:
            return _line(edges[0], shares)
        x, y = edges
        shares = shares.reshape(len(shares), len(x) + 1, len(y) + 1)
        inside = bounded(Estimate.from_samples(shares[:, 1:-1, 1:-1]))
        outside = 1 - shares[:, 1:-1, 1:-1].sum(axis=(1, 2))
        return JointHistogramResult(
            x,
            y,
            _per_unit(inside, np.outer(np.diff(x), np.diff(y))),
            inside,
            bounded(Estimate.from_samples(outside)),
            _line(x, shares.sum(axis=2)),
            _line(y, shares.sum(axis=1)),
        )


def _are_rows(edges: Any) -> bool:
    return isinstance(edges, list | tuple) and all(
        isinstance(e, list | tuple) or np.ndim(e) == 1 for e in edges
    )


def check_edges(name: str, edges: Any) -> np.ndarray:
    """Increasing, finite edges (bins+1,), or `ValueError`."""
    array = own_values(f"{name}: edges", edges)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name} needs at least two finite edges; got {in_brief(array)}.")
    if not (np.diff(array) > 0).all():
        raise ValueError(f"{name} needs increasing edges; got {in_brief(array)}.")
    return array


def bins(name: str, edges: Any) -> Float[Array, " edges"]:
    """`check_edges` as the smallest numbers of JAX's dtype that are no less.

    A number x of that dtype, or of a narrower one, then has x ≥ e_j exactly where it has it of the
    edges as they were given. `ValueError` for others.
    """
    array, dtype = check_edges(name, edges), jnp.result_type(float)
    check_resolved(name, array, dtype)
    return jnp.asarray(round_up(array, dtype))


def round_up(values: np.ndarray, dtype: Any) -> np.ndarray:
    """The smallest numbers of a dtype that are no less."""
    near = values.astype(dtype)
    return np.where(near < values, np.nextafter(near, np.asarray(np.inf, dtype)), near)


def check_resolved(name: str, edges: Any, dtype: Any) -> None:
    """Raises `ValueError` for bins whose width a dtype changes by more than a tenth."""
    exact = np.asarray(edges, float)
    width, rounded = np.diff(exact), np.diff(round_up(exact, dtype).astype(float))
    coarse = np.abs(rounded - width) > 0.1 * width
    if coarse.any():
        first = int(np.argmax(coarse))
        raise ValueError(
            f"{name}: the bin from {exact[first]:.10g} to {exact[first + 1]:.10g} is too narrow "
            f"for {np.dtype(dtype).name}, whose neighbouring numbers are "
            f"{np.spacing(np.abs(exact[first : first + 2]).max().astype(dtype)):.3g} apart there: "
            f"subtract an offset in `of` and from the edges, take wider bins, or use float64."
        )


def _line(edges: np.ndarray, shares: np.ndarray) -> HistogramResult:
    """The result from each member's shares below, in the bins and above, (members, bins + 2)."""
    everything = bounded(Estimate.from_samples(shares))
    inside = everything[1:-1]
    cumulative = bounded(Estimate.from_samples(np.cumsum(shares, axis=1)[:, :-1]))
    density = _per_unit(inside, np.diff(edges))
    return HistogramResult(edges, density, inside, everything[0], everything[-1], cumulative)


def _per_unit(probability: Estimate, size: np.ndarray) -> Estimate:
    value, error = probability.value / size, probability.standard_error / size
    return Estimate(value, error, probability.num_samples)


def bounded(shares: Estimate) -> Estimate:
    """Probabilities of exactly 0 or 1 get the error of one member, 1/n."""
    if shares.num_samples < 2:
        return shares
    settled = (shares.value == 0) | (shares.value == 1)
    error = np.where(settled, 1 / shares.num_samples, shares.standard_error)
    return Estimate(shares.value, error, shares.num_samples)
