"""Densities of an autoencoder's weights by Fokker–Planck equations, one for each kind of entry.

In x̂ = W₂ tanh(W₁x) on digits the density of an entry w of the encoder W₁ or the decoder W₂, the
two layers of the bottleneck, obeys

    ∂p/∂t = −∂(b p) + ∂²(D p) ,   b(w, t) = E[−∂L/∂w | w] ,   D(w, t) = (η/2) E[c Σ_ww | w] ,

exactly for the SDE (Gyöngy), the averages over all other entries given this one. They are measured
on an ensemble of its own. The *one-matrix closure* instead takes these entries from their own laws,
as if independent: it is self-contained, exact at an independent start, and by the sign symmetry of
the hidden units it has E W₂ = 0 for good, so that the descent direction W₂ᵀx xᵀ averages away and
the weights only shrink. For small t the true variance exceeds the closure's by the factor
1 + 2(λt)², λ ≈ 1 the variance of the data: too little to see at the first instant, and growing.
The output at a fixed input leaves it at first order already, as E tr(W₂W₁) ∝ t. All this was
fixed before the run.

Claim: with averages given the entry, the marginal laws of SDE and SGD are those of their equations
at every time; the closure fails within a learning time, as encoder and decoder become
correlated; even the exact laws of all entries, taken together as independent, have the
wrong outputs.

Source: Bu, Kol, Liu 2025 (2501.09659), densities of bottleneck matrices in training; Gyöngy 1986
for the marginals.

Command: python -m experiments autoencoder_weight_density --preset paper
Subject: matrices
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss

from . import _autoencoder as problem
from ._autoencoder_figure import draw_figure
from ._rows import row, scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    inputs: int = 3
    """p, principal directions of the digits"""
    units: int = 2
    """m < p, hidden units"""
    num_examples: int = 48
    """N"""
    spread: float = 0.5
    """s, of the independent normal entries at the start"""
    learning_rate: float = 0.1
    """η"""
    batch_size: int = 4
    """B, with replacement"""
    substeps: int = 2
    """the SDE is integrated at h = η/substeps; the ensemble of the averages at half of that"""
    iterations: tuple[int, ...] = (1, 10, 20, 40)
    """k ≥ 1 at which laws are compared, those after the first one even"""
    ensemble_size: int = 3072
    """members of SGD and of the SDE: the bound of a right law's total variation is then 5 standard
    deviations below the resolution"""
    averaging_size: int = 12_288
    """members that the averages run over: four times as many, for errors below the floor"""
    num_knots: int = 17
    """of the averages as functions of w"""
    cells: int = 160
    """of the equations' grid"""
    num_points: int = 8192
    """of the closure's averages, a power of two"""
    time_step: float = 0.2
    """of the closure"""
    resolution: float = 0.1
    """largest total variation at which SGD agrees with the SDE's equation"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        num_examples=64,
        substeps=4,
        iterations=(1, 10, 30, 60),
        ensemble_size=16_384,
        averaging_size=65_536,
        num_knots=25,
        cells=320,
        num_points=16_384,
        time_step=0.1,
        resolution=0.04,
    ),
}

# Points of the laws of outputs.
MANY = 2**14
LAST = -1


def size(config: Config) -> problem.Size:
    """p, m, N and s."""
    return problem.Size(config.inputs, config.units, config.num_examples, config.spread)


def nodes(config: Config) -> np.ndarray:
    """Iterations at which averages are measured: 0, the first one, and every second one."""
    first, last = config.iterations[0], config.iterations[-1]
    return np.array(sorted({0, first, *config.iterations, *range(2, last + 1, 2)}))


def noise(config: Config) -> ss.MinibatchNoise:
    """That of the batches."""
    return ss.MinibatchNoise(ss.WithReplacement(config.batch_size))


def processes(config: Config) -> dict[str, ss.AbstractProcess]:
    """SGD, its SDE, and the SDE on finer steps, whose members the averages run over."""
    landscape, eta = problem.landscape(size(config)), config.learning_rate
    fine = 2 * config.substeps
    return {
        "SGD": ss.SGD(landscape, eta, ss.WithReplacement(config.batch_size)),
        "SDE": ss.ModifiedEquation(landscape, eta, noise(config), substeps=config.substeps),
        "averages": ss.ModifiedEquation(landscape, eta, noise(config), substeps=fine),
    }


def measure(config: Config, key) -> xr.Dataset:
    """Runs from random starts; averages over one of them, and the densities that follow."""
    shape, at = size(config), nodes(config)
    landscape = problem.landscape(shape)
    picked = np.searchsorted(at, config.iterations)
    kept = np.concatenate([[0], picked])
    variables: dict[str, Any] = {}
    runs = {}
    for name, process in processes(config).items():
        members = config.averaging_size if name == "averages" else config.ensemble_size
        key, own, chosen = jr.split(key, 3)
        run = ss.simulate(
            process,
            lambda k: config.spread * jr.normal(k, (landscape.dimension,)),
            num_steps=config.iterations[-1],
            ensemble_size=members,
            key=own,
            measures={"theta": ss.Snapshots(at.tolist())},
        )
        theta = runs[name] = run["theta"].values
        rng = np.random.default_rng(np.asarray(jr.key_data(chosen)))
        for matrix, values in problem.entries(shape, theta, rng).items():
            variables[f"{name} {matrix}"] = (("k", f"member of {name}"), values[kept])
            counts = [np.histogram(v, _all_edges())[0] for v in values]
            variables[f"{name} {matrix} counts"] = (("node", "cell"), np.array(counts))
        output = problem.share(shape, theta[kept])
        variables[f"{name} output"] = (("k", f"member of {name}"), output)
        aligned = problem.alignment(shape, theta)
        put(variables, f"{name} alignment", ss.Estimate.from_samples(aligned.T), ("node",))
        first = problem.trace(shape, theta[picked[0]])
        put(variables, f"{name} trace", ss.Estimate.from_samples(first))
        loss = np.asarray(jax.vmap(landscape.loss)(jnp.asarray(theta[LAST])))
        put(variables, f"{name} loss", ss.Estimate.from_samples(loss))
    variables |= densities(config, runs["averages"], at)
    return xr.Dataset(variables, {"node": at, "k": at[kept]})


def densities(config: Config, theta: np.ndarray, at: np.ndarray) -> dict[str, Any]:
    """Densities by averages over the members θ (times, members, d), and the errors of these.

    "joint": given the entry. "apart": the same with each W₂ taken from another member, so that both
    matrices have their exact laws, and nothing to do with each other. Errors at the last time,
    on the cells that are compared, of the first direction's laws.
    """
    shape, times = size(config), config.learning_rate * at
    half, number, knots = theta.shape[1] // 2, shape.inputs * shape.units, config.num_knots

    def averages(members):
        return problem.Averages(shape, noise(config), config.learning_rate, members)

    def end(tables, clock=times, cells=config.cells):
        return problem.end_of_some(shape, tables, clock, cells)

    def distance(first, second):
        return max(problem.variation(a, b) for a, b in zip(first, second, strict=True))

    over = averages(theta)
    joint = over.table(knots)
    everything = problem.evolve(shape, joint, times, config.cells)
    moved = np.concatenate([theta[..., :number], np.roll(theta[..., number:], 1, axis=1)], axis=-1)
    apart = problem.evolve(shape, averages(moved).table(knots), times, config.cells)[LAST]
    every = np.unique([*range(0, len(at), 2), len(at) - 1])
    own, coarse = end(joint), over.table((knots + 1) // 2)
    halves = [over.table(knots, part) for part in (slice(half), slice(half, None))]
    # Second order: what a coarser one adds is three times the error of the finer one.
    errors = {
        "grid": distance(own, end(joint, cells=config.cells // 2)) / 3,
        "interval": distance(own, end([joint[i] for i in every], times[every])) / 3,
        "knots": distance(own, end(coarse)) / 3,
        "members": distance(*(end(part) for part in halves)) / 2,
    }
    values = np.array([[d.values for d in laws] for laws in everything])
    return {
        "joint": (("node", "group", "grid"), values),
        "apart": (("group", "grid"), np.array([d.values for d in apart])),
        **{f"error of {name}": ((), value) for name, value in errors.items()},
    }


def closure(config: Config, num_points: int, time_step: float) -> list:
    """Densities of the one-matrix closure at the nodes."""
    shape, times = size(config), config.learning_rate * nodes(config)
    start = problem.starts(shape, config.cells)
    later = ss.theory.matrices.product_closure(
        problem.landscape(shape),
        noise(config),
        start,
        problem.groups(shape),
        learning_rate=config.learning_rate,
        times=times[1:],
        time_step=time_step,
        box=problem.BOX,
        cells=config.cells,
        num_points=num_points,
        num_knots=config.num_knots,
    )
    return [start, *later]


@functools.cache
def predict(config: Config) -> dict[str, Any]:
    """The closure with its error, its outputs and loss; E tr(W₂W₁) after the first iteration."""
    shape = size(config)
    own = closure(config, config.num_points, config.time_step)
    rough = closure(config, config.num_points // 2, 2 * config.time_step)
    landscape = problem.landscape(shape)
    places = [0, *np.searchsorted(nodes(config), config.iterations)]
    end = _points(config, own[LAST])[: 2**13]
    loss = jax.lax.map(landscape.loss, jnp.asarray(end), batch_size=1024)
    pairs = zip(own[LAST], rough[LAST], strict=True)
    options = (config.learning_rate, config.batch_size, config.cells)
    return {
        "closure": [problem.pooled(laws, shape) for laws in own],
        "closure error": max(problem.variation(a, b) for a, b in pairs),
        "outputs": [problem.share(shape, _points(config, own[i])) for i in places],
        "loss": float(np.mean(loss)),
        "loss at zero": float(landscape.loss(jnp.zeros(landscape.dimension))),
        "trace": problem.one_step_trace(shape, *options, 2**14),
    }


def _points(config: Config, laws) -> np.ndarray:
    return ss.theory.matrices.product_points(laws, problem.groups(size(config)), MANY)


def _all_edges() -> np.ndarray:
    return np.concatenate([[-np.inf], problem.EDGES, [np.inf]])


def stored(config: Config, values: np.ndarray) -> list[ss.theory.laws.GridDensity]:
    """Densities of the groups again, from their values (groups, cells)."""
    grid = problem.starts(size(config), config.cells)[0].grid
    return [ss.theory.laws.GridDensity(grid, v, 0.0, np.zeros((1, 2)), 0.0) for v in values]


def sample_cdf(values: np.ndarray):
    """x ↦ share of the values that are ≤ x."""
    ordered = np.sort(values)
    return lambda x: np.searchsorted(ordered, x, side="right") / len(ordered)


def laws(config: Config, data: xr.Dataset, predicted) -> dict[tuple, Any]:
    """Every comparison of laws, by (quantity, process, law, iteration)."""
    found, key, at = {}, jr.key(0), data["node"].values
    exact = {k: stored(config, data["joint"].sel(node=k).values) for k in config.iterations}
    apart = problem.pooled(stored(config, data["apart"].values), size(config))
    first, last = config.iterations[0], config.iterations[-1]

    def compare(quantity, process, law, k, predicted_law, expected, text, **options):
        found[quantity, process, law, k] = ss.compare_law(
            data[f"{process} {quantity}"].sel(k=k).values,
            predicted_law,
            key=key,
            name=f"t = {config.learning_rate * k:g}, {quantity}, {text}:",
            process=process,
            expected=expected,
            **options,
        )

    for matrix in problem.MATRICES:
        edges: Any = dict(edges=problem.EDGES)
        for k in config.iterations:
            own = problem.pooled(exact[k], size(config))[matrix]
            compare(matrix, "SDE", "joint", k, own, "agree", "Fokker–Planck", **edges)
            edge: Any = edges | dict(resolution=config.resolution)
            compare(matrix, "SGD", "joint", k, own, "agree", "Fokker–Planck", **edge)
            wrong = predicted["closure"][int(np.searchsorted(at, k))][matrix]
            expected = "agree" if k == first else "deviate"
            compare(matrix, "SDE", "closure", k, wrong, expected, "closure", **edges)
        text = "W₁ and W₂ drawn apart"
        compare(matrix, "SDE", "apart", last, apart[matrix], "deviate", text, **edges)
    for place, k in enumerate([0, *config.iterations]):
        expected, text = ("agree", "start") if k == 0 else ("deviate", "closure")
        law = sample_cdf(predicted["outputs"][place])
        compare("output", "SDE", "closure", k, law, expected, text)
    law = sample_cdf(problem.share(size(config), _points(config, exact[last])))
    compare("output", "SDE", "joint", last, law, "deviate", "exact laws as if independent")
    return found


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Laws of entries and outputs; correlation; loss; errors of the equations."""
    rows, compared = [], laws(config, data, predicted)
    for made in compared.values():
        # Total variation decides; Kolmogorov–Smirnov stands beside it where laws agree.
        kept = made.rows if made.rows[0].expected == "agree" else made.rows[-1:]
        rows.extend(kept)
    first, last = config.iterations[0], config.iterations[-1]
    for matrix in problem.MATRICES:
        pair = [data[f"{name} {matrix}"].sel(k=last).values for name in ("SDE", "averages")]
        name = f"t = {config.learning_rate * last:g}, {matrix}, the same at half the step:"
        options: Any = dict(key=jr.key(1), edges=problem.EDGES, name=name, process="SDE")
        rows.extend(ss.compare_laws(*pair, **options).rows)
    if first == 1:
        text, found = "E tr(W₂W₁) after one iteration", get(data, "SGD trace")
        rows.append(row(found, predicted["trace"], name=f"{text}, exact", process="SGD"))
        rows.append(row(found, 0.0, name=f"{text}, closure", process="SGD", expected="deviate"))
    aligned = get(data, "SDE alignment")[LAST]
    text = "correlation of W₁ and W₂ᵀ at the end, closure"
    rows.append(row(aligned, 0.0, name=text, process="SDE", expected="deviate"))
    found, text = get(data, "SDE loss"), "loss at the end, closure"
    rows.append(row(found, predicted["loss"], name=text, process="SDE", expected="deviate"))
    floor = compared["encoder", "SDE", "joint", last].total_variation.floor
    errors = {
        "grid, by doubling the cells": float(data["error of grid"]),
        "intervals of the averages, by doubling them": float(data["error of interval"]),
        "knots, by halving their number": float(data["error of knots"]),
        "members of the averages, by halves": float(data["error of members"]),
        "closure's points and step, by doubling both": predicted["closure error"],
    }
    for name, error in errors.items():
        made = row(
            scalar(error, 0.0, config.ensemble_size),
            0.0,
            name=f"error of the {name}: below ½ floor = {floor / 2:.2g}",
            process="no simulation",
            resolution=floor / 2,
        )
        rows.append(made)
    return rows


def curves(config: Config, data: xr.Dataset, predicted) -> dict[tuple[str, str], np.ndarray]:
    """Total variation of the SDE's entries from both laws at every node, by (matrix, law)."""
    exact = [
        problem.pooled(stored(config, values), size(config)) for values in data["joint"].values
    ]
    found = {}
    for matrix in problem.MATRICES:
        for name, predicted_laws in (("joint", exact), ("closure", predicted["closure"])):
            counts = data[f"SDE {matrix} counts"].values
            heights = np.array([law[matrix].cdf(problem.EDGES) for law in predicted_laws])
            cells = np.diff(heights, axis=1, prepend=0.0, append=1.0)
            shares = counts / counts.sum(axis=1, keepdims=True)
            found[matrix, name] = 0.5 * np.abs(shares - cells).sum(axis=1)
    return found


def sampling_floor(data: xr.Dataset, matrix: str) -> np.ndarray:
    """½ Σ_cells E|p̂ − p| of the SDE's sample at every node, by the normal law."""
    counts = data[f"SDE {matrix} counts"].values
    shares, number = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=1)
    return 0.5 * np.sqrt(2 / np.pi * shares * (1 - shares) / number[:, None]).sum(axis=1)


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """When the closure fails, by how much, and how correlated the matrices are by then."""
    predicted = predict(config)
    curve, aligned = curves(config, data, predicted), get(data, "SDE alignment")
    lines, made = [], {(c.name, c.process): c for c in comparisons}
    end = f"t = {config.learning_rate * config.iterations[-1]:g}"
    for matrix in problem.MATRICES:
        joint, closed, apart = (
            made[f"{end}, {matrix}, {law}: TV", "SDE"]
            for law in ("Fokker–Planck", "closure", "W₁ and W₂ drawn apart")
        )
        line = (
            f"{matrix}: total variation at {end} {joint.measured:.3f} (floor "
            f"{joint.predicted:.3f}), closure {closed.measured:.3f}, matrices drawn apart "
            f"{apart.measured:.3f}"
        )
        beyond = curve[matrix, "closure"] > 2 * sampling_floor(data, matrix)
        if beyond.any():
            place = int(beyond.argmax())
            t = config.learning_rate * data["node"].values[place]
            line += (
                f"; the closure passes twice the floor by t = {t:g}, where the correlation of W₁ "
                f"and W₂ᵀ is {aligned.value[place]:.2f}"
            )
        lines.append(line)
    loss = get(data, "SDE loss")
    output = made[f"{end}, output, exact laws as if independent: TV", "SDE"]
    return (
        f"{'. '.join(lines)}. At the end the correlation is {aligned.value[LAST]:.4f} ± "
        f"{aligned.standard_error[LAST]:.4f} (closure 0), the loss {loss.value:.3f} (closure "
        f"{predicted['loss']:.3f}, all weights zero {predicted['loss at zero']:.3f}); outputs "
        f"of the exact laws as if independent are {output.measured:.3f} off in total variation."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities of both matrices at three times; distances, correlation and outputs."""
    shape, joint = size(config), [stored(config, values) for values in data["joint"].values]
    return draw_figure(
        config,
        data,
        predicted,
        [problem.pooled(laws, shape) for laws in joint],
        curves(config, data, predicted),
        sampling_floor(data, "encoder"),
        problem.share(shape, _points(config, joint[LAST])),
    )
