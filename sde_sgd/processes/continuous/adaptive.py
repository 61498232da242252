"""The SDE of an adaptive optimiser, on its clock t = η²k."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from sde_sgd._checks import check_whole, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, check_noise, MinibatchNoise
from sde_sgd.noise.thermal import check_bath, without_bath
from sde_sgd.processes._cost import of_all_examples
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import by_its_clock, Clock
from sde_sgd.processes.continuous._steps import standard_normal, step_members
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.processes.discrete.adaptive import AbstractAdaptive
from sde_sgd.processes.rules import of_optimizer, Rule
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions


class AdaptiveState(eqx.Module):
    """θ (members, d) and the optimiser's accumulators, members first."""

    theta: Positions
    memory: PyTree[Array]


class AdaptiveEquation(AbstractProcess):
    """The SDE of an adaptive optimiser (Itô), t = η²k, solved in steps of 1/`substeps` iterations.

    The other side is `OptaxSGD(landscape, optimizer, sampling)`. The two differ at any η by what
    the optimiser's memory makes of single gradients, of relative order 1 − β.

    **Arguments:**

    - `landscape`, `noise`: as `ModifiedEquation`. `Adam` and `RMSprop` ask for the noise's
      `variance`: with `MinibatchNoise` a solver step costs one weighted gradient, ∇L, and the
      gradients of all N examples in blocks (on a CPU some thirty times the time of ∇L for a network
      of 10⁵ numbers), and no d×d or N×d numbers. So does `SignSGD` with `diagonal=True`; without
      it C(θ) is formed.
    - `optimizer`: `Adam`, `RMSprop` or `SignSGD`, with the equation that each documents; its
      learning rate may be a schedule, t = Σ η_j².
    - `substeps`: solver steps an iteration.
    - `refinement`: r > 1 sums r finer Brownian increments for each step.

    **Raises:** `ValueError` for an optimiser whose SDE is not known, an optax one among them.
    """

    landscape: AbstractLandscape
    optimizer: AbstractAdaptive
    noise: AbstractGradientNoise
    num_substeps: int = eqx.field(static=True)
    refinement: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        optimizer: Any,
        noise: AbstractGradientNoise,
        substeps: int = 4,
        refinement: int = 1,
    ):
        check_noise(landscape, noise)
        if not isinstance(optimizer, AbstractAdaptive):
            raise ValueError(
                f"optimizer: the SDE of {in_brief(optimizer)} is not known. Known are those of "
                f"ss.Adam, ss.RMSprop and ss.SignSGD (ss.OptaxSGD takes the same object), of SGD "
                f"(ss.ModifiedEquation), of heavy ball (ss.UnderdampedEquation) and of "
                f"sharpness-aware minimisation (ss.SAMEquation)."
            )
        self.landscape, self.optimizer, self.noise = landscape, optimizer, noise
        self.num_substeps = check_whole("substeps", substeps)
        self.refinement = check_whole("refinement", refinement)
        check_bath(noise, optimizer.learning_rate.constant(), "AdaptiveEquation")
        optimizer.check(landscape)

    @property
    def substeps(self) -> int:
        return self.num_substeps

    autonomous = by_its_clock

    @property
    def clock(self) -> Clock:
        return Clock(self.optimizer.learning_rate, power=2)

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        return self.noise

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 1

    def refined(self, substeps: int, refinement: int = 1) -> "AdaptiveEquation":
        """The same equation at another solver step."""
        return AdaptiveEquation(self.landscape, self.optimizer, self.noise, substeps, refinement)

    @property
    def update_rule(self) -> Rule:
        name = type(self.optimizer).__name__
        return of_optimizer(name, self.landscape, self.optimizer.optax())

    @property
    def gradients_per_iteration(self) -> float:
        """N for each gradient that a step takes: the weighted one, and of the variance
        those of the examples and their mean; NaN unless the noise is exact.
        """
        if not isinstance(without_bath(self.noise), MinibatchNoise):
            return math.nan
        return of_all_examples(self.landscape, self.optimizer.gradients_per_step * self.substeps)

    def limit(self) -> ContinuousLimit:
        return ContinuousLimit(self)

    def check(self) -> None:
        self.noise.check(self.landscape)

    def init(self, theta: Positions, draws: Draws) -> AdaptiveState:
        return AdaptiveState(theta, jax.vmap(self.optimizer.init)(theta))

    def step(self, state: AdaptiveState, draws: Draws, observe: Observe, carry: Any):
        own, step = self.optimizer, 1 / self.substeps
        size = own.noise_dimension(self.landscape, self.noise)

        def advance(state, draws, j):
            theta, memory = state
            z = standard_normal(self, size, draws, j)
            u, memory = own.direction(theta, memory, z, step, self.landscape, self.noise)
            eta = own.learning_rate.at(draws.iteration, theta.dtype)
            decay = own.weight_decay.astype(theta.dtype)
            return theta - eta * step * (u + decay * theta), memory

        loop = (state.theta, state.memory)
        moved, carry = step_members(
            self.substeps, advance, loop, draws, observe, carry, position=lambda pair: pair[0]
        )
        return AdaptiveState(*moved), carry

    def position(self, state: AdaptiveState) -> Positions:
        return state.theta
