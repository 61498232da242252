"""SGD with momentum in continuous time: its underdamped equation and the overdamped limit."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_sgd._checks import check_fraction, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, check_noise
from sde_sgd.noise.thermal import check_bath
from sde_sgd.processes._cost import of_noisy_steps
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import Clock, constant_rate, LearningRate
from sde_sgd.processes.continuous._equation import AbstractEquation
from sde_sgd.processes.continuous._steps import standard_normal, step_members
from sde_sgd.processes.continuous.limit import AbstractOfEquation
from sde_sgd.processes.continuous.modified import ModifiedEquation
from sde_sgd.processes.linear import LinearStep, underdamped_step
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.processes.step_laws import Diffusion, matched_diffusion
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, RealLike, Vector


class UnderdampedState(eqx.Module):
    """θ and the buffer m = −V, both (members, d)."""

    theta: Positions
    velocity: Positions


class UnderdampedEquation(AbstractEquation):
    """The second-order SDE of heavy ball, m ← μm + ĝ, θ ← θ − ηm (Itô), t = ηk:

        dX = V dt,   dV = −[(1−μ)/η] V dt − (1/η) ∇L(X) dt + η^{−1/2} C^{1/2}(X) dW,

    C = Cov(ĝ) of one iteration, V(0) = 0. It is of weak order one in η at fixed μ. In the clock s
    of iterations and with the buffer m = −V it reads dθ = −ηm ds, dm = −(1−μ)m ds + ∇L ds +
    C^{1/2} dW_s, which also holds for a schedule η_s.

    The integrator composes half a drift of θ, the exact Ornstein–Uhlenbeck move of m at the θ
    held there, and the other half: weak order two in the step 1/substeps for any C(θ), with one
    noisy gradient a step. `theory.stationary.covariance` and `transient` are exact on a quadratic
    loss, at its step and for `limit()`, the SDE.

    **Arguments:**

    - `landscape`, `learning_rate` (η > 0 or a schedule), `noise` (a gradient-noise model).
    - `momentum`: μ in [0, 1).
    - `substeps`: solver steps an iteration.
    - `refinement`: r > 1 sums r finer Brownian increments for each step: paired runs at two steps.

    **Raises:** `ValueError` for bad parts and numbers.

    **Source:** Li, Tai, E 2019 have this equation for x ← x + ηv, another scaling; the splitting
    is that of Leimkuhler and Matthews 2013 with both halves of θ outside.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    momentum: Array
    noise: AbstractGradientNoise
    num_substeps: int = eqx.field(static=True)
    refinement: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        momentum: RealLike,
        substeps: int = 4,
        refinement: int = 1,
    ):
        check_noise(landscape, noise)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.momentum = check_fraction("momentum", momentum)
        self.noise = noise
        self.num_substeps = check_whole("substeps", substeps)
        self.refinement = check_whole("refinement", refinement)

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 2

    def refined(self, substeps: int, refinement: int = 1) -> "UnderdampedEquation":
        """The same equation at another solver step."""
        rate = self.learning_rate.given
        return UnderdampedEquation(
            self.landscape, rate, self.noise, self.momentum, substeps, refinement
        )

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate, self.momentum)

    @property
    def gradients_per_iteration(self) -> float:
        """substeps·N, a weighted gradient a step, with exact or constant noise."""
        return of_noisy_steps(self.landscape, self.noise, self.substeps)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return underdamped_step(learning_rate, float(self.momentum), curvature, self.substeps)

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return underdamped_step(learning_rate, float(self.momentum), curvature, None)

    def init(self, theta: Positions, draws: Draws) -> UnderdampedState:
        return UnderdampedState(theta, jnp.zeros_like(theta))

    def step(self, state: UnderdampedState, draws: Draws, observe: Observe, carry: Any):
        def advance(pair, own, j):
            theta, velocity = pair
            return self._advance(theta, velocity, own, j)

        loop = (state.theta, state.velocity)
        moved, carry = step_members(
            self.substeps, advance, loop, draws, observe, carry, position=lambda pair: pair[0]
        )
        return UnderdampedState(*moved), carry

    def _advance(self, theta: Vector, velocity: Vector, draws: Draws, j) -> tuple[Vector, Vector]:
        dtype, step = theta.dtype, 1 / self.substeps
        eta = self.learning_rate.at(draws.iteration, dtype)
        friction = (1 - self.momentum).astype(dtype)
        decay = jnp.exp(-friction * step)
        push = -jnp.expm1(-friction * step) / friction
        spread = jnp.sqrt(-jnp.expm1(-2 * friction * step) / (2 * friction))
        z = standard_normal(self, self.noise.dimension(self.landscape), draws, j)
        middle = theta - 0.5 * step * eta * velocity
        kick = self.noise.noisy_gradient(middle, z, spread / push, self.landscape)
        velocity = decay * velocity + push * kick
        return middle - 0.5 * step * eta * velocity, velocity


class OverdampedEquation(AbstractOfEquation):
    """The overdamped limit of heavy ball, (1−μ)dX = −∇L dt + √η C^{1/2}(X) dW (Itô), t = ηk.

    It is the modified equation at the rate η/(1−μ), on the clock of SGD with momentum: after k
    iterations both are at t = ηk. Euler with `substeps` steps an iteration; first or second
    order in η/(1−μ) of SGD *without* momentum, of heavy ball only where μ-dependent terms of
    relative order ηλ/(1−μ)² are small.

    **Arguments:** as `UnderdampedEquation`, and `order`, `increments` as `ModifiedEquation`.

    **Raises:** `ValueError` as these, and for a schedule.
    """

    learning_rate: LearningRate
    equation: ModifiedEquation
    momentum: Array

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        momentum: RealLike,
        substeps: int = 8,
        order: int = 1,
        increments: Any = "gaussian",
        refinement: int = 1,
    ):
        self.momentum = check_fraction("momentum", momentum)
        self.learning_rate = LearningRate(learning_rate)
        eta = self.learning_rate.constant()
        if eta is None:
            raise ValueError("OverdampedEquation needs a constant learning rate, no schedule.")
        # C is that of an iteration at η, and a bath in it is made for η.
        check_bath(noise, eta, "OverdampedEquation")
        at_eta = ModifiedEquation(
            landscape,
            eta,
            noise,
            order=order,
            substeps=substeps,
            increments=increments,
            refinement=refinement,
        )
        slow = LearningRate(eta / (1 - float(self.momentum)))
        # The landscape is a leaf, so that it stays the same object (`Stages` asks).
        rate = at_eta.learning_rate
        self.equation = jax.tree.map(
            lambda part: slow if part is rate else part,
            at_eta,
            is_leaf=lambda part: part is rate or part is landscape,
        )

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate)

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 1

    def refined(self, substeps: int, refinement: int = 1) -> "OverdampedEquation":
        """The same equation at another solver step."""
        inner = self.equation
        eta = self.learning_rate.given
        options = (substeps, inner.order, inner.increments, refinement)
        return OverdampedEquation(self.landscape, eta, inner.noise, self.momentum, *options)

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate, self.momentum)

    @property
    def gradients_per_iteration(self) -> float:
        """As its equation."""
        return self.equation.gradients_per_iteration

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return self.equation.linear_step(learning_rate / (1 - float(self.momentum)), curvature)

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return self.equation.linear_limit(learning_rate / (1 - float(self.momentum)), curvature)

    def law(self) -> Diffusion:
        return self._law(self.equation.law().step * (1 - self.momentum))

    def limit_law(self) -> Diffusion:
        return self._law(0.0)

    def _law(self, step: RealLike) -> Diffusion:
        own, slower = self.equation, 1 - self.momentum
        eta = constant_rate(own.learning_rate)
        return matched_diffusion(
            own.landscape, own.noise, eta, order=own.order, step=step, slower=slower
        )

    def init(self, theta: Positions, draws: Draws) -> Any:
        return self.equation.init(theta, draws)

    def step(self, state: Any, draws: Draws, observe: Observe, carry: Any):
        return self.equation.step(state, draws, observe, carry)

    def position(self, state: Any) -> Positions:
        return self.equation.position(state)
