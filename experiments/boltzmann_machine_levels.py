"""Twofold levels of a Gaussian restricted Boltzmann machine split by √(η(μ² − κ)/B).

The machine K = μ² − WWᵀ learns a free scalar field on a ring, whose kernel has the levels
κ_k = m² + 2 − 2cos(2πk/N), equal for k and N − k. At the optimum WWᵀ has x_k = μ² − κ_k, twofold
but for k = 0, N/2; minibatches of B fields split the pairs. Linearised about the optimum

    ⟨s⟩ = √(2π) √(η(μ² − κ)/B) (1 − h x/κ²)^{−1/2} ,   h = η for SGD, the solver step for the SDE,

to leading order in η/B: κ cancels between the noise and the rate of return. The next order is due
to other levels at a distance Δ, which push a pair together by about (⟨s⟩/Δ)²/(2π) each, and to
curvature. Pairs with ⟨s⟩ ≤ Δ/4, where that is a percent or two, are fitted; the others are shown.

Claim: the spacing follows (η(μ² − κ)/B)^γ with γ = ½ and the prefactor √(2π), for SGD and its SDE
alike, where pairs stand alone; over B = 4…64 the effective exponent is smaller; noise of the right
variances in every weight, but independent, has another spacing.

Source: Aarts, Lucini, Park 2024 (2407.16427); the prefactor by the algebra documented in
sde_sgd.theory.matrices.boltzmann_machine_spacing.

Command: python -m experiments boltzmann_machine_levels --preset paper
Subject: matrices
"""

import dataclasses
from typing import Any

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

    sites: int = 10
    """N"""
    field_mass: float = 2.0
    """m of the data"""
    mass: float = 3.0
    """μ of the machine"""
    learning_rate: float = 0.1
    """η"""
    batch_sizes: tuple[int, ...] = (4, 16, 64, 256)
    """B"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 128
    """independent members a process"""
    num_steps: int = 1500
    """iterations of a member"""
    burn_in: int = 600
    """iterations left out, from the start at the optimum"""
    every: int = 20
    """iterations between two looks at the levels"""
    exponent_resolution: float = 0.05
    """largest difference from ½ with which an exponent agrees"""
    resolution: float = 0.15
    """largest relative difference from the leading order with which a spacing agrees"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        batch_sizes=(4, 8, 16, 32, 64, 128, 256),
        substeps=4,
        ensemble_size=512,
        num_steps=4600,
        every=10,
        resolution=0.07,
    ),
}

PROCESSES = ("SGD", "SDE")
CONTROL = "independent noise"
PUBLISHED = 64  # the largest batch of the source


def pairs(config: Config) -> np.ndarray:
    """k of the twofold levels, 1 … (N − 1)//2, those that are learnt."""
    k = np.arange(1, (config.sites - 1) // 2 + 1)
    return k[kernel_levels(config, k) < config.mass**2]


def kernel_levels(config: Config, k) -> np.ndarray:
    """κ_k."""
    return config.field_mass**2 + 2 - 2 * np.cos(2 * np.pi * np.asarray(k) / config.sites)


def places(config: Config) -> np.ndarray:
    """Index of each pair's gap among the increasing levels of WWᵀ."""
    levels = np.sort(
        np.clip(config.mass**2 - kernel_levels(config, np.arange(config.sites)), 0, None)
    )
    wanted = config.mass**2 - kernel_levels(config, pairs(config))
    return np.searchsorted(levels, wanted - 1e-9)


def distances(config: Config) -> np.ndarray:
    """From each pair to the nearest other level."""
    levels = config.mass**2 - kernel_levels(config, np.arange(config.sites))
    own = config.mass**2 - kernel_levels(config, pairs(config))
    gaps = np.abs(np.clip(levels, 0, None) - own[:, None])
    return np.where(gaps > 1e-9, gaps, np.inf).min(axis=1)


def machine(config: Config) -> ss.landscapes.GaussianRBM:
    """The landscape."""
    return ss.landscapes.GaussianRBM(
        ss.landscapes.scalar_field_kernel(config.sites, config.field_mass), config.mass
    )


def processes(config: Config, batch: int) -> dict[str, ss.AbstractProcess]:
    """SGD, its SDE and, at the largest batch, the control."""
    landscape, eta = machine(config), config.learning_rate
    sampling = ss.WithReplacement(batch)
    noise = ss.MinibatchNoise(sampling)
    found: dict[str, ss.AbstractProcess] = {
        "SGD": ss.SGD(landscape, eta, sampling),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }
    if batch == max(config.batch_sizes):
        frozen = np.diag(np.asarray(noise.covariance(landscape.minimum(), landscape)))
        wrong = ss.ConstantNoise(np.diag(frozen))
        found[CONTROL] = ss.ModifiedEquation(landscape, eta, wrong, substeps=config.substeps)
    return found


def measure(config: Config, key) -> xr.Dataset:
    """Mean gap of every pair, by batch size and process."""
    variables: dict[str, Any] = {}
    landscape, where = machine(config), places(config)
    for batch in config.batch_sizes:
        for name, process in processes(config, batch).items():
            key, own = jr.split(key)
            spectrum = ss.Spectrum(
                landscape.matrix, "gram", burn_in=config.burn_in, every=config.every
            )
            run = ss.simulate(
                process,
                landscape.minimum(),
                num_steps=config.num_steps,
                ensemble_size=config.ensemble_size,
                key=own,
                measures={"levels": spectrum},
            )
            put(variables, f"B={batch} {name}", run["levels"].spacing[where], ("pair",))
            put(variables, f"B={batch} {name} ratio", run["levels"].spacing_ratio[where], ("pair",))
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, Any]:
    """Gaps to leading order, by batch size and process, and which pairs stand alone."""
    values: dict[str, Any] = {}
    kappa = kernel_levels(config, pairs(config))
    for batch in config.batch_sizes:
        for name in PROCESSES:
            step = config.learning_rate / (1 if name == "SGD" else config.substeps)
            values[f"B={batch} {name}"] = ss.theory.matrices.boltzmann_machine_spacing(
                kappa,
                mass=config.mass,
                learning_rate=config.learning_rate,
                batch_size=batch,
                time_step=step,
            )
        values[f"B={batch} alone"] = values[f"B={batch} SGD"] <= 0.25 * distances(config)
    return values


def scale(config: Config, batch: int) -> np.ndarray:
    """η(μ² − κ)/B of every pair."""
    kappa = kernel_levels(config, pairs(config))
    return config.learning_rate * (config.mass**2 - kappa) / batch


def fitted(config: Config, data: xr.Dataset, predicted, name: str, most=None) -> ss.Estimate:
    """γ and ln prefactor of ⟨s⟩ = A (η(μ² − κ)/B)^γ over pairs that stand alone, weighted.

    With `most`, over every pair of all B ≤ most instead.
    """
    x, y, error = [], [], []
    for batch in config.batch_sizes:
        alone, found = predicted[f"B={batch} alone"], get(data, f"B={batch} {name}")
        if most is not None:
            alone = np.full_like(alone, batch <= most)
        x.append(np.log(scale(config, batch))[alone])
        y.append(np.log(found.value)[alone])
        error.append((found.standard_error / found.value)[alone])
    x, y, error = (np.concatenate(v) for v in (x, y, error))
    design = np.stack([x, np.ones_like(x)], axis=1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    value = covariance @ design.T @ (y / error)
    return ss.Estimate(value, np.sqrt(np.diag(covariance)), config.ensemble_size)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Exponents, each spacing of a pair that stands alone, and the control."""
    rows = []
    for name in PROCESSES:
        gamma = fitted(config, data, predicted, name)[0]
        width, label = config.exponent_resolution, "γ of (η(μ² − κ)/B)^γ"
        rows.append(row(gamma, 0.5, name=label, process=name, resolution=width))
        label = f"{label}, γ = 1"
        rows.append(row(gamma, 1.0, name=label, process=name, expected="deviate"))
        gamma = fitted(config, data, predicted, name, most=PUBLISHED)[0]
        label = f"γ over all pairs, B ≤ {PUBLISHED}"
        rows.append(row(gamma, 0.5, name=label, process=name, expected="deviate"))
        for batch in config.batch_sizes:
            alone = predicted[f"B={batch} alone"]
            if not alone.any():
                continue
            exact = predicted[f"B={batch} {name}"][alone]
            found = get(data, f"B={batch} {name}")[alone]
            label = f"B = {batch}: ⟨s⟩ of k = {', '.join(map(str, pairs(config)[alone]))}"
            made = ss.compare(
                found, exact, name=label, process=name, resolution=config.resolution * exact
            )
            rows.append(made)
    batch = max(config.batch_sizes)
    alone, exact = predicted[f"B={batch} alone"], predicted[f"B={batch} SDE"]
    found = get(data, f"B={batch} {CONTROL}")[alone]
    label = f"control, {CONTROL}, B = {batch}"
    rows.append(row(found, exact[alone], name=label, process="SDE", expected="deviate"))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Exponents and prefactors with their 95 % intervals."""
    predicted, text = predict(config), []
    for name in PROCESSES:
        found = fitted(config, data, predicted, name)
        low, high = found.interval()
        amplitude = np.exp([found.value[1], low[1], high[1]]) / np.sqrt(2 * np.pi)
        text.append(
            f"{name}: γ = {found.value[0]:.3f} ({low[0]:.3f} to {high[0]:.3f}), prefactor "
            f"{amplitude[0]:.3f}·√(2π) ({amplitude[1]:.3f} to {amplitude[2]:.3f})"
        )
    return "; ".join(text) + "."


def plot(config: Config, data: xr.Dataset, predicted):
    """Spacing against η(μ² − κ)/B, and over its leading order."""
    figure, axes = new_figure(1, 2, width=5.0, height=3.8)
    left, right = axes[0]
    every = np.concatenate([scale(config, b) for b in config.batch_sizes])
    grid = np.geomspace(0.8 * every.min(), 1.2 * every.max(), 50)
    left.loglog(
        grid, np.sqrt(2 * np.pi * grid), color=COLOURS["prediction"], label="√(2πη(μ²−κ)/B)"
    )
    right.axhline(1, color=COLOURS["prediction"], linewidth=1, label="leading order, own step")
    for name, shift in (("SGD", 0.97), ("SDE", 1.03)):
        for alone in (True, False):
            x, value, error, exact = [], [], [], []
            for batch in config.batch_sizes:
                mask = predicted[f"B={batch} alone"] == alone
                found = get(data, f"B={batch} {name}")
                x.append(scale(config, batch)[mask] * shift)
                value.append(found.value[mask])
                error.append(found.standard_error[mask])
                exact.append(predicted[f"B={batch} {name}"][mask])
            x, value, error, exact = (np.concatenate(v) for v in (x, value, error, exact))
            label = name if alone else f"{name}, near another level"
            style: dict[str, Any] = {"color": COLOURS[name]}
            style |= {} if alone else {"markerfacecolor": "white"}
            found = ss.Estimate(value, error, 2)
            points(left, x, found, label, **style)
            points(right, x, found / exact, label, **style)
    right.set_xscale("log")
    for axis in (left, right):
        axis.set_xlabel("η(μ² − κ)/B")
        axis.legend(frameon=False, fontsize=8)
    left.set_ylabel("mean gap ⟨s⟩ of a twofold level of WWᵀ")
    right.set_ylabel("⟨s⟩ / leading order (± 1 s.e.)")
    title = f"N = {config.sites}, m = {config.field_mass:g}, μ = {config.mass:g}"
    left.set_title(f"{title}, η = {config.learning_rate:g}", fontsize=10)
    return figure
