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
from numpy.typing import ArrayLike

from sde_sgd._checks import real_values
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary.lyapunov import linear_covariance
from sde_sgd.types import RealLike


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


def stationary_current(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    time_step: RealLike = 0.0,
) -> StationaryCurrent:
    """Areal velocity and entropy production of linear dynamics with constant Gaussian noise.

    **Arguments:**

    - `hessian`: H, (d, d), symmetric positive definite.
    - `gradient_noise`: C = c Σ, (d, d), symmetric and positive *definite*: without noise in some
      direction, steps are irreversible and σ is infinite.
    - `learning_rate`: η; `time_step`: h in units of t: η for Gaussian SGD, η/substeps for Euler, 0
      for the SDE.

    **Raises:** `ValueError` as `linear_covariance`, and for a singular C.
    """
    covariance = linear_covariance(
        hessian, gradient_noise, learning_rate=learning_rate, time_step=time_step
    )
    dim, eta, h = len(covariance), float(learning_rate), float(time_step)
    hess = _arguments.symmetric("hessian", hessian)
    noise = _arguments.covariance("gradient_noise", gradient_noise, dim)
    smallest, *_, largest = [*np.linalg.eigvalsh(noise), np.linalg.norm(noise, 2)]
    if smallest <= dim * np.finfo(float).eps * largest:
        raise ValueError(
            f"gradient_noise must be positive definite, its smallest eigenvalue is {smallest:g}: "
            f"in a direction without noise no step has a reverse, and the entropy production is "
            f"infinite. Project that direction out."
        )
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
