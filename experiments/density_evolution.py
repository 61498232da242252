"""How the law of SGD and of its SDE moves: histograms beside master and Fokker–Planck equation.

V = (x² − 1)²/4 with D = ηC/2 = .05(1 + .3x), from N(0, .3²). SGD with batches of one out of two
examples obeys the master equation p_{k+1}(x) = E_B ∫ δ(x − x′ + η∇L_B(x′)) p_k(x′) dx′, the SDE the
Fokker–Planck equation ∂p/∂t = (V′p)′ + (Dp)″. Sampled laws differ from their own by the sampling
floor in total variation, about .4 √(cells/members), so that the exact bias of the solver's step and
of the grid must stay below half of it. In two dimensions the same for a stationary law with a full
tensor D(x, y), where exp(−V/D₀) is wrong. Along a flat direction the variance of SGD grows as
kη²cΣ; batches drawn in epochs cancel it up to η²s² j(M − j)/(M − 1), j steps into an epoch of M.

Claim: each law follows its own equation at every time, to the sampling floor; SGD's leaves the
Fokker–Planck density at η = .1 within t = 4. In flat directions SGD diffuses as its SDE does, and
does not with shuffled epochs.

Source: "Why SGD is not Brownian motion" (master equation, flat directions); Risken 1989 for the
Fokker–Planck equation; solvers in sde_sgd.theory.

Command: python -m experiments density_evolution --preset paper
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import row, scalar
from .framework import get, put
from .ito_not_stratonovich import Point, well_loss


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs."""

    learning_rate: float = 0.1
    """η"""
    substeps: int = 8
    """the SDE is integrated at h = η/substeps"""
    iterations: tuple[int, ...] = (5, 40, 200)
    """k at which laws are compared"""
    ensemble_size: int = 20_000
    """independent members a process in one dimension"""
    plane_size: int = 10_000
    """members in two dimensions"""
    plane_steps: int = 300
    """iterations there; their law is then stationary"""
    plane_substeps: int = 8
    """solver steps an iteration there; a second run has half as many"""
    flat_size: int = 8192
    """members in the flat direction"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        substeps=40,
        ensemble_size=1_000_000,
        plane_size=200_000,
        plane_steps=400,
        plane_substeps=24,
        flat_size=65_536,
    ),
}

BOX, SPREAD, COLD = (-2.8, 2.8), 0.3, 0.05
EDGES = np.linspace(-1.68, 1.68, 43)
CELLS = 560
# Two dimensions: V = (x² − 1)²/4 + y²/2, relaxation in about 5 units of t.
PLANE_BOX, PLANE_CELLS = ((-2.8, 2.8), (-5.0, 5.0)), (112, 100)
PLANE_EDGES = (np.linspace(-1.8, 1.8, 10), np.linspace(-1.5, 1.5, 7))
FLAT_NUM, FLAT_BATCH = 20, 2
FLAT_STEPS = (5, 105, 205, 405, 805)


def processes(config: Config) -> dict[str, ss.AbstractProcess]:
    """SGD with batches of one, and the SDE of the same covariance."""
    eta = config.learning_rate
    noise = ss.FunctionNoise(lambda x: jnp.sqrt(2 * COLD / eta * jnp.maximum(1 + 0.3 * x, 0.0)))
    return {
        "SGD": ss.SGD(problem(config), eta, ss.WithReplacement(1)),
        "SDE": ss.ModifiedEquation(problem(config), eta, noise, substeps=config.substeps),
    }


def problem(config: Config) -> ss.EmpiricalRisk:
    """Two examples whose gradients are V′ ± √C(x)."""
    amplitudes = np.sqrt(2 * COLD / config.learning_rate) * np.array([1.0, -1.0])
    return ss.EmpiricalRisk(
        Point(jnp.zeros(1)), jnp.zeros(2), amplitudes, lambda x, y: well_loss(x[0], y)
    )


def plane_drift(theta):
    """−∇V."""
    x, y = theta
    return jnp.stack([x - x**3, -y])


def plane_diffusion(theta):
    """D(x, y): hotter on one side, with a correlation that turns with y."""
    x, y = theta
    first, second = 0.3 * (1 + 0.5 * jnp.tanh(x)), 0.3 * (1 + 0.5 * jnp.tanh(y) ** 2)
    cross = 0.1 * jnp.tanh(1 + y)
    return jnp.array([[first, cross], [cross, second]])


def plane_process(config: Config, substeps: int) -> ss.ModifiedEquation:
    """dθ = −∇V dt + √2 D^{1/2} dW."""
    eta = config.learning_rate

    def energy(theta):
        return (theta[0] ** 2 - 1) ** 2 / 4 + theta[1] ** 2 / 2

    noise = ss.FunctionNoise(lambda theta: jnp.linalg.cholesky(2 / eta * plane_diffusion(theta)))
    return ss.ModifiedEquation(ss.Potential(energy, np.eye(2)), eta, noise, substeps=substeps)


def flat_problem() -> ss.Potential:
    """A flat direction: L = 0 with N tilts, so that one batch gradient has s² = cΣ = 1."""
    tilts = np.linspace(-1.0, 1.0, FLAT_NUM) ** 3
    factor = (FLAT_NUM - FLAT_BATCH) / (FLAT_BATCH * (FLAT_NUM - 1))
    tilts = (tilts - tilts.mean()) / np.sqrt(factor * np.var(tilts))
    return ss.Potential(lambda theta: 0.0 * theta[0], tilts=jnp.asarray(tilts)[:, None])


def measure(config: Config, key) -> xr.Dataset:
    """Members at the chosen times, in one and in two dimensions; variances in a flat direction."""
    variables: dict[str, Any] = {}
    for name, process in processes(config).items():
        key, own = jr.split(key)
        run = ss.simulate(
            process,
            lambda k: SPREAD * jr.normal(k, (1,)),
            num_steps=config.iterations[-1],
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"x": ss.Snapshots(config.iterations)},
        )
        variables[f"{name} members"] = (("k", "member"), run["x"].values[..., 0])
    for name, parts in _plane_runs(config).items():
        key, own = jr.split(key)
        run = ss.simulate(
            plane_process(config, parts),
            lambda k: jr.normal(k, (2,)) * jnp.array([1.0, 0.6]),
            num_steps=config.plane_steps,
            ensemble_size=config.plane_size,
            key=own,
        )
        variables[f"plane {name}"] = (("plane member", "axis"), run.positions)
    fresh, eta = ss.WithoutReplacement(FLAT_BATCH), config.learning_rate
    flat = {
        "SGD": ss.SGD(flat_problem(), eta, fresh),
        "SDE": ss.ModifiedEquation(flat_problem(), eta, ss.MinibatchNoise(fresh), substeps=1),
        "shuffled": ss.SGD(flat_problem(), eta, ss.RandomReshuffling(FLAT_BATCH)),
    }
    for name, process in flat.items():
        key, own = jr.split(key)
        run = ss.simulate(
            process,
            jnp.zeros(1),
            num_steps=FLAT_STEPS[-1],
            ensemble_size=config.flat_size,
            key=own,
            measures={"x": ss.Snapshots(FLAT_STEPS)},
        )
        squares = ss.Estimate.from_samples(run["x"].values[..., 0].T ** 2)
        put(variables, f"flat {name}", squares, ("flat k",))
    return xr.Dataset(variables, {"k": list(config.iterations), "flat k": list(FLAT_STEPS)})


def _plane_runs(config: Config) -> dict[str, int]:
    return {"h": config.plane_substeps, "2h": config.plane_substeps // 2}


def _start(x: np.ndarray) -> np.ndarray:
    return np.exp(-((x / SPREAD) ** 2) / 2) / (SPREAD * np.sqrt(2 * np.pi))


@functools.cache
def fokker_planck(config: Config, cells: int) -> list[ss.theory.GridDensity]:
    """p(x, t) at the chosen times."""
    equation = ss.theory.FokkerPlanck(
        lambda theta: theta - theta**3,
        lambda theta: COLD * (1 + 0.3 * theta),
        BOX,
        cells,
    )
    times = config.learning_rate * np.array(config.iterations)
    density = _start(equation.grid.centres[:, 0])
    return equation.propagate(density / (density.sum() * equation.grid.volume), times)


@functools.cache
def master_equation(config: Config, name: str) -> list[ss.theory.ScalarLaw]:
    """The exact law of SGD, or of the SDE's own steps, at the chosen times."""
    eta, batches = config.learning_rate, name == "SGD"
    step = eta if batches else eta / config.substeps
    law: ss.theory.BatchGradients | ss.theory.GaussianGradient
    if batches:
        law = ss.theory.BatchGradients.of(problem(config), ss.WithReplacement(1))
        nodes = 4001
    else:
        law = ss.theory.GaussianGradient(
            lambda theta: theta[0] ** 3 - theta[0],
            lambda theta: 2 * COLD / step * (1 + 0.3 * theta[0]),
        )
        nodes = int(3.5 * (BOX[1] - BOX[0]) / np.sqrt(2 * COLD * 0.16 * step))
    equation = ss.theory.MasterEquation(law, learning_rate=step, box=BOX, nodes=nodes)
    masses = equation.weights * _start(equation.nodes)
    start = ss.theory.ScalarLaw(equation.nodes, masses / masses.sum(), 0.0)
    parts = 1 if batches else config.substeps
    return equation.propagate(start, parts * np.array(config.iterations), on_grid=batches)


@functools.cache
def plane_density(refine: int) -> ss.theory.GridDensity:
    """The stationary Fokker–Planck density in the plane."""
    return ss.theory.FokkerPlanck(
        plane_drift, plane_diffusion, PLANE_BOX, tuple(refine * n for n in PLANE_CELLS)
    ).stationary()


def plane_masses(density: ss.theory.GridDensity) -> np.ndarray:
    """Its mass in each cell of PLANE_EDGES; the distribution function is linear within a cell."""
    found = np.zeros((density.grid.shape[0] + 1, density.grid.shape[1] + 1))
    found[1:, 1:] = density.masses.reshape(density.grid.shape).cumsum(0).cumsum(1)
    for axis, wanted in enumerate(PLANE_EDGES):
        edges = density.grid.edges(axis)
        found = np.apply_along_axis(lambda c, e=edges, w=wanted: np.interp(w, e, c), axis, found)
    return np.diff(np.diff(found, axis=0), axis=1)


def gibbs_masses() -> np.ndarray:
    """exp(−V/D₀) with D₀ = ½ tr D(0), a gradient's density, in the same cells."""
    strength = float(np.trace(np.asarray(plane_diffusion(jnp.zeros(2))))) / 2
    x, y = (np.linspace(*ends, 1201) for ends in PLANE_BOX)
    weights = [np.exp(-((x**2 - 1) ** 2) / 4 / strength), np.exp(-(y**2) / 2 / strength)]
    shares = []
    for grid, weight, edges in zip((x, y), weights, PLANE_EDGES, strict=True):
        total = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
        shares.append(np.diff(np.interp(edges, grid, total / total[-1])))
    return np.outer(*shares)


def distance(first, second) -> float:
    """Total variation of two distribution functions on the cells between EDGES and outside."""
    cells = [np.diff(np.concatenate([[0.0], law.cdf(EDGES), [1.0]])) for law in (first, second)]
    return 0.5 * float(np.abs(cells[0] - cells[1]).sum())


def predict(config: Config) -> dict[str, Any]:
    """Laws at the chosen times, biases of step and grid on the cells, variances."""
    coarse, fine = (fokker_planck(config, CELLS * n) for n in (1, 2))
    own, steps = master_equation(config, "SDE"), np.array(FLAT_STEPS)
    eta, period = config.learning_rate, FLAT_NUM // FLAT_BATCH
    inside = steps % period
    half, full = plane_masses(plane_density(1)), plane_masses(plane_density(2))
    return {
        "Fokker–Planck": fine,
        "SGD": master_equation(config, "SGD"),
        "step bias": [distance(a, b) for a, b in zip(own, fine, strict=True)],
        "grid bias": [distance(a, b) for a, b in zip(coarse, fine, strict=True)],
        "plane": full,
        "plane grid bias": 0.5 * float(np.abs(half - full).sum()),
        "gibbs": gibbs_masses(),
        "flat": eta**2 * steps,
        "flat shuffled": eta**2 * inside * (period - inside) / (period - 1),
    }


def laws(config: Config, data: xr.Dataset, predicted) -> dict[tuple, Any]:
    """Every sampled law against every exact one, by (process, equation, k or "plane")."""
    found, key = {}, jr.key(0)
    pairs = (
        ("SDE", "Fokker–Planck", "agree"),
        ("SGD", "SGD", "agree"),
        ("SGD", "Fokker–Planck", "deviate"),
    )
    for place, k in enumerate(config.iterations):
        for process, equation, expected in pairs:
            if expected == "deviate" and place == 0:
                continue  # the start is still the common one
            named = "master equation" if equation == "SGD" else equation
            found[process, equation, k] = ss.compare_law(
                data[f"{process} members"].values[place],
                predicted[equation][place],
                key=key,
                edges=EDGES,
                name=f"t = {config.learning_rate * k:g}, {named}:",
                process=process,
                expected=expected,
            )
    for name in _plane_runs(config):
        for law, text in (("plane", "Fokker–Planck"), ("gibbs", "Gibbs")):
            found[name, law, "plane"] = ss.compare_law(
                data[f"plane {name}"].values,
                predicted[law],
                key=key,
                edges=PLANE_EDGES,
                name=f"plane, stationary, {text}:",
                process=f"SDE, {_plane_runs(config)[name]} steps an iteration",
                expected="agree" if law == "plane" else "deviate",
            )
    return found


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Laws against their equations, biases against half the floor, the flat direction."""
    rows, compared = [], laws(config, data, predicted)
    for made in compared.values():
        # Total variation decides; Kolmogorov–Smirnov stands beside it where laws agree.
        kept = made.rows if made.rows[0].expected == "agree" else made.rows[-1:]
        rows.extend(kept)
    last = compared["SDE", "Fokker–Planck", config.iterations[-1]].total_variation.floor
    plane = compared["h", "plane", "plane"].total_variation.floor
    biases = {
        "bias of the solver's step, exact": (max(predicted["step bias"]), last),
        "bias of the grid, by halving it": (max(predicted["grid bias"]), last),
        "plane: bias of the grid, by halving it": (predicted["plane grid bias"], plane),
    }
    for name, (bias, floor) in biases.items():
        rows.append(
            row(
                scalar(bias, 0.0, config.ensemble_size),
                0.0,
                name=f"{name}: below ½ floor = {floor / 2:.2g}",
                process="no simulation",
                resolution=floor / 2,
            )
        )
    text = "flat direction: variance at all k,"
    for process, value, expected in (
        ("SGD", "flat", "agree"),
        ("SDE", "flat", "agree"),
        ("shuffled", "flat shuffled", "agree"),
        ("shuffled", "flat", "deviate"),
    ):
        label = "SGD, shuffled epochs" if process == "shuffled" else process
        law = "kη²cΣ" if value == "flat" else "η²s²j(M−j)/(M−1)"
        measured = get(data, f"flat {process}")
        rows.append(
            row(measured, predicted[value], name=f"{text} {law}", process=label, expected=expected)
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Total variations beside their floors."""
    predicted = predict(config)
    compared, lines = laws(config, data, predicted), []
    for k in config.iterations[1:]:
        pair = [compared[process, "Fokker–Planck", k].total_variation for process in ("SDE", "SGD")]
        lines.append(
            f"at t = {config.learning_rate * k:g} {pair[0].measured.value:.4f} (SDE) and "
            f"{pair[1].measured.value:.4f} (SGD), floor {pair[0].floor:.4f}"
        )
    plane = compared["h", "plane", "plane"].total_variation
    return (
        f"Total variation from the Fokker–Planck density: {'; '.join(lines)}; in the plane "
        f"{plane.measured.value:.4f}, floor {plane.floor:.4f}. Biases: step "
        f"{max(predicted['step bias']):.2g}, grid {max(predicted['grid bias']):.2g}, plane's grid "
        f"{predicted['plane grid bias']:.2g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities at three times; distances and floors; the plane; the flat direction."""
    figure, axes = new_figure(2, 3, width=4.6, height=3.6)
    middle, width = (EDGES[1:] + EDGES[:-1]) / 2, np.diff(EDGES)
    grid = np.linspace(EDGES[0], EDGES[-1], 300)
    for place, (axis, k) in enumerate(zip(axes[0], config.iterations, strict=False)):
        density = predicted["Fokker–Planck"][place].pdf(grid)
        axis.plot(grid, density, color="black", lw=1.2, label="Fokker–Planck")
        cells = np.diff(predicted["SGD"][place].cdf(EDGES)) / width
        axis.stairs(cells, EDGES, color=COLOURS["other"], label="master equation of SGD")
        for process in ("SGD", "SDE"):
            members = data[f"{process} members"].values[place]
            share = np.histogram(members, EDGES)[0] / len(members)
            error = np.sqrt(share * (1 - share) / len(members)) / width
            points(axis, middle, ss.Estimate(share / width, error, len(members)), process)
        axis.set_title(f"t = {config.learning_rate * k:g}, k = {k}")
        axis.set_xlabel("x")
        axis.set_ylabel("density (± 1 s.e.)")
        axis.legend(frameon=False, fontsize=7)
    compared = laws(config, data, predicted)
    first, second, third = axes[1]
    times = config.learning_rate * np.array(config.iterations)
    styles = {
        ("SDE", "Fokker–Planck"): ("SDE", "SDE from Fokker–Planck"),
        ("SGD", "SGD"): ("other", "SGD from its master equation"),
        ("SGD", "Fokker–Planck"): ("SGD", "SGD from Fokker–Planck"),
    }
    for pair, (colour, label) in styles.items():
        shown = [k for k in config.iterations if (*pair, k) in compared]
        made = [compared[*pair, k].total_variation for k in shown]
        value = np.array([float(m.measured.value) for m in made])
        error = np.array([float(m.measured.standard_error) for m in made])
        places = config.learning_rate * np.array(shown)
        points(first, places, ss.Estimate(value, error, 2), label, color=COLOURS[colour])
    floors = [compared["SDE", "Fokker–Planck", k].total_variation.floor for k in config.iterations]
    first.plot(times, floors, color="black", label="sampling floor")
    first.plot(times, predicted["step bias"], ":", color=COLOURS["SDE"], label="exact step bias")
    first.set_xscale("log")
    first.set_yscale("log")
    first.set_xlabel("time t = ηk")
    first.set_ylabel("total variation (± 1 s.e.)")
    first.legend(frameon=False, fontsize=7)
    exact = plane_density(1)
    members = data["plane h"].values
    counts = np.histogram2d(*members.T, bins=[np.linspace(-2, 2, 41), np.linspace(-1.6, 1.6, 33)])[
        0
    ]
    image = second.imshow(
        counts.T / len(members) / 0.01,
        origin="lower",
        extent=(-2, 2, -1.6, 1.6),
        aspect="auto",
        cmap="Oranges",
    )
    figure.colorbar(image, ax=second, label="density, SDE members")
    centres = [exact.grid.axis_centres(axis) for axis in range(2)]
    second.contour(*centres, exact.values.T, levels=6, colors="black", linewidths=0.8)
    second.set_xlim(-2, 2)
    second.set_ylim(-1.6, 1.6)
    second.set_xlabel("x")
    second.set_ylabel("y")
    second.set_title("stationary; contours: Fokker–Planck", fontsize=10)
    steps = np.array(FLAT_STEPS)
    third.plot(steps, predicted["flat"], color="black", label="kη²cΣ")
    third.plot(steps, predicted["flat shuffled"], "--", color="black", label="exact, epochs")
    for name, label in (("SGD", "SGD"), ("SDE", "SDE"), ("shuffled", "SGD, shuffled epochs")):
        colour = COLOURS["SGD (second ensemble)" if name == "shuffled" else name]
        points(third, steps, get(data, f"flat {name}"), label, color=colour)
    third.set_xscale("log")
    third.set_yscale("log")
    third.set_xlabel("iteration k (5 steps into an epoch)")
    third.set_ylabel("variance in a flat direction (± 1 s.e.)")
    third.legend(frameon=False, fontsize=7)
    return figure
