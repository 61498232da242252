"""Laws of levels: Wigner's surmise, gap ratios, Marchenko and Pastur's law.

Spacings s are in units of their mean wherever a law is universal.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import linalg, special

from sde_sgd._checks import check_choice, check_number, check_whole, in_brief
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.laws.law import AbstractLaw, moments_in_words
from sde_sgd.types import RealLike

Values: TypeAlias = ArrayLike | Sequence[Any]

# ⟨s²⟩/⟨s⟩², a number without units that tells repelling levels from independent ones.
WIGNER_RATIO = 4 / np.pi
# Binomial coefficients of larger orders are no float64.
_MOST_ORDER = 500
_NODES = 256


def wigner_surmise(spacing: Values) -> Float[np.ndarray, "..."]:
    """p(s) = (π/2) s e^{−πs²/4}, s ≥ 0 in units of the mean; 0 below.

    Exact for a 2×2 real symmetric Gaussian matrix (diagonal of twice the variance of the
    off-diagonal entry); ⟨s²⟩ = 4/π = `WIGNER_RATIO`, where independent levels have 2.

    **Source:** Wigner 1957; Mehta, Random Matrices, chapter 1.
    """
    s = np.maximum(_arguments.finite("spacing", spacing), 0.0)
    return np.asarray(np.pi / 2 * s * np.exp(-np.pi * s**2 / 4))


def wigner_surmise_cdf(spacing: Values) -> Float[np.ndarray, "..."]:
    """P(s' < s) = 1 − e^{−πs²/4}, s in units of the mean."""
    s = np.maximum(_arguments.known("spacing", spacing), 0.0)
    return np.asarray(-np.expm1(-np.pi * s**2 / 4))


def mean_gap_ratio(kind: str) -> float:
    """⟨min(s_i, s_{i+1})/max(s_i, s_{i+1})⟩: "goe" 4 − 2√3 (exact at 3×3), "poisson" 2 ln 2 − 1.

    Needs no unfolding. **Source:** Atas, Bogomolny, Giraud, Roux 2013 (1212.5611).
    """
    values = {"goe": 4 - 2 * np.sqrt(3.0), "poisson": 2 * np.log(2.0) - 1}
    check_choice("kind", kind, list(values))
    return float(values[kind])


def rice_mean(centre: Values, scale: Values) -> Float[np.ndarray, "..."]:
    """E|v|, v a plane vector ~ N((centre, 0), scale² I): √(π/2)·scale·L_{1/2}(−centre²/2scale²).

    The gap of two levels of a symmetric 2×2 matrix M is the length of (M₁₁ − M₂₂, 2M₁₂), so that
    Gaussian noise on a gap gives this law. E|v|² = centre² + 2·scale².
    """
    centre, scale = _arguments.finite("centre", centre), _arguments.finite("scale", scale)
    if not (scale > 0).all():
        raise ValueError(f"scale must be > 0; got {in_brief(scale)}.")
    if centre.shape != scale.shape and centre.size != 1 and scale.size != 1:
        raise ValueError(
            f"centre and scale must have one shape, or one be a number; got {centre.shape} and "
            f"{scale.shape}."
        )
    z = centre**2 / (2 * scale**2)
    laguerre = (1 + z) * special.ive(0, z / 2) + z * special.ive(1, z / 2)
    return np.asarray(np.sqrt(np.pi / 2) * scale * laguerre)


class MarchenkoPastur(AbstractLaw):
    """Eigenvalues of (1/n) A Aᵀ, A (m, n) with independent entries of variance v, m, n → ∞.

    With the ratio r = m/n and the edges λ± = v(1 ± √r)², the density is

        p(λ) = √((λ₊ − λ)(λ − λ₋)) / (2π v r λ)   on [λ₋, λ₊],

    and for r > 1 the mass 1 − 1/r lies at λ = 0 (`atom`). Mean v, variance v² r. At r = 1
    the density diverges at the lower edge, p ≈ 1/(π√(vλ)).

    **Arguments:** `ratio` r = m/n > 0; `entry_variance` v > 0.

    **Source:** Marchenko and Pastur 1967.
    """

    ratio: float
    entry_variance: float

    def __init__(self, ratio: RealLike, entry_variance: RealLike = 1.0):
        self.ratio = check_number("ratio", ratio, above=0)
        self.entry_variance = check_number("entry_variance", entry_variance, above=0)

    @property
    def mean(self) -> Float[np.ndarray, "1"]:
        """v."""
        return np.array([self.entry_variance])

    @property
    def covariance(self) -> Float[np.ndarray, "1 1"]:
        """v² r."""
        return np.array([[self.entry_variance**2 * self.ratio]])

    @property
    def edges(self) -> tuple[float, float]:
        """(λ₋, λ₊)."""
        root = np.sqrt(self.ratio)
        return float(self.entry_variance * (1 - root) ** 2), float(
            self.entry_variance * (1 + root) ** 2
        )

    @property
    def atom(self) -> float:
        """Probability of λ = 0."""
        return max(0.0, 1 - 1 / self.ratio)

    def expect(self, of: Callable) -> Float[np.ndarray, "..."]:
        """E f(λ), the atom included, by Gauss quadrature: exact for polynomials to order 511.

        The nodes are the eigenvalues of the law's Jacobi matrix, with v, then v(1 + r) on the
        diagonal and v√r beside it.

        **Arguments:** `of`: f, a JAX function of one λ of shape (1,), with a value of any shape.
        """
        v, r = self.entry_variance, self.ratio
        diagonal = np.append(v, np.full(_NODES - 1, v * (1 + r)))
        nodes, vectors = linalg.eigh_tridiagonal(diagonal, np.full(_NODES - 1, v * np.sqrt(r)))
        values = _fields.evaluate("of", of, np.maximum(nodes, 0.0)[:, None])
        return np.asarray(np.tensordot(vectors[0] ** 2, values, axes=1))

    def pdf(self, x: Values) -> Float[np.ndarray, "..."]:
        """p(λ) without the atom, of any shape; 0 outside the edges, ∞ at λ = 0 for r = 1."""
        level = _arguments.known("x", x)
        low, high = self.edges
        inside = (level > low) & (level < high)
        safe = np.where(inside, level, 1.0)
        area = np.sqrt(np.where(inside, (high - level) * (level - low), 0.0))
        density = area / (2 * np.pi * self.entry_variance * self.ratio * safe)
        return np.where((level == 0) & (low == 0), np.inf, density)

    def _on_the_line(self):
        """The cdf, the atom included; with s = √(λ − λ₋), c = √(λ₊ − λ) it is

        1 − 1/max(r, 1) + [sc + (λ₋ + λ₊) tan⁻¹(s/c) − 2√(λ₋λ₊) tan⁻¹(√(λ₊/λ₋) s/c)]/(2πvr).
        """
        low, high = self.edges

        def cdf(x):
            s, c = (np.sqrt(np.clip(d, 0, high - low)) for d in (x - low, high - x))
            turned = np.arctan2(np.sqrt(high) * s, np.sqrt(low) * c)
            total = s * c + (low + high) * np.arctan2(s, c) - 2 * np.sqrt(low * high) * turned
            mass = total / (2 * np.pi * self.entry_variance * self.ratio)
            return np.where(x < 0, 0.0, self.atom + np.clip(mass, 0, 1 - self.atom))

        return cdf, -high, high

    def _draw(self, rng: np.random.Generator, num: int) -> Float[np.ndarray, "num 1"]:
        return self._inverted(rng, num)

    def _in_words(self) -> str:
        low, high = self.edges
        atom = f" and {self.atom:.6g} of it at 0" if self.atom else ""
        return f"{moments_in_words(self)}, on [{low:.6g}, {high:.6g}]{atom}"

    def moment(self, order: int) -> float:
        """E λ^k for any integer k, the atom included: with Narayana's numbers for k ≥ 1,

            v^k Σ_{j<k} r^j C(k, j) C(k−1, j)/(j + 1),   E λ^{−k−1} = E λ^k / (v(1 − r))^{2k+1},

        1 for k = 0, and ∞ for k < 0 where r ≥ 1. (λ ↦ λ₋λ₊/λ takes p to itself but for a power.)
        """
        order = check_whole("order", order, -_MOST_ORDER, _MOST_ORDER)
        if order < 0:
            if self.ratio >= 1:
                return np.inf
            gap = self.entry_variance * (1 - self.ratio)
            return self.moment(-order - 1) / gap ** (-2 * order - 1)
        j = np.arange(max(order, 1))
        counts = special.comb(order, j) * special.comb(max(order - 1, 0), j) / (j + 1)
        return float(self.entry_variance**order * np.sum(counts * self.ratio**j))
