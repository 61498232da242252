"""Exit times and committors in one dimension, exactly: the SDE, Euler at its step, Gaussian SGD.

All are about dx = b(x) dt + √(2D(x)) dW (Itô), D = ηC/2 for gradient noise of covariance C, in
units of t = η·iterations. With `time_step` h = 0 it is the SDE, watched at all times; with h > 0
the chain x ← x + h b(x) + √(2hD(x)) ξ, ξ ~ N(0, 1), watched at its steps: Euler–Maruyama, which for
h = η is Gaussian SGD.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_at_least, check_number, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.theory import _arguments, _panels
from sde_sgd.theory._panels import Panels
from sde_sgd.theory.escape import kernel_equation as kernel
from sde_sgd.types import RealLike

Exits = float | int | tuple[float | int, float | int]


class ExitTime(NamedTuple):
    """Law of the time to leave, from each start; in units of t.

    **Fields:** `mean` and `variance`, with the shape of `start`; `rate` = 1/mean, the exits per
    unit t of a process that starts again from there whenever it has left.
    """

    mean: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]

    @property
    def rate(self) -> Float[np.ndarray, "..."]:
        return np.asarray(1 / self.mean)


def mean_exit_time(
    drift: Callable | float,
    diffusion: Callable | float,
    *,
    start: ArrayLike | RealLike,
    exits: Exits,
    wall: RealLike | None = None,
    time_step: RealLike = 0.0,
) -> Float[np.ndarray, "..."]:
    """Mean time T to leave, in t: for the SDE, with one exit a above the start x,

        T(x) = ∫_x^a dy e^{φ(y)} ∫_{−∞}^y dz e^{−φ(z)}/D(z) ,      φ = −∫ b/D .

    **Arguments:**

    - `drift`: b, −V' for a potential V; a function of an array of points (n,), or a number.
    - `diffusion`: D > 0, likewise: half the variance that a unit t adds. At a wall or an exit it
      may vanish like a power of the distance, if that end is at 0.
    - `start`: x, a number or (S,).
    - `exits`: one point, on either side of the start, or the pair of both ends of an interval.
    - `wall`: with one exit, a reflecting wall on the other side; None lets the process go as far as
      its drift allows. For the SDE only.
    - `time_step`: h in units of t. 0 for the SDE; η for Gaussian SGD; η/substeps for Euler.

    **Returns:** mean times with the shape of `start`, to about 1e-10, in units of t: divide by η
    for iterations.

    **Raises:** `ValueError` for a start that is already outside, D ≤ 0 between the exits, an exit
    that is never reached or a wall that is never left as D vanishes there, a drift that lets the
    process escape to infinity on the far side, times above e^690.

    **Source:** Gardiner, Handbook of Stochastic Methods, 5.2.7.
    """
    return exit_time(
        drift, diffusion, start=start, exits=exits, wall=wall, time_step=time_step
    ).mean


def exit_time(
    drift: Callable | float,
    diffusion: Callable | float,
    *,
    start: ArrayLike | RealLike,
    exits: Exits,
    wall: RealLike | None = None,
    time_step: RealLike = 0.0,
) -> ExitTime:
    """Mean and variance of the exit time; arguments as `mean_exit_time`.

    The second moment solves 𝓛T₂ = −2T (for the chain, the same with its kernel). An exponential
    time has variance mean².
    """
    points, lower, upper = interval(start, exits)
    h = check_at_least("time_step", time_step)
    limit = None if wall is None else check_number("wall", wall)
    _check_wall(limit, points, lower, upper, h)
    b, d = _panels.function("drift", drift), _panels.function("diffusion", diffusion)
    if upper is None:
        assert lower is not None
        points, upper, lower = -points, -lower, None
        limit = None if limit is None else -limit
        b, d = _mirrored(b, -1.0), _mirrored(d, 1.0)
    if h > 0:
        chain = kernel.gaussian_chain(b, d, h, points, lower, upper)
        mean, second = chain.moments(points)
        mean, second = h * mean, h**2 * second
    else:
        mean, second = _moments(b, _panels.positive(d), points, lower, upper, limit)
    shape = np.shape(start)
    return ExitTime(mean.reshape(shape), (second - mean**2).reshape(shape))


def committor(
    drift: Callable | float,
    diffusion: Callable | float,
    *,
    start: ArrayLike | RealLike,
    lower: RealLike,
    upper: RealLike,
    time_step: RealLike = 0.0,
) -> Float[np.ndarray, "..."]:
    """Probability to reach `upper` before `lower`: for the SDE q(x) = s(x)/s(upper), s' = e^φ.

    Arguments as `mean_exit_time`. A chain (`time_step` > 0) reaches an end when a step ends at it
    or beyond. From the two values at h and h/2 one cannot extrapolate linearly in h: the steps cost
    a term in √h (`watched_barrier_shift`).

    **Raises:** `ValueError` unless lower < start < upper.
    """
    points, low, high = between(start, lower, upper)
    h = check_at_least("time_step", time_step)
    b, d = _panels.function("drift", drift), _panels.function("diffusion", diffusion)
    if h > 0:
        chain = kernel.gaussian_chain(b, d, h, points, low, high)
        return chain.reaches_upper(points).reshape(np.shape(start))
    panels = _panels.between(b, _panels.positive(d), np.concatenate([[low, high], points]))
    for end in (0, 1):
        panels.check_end(end, wall=False)
    scale = panels.from_left(np.exp(panels.phi - panels.highest_phi))[1]
    return (_at(panels, scale, points) / scale[-1]).reshape(np.shape(start))


def drift_and_diffusion(
    landscape: AbstractLandscape,
    noise: AbstractGradientNoise,
    *,
    learning_rate: RealLike,
    order: int = 1,
) -> tuple[Callable, Callable]:
    """b = −V' and D = ηC/2 of a one-dimensional landscape, as `mean_exit_time` takes them.

    With `order=2`, b = −(V + (η/4)V'²)'. C = `noise.covariance`, that of one iteration's gradient;
    time is t = η·iterations.

    **Raises:** `ValueError` for landscapes of more than one dimension.
    """
    _arguments.problem(landscape, noise)
    eta = check_number("learning_rate", learning_rate, above=0)
    order = _arguments.order(order)
    if landscape.dimension != 1:
        raise ValueError(
            f"exit times by quadrature need d = 1; the landscape has d={landscape.dimension}. On a "
            f"grid (mean_exit_time_on_grid) d = 2 is possible."
        )

    def points(x: np.ndarray):
        return jnp.asarray(x, landscape.dtype)[:, None]

    correction = 0.0 if order == 1 else eta / 2
    drift = _panels.padded(lambda x: _drift(landscape, points(x), correction))
    diffusion = _panels.padded(lambda x: eta / 2 * _variances(landscape, points(x), noise))
    return drift, diffusion


# Compiled once for each kind of landscape, not once for each call.
@eqx.filter_jit
def _drift(landscape: AbstractLandscape, points, correction):
    slope = jax.vmap(landscape.gradient)(points)[:, 0]
    curvature = jax.vmap(landscape.hessian)(points)[:, 0, 0]
    return -slope * (1 + correction * curvature)


@eqx.filter_jit
def _variances(landscape: AbstractLandscape, points, noise: AbstractGradientNoise):
    return jax.vmap(lambda x: noise.covariance(x, landscape))(points)[:, 0, 0]


def _moments(b, d, points, lower, upper, wall) -> tuple[np.ndarray, np.ndarray]:
    """T and T₂ at the points by two applications of the Green's function of 𝓛."""
    if lower is not None or wall is not None:
        other = lower if lower is not None else wall
        panels = _panels.between(b, d, np.concatenate([[other, upper], points]))
    else:
        panels = _panels.below(b, d, np.concatenate([[upper], points]))
    panels.check_end(0, wall=lower is None)
    panels.check_end(1, wall=False)
    green = _one_sided if lower is None else _two_sided
    inside, mean = green(panels, np.ones_like(panels.phi))
    _, second = green(panels, 2 * inside)
    return _at(panels, mean, points), _at(panels, second, points)


def _one_sided(panels: Panels, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∫_x^a dy e^φ ∫^y dz e^{−φ} f/D at the nodes and at the edges: solves 𝓛u = −f."""
    top = panels.highest_phi
    speed, _ = panels.from_left(np.exp(top - panels.phi) / panels.diffusion * source)
    return panels.from_right(np.exp(panels.phi - top) * speed)


def _two_sided(panels: Panels, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u(x) = [s̄(x) ∫_a^x s f dm + s(x) ∫_x^b s̄ f dm]/S, dm = e^{−φ}/D dx, s + s̄ = S."""
    top = panels.highest_phi
    growth = np.exp(panels.phi - top)
    low, low_edge = panels.from_left(growth)
    high, high_edge = panels.from_right(growth)
    speed = np.exp(top - panels.phi) / panels.diffusion * source
    left, left_edge = panels.from_left(low * speed)
    right, right_edge = panels.from_right(high * speed)
    total = low_edge[-1]
    at_edges = (high_edge * left_edge + low_edge * right_edge) / total
    return (high * left + low * right) / total, at_edges


def _at(panels: Panels, at_edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values at points that are edges."""
    return at_edges[np.searchsorted(panels.edges, points)]


def _mirrored(function: _panels.Function, sign: float) -> _panels.Function:
    return lambda x: sign * function(-x)


def interval(start: ArrayLike | RealLike, exits: Exits):
    """Starts (S,), lower and upper exit, one of which may be None."""
    points = _arguments.array("start", np.atleast_1d(as_float64("start", start)), 1)
    ends = _arguments.array("exits", np.atleast_1d(as_float64("exits", exits)), 1)
    if len(ends) > 2:
        raise ValueError(f"exits must be one point or a pair; got {in_brief(exits)}.")
    if len(ends) == 2:
        lower, upper = float(ends[0]), float(ends[1])
        if not lower < upper:
            raise ValueError(
                f"exits must be (lower, upper) with lower < upper, got {in_brief(exits)}."
            )
        bad = (points <= lower) | (points >= upper)
    else:
        (end,) = (float(e) for e in ends)
        above = points[0] < end
        lower, upper = (None, end) if above else (end, None)
        bad = points >= end if above else points <= end
    if bad.any():
        raise ValueError(
            f"start={points[bad][0]:g} is already outside: every start must lie strictly inside "
            f"the region that exits={in_brief(exits)} bound, all on one side of a single exit."
        )
    return points, lower, upper


def between(
    start: ArrayLike | RealLike, lower: RealLike, upper: RealLike
) -> tuple[Float[np.ndarray, " S"], float, float]:
    """Starts (S,) between two exits."""
    low, high = check_number("lower", lower), check_number("upper", upper)
    if not low < high:
        raise ValueError(f"lower={low:g} must be below upper={high:g}.")
    points = _arguments.array("start", np.atleast_1d(as_float64("start", start)), 1)
    outside = (points <= low) | (points >= high)
    if outside.any():
        raise ValueError(
            f"start={points[outside][0]:g} is not strictly between lower={low:g} and "
            f"upper={high:g}."
        )
    return points, low, high


def _check_wall(
    wall: float | None,
    points: np.ndarray,
    lower: float | None,
    upper: float | None,
    time_step: float,
) -> None:
    if wall is None:
        return
    if lower is not None and upper is not None:
        raise ValueError(f"wall={wall:g} makes no sense between two exits: drop it.")
    if time_step > 0:
        raise ValueError(
            f"wall={wall:g} reflects the SDE; a chain with time_step={time_step:g} jumps over it. "
            f"Drop the wall, or make it an exit."
        )
    if upper is not None and (points < wall).any():
        raise ValueError(f"start={points.min():g} lies behind the wall at {wall:g}.")
    if lower is not None and (points > wall).any():
        raise ValueError(f"start={points.max():g} lies behind the wall at {wall:g}.")
