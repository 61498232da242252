"""The law of balance holds for the SDE, measured in logarithms; SGD has other values or diverges.

Two weights, losses (uwx − y)², x ~ N(0, 1), y = x + N(0, 1), T = η/B. In the balanced state u² = w²
= v the SDE is one equation with the stationary density p(v) of
`sde_sgd.theory.selection.law_of_balance_density`: a power v^{β₂/(2α₃T)−3/2} at 0, so that the mass
collapses at T = 1/3, and a tail v^{−7/2}, so that means converge slowly and medians are compared.
Its noise grows faster than v: Euler diverges in (u, w), and steps are taken in (log u, log w),
tamed. The exact law of these steps, and that of SGD with fresh examples at B = 1, solve master
equations.

Each SGD step multiplies u² − w² by 1 − η²g², g = ∂ℓ̂/∂(uw), exactly. Noise that is independent in
u and w, as strong as the minibatch's, spreads u² − w² over the members; isotropic noise keeps
its mean.

Claim: the published density is that of the SDE at T = .05, .15 and .25, not of SGD at the same T:
its median is 3 % lower at T = .05, and at larger T members diverge.

Source: Ziyin, Li, Ueda, "The law of balance and stationary distribution of SGD" (2308.06671).

Command: python -m experiments law_of_balance --preset paper
Subject: stationary
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._product import ESCAPED, Product, sde_law, sgd_diverged, sgd_law
from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    step: float = 0.025
    """h of the SDE's steps, the same at every T"""
    ensemble_size: int = 1024
    """independent members a process"""
    time: float = 150.0
    """length of the SDE runs in t; a third is left out"""
    sgd_steps: int = 2500
    """iterations of SGD at T = .05; 500 are left out"""
    escape_steps: int = 40
    """iterations after which the diverged fraction of SGD is counted"""
    escape_size: int = 8192
    """members of that count"""
    balance_steps: int = 500
    """iterations of the unbalanced start (u, w) = (2, ½) at η = .02, B = 4"""
    precision: float = 0.05
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=4096, time=500.0, sgd_steps=6000, escape_size=131_072, precision=0.01
    ),
}

TEMPERATURES = (0.05, 0.15, 0.25)
MOMENTS = ss.theory.selection.balance_moments_gaussian()
QUANTITIES = ("median v", "E 1/(1 + v)")


def _value(theta):
    return theta[0] * theta[1]


def _bounded(theta):
    return 1 / (1 + _value(theta))


EDGES = np.concatenate([[0.0], np.geomspace(1e-8, 60, 701)])


def measure(config: Config, key) -> xr.Dataset:
    """Laws of v for the SDE and SGD, diverged fractions, and what becomes of u² − w²."""
    variables, problem, one = {}, Product(), ss.WithReplacement(1)
    start = jnp.full(2, 0.9)
    for temperature in TEMPERATURES:
        key, first, second = jr.split(key, 3)
        # At B = 1 an iteration is T of time.
        steps = round(config.time / temperature)
        equation = ss.ModifiedEquation(
            problem,
            temperature,
            ss.MinibatchNoise(one),
            substeps=round(temperature / config.step),
        )
        process = ss.processes.TransformedEquation(
            equation=equation, forward=jnp.log, inverse=jnp.exp, tamed=True
        )
        run = ss.simulate(
            process,
            start,
            num_steps=steps,
            ensemble_size=config.ensemble_size,
            key=first,
            measures=_law(steps // 3, max(1, round(0.25 / temperature))),
        )
        _keep(variables, f"T={temperature:g} SDE", run)
        sgd = ss.SGD(problem, temperature, one)
        escape = ss.simulate(
            sgd,
            start,
            num_steps=config.escape_steps,
            ensemble_size=config.escape_size,
            key=second,
            on_divergence="mask",
            record_every=1,
        )
        assert escape.records is not None
        gone = ~(np.abs(escape.records[1]) < ESCAPED).all(axis=(0, 2))
        put(variables, f"T={temperature:g} gone", ss.Estimate.from_samples(gone.astype(float)))
    key, own, *others = jr.split(key, 5)
    run = ss.simulate(
        ss.SGD(problem, TEMPERATURES[0], one),
        start,
        num_steps=config.sgd_steps,
        ensemble_size=config.ensemble_size,
        key=own,
        measures=_law(500, 2),
        on_divergence="mask",
    )
    _keep(variables, f"T={TEMPERATURES[0]:g} SGD", run)
    variables["SGD diverged"] = ((), float((~run.alive).mean()))
    _unbalanced(config, variables, problem, others)
    return xr.Dataset(variables)


def _law(burn_in: int, every: int) -> dict[str, ss.AbstractMeasure]:
    return {
        "histogram": ss.Histogram(EDGES, _value, burn_in, every),
        "bounded": ss.Moments(_bounded, burn_in, every, covariance=False),
        "mean": ss.Moments(_value, burn_in, every, covariance=False),
    }


def _keep(variables, label: str, run: ss.Run) -> None:
    median, bounded = run["histogram"].quantile(0.5), run["bounded"].mean
    pair = ss.Estimate(
        np.array([median.value, bounded.value]),
        np.array([median.standard_error, bounded.standard_error]),
        bounded.num_samples,
    )
    put(variables, f"{label} values", pair, ("quantity",))
    put(variables, f"{label} mean", run["mean"].mean)
    put(variables, f"{label} probability", run["histogram"].probability, ("bin",))


def _unbalanced(config: Config, variables, problem: Product, keys) -> None:
    """Factor of u² − w² over the run, its spread, and the residual of the step identity."""
    eta, batch = 0.02, ss.WithReplacement(4)
    noises = {"diagonal": ss.DiagonalNoise(batch), "isotropic": ss.IsotropicNoise(batch)}
    runs = {"SGD": ss.SGD(problem, eta, batch)}
    runs |= {name: ss.GaussianSGD(problem, eta, noise) for name, noise in noises.items()}
    for (name, process), own in zip(runs.items(), keys, strict=True):
        run = ss.simulate(
            process,
            jnp.array([2.0, 0.5]),
            num_steps=config.balance_steps,
            ensemble_size=1024,
            key=own,
            record_every=1,
        )
        assert run.records is not None
        u, w = np.moveaxis(run.records[1], 2, 0)
        difference = u**2 - w**2
        factor = difference[-1] / difference[0]
        put(variables, f"factor {name}", ss.Estimate.from_samples(factor))
        spread = (factor - factor.mean()) ** 2
        put(variables, f"spread {name}", ss.Estimate.from_samples(spread))
        # The gradient that moved u, from the step itself: u' = u − ηgw.
        gradient = (u[:-1] - u[1:]) / (eta * w[:-1])
        exact = difference[:-1] * ss.theory.selection.balance_factor(gradient, learning_rate=eta)
        variables[f"residual {name}"] = ((), float(np.abs(difference[1:] - exact).max()))


def densities() -> dict[float, ss.theory.laws.StationaryDensity]:
    """The published density at each T."""
    return {
        t: ss.theory.selection.law_of_balance_density(MOMENTS, temperature=t) for t in TEMPERATURES
    }


def predict(config: Config) -> dict[float, dict]:
    """By T: (median v, E 1/(1 + v)) of the density and of every process, and SGD's diverged."""
    values = {}
    for temperature, density in densities().items():
        exact = np.array([density.median, density.expect(lambda v: 1 / (1 + v[0]))])
        own, half = (sde_law(temperature, config.step / k) for k in (1, 2))
        values[temperature] = {
            "density": exact,
            "mean": float(density.mean[0]),
            "SDE": own,
            "limit": 2 * half - own,  # the error is of order h
            "gone": sgd_diverged(temperature, config.escape_steps),
        }
    law, mean = sgd_law(TEMPERATURES[0])
    values[TEMPERATURES[0]] |= {"SGD": law, "SGD mean": mean}
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The SDE and SGD against their own laws, SGD against the density, the step identity."""
    rows = []
    pair, num = " and ".join(QUANTITIES), config.ensemble_size
    for temperature, exact in predicted.items():
        label = f"T={temperature:g}"
        options: dict[str, Any] = dict(precision=config.precision)
        measured = get(data, f"{label} SDE values")
        rows.append(
            row(measured, exact["SDE"], name=f"{label}: {pair}, own step", process="SDE", **options)
        )
        limit = ss.Estimate(exact["limit"], np.zeros(2), num)
        rows.append(
            row(
                limit,
                exact["density"],
                name=f"{label}: {pair}, law of balance within 3 %",
                process="SDE, exact, h → 0",
                resolution=0.03 * float(exact["density"].min()),
            )
        )
        if temperature == TEMPERATURES[0]:
            found = get(data, f"{label} SGD values")
            name = f"{label}: {pair}"
            rows.append(row(found, exact["SGD"], name=f"{name}, own law", process="SGD", **options))
            rows.append(
                row(
                    found,
                    exact["density"],
                    name=f"{name}, law of balance",
                    process="SGD",
                    expected="deviate",
                )
            )
            mean = get(data, f"{label} SGD mean")
            rows.append(
                row(mean, exact["SGD mean"], name=f"{label}: mean v", process="SGD", **options)
            )
            continue
        gone = get(data, f"{label} gone")
        name = f"{label}: fraction diverged by iteration {config.escape_steps}"
        rows.append(row(gone, exact["gone"], name=f"{name}, own", process="SGD"))
        rows.append(row(gone, 0.0, name=f"{name}, as the SDE", process="SGD", expected="deviate"))
    # Rounding of numbers up to 10, at every step alone.
    residual = scalar(data["residual SGD"], 1e-14, num)
    rows.append(row(residual, 0.0, name="residual of u² − w² in a step", process="SGD"))
    residual = scalar(data["residual diagonal"], 1e-14, num)
    options: dict[str, Any] = dict(process="Gaussian SGD, diagonal noise", expected="deviate")
    rows.append(row(residual, 0.0, name="residual of u² − w² in a step", **options))
    for name, process, expected in (
        ("SGD", "SGD", "deviate"),
        ("diagonal", "Gaussian SGD, diagonal noise", "deviate"),
        ("isotropic", "Gaussian SGD, isotropic noise", "agree"),
    ):
        factor = get(data, f"factor {name}")
        rows.append(
            row(
                factor,
                1.0,
                name="mean factor of u² − w², conserved",
                process=process,
                expected=expected,
            )
        )
    rows.append(
        row(
            get(data, "spread diagonal"),
            float(data["spread SGD"]),
            name="variance of that factor over members, SGD's",
            process="Gaussian SGD, diagonal noise",
            expected="deviate",
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Means where they exist, SGD's divergence, and what becomes of the imbalance."""
    exact = predict(config)
    means = ", ".join(
        f"{get(data, f'T={t:g} SDE mean').value:.4f} (law of balance {values['mean']:.5f})"
        for t, values in exact.items()
    )
    sgd = get(data, f"T={TEMPERATURES[0]:g} SGD mean")
    gone = ", ".join(f"{values['gone']:.2%} at T = {t:g}" for t, values in exact.items())
    factors = ", ".join(
        f"{float(data[f'factor {name}']):.3f} ± {np.sqrt(float(data[f'spread {name}'])):.3f} "
        f"({name})"
        for name in ("SGD", "diagonal", "isotropic")
    )
    return (
        f"Mean v of the SDE at its step: {means}; of SGD at T = .05: {sgd.value:.4f} ± "
        f"{sgd.standard_error:.4f}, {float(data['SGD diverged']):.2%} of its members diverged. "
        f"SGD diverges by iteration {config.escape_steps}: {gone}. u² − w² is multiplied by "
        f"(mean ± spread over members) {factors}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities in log v at each T, and the medians beside every exact value."""
    figure, axes = new_figure(1, 4, width=4.0, height=3.8)
    for axis, (temperature, density) in zip(axes[0], densities().items(), strict=False):
        group = 7 if temperature == TEMPERATURES[0] else 14
        edges = EDGES[1::group]
        middle = np.sqrt(edges[1:] * edges[:-1])
        width = np.log(edges[1] / edges[0])
        lowest = max(1e-8, float(density.quantile(0.002)))
        grid = np.geomspace(lowest, 10, 300)
        axis.plot(grid, grid * density.pdf(grid), color="black", lw=1.2, label="law of balance")
        # Bins are wide beside the peak: a point belongs at the mean of the curve over its bin.
        shown = edges[(edges > lowest) & (edges < 10)]
        means = np.diff(density.cdf(shown)) / np.diff(np.log(shown))
        axis.stairs(means, shown, color="grey", lw=0.8, label="its mean over each bin")
        for process in ("SDE", "SGD"):
            if f"T={temperature:g} {process} values" not in data:
                continue
            found = get(data, f"T={temperature:g} {process} probability")
            grouped = found.value[1:].reshape(-1, group).sum(axis=1) / width
            # Neighbouring bins as if fully correlated: an upper bound.
            error = found.standard_error[1:].reshape(-1, group)
            error = np.sqrt((error**2).sum(axis=1)) / width
            seen = (grouped > 2 * error) & (middle > lowest) & (middle < 10)
            estimate = ss.Estimate(grouped[seen], error[seen], found.num_samples)
            points(axis, middle[seen], estimate, process)
        axis.set_xscale("log")
        axis.set_title(f"T = {temperature:g}")
        axis.set_xlabel("v = uw")
        axis.set_ylabel("v p(v), density of log v (± 1 s.e.)")
        if temperature != TEMPERATURES[0]:
            text = f"SGD: {predicted[temperature]['gone']:.0%} diverged\nby iteration "
            text += f"{config.escape_steps}"
            axis.text(0.04, 0.7, text, transform=axis.transAxes, color=COLOURS["SGD"], fontsize=9)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    last = axes[0, -1]
    for place, (temperature, exact) in enumerate(predicted.items()):
        for shift, process in ((-0.15, "SDE"), (0.15, "SGD")):
            if f"T={temperature:g} {process} values" not in data:
                continue
            found = get(data, f"T={temperature:g} {process} values")
            unit = exact["density"][0]
            label = process if place == 0 else "_"
            points(
                last,
                [place + shift],
                ss.Estimate(found.value[:1] / unit, found.standard_error[:1] / unit, 2),
                label,
                color=COLOURS[process],
            )
            level = exact[process][0] / unit
            label = "exact, own step" if place == 0 and process == "SDE" else None
            last.hlines(level, place + shift - 0.12, place + shift + 0.12, "black", label=label)
    last.axhline(1, color="black", linestyle=":", lw=1, label="law of balance")
    last.set_xticks(range(len(predicted)), [f"T = {t:g}" for t in predicted])
    last.set_ylabel("median v / law of balance (± 1 s.e.)")
    last.legend(frameon=False, fontsize=8)
    return figure
