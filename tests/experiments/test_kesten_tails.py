"""Exact tails of heavy_tails_kesten: one step against adaptive quadrature, and the cells' error."""

import numpy as np
import pytest
from scipy import integrate, stats

from experiments import _tails


def below(w, edge, rate, batch):
    """P(w′ < e | w), w′ = w − κ r² w + κ r ξ, over r = χ_B: Φ changes where (1 − κ r²) w = e."""
    kappa = rate / batch

    def integrand(r):
        chance = stats.norm.cdf((edge - (1 - kappa * r**2) * w) / (kappa * r))
        return stats.chi.pdf(r, batch) * chance

    turn = np.sqrt(max(1 - edge / w, 0) / kappa)
    ends = np.unique([1e-12, min(turn, 11.0), *(turn + np.array([-1, 1]) / w).clip(1e-12, 11), 11])
    pieces = (
        integrate.quad(integrand, *piece, epsabs=1e-11, limit=400)[0]
        for piece in zip(ends[:-1], ends[1:], strict=True)
    )
    return sum(pieces)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("w", [0.05, 0.7, 3.0, 30.0])
def test_one_step(w, batch):
    """At w < 4 to 1e-6 (B = 1: 1e-5), though the edge is near w; beyond, to 3e-4 there."""
    edges = np.array([-w, 0.3 * w, 0.98 * w, 1.03 * w, 2 * w])
    found = _tails._below_sgd(w, edges, 1.0, batch)
    exact = [below(w, edge, 1.0, batch) for edge in edges]
    tolerance = (1e-5 if batch == 1 else 1e-6) if w < _tails.SMALL else 3e-4
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance)


def test_averaging_over_the_normal_number_is_worse_at_small_weights(monkeypatch):
    """Control: what is used at large w misses the tolerance by far where its kink is near."""
    edges = np.array([0.98 * 0.7, 1.03 * 0.7])
    exact = np.array([below(0.7, edge, 1.0, 4) for edge in edges])
    monkeypatch.setattr(_tails, "SMALL", 0.0)
    assert np.abs(_tails._below_sgd(0.7, edges, 1.0, 4) - exact).max() > 1e-5


def test_cells():
    """P(|w| > 1)/P(|w| > .5) at B = 4 does not depend on the cells: their error is extrapolated."""
    coarse, fine = (_tails.ratios((0.5,), 1.0, 4, cells=n)[0] for n in (40, 70))
    assert coarse == pytest.approx(fine, rel=2e-4)
