"""The gradient flow dθ/dt = −∇L(θ), followed until it comes to rest, and how it ended.

An exponential Rosenbrock method: a step is the exact flow of the local parabola, plus a correction
for what the gradient has beyond it, so that neither steep walls nor plateaus nor narrow valleys
limit the step, and the last steps are Newton's.
"""

import enum
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.modes import falls_somewhere, Modes, modes_at, MOST_MODES, newton_length
from sde_sgd.types import RealLike, Scalar, Vector

MOST_STEPS = 16384
# Of the error of a step, relative to its length.
TOLERANCE = 1e-5
# In units of the size of the start: where a flow has left for infinity.
_FAR = 1e9
_ROUNDING = 1e3
# Flows that go on together beyond d = 64.
_MOST_SPACES = 4


class Ending(enum.IntEnum):
    """How a gradient flow ended; `reason` says it in words, with a way out."""

    MINIMUM = 0
    SADDLE = 1
    FLAT = 2
    AWAY = 3
    UNFINISHED = 4
    NOT_FINITE = 5

    @property
    def reason(self) -> str:
        return _REASONS[self]


_REASONS = {
    Ending.MINIMUM: "comes to rest at a minimum",
    Ending.SADDLE: "comes to rest at a stationary point that is not a minimum, a saddle or a "
    "maximum: move the start a little",
    Ending.FLAT: "comes to rest where the Hessian has an eigenvalue of zero to rounding, a flat "
    "direction in which there is no isolated minimum: add l2",
    Ending.AWAY: "runs away to infinity, there is no minimum below it: start elsewhere, or add l2",
    Ending.UNFINISHED: f"has not come to rest after {MOST_STEPS} steps: L may have no minimum "
    f"there (add l2) or a kink; else start nearer to the minimum, or raise tolerance",
    Ending.NOT_FINITE: "meets a gradient or a Hessian that is not finite: start elsewhere",
}


class FlowEnd(NamedTuple):
    """Where a flow ended; of many flows, with a leading axis (n,).

    **Fields:** `theta` (d,); `ending`, the number of an `Ending`; `slope`, |∇L| there; `pass_`
    (d,), the point on the way where Newton's step was shortest among those with one negative
    curvature (NaN if there was none): near it lies the saddle that the flow passed.
    """

    theta: Float[Any, "*n d"]
    ending: Int[Any, "*n"]
    slope: Float[Any, "*n"]
    pass_: Float[Any, "*n d"]


class FlowState(NamedTuple):
    """A flow on its way, from `begin_flow`; `follow_some` moves it on."""

    theta: Vector
    gradient: Vector
    step: Scalar
    num_steps: Int[Array, ""]
    newton: Scalar
    steepest: Scalar
    ending: Int[Array, ""]
    pass_: Vector
    shortest: Scalar


RUNNING = -1


@eqx.filter_jit  # so that a label which several parts of a run ask for is traced once
def follow(
    landscape: AbstractLandscape,
    theta: Vector,
    tolerance: RealLike | Scalar,
    centres: Float[Array, "m d"] | None = None,
    radii: Float[Array, " m"] | None = None,
) -> FlowEnd:
    """The end of dθ/dt = −∇L(θ) from θ (d,): a JAX function of one start.

    The flow ends where Newton's step (∇²L)⁻¹∇L is at rounding, or within `radii` of one of
    `centres`, which then count as minima.

    **Arguments:** `tolerance`: of the error of a step in each coordinate, relative to the step's
    length, and at most to 1 + |θ_i|.

    **Source:** exprb43 of Hochbruck, Ostermann, Schweitzer, SIAM J. Numer. Anal. 47 (2009) 786.
    """
    state = follow_some(landscape, begin_flow(landscape, theta), theta, tolerance, centres, radii)
    ending = jnp.where(state.ending == RUNNING, Ending.UNFINISHED, state.ending)
    if len(theta) > MOST_MODES:
        falls = (ending == Ending.MINIMUM) & falls_somewhere(landscape, state.theta)
        ending = jnp.where(falls, Ending.SADDLE, ending)
    return FlowEnd(
        state.theta, ending.astype(jnp.int32), jnp.linalg.norm(state.gradient), state.pass_
    )


def begin_flow(landscape: AbstractLandscape, theta: Vector) -> FlowState:
    """A flow at its start θ (d,)."""
    slope = landscape.gradient(theta)
    begin = jnp.where(jnp.isfinite(slope).all(), RUNNING, Ending.NOT_FINITE)
    infinity = jnp.asarray(jnp.inf, theta.dtype)
    return FlowState(
        theta,
        slope,
        jnp.ones((), theta.dtype),
        jnp.zeros((), jnp.int32),
        infinity,
        jnp.zeros((), theta.dtype),
        begin.astype(jnp.int32),
        jnp.full_like(theta, jnp.nan),
        infinity,
    )


def follow_some(
    landscape: AbstractLandscape,
    state: FlowState,
    start: Vector,
    tolerance: RealLike | Scalar,
    centres: Float[Array, "m d"] | None = None,
    radii: Float[Array, " m"] | None = None,
    most: int | Int[Array, ""] = MOST_STEPS,
    still: RealLike | Scalar | None = None,
) -> FlowState:
    """A flow from `start` (d,) moved on until it ends or has made `most` steps in all.

    Other arguments as `follow`; with `still` also until |∇L| is as small as this, which is no
    ending.
    """
    dtype = start.dtype
    eps = float(jnp.finfo(dtype).eps)
    tol = jnp.maximum(jnp.asarray(tolerance, dtype), 100 * eps)
    longest = math.sqrt(float(jnp.finfo(dtype).max))

    def advance(state: FlowState) -> FlowState:
        place, slope = state.theta, state.gradient
        modes = modes_at(landscape, place, slope)
        size = jnp.maximum(1, jnp.linalg.norm(place))
        newton, rest = _at_rest(modes, place, slope, size, eps, state.newton, state.step)
        # Newton's step is short at a singularity too, such as that of √x, but there ∇L grows.
        length = jnp.linalg.norm(slope)
        rest &= (length < state.steepest) | (state.num_steps == 0)
        ending = jnp.where(rest, _kind(modes), RUNNING)
        ending = jnp.where(jnp.isfinite(modes.values).all(), ending, Ending.NOT_FINITE)
        far = jnp.linalg.norm(place - start) > _FAR * (1 + jnp.linalg.norm(start))
        ending = jnp.where((ending == RUNNING) & far, Ending.AWAY, ending)
        if centres is not None:
            near = jnp.linalg.norm(centres - place, axis=1) <= radii
            ending = jnp.where(near.any(), Ending.MINIMUM, ending)
        passing = (modes.index == 1) & (newton < state.shortest)

        top = jnp.abs(modes.values).max()
        first = jnp.where(top > 0, 0.1 / top, 1 / length)
        step = jnp.where(state.num_steps == 0, first, state.step)
        step = jnp.minimum(step, longest / jnp.maximum(top, 1 / longest))
        move, error, growth = _step(landscape, modes, place, slope, step)
        after = place + move
        gradient = landscape.gradient(after)
        # Relative to the step's length, and to each coordinate: a fall from afar along one of them
        # must not hide errors of the others. Beside that, rounding of θ (across a kink of L no step
        # has a small relative error) and what rounding of ∇L makes of the move.
        each = 1 + jnp.abs(place) + jnp.abs(after)
        unsure = each + modes.size * step * jnp.max(jnp.abs(growth))
        allowed = tol * jnp.minimum(jnp.linalg.norm(move), each) + _ROUNDING * eps * unsure
        ratio = jnp.max(jnp.abs(error) / allowed)
        finite = jnp.isfinite(gradient).all() & jnp.isfinite(ratio)
        accepted = finite & (ratio <= 1) & (ending == RUNNING)
        factor = jnp.where(finite, jnp.clip(0.9 * (ratio + 1e-30) ** (-1 / 3), 0.1, 8.0), 0.1)
        return FlowState(
            jnp.where(accepted, after, place),
            jnp.where(accepted, gradient, slope),
            step * factor,
            state.num_steps + 1,
            jnp.where(accepted, newton, state.newton),
            jnp.maximum(length, state.steepest),
            ending.astype(jnp.int32),
            jnp.where(passing, place, state.pass_),
            jnp.where(passing, newton, state.shortest),
        )

    def under_way(state: FlowState) -> Bool[Array, ""]:
        going = (state.ending == RUNNING) & (state.num_steps < most)
        return going if still is None else going & (jnp.linalg.norm(state.gradient) > still)

    return lax.while_loop(under_way, advance, state)


def _at_rest(modes: Modes, theta, slope, size, eps, before, step):
    """|(∇²L)⁻¹∇L| without flat directions, and whether the flow is at rest."""
    inside = modes.vectors @ slope
    newton = newton_length(modes, inside)
    along = jnp.linalg.norm(jnp.where(modes.flat, inside, 0))
    still = newton <= _ROUNDING * eps * size
    # A full Newton step that did not halve the next one: the gradient is rounding.
    full = step * jnp.where(modes.values == 0, jnp.inf, modes.values).min() > 30
    still |= full & (newton <= math.sqrt(eps) * size) & (newton >= before / 2)
    return newton, still & (along <= _ROUNDING * eps * jnp.linalg.norm(modes.size))


def _kind(modes: Modes) -> Int[Array, ""]:
    return jnp.where(
        modes.index > 0, Ending.SADDLE, jnp.where(modes.flat.any(), Ending.FLAT, Ending.MINIMUM)
    )


def _step(landscape, modes: Modes, theta, slope, h):
    """The move of one step of exprb43, its difference to the embedded method of order 3, and φ₁."""
    z = -h * modes.values
    one, _, three, four = _phi(z)
    half = jnp.expm1(z / 2) / jnp.where(z == 0, 1, z / 2) + (z == 0)

    def apply(coefficients, at_zero, vector):
        inside = modes.vectors @ vector
        return modes.vectors.T @ (coefficients * inside) + at_zero * (
            vector - modes.vectors.T @ inside
        )

    def beyond(move):
        """What −∇L has beyond the local parabola."""
        parabola = modes.vectors.T @ (modes.values * (modes.vectors @ move))
        return slope + parabola - landscape.gradient(theta + move)

    whole = -h * apply(one, 1.0, slope)
    second = beyond(-h / 2 * apply(half, 1.0, slope))
    third = beyond(whole + h * apply(one, 1.0, second))
    move = whole + h * apply(16 * three, 16 / 6, second) - h * apply(2 * three, 2 / 6, third)
    error = h * apply(four, 1 / 24, 12 * third - 48 * second)
    return move + error, error, one


def _phi(z: Float[Array, " k"]) -> Float[Array, "4 k"]:
    """φ₁ … φ₄ of the exponential integrators, φ_n(z) = ∫₀¹ e^{(1−s)z} s^{n−1}/(n−1)! ds."""
    small = jnp.abs(z) < 1
    near, away = jnp.where(small, z, 0), jnp.where(small, 1, z)
    series = _SERIES.astype(z.dtype) @ near ** np.arange(_SERIES.shape[1])[:, None]
    found, value = [], jnp.exp(away)
    for order in range(4):
        value = (value - 1 / math.factorial(order)) / away
        found.append(value)
    return jnp.where(small, series, jnp.stack(found))


# Of zʲ in φ_n(z): 1/(j + n)!
_SERIES = np.array([[1 / math.factorial(j + n) for j in range(17)] for n in range(1, 5)])


@eqx.filter_jit
def _follow_many(landscape, theta, tolerance):
    def one(x):
        return follow(landscape, x, tolerance)

    if landscape.dimension <= MOST_MODES:
        return jax.vmap(one)(theta)
    # Each has a Krylov space in memory: some at a time.
    return lax.map(one, theta, batch_size=_MOST_SPACES)


def follow_all(
    landscape: AbstractLandscape, theta: ArrayLike, tolerance: RealLike | Scalar = TOLERANCE
) -> FlowEnd:
    """The ends of the flows from θ (n, d), all at once, in NumPy's doubles."""
    points = np.asarray(theta, np.float64)
    num, dtype = len(points), landscape.dtype
    # Padded, so that other n need no compilation.
    room = max(1 if landscape.dimension > MOST_MODES else 32, 1 << (num - 1).bit_length())
    filled = np.concatenate([points, np.broadcast_to(points[:1], (room - num, points.shape[1]))])
    found = _follow_many(landscape, jnp.asarray(filled, dtype), jnp.asarray(tolerance, dtype))
    end = FlowEnd(*(np.asarray(x)[:num] for x in found))
    return end._replace(theta=end.theta.astype(float), pass_=end.pass_.astype(float))
