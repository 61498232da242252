"""A sampled law against a predicted one, or against another sample: tests, distances, floors.

The distance of a sample from the law that it was drawn from is not zero: total variation on m
cells is about .4 √(m/n). That *sampling floor* stands beside every distance here, exact for
independent members, and the verdict asks whether the distance exceeds it.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd._checks import as_float64, check_choice, check_number, check_text, check_whole
from sde_sgd.compare._exact_tail import p_value, relabelled_cells
from sde_sgd.compare._law_distances import (
    LawDistance,
    NUM_NULL,
    variation_from,
    wasserstein_between,
    wasserstein_from,
)
from sde_sgd.compare._law_tools import (
    bin_sample,
    cell_masses,
    Distribution,
    line_edges,
    own_edges,
)
from sde_sgd.compare._resample import as_ensemble, generators, Key, MOST_RESAMPLES
from sde_sgd.compare._text import number, text_table, with_error
from sde_sgd.compare.verdict import compare, Comparison, Verdict, VERDICTS
from sde_sgd.estimate import Estimate
from sde_sgd.measure.histogram import HistogramResult, JointHistogramResult
from sde_sgd.theory.quantiles import cdf_function, inverse

_DEFAULT_BINS, _LEAST_IN_BIN = 50, 10


class LawComparison(eqx.Module):
    """Outcome of `compare_law` and `compare_laws`; `str` of it is a table.

    **Fields:**

    - `rows`: the `Comparison`s that decide, "KS" (one dimension) and "TV", or bin by bin for a
      histogram; ready for `verdict_table`.
    - `total_variation`: `LawDistance`, ½ Σ_cells |p̂ − p|; `wasserstein`: the same of W₁ (one
      dimension, samples), or None. Neither depends on a threshold.
    - `p_values`: of the rows; NaN for a histogram.
    - `num_samples`: independent members (the smaller number, of two).
    - `verdict`: the most severe of the rows.
    """

    rows: tuple[Comparison, ...]
    total_variation: LawDistance
    wasserstein: LawDistance | None
    p_values: Float[np.ndarray, " rows"]
    num_samples: int

    @property
    def verdict(self) -> Verdict:
        """ "agrees", "inconclusive" or "disagrees"."""
        return VERDICTS[max(VERDICTS.index(row.verdict) for row in self.rows)]

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the expected one."""
        return self.verdict == {"agree": "agrees", "deviate": "disagrees"}[self.rows[0].expected]

    def __str__(self) -> str:
        lines = [
            [
                row.name,
                number(float(np.max(row.measured))),
                number(float(np.max(row.predicted))),
                number(float(p)),
                row.verdict,
            ]
            for row, p in zip(self.rows, self.p_values, strict=True)
        ]
        for distance in (self.total_variation, self.wasserstein):
            if distance is not None:
                measured = distance.measured
                lines.append(
                    [
                        distance.name,
                        with_error(float(measured.value), float(measured.standard_error)),
                        with_error(distance.floor, distance.floor_spread),
                        "",
                        "",
                    ]
                )
        return text_table(("of the law", "measured", "sampling floor", "p", "verdict"), lines)


def compare_law(
    sample: Any,
    predicted: Distribution,
    *,
    key: Key,
    edges: Any = None,
    resolution: float | None = None,
    num_bootstrap: int = 200,
    failure_rate: float = 2e-5,
    name: str = "",
    process: str = "",
    expected: str = "agree",
) -> LawComparison:
    """Compare independent members, or a measured histogram, with a predicted law.

    Members in one dimension: the Kolmogorov–Smirnov test, whose p-value is exact for
    independent members of a continuous law (conservative with atoms), and total variation
    on cells, whose null law is resampled from the predicted masses: p = (1 + #)/(1 + 1000), # of
    1000 draws being as far away; if none is, by more draws, as many as the `failure_rate` needs, or
    by Chernoff's bound with the exact E e^{λT} of that law. P(p ≤ a) ≤ a at every a and for cells
    of any mass: each fails a right prediction at half the `failure_rate` at most. In two dimensions
    total variation decides alone. W₁ = ∫|F̂ − F| dx is reported beside.

    A `Histogram` result, whose counts are correlated in time, is compared bin by bin with
    `compare` (errors over members; bins of predicted mass below 10/members are left out); its
    floor is ½√(2/π) Σ_bins standard error.

    Members at one instant of an ensemble are independent; those of several instants
    are not: give one instant, or the histogram.

    With `resolution` r a law *agrees* only if the sample shows its distance to be ≤ r at the
    failure rate a: sup|F̂ − F| + √(ln(2/a)/2n), the bound of Dvoretzky, Kiefer, Wolfowitz, Massart,
    and total variation + √(ln(1/a)/2n), McDiarmid's (a member moves it by 1/n at most, and its mean
    is above the true one); otherwise it is *inconclusive* or, beyond the threshold, *disagrees*.

    **Arguments:**

    - `sample`: (n,) or (n, 1) members; (n, 2) pairs; or the result of a `Histogram`.
    - `predicted`: in one dimension a law of `ss.theory` or of `scipy.stats`, or its cdf as a
      function of an array. In two, cell masses (rows, columns) on
      `edges`, or a `GridDensity` some of whose edges they are; what they lack of 1 lies outside.
    - `key`: a JAX key for resampling.
    - `edges`: (bins+1,) for total variation in one dimension (by default up to 50 cells of equal
      predicted mass, ≥ 10 members each); a pair (x_edges, y_edges) in two (those of
      a `GridDensity` by default). Of a histogram: its own.
    - `num_bootstrap`: resamples of the members, for the errors of the distances.

    **Raises:** `ValueError` for other shapes, NaN, fewer than 20 members, a cdf that falls, leaves
    [0, 1] or does not run from 0 to 1, masses that are negative or exceed 1 in sum.

    **Source:** floors: de Moivre's mean deviation of the binomial law, cell by cell. Massart, Ann.
    Probab. 18 (1990) 1269; McDiarmid, Surveys in Combinatorics (1989) 148.
    """
    num_bootstrap = check_whole("num_bootstrap", num_bootstrap, 2, MOST_RESAMPLES)
    name, failure_rate, options = _options(name, process, expected, failure_rate)
    if resolution is not None:
        resolution = check_number("resolution", resolution, above=0)
    if isinstance(sample, HistogramResult | JointHistogramResult):
        masses = _histogram_masses(sample, predicted)
        return _binned(sample, masses, resolution, failure_rate, name, options)
    rows = _members(sample)
    num = len(rows)
    rng = generators(key, 1)[0]
    if rows.shape[1] == 2:
        if edges is None:
            edges = own_edges(predicted)
        masses = cell_masses(predicted, edges)
        counts = bin_sample(rows, edges)
        variation, tv_p = variation_from(counts, masses, rng, num_bootstrap, failure_rate)
        row = _row(variation, tv_p, failure_rate, resolution, num, name, options)
        return LawComparison((row,), variation, None, np.array([tv_p]), num)

    cdf, values = cdf_function(predicted, "predicted"), np.sort(rows[:, 0])
    if edges is None:
        bins = max(2, min(_DEFAULT_BINS, num // _LEAST_IN_BIN))
        inner = inverse(cdf, np.arange(1, bins) / bins, values[0], values[-1])
        edges = np.unique(inner)
    edges = line_edges(edges, 1)
    heights = np.concatenate([[0.0], cdf(edges), [1.0]])
    masses = np.diff(heights)
    if (masses < 0).any():
        raise ValueError("The predicted cdf falls somewhere between the edges: it must increase.")
    each = -np.expm1(np.log1p(-failure_rate) / 2)
    counts = bin_sample(rows, (edges,))
    variation, tv_p = variation_from(counts, masses, rng, num_bootstrap, each)
    farthest = _farthest(values, cdf)
    ks_p = float(scipy.stats.kstwo.sf(farthest, num))
    floor, spread = 0.868731 / np.sqrt(num), 0.260324 / np.sqrt(num)
    measured = Estimate(np.asarray(farthest), np.asarray(spread), num)
    smirnov = LawDistance("KS", measured, floor, spread)
    rows_out = (
        _row(smirnov, ks_p, each, resolution, num, name, options),
        _row(variation, tv_p, each, resolution, num, name, options),
    )
    wasserstein = wasserstein_from(values, cdf, rng, num_bootstrap)
    p_values = np.array([ks_p, tv_p])
    return LawComparison(rows_out, variation, wasserstein, p_values, num)


def compare_laws(
    x: Any,
    y: Any,
    *,
    key: Key,
    edges: Any = None,
    num_bootstrap: int = 200,
    failure_rate: float = 2e-5,
    name: str = "",
    process: str = "",
    expected: str = "agree",
) -> LawComparison:
    """Compare two independent samples of independent members, (n,) or (n, 2) each.

    As `compare_law`: the two-sample Kolmogorov–Smirnov test, and total variation on cells of
    equal pooled numbers (or `edges`), whose floor and null law come from relabelling the pooled
    members. In more dimensions use `distances.permutation_test`.

    **Raises:** `ValueError` as `compare_law`, and for samples of different dimension.
    """
    num_bootstrap = check_whole("num_bootstrap", num_bootstrap, 2, MOST_RESAMPLES)
    first, second = _members(x, "x"), _members(y, "y")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x has shape {first.shape} and y {second.shape}: map both to one space.")
    name, failure_rate, options = _options(name, process, expected, failure_rate)
    rng = generators(key, 1)[0]
    sizes, pooled = (len(first), len(second)), np.concatenate([first, second])
    num = min(sizes)
    if edges is None:
        bins = max(2, min(_DEFAULT_BINS, num // _LEAST_IN_BIN))
        per_axis = bins if first.shape[1] == 1 else max(2, int(np.sqrt(bins)))
        levels = np.arange(1, per_axis) / per_axis
        edges = tuple(np.unique(np.quantile(column, levels)) for column in pooled.T)
    elif first.shape[1] == 1:
        edges = (edges,)
    counts = [bin_sample(rows, edges) for rows in (first, second)]
    total = counts[0] + counts[1]

    def between(a, b):
        return 0.5 * np.abs(a / sizes[0] - b / sizes[1]).sum(axis=-1)

    def draw(count):
        relabelled = rng.multivariate_hypergeometric(total, sizes[0], size=count)
        return between(relabelled, total - relabelled)

    null = draw(NUM_NULL)
    draws = [
        rng.multinomial(size, c / size, size=num_bootstrap)
        for size, c in zip(sizes, counts, strict=True)
    ]
    error = between(*draws).std(ddof=1)
    measured = Estimate(np.asarray(between(*counts)), np.asarray(error), num)
    variation = LawDistance("TV", measured, float(null.mean()), float(null.std(ddof=1)))
    each = failure_rate if first.shape[1] == 2 else -np.expm1(np.log1p(-failure_rate) / 2)
    cells = functools.partial(relabelled_cells, total, sizes[0])
    tv_p = p_value(float(measured.value), null, draw, each, cells)
    if first.shape[1] == 2:
        row = _row(variation, tv_p, each, None, num, name, options)
        return LawComparison((row,), variation, None, np.array([tv_p]), num)
    test: Any = scipy.stats.ks_2samp(first[:, 0], second[:, 0])
    effective = sizes[0] * sizes[1] / sum(sizes)
    floor, spread = 0.868731 / np.sqrt(effective), 0.260324 / np.sqrt(effective)
    largest = Estimate(np.asarray(float(test.statistic)), np.asarray(spread), num)
    smirnov = LawDistance("KS", largest, floor, spread)
    rows = (
        _row(smirnov, float(test.pvalue), each, None, num, name, options),
        _row(variation, tv_p, each, None, num, name, options),
    )
    p_values = np.array([float(test.pvalue), tv_p])
    wasserstein = wasserstein_between(first[:, 0], second[:, 0], rng, num_bootstrap)
    return LawComparison(rows, variation, wasserstein, p_values, num)


def _farthest(values: np.ndarray, cdf: Callable) -> float:
    """sup |F̂ − F|, the limits from the left at atoms included (scipy's takes F alone there)."""
    points, counts = np.unique(values, return_counts=True)
    height = np.cumsum(counts) / len(values)
    left = height - counts / len(values) - cdf(np.nextafter(points, -np.inf))
    return float(max(np.abs(height - cdf(points)).max(), np.abs(left).max()))


def _options(
    name: Any, process: Any, expected: Any, failure_rate: Any
) -> tuple[str, float, dict[str, Any]]:
    """Name and failure rate, and what every row of a comparison of laws carries."""
    check_choice("expected", expected, ("agree", "deviate"))
    rate = check_number("failure_rate", failure_rate, above=0, below=1)
    return (
        check_text("name", name),
        rate,
        dict(process=check_text("process", process), expected=expected),
    )


def _members(sample: Any, name: str = "sample") -> np.ndarray:
    array = as_float64(name, sample)
    rows = as_ensemble(array[:, None] if array.ndim == 1 else array, name)
    if rows.shape[1] > 2:
        raise ValueError(
            f"{name} has shape {rows.shape}: laws are compared in one or two dimensions. Take a "
            f"projection, or distances.permutation_test for two samples."
        )
    if len(rows) < 20:
        raise ValueError(f"{name} has {len(rows)} members: a law needs 20 at least.")
    return rows


def _histogram_masses(sample: HistogramResult | JointHistogramResult, predicted: Any) -> np.ndarray:
    if isinstance(sample, JointHistogramResult):
        return cell_masses(predicted, sample.edges)
    heights = cdf_function(predicted, "predicted")(sample.edges)
    inside = np.diff(heights)
    if (inside < 0).any():
        raise ValueError("The predicted cdf falls somewhere between the edges: it must increase.")
    return np.append(inside, heights[0] + 1 - heights[-1])


def _binned(
    sample: HistogramResult | JointHistogramResult,
    masses: np.ndarray,
    resolution: float | None,
    failure_rate: float,
    name: str,
    options: dict[str, Any],
) -> LawComparison:
    inside = sample.probability
    num = inside.num_samples
    frequent = masses[:-1] >= _LEAST_IN_BIN / max(num, 1)
    if not frequent.any():
        raise ValueError(
            f"No bin has a predicted mass of {_LEAST_IN_BIN}/{num} members: use wider bins."
        )
    flat = Estimate(inside.value.ravel(), inside.standard_error.ravel(), num)
    row = compare(
        flat[frequent],
        masses[:-1][frequent],
        resolution=resolution,
        failure_rate=failure_rate,
        name=f"{name} bins".strip(),
        **options,
    )
    if isinstance(sample, HistogramResult):
        outside = sample.below.value + sample.above.value
        slack = np.hypot(sample.below.standard_error, sample.above.standard_error)
    else:
        outside, slack = sample.outside.value, sample.outside.standard_error
    errors = np.append(flat.standard_error, slack)
    value = 0.5 * np.abs(np.append(flat.value, outside) - masses).sum()
    # Bins as if independent: their means add up, and so do their variances.
    floor = 0.5 * np.sqrt(2 / np.pi) * errors.sum()
    spread = 0.5 * np.sqrt((1 - 2 / np.pi) * (errors**2).sum())
    measured = Estimate(np.asarray(value), np.asarray(0.5 * np.sqrt((errors**2).sum())), num)
    distance = LawDistance("TV", measured, float(floor), float(spread))
    return LawComparison((row,), distance, None, np.array([np.nan]), num)


def _row(
    distance: LawDistance,
    p_value: float,
    failure_rate: float,
    resolution: float | None,
    num: int,
    name: str,
    options: dict[str, Any],
) -> Comparison:
    """A `Comparison` of a distance with its floor; z is the normal score of the p-value."""
    value, seen = float(distance.measured.value), p_value < failure_rate
    severity, reason = (2 if seen else 0), ""
    if seen:
        reason = f"p = {p_value:.2g}"
    if resolution is not None:
        # Both bound the true distance from above with probability 1 − failure_rate.
        sides = 1 if distance.name == "TV" else 2
        slack = np.sqrt(np.log(sides / failure_rate) / (2 * num))
        if value + slack <= resolution:
            severity, reason = 0, ""
        elif not seen:
            severity = 1
            reason = f"the distance is below {value + slack:.3g} only; add members"
    return Comparison(
        name=f"{name} {distance.name}".strip(),
        predicted=np.asarray(distance.floor),
        measured=np.asarray(value),
        standard_error=np.asarray(distance.floor_spread),
        z=np.asarray(float(-scipy.special.ndtri(p_value))),
        severity=np.asarray(severity),
        threshold=float(-scipy.special.ndtri(failure_rate)),
        bias=np.zeros(()),
        verdict=VERDICTS[severity],
        reason=reason,
        **options,
    )
