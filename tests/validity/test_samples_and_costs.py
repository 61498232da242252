"""`validity` on some of the examples, what it says while it works, what it costs, its files."""

import re
import time

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from test_validity import LANDSCAPE, quadratic, verdict

import sde_sgd as ss
from sde_sgd.netcdf import write_dataset
from sde_sgd.validity.checks import check_request
from sde_sgd.validity.cost import work
from sde_sgd.validity.cumulants import batch_shape
from sde_sgd.validity.examples import Examples
from sde_sgd.validity.report import Report
from sde_sgd.validity.survey import explore, Explored, predictor, survey

RNG = np.random.default_rng(3)
SILENT = Report("validity", 1, False)
MANY = ss.LeastSquares(RNG.normal(size=(2000, 3)) ** 3, RNG.normal(size=2000))


@pytest.mark.parametrize("size", [1, 3])
def test_a_sample_stands_for_all_examples(size):
    """Shape of subsets of 12 numbers, each twice, from the 6 that stand for them."""
    values = np.array([3.0, -1.0, 0.5, 0.2, -2.0, 1.3])
    for sampling in (ss.WithoutReplacement(2 * size), ss.WithReplacement(2 * size)):
        found, exact = batch_shape(values, sampling, 12), batch_shape(np.tile(values, 2), sampling)
        np.testing.assert_allclose(found, exact, rtol=1e-12)
    # Control: 6 numbers that stand for themselves have other subsets.
    alone = batch_shape(values, ss.WithoutReplacement(2 * size))
    assert alone.deviation < 0.95 * batch_shape(values, ss.WithoutReplacement(2 * size), 12)[0]


def test_samples_share_no_example():
    """Two samples of n of N > 2n different rows; all of N ≤ 2n."""
    rows = jnp.arange(40.0)[:, None]
    landscape = ss.LeastSquares(rows, np.zeros(40))
    parts = Examples.of(landscape, 15, jr.key(0))
    seen = [np.asarray(part.data[0])[:, 0] for part in (parts.chosen, parts.examined)]
    assert parts.sampled and len(set(np.concatenate(seen))) == 30
    whole = Examples.of(landscape, 20, jr.key(0))
    assert whole.examined is landscape and not whole.sampled


def test_slope_of_a_sample_is_exact():
    """p = ∇L(θ) − Hθ, from 16 of 100 tilts and 8 explored points, on ½z² with its own Hessian."""
    tilts = np.random.default_rng(1).normal(size=100)
    landscape = quadratic(tilts - tilts.mean())
    sgd = ss.SGD(landscape, 0.1, ss.WithReplacement(4))
    start = jnp.full(1, 0.7)
    request = check_request(landscape, sgd, start, key=jr.key(0), sample=16, explore_steps=5)
    ground = survey(request, Examples.of(landscape, 16, request.keys[0]), SILENT)
    explored = explore(sgd, start, 5, 4, request.keys[1], SILENT)
    found = predictor(request, ground, explored, SILENT)
    assert ground.examples.sampled and len(found.groups) == 8
    direction = float(ground.found.basis[0, 0])
    for view in (found.view, *found.paths, *found.groups):
        assert view.moments.slope[0] == pytest.approx(0.7 * direction, rel=1e-6)
    # Control: the sample's own mean tilt is not that of all.
    assert abs(np.asarray(ground.examples.examined.data).mean()) > 0.02


def test_error_of_a_sample_is_its_spread():
    """log D over 24 samples has the standard deviation that each sample's jackknife gives.

    A standard deviation of 24 is 15 % uncertain, and so is the mean of 24 jackknives over 8
    groups at most: four errors of the logarithm of their ratio are a factor of 2.3.
    """
    sgd = ss.SGD(MANY, 0.01, ss.WithReplacement(4))
    start = MANY.minimum()
    visited = np.broadcast_to(np.asarray(start), (2, 1, 3))

    def distance(seed, sample):
        key = jr.key(seed)
        request = check_request(MANY, sgd, start, key=key, sample=sample, num_steps=100)
        ground = survey(request, Examples.of(MANY, sample, request.keys[0]), SILENT)
        found = predictor(request, ground, Explored(visited, 0), SILENT)
        return found.distance(request.settings, sgd.sampling)

    values, errors = np.array([distance(seed, 200) for seed in range(24)]).T
    spread, error = np.log(values).std(ddof=1), np.sqrt(np.mean((errors / values) ** 2))
    assert 1 / 2.3 < error / spread < 2.3
    exact, none = distance(0, 1000)
    assert none < 1e-9 and abs(np.log(values).mean() - np.log(exact)) < 2 * spread


def test_progress_names_every_stage(capsys):
    """Lines on stderr: what is looked at, how long it will take, each stage in turn; else none."""
    verdict(progress=True)
    said = capsys.readouterr().err.splitlines()
    assert "d = 1, N = 64 examples" in said[0]
    assert re.search(r"about \d+ s and \d+ MB, .* times one SGD run of 200 iterations", said[2])
    numbers = [int(m[1]) for line in said if (m := re.match(r"validity (\d)/8: ", line))]
    assert numbers == sorted(numbers) and set(numbers) == set(range(1, 9))
    assert "done in" in said[-1]
    verdict(progress=False)
    assert capsys.readouterr().err == ""


def test_a_long_stage_is_not_silent(capsys):
    """A stage that ticks nothing still writes lines, with the time left."""
    with Report("work", 1, True) as report:
        report.line.pause = 0.05
        report.expect(100.0, "about 100 s")
        report.stage("one long call")
        time.sleep(0.5)
    lines = [line for line in capsys.readouterr().err.splitlines() if "one long call" in line]
    assert len(lines) >= 4 and all("s left" in line for line in lines)


def test_forecast_counts_example_gradients():
    """2 000 more examples than the samples cost one gradient each more, and no more than that."""

    def counted(num):
        landscape = ss.LeastSquares(np.ones((num, 20)), np.zeros(num))
        sgd = ss.SGD(landscape, 0.01, ss.WithReplacement(8))
        start = jnp.zeros(20)
        return work(check_request(landscape, sgd, start, key=jr.key(0), sample=100, svag=()))

    few, many = counted(2000), counted(4000)
    assert sum(many.values()) - sum(few.values()) == pytest.approx(2000)
    assert few["exploring"] == 4 * 500 * 8
    # 8 points, 7 directions, 28 pairs, 100 examples: a slope is a gradient, a pair 8/3.
    assert few["models"] == pytest.approx(8 * 100 * (7 + 28 * 8 / 3))


def test_forecast_is_a_price():
    """Seconds, bytes and the ratio to a run are positive; the gradients are those counted."""
    sgd = ss.SGD(LANDSCAPE, 0.05, ss.WithReplacement(4))
    found = ss.forecast_validity(LANDSCAPE, sgd, jnp.zeros(1), key=jr.key(0), num_steps=500)
    assert found.seconds > 0 and found.bytes > 0 and found.ratio_to_sgd > 0
    asked = check_request(LANDSCAPE, sgd, jnp.zeros(1), key=jr.key(0), num_steps=500)
    assert found.example_gradients == pytest.approx(sum(work(asked).values()))


def test_costly_svag_is_left_out():
    """By default no SVAG where its gradients are over 2·10¹⁰ numbers, and the remark says so."""
    wide = ss.LeastSquares(np.ones((100, 3000)), np.zeros(100))
    sgd = ss.SGD(wide, 1e-4, ss.WithReplacement(100))
    start = jnp.zeros(3000)
    asked = check_request(wide, sgd, start, key=jr.key(0))
    assert asked.svag == () and "SVAG left out" in asked.remarks[0]
    assert check_request(wide, sgd, start, key=jr.key(0), svag=(2,)).svag == (2,)
    cheap = ss.SGD(LANDSCAPE, 0.05, ss.WithReplacement(4))
    assert check_request(LANDSCAPE, cheap, jnp.zeros(1), key=jr.key(0)).svag == (2, 4, 8)


def test_saved_verdict_is_the_same(tmp_path):
    """`load` of what `save` wrote has the same table; the run and the libraries are attributes."""
    found = verdict(svag=(2,), svag_members=8, svag_steps=2)
    path = tmp_path / "verdict.nc"
    found.save(path)
    again = ss.Validity.load(path)
    assert again.table == found.table and again.seconds == found.seconds
    assert again.largest_learning_rate == found.largest_learning_rate
    assert len(again.figure().axes) == 6
    data = ss.load(path)
    assert data.attrs["verdict"] == found.verdict and data.attrs["learning_rate"] == 0.05
    assert data.attrs["num_examples"] == 64 and data.attrs["dimension"] == 1
    assert "version.jax" in data.attrs
    write_dataset(xr.Dataset({"x": ("n", [1.0])}), path)
    with pytest.raises(ValueError, match="not the arrays of a Validity"):
        ss.Validity.load(path)


def test_a_file_is_never_half_written(tmp_path):
    """What cannot be written leaves the old file and nothing else; a link goes on pointing."""
    path, link = tmp_path / "data.nc", tmp_path / "link.nc"
    link.symlink_to(path)
    good = xr.Dataset({"x": ("n", [1.0, 2.0])})
    write_dataset(good, link)
    assert link.is_symlink() and ss.load(path).equals(good)
    bad = xr.Dataset({"x": ("n", [1.0])}, attrs={"object": object()})
    with pytest.raises(TypeError):
        write_dataset(bad, path)
    assert ss.load(path).equals(good) and len(list(tmp_path.iterdir())) == 2
