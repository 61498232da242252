"""Parts of the repetitions of splitting, put together, are the whole bit for bit."""

import functools
import pickle

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.rare_events.wave import Wave

# One size for all, so that they share their executables.
START, TOP, SIZE, REPETITIONS, PATHS = 3, 10, 16, 40, 25
QUARTERS = [range(i, i + 10) for i in range(0, REPETITIONS, 10)]
SCATTERED = [range(39 - i, -1, -4) for i in range(4)]


def first(theta):
    return theta[0]


def lattice():
    """x ← x + 1 with chance 1/3, x ← x − 2 with 2/3."""
    tilts = np.array([[-2.0], [1.0], [1.0]])
    return ss.SGD(ss.Potential(first, tilts=tilts), 1.0, ss.WithReplacement(1))


def well():
    noise = ss.ConstantNoise(np.array([[0.3]]))
    return ss.ModifiedEquation(ss.double_well(0.3), 0.1, noise, substeps=2)


def sampled(key):
    return -0.6 + 0.05 * jr.normal(key, (1,))


def split(name="lattice", repetitions=None, **more):
    given = dict(level=first, num_replicas=SIZE, num_repetitions=REPETITIONS, key=jr.key(0))
    if name == "lattice":
        given |= dict(origin=0.0, target=float(TOP), num_levels=TOP, num_paths=PATHS)
        process, start = lattice(), jnp.array([float(START)])
    elif name == "SDE":
        given |= dict(origin=-0.9, target=0.9, num_levels=20, num_paths=5)
        process, start = well(), sampled
    else:
        given |= dict(origin=-0.9, surface=-0.7, target=0.5, num_levels=20, num_loops=2)
        process, start = well(), jnp.array([-1.0])
    return ss.splitting(process, start, repetitions=repetitions, **(given | more))


FOUND = ("probabilities", "probability", "rate", "mean_time", "rate_t", "mean_time_t")
FOUND += ("cycle_time", "reactive_time", "paths", "extinct")
CASES = ("lattice", "SDE", "loops of the SDE")


@functools.cache
def whole(name="lattice"):
    return split(name)


def assert_same_bits(result, other):
    assert result.num_repetitions == other.num_repetitions == other.requested_repetitions
    np.testing.assert_array_equal(result.repetitions, np.arange(result.num_repetitions))
    ours, theirs = ([getattr(x, field) for field in FOUND] for x in (result, other))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    own, their = (dict(x._campaign.fingerprint, version=None) for x in (result, other))
    assert own == their


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_parts_are_the_whole(name):
    """merge(parts) = splitting, in any order, with its paths; and both go on alike."""
    cut = SCATTERED if name == "SDE" else QUARTERS
    parts = [split(name, repetitions) for repetitions in cut]
    for part, repetitions in zip(parts, cut, strict=True):
        np.testing.assert_array_equal(part.repetitions, sorted(repetitions))
        np.testing.assert_array_equal(
            part.probabilities, whole(name).probabilities[sorted(repetitions)]
        )
    merged = ss.merge([parts[i] for i in (2, 0, 3, 1)])
    assert_same_bits(merged, whole(name))
    assert merged.num_iterations == sum(part.num_iterations for part in parts)
    if name == "lattice":
        longer = merged.extend(REPETITIONS)
        np.testing.assert_array_equal(longer.probabilities[:REPETITIONS], whole().probabilities)
        assert_same_bits(longer, split(num_repetitions=2 * REPETITIONS))


def test_paths_are_those_of_the_repetitions_in_turn():
    """Path j is the first of repetition j where all arrive, in waves of any size."""
    assert len(whole().paths) == PATHS
    for r in (0, 7, 24):
        alone = split(repetitions=[r])
        np.testing.assert_array_equal(alone.paths[0], whole().paths[r])
    many = split(num_paths=REPETITIONS + 3)
    waves = split(num_paths=REPETITIONS + 3, memory=2 * 10**5)
    assert waves._campaign.settings.reps_at_once < REPETITIONS
    assert len(many.paths) == len(waves.paths) == REPETITIONS + 3
    for ours, theirs in zip(many.paths, waves.paths, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Killed(BaseException):
    """What ends a process between two of its saves."""


def test_killed_and_resumed_parts_are_the_whole(tmp_path, monkeypatch):
    """merge(resume(kill(part))) = splitting, of results and of files."""
    files = [tmp_path / f"part{i}.npz" for i in range(4)]
    saved = [ss.Checkpoint(path, every_seconds=0.0) for path in files]
    turn = Wave.turn

    def ended(self, length):
        if self.turns == 3:
            raise Killed
        return turn(self, min(length, 4))

    with monkeypatch.context() as patch:
        patch.setattr(Wave, "turn", ended)
        for repetitions, file in zip(QUARTERS, saved, strict=True):
            with pytest.raises(Killed):
                split(repetitions=repetitions, checkpoint=file)
    one = split(repetitions=QUARTERS[0], checkpoint=saved[0])
    match = r"parts\[1\] \('.*part1.npz'\) has finished 0 of its 10 repetitions: resume it first"
    with pytest.raises(ValueError, match=match):
        ss.merge([one, *files[1:]])
    rest = zip(QUARTERS[1:], saved[1:], strict=True)
    parts = [one, *(split(repetitions=own, checkpoint=file) for own, file in rest)]
    assert_same_bits(ss.merge(parts), whole())
    assert_same_bits(ss.merge([*files[1:], one]), whole())
    with pytest.raises(ValueError, match="repetitions was 0 … 9 and is 10 … 19"):
        split(repetitions=QUARTERS[1], checkpoint=saved[0])
    with pytest.raises(ValueError, match="repetitions was 0 … 9 and is None"):
        split(checkpoint=saved[0])


@functools.cache
def quarters():
    return [split(repetitions=repetitions) for repetitions in QUARTERS]


def changed(**more):
    return lambda: [*quarters()[:3], split(repetitions=QUARTERS[3], **more)]


REFUSED = {
    "gap": (lambda: quarters()[1:], r"repetitions 0 … 9 of 40 are in none of the parts"),
    "overlap": (
        lambda: [*quarters(), quarters()[1]],
        r"repetitions 10 … 19 are both in parts\[1\] and in parts\[4\]",
    ),
    "another target": (changed(target=9.0), r"parts\[3\] is of another configuration.*target"),
    "another key": (changed(key=jr.key(1)), r"parts\[3\].*started with another key"),
    "another size": (changed(num_repetitions=41), r"num_repetitions was 40 and is 41"),
    "a copy": (
        lambda: [*quarters()[:3], pickle.loads(pickle.dumps(quarters()[3]))],
        r"parts\[3\] is a copy",
    ),
    "two kinds": (lambda: [quarters()[0], 1], "is a int and another part is a Splitting"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_are_not_the_whole(name):
    """Gaps, overlaps and other configurations are refused, with what is wrong by name."""
    make, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        ss.merge(make())


def test_unfinished_and_longer_parts():
    """A part that a budget ended is resumed before it is merged; the whole alone gets longer."""
    with pytest.warns(UserWarning, match="stopped after"):
        part = split(repetitions=QUARTERS[3], budget=1e-6)
    with pytest.raises(ValueError, match=r"parts\[3\] has finished 0 of its 10.*resume it first"):
        ss.merge([*quarters()[:3], part])
    assert "10 repetitions complete, a part of 40" in repr(part.resume())
    with pytest.raises(ValueError, match="a part, of 10 of 40 repetitions: merge all parts and"):
        quarters()[0].extend(1)
    with pytest.raises(ValueError, match="need more than 2\\*\\*32 random streams"):
        whole().extend(2**32)


def test_an_unlucky_part_is_no_error():
    """A part without an arrival counts zeros; if none of all arrives the merged one is refused."""
    given = dict(num_replicas=2, num_repetitions=4, target=60.0, num_paths=0)
    parts = [split(repetitions=own, **given) for own in ([0, 1], [2, 3])]
    assert [part.extinct for part in parts] == [2, 2]
    with pytest.raises(ss.SplittingError, match="No replica of 4 repetitions") as caught:
        ss.merge(parts)
    assert caught.value.result.extinct == 4


def test_what_is_refused_before_work(monkeypatch):
    """Repetitions that are none, and processes that would all do the same."""
    match = "repetitions must be identities from 0 to 39, as num_repetitions=40 .*got 40"
    with pytest.raises(ValueError, match=match):
        split(repetitions=range(38, 41))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        ValueError, match=r"joined 2 processes.*repetitions=range\(a, b\).*ss.merge"
    ):
        split()


def test_lanes_of_other_sizes_are_told():
    """A part may move fewer replicas at a time: its probabilities on a lattice are the same."""
    quick = split(repetitions=QUARTERS[3], chunk_size=40)
    assert (quick._campaign.settings.lanes, quarters()[0]._campaign.settings.lanes) == (40, 160)
    with pytest.warns(UserWarning, match="The parts moved 40 and 160 replicas at a time"):
        merged = ss.merge([*quarters()[:3], quick])
    np.testing.assert_array_equal(merged.probabilities, whole().probabilities)
