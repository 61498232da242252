"""`ss.validity_scan`: D over batch sizes and learning rates, against closed forms."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from test_runs_that_pass import stationary_distance
from test_validity import LANDSCAPE

import sde_sgd as ss

SGD = ss.SGD(LANDSCAPE, 0.1, ss.WithReplacement(4))
OPTIONS = {"num_steps": 400, "num_paths": 2, "explore_steps": 2, "progress": False}


def scan(**options):
    options = {"batch_sizes": [1, 8, 2], "learning_rates": [0.05, 0.4, 0.2]} | OPTIONS | options
    return ss.validity_scan(LANDSCAPE, SGD, jnp.zeros(1), key=jr.key(0), **options)


@pytest.mark.parametrize("explored", ["once", "each"])
def test_scan_is_the_closed_form(explored):
    """D(η, B) on ½z² in the stationary state; the run's own η and B are on the grid."""
    found = scan(explored=explored)
    assert found.learning_rates.tolist() == [0.05, 0.1, 0.2, 0.4]
    assert found.batch_sizes.tolist() == [1, 2, 4, 8]
    exact = [[stationary_distance(eta, b) for eta in found.learning_rates] for b in (1, 2, 4, 8)]
    np.testing.assert_allclose(found.distances, exact, rtol=1e-3)
    assert found.errors.max() < 1e-9
    assert (found.states == np.where(np.array(exact) <= 0.1, "valid", "not valid")).all()
    assert found.causes[-1, -1].startswith("finite learning rate")


def test_batch_limit_and_linear_scaling():
    """Passing batches of every η; the diagonal (κη, κB) of the grid."""
    found = scan()
    limit = found.batch_limit
    assert limit["largest"].values[0] == 8 and limit["least"].values[0] == 1
    assert np.isnan(limit["largest"].values[-1])
    line = found.linear_scaling()
    assert line["kappa"].values.tolist() == [0.5, 1.0, 2.0]
    exact = [stationary_distance(0.1 * k, 4 * k) for k in (0.5, 1, 2)]
    np.testing.assert_allclose(line["distance"], exact, rtol=1e-3)


def test_scan_table_figure_and_file(tmp_path):
    """Marks in the table, two panels and a colour bar, the same numbers from disk."""
    found = scan()
    assert "✓" in found.table and "✗" in found.table
    assert len(found.figure().axes) == 3
    found.save(tmp_path / "scan.nc")
    data = ss.load(tmp_path / "scan.nc")
    np.testing.assert_array_equal(data["distance"], found.distances)
    assert data.attrs["batch_size"] == 4 and data.attrs["explored"] == "once"


def test_what_has_no_sde_is_infinite():
    """Steps that overshoot and batches of all examples without replacement: D = ∞, with a cause."""
    sgd = ss.SGD(LANDSCAPE, 0.1, ss.WithoutReplacement(4))
    found = ss.validity_scan(
        LANDSCAPE, sgd, jnp.zeros(1), key=jr.key(0), batch_sizes=[64], learning_rates=[2.5],
        **OPTIONS,
    )  # fmt: skip
    assert np.isinf(found.distances[:, 1]).all() and np.isinf(found.distances[1]).all()
    assert found.causes[0, 1] == "steps overshoot" and found.causes[1, 0].startswith("batches have")
    assert np.isfinite(found.distances[0, 0]) and found.figure().axes


def test_bad_grids_are_refused():
    """Sizes and rates out of range, and an unknown way to explore, with the way out."""
    for options, match in (
        ({"batch_sizes": [0, 4]}, "from 1 to N = 64"),
        ({"batch_sizes": [1.5]}, "must be integers"),
        ({"learning_rates": [-0.1]}, "finite numbers > 0"),
        ({"learning_rates": []}, "finite numbers > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            scan(**options)
