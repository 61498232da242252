"""Label noise moves SGD along the minima towards flat ones, every member at the same pace.

f = u·w is fitted to the target 1 with fresh label noise ±σ at every step, losses ½r². All of uw = 1
is a minimum, of sharpness u² + w² ≥ 2. Every step multiplies u² − w² by exactly 1 − η²g²,
g = ∂ℓ̂/∂(uw), so that the imbalance of *every* member falls alike,

    (u² − w²)_k/(u² − w²)_0 = Π_j (1 − η²g_j²) ,    E g² = 2σ²/(2 − η(u² + w²)) .

Claim: SGD and Gaussian SGD with minibatch noise lose the imbalance at the exact rate, all members
together; diagonal noise of the same variances does so only on average, isotropic noise not at all.

Source: Blanc et al. 2020 (1904.09080) and Damian, Ma, Lee 2021 (2106.06530) for the flow; Ziyin et
al. 2023 (2308.06671) for the balance identity; the finite-η rate is exact algebra (documented in
sde_sgd.theory.selection.label_noise).

Command: python -m experiments label_noise_flattens --preset paper
Subject: selection
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure

from ._rows import scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.02
    """η"""
    label_noise: float = 0.5
    """σ, the labels are 1 ± σ"""
    start: tuple[float, float] = (2.0, 0.5)
    """(u, w), on the manifold of minima"""
    num_steps: int = 10_000
    """iterations"""
    ensemble_size: int = 2048
    """members a process"""
    num_points: int = 21
    """of the curves in time"""
    resolution: float = 0.001
    """of the mean ratio: the smallest difference that matters"""
    spread: float = 0.01
    """largest standard deviation between members that counts as none"""


PRESETS = {"smoke": Config(), "paper": Config(ensemble_size=8192, num_points=101)}

PROCESSES = ("SGD", "Gaussian SGD", "diagonal noise", "isotropic noise")
# (process, mean ratio as predicted, members alike): fixed before any run.
EXPECTED = {
    "SGD": ("agree", "agree"),
    "Gaussian SGD": ("agree", "agree"),
    "diagonal noise": (None, "deviate"),
    "isotropic noise": ("deviate", "deviate"),
}


class Product(eqx.Module):
    """f(x) = u w x."""

    u: jax.Array
    w: jax.Array

    def __call__(self, x):
        return self.u * self.w * x


def landscape(config: Config, label_noise: float | None = None) -> ss.EmpiricalRisk:
    """Two examples, x = 1 with y = 1 ± σ: a batch of one is a fresh noisy label."""
    sigma = config.label_noise if label_noise is None else label_noise
    u, w = config.start
    model = Product(jnp.array(u), jnp.array(w))
    labels = jnp.array([1 + sigma, 1 - sigma])
    return ss.EmpiricalRisk(model, jnp.ones(2), labels, ss.squared_error)


def processes(config: Config) -> dict[str, ss.AbstractProcess]:
    """SGD and its Gaussian twins, of the same variances."""
    where, eta, sampling = landscape(config), config.learning_rate, ss.WithReplacement(1)
    noises = (
        ss.MinibatchNoise(sampling),
        ss.DiagonalNoise(sampling),
        ss.IsotropicNoise(sampling),
    )
    made = [ss.SGD(where, eta, sampling), *(ss.GaussianSGD(where, eta, n) for n in noises)]
    return dict(zip(PROCESSES, made, strict=True))


def steps(config: Config) -> np.ndarray:
    """Iterations of the curves, the last one that of the checks."""
    return np.unique(np.linspace(0, config.num_steps, config.num_points).astype(int))


def measure(config: Config, key) -> xr.Dataset:
    """u² − w² relative to its start and u² + w² of every member, in time."""
    theta = jnp.asarray(config.start)
    both = ss.Snapshots(
        steps(config).tolist(),
        of=lambda x: jnp.array([x[0] ** 2 - x[1] ** 2, x[0] ** 2 + x[1] ** 2]),
    )
    found = {}
    for (name, process), own in zip(processes(config).items(), jr.split(key, 4), strict=True):
        run = ss.simulate(
            process,
            theta,
            num_steps=config.num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"path": both},
        )
        values = np.asarray(run["path"].values)
        found[f"{name} ratio"] = (("k", "member"), values[..., 0] / values[0, 0, 0])
        found[f"{name} sharpness"] = (("k", "member"), values[..., 1])
    return xr.Dataset(found, coords={"k": steps(config)})


def predict(config: Config) -> dict[str, np.ndarray]:
    """The exact mean ratio at the curve's iterations, and the leading-order flow."""
    options: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "label_noise": config.label_noise,
    }
    at = steps(config)
    exact = [
        ss.theory.selection.label_noise_balance(*config.start, num_steps=int(k), **options)
        for k in at
    ]
    path = ss.theory.selection.label_noise_flow(
        landscape(config, 0.0), config.start, times=config.learning_rate * at, **options
    )
    first = config.start[0] ** 2 - config.start[1] ** 2
    flow = (path[:, 0] ** 2 - path[:, 1] ** 2) / first
    return {"exact": np.array(exact), "flow": flow, "flow sharpness": (path**2).sum(axis=1)}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Mean and spread of the last ratio, for every noise."""
    rows = []
    for name in PROCESSES:
        last = data[f"{name} ratio"].values[-1]
        mean, spread = EXPECTED[name]
        if mean is not None:
            rows.append(
                ss.compare(
                    ss.Estimate.from_samples(last),
                    predicted["exact"][-1],
                    name="(u² − w²)/(u² − w²)₀",
                    process=name,
                    expected=mean,
                    resolution=config.resolution,
                )
            )
        deviation = last.std(ddof=1)
        error = deviation / np.sqrt(2 * (len(last) - 1))
        rows.append(
            ss.compare(
                scalar(deviation, error, len(last)),
                0.0,
                name="its spread over members (against 0)",
                process=name,
                expected=spread,
                resolution=config.spread,
            )
        )
    flow = ss.compare(
        ss.Estimate.from_samples(data["SGD ratio"].values[-1]),
        predicted["flow"][-1],
        name="the leading order in η",
        process="SGD",
        expected="deviate",
        resolution=config.resolution,
    )
    return [*rows, flow]


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """What label noise did to the sharpness."""
    before = data["SGD sharpness"].values[0].mean()
    after = data["SGD sharpness"].values[-1].mean()
    ratio = ss.Estimate.from_samples(data["SGD ratio"].values[-1])
    spreads = {n: float(data[f"{n} ratio"].values[-1].std(ddof=1)) for n in PROCESSES}
    listed = ", ".join(f"{n} {s:.2g}" for n, s in spreads.items())
    return (
        f"Label noise lowers the sharpness u² + w² from {before:.3f} to {after:.3f}; the imbalance "
        f"of SGD falls to {ratio} of its start, predicted {predict(config)['exact'][-1]:.5f}. "
        f"Standard deviation of that ratio over members: {listed}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """The imbalance and the sharpness in time, a few members of each process."""
    colours = {
        "SGD": COLOURS["SGD"],
        "Gaussian SGD": COLOURS["Gaussian SGD"],
        "diagonal noise": COLOURS["SDE"],
        "isotropic noise": COLOURS["other"],
    }
    figure, axes = new_figure(1, 2, width=5.2, height=3.8)
    k = data["k"].values
    for axis, kind in zip(axes[0], ("ratio", "sharpness"), strict=True):
        for name in reversed(PROCESSES):
            values = data[f"{name} {kind}"].values[:, :12]
            axis.plot(k, values, color=colours[name], linewidth=0.5, alpha=0.5)
            mean = data[f"{name} {kind}"].values.mean(axis=1)
            axis.plot(k, mean, color=colours[name], linewidth=1.8, label=name)
        axis.set_xlabel("iterations k")
    axes[0, 0].plot(k, predicted["exact"], "k--", linewidth=1.2, label="exact, Π(1 − η² E g²)")
    axes[0, 0].set_ylabel("(u² − w²)/(u² − w²)₀")
    axes[0, 0].set_ylim(-0.5, 2)
    axes[0, 1].plot(
        k, predicted["flow sharpness"], "k:", linewidth=1.2, label="flow, leading order"
    )
    axes[0, 1].set_ylabel("sharpness on the minima, u² + w²")
    axes[0, 1].set_ylim(1.9, 1.6 * float(predicted["flow sharpness"][0]))
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize=8)
    return figure
