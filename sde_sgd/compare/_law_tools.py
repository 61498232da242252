"""Distribution functions, their quantiles, cells and the mean deviation of counts."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy
from jaxtyping import Array

from sde_sgd._checks import as_float64, check_list
from sde_sgd.measure.histogram import check_edges

# A cdf, an object that has one, or an array of cell masses.
Distribution: TypeAlias = Any
_GROUPS = 4096


def cdf_of(predicted: Distribution) -> Callable[[np.ndarray], np.ndarray]:
    """The predicted cdf on arrays, checked on every call."""
    function = getattr(predicted, "cdf", predicted)
    if not callable(function):
        raise ValueError(
            f"A law in one dimension is predicted by an object with a cdf, or by the cdf as a "
            f"function; got {type(predicted).__name__}."
        )

    def cdf(points) -> np.ndarray:
        points = np.asarray(points, dtype=float)
        heights = as_float64("cdf(x)", function(points))
        if heights.shape != points.shape:
            raise ValueError(
                f"The predicted cdf must work on arrays: of {points.shape} it gives "
                f"{heights.shape}. Wrap it in numpy.vectorize."
            )
        if not ((heights >= -1e-9) & (heights <= 1 + 1e-9)).all():
            bad = points[~((heights >= -1e-9) & (heights <= 1 + 1e-9))][0]
            raise ValueError(f"The predicted cdf leaves [0, 1] or is NaN at {bad}.")
        return np.clip(heights, 0, 1)

    return cdf


def quantiles(cdf: Callable, levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """x with F(x) = level, by bisection from the range of `values` outwards."""
    low, high = float(values[0]), float(values[-1])
    span = max(high - low, 1e-12 * max(abs(low), abs(high)), 1e-300)
    low, high = low - span, high + span
    for _ in range(60):
        if cdf(np.array([low]))[0] <= levels[0]:
            break
        low -= 2 * (high - low)
    for _ in range(60):
        if cdf(np.array([high]))[0] >= levels[-1]:
            break
        high += 2 * (high - low)
    ends = cdf(np.array([low, high]))
    if ends[0] > max(levels[0], 1e-3) or ends[1] < min(levels[-1], 1 - 1e-3):
        raise ValueError(
            f"The predicted cdf must run from 0 to 1: it is {ends[0]:.4g} at {low:.4g} and "
            f"{ends[1]:.4g} at {high:.4g}."
        )
    left, right = np.full(levels.shape, low), np.full(levels.shape, high)
    for _ in range(64):
        middle = 0.5 * (left + right)
        below = cdf(middle) < levels
        left, right = np.where(below, middle, left), np.where(below, right, middle)
    return 0.5 * (left + right)


def _is_gridded(predicted: Distribution) -> bool:
    """Whether it is a density on a grid, such as `ss.theory.laws.GridDensity`."""
    return callable(getattr(predicted, "cell_masses", None))


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
    """Counts, (cells,): below, bins, above; of pairs the cells, flat, and outside."""
    checked = [
        line_edges(e, rows.shape[1]) for e in check_list("edges", edges, "(x_edges, y_edges)")
    ]
    if len(checked) != rows.shape[1]:
        raise ValueError(f"{rows.shape[1]} coordinates need as many arrays of edges.")
    places = [
        np.searchsorted(e, column, side="right") for e, column in zip(checked, rows.T, strict=True)
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
