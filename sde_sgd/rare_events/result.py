"""What splitting gives back."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from sde_sgd._brief import for_stdout
from sde_sgd._checks import check_whole
from sde_sgd.estimate import Estimate
from sde_sgd.rare_events.campaign import Campaign, check_streams
from sde_sgd.rare_events.wave import SplittingError
from sde_sgd.simulate.checkpoint import as_checkpoint, Checkpoint
from sde_sgd.simulate.run import can_be_pickled
from sde_sgd.terminal import ended

Saved: TypeAlias = str | Path | Checkpoint | None


class Splitting:
    """Probabilities, rates and times from independent repetitions of splitting.

    - `probability`: Estimate of the chance to reach B before A, from the start or, with a
      surface, from where the process crosses it.
    - `rate`: Estimate of passages to B per iteration, and `mean_time`, its inverse in iterations;
      `rate_t`, `mean_time_t` per unit and in units of t. None without a surface.
    - `cycle_time`: Estimate of the iterations from one crossing of the surface to the next
      that follows a return to A; None without a surface.
    - `reactive_time`: Estimate of the iterations that a path takes from its beginning to B.
    - `probabilities`: (repetitions,) the independent estimates that `probability` averages;
      `repetitions`: which ones they are, all from 0 on unless the result is a part
      (`splitting(..., repetitions=...)`), of which `merge` makes one result.
    - `paths`: `num_paths` reactive paths, (length, d) each: θ by iteration, until B.
    - `num_repetitions` finished, `requested_repetitions`, `complete`; `extinct`, how many of
      them never reached B and count as 0; `num_iterations` simulated, by all replicas together;
      `seconds`.

    Repetitions are the unit of replication: every error comes from their spread. A copy that went
    through `pickle` has everything that was found, and cannot be extended; its `process` is None
    where that holds functions that cannot be pickled.
    """

    def __init__(self, campaign: Campaign):
        self._campaign: Campaign | None = campaign
        found = campaign.finished()
        process = campaign.passage.process
        self.process: Any = process
        self._name = type(process).__name__
        self._whole = None if campaign.part is None else campaign.num_repetitions
        self.requested_repetitions: int = campaign.requested
        self.seconds: float = campaign.seconds
        self.num_iterations: int = campaign.iterations
        paths = [path.positions for path in campaign.paths]
        self.paths: list[Float[np.ndarray, "length d"]] = paths
        empty = np.zeros(0)
        p = empty if found is None else found.probability
        self.probabilities: Float[np.ndarray, " repetitions"] = p
        self.num_repetitions: int = len(p)
        self.repetitions: Int[np.ndarray, " repetitions"] = campaign.identities(0, len(p))
        self.extinct: int = int((p == 0).sum())
        self.probability: Estimate = Estimate.from_samples(p)
        reactive = empty if found is None else np.nan_to_num(found.reactive) / process.substeps
        self.reactive_time: Estimate = ratio(reactive * p, p)
        self.rate: Estimate | None = None
        self.mean_time: Estimate | None = None
        self.rate_t: Estimate | None = None
        self.mean_time_t: Estimate | None = None
        self.cycle_time: Estimate | None = None
        if int(campaign.passage.last_crossing) > 0:
            cycle = empty if found is None else found.cycle / process.substeps
            unit = float(process.time(np.asarray(1)))
            self.cycle_time = Estimate.from_samples(cycle)
            self.rate = ratio(p, cycle)
            self.mean_time = ratio(cycle, p)
            self.rate_t = self.rate / unit
            self.mean_time_t = self.mean_time * unit

    @property
    def complete(self) -> bool:
        """Whether every repetition asked for is finished."""
        return self.num_repetitions == self.requested_repetitions

    def extend(self, num_repetitions: int, budget: float | None = None, checkpoint: Saved = None):
        """This result with `num_repetitions` more, as if they had been asked for at once."""
        more = check_whole("num_repetitions", num_repetitions)
        campaign = self._campaign
        if campaign is not None:
            if campaign.part is not None:
                raise ValueError(
                    f"This result is a part, of {len(campaign.part)} of {campaign.num_repetitions} "
                    f"repetitions: merge all parts and extend the whole, or run other repetitions."
                )
            settings = campaign.settings
            total = self.requested_repetitions + more
            check_streams(total, settings.num_replicas, settings.stride)
        return self._continue(self.requested_repetitions + more, budget, checkpoint)

    def resume(self, budget: float | None = None, checkpoint: Saved = None) -> "Splitting":
        """Goes on with the repetitions that a budget or Ctrl-C left unfinished."""
        return self._continue(self.requested_repetitions, budget, checkpoint)

    def _continue(self, total: int, budget: float | None, checkpoint: Saved) -> "Splitting":
        if self._campaign is None:
            raise ValueError(
                "This result is a copy, which holds what was found and not what goes on: continue "
                "the original, or give splitting a checkpoint and resume from that."
            )
        if self._campaign.requested != self.requested_repetitions:
            raise ValueError(
                f"This result was extended to {self._campaign.requested} repetitions since: "
                f"continue the newest."
            )
        return run(self._campaign, total, budget, as_checkpoint(checkpoint))

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self) | {"_campaign": None}
        return state if can_be_pickled(self.process) else state | {"process": None}

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"of {self.requested_repetitions} requested"
        if self._whole is not None:
            state += f", a part of {self._whole}"
        rate = "" if self.rate is None else f", rate={self.rate} per iteration"
        return for_stdout(
            f"Splitting({self._name}, probability={self.probability}{rate}, "
            f"{self.num_repetitions} repetitions {state}, {self.extinct} extinct, "
            f"{self.seconds:.1f} s)"
        )


def run(
    campaign: Campaign, total: int, budget: float | None, checkpoint: Checkpoint | None
) -> Splitting:
    """Runs the campaign; an error carries what was finished, and so does total extinction."""
    try:
        late = campaign.go(total, budget, checkpoint)
    except SplittingError as error:
        error.result = Splitting(campaign)
        raise
    result = Splitting(campaign)
    # A part may be unlucky where the whole is not.
    if campaign.part is None:
        refuse_extinction(campaign, result)
    if late:
        raise ended("splitting", result)
    return result


def refuse_extinction(campaign: Campaign, result: Splitting) -> None:
    """Raises `SplittingError` where no repetition has reached B."""
    if result.num_repetitions and result.extinct == result.num_repetitions:
        found = campaign.finished()
        assert found is not None
        top, rungs = int(found.top.max()), campaign.passage.num_levels
        base, target = float(campaign.passage.base), float(campaign.passage.target)
        error = SplittingError(
            f"No replica of {result.num_repetitions} repetitions reached level ≥ {target:g}: the "
            f"highest stood at about {base + top / rungs * (target - base):.4g}, and from some "
            f"rung on none went further. Either the level function does not separate (it should "
            f"rise along the way to B), or B cannot be reached, or it needs more replicas "
            f"(num_replicas) and rungs (num_levels)."
        )
        error.result = result
        raise error


def ratio(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """Σ top/Σ bottom over repetitions, with the ratio estimator's standard error."""
    num, total = top.size, bottom.sum()
    if num == 0 or total == 0:
        return Estimate(np.asarray(np.nan), np.asarray(np.inf), num)
    value = top.sum() / total
    residual = top - value * bottom
    error = np.sqrt(num / (num - 1) * (residual**2).sum()) / total if num > 1 else np.inf
    return Estimate(np.asarray(value), np.asarray(error), num)
