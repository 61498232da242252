"""Exit times and committors of SGD with its real minibatches, in one dimension, by collocation.

x ← x − η ĝ_b(x), b drawn with probability p_b. The mean number of steps solves the kernel equation
τ(x) = 1 + Σ_b p_b τ(x − η ĝ_b(x)) inside and τ = 0 outside: atoms instead of a density. τ is
interpolated by cubics on a uniform grid. (A straight line between nodes would act as a diffusion of
its own: at 1 000 cells it costs 6e-4 of the time where cubics cost 1e-6.)
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float
from scipy.sparse.linalg import splu

from sde_sgd.theory._step_laws import JumpStep

MOST_CELLS = 1_000_000
_LARGEST_ERROR = 0.01
_MOST_GROWTH = 1e3
_MOST_SWEEPS = 50_000


def exit_moments(
    step: JumpStep,
    points: Float[np.ndarray, " S"],
    lower: float | None,
    upper: float | None,
    cells: int,
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Mean and mean square of the number of steps, and by how much the finer grid moved the mean.

    Infinite where no sequence of batches leads out.
    """
    region = _reach(step, points, lower, upper)
    if not (region.exit_low or region.exit_high):
        never = np.full(points.shape, np.inf)
        return never, never, np.zeros(points.shape)
    coarse, _ = _Collocation(step, region, cells).moments(points)
    mean, second = _Collocation(step, region, 2 * cells).moments(points)
    error = np.abs(mean - coarse)
    _check_error(error, mean, cells)
    return mean, second, error


def reaches_upper(
    step: JumpStep, points: Float[np.ndarray, " S"], low: float, high: float, cells: int
) -> Float[np.ndarray, " S"]:
    """Probability to step to `high` or beyond before `low`."""
    region = _reach(step, points, low, high)
    if not (region.exit_low or region.exit_high):
        raise ValueError(
            f"No sequence of batches leads from start={points[0]:g} to lower={low:g} or "
            f"upper={high:g}: there is no committor. Raise the learning_rate or move the ends."
        )
    coarse = _Collocation(step, region, cells).reaches_upper(points)
    fine = _Collocation(step, region, 2 * cells).reaches_upper(points)
    _check_error(np.abs(fine - coarse), fine, cells)
    return fine


class _Region(NamedTuple):
    """What the chain can reach, and which of its ends are exits that some batches cross."""

    low: float
    high: float
    exit_low: bool
    exit_high: bool


class _Collocation:
    """I − P on a uniform grid of a region, factored."""

    def __init__(self, step: JumpStep, region: _Region, cells: int):
        self.step, self.region = step, region
        self.nodes = np.linspace(region.low, region.high, cells + 1)
        inside, self.above = self.transitions(self.nodes)
        self.factors = splu(sparse.csc_matrix(sparse.identity(cells + 1) - inside))

    def transitions(self, points: np.ndarray) -> tuple[Any, np.ndarray]:
        """Interpolation weights of the next step (S, n), and the probability to jump above."""
        region, gap = self.region, self.nodes[1] - self.nodes[0]
        after, chances = self.step.after(points).T, self.step.probabilities
        gone_below = (after <= region.low) & region.exit_low
        gone_above = (after >= region.high) & region.exit_high
        inside = ~gone_below & ~gone_above
        batch, place = np.nonzero(inside)
        scaled = (np.clip(after[inside], region.low, region.high) - region.low) / gap
        first = np.clip(np.floor(scaled).astype(int) - 1, 0, len(self.nodes) - 4)
        weights = _cubic(scaled - first) * chances[batch]
        columns = first + np.arange(4)[:, None]
        matrix = sparse.csr_matrix(
            (weights.ravel(), (np.tile(place, 4), columns.ravel())),
            shape=(len(points), len(self.nodes)),
        )
        return matrix, chances @ gone_above

    def moments(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and mean square of the number of steps from each point."""
        one = np.ones_like(self.nodes)
        mean = self.factors.solve(one)
        second = self.factors.solve(2 * mean - one)
        rows, _ = self.transitions(points)
        first = rows @ mean
        return 1 + first, 1 + 2 * first + rows @ second

    def reaches_upper(self, points: np.ndarray) -> np.ndarray:
        """Probability to leave through the upper end."""
        inside = self.factors.solve(self.above)
        rows, direct = self.transitions(points)
        return direct + rows @ inside


def _cubic(offset: np.ndarray) -> np.ndarray:
    """Lagrange weights of the nodes 0, 1, 2, 3 at `offset`, (4, n)."""
    rows = []
    for k in range(4):
        others = [j for j in range(4) if j != k]
        rows.append(np.prod([(offset - j) / (k - j) for j in others], axis=0))
    return np.stack(rows)


def _reach(step: JumpStep, points, lower, upper) -> _Region:
    """The smallest interval that holds the starts and that no batch leaves but by an exit."""
    ends = [end for end in (lower, upper) if end is not None]
    low, high = points.min(), points.max()
    scale = np.abs(np.subtract.outer(ends, points)).max()
    floor = -np.inf if lower is None else lower
    ceiling = np.inf if upper is None else upper
    for _ in range(_MOST_SWEEPS):
        grid = np.linspace(low, high, 257)
        after = step.after(grid)
        new_low, new_high = min(low, after.min()), max(high, after.max())
        new_low, new_high = max(new_low, floor), min(new_high, ceiling)
        if new_high - new_low > _MOST_GROWTH * scale:
            raise ValueError(
                f"At learning_rate={step.step:g} a run of extreme batches drives the chain to "
                f"infinity (it passes x={new_low if -new_low > new_high else new_high:.3g}). Lower "
                f"the learning rate, or give exits=(lower, upper)."
            )
        if max(low - new_low, new_high - high) <= 1e-10 * scale:
            return _Region(float(new_low), float(new_high), new_low == floor, new_high == ceiling)
        low, high = new_low, new_high
    raise ValueError(
        f"What the chain can reach still grows after {_MOST_SWEEPS} steps: "
        f"learning_rate={step.step:g} is too small for this exact method; take the mean_exit_time "
        f"of its SDE."
    )


def _check_error(error: np.ndarray, value: np.ndarray, cells: int) -> None:
    relative = np.max(error / np.abs(value))
    if not relative < _LARGEST_ERROR:
        raise ValueError(
            f"Between {cells} and {2 * cells} cells the answer {float(value.ravel()[0]):.4g} still "
            f"moves by {relative:.2g} of itself: raise cells. Beyond about 1e13 steps rounding "
            f"drowns it; take the exponent (quasi_potential)."
        )
