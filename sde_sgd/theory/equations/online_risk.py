"""Mean risk of online least squares: homogenised SGD, its Volterra equation, the exact recursion.

Features x ~ N(0, A), targets y = x·θ* + ε with Var ε = σ², batches of B fresh examples. In the
eigenbasis of A, with m_i = E δ_i² for δ = θ − θ* and the excess risk R = ½ Σ λ_i m_i, Isserlis'
theorem closes one iteration of SGD at the rate η exactly, in any dimension:

    m_i ← (1 − ηλ_i)² m_i + (η²/B) [(σ² + 2R) λ_i + λ_i² m_i] .

*Homogenised SGD* is the SDE dθ = −∇L dt + √(2ηL(θ)/B) A^{1/2} dW on the clock t = ηk. It leaves
out λ_i² m_i, which is 1/d of its neighbour in high dimension. Its mean risk Ψ = R + ½σ² solves

    Ψ(t) = F(t) + (η/B) ∫₀ᵗ K(t − s) Ψ(s) ds ,
    F(t) = ½σ² + ½ Σ λ_i m_i(0) e^{−2λ_i t} ,    K(t) = Σ λ_i² e^{−2λ_i t} .

The papers count t = k/d at the rate η = γ/d; at γ = 1 that is this clock.

**Source:** Paquette, Paquette, Adlam, Pennington 2022 (2205.07069); Collins-Woodfin, Paquette 2023
(2304.06847). Batches, Euler's scheme and the finite-d recursion by Isserlis' theorem.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from sde_sgd._checks import check_at_least, check_flag, check_whole, in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.population import PopulationLeastSquares
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

# Eigendecompositions of the generator that one schedule may ask for.
_MAX_RATES = 32
# Those gone through one by one.
_MOST_STEPS = 10**7
# Below this exponent the product weights lose digits, and their series has them all.
_SMALL = 1e-3

Rate = RealLike | Callable[[int], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class OnlineRisk:
    """The mean excess risk R = E L(θ) − ½σ² of a process on online least squares.

    **Arguments:**

    - `spectrum`: eigenvalues λ of A, (d,), ≥ 0.
    - `start`: E δ_i² at k = 0 along the eigenvectors, (d,), ≥ 0; |δ₀|²/d each for a uniform start.
    - `label_noise`: σ ≥ 0; `batch_size`: B ≥ 1.

    Every method takes `learning_rate`: η ≥ 0, or a function of the iteration k; iteration k lasts
    from t = Σ_{j<k} η_j to η_k later, on SGD's clock. Beyond stability the risk grows to ∞, which
    is returned where it leaves the numbers.

    **Raises:** `ValueError` for shapes that differ, negative or non-finite entries.
    """

    spectrum: Float[np.ndarray, " d"]
    start: Float[np.ndarray, " d"]
    label_noise: float
    batch_size: float

    def __init__(
        self,
        spectrum: ArrayLike,
        start: ArrayLike,
        label_noise: RealLike,
        batch_size: RealLike = 1,
    ):
        values = _arguments.array("spectrum", spectrum, 1)
        second = _arguments.array("start", start, 1)
        if second.shape != values.shape:
            raise ValueError(
                f"start must hold one E δ_i² for each of the {len(values)} eigenvalues; got shape "
                f"{second.shape}."
            )
        for name, array in (("spectrum", values), ("start", second)):
            if (array < 0).any():
                raise ValueError(f"{name} must be >= 0, the smallest entry is {array.min():g}.")
        if not values.any():
            raise ValueError("spectrum is zero: the loss is flat. Give the eigenvalues of A.")
        noise = _arguments.label_noise(label_noise)
        batch = check_at_least("batch_size", batch_size, 1)
        object.__setattr__(self, "spectrum", values)
        object.__setattr__(self, "start", second)
        object.__setattr__(self, "label_noise", noise)
        object.__setattr__(self, "batch_size", batch)

    @classmethod
    def of(
        cls, landscape: AbstractLandscape, theta0: ArrayLike, batch_size: RealLike = 1
    ) -> "OnlineRisk":
        """That of a landscape and a start θ0 (d,)."""
        if not isinstance(landscape, PopulationLeastSquares):
            raise ValueError(
                f"landscape must be PopulationLeastSquares; got {in_brief(landscape)}. On a "
                f"finite sum of least squares there is theory.stationary.transient."
            )
        begin = _arguments.vector("theta0", theta0, landscape.dimension)
        values, basis = np.linalg.eigh(np.asarray(landscape.feature_covariance, dtype=float))
        offset = begin - np.asarray(landscape.minimum(), dtype=float)
        return cls(
            np.clip(values, 0, None),
            (basis.T @ offset) ** 2,
            float(landscape.label_noise),
            batch_size,
        )

    def recursion(
        self,
        learning_rate: Rate,
        iterations: ArrayLike,
        *,
        substeps: int = 1,
        homogenised: bool = False,
    ) -> Float[np.ndarray, " T"]:
        """R after `iterations` (T,) of SGD, exactly; or of Euler's scheme of an SDE.

        Σ(θ) of the examples belongs to SGD, to `ModifiedEquation` with `MinibatchNoise` at h =
        η/`substeps` and to SVAG(`substeps`); `homogenised` noise 2L(θ)A/B to the SDE above. Costs
        O(d) a step.
        """
        wanted, steps = self._whole(iterations), check_whole("substeps", substeps, 1, _MOST_STEPS)
        check_flag("homogenised", homogenised)
        second, batch = self.start.copy(), self.batch_size

        def advance(eta: float) -> None:
            nonlocal second
            h = eta / steps
            own = (1 - h * self.spectrum) ** 2
            if not homogenised:
                own = own + h * eta / batch * self.spectrum**2
            for _ in range(steps):
                risk = self.label_noise**2 + self.spectrum @ second
                second = own * second + (h * eta / batch * risk) * self.spectrum

        return self._collect(
            wanted, learning_rate, advance, lambda: 0.5 * float(self.spectrum @ second)
        )

    def volterra(
        self, learning_rate: Rate, iterations: ArrayLike, *, substeps: int = 1
    ) -> Float[np.ndarray, " T"]:
        """R of homogenised SGD after `iterations` (T,), from its Volterra equation.

        Product trapezoid rule: Ψ is linear on every step h = η/`substeps`, and K, a sum of
        exponentials, is integrated against it exactly. Error O(h²), O(d) operations a step.
        """
        wanted, steps = self._whole(iterations), check_whole("substeps", substeps, 1, _MOST_STEPS)
        rates, kernel = 2 * self.spectrum, self.spectrum**2 / self.batch_size
        floor = 0.5 * self.label_noise**2
        decayed = 0.5 * self.spectrum * self.start  # the terms of F(t)
        memory = np.zeros_like(rates)  # ∫ e^{−2λ(t−s)} η(s) Ψ(s) ds
        risk = floor + float(decayed.sum())
        known: dict[float, tuple] = {}

        def advance(eta: float) -> None:
            nonlocal decayed, memory, risk
            if eta not in known:
                known.clear()
                known[eta] = _product_weights(rates, eta / steps)
            decay, left, right = known[eta]
            implicit = 1 - eta * float(kernel @ right)
            if implicit <= 0:
                raise ValueError(
                    f"substeps={steps} is too coarse for learning_rate={eta:g}: the trapezoid rule "
                    f"has no solution with (η/B)∫K ≥ 1 in one step. Raise substeps."
                )
            for _ in range(steps):
                decayed = decay * decayed
                memory = decay * memory + left * (eta * risk)
                explicit = floor + float(decayed.sum()) + float(kernel @ memory)
                risk = explicit / implicit
                memory = memory + right * (eta * risk)

        return self._collect(wanted, learning_rate, advance, lambda: risk - floor)

    def sde(
        self, learning_rate: Rate, iterations: ArrayLike, *, homogenised: bool = True
    ) -> Float[np.ndarray, " T"]:
        """R of an SDE after `iterations` (T,), exactly, from its linear moment equations.

        dm/dt = S m + (η/B)σ²λ with S = diag(−2λ) + (η/B) λλᵀ, symmetric, by its eigenvectors:
        O(d³) for every rate of a schedule. Not `homogenised`, S has (η/B) diag(λ²) too: the
        modified equation with the noise Σ(θ) of the examples.

        **Raises:** `ValueError` for a schedule of more than 32 rates: `volterra` takes any.
        """
        wanted = self._whole(iterations)
        check_flag("homogenised", homogenised)
        second, systems = self.start.copy(), {}
        rates = self._rates(learning_rate, int(wanted.max(initial=0)))
        different = len(set(rates))
        if different > _MAX_RATES:
            raise ValueError(
                f"sde takes an eigendecomposition a learning rate, and the schedule has "
                f"{different}, more than {_MAX_RATES}: use volterra, whose error is O(h²)."
            )
        found, at = {}, 0
        for stop, eta in _runs(rates, wanted):
            if eta not in systems:
                systems[eta] = np.linalg.eigh(self._generator(eta, homogenised))
            growth, basis = systems[eta]
            found[at] = 0.5 * float(self.spectrum @ second)
            time = (stop - at) * eta
            push = basis.T @ (eta / self.batch_size * self.label_noise**2 * self.spectrum)
            with np.errstate(over="ignore", invalid="ignore"):
                spread = np.expm1(growth * time)
                # (e^{wt} − 1)/w, t for w = 0.
                forced = np.where(growth == 0, time, spread / np.where(growth == 0, 1, growth))
                second = basis @ ((1 + spread) * (basis.T @ second) + forced * push)
            at = stop
        found[at] = 0.5 * float(self.spectrum @ second)
        return np.array([_finite(found[int(k)]) for k in wanted])

    def critical_learning_rate(
        self, *, substeps: int | None = 1, homogenised: bool = False
    ) -> float:
        """The constant η beyond which the mean risk grows without bound.

        Where (η/B) Σ λ_i/G_i = 1, G_i = 2 − (h + η/B)λ_i (2 − hλ_i if `homogenised`): h = η/m for
        `substeps` m, 1 for SGD, and h = 0 for None, the SDE. Homogenised SGD: 2B/tr A, the papers'
        γ = 2/λ̄ at B = 1.
        """
        resisted = self._resistance(substeps, homogenised)
        top = float(self.spectrum.max())
        if resisted == 0:
            return 2 * self.batch_size / float(self.spectrum.sum())
        # At the upper end one G is 0, and the sum beyond all bounds.
        upper = 2 / (resisted * top)

        def excess(share: float) -> float:
            eta = share * upper
            return 1 - self._feedback(eta, resisted)

        end = 1 - 1e-13
        # With huge batches nothing but η < 2/λ_max is left.
        if excess(end) > 0:
            return upper
        return upper * float(brentq(excess, 0.0, end, xtol=1e-15))  # pyright: ignore[reportArgumentType]

    def floor(
        self, learning_rate: RealLike, *, substeps: int | None = 1, homogenised: bool = False
    ) -> float:
        """Stationary R at a constant η, ½σ² q/(1 − q), q = (η/B) Σ λ_i/G_i.

        Homogenised SGD, with γλ̄ = η tr A and B = 1: γλ̄σ²/(2(2 − γλ̄)). Options and G as for
        `critical_learning_rate`.

        **Raises:** `ValueError` at and beyond it.
        """
        eta = check_at_least("learning_rate", learning_rate)
        most = self.critical_learning_rate(substeps=substeps, homogenised=homogenised)
        if eta >= most:
            raise ValueError(
                f"learning_rate={eta:g} is not below the critical {most:g}: the risk has no "
                f"stationary value. Take a smaller learning_rate or a larger batch_size."
            )
        q = self._feedback(eta, self._resistance(substeps, homogenised))
        return 0.5 * self.label_noise**2 * q / (1 - q)

    def _generator(self, eta: float, homogenised: bool) -> Float[np.ndarray, "d d"]:
        own = -2 * self.spectrum
        if not homogenised:
            own = own + eta / self.batch_size * self.spectrum**2
        return np.diag(own) + eta / self.batch_size * np.outer(self.spectrum, self.spectrum)

    def _resistance(self, substeps: int | None, homogenised: bool) -> float:
        """r in G = 2 − rηλ."""
        step = 0.0 if substeps is None else 1 / check_whole("substeps", substeps, 1, _MOST_STEPS)
        return step + (0.0 if check_flag("homogenised", homogenised) else 1 / self.batch_size)

    def _feedback(self, eta: float, resisted: float) -> float:
        stiff = 2 - resisted * eta * self.spectrum
        return float(np.sum(eta * self.spectrum / stiff)) / self.batch_size

    def _whole(self, iterations: ArrayLike) -> Int[np.ndarray, " T"]:
        return _arguments.iterations("iterations", iterations, _MOST_STEPS)

    def _rates(self, learning_rate: Rate, number: int) -> list[float]:
        """η_k for k < number."""
        if not callable(learning_rate):
            return [check_at_least("learning_rate", learning_rate)] * number
        return [check_at_least(f"learning_rate({k})", learning_rate(k)) for k in range(number)]

    def _collect(self, wanted, learning_rate: Rate, advance, value) -> Float[np.ndarray, " T"]:
        """`value()` at the iterations wanted, `advance(η_k)` in between."""
        last = int(wanted.max(initial=0))
        found, asked = {0: value()}, set(wanted.tolist())
        with np.errstate(over="ignore", invalid="ignore"):
            for k, eta in enumerate(self._rates(learning_rate, last), start=1):
                advance(eta)
                if k in asked:
                    found[k] = value()
        return np.array([_finite(found[int(k)]) for k in wanted])


def _runs(rates: list[float], wanted: np.ndarray) -> Iterator[tuple[int, float]]:
    """(end, η) of the longest stretches of one rate that end at an iteration wanted or a change."""
    asked = set(wanted.tolist())
    for k, eta in enumerate(rates, start=1):
        if k in asked or k == len(rates) or rates[k] != eta:
            yield k, eta


def _product_weights(rates: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """e^{−a} and the weights of both ends in ∫₀ʰ e^{−rate(h−u)} φ(u) du, φ linear, a = rate·h."""
    a = rates * h
    small = a < _SMALL
    safe = np.where(small, 1.0, a)
    left = np.where(small, 0.5 - a / 3 + a**2 / 8, (1 - (1 + safe) * np.exp(-safe)) / safe**2)
    right = np.where(small, 0.5 - a / 6 + a**2 / 24, (safe + np.expm1(-safe)) / safe**2)
    return np.exp(-a), h * left, h * right


def _finite(value: float) -> float:
    """NaN, which only ∞ − ∞ and 0·∞ make here, is ∞."""
    return float("inf") if np.isnan(value) else value
