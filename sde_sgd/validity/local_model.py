"""SGD and its SDE on the quadratic model of every example loss: both laws' moments, exactly.

In m watched directions, θ + Qz, each example loss is replaced by its second-order model, with
gradient p_i + H_i z. With centred parts a_i = p_i − p, B_i = H_i − H the noise covariance is
quadratic in z,

    C(z) = (c/N) Σ (a_i + B_i z)(a_i + B_i z)ᵀ,

so that the first two moments close. With momentum μ the state is y = (z, v), else y = z:

    SGD:  v ← μv + p + Hz + ξ, z ← z − ηv;
    SDE:  dz = −ηv ds, dv = −(1−μ)v ds + (p + Hz) ds + C^{1/2} dW_s,  s in iterations
          (μ = 0:  dz = −η(p + Hz) ds + ηC^{1/2} dW_s).

Both are linear in (1, E y, E yyᵀ): a power of one matrix, and of one matrix exponential.

Source: the closure of `sde_sgd.processes.linear`, for example Hessians of any rank
and sign.
"""

from typing import NamedTuple

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import Float


class Settings(NamedTuple):
    """What the laws depend on beside the landscape: η, c of one step, μ, iterations K."""

    learning_rate: float
    noise_factor: float
    momentum: float
    num_steps: int


class Law(NamedTuple):
    """Mean (m,) and covariance (m, m) of z after K iterations; inf where they overflow."""

    mean: Float[np.ndarray, " m"]
    covariance: Float[np.ndarray, "m m"]


class LocalModel(eqx.Module):
    """The quadratic model of N example losses in m directions.

    **Fields:** `slopes` (N, m), p_i; `curvatures` (N, m, m), H_i. In units of L per θ and θ².
    """

    slopes: Float[np.ndarray, "n m"]
    curvatures: Float[np.ndarray, "n m m"]

    @property
    def slope(self) -> Float[np.ndarray, " m"]:
        """p, the mean gradient at z = 0."""
        return self.slopes.mean(axis=0)

    @property
    def hessian(self) -> Float[np.ndarray, "m m"]:
        """H, the mean Hessian."""
        return self.curvatures.mean(axis=0)

    def moments(self) -> "Moments":
        """What the laws depend on."""
        a, num = self.slopes - self.slope, len(self.slopes)
        b = self.curvatures - self.hessian
        cross = np.einsum("nx,nyk->xyk", a, b, optimize=True) / num
        second = np.einsum("nxk,nyl->xykl", b, b, optimize=True) / num
        noise = (a.T @ a / num, cross + cross.swapaxes(0, 1), second)
        return Moments(self.slope, self.hessian, noise)


class Moments(NamedTuple):
    """Means of a local model, from which both laws follow.

    **Fields:** `slope` p (m,); `hessian` H (m, m); `noise`, of one example (c = 1):
    C(z) = C0 + C1 z + C2 zzᵀ of shapes (m, m), (m, m, m), (m, m, m, m).
    """

    slope: Float[np.ndarray, " m"]
    hessian: Float[np.ndarray, "m m"]
    noise: tuple[np.ndarray, np.ndarray, np.ndarray]

    def laws(self, settings: Settings) -> tuple[Law, Law]:
        """SGD's law and the SDE's after K iterations from z = 0 (v = 0)."""
        steps, dim = settings.num_steps, len(self.slope)
        jump, flow = _dynamics(self.slope, self.hessian, settings)
        with np.errstate(over="ignore", invalid="ignore"):
            discrete = _law(_discrete(*jump, self._scaled(settings)), steps, dim)
            generator = _continuous(*flow, self._scaled(settings))
            return discrete, _law(scipy.linalg.expm(generator), steps, dim)

    def growth(self, settings: Settings) -> float:
        """Factor per iteration of SGD's second moment, the spectral radius of its map.

        Below 1 there is a stationary law, which takes more than η λ_max < 2.
        """
        jump, _ = _dynamics(self.slope, self.hessian, settings)
        matrix = _discrete(*jump, self._scaled(settings))
        return float(np.abs(np.linalg.eigvals(matrix[1:, 1:])).max())

    def _scaled(self, settings: Settings) -> tuple[np.ndarray, ...]:
        return tuple(settings.noise_factor * part for part in self.noise)


def impulse_response(
    curvature: float, learning_rate: float, momentum: float, num_steps: int
) -> Float[np.ndarray, " K"]:
    """z_K = −Σ_k w_k ξ_k in one direction of curvature h: the weights w_k, k = 0…K−1.

    w_{K−1} = η and, back in time, w ← (1 + μ − ηh) w − μ w': η(1 − ηh)^{K−1−k} for μ = 0.
    """
    start = np.zeros(num_steps)
    start[0] = learning_rate
    feedback = [1.0, -(1 + momentum - learning_rate * curvature), momentum]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(scipy.signal.lfilter([1.0], feedback, start))[::-1]


def _dynamics(slope, hessian, settings: Settings):
    """(F, f, E) of y ← Fy + f + Eξ and (A, a, E') of dy = (Ay + a)ds + E'C^{1/2}dW."""
    eta, mu = settings.learning_rate, settings.momentum
    eye = np.eye(len(slope))
    zero = np.zeros_like(eye)
    if mu == 0:
        jump = (eye - eta * hessian, -eta * slope, -eta * eye)
        return jump, (-eta * hessian, -eta * slope, -eta * eye)
    jump = (
        np.block([[eye - eta * hessian, -eta * mu * eye], [hessian, mu * eye]]),
        np.concatenate([-eta * slope, slope]),
        np.vstack([-eta * eye, eye]),
    )
    flow = (
        np.block([[zero, -eta * eye], [hessian, -(1 - mu) * eye]]),
        np.concatenate([0 * slope, slope]),
        np.vstack([zero, eye]),
    )
    return jump, flow


def _discrete(transition, shift, into, noise) -> np.ndarray:
    """(1, E y, E yyᵀ) ↦ one step later, a matrix of size 1 + n + n(n+1)/2."""
    size = len(shift)
    matrix = np.zeros((1 + size + size**2,) * 2)
    mean, second = slice(1, 1 + size), slice(1 + size, None)
    matrix[0, 0] = 1
    matrix[mean, 0], matrix[mean, mean] = shift, transition
    matrix[second, 0] = np.kron(shift, shift)
    column = shift[:, None]
    matrix[second, mean] = np.kron(column, transition) + np.kron(transition, column)
    matrix[second, second] = np.kron(transition, transition)
    _add_noise(matrix, into, noise)
    return _symmetric(matrix, size)


def _continuous(drift, shift, into, noise) -> np.ndarray:
    """The generator of (1, E y, E yyᵀ)."""
    size = len(shift)
    matrix = np.zeros((1 + size + size**2,) * 2)
    mean, second = slice(1, 1 + size), slice(1 + size, None)
    matrix[mean, 0], matrix[mean, mean] = shift, drift
    eye, column = np.eye(size), shift[:, None]
    matrix[second, mean] = np.kron(column, eye) + np.kron(eye, column)
    matrix[second, second] = np.kron(drift, eye) + np.kron(eye, drift)
    _add_noise(matrix, into, noise)
    return _symmetric(matrix, size)


def _add_noise(matrix: np.ndarray, into: np.ndarray, noise) -> None:
    """Adds E C(z) Eᵀ to the second moments, z the first m entries of y."""
    constant, linear, quadratic = noise
    size, dim = into.shape
    spread = np.kron(into, into)  # (n², m²)
    second = slice(1 + size, None)
    matrix[second, 0] += spread @ constant.ravel()
    matrix[second, 1 : 1 + dim] += spread @ linear.reshape(dim**2, dim)
    rows, columns = np.divmod(np.arange(dim**2), dim)
    places = 1 + size + rows * size + columns
    matrix[second, places] += spread @ quadratic.reshape(dim**2, dim**2)


def _symmetric(matrix: np.ndarray, size: int) -> np.ndarray:
    """The map of (1, E y, E y_i y_j for i ≤ j): E yyᵀ is symmetric, and its half suffices."""
    rows, columns = np.triu_indices(size)
    kept = np.concatenate([np.arange(1 + size), 1 + size + rows * size + columns])
    mirrored = 1 + size + columns * size + rows
    half = matrix[np.ix_(kept, kept)]
    half[:, 1 + size :] += np.where(rows == columns, 0, matrix[np.ix_(kept, mirrored)])
    return half


def _law(matrix: np.ndarray, steps: int, dim: int) -> Law:
    state = np.linalg.matrix_power(matrix, steps)[:, 0]
    # 1 + n + n(n+1)/2 = (n+1)(n+2)/2.
    size = round((np.sqrt(8 * len(state) + 1) - 3) / 2)
    mean = state[1 : 1 + dim]
    second = np.zeros((size, size))
    second[np.triu_indices(size)] = state[1 + size :]
    second = second[:dim, :dim]
    covariance = second + np.triu(second, 1).T - np.outer(mean, mean)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return Law(np.full(dim, np.inf), np.full((dim, dim), np.inf))
    return Law(mean, covariance)
