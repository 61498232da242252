"""Whether two processes are at one physical time after as many iterations."""

import numpy as np

from sde_sgd.processes.base import AbstractProcess


def check_clocks(sgd: AbstractProcess, equation: AbstractProcess, num_steps: int) -> None:
    """Raises `ValueError` where one number of iterations is not one physical time of both."""
    ends = [float(process.time(np.asarray(num_steps))) for process in (sgd, equation)]
    if np.isclose(*ends, rtol=1e-6):
        return
    if sgd.clock == equation.clock:
        way = "Give both the same learning rate or schedule."
    elif "iterations" in sgd.clock:
        way = (
            "Give ss.OptaxSGD the learning_rate of its optimiser, or one of the library's own, "
            "such as ss.Adam(1e-3), which sets the clock by itself."
        )
    else:
        way = (
            "SGD and its equations keep ηk; ss.Adam, ss.RMSprop and ss.SignSGD, in ss.OptaxSGD and "
            "in ss.AdaptiveEquation, keep η²k: give both sides the same optimiser."
        )
    raise ValueError(
        f"The clocks differ: after {num_steps} iterations SGD is at t={ends[0]:.6g} ({sgd.clock}) "
        f"and the equation at t={ends[1]:.6g} ({equation.clock}). {way}"
    )
