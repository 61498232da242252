"""Exponents of rare escapes as η → 0: for Gaussian gradient noise, and for real minibatches.

SGD leaves through a barrier after about e^{W/η} steps. W = ∫ p dx along the way uphill, where the
slope p > 0 makes e^{p·noise} balance the drift,

    log E e^{−p s ĝ(x)} = 0 ,      s = ±1 the direction of travel ;

downhill it costs nothing. Gaussian noise of covariance C has p = 2|V'|/C, which is also what the
SDE has. Other noise has other cumulants, and then SDE and SGD differ by a factor that is
*exponential* in 1/η, however small η is (Azizian, Iutzeler, Malick, Mertikopoulos 2024).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre
from scipy.optimize import brentq

from sde_sgd._checks import check_number, check_part
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import NotKnown
from sde_sgd.processes.step_laws import Batches, Diffusion
from sde_sgd.theory import _step_laws
from sde_sgd.types import RealLike

_SCAN = 2001
_NODES = 96


class QuasiPotential(NamedTuple):
    """The cost W of going from `start` to `end`: mean steps ≈ e^{W/η} as η → 0.

    **Fields:**

    - `barrier`: W ≥ 0, in units of η; infinite where no noise can push uphill.
    - `positions`, `slopes`: (n,), the points of the uphill stretches and p there.
    - `blocked_at`: where W becomes infinite (every batch points back there, or the noise
      vanishes), else None: SGD never gets past it, at any η at which it descends monotonically
      (η max V'' < 1).
    """

    barrier: float
    positions: Float[np.ndarray, " n"]
    slopes: Float[np.ndarray, " n"]
    blocked_at: float | None


def quasi_potential(process: Any, start: RealLike, end: RealLike) -> QuasiPotential:
    """W from `start` to `end` in one dimension, of an equation or of SGD with its real batches.

    **Arguments:**

    - `process`: on a landscape with d = 1 and a constant η: `GaussianSGD`, `ModifiedEquation`,
      `OverdampedEquation` or a limit, p = η|b|/D (2|V'|/C of first order); or `SGD` without
      momentum on a finite sum, p from the cumulants of its batches (with replacement
      B log[(1/N) Σ e^{−psg_i/B}], exactly; subsets by a recursion over examples).
    - `start`, `end`: a minimum and the point to reach, on either side.

    **Returns:** `QuasiPotential`; W/η is the exponent of the mean number of steps.

    **Raises:** `ValueError` for a process whose law is not known, d > 1, SGD on populations and
    with epochs, start = end.
    """
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    law, eta = process.law(), process.clock.constant
    first, last = check_number("start", start), check_number("end", end)
    if first == last:
        raise ValueError(f"start and end must be two different points, both are {first:g}.")
    if eta is None:
        raise NotKnown(f"{type(process).__name__} has no constant learning rate to go to 0.")
    sign = float(np.sign(last - first))
    gradient, slopes_at = _of_batches(law) if isinstance(law, Batches) else _of_diffusion(law, eta)
    edges = _uphill(gradient, first, last, sign)
    nodes, weights = legendre.leggauss(_NODES)
    half = (edges[:, 1:] - edges[:, :1]) / 2
    positions = (edges[:, :1] + half * (1 + nodes)).ravel()
    weight = np.abs(half * weights).ravel()
    if not len(positions):
        return QuasiPotential(0.0, positions, positions, None)
    slopes = slopes_at(positions, sign)
    free = np.isfinite(slopes)
    if free.all():
        return QuasiPotential(float(slopes @ weight), positions, slopes, None)
    return QuasiPotential(float("inf"), positions, slopes, float(positions[~free][0]))


# Compiled once for each kind of landscape, not once for each call.
_GRADIENTS = eqx.filter_jit(lambda landscape, x: jax.vmap(landscape.gradient)(x)[:, 0])
_EXAMPLES = eqx.filter_jit(lambda landscape, x: jax.vmap(landscape.example_gradients)(x)[:, :, 0].T)


def _of_diffusion(law: Any, eta: float) -> tuple[Callable, Callable]:
    """−b, and p of points and a direction: infinite where no noise pushes."""
    if not isinstance(law, Diffusion):
        raise NotKnown("The exponent is known of equations, of Gaussian SGD and of SGD itself.")
    drift, diffusion = _step_laws.line_functions(law, "A quasi-potential")
    drift = _step_laws.finite("The gradient", drift)

    def slopes(positions: np.ndarray, sign: float) -> np.ndarray:
        strength = diffusion(positions)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(strength > 0, eta * np.abs(drift(positions)) / strength, np.inf)

    return lambda x: -drift(x), slopes


def _of_batches(law: Batches) -> tuple[Callable, Callable]:
    """V', and p of points and a direction: infinite where every batch points back."""
    landscape, sampling = law.finite_sum(), law.sampling

    def gradient(x: np.ndarray) -> np.ndarray:
        points = jnp.asarray(x, landscape.dtype)[:, None]
        return np.asarray(_GRADIENTS(landscape, points), np.float64)

    def slopes(positions: np.ndarray, sign: float) -> np.ndarray:
        points = jnp.asarray(positions, landscape.dtype)[:, None]
        found = np.asarray(_EXAMPLES(landscape, points), np.float64)
        push = sampling.largest_mean(-sign * found)
        return np.array(
            [
                _slope(-sign * found[:, i : i + 1], sampling) if push[i] > 0 else np.inf
                for i in range(len(positions))
            ]
        )

    return _step_laws.finite("The gradient", gradient), slopes


def _uphill(gradient, first: float, last: float, sign: float) -> np.ndarray:
    """Stretches between start and end where s V' > 0, (stretches, 2), in the order of travel."""
    grid = np.linspace(first, last, _SCAN)
    rising = sign * gradient(grid) > 0
    turns = np.flatnonzero(rising[1:] != rising[:-1])
    roots = [_root(gradient, grid[i], grid[i + 1]) for i in turns]
    edges = np.array([first, *roots, last])
    pairs = np.stack([edges[:-1], edges[1:]], axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    middle = sign * gradient(pairs.mean(axis=1)) if len(pairs) else np.zeros(0)
    return pairs[middle > 0]


def _root(gradient, a: float, b: float) -> float:
    """A stationary point between neighbours of the scan, one of which may be it."""
    at_a, at_b = gradient(np.array([a, b]))
    if at_a * at_b >= 0:
        return float(a if at_a == 0 else b)
    place: Any = brentq(lambda x: gradient(np.array([x]))[0], a, b)
    return float(place)


def _slope(forces: Float[np.ndarray, "N 1"], sampling: AbstractSampling) -> float:
    """The positive root of log E e^{p f} for forces f (N, 1) of negative mean."""

    def cumulant(p: float) -> float:
        return float(sampling.cumulant_generating(p * forces)[0]) / p

    # cumulant(p)/p increases from the mean force, negative, to the largest force, positive. All in
    # units of the slope for Gaussian noise, so that the scale of L does not matter.
    unit = 2 * abs(forces.mean()) / max(forces.var(), 1e-300)
    high = 1.0
    while cumulant(high * unit) <= 0:
        high *= 2
        if high > 1e15:
            return np.inf
    low = high
    while cumulant(low * unit) >= 0:
        low /= 2
        if low < 1e-300:
            return 0.0
    share: Any = brentq(lambda x: cumulant(x * unit), low, high) if low < high else high
    return float(share) * unit
