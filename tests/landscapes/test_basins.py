"""Basins: minima and saddles of known surfaces, assignment against a separatrix in closed form."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import sde_sgd as ss
from sde_sgd._checks import in_brief

GRID = np.stack(np.meshgrid(np.linspace(-1.2, 1.1, 6), np.linspace(-0.3, 1.8, 6)), -1).reshape(
    -1, 2
)


@pytest.fixture(scope="module")
def mueller():
    return ss.landscapes.find_basins(ss.landscapes.mueller_brown(1.0, scale=0.01), GRID)


def test_three_minima_in_order_of_loss(mueller):
    """Müller–Brown's three minima, from 36 starts, merged and sorted."""
    published = [(-0.5582, 1.4417), (0.6235, 0.0280), (-0.0500, 0.4667)]
    np.testing.assert_allclose(mueller.minima, published, atol=1e-4)
    np.testing.assert_allclose(
        [p.loss for p in mueller.points], [-1.467, -1.08167, -0.80768], rtol=1e-4
    )


def test_the_whole_window_has_labels(mueller):
    """40 × 40 points of the usual window, as many in each basin as by another integration.

    770, 280 and 550: the fourth-order Runge–Kutta method for dθ/ds = −∇L/|∇L| with ds = 1e-4.
    """
    window = np.stack(np.meshgrid(np.linspace(-1.5, 1.2, 40), np.linspace(-0.2, 2, 40)), -1)
    counts = np.bincount(mueller.assign(window.reshape(-1, 2)), minlength=3)
    np.testing.assert_array_equal(counts, [770, 280, 550])


@pytest.mark.parametrize("point", [(-1.5, -0.2), (0.6, -0.2), (-0.7, -0.1), (-0.9, 0.56)])
def test_labels_against_a_stiff_integration(mueller, point):
    """The minimum to which BDF with rtol = 1e-10 takes θ' = −∇L, steep walls included."""
    gradient = jax.jit(lambda x: mueller.landscape.gradient(x))
    path = solve_ivp(lambda _, x: -np.asarray(gradient(x)), (0, 100), point, "BDF", rtol=1e-10)
    distance = np.linalg.norm(np.asarray(mueller.minima) - path.y[:, -1], axis=1)
    assert distance.min() < 1e-3
    np.testing.assert_array_equal(mueller.assign([point]), [distance.argmin()])


def test_the_flow_of_minimise_stays_in_its_basin(mueller):
    """From points of the window the gradient flow ends in the minimum of their basin."""
    points = np.array([[-1.5, -0.2], [0.6, -0.2], [-0.9, 0.56], [1.0, 1.5]])
    flow = {"method": "gradient-flow", "tolerance": 1e-10}
    ends = [mueller.landscape.minimise(p, **flow).theta for p in points]
    labels = mueller.assign(points)
    assert len(set(labels)) == 3
    np.testing.assert_allclose(ends, np.asarray(mueller.minima)[labels], atol=1e-8)


def test_both_saddles(mueller):
    """The saddles (−.822, .6243) and (.2125, .2930), each with its two neighbours."""
    found = ss.landscapes.find_saddles(mueller)
    np.testing.assert_allclose(
        [s.point.theta for s in found], [(0.2125, 0.2930), (-0.8220, 0.6243)], atol=1e-4
    )
    assert [s.between for s in found] == [(1, 2), (0, 2)]
    assert all(s.point.index == 1 for s in found)


def test_assignment_against_the_separatrix():
    """The sharp and the flat well with a = .3: the boundary is x = −a at y = 0, labels follow x."""
    landscape = ss.landscapes.sharp_and_flat_wells(1.0, asymmetry=0.3, sharp_curvature=4.0)
    basins = ss.landscapes.find_basins(landscape, [[-0.9, 0.1], [0.9, 0.1], [0.5, -1.0]])
    np.testing.assert_allclose(basins.minima, [[1, 0], [-1, 0]], atol=1e-12)  # sharp one is deeper
    x = np.linspace(-1.7, 1.7, 18) - 0.013
    labels = basins.assign(np.stack([x, 0 * x], 1))
    np.testing.assert_array_equal(labels, np.where(x > -0.3, 0, 1))
    (saddle,) = ss.landscapes.find_saddles(basins)
    np.testing.assert_allclose(saddle.point.theta, [-0.3, 0], atol=1e-9)
    assert saddle.between == (0, 1)


def test_a_basins_object_is_a_label():
    """`Occupation` takes it: members at rest stay in their basins."""
    landscape = ss.double_well(0.0)
    basins = ss.landscapes.find_basins(landscape, [[-0.5], [0.5]])
    run = ss.simulate(
        ss.SGD(landscape, 0.1, ss.WithReplacement(1)),
        jnp.array([[-0.7], [0.6], [1.5], [-0.1]]),
        num_steps=4,
        ensemble_size=4,
        key=jr.key(0),
        measures={"where": ss.Occupation(basins, 2)},
    )
    sides = np.asarray(basins.minima)[run["where"].final, 0]
    np.testing.assert_allclose(sides, [-1, 1, 1, -1], atol=1e-12)


def test_refuses_saddles_ridges_and_slopes():
    """A start on a saddle, a point on the ridge, wrong shapes and numbers."""
    landscape = ss.landscapes.sharp_and_flat_wells(1.0)
    with pytest.raises(ValueError, match="1 of 2 starts lead to no minimum.*a saddle or a maximum"):
        ss.landscapes.find_basins(landscape, [[0.0, 0.0], [-0.5, 0.0]])
    basins = ss.landscapes.find_basins(landscape, [[0.5, 0.1], [-0.5, 0.1]])
    with pytest.raises(ValueError, match="1 of 2 points.*not a minimum, a saddle"):
        basins.assign([[0.0, 0.0], [0.3, 0.0]])
    with pytest.raises(ValueError, match="shape"):
        basins.assign([0.3, 0.0])
    with pytest.raises(ValueError, match="one minimum"):
        ss.landscapes.find_saddles(ss.landscapes.find_basins(landscape, [[0.5, 0.1]]))
    with pytest.raises(ValueError, match="tolerance"):
        ss.landscapes.find_basins(landscape, [[0.5, 0.1]], tolerance=0.0)
    with pytest.raises(ValueError, match=r"landscape with d = 2; got θ of shape \(1,\)"):
        basins(jnp.zeros(1))


def test_a_basin_that_was_not_found():
    """A saddle, and a point in the basin of a minimum that no start reached, have label −1."""
    basins = ss.landscapes.find_basins(ss.double_well(0.1), [[0.5]])
    points = jnp.array([[0.7], [-0.4], [0.0], [1e-6], [1.0], [-1.0], [30.0]])
    labels = jax.vmap(lambda x: basins(x))(points)
    np.testing.assert_array_equal(labels, [0, -1, -1, 0, 0, -1, 0])
    with pytest.raises(ValueError, match="1 of 2 points flow to none of the 1.*was not found"):
        basins.assign([[0.7], [-0.4]])


def test_label_by_nearest():
    """The nearest centre within the radius, −1 beyond."""
    label = ss.landscapes.label_by_nearest([[-1.0, 0.0], [1.0, 0.0]], radius=0.5)
    points = jnp.array([[-1.2, 0.1], [0.8, 0.3], [0.0, 0.0], [1.0, 0.51]])
    assert [int(label(p)) for p in points] == [0, 1, -1, -1]
    with pytest.raises(ValueError, match="radius"):
        ss.landscapes.label_by_nearest([[0.0]], radius=0.0)


def test_a_hessian_that_cannot_be_formed_is_refused():
    """d = 10⁵ parameters: 80 GB, refused at once, with the ways out in one line."""
    landscape = ss.LeastSquares(np.ones((2, 100_000)), np.ones(2))
    start = np.zeros(100_000)
    for search in (
        lambda: ss.landscapes.find_basins(landscape, start[None]),
        lambda: ss.landscapes.stationary_point(landscape, start),
    ):
        with pytest.raises(ValueError, match="80 GB.*4096.*minimise.*label_by_nearest") as raised:
            search()
        assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


def test_values_in_brief():
    """What a user handed over is told in one short line, whatever it is."""
    large = np.arange(100_000.0)
    told = "[0, 1, 2, 3, 4, 5, …] (d = 100000)"
    assert in_brief(large) == in_brief(list(large)) == in_brief(jnp.asarray(large)) == told
    assert in_brief(large.reshape(100, 1000)) == "[0, 1, 2, 3, 4, 5, …] (shape (100, 1000))"
    assert in_brief([1.0, 2.5]) == "[1, 2.5]" and in_brief(np.float64(0.5)) == "np.float64(0.5)"
    assert in_brief(jnp.asarray(0.5)) == "0.5" and in_brief(True) == "True"
    assert in_brief("adam") == "'adam'" and in_brief(None) == "None"
    assert in_brief(ss.double_well(0.1)) == "a Potential"
    assert len(in_brief({i: large for i in range(9)})) < 100
