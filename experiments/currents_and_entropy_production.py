"""Stationary SGD goes round in circles: currents and entropy, at the learning rate that it has.

With H = diag(1, 3) and gradient covariance C = [[1, .8], [.8, 1]] HC ≠ CH, and the stationary state
carries a current. Per unit t = ηk the areal velocity is (HM − MH)/2 and the entropy production −tr
ΩMH, Ω = (HC⁻¹ − C⁻¹H)/η, with the covariance M of the process's own step h: −.2162η and 1.9219 for
Gaussian SGD at η = .1, −.2η and 16/9 as η → 0. In the stationary state ⟨e^{−σ}⟩ = 1, for the kernel
of the steps taken; a batch of examples makes jumps that cannot be undone, σ = ∞, but has the same
areal velocity. ⟨e^{−2σ}⟩ is finite at t = .1 (1.6 to 1.8) and infinite at t = .2, where the average
still converges but has no standard error: it is drawn there, and tested at .1. The second part is a
network of seven weights, 1–2–1 with tanh, at B = 10 and η = 1e-7 in the units of its summed loss,
around its minimum: the linear theory there gives the entropy that a Gaussian step produces, and the
rotation of its fastest plane in coordinates of unit covariance, both per iteration.

Claim: areal velocity and entropy production are those of the finite step, told apart from the
limits η → 0; the network's SGD and its SDE run out of equilibrium, at the linear theory's rate.

Source: "Machine learning in and out of equilibrium" (2306.03521), which has the network, its data
and loss; exact values at finite steps in sde_sgd.theory.stationary.currents.

Command: python -m experiments currents_and_entropy_production --preset paper
Subject: stationary
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Array
from scipy import optimize

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rates: tuple[float, ...] = (0.1, 0.05)
    """η in two dimensions"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps there"""
    ensemble_size: int = 8192
    """independent members a process"""
    time: float = 8.0
    """length of a run in t, from the stationary law"""
    network_ensemble_size: int = 1024
    """members of the network's runs"""
    network_steps: int = 1000
    """their iterations"""
    precision: float = 0.015
    """largest relative standard error with which a row may agree in two dimensions"""
    network_precision: float = 0.25
    """the same for the network"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=32768,
        time=40.0,
        network_ensemble_size=4096,
        network_steps=6000,
        precision=0.005,
        network_precision=0.05,
    ),
}

HESSIAN = np.diag([1.0, 3.0])
NOISE = np.array([[1.0, 0.8], [0.8, 1.0]])
NETWORK_RATE, NETWORK_BATCH = 1e-7, 10
STATIONARY = ss.theory.stationary
# Durations t at which ⟨e^{−σ}⟩ is taken; its variance is finite at the first one only.
DURATIONS = (0.1, 0.2)


class Network(eqx.Module):
    """x ↦ w₂·tanh(w₁x + b₁) + b₂, two hidden units."""

    w1: Array
    b1: Array
    w2: Array
    b2: Array

    def __call__(self, x: Array) -> Array:
        return jnp.dot(self.w2, jnp.tanh(self.w1 * x + self.b1)) + self.b2


@functools.cache
def network() -> tuple[ss.EmpiricalRisk, np.ndarray]:
    """(N/2σ²)(MSE + .001|w|²) of y = e^{−x²} + .1ξ, σ = .1, and its minimum (7,)."""
    x = -3 + 0.03 * np.arange(200)
    y = np.exp(-(x**2)) + 0.1 * np.random.default_rng(0).standard_normal(200)
    scale = 200 / (2 * 0.1**2)
    start = Network(
        jnp.array([1.5, -1.5]), jnp.array([1.5, 1.5]), jnp.array([0.8, 0.8]), jnp.array(-0.5)
    )
    landscape = ss.EmpiricalRisk(
        start, x, y, lambda p, target: scale * (p - target) ** 2, l2=2 * scale * 0.001
    )
    loss, gradient, hessian = (
        jax.jit(lambda theta, f=f: f(theta))
        for f in (landscape.loss, landscape.gradient, landscape.hessian)
    )
    theta = optimize.minimize(
        lambda t: float(loss(t)), landscape.initial, jac=lambda t: np.asarray(gradient(t))
    ).x
    for _ in range(6):
        theta = theta - np.linalg.solve(hessian(theta), gradient(theta))
    return landscape, np.asarray(theta)


@functools.cache
def linear_network() -> tuple[ss.theory.stationary.StationaryCurrent, np.ndarray]:
    """The linear theory at the minimum, and the plane (2, 7) that turns fastest.

    q = Pθ has unit covariance, and its two axes are those of the largest pair of eigenvalues.
    """
    landscape, minimum = network()
    noise = ss.ConstantNoise.at(landscape, jnp.asarray(minimum), ss.WithReplacement(NETWORK_BATCH))
    held = ss.GaussianSGD(landscape, NETWORK_RATE, noise)
    current = STATIONARY.stationary_current(held, minimum)
    values, vectors = np.linalg.eigh(current.covariance)
    white = (vectors / np.sqrt(values)) @ vectors.T
    turning, planes = np.linalg.eigh(1j * white @ current.areal_velocity @ white)
    fastest = planes[:, np.argmax(turning)] * np.sqrt(2)
    return current, np.stack([fastest.real, fastest.imag]) @ white


def processes(eta: float, substeps: int) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one out of three tilts, Gaussian SGD, the SDE at h = η/substeps."""
    well, noise = ss.quadratic(HESSIAN, NOISE), ss.ConstantNoise(NOISE)
    return {
        "SGD": ss.SGD(well, eta, ss.WithReplacement(1)),
        "Gaussian SGD": ss.GaussianSGD(well, eta, noise),
        "SDE": ss.ModifiedEquation(well, eta, noise, substeps=substeps),
    }


def _normal(mean: np.ndarray, covariance: np.ndarray):
    root = jnp.asarray(np.linalg.cholesky(covariance))
    return lambda key: jnp.asarray(mean) + root @ jr.normal(key, mean.shape)


def measure(config: Config, key) -> xr.Dataset:
    """Areal velocities, entropy production, ⟨e^{−σ}⟩; and the network's."""
    variables: dict[str, Any] = {}
    for eta in config.learning_rates:
        for name, process in processes(eta, config.substeps).items():
            key, own = jr.split(key)
            covariance, label = STATIONARY.covariance(process), f"η={eta:g} {name}"
            measures: dict[str, ss.AbstractMeasure] = {"area": ss.measure.ArealVelocity()}
            if name != "SGD":
                inverse = jnp.asarray(np.linalg.inv(covariance))
                measures["entropy"] = ss.measure.EntropyProduction(
                    ss.measure.transition_log_ratio(process),
                    lambda x, inverse=inverse: -0.5 * x @ inverse @ x,
                    at=[round(t / eta) for t in DURATIONS],
                )
            run = ss.simulate(
                process,
                _normal(np.zeros(2), covariance),
                num_steps=round(config.time / eta),
                ensemble_size=config.ensemble_size,
                key=own,
                measures=measures,
            )
            put(variables, f"{label} area", run["area"].per_time[0, 1])
            if name != "SGD":
                put(variables, f"{label} entropy", run["entropy"].per_time)
                put(variables, f"{label} fluctuation", run["entropy"].fluctuation, ("duration",))
    _measure_network(config, key, variables)
    return xr.Dataset(variables, {"duration": np.array(DURATIONS)})


def _measure_network(config: Config, key, variables: dict[str, Any]) -> None:
    landscape, minimum = network()
    current, plane = linear_network()
    sampling, centre, rows = (
        ss.WithReplacement(NETWORK_BATCH),
        jnp.asarray(minimum),
        jnp.asarray(plane),
    )
    runs = {
        "SGD": ss.SGD(landscape, NETWORK_RATE, sampling),
        # ηH is below .003: one step an iteration is the SDE to .2 %.
        "SDE": ss.ModifiedEquation(
            landscape, NETWORK_RATE, ss.MinibatchNoise(sampling), substeps=1
        ),
    }
    for (name, process), own in zip(runs.items(), jr.split(key), strict=True):
        run = ss.simulate(
            process,
            _normal(minimum, current.covariance),
            num_steps=config.network_steps,
            ensemble_size=config.network_ensemble_size,
            key=own,
            measures={
                "area": ss.measure.ArealVelocity(lambda x: rows @ (x - centre)),
                "entropy": ss.measure.EntropyProduction(
                    lambda x, y: current.step_entropy(x - centre, y - centre)
                ),
            },
        )
        put(variables, f"network {name} area", run["area"].per_iteration[0, 1])
        put(variables, f"network {name} entropy", run["entropy"].per_iteration)


def predict(config: Config) -> dict[str, float]:
    """Areal velocity and entropy production by η and process, for η → 0, and the network's."""
    values = {}
    for eta in config.learning_rates:
        own = processes(eta, config.substeps)
        for name, process in {**own, "limit": own["SDE"].limit()}.items():
            label = f"η={eta:g} {name}"
            values[f"{label} area"] = STATIONARY.areal_velocity(process)[0, 1]
            if name != "SGD":
                entropy = STATIONARY.stationary_current(process).entropy_production
                values[f"{label} entropy"] = entropy
    current, plane = linear_network()
    turning = plane @ current.areal_velocity @ plane.T
    values["network area"] = NETWORK_RATE * turning[0, 1]
    values["network entropy"] = NETWORK_RATE * current.entropy_production
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Own values and limits, ⟨e^{−σ}⟩ = 1, and the network against linear theory and rest."""
    rows = []
    names = {"area": "areal velocity", "entropy": "entropy production"}
    for eta in config.learning_rates:
        for process in ("SGD", "Gaussian SGD", "SDE"):
            for quantity, text in names.items():
                label = f"η={eta:g} {process} {quantity}"
                if label not in data:
                    continue
                measured, head = get(data, label), f"η = {eta:g}: {text}"
                rows.append(
                    row(
                        measured,
                        predicted[label],
                        name=f"{head}, own step",
                        process=process,
                        precision=config.precision,
                    )
                )
                if process == "SDE":
                    continue
                rows.append(
                    row(
                        measured,
                        predicted[f"η={eta:g} limit {quantity}"],
                        name=f"{head}, η → 0",
                        process=process,
                        expected="deviate",
                    )
                )
            if process != "SGD":
                measured = get(data, f"η={eta:g} {process} fluctuation")
                text = f"η = {eta:g}: ⟨exp(−σ)⟩ at t = {DURATIONS[0]:g}"
                rows.append(row(measured[0], 1.0, name=text, process=process, precision=0.02))
    for process in ("SGD", "SDE"):
        for quantity, text in {"area": "rotation", "entropy": "entropy of Gaussian steps"}.items():
            measured = get(data, f"network {process} {quantity}")
            rows.append(
                row(
                    measured,
                    predicted[f"network {quantity}"],
                    name=f"network: {text}, linear theory",
                    process=process,
                    precision=config.network_precision,
                )
            )
            rows.append(
                row(
                    measured,
                    0.0,
                    name=f"network: {text}, equilibrium",
                    process=process,
                    expected="deviate",
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Areal velocities in units of η, entropy production, and the network's rates."""
    lines = []
    for eta in config.learning_rates:
        area, entropy = (get(data, f"η={eta:g} Gaussian SGD {q}") for q in ("area", "entropy"))
        lines.append(
            f"At η = {eta:g} Gaussian SGD turns at {area.value / eta:.4f} η ± "
            f"{area.standard_error / eta:.4f} η and produces {entropy.value:.4f} ± "
            f"{entropy.standard_error:.4f} nats per unit t (η → 0: −.2 η and {16 / 9:.4f})."
        )
    sgd, sde = (get(data, f"network {process} entropy") for process in ("SGD", "SDE"))
    lines.append(
        f"The network's Gaussian entropy production is {sgd.value:.3g} ± {sgd.standard_error:.1g} "
        f"nats an iteration for SGD and {sde.value:.3g} ± {sde.standard_error:.1g} for the SDE "
        f"(linear theory {predict(config)['network entropy']:.3g})."
    )
    return " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Areal velocity and entropy over η, ⟨e^{−σ}⟩ over t, the network's rates."""
    figure, axes = new_figure(1, 4, width=3.9, height=3.7)
    grid = np.linspace(1e-4, 0.13, 50)
    texts = {
        "area": "areal velocity / η, per unit t (± 1 s.e.)",
        "entropy": "entropy, nats per unit t (± 1 s.e.)",
    }
    steps = {1: "Gaussian SGD", config.substeps: "SDE"}
    for axis, (quantity, text) in zip(axes[0], texts.items(), strict=False):
        for parts, name in steps.items():
            curve = [
                STATIONARY.stationary_current(processes(float(eta), parts)[name]) for eta in grid
            ]
            if quantity == "area":
                values = [c.areal_velocity[0, 1] / e for c, e in zip(curve, grid, strict=True)]
            else:
                values = [c.entropy_production for c in curve]
            label = f"exact, h = η/{parts}" if parts > 1 else "exact, h = η"
            style = "-" if parts == 1 else "--"
            axis.plot(grid, values, style, color=COLOURS["prediction"], label=label, lw=1.1)
        limit = -0.2 if quantity == "area" else 16 / 9
        axis.axhline(limit, color=COLOURS["other"], linestyle=":", label="η → 0")
        for process, shift in (("SGD", -0.002), ("Gaussian SGD", 0.0), ("SDE", 0.002)):
            for number, eta in enumerate(config.learning_rates):
                label = f"η={eta:g} {process} {quantity}"
                if label not in data:
                    continue
                found, unit = get(data, label), eta if quantity == "area" else 1.0
                text_of = process if number == 0 else "_"
                points(axis, [eta + shift], found / unit, text_of, color=COLOURS[process])
        axis.set_xlabel("learning rate η (points of one η side by side)")
        axis.set_ylabel(text)
        axis.legend(frameon=False, fontsize=8)
    third, last = axes[0, 2:]
    for process, marker in (("Gaussian SGD", "o"), ("SDE", "s")):
        for number, eta in enumerate(config.learning_rates):
            found = get(data, f"η={eta:g} {process} fluctuation")
            shift = 0.006 * (number - 0.5) + (0.002 if process == "SDE" else 0)
            points(
                third,
                np.array(DURATIONS) + shift,
                found,
                f"{process}, η = {eta:g}",
                color=COLOURS[process],
                fmt=marker,
                fillstyle="full" if number == 0 else "none",
            )
    third.axhline(1, color=COLOURS["prediction"], lw=1, label="exact")
    third.set_xlabel("duration t")
    third.set_ylabel("⟨exp(−σ)⟩ (± 1 s.e.)")
    third.set_xlim(0.05, 0.25)
    third.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.25), ncols=2)
    for place, quantity in enumerate(("area", "entropy")):
        unit = predicted[f"network {quantity}"]
        for shift, process in ((-0.12, "SGD"), (0.12, "SDE")):
            found = get(data, f"network {process} {quantity}")
            label = process if place == 0 else "_"
            points(last, [place + shift], found / unit, label, color=COLOURS[process])
    last.axhline(1, color=COLOURS["prediction"], lw=1, label="linear theory")
    last.axhline(0, color=COLOURS["other"], linestyle=":", label="equilibrium")
    last.set_xticks([0, 1], ["rotation of the\nfastest plane", "entropy of\nGaussian steps"])
    last.set_xlim(-0.5, 1.5)
    last.set_ylabel("rate / linear theory (± 1 s.e.)")
    last.set_title("network of 7 weights")
    last.legend(frameon=False, fontsize=8)
    return figure
