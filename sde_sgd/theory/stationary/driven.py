"""Stationary laws of linear equations under coloured and under α-stable noise.

On a quadratic of Hessian H with gradient noise S the equation of `DrivenEquation` is
dθ = −ηHθ ds + η S^{1/2} dZ_s, s in iterations. A `ColouredNoise` with the states Y_k makes (θ, Y)
one linear Gaussian system. Its Lyapunov equation is triangular, and solved by substitution:
E Y_kY_l = 1/(γ_k + γ_l) first, then E θY_k, then E θθᵀ.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import gamma

from sde_sgd._checks import check_number, check_part
from sde_sgd.noise.driving import AbstractDriving, ColouredNoise, StableNoise, WhiteNoise
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.continuous.driven import read_driven
from sde_sgd.processes.linear import LinearReading, NotKnown
from sde_sgd.theory import _step_laws
from sde_sgd.theory.stationary.moments import place
from sde_sgd.types import RealLike


def driven_covariance(process: Any, about: Any = None) -> Float[np.ndarray, "d d"]:
    """Stationary covariance of dθ = −ηHθ ds + η S^{1/2} dZ_s for Gaussian Z with memory, (d, d).

        ss.theory.stationary.driven_covariance(ss.DrivenEquation(landscape, 0.1, noise, driving))

    Exact for the states that the driving has, at Euler's step too, θ ← θ − ηHθ h + η S^{1/2} ΔZ
    with increments of exact law.

    **Arguments:**

    - `process`: `DrivenEquation` with `WhiteNoise` or `ColouredNoise` and a gradient noise that
      does not depend on θ (`ConstantNoise`), at its step, or its limit.
    - `about`: θ (d,), as in `covariance`.

    **Raises:** `ValueError` for flat and unstable directions, and ηhλ_max ≥ 2; `NotKnown` for other
    processes, driving without a variance, and noise that depends on θ.
    """
    reading, driving = _read(process, about)
    if isinstance(driving, WhiteNoise):
        driving = ColouredNoise([1.0], [0.0], 1.0)
    if not isinstance(driving, ColouredNoise):
        raise NotKnown(
            f"{type(driving).__name__} has no covariance to predict, which WhiteNoise and "
            f"ColouredNoise have; of α-stable noise there is stationary_scale_stable(process)."
        )
    eta, basis, step = reading.learning_rate, reading.basis, reading.own.step
    pull = eta * reading.curvature  # per iteration
    rates, weights = np.array(driving.rates), np.array(driving.weights)
    white = driving.white
    total = rates[:, None] + rates[None, :]
    # E ΔZ Y_k', E ΔZ², and the shrinking of θ and Y, all over a step and divided by h where h = 0.
    if step == 0:
        loss, shrink = rates, pull
        kick = white + (rates[:, None] / total) @ weights
        square = (white + weights.sum()) ** 2
    else:
        loss, shrink = -np.expm1(-rates * step), pull * step
        kick = white * loss / rates + (loss[:, None] / total) @ weights
        pairs = (loss[:, None] + loss[None, :]) / total
        square = white**2 * step + 2 * white * weights @ (loss / rates) + weights @ pairs @ weights
    cross = 0.0 if step == 0 else np.outer(shrink, loss)
    mixed = kick / (shrink[:, None] + loss - cross)  # E θ_i Y_k, (d, m)
    drag = -mixed @ (weights * loss)  # E θ_i ΔZ, (d,)
    held = drag if step == 0 else (1 - shrink) * drag
    both = 0.0 if step == 0 else np.outer(shrink, shrink)
    response = (square + held[:, None] + held[None, :]) / (shrink[:, None] + shrink - both)
    return eta**2 * basis @ (reading.noise.star * response) @ basis.T


def fractional_ornstein_uhlenbeck_variance(
    rate: RealLike, amplitude: RealLike, hurst: RealLike
) -> float:
    """σ²Γ(2H+1)/(2λ^{2H}): stationary variance of dx = −λx dt + σ dB^H, E (B^H_t)² = t^{2H}.

    **Arguments:** `rate` λ > 0, `amplitude` σ > 0, `hurst` H in (0, 1). `DrivenEquation` on ½hθ²
    with noise of variance C has λ = ηh and σ = η√C, in iterations.

    **Source:** Cheridito, Kawaguchi, Maejima 2003, remark 2.4.
    """
    slope = check_number("rate", rate, above=0)
    sigma = check_number("amplitude", amplitude, above=0)
    index = check_number("hurst", hurst, above=0, below=1)
    with np.errstate(over="ignore"):
        return float(np.square(sigma) * gamma(2 * index + 1) / (2 * slope ** (2 * index)))


def stationary_scale_stable(process: Any, about: Any = None) -> float:
    """s of the stationary law E e^{iu(θ−θ*)} = e^{−|su|^α} of an equation with α-stable Z, d = 1.

    With dθ = −λθ ds + A dZ, λ = ηh and A = η√C, s^α = (σA)^α/(αλ), or (σA)^α h/(1 − |1 − λh|^α)
    for Euler's step h in iterations: sums of independent stable numbers, whose s^α add.

    **Arguments:** `process`: `DrivenEquation` with `StableNoise` (its σ and α) and a gradient noise
    that does not depend on θ, at its step, or its limit; `about` as in `covariance`.

    **Raises:** `ValueError` for λh ≥ 2 and λ ≤ 0; `NotKnown` for other processes and driving, d > 1
    and noise that depends on θ.
    """
    reading, driving = _read(process, about)
    if not isinstance(driving, StableNoise) or len(reading.curvature) != 1:
        raise NotKnown(
            f"The scale of a stable law is known for StableNoise in one dimension; got "
            f"{type(driving).__name__} with d={len(reading.curvature)}. driven_covariance(process) "
            f"has the covariance of Gaussian driving."
        )
    slope = reading.learning_rate * float(reading.curvature[0])
    noise = float(reading.noise.star.item())
    size, step = reading.learning_rate * np.sqrt(noise) * driving.scale, reading.own.step
    alpha = driving.index
    if step == 0:
        return float(size / (alpha * slope) ** (1 / alpha))
    kept = 1 - abs(1 - slope * step) ** alpha
    return float(size * (step / kept) ** (1 / alpha))


def _read(process: Any, about: Any) -> tuple[LinearReading, AbstractDriving]:
    """The reading and the driving, of a stable step under constant noise."""
    check_part("process", process, AbstractProcess, "a process such as ss.DrivenEquation")
    reading, driving = read_driven(process, place(process, about))
    if not _step_laws.has_constant_noise(reading):
        raise NotKnown(
            f"The gradient noise of {type(process).__name__} depends on θ: hold it with "
            f"ConstantNoise.at(landscape, θ, sampling)."
        )
    if reading.flat.any() or reading.curvature[0] <= 0:
        raise ValueError(
            f"The Hessian must be positive definite, its smallest eigenvalue is "
            f"{reading.curvature[0]:g}: there is no stationary law along a flat or unstable "
            f"direction. Add l2, or project that direction out."
        )
    step = reading.own.step
    most = step * reading.learning_rate * float(reading.curvature[-1])
    if most >= 2:
        raise ValueError(
            f"Euler's step of {step:g} iterations is unstable: learning_rate * step * largest "
            f"curvature = {most:g} must be < 2. Take more substeps."
        )
    return reading, driving
