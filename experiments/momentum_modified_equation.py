"""SGD with momentum and its equations, on the clock t = ηk of its iterations.

Heavy ball, m ← μm + ĝ, θ ← θ − ηm, is described by the underdamped SDE

    dX = V dt,   dV = −[(1−μ)/η] V dt − (1/η) ∇L dt + η^{−1/2} C^{1/2} dW,

and for slow motion by its overdamped limit, the SDE at the rate η/(1−μ). On ½hx² with constant C
the stationary variances are

    heavy ball  ηC(1+μ)/[(1−μ)h(2(1+μ) − ηh)],      both SDEs  ηC/(2h(1−μ)),

and those of Nesterov's variant and of each scheme at its solver step follow from their chains.

Claim: every process has the variance of its own chain; the SDEs (2.5 and 3) miss heavy ball (2.88
and 6), the more the larger η; the underdamped one follows the transient of heavy ball with an error
of order one in η at fixed μ; Li–Tai–E's coefficients, which are for x ← x + ηv, fail on this clock.

Source: Li, Tai, E 2019 (1811.01558), section 5; Liu, Ziyin, Ueda 2021 (2012.03636); exact laws of
the processes from sde_sgd.theory.stationary, Nesterov's from the chain of (θ, m).

Command: python -m experiments momentum_modified_equation --preset paper
Subject: equations
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import xarray as xr
from scipy import linalg

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    cases: tuple[tuple[float, float, float], ...] = ((0.5, 0.9, 1.0), (1.5, 0.5, 2.0))
    """(η, μ, C); curvature 1"""
    substeps: int = 4
    """solver steps an iteration of both SDEs"""
    ensemble_size: int = 4096
    """independent members a process"""
    num_steps: int = 260
    """iterations a member"""
    burn_in: int = 100
    """iterations left out, from the start at the minimum"""
    resolution: float = 0.03
    """largest relative difference from its own exact value with which a process agrees"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ((1.0, 0.0, 1.0), (0.5, 0.9, 1.0), (1.5, 0.5, 2.0)), 8, 16384, 1500, 200, resolution=0.01
    ),
}
LABELS = {
    "heavy_ball": "heavy ball",
    "nesterov": "Nesterov",
    "underdamped": "underdamped SDE",
    "overdamped": "overdamped SDE",
}


def processes(config: Config, eta: float, mu: float, c: float) -> dict[str, ss.AbstractProcess]:
    """What runs at one setting; Nesterov only where it is stable."""
    landscape, noise = ss.quadratic([[1.0]], [[c]]), ss.ConstantNoise(np.array([[c]]))
    sampling, steps = ss.WithReplacement(1), config.substeps
    made: dict[str, ss.AbstractProcess] = {"heavy_ball": ss.SGD(landscape, eta, sampling, mu)}
    if eta * (1 + 2 * mu) < 2 * (1 + mu):
        optimizer = optax.sgd(eta, momentum=mu, nesterov=True)
        made["nesterov"] = ss.OptaxSGD(landscape, optimizer, sampling, learning_rate=eta)
    made["underdamped"] = ss.UnderdampedEquation(landscape, eta, noise, mu, steps)
    made["overdamped"] = ss.OverdampedEquation(landscape, eta, noise, mu, steps)
    return made


def measure(config: Config, key) -> xr.Dataset:
    """Stationary variances."""
    variables = {}
    for case, (eta, mu, c) in enumerate(config.cases):
        for name, process in processes(config, eta, mu, c).items():
            key, own = jr.split(key)
            run = ss.simulate(
                process,
                jnp.zeros(1),
                num_steps=config.num_steps,
                ensemble_size=config.ensemble_size,
                key=own,
                measures={"moments": ss.Moments(burn_in=config.burn_in)},
            )
            put(variables, f"{case} {name}", run["moments"].covariance[0, 0])
    return xr.Dataset(variables)


def nesterov_variance(eta: float, mu: float, c: float) -> float:
    """Of θ ← θ − η(ĝ + μm), m ← μm + ĝ on ½x², which optax calls Nesterov's."""
    move = np.array([[1 - eta * (1 + mu), -eta * mu**2], [1.0, mu]])
    into = np.array([[-eta * (1 + mu)], [1.0]])
    return float(linalg.solve_discrete_lyapunov(move, c * into @ into.T)[0, 0])


def transient_errors(mu: float, rates, wrong: bool = False) -> np.ndarray:
    """|E X_T − E θ_k| at T = 4(1 − μ) from x = 1; `wrong` with Li–Tai–E's coefficients."""
    landscape, noise = ss.quadratic([[1.0]], [[1.0]]), ss.ConstantNoise(np.eye(1))
    found = []
    for eta in rates:
        time = 4 * (1 - mu)
        rate, until = (eta**2, time * eta) if wrong else (eta, time)
        ball = ss.SGD(landscape, eta, ss.WithReplacement(1), mu)
        sde = ss.UnderdampedEquation(landscape, rate, noise, mu).limit()
        ends = ((ball, time), (sde, until))
        one, other = (theory.stationary.transient(p, [t], [1.0]).mean[0, 0] for p, t in ends)
        found.append(abs(other - one))
    return np.array(found)


def predict(config: Config) -> dict:
    """Variances of the chains and of the limits; errors of the transient against η."""
    values: dict = {}
    for case, (eta, mu, c) in enumerate(config.cases):
        made = processes(config, eta, mu, c)
        for name, process in made.items():
            values[f"{case} {name}"] = (
                nesterov_variance(eta, mu, c)
                if name == "nesterov"
                else theory.stationary.covariance(process).item()
            )
        limit = theory.stationary.covariance(made["underdamped"].limit()).item()
        values[f"{case} limit"] = limit
        # x ← x + ηv, v ← μv − ηĝ is heavy ball with η² for η.
        values[f"{case} other form"] = eta * limit
    for mu in (0.5, 0.9):
        rates = (1 - mu) ** 2 * 2.0 ** -np.arange(4, 9)
        values[f"transient {mu}"] = (rates, transient_errors(mu, rates))
        values[f"wrong {mu}"] = (rates, transient_errors(mu, rates, wrong=True))
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own chain; heavy ball against the SDEs; the order in η."""
    rows = []
    for case, (eta, mu, c) in enumerate(config.cases):
        where = f"(η, μ, C) = ({eta:g}, {mu:g}, {c:g})"
        for name in processes(config, eta, mu, c):
            own, measured = predicted[f"{case} {name}"], get(data, f"{case} {name}")
            rows.append(
                ss.compare(
                    measured,
                    own,
                    resolution=config.resolution * own,
                    name=f"{where}: variance, own chain",
                    process=LABELS[name],
                )
            )
        others = [("heavy_ball", "limit", "SDE, h → 0")]
        if mu:
            others.append(("overdamped", "limit", "SDE, h → 0"))
        if eta != 1:
            others.append(("underdamped", "other form", "Li–Tai–E's form on this clock"))
        for name, key, words in others:
            rows.append(
                ss.compare(
                    get(data, f"{case} {name}"),
                    predicted[f"{case} {key}"],
                    name=f"{where}: variance, {words}",
                    process=LABELS[name],
                    expected="deviate",
                )
            )
    for mu in (0.5, 0.9):
        for key, expected in (("transient", "agree"), ("wrong", "deviate")):
            rates, errors = predicted[f"{key} {mu}"]
            fit = theory.equations.fit_order(rates[-3:], errors[-3:])
            form = "" if key == "transient" else ", Li–Tai–E's form on this clock"
            rows.append(
                ss.compare(
                    ss.Estimate(fit.order, 0.0, 2),
                    1.0,
                    resolution=0.1,
                    name=f"μ = {mu:g}: order in η of the transient{form}",
                    process="no sampling",
                    expected=expected,
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How far the SDEs are from heavy ball."""
    exact, lines = predict(config), []
    for case, (eta, mu, c) in enumerate(config.cases):
        measured = float(get(data, f"{case} heavy_ball").value)
        ratio = measured / exact[f"{case} limit"]
        lines.append(f"({eta:g}, {mu:g}, {c:g}): {measured:.4f}, {ratio:.3f} times the SDEs'")
    return "Variance of heavy ball at (η, μ, C): " + "; ".join(lines) + "."


def plot(config: Config, data: xr.Dataset, predicted):
    """Variances over the SDEs' limit, and the error of the transient against η."""
    figure, axes = new_figure(1, 2, width=5.6, height=4.0)
    left, right = axes[0]
    ticks, place = [], 0
    colours = {"heavy_ball": "SGD", "nesterov": "Gaussian SGD"}
    for case, (eta, mu, c) in enumerate(config.cases):
        limit = predicted[f"{case} limit"]
        for name in processes(config, eta, mu, c):
            colour = colours.get(name, "SDE" if name == "underdamped" else "other")
            label = f"measured, {LABELS[name]}" if case == 0 else ""
            measured = get(data, f"{case} {name}")
            value, error = measured.value[None] / limit, measured.standard_error[None] / limit
            row = ss.Estimate(value, error, measured.num_samples)
            points(left, [place], row, label, color=COLOURS[colour])
            exact = predicted[f"{case} {name}"] / limit
            left.hlines(exact, place - 0.35, place + 0.35, color=COLOURS["prediction"], linewidth=1)
            place += 1
        ticks.append((place - 2.5, f"η = {eta:g}\nμ = {mu:g}, C = {c:g}"))
        place += 1
    left.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    left.axhline(1, color=COLOURS["SDE"], linestyle=":", linewidth=1, label="SDEs, h → 0")
    left.set_ylabel("variance / that of the SDEs (bars: exact)")
    for mu, colour in ((0.5, "SGD"), (0.9, "SDE")):
        rates, errors = predicted[f"transient {mu}"]
        slope = theory.equations.fit_order(rates[-3:], errors[-3:]).order
        label = f"underdamped SDE, μ = {mu:g}: slope {slope:.2f}"
        right.loglog(rates, errors, "o-", color=COLOURS[colour], markersize=3, label=label)
        rates, errors = predicted[f"wrong {mu}"]
        label = f"Li–Tai–E's form on this clock, μ = {mu:g}"
        right.loglog(rates, errors, "--", color=COLOURS[colour], linewidth=1, label=label)
    right.set_xlabel("learning rate η")
    right.set_ylabel("|error of E x at t = 4(1−μ)|, no sampling")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7)
    return figure
