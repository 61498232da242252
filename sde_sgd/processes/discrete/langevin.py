"""Langevin samplers: SGD with a bath, whose stationary law approximates a posterior."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import check_non_negative, check_point
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.control_variate import ControlVariate
from sde_sgd.landscapes.potentials import Potential
from sde_sgd.noise.models import AbstractGradientNoise, MinibatchNoise
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.noise.thermal import ThermalNoise
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.discrete._batches import AbstractBatchProcess
from sde_sgd.processes.linear import first_order_step, LinearStep
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Positions, RealLike


class SGLDState(eqx.Module):
    """θ (members, d) and the sampler's state."""

    theta: Positions
    sampling: PyTree[Array]


class SGLD(AbstractBatchProcess):
    """Stochastic gradient Langevin dynamics, θ ← θ − η ĝ_B(θ) + √(2ηT) ξ, t = ηk.

    With exact gradients and η → 0 its law is e^{−L(θ)/T}. L is a *mean* loss: where ℓ_i are
    negative log-likelihoods, T = 1/N (the default) makes that the posterior, and `l2` = λ of the
    landscape is the prior N(0, I/(Nλ)). `LeastSquares` has label noise of variance 1; for variance
    σ² take T = σ²/N. In Welling & Teh's step ε, η = εN/2.

    Batches and steps of finite size change that law. What the sampling says, the sampler is:

    - `WithReplacement`, `WithoutReplacement`: SGLD with independent batches;
    - `RandomReshuffling`: **SGWORLD**, SGLD with shuffled epochs, whose minibatch noise cancels
      over an epoch (use B that divides N, so that no example is left out);
    - any of them with `control_variate`: SGLD-CV, ĝ = ∇L(a) + mean of ∇ℓ_i(θ) − ∇ℓ_i(a).

    Its SDE is `ModifiedEquation` with `ThermalNoise(MinibatchNoise(sampling), T, η)`; exact laws on
    least squares are `theory.stationary.covariance` and, of shuffled epochs,
    `theory.stationary.epoch_moments`.

    **Arguments:**

    - `landscape`, `learning_rate` (η > 0 or a schedule η_k), `sampling` as `SGD`.
    - `temperature`: T ≥ 0; 1/N if not given. T = 0 is SGD, bit for bit.
    - `control_variate`: the anchor a, (d,), usually the minimum; the process then moves on
      `ControlVariate(landscape, a)`, two gradients a step.

    **Raises:** `ValueError` for bad parts and numbers; without a temperature on a population or
    a `Potential`, which have no N of a posterior; with a control variate on a population.

    **Source:** Welling, Teh 2011 (ICML); Baker et al. 2019 (1706.05439); SGWORLD: Adhikari,
    Kabakçıoğlu, Strang, Yuret, Hinczewski 2023 (2306.03521), analysed by Shaw, Whalley 2025
    (2501.16055).
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    sampling: AbstractSampling
    temperature: Float[Array, ""]

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        sampling: AbstractSampling,
        temperature: RealLike | None = None,
        control_variate: Any = None,
    ):
        check_batches(landscape, sampling)
        if temperature is None:
            if landscape.num_examples is None:
                raise ValueError(
                    f"{type(landscape).__name__} is a population, so that there is no posterior "
                    f"of N examples to take the temperature 1/N from: give temperature."
                )
            if isinstance(landscape, Potential):
                raise ValueError(
                    "A Potential has no examples to take the temperature 1/N from (its tilts only "
                    "make the gradient noise): give temperature."
                )
            temperature = 1 / landscape.num_examples
        if control_variate is not None:
            anchor = check_point("control_variate", control_variate, landscape)
            landscape = ControlVariate(landscape, anchor)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.sampling = sampling
        dtype = jnp.result_type(float)
        self.temperature = check_non_negative("temperature", temperature, dtype)

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        own, eta = MinibatchNoise(self.sampling), self.learning_rate.constant()
        # Under a schedule the bath is no fixed covariance of a gradient.
        return own if eta is None else ThermalNoise(own, self.temperature, eta)

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate)

    @property
    def bath_temperature(self) -> float:
        return float(self.temperature)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return first_order_step(learning_rate * curvature, learning_rate, 1)

    def init(self, theta: Positions, draws: Draws) -> SGLDState:
        return SGLDState(theta, self.sampling.init(draws, self.landscape))

    def step(self, state: SGLDState, draws: Draws, observe: Observe, carry: Any):
        sampling, examples = self.sampling.draw(state.sampling, draws, self.landscape)
        gradient = jax.vmap(self.landscape.minibatch_gradient)(state.theta, examples)
        dtype = state.theta.dtype
        eta = self.learning_rate.at(draws.iteration, dtype)
        bath = draws.normal((self.landscape.dimension,), Stream.BATH, dtype)
        kick = jnp.sqrt(2 * eta * self.temperature.astype(dtype)) * bath
        theta = state.theta - eta * gradient + kick
        carry = observe(carry, state.theta, theta, jnp.uint32(0))
        return SGLDState(theta, sampling), carry
