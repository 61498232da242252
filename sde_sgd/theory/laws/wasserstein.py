"""The Wasserstein-2 distance of two laws, where it can be had exactly."""

from typing import Any

import numpy as np

from sde_sgd.theory.laws.gaussian import Gaussian
from sde_sgd.theory.quantiles import normal_levels, quantile_function

_REACH, _NODES = 6.0, 2001


def wasserstein2(first: Any, second: Any) -> float:
    """W₂ of two laws: Gaussians in any dimension, or laws on the line.

        W₂² = |m − m'|² + tr[M + M' − 2 (M^{1/2} M' M^{1/2})^{1/2}] ,     Gaussians (Bures)
        W₂² = ∫₀¹ (Q(u) − Q'(u))² du ,                                   on the line

    **Arguments:** `first`, `second`: two `Gaussian(mean, covariance)`, singular covariances
    included; or two laws on the line: of `ss.theory`, distributions of scipy, or cdfs as functions
    of an array. There the levels beyond Φ(±6), 2e-9 of the mass, are left out.

    **Raises:** `ValueError` for anything else, and for different dimensions.

    **Source:** Dowson and Landau 1982 (Gaussians); Villani 2003, theorem 2.18 (the line).
    """
    if isinstance(first, Gaussian) and isinstance(second, Gaussian):
        return _gaussians(first, second)
    quantiles = [
        quantile_function(law, name) for law, name in ((first, "first"), (second, "second"))
    ]
    levels, weights = normal_levels(_NODES, _REACH)
    one, two = (np.asarray(quantile(levels)) for quantile in quantiles)
    return float(np.sqrt(weights @ (one - two) ** 2))


def _gaussians(first: Gaussian, second: Gaussian) -> float:
    size, other = len(first.mean), len(second.mean)
    if other != size:
        raise ValueError(f"the Gaussians have {size} and {other} dimensions.")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second.covariance @ root)
    bures = (
        np.trace(first.covariance + second.covariance) - 2 * np.sqrt(np.clip(inner, 0, None)).sum()
    )
    return float(np.sqrt(np.sum((first.mean - second.mean) ** 2) + max(float(bures), 0.0)))
