"""Sharpness-aware minimisation and its equation: all batches enumerated, exact algebra."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call, normal

import sde_sgd as ss
from sde_sgd.landscapes.population import PopulationLeastSquares

INPUTS = np.array([[1.0, 0.2], [-0.4, 0.7], [0.5, -1.0]])
TARGETS = np.array([1.0, 0.0, 0.5])
POINTS, HEIGHTS = normal(3, 5, 2), normal(4, 5)
LINE = np.array([2.0, 0.5, 0.3, 0.4, 0.6]), np.array([0.5, 1.0, -1.0, 0.4, 0.2])
ETA, RHO = 0.2, 0.1
START = np.array([0.8, -0.6])
QUIET = {"progress": False}


def least_squares():
    return ss.LeastSquares(INPUTS, TARGETS)


def usam_by_hand(theta, batch, landscape):
    gradient = jax.grad(lambda t: jnp.mean(landscape.losses(t, batch)))
    return theta - ETA * gradient(theta + RHO * gradient(theta))


def test_sam_step_by_enumeration():
    """One step of a member is one of the N batches' θ − η∇ℓ_i(θ + ρ∇ℓ_i(θ))."""
    land = least_squares()
    run = ss.simulate(
        ss.SAM(land, ETA, RHO, ss.WithReplacement(1)),
        START,
        num_steps=1,
        ensemble_size=64,
        key=jr.key(0),
        **QUIET,
    )
    x, y = land.data
    ends = np.array(
        [usam_by_hand(jnp.asarray(START), (x[i : i + 1], y[i : i + 1]), land) for i in range(3)]
    )
    gaps = np.abs(np.asarray(run.positions)[:, None] - ends).max(axis=2)
    assert gaps.min(axis=1).max() < 1e-13
    assert len(set(gaps.argmin(axis=1).tolist())) == 3


def batches(num, size, replace):
    """All batches of a scheme, each as likely as any other, (n, B)."""
    if replace:
        return np.array(list(itertools.product(range(num), repeat=size)))
    return np.array(list(itertools.combinations(range(num), size)))


def scheme(size, replace):
    return ss.WithReplacement(size) if replace else ss.WithoutReplacement(size)


def logistic():
    return ss.LogisticRegression(POINTS, np.array([1, 0, 1, 1, 0]), l2=0.1, bias=False)


def equation(land, radius, sampling, **options):
    return ss.SAMEquation(land, ETA, radius, ss.MinibatchNoise(sampling), **options)


def slopes_by_enumeration(land, theta, examples):
    """∇L, then the slopes at ρ = 0 of mean and covariance of ∇ℓ_B(θ + ρ∇ℓ_B) over all batches."""

    def ahead(radius):
        def one(batch):
            climb = land.minibatch_gradient(theta, batch)
            return land.minibatch_gradient(theta + radius * climb, batch)

        return jax.vmap(one)(examples)

    gradients, slopes = jax.jvp(ahead, (0.0,), (1.0,))
    cross = (gradients - gradients.mean(axis=0)).T @ slopes / len(examples)
    return gradients.mean(axis=0), slopes.mean(axis=0), cross + cross.T


def drift_and_root(sde, theta):
    """∇L̃ and C̃^{1/2} (d, N), whose column i is what the normal number i moves."""
    zero = jnp.zeros(sde.landscape.num_examples)
    columns = jax.jacfwd(lambda z: sde.noisy_gradient(theta, z, 1.0))(zero)
    return sde.noisy_gradient(theta, zero, 1.0), columns


LINEAR, CURVED = (lambda: ss.LeastSquares(POINTS, HEIGHTS)), logistic
CASES = [(LINEAR, size, replace) for size in (1, 2, 3) for replace in (True, False)]
CASES += [(CURVED, 2, True), (CURVED, 3, False)]


@pytest.mark.parametrize(("make", "size", "replace"), CASES)
def test_first_order_in_the_radius(make, size, replace):
    """d/dρ at 0 of E and Cov of ∇ℓ_B(θ + ρ∇ℓ_B), all batches, = those of ∇L̃ and C̃."""
    land, sampling = make(), scheme(size, replace)
    gradient, mean, covariance = call(slopes_by_enumeration, land, START, batches(5, size, replace))
    sdes = [equation(land, radius, sampling) for radius in (0.0, 1.0, 2.0)]
    (plain, zero), (drift, one), (_, two) = (call(drift_and_root, sde, START) for sde in sdes)
    # The root is linear in ρ, so that C̃ is a parabola, whose slope three values give exactly.
    slope = 2 * one @ one.T - 1.5 * zero @ zero.T - 0.5 * two @ two.T
    np.testing.assert_allclose(slope, covariance, atol=1e-12 * np.abs(covariance).max())
    np.testing.assert_allclose(plain, gradient, rtol=0, atol=1e-14)
    np.testing.assert_allclose(drift - plain, mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(call(jax.grad(sdes[1].loss), START), drift, rtol=0, atol=1e-13)


def test_variance_of_one_step():
    """x = (2, .5, .3, .4, .6), B = 1, θ = 1.2: Var[(1+ρx²)(x²θ − xy)], (.01 − 0)/.01 = 18.2."""
    x, y = LINE
    land, theta = ss.LeastSquares(x[:, None], y), np.array([1.2])
    found, exact = [], []
    for radius in (0.0, 0.01, 0.5):
        sde = equation(land, radius, ss.WithReplacement(1))
        columns = call(drift_and_root, sde, theta)[1]
        found.append(float(np.sum(columns**2)))
        exact.append(float(np.var((1 + radius * x**2) * (x**2 * 1.2 - x * y))))
    np.testing.assert_allclose(found, exact, rtol=1e-13)
    assert (found[1] - found[0]) / 0.01 == pytest.approx(18.2, abs=0.05)


def test_the_rest_is_of_second_order():
    """B = 2, least squares: Cov(SAM) − C̃ = κρ², so that its ratio at 2ρ and ρ is 4, and not 0."""
    land, theta, rows = ss.LeastSquares(POINTS, HEIGHTS), START, batches(5, 2, True)
    gaps = []
    for radius in (0.1, 0.2):
        columns = call(drift_and_root, equation(land, radius, ss.WithReplacement(2)), theta)[1]
        x, y = POINTS[rows], HEIGHTS[rows]  # (n, B, d) and (n, B)
        hess = np.einsum("nba,nbc->nac", x, x) / 2
        slope = np.einsum("nac,c->na", hess, theta) - np.einsum("nba,nb->na", x, y) / 2
        moved = slope + radius * np.einsum("nac,nc->na", hess, slope)
        gaps.append(np.cov(moved.T, bias=True) - columns @ columns.T)
    np.testing.assert_allclose(gaps[1], 4 * gaps[0], rtol=1e-9)
    assert np.abs(gaps[0]).max() > 1e-4


def test_one_euler_step():
    """θ − η∇L̃ − ηm^{-1/2}C̃^{1/2}z a solver step: m = 1 and 4 from the same θ, mean and variance."""
    x, y = LINE
    land, theta = ss.LeastSquares(x[:, None], y), np.array([1.2])
    size, radius = 2**14, 0.3
    sde = equation(land, radius, ss.WithReplacement(2), substeps=1)
    drift, columns = call(drift_and_root, sde, theta)
    run = ss.simulate(sde, theta, num_steps=1, ensemble_size=size, key=jr.key(1), **QUIET)
    moved = (np.asarray(run.positions) - theta) / -ETA
    assert ss.compare(ss.Estimate.from_samples(moved), drift).verdict == "agrees"
    power = ss.Estimate.from_samples((moved - drift) ** 2)
    assert ss.compare(power, np.sum(columns**2, axis=1)).verdict == "agrees"
    plain = call(drift_and_root, equation(land, 0.0, ss.WithReplacement(2)), theta)[1]
    assert ss.compare(power, np.sum(plain**2, axis=1)).verdict == "disagrees"


def test_populations_are_refused():
    """E[δg (δH δg)ᵀ] of a population is not known."""
    land = PopulationLeastSquares([[1.0]], 0.5)
    with pytest.raises(ValueError, match="PopulationLeastSquares does not state"):
        equation(land, 0.1, ss.WithReplacement(1))


def test_sam_loss_is_the_mean_over_batches():
    """L̃ = L + (ρ/2)E|∇ℓ_B|², all 9 ordered batches of 2 from 3 enumerated."""
    land = least_squares()
    sde = ss.SAMEquation(land, ETA, RHO, ss.MinibatchNoise(ss.WithReplacement(2)))
    theta = jnp.asarray(START)
    g = np.asarray(land.example_gradients(theta))
    power = np.mean(
        [np.sum((g[i] + g[j]) ** 2) / 4 for i, j in itertools.product(range(3), repeat=2)]
    )
    exact = float(land.loss(theta)) + RHO / 2 * power
    assert float(sde.loss(theta)) == pytest.approx(exact, rel=1e-12)


def test_sam_on_equal_examples():
    """½hθ²: USAM is a chain with h(1+ρh); its Euler step at η has the same variance."""
    h, c = 1.0, 0.25
    exact = 0.5 * (1 + 0.2 * h) * c / (h * (2 - 0.5 * h * (1 + 0.2 * h)))
    land = ss.quadratic([[h]], [[1.0]])
    sampling = ss.WithReplacement(4)
    for process in (
        ss.SAM(land, 0.5, 0.2, sampling),
        ss.SAMEquation(land, 0.5, 0.2, ss.MinibatchNoise(sampling), substeps=1),
    ):
        run = ss.simulate(
            process,
            jnp.zeros(1),
            num_steps=60,
            ensemble_size=2**12,
            key=jr.key(6),
            measures={"m": ss.Moments(burn_in=20)},
            **QUIET,
        )
        found = run["m"].covariance
        assert ss.compare(found, [[exact]]).verdict == "agrees"
        assert ss.compare(found, [[0.5 * c / (2 - 0.5)]]).verdict == "disagrees"  # plain SGD
