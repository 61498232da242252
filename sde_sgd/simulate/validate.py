"""Everything that can be wrong with a run, found before time is spent."""

from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from sde_sgd._checks import as_real, check_choice, in_brief, real_output, real_values
from sde_sgd._user_functions import naming
from sde_sgd.measure.base import AbstractMeasure, check_carry, check_restart
from sde_sgd.memory import available_memory
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.clock import LearningRate
from sde_sgd.random.draws import Stream, stream_keys, threefry
from sde_sgd.simulate.labels import plain_name
from sde_sgd.simulate.warn import warn
from sde_sgd.types import Key

# No compiled loop turns faster.
_LEAST_STEP_SECONDS = 2e-7


def check_measures(measures: Any, process: AbstractProcess, num_steps: int) -> dict:
    """A dictionary of measures that fit the process and the length of the run."""
    if measures is None:
        return {}
    if not isinstance(measures, dict):
        raise ValueError(
            f"measures must be a dictionary of names and measures, such as "
            f'{{"moments": ss.Moments()}}; got {type(measures).__name__}.'
        )
    plain: dict[str, str] = {}
    for name, measure in measures.items():
        if not isinstance(name, str):
            raise ValueError(f"The names of measures must be text; got {name!r}.")
        twin = plain.setdefault(plain_name(name), name)
        if twin != name:
            raise ValueError(
                f"measures {twin!r} and {name!r} would both be {plain_name(name)!r} in a file: "
                f"rename one of them."
            )
        if not isinstance(measure, AbstractMeasure):
            raise ValueError(
                f"measures[{name!r}] is {in_brief(measure)}, which is no measure: use ss.Moments, "
                f"ss.Histogram, ss.Snapshots, ss.FirstPassage or a subclass of AbstractMeasure."
            )
        measure.check(process, num_steps)
        check_carry(name, measure, process)
    return dict(measures)


def check_length(process: AbstractProcess, num_steps: int) -> None:
    """A process that is defined for a number of iterations only must not run longer.

    A schedule must give a rate at each iteration.
    """
    most = process.num_steps
    if most is not None and num_steps > most:
        raise ValueError(
            f"This {type(process).__name__} ends after {most} iterations, before the run does at "
            f"{num_steps}: make its last stage, or the score that it follows, longer."
        )

    def is_rate(node: Any) -> bool:
        return isinstance(node, LearningRate)

    for rate in filter(is_rate, jax.tree.leaves(process, is_leaf=is_rate)):
        rate.check(num_steps)


def check_refill(process: AbstractProcess, measures: dict[str, AbstractMeasure], carries) -> None:
    """Refill needs a process that may restart and a measure that says when."""
    if not process.autonomous:
        raise ValueError(
            f"refill=True puts members back to their start at any iteration, and this "
            f"{type(process).__name__} depends on the common clock (a learning-rate schedule), or "
            f"does not say that it is `autonomous`."
        )
    ends = [eqx.filter_eval_shape(m.finished, carries[name]) for name, m in measures.items()]
    if all(end is None for end in ends):
        raise ValueError(
            "refill=True restarts the members that a measure has finished with, and no measure of "
            "this run ever finishes: add ss.FirstPassage, or leave refill out."
        )
    for name, measure in measures.items():
        check_restart(name, measure, carries[name], 1)


def check_state(members: Any) -> None:
    """States and carries hold numbers only, as NumPy and a file can."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(members):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"A state holds a random key ({jax.tree_util.keystr(path)}), which is no array of "
                f"numbers and the same for all members: draw from the `draws` that init and step "
                f"are given, or keep jax.random.key_data of a key that is each member's own."
            )


def check_outcome(on_divergence: Any, budget: Any) -> str:
    """What to do with diverged members, "raise" or "mask"; a budget of some seconds."""
    number = isinstance(budget, int | float | np.number) and not isinstance(budget, bool)
    # Seconds are floats, and 10**400 is none.
    if budget is not None and not (number and (0 < budget < 1e300 or budget == np.inf)):
        raise ValueError(f"budget must be a number of seconds > 0; got {in_brief(budget)}.")
    return check_choice("on_divergence", on_divergence, ("raise", "mask"))


def warn_of_long_iterations(process: Any, budget: float | None) -> None:
    """Says that one iteration alone outlasts the budget, or ten seconds, at best."""
    substeps = process.substeps
    least = substeps * _LEAST_STEP_SECONDS
    if least > (10.0 if budget is None else max(budget, 1.0)):
        warn(
            f"One iteration of this {type(process).__name__} is substeps={substeps} solver steps, "
            f"{least:.3g} s at the very least, and cannot be cut: budget, checkpoints and Ctrl-C "
            f"wait for its end. Take fewer substeps."
        )


def starts(
    process: AbstractProcess,
    theta0: Any,
    ensemble_size: int,
    key: Key,
    members: np.ndarray | None = None,
) -> jax.Array:
    """(members, d) starting points from one point, one a member, or a sampler key -> (d,).

    `members`: identities of those wanted among the `ensemble_size` (None: all of them); member i
    takes row i of (ensemble_size, d) starts, and a sampler's key is a function of `key` and i.
    """
    number = ensemble_size if members is None else len(members)
    landscape = process.landscape
    dim, dtype = landscape.dimension, landscape.dtype
    if isinstance(theta0, eqx.Module):
        raise ValueError(
            f"theta0 is a model ({type(theta0).__name__}), and must be flat parameters: with "
            f"EmpiricalRisk the model's own are landscape.initial."
        )
    check_memory(2 * number * dim * dtype.itemsize, None, f"the starts of {number} members")
    members = np.arange(ensemble_size) if members is None else members
    if callable(theta0):
        keys = _keys(stream_keys(key), jax.device_put(members.astype(np.uint32)))
        ignores_key = _look_at(theta0, keys)
        # Not compiled as a whole: a sampler may look at what has changed since its last call.
        sampled = jax.vmap(lambda own: real_output("theta0(key)", theta0(own)))(keys)
        if sampled.shape != (number, dim):
            raise ValueError(
                f"The sampler theta0(key) must give shape ({dim},); it gave {sampled.shape[1:]}."
            )
        theta = sampled
    else:
        given = real_values("theta0", theta0)
        floating = jnp.issubdtype(given.dtype, jnp.floating)
        theta = as_real("theta0", given, None if floating else dtype)
        if theta.shape not in ((dim,), (ensemble_size, dim)):
            raise ValueError(
                f"theta0 must have shape ({dim},) or ({ensemble_size}, {dim}), or be a sampler "
                f"key -> ({dim},); got {theta.shape}."
            )
    if theta.dtype != dtype:
        raise ValueError(
            f"theta0 is {theta.dtype} and the landscape {dtype}: cast one of them, so that the "
            f"whole run has one dtype."
        )
    points = np.asarray(theta)
    if not np.isfinite(points).all():
        raise ValueError("theta0 has entries that are NaN or infinite.")
    if callable(theta0) and ignores_key and ensemble_size > 1:
        raise ValueError(
            f"The sampler theta0(key) does not use its key, so that all members would start at one "
            f"point: draw with jax.random from the key (np.random is called once for all), or pass "
            f"an array ({ensemble_size}, {dim}) of starts, or the one point."
        )
    if theta.shape == (dim,):
        return jax.device_put(np.broadcast_to(points, (number, dim)))
    if callable(theta0) or number == ensemble_size:
        return theta
    return jax.device_put(points[members])


@jax.jit
def _keys(streams: jax.Array, identity: jax.Array) -> jax.Array:
    """A key for the start of each member, (members,)."""
    own = streams[Stream.INITIAL]
    words = threefry((own[0], own[1]), identity, jnp.uint32(0))
    return jr.wrap_key_data(jnp.stack(words, axis=-1), impl="threefry2x32")


def _look_at(sampler: Any, keys: jax.Array) -> bool:
    """Whether a sampler makes its start without its key.

    **Raises:** `ValueError` for one that draws from anything else: of two looks at it, each number
    in its program must be the same.
    """
    one = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    with naming("The sampler theta0(key)"):
        # Each a function of its own, as JAX remembers the program of a function.
        looks = [
            jax.make_jaxpr(lambda key: real_output("theta0(key)", sampler(key)))(one)
            for _ in range(2)
        ]
    first, second = ([*look.consts, *_literals(look.jaxpr)] for look in looks)
    if len(first) != len(second) or not all(map(_equal, first, second)):
        raise ValueError(
            "The sampler theta0(key) gives other numbers each time it is asked with one key, as "
            "np.random does, which JAX would call once for all members: draw with jax.random from "
            "the key, or pass an array of starts (members, d)."
        )
    program = looks[0].jaxpr
    used = {id(v) for eqn in program.eqns for v in eqn.invars} | {id(v) for v in program.outvars}
    return not any(id(v) in used for v in program.invars)


def _literals(program: Any) -> list[Any]:
    """The numbers written into a program and the ones that it calls, in order."""
    found = [v.val for v in program.outvars if isinstance(v, jex.Literal)]
    for equation in program.eqns:
        found += [v.val for v in equation.invars if isinstance(v, jex.Literal)]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "consts"):
                found += [*value.consts, *_literals(value.jaxpr)]
    return found


def _equal(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def check_memory(needed: int, limit: int | None, what: str) -> None:
    """Raises `MemoryError` with the bytes and the way out."""
    allowed = limit if limit is not None else int(0.8 * available_memory())
    if needed > allowed:
        raise MemoryError(
            f"This run needs about {needed / 1e9:.3g} GB ({needed} bytes; {what}) and may use "
            f"{allowed / 1e9:.3g} GB. Lower ensemble_size, record less often (record_every, "
            f'Snapshots(at=...)), measure a projection (of=...), use covariance="diagonal", or '
            f"pass a larger memory=."
        )
