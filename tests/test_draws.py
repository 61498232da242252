"""Random numbers: the generator word for word, what a number depends on, and its law."""

import functools
import itertools

import jax
import jax.extend.random as jer
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from scipy import stats

from sde_sgd.draws import Draws, key_words, scale_to, Stream, threefry

# Probability that a statistical test here fails on a correct generator; keys are fixed.
FAILURE_RATE = 2e-5
KEY = jr.key(20)
DTYPES = (jnp.float32, jnp.float64)
# 3 numbers take the path of one vector an entry, 40 that of one vector a member.
SIZES = (3, 40)
every_size = pytest.mark.parametrize("size", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def members(num, iteration=3, substep=2, key=KEY):
    return Draws.create(key, jnp.arange(num), iteration, substep)


def all_kinds(draws, shape, stream=Stream.NOISE):
    """Numbers of every kind, by name."""
    return {
        "integers": draws.integers(shape, 1797, stream),
        "two_point": draws.two_point(shape, stream),
        "normal32": draws.normal(shape, stream, jnp.float32),
        "normal64": draws.normal(shape, stream, jnp.float64),
    }


_compiled = jax.jit(all_kinds, static_argnums=1)


def numbers(draws, *shape):
    return _compiled(draws, shape)


def same(actual, expected):
    """Equal bit for bit; normals, whose erf⁻¹ may be fused differently, to one ulp."""
    assert actual.keys() == expected.keys()
    for kind, value in actual.items():
        value, other = np.asarray(value), np.asarray(expected[kind])
        assert value.shape == other.shape and value.dtype == other.dtype
        if kind.startswith("normal"):
            np.testing.assert_array_max_ulp(value, other, maxulp=1)
        else:
            np.testing.assert_array_equal(value, other)


def rows(values, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], values)


def test_threefry_is_that_of_jax():
    """threefry(key, counter) = threefry2x32_p, word for word."""
    words = jr.bits(jr.key(1), (4, 1000), jnp.uint32)
    ours = threefry((words[0], words[1]), words[2], words[3])
    for mine, theirs in zip(ours, jer.threefry2x32_p.bind(*words), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "key, counter, expected",
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_answers_of_random123(key, counter, expected):
    """Threefry-2x32-20 known answers (Random123, kat_vectors)."""
    words = [jnp.uint32(word) for word in (*key, *counter)]
    assert tuple(int(word) for word in threefry((words[0], words[1]), *words[2:])) == expected


@every_size
def test_members_keep_their_numbers_in_any_company(size):
    """draws(identities[p]) = draws(identities)[p], for permutations and slices p."""
    block = numbers(members(32), size)
    for chosen in (np.random.default_rng(0).permutation(32), np.arange(10, 20)):
        own = Draws.create(KEY, jnp.arange(32)[chosen], 3, 2)
        same(numbers(own, size), rows(block, chosen))


@every_size
def test_numbers_under_vmap_are_those_of_the_block(size):
    """vmap of scalar identities = block of identities; a single member too."""
    block = numbers(members(32), size)

    def one(identity):
        return numbers(Draws.create(KEY, identity, 3, 2), size)

    same(jax.vmap(one)(jnp.arange(32)), block)
    same(one(7), rows(block, 7))


def test_numbers_do_not_depend_on_compilation():
    """Operation by operation = compiled."""
    same(all_kinds(members(32), (3,)), numbers(members(32), 3))


def test_the_jth_number_does_not_depend_on_how_many_are_drawn():
    """draws(3)[j] = draws(40)[j]: both layouts count entries alike."""
    same(numbers(members(32), 3), rows(numbers(members(32), 40), np.s_[:, :3]))


def test_signs_do_not_depend_on_how_many_are_drawn():
    """two_point(n)[j] = two_point(130)[j] around one word (32 signs) and one hash (64)."""

    @jax.jit
    def draw(draws):
        return {size: draws.two_point((size,), Stream.NOISE) for size in (32, 33, 64, 65, 130)}

    signs = draw(members(8))
    for size, few in signs.items():
        np.testing.assert_array_equal(few, signs[130][:, :size])
    # Each word of a hash is 32 signs, its highest bit first.
    words = jnp.stack(members(8)._words(3, Stream.NOISE), axis=-1).reshape(8, -1)
    bits = np.asarray(words)[:, :, None] >> np.arange(31, -1, -1, dtype=np.uint32) & 1
    np.testing.assert_array_equal(signs[130], 1 - 2.0 * bits.reshape(8, -1)[:, :130])


@every_size
def test_members_may_have_ages_of_their_own(size):
    """draws(iterations)[i] = draws(iterations[i])[i]."""
    ages = jnp.array([0, 7, 2**24 + 1, 2**31 + 5], jnp.uint32)
    block = numbers(Draws.create(KEY, jnp.arange(4), ages, 2), size)
    for i, age in enumerate(ages):
        same(rows(numbers(Draws.create(KEY, jnp.arange(4), age, 2), size), i), rows(block, i))


def test_shapes_are_only_reshaped():
    """A (2, 20) draw is the forty numbers in a row, and an empty draw has the right shape."""
    flat = numbers(members(32), 40)
    same(numbers(members(32), 2, 20), jax.tree.map(lambda leaf: leaf.reshape(32, 2, 20), flat))
    same(numbers(members(32)), rows(flat, np.s_[:, 0]))
    empty = numbers(members(32), 2, 0)
    assert all(leaf.shape == (32, 2, 0) for leaf in empty.values())
    assert all(leaf.dtype == flat[kind].dtype for kind, leaf in empty.items())


def test_numbers_are_those_of_a_session_without_float64():
    """jax_enable_x64 changes no integer and no float32 number."""

    @jax.jit
    def draw32(draws):
        return {
            "bits": draws.bits((40,), Stream.NOISE),
            "integers": draws.integers((40,), 1797, Stream.NOISE),
            "two_point": draws.two_point((40,), Stream.NOISE, jnp.float32),
            "normal": draws.normal((40,), Stream.NOISE, jnp.float32),
        }

    with jax.enable_x64(False):
        without = jax.tree.map(np.asarray, draw32(members(8)))
    same(without, jax.tree.map(np.asarray, draw32(members(8))))


# What must be distinct: rows of four numbers, so that float32's 23 bits have no chance meetings.
def through_float32(draws):
    """A wrong generator: the iteration passes through float32, as a time t = k would."""
    rounded = draws.iteration.astype(jnp.float32).astype(jnp.uint32)
    return draws.at(rounded)


def num_distinct(draws_at, bases, dtype, wrong=lambda draws: draws):
    """For each base, how many of 4096 rows of normal numbers from there on differ."""

    @jax.jit
    def block(base):
        each = jax.vmap(lambda i: wrong(draws_at(base + i)).normal((4,), Stream.NOISE, dtype))
        return each(jnp.arange(4096, dtype=jnp.uint32))

    return [len(np.unique(np.asarray(block(jnp.uint32(base))), axis=0)) for base in bases]


@every_dtype
def test_iterations_are_distinct_however_late(dtype):
    """4096 consecutive iterations give 4096 draws, above 2²⁴ and around 2³¹ too."""

    def at(i):
        return Draws.create(KEY, 5, i, 1)

    late = (2**24 - 100, 2**31 - 2048, 2**32 - 4096)
    assert num_distinct(at, (0, *late), dtype) == [4096] * 4
    # Control: an iteration that passes through float32 repeats itself, from 2²⁴ on.
    assert max(num_distinct(at, late, dtype, through_float32)) < 4096


@every_dtype
def test_substeps_and_members_are_distinct(dtype):
    """4096 substeps of an iteration, and 4096 members, give 4096 draws."""

    def substep(i):
        return Draws.create(KEY, 5, 2**24 + 1, i)

    def identity(i):
        return Draws.create(KEY, i, 2**24 + 1, 1)

    bases = (0, 2**24 - 100, 2**32 - 4096)
    assert num_distinct(substep, bases, dtype) == [4096] * 3
    assert num_distinct(identity, bases, dtype) == [4096] * 3
    # Control: a generator that ignores the substep.
    assert num_distinct(substep, bases, dtype, lambda draws: draws.at(substep=0)) == [1] * 3


def test_iteration_substep_and_member_are_not_interchangeable():
    """The 27 (member, iteration, substep) in {0, 1, 2}³ give 27 draws."""
    rows = [
        Draws.create(KEY, *which).normal((4,), Stream.NOISE)
        for which in itertools.product(range(3), repeat=3)
    ]
    assert len(np.unique(np.asarray(rows), axis=0)) == 27


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


_scaled = jax.jit(scale_to)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2**31))
@example(2**32 - 1, 2**31)
@example(2**32 - 1, 2**31 - 1)
@example(2**32 - 1, 0xFFFF)
@example(0xFFFF, 0x10001)
@example(0xFFFF0000, 0x10001)
def test_scaling_is_exact(word, maximum):
    """scale_to(word, N) = ⌊N·word/2³²⌋ in integers of any length."""
    assert int(_scaled(jnp.uint32(word), jnp.uint32(maximum))) == (word * maximum) >> 32


def test_key_decides():
    """Other keys give other numbers; a raw key is the new-style one."""
    first = members(4).normal((4,), Stream.NOISE)
    other = members(4, key=jr.key(21)).normal((4,), Stream.NOISE)
    assert len(np.unique(np.concatenate([first, other]))) == 32
    np.testing.assert_array_equal(key_words(jr.PRNGKey(20)), key_words(KEY))
    np.testing.assert_array_equal(members(4, key=jr.PRNGKey(20)).normal((4,), Stream.NOISE), first)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_keys_are_accepted(impl):
    """A key of any implementation gives two words, distinct between keys and reproducible."""
    words = [np.asarray(key_words(jr.key(seed, impl=impl))) for seed in range(50)]
    assert len(np.unique(words, axis=0)) == 50
    np.testing.assert_array_equal(words[3], key_words(jr.key(3, impl=impl)))
    z = members(20_000, key=jr.key(0, impl=impl)).normal((5,), Stream.NOISE)
    assert np.abs(moment_scores(z)).max() < stats.norm.isf(FAILURE_RATE / 2 / 4)


@pytest.mark.parametrize("maximum", [0, -3, 2**31])
def test_integers_without_room_are_refused(maximum):
    """0 < N < 2³¹."""
    with pytest.raises(ValueError, match="0 < maximum"):
        members(2).integers((3,), maximum, Stream.BATCH)


def test_half_precision_is_refused():
    """Random numbers come in float32 or float64."""
    with pytest.raises(ValueError, match="float16"):
        members(2).normal((3,), Stream.NOISE, jnp.float16)
