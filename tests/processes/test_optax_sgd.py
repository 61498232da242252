"""OptaxSGD is the loop that a user of Equinox and optax writes, member by member."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from optax import contrib
from tools import normal

import sde_sgd as ss
from sde_sgd.random.draws import Draws, stream_keys
from sde_sgd.simulate.fingerprint import describe

INPUTS = normal(0, 8, 2)
TARGETS = np.sin(INPUTS @ np.array([[1.0], [2.0]]))
MODEL = eqx.nn.MLP(2, 1, 8, 1, activation=jnp.tanh, key=jr.key(1))
LANDSCAPE = ss.EmpiricalRisk(MODEL, INPUTS, TARGETS, ss.squared_error)
SAMPLING = ss.WithReplacement(3)
STREAMS = stream_keys(jr.key(5))


def matrices(parameters):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


def kinds(parameters):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "adam" if "weight" in jax.tree_util.keystr(path) else "sgd", parameters
    )


def ascent():
    return optax.chain(contrib.normalize(), optax.sgd(0.05))


OPTIMISERS = {
    "adam": optax.adam(0.05),
    "sgd with momentum": optax.sgd(0.05, momentum=0.9),
    "adamw with a mask by dimension": optax.adamw(0.05, weight_decay=10.0, mask=matrices),
    "muon": contrib.muon(0.05),
    "lamb": optax.lamb(0.05),
    "lars": optax.lars(0.05),
    "adafactor": optax.adafactor(0.05, min_dim_size_to_factor=2),
    "novograd": optax.novograd(0.05),
    "adaptive_grad_clip": optax.chain(optax.adaptive_grad_clip(0.01), optax.sgd(0.05)),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(0.01), optax.sgd(0.05)),
    "multi_transform": optax.multi_transform(
        {"adam": optax.adam(0.05), "sgd": optax.sgd(0.1)}, kinds
    ),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2),
    "polyak_sgd (value)": optax.polyak_sgd(0.5),
    "reduce_on_plateau (value)": optax.chain(
        optax.sgd(0.1), contrib.reduce_on_plateau(patience=0, cooldown=0)
    ),
    "lbfgs (value_fn)": optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(4)),
    "SAM": contrib.sam(optax.sgd(0.05), ascent(), sync_period=2),
    "SAM at once (grad_fn)": contrib.sam(
        optax.sgd(0.05), ascent(), sync_period=2, opaque_mode=True
    ),
}
LOSS = {"value", "grad", "value_fn"}
ASKED = {name: LOSS for name in OPTIMISERS} | {"SAM": set(), "SAM at once (grad_fn)": {"grad_fn"}}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_it_is_the_loop_written_by_hand(name):
    """θ_k of a member = the flattened model of an Equinox and optax loop on the same batches."""
    optimizer = OPTIMISERS[name]
    process = ss.OptaxSGD(LANDSCAPE, optimizer, SAMPLING)
    parameters, static = eqx.partition(MODEL, eqx.is_inexact_array)

    def draws(k):
        return Draws(STREAMS, jnp.arange(2, dtype=jnp.uint32), jnp.uint32(k), jnp.uint32(0))

    start = jnp.broadcast_to(LANDSCAPE.initial, (2, LANDSCAPE.dimension))
    state, memory = process.init(start, draws(0)), optimizer.init(parameters)
    # Not compiled: the operations of one optimiser are those of the others.
    for k in range(3):
        rows = SAMPLING.draw(None, draws(k), LANDSCAPE)[1][1]
        inputs, targets = jnp.asarray(INPUTS)[rows], jnp.asarray(TARGETS)[rows]

        def loss(parameters, *_, inputs=inputs, targets=targets):
            predicted = jax.vmap(eqx.combine(parameters, static))(inputs)
            return jnp.mean(0.5 * jnp.sum((predicted - targets) ** 2, axis=-1))

        value, gradient = jax.value_and_grad(loss)(parameters)
        known = {"value": value, "grad": gradient, "value_fn": loss, "grad_fn": jax.grad(loss)}
        offered = {argument: known[argument] for argument in ASKED[name]}
        updates, memory = optimizer.update(gradient, memory, parameters, **offered)
        parameters = optax.apply_updates(parameters, updates)
        state = process.step(state, draws(k), lambda carry, *_: carry, None)[0]
    by_hand = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters)])
    assert np.abs(by_hand - LANDSCAPE.initial).max() > 1e-4
    np.testing.assert_allclose(state.theta[1], by_hand, rtol=0, atol=1e-12)


LOGISTIC = ss.LogisticRegression(normal(2, 6, 3), np.array([0, 1, 2, 0, 1, 2]))
STUDENT = ss.landscapes.LinearTeacherStudent(normal(3, 2, 3), 0.1)
MACHINE = ss.landscapes.GaussianRBM(np.diag([0.5, 1.0, 2.0]), 2.0, 2)
TREES = {
    "a network": (LANDSCAPE, [(8, 2), (8,), (1, 8), (1,)]),
    "logistic regression": (LOGISTIC, [(3, 3), (3,)]),
    "teacher and student": (STUDENT, [(2, 3)]),
    "a Boltzmann machine": (MACHINE, [(3, 2)]),
    "least squares": (ss.LeastSquares(normal(4, 6, 3), normal(5, 6)), [(3,)]),
    "a control variate": (ss.landscapes.ControlVariate(LOGISTIC, np.zeros(12)), [(3, 3), (3,)]),
}


@pytest.mark.parametrize("name", TREES)
def test_ravel_undoes_unravel(name):
    """ravel(unravel(θ)) = θ, and the parameters have the shapes that they have by themselves."""
    landscape, shapes = TREES[name]
    theta = jnp.asarray(0.1 * normal(6, landscape.dimension))
    parameters = landscape.unravel(theta)
    assert [leaf.shape for leaf in jax.tree.leaves(parameters)] == shapes
    np.testing.assert_array_equal(landscape.ravel(parameters), theta)


@pytest.mark.parametrize("name", TREES)
def test_the_gradient_of_a_batch_is_that_of_its_loss(name):
    """ĝ_B = ∇L_B."""
    landscape, _ = TREES[name]
    theta = jnp.asarray(0.1 * normal(6, landscape.dimension))
    draws = Draws(STREAMS, jnp.uint32(0), jnp.uint32(0), jnp.uint32(0))
    batch = landscape.draw_examples(draws, 3)
    gradient = jax.jit(lambda x: landscape.minibatch_gradient(x, batch))(theta)
    expected = jax.jit(jax.grad(lambda x: landscape.minibatch_loss(x, batch)))(theta)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def asks_for_more():
    def update(updates, state, params=None, *, curvature, **others):
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def stateless(update):
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def noise_of_a_fixed_key(updates, state, params=None):
    return jax.tree.map(lambda u: u + jr.normal(jr.key(0), u.shape), updates), state


def noise_of_the_count():
    def update(updates, count, params=None):
        key = jr.fold_in(jr.key(0), count)
        return jax.tree.map(lambda u: u + jr.normal(key, u.shape), updates), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.uint32), update)


def drawn_at_the_start():
    return optax.GradientTransformation(
        lambda params: jr.normal(jr.key(0), ()),
        lambda updates, state, params=None: (updates, state),
    )


def growing():
    return optax.GradientTransformation(
        lambda params: jnp.zeros(2),
        lambda updates, state, params=None: (updates, jnp.append(state, 0.0)),
    )


REFUSED = {
    "lookahead": (optax.lookahead(optax.sgd(0.1), 2, 0.5), "LookaheadParams.*fast optimiser alone"),
    "dpsgd": (
        contrib.dpsgd(0.1, 1.0, 1.0, 0),
        "gradient of each example.*clip_by_global_norm and optax.add_noise",
    ),
    "another argument": (asks_for_more(), "curvature.*value_fn, obj_fn or grad_fn"),
    "a fixed key": (stateless(noise_of_a_fixed_key), "update draws .* not in its state"),
    "a key of the count": (noise_of_the_count(), "update draws .* not in its state"),
    "numbers at the start": (drawn_at_the_start(), "init draws .* not in its state"),
    "sums over the first axis": (
        stateless(lambda u, s, p=None: (jax.tree.map(lambda x: x.sum(0), u), s)),
        "updates must have the shapes of the parameters",
    ),
    "a growing state": (growing(), r"state after an update .*\[3\].*\[2\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_drive_is_refused(name):
    """One sentence says what the optimiser needs, before a run begins."""
    optimizer, words = REFUSED[name]
    with pytest.raises(ValueError, match=f"OptaxSGD cannot drive this optimiser.*{words}"):
        ss.OptaxSGD(LANDSCAPE, optimizer, SAMPLING)


def test_a_checkpoint_knows_the_number_of_its_mini_steps():
    """optax.MultiSteps is an object, and what it holds is part of the configuration."""
    two, three = (
        ss.OptaxSGD(LANDSCAPE, optax.MultiSteps(optax.sgd(0.1), n), SAMPLING) for n in (2, 3)
    )
    again = ss.OptaxSGD(LANDSCAPE, optax.MultiSteps(optax.sgd(0.1), 2), SAMPLING)
    assert describe(two) == describe(again) != describe(three)
