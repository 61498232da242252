"""The law of balance: the stationary density of a product of two weights, u·w ≈ the data's slope.

Losses ℓ_i = (u w x_i − y_i)², scale-invariant: u → λu, w → w/λ. One step of SGD with a batch
gradient g = ∂ℓ̂/∂(uw) = mean of 2x(uwx − y) multiplies the imbalance u² − w² by 1 − η²g², exactly.
In the balanced state u² = w² = v, v = uw, the order-1 SDE with the full (singular) minibatch
covariance is one equation, with T = η/B,

    dv = −2vG dt + T v s² dt + 2v√T s dW ,   G = 2(β₁v − β₂) ,  s² = 4(α₁v² − 2α₂v + α₃) ,

β₁ = E x², β₂ = E xy, α₁ = Var x², α₂ = Cov(x², xy), α₃ = Var xy. With Δ = α₁α₃ − α₂² > 0,

    p(v) ∝ v^{β₂/(2α₃T) − 3/2} (α₁v² − 2α₂v + α₃)^{−1 − β₂/(4α₃T)}
           · exp[−(α₃β₁ − α₂β₂)/(2Tα₃√Δ) arctan((α₁v − α₂)/√Δ)] .

The mass piles up at v → 0 as T grows and collapses there at T = β₂/α₃. The tail is v^{−7/2}
whatever T, so that E v³ is infinite. This is the law of the SDE: SGD at the same T has another.

Source: Ziyin, Li, Ueda, "The law of balance and stationary distribution of SGD" (2308.06671).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number, check_part, in_brief
from sde_sgd.theory import _arguments
from sde_sgd.theory.laws.ito import density_of_logarithm, StationaryDensity
from sde_sgd.types import RealLike


class BalanceMoments(NamedTuple):
    """The five moments of a data set on which the law depends.

    **Fields:** `alpha1` Var x², `alpha2` Cov(x², xy), `alpha3` Var xy, `beta1` E x², `beta2` E xy.
    """

    alpha1: float
    alpha2: float
    alpha3: float
    beta1: float
    beta2: float

    @property
    def collapse_temperature(self) -> float:
        """T = η/B from which on the mass collapses onto v = 0: β₂/α₃."""
        return self.beta2 / self.alpha3


def balance_moments(inputs: ArrayLike, targets: ArrayLike) -> BalanceMoments:
    """The moments, 1/N-normalised, of data x (N,) and y (N,)."""
    x = _arguments.array("inputs", inputs, 1)
    y = _arguments.array("targets", targets, 1)
    if x.shape != y.shape:
        raise ValueError(f"inputs and targets must be equally many, got {x.shape} and {y.shape}.")
    square, product = x**2, x * y
    covariance = np.cov(square, product, bias=True) if len(x) > 1 else np.zeros((2, 2))
    return BalanceMoments(
        float(covariance[0, 0]),
        float(covariance[0, 1]),
        float(covariance[1, 1]),
        float(square.mean()),
        float(product.mean()),
    )


def balance_moments_gaussian(
    *, feature_variance: RealLike = 1.0, slope: RealLike = 1.0, label_noise: RealLike = 1.0
) -> BalanceMoments:
    """The moments of x ~ N(0, a), y = slope·x + σ·N(0, 1)."""
    a = check_number("feature_variance", feature_variance, 0, _arguments.LARGE)
    k, sigma = (
        check_number("slope", slope, -_arguments.LARGE, _arguments.LARGE),
        _arguments.label_noise(label_noise),
    )
    return BalanceMoments(
        2 * a**2, 2 * k * a**2, 2 * (k * a) ** 2 + a * sigma**2, a, k * a
    )  # Isserlis


def law_of_balance_density(moments: BalanceMoments, *, temperature: RealLike) -> StationaryDensity:
    """The stationary density of v = uw > 0 in the balanced state, at T = η/B.

    Resolved in log v, where the mass near the collapse is spread over thousands of decades.

    **Arguments:** `moments`: of the data; `temperature`: T = η/B, batches drawn with replacement.

    **Raises:** `ValueError` for T at or above the collapse β₂/α₃ (any T if β₂ ≤ 0), and for data
    whose noise vanishes at some v (Δ = 0: every y = vx).
    """
    t = check_number("temperature", temperature, above=0)
    a1, a2, a3, b1, b2 = _numbers(moments)
    delta = a1 * a3 - a2**2
    if b2 <= 0 or t >= b2 / a3:
        raise ValueError(
            f"No stationary density at temperature={t:g}: the mass collapses onto v = 0 from "
            f"T = beta2/alpha3 = {b2 / a3:g} on. Take a smaller learning rate or a larger batch."
        )
    if a1 > 0 and delta <= 1e-12 * a1 * a3:
        raise ValueError(
            f"The noise vanishes at v = alpha2/alpha1 = {a2 / a1:g} (every y = v x): v stops "
            f"there, and has no stationary density. Add label noise."
        )

    def log_weight(u: np.ndarray) -> np.ndarray:
        # log p + log dv/du; beyond u = 700 the quadratic is α₁v² to rounding.
        start = (b2 / (2 * a3 * t) - 0.5) * u
        if a1 == 0:
            with np.errstate(over="ignore"):
                return start - b1 / (2 * t * a3) * np.exp(u)
        v = np.exp(np.clip(u, -700, 300))
        quadratic = np.log(a1 * v**2 - 2 * a2 * v + a3) + 2 * np.maximum(u - 300, 0.0)
        angle = np.arctan((a1 * v - a2) / np.sqrt(delta))
        bend = (a3 * b1 - a2 * b2) / (2 * t * a3 * np.sqrt(delta))
        return start - (1 + b2 / (4 * a3 * t)) * quadratic - bend * angle

    return density_of_logarithm(log_weight)


def law_of_balance_equation(
    moments: BalanceMoments, value: ArrayLike | RealLike, *, temperature: RealLike
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Drift −2vG + T v s² and diffusion D = 2 T v² s² of dv = drift dt + √(2D) dW, at `value` v."""
    t = check_number("temperature", temperature, above=0)
    a1, a2, a3, b1, b2 = _numbers(moments)
    v = _arguments.finite("value", value)
    if (v < 0).any():
        raise ValueError(f"value is v = u² = w² >= 0 in the balanced state; got {in_brief(v)}.")
    strength = 4 * (a1 * v**2 - 2 * a2 * v + a3)
    drift = -4 * v * (b1 * v - b2) + t * v * strength
    return np.asarray(drift), np.asarray(2 * t * v**2 * strength)


def balance_factor(
    gradient: ArrayLike | RealLike, *, learning_rate: RealLike
) -> Float[np.ndarray, "..."]:
    """1 − η²g²: what one SGD step multiplies u² − w² by, exactly, for any batch.

    **Arguments:** `gradient` g = ∂ℓ̂_B/∂(uw) before the step, any shape; `learning_rate` η.
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    return np.asarray(1 - (eta * _arguments.finite("gradient", gradient)) ** 2)


def _numbers(moments: BalanceMoments) -> tuple[float, ...]:
    check_part("moments", moments, BalanceMoments, "BalanceMoments, as balance_moments gives")
    values = tuple(check_number(f"moments.{key}", x) for key, x in moments._asdict().items())
    a1, a2, a3, b1, _ = values
    if a1 < 0 or a3 <= 0 or b1 <= 0:
        raise ValueError(
            f"moments must have alpha1 >= 0, alpha3 > 0 and beta1 > 0, got {in_brief(moments)}."
        )
    if a2**2 > a1 * a3 * (1 + 1e-9):
        raise ValueError(f"alpha2^2 <= alpha1 * alpha3 is needed, got {in_brief(moments)}.")
    return values
