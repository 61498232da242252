"""SGD whose epochs are shuffled: noise that is correlated in time, and its small variance.

On a quadratic loss of Hessian H the M batch gradients of one epoch are Hθ + ξ_k, with noises that
add up to zero, Σ_k ξ_k = 0, in an order that is uniform and independent between epochs. With S
the covariance of one step's gradient,

    Cov(ξ_k, ξ_l) = S (M δ_kl − 1)/(M − 1)  inside an epoch (−S/(M − 1) for k ≠ l),  0 across .

No white noise is like this. Over one epoch z → F^M z + Σ_k F^{M−1−k} G ξ_k, which gives the
covariance at the end of an epoch, and from there at each phase inside it, without approximation.

Source: Kühn, Rosenow 2023, "Correlated noise in epoch-based SGD" (2306.05300), where the same
sums are taken approximately for small η h M or 1/(η h M).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number, check_whole, real_values
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

# The covariance at every phase costs a sum over the epoch.
_MOST_BATCHES = 100_000


class EpochCovariance(NamedTuple):
    """Stationary covariance of θ, which depends on the phase of the epoch.

    **Fields:** `phases` (M, d, d): after k = 0, …, M − 1 steps of an epoch, so that `phases[0]` is
    the end of one; `average` (d, d) over the phases; both about the minimum, or in a flat
    direction about the start.
    """

    phases: Float[np.ndarray, "M d d"]
    average: Float[np.ndarray, "d d"]

    @property
    def epoch_end(self) -> Float[np.ndarray, "d d"]:
        """The covariance at the end of an epoch, (d, d)."""
        return self.phases[0]


def epoch_covariance(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    batches_per_epoch: int,
    momentum: RealLike = 0.0,
) -> EpochCovariance:
    """Stationary covariance of SGD with shuffled epochs on a quadratic, at every phase.

    In a direction of curvature h without momentum, ρ = 1 − ηh, v_k = ηρ^k,

        Var_0 = (1 − ρ^{2M})^{−1} s² M/(M−1) Σ_k (v_k − v̄)² ,   Var_m = ρ^{2m} Var_0
                + s² M/(M−1) [Σ_{k<m} v_k² − (Σ_{k<m} v_k)²/M] .

    Flat directions (h = 0) have a stationary spread too: η² s² m(M − m)/(M − 1) about the start.

    **Arguments:**

    - `hessian`: H, (d, d), symmetric positive semidefinite.
    - `gradient_noise`: S, (d, d), the covariance of the gradient of one step alone: c Σ with
      c = (N−B)/(B(N−1)), for the tilts of a potential or any noise that does not depend on θ.
    - `learning_rate`: η.
    - `batches_per_epoch`: M = N/B ≥ 2.
    - `momentum`: μ in [0, 1), heavy ball m ← μm + ĝ, θ ← θ − ηm, kept from epoch to epoch.

    **Raises:** `ValueError` for bad shapes and numbers, a Hessian with a negative eigenvalue, and
    η λ_max ≥ 2(1 + μ).
    """
    hess = _arguments.symmetric("hessian", hessian)
    noise = _arguments.covariance("gradient_noise", gradient_noise, len(hess))
    eta = check_number("learning_rate", learning_rate, above=0)
    mu = _arguments.momentum(momentum)
    count = _batches(batches_per_epoch)
    curvature, basis = np.linalg.eigh(hess)
    rounding = len(hess) * np.finfo(float).eps * np.abs(curvature).max()
    if curvature[0] < -rounding:
        raise ValueError(
            f"hessian must be positive semidefinite, its smallest eigenvalue is {curvature[0]:g}: "
            f"there is no stationary law along an unstable direction."
        )
    curvature = np.where(curvature <= rounding, 0.0, curvature)
    if eta * curvature[-1] >= 2 * (1 + mu):
        raise ValueError(
            f"learning_rate * largest curvature = {eta * curvature[-1]:g} must be < "
            f"2(1 + momentum) = {2 * (1 + mu):g}: no stationary covariance. Take learning_rate < "
            f"{2 * (1 + mu) / curvature[-1]:g}."
        )
    rotated = _phases(curvature, basis.T @ noise @ basis, eta, mu, count)
    phases = basis @ rotated @ basis.T
    return EpochCovariance(phases, phases.mean(axis=0))


def epoch_noise_autocovariance(
    batches_per_epoch: int, lags: ArrayLike
) -> Float[np.ndarray, " lags"]:
    """R(k)/R(0) of the gradient noise, averaged over the phase: −(M − |k|)/(M(M − 1)), |k| < M.

    Two steps of one epoch have −1/(M − 1), two of different epochs 0, and M − |k| of M pairs at
    lag k share their epoch. The sum over all lags is zero: no noise at zero frequency.

    **Arguments:** `batches_per_epoch`: M ≥ 2; `lags`: integers, any shape.
    """
    count, given = _batches(batches_per_epoch), np.asarray(real_values("lags", lags))
    if given.dtype.kind not in "iu":
        raise ValueError(f"lags must be integers, got dtype {given.dtype}.")
    lag = np.abs(given.astype(np.float64))  # differences of unsigned integers wrap round
    shared = -np.clip(count - lag, 0, None) / (count * (count - 1))
    return np.where(lag == 0, 1.0, shared)


def _batches(value: int) -> int:
    # N/B; one batch has no noise.
    return check_whole("batches_per_epoch", value, 2, _MOST_BATCHES)


def _phases(curvature, noise, eta: float, mu: float, count: int) -> Float[np.ndarray, "M d d"]:
    """Cov θ at all phases in the eigenbasis of H, where each pair of directions is on its own.

    A direction has the state z = θ, or (y, m) with momentum, θ = y + κm and κ = ημ/(1−μ): a flat
    direction moves m alone. F^k − 1 and F^k G − G are summed, rather than subtracted, so that a
    small curvature costs no digits.
    """
    dim, width = len(curvature), 1 if mu == 0 else 2
    rate, kappa = eta / (1 - mu), eta * mu / (1 - mu)
    less = np.zeros((dim, width, width))  # F − 1
    less[:, 0, 0] = -rate * curvature
    push, read = np.full((dim, 1), -rate), np.ones(1)
    if width == 2:
        less[:, 0, 1] = -rate * kappa * curvature
        less[:, 1, 0], less[:, 1, 1] = curvature, mu - 1 + kappa * curvature
        push, read = np.broadcast_to([-rate, 1.0], (dim, 2)), np.array([1.0, kappa])
    eye = np.eye(width)
    moved = np.zeros((count + 1, dim, width, width))  # F^k − 1
    kicks = np.zeros((count, dim, width))  # F^k G − G
    for k in range(count):
        moved[k + 1] = moved[k] + less + less @ moved[k]
        if k:
            kicks[k] = kicks[k - 1] + np.einsum("dab,db->da", less, kicks[k - 1] + push)
    noise = noise * count / (count - 1)

    def injected(last: int) -> np.ndarray:
        """Cov of the noise of the first `last` steps of an epoch, (d, d, width, width)."""
        mean = kicks[:last].mean(axis=0)
        apart = kicks[:last] - mean
        spread = np.einsum("kia,kjb->ijab", apart, apart)
        whole = mean + push
        rest = last * (1 - last / count) * np.einsum("ia,jb->ijab", whole, whole)
        return noise[:, :, None, None] * (spread + rest)

    end = _fixed_point(moved[count], injected(count), curvature == 0)
    result = np.empty((count, dim, dim))
    result[0] = np.einsum("a,ijab,b->ij", read, end, read)
    for k in range(1, count):
        power = eye + moved[k]
        carried = np.einsum("iab,ijbc,jdc->ijad", power, end, power)
        result[k] = np.einsum("a,ijab,b->ij", read, carried + injected(k), read)
    return (result + result.swapaxes(1, 2)) / 2


def _fixed_point(moved: np.ndarray, injected: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """P = F^M P F^Mᵀ + Q for each pair of directions, with F^M − 1 = `moved`.

    In two flat directions y never leaves the start, of which the equation says nothing.
    """
    dim, width = moved.shape[:2]
    result = np.zeros((dim, dim, width, width))
    eye = np.eye(width)
    for i in range(dim):
        for j in range(dim):
            a, b = moved[i], moved[j]
            gap = -(np.kron(a, eye) + np.kron(eye, b) + np.kron(a, b))
            right = injected[i, j].ravel().copy()
            if flat[i] and flat[j]:
                gap[0], right[0] = np.eye(width**2)[0], 0.0
            result[i, j] = np.linalg.solve(gap, right).reshape(width, width)
    return result
