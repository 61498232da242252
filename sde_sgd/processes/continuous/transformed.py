"""The modified equation in other coordinates, for noise that Euler in θ cannot carry."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_sgd._checks import check_callable, check_flag, check_part, output_shape
from sde_sgd.processes.base import Observe
from sde_sgd.processes.continuous._steps import brownian_increment, step_members
from sde_sgd.processes.continuous.limit import AbstractOfEquation
from sde_sgd.processes.continuous.modified import ModifiedEquation
from sde_sgd.processes.drift import force
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, Vector

# Rounding of there and back that passes, in units of the dtype's.
_ROUNDING = 1e3
_COME = "members where the run has come"


@eqx.filter_jit
def _there_and_back(there: Callable, back: Callable, points: Positions) -> tuple[Array, Array]:
    """back(there(x)) of points (members, n), and how far off it is (members,), in roundings.

    One rounding is eps·(|x| + |Jy| + |Jy′|), J the derivative of `back` at y = there(x), y′ = y
    with alternating signs: what roundings of y make of x.
    """

    def one(x):
        y = there(x)
        signs = jnp.where(jnp.arange(y.shape[0]) % 2 == 0, 1, -1).astype(y.dtype)
        found, same = jax.jvp(back, (y,), (y,))
        _, other = jax.jvp(back, (y,), (y * signs,))
        size = jnp.linalg.norm(x)
        pull = jnp.linalg.norm(same) + jnp.linalg.norm(other)
        unit = jnp.finfo(x.dtype).eps * (size + jnp.where(jnp.isfinite(pull), pull, 0))
        gap = jnp.linalg.norm(found - x)
        return found, jnp.where(gap == 0, 0, gap / unit)

    return jax.vmap(one)(points)


class TransformedState(eqx.Module):
    """y = φ(θ), (members, p)."""

    coordinates: Positions


class TransformedEquation(AbstractOfEquation):
    """Euler–Maruyama in y = φ(θ) for the modified equation dθ = b dt + √η R(θ) dW, RRᵀ = C.

    By Itô's formula, with derivatives by automatic differentiation,

        dy = a(y) dt + G(y) dW,   a = ∇φ·b + (η/2) Σ_j D²φ(R_j, R_j),   G = √η ∇φ·R

    at θ = ψ(y), R_j the columns of R. It converges to the same Itô equation, with other
    errors of order h. In y = log θ noise proportional to θ becomes additive (geometric
    Brownian motion is exact at any h), and positions stay positive. What is kept is y, so that
    θ → 0 loses no digits.

    Noise that grows faster than θ, with which Euler in θ diverges at every h, still grows in
    log θ. `tamed=True` divides both a and G by 1 + h(|a| + |G|²): no step exceeds 1 by its drift
    and ½|z| by its noise, and the weak order stays one.

    The noise path is that of `equation`: two runs with one key are paired.

    **Arguments:**

    - `equation`: a `ModifiedEquation` with `diffrax.Euler()`. Its order, noise, substeps,
      increments and refinement hold.
    - `forward`: φ, θ (d,) ↦ y (p,), twice differentiable where the members go.
    - `inverse`: ψ, y ↦ θ, with ψ(φ(θ)) = θ. Where p > d, y is taken off the image of φ by
      discretisation, and ψ must be defined there.
    - `tamed`: tame the steps, as above.

    Costs R(θ), (d, k), and k second derivatives a step.

    **Raises:** `ValueError` for another solver, for functions of other shapes, and in
    `simulate` for starts outside the domain, where ψ(φ(θ)) ≠ θ. The same is asked again of where
    the members are about twice a second and at the end, and φ(ψ(y)) = y as well if p = d.

    **Source:** Itô's formula; on the divergence of Euler's scheme, Hutzenthaler, Jentzen, Kloeden,
    Proc. R. Soc. A 467 (2011) 1563; taming of both coefficients after Sabanis, Ann. Appl.
    Probab. 26 (2016) 2083, with h in place of √h.
    """

    equation: ModifiedEquation
    forward: Callable
    inverse: Callable
    tamed: bool = eqx.field(static=True)

    def __init__(
        self,
        equation: ModifiedEquation,
        forward: Callable,
        inverse: Callable,
        tamed: bool = False,
    ):
        check_part("equation", equation, ModifiedEquation, "a ModifiedEquation")
        self.equation = equation
        self.forward = check_callable("forward", forward, "jnp.log")
        self.inverse = check_callable("inverse", inverse, "jnp.exp")
        self.tamed = check_flag("tamed", tamed)

    def __check_init__(self):
        if not isinstance(self.equation.solver, dfx.Euler):
            raise ValueError(
                f"TransformedEquation takes Euler steps in its own coordinates; the equation has "
                f"{type(self.equation.solver).__name__}. Make it with diffrax.Euler()."
            )
        theta = jax.ShapeDtypeStruct((self.landscape.dimension,), self.landscape.dtype)
        there = output_shape("forward(θ)", self.forward, theta)
        back = None
        if there.ndim == 1:
            back = output_shape("inverse(y)", self.inverse, there)
        if back is None or (back.shape, back.dtype) != (theta.shape, theta.dtype):
            raise ValueError(
                f"forward must take θ {theta.shape} to a vector and inverse take it back, in "
                f"{theta.dtype}; forward gives {there} and inverse {back}."
            )

    def overshoot(self, curvature: float) -> tuple[float, str] | None:
        # A smooth map keeps the slope of a step at rest; a tamed step is bounded.
        return None if self.tamed else self.equation.overshoot(curvature)

    def limit_law(self) -> Diffusion:
        return self.equation.limit_law()

    def check_start(self, theta: Positions) -> None:
        self._refuse_other(("θ", "starts"), self.forward, self.inverse, theta, True)

    def check_state(self, state: TransformedState) -> None:
        y, theta = state.coordinates, self.position(state)
        alive = jnp.isfinite(y).all(axis=1) & jnp.isfinite(theta).all(axis=1)
        self._refuse_other(("θ", _COME), self.forward, self.inverse, theta, alive)
        if y.shape == theta.shape:
            # Where θ is all that is left of y, as 0 is of the logarithm of what underflows, nothing
            # can be asked.
            known = alive & jnp.isfinite(jax.vmap(self.forward)(theta)).all(axis=1)
            self._refuse_other(("y", _COME), self.inverse, self.forward, y, known)

    def _refuse_other(self, words: tuple[str, str], there, back, points, asked) -> None:
        """Raises where back(there(x)) is not x at the points asked about."""
        found, off = _there_and_back(there, back, points)
        wrong = np.asarray(asked & ~(off <= _ROUNDING))
        if wrong.any():
            member = int(np.argmax(wrong))
            name, which = words
            composed = "inverse(forward(θ))" if name == "θ" else "forward(inverse(y))"
            raise ValueError(
                f"{composed} differs from {name} for {int(wrong.sum())} of {wrong.size} {which}, "
                f"the first of them member {member}: {np.asarray(points[member])} becomes "
                f"{np.asarray(found[member])}. Stay inside the domain of the coordinates, where "
                f"forward and inverse belong together: take others, or other starts."
            )

    def init(self, theta: Positions, draws: Draws) -> TransformedState:
        return TransformedState(jax.vmap(self.forward)(theta))

    def position(self, state: TransformedState) -> Positions:
        return jax.vmap(self.inverse)(state.coordinates)

    def step(self, state: TransformedState, draws: Draws, observe: Observe, carry: Any):
        y, carry = step_members(
            self.substeps,
            self._advance,
            state.coordinates,
            draws,
            observe,
            carry,
            position=jax.vmap(self.inverse),
        )
        return TransformedState(y), carry

    def _advance(self, y: Vector, draws: Draws, j) -> Vector:
        """One solver step of length 1/substeps in iterations: dθ = η b ds + η R dW_s."""
        equation, landscape = self.equation, self.landscape
        theta = self.inverse(y)
        eta = equation.learning_rate.at(draws.iteration, theta.dtype)
        size = equation.noise.dimension(landscape)
        increment = brownian_increment(equation, size, draws, j, equation.increments)
        dt = jnp.asarray(1 / self.substeps, theta.dtype)
        drift = force(landscape, theta, eta, equation.order)
        root = eta * equation.noise.diffusion(theta, landscape).as_matrix()

        def along(column):
            """∇φ·R_j and D²φ(R_j, R_j)."""
            return jax.jvp(lambda x: jax.jvp(self.forward, (x,), (column,))[1], (theta,), (column,))

        slopes, curved = jax.vmap(along, in_axes=1, out_axes=1)(root)
        bent = jax.jvp(self.forward, (theta,), (-eta * drift,))[1] + 0.5 * curved.sum(axis=1)
        moved = dt * bent - slopes @ increment
        if self.tamed:
            moved = moved / (1 + dt * (jnp.linalg.norm(bent) + jnp.sum(slopes**2)))
        return y + moved
