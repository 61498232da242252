"""What `side_by_side` returns: laws over time, distances, verdicts, and what they can see."""

from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr

from sde_sgd._brief import for_stdout
from sde_sgd._checks import check_path
from sde_sgd.compare import Comparison, verdict_table
from sde_sgd.estimate import Estimate
from sde_sgd.netcdf import write_dataset
from sde_sgd.side_by_side.arrays import to_dataset
from sde_sgd.side_by_side.laws import Distances, Observable
from sde_sgd.side_by_side.rows import AGAINST_SDE
from sde_sgd.simulate.run import Run
from sde_sgd.types import Figure


class SideBySide(eqx.Module):
    """What `side_by_side` found.

    - `runs`: "SGD", "SGD (second ensemble)", "SDE", and "SDE (coarse)", "SDE (fine)" of the
      check of the solver step; empty where it was loaded.
    - `iterations`, `times`: k and t of the snapshots; the first is the start.
    - `observables`, `distances`: by name.
    - `substeps`: solver steps an iteration of the SDE.
    - `comparisons`: verdicts at the last time, in `table`.
    - `unresolved`: where a verdict is open because the solver step is too long, what to do; else
      empty.
    - `paired`: difference SGD − SDE of each observable under common random numbers, or None.
    - `alive`: by ensemble, (members,); `deaths`: how many diverged.
    - `stopped`: why it ended early, else empty. Then `complete` is False, `runs` are those that
      were begun, and there are no means, distances and verdicts.
    - `settings`: learning rate, batch size, key, versions and so on, as `save` writes them.
    """

    runs: dict[str, Run]
    iterations: np.ndarray
    times: np.ndarray
    observables: dict[str, Observable]
    distances: dict[str, Distances]
    substeps: int
    comparisons: list[Comparison]
    unresolved: str
    paired: dict[str, Estimate] | None
    alive: dict[str, np.ndarray]
    stopped: str
    settings: dict[str, Any]

    def __repr__(self) -> str:
        how = "" if self.complete else f" (stopped: {self.stopped})"
        return for_stdout(f"SideBySide of {self.title}{how}\n{self.table}")

    @property
    def complete(self) -> bool:
        """Whether all runs came to their end."""
        return not self.stopped

    @property
    def deaths(self) -> dict[str, int]:
        """How many members of each ensemble have diverged."""
        return {label: int((~rows).sum()) for label, rows in self.alive.items()}

    @property
    def verdict(self) -> str:
        """That of all comparisons of SGD and the SDE: the most severe; empty without any."""
        rows = [row.verdict for row in self.comparisons if row.process == AGAINST_SDE]
        for worst in ("disagrees", "inconclusive", "agrees"):
            if worst in rows:
                return worst
        return ""

    @property
    def title(self) -> str:
        """Both sides and their numbers, in one line."""
        s = self.settings
        rate = s["learning_rate"]
        parts = [
            f"η = {rate}" if isinstance(rate, str) else f"η = {float(rate):.4g}",
            f"μ = {float(s['momentum']):.4g}" if s["momentum"] else "",
            f"B = {s['batch_size']}" if "batch_size" in s else "",
            f"N = {s['num_examples']}" if "num_examples" in s else "",
            f"d = {s['dimension']}",
            f"{s['members']} members",
            f"substeps = {self.substeps}",
            f"{s['num_steps']} iterations",
        ]
        return f"{s['sgd']} beside {s['sde']}: " + ", ".join(part for part in parts if part)

    @property
    def table(self) -> str:
        """Verdicts, what they could have seen, deaths, and discretisation errors, as text."""
        if self.stopped:
            return f"side_by_side stopped: {self.stopped}. {self._how_far()} There are no verdicts."
        lines = [self.title, verdict_table(self.comparisons)]
        dead = {label: number for label, number in self.deaths.items() if number}
        if dead:
            sizes = {label: len(rows) for label, rows in self.alive.items()}
            counts = [
                f"{number} of the {sizes[label]} of {label}" for label, number in dead.items()
            ]
            lines.append(f"Diverged: {', '.join(counts)}.")
        for row in self.comparisons:
            if row.process == AGAINST_SDE and np.isfinite(row.threshold):
                visible, error = float(row.smallest_visible), float(row.standard_error)
                lines.append(
                    f"{row.name}: a difference of {visible:.2g} would have been seen "
                    f"({row.threshold:.3g} standard errors of {error:.2g}{_bias(row)})"
                )
            if row.verdict == "inconclusive":
                lines.append(f"{row.name}, {row.process}: inconclusive, {row.reason}")
        for name, error in self.step_errors.items():
            lines.append(
                f"discretisation error of the SDE's {name}: {float(error.value):.3g} ± "
                f"{float(error.standard_error):.2g} at substeps={self.substeps}, subtracted before "
                f"the verdict"
            )
        if self.unresolved:
            lines.append(self.unresolved)
        return for_stdout("\n".join(lines))

    def _how_far(self) -> str:
        if not self.runs:
            return "No run was begun."
        parts = [f"{label} {r.num_steps} of {r.requested_steps}" for label, r in self.runs.items()]
        return f"Iterations done: {', '.join(parts)}."

    @property
    def step_errors(self) -> dict[str, Estimate]:
        """Discretisation errors of the SDE at the last time, by the names of `comparisons`."""
        found = {
            f"mean {name} at the end": observable.step_error[-1]
            for name, observable in self.observables.items()
            if observable.step_error is not None
        }
        for name, rows in self.distances.items():
            if rows.step_error is not None:
                found[f"excess {name} distance at the end"] = rows.step_error
        return found

    def figure(self) -> Figure:
        """Observables over t, their laws at the end, and the distances over t."""
        self._need_all()
        from sde_sgd.plots.side_by_side import figure as draw_figure

        return draw_figure(self)

    def to_xarray(self) -> xr.Dataset:
        """Samples, means, errors and distances over (process, k, member), with the settings.

        Values of members that diverged are NaN, and `alive` tells them; distances are NaN at the
        start. The attributes say what was run, and each variable's `num_samples` how many members
        it is of.
        """
        self._need_all()
        return to_dataset(self)

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF (HDF5); `load_side_by_side` reads it."""
        write_dataset(self.to_xarray(), check_path("path", path))

    def _need_all(self) -> None:
        if self.stopped:
            raise ValueError(
                f"This comparison is not complete ({self.stopped}) and has only its runs: run it "
                f"to the end, with a checkpoint= folder from where it stopped."
            )


def _bias(row: Comparison) -> str:
    return f", and {float(row.bias):.2g} for the solver step" if row.bias > 0 else ""
