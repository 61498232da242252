"""Snapshots against the recorded trajectory."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.measure.base import increasing_integers

AT = [0, 1, 5, 12]


def simulate(measure, num_steps=12, **changes):
    process = ss.SGD(ss.quadratic(np.diag([1.0, 2.0]), 1.0), 0.2, ss.WithReplacement(2))
    options = dict(num_steps=num_steps, ensemble_size=5, key=jr.key(0), record_every=1)
    starts = normal(1, 5, 2)
    return ss.simulate(process, starts, measures={"s": measure}, **(options | changes))


def test_positions_at_chosen_iterations():
    """values[j] = θ at k = at[j], the start and the end among them, times ηk."""
    run = simulate(ss.Snapshots(AT))
    found = run["s"]
    np.testing.assert_array_equal(found.iterations, AT)
    np.testing.assert_allclose(found.times, 0.2 * np.array(AT))
    np.testing.assert_array_equal(found.values, run.records[1][AT])


def test_a_function_at_chosen_iterations():
    """f(θ_k), a scalar and a vector, for every member."""
    run = simulate(ss.Snapshots(AT, of=lambda x: jnp.sum(x)))
    np.testing.assert_allclose(run["s"].values, run.records[1][AT].sum(axis=-1), rtol=1e-14)
    run = simulate(ss.Snapshots([3], of=lambda x: jnp.concatenate([x, x**2])))
    theta = run.records[1][[3]]
    np.testing.assert_allclose(run["s"].values, np.concatenate([theta, theta**2], -1), rtol=1e-14)


def test_later_iterations_change_nothing():
    """A longer or extended run has the same snapshots."""
    reference = simulate(ss.Snapshots(AT))["s"].values
    np.testing.assert_array_equal(simulate(ss.Snapshots(AT), num_steps=40)["s"].values, reference)
    run = simulate(ss.Snapshots([0, 1, 5]), num_steps=6)
    before = run["s"].values
    np.testing.assert_array_equal(run.extend(30)["s"].values, before)
    np.testing.assert_array_equal(before, reference[:3])


@pytest.mark.parametrize("at", [[], [-1, 2], [2, 2], [3, 1]])
def test_iterations_must_increase(at):
    """`at` holds increasing integers ≥ 0."""
    with pytest.raises(ValueError, match="increasing integers ≥ 0|one iteration at least"):
        ss.Snapshots(at)


def test_one_iteration_is_a_number():
    """at=5 is at=[5]; other things than increasing integers ≥ 0 are refused by name."""
    np.testing.assert_array_equal(simulate(ss.Snapshots(5))["s"].values.shape, (1, 5, 2))
    assert ss.Snapshots(np.array([1.0, 2.0])).at == (1, 2)
    for at in ([2, 1], [-1], [0.5], [np.nan], [[1], [2]], [True]):
        with pytest.raises(ValueError, match="at must be increasing integers ≥ 0"):
            increasing_integers("at", at, 0)
    with pytest.raises(ValueError, match="one iteration at least"):
        ss.Snapshots([])
