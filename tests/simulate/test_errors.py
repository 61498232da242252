"""Every impossible request is one clear error before the first step."""

import re
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate.driver import Engine

BATCH = 4


@pytest.fixture
def as_users_see_it():
    """Without the type checks of the test suite, which would raise in place of the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_step(monkeypatch):
    """No iteration may run."""

    def refuse(self, length, blocks):
        raise AssertionError("a step was run before the request was checked")

    monkeypatch.setattr(Engine, "advance", refuse)


def least_squares(dtype=float):
    return ss.LeastSquares(normal(1, 16, 3).astype(dtype), normal(2, 16).astype(dtype))


def logistic():
    return ss.LogisticRegression(normal(1, 16, 2), np.arange(16) % 2, num_classes=2)


def sgd(rate=0.1, landscape=None, sampling=None, momentum=0.0):
    landscape = least_squares() if landscape is None else landscape
    return ss.SGD(landscape, rate, sampling or ss.WithReplacement(BATCH), momentum)


def sde(rate=0.1, landscape=None, substeps=4, **options):
    landscape = least_squares() if landscape is None else landscape
    noise = ss.MinibatchNoise(ss.WithReplacement(BATCH))
    return ss.ModifiedEquation(landscape, rate, noise, substeps=substeps, **options)


def simulate(process=None, theta0=None, **changes):
    process = sgd() if process is None else process
    theta0 = jnp.zeros(process.landscape.dimension) if theta0 is None else theta0
    options = dict(num_steps=20, ensemble_size=6, key=jr.key(0)) | changes
    return ss.simulate(process, theta0, **options)


def measured(measure, **options):
    return lambda: simulate(measures={"m": measure}, **options)


def left(theta):
    return theta[0] > 1


BAD = {
    "batch > N, subset": (
        lambda: sgd(sampling=ss.WithoutReplacement(17)),
        "cannot take batch_size=17 of N=16",
    ),
    "batch > N, epochs": (
        lambda: sgd(sampling=ss.RandomReshuffling(17)),
        "cannot take batch_size=17 of N=16",
    ),
    "batch 0": (lambda: ss.WithReplacement(0), "batch_size must be an integer ≥ 1; got 0"),
    "rate 0": (lambda: sgd(0.0), "learning_rate must be a finite number > 0; got 0"),
    "rate < 0": (lambda: sgd(-0.1), "got -0.1"),
    "rate NaN": (lambda: sde(float("nan")), "got nan"),
    "rate inf": (lambda: sde(float("inf")), "got inf"),
    "momentum 1": (lambda: sgd(momentum=1.0), r"momentum must be a number in \[0, 1\)"),
    "substeps 0": (lambda: sde(substeps=0), "substeps must be an integer ≥ 1"),
    "no process": (
        lambda: ss.simulate("SGD", jnp.zeros(3), num_steps=1, ensemble_size=1, key=jr.key(0)),
        "needs a process such as ss.SGD",
    ),
    "theta0 shape": (
        lambda: simulate(theta0=jnp.zeros(4)),
        r"must have shape \(3,\) or \(6, 3\).*got \(4,\)",
    ),
    "theta0 members": (lambda: simulate(theta0=jnp.zeros((5, 3))), r"got \(5, 3\)"),
    "theta0 sampler": (
        lambda: simulate(theta0=lambda key: jr.normal(key, (2,))),
        r"must give shape \(3,\); it gave \(2,\)",
    ),
    "theta0 dtype": (
        lambda: simulate(theta0=jnp.zeros(3, jnp.float32)),
        "theta0 is float32 and the landscape float64",
    ),
    "landscape dtype": (
        lambda: simulate(sgd(landscape=least_squares(jnp.float32)), jnp.zeros(3)),
        "theta0 is float64 and the landscape float32",
    ),
    "theta0 NaN": (lambda: simulate(theta0=jnp.array([0, jnp.nan, 0])), "NaN or infinite"),
    "sampler NaN": (lambda: simulate(theta0=lambda key: jnp.full(3, jnp.inf)), "NaN or infinite"),
    "no members": (lambda: simulate(ensemble_size=0), "ensemble_size must be an integer ≥ 1"),
    "members 2.5": (lambda: simulate(ensemble_size=2.5), "ensemble_size must be .* got 2.5"),
    "no steps": (lambda: simulate(num_steps=0), "num_steps must be an integer ≥ 1; got 0"),
    "negative steps": (lambda: simulate(num_steps=-3), "got -3"),
    "steps True": (lambda: simulate(num_steps=True), "got True"),
    "too many steps": (
        lambda: simulate(num_steps=2**31),
        "num_steps must be an integer from 1 to 2147483646",
    ),
    "measures no dict": (lambda: simulate(measures=ss.Moments()), "measures must be a dictionary"),
    "measure string": (measured("moments"), r"measures\['m'\] is 'moments', which is no measure"),
    "measure class": (measured(ss.Moments), "which is no measure: use ss.Moments"),
    "burn_in": (measured(ss.Moments(burn_in=20)), "burn_in=20 .* a run of 20"),
    "burn_in and every": (measured(ss.Moments(burn_in=15, every=6)), "every 6; a run of 20"),
    "burn_in < 0": (measured(ss.Moments(burn_in=-1)), "burn_in must be an integer ≥ 0"),
    "every 0": (measured(ss.Moments(every=0)), "every must be an integer ≥ 1"),
    "covariance": (lambda: ss.Moments(covariance="full"), 'True, "diagonal" or False'),
    "histogram burn_in": (
        measured(ss.Histogram([0, 1], of=lambda x: x[0], burn_in=20)),
        "Histogram starts after burn_in=20",
    ),
    "histogram of θ": (measured(ss.Histogram([0, 1])), "needs `of=`, a scalar function"),
    "histogram edges": (lambda: ss.Histogram([0, 0]), "increasing edges"),
    "histogram infinite": (lambda: ss.Histogram([-np.inf, 0]), "two finite edges"),
    "snapshot": (measured(ss.Snapshots([3, 21])), "iteration 21, and the run ends at 20"),
    "snapshot order": (lambda: ss.Snapshots([3, 3]), "increasing iterations ≥ 0"),
    "snapshot fraction": (lambda: ss.Snapshots([1.5]), "increasing iterations ≥ 0"),
    "record_every 0": (lambda: simulate(record_every=0), "record_every must be an integer ≥ 1"),
    "chunk_size 0": (lambda: simulate(chunk_size=0), "chunk_size must be an integer ≥ 1"),
    "key": (lambda: simulate(key=0), "key must be one JAX key, such as jax.random.key"),
    "keys": (lambda: simulate(key=jr.split(jr.key(0), 2)), "key must be one JAX key"),
    "budget 0": (lambda: simulate(budget=0.0), "budget must be a number of seconds > 0"),
    "budget < 0": (lambda: simulate(budget=-1.0), "got -1.0"),
    "budget NaN": (lambda: simulate(budget=float("nan")), "got nan"),
    "devices": (lambda: simulate(devices=99), r"devices=99, and JAX sees \d+ \(cpu\)"),
    "devices 0": (lambda: simulate(devices=0), "devices=0"),
    "devices []": (lambda: simulate(devices=[]), "devices is empty"),
    "on_divergence": (lambda: simulate(on_divergence="ignore"), '"raise" or "mask"'),
    "two points, exits": (
        lambda: simulate(
            sde(increments="two_point"), measures={"m": ss.FirstPassage(left)}, refill=True
        ),
        "Two-point increments give wrong exit times",
    ),
    "refill, schedule": (
        lambda: simulate(
            sgd(optax.linear_schedule(0.1, 0.01, 10)),
            measures={"m": ss.FirstPassage(left)},
            refill=True,
        ),
        "depends on the common clock",
    ),
    "refill, nothing finishes": (measured(ss.Moments(), refill=True), "add ss.FirstPassage"),
    "substeps overflow": (
        lambda: simulate(num_steps=2**30, process=sde(), measures={"m": ss.FirstPassage(left)}),
        "must stay below 2",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_before_the_first_step(what, as_users_see_it, no_step):
    """One ValueError that names the value, and no iteration."""
    request, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        request()


def test_a_good_request_reaches_the_first_step(as_users_see_it, no_step):
    """Control: the guard sees a run that is not refused."""
    with pytest.raises(AssertionError, match="a step was run"):
        simulate()


def test_a_covariance_that_cannot_fit(as_users_see_it, no_step):
    """d = 2410, 4096 members: 2·d²·8 bytes each for Σff and its compensation, refused at once."""
    landscape = ss.LeastSquares(normal(0, 8, 2410) / 50, np.zeros(8))
    started = time.monotonic()
    with pytest.raises(MemoryError, match='covariance="diagonal"') as caught:
        simulate(
            sgd(0.01, landscape), ensemble_size=4096, measures={"m": ss.Moments(covariance=True)}
        )
    assert time.monotonic() - started < 10
    (stated,) = re.findall(r"\((\d+) bytes", str(caught.value))
    least = 4096 * 2 * 2410**2 * 8
    assert least <= int(stated) <= 4 * least
    with pytest.raises(AssertionError, match="a step was run"):
        simulate(sgd(0.01, landscape), measures={"m": ss.Moments(covariance="diagonal")})


def test_records_that_cannot_fit(as_users_see_it, no_step):
    """10⁶ records of 10⁴ members in d = 3 are 240 GB; the way out is named."""
    with pytest.raises(MemoryError, match="record less often"):
        simulate(num_steps=10**6, ensemble_size=10**4, record_every=1, memory=2**33)


def test_an_extension_whose_records_cannot_fit():
    """extend() checks the memory of the records that it adds."""
    run = simulate(num_steps=8, record_every=1, memory=10**6)
    with pytest.raises(MemoryError, match="more records"):
        run.extend(10**6)
    assert run.extend(8).records[1].shape == (17, 6, 3)


def test_refused_keys_of_either_kind_pass():
    """jax.random.key and the older PRNGKey are both keys, and the same run."""
    new, old = simulate(key=jr.key(5)), simulate(key=jax.random.PRNGKey(5))
    np.testing.assert_array_equal(new.positions, old.positions)
