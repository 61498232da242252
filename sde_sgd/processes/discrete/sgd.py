"""Discrete processes: SGD with momentum, and SGD with Gaussian gradients."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd._checks import check_fraction
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, check_noise
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.processes._cost import of_noisy_steps
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import by_its_clock, Clock, constant_rate, LearningRate
from sde_sgd.processes.discrete._batches import AbstractBatchProcess
from sde_sgd.processes.linear import heavy_ball_step, LinearStep, NotKnown
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.processes.step_laws import Batches, Diffusion, matched_diffusion
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Positions, RealLike, Vector


class SGDState(eqx.Module):
    """θ (members, d); velocity m (members, d) or None; the sampler's state."""

    theta: Positions
    velocity: Positions | None
    sampling: PyTree[Array]


class SGD(AbstractBatchProcess):
    """Minibatch SGD with heavy-ball momentum, m ← μ m + ĝ_B(θ), θ ← θ − η m.

    **Arguments:**

    - `landscape`: where it moves.
    - `learning_rate`: η > 0, or a schedule k ↦ η_k (an optax schedule, say).
    - `sampling`: the law of the batches.
    - `momentum`: μ in [0, 1).

    Physical time is t = ηk (Σ η_j with a schedule), also with momentum, whose slow motion is
    1/(1 − μ) times as fast: `ModifiedEquation` describes SGD without momentum only.

    On a mean loss, Smith & Le's noise
    scale is g = ε(N/B − 1) with ε = N·η in their summed cost's units (1710.06451, §4).
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    sampling: AbstractSampling
    momentum: Array
    has_momentum: bool = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        sampling: AbstractSampling,
        momentum: RealLike = 0.0,
    ):
        check_batches(landscape, sampling)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.sampling = sampling
        self.momentum = check_fraction("momentum", momentum)
        self.has_momentum = bool(float(self.momentum) != 0)

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate, self.momentum)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return heavy_ball_step(learning_rate, float(self.momentum), curvature)

    def law(self) -> Batches:
        return Batches(self.landscape, self.sampling, _rate_of_law(self))

    @property
    def knows_mean_step(self) -> bool:
        """Whether `mean_step` holds: without memory in the velocity or in the batches."""
        return not self.has_momentum and self.epoch is None

    def mean_step(self, theta: Vector, iteration: Array) -> Vector:
        """E[θ′ − θ | θ] = −η∇L of one iteration."""
        return -self.learning_rate.at(iteration, theta.dtype) * self.landscape.gradient(theta)

    def init(self, theta: Positions, draws: Draws) -> SGDState:
        velocity = jnp.zeros_like(theta) if self.has_momentum else None
        return SGDState(theta, velocity, self.sampling.init(draws, self.landscape))

    def step(self, state: SGDState, draws: Draws, observe: Observe, carry):
        sampling, examples = self.sampling.draw(state.sampling, draws, self.landscape)
        gradient = jax.vmap(self.landscape.minibatch_gradient)(state.theta, examples)
        theta, velocity = _heavy_ball(self, state.theta, state.velocity, gradient, draws)
        carry = observe(carry, state.theta, theta, jnp.uint32(0))
        return SGDState(theta, velocity, sampling), carry


class GaussianSGD(AbstractProcess):
    """SGD with Gaussian gradients of the same mean and covariance, ĝ = ∇L + C^{1/2}(θ) ξ_k.

    m ← μ m + ĝ, θ ← θ − η m, ξ_k standard normal. The link of the chain between SGD and the
    Euler–Maruyama scheme of its SDE with step η, with which (μ = 0) it shares every random
    number.

    **Arguments:** as `SGD`, with `noise` (a gradient-noise model) for the sampling.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    noise: AbstractGradientNoise
    momentum: Array
    has_momentum: bool = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        momentum: RealLike = 0.0,
    ):
        check_noise(landscape, noise)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.noise = noise
        self.momentum = check_fraction("momentum", momentum)
        self.has_momentum = bool(float(self.momentum) != 0)

    autonomous = by_its_clock

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate)

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        return self.noise

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate, self.momentum)

    @property
    def gradients_per_iteration(self) -> float:
        """N: one weighted gradient, with exact or constant noise."""
        return of_noisy_steps(self.landscape, self.noise, 1)

    def law(self) -> Diffusion:
        eta = _rate_of_law(self)
        return matched_diffusion(self.landscape, self.noise, eta, step=eta)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return heavy_ball_step(learning_rate, float(self.momentum), curvature)

    def check(self) -> None:
        self.noise.check(self.landscape)

    def init(self, theta: Positions, draws: Draws) -> SGDState:
        velocity = jnp.zeros_like(theta) if self.has_momentum else None
        return SGDState(theta, velocity, None)

    def step(self, state: SGDState, draws: Draws, observe: Observe, carry):
        size = self.noise.dimension(self.landscape)

        def gradient(theta, identity):
            own = eqx.tree_at(lambda d: d.identity, draws, identity)
            z = own.normal((size,), Stream.NOISE, theta.dtype)
            return self.noise.noisy_gradient(theta, z, 1.0, self.landscape)

        noisy = jax.vmap(gradient)(state.theta, draws.identity)
        theta, velocity = _heavy_ball(self, state.theta, state.velocity, noisy, draws)
        carry = observe(carry, state.theta, theta, jnp.uint32(0))
        return SGDState(theta, velocity, None), carry

    def position(self, state: SGDState) -> Positions:
        return state.theta


def _rate_of_law(process: SGD | GaussianSGD) -> Array:
    """η, where θ alone is a Markov chain with one law."""
    if process.has_momentum:
        raise NotKnown(
            "With momentum θ alone is no Markov chain and has no kernel: use momentum=0."
        )
    return constant_rate(process.learning_rate)


def _heavy_ball(process: SGD | GaussianSGD, theta, velocity, gradient, draws: Draws):
    eta = process.learning_rate.at(draws.iteration, theta.dtype)
    if velocity is None:
        return theta - eta * gradient, None
    velocity = process.momentum.astype(theta.dtype) * velocity + gradient
    return theta - eta * velocity, velocity
