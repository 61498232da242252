"""Sharpness-aware minimisation: the discrete step (its equation is in `continuous/sam.py`)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sde_sgd._checks import check_flag, check_non_negative
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.processes._cost import of_batches
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.discrete._batches import AbstractBatchProcess
from sde_sgd.processes.discrete._sam_moments import largest_stable_rate, least_squares_of
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.processes.linear import NotKnown
from sde_sgd.processes.rules import Rule
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, RealLike, Scalar


class SAMState(eqx.Module):
    """θ (members, d) and the sampler's state."""

    theta: Positions
    sampling: PyTree[Array]


class SAM(AbstractBatchProcess):
    """θ ← θ − η ∇ℓ_B(θ + ρ u), one batch for both gradients, t = ηk.

    u = ∇ℓ_B(θ) (`normalized=False`, USAM, of which `SAMEquation` is the SDE), or that over its
    norm (SAM as published; 0 where the gradient is 0).

    **Arguments:** `landscape`, `learning_rate`, `sampling` as `SGD`; `radius`: ρ ≥ 0.

    **Source:** Foret et al. 2021 (2010.01412); Andriushchenko, Flammarion 2022 (2206.06232).
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    radius: Scalar
    sampling: AbstractSampling
    normalized: bool = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        radius: RealLike,
        sampling: AbstractSampling,
        normalized: bool = False,
    ):
        check_batches(landscape, sampling)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.radius = check_non_negative("radius", radius, float)
        self.sampling = sampling
        self.normalized = check_flag("normalized", normalized)

    @property
    def update_rule(self) -> Rule:
        how = "normalised " * self.normalized
        return Rule(f"{how}SAM with radius {float(self.radius):g}", None)

    @property
    def gradients_per_iteration(self) -> float:
        """2B: at θ and at the ascended point."""
        return of_batches(self.landscape, self.sampling.batch_size, 2)

    def largest_stable_rate(self, about: Any = None, at_step_zero: bool = False) -> float:
        """On `LeastSquares`, exact, from fourth moments of the batches."""
        if self.normalized:  # the kick is bounded, so that it is SGD that may grow
            return SGD(self.landscape, self.learning_rate.given, self.sampling).largest_stable_rate(
                about
            )
        if self.epoch is not None:
            raise NotKnown("Batches of shuffled epochs depend on each other: no limit is known.")
        inputs, l2 = least_squares_of(self, about)
        return largest_stable_rate(inputs, float(self.radius), self.sampling, l2)

    def stable(self, about: Any = None) -> bool:
        eta = self.learning_rate.constant()
        return eta is not None and eta < self.largest_stable_rate(about)

    def overshoot(self, curvature: float) -> tuple[float, str] | None:
        eta = self.learning_rate.constant()
        climb = 0.0 if self.normalized else float(self.radius) * curvature
        return None if eta is None else (eta * curvature * (1 + climb), "η λ_max(1 + ρ λ_max)")

    def init(self, theta: Positions, draws: Draws) -> SAMState:
        return SAMState(theta, self.sampling.init(draws, self.landscape))

    def step(self, state: SAMState, draws: Draws, observe: Observe, carry: Any):
        sampling, examples = self.sampling.draw(state.sampling, draws, self.landscape)
        eta = self.learning_rate.at(draws.iteration, state.theta.dtype)
        radius = self.radius.astype(state.theta.dtype)

        def ahead(theta, batch):
            climb = self.landscape.minibatch_gradient(theta, batch)
            if self.normalized:
                norm = jnp.linalg.norm(climb)
                climb = climb / jnp.where(norm > 0, norm, 1)
            return self.landscape.minibatch_gradient(theta + radius * climb, batch)

        theta = state.theta - eta * jax.vmap(ahead)(state.theta, examples)
        carry = observe(carry, state.theta, theta, jnp.uint32(0))
        return SAMState(theta, sampling), carry
