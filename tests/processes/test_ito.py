"""dx = −x dt + √(2T(1 + x²)) dW, T = ¼, against the exact law of its Euler scheme (theory §3).

The scheme x' = (1 − h)x + √(2Th(1 + x²)) z is a Markov chain whose stationary law is computed
here by quadrature, without sampling. So a run is held to its own step exactly, and the
limit h → 0 of those exact values is Itô's law.
"""

import functools
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
TEMPERATURE = 0.25
ETA, SUBSTEPS = 0.08, 4
STEP = ETA / SUBSTEPS
ITO, STRATONOVICH = 0.32498, 0.37035


class GrowingNoise(ss.AbstractGradientNoise):
    """C(x) = (2T/η)(1 + x²): √η C^{1/2} = √(2T(1 + x²)), in one dimension."""

    scale: float = eqx.field(static=True, default=2 * TEMPERATURE / ETA)
    additive: ClassVar[bool] = False
    fused: ClassVar[bool] = True

    def check(self, landscape):
        pass

    def dimension(self, landscape):
        return 1

    def covariance(self, theta, landscape):
        return self.scale * (1 + theta[:, None] ** 2)

    def diffusion(self, theta, landscape):
        return lx.DiagonalLinearOperator(jnp.sqrt(self.scale * (1 + theta**2)))

    def noisy_gradient(self, theta, z, amplitude, landscape):
        root = jnp.sqrt(self.scale * (1 + theta**2))
        return landscape.gradient(theta) + amplitude * root * z


@functools.cache
def euler_share(h: float, curvature: float, level: float) -> float:
    """P(|x| < level) in the stationary state of Euler with step h and drift −curvature·x.

    Nodes are even in u = asinh x, where the noise has constant width √(2Th); the trapezoid
    rule is then spectrally accurate. The level enters by the transition probability.
    """
    width = np.sqrt(2 * TEMPERATURE * h)
    u = np.arange(-7, 7 + 1e-9, width / 3)
    x, scale = np.sinh(u), np.cosh(u)
    spread = width * scale[:, None]
    kernel = stats.norm.pdf(x[None, :], (1 - h * curvature) * x[:, None], spread) * scale
    kernel /= kernel.sum(1, keepdims=True)
    law = np.linalg.matrix_power(kernel, 2**14)[len(u) // 2]
    ends = stats.norm.cdf(
        (np.array([[-level], [level]]) - (1 - h * curvature) * x) / (width * scale)
    )
    return float(law @ (ends[1] - ends[0]))


def measured_share(process, level: float, num_steps=700) -> ss.Estimate:
    """P(|x| < level) over members and time; members are the independent samples."""
    run = ss.simulate(
        process,
        jnp.zeros(1),
        num_steps=num_steps,
        ensemble_size=4096,
        key=jr.key(24),
        measures={"share": ss.Moments(lambda x: jnp.abs(x[0]) < level, 150, 10, False)},
        progress=False,
    )
    share = run["share"].mean
    assert share.standard_error < 1.5e-3, "too few independent samples"
    return share


def score(estimate: ss.Estimate, exact: float) -> float:
    return abs(float(estimate.value) - exact) / float(estimate.standard_error)


THRESHOLD = stats.norm.isf(FAILURE_RATE / 2)


def equation(curvature=1.0, **options):
    return ss.ModifiedEquation(
        ss.quadratic(curvature, 1.0), ETA, GrowingNoise(), substeps=SUBSTEPS, **options
    )


def test_the_limit_of_eulers_law_is_itos():
    """Richardson in h of the exact Euler share at .32498 is ½ to 1e-4; at .37035 it is not."""
    coarse, fine = (euler_share(h, 1.0, ITO) for h in (STEP, STEP / 2))
    assert 2 * fine - coarse == pytest.approx(0.5, abs=1e-4)
    assert 0.5 - coarse == pytest.approx(2 * (0.5 - fine), rel=0.05)  # of order one in h
    coarse, fine = (euler_share(h, 1.0, STRATONOVICH) for h in (STEP, STEP / 2))
    assert abs(2 * fine - coarse - 0.5) > 0.05
    # Stratonovich's equation, written as Itô's, has ½σσ' = Tx more drift.
    coarse, fine = (euler_share(h, 1 - TEMPERATURE, STRATONOVICH) for h in (STEP, STEP / 2))
    assert 2 * fine - coarse == pytest.approx(0.5, abs=1e-4)


def test_the_default_solver_is_itos():
    """P(|x| < .32498) is that of Euler at its step; Stratonovich's equation fails by far."""
    exact = euler_share(STEP, 1.0, ITO)
    assert score(measured_share(equation(), ITO), exact) < THRESHOLD
    # Control: the drift correction added by hand; it is Stratonovich's, and fails here.
    stratonovich = equation(1 - TEMPERATURE)
    assert score(measured_share(stratonovich, ITO), exact) > 5 * THRESHOLD
    own = euler_share(STEP, 1 - TEMPERATURE, STRATONOVICH)
    assert score(measured_share(stratonovich, STRATONOVICH), own) < THRESHOLD


@pytest.mark.parametrize("solver", [dfx.ItoMilstein(), dfx.Heun()], ids=["ItoMilstein", "Heun"])
def test_what_the_list_of_solvers_keeps_out(solver):
    """ItoMilstein is accepted and is Itô's; Heun, put in past the check, is Stratonovich's.

    Both schemes are of weak order one; what they are allowed is twice the exact bias of Euler,
    a quarter of the distance between the two equations.
    """
    process = equation(solver=dfx.ItoMilstein())
    process = eqx.tree_at(lambda p: p.solver, process, solver)
    bias = 2 * abs(euler_share(STEP, 1.0, ITO) - 0.5)
    ito, stratonovich = (measured_share(process, level) for level in (ITO, STRATONOVICH))
    right, wrong = (stratonovich, ito) if isinstance(solver, dfx.Heun) else (ito, stratonovich)
    assert abs(float(right.value) - 0.5) < bias + THRESHOLD * float(right.standard_error)
    assert abs(float(wrong.value) - 0.5) > bias + THRESHOLD * float(wrong.standard_error)
    if isinstance(solver, dfx.Heun):
        with pytest.raises(ValueError, match=r"Stratonovich.*GrowingNoise depends on θ.*Itô"):
            equation(solver=solver)


def heun_variance(h):
    """Stationary variance of Heun on dx = −x dt + s dW, over s²: v = a²v + hb²."""
    a, b = 1 - h + h**2 / 2, 1 - h / 2
    return h * b**2 / (1 - a**2)


@pytest.mark.parametrize(
    "solver",
    [dfx.Heun(), dfx.Ralston(), dfx.StratonovichMilstein()],
    ids=lambda s: type(s).__name__,
)
def test_additive_noise_has_its_exact_variance(solver):
    """dx = −x dt + √η s dW: each scheme's own variance at its step, Euler's or Heun's."""
    eta, variance = 0.4, 3.0
    noise = ss.ConstantNoise(np.array([[variance]]))
    sde = ss.ModifiedEquation(ss.quadratic(1.0, 1.0), eta, noise, substeps=1, solver=solver)
    run = ss.simulate(
        sde,
        jnp.zeros(1),
        num_steps=240,
        ensemble_size=4096,
        key=jr.key(25),
        measures={"moments": ss.Moments(burn_in=40, every=2)},
        progress=False,
    )
    found = run["moments"].covariance[0, 0]
    exact = {"euler": eta * variance / (2 - eta), "heun": eta * variance * heun_variance(eta)}
    second_order = isinstance(solver, dfx.Heun | dfx.Midpoint | dfx.Ralston)
    own, other = ("heun", "euler") if second_order else ("euler", "heun")
    assert score(found, exact[own]) < THRESHOLD
    assert score(found, exact[other]) > THRESHOLD
