"""Stationary currents of linear dynamics with constant noise, and the entropy they produce.

θ ← Fθ + √(hη) C^{1/2} ξ with F = 1 − hH: Gaussian SGD at h = η, Euler's scheme of the SDE at
h = η/substeps, and dθ = −Hθ dt + √η C^{1/2} dW as h → 0. The minimum is at θ = 0. Where HC ≠ CH the
stationary law N(0, M) carries a current:

- mean velocity at θ (average of forward and backward increments): Kθ, K = (F − MFM⁻¹)/(2h), and
  K = D M⁻¹ − H for h → 0, D = ηC/2;
- areal velocity: ½⟨θ_i dθ_j − θ_j dθ_i⟩/dt = (HM − MH)_ij/2, per unit t, at any h;
- entropy produced in a step: σ(x, x') = log [p(x) P(x → x') / (p(x') P(x' → x))], a quadratic form
  whose part that grows with time is x'ᵀΩx, Ω = (HC⁻¹ − C⁻¹H)/η at any h; its mean per unit t is
  −tr ΩMH, which for h → 0 is ⟨(Kθ)ᵀ D⁻¹ Kθ⟩.

In the stationary state ⟨e^{−σ}⟩ = 1, exactly, for one step and for any number of them.

Source: Seifert 2012 (continuous); "Machine learning in and out of equilibrium" (2306.03521).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sde_sgd._checks import real_values
from sde_sgd.processes.linear import LinearReading, NotKnown
from sde_sgd.processes.step_laws import Diffusion
from sde_sgd.theory import _step_laws
from sde_sgd.theory.stationary.moments import stable_reading


@dataclass(frozen=True)
class EntropyRate:
    """σ of a step as a quadratic form: ½(xᵀAx − x'ᵀAx') + x'ᵀΩx.

    Ω = (HC⁻¹ − C⁻¹H)/η is antisymmetric and A = (HC⁻¹ + C⁻¹H − hHC⁻¹H)/η − M⁻¹ symmetric. Along a
    trajectory σ = ½(x₀ᵀAx₀ − x_nᵀAx_n) + Σ x_{k+1}ᵀΩx_k: the first part telescopes, the second adds
    up areas. At h = 0 the sum is the integral ∫(dx)ᵀΩx of a continuous path, Itô or Stratonovich.

    **Fields:** `boundary` A, (d, d); `circulation` Ω, (d, d).
    """

    boundary: Float[np.ndarray, "d d"]
    circulation: Float[np.ndarray, "d d"]

    def __call__(self, before: Any, after: Any) -> Any:
        """σ(x, x') of pairs (..., d), θ measured from the minimum; arrays of numpy or of JAX."""
        x, y = self._positions("before", before), self._positions("after", after)
        return self.potential(x) - self.potential(y) + self.area(x, y)

    def potential(self, position: Any) -> Any:
        """½xᵀAx of positions (..., d)."""
        x = self._positions("position", position)
        return (x @ self.boundary * x).sum(-1) / 2

    def area(self, before: Any, after: Any) -> Any:
        """x'ᵀΩx of pairs (..., d): the part that grows with time."""
        x, y = self._positions("before", before), self._positions("after", after)
        return (y @ self.circulation * x).sum(-1)

    def _positions(self, name: str, value: Any) -> Any:
        """θ (..., d), an array of NumPy or of JAX."""
        found = real_values(name, value)
        if found.shape[-1:] != (len(self.boundary),):
            raise ValueError(f"{name} must be (..., {len(self.boundary)}); got {found.shape}.")
        return found


@dataclass(frozen=True)
class StationaryCurrent:
    """The stationary state of the linear dynamics, and how far from equilibrium it is.

    **Fields:** `covariance` M; `velocity` K, the mean velocity being Kθ, so that the probability
    current is Kθ p(θ); `areal_velocity` (HM − MH)/2, antisymmetric; all (d, d), per unit t.
    `entropy_production`: ⟨σ⟩ per unit t, 0 in equilibrium; `step_entropy`: the functional σ(x, x')
    of a step h.
    """

    covariance: Float[np.ndarray, "d d"]
    velocity: Float[np.ndarray, "d d"]
    areal_velocity: Float[np.ndarray, "d d"]
    entropy_production: float
    step_entropy: EntropyRate


def areal_velocity(process: Any, about: Any = None) -> Float[np.ndarray, "d d"]:
    """½⟨θ_i dθ_j − θ_j dθ_i⟩/dt in the stationary state of a process, at its own step.

    Antisymmetric, (d, d), per unit t: what `measure.ArealVelocity` measures. It needs the mean step
    and second moments alone, so that it is exact for real batches, noise that depends on θ and
    momentum too, where `stationary.covariance` is; shuffled epochs aside.

    **Arguments, errors:** as `covariance`.
    """
    reading = stable_reading(process, about)
    if process.epoch is not None:
        raise NotKnown(
            "Batches of shuffled epochs depend on each other, and so do a step and where it "
            "begins: the areal velocity is known for independent batches."
        )
    dim = len(reading.rest)
    move = np.einsum("ki,iab,li->akbl", reading.basis, reading.own.transition, reading.basis)
    onward = move.reshape(-1, move.shape[0] * dim)[:dim] @ reading.joint()[:, :dim]  # E θ′ θᵀ
    return (onward.T - onward) / (2 * reading.learning_rate * (reading.own.step or 1.0))


def stationary_current(process: Any, about: Any = None) -> StationaryCurrent:
    """The current of the stationary state and its entropy production, of Gaussian linear dynamics.

        current = ss.theory.stationary.stationary_current(ss.GaussianSGD(landscape, 0.1, noise))

    **Arguments:**

    - `process`: with Gaussian steps and a constant noise, that of `ConstantNoise` say:
      `GaussianSGD` without momentum, `ModifiedEquation` of both orders and `OverdampedEquation` by
      Euler, each with the law of a step at its own h; or a limit, with h → 0. The noise must have
      no direction without it: steps are irreversible there, and σ is infinite.
    - `about`: θ (d,), as in `covariance`: where it is linearised. θ is then measured from where
      the mean comes to rest (`mean`).

    **Raises:** `ValueError` as `covariance`, and for a singular C. `NotKnown` for SGD itself, whose
    jumps have no reverse, so that σ is infinite, and for noise that depends on θ: both have an
    `areal_velocity`.
    """
    reading = stable_reading(process, about)
    if not isinstance(process.law(), Diffusion):
        raise NotKnown(
            f"Jumps of {type(process).__name__} cannot be undone by another batch: its entropy "
            f"production is infinite. areal_velocity(process) is known; of entropy take "
            f"ss.GaussianSGD or an equation, with ConstantNoise.at(landscape, θ, sampling)."
        )
    if not _step_laws.has_constant_noise(reading):
        raise NotKnown(
            f"The noise of {type(process).__name__} depends on θ: its current is no linear "
            f"function of θ. areal_velocity(process) is known; for the rest hold the noise, with "
            f"ConstantNoise.at(landscape, θ, sampling)."
        )
    eta, step = reading.learning_rate, reading.own.step
    h, noise, dim = eta * step, _turned(reading, reading.noise.star), len(reading.rest)
    smallest, *_, largest = [*np.linalg.eigvalsh(noise), np.linalg.norm(noise, 2)]
    if smallest <= dim * np.finfo(float).eps * largest:
        raise ValueError(
            f"The gradient noise must be positive definite, its smallest eigenvalue is "
            f"{smallest:g}: in a direction without noise no step has a reverse, and the entropy "
            f"production is infinite. Project that direction out."
        )
    # F = 1 − hH with h → 0 for a limit, of which F is −ηH; noise G C Gᵀ = hηC, or η²C.
    slope, kick = reading.own.transition[:, 0, 0], reading.own.injection[:, 0]
    slope = -slope / eta if step == 0 else (1 - slope) / h
    hess = _turned(reading, np.diag(slope))
    noise = noise * (kick[0] ** 2 / (eta * (h or eta)))
    covariance = reading.joint()
    areal = (hess @ covariance - covariance @ hess) / 2
    precision, inverse = np.linalg.inv(covariance), np.linalg.inv(noise)
    inverse = (inverse + inverse.T) / 2
    twist, curved = hess @ inverse / eta, hess @ inverse @ hess / eta
    functional = EntropyRate(
        twist + twist.T - h * curved - (precision + precision.T) / 2, twist - twist.T
    )
    return StationaryCurrent(
        covariance,
        -areal @ precision,  # F − MFM⁻¹ = h(MHM⁻¹ − H), whatever h
        areal,
        float(-np.trace(functional.circulation @ covariance @ hess)),
        functional,
    )


def _turned(reading: LinearReading, matrix: np.ndarray) -> np.ndarray:
    """From the eigenbasis of the Hessian to the coordinates of θ."""
    found = reading.basis @ matrix @ reading.basis.T
    return (found + found.T) / 2
