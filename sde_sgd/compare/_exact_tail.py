"""Tails of a total variation that no draw reaches: Chernoff's bound with the exact moments.

T = s Σ_j ½|k_j − c_j| of counts k_j in cells, whose law is that of independent counts given their
sum n: multinomial (Poisson counts given n), or of labels drawn without replacement.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

# A count within c ± (12σ + 60) has, by Bernstein's inequality, all but e⁻⁷² on either side.
_DEVIATIONS, _MORE, _BEYOND = 12.0, 60.0, np.exp(-72.0)
# A probability by Fourier transform is known to so much, relative to the whole.
_ROUNDING = 1e-13
_STEPS = 60
# Drawn counts that are worth their seconds; beyond them Chernoff's bound stands alone.
_MOST_COUNTS = 2e7


class Cells(NamedTuple):
    """Possible counts of every cell, one cell after the other.

    **Fields:** `count` k, `log_weight` of k and `gap` k − c, (entries,); `start` (cells,), where
    the counts of a cell begin; `total` n; `log_norm`, the logarithm of Σ ∏ weights over Σ k = n;
    `unit` s.
    """

    count: Int[np.ndarray, " entries"]
    log_weight: Float[np.ndarray, " entries"]
    gap: Float[np.ndarray, " entries"]
    start: Int[np.ndarray, " cells"]
    total: int
    log_norm: float
    unit: float


def multinomial_cells(num: int, masses: Float[np.ndarray, " cells"]) -> Cells:
    """`num` independent members in cells of such masses: T = ½ Σ |k_j/n − p_j|."""
    kept = masses[masses > 0]
    count, start, owner = _counts(num * kept, num * kept * (1 - kept), np.full(len(kept), num))
    log_weight = count * np.log(num * kept)[owner] - scipy.special.gammaln(count + 1)
    log_norm = float(num * np.log(num) - scipy.special.gammaln(num + 1))
    return Cells(count, log_weight, count - num * kept[owner], start, num, log_norm, 1 / num)


def relabelled_cells(total: Int[np.ndarray, " cells"], first: int) -> Cells:
    """`first` of the pooled members in cells: T = ½ Σ |a_j/n − (c_j − a_j)/m|, n = `first`."""
    kept = total[total > 0]
    whole = int(kept.sum())
    share = first / whole
    count, start, owner = _counts(kept * share, kept * share * (1 - share), kept)
    log_weight = _log_binomial(kept[owner], count)
    log_norm = float(_log_binomial(whole, first))
    unit = whole / (first * (whole - first))
    return Cells(count, log_weight, count - kept[owner] * share, start, first, log_norm, unit)


def p_value(
    value: float,
    null: Float[np.ndarray, " draws"],
    draw: Callable[[int], Float[np.ndarray, " more"]],
    failure_rate: float,
    cells: Callable[[], Cells],
) -> float:
    """A p with P(p ≤ a) ≤ a at every a: (1 + #)/(1 + draws), # of the draws `null` reach `value`.

    If none does, drawing goes on until the first that reaches it, the l-th, or until a p below the
    `failure_rate` is shown, and p is twice the smaller of 1/l and Chernoff's bound: each may be a
    right prediction's undoing at half the rate.
    """
    # A draw equal to the value may differ from it by rounding: it must count.
    least, count = value - 1e-12, len(null)
    reached = int(np.count_nonzero(null >= least))
    if reached:
        return (1 + reached) / (1 + count)
    first, possible = 1 / (1 + count), cells()
    bound = chernoff(least, possible)
    most = min(2 / failure_rate, _MOST_COUNTS / len(possible.start))
    while 2 * bound > failure_rate and count < most:
        found = np.flatnonzero(draw(count) >= least)
        if len(found):
            bound = min(bound, 1 / (count + 1 + int(found[0])))
            break
        count += count
        bound = min(bound, 1 / (1 + count))
    return min(first, 2 * bound)


def chernoff(value: float, cells: Cells) -> float:
    """P(T ≥ t) ≤ e^{−λt} E e^{λT}, at a λ near the best.

    It is larger than P itself by more the farther the tail: by 4 at P = 2e-6 and by 22 at 6e-11 for
    24 members in 3 cells.

    E e^{λT} is exact, ∏_j Z_j · P(Σ k = n)/norm with Z_j = Σ_k w_j(k) e^{λ|k−c_j|/2 + ζ(k−c_j)},
    and the probability that of independent counts with the weights under these sums, any ζ.
    """
    reach = value / cells.unit
    point = np.zeros(2)
    for _ in range(_STEPS):
        log_total, weight, slope, curvature = _tilted(point, reach, cells)
        step = -np.linalg.solve(curvature + 1e-9 * np.eye(2), slope)
        step *= min(1.0, 4 / np.abs(step).max())
        gain = -slope @ step
        if gain < 1e-6:
            break
        while _tilted(point + step, reach, cells)[0] > log_total - 0.1 * gain and gain > 1e-9:
            step, gain = step / 2, gain / 2
        point = point + step
    if point[0] <= 0:
        return 1.0
    log_total, weight, _, _ = _tilted(point, reach, cells)
    log_p = log_total + np.log(_chance_of_the_total(weight, cells)) - cells.log_norm
    return float(min(1.0, np.exp(log_p) + 2 * len(cells.start) * _BEYOND))


def _counts(centre, variance, most) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The counts of every cell within the window, where each cell begins, and whose they are."""
    width = _DEVIATIONS * np.sqrt(variance) + _MORE
    low = np.maximum(np.floor(centre - width), 0).astype(int)
    high = np.minimum(np.ceil(centre + width), most).astype(int)
    sizes = high - low + 1
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(sizes.sum()) - start[owner] + low[owner], start, owner


def _log_binomial(n, k):
    return (
        scipy.special.gammaln(n + 1)
        - scipy.special.gammaln(k + 1)
        - scipy.special.gammaln(n - k + 1)
    )


def _tilted(
    point: np.ndarray, reach: float, cells: Cells
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Σ_j log Z_j − λt at (λ, ζ), the tilted weights, and its first and second derivatives."""
    rows = np.stack([0.5 * np.abs(cells.gap), cells.gap])
    exponent = cells.log_weight + point @ rows
    sizes = np.diff(np.append(cells.start, len(exponent)))
    peak = np.maximum.reduceat(exponent, cells.start)
    weight = np.exp(exponent - np.repeat(peak, sizes))
    whole = np.add.reduceat(weight, cells.start)
    weight /= np.repeat(whole, sizes)
    mean = np.add.reduceat(weight * rows, cells.start, axis=1)
    second = (weight * rows) @ rows.T - mean @ mean.T
    log_total = float((np.log(whole) + peak).sum() - point[0] * reach)
    return log_total, weight, mean.sum(axis=1) - np.array([reach, 0.0]), second


def _chance_of_the_total(weight: np.ndarray, cells: Cells) -> float:
    """P(Σ_j k_j = n) of independent counts, from above: sums that differ by L count as one."""
    ends = np.append(cells.start[1:], len(weight))
    parts = [slice(a, b) for a, b in zip(cells.start, ends, strict=True)]
    means = np.add.reduceat(weight * cells.gap, cells.start)
    variance = max(float(weight @ cells.gap**2 - means @ means), 0.0)
    width = max(16 * np.sqrt(variance) + 64, (ends - cells.start).max())
    length = 1 << int(np.ceil(np.log2(width)))
    product = np.ones(length // 2 + 1, dtype=complex)
    for part in parts:
        product *= np.fft.rfft(weight[part], length)
    place = (cells.total - int(cells.count[cells.start].sum())) % length
    found = np.fft.irfft(product, length)[place]
    return float(min(max(found, 0.0) + _ROUNDING, 1.0))
