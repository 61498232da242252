"""Exit times and committors of SGD with its real minibatches, in one dimension, by collocation.

x ← x − η ĝ_b(x), b drawn with probability p_b. The mean number of steps solves the kernel equation
τ(x) = 1 + Σ_b p_b τ(x − η ĝ_b(x)) inside and τ = 0 outside: atoms instead of a density. τ is
interpolated by cubics on a uniform grid. (A straight line between nodes would act as a diffusion of
its own: at 1 000 cells it costs 6e-4 of the time where cubics cost 1e-6.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.sparse.linalg import splu

from sde_sgd._checks import check_number, check_whole, in_brief
from sde_sgd.theory import _panels
from sde_sgd.theory.escape.exit_times import between, Exits, interval
from sde_sgd.theory.laws.gradient_laws import AbstractGradientLaw, BatchGradients
from sde_sgd.types import RealLike

_LARGEST_ERROR = 0.01
_MOST_GROWTH = 1e3
_MOST_CELLS = 1_000_000
_MOST_SWEEPS = 50_000
# Compiled once for each law, not once for each call.
_VALUES = eqx.filter_jit(lambda law, x: jax.vmap(law.gradients)(x).T)


class BatchExitTime(NamedTuple):
    """Law of the exit time in t = η·steps, from each start; infinite if no batches lead outside.

    **Fields:** `mean`, `variance`, and `error`, by how much the mean moved when the grid was
    made twice as fine, all with the shape of `start`.
    """

    mean: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]
    error: Float[np.ndarray, "..."]

    @property
    def rate(self) -> Float[np.ndarray, "..."]:
        return np.asarray(1 / self.mean)


def batch_exit_time(
    law: AbstractGradientLaw,
    *,
    learning_rate: RealLike,
    start: ArrayLike | RealLike,
    exits: Exits,
    cells: int = 1000,
) -> BatchExitTime:
    """Exit time of SGD with the batches of `law`, in t: divide by η for iterations.

    **Arguments:**

    - `law`: `BatchGradients.of(landscape, sampling)`, or any other.
    - `learning_rate`: η.
    - `start`, `exits`: as `mean_exit_time`.
    - `cells`: of the coarser of the two grids.

    **Returns:** `BatchExitTime`. If no sequence of batches leads out (|noise| below max |V'|), the
    mean is infinite: that is the answer for SGD, whatever the SDE says.

    **Raises:** `ValueError` for a start that is outside, a learning rate at which some batches
    drive the chain to infinity, a grid error above 1 %.
    """
    points, lower, upper = interval(start, exits)
    cells = check_whole("cells", cells, 3, _MOST_CELLS)
    eta = check_number("learning_rate", learning_rate, above=0)
    gradients, probabilities = _transposed(law)
    region = _reach(gradients, eta, points, lower, upper)
    shape = np.shape(start)
    if not (region.exit_low or region.exit_high):
        never = np.full(shape, np.inf)
        return BatchExitTime(never, never.copy(), np.zeros(shape))
    coarse, _ = _Collocation(gradients, probabilities, eta, region, cells).moments(points)
    mean, second = _Collocation(gradients, probabilities, eta, region, 2 * cells).moments(points)
    error = np.abs(mean - coarse)
    _check_error(error, mean, cells)
    variance = second - mean**2
    return BatchExitTime(
        (eta * mean).reshape(shape),
        (eta * (eta * variance)).reshape(shape),
        (eta * error).reshape(shape),
    )


def batch_committor(
    law: AbstractGradientLaw,
    *,
    learning_rate: RealLike,
    start: ArrayLike | RealLike,
    lower: RealLike,
    upper: RealLike,
    cells: int = 1000,
) -> Float[np.ndarray, "..."]:
    """Probability that SGD steps to `upper` or beyond before `lower`; as `batch_exit_time`.

    **Raises:** `ValueError` likewise, and where neither end is ever reached.
    """
    points, low, high = between(start, lower, upper)
    cells = check_whole("cells", cells, 3, _MOST_CELLS)
    eta = check_number("learning_rate", learning_rate, above=0)
    gradients, probabilities = _transposed(law)
    region = _reach(gradients, eta, points, low, high)
    if not (region.exit_low or region.exit_high):
        raise ValueError(
            f"No sequence of batches leads from start={in_brief(start)} to lower={low:g} or "
            f"upper={high:g}: there is no committor. Raise the learning_rate or move the ends."
        )
    coarse = _Collocation(gradients, probabilities, eta, region, cells).reaches_upper(points)
    fine = _Collocation(gradients, probabilities, eta, region, 2 * cells).reaches_upper(points)
    _check_error(np.abs(fine - coarse), fine, cells)
    return fine.reshape(np.shape(start))


def _transposed(
    law: AbstractGradientLaw,
) -> tuple[Callable[[np.ndarray], np.ndarray], Float[np.ndarray, " batches"]]:
    """ĝ_b at points (n,), (batches, n), and p_b."""
    if not isinstance(law, BatchGradients):
        raise ValueError(
            f"law must be BatchGradients, got {in_brief(law)}; for Gaussian gradients use "
            f"mean_exit_time(..., time_step=learning_rate)."
        )
    values = _panels.padded(lambda x: _VALUES(law, jnp.asarray(x)[:, None]))

    def gradients(x: np.ndarray) -> np.ndarray:
        found = values(x)
        if found.shape != (len(law.probabilities), len(x)):
            raise ValueError(
                f"gradients must give one value for each of the {len(law.probabilities)} "
                f"probabilities; got shape {found.shape[:-1]}."
            )
        if not np.isfinite(found).all():
            raise ValueError(f"gradients are not finite between x={x.min():g} and {x.max():g}.")
        return found

    return gradients, law.probabilities


class _Region(NamedTuple):
    """What the chain can reach, and which of its ends are exits that some batches cross."""

    low: float
    high: float
    exit_low: bool
    exit_high: bool


class _Collocation:
    """I − P on a uniform grid of a region, factored."""

    def __init__(
        self,
        gradients: Callable[[np.ndarray], np.ndarray],
        probabilities: np.ndarray,
        eta: float,
        region: _Region,
        cells: int,
    ):
        self.gradients, self.probabilities = gradients, probabilities
        self.eta, self.region = eta, region
        self.nodes = np.linspace(region.low, region.high, cells + 1)
        inside, self.above = self.transitions(self.nodes)
        self.factors = splu(sparse.csc_matrix(sparse.identity(cells + 1) - inside))

    def transitions(self, points: np.ndarray) -> tuple[Any, np.ndarray]:
        """Interpolation weights of the next step (S, n), and the probability to jump above."""
        region, gap = self.region, self.nodes[1] - self.nodes[0]
        after = points - self.eta * self.gradients(points)
        gone_below = (after <= region.low) & region.exit_low
        gone_above = (after >= region.high) & region.exit_high
        inside = ~gone_below & ~gone_above
        batch, place = np.nonzero(inside)
        scaled = (np.clip(after[inside], region.low, region.high) - region.low) / gap
        first = np.clip(np.floor(scaled).astype(int) - 1, 0, len(self.nodes) - 4)
        weights = _cubic(scaled - first) * self.probabilities[batch]
        columns = first + np.arange(4)[:, None]
        matrix = sparse.csr_matrix(
            (weights.ravel(), (np.tile(place, 4), columns.ravel())),
            shape=(len(points), len(self.nodes)),
        )
        return matrix, self.probabilities @ gone_above

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


def _reach(gradients, eta, points, lower, upper) -> _Region:
    """The smallest interval that holds the starts and that no batch leaves but by an exit."""
    ends = [end for end in (lower, upper) if end is not None]
    low, high = points.min(), points.max()
    scale = np.abs(np.subtract.outer(ends, points)).max()
    floor = -np.inf if lower is None else lower
    ceiling = np.inf if upper is None else upper
    for _ in range(_MOST_SWEEPS):
        grid = np.linspace(low, high, 257)
        after = grid - eta * gradients(grid)
        new_low, new_high = min(low, after.min()), max(high, after.max())
        new_low, new_high = max(new_low, floor), min(new_high, ceiling)
        if new_high - new_low > _MOST_GROWTH * scale:
            raise ValueError(
                f"At learning_rate={eta:g} a run of extreme batches drives the chain to infinity "
                f"(it passes x={new_low if -new_low > new_high else new_high:.3g}). Lower the "
                f"learning rate, or give exits=(lower, upper)."
            )
        if max(low - new_low, new_high - high) <= 1e-10 * scale:
            return _Region(float(new_low), float(new_high), new_low == floor, new_high == ceiling)
        low, high = new_low, new_high
    raise ValueError(
        f"What the chain can reach still grows after {_MOST_SWEEPS} steps: learning_rate={eta:g} "
        f"is too small for this exact method; take the SDE's mean_exit_time."
    )


def _check_error(error: np.ndarray, value: np.ndarray, cells: int) -> None:
    relative = np.max(error / np.abs(value))
    if not relative < _LARGEST_ERROR:
        raise ValueError(
            f"Between {cells} and {2 * cells} cells the answer {float(value.ravel()[0]):.4g} still "
            f"moves by {relative:.2g} of itself: raise cells. Beyond about 1e13 steps rounding "
            f"drowns it; take the exponent (quasi_potential)."
        )
