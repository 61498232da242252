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

from sde_sgd._checks import check_choice, check_number, check_part, check_whole
from sde_sgd.processes.linear import LinearReading, NotKnown
from sde_sgd.theory import _arguments, _fields, _step_laws
from sde_sgd.theory.laws.master_equation import MasterEquation, MOST_STEPS
from sde_sgd.theory.stationary.moments import read_linear
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
    process: Any, lag: RealLike, *, reading: Reading = "naive", num_lags: int = 2
) -> ReadEquation:
    """The equation read off a process on a quadratic in one dimension, exactly, its noise included.

    Gradients of the examples are linear in θ, so that a step h maps the span of 1, θ, θ² to itself:
    E θ' = θ − h∇L and E θ'² = (E θ')² + hηC(θ), C of second degree.

        ss.theory.equations.read_least_squares(sgd, 0.3, reading="centred")

    **Arguments:**

    - `process`: as `stationary.covariance`, with d = 1 and without a buffer, under independent
      batches: `SGD`, `SVAG`, `ModifiedEquation` at its step, or its limit.
    - `lag`: τ in units of t, a multiple of the step.
    - `reading`: see the top of the module; `num_lags` K, of "extrapolated".

    **Returns:** `ReadEquation`. Under "log_map" it is the same at every lag.

    **Raises:** `ValueError` for bad numbers, lags between two steps, and under "log_map" for steps
    that no SDE makes (h·curvature ≥ 1: the mean alternates); `NotKnown` for other processes.
    """
    _check_reading(reading)
    tau = check_number("lag", lag, above=0)
    found = read_linear(process)
    if len(found.rest) != 1:
        raise NotKnown(
            f"A reading of first and second moments is known in one dimension; got "
            f"d={len(found.rest)}. effective_linear(process) has the log map under constant noise."
        )
    _check_steps(found)
    h, slope, kick = _of_time(found)
    noise, rest = found.noise, float(found.rest[0])
    parts = noise.star, noise.cross, noise.feedback
    star, cross, curve = (0.0 if part is None else float(part.item()) for part in parts)
    drift = float(slope[0]) * np.array([rest, -1.0])
    # C is known in powers of θ − rest.
    powers = np.array([star - cross * rest + curve * rest**2, cross - 2 * curve * rest, curve])
    variance = float(kick[0]) * powers
    if reading == "log_map":
        if h == 0:
            return ReadEquation(drift, variance)
        return _from_generator(_logarithm(_step(drift, variance, h), h))
    count = _lags(reading, num_lags)
    if h == 0:
        generator = np.zeros((3, 3))
        generator[1, :2], generator[2] = drift, _square_row(drift, variance)
        after = [expm(m * tau * generator) for m in range(1, count + 1)]
    else:
        way = "pass whole numbers of them, or take the limit of an equation, `process.limit()`"
        clock = np.array([tau])
        steps = int(_arguments.whole_steps(clock, h, "lag", called="one step", way=way)[0])
        once = _step(drift, variance, h)
        after = [np.linalg.matrix_power(once, m * steps) for m in range(1, count + 1)]
    first, second = _weighted(after, tau)
    if reading == "centred":
        square = np.convolve(first, first)
        second = second - tau * square
    return ReadEquation(first, second)


def effective_linear(process: Any, about: Any = None) -> LinearEquation:
    """The linear SDE with the law of θ ← (1 − hH)θ + √(hη) C^{1/2}ξ at every step h, its log map.

    −log(1 − hH)/h in place of H; in the eigenbasis of H the variance rate is
    hηC_ij (λ_i + λ_j)/(1 − A_iA_j), A = 1 − hH's eigenvalue and λ = −log(A)/h. Its stationary and
    transient moments are those of the steps (SGD: h = η), which the modified equations of orders
    one and two only approach. Of a limit it is the equation itself.

    **Arguments:** `process` and `about` as in `stationary.covariance`: without a buffer, under
    independent batches and with a noise that does not depend on θ. θ is measured from where the
    mean comes to rest.

    **Raises:** `ValueError` for h·(an eigenvalue of H) ≥ 1: the mean alternates, and no SDE does
    that; `NotKnown` for other processes, and for noise that depends on θ.
    """
    found = read_linear(process, about)
    _check_steps(found)
    if not _step_laws.has_constant_noise(found):
        raise NotKnown(
            f"The noise of {type(process).__name__} depends on θ, and its variance rate is no "
            f"matrix: hold it with ConstantNoise.at(landscape, θ, sampling), or take "
            f"read_least_squares (d = 1)."
        )
    basis, (h, rates, kick) = found.basis, _of_time(found)
    inner = np.sqrt(np.outer(kick, kick)) * found.noise.star
    if h > 0:
        factor = 1 - h * rates
        if (factor <= 0).any():
            raise ValueError(_alternates(h * float(rates.max())))
        rates = -np.log(factor) / h
        total = rates[:, None] + rates
        # (λ_i + λ_j)/(1 − e^{−h(λ_i + λ_j)}), 1/h where nothing relaxes.
        decay = -np.expm1(-h * total)
        ratio = np.divide(total, decay, out=np.full_like(total, 1 / h), where=decay != 0)
        inner = h * inner * ratio
    return LinearEquation((basis * rates) @ basis.T, basis @ inner @ basis.T)


def _check_steps(found: LinearReading) -> None:
    """Refuses a buffer and batches that exclude each other: θ alone is no Markov chain then."""
    if found.own.injection.shape[1] != 1 or found.process.epoch is not None:
        raise NotKnown(
            f"With a buffer or through shuffled epochs the θ of {type(found.process).__name__} is "
            f"no Markov chain, and no equation in θ reads it: take momentum=0 and independent "
            f"batches."
        )


def _of_time(found: LinearReading) -> tuple[float, np.ndarray, np.ndarray]:
    """h, the slope of the drift and the factor of C in the variance rate, per unit t."""
    eta, own = found.learning_rate, found.own
    keep, kick = own.transition[:, 0, 0], own.injection[:, 0] ** 2
    if own.step == 0:
        return 0.0, -keep / eta, kick / eta
    h = eta * own.step
    return h, (1 - keep) / h, kick / h


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
