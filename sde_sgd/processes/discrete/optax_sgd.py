"""Any optax optimiser on minibatches, on the parameters in their own shapes."""

import math
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sde_sgd._user_functions import naming
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.sampling import AbstractSampling, check_batches
from sde_sgd.processes.base import Observe
from sde_sgd.processes.clock import Clock, LearningRate
from sde_sgd.processes.discrete._batches import AbstractBatchProcess
from sde_sgd.processes.discrete._state_keys import follow, Followed, StateKeys
from sde_sgd.processes.discrete.adaptive import AbstractAdaptive
from sde_sgd.processes.rules import of_optimizer, Rule
from sde_sgd.random.draws import Draws, STREAM_KEYS
from sde_sgd.types import Identity, Positions

if TYPE_CHECKING:
    import optax


class OptaxState(eqx.Module):
    """θ (members, d); the optimiser's state and the sampler's, members first.

    `identity` (members,): whose numbers the keys in the optimiser's state give; None without keys.
    """

    theta: Positions
    optimizer: PyTree[Array]
    sampling: PyTree[Array]
    identity: Identity | None


class OptaxSGD(AbstractBatchProcess):
    """Any optax optimiser driven by minibatch gradients, each member with its own state.

    `OptaxSGD(landscape, ss.Adam(1e-3), sampling)` takes one of the library's own, too, which
    `AdaptiveEquation` describes: it runs its `optax()`, on its clock t = Σ η_k².

    The optimiser works on `landscape.unravel(θ)`: with `EmpiricalRisk` the model's own arrays, so
    that masks by dimension, labels by path and norms of a leaf mean what they mean in a loop
    written by hand. Those that ask for more are given the loss of the batch: `value`, `grad` and
    `value_fn` (polyak_sgd, lbfgs, reduce_on_plateau, momo), `obj_fn` (sophia) or `grad_fn` (SAM).

    Keys in the optimiser's state (add_noise, noisy_sgd) are made each member's own: random numbers
    depend on the run's key, the member and the iteration at which its life began; a clone's are
    its own from its birth. The optimiser's seed is folded in, too.

    **Arguments:**

    - `landscape`, `sampling`: as `SGD`.
    - `optimizer`: an `optax.GradientTransformation`, or `Adam`, `RMSprop`, `SignSGD`.
    - `learning_rate`: only sets the clock of an optax optimiser, t = ηk; without it time counts
      iterations. The library's own optimisers have theirs.

    **Raises:** `ValueError` for an optimiser that needs what a process does not have: lookahead
    (two copies of the parameters), dpsgd (a gradient of each example), arguments not named above;
    for one that draws random numbers from keys outside its state, or when its state begins; for
    one whose state changes its shapes.
    """

    landscape: AbstractLandscape
    description: AbstractAdaptive | None
    optimizer: Any = eqx.field(static=True)
    sampling: AbstractSampling
    learning_rate: LearningRate | None
    keys: StateKeys
    offers: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        optimizer: "optax.GradientTransformation | optax.MultiSteps | AbstractAdaptive",
        sampling: AbstractSampling,
        learning_rate: Any = None,
    ):
        self.description = optimizer if isinstance(optimizer, AbstractAdaptive) else None
        if isinstance(optimizer, AbstractAdaptive):
            if learning_rate is not None:
                raise ValueError(
                    f"learning_rate sets the clock of an optax optimiser, and "
                    f"ss.{type(optimizer).__name__} has its own, t = η²k: leave it out; got "
                    f"{learning_rate!r}."
                )
            learning_rate, optimizer = optimizer.learning_rate.given, optimizer.optax()
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                f"optimizer must be an optax.GradientTransformation, or one of ss.Adam, ss.RMSprop "
                f"and ss.SignSGD; got {type(optimizer).__name__}."
            )
        check_batches(landscape, sampling)
        # optax.MultiSteps is no GradientTransformation itself.
        accumulating = getattr(optimizer, "gradient_transformation", None)
        if accumulating is not None:
            optimizer = accumulating()
        self.landscape = landscape
        self.optimizer = optimizer
        self.sampling = sampling
        self.learning_rate = None if learning_rate is None else LearningRate(learning_rate)
        self.keys, self.offers = _examine(landscape, optimizer, sampling)

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate, power=1 if self.description is None else 2)

    @property
    def autonomous(self) -> bool:
        # An optimiser's own count restarts with the member; the clock of a schedule does not.
        return self.learning_rate is None or self.learning_rate.schedule is None

    @property
    def update_rule(self) -> Rule:
        return of_optimizer("its optimiser", self.landscape, self.optimizer)

    @property
    def gradients_per_iteration(self) -> float:
        """B; NaN for an optimiser that is given the gradient's function and calls it at will."""
        return math.nan if "grad_fn" in self.offers else super().gradients_per_iteration

    def init(self, theta: Positions, draws: Draws) -> OptaxState:
        def begin(theta):
            return self.keys.store(self.optimizer.init(self.landscape.unravel(theta)))

        optimizer, identity = jax.vmap(begin)(theta), None
        if self.keys.leaves:
            optimizer, identity = self.keys.make_own(optimizer, draws), draws.identity
        return OptaxState(theta, optimizer, self.sampling.init(draws, self.landscape), identity)

    def step(self, state: OptaxState, draws: Draws, observe: Observe, carry):
        sampling, examples = self.sampling.draw(state.sampling, draws, self.landscape)
        optimizer, identity = state.optimizer, state.identity
        if identity is not None:
            # A clone has its parent's state, and a future of its own.
            own = self.keys.make_own(optimizer, draws)
            optimizer = jax.vmap(_choose)(identity == draws.identity, optimizer, own)
            identity = draws.identity

        from optax import apply_updates

        def update(theta, stored, batch):
            opened = self.keys.open(stored)
            update = _update_of(self.landscape, self.optimizer, self.offers)
            updates, after = update(opened, theta, batch)
            moved = apply_updates(self.landscape.unravel(theta), updates)
            return self.landscape.ravel(moved), self.keys.store(after)

        theta, optimizer = jax.vmap(update)(state.theta, optimizer, examples)
        carry = observe(carry, state.theta, theta, jnp.uint32(0))
        return OptaxState(theta, optimizer, sampling, identity), carry


def _choose(first: Array, one: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), one, other)


# What is offered to an optimiser beside the gradient, until it takes one of these: some refuse
# what they do not know, and some fail without what they do.
_LOSS = ("value", "grad", "value_fn")
_OFFERS = (_LOSS, (*_LOSS, "obj_fn"), ("grad_fn",))


def _update_of(landscape: AbstractLandscape, optimizer: Any, offers: tuple[str, ...]) -> Callable:
    """(state, θ, batch) of one member -> the updates of its parameters, and the next state."""

    from optax import with_extra_args_support

    def update(state, theta, batch):
        def batch_loss(parameters):
            return landscape.minibatch_loss(landscape.ravel(parameters), batch)

        def batch_gradient(parameters, _=None):
            theta = landscape.ravel(parameters)
            return landscape.unravel(landscape.minibatch_gradient(theta, batch))

        gradient = landscape.unravel(landscape.minibatch_gradient(theta, batch))
        # What the optimiser does not look at costs nothing: XLA leaves it out.
        known = {
            "value": landscape.minibatch_loss(theta, batch),
            "grad": gradient,
            "value_fn": batch_loss,
            "obj_fn": batch_loss,
            "grad_fn": batch_gradient,
        }
        taking = with_extra_args_support(optimizer).update
        offered = {name: known[name] for name in offers}
        updates, state = taking(gradient, state, landscape.unravel(theta), **offered)
        return updates, jax.tree.map(jnp.asarray, state)

    return update


# Names of optax's states that a process cannot drive, with what they need and the way out.
_BEYOND = {
    "LookaheadState": "it needs two copies of the parameters (optax.LookaheadParams), and a "
    "process has one θ: use its fast optimiser alone",
    "DifferentiallyPrivateAggregateState": "it needs the gradient of each example, and a process "
    "gives the mean of a batch: clip and perturb that, with optax.clip_by_global_norm and "
    "optax.add_noise",
}


def _examine(
    landscape: AbstractLandscape, optimizer: Any, sampling: AbstractSampling
) -> tuple[StateKeys, tuple[str, ...]]:
    """The keys in an optimiser's state and the arguments that it takes, by a trial on shapes.

    **Raises:** `ValueError` for an optimiser that a process cannot drive.
    """
    theta = jax.ShapeDtypeStruct((landscape.dimension,), landscape.dtype)
    identity = jax.ShapeDtypeStruct((1,), jnp.uint32)

    def begin(theta):
        return jax.tree.map(jnp.asarray, optimizer.init(landscape.unravel(theta)))

    def first_batch(streams, identity):
        draws = Draws(streams, identity, jnp.uint32(0), jnp.uint32(0))
        examples = sampling.draw(sampling.init(draws, landscape), draws, landscape)[1]
        return jax.tree.map(lambda x: x[0], examples)

    batch = jax.eval_shape(first_batch, STREAM_KEYS, identity)
    try:
        begun = follow(begin, theta)
        state = begun.result
        _refuse_beyond(state)
        with naming("a function or schedule of its own"):
            moved, offers = _first_taken(landscape, optimizer, (state, theta, batch))
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}, "
        reason = str(error).strip().split("\n")[0].rstrip(".:")
        raise ValueError(
            f"OptaxSGD cannot drive this optimiser: {kind}{reason}. (It calls init(parameters) and "
            f"update(gradient, state, parameters) with the mean gradient of a batch, the "
            f"parameters as landscape.unravel(θ) gives them, and the loss of the batch as value, "
            f"value_fn, obj_fn or grad_fn.)"
        ) from error
    for where, followed in (("init", begun), ("update", moved)):
        if followed.draws_elsewhere:
            raise ValueError(
                f"OptaxSGD cannot drive this optimiser: its {where} draws random numbers from a "
                f"key that is not in its state, the same for all members. Keep the key in the "
                f"state and draw in update, as optax.add_noise does."
            )
    if {"rbg", "unsafe_rbg"} & set(moved.keys.generators):
        raise ValueError(
            "OptaxSGD cannot drive this optimiser: its state holds a key of the generator 'rbg', "
            "whose numbers for one member depend on the others beside it under jax.vmap. Give it a "
            "key with impl='threefry2x32'."
        )
    updates, after = moved.result
    parameters = jax.eval_shape(landscape.unravel, theta)
    _compare("updates", "the parameters", _shapes(updates), _shapes(parameters))
    _compare("state after an update", "the state before it", _shapes(after), _shapes(state))
    return moved.keys, offers


def _refuse_beyond(state: PyTree[Any]) -> None:
    for node in jax.tree.leaves(state, is_leaf=lambda x: type(x).__name__ in _BEYOND):
        if type(node).__name__ in _BEYOND:
            raise ValueError(_BEYOND[type(node).__name__])


def _first_taken(
    landscape: AbstractLandscape, optimizer: Any, arguments: tuple
) -> tuple[Followed, tuple[str, ...]]:
    """The first trial that succeeds, with its offers; the first error where none does."""
    errors = []
    for offers in _OFFERS:
        try:
            return follow(_update_of(landscape, optimizer, offers), *arguments), offers
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise errors[0]


def _shapes(tree: PyTree[Any]) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [f"{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)}" for path, x in leaves]


def _compare(what: str, other: str, found: list[str], wanted: list[str]) -> None:
    if found != wanted:
        raise ValueError(
            f"OptaxSGD cannot drive this optimiser: its {what} must have the shapes of {other}; "
            f"got {sorted(set(found) - set(wanted))} where {sorted(set(wanted) - set(found))} "
            f"belong."
        )
