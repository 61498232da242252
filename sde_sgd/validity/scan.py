"""`validity_scan`: the predicted distance over batch sizes and learning rates."""

from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import ArrayLike, Float, Int

from sde_sgd._checks import as_float64, check_choice, in_brief, real_values
from sde_sgd.compare._text import text_table
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.netcdf import write_dataset
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.types import Figure, Key
from sde_sgd.validity.checks import check_request, Request
from sde_sgd.validity.cumulants import with_batch
from sde_sgd.validity.lines import at_equal_time
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.measure import announced
from sde_sgd.validity.report import Report
from sde_sgd.validity.rule import largest, State, watch
from sde_sgd.validity.storage import about
from sde_sgd.validity.survey import explore, Explored, Ground, predictor, survey

_FACTORS = 2.0 ** np.arange(-4, 5)


class ValidityScan(eqx.Module):
    """D over batch sizes and learning rates, all at one ηK. Made by `validity_scan`.

    - `learning_rates` (n,), `batch_sizes` (k,): rising, those of the run itself among them.
    - `distances`, `errors` (k, n): D and its standard error; inf where a run diverges, has no
      noise, or steps overshoot.
    - `causes` (k, n): what D is made of above all.
    - `settings` η, c, μ, K and `batch_size` of the run itself; `tolerance`; `sampling`, its name;
      `num_examples`, `num_looked_at`, `dimension`; `explored`: "once" or "each".
    """

    learning_rates: Float[np.ndarray, " n"]
    batch_sizes: Int[np.ndarray, " k"]
    distances: Float[np.ndarray, "k n"]
    errors: Float[np.ndarray, "k n"]
    causes: np.ndarray
    settings: Settings
    batch_size: int
    tolerance: float
    sampling: str
    num_examples: int
    num_looked_at: int
    dimension: int
    explored: str

    @property
    def states(self) -> np.ndarray:
        """(k, n) of "valid", "not valid", and "undecided" where D ± 2 errors straddles it."""
        pairs = zip(self.distances.ravel(), self.errors.ravel(), strict=True)
        said = [State.of(float(d), float(e), self.tolerance).value for d, e in pairs]
        return np.array(said).reshape(self.distances.shape)

    @property
    def batch_limit(self) -> xr.Dataset:
        """By η: `least` and `largest`, the ends of the passing batch sizes that are looked at.

        The run of them that holds this run's B, or the nearest; NaN where none passes. Above
        `largest` SGD stops being its SDE, unless that is the largest looked at.
        """
        least, most = [], []
        for column in (self.states == "valid").T:
            low, high = _run_of(column, self.batch_sizes, float(self.batch_size))
            least.append(low)
            most.append(high)
        coordinates = {"learning_rate": self.learning_rates}
        return xr.Dataset(
            {"least": ("learning_rate", least), "largest": ("learning_rate", most)}, coordinates
        )

    def linear_scaling(self) -> xr.Dataset:
        """D at (κη, κB), for every κ of which the grid has both."""
        eta, kept = self.settings.learning_rate, []
        for i, batch in enumerate(self.batch_sizes):
            near = np.isclose(self.learning_rates, eta * batch / self.batch_size, rtol=1e-6)
            kept += [(i, int(j)) for j in np.flatnonzero(near)]
        rows, columns = (np.array(x, int) for x in zip(*kept, strict=True))
        values = {"distance": self.distances, "error": self.errors, "state": self.states}
        return xr.Dataset(
            {name: ("kappa", array[rows, columns]) for name, array in values.items()},
            {"kappa": self.batch_sizes[rows] / self.batch_size},
        )

    def __repr__(self) -> str:
        return self.table

    @property
    def table(self) -> str:
        """A row a batch size, a column a learning rate: D, with ✓, ✗, or ? where undecided."""
        marks = {"valid": "✓", "not valid": "✗", "undecided": "?"}
        header = ["B \\ η", *(f"{eta:.4g}" for eta in self.learning_rates)]
        rows = [
            [str(batch), *(f"{d:.3g} {marks[s]}" for d, s in zip(row, said, strict=True))]
            for batch, row, said in zip(self.batch_sizes, self.distances, self.states, strict=True)
        ]
        return text_table(header, rows)

    def figure(self) -> Figure:
        """D over (B, η) with the tolerance's contour, and along B for every η."""
        from sde_sgd.plots.validity_scan import figure as draw_figure

        return draw_figure(self)

    def to_xarray(self) -> xr.Dataset:
        """`distance`, `error`, `state`, `cause` over (batch_size, learning_rate)."""
        names = ("batch_size", "learning_rate")
        arrays = {"distance": self.distances, "error": self.errors, "state": self.states}
        arrays["cause"] = self.causes
        coordinates = {"batch_size": self.batch_sizes, "learning_rate": self.learning_rates}
        attributes = about(self) | {"explored": self.explored}
        return xr.Dataset({k: (names, v) for k, v in arrays.items()}, coordinates, attributes)

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF, which `ss.load` reads."""
        write_dataset(self.to_xarray(), path)


def validity_scan(
    landscape: AbstractLandscape,
    sgd: AbstractProcess,
    theta: ArrayLike,
    *,
    key: Key,
    batch_sizes: Any = None,
    learning_rates: Any = None,
    explored: Literal["once", "each"] = "once",
    progress: bool | None = None,
    **options,
) -> ValidityScan:
    """From which batch size on does SGD stop being its SDE? `validity`'s D over B and η.

    Every run is compared at the physical time t = ηK of `sgd` and `num_steps`, so that a column
    of the grid is a fixed η, and its diagonals are linear scaling.

    **Arguments:**

    - `landscape`, `sgd`, `theta`, `key` and `options`: as `validity` (without SVAG and probes).
    - `batch_sizes`, `learning_rates`: the grid, to which the run's own are added; None: 1/16 to 16
      times the run's, batches of at most N.
    - `explored`: "once": runs of `sgd` itself say where the examples are modelled, so that no
      cell costs more than algebra; far from `sgd` a run of that cell may visit other places, wider
      as √(η/B). "each": every cell explores with its own η and B, in its own time ηk, and makes
      models there: that many times the cost of exploring and modelling. Directions are those at
      θ in both.

    **Returns:** `ValidityScan`.

    **Raises:** as `validity`; for an empty grid, sizes or rates out of range.
    """
    request = check_request(landscape, sgd, theta, key=key, **(options | {"svag": ()}))
    check_choice("explored", explored, ("once", "each"))
    own, size = request.settings, request.sgd.sampling.batch_size
    etas = _rates(learning_rates, own.learning_rate)
    sizes = _sizes(batch_sizes, size, request.landscape.num_examples)
    cells = len(etas) * len(sizes)
    once = explored == "once"
    with Report("validity_scan", 7 if once else 4 + 2 * cells, progress) as report:
        examples = announced(request, report, 1 if once else cells, cells)
        ground = survey(request, examples, report)
        foreseen, diverged = None, False
        if once:
            found = _explore(request, request.sgd, own.num_steps, report)
            foreseen, diverged = predictor(request, ground, found, report), bool(found.diverged)
            report.stage("D of other learning rates and batch sizes", cells, "runs")
        shape = (len(sizes), len(etas))
        distances, errors = np.full(shape, np.inf), np.zeros(shape)
        causes = np.full(shape, "", dtype=object)
        for place in np.ndindex(shape):
            batch, eta = int(sizes[place[0]]), float(etas[place[1]])
            cell = _cell(request, ground, batch, eta)
            report.tick(once)
            if isinstance(cell, str):
                causes[place] = cell
                continue
            settings, process = cell
            predict = foreseen
            if predict is None:
                found = _explore(request, process, settings.num_steps, report)
                predict, diverged = predictor(request, ground, found, report), bool(found.diverged)
            if diverged:
                causes[place] = "explored runs diverge"
                continue
            distances[place], errors[place] = predict.distance(settings, process.sampling)
            causes[place] = largest(watch(predict.view, settings, process.sampling)).shares.largest
    return ValidityScan(
        learning_rates=etas,
        batch_sizes=sizes,
        distances=distances,
        errors=errors,
        causes=causes.astype(str),
        settings=own,
        batch_size=size,
        tolerance=request.tolerance,
        sampling=type(request.sgd.sampling).__name__,
        num_examples=request.landscape.num_examples,
        num_looked_at=request.num_looked_at,
        dimension=request.landscape.dimension,
        explored=explored,
    )


def _explore(request: Request, sgd: SGD, num_steps: int, report: Report) -> Explored:
    """The same share of its K as `sgd` itself."""
    steps = max(1, round(request.explore_steps * num_steps / request.settings.num_steps))
    return explore(sgd, request.theta, steps, request.num_paths, request.keys[1], report)


def _cell(request: Request, ground: Ground, batch: int, eta: float) -> tuple[Settings, SGD] | str:
    """Settings and process of a cell, or why there is no SDE that SGD could be."""
    own = request.settings
    if eta * ground.found.sharpness >= 2 * (1 + own.momentum):
        return "steps overshoot"
    scheme = with_batch(request.sgd.sampling, batch)
    factor = scheme.noise_factor(request.landscape.num_examples)
    if factor == 0:
        return "batches have no noise"
    settings = at_equal_time(own, eta)._replace(noise_factor=factor)
    return settings, SGD(request.landscape, eta, scheme, own.momentum)


def _rates(given: Any, own: float) -> np.ndarray:
    rates = own * _FACTORS if given is None else as_float64("learning_rates", given)
    if rates.ndim != 1 or not len(rates) or not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(
            f"learning_rates must be finite numbers > 0 in one row; got {in_brief(given)}."
        )
    # The run's own, of which a rounded copy may be among them.
    kept = rates[~np.isclose(rates, own, rtol=1e-6)]
    return np.unique([*kept, own])


def _sizes(given: Any, own: int, most: int) -> np.ndarray:
    sizes = np.asarray(
        np.rint(own * _FACTORS) if given is None else real_values("batch_sizes", given)
    )
    if given is None:
        sizes = np.clip(sizes, 1, most).astype(int)
    if sizes.ndim != 1 or not len(sizes) or sizes.dtype.kind not in "iu":
        raise ValueError(f"batch_sizes must be integers in one row; got {in_brief(given)}.")
    if sizes.min() < 1 or sizes.max() > most:
        raise ValueError(f"batch_sizes must be from 1 to N = {most}; got {in_brief(given)}.")
    return np.unique([*sizes, own])


def _run_of(passes: np.ndarray, values: np.ndarray, own: float) -> tuple[float, float]:
    """First and last of the run of passing values that holds `own`, or is nearest to it."""
    good = np.flatnonzero(passes)
    if not len(good):
        return np.nan, np.nan
    low = high = good[np.argmin(np.abs(np.log(values[good] / own)))]
    while low > 0 and passes[low - 1]:
        low -= 1
    while high + 1 < len(values) and passes[high + 1]:
        high += 1
    return float(values[low]), float(values[high])
