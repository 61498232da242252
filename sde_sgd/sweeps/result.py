"""A sweep as one labelled data set, printed and drawn."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from sde_sgd._brief import for_stdout
from sde_sgd._checks import in_brief
from sde_sgd.estimate import Estimate
from sde_sgd.types import Figure


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a function gave in every cell of a grid. Made by `sweep`.

    **Fields:**

    - `data`: variables over the axes of the grid, followed by their own dimensions: for an
      Estimate `name`, `name_standard_error`, `name_num_samples`. NaN where a cell failed;
      `cell_failure` has the reason ("" where there is none), `cell_seconds` how long it took.
    - `axes`: names of the grid's axes.
    """

    data: xr.Dataset
    axes: tuple[str, ...]

    @property
    def failures(self) -> dict[str, str]:
        """Reasons of the cells that failed, by their values."""
        reasons = self.data["cell_failure"]
        return {
            ", ".join(
                f"{axis}={reasons[axis].values[i].item()}"
                for axis, i in zip(self.axes, place, strict=True)
            ): str(reasons.values[tuple(place)])
            for place in np.argwhere(reasons.values != "")
        }

    def estimate(self, name: str, **cell: Any) -> Estimate:
        """A measured variable, in the cells with these values of some axes.

        sweep.estimate("variance", learning_rate=0.1, seed=0)
        """
        self._check_measured(name)
        chosen = self._select(cell)
        counts, error = (chosen[f"{name}_{p}"].values for p in ("num_samples", "standard_error"))
        return Estimate(
            chosen[name].values,
            np.where(np.isnan(error), np.inf, error),
            int(np.nanmin(counts)) if np.isfinite(counts).any() else 0,
        )

    def mean(self, axis: str) -> "Sweep":
        """The mean over an axis of the grid, seeds say, of what was measured.

        x̄ = Σ x_i/n with the error √(Σ se_i²)/n of independent cells, those that did not fail;
        `num_samples` adds up. Variables without an error get the standard error of their spread.
        """
        if axis not in self.axes:
            raise ValueError(f"{axis!r} is no axis of this sweep: {', '.join(self.axes)}.")
        found = self.data.drop_vars(["cell_failure", "cell_seconds"])
        means = xr.Dataset(attrs=found.attrs)
        for name in map(str, found.data_vars):
            if name.endswith(("_standard_error", "_num_samples")) or found[name].dtype == object:
                continue
            values = found[name]
            count = values.notnull().sum(axis)
            means[name] = values.mean(axis)
            if f"{name}_standard_error" in found:
                error = found[f"{name}_standard_error"].where(values.notnull())
                means[f"{name}_standard_error"] = np.sqrt((error**2).sum(axis)) / count
                means[f"{name}_num_samples"] = found[f"{name}_num_samples"].sum(axis)
            else:
                means[f"{name}_standard_error"] = values.std(axis, ddof=1) / np.sqrt(count)
                means[f"{name}_num_samples"] = count
        means["cell_seconds"] = self.data["cell_seconds"].sum(axis)
        failed = (self.data["cell_failure"] != "").sum(axis)
        means["cell_failure"] = xr.where(failed > 0, failed.astype(str) + " failed", "")
        return Sweep(means, tuple(a for a in self.axes if a != axis))

    def figure(self, x: str, y: str, hue: str | None = None, **cell: Any) -> Figure:
        """`y` over the axis `x`, a colour for each value of `hue`, bars of one standard error.

            sweep.figure(x="learning_rate", y="variance", hue="batch_size", seed=0)

        **Arguments:** `cell`: a value for every other axis that has several, and an index for
        every dimension of `y` itself.

        **Raises:** `ValueError` for unknown names, and for axes that are left.
        """
        from sde_sgd.plots.sweep import figure

        for axis in (x, hue):
            if axis is not None and axis not in self.axes:
                raise ValueError(f"{axis!r} is no axis of this sweep: {', '.join(self.axes)}.")
        self._check_variable(y)
        drawn = self._select(cell).squeeze([a for a in self.axes if self.data.sizes[a] == 1 and
                                            a not in (x, hue, *cell)])  # fmt: skip
        left = [d for d in drawn[y].dims if d not in (x, hue)]
        if left:
            raise ValueError(
                f"{y} has the further axes {', '.join(map(str, left))}: choose a value of each, "
                f"figure(x={x!r}, y={y!r}, {left[0]}=...)."
            )
        return figure(drawn, x, y, hue)

    def _select(self, cell: Mapping[str, Any]) -> xr.Dataset:
        chosen = self.data
        for axis, value in cell.items():
            if axis not in chosen.dims:
                raise ValueError(f"{axis!r} is no axis of this sweep: {', '.join(self.axes)}.")
            try:
                if axis in chosen.coords:
                    chosen = chosen.sel({axis: value})
                else:
                    chosen = chosen.isel({axis: value})
            except (KeyError, IndexError, TypeError):
                known = self.data[axis].values.tolist()
                raise ValueError(f"{axis} has no {in_brief(value)}; it has {known}.") from None
        return chosen

    def _check_variable(self, name: str) -> None:
        if name not in self.data:
            gave = ", ".join(self._names())
            raise ValueError(f"The function of this sweep gave no {name!r}; it gave {gave}.")

    def _names(self) -> list[str]:
        """What the function returned, without the errors of it."""
        names = [str(name) for name in self.data if not str(name).startswith("cell_")]
        errors = tuple(f"{n}{part}" for n in names for part in ("_standard_error", "_num_samples"))
        return [name for name in names if name not in errors]

    def _check_measured(self, name: str) -> None:
        self._check_variable(name)
        if f"{name}_standard_error" not in self.data:
            raise ValueError(f"{name!r} has no standard error: take .data[{name!r}].")

    def __repr__(self) -> str:
        sizes = " × ".join(f"{self.data.sizes[axis]} {axis}" for axis in self.axes)
        seconds, failed = self.data["cell_seconds"].values, self.failures
        names = ", ".join(self._names())
        lines = [
            f"Sweep over {sizes}: {seconds.size - len(failed)} of {seconds.size} cells, "
            f"{np.nansum(seconds):.3g} s of work; {names}",
            *(f"  failed at {cell}: {reason}" for cell, reason in [*failed.items()][:5]),
        ]
        if len(failed) > 5:
            lines.append(f"  and {len(failed) - 5} more (`failures`)")
        return for_stdout("\n".join(lines))


def combine(
    grid: Mapping[str, list[Any]],
    found: Mapping[tuple[int, ...], xr.Dataset],
    failed: Mapping[tuple[int, ...], str],
) -> Sweep:
    """One data set over the grid; cells without a result are NaN, "" or 0."""
    shape = tuple(len(values) for values in grid.values())
    data = xr.Dataset(coords={axis: np.asarray(values) for axis, values in grid.items()})
    seconds, reasons = np.full(shape, np.nan), np.full(shape, "", object)
    for place, reason in failed.items():
        reasons[place] = reason
    whole = len(found) == int(np.prod(shape))
    for place, cell in found.items():
        seconds[place] = cell.attrs["cell_seconds"]
    first = next(iter(found.values()), xr.Dataset())
    for name, variable in first.data_vars.items():
        parts = np.full(shape + variable.shape, *_empty(variable.values, whole))
        for place, cell in found.items():
            parts[place] = cell[name].values
        data[name] = ((*grid, *variable.dims), parts, variable.attrs)
    data = data.assign_coords({n: c for n, c in first.coords.items()})
    data["cell_seconds"] = (tuple(grid), seconds, {"units": "s"})
    data["cell_failure"] = (tuple(grid), reasons)
    return Sweep(data, tuple(grid))


def check_alike(first: xr.Dataset, cell: xr.Dataset, where: str, first_at: str) -> None:
    """Raises `ValueError` for a cell of other variables, axes or labels than the first."""
    for name in sorted({*map(str, first.data_vars), *map(str, cell.data_vars)}):
        told = [f"{dict(d[name].sizes)}" if name in d else "absent" for d in (first, cell)]
        if told[0] != told[1]:
            raise ValueError(
                f"Cells of a sweep must return the same variables and axes: {name!r} is {told[0]} "
                f"at {first_at} and {told[1]} at {where}. What is finished is kept."
            )
    for name, labels in first.coords.items():
        if name not in cell.coords or not labels.equals(cell.coords[name]):
            raise ValueError(
                f"Cells of a sweep must return the same labels: those of {str(name)!r} differ "
                f"between {first_at} and {where}. What is finished is kept."
            )


def _empty(values: np.ndarray, whole: bool) -> tuple[Any, Any]:
    """The filling of cells without a result, and the dtype that holds it."""
    if values.dtype.kind in "US":
        return "", object
    if values.dtype.kind == "f" or not whole:
        return np.nan, np.result_type(values.dtype, np.float32)
    return 0, values.dtype
