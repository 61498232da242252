"""What `validity` found: numbers, one verdict, a table, a figure."""

from pathlib import Path

import equinox as eqx
import numpy as np
import xarray as xr
from jaxtyping import Float

from sde_sgd._brief import for_stdout
from sde_sgd.compare._text import number, text_table, with_error
from sde_sgd.estimate import Estimate
from sde_sgd.netcdf import write_dataset
from sde_sgd.simulate.run import load
from sde_sgd.types import Figure
from sde_sgd.validity.lines import at_equal_time, Line
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.probes import Norms
from sde_sgd.validity.rule import largest, Watched
from sde_sgd.validity.storage import as_dataset, fields


class Validity(eqx.Module):
    """When the SDE describes this run. Made by `validity`.

    - `verdict`: "valid: …", "not valid: …" or "undecided: …", with the reason and the runs that
      would be valid; `valid` is True, False or None.
    - `distance`: D predicted along the worst direction, with its error over the explored paths
      and, of a sample, over examples.
    - `watched`: the directions, each with curvature, noise and the signed parts of its D;
      `directions` (d, number): themselves, unit vectors in columns.
    - `norms`: |∇L| (exact) and tr Σ of one example at θ; `noise_norm` = √(c tr Σ).
    - `sharpness`: λ_max of ∇²L(θ), of a sample a lower bound up to its error; `mean_curvature`:
      tr(HΣ)/tr Σ, with the error of its probes.
    - `growth`: factor per iteration of the second moment in the watched directions, < 1 if
      there is a stationary law.
    - `diverged`: how many of the explored paths left the range of their numbers.
    - `svag`: gaps SGD − SVAG(l) by test function and l.
    - `by_learning_rate`, `by_batch_size`, `scaling`: D along η at this B, B at this η, and κ of
      linear scaling (κη, κB), all at equal ηK, with the passing part of each; `reason`: why no
      part of them is said to pass, if the prediction itself does not hold.
    - `settings`: η, c, μ, K; `tolerance`; `sampling`, the scheme's name; `batch_size`,
      `num_examples`; `num_looked_at`, the examples that D is predicted from.
    - `remarks`: what was left out, and why; `seconds` by stage.
    """

    verdict: str
    distance: Estimate
    watched: list[Watched]
    directions: Float[np.ndarray, "d number"]
    norms: Norms
    sharpness: float
    mean_curvature: Estimate
    growth: float
    diverged: int
    svag: dict[str, dict[int, Estimate]]
    by_learning_rate: Line
    by_batch_size: Line
    scaling: Line
    reason: str
    settings: Settings
    tolerance: float
    sampling: str
    batch_size: int
    num_examples: int
    num_looked_at: int
    remarks: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def largest_learning_rate(self) -> float:
        """Largest η of the passing part, at this B and the same ηK; NaN where none passes.

        `validity` at this η and `num_steps=steps_at(η)` is predicted to say "valid".
        """
        return self.by_learning_rate.high

    @property
    def batch_sizes(self) -> tuple[float, float]:
        """Least and largest B of the passing part, at this η; NaN where none passes."""
        return self.by_batch_size.low, self.by_batch_size.high

    @property
    def scaling_range(self) -> tuple[float, float]:
        """κ of linear scaling between which D passes: the part that holds κ = 1, or the nearest.

        Every κ looked at between the two passes, and the next beyond either does not; NaN where
        none passes.
        """
        return self.scaling.low, self.scaling.high

    def steps_at(self, learning_rate: float) -> int:
        """K of the run with another learning rate and the same ηK."""
        return at_equal_time(self.settings, learning_rate).num_steps

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.directions)

    @property
    def valid(self) -> bool | None:
        """True, False, or None if undecided."""
        return {"valid": True, "not valid": False}.get(self.verdict.split(":")[0])

    @property
    def noise_norm(self) -> float:
        """√(c tr Σ), the size of the noise of one step's gradient."""
        return float(np.sqrt(self.settings.noise_factor * self.norms.noise_trace))

    @property
    def noise_to_gradient(self) -> float:
        """c tr Σ/|∇L|²; inf at a stationary point.

        Li, Malladi, Arora's necessary condition for the SDE of a scale-invariant network at
        equilibrium to hold within a factor C of squared norms: at least 1/(C² − 1).
        """
        slope = self.norms.gradient
        return self.noise_norm**2 / slope**2 if slope > 0 else float("inf")

    @property
    def worst(self) -> Watched:
        """The direction of the largest D."""
        return largest(self.watched)

    @property
    def least_gaussian(self) -> Watched:
        """The direction in which one step's noise is farthest from a Gaussian, by 2γ²/9 + κ²/24."""
        return max(
            self.watched, key=lambda w: 2 * w.shape.skewness**2 / 9 + w.shape.kurtosis**2 / 24
        )

    def rate_correction(self, curvature: float) -> float:
        """Var SGD/Var SDE − 1 in the stationary state of constant noise, 1/(1 − ηh/2) − 1.

        With momentum 1/(1 − ηh/(2(1 + μ))) − 1.
        """
        return _correction(curvature, self.settings)

    def __repr__(self) -> str:
        return self.table

    @property
    def table(self) -> str:
        """All numbers, and the verdict on the last line, as text."""
        parts = _summary(self), _directions(self), *self.remarks, self.verdict
        return for_stdout("\n\n".join(parts))

    def figure(self) -> Figure:
        """D by direction and cause, along η, B and linear scaling, the gap to SVAG(l)."""
        from sde_sgd.plots.validity import figure as draw_figure

        return draw_figure(self)

    def to_xarray(self) -> xr.Dataset:
        """All of it as labelled arrays, the run, the verdict and the libraries as attributes."""
        return as_dataset(self)

    def save(self, path: str | Path) -> None:
        """Writes `to_xarray()` as netCDF (HDF5), which `Validity.load` and `ss.load` read."""
        write_dataset(self.to_xarray(), path)

    @staticmethod
    def load(path: str | Path) -> "Validity":
        """The verdict that `save` wrote, with its table and figure.

        **Raises:** `ValueError` for a file that it did not write.
        """
        return Validity(**fields(load(path)))


def _correction(curvature: float, settings: Settings) -> float:
    gap = 1 - settings.learning_rate * curvature / (2 * (1 + settings.momentum))
    return 1 / gap - 1 if gap > 0 else float("inf")


def _summary(found: Validity) -> str:
    s, eta = found.settings, found.settings.learning_rate
    mean, error = (
        float(x) for x in (found.mean_curvature.value, found.mean_curvature.standard_error)
    )
    weighted = found.rate_correction(mean)
    slope = found.rate_correction(mean + error) - weighted
    ratio = found.noise_to_gradient
    least, strange = found.worst, found.least_gaussian
    rows = [
        ("learning rate, momentum, iterations", f"{eta:g}, {s.momentum:g}, {s.num_steps}"),
        ("batch, examples, c", f"{found.batch_size}, {found.num_examples}, {s.noise_factor:.4g}"),
        ("examples that D is predicted from", str(found.num_looked_at)),
        ("|∇L|, √(c tr Σ)", f"{number(found.norms.gradient)}, {number(found.noise_norm)}"),
        ("c tr Σ/|∇L|² (≥ 1/(C² − 1) for a factor C)", f"{ratio:.4g}, C ≥ {_factor(ratio):.4g}"),
        (f"η λ_max, correction {_formula(s.momentum)}", _pair(eta * found.sharpness, found)),
        ("η tr(HΣ)/tr Σ", with_error(eta * mean, eta * error)),
        ("correction at that curvature", with_error(weighted, abs(slope))),
        ("growth of the second moment per iteration", f"{found.growth:.6g}"),
        ("explored paths that diverged", str(found.diverged)),
        (
            f"farthest from Gaussian: {strange.name}",
            f"skewness {strange.shape.skewness:.3g}, kurtosis {strange.shape.kurtosis:.3g}, "
            f"reach {strange.shape.push:.3g} s.d.",
        ),
        ("correlation of two steps of an epoch", f"{least.correlation:.4g}"),
        *(_along(*line) for line in _lines(found)),
    ]
    for name, gaps in found.svag.items():
        unit = "s.d." if name == "loss" else "relative"
        for level, gap in gaps.items():
            value = with_error(float(gap.value), float(gap.standard_error))
            rows.append((f"SGD − SVAG({level}), {name} ({unit})", value))
    return text_table(("quantity", "value"), rows)


def _lines(found: Validity) -> list[tuple[str, Line, float]]:
    return [
        ("η that pass, at this B and ηK", found.by_learning_rate, found.tolerance),
        ("B that pass, at this η and K", found.by_batch_size, found.tolerance),
        ("κ that pass, linear scaling (κη, κB)", found.scaling, found.tolerance),
    ]


def _along(name: str, line: Line, tolerance: float) -> tuple[str, str]:
    looked_at = f"looked at {line.values[0]:.6g} to {line.values[-1]:.6g}"
    low, high = line.undecided(tolerance)
    open_ = "" if np.isnan(low) else f", undecided {low:.6g} to {high:.6g}"
    passing = "none" if np.isnan(line.low) else f"{line.low:.6g} to {line.high:.6g}"
    return name, f"{passing}{open_} ({looked_at})"


def _pair(value: float, found: Validity) -> str:
    return f"{value:.4g}, {found.rate_correction(found.sharpness):.4g}"


def _formula(momentum: float) -> str:
    return "1/(1 − ηλ/2) − 1" if momentum == 0 else "1/(1 − ηλ/(2(1+μ))) − 1"


def _factor(ratio: float) -> float:
    return float(np.sqrt(1 + 1 / ratio)) if ratio > 0 else float("inf")


def _directions(found: Validity) -> str:
    header = (
        "direction", "curvature", "± examples", "noise s.d.", "skewness", "kurtosis", "reach",
        "spread", "D", "mean", "rate", "epochs", "skew", "tails",
    )  # fmt: skip
    rows = []
    for w in found.watched:
        shares = w.shares
        values = (
            w.curvature, w.curvature_noise, w.shape.deviation, w.shape.skewness, w.shape.kurtosis,
            w.shape.push, w.spread, shares.distance, *shares,
        )  # fmt: skip
        rows.append([w.name, *(f"{v:.3g}" for v in values)])
    return text_table(header, rows)
