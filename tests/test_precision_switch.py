"""64-bit numbers switched off after an object was made: one clear error, at every way in."""

import jax
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

SAMPLING = ss.WithReplacement(2)
LANDSCAPE = ss.LeastSquares(np.eye(3), np.arange(3.0))
PROCESS = ss.SGD(LANDSCAPE, 0.1, SAMPLING)
START = np.zeros(3)
KEY = jr.key(0)
WAYS_IN = {
    "a process": lambda: ss.SGD(LANDSCAPE, 0.1, SAMPLING),
    "a run": lambda: ss.simulate(PROCESS, START, num_steps=1, ensemble_size=2, key=KEY),
    "splitting": lambda: ss.splitting(
        PROCESS, START, level=lambda t: t[0], origin=-1.0, target=1.0, key=KEY
    ),
    "validity": lambda: ss.validity(LANDSCAPE, PROCESS, START, key=KEY),
    "curvature": lambda: ss.curvature.trace(LANDSCAPE, START, key=KEY),
    "basins": lambda: ss.landscapes.find_basins(LANDSCAPE, START[None]),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_what_was_made_in_64_bits_needs_them(way):
    """float64 of JAX in 64 bits meets JAX in 32 bits: an error that says so, and the way out."""
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="LeastSquares was made in float64, and JAX's 64-bit"):
            WAYS_IN[way]()
    finally:
        jax.config.update("jax_enable_x64", True)
