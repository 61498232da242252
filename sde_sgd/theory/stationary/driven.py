"""Stationary laws of linear equations under coloured and under α-stable noise.

On a quadratic of Hessian H with gradient noise S the equation of `DrivenEquation` is
dθ = −ηHθ ds + η S^{1/2} dZ_s, s in iterations. A `ColouredNoise` with the states Y_k makes (θ, Y)
one linear Gaussian system. Its Lyapunov equation is triangular, and solved by substitution:
E Y_kY_l = 1/(γ_k + γ_l) first, then E θY_k, then E θθᵀ.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import gamma

from sde_sgd._checks import check_at_least, check_number, check_part, in_brief
from sde_sgd.noise.driving import AbstractDriving, ColouredNoise, StableNoise, WhiteNoise
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike


def driven_covariance(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    driving: AbstractDriving,
    *,
    learning_rate: RealLike,
    time_step: RealLike = 0.0,
) -> Float[np.ndarray, "d d"]:
    """Stationary covariance of dθ = −ηHθ ds + η S^{1/2} dZ_s for Gaussian Z with memory.

    Exact for the states that `driving` has, at Euler's step too, θ ← θ − ηHθ h + η S^{1/2} ΔZ with
    increments of exact law.

    **Arguments:** `hessian` H (d, d), positive definite; `gradient_noise` S (d, d), Cov(ĝ) of one
    iteration; `driving`, `WhiteNoise` or `ColouredNoise`; `learning_rate` η; `time_step` h *in
    iterations*: 1/substeps, or 0 for the equation itself.

    **Raises:** `ValueError` for noise without a variance, bad shapes, ηhλ_max ≥ 2.
    """
    hess = _arguments.symmetric("hessian", hessian)
    _arguments.positive_eigenvalues("hessian", hess)
    noise = _arguments.covariance("gradient_noise", gradient_noise, len(hess))
    eta = check_number("learning_rate", learning_rate, above=0)
    step = check_at_least("time_step", time_step)
    if isinstance(driving, WhiteNoise):
        driving = ColouredNoise([1.0], [0.0], 1.0)
    if not isinstance(driving, ColouredNoise):
        raise ValueError(
            f"driving={in_brief(driving)} has no covariance to predict, which WhiteNoise and "
            f"ColouredNoise have; for α-stable noise see "
            f"stationary_scale_stable."
        )
    curvature, basis = np.linalg.eigh(hess)
    pull = eta * curvature  # per iteration
    if step * pull[-1] >= 2:
        raise ValueError(
            f"Euler's step of {step:g} iterations is unstable: learning_rate * time_step * largest "
            f"curvature = {step * pull[-1]:g} must be < 2. Take more substeps."
        )
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
    rotated = basis.T @ noise @ basis
    return eta**2 * basis @ (rotated * response) @ basis.T


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


def stationary_scale_stable(
    rate: RealLike, amplitude: RealLike, driving: StableNoise, *, time_step: RealLike = 0.0
) -> float:
    """s of the stationary law E e^{iux} = e^{−|su|^α} of dx = −λx ds + A dZ, Z α-stable.

    s^α = (σA)^α/(αλ), or (σA)^α h/(1 − |1 − λh|^α) for Euler's step h: sums of independent stable
    numbers, whose s^α add.

    **Arguments:** `rate` λ > 0, `amplitude` A > 0, `driving` (its σ and α), `time_step` h ≥ 0, all
    in one unit of time.

    **Raises:** `ValueError` for λh ≥ 2.
    """
    check_part("driving", driving, StableNoise, "a StableNoise(index, scale)")
    slope = check_number("rate", rate, above=0)
    size = check_number("amplitude", amplitude, above=0) * driving.scale
    step = check_at_least("time_step", time_step)
    if slope * step >= 2:
        raise ValueError(f"rate * time_step = {slope * step:g} must be < 2: the step is unstable.")
    alpha = driving.index
    if step == 0:
        return float(size / (alpha * slope) ** (1 / alpha))
    kept = 1 - abs(1 - slope * step) ** alpha
    return float(size * (step / kept) ** (1 / alpha))
