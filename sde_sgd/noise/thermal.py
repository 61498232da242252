"""Gradient noise with a bath of a given temperature on top: the noise of Langevin samplers."""

from typing import Any, ClassVar

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from sde_sgd._checks import check_non_negative, check_positive, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.noise_moments import NoiseMoments
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.types import Matrix, RealLike, Vector


class ThermalNoise(AbstractGradientNoise):
    """C(θ) = C_0(θ) + (2T/η) I: the noise C_0 of the gradients and a bath of temperature T.

    A `ModifiedEquation` at the same η then is the Langevin equation with minibatch noise,

        dθ = −∇L dt + √η C_0^{1/2}(θ) dW + √(2T) dW',

    the SDE of `SGLD` (Itô, t = ηk). With exact gradients it has the density e^{−L/T}.

    **Arguments:** `noise`: C_0; `temperature`: T ≥ 0; `learning_rate`: η of the process, a number
    (a bath of constant T under a schedule is no fixed C). A process with another η refuses it.
    """

    noise: AbstractGradientNoise
    temperature: Float[Array, ""]
    learning_rate: Float[Array, ""]
    additive: ClassVar[bool] = False
    fused: ClassVar[bool] = True

    def __init__(
        self, noise: AbstractGradientNoise, temperature: RealLike, learning_rate: RealLike
    ):
        if not isinstance(noise, AbstractGradientNoise):
            raise ValueError(f"ThermalNoise needs a gradient-noise model; got {in_brief(noise)}.")
        self.noise = noise
        dtype = jnp.result_type(float)
        self.temperature = check_non_negative("temperature", temperature, dtype)
        self.learning_rate = check_positive("learning_rate", learning_rate, dtype)

    def check(self, landscape: AbstractLandscape) -> None:
        self.noise.check(landscape)

    def dimension(self, landscape: AbstractLandscape) -> int:
        return self.noise.dimension(landscape) + landscape.dimension

    def _amplitude(self, theta: Vector) -> Array:
        return jnp.sqrt(2 * self.temperature / self.learning_rate).astype(theta.dtype)

    def covariance(self, theta: Vector, landscape: AbstractLandscape) -> Matrix:
        bath = self._amplitude(theta) ** 2 * jnp.eye(theta.shape[0], dtype=theta.dtype)
        return self.noise.covariance(theta, landscape) + bath

    def moments(self, theta: Vector, landscape: AbstractLandscape) -> NoiseMoments:
        bath = 2 * float(self.temperature) / float(self.learning_rate) * np.eye(len(theta))
        return self.noise.moments(theta, landscape).plus(bath)

    def variance(self, theta: Vector, landscape: AbstractLandscape) -> Vector:
        return self.noise.variance(theta, landscape) + self._amplitude(theta) ** 2

    def diffusion(self, theta: Vector, landscape: AbstractLandscape) -> lx.AbstractLinearOperator:
        own = self.noise.diffusion(theta, landscape).as_matrix()
        bath = self._amplitude(theta) * jnp.eye(theta.shape[0], dtype=theta.dtype)
        return lx.MatrixLinearOperator(jnp.concatenate([own, bath], axis=1))

    def noisy_gradient(
        self, theta: Vector, z: Float[Array, " k"], amplitude, landscape: AbstractLandscape
    ) -> Vector:
        split = self.noise.dimension(landscape)
        noisy = self.noise.noisy_gradient(theta, z[:split], amplitude, landscape)
        scale = jnp.asarray(amplitude, theta.dtype) * self._amplitude(theta)
        return noisy + scale * z[split:]


def without_bath(noise: AbstractGradientNoise | None) -> AbstractGradientNoise | None:
    """The noise of the gradients alone; None if there is none."""
    while isinstance(noise, ThermalNoise):
        noise = noise.noise
    return noise


def total_temperature(noise: AbstractGradientNoise | None) -> float:
    """T of all baths in a noise; 0 without one."""
    total = 0.0
    while isinstance(noise, ThermalNoise):
        total, noise = total + float(noise.temperature), noise.noise
    return total


def check_bath(noise: Any, learning_rate: float | None, name: str) -> None:
    """Raises `ValueError` for a bath made for another η than its process has; None: a schedule."""
    while isinstance(noise, ThermalNoise):
        own, wanted = float(noise.learning_rate), float(noise.temperature)
        if learning_rate is None and wanted > 0:
            raise ValueError(
                f"ThermalNoise has one temperature at one learning rate, {own:g}, and this {name} "
                f"has a schedule: take a constant rate, or Stages of {name}s with a bath each."
            )
        # Both may have been rounded to float32.
        if learning_rate is not None and wanted > 0 and not np.isclose(own, learning_rate, 1e-6, 0):
            raise ValueError(
                f"ThermalNoise was made for learning_rate={own:g}, and this {name} has "
                f"{learning_rate:g}: its bath would have the temperature "
                f"{wanted * learning_rate / own:g} and not {wanted:g}. Give both one rate."
            )
        noise = noise.noise
