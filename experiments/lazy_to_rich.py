"""Generalisation comes later the larger the output scale, and never in the lazy limit.

Two layers f = (α/h) Σ ± (z_j + ½ε z_j²), z_j = w_j·x, learn y = ½(β·x)² from N inputs x ~ N(0, I),
f = 0 at the start. With the loss scaled by h/α², so that dθ/dt = −∇L keeps its speed as α grows,
weights move by O(1/α): a large α fits the examples with the features of the start, kernel
regression, and learns those of the target late, in the limit never. The error over the population
is exact.

The time τ at which it first is at most a level has, for SGD and for its SDE, the flow's own time
as its limit for η → 0; at finite η, as linear noise about the flow predicts,

    Var τ = ηc ∫ λᵀΣλ ds / (∇E·∇L)² ,   dλ/ds = ∇²L λ ,   λ = ∇E at the passage,

and to first order in η SGD's mean is later than that of the SDE by what Euler's steps of η differ
from those of its solver.

Claim: as published, the delay of generalisation behind the fit grows with α, and the error goes to
that of regression with the tangent kernel as α → ∞; SGD and its SDE have the flow's mean times for
η → 0, the spread of linear noise about it, and means that differ by what their Euler steps do.

Source: Kumar, Bordelon, Gershman, Pehlevan 2023 (2310.06110): output scale, activation, target;
weights in pairs for f = 0: Chizat, Oyallon, Bach 2019 (1812.07956). Size and level are our own.

Command: python -m experiments lazy_to_rich --preset paper
Subject: selection
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from matplotlib.ticker import ScalarFormatter

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._committee import (
    along,
    Below,
    Committee,
    euler_passage,
    flow,
    kernel_error,
    passage,
    passage_variance,
    start,
)
from ._rows import row, scalar, spread, spread_row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    inputs: int = 12
    """D"""
    hidden: int = 24
    """h"""
    num_examples: int = 60
    """N, fewer than the D(D + 3)/2 coefficients of a quadratic form"""
    quadratic: float = 0.25
    """ε of the activation"""
    data_seed: int = 0
    """of the inputs and the start"""
    output_scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    """α at which the level is reached"""
    lazy_scale: float = 8.0
    """α at which the flow never reaches it"""
    limit_scales: tuple[float, ...] = (128.0, 256.0)
    """α of the flows whose error is extrapolated to α → ∞, the second twice the first"""
    learning_rates: tuple[float, ...] = (0.2, 0.1)
    """η, each half of the one before"""
    batch_size: int = 16
    """B, with replacement"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    general_level: float = 0.1
    """population error that counts as generalisation; it starts at 3/8"""
    training_level: float = 0.01
    """training error that counts as a fit"""
    ensemble_size: int = 32
    """members with one start and noise of their own"""
    lazy_duration: float = 150.0
    """t of the runs at `lazy_scale`, at the first learning rate"""
    precision: float = 0.04
    """largest standard error of an agreeing time, relative to the flow's"""
    limit_resolution: float = 0.01
    """largest relative difference with which an extrapolated error is that of the kernel"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        output_scales=(0.25, 0.5, 1.0, 2.0, 4.0),
        learning_rates=(0.1, 0.05),
        ensemble_size=256,
        lazy_duration=400.0,
        precision=0.01,
    ),
}

PROCESSES = ("SGD", "SDE")
PATIENCE = 3.0  # times of the flow after which a member counts as censored
LONGEST = 400.0
_SPREAD = "(variance of times/that of linear noise)^⅓"


@functools.cache
def network(config: Config, scale: float) -> Committee:
    """The landscape at an output scale; the examples are the same for all."""
    rng = np.random.default_rng(config.data_seed)
    inputs = rng.normal(size=(config.num_examples, config.inputs))
    target = np.ones(config.inputs) / np.sqrt(config.inputs)
    return Committee(inputs, target, scale=scale, quadratic=config.quadratic, hidden=config.hidden)


def first(config: Config) -> np.ndarray:
    """The start of all runs."""
    return start(config.inputs, config.hidden, config.data_seed + 1)


def watched(config: Config, scale: float) -> dict[str, Below]:
    """Generalisation and fit."""
    place = network(config, scale)
    return {
        "general": Below(place, jnp.asarray(config.general_level), False),
        "training": Below(place, jnp.asarray(config.training_level), True),
    }


@functools.cache
def solution(config: Config, scale: float):
    """The flow up to `LONGEST`, with its continuous solution."""
    return flow(network(config, scale), jnp.asarray(first(config)), LONGEST)


@functools.cache
def flow_times(config: Config, scale: float) -> dict[str, float]:
    """The flow's times of generalisation and fit."""
    found, watch = solution(config, scale), watched(config, scale)
    return {name: passage(found, below, LONGEST) for name, below in watch.items()}


def processes(config: Config, scale: float, eta: float) -> dict[str, ss.AbstractProcess]:
    """SGD and its SDE."""
    place, sampling = network(config, scale), ss.WithReplacement(config.batch_size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(place, eta, sampling),
        "SDE": ss.ModifiedEquation(place, eta, noise, substeps=config.substeps),
    }


def times(config: Config, process, scale: float, steps: int, key) -> dict[str, Any]:
    """First passages of one run."""
    run = ss.simulate(
        process,
        first(config),
        num_steps=steps,
        ensemble_size=config.ensemble_size,
        key=key,
        measures={name: ss.FirstPassage(x) for name, x in watched(config, scale).items()},
    )
    return {name: run[name] for name in ("general", "training")}


def label(name: str, scale: float, eta: float) -> str:
    """The name of a run's values in the data."""
    return f"{name} α={scale:g} η={eta:g}"


def measure(config: Config, key) -> xr.Dataset:
    """Times t of every member to fit and to generalise, NaN if it did not; the lazy runs."""
    variables: dict[str, Any] = {}
    for scale in config.output_scales:
        exact = flow_times(config, scale)
        for eta in config.learning_rates:
            steps = int(PATIENCE * max(exact.values()) / eta)
            for name, process in processes(config, scale, eta).items():
                key, own = jr.split(key)
                for what, found in times(config, process, scale, steps, own).items():
                    values = (("member",), eta * found.first_times)
                    variables[f"{label(name, scale, eta)} {what}"] = values
    eta, scale = config.learning_rates[0], config.lazy_scale
    steps = int(config.lazy_duration / eta)
    for name, process in processes(config, scale, eta).items():
        key, own = jr.split(key)
        found = times(config, process, scale, steps, own)["general"]
        share = ss.Estimate.from_samples(np.isfinite(found.first_times).astype(float))
        # Nobody is no certainty: an error of one member at least.
        error = max(float(share.standard_error), 1 / config.ensemble_size)
        put(variables, f"{name} lazy share", scalar(share.value, error, share.num_samples))
        variables[f"{name} lazy limit"] = ((), found.rate_limit() / eta)
    return xr.Dataset(variables)


@functools.cache
def predict(config: Config) -> dict[str, Any]:
    """By the flow, linear noise about it, Euler's steps, and kernel regression."""
    lazy = kernel_error(network(config, 1.0), first(config), [LONGEST, np.inf])
    values: dict[str, Any] = {"lazy": lazy[0], "kernel": lazy[1]}
    for scale in config.output_scales:
        exact, below = flow_times(config, scale), watched(config, scale)["general"]
        values[f"times {scale:g}"] = exact
        values[f"variance {scale:g}"] = passage_variance(
            solution(config, scale), below, exact["general"]
        )
        for eta in config.learning_rates:
            steps = {"SGD": eta, "SDE": eta / config.substeps}
            values[f"euler {scale:g} {eta:g}"] = {
                # Members are looked at after whole steps, half a step late on average.
                name: euler_passage(below, first(config), h, LONGEST) + h / 2
                for name, h in steps.items()
            }
    for scale in (*config.output_scales, config.lazy_scale, *config.limit_scales):
        last = solution(config, scale).evaluate(LONGEST)
        values[f"last {scale:g}"] = float(network(config, scale).general_error(last))
    return values


def limit(config: Config, data: xr.Dataset, name: str, scale: float, what: str) -> ss.Estimate:
    """Mean time extrapolated to η → 0, 2 τ(η/2) − τ(η), from independent runs."""
    coarse, fine = (
        ss.Estimate.from_samples(data[f"{label(name, scale, eta)} {what}"].values)
        for eta in config.learning_rates[-2:]
    )
    error = np.hypot(2 * fine.standard_error, coarse.standard_error)
    return scalar(2 * fine.value - coarse.value, error, fine.num_samples)


def delay(config: Config, data: xr.Dataset, name: str, scale: float) -> ss.Estimate:
    """⟨τ of generalisation⟩/⟨τ of the fit⟩ at the smallest η, linearised member by member."""
    where = label(name, scale, config.learning_rates[-1])
    late, early = (data[f"{where} {what}"].values for what in ("general", "training"))
    ratio = late.mean() / early.mean()
    moved = ss.Estimate.from_samples((late - ratio * early) / early.mean())
    return scalar(ratio, moved.standard_error, len(late))


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Times at η → 0, spreads, SGD less SDE, delays, the lazy runs, the lazy limit."""
    rows = []
    fine, coarse = config.learning_rates[-1], config.learning_rates[0]
    for scale in config.output_scales:
        exact, head = predicted[f"times {scale:g}"], f"α = {scale:g}"
        for name in PROCESSES:
            for what, text in (("general", "time to generalise"), ("training", "time to fit")):
                found = limit(config, data, name, scale, what)
                options: dict[str, Any] = dict(process=name, precision=config.precision)
                rows.append(row(found, exact[what], name=f"{head}: {text}, η → 0", **options))
            options = dict(process=name, name=f"{head}, η = {fine:g}: {_SPREAD}, linear noise")
            rows.append(spread_row(*spreads(config, data, predicted, name, scale), 1.0, **options))
        gap = predicted[f"euler {scale:g} {coarse:g}"]
        pair = [
            ss.Estimate.from_samples(data[f"{label(name, scale, coarse)} general"].values)
            for name in PROCESSES
        ]
        error = np.hypot(*(x.standard_error for x in pair))
        found = scalar(pair[0].value - pair[1].value, error, pair[0].num_samples)
        rows.append(
            row(
                found,
                gap["SGD"] - gap["SDE"],
                name=f"{head}, η = {coarse:g}: time to generalise, SGD less SDE",
                process="SGD, SDE",
                precision=config.precision,
                scale=exact["general"],
            )
        )
    for name in PROCESSES:
        # Members of one scale alone are too few to tell the two apart.
        options = dict(process=name, name=f"η = {fine:g}: {_SPREAD}, B/4", expected="deviate")
        every = spreads(config, data, predicted, name, *config.output_scales)
        rows.append(spread_row(*every, 2.0, **options))
    return rows + published(config, data, predicted)


def spreads(
    config: Config, data: xr.Dataset, predicted, name: str, *scales: float
) -> tuple[list[np.ndarray], list[float]]:
    """Times to generalise at the smallest η by α, and their spread by linear noise."""
    fine = config.learning_rates[-1]
    own = [float(predicted[f"variance {scale:g}"]) for scale in scales]
    times = [data[f"{label(name, scale, fine)} general"].values for scale in scales]
    return times, [np.sqrt(fine / config.batch_size * x) for x in own]


def published(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """What the source says: delays grow with α, the lazy limit is kernel regression."""
    rows, least, most = [], config.output_scales[0], config.output_scales[-1]
    for name in PROCESSES:
        low, high = (delay(config, data, name, scale) for scale in (least, most))
        grown = scalar(
            high.value - low.value,
            np.hypot(high.standard_error, low.standard_error),
            low.num_samples,
        )
        text = f"delay τ/τ_fit at α = {most:g} less that at α = {least:g}, none"
        rows.append(row(grown, 0.0, name=text, process=name, expected="deviate"))
        share, text = get(data, f"{name} lazy share"), f"α = {config.lazy_scale:g}: share"
        text = f"{text} that generalises by t = {config.lazy_duration:g}"
        rows.append(row(share, 0.0, name=f"{text}, as the flow", process=name))
        text = f"{text}, all as at α = {most:g}"
        rows.append(row(share, 1.0, name=text, process=name, expected="deviate"))
    low, high = (predicted[f"last {scale:g}"] for scale in config.limit_scales)
    options: dict[str, Any] = dict(
        process="flow", resolution=config.limit_resolution * predicted["lazy"]
    )
    # The two of a pair of units move oppositely at first, which cancels what is O(1/α).
    found = scalar((4 * high - low) / 3, 0.0, 2)
    text = f"error at t = {LONGEST:g} as α → ∞, that of the tangent kernel"
    rows.append(row(found, predicted["lazy"], name=text, **options))
    for scale in (most, config.lazy_scale):
        found = scalar(predicted[f"last {scale:g}"], 0.0, 2)
        text = f"α = {scale:g}: error at t = {LONGEST:g}, that of the tangent kernel"
        rows.append(row(found, predicted["lazy"], name=text, expected="deviate", **options))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Times and delays by α, and what the noise does to the mean."""
    predicted, lines = predict(config), []
    coarse = config.learning_rates[0]
    for scale in config.output_scales:
        exact = predicted[f"times {scale:g}"]
        parts = []
        for name in PROCESSES:
            values = data[f"{label(name, scale, coarse)} general"].values
            change = ss.Estimate.from_samples(values / exact["general"] - 1)
            parts.append(f"{name} {change.value:+.1%} ± {change.standard_error:.1%}")
        lines.append(
            f"α = {scale:g}: the flow generalises at t = {exact['general']:.2f}, "
            f"{exact['general'] / exact['training']:.2f} times that of the fit; at η = {coarse:g} "
            f"{', '.join(parts)}; error at t = {LONGEST:g}: {predicted[f'last {scale:g}']:.4f}."
        )
    limits = ", ".join(f"{name} {float(data[f'{name} lazy limit']):.2g}" for name in PROCESSES)
    return "\n".join(lines) + (
        f"\nα = {config.lazy_scale:g}: error {predicted[f'last {config.lazy_scale:g}']:.4f} of the "
        f"flow at t = {LONGEST:g}; nobody of SGD, SDE: rates per t below {limits} (95 %). Tangent "
        f"kernel: {predicted['lazy']:.4f} at that t, {predicted['kernel']:.4f} in the end."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Errors of the flow in time; times over α; spreads over α."""
    figure, axes = new_figure(1, 3, width=4.5, height=3.8)
    curves, mean, width = axes[0]
    grid = np.geomspace(0.5, LONGEST, 120)
    shown = (*config.output_scales, config.lazy_scale)
    for i, scale in enumerate(shown):
        shade = {"color": f"C{i}"}
        below = watched(config, scale)
        for what, style in (("general", "-"), ("training", ":")):
            line = along(solution(config, scale), below[what], grid)
            name = f"α = {scale:g}" if what == "general" else ""
            curves.loglog(grid, line, style, linewidth=1.2, label=name, **shade)
    level = f"generalised: below {config.general_level:g}"
    curves.axhline(config.general_level, color="0.5", linewidth=0.8, label=level)
    lazy = kernel_error(network(config, 1.0), first(config), grid)
    curves.plot(grid, lazy, "--", color="black", linewidth=1, label="kernel, α → ∞")
    curves.plot([], [], ":", color="black", label="dotted: on the training set")
    curves.set_ylim(config.training_level / 10, 1.0)
    curves.set_xlabel("t = ηk, time of the flow")
    curves.set_ylabel("error of the flow (solid: population)")
    scales, eta = np.array(config.output_scales), config.learning_rates[-1]
    for what, style, text in (("general", "-", "generalise"), ("training", ":", "fit")):
        exact = [predicted[f"times {scale:g}"][what] for scale in scales]
        mean.loglog(scales, exact, style, color=COLOURS["prediction"], label=f"flow, {text}")
    own = [np.sqrt(eta / config.batch_size * predicted[f"variance {scale:g}"]) for scale in scales]
    width.semilogx(scales, own, color=COLOURS["prediction"], label="linear noise")
    for shift, name in ((0.97, "SGD"), (1.03, "SDE")):
        for what, face in (("general", COLOURS[name]), ("training", "white")):
            found = [limit(config, data, name, scale, what) for scale in scales]
            text = f"{name}, generalise" if what == "general" else f"{name}, fit"
            points(mean, scales * shift, _stack(found), text, color=COLOURS[name], mfc=face)
        found = [spread(data[f"{label(name, scale, eta)} general"].values) for scale in scales]
        points(width, scales * shift, _stack(found), name)
    mean.set_ylabel("mean time, η → 0 (± 1 s.e.)")
    width.set_ylabel(f"spread of times, η = {eta:g} (± 1 s.e.)")
    curves.set_title(
        f"D = {config.inputs}, h = {config.hidden}, N = {config.num_examples}", size=10
    )
    for part in (mean.yaxis.set_major_formatter, mean.yaxis.set_minor_formatter):
        part(ScalarFormatter())
    for axis in (mean, width):
        axis.set_xlabel("output scale α")
        axis.set_xticks(scales, [f"{x:g}" for x in scales])
        axis.set_xticks([], minor=True)
    for axis in (curves, mean, width):
        axis.legend(frameon=False, fontsize=8)
    return figure


def _stack(found: list[ss.Estimate]) -> ss.Estimate:
    value, error = ([float(getattr(x, n)) for x in found] for n in ("value", "standard_error"))
    return ss.Estimate(np.array(value), np.array(error), found[0].num_samples)
