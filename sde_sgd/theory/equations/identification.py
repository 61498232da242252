"""What a reader of trajectories would write down: exact coefficients at a finite step and lag.

A reader sees positions at a lag τ and writes dθ = b dt + √a dW (Itô); a = 2D is ηcΣ in the
order-one modified equation. With M₁(θ; τ) = E[Δθ | θ], M₂ = E[Δθ² | θ]:

| reading | b | a |
|---|---|---|
| "naive" | M₁/τ | M₂/τ |
| "centred" | M₁/τ | (M₂ − M₁²)/τ |
| "extrapolated" | Σ_m w_m M₁(mτ)/(mτ) | Σ_m w_m M₂(mτ)/(mτ), w_m = (−1)^{m+1} (K over m), m ≤ K |
| "log_map" | from G = log(P_τ)/τ, P_τ the map of 1, θ, θ² over τ | the same |

All of them read an SDE right as τ → 0. They differ on SGD, which has no times below η: "centred"
at τ = η reads −∇L and ηcΣ exactly, at any η; "extrapolated" with K = 2 reads the drift of the
*second*-order modified equation; "log_map" reads the equation whose mean and second moment are
SGD's at every iteration. All but "centred" keep SGD's stationary mean and variance: their generator
on 1, θ, θ² is a combination of P_mτ − 1, which the stationary law annihilates.
"""

from collections.abc import Sequence
from typing import Any, get_args, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import expm, logm

from sde_sgd._checks import check_at_least, check_choice, check_number, check_part, check_whole
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.laws.master_equation import MasterEquation, MOST_STEPS
from sde_sgd.theory.step_errors import extrapolation_weights, MOST_LAGS
from sde_sgd.types import RealLike

# Beyond, the weights of Richardson's extrapolation cancel all digits.
Reading: TypeAlias = Literal["naive", "centred", "extrapolated", "log_map"]


class ReadEquation(NamedTuple):
    """b(θ) = Σ_i drift_i θ^i and a(θ) = Σ_i variance_rate_i θ^i.

    **Fields:** `drift` (2,); `variance_rate` (3,), the rate of ⟨dθ²⟩ per unit t: ηcΣ = 2D.
    """

    drift: Float[np.ndarray, " p"]
    variance_rate: Float[np.ndarray, " q"]


class LinearEquation(NamedTuple):
    """dθ = −drift_matrix θ dt + noise with covariance `variance_rate` per unit t, both (d, d)."""

    drift_matrix: Float[np.ndarray, "d d"]
    variance_rate: Float[np.ndarray, "d d"]


def read_least_squares(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    lag: RealLike,
    reading: Reading = "naive",
    num_lags: int = 2,
) -> ReadEquation:
    """The equation read off least squares in one dimension, exactly, noise of the data included.

    ℓ_i = ½(x_iθ − y_i)² has gradients p_iθ − q_i, p = x², q = xy, so that a step h maps the span of
    1, θ, θ² to itself: E θ' = θ − h(p̄θ − q̄), E θ'² = (E θ')² + hηc Var_i(p_iθ − q_i).

    **Arguments:**

    - `inputs`, `targets`: (N,) each.
    - `learning_rate` η, `noise_factor` c in Cov(ĝ) = cΣ, `time_step` h: η for SGD, η/substeps for
      Euler, 0 for the SDE.
    - `lag`: τ in units of t, a multiple of h.
    - `reading`: see the top of the module; `num_lags` K, of "extrapolated".

    **Returns:** `ReadEquation`. Under "log_map" it is the same at every lag.

    **Raises:** `ValueError` for bad numbers, lags between two steps, and under "log_map" for steps
    that no SDE makes (hp̄ ≥ 1: the mean alternates).
    """
    p = _arguments.array("inputs", inputs, 1)
    y = _arguments.array("targets", targets, 1)
    if len(p) != len(y):
        raise ValueError(f"inputs and targets must have one length; got {len(p)} and {len(y)}.")
    eta, c = (
        check_number("learning_rate", learning_rate, above=0),
        _arguments.noise_factor(noise_factor),
    )
    _check_reading(reading)
    h = check_at_least("time_step", time_step)
    tau = check_number("lag", lag, above=0)
    slopes, offsets = p**2, p * y
    drift = np.array([offsets.mean(), -slopes.mean()])
    spread = np.cov(np.stack([offsets, slopes]), ddof=0)
    variance = eta * c * np.array([spread[0, 0], -2 * spread[0, 1], spread[1, 1]])
    generator = np.zeros((3, 3))
    generator[1, :2], generator[2] = drift, _square_row(drift, variance)
    if reading == "log_map":
        if h == 0:
            return ReadEquation(drift, variance)
        return _from_generator(_logarithm(_step(drift, variance, h), h))
    if h == 0:
        after = [expm(m * tau * generator) for m in range(1, _lags(reading, num_lags) + 1)]
    else:
        steps = int(_arguments.whole_steps(np.array([tau]), h, "lag")[0])
        once = _step(drift, variance, h)
        counts = range(1, _lags(reading, num_lags) + 1)
        after = [np.linalg.matrix_power(once, m * steps) for m in counts]
    first, second = _weighted(after, tau)
    if reading == "centred":
        square = np.convolve(first, first)
        second = second - tau * square
    return ReadEquation(first, second)


def effective_linear(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    time_step: RealLike,
) -> LinearEquation:
    """The linear SDE with the law of θ ← (1 − hH)θ + √(hη) C^{1/2}ξ at every step h, its log map.

    −log(1 − hH)/h in place of H; in the eigenbasis of H the variance rate is
    hηC_ij (λ_i + λ_j)/(1 − A_iA_j), A = 1 − hH's eigenvalue and λ = −log(A)/h. Its stationary and
    transient moments are those of the steps (SGD: h = η), which the modified equations of orders
    one and two only approach.

    **Arguments:** `hessian` H symmetric and `gradient_noise` C = cΣ, (d, d); `learning_rate` η;
    `time_step` h > 0.

    **Raises:** `ValueError` for h·(an eigenvalue of H) ≥ 1: the mean alternates, and no SDE does
    that.
    """
    hess = _arguments.symmetric("hessian", hessian)
    noise = _arguments.covariance("gradient_noise", gradient_noise, len(hess))
    eta, h = (
        check_number("learning_rate", learning_rate, above=0),
        check_number("time_step", time_step, above=0),
    )
    values, basis = np.linalg.eigh(hess)
    factor = 1 - h * values
    if (factor <= 0).any():
        raise ValueError(_alternates(h * float(values.max())))
    rates = -np.log(factor) / h
    total = rates[:, None] + rates
    # (λ_i + λ_j)/(1 − e^{−h(λ_i + λ_j)}), 1/h where nothing relaxes.
    decay = -np.expm1(-h * total)
    ratio = np.divide(total, decay, out=np.full_like(total, 1 / h), where=decay != 0)
    inner = h * eta * (basis.T @ noise @ basis) * ratio
    return LinearEquation((basis * rates) @ basis.T, basis @ inner @ basis.T)


class ConditionalMoments(NamedTuple):
    """E[Δθ | θ] and E[Δθ² | θ] over `steps` steps from `points`; `first`, `second` (steps, points).

    `position` are the points (points,), `steps` (steps,).
    """

    position: Float[np.ndarray, " points"]
    steps: np.ndarray
    first: Float[np.ndarray, "steps points"]
    second: Float[np.ndarray, "steps points"]

    def read(self, time_step: float, reading: Reading = "naive") -> tuple[np.ndarray, np.ndarray]:
        """b and a at the points, (points,) each: τ = steps[0]·time_step, K the number of `steps`.

        **Raises:** `ValueError` unless steps are s, 2s, …, Ks (K = 1 but for "extrapolated").
        """
        _check_reading(reading)
        step = check_number("time_step", time_step, above=0)
        base, count = int(self.steps[0]), len(self.steps)
        if not np.array_equal(self.steps, base * np.arange(1, count + 1)):
            raise ValueError(f"steps must be s, 2s, …, Ks; got {self.steps.tolist()}.")
        if reading == "log_map" or (reading != "extrapolated" and count != 1):
            raise ValueError(
                f'reading={reading!r} of {count} lags: "naive" and "centred" take one lag, '
                f'"extrapolated" several, and "log_map" is for linear drift only.'
            )
        tau = base * step
        weights = extrapolation_weights(count) / np.arange(1, count + 1) / tau
        drift, variance = weights @ self.first, weights @ self.second
        return drift, variance - tau * drift**2 if reading == "centred" else variance


def conditional_moments(
    equation: MasterEquation, points: ArrayLike, steps: Sequence[int]
) -> ConditionalMoments:
    """Exact moments of the displacement of discrete SGD (or Euler's scheme) from each point.

    The law is propagated from the point: all batches enumerated, or the Gaussian kernel on its
    quadrature.

    **Arguments:** `equation`, of SGD or of a solver at its step; `points` (n,); `steps`, numbers
    of its steps.
    """
    where = _arguments.array("points", points, 1)
    check_part("equation", equation, MasterEquation, "a MasterEquation")
    counts = _arguments.iterations("steps", steps, MOST_STEPS)
    shape = (len(counts), len(where))
    first, second = np.zeros(shape), np.zeros(shape)
    for place, x in enumerate(where):
        for row, law in enumerate(equation.propagate(float(x), counts)):
            change = law.positions - x
            first[row, place] = law.masses @ change / law.mass
            second[row, place] = law.masses @ change**2 / law.mass
    return ConditionalMoments(where, counts, first, second)


def finite_lag_bias(
    drift: Any, variance_rate: Any, points: ArrayLike, *, lag: RealLike, reading: Reading = "naive"
) -> tuple[np.ndarray, np.ndarray]:
    """Leading bias, O(τ), of b and a read off an *SDE* at the lag τ; the rest is O(τ²).

    b: (τ/2)𝓛b, 𝓛b = bb' + ½ab''. a: τ(b² + ab' + ½ba' + ¼aa''), without b² if "centred".
    (Itô–Taylor: E f(θ_τ) = f + τ𝓛f + (τ²/2)𝓛²f + …, f = (θ' − θ) and its square.) For
    "extrapolated" with K lags both vanish, and O(τ^K) is left.

    **Arguments:** `drift` b and `variance_rate` a, JAX functions of θ (1,) with one value
    (or numbers); `points` (n,); `lag` τ; `reading`.

    **Returns:** the two biases, (n,) each.
    """
    _check_reading(reading)
    where = _arguments.array("points", points, 1)
    tau = check_number("lag", lag, above=0)
    if reading in ("extrapolated", "log_map"):
        return np.zeros(len(where)), np.zeros(len(where))

    def derivatives(name, function):
        field = _fields.scalar(name, function, 1)

        def value(x):
            return field(x[None]).astype(x.dtype)  # integers have no derivative

        slope = jax.grad(value)
        rows = (value, slope, jax.grad(slope))
        return _fields.evaluate(
            name, lambda theta: jnp.stack([f(theta[0]) for f in rows]), where[:, None]
        ).T

    b, b1, b2 = derivatives("drift", drift)
    a, a1, a2 = derivatives("variance_rate", variance_rate)
    square = 0.0 if reading == "centred" else b**2
    return tau / 2 * (b * b1 + a * b2 / 2), tau * (square + a * b1 + b * a1 / 2 + a * a2 / 4)


def _check_reading(reading: Any) -> None:
    check_choice("reading", reading, get_args(Reading))


def _lags(reading: Reading, num_lags: int) -> int:
    num_lags = check_whole("num_lags", num_lags, 1, MOST_LAGS)
    return num_lags if reading == "extrapolated" else 1


def _square_row(drift: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """𝓛θ² = 2θb + a in powers of θ."""
    return np.concatenate([[0.0], 2 * drift]) + variance


def _step(drift: np.ndarray, variance: np.ndarray, h: float) -> np.ndarray:
    """The map of 1, θ, θ² over a step: rows E[θ'^i | θ] in powers of θ."""
    mean = np.array([h * drift[0], 1 + h * drift[1]])
    return np.array([[1.0, 0.0, 0.0], [*mean, 0.0], np.convolve(mean, mean) + h * variance])


def _weighted(after: list[np.ndarray], tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Σ_m w_m M(mτ)/(mτ) of both moments, in powers of θ."""
    first, second = np.zeros(2), np.zeros(3)
    for m, (weight, moved) in enumerate(
        zip(extrapolation_weights(len(after)), after, strict=True), start=1
    ):
        mean = moved[1, :2]
        first += weight / (m * tau) * (mean - [0, 1])
        # Δ² = θ'² − 2θθ' + θ²
        change = moved[2] - 2 * np.concatenate([[0.0], mean]) + [0, 0, 1]
        second += weight / (m * tau) * change
    return first, second


def _logarithm(step: np.ndarray, h: float) -> np.ndarray:
    if step[1, 1] <= 0:
        raise ValueError(_alternates(1 - step[1, 1]))
    return np.real(logm(step)) / h


def _from_generator(generator: np.ndarray) -> ReadEquation:
    drift = generator[1, :2]
    return ReadEquation(drift, generator[2] - np.concatenate([[0.0], 2 * drift]))


def _alternates(product: float) -> str:
    return (
        f"h·curvature = {product:.4g} ≥ 1: the mean alternates from step to step, which no SDE's "
        f"does, so that there is no log map. Lower the learning rate (or the solver's step)."
    )
