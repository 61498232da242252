"""Tail indices: E|1 − ηX̂|^β = 1 by other quadratures, exact integers, limits, and samples."""

import itertools
from math import comb

import closed_forms
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, roots_genlaguerre, roots_jacobi

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory.laws import (
    stationary_density,
    tail_index,
    tail_index_limit,
    tail_index_published,
)
from sde_sgd.theory.stationary import stationary_scalar_moments


def online(rate, batch, a=1.0, sigma=1.0, step=None):
    """SGD on ½(xθ − y)², x ~ N(0, a), y ~ N(0, σ²); its SDE (step 0), or Euler's scheme for it."""
    landscape = ss.landscapes.PopulationLeastSquares([[a]], sigma)
    sampling = ss.WithReplacement(batch)
    if step is None:
        return ss.SGD(landscape, rate, sampling)
    substeps = round(rate / step) if step else 1
    equation = ss.ModifiedEquation(landscape, rate, ss.MinibatchNoise(sampling), substeps=substeps)
    return equation if step else equation.limit()


def moment(order, *arguments, **options):
    """E θⁿ of the stationary law."""
    process = online(*arguments, **options)
    return stationary_scalar_moments(process, max_moment=order).raw[-1]


def chi_square_moment(power, rate, batch):
    """E|1 − sχ²_B|^q, s = rate/B: Gauss–Jacobi up to the zero of the factor, Laguerre beyond."""
    s = rate / batch
    zero, half = 1 / s, batch / 2
    nodes, weights = roots_jacobi(60, power, half - 1)
    place = zero * (1 + nodes) / 2
    below = (zero / 2) ** half * 2.0**-power * np.sum(weights * np.exp(-place / 2))
    # Q = zero + 2t: |1 − sQ|^q = (2s t)^q, e^{−Q/2} = e^{−zero/2} e^{−t}
    nodes, weights = roots_genlaguerre(120, power)
    above = 2 * (2 * s) ** power * np.exp(-zero / 2)
    above *= np.sum(weights * (zero + 2 * nodes) ** (half - 1))
    return (below + above) / np.exp(half * np.log(2) + gammaln(half))


@pytest.mark.parametrize("batch, beta", [(1, 1.0908), (2, 2.0), (4, 3.5047), (8, 6.2023)])
def test_sgd_tail_index(batch, beta):
    """ηa = 1, B = 1, 2, 4, 8: β = 1.0908, 2, 3.5047, 6.2023, and E|1 − ηX̂|^β = 1."""
    process = online(0.5, batch, a=2.0)
    found = tail_index(process)
    assert found == pytest.approx(beta, abs=5e-5)
    tolerance = 2e-5 if batch == 1 else 1e-9  # B = 1: (zero + 2t)^{−½} is no polynomial
    assert chi_square_moment(found, 1.0, batch) == pytest.approx(1, abs=tolerance)
    published = tail_index_published(process)
    assert published == batch
    for wrong in (1 + batch, published):  # controls: the SDE's index, and the published one
        if wrong != pytest.approx(found):
            assert abs(chi_square_moment(wrong, 1.0, batch) - 1) > 0.02


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_integer_tail_indices(batch):
    """E(1 − sχ²)² = 1 at ηa = 2B/(B + 2): β = 2 exactly, and β = 4 where E(1 − sχ²)⁴ = 1."""
    assert tail_index(online(2 * batch / (batch + 2), batch)) == pytest.approx(2, rel=1e-9)
    rising = np.cumprod(batch + 2 * np.arange(4.0))
    quartic = [rising[3], -4 * rising[2], 6 * rising[1], -4 * rising[0]]  # over s: cubic = 0
    roots = np.roots(quartic)
    s = roots[np.abs(roots.imag) < 1e-9].real.min()
    assert tail_index(online(s * batch, batch)) == pytest.approx(4, rel=1e-8)


@pytest.mark.parametrize("rate, value", [(0.5, 1.247), (0.2, 1.528), (0.1, 1.643), (0.05, 1.710)])
def test_approach_to_the_limit(rate, value):
    """B = 4: βηa/B = 1.247, 1.528, 1.643, 1.710, towards 1.7956; the SDE goes to 1."""
    beta = tail_index(online(rate, 4))
    assert beta * rate / 4 == pytest.approx(value, abs=5e-4)
    assert tail_index(online(rate, 4, step=0.0)) == pytest.approx(1 + 4 / rate, rel=1e-14)
    assert tail_index_published(online(rate, 4)) == pytest.approx(8 / rate - 4)


def test_limit():
    """κ log 2κ = κ + ½ at 1.7956; β at ηa = .002 extrapolates to it."""
    limit = tail_index_limit()
    assert limit == pytest.approx(1.7956, abs=5e-5)
    fine, coarse = (tail_index(online(r, 1)) * r for r in (2e-3, 4e-3))
    assert 2 * fine - coarse == pytest.approx(limit, rel=1e-3)


def test_sampled_moment():
    """The mean of |1 − ηX̂|^β over 4·10⁵ batches is 1, and not at the SDE's β = 5 or at 4."""
    generator = np.random.default_rng(11)
    factor = np.abs(1 - generator.chisquare(4, 400_000) / 4)
    rows = {}
    for power in (tail_index(online(1.0, 4)), 5.0, 4.0):
        values = factor**power
        error = values.std(ddof=1) / np.sqrt(len(values))
        estimate = ss.Estimate(values.mean(), np.asarray(error), len(values))
        rows[power] = ss.compare(estimate, 1.0, failure_rate=2e-5)
    assert [row.verdict for row in rows.values()] == ["agrees", "disagrees", "disagrees"]


@pytest.mark.parametrize("rate, batch", [(1.0, 4), (0.5, 1)])
def test_sde_tail_is_that_of_its_density(rate, batch):
    """The Itô density of C = (2a²w² + aσ²)/B has the tail 1 + B/(ηa), and ratio 2^{−β}."""
    density = stationary_density(
        Diffusion(lambda w: -w, lambda w: rate * (2 * w**2 + 1) / (2 * batch))
    )
    beta = tail_index(online(rate, batch, step=0.0))
    assert density.tail_index == pytest.approx(beta, rel=1e-6)
    ratio = density.survival(2e6) / density.survival(1e6)
    assert ratio == pytest.approx(2**-beta, rel=1e-6)


def gaussian_moment(power, mean, deviation):
    """E|mean + deviation·ξ|^q by adaptive quadrature on both sides of the zero."""
    zero = -mean / deviation
    moments = (
        quad(lambda z: np.abs(mean + deviation * z) ** power * np.exp(-(z**2) / 2), *ends)[0]
        for ends in ((-20, zero), (zero, 20))
    )
    return sum(moments) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_euler_tail_index(step):
    """E|1 − ha + √(2hη/B) a ξ|^β = 1, by plain quadrature; h → 0 is the SDE."""
    beta = tail_index(online(1.0, 4, step=step))
    assert gaussian_moment(beta, 1 - step, np.sqrt(2 * step / 4)) == pytest.approx(1, abs=1e-7)
    assert tail_index(online(1.0, 4, step=1e-4)) == pytest.approx(5, abs=1e-3)


INPUTS, TARGETS = np.array([1.0, 2.0, 0.5, -1.5]), np.array([0.3, -0.2, 1.0, 0.4])
DATA = ss.LeastSquares(INPUTS[:, None], TARGETS, l2=0.05)
ONE = ss.WithReplacement(1)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_finite_sum(batch, replacement):
    """β over all ordered batches, one by one, for both schemes."""
    every = itertools.product if replacement else itertools.permutations
    arguments = {"repeat": batch} if replacement else {"r": batch}
    means = np.array([np.mean(np.square(b)) for b in every(INPUTS, **arguments)])
    scheme = ss.WithReplacement if replacement else ss.WithoutReplacement
    beta = tail_index(ss.SGD(DATA, 0.9, scheme(batch)))
    moment = np.mean(np.abs(1 - 0.9 * (means + 0.05)) ** beta)
    assert moment == pytest.approx(1, abs=1e-9)
    assert beta > 0


@pytest.mark.parametrize("order", [1, 2])
def test_gaussian_steps_on_a_finite_sum(order):
    """V(w)/w² → hη Var x²/B and F = 1 − hb, b = a (+ ηa²/2): E|F + √v ξ|^β = 1; 1 + 2b/(ηv)."""
    eta, substeps, batch, a = 0.9, 3, 2, np.mean(INPUTS**2) + 0.05
    pull = a + (eta / 2 * a**2 if order == 2 else 0)
    spread, h = np.var(INPUTS**2) / batch, eta / substeps
    noise = ss.MinibatchNoise(ss.WithReplacement(batch))
    equation = ss.ModifiedEquation(DATA, eta, noise, order=order, substeps=substeps)
    beta = tail_index(equation)
    moment = gaussian_moment(beta, 1 - h * pull, np.sqrt(h * eta * spread))
    assert moment == pytest.approx(1, abs=1e-7)
    limit = tail_index(equation.limit())
    assert limit == pytest.approx(1 + 2 * pull / (eta * spread), rel=1e-12)
    if order == 1:
        density = stationary_density(equation.limit()).tail_index
        assert density == pytest.approx(limit, rel=1e-6)
        gaussian = tail_index(ss.GaussianSGD(DATA, eta, noise))
        assert gaussian_moment(gaussian, 1 - eta * a, eta * np.sqrt(spread)) == pytest.approx(1)
        # (1 − μ) times as slow, at the rate η/(1 − μ)
        overdamped = ss.OverdampedEquation(DATA, eta / 2, noise, 0.5, substeps=substeps)
        assert tail_index(overdamped) == pytest.approx(beta, rel=1e-12)


def test_no_power_tail():
    """No batch expands, the noise is the same everywhere, or the law is one point: β = inf."""
    assert tail_index(ss.SGD(DATA, 0.4, ONE)) == np.inf
    constant = ss.ConstantNoise(np.eye(1))
    assert tail_index(ss.GaussianSGD(DATA, 0.9, constant)) == np.inf
    assert tail_index(ss.SGD(ss.quadratic(1.0, 1.0), 0.9, ONE)) == np.inf
    interpolated = ss.LeastSquares(INPUTS[:, None], 0.7 * INPUTS)
    noise = ss.MinibatchNoise(ONE)
    for process in (
        online(1.0, 4, sigma=0.0),
        online(1.0, 4, sigma=0.0, step=0.0),
        ss.SGD(interpolated, 0.6, ONE),
        ss.GaussianSGD(interpolated, 0.6, noise),
    ):
        assert tail_index(process) == np.inf
    assert tail_index(ss.SGD(DATA, 0.6, ONE)) < np.inf  # control


def test_second_moments():
    """E w² = .1 (SGD) and .0714286 (SDE) at (η, a, B) = (.5, 1, 4)."""
    for step, value in ((None, 0.1), (0.0, 0.0714286)):
        found = moment(2, 0.5, 4, step=step)
        exact = closed_forms.population(
            [[1.0]], label_noise=1.0, learning_rate=0.5, batch_size=4, time_step=step
        )
        assert found == pytest.approx(exact[0, 0], rel=1e-12)
        assert found == pytest.approx(value, abs=5e-8)


@pytest.mark.parametrize("batch", [1, 2])
def test_fourth_moment_is_stationary(batch):
    """E w'⁴ = E w⁴ for a step with every feature and label integrated by Gauss–Hermite."""
    eta, sigma, a = 0.1, 1.3, 1.5
    found = stationary_scalar_moments(online(eta, batch, a=a, sigma=sigma)).raw
    np.testing.assert_allclose(found[[0, 2]], 0, atol=1e-15)
    known = {0: 1.0, 2: found[1], 4: found[3]}
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    axes = np.meshgrid(*([nodes] * 2 * batch), indexing="ij")
    chance = 1.0
    for axis in np.meshgrid(*([weights / np.sqrt(2 * np.pi)] * 2 * batch), indexing="ij"):
        chance = chance * axis
    x, noise = np.sqrt(a) * np.array(axes[:batch]), sigma * np.array(axes[batch:])
    keep, push = 1 - eta * np.mean(x**2, 0), eta * np.mean(x * noise, 0)
    pieces = {n: np.sum(chance * keep**n * push ** (4 - n)) for n in (0, 2, 4)}
    binomial = {0: 1, 2: 6, 4: 1}
    after = sum(binomial[n] * pieces[n] * known[n] for n in known)
    assert after == pytest.approx(known[4], rel=1e-10)


def test_a_high_moment_of_fresh_batches():
    """E w'²⁰ = E w²⁰ over χ²_B by a fine trapezoid, at σ = .3, where β is about 60."""
    eta, batch, sigma, order = 0.1, 4, 0.3, 20
    found = stationary_scalar_moments(online(eta, batch, sigma=sigma), max_moment=order).raw
    known = np.append(1.0, found)
    r = np.linspace(0, 14, 20001)
    density = r ** (batch - 1) * np.exp(-(r**2) / 2)
    density /= np.trapezoid(density, r)
    square = r**2 / batch
    after = 0.0
    for k in range(order // 2 + 1):
        odd = np.prod(np.arange(1, 2 * k, 2, dtype=float))
        push = (eta**2 * sigma**2 / batch * square) ** k * odd
        mean = np.trapezoid(density * push * (1 - eta * square) ** (order - 2 * k), r)
        after += comb(order, 2 * k) * mean * known[order - 2 * k]
    assert after == pytest.approx(known[order], rel=1e-9)


def test_sde_moments_are_those_of_its_density():
    """E w² and E w⁴ of the SDE, by quadrature over the Itô density."""
    density = stationary_density(Diffusion(lambda w: -w, lambda w: 0.5 * (2 * w**2 + 1) / 8))
    for order in (2, 4, 6):
        assert moment(order, 0.5, 4, step=0.0) == pytest.approx(density.moment(order), rel=1e-8)


def test_refuses():
    """Moments beyond the tail, rates without a stationary law, batches beyond counting."""
    with pytest.raises(ValueError, match=r"no moment of order 4, which is infinite.*per step"):
        moment(4, 1.0, 4)
    with pytest.raises(ValueError, match="order 6, which is infinite.*per iteration"):
        moment(6, 1.0, 4, step=0.0)
    with pytest.raises(ValueError, match="No stationary law at learning_rate=3, batch_size=1"):
        tail_index(online(3.0, 1))
    with pytest.raises(ValueError, match="No stationary law"):
        tail_index(ss.SGD(DATA, 5.0, ONE))
    with pytest.raises(ValueError, match="No stationary law at learning_rate=5.*contract"):
        tail_index(ss.GaussianSGD(DATA, 5.0, ss.ConstantNoise(np.eye(1))))
    many = ss.LeastSquares(np.arange(1.0, 200.0)[:, None], np.ones(199))
    with pytest.raises(ValueError, match="more than 1000000"):
        tail_index(ss.SGD(many, 1e-5, ss.WithReplacement(8)))


def test_what_is_not_known():
    """d = 2, momentum, shuffled epochs, another loss, two-point steps: each with what is known."""
    noise = ss.MinibatchNoise(ONE)
    plane = ss.LeastSquares(np.stack([INPUTS, TARGETS], 1), TARGETS)
    logistic = ss.LogisticRegression(INPUTS[:, None], np.array([0, 1, 1, 0]), bias=False)
    cases = {
        "one dimension; LeastSquares has d=2": ss.SGD(plane, 0.1, ONE),
        "momentum": ss.SGD(DATA, 0.1, ONE, 0.5),
        "depend on each other": ss.SGD(DATA, 0.1, ss.RandomReshuffling(1)),
        "not known to be quadratic": ss.SGD(logistic, 0.1, ONE),
        "Two-point": ss.ModifiedEquation(DATA, 0.1, noise, increments="two_point"),
    }
    for match, process in cases.items():
        with pytest.raises(NotKnown, match=match):
            tail_index(process)
    with pytest.raises(NotKnown, match="published tail index is that of SGD on Population"):
        tail_index_published(ss.SGD(DATA, 0.1, ONE))
    with pytest.raises(NotKnown, match="up to order 4; order 6"):
        stationary_scalar_moments(ss.SGD(DATA, 0.1, ONE), max_moment=5)
