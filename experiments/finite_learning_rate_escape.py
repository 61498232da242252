"""A finite learning rate shortens the escape: Gaussian SGD against the SDE at one temperature.

In V = (x² − 1)²/4 with D = ηC/2 held at .05, Gaussian SGD x ← x − ηV′ + √(2Dη) ξ is a chain whose
mean time from −1 to +1 solves the kernel equation (I − P)τ = 1,

    τ(x) = 1 + ∫_{y<1} N(y; x − ηV′(x), 2Dη) τ(y) dy ,      T = ητ ,

and the SDE its limit η → 0, by quadrature. Euler's scheme at h is the same chain with η = h. The
escape is shorter by about 3.3 % at η = .1: longer steps see the well's curvature less.

Claim: Gaussian SGD escapes in the time of the kernel equation at its own learning rate (705.5,
719.5 and 725.1 in t at η = .1, .05 and .025), the SDE run in that of its solver step (728.03 at
h = .01), and not in the 729.67 of the continuous limit.

Source: Gardiner, Handbook of Stochastic Methods, 5.2.7, for the SDE; the kernel equation is
solved on Gauss–Legendre nodes in sde_sgd.theory.kernel_equation.

Command: python -m experiments finite_learning_rate_escape --preset paper
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import at_other_well, force, passages, stack, well_processes
from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    diffusion: float = 0.05
    """D of all runs; the barrier is 1/(4D)"""
    learning_rates: tuple[float, ...] = (0.1, 0.05, 0.025)
    """η of Gaussian SGD"""
    solver_step: float = 0.01
    """h of the SDE, in t"""
    exits: tuple[int, ...] = (8000, 3000, 2000)
    """passages that each run of Gaussian SGD should see; 1/√exits is the relative error"""
    sde_exits: int = 1600
    """the same for the SDE"""
    ensemble_size: int = 1024
    """members of each run"""
    lives: int = 2000
    """single lives, cut at the mean time, for the control that ignores the cut"""
    precision: float = 0.03
    """largest relative standard error with which a row may agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        exits=(120_000, 60_000, 45_000), sde_exits=45_000, lives=20_000, precision=0.005
    ),
}


def measure(config: Config, key) -> xr.Dataset:
    """Mean times in t, (rate,) and of the SDE; the mean of those lives that end before T."""
    exact, variables, found = predict(config), {}, []
    chains = zip(config.learning_rates, exact["Gaussian SGD"], config.exits, strict=True)
    for eta, time, exits in chains:
        key, own = jr.split(key)
        process = well_processes(eta, config.diffusion, 1)["Gaussian SGD"]
        found.append(_mean_time(config, process, float(time) / eta, exits, own))
    put(variables, "Gaussian SGD", stack(found), ("rate",))
    key, own, last = jr.split(key, 3)
    eta = config.learning_rates[0]
    process = well_processes(eta, config.diffusion, round(eta / config.solver_step))["SDE"]
    sde = _mean_time(config, process, float(exact["SDE"]) / eta, config.sde_exits, own)
    put(variables, "SDE", sde)
    cut, likely = _cut_lives(config, exact["Gaussian SGD"][0] / eta, last)
    put(variables, "cut lives", cut)
    put(variables, "cut lives, likelihood", likely)
    return xr.Dataset(variables)


def _mean_time(config: Config, process, mean_steps: float, exits: int, key) -> ss.Estimate:
    members = min(config.ensemble_size, max(exits // 4, 1))
    run = passages(
        process,
        at_other_well,
        start=-1.0,
        mean_steps=mean_steps,
        exits=exits,
        members=members,
        key=key,
    )
    assert run.mean_time_t is not None
    return run.mean_time_t


def _cut_lives(config: Config, mean_steps: float, key) -> tuple[ss.Estimate, ss.Estimate]:
    """Lives watched for one mean time: the average of those that ended, and time at risk/exits."""
    eta = config.learning_rates[0]
    run = ss.simulate(
        well_processes(eta, config.diffusion, 1)["Gaussian SGD"],
        jnp.full(1, -1.0),
        num_steps=round(mean_steps),
        ensemble_size=config.lives,
        key=key,
        measures={"exit": ss.FirstPassage(at_other_well)},
    )["exit"]
    ended = run.first_times[np.isfinite(run.first_times)]
    error = ended.std(ddof=1) / np.sqrt(len(ended))
    return scalar(eta * ended.mean(), eta * error, len(ended)), run.mean_time_t


def predict(config: Config) -> dict[str, np.ndarray]:
    """Mean times in t."""
    route = {"start": -1.0, "exits": 1.0}

    def kernel(h: float, d: float = config.diffusion) -> float:
        return float(ss.theory.mean_exit_time(force, d, time_step=h, **route))

    bare = ss.theory.eyring_kramers(
        ss.double_well(1.0), config.diffusion, minimum=[-1.0], saddle=[0.1]
    )
    half = ss.theory.mean_exit_time(force, config.diffusion, start=-1.0, exits=0.0)
    return {
        "Gaussian SGD": np.array([kernel(eta) for eta in config.learning_rates]),
        "SDE": np.array(kernel(config.solver_step)),
        "limit": np.array(kernel(0.0)),
        "Kramers": np.array(bare.time),
        "saddle": np.array(half),
        "2D": np.array(kernel(config.learning_rates[0], 2 * config.diffusion)),
    }


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each run against its own time; the first against the limit; controls."""
    rows, found = [], get(data, "Gaussian SGD")
    for place, eta in enumerate(config.learning_rates):
        rows.append(
            row(
                found[place],
                predicted["Gaussian SGD"][place],
                name=f"mean time at η={eta:g}",
                process="Gaussian SGD",
                precision=config.precision,
            )
        )
    sde, cut, likely = (get(data, name) for name in ("SDE", "cut lives", "cut lives, likelihood"))
    name = f"mean time at h={config.solver_step:g}"
    rows.append(row(sde, predicted["SDE"], name=name, process="SDE", precision=config.precision))
    first = f"Gaussian SGD, η={config.learning_rates[0]:g}"
    name = "lives cut at T, time at risk/exits"
    mean = predicted["Gaussian SGD"][0]
    rows.append(row(likely, mean, name=name, process=first, precision=2 * config.precision))
    slow = found[0]
    wrong = (
        (cut, mean, "lives cut at T, the cut ignored", first),
        (slow, predicted["saddle"], "time to the saddle taken for it", first),
        (slow, predicted["2D"], "diffusion off by 2", first),
        (slow, mean / config.learning_rates[0], "iterations taken for t", first),
    )
    if config.precision < 0.01:
        # Kramers is 10 % off; of the differences of 3.3, 1.4 and .6 % the first can be seen then.
        wrong = ((sde, predicted["Kramers"], "Kramers' law", "SDE"), *wrong)
        wrong = ((slow, predicted["limit"], "the continuous limit", first), *wrong)
        other = predicted["Gaussian SGD"][1]
        wrong = ((slow, other, "the value of half the learning rate", first), *wrong)
    for measured, value, name, process in wrong:
        rows.append(row(measured, value, name=name, process=process, expected="deviate"))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How much shorter the escape is, and how well that was resolved."""
    exact, found, sde = predict(config), get(data, "Gaussian SGD"), get(data, "SDE")
    limit = float(exact["limit"])
    parts = []
    for place, eta in enumerate(config.learning_rates):
        gap = limit - exact["Gaussian SGD"][place]
        parts.append(
            f"{found.value[place]:.2f} ± {found.standard_error[place]:.2f} at η={eta:g} (exact "
            f"{exact['Gaussian SGD'][place]:.3f}, {gap / limit:.2%} below the limit, "
            f"{gap / found.standard_error[place]:.1f} standard errors)"
        )
    return (
        f"Gaussian SGD escapes in {'; '.join(parts)}. The SDE at h={config.solver_step:g}: "
        f"{float(sde.value):.2f} ± {float(sde.standard_error):.2f} (exact {exact['SDE']:.3f}); "
        f"continuous limit {limit:.3f}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Mean times over the step, with the kernel equation's curve and the limit."""
    figure, axes = new_figure(1, 1, width=6.4, height=4.2)
    (axis,) = axes[0]
    steps = np.linspace(config.solver_step, 1.15 * max(config.learning_rates), 12)
    curve = [
        ss.theory.mean_exit_time(force, config.diffusion, start=-1.0, exits=1.0, time_step=h)
        for h in steps
    ]
    axis.plot(steps, curve, color=COLOURS["prediction"], lw=1.2, label="kernel equation, exact")
    limit = float(predicted["limit"])
    axis.axhline(limit, color=COLOURS["SDE"], lw=1, ls="--", label=f"SDE, h → 0: {limit:.2f}")
    kramers = float(predicted["Kramers"])
    axis.axhline(kramers, color=COLOURS["other"], lw=1, ls=":", label=f"Kramers: {kramers:.2f}")
    points(axis, config.learning_rates, get(data, "Gaussian SGD"), "Gaussian SGD")
    sde = get(data, "SDE")
    one = ss.Estimate(sde.value[None], sde.standard_error[None], sde.num_samples)
    points(axis, [config.solver_step], one, "SDE")
    axis.set_xlabel("step: learning rate η, or h of the SDE (units of t)")
    axis.set_ylabel("mean time from −1 to +1, in t  (± 1 s.e.)")
    axis.set_title(f"D = {config.diffusion:g}, barrier ΔV/D = {0.25 / config.diffusion:g}")
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.12))
    return figure
