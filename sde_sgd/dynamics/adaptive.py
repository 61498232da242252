"""SDEs of adaptive optimisers, SignSGD, RMSprop and Adam, on their clock t = η²k."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ..draws import Draws
from ..landscapes.base import AbstractLandscape
from ..landscapes.in_brief import in_brief
from ..landscapes.validate import check_non_negative, check_positive
from ..noise.models import AbstractGradientNoise
from ..noise.sampling import AbstractSampling
from ..types import Matrix, Positions, Scalar, Vector
from ._signs import joint_signs, mean_signs
from ._steps import standard_normal, step_members
from .base import AbstractProcess, check_fraction, check_part, check_whole, Observe
from .optax_sgd import OptaxSGD


class AbstractAdaptive(eqx.Module):
    """An optimiser, with the optax transformation that it is and the SDE that describes it.

    The SDE is written in the clock s of iterations and stepped by Euler's scheme; physical time
    is t = η²k, the clock that batch-size scaling with η ∝ √B keeps (Malladi et al. 2022). All of
    them act on each coordinate by itself, so that θ may stay flat, whatever arrays it comes from.
    """

    learning_rate: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def optax(self) -> optax.GradientTransformation:
        """The discrete optimiser."""

    @abc.abstractmethod
    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        """Number of driving Brownian motions."""

    @abc.abstractmethod
    def init(self, theta: Vector) -> PyTree[Array]:
        """Accumulators of one member, beside its θ."""

    @abc.abstractmethod
    def move(
        self,
        theta: Vector,
        memory: PyTree[Array],
        z: Float[Array, " k"],
        step: float,
        landscape: AbstractLandscape,
        noise: AbstractGradientNoise,
    ) -> tuple[Vector, PyTree[Array]]:
        """θ and accumulators after `step` iterations, z standard normal."""

    @abc.abstractmethod
    def scaled(self, kappa: float) -> "AbstractAdaptive":
        """The hyperparameters that keep the SDE when B becomes κB; see `square_root_scaling`."""

    def discrete(self, landscape: AbstractLandscape, sampling: AbstractSampling) -> OptaxSGD:
        """The optimiser on minibatches, on the clock t = η²k."""
        clock = float(self.learning_rate) ** 2
        return OptaxSGD(landscape, self.optax(), sampling, learning_rate=clock)


class SignSGD(AbstractAdaptive):
    """θ ← θ − η sign(ĝ), for gradients with Gaussian noise of standard deviation √C_ii.

        dθ = −η e(θ) ds + η S^{1/2}(θ) dW_s,   e_i = erf(g_i/√(2C_ii)) = E sign ĝ_i,

    S = Cov(sign ĝ): S_ii = 1 − e_i², and off the diagonal, with a = g_i/√C_ii, b the same of j,
    ρ their correlation, r = √(1 − ρ²) and Owen's function T,

        S_ij = 1 − 4T(a, (b − ρa)/(ar)) − 4T(b, (a − ρb)/(br)) − 2·[ab < 0] − e_i e_j,

    (2/π) sin⁻¹ρ at a = b = 0, to rounding: that of ρ, ε/r, makes most of it, 2e-8 at |ρ| = 1 (in
    float32 4e-4). Where C_ii = 0 it is sign descent, without noise. Batches of few examples are not
    Gaussian, and have another E sign ĝ.

    **Arguments:** `learning_rate` η > 0.

    **Source:** Compagnoni et al. 2024 (2411.15958), for diagonal C; Owen 1956, Ann. Math. Stat. 27,
    1075.
    """

    learning_rate: Scalar

    def __init__(self, learning_rate: Any):
        self.learning_rate = _constant(learning_rate)

    def optax(self) -> optax.GradientTransformation:
        return optax.sign_sgd(float(self.learning_rate))

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return landscape.dimension

    def init(self, theta: Vector) -> None:
        return None

    def moments(
        self, theta: Vector, landscape: AbstractLandscape, noise: AbstractGradientNoise
    ) -> tuple[Vector, Matrix]:
        """E sign ĝ (d,) and Cov sign ĝ (d, d)."""
        gradient = landscape.gradient(theta)
        covariance = noise.covariance(theta, landscape)
        spread = jnp.sqrt(jnp.diagonal(covariance))
        noisy, tiny = spread > 0, jnp.finfo(theta.dtype).tiny
        ratio = jnp.clip(gradient / jnp.maximum(spread, tiny), -40, 40)
        mean = jnp.where(noisy, mean_signs(ratio), jnp.sign(gradient))
        variance = jnp.diag(jnp.where(noisy, 1 - mean**2, 0))
        if theta.shape[0] == 1:
            return mean, variance
        correlation = covariance / jnp.maximum(jnp.outer(spread, spread), tiny)
        joint = joint_signs(ratio, jnp.clip(correlation, -1, 1)) - jnp.outer(mean, mean)
        apart = noisy[:, None] & noisy & ~np.eye(theta.shape[0], dtype=bool)
        return mean, variance + jnp.where(apart, joint, 0)

    def move(self, theta, memory, z, step, landscape, noise):
        eta = self.learning_rate.astype(theta.dtype)
        mean, covariance = self.moments(theta, landscape, noise)
        if theta.shape[0] == 1:
            kick = jnp.sqrt(covariance[0]) * z
        else:
            values, vectors = jnp.linalg.eigh(covariance)
            kick = (vectors * jnp.sqrt(jnp.clip(values, 0))) @ z
        return theta - eta * (step * mean + float(np.sqrt(step)) * kick), None

    def scaled(self, kappa: float) -> "SignSGD":
        return SignSGD(float(np.sqrt(kappa)) * self.learning_rate)


class RMSprop(AbstractAdaptive):
    """v ← βv + (1−β)ĝ², θ ← θ − ηĝ/(√v + ε), and

        dθ = −η(√v + ε)^{-1} [∇L ds + C^{1/2} dW_s],   dv = (1−β)(diag C + (∇L)² − v) ds.

    Malladi et al. leave (∇L)² out, which their limit (noise ∝ 1/η) makes negligible:
    `noise_dominated=True` gives theirs.

    E ĝ² stands for ĝ²: what the fluctuations of v do, and that v has seen the ĝ which it divides,
    is of relative order 1 − β at any η, and left out.

    **Arguments:** `learning_rate` η > 0; `beta` in [0, 1); `epsilon` ≥ 0, outside the root;
    `initial` v(0) ≥ 0, positive unless ε > 0.

    **Source:** Malladi et al. 2022 (2205.10287), Definition 4.1; Compagnoni et al. 2024.
    """

    learning_rate: Scalar
    beta: Scalar
    epsilon: Scalar
    initial: Scalar
    noise_dominated: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        beta: Any = 0.9,
        epsilon: Any = 1e-8,
        initial: Any = 0.0,
        noise_dominated: bool = False,
    ):
        self.learning_rate = _constant(learning_rate)
        self.beta = check_fraction("beta", beta)
        self.epsilon = check_non_negative("epsilon", epsilon, float)
        self.initial = check_non_negative("initial", initial, float)
        self.noise_dominated = noise_dominated

    def optax(self) -> optax.GradientTransformation:
        return optax.rmsprop(
            float(self.learning_rate),
            decay=float(self.beta),
            eps=float(self.epsilon),
            initial_scale=float(self.initial),
            eps_in_sqrt=False,
        )

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return noise.dimension(landscape)

    def init(self, theta: Vector) -> Vector:
        return jnp.full_like(theta, self.initial)

    def move(self, theta, memory, z, step, landscape, noise):
        eta, beta, eps = _as(theta, self.learning_rate, self.beta, self.epsilon)
        noisy = noise.noisy_gradient(theta, z, step**-0.5, landscape)
        power = _power(theta, landscape, noise, self.noise_dominated)
        second = memory + step * (1 - beta) * (power - memory)
        return theta - eta * step * noisy / (jnp.sqrt(second) + eps), second

    def scaled(self, kappa: float) -> "RMSprop":
        return RMSprop(
            float(np.sqrt(kappa)) * self.learning_rate,
            1 - kappa * (1 - self.beta),
            self.epsilon / float(np.sqrt(kappa)),
            self.initial / kappa,
            self.noise_dominated,
        )


class AdamMemory(eqx.Module):
    """m and v (d,), and the weights γ₁, γ₂ that they have gathered."""

    first: Vector
    second: Vector
    first_weight: Scalar
    second_weight: Scalar


class Adam(AbstractAdaptive):
    """Adam with bias correction (optax.adam), and, γ_i the weight that an average has gathered,

        dm = (1−β₁)[(∇L − m) ds + C^{1/2} dW_s],   dv = (1−β₂)(diag C + (∇L)² − v) ds,
        dθ = −η (m/γ₁)/(√(v/γ₂) + ε) ds,           dγ_i = (1−β_i)(1 − γ_i) ds,

    m, v and γ_i start at 0.

    Malladi et al. leave (∇L)² out: `noise_dominated=True`. At one substep Euler's scheme is Adam
    with Gaussian gradients and E ĝ² in place of ĝ².

    **Arguments:** `learning_rate` η > 0; `beta1`, `beta2` in [0, 1); `epsilon` ≥ 0.

    **Source:** Malladi et al. 2022 (2205.10287), Definition 4.4.
    """

    learning_rate: Scalar
    beta1: Scalar
    beta2: Scalar
    epsilon: Scalar
    noise_dominated: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        epsilon: Any = 1e-8,
        noise_dominated: bool = False,
    ):
        self.learning_rate = _constant(learning_rate)
        self.beta1 = check_fraction("beta1", beta1)
        self.beta2 = check_fraction("beta2", beta2)
        self.epsilon = check_non_negative("epsilon", epsilon, float)
        self.noise_dominated = noise_dominated

    def optax(self) -> optax.GradientTransformation:
        numbers = (self.learning_rate, self.beta1, self.beta2, self.epsilon)
        rate, b1, b2, eps = (float(x) for x in numbers)
        return optax.adam(rate, b1=b1, b2=b2, eps=eps)

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return noise.dimension(landscape)

    def init(self, theta: Vector) -> AdamMemory:
        zero = jnp.zeros((), theta.dtype)
        return AdamMemory(jnp.zeros_like(theta), jnp.zeros_like(theta), zero, zero)

    def move(self, theta, memory, z, step, landscape, noise):
        eta, eps = _as(theta, self.learning_rate, self.epsilon)
        slow, slower = (step * (1 - b) for b in _as(theta, self.beta1, self.beta2))
        noisy = noise.noisy_gradient(theta, z, step**-0.5, landscape)
        power = _power(theta, landscape, noise, self.noise_dominated)
        first = memory.first + slow * (noisy - memory.first)
        second = memory.second + slower * (power - memory.second)
        weight = memory.first_weight + slow * (1 - memory.first_weight)
        other = memory.second_weight + slower * (1 - memory.second_weight)
        moved = eta * step * (first / weight) / (jnp.sqrt(second / other) + eps)
        return theta - moved, AdamMemory(first, second, weight, other)

    def scaled(self, kappa: float) -> "Adam":
        return Adam(
            float(np.sqrt(kappa)) * self.learning_rate,
            1 - kappa * (1 - self.beta1),
            1 - kappa * (1 - self.beta2),
            self.epsilon / float(np.sqrt(kappa)),
            self.noise_dominated,
        )


class AdaptiveState(eqx.Module):
    """θ (members, d) and the optimiser's accumulators, members first."""

    theta: Positions
    memory: PyTree[Array]


class AdaptiveEquation(AbstractProcess):
    """The SDE of an adaptive optimiser (Itô), t = η²k, by Euler's scheme.

    **Arguments:**

    - `landscape`, `noise`: as `ModifiedEquation`; C(θ) is formed at every step (its diagonal
      is needed), which costs N example gradients with `MinibatchNoise`.
    - `optimizer`: `Adam`, `RMSprop` or `SignSGD`, with the equation that each documents.
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
        check_part("landscape", landscape, AbstractLandscape, "a landscape such as LeastSquares")
        check_part("noise", noise, AbstractGradientNoise, "such as MinibatchNoise(sampling)")
        if not isinstance(optimizer, AbstractAdaptive):
            raise ValueError(
                f"The SDE of "
                f"{in_brief(optimizer)} is not known. Known are those of ss.Adam, ss.RMSprop "
                f"and ss.SignSGD (their `optax()` is the discrete optimiser), of SGD "
                f"(ss.ModifiedEquation), of heavy ball (ss.UnderdampedEquation) and of "
                f"sharpness-aware minimisation (ss.SAMEquation)."
            )
        self.landscape, self.optimizer, self.noise = landscape, optimizer, noise
        self.num_substeps = check_whole("substeps", substeps)
        self.refinement = check_whole("refinement", refinement)
        noise.check(landscape)

    @property
    def substeps(self) -> int:
        return self.num_substeps

    @property
    def restartable(self) -> bool:
        return True

    @property
    def weak_order(self) -> int:
        """Of the integrator, in the solver step."""
        return 1

    def refined(self, substeps: int, refinement: int = 1) -> "AdaptiveEquation":
        """The same equation at another solver step."""
        return AdaptiveEquation(self.landscape, self.optimizer, self.noise, substeps, refinement)

    def check(self) -> None:
        self.noise.check(self.landscape)

    def init(self, theta: Positions, draws: Draws) -> AdaptiveState:
        return AdaptiveState(theta, jax.vmap(self.optimizer.init)(theta))

    def step(self, state: AdaptiveState, draws: Draws, observe: Observe, carry: Any):
        size = self.optimizer.noise_dimension(self.landscape, self.noise)

        def advance(state, own, j):
            theta, memory = state
            z = standard_normal(self, size, own, j)
            step = 1 / self.substeps
            return self.optimizer.move(theta, memory, z, step, self.landscape, self.noise)

        loop = (state.theta, state.memory)
        moved, carry = step_members(
            self.substeps, advance, loop, draws, observe, carry, position=lambda pair: pair[0]
        )
        return AdaptiveState(*moved), carry

    def position(self, state: AdaptiveState) -> Positions:
        return state.theta

    def time(self, iterations: np.ndarray) -> np.ndarray:
        return np.asarray(float(self.optimizer.learning_rate) ** 2 * np.asarray(iterations))


def _power(theta, landscape, noise, noise_dominated: bool) -> Vector:
    """E ĝ² = diag C + (∇L)², or diag C alone."""
    variance = jnp.diagonal(noise.covariance(theta, landscape))
    return variance if noise_dominated else variance + landscape.gradient(theta) ** 2


def _constant(learning_rate: Any) -> Scalar:
    """η > 0, a number."""
    if callable(learning_rate):
        raise ValueError(
            "learning_rate must be a number, no schedule: the clock t = η²k of the equation has "
            "one η. Put optimisers of several rates one after another with ss.Stages."
        )
    return check_positive("learning_rate", learning_rate, float)


def _as(theta: Vector, *numbers: Scalar) -> list[Scalar]:
    return [number.astype(theta.dtype) for number in numbers]
