"""The main job: what it runs, what it reports, what it refuses."""

import warnings

import closed_forms
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side import run as run_module
from sde_sgd.side_by_side.laws import Distances
from sde_sgd.side_by_side.rows import verdicts
from sde_sgd.side_by_side.sides import check_members, check_sides
from sde_sgd.side_by_side.step import next_check, StepErrors, substeps_needed, Visible

ETA = 0.2


@pytest.fixture(scope="module")
def problem():
    inputs = normal(0, 16, 2)
    landscape = ss.LeastSquares(inputs, inputs[:, 0] + 0.5 * np.cos(np.arange(16.0)))
    sampling = ss.WithReplacement(4)
    sgd = ss.SGD(landscape, ETA, sampling)
    sde = ss.ModifiedEquation(landscape, ETA, ss.MinibatchNoise(sampling), substeps=2)
    return landscape, sampling, sgd, sde


def test_reports_its_own_exact_discretisation_error(problem):
    """2·(coarse − fine) is the error of E L at h = η/2 against h → 0, up to O(h²)."""
    landscape, _, sgd, sde = problem
    theta0, steps = jnp.array([2.0, -1.0]), 10
    both = ss.side_by_side(
        sgd, sde, theta0, num_steps=steps, ensemble_size=8000, key=jr.key(1), snapshots=[steps],
        step_check=1.0, distances=("sliced",), num_bootstrap=2,
    )  # fmt: skip

    def loss(step):
        return exact_losses(landscape, ETA, 4, steps, theta0, step)

    error = both.observables["loss"].step_error
    assert error is not None
    # What 2·(coarse − fine) estimates, exactly, and what it stands for.
    estimated, true = 2 * (loss(ETA / 2) - loss(ETA / 4)), loss(ETA / 2) - loss(0.0)
    assert ss.compare(error[-1], estimated).verdict == "agrees"
    assert abs(estimated - true) < 0.35 * abs(true)
    assert ss.compare(error[-1], 0.5 * estimated).verdict == "disagrees"
    mean = both.observables["loss"].means
    assert ss.compare(mean["SDE"][-1], loss(ETA / 2)).verdict == "agrees"
    assert ss.compare(mean["SGD"][-1], loss(ETA)).verdict == "agrees"
    assert ss.compare(mean["SDE"][-1], loss(ETA)).verdict == "disagrees"


def test_figure_table_and_arrays(problem):
    """Axes carry names and a legend; arrays are labelled in k and t; rows are judged."""
    _, _, sgd, sde = problem
    both = ss.side_by_side(
        sgd, sde, jnp.zeros(2), num_steps=12, ensemble_size=32, key=jr.key(2),
        observables={"first": lambda x: x[0]}, distances=("sliced", "energy", "wasserstein"),
        num_bootstrap=20, measures={"moments": ss.Moments()}, resolution={"first": 0.5},
    )  # fmt: skip
    for axis in both.figure().axes:
        assert axis.get_xlabel() and axis.get_ylabel() and axis.get_legend() is not None
    data = both.to_xarray()
    np.testing.assert_allclose(data.t, ETA * data.k)
    assert "discretisation error" in both.table
    # A difference of c·s + bias would have been seen: the words carry the numbers of the row.
    seen = both.comparisons[0]
    visible = seen.threshold * seen.standard_error + seen.bias
    np.testing.assert_allclose(seen.smallest_visible, visible)
    assert f"a difference of {float(visible):.2g} would have been seen" in both.table
    assert f"({seen.threshold:.3g} standard errors of" in both.table
    assert both.runs["SGD"]["moments"].mean.value.shape == (2,)
    assert len(both.comparisons) == 2 + 3
    np.testing.assert_allclose(both.runs["SGD"].starts, both.runs["SDE"].starts)


def test_common_random_numbers(problem):
    """paired=True: Gaussian SGD and its Euler scheme differ by nothing, member by member."""
    landscape, sampling, _, _ = problem
    noise = ss.MinibatchNoise(sampling)
    both = ss.side_by_side(
        ss.GaussianSGD(landscape, ETA, noise),
        ss.ModifiedEquation(landscape, ETA, noise, substeps=1),
        lambda key: jr.normal(key, (2,)),
        num_steps=20, ensemble_size=16, key=jr.key(3), paired=True, step_check=0,
        distances=("energy",), num_bootstrap=20,
    )  # fmt: skip
    assert both.paired is not None
    assert np.max(np.abs(both.paired["loss"].value)) < 1e-13
    assert both.observables["loss"].step_error is None


def exact_losses(landscape, rate, batch, steps, theta0, step):
    """E L after some iterations of the least-squares equation at a solver step (η: of SGD)."""
    exact = closed_forms.transient(
        *(np.asarray(a) for a in landscape.data), learning_rate=rate, noise_factor=1 / batch,
        time_step=step, times=[steps * rate], theta0=theta0,
    )  # fmt: skip
    offset = exact.mean[0] - np.asarray(landscape.minimum())
    second = exact.covariance[0] + np.outer(offset, offset)
    hessian = np.asarray(landscape.hessian(theta0))
    return float(landscape.loss(landscape.minimum())) + 0.5 * np.trace(hessian @ second)


def test_an_unresolved_equation_is_inconclusive_and_auto_resolves_it():
    """On ½θ² with noise of variance 1: E L = ½ηh (1 − a^{2n})/(1 − a²), a = 1 − h, n steps from 0.

    That is Euler at step h; SGD has the value of h = η, the SDE that of h → 0. At one solver step
    an iteration the plain difference is zero and means nothing. With the discretisation error in
    view the verdict is open; "auto" shortens the step, and the difference that is left is that of
    SGD and the SDE.
    """
    landscape, steps, rate, sampling = ss.quadratic(1.0, 1.0), 8, 0.8, ss.WithReplacement(1)
    sgd = ss.SGD(landscape, rate, sampling)
    coarse = ss.ModifiedEquation(landscape, rate, ss.MinibatchNoise(sampling), substeps=1)
    options = dict(
        num_steps=steps, ensemble_size=2000, snapshots=[steps], distances=("energy",),
        num_bootstrap=10, key=jr.key(4),
    )  # fmt: skip

    def loss(substeps):
        h = rate / substeps
        return 0.5 * rate * h * (1 - (1 - h) ** (2 * steps * substeps)) / (1 - (1 - h) ** 2)

    both = ss.side_by_side(sgd, coarse, jnp.zeros(1), **options)
    row = both.comparisons[0]
    assert row.verdict == "inconclusive" and row.bias > row.threshold * row.standard_error
    assert "not resolved at substeps=1" in both.unresolved and "raise substeps to" in both.table
    fine = ss.side_by_side(sgd, coarse, jnp.zeros(1), substeps="auto", **options)
    assert fine.substeps >= 4 and fine.unresolved == ""
    row, true = fine.comparisons[0], loss(1) - loss(10**5)
    assert abs(row.measured - row.predicted - true) < row.smallest_visible < true
    assert row.verdict == "disagrees"


def test_the_step_error_of_a_distance_is_allowed_for():
    """The excess less its step error e, with bias |e| + 2s; judged by s₀ of the excess alone.

    .4 − .3 = .1 is ten s₀, and disagrees with 0 only if the bias, .3 + 2·.05, is left out.
    """

    def estimate(*numbers):
        return Estimate(np.array(numbers), np.full(len(numbers), 0.01), 100)

    step = Estimate(np.array(0.3), np.array(0.05), 100)
    law = Distances(estimate(1, 1), estimate(1, 1), estimate(9, 0.4), step)
    (row,) = verdicts({}, {"energy": law}, {}, {})
    assert row.measured == pytest.approx(0.1) and row.standard_error == 0.01
    assert row.bias == pytest.approx(0.4) and row.verdict != "disagrees"
    (row,) = verdicts({}, {"energy": Distances(law.distance, law.floor, law.excess, None)}, {}, {})
    assert row.measured == 0.4 and row.bias == 0 and row.verdict == "disagrees"


def test_every_equation_with_a_solver_step_has_its_error_measured(problem):
    """Heavy ball's equation, of weak order two in its step: 4/3·(coarse − fine) on one path."""
    landscape, sampling, _, _ = problem
    ball = ss.SGD(landscape, ETA, sampling, momentum=0.5)
    sde = ss.UnderdampedEquation(landscape, ETA, ss.MinibatchNoise(sampling), 0.5, substeps=1)
    both = ss.side_by_side(
        ball, sde, jnp.ones(2), num_steps=6, ensemble_size=32, key=jr.key(6), num_bootstrap=10
    )
    coarse, fine = (both.runs[f"SDE ({which})"] for which in ("coarse", "fine"))
    pairs = coarse["of loss"].values[-1] - fine["of loss"].values[-1]
    error = both.observables["loss"].step_error
    assert error is not None and abs(error.value[-1]) > 0
    assert sde.weak_order == 2
    np.testing.assert_allclose(error.value[-1], 4 / 3 * pairs.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        error.standard_error[-1], 4 / 3 * pairs.std(ddof=1) / np.sqrt(len(pairs)), rtol=1e-12
    )


def test_few_members_are_told_before_the_run():
    """Five members need 8.9 standard errors, more than twice the 4.26 of many: a warning."""
    with pytest.warns(UserWarning, match="ensemble_size=5 members cannot say.* is 8.91 standard"):
        check_members(5)
    with pytest.raises(ValueError, match="ensemble_size must be an integer ≥ 2"):
        check_members(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_members(6)


def test_sides_of_other_losses_are_refused(problem):
    """Another l2, other data, noise of another batch size, swapped arguments: four refusals."""
    landscape, sampling, sgd, sde = problem
    inputs, targets = (np.asarray(a) for a in landscape.data)
    noise = ss.MinibatchNoise(sampling)

    def attempt(first, second, allow_different=False):
        check_sides(first, second, 2, allow_different)

    pulled = ss.ModifiedEquation(ss.LeastSquares(inputs, targets, l2=0.1), ETA, noise)
    with pytest.raises(ValueError, match=r"landscapes differ in l2"):
        attempt(sgd, pulled)
    moved = ss.ModifiedEquation(ss.LeastSquares(inputs, targets + 1), ETA, noise)
    with pytest.raises(ValueError, match=r"landscapes differ in data"):
        attempt(sgd, moved)
    loud = ss.ModifiedEquation(landscape, ETA, ss.MinibatchNoise(ss.WithReplacement(16)))
    with pytest.raises(ValueError, match=r"c = 0.25 and that of the SDE c = 0.0625"):
        attempt(sgd, loud)
    with pytest.raises(ValueError, match="arguments were swapped"):
        attempt(sde, sgd)
    attempt(sgd, loud, allow_different=True)
    attempt(sgd, ss.ModifiedEquation(ss.LeastSquares(inputs, targets), ETA, noise))
    with pytest.raises(ValueError, match="allow_different=True"):
        ss.side_by_side(sgd, loud, jnp.zeros(2), num_steps=2, ensemble_size=8, key=jr.key(0))


def test_refuses_what_cannot_be_compared(problem):
    """Other landscapes, other clocks, vector observables, wrong fractions."""
    landscape, sampling, sgd, sde = problem

    def attempt(first=sgd, second=sde, **changed):
        options = {"num_steps": 4, "ensemble_size": 4, "key": jr.key(0)} | changed
        ss.side_by_side(first, second, jnp.zeros(2), **options)

    faster = ss.ModifiedEquation(landscape, 2 * ETA, ss.MinibatchNoise(sampling))
    with pytest.raises(ValueError, match="clocks differ"):
        attempt(second=faster)
    line = ss.SGD(ss.LeastSquares(jnp.ones((4, 1)), jnp.zeros(4)), ETA, sampling)
    with pytest.raises(ValueError, match="one landscape"):
        attempt(first=line)
    with pytest.raises(ValueError, match="scalar"):
        attempt(observables={"theta": lambda x: x})
    with pytest.raises(ValueError, match="step_check"):
        attempt(step_check=2)
    with pytest.raises(ValueError, match="snapshots"):
        attempt(snapshots=0)
    with pytest.raises(ValueError, match=r"integer ≥ 1 or \"auto\"; got 'Auto'"):
        attempt(substeps="Auto")
    with pytest.raises(ValueError, match="theta0"):
        ss.side_by_side(sgd, sde, jnp.zeros((2, 2)), num_steps=4, ensemble_size=4, key=jr.key(0))


def test_substeps_at_which_the_step_is_out_of_sight():
    """The smallest 2^j·m with 2(|e| + 2s)/2^j ≤ what can be seen; no floor, no demand."""
    error = Estimate(np.array([9.0, 0.3]), np.array([9.0, 0.05]), 100)
    errors = StepErrors({}, {"loss": error}, {"energy": error})
    # 2(.3 + .1) = .8 is 3.2 times .25: four times as many steps.
    assert substeps_needed(errors, Visible({"loss": 0.25}, {"energy": 1.0}), 3) == 12
    assert substeps_needed(errors, Visible({"loss": 0.25}, {}), 3) == 12
    assert substeps_needed(errors, Visible({"loss": 1.0}, {"energy": 0.1}), 3) == 24
    assert substeps_needed(errors, Visible({"loss": 1.0}, {"energy": 1.0}), 3) == 3
    # An observable with the name of a distance hides nothing of it.
    both = StepErrors({}, {"energy": error}, {"energy": error})
    assert substeps_needed(both, Visible({"energy": 1.0}, {"energy": 0.1}), 3) == 24
    assert substeps_needed(both, Visible({"energy": 0.1}, {"energy": 1.0}), 3) == 24


def test_noise_of_the_check_asks_for_members_and_the_error_for_a_step():
    """|e| + 2s against half of what can be seen: where 2s > |e|, four times as many members first.

    With all members in the check, noise that a shorter step has not lowered ends the search.
    """

    def errors(value, spread):
        row = Estimate(np.array([value]), np.array([spread]), 10)
        return StepErrors({}, {"loss": row}, {})

    seen = Visible({"loss": 1.0}, {})
    assert next_check(errors(0.1, 0.1), seen, 2, 4, 16, np.inf) is None
    assert next_check(errors(0.1, 0.5), seen, 2, 4, 64, np.inf) == (2, 16)
    assert next_check(errors(0.1, 0.5), seen, 2, 16, 20, np.inf) == (2, 20)
    assert next_check(errors(1.0, 0.1), seen, 2, 4, 64, np.inf) == (8, 4)
    # 2(.1 + 1) = 2.2 is more than 80 % of 2.2, and 5 was twice as much.
    assert next_check(errors(0.1, 0.5), seen, 2, 64, 64, 2.2) is None
    assert next_check(errors(0.1, 0.5), seen, 2, 64, 64, 5.0) == (8, 64)
    assert next_check(errors(9.0, 0.1), seen, 512, 64, 64, np.inf) is None
    # An open verdict demands errors as many times smaller.
    assert next_check(errors(0.1, 0.1), seen, 2, 64, 64, np.inf, 2.0) == (4, 64)
    assert substeps_needed(errors(0.1, 0.1), seen, 2, 4.0) == 8


def test_auto_goes_on_while_the_step_leaves_a_verdict_open(problem, monkeypatch):
    """Twice as small an error each time, a run of the SDE at each step, an end at eight times."""
    judged, (landscape, _, sgd, sde) = [], problem

    def open_below(rows, errors, visible, substeps, everyone):
        judged.append(substeps)
        return "open" if substeps < needed else ""

    monkeypatch.setattr(run_module, "unresolved", open_below)
    options = dict(num_steps=4, ensemble_size=32, key=jr.key(1), step_check=1.0, progress=False)
    options |= dict(distances=("energy",), num_bootstrap=10, snapshots=1)
    for least, resolved in ((2, True), (10**6, False)):
        needed = least
        judged.clear()
        start = landscape.minimum() + 1
        both = ss.side_by_side(sgd, sde.refined(1), start, substeps="auto", **options)
        assert judged == sorted(judged) and len(judged) > 1, judged
        assert both.substeps == judged[-1] == both.runs["SDE"].process.substeps
        assert (both.unresolved == "") == resolved
        assert len(judged) <= 4
