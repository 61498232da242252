"""Cells of samples and of laws, and the mean deviation of counts."""

from typing import Any, TypeAlias

import numpy as np
import scipy
from jaxtyping import Array

from sde_sgd._checks import as_float64, check_list
from sde_sgd.measure.histogram import check_edges

# A law of theory or of scipy, a cdf, or an array of cell masses.
Distribution: TypeAlias = Any
_GROUPS = 4096


def _is_gridded(predicted: Distribution) -> bool:
    # The laws come in with the first question to them, and not with the package.
    from sde_sgd.theory.laws.grid_density import GridDensity

    return isinstance(predicted, GridDensity)


def own_edges(predicted: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """The cells of a density on a grid of two dimensions."""
    if not _is_gridded(predicted) or predicted.grid.dimension != 2:
        raise ValueError("Pairs need edges=(x_edges, y_edges), the cells of the predicted masses.")
    return predicted.grid.edges(0), predicted.grid.edges(1)


def cell_masses(predicted: Distribution, edges: Any) -> np.ndarray:
    """Predicted masses of the cells of a pair of edges, flat, the outside last."""
    edges = check_list("edges", edges, "(x_edges, y_edges)")
    if len(edges) != 2:
        raise ValueError(f"Two coordinates need edges=(x_edges, y_edges); got {len(edges)} arrays.")
    shape = tuple(np.size(e) - 1 for e in edges)
    if _is_gridded(predicted):
        masses = np.maximum(predicted.cell_masses(edges), 0.0)
    else:
        array = isinstance(predicted, np.ndarray | Array | list | tuple)
        masses = as_float64("predicted", predicted) if array else np.zeros(())
    if masses.shape != shape:
        raise ValueError(
            f"In two dimensions the prediction is an array of cell masses of shape {shape}, or a "
            f"GridDensity; got {masses.shape or type(predicted).__name__}."
        )
    total = masses.sum()
    if not np.isfinite(masses).all() or (masses < 0).any() or total > 1 + 1e-9:
        raise ValueError(
            f"Cell masses must be ≥ 0 and add up to at most 1; their sum is {total:.12g} and the "
            f"smallest {masses.min():.3g}."
        )
    return np.append(masses.ravel(), max(0.0, 1 - total))


def bin_sample(rows: np.ndarray, edges: Any) -> np.ndarray:
    """Counts, (cells,): below, bins, above; of pairs the cells, flat, and outside.

    Cells are (a, b], as a cdf counts: an atom may lie on an edge.
    """
    checked = [
        line_edges(e, rows.shape[1]) for e in check_list("edges", edges, "(x_edges, y_edges)")
    ]
    if len(checked) != rows.shape[1]:
        raise ValueError(f"{rows.shape[1]} coordinates need as many arrays of edges.")
    places = [
        np.searchsorted(e, column, side="left") for e, column in zip(checked, rows.T, strict=True)
    ]
    if len(places) == 1:
        return np.bincount(places[0], minlength=len(checked[0]) + 1)
    shape = tuple(len(e) + 1 for e in checked)
    flat = np.ravel_multi_index(places, shape)
    table = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
    inside = table[1:-1, 1:-1]
    return np.append(inside.ravel(), len(rows) - inside.sum())


def line_edges(edges: Any, dimension: int) -> np.ndarray:
    """The edges of one axis, checked; `dimension` counts the axes."""
    array = as_float64("edges", edges)
    # A single edge makes two cells, below and above.
    if dimension == 1 and array.shape == (1,) and np.isfinite(array).all():
        return array
    return check_edges("compare_law", edges)


def groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values in at most 4096 groups of equal size: last value and size of each."""
    num = len(values)
    stops = np.unique(np.linspace(0, num, min(num, _GROUPS) + 1).round().astype(int))[1:]
    return values[stops - 1], np.diff(stops, prepend=0)


def binomial_deviation(num: int, probability: np.ndarray) -> np.ndarray:
    """E|X − np| of a binomial X, de Moivre's 2k(1 − p) P(X = k), k = ⌊np⌋ + 1."""
    k = np.floor(num * probability) + 1
    return 2 * k * (1 - probability) * scipy.stats.binom.pmf(k, num, probability)
