"""Gradient flows: where they end, and how, on surfaces whose minima are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import sde_sgd as ss
from sde_sgd.landscapes import Ending


class Surface(eqx.Module):
    """One of several surfaces in the plane, chosen by a number, so that all compile as one."""

    which: Array

    def __call__(self, theta):
        x, y = theta
        return jax.lax.switch(
            self.which,
            [
                lambda: (1 - jnp.exp(-(x - 1))) ** 2 + y**2 / 2,  # Morse, minimum (1, 0)
                lambda: x**3 - x + y**2 / 2,  # minimum (1/√3, 0), no bottom for x < −1/√3
                lambda: (x * y - 1) ** 2,  # a valley xy = 1
                lambda: (x**2 - 1) ** 2 / 4 + y**2 / 2,  # minima (±1, 0), the ridge x = 0
                lambda: -jnp.exp(-(x**2 + y**2) / 2),  # minimum 0, a plateau around
                lambda: jnp.exp(x) + y**2 / 2,  # falls for ever
                lambda: jnp.sqrt(x) + y**2 / 2,  # not defined for x < 0
                lambda: 1e-10 * ((x**2 - 1) ** 2 / 4 + y**2 / 2),
                lambda: jnp.abs(x - 0.1) + y**2 / 2,
                lambda: ((x / 0.003) ** 2 - 1) ** 2 + y**2,  # minima .006 apart
                lambda: (x**2 - 1) ** 2 - jnp.cos(y),  # minima (±1, 2πk)
            ],
        )


MORSE, CUBIC, VALLEY, WELLS, PLATEAU, SLOPE, ROOT, FAINT, KINK, CLOSE, STRIPES = range(11)


def surface(number):
    return ss.Potential(Surface(jnp.asarray(number)), 0.1 * np.eye(2))


ENDS = [
    (MORSE, [-49.0, 3.0], [1, 0]),  # a wall of height e¹⁰⁰
    (MORSE, [-20.0, -1.0], [1, 0]),
    (MORSE, [3.0, 1.0], [1, 0]),
    (MORSE, [35.0, 1.0], [1, 0]),  # a plateau of slope e⁻³⁴
    (CUBIC, [2.0, 1.0], [3**-0.5, 0]),
    (CUBIC, [-0.57, 1.0], [3**-0.5, 0]),
    (WELLS, [1e-9, 0.7], [1, 0]),
    (WELLS, [-1e-9, 0.7], [-1, 0]),
    (WELLS, [-30.0, 1e4], [-1, 0]),
    (PLATEAU, [6.0, -5.0], [0, 0]),  # |∇L| = 4e-13
    (FAINT, [0.3, 0.7], [1, 0]),
    # A long fall along x, during which y hardly moves: y stays in its own stripe.
    (STRIPES, [1e5, 1.2], [1, 0]),
    (STRIPES, [-1e12, 1.5], [-1, 0]),
    (STRIPES, [3e4, 3.2], [1, 2 * np.pi]),
]


@pytest.mark.parametrize("number", sorted({n for n, _, _ in ENDS}))
def test_flows_end_in_their_minimum(number):
    """θ(∞) of dθ/dt = −∇L from walls and plateaus alike, to rounding."""
    rows = [(start, end) for n, start, end in ENDS if n == number]
    found = ss.landscapes.flow_ends(surface(number), [start for start, _ in rows])
    np.testing.assert_array_equal(found.ending, Ending.MINIMUM)
    np.testing.assert_allclose(found.theta, [end for _, end in rows], atol=1e-12)


@pytest.mark.parametrize(
    "number, start, ending, reason",
    [
        (WELLS, [0.0, 0.0], Ending.SADDLE, "not a minimum, a saddle or a maximum"),
        (WELLS, [0.0, 0.7], Ending.SADDLE, "move the start a little"),
        (CUBIC, [-(3**-0.5), 0.0], Ending.SADDLE, "not a minimum"),
        (VALLEY, [2.0, 0.4], Ending.FLAT, "flat direction.*add l2"),
        (VALLEY, [1.0, 1.0], Ending.FLAT, "flat direction"),
        (CUBIC, [-2.0, 1.0], Ending.AWAY, "runs away to infinity"),
        (SLOPE, [0.0, 1.0], Ending.FLAT, "no isolated minimum: add l2"),
        (KINK, [0.7, 1.0], Ending.UNFINISHED, "not come to rest after 16384 steps.*a kink"),
        (ROOT, [-1.0, 0.0], Ending.NOT_FINITE, "not finite"),
    ],
)
def test_every_other_ending_has_its_reason(number, start, ending, reason):
    """Saddles, valleys, slopes without end and undefined gradients are told apart."""
    found = ss.landscapes.flow_ends(surface(number), [start])
    assert found.ending[0] == ending
    with pytest.raises(ValueError, match=f"1 of 1 starts lead to no minimum: .*{reason}"):
        ss.landscapes.find_basins(surface(number), [start])


def test_minima_close_together_are_two():
    """L = ((x/.003)² − 1)² + y² has the minima (±.003, 0), not one of them."""
    basins = ss.landscapes.find_basins(surface(CLOSE), [[-0.5, 0.3], [0.5, 0.3]])
    found = np.asarray(basins.minima)
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], [[-0.003, 0], [0.003, 0]], atol=1e-9)


def test_many_parameters():
    """d = 100, curvatures from 1 to 10⁴: the flow ends at the minimum on its side, in few words."""
    curvature = jnp.asarray(np.geomspace(1, 1e4, 100))

    def loss(x):
        return curvature @ (x - 1) ** 2 / 2 + (x[0] ** 2 - 2) ** 2 / 4 - (x[0] - 1) ** 2 / 2

    landscape = ss.Potential(loss, 0.1 * np.eye(100))
    starts = np.random.default_rng(0).normal(1, 1, (3, 100))
    starts[:, 0] = [0.4, -0.4, 0.0]
    found = ss.landscapes.flow_ends(landscape, starts)
    np.testing.assert_array_equal(found.ending, [Ending.MINIMUM, Ending.MINIMUM, Ending.SADDLE])
    expected = np.ones((3, 100))
    expected[:, 0] = [2**0.5, -(2**0.5), 0]
    np.testing.assert_allclose(found.theta, expected, atol=1e-9)
    with pytest.raises(ValueError, match=r"…\] \(d = 100\)") as raised:
        ss.landscapes.find_basins(landscape, starts)
    assert len(str(raised.value)) < 500


def test_more_parameters_than_examples():
    """Least squares with N = 40 < d = 70: θ(∞) = θ₀ + X⁺(y − Xθ₀), where 30 directions are flat."""
    rng = np.random.default_rng(0)
    x, y, start = rng.normal(size=(40, 70)), rng.normal(size=40), rng.normal(size=70)
    landscape = ss.LeastSquares(x, y)
    found = ss.landscapes.flow_ends(landscape, [start])
    np.testing.assert_array_equal(found.ending, [Ending.FLAT])
    np.testing.assert_allclose(
        found.theta[0], start + np.linalg.pinv(x) @ (y - x @ start), atol=1e-9
    )
    told = r"^[^\n]*30 of the 70 eigenvalues of the Hessian are zero[^\n]*label_by_nearest[^\n]*$"
    with pytest.raises(ValueError, match=told) as raised:
        ss.landscapes.find_basins(landscape, [start])
    assert len(str(raised.value)) < 500
    with pytest.raises(ValueError, match=told):
        ss.landscapes.stationary_point(landscape, start)
