"""Functions that users write: one form each, called with one θ, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from sde_sgd import theory
from sde_sgd.processes import Diffusion
from sde_sgd.theory import _fields, _step_laws

POINTS = np.random.default_rng(0).normal(size=(1030, 2))
DIAGONAL = np.array([2.0, 3.0])


@pytest.mark.parametrize(
    ("form", "diagonal"), [(2.0, [2, 2]), (DIAGONAL, DIAGONAL), (np.diag(DIAGONAL), DIAGONAL)]
)
def test_forms_of_a_tensor(form, diagonal):
    """c, (c₁, c₂) and C are c·1, diag(c) and C, as numbers and times 1 + |θ|², at all points."""
    growth = 1 + (POINTS**2).sum(axis=1)[:, None, None]
    constant = _fields.tensor("D", form, 2).at(POINTS)
    varying = _fields.tensor("D", lambda x: jnp.asarray(form) * (1 + x @ x), 2).at(POINTS)
    np.testing.assert_array_equal(constant, np.broadcast_to(np.diag(diagonal), (1030, 2, 2)))
    np.testing.assert_allclose(varying, growth * np.diag(diagonal), rtol=1e-14)


def test_forms_of_a_law_of_the_gradient():
    """A step of b = x and 2D = 2 as functions of any form, and D as a number: E (x′ − x)ᵐ."""
    x = np.linspace(-1, 1, 5)
    expected = np.array([np.ones(5), x, x**2 + 2, x**3 + 6 * x])
    for gradient, covariance in (
        (lambda theta: theta, lambda theta: jnp.full((1, 1), 1.0)),
        (lambda theta: jnp.sum(theta), 1.0),
    ):
        law = _step_laws.line_step(Diffusion(gradient, covariance, 1.0), "test")
        np.testing.assert_allclose(law.moments(x, 3), expected, rtol=1e-14)


def mixing(x):
    """x|x|² as for one θ: given an array of points it sums over them."""
    return x * np.sum(x**2)


REFUSED = {
    "drift must map one θ of shape": lambda: theory.laws.FokkerPlanck(
        Diffusion(lambda x: x[:1], 1.0), ((-1, 1), (-1, 1)), 8
    ),
    "diffusion must map one θ of shape": lambda: theory.laws.FokkerPlanck(
        Diffusion(0.0, lambda x: jnp.ones(3)), (-1, 1), 8
    ),
    "start must map one θ of shape": lambda: theory.laws.FokkerPlanck(
        Diffusion([0.0, 0.0], 1.0), ((-1, 1), (-1, 1)), 8, "wall"
    ).propagate(lambda x: x, [1.0]),
    "label must map one θ of shape": lambda: theory.selection.weights_on_grid(
        theory.laws.FokkerPlanck(Diffusion(0.0, 1.0), (-1, 1), 8, "wall").stationary(),
        lambda x: jnp.ones(2),
        2,
    ),
    "drift must be finite real numbers": lambda: theory.laws.FokkerPlanck(
        Diffusion(np.nan, 1.0), (-1, 1), 8, "wall"
    ),
    "force mixes the points": lambda: theory.matrices.dyson_drift(
        np.array([0.3, 1.0, 2.0]), strength=1.0, force=mixing
    ),
    "potential mixes the points": lambda: theory.matrices.coulomb_gas_log_density(
        np.array([0.3, 1.0, 2.0]), strength=1.0, potential=mixing
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_refuses(match):
    """Values of another shape, and functions of an array that mix its points: one clear error."""
    with pytest.raises(ValueError, match=match):
        REFUSED[match]()
