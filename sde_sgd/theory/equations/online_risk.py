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
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_part, check_whole
from sde_sgd.landscapes.population import PopulationLeastSquares
from sde_sgd.noise.models import HessianNoise, MinibatchNoise
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory import _arguments

# Eigendecompositions of the generator that one schedule may ask for.
_MAX_RATES = 32
# Those gone through one by one.
_MOST_STEPS = 10**7
# Below this exponent the product weights lose digits, and their series has them all.
_SMALL = 1e-3


class _Step(NamedTuple):
    """m ← own·m + (σ² + λ·m) push, `count` times an iteration; of a limit (0) dm/ds, in s."""

    own: Float[np.ndarray, " d"]
    push: Float[np.ndarray, " d"]
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class OnlineRisk:
    """The mean excess risk R = E L(θ) − ½σ² of a process on online least squares, in any dimension.

        risk = ss.theory.equations.OnlineRisk(ss.SGD(landscape, 0.1, ss.WithReplacement(1)), theta0)
        risk.after([0, 100, 1000])

    **Arguments:**

    - `process`: on `PopulationLeastSquares`, without a buffer: `SGD` and `SVAG`; `GaussianSGD`,
      `ModifiedEquation` and `OverdampedEquation` by Euler with `MinibatchNoise`, or with the noise
      2L(θ)A/B of homogenised SGD, `HessianNoise(1/B, times_loss=True)`; and their limits. With a
      constant learning rate or a schedule.
    - `theta0`: the start, (d,).

    **Fields:** `process`; `spectrum` λ of A, `start` δ_i² along its eigenvectors, (d,) each;
    `label_noise` σ.

    Beyond stability the risk grows to ∞, which is returned where it leaves the numbers.

    **Raises:** `ValueError` for shapes and a flat loss; `NotKnown` for other processes, landscapes
    and noise.
    """

    process: Any
    spectrum: Float[np.ndarray, " d"]
    start: Float[np.ndarray, " d"]
    label_noise: float
    _noise: tuple[float, bool] = dataclasses.field(repr=False)

    def __init__(self, process: Any, theta0: ArrayLike):
        check_part("process", process, AbstractProcess, "a process such as ss.SGD")
        landscape, name = process.landscape, type(process).__name__
        if not isinstance(landscape, PopulationLeastSquares):
            raise NotKnown(
                f"The risk of {name} is known on PopulationLeastSquares, not on "
                f"{type(landscape).__name__}: of a finite sum of least squares there is "
                f"theory.stationary.transient."
            )
        if process.clock.rate is None:
            raise NotKnown(f"{name} has no learning rate, whose steps are known.")
        begin = _arguments.vector("theta0", theta0, landscape.dimension)
        values, basis = np.linalg.eigh(np.asarray(landscape.feature_covariance, dtype=float))
        values = np.clip(values, 0, None)
        if not values.any():
            raise ValueError("feature_covariance is zero: the loss is flat, and nothing moves.")
        fields = {
            "process": process,
            "spectrum": values,
            "start": (basis.T @ (begin - landscape.rest())) ** 2,
            "label_noise": float(landscape.label_noise),
            "_noise": _noise_of(process),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        self._step(float(process.clock.rate.values(1)[0]))

    def after(self, iterations: ArrayLike) -> Float[np.ndarray, " T"]:
        """R after `iterations` (T,), exactly, at the step of the process.

        O(d) for every solver step. A limit takes the eigenvectors of its generator instead,
        S = diag(2F + κλ²) + κλλᵀ per iteration, O(d³) for every rate of a schedule.

        **Raises:** `ValueError` for a limit under a schedule of more than 32 rates: `volterra`
        takes any.
        """
        wanted = _arguments.iterations("iterations", iterations, _MOST_STEPS)
        rates = self._rates(int(wanted.max(initial=0)))
        if self._step(float(self._rates(1)[0])).count == 0:
            return self._of_limit(rates, wanted)
        second, steps = self.start.copy(), {}

        def advance(eta: float) -> None:
            nonlocal second
            if eta not in steps:
                steps.clear()
                steps[eta] = self._step(eta)
            own, push, count = steps[eta]
            for _ in range(count):
                second = own * second + (self.label_noise**2 + self.spectrum @ second) * push

        return _collect(wanted, rates, advance, lambda: 0.5 * float(self.spectrum @ second))

    def volterra(self, iterations: ArrayLike, *, substeps: int = 1) -> Float[np.ndarray, " T"]:
        """R of the limit of homogenised SGD after `iterations` (T,), from its Volterra equation.

        Product trapezoid rule: Ψ is linear on every step h = η/`substeps`, and K, a sum of
        exponentials, is integrated against it exactly. Error O(h²), O(d) operations a step.

        **Raises:** `NotKnown` for another process.
        """
        wanted = _arguments.iterations("iterations", iterations, _MOST_STEPS)
        steps = check_whole("substeps", substeps, 1, _MOST_STEPS)
        factor, squares = self._noise
        first = float(self._rates(1)[0])
        rates, kernel = 2 * self.spectrum, factor * self.spectrum**2
        plain = _Step(-first * rates, first**2 * factor * self.spectrum, 0)
        own = self._step(first)
        if squares or own.count != 0 or not all(map(np.allclose, own, plain)):
            raise NotKnown(
                f"This Volterra equation is that of homogenised SGD: pass the limit of "
                f"ModifiedEquation(..., HessianNoise(1/B, times_loss=True)), and not "
                f"{type(self.process).__name__} with another noise or a step. `after` has its risk."
            )
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

        return _collect(
            wanted, self._rates(int(wanted.max(initial=0))), advance, lambda: risk - floor
        )

    def critical_learning_rate(self) -> float:
        """The constant η beyond which the mean risk grows without bound, all else the same.

        Where (η/B) Σ λ_i/G_i = 1, G_i = 2 − (h + η/B)λ_i for SGD (h = η) and at solver step h;
        2 − hλ_i for homogenised SGD, of whose limit it is 2B/tr A, the papers' γ = 2/λ̄ at B = 1.
        """
        low = high = 1 / float(self.spectrum.max())
        while self._feedback(high) < 1:
            high *= 2
            if high > 1e12 * low:
                raise ValueError("The risk grows at no learning rate below 1e12/λ_max.")
        while not self._feedback(low) < 1:
            low /= 2
        while high / low - 1 > 1e-14:
            middle = np.sqrt(low * high)
            if not low < middle < high:
                break
            low, high = (middle, high) if self._feedback(middle) < 1 else (low, middle)
        return float(low)

    def floor(self) -> float:
        """Stationary R at the learning rate of the process, ½σ² q/(1 − q), q = (η/B) Σ λ_i/G_i.

        The limit of homogenised SGD, with γλ̄ = η tr A and B = 1: γλ̄σ²/(2(2 − γλ̄)). G as for
        `critical_learning_rate`.

        **Raises:** `ValueError` at and beyond it, and for a schedule.
        """
        eta = self.process.clock.constant
        if eta is None:
            raise ValueError(
                "A schedule has no stationary risk: pass the process with the learning rate at "
                "which it ends."
            )
        q = self._feedback(eta)
        if not q < 1:
            raise ValueError(
                f"learning_rate={eta:g} is not below the critical "
                f"{self.critical_learning_rate():g}: the risk has no stationary value. Take a "
                f"smaller learning rate or a larger batch."
            )
        return 0.5 * self.label_noise**2 * q / (1 - q)

    def _step(self, eta: float) -> _Step:
        """The map of m at η, or its generator."""
        step = self.process.linear_step(eta, self.spectrum)
        if step.injection.shape[1] != 1:
            raise NotKnown(
                f"The risk of {type(self.process).__name__} is known without a buffer: use "
                f"momentum=0, or theory.stationary.transient for d ≤ 64."
            )
        factor, squares = self._noise
        keep, kick = step.transition[:, 0, 0], factor * step.injection[:, 0] ** 2
        own = (2 * keep if step.step == 0 else keep**2) + squares * kick * self.spectrum**2
        return _Step(own, kick * self.spectrum, round(1 / step.step) if step.step else 0)

    def _feedback(self, eta: float) -> float:
        """q = Σ λ_i push_i/(1 − own_i), ∞ where an m_i grows by itself."""
        own, push, count = self._step(eta)
        moving = self.spectrum > 0
        loss = (1 - own if count else -own)[moving]
        return float(np.sum((self.spectrum * push)[moving] / loss)) if (loss > 0).all() else np.inf

    def _rates(self, number: int) -> Float[np.ndarray, " k"]:
        """η_k for k < number."""
        return self.process.clock.rate.values(number)

    def _of_limit(self, rates: np.ndarray, wanted: np.ndarray) -> Float[np.ndarray, " T"]:
        second, systems = self.start.copy(), {}
        different = len(set(rates.tolist()))
        if different > _MAX_RATES:
            raise ValueError(
                f"A limit takes an eigendecomposition a learning rate, and the schedule has "
                f"{different}, more than {_MAX_RATES}: use volterra, whose error is O(h²), or the "
                f"process at a small step."
            )
        found, at = {}, 0
        for stop, eta in _runs(rates.tolist(), wanted):
            if eta not in systems:
                own, push, _ = self._step(eta)
                # push is a multiple of λ, so that the generator is symmetric.
                growth, basis = np.linalg.eigh(np.diag(own) + np.outer(push, self.spectrum))
                systems[eta] = growth, basis, self.label_noise**2 * basis.T @ push
            growth, basis, push = systems[eta]
            found[at] = 0.5 * float(self.spectrum @ second)
            with np.errstate(over="ignore", invalid="ignore"):
                spread = np.expm1(growth * (stop - at))
                # (e^{ws} − 1)/w, s for w = 0.
                forced = np.where(growth == 0, stop - at, spread / np.where(growth == 0, 1, growth))
                second = basis @ ((1 + spread) * (basis.T @ second) + forced * push)
            at = stop
        found[at] = 0.5 * float(self.spectrum @ second)
        return np.array([_finite(found[int(k)]) for k in wanted])


def _noise_of(process: Any) -> tuple[float, bool]:
    """c of Cov(ĝ) = c[(σ² + 2R) A + Aδδᵀ A], and whether the second part is there."""
    noise = process.gradient_noise
    if process.epoch is None and isinstance(noise, MinibatchNoise):
        return noise.factor(process.landscape), True
    if isinstance(noise, HessianNoise) and noise.times_loss:
        return float(noise.scale), False
    raise NotKnown(
        f"The risk of {type(process).__name__} is known with fresh batches, with MinibatchNoise "
        f"and with HessianNoise(1/B, times_loss=True), which is homogenised SGD's; got "
        f"{type(noise).__name__}."
    )


def _collect(wanted, rates, advance, value) -> Float[np.ndarray, " T"]:
    """`value()` at the iterations wanted, `advance(η_k)` in between."""
    found, asked = {0: value()}, set(wanted.tolist())
    with np.errstate(over="ignore", invalid="ignore"):
        for k, eta in enumerate(rates.tolist(), start=1):
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
