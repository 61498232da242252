"""What runs with one key have in common: the Brownian path and the batches, nothing else."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy import stats
from tools import call

import sde_sgd as ss
from sde_sgd.noise.paths import IterationNoise
from sde_sgd.random.draws import Draws, Stream

FAILURE_RATE = 2e-5
KEY, MEMBERS, SIZE = jr.key(22), 20_000, 4
LANDSCAPE = ss.LeastSquares(np.eye(8), np.zeros(8))
FLAT = ss.quadratic(np.zeros((SIZE, SIZE)), 0.0)

BATH = ss.SGLD(FLAT, 0.5, ss.WithReplacement(1), 1.0)
GAUSSIAN = ss.GaussianSGD(FLAT, 1.0, ss.ConstantNoise(np.eye(SIZE)))


def moved(process, draws):
    """θ (members, 4) after one iteration from 0."""
    state = process.init(jnp.zeros((*draws.identity.shape, SIZE)), draws)
    return process.position(process.step(state, draws, lambda carry, *_: carry, None)[0])


def everything(draws):
    """By consumer, (members, 4) numbers of the first step of runs with one key."""
    step = (jnp.asarray(0.0), jnp.asarray(1.0))

    def of_one(identity):
        own = Draws(draws.streams, identity, draws.iteration, draws.substep)

        def path(increments):
            options = {"size": SIZE, "substeps": 1, "dtype": jnp.float64, "checked": False}
            return IterationNoise(own, increments=increments, **options).evaluate(*step)

        coloured = ss.noise.ColouredNoise([1.0], [0.5], 0.5)
        return {
            "path": path("gaussian"),
            "two-point": path("two_point"),
            "coloured": coloured.increment(jnp.zeros((SIZE, 1)), own, SIZE, 1.0, jnp.float64)[1],
            "coloured start": coloured.init(own, SIZE, jnp.float64)[:, 0],
            "stable": jnp.arctan(
                ss.noise.StableNoise(1.5).increment(None, own, SIZE, 1.0, jnp.float64)[1]
            ),
            "area": own.normal((SIZE,), Stream.LEVY_AREA),
            "crossing": jnp.broadcast_to(own.uniform((), Stream.MEASURE), (SIZE,)),
        }

    def batch(sampling):
        return sampling.draw(sampling.init(draws, LANDSCAPE), draws, LANDSCAPE)[1][:, :SIZE]

    found = jax.vmap(of_one)(draws.identity)
    found["with replacement"] = batch(ss.WithReplacement(SIZE))
    found["subset"] = batch(ss.WithoutReplacement(SIZE))
    found["epoch"] = batch(ss.RandomReshuffling(SIZE))
    found["bath"] = moved(BATH, draws)
    return found


@functools.cache
def numbers():
    return call(everything, Draws.create(KEY, np.arange(MEMBERS)))


def largest_score(a, b):
    """√n times the largest correlation between a column of `a` and one of `b`."""
    a, b = ((x - x.mean(0)) / x.std(0) for x in (np.asarray(a, float), np.asarray(b, float)))
    return np.abs(a.T @ b).max() / np.sqrt(len(a))


THRESHOLD = stats.norm.isf(FAILURE_RATE / 2 / (11 * 10 / 2 * SIZE**2))


def test_runs_of_one_key_share_no_numbers_but_on_purpose():
    """Corr = 0 between all entries of any two consumers, the two kinds of increments too."""
    found = list(numbers().items())
    assert len(found) == 11
    related = {
        (name, other)
        for i, (name, a) in enumerate(found)
        for other, b in found[:i]
        if largest_score(a, b) > THRESHOLD
    }
    assert related == set()
    # Control: signs that read the bits of the normal numbers, and a part of one path.
    draws = Draws.create(KEY, np.arange(MEMBERS))
    signs = call(lambda own: own.two_point((SIZE,), Stream.NOISE), draws)
    assert largest_score(signs, numbers()["path"]) > THRESHOLD
    path = numbers()["path"]
    assert largest_score(path + 9 * np.roll(path, 1, axis=0), path) > THRESHOLD


def test_what_is_shared_on_purpose():
    """Gaussian SGD has the numbers of the path at one substep: θ₁ = −ηW₁."""
    found = call(lambda draws: moved(GAUSSIAN, draws), Draws.create(KEY, np.arange(8)))
    np.testing.assert_allclose(found, -numbers()["path"][:8], rtol=1e-12)
