"""Levels of a trained 2×2 weight matrix repel: Wigner's law, and the spacing ∝ √(η/B).

Linear teacher–student: y = x + ε, fresh x, ε ~ N(0, I), loss ½|Wx − y|². With v the variance of an
entry of W, the two levels of X = WᵀW are apart by ⟨s⟩ = 2√(πv)(1 + O(v)), v ≈ η/(2B). With injected
noise the loss is ½|W − 2I|², a gradient carries B symmetric Gaussian matrices of variance ν² (2ν²
on the diagonal): then W's gap obeys Wigner's law exactly, with

    ⟨s⟩ = √π √(ην²/B) / √(1 − h/2) ,   h = η for SGD, the solver step for the SDE,

and moves as Dyson's levels do, ds = (−s + 2g²/s) dt + 2g dB with g² = ην²/B, up to the finite step,
whose conditional moments are exact too.

Claim: SGD has the spacings .18020, .25955, .08984 within .5 % and ⟨s²⟩/⟨s⟩² near 4/π, far from the
2 of independent levels; SGD and the SDE each have the spacing of their own step; drift and
diffusion read off the runs are Dyson's; noise in one row of W, or on its diagonal, has neither.

Source: Aarts, Lucini, Park 2024 (2407.16427); exact values by moment closure to order four
(documented in sde_sgd.theory.matrices.teacher_student_levels and sde_sgd.theory.matrices.dyson).

Command: python -m experiments dyson_level_repulsion --preset paper
Subject: matrices
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    cases: tuple[tuple[float, int], ...] = ((0.05, 10), (0.1, 10), (0.05, 40))
    """(η, B) of the linear student"""
    published: tuple[float, ...] = (0.18020, 0.25955, 0.08984)
    """mean spacings of WᵀW for these cases"""
    learning_rate: float = 0.1
    """η with injected noise"""
    batch_size: int = 16
    """B with injected noise"""
    noise: float = 0.1
    """ν, √2 of it on the diagonal"""
    level: float = 2.0
    """λ of the teacher λI with injected noise"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 4096
    """independent members a process"""
    duration: float = 30.0
    """t = ηk of a run"""
    burn_in: int = 100
    """iterations left out, from the start at the teacher"""
    precision: float = 0.004
    """largest relative standard error with which a spacing may agree"""
    published_resolution: float | None = None
    """relative difference within which a published spacing must lie; None: any that is seen"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        substeps=8,
        ensemble_size=8192,
        duration=150.0,
        precision=0.001,
        published_resolution=0.005,
    ),
}

# In units of the exact mean spacing of a process's own step.
EDGES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.4, 2.8, 4.0])
TOLD_APART = 1  # the case at which SGD must not have the SDE's spacing
CONTROLS = ("one row", "diagonal")


def exact(config: Config, case: int, process: str) -> ss.theory.matrices.TeacherStudentSpacing:
    """Exact gap of WᵀW of SGD, or of the SDE at its solver step."""
    eta, batch = config.cases[case]
    step = None if process == "SGD" else eta / config.substeps
    return ss.theory.matrices.teacher_student_spacing(
        learning_rate=eta, batch_size=batch, time_step=step
    )


def injected(config: Config, process: str) -> ss.theory.matrices.InjectedNoiseLevels:
    """Exact levels with injected noise."""
    eta = config.learning_rate
    step = eta if process == "SGD" else eta / config.substeps
    return ss.theory.matrices.InjectedNoiseLevels(
        learning_rate=eta,
        batch_size=config.batch_size,
        noise=config.noise,
        level=config.level,
        time_step=step,
    )


def matrix(theta):
    """W (2, 2)."""
    return theta.reshape(2, 2)


def gap(theta):
    """x₂ − x₁ of the symmetric W."""
    return jnp.diff(ss.measure.Levels(matrix)(theta))[0]


def pair(landscape, eta: float, batch: int, substeps: int) -> dict[str, ss.AbstractProcess]:
    """SGD and its SDE."""
    sampling = ss.WithReplacement(batch)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(landscape, eta, sampling),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=substeps),
    }


def controls(config: Config) -> dict[str, ss.AbstractProcess]:
    """The SDE of the first case with the right variance of an entry, in the wrong entries."""
    eta, batch = config.cases[0]
    landscape = ss.landscapes.LinearTeacherStudent(np.eye(2), 1.0)
    masks = {"one row": [1.0, 1.0, 0.0, 0.0], "diagonal": [1.0, 0.0, 0.0, 1.0]}
    return {
        name: ss.ModifiedEquation(
            landscape, eta, ss.ConstantNoise(np.diag(masks[name]) / batch), substeps=config.substeps
        )
        for name in CONTROLS
    }


def watch(config: Config, process, start, eta: float, key, measures) -> ss.Run:
    """One run of `duration`."""
    return ss.simulate(
        process,
        start,
        num_steps=round(config.duration / eta),
        ensemble_size=config.ensemble_size,
        key=key,
        measures=measures,
    )


def store(variables: dict, label: str, found) -> None:
    """Mean spacing, ⟨s²⟩/⟨s⟩² and the unfolded law."""
    put(variables, f"{label} spacing", found.spacing[0])
    put(variables, f"{label} ratio", found.spacing_ratio[0])
    if found.density is not None:
        put(variables, f"{label} density", found.density[0], ("bin",))
        put(variables, f"{label} probability", found.probability[0], ("bin",))
        variables[f"{label} edges"] = (("edge",), found.unfolded_edges[0])


def measure(config: Config, key) -> xr.Dataset:
    """Spacings of every case and process; increments of the gap with injected noise."""
    variables: dict[str, Any] = {}
    student = ss.landscapes.LinearTeacherStudent(np.eye(2), 1.0)
    for case, (eta, batch) in enumerate(config.cases):
        runs = pair(student, eta, batch, config.substeps)
        if case == 0:
            runs |= controls(config)
        for name, process in runs.items():
            key, own = jr.split(key)
            mean = exact(config, case, "SDE" if name in CONTROLS else name).mean
            edges = None if name in CONTROLS else EDGES * mean
            spectrum = ss.Spectrum(matrix, "gram", edges, burn_in=config.burn_in)
            run = watch(config, process, student.minimum(), eta, own, {"levels": spectrum})
            store(variables, f"{case} {name}", run["levels"])
    eta, goal = config.learning_rate, config.level * jnp.eye(2).ravel()
    tilts = ss.landscapes.symmetric_noise_covariance(2, config.noise)
    landscape = ss.landscapes.GaussianTilts(lambda x: 0.5 * jnp.sum((x - goal) ** 2), tilts)
    burn_in = config.burn_in
    for name, process in pair(landscape, eta, config.batch_size, config.substeps).items():
        key, own = jr.split(key)
        edges = EDGES * injected(config, name).mean_spacing
        measures = {
            "levels": ss.Spectrum(matrix, "eigenvalues", edges, burn_in=burn_in),
            "gram": ss.Spectrum(matrix, "gram", burn_in=burn_in),
            "moves": ss.ConditionalIncrements(gap, edges, burn_in=burn_in),
        }
        run = watch(config, process, goal, eta, own, measures)
        store(variables, f"injected {name}", run["levels"])
        put(variables, f"injected {name} gram", run["gram"].spacing[0])
        for moment in ("where", "drift", "square"):
            found = getattr(run["moves"], moment)
            put(variables, f"injected {name} {moment}", found, ("bin",))
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, Any]:
    """Exact spacings by case and process, and the increments with injected noise."""
    values: dict[str, Any] = {}
    for name in ("SGD", "SDE"):
        for case in range(len(config.cases)):
            values[f"{case} {name}"] = exact(config, case, name)
        law = injected(config, name)
        values[f"injected {name}"] = law
        values[f"increments {name}"] = law.increments(EDGES * law.mean_spacing)
    values["wigner"] = np.diff(ss.theory.matrices.wigner_surmise_cdf(EDGES))
    return values


def student_rows(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The linear student: published and exact spacings, and the controls."""
    rows = []
    for case, (eta, batch) in enumerate(config.cases):
        head = f"η = {eta:g}, B = {batch}"
        published = config.published[case]
        for name in ("SGD", "SDE"):
            own, spacing = predicted[f"{case} {name}"], get(data, f"{case} {name} spacing")
            ratio = get(data, f"{case} {name} ratio")
            options: dict[str, Any] = dict(process=name, precision=config.precision)
            rows.append(row(spacing, own.mean, name=f"{head}: ⟨s⟩, own exact value", **options))
            text = f"{head}: ⟨s²⟩/⟨s⟩², own exact value"
            rows.append(row(ratio, own.ratio, name=text, process=name, precision=0.01))
            text = f"{head}: ⟨s²⟩/⟨s⟩² = 2"
            rows.append(row(ratio, 2.0, name=text, process=name, expected="deviate"))
            if name == "SGD":
                share = config.published_resolution
                width = None if share is None else share * published
                text = f"{head}: ⟨s⟩ as published"
                rows.append(row(spacing, published, name=text, resolution=width, **options))
            if name == "SGD" and case == TOLD_APART:
                other = predicted[f"{case} SDE"].mean
                text = f"{head}: ⟨s⟩ of the SDE"
                rows.append(row(spacing, other, name=text, process=name, expected="deviate"))
    own = predicted["0 SDE"]
    for name in CONTROLS:
        label, process = f"control, noise in {name}", "SDE, wrong noise"
        spacing = get(data, f"0 {name} spacing")
        rows.append(row(spacing, own.mean, name=label, process=process, expected="deviate"))
    ratio = get(data, "0 diagonal ratio")
    text = "control, noise on diagonal: ⟨s²⟩/⟨s⟩²"
    rows.append(row(ratio, own.ratio, name=text, process="SDE, wrong noise", expected="deviate"))
    return rows


def injected_rows(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Injected noise: spacing with its prefactor, Wigner's law, drift and diffusion of the gap."""
    rows = []
    for name in ("SGD", "SDE"):
        law, label = predicted[f"injected {name}"], f"injected {name}"
        options: dict[str, Any] = dict(process=name, precision=config.precision)
        spacing = get(data, f"{label} spacing")
        rows.append(row(spacing, law.mean_spacing, name="injected: ⟨s⟩ of W", **options))
        gram = get(data, f"{label} gram")
        rows.append(row(gram, law.gram_mean_spacing, name="injected: ⟨s⟩ of WᵀW", **options))
        # Back to the edges that were used, in units of the exact mean.
        found = get(data, f"{label} probability")
        rows.append(row(found, predicted["wigner"], name="injected: Wigner's law", process=name))
        where, drift, square = predicted[f"increments {name}"]
        bare = np.expm1(-config.learning_rate) * where
        measured = get(data, f"{label} drift")
        text = "injected: E[Δs | s]"
        rows.append(row(measured, drift, name=f"{text}, exact", process=name))
        wrong = row(measured, bare, name=f"{text}, no repulsion", process=name, expected="deviate")
        rows.append(wrong)
        measured = get(data, f"{label} square")
        rows.append(row(measured, square, name="injected: E[Δs² | s], exact", process=name))
    plain = float(np.sqrt(np.pi * predicted["injected SGD"].strength))
    spacing = get(data, "injected SGD spacing")
    text = "injected: ⟨s⟩ without the factor of the finite step"
    rows.append(row(spacing, plain, name=text, process="SGD", expected="deviate"))
    return rows


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own exact value, and against those it must not have."""
    return student_rows(config, data, predicted) + injected_rows(config, data, predicted)


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The spacings, and the kurtosis that the matched noise has and SGD has not."""
    found = [get(data, f"{i} SGD spacing") for i in range(len(config.cases))]
    text = ", ".join(f"{float(x.value):.5f} ± {float(x.standard_error):.5f}" for x in found)
    sgd, sde = exact(config, TOLD_APART, "SGD"), exact(config, TOLD_APART, "SDE")
    eta, batch = config.cases[TOLD_APART]
    return (
        f"Mean spacings of SGD: {text}. At η = {eta:g}, B = {batch} SGD has Gaussian weights "
        f"up to {sgd.kurtosis:.1e} in fourth order, those of the SDE to {sde.kurtosis:.1e} ≈ η/B: "
        f"batches have the same covariance as the matched noise, and cumulants that cancel this."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Unfolded spacings, spacing over its exact value, drift of the gap."""
    figure, axes = new_figure(1, 3, width=4.6, height=3.7)
    law, cases, drift = axes[0]
    grid = np.linspace(0, 3.5, 200)
    law.plot(
        grid, ss.theory.matrices.wigner_surmise(grid), color=COLOURS["prediction"], label="Wigner"
    )
    law.plot(grid, np.exp(-grid), color=COLOURS["other"], linestyle=":", label="independent levels")
    place = np.arange(len(config.cases))
    for shift, name in ((-0.12, "SGD"), (0.12, "SDE")):
        edges = data[f"0 {name} edges"].values
        centres = 0.5 * (edges[1:] + edges[:-1])
        points(law, centres + 0.1 * shift, get(data, f"0 {name} density"), name)
        found = [get(data, f"{i} {name} spacing") for i in place]
        sgd = np.array([predicted[f"{i} SGD"].mean for i in place])
        percent = ss.Estimate(
            100 * (np.array([x.value for x in found]) / sgd - 1),
            100 * np.array([x.standard_error for x in found]) / sgd,
            2,
        )
        points(cases, place + shift, percent, name)
        own = np.array([predicted[f"{i} {name}"].mean for i in place])
        level = 100 * (own / sgd - 1)
        label = "exact, own step" if name == "SGD" else ""
        half = (place + shift - 0.1, place + shift + 0.1)
        cases.hlines(level, *half, color=COLOURS["prediction"], label=label, linewidth=1)
        unit, eta = predicted[f"injected {name}"].mean_spacing, config.learning_rate
        where, moved, _ = predicted[f"increments {name}"]
        found = get(data, f"injected {name} drift")
        scale = eta * unit
        points(drift, where / unit, found / scale, name)
        style = "-" if name == "SGD" else "--"
        text = f"exact, {name}"
        drift.plot(where / unit, moved / scale, color=COLOURS[name], linestyle=style, label=text)
    published = 100 * (np.array(config.published) / sgd - 1)
    cases.plot(place, published, "x", color=COLOURS["other"], label="published")
    inner = np.linspace(0.12, 3, 200)
    dyson = predicted["injected SGD"]
    limit = -inner + 2 * dyson.strength / dyson.mean_spacing**2 / inner
    drift.plot(inner, limit, color=COLOURS["prediction"], linewidth=1, label="Dyson, η → 0")
    drift.plot(inner, -inner, color=COLOURS["other"], linestyle=":", label="no repulsion")
    drift.set_ylim(-3.3, 3.5)
    eta, batch = config.cases[0]
    law.set_title(f"linear student, η = {eta:g}, B = {batch}", fontsize=10)
    law.set_xlabel("spacing s/⟨s⟩ of WᵀW")
    law.set_ylabel("density")
    cases.set_xticks(place, [f"η = {e:g}\nB = {b}" for e, b in config.cases])
    cases.set_ylabel("⟨s⟩ − exact ⟨s⟩ of SGD (%, ± 1 s.e.)")
    cases.set_title(f"SDE at h = η/{config.substeps}", fontsize=10)
    drift.set_xlabel("gap s/⟨s⟩ of W, injected noise")
    drift.set_ylabel("E[Δs | s]/(η⟨s⟩), per unit of t")
    drift.set_title(f"η = {config.learning_rate:g}, B = {config.batch_size}", fontsize=10)
    for axis in (law, cases, drift):
        axis.legend(frameon=False, fontsize=8)
    return figure
