"""dx = −x dt + √(2T(1 + x²)) dW at T = ¼, in Itô's sense and in no other."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import sde_sgd as ss

ETA, TEMPERATURE, SUBSTEPS = 0.1, 0.25, 4


class MultiplicativeNoise(ss.AbstractGradientNoise):
    """C(x) = 2T(1 + x²)/η, so that √η C^{1/2} = √(2T(1 + x²))."""

    size: float = eqx.field(static=True)
    additive = False
    fused = True

    def check(self, landscape):
        pass

    def dimension(self, landscape):
        return 1

    def covariance(self, theta, landscape):
        return self.size * (1 + theta[:, None] ** 2)

    def diffusion(self, theta, landscape):
        return lx.DiagonalLinearOperator(jnp.sqrt(self.size * (1 + theta**2)))

    def noisy_gradient(self, theta, z, amplitude, landscape):
        return landscape.gradient(theta) + amplitude * jnp.sqrt(self.size * (1 + theta**2)) * z


NOISE = MultiplicativeNoise(2 * TEMPERATURE / ETA)


def median(power: float) -> float:
    """Median of |x| under p ∝ D^{−power} e^{−∫V'/D}, D = T(1 + x²): 1 Itô, ½ Stratonovich."""

    def density(x):
        return (1 + x**2) ** (-power - 1 / (2 * TEMPERATURE))

    half = quad(density, 0, np.inf)[0] / 2
    return brentq(lambda m: quad(density, 0, m)[0] - half, 0, 10)


def share_below(landscape, level: float) -> ss.Estimate:
    """P(|x| < level), which is ½ at the median, in the long run."""
    sde = ss.ModifiedEquation(landscape, ETA, NOISE, substeps=SUBSTEPS)
    run = ss.simulate(
        sde,
        jnp.zeros(1),
        num_steps=600,
        ensemble_size=4096,
        key=jr.key(0),
        measures={"share": ss.Moments(lambda x: jnp.abs(x[0]) < level, 100, 5, False)},
    )
    return run["share"].mean


def test_medians_are_those_of_the_reference():
    """.32498 (Itô), .37035 (Stratonovich)."""
    assert median(1.0) == pytest.approx(0.32498, abs=1e-5)
    assert median(0.5) == pytest.approx(0.37035, abs=1e-5)


def test_stationary_median_is_itos():
    """P(|x| < .32498) = ½ within the step's bias, and Stratonovich's equation misses it."""
    quadratic = ss.quadratic(1.0, 1.0)
    # Euler at h = .025 has Var 2T/(2 − h − 2T), 1.7 % above its limit: |x| scales by .8 %,
    # and the density of |x| at the median moves the share by less than .01.
    bias = 0.01
    found = share_below(quadratic, median(1.0))
    assert found.standard_error < 2e-3
    assert ss.compare(found, 0.5, resolution=bias + 5 * float(found.standard_error)).verdict == (
        "agrees"
    )
    # Stratonovich's equation is Itô's with the drift ½σσ' = Tx more: V = (1 − T)x²/2.
    wrong = share_below(ss.quadratic(1.0 - TEMPERATURE, 1.0), median(1.0))
    assert ss.compare(wrong, 0.5).verdict == "disagrees"
    assert abs(float(wrong.value) - 0.5) > 3 * (bias + 5 * float(wrong.standard_error))


@pytest.mark.parametrize(
    "solver",
    [dfx.Heun(), dfx.Midpoint(), dfx.Ralston(), dfx.EulerHeun(), dfx.StratonovichMilstein(),
     dfx.ReversibleHeun(), dfx.GeneralShARK(), dfx.SlowRK(), dfx.SPaRK(), dfx.ShARK(), dfx.SEA()],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_stratonovich_solvers_are_refused_for_this_noise(solver):
    """They would converge, silently, to another equation."""
    with pytest.raises(ValueError, match="Itô"):
        ss.ModifiedEquation(ss.quadratic(1.0, 1.0), ETA, NOISE, solver=solver)


@pytest.mark.parametrize("solver", [dfx.Tsit5(), dfx.Dopri5(), dfx.HalfSolver(dfx.Euler())])
def test_solvers_of_unknown_limit_are_refused(solver):
    """Only solvers on the list are accepted."""
    with pytest.raises(ValueError, match="not known to converge"):
        ss.ModifiedEquation(ss.quadratic(1.0, 1.0), ETA, NOISE, solver=solver)


@pytest.mark.parametrize(
    "solver", [dfx.Heun(), dfx.Midpoint(), dfx.ShARK(), dfx.SRA1()], ids=lambda s: type(s).__name__
)
def test_additive_noise_may_use_them(solver):
    """dx = −x dt + √η σ dW has the variance ησ²/2 under a solver of weak order two."""
    noise = ss.ConstantNoise(jnp.array([[4.0]]))
    sde = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), ETA, noise, substeps=1, solver=solver)
    run = ss.simulate(
        sde,
        jnp.zeros(1),
        num_steps=400,
        ensemble_size=2048,
        key=jr.key(3),
        measures={"moments": ss.Moments(burn_in=80)},
    )
    found = run["moments"].covariance
    # The steps' own error, O(h²): h²/6·variance bounds it for all four.
    assert ss.compare(found, [[ETA * 2]], resolution=ETA**2 + 0.004).verdict == "agrees"
    # Euler's own variance ηC/(2 − η) is 5 % off, and told apart.
    assert ss.compare(found, [[ETA * 4 / (2 - ETA)]]).verdict == "disagrees"


def test_ito_milstein_is_accepted_and_right():
    """Strong scheme of the same Itô equation: the same share below the median."""
    sde = ss.ModifiedEquation(
        ss.quadratic(1.0, 1.0), ETA, NOISE, substeps=SUBSTEPS, solver=dfx.ItoMilstein()
    )
    run = ss.simulate(
        sde,
        jnp.zeros(1),
        num_steps=300,
        ensemble_size=2048,
        key=jr.key(5),
        measures={"share": ss.Moments(lambda x: jnp.abs(x[0]) < median(1.0), 60, 5, False)},
    )
    assert abs(float(run["share"].mean.value) - 0.5) < 0.01 + 5 * float(
        run["share"].mean.standard_error
    )
