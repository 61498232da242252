"""The Wasserstein-2 distance of two laws, where it can be had exactly."""

from typing import Any

import numpy as np

from sde_sgd.theory import _arguments
from sde_sgd.theory.quantiles import normal_levels, quantile_function
from sde_sgd.theory.stationary.posterior import Gaussian

_REACH, _NODES = 6.0, 2001


def wasserstein2(first: Any, second: Any) -> float:
    """W₂ of two laws: Gaussians in any dimension, or laws on the line with a `quantile`.

        W₂² = |m − m'|² + tr[M + M' − 2 (M^{1/2} M' M^{1/2})^{1/2}] ,     Gaussians (Bures)
        W₂² = ∫₀¹ (Q(u) − Q'(u))² du ,                                   on the line

    **Arguments:** `first`, `second`: two `Gaussian(mean, covariance)`, singular covariances
    included; or two laws with a method `quantile` (`GridDensity`, `ScalarLaw`) or `ppf` (scipy's).
    On the line the levels beyond Φ(±6), 2e-9 of the mass, are left out.

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
    means = [_arguments.array("mean", law.mean, 1) for law in (first, second)]
    size = len(means[0])
    if means[1].shape != means[0].shape:
        raise ValueError(f"the Gaussians have {size} and {len(means[1])} dimensions.")
    spreads = [_arguments.covariance("covariance", law.covariance, size) for law in (first, second)]
    values, vectors = np.linalg.eigh(spreads[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ spreads[1] @ root)
    bures = np.trace(spreads[0] + spreads[1]) - 2 * np.sqrt(np.clip(inner, 0, None)).sum()
    return float(np.sqrt(np.sum((means[0] - means[1]) ** 2) + max(float(bures), 0.0)))
