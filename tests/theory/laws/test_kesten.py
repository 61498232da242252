"""Tail indices: E|1 − ηX̂|^β = 1 by other quadratures, exact integers, limits, and samples."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, roots_genlaguerre, roots_jacobi

import sde_sgd as ss
from sde_sgd.processes import Diffusion
from sde_sgd.theory.laws import (
    moment_online_least_squares,
    stationary_density,
    tail_index_finite_sum,
    tail_index_limit,
    tail_index_online_least_squares,
    tail_index_published,
)
from sde_sgd.theory.stationary import population_covariance


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
    found = tail_index_online_least_squares(learning_rate=0.5, batch_size=batch, feature_variance=2)
    assert found == pytest.approx(beta, abs=5e-5)
    tolerance = 2e-5 if batch == 1 else 1e-9  # B = 1: (zero + 2t)^{−½} is no polynomial
    assert chi_square_moment(found, 1.0, batch) == pytest.approx(1, abs=tolerance)
    published = tail_index_published(learning_rate=0.5, batch_size=batch, feature_variance=2)
    assert published == batch
    for wrong in (1 + batch, published):  # controls: the SDE's index, and the published one
        if wrong != pytest.approx(found):
            assert abs(chi_square_moment(wrong, 1.0, batch) - 1) > 0.02


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_integer_tail_indices(batch):
    """E(1 − sχ²)² = 1 at ηa = 2B/(B + 2): β = 2 exactly, and β = 4 where E(1 − sχ²)⁴ = 1."""
    rate = 2 * batch / (batch + 2)
    assert tail_index_online_least_squares(learning_rate=rate, batch_size=batch) == pytest.approx(
        2, rel=1e-9
    )
    rising = np.cumprod(batch + 2 * np.arange(4.0))
    quartic = [rising[3], -4 * rising[2], 6 * rising[1], -4 * rising[0]]  # over s: cubic = 0
    roots = np.roots(quartic)
    s = roots[np.abs(roots.imag) < 1e-9].real.min()
    assert tail_index_online_least_squares(
        learning_rate=s * batch, batch_size=batch
    ) == pytest.approx(4, rel=1e-8)


@pytest.mark.parametrize("rate, value", [(0.5, 1.247), (0.2, 1.528), (0.1, 1.643), (0.05, 1.710)])
def test_approach_to_the_limit(rate, value):
    """B = 4: βηa/B = 1.247, 1.528, 1.643, 1.710, towards 1.7956; the SDE goes to 1."""
    beta = tail_index_online_least_squares(learning_rate=rate, batch_size=4)
    assert beta * rate / 4 == pytest.approx(value, abs=5e-4)
    sde = tail_index_online_least_squares(learning_rate=rate, batch_size=4, time_step=0.0)
    assert sde == 1 + 4 / rate
    assert tail_index_published(learning_rate=rate, batch_size=4) == pytest.approx(8 / rate - 4)


def test_limit():
    """κ log 2κ = κ + ½ at 1.7956; β at ηa = .002 extrapolates to it."""
    limit = tail_index_limit()
    assert limit == pytest.approx(1.7956, abs=5e-5)
    fine, coarse = (
        tail_index_online_least_squares(learning_rate=r, batch_size=1) * r for r in (2e-3, 4e-3)
    )
    assert 2 * fine - coarse == pytest.approx(limit, rel=1e-3)


def test_sampled_moment():
    """The mean of |1 − ηX̂|^β over 4·10⁵ batches is 1, and not at the SDE's β = 5 or at 4."""
    generator = np.random.default_rng(11)
    factor = np.abs(1 - generator.chisquare(4, 400_000) / 4)
    rows = {}
    beta = tail_index_online_least_squares(learning_rate=1.0, batch_size=4)
    for power in (beta, 5.0, 4.0):
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
    beta = tail_index_online_least_squares(learning_rate=rate, batch_size=batch, time_step=0.0)
    assert density.tail_index == pytest.approx(beta, rel=1e-6)
    ratio = density.survival(2e6) / density.survival(1e6)
    assert ratio == pytest.approx(2**-beta, rel=1e-6)


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_euler_tail_index(step):
    """E|1 − ha + √(2hη/B) a ξ|^β = 1, by plain quadrature; h → 0 is the SDE."""
    beta = tail_index_online_least_squares(learning_rate=1.0, batch_size=4, time_step=step)
    mean, deviation = 1 - step, np.sqrt(2 * step / 4)
    zero = -mean / deviation
    moment = sum(
        quad(lambda z: np.abs(mean + deviation * z) ** beta * np.exp(-(z**2) / 2), *ends)[0]
        for ends in ((-20, zero), (zero, 20))
    )
    assert moment / np.sqrt(2 * np.pi) == pytest.approx(1, abs=1e-7)
    small = tail_index_online_least_squares(learning_rate=1.0, batch_size=4, time_step=1e-4)
    assert small == pytest.approx(5, abs=1e-3)


INPUTS = np.array([1.0, 2.0, 0.5, -1.5])


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_finite_sum(batch, replacement):
    """β over all ordered batches, one by one, for both schemes."""
    every = itertools.product if replacement else itertools.permutations
    arguments = {"repeat": batch} if replacement else {"r": batch}
    means = np.array([np.mean(np.square(b)) for b in every(INPUTS, **arguments)])
    beta = tail_index_finite_sum(
        INPUTS, learning_rate=0.9, batch_size=batch, replacement=replacement, l2=0.05
    )
    moment = np.mean(np.abs(1 - 0.9 * (means + 0.05)) ** beta)
    assert moment == pytest.approx(1, abs=1e-9)
    assert beta > 0


def test_no_power_tail():
    """Where no batch expands, all moments exist: β = inf."""
    assert tail_index_finite_sum(INPUTS, learning_rate=0.4, batch_size=1) == np.inf


def test_second_moments():
    """E w² = .1 (SGD) and .0714286 (SDE) at (η, a, B) = (.5, 1, 4)."""
    for step, value in ((None, 0.1), (0.0, 0.0714286)):
        found = moment_online_least_squares(2, learning_rate=0.5, batch_size=4, time_step=step)
        exact = population_covariance(
            [[1.0]], label_noise=1.0, learning_rate=0.5, batch_size=4, time_step=step
        )
        assert found == pytest.approx(exact[0, 0], rel=1e-12)
        assert found == pytest.approx(value, abs=5e-8)


@pytest.mark.parametrize("batch", [1, 2])
def test_fourth_moment_is_stationary(batch):
    """E w'⁴ = E w⁴ for a step with every feature and label integrated by Gauss–Hermite."""
    eta, sigma, a = 0.1, 1.3, 1.5
    known = {
        n: moment_online_least_squares(
            n, learning_rate=eta, batch_size=batch, feature_variance=a, label_noise=sigma
        )
        for n in (0, 2, 4)
    }
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


def test_sde_moments_are_those_of_its_density():
    """E w² and E w⁴ of the SDE, by quadrature over the Itô density."""
    density = stationary_density(Diffusion(lambda w: -w, lambda w: 0.5 * (2 * w**2 + 1) / 8))
    for order in (2, 4, 6):
        found = moment_online_least_squares(order, learning_rate=0.5, batch_size=4, time_step=0)
        assert found == pytest.approx(density.moment(order), rel=1e-8)


def test_refuses():
    """Moments beyond the tail, rates without a stationary law, batches beyond counting."""
    with pytest.raises(ValueError, match=r"E w\^4 is infinite.*r\^-3.50468"):
        moment_online_least_squares(4, learning_rate=1.0, batch_size=4)
    with pytest.raises(ValueError, match="infinite"):
        moment_online_least_squares(6, learning_rate=1.0, batch_size=4, time_step=0.0)
    with pytest.raises(ValueError, match="even"):
        moment_online_least_squares(3, learning_rate=0.1, batch_size=4)
    with pytest.raises(ValueError, match="No stationary law at learning_rate=3, batch_size=1"):
        tail_index_online_least_squares(learning_rate=3.0, batch_size=1)
    with pytest.raises(ValueError, match="No stationary law"):
        tail_index_finite_sum(INPUTS, learning_rate=5.0, batch_size=1)
    with pytest.raises(ValueError, match="more than 1000000"):
        tail_index_finite_sum(np.arange(1.0, 200.0), learning_rate=0.1, batch_size=8)
    with pytest.raises(ValueError, match="exceeds"):
        tail_index_finite_sum(INPUTS, learning_rate=0.1, batch_size=5, replacement=False)
    with pytest.raises(ValueError, match="batch_size"):
        tail_index_online_least_squares(learning_rate=1.0, batch_size=0)
