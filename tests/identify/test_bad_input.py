"""Faults of trajectories and snapshots: one error each, which says what would do."""

import numpy as np
import pytest

import sde_sgd as ss

RNG = np.random.default_rng(1)
LINE = ss.identify.PolynomialBasis(1, 1)


def paths(times=30, members=50, factor=0.8):
    """x ← factor·x + noise, stationary but for the start."""
    x = np.zeros((times, members))
    x[0] = RNG.normal(size=members)
    for k in range(times - 1):
        x[k + 1] = factor * x[k] + 0.3 * RNG.normal(size=members)
    return x


READERS = {
    "local": lambda x, **k: ss.identify.kramers_moyal(x, [0.0], bandwidth=0.5, **k),
    "linear": ss.identify.linear,
    "sparse": lambda x, **k: ss.identify.sparse(x, LINE, **k),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_checks_the_data(name):
    """Shape, time step, NaN (who and when), members, length."""
    read, good = READERS[name], paths()
    read(good, time_step=0.2)
    with pytest.raises(ValueError, match=r"num_times, members, d.*\(30,\)"):
        read(good[:, 0], time_step=0.2)
    with pytest.raises(ValueError, match="needs time_step="):
        read(good)
    with pytest.raises(ValueError, match="time_step must be a finite number > 0"):
        read(good, time_step=0.0)
    bad = good.copy()
    bad[7, 3] = np.nan
    with pytest.raises(ValueError, match="member 3 at record 7"):
        read(bad, time_step=0.2)
    with pytest.raises(ValueError, match="3 are too few: at least 8"):
        read(good[:, :3], time_step=0.2)
    with pytest.raises(ValueError, match="too short.*61 records or more, and there are 30"):
        read(good, time_step=0.2, lag=60)
    with pytest.raises(ValueError, match="too short: one record"):
        read(np.ones((1, 20)), time_step=0.2)
    with pytest.raises(ValueError, match="integer ≥ 1"):
        read(good, time_step=0.2, lag=0)
    with pytest.raises(ValueError, match="never moves"):
        read(np.ones((10, 20)), time_step=0.2)


@pytest.mark.parametrize("name", ["local", "sparse"])
def test_too_coarse_for_an_expansion(name):
    """A lag beyond the relaxation time; two lags count with the longer."""
    read = READERS[name]
    with pytest.raises(ValueError, match="too coarse"):
        read(paths(factor=0.2), time_step=0.2)
    with pytest.raises(ValueError, match="too coarse"):
        read(paths(factor=0.8, members=400), time_step=0.2, lag=3, correction="extrapolated")
    with pytest.raises(ValueError, match="correction must be"):
        read(paths(), time_step=0.2, correction="midpoint")


def test_too_coarse_at_one_point():
    """In a steep place the lag is refused though the pooled relaxation is slow."""
    x = np.zeros((4, 4000))
    x[0] = RNG.uniform(-2, 2, 4000)
    for k in range(3):  # slope −5 for |x| > 1, free in between
        pull = 5 * np.sign(x[k]) * np.maximum(np.abs(x[k]) - 1, 0)
        x[k + 1] = x[k] - 0.18 * pull + 0.05 * RNG.normal(size=4000)
    ss.identify.kramers_moyal(x, [0.0], bandwidth=0.3, time_step=0.18)
    with pytest.raises(ValueError, match="too coarse at x = 1.6"):
        ss.identify.kramers_moyal(x, [1.6], bandwidth=0.3, time_step=0.18)


def test_no_logarithm():
    """Modes that alternate or have died out have no logarithm."""
    for factor in (-0.5, 0.0):
        with pytest.raises(ValueError, match="too coarse"):
            ss.identify.linear(paths(factor=factor), time_step=0.2)
    with pytest.raises(ValueError, match="d ≤ 4"):
        ss.identify.linear(RNG.normal(size=(5, 20, 5)).cumsum(axis=0), time_step=0.1)


def test_local_faults():
    """Points nobody visits, bandwidths, degrees, planes."""
    x = paths()
    read = ss.identify.kramers_moyal
    with pytest.raises(ValueError, match="Nobody starts within"):
        read(x, [40.0], bandwidth=0.5, time_step=0.2)
    with pytest.raises(ValueError, match="bandwidth, in units of x, must be"):
        read(x, [0.0], bandwidth=-1.0, time_step=0.2)
    with pytest.raises(ValueError, match="degree must be"):
        read(x, [0.0], bandwidth=0.5, time_step=0.2, degree=7)
    with pytest.raises(ValueError, match="one coordinate"):
        read(np.stack([x, x[::-1]], axis=2), [0.0], bandwidth=0.5, time_step=0.2)


def test_dictionary_faults():
    """Too many terms, terms that cannot be told apart, another dimension."""
    x = paths()
    with pytest.raises(ValueError, match="60 members or more"):
        ss.identify.sparse(x, ss.identify.PolynomialBasis(1, 29), time_step=0.2)
    with pytest.raises(ValueError, match="apart"):
        ss.identify.sparse(x + 1e4, ss.identify.PolynomialBasis(1, 3), time_step=0.2)
    with pytest.raises(ValueError, match="2 coordinates"):
        ss.identify.sparse(x, ss.identify.PolynomialBasis(2, 1), time_step=0.2)
    one = np.zeros((10, 40))
    one[:, 0] = np.arange(10.0)  # one member moves
    with pytest.raises(ValueError, match="single member"):
        ss.identify.sparse(one, LINE, time_step=0.2)


def test_snapshot_faults():
    """Times, stationary laws, too few conditions or members, terms that no test sees."""
    x = paths(times=4, members=4000)
    read, times = ss.identify.from_snapshots, np.arange(4) * 0.2
    with pytest.raises(ValueError, match="increasing"):
        read(x, times[::-1], LINE)
    with pytest.raises(ValueError, match=r"times \(num_times,\)"):
        read(x, times[:2], LINE)
    still = RNG.normal(size=(4, 4000))
    with pytest.raises(ValueError, match="do not move"):
        read(still, times, LINE)
    with pytest.raises(ValueError, match="cannot determine"):
        read(x[:2], times[:2], ss.identify.PolynomialBasis(1, 3), tests=LINE)
    with pytest.raises(ValueError, match="members or more"):
        read(x[:, :50], times, LINE)
    with pytest.raises(ValueError, match="No test function sees"):
        read(x + np.arange(4)[:, None], times, ss.identify.PolynomialBasis(1, 0), tests=LINE)
    with pytest.raises(ValueError, match="quadrature must be"):
        read(x, times, LINE, quadrature="Simpson")


@pytest.mark.parametrize("name", READERS)
def test_trajectories_of_unequal_length_are_told_apart(name):
    """Lists of 30 and 20 records, by record and by member."""
    rows = [row.tolist() for row in paths()]
    with pytest.raises(ValueError, match="lengths from 20 to 50.*Cut all to the shortest"):
        READERS[name]([*rows[:-1], rows[-1][:20]], time_step=0.2)
    deeper = [[[x] for x in row] for row in rows]
    deeper[3][4] = [1.0, 2.0]
    with pytest.raises(ValueError, match="rows have one length"):
        READERS[name](deeper, time_step=0.2)


def test_numbers_and_parts_by_name():
    """NaN switches no check off; parts and words of another kind."""
    good = paths()
    for wrong in (
        lambda: ss.identify.sparse(good, LINE, time_step=0.2, failure_rate=np.nan),
        lambda: ss.identify.sparse(good, LINE, time_step=np.nan),
        lambda: ss.identify.kramers_moyal(good, [0.0], bandwidth=np.nan, time_step=0.2),
        lambda: ss.identify.PolynomialBasis(1, 1, centre=[np.nan]),
    ):
        with pytest.raises(ValueError, match=r"nan|NaN"):
            wrong()
    for words in ("centerd", "", "naïve"):
        with pytest.raises(ValueError, match="correction must be one of 'naive', 'centred'"):
            ss.identify.sparse(good, LINE, time_step=0.2, correction=words)
    with pytest.raises((ValueError, TypeError), match="time_step"):
        ss.identify.linear(good, time_step="0.2")
