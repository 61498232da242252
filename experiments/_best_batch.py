"""The best batch size of curves over B, its exponent, and a quadratic where both are exact algebra.

On ½θ², with N examples of unit gradient noise and batches without replacement, the stationary law
of Gaussian SGD is N(0, v), v = ε c (1 + m)/[(1 − m)(2(1 + m) − ε)], c = (N − B)/(B(N − 1)). A
member counts as right where θ is within 1/√N of 2/√N, off by two widths of a posterior from where
training ends. The share that is right is largest at v = 4/(N ln 3): with more noise members are
lost on both sides, with less they sit on the training minimum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

import sde_sgd as ss


class Setting(NamedTuple):
    """ε, N and m of one curve over B."""

    learning_rate: float
    num_examples: int
    momentum: float


KNOWN = {
    "ε": [Setting(eps, 800, 0.0) for eps in (0.05, 0.1, 0.2, 0.4)],
    "N": [Setting(0.1, num, 0.0) for num in (200, 400, 800, 1600)],
    "1/(1 − m)": [Setting(0.1, 800, m) for m in (0.0, 0.5, 0.75, 0.875)],
}
KNOWN_SIZES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181)
KNOWN_BLOCK = 64
KNOWN_RELAXATIONS = 8.0


def label(setting: Setting) -> str:
    """The name of a curve."""
    return f"{setting.learning_rate:g} {setting.num_examples} {setting.momentum:g}"


def scale(series: str, setting: Setting) -> float:
    """What varies along a series."""
    eps, num, momentum = setting
    return {"ε": eps, "N": float(num), "1/(1 − m)": 1 / (1 - momentum)}[series]


def known_variance(setting: Setting, size: float) -> float:
    """Stationary variance of heavy-ball SGD on ½θ², batches without replacement of unit noise."""
    eps, num, m = setting
    noise = (num - size) / (size * (num - 1))
    return eps * noise * (1 + m) / ((1 - m) * (2 * (1 + m) - eps))


def known_accuracy(setting: Setting, size: float) -> float:
    """P(|θ − 2/√N| < 1/√N) under N(0, v)."""
    spread = np.sqrt(setting.num_examples * known_variance(setting, size))
    return float(ndtr(3 / spread) - ndtr(1 / spread))


def known_best(setting: Setting) -> float:
    """log B_opt: v = 4/(N ln 3), where d/dv of the accuracy vanishes."""
    wanted = 4 / (setting.num_examples * np.log(3))

    def miss(log_size: float) -> float:
        return known_variance(setting, np.exp(log_size)) - wanted

    return float(brentq(miss, -20.0, np.log(setting.num_examples) - 1e-9))  # pyright: ignore


def known_scores(setting: Setting, members: int, key) -> np.ndarray:
    """Shares of members that are right at the end, in blocks: (B, blocks), NaN where B ≥ N.

    One simulation has a coordinate for each B: they do not interact.
    """
    eps, num, momentum = setting
    sizes = np.array(KNOWN_SIZES)
    noise = np.maximum(num - sizes, 0) / (sizes * (num - 1))
    slowest = eps if momentum == 0 else min(eps, 1 - momentum)
    run = ss.simulate(
        ss.GaussianSGD(
            ss.quadratic(np.eye(len(sizes)), 1.0),
            eps,
            ss.ConstantNoise(np.diag(noise)),
            momentum=momentum,
        ),
        jnp.zeros(len(sizes)),
        num_steps=round(KNOWN_RELAXATIONS / slowest),
        ensemble_size=members,
        key=key,
        measures={},
    )
    right = np.abs(np.asarray(run.positions) * np.sqrt(num) - 2) < 1
    shares = right.reshape(-1, KNOWN_BLOCK, len(sizes)).mean(axis=1).T
    return np.where(sizes[:, None] < num, shares, np.nan)


def log_best(sizes: Sequence[int], table: np.ndarray) -> float:
    """log B_opt of scores (B, members): the middle of the plateau within one standard error."""
    mean = table.mean(axis=1)
    top = int(np.nanargmax(mean))
    error = table[top].std(ddof=1) / np.sqrt(table.shape[1])
    kept = np.log(np.array(sizes))[mean >= mean[top] - error]
    return float((kept.min() + kept.max()) / 2)


class Exponent(NamedTuple):
    """Slope of log B_opt, its error, its 95 % interval; whether every B_opt is inside the range."""

    value: float
    error: float
    low: float
    high: float
    inside: bool

    @property
    def says(self) -> str:
        """On proportionality: the interval holds 1 and not 0, or not 1, or both."""
        if not self.inside:
            return "undecided (an optimum at the edge of the range)"
        if not self.low <= 1 <= self.high:
            return "rejected"
        return "undecided" if self.low <= 0 else "supported"


def exponent(
    sizes: Sequence[int], scales: Sequence[float], tables: Sequence[np.ndarray], resamples: int
) -> Exponent:
    """Of curves (B, members) at several scales, by a bootstrap over the members of each."""
    rng, x = np.random.default_rng(0), np.log(np.asarray(scales))

    def slope(tables) -> float:
        return float(np.polyfit(x, [log_best(sizes, t) for t in tables], 1)[0])

    value = slope(tables)
    again = [
        slope([t[:, rng.integers(t.shape[1], size=t.shape[1])] for t in tables])
        for _ in range(resamples)
    ]
    # A bootstrap knows the members, not the coarseness of the batch sizes tried: each log B_opt
    # may be off by half their spacing, as a uniform error or, for the interval, at worst.
    spacing, arm = np.diff(np.log(sizes)).mean(), x - x.mean()
    coarse = spacing / np.sqrt(12 * (arm**2).sum())
    worst = spacing / 2 * np.abs(arm).sum() / (arm**2).sum()
    low, high = np.quantile(again, [0.025, 0.975])
    return Exponent(
        value,
        float(np.hypot(np.std(again), coarse)),
        float(min(low, value) - worst),
        float(max(high, value) + worst),
        all(_inside(table) for table in tables),
    )


def _inside(table: np.ndarray) -> bool:
    mean = table.mean(axis=1)
    return 0 < int(np.nanargmax(mean)) < int(np.isfinite(mean).sum()) - 1
