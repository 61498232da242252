"""Stationary points with their index, and the Eyring–Kramers time over a saddle."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_number, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.geometry.critical_points import stationary_point, StationaryPoint
from sde_sgd.landscapes.gradient_flow import Ending, follow_all
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

# Relative spread of the eigenvalues of D, and of D between points, that passes as isotropic.
_SAME = 1e-6


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
