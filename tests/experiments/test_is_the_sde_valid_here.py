"""The measured distance and the score of `is_the_sde_valid_here`, on laws that are known."""

import numpy as np
import pytest
import xarray as xr

from experiments import is_the_sde_valid_here as module

CONFIG = module.Config()


def data_of(measured, verdict, predicted=None):
    count = len(measured)
    numbers = {
        "measured": measured,
        "verdict": verdict,
        "predicted": measured if predicted is None else predicted,
        "measured_error": np.full(count, 0.01),
        "predicted_error": np.zeros(count),
        "rate_alone": measured,
        "cause": np.full(count, "tails"),
        "direction": np.full(count, "noisiest 1"),
    }
    names = [f"quadratic, replacement {i}" for i in range(count)]
    return xr.Dataset(
        {k: ("combination", np.asarray(v)) for k, v in numbers.items()}, {"combination": names}
    )


def test_measured_distance_of_gaussians():
    """D = 2√(δ² + (√R − 1)²) of Gaussians and 0 of equal laws, unbiased by the size of samples."""
    rng = np.random.default_rng(0)
    values = {"equal": [], "apart": []}
    for _ in range(40):
        first = rng.normal(size=(2000, 1))
        second = rng.normal(size=(2000, 1))
        values["equal"].append(module.excess_squares(first, second)[0])
        values["apart"].append(module.excess_squares(0.1 + 1.2 * first, second)[0])
    exact = {"equal": 0.0, "apart": 4 * (0.1**2 + 0.2**2)}
    for name, found in values.items():
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        assert abs(np.mean(found) - exact[name]) < 4.3 * error
    assert np.mean(values["apart"]) > 10 * abs(np.mean(values["equal"]))


def test_check_can_fail():
    """Right verdicts pass; a constant verdict, a lopsided grid and wrong ranks do not."""
    measured = np.array([0.02, 0.03, 0.2, 0.3, 0.04, 0.5, 0.05, 0.9])
    right = (measured <= 0.1).astype(int)

    def outcomes(*args):
        data = data_of(*args)
        assert module.conclude(CONFIG, data, []) and module.plot(CONFIG, data, {}).axes
        return [row.as_expected for row in module.check(CONFIG, data, module.predict(CONFIG))]

    assert outcomes(measured, right) == [True] * 4
    assert outcomes(measured, np.ones(8, int))[0] is False
    assert outcomes(measured, np.full(8, -1))[0] is False  # undecided is wrong
    assert outcomes(measured / 100, np.ones(8, int))[:2] == [False, False]
    assert outcomes(measured, right, measured[::-1])[2] is False
    score = module.score(CONFIG, data_of(measured, np.ones(8, int)))
    assert score.accuracy == pytest.approx(0.5) and score.confusion.tolist() == [
        [4, 0, 0],
        [4, 0, 0],
    ]
