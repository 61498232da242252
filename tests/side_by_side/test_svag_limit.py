"""SVAG(l), extrapolated in 1/l, at the SDE's exact moments."""

import itertools

import closed_forms
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.side_by_side.svag import weights

ETA, STEPS = 0.2, 6
INPUTS = normal(5, 4, 2)
TARGETS = INPUTS[:, 0] + normal(6, 4)
START = np.array([3.0, 1.0])


def losses(second):
    """E L from the second moments of (θ, 1)."""
    rows = np.column_stack([INPUTS, -TARGETS])
    return 0.5 * np.einsum("ni,ij,nj->", rows, second, rows) / len(rows)


def by_enumeration(steps):
    """E L of SVAG(l) with batches of one example: every pair of examples, by hand.

    z = (θ, 1) moves as z ← T_ij z, T_ij = I − (η/l)(w₁ A_i + w₂ A_j), w = (1 ± √(2l − 1))/2, with
    A_i z = (x_i (x_i·θ − y_i), 0), and E zzᵀ ← mean over i, j of T_ij E zzᵀ T_ijᵀ.
    """
    examples = []
    for x, y in zip(INPUTS, TARGETS, strict=True):
        part = np.zeros((3, 3))
        part[:2] = np.outer(x, np.append(x, -y))
        examples.append(part)
    spread = np.sqrt(2 * steps - 1)
    moves = [
        np.eye(3) - ETA / steps * (0.5 * (1 + spread) * a + 0.5 * (1 - spread) * b)
        for a, b in itertools.product(examples, repeat=2)
    ]
    second = np.outer(np.append(START, 1), np.append(START, 1))
    for _ in range(STEPS * steps):
        second = np.mean([t @ second @ t.T for t in moves], axis=0)
    return losses(second)


def of_the_equation(step):
    """E L of Euler's scheme of the SDE at a solver step; of the SDE itself at 0."""
    exact = closed_forms.transient(
        INPUTS, TARGETS, learning_rate=ETA, noise_factor=1.0, time_step=step,
        times=[STEPS * ETA], theta0=START,
    )  # fmt: skip
    mean = np.append(exact.mean[0], 1)
    second = np.outer(mean, mean)
    second[:2, :2] += exact.covariance[0]
    return losses(second)


def test_svag_has_the_second_moments_of_eulers_scheme():
    """E L over all pairs of batches equals that of Euler at h = η/l, l = 1, 2, 4."""
    for steps in (1, 2, 4):
        np.testing.assert_allclose(by_enumeration(steps), of_the_equation(ETA / steps), rtol=1e-10)


def test_the_extrapolation_goes_to_the_equation_and_plain_svag_does_not():
    """Errors a/l of SVAG(4), O(1/l²) of (2, 4), O(1/l³) of (2, 4, 8) against the exact E L."""
    exact = of_the_equation(0.0)

    def error(*levels):
        return abs(weights(levels) @ [by_enumeration(level) for level in levels] - exact)

    assert error(4) > 0.01 * exact
    assert error(2, 4) < error(4) / 50
    # A quarter and an eighth where l is doubled, up to terms of relative order 1/l.
    assert 3.5 < error(2, 4) / error(4, 8) < 5.5
    assert 6 < error(2, 4, 8) / error(4, 8, 16) < 11


def test_weights_of_the_extrapolation():
    """(l, 2l): −1 and 2; (l, 2l, 4l): 1/3, −2, 8/3; any polynomial in 1/l is met at 0."""
    np.testing.assert_allclose(weights((3, 6)), [-1, 2], rtol=1e-12)
    np.testing.assert_allclose(weights((2, 4, 8)), [1 / 3, -2, 8 / 3], rtol=1e-12)
    inverse = 1 / np.array([1.0, 3.0, 5.0])
    assert weights((1, 3, 5)) @ (7 - 2 * inverse + 4 * inverse**2) == pytest.approx(7)


def test_svag_limit_measures_what_the_equation_has():
    """On ½θ² with noise of variance 1, after many steps, E L = η/(2(2 − η/l)): η/4 as l → ∞.

    The extrapolated mean agrees with η/4 up to its own remainder, plain SVAG(2) and SVAG(4) do
    not, and SGD, at η/(2(2 − η)), disagrees with the limit.
    """
    rate, sampling = 0.8, ss.WithReplacement(1)
    landscape = ss.quadratic(1.0, 1.0)
    found = ss.svag_limit(
        ss.SGD(landscape, rate, sampling), jnp.zeros(1), num_steps=20, ensemble_size=8000,
        key=jr.key(0), snapshots=1,
    )  # fmt: skip
    exact = {f"SVAG({m})": rate / (2 * (2 - rate / m)) for m in (2, 4)}
    means = {label: rows[-1] for label, rows in found.means["loss"].items()}
    for label, value in exact.items():
        assert ss.compare(means[label], value).verdict == "agrees"
        assert ss.compare(means[label], rate / 4).verdict == "disagrees"
    remainder = abs(2 * exact["SVAG(4)"] - exact["SVAG(2)"] - rate / 4)
    limit = found.limits["loss"][-1]
    assert ss.compare(limit, rate / 4, bias=remainder).verdict != "disagrees"
    np.testing.assert_allclose(limit.value, 2 * means["SVAG(4)"].value - means["SVAG(2)"].value)
    np.testing.assert_allclose(
        limit.standard_error,
        np.hypot(2 * means["SVAG(4)"].standard_error, means["SVAG(2)"].standard_error),
    )
    (row,) = found.comparisons
    assert row.verdict == "disagrees" and row.bias > remainder
    # What the last l removed: (2 m₄ − m₂) − (2 m₄ − m₂ without m₂ = m₄) = m₄ − m₂.
    two, four = means["SVAG(2)"], means["SVAG(4)"]
    spread = np.hypot(two.standard_error, four.standard_error)
    assert row.bias == pytest.approx(abs(float(four.value - two.value)) + 2 * float(spread))
    assert f"a difference of {float(row.smallest_visible):.2g} would have been seen" in found.table
    # Independent ensembles: 4.5 standard errors of a correlation.
    ends = np.stack([run.positions[:, 0] for run in found.runs.values()])
    correlations = np.corrcoef(ends)[np.triu_indices(len(ends), 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(8000)
    assert "SVAG(2, 4) extrapolated, not the SDE" in row.process and row.process in found.table
    # 2lB gradients an iteration: 4 and 8, twelve times SGD.
    assert found.gradients["SVAG(4)"] == 8 and "(12 times SGD)" in found.table
    data = found.to_xarray()
    assert data["loss_extrapolated"].dims == ("k",) and data["loss_mean"].dims == ("run", "k")


def test_svag_limit_refuses_what_svag_does_not_describe():
    """Momentum, an optimiser, one level, and levels out of order: four refusals."""
    landscape, sampling = ss.quadratic(1.0, 1.0), ss.WithReplacement(1)

    def attempt(sgd, **options):
        ss.svag_limit(sgd, jnp.zeros(1), num_steps=2, ensemble_size=8, key=jr.key(0), **options)

    with pytest.raises(ValueError, match="without momentum"):
        attempt(ss.SGD(landscape, 0.1, sampling, momentum=0.5))
    plain = ss.SGD(landscape, 0.1, sampling)
    for levels in ((2,), (4, 2)):
        with pytest.raises(ValueError, match="two or more increasing l"):
            attempt(plain, levels=levels)


def test_svag_limit_stops_as_one():
    """Without a second left no run begins: no verdict, and one warning that says why."""
    sgd = ss.SGD(ss.quadratic(1.0, 1.0), 0.1, ss.WithReplacement(1))
    with pytest.warns(UserWarning, match="svag_limit stopped: the budget of 1e-09 s is used up"):
        found = ss.svag_limit(
            sgd, jnp.zeros(1), num_steps=2, ensemble_size=8, key=jr.key(0), budget=1e-9
        )
    assert not found.complete and found.runs == {} and found.comparisons == []
