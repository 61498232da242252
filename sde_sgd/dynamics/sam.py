"""Sharpness-aware minimisation: the discrete step and its modified equation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..draws import Draws
from ..landscapes.base import AbstractLandscape
from ..landscapes.validate import check_non_negative
from ..noise.models import MinibatchNoise
from ..noise.sampling import AbstractSampling
from ..types import Positions, RealLike, Scalar, Vector
from ._steps import standard_normal, step_members
from .base import AbstractProcess, check_part, check_whole, LearningRate, Observe
from .continuous import FlowState


class SAMState(eqx.Module):
    """θ (members, d) and the sampler's state."""

    theta: Positions
    sampling: PyTree[Array]


class SAM(AbstractProcess):
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
        check_part("landscape", landscape, AbstractLandscape, "a landscape such as LeastSquares")
        check_part("sampling", sampling, AbstractSampling, "a scheme such as WithReplacement(8)")
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.radius = check_non_negative("radius", radius, float)
        self.sampling = sampling
        self.normalized = bool(normalized)
        sampling.check(landscape)

    @property
    def substeps(self) -> int:
        return 1

    @property
    def restartable(self) -> bool:
        return self.learning_rate.schedule is None

    def check(self) -> None:
        self.sampling.check(self.landscape)

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

    def position(self, state: SAMState) -> Positions:
        return state.theta

    def time(self, iterations: np.ndarray) -> np.ndarray:
        return self.learning_rate.time(iterations)


class SAMEquation(AbstractProcess):
    """The modified equation of USAM (`SAM` without normalisation; Itô), t = ηk:

        dθ = −∇L̃ dt + √η C̃^{1/2} dW,   L̃ = L + (ρ/2) E|∇ℓ_B|² = L + (ρ/2)(|∇L|² + c tr Σ),

    C̃ to first order in ρ: noise of the gradient of ℓ_B + (ρ/2)|∇ℓ_B|², in which
    δg = C^{1/2}dW becomes δg + ρ(δg′·∇L + H δg), δg′ the derivative of δg in θ. Exact in ρ where
    all examples share a constant Hessian; otherwise of relative order ρ². Euler's scheme with
    `substeps` steps an iteration. SAM *with* normalisation is drawn to E|∇ℓ_B| instead, which no
    covariance knows: no equation for it here.

    **Arguments:** `landscape`, `learning_rate`, `radius` ρ ≥ 0; `noise`: `MinibatchNoise`;
    `refinement` as `ModifiedEquation`. Costs the gradient of tr Σ, N example gradients, each step.

    **Source:** Compagnoni et al. 2023 (2301.08203), USAM, Theorem 3.2.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    radius: Scalar
    noise: MinibatchNoise
    num_substeps: int = eqx.field(static=True)
    refinement: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        radius: RealLike,
        noise: MinibatchNoise,
        substeps: int = 8,
        refinement: int = 1,
    ):
        check_part("landscape", landscape, AbstractLandscape, "a landscape such as LeastSquares")
        check_part("noise", noise, MinibatchNoise, "MinibatchNoise(sampling)")
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.radius = check_non_negative("radius", radius, float)
        self.noise = noise
        self.num_substeps = check_whole("substeps", substeps)
        self.refinement = check_whole("refinement", refinement)
        noise.check(landscape)

    @property
    def substeps(self) -> int:
        return self.num_substeps

    @property
    def restartable(self) -> bool:
        return self.learning_rate.schedule is None

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 1

    def refined(self, substeps: int, refinement: int = 1) -> "SAMEquation":
        """The same equation at another solver step."""
        rate = self.learning_rate.schedule or self.learning_rate.value
        return SAMEquation(self.landscape, rate, self.radius, self.noise, substeps, refinement)

    def check(self) -> None:
        self.noise.check(self.landscape)

    def loss(self, theta: Vector) -> Scalar:
        """L̃(θ)."""
        land = self.landscape
        power = jnp.sum(land.gradient(theta) ** 2)
        power = power + self.noise.factor(land) * jnp.sum(land.covariance_root(theta) ** 2)
        return land.loss(theta) + 0.5 * self.radius.astype(theta.dtype) * power

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry: Any):
        theta, carry = step_members(
            self.substeps, self._advance, state.theta, draws, observe, carry
        )
        return FlowState(theta), carry

    def _advance(self, theta: Vector, draws: Draws, j) -> Vector:
        land, step = self.landscape, 1 / self.substeps
        eta = self.learning_rate.at(draws.iteration, theta.dtype)
        radius = self.radius.astype(theta.dtype)
        z = standard_normal(self, self.noise.dimension(land), draws, j)

        def noisy(x):
            return self.noise.noisy_gradient(x, z, step**-0.5, land)

        def spread(x):
            return jnp.sum(land.covariance_root(x) ** 2)

        gradient = land.gradient(theta)
        kicked, along = jax.jvp(noisy, (theta,), (gradient,))
        bent = land.hessian_vector_product(theta, kicked - gradient)
        bias = 0.5 * self.noise.factor(land) * jax.grad(spread)(theta)
        return theta - eta * step * (kicked + radius * (along + bent + bias))

    def position(self, state: FlowState) -> Positions:
        return state.theta

    def time(self, iterations: np.ndarray) -> np.ndarray:
        return self.learning_rate.time(iterations)
