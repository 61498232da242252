"""The minimum near a start, without a matrix: SciPy's optimisers, or the gradient flow itself."""

import contextlib
import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.optimize import minimize
from scipy.sparse.linalg import cg, LinearOperator

from .._checks import as_real, check_number, in_brief
from ..terminal import Interrupt, StatusLine
from ..types import RealLike, Vector
from . import compiled
from .base import AbstractLandscape
from .gradient_flow import begin_flow, Ending, follow_some, RUNNING, TOLERANCE
from .modes import curvature_rounding, MOST_MODES, Surroundings, surroundings

METHODS = ("lbfgs", "newton-cg", "gradient-flow")
# Draws of the gradient noise from which the size of one example's gradient is estimated.
_NUM_DRAWS = 8
# Iterations without a better point after which a search is over, and products of one Newton step.
_PATIENCE = 12
_MOST_PRODUCTS = 250
# Seconds of the flow between two looks at the clock.
_SEGMENT_SECONDS = 0.3
# Gradients that a look at the curvature costs.
_OUTLOOK = 300
_MANY = 2**31 - 1


class Minimum(eqx.Module):
    """Where `landscape.minimise` ended, and why.

    **Fields:**

    - `theta` (d,), in the landscape's dtype; `loss` L; `gradient_norm` |∇L| there.
    - `num_steps`: iterations of the method.
    - `smallest_curvature`, `largest_curvature`: eigenvalues of ∇²L there; beyond d = 64 the ends
      of the spectrum as 64 steps of Lanczos' method see them. None if there was no time for them.
    - `converged`, and the `reason` in one line: why it is a minimum, or what stopped the search.
    """

    theta: Vector
    loss: float
    gradient_norm: float
    num_steps: int
    smallest_curvature: float | None
    largest_curvature: float | None
    converged: bool
    reason: str


def minimise(
    landscape: AbstractLandscape,
    theta: Any,
    method: str,
    tolerance: RealLike,
    max_steps: int,
    budget: RealLike | None,
    progress: bool | None,
) -> Minimum:
    """See `AbstractLandscape.minimise`."""
    if method not in METHODS:
        names = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f"method must be one of {names}; got {in_brief(method)}.")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int | np.integer) or max_steps < 1:
        raise ValueError(f"max_steps must be an integer ≥ 1; got {in_brief(max_steps)}.")
    share = check_number("tolerance", tolerance, above=0)
    seconds = math.inf if budget is None else check_number("budget", budget, above=0)
    start = _start(landscape, theta)
    with Interrupt() as interrupt:
        search = _Search(landscape, share, int(max_steps), seconds, interrupt, progress)
        try:
            search.begin(start)
            if method == "gradient-flow":
                _follow_flow(search, start)
            _descend(search, method)
        except _Stop as stop:
            return search.result(stop)
        finally:
            search.close()
    raise AssertionError("a search ends with a reason")


class _Stop(Exception):
    """The search is over, at a small gradient, at one that is rounding, or before."""

    def __init__(self, reason: str, *, small: bool = False, rounding: bool = False):
        super().__init__(reason)
        self.reason, self.small, self.rounding = reason, small, rounding


class _Stalled(Exception):
    """No better point for a while."""


class _Point:
    """θ (d,) in doubles, L and ∇L there."""

    def __init__(self, theta: np.ndarray, loss: float, gradient: np.ndarray):
        self.theta, self.loss, self.gradient = theta, loss, gradient
        self.norm = float(np.linalg.norm(gradient))
        self.finite = bool(np.isfinite(loss) and np.isfinite(gradient).all())


class _Search:
    """L and its derivatives for SciPy; keeps the best point, and ends the search when it must."""

    best: _Point

    def __init__(self, landscape, tolerance, max_steps, budget, interrupt, progress):
        self.landscape, self.tolerance, self.max_steps = landscape, tolerance, max_steps
        self.budget, self.interrupt, self.line = budget, interrupt, StatusLine(progress)
        self.eps = float(jnp.finfo(landscape.dtype).eps)
        self.started = time.monotonic()
        self.num_steps = self.idle = 0
        self.slowest = 0.0

    def begin(self, start: np.ndarray) -> None:
        """The first point, and the |∇L| that is small enough."""
        self.line.write("minimise: compiling …")
        self.best = first = self._at(start)
        if not first.finite:
            raise ValueError(
                f"L = {first.loss:.6g} and |∇L| = {first.norm:.3g} at the start {in_brief(start)}, "
                f"and must be finite there: start elsewhere."
            )
        self.lowest, self.rounding = first.loss, 64 * self.eps * abs(first.loss)
        example = float(_example_gradient(self.landscape, self.put(start)))
        self.scale = max(first.norm, example if np.isfinite(example) else 0.0)
        self.goal = self.tolerance * self.scale
        self.look()

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """L and ∇L at x (d,); remembers the point if it is the best so far."""
        self.look()
        before = time.monotonic()
        point = self._at(x)
        if self.num_steps:
            self.slowest = max(self.slowest, time.monotonic() - before)
        if not point.finite:
            # A wall, from which a line search comes back.
            return math.sqrt(float(np.finfo(float).max)), np.zeros_like(x)
        # Where rounding of L hides which point is the lower, the smaller gradient decides.
        level = point.loss <= self.lowest + self.rounding and point.norm < self.best.norm
        if level or point.loss < self.lowest - self.rounding:
            self.best, self.idle = point, 0
        self.lowest = min(self.lowest, point.loss)
        return point.loss, point.gradient

    def product(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """∇²L(θ) v, (d,)."""
        self.look()
        point, vector = self.put(theta), self.put(v.ravel())
        product = compiled.hessian_vector_product(self.landscape, point, vector)
        return np.asarray(product, float)

    def step(self, *_: Any, count: int = 1) -> None:
        """Some iterations are over; ends the search if it is done."""
        self.num_steps += count
        self.idle += 1
        if self.line.due:
            self.line.write(f"{self._told}; {self.goal:.3g} wanted")
        self.look()
        if self.idle > _PATIENCE:
            raise _Stalled

    def look(self) -> None:
        """Ends the search at a small gradient, at the end of its steps or time, and on Ctrl-C."""
        on = "go on from this theta"
        if self.best.norm <= self.goal:
            share = f"tolerance={self.tolerance:.3g} of one example's gradient at the start"
            raise _Stop(f"is within {share}, {self.scale:.3g}", small=True)
        if self.num_steps >= self.max_steps:
            raise _Stop(f"is not small when max_steps={self.max_steps} are over: {on}")
        if self.interrupt.requested:
            raise _Stop(f"is not small when the search is interrupted: {on}")
        if time.monotonic() - self.started > self.budget:
            raise _Stop(f"is not small when budget={self.budget:g} s is over: {on}")

    def stalled(self) -> _Stop:
        """Why no step leads lower: rounding of θ, or something else."""
        signs = np.where(np.arange(len(self.best.theta)) % 2 == 0, 1.0, -1.0)
        beside = self._at(self.best.theta * (1 + self.eps * signs))
        noise = float(np.linalg.norm(beside.gradient - self.best.gradient))
        if self.best.norm <= 10 * noise:
            return _Stop(f"is the rounding of {self.landscape.dtype}", rounding=True)
        return _Stop(
            f"is above tolerance={self.tolerance:.3g} of one example's gradient at the start, "
            f"{self.scale:.3g}, and no step leads lower: L may have a kink there (ReLU), or need "
            f"float64"
        )

    def result(self, stop: _Stop) -> Minimum:
        """The best point, and what the curvature says of it."""
        reason, converged, around = stop.reason, stop.small or stop.rounding, None
        spent = time.monotonic() - self.started
        if not self.interrupt.requested and spent + _OUTLOOK * self.slowest < self.budget:
            around = surroundings(self.landscape, self.put(self.best.theta))
            around = Surroundings(*(np.asarray(x, float) for x in around))
        if converged and around is not None:
            refuted = self._refuted(around, stop.small)
            reason, converged = f"{reason}{refuted}", not refuted
        return Minimum(
            self.put(self.best.theta),
            self.best.loss,
            self.best.norm,
            self.num_steps,
            None if around is None else float(around.smallest),
            None if around is None else float(around.largest),
            converged,
            f"|∇L| = {self.best.norm:.3g} {reason}",
        )

    def _refuted(self, around: Surroundings, small: bool) -> str:
        """Why a point with a small gradient is no minimum; nothing if it is one."""
        theta = self.best.theta
        share = max(self.tolerance, curvature_rounding(self.put(theta)))
        if around.smallest < -share * abs(around.largest):
            return (
                f", but ∇²L has an eigenvalue {around.smallest:.3g}: a saddle or a maximum, move "
                f"the start a little"
            )
        near = math.sqrt(self.tolerance) * max(1.0, float(np.linalg.norm(theta)))
        if small and around.newton > near:
            return (
                f", but L is so flat that Newton's step is {around.newton:.3g} long: lower "
                f"tolerance, or add l2 if L falls for ever"
            )
        return ""

    def close(self) -> None:
        """Ends the line of progress."""
        self.line.close(f"{self._told}, {time.monotonic() - self.started:.1f} s")

    def put(self, theta: np.ndarray) -> Array:
        """θ in the landscape's dtype."""
        return jnp.asarray(theta, self.landscape.dtype)

    @property
    def _told(self) -> str:
        if not hasattr(self, "best"):
            return "minimise"
        best = self.best
        return f"minimise: {self.num_steps} steps, L = {best.loss:.8g}, |∇L| = {best.norm:.3g}"

    def _at(self, x: np.ndarray) -> _Point:
        theta = self.put(x)
        loss, gradient = _value(self.landscape, theta)
        return _Point(np.asarray(theta, float), float(loss), np.asarray(gradient, float))


def _descend(search: _Search, method: str) -> None:
    """A method, and Newton's where it no longer leads lower, over again as long as they do.

    Near the minimum what a step gains is below the rounding of L, and a line search fails.
    """
    parts = [_newton_cg, _newton_steps]
    if method == "lbfgs":
        parts.insert(0, _lbfgs)
    while True:
        before = search.best
        for part in parts:
            with contextlib.suppress(_Stalled):
                part(search)
            search.idle = 0
        lower = search.best.loss < before.loss - search.rounding
        if not lower and search.best.norm > before.norm / 2:
            raise search.stalled()


def _lbfgs(search: _Search) -> None:
    """Limited-memory BFGS (Byrd, Lu, Nocedal, Zhu 1995), with our own end of it."""
    options = {"ftol": 0.0, "gtol": 0.0, "maxcor": 20, "maxls": 40, "maxiter": _MANY}
    minimize(
        search.value,
        search.best.theta,
        jac=True,
        method="L-BFGS-B",
        callback=search.step,
        options={**options, "maxfun": _MANY},
    )


def _newton_cg(search: _Search) -> None:
    """Newton's method by conjugate gradients in a trust region (Steihaug 1983)."""
    size = max(1.0, float(np.linalg.norm(search.best.theta)))
    minimize(
        search.value,
        search.best.theta,
        jac=True,
        hessp=search.product,
        method="trust-ncg",
        callback=search.step,
        options={
            "gtol": 0.0,
            "initial_trust_radius": 0.1 * size,
            "max_trust_radius": 1e3 * size,
            "maxiter": _MANY,
        },
    )


def _newton_steps(search: _Search) -> None:
    """Newton's steps judged by |∇L|, where rounding of L hides what they gain."""
    while True:
        before = search.best
        move = _newton_step(search, before)
        if not np.isfinite(move).all() or move @ before.gradient >= 0:
            return
        search.value(before.theta + move)
        if search.best.norm > before.norm / 2:
            return
        search.step()


def _newton_step(search: _Search, point: _Point) -> np.ndarray:
    """−(∇²L)⁻¹∇L, in the range of ∇²L."""
    size = len(point.theta)
    if size <= MOST_MODES:
        hess = np.asarray(compiled.hessian(search.landscape, search.put(point.theta)), float)
        cutoff = curvature_rounding(search.put(point.theta))
        return np.linalg.lstsq((hess + hess.T) / 2, -point.gradient, rcond=cutoff)[0]
    make: Any = LinearOperator  # its stubs do not know `matvec`
    operator = make((size, size), matvec=lambda v: search.product(point.theta, v), dtype=float)
    return cg(operator, -point.gradient, rtol=1e-2, maxiter=_MOST_PRODUCTS)[0]


def _follow_flow(search: _Search, start: np.ndarray) -> None:
    """dθ/dt = −∇L(θ), in stretches of a fraction of a second."""
    first, still = search.put(start), search.goal
    state, most = begin_flow(search.landscape, first), 1
    while True:
        before, done = time.monotonic(), int(state.num_steps)
        most = min(most, search.max_steps - done)
        limits = np.int32(done + most), np.asarray(still, search.landscape.dtype)
        state = jax.block_until_ready(_flow(search.landscape, state, first, *limits))
        spent = time.monotonic() - before
        search.value(np.asarray(state.theta, float))
        search.idle = 0
        search.step(count=int(state.num_steps) - done)
        if int(state.num_steps) == done:
            still = 0.0  # the same gradient, computed twice, may differ by its rounding
        ending = int(state.ending)
        if ending == Ending.MINIMUM:
            raise _Stop(f"is the rounding of {search.landscape.dtype}", rounding=True)
        if ending != RUNNING:
            raise _Stop(f"is where the gradient flow {Ending(ending).reason}")
        most = 2 * most if spent < _SEGMENT_SECONDS / 2 else most


def _start(landscape: AbstractLandscape, theta: Any) -> Float[np.ndarray, " d"]:
    if isinstance(theta, eqx.Module):
        raise ValueError(
            f"theta is {in_brief(theta)}, and must be flat parameters (d,): a model's own are "
            f"landscape.initial, of another one landscape.ravel(eqx.filter(model, "
            f"eqx.is_inexact_array))."
        )
    point = as_real("theta", theta, landscape.dtype)
    if point.shape != (landscape.dimension,):
        raise ValueError(f"theta must have shape ({landscape.dimension},), got {point.shape}.")
    return np.asarray(point, float)


# Compiled once for each kind of landscape, not once for each call.
_value = eqx.filter_jit(lambda landscape, theta: (landscape.loss(theta), landscape.gradient(theta)))


@eqx.filter_jit
def _flow(landscape, state, start, most, still):
    return follow_some(
        landscape, state, start, TOLERANCE, most=jnp.asarray(most), still=jnp.asarray(still)
    )


@eqx.filter_jit
def _example_gradient(landscape: AbstractLandscape, theta: Vector) -> Array:
    """√E|g|², g the gradient of one example, from a few draws of covariance Σ(θ)."""
    shape = (_NUM_DRAWS, landscape.noise_dimension)
    z = jnp.asarray(np.random.default_rng(0).normal(size=shape), theta.dtype)
    squares = lax.map(lambda row: jnp.sum(landscape.noisy_gradient(theta, row, 1.0) ** 2), z)
    return jnp.sqrt(jnp.mean(squares))
