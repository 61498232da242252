"""Results and errors go through pickle, as between the processes of a pool, and come back equal."""

import copy
import inspect
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fuzz.public import public

import sde_sgd as ss
from sde_sgd.measure.base import MeasureResult

OPTIONS = dict(num_steps=64, ensemble_size=8, key=jr.key(0))


def well():
    """A process with a function that pickle cannot find."""
    landscape = ss.Potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, np.array([[0.5]]))
    return ss.SGD(landscape, 0.1, ss.WithReplacement(1))


def measures():
    return {
        "moments": ss.Moments(),
        "histogram": ss.Histogram([-2.0, 0.0, 2.0]),
        "joint": ss.Histogram([[-2.0, 0.0, 2.0], [0.0, 4.0]], of=lambda x: jnp.stack([x[0]] * 2)),
        "snapshots": ss.Snapshots([0, 3]),
        "exit": ss.FirstPassage(lambda x: x[0] > 0.2),
        "where": ss.Occupation(lambda x: (x[0] > 0).astype(int), 2),
        "correlation": ss.Autocovariance(max_lag=4),
        "increments": ss.ConditionalIncrements(lambda x: x[0], [-2.0, 0.0, 2.0]),
        "areal": ss.measure.ArealVelocity(lambda x: jnp.stack([x[0], x[0] ** 2])),
        "entropy": ss.measure.EntropyProduction(lambda x, y: jnp.sum(x - y)),
        "spectrum": ss.Spectrum(lambda x: jnp.diag(jnp.stack([x[0], 2 * x[0]])), edges=[0.0, 1.0]),
        "still": ss.Stationarity(),
        "tails": ss.measure.TailRatios([0.1, 0.2]),
    }


@pytest.fixture(scope="module")
def run():
    start = np.linspace(-1.2, 0.1, 8)[:, None]
    return ss.simulate(well(), start, **OPTIONS, measures=measures(), record_every=8)


@pytest.fixture(scope="module")
def split():
    return ss.splitting(
        well(),
        jnp.array([-1.0]),
        level=lambda x: x[0],
        origin=-0.9,
        surface=-0.8,
        target=-0.2,
        num_replicas=8,
        num_repetitions=2,
        num_paths=1,
        key=jr.key(0),
    )


def again(value):
    return pickle.loads(pickle.dumps(value))


def assert_equal(ours, theirs):
    assert type(ours) is type(theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run(run):
    """Everything that a run found comes back, its labelled arrays too; it cannot be extended."""
    for back in (again(run), copy.deepcopy(run)):
        assert_equal(
            (back.positions, back.records, back.alive), (run.positions, run.records, run.alive)
        )
        assert_equal(back.results, run.results)
        assert back.to_xarray().identical(run.to_xarray()) and repr(back) == repr(run)
        assert back.process is None and back.time == run.time
        with pytest.raises(ValueError, match="This run is a copy"):
            back.extend(1)
    assert run.extend(1).num_steps == 65


def test_every_class_of_results(run):
    """Each class that a measure of the library returns is among those that came back."""
    results = [*run.results.values()]
    assert {type(r) for r in results} == {
        c for c in MeasureResult.__subclasses__() if c.__module__.startswith("sde_sgd.")
    }
    for result in results:
        back = again(result)
        assert_equal(back, result)
        assert repr(back) == repr(result)


def test_a_process_that_pickle_can_find_comes_back(tmp_path):
    """A run of least squares takes its process along."""
    process = ss.SGD(ss.LeastSquares(np.ones((4, 1)), np.ones(4)), 0.1, ss.WithReplacement(2))
    back = again(ss.simulate(process, jnp.zeros(1), num_steps=2, ensemble_size=1, key=jr.key(0)))
    assert_equal(back.process, process)


def test_a_divergence():
    """The error comes back with its message and its run: a pool does not wait for ever."""
    with pytest.raises(ss.DivergenceError) as caught:
        ss.simulate(well(), jnp.array([1e3]), **OPTIONS)
    back = again(caught.value)
    assert type(back) is ss.DivergenceError and str(back) == str(caught.value)
    assert back.run.diverged == caught.value.run.diverged


def test_splitting(split):
    """A result of splitting, and its error with the result that it carries."""
    back = again(split)
    assert repr(back) == repr(split)
    numbers = {k: v for k, v in vars(split).items() if k not in ("_campaign", "process")}
    assert_equal({k: v for k, v in vars(back).items() if k in numbers}, numbers)
    with pytest.raises(ValueError, match="This result is a copy"):
        back.resume()
    error = ss.SplittingError("no way out")
    error.result = split
    back = again(error)
    assert str(back) == "no way out" and repr(back.result) == repr(split)


def test_every_public_error():
    """All errors that the library defines are in this file's list, so that a new one is tried."""
    errors = {v for v in public().values() if inspect.isclass(v) and issubclass(v, Exception)}
    assert errors == {ss.DivergenceError, ss.SplittingError}


NUMBERS = np.random.default_rng(0).normal(size=(2, 40, 2))


def comparisons():
    """One of each public result that is made without a run."""
    near = ss.Estimate(np.array(1.0), np.array(0.1), 8)
    yield near
    yield ss.compare(near, 1.1, name="mean")
    yield ss.paired_difference(NUMBERS[0], NUMBERS[1])
    yield ss.distances.permutation_test(*NUMBERS, key=jr.key(0), num_permutations=19)
    yield ss.noise_statistics(
        ss.LeastSquares(NUMBERS[0], NUMBERS[1, :, 0]),
        np.zeros(2),
        ss.WithReplacement(4),
        key=jr.key(0),
        num_draws=512,
    )
    yield ss.identify.PolynomialBasis(1, 2)
    yield ss.theory.laws.Gaussian(np.zeros(2), np.eye(2))


def test_what_is_made_without_a_run():
    """Estimates, comparisons, tests, bases and laws."""
    for value in comparisons():
        back = again(value)
        assert type(back) is type(value)
        if isinstance(value, eqx.Module):
            assert_equal(eqx.filter(back, eqx.is_array_like), eqx.filter(value, eqx.is_array_like))
