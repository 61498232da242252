"""A random number depends on key, iteration and member, and on nothing about the computation."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.simulate.driver import Engine

# Rounding of one step is 1e-16; on a contracting landscape it does not grow.
CLOSE = dict(rtol=1e-9, atol=1e-12)
MEMBERS, STEPS = 10, 120


def least_squares():
    inputs, noise = normal(1, 16, 3), normal(2, 16)
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -2.0, 0.5]) + 0.5 * noise)


def logistic():
    labels = (normal(5, 16) < 0).astype(int)
    return ss.LogisticRegression(normal(4, 16, 2), labels, num_classes=2, l2=0.1)


LANDSCAPES = {"least squares": least_squares, "logistic": logistic}
PROCESSES = {
    "SGD": lambda landscape: ss.SGD(landscape, 0.1, ss.WithReplacement(4)),
    "reshuffled with momentum": lambda landscape: ss.SGD(
        landscape, 0.05, ss.RandomReshuffling(5), momentum=0.7
    ),
    "SDE": lambda landscape: ss.ModifiedEquation(
        landscape, 0.1, ss.MinibatchNoise(ss.WithReplacement(4)), substeps=2
    ),
}
VARIATIONS = {
    "recorded often": dict(record_every=7),
    "chunks of 3": dict(chunk_size=3),
    "one device": dict(devices=1),
    "two devices": dict(devices=2),
    "four devices in chunks": dict(devices=4, chunk_size=4),
    "all together": dict(devices=2, chunk_size=4, record_every=50),
}


def start(key):
    return jr.normal(key, (3,))


def simulate(process, members=MEMBERS, key=6, **options):
    return ss.simulate(
        process,
        start,
        num_steps=STEPS,
        ensemble_size=members,
        key=jr.key(key),
        measures={"moments": ss.Moments(burn_in=10)},
        **options,
    )


@pytest.mark.parametrize("landscape", LANDSCAPES)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_computation_changes_no_random_number(process, landscape):
    """θ_k(key, member) is the same for other recording intervals, chunks and devices."""
    made = PROCESSES[process](LANDSCAPES[landscape]())
    reference = simulate(made)
    assert np.ptp(reference.positions, axis=0).min() > 1e-3
    # Devices and chunks are the engine's business: one process is enough for each alone.
    some = "four devices in chunks" if landscape == "least squares" else "all together"
    alone = process == "SGD" and landscape == "least squares"
    names = VARIATIONS if alone else (some,)
    for name in names:
        run = simulate(made, **VARIATIONS[name])
        np.testing.assert_allclose(run.positions, reference.positions, **CLOSE, err_msg=name)
        for field in ("mean", "covariance"):
            ours, theirs = getattr(run["moments"], field), getattr(reference["moments"], field)
            np.testing.assert_allclose(ours.value, theirs.value, **CLOSE, err_msg=name)
            np.testing.assert_allclose(
                ours.standard_error, theirs.standard_error, **CLOSE, err_msg=name
            )


@pytest.mark.parametrize("process", PROCESSES)
def test_members_do_not_depend_on_the_size_of_the_ensemble(process):
    """The first 10 members of 300 are the 10 members of 10."""
    made = PROCESSES[process](least_squares())
    few, many = simulate(made), simulate(made, members=300)
    np.testing.assert_allclose(many.positions[:MEMBERS], few.positions, **CLOSE)
    distinct = np.unique(many.positions.round(9), axis=0)
    assert len(distinct) == 300


def test_records_do_not_depend_on_their_interval():
    """θ_k recorded every 7 iterations is every seventh θ_k recorded at each."""
    made = PROCESSES["SGD"](least_squares())
    every, seventh = simulate(made, record_every=1), simulate(made, record_every=7)
    np.testing.assert_array_equal(every.records[0], np.arange(STEPS + 1))
    np.testing.assert_array_equal(seventh.records[0], np.arange(0, STEPS + 1, 7))
    np.testing.assert_allclose(every.records[1][::7], seventh.records[1], **CLOSE)
    np.testing.assert_array_equal(every.records[1][-1], every.positions)


def test_another_key_is_another_run():
    """Control: another key moves every member by far more than the tolerance."""
    made = PROCESSES["SGD"](least_squares())
    apart = np.abs(simulate(made, key=6).positions - simulate(made, key=7).positions)
    assert apart.max(axis=1).min() > 1e-3


def test_identities_by_place_in_the_chunk_are_seen(monkeypatch):
    """Control: numbers keyed by the place in a chunk fail the comparison of chunks."""
    made = PROCESSES["SGD"](least_squares())
    reference = simulate(made)
    scatter = Engine._scatter

    def by_place(self, theta):
        chunks = scatter(self, theta)
        return [type(c)(jnp.arange(len(c.identity), dtype=jnp.uint32), *_rest(c)) for c in chunks]

    monkeypatch.setattr(Engine, "_scatter", by_place)
    wrong = simulate(made, chunk_size=4)
    np.testing.assert_allclose(wrong.positions[:4], reference.positions[:4], **CLOSE)
    assert np.abs(wrong.positions[4:] - reference.positions[4:]).max(axis=1).min() > 1e-3


def _rest(members):
    return members.start, members.state, members.carries, members.diverged_at
