"""What `validity` found: numbers, one verdict, a table, a figure."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ..compare._text import number, text_table, with_error
from ..measure.estimate import Estimate
from ..plots.validity import figure as draw_figure
from .local_model import Settings
from .probes import Norms
from .rule import largest, Watched


class Scaling(NamedTuple):
    """Linear scaling η → κη, B → κB: predicted largest D at κ (n,), and the last κ that passes."""

    kappas: Float[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]
    limit: float


class Validity(eqx.Module):
    """When the SDE describes this run. Made by `validity`.

    - `verdict`: "valid: …", "not valid: …" or "undecided: …", with the reason; `valid` is True,
      False or None.
    - `distance`: D predicted along the worst direction, with its error over the explored paths.
    - `watched`: the directions, each with curvature, noise and the signed parts of its D;
      `directions` (d, number): themselves, unit vectors in columns.
    - `norms`: |∇L| and tr Σ of one example at θ (exact); `noise_norm` = √(c tr Σ).
    - `sharpness`: λ_max of ∇²L(θ); `mean_curvature`: tr(HΣ)/tr Σ, with the error of its probes.
    - `growth`: factor per iteration of the second moment in the watched directions, < 1 if
      there is a stationary law.
    - `diverged`: how many of the explored paths left the range of their numbers.
    - `svag`: gaps SGD − SVAG(l) by test function and l; `scaling`: linear scaling.
    - `settings`: η, c, μ, K; `tolerance`; `batch_size`, `num_examples`.
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
    scaling: Scaling
    settings: Settings
    tolerance: float
    batch_size: int
    num_examples: int

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

    @property
    def table(self) -> str:
        """All numbers, and the verdict on the last line, as text."""
        return "\n\n".join([_summary(self), _directions(self), self.verdict])

    def figure(self) -> Figure:
        """D by direction and cause, D under linear scaling, the gap to SVAG(l)."""
        return draw_figure(self)


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
        ("|∇L|, √(c tr Σ)", f"{number(found.norms.gradient)}, {number(found.noise_norm)}"),
        ("c tr Σ/|∇L|² (≥ 1/(C² − 1) for a factor C)", f"{ratio:.4g}, C ≥ {_factor(ratio):.4g}"),
        ("η λ_max, correction 1/(1 − ηλ/2) − 1", _pair(eta * found.sharpness, found)),
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
        ("linear scaling holds up to κ", f"{found.scaling.limit:.3g}"),
    ]
    for name, gaps in found.svag.items():
        unit = "s.d." if name == "loss" else "relative"
        for level, gap in gaps.items():
            value = with_error(float(gap.value), float(gap.standard_error))
            rows.append((f"SGD − SVAG({level}), {name} ({unit})", value))
    return text_table(("quantity", "value"), rows)


def _pair(value: float, found: Validity) -> str:
    return f"{value:.4g}, {found.rate_correction(found.sharpness):.4g}"


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
