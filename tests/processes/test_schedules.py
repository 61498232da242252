"""A schedule is a chain of constant stages, for every process there is; `refined` keeps it."""

import functools
import tracemalloc

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy import special
from tools import normal

import sde_sgd as ss
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.random.draws import Draws

RATES = (0.5, 0.5, 0.1, 0.1)
LANDSCAPE = ss.LeastSquares(0.6 * normal(0, 7, 2), normal(1, 7))
HALF = ss.quadratic([[1.0]], [[0.0]])
SAMPLING = ss.WithReplacement(3)
NOISE = ss.MinibatchNoise(SAMPLING)
CONSTANT = ss.ConstantNoise(np.array([[0.5, 0.1], [0.1, 0.3]]))
OTHER = {"substeps": 2, "refinement": 3}


def schedule(k):
    """η_k = .5, .5, .1, .1, ..."""
    return jnp.where(k < 2, RATES[0], RATES[2])


def modified(rate, noise=NOISE, **options):
    return ss.ModifiedEquation(LANDSCAPE, rate, noise, **{"substeps": 2} | options)


SPREAD = ss.FunctionNoise(lambda x: 0.2 * jnp.diag(x))


def transformed(rate):
    inner = modified(rate, SPREAD, order=2)
    return ss.processes.TransformedEquation(inner, jnp.arcsinh, jnp.sinh)


@functools.cache
def optimiser(rate):
    """Momentum with a rate that optax keeps itself, in one form of state for both."""
    own = rate if callable(rate) else lambda k: jnp.asarray(rate)
    return ss.OptaxSGD(LANDSCAPE, optax.sgd(own, momentum=0.5), SAMPLING, rate)


def adaptive(optimizer):
    return ss.AdaptiveEquation(LANDSCAPE, optimizer, NOISE, 2)


# One or more of each process that takes a schedule, as a function of the rate.
SCHEDULED = {
    ss.SGD: {
        "plain": lambda rate: ss.SGD(LANDSCAPE, rate, SAMPLING),
        "momentum, epochs": lambda rate: ss.SGD(LANDSCAPE, rate, ss.RandomReshuffling(3), 0.5),
    },
    ss.OptaxSGD: {"momentum": optimiser},
    ss.GaussianSGD: {"momentum": lambda rate: ss.GaussianSGD(LANDSCAPE, rate, NOISE, 0.5)},
    ss.SVAG: {"three steps": lambda rate: ss.SVAG(LANDSCAPE, rate, SAMPLING, 3)},
    ss.SAM: {
        "plain": lambda rate: ss.SAM(LANDSCAPE, rate, 0.1, SAMPLING),
        "normalised": lambda rate: ss.SAM(LANDSCAPE, rate, 0.1, SAMPLING, normalized=True),
    },
    ss.SAMEquation: {"": lambda rate: ss.SAMEquation(LANDSCAPE, rate, 0.1, NOISE, 2)},
    ss.SGLD: {"": lambda rate: ss.SGLD(LANDSCAPE, rate, SAMPLING, 0.2)},
    ss.ModifiedEquation: {
        "order 1": modified,
        "order 2": lambda rate: modified(rate, order=2),
        "two-point": lambda rate: modified(rate, increments="two_point", refinement=2),
        # It evaluates the end of a step, where the clock is already that of the next iteration.
        "Heun": lambda rate: modified(rate, CONSTANT, solver=dfx.Heun()),
        "Milstein": lambda rate: modified(rate, solver=dfx.ItoMilstein()),
        "ShARK": lambda rate: modified(rate, CONSTANT, solver=dfx.ShARK()),
    },
    ss.UnderdampedEquation: {
        "": lambda rate: ss.UnderdampedEquation(LANDSCAPE, rate, NOISE, 0.5, 2)
    },
    ss.DrivenEquation: {
        "white": lambda rate: ss.DrivenEquation(LANDSCAPE, rate, NOISE, ss.noise.WhiteNoise(), 2),
        "epochs": lambda rate: ss.DrivenEquation(
            LANDSCAPE, rate, NOISE, ss.noise.epoch_noise(4), 2
        ),
        "stable": lambda rate: ss.DrivenEquation(
            LANDSCAPE, rate, CONSTANT, ss.noise.StableNoise(1.5)
        ),
    },
    ss.processes.TransformedEquation: {"": transformed},
    ss.AdaptiveEquation: {
        "SignSGD": lambda rate: adaptive(ss.SignSGD(rate, 0.5)),
        "RMSprop": lambda rate: adaptive(ss.RMSprop(rate, initial=0.3)),
        "Adam": lambda rate: adaptive(ss.Adam(rate, 0.8, 0.9, weight_decay=0.5)),
    },
    ss.GradientFlow: {
        "Tsit5": lambda rate: ss.GradientFlow(LANDSCAPE, rate, 2),
        "Heun": lambda rate: ss.GradientFlow(LANDSCAPE, rate, 2, dfx.Heun()),
    },
}


def probability_flow(rate):
    score = ss.theory.equations.FunctionScore(lambda t, x: -x, 2)
    return ss.ProbabilityFlow(LANDSCAPE, rate, NOISE, score)


# Those that take a number alone, each with the words of its refusal.
CONSTANT_ONLY = {
    ss.OverdampedEquation: {
        "": (lambda rate: ss.OverdampedEquation(LANDSCAPE, rate, NOISE, 0.5, 2), "no schedule")
    },
    ss.ProbabilityFlow: {"": (probability_flow, "constant learning_rate")},
}


def each(cases):
    """One parameter of a test for every example of every process."""
    return [
        pytest.param(example, id=" ".join([kind.__name__, name]).strip())
        for kind, examples in cases.items()
        for name, example in examples.items()
    ]


def kinds(base):
    """Every final class of the package below `base`."""
    below = [kind for child in base.__subclasses__() for kind in [child, *kinds(child)]]
    final = (kind for kind in below if not kind.__name__.startswith("Abstract"))
    return {kind for kind in final if kind.__module__.startswith("sde_sgd.")}


def test_every_process_is_here():
    """Each process is run under a schedule, or refuses one; `Stages` has its own test below."""
    assert {*SCHEDULED, *CONSTANT_ONLY, ss.Stages, ContinuousLimit} == kinds(AbstractProcess)
    named = SCHEDULED[ss.AdaptiveEquation].keys()
    assert named == {kind.__name__ for kind in kinds(ss.processes.AbstractAdaptive)}


class Plain(Draws):
    """Numbers that depend on everything as the library's do, by a hash that compiles quickly."""

    def at(self, iteration=None, substep=None):
        moved = super().at(iteration, substep)
        return Plain(moved.streams, moved.identity, moved.iteration, moved.substep)

    def _rows(self, index, stream):
        start = jnp.expand_dims(self.identity, -1) * jnp.uint32(0x9E3779B1)
        word = start + index * jnp.uint32(0x85EBCA77) + jnp.uint32(stream) * jnp.uint32(0xC2B2AE3D)
        for clock in (self.iteration, self.substep, jnp.uint32(1)):
            word = (word ^ (word >> 15)) * jnp.uint32(0x2C1B3C6D) + clock * jnp.uint32(0x297A2D39)
        return word ^ (word >> 12), word * jnp.uint32(0x846CA68B)

    def _words(self, size, stream):
        return self._rows(jnp.arange(size, dtype=jnp.uint32), stream)


@functools.cache
def draws():
    own = Draws.create(jr.key(4), np.arange(3))
    return Plain(own.streams, own.identity, own.iteration, own.substep)


@eqx.filter_jit
def _begin(process, theta, now):
    return process.init(theta, now)


@eqx.filter_jit
def _step(process, state, now):
    return process.step(state, now, lambda carry, *_: carry, None)[0]


def states(processes):
    """The state after each iteration, iteration k by `processes[k]` with the numbers of k."""
    state, found = _begin(processes[0], jnp.asarray(normal(2, 3, 2)), draws()), []
    for k, process in enumerate(processes):
        state = _step(process, state, draws().at(k))
        found.append(jax.tree.map(np.asarray, state))
    return found


def agree(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", each(SCHEDULED))
def test_a_schedule_is_a_chain_of_constant_stages(make):
    """θ under η_k = .5, .5, .1, .1 is θ of one iteration after another at constant η, number for
    number, and t_k = Σ_{j<k} η_j, or η_j² on the clock of adaptive optimisers; η₀ throughout or
    η_{k+1} would be another path."""
    scheduled, chain = states([make(schedule)] * 4), states([make(rate) for rate in RATES])
    agree(scheduled, chain)
    wrong = states([make(0.5), make(0.1)])
    assert np.abs(jax.tree.leaves(wrong[1])[0] - jax.tree.leaves(chain[1])[0]).max() > 1e-3
    power = 2 if isinstance(make(0.5), ss.AdaptiveEquation) else 1
    times = np.cumsum([0, *(rate**power for rate in (*RATES, 0.1, 0.1))])
    np.testing.assert_allclose(make(schedule).time(np.arange(7)), times, rtol=1e-6)
    assert make(0.5).autonomous and not make(schedule).autonomous


@pytest.mark.parametrize("case", each(CONSTANT_ONLY))
def test_a_schedule_is_refused_where_it_has_no_meaning(case):
    """The others take one number."""
    make, words = case
    with pytest.raises(ValueError, match=words):
        make(schedule)


STAGED = SCHEDULED | {
    kind: {name: make for name, (make, _) in examples.items()}
    for kind, examples in CONSTANT_ONLY.items()
    if kind is not ss.ProbabilityFlow  # The score is that of the common clock: no stage of it.
}


@pytest.mark.parametrize("make", each({k: dict([*v.items()][-1:]) for k, v in STAGED.items()}))
def test_stages_are_one_process_after_another(make):
    """`Stages` at η = .5 for two iterations, then .1: that chain, and the sum of its times."""
    first, second = make(0.5), make(0.1)
    stages = ss.Stages([first, second], [2, 3])
    agree(states([stages] * 4), states([first, first, second, second]))
    unit, other = float(first.time(np.asarray(1))), float(second.time(np.asarray(1)))
    clock = [0, unit, 2 * unit, 2 * unit + other, 2 * unit + 2 * other]
    np.testing.assert_allclose(stages.time(np.arange(5)), clock, rtol=1e-12)


def test_a_schedule_by_hand():
    """θ on ½θ² without noise, η = .5, .5, .1, .1: .25·.81 = .2025; with momentum ½ and G = ∇L
    m₁ = 1, θ₁ = ½, m₂ = 1, θ₂ = 0, m₃ = ½, θ₃ = −.05, m₄ = .2, θ₄ = −.07; the flow e^{−1.2}."""
    quiet = {"num_steps": 4, "ensemble_size": 1, "key": jr.key(0), "progress": False}
    none = ss.ConstantNoise(np.zeros((1, 1)))
    exact = {
        0.2025: ss.SGD(HALF, schedule, ss.WithReplacement(1)),
        -0.07: ss.GaussianSGD(HALF, schedule, none, 0.5),
        np.exp(-1.2): ss.GradientFlow(HALF, schedule, 4),
    }
    for value, process in exact.items():
        run = ss.simulate(process, jnp.ones(1), **quiet)
        assert float(run.positions[0, 0]) == pytest.approx(value, rel=1e-6)
        assert run.time == pytest.approx(1.2)


# ---------------------------------------------------------------------------- other solver steps


def overdamped(rate, **options):
    options = {"order": 2, "increments": "two_point"} | options
    return ss.OverdampedEquation(LANDSCAPE, rate, NOISE, 0.9, **options)


def solved(rate, **options):
    return modified(rate, CONSTANT, order=2, solver=dfx.Heun(), **options)


def signs(rate, **options):
    return modified(rate, order=2, increments="two_point", **options)


def adam(rate, **options):
    own = ss.Adam(rate, 0.8, 0.9, 1e-3, noise_dominated=True)
    return ss.AdaptiveEquation(LANDSCAPE, own, NOISE, **options)


REFINED = {
    ss.ModifiedEquation: {"Heun": solved, "two-point": signs},
    ss.UnderdampedEquation: {
        "": lambda rate, **options: ss.UnderdampedEquation(LANDSCAPE, rate, NOISE, 0.9, **options)
    },
    ss.OverdampedEquation: {"": overdamped},
    ss.SAMEquation: {
        "": lambda rate, **options: ss.SAMEquation(LANDSCAPE, rate, 0.1, NOISE, **options)
    },
    ss.AdaptiveEquation: {"Adam": adam},
}


def test_every_equation_with_another_step_is_here():
    """Each process with a `refined` of its own is checked below."""
    own = {k for k in kinds(AbstractProcess) if k.refined is not AbstractProcess.refined}
    assert REFINED.keys() == own


@pytest.mark.parametrize("make", each(REFINED))
@pytest.mark.parametrize("rate", [0.3, schedule], ids=["constant", "schedule"])
def test_another_solver_step_changes_nothing_else(make, rate):
    """refined(m, r) is the equation made with substeps=m, refinement=r: time, schedule, order,
    increments, solver, momentum and noise stay."""
    if callable(rate) and make is overdamped:
        pytest.skip("takes no schedule")
    start = make(rate, substeps=2, refinement=3)
    for substeps, refinement in ((2, 3), (5, 1), (1, 4)):
        found = start.refined(substeps, refinement)
        wanted = make(rate, substeps=substeps, refinement=refinement)
        assert eqx.tree_equal(found, wanted, rtol=1e-12, atol=0.0)
        np.testing.assert_allclose(found.time(np.arange(5)), start.time(np.arange(5)), rtol=1e-12)
    assert not eqx.tree_equal(start.refined(2, 1), start, rtol=1e-12, atol=0.0)


def test_the_time_of_a_long_schedule_is_summed_in_blocks():
    """t_k = Σ_{j<k} 1/(1 + j) at a few k in any order, without room for all k."""
    process = ss.SGD(LANDSCAPE, lambda k: 1 / (1 + k), SAMPLING)
    last = 5 * 2**20
    wanted = np.array([[last, 0], [1, 2**20 + 1]])
    process.time(np.array([2**20]))  # compiled before memory is watched
    tracemalloc.start()
    found = process.time(wanted)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    harmonic = special.digamma(wanted + 1.0) + np.euler_gamma
    np.testing.assert_allclose(found, harmonic, rtol=1e-12, atol=1e-12)
    assert most < 5 * 8 * 2**20, most  # all rates are 40 MB
