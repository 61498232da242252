"""Moments of linear dynamics with constant noise: SGD, its Euler schemes, and the OU limit.

All of these are one chain on a quadratic loss with Hessian H and per-step gradient covariance
C = c Σ. At solver step h, and with ξ ~ (0, 1),

    θ ← θ − h H (θ − θ*) + √(h η) C^{1/2} ξ ,

is Gaussian SGD for h = η, Euler–Maruyama with m substeps for h = η/m, and the Itô SDE
dθ = −H(θ − θ*) dt + √η C^{1/2} dW for h → 0. Time is t = η·(SGD iterations) = h·(solver steps).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_lyapunov

from sde_sgd._checks import check_at_least, check_flag, check_number
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike


class TransientMoments(NamedTuple):
    """Mean and covariance of θ at each of `times`, from a deterministic start.

    **Fields:** `times` (T,) in units of t = η·iterations, `mean` (T, d), `covariance` (T, d, d).
    """

    times: Float[np.ndarray, " T"]
    mean: Float[np.ndarray, "T d"]
    covariance: Float[np.ndarray, "T d d"]


def linear_covariance(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    time_step: RealLike = 0.0,
) -> Float[np.ndarray, "d d"]:
    """Stationary covariance M of θ under constant noise: H M + M H − h H M H = η C.

    **Arguments:**

    - `hessian`: H, (d, d), symmetric positive definite.
    - `gradient_noise`: C = c Σ, (d, d), the covariance of the stochastic gradient of one
      iteration (not of the increment, which is η² C).
    - `learning_rate`: η.
    - `time_step`: h, in units of t: η for SGD, η/substeps for Euler, 0 for the SDE.

    **Raises:** `ValueError` for shapes, non-finite or non-symmetric matrices, and for
    h λ_max(H) ≥ 2, where the chain has no stationary law.

    **Source:** Mandt, Hoffman, Blei 2017 (h = 0); Liu, Ziyin, Ueda 2021 (h = η).
    """
    hess = _arguments.symmetric("hessian", hessian)
    noise = _arguments.covariance("gradient_noise", gradient_noise, len(hess))
    eta = check_number("learning_rate", learning_rate, above=0)
    h = check_at_least("time_step", time_step)
    _arguments.positive_eigenvalues("hessian", hess)
    eigenvalues, basis = np.linalg.eigh(hess)
    if h * eigenvalues[-1] >= 2:
        raise ValueError(
            f"time_step * largest Hessian eigenvalue = {h * eigenvalues[-1]:g} must be < 2: no "
            f"stationary covariance. Take time_step < {2 / eigenvalues[-1]:g} (for SGD, that "
            f"learning_rate), or more substeps."
        )
    rows, columns = eigenvalues[:, None], eigenvalues[None, :]
    rotated = eta * (basis.T @ noise @ basis) / (rows + columns - h * rows * columns)
    return _symmetrised(basis @ rotated @ basis.T)


def momentum_covariance(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    momentum: RealLike,
    preconditioner: ArrayLike | None = None,
    joint: bool = False,
) -> Float[np.ndarray, "n n"]:
    """Stationary covariance of discrete heavy ball: m ← μ m + ĝ, θ ← θ − η P m.

    With z = (θ − θ*, m) the chain is z ← F z + G ξ, F = [[I − ηPH, −ημP], [H, μI]],
    G = [−ηP; I], and the joint covariance S solves S = F S Fᵀ + G C Gᵀ. Its θ block M satisfies,
    with Λ = ηP, the equation (1−μ)(ΛHM + MHΛ) − (1+μ²)/(1−μ²) ΛHMHΛ
    + μ/(1−μ²)(ΛHΛHM + MHΛHΛ) = ΛCΛ of Liu, Ziyin, Ueda 2021.

    **Arguments:**

    - `hessian`, `gradient_noise`, `learning_rate`: as in `linear_covariance`.
    - `momentum`: μ in [0, 1).
    - `preconditioner`: P, (d, d), symmetric positive definite; the identity if None.
    - `joint`: return the (2d, 2d) covariance of (θ, m), m being the buffer of the same iteration,
      instead of the (d, d) covariance of θ.

    **Raises:** `ValueError` as `linear_covariance`, and for η λ_max(PH) ≥ 2(1 + μ).
    """
    hess = _arguments.symmetric("hessian", hessian)
    dim = len(hess)
    check_flag("joint", joint)
    noise = _arguments.covariance("gradient_noise", gradient_noise, dim)
    eta = check_number("learning_rate", learning_rate, above=0)
    mu = _arguments.momentum(momentum)
    _arguments.positive_eigenvalues("hessian", hess)
    eye = np.eye(dim)
    scale = (
        eye
        if preconditioner is None
        else _arguments.symmetric("preconditioner", preconditioner, dim)
    )
    _arguments.positive_eigenvalues("preconditioner", scale)
    largest = np.linalg.eigvals(scale @ hess).real.max()
    if eta * largest >= 2 * (1 + mu):
        raise ValueError(
            f"learning_rate * largest curvature = {eta * largest:g} must be < 2(1 + momentum) = "
            f"{2 * (1 + mu):g}: no stationary covariance. Take learning_rate < "
            f"{2 * (1 + mu) / largest:g}."
        )
    transition = np.block([[eye - eta * scale @ hess, -eta * mu * scale], [hess, mu * eye]])
    injection = np.vstack([-eta * scale, eye])
    both = solve_discrete_lyapunov(transition, injection @ noise @ injection.T)
    return _symmetrised(both if joint else both[:dim, :dim])


def linear_transient(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    time_step: RealLike,
    times: ArrayLike,
    theta0: ArrayLike,
    minimum: ArrayLike | None = None,
) -> TransientMoments:
    """Mean and covariance at `times` of the linear chain (or OU) started at `theta0`.

    In the eigenbasis of H, after n = t/h steps and with ρ_ij = (1 − h λ_i)(1 − h λ_j),

        E θ_i − θ*_i = (1 − h λ_i)ⁿ (θ0_i − θ*_i) ,   Cov_ij = h η C_ij (1 − ρ_ijⁿ)/(1 − ρ_ij) ,

    and for h = 0 the limits e^{−λ_i t} and η C_ij (1 − e^{−(λ_i+λ_j)t})/(λ_i + λ_j).

    **Arguments:**

    - `hessian`: H, (d, d), symmetric; flat directions, saddles and unstable steps are allowed.
    - `gradient_noise`, `learning_rate`, `time_step`: as in `linear_covariance`.
    - `times`: (T,), t ≥ 0, multiples of `time_step` unless it is 0.
    - `theta0`: (d,), a deterministic start.
    - `minimum`: θ*, (d,), where the gradient vanishes; the origin if None.

    **Returns:** `TransientMoments`.

    **Raises:** `ValueError` for shapes, non-finite entries, and times between two steps.
    """
    hess = _arguments.symmetric("hessian", hessian)
    dim = len(hess)
    noise = _arguments.covariance("gradient_noise", gradient_noise, dim)
    eta = check_number("learning_rate", learning_rate, above=0)
    h = check_at_least("time_step", time_step)
    clock = _arguments.times(times)
    centre = np.zeros(dim) if minimum is None else _arguments.vector("minimum", minimum, dim)
    start = _arguments.vector("theta0", theta0, dim) - centre

    eigenvalues, basis = np.linalg.eigh(hess)
    rows, columns = eigenvalues[:, None], eigenvalues[None, :]
    if h == 0:
        decay = np.exp(-clock[:, None] * eigenvalues)
        weight = _geometric_limit(rows + columns, clock[:, None, None])
    else:
        steps = _arguments.whole_steps(clock, h)
        decay = (1 - h * eigenvalues) ** steps[:, None]
        weight = h * _geometric(h * (rows + columns - h * rows * columns), steps[:, None, None])
    mean = centre + (decay * (basis.T @ start)) @ basis.T
    rotated = eta * (basis.T @ noise @ basis) * weight
    return TransientMoments(clock, mean, _symmetrised(basis @ rotated @ basis.T))


def _geometric(gap: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Σ_{k<n} (1 − gap)^k = (1 − (1 − gap)ⁿ)/gap, without cancellation at small gap."""
    near = np.abs(gap) < 0.5
    small = np.where(near, gap, 0.25)
    large = np.where(near, 1.0, gap)
    accurate = -np.expm1(steps * np.log1p(-small)) / np.where(small == 0, 1.0, small)
    accurate = np.where(small == 0, steps, accurate)
    return np.where(near, accurate, (1 - (1 - large) ** steps) / large)


def _geometric_limit(rate: np.ndarray, time: np.ndarray) -> np.ndarray:
    """∫_0^t e^{−rate·s} ds, equal to t where the rate vanishes."""
    safe = np.where(rate == 0, 1.0, rate)
    return np.where(rate == 0, time, -np.expm1(-time * safe) / safe)


def _symmetrised(matrix: np.ndarray) -> np.ndarray:
    return (matrix + np.swapaxes(matrix, -1, -2)) / 2
