"""Estimators of the noise's law: their values by integration, their biases, real batches."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2, kstest, levy_stable, norm

import sde_sgd as ss
from sde_sgd.compare.verdict import sidak_threshold

RNG = np.random.default_rng(5)
LIMIT = sidak_threshold(1)


def near(estimate, exact):
    return np.abs(estimate.value - exact) < LIMIT * estimate.standard_error


@pytest.mark.parametrize("alpha", [0.8, 1.5, 2.0])
def test_block_index_of_stable_noise(alpha):
    """α̂ = α for α-stable samples made by another program, and not α ± .2."""
    x = levy_stable.rvs(alpha, 0, size=200_000, random_state=RNG)
    found = ss.measure.block_tail_index(x, 20)
    assert near(found, alpha) and found.num_samples == 10_000
    assert not near(found, alpha - 0.2) and not near(found, alpha + 0.2)


def test_block_index_of_unequal_variances():
    """Gaussian coordinates of variances v_j, in random order: 1/α̂ from log v summed exactly.

    Not 2, though nothing is heavy-tailed; about ½ + ½ log(v̄/ṽ)/log K.
    """
    dim, size, draws = 1600, 20, 400
    variances = np.exp(RNG.normal(size=dim) * 1.5)
    x = RNG.normal(size=(draws, dim)) * np.sqrt(variances)
    rows = [1 / ss.measure.block_tail_index(row, size).value for row in x]
    found = ss.Estimate.from_samples(np.array(rows))
    sums = variances.reshape(-1, size).sum(axis=1)
    exact = (np.log(sums).mean() - np.log(variances).mean()) / 2 / np.log(size)
    assert near(found, exact) and not near(found, 0.5)
    rough = 0.5 + 0.5 * (np.log(variances.mean()) - np.log(variances).mean()) / np.log(size)
    assert exact == pytest.approx(rough, rel=0.1)


@pytest.mark.parametrize("fraction", [0.1, 0.02])
def test_hill_reads_an_index_of_a_gaussian(fraction):
    """Pareto's α = 3 is found; a Gaussian reads 1/E[log(|x|/u) | |x| > u], finite and growing."""
    pareto = RNG.pareto(3.0, size=100_000) + 1
    assert near(ss.measure.hill_tail_index(pareto, fraction), 3.0)
    u = norm.isf(fraction / 2)
    excess = quad(lambda x: norm.pdf(x) * np.log(x / u), u, 30)[0] * 2 / fraction
    found = ss.measure.hill_tail_index(RNG.normal(size=100_000), fraction)
    assert found.value == pytest.approx(1 / excess, rel=0.1)


def test_hill_by_hand():
    """x = 2¹, …, 2⁸ and 2⁰: k = 8 logs above X₍₉₎ = 1 sum to 36 ln 2."""
    x = np.concatenate([2.0 ** np.arange(9), np.full(91, 0.5)])
    found = ss.measure.hill_tail_index(x, 0.08)
    assert found.value == pytest.approx(8 / (36 * np.log(2)), rel=1e-12)
    # ψ_i = (i ln 2 − 36 ln 2/8)/8: Σψ² = 42 (ln 2)²/64.
    error = found.value**2 * np.log(2) * np.sqrt(42 / 64 * 8 / 7)
    assert found.standard_error == pytest.approx(error, rel=1e-12) and found.num_samples == 8


def test_hills_index_of_a_gaussian_at_a_far_threshold():
    """1/E[log(x/u) | x > u] = u² + 3 − 8/u² + O(u⁻⁴): not u² + 2."""
    for u in (6.0, 9.0, 12.0):
        # x = u√(1 + 2s/u²) makes the tail an exponential one in s.
        weight = quad(lambda s, u=u: np.exp(-s) / np.sqrt(1 + 2 * s / u**2), 0, 60)[0]
        mean = quad(
            lambda s, u=u: np.exp(-s) / np.sqrt(1 + 2 * s / u**2) * np.log1p(2 * s / u**2) / 2,
            0,
            60,
        )[0]
        index = weight / mean
        assert abs(index - (u**2 + 3 - 8 / u**2)) < 70 / u**4
        assert abs(index - (u**2 + 2)) > 0.7


READERS = {
    "block": lambda x: ss.measure.block_tail_index(x, 8),
    "hill": lambda x: ss.measure.hill_tail_index(x, 0.1),
}


@pytest.mark.parametrize("name", READERS)
def test_rows_are_the_independent_samples(name):
    """Ten copies of a column are read as one: the same index, the same error; scales are no matter.

    Columns that are independent have 1/α = the mean of theirs, and the errors add in squares.
    """
    read = READERS[name]
    x = RNG.standard_t(2.5, size=(1600, 2))
    one, other = read(x[:, 0]), read(x[:, 1])
    copies = read(x[:, :1] * 2.0 ** np.arange(10))
    assert copies.value == pytest.approx(float(one.value), rel=1e-9)
    assert copies.standard_error == pytest.approx(float(one.standard_error), rel=1e-9)
    both = read(x * [1.0, 50.0])
    assert 1 / both.value == pytest.approx((1 / one.value + 1 / other.value) / 2, rel=1e-12)
    slack = [e.standard_error / e.value**2 for e in (one, other)]
    assert both.standard_error / both.value**2 == pytest.approx(np.hypot(*slack) / 2, rel=0.15)


def test_hills_error_covers():
    """Pareto rows with a common factor in most draws: z of 300 readings has variance 1.

    α̂/√(4k), the error of four times as many independent samples, is too small.
    """
    rng, z, plain = np.random.default_rng(8), [], []
    for _ in range(300):
        own, common = rng.pareto(3.0, (1000, 4)) + 1, rng.pareto(3.0, (1000, 1)) + 1
        found = ss.measure.hill_tail_index(np.where(rng.random((1000, 4)) < 0.8, common, own), 0.1)
        gap = 1 / found.value - 1 / 3
        z.append(gap / (found.standard_error / found.value**2))
        plain.append(gap * found.value * np.sqrt(4 * 100))
    low, high = chi2.ppf([1e-5, 1 - 1e-5], 300) / 300
    assert low < np.mean(np.square(z)) < high < np.mean(np.square(plain))


@pytest.mark.parametrize("name", [*READERS, "normality"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite(name, bad):
    """One NaN or infinity is refused with its number and place, as are arrays of three axes."""
    read = ss.measure.normality_test if name == "normality" else READERS[name]
    x = RNG.normal(size=(200, 3))
    x[17, 1] = x[90, 2] = bad
    with pytest.raises(
        ValueError, match="2 of 600 are NaN or infinite, the first at row 17, coord"
    ):
        read(x)
    with pytest.raises(ValueError, match="one row for each independent draw"):
        read(np.ones((20, 2, 5)))


def test_normality():
    """p-values of Gaussian samples are uniform; those of Student's t with 5 degrees vanish."""
    values = [ss.measure.normality_test(3 + 2 * RNG.normal(size=200)) for _ in range(500)]
    assert kstest(values, "uniform").pvalue > 2e-5
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.045)
    heavy = [ss.measure.normality_test(RNG.standard_t(5, size=2000)) for _ in range(20)]
    assert max(heavy) < 1e-3
    assert ss.measure.normality_test(RNG.standard_cauchy(4000)) == pytest.approx(0, abs=1e-12)


INPUTS = RNG.normal(size=(12, 2))
LANDSCAPE = ss.LeastSquares(INPUTS, RNG.normal(size=12))
THETA = jnp.array([0.5, -1.0])


@pytest.mark.parametrize("name", ["independent", "epochs"])
def test_correlation_of_batches(name):
    """0 for independent subsets; −1/(M − 1) between all steps of one epoch, M = 4."""
    sampling = {"independent": ss.WithoutReplacement(3), "epochs": ss.RandomReshuffling(3)}[name]
    found = ss.noise_statistics(
        LANDSCAPE, THETA, sampling, key=jr.key(1), num_steps=4, directions=np.eye(2)
    )
    exact = 0.0 if name == "independent" else -1 / 3
    lags = found.autocorrelation
    bound = sidak_threshold(3)
    assert lags.value.shape == (3,) and found.tail_index.value.shape == (2,)
    assert (np.abs(lags.value - exact) < bound * lags.standard_error).all()
    assert (np.abs(lags.value + 1 / 3 - exact) > bound * lags.standard_error).all()
    # A batch of 3 of 12 examples is no Gaussian, and has no heavy tail either.
    assert (found.normality < 1e-3).all() and (found.hill_index.value > 2).all()


BAD = {
    "8 blocks": lambda: ss.measure.block_tail_index(np.ones(20), 10),
    "must not be 0, and 220": lambda: ss.measure.block_tail_index(np.zeros(200), 10),
    "must not be 0, and 20": lambda: ss.measure.block_tail_index(np.tile([1.0, -1.0], 100), 10),
    "are all equal": lambda: ss.measure.hill_tail_index(np.ones(100), 0.2),
    "takes one coordinate": lambda: ss.measure.normality_test(RNG.normal(size=(100, 2))),
    "integer ≥ 2": lambda: ss.measure.block_tail_index(np.ones(200), 1),
    "Take more samples": lambda: ss.measure.hill_tail_index(np.ones(100), 0.02),
    "between 0 and 1": lambda: ss.measure.hill_tail_index(np.ones(100), 1.0),
    "differ": lambda: ss.measure.normality_test(np.ones(100)),
    "num_steps ≥ 2": lambda: ss.noise_statistics(
        LANDSCAPE, THETA, ss.WithReplacement(2), key=jr.key(0), num_steps=1
    ),
    r"shape \(2,\)": lambda: ss.noise_statistics(
        LANDSCAPE, jnp.zeros(3), ss.WithReplacement(2), key=jr.key(0)
    ),
    r"shape \(2, k\)": lambda: ss.noise_statistics(
        LANDSCAPE, THETA, ss.WithReplacement(2), key=jr.key(0), directions=np.eye(3)
    ),
}


@pytest.mark.parametrize("match", BAD)
def test_refuses(match):
    """Too few samples, zeros, shapes."""
    with pytest.raises(ValueError, match=match):
        BAD[match]()


def test_no_noise():
    """Full batches have none: said, with the direction."""
    with pytest.raises(ValueError, match="no noise along direction 0"):
        ss.noise_statistics(LANDSCAPE, THETA, ss.WithoutReplacement(12), key=jr.key(0))
