"""Random numbers of an optimiser are each member's own, in each life, and nobody else's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import sde_sgd as ss
from sde_sgd.random.draws import Draws, stream_keys

ETA, GAMMA, RATE = 0.5, 0.55, 0.1
# L = θ²/2 in both coordinates, and every batch is all of the data: the optimiser's noise is all.
LANDSCAPE = ss.LeastSquares(np.sqrt(2) * np.eye(2), np.zeros(2))
SAMPLING = ss.WithoutReplacement(2)
NOT_BY_CHANCE = 4.27  # of a normal number: 2e-5


class Perturbed(NamedTuple):
    """State of `perturb`: a key that never changes, and a count."""

    key: jax.Array
    count: jax.Array


def perturb(key):
    """u ← u + z_k, z_k from a key that stays in the state and the count folded into it."""

    def update(updates, state, params=None):
        own = jr.fold_in(state.key, state.count)
        noise = jax.tree.map(lambda u: jr.normal(own, u.shape, u.dtype), updates)
        return jax.tree.map(jnp.add, updates, noise), Perturbed(state.key, state.count + 1)

    return optax.GradientTransformation(lambda params: Perturbed(key, jnp.zeros((), int)), update)


def split_in_a_loop(key):
    """u ← u + z, z from the second split of a key, in a compiled loop behind a branch."""

    def update(updates, key, params=None):
        def again(_, loop):
            return tuple(jr.split(loop[0]))

        def draw():
            return jax.lax.fori_loop(0, 2, again, (key, key))

        key, own = jax.lax.cond(updates[0] < jnp.inf, draw, lambda: (key, key))
        return updates + jr.normal(own, updates.shape, updates.dtype), key

    return optax.GradientTransformation(lambda params: key, update)


NOISY = {
    "add_noise": optax.add_noise(1.0, 0.0, key=0),
    "a typed key": perturb(jr.key(3)),
    "a raw key": perturb(jr.PRNGKey(3)),
    "a typed key in a loop": split_in_a_loop(jr.key(3)),
    "a raw key in a loop": split_in_a_loop(jr.PRNGKey(3)),
}


def process(optimizer):
    return ss.OptaxSGD(LANDSCAPE, optax.chain(optimizer, optax.sgd(RATE)), SAMPLING)


def simulate(moved, key=0, members=6, num_steps=12, **options):
    return ss.simulate(
        moved, jnp.zeros(2), num_steps=num_steps, ensemble_size=members, key=jr.key(key), **options
    )


def test_the_variance_of_added_noise():
    """v_k = (1 − η)² v_{k−1} + η² s/k^γ, the noise of optax.add_noise(s, γ) in a parabola."""
    run = simulate(process(optax.add_noise(ETA, GAMMA, key=0)), members=4000, num_steps=10)
    variance = 0.0
    for k in range(1, 11):
        variance = (1 - RATE) ** 2 * variance + RATE**2 * ETA / k**GAMMA
    count = run.positions.size
    found = np.mean(run.positions**2)
    assert abs(found / variance - 1) < NOT_BY_CHANCE * np.sqrt(2 / count)
    # Neither members nor coordinates share their numbers.
    pairs = np.stack([run.positions[::2].ravel(), run.positions[1::2].ravel()])
    assert abs(np.corrcoef(pairs)[0, 1]) < NOT_BY_CHANCE / np.sqrt(pairs.shape[1])


def numbers_of(moved, key):
    """z of members in six steps at the minimum: first, second, of another life, of two clones of
    the second, and of another run."""
    members = jnp.arange(1000, dtype=jnp.uint32)
    start = jnp.zeros((len(members), 2))

    def at(iteration, identity=members, key=key):
        return Draws(stream_keys(key), identity, jnp.uint32(iteration), jnp.uint32(0))

    def z(draws, state):
        after = moved.step(state, draws, lambda carry, *_: carry, None)[0]
        return (state.theta * (1 - RATE) - after.theta) / RATE, after

    first, after = z(at(0), moved.init(start, at(0)))
    second, _ = z(at(1), after)
    life, _ = z(at(7), moved.init(start, at(7)))
    clone, _ = z(at(1, members + 5000), after)
    sibling, _ = z(at(1, members + 9000), after)
    other = at(0, key=jr.fold_in(key, 1))
    run, _ = z(other, moved.init(start, other))
    return jnp.stack([x.ravel() for x in (first, second, life, clone, sibling, run)])


@pytest.mark.parametrize("name", NOISY)
def test_members_lives_clones_and_runs_have_numbers_of_their_own(name):
    """z of other members, lives, clones and runs: standard normal, and independent."""
    numbers = jax.jit(lambda key: numbers_of(process(NOISY[name]), key))(jr.key(0))
    limit = NOT_BY_CHANCE / np.sqrt(numbers.shape[1])
    assert np.abs(np.var(numbers, axis=1) - 1).max() < np.sqrt(2) * limit
    assert np.abs(np.corrcoef(numbers) - np.eye(6)).max() < limit


def test_the_computation_changes_no_number(tmp_path):
    """Chunks and devices, extension, a checkpoint: the same bits; another key, other numbers."""
    keys = [perturb(jr.key(3)), perturb(jr.PRNGKey(3))]
    moved, file = process(optax.chain(*keys)), tmp_path / "run.npz"
    whole = simulate(moved, record_every=4)
    assert np.ptp(whole.positions, axis=0).min() > 0.01
    part = simulate(moved, num_steps=5, checkpoint=file, record_every=4)
    resumed = simulate(moved, checkpoint=file, record_every=4)
    for run in (resumed, part.extend(7), simulate(moved, chunk_size=4, devices=2, record_every=4)):
        np.testing.assert_array_equal(run.positions, whole.positions)
        np.testing.assert_array_equal(run.records[1], whole.records[1])
    assert (simulate(moved, key=1, record_every=4).positions != whole.positions).all()


def first(theta):
    return theta[0]


def test_lives_have_numbers_of_their_own():
    """Members put back after each step: θ_k = −η z with z new in each life."""
    everywhere = {"exit": ss.FirstPassage(lambda theta: theta[0] != 0)}
    moved = process(NOISY["a typed key"])
    run = simulate(
        moved, members=500, num_steps=4, refill=True, measures=everywhere, record_every=1
    )
    numbers = run.records[1][1:].reshape(4, -1) / RATE
    limit = NOT_BY_CHANCE / np.sqrt(numbers.shape[1])
    assert np.abs(np.var(numbers, axis=1) - 1).max() < np.sqrt(2) * limit
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < limit


def test_reactive_paths_of_clones_are_found_again():
    """Splitting draws a path anew from its lineage: it ends in B, through each clone's own keys."""
    result = ss.splitting(
        process(NOISY["a typed key"]),
        jnp.array([0.1, 0.0]),
        level=first,
        origin=0.0,
        target=0.7,
        num_levels=10,
        key=jr.key(2),
        num_replicas=16,
        num_repetitions=4,
        num_paths=8,
    )
    assert len(result.paths) == 8
    for path in result.paths:
        level = path[:, 0]
        assert level[0] == 0.1 and level[-1] >= 0.7
        assert ((level[1:-1] > 0) & (level[1:-1] < 0.7)).all()
    assert len({path[-1, 0] for path in result.paths}) > 1


class Typed(ss.AbstractProcess):
    """A process of a user who keeps a typed key in its state."""

    landscape: ss.LeastSquares

    substeps = 1
    autonomous = True

    def init(self, theta, draws):
        return theta, jax.vmap(jr.key)(draws.identity)

    def step(self, state, draws, observe, carry):
        return state, observe(carry, state[0], state[0], jnp.uint32(0))

    def position(self, state):
        return state[0]

    def time(self, iterations):
        return np.asarray(iterations, float)

    def check(self):
        pass


def test_a_typed_key_in_a_users_state_is_refused():
    """Before the run, with the way out."""
    with pytest.raises(ValueError, match=r"state holds a random key \(.*draw from the `draws`"):
        simulate(Typed(LANDSCAPE))


def test_a_generator_that_mixes_members_is_refused():
    """Keys of "rbg": under vmap the numbers of a member depend on the members beside it."""
    with pytest.raises(ValueError, match="'rbg'.*impl='threefry2x32'"):
        process(perturb(jr.key(3, impl="rbg")))
