"""SVAG(l) leads from SGD (l = 1) to its SDE (l → ∞), and the gap closes as 1/l.

On online least squares, x ~ N(0, a), y = σε, with batches of B fresh examples, SVAG(l) steps by
η/l with noise amplified to keep that of an SGD iteration. Its stationary variance is

    Var = (σ²/B)(1 + κ/B) η/G,   G = 2 − (η/l + η/B)a,   κ = τ/(1 − τ/B),  τ = ηa/G,

exactly, that of Euler's scheme of the SDE at the step η/l, and the SDE's for l → ∞.

Claim: SVAG(l) and the SDE at its solver step have the exact variances, .1, .083333, .076923 and on
for l = 1, 2, 4, …; the distance to the SDE falls as 1/l; and no finite l has the SDE's variance
where the difference can be seen.

Source: Li, Malladi, Arora 2021 (2102.12470), Theorem 4.3; variances by second-moment closure after
Ziyin, Liu, Mori, Ueda 2021 (documented in sde_sgd.theory.stationary.population_least_squares).

Command: python -m experiments svag_converges --preset paper
Subject: equations
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.5
    """η"""
    feature_variance: float = 1.0
    """a"""
    batch_size: int = 4
    """B"""
    label_noise: float = 1.0
    """σ"""
    steps: tuple[int, ...] = (1, 2, 4)
    """l, by increasing size"""
    substeps: int = 8
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 8192
    """independent members a process"""
    num_steps: int = 400
    """iterations a member"""
    burn_in: int = 30
    """iterations left out, from the start at the minimum"""
    resolution: float = 0.01
    """largest relative difference from its own exact value with which a process agrees"""
    told_apart: int = 4
    """largest l that must not have the SDE's variance"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        steps=(1, 2, 4, 8, 16), substeps=16, ensemble_size=8192, num_steps=600, told_apart=8
    ),
}


def names(config: Config) -> dict[str, int]:
    """Number of steps an iteration, by process."""
    return {f"SVAG({m})": m for m in config.steps} | {"SDE": config.substeps}


def process(config: Config, name: str, steps: int | None = None) -> ss.AbstractProcess:
    """The process of a name, with `steps` in place of its own number of steps."""
    landscape = ss.landscapes.PopulationLeastSquares(
        [[config.feature_variance]], config.label_noise
    )
    sampling, eta = ss.WithReplacement(config.batch_size), config.learning_rate
    steps = names(config)[name] if steps is None else steps
    if name == "SDE":
        return ss.ModifiedEquation(landscape, eta, ss.MinibatchNoise(sampling), substeps=steps)
    return ss.SVAG(landscape, eta, sampling, steps)


def measure(config: Config, key) -> xr.Dataset:
    """Stationary variance of every process."""
    variables = {}
    for name, own in zip(names(config), jr.split(key, 20), strict=False):
        run = ss.simulate(
            process(config, name),
            jnp.zeros(1),
            num_steps=config.num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"moments": ss.Moments(burn_in=config.burn_in)},
        )
        put(variables, name, run["moments"].covariance[0, 0])
    return xr.Dataset(variables)


def variance(own: ss.AbstractProcess) -> float:
    """The exact variance of a process."""
    return float(ss.theory.stationary.covariance(own)[0, 0])


def predict(config: Config) -> dict[str, float]:
    """The exact variance of every process, of the SDE's limit, and the order of the gap in 1/l."""
    values = {name: variance(process(config, name)) for name in names(config)}
    limit, many = variance(process(config, "SDE").limit()), 2 ** np.arange(3, 8)
    first = f"SVAG({config.steps[0]})"
    gaps = [variance(process(config, first, int(m))) - limit for m in many]
    order = ss.theory.equations.fit_order(1 / many, gaps).order
    return values | {"limit": limit, "order": order}


def fitted(config: Config, gaps: np.ndarray, errors: np.ndarray) -> ss.Estimate:
    """Slope of log|Var(l) − Var(SDE, h → 0)| against log(1/l), all l alike, and its error.

    For the measured gaps and for the exact ones: at these l the latter have no power of 1/l yet.
    """
    x = -np.log(np.array(config.steps, dtype=float))
    lever = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    slope = lever @ np.log(np.abs(gaps))
    return ss.Estimate(slope, np.linalg.norm(lever * errors / gaps), config.ensemble_size)


def orders(config: Config, data: xr.Dataset, predicted) -> tuple[ss.Estimate, ss.Estimate]:
    """Slope of the measured gaps and of the exact ones."""
    found = [get(data, f"SVAG({m})") for m in config.steps]
    gaps = np.array([float(x.value) for x in found]) - predicted["limit"]
    exact = np.array([predicted[f"SVAG({m})"] for m in config.steps]) - predicted["limit"]
    errors = np.array([float(x.standard_error) for x in found])
    return fitted(config, gaps, errors), fitted(config, exact, 0 * errors)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own variance, and against the SDE's limit, which it has not."""
    rows = []
    for name, steps in names(config).items():
        own, measured = predicted[name], get(data, name)
        rows.append(
            ss.compare(
                measured,
                own,
                resolution=config.resolution * own,
                name="variance, own exact value",
                process=name,
            )
        )
        if steps <= config.told_apart and name != "SDE":
            rows.append(
                ss.compare(
                    measured,
                    predicted["limit"],
                    name="variance, SDE (h → 0)",
                    process=name,
                    expected="deviate",
                )
            )
    measured, own = orders(config, data, predicted)
    rows.append(
        ss.compare(
            measured,
            float(own.value),
            resolution=0.15,
            name=f"order of the measured gap in 1/l, l = {config.steps[0]}…{config.steps[-1]}",
            process="SVAG",
        )
    )
    rows.append(
        ss.compare(
            ss.Estimate(predicted["order"], 0.0, 2),
            1.0,
            resolution=0.1,
            name="order of the exact gap in 1/l, l = 8…128",
            process="SVAG",
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How far each l is from the SDE."""
    limit = predict(config)["limit"]
    gaps = ", ".join(f"{float(get(data, n).value) / limit - 1:+.1%}" for n in names(config))
    slope, own = orders(config, data, predict(config))
    return (
        f"Distance to the SDE's variance {limit:.6f} for {', '.join(names(config))}: {gaps}. The "
        f"measured gaps fall as l^−{float(slope.value):.3f} ± {float(slope.standard_error):.3f}, "
        f"the exact ones as l^−{float(own.value):.3f} at these l, and as 1/l beyond."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Variance against 1/l, and the gap to the SDE on logarithmic axes."""
    figure, axes = new_figure(1, 2, width=5.0, height=3.6)
    left, right = axes[0]
    limit, first = predicted["limit"], f"SVAG({config.steps[0]})"
    many = np.unique(np.geomspace(64, 1, 30).round().astype(int))[::-1]
    grid = 1 / many
    exact = np.array([variance(process(config, first, int(m))) for m in many])
    left.plot(grid, exact, color=COLOURS["prediction"], linewidth=1, label="exact")
    left.axhline(limit, color=COLOURS["SDE"], linestyle="--", linewidth=1, label="SDE, h → 0")
    right.loglog(grid, exact - limit, color=COLOURS["prediction"], linewidth=1, label="exact")
    slope = (exact[0] - limit) / grid[0]
    right.loglog(grid, slope * grid, color=COLOURS["other"], linestyle=":", label="∝ 1/l")
    for name, steps in names(config).items():
        colour = COLOURS["SDE" if name == "SDE" else "SGD"]
        measured = get(data, name)
        label = {"SDE": f"SDE, h = η/{steps}", f"SVAG({config.steps[0]})": "SVAG(l)"}.get(name, "")
        where = [1 / steps]
        row = ss.Estimate(measured.value[None], measured.standard_error[None], 2)
        points(left, where, row, label, color=colour)
        gap = ss.Estimate(row.value - limit, row.standard_error, 2)
        points(right, where, gap, label, color=colour)
    left.set_xlabel("1/l, or solver step in iterations")
    left.set_ylabel("stationary variance")
    right.set_xlabel("1/l, or solver step in iterations")
    right.set_ylabel("variance − that of the SDE")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    left.set_title(
        f"η = {config.learning_rate:g}, a = {config.feature_variance:g}, B = {config.batch_size}",
        fontsize=10,
    )
    return figure
