"""Valid calls of runs, measures, comparisons and what reads a landscape."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy import stats

import sde_sgd as ss
from sde_sgd import plots

from .made import first, made, MORE, ROWS, THETA
from .recipes import add

KEY = jr.key(0)
_many = np.random.default_rng(3).normal(size=100)
_when = dict(burn_in=0, every=1)
_run = dict(num_steps=2, ensemble_size=4, key=KEY)


def right(theta):
    return theta[0] > 0.5


def side(theta):
    return jnp.where(theta[0] > 0, 1, 0)


def centred(theta):
    return jnp.diag(theta)


# Runs.
_options = dict(
    measures={"moments": ss.Moments()}, record_every=None, refill=False, members=[0],
    memory=None, chunk_size=None, devices=None, check_stability=False,
)  # fmt: skip
_ending = dict(progress=False, checkpoint=None, budget=None, on_divergence="raise")
add(
    "simulate",
    lambda: (ss.simulate, dict(process=made.sgd, theta0=THETA, **_run, **_options, **_ending)),
)
add("forecast", lambda: (ss.forecast, dict(process=made.sgd, theta0=THETA, **_run, **_options)))
add("Run.extend", lambda: (made.run.extend, dict(num_steps=2, **_ending)))
add("Run.save", lambda: (made.run.save, dict(path="/nowhere/run.nc")))
add("Run.__getitem__", lambda: (made.run.__getitem__, dict(name="histogram")))
add("merge", lambda: (ss.merge, dict(parts=[made.run])))
add("load", lambda: (ss.load, dict(path="/nowhere/run.nc")))
add("Checkpoint", lambda: (ss.Checkpoint, dict(path="/nowhere", every_seconds=30.0, version="1")))
_observed = dict(
    observables={"x": first}, snapshots=2, resolution={"x": 0.1}, num_bootstrap=20,
    measures={"moments": ss.Moments()}, distances=("sliced", "energy"), step_check=0.25,
    substeps=2, allow_different=False, memory=None, chunk_size=None, devices=None,
    check_stability=False,
)  # fmt: skip
add("side_by_side", lambda: (
    ss.side_by_side,
    dict(sgd=made.sgd, sde=made.sde, theta0=THETA, **_run, **_observed, **_ending,
         allow_deaths=False, paired=False),
))  # fmt: skip
add(
    "forecast_side_by_side",
    lambda: (
        ss.forecast_side_by_side,
        dict(sgd=made.sgd, sde=made.sde, theta0=THETA, **_run, **_observed),
    ),
)
add("load_side_by_side", lambda: (ss.load_side_by_side, dict(path="/nowhere/both.nc")))
add("svag_limit", lambda: (
    ss.svag_limit,
    dict(sgd=made.sgd, theta0=THETA, **_run, levels=(2, 4), observables={"x": first}, snapshots=2,
         resolution={"x": 0.1}, allow_deaths=False, memory=None, chunk_size=None, devices=None,
         **_ending),
))  # fmt: skip
add("splitting", lambda: (
    ss.splitting,
    dict(process=made.sgd, theta0=THETA, level=first, origin=-2.0, target=3.0, surface=None,
         num_replicas=8, num_repetitions=4, key=KEY, num_levels=10, kill_fraction=0.25,
         num_loops=2, burn_in_loops=1, longest=50, num_paths=0, budget=None, checkpoint=None,
         memory=None, repetitions=[0, 1], chunk_size=None),
))  # fmt: skip
_validity = dict(
    num_steps=10, tolerance=0.1, directions=None, count=1, num_paths=2, explore_steps=3,
    sample=None, svag=None, svag_members=8, svag_steps=2, num_probes=4,
)  # fmt: skip
_at = lambda: dict(landscape=made.sum, sgd=made.sgd, theta=THETA, key=KEY)  # noqa: E731
add("validity", lambda: (ss.validity, dict(**_at(), **_validity, progress=False)))
add("forecast_validity", lambda: (ss.forecast_validity, dict(**_at(), **_validity)))
add("validity_scan", lambda: (
    ss.validity_scan,
    dict(**_at(), batch_sizes=[1, 2], learning_rates=[0.1, 0.2], explored="once",
         **_validity, progress=False),
))  # fmt: skip
add("Validity.load", lambda: (ss.Validity.load, dict(path="/nowhere/validity.nc")))

# Draws.
add("Draws.create", lambda: (ss.Draws.create, dict(key=KEY, identity=1, iteration=2, substep=3)))
add("Draws.at", lambda: (made.draws.at, dict(iteration=1, substep=2)))
for _law in ("uniform", "normal", "two_point"):
    add(
        f"Draws.{_law}",
        lambda law=_law: (getattr(made.draws, law), dict(shape=(2,), stream=0, dtype=None)),
    )
add("Draws.bits", lambda: (made.draws.bits, dict(shape=(2,), stream=0)))
add("Draws.integers", lambda: (made.draws.integers, dict(shape=(2,), maximum=5, stream=0)))

# Measures.
add("Moments", lambda: (ss.Moments, dict(of=first, covariance=True, **_when)))
add("Snapshots", lambda: (ss.Snapshots, dict(at=[0, 2], of=first)))
add("Histogram", lambda: (ss.Histogram, dict(edges=[0.0, 1.0, 2.0], of=first, **_when)))
add(
    "measure.TailRatios",
    lambda: (ss.measure.TailRatios, dict(levels=[1.0, 2.0], of=first, factor=2.0, **_when)),
)
add(
    "Autocovariance",
    lambda: (ss.Autocovariance, dict(of=first, max_lag=2, increments=False, **_when)),
)
add("Autocovariance (lags)", lambda: (ss.Autocovariance, dict(of=first, lags=[0, 2])))
add(
    "measure.ArealVelocity",
    lambda: (ss.measure.ArealVelocity, dict(of=None, centre=[0.0, 1.0], burn_in=0)),
)
add(
    "measure.BrownianBridge",
    lambda: (ss.measure.BrownianBridge, dict(process=made.sde, level=first)),
)
add(
    "ConditionalIncrements",
    lambda: (ss.ConditionalIncrements, dict(of=first, edges=[0.0, 1.0], **_when)),
)
add(
    "measure.EntropyProduction",
    lambda: (
        ss.measure.EntropyProduction,
        dict(
            log_ratio=lambda x, y: x[0] - y[0],
            log_density=lambda x: -(x[0] ** 2),
            at=(1, 2),
            burn_in=0,
        ),
    ),
)
add(
    "measure.transition_log_ratio",
    lambda: (ss.measure.transition_log_ratio, dict(process=made.gaussian_sgd)),
)
add("Estimate", lambda: (ss.Estimate, dict(value=1.0, standard_error=0.1, num_samples=3)))
add("Estimate.from_samples", lambda: (ss.Estimate.from_samples, dict(samples=ROWS)))
add("Estimate.of_variance", lambda: (ss.Estimate.of_variance, dict(within=ROWS**2, between=ROWS)))
add("Estimate.interval", lambda: (made.estimate.interval, dict(sigmas=2.0)))
add("Estimate.__getitem__", lambda: (made.estimate.__getitem__, dict(index=0)))
add("FirstPassage", lambda: (ss.FirstPassage, dict(exited=right, crossing=None, renewal=False)))
add("FirstPassage.bridged", lambda: (ss.FirstPassage.bridged, dict(process=made.sde, level=first)))
add("Occupation", lambda: (ss.Occupation, dict(label=side, num_basins=2, **_when)))
add(
    "Spectrum",
    lambda: (ss.Spectrum, dict(matrix=centred, kind="eigenvalues", edges=[0.0, 1.0], **_when)),
)
add("measure.Levels", lambda: (ss.measure.Levels, dict(matrix=centred, kind="eigenvalues")))
add(
    "Stationarity",
    lambda: (ss.Stationarity, dict(of=first, burn_in=0, resolution=0.2, failure_rate=0.001)),
)
add("measure.weight_matrix", lambda: (
    ss.measure.weight_matrix,
    dict(landscape=made.network,
         where=lambda m: m.weight),
))  # fmt: skip
add(
    "measure.binomial_interval",
    lambda: (
        ss.measure.binomial_interval,
        dict(successes=2, trials=5, confidence=0.9, method="wilson"),
    ),
)
add("noise_statistics", lambda: (
    ss.noise_statistics,
    dict(landscape=made.sum, theta=THETA, sampling=made.sampling, key=KEY, num_draws=64,
         num_steps=2, directions=1, block_size=4, tail_fraction=0.1),
))  # fmt: skip
add(
    "measure.block_tail_index",
    lambda: (ss.measure.block_tail_index, dict(samples=_many, block_size=3)),
)
add(
    "measure.hill_tail_index",
    lambda: (ss.measure.hill_tail_index, dict(samples=_many, fraction=0.3)),
)
add("measure.normality_test", lambda: (ss.measure.normality_test, dict(samples=_many)))
add("HistogramResult.quantile", lambda: (made.histogram.quantile, dict(level=0.5)))
for _reading in ("rate_interval", "rate_limit"):
    add(
        f"FirstPassageResult.{_reading}",
        lambda reading=_reading: (getattr(made.run["passage"], reading), dict(confidence=0.9)),
    )
add(
    "OccupationResult.interval",
    lambda: (made.run["occupation"].interval, dict(confidence=0.9, method="wilson")),
)
add(
    "AutocovarianceResult.integrated_time",
    lambda: (made.long["autocovariance"].integrated_time, dict(window=1.0)),
)

# Comparisons.
_noisy = dict(key=KEY, num_bootstrap=20)
_two = dict(x=ROWS, y=MORE)
add("compare", lambda: (
    ss.compare,
    dict(measured=made.estimate, predicted=[1.0, 2.0], resolution=0.1, bias=0.0,
         failure_rate=1e-3, name="a", process="b", expected="agree"),
))  # fmt: skip
add("verdict_table", lambda: (ss.verdict_table, dict(comparisons=[made.comparison])))
_law = dict(key=KEY, edges=None, num_bootstrap=20, failure_rate=1e-3, name="a", process="b",
            expected="agree")  # fmt: skip
add(
    "compare_law",
    lambda: (
        ss.compare_law,
        dict(sample=ROWS[:, 0], predicted=stats.norm(), resolution=0.5, **_law),
    ),
)
add("compare_laws", lambda: (ss.compare_laws, dict(x=ROWS[:, 0], y=MORE[:, 0], **_law)))
add(
    "distances.wasserstein_per_direction",
    lambda: (ss.distances.wasserstein_per_direction, dict(**_two, **_noisy)),
)
add(
    "distances.sliced_wasserstein",
    lambda: (ss.distances.sliced_wasserstein, dict(**_two, **_noisy, num_directions=4)),
)
add("distances.energy", lambda: (ss.distances.energy, dict(**_two, **_noisy, unbiased=True)))
add(
    "distances.wasserstein2",
    lambda: (ss.distances.wasserstein2, dict(x=ROWS[:, 0], y=MORE[:, 0], **_noisy)),
)
_third = dict(**_two, reference=ROWS + 1, **_noisy, num_directions=4)
add("distances.excess", lambda: (ss.distances.excess, dict(**_third, distance="energy")))
add("distances.table", lambda: (ss.distances.table, dict(**_third, distances=("energy",))))
add(
    "distances.permutation_test",
    lambda: (
        ss.distances.permutation_test,
        dict(**_two, key=KEY, statistic="energy", num_permutations=19, num_directions=4),
    ),
)
add("paired_difference", lambda: (ss.paired_difference, dict(**_two, of=lambda x: x**2)))
_weak = dict(ensemble_size=4, key=KEY, of=first, levels=2)
add(
    "weak_error",
    lambda: (ss.weak_error, dict(sgd=made.sgd, sde=made.sde, theta0=THETA, num_steps=2, **_weak)),
)
add(
    "weak_order",
    lambda: (
        ss.weak_order,
        dict(processes=_pair, learning_rates=[0.1, 0.2], theta0=THETA, time=0.4, **_weak),
    ),
)


def _pair(rate):
    noise = ss.MinibatchNoise(made.sampling)
    return ss.SGD(made.sum, rate, made.sampling), ss.ModifiedEquation(made.sum, rate, noise)


# Curvature and basins.
_point = lambda: dict(landscape=made.sum, theta=THETA)  # noqa: E731
add(
    "curvature.eigenvalues",
    lambda: (
        ss.curvature.eigenvalues,
        dict(**_point(), count=1, which="largest", tolerance=1e-6, on_product=None),
    ),
)
add(
    "curvature.noise_eigenvalues",
    lambda: (
        ss.curvature.noise_eigenvalues,
        dict(**_point(), count=1, tolerance=1e-6, on_product=None),
    ),
)
add("curvature.trace", lambda: (ss.curvature.trace, dict(**_point(), key=KEY, num_probes=4)))
add(
    "curvature.noise_trace",
    lambda: (ss.curvature.noise_trace, dict(**_point(), key=KEY, num_probes=4)),
)
add(
    "curvature.density",
    lambda: (ss.curvature.density, dict(**_point(), key=KEY, num_probes=2, num_steps=2)),
)
add(
    "curvature.along",
    lambda: (ss.curvature.along, dict(landscape=made.sum, positions=ROWS[:2], tolerance=1e-3)),
)
add(
    "landscapes.flow_ends",
    lambda: (
        ss.landscapes.flow_ends,
        dict(landscape=made.well, starts=[[-1.2], [1.2]], tolerance=1e-6),
    ),
)
add(
    "landscapes.find_basins",
    lambda: (
        ss.landscapes.find_basins,
        dict(landscape=made.well, starts=[[-1.2], [1.2]], tolerance=1e-6, merge=1e-6),
    ),
)
add("landscapes.find_saddles", lambda: (ss.landscapes.find_saddles, dict(basins=made.basins)))
add("landscapes.Basins.assign", lambda: (made.basins.assign, dict(points=[[-1.0], [0.5]])))
add(
    "landscapes.label_by_nearest",
    lambda: (ss.landscapes.label_by_nearest, dict(centres=[[-1.0], [1.0]], radius=0.5)),
)

# Identification.
_series = np.random.default_rng(1).normal(size=(60, 10, 1)).cumsum(0)
_moving = np.random.default_rng(2).normal(size=(6, 250, 1)) * np.arange(1.0, 7.0)[:, None, None]
_read = dict(time_step=0.1, lag=1)
add("identify.linear", lambda: (ss.identify.linear, dict(observed=_series, **_read, centre=[0.0])))
add("identify.sparse", lambda: (
    ss.identify.sparse,
    dict(observed=_series, basis=made.basis, variance_basis=made.basis, **_read,
         correction="centred", num_lags=2, failure_rate=0.01),
))  # fmt: skip
add("identify.kramers_moyal", lambda: (
    ss.identify.kramers_moyal,
    dict(observed=_series, points=[0.0], bandwidth=1.0, **_read, correction="centred",
         num_lags=2, degree=1),
))  # fmt: skip
add("identify.from_snapshots", lambda: (
    ss.identify.from_snapshots,
    dict(observed=_moving, times=np.arange(6.0),
         basis=made.basis, variance_basis=ss.identify.PolynomialBasis(1, 0), tests=None,
         linked=False, quadrature="spline"),
))  # fmt: skip
add(
    "identify.PolynomialBasis",
    lambda: (ss.identify.PolynomialBasis, dict(dimension=1, degree=2, centre=[0.0])),
)
add(
    "identify.FunctionBasis",
    lambda: (ss.identify.FunctionBasis, dict(dimension=1, functions=[first], names=["x"])),
)
add("identify.FittedSDE.drift_at", lambda: (made.fitted.drift_at, dict(points=[[0.0]])))
add(
    "identify.FittedSDE.variance_rate_at",
    lambda: (made.fitted.variance_rate_at, dict(points=[[0.0]])),
)

# Plots.
add("plots.new_figure", lambda: (plots.new_figure, dict(rows=1, columns=1, width=2.0, height=2.0)))
_axis = lambda: plots.new_figure(1, 1)[1][0, 0]  # noqa: E731
for _drawing in ("points", "band"):
    add(
        f"plots.{_drawing}",
        lambda drawing=_drawing: (
            getattr(plots, drawing),
            dict(axis=_axis(), x=[0.0, 1.0], estimate=made.estimate, label="SGD"),
        ),
    )
add("Estimate.map", lambda: (made.estimate.map, dict(function=lambda x: 2 * x)))
add("Estimate.to_xarray", lambda: (made.estimate.to_xarray, dict(name="value", dims=["i"])))
for _operation in ("add", "sub", "mul", "truediv", "radd", "rsub", "rmul", "rtruediv"):
    add(
        f"Estimate.__{_operation}__",
        lambda name=_operation: (getattr(made.estimate, f"__{name}__"), dict(other=2.0)),
    )

# Sweeps.
add(
    "sweep",
    lambda: (
        ss.sweep,
        dict(
            function=lambda cell, key: 1.0,
            grid={"a": [1, 2]},
            key=KEY,
            path=None,
            executor=None,
            progress=False,
        ),
    ),
)
add("sweeps.load", lambda: (ss.sweeps.load, dict(path="/nowhere/sweep")))
