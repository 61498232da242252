"""A search for a minimum: what it has seen, when it is over, and what it says then."""

import math
import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jaxtyping import Array

from sde_sgd._checks import in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.degenerate import fall_beside
from sde_sgd.landscapes.modes import curvature_rounding, MOST_MODES, Surroundings, surroundings
from sde_sgd.terminal import StatusLine
from sde_sgd.types import Vector

# Draws of the gradient noise from which the size of one example's gradient is estimated.
_NUM_DRAWS = 8
# Iterations without a better point after which a search is over, and products of one Newton step.
_PATIENCE = 12
_MOST_PRODUCTS = 250
# Newton's steps on x^{2k} become shorter by (2k − 2)/(2k − 1): up to k = 5, not on e^{−x}.
_SHORTER = 0.95
# Gradients that a look at the curvature costs.
_OUTLOOK = 300


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


class Stop(Exception):
    """The search is over, at a small gradient, at one that is rounding, or before."""

    def __init__(self, reason: str, *, small: bool = False, rounding: bool = False):
        super().__init__(reason)
        self.reason, self.small, self.rounding = reason, small, rounding


class Stalled(Exception):
    """No better point for a while."""


class Point:
    """θ (d,) in doubles, L and ∇L there."""

    def __init__(self, theta: np.ndarray, loss: float, gradient: np.ndarray):
        self.theta, self.loss, self.gradient = theta, loss, gradient
        self.norm = float(np.linalg.norm(gradient))
        self.finite = bool(np.isfinite(loss) and np.isfinite(gradient).all())


class Search:
    """L and its derivatives for SciPy; keeps the best point, and ends the search when it must."""

    best: Point

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

    def newton_step(self, point: Point) -> np.ndarray:
        """−(∇²L)⁻¹∇L, in the range of ∇²L."""
        size = len(point.theta)
        if size <= MOST_MODES:
            hess = np.asarray(compiled.hessian(self.landscape, self.put(point.theta)), float)
            cutoff = curvature_rounding(self.put(point.theta))
            return np.linalg.lstsq((hess + hess.T) / 2, -point.gradient, rcond=cutoff)[0]
        make: Any = scipy.sparse.linalg.LinearOperator  # its stubs do not know `matvec`
        operator = make((size, size), matvec=lambda v: self.product(point.theta, v), dtype=float)
        solve = scipy.sparse.linalg.cg
        return solve(operator, -point.gradient, rtol=1e-2, maxiter=_MOST_PRODUCTS)[0]

    def step(self, *_: Any, count: int = 1) -> None:
        """Some iterations are over; ends the search if it is done."""
        self.num_steps += count
        self.idle += 1
        if self.line.due:
            self.line.write(f"{self._told}; {self.goal:.3g} wanted")
        self.look()
        if self.idle > _PATIENCE:
            raise Stalled

    def look(self) -> None:
        """Ends the search at a small gradient, at the end of its steps or time, and on Ctrl-C."""
        on = "go on from this theta"
        if self.best.norm <= self.goal:
            share = f"tolerance={self.tolerance:.3g} of one example's gradient at the start"
            raise Stop(f"is within {share}, {self.scale:.3g}", small=True)
        if self.num_steps >= self.max_steps:
            raise Stop(f"is not small when max_steps={self.max_steps} are over: {on}")
        if self.interrupt.requested:
            raise Stop(f"is not small when the search is interrupted: {on}")
        if time.monotonic() - self.started > self.budget:
            raise Stop(f"is not small when budget={self.budget:g} s is over: {on}")

    def stalled(self) -> Stop:
        """Why no step leads lower: rounding of θ, or something else."""
        signs = np.where(np.arange(len(self.best.theta)) % 2 == 0, 1.0, -1.0)
        beside = self._at(self.best.theta * (1 + self.eps * signs))
        noise = float(np.linalg.norm(beside.gradient - self.best.gradient))
        if self.best.norm <= 10 * noise:
            return Stop(f"is the rounding of {self.landscape.dtype}", rounding=True)
        return Stop(
            f"is above tolerance={self.tolerance:.3g} of one example's gradient at the start, "
            f"{self.scale:.3g}, and no step leads lower: L may have a kink there (ReLU), or need "
            f"float64"
        )

    def result(self, stop: Stop) -> Minimum:
        """The best point, and what the curvature says of it."""
        reason, converged, around = stop.reason, stop.small or stop.rounding, None
        spent = time.monotonic() - self.started
        if not self.interrupt.requested and spent + _OUTLOOK * self.slowest < self.budget:
            around = self._around(self.best)
            if stop.small:
                around = self._polished(around)
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

    def _around(self, point: Point) -> Surroundings:
        seen = surroundings(self.landscape, self.put(point.theta))
        return Surroundings(*(np.asarray(x, float) for x in seen))

    def _polished(self, around: Surroundings) -> Surroundings:
        """Newton's steps from a small gradient, for as long as they are long and become shorter.

        Where ∇²L vanishes at the minimum, as that of x⁴ does, ∇L is small long before θ is near.
        """
        self.goal = 0.0
        while len(self.best.theta) <= MOST_MODES and around.newton > self._near:
            ahead = self._at(self.best.theta + self.newton_step(self.best))
            if not (ahead.finite and ahead.norm < self.best.norm):
                break
            after = self._around(ahead)
            if not after.newton < _SHORTER * around.newton:
                break
            self.best, around = ahead, after
            self.num_steps += 1
            try:
                self.look()
            except Stop:
                break
        return around

    @property
    def _near(self) -> float:
        """The longest Newton's step at a minimum."""
        return math.sqrt(self.tolerance) * max(1.0, float(np.linalg.norm(self.best.theta)))

    def _refuted(self, around: Surroundings, small: bool) -> str:
        """Why a point with a small gradient is no minimum; nothing if it is one."""
        theta = self.best.theta
        share = max(self.tolerance, curvature_rounding(self.put(theta)))
        if around.smallest < -share * abs(around.largest):
            return (
                f", but ∇²L has an eigenvalue {around.smallest:.3g}: a saddle or a maximum, move "
                f"the start a little"
            )
        if small and around.newton > self._near:
            return (
                f", but L is so flat that Newton's step is {around.newton:.3g} long: lower "
                f"tolerance, or add l2 if L falls for ever"
            )
        fall = fall_beside(self._loss, self._rounding, theta, around, self.eps)
        if fall is not None:
            return (
                f", but L falls along a direction in which ∇²L is (nearly) zero, and is lower "
                f"{fall:.2g} away: a degenerate saddle or maximum, move the start a little; or L "
                f"falls for ever, as on separable data, and needs l2"
            )
        return ""

    def _loss(self, x: np.ndarray) -> float:
        return float(compiled.loss(self.landscape, self.put(x)))

    def _rounding(self, x: np.ndarray) -> float:
        return 64 * compiled.loss_rounding(self.landscape, x[None])

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

    def _at(self, x: np.ndarray) -> Point:
        theta = self.put(x)
        loss, gradient = _value(self.landscape, theta)
        return Point(np.asarray(theta, float), float(loss), np.asarray(gradient, float))


# Compiled once for each kind of landscape, not once for each call.
_value = eqx.filter_jit(lambda landscape, theta: (landscape.loss(theta), landscape.gradient(theta)))


@eqx.filter_jit
def _example_gradient(landscape: AbstractLandscape, theta: Vector) -> Array:
    """√E|g|², g the gradient of one example, from a few draws of covariance Σ(θ)."""
    shape = (_NUM_DRAWS, landscape.noise_dimension)
    z = jnp.asarray(np.random.default_rng(0).normal(size=shape), theta.dtype)
    squares = lax.map(lambda row: jnp.sum(landscape.noisy_gradient(theta, row, 1.0) ** 2), z)
    return jnp.sqrt(jnp.mean(squares))
