"""Some members of an ensemble: each is who it is in the whole, and the rows say who is who."""

import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate import driver, engine
from sde_sgd.simulate.members import check_identities
from sde_sgd.simulate.plan import make_mesh

SIZE, STEPS = 24, 60
LINE = (3, 17, 18)


def least_squares():
    inputs, noise = normal(1, 16, 3), normal(2, 16)
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -2.0, 0.5]) + 0.5 * noise)


def reshuffled():
    return ss.SGD(least_squares(), 0.05, ss.RandomReshuffling(5), momentum=0.7)


def equation():
    noise = ss.MinibatchNoise(ss.WithReplacement(4))
    return ss.ModifiedEquation(least_squares(), 0.1, noise, substeps=2)


def sampled(key):
    return jr.normal(key, (3,))


def simulate(process, start=sampled, **options):
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(6), record_every=20)
    return ss.simulate(process, start, **(given | options))


@pytest.mark.parametrize("process", [reshuffled, equation])
def test_members_are_those_of_the_whole(process):
    """θ_k(member) of a part is θ_k(member) of the whole, bit for bit, for ranges and lists."""
    whole = simulate(process())
    for members in (range(6, 12), [18, 3, 17], np.array([23]), range(20, -1, -10)):
        part = simulate(process(), members=members)
        rows = np.sort(np.asarray(members))
        np.testing.assert_array_equal(part.members, rows)
        np.testing.assert_array_equal(part.starts, whole.starts[rows])
        np.testing.assert_array_equal(part.positions, whole.positions[rows])
        np.testing.assert_array_equal(part.records[1], whole.records[1][:, rows])
        assert part.ensemble_size == SIZE and part.member_steps == STEPS * len(rows)
    everybody = simulate(process(), members=range(SIZE))
    np.testing.assert_array_equal(everybody.positions, whole.positions)


def test_member_i_starts_in_row_i():
    """Full batches: θ_k(i) = (1 − η H)^k θ_0(i) about the minimum, θ_0(i) row i of the whole."""
    landscape, eta = least_squares(), 0.1
    process = ss.SGD(landscape, eta, ss.WithoutReplacement(16))
    minimum = np.asarray(landscape.minimum())
    inputs = normal(1, 16, 3)
    power = np.linalg.matrix_power(np.eye(3) - eta * inputs.T @ inputs / 16, STEPS)
    starts = normal(3, SIZE, 3)
    part = simulate(process, starts, members=LINE)
    expected = minimum + (starts[list(LINE)] - minimum) @ power.T
    np.testing.assert_allclose(part.positions, expected, rtol=0, atol=1e-12)
    # Control: rows in the order of the part are far away.
    wrong = minimum + (starts[:3] - minimum) @ power.T
    assert np.abs(part.positions - wrong).max(axis=1).min() > 1e-3


def test_one_member_is_run_again_with_its_trajectory(tmp_path):
    """The member that left last, alone and recorded: it leaves when it did in the whole."""

    def out(theta):
        return jnp.abs(theta[0]) > 0.9

    process = ss.SGD(ss.quadratic(1.0, 1.0), 0.5, ss.WithReplacement(1))
    options = dict(measures={"exit": ss.FirstPassage(out)}, num_steps=200, record_every=None)
    whole = simulate(process, jnp.zeros(1), **options)
    times = whole["exit"].first_times
    who = int(np.nanargmax(times))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "measures")
        alone = simulate(process, jnp.zeros(1), **(options | dict(record_every=1)), members=[who])
    steps, positions = alone.records
    first = int(np.argmax(np.abs(positions[:, 0, 0]) > 0.9))
    assert steps[first] == times[who] == alone["exit"].first_times[0]
    np.testing.assert_array_equal(alone["exit"].members, [who])


def test_a_file_names_the_members(tmp_path):
    """Identities are the coordinate `member`, of states and of measures that left some out."""
    starts = np.linspace(-1.2, 1.2, SIZE)[:, None]
    starts[17] = 1.9  # It runs away, by ẋ = x² − 1.
    process = ss.SGD(
        ss.Potential(lambda x: x[0] - x[0] ** 3 / 3, np.zeros((1, 1))), 0.1, ss.WithReplacement(1)
    )
    options = dict(measures={"late": ss.Snapshots([0, 60])}, on_divergence="mask")
    with pytest.warns(UserWarning, match="1 of 3 members of SGD diverged"):
        part = simulate(process, starts, members=LINE, **options)
    assert list(part.diverged) == [17]
    np.testing.assert_array_equal(part["late"].members, [3, 18])
    assert "3 of 24 members" in repr(part)
    part.save(tmp_path / "part.nc")
    data = ss.load(tmp_path / "part.nc")
    np.testing.assert_array_equal(data["member"], LINE)
    np.testing.assert_array_equal(data["start"].sel(member=18), starts[18])
    np.testing.assert_array_equal(data["late_values"].sel(member=18, late_k=0), starts[18])
    assert np.isnan(data["late_values"].sel(member=17)).all()
    assert data.attrs["ensemble_size"] == SIZE
    with pytest.raises(ss.DivergenceError, match=r"1 of 3 members.*member 17 at iteration"):
        simulate(process, starts, members=LINE)


def test_a_part_whose_members_all_died_goes_on(tmp_path):
    """With "mask" the whole has others alive: a part of dead ones reaches the same iteration."""
    process = ss.SGD(
        ss.Potential(lambda x: -(x[0] ** 4), np.zeros((1, 1))), 0.1, ss.WithReplacement(1)
    )
    options = dict(on_divergence="mask", record_every=None, check_stability=False)
    starts = np.where(np.arange(SIZE) == 5, 3.0, 0.0)[:, None]
    with pytest.warns(UserWarning, match="1 of 1 members"):
        part = simulate(process, starts, members=[5], **options)
    assert part.complete and not part.alive.any()


BAD = {
    "beyond the ensemble": (range(20, 30), r"from 0 to 23, as ensemble_size=24 .*got 29"),
    "negative": ([-1], r"from 0 to 23.*got -1"),
    "twice": ([3, 4, 3], r"members names 3 more than once"),
    "none": ([], r"members is empty: give identities from 0 to 23"),
    "an empty range": (range(4, 4), r"members is empty"),
    "a number": (5, r"members must be a list, such as range\(0, 24\); got 5"),
    "fractions": ([0.5], r"got 0.5"),
    "flags": ([True, False], r"got True"),
    "a set": ({1, 2}, r"members must be a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_members_that_are_none(name, monkeypatch):
    """One clear error before anything is computed."""
    members, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        check_identities("members", members, SIZE, "ensemble_size")

    def refuse(*arguments):
        raise AssertionError("something was computed")

    monkeypatch.setattr(engine, "step_cost", refuse)
    with pytest.raises(ValueError, match="members must be identities from 0 to 23"):
        simulate(reshuffled(), members=range(20, 30))


def test_the_checkpoint_of_a_part_is_its_own(tmp_path):
    """Neither another part nor the whole goes on from it, nor it from that of the whole."""
    path, every = tmp_path / "part.npz", tmp_path / "whole.npz"
    part = simulate(reshuffled(), members=range(0, 6), checkpoint=path)
    with pytest.raises(ValueError, match="members was 0 … 5 and is 6 … 11"):
        simulate(reshuffled(), members=range(6, 12), checkpoint=path)
    with pytest.raises(ValueError, match="members was 0 … 5 and is None"):
        simulate(reshuffled(), checkpoint=path)
    simulate(reshuffled(), checkpoint=every)
    with pytest.raises(ValueError, match="members was None and is 0 … 5"):
        simulate(reshuffled(), members=range(0, 6), checkpoint=every)
    again = simulate(reshuffled(), members=[5, 4, 3, 2, 1, 0], checkpoint=path, num_steps=80)
    np.testing.assert_array_equal(again.positions, part.extend(20).positions)


def test_a_part_of_an_ensemble_that_fits_nowhere():
    """The last three of 2·10⁹ members: nothing is made for the others."""
    size = 2 * 10**9
    members = range(size - 3, size)
    options = dict(ensemble_size=size, members=members, chunk_size=3)
    part = simulate(reshuffled(), **options)
    np.testing.assert_array_equal(part.members, members)
    assert np.ptp(part.positions, axis=0).min() > 1e-3
    with pytest.raises(MemoryError, match="2000000000 members"):
        simulate(reshuffled(), ensemble_size=size)


def test_idle_rows_are_told_where_they_cost(monkeypatch):
    """A part that is less than a chunk: a long run is told; `chunk_size` has other bits only."""
    monkeypatch.setattr(driver, "_LONG", 0)
    with pytest.warns(UserWarning, match=r"3 members move with 21 idle rows.*chunk_size=3 in"):
        part = simulate(equation(), members=LINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = simulate(equation(), members=LINE, chunk_size=3)
    assert quick._engine.plan.padded == 3 and part._engine.plan.padded == SIZE
    np.testing.assert_allclose(quick.positions, part.positions, rtol=1e-9)
    whole = simulate(equation(), chunk_size=3)
    np.testing.assert_array_equal(quick.positions, whole.positions[list(LINE)])


def test_devices_and_forecasts_of_a_part():
    """Two devices move a part, and a forecast counts its members only."""
    part = simulate(reshuffled(), members=LINE, devices=2)
    np.testing.assert_allclose(part.positions, simulate(reshuffled(), members=LINE).positions)
    given = dict(num_steps=STEPS, ensemble_size=SIZE, key=jr.key(6))
    whole, some = (ss.forecast(reshuffled(), sampled, members=m, **given) for m in (None, LINE))
    assert some.example_gradients / whole.example_gradients == 3 / SIZE


def test_processes_that_jax_has_joined(monkeypatch):
    """Without `members` each would do all: refused; with them a process uses its own devices."""
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 4)
        match = r"joined 4 processes.*members=range\(a, b\).*ss.merge.*members=range\(24\)"
        with pytest.raises(ValueError, match=match):
            simulate(reshuffled())
        assert simulate(reshuffled(), members=LINE).complete
        assert simulate(reshuffled(), members=range(SIZE)).complete
        with pytest.raises(ValueError, match=r"devices=99.*other processes.*members=range\(a, b\)"):
            make_mesh(99)
    devices = jax.devices()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_index", lambda: 1)
        with pytest.raises(
            ValueError, match=r"devices\[0\] belongs to process 0.*this is process 1"
        ):
            make_mesh(devices[:1])
