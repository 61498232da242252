"""A run in stages on the common clock: schedules of the batch size, of anything."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from sde_sgd._checks import check_list, check_part, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import Clock
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions


class Stages(AbstractProcess):
    """One process after another on one clock: process i for `lengths[i]` iterations.

    A schedule of batch sizes is a list of `SGD`s that differ in their sampling, beside it the same
    list of `ModifiedEquation`s; η and B may change together, at any iteration. State goes over from
    stage to stage, momentum too, and random numbers depend on the iteration as ever. Time is the
    sum over stages, t = Σ η_j.

    **Arguments:** `processes` on one landscape, with equal substeps and states of one form (SGD
    with momentum does not follow SGD without); constant learning rates. `lengths`: iterations of
    each, ≥ 1.

    **Raises:** `ValueError` for other lists, and in `simulate` for a run longer than the stages.
    """

    processes: tuple[AbstractProcess, ...]
    lengths: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, processes: Sequence[AbstractProcess], lengths: Sequence[int]):
        self.processes = tuple(check_list("processes", processes, "[ss.SGD(...), ss.SGD(...)]"))
        if not self.processes:
            raise ValueError("processes is empty: Stages needs one at least.")
        for i, process in enumerate(self.processes):
            check_part(f"processes[{i}]", process, AbstractProcess, "a process such as ss.SGD")
        given = check_list("lengths", lengths, "[100, 200]")
        self.lengths = tuple(check_whole(f"lengths[{i}]", n) for i, n in enumerate(given))
        if len(given) != len(self.processes):
            raise ValueError(
                f"lengths must be {len(self.processes)} integers ≥ 1, one a process; got "
                f"{len(given)} of them."
            )
        first = self.processes[0]
        for other in self.processes[1:]:
            if other.landscape is not first.landscape:
                raise ValueError("All stages must move on one and the same landscape object.")
            if other.substeps != first.substeps:
                raise ValueError(
                    f"All stages need equal substeps; got {first.substeps} and {other.substeps}."
                )
        if not all(p.autonomous for p in self.processes):
            raise ValueError("Stages sets the clock: give its processes constant learning rates.")

    @property
    def landscape(self) -> AbstractLandscape:
        """Where all stages move."""
        return self.processes[0].landscape

    @property
    def substeps(self) -> int:
        return self.processes[0].substeps

    @property
    def stages(self) -> tuple[AbstractProcess, ...]:
        return self.processes

    @property
    def two_point(self) -> bool:
        return any(process.two_point for process in self.processes)

    @property
    def num_steps(self) -> int:
        """Iterations there are."""
        return sum(self.lengths)

    def check(self) -> None:
        for process in self.processes:
            process.check()

    def check_start(self, theta: Positions) -> None:
        self.processes[0].check_start(theta)

    def init(self, theta: Positions, draws: Draws) -> Any:
        return self.processes[0].init(theta, draws)

    def step(self, state: Any, draws: Draws, observe: Observe, carry: Any):
        ends = jnp.asarray(np.cumsum(self.lengths)[:-1], jnp.uint32)
        stage = jnp.searchsorted(ends, draws.iteration, side="right")
        branches = [
            lambda s, c, p=process: p.step(s, draws, observe, c) for process in self.processes
        ]
        return lax.switch(stage, branches, state, carry)

    def position(self, state: Any) -> Positions:
        return self.processes[0].position(state)

    @property
    def clock(self) -> Clock:
        return self.processes[0].clock

    def time(self, iterations: np.ndarray) -> np.ndarray:
        counts = np.asarray(iterations)
        total, begin = np.zeros(counts.shape), 0
        for process, length in zip(self.processes, self.lengths, strict=True):
            total = total + process.time(np.asarray(np.clip(counts - begin, 0, length)))
            begin += length
        return np.asarray(total)
