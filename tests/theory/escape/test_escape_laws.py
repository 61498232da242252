"""Published escape laws against exact integrals, and the price of watching at steps."""

import numpy as np
import pytest

from sde_sgd.processes import Diffusion
from sde_sgd.theory.escape import (
    mean_exit_time,
    mori_escape_rate,
    mori_stationary_exponent,
    watched_barrier_shift,
    xie_escape_time,
)


def force(x):
    """−V' of V = (x² − 1)²/4."""
    return x - x**3


def test_overshoot_of_a_random_walk():
    """No drift, exits ±1: T(0) = E x²/(2D) = (1 + .5826 s)²/(2D) + O(s²), s the step's std."""
    excess = []
    for s in (0.1, 0.05):
        time = mean_exit_time(Diffusion(0.0, 0.5, s**2), start=0.0, exits=(-1, 1))
        shift = watched_barrier_shift(0.5, s**2)
        assert shift == pytest.approx(0.5826 * s, rel=1e-4)
        excess.append(float(time) - (1 + shift) ** 2)
        # Control: half the shift, or none.
        assert abs(time - (1 + shift / 2) ** 2) > 10 * abs(excess[-1])
    # Var of the overshoot: s²/4, a quarter as large at half the step.
    assert excess[0] == pytest.approx(0.25 * 0.1**2, rel=1e-3)
    assert excess[0] / excess[1] == pytest.approx(4, rel=1e-3)


def test_shift_takes_away_the_root_of_the_step():
    """To the saddle: T_h(0) − T(0) ∝ √h; with the exit moved by the shift the error is ∝ h."""

    def error(step, moved):
        watched = mean_exit_time(Diffusion(force, 0.05, step), start=-1.0, exits=0.0)
        shift = watched_barrier_shift(0.05, step) if moved else 0.0
        plain = mean_exit_time(Diffusion(force, 0.05), start=-1.0, exits=shift)
        return float(watched / plain - 1)

    assert error(0.04, False) / error(0.01, False) == pytest.approx(2, rel=0.2)
    assert error(0.04, True) / error(0.01, True) == pytest.approx(4, rel=0.2)
    assert abs(error(0.01, True)) < 0.05 * abs(error(0.01, False))


XIE = {
    "minimum_curvature": 2.0,
    "saddle_curvature": -1.0,
    "barrier": 0.25,
    "learning_rate": 0.1,
    "batch_size": 4,
    "path_fraction": 0.5,
}


def test_xie():
    """τ = 2π e^{20(.25 + .5)} for h = 2, −1, ΔL = ¼, B/η = 40, s = ½; log τ linear in B/η."""
    assert xie_escape_time(**XIE) == pytest.approx(2 * np.pi * np.exp(20 * 0.75), rel=1e-12)
    logs = [np.log(xie_escape_time(**(XIE | {"batch_size": b}))) for b in (1, 4, 7)]
    assert logs[2] - logs[1] == pytest.approx(logs[1] - logs[0], rel=1e-12)
    # The open parameter moves the exponent by a factor 2 here: s → 1 and s → 0.
    slopes = [
        np.log(xie_escape_time(**(XIE | {"path_fraction": s})) / (2 * np.pi))
        for s in (1e-9, 1 - 1e-9)
    ]
    assert slopes[0] / slopes[1] == pytest.approx(2, rel=1e-6)
    for bad in ({"path_fraction": 1.0}, {"saddle_curvature": 1.0}, {"minimum_curvature": -1.0}):
        with pytest.raises(ValueError):
            xie_escape_time(**(XIE | bad))


def test_mori_in_one_dimension():
    """D = ηLh*/B in L = (x²−1)²/4 + .1: exact rate to the other well / law → 1 linearly in η."""

    def loss(x):
        return (x**2 - 1) ** 2 / 4 + 0.1

    def ratio(eta, power=0):
        process = Diffusion(force, lambda x: 2 * eta * loss(x))
        exact = mean_exit_time(process, start=-1.0, exits=1.0)
        law = mori_escape_rate(
            minimum_curvature=2.0,
            saddle_loss=0.35,
            minimum_loss=0.1,
            learning_rate=eta,
            batch_size=1,
            dimension=1 + power,
            prefactor=np.sqrt(2.0) / (2 * np.pi),
        )
        return float(1 / exact / law)

    errors = [ratio(eta) - 1 for eta in (0.04, 0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    assert abs(errors[2]) < 0.05
    # Control: n = 2 in the exponent, a factor √3.5 that no η takes away.
    assert abs(ratio(0.01, power=1) - 1) > 0.4


def test_mori_stationary_exponent():
    """P ∝ L^{−φ}, φ = 1 + B/(ηh*): the density ∝ e^{−∫L'/D}/D of D = ηLh*/B, exactly."""
    phi = mori_stationary_exponent(minimum_curvature=2.0, learning_rate=0.3, batch_size=2)
    x = np.linspace(-1.5, 1.5, 20_001)
    loss = (x**2 - 1) ** 2 / 4 + 0.1
    d = 0.3 * 2.0 * loss / 2
    force = (x**3 - x) / d
    potential = np.concatenate([[0], np.cumsum((force[1:] + force[:-1]) / 2 * (x[1] - x[0]))])
    log_density = -potential - np.log(d)
    slope = np.polyfit(np.log(loss), log_density, 1)[0]
    assert slope == pytest.approx(-phi, rel=1e-5)


def test_mori_refused():
    """A zero minimum, losses in the wrong order, no dimension."""
    good = {
        "minimum_curvature": 2.0,
        "saddle_loss": 0.35,
        "minimum_loss": 0.1,
        "learning_rate": 0.1,
        "batch_size": 1,
        "dimension": 1,
        "prefactor": 1.0,
    }
    for bad in ({"minimum_loss": 0.0}, {"minimum_loss": 0.4}, {"dimension": 0}):
        with pytest.raises(ValueError):
            mori_escape_rate(**(good | bad))
