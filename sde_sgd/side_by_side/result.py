"""What `side_by_side` returns: laws over time, distances, verdicts, and what they can see."""

from typing import Any

import equinox as eqx
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ..compare import Comparison, verdict_table
from ..measure.estimate import Estimate
from ..plots.side_by_side import figure as draw_figure
from ..simulate.run import Run


class Observable(eqx.Module):
    """One function of θ on both sides.

    - `samples`: values at each time, by process, (times, members).
    - `means`: Estimate over members at each time, by process, (times,).
    - `step_error`: Estimate of the SDE's own discretisation error of that mean, (times,), or
      None where it was not measured.
    """

    samples: dict[str, np.ndarray]
    means: dict[str, Estimate]
    step_error: Estimate | None


class Distances(eqx.Module):
    """One distance over the times after the start: SGD–SDE, SGD–SGD′ (the floor), the excess.

    `step_error`: how much of the excess at the last time is the SDE's own discretisation error,
    or None where it was not measured.
    """

    distance: Estimate
    floor: Estimate
    excess: Estimate
    step_error: Estimate | None


class SideBySide(eqx.Module):
    """What `side_by_side` found.

    - `runs`: "SGD", "SGD (second ensemble)", "SDE", and "SDE (coarse)", "SDE (fine)" of the
      check of the solver step.
    - `iterations`, `times`: k and t of the snapshots; the first is the start.
    - `observables`, `distances`: by name.
    - `substeps`: solver steps an iteration of the SDE.
    - `comparisons`: verdicts at the last time, in `table`.
    - `unresolved`: where a verdict is open because the solver step is too long, what to do; else
      empty.
    - `paired`: difference SGD − SDE of each observable under common random numbers, or None.
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

    @property
    def table(self) -> str:
        """Verdicts, what they could have seen, and the discretisation errors, as text."""
        lines = [verdict_table(self.comparisons)]
        for row in self.comparisons:
            if row.process == "SGD against SDE":
                visible, error = float(row.smallest_visible), float(row.standard_error)
                lines.append(
                    f"{row.name}: a difference of {visible:.2g} would have been seen "
                    f"({row.threshold:.3g} standard errors of {error:.2g}{_bias(row)})"
                )
        for name, error in self.step_errors.items():
            lines.append(
                f"discretisation error of the SDE's {name}: {float(error.value):.3g} ± "
                f"{float(error.standard_error):.2g} at substeps={self.substeps}, subtracted before "
                f"the verdict"
            )
        if self.unresolved:
            lines.append(self.unresolved)
        return "\n".join(lines)

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
        return draw_figure(self)

    def to_xarray(self) -> xr.Dataset:
        """Samples, means, errors and distances, labelled in k and t."""
        data: dict[str, Any] = {}
        for name, observable in self.observables.items():
            for label, rows in observable.samples.items():
                tag = f"{name}, {label}"
                data[tag] = (("k", f"member of {label}"), rows)
                data[f"{tag}, mean"] = ("k", observable.means[label].value)
                data[f"{tag}, standard_error"] = ("k", observable.means[label].standard_error)
            if observable.step_error is not None:
                data[f"{name}, step_error"] = ("k", observable.step_error.value)
                error = observable.step_error.standard_error
                data[f"{name}, step_error, standard_error"] = ("k", error)
        for name, rows in self.distances.items():
            for field in ("distance", "floor", "excess"):
                estimate = getattr(rows, field)
                data[f"{name}, {field}"] = ("k_after", estimate.value)
                data[f"{name}, {field}, standard_error"] = ("k_after", estimate.standard_error)
        coordinates = {
            "k": self.iterations,
            "t": ("k", self.times),
            "k_after": self.iterations[1:],
            "t_after": ("k_after", self.times[1:]),
        }
        return xr.Dataset(data, coordinates)


def _bias(row: Comparison) -> str:
    return f", and {float(row.bias):.2g} for the solver step" if row.bias > 0 else ""
