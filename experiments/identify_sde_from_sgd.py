"""Which SDE would a reader of SGD's trajectory have written down? It depends on how he reads.

Positions at a lag τ give E[Δθ | θ] and E[Δθ² | θ], and from these b and a = 2D of dθ = b dt + √a dW
(Itô). On least squares in one dimension both are polynomials at any lag, exactly: with P the map of
(1, θ, θ²) over an iteration, the readings at m iterations follow from P^m, and log(P)/η is the
generator of the SDE that has SGD's moments at every iteration. In a double well with noise that
depends on x, moments over m iterations come from the master equation.

Claim: read at one iteration, b = −∇L and a = ηcΣ at any learning rate, once the squared drift is
taken off: the order-one modified equation, whose stationary variance is not SGD's. Naive
Kramers–Moyal has a = ηcΣ + η∇L²: a biased coefficient, and SGD's variance. Over longer lags b is
off by (τ/2)𝓛b; extrapolated to lag zero it is the drift of the *second*-order modified equation;
the log map has SGD's moments at every iteration. Intervals cover. A sparse basis finds the terms of
a curved double well in the plane, and no others.

Source: Kramers–Moyal: Risken 1989; finite lag: Gottschall & Peinke 2008; sparse basis: Brunton et
al. 2016; second-order equation: Li, Tai, E 2019. The finite-η readings are derived here
(sde_sgd.theory.equations.identification).

Command: python -m experiments identify_sde_from_sgd --preset paper
Subject: equations
"""

import dataclasses
from typing import Any

import jax.random as jr
import numpy as np
import xarray as xr
from scipy.special import stdtrit

import sde_sgd as ss

from . import _line, _readings as problems
from ._readings import LINE, NOISE, PARABOLA, PLANE, POINTS, PROCESSES, READINGS, SNAPSHOTS
from ._readings_figure import draw_figure
from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.2
    """η on least squares, of curvature 1"""
    well_learning_rate: float = 0.05
    """η in the double well"""
    plane_learning_rate: float = 0.05
    """η in the plane"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps"""
    long_lag: int = 4
    """iterations of the longer lag"""
    ensemble_size: int = 16_000
    """independent members a process on least squares"""
    plane_size: int = 4000
    """members in the plane"""
    well_ensemble_size: int = 8000
    """members a process in the double well"""
    num_steps: int = 40
    """iterations of a member, all recorded"""
    repetitions: int = 200
    """of the whole reading, on members of its own, for the coverage of its intervals"""
    members: int = 256
    """members of a repetition"""
    repeated_steps: int = 20
    """iterations of these members"""
    snapshot_repetitions: int = 100
    """the same for the log map and for snapshots, which need starts that are spread out"""
    snapshot_members: int = 800
    """members of such a repetition"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=64_000,
        plane_size=40_000,
        well_ensemble_size=80_000,
        repetitions=1000,
        members=512,
        snapshot_repetitions=400,
        snapshot_members=1500,
    ),
}


def trajectories(process, where, size: int, num_steps: int, key) -> np.ndarray:
    """All positions (num_steps + 1, size, d)."""
    run = ss.simulate(
        process, where, num_steps=num_steps, ensemble_size=size, key=key, record_every=1
    )
    assert run.records is not None
    return run.records[1]


def readings(config: Config, seen: np.ndarray) -> dict[str, ss.identify.FittedSDE]:
    """Every reading of trajectories on least squares."""
    eta, far = config.learning_rate, config.long_lag

    def regression(correction, lag):
        return ss.identify.sparse(
            seen, LINE, PARABOLA, time_step=eta, lag=lag, correction=correction, failure_rate=None
        )

    snapshots = ss.identify.from_snapshots(
        seen[list(SNAPSHOTS)], eta * np.array(SNAPSHOTS), LINE, PARABOLA, linked=True
    )
    return {
        "naive": regression("naive", 1),
        "centred": regression("centred", 1),
        "naive, long lag": regression("naive", far),
        "extrapolated": regression("extrapolated", 1),
        "log map": ss.identify.linear(seen, time_step=eta),
        "log map, long lag": ss.identify.linear(seen, time_step=eta, lag=far),
        "snapshots": snapshots.equation,
    }


def exact(config: Config, process: str, reading: str) -> ss.theory.equations.ReadEquation:
    """What a reading of a process tends to; "limit" is −∇L and ηcΣ."""
    return problems.exact(config.learning_rate, config.substeps, config.long_lag, process, reading)


def covers(
    found: ss.identify.FittedSDE, value: ss.theory.equations.ReadEquation, shrink: float = 1.0
) -> np.ndarray:
    """Whether the 95 % interval of each of the five coefficients holds the exact value."""
    half = shrink * stdtrit(found.drift.num_samples - 1, 0.975)
    inside = []
    for estimate, target in (
        (found.drift[0], value.drift),
        (found.variance_rate[0, 0], value.variance_rate),
    ):
        low, high = estimate.interval(half)
        inside.append((low <= target) & (target <= high))
    return np.concatenate(inside)


def repeated(config: Config, name: str) -> int:
    """Repetitions behind a coverage."""
    spread = name in ("log map", "snapshots")
    return config.snapshot_repetitions if spread else config.repetitions


def coverage(config: Config, process: str, key) -> dict[str, Any]:
    """Shares of repetitions whose intervals hold the exact coefficients, by reading."""
    eta, found = config.learning_rate, {"centred": [], "log map": [], "half": [], "snapshots": []}
    first, second = jr.split(key)
    rule = problems.processes(config.learning_rate, config.substeps)[process]
    size = config.repetitions * config.members
    seen = trajectories(rule, problems.near, size, config.repeated_steps, first)
    for block in np.split(seen, config.repetitions, axis=1):
        centred = ss.identify.sparse(block, LINE, PARABOLA, time_step=eta, failure_rate=None)
        value = exact(config, process, "centred")
        found["centred"].append(covers(centred, value))
        found["half"].append(covers(centred, value, shrink=0.5))
    size = config.snapshot_repetitions * config.snapshot_members
    seen = trajectories(rule, problems.start, size, SNAPSHOTS[-1], second)
    times, taken = eta * np.array(SNAPSHOTS), list(SNAPSHOTS)
    for block in np.split(seen, config.snapshot_repetitions, axis=1):
        value = exact(config, process, "log map")
        linear = ss.identify.linear(block, time_step=eta)
        found["log map"].append(covers(linear, value))
        fit = ss.identify.from_snapshots(block[taken], times, LINE, PARABOLA, linked=True)
        found["snapshots"].append(covers(fit.equation, value))
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def well_readings(config: Config, seen: np.ndarray) -> dict[str, ss.identify.LocalCoefficients]:
    """Local readings in the double well."""
    chosen: list[tuple[str, int, Any]] = [
        ("naive", 1, "naive"),
        ("centred", 1, "centred"),
        ("naive, long lag", config.long_lag, "naive"),
    ]
    return {
        name: ss.identify.kramers_moyal(
            seen,
            POINTS,
            bandwidth=problems.BANDWIDTH,
            time_step=config.well_learning_rate,
            lag=lag,
            correction=correction,
            degree=3,
        )
        for name, lag, correction in chosen
    }


def measure(config: Config, key) -> xr.Dataset:
    """Coefficients by every reading, local in the wells, sparse in the plane; coverage."""
    data: dict[str, Any] = {}
    wells = _line.processes(config.well_learning_rate, config.substeps)
    for process, rule in problems.processes(config.learning_rate, config.substeps).items():
        key, first, second, third = jr.split(key, 4)
        seen = trajectories(rule, problems.start, config.ensemble_size, config.num_steps, first)
        for name, fit in readings(config, seen).items():
            put(data, f"{process} {name} drift", fit.drift[0], ("drift term",))
            put(data, f"{process} {name} rate", fit.variance_rate[0, 0], ("rate term",))
            along = fit.variance_rate_at(problems.rate_places()[:, None])[:, 0, 0]
            put(data, f"{process} {name} rate along θ", along, ("θ",))
        for name, share in coverage(config, process, second).items():
            data[f"{process} {name} coverage"] = (("coefficient",), share)
        seen = trajectories(
            wells[process],
            lambda k: jr.uniform(k, (1,), minval=-1.7, maxval=1.7),
            config.well_ensemble_size,
            config.num_steps,
            third,
        )
        for name, local in well_readings(config, seen).items():
            put(data, f"{process} well {name} drift", local.drift, ("x",))
            put(data, f"{process} well {name} rate", local.variance_rate, ("x",))
    sgd = ss.SGD(problems.plane(), config.plane_learning_rate, ss.WithReplacement(2))
    key, own = jr.split(key)
    seen = trajectories(
        sgd, lambda k: 0.8 * jr.normal(k, (2,)), config.plane_size, config.num_steps, own
    )
    for name in ("naive", "centred"):
        fit = ss.identify.sparse(
            seen,
            PLANE,
            NOISE,
            time_step=config.plane_learning_rate,
            correction=name,
            failure_rate=1e-4,
        )
        put(data, f"plane {name} drift", fit.drift, ("axis", "plane drift term"))
        put(data, f"plane {name} rate", fit.variance_rate, ("axis", "axis2", "plane rate term"))
    return xr.Dataset(data, {"x": POINTS})


def predict(config: Config) -> dict[Any, Any]:
    """Exact readings: polynomials on least squares, values at the points in the wells."""
    found: dict[Any, Any] = {}
    for process in PROCESSES:
        for name in READINGS:
            found[process, name] = exact(config, process, name)
        chain, step, each = problems.well_law(config.well_learning_rate, config.substeps, process)
        for name, lag in (("naive", 1), ("centred", 1), ("naive, long lag", config.long_lag)):
            moments = ss.theory.equations.conditional_moments(chain, POINTS, [lag * each])
            kind: Any = name.removesuffix(", long lag")
            found[process, "well", name] = moments.read(step, kind)
    found["limit"] = exact(config, "SGD", "limit")
    slope = -found["limit"].drift[1]
    # −(1 + (η/2)H)∇L, the drift of the second-order modified equation.
    found["second order"] = (1 + config.learning_rate / 2 * slope) * found["limit"].drift
    found["well limit"] = (POINTS - POINTS**3, 2 * _line.COLD * (1 + 0.3 * POINTS))
    found["variance"] = float(
        ss.theory.stationary.covariance(problems.processes(config.learning_rate, 1)["SGD"])[0, 0]
    )
    return found


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each reading at its own value, the claims about −∇L and ηcΣ, controls, coverage."""
    rows, limit = [], predicted["limit"]

    def add(measured, value, name, process, expected="agree", **options):
        rows.append(row(measured, value, name=name, process=process, expected=expected, **options))

    for process in PROCESSES:
        for name in READINGS:
            own = predicted[process, name]
            add(get(data, f"{process} {name} drift"), own.drift, f"{name}: drift, own", process)
            add(
                get(data, f"{process} {name} rate"),
                own.variance_rate,
                f"{name}: a, own",
                process,
            )
    sgd = {
        name: (get(data, f"SGD {name} drift"), get(data, f"SGD {name} rate")) for name in READINGS
    }
    drift, rate = sgd["centred"]
    add(drift, limit.drift, "centred: drift is −∇L", "SGD")
    add(rate, limit.variance_rate, "centred: a is ηcΣ", "SGD")
    add(sgd["naive"][1], limit.variance_rate, "naive: a is ηcΣ", "SGD", "deviate")
    for name in ("naive, long lag", "extrapolated", "log map", "snapshots"):
        add(sgd[name][0], limit.drift, f"{name}: drift is −∇L", "SGD", "deviate")
    add(
        sgd["extrapolated"][0],
        predicted["second order"],
        "extrapolated: drift of order 2",
        "SGD",
    )
    # Of dθ = b dt + √a ∘ dW the Itô drift is b + ¼a′: read as Stratonovich's, b − ¼a′.
    a = limit.variance_rate
    other = limit.drift - np.array([a[1], 2 * a[2]]) / 4
    add(drift, other, "control: Stratonovich drift", "SGD", "deviate")
    add(rate, a / 2, "control: a read as D = ηcΣ/2", "SGD", "deviate")
    for name in ("naive", "extrapolated", "log map", "centred"):
        expected = "deviate" if name == "centred" else "agree"
        value = problems.stationary_variance(predicted["SGD", name])
        text = f"{name}: stationary variance of the equation read"
        target = predicted["variance"]
        add(
            scalar(value, 0.0, 2),
            target,
            text,
            "no simulation",
            expected,
            resolution=1e-9 * target,
        )
    add_wells(config, data, predicted, add)
    add_plane(config, data, add)
    for process in PROCESSES:
        for name in ("centred", "log map", "snapshots", "half"):
            share = data[f"{process} {name} coverage"].values
            number = repeated(config, name)
            # The binomial error of a share of .95.
            error = np.full(share.shape, np.sqrt(0.95 * 0.05 / number))
            expected = "deviate" if name == "half" else "agree"
            text = "control: half the error" if name == "half" else name
            measured = ss.Estimate(share, error, number)
            add(measured, 0.95, f"coverage of 95 % intervals, {text}", process, expected)
    return rows


def add_wells(config: Config, data: xr.Dataset, predicted, add) -> None:
    """The double well: own values, −V′ and ηcΣ where they hold and where they do not."""
    drift, rate = predicted["well limit"]
    for process in PROCESSES:
        for name in ("naive", "centred", "naive, long lag"):
            b, a = predicted[process, "well", name]
            found = [get(data, f"{process} well {name} {part}") for part in ("drift", "rate")]
            if name != "centred":
                add(found[0], b, f"well, {name}: drift, own", process)
            add(found[1], a, f"well, {name}: a, own", process)
            if name == "naive, long lag":
                add(found[0], drift, f"well, {name}: drift is −V′", process, "deviate")
            if process == "SGD" and name == "naive":
                add(found[0], drift, "well, one iteration: drift is −V′", process)
                add(found[1], rate, "well, naive: a is ηcΣ", process, "deviate")
            if process == "SGD" and name == "centred":
                add(found[1], rate, "well, centred: a is ηcΣ", process)


def add_plane(config: Config, data: xr.Dataset, add) -> None:
    """The plane: terms found that are not there or missed, and the coefficients of the others."""
    drift, noise = problems.truth(config.plane_learning_rate)
    for name in ("centred", "naive"):
        found = get(data, f"plane {name} drift"), get(data, f"plane {name} rate")
        if name == "centred":
            wrong = int(((found[0].value != 0) != (drift != 0)).sum())
            text = "plane: wrong terms of the drift"
            add(scalar(wrong, 0.0, config.plane_size), 0.0, text, "SGD")
            kept = drift != 0
            add(found[0][kept], drift[kept], "plane: coefficients of the drift", "SGD")
        wrong = int(((found[1].value != 0) != (noise != 0)).sum())
        expected = "agree" if name == "centred" else "deviate"
        text = f"plane, {name}: wrong terms of a"
        add(scalar(wrong, 0.0, config.plane_size), 0.0, text, "SGD", expected)
        if name == "centred":
            # a is symmetric: three entries.
            pick = np.triu_indices(2)
            add(found[1][(*pick, 0)], noise[(*pick, 0)], "plane: coefficients of a", "SGD")


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The equations, and what they would say of the stationary variance."""
    found = predict(config)
    lines = []
    for name in ("naive", "centred", "extrapolated", "log map"):
        equation = found["SGD", name]
        measured = get(data, f"SGD {name} drift")
        lines.append(
            f"{name}: {measured.value[1]:.4f} ± {measured.standard_error[1]:.1g} (exact "
            f"{equation.drift[1]:.4f}), stationary variance of its equation "
            f"{problems.stationary_variance(equation) / found['variance']:.4f} of SGD's"
        )
    return f"Slope of the drift read off SGD at η = {config.learning_rate:g}: {'; '.join(lines)}."


def plot(config: Config, data: xr.Dataset, predicted):
    """Slopes and variance rates by reading, the double well, the plane, coverage."""
    names = ("centred", "log map", "snapshots", "half")
    return draw_figure(config, data, predicted, {name: repeated(config, name) for name in names})
