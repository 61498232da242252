"""A trained network leaves the basin of its minimum: SGD beside its SDE, over the batch size.

A perceptron with one hidden layer, handwritten digits of four classes, cross entropy with weight
decay. From its minimum θ* (full-batch L-BFGS) every process runs until the full training loss
reaches L(θ*) + δ. Both sides have the same learning rate and exactly the same gradient covariance:

    θ ← θ − η ĝ_B(θ)   against   dθ = −∇L dt + √η (Σ(θ)/B)^{1/2} dW .

Gaussian SGD stands between them: SGD differs from it by the law of its batches, the SDE by its
step. No exact value is known here. Members that have left start again, rates are exits over the
time at risk, with errors from independent members.

Claim: SGD leaves a basin of a real network later than its SDE, by a factor that grows as exits
become rare, with larger batches, because its gradients are bounded and not Gaussian; Euler's
scheme at h = η and Gaussian SGD leave at one rate.

Source: the exponents of Azizian, Iutzeler, Malick, Mertikopoulos 2024 (2406.09241), of which this
is the case that matters in practice.

Command: python -m experiments escape_from_a_digits_minimum --preset paper
"""

import dataclasses
import functools

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

    batch_sizes: tuple[int, ...] = (4, 8)
    """B"""
    learning_rate: float = 0.5
    """η"""
    rise: float = 0.03
    """δ, the rise of the training loss that ends a life"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps"""
    num_examples: int = 120
    """N"""
    num_directions: int = 6
    """principal directions of the images"""
    hidden: int = 4
    """units of the hidden layer"""
    l2: float = 0.01
    """weight decay λ of λ/2·|θ|²"""
    ensemble_size: int = 128
    """members of each run"""
    num_steps: int = 600
    """iterations of each run"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(batch_sizes=(4, 6, 8, 12), substeps=8, ensemble_size=512, num_steps=4000),
}

CLASSES = (0, 1, 2, 3)
PROCESSES = ("SGD", "Gaussian SGD", "SDE")


@functools.cache
def trained(config: Config) -> tuple[ss.EmpiricalRisk, np.ndarray, float]:
    """The landscape, θ* (d,) and L(θ*)."""
    data = ss.digits(
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


class Risen:
    """L(θ) ≥ L(θ*) + δ."""

    def __init__(self, config: Config):
        self.landscape, _, lowest = trained(config)
        self.level = lowest + config.rise

    def __call__(self, theta):
        return self.landscape.loss(theta) >= self.level


def processes(config: Config, size: int) -> dict[str, ss.AbstractProcess]:
    """SGD, Gaussian SGD and the SDE."""
    landscape, _, _ = trained(config)
    eta, sampling = config.learning_rate, ss.WithReplacement(size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(landscape, eta, sampling),
        "Gaussian SGD": ss.GaussianSGD(landscape, eta, noise),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Mean iterations (batch,) of each process; Euler at h = η for the smallest batch."""
    landscape, start, _ = trained(config)
    exit_, variables = ss.FirstPassage(Risen(config)), {}
    found = {name: [] for name in PROCESSES}

    def run(process, own):
        return ss.simulate(
            process,
            jnp.asarray(start),
            num_steps=config.num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"exit": exit_},
            refill=True,
        )["exit"]

    for size in config.batch_sizes:
        for name, process in processes(config, size).items():
            key, own = jr.split(key)
            found[name].append(run(process, own))
    for name, results in found.items():
        put(variables, name, stack([result.rate for result in results]), ("batch",))
        variables[f"{name} exits"] = (("batch",), [result.num_exits for result in results])
    noise = ss.MinibatchNoise(ss.WithReplacement(config.batch_sizes[0]))
    euler = ss.ModifiedEquation(landscape, config.learning_rate, noise, substeps=1)
    put(variables, "Euler, h = η", run(euler, key).rate)
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
        "trace of Σ": float(np.trace(np.asarray(landscape.gradient_covariance(theta)))),
    }


def ratios(config: Config, data: xr.Dataset, over: str) -> ss.Estimate:
    """Mean time of SGD over another process's, (batch,), with its error."""
    sgd, other = get(data, "SGD"), get(data, over)
    ratio = other.value / sgd.value
    relative = np.hypot(sgd.standard_error / sgd.value, other.standard_error / other.value)
    return ss.Estimate(ratio, ratio * relative, sgd.num_samples)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """The identity that must hold; the SDE that must fail where exits are rarest."""
    smallest, largest = config.batch_sizes[0], config.batch_sizes[-1]
    rows = [
        row(
            get(data, "Gaussian SGD")[0],
            get(data, "Euler, h = η"),
            name=f"rate at B={smallest}, of Euler at h = η",
            process="Gaussian SGD",
        )
    ]
    for other in ("Gaussian SGD", "SDE"):
        rows.append(
            row(
                get(data, "SGD")[-1],
                get(data, other)[-1],
                name=f"rate at B={largest}, of {other}",
                process="SGD",
                expected="deviate",
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The ratio SGD/SDE of mean times with its interval, over the batch size."""
    parts = []
    of_sde, of_gauss = ratios(config, data, "SDE"), ratios(config, data, "Gaussian SGD")
    for place, size in enumerate(config.batch_sizes):
        low, high = of_sde[place].interval()
        value = float(of_sde.value[place])
        wrong = not low <= 1 <= high
        side = "early" if value > 1 else "late"
        word = f"wrong, {max(value, 1 / value):.2f} times too {side}" if wrong else "not refuted"
        parts.append(
            f"B={size}: {value:.3f} ({low:.3f} to {high:.3f}; over Gaussian SGD "
            f"{of_gauss.value[place]:.3f} ± {of_gauss.standard_error[place]:.3f}), the SDE is "
            f"{word}"
        )
    about = predict(config)
    return (
        f"Mean time of SGD over the SDE's (h = η/{config.substeps}), 95 %: {'; '.join(parts)}. "
        f"d = {about['dimension']:g}, L(θ*) = {about['loss']:.4f}, Hessian from "
        f"{about['smallest eigenvalue']:.3g} to {about['largest eigenvalue']:.3g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Mean iterations and their ratio to the SDE's over the batch size."""
    figure, axes = new_figure(1, 2, width=5.0, height=4.0)
    left, right = axes[0]
    for shift, process in zip((-0.08, 0.0, 0.08), PROCESSES, strict=True):
        rate = get(data, process)
        mean = ss.Estimate(1 / rate.value, rate.standard_error / rate.value**2, rate.num_samples)
        points(left, np.array(config.batch_sizes) + shift, mean, process, ls="-")
    for shift, over in ((-0.05, "SDE"), (0.05, "Gaussian SGD")):
        place = np.array(config.batch_sizes) + shift
        points(right, place, ratios(config, data, over), f"SGD / {over}", color=COLOURS[over])
    right.axhline(1, color=COLOURS["prediction"], lw=1)
    left.set_yscale("log")
    left.set_ylabel(f"mean iterations until L(θ*) + {config.rise:g}  (± 1 s.e.)")
    right.set_ylabel("ratio of mean times  (± 1 s.e.)")
    for axis in (left, right):
        axis.set_xlabel(f"batch size B  (η = {config.learning_rate:g})")
        axis.legend(frameon=False, fontsize=8)
    return figure
