"""What `print` shows of results: numbers, and never the names of dtypes."""

import sys

import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.measure.moments import MomentsResult


def test_moments_are_printed_with_their_numbers():
    """Each field on a line of its own; what is None, or says that nobody diverged, is left out."""
    mean = ss.Estimate(np.asarray(1.5), np.asarray(0.25), 40)
    told = repr(MomentsResult(mean, None, mean[None], 10))
    assert told.splitlines()[:2] == ["MomentsResult:", "  mean = 1.5 ± 0.25 (n=40)"]
    assert "num_iterations = 10" in told and "covariance" not in told and "diverged" not in told
    assert "num_diverged = 2" in repr(MomentsResult(mean, None, None, 10, num_diverged=2))
    assert "f64" not in told


def test_a_comparison_is_printed_as_a_sentence():
    """repr, which lists and notebooks show, is str."""
    found = ss.compare(ss.Estimate.from_samples(np.arange(100.0)), 49.5, name="x")
    assert repr(found) == f"Comparison({found})"
    assert "agrees" in repr(found) and "f64" not in repr(found)


def test_an_equation_is_printed_as_equations():
    """One line for b and for a."""
    x = np.random.default_rng(0).normal(size=(60, 40)) * 0.1
    walk = np.cumsum(x, axis=0)
    told = repr(
        ss.identify.sparse(
            walk, ss.identify.PolynomialBasis(1, 1), time_step=1.0, failure_rate=None
        )
    )
    assert told.startswith("FittedSDE at lag 1 ") and "b_x = " in told and "a_xx = " in told


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_greek_letters(encoding, tmp_path, monkeypatch):
    """What is printed is spelt out in the letters that there are, in columns as before."""
    row = ss.compare(
        ss.Estimate(np.asarray(1.0), np.asarray(0.1), 50), np.asarray(1.1), name="variance of θ"
    )
    with open(tmp_path / "out", "w", encoding=encoding, errors="strict") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print(row, ss.verdict_table([row]), ss.Estimate(np.asarray(1.0), np.asarray(0.1), 5))
    monkeypatch.undo()
    text = (tmp_path / "out").read_text(encoding)
    sign = {"ascii": "+-", "cp1252": "±"}[encoding]
    assert "variance of theta" in text and f"1 {sign} 0.1 (n=5)" in text and "?" not in text
    assert f"difference {sign} error" in text
