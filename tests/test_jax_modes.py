"""JAX's strict and debugging modes: every sampler, process and measure runs in each of them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import sde_sgd as ss
from sde_sgd.simulate.engine import prepare

INPUTS = np.random.default_rng(0).normal(size=(6, 2))


def landscape():
    return ss.LeastSquares(INPUTS, INPUTS[:, 0] - 0.5)


def with_replacement():
    return ss.WithReplacement(2)


def equation(noise, **options):
    return ss.ModifiedEquation(landscape(), 0.1, noise, **options)


PROCESSES = {
    "with replacement": lambda: ss.SGD(landscape(), 0.1, with_replacement(), 0.5),
    "subsets": lambda: ss.SGD(landscape(), 0.1, ss.WithoutReplacement(2)),
    "subsets by keys": lambda: ss.SGD(
        ss.LeastSquares(np.ones((40, 2)), np.ones(40)), 0.1, ss.WithoutReplacement(39)
    ),
    "reshuffling": lambda: ss.SGD(landscape(), 0.1, ss.RandomReshuffling(2)),
    "schedule": lambda: ss.SGD(landscape(), optax.linear_schedule(0.1, 0.0, 9), with_replacement()),
    "fresh examples": lambda: ss.SGD(ss.quadratic(1.0, 1.0), 0.1, with_replacement()),
    "Gaussian": lambda: ss.GaussianSGD(landscape(), 0.1, ss.MinibatchNoise(with_replacement())),
    "minibatch noise": lambda: equation(ss.MinibatchNoise(with_replacement()), substeps=2),
    "diagonal noise": lambda: equation(ss.DiagonalNoise(with_replacement())),
    "isotropic noise": lambda: equation(ss.IsotropicNoise(with_replacement())),
    "constant noise": lambda: equation(ss.ConstantNoise(np.array([[1.0, 0.5], [0.5, 2.0]]))),
    "constant diagonal noise": lambda: equation(ss.ConstantNoise(np.eye(2))),
    "Hessian noise": lambda: equation(ss.HessianNoise(0.5)),
    "thermal noise": lambda: equation(
        ss.ThermalNoise(ss.MinibatchNoise(with_replacement()), 0.1, 0.1)
    ),
    "second order": lambda: equation(ss.MinibatchNoise(with_replacement()), order=2),
    "two points": lambda: equation(ss.MinibatchNoise(with_replacement()), increments="two_point"),
    "flow": lambda: ss.GradientFlow(landscape(), 0.1),
    "SGLD": lambda: ss.SGLD(landscape(), 0.1, with_replacement(), 0.1),
    "SAM": lambda: ss.SAM(landscape(), 0.1, 0.05, with_replacement()),
    "SVAG": lambda: ss.SVAG(landscape(), 0.1, with_replacement(), 2),
    "optax": lambda: ss.OptaxSGD(landscape(), optax.sgd(0.1, momentum=0.5), with_replacement()),
}


def first(theta):
    return theta[0]


MEASURES = {
    "moments": lambda: ss.Moments(),
    "variances": lambda: ss.Moments(covariance="diagonal", every=2),
    "histogram": lambda: ss.Histogram([-1.0, 0.0, 1.0], of=first),
    "joint histogram": lambda: ss.Histogram([[-1.0, 0.0, 1.0], [-1.0, 1.0]]),
    "snapshots": lambda: ss.Snapshots([0, 2]),
    "first passage": lambda: ss.FirstPassage(lambda x: x[0] > 0.01, renewal=True),
    "occupation": lambda: ss.Occupation(lambda x: (x[0] > 0).astype(jnp.int32), 2),
    "autocovariance": lambda: ss.Autocovariance(max_lag=1),
    "increments": lambda: ss.ConditionalIncrements(first, [-1.0, 0.0, 1.0]),
    "areal": lambda: ss.measure.ArealVelocity(),
    "entropy": lambda: ss.measure.EntropyProduction(lambda x, y: jnp.sum(x - y)),
    "spectrum": lambda: ss.Spectrum(lambda x: jnp.outer(x, x), edges=[0.0, 1.0]),
    "tails": lambda: ss.measure.TailRatios([0.1, 0.2], first),
}


def run(process, measures=None, **options):
    options = dict(num_steps=3, ensemble_size=2, key=jr.key(0), record_every=2) | options
    start = jnp.zeros(process.landscape.dimension)
    return ss.simulate(process, start, measures=measures, check_stability=False, **options)


def trace(process, measures=None):
    """An iteration, as it is compiled, without compiling it."""
    start, options = jnp.zeros(process.landscape.dimension), dict(num_steps=3, ensemble_size=2)
    prepare(process, start, measures=measures, key=jr.key(0), check_stability=False, **options)


def split():
    return ss.splitting(
        ss.SGD(ss.quadratic(1.0, 1.0), 0.1, with_replacement()),
        jnp.zeros(1),
        level=first,
        origin=-0.15,
        target=0.15,
        num_replicas=8,
        num_repetitions=1,
        num_levels=4,
        num_paths=1,
        key=jr.key(0),
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_no_process_promotes_by_itself(name):
    """Under "raise" for ranks and "strict" for dtypes an iteration of each process is traced."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        trace(PROCESSES[name]())


@pytest.mark.parametrize("name", MEASURES)
def test_no_measure_promotes_by_itself(name):
    """The same with each measure."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        trace(PROCESSES["with replacement"](), {"m": MEASURES[name]()})


def test_a_bridge_and_splitting_do_not_promote_by_themselves():
    """The same of first passage with a bridge, and of a whole splitting with its paths."""
    process = PROCESSES["minibatch noise"]()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        trace(process, {"exit": ss.FirstPassage.bridged(process, lambda x: x[0] - 0.2)})
        strict = split()
    np.testing.assert_array_equal(strict.probabilities, split().probabilities)


def test_nothing_is_nan_that_need_not_be():
    """With debug_nans: shuffled epochs, and snapshots and entropies that are yet to come."""
    measures = {
        "late": ss.Snapshots([0, 3]),
        "entropy": ss.measure.EntropyProduction(
            lambda x, y: 0 * x[0], lambda x: 0 * x[0], at=[1, 3]
        ),
    }
    process = PROCESSES["reshuffling"]()
    with jax.debug_nans(True):
        found = run(process, measures)
    np.testing.assert_array_equal(found["late"].values[1], found.positions)
    np.testing.assert_array_equal(found["entropy"].fluctuation.num_samples, 2)


def test_without_compilation_the_numbers_are_the_same():
    """With disable_jit: an SDE of two steps, shuffled epochs with refill, splitting."""

    def everything():
        exit_ = {"exit": MEASURES["first passage"]()}
        yield run(PROCESSES["minibatch noise"](), exit_).positions
        yield run(PROCESSES["reshuffling"](), exit_, refill=True).positions
        yield split().probabilities

    with jax.disable_jit():
        plain = [*everything()]
    for ours, theirs in zip(plain, everything(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
