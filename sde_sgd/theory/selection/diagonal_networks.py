"""Implicit bias of two-layer diagonal linear networks: the hyperbolic entropy.

β = w₊² − w₋², predictions x·β. With losses ¼(x·β − y)² and ĝ = mean over a batch of r x, one step

    w₊ ← w₊(1 − γĝ) ,   w₋ ← w₋(1 + γĝ) ,   so that   w₊w₋ ← w₊w₋(1 − γ²ĝ²)   exactly.

Gradient flow keeps w₊w₋ = α² and ends at the interpolator of least hyperbolic entropy ψ_α; SGD
shrinks w₊w₋, and so ends with a smaller effective α, closer to the least ℓ₁ norm.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import as_float64, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

_MOST_STEPS = 1000


class DiagonalNetworkLimit(NamedTuple):
    """The interpolator of least hyperbolic entropy.

    **Fields:** `beta` (d,); `multipliers` ν (n,), with β = 2α² sinh(Xᵀν + arcsinh(β₀/2α²));
    `residual`, the largest |Xβ − y|.
    """

    beta: Float[np.ndarray, " d"]
    multipliers: Float[np.ndarray, " n"]
    residual: float


def hyperbolic_entropy(beta: ArrayLike, scale: RealLike | ArrayLike) -> float:
    """ψ_α(β) = ½ Σ_i [β_i arcsinh(β_i/2α_i²) − √(β_i² + 4α_i⁴) + 2α_i²].

    From |β|₁ ln(1/α) for α → 0 to |β|²/(8α²) for α → ∞ (to leading order).

    **Arguments:** `beta` (d,); `scale`: α, a number or (d,), α_i² = w₊w₋ of coordinate i.

    **Source:** Woodworth et al. 2020 (2002.09277); Pesme, Pillaud-Vivien, Flammarion 2021
    (2106.09524).
    """
    b = _arguments.array("beta", beta, 1)
    twice = 2 * _scales(scale, len(b)) ** 2
    return float((b * np.arcsinh(b / twice) - np.hypot(b, twice) + twice).sum() / 2)


def diagonal_network_limit(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    scale: RealLike | ArrayLike,
    start: ArrayLike | None = None,
) -> DiagonalNetworkLimit:
    """argmin over Xβ = y of the hyperbolic-entropy divergence from β₀: where gradient flow ends.

    For SGD with small γ give the effective scale that its noise left, α_∞² = α² Π_k(1 − γ²ĝ_k²)
    (`w₊w₋` at the end): then β is SGD's limit up to O(γ³Σĝ³).

    **Arguments:**

    - `inputs`: X (n, d), n ≤ d; `targets`: y (n,).
    - `scale`: α > 0, a number or (d,): the start w₊ = w₋ = α (or √(w₊w₋) in general).
    - `start`: β₀ (d,), 0 if not given.

    **Raises:** `ValueError` where no β has Xβ = y, for α ≤ 0 or shapes that differ.

    **Source:** as `hyperbolic_entropy`, Proposition 1 of Pesme et al.
    """
    x, y = _arguments.array("inputs", inputs, 2), _arguments.array("targets", targets, 1)
    if len(x) != len(y):
        raise ValueError(f"inputs {x.shape} and targets {y.shape} must be equally many.")
    least = np.linalg.lstsq(x, y, rcond=None)[0]
    size = max(float(np.abs(y).max()), 1e-300)
    if np.abs(x @ least - y).max() > 1e-9 * size:
        raise ValueError(
            f"No β interpolates: the least-squares residual is {np.abs(x @ least - y).max():.3g}. "
            f"The implicit bias selects among interpolators; take n <= d consistent examples."
        )
    twice = 2 * _scales(scale, x.shape[1]) ** 2
    shift = np.zeros(x.shape[1])
    if start is not None:
        shift = np.arcsinh(_arguments.vector("start", start, x.shape[1]) / twice)
    # Dependent rows say nothing new: solve in an orthonormal basis of the row space.
    left, singular, rows = np.linalg.svd(x, full_matrices=False)
    kept = singular > 1e-12 * singular[0]
    rows, wanted = rows[kept], (left.T @ y)[kept] / singular[kept]
    dual = np.zeros(len(rows))
    # From a large scale, where the problem is linear, down to the wanted one.
    halvings = int(np.ceil(max(0.0, np.log2(size / twice.min()))))
    for factor in 2.0 ** np.arange(halvings, -1, -1):
        centre = shift if factor == 1 else np.arcsinh(np.sinh(shift) / factor)
        dual = _newton(rows, wanted, factor * twice, centre, dual, 1e-13 * size)
    beta = twice * np.sinh(rows.T @ dual + shift)
    residual = float(np.abs(x @ beta - y).max())
    if not residual <= 1e-8 * size:
        raise ValueError(
            f"The dual problem did not converge (residual {residual:.2g}): scale={scale} is too "
            f"small for double precision; the limit is then that of least ℓ₁ norm."
        )
    multipliers = left[:, kept] @ (dual / singular[kept])
    return DiagonalNetworkLimit(beta, multipliers, residual)


def _newton(rows, wanted, twice, shift, dual, tolerance):
    """The minimum over ν of Σ 2α² cosh(Rᵀν + s) − ν·z, with halved steps."""

    def objective(nu: np.ndarray) -> float:
        return float((twice * np.cosh(rows.T @ nu + shift)).sum() - wanted @ nu)

    def slope(nu: np.ndarray) -> np.ndarray:
        return rows @ (twice * np.sinh(rows.T @ nu + shift)) - wanted

    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_MOST_STEPS):
            miss = slope(dual)
            if np.abs(miss).max() <= tolerance:
                break
            curvature = (rows * (twice * np.cosh(rows.T @ dual + shift))) @ rows.T
            move = np.linalg.solve(curvature, miss)
            # Near the minimum rounding hides the descent, but not that the slope gets smaller.
            if np.abs(slope(dual - move)).max() <= np.abs(miss).max() / 2:
                dual = dual - move
                continue
            share, value, fall = 1.0, objective(dual), float(miss @ move)
            while not objective(dual - share * move) <= value - 1e-4 * share * fall:
                share /= 2
                if share <= 1e-12:
                    return dual
            dual = dual - share * move
    return dual


def _scales(scale, size: int) -> np.ndarray:
    value = as_float64("scale", scale)
    if value.shape not in ((), (size,)) or not (np.isfinite(value).all() and (value > 0).all()):
        raise ValueError(f"scale must be > 0, a number or ({size},), got {in_brief(scale)}.")
    return np.broadcast_to(value, (size,))
