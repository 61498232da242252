"""Occupation against recorded trajectories, a two-state chain, exact binomial intervals."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss
from sde_sgd.theory.laws import MasterEquation

FAILURE_RATE = 2e-5


def side(theta):
    return (theta[0] > 0).astype(int)


def cores(theta):
    return jnp.where(jnp.abs(theta[0]) < 0.5, -1, (theta[0] > 0).astype(int))


def well(sigma=1.3):
    return ss.double_well(sigma**2)


def simulate(process, measure, num_steps=60, members=40, key=0, **options):
    return ss.simulate(
        process,
        options.pop("start", jnp.array([-1.0])),
        num_steps=num_steps,
        ensemble_size=members,
        key=jr.key(key),
        measures={"where": measure},
        **options,
    )


@pytest.mark.parametrize("label", [side, cores])
@pytest.mark.parametrize("burn_in, every", [(0, 1), (11, 3)])
def test_against_the_trajectory(label, burn_in, every):
    """Weights, transitions, rates and last basins, counted again from every recorded position."""
    process = ss.SGD(well(), 0.4, ss.WithReplacement(1))
    measure = ss.Occupation(label, 2, burn_in=burn_in, every=every)
    run = simulate(process, measure, record_every=1)
    found, (_, path) = run["where"], run.records
    looks = [k for k in range(1, 61) if k > burn_in and (k - burn_in) % every == 0]
    inside, held, moves = np.zeros((40, 2)), np.zeros((40, 2)), np.zeros((40, 2, 2))
    final = []
    for i in range(40):
        last = int(label(jnp.asarray(path[0, i]))) if burn_in == 0 else -1
        x = path[:, i, 0]
        labels = np.where(x > 0, 1, 0)
        if label is cores:
            labels = np.where(np.abs(x) < 0.5, -1, labels)
        for k in looks:
            now = labels[k]
            if last >= 0:
                held[i, last] += every
            if now >= 0:
                inside[i, now] += 1
                if last >= 0 and last != now:
                    moves[i, last, now] += 1
                last = now
        final.append(last)
    np.testing.assert_allclose(found.weights.value, (inside / len(looks)).mean(0), rtol=1e-12)
    error = (inside / len(looks)).std(0, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(found.weights.standard_error, error, rtol=1e-9)
    np.testing.assert_array_equal(found.transitions, moves.sum(0))
    np.testing.assert_array_equal(found.final, final)
    assert moves.sum() > 20 and found.num_looks == len(looks)
    rate = moves.sum(0) / held.sum(0)[:, None]
    np.testing.assert_allclose(found.rates.value, rate, rtol=1e-12)
    np.testing.assert_array_equal(found.selected, [final.count(0), final.count(1)])


def test_what_is_in_no_basin_is_shown():
    """Three members rest at −1, 0 (in no core) and 1: shares ⅓ and ⅓, elsewhere ⅓, one unselected.

    Σ weights + elsewhere = 1 and Σ selected + unselected = members.
    """
    process = ss.SGD(ss.double_well(0.0), 0.1, ss.WithReplacement(1))
    start = jnp.array([[-1.0], [0.0], [1.0]])
    found = simulate(process, ss.Occupation(cores, 2), 4, 3, start=start)["where"]
    np.testing.assert_allclose(found.weights.value, [1 / 3, 1 / 3])
    np.testing.assert_allclose(found.elsewhere.value, 1 / 3)
    np.testing.assert_allclose(found.elsewhere.standard_error, 1 / 3)  # sd √⅓ over √3
    np.testing.assert_array_equal(found.selected, [1, 1])
    assert found.unselected == 1
    np.testing.assert_array_equal(found.final, [0, -1, 1])


def test_a_new_life_is_no_transition():
    """Members leave basin 0 for 1 and begin again in 0: transitions 0 → 1, and none 1 → 0."""
    measure = ss.Occupation(side, 2)
    run = ss.simulate(
        ss.SGD(well(), 0.4, ss.WithReplacement(1)),
        jnp.array([-1.0]),
        num_steps=60,
        ensemble_size=40,
        key=jr.key(0),
        measures={"where": measure, "out": ss.FirstPassage(lambda x: x[0] > 0)},
        refill=True,
    )
    moves = run["where"].transitions
    assert moves[0, 1] > 20 and moves[1, 0] == 0


@pytest.mark.parametrize("kind", ["sgd", "sde"])
def test_selection_against_exact_values(kind):
    """P(x_K > 0) after K = 40 steps from −.5: SGD's master equation, the SDE's grid."""
    eta, steps = 0.25, 40
    landscape = ss.Potential(
        lambda x: (x[0] ** 2 - 1) ** 2 / 4, tilts=jnp.array([[1.0], [-1.0], [2.0], [-2.0]])
    )
    sampling = ss.WithReplacement(1)
    noise = ss.MinibatchNoise(sampling)
    sgd = ss.SGD(landscape, eta, sampling)
    gaussian = ss.GaussianSGD(landscape, eta, noise)
    process = sgd if kind == "sgd" else gaussian
    master = MasterEquation(process, (-5.0, 5.0), 1000, mass_tolerance=1e-4)
    (end,) = master.propagate(-0.5, [steps], **({} if kind == "sde" else {"on_grid": True}))
    exact = 1 - float(end.cdf(0.0))
    run = simulate(process, ss.Occupation(side, 2), steps, 16384, start=jnp.array([-0.5]))
    found = run["where"].selection[1]
    assert found.standard_error < 0.01 * 0.5
    verdict = ss.compare(found, exact, resolution=None, failure_rate=FAILURE_RATE)
    assert verdict.verdict == "agrees"
    wrong = ss.compare(found, 1 - exact, failure_rate=FAILURE_RATE)  # control
    assert wrong.verdict == "disagrees"


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson"])
def test_intervals_against_scipy(method):
    """Both intervals as scipy's `binomtest` has them, k = 0 … n."""
    for k in (0, 1, 7, 19, 20):
        low, high = ss.measure.binomial_interval(k, 20, 0.9, method)
        name = "exact" if method == "clopper-pearson" else "wilson"
        expected = stats.binomtest(k, 20).proportion_ci(0.9, name)
        np.testing.assert_allclose([low, high], expected, atol=1e-12)


def test_selection_error_is_never_zero():
    """Nobody crossed: the error is that of half a member, and the interval is not empty."""
    run = simulate(ss.SGD(well(0.1), 0.1, ss.WithReplacement(1)), ss.Occupation(side, 2), 5, 16)
    found = run["where"]
    np.testing.assert_array_equal(found.selected, [16, 0])
    assert (found.selection.standard_error > 0).all()
    low, high = found.interval(0.95, "clopper-pearson")
    assert high[1] == pytest.approx(1 - 0.025 ** (1 / 16), rel=1e-9) and low[1] == 0
    assert found.transitions.sum() == 0 and found.rates.standard_error[0, 1] == 1 / 80


BAD = [
    (lambda: ss.Occupation(side, 0), "num_basins"),
    (lambda: run_with(ss.Occupation(lambda x: x[0], 2)), "one integer"),
    (lambda: run_with(ss.Occupation(lambda x: x > 0, 2)), "one integer"),
    (lambda: run_with(ss.Occupation(lambda x: jnp.where(x[0] < 0, 2, 0), 2)), "num_basins=2"),
    (lambda: run_with(ss.Occupation(side, 2, burn_in=9)), "burn_in=9"),
    (lambda: ss.measure.binomial_interval(3, 2), "0…2"),
    (lambda: ss.measure.binomial_interval(1, 2, 1.0), "confidence"),
    (lambda: ss.measure.binomial_interval(1, 2, 0.9, "wald"), "method"),  # pyright: ignore
]


def run_with(measure):
    return simulate(ss.SGD(well(), 0.1, ss.WithReplacement(1)), measure, 5, 4)


@pytest.mark.parametrize("call, match", BAD)
def test_refuses(call, match):
    """Labels that do not match, and numbers without meaning."""
    with pytest.raises((ValueError, TypeError), match=match):
        call()


@pytest.mark.parametrize("outside", [2, -2])
def test_a_label_beyond_the_basins_during_a_run(outside):
    """All start in basin 0; the flow leads to label 2 or −2: an error, not a count.

    It costs this measure, and not the rest of the run.
    """
    label = ss.Occupation(lambda x: jnp.where(jnp.abs(x[0]) < 0.6, 0, outside), 2)
    process = ss.SGD(well(), 0.1, ss.WithReplacement(1))
    with pytest.warns(UserWarning, match=r"measures\['where'\] has no result: label"):
        run = simulate(process, label, 40, 16, start=jnp.zeros(1))
    with pytest.raises(ValueError, match=f"was {outside}, in 16 members.*num_basins=2.*-1 … 1"):
        run["where"]
    assert run.complete and np.isfinite(run.positions).all()
