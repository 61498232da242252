"""Random numbers: the generator word for word, and what a number depends on."""

import itertools

import jax
import jax.extend.random as jer
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from scipy import special

from sde_sgd.random import draws as draws_module, normal_quantile as quantile_module
from sde_sgd.random.draws import Draws, key_words, scale_to, Stream, threefry
from sde_sgd.random.normal_quantile import normal_quantile

KEY = jr.key(20)
DTYPES = (jnp.float32, jnp.float64)
# 3 numbers take the path of one vector an entry, 40 that of one vector a member.
SIZES = (3, 40)
every_size = pytest.mark.parametrize("size", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def members(num, iteration=3, substep=2, key=KEY):
    return Draws.create(key, np.arange(num), iteration, substep)


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
    """Equal bit for bit; normals, whose erf⁻¹ may be fused differently, to a few ulp."""
    assert actual.keys() == expected.keys()
    for kind, value in actual.items():
        value, other = np.asarray(value), np.asarray(expected[kind])
        assert value.shape == other.shape and value.dtype == other.dtype
        if kind.startswith("normal"):
            np.testing.assert_array_max_ulp(value, other, maxulp=8)
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


def test_normal_quantile_is_that_of_scipy():
    """√2·erf⁻¹(x) to 2e-15 from 1e-300 to the x nearest to 1, odd in x."""
    rest = np.logspace(-15.9, -0.3, 4000)
    near_one = np.append(1 - rest, np.nextafter(1.0, 0.0))
    x = np.concatenate([near_one, np.linspace(0.5, 1, 4000)[:-1]])
    exact = np.sqrt(2) * special.erfcinv(1 - x)
    np.testing.assert_allclose(normal_quantile(jnp.asarray(x)), exact, rtol=2e-15)
    x = np.concatenate([np.logspace(-300, -1, 1000), np.linspace(0, 0.5, 4000)])
    exact = np.sqrt(2) * special.erfinv(x)
    np.testing.assert_allclose(normal_quantile(jnp.asarray(x)), exact, rtol=2e-15)
    both = normal_quantile(jnp.asarray([-x, x]))
    np.testing.assert_array_equal(both[0], -both[1])


@pytest.mark.parametrize("which", [0, 1])
def test_a_shorter_series_is_seen(which, monkeypatch):
    """Control: four coefficients fewer, about 1e-14 of the first, miss the tolerance of 2e-15."""
    rest = np.logspace(-15.9, -0.3, 400)
    x = jnp.asarray(1 - rest)
    exact = np.sqrt(2) * special.erfcinv(1 - np.asarray(x))
    both = list(quantile_module._both())
    both[which] = both[which][:-4]
    monkeypatch.setattr(quantile_module, "_both", lambda: both)
    assert np.abs(normal_quantile.__wrapped__(x) / exact - 1).max() > 4e-15


def test_a_draw_outside_jit_is_compiled_once():
    """Another iteration of the same shape compiles nothing; control: another shape does."""
    members(5).normal((4,), Stream.NOISE)
    before = draws_module._written._cache_size()
    members(5, iteration=8).normal((4,), Stream.NOISE)
    assert draws_module._written._cache_size() == before
    members(5).normal((5,), Stream.NOISE)
    assert draws_module._written._cache_size() == before + 1


@every_size
def test_members_keep_their_numbers_in_any_company(size):
    """draws(identities[p]) = draws(identities)[p], for permutations and slices p."""
    block = numbers(members(32), size)
    for chosen in (np.random.default_rng(0).permutation(32), np.arange(10, 20)):
        own = Draws.create(KEY, np.arange(32)[chosen], 3, 2)
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
    ages = np.resize(np.array([0, 7, 2**24 + 1, 2**31 + 5], np.uint32), 32)
    block = numbers(members(32, ages), size)
    for i, age in enumerate(ages[:4]):
        same(rows(numbers(members(32, age), size), np.s_[i::4]), rows(block, np.s_[i::4]))


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


@pytest.mark.parametrize("maximum", [0, -3, 2**31])
def test_integers_without_room_are_refused(maximum):
    """0 < N < 2³¹."""
    with pytest.raises(ValueError, match="maximum must be an integer"):
        members(2).integers((3,), maximum, Stream.BATCH)


def test_half_precision_is_refused():
    """Random numbers come in float32 or float64."""
    with pytest.raises(ValueError, match="float16"):
        members(2).normal((3,), Stream.NOISE, jnp.float16)
