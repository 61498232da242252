"""One iteration by hand: values on an edge, and values that are NaN, in measures that count."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.measure import Tick
from sde_sgd.random.draws import Draws


def after_one_iteration(measure, before, after):
    """The measure's result after one iteration of these members, (members, 1)."""
    alive = np.ones(len(before), bool)
    tick = Tick(jnp.uint32(1), jnp.uint32(0), Draws.create(jr.key(0), jnp.arange(len(before))))
    carry = measure.init(jnp.asarray(before))
    carry = measure.update(carry, jnp.asarray(before), jnp.asarray(after), tick, jnp.asarray(alive))
    return measure.result(jax.device_get(carry), alive, None)


def test_a_value_on_an_edge_begins_its_bin():
    """Bins [e_j, e_{j+1}): f = −1, 0, 1 fall into the bins that they begin, and f = 2 beyond."""
    measure = ss.ConditionalIncrements(lambda x: x[0], [-1.0, 0.0, 1.0, 2.0])
    before = np.array([[-1.0], [0.0], [1.0], [2.0], [-2.0]])
    found = after_one_iteration(measure, before, before + [[1.0], [2.0], [3.0], [4.0], [5.0]])
    np.testing.assert_array_equal(found.where.value, [-1, 0, 1])
    np.testing.assert_array_equal(found.drift.value, [1, 2, 3])
    np.testing.assert_array_equal(found.square.value, [1, 4, 9])


COUNTING = {
    "tails": (
        ss.measure.TailRatios([0.5, 1.0]),
        ["probability", "far_probability", "ratio", "index"],
    ),
    "increments": (ss.ConditionalIncrements(lambda x: x[0], [0.0, 1.0]), ["drift", "square"]),
    "histogram": (ss.Histogram([0.0, 1.0]), ["density", "probability", "above", "cumulative"]),
}


@pytest.mark.parametrize("name", COUNTING)
def test_a_value_that_is_not_a_number_shows(name):
    """NaN is below no level, above none and in no bin: estimates are NaN, errors infinite."""
    measure, fields = COUNTING[name]
    good = np.array([[0.3], [0.7], [0.9], [0.2]])
    bad = np.where(good == 0.9, np.nan, good)
    for values, known in ((good, True), (bad, False)):
        found = after_one_iteration(measure, values, values)
        for field in fields:
            estimate = getattr(found, field)
            assert np.isfinite(np.ravel(estimate.value)[0]) == known or field == "index"
            if not known:
                assert np.isnan(estimate.value).all() and np.isinf(estimate.standard_error).all()
