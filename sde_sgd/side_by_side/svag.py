"""SGD beside a stand-in for its SDE where that is out of reach: SVAG(l), extrapolated in 1/l.

SVAG(l) takes 2l batches an iteration, its exact SDE substeps·N examples. The mean of any smooth f
over SVAG(l) is that over the SDE and a series in 1/l, because all moments of its noise are
polynomials in l. From several l the first terms are removed (Richardson extrapolation),

    E f ≈ Σ w_i E f(SVAG(l_i)),   Σ w_i = 1,   Σ w_i l_i^{−q} = 0 for q = 1, ..., n − 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax.random as jr
import numpy as np
import xarray as xr

from sde_sgd._brief import for_stdout
from sde_sgd._checks import check_flag, check_list, check_part, check_progress, check_whole
from sde_sgd.compare import compare, Comparison, verdict_table
from sde_sgd.compare._text import number
from sde_sgd.estimate import Estimate
from sde_sgd.netcdf import write_dataset
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.processes.discrete.svag import SVAG
from sde_sgd.side_by_side.case import make_case, settings_of
from sde_sgd.side_by_side.ensembles import as_folder, Ensembles, Stopped
from sde_sgd.side_by_side.rows import of_survivors
from sde_sgd.simulate.checkpoint import Checkpoint
from sde_sgd.simulate.run import Run
from sde_sgd.simulate.warn import warn
from sde_sgd.types import Key


class SvagLimit(eqx.Module):
    """SGD beside SVAG(l) extrapolated in 1/l. Made by `svag_limit`. It is *not* the SDE.

    - `runs`: "SGD" and "SVAG(l)" for each l; `levels`: the l.
    - `iterations`, `times`: k and t of the snapshots; the first is the start.
    - `means`: by observable and run, Estimates over time; `limits`: by observable, extrapolated.
    - `comparisons`: SGD against the limit at the last time, in `table`.
    - `gradients`: of single examples in an iteration of a member, by run, and of one step of the
      exact SDE (NaN on a population, which has no N).
    - `deaths`: by run, how many members diverged.
    - `stopped`, `complete`, `settings`: as in `SideBySide`.
    """

    runs: dict[str, Run]
    levels: tuple[int, ...]
    iterations: np.ndarray
    times: np.ndarray
    means: dict[str, dict[str, Estimate]]
    limits: dict[str, Estimate]
    comparisons: list[Comparison]
    gradients: dict[str, float]
    deaths: dict[str, int]
    stopped: str
    settings: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether all runs came to their end."""
        return not self.stopped

    @property
    def label(self) -> str:
        """What stands in for the SDE."""
        return f"SVAG({', '.join(map(str, self.levels))}) extrapolated, not the SDE"

    @property
    def table(self) -> str:
        """Verdicts, plain means beside the extrapolated ones, and costs, as text."""
        if self.stopped:
            return f"svag_limit stopped: {self.stopped}. There are no verdicts."
        lines = [f"SGD against {self.label}", verdict_table(self.comparisons)]
        for name, limit in self.limits.items():
            parts = [f"{label} {mean[-1]!r}" for label, mean in self.means[name].items()]
            lines.append(f"mean {name} at the end: {', '.join(parts)}, {self.label} {limit[-1]!r}")
        for row in self.comparisons:
            lines.append(
                f"{row.name}: a difference of {float(row.smallest_visible):.2g} would have been "
                f"seen"
            )
            if row.verdict == "inconclusive":
                lines.append(f"{row.name}: inconclusive, {row.reason}")
        alone, step = self.gradients["SGD"], self.gradients[_STEP]
        total = sum(self.gradients[label] for label in self.runs if label != "SGD")
        lines.append(
            f"gradients of an example an iteration and member: SGD {number(alone)}, all SVAG "
            f"{number(total)} ({number(total / alone)} times SGD); the exact SDE {number(step)} "
            f"for each of its substeps ({number(step / alone)} times SGD)"
        )
        return for_stdout("\n".join(lines))

    def to_xarray(self) -> xr.Dataset:
        """Means over (run, k), the extrapolated ones over k, with the settings."""
        data: dict[str, Any] = {}
        for name, limit in self.limits.items():
            means = list(self.means[name].values())
            data[f"{name}_mean"] = (("run", "k"), np.stack([m.value for m in means]))
            errors = np.stack([m.standard_error for m in means])
            data[f"{name}_standard_error"] = (("run", "k"), errors)
            data[f"{name}_extrapolated"] = ("k", limit.value, {"what": self.label})
            data[f"{name}_extrapolated_standard_error"] = ("k", limit.standard_error)
        coordinates = {
            "run": list(self.runs),
            "k": self.iterations,
            "t": ("k", self.times),
        }
        counted = {f"deaths of {label}": count for label, count in self.deaths.items()}
        return xr.Dataset(data, coordinates, {**self.settings, "table": self.table, **counted})

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF (HDF5)."""
        write_dataset(self.to_xarray(), path)


_STEP = "one step of the exact SDE"


def svag_limit(
    sgd: SGD,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    levels: Sequence[int] = (2, 4),
    observables: dict[str, Callable] | None = None,
    snapshots: int | Sequence[int] = 6,
    resolution: dict[str, float] | None = None,
    allow_deaths: bool = False,
    progress: bool | None = None,
    budget: float | int | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    on_divergence: Literal["raise", "mask"] = "raise",
    **options: Any,
) -> SvagLimit:
    """SGD beside SVAG at several l, extrapolated to l → ∞: means of the SDE without the SDE.

    For networks and data on which an equation's full gradients are out of reach. It gives *means
    of observables*, not laws: a mixture with negative weights has no samples. Costs 2 Σ l times
    SGD, whatever N is; the SDE substeps·N/B times.

    What the extrapolation may have left is allowed for as in `side_by_side`: as much again as the
    last l removed, |difference to the extrapolation without the smallest l| + 2 standard errors.

    **Arguments:** `sgd`: `SGD` without momentum; `levels`: l, two or more, increasing: errors of
    order 1/l to l^{−(n−1)} are removed, and standard errors grow, by 2.2 for (l, 2l) and 3.3 for
    (l, 2l, 4l); others as `side_by_side`.

    **Raises:** `ValueError` for momentum, shuffled epochs (SVAG needs independent batches) and
    wrong options, before the first run.

    **Source:** Li, Malladi, Arora 2021 (2102.12470) for SVAG; the extrapolation is the usual one of
    Richardson.
    """
    check_part("sgd", sgd, SGD, "an ss.SGD, which SVAG describes")
    if sgd.has_momentum:
        raise ValueError(
            f"svag_limit needs ss.SGD without momentum, which SVAG describes; this one has "
            f"momentum={float(sgd.momentum):g}."
        )
    check_progress(progress)
    allow_deaths = check_flag("allow_deaths", allow_deaths)
    given = check_list("levels", levels, "(2, 4)")
    chosen = tuple(check_whole("each of levels", level) for level in given)
    if len(chosen) < 2 or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"levels must be two or more increasing l, such as (2, 4); got {levels}.")
    rate = sgd.learning_rate.schedule or sgd.learning_rate.value
    stages = {f"SVAG({m})": SVAG(sgd.landscape, rate, sgd.sampling, m) for m in chosen}
    case = make_case(
        sgd,
        list(stages.values())[-1],
        theta0,
        num_steps=num_steps,
        ensemble_size=ensemble_size,
        key=key,
        observables=observables,
        snapshots=snapshots,
        distances=(),
        step_check=0,
        resolution=resolution,
        on_divergence=on_divergence,
        budget=budget,
        **options,
    )
    folder = as_folder(checkpoint)
    watched: dict[str, Any] = {n: m for n, m in case.own.items() if n != "positions"}
    ensembles = Ensembles(case.starts, case.num_steps, budget, folder, progress, case.shared)
    stopped = ""
    try:
        with ensembles:
            for i, (label, process) in enumerate({"SGD": sgd, **stages}.items()):
                own = jr.fold_in(case.keys[2], i)
                ensembles.run(label, process, own, case.ensemble_size, watched)
    except Stopped as reason:
        stopped = str(reason)
    runs = ensembles.runs
    means: dict[str, dict[str, Estimate]] = {}
    if not stopped:
        means = {
            name: {label: _mean(run, name) for label, run in runs.items()}
            for name in case.observables
        }
    deaths = {label: int((~run.alive).sum()) for label, run in runs.items()}
    gradients = {label: p.gradients_per_iteration for label, p in {"SGD": sgd, **stages}.items()}
    gradients[_STEP] = float(sgd.landscape.num_examples or np.nan)
    found = SvagLimit(
        runs=runs,
        levels=chosen,
        iterations=np.asarray(case.at),
        times=np.asarray(sgd.time(np.asarray(case.at))),
        means=means,
        limits={name: extrapolate(rows, chosen) for name, rows in means.items()},
        comparisons=[],
        gradients=gradients,
        deaths=deaths,
        stopped=stopped,
        settings=settings_of(case, chosen[-1], allow_deaths),
    )
    if stopped:
        warn(f"{found.table} With checkpoint= (a folder) the same call goes on where it stopped.")
        return found
    rows = [_verdict(found, name, case.resolution.get(name)) for name in means]
    rows = rows if allow_deaths else [of_survivors(row, deaths) for row in rows]
    return eqx.tree_at(lambda f: f.comparisons, found, rows, is_leaf=lambda x: isinstance(x, list))


def weights(levels: Sequence[int]) -> np.ndarray:
    """w_i with Σ w_i = 1 and Σ w_i l_i^{−q} = 0 for q = 1, ..., n − 1: Lagrange's at 1/l = 0."""
    inverse = 1 / np.asarray(levels, dtype=float)
    return np.linalg.solve(np.vander(inverse, increasing=True).T, np.eye(len(inverse))[0])


def extrapolate(means: dict[str, Estimate], levels: Sequence[int]) -> Estimate:
    """Σ w_i E f(SVAG(l_i)) of independent ensembles, by label "SVAG(l)"."""
    rows = [means[f"SVAG({level})"] for level in levels]
    w = weights(levels)
    value = np.tensordot(w, [row.value for row in rows], 1)
    error = np.sqrt(np.tensordot(w**2, [row.standard_error**2 for row in rows], 1))
    return Estimate(value, error, min(row.num_samples for row in rows))


def _mean(run: Run, name: str) -> Estimate:
    return Estimate.from_samples(run[f"of {name}"].values.astype(float).T)


def _verdict(found: SvagLimit, name: str, resolution: float | None) -> Comparison:
    """SGD against the limit, with what the extrapolation may have left as a bias."""
    rows, levels = found.means[name], found.levels
    shorter = np.append(0.0, weights(levels[1:]))
    change = weights(levels) - shorter
    parts = [rows[f"SVAG({level})"][-1] for level in levels]
    removed = sum(w * float(p.value) for w, p in zip(change, parts, strict=True))
    spread = np.hypot.reduce(
        [w * float(p.standard_error) for w, p in zip(change, parts, strict=True)]
    )
    bias = abs(removed) + 2 * spread
    return compare(
        rows["SGD"][-1],
        found.limits[name][-1],
        resolution=resolution,
        bias=float(bias) if np.isfinite(bias) else 0.0,
        name=f"mean {name} at the end",
        process=f"SGD against {found.label}",
    )
