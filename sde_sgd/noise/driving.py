"""What drives a stochastic equation: white, coloured, fractional or heavy-tailed noise.

A driving process Z has independent components with stationary increments and Z(0) = 0. Its time
counts SGD iterations; white noise has the unit variance of dZ = dW over one of them.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, PyTree

from sde_sgd._checks import as_float64, check_number, check_whole, in_brief
from sde_sgd.random.draws import Draws, Stream


class AbstractDriving(eqx.Module):
    """The increments of Z over solver steps, for one member at a time.

    A driving process of your own says whether it is `gaussian`, its `roughness`, its memory at
    the start (`init`, None for independent increments) and its `increment` (size,) over a step of
    `time_step` iterations, in units in which white noise has the variance `time_step`.

    ```python
    class CoinTosses(ss.noise.AbstractDriving):
        "Independent increments ±√Δs, as weak schemes draw them."

        gaussian: ClassVar[bool] = False
        roughness = 1.0

        def init(self, draws, size, dtype):
            return None

        def increment(self, memory, draws, size, time_step, dtype):
            heads = draws.uniform((size,), ss.Stream.TWO_POINT, dtype) < 0.5
            return None, time_step**0.5 * jnp.where(heads, 1, -1).astype(dtype)
    ```
    """

    gaussian: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def roughness(self) -> float:
        """σ₀ of the Brownian part: [Z] = σ₀² s. Noise that depends on θ wants it ≤ 1."""

    @abc.abstractmethod
    def init(self, draws: Draws, size: int, dtype: Any) -> PyTree[Array]:
        """The memory of Z in its stationary law, of one member; None if Z has none."""

    @abc.abstractmethod
    def increment(
        self, memory: PyTree[Array], draws: Draws, size: int, time_step: float, dtype: Any
    ) -> tuple[PyTree[Array], Float[Array, " size"]]:
        """The memory and ΔZ (size,) after a step of `time_step` iterations, exact in law.

        `draws` are those of the member in its solver step.
        """


class WhiteNoise(AbstractDriving):
    """dZ = dW, Brownian motion."""

    gaussian: ClassVar[bool] = True

    @property
    def roughness(self) -> float:
        return 1.0

    def init(self, draws: Draws, size: int, dtype: Any) -> None:
        return None

    def increment(self, memory: None, draws: Draws, size: int, time_step: float, dtype: Any):
        root = jnp.sqrt(jnp.asarray(time_step, dtype))
        return None, root * draws.normal((size,), Stream.NOISE, dtype)


class ColouredNoise(AbstractDriving):
    """dZ = a dW + Σ_k b_k dY_k,   dY_k = −γ_k Y_k ds + dW: one W for all, Y stationary.

    The noise dZ/ds has the spectrum |a + Σ_k b_k iω/(γ_k + iω)|². Increments have the exact law of
    these m states at any step. Cost: m states and up to m + 1 normal numbers for each component.

    - `fractional_noise` chooses γ and b so that Z is fractional Brownian motion;
    - `epoch_noise` is a = 0, b = 1: noise that adds up to zero, as in shuffled epochs;
    - a = 1, b = −1 is dZ = γY ds, smooth noise of correlation time 1/γ with the spectrum of white
      noise at ω → 0.

    **Arguments:** `rates` γ_k > 0 per iteration; `weights` b_k, as many; `white` a.
    """

    rates: tuple[float, ...] = eqx.field(static=True)
    weights: tuple[float, ...] = eqx.field(static=True)
    white: float = eqx.field(static=True)
    gaussian: ClassVar[bool] = True

    def __init__(self, rates: Any, weights: Any, white: float | int = 0.0):
        self.rates, self.weights = _row("rates", rates), _row("weights", weights)
        self.white = check_number("white", white)
        if len(self.rates) != len(self.weights) or not self.rates:
            raise ValueError(
                f"ColouredNoise needs one weight for each rate, at least one; got "
                f"{len(self.rates)} rates and {len(self.weights)} weights."
            )
        if not all(0 < x < np.inf for x in self.rates):
            raise ValueError(
                f"rates must be finite and > 0, per iteration; got {in_brief(self.rates)}."
            )
        if not np.isfinite(self.weights).all():
            raise ValueError(f"weights must be finite; got {in_brief(self.weights)}.")

    @property
    def roughness(self) -> float:
        return abs(self.white + sum(self.weights))

    def init(self, draws: Draws, size: int, dtype: Any) -> Float[Array, "size m"]:
        rates = np.array(self.rates)
        root = _root(1 / (rates[:, None] + rates[None, :]))
        z = draws.normal((size, root.shape[1]), Stream.DRIVING, dtype)
        return z @ jnp.asarray(root.T, dtype)

    def increment(
        self,
        memory: Float[Array, "size m"],
        draws: Draws,
        size: int,
        time_step: float,
        dtype: Any,
    ):
        rates, weights = np.array(self.rates), np.array(self.weights)
        loss = -np.expm1(-rates * time_step)
        total = rates[:, None] + rates[None, :]
        joint = np.empty((len(rates) + 1, len(rates) + 1))
        joint[:-1, :-1] = -np.expm1(-total * time_step) / total
        joint[:-1, -1] = joint[-1, :-1] = loss / rates
        joint[-1, -1] = time_step
        root = _root(joint)  # of (∫e^{−γ(s'−s)}dW, ΔW)
        sums = weights @ root[:-1] + self.white * root[-1]
        z = draws.normal((size, root.shape[1]), Stream.COLOURED, dtype)
        move = z @ jnp.asarray(sums, dtype) - memory @ jnp.asarray(weights * loss, dtype)
        kept = memory * jnp.asarray(1 - loss, dtype) + z @ jnp.asarray(root[:-1].T, dtype)
        return kept, move


class StableNoise(AbstractDriving):
    """Symmetric α-stable Lévy motion: E e^{iu ΔZ} = exp(−|σu|^α Δs), independent components.

    Δs^{1/α} σ X with X by Chambers, Mallows, Stuck 1976: V uniform on (−π/2, π/2), E exponential,

        X = sin(αV)/cos(V)^{1/α} · [cos((1−α)V)/E]^{(1−α)/α} .

    α = 2 is Brownian motion (with the default σ = 1/√2, that of white noise); α = 1 is Cauchy.
    Below α = 2 there is no variance: measure medians, quantiles or characteristic functions.

    **Arguments:** `index` α in (0, 2]; `scale` σ > 0.
    """

    index: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    gaussian: ClassVar[bool] = False

    def __init__(self, index: float | int, scale: float | int = float(np.sqrt(0.5))):
        self.index = check_number("index", index, above=0)
        if self.index > 2:
            raise ValueError(
                f"index must be in (0, 2], 2 being the Gaussian; got {in_brief(index)}."
            )
        self.scale = check_number("scale", scale, above=0)

    @property
    def roughness(self) -> float:
        return 1.0

    def init(self, draws: Draws, size: int, dtype: Any) -> None:
        return None

    def increment(self, memory: None, draws: Draws, size: int, time_step: float, dtype: Any):
        u = draws.uniform((2, size), Stream.STABLE, dtype)
        # Centres of the cells of the uniform grid: never an end of the interval.
        cell = 2.0**-24 if jnp.dtype(dtype) == jnp.float32 else 2.0**-53
        angle = jnp.asarray(np.pi, u.dtype) * (u[0] + jnp.asarray(cell - 0.5, u.dtype))
        wait = -jnp.log1p(-(u[1] + jnp.asarray(cell, u.dtype)))
        alpha = self.index
        spread = jnp.cos(angle) ** (1 / alpha)
        bent = (jnp.cos((1 - alpha) * angle) / wait) ** ((1 - alpha) / alpha)
        stable = jnp.sin(alpha * angle) / spread * bent
        return None, jnp.asarray(self.scale * time_step ** (1 / alpha), dtype) * stable


# Of their joint covariance, a matrix, each step takes the root when it is compiled.
_MOST_STATES = 1_000


def fractional_noise(
    hurst: float,
    num_states: int = 48,
    *,
    slowest: float = 1e-6,
    fastest: float = 1e6,
) -> ColouredNoise:
    """Fractional Brownian motion, E Z(s)² = s^{2H}, by m Ornstein–Uhlenbeck states.

    The kernel of Mandelbrot & Van Ness is a mixture of exponentials: with q = ½ − H,

        s^{−q} = ∫_0^∞ e^{−γs} γ^{q−1} dγ / Γ(q)   (H < ½; its derivative in s for H > ½),

    so that Z = C^{−1} ∫ (Y_γ(s) − Y_γ(0)) γ^{q−1} dγ/Γ(q), C² = Γ(H+½)²/(Γ(2H+1) sin πH). The
    integral over ln γ is done by the midpoint rule, whose error falls as e^{−π²/δ} in its spacing
    δ = ln(fastest/slowest)/m. States slower than `slowest` are constant in e^{−γs} and go into
    a; those faster than `fastest` are left out. Both ends enter b and a in one form for
    every H, with a = 1, b = 0 at H = ½.

    What is missing of E Z(s)² is of relative order (fastest·s)^{−2H}, and (slowest·s)^{2−2H} for
    H > ½, with s in iterations: rough noise needs fast states, smooth noise slow ones. The
    defaults leave below 1 % for .25 < H < .7 and s of 1 to 1 000 (2 % at H = .75, where s = 1 000
    is too long for `slowest`); take more of them beyond.

    **Arguments:** `hurst` H in (0, 1); `num_states` m; `slowest` < `fastest`, per iteration.

    **Source:** Carmona, Coutin 1998; Harms, Stefanovits 2019 (1510.04061).
    """
    index = check_number("hurst", hurst, above=0, below=1)
    num_states = check_whole("num_states", num_states, most=_MOST_STATES)
    slowest = check_number("slowest", slowest, above=0)
    fastest = check_number("fastest", fastest, above=slowest)
    power = 0.5 - index
    spacing = np.log(fastest / slowest) / num_states
    rates = slowest * np.exp(spacing * (np.arange(num_states) + 0.5))
    constant = scipy.special.gamma(index + 0.5) / np.sqrt(
        scipy.special.gamma(2 * index + 1) * np.sin(np.pi * index)
    )
    scale = 1 / (constant * scipy.special.gamma(1.5 - index))
    half = power * spacing / 2
    # Σ of the weights of all nodes below `slowest`, for power > 0; continued to power ≤ 0.
    ends = half / np.sinh(half) if half else 1.0
    return ColouredNoise(
        rates, scale * power * spacing * rates**power, scale * ends * slowest**power
    )


def epoch_noise(batches_per_epoch: int) -> ColouredNoise:
    """Ornstein–Uhlenbeck noise matched to shuffled epochs of M batches: dZ = dY, γ = 3/(M + 1).

    White over short times, while over long ones the noises add up to zero: the correlation R(s) =
    δ(s) − (γ/2)e^{−γ|s|} stands for the −1/(M−1) between two steps of an epoch, with the same
    integral (`theory.stationary.epoch_noise_autocovariance`). γ is chosen so that θ has the
    variance η²s²(M+1)/6 of shuffled SGD, averaged over the epoch, where the curvature h → 0; at ηhM
    ≳ 1 the match is approximate.

    **Arguments:** `batches_per_epoch`: M = N/B ≥ 2.
    """
    count = check_whole("batches_per_epoch", batches_per_epoch, 2)
    return ColouredNoise([3 / (count + 1)], [1.0])


def _row(name: str, values: Any) -> tuple[float, ...]:
    row = np.atleast_1d(as_float64(name, values))
    if row.ndim != 1:
        raise ValueError(f"{name} must be numbers in one row; got shape {row.shape}.")
    return tuple(row.tolist())


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with R Rᵀ = covariance to rounding, as few columns as that takes."""
    scale = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    kept = values > 1e-14 * values[-1]
    return scale[:, None] * vectors[:, kept] * np.sqrt(values[kept])
