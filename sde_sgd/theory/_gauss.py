"""Panels with 16 Gauss–Legendre nodes: where they lie, and what values at them tell."""

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre

NUM_NODES = 16
NODES, WEIGHTS = legendre.leggauss(NUM_NODES)
_ORDERS = np.arange(NUM_NODES)
# Node values -> Legendre coefficients, and -> those of the integral from the left end.
TO_COEFFICIENTS = ((_ORDERS + 0.5) * legendre.legvander(NODES, NUM_NODES - 1) * WEIGHTS[:, None]).T
INTEGRAL_COEFFICIENTS = legendre.legint(TO_COEFFICIENTS, lbnd=-1, axis=0)
# Node values -> the integrals from the left end to each node, and from each node to the right end.
FROM_LEFT = legendre.legvander(NODES, NUM_NODES) @ INTEGRAL_COEFFICIENTS
FROM_RIGHT = WEIGHTS - FROM_LEFT


def places(
    edges: Float[np.ndarray, " edges"],
) -> tuple[Float[np.ndarray, "panels nodes"], Float[np.ndarray, "panels 1"]]:
    """The nodes of panels between edges, exact to rounding beside an edge at 0, and half widths."""
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (1 + NODES), half


def last_coefficients(values: Float[np.ndarray, "panels nodes"]) -> Float[np.ndarray, " panels"]:
    """The larger of the last two Legendre coefficients: rounding, if the panel is resolved."""
    return np.abs(values @ TO_COEFFICIENTS[-2:].T).max(axis=1)
