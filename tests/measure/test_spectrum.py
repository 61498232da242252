"""Levels, gaps and their increments: NumPy on the recorded trajectory, then exact laws."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import sde_sgd as ss

FAILURE_RATE = 2e-5
EDGES = np.linspace(0, 2.5, 26)
INJECTED: dict[str, Any] = dict(learning_rate=0.2, batch_size=4, noise=0.3, level=1.0)


def square(size):
    return lambda theta: theta.reshape(size, size)


def injected(size=2, covariance=None):
    """½|W − I|² with symmetric Gaussian noise, and SGD on it."""
    goal = jnp.eye(size).ravel()
    if covariance is None:
        covariance = ss.landscapes.symmetric_noise_covariance(size, INJECTED["noise"])
    landscape = ss.landscapes.GaussianTilts(lambda x: 0.5 * jnp.sum((x - goal) ** 2), covariance)
    return ss.SGD(landscape, INJECTED["learning_rate"], ss.WithReplacement(4)), goal


@functools.cache
def small():
    process, start = injected(3)
    return ss.simulate(
        process,
        start,
        num_steps=40,
        ensemble_size=64,
        key=jr.key(0),
        measures={
            "eigen": ss.Spectrum(square(3), edges=EDGES, burn_in=4, every=3),
            "gram": ss.Spectrum(lambda x: x[:6].reshape(2, 3), "gram"),
            "singular": ss.Spectrum(lambda x: x[:6].reshape(3, 2), "singular_values"),
            "moves": ss.ConditionalIncrements(
                lambda x: x[0] + x[4], np.linspace(1.6, 2.4, 5), burn_in=4, every=3
            ),
        },
        record_every=1,
    )


def recorded():
    """Positions (iterations + 1, members, d) of `small`."""
    records = small().records
    assert records is not None
    return records[1]


def test_levels_of_the_recorded_trajectory():
    """Levels, gaps, ⟨s²⟩/⟨s⟩², gap ratios and unfolded histograms equal NumPy's."""
    found, path = small()["eigen"], recorded()[7::3].reshape(-1, 64, 3, 3)
    levels = np.linalg.eigvalsh(path)
    gaps = np.diff(levels, axis=-1)
    np.testing.assert_allclose(found.levels.value, levels.mean((0, 1)), rtol=1e-12)
    variance = levels.var(0).mean(0) + levels.mean(0).var(0, ddof=1)
    np.testing.assert_allclose(found.level_variance.value, variance, rtol=1e-9)
    np.testing.assert_allclose(found.spacing.value, gaps.mean((0, 1)), rtol=1e-12)
    error = gaps.mean(0).std(0, ddof=1) / 8
    np.testing.assert_allclose(found.spacing.standard_error, error, rtol=1e-9)
    ratio = (gaps**2).mean((0, 1)) / gaps.mean((0, 1)) ** 2
    np.testing.assert_allclose(found.spacing_ratio.value, ratio, rtol=1e-12)
    quotient = gaps.min(-1) / gaps.max(-1)
    np.testing.assert_allclose(found.gap_ratio.value, quotient.mean(), rtol=1e-12)
    for j in range(2):
        share, _ = np.histogram(gaps[..., j], EDGES)
        np.testing.assert_allclose(found.probability.value[j], share / gaps[..., j].size)
        unfolded = EDGES / gaps[..., j].mean()
        np.testing.assert_allclose(found.unfolded_edges[j], unfolded, rtol=1e-12)
        np.testing.assert_allclose(
            found.density.value[j] * np.diff(unfolded), found.probability.value[j]
        )
    # The linearised error of a ratio of means is that of the jackknife, to second order.
    one, two = gaps[..., 0].mean(0), (gaps[..., 0] ** 2).mean(0)
    left = [np.delete(two, i).mean() / np.delete(one, i).mean() ** 2 for i in range(64)]
    jackknife = np.sqrt(63 / 64 * np.sum((np.array(left) - np.mean(left)) ** 2))
    np.testing.assert_allclose(found.spacing_ratio.standard_error[0], jackknife, rtol=0.05)


def test_the_variance_of_levels_of_few_members():
    """At one time the variance over n = 4 members is Σ(x − x̄)²/(n − 1), with the jackknife's error.

    Σ(x − x̄)²/n is 3/4 of it.
    """
    process, start = injected(2)
    run = ss.simulate(
        process,
        start,
        num_steps=1,
        ensemble_size=4,
        key=jr.key(3),
        measures={"levels": ss.Spectrum(square(2))},
    )
    levels = np.linalg.eigvalsh(np.asarray(run.positions).reshape(-1, 2, 2))
    found = run["levels"].level_variance
    np.testing.assert_allclose(found.value, levels.var(0, ddof=1), rtol=1e-9)
    left_out = np.array([np.delete(levels, i, 0).var(0, ddof=1) for i in range(4)])
    np.testing.assert_allclose(found.standard_error, np.sqrt(3 * left_out.var(0)), rtol=1e-9)


def test_kinds_of_levels():
    """ "gram" has squared singular values of either side, in increasing order."""
    path = recorded()[1:, :, :6]
    wide = np.linalg.svd(path.reshape(-1, 64, 2, 3), compute_uv=False)[..., ::-1]
    tall = np.linalg.svd(path.reshape(-1, 64, 3, 2), compute_uv=False)[..., ::-1]
    np.testing.assert_allclose(small()["gram"].levels.value, (wide**2).mean((0, 1)), rtol=1e-10)
    np.testing.assert_allclose(small()["singular"].levels.value, tall.mean((0, 1)), rtol=1e-10)
    assert small()["gram"].gap_ratio.num_samples == 0 and small()["gram"].probability is None
    matrix = np.random.default_rng(0).normal(size=(2, 2))
    pair = ss.measure.Levels(lambda x: x.reshape(2, 2), "eigenvalues")(
        jnp.asarray(matrix + matrix.T).ravel()
    )
    np.testing.assert_allclose(pair, np.linalg.eigvalsh(matrix + matrix.T), rtol=1e-12)
    # No levels rather than wrong ones, once a matrix stops being symmetric.
    assert np.isnan(ss.measure.Levels(lambda x: x.reshape(2, 2))(jnp.asarray(matrix).ravel())).all()


def test_increments_of_the_recorded_trajectory():
    """E[Δf | bin] and E[Δf² | bin] over counted iterations."""
    path = recorded()
    value = path[..., 0] + path[..., 4]
    before, after = value[:-1][6::3], value[1:][6::3]
    found = small()["moves"]
    place = np.digitize(before, np.linspace(1.6, 2.4, 5)) - 1
    for j in range(4):
        here = place == j
        change = (after - before)[here]
        np.testing.assert_allclose(found.where.value[j], before[here].mean(), rtol=1e-10)
        np.testing.assert_allclose(found.drift.value[j], change.mean(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.square.value[j], (change**2).mean(), rtol=1e-9)


@functools.cache
def pair(diagonal=False):
    law = ss.theory.matrices.InjectedNoiseLevels(**INJECTED)
    covariance = np.diag([0.18, 0, 0, 0.18]) if diagonal else None
    process, start = injected(2, covariance)
    gap = ss.measure.Levels(square(2))
    edges = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]) * law.mean_spacing
    return law, ss.simulate(
        process,
        start,
        num_steps=300,
        ensemble_size=1024,
        key=jr.key(3),
        measures={
            "levels": ss.Spectrum(square(2), edges=edges, burn_in=40),
            "moves": ss.ConditionalIncrements(lambda x: jnp.diff(gap(x))[0], edges, burn_in=40),
        },
    )


def test_levels_of_injected_noise_are_wigner():
    """⟨s⟩ = √π√(ην²/B)/√(1−η/2), ⟨s²⟩/⟨s⟩² = 4/π, every bin; diagonal noise has π/2 instead."""
    law, run = pair()
    found = run["levels"]
    limit = stats.norm.isf(FAILURE_RATE / 2 / 10)
    assert found.spacing.standard_error[0] < 5e-3 * law.mean_spacing
    assert abs(found.spacing.value[0] - law.mean_spacing) < limit * found.spacing.standard_error[0]
    ratio = found.spacing_ratio[0]
    assert abs(ratio.value - 4 / np.pi) < limit * ratio.standard_error < 0.05
    edges = found.unfolded_edges[0] * found.spacing.value[0] / law.mean_spacing
    exact = np.diff(ss.theory.matrices.wigner_surmise_cdf(edges))
    z = (found.probability.value[0] - exact) / found.probability.standard_error[0]
    assert np.abs(z).max() < limit
    wrong = pair(diagonal=True)[1]["levels"]
    ratio = wrong.spacing_ratio[0]
    assert abs(ratio.value - np.pi / 2) < limit * ratio.standard_error
    assert ratio.value - 4 / np.pi > 10 * ratio.standard_error
    assert wrong.density.value[0, 0] > 3 * found.density.value[0, 0]


def test_drift_and_diffusion_of_a_gap():
    """E[Δs | s], E[Δs² | s] are those of the exact transition; without repulsion they are not."""
    law, run = pair()
    found = run["moves"]
    where, drift, square_ = law.increments(found.edges)
    limit = stats.norm.isf(FAILURE_RATE / 2 / 16)
    for measured, exact in ((found.drift, drift), (found.square, square_)):
        assert (np.abs(measured.value - exact) < limit * measured.standard_error).all()
    bare = -INJECTED["learning_rate"] * where
    assert (found.drift.value - bare > 10 * found.drift.standard_error)[:4].all()


class Net(eqx.Module):
    layers: list
    offset: jnp.ndarray

    def __call__(self, x):
        return jnp.dot(self.layers[1].weight @ (self.layers[0].weight @ x), self.offset)


def test_weight_matrix_of_a_model():
    """θ ↦ the weight of a layer, and no vector, no landscape without a model."""
    first, second = jr.split(jr.key(0))
    net = Net(
        [eqx.nn.Linear(3, 4, False, key=first), eqx.nn.Linear(4, 2, False, key=second)], jnp.ones(2)
    )
    risk = ss.EmpiricalRisk(net, jnp.ones((5, 3)), jnp.ones(5), lambda a, b: (a - b) ** 2)
    matrix = ss.measure.weight_matrix(risk, lambda model: model.layers[1].weight)
    np.testing.assert_array_equal(matrix(risk.initial), net.layers[1].weight)
    with pytest.raises(ValueError, match=r"shape \(2,\), and only a matrix"):
        ss.measure.weight_matrix(risk, lambda model: model.offset)
    with pytest.raises(ValueError, match="Equinox model"):
        ss.measure.weight_matrix(injected()[0].landscape, lambda model: model)


def attempt(measure, start=None):
    process, goal = injected(2)
    ss.simulate(
        process,
        goal if start is None else start,
        num_steps=3,
        ensemble_size=2,
        key=jr.key(0),
        measures={"m": measure},
    )


BAD = {
    "vector": (lambda: attempt(ss.Spectrum(lambda x: x)), r"shape \(4,\)"),
    "one level": (lambda: attempt(ss.Spectrum(lambda x: x[None], "gram")), "one level"),
    "not square": (lambda: attempt(ss.Spectrum(lambda x: x[None])), "no eigenvalues"),
    "not symmetric": (
        lambda: attempt(ss.Spectrum(square(2)), jnp.arange(4.0)),
        "differs from its transpose by 1",
    ),
    "kind": (lambda: ss.measure.Levels(square(2), "trace"), "trace"),
    "edges": (lambda: ss.Spectrum(square(2), edges=[-1.0, 1.0]), "gaps are ≥ 0"),
    "schedule": (lambda: attempt(ss.Spectrum(square(2), burn_in=3)), "burn_in=3"),
    "scalar": (lambda: attempt(ss.ConditionalIncrements(lambda x: x, [0.0, 1.0])), "scalar"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError that says what has no spectrum, and what would do."""
    with pytest.raises(ValueError, match=match):
        make()
