"""Escape laws as published, with what they leave open as an argument; the cost of watching."""

import numpy as np

from sde_sgd._checks import check_number, check_whole
from sde_sgd.types import RealLike

# −ζ(1/2)/√(2π): the mean overshoot of a random walk with steps N(0, 1) over a far barrier.
_OVERSHOOT = 0.5825971579390107


def watched_barrier_shift(diffusion: RealLike, time_step: RealLike) -> float:
    """How much farther away a barrier is for a diffusion watched every h only: .5826 √(2Dh).

    A path can cross and return between two looks. To first order in √h, the time at which a step
    ends beyond b is the time at which the unwatched diffusion reaches b + .5826·(standard
    deviation of a step); D is taken at the barrier, .5826 = −ζ(½)/√(2π).

    **Arguments:** `diffusion` D > 0, `time_step` h > 0 in units of t.

    **Source:** Siegmund 1979; Broadie, Glasserman, Kou 1997, Mathematical Finance 7, 325.
    """
    d = check_number("diffusion", diffusion, above=0)
    h = check_number("time_step", time_step, above=0)
    return float(_OVERSHOOT * np.sqrt(2 * d * h))


def xie_escape_time(
    *,
    minimum_curvature: RealLike,
    saddle_curvature: RealLike,
    barrier: RealLike,
    learning_rate: RealLike,
    batch_size: RealLike,
    path_fraction: RealLike,
) -> float:
    """τ = (2π/|h_b|) exp[(2BΔL/η)(s/h_a + (1−s)/|h_b|)], in units of t = η·iterations.

    The published law for Σ ≈ |H|, D = η|H|/(2B). s stands for a point on the path that the
    derivation leaves open: the law predicts log τ linear in B/η, not its slope. The exact exponent
    for that noise, ∫ 2BV'/(η|V''|) dx, diverges at the inflexion, where the noise vanishes.

    **Arguments:**

    - `minimum_curvature`, `saddle_curvature`: h_a > 0 and h_b < 0, curvatures along the escape.
    - `barrier`: ΔL; `learning_rate`: η; `batch_size`: B.
    - `path_fraction`: s in (0, 1).

    **Raises:** `ValueError` for curvatures of the wrong sign and s outside (0, 1).

    **Source:** Xie, Sato, Sugiyama 2021 (2002.03495), theorem 3.2.
    """
    h_a = check_number("minimum_curvature", minimum_curvature, above=0)
    h_b = -check_number("saddle_curvature", saddle_curvature, below=0)
    height = check_number("barrier", barrier, above=0)
    eta = check_number("learning_rate", learning_rate, above=0)
    size = check_number("batch_size", batch_size, above=0)
    s = check_number("path_fraction", path_fraction, above=0, below=1)
    exponent = 2 * size * height / eta * (s / h_a + (1 - s) / h_b)
    return float(2 * np.pi / h_b * np.exp(exponent))


def mori_stationary_exponent(
    *, minimum_curvature: RealLike, learning_rate: RealLike, batch_size: RealLike
) -> float:
    """φ = 1 + B/(ηh*) of the stationary density ∝ L^{−φ} under Σ ≈ 2L H*.

    **Source:** Mori, Ziyin, Liu, Ueda 2022 (2105.09557).
    """
    h = check_number("minimum_curvature", minimum_curvature, above=0)
    eta = check_number("learning_rate", learning_rate, above=0)
    return 1 + check_number("batch_size", batch_size, above=0) / (eta * h)


def mori_escape_rate(
    *,
    minimum_curvature: RealLike,
    saddle_loss: RealLike,
    minimum_loss: RealLike,
    learning_rate: RealLike,
    batch_size: RealLike,
    dimension: int,
    prefactor: RealLike,
) -> float:
    """κ = A (L_s/L*)^{−(B/(ηh*) + 1 − n/2)}: a power of the loss ratio, per unit t = η·iterations.

    Holds where Σ = 2L H* and the outlier subspace of n directions shares the curvature h*. The
    prefactor A is left open by the proportionality; in one dimension, with D = ηLh*/B everywhere,
    Laplace's method gives the rate to the *other well* with A = √(h*|h_s|)/(2π).

    **Arguments:** `minimum_curvature` h*; `saddle_loss` L_s > `minimum_loss` L* > 0;
    `learning_rate` η; `batch_size` B; `dimension` n; `prefactor` A.

    **Raises:** `ValueError` for losses in the wrong order (a zero minimum is never left under
    this noise) and n < 1.

    **Source:** Mori, Ziyin, Liu, Ueda 2022 (2105.09557).
    """
    low = check_number("minimum_loss", minimum_loss, above=0)
    high = check_number("saddle_loss", saddle_loss, above=0)
    if high <= low:
        raise ValueError(f"saddle_loss={high:g} must exceed minimum_loss={low:g}.")
    check_whole("dimension", dimension, 1, 10**8)
    phi = mori_stationary_exponent(
        minimum_curvature=minimum_curvature, learning_rate=learning_rate, batch_size=batch_size
    )
    scale = check_number("prefactor", prefactor, above=0)
    return float(scale * np.exp(-(phi - dimension / 2) * np.log(high / low)))
