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
QUANTITIES: dict[str, Callable[[Any, Any], Any]] = {
    "covariance": STATIONARY.covariance,
    "transient": lambda p, about: STATIONARY.transient(
        p, [0.1], np.zeros(p.landscape.dimension), about
    ),
    "largest stable rate": STATIONARY.largest_stable_learning_rate,
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
    for name, ask in QUANTITIES.items():
        lines += ["", f"## `theory.stationary`: {name}", ""]
        lines += [f"| process | {' | '.join(LANDSCAPES)} |", "|---" * (1 + len(LANDSCAPES)) + "|"]
        for label, make in PROCESSES.items():
            cells = [entry(make, landscape(), ask) for landscape in LANDSCAPES.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    (Path(__file__).parent / "what_is_exact.md").write_text(table())
