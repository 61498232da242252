"""Members that diverge: counted everywhere, and no verdict on the survivors unless asked for."""

import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.estimate import Estimate
from sde_sgd.side_by_side.laws import LABELS, observable
from sde_sgd.side_by_side.rows import verdicts

MEMBERS = 16


def compared(far, **changed):
    """(θ² − 1)²/4 at η = .3: from 4 a step goes to 4 − .3·60 = −14 and on to infinity.

    At sixteen solver steps an iteration, η·h = .019, the equation comes down from there.
    """
    landscape, sampling = ss.double_well(0.1), ss.WithReplacement(1)
    sgd = ss.SGD(landscape, 0.3, sampling)
    sde = ss.ModifiedEquation(landscape, 0.3, ss.MinibatchNoise(sampling), substeps=16)
    starts = np.where(np.arange(MEMBERS) < far, 4.0, 1.0)[::-1, None].copy()
    options = dict(
        num_steps=12, ensemble_size=MEMBERS, key=jr.key(0), num_bootstrap=10, snapshots=2,
        on_divergence="mask", check_stability=False, progress=False,
    )  # fmt: skip
    return ss.side_by_side(sgd, sde, starts, **(options | changed))


def test_survivors_are_counted_and_not_judged(tmp_path):
    """Five of sixteen die in each ensemble of SGD and none of the SDE's: inconclusive, and said."""
    both = compared(5)
    assert [both.deaths[label] for label in LABELS] == [5, 5, 0]
    assert {row.verdict for row in both.comparisons} == {"inconclusive"}
    assert all("survivorship: 5 of SGD" in row.reason for row in both.comparisons)
    assert "Diverged: 5 of the 16 of SGD, 5 of the 16 of SGD (second ensemble)." in both.table
    assert "survivorship" in both.table
    assert "diverged: 5 of SGD" in both.figure().get_suptitle()
    # Distances of as many members of the SDE as of the second ensemble.
    assert both.distances["sliced"].distance.num_samples == 11
    data = both.to_xarray()
    assert data.loss.shape == (3, 3, MEMBERS) and data.attrs["deaths of SGD"] == 5
    assert np.isnan(data.loss.values).any(axis=1).sum(axis=1).tolist() == [5, 5, 0]
    both.save(tmp_path / "both.nc")
    assert ss.load_side_by_side(tmp_path / "both.nc").table == both.table
    allowed = compared(5, allow_deaths=True)
    assert all("survivorship" not in row.reason for row in allowed.comparisons)
    assert "Diverged: 5 of the 16 of SGD" in allowed.table


def test_hardly_anyone_left_is_no_crash():
    """One member alive has no error, and no distance: NaN, inconclusive, also where allowed."""
    for allow in (False, True):
        both = compared(MEMBERS - 1, allow_deaths=allow, substeps="auto")
        assert both.deaths["SGD"] == MEMBERS - 1
        assert np.isnan(both.distances["energy"].distance.value).all()
        assert {row.verdict for row in both.comparisons} == {"inconclusive"}
        assert both.figure() is not None and "Diverged: 15" in both.table


def test_without_a_mask_the_error_names_the_ensemble():
    """on_divergence="raise": the error of `simulate`, with a note."""
    with pytest.raises(ss.DivergenceError) as caught:
        compared(5, on_divergence="raise")
    assert caught.value.__notes__ == ["It was the ensemble 'SGD' of a comparison."]


def test_deaths_of_the_check_open_the_verdicts_on_the_equation_alone():
    """SGD against SGD rests on its own ensembles; SGD against the SDE on the check, too."""
    rows = {label: np.linspace(0, 1, 40)[None].repeat(2, 0) for label in LABELS}
    found = {"loss": observable(rows, Estimate(np.zeros(2), np.zeros(2), 10))}
    judged = verdicts(found, {}, {}, {"SGD": 0, "SDE": 0, "SDE (fine)": 2})
    assert [row.verdict for row in judged] == ["inconclusive", "agrees"]
    judged = verdicts(found, {}, {}, {"SGD": 0, "SDE": 0, "SDE (fine)": 2}, allow_deaths=True)
    assert [row.verdict for row in judged] == ["agrees", "agrees"]
