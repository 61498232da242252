"""Noise in the wrong entries of a weight matrix is told apart by the spacing of its levels."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import sde_sgd as ss

ETA, BATCH, SUBSTEPS = 0.05, 10, 2
LANDSCAPE = ss.landscapes.LinearTeacherStudent(np.eye(2), 1.0)
# Every entry that has noise has the right variance 1/B. To first order WᵀW = I + Δ + Δᵀ, the gap
# is 2√((Δ₁₁ − Δ₂₂)² + (Δ₁₂ + Δ₂₁)²), and its mean these multiples of that with noise everywhere.
MASKS = {
    "one row": ([1.0, 1.0, 0.0, 0.0], 1 / np.sqrt(2)),
    "diagonal": ([1.0, 0.0, 0.0, 1.0], 2 / np.pi),
}


@functools.cache
def spacing(name):
    """Mean gap of WᵀW in a run of the SDE."""
    noise = (
        ss.MinibatchNoise(ss.WithReplacement(BATCH))
        if name == "minibatch"
        else ss.ConstantNoise(np.diag(MASKS[name][0]) / BATCH)
    )
    run = ss.simulate(
        ss.ModifiedEquation(LANDSCAPE, ETA, noise, substeps=SUBSTEPS),
        LANDSCAPE.minimum(),
        num_steps=400,
        ensemble_size=1024,
        key=jr.key(3),
        measures={"levels": ss.Spectrum(lambda x: jnp.reshape(x, (2, 2)), "gram", burn_in=150)},
    )
    return run["levels"].spacing[0]


def exact():
    return ss.theory.matrices.teacher_student_spacing(
        learning_rate=ETA, batch_size=BATCH, time_step=ETA / SUBSTEPS
    ).mean


def test_minibatch_noise_has_the_exact_spacing():
    """⟨s⟩ of the SDE at its solver step, known to 1.5 %."""
    found = spacing("minibatch")
    assert found.standard_error < 0.015 * found.value
    assert ss.compare(found, exact()).verdict == "agrees"


@pytest.mark.parametrize("name", MASKS)
def test_noise_in_the_wrong_entries_fails(name):
    """Control: the same check fails, by the factor that first order gives within 4 %."""
    found = spacing(name)
    assert ss.compare(found, exact()).verdict == "disagrees"
    factor = MASKS[name][1] * exact()
    assert ss.compare(found, factor, resolution=0.04 * factor).verdict == "agrees"
