"""`ss.validity` in one call: predicted distances against exact laws, verdicts, SVAG, bad input."""

import itertools

import closed_forms
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.special import gamma, ndtri

import sde_sgd as ss
from sde_sgd.validity.checks import check_run
from sde_sgd.validity.local_model import LocalModel, Settings
from sde_sgd.validity.rule import decide, View, watch
from sde_sgd.validity.svag_gap import svag_gaps

FAILURE_RATE = 2e-5
# 64 tilts at the quantiles of a Gaussian: noise of almost no kurtosis.
TILTS = ndtri((np.arange(64) + 0.5) / 64)


def quadratic(tilts=TILTS, curvature=1.0):
    energy = ss.landscapes.QuadraticEnergy(curvature * jnp.eye(1), jnp.zeros(1))
    return ss.Potential(energy, tilts=np.asarray(tilts, float)[:, None])


LANDSCAPE = quadratic()


def verdict(landscape=LANDSCAPE, rate=0.05, sampling=None, momentum=0.0, theta=None, **options):
    sgd = ss.SGD(landscape, rate, sampling or ss.WithReplacement(4), momentum)
    theta = jnp.zeros(landscape.dimension) if theta is None else theta
    options = {"num_steps": 200, "svag": (), "num_paths": 2, "explore_steps": 2} | options
    return ss.validity(landscape, sgd, theta, key=jr.key(0), **options)


def two_point_law(rate, steps):
    """Every value of z_K under noise ±1 on ½z², and the SDE's standard deviation."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=steps)))
    values = -signs @ (rate * (1 - rate) ** np.arange(steps)[::-1])
    variance = rate * (1 - np.exp(-2 * rate * steps)) / 2
    return values, np.sqrt(variance)


def watched(slopes, settings, sampling, curvature=1.0):
    model = LocalModel(np.asarray(slopes)[:, None], np.full((len(slopes), 1, 1), curvature))
    return watch(View.of(model, ("u",), np.eye(1), len(slopes)), settings, sampling)[0]


def two_point_distance(rate, steps=14):
    """D predicted and D exact, W₂ between the quantiles of 2¹⁴ paths and of the SDE's Gaussian."""
    values, spread = two_point_law(rate, steps)
    found = watched([-1.0, 1.0], Settings(rate, 1.0, 0.0, steps), ss.WithReplacement(1))
    assert found.spread == pytest.approx(spread, rel=1e-9)
    exact = np.mean(values**4) / np.mean(values**2) ** 2 - 3
    assert found.shares.tails * np.sqrt(24) == pytest.approx(exact, rel=1e-9)
    assert found.shares.rate == pytest.approx(2 * (values.std() / spread - 1), rel=1e-9)
    quantiles = spread * ndtri((np.arange(len(values)) + 0.5) / len(values))
    distance = 2 * np.sqrt(np.mean((np.sort(values) - quantiles) ** 2)) / spread
    return found.shares, distance


def test_distance_of_two_point_noise():
    """Variance and kurtosis of all 2¹⁴ paths exactly; D to first order, so better at small η."""
    (shares, exact), (small, small_exact) = two_point_distance(0.25), two_point_distance(0.08)
    off, small_off = shares.distance / exact - 1, small.distance / small_exact - 1
    assert abs(off) < 0.2 and abs(small_off) < 0.5 * abs(off)
    # Control: neither the variance nor the tails alone are D.
    assert max(abs(shares.rate), abs(shares.tails)) < 0.8 * exact


def test_skewness_of_one_sided_noise():
    """Skewness of z after 5 steps of noise (−1, −1, 2) against all 3⁵ paths; its sign too."""
    rate, steps = 0.3, 5
    noise = np.array(list(itertools.product([-1.0, -1.0, 2.0], repeat=steps)))
    values = -noise @ (rate * (1 - rate) ** np.arange(steps)[::-1])
    exact = np.mean(values**3) / np.mean(values**2) ** 1.5
    found = watched([-1.0, -1.0, 2.0], Settings(rate, 1.0, 0.0, steps), ss.WithReplacement(1))
    assert found.shares.skewness == pytest.approx(np.sqrt(2) / 3 * exact, rel=1e-9)
    assert exact < -0.1


def test_shares_of_epochs_and_of_a_slope():
    """Variance of epochs by theory's closed form; a mean that moves 2δ off, by both recursions."""
    rate, size, num = 0.1, 16, 64
    settings = Settings(rate, (num - size) / (size * (num - 1)), 0.0, 400)
    found = watched(TILTS, settings, ss.RandomReshuffling(size))
    noise = settings.noise_factor * TILTS.var()
    epochs = ss.theory.stationary.epoch_covariance(
        [[1.0]], [[noise]], learning_rate=rate, batches_per_epoch=4
    ).epoch_end[0, 0]
    spread = rate * noise / 2
    together = found.shares.rate + found.shares.epochs
    assert together == pytest.approx(2 * (np.sqrt(epochs / spread) - 1), rel=1e-6)
    assert found.correlation == pytest.approx(-1 / 3, rel=1e-12)

    steps, slope = 5, 2.0
    moved = watched(TILTS + slope, settings._replace(num_steps=steps), ss.WithReplacement(size))
    sgd, sde = (-slope * (1 - x) for x in ((1 - rate) ** steps, np.exp(-rate * steps)))
    assert moved.shares.mean == pytest.approx(2 * (sgd - sde) / moved.spread, rel=1e-9)


def test_rule():
    """D ± 2 errors against the tolerance: valid, not valid, undecided; infinity is not valid."""
    assert decide(0.08, 0.01, 0.1, "x").startswith("valid")
    assert decide(0.13, 0.01, 0.1, "x").startswith("not valid")
    assert decide(0.09, 0.01, 0.1, "x").startswith("undecided")
    assert decide(np.inf, np.inf, 0.1, "x").startswith("not valid")


def test_one_call():
    """ηλ = .05 is valid, .5 and epochs are not; momentum too; table, figure, reasons, norms."""
    good = verdict()
    assert good.valid and "finite learning rate" in good.verdict
    assert float(good.distance.standard_error) == pytest.approx(0, abs=1e-12)
    assert good.rate_correction(good.sharpness) == pytest.approx(1 / 0.975 - 1)
    assert good.noise_norm == pytest.approx(TILTS.std() / 2)
    assert good.growth == pytest.approx(0.95, rel=1e-9)
    for text in ("κ", "kurtosis", "growth", "valid: predicted"):
        assert text in good.table
    assert len(good.figure().axes) == 4
    bad = verdict(rate=0.5)
    assert bad.valid is False and "finite learning rate" in bad.verdict
    shuffled = verdict(sampling=ss.RandomReshuffling(4))
    assert shuffled.valid is False and "epochs" in shuffled.verdict
    heavy = verdict(momentum=0.5)
    # Heavy ball has the variance of the underdamped SDE over 1 − ηh/(2(1+μ)).
    assert heavy.valid and heavy.worst.shares.rate == pytest.approx(
        2 * (1 / np.sqrt(1 - 0.05 / 3) - 1), rel=1e-6
    )
    assert verdict(rate=1.9, theta=jnp.full(1, 1e-3)).valid is False


def test_linear_scaling_limit():
    """The κ at which D(κη) = tolerance, from the stationary laws in closed form, to one example."""
    size, rate = 4, 0.01
    found = verdict(rate=rate, num_steps=4000).scaling
    kurtosis = np.mean(TILTS**4) / TILTS.var() ** 2 - 3

    def distance(batch):
        x = rate * batch / size
        decay = 1 - x
        spread = 2 * (1 / np.sqrt(1 - x / 2) - 1)
        tails = kurtosis / batch * (1 - decay**2) / (1 + decay**2)
        return np.hypot(spread, tails / np.sqrt(24))

    last = max(b for b in range(1, 65) if distance(b) <= 0.1)
    assert abs(found.high * size - last) <= 1 and 4 < last <= 64
    index = np.flatnonzero(found.values * size == 64)[0]
    assert found.distances[index] == pytest.approx(distance(64), rel=1e-3)


def test_scaling_compares_at_equal_time():
    """D(κ) of the laws after K/κ steps of κη, batch κB, in the transient ηK = 1.6: with x = κη,
    Var = x²Σ(1−x)^{2j} against (x/2)(1 − e^{−2·1.6}), tails κ₄ Σ(1−x)^{4j}/(Σ(1−x)^{2j})²."""
    size, rate, steps = 4, 0.01, 160
    found = verdict(rate=rate, num_steps=steps).scaling
    excess = np.mean(TILTS**4) / TILTS.var() ** 2 - 3

    def distance(batch, steps):
        x = rate * batch / size
        power = (1 - x) ** (2 * np.arange(steps))
        variance, sde = x**2 * power.sum(), x / 2 * -np.expm1(-2 * x * steps)
        tails = excess / batch * (power**2).sum() / power.sum() ** 2
        return np.hypot(2 * (np.sqrt(variance / sde) - 1), tails / np.sqrt(24))

    for batch in (4, 64):
        index = np.flatnonzero(np.isclose(found.values * size, batch))[0]
        exact = distance(batch, steps * size // batch)
        assert found.distances[index] == pytest.approx(exact, rel=1e-6)
    assert abs(distance(64, steps) / exact - 1) > 0.01  # Control: equal iterations.


def test_anharmonic_landscape_is_explored():
    """At the top of x⁴/4 the Hessian is 0; the explored paths know 3E x² of p ∝ e^{−x⁴/(4D)}."""
    flat = ss.Potential(lambda x: 0.25 * jnp.sum(x**4), tilts=TILTS[:, None])
    found = verdict(flat, rate=0.1, num_paths=256, explore_steps=400)
    assert found.sharpness == pytest.approx(0, abs=1e-12)
    diffusion = 0.1 * TILTS.var() / 4 / 2
    exact = 3 * 2 * np.sqrt(diffusion) * gamma(0.75) / gamma(0.25)
    # 512 positions with a relative spread of 1.1 each: four errors are a fifth.
    assert found.worst.curvature == pytest.approx(exact, rel=0.25)
    assert 0 < float(found.distance.standard_error) < 0.1


def test_svag_gap_against_exact_moments():
    """E(u·δ)² of SGD and SVAG(2) after 12 steps on least squares: Euler's at h = η and η/2."""
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(12, 2)), rng.normal(size=12)
    landscape = ss.LeastSquares(inputs, targets)
    theta, rate, steps = landscape.minimum(), 0.5, 12
    unit = np.array([1.0, 0.0])
    sgd = ss.SGD(landscape, rate, ss.WithReplacement(4))
    gaps = svag_gaps(sgd, theta, unit, (2,), num_steps=steps, members=32768, key=jr.key(1))
    gap = gaps["squared displacement"][2]

    def exact(step):
        moments = closed_forms.transient(
            inputs,
            targets,
            learning_rate=rate,
            noise_factor=0.25,
            time_step=step,
            times=[rate * steps],
            theta0=np.asarray(theta),
        )
        return moments.covariance[0, 0, 0]

    ratio = exact(rate) / exact(rate / 2) - 1
    assert ss.compare(gap, ratio, failure_rate=FAILURE_RATE).verdict == "agrees"
    # Control: the gap to the SDE itself, which is about twice as large.
    wrong = exact(rate) / exact(0.0) - 1
    assert ss.compare(gap, wrong, failure_rate=FAILURE_RATE).verdict == "disagrees"


def test_bad_input():
    """What validity cannot judge is refused with the value and the way out."""
    other = quadratic()
    sgd = ss.SGD(LANDSCAPE, 0.1, ss.WithReplacement(4))
    zero = jnp.zeros(1)

    def refused(match, landscape=LANDSCAPE, process=sgd, theta=zero, **options):
        with pytest.raises(ValueError, match=match):
            ss.validity(landscape, process, theta, key=jr.key(0), **options)

    refused(r"theta must have shape \(1,\)", theta=jnp.zeros(2))
    refused("not finite", theta=jnp.array([jnp.nan]))
    refused("another landscape", landscape=other)
    optax_sgd = ss.OptaxSGD(LANDSCAPE, optax.adam(0.1), ss.WithReplacement(4))
    refused("SDE of OptaxSGD holds; it knows ss.SGD", process=optax_sgd)
    adam = ss.AdaptiveEquation(LANDSCAPE, ss.Adam(0.1), ss.MinibatchNoise(sgd.sampling))
    refused("SDE of AdaptiveEquation .* it knows ss.SGD", process=adam)
    refused("above stability", process=ss.SGD(LANDSCAPE, 2.5, ss.WithReplacement(4)))
    refused("constant learning rate", process=ss.SGD(LANDSCAPE, lambda k: 0.1, sgd.sampling))
    refused("no gradient noise", process=ss.SGD(LANDSCAPE, 0.1, ss.WithoutReplacement(64)))
    refused("tolerance", tolerance=0.0)
    refused("svag must be an integer ≥ 2; got 1", svag=(1, 4))
    model = eqx.nn.Linear(1, 1, key=jr.key(0))
    # Annotations are checked in tests; a user without them meets these words.
    with pytest.raises(ValueError, match=r"theta is a model .Linear.*landscape\.initial"):
        check_run(LANDSCAPE, sgd, model)
    with pytest.raises(ValueError, match=r"a model alone has no loss.*ss\.EmpiricalRisk"):
        check_run(model, sgd, zero)
    refused("num_paths must be an integer ≥ 2; got 1", num_paths=1)
    refused("directions must have shape", directions=np.ones(1))
    population = ss.landscapes.PopulationLeastSquares(jnp.eye(1), 1.0)
    refused("population", landscape=population, process=ss.SGD(population, 0.1, sgd.sampling))
