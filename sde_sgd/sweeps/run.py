"""`sweep`: a function over a grid, cell by cell, each finished one kept."""

import hashlib
import inspect
import json
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from sde_sgd._checks import check_callable, check_key, check_path
from sde_sgd.netcdf import remove_leftovers, write_dataset
from sde_sgd.simulate.fingerprint import describe, unseen
from sde_sgd.simulate.forecast import duration
from sde_sgd.sweeps.cells import CellJob, read_cell
from sde_sgd.sweeps.executors import check_executor, outcomes
from sde_sgd.sweeps.grid import Cell, cells_of, check_grid, key_of, name_of, text_of
from sde_sgd.sweeps.result import check_alike, combine, Sweep
from sde_sgd.terminal import StatusLine
from sde_sgd.types import Key

_WHOLE = "sweep.nc"


def sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    key: Key,
    path: str | Path | None = None,
    executor: Any = None,
    progress: bool | None = None,
) -> Sweep:
    """Runs `function(cell, key)` for every combination of a grid's values.

        def variance(cell, key):
            sgd = ss.SGD(landscape, cell["learning_rate"], ss.WithReplacement(cell["batch_size"]))
            run = ss.simulate(sgd, theta0, num_steps=2000, ensemble_size=256, key=key,
                              measures={"m": ss.Moments(burn_in=500)})
            return {"variance": run["m"].covariance[0, 0]}

        grid = {"learning_rate": [0.1, 0.2, 0.4], "batch_size": [4, 8], "seed": range(5)}
        found = ss.sweep(variance, grid, key=jr.key(0), path="variance")
        found.figure(x="learning_rate", y="variance", hue="batch_size", seed=0)

    The key of a cell is made of `key` and of that cell's own values, so that a grid may grow, and
    numbers do not depend on who computes a cell or when. A cell that fails does not end the sweep:
    its numbers are NaN, a warning gives its reason, and the same call tries it again.

    **Arguments:**

    - `function(cell, key)`: `cell` is a dictionary of the axes' values. It returns an `Estimate`,
      an array, a dictionary of such by name, or an xarray data set; every cell the same shapes.
      With a third parameter `checkpoint` it is given the path of a file of the cell's own, for
      `simulate(..., checkpoint=checkpoint)`: a cell that was killed then goes on where it was.
    - `grid`: axes and their values, numbers or texts (a model by its name, say).
    - `path`: a folder. Each finished cell is a file there, and `sweep.nc` is all of them; a sweep
      that was killed goes on, and one with a larger grid computes what is new. None keeps nothing.
    - `executor`: None computes in this process, where cells that differ in traced numbers only
      (η, keys, starts) share one compilation. Else any object with `submit(job)` and futures with
      `done()` and `result()`: a process pool (with "spawn"), loky, submitit on SLURM (one array
      job; what exceeds the time limit is put back and goes on), Dask's `Client.get_executor()`.
    - `progress`: a line with cells done and time left; None: on a terminal.

    **Returns:** `Sweep`.

    **Raises:** `ValueError` for a grid, an executor or results that do not fit, for a function that
    cannot be sent to another process, for a folder whose cells are those of another function or
    key, and where every cell fails; `KeyboardInterrupt` for Ctrl-C. Finished cells are kept.
    """
    check_callable("function", function, "def function(cell, key)")
    axes, key = check_grid(grid), check_key(key)
    check_executor(executor)
    resumes = "checkpoint" in inspect.signature(function).parameters
    cells = cells_of(axes)
    folder = None if path is None else _folder(path)
    signature = "" if folder is None else _signature(function, key)
    known = {} if folder is None else _known(folder, cells, signature)
    jobs = [(cell, _job(function, cell, key, folder, signature, resumes)) for cell in cells
            if cell.place not in known]  # fmt: skip
    done = _Done(cells, known, StatusLine(progress), len(jobs))
    for cell, outcome in outcomes(jobs, executor):
        done.add(cell, outcome)
    done.line.close(done.text())
    done.tell()
    result = combine(axes, done.found, done.failed)
    if folder is not None:
        write_dataset(result.data, folder / _WHOLE)
    return result


def load(path: str | Path) -> Sweep:
    """The cells that a folder holds, while the sweep goes on as well as after it.

    Axes have the values of those cells, in increasing order. What is not there is NaN.
    """
    folder = check_path("path", path) / "cells"
    files = sorted(folder.glob("*.nc")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{str(path)!r} holds no finished cell of a sweep.")
    read = [read_cell(file) for file in files]
    values = [json.loads(cell.attrs["cell_values"]) for cell in read]
    if len({frozenset(own) for own in values}) > 1:
        several = sorted({", ".join(sorted(own)) for own in values})
        raise ValueError(
            f"{str(path)!r} holds cells of sweeps over other axes: {'; '.join(several)}. Give each "
            f"sweep a folder of its own."
        )
    grid = {axis: sorted({own[axis] for own in values}) for axis in values[0]}
    found = dict(zip([name_of(own) for own in values], read, strict=True))
    places = {cell.place: found[cell.name] for cell in cells_of(grid) if cell.name in found}
    absent = {c.place: "not there" for c in cells_of(grid) if c.name not in found}
    return combine(grid, places, absent)


class _Done:
    """What is finished, what failed, and the line that tells it."""

    def __init__(
        self, cells: list[Cell], known: dict[Any, xr.Dataset], line: StatusLine, left: int
    ):
        self.cells, self.found, self.line, self.left = cells, dict(known), line, left
        self.failed: dict[tuple[int, ...], str] = {}
        self.texts = {cell.place: text_of(cell.values) for cell in cells}
        self.started, self.new = time.monotonic(), 0

    def add(self, cell: Cell, outcome: xr.Dataset | Exception) -> None:
        self.new += 1
        if isinstance(outcome, Exception):
            self.failed[cell.place] = _reason(outcome)
        else:
            if self.found:
                first = next(iter(self.found))
                place = self.texts[cell.place], self.texts[first]
                check_alike(self.found[first], outcome, *place)
            self.found[cell.place] = outcome
        if self.line.due:
            self.line.write(self.text())

    def tell(self) -> None:
        """Warns of cells that failed; raises where all of them did."""
        if not self.failed:
            return
        place, reason = next(iter(self.failed.items()))
        first = f"at {self.texts[place]} {reason}"
        if not self.found:
            raise ValueError(f"Every cell of the sweep failed, the first {first}")
        warnings.warn(
            f"{len(self.failed)} of {len(self.cells)} cells of the sweep failed, the first {first} "
            f"(all of them: .failures). The same call tries them again.",
            stacklevel=3,
        )

    def text(self) -> str:
        text = f"sweep: {len(self.found)} of {len(self.cells)} cells"
        text += f", {len(self.failed)} failed" if self.failed else ""
        left = self.left - self.new
        if left and self.new:
            rest = (time.monotonic() - self.started) / self.new * left
            text += f", about {duration(rest)} left"
        return text


def _reason(error: Exception) -> str:
    """Type, text and place of an error: KeyError: 'eta' (study.py, line 12)."""
    lines = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


def _folder(path: str | Path) -> Path:
    folder = check_path("path", path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path must be a folder; {str(path)!r} is a file.")
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    return folder


def _job(
    function: Callable,
    cell: Cell,
    key: jax.Array,
    folder: Path | None,
    signature: str,
    resumes: bool,
) -> CellJob:
    file = None if folder is None else (folder / "cells" / f"{cell.name}.nc").resolve()
    return CellJob(function, cell.values, key_of(key, cell), file, signature, resumes)


def _signature(function: Callable, key: jax.Array) -> str:
    """What the numbers of a cell depend on beside its values: the function and the key."""
    described = describe(function)
    hidden = unseen(described)
    if hidden:
        raise ValueError(
            f"Whether finished cells are those of this function cannot be told, because "
            f"{'; '.join(hidden[:3])} cannot be looked into. Make it inside the function, or keep "
            f"nothing with path=None."
        )
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jr.key_data(key) if typed else key).tolist()
    parts = {
        "function (its code, or what it uses: a global, a closure, another function)": described,
        "key": [str(key.dtype), words],  # two kinds may have the same words
        "precision": str(jnp.result_type(float)),
    }
    return json.dumps({name: _digest(part) for name, part in parts.items()})


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()


def _changed(one: str, other: str) -> str:
    """The parts in which two signatures differ."""
    before, now = json.loads(one), json.loads(other)
    return " and ".join(name for name in now if before.get(name) != now[name])


def _known(folder: Path, cells: list[Cell], signature: str) -> dict[tuple[int, ...], xr.Dataset]:
    """The cells of this sweep that are finished."""
    known, first = {}, None
    for cell in cells:
        file = folder / "cells" / f"{cell.name}.nc"
        remove_leftovers(file)
        if not file.exists():
            continue
        found = read_cell(file)
        changed = _changed(found.attrs["cell_signature"], signature)
        if changed:
            raise ValueError(
                f"The finished cells in {str(folder)!r} were computed with another {changed}: take "
                f"another path, or delete that folder."
            )
        if first is not None:
            check_alike(known[first.place], found, text_of(cell.values), text_of(first.values))
        first = first or cell
        known[cell.place] = found
    return known
