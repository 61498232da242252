"""Functions of the user's that JAX cannot compile, and runs that it cannot trace: one sentence."""

import math

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import sde_sgd as ss
from sde_sgd.random.draws import Draws

LANDSCAPE = ss.quadratic(1.0, 1.0)
SAMPLING = ss.WithReplacement(1)
NOISE = ss.ConstantNoise(np.eye(1))
SGD = ss.GaussianSGD(LANDSCAPE, 0.1, NOISE)
SDE = ss.ModifiedEquation(LANDSCAPE, 0.1, NOISE)
TABLE = np.linspace(0.1, 0.2, 50)
LIST = [0.1] * 50


def run(process=SGD, theta0=None, **options):
    start = np.ones(1) if theta0 is None else theta0
    return ss.simulate(process, start, num_steps=4, ensemble_size=3, key=jr.key(0), **options)


def watched(measure):
    return lambda: run(measures={"m": measure})


class Descent(ss.AbstractProcess):
    landscape: ss.AbstractLandscape

    def step(self, state, draws, observe, carry):
        after = 0.9 * state if state[0, 0] > 0 else state
        return after, observe(carry, state, after, jnp.uint32(0))


IF, NUMPY, FLOAT, INDEX = "jnp.where", r"jnp\.\* in place of np", r"jnp\.\* in their", "asarray"
UNCOMPILED = {
    "schedule, if": (lambda: ss.SGD(LANDSCAPE, lambda k: 0.1 if k < 2 else 0.2, SAMPLING), IF),
    "schedule, math": (lambda: ss.SGD(LANDSCAPE, lambda k: math.exp(-k), SAMPLING), FLOAT),
    "schedule, np": (lambda: ss.SGD(LANDSCAPE, lambda k: np.exp(-1.0 * k), SAMPLING), NUMPY),
    "schedule, table": (lambda: ss.SGD(LANDSCAPE, lambda k: TABLE[k], SAMPLING), "jnp.asarray"),
    "schedule, list": (lambda: ss.SGD(LANDSCAPE, lambda k: LIST[k], SAMPLING), INDEX),
    "of, if": (watched(ss.Moments(lambda x: x[0] if x[0] > 0 else -x[0])), IF),
    "of, max": (watched(ss.Snapshots(at=2, of=lambda x: max(x[0], 0.0))), IF),
    "of, math": (watched(ss.Stationarity(lambda x: math.cos(x[0]))), "math"),
    "of, np": (watched(ss.Histogram([0, 1], lambda x: np.float64(x[0]))), "jnp"),
    "of, mask": (watched(ss.Autocovariance(lambda x: x[x > 0], max_lag=1)), "where"),
    "exited, or": (watched(ss.FirstPassage(lambda x: x[0] > 5 or x[0] < -5)), IF),
    "label, if": (watched(ss.Occupation(lambda x: 1 if x[0] > 0 else 0, 2)), IF),
    "level, if": (lambda: run(SDE, measures={"m": bridged(lambda x: x[0] if x[0] else 1.0)}), IF),
    "log_ratio": (
        watched(ss.measure.EntropyProduction(lambda x, y: 0.0 if x[0] > y[0] else 1.0)),
        IF,
    ),
    "matrix": (watched(ss.Spectrum(lambda x: np.asarray(x)[:, None])), NUMPY),
    "basis": (
        lambda: ss.identify.FunctionBasis(1, [lambda x: x[0] if x[0] > 0 else 0.0], ["x₊"]),
        IF,
    ),
    "theta0": (lambda: run(theta0=lambda key: jnp.ones(1) if jr.normal(key) > 0 else key), IF),
    "step": (lambda: run(Descent(LANDSCAPE)), IF),
    "forward": (
        lambda: ss.processes.TransformedEquation(SDE, lambda x: x if x > 0 else -x, jnp.exp),
        IF,
    ),
}


def bridged(level):
    return ss.FirstPassage.bridged(SDE, level)


@pytest.mark.parametrize("name", UNCOMPILED)
def test_a_function_that_jax_cannot_compile_is_named(name):
    """A Python `if`, `or`, `max`, math.*, np.* or a table: the function, its line, the way out."""
    call, way_out = UNCOMPILED[name]
    with pytest.raises(ValueError, match=way_out) as caught:
        call()
    first = name.split(",")[0]
    words = {"schedule": "learning_rate", "step": "Descent.step", "basis": "x₊"}
    assert words.get(first, first) in str(caught.value).split("is compiled")[0]
    if "test_user_functions.py, line" not in str(caught.value):
        assert name == "of, mask"  # JAX's own line, then.


def nothing(x):
    return x[0] / 0 + 1 // 0


USELESS = {
    "None": (watched(ss.Moments(lambda x: None)), "of must give real numbers.*None"),
    "a dictionary": (watched(ss.Moments(lambda x: {"a": x})), "of must give real numbers.*'a'"),
    "complex": (watched(ss.Snapshots([1], lambda x: 1j * x)), "of must be real"),
    "too many arguments": (watched(ss.Moments(lambda x, y: x)), "of cannot be called: TypeError"),
    "an error": (watched(ss.Moments(lambda x: x[0] + 1 / 0)), "ZeroDivisionError in <lambda>"),
    "an error inside": (watched(ss.Moments(lambda x: nothing(x))), "ZeroDivisionError in nothing"),
}


@pytest.mark.parametrize("name", USELESS)
def test_what_a_function_gives_is_looked_at(name):
    """Results that are no numbers, and what the function raises, with its name."""
    call, words = USELESS[name]
    with pytest.raises(ValueError, match=words):
        call()


RUNS = {
    "simulate": lambda x, key: ss.simulate(SGD, x, num_steps=2, ensemble_size=2, key=key),
    "forecast": lambda x, key: ss.forecast(SGD, x, num_steps=2, ensemble_size=2, key=key),
    "side_by_side": lambda x, key: ss.side_by_side(
        SGD, SDE, x, num_steps=2, ensemble_size=4, key=key
    ),
    "weak_error": lambda x, key: ss.weak_error(
        SGD, SDE, x, num_steps=2, ensemble_size=4, key=key, of=lambda x: x[0]
    ),
    "splitting": lambda x, key: ss.splitting(
        SGD, x, level=lambda x: x[0], origin=0.0, target=2.0, key=key
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_not_traced(name):
    """Under jit (with nothing traced, too), vmap and grad: what cannot be, and what can."""
    start, key = jnp.ones(1), jr.key(0)
    ways = (
        lambda: jax.jit(lambda: RUNS[name](np.ones(1), key))(),
        lambda: jax.vmap(lambda x: RUNS[name](x, key))(start[None]),
        lambda: jax.grad(lambda x: RUNS[name](x, key))(start),
        lambda: jax.vmap(lambda key: RUNS[name](start, key))(jr.split(key)),
    )
    for way in ways:
        with pytest.raises(ValueError, match=r"cannot be traced by jax.jit.*process.step.*terms"):
            way()


def test_what_can_be_traced_can():
    """∂θ₁/∂η = −(∇L + ξ) through `process.step`, with the rate put in by `tree_at`."""
    draws = Draws.create(jr.key(0), np.arange(1))

    def after(rate):
        own = eqx.tree_at(lambda process: process.learning_rate.value, SGD, rate)
        return own.step(own.init(jnp.ones((1, 1)), draws), draws, lambda c, *_: c, None)[0].theta[
            0, 0
        ]

    rate = jnp.asarray(0.1)
    slope = jax.jit(jax.grad(after))(rate)
    np.testing.assert_allclose(slope, (after(rate) - 1) / rate, rtol=1e-12)
    with pytest.raises(ValueError, match=r"learning_rate is traced.*equinox.tree_at"):
        jax.jit(lambda rate: ss.GaussianSGD(LANDSCAPE, rate, NOISE).learning_rate.value)(rate)


GENERATOR = np.random.default_rng(0)
SAMPLERS = {
    "np.random": (lambda key: GENERATOR.normal(size=1), "other numbers each time"),
    "both": (lambda key: jr.normal(key, (1,)) + GENERATOR.normal(), "other numbers each time"),
    "a seed": (lambda key: np.random.default_rng(0).normal(size=1), "does not use its key"),
    "one point": (lambda key: jnp.ones(1), "does not use its key.*or the one point"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_that_numpy_draws_are_refused(name):
    """np.random is called once, and every member would start there; so is a fixed seed."""
    sampler, words = SAMPLERS[name]
    with pytest.raises(ValueError, match=words):
        run(theta0=sampler)


def test_schedules_and_solvers_that_are_right_pass():
    """jnp.where, optax's schedules, a table as jnp.asarray; 0 at the start and at the end."""
    table = jnp.asarray(TABLE)
    for schedule in (
        lambda k: jnp.where(k < 2, 0.1, 0.2),
        lambda k: table[k],
        lambda k: 1 - k / 3,
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 4),
    ):
        run(ss.ModifiedEquation(LANDSCAPE, schedule, NOISE, solver=dfx.Euler()))


def test_a_schedule_is_looked_at_over_the_run():
    """(3 − k)/10 is < 0 from k = 4 on: four iterations run, a fifth not, nor an extension."""
    process = ss.GaussianSGD(LANDSCAPE, lambda k: (3 - k) / 10, NOISE)
    done = run(process)
    assert done.num_steps == 4
    with pytest.raises(ValueError, match=r"learning_rate is -0.1 at iteration 4 of a run of 5"):
        done.extend(1)
    late = ss.GaussianSGD(LANDSCAPE, lambda k: jnp.where(k == 2**20 + 3, jnp.nan, 0.1), NOISE)
    late.learning_rate.check(2**20 + 3)
    with pytest.raises(ValueError, match="is nan at iteration 1048579 of a run of 1048580"):
        late.learning_rate.check(2**20 + 4)
