"""Members that every measure has finished with: they stay, cost nothing, and change no result."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.simulate import driver, rest

MEMBERS, STEPS = 64, 160
NEVER = 1e300


def out(theta):
    return jnp.abs(theta[0]) > 1.15


def far(theta):
    return theta[0] > 1.3


def process(kind):
    landscape, noise = ss.quadratic(1.0, 1.0), ss.ConstantNoise(np.array([[1.0]]))
    if kind == "SDE":
        return ss.ModifiedEquation(landscape, 0.4, noise, substeps=2)
    return ss.SGD(landscape, 0.5, ss.WithReplacement(2), momentum=0.5)


def simulate(kind="SDE", num_steps=STEPS, measures=None, **options):
    return ss.simulate(
        process(kind),
        jnp.zeros(1),
        num_steps=num_steps,
        ensemble_size=MEMBERS,
        key=jr.key(5),
        measures={"exit": ss.FirstPassage(out)} if measures is None else measures,
        **options,
    )


@functools.cache
def moving(kind):
    """The same ensemble recorded, with a measure that never finishes, so that nobody rests."""
    return simulate(
        kind, measures={"exit": ss.FirstPassage(out), "m": ss.Moments()}, record_every=1
    )


@pytest.fixture
def looks(monkeypatch):
    """Sets how much work lies between two looks at who rests; 0: every iteration."""
    return lambda work: monkeypatch.setattr(rest, "WORK_BYTES", work)


def check_left(run, kind="SDE"):
    """Exit times, bit for bit; positions of those that left are the recorded ones of that time."""
    times, path = moving(kind)["exit"].first_times, moving(kind).records[1]
    np.testing.assert_array_equal(run["exit"].first_times, times)
    last = np.where(np.isfinite(times), np.ceil(np.nan_to_num(times)), run.num_steps).astype(int)
    expected = path[last, np.arange(MEMBERS)]
    np.testing.assert_allclose(run.positions, expected, rtol=1e-9, atol=1e-12)
    for name in ("value", "standard_error"):
        ours, theirs = (getattr(r["exit"].mean_time, name) for r in (run, moving(kind)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_sizes_of_a_batch():
    """rows, rows/2, rows/4, … that still hold the needed, in multiples of the devices."""
    cases = {(64, 33, 1): 64, (64, 32, 1): 32, (64, 9, 1): 16, (64, 1, 1): 1, (64, 0, 1): 0}
    cases |= {(10, 4, 1): 5, (10, 3, 1): 3, (12, 1, 4): 4, (12, 5, 4): 8, (4, 1, 4): 4}
    for arguments, rows in cases.items():
        assert rest.halved(*arguments) == rows, arguments


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SDE", dict(chunk_size=24)), ("SGD", dict(devices=2))],
)
def test_results_do_not_depend_on_who_was_taken_out(looks, kind, options):
    """Exits and positions with a look at every iteration = without any = the recorded path's."""
    looks(NEVER)
    kept = simulate(kind, **options)
    check_left(kept, kind)
    looks(0)
    cut = simulate(kind, **options)
    check_left(cut, kind)
    left = np.isfinite(cut["exit"].first_times)
    assert left.sum() > 0.6 * MEMBERS
    # Without taking out every row costs every iteration; with it at most 2 rows an unfinished one.
    rows = kept.member_steps // STEPS
    assert rows * STEPS == kept.member_steps and rows >= MEMBERS
    risk = np.ceil(cut["exit"].first_risk).sum()
    spare = 8 * rows + 6 * STEPS
    assert risk <= cut.member_steps <= min(2 * risk + spare, 0.85 * kept.member_steps)


def test_a_measure_that_never_finishes_keeps_all_moving(looks):
    """Control: with moments beside it nobody rests: all rows, positions of the last iteration."""
    looks(0)
    run = simulate(measures={"exit": ss.FirstPassage(out), "m": ss.Moments()})
    assert run.member_steps == MEMBERS * STEPS
    np.testing.assert_array_equal(run.positions, moving("SDE").records[1][-1])
    assert np.abs(run.positions - simulate().positions).max() > 0.1


def test_members_rest_when_the_last_measure_has_finished(looks):
    """Two exit sets: both times are those of measures alone, and members stay at the later."""
    looks(0)
    both = {"exit": ss.FirstPassage(out), "far": ss.FirstPassage(far)}
    run = simulate(measures=both)
    alone = simulate(measures={"far": ss.FirstPassage(far)})
    np.testing.assert_array_equal(run["exit"].first_times, moving("SDE")["exit"].first_times)
    np.testing.assert_array_equal(run["far"].first_times, alone["far"].first_times)
    rested = np.isfinite(run["exit"].first_times) & np.isfinite(run["far"].first_times)
    last = np.ceil(np.maximum(run["exit"].first_times, run["far"].first_times)[rested]).astype(int)
    path = moving("SDE").records[1][last, np.flatnonzero(rested)]
    np.testing.assert_allclose(run.positions[rested], path, rtol=1e-9)


def test_records_show_them_where_they_left(looks):
    """θ_min(k, exit) at every recorded k, whoever was taken out."""
    looks(0)
    run = simulate(record_every=3)
    times = np.ceil(np.nan_to_num(moving("SDE")["exit"].first_times, nan=np.inf))
    steps = run.records[0]
    assert len(steps) == STEPS // 3 + 1
    last = np.minimum(steps[:, None], times).astype(int)
    expected = moving("SDE").records[1][last, np.arange(MEMBERS)]
    np.testing.assert_allclose(run.records[1], expected, rtol=1e-9, atol=1e-12)


def test_a_run_in_which_all_rest_is_over(looks):
    """10⁹ iterations after everybody has left cost nothing; to go on costs nothing either."""
    looks(0)
    drift = ss.SGD(ss.Potential(lambda x: -x[0], np.zeros((1, 1))), 0.1, ss.WithReplacement(1))
    run = ss.simulate(
        drift,
        jnp.arange(4.0)[:, None] / 10,
        num_steps=10**9,
        ensemble_size=4,
        key=jr.key(0),
        measures={"exit": ss.FirstPassage(lambda x: x[0] > 0.95)},
    )
    np.testing.assert_array_equal(run["exit"].first_times, [10, 9, 8, 7])
    assert run.complete and run.num_steps == 10**9 and run.member_steps < 100
    more = run.extend(1000)
    assert more.num_steps == 10**9 + 1000 and more.member_steps == run.member_steps
    np.testing.assert_array_equal(more.positions, run.positions)


def same_bits(run, other):
    ours, theirs = (jax.tree.leaves((r.positions, r.results)) for r in (run, other))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))


def test_a_run_resumes_with_those_taken_out(looks, tmp_path):
    """resume(run(110)) to 160 = run(160), bit for bit; in other chunks the same exits."""
    looks(2e5)
    file = tmp_path / "run.npz"
    whole = simulate(chunk_size=32)
    part = simulate(chunk_size=32, num_steps=110, checkpoint=file)
    assert 0 < sum(len(m.identity) for m in part._engine.resting) < MEMBERS
    other = file.with_name("other.npz")
    other.write_bytes(file.read_bytes())
    resumed = simulate(chunk_size=32, checkpoint=file)
    assert same_bits(resumed, whole) and resumed.member_steps == whole.member_steps
    assert whole.member_steps < 0.85 * MEMBERS * STEPS
    check_left(simulate(checkpoint=other))
    assert same_bits(part.extend(STEPS - 110), whole)


def test_numbers_by_place_are_seen(looks, monkeypatch):
    """Control: members keyed by their place in the smaller batch leave at other times."""

    def by_place(chunk, needed, rows):
        kept, left = rest.cut(chunk, needed, rows)
        places = np.sort(np.concatenate([kept.identity, left.identity]))
        return (
            eqx.tree_at(lambda m: m.identity, kept, places[:rows]),
            eqx.tree_at(lambda m: m.identity, left, places[rows:]),
        )

    looks(0)
    monkeypatch.setattr(driver, "cut", by_place)
    wrong = np.sort(simulate()["exit"].first_times)
    right = np.sort(moving("SDE")["exit"].first_times)
    assert not np.array_equal(wrong, right, equal_nan=True)
