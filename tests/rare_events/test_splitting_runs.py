"""Stopping, resuming, extending; reactive paths; what is refused, and in which words."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

# One size for all, so that they share their executables.
START, TOP, SIZE, REPETITIONS = 3, 10, 16, 200


def first(theta):
    return theta[0]


def lattice():
    """x ← x + 1 with chance 1/3, x ← x − 2 with 2/3."""
    tilts = np.array([[-2.0], [1.0], [1.0]])
    return ss.SGD(ss.Potential(first, tilts=tilts), 1.0, ss.WithReplacement(1))


def split(process=None, theta0=(float(START),), **options):
    given = dict(level=first, origin=0.0, target=float(TOP), num_levels=TOP, key=jr.key(0))
    given |= dict(num_replicas=SIZE, num_repetitions=REPETITIONS)
    process = lattice() if process is None else process
    theta0 = jnp.array(theta0) if isinstance(theta0, tuple) else theta0
    return ss.splitting(process, theta0, **(given | options))


@functools.cache
def whole():
    """A run that was never stopped, with 30 reactive paths."""
    return split(num_paths=30)


def test_reactive_paths_are_paths_of_the_chain():
    """Each starts at 3, moves by +1 or −2, stays within 1…9 until it ends at 10."""
    paths = whole().paths
    assert len(paths) == 30
    for path in paths:
        x = path[:, 0]
        assert x[0] == START and x[-1] == TOP
        assert ((x[1:-1] > 0) & (x[1:-1] < TOP)).all()
        assert set(np.diff(x)) <= {1.0, -2.0}
    # Mean length: the estimate weighs repetitions by their probability, hence the tolerance.
    lengths = np.array([len(path) - 1 for path in paths])
    spread = lengths.std() / np.sqrt(len(lengths)) + whole().reactive_time.standard_error
    assert abs(lengths.mean() - whole().reactive_time.value) < 5 * spread
    assert lengths.min() >= TOP - START


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path):
    """Budget, resume, checkpoint: the same probabilities, bit for bit; and the same paths."""
    file = tmp_path / "splitting.npz"
    with pytest.warns(UserWarning, match=r"splitting stopped after \d+ of 200 .*result.resume\(\)"):
        part = split(num_paths=30, budget=1e-6, checkpoint=file)
    assert not part.complete and part.num_repetitions < REPETITIONS
    restored = split(num_paths=30, checkpoint=file)
    resumed = part.resume()
    for run in (restored, resumed):
        assert run.complete
        np.testing.assert_array_equal(run.probabilities, whole().probabilities)
        assert [len(p) for p in run.paths] == [len(p) for p in whole().paths]
    # The finished file is read back without another step.
    again = split(num_paths=30, checkpoint=file)
    assert again.num_iterations == restored.num_iterations
    with pytest.raises(ValueError, match="belongs to another configuration"):
        split(checkpoint=file, target=9.0)
    # Of repetitions that are over no other paths can be had.
    for other in (0, 31):
        with pytest.raises(ValueError, match=f"num_paths was 30 and is {other}"):
            split(checkpoint=file, num_paths=other)
    with pytest.raises(ValueError, match="continue the newest"):
        newer = resumed.extend(1)
        assert newer.num_repetitions == REPETITIONS + 1
        resumed.extend(1)


def test_more_repetitions_are_those_of_a_larger_run():
    """Repetition r depends on the key and on r alone."""
    extended = split().extend(REPETITIONS)
    assert extended.num_repetitions == 2 * REPETITIONS
    np.testing.assert_array_equal(extended.probabilities[:REPETITIONS], whole().probabilities)
    # Memory for a few repetitions at a time changes nothing.
    small = split(num_repetitions=2 * REPETITIONS, memory=10**6)
    assert small._campaign.settings.reps_at_once < REPETITIONS
    np.testing.assert_array_equal(small.probabilities, extended.probabilities)
    other = split(key=jr.key(1)).probabilities
    assert (other != whole().probabilities).mean() > 0.8


def well(variance):
    return ss.SGD(ss.double_well(variance), 0.1, ss.WithReplacement(1))


def test_a_level_that_does_not_separate():
    """Noise that cannot climb the barrier: every repetition dies out, and the error says so."""
    with pytest.raises(ss.SplittingError, match="level function does not separate") as caught:
        split(well(0.02), (-0.8,), origin=-0.9, target=0.9)
    result = caught.value.result
    assert result.extinct == result.num_repetitions == REPETITIONS
    assert result.probability.value == 0
    assert "200 extinct" in repr(result)


@pytest.mark.filterwarnings("ignore:learning_rate=0.1")
def test_a_path_that_goes_nowhere():
    """Too slow for A and B: the error names `longest`. Beyond all numbers: it says that."""
    options = dict(origin=-0.9, target=0.9, longest=50)
    with pytest.raises(ss.SplittingError, match="longest=50 iterations and has reached neither"):
        split(well(1e-6), (0.0,), **options)
    with pytest.raises(ss.SplittingError, match="still inside the surface"):
        split(well(1e-6), (0.0,), surface=0.5, **options)
    blowing = dict(level=lambda x: jnp.sin(x[0]), origin=-2.0, target=2.0)
    with pytest.raises(ss.SplittingError, match="left the finite numbers"):
        split(well(0.02), (9.0,), **blowing)


NOISE = ss.ConstantNoise(np.array([[1.0]]))
WELL = ss.double_well(1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(target=2.0), r"level\(theta0\) = 3 is already ≥ target = 2"),
        (dict(origin=3.0), "theta0 lies in A .* give surface="),
        (dict(origin=lambda x: x[0] > 1), "theta0 lies in A"),
        (dict(surface=-1.0), "origin < surface < target; got 0, -1, 10"),
        (dict(surface=2.0), "is not below surface = 2"),
        (dict(target=np.nan), "target must be a finite number"),
        (dict(level=lambda x: x), r"level\(θ\) must give one real number .* shape \(1,\)"),
        (dict(origin=lambda x: x[0]), r"origin\(θ\) must give one boolean"),
        (dict(num_replicas=1), "num_replicas must be an integer ≥ 2"),
        (dict(kill_fraction=1.0), "kill_fraction must be a finite number between 0 and 1"),
        (dict(num_repetitions=0), "num_repetitions must be an integer ≥ 1"),
        (dict(num_repetitions=2**23), r"more than 2\*\*32 random streams"),
        (dict(surface=5.0, theta0=lambda key: jnp.zeros(1)), "theta0 must be one point"),
        (dict(theta0=np.ones((4, 1))), "theta0 must be one point"),
        (dict(process=ss.GradientFlow(WELL, 0.1)), "GradientFlow has no noise"),
        (dict(process=ss.SGD(WELL, lambda k: 0.1, ss.WithReplacement(1))), "common clock"),
        (
            dict(process=ss.ModifiedEquation(WELL, 0.1, NOISE, increments="two_point")),
            "Two-point increments give wrong escape rates",
        ),
    ],
)
def test_what_is_refused(options, words):
    """Impossible requests raise one clear error before time is spent."""
    with pytest.raises(ValueError, match=words):
        split(**options)


def test_a_ladder_that_does_not_fit():
    """The bytes and the way out."""
    with pytest.raises(MemoryError, match="lower num_levels or num_replicas"):
        split(num_levels=2**16, memory=10**6)


@functools.cache
def exact():
    """q(x) = (q(x + 1) + 2 q(x − 2))/3 on 1…9, q = 0 at x ≤ 0 and 1 at x ≥ 10."""
    states = np.arange(1, TOP)
    matrix = np.eye(TOP - 1)
    matrix[states[:-1] - 1, states[:-1]] -= 1 / 3
    matrix[states[2:] - 1, states[2:] - 3] -= 2 / 3
    return np.linalg.solve(matrix, np.where(states == TOP - 1, 1 / 3, 0.0))


def test_starts_from_a_law():
    """Starts 3 and 4 with equal chance: p = (q(3) + q(4))/2, each repetition with its own."""
    found = split(theta0=lambda key: 3.0 + jr.bernoulli(key, shape=(1,)).astype(float))
    mean = (exact()[2] + exact()[3]) / 2
    assert ss.compare(found.probability, mean).verdict == "agrees"
    # Control: the first start alone.
    assert ss.compare(found.probability, exact()[2]).verdict == "disagrees"
