"""The closed second-moment equations of finite-sum least squares, in the eigenbasis of H.

With r_i the residuals at θ*, H_i = x_i x_iᵀ, A = (1/N) Σ H_i, H = A + λI, s_i = r_i x_i and s̄
their mean (−λθ*, not 0, when l2 = λ > 0), the example gradients at θ* + δ are s_i + H_i δ plus
terms common to all i, so that

    Σ(θ* + δ) = Σ* + K[δδᵀ] + X δ ,
    K[S] = (1/N) Σ H_i S H_i − A S A          (A, not H: the penalty adds no noise),
    X δ  = (1/N) Σ (s_i δᵀH_i + H_i δ s_iᵀ) − (s̄ δᵀA + A δ s̄ᵀ) .

Symmetric matrices are stored as vectors of length p = d(d+1)/2 with off-diagonal entries × √2:
Frobenius products stay dot products, and K, self-adjoint, stays a symmetric p × p matrix.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

MAX_DIMENSION = 64
_ROWS = 2048  # examples per block of x_i ⊗ x_i, so that memory does not grow with N


@dataclass(frozen=True)
class Closure:
    """One least-squares problem, rotated to the eigenbasis of its Hessian.

    **Fields:** `basis` (d, d) with eigenvectors as columns, `curvature` (d,) eigenvalues of A,
    `l2`, `minimum` (d,) rotated θ*, `star` (p,) Σ*, `feedback` (p, p) K, `cross` (p, d) X.
    """

    basis: Float[np.ndarray, "d d"]
    curvature: Float[np.ndarray, " d"]
    l2: float
    minimum: Float[np.ndarray, " d"]
    star: Float[np.ndarray, " p"]
    feedback: Float[np.ndarray, "p p"]
    cross: Float[np.ndarray, "p d"]

    @property
    def hessian(self) -> Float[np.ndarray, " d"]:
        """Eigenvalues of H = A + λI."""
        return self.curvature + self.l2

    @property
    def flat(self) -> np.ndarray:
        """Which directions no example sees and no penalty holds: they never move."""
        return _flat(self.curvature, self.l2)

    def noise(self, second: np.ndarray, mean: np.ndarray) -> Float[np.ndarray, " p"]:
        """E Σ for δ of second moment `second` (p,) and mean `mean` (d,)."""
        return self.star + self.feedback @ second + self.cross @ mean


def closure(inputs: np.ndarray, targets: np.ndarray, l2: float, *, frozen: bool) -> Closure:
    """The closure of ½(x_i·θ − y_i)² + λ/2·|θ|²; `frozen` drops K and X."""
    num, dim = inputs.shape
    padding = max(dim - num, 0)  # rows of zeros, so that flat directions get eigenvectors too
    left, singular, right = np.linalg.svd(
        np.vstack([inputs, np.zeros((padding, dim))]) / np.sqrt(num), full_matrices=False
    )
    curvature, basis, x = singular**2, right.T, inputs @ right.T
    loading = left.T @ np.concatenate([targets, np.zeros(padding)]) / np.sqrt(num)
    flat = _flat(curvature, l2)
    minimum = np.where(flat, 0.0, singular * loading / np.where(flat, 1.0, curvature + l2))

    residual = x @ minimum - targets
    slopes = residual[:, None] * x
    centre = slopes.mean(axis=0)
    star = half(((slopes - centre).T @ (slopes - centre)) / num)
    size = len(star)
    feedback, cross = np.zeros((size, size)), np.zeros((size, dim))
    if not frozen:
        for first in range(0, num, _ROWS):
            block = slice(first, first + _ROWS)
            squares = half(x[block, :, None] * x[block, None, :])
            feedback += squares.T @ squares / num
            cross += 2 * squares.T @ slopes[block] / num
        feedback -= np.diag(half(np.outer(curvature, curvature), scaled=False))
        outer = centre[:, None, None] * np.diag(curvature)[None]  # s̄_a A_bj, axes (a, b, j)
        cross -= half(np.moveaxis(outer + outer.swapaxes(0, 1), -1, 0)).T
    return Closure(basis, curvature, l2, minimum, star, feedback, cross)


def _flat(curvature: np.ndarray, l2: float) -> np.ndarray:
    return curvature + l2 <= len(curvature) * np.finfo(float).eps * curvature.max()


def half(matrix: np.ndarray, *, scaled: bool = True) -> np.ndarray:
    """(..., d, d) symmetric → (..., p), off-diagonal entries × √2 unless not `scaled`."""
    rows, columns = np.triu_indices(matrix.shape[-1])
    entries = matrix[..., rows, columns]
    return entries * np.where(rows == columns, 1.0, np.sqrt(2)) if scaled else entries


def full(vector: np.ndarray) -> np.ndarray:
    """(..., p) → (..., d, d), the inverse of `half`."""
    dim = int(np.sqrt(2 * vector.shape[-1]))
    rows, columns = np.triu_indices(dim)
    entries = vector / np.where(rows == columns, 1.0, np.sqrt(2))
    matrix = np.zeros((*vector.shape[:-1], dim, dim))
    matrix[..., rows, columns] = entries
    matrix[..., columns, rows] = entries
    return matrix


def drift(problem: Closure, eta: float, order: int) -> Float[np.ndarray, " d"]:
    """Eigenvalues of the linear drift: H, or H + (η/2)H² for the second-order equation."""
    hess = problem.hessian
    return hess if order == 1 else hess + eta / 2 * hess**2


def resistance(rate: np.ndarray, eta: float, h: float, mu: float) -> Float[np.ndarray, " p"]:
    """R_ij with R ∘ M = C in the stationary state under a constant noise C.

    (q_i + q_j − h q_i q_j)/η without momentum; heavy ball is the equation of Liu, Ziyin, Ueda.
    """
    row, column = rate[:, None], rate[None, :]
    if mu == 0:
        return half((row + column - h * row * column) / eta, scaled=False)
    return half((1 - mu) * (row + column) / eta - _curving(row, column, mu), scaled=False)


def _curving(row: np.ndarray, column: np.ndarray, mu: float) -> np.ndarray:
    return ((1 + mu**2) * row * column - mu * (row**2 + column**2)) / (1 - mu**2)


def largest_stable_rate(problem: Closure, c: float, ratio: float, mu: float) -> float:
    """The η below which R(η) − cK is positive definite, h = ratio·η, off the flat directions.

    R is linear in 1/η, so the threshold is the top eigenvalue of one symmetric-definite pencil.
    """
    moving = ~problem.flat
    row, column = problem.hessian[:, None], problem.hessian[None, :]
    pairs = half(moving[:, None] & moving[None, :], scaled=False).astype(bool)
    curving = ratio * row * column if mu == 0 else _curving(row, column, mu)
    destabilising = np.diag(half(curving, scaled=False)) + c * problem.feedback
    scale = 1 / np.sqrt(half((1 - mu) * (row + column), scaled=False)[pairs])
    top = _top(destabilising[np.ix_(pairs, pairs)] * scale[:, None] * scale)
    return 1 / top if top > 0 else np.inf


def growth(problem: Closure, eta: float, c: float, h: float, order: int) -> float:
    """Top eigenvalue of the second-moment map per step h (h > 0) or of its generator (h = 0).

    Flat directions of the Hessian, where the map is the identity, are left out. The map is
    completely positive and self-adjoint, so its top eigenvalue is its spectral radius.
    """
    rate, moving = drift(problem, eta, order), ~problem.flat
    pairs = half(moving[:, None] & moving[None, :], scaled=False).astype(bool)
    diagonal, scale = _homogeneous(rate, h), eta if h == 0 else h * eta
    return _top((np.diag(diagonal) + scale * c * problem.feedback)[np.ix_(pairs, pairs)])


def _homogeneous(rate: np.ndarray, h: float) -> np.ndarray:
    row, column = rate[:, None], rate[None, :]
    return half(-(row + column) if h == 0 else (1 - h * row) * (1 - h * column), scaled=False)


def check_held(matrix: np.ndarray) -> np.ndarray:
    """Refuses a matrix whose numbers have left float64."""
    if not np.isfinite(matrix).all():
        raise ValueError(
            "The second-moment equations overflow: inputs, learning_rate, time_step or l2 are too "
            "large for float64. Rescale the data."
        )
    return matrix


def _top(matrix: np.ndarray) -> float:
    check_held(matrix)
    last = len(matrix) - 1
    return float(eigh(matrix, eigvals_only=True, subset_by_index=[last, last])[0])


def affine_system(problem: Closure, eta: float, c: float, h: float, order: int) -> np.ndarray:
    """The matrix of (1, E δ, E δδᵀ): its map over one step h, or its generator when h = 0."""
    rate = drift(problem, eta, order)
    dim, size = len(rate), len(problem.star)
    scale = (eta if h == 0 else h * eta) * c
    system = np.zeros((1 + dim + size, 1 + dim + size))
    system[0, 0] = 0.0 if h == 0 else 1.0
    system[1 : 1 + dim, 1 : 1 + dim] = np.diag(-rate if h == 0 else 1 - h * rate)
    system[1 + dim :, 0] = scale * problem.star
    system[1 + dim :, 1 : 1 + dim] = scale * problem.cross
    system[1 + dim :, 1 + dim :] = np.diag(_homogeneous(rate, h)) + scale * problem.feedback
    return system
