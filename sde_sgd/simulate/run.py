"""What a simulation gives back."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TYPE_CHECKING

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from sde_sgd._checks import check_path, in_brief
from sde_sgd.measure.base import MeasureResult
from sde_sgd.netcdf import write_dataset
from sde_sgd.simulate.labels import key_data, Labels, plain_name, schedules, settings, versions
from sde_sgd.simulate.warn import warn

if TYPE_CHECKING:
    from sde_sgd.simulate.driver import Engine


class Run:
    """A finished, interrupted or extended simulation.

    - `run["name"]`: result of a measure, over the members alive; `results` of all, by name. A
      measure whose result could not be made is in `failures`, and `run["name"]` raises that error.
    - `members` (members,): identities of the rows, increasing; all `ensemble_size` of them unless
      the run is a part (`simulate(..., members=...)`), of which `merge` makes one run.
    - `starts`, `positions` (members, d): θ at the first and the last iteration (of a member at
      rest, where it left); `alive` (members,).
    - `num_steps`: iterations done; `requested_steps`; `complete`: whether they are equal;
      `stopped`: why they are not ("interrupted", the budget, "diverged"), else empty.
    - `records`: iterations (n,) and positions (n, members, d) if `record_every` was given.
    - `diverged`: {member: iteration at which it was first not finite}.
    - `seconds`: wall time so far, compilation included; `forecast`: what was foreseen.
    - `member_steps`: iterations computed, all members together: fewer than their number times
      `num_steps` where members at rest were taken out.
    - `settings`: the numbers of the process, the key and versions, as `save` stores them.

    A copy that went through `pickle` has everything that was found, and cannot be extended. Its
    `process` is None where that holds functions that cannot be pickled.
    """

    def __init__(self, engine: "Engine"):
        self._engine: Engine | None = engine
        self._told: dict[str, Any] | None = None
        members = engine.gather()
        self.process: Any = engine.process
        self.num_steps: int = engine.done
        self.requested_steps: int = engine.requested
        self.stopped: str = engine.stopped
        self.ensemble_size: int = engine.ensemble.size
        self.members: Int[np.ndarray, " members"] = engine.ensemble.identities
        self.positions: Float[np.ndarray, "members d"] = engine.positions()
        self.starts: Float[np.ndarray, "members d"] = np.asarray(members.start)
        self.diverged_at: Int[np.ndarray, " members"] = np.asarray(members.diverged_at)
        self.alive: Bool[np.ndarray, " members"] = self.diverged_at < 0
        self.seconds: float = engine.seconds
        self.forecast = engine.forecast
        self.member_steps: int = engine.member_steps
        self.settings: dict[str, Any] = {
            **settings(engine.process),
            "key": key_data(engine.key),
            "on_divergence": engine.on_divergence,
            "refill": int(engine.refill),
            **versions(),
        }
        self.results: dict[str, Any] = {}
        self.failures: dict[str, Exception] = {}
        # At the end of a long run an error costs one result, and not all.
        self._records, self._unjoined = _attempt(engine.records)
        dead = int((~self.alive).sum())
        for name, measure in engine.measures.items():
            carry = members.carries[name]
            found, error = _attempt(measure.result, carry, self.alive, engine.process)
            if error is None:
                self.results[name] = _completed(found, dead, self.members)
            else:
                self.failures[name] = error

    def __getitem__(self, name: str) -> Any:
        if isinstance(name, str) and name in self.failures:
            raise self.failures[name]
        if not isinstance(name, str) or name not in self.results:
            raise KeyError(
                f"No measure {in_brief(name)} in this run; it has {sorted(self.results)}."
            )
        return self.results[name]

    @property
    def records(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Iterations (n,) and positions (n, members, d), None without `record_every`.

        **Raises:** `MemoryError` where they could not be joined.
        """
        if self._unjoined is not None:
            raise self._unjoined
        return self._records

    def remarks(self) -> list[str]:
        """What a reader of the results must know; a run warns of it."""
        found = [f"measures[{name!r}] has no result: {e}" for name, e in self.failures.items()]
        if self._unjoined is not None:
            found.append(f"The records could not be joined ({self._unjoined}); the rest is there.")
        dead = int((~self.alive).sum())
        if dead:
            found.append(
                f"{dead} of {len(self.members)} members of {self.settings['process']} diverged. "
                f"Every mean, at earlier iterations too, is one of the survivors, which is not "
                f"that of all: a smaller learning rate loses none."
            )
        for name, result in self.results.items():
            if getattr(result, "remark", None):
                found.append(f"measures[{name!r}]: {result.remark}")
        return found

    @property
    def complete(self) -> bool:
        """Whether every iteration asked for was done."""
        return self.num_steps == self.requested_steps

    @property
    def time(self) -> float:
        """Physical time t of the last iteration."""
        return self._clock["time"]

    @property
    def _clock(self) -> dict[str, Any]:
        """What the process's clock tells, which a pickled run takes with it."""
        if self._told is not None:
            return self._told
        steps = np.zeros(0, int) if self._records is None else self._records[0]
        return {
            "time": float(self.process.time(np.asarray(self.num_steps))),
            "records": self.process.time(steps),
            "schedules": schedules(self.process, self.num_steps),
        }

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self) | {"_engine": None, "_told": self._clock}
        return state if can_be_pickled(self.process) else state | {"process": None}

    @property
    def diverged(self) -> dict[int, int]:
        """Diverged members and the iteration of each."""
        dead = ~self.alive
        pairs = zip(self.members[dead], self.diverged_at[dead], strict=True)
        return {int(member): int(iteration) for member, iteration in pairs}

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

        **Raises:** `ValueError` for a run that has been extended already, and for a copy.
        """
        if self._engine is None:
            raise ValueError(
                "This run is a copy, which holds what was found and not what goes on: extend the "
                "original, or give simulate a checkpoint and resume from that."
            )
        if self._engine.done != self.num_steps:
            raise ValueError(
                f"This run ended at iteration {self.num_steps} and has been extended to "
                f"{self._engine.done} since: extend the newest result."
            )
        return self._engine.extend(num_steps, progress, checkpoint, budget, on_divergence)

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"stopped short of {self.requested_steps}"
        dead = int((~self.alive).sum())
        part = len(self.members) < self.ensemble_size
        members = f"{len(self.members)}{f' of {self.ensemble_size}' if part else ''} members"
        return (
            f"Run({self.settings['process']}, {members}, "
            f"{self.num_steps} iterations, t={self.time:.6g}, {state}, {dead} diverged, "
            f"measures={sorted(self.results)})"
        )

    def to_xarray(self) -> xr.Dataset:
        """All that was found as labelled arrays, with the numbers of the run as attributes.

        - `position`, `start`, `trajectory` (over k and t), `alive`, `diverged_at` of the run.
        - Of a measure "late": its fields, as `late_values`, along axes of its own, as `late_k`
          with the times `late_t`. `member` is one axis, whose coordinate is identities: those of a
          part in the whole ensemble. Members that a measure left out are NaN
          (−1 among integers). Names are letters, digits and underscores: "loss/train" is
          `loss_train`; the attribute `measure` of a variable is the name as it was given.
        - A learning-rate schedule is the variable `learning_rate` over `learning_rate_k`.
        - Attributes: the fields of the process ("sampling.batch_size"), the size of the landscape,
          key and versions.

        A warning names what no array can hold, such as an object that a user's measure returned.
        """
        labels = Labels(self.members)
        clock = self._clock
        labels.variables |= {
            "position": (("member", "parameter"), self.positions),
            "start": (("member", "parameter"), self.starts),
            "alive": ("member", self.alive),
            "diverged_at": ("member", self.diverged_at),
        }
        if self._records is not None:
            steps, positions = self._records
            labels.variables["trajectory"] = (("k", "member", "parameter"), positions)
            labels.coordinates |= {"k": steps, "t": ("k", clock["records"])}
        for name, (steps, rates) in clock["schedules"].items():
            labels.coordinates[f"{name}_k"] = steps
            labels.variables[name] = (f"{name}_k", rates)
        labels.attributes |= self.settings
        labels.attributes |= {
            "ensemble_size": self.ensemble_size,
            "num_steps": self.num_steps,
            "requested_steps": self.requested_steps,
            "num_diverged": int((~self.alive).sum()),
            "time": self.time,
            "seconds": self.seconds,
            "member_steps": self.member_steps,
        }
        for name, result in self.results.items():
            labels.add(name, result)
        for name, error in self.failures.items():
            labels.attributes[f"{plain_name(name)}_error"] = str(error)
        if self._unjoined is not None:
            labels.attributes["trajectory_error"] = str(self._unjoined)
        if labels.left_out:
            warn(
                f"No array can hold {', '.join(labels.left_out)}: left out of the labelled arrays."
            )
        return xr.Dataset(labels.variables, labels.coordinates, labels.attributes)

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF (HDF5), readable by xarray, Python or ncdump.

        **Raises:** `OSError` where it cannot be written; the old file is then as it was.
        """
        write_dataset(self.to_xarray(), check_path("path", path))


def load(path: str | Path) -> xr.Dataset:
    """The labelled arrays that `Run.save` wrote, or another `save` of this library.

    A measure "loss" with a result of several fields has a variable for each, as `loss_values` and
    `loss_standard_error`; settings and versions are attributes.

    **Raises:** `FileNotFoundError`; `ValueError` for a file that is no netCDF.
    """
    path = check_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            return data.load()
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as what Run.save writes ({error}). A checkpoint is read "
            f"by simulate(..., checkpoint=path)."
        ) from error


def can_be_pickled(process: Any) -> bool:
    """Whether it holds no function that `pickle` cannot find; its arrays are not looked at."""
    return _attempt(pickle.dumps, eqx.partition(process, eqx.is_array)[1])[1] is None


def _attempt(find: Callable, *arguments: Any) -> tuple[Any, Exception | None]:
    try:
        return find(*arguments), None
    except Exception as error:
        return None, error.with_traceback(None)


def _completed(result: Any, dead: int, identities: np.ndarray) -> Any:
    """A measure's result with what only the run knows: the dead, and the identities of rows."""
    if not isinstance(result, MeasureResult):
        return result
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    changed: dict[str, Any] = {
        name: _completed(value, dead, identities)
        for name, value in fields.items()
        if isinstance(value, MeasureResult)
    }
    if result.members is not None:
        changed["members"] = identities[np.asarray(result.members)]
    return dataclasses.replace(result, num_diverged=dead, **changed)


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
            f"{len(named)} of {len(run.members)} members of {run.settings['process']} "
            f"diverged: {first}{more}. The error's .run holds the partial results (members "
            f"alive only); {advice}"
        )

    def __reduce__(self):
        return type(self), (self.run,)
