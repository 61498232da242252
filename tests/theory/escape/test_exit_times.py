"""Exit times and committors in one dimension: numbers of theory §5, closed forms, iteration."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, quad, trapezoid
from scipy.special import erf, ndtr

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.escape import committor, exit_time, mean_exit_time
from sde_sgd.theory.escape._absorbing import AbsorbingChain


def force(x):
    """−V' of V = (x² − 1)²/4."""
    return x - x**3


def well(diffusion, **options):
    """The time from −1 to +1, in t."""
    process = Diffusion(force, diffusion, options.pop("step", 0.0))
    return mean_exit_time(process, **({"start": -1.0, "exits": 1.0} | options))


@pytest.mark.parametrize("diffusion, time, digits", [(0.05, 729.671, 5e-4), (0.025, 102108, 0.5)])
def test_double_well(diffusion, time, digits):
    """T = ∫∫ e^{φ(y)−φ(z)}/D: 729.671 at D = .05 and 102 108 at .025, and by the trapezium rule."""
    found = well(diffusion)
    assert found == pytest.approx(time, abs=digits)
    x = np.linspace(-2.6, 1.0, 200_001)
    phi = (x**2 - 1) ** 2 / (4 * diffusion)
    weight = np.exp(-phi) / diffusion
    inner = np.concatenate([[0.0], np.cumsum(weight[1:] + weight[:-1])]) * (x[1] - x[0]) / 2
    outer = np.where(x >= -1, np.exp(phi) * inner, 0.0)
    assert found == pytest.approx(np.trapezoid(outer, x), rel=2e-5)
    # Controls: diffusion off by 2, the time to the saddle, iterations (η = .1) for t.
    for wrong in (well(2 * diffusion), well(diffusion, exits=0.0), found / 0.1):
        assert abs(wrong / time - 1) > 0.4


def test_saddle_is_half_way():
    """The time to the saddle plus that from the saddle on is the time to the well: half each."""
    here, there = well(0.05, exits=0.0), well(0.05, start=0.0)
    assert here + there == pytest.approx(729.671, abs=5e-4)
    assert abs(here / there - 1) < 0.04


def test_mirror_wall_and_many_starts():
    """x → −x gives the same time; a wall far out changes nothing, one at the start much."""
    time = well(0.05)
    assert well(0.05, start=1.0, exits=-1.0) == pytest.approx(time, rel=1e-10)
    assert well(0.05, wall=-2.6) == pytest.approx(time, rel=1e-10)
    assert well(0.05, wall=-1.0) < 0.7 * time
    both = well(0.05, start=[0.3, -1.0])
    assert both.shape == (2,)
    np.testing.assert_allclose(both, [well(0.05, start=0.3), time], rtol=1e-12)


def test_geometric_brownian_motion():
    """dx = σx dW out of (a, c): q = (x−a)/(c−a), T = 2[log x − q log c − (1−q) log a]/σ²; Itô."""
    low, high, x, sigma = 0.5, 3.0, np.array([0.7, 2.0]), 0.8
    q = (x - low) / (high - low)
    exact = 2 * (np.log(x) - q * np.log(high) - (1 - q) * np.log(low)) / sigma**2
    square = lambda y: sigma**2 * y**2 / 2  # noqa: E731
    found = mean_exit_time(Diffusion(0.0, square), start=x, exits=(low, high))
    np.testing.assert_allclose(found, exact, rtol=1e-11)
    np.testing.assert_allclose(
        committor(Diffusion(0.0, square), start=x, lower=low, upper=high), q, rtol=1e-11
    )
    # Control: Stratonovich adds the drift σ²x/2.
    other = Diffusion(lambda y: sigma**2 * y / 2, square)
    wrong = mean_exit_time(other, start=x, exits=(low, high))
    assert np.abs(wrong / exact - 1).min() > 0.05


def test_variance():
    """√(2D)W out of (−1, 1): T = (1−x²)/(2D), E T² = (5 − 6x² + x⁴)/(12D²); rare: exponential."""
    x = np.array([0.0, 0.3])
    found = exit_time(Diffusion(0.0, 0.25), start=x, exits=(-1, 1))
    np.testing.assert_allclose(found.mean, (1 - x**2) / 0.5, rtol=1e-12)
    second = (5 - 6 * x**2 + x**4) / (12 * 0.25**2)
    np.testing.assert_allclose(found.variance, second - found.mean**2, rtol=1e-11)
    rare = exit_time(Diffusion(force, 0.025), start=-1.0, exits=1.0)
    assert rare.variance == pytest.approx(rare.mean**2, rel=1e-3)
    assert rare.rate == pytest.approx(1 / 102108, rel=1e-5)


def test_ornstein_uhlenbeck_mean():
    """dx = −x dt + dW, 0 → 1: T = √π ∫₀¹ e^{y²}(1 + erf y) dy."""
    integral = quad(lambda y: np.exp(y**2) * (1 + erf(y)), 0, 1, epsabs=1e-13)[0]
    found = mean_exit_time(Diffusion(lambda x: -x, 0.5), start=0.0, exits=1.0)
    assert found == pytest.approx(np.sqrt(np.pi) * integral, rel=1e-11)


KERNEL = [(0.1, 705.528), (0.05, 719.483), (0.025, 725.099), (0.01, 728.03)]


@pytest.mark.parametrize("step, time", KERNEL)
def test_kernel_equation(step, time):
    """Gaussian SGD with η = h, or Euler at step h, watched at its steps: the times of theory §5."""
    digits = 5e-4 if step > 0.01 else 5e-3
    assert well(0.05, step=step) == pytest.approx(time, abs=digits)
    assert abs(well(0.05) / time - 1) > 2e-3  # control: the SDE's time is another


def test_kernel_gaussian_sgd_in_iterations():
    """σ = .6, η = .25: 4363.36 iterations for Gaussian SGD, 5022.13 for its SDE."""
    diffusion = 0.25 * 0.36 / 2
    assert well(diffusion, step=0.25) / 0.25 == pytest.approx(4363.36, abs=5e-3)
    assert well(diffusion) / 0.25 == pytest.approx(5022.13, abs=5e-3)


def iterated(diffusion, step, start, low, high):
    """Σ_k P(τ > k) and Σ_k k-th flux above, by pushing the density on a trapezium grid."""
    x = np.linspace(low, high, 1201)
    weights = np.full(x.size, x[1] - x[0])
    weights[[0, -1]] /= 2
    spread = np.sqrt(2 * step * diffusion(x))
    mean = x + step * force(x)
    kernel = np.exp(-(((x[:, None] - mean) / spread) ** 2) / 2) / (np.sqrt(2 * np.pi) * spread)
    above = ndtr((mean - high) / spread)
    first_mean, first_spread = start + step * force(start), np.sqrt(2 * step * diffusion(start))
    density = np.exp(-(((x - first_mean) / first_spread) ** 2) / 2)
    density = density / (np.sqrt(2 * np.pi) * first_spread)
    total, square, reached = 1.0, 1.0, ndtr((first_mean - high) / first_spread)
    for k in range(1, 400):
        alive = weights @ density
        total, square = total + alive, square + (2 * k + 1) * alive
        reached += weights @ (above * density)
        density = kernel @ (weights * density)
    assert weights @ density < 1e-12
    return total, square - total**2, reached


def test_kernel_against_iteration():
    """E τ = Σ P(τ > k), Var τ and the upper exit's share, noise depending on x, by iteration."""
    diffusion = lambda x: 0.3 * (1 + 0.5 * x) + 0 * x  # noqa: E731
    mean, variance, reached = iterated(diffusion, 0.2, -0.3, -1.1, 1.2)
    found = exit_time(Diffusion(force, diffusion, 0.2), start=-0.3, exits=(-1.1, 1.2))
    assert found.mean / 0.2 == pytest.approx(mean, rel=1e-4)
    assert found.variance / 0.04 == pytest.approx(variance, rel=1e-4)
    share = committor(Diffusion(force, diffusion, 0.2), start=-0.3, lower=-1.1, upper=1.2)
    assert share == pytest.approx(reached, rel=1e-4)
    frozen = exit_time(Diffusion(force, 0.3, 0.2), start=-0.3, exits=(-1.1, 1.2)).mean
    assert abs(frozen / found.mean - 1) > 0.01  # control: constant noise


COMMITTORS = [(0.05, 1.7163e-3, 5e-8), (0.025, 2.5633e-5, 5e-10)]


@pytest.mark.parametrize("diffusion, exact, digits", COMMITTORS)
def test_committors(diffusion, exact, digits):
    """q(−.8), A = −.9, B = .9: the numbers of theory §5 are the SDE's; chains have others."""
    options = {"start": -0.8, "lower": -0.9, "upper": 0.9}
    assert committor(Diffusion(force, diffusion), **options) == pytest.approx(exact, abs=digits)

    def scale(a, b):
        y = np.linspace(a, b, 40_001)
        return np.trapezoid(np.exp((y**2 - 1) ** 2 / (4 * diffusion)), y)

    assert scale(-0.9, -0.8) / scale(-0.9, 0.9) == pytest.approx(exact, rel=1e-4)
    coarse = committor(Diffusion(force, diffusion, 0.1), **options)
    fine = committor(Diffusion(force, diffusion, 0.01), **options)
    assert 1.05 < fine / exact < 1.15
    assert abs(coarse / exact - 1) > 0.05


@pytest.mark.parametrize("step, value", [(0.1, 2.26081e-3), (0.01, 1.94176e-3)])
def test_committor_of_steps(step, value):
    """q(−.8) at D = .05 of the chain, by Simpson's rule on nodes of which −.8 is one."""
    x = np.linspace(-0.9, 0.9, 901)
    weights = np.tile([4.0, 2.0], 450) * (x[1] - x[0]) / 3
    weights = np.concatenate([[(x[1] - x[0]) / 3], weights[:-1], [(x[1] - x[0]) / 3]])
    mean, spread = x + step * force(x), np.sqrt(0.1 * step)
    kernel = np.exp(-(((x - mean[:, None]) / spread) ** 2) / 2) * weights
    kernel /= np.sqrt(2 * np.pi) * spread
    q = np.linalg.solve(np.eye(x.size) - kernel, ndtr((mean - 0.9) / spread))
    found = committor(Diffusion(force, 0.05, step), start=-0.8, lower=-0.9, upper=0.9)
    assert found == pytest.approx(value, abs=5e-9)
    assert x[50] == pytest.approx(-0.8)
    assert found == pytest.approx(q[50], rel=1e-6)


def test_elimination_keeps_rare_exits():
    """Gambler's ruin, up with p = 10⁻³: E τ from the bottom by its sum, to rounding, near 10⁶⁰."""
    size, p = 20, 1e-3
    up = np.diag(np.full(size - 1, p), 1) + np.diag(np.full(size - 1, 1 - p), -1)
    up[0, 0] = 1 - p
    kill = np.zeros(size)
    kill[-1] = p
    found = AbsorbingChain.factor(up, kill).solve(np.ones(size))[0]
    odds = (1 - p) / p
    exact = sum(odds**j / p for i in range(size) for j in range(i + 1))
    assert exact > 1e59
    assert found == pytest.approx(exact, rel=1e-13)
    lost = np.linalg.solve(np.eye(size) - up, np.ones(size))[0]
    assert not abs(lost / exact - 1) < 0.1  # control: ordinary elimination


def test_once_in_many_steps():
    """D = .01, h = .1: once in 10¹² steps, and by log τ between two exact neighbours in D."""
    steps = [float(well(d, step=0.1)) / 0.1 for d in (0.0095, 0.01, 0.0105)]
    assert 1e12 < steps[1] < 1e13
    # log τ is ΔV/D + smooth: linear in 1/D over 10 %.
    inverse = 1 / np.array([0.0095, 0.01, 0.0105])
    line = np.interp(inverse[1], inverse[[2, 0]], np.log(np.array(steps)[[2, 0]]))
    assert np.log(steps[1]) == pytest.approx(line, abs=2e-3)


def chain(landscape, eta, noise):
    """Gaussian SGD, Euler at step η, and the SDE."""
    euler = ss.ModifiedEquation(landscape, eta, noise, substeps=1)
    return ss.GaussianSGD(landscape, eta, noise), euler, euler.limit()


def test_from_a_landscape():
    """b = −V', D = ηC/2 of a landscape; order 2 adds −(η/2)V''V'."""
    landscape, noise = ss.double_well(0.36), ss.MinibatchNoise(ss.WithReplacement(1))
    times = [mean_exit_time(p, -1.0, 1.0) / 0.25 for p in chain(landscape, 0.25, noise)]
    np.testing.assert_allclose(times[:2], 4363.36, atol=5e-3)
    assert times[2] == pytest.approx(5022.13, abs=5e-3)
    second = ss.ModifiedEquation(landscape, 0.25, noise, order=2).limit()
    own = Diffusion(lambda x: force(x) * (1 + 0.125 * (3 * x**2 - 1)), 0.045)
    assert mean_exit_time(second, -1.0, 1.0) == pytest.approx(
        float(mean_exit_time(own, -1.0, 1.0)), rel=1e-10
    )
    assert abs(mean_exit_time(second, -1.0, 1.0) / 0.25 / 5022.13 - 1) > 0.03  # control
    plane = ss.GaussianSGD(ss.landscapes.sharp_and_flat_wells(1.0), 0.25, noise)
    with pytest.raises(ValueError, match="d = 1.*d=2"):
        mean_exit_time(plane, -1.0, 1.0)


def test_overdamped_momentum():
    """(1−μ)dX = −V'dt + √η C^{1/2} dW: T(η, μ) = (1−μ) T(η/(1−μ), 0), at step 0 and at its own."""
    landscape, noise = ss.double_well(0.36), ss.MinibatchNoise(ss.WithReplacement(1))
    slow = ss.OverdampedEquation(landscape, 0.15, noise, 0.4, substeps=2)
    fast = ss.ModifiedEquation(landscape, 0.25, noise, substeps=2)
    for one, other in ((slow, fast), (slow.limit(), fast.limit())):
        found = mean_exit_time(one, -1.0, 1.0)
        assert found == pytest.approx(0.6 * float(mean_exit_time(other, -1.0, 1.0)), rel=1e-10)


def test_what_has_no_law_says_what_is_known():
    """A buffer, a schedule, two-point increments, other solvers, epochs: one error each."""
    landscape, one = ss.double_well(0.36), ss.WithReplacement(1)
    noise = ss.MinibatchNoise(one)
    unknown = {
        "use momentum=0": ss.SGD(landscape, 0.25, one, momentum=0.5),
        "kernel for every iteration": ss.SGD(landscape, lambda k: 0.25 / (1 + k), one),
        "Two-point": ss.ModifiedEquation(landscape, 0.25, noise, increments="two_point"),
        "no Markov chain": ss.SGD(landscape, 0.25, ss.RandomReshuffling(1)),
        "Known are SGD and GaussianSGD": ss.UnderdampedEquation(landscape, 0.25, noise, 0.5),
        "those of ModifiedEquation": ss.UnderdampedEquation(landscape, 0.25, noise, 0.5).limit(),
    }
    for message, process in unknown.items():
        with pytest.raises(ValueError, match=message):
            mean_exit_time(process, -1.0, 1.0)
    with pytest.raises(ValueError, match="process must be a process"):
        mean_exit_time(landscape, -1.0, 1.0)


REFUSED = [
    ({"start": [-1.0, 2.0]}, {}, "already outside"),
    ({"exits": (1.0, -1.0)}, {}, "lower < upper"),
    ({"wall": -0.5}, {}, "behind the wall"),
    ({"wall": -2.0, "step": 0.1}, {}, "jumps over"),
    ({"exits": (-2.0, 1.0), "wall": -3.0}, {}, "no sense"),
    ({}, {"diffusion": lambda x: x}, "positive"),
    ({}, {"diffusion": 1e-4}, "quasi_potential"),
    ({}, {"drift": 0.0}, "infinite"),
    ({}, {"drift": lambda x: np.zeros((3, 3))}, "shape"),
    ({}, {"drift": lambda x: jnp.asarray(x, jnp.float32)}, "float64"),
    ({"step": 1e-7}, {}, "watched_barrier_shift"),
]


@pytest.mark.parametrize("options, functions, message", REFUSED)
def test_refused(options, functions, message):
    """Bad input: one ValueError that says what to do."""
    b, d = functions.get("drift", force), functions.get("diffusion", 0.05)
    with pytest.raises(ValueError, match=message):
        step = options.get("step", 0.0)
        options = {"start": -1.0, "exits": 1.0} | {k: v for k, v in options.items() if k != "step"}
        mean_exit_time(Diffusion(b, d, step), **options)


@pytest.mark.parametrize("width", [0.1, 1e-3, 1e-4])
def test_a_narrow_barrier_is_not_stepped_over(width):
    """(1/D)∫_0^1 e^{V/D} ∫_{-∞}^y e^{−V/D}, by the trapezoid rule, fine where the barrier is."""

    def energy(x):
        return 0.15 * x**2 + 0.4 * jnp.exp(-(((x - 0.7) / width) ** 2) / 2)

    landscape = ss.Potential(lambda theta: energy(theta[0]), np.eye(1))
    sde = ss.ModifiedEquation(landscape, 0.1, ss.ConstantNoise(np.eye(1)))
    fine = 0.7 + width * np.linspace(-12, 12, 200_001)
    x = np.unique(np.concatenate([np.linspace(-6, 1, 400_001), fine[fine < 1]]))
    phi = np.asarray(energy(jnp.asarray(x))) / 0.05
    inner = cumulative_trapezoid(np.exp(-phi), x, initial=0)
    out = x >= 0
    exact = trapezoid((np.exp(phi) * inner)[out], x[out]) / 0.05
    found = mean_exit_time(sde.limit(), start=0.0, exits=1.0)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
