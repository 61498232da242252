"""The update rule that a process follows, or that its equation describes.

A rule is known by what it does: by the updates that it makes from three given gradients. The first
is of order one and the second of order 10⁴, so that clipping and normalisation show; the third is
zero, so that momentum shows.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.clock import LearningRate
from sde_sgd.types import RealLike

_SIZES = (1.0, 1e4, 0.0)


class Rule(NamedTuple):
    """A rule in words, its updates (3, d), None where it needs more than a gradient, and μ."""

    name: str
    updates: np.ndarray | None
    momentum: float = 0.0


def heavy_ball(landscape: AbstractLandscape, rate: LearningRate, momentum: RealLike = 0.0) -> Rule:
    """v ← μv + g, θ ← θ − ηv; SGD at μ = 0."""
    mu = float(momentum)
    velocity, updates = 0.0, []
    for k, gradient in enumerate(_gradients(landscape)):
        velocity = mu * velocity + gradient
        eta = rate.constant() if rate.schedule is None else rate.at(k, gradient.dtype)
        updates.append(-np.asarray(eta) * velocity)
    name = f"heavy ball with momentum {mu:g}" if mu else "SGD without momentum"
    return Rule(name, np.stack(updates), mu)


def of_optimizer(name: str, landscape: AbstractLandscape, optimizer: Any) -> Rule:
    """The rule of an optax optimiser at one θ."""
    gradients, updates = _gradients(landscape), []
    theta = landscape.unravel(jnp.asarray(1 + gradients[0]))
    state = optimizer.init(theta)
    for gradient in gradients:
        try:
            moved, state = optimizer.update(landscape.unravel(jnp.asarray(gradient)), state, theta)
        except (TypeError, ValueError, KeyError):
            return Rule(name, None)
        updates.append(np.asarray(landscape.ravel(moved)))
    return Rule(name, np.stack(updates))


def different_rules(sgd: Any, sde: Any) -> str:
    """How the rules of two processes differ, in a few words; empty where they do not."""
    one, other = sgd.update_rule, sde.update_rule
    if one is None or other is None:
        return ""
    if one.updates is None and other.updates is None and one.name == other.name:
        return ""
    if one.updates is not None and other.updates is not None:
        room = np.maximum(np.abs(one.updates).max(axis=1), np.abs(other.updates).max(axis=1))
        if (np.abs(one.updates - other.updates) <= 1e-4 * room[:, None]).all():
            return ""
    what = f"{type(sgd).__name__} follows {one.name}"
    if one.name == other.name:
        what = f"{type(sgd).__name__} moves otherwise, by another rate"
    hint = " (its equation is ss.UnderdampedEquation)" if one.name.startswith("heavy") else ""
    return f"{what}{hint}, and {type(sde).__name__} has the rule of {other.name}"


def _gradients(landscape: AbstractLandscape) -> list[np.ndarray]:
    index = np.arange(landscape.dimension)
    return [
        (size * np.cos(1.7 * index + i)).astype(landscape.dtype) for i, size in enumerate(_SIZES)
    ]
