"""The minimum near a start, without a matrix: SciPy's optimisers, or the gradient flow itself."""

import contextlib
import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd._checks import (
    as_real,
    check_choice,
    check_number,
    check_progress,
    check_whole,
    in_brief,
)
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.landscapes.gradient_flow import begin_flow, Ending, follow_some, RUNNING, TOLERANCE
from sde_sgd.landscapes.search import Minimum, Search, Stalled, Stop
from sde_sgd.terminal import Interrupt
from sde_sgd.types import RealLike

METHODS = ("lbfgs", "newton-cg", "gradient-flow")
# Seconds of the flow between two looks at the clock.
_SEGMENT_SECONDS = 0.3
_MANY = 2**31 - 1


def minimise(
    landscape: AbstractLandscape,
    theta: Any,
    method: str,
    tolerance: RealLike,
    max_steps: int,
    budget: RealLike | None,
    progress: bool | None,
) -> Minimum:
    """See `AbstractLandscape.minimise`."""
    check_choice("method", method, METHODS)
    most = check_whole("max_steps", max_steps)
    check_progress(progress)
    share = check_number("tolerance", tolerance, above=0)
    seconds = math.inf if budget is None else check_number("budget", budget, above=0)
    start = _start(landscape, theta)
    with Interrupt() as interrupt:
        search = Search(landscape, share, most, seconds, interrupt, progress)
        try:
            search.begin(start)
            if method == "gradient-flow":
                _follow_flow(search, start)
            _descend(search, method)
        except Stop as stop:
            return search.result(stop)
        finally:
            search.close()
    raise AssertionError("a search ends with a reason")


def _descend(search: Search, method: str) -> None:
    """A method, and Newton's where it no longer leads lower, over again as long as they do.

    Near the minimum what a step gains is below the rounding of L, and a line search fails.
    """
    parts = [_newton_cg, _newton_steps]
    if method == "lbfgs":
        parts.insert(0, _lbfgs)
    while True:
        before = search.best
        for part in parts:
            with contextlib.suppress(Stalled):
                part(search)
            search.idle = 0
        lower = search.best.loss < before.loss - search.rounding
        if not lower and search.best.norm > before.norm / 2:
            raise search.stalled()


def _lbfgs(search: Search) -> None:
    """Limited-memory BFGS (Byrd, Lu, Nocedal, Zhu 1995), with our own end of it."""
    options = {"ftol": 0.0, "gtol": 0.0, "maxcor": 20, "maxls": 40, "maxiter": _MANY}
    scipy.optimize.minimize(
        search.value,
        search.best.theta,
        jac=True,
        method="L-BFGS-B",
        callback=search.step,
        options={**options, "maxfun": _MANY},
    )


def _newton_cg(search: Search) -> None:
    """Newton's method by conjugate gradients in a trust region (Steihaug 1983)."""
    size = max(1.0, float(np.linalg.norm(search.best.theta)))
    scipy.optimize.minimize(
        search.value,
        search.best.theta,
        jac=True,
        hessp=search.product,
        method="trust-ncg",
        callback=search.step,
        options={
            "gtol": 0.0,
            "initial_trust_radius": 0.1 * size,
            "max_trust_radius": 1e3 * size,
            "maxiter": _MANY,
        },
    )


def _newton_steps(search: Search) -> None:
    """Newton's steps judged by |∇L|, where rounding of L hides what they gain."""
    while True:
        before = search.best
        move = search.newton_step(before)
        if not np.isfinite(move).all() or move @ before.gradient >= 0:
            return
        search.value(before.theta + move)
        if search.best.norm > before.norm / 2:
            return
        search.step()


def _follow_flow(search: Search, start: np.ndarray) -> None:
    """dθ/dt = −∇L(θ), in stretches of a fraction of a second."""
    first, still = search.put(start), search.goal
    state, most = begin_flow(search.landscape, first), 1
    while True:
        before, done = time.monotonic(), int(state.num_steps)
        most = min(most, search.max_steps - done)
        limits = np.int32(done + most), np.asarray(still, search.landscape.dtype)
        state = jax.block_until_ready(_flow(search.landscape, state, first, *limits))
        spent = time.monotonic() - before
        search.value(np.asarray(state.theta, float))
        search.idle = 0
        search.step(count=int(state.num_steps) - done)
        if int(state.num_steps) == done:
            still = 0.0  # the same gradient, computed twice, may differ by its rounding
        ending = int(state.ending)
        if ending == Ending.MINIMUM:
            raise Stop(f"is the rounding of {search.landscape.dtype}", rounding=True)
        if ending != RUNNING:
            raise Stop(f"is where the gradient flow {Ending(ending).reason}")
        most = 2 * most if spent < _SEGMENT_SECONDS / 2 else most


def _start(landscape: AbstractLandscape, theta: Any) -> Float[np.ndarray, " d"]:
    if isinstance(theta, eqx.Module):
        raise ValueError(
            f"theta is {in_brief(theta)}, and must be flat parameters (d,): a model's own are "
            f"landscape.initial, of another one landscape.ravel(model)."
        )
    point = as_real("theta", theta, landscape.dtype)
    if point.shape != (landscape.dimension,):
        raise ValueError(f"theta must have shape ({landscape.dimension},), got {point.shape}.")
    return np.asarray(point, float)


# Compiled once for each kind of landscape, not once for each call.
@eqx.filter_jit
def _flow(landscape, state, start, most, still):
    return follow_some(
        landscape, state, start, TOLERANCE, most=jnp.asarray(most), still=jnp.asarray(still)
    )
