"""Every option is checked before the first run."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.side_by_side import ensembles
from sde_sgd.side_by_side.options import (
    check_distances,
    check_resolution,
    check_snapshots,
    check_step_check,
)

INPUTS = normal(0, 16, 2)
LANDSCAPE = ss.LeastSquares(INPUTS, INPUTS[:, 0])
SAMPLING = ss.WithReplacement(4)
SGD = ss.SGD(LANDSCAPE, 0.2, SAMPLING)
SDE = ss.ModifiedEquation(LANDSCAPE, 0.2, ss.MinibatchNoise(SAMPLING), substeps=2)


@pytest.fixture
def attempt(monkeypatch):
    """side_by_side with other options, in which no run may begin."""

    def run(*arguments, **options):
        raise AssertionError("a run has begun")

    monkeypatch.setattr(ensembles, "simulate", run)

    def call(sde=SDE, **changed):
        options = {"num_steps": 4, "ensemble_size": 8, "key": jr.key(0)} | changed
        ss.side_by_side(SGD, sde, jnp.zeros(2), **options)

    return call


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distances": ("energy", "energy")}, "names one twice"),
        ({"num_bootstrap": 1}, "num_bootstrap must be an integer ≥ 2; got 1"),
        ({"resolution": {"los": 0.1}}, r"no observable: \['los'\]; there are \['loss'\]"),
        ({"resolution": {"loss": -1.0}}, r"resolution\['loss'\] must be a finite number > 0"),
        ({"snapshots": 0}, "snapshots must be an integer ≥ 1"),
        ({"snapshots": [1, 9]}, r"which of 0, ..., 4"),
        ({"observables": {"theta": lambda x: x}}, "must be scalar"),
        ({"observables": {"a/b": jnp.sum}}, "without '/'"),
        ({"observables": {"a": jnp.sum, "a_mean": jnp.sum}}, "two variables 'a_mean'"),
        ({"observables": {"sliced_floor": jnp.sum}}, "two variables 'sliced_floor'"),
        ({"measures": {"positions": ss.Moments()}}, "comparison's own"),
        ({"step_check": True}, "fraction in"),
        ({"substeps": 0}, "substeps must be an integer"),
        ({"substeps": "auto", "step_check": 0}, "needs the check"),
        ({"budget": -1.0}, "budget must be"),
        ({"checkpoint": __file__}, "is a file: a comparison has several runs"),
        ({"checkpoint": "/nowhere/at/all"}, "does not exist: create it"),
    ],
)
def test_wrong_options_are_refused_before_the_first_run(attempt, changed, message):
    """A ValueError names the value and the way out; nothing has run."""
    with pytest.raises(ValueError, match=message):
        attempt(**changed)


def test_options_of_a_wrong_type_are_told_as_well():
    """Where annotations are not checked, the library's own message says what was meant."""
    wrong = [
        (check_distances, ("energy",), "tuple of names"),
        (check_distances, (("euclidean",),), "each of distances must be one of .* got 'euclidean'"),
        (check_resolution, (0.1, {"loss": None}), "dictionary by observable"),
        (check_resolution, ({"loss": "small"}, {"loss": None}), "must be a number; got 'small'"),
        (check_snapshots, ([1.5], 4), r"which of 0, ..., 4"),
        (check_snapshots, (2.5, 4), "must be an integer ≥ 1; got 2.5"),
        (check_step_check, ("half",), "fraction in"),
    ]
    for check, arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            check(*arguments)


def test_an_unknown_option_is_named(attempt):
    """A TypeError, as of any function, before the first run."""
    with pytest.raises(TypeError, match="no option 'chunks'"):
        attempt(chunks=3)


def test_an_equation_that_cannot_run_is_refused_before_sgd_has_run(attempt):
    """One step of η h = .2·(2/.2 + …) overshoots for ever: Euler's bound is 2/substeps of λ_max."""
    sharp = ss.LeastSquares(10 * INPUTS, INPUTS[:, 0])
    sgd = ss.SGD(sharp, 0.2, SAMPLING)
    sde = ss.ModifiedEquation(sharp, 0.2, ss.MinibatchNoise(SAMPLING), substeps=1)
    with pytest.raises(ValueError, match="ModifiedEquation"):
        ss.side_by_side(sgd, sde, jnp.zeros(2), num_steps=4, ensemble_size=8, key=jr.key(0))


def test_start_and_end_are_among_the_snapshots():
    """A number of times, even in √k, or those given, between 0 and num_steps."""
    assert check_snapshots(3, 9) == [0, 1, 4, 9]
    assert check_snapshots([5], 9) == [0, 5, 9]
    assert check_snapshots(np.array([7, 3]), 9) == [0, 3, 7, 9]
    assert check_snapshots((), 9) == [0, 9]
