"""From diagnostics to a predicted distance between two laws, and from the distance to a verdict.

The distance between SGD's and the SDE's marginal along a direction is

    D = 2 W₂(SGD, SDE)/σ_SDE,

W₂ the Wasserstein distance of order two: relative in units of variance, since two Gaussians
whose variances differ by a small relative ε have D = ε, and two whose means differ by δσ have 2δ.
To first order in each (Cornish–Fisher: the Hermite polynomials are orthogonal),

    D² = (2δ)² + (2(√R − 1))² + (2/9) γ² + (1/24) κ²,

with R the ratio of variances, γ and κ the difference of skewness and excess kurtosis. The parts:

- δ and R: `Moments.laws`, exact for quadratic example losses: finite learning rate, noise that
  depends on θ, momentum, the transient; times `epoch_ratio` for shuffled epochs;
- γ and κ: those of one step's noise, reduced by averaging over the memory of the direction,
  γ Σ w³/(Σ w²)^{3/2} and κ Σ w⁴/(Σ w²)², w the `impulse_response`; the SDE has none of them.

The verdict is on the largest D of the watched directions, at ± 2 standard errors of it.
"""

import enum
from typing import NamedTuple

import numpy as np

from sde_sgd.noise.sampling import AbstractSampling, RandomReshuffling
from sde_sgd.validity.cumulants import batch_shape, epoch_ratio, Shape
from sde_sgd.validity.local_model import impulse_response, LocalModel, Moments, Settings

_SIGMAS = 2.0


class Shares(NamedTuple):
    """Signed parts of D along one direction; D² = mean² + (rate + epochs)² + skewness² + tails²."""

    mean: float
    rate: float
    epochs: float
    skewness: float
    tails: float

    @property
    def distance(self) -> float:
        """D."""
        whole = np.asarray(
            [self.mean, self.rate + self.epochs, self.skewness, self.tails], dtype=float
        )
        return float(np.sqrt((whole**2).sum()))

    @property
    def largest(self) -> str:
        """What D is made of above all, in words."""
        words = {
            "mean": "the means differ",
            "rate": "finite learning rate (and noise that varies with θ)",
            "epochs": "noise correlated in time by shuffled epochs",
            "skewness": "skewed minibatch noise",
            "tails": "minibatch noise of other tails than a Gaussian's",
        }
        return words[max(words, key=lambda name: abs(getattr(self, name)))]


class Watched(NamedTuple):
    """One direction u.

    **Fields:** `name`; `curvature` h = u·∇²L u; `curvature_noise`, the standard deviation over
    examples of u·∇²ℓ_i u; `shape` of one step's noise; `correlation` of two steps of one epoch;
    `spread`, the SDE's standard deviation after K iterations; `shares` of the predicted D.
    """

    name: str
    curvature: float
    curvature_noise: float
    shape: Shape
    correlation: float
    spread: float
    shares: Shares


class View(NamedTuple):
    """A local model seen along some directions: all that `watch` asks of it.

    **Fields:** `names`; `weights` (number, m), the directions; `moments`; `slopes` (number, n),
    the examples' slopes along each; `bends`, `bend_deviations` (number,), mean and standard
    deviation over examples of their curvatures; `num_examples` N, for which the n stand.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    moments: Moments
    slopes: np.ndarray
    bends: np.ndarray
    bend_deviations: np.ndarray
    num_examples: int

    @staticmethod
    def of(
        model: LocalModel, names: tuple[str, ...], weights: np.ndarray, num_examples: int
    ) -> "View":
        """`weights` (number, m) are the directions in the model's coordinates."""
        bends = np.einsum("nij,ui,uj->un", model.curvatures, weights, weights, optimize=True)
        slopes = weights @ model.slopes.T
        deviations = bends.std(axis=1)
        return View(
            names, weights, model.moments(), slopes, bends.mean(axis=1), deviations, num_examples
        )


def watch(view: View, settings: Settings, sampling: AbstractSampling) -> list[Watched]:
    """Everything about each direction after K iterations."""
    num = view.num_examples
    shuffled = isinstance(sampling, RandomReshuffling)
    correlation = -sampling.batch_size / (num - sampling.batch_size) if shuffled else 0.0
    sgd, sde = view.moments.laws(settings)
    finite = bool(np.isfinite([sgd.covariance, sde.covariance]).all())
    result = []
    for i, weight in enumerate(view.weights):
        bend = float(view.bends[i])
        shape = batch_shape(view.slopes[i], sampling, num)
        response = impulse_response(
            bend, settings.learning_rate, settings.momentum, settings.num_steps
        )
        variance = float(weight @ sde.covariance @ weight) if finite else np.inf
        own = float(weight @ sgd.covariance @ weight) if finite else np.inf
        if not finite or not np.isfinite(response).all():
            shares = Shares(0.0, np.inf, 0.0, 0.0, 0.0)
        elif variance <= 0:
            shares = Shares(0.0, 0.0, 0.0, 0.0, 0.0)
        else:
            shift = float(weight @ (sgd.mean - sde.mean))
            ratio = epoch_ratio(response, num, sampling.batch_size) if shuffled else 1.0
            shares = _shares(shift, own, variance, ratio, shape, response)
        spread = float(np.sqrt(max(variance, 0.0)))
        deviation = float(view.bend_deviations[i])
        result.append(Watched(view.names[i], bend, deviation, shape, correlation, spread, shares))
    return result


def _shares(shift, own, variance, epochs, shape: Shape, response) -> Shares:
    deviation = np.sqrt(variance)
    ratio = np.sqrt(max(own, 0.0) / variance)
    unit = response / np.sqrt((response**2).sum())
    skewness, kurtosis = -shape.skewness * (unit**3).sum(), shape.kurtosis * (unit**4).sum()
    return Shares(
        mean=float(2 * shift / deviation),
        rate=float(2 * (ratio - 1)),
        epochs=float(2 * ratio * (np.sqrt(epochs) - 1)),
        skewness=float(np.sqrt(2) / 3 * skewness),
        tails=float(kurtosis / np.sqrt(24)),
    )


def largest(watched: list[Watched]) -> Watched:
    """The direction of the largest D."""
    return max(watched, key=lambda each: each.shares.distance)


class State(enum.Enum):
    """What D ± 2 standard errors says against the tolerance."""

    PASSES = "valid"
    FAILS = "not valid"
    UNDECIDED = "undecided"

    @staticmethod
    def of(distance: float, error: float, tolerance: float) -> "State":
        """Undecided where the bar lies on both sides; an infinite D fails whatever its error.

        The bar is from D e^{−2e/D}, since D is positive, to D + 2e, which is D ± 2e for e ≪ D.
        """
        if not np.isfinite(distance):
            return State.FAILS
        if distance * np.exp(-_SIGMAS * error / max(distance, 1e-300)) > tolerance:
            return State.FAILS
        return State.PASSES if distance + _SIGMAS * error <= tolerance else State.UNDECIDED


def decide(
    distance: float, error: float, tolerance: float, why: str, advice: str = "more num_paths"
) -> str:
    """ "valid", "not valid: …" or "undecided: …", by D ± 2 standard errors against tolerance.

    `advice` says what would make the error smaller.
    """
    predicted = f"predicted D = {distance:.3g} ± {error:.1g}"
    state = State.of(distance, error, tolerance)
    against = {
        State.PASSES: f"≤ {tolerance:g}",
        State.FAILS: f"> {tolerance:g}",
        State.UNDECIDED: f"on both sides of {tolerance:g}",
    }[state]
    more = f"; {advice}" if state is State.UNDECIDED else ""
    return f"{state.value}: {predicted} {against}, most of it {why}{more}"
