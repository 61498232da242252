"""The sharpness and test accuracy of what SGD and its SDE select: is η/B enough?

A tanh network on digits is trained from the same random starts to one t = ηk, at several η and B
with equal and with different η/B. What is selected is described by the largest eigenvalue of
∇²L (Lanczos, matrix-free), Tr(HΣ) and the test accuracy.

Claim: at small η the SDE selects what SGD selects, for every B; and, as published, SGD selects
minima of one sharpness at one η/B. All cells share their starts.

Source: Jastrzebski et al. 2017 (1711.04623), who find η/B to decide; for the limit that η itself
sets to the sharpness, Cohen et al. 2021 (2103.00065).

Command: python -m experiments final_sharpness --preset paper
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_examples: int = 128
    """N"""
    width: int = 12
    """of the one hidden layer"""
    directions: int = 12
    """principal directions of the images, the network's inputs"""
    cells: tuple[tuple[float, int], ...] = ((0.1, 4), (0.1, 16), (1.6, 64))
    """pairs (η, B); the first and the last have one η/B"""
    horizon: float = 160.0
    """t = ηk at the end"""
    substeps: int = 1
    """of the SDE, an iteration"""
    ensemble_size: int = 8
    """starts"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        num_examples=512,
        width=24,
        directions=30,
        cells=((0.1, 4), (0.1, 16), (0.1, 64), (0.4, 16), (0.4, 64), (1.6, 64)),
        ensemble_size=16,
        substeps=2,
    ),
}
QUANTITIES = ("loss", "sharpness", "Tr(HΣ)", "test accuracy")


@functools.cache
def problem(config: Config):
    """The landscape, its starts (members, d) and the test set."""
    data = ss.digits(principal_directions=config.directions, test_fraction=0.4)
    kept = config.num_examples

    def network(key):
        return eqx.nn.MLP(config.directions, 10, config.width, 1, activation=jnp.tanh, key=key)

    landscape = ss.EmpiricalRisk(
        network(jr.key(0)), data.inputs[:kept], data.targets[:kept], ss.cross_entropy
    )
    keys = jr.split(jr.key(1), config.ensemble_size)
    starts = jnp.stack([ravel_pytree(eqx.filter(network(k), eqx.is_array))[0] for k in keys])
    return landscape, starts, data.test_inputs, data.test_targets


def processes(config: Config, eta: float, size: int) -> dict[str, ss.AbstractProcess]:
    """SGD, and its SDE with the noise of the batches."""
    landscape, sampling = problem(config)[0], ss.WithReplacement(size)
    noise = ss.MinibatchNoise(sampling)
    return {
        "SGD": ss.SGD(landscape, eta, sampling),
        "SDE": ss.ModifiedEquation(landscape, eta, noise, substeps=config.substeps),
    }


def describe(config: Config, positions: np.ndarray) -> np.ndarray:
    """Loss, sharpness, Tr(HΣ) and test accuracy of each member, (members, 4)."""
    landscape, _, inputs, labels = problem(config)
    found = ss.curvature_along(landscape, positions, tolerance=1e-4)

    @jax.jit
    def accuracy(theta):
        return jnp.mean(jax.vmap(landscape.model(theta))(inputs).argmax(axis=-1) == labels)

    right = np.array([float(accuracy(jnp.asarray(x))) for x in positions])
    return np.stack([found.loss, found.sharpness, found.noise_trace, right], axis=1)


def measure(config: Config, key) -> xr.Dataset:
    """The four quantities at t = T of SGD and SDE for every (η, B)."""
    _, starts, *_ = problem(config)
    variables = {}
    for eta, size in config.cells:
        for name, process in processes(config, eta, size).items():
            key, own = jr.split(key)
            run = ss.simulate(
                process,
                starts,
                num_steps=round(config.horizon / eta),
                ensemble_size=config.ensemble_size,
                key=own,
                measures={},
            )
            values = describe(config, run.positions)
            estimate = ss.Estimate.from_samples(values)
            put(variables, f"{name} {eta:g} {size}", estimate, ("quantity",))
    return xr.Dataset(variables, coords={"quantity": list(QUANTITIES)})


def predict(config: Config) -> dict:
    """Nothing: processes are compared with each other."""
    return {}


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """SDE against SGD at the smallest η; SGD at the largest η against the smallest, equal η/B."""
    rows, smallest = [], min(eta for eta, _ in config.cells)
    for eta, size in config.cells:
        if eta != smallest:
            continue
        for index in (1, 3):
            rows.append(
                row(
                    get(data, f"SGD {eta:g} {size}")[index],
                    get(data, f"SDE {eta:g} {size}")[index],
                    name=f"{QUANTITIES[index]}, η={eta:g}, B={size}",
                    process="SGD against SDE",
                )
            )
    (first, small), (last, large) = config.cells[0], config.cells[-1]
    rows.append(
        row(
            get(data, f"SGD {last:g} {large}")[1],
            get(data, f"SGD {first:g} {small}")[1],
            name=f"sharpness at η/B = {first / small:g}: η={last:g} against η={first:g}",
            process="SGD",
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """All sharpnesses and accuracies."""
    lines = []
    for eta, size in config.cells:
        sgd, sde = (get(data, f"{p} {eta:g} {size}") for p in ("SGD", "SDE"))
        lines.append(
            f"η={eta:g}, B={size}: sharpness {sgd[1]} (SGD), {sde[1]} (SDE); "
            f"accuracy {sgd[3]}, {sde[3]}."
        )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Sharpness and test accuracy of every cell."""
    figure, axes = new_figure(1, 2, width=5.0, height=3.6)
    place = np.arange(len(config.cells))
    for axis, index in zip(axes[0], (1, 3), strict=True):
        for shift, process in ((-0.1, "SGD"), (0.1, "SDE")):
            found = [get(data, f"{process} {eta:g} {size}")[index] for eta, size in config.cells]
            estimate = ss.Estimate(
                np.array([float(f.value) for f in found]),
                np.array([float(f.standard_error) for f in found]),
                found[0].num_samples,
            )
            points(axis, place + shift, estimate, process, color=COLOURS[process])
        axis.set_xticks(place, [f"η={e:g}\nB={b}\nη/B={e / b:.3g}" for e, b in config.cells])
        axis.set_ylabel(QUANTITIES[index])
        axis.legend(frameon=False, fontsize=8)
    return figure
