"""Level spacing of a 2×2 linear student of a degenerate teacher, by closing moments to order four.

Fresh examples x ~ N(0, I), y = λx + σε; with Δ = W − λI a step of SGD reads

    Δ ← Δ F + ηN ,    F = I − ηS,   S = (1/B) Σ x xᵀ,   N = (σ/B) Σ ε xᵀ ,

linear in Δ, so that the moments of any order close. The matched SDE at solver step h has the same
form with Gaussian noise: F = (1 − h)I − √(hη/B)(Z + Zᵀ)/√2, and √(hη/B) σE for ηN.
"""

import itertools

import equinox as eqx
import numpy as np
from scipy import special

from sde_sgd._checks import check_number
from sde_sgd.theory import _arguments
from sde_sgd.theory.matrices.spectra import rice_mean
from sde_sgd.types import RealLike


class TeacherStudentSpacing(eqx.Module):
    """The stationary gap s of the two levels of WᵀW.

    - `variance`: v of one entry of W, exact.
    - `kurtosis`: k = E|β|⁴/(2(E|β|²)²) − 1 of the plane vector β = (Δ₁₁ − Δ₂₂, Δ₁₂ + Δ₂₁)/2,
      exact; 0 for Gaussian weights.
    - `leading`: 2√(πv), λ times: WᵀW to first order in Δ, Gaussian Δ.
    - `mean`: ⟨s⟩ = 4 E[P]E[Q](1 − k/8): P and Q are the lengths of (λ + (Δ₁₁+Δ₂₂)/2, (Δ₂₁−Δ₁₂)/2)
      and of β, and s = 4PQ identically; E[P] is Rice's mean, exact for Gaussian weights, and −k/8
      the first term of Laguerre's expansion about them. Left out: terms of order k² and kv.
    - `mean_square`: ⟨s²⟩, exact.
    - `ratio`: ⟨s²⟩/⟨s⟩², 4/π for Wigner's law.
    """

    variance: float
    kurtosis: float
    leading: float
    mean: float
    mean_square: float

    @property
    def ratio(self) -> float:
        """⟨s²⟩/⟨s⟩²."""
        return self.mean_square / self.mean**2


def teacher_student_spacing(
    *,
    learning_rate: RealLike,
    batch_size: int,
    label_noise: RealLike = 1.0,
    level: RealLike = 1.0,
    time_step: RealLike | None = None,
) -> TeacherStudentSpacing:
    """The gap of the levels of WᵀW, W (2, 2) learning W* = λI from fresh examples.

    **Arguments:**

    - `learning_rate` η, `batch_size` B, `label_noise` σ > 0, `level` λ > 0.
    - `time_step`: None for SGD; h > 0 for Euler–Maruyama of the matched SDE at step h (h = η is
      Gaussian SGD, which shares v with SGD and not k). Extrapolate to reach h = 0.

    **Raises:** `ValueError` for numbers out of range, B < 2, and where no fourth moment exists.

    **Source:** exact algebra; the setting is Aarts, Lucini, Park 2024 (2407.16427).
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    sigma, height = (
        check_number("label_noise", label_noise, 0, _arguments.LARGE),
        check_number("level", level, 0, _arguments.LARGE),
    )
    batch = _arguments.batch_size(batch_size, 2)
    if time_step is None:
        steps = _sgd_steps(eta, batch, sigma)
    else:
        steps = _euler_steps(eta, batch, sigma, check_number("time_step", time_step, above=0))
    second, fourth = _moments(steps)
    v = float(second[0, 0])
    real = np.array([0.5, 0.0, 0.0, -0.5])
    imaginary = np.array([0.0, 0.5, 0.5, 0.0])

    def expect(a, b):
        return np.einsum("abcd,a,b,c,d", fourth, a, a, b, b)

    square = real @ second @ real + imaginary @ second @ imaginary
    quartic = expect(real, real) + 2 * expect(real, imaginary) + expect(imaginary, imaginary)
    kurtosis = float(quartic / (2 * square**2) - 1)
    plane = np.sqrt(v / 2)
    mean = 4 * float(rice_mean(height, plane)) * plane * np.sqrt(np.pi / 2) * (1 - kurtosis / 8)
    # s² = (tr X)² − 4 det X of X = (λ + Δ)ᵀ(λ + Δ); odd moments vanish by symmetry.
    trace = np.einsum("iijj", fourth)
    determinant = fourth[0, 3, 0, 3] - 2 * fourth[0, 3, 1, 2] + fourth[1, 2, 1, 2]
    mean_square = 4 * height**2 * np.trace(second) + trace - 4 * determinant
    leading = 2 * np.sqrt(np.pi * v) * height
    return TeacherStudentSpacing(v, kurtosis, float(leading), float(mean), float(mean_square))


def _sgd_steps(eta: float, batch: int, sigma: float) -> list[tuple]:
    """(weight, F, Cov of a row of ηN) at the nodes of a rule exact to fourth order in S.

    Bartlett: S = LLᵀ/B, L₁₁² ~ χ²_B, L₂₁ ~ N(0, 1), L₂₂² ~ χ²_{B−1}.
    """
    normal, normal_weight = _hermite(8)
    first, first_weight = _chi_square(batch)
    second, second_weight = _chi_square(batch - 1)
    rows = []
    for (x, p), (y, q), (z, r) in itertools.product(
        zip(first, first_weight, strict=True),
        zip(second, second_weight, strict=True),
        zip(normal, normal_weight, strict=True),
    ):
        cross = np.sqrt(x) * z
        moments = np.array([[x, cross], [cross, z**2 + y]]) / batch
        rows.append((p * q * r, np.eye(2) - eta * moments, (eta * sigma) ** 2 * moments / batch))
    return rows


def _euler_steps(eta: float, batch: int, sigma: float, h: float) -> list[tuple]:
    """The same for an Euler step h, Gaussian."""
    normal, weight = _hermite(6)
    scale, noise = np.sqrt(h * eta / batch), h * eta * sigma**2 / batch * np.eye(2)
    rows = []
    for i, j, k in itertools.product(range(6), repeat=3):
        symmetric = np.array(
            [[np.sqrt(2) * normal[i], normal[k]], [normal[k], np.sqrt(2) * normal[j]]]
        )
        share = weight[i] * weight[j] * weight[k]
        rows.append((share, (1 - h) * np.eye(2) - scale * symmetric, noise))
    return rows


def _hermite(num: int):
    nodes, weights = special.roots_hermitenorm(num)
    return nodes, weights / weights.sum()


def _chi_square(freedom: int):
    """Golub and Welsch's rule: with α = freedom/2 − 1 and orders k, 2k + α + 1 and √(k(k + α)).

    Weights through Γ(α + 1), as SciPy has them, leave float64 at a freedom of 343.
    """
    alpha, order = freedom / 2 - 1, np.arange(6.0)
    beside = np.sqrt(order[1:] * (order[1:] + alpha))
    nodes, vectors = np.linalg.eigh(np.diag(2 * order + alpha + 1) + np.diag(beside, -1))
    return 2 * nodes, vectors[0] ** 2


def _moments(steps: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Stationary E[Δ⊗Δ] (4, 4) and E[Δ⊗⁴] (4, 4, 4, 4), Δ flattened by rows."""
    identity = np.eye(2)
    pushes = [(w, np.kron(identity, f.T), np.kron(identity, c)) for w, f, c in steps]
    second = _fixed_point(
        sum(w * np.kron(k, k) for w, k, _ in pushes), sum(w * c for w, _, c in pushes)
    )
    pairs = np.stack([np.kron(push, push) for _, push, _ in pushes]).reshape(len(pushes), 256)
    weights = np.array([weight for weight, _, _ in pushes])
    # E[(K⊗K)⊗(K⊗K)], as one product of matrices.
    quartic = np.reshape(pairs.T @ (weights[:, None] * pairs), (16, 16, 16, 16))
    quartic = quartic.transpose(0, 2, 1, 3).reshape(256, 256)
    source = np.zeros((4,) * 4)
    for weight, push, noise in pushes:
        moved = push @ second @ push.T
        term = np.einsum("ab,cd->abcd", moved + noise, noise) + np.einsum(
            "ab,cd->abcd", noise, moved
        )
        source += weight * (term + term.transpose(0, 2, 1, 3) + term.transpose(0, 2, 3, 1))
    return second, _fixed_point(quartic, source)


def _fixed_point(operator, source) -> np.ndarray:
    """m = operator m + source, refused where the iteration does not contract."""
    size = operator.shape[0]
    # Moments form a cone that the operator maps into itself: iterating finds its largest value.
    side = round(np.sqrt(size))
    vector, radius = np.eye(side).ravel(), 0.0
    for _ in range(400):
        vector = operator @ vector
        radius = float(np.linalg.norm(vector))
        vector = vector / radius
    if radius >= 1:
        raise ValueError(
            f"The weights have no stationary fourth moment: an iteration multiplies it by up to "
            f"{radius:.4g}. Take a smaller learning_rate or a larger batch_size."
        )
    return np.linalg.solve(np.eye(size) - operator, source.ravel()).reshape(source.shape)
