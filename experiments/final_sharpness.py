"""The sharpness and test accuracy of what SGD and its SDE select: is η/B enough?

A tanh network on digits is trained from the same random starts to one t = ηk, at several η and B
with equal and with different η/B. What is selected is described by the largest eigenvalue of
∇²L (Lanczos, matrix-free), Tr(HΣ) and the test accuracy. All cells share their starts, and
differences are paired by start; those of the sharpness are taken in its logarithm, which has no
long tail of sharp members.

The SDE knows η and B through η/B alone. SGD is also held below the sharpness 2/η, where its mean
goes unstable: if that is less than what small η select at the same η/B, the ratio cannot decide.

Claim: at moderate η the SDE selects what SGD selects, and η/B decides; at an η whose 2/η is below
the sharpness that the SDE selects, SGD ends below 2/η, flatter than its SDE and than SGD of small
η at the same η/B.

Source: Jastrzebski et al. 2017 (1711.04623), who find η/B to decide; for the limit that η itself
sets to the sharpness, Cohen et al. 2021 (2103.00065).

Command: python -m experiments final_sharpness --preset paper
Subject: selection
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
from jax.flatten_util import ravel_pytree

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row, scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    num_examples: int = 128
    """N"""
    width: int = 12
    """of the one hidden layer"""
    directions: int = 12
    """principal directions of the images, the network's inputs"""
    cells: tuple[tuple[float, int], ...] = ((0.1, 4), (0.4, 16), (6.4, 256))
    """pairs (η, B); the first two and the last have one η/B, the last 2/η below the sharpness"""
    horizon: float = 480.0
    """t = ηk at the end"""
    time_step: float = 0.4
    """largest step of the SDE's integrator, in t"""
    ensemble_size: int = 48
    """starts: with s the spread of a difference, agreement needs about (4.7 + 2) s/√starts, .24
    for the s = .25 of log sharpness, within the resolution, .30 in logarithms"""
    resolution: tuple[float, float] = (0.35, 0.03)
    """largest difference that counts as none: of the sharpness, relative, and of the accuracy"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        cells=((0.1, 4), (0.4, 16), (0.1, 16), (0.4, 64), (1.6, 64), (6.4, 256)),
        time_step=0.1,
        ensemble_size=96,
        resolution=(0.25, 0.02),
    ),
}
QUANTITIES = ("loss", "sharpness", "Tr(HΣ)", "test accuracy")


@functools.cache
def problem(config: Config):
    """The landscape, its starts (members, d) and the test set."""
    data = ss.data.digits(principal_directions=config.directions, test_fraction=0.4)
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
        "SDE": ss.ModifiedEquation(
            landscape, eta, noise, substeps=max(1, round(eta / config.time_step))
        ),
    }


def describe(config: Config, positions: np.ndarray) -> np.ndarray:
    """Loss, sharpness, Tr(HΣ) and test accuracy of each member, (members, 4)."""
    landscape, _, inputs, labels = problem(config)
    found = ss.curvature.along(landscape, positions, tolerance=1e-4)

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
            variables[f"{name} {eta:g} {size}"] = (("member", "quantity"), values)
    return xr.Dataset(variables, coords={"quantity": list(QUANTITIES)})


def predict(config: Config) -> dict:
    """Nothing: processes are compared with each other."""
    return {}


def values(data: xr.Dataset, process: str, cell: tuple[float, int], index: int) -> np.ndarray:
    """One quantity of every member."""
    return data[f"{process} {cell[0]:g} {cell[1]}"].values[:, index]


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """SGD less SDE; SGD at one η/B; both at the largest η, whose 2/η bounds the sharpness."""
    first, last, rows = config.cells[0], config.cells[-1], []

    def paired(a: Any, b: Any, index: int, name: str, process: str, expected: str = "agree"):
        one, other = values(data, a[0], a[1], index), values(data, b[0], b[1], index)
        scale = np.log if index == 1 else np.asarray
        difference = ss.Estimate.from_samples(scale(one) - scale(other))
        largest = np.log1p(config.resolution[0]) if index == 1 else config.resolution[1]
        limit = float(largest) if expected == "agree" else None
        rows.append(
            row(
                difference,
                0.0,
                name=f"{'log ' if index == 1 else ''}{QUANTITIES[index]}, {name}",
                process=process,
                expected=expected,
                resolution=limit,
            )
        )

    for cell in config.cells:
        expected = "deviate" if cell == last else "agree"
        pair, where = (("SGD", cell), ("SDE", cell)), f"η={cell[0]:g}, B={cell[1]}"
        paired(pair[0], pair[1], 1, where, "SGD less SDE", expected)
        if cell != last:
            paired(pair[0], pair[1], 3, where, "SGD less SDE")
    for eta, size in config.cells[1:]:
        if not np.isclose(eta / size, first[0] / first[1]):
            continue
        name = f"η={eta:g} less η={first[0]:g} at η/B={eta / size:g}"
        expected = "deviate" if (eta, size) == last else "agree"
        paired(("SGD", (eta, size)), ("SGD", first), 1, name, "SGD", expected)
        if expected == "deviate":
            paired(("SDE", (eta, size)), ("SDE", first), 1, name, "SDE")
    sharp = ss.Estimate.from_samples(values(data, "SGD", last, 1))
    above = max(float(sharp.value) - 2 / last[0], 0.0)
    rows.append(
        row(
            scalar(above, sharp.standard_error, sharp.num_samples),
            0.0,
            name=f"mean sharpness above 2/η = {2 / last[0]:g}, η={last[0]:g}",
            process="SGD",
            resolution=config.resolution[0] * 2 / last[0],
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """All sharpnesses and accuracies, and whether η/B is enough."""
    lines = []
    for cell in config.cells:
        told = ", ".join(
            f"{process}: sharpness {ss.Estimate.from_samples(values(data, process, cell, 1))}, "
            f"accuracy {ss.Estimate.from_samples(values(data, process, cell, 3))}"
            for process in ("SGD", "SDE")
        )
        lines.append(f"η={cell[0]:g}, B={cell[1]}, {told}.")
    first = config.cells[0]
    for eta, size in config.cells[1:]:
        if np.isclose(eta / size, first[0] / first[1]):
            pair = (np.log(values(data, "SGD", cell, 1)) for cell in ((eta, size), first))
            found = ss.Estimate.from_samples(next(pair) - next(pair))
            middle, low, high = np.expm1([found.value, *found.interval(2.0)])
            lines.append(
                f"At η/B = {eta / size:g}, from η={first[0]:g} to η={eta:g}: the sharpness of SGD "
                f"changes by {middle:+.1%}, 95 % interval {low:+.1%} … {high:+.1%} (geometric "
                f"mean)."
            )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Sharpness and test accuracy of every cell."""
    figure, axes = new_figure(1, 2, width=5.0, height=3.6)
    place = np.arange(len(config.cells))
    for axis, index in zip(axes[0], (1, 3), strict=True):
        for shift, process in ((-0.1, "SGD"), (0.1, "SDE")):
            found = np.stack([values(data, process, cell, index) for cell in config.cells])
            estimate = ss.Estimate.from_samples(found.T)
            points(axis, place + shift, estimate, process, color=COLOURS[process])
        axis.set_xticks(place, [f"η={e:g}\nB={b}\nη/B={e / b:.3g}" for e, b in config.cells])
        axis.set_ylabel(f"{QUANTITIES[index]} (± 1 s.e.)")
        if index == 1:
            axis.set_ylim(bottom=0, top=axis.get_ylim()[1] * 1.2)
            bounds = [2 / eta for eta, _ in config.cells]
            axis.plot(place, bounds, "k_", markersize=24, label="2/η", scaley=False)
        axis.legend(frameon=False, fontsize=8)
    return figure
