"""A trained network leaves the basin of its minimum: SGD beside its SDE, over the batch size.

A perceptron with one hidden layer, handwritten digits of four classes, cross entropy with weight
decay. From its minimum θ* (full-batch L-BFGS) every process runs until the full training loss
has risen to a level, at the same learning rate and with exactly the same gradient covariance,

    θ ← θ − η ĝ_B(θ)   against   dθ = −∇L dt + √η (Σ(θ)/B)^{1/2} dW .

*A level that scales with the noise.* Near θ* the stationary covariance M of the SDE solves
HM + MH = (η/B)Σ, so that its loss stands on average ½ tr HM = η tr Σ/(4B) above L(θ*); the level
is κ times that. At every batch size an exit is as rare as the quadratic part of the basin
makes it: times can be compared over B, and a relaxation sums many batches.

*A fixed level* L(θ*) + δ: exits become rare as B grows, and what counts are the tails of batches.

All are looked at once an iteration, t = ηk: a diffusion that is watched more often leaves earlier,
which is no fault of its law. Gaussian SGD stands between the two sides: SGD differs from it by the
law of its batches; it is Euler's scheme at h = η, so that the SDE's error in the step is read from
it and from one smaller step, log T₀ = (m log T_{η/m} − log T_η)/(m − 1). No exact value is known
here. Members that have left start again; times are those of lives, without the bias of few.

Claim: at a level that scales with the noise SGD and its SDE leave the basin of a real network at
one rate (within e^.35, the resolution of the default preset; e^.2 of the other), at small batches
and at large ones; at a fixed level SGD leaves later, as its gradients are bounded and not
Gaussian; Euler's scheme at h = η and Gaussian SGD leave at one rate.

Source: the exponents of Azizian, Iutzeler, Malick, Mertikopoulos 2024 (2406.09241), of which this
is the case that matters in practice.

Command: python -m experiments escape_from_a_digits_minimum --preset paper
Subject: escape
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from scipy.optimize import minimize

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._escape import stack
from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    batch_sizes: tuple[int, ...] = (4, 32)
    """B at the level that scales"""
    learning_rate: float = 0.125
    """η there"""
    height: float = 2.0
    """κ, the excess of the training loss that ends a life over its stationary mean"""
    fixed_batch_sizes: tuple[int, ...] = (8,)
    """B at the fixed level"""
    fixed_learning_rate: float = 0.5
    """η there"""
    rise: float = 0.03
    """δ, the rise of the training loss that ends a life there"""
    substeps: int = 3
    """m: the SDE is integrated at h = η/m"""
    num_examples: int = 120
    """N"""
    num_directions: int = 6
    """principal directions of the images"""
    hidden: int = 4
    """units of the hidden layer"""
    l2: float = 0.01
    """weight decay λ of λ/2·|θ|²"""
    ensemble_size: int = 64
    """members of each run"""
    num_steps: int = 1200
    """iterations of each run at the level that scales"""
    fixed_num_steps: int = 2400
    """the same at the fixed level"""
    resolution: float = 0.35
    """difference of the logarithms of two times within which they agree"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        batch_sizes=(4, 16, 64),
        fixed_batch_sizes=(4, 6, 8, 12),
        substeps=4,
        ensemble_size=256,
        num_steps=2000,
        fixed_num_steps=2400,
        resolution=0.2,
    ),
}

CLASSES = (0, 1, 2, 3)
LEVELS = ("scaled", "fixed")
PROCESSES = ("SGD", "Gaussian SGD", "SDE")
EULER = "Euler, h = η"


@functools.cache
def trained(config: Config) -> tuple[ss.EmpiricalRisk, np.ndarray, float]:
    """The landscape, θ* (d,) and L(θ*)."""
    data = ss.data.digits(
        CLASSES, scaling="unit", principal_directions=config.num_directions, test_fraction=0.0
    )
    model = eqx.nn.MLP(
        config.num_directions,
        len(CLASSES),
        config.hidden,
        1,
        activation=jnp.tanh,
        key=jr.key(0),
    )
    inputs, labels = data.inputs[: config.num_examples], data.targets[: config.num_examples]
    landscape = ss.EmpiricalRisk(model, inputs, labels, ss.cross_entropy, l2=config.l2)
    both = jax.jit(jax.value_and_grad(landscape.loss))

    def objective(theta):
        value, slope = both(jnp.asarray(theta))
        return float(value), np.asarray(slope, float)

    found = minimize(
        objective,
        np.asarray(landscape.initial),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10_000, "ftol": 0.0, "gtol": 1e-7},
    )
    if not np.linalg.norm(found.jac) < 1e-4:
        raise ValueError(
            f"L-BFGS stopped at |∇L| = {np.linalg.norm(found.jac):.2g}, no minimum: raise l2."
        )
    return landscape, found.x, float(found.fun)


class Case(NamedTuple):
    """A level, and the runs up to it."""

    learning_rate: float
    batch_sizes: tuple[int, ...]
    num_steps: int
    rise: Callable[[int], float]


def case(config: Config, level: str) -> Case:
    """The case of one of the LEVELS."""
    if level == "fixed":
        return Case(
            config.fixed_learning_rate,
            config.fixed_batch_sizes,
            config.fixed_num_steps,
            lambda size: config.rise,
        )
    return Case(
        config.learning_rate,
        config.batch_sizes,
        config.num_steps,
        lambda size: config.height * excess(config, size),
    )


def excess(config: Config, size: int) -> float:
    """½ tr HM = η tr Σ(θ*)/(4B), the SDE's mean excess of the loss near θ*."""
    landscape, start, _ = trained(config)
    spread = np.trace(np.asarray(landscape.gradient_covariance(jnp.asarray(start))))
    return config.learning_rate * float(spread) / (4 * size)


class Risen:
    """L(θ) ≥ level."""

    def __init__(self, landscape: ss.EmpiricalRisk, level: float):
        self.landscape, self.level = landscape, level

    def __call__(self, theta):
        return self.landscape.loss(theta) >= self.level


class OnceAnIteration(ss.AbstractMeasure):
    """A first passage that looks at a process of several substeps after its iterations only.

    `clock`: a process with the same time and one step an iteration.
    """

    passage: ss.FirstPassage
    clock: ss.AbstractProcess
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def check(self, process: Any, num_steps: int) -> None:
        self.passage.check(process, num_steps)

    def check_start(self, theta) -> None:
        self.passage.check_start(theta)

    def init(self, theta):
        return self.passage.init(theta)

    def update(self, carry, before, after, tick, alive):
        return self.passage.update(carry, before, after, tick, alive)

    def finished(self, carry):
        return self.passage.finished(carry)

    def restart(self, carry, restarted):
        return self.passage.restart(carry, restarted)

    def result(self, carry, alive, process):
        return self.passage.result(carry, alive, self.clock)


def processes(config: Config, eta: float, size: int) -> dict[str, ss.AbstractProcess]:
    """SGD, Gaussian SGD, the SDE; Euler's scheme at h = η."""
    landscape, _, _ = trained(config)
    sampling = ss.WithReplacement(size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(landscape, eta, sampling),
        "Gaussian SGD": ss.GaussianSGD(landscape, eta, noise),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
        EULER: ss.ModifiedEquation(landscape, eta, noise, substeps=1),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Mean times in t, (batch,) of each level and process; Euler at h = η once."""
    landscape, start, lowest = trained(config)
    variables = {}

    def run(of: Case, size: int, name: str, own):
        made = processes(config, of.learning_rate, size)
        passage = ss.FirstPassage(Risen(landscape, lowest + of.rise(size)), renewal=True)
        return ss.simulate(
            made[name],
            jnp.asarray(start),
            num_steps=of.num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"exit": OnceAnIteration(passage, made["SGD"])},
            refill=True,
        )["exit"]

    for level in LEVELS:
        of = case(config, level)
        for name in PROCESSES:
            found = []
            for size in of.batch_sizes:
                key, own = jr.split(key)
                found.append(run(of, size, name, own))
            times = stack([result.renewal_time_t for result in found])
            put(variables, f"{level} {name}", times, (level,))
            variables[f"{level} {name} exits"] = ((level,), [x.num_exits for x in found])
    of = case(config, "fixed")
    euler = run(of, of.batch_sizes[0], EULER, key).renewal_time_t
    put(variables, f"fixed {EULER}", stack([euler]), ("first",))
    return xr.Dataset(variables)


def predict(config: Config) -> dict[str, float]:
    """Of the escape nothing is known exactly; the minimum is."""
    landscape, start, lowest = trained(config)
    theta = jnp.asarray(start)
    eigenvalues = np.linalg.eigvalsh(np.asarray(landscape.hessian(theta)))
    return {
        "loss": lowest,
        "dimension": float(len(start)),
        "largest eigenvalue": float(eigenvalues[-1]),
        "smallest eigenvalue": float(eigenvalues[0]),
        "excess at B = 1": excess(config, 1),
    }


def log_time(config: Config, data: xr.Dataset, level: str, name: str) -> ss.Estimate:
    """log T (batch,), of "SDE, h → 0" extrapolated from h = η and h = η/m."""
    if name == "SDE, h → 0":
        share = 1 / (config.substeps - 1)
        fine, coarse = (log_time(config, data, level, x) for x in ("SDE", "Gaussian SGD"))
        return (1 + share) * fine - share * coarse
    return get(data, f"{level} {name}").map(jnp.log)


def log_ratio(
    config: Config, data: xr.Dataset, level: str, one: str, two: str, place: int
) -> ss.Estimate:
    """log of the mean time of `one` over that of `two` at one batch size."""
    first, second = (log_time(config, data, level, name)[place] for name in (one, two))
    return first - second


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Logarithms of ratios: those that are 0 within the resolution, and those that are not."""
    wanted = [("fixed", "Gaussian SGD", EULER, 0, "agree")]
    for place in range(len(config.batch_sizes)):
        wanted += [("scaled", "SGD", other, place, "agree") for other in ("Gaussian SGD", "SDE")]
    last = len(config.fixed_batch_sizes) - 1
    wanted += [("fixed", "SGD", other, last, "deviate") for other in ("Gaussian SGD", "SDE")]
    rows = []
    for level, one, two, place, expected in wanted:
        size = case(config, level).batch_sizes[place]
        rows.append(
            row(
                log_ratio(config, data, level, one, two, place),
                0.0,
                name=f"{level} level, B={size}: log of time over that of {two}",
                process=one,
                expected=expected,
                resolution=config.resolution if expected == "agree" else None,
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The ratio SGD/SDE of mean times with its interval, over the batch size."""
    about, lines = predict(config), []
    for level, text in (
        ("scaled", f"{config.height:g} times the mean excess {about['excess at B = 1']:.3g}/B"),
        ("fixed", f"δ = {config.rise:g}"),
    ):
        of, parts = case(config, level), []
        for place, size in enumerate(of.batch_sizes):
            pairs = (("SGD", "SDE"), ("SGD", "SDE, h → 0"), ("SGD", "Gaussian SGD"))
            at, limit, gauss = (log_ratio(config, data, level, *pair, place) for pair in pairs)
            low, high = np.exp(at.interval())
            value = float(np.exp(at.value))
            side = "early" if value > 1 else "late"
            wrong = f"the SDE leaves {max(value, 1 / value):.2f} times too {side}"
            parts.append(
                f"B={size}: {value:.3f} ({low:.3f} to {high:.3f}; h → 0 {np.exp(limit.value):.3f} "
                f"± {limit.standard_error:.3f}; over Gaussian SGD {np.exp(gauss.value):.3f} ± "
                f"{gauss.standard_error:.3f}), "
                + ("no difference seen" if low <= 1 <= high else wrong)
            )
        lines.append(f"at {text}, η={of.learning_rate:g}: {'; '.join(parts)}")
    return (
        f"Mean time of SGD over the SDE's (h = η/{config.substeps}), 95 %, {'. And '.join(lines)}. "
        f"d = {about['dimension']:g}, L(θ*) = {about['loss']:.4f}, Hessian from "
        f"{about['smallest eigenvalue']:.3g} to {about['largest eigenvalue']:.3g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Mean times and their ratios over the batch size, at both levels."""
    figure, axes = new_figure(1, 2, width=5.4, height=4.0)
    left, right = axes[0]
    for level, style, mark in (("scaled", "-", "o"), ("fixed", "--", "s")):
        of = case(config, level)
        sizes = np.array(of.batch_sizes, float)
        for shift, name in zip((0.95, 1.0, 1.05), PROCESSES, strict=True):
            options = {"color": COLOURS[name], "ls": style, "fmt": mark}
            points(left, sizes * shift, get(data, f"{level} {name}"), f"{name}, {level}", **options)
        for shift, over in ((0.97, "SDE"), (1.03, "Gaussian SGD")):
            found = [
                log_ratio(config, data, level, "SGD", over, place) for place in range(len(sizes))
            ]
            value = np.exp([float(x.value) for x in found])
            error = value * np.array([float(x.standard_error) for x in found])
            ratio = ss.Estimate(value, error, found[0].num_samples)
            options = {"color": COLOURS[over], "ls": style, "fmt": mark}
            points(right, sizes * shift, ratio, f"SGD / {over}, {level}", **options)
    right.axhline(1, color=COLOURS["prediction"], lw=1)
    left.set_yscale("log")
    left.set_ylabel("mean time to leave, in t  (± 1 s.e.)")
    right.set_ylabel("ratio of mean times  (± 1 s.e.)")
    sizes = sorted({*config.batch_sizes, *config.fixed_batch_sizes})
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("batch size B")
        axis.legend(frameon=False, fontsize=8)
    scaled, fixed = (case(config, level).learning_rate for level in LEVELS)
    left.set_title(
        f"scaled: {config.height:g} times the mean excess, η = {scaled:g}; "
        f"fixed: {config.rise:g}, η = {fixed:g}",
        fontsize=8,
    )
    return figure
