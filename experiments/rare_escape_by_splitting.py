"""Escapes from once in 10³ iterations to once in 10¹² by adaptive multilevel splitting.

In V = (x² − 1)²/4 a path that starts at −.8 reaches +.9 before −.9 with the committor

    q(−.8) = ∫_{−.9}^{−.8} e^{V/D} dx / ∫_{−.9}^{.9} e^{V/D} dx   (h → 0),

and the rate of passages from −1 to +.9 falls as e^{−ΔV/D}, D = ηC/2. Splitting runs replicas,
kills those whose highest level is among the lowest and clones the others, without bias; a rate
is the chance to arrive, over the time of a loop (Hill's relation). A chain that is watched
at steps has values of its own, from the kernel equation, that differ by up to a third from the
limit.

Claim: splitting gives committors of Gaussian SGD and of the SDE at their own steps, and rates down
to 10⁻¹² an iteration, within its own error of the exact ones; for two-point batches too.

Source: Cérou and Guyader 2007; Bréhier et al. 2016 (no bias); exact values from the kernel
equation and by collocation, in sde_sgd.theory.

Command: python -m experiments rare_escape_by_splitting --preset paper
Subject: escape
"""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import force, passages, stack, well_processes
from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.1
    """η"""
    substeps: int = 5
    """the SDE is integrated at h = η/substeps"""
    committor_diffusions: tuple[float, ...] = (0.05, 0.025)
    """D of the committors"""
    rate_diffusions: tuple[float, ...] = (0.1, 0.035, 0.0105)
    """D of the rates of Gaussian SGD"""
    batch_size: int = 4
    """B of SGD with batches of two-point tilts"""
    batch_diffusions: tuple[float, ...] = (0.05, 0.025)
    """D of the rates of SGD with batches"""
    num_replicas: int = 128
    """replicas of a repetition"""
    num_repetitions: int = 24
    """independent repetitions, from which the error is taken"""
    precision: float = 0.3
    """largest relative standard error with which a row may agree"""
    direct_diffusions: tuple[float, ...] = (0.35, 0.085, 0.048)
    """D at which Gaussian SGD is simulated directly too: rates near 10⁻², 10⁻³ and 10⁻⁴"""
    direct_exits: int = 2000
    """passages that a direct simulation should see"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        rate_diffusions=(0.1, 0.04, 0.0175, 0.0105),
        batch_diffusions=(0.05, 0.025, 0.018),
        num_repetitions=160,
        direct_exits=8000,
        precision=0.1,
    ),
}

# Largest relative standard error of a committor, whatever the preset.
COMMITTOR_PRECISION = 0.1
LOW, HIGH, BEGIN = -0.9, 0.9, -0.8
WELL, SURFACE = -1.0, -0.7


def first(theta):
    """The level: x."""
    return theta[0]


def committor_run(config: Config, name: str, diffusion: float, key) -> ss.Splitting:
    """q(−.8) of Gaussian SGD or the SDE."""
    process = well_processes(config.learning_rate, diffusion, config.substeps)[name]
    return ss.splitting(
        process,
        jnp.array([BEGIN]),
        level=first,
        origin=LOW,
        target=HIGH,
        num_replicas=config.num_replicas,
        num_repetitions=config.num_repetitions,
        key=key,
    )


def rate_run(config: Config, name: str, diffusion: float, key) -> ss.Splitting:
    """The rate from −1 to +.9 of Gaussian SGD, or of SGD with batches."""
    size = config.batch_size if name == "SGD" else 1
    process = well_processes(config.learning_rate, diffusion, 1, size)[name]
    return ss.splitting(
        process,
        jnp.array([WELL]),
        level=first,
        origin=LOW,
        surface=SURFACE,
        target=HIGH,
        num_replicas=config.num_replicas,
        num_repetitions=config.num_repetitions,
        key=key,
    )


def direct_rate(config: Config, name: str, diffusion: float, key) -> ss.Estimate:
    """The same rate by first passages with refill, without splitting."""
    size = config.batch_size if name == "SGD" else 1
    return passages(
        well_processes(config.learning_rate, diffusion, 1, size)[name],
        lambda theta: theta[0] >= HIGH,
        start=WELL,
        mean_steps=1 / exact_rate(config, name, diffusion),
        exits=config.direct_exits,
        members=256,
        key=key,
    ).rate


def measure(config: Config, key) -> xr.Dataset:
    """Committors (diffusion,) and rates an iteration, with the seconds of every run."""
    variables = {}
    for name in ("Gaussian SGD", "SDE"):
        found = []
        for diffusion in config.committor_diffusions:
            key, own = jr.split(key)
            found.append(committor_run(config, name, diffusion, own).probability)
        put(variables, f"committor {name}", stack(found), ("committor",))
    for name, chosen, dim in (
        ("Gaussian SGD", config.rate_diffusions, "gaussian"),
        ("SGD", config.batch_diffusions, "batches"),
    ):
        found, seconds, work = [], [], []
        for diffusion in chosen:
            key, own = jr.split(key)
            run = rate_run(config, name, diffusion, own)
            assert run.rate is not None
            found.append(run.rate)
            seconds.append(run.seconds)
            work.append(run.num_iterations)
        put(variables, f"rate {name}", stack(found), (dim,))
        variables[f"seconds {name}"] = ((dim,), np.array(seconds))
        variables[f"iterations {name}"] = ((dim,), np.array(work, float))
    for name, chosen in both_ways(config):
        pairs = []
        for diffusion in chosen:
            key, one, two = jr.split(key, 3)
            split = rate_run(config, name, diffusion, one).rate
            pairs.append((split, direct_rate(config, name, diffusion, two)))
        for way, found in zip(("split", "direct"), zip(*pairs, strict=True), strict=True):
            put(variables, f"{way} {name}", stack(list(found)), (f"{name} both ways",))
    return xr.Dataset(variables)


def both_ways(config: Config):
    """Processes and D of the rates that are measured by splitting and directly."""
    return ("Gaussian SGD", config.direct_diffusions), ("SGD", config.batch_diffusions[:1])


def exact_rate(config: Config, name: str, diffusion: float) -> float:
    """Passages an iteration from −1 to +.9."""
    eta = config.learning_rate
    if name == "Gaussian SGD":
        time = ss.theory.escape.mean_exit_time(
            ss.processes.Diffusion(force, diffusion, eta), start=WELL, exits=HIGH
        )
    elif name == "SGD":
        size = config.batch_size
        landscape = ss.double_well(size * 2 * diffusion / eta)
        sgd = ss.SGD(landscape, eta, ss.WithReplacement(size))
        time = ss.theory.escape.mean_exit_time(sgd, WELL, HIGH)
    else:
        time = ss.theory.escape.mean_exit_time(
            ss.processes.Diffusion(force, diffusion), start=WELL, exits=HIGH
        )
    return float(eta / time)


def exact_committor(diffusion: float, step: float) -> float:
    """q(−.8) of a chain with that step; 0 for the limit."""
    value = ss.theory.escape.committor(
        ss.processes.Diffusion(force, diffusion, step), start=BEGIN, lower=LOW, upper=HIGH
    )
    return float(value)


def predict(config: Config) -> dict[str, np.ndarray]:
    """Values of every process at its step, of the limit, and controls."""
    eta = config.learning_rate
    values = {
        f"committor {name}": np.array([exact_committor(d, h) for d in config.committor_diffusions])
        for name, h in (
            ("Gaussian SGD", eta),
            ("SDE", eta / config.substeps),
            ("limit", 0.0),
        )
    }
    values["committor 2D"] = np.array(
        [exact_committor(2 * d, eta) for d in config.committor_diffusions]
    )
    for name in ("Gaussian SGD", "SDE"):
        values[f"rate {name}"] = np.array(
            [exact_rate(config, name, d) for d in config.rate_diffusions]
        )
    values["rate SGD"] = np.array([exact_rate(config, "SGD", d) for d in config.batch_diffusions])
    values["rate SGD, SDE's"] = np.array(
        [exact_rate(config, "SDE", d) for d in config.batch_diffusions]
    )
    return values


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each committor and rate against its own value; limit, 2D, SDE and t as controls."""
    rows = []
    for name in ("Gaussian SGD", "SDE"):
        for place, diffusion in enumerate(config.committor_diffusions):
            rows.append(
                row(
                    get(data, f"committor {name}")[place],
                    predicted[f"committor {name}"][place],
                    name=f"q(−.8) at D={diffusion:g}, own step",
                    process=name,
                    precision=COMMITTOR_PRECISION,
                )
            )
    for name, chosen in (
        ("Gaussian SGD", config.rate_diffusions),
        ("SGD", config.batch_diffusions),
    ):
        for place, diffusion in enumerate(chosen):
            rows.append(
                row(
                    get(data, f"rate {name}")[place],
                    predicted[f"rate {name}"][place],
                    name=f"rate an iteration at D={diffusion:g}",
                    process=name,
                    precision=config.precision,
                )
            )
    for name, chosen in both_ways(config):
        for place, diffusion in enumerate(chosen):
            rows.append(
                row(
                    get(data, f"split {name}")[place],
                    get(data, f"direct {name}")[place],
                    name=f"rate at D={diffusion:g}, of direct simulation",
                    process=name,
                )
            )
            exact = exact_rate(config, name, diffusion)
            for way in ("split", "direct"):
                measured = get(data, f"{way} {name}")[place]
                title = f"rate at D={diffusion:g}, {way}"
                rows.append(row(measured, exact, name=title, process=name))
    committor, rate = get(data, "committor Gaussian SGD"), get(data, "rate Gaussian SGD")
    eta = config.learning_rate
    wrong = (
        (committor, predicted["committor 2D"], "q(−.8), diffusion off by 2"),
        (rate, predicted["rate Gaussian SGD"] / eta, "rate, iterations taken for t"),
    )
    for measured, value, name in wrong:
        rows.append(row(measured, value, name=name, process="Gaussian SGD", expected="deviate"))
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The rarest rate, its error, its seconds; what direct simulation would need."""
    exact, rate = predict(config), get(data, "rate Gaussian SGD")
    value, error = float(rate.value[-1]), float(rate.standard_error[-1])
    seconds = float(data["seconds Gaussian SGD"][-1])
    spent = float(data["iterations Gaussian SGD"][-1])
    own = float(exact["rate Gaussian SGD"][-1])
    needed = (value / error) ** 2 / own
    batches = get(data, "rate SGD")
    ratio = batches.value / exact["rate SGD, SDE's"]
    spread = batches.standard_error / exact["rate SGD, SDE's"]
    listed = ", ".join(
        f"{r:.2f} ± {s:.2f} (D={d:g})"
        for r, s, d in zip(ratio, spread, config.batch_diffusions, strict=True)
    )
    shift = exact["committor Gaussian SGD"] / exact["committor limit"] - 1
    return (
        f"The rarest rate is {value:.3g} ± {error:.1g} an iteration (exact {own:.4g}), from "
        f"{spent:.3g} iterations in {seconds:.1f} s; direct simulation needs {needed:.2g} "
        f"iterations for that error. The step moves the committors by "
        f"{', '.join(f'{s:+.0%}' for s in shift)} of the limit. SGD with batches of "
        f"{config.batch_size} leaves at {listed} times the rate of the SDE."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Rates over the barrier beside the exact ones, and measured over exact."""
    figure, axes = new_figure(1, 2, width=5.2, height=4.0)
    left, right = axes[0]
    for name, chosen in (
        ("Gaussian SGD", config.rate_diffusions),
        ("SGD", config.batch_diffusions),
    ):
        barrier, measured = 0.25 / np.array(chosen), get(data, f"rate {name}")
        grid = np.linspace(barrier.min(), barrier.max(), 12)
        curve = [exact_rate(config, name, float(0.25 / b)) for b in grid]
        left.plot(grid, curve, color=COLOURS[name], lw=1.2, label=f"exact, {name}")
        points(left, barrier, measured, name)
        own = predicted[f"rate {name}"]
        scaled = ss.Estimate(
            measured.value / own, measured.standard_error / own, measured.num_samples
        )
        points(right, barrier, scaled, f"rate, {name}", color=COLOURS[name])
    for name, chosen in both_ways(config):
        own = np.array([exact_rate(config, name, d) for d in chosen])
        for way, mark, shift in (("split", "^", -0.15), ("direct", "v", 0.15)):
            found = get(data, f"{way} {name}")
            scaled = ss.Estimate(found.value / own, found.standard_error / own, found.num_samples)
            place, label = 0.25 / np.array(chosen) + shift, f"{way}, {name}"
            points(right, place, scaled, label, fmt=mark, mfc="white", color=COLOURS[name])
    for shift, name in ((-0.1, "Gaussian SGD"), (0.1, "SDE")):
        own, measured = predicted[f"committor {name}"], get(data, f"committor {name}")
        scaled = ss.Estimate(
            measured.value / own, measured.standard_error / own, measured.num_samples
        )
        place = 0.25 / np.array(config.committor_diffusions) + shift
        points(right, place, scaled, f"q(−.8), {name}", fmt="s", color=COLOURS[name])
    left.set_yscale("log")
    left.set_ylabel("rate from −1 to +.9 an iteration  (± 1 s.e.)")
    right.axhline(1, color=COLOURS["prediction"], lw=1, label="own exact value")
    right.set_ylabel("measured / exact at its own step  (± 1 s.e.)")
    for axis in (left, right):
        axis.set_xlabel("barrier ΔV/D")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
