"""The update rule that a process follows, or that its equation describes.

A rule is known by what it does: by the updates that it makes from three given gradients. The first
is of order one and the second of order 10⁴, so that clipping and normalisation show; the third is
zero, so that momentum shows.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.continuous.adaptive import AdaptiveEquation
from sde_sgd.processes.continuous.driven import DrivenEquation
from sde_sgd.processes.continuous.modified import GradientFlow, ModifiedEquation
from sde_sgd.processes.continuous.momentum import OverdampedEquation, UnderdampedEquation
from sde_sgd.processes.continuous.probability_flow import ProbabilityFlow
from sde_sgd.processes.continuous.sam import SAMEquation
from sde_sgd.processes.continuous.transformed import TransformedEquation
from sde_sgd.processes.discrete.langevin import SGLD
from sde_sgd.processes.discrete.optax_sgd import OptaxSGD
from sde_sgd.processes.discrete.sam import SAM
from sde_sgd.processes.discrete.sgd import GaussianSGD, SGD
from sde_sgd.processes.discrete.svag import SVAG

_SIZES = (1.0, 1e4, 0.0)


class Rule(NamedTuple):
    """A rule in words, and its updates (3, d); None where it needs more than a gradient."""

    name: str
    updates: np.ndarray | None


def update_rule(process: AbstractProcess) -> Rule | None:
    """The rule of a process; None of one that this library does not know."""
    if isinstance(process, SAM):
        how = "normalised " * process.normalized
        return Rule(f"{how}SAM with radius {float(process.radius):g}", None)
    if isinstance(process, SAMEquation):
        return Rule(f"SAM with radius {float(process.radius):g}", None)
    if isinstance(process, OptaxSGD):
        return Rule("its optimiser", _of_optimizer(process, process.optimizer))
    if isinstance(process, AdaptiveEquation):
        name = type(process.optimizer).__name__
        return Rule(name, _of_optimizer(process, process.optimizer.optax()))
    rate, momentum = _heavy_ball(process)
    if rate is None:
        return None
    name = f"heavy ball with momentum {momentum:g}" if momentum else "SGD without momentum"
    return Rule(name, _updates(process, rate, momentum))


def different_rules(sgd: AbstractProcess, sde: AbstractProcess) -> str:
    """How the rules of two sides differ, in a few words; empty where they do not."""
    one, other = update_rule(sgd), update_rule(sde)
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


def _heavy_ball(process: AbstractProcess) -> tuple[LearningRate | None, float]:
    """η and μ of a process that follows heavy ball, plain SGD at μ = 0, or describes it."""
    if isinstance(process, UnderdampedEquation | OverdampedEquation):
        return process.learning_rate, float(process.momentum)
    if isinstance(process, TransformedEquation):
        return process.equation.learning_rate, 0.0
    if isinstance(process, SGD | GaussianSGD):
        return process.learning_rate, float(process.momentum)
    if isinstance(process, SVAG | SGLD | ModifiedEquation | DrivenEquation):
        return process.learning_rate, 0.0
    if isinstance(process, ProbabilityFlow | GradientFlow):
        return process.learning_rate, 0.0
    return None, 0.0


def _gradients(process: AbstractProcess) -> list[np.ndarray]:
    index = np.arange(process.landscape.dimension)
    dtype = process.landscape.dtype
    return [(size * np.cos(1.7 * index + i)).astype(dtype) for i, size in enumerate(_SIZES)]


def _updates(process: AbstractProcess, rate: LearningRate, momentum: float) -> np.ndarray:
    velocity, found = 0.0, []
    for k, gradient in enumerate(_gradients(process)):
        velocity = momentum * velocity + gradient
        eta = rate.constant() if rate.schedule is None else rate.at(k, gradient.dtype)
        found.append(-np.asarray(eta) * velocity)
    return np.stack(found)


def _of_optimizer(process: AbstractProcess, optimizer: Any) -> np.ndarray | None:
    """Updates of an optax optimiser at one θ; None where it asks for more than a gradient."""
    landscape, found = process.landscape, []
    theta = landscape.unravel(jnp.asarray(1 + _gradients(process)[0]))
    state = optimizer.init(theta)
    for gradient in _gradients(process):
        try:
            updates, state = optimizer.update(
                landscape.unravel(jnp.asarray(gradient)), state, theta
            )
        except (TypeError, ValueError, KeyError):
            return None
        found.append(np.asarray(landscape.ravel(updates)))
    return np.stack(found)
