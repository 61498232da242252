"""Stationary points with their index, and the Eyring–Kramers time over a saddle."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sde_sgd._checks import check_part, in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.geometry.critical_points import stationary_point, StationaryPoint
from sde_sgd.landscapes.gradient_flow import Ending, follow_all
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import NotKnown
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.theory import _arguments, _fields, _step_laws

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


def eyring_kramers(process: Any, minimum: ArrayLike, saddle: ArrayLike) -> EyringKramers:
    """(2π/|λ₋|) √(|det H_s|/det H_m) e^{ΔV/D}: the leading order as D → 0, in units of t.

    The mean time from the minimum to the other side of the saddle, when that is the only way out.
    It is off by a factor 1 + O(D) (10 % in the double well at ΔV/D = 5), and holds for one
    constant isotropic D only: other noise moves the exponent itself (see `quasi_potential`).

    **Arguments:**

    - `process`: the limit of a first-order `ModifiedEquation`, in d dimensions, whose D = ηC/2
      proves to be D·I, the same at both points and between.
    - `minimum`, `saddle`: (d,), guesses, refined by `stationary_point`. A guess that moves by
      more than half the distance between the two is refused.

    **Raises:** `NotKnown` for a process with steps of its own, or with another drift than −∇V;
    `ValueError` for an anisotropic or position-dependent D, a point of the wrong
    index, a search that ends elsewhere, a saddle below the minimum, and a saddle from which
    neither way down ends in this minimum.

    **Source:** Eyring 1935, Kramers 1940; Bovier, Eckhoff, Gayrard, Klein 2004.
    """
    check_part(
        "process", process, AbstractProcess, "a process such as ModifiedEquation(...).limit()"
    )
    law, landscape = _step_laws.equation(process, "Eyring–Kramers"), process.landscape
    first = _arguments.vector("minimum", minimum, landscape.dimension)
    second = _arguments.vector("saddle", saddle, landscape.dimension)
    half = float(np.linalg.norm(first - second)) / 2
    if half == 0:
        raise ValueError(f"minimum and saddle are the same guess {in_brief(first)}.")
    low = stationary_point(landscape, first, index=0, within=half)
    high = stationary_point(landscape, second, index=1, within=half)
    if high.loss <= low.loss:
        raise ValueError(f"The saddle (L={high.loss:g}) lies below the minimum (L={low.loss:g}).")
    d = _isotropic(landscape, law, low.theta, high.theta)
    _check_connected(landscape, low, high)
    barrier = high.loss - low.loss
    log_ratio = np.log(np.abs(high.eigenvalues)).sum() - np.log(low.eigenvalues).sum()
    prefactor = float(2 * np.pi / -high.eigenvalues[0] * np.exp(log_ratio / 2))
    exponent = barrier / d
    return EyringKramers(
        float(prefactor * np.exp(exponent)), barrier, prefactor, exponent, low, high
    )


def _isotropic(
    landscape: AbstractLandscape, law: Diffusion, low: np.ndarray, high: np.ndarray
) -> float:
    """D of a law; refuses everything that is not D·I, and a drift that is not −∇V."""
    along = np.array([low + s * (high - low) for s in np.linspace(0, 1, 5)])
    tensors = _fields.tensor("diffusion", law.diffusion, len(low)).at(along)
    drift = _fields.vector("drift", law.drift, len(low)).at(along)
    slope = np.array([compiled.gradient(landscape, jnp.asarray(x, landscape.dtype)) for x in along])
    if np.abs(drift + slope).max() > _SAME * np.abs(slope).max():
        raise NotKnown(
            "Eyring–Kramers is known for the drift −∇L alone: take a ModifiedEquation of order 1, "
            "or mean_exit_time (d = 1) and mean_exit_time_on_grid (d = 2) for another."
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
