"""The SDE of SGD has a deterministic twin with the same laws, as good as its score is.

    dθ/dt = −∇L − ½∇·(ηC) − ½ηC ŝ ,     ŝ = s = ∇log p_t: the laws of dθ = −∇L dt + √η C^{1/2} dW .

With ŝ = s + e the law leaves the SDE's by the spurious current −p D e, D = ηC/2: at the rate of the
residual ε = ‖D e‖_{L²(p)}, d/dt W₂ ≤ L̂W₂ + ε, L̂ the one-sided Lipschitz constant of the flow.

Claim: (i) with the exact score the flow of a quadratic in three dimensions has the SDE's covariance
to 1e-6, and in a double well with D = .05(1 + .3x) its members keep their quantile and have the
Fokker–Planck density to the sampling floor, as those of the SDE have; without ½, without ∇·D, or
with Stratonovich's ½∇·D they have not. (ii) With ŝ = (1 + δ)s the gap is that of the exact flow,
with ŝ = s + a that of the accumulated current, proportional to the residual; scores from a kernel
estimate leave a gap; all of them lie below the bound of the residual.

Source: Song et al. 2021 (2011.13456) for the flow; Deveney et al. 2023 (2311.15996) for W₂ and the
Fokker–Planck residual; `sde_sgd.theory.equations.flow_gap` for the bound and first order used here.

Command: python -m experiments probability_flow_gap --preset paper
Subject: equations
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss

from . import _flow, _line
from ._flow_figure import draw_figure
from ._rows import row, scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.1
    """η"""
    steps: tuple[int, ...] = (5, 10, 20, 40)
    """k at which laws are compared, t = ηk"""
    ensemble_size: int = 8000
    """independent members of flow and SDE in the double well"""
    substeps: int = 16
    """Euler steps an iteration of the SDE"""
    cells: int = 240
    """of the Fokker–Planck grid"""
    kernel_size: int = 300
    """members of the SDE from which kernel scores are made"""
    tilts: tuple[float, ...] = (0.03, 0.1, 0.3)
    """a of ŝ = s + a"""
    bandwidths: tuple[float, ...] = (0.2, 0.4)
    """h of the kernel scores, relative to the spread of the sample"""
    relative_errors: tuple[float, ...] = (-0.1, 0.05, 0.1)
    """δ of ŝ = (1 + δ)s on the quadratic"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=100_000,
        substeps=32,
        cells=480,
        kernel_size=2000,
        tilts=(0.01, 0.03, 0.1, 0.3),
        bandwidths=(0.15, 0.2, 0.3, 0.4),
    ),
}

CONTROLS = {"no ∇·D": _flow.DIVERGENCE, "Stratonovich's": _flow.DIVERGENCE / 2}


def times(config: Config) -> np.ndarray:
    """t of the compared laws."""
    return config.learning_rate * np.array(config.steps)


def densities(config: Config) -> list[ss.theory.laws.GridDensity]:
    """p at t = 0 and at the compared times."""
    equation = _flow.fokker_planck(config.cells)
    return equation.propagate(_flow.start_density, [0.0, *times(config)])


def grid_score(config: Config) -> ss.theory.equations.GridScore:
    """s in the double well, until the last compared time."""
    equation, last = _flow.fokker_planck(config.cells), times(config)[-1]
    return ss.theory.equations.GridScore(equation, _flow.start_density, duration=last, num_times=48)


def in_the_well(config: Config, score, starts, key, tilt: float = 0.0, substeps: int = 1):
    """Positions (steps, members) of the flow from `starts`."""
    eta = config.learning_rate
    flow = ss.ProbabilityFlow(_flow.well(tilt), eta, _flow.noise(eta), score, substeps=substeps)
    return members(config, flow, jnp.asarray(starts)[:, None], len(starts), key)


def members(config: Config, process, theta0, size: int, key, at=None) -> np.ndarray:
    """Positions (steps, members) on the line."""
    run = ss.simulate(
        process,
        theta0,
        num_steps=config.steps[-1],
        ensemble_size=size,
        key=key,
        measures={"x": ss.Snapshots(config.steps if at is None else at)},
    )
    return run["x"].values[..., 0]


def pushed_covariances(config: Config, score: ss.theory.equations.AbstractScore, key) -> np.ndarray:
    """(steps, 3, 3): the flow is affine, and its matrix shows on four members."""
    start = _flow.gaussian_score(config.learning_rate).law(0.0)
    flow = _flow.quadratic_flow(config.learning_rate, score)
    begin = np.concatenate([start.mean[None], start.mean + np.eye(3)])
    run = ss.simulate(
        flow,
        jnp.asarray(begin),
        num_steps=config.steps[-1],
        ensemble_size=4,
        key=key,
        measures={"x": ss.Snapshots(config.steps)},
    )
    where = run["x"].values
    matrix = np.swapaxes(where[:, 1:] - where[:, :1], 1, 2)
    return matrix @ start.covariance @ np.swapaxes(matrix, 1, 2)


def kernel_steps(config: Config) -> tuple[int, ...]:
    """k at which the sample of the kernel scores is recorded."""
    return tuple(range(0, config.steps[-1] + 1, 2))


def measure(config: Config, key) -> xr.Dataset:
    """Covariances of the affine flow; members of the double well; quantiles under wrong scores."""
    variables: dict[str, Any] = {}
    exact = _flow.gaussian_score(config.learning_rate)
    for delta in (0.0, 1.0, *config.relative_errors):
        found = pushed_covariances(config, _flow.changed(exact, 1 + delta), key)
        variables[f"covariance δ={delta:g}"] = (("k", "i", "j"), found)

    score, first = grid_score(config), densities(config)[0]
    nodes = first.quantile(_flow.LEVELS)
    keys = jr.split(key, 4)
    drawn = _line.SPREAD * np.asarray(jr.normal(keys[0], (config.ensemble_size,)))
    starts = np.concatenate([nodes, drawn])
    for name, tilt in {"flow": 0.0, **CONTROLS}.items():
        where = in_the_well(config, _flow.changed(score), starts, key, tilt)
        variables[f"{name} quantiles"] = (("k", "node"), where[:, : _flow.NODES])
        variables[f"{name} members"] = (("k", "member"), where[:, _flow.NODES :])
    eta = config.learning_rate
    sde = ss.ModifiedEquation(_flow.well(), eta, _flow.noise(eta), substeps=config.substeps)

    def sampler(k):
        return _line.SPREAD * jr.normal(k, (1,))

    found = members(config, sde, sampler, config.ensemble_size, keys[1])
    variables["SDE members"] = (("k", "member"), found)
    for tilt in config.tilts:
        where = in_the_well(config, _flow.changed(score, shift=tilt), nodes, key)
        variables[f"a={tilt:g} quantiles"] = (("k", "node"), where)
    recorded = members(config, sde, sampler, config.kernel_size, keys[2], kernel_steps(config))
    variables["sample"] = (("recorded", "kernel member"), recorded)
    for width in config.bandwidths:
        where = in_the_well(config, kernel_score(config, recorded, width), nodes, key, substeps=4)
        variables[f"h={width:g} quantiles"] = (("k", "node"), where)
    return xr.Dataset(variables, {"k": list(config.steps), "level": ("node", _flow.LEVELS)})


def kernel_score(
    config: Config, sample: np.ndarray, width: float
) -> ss.theory.equations.KernelScore:
    """Of the recorded members of an SDE that is not the one of the flow's starts."""
    clock = config.learning_rate * np.array(kernel_steps(config))
    return ss.theory.equations.KernelScore(sample[..., None], clock, width)


def gap(config: Config, score, exact) -> ss.theory.equations.FlowGap:
    """Residual, bound and first order of a wrong score in the double well, every half iteration."""
    clock = config.learning_rate * np.arange(2 * config.steps[-1] + 1) / 2
    clock[-1] = exact.last_time
    return ss.theory.equations.grid_flow_gap(
        _flow.fokker_planck(config.cells),
        _flow.start_density,
        exact,
        score,
        clock,
        reach=_flow.REACH,
        nodes=_flow.NODES,
    )


def predict(config: Config) -> dict[str, Any]:
    """Exact covariances, laws under wrong scores, densities, first orders and bounds."""
    exact, clock = _flow.gaussian_score(config.learning_rate), times(config)
    score = grid_score(config)
    return {
        "covariance": np.stack([exact.law(t).covariance for t in clock]),
        "gaussian": {
            delta: ss.theory.equations.gaussian_flow_gap(exact, delta, clock)
            for delta in config.relative_errors
        },
        "densities": densities(config),
        "score": score,
        "tilts": {a: gap(config, _flow.changed(score, shift=a), score) for a in config.tilts},
    }


def kernels(
    config: Config, data: xr.Dataset, predicted
) -> dict[float, ss.theory.equations.FlowGap]:
    """Residual and bound of the kernel scores, which need the recorded sample."""
    if "kernels" not in predicted:
        predicted["kernels"] = {
            width: gap(
                config, kernel_score(config, data["sample"].values, width), predicted["score"]
            )
            for width in config.bandwidths
        }
    return predicted["kernels"]


def distances(data: xr.Dataset, predicted, name: str) -> np.ndarray:
    """W₂ at every k between the law of the quantiles and the density, exact on the line."""
    places = zip(data[f"{name} quantiles"].values, predicted["densities"][1:], strict=True)
    return np.array([_flow.distance(where, density) for where, density in places])


def laws(config: Config, data: xr.Dataset, predicted) -> dict[tuple[str, int], Any]:
    """Members of flow, SDE and controls against the Fokker–Planck density."""
    if "laws" not in predicted:
        predicted["laws"] = {
            (name, place): ss.compare_law(
                data[f"{name} members"].values[place],
                predicted["densities"][place + 1],
                key=jr.key(0),
                edges=_line.EDGES,
                name=f"well, t = {times(config)[place]:g}, Fokker–Planck:",
                process=name if name in ("flow", "SDE") else f"flow, {name}",
                expected="deviate" if name in CONTROLS else "agree",
            )
            for name in ("flow", "SDE", *CONTROLS)
            for place in (1, len(config.steps) - 1)
            if name not in CONTROLS or place > 1
        }
    return predicted["laws"]


def floor(config: Config, data: xr.Dataset, predicted, name: str = "flow"):
    """W₂ of the members at the last time, with its sampling floor."""
    return ss.distances.wasserstein2(
        data[f"{name} members"].values[-1], predicted["densities"][-1], key=jr.key(1)
    )


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Covariances, laws, quantiles and controls; gaps under wrong scores, and their bounds."""
    rows, exact = [], predicted["covariance"]

    def small(value, resolution, name, expected="agree", process="flow, no sampling"):
        rows.append(
            row(
                scalar(value, 0.0, 2),
                0.0,
                name=name,
                process=process,
                expected=expected,
                resolution=resolution,
            )
        )

    def relative(found, reference):
        scale = np.abs(reference).max(axis=(1, 2))
        return float((np.abs(found - reference).max(axis=(1, 2)) / scale).max())

    def covariance(delta):
        return data[f"covariance δ={delta:g}"].values

    text = "quadratic: covariance, largest relative deviation at all t"
    small(relative(covariance(0.0), exact), 1e-6, text)
    small(relative(covariance(1.0), exact), 1e-6, f"{text}, without ½", "deviate")
    for delta, made in predicted["gaussian"].items():
        own = np.stack([law.covariance for law in made.laws])
        named = f"quadratic, ŝ = {1 + delta:g}s:"
        small(relative(covariance(delta), own), 1e-6, f"{named} covariance, relative to its own")
        small(relative(covariance(delta), exact), 1e-6, f"{named} that of the SDE", "deviate")
        small(made.gap[-1], made.bound[-1], f"{named} W₂ below the bound {made.bound[-1]:.3g}")

    for compared in laws(config, data, predicted).values():
        agree = compared.rows[0].expected == "agree"
        rows.extend(compared.rows if agree else compared.rows[-1:])
    half = floor(config, data, predicted).floor / 2
    last = float(distances(data, predicted, "flow").max())
    small(last, half, f"well: W₂ of quantiles at all t, below ½ floor = {half:.2g}")
    kept = max(
        float(np.abs(p.cdf(where) - _flow.LEVELS).max())
        for p, where in zip(predicted["densities"][1:], data["flow quantiles"].values, strict=True)
    )
    small(kept, 1e-3, "well: largest change of a member's quantile")
    for name in CONTROLS:
        value = float(distances(data, predicted, name)[-1])
        small(value, half, "well: W₂ of quantiles", "deviate", f"flow, {name}")

    gaps, residuals = [], []
    for a, made in predicted["tilts"].items():
        found = float(distances(data, predicted, f"a={a:g}")[-1])
        gaps.append(found)
        residuals.append(made.residual[-1])
        name = f"well, ŝ = s + {a:g}: W₂"
        rows.append(
            row(
                scalar(found, 0.0, 2),
                made.gap[-1],
                name=f"{name} of first order",
                process="flow, no sampling",
                resolution=0.05 * made.gap[-1],
            )
        )
        small(found, made.bound[-1], f"{name} below the bound {made.bound[-1]:.3g}")
    slope = np.polyfit(np.log(residuals), np.log(gaps), 1)[0]
    rows.append(
        row(
            scalar(slope, 0.0, 2),
            1.0,
            name="well: exponent of W₂ in the residual",
            process="flow, no sampling",
            resolution=0.03,
        )
    )
    for width, made in kernels(config, data, predicted).items():
        found = float(distances(data, predicted, f"h={width:g}")[-1])
        name = f"well, kernel score, h = {width:g}: W₂"
        small(found, made.bound[-1], f"{name} below the bound {made.bound[-1]:.3g}")
        small(found, half, f"{name} above ½ floor", "deviate")
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """W₂ beside floors, kernel gaps and the growth on the quadratic."""
    predicted, exact = {"densities": densities(config)}, _flow.gaussian_score(config.learning_rate)
    found = {name: floor(config, data, predicted, name) for name in ("flow", "SDE", *CONTROLS)}
    listed = ", ".join(f"{name} {float(d.measured.value):.4f}" for name, d in found.items())
    widths = ", ".join(
        f"{distances(data, predicted, f'h={width:g}')[-1]:.4f} (h = {width:g})"
        for width in config.bandwidths
    )
    grown = []
    for delta in config.relative_errors:
        made = ss.theory.equations.gaussian_flow_gap(exact, delta, times(config)[[0, -1]])
        first, last = (f"{w:.4f} at t = {t:g}" for w, t in zip(made.gap, made.times, strict=True))
        grown.append(f"{first}, {last} (δ = {delta:g})")
    return (
        f"W₂ of members from the Fokker–Planck density at the end: {listed}; floor "
        f"{found['flow'].floor:.4f} ± {found['flow'].floor_spread:.4f}; without sampling "
        f"{distances(data, predicted, 'flow')[-1]:.2g} (grid). Kernel scores: {widths}. On the "
        f"quadratic the gap of a score in error by δ grows: {'; '.join(grown)}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities; quantiles over time; W₂ over the residual; W₂ over time on the quadratic."""
    groups = {"a": predicted["tilts"], "h": kernels(config, data, predicted)}
    found = {
        letter: [distances(data, predicted, f"{letter}={x:g}")[-1] for x in made]
        for letter, made in groups.items()
    }
    half = floor(config, data, predicted).floor
    return draw_figure(config, data, predicted, times(config), groups, found, half)
