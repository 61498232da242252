"""Whether the steps of a process are stable where it starts, looked at before a run."""

import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import check_choice
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import NotKnown
from sde_sgd.simulate.warn import warn
from sde_sgd.types import Indices, Scalar, Vector

# Exact mean-square stability costs an eigenproblem of d(d+1)/2 unknowns.
_EXACT_STABILITY = 40
# Examples and power iterations that a warning is worth.
_EXAMPLES = 128
_ITERATIONS = 20


def judge_stability(process: AbstractProcess, theta: jax.Array, examples: str | bool) -> None:
    """Mean-square stability: an error on quadratic landscapes, elsewhere a warning of overshoot.

    On a quadratic, up to d = 40, each process is judged by the second moments of its own step
    (`AbstractProcess.largest_stable_rate`). Beyond, and elsewhere, only whether its step overshoots
    (`AbstractProcess.overshoot`) along the largest eigenvalue of the Hessian at the first start is
    looked at. Shuffled epochs can be stable beyond it: a warning. Schedules, optimisers with a rate
    of their own, probability flows and solvers other than Euler are not judged.

    `examples`: "sample" looks at the Hessian of 128 examples where a finite sum that is not
    quadratic has more, "full" at all of them, False at nothing.
    """
    check_choice("check_stability", examples, ("sample", "full", False))
    if examples is not False:
        for stage in process.stages:
            _judge(stage, theta, examples)


def _judge(process: AbstractProcess, theta: jax.Array, examples: str | bool) -> None:
    eta, landscape = process.clock.constant, process.landscape
    if eta is None:
        return
    name = type(process).__name__
    quadratic = landscape.rest() is not None
    if quadratic and landscape.dimension <= _EXACT_STABILITY:
        try:
            stable = process.stable()
        except NotKnown:
            stable = None
        if stable is False:
            also = "" if process.weak_order is None else ", or raise substeps"
            raise ValueError(
                f"learning_rate={eta:g} is beyond the mean-square stability of {name} on this "
                f"{type(landscape).__name__}: the second moment grows without bound; it is stable "
                f"below {process.largest_stable_rate():.6g}, all else the same{also} "
                f"(check_stability=False runs it: a heavy-tailed law may exist there)."
            )
        if stable:
            return
    if process.overshoot(1.0) is None:
        return
    looked_at = None if quadratic else _looked_at(landscape, examples)
    found = process.overshoot(_top_eigenvalue(landscape, np.asarray(theta)[0], looked_at))
    if found is None or not found[0] > 2:
        return
    overshoot, formula = found
    some = "" if looked_at is None else f" on {looked_at} of {landscape.num_examples} examples"
    message = (
        f"learning_rate={eta:g}: {formula} = {overshoot:.3g} exceeds 2 at the first start{some}, "
        f"so that steps overshoot there"
    )
    if quadratic and process.epoch is None:
        raise ValueError(f"{message} for ever: lower it below {2 * eta / overshoot:.4g}.")
    warn(f"{message}; the run may diverge.")


def _looked_at(landscape: AbstractLandscape, examples: str | bool) -> int | None:
    """How many examples stand for all of them; None for all."""
    if examples == "full":
        return None
    if not isinstance(landscape, AbstractFiniteSum) or landscape.num_examples <= _EXAMPLES:
        return None
    return _EXAMPLES


# Largest eigenvalues by landscape, start and number of examples: comparisons, splitting and
# sweeps ask for the same one many times.
_KNOWN: dict[tuple[int, bytes, int | None], float] = {}


def _top_eigenvalue(
    landscape: AbstractLandscape, theta: np.ndarray, looked_at: int | None
) -> float:
    """|λ_max| of the Hessian by 20 power iterations: a lower bound, close enough to warn."""
    own = (id(landscape), theta.tobytes(), looked_at)
    if own not in _KNOWN:
        rows = None
        if looked_at is not None:
            assert isinstance(landscape, AbstractFiniteSum)
            places = np.linspace(0, landscape.num_examples - 1, looked_at)
            rows = jax.device_put(places.astype(np.int32))
        _KNOWN[own] = float(_power_iteration(landscape, rows, jax.device_put(theta)))
        # The identity of a landscape may be another's once it is gone.
        weakref.finalize(landscape, _KNOWN.pop, own, None)
    return _KNOWN[own]


@eqx.filter_jit
def _power_iteration(landscape: Any, rows: Indices | None, theta: Vector) -> Scalar:
    def gradient(x):
        if rows is None:
            return landscape.gradient(x)
        return landscape.minibatch_gradient(x, rows)

    def body(_, carry):
        v, _ = carry
        w = jax.jvp(gradient, (theta,), (v,))[1]
        return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny), jnp.vdot(v, w)

    start = jnp.cos(jnp.arange(theta.shape[0], dtype=theta.dtype) * 1.7 + 0.3)
    start = (start / jnp.linalg.norm(start), jnp.zeros((), theta.dtype))
    return jnp.abs(jax.lax.fori_loop(0, _ITERATIONS + 1, body, start)[1])
