"""Stationary points of a landscape with their index, by Newton-like steps on a dense Hessian."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_landscape, check_number, check_point, check_whole, in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.modes import flat_directions, refuse_many_dimensions
from sde_sgd.types import RealLike


class StationaryPoint(NamedTuple):
    """Where ∇L = 0.

    **Fields:** `theta` (d,); `loss`; `hessian` (d, d); `eigenvalues` (d,), ascending; `index`, how
    many are negative: 0 for a minimum, 1 for the saddle between two wells.
    """

    theta: Float[np.ndarray, " d"]
    loss: float
    hessian: Float[np.ndarray, "d d"]
    eigenvalues: Float[np.ndarray, " d"]

    @property
    def index(self) -> int:
        return int(np.sum(self.eigenvalues < 0))


def stationary_point(
    landscape: AbstractLandscape,
    start: ArrayLike,
    *,
    index: int | None = None,
    within: RealLike | None = None,
) -> StationaryPoint:
    """The root of ∇L that Powell's hybrid method (MINPACK) reaches from `start`.

    It converges to minima, saddles and maxima alike, so that a saddle is found from a rough guess;
    what it found is then checked. It forms ∇²L, and takes seconds at d = 1 000, minutes at the
    largest d, 4 096; of a network the minimum is `landscape.minimise`.

    **Arguments:**

    - `landscape`: gives `gradient` and `hessian`; `start`: (d,).
    - `index`: the number of negative Hessian eigenvalues that is wanted (0 minimum, 1 saddle).
    - `within`: the largest distance from `start` that is accepted.

    **Raises:** `ValueError` when it does not converge, at a flat direction (an eigenvalue that is
    zero to rounding), for another index, beyond `within`, and for d > 4 096.
    """
    check_landscape(landscape, AbstractLandscape)
    refuse_many_dimensions("stationary_point", landscape.dimension)
    guess = np.asarray(check_point("start", start, landscape), np.float64)
    index = None if index is None else check_whole("index", index, 0, landscape.dimension)
    reach = np.inf if within is None else check_number("within", within, above=0)
    gradient, hessian = _numpy(compiled.gradient, landscape), _numpy(compiled.hessian, landscape)
    precision = float(jnp.finfo(landscape.dtype).eps)
    solution: Any = scipy.optimize.root(
        gradient, guess, jac=hessian, method="hybr", tol=10 * precision
    )
    theta = np.asarray(solution.x)
    hess = hessian(theta)
    hess = (hess + hess.T) / 2
    values = np.linalg.eigvalsh(hess)
    # Convergence is a Newton step of the size of rounding, or what rounding of ∇L makes of it in
    # a flat well, whatever MINPACK says of its progress.
    size = max(1.0, float(np.abs(theta).max()))
    flat = flat_directions(values, landscape.dtype)
    if flat:
        raise ValueError(
            f"From {in_brief(guess)} the search ends at {in_brief(theta)}, where {flat}."
        )
    slope = gradient(theta)
    step = np.linalg.norm(np.linalg.solve(hess, slope))
    rounding = 1e3 * precision * np.linalg.norm(np.abs(hess) @ np.abs(theta))
    if not (step <= 1e3 * precision * size or np.linalg.norm(slope) <= rounding):
        raise ValueError(
            f"No stationary point found from {in_brief(guess)}: the search ends at "
            f"{in_brief(theta)} with |gradient| = {np.linalg.norm(slope):.3g}. Start nearer to it."
        )
    moved = float(np.linalg.norm(theta - guess))
    found = int(np.sum(values < 0))
    if moved > reach:
        raise ValueError(
            f"The search from {in_brief(guess)} converged elsewhere, to {in_brief(theta)} of index "
            f"{found} at distance {moved:.3g}, more than within={reach:g}. Start nearer."
        )
    if index is not None and found != index:
        raise ValueError(
            f"The stationary point {in_brief(theta)} found from {in_brief(guess)} has index "
            f"{found} (eigenvalues {in_brief(values)}), not {index}: start nearer to the one you "
            f"want."
        )
    loss = float(compiled.loss(landscape, jnp.asarray(theta, landscape.dtype)))
    return StationaryPoint(theta, loss, hess, values)


def _numpy(function: Callable, landscape: AbstractLandscape, *args):
    """A function of (landscape, θ, ...) as one of a numpy θ."""
    return lambda theta: np.asarray(
        function(landscape, jnp.asarray(theta, landscape.dtype), *args), np.float64
    )
