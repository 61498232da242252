"""State-dependent gradient noise is read as Itô's: the density has 1/D in front, not 1/√D.

The SDE dx = −V′ dt + √(2D(x)) dW, D = ηC/2, has the stationary density

    p ∝ D^{−a} exp(−∫V′/D) ,   a = 1 (Itô),  a = ½ (Stratonovich) ,

and exp(−V/D) only where D is constant. Two cases: V = x²/2 with D = T(1 + x²), T = ¼, where no
eighth moment exists, so that medians and bounded functions are compared; and a double well with a
hot and a cold side, V = (x² − 1)²/4, D = .05(1 + .3x), where the reading decides how often x > 0.
On both sides is a finite sum whose gradient has exactly this covariance: four examples (two in the
wells), a batch of one. Its exact law, and those of Gaussian SGD and of Euler's scheme at their
steps, come from the master equation.

Claim: every process has the law of its own step, and these tend to Itô's density; Stratonovich's
and Gibbs's are excluded, for SGD as for the SDE.

Source: the Itô density is textbook (Risken 1989, 5.13); the discrete laws are solved from the
master equation, in sde_sgd.theory.laws.master_equation.

Command: python -m experiments ito_not_stratonovich --preset paper
Subject: stationary
"""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Array

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure

from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.1
    """η on x²/2"""
    well_learning_rate: float = 0.2
    """η in the double well"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps"""
    ensemble_size: int = 2048
    """independent members a process"""
    num_steps: int = 400
    """iterations of a member on x²/2, a quarter of them left out"""
    well_ensemble_size: int = 1024
    """independent members a process in the double well"""
    well_num_steps: int = 18_000
    """iterations of a member there, where passages take 1400"""
    well_burn_in: int = 6000
    """iterations left out of these"""
    precision: float = 0.08
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=16384,
        num_steps=1000,
        well_ensemble_size=12288,
        well_num_steps=80_000,
        precision=0.01,
    ),
}

PROCESSES = ("SGD", "Gaussian SGD", "SDE")
READINGS = ("Itô", "Stratonovich", "Gibbs")


class Point(eqx.Module):
    """The model whose parameter is θ itself."""

    x: Array

    def __call__(self, _: Array) -> Array:
        return self.x


@dataclasses.dataclass(frozen=True)
class Case:
    """b and D in one, the losses that have them, and what is measured (see `value`)."""

    title: str
    equation: ss.processes.Diffusion
    losses: Callable
    edges: np.ndarray
    of: Callable
    functional: str
    box: tuple[float, float]
    options: dict


def quadratic_loss(x, signs):
    """½(1 + ps)x² + qsx over the four signs (p, q), s² = 2T/η: C = 2T(1 + x²)/η."""
    return 0.5 * (1 + signs[0]) * x**2 + signs[1] * x


def well_loss(x, amplitude):
    """V ± ∫√C dx, √C = √(.1(1 + .3x)/η); no noise where D would be negative."""
    inside = jnp.maximum(1 + 0.3 * x, 0.0)
    return (x**2 - 1) ** 2 / 4 + amplitude * inside**1.5 / 0.45


T, COLD = 0.25, 0.05
CASES = {
    "square": Case(
        "x²/2, D = ¼(1 + x²)",
        ss.processes.Diffusion(lambda x: -x, lambda x: T * (1 + x**2)),
        quadratic_loss,
        np.linspace(0.0, 6.0, 1201),
        lambda theta: jnp.abs(theta[0]),
        "median of |x|",
        (-15.0, 15.0),
        {},
    ),
    "well": Case(
        "double well, D = .05(1 + .3x)",
        ss.processes.Diffusion(lambda x: x - x**3, lambda x: COLD * (1 + 0.3 * x)),
        well_loss,
        np.linspace(-2.5, 2.5, 101),
        lambda theta: theta[0],
        "P(x > 0)",
        (-2.6, 2.6),
        {"lower": -10 / 3, "upper": 3.0},
    ),
}


def rate(config: Config, name: str) -> float:
    """η."""
    return config.learning_rate if name == "square" else config.well_learning_rate


def landscape(config: Config, name: str) -> ss.EmpiricalRisk:
    """The finite sum whose gradient noise is D at this η, for batches of one."""
    if name == "square":
        size = np.sqrt(2 * T / rate(config, name))
        targets = size * np.array([[1.0, 1.0], [1, -1], [-1, 1], [-1, -1]])
    else:
        targets = np.sqrt(2 * COLD / rate(config, name)) * np.array([1.0, -1.0])
    losses = CASES[name].losses
    return ss.EmpiricalRisk(
        Point(jnp.zeros(1)), jnp.zeros(len(targets)), targets, lambda x, y: losses(x[0], y)
    )


def processes(config: Config, name: str) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, Gaussian SGD, and the SDE of the same covariance."""
    problem, eta, sampling = landscape(config, name), rate(config, name), ss.WithReplacement(1)
    case = CASES[name]

    def root(theta):
        return jnp.sqrt(2 / eta * jnp.maximum(case.equation.diffusion(theta), 0.0))

    noise = ss.FunctionNoise(root)
    return {
        "SGD": ss.SGD(problem, eta, sampling),
        "Gaussian SGD": ss.GaussianSGD(problem, eta, noise),
        "SDE": ss.ModifiedEquation(problem, eta, noise, substeps=config.substeps),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Histograms of every process; the functional and E 1/(1 + x²)."""
    variables = {}
    for number, (name, case) in enumerate(CASES.items()):
        well = name == "well"
        members = config.well_ensemble_size if well else config.ensemble_size
        steps = config.well_num_steps if well else config.num_steps
        burn_in = config.well_burn_in if well else steps // 4
        # Nobody starts from the law that is to be found: these starts have Stratonovich's.
        wrong = densities(name)["Stratonovich"]
        start = jnp.asarray(wrong.quantile((np.arange(members) + 0.5) / members))[:, None]
        every = 10 if well else 2
        for process, made in processes(config, name).items():
            key, own = jr.split(key)
            run = ss.simulate(
                made,
                start,
                num_steps=steps,
                ensemble_size=members,
                key=own,
                measures={
                    "histogram": ss.Histogram(case.edges, case.of, burn_in, every),
                    "bounded": ss.Moments(_bounded, burn_in, every, covariance=False),
                },
            )
            found, label = run["histogram"], f"{name} {process}"
            put(variables, f"{label} density", found.density, (f"bin{number}",))
            both = _pair(_measured(found, case), run["bounded"].mean)
            put(variables, f"{label} values", both, ("quantity",))
    return xr.Dataset(variables)


def _bounded(theta):
    return 1 / (1 + theta[0] ** 2)


def _measured(found, case: Case) -> ss.Estimate:
    if case.functional == "median of |x|":
        return found.quantile(0.5)
    below = found.cumulative[int(np.argmin(np.abs(case.edges)))]
    return scalar(1 - below.value, below.standard_error, below.num_samples)


def _pair(first: ss.Estimate, second: ss.Estimate) -> ss.Estimate:
    return ss.Estimate(
        np.array([first.value, second.value]),
        np.array([first.standard_error, second.standard_error]),
        first.num_samples,
    )


def value(law, case: Case) -> float:
    """The functional of an exact law: the median of |x| (laws here are even), or P(x > 0)."""
    if case.functional == "median of |x|":
        return float(law.quantile(0.75))
    return 1 - float(law.cdf(0.0))


@functools.cache
def densities(name: str) -> dict[str, ss.theory.laws.StationaryDensity]:
    """The limit h → 0 in three readings; Gibbs with D at x = 0."""
    case = CASES[name]
    frozen = ss.processes.Diffusion(case.equation.drift, case.equation.diffusion(0.0))
    return {
        "Itô": ss.theory.laws.stationary_density(case.equation, **case.options),
        "Stratonovich": ss.theory.laws.stationary_density(
            case.equation, convention="stratonovich", **case.options
        ),
        "Gibbs": ss.theory.laws.stationary_density(frozen, **case.options),
    }


@functools.cache
def own_laws(config: Config, name: str) -> dict[str, ss.theory.laws.ScalarLaw]:
    """The exact stationary law of every process at its own step, and of Euler's at half of it."""
    case, eta, problem = CASES[name], rate(config, name), landscape(config, name)

    def at(step: float) -> ss.processes.Diffusion:
        return ss.processes.Diffusion(case.equation.drift, case.equation.diffusion, step)

    laws = {
        "SGD": (ss.SGD(problem, eta, ss.WithReplacement(1)), 6001),
        "Gaussian SGD": (at(eta), 500),
        "SDE": (at(eta / config.substeps), 1000),
        "half": (at(eta / config.substeps / 2), 1500),
    }
    # Of the heavy tails of the first case, 1e-7 lies beyond the box and changes nothing here.
    return {
        name: ss.theory.laws.MasterEquation(
            process, case.box, nodes, mass_tolerance=1e-5
        ).stationary()
        for name, (process, nodes) in laws.items()
    }


def predict(config: Config) -> dict[str, dict[str, tuple[float, float]]]:
    """(functional, E 1/(1 + x²)) by case, for every process at its step and every reading."""
    values = {}
    for name, case in CASES.items():
        values[name] = {
            process: (value(law, case), float(law.expect(_bounded)))
            for process, law in own_laws(config, name).items()
        }
        # Euler's error is of order h.
        own, half = (np.array(values[name][step]) for step in ("SDE", "half"))
        values[name]["limit"] = tuple((2 * half - own).tolist())
        for reading, density in densities(name).items():
            values[name][reading] = (
                value(density, case),
                float(density.expect(_bounded)),
            )
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own law, their limit against Itô's, and the other readings."""
    rows = []
    for name, exact in predicted.items():
        case = CASES[name]
        pair = f"{case.title}: {case.functional} and E 1/(1 + x²)"
        for process in PROCESSES:
            measured = get(data, f"{name} {process} values")
            own = np.array(exact[process])
            rows.append(
                row(
                    measured,
                    own,
                    name=f"{pair}, own step",
                    process=process,
                    precision=config.precision,
                )
            )
            for reading in ("Stratonovich", "Gibbs"):
                wrong = np.array(exact[reading])
                text = f"{pair}, {reading}"
                rows.append(row(measured, wrong, name=text, process=process, expected="deviate"))
        # No simulation: the exact laws of Euler's scheme at h and h/2, extrapolated.
        limit = ss.Estimate(np.array(exact["limit"]), np.zeros(2), config.ensemble_size)
        for reading, expected in (("Itô", "agree"), ("Stratonovich", "deviate")):
            rows.append(
                row(
                    limit,
                    np.array(exact[reading]),
                    name=f"{pair}, {reading}",
                    process="SDE, exact, h → 0",
                    expected=expected,
                    resolution=1e-3,
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The functionals of every process beside the three readings."""
    lines = []
    for name, exact in predict(config).items():
        found = ", ".join(
            f"{process} {get(data, f'{name} {process} values').value[0]:.4f} (exact "
            f"{exact[process][0]:.4f})"
            for process in PROCESSES
        )
        limits = ", ".join(f"{reading} {exact[reading][0]:.4f}" for reading in READINGS)
        lines.append(f"{CASES[name].title}, {CASES[name].functional}: {found}; {limits}.")
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities with the three readings, and the functionals beside all exact values."""
    figure, axes = new_figure(2, 2, width=5.4, height=3.8)
    lines = {"Itô": "-", "Stratonovich": "--", "Gibbs": ":"}
    for column, (name, case) in enumerate(CASES.items()):
        top, bottom = axes[0, column], axes[1, column]
        group = 24 if column == 0 else 2
        edges = case.edges[::group]
        middle = (edges[1:] + edges[:-1]) / 2
        fold = 2.0 if column == 0 else 1.0
        grid = np.linspace(edges[0], edges[-1], 400)[1:-1]
        for reading, density in densities(name).items():
            colour = COLOURS["prediction" if reading == "Itô" else "other"]
            top.plot(
                grid, fold * density.pdf(grid), lines[reading], color=colour, label=reading, lw=1.2
            )
        for process in PROCESSES:
            found = get(data, f"{name} {process} density")
            mean = found.value.reshape(-1, group).mean(axis=1)
            error = np.sqrt((found.standard_error.reshape(-1, group) ** 2).mean(axis=1))
            # Bins that hardly anybody visited have no error to draw on a logarithmic axis.
            seen = mean > 2 * error
            style = {"fmt": "o", "markersize": 3, "color": COLOURS[process], "label": process}
            top.errorbar(middle[seen], mean[seen], error[seen], **style)
        top.set_yscale("log")
        top.set_ylim(1e-4, 4)
        top.set_title(case.title)
        top.set_xlabel("|x|" if column == 0 else "x")
        top.set_ylabel("stationary density (± 1 s.e.)")
        top.legend(frameon=False, fontsize=8)
        for place, process in enumerate(PROCESSES):
            found = get(data, f"{name} {process} values")[0]
            bottom.errorbar(
                place, found.value, found.standard_error, fmt="o", capsize=3, color=COLOURS[process]
            )
            label = "exact law of its step" if place == 0 else None
            bottom.hlines(
                predicted[name][process][0],
                place - 0.3,
                place + 0.3,
                color="black",
                lw=2.5,
                label=label,
            )
        for reading in READINGS:
            colour = COLOURS["prediction" if reading == "Itô" else "other"]
            level = predicted[name][reading][0]
            bottom.axhline(level, linestyle=lines[reading], color=colour, lw=1, label=reading)
        bottom.set_xticks(range(len(PROCESSES)), PROCESSES)
        bottom.set_xlim(-0.6, len(PROCESSES) - 0.4)
        bottom.set_ylabel(f"{case.functional} (± 1 s.e.)")
        bottom.legend(frameon=False, fontsize=8)
    return figure
