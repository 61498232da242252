"""A device that runs out of memory halves the chunks, says so once, and the run goes on."""

import warnings

import jax
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss
from sde_sgd.simulate import driver

LANDSCAPE = ss.LeastSquares(np.eye(4)[:, :2] + 0.5, np.arange(4.0))
SGD = ss.SGD(LANDSCAPE, learning_rate=0.1, sampling=ss.WithReplacement(2))
COMMON = dict(num_steps=7, ensemble_size=11, key=jr.key(3), chunk_size=11, progress=False)


def small_device(monkeypatch, rows: int):
    """A device on which a step of more than `rows` members does not fit."""
    real = driver.advance

    def advance(process, measures, members, *arguments, **options):
        if len(members.identity) > rows:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating bytes")
        return real(process, measures, members, *arguments, **options)

    monkeypatch.setattr(driver, "advance", advance)


def test_the_run_goes_on_with_halved_chunks_and_the_same_bits(monkeypatch, tmp_path):
    """11 members -> 6 + 5 -> 3 + 3 + 3 + 2, one warning; a checkpoint of them resumes."""
    options = dict(measures={"moments": ss.Moments()}, record_every=2)
    wanted = ss.simulate(SGD, np.zeros(2), **COMMON, **options)
    small_device(monkeypatch, 3)
    file = tmp_path / "run.npz"
    with pytest.warns(UserWarning, match="chunk_size=5") as caught:
        found = ss.simulate(SGD, np.zeros(2), **COMMON, **options, checkpoint=file)
    assert len(caught) == 1
    assert [len(chunk.identity) for chunk in found._engine.chunks] == [3, 3, 3, 2]
    np.testing.assert_array_equal(found.positions, wanted.positions)
    np.testing.assert_array_equal(found.records[1], wanted.records[1])
    np.testing.assert_array_equal(
        found["moments"].covariance.value, wanted["moments"].covariance.value
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ss.simulate(SGD, np.zeros(2), **COMMON, **options, checkpoint=file).extend(3)
    monkeypatch.undo()
    np.testing.assert_array_equal(again.positions, wanted.extend(3).positions)


def test_one_member_that_does_not_fit_is_an_error(monkeypatch):
    small_device(monkeypatch, 0)
    with pytest.warns(UserWarning), pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED"):
        ss.simulate(SGD, np.zeros(2), **COMMON)
