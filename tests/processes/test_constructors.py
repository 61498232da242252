"""Constructors refuse what would be meaningless, with the value and the way out."""

import diffrax as dfx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import sde_sgd as ss

LANDSCAPE = ss.LeastSquares(jnp.eye(4)[:, :3], jnp.arange(4.0))
SAMPLING = ss.WithReplacement(2)
NOISE = ss.MinibatchNoise(SAMPLING)
RATES = {
    "SGD": lambda rate: ss.SGD(LANDSCAPE, rate, SAMPLING),
    "GaussianSGD": lambda rate: ss.GaussianSGD(LANDSCAPE, rate, NOISE),
    "OptaxSGD": lambda rate: ss.OptaxSGD(LANDSCAPE, optax.adam(1e-3), SAMPLING, rate),
    "GradientFlow": lambda rate: ss.GradientFlow(LANDSCAPE, rate),
    "ModifiedEquation": lambda rate: ss.ModifiedEquation(LANDSCAPE, rate, NOISE),
}
SUBSTEPS = {
    "GradientFlow": lambda substeps: ss.GradientFlow(LANDSCAPE, 0.1, substeps),
    "ModifiedEquation": lambda substeps: ss.ModifiedEquation(LANDSCAPE, 0.1, NOISE, 1, substeps),
}
MOMENTA = {
    "SGD": lambda momentum: ss.SGD(LANDSCAPE, 0.1, SAMPLING, momentum),
    "GaussianSGD": lambda momentum: ss.GaussianSGD(LANDSCAPE, 0.1, NOISE, momentum),
}


def equation(**options):
    return ss.ModifiedEquation(LANDSCAPE, 0.1, NOISE, **options)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(
    "rate",
    [0.0, -0.1, np.nan, np.inf, jnp.ones(2), "0.1", lambda k: -0.1 + k, lambda k: jnp.ones(2)],
)
def test_learning_rates(name, rate):
    """0 < η < ∞, one number or a schedule that starts at one ≥ 0."""
    with pytest.raises(ValueError, match="learning_rate"):
        RATES[name](rate)


def test_good_learning_rates():
    """Integers, NumPy and JAX scalars, and a schedule that warms up from 0."""
    for rate in (1, np.float32(0.1), jnp.asarray(0.1), lambda k: 0.01 * k):
        ss.SGD(LANDSCAPE, rate, SAMPLING)
    assert ss.SGD(LANDSCAPE, 1, SAMPLING).learning_rate.constant() == 1.0
    assert ss.SGD(LANDSCAPE, lambda k: 0.01 * k, SAMPLING).learning_rate.constant() is None


@pytest.mark.parametrize("name", MOMENTA)
@pytest.mark.parametrize("momentum", [1.0, 1.5, -0.1, np.nan, np.inf])
def test_momenta(name, momentum):
    """0 ≤ μ < 1."""
    with pytest.raises(ValueError, match=r"momentum must be a number in \[0, 1\)"):
        MOMENTA[name](momentum)


@pytest.mark.parametrize("name", SUBSTEPS)
@pytest.mark.parametrize("substeps", [0, -1, 1.5, True, "4"])
def test_substeps(name, substeps):
    """Substeps are an integer ≥ 1; beartype refuses what is no int before that."""
    with pytest.raises((ValueError, TypeError), match="substeps"):
        SUBSTEPS[name](substeps)


@pytest.mark.parametrize("order", [0, 3])
def test_orders(order):
    """Order 1 or 2."""
    with pytest.raises(ValueError, match="order must be one of 1, 2"):
        equation(order=order)


def test_increments():
    """ "gaussian" or "two_point"; two-point increments only with Euler or additive noise."""
    with pytest.raises((ValueError, TypeError), match="increments"):
        equation(increments="uniform")
    with pytest.raises(ValueError, match="Two-point increments.*ItoMilstein"):
        equation(increments="two_point", solver=dfx.ItoMilstein())
    with pytest.raises(ValueError, match="Gaussian increments"):
        ss.ModifiedEquation(
            LANDSCAPE,
            0.1,
            ss.ConstantNoise(jnp.eye(3)),
            increments="two_point",
            solver=dfx.ShARK(),
        )


@pytest.mark.parametrize("refinement", [0, -2, True])
def test_refinements(refinement):
    """Refinement is an integer ≥ 1."""
    with pytest.raises((ValueError, TypeError), match="refinement"):
        equation(refinement=refinement)


STATE_DEPENDENT = {
    "MinibatchNoise": NOISE,
    "IsotropicNoise": ss.IsotropicNoise(SAMPLING),
    "DiagonalNoise": ss.DiagonalNoise(SAMPLING),
    "HessianNoise": ss.HessianNoise(0.5),
}
STRATONOVICH = (
    dfx.Heun(), dfx.Midpoint(), dfx.Ralston(), dfx.EulerHeun(), dfx.StratonovichMilstein(),
    dfx.ReversibleHeun(), dfx.SEA(), dfx.SRA1(), dfx.ShARK(), dfx.SlowRK(), dfx.SPaRK(),
    dfx.GeneralShARK(),
)  # fmt: skip


@pytest.mark.parametrize("model", STATE_DEPENDENT)
@pytest.mark.parametrize("solver", STRATONOVICH, ids=lambda s: type(s).__name__)
def test_stratonovich_solvers_need_additive_noise(model, solver):
    """The message names the solver, the noise, the reason and the way out."""
    reason = rf"{type(solver).__name__}.*Stratonovich.*{model} depends on θ.*Itô.*ConstantNoise.at"
    with pytest.raises(ValueError, match=reason):
        ss.ModifiedEquation(LANDSCAPE, 0.1, STATE_DEPENDENT[model], solver=solver)


@pytest.mark.parametrize(
    "solver", [dfx.Tsit5(), dfx.Dopri5(), dfx.Bosh3(), dfx.HalfSolver(dfx.Euler()), dfx.SPaRK()]
)
def test_solvers_of_unknown_limit_are_refused(solver):
    """An allow-list: also for additive noise, and then without calling it state-dependent."""
    with pytest.raises(ValueError, match="not known to converge to the Itô solution"):
        ss.ModifiedEquation(LANDSCAPE, 0.1, ss.ConstantNoise(jnp.eye(3)), solver=solver)
    if not isinstance(solver, dfx.SPaRK):
        with pytest.raises(ValueError, match="not known to converge to the Itô solution"):
            equation(solver=solver)


@pytest.mark.parametrize(
    "solver", [dfx.Heun(), dfx.Tsit5(), dfx.ReversibleHeun()], ids=lambda s: type(s).__name__
)
@pytest.mark.filterwarnings("ignore:.*not marked as converging")
def test_fused_terms_refuse_other_solvers(solver):
    """Terms of an Euler process, solved with another solver, are an error and not another SDE."""
    terms = equation(substeps=4).terms(jr.key(0))
    with pytest.raises(ValueError, match=r"fused terms.*diffrax.Euler\(\)"):
        dfx.diffeqsolve(terms, solver, 0.0, 2.0, 0.25, jnp.zeros(3))


WRONG_PARTS = {
    "sampling for noise": lambda: ss.ModifiedEquation(LANDSCAPE, 0.1, SAMPLING),
    "noise for sampling": lambda: ss.SGD(LANDSCAPE, 0.1, NOISE),
    "number for sampling": lambda: ss.SGD(LANDSCAPE, 0.1, 4),
    "function for landscape": lambda: ss.SGD(lambda theta: theta, 0.1, SAMPLING),
    "class for solver": lambda: equation(solver=dfx.Euler),
    "text for solver": lambda: ss.GradientFlow(LANDSCAPE, 0.1, solver="Tsit5"),
    "function for optimizer": lambda: ss.OptaxSGD(LANDSCAPE, optax.sgd, SAMPLING),
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_parts_in_the_wrong_place(name):
    """A part of another kind is refused where it is passed (by beartype where it is on)."""
    with pytest.raises((ValueError, TypeError), match=name.split()[-1]):
        WRONG_PARTS[name]()


def test_flows_refuse_solvers_of_stochastic_equations():
    """Milstein's method and SRK need the diffusion by itself; Runge–Kutta methods do not."""
    flat = ss.ConstantNoise(jnp.eye(3))
    score = ss.theory.equations.GaussianScore(
        ss.ModifiedEquation(ss.quadratic(jnp.eye(3), jnp.eye(3)), 0.1, flat).limit(),
        ss.theory.laws.Gaussian(jnp.zeros(3), jnp.eye(3)),
    )
    for make in (
        lambda solver: ss.GradientFlow(LANDSCAPE, 0.1, solver=solver),
        lambda solver: ss.ProbabilityFlow(LANDSCAPE, 0.1, flat, score, solver=solver),
    ):
        for solver in (dfx.Euler(), dfx.Heun(), dfx.Kvaerno3()):
            make(solver)
        for solver in (dfx.ItoMilstein(), dfx.SlowRK()):
            with pytest.raises(ValueError, match="does not solve an equation without noise"):
                make(solver)


def test_noise_of_another_dimension():
    """A (2, 2) covariance on d = 3."""
    for process in (ss.ModifiedEquation, ss.GaussianSGD):
        with pytest.raises(ValueError, match="d=3"):
            process(LANDSCAPE, 0.1, ss.ConstantNoise(jnp.eye(2)))


def test_batches_larger_than_the_data():
    """B ≤ N for subsets, found by every constructor that takes them."""
    scheme = ss.WithoutReplacement(5)
    for make in (
        lambda: ss.SGD(LANDSCAPE, 0.1, scheme),
        lambda: ss.OptaxSGD(LANDSCAPE, optax.adam(1e-3), scheme),
        lambda: ss.GaussianSGD(LANDSCAPE, 0.1, ss.MinibatchNoise(scheme)),
        lambda: ss.ModifiedEquation(LANDSCAPE, 0.1, ss.IsotropicNoise(scheme)),
    ):
        with pytest.raises(ValueError, match="batch_size=5 of N=4"):
            make()
