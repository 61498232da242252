"""How fast the engine is, as ratios against peers in one process.

Claim: simulating SGD's SDE with exact minibatch noise costs about one full gradient and its
random numbers a step, and the engine is at least as fast as a scan written by hand.

Source: design of this library; peers are hand-written jitted scans, per-example gradients,
vmapped `diffrax.diffeqsolve` with `VirtualBrownianTree`, and torchsde where it is installed.

Command: python -m experiments throughput --preset paper
Subject: side_by_side

Every row is (time of the peer)/(time of the library), or its inverse where the row says
"cost"; medians over alternating repetitions in float32. Nothing else may run meanwhile. A
row agrees if the ratio meets its bound within the spread of the repetitions.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax import lax
from matplotlib.figure import Figure

import sde_sgd as ss
from sde_sgd.plots import new_figure

from .peers import (
    by_hand_increments,
    by_hand_sgd,
    diffrax_tree,
    full_gradient_scan,
    per_example_scan,
    torchsde_solve,
)

ALONE = True


@dataclasses.dataclass(frozen=True)
class Config:
    """Repetitions, and how long each timed call should take."""

    repetitions: int = 5
    seconds: float = 0.15
    probes: bool = False
    """also measure memory and first calls, in processes of their own"""


PRESETS = {"smoke": Config(), "paper": Config(repetitions=11, seconds=0.5, probes=True)}

# Bound of each row and whether the ratio must lie above (speed) or below it (cost).
BOUNDS = {
    "Gaussian increments, median of three shapes": (0.9, "speed"),
    "two-point increments, against the Gaussian scan": (6.0, "speed"),
    "SDE step, logistic, against gradient and random numbers": (1.1, "cost"),
    "SDE step, MLP, against gradient and random numbers": (1.1, "cost"),
    "two-point SDE step, logistic, against the gradient": (1.3, "cost"),
    "two-point SDE step, MLP, against the gradient": (1.3, "cost"),
    "SDE step, MLP, against per-example gradients": (5.0, "speed"),
    "SGD, least squares, against a scan": (0.9, "speed"),
    "SGD, logistic, against a scan": (0.9, "speed"),
    "SGD, MLP, against a scan": (0.9, "speed"),
    "fresh subset each step, against the with-replacement scan": (0.55, "speed"),
    "against vmapped Diffrax with VirtualBrownianTree": (60.0, "speed"),
    "against torchsde": (30.0, "speed"),
    "first passage with refill, against the plain ensemble": (0.7, "speed"),
    "slowest first call, s": (10.0, "cost"),
    "memory of 10⁶ steps over that of 10³": (1.1, "cost"),
    "memory of 4 096 MLP members, GB": (2.0, "cost"),
}

ETA = 0.05


def measure(config: Config, key) -> xr.Dataset:
    """Times every pair in float32 and restores the precision that was set."""
    double = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", False)
    try:
        ratios = _ratios(config, key)
    finally:
        jax.config.update("jax_enable_x64", double)
    names = list(ratios)
    length = max(len(v) for v in ratios.values())
    table = np.full((len(names), length), np.nan)
    for i, name in enumerate(names):
        table[i, : len(ratios[name])] = ratios[name]
    return xr.Dataset({"ratio": (("row", "repetition"), table)}, {"row": names})


def predict(config: Config) -> dict:
    """The bounds to meet."""
    return dict(BOUNDS)


def check(config: Config, data: xr.Dataset, predicted: dict) -> list[ss.Comparison]:
    """Each median against the nearest value that meets its bound: itself, if it does."""
    rows = []
    for name in data.row.values:
        bound, kind = predicted[str(name)]
        median, error = _median(data.ratio.sel(row=name).values)
        nearest = max(bound, median) if kind == "speed" else min(bound, median)
        rows.append(
            ss.compare(
                ss.Estimate(np.asarray(median), np.asarray(error), 1000),
                nearest,
                # Timings are no theory: a miss counts from two standard errors on.
                failure_rate=0.05,
                name=f"{name} ({'≥' if kind == 'speed' else '≤'} {bound:g})",
                process=kind,
            )
        )
    return rows


def plot(config: Config, data: xr.Dataset, predicted: dict) -> Figure:
    """Medians with their errors and the bounds, on a logarithmic axis."""
    figure, axes = new_figure(1, 1, width=9, height=6)
    axis = axes[0, 0]
    names = [str(name) for name in data.row.values]
    for i, name in enumerate(names):
        median, error = _median(data.ratio.sel(row=name).values)
        bound, kind = predicted[name]
        axis.errorbar(median, i, xerr=error, fmt="o", color="#0072B2", capsize=3)
        axis.plot(bound, i, ">" if kind == "speed" else "<", color="black", markersize=7)
    axis.plot([], [], "o", color="#0072B2", label="measured (median ± s.e.)")
    axis.plot([], [], ">", color="black", label="must be at least")
    axis.plot([], [], "<", color="black", label="must be at most")
    axis.set_xscale("log")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ratio of times in one run (or s, GB where the row says so)")
    axis.legend(frameon=False)
    return figure


def _median(values: np.ndarray) -> tuple[float, float]:
    """Median of the repetitions and its standard error (1.2533 s/√n of a normal sample)."""
    values = values[np.isfinite(values)]
    if values.size == 1:
        return float(values[0]), 0.05 * abs(float(values[0]))
    spread = 1.4826 * np.median(np.abs(values - np.median(values)))
    return float(np.median(values)), float(1.2533 * spread / np.sqrt(values.size))


def _ratios(config: Config, key) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {}
    rows |= _increments(config, key)
    for name, landscape, members in _landscapes():
        rows |= _sde_rows(config, key, name, landscape, members)
    for name, landscape, members, batch in _sgd_problems():
        rows |= _sgd_rows(config, key, name, landscape, members, batch)
    rows |= _solvers(config, key)
    rows |= _first_passage(config, key)
    if config.probes:
        rows |= _probes()
    return {name: rows[name] for name in BOUNDS if name in rows}


def _time(call: Callable) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def _steps(config: Config, call: Callable[[int], Callable]) -> int:
    """Iterations that take about `seconds`."""
    steps = 16
    while True:
        made = call(steps)
        made()
        spent = _time(made)
        if spent > 0.25 * config.seconds or steps > 10**6:
            return max(8, int(steps * config.seconds / spent))
        steps *= 4


def _compare(config: Config, ours: Callable, peer: Callable) -> list[float]:
    """Alternating repetitions of time(peer)/time(ours), after one call of each."""
    jax.block_until_ready((ours(), peer()))
    return [_time(peer) / _time(ours) for _ in range(config.repetitions)]


def _inverse(values: list[float]) -> list[float]:
    return [1 / v for v in values]


def _increments(config: Config, key) -> dict[str, list[float]]:
    gaussian, signs = [], []
    for shape in ((4096, 1), (4096, 6), (256, 16)):
        peer = by_hand_increments(shape)
        steps = _steps(config, lambda n, p=peer, s=shape: lambda: p(key, jnp.zeros(s), n))
        by_hand = lambda p=peer, s=shape, n=steps: p(key, jnp.zeros(s), n)  # noqa: E731
        for kind, found in (("normal", gaussian), ("two_point", signs)):
            ours = _draws_scan(shape, kind)
            mine = lambda f=ours, s=shape, n=steps: f(key, jnp.zeros(s), n)  # noqa: E731
            found.append(_compare(config, mine, by_hand))
    return {
        "Gaussian increments, median of three shapes": list(np.median(gaussian, axis=0)),
        "two-point increments, against the Gaussian scan": list(np.median(signs, axis=0)),
    }


def _draws_scan(shape: tuple[int, int], kind: str):
    @jax.jit
    def scan(key, x, steps):
        identity = jnp.arange(shape[0], dtype=jnp.uint32)

        def body(k, x):
            draws = ss.Draws.create(key, identity, k)
            noise = getattr(draws, kind)((shape[1],), ss.Stream.NOISE, x.dtype)
            return x - 0.01 * x + 0.1 * noise

        return lax.fori_loop(jnp.uint32(0), jnp.uint32(steps), body, x)

    return scan


def _mlp(key):
    # 64·32 + 32 + 32·10 + 10 = 2 410 parameters.
    return eqx.nn.MLP(64, 10, 32, 1, activation=jax.nn.tanh, key=key)


def _digits():
    data = ss.data.digits(test_fraction=0.0, dtype=jnp.float32)
    return data.inputs, data.targets


def _landscapes():
    inputs, labels = _digits()
    logistic = ss.LogisticRegression(inputs, labels, num_classes=10)
    network = ss.EmpiricalRisk(_mlp(jr.key(0)), inputs, labels, ss.cross_entropy)
    return [("logistic", logistic, 16), ("MLP", network, 16)]


def _sgd_problems():
    regression = ss.data.digits_regression(6, dtype=jnp.float32)
    least = ss.LeastSquares(regression.inputs, regression.targets)
    (_, logistic, _), (_, network, _) = _landscapes()
    return [
        ("least squares", least, 4096, 8),
        ("logistic", logistic, 256, 16),
        ("MLP", network, 256, 16),
    ]


def _library(process, theta, members: int, key, measures=None, refill=False):
    """One call of n iterations by the compiled loop of the engine."""
    from sde_sgd.simulate.engine import prepare

    engine = prepare(
        process,
        theta,
        num_steps=1,
        ensemble_size=members,
        key=key,
        measures=measures,
        refill=refill,
    )

    def call(steps: int):
        engine.advance(steps, 1)
        return engine.chunks

    return call


_KINDS: tuple[tuple[Literal["gaussian", "two_point"], str], ...] = (
    ("gaussian", "SDE step"),
    ("two_point", "two-point SDE step"),
)


def _sde_rows(config, key, name, landscape, members) -> dict[str, list[float]]:
    sampling = ss.WithReplacement(16)
    theta = jnp.zeros(landscape.dimension, landscape.dtype)
    start = jnp.broadcast_to(theta, (members, landscape.dimension))
    found = {}
    for kind, label in _KINDS:
        sde = ss.ModifiedEquation(
            landscape, ETA, ss.MinibatchNoise(sampling), substeps=1, increments=kind
        )
        ours = _library(sde, theta, members, key)
        peer = full_gradient_scan(landscape, ETA, random_numbers=kind == "gaussian")
        steps = _steps(config, lambda n, p=peer: lambda: p(key, start, n))
        ratio = _compare(
            config, lambda f=ours, n=steps: f(n), lambda p=peer, n=steps: p(key, start, n)
        )
        what = "gradient and random numbers" if kind == "gaussian" else "the gradient"
        found[f"{label}, {name}, against {what}"] = _inverse(ratio)
        if kind == "gaussian" and name == "MLP":
            slow = per_example_scan(landscape, ETA)
            few = max(1, steps // 20)
            times = _compare(
                config, lambda f=ours, n=few: f(n), lambda p=slow, n=few: p(key, start, n)
            )
            found["SDE step, MLP, against per-example gradients"] = times
    return found


def _sgd_rows(config, key, name, landscape, members, batch) -> dict[str, list[float]]:
    theta = jnp.zeros(landscape.dimension, landscape.dtype)
    start = jnp.broadcast_to(theta, (members, landscape.dimension))
    peer = by_hand_sgd(landscape, ETA, batch)
    steps = _steps(config, lambda n: lambda: peer(key, start, n))
    by_hand = lambda: peer(key, start, steps)  # noqa: E731
    sgd = _library(ss.SGD(landscape, ETA, ss.WithReplacement(batch)), theta, members, key)
    found = {f"SGD, {name}, against a scan": _compare(config, lambda: sgd(steps), by_hand)}
    if name == "least squares":
        fresh = ss.SGD(landscape, ETA, ss.WithoutReplacement(batch))
        subset = _library(fresh, theta, members, key)
        row = "fresh subset each step, against the with-replacement scan"
        found[row] = _compare(config, lambda: subset(steps), by_hand)
    return found


def _solvers(config, key) -> dict[str, list[float]]:
    """Ornstein–Uhlenbeck in 16 dimensions, 256 members."""
    dim, members, steps = 16, 256, 512
    # The gradient is θ itself, as the peers write it, and no product with a matrix.
    well = ss.Potential(lambda x: 0.5 * jnp.sum(x**2), np.eye(dim, dtype=np.float32))
    noise = ss.ConstantNoise(np.eye(dim, dtype=np.float32))
    sde = ss.ModifiedEquation(well, ETA, noise, substeps=1, solver=dfx.Euler())
    theta = jnp.zeros(dim, jnp.float32)
    ours = _library(sde, theta, members, key)
    tree = diffrax_tree(dim, members, steps, ETA)
    few = dataclasses.replace(config, repetitions=max(3, config.repetitions // 3))
    found = {
        "against vmapped Diffrax with VirtualBrownianTree": _compare(
            few, lambda: ours(steps), lambda: tree(key)
        )
    }
    torch = torchsde_solve(dim, members, steps, ETA)
    if torch is not None:
        found["against torchsde"] = _compare(config, lambda: ours(steps), torch)
    return found


def _first_passage(config, key) -> dict[str, list[float]]:
    """Double well from −1 to x > 0.5, with refill, beside the same run without a measure."""
    well = ss.double_well(jnp.asarray([[1.0]], jnp.float32))
    sde = ss.ModifiedEquation(well, 0.1, ss.ConstantNoise(np.ones((1, 1), np.float32)), substeps=1)
    theta = jnp.asarray([-1.0], jnp.float32)
    plain = _library(sde, theta, 4096, key)
    watch = {"exit": ss.FirstPassage(lambda x: x[0] > 0.5)}
    refilled = _library(sde, theta, 4096, key, watch, refill=True)
    steps = _steps(config, lambda n: lambda: plain(n))
    row = "first passage with refill, against the plain ensemble"
    return {row: _compare(config, lambda: refilled(steps), lambda: plain(steps))}


def _probes() -> dict[str, list[float]]:
    """First calls and peak memory, each in a process of its own."""

    def probe(*arguments: str) -> float:
        command = [sys.executable, "-m", f"{__package__}.probe", *arguments]
        environment = {**os.environ, "JAX_ENABLE_X64": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return float(done.stdout.split()[-1])

    first = [probe("first_call", kind) for kind in ("least_squares", "logistic", "mlp")]
    short, long = probe("memory", "1000"), probe("memory", "1000000")
    return {
        "slowest first call, s": [max(first)],
        "memory of 10⁶ steps over that of 10³": [long / short],
        "memory of 4 096 MLP members, GB": [probe("mlp_memory")],
    }
