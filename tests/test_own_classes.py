"""The classes that the docstrings of the abstract ones show: they run, with the right numbers."""

import inspect
import re
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import sde_sgd as ss

NAMES = {"ss": ss, "jax": jax, "jnp": jnp, "eqx": eqx, "lx": lx, "ClassVar": ClassVar}


def shown(kind):
    """The class that the docstring of an abstract one shows, in at most fifteen lines."""
    (block,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(kind), re.S)
    assert len(block.splitlines()) <= 15
    space = {"__name__": __name__, **NAMES}
    exec(compile(block, kind.__name__, "exec"), space)
    (name,) = re.findall(r"^class (\w+)", block, re.M)
    assert issubclass(space[name], kind)
    return space[name]


def end(process, start, num_steps=1, **options):
    """θ after some iterations, (members, d)."""
    quiet = {"key": jr.key(0), "progress": False, "check_stability": False, "ensemble_size": 3}
    return ss.simulate(process, start, num_steps=num_steps, **quiet, **options)


QUADRATIC = ss.quadratic(np.diag([1.0, 2.0]), np.eye(2))
START = np.array([1.0, -2.0])


def test_a_measure():
    """Full batches on ½θᵀHθ: the longest step of θ_{k+1} = (1 − ηH)θ_k is the first, η|Hθ₀|."""
    process = ss.GradientFlow(QUADRATIC, 0.1, substeps=1)
    largest = end(process, START, 4, measures={"step": shown(ss.AbstractMeasure)()})["step"]
    first = START - np.asarray(end(process, START, 1).positions[0])
    np.testing.assert_allclose(largest.value, np.linalg.norm(first), rtol=1e-12)
    assert largest.num_samples == 3


def test_a_process():
    """It shares every random number with Gaussian SGD of C = σ²I; its time is ηk."""
    own = shown(ss.AbstractProcess)(QUADRATIC, 0.1, 0.7)
    known = ss.GaussianSGD(QUADRATIC, 0.1, ss.ConstantNoise(0.49 * np.eye(2)))
    run = end(own, START, 5)
    np.testing.assert_allclose(run.positions, end(known, START, 5).positions, rtol=1e-12)
    np.testing.assert_allclose(run.time, 0.5)
    assert own.substeps == 1 and not own.autonomous
    own.check()


def test_a_step_that_forgets_the_carry_is_told():
    """`step` returns the state and what observe gave."""

    class Forgetful(ss.AbstractProcess):
        landscape: ss.AbstractLandscape

        def step(self, state, draws, observe, carry):
            return 0.9 * state

    with pytest.raises(ValueError, match=r"Forgetful.step must return .* \(state, carry\)"):
        end(Forgetful(QUADRATIC), START)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (
            lambda state: state[0],
            r"returned float64\[2\] in place of float64\[1, 2\]",
        ),
        (lambda state: state.astype(jnp.float32), r"in the same dtypes; it returned float32\["),
        (lambda state: (state, state), r"of the form that it got"),
    ],
)
def test_a_step_that_changes_the_state_s_form_is_told(after, words):
    """One member's θ, another dtype, another tree."""

    class Changing(ss.AbstractProcess):
        landscape: ss.AbstractLandscape

        def step(self, state, draws, observe, carry):
            return after(state), observe(carry, state, state, jnp.uint32(0))

        def position(self, state):
            return state[0] if isinstance(state, tuple) else state

    with pytest.raises(ValueError, match=words):
        end(Changing(QUADRATIC), START)


def test_a_step_that_does_not_observe_is_told():
    """Exits would be missed without a word."""

    class Blind(ss.AbstractProcess):
        landscape: ss.AbstractLandscape

        def step(self, state, draws, observe, carry):
            return 0.9 * state, carry

    with pytest.raises(ValueError, match="Blind.step has not called observe"):
        end(Blind(QUADRATIC), START)


def test_a_clock_that_is_none_is_told():
    """`clock` is a Clock."""

    class Timeless(ss.AbstractProcess):
        landscape: ss.AbstractLandscape

        def step(self, state, draws, observe, carry):
            return state, observe(carry, state, state, jnp.uint32(0))

        @property
        def clock(self):
            return 0.1

    with pytest.raises(ValueError, match=r"Timeless.clock must be a ss.processes.Clock.*got 0.1"):
        Timeless(QUADRATIC)


def test_a_gradient_noise():
    """One step is θ₀ − η(∇L + √(sL(θ₀)) z), z the numbers of Gaussian SGD with C = I."""
    known = end(ss.GaussianSGD(QUADRATIC, 0.1, ss.ConstantNoise(np.eye(2))), START).positions
    own = end(ss.GaussianSGD(QUADRATIC, 0.1, shown(ss.AbstractGradientNoise)(0.3)), START)
    mean = START - 0.1 * np.array([1.0, -4.0])
    loss = 0.5 * (1.0 + 2 * 4.0)
    np.testing.assert_allclose(own.positions - mean, np.sqrt(0.3 * loss) * (known - mean))


def test_a_sampling():
    """Batches 01, 23, 01 of ½(θ − y_i)²: θ ← θ − η(θ − mean y of the batch), no noise."""
    targets = np.array([1.0, 2.0, 5.0, 7.0])
    sampling = shown(ss.AbstractSampling)(2)
    sgd = ss.SGD(ss.LeastSquares(np.ones((4, 1)), targets), 0.5, sampling)
    theta = 0.0
    for mean in (1.5, 6.0, 1.5):
        theta -= 0.5 * (theta - mean)
    np.testing.assert_allclose(end(sgd, [0.0], 3).positions, np.full((3, 1), theta))
    with pytest.raises(ValueError, match="InOrder does not say its third_factor"):
        sampling.third_factor(4)


def test_a_driving_process():
    """One step from the minimum of ½h|θ|² is ±η√C in each coordinate."""
    noise = ss.ConstantNoise(np.diag([4.0, 9.0]))
    driving = shown(ss.noise.AbstractDriving)()
    sde = ss.DrivenEquation(QUADRATIC, 0.1, noise, driving, substeps=1)
    np.testing.assert_allclose(np.abs(end(sde, [0.0, 0.0]).positions), np.tile([0.2, 0.3], (3, 1)))


def test_a_finite_sum():
    """∇L(0) = mean (1 − y_i) x_i, by a full batch; Σ(0) its covariance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.integers(0, 4, 6).astype(float)
    own = shown(ss.AbstractFiniteSum)((jnp.asarray(x), jnp.asarray(y)))
    gradients = (1 - y)[:, None] * x
    moved = end(ss.SGD(own, 0.5, ss.WithoutReplacement(6)), [0.0, 0.0]).positions
    np.testing.assert_allclose(moved, np.tile(-0.5 * gradients.mean(0), (3, 1)), atol=1e-14)
    found = jax.jit(lambda t: own.gradient_covariance(t))(jnp.zeros(2))
    np.testing.assert_allclose(found, np.cov(gradients.T, bias=True), atol=1e-14)


def test_a_population():
    """L = ½θ² + ½ with Σ = 1 moves as the energy ½θ² with that noise, number for number."""
    own = shown(ss.landscapes.AbstractPopulation)()
    known = ss.quadratic(np.eye(1), np.eye(1))
    noise = ss.ConstantNoise(np.eye(1) / 4)
    ours = ss.MinibatchNoise(ss.WithReplacement(4))
    np.testing.assert_allclose(
        end(ss.GaussianSGD(own, 0.1, ours), [1.0], 3).positions,
        end(ss.GaussianSGD(known, 0.1, noise), [1.0], 3).positions,
        rtol=1e-12,
    )
    batches = end(ss.SGD(own, 1.0, ss.WithReplacement(4)), [0.0]).positions
    assert batches.shape == (3, 1) and np.isfinite(batches).all()


class Broken(ss.AbstractMeasure):
    """A measure with one fault."""

    fault: str = eqx.field(static=True)

    def init(self, theta):
        if self.fault == "members":
            return {"sum": jnp.zeros(theta.shape[1])}
        return {"sum": 0.0 if self.fault == "number" else jnp.zeros(theta.shape[0], jnp.int32)}

    def update(self, carry, before, after, tick, alive):
        if self.fault == "dtype":
            return {"sum": carry["sum"] + after[:, 0]}
        if self.fault == "shape":
            return {"sum": after.astype(jnp.int32)}
        return carry["sum"] if self.fault == "form" else carry

    def finished(self, carry):
        if self.fault == "restart":
            return carry["sum"] > 0
        return carry["sum"].sum() > 0 if self.fault == "finished" else None

    def restart(self, carry, restarted):
        return {} if self.fault == "restart" else carry

    def result(self, carry, alive, process):
        return None


@pytest.mark.parametrize(
    "fault, message",
    [
        ("members", r"every array.*of 5 members init gives carry\['sum'\] of shape \(2,\): add up"),
        ("number", r"init must give arrays with the members first; its carry\['sum'\] is 0\.0"),
        ("dtype", r"update must keep.*carry\['sum'\], which init makes int32.*becomes float64"),
        ("shape", r"update must keep.*of shape \(5,\), becomes int32 of shape \(5, 2\)"),
        ("form", "update must give a carry of the form that init gives"),
        ("finished", r"finished must give one boolean a member.*gives shape \(\)"),
        ("restart", "restart must give a carry of the form that init gives"),
    ],
)
def test_a_measure_that_cannot_run_is_refused(fault, message):
    """Before the run, in one line that names the measure, the array and the way out."""
    process = ss.GradientFlow(QUADRATIC, 0.1, substeps=1)
    with pytest.raises(ValueError, match=rf"measures\['mine'\], a Broken: {message}") as raised:
        end(process, START, measures={"mine": Broken(fault)}, refill=fault == "restart")
    assert "\n" not in str(raised.value)
