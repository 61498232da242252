"""What `validity` is asked, checked before any time is spent."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Float

from sde_sgd._checks import (
    as_float64,
    check_key,
    check_landscape,
    check_list,
    check_number,
    check_point,
    check_whole,
)
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.processes.discrete.sgd import SGD
from sde_sgd.types import Key, Vector
from sde_sgd.validity.examples import default_sample
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.probes import WHOLE

_KNOWN = (
    "ss.SGD, with or without momentum (ss.ModifiedEquation, ss.UnderdampedEquation); for "
    "ss.SignSGD, ss.RMSprop, ss.Adam and ss.SAM the library has SDEs (ss.AdaptiveEquation, "
    "ss.SAMEquation) to compare with in ss.side_by_side, but no rule for their validity"
)


# SVAG is left out by default where its gradients would be more numbers than this, all together.
_SVAG_NUMBERS = 2 * 10**10
_SVAG_LEVELS = (2, 4, 8)


class Request(NamedTuple):
    """Arguments of `validity` as it needs them.

    **Fields:** `theta` (d,); `settings` η, c, μ, K; `directions` (d, n) of the user, or None;
    `sample`, examples in a sample; `svag`, the levels l; `remarks`, what the defaults left out;
    the rest as in `validity`.
    """

    landscape: AbstractFiniteSum
    sgd: SGD
    theta: Vector
    key: Key
    settings: Settings
    tolerance: float
    directions: Float[np.ndarray, "d n"] | None
    count: int
    num_paths: int
    explore_steps: int
    sample: int
    svag: tuple[int, ...]
    svag_members: int
    svag_steps: int
    num_probes: int
    remarks: tuple[str, ...]

    @property
    def keys(self) -> list[Key]:
        """Four: of the sample, the explored paths, SVAG, the probes."""
        return list(jr.split(self.key, 4))

    @property
    def num_watched(self) -> int:
        """Most directions that there can be in the local model, m."""
        size, more = self.landscape.dimension, 0
        if self.directions is not None:
            more = self.directions.shape[1]
        return size if size <= WHOLE else min(2 * self.count + 1 + more, size)

    @property
    def num_looked_at(self) -> int:
        """Examples in the sample that is examined: all of them where they are few."""
        num = self.landscape.num_examples
        return num if num <= 2 * self.sample else self.sample


def check_request(
    landscape: Any,
    sgd: Any,
    theta: Any,
    *,
    key: Any,
    num_steps: Any = 1000,
    tolerance: Any = 0.1,
    directions: Any = None,
    count: Any = 3,
    num_paths: Any = 4,
    explore_steps: Any = None,
    sample: Any = None,
    svag: Any = None,
    svag_members: Any = 128,
    svag_steps: Any = 20,
    num_probes: Any = 32,
) -> Request:
    """Arguments and errors as `validity`."""
    point, limit = check_run(landscape, sgd, theta), check_number("tolerance", tolerance, above=0)
    for name, least, value in (
        ("num_steps", 1, num_steps),
        ("count", 1, count),
        ("num_paths", 2, num_paths),
        ("svag_members", 2, svag_members),
        ("svag_steps", 1, svag_steps),
        ("num_probes", 2, num_probes),
    ):
        check_whole(name, value, least)
    levels = None if svag is None else check_list("svag", svag, "(2, 4, 8)")
    levels = None if levels is None else tuple(check_whole("svag", level, 2) for level in levels)
    key = check_key(key)
    explored = min(num_steps, 500) if explore_steps is None else explore_steps
    explored = check_whole("explore_steps", explored, 1)
    size = default_sample(landscape) if sample is None else sample
    size = check_whole("sample", size, 16)
    momentum = float(sgd.momentum)
    factor = sgd.sampling.noise_factor(landscape.num_examples)
    request = Request(
        landscape=landscape,
        sgd=sgd,
        theta=point,
        key=key,
        settings=Settings(sgd.learning_rate.constant(), factor, momentum, num_steps),
        tolerance=limit,
        directions=_extra(directions, landscape),
        count=count,
        num_paths=num_paths,
        explore_steps=explored,
        sample=size,
        svag=_SVAG_LEVELS if levels is None else levels,
        svag_members=svag_members,
        svag_steps=svag_steps,
        num_probes=num_probes,
        remarks=(),
    )
    if momentum > 0 and request.svag:
        left_out = ("SVAG left out: it has no momentum",) if levels else ()
        return request._replace(svag=(), remarks=left_out)
    gradients = svag_gradients(request)
    if svag is None and gradients * landscape.dimension > _SVAG_NUMBERS:
        why = (
            f"SVAG left out: it takes {gradients:.2g} gradients of an example; "
            f"svag={_SVAG_LEVELS} runs it"
        )
        return request._replace(svag=(), remarks=(why,))
    return request


def svag_gradients(request: Request) -> float:
    """Gradients of one example that SGD and SVAG(l) take, and what the losses at the end cost."""
    if not request.svag:
        return 0.0
    batches = 1 + 2 * sum(request.svag)
    steps = request.svag_steps * request.sgd.sampling.batch_size * batches
    # A loss is a third of its gradient.
    return request.svag_members * (steps + (1 + len(request.svag)) * request.num_looked_at / 3)


def check_run(landscape: Any, sgd: Any, theta: Any) -> Float[Any, " d"]:
    """θ as the landscape has it; `ValueError` for a run that `validity` cannot judge."""
    if isinstance(landscape, eqx.Module) and not isinstance(landscape, AbstractLandscape):
        raise ValueError(
            f"landscape is a model ({type(landscape).__name__}), and a model alone has no loss: "
            f"give ss.EmpiricalRisk(model, inputs, targets, ss.cross_entropy), and its .initial "
            f"as theta."
        )
    if not isinstance(landscape, AbstractFiniteSum):
        kind = type(landscape).__name__
        what = "a population" if isinstance(landscape, AbstractLandscape) else "no landscape"
        raise ValueError(
            f"validity needs a finite sum, whose examples it can look at; {kind} is {what}. Draw "
            f"a data set and give ss.LeastSquares, ss.EmpiricalRisk or the like."
        )
    if not isinstance(sgd, SGD):
        raise ValueError(
            f"validity does not know when the SDE of {type(sgd).__name__} holds; it knows {_KNOWN}."
        )
    if sgd.landscape is not landscape:
        raise ValueError(
            "sgd moves on another landscape than the one given: pass sgd.landscape, or make the "
            "ss.SGD on this one."
        )
    if sgd.learning_rate.constant() is None:
        raise ValueError(
            "validity needs a constant learning rate: a schedule has another verdict at every "
            "stage. Make an ss.SGD at the rate of the stage in question."
        )
    if isinstance(theta, eqx.Module):
        raise ValueError(
            f"theta is a model ({type(theta).__name__}), and must be flat parameters: with "
            f"EmpiricalRisk the model's own are landscape.initial."
        )
    check_landscape(landscape, AbstractFiniteSum)
    return check_point("theta", theta, landscape)


def refuse_noiseless(settings: Settings, noise_trace: float, sgd: SGD) -> None:
    """`ValueError` where the batches have no noise, and the SDE is no SDE."""
    if settings.noise_factor * noise_trace <= 0:
        raise ValueError(
            f"{type(sgd.sampling).__name__}({sgd.sampling.batch_size}) has no gradient noise at "
            f"theta (c = {settings.noise_factor:g}, tr Σ = {noise_trace:g}): the SDE is "
            f"gradient flow. Compare with ss.GradientFlow, or take smaller batches."
        )


def _extra(directions: Any, landscape) -> np.ndarray | None:
    if directions is None:
        return None
    rows = as_float64("directions", directions)
    if rows.ndim != 2 or len(rows) != landscape.dimension or not rows.shape[1]:
        raise ValueError(
            f"directions must have shape ({landscape.dimension}, n); got {rows.shape}."
        )
    if not np.isfinite(rows).all() or not (np.abs(rows).max(axis=0) > 0).all():
        raise ValueError("directions must be finite, and none of them zero.")
    return rows
