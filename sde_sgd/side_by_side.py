"""The main job: SGD and its SDE from one start, on one clock, compared with errors."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .compare import compare, Comparison, distance_table, paired_difference, verdict_table
from .dynamics.base import AbstractProcess
from .dynamics.continuous import ModifiedEquation
from .landscapes.real_arrays import real_output
from .measure.base import AbstractMeasure
from .measure.estimate import Estimate
from .measure.snapshots import Snapshots
from .plots.side_by_side import figure as draw_figure
from .simulate.engine import simulate
from .simulate.run import Run
from .simulate.validate import starts as checked_starts
from .types import Key


class Observable(eqx.Module):
    """One function of θ on both sides.

    - `samples`: values at each time, by process, (times, members).
    - `means`: Estimate over members at each time, by process, (times,).
    - `step_error`: Estimate of the SDE's own discretisation error of that mean, (times,), or
      None: twice the paired difference of runs at `substeps` and 2·`substeps`.
    """

    samples: dict[str, np.ndarray]
    means: dict[str, Estimate]
    step_error: Estimate | None


class Distances(eqx.Module):
    """One distance over the times after the start: SGD–SDE, SGD–SGD′ (the floor), the excess."""

    distance: Estimate
    floor: Estimate
    excess: Estimate


class SideBySide(eqx.Module):
    """What `side_by_side` found.

    - `runs`: "SGD", "SGD (second ensemble)", "SDE", and "SDE (coarse)", "SDE (fine)" of the
      check of the solver step.
    - `iterations`, `times`: k and t of the snapshots; the first is the start.
    - `observables`, `distances`: by name.
    - `comparisons`: verdicts at the last time, in `table`.
    - `paired`: difference SGD − SDE of each observable under common random numbers, or None.
    """

    runs: dict[str, Run]
    iterations: np.ndarray
    times: np.ndarray
    observables: dict[str, Observable]
    distances: dict[str, Distances]
    comparisons: list[Comparison]
    paired: dict[str, Estimate] | None

    @property
    def table(self) -> str:
        """Verdicts and discretisation errors as text."""
        lines = [verdict_table(self.comparisons)]
        for name, observable in self.observables.items():
            if observable.step_error is not None:
                value = observable.step_error.value[-1]
                error = observable.step_error.standard_error[-1]
                lines.append(
                    f"discretisation error of the SDE's mean {name} at the end: {value:.3g} "
                    f"± {error:.2g} (statistical error {self._error(name):.2g})"
                )
        return "\n".join(lines)

    def _error(self, name: str) -> float:
        return float(self.observables[name].means["SDE"].standard_error[-1])

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


def side_by_side(
    sgd: AbstractProcess,
    sde: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    observables: dict[str, Callable] | None = None,
    snapshots: int | Sequence[int] = 6,
    measures: Mapping[str, AbstractMeasure] | None = None,
    distances: tuple[str, ...] = ("sliced", "energy"),
    step_check: float | int = 0.25,
    paired: bool = False,
    resolution: dict[str, float] | None = None,
    num_bootstrap: int = 100,
    progress: bool | None = None,
    **options: Any,
) -> SideBySide:
    """Runs SGD twice (independent ensembles) and its SDE, and compares their laws.

    **Arguments:**

    - `sgd`, `sde`: two processes on one landscape whose clocks agree.
    - `theta0`, `num_steps`, `ensemble_size`, `measures`, `options`: as in `simulate`; both
      sides get the same starts.
    - `observables`: scalar functions of θ by name; the loss by default.
    - `snapshots`: at how many iterations (or which) the laws are compared.
    - `distances`: between the laws of θ, of "sliced", "energy", "wasserstein".
    - `step_check`: the fraction of the ensemble that is also run at `substeps` and twice as
      many on one Brownian path, for the discretisation error; 0 leaves it out.
    - `paired`: both sides get one key (common random numbers): meaningful where they share
      their noise, as `GaussianSGD` and `ModifiedEquation` do.
    - `resolution`: by observable, the smallest difference of means that matters.

    Compares at the last time: the mean of each observable, and the excess of each distance
    over the floor between two SGD ensembles against zero.
    """
    if ensemble_size < 2:
        raise ValueError(f"A comparison needs ensemble_size ≥ 2; got {ensemble_size}.")
    observables = _check(sgd, sde, num_steps, observables, snapshots, step_check)
    at = _iterations(snapshots, num_steps)
    keys = jr.split(key, 5)
    own = {"positions": Snapshots(at)}
    for name, of in observables.items():
        own[f"of {name}"] = Snapshots(at, of=of)
    watched = {**(measures or {}), **own}
    starts = _starts(theta0, ensemble_size, keys[3], sgd)
    common: dict[str, Any] = dict(num_steps=num_steps, progress=progress, **options)

    def run(process, run_key, members, what) -> Run:
        return simulate(
            process,
            starts if starts.ndim == 1 else starts[:members],
            ensemble_size=members,
            key=run_key,
            measures=what,
            **common,
        )

    runs = {
        "SGD": run(sgd, keys[0], ensemble_size, watched),
        "SGD (second ensemble)": run(sgd, keys[1], ensemble_size, watched),
        "SDE": run(sde, keys[0] if paired else keys[2], ensemble_size, watched),
    }
    errors: dict[str, Estimate] = {}
    if step_check and isinstance(sde, ModifiedEquation) and not sde.refinable:
        warnings.warn(
            f"The step error of {type(sde.solver).__name__} is not measured: its Lévy areas have "
            f"no common path at two step sizes. Pass step_check=0, or compare two runs.",
            stacklevel=2,
        )
    elif step_check and isinstance(sde, ModifiedEquation):
        members = max(2, round(step_check * ensemble_size))
        runs |= {
            label: run(process, keys[4], members, own) for label, process in _two_steps(sde).items()
        }
        errors = {name: _step_error(runs, name) for name in observables}
    found = {name: _observable(runs, name, errors.get(name)) for name in observables}
    laws = _laws(runs, distances, keys[3], num_bootstrap)
    pairs = _paired(runs, observables) if paired else None
    times = np.asarray(sgd.time(np.asarray(at)))
    verdicts = _verdicts(found, laws, resolution or {})
    return SideBySide(runs, np.asarray(at), times, found, laws, verdicts, pairs)


def _check(sgd, sde, num_steps, observables, snapshots, step_check) -> dict[str, Callable]:
    for name, process in (("sgd", sgd), ("sde", sde)):
        if not isinstance(process, AbstractProcess):
            raise ValueError(f"{name} must be a process such as ss.SGD; got {process!r}.")
    if sgd.landscape.dimension != sde.landscape.dimension:
        raise ValueError(
            f"The two processes live on landscapes of {sgd.landscape.dimension} and "
            f"{sde.landscape.dimension} dimensions; a comparison needs one landscape."
        )
    ends = [float(p.time(np.asarray(num_steps))) for p in (sgd, sde)]
    if not np.isclose(*ends, rtol=1e-6):
        raise ValueError(
            f"The clocks differ: after {num_steps} iterations SGD is at t={ends[0]:.6g} and the "
            f"SDE at t={ends[1]:.6g}. Give both the same learning rate or schedule."
        )
    if getattr(sgd, "has_momentum", False) and isinstance(sde, ModifiedEquation):
        warnings.warn(
            "SGD has momentum and ModifiedEquation has none: they are two different dynamics on "
            "the clock t = ηk (the slow motion of heavy ball is 1/(1 − μ) times as fast). Compare "
            "with ss.UnderdampedEquation.",
            stacklevel=3,
        )
    if not 0 <= step_check <= 1:
        raise ValueError(f"step_check must be a fraction in [0, 1]; got {step_check}.")
    probe = jax.ShapeDtypeStruct((sgd.landscape.dimension,), sgd.landscape.dtype)
    chosen = {"loss": sgd.landscape.loss} if observables is None else dict(observables)
    for name, of in chosen.items():
        shape = jax.eval_shape(lambda x, f=of, name=name: real_output(name, f(x)), probe).shape
        if shape != ():
            raise ValueError(f"Observable {name!r} must be scalar; it has shape {shape}.")
    return chosen


def _iterations(snapshots, num_steps: int) -> list[int]:
    if isinstance(snapshots, int):
        if snapshots < 1:
            raise ValueError(f"snapshots must be at least 1; got {snapshots}.")
        # Even in √k: closer together at the start, where the laws change fastest.
        spread = num_steps * (np.arange(snapshots + 1) / snapshots) ** 2
        return sorted({round(k) for k in spread.tolist()})
    return sorted({0, *(int(k) for k in snapshots)})


def _starts(theta0, ensemble_size: int, key: Key, process: AbstractProcess):
    rows = checked_starts(process, theta0, ensemble_size, key)
    return rows[0] if not callable(theta0) and np.ndim(theta0) == 1 else rows


def _two_steps(sde: ModifiedEquation) -> dict[str, ModifiedEquation]:
    def again(substeps: int, refinement: int) -> ModifiedEquation:
        return ModifiedEquation(
            sde.landscape,
            sde.learning_rate.schedule or sde.learning_rate.value,
            sde.noise,
            order=sde.order,
            substeps=substeps,
            increments=sde.increments,
            solver=sde.solver,
            refinement=refinement,
        )

    return {"SDE (coarse)": again(sde.substeps, 2), "SDE (fine)": again(2 * sde.substeps, 1)}


def _step_error(runs: dict[str, Run], name: str) -> Estimate:
    """Error of the mean at `substeps` ≈ 2·(coarse − fine), for a scheme of weak order one."""
    coarse, fine = (runs[f"SDE ({which})"] for which in ("coarse", "fine"))
    both = coarse.alive & fine.alive
    a, b = (_member_rows(r, f"of {name}", both) for r in (coarse, fine))
    difference = Estimate.from_samples((a - b).T)
    return Estimate(2 * difference.value, 2 * difference.standard_error, difference.num_samples)


def _member_rows(run: Run, measure: str, members: np.ndarray) -> np.ndarray:
    """Snapshots (times, members) of chosen members, where only those alive were returned."""
    return run[measure].values[:, members[run.alive]].astype(float)


def _observable(runs: dict[str, Run], name: str, step_error: Estimate | None) -> Observable:
    samples = {
        label: runs[label][f"of {name}"].values.astype(float)
        for label in ("SGD", "SGD (second ensemble)", "SDE")
    }
    means = {label: Estimate.from_samples(rows.T) for label, rows in samples.items()}
    return Observable(samples, means, step_error)


def _laws(runs, names, key: Key, num_bootstrap: int) -> dict[str, Distances]:
    labels = ("SGD", "SDE", "SGD (second ensemble)")
    values = [runs[label]["positions"].values.astype(float) for label in labels]
    tables = []
    for i in range(1, values[0].shape[0]):
        rows = [v[i] for v in values]
        tables.append(
            distance_table(
                *rows, key=jr.fold_in(key, i), distances=names, num_bootstrap=num_bootstrap
            )
        )
    found = {}
    for name in names:
        fields = {}
        for field in ("distance", "floor", "excess"):
            parts = [getattr(table[name], field) for table in tables]
            # A distance per coordinate is summarised by its largest entry.
            picks = [np.argmax(p.value) for p in parts]
            value = np.array([p.value.flat[j] for p, j in zip(parts, picks, strict=True)])
            error = np.array([p.standard_error.flat[j] for p, j in zip(parts, picks, strict=True)])
            fields[field] = Estimate(value, error, parts[0].num_samples)
        found[name] = Distances(**fields)
    return found


def _paired(runs: dict[str, Run], observables) -> dict[str, Estimate]:
    sgd, sde = runs["SGD"], runs["SDE"]
    both = sgd.alive & sde.alive
    found = {}
    for name in observables:
        a, b = (_member_rows(r, f"of {name}", both) for r in (sgd, sde))
        found[name] = paired_difference(a.T, b.T)
    return found


def _verdicts(observables, laws, resolution) -> list[Comparison]:
    unknown = set(resolution) - set(observables)
    if unknown:
        warnings.warn(f"resolution names no observable: {sorted(unknown)}.", stacklevel=3)
    rows = []
    for name, observable in observables.items():
        sgd, sde = observable.means["SGD"][-1], observable.means["SDE"][-1]
        rows.append(
            compare(
                sgd,
                sde,
                resolution=resolution.get(name),
                name=f"mean {name} at the end",
                process="SGD against SDE",
            )
        )
        again = observable.means["SGD (second ensemble)"][-1]
        rows.append(compare(sgd, again, name=f"mean {name} at the end", process="SGD against SGD"))
    for name, law in laws.items():
        rows.append(
            compare(
                law.excess[-1],
                0.0,
                name=f"excess {name} distance at the end",
                process="SGD against SDE",
            )
        )
    return rows
