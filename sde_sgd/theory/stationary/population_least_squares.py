"""Stationary covariance of online least squares: fresh Gaussian examples at every step.

Features x ~ N(0, A), targets y = x·θ* + ε with Var ε = σ², losses ½(x·θ − y)². A batch of B
fresh examples has, at θ* + δ, by Isserlis' theorem,

    Cov(ĝ) = (1/B) [ A δ δᵀ A + (δᵀ A δ) A + σ² A ] .
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_at_least, check_flag, check_number
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike


def population_covariance(
    feature_covariance: ArrayLike,
    *,
    label_noise: RealLike,
    learning_rate: RealLike,
    batch_size: RealLike,
    momentum: RealLike = 0.0,
    time_step: RealLike | None = None,
    frozen_noise: bool = False,
) -> Float[np.ndarray, "d d"]:
    """M = (σ²/B)(1 + κ/B) η G⁻¹ with κ = τ/(1 − τ/B) and τ = Tr[η A G⁻¹].

    G = 2(1−μ) − ((1−μ)/(1+μ) + 1/B) η A for SGD with heavy ball (m ← μm + ĝ, θ ← θ − ηm), and
    G = 2 − (h + η/B) A at solver step h without momentum: h = η SGD, η/m Euler (or SVAG(m), whose
    second moments are the same), 0 the SDE. The 1/B in G and κ come from noise that grows with the
    distance from the minimum; `frozen_noise` drops both, which leaves the constant noise σ²A/B.

    **Arguments:**

    - `feature_covariance`: A, (d, d), symmetric positive definite.
    - `label_noise`: σ, the standard deviation of ε.
    - `learning_rate`: η; `batch_size`: B; `momentum`: μ in [0, 1).
    - `time_step`: h in units of t = η·iterations; None means SGD, h = η.
    - `frozen_noise`: hold Σ at its value at θ*.

    **Returns:** the covariance of θ, (d, d).

    **Raises:** `ValueError` for bad shapes and numbers, for momentum with a `time_step` other than
    `learning_rate`, and where no finite second moment exists (G not positive, or τ ≥ B).

    **Source:** Ziyin, Liu, Mori, Ueda 2021, "Strength of minibatch noise in SGD".
    """
    features = _arguments.covariance("feature_covariance", feature_covariance)
    _arguments.positive_eigenvalues("feature_covariance", features)
    sigma = _arguments.label_noise(label_noise)
    eta = check_number("learning_rate", learning_rate, above=0)
    batch = check_at_least("batch_size", batch_size, 1)
    mu = _arguments.momentum(momentum)
    h = eta if time_step is None else check_at_least("time_step", time_step)
    if mu and h != eta:
        raise ValueError(
            f"momentum={mu:g} is the discrete heavy ball, whose time_step is the learning_rate "
            f"{eta:g}; got time_step={h:g}. Leave time_step out, or take momentum=0."
        )
    feedback = 0.0 if check_flag("frozen_noise", frozen_noise) else 1 / batch
    eigenvalues, basis = np.linalg.eigh(features)
    g = 2 * (1 - mu) - ((1 - mu) / (1 + mu) * h + feedback * eta) * eigenvalues
    trace = np.sum(eta * eigenvalues / g) if g[-1] > 0 else np.inf
    if trace * feedback >= 1 or g[-1] <= 0:
        raise ValueError(
            f"No stationary second moment at learning_rate={eta:g}, batch_size={batch:g}: "
            f"min G = {g[-1]:g} must be > 0 and Tr[eta A/G]/B = {trace * feedback:g} must be < 1. "
            f"Take a smaller learning_rate or a larger batch_size."
        )
    kappa = trace / (1 - trace * feedback)
    variances = sigma**2 / batch * (1 + kappa * feedback) * eta / g
    return (basis * variances) @ basis.T
