"""What a simulation gives back."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, TYPE_CHECKING

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from ..measure.estimate import Estimate
from ..netcdf import write_dataset

if TYPE_CHECKING:
    from .driver import Engine


class Run:
    """A finished, interrupted or extended simulation.

    - `run["name"]`: result of a measure, over the members alive.
    - `starts`, `positions` (members, d): θ at the first and the last iteration (of a member at
      rest, where it left); `alive` (members,).
    - `num_steps`: iterations done; `requested_steps`; `complete`: whether they are equal.
    - `records`: iterations (n,) and positions (n, members, d) if `record_every` was given.
    - `diverged`: {member: iteration at which it was first not finite}.
    - `seconds`: wall time so far, compilation included; `forecast`: what was foreseen.
    - `member_steps`: iterations computed, all members together: fewer than their number times
      `num_steps` where members at rest were taken out.
    """

    def __init__(self, engine: "Engine"):
        self._engine = engine
        members = engine.gather()
        self.process = engine.process
        self.num_steps: int = engine.done
        self.requested_steps: int = engine.requested
        self.ensemble_size: int = engine.plan.ensemble_size
        self.positions: Float[np.ndarray, "members d"] = engine.positions()
        self.starts: Float[np.ndarray, "members d"] = np.asarray(members.start)
        self.diverged_at: Int[np.ndarray, " members"] = np.asarray(members.diverged_at)
        self.alive: Bool[np.ndarray, " members"] = self.diverged_at < 0
        self.records = engine.records()
        self.seconds: float = engine.seconds
        self.forecast = engine.forecast
        self.member_steps: int = engine.member_steps
        self.results: dict[str, Any] = {
            name: measure.result(members.carries[name], self.alive, engine.process)
            for name, measure in engine.measures.items()
        }

    def __getitem__(self, name: str) -> Any:
        if name not in self.results:
            raise KeyError(f"No measure {name!r} in this run; it has {sorted(self.results)}.")
        return self.results[name]

    @property
    def complete(self) -> bool:
        """Whether every iteration asked for was done."""
        return self.num_steps == self.requested_steps

    @property
    def time(self) -> float:
        """Physical time t of the last iteration."""
        return float(self.process.time(np.asarray(self.num_steps)))

    @property
    def diverged(self) -> dict[int, int]:
        """Diverged members and the iteration of each."""
        members = np.flatnonzero(~self.alive)
        return {int(i): int(self.diverged_at[i]) for i in members}

    def extend(
        self,
        num_steps: int,
        *,
        progress: bool | None = None,
        checkpoint: Any = None,
        budget: float | None = None,
        on_divergence: Literal["raise", "mask"] | None = None,
    ) -> "Run":
        """This run continued by `num_steps` more iterations, as if it had never stopped.

        Measures go on accumulating. `progress`, `checkpoint`, `budget` and `on_divergence`
        (None: as before) mean what they mean in `simulate`. The continuation belongs to the
        engine, so only the newest `Run` of a chain can be extended.

        **Raises:** `ValueError` for a run that has been extended already.
        """
        if self._engine.done != self.num_steps:
            raise ValueError(
                f"This run ended at iteration {self.num_steps} and has been extended to "
                f"{self._engine.done} since: extend the newest result."
            )
        return self._engine.extend(num_steps, progress, checkpoint, budget, on_divergence)

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"stopped short of {self.requested_steps}"
        dead = int((~self.alive).sum())
        return (
            f"Run({type(self.process).__name__}, {self.ensemble_size} members, "
            f"{self.num_steps} iterations, t={self.time:.6g}, {state}, {dead} diverged, "
            f"measures={sorted(self.results)})"
        )

    def to_xarray(self) -> xr.Dataset:
        """Final positions, records and measures as labelled arrays, in k and in t.

        A measure's axes carry its name: those of snapshots under "late" are `late_k`,
        `late_member`, and so on, its iterations and times the variables `late_iterations`,
        `late_times`.
        """
        arrays: dict[str, Any] = {
            "position": (("member", "parameter"), self.positions),
            "alive": ("member", self.alive),
            "diverged_at": ("member", self.diverged_at),
        }
        coordinates: dict[str, Any] = {"member": np.arange(self.ensemble_size)}
        if self.records is not None:
            steps, positions = self.records
            arrays["trajectory"] = (("k", "member", "parameter"), positions)
            coordinates["k"] = steps
            coordinates["t"] = ("k", self.process.time(steps))
        for name, result in self.results.items():
            for path, value, axes in _flatten(name, result, ()):
                left = range(len(axes), value.ndim)
                own = [f"{name}_{axis}" for axis in axes] + [f"{path}_dim{i}" for i in left]
                arrays[path] = (tuple(own), value)
        attributes = {
            "process": type(self.process).__name__,
            "num_steps": self.num_steps,
            "time": self.time,
            "seconds": self.seconds,
        }
        return xr.Dataset(arrays, coordinates, attributes)

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF (HDF5), readable by xarray, Python or ncdump.

        **Raises:** `OSError` where it cannot be written; the old file is then as it was.
        """
        write_dataset(self.to_xarray(), path)


def load(path: str | Path) -> xr.Dataset:
    """The labelled arrays that `Run.save` wrote."""
    try:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            return data.load()
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as what Run.save writes ({error}). A checkpoint is read "
            f"by simulate(..., checkpoint=path)."
        ) from error


def _flatten(path: str, value: Any, axes: tuple[str, ...]):
    """Arrays of a result, with the names of their first axes where its class knows them."""
    if isinstance(value, Estimate):
        yield path, value.value, axes
        yield f"{path}_standard_error", value.standard_error, axes
        yield f"{path}_num_samples", np.asarray(value.num_samples), ()
    elif isinstance(value, eqx.Module):
        known = getattr(type(value), "axes", {})
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield from _flatten(f"{path}_{field.name}", inner, known.get(field.name, ()))
    elif value is not None:
        array = np.asarray(value)
        if array.dtype.kind in "bifu":
            yield path, array, axes


class DivergenceError(RuntimeError):
    """Members left the range of their dtype. `run` holds everything computed so far.

    Pass `on_divergence="mask"` to go on with the others.
    """

    def __init__(self, run: Run):
        self.run = run
        named = list(run.diverged.items())
        first = ", ".join(f"member {m} at iteration {k}" for m, k in named[:5])
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        advice = (
            'lower the learning rate, or pass on_divergence="mask" to go on without them.'
            if run.alive.any()
            else "no member is left to go on with: lower the learning rate."
        )
        super().__init__(
            f"{len(named)} of {run.ensemble_size} members of {type(run.process).__name__} "
            f"diverged: {first}{more}. The error's .run holds the partial results (members "
            f"alive only); {advice}"
        )
