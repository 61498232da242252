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

from ..types import RealLike, Scalar, Vector
from .base import AbstractLandscape

MOST_STEPS = 16384
# Of the error of a step, relative to its length.
TOLERANCE = 1e-5
# In units of the size of the start: where a flow has left for infinity.
_FAR = 1e9
# Up to here ∇²L is formed in every step; beyond, its part in a Krylov space of this dimension.
_MOST_MODES = 64
_ROUNDING = 1e3


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


def in_brief(theta: Float[Any, " d"]) -> str:
    """θ for a message of one line: all of it up to six numbers, else the first ones."""
    shown = ", ".join(f"{x:.6g}" for x in np.asarray(theta)[:6])
    return f"[{shown}]" if len(theta) <= 6 else f"[{shown}, …] (d = {len(theta)})"


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


class _State(NamedTuple):
    theta: Vector
    gradient: Vector
    step: Scalar
    num_steps: Int[Array, ""]
    newton: Scalar
    steepest: Scalar
    ending: Int[Array, ""]
    pass_: Vector
    shortest: Scalar


_RUNNING = -1


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
    dtype, start = theta.dtype, theta
    eps = float(jnp.finfo(dtype).eps)
    tol = jnp.maximum(jnp.asarray(tolerance, dtype), 100 * eps)
    longest = math.sqrt(float(jnp.finfo(dtype).max))

    def advance(state: _State) -> _State:
        place, slope = state.theta, state.gradient
        modes = _modes(landscape, place, slope)
        size = jnp.maximum(1, jnp.linalg.norm(place))
        newton, rest = _at_rest(modes, place, slope, size, eps, state.newton, state.step)
        # Newton's step is short at a singularity too, such as that of √x, but there ∇L grows.
        length = jnp.linalg.norm(slope)
        rest &= (length < state.steepest) | (state.num_steps == 0)
        ending = jnp.where(rest, _kind(modes), _RUNNING)
        ending = jnp.where(jnp.isfinite(modes.values).all(), ending, Ending.NOT_FINITE)
        far = jnp.linalg.norm(place - start) > _FAR * (1 + jnp.linalg.norm(start))
        ending = jnp.where((ending == _RUNNING) & far, Ending.AWAY, ending)
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
        accepted = finite & (ratio <= 1) & (ending == _RUNNING)
        factor = jnp.where(finite, jnp.clip(0.9 * (ratio + 1e-30) ** (-1 / 3), 0.1, 8.0), 0.1)
        return _State(
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

    slope = landscape.gradient(theta)
    begin = jnp.where(jnp.isfinite(slope).all(), _RUNNING, Ending.NOT_FINITE)
    infinity = jnp.asarray(jnp.inf, dtype)
    state = _State(
        theta,
        slope,
        jnp.ones((), dtype),
        jnp.zeros((), jnp.int32),
        infinity,
        jnp.zeros((), dtype),
        begin.astype(jnp.int32),
        jnp.full_like(theta, jnp.nan),
        infinity,
    )
    state = lax.while_loop(
        lambda s: (s.ending == _RUNNING) & (s.num_steps < MOST_STEPS), advance, state
    )
    ending = jnp.where(state.ending == _RUNNING, Ending.UNFINISHED, state.ending)
    if len(theta) > _MOST_MODES:
        falls = (ending == Ending.MINIMUM) & _falls_somewhere(landscape, state.theta)
        ending = jnp.where(falls, Ending.SADDLE, ending)
    return FlowEnd(
        state.theta, ending.astype(jnp.int32), jnp.linalg.norm(state.gradient), state.pass_
    )


class _Modes(NamedTuple):
    """∇²L ≈ Vᵀ diag(λ) V: all of it, or its part in the Krylov space of the gradient."""

    values: Float[Array, " k"]
    vectors: Float[Array, "k d"]
    flat: Bool[Array, " k"]
    size: Float[Array, " d"]

    @property
    def index(self) -> Int[Array, ""]:
        return jnp.sum((self.values < 0) & ~self.flat)


def _modes(landscape: AbstractLandscape, theta: Vector, slope: Vector) -> _Modes:
    d = theta.shape[0]
    eps = jnp.finfo(theta.dtype).eps
    if d <= _MOST_MODES:
        hess = landscape.hessian(theta)
        values, vectors = jnp.linalg.eigh((hess + hess.T) / 2)
        flat = jnp.abs(values) <= 100 * d * eps * jnp.abs(values).max()
        return _Modes(values, vectors.T, flat, jnp.abs(hess) @ jnp.abs(theta))
    basis, hess = _krylov(lambda v: landscape.hessian_vector_product(theta, v), slope)
    values, vectors = jnp.linalg.eigh(hess)
    # Directions that the gradient does not see say nothing of the Hessian: none counts as flat.
    size = jnp.abs(values).max() * jnp.abs(theta)
    return _Modes(values, vectors.T @ basis, jnp.zeros(_MOST_MODES, bool), size)


def _falls_somewhere(landscape: AbstractLandscape, theta: Vector) -> Bool[Array, ""]:
    """Whether ∇²L has a negative eigenvalue, one to which the gradient may be orthogonal."""
    direction = np.random.default_rng(0).normal(size=len(theta))
    _, hess = _krylov(
        lambda v: landscape.hessian_vector_product(theta, v), jnp.asarray(direction, theta.dtype)
    )
    values = jnp.linalg.eigvalsh(hess)
    rounding = 100 * len(theta) * jnp.finfo(theta.dtype).eps
    return values[0] < -rounding * jnp.abs(values).max()


def _krylov(product, vector: Vector) -> tuple[Float[Array, "k d"], Float[Array, "k k"]]:
    """Orthonormal rows that span v, Hv, …, H^{k−1}v, and H between them (Lanczos)."""
    k = _MOST_MODES

    def extend(i, carry):
        basis, images, v = carry
        image = product(v)
        basis, images = basis.at[i].set(v), images.at[i].set(image)
        rest = image
        for _ in range(2):  # once more, against rounding
            rest = rest - basis.T @ (basis @ rest)
        return basis, images, _unit(rest, jnp.linalg.norm(image))

    zero = jnp.zeros((k, len(vector)), vector.dtype)
    begin = _unit(vector, jnp.zeros((), vector.dtype))
    basis, images, _ = lax.fori_loop(0, k, extend, (zero, zero, begin))
    hess = basis @ images.T
    return basis, (hess + hess.T) / 2


def _unit(vector: Vector, scale: Scalar) -> Vector:
    """v/|v|, or zero for a v that is the rounding of something of size `scale`."""
    length = jnp.linalg.norm(vector)
    real = length > 1e2 * jnp.finfo(vector.dtype).eps * scale
    return jnp.where(real, vector / jnp.where(length > 0, length, 1), 0)


def _at_rest(modes: _Modes, theta, slope, size, eps, before, step):
    """|(∇²L)⁻¹∇L| without flat directions, and whether the flow is at rest."""
    inside = modes.vectors @ slope
    curved = jnp.where(modes.flat | (modes.values == 0), 1.0, modes.values)
    newton = jnp.linalg.norm(jnp.where(modes.flat, 0, inside / curved))
    along = jnp.linalg.norm(jnp.where(modes.flat, inside, 0))
    still = newton <= _ROUNDING * eps * size
    # A full Newton step that did not halve the next one: the gradient is rounding.
    full = step * jnp.where(modes.values == 0, jnp.inf, modes.values).min() > 30
    still |= full & (newton <= math.sqrt(eps) * size) & (newton >= before / 2)
    return newton, still & (along <= _ROUNDING * eps * jnp.linalg.norm(modes.size))


def _kind(modes: _Modes) -> Int[Array, ""]:
    return jnp.where(
        modes.index > 0, Ending.SADDLE, jnp.where(modes.flat.any(), Ending.FLAT, Ending.MINIMUM)
    )


def _step(landscape, modes: _Modes, theta, slope, h):
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


_FOLLOW = eqx.filter_jit(
    lambda landscape, theta, tolerance: jax.vmap(lambda x: follow(landscape, x, tolerance))(theta)
)


def follow_all(
    landscape: AbstractLandscape, theta: ArrayLike, tolerance: RealLike | Scalar = TOLERANCE
) -> FlowEnd:
    """The ends of the flows from θ (n, d), all at once, in NumPy's doubles."""
    points = np.asarray(theta, np.float64)
    num, dtype = len(points), landscape.dtype
    # Padded, so that other n need no compilation.
    room = max(32, 1 << (num - 1).bit_length())
    filled = np.concatenate([points, np.broadcast_to(points[:1], (room - num, points.shape[1]))])
    found = _FOLLOW(landscape, jnp.asarray(filled, dtype), jnp.asarray(tolerance, dtype))
    end = FlowEnd(*(np.asarray(x)[:num] for x in found))
    return end._replace(theta=end.theta.astype(float), pass_=end.pass_.astype(float))
