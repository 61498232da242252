"""Which solvers a modified equation takes: for dx = −x dt + √(2T(1 + x²)) dW those of Itô."""

import diffrax as dfx
import jax.numpy as jnp
import jax.random as jr
import pytest

import sde_sgd as ss

ETA, TEMPERATURE, SUBSTEPS = 0.1, 0.25, 4


NOISE = ss.FunctionNoise(lambda x: jnp.sqrt(2 * TEMPERATURE / ETA * (1 + x**2)))


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
