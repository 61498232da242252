"""Laws against laws: exact floors and distances, valid p-values, wrong laws that fail."""

import functools
import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import integrate, stats

import sde_sgd as ss
from sde_sgd.compare._exact_tail import chernoff, multinomial_cells, p_value, relabelled_cells
from sde_sgd.compare._law_tools import binomial_deviation
from sde_sgd.processes import Diffusion
from sde_sgd.theory.quantiles import inverse

FAILURE_RATE = 2e-5
KEY = jr.key(0)


def normal(n, seed=0, width=1.0):
    return width * np.random.default_rng(seed).standard_normal(n)


def test_the_mean_deviation_of_counts():
    """E|X − np| by summation over the binomial law."""
    for n, p in itertools.product((1, 7, 40), (0.0, 0.02, 0.3, 0.5, 1.0)):
        k = np.arange(n + 1)
        exact = np.abs(k - n * p) @ stats.binom.pmf(k, n, p)
        assert binomial_deviation(n, np.array([p]))[0] == pytest.approx(exact, abs=1e-12)


def test_quantiles_by_bisection():
    """F⁻¹ of laws of any place and width, from samples far away."""
    levels = np.array([1e-7, 0.1, 0.5, 0.999])
    for law in (stats.norm(100, 0.01), stats.cauchy(-3), stats.expon(scale=1e5)):
        found = inverse(law.cdf, levels, 0.0, 1.0)
        np.testing.assert_allclose(found, law.ppf(levels), rtol=1e-8)


def test_total_variation_and_its_floor():
    """½ Σ|p̂ − p| and ½ Σ E|p̂ − p| over given cells; about .4 √(m/n) for m equal cells."""
    n, edges = 500, np.array([-1.0, 0.2, 1.5])
    sample = normal(n)
    found = ss.compare_law(sample, stats.norm, key=KEY, edges=edges).total_variation
    masses = np.diff(np.concatenate([[0], stats.norm.cdf(edges), [1]]))
    shares = np.histogram(sample, np.concatenate([[-99], edges, [99]]))[0] / n
    assert found.measured.value == pytest.approx(0.5 * np.abs(shares - masses).sum(), rel=1e-12)
    rng = np.random.default_rng(3)
    null = 0.5 * np.abs(rng.multinomial(n, masses, size=20000) / n - masses).sum(axis=1)
    limit = stats.norm.isf(FAILURE_RATE / 4)
    assert abs(found.floor - null.mean()) < limit * null.std() / np.sqrt(20000)
    # The spread comes from 1000 resamples.
    assert found.floor_spread == pytest.approx(null.std(), rel=limit * np.sqrt(1 / 2000))
    many = ss.compare_law(normal(20_000), stats.norm, key=KEY).total_variation
    assert many.floor == pytest.approx(0.4 * np.sqrt(50 / 20_000), rel=0.02)


def test_wasserstein_and_its_floor():
    """W₁ = ∫|F̂ − F| by quadrature; E W₁ = ∫E|F̂ − F|, the mean over samples of the law."""
    n, law = 300, stats.gumbel_r(2.0, 3.0)
    samples = law.rvs((200, n), random_state=np.random.default_rng(4))
    found = ss.compare_law(samples[0], law, key=KEY).wasserstein
    grid = np.linspace(-30, 70, 400_001)
    heights = np.searchsorted(np.sort(samples[0]), grid, side="right") / n
    exact = integrate.trapezoid(np.abs(heights - law.cdf(grid)), grid)
    assert found.measured.value == pytest.approx(exact, rel=1e-3)
    each = [
        stats.wasserstein_distance(row, law.ppf((np.arange(20_000) + 0.5) / 20_000))
        for row in samples
    ]
    limit = stats.norm.isf(FAILURE_RATE / 2)
    assert abs(found.floor - np.mean(each)) < limit * np.std(each) / np.sqrt(200)
    assert found.floor_spread == pytest.approx(np.std(each), rel=limit * np.sqrt(1 / 200))


def test_errors_are_the_spread_of_repetitions():
    """Bootstrap errors of TV and W₁ for a wrong law equal their spread over samples."""
    law, n = stats.norm(0.5, 1.3), 400
    runs = [ss.compare_law(normal(n, seed), law, key=jr.key(seed)) for seed in range(60)]
    for distance in ("total_variation", "wasserstein"):
        values = np.array([getattr(r, distance).measured.value for r in runs])
        errors = np.array([getattr(r, distance).measured.standard_error for r in runs])
        # 60 repetitions know a deviation to 9 %; four of those.
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.37)


def test_a_rare_tail_is_bounded_by_enumeration():
    """P(T ≥ t) ≤ min_λ E e^{λ(T − t)} ≤ the bound, and ≤ 20 P(T ≥ t) where that exceeds 1e-5."""
    masses, num = np.array([0.6, 0.35, 0.05]), 15
    counts = np.array([(i, j, num - i - j) for i in range(16) for j in range(16 - i)])
    chances = stats.multinomial(num, masses).pmf(counts)
    distances = 0.5 * np.abs(counts / num - masses).sum(axis=1)
    total, first = np.array([7, 5, 3]), 6
    labels = np.array(list(itertools.product(*[range(c + 1) for c in total])))
    labels = labels[labels.sum(axis=1) == first]
    relabelled = 0.5 * np.abs(labels / 6 - (total - labels) / 9).sum(axis=1)
    for cells, every, chance in (
        (multinomial_cells(num, masses), distances, chances),
        (
            relabelled_cells(total, first),
            relabelled,
            stats.multivariate_hypergeom(total, 6).pmf(labels),
        ),
    ):
        rates = np.concatenate([[0], np.geomspace(0.1, 2000, 400)])
        for limit in np.unique(every):
            exact = chance[every >= limit - 1e-12].sum()
            best = min(chance @ np.exp(np.minimum(rate * (every - limit), 700)) for rate in rates)
            assert exact * (1 - 1e-9) <= chernoff(limit, cells)
            assert exact < 1e-5 or chernoff(limit, cells) <= 20 * exact
            assert chernoff(limit, cells) >= best * (1 - 0.01)


def test_a_rare_cell_is_no_certainty():
    """One of 20 members in a cell of mass q = 1.85e-5: p ≥ P(any) = 1 − (1 − q)²⁰ = 3.7e-4.

    Most sets of 1000 draws never visit that cell.
    """
    share, exact = 1.85e-5, stats.binom.sf(0, 20, 1.85e-5)
    assert exact == pytest.approx(3.7e-4, rel=1e-3)
    members = np.append(np.full(19, -1.0), 1.0)
    law = stats.norm(loc=stats.norm.ppf(share))
    for seed in range(5):
        found = ss.compare_law(members, law, key=jr.key(seed), edges=[0.0])
        # The first visit is geometric: below a tenth of its mean with probability .1 each.
        assert found.p_values[1] > 3e-5 and found.rows[1].verdict == "agrees"
        assert np.isfinite(found.total_variation.excess)
    # Control: two members there are as improbable as C(20, 2) q² = 6.5e-8.
    members[0] = 1.0
    found = ss.compare_law(members, law, key=KEY, edges=[0.0])
    assert stats.binom.sf(1, 20, share) < found.p_values[1] < 1e-5
    assert found.rows[1].verdict == "disagrees"


def test_the_p_value_when_no_draw_reaches():
    """(1 + #)/(1 + draws), twice 1/l at the l-th draw if it is the first, or twice the bound."""
    cells = functools.partial(multinomial_cells, 20, np.array([0.5, 0.5]))
    null, low = np.zeros(999), np.zeros

    def late(count):
        return np.where(np.arange(count) == 500, 1.0, 0.0)

    assert p_value(0.1, np.append(null, 0.1), low, 1e-5, cells) == 2 / 1001
    # P(T ≥ .5) = 2·2⁻²⁰, whose bound is exact; at T = .35 (17 of 20) it is above the rate.
    assert p_value(0.5, null, low, 1e-5, cells) == pytest.approx(4 * 2.0**-20, rel=0.01)
    bound = chernoff(0.35, cells())
    assert 2 * stats.binom.sf(16, 20, 0.5) < bound < 1
    assert p_value(0.35, null, late, 1e-5, cells) == 1 / 1000
    found = p_value(0.35, null, low, 1e-5, cells)
    assert 1e-5 / 2.1 < found <= 1e-5


@functools.cache
def null_p_values():
    law = stats.norm
    return np.array(
        [
            ss.compare_law(normal(100, 1000 + i), law, key=jr.key(i), num_bootstrap=2).p_values
            for i in range(150)
        ]
    )


def test_p_values_are_valid():
    """Under the right law KS and TV p-values are uniform: P(p ≤ a) = a at a = .05, .5."""
    p = null_p_values()
    for level in (0.05, 0.5):
        for column in p.T:
            below = int((column <= level).sum())
            assert stats.binomtest(below, 150, level).pvalue > FAILURE_RATE
    # Control: the p-values of a law that stands elsewhere are not.
    wide = np.array(
        [
            ss.compare_law(
                normal(100, 1000 + i), stats.norm(0.4, 1), key=jr.key(i), num_bootstrap=2
            ).p_values
            for i in range(40)
        ]
    )
    assert stats.binomtest(int((wide[:, 0] <= 0.05).sum()), 40, 0.05).pvalue < FAILURE_RATE


def test_a_right_and_a_wrong_law():
    """N(0, 1) agrees with itself; a law 5 % wider disagrees at 20 000 members."""
    sample = normal(20_000)
    right = ss.compare_law(sample, stats.norm, key=KEY, name="x", process="SGD")
    assert right.verdict == "agrees" and right.as_expected
    assert [row.name for row in right.rows] == ["x KS", "x TV"]
    assert right.num_samples == 20_000
    wrong = ss.compare_law(sample, stats.norm(0, 1.05).cdf, key=KEY, expected="deviate")
    assert wrong.verdict == "disagrees" and wrong.as_expected
    assert wrong.total_variation.excess > 3 and "p = " in wrong.rows[1].reason
    assert wrong.wasserstein.measured.value > 3 * wrong.wasserstein.floor
    assert "sampling floor" in str(right) and "disagrees" in ss.verdict_table(wrong.rows)
    assert wrong.rows[0].row()["expected"] == "deviate"


def test_resolution():
    """Agreement within r of total variation needs a sample that shows it."""
    law = stats.norm(0.01, 1)
    big = ss.compare_law(normal(100_000), law, key=KEY, resolution=0.05, edges=[-1.0, 0.0, 1.0])
    assert big.verdict == "agrees"
    small = ss.compare_law(normal(50), law, key=KEY, resolution=0.05)
    assert small.verdict == "inconclusive" and "add members" in small.rows[0].reason
    with pytest.raises(ValueError, match="resolution must be a finite number > 0"):
        ss.compare_law(normal(50), law, key=KEY, resolution=0.0)


def test_resolution_of_what_no_member_shows():
    """20 members in a cell of .99: a law with .8 there does that with probability .012.

    Resamples of them have no spread; the bound √(ln(1/a)/2n) = .52 does not need it.
    """
    found = ss.compare_law(
        np.full(20, -1.0), stats.norm(stats.norm.ppf(0.01)), key=KEY, edges=[0.0], resolution=0.02
    )
    assert found.total_variation.measured.standard_error == 0
    assert found.rows[1].verdict == "inconclusive"


def test_the_slack_of_a_resolution():
    """n = 2000, rate .02: √(ln(2/a)/2n) = .0364 > .035 for KS, √(ln(1/a)/2n) = .0339 for TV."""
    members = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    found = ss.compare_law(
        members, stats.norm, key=KEY, edges=[0.0], resolution=0.035, failure_rate=0.02
    )
    assert [row.verdict for row in found.rows] == ["inconclusive", "agrees"]
    assert "below 0.0366" in found.rows[0].reason


def test_the_floor_of_two_samples():
    """Kolmogorov's mean √(π/2) ln 2 = .868731 over √(nm/(n + m)): .0869 at n = m = 200."""
    found = ss.compare_laws(normal(200, 1), normal(200, 2), key=KEY, num_bootstrap=2)
    assert found.rows[0].predicted == pytest.approx(np.sqrt(np.pi / 2) * np.log(2) / 10, rel=1e-5)
    assert found.rows[0].standard_error == pytest.approx(0.0260324, rel=1e-4)


def pairs(n, correlation, seed=0):
    x, y = np.random.default_rng(seed).standard_normal((2, n))
    return np.stack([x, correlation * x + np.sqrt(1 - correlation**2) * y], axis=1)


EDGES = (np.linspace(-2, 2, 9), np.linspace(-2, 2, 7))


def gaussian_masses(correlation):
    law = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    corners = law.cdf(np.stack(np.meshgrid(*EDGES, indexing="ij"), axis=-1))
    return np.diff(np.diff(corners, axis=0), axis=1)


def test_two_dimensions():
    """Cell masses of a correlated normal law agree; those with the correlation reversed do not."""
    sample = pairs(20_000, 0.5)
    right = ss.compare_law(sample, gaussian_masses(0.5), edges=EDGES, key=KEY)
    assert right.verdict == "agrees" and len(right.rows) == 1 and right.wasserstein is None
    wrong = ss.compare_law(sample, gaussian_masses(-0.5), edges=EDGES, key=KEY)
    assert wrong.verdict == "disagrees"
    counts = np.histogram2d(*sample.T, bins=EDGES)[0] / len(sample)
    masses = gaussian_masses(0.5)
    exact = 0.5 * (np.abs(counts - masses).sum() + abs(counts.sum() - masses.sum()))
    assert right.total_variation.measured.value == pytest.approx(exact, rel=1e-10)


def test_a_density_on_a_grid():
    """The Fokker–Planck density of ½|θ|² and its cells, its own or coarser ones of its edges."""
    box = [[-2.0, 2.0], [-2.0, 2.0]]
    equation = ss.theory.laws.FokkerPlanck(
        Diffusion(lambda x: -x, lambda x: 0.1 * jnp.eye(2)), box=box, cells=(40, 40)
    )
    density = equation.stationary()
    sample = np.sqrt(0.1) * np.random.default_rng(1).standard_normal((4000, 2))
    own = ss.compare_law(sample, density, key=KEY)
    assert own.verdict == "agrees"
    coarse = (density.grid.edges(0)[::5], density.grid.edges(1)[4:-4:4])
    found = ss.compare_law(sample, density, edges=coarse, key=KEY)
    assert found.verdict == "agrees" and found.total_variation.floor < own.total_variation.floor
    assert ss.compare_law(1.1 * sample, density, edges=coarse, key=KEY).verdict == "disagrees"
    line = density.marginal(0)
    assert ss.compare_law(sample[:, 0], line, key=KEY).verdict == "agrees"
    assert ss.compare_law(1.2 * sample[:, 0], line, key=KEY).verdict == "disagrees"
    with pytest.raises(ValueError, match="must be edges of the grid"):
        ss.compare_law(sample, density, edges=([0.0, 0.013], [0.0, 0.1]), key=KEY)


ETA = 0.1
WIDTH = np.sqrt(ETA / (2 - ETA))


@functools.cache
def histograms():
    """Gaussian SGD on ½|θ|², correlated in time, with θ ~ N(0, η/(2 − η)) in each direction."""
    process = ss.GaussianSGD(ss.quadratic(np.eye(2), 1.0), ETA, ss.ConstantNoise(np.eye(2)))
    edges = np.linspace(-3 * WIDTH, 3 * WIDTH, 13)
    return ss.simulate(
        process,
        lambda key: WIDTH * jr.normal(key, (2,)),
        num_steps=100,
        ensemble_size=2048,
        key=jr.key(5),
        measures={
            "line": ss.Histogram(edges, of=lambda x: x[0]),
            "plane": ss.Histogram((edges, edges)),
        },
    )


def test_a_histogram_correlated_in_time():
    """Bin by bin with the errors of members; a law of other width, or independence, fails."""
    line, plane = histograms()["line"], histograms()["plane"]
    law = stats.norm(0, WIDTH)
    found = ss.compare_law(line, law, key=KEY)
    assert found.verdict == "agrees"
    # TV stands at its floor, and far above that of as many independent values.
    assert abs(found.total_variation.excess) < 4
    p = np.diff(np.concatenate([[0], law.cdf(line.edges), [1]]))
    independent = np.sqrt(p * (1 - p) / (2048 * 100)).sum() / np.sqrt(2 * np.pi)
    assert found.total_variation.floor > 1.3 * independent
    assert ss.compare_law(line, stats.norm(0, 1.08 * WIDTH), key=KEY).verdict == "disagrees"
    masses = np.diff(law.cdf(line.edges))
    assert ss.compare_law(plane, np.outer(masses, masses), key=KEY).verdict == "agrees"
    shifted = np.outer(masses, np.roll(masses, 1))
    assert ss.compare_law(plane, shifted, key=KEY).verdict == "disagrees"


def test_two_samples():
    """Two ensembles of one law agree, in one and two dimensions; another width does not."""
    x, y = normal(4000, 1), normal(3000, 2)
    same = ss.compare_laws(x, y, key=KEY)
    assert same.verdict == "agrees" and same.num_samples == 3000
    assert ss.compare_laws(x, 1.2 * y, key=KEY).verdict == "disagrees"
    assert same.wasserstein.measured.value == pytest.approx(stats.wasserstein_distance(x, y))
    test = stats.ks_2samp(x, y)
    assert same.p_values[0] == pytest.approx(test.pvalue)
    assert abs(same.total_variation.excess) < 5 and abs(same.wasserstein.excess) < 5
    a, b = pairs(4000, 0.5, 1), pairs(4000, 0.5, 2)
    assert ss.compare_laws(a, b, key=KEY).verdict == "agrees"
    assert ss.compare_laws(a, pairs(4000, -0.5, 2), key=KEY).verdict == "disagrees"


REFUSED = {
    "few": (lambda: ss.compare_law(normal(10), stats.norm, key=KEY), "10 members"),
    "nan": (lambda: ss.compare_law(np.full(30, np.nan), stats.norm, key=KEY), "NaN"),
    "wide": (
        lambda: ss.compare_law(np.zeros((30, 3)), stats.norm, key=KEY),
        "one or two dimensions",
    ),
    "no cdf": (lambda: ss.compare_law(normal(30), 3.0, key=KEY), "predicted must be a law"),
    "falling": (
        lambda: ss.compare_law(normal(30), stats.norm.sf, key=KEY),
        "must run from 0 to 1",
    ),
    "not normalised": (
        lambda: ss.compare_law(normal(30), lambda x: 0.5 * stats.norm.cdf(x), key=KEY),
        "must run from 0 to 1",
    ),
    "beyond": (
        lambda: ss.compare_law(normal(30), lambda x: 2 * stats.norm.cdf(x), key=KEY),
        r"leaves \[0, 1\]",
    ),
    "no edges": (
        lambda: ss.compare_law(pairs(30, 0.0), gaussian_masses(0.0), key=KEY),
        "Pairs need edges",
    ),
    "shape": (
        lambda: ss.compare_law(pairs(30, 0.0), np.ones((2, 2)) / 4, edges=EDGES, key=KEY),
        r"shape \(8, 6\).*got \(2, 2\)",
    ),
    "masses": (
        lambda: ss.compare_law(pairs(30, 0.0), 2 * gaussian_masses(0.0), edges=EDGES, key=KEY),
        "add up to at most 1",
    ),
    "dimensions": (lambda: ss.compare_laws(normal(30), pairs(30, 0.0), key=KEY), "one space"),
    "expected": (
        lambda: ss.compare_law(normal(30), stats.norm, key=KEY, expected="no"),
        "expected must be",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    """Samples and predictions that are no laws, each with its reason."""
    request, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        request()
