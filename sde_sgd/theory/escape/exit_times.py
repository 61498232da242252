"""Exit times and committors of a process in one dimension, exactly.

Of the limit of an equation, dx = b dt + √(2D) dW watched at all times, by quadrature; of Euler's
steps and of Gaussian SGD, watched at their steps, by the kernel equation; of SGD by collocation
over all of its batches. Times are in t: divide by η for iterations of SGD.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, check_number, check_whole, in_brief
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.theory import _arguments, _panels, _step_laws
from sde_sgd.theory._panels import Panels
from sde_sgd.theory.escape import batch_chain as batches, kernel_equation as kernel
from sde_sgd.types import RealLike

Exits = float | int | tuple[float | int, float | int]


class ExitTime(NamedTuple):
    """Law of the time to leave, from each start; in units of t.

    **Fields:** `mean` and `variance`, with the shape of `start`, infinite if no batches lead
    outside; `rate` = 1/mean, the exits per unit t of a process that starts again from there
    whenever it has left; `error`, by how much the mean of SGD moved when its grid was made twice
    as fine (0 for the others, whose means are good to about 1e-10).
    """

    mean: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]
    error: Float[np.ndarray, "..."]

    @property
    def rate(self) -> Float[np.ndarray, "..."]:
        return np.asarray(1 / self.mean)


def mean_exit_time(
    process: Any,
    start: ArrayLike | RealLike,
    exits: Exits,
    *,
    wall: RealLike | None = None,
    cells: int = 1000,
) -> Float[np.ndarray, "..."]:
    """Mean time T to leave, in t, of a process at its own step. Of an SDE with one exit a above x,

        T(x) = ∫_x^a dy e^{φ(y)} ∫_{−∞}^y dz e^{−φ(z)}/D(z) ,      φ = −∫ b/D ,

    of steps τ(x) = h + ∫ p(x′|x) τ(x′) dx′ inside and τ = 0 outside.

        T = ss.theory.escape.mean_exit_time(sgd, -1.0, 1.0), and of sde, and of sde.limit()

    **Arguments:**

    - `process`: on a landscape with d = 1 and a constant η: the limit of `ModifiedEquation` or
      `OverdampedEquation`; these at their step (Euler); `GaussianSGD` and `SGD` without momentum.
      `processes.Diffusion` (for the limit, D may vanish like a power of the distance at a wall or
      an exit that is at 0) and `processes.Jumps` stand for a process without a landscape.
    - `start`: x, a number or (S,).
    - `exits`: one point, on either side of the start, or the pair of both ends of an interval.
    - `wall`: of a limit with one exit, a reflecting wall on the other side; None lets the process
      go as far as its drift allows.
    - `cells`: of SGD, those of the coarser of two grids.

    **Returns:** mean times with the shape of `start`, in t. Where no sequence of batches leads out
    (|noise| below max |V'|) it is infinite: that is the answer for SGD, whatever the SDE says.
    Of a limit, a barrier much narrower than 1/10 000 of the interval may be missed.

    **Raises:** `ValueError` for a process whose law of one step is not known; a start that is
    already outside; D ≤ 0 between the exits; an exit that is never reached or a wall that is never
    left as D vanishes there; a drift, or batches, that let the process escape to infinity on the
    far side; times above e^690; of SGD a grid error above 1 %.

    **Source:** Gardiner, Handbook of Stochastic Methods, 5.2.7; the kernel equation is Nyström's
    method.
    """
    return exit_time(process, start, exits, wall=wall, cells=cells).mean


def exit_time(
    process: Any,
    start: ArrayLike | RealLike,
    exits: Exits,
    *,
    wall: RealLike | None = None,
    cells: int = 1000,
) -> ExitTime:
    """Mean and variance of the exit time; arguments and errors as `mean_exit_time`.

    The second moment solves 𝓛T₂ = −2T (for steps, the same with their kernel). An exponential
    time has variance mean².
    """
    points, lower, upper = interval(start, exits)
    shape = np.shape(start)
    cells = check_whole("cells", cells, 3, batches.MOST_CELLS)
    law = _step_laws.law(process)
    h = float(law.step)
    limit = None if wall is None else check_number("wall", wall)
    _check_wall(limit, points, lower, upper, h)
    if not isinstance(law, Diffusion):
        step = _step_laws.jump_step(law)
        mean, second, error = batches.exit_moments(step, points, lower, upper, cells)
    else:
        b, d = _line(law, "An exit time by quadrature")
        if upper is None:
            assert lower is not None
            points, upper, lower = -points, -lower, None
            limit = None if limit is None else -limit
            b, d = _mirrored(b, -1.0), _mirrored(d, 1.0)
        if h > 0:
            chain = kernel.gaussian_chain(b, d, h, points, lower, upper)
            mean, second = chain.moments(points)
        else:
            mean, second = _moments(b, _panels.positive(d), points, lower, upper, limit)
        error = np.zeros_like(mean)
    unit = h if h > 0 else 1.0
    # In this order, as a rare exit has more steps than the root of the largest number.
    variance = unit * (unit * (second - np.where(np.isfinite(mean), mean, 0.0) ** 2))
    return ExitTime(*(x.reshape(shape) for x in (unit * mean, variance, unit * error)))


def committor(
    process: Any,
    start: ArrayLike | RealLike,
    lower: RealLike,
    upper: RealLike,
    *,
    cells: int = 1000,
) -> Float[np.ndarray, "..."]:
    """Probability to reach `upper` before `lower`: for the SDE q(x) = s(x)/s(upper), s' = e^φ.

    Arguments as `mean_exit_time`. Steps reach an end when one of them ends at it or beyond. From
    the two values at h and h/2 one cannot extrapolate linearly in h: the steps cost a term in √h
    (`watched_barrier_shift`).

    **Raises:** `ValueError` as `mean_exit_time`, and unless lower < start < upper; where no
    sequence of batches reaches either end.
    """
    points, low, high = between(start, lower, upper)
    cells = check_whole("cells", cells, 3, batches.MOST_CELLS)
    law = _step_laws.law(process)
    h = float(law.step)
    if not isinstance(law, Diffusion):
        found = batches.reaches_upper(_step_laws.jump_step(law), points, low, high, cells)
        return found.reshape(np.shape(start))
    b, d = _line(law, "A committor by quadrature")
    if h > 0:
        chain = kernel.gaussian_chain(b, d, h, points, low, high)
        return chain.reaches_upper(points).reshape(np.shape(start))
    panels = _panels.between(b, _panels.positive(d), np.concatenate([[low, high], points]))
    for end in (0, 1):
        panels.check_end(end, wall=False)
    scale = panels.from_left(np.exp(panels.phi - panels.highest_phi))[1]
    return (_at(panels, scale, points) / scale[-1]).reshape(np.shape(start))


def _line(law: Diffusion, asked: str) -> tuple[_panels.Function, _panels.Function]:
    """b and D of points (n,), finite."""
    b, d = _step_laws.line_functions(law, asked)
    return _step_laws.finite("drift", b), _step_laws.finite("diffusion", d)


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
            f"wall={wall:g} reflects the SDE; a process with steps of {time_step:g} jumps over "
            f"it. Drop the wall, or make it an exit."
        )
    if upper is not None and (points < wall).any():
        raise ValueError(f"start={points.min():g} lies behind the wall at {wall:g}.")
    if lower is not None and (points > wall).any():
        raise ValueError(f"start={points.max():g} lies behind the wall at {wall:g}.")
