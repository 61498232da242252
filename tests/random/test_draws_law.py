"""Random numbers: their law, and independence along every axis."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from sde_sgd.random.draws import Draws, Stream

# Probability that a statistical test here fails on a correct generator; keys are fixed.
FAILURE_RATE = 2e-5
KEY = jr.key(20)
DTYPES = (jnp.float32, jnp.float64)
# 3 numbers take the path of one vector an entry, 40 that of one vector a member.
every_size = pytest.mark.parametrize("size", (3, 40))
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def members(num, iteration=3, substep=2, key=KEY):
    return Draws.create(key, jnp.arange(num), iteration, substep)


# Correlations between neighbours along every axis of a large block of numbers.
AXES = ("stream", "iteration", "substep", "member", "entry")


@functools.cache
def block(kind):
    """(streams, iterations, substeps, members, entries) numbers of mean 0 and variance 1."""
    streams, iterations, substeps, num, entries = 3, 16, 8, 32, 40

    def draw(iteration, substep, stream):
        draws = members(num, iteration, substep)
        if kind == "uniform":
            return np.sqrt(12) * (draws.uniform((entries,), stream) - 0.5)
        return getattr(draws, kind)((entries,), stream)

    @jax.jit
    def everything(iteration, substep):
        return jnp.stack([draw(iteration, substep, stream) for stream in range(streams)])

    along = jax.vmap(jax.vmap(everything, (None, 0)), (0, None))
    counts = (jnp.arange(n, dtype=jnp.uint32) for n in (iterations, substeps))
    return np.moveaxis(np.asarray(along(*counts), dtype=float), 2, 0)


def neighbour_scores(numbers):
    """z-scores of the correlation between neighbours along each axis, ~N(0, 1) if independent."""
    scores = {}
    for axis, name in enumerate(AXES):
        first = np.take(numbers, range(numbers.shape[axis] - 1), axis)
        second = np.take(numbers, range(1, numbers.shape[axis]), axis)
        scores[name] = float((first * second).sum() / np.sqrt(first.size))
    return scores


def correlated(numbers):
    """Axes along which neighbours are correlated at the failure rate."""
    threshold = stats.norm.isf(FAILURE_RATE / 2 / len(AXES))
    return {name for name, z in neighbour_scores(numbers).items() if abs(z) > threshold}


@pytest.mark.parametrize("kind", ["uniform", "normal", "two_point"])
def test_neighbours_are_uncorrelated_along_every_axis(kind):
    """E x_i x_{i+1} = 0 between streams, iterations, substeps, members and entries."""
    assert correlated(block(kind)) == set()


def test_every_pair_of_streams_is_uncorrelated():
    """E z z' = 0 between all streams, entry by entry; the key itself as a stream would be seen."""

    @jax.jit
    def draw(draws):
        return jnp.stack([draws.normal((16,), stream).ravel() for stream in Stream])

    z = np.asarray(draw(members(5_000)))
    threshold = stats.norm.isf(FAILURE_RATE / len(Stream) / (len(Stream) - 1))
    scores = (z @ z.T)[np.triu_indices(len(Stream), 1)] / np.sqrt(z.shape[1])
    assert np.abs(scores).max() < threshold
    # Control: two streams with 3 % of their variance in common.
    common = np.sqrt(0.97) * z[0] + np.sqrt(0.03) * z[1]
    assert common @ z[1] / np.sqrt(z.shape[1]) > threshold


@pytest.mark.parametrize("axis", range(5), ids=AXES)
def test_correlation_test_sees_a_generator_that_repeats_itself(axis):
    """Control: numbers that ignore the stream, iteration, substep, member or entry are caught."""
    repeated = np.broadcast_to(np.take(block("normal"), [0], axis), block("normal").shape)
    assert AXES[axis] in correlated(repeated)


def moment_scores(z):
    """z-scores of the first four moments against those of a standard normal number."""
    z = np.asarray(z, dtype=float).ravel()
    exact = np.array([0.0, 1.0, 0.0, 3.0])
    variance = np.array([1.0, 2.0, 15.0, 96.0])
    measured = np.array([(z**k).mean() for k in (1, 2, 3, 4)])
    return (measured - exact) / np.sqrt(variance / z.size)


@every_dtype
@every_size
def test_normal_numbers_are_normal(size, dtype):
    """E z = 0, E z² = 1, E z³ = 0, E z⁴ = 3 and Kolmogorov–Smirnov; noise × 1.02 fails."""
    z = np.asarray(members(200_000 // size).normal((size,), Stream.NOISE, dtype), float).ravel()
    threshold = stats.norm.isf(FAILURE_RATE / 2 / 4)
    assert np.abs(moment_scores(z)).max() < threshold
    assert stats.kstest(z, "norm").pvalue > FAILURE_RATE
    # Control: 2 % more noise is 18 standard errors of the variance at this sample size.
    assert np.abs(moment_scores(1.02 * z)).max() > threshold
    # And a shift of 0.02 is 9 standard errors of the mean, which the distance sees.
    assert stats.kstest(z + 0.02, "norm").pvalue < FAILURE_RATE


def test_normal_numbers_reach_as_far_as_their_bits():
    """|z| ≤ 5.42 in float32 and 8.21 in float64, and every number is finite."""
    for dtype, most in ((jnp.float32, 5.42), (jnp.float64, 8.21)):
        z = members(200_000).normal((5,), Stream.NOISE, dtype)
        assert bool(jnp.isfinite(z).all()) and float(jnp.abs(z).max()) <= most
        assert float(jnp.abs(z).max()) > 4.3  # of 10⁶: P(none beyond 4.3) = 4e-8


@every_dtype
@every_size
def test_uniform_numbers_are_uniform(size, dtype):
    """Kolmogorov–Smirnov on [0, 1), in multiples of 2⁻²³ or 2⁻⁵²; u^1.02 fails."""
    u = members(200_000 // size).uniform((size,), Stream.NOISE, dtype)
    assert u.dtype == dtype
    steps = np.asarray(u, dtype=float).ravel() * 2.0 ** np.finfo(dtype).nmant
    assert (steps == np.round(steps)).all()
    u = np.asarray(u, dtype=float).ravel()
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > FAILURE_RATE
    assert stats.kstest(u**1.05, "uniform").pvalue < FAILURE_RATE


def sign_scores(signs):
    """z-scores of all means and all pairwise correlations of 64 (or more) packed signs."""
    num, size = signs.shape
    products = signs.T @ signs / np.sqrt(num)
    pairs = products[np.triu_indices(size, 1)]
    return np.concatenate([signs.sum(0) / np.sqrt(num), pairs])


@pytest.mark.parametrize("size", [64, 130])
def test_packed_signs_are_independent(size):
    """E s_i = 0, s_i² = 1, E s_i s_j = 0 for all bits i < j of a hash; swapped bits fail."""
    signs = np.asarray(members(20_000).two_point((size,), Stream.NOISE), dtype=float)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    scores = sign_scores(signs)
    threshold = stats.norm.isf(FAILURE_RATE / 2 / scores.size)
    assert np.abs(scores).max() < threshold
    # Control: a shift by 31 instead of 32 places would give two entries the same bit.
    reused = np.concatenate([signs[:, :32], signs[:, 31:-1]], axis=1)
    assert np.abs(sign_scores(reused)).max() > threshold
    # And signs of probability 0.53.
    biased = np.where(np.random.default_rng(0).random(signs.shape) < 0.06, 1.0, signs)
    assert np.abs(sign_scores(biased)).max() > threshold


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_come_in_the_dtype_asked_for(dtype):
    """±1 exactly, the same signs in either dtype."""
    signs = members(10).two_point((70,), Stream.NOISE, dtype)
    assert signs.dtype == dtype
    np.testing.assert_array_equal(signs, members(10).two_point((70,), Stream.NOISE))


@pytest.mark.parametrize("maximum", [1, 2, 7, 1797])
@every_size
def test_integers_are_uniform(size, maximum):
    """χ² over [0, N); integers of N + 1 folded onto N fail."""

    def chi_square(values):
        counts = np.bincount(values, minlength=maximum)
        expected = values.size / maximum
        return stats.chi2.sf(((counts - expected) ** 2).sum() / expected, maximum - 1)

    everyone = members(400_000 // size)
    values = np.asarray(everyone.integers((size,), maximum, Stream.BATCH)).ravel()
    assert values.min() >= 0 and values.max() < maximum
    if maximum == 1:
        return
    assert chi_square(values) > FAILURE_RATE
    skewed = np.asarray(everyone.integers((size,), maximum + 1, Stream.BATCH)).ravel() % maximum
    if maximum == 1797:  # One count doubled is noise there; one in twenty is not.
        skewed = np.where(skewed % 20 == 0, 0, skewed)
    assert chi_square(skewed) < FAILURE_RATE


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_numbers_under_other_generators_keys_are_normal(impl):
    """E z = 0, E z² = 1, E z³ = 0, E z⁴ = 3 under a key of any implementation."""
    z = members(20_000, key=jr.key(0, impl=impl)).normal((5,), Stream.NOISE)
    assert np.abs(moment_scores(z)).max() < stats.norm.isf(FAILURE_RATE / 2 / 4)
