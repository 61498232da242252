"""The noise as control variate: it moves no mean, and leaves the share of variance it says."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss
from experiments._controlled import controlled, noise_weights
from experiments._escape import force, well_processes
from sde_sgd.processes import Diffusion

FAILURE_RATE = 2e-5
ETA, MEMBERS, STEPS = 0.1, 512, 20_000
LOW = -3.0


def simulate(process, measure):
    return ss.simulate(
        process,
        jnp.full(1, -1.0),
        num_steps=STEPS,
        ensemble_size=MEMBERS,
        key=jr.key(0),
        measures={"exit": measure},
        refill=True,
    )["exit"]


def exact(diffusion):
    """τ of the kernel equation, and the shift of Σ risk/Σ exits in a window of so many steps.

    E N(t) = t/T + (Var τ/T² − 1)/2 (renewal theory): the ratio is high by that over t/T.
    """
    law = ss.theory.escape.exit_time(Diffusion(force, diffusion, ETA), start=-1.0, exits=1.0)
    mean, lives = float(law.mean), STEPS * ETA / float(law.mean)
    return mean * (1 + (1 - float(law.variance) / mean**2) / 2 / lives)


def agrees(estimate, value):
    return ss.compare(estimate, value, failure_rate=FAILURE_RATE).verdict == "agrees"


def test_the_control_moves_no_mean_and_leaves_the_share_it_says():
    """T of Gaussian SGD at D = .1, and Var(controlled)/Var(plain) by quadrature."""
    process = well_processes(ETA, 0.1, 1)["Gaussian SGD"]
    found = simulate(process, controlled(process, force, 0.1, LOW, 1.0))
    plain = found.plain.mean_time_t
    assert agrees(found.mean_time_t, exact(0.1)) and agrees(plain, exact(0.1))
    share = noise_weights(force, 0.1, ETA, LOW, 1.0)[1]
    assert share < 0.12
    # Ends of windows add a term of order one over the lives in it; an error of 512 members has 6 %.
    measured = float(found.mean_time_t.standard_error / plain.standard_error) ** 2
    assert 0.7 * share < measured < 1.3 * share + 0.05
    # Controls that the plain mean would not see: the SDE's time, 2 % off; iterations taken for t.
    sde = float(ss.theory.escape.mean_exit_time(Diffusion(force, 0.1), start=-1.0, exits=1.0))
    assert not agrees(found.mean_time_t, sde)
    assert not agrees(found.plain.mean_time, exact(0.1))


def test_a_wrong_variance_is_not_hidden():
    """Weights made for D = .1 on a run at .12: the time is that of .12, not that of .1."""
    process = well_processes(ETA, 0.12, 1)["Gaussian SGD"]
    found = simulate(process, controlled(process, force, 0.1, LOW, 1.0)).mean_time_t
    assert agrees(found, exact(0.12))
    assert not agrees(found, exact(0.1))


def test_two_point_gradients_are_not_hidden():
    """The same weights on SGD with gradients V′ ± σ: its own time by collocation."""
    process = well_processes(ETA, 0.1, 1)["SGD"]
    found = simulate(process, controlled(process, force, 0.1, LOW, 1.0)).mean_time_t
    own = ss.theory.escape.exit_time(process, start=-1.0, exits=1.0)
    mean, spread = float(own.mean), float(own.variance)
    shifted = mean * (1 + (1 - spread / mean**2) / 2 * mean / (STEPS * ETA))
    assert agrees(found, shifted)
    assert not agrees(found, exact(0.1))
    assert np.isfinite(float(found.standard_error))
