"""A bath belongs to one learning rate."""

import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss

LANDSCAPE = ss.quadratic(1.0, 1.0)
NOISE = ss.ConstantNoise(np.eye(1))


def bath(rate, temperature=0.3):
    return ss.ThermalNoise(NOISE, temperature, rate)


MAKERS = {
    "ModifiedEquation": lambda rate, noise: ss.ModifiedEquation(LANDSCAPE, rate, noise),
    "GaussianSGD": lambda rate, noise: ss.GaussianSGD(LANDSCAPE, rate, noise),
    "UnderdampedEquation": lambda rate, noise: ss.UnderdampedEquation(LANDSCAPE, rate, noise, 0.5),
    "OverdampedEquation": lambda rate, noise: ss.OverdampedEquation(LANDSCAPE, rate, noise, 0.5),
    "AdaptiveEquation": lambda rate, noise: ss.AdaptiveEquation(LANDSCAPE, ss.Adam(rate), noise),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_bath_of_another_rate_is_refused(name):
    """√η·√(2T/η′) per √t is a bath of ηT/η′: at η = .1, η′ = 1, T = .3 one of .03."""
    make = MAKERS[name]
    make(0.1, bath(0.1))
    make(0.1, bath(jnp.float32(0.1)))
    make(0.1, bath(1.0, temperature=0.0))
    with pytest.raises(ValueError, match=rf"this {name} has 0.1.*temperature 0.03 and not 0.3"):
        make(0.1, bath(1.0))
    with pytest.raises(ValueError, match=r"temperature 0.03 and not 0.3"):
        make(0.1, ss.ThermalNoise(bath(1.0), 0.2, 0.1))
    with pytest.raises(ValueError, match="schedule"):
        make(lambda k: 0.1 / (1 + k), bath(0.1))


def test_the_overdamped_equation_has_the_bath_of_heavy_ball():
    """(1−μ)dX = −∇L dt + √η C^{1/2} dW: √η C^{1/2}/(1−μ) per √t of t = ηk, C = 1 + 2T/η."""
    process = MAKERS["OverdampedEquation"](0.1, bath(0.1))
    theta = jnp.ones(1)
    along = [process.equation.diffusion(theta, z)[0] for z in jnp.eye(2)]
    # The inner clock runs 1/(1−μ) times as fast as t.
    wanted = np.sqrt(0.1 / 0.5 * (1 + 2 * 0.3 / 0.1))
    np.testing.assert_allclose(np.hypot(*along), wanted, rtol=1e-6)
