"""Whether two processes are at one physical time after as many iterations."""

import numpy as np

from .base import AbstractProcess


def check_clocks(sgd: AbstractProcess, sde: AbstractProcess, num_steps: int) -> None:
    """Raises `ValueError` for clocks that differ after `num_steps` iterations."""
    ends = [float(process.time(np.asarray(num_steps))) for process in (sgd, sde)]
    if not np.isclose(*ends, rtol=1e-6):
        raise ValueError(
            f"The clocks differ: after {num_steps} iterations SGD is at t={ends[0]:.6g} and the "
            f"SDE at t={ends[1]:.6g}. Give both the same learning rate or schedule."
        )
