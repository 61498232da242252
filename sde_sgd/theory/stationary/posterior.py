"""The law e^{−L/T}: exactly on a quadratic loss, in a few dimensions by quadrature."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number, in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.gradient_flow import Ending, follow_all
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory import _arguments
from sde_sgd.theory.laws.gaussian import Gaussian
from sde_sgd.types import RealLike

_REACH = 8.0
# Of the rounding of L, in units of T.
_LARGEST_ROUNDING = 1e-3
_MOST_NODES = 2_000_000


class MeanAndCovariance(NamedTuple):
    """The first two moments of a law whose shape they do not determine: it need not be normal."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def posterior(landscape: AbstractLandscape, *, temperature: RealLike) -> Gaussian:
    """The law e^{−L/T} of a quadratic loss: N(θ*, T H⁻¹), exactly.

    On least squares T = σ²/N is the posterior of label noise of variance σ² and the prior
    N(0, σ²/(Nλ) I). Other losses in a few dimensions: `posterior_by_quadrature`.

    **Arguments:** `landscape` whose loss is quadratic; `temperature` T > 0.

    **Raises:** `ValueError` for another landscape, and for directions that nothing holds.
    """
    _arguments.landscape(landscape)
    minimum = minimum_of(landscape, "posterior", "posterior_by_quadrature, for d ≤ 3")
    scale = check_number("temperature", temperature, above=0)
    hessian = np.asarray(compiled.hessian(landscape, jnp.asarray(minimum)), np.float64)
    refuse_flat(landscape, hessian)
    return Gaussian(minimum, scale * np.linalg.inv(hessian))


def posterior_by_quadrature(
    landscape: AbstractLandscape,
    *,
    temperature: RealLike,
    start: ArrayLike | None = None,
    tolerance: RealLike = 1e-9,
) -> MeanAndCovariance:
    """Mean and covariance of the law e^{−L(θ)/T} in one to three dimensions.

    The trapezoidal rule in coordinates that make ∇²L/T the identity at the mode, over a box of ± 8,
    then 16, … of them, with the spacing halved until both moments stand still. For
    negative log-likelihoods of N examples, T = 1/N is the posterior.

    **Arguments:** `landscape`; `temperature` T > 0; `start` (d,), from where the mode is sought,
    0 if not given; `tolerance` of the moments, relative to the covariance's diagonal, and not
    below ten times the rounding of L/T (1e-9 is out of reach in float32).

    **Raises:** `ValueError` for d > 3, a temperature of the size of the rounding of L, a mode
    without positive curvature, an integral that does not converge (no prior, separate modes).
    """
    _arguments.landscape(landscape)
    dim = landscape.dimension
    if dim > 3:
        raise ValueError(
            f"posterior_by_quadrature integrates over 1 to 3 parameters, the landscape has d={dim}."
        )
    bath = check_number("temperature", temperature, above=0)
    accuracy = check_number("tolerance", tolerance, above=0, below=1)
    guess = np.zeros(dim) if start is None else _arguments.vector("start", start, dim)
    mode, root = _mode(landscape, guess, bath)
    unsure = compiled.loss_rounding(landscape, mode + np.concatenate([root.T, -root.T])) / bath
    if unsure > _LARGEST_ROUNDING:
        raise ValueError(
            f"temperature={bath:g} is too low for losses in {landscape.dtype}: their rounding is "
            f"{unsure:.2g} of it. Enable JAX's 64-bit numbers, or raise it."
        )
    accuracy = max(accuracy, 10 * unsure)
    lowest = _losses(landscape, mode[None])[0]

    def moments(reach: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        axis = np.linspace(-reach, reach, count + 1)
        nodes = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
        weight = np.exp((lowest - _losses(landscape, mode + nodes @ root.T)) / bath)
        weight /= weight.sum()
        mean = weight @ nodes
        return mean, np.einsum("n,ni,nj->ij", weight, nodes - mean, nodes - mean)

    def differ(one, other) -> float:
        return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))

    reach, count = _REACH, 32
    before = moments(reach, count)
    while (4 * count + 1) ** dim <= _MOST_NODES:
        count *= 2
        now, wider = moments(reach, count), moments(2 * reach, 2 * count)
        if differ(wider, now) > accuracy:
            reach, before = 2 * reach, wider
            count *= 2
            continue
        if differ(now, before) <= accuracy:
            mean, spread = wider
            return MeanAndCovariance(mode + root @ mean, root @ spread @ root.T)
        before = now
    raise ValueError(
        f"The moments of e^(−L/T) still move at {count} nodes an axis over ±{reach:g} standard "
        f"deviations: raise tolerance, add l2, or look at the landscape for separate modes."
    )


def _mode(landscape: AbstractLandscape, guess: np.ndarray, bath: float):
    """The minimum to which the gradient flow leads, and a root of T (∇²L)⁻¹ there."""
    end = follow_all(landscape, guess[None])
    ending, mode = Ending(end.ending[0]), end.theta[0]
    if ending != Ending.MINIMUM:
        raise ValueError(
            f"There is no mode below start={in_brief(guess)}: the gradient flow {ending.reason}."
        )
    hessian = compiled.hessian(landscape, jnp.asarray(mode, landscape.dtype))
    values, vectors = np.linalg.eigh(np.asarray(hessian, np.float64))
    if values[0] <= 1e-10 * abs(values[-1]):
        raise ValueError(
            f"The mode found from start={in_brief(guess)} has a Hessian eigenvalue "
            f"{values[0]:.3g}: there is no proper posterior around it. Add l2, or start elsewhere."
        )
    return mode, vectors * np.sqrt(bath / values)


def _losses(landscape: AbstractLandscape, theta: np.ndarray) -> np.ndarray:
    # In pieces: a grid of nodes times N examples would not fit.
    pieces = np.array_split(theta, max(1, len(theta) // 65536))
    points = [jnp.asarray(piece, landscape.dtype) for piece in pieces]
    return np.concatenate(
        [np.asarray(compiled.losses(landscape, piece), float) for piece in points]
    )


def minimum_of(landscape: AbstractLandscape, name: str, instead: str) -> np.ndarray:
    """The minimum of a quadratic loss, or `NotKnown` with what to take `instead`."""
    minimum = landscape.rest()
    if minimum is None:
        raise NotKnown(
            f"{name} needs a quadratic loss (LeastSquares, quadratic), not "
            f"{type(landscape).__name__}; known there: {instead}."
        )
    return minimum


def refuse_flat(landscape: AbstractLandscape, hessian: np.ndarray) -> None:
    """Raises `ValueError` for directions without curvature."""
    values = np.linalg.eigvalsh(hessian)
    flat = values <= len(values) * float(jnp.finfo(landscape.dtype).eps) * np.abs(values).max()
    if flat.any():
        raise ValueError(
            f"{int(flat.sum())} of {len(flat)} directions have no curvature: there is no "
            f"stationary law. Use l2 > 0, or project the inputs onto their span."
        )
