"""Stationary points with their index, and the Eyring–Kramers time over a saddle."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import root

from sde_sgd._checks import as_float64, check_number, check_whole, in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.gradient_flow import Ending, follow_all
from sde_sgd.landscapes.modes import flat_directions, refuse_many_dimensions
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

# Relative spread of the eigenvalues of D, and of D between points, that passes as isotropic.
_SAME = 1e-6


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


class EyringKramers(NamedTuple):
    """Mean transition time over a saddle and what it is made of.

    **Fields:** `time`, in t, to the *other well* (to the saddle it is half); `barrier` ΔV;
    `prefactor`, (2π/|λ₋|)√(|det H_s|/det H_m), in t; `exponent` ΔV/D; the two points.
    """

    time: float
    barrier: float
    prefactor: float
    exponent: float
    minimum: StationaryPoint
    saddle: StationaryPoint

    @property
    def rate(self) -> float:
        return 1 / self.time


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
    _arguments.landscape(landscape)
    refuse_many_dimensions("stationary_point", landscape.dimension)
    guess = _arguments.vector("start", start, landscape.dimension)
    index = None if index is None else check_whole("index", index, 0, landscape.dimension)
    reach = np.inf if within is None else check_number("within", within, above=0)
    gradient, hessian = _numpy(compiled.gradient, landscape), _numpy(compiled.hessian, landscape)
    precision = float(jnp.finfo(landscape.dtype).eps)
    solution: Any = root(gradient, guess, jac=hessian, method="hybr", tol=10 * precision)
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


def eyring_kramers(
    landscape: AbstractLandscape,
    diffusion: RealLike | ArrayLike | AbstractGradientNoise,
    *,
    minimum: ArrayLike,
    saddle: ArrayLike,
    learning_rate: RealLike | None = None,
) -> EyringKramers:
    """(2π/|λ₋|) √(|det H_s|/det H_m) e^{ΔV/D}: the leading order as D → 0, in units of t.

    The mean time from the minimum to the other side of the saddle, when that is the only way out.
    It is off by a factor 1 + O(D) (10 % in the double well at ΔV/D = 5), and holds for one
    constant isotropic D only: other noise moves the exponent itself (see `quasi_potential`).

    **Arguments:**

    - `landscape`: V, in d dimensions.
    - `diffusion`: D > 0; or a (d, d) matrix, or a noise model together with `learning_rate`,
      D = ηC/2: these are accepted if they prove to be D·I, the same at both points and between.
    - `minimum`, `saddle`: (d,), guesses, refined by `stationary_point`. A guess that moves by
      more than half the distance between the two is refused.

    **Raises:** `ValueError` for an anisotropic or position-dependent D, a point of the wrong
    index, a search that ends elsewhere, a saddle below the minimum, and a saddle from which
    neither way down ends in this minimum.

    **Source:** Eyring 1935, Kramers 1940; Bovier, Eckhoff, Gayrard, Klein 2004.
    """
    _arguments.landscape(landscape)
    first = _arguments.vector("minimum", minimum, landscape.dimension)
    second = _arguments.vector("saddle", saddle, landscape.dimension)
    half = float(np.linalg.norm(first - second)) / 2
    if half == 0:
        raise ValueError(f"minimum and saddle are the same guess {in_brief(first)}.")
    low = stationary_point(landscape, first, index=0, within=half)
    high = stationary_point(landscape, second, index=1, within=half)
    if high.loss <= low.loss:
        raise ValueError(f"The saddle (L={high.loss:g}) lies below the minimum (L={low.loss:g}).")
    d = _isotropic(landscape, diffusion, learning_rate, low.theta, high.theta)
    _check_connected(landscape, low, high)
    barrier = high.loss - low.loss
    log_ratio = np.log(np.abs(high.eigenvalues)).sum() - np.log(low.eigenvalues).sum()
    prefactor = float(2 * np.pi / -high.eigenvalues[0] * np.exp(log_ratio / 2))
    exponent = barrier / d
    return EyringKramers(
        float(prefactor * np.exp(exponent)), barrier, prefactor, exponent, low, high
    )


_COVARIANCE = eqx.filter_jit(lambda landscape, theta, noise: noise.covariance(theta, landscape))


def _numpy(function: Callable, landscape: AbstractLandscape, *args):
    """A function of (landscape, θ, ...) as one of a numpy θ."""
    return lambda theta: np.asarray(
        function(landscape, jnp.asarray(theta, landscape.dtype), *args), np.float64
    )


def _isotropic(landscape, diffusion, learning_rate, low, high) -> float:
    """D from a number, a matrix or a noise model; refuses everything that is not D·I."""
    if isinstance(diffusion, AbstractGradientNoise):
        if learning_rate is None:
            raise ValueError("With a noise model, learning_rate is needed: D = ηC/2.")
        eta = check_number("learning_rate", learning_rate, above=0)
        diffusion.check(landscape)
        covariance = _numpy(_COVARIANCE, landscape, diffusion)
        along = [low + s * (high - low) for s in np.linspace(0, 1, 5)]
        tensors = [eta / 2 * covariance(theta) for theta in along]
    elif learning_rate is not None:
        raise ValueError(
            f"learning_rate={learning_rate} goes with a noise model; diffusion="
            f"{in_brief(diffusion)} is "
            f"already D = ηC/2."
        )
    else:
        value = as_float64("diffusion", diffusion)
        tensors = [value * np.eye(len(low)) if value.ndim == 0 else value]
        along = [low]
        if tensors[0].shape != (len(low), len(low)):
            raise ValueError(
                f"diffusion must be a number or ({len(low)}, {len(low)}), got {value.shape}."
            )
    d = float(np.trace(tensors[0])) / len(low)
    if not np.isfinite(d) or d <= 0:
        raise ValueError(f"diffusion must be positive, got D={in_brief(d)}.")
    for theta, tensor in zip(along, tensors, strict=True):
        off = np.abs(tensor - d * np.eye(len(low))).max()
        if off > _SAME * d:
            raise ValueError(
                f"Eyring–Kramers needs one constant isotropic D: at θ={in_brief(theta)} D differs "
                f"from {d:.4g}·I by {off:.3g}. For other noise use quasi_potential or "
                f"mean_exit_time (d = 1), mean_exit_time_on_grid (d = 2), or splitting."
            )
    return d


def _check_connected(landscape, low: StationaryPoint, high: StationaryPoint) -> None:
    """One of the two ways down from the saddle must end in the minimum."""
    unstable = np.linalg.eigh(high.hessian)[1][:, 0]
    distance = float(np.linalg.norm(high.theta - low.theta))
    begin = high.theta + 1e-3 * distance * np.stack([unstable, -unstable])
    ends = follow_all(landscape, begin)
    if (np.linalg.norm(ends.theta - low.theta, axis=1) <= 1e-3 * distance).any():
        return
    ways = [
        f"{in_brief(end)}, where it {Ending(ending).reason}"
        for end, ending in zip(ends.theta, ends.ending, strict=True)
    ]
    raise ValueError(
        f"The saddle {in_brief(high.theta)} does not bound the well of {in_brief(low.theta)}: its "
        f"two ways down end at {ways[0]}, and at {ways[1]}. Choose the saddle on the way out of it."
    )
