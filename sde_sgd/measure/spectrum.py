"""Levels of a weight matrix while it is trained: their means, gaps and gap ratios."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sde_sgd._checks import check_callable, check_choice, in_brief, real_output
from sde_sgd._user_functions import naming
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    add_compensated,
    check_schedule,
    due,
    evaluate,
    MeasureResult,
    shape_at_theta,
    Tick,
)
from sde_sgd.measure.histogram import bins, bounded, check_resolved
from sde_sgd.types import Alive, Positions, Vector

_EXAMPLE = "lambda theta: theta.reshape(2, 2)"
_KINDS = ("eigenvalues", "singular_values", "gram")


def weight_matrix(landscape: Any, where: Callable) -> Callable[[Vector], Array]:
    """θ ↦ where(landscape.model(θ)), a weight matrix of an Equinox model.

    **Arguments:** `landscape`, one with `.model(θ)` such as `EmpiricalRisk`; `where` picks the
    leaf, `lambda model: model.layers[0].weight`.

    **Raises:** `ValueError` for a landscape without a model, and for a leaf that is no matrix.
    """
    if not hasattr(landscape, "model") or not hasattr(landscape, "initial"):
        raise ValueError(
            f"weight_matrix needs a landscape of an Equinox model, such as EmpiricalRisk; "
            f"{type(landscape).__name__} has none. Pass a function θ -> (m, n) instead."
        )
    example = "lambda model: model.layers[0].weight"
    check_callable("weight_matrix: where", where, example)
    with naming("weight_matrix: where"):
        found = where(landscape.model(landscape.initial))
    if not isinstance(found, jax.Array | np.ndarray):
        raise ValueError(
            f"weight_matrix: `where` must pick an array of the model, such as {example}; it picked "
            f"{in_brief(found)}."
        )
    if found.ndim != 2:
        raise ValueError(
            f"weight_matrix: `where` picked an array of shape {jnp.shape(found)}, and only a "
            f"matrix has levels. Pick a weight, or reshape it: lambda m: m.weight.reshape(n, -1)."
        )
    return lambda theta: where(landscape.model(theta))


class Levels(eqx.Module):
    """θ ↦ the levels of a matrix in increasing order, for `of=` of any measure.

    **Arguments:** `matrix`, θ (d,) ↦ (m, n); `kind`:

    - "eigenvalues" of a square, symmetric M. An M that differs from its transpose by more than
      rounding (10⁻³ of its largest entry) has NaN for levels: its eigenvalues need not be real;
    - "singular_values", min(m, n) of them;
    - "gram": eigenvalues of MᵀM, or of MMᵀ where that is smaller: squared singular values.
    """

    matrix: Callable
    kind: str = eqx.field(static=True, default="eigenvalues")

    def __check_init__(self):
        check_callable("Levels: matrix", self.matrix, _EXAMPLE)
        check_choice("kind", self.kind, _KINDS)

    def __call__(self, theta: Vector) -> Float[Array, " levels"]:
        matrix = jnp.asarray(self.matrix(theta))
        if self.kind == "singular_values":
            return jnp.linalg.svd(matrix, compute_uv=False)[::-1]
        matrix = real_output("matrix(θ)", matrix)
        if self.kind == "gram":
            wide = matrix.shape[0] < matrix.shape[1]
            return _symmetric_levels(matrix @ matrix.T if wide else matrix.T @ matrix)
        skew, size = jnp.max(jnp.abs(matrix - matrix.T)), jnp.max(jnp.abs(matrix))
        levels = _symmetric_levels((matrix + matrix.T) / 2)
        return jnp.where(skew > 1e-3 * size, jnp.nan, levels)

    def check(self, landscape: Any) -> tuple[int, int]:
        """Shape of the matrix on a landscape, or `ValueError` where it has no levels."""
        shape = shape_at_theta("Levels: matrix", self.matrix, landscape).shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"Levels belong to a matrix; matrix(θ) has shape {shape}. Reshape θ to (m, n), or "
                f"pick a weight of the model with weight_matrix."
            )
        if self.kind == "eigenvalues" and shape[0] != shape[1]:
            raise ValueError(
                f"A matrix of shape {shape} has no eigenvalues: take kind='singular_values' or "
                f"kind='gram'."
            )
        return shape


def _symmetric_levels(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Eigenvalues in increasing order; for n ≤ 2 in closed form, which is much faster."""
    if matrix.shape[0] == 1:
        return matrix[0]
    if matrix.shape[0] == 2:
        middle = (matrix[0, 0] + matrix[1, 1]) / 2
        half = jnp.hypot((matrix[0, 0] - matrix[1, 1]) / 2, matrix[0, 1])
        return jnp.stack([middle - half, middle + half])
    return jnp.linalg.eigvalsh(matrix)


class SpectrumCarry(eqx.Module):
    """Counted values (members,), the levels at the start, sums with Kahan's compensation, counts.

    `sums` holds, one after the other, the levels less those at the start and their squares, gaps,
    their squares, and the gap ratio: (members, 4n − 1).
    """

    count: Array
    shift: Array
    sums: Array
    compensation: Array
    histogram: Array


class SpectrumResult(MeasureResult):
    """What `Spectrum` measured over counted iterations of the members alive.

    Errors come from the spread between members.

    - `levels`: Estimate (n,) of the mean of each level, by increasing size; `level_variance` (n,),
      of each level over members and time, unbiased as that of `Moments`.
    - `spacing`: (n−1,) mean gaps; `mean_square_spacing`; `spacing_ratio`: ⟨s²⟩/⟨s⟩², 4/π for
      Wigner's law and 2 for independent levels.
    - `gap_ratio`: mean over neighbouring gaps of min/max, NaN for fewer than three levels.
    - `unfolded_edges` (n−1, bins+1), in units of the measured mean of each gap, and `probability`
      (n−1, bins) of an unfolded spacing to lie in each bin; None without `edges`. The bins' own
      relative error, `spacing.standard_error/spacing.value`, is not part of the probability's.
    """

    levels: Estimate
    level_variance: Estimate
    spacing: Estimate
    mean_square_spacing: Estimate
    spacing_ratio: Estimate
    gap_ratio: Estimate
    unfolded_edges: np.ndarray | None
    probability: Estimate | None

    @property
    def density(self) -> Estimate | None:
        """Law of the unfolded spacings per unit of s/⟨s⟩, (n−1, bins)."""
        if self.unfolded_edges is None or self.probability is None:
            return None
        width, mass = np.diff(self.unfolded_edges, axis=1), self.probability
        return Estimate(mass.value / width, mass.standard_error / width, mass.num_samples)


class Spectrum(AbstractMeasure):
    """Follows the levels x_1 ≤ … ≤ x_n of a matrix M(θ), their gaps and their gap ratios.

    `Moments(of=Levels(...))` measures functions of the levels one by one, `Snapshots` records
    them; this adds what belongs to neighbours. Memory: 4·bins bytes a gap and member.

    **Arguments:**

    - `matrix`: θ ↦ (m, n); `weight_matrix(landscape, where)` for a leaf of an Equinox model.
    - `kind`: "eigenvalues", "singular_values" or "gram" (`Levels`).
    - `edges`: bins of the gaps, in units of the matrix, fine enough to be rescaled; they are
      returned in units of the mean gap. None: no histogram.
    - `burn_in`, `every` as in `Moments`.

    **Raises:** `ValueError` for vectors, a matrix of one level, eigenvalues of a matrix that is not
    square or, at the start of the run, not symmetric.
    """

    levels: Levels
    edges: Float[Array, " edges"] | None
    burn_in: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __init__(
        self,
        matrix: Callable,
        kind: str = "eigenvalues",
        edges: Sequence[float] | np.ndarray | None = None,
        burn_in: int = 0,
        every: int = 1,
    ):
        self.levels = Levels(matrix, kind)
        self.edges = None if edges is None else bins("Spectrum", edges)
        if self.edges is not None and float(self.edges[0]) < 0:
            raise ValueError(
                f"Spectrum: gaps are ≥ 0, and so must edges be; got {in_brief(edges)}."
            )
        self.burn_in, self.every = burn_in, every

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Spectrum", self.burn_in, self.every, num_steps)
        shape = self.levels.check(process.landscape)
        if self.edges is not None:
            check_resolved("Spectrum", self.edges, process.landscape.dtype)
        if min(shape) < 2:
            raise ValueError(
                f"A matrix of shape {shape} has one level, and no gap: take Moments(of=Levels(...))"
            )

    def check_start(self, theta: Positions) -> None:
        if self.levels.kind != "eigenvalues":
            return
        matrix = np.asarray(evaluate(self.levels.matrix, theta))
        skew = np.abs(matrix - matrix.swapaxes(1, 2)).max()
        if skew > 1e-5 * max(np.abs(matrix).max(), 1e-300):
            raise ValueError(
                f"Spectrum: the matrix differs from its transpose by {skew:g} at the start, so its "
                f"eigenvalues need not be real: take kind='singular_values' or kind='gram'."
            )

    def init(self, theta: Positions) -> SpectrumCarry:
        levels = evaluate(self.levels, theta)
        members, num = levels.shape
        sums = jnp.zeros((members, 4 * num - 1), levels.dtype)
        bins = 0 if self.edges is None else self.edges.shape[0] + 1
        histogram = jnp.zeros((members, num - 1, bins), jnp.int32)
        return SpectrumCarry(jnp.zeros(members, jnp.int32), levels, sums, sums, histogram)

    def update(
        self, carry: SpectrumCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> SpectrumCarry:
        def add() -> SpectrumCarry:
            levels = evaluate(self.levels, after)
            moved, gaps = levels - carry.shift, jnp.diff(levels, axis=1)
            ratio, histogram = jnp.zeros_like(levels[:, :1]), carry.histogram
            if gaps.shape[1] > 1:
                near = jnp.minimum(gaps[:, 1:], gaps[:, :-1])
                far = jnp.maximum(gaps[:, 1:], gaps[:, :-1])
                quotient = jnp.where(far > 0, near / jnp.where(far > 0, far, 1), 1)
                ratio = quotient.mean(axis=1, keepdims=True)
            if self.edges is not None:
                place = jnp.searchsorted(self.edges, gaps.astype(self.edges.dtype), side="right")
                row, column = jnp.indices(gaps.shape)
                histogram = histogram.at[row, column, place].add(1)
            value = jnp.concatenate([moved, moved**2, gaps, gaps**2, ratio], axis=1)
            sums, compensation = add_compensated(carry.sums, carry.compensation, value)
            return SpectrumCarry(carry.count + 1, carry.shift, sums, compensation, histogram)

        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry: SpectrumCarry) -> None:
        return None

    def restart(self, carry: SpectrumCarry, restarted: Alive) -> SpectrumCarry:
        return carry

    def result(self, carry: SpectrumCarry, alive: np.ndarray, process: Any) -> SpectrumResult:
        kept = alive & (np.asarray(carry.count) > 0)
        count = np.asarray(carry.count, dtype=float)[kept][:, None]

        shift = np.asarray(carry.shift, dtype=float)[kept]
        num = shift.shape[1]
        parts = np.cumsum([num, num, num - 1, num - 1])
        means = np.asarray(carry.sums, dtype=float)[kept] / count
        offset, moved, gaps, squares, ratios = np.split(means, parts, axis=1)
        levels = Estimate.from_samples(shift + offset)
        spread = shift + offset - levels.value
        variance = Estimate.of_variance(moved - offset**2, spread**2)
        spacing, square = Estimate.from_samples(gaps), Estimate.from_samples(squares)
        # ⟨s²⟩/⟨s⟩², linearised in both means member by member.
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = square.value / spacing.value**2
            slope = (squares - quotient * gaps * (2 * spacing.value)) / spacing.value**2
        shape = Estimate.from_samples(slope)
        gap_ratio = Estimate.from_samples(ratios[:, 0])
        if gaps.shape[1] < 2:
            gap_ratio = Estimate(np.array(np.nan), np.array(np.inf), 0)
        edges, probability = None, None
        if self.edges is not None:
            shares = np.asarray(carry.histogram, dtype=float)[kept] / count[:, :, None]
            # A gap that is NaN was sorted behind all edges.
            shares[np.isnan(gaps)] = np.nan
            probability = bounded(Estimate.from_samples(shares[:, :, 1:-1]))
            edges = np.asarray(self.edges, dtype=float) / spacing.value[:, None]
        return SpectrumResult(
            levels,
            variance,
            spacing,
            square,
            Estimate(quotient, shape.standard_error, shape.num_samples),
            gap_ratio,
            edges,
            probability,
        )
