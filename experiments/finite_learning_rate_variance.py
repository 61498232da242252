"""Heavy ball at a finite learning rate fluctuates more than any SDE of it.

On a quadratic loss of Hessian H with constant gradient covariance C, heavy ball
m ← μm + ĝ, θ ← θ − ηm has the stationary covariance M of

    (1−μ)η(HM + MH) − (1+μ²)/(1−μ²) η² HMH + μ/(1−μ²) η² (H²M + MH²) = η² C ,

in one dimension M = ηC(1+μ)/[(1−μ)h(2(1+μ) − ηh)], whatever the law of the gradient: here it takes
few values only. The Ornstein–Uhlenbeck process of rate η/(1−μ) has HM + MH = ηC/(1−μ) instead, and
its Euler scheme a value between that belongs to its step.

Claim: SGD with momentum has the discrete covariance and not that of the SDE, by a factor of 2 at
η = 1, and the SDE run has the value of its own step.

Source: Liu, Ziyin, Ueda 2021 (2012.03636); the discrete and the continuous
Lyapunov equations are solved directly in sde_sgd.theory.stationary.lyapunov.

Command: python -m experiments finite_learning_rate_variance --preset paper
Subject: stationary
"""

import dataclasses

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

    substeps: int = 4
    """the SDE of rate η/(1−μ) is integrated at h = η/substeps"""
    ensemble_size: int = 4096
    """independent members a process"""
    num_steps: int = 400
    """iterations a member; the first quarter is left out"""
    precision: float = 0.01
    """largest relative standard error of the trace with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(substeps=16, ensemble_size=16384, num_steps=4000),
}

# η, μ, H, C: the plain walk, strong momentum, momentum at a rate beyond 1/h, and two dimensions in
# which H and C do not commute.
CASES = {
    "η=1, μ=0": (1.0, 0.0, [[1.0]], [[1.0]]),
    "η=.5, μ=.9": (0.5, 0.9, [[1.0]], [[1.0]]),
    "η=1.5, μ=.5": (1.5, 0.5, [[1.0]], [[2.0]]),
    "η=.4, μ=.5, d=2": (0.4, 0.5, [[1.0, 0.0], [0.0, 3.0]], [[1.0, 0.8], [0.8, 1.0]]),
}


def processes(config: Config, case: str) -> dict[str, ss.AbstractProcess]:
    """Heavy ball with a gradient of few values, and the overdamped SDE on the same clock."""
    eta, mu, hessian, noise = CASES[case]
    well = ss.quadratic(np.array(hessian), np.array(noise))
    sampling = ss.WithReplacement(1)
    slow = eta / (1 - mu)
    return {
        "SGD": ss.SGD(well, eta, sampling, momentum=mu),
        "SDE": ss.ModifiedEquation(
            well, slow, ss.MinibatchNoise(sampling), substeps=_substeps(config, mu)
        ),
    }


def _substeps(config: Config, mu: float) -> int:
    """So many that the solver step is η/substeps although an iteration is η/(1−μ) long."""
    return round(config.substeps / (1 - mu))


def measure(config: Config, key) -> xr.Dataset:
    """Stationary covariances (d, d) of all cases."""
    variables = {}
    for number, case in enumerate(CASES):
        dim = len(CASES[case][2])
        for name, process in processes(config, case).items():
            key, own = jr.split(key)
            run = ss.simulate(
                process,
                jnp.zeros(dim),
                num_steps=config.num_steps,
                ensemble_size=config.ensemble_size,
                key=own,
                measures={"moments": ss.Moments(burn_in=config.num_steps // 4)},
            )
            dims = (f"row{number}", f"column{number}")
            put(variables, f"{case} {name}", run["moments"].covariance, dims)
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """M (d, d) by case: of SGD, of the SDE, of the SDE at its step."""
    values, exact = {}, ss.theory.stationary.covariance
    for case in CASES:
        own = processes(config, case)
        values[case] = {
            "SGD": exact(own["SGD"]),
            "SDE, own step": exact(own["SDE"]),
            "SDE": exact(own["SDE"].limit()),
        }
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own value; SGD against the SDE's."""
    pairs = (
        ("SGD", "SGD", "agree"),
        ("SDE", "SDE, own step", "agree"),
        ("SGD", "SDE", "deviate"),
        ("SDE", "SGD", "deviate"),
    )
    rows = []
    for case, exact in predicted.items():
        for process, value, expected in pairs:
            rows.append(
                row(
                    get(data, f"{case} {process}"),
                    exact[value],
                    name=f"{case}: M of {value}",
                    process=process,
                    expected=expected,
                    precision=config.precision,
                    scale=np.trace(exact[value]),
                )
            )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The factor between SGD and the SDE."""
    exact = predict(config)
    factors = ", ".join(
        f"{np.trace(get(data, f'{case} SGD').value) / np.trace(values['SDE']):.4f} ({case})"
        for case, values in exact.items()
    )
    return f"tr M of SGD over that of the Ornstein–Uhlenbeck process: {factors}."


def plot(config: Config, data: xr.Dataset, predicted):
    """Variance in one dimension over ηh at each momentum, and the four measured cases."""
    figure, axes = new_figure(1, 2, width=5.4, height=4.0)
    left, right = axes[0]
    for mu, style in ((0.0, "-"), (0.5, "--"), (0.9, ":")):
        rate = np.linspace(0.01, min(0.9 * 2 * (1 + mu), 2.2), 120)
        ratio = 2 * (1 + mu) / (2 * (1 + mu) - rate)
        left.plot(rate, ratio, style, color=COLOURS["prediction"], label=f"exact, μ = {mu:g}")
    left.axhline(1, color=COLOURS["SDE"], linewidth=1.2, label="Ornstein–Uhlenbeck")
    for case, (eta, _, hessian, _) in CASES.items():
        if len(hessian) == 1:
            measured, unit = get(data, f"{case} SGD"), predicted[case]["SDE"][0, 0]
            label = "SGD" if eta == 1 else "_"
            points(left, [eta * hessian[0][0]], measured[0] / unit, label, color=COLOURS["SGD"])
    left.set_xlabel("η h")
    left.set_ylabel("variance / (ηC/[2h(1−μ)])  (± 1 s.e.)")
    left.legend(frameon=False)
    names = []
    for case, exact in predicted.items():
        entries = np.triu_indices(len(exact["SGD"]))
        for i, j in zip(*entries, strict=True):
            place = len(names)
            base = exact["SGD"][i, j]
            for process, value in (("SGD", "SGD"), ("SDE", "SDE, own step")):
                measured = get(data, f"{case} {process}")[i, j]
                percent = 100 * (measured / exact[value][i, j] - 1)
                shift = -0.12 if process == "SGD" else 0.12
                label = process if place == 0 else "_"
                points(right, [place + shift], percent, label, color=COLOURS[process])
            names.append(f"{case}\nM{i + 1}{j + 1} = {base:.4g}")
    right.axhline(0, color=COLOURS["prediction"], linewidth=1, label="own exact value")
    right.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
    right.set_ylabel("measured / exact − 1  (%, ± 1 s.e.)")
    right.legend(frameon=False)
    return figure
