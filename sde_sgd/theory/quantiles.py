"""Quantiles of laws on the line, and the levels at which a transport integral takes them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd._checks import in_brief


def normal_levels(
    nodes: int, reach: float
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Levels u = Φ(z) of equal steps in z ∈ [−reach, reach], and weights of ∫ du that add up to 1.

    The trapezoid rule in z, of high order for smooth integrands as the weight ends in zeros.
    """
    z = np.linspace(-reach, reach, nodes)
    weights = np.exp(-(z**2) / 2)
    return scipy.special.ndtr(z), weights / weights.sum()


def quantile_function(law: Any, called: str = "law") -> Callable:
    """Q of a law on the line, from its method `quantile` or `ppf`."""
    for name in ("quantile", "ppf"):
        found = getattr(law, name, None)
        if callable(found) and not isinstance(law, type):
            return found
    raise ValueError(
        f"{called} must be a Gaussian, as the other law is, or a law on the line with a method "
        f"quantile or ppf; got {in_brief(law)}. For samples use ss.distances.wasserstein2."
    )
