"""The price of a comparison: sums of its runs' forecasts, and gradients of single examples."""

import math

import diffrax as dfx
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.side_by_side import ensembles, price as price_module

N, B, ETA, MU = 12, 3, 0.1, 0.5
INPUTS = normal(0, N, 2)
LANDSCAPE = ss.LeastSquares(INPUTS, INPUTS[:, 0])
SAMPLING = ss.WithReplacement(B)
NOISE = ss.MinibatchNoise(SAMPLING)
SGD = ss.SGD(LANDSCAPE, ETA, SAMPLING)
SDE = ss.ModifiedEquation(LANDSCAPE, ETA, NOISE, substeps=2)


def test_gradients_of_an_example_in_an_iteration():
    """B a batch, 2lB for SVAG(l), 2B for SAM, substeps·N for exact noise, 3·substeps·N for Adam."""
    land, sampling = LANDSCAPE, SAMPLING
    known = {
        B: [SGD, ss.SVAG(land, ETA, sampling, 1), ss.OptaxSGD(land, optax.adam(ETA), sampling)],
        2 * B: [
            ss.SAM(land, ETA, 0.1, sampling),
            ss.SGLD(land, ETA, sampling, control_variate=jnp.zeros(2)),
        ],
        8 * B: [ss.SVAG(land, ETA, sampling, 4)],
        N: [ss.GaussianSGD(land, ETA, NOISE), ss.GradientFlow(land, ETA, solver=dfx.Euler())],
        2 * N: [
            SDE,
            ss.ModifiedEquation(land, ETA, ss.ThermalNoise(NOISE, 0.1, ETA), substeps=2),
            ss.UnderdampedEquation(land, ETA, NOISE, MU, substeps=2),
            ss.OverdampedEquation(land, ETA, NOISE, MU, substeps=2),
            ss.AdaptiveEquation(land, ss.SignSGD(ETA, diagonal=True), NOISE, substeps=1),
        ],
        3 * N: [
            ss.AdaptiveEquation(land, ss.Adam(ETA), NOISE, substeps=1),
            ss.AdaptiveEquation(land, ss.RMSprop(ETA, initial=0.1), NOISE, substeps=1),
        ],
    }
    for count, processes in known.items():
        assert [p.gradients_per_iteration for p in processes] == [count] * len(processes)
    unknown = [
        ss.ModifiedEquation(land, ETA, NOISE, order=2),
        ss.ModifiedEquation(land, ETA, ss.HessianNoise(0.1)),
        ss.AdaptiveEquation(land, ss.Adam(ETA), ss.DiagonalNoise(sampling)),
        ss.AdaptiveEquation(land, ss.SignSGD(ETA), NOISE),
        ss.GradientFlow(land, ETA),
    ]
    assert all(math.isnan(p.gradients_per_iteration) for p in unknown)


@pytest.fixture
def told(monkeypatch):
    """Forecasts of 10 s to compile and members·substeps·(1 s) an iteration, 100 bytes each."""
    asked = []

    def forecast(process, theta0, *, num_steps, ensemble_size, **options):
        asked.append((type(process).__name__, process.substeps, ensemble_size))
        rate = float(ensemble_size * process.substeps)
        return ss.Forecast(10.0 + rate * num_steps, 100, rate)

    monkeypatch.setattr(price_module, "forecast", forecast)
    return asked


def test_the_price_is_the_sum_over_the_ensembles(told):
    """SGD twice and compiled once, coarse and fine on the fraction, and the SDE."""
    price = ss.forecast_side_by_side(
        SGD, SDE, jnp.zeros(2), num_steps=5, ensemble_size=8, key=jr.key(0), step_check=0.5,
        progress=False, num_bootstrap=10,
    )  # fmt: skip
    assert told == [
        ("SGD", 1, 8), ("ModifiedEquation", 2, 4), ("ModifiedEquation", 4, 4),
        ("ModifiedEquation", 2, 8),
    ]  # fmt: skip
    iterations = 2 * 8 + 4 * 2 + 4 * 4 + 8 * 2
    assert price.seconds == 4 * 10 + 5 * iterations
    assert price.bytes == 500
    assert price.example_gradients == 5 * (2 * 8 * B + (4 * 2 + 4 * 4 + 8 * 2) * N)
    assert price.ratio_to_sgd == price.seconds / (10 + 5 * 8)
    told.clear()
    ss.forecast_side_by_side(
        SGD, SDE, jnp.zeros(2), num_steps=5, ensemble_size=8, key=jr.key(0), step_check=0
    )
    assert told == [("SGD", 1, 8), ("ModifiedEquation", 2, 8)]


def test_a_forecast_checks_what_the_comparison_checks():
    """Wrong options are refused by both, before anything runs."""
    with pytest.raises(ValueError, match="snapshots must be an integer"):
        ss.forecast_side_by_side(
            SGD, SDE, jnp.zeros(2), num_steps=5, ensemble_size=8, key=jr.key(0),
            snapshots=0,
        )  # fmt: skip


def test_a_long_comparison_says_its_price_first(told, monkeypatch, capsys):
    """More than a minute, and progress shown: the first line, substeps·N/B = 8 in it."""

    class Begun(Exception):
        pass

    def run(*arguments, **options):
        raise Begun

    monkeypatch.setattr(ensembles, "simulate", run)

    def attempt(num_steps, progress):
        with pytest.raises(Begun):
            ss.side_by_side(
                SGD, SDE, jnp.zeros(2), num_steps=num_steps, ensemble_size=8, key=jr.key(0),
                progress=progress,
            )  # fmt: skip
        return capsys.readouterr().err

    line, ensemble = attempt(100, True).splitlines()
    assert "side_by_side: about 74 min" in line and ensemble == "SGD, 8 members:"
    assert "takes 8 times the gradients" in line
    assert attempt(100, False) == ""
    # Of few iterations SGD alone is tried: 8 s for 3·8 gradients, 16·8 of them an iteration.
    told.clear()
    assert "about 21 min" in attempt(10, True) and told == [("SGD", 1, 8)]
    monkeypatch.setattr(price_module, "_WORTH_SAYING", 1e9)
    told.clear()
    assert attempt(100, True) == "SGD, 8 members:\n" and told == [("SGD", 1, 8)]
