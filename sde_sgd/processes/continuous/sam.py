"""The modified equation of sharpness-aware minimisation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import check_landscape, check_non_negative, check_part, check_whole
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.noise.models import MinibatchNoise
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.continuous._equation import AbstractEquation
from sde_sgd.processes.continuous._steps import standard_normal, step_members
from sde_sgd.processes.continuous.modified import FlowState
from sde_sgd.processes.discrete._sam_moments import (
    largest_stable_rate_of_equation,
    least_squares_of,
)
from sde_sgd.processes.rules import Rule
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, RealLike, Scalar, Vector, Weights


class SAMEquation(AbstractEquation):
    """The modified equation of USAM (`SAM` without normalisation; Itô), t = ηk:

        dθ = −∇L̃ dt + √η C̃^{1/2} dW,   L̃ = L + (ρ/2) E|∇ℓ_B|² = L + (ρ/2)(|∇L|² + c tr Σ),
        C̃ = C + ρ[∂_g C + HC + CH + T + Tᵀ] + O(ρ²),   T = E[δg (δH δg)ᵀ],

    with g and H of the mean loss, C = cΣ, ∂_g the derivative along g, δg and δH what a batch adds
    to g and H. SAM's batch gradient is g + δg + ρ(H + δH)(g + δg) + O(ρ²); T, which is of the
    third moments of examples and of 1/B² where C is of 1/B, comes from δH δg. The noise that has
    this C̃ is a sum over examples i with weights w = √(c/N)(dW − mean dW),

        C̃^{1/2} dW = Σ_i w_i { g_i + ρ[(1 − s)(H g_i + H_i g) + s H_i g_i] } ,   s = k/c,

    k the factor of the third moments of a batch mean: s = 1/B with replacement, and
    (N − 2B)/(B(N − 2)) for subsets. Mean and covariance of SAM's step are met up to relative order
    ρ²; exactly for quadratic ℓ_i if they share one Hessian, or if B = 1. Euler's scheme with
    `substeps` steps an iteration. SAM *with* normalisation is drawn to E|∇ℓ_B| instead, which no
    covariance knows: no equation for it here.

    **Arguments:** `landscape`, a finite sum; `learning_rate`, `radius` ρ ≥ 0; `noise`:
    `MinibatchNoise`; `refinement` as `ModifiedEquation`. A solver step costs N normal numbers,
    example gradients and Hessian–vector products, and N·d numbers of memory a member.

    **Raises:** `ValueError` for bad parts, and for a population, whose T is not known.

    **Source:** Compagnoni et al. 2023 (2301.08203), USAM, Theorem 3.2, has the drift and C̃ at
    T = 0; T by expanding the step.
    """

    landscape: AbstractFiniteSum
    learning_rate: LearningRate
    radius: Scalar
    noise: MinibatchNoise
    num_substeps: int = eqx.field(static=True)
    refinement: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: Any,
        learning_rate: Any,
        radius: RealLike,
        noise: MinibatchNoise,
        substeps: int = 8,
        refinement: int = 1,
    ):
        check_landscape(landscape, AbstractLandscape)
        check_part("noise", noise, MinibatchNoise, "MinibatchNoise(sampling)")
        if not isinstance(landscape, AbstractFiniteSum):
            raise ValueError(
                f"SAMEquation needs a finite sum: its noise has third moments of example gradients "
                f"and Hessians, which {type(landscape).__name__} does not state. Draw a data set "
                f"from the population, and take ss.LeastSquares or ss.EmpiricalRisk of that."
            )
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.radius = check_non_negative("radius", radius, float)
        self.noise = noise
        self.num_substeps = check_whole("substeps", substeps)
        self.refinement = check_whole("refinement", refinement)
        noise.check(landscape)

    @property
    def update_rule(self) -> Rule:
        return Rule(f"SAM with radius {float(self.radius):g}", None)

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 1

    def refined(self, substeps: int, refinement: int = 1) -> "SAMEquation":
        """The same equation at another solver step."""
        rate = self.learning_rate.given
        return SAMEquation(self.landscape, rate, self.radius, self.noise, substeps, refinement)

    def largest_stable_rate(self, about: Any = None, at_step_zero: bool = False) -> float:
        """On `LeastSquares`, exact, from the second moments of its noise."""
        inputs, l2 = least_squares_of(self, about)
        ratio = 0.0 if at_step_zero else 1 / self.substeps
        sampling, radius = self.noise.sampling, float(self.radius)
        return largest_stable_rate_of_equation(inputs, radius, sampling, ratio, l2)

    def stable(self, about: Any = None) -> bool:
        eta = self.learning_rate.constant()
        return eta is not None and eta < self.largest_stable_rate(about)

    def overshoot(self, curvature: float) -> tuple[float, str] | None:
        eta, climb = self.learning_rate.constant(), float(self.radius) * curvature
        formula = "η λ_max(1 + ρ λ_max)/substeps"
        return None if eta is None else (eta * curvature * (1 + climb) / self.substeps, formula)

    def loss(self, theta: Vector) -> Scalar:
        """L̃(θ)."""
        land = self.landscape
        power = jnp.sum(land.gradient(theta) ** 2) + jnp.sum(self.noise.variance(theta, land))
        return land.loss(theta) + 0.5 * self.radius.astype(theta.dtype) * power

    def noisy_gradient(self, theta: Vector, z: Weights, amplitude: RealLike) -> Vector:
        """∇L̃(θ) + amplitude·C̃^{1/2}(θ) z, (d,), z of N normal numbers."""
        land, num = self.landscape, self.landscape.num_examples
        c, k = self.noise.factor(land), self.noise.third_factor(land)
        s = k / c if c > 0 else 0.0
        weights = amplitude * float(np.sqrt(c / num)) * (z - jnp.mean(z))
        gradient = land.gradient(theta)
        noise, along = jax.jvp(lambda x: land.weighted_gradient(x, weights), (theta,), (gradient,))
        mixed = (1 - c) * gradient + (1 - s) * noise
        climb = land.hessian_vector_product(theta, mixed) + (1 - s) * along
        climb = climb + land.weighted_hessian_gradient(theta, c / num + s * weights)
        return gradient + noise + self.radius.astype(theta.dtype) * climb

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry: Any):
        theta, carry = step_members(
            self.substeps, self._advance, state.theta, draws, observe, carry
        )
        return FlowState(theta), carry

    def _advance(self, theta: Vector, draws: Draws, j) -> Vector:
        step = 1 / self.substeps
        eta = self.learning_rate.at(draws.iteration, theta.dtype)
        z = standard_normal(self, self.landscape.num_examples, draws, j)
        return theta - eta * step * self.noisy_gradient(theta, z, step**-0.5)
