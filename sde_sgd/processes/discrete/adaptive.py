"""Adaptive optimisers, SignSGD, RMSprop and Adam: one description for their two processes."""

import abc
import math
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd._brief import as_typed
from sde_sgd._checks import check_flag, check_fraction, check_non_negative
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.discrete._signs import joint_signs, sign_moments
from sde_sgd.types import Matrix, Scalar, Vector

if TYPE_CHECKING:
    # Imported by those who call it: its import takes as long as a tenth of this package's.
    import optax

# With more, the covariance of signs and its eigenvectors, at every step, are no longer a matter of
# seconds.
_MOST_SIGNS = 2000


class AbstractAdaptive(eqx.Module):
    """An optimiser θ ← θ − η_k (u + λθ), with u of gradients ĝ and of what it remembers of them.

    One object describes the optimiser and its SDE dθ = −η(u + λθ) ds, s in iterations:

        sgd = ss.OptaxSGD(landscape, ss.Adam(1e-3), sampling)
        sde = ss.AdaptiveEquation(landscape, ss.Adam(1e-3), ss.MinibatchNoise(sampling))

    Physical time is t = η²k (Σ η_j² under a schedule), the clock that batch-size scaling with
    η ∝ √B keeps (Malladi et al. 2022). λ is decoupled decay (AdamW's), which nothing divides; a
    landscape's `l2=` is part of the loss and of ĝ, and is divided as ĝ is. All of them act on each
    coordinate by itself, so that θ may stay flat, whatever arrays it comes from.
    """

    learning_rate: eqx.AbstractVar[LearningRate]
    weight_decay: eqx.AbstractVar[Scalar]

    def __repr__(self) -> str:
        return as_typed(self)

    @abc.abstractmethod
    def rescaling(self) -> "optax.GradientTransformation":
        """ĝ ↦ u, the discrete optimiser without its rate and its decay."""

    @abc.abstractmethod
    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        """Number of driving Brownian motions."""

    @abc.abstractmethod
    def init(self, theta: Vector) -> PyTree[Array]:
        """Accumulators of one member, beside its θ."""

    @abc.abstractmethod
    def direction(
        self,
        theta: Vector,
        memory: PyTree[Array],
        z: Float[Array, " k"],
        step: float,
        landscape: AbstractLandscape,
        noise: AbstractGradientNoise,
    ) -> tuple[Vector, PyTree[Array]]:
        """u of a solver step of `step` iterations, and the accumulators after it, z normal."""

    @abc.abstractmethod
    def scaled(self, kappa: float) -> "AbstractAdaptive":
        """The hyperparameters that keep the SDE when B becomes κB; see `square_root_scaling`."""

    @property
    def gradients_per_step(self) -> float:
        """Gradients of all examples in a solver step; 3 for the noise and its variance, or NaN."""
        return 3.0

    def check(self, landscape: AbstractLandscape) -> None:
        """Raises `ValueError` where there is no SDE; a default of its own: there always is."""

    def optax(self) -> "optax.GradientTransformation":
        """The discrete optimiser."""
        import optax

        rate, decay = self.learning_rate, float(self.weight_decay)
        return optax.chain(
            self.rescaling(),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_learning_rate(rate.schedule or float(rate.given)),
        )


class SignSGD(AbstractAdaptive):
    """θ ← θ − η(sign ĝ + λθ), for gradients with Gaussian noise of standard deviation √C_ii.

        dθ = −η(e + λθ) ds + η S^{1/2} dW_s,   e_i(θ) = erf(g_i/√(2C_ii)) = E sign ĝ_i,

    S = Cov(sign ĝ): S_ii = 1 − e_i², and off the diagonal, with a = g_i/√C_ii, b the same of j,
    ρ their correlation, r = √(1 − ρ²) and Owen's function T,

        S_ij = 1 − 4T(a, (b − ρa)/(ar)) − 4T(b, (a − ρb)/(br)) − 2·[ab < 0] − e_i e_j,

    (2/π) sin⁻¹ρ at a = b = 0, to rounding: that of ρ, ε/r, makes most of it, 2e-8 at |ρ| = 1 (in
    float32 4e-4). Where C_ii = 0 it is sign descent, without noise. Batches of few examples are not
    Gaussian, and have another E sign ĝ.

    **Arguments:** `learning_rate` η > 0, or a schedule; `weight_decay` λ ≥ 0, decoupled;
    `diagonal=True` takes the signs for independent, S = diag(1 − e²): d numbers and the variances
    of ĝ in place of d×d numbers, their eigenvectors and C, at every step.

    **Source:** Compagnoni et al. 2024 (2411.15958), for diagonal C; Owen 1956, Ann. Math. Stat. 27,
    1075.
    """

    learning_rate: LearningRate
    weight_decay: Scalar
    diagonal: bool = eqx.field(static=True)

    def __init__(self, learning_rate: Any, weight_decay: Any = 0.0, diagonal: bool = False):
        self.learning_rate = LearningRate(learning_rate)
        self.weight_decay = check_non_negative("weight_decay", weight_decay, float)
        self.diagonal = check_flag("diagonal", diagonal)

    def rescaling(self) -> "optax.GradientTransformation":
        import optax

        return optax.scale_by_sign()

    @property
    def gradients_per_step(self) -> float:
        """2, of the variance; not known where C is formed."""
        return 2.0 if self.diagonal else math.nan

    def check(self, landscape: AbstractLandscape) -> None:
        if landscape.dimension > _MOST_SIGNS and not self.diagonal:
            raise ValueError(
                f"The equation of SignSGD takes the covariance of all pairs of signs, d×d numbers "
                f"and their eigenvectors at every step, for d ≤ {_MOST_SIGNS}; this landscape has "
                f"d={landscape.dimension}. SignSGD(..., diagonal=True) takes the signs for "
                f"independent, with d numbers."
            )

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return landscape.dimension

    def init(self, theta: Vector) -> None:
        return None

    def moments(
        self, theta: Vector, landscape: AbstractLandscape, noise: AbstractGradientNoise
    ) -> tuple[Vector, Matrix | Vector]:
        """E sign ĝ (d,) and Cov sign ĝ (d, d), or its diagonal (d,) where that is all of it."""
        gradient = landscape.gradient(theta)
        if self.diagonal or theta.shape[0] == 1:
            return sign_moments(gradient, noise.variance(theta, landscape))[:2]
        covariance = noise.covariance(theta, landscape)
        mean, variance, ratio = sign_moments(gradient, jnp.diagonal(covariance))
        spread, tiny = jnp.sqrt(jnp.diagonal(covariance)), jnp.finfo(theta.dtype).tiny
        correlation = covariance / jnp.maximum(jnp.outer(spread, spread), tiny)
        joint = joint_signs(ratio, jnp.clip(correlation, -1, 1)) - jnp.outer(mean, mean)
        noisy = spread > 0
        apart = noisy[:, None] & noisy & ~np.eye(theta.shape[0], dtype=bool)
        return mean, jnp.diag(variance) + jnp.where(apart, joint, 0)

    def direction(self, theta, memory, z, step, landscape, noise):
        mean, covariance = self.moments(theta, landscape, noise)
        if covariance.ndim == 1:
            kick = jnp.sqrt(covariance) * z
        else:
            values, vectors = jnp.linalg.eigh(covariance)
            kick = (vectors * jnp.sqrt(jnp.clip(values, 0))) @ z
        return mean + step**-0.5 * kick, None

    def scaled(self, kappa: float) -> "SignSGD":
        return SignSGD(
            _quicker(self.learning_rate, kappa), _stronger(self.weight_decay, kappa), self.diagonal
        )


class RMSpropMemory(eqx.Module):
    """v (d,), and the weight γ that it has gathered (1 without bias correction)."""

    second: Vector
    weight: Scalar


class RMSprop(AbstractAdaptive):
    """v ← βv + (1−β)ĝ², θ ← θ − η(ĝ/(√v + ε) + λθ), and

        dθ = −η(√v + ε)^{-1} [∇L ds + C^{1/2} dW_s] − ηλθ ds,   dv = (1−β)(diag C + (∇L)² − v) ds.

    Malladi et al. leave (∇L)² out, which their limit (noise ∝ 1/η) makes negligible:
    `noise_dominated=True` gives theirs.

    E ĝ² stands for ĝ²: what the fluctuations of v do, and that v has seen the ĝ which it divides,
    is of relative order 1 − β at any η, and left out.

    **Arguments:** `learning_rate` η > 0, or a schedule; `beta` in [0, 1); `epsilon` ≥ 0, outside
    the root; `initial` v(0) ≥ 0; `weight_decay` λ ≥ 0, decoupled; `bias_correction=True` divides v
    by the weight 1 − β^k that it has gathered from v(0) = 0 on.

    From v(0) = 0 without bias correction the optimiser begins with steps of η/√(1−β), and the SDE
    has no solution, as its noise has the variance ∫ ds/s: `AdaptiveEquation` refuses it.

    **Source:** Malladi et al. 2022 (2205.10287), Definition 4.1; Compagnoni et al. 2024.
    """

    learning_rate: LearningRate
    beta: Scalar
    epsilon: Scalar
    initial: Scalar
    weight_decay: Scalar
    bias_correction: bool = eqx.field(static=True)
    noise_dominated: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        beta: Any = 0.9,
        epsilon: Any = 1e-8,
        initial: Any = 0.0,
        weight_decay: Any = 0.0,
        bias_correction: bool = False,
        noise_dominated: bool = False,
    ):
        self.learning_rate = LearningRate(learning_rate)
        self.beta = check_fraction("beta", beta)
        self.epsilon = check_non_negative("epsilon", epsilon, float)
        self.initial = check_non_negative("initial", initial, float)
        self.weight_decay = check_non_negative("weight_decay", weight_decay, float)
        self.bias_correction = check_flag("bias_correction", bias_correction)
        self.noise_dominated = check_flag("noise_dominated", noise_dominated)
        if self.bias_correction and float(self.initial) != 0:
            raise ValueError(
                f"bias_correction=True is for averages that start at 0; got initial={initial}."
            )

    def rescaling(self) -> "optax.GradientTransformation":
        import optax

        return optax.scale_by_rms(
            float(self.beta),
            eps=float(self.epsilon),
            initial_scale=float(self.initial),
            eps_in_sqrt=False,
            bias_correction=self.bias_correction,
        )

    def check(self, landscape: AbstractLandscape) -> None:
        if float(self.initial) == 0 and not self.bias_correction:
            raise ValueError(
                "RMSprop starts at v = 0, where its equation would have noise of infinite variance "
                "(∫ ds/s): give bias_correction=True, or initial > 0, here and to ss.OptaxSGD."
            )

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return noise.dimension(landscape)

    def init(self, theta: Vector) -> RMSpropMemory:
        weight = jnp.asarray(0 if self.bias_correction else 1, theta.dtype)
        return RMSpropMemory(jnp.full_like(theta, self.initial), weight)

    def direction(self, theta, memory, z, step, landscape, noise):
        beta, eps = _as(theta, self.beta, self.epsilon)
        noisy = noise.noisy_gradient(theta, z, step**-0.5, landscape)
        power = _power(theta, landscape, noise, self.noise_dominated)
        second = memory.second + step * (1 - beta) * (power - memory.second)
        weight = memory.weight + step * (1 - beta) * (1 - memory.weight)
        return noisy / (jnp.sqrt(second / weight) + eps), RMSpropMemory(second, weight)

    def scaled(self, kappa: float) -> "RMSprop":
        return RMSprop(
            _quicker(self.learning_rate, kappa),
            1 - kappa * (1 - self.beta),
            self.epsilon / float(np.sqrt(kappa)),
            self.initial / kappa,
            _stronger(self.weight_decay, kappa),
            self.bias_correction,
            self.noise_dominated,
        )


class AdamMemory(eqx.Module):
    """m and v (d,), and the weights γ₁, γ₂ that they have gathered."""

    first: Vector
    second: Vector
    first_weight: Scalar
    second_weight: Scalar


class Adam(AbstractAdaptive):
    """Adam with bias correction and decoupled decay (optax.adam, and with λ optax.adamw), and

        dm = (1−β₁)[(∇L − m) ds + C^{1/2} dW_s],   dv = (1−β₂)(diag C + (∇L)² − v) ds,
        dθ = −η [(m/γ₁)/(√(v/γ₂) + ε) + λθ] ds,    dγ_i = (1−β_i)(1 − γ_i) ds,

    m, v and γ_i, the weights that the averages have gathered, start at 0.

    Malladi et al. leave (∇L)² out: `noise_dominated=True`. At one substep the scheme is Adam with
    Gaussian gradients and E ĝ² in place of ĝ². What the SDE loses at any η: the fluctuations of v,
    of relative order 1 − β₂, and that m is an average over whole iterations, 1 − β₁.

    **Arguments:** `learning_rate` η > 0, or a schedule; `beta1`, `beta2` in [0, 1); `epsilon` ≥ 0;
    `weight_decay` λ ≥ 0: AdamW's, where the `l2=` of a landscape goes through m and √v as ĝ does.

    **Source:** Malladi et al. 2022 (2205.10287), Definition 4.4; Loshchilov, Hutter 2017
    (1711.05101) for λ.
    """

    learning_rate: LearningRate
    beta1: Scalar
    beta2: Scalar
    epsilon: Scalar
    weight_decay: Scalar
    noise_dominated: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.0,
        noise_dominated: bool = False,
    ):
        self.learning_rate = LearningRate(learning_rate)
        self.beta1 = check_fraction("beta1", beta1)
        self.beta2 = check_fraction("beta2", beta2)
        self.epsilon = check_non_negative("epsilon", epsilon, float)
        self.weight_decay = check_non_negative("weight_decay", weight_decay, float)
        self.noise_dominated = check_flag("noise_dominated", noise_dominated)

    def rescaling(self) -> "optax.GradientTransformation":
        import optax

        b1, b2, eps = (float(x) for x in (self.beta1, self.beta2, self.epsilon))
        return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def noise_dimension(self, landscape: AbstractLandscape, noise: AbstractGradientNoise) -> int:
        return noise.dimension(landscape)

    def init(self, theta: Vector) -> AdamMemory:
        zero = jnp.zeros((), theta.dtype)
        return AdamMemory(jnp.zeros_like(theta), jnp.zeros_like(theta), zero, zero)

    def direction(self, theta, memory, z, step, landscape, noise):
        slow, slower, eps = _as(theta, 1 - self.beta1, 1 - self.beta2, self.epsilon)
        noisy = noise.noisy_gradient(theta, z, step**-0.5, landscape)
        power = _power(theta, landscape, noise, self.noise_dominated)
        first = memory.first + step * slow * (noisy - memory.first)
        second = memory.second + step * slower * (power - memory.second)
        weight = memory.first_weight + step * slow * (1 - memory.first_weight)
        other = memory.second_weight + step * slower * (1 - memory.second_weight)
        # m/γ₁ has the variance C/s at first: taken at the end of each step it would leave an error
        # of order h ln(1/h), taken in the middle, of order h. Later the end is the better place,
        # and at one step an iteration it is Adam's.
        early = 0.5 * (1 - step) * (1 - memory.first_weight)
        mean = first + early * (memory.first - first)
        gathered = weight + early * (memory.first_weight - weight)
        u = (mean / gathered) / (jnp.sqrt(second / other) + eps)
        return u, AdamMemory(first, second, weight, other)

    def scaled(self, kappa: float) -> "Adam":
        return Adam(
            _quicker(self.learning_rate, kappa),
            1 - kappa * (1 - self.beta1),
            1 - kappa * (1 - self.beta2),
            self.epsilon / float(np.sqrt(kappa)),
            _stronger(self.weight_decay, kappa),
            self.noise_dominated,
        )


def _power(theta, landscape, noise, noise_dominated: bool) -> Vector:
    """E ĝ² = diag C + (∇L)², or diag C alone."""
    variance = noise.variance(theta, landscape)
    return variance if noise_dominated else variance + landscape.gradient(theta) ** 2


def _as(theta: Vector, *numbers: Scalar) -> list[Scalar]:
    return [number.astype(theta.dtype) for number in numbers]


def _quicker(rate: LearningRate, kappa: float) -> Any:
    """√κ η, and of a schedule √κ η_{κk}: an iteration does the work of κ."""
    root, schedule = float(np.sqrt(kappa)), rate.schedule
    if schedule is None:
        return root * rate.given
    stride = int(kappa) if float(kappa).is_integer() else kappa
    return lambda k: root * schedule(stride * k)


def _stronger(decay: Scalar, kappa: float) -> Scalar:
    """√κ λ, so that ηλ becomes κηλ."""
    return float(np.sqrt(kappa)) * decay
