"""z-scores, the Šidák threshold and the three verdicts."""

import json
import sys

import numpy as np
import pytest
from scipy import stats

from sde_sgd.compare import compare, sidak_threshold, verdict_table
from sde_sgd.estimate import Estimate

FAILURE_RATE = 2e-5


def binomial_acceptance(trials, probability):
    """Counts that a correct rate leaves with probability at most 2e-5."""
    law = stats.binom(trials, probability)
    return law.ppf(FAILURE_RATE / 2), law.isf(FAILURE_RATE / 2)


def known(value, error, num_samples=10_000):
    value = np.asarray(value, dtype=float)
    return Estimate(value, np.broadcast_to(error, value.shape), num_samples)


def count_failures(num_samples, entries, trials=2000, **kwargs):
    """How many of `trials` correct predictions disagree, at failure_rate 0.05."""
    draws = np.random.default_rng(1).standard_normal((trials, num_samples, entries))
    verdicts = [
        compare(Estimate.from_samples(x), np.zeros(entries), failure_rate=0.05, **kwargs).verdict
        for x in draws
    ]
    return verdicts.count("disagrees")


@pytest.mark.parametrize(("num_samples", "entries"), [(400, 5), (12, 50), (12, 1)])
def test_correct_predictions_fail_at_the_failure_rate(num_samples, entries):
    """P(disagrees | prediction correct) = failure_rate, at any number of entries and samples."""
    low, high = binomial_acceptance(2000, 0.05)
    assert low <= count_failures(num_samples, entries) <= high


def test_the_normal_quantile_of_one_entry_fails_more_often(monkeypatch):
    """Control: without Šidák, and without Student's t, the failure rate is exceeded."""
    _, high = binomial_acceptance(2000, 0.05)
    original = sidak_threshold
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules[compare.__module__],
            "sidak_threshold",
            lambda entries, rate, freedom=np.inf: original(1, rate, freedom),
        )
        assert count_failures(400, 5) > high
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules[compare.__module__],
            "sidak_threshold",
            lambda entries, rate, freedom=np.inf: original(entries, rate),
        )
        assert count_failures(12, 1) > high


def test_two_estimates_fail_at_most_at_the_failure_rate():
    """Welch: P(disagrees) ≈ failure_rate for 8 samples of variance 1 against 40 of variance 9."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2000, 8)), 3 * rng.standard_normal((2000, 40))
    failures = sum(
        compare(Estimate.from_samples(a), Estimate.from_samples(b), failure_rate=0.05).verdict
        == "disagrees"
        for a, b in zip(x, y, strict=True)
    )
    low, high = binomial_acceptance(2000, 0.05)
    assert low <= failures <= high


def test_sidak_threshold_is_the_quantile_of_the_largest():
    """(1 − P(|t| > c))^n = 1 − failure_rate."""
    for entries in (1, 7, 1000):
        normal = sidak_threshold(entries, 0.01)
        student = sidak_threshold(entries, 0.01, 9)
        np.testing.assert_allclose((1 - 2 * stats.norm.sf(normal)) ** entries, 0.99, rtol=1e-12)
        np.testing.assert_allclose((1 - 2 * stats.t.sf(student, 9)) ** entries, 0.99, rtol=1e-12)
    np.testing.assert_allclose(sidak_threshold(10**6, 2e-5, 1e9), sidak_threshold(10**6, 2e-5))


def test_the_fewest_degrees_of_freedom_decide():
    """n = 5 and 100, errors (1, .1) and (.1, 1): 1/ν = Σ f²/(n − 1), the smallest ν of the entries.

    ν = 4.08 for the first entry, whose threshold is 26.6; 4.65 for the second, ν = 101.
    """
    first, second = known([0.0, 0.0], [1.0, 0.1], 5), known([0.0, 0.0], [0.1, 1.0], 100)
    share = 1 / 1.01
    freedom = 1 / (share**2 / 4 + (1 - share) ** 2 / 99)
    threshold = stats.t.isf(-np.expm1(np.log1p(-2e-5) / 2) / 2, freedom)
    assert threshold == pytest.approx(26.6, abs=0.05)
    assert compare(first, second).threshold == pytest.approx(threshold, rel=1e-9)
    assert compare(second, first).threshold == pytest.approx(threshold, rel=1e-9)


def test_z_is_the_difference_in_combined_errors():
    """z = (m − p)/√(se² + se_p²)."""
    comparison = compare(known([1.0, 2.0], 0.3), known([0.0, 2.5], 0.4))
    np.testing.assert_allclose(comparison.z, [2.0, -1.0])
    np.testing.assert_allclose(comparison.standard_error, 0.5)
    assert comparison.worst == ((0,), 2.0)
    assert comparison.verdict == "agrees"


def test_a_scalar_prediction_is_broadcast_and_lists_are_read():
    """compare(measured, 0.0) = compare(measured, zeros); a list is an array."""
    measured = known([1.0, -3.0], 1.0)
    np.testing.assert_array_equal(compare(measured, 0.0).z, compare(measured, [0.0, 0.0]).z)


@pytest.mark.parametrize(
    ("difference", "resolution", "verdict"),
    [
        (0.0, 6.0, "agrees"),  # interval inside ±r
        (5.0, 10.0, "agrees"),  # excludes zero, yet inside ±r: too small to matter
        (5.0, 6.0, "disagrees"),  # excludes zero, reaches beyond ±r
        (50.0, 6.0, "disagrees"),  # wholly beyond ±r
        (0.0, 4.0, "inconclusive"),  # zero and ±r both inside
        (4.0, 6.0, "inconclusive"),
        (5.0, None, "disagrees"),
        (4.0, None, "agrees"),
    ],
)
def test_resolution_decides_between_seen_unseen_and_too_small(difference, resolution, verdict):
    """Interval d ± c·s (s = 1, c = 4.26) inside ±r agrees, else without 0 disagrees."""
    for sign in (1, -1):
        result = compare(known(sign * difference, 1.0), 0.0, resolution=resolution)
        assert result.verdict == verdict


def test_the_most_severe_entry_decides():
    """Disagrees over inconclusive over agrees; the worst entry is one that decides."""
    measured = known([5.0, 5.0, 0.0], 1.0)
    both = compare(measured, 0.0, resolution=[50.0, 6.0, 1.0])
    np.testing.assert_array_equal(both.severity, [0, 2, 1])
    assert (both.verdict, both.worst) == ("disagrees", ((1,), 5.0))
    mild = compare(measured, 0.0, resolution=[50.0, 50.0, 1.0])
    assert (mild.verdict, mild.worst) == ("inconclusive", ((2,), 0.0))


def test_zero_error_is_exact():
    """se = 0: z = 0 where equal, ±∞ where not, unless a resolution allows for rounding."""
    measured = known([1.0, 0.1 + 0.2], 0.0, num_samples=2)
    assert compare(measured, [1.0, 0.1 + 0.2]).verdict == "agrees"
    off = compare(measured, [1.0, 0.3])
    np.testing.assert_array_equal(off.z, [0.0, np.inf])
    assert off.verdict == "disagrees"
    assert compare(measured, [1.0, 0.3], resolution=1e-12).verdict == "agrees"


def test_unmeasured_entries_are_inconclusive_and_not_counted():
    """NaN or infinite errors: no agreement, but the other entries can still disagree."""
    values, errors = np.array([0.0, np.nan, 0.0]), np.array([1.0, 1.0, np.inf])
    partial = compare(Estimate(values, errors, 10_000), 0.0)
    assert partial.verdict == "inconclusive"
    assert partial.threshold == sidak_threshold(1, degrees_of_freedom=9999)
    assert "2 of 3" in partial.reason
    kept = Estimate(values, errors, 10_000)
    assert compare(kept[kept.finite()], 0.0).verdict == "agrees"
    assert compare(kept, 9.0).verdict == "disagrees"
    assert np.isnan(compare(Estimate.from_samples(np.ones((1, 2))), 1.0).worst[1])


def test_few_samples_cannot_agree_but_can_disagree():
    """4 samples: the Student threshold is 38 against 4.3, so nothing unseen is agreement."""
    assert compare(known(1.0, 1.0, num_samples=4), 0.0).verdict == "inconclusive"
    assert compare(known(1.0, 1.0, num_samples=1), 0.0).verdict == "inconclusive"
    assert compare(known(100.0, 1.0, num_samples=4), 0.0).verdict == "disagrees"
    assert compare(known(1.0, 1.0, num_samples=4), 0.0, resolution=50.0).verdict == "agrees"
    assert compare(known(1.0, 1.0, num_samples=40), 0.0).verdict == "agrees"


@pytest.mark.parametrize(
    ("difference", "bias", "resolution", "verdict"),
    [
        (5.0, 0.0, None, "disagrees"),  # beyond c·s = 4.27
        (4.0, 1.0, None, "agrees"),  # within c·s, and b could hide nothing
        (5.0, 1.0, None, "inconclusive"),  # beyond c·s, and b could make it
        (6.0, 1.0, None, "disagrees"),
        (0.0, 5.0, None, "inconclusive"),  # b could hide what the sample would show
        (9.0, 5.0, None, "inconclusive"),
        (9.5, 5.0, None, "disagrees"),  # beyond c·s + b = 9.27
        (0.0, 1.0, 6.0, "agrees"),  # ±5.27 lies within ±6
        (0.0, 2.0, 6.0, "inconclusive"),
        (6.5, 2.0, 6.0, "disagrees"),
    ],
)
def test_a_bias_widens_the_interval(difference, bias, resolution, verdict):
    """|difference| > c·s + b disagrees; b > c·s hides a difference; ±(c·s + b) within ±r agrees."""
    row = compare(known(difference, 1.0), 0.0, bias=bias, resolution=resolution)
    assert row.verdict == verdict
    np.testing.assert_allclose(row.smallest_visible, row.threshold + bias)


def test_a_hiding_bias_is_the_reason():
    """The reason names the bias and what could be seen without it; bad bounds are refused."""
    for difference in (0.0, 5.0):
        reason = compare(known(difference, 1.0), 0.0, bias=5.0).reason
        assert "bias of up to 5, more than the 4.3" in reason
    made = compare(known(5.0, 1.0), 0.0, bias=1.0).reason
    assert "difference of up to 5, more than sampling explains (4.3)" in made
    with pytest.raises(ValueError, match="finite bound"):
        compare(known(0.0, 1.0), 0.0, bias=-1.0)
    with pytest.raises(ValueError, match="bias"):
        compare(known(0.0, 1.0), 0.0, bias=np.ones(2))


@pytest.mark.parametrize(
    ("expected", "difference", "resolution", "as_expected"),
    [
        ("agree", 0.0, None, True),
        ("agree", 9.0, None, False),
        ("deviate", 9.0, None, True),
        ("deviate", 0.0, None, False),
        ("agree", 0.0, 1.0, False),
        ("deviate", 0.0, 1.0, False),
    ],
)
def test_as_expected(expected, difference, resolution, as_expected):
    """agree ↔ agrees, deviate ↔ disagrees; inconclusive never as expected."""
    result = compare(known(difference, 1.0), 0.0, resolution=resolution, expected=expected)
    assert result.as_expected is as_expected


def test_row_is_strict_json_with_the_keys_of_the_protocol():
    """`verdict.json` rows: eight keys, nested lists, no NaN or Infinity literals."""
    errors = np.array([[1.0, 0.0], [np.inf, 1.0]])
    measured = Estimate(np.array([[1.0, 2.0], [np.nan, 4.0]]), errors, 100)
    row = compare(measured, np.ones((2, 2)), name="covariance", process="SGD").row()
    assert list(row) == [
        "name", "process", "predicted", "measured", "standard_error", "z", "expected", "verdict",
    ]  # fmt: skip
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["measured"] == [[1.0, 2.0], [None, 4.0]]
    assert row["standard_error"] == [[1.0, 0.0], ["inf", 1.0]]
    assert (row["z"], row["verdict"]) == ("inf", "disagrees")


def test_the_table_shows_the_worst_entry_and_marks_the_unexpected():
    """One aligned line each; `name[index]`, and `!` where the verdict is not as expected."""
    comparisons = [
        compare(known([0.0, 1.0], 1.0), 0.0, name="mean", process="SGD"),
        compare(known(90.0, 1.0), 0.0, name="loss", process="SDE"),
        compare(Estimate.from_samples(np.ones((1,))), 0.0, name="rate", process="SDE"),
    ]
    lines = verdict_table(comparisons).splitlines()
    assert lines[0].split() == [
        "name", "process", "predicted", "measured", "difference", "±", "error", "z", "verdict",
        "expected",
    ]  # fmt: skip
    row = ["mean[1]", "SGD", "0", "1", "1", "±", "1", "+1", "agrees", "agree"]
    assert lines[2].split() == row
    assert lines[3].endswith("agree !") and lines[4].endswith("agree !")
    assert lines[2].index("agrees") == lines[3].index("disagrees") == lines[4].index("inconclusive")
    assert len(verdict_table([]).splitlines()) == 2
    for comparison in comparisons:
        assert comparison.verdict in str(comparison) and "\n" not in str(comparison)


@pytest.mark.parametrize(
    ("predicted", "kwargs", "message"),
    [
        (np.zeros(3), {}, r"\(2,\).*\(3,\)"),
        (np.zeros((2, 1)), {}, r"\(2,\).*\(2, 1\)"),
        (np.array([0.0, np.nan]), {}, "NaN"),
        (np.inf, {}, "infinite"),
        (np.zeros(2) + 1j, {}, "complex"),
        (known(np.zeros(3), 1.0), {}, r"\(2,\).*\(3,\)"),
        (0.0, {"resolution": 0.0}, "positive"),
        (0.0, {"resolution": np.nan}, "positive"),
        (0.0, {"resolution": np.ones(3)}, r"\(2,\).*\(3,\)"),
        (0.0, {"expected": "agrees"}, "expected"),
        (0.0, {"failure_rate": 0.0}, "failure_rate"),
    ],
)
def test_bad_input_is_refused_by_name(predicted, kwargs, message):
    """ValueError naming the offending value."""
    with pytest.raises(ValueError, match=message):
        compare(known([0.0, 0.0], 1.0), predicted, **kwargs)


def test_a_bare_number_or_nothing_is_not_a_measurement():
    """Nothing statistical is a bare float, and no entries are no agreement."""
    with pytest.raises(TypeError):
        compare(1.0, 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(known(np.zeros((0,)), 1.0), np.zeros((0,)))
