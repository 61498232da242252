"""A finite learning rate shortens the escape: Gaussian SGD against the SDE at one temperature.

In V = (x² − 1)²/4 with D = ηC/2 held at .05, Gaussian SGD x ← x − ηV′ + √(2Dη) ξ is a chain whose
mean time from −1 to +1 solves the kernel equation (I − P)τ = 1,

    τ(x) = 1 + ∫_{y<1} N(y; x − ηV′(x), 2Dη) τ(y) dy ,      T = ητ ,

and the SDE its limit η → 0, by quadrature. Euler's scheme at h is the same chain with η = h. The
escape is shorter by about 3.3 % at η = .1: longer steps see the well's curvature less. Differences
of 2, .8, .4 and .2 % between these times are resolved with the noise itself as control variate,
which leaves 1/13 to 1/120 of the variance; the plain mean stands beside it.

Claim: Gaussian SGD escapes in the time of the kernel equation at its own learning rate (705.5,
719.5 and 725.1 in t at η = .1, .05 and .025), the SDE run in that of its solver step (728.03 at
h = .01), and not in the 729.67 of the continuous limit.

Source: Gardiner, Handbook of Stochastic Methods, 5.2.7, for the SDE; the kernel equation is
solved on Gauss–Legendre nodes in sde_sgd.theory.escape.kernel_equation.

Command: python -m experiments finite_learning_rate_escape --preset paper
Subject: escape
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._controlled import controlled, ControlledResult, noise_weights
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
    """largest relative standard error with which a plain mean may agree"""
    control_precision: float = 0.006
    """the same with the control subtracted"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        exits=(40_000, 32_000, 30_000),
        sde_exits=6000,
        lives=20_000,
        precision=0.015,
        control_precision=0.0015,
    ),
}
# Cells of the control's weights reach from here to the exit; the process hardly goes below.
LOWEST = -2.4
# Two times are told apart if their gap is this many foreseen standard errors or more.
TOLD_APART = 6.5


def measure(config: Config, key) -> xr.Dataset:
    """Mean times in t, (rate,) and of the SDE; the mean of those lives that end before T."""
    exact, variables, found, plain = predict(config), {}, [], []
    chains = zip(config.learning_rates, exact["Gaussian SGD"], config.exits, strict=True)
    for eta, time, exits in chains:
        key, own = jr.split(key)
        process = well_processes(eta, config.diffusion, 1)["Gaussian SGD"]
        run = _passages(config, process, float(time) / eta, exits, own)
        found.append(run.mean_time_t)
        plain.append(run.plain.mean_time_t)
    put(variables, "Gaussian SGD", stack(found), ("rate",))
    put(variables, "Gaussian SGD, plain", stack(plain), ("rate",))
    key, own, last = jr.split(key, 3)
    eta = config.learning_rates[0]
    process = well_processes(eta, config.diffusion, round(eta / config.solver_step))["SDE"]
    run = _passages(config, process, float(exact["SDE"]) / eta, config.sde_exits, own)
    assert run.plain.mean_time_t is not None
    put(variables, "SDE", run.mean_time_t)
    put(variables, "SDE, plain", run.plain.mean_time_t)
    cut, likely = _cut_lives(config, exact["Gaussian SGD"][0] / eta, last)
    put(variables, "cut lives", cut)
    put(variables, "cut lives, likelihood", likely)
    return xr.Dataset(variables)


def _passages(config: Config, process, mean_steps: float, exits: int, key) -> ControlledResult:
    # At least 16 lives a member: (1 − Var τ/T²)/2 of one, 7e-3, is less than .4 errors of the mean.
    members = min(config.ensemble_size, max(exits // 16, 1))
    return passages(
        process,
        at_other_well,
        start=-1.0,
        mean_steps=mean_steps,
        exits=exits,
        members=members,
        key=key,
        measure=controlled(process, force, config.diffusion, LOWEST, 1.0),
    )


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

    def kernel(h: float, d: float = config.diffusion) -> float:
        return float(
            ss.theory.escape.mean_exit_time(ss.processes.Diffusion(force, d, h), -1.0, 1.0)
        )

    noise = ss.ConstantNoise([[2 * config.diffusion]])
    sde = ss.ModifiedEquation(ss.double_well(1.0), 1.0, noise).limit()
    bare = ss.theory.escape.eyring_kramers(sde, [-1.0], [0.1])
    steps = (*config.learning_rates, config.solver_step)
    left = [noise_weights(force, config.diffusion, h, LOWEST, 1.0)[1] for h in steps]
    half = ss.theory.escape.mean_exit_time(
        ss.processes.Diffusion(force, config.diffusion), -1.0, 0.0
    )
    return {
        "Gaussian SGD": np.array([kernel(eta) for eta in config.learning_rates]),
        "SDE": np.array(kernel(config.solver_step)),
        "limit": np.array(kernel(0.0)),
        "Kramers": np.array(bare.time),
        # Relative standard errors of the runs, Var τ = T².
        "foreseen": np.sqrt(np.array(left) / np.array([*config.exits, config.sde_exits])),
        "saddle": np.array(half),
        "2D": np.array(kernel(config.learning_rates[0], 2 * config.diffusion)),
    }


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each run against its own time; the first against the limit; controls."""
    rows, limits = [], (config.control_precision, config.precision)
    for kind, precision in zip(("", ", plain"), limits, strict=True):
        found, sde = get(data, f"Gaussian SGD{kind}"), get(data, f"SDE{kind}")
        named = [f"η={eta:g}" for eta in config.learning_rates] + [f"h={config.solver_step:g}"]
        exact = [*predicted["Gaussian SGD"], predicted["SDE"]]
        for measured, value, at in zip([*found, sde], exact, named, strict=True):
            process = "SDE" if at[0] == "h" else "Gaussian SGD"
            name = f"mean time at {at}{kind}"
            rows.append(row(measured, value, name=name, process=process, precision=precision))
    measured = [*get(data, "Gaussian SGD"), get(data, "SDE")]
    others = [*exact[1:], predicted["limit"]]
    of = [f"that of {at}" for at in named[1:]] + ["the continuous limit"]
    for place, (mine, value) in enumerate(zip(measured, exact, strict=True)):
        process = "SDE" if named[place][0] == "h" else "Gaussian SGD"
        for other, whose in zip(others[place:], of[place:], strict=True):
            if other - value >= TOLD_APART * predicted["foreseen"][place] * value:
                name = f"{named[place]}: {whose}"
                rows.append(row(mine, other, name=name, process=process, expected="deviate"))
    cut, likely = (get(data, name) for name in ("cut lives", "cut lives, likelihood"))
    first = f"Gaussian SGD, η={config.learning_rates[0]:g}"
    name = "lives cut at T, time at risk/exits"
    mean = predicted["Gaussian SGD"][0]
    rows.append(row(likely, mean, name=name, process=first, precision=2 * config.precision))
    slow, sde = measured[0], measured[-1]
    wrong = (
        (cut, mean, "lives cut at T, the cut ignored", first),
        (slow, predicted["saddle"], "time to the saddle taken for it", first),
        (slow, predicted["2D"], "diffusion off by 2", first),
        (slow, mean / config.learning_rates[0], "iterations taken for t", first),
        (sde, predicted["Kramers"], "Kramers' law", "SDE"),
    )
    for found, value, name, process in wrong:
        rows.append(row(found, value, name=name, process=process, expected="deviate"))
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
        f"continuous limit {limit:.3f}, {(limit - exact['SDE']) / sde.standard_error:.1f} standard "
        f"errors above it."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Mean times over the step, with the kernel equation's curve and the limit."""
    figure, axes = new_figure(1, 1, width=6.4, height=4.2)
    (axis,) = axes[0]
    steps = np.linspace(config.solver_step, 1.15 * max(config.learning_rates), 12)
    curve = [
        ss.theory.escape.mean_exit_time(
            ss.processes.Diffusion(force, config.diffusion, h), -1.0, 1.0
        )
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
