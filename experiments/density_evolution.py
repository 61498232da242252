"""How the law of SGD and of its SDE moves: histograms beside master and Fokker–Planck equation.

V = (x² − 1)²/4 with D = ηC/2 = .05(1 + .3x), from N(0, .3²). SGD with batches of one out of two
examples obeys the master equation p_{k+1}(x) = E_B ∫ δ(x − x′ + η∇L_B(x′)) p_k(x′) dx′, the SDE the
Fokker–Planck equation ∂p/∂t = (V′p)′ + (Dp)″. Sampled laws differ from their own by the sampling
floor in total variation, about .4 √(cells/members), so that the exact bias of the solver's step and
of the grid, seen by halving both, must stay below half of it. In two dimensions the same for the
stationary laws of a double well whose eight examples have a full tensor D(x, y): SGD has the law
of its own chain on a grid, and exp(−V/D₀) is wrong. Along a flat direction the variance of SGD
grows as kη²cΣ; batches drawn in epochs cancel it up to η²s² j(M − j)/(M − 1), j steps into an
epoch of M.

Claim: each law follows its own equation at every time, to the sampling floor; SGD's leaves the
Fokker–Planck density at η = .1 within t = 4, and in the plane. In flat directions SGD diffuses as
its SDE does, and does not with shuffled epochs.

Source: "Why SGD is not Brownian motion" (master equation, flat directions); Risken 1989 for the
Fokker–Planck equation; solvers in sde_sgd.theory.

Command: python -m experiments density_evolution --preset paper
Subject: stationary
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from . import _line, _plane
from ._rows import row, scalar
from .framework import get, put


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
    plane_steps: int = 200
    """iterations there, t = 20; the slowest mode, the wells' shares, decays as e^{−.17t}"""
    plane_substeps: int = 8
    """solver steps an iteration there"""
    flat_size: int = 8192
    """members in the flat direction"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        substeps=32,
        ensemble_size=1_000_000,
        plane_size=1_000_000,
        plane_substeps=16,
        flat_size=65_536,
    ),
}

FLAT_NUM, FLAT_BATCH = 20, 2
FLAT_STEPS = (5, 105, 205, 405, 805)


def flat_problem() -> ss.Potential:
    """A flat direction: L = 0 with N tilts, so that one batch gradient has s² = cΣ = 1."""
    tilts = np.linspace(-1.0, 1.0, FLAT_NUM) ** 3
    factor = (FLAT_NUM - FLAT_BATCH) / (FLAT_BATCH * (FLAT_NUM - 1))
    tilts = (tilts - tilts.mean()) / np.sqrt(factor * np.var(tilts))
    return ss.Potential(lambda theta: 0.0 * theta[0], tilts=jnp.asarray(tilts)[:, None])


def measure(config: Config, key) -> xr.Dataset:
    """Members at the chosen times, in one and in two dimensions; variances in a flat direction."""
    variables: dict[str, Any] = {}
    for name, process in _line.processes(config.learning_rate, config.substeps).items():
        key, own = jr.split(key)
        run = ss.simulate(
            process,
            lambda k: _line.SPREAD * jr.normal(k, (1,)),
            num_steps=config.iterations[-1],
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"x": ss.Snapshots(config.iterations)},
        )
        variables[f"{name} members"] = (("k", "member"), run["x"].values[..., 0])
    plane = _plane.processes(config.learning_rate, config.plane_substeps)
    for name, process in plane.items():
        key, own = jr.split(key)
        run = ss.simulate(
            process,
            # A seventh beyond x = 0, as in the end: what is left is e^{−3.4} of the rest. Nobody
            # starts at |x| > √(1 + 2/η), where SGD diverges.
            lambda k: jr.uniform(
                k, (2,), minval=jnp.array([-1.8, -1.0]), maxval=jnp.array([0.3, 1.0])
            ),
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


def predict(config: Config) -> dict[str, Any]:
    """Laws at the chosen times, biases of step and grid on the cells, variances."""
    eta, times = config.learning_rate, config.iterations
    coarse, fine = (_line.fokker_planck(eta, times, _line.CELLS * n) for n in (1, 2))
    own, steps = _line.master_equation(eta, times, config.substeps), np.array(FLAT_STEPS)
    period = FLAT_NUM // FLAT_BATCH
    inside = steps % period
    halves = eta / config.plane_substeps * np.array([2, 1])
    euler = [_plane.distance(_plane.chain_law(h, False, 1), _plane.density(1)) for h in halves]
    return {
        "Fokker–Planck": fine,
        "SGD": _line.master_equation(eta, times, None),
        "step bias": [_line.distance(a, b) for a, b in zip(own, fine, strict=True)],
        "grid bias": [_line.distance(a, b) for a, b in zip(coarse, fine, strict=True)],
        "plane": _plane.density(2),
        "plane SGD": _plane.chain_law(eta, True, 2),
        "plane grid bias": _plane.distance(_plane.density(1), _plane.density(2)),
        "plane SGD grid bias": _plane.distance(
            _plane.chain_law(eta, True, 1), _plane.chain_law(eta, True, 2)
        ),
        "plane step bias": euler,
        "gibbs": _plane.gibbs_masses(),
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
                edges=_line.EDGES,
                name=f"t = {config.learning_rate * k:g}, {named}:",
                process=process,
                expected=expected,
            )
    texts = {"plane": "Fokker–Planck", "plane SGD": "its own chain", "gibbs": "Gibbs"}
    for process, law, expected in (
        ("SDE", "plane", "agree"),
        ("SDE", "gibbs", "deviate"),
        ("SGD", "plane SGD", "agree"),
        ("SGD", "plane", "deviate"),
        ("SGD", "gibbs", "deviate"),
    ):
        found[process, law, "plane"] = ss.compare_law(
            data[f"plane {process}"].values,
            predicted[law],
            key=key,
            edges=_plane.EDGES,
            name=f"plane, stationary, {texts[law]}:",
            process=process,
            expected=expected,
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
    plane = compared["SDE", "plane", "plane"].total_variation.floor
    biases = {
        "bias of the solver's step, exact": (max(predicted["step bias"]), last),
        "bias of the grid, by halving it": (max(predicted["grid bias"]), last),
        "plane: bias of the grid, by halving it": (predicted["plane grid bias"], plane),
        "plane: bias of SGD's grid, by halving it": (predicted["plane SGD grid bias"], plane),
        "plane: bias of the solver's step": (predicted["plane step bias"][1], plane),
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
    plane = {p: compared[p, "plane", "plane"].total_variation for p in ("SDE", "SGD")}
    twice, once = predicted["plane step bias"]
    return (
        f"Total variation from the Fokker–Planck density: {'; '.join(lines)}; in the plane "
        f"{plane['SDE'].measured.value:.4f} (SDE) and {plane['SGD'].measured.value:.4f} (SGD), "
        f"floor {plane['SDE'].floor:.4f}. Biases: step {max(predicted['step bias']):.2g}, grid "
        f"{max(predicted['grid bias']):.2g}; in the plane step {once:.2g} (twice the step "
        f"{twice:.2g}), grid {predicted['plane grid bias']:.2g}, SGD's grid "
        f"{predicted['plane SGD grid bias']:.2g}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Densities at three times; distances and floors; the plane; the flat direction."""
    figure, axes = new_figure(2, 3, width=4.6, height=3.6)
    middle, width = (_line.EDGES[1:] + _line.EDGES[:-1]) / 2, np.diff(_line.EDGES)
    grid = np.linspace(_line.EDGES[0], _line.EDGES[-1], 300)
    for place, (axis, k) in enumerate(zip(axes[0], config.iterations, strict=False)):
        density = predicted["Fokker–Planck"][place].pdf(grid)
        axis.plot(grid, density, color="black", lw=1.2, label="Fokker–Planck")
        cells = np.diff(predicted["SGD"][place].cdf(_line.EDGES)) / width
        axis.stairs(cells, _line.EDGES, color=COLOURS["other"], label="master equation of SGD")
        for process in ("SGD", "SDE"):
            members = data[f"{process} members"].values[place]
            share = np.histogram(members, _line.EDGES)[0] / len(members)
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
    exact = _plane.density(1)
    members = data["plane SDE"].values
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
