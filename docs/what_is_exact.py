"""Writes docs/what_is_exact.md: which prediction of which process is exact on which landscape.

Command: python docs/what_is_exact.py. Each entry is asked of the library; a test compares the file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sde_sgd as ss

X, Y = np.array([[1.0, 0.3], [-0.4, 0.8], [0.2, -1.1], [0.9, 0.6]]), np.array([1.0, -0.5, 0.3, 0.2])
BATCH = ss.WithReplacement(2)
EPOCHS = ss.RandomReshuffling(1)
NOISE = ss.MinibatchNoise(BATCH)
LANDSCAPES: dict[str, Callable[[], Any]] = {
    "LeastSquares": lambda: ss.LeastSquares(X, Y),
    "PopulationLeastSquares": lambda: ss.landscapes.PopulationLeastSquares(np.eye(2), 0.3),
    "quadratic, constant Σ": lambda: ss.quadratic(np.diag([1.0, 2.0]), np.eye(2)),
    "LogisticRegression": lambda: ss.LogisticRegression(X, np.array([0, 1, 1, 0]), l2=0.5),
}
# What is known in one dimension alone.
LINES: dict[str, Callable[[], Any]] = {
    "LeastSquares": lambda: ss.LeastSquares(X[:, :1], Y),
    "PopulationLeastSquares": lambda: ss.landscapes.PopulationLeastSquares(np.eye(1), 0.3),
    "quadratic, constant Σ": lambda: ss.quadratic(1.0, 1.0),
    "LogisticRegression": lambda: ss.LogisticRegression(
        X[:, :1], np.array([0, 1, 1, 0]), l2=0.5, bias=False
    ),
}
PROCESSES: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda L: ss.SGD(L, 0.1, BATCH),
    "SGD, momentum": lambda L: ss.SGD(L, 0.1, BATCH, 0.5),
    "SGD, shuffled epochs": lambda L: ss.SGD(L, 0.1, EPOCHS),
    "GaussianSGD": lambda L: ss.GaussianSGD(L, 0.1, NOISE),
    "SVAG": lambda L: ss.SVAG(L, 0.1, BATCH, 4),
    "SGLD": lambda L: ss.SGLD(L, 0.1, BATCH, 0.1),
    "SAM": lambda L: ss.SAM(L, 0.1, 0.1, BATCH),
    "ModifiedEquation, at its step": lambda L: ss.ModifiedEquation(L, 0.1, NOISE),
    "its limit": lambda L: ss.ModifiedEquation(L, 0.1, NOISE).limit(),
    "order 2, its limit": lambda L: ss.ModifiedEquation(L, 0.1, NOISE, order=2).limit(),
    "UnderdampedEquation, at its step": lambda L: ss.UnderdampedEquation(L, 0.1, NOISE, 0.5),
    "OverdampedEquation, at its step": lambda L: ss.OverdampedEquation(L, 0.1, NOISE, 0.5),
    "SAMEquation": lambda L: ss.SAMEquation(L, 0.1, 0.1, NOISE),
    "OptaxSGD, Adam": lambda L: ss.OptaxSGD(L, ss.Adam(0.1), BATCH),
    "AdaptiveEquation, Adam": lambda L: ss.AdaptiveEquation(L, ss.Adam(0.1), NOISE),
}
STATIONARY = ss.theory.stationary
QUANTITIES: dict[str, tuple[dict[str, Callable[[], Any]], Callable[[Any, Any], Any]]] = {
    "`theory.stationary`: covariance": (LANDSCAPES, STATIONARY.covariance),
    "`theory.stationary`: transient": (
        LANDSCAPES,
        lambda p, about: STATIONARY.transient(p, [0.1], np.zeros(p.landscape.dimension), about),
    ),
    "`theory.stationary`: largest stable rate": (
        LANDSCAPES,
        STATIONARY.largest_stable_learning_rate,
    ),
    "`theory.stationary`: areal velocity": (LANDSCAPES, STATIONARY.areal_velocity),
    "`theory.stationary`: current and entropy production": (
        LANDSCAPES,
        STATIONARY.stationary_current,
    ),
    "`theory.stationary`: moments 1 to 4, d = 1": (
        LINES,
        lambda p, about: STATIONARY.stationary_scalar_moments(p),
    ),
    "`theory.laws`: tail index, d = 1": (LINES, lambda p, about: ss.theory.laws.tail_index(p)),
}


def entry(make: Callable[[Any], Any], landscape: Any, ask: Callable[[Any, Any], Any]) -> str:
    """ "exact", "about=θ" or "–"."""
    try:
        process = make(landscape)
    except ValueError:
        return "–"  # no such process on this landscape
    about = landscape.rest()
    about = jnp.zeros(landscape.dimension) if about is None else about
    for word, place in (("exact", None), ("about=θ", np.asarray(about))):
        try:
            ask(process, place)
        except ValueError:
            continue
        return word
    return "–"


def table() -> str:
    """The file's text."""
    lines = [
        "# What is exact where",
        "",
        "Of a process at its own learning rate and solver step: *exact*, *about=θ* (the",
        "linearisation about a point that you give, each example's gradient and Hessian kept), or",
        "– (the error says what is known). Made by `python docs/what_is_exact.py`.",
    ]
    for name, (landscapes, ask) in QUANTITIES.items():
        lines += ["", f"## {name}", ""]
        lines += [f"| process | {' | '.join(landscapes)} |", "|---" * (1 + len(landscapes)) + "|"]
        for label, make in PROCESSES.items():
            cells = [entry(make, landscape(), ask) for landscape in landscapes.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    (Path(__file__).parent / "what_is_exact.md").write_text(table())
