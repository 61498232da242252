"""Arrays of a model that are held fixed, layers that are tied, and examples that are trees."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from tools import call, normal

import sde_sgd as ss
from sde_sgd.simulate.fingerprint import describe, unseen

NUM = 6
INPUTS, LABELS = normal(0, NUM, 3), np.arange(NUM) % 3
MODEL = eqx.nn.MLP(3, 3, 3, 1, activation=jnp.tanh, key=jr.key(0))
LAST = eqx.tree_at(lambda m: m.layers[-1], jax.tree.map(lambda _: False, MODEL), replace=True)


def risk(model=MODEL, trainable=LAST, **options):
    return ss.EmpiricalRisk(model, INPUTS, LABELS, ss.cross_entropy, trainable=trainable, **options)


def test_the_gradient_is_that_of_a_closure_over_the_fixed_arrays():
    """θ = (W, b) of the last layer: L, ∇L and Σ are those of −log softmax(W h_i + b), h_i fixed."""
    first, last = MODEL.layers
    hidden = np.tanh(INPUTS @ np.asarray(first.weight).T + np.asarray(first.bias))
    landscape = risk()
    theta = jnp.asarray(normal(1, 12))

    def losses(theta):
        logits = hidden @ theta[:9].reshape(3, 3).T + theta[9:]
        return jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(NUM), LABELS]

    loss, gradient, rows = call(
        lambda x: (
            losses(x).mean(),
            jax.grad(lambda x: losses(x).mean())(x),
            jax.jacfwd(losses)(x),
        ),
        theta,
    )
    centred = rows - rows.mean(axis=0)
    found = call(lambda x: (landscape.loss(x), landscape.gradient(x)), theta)
    np.testing.assert_allclose(found[0], loss, rtol=1e-13)
    np.testing.assert_allclose(found[1], gradient, rtol=0, atol=1e-14)
    sigma = call(landscape.gradient_covariance, theta)
    np.testing.assert_allclose(sigma, centred.T @ centred / NUM, rtol=0, atol=1e-14)
    expected = np.concatenate([np.ravel(last.weight), np.ravel(last.bias)])
    np.testing.assert_array_equal(landscape.initial, expected)


@pytest.mark.parametrize(
    "trainable, arrays",
    [
        (True, 4),
        (eqx.is_inexact_array, 4),
        (lambda leaf: leaf.ndim == 2, 2),
        (LAST, 2),
        (jax.tree.map(eqx.is_inexact_array, MODEL), 4),
        (eqx.tree_at(lambda m: m.layers[0], LAST, lambda leaf: leaf.ndim == 1), 3),
    ],
)
def test_trainable_is_what_equinox_filters_take(trainable, arrays):
    """unravel(θ) = eqx.filter(model, trainable), model(θ) = model, ravel of either = θ."""
    landscape = risk(trainable=trainable)
    theta = landscape.initial
    found = landscape.unravel(theta)
    # Equinox asks a function about every leaf, activation functions too.
    rules = jax.tree.map(
        lambda rule: (lambda x: eqx.is_inexact_array(x) and rule(x)) if callable(rule) else rule,
        trainable,
    )
    expected = eqx.filter(eqx.filter(MODEL, rules), eqx.is_inexact_array)
    assert eqx.tree_equal(found, expected)
    assert len(jax.tree.leaves(found)) == arrays
    assert eqx.tree_equal(landscape.model(theta), MODEL)
    np.testing.assert_array_equal(landscape.ravel(found), theta)
    np.testing.assert_array_equal(landscape.ravel(MODEL), theta)


def test_another_models_parameters_are_refused():
    """ravel of an MLP of another width raises with both lists of shapes."""
    other = eqx.nn.MLP(3, 3, 4, 1, key=jr.key(0))
    with pytest.raises(ValueError, match="not the parameters of the landscape's model"):
        risk().ravel(other)


@pytest.mark.parametrize(
    "trainable, told",
    [
        ("weights", "True, False and functions leaf -> bool.*got 'weights'"),
        (1, "True, False and functions.*got 1"),
        ([True], "does not begin like the model's, a MLP: make it from the model"),
        ({"layers": True}, "does not begin like the model's"),
        (None, "does not begin like the model's"),
        (MODEL.layers[0], "True, False and functions"),
        (lambda leaf: leaf.colour, "trainable raised AttributeError for an array of shape"),
        (lambda leaf: leaf > 0, "trainable raised ValueError"),
        (False, "picks no floating-point array"),
        (lambda leaf: leaf.dtype == int, "picks no floating-point array"),
    ],
)
def test_a_trainable_that_picks_nothing_sensible_is_refused(trainable, told):
    """ValueError with what it must be."""
    with pytest.raises(ValueError, match=told):
        risk(trainable=trainable)


def test_l2_counts_what_is_trained():
    """L_λ − L = (λ/2)|θ|² with θ the last layer alone."""
    theta = jnp.asarray(normal(1, 12))
    plain, penalised = (call(risk(l2=l2).loss, theta) for l2 in (0.0, 0.5))
    np.testing.assert_allclose(penalised - plain, 0.25 * normal(1, 12) @ normal(1, 12), rtol=1e-12)


def fixed_part(landscape, theta):
    return [
        np.asarray(x) for x in jax.tree.leaves(landscape.model(theta).layers[0]) if eqx.is_array(x)
    ]


def test_noise_and_decay_leave_the_fixed_arrays():
    """After steps of isotropic noise and of AdamW the first layer is the same bit for bit."""
    landscape, before = risk(l2=0.1), fixed_part(risk(), risk().initial)
    sampling = ss.WithReplacement(2)
    isotropic = ss.ModifiedEquation(landscape, 0.1, ss.IsotropicNoise(sampling), substeps=1)
    for process in (
        isotropic,
        ss.OptaxSGD(landscape, optax.adamw(0.1, weight_decay=0.5), sampling),
    ):
        run = ss.simulate(process, landscape.initial, num_steps=3, ensemble_size=2, key=jr.key(1))
        after = jnp.asarray(run.positions[0])
        assert float(np.abs(after - landscape.initial).max()) > 1e-3
        for one, other in zip(before, fixed_part(landscape, after), strict=True):
            np.testing.assert_array_equal(one, other)


def test_fixed_arrays_are_part_of_what_a_run_is():
    """The fingerprint sees all of a model, and changes with a fixed entry."""
    changed = eqx.tree_at(lambda m: m.layers[0].bias, MODEL, MODEL.layers[0].bias + 1e-9)
    one, same, other = (describe(risk(model)) for model in (MODEL, MODEL, changed))
    assert one == same != other
    assert not unseen(one)


class Buffered(eqx.Module):
    """(W + S) x with a NumPy array S."""

    weight: jax.Array
    shift: np.ndarray

    def __call__(self, x):
        return (self.weight + self.shift) @ x


def test_fixed_arrays_are_copies():
    """S is 0 when the landscape is made, and stays so when the user's array changes."""
    shift = np.zeros((3, 3))
    model = Buffered(jnp.asarray(normal(2, 3, 3)), shift)
    landscape = risk(
        model, eqx.tree_at(lambda m: m.shift, jax.tree.map(lambda _: True, model), False)
    )
    before = float(landscape.loss(landscape.initial))
    shift[:] = 7.0
    assert landscape.dimension == 9
    assert float(landscape.loss(landscape.initial)) == before


class Normalised(eqx.Module):
    """BatchNorm and a linear layer."""

    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, mode):
        self.norm = eqx.nn.BatchNorm(3, "batch", mode=mode)
        self.linear = eqx.nn.Linear(3, 3, key=jr.key(1))

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.linear(x), state


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_frozen_batch_norm_is_an_affine_layer(mode):
    """y = w (x − m)/√(v + ε) + b with m, v of ten batches: L and ∇L in (w, b, W, c), d = 18."""
    model, state = eqx.nn.make_with_state(Normalised)(mode)

    @eqx.filter_jit
    def see(state, batch):
        seen = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        return seen(batch, state)[1]

    for seed in range(10):
        state = see(state, jnp.asarray(normal(seed, 5, 3) + 2))
    frozen = eqx.Partial(eqx.nn.inference_mode(model), state=state)
    landscape = risk(frozen, True)
    assert landscape.dimension == 18
    if mode == "ema":
        mean, variance = state.get(model.norm.ema_state_index)
    else:
        scale = 1 - model.norm.momentum**10
        mean, variance = (x / scale for x in state.get(model.norm.batch_state_index))

    def loss(theta):
        w, b, matrix, c = theta[:3], theta[3:6], theta[6:15].reshape(3, 3), theta[15:]
        x = (INPUTS - mean) / jnp.sqrt(variance + model.norm.eps) * w + b
        logits = x @ matrix.T + c
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(NUM), LABELS])

    theta = jnp.asarray(normal(3, 18))
    value, gradient = call(jax.value_and_grad(loss), theta)
    found = call(lambda x: (landscape.loss(x), landscape.gradient(x)), theta)
    np.testing.assert_allclose(found[0], value, rtol=1e-13)
    np.testing.assert_allclose(found[1], gradient, rtol=0, atol=1e-13)
    # The statistics that were given are what stays fixed, and the run can be kept on disk.
    assert eqx.tree_equal(landscape.model(theta).keywords["state"], state)
    assert not unseen(describe(landscape))
    excluded = eqx.tree_at(
        lambda m: m.keywords["state"], jax.tree.map(eqx.is_inexact_array, frozen), replace=False
    )
    assert eqx.tree_equal(risk(frozen, excluded).initial, landscape.initial)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, state: model,
        lambda model, state: eqx.nn.inference_mode(model),
        lambda model, state: eqx.Partial(model, state=state),
    ],
)
def test_batch_norm_that_is_not_frozen_is_refused_with_the_way_out(make):
    """Neither in training, nor without its statistics."""
    model = make(*eqx.nn.make_with_state(Normalised)("batch"))
    way = r"eqx.Partial\(eqx.nn.inference_mode\(model\), state=state\)"
    with pytest.raises(ValueError, match=f"BatchNorm carries running state.*{way}"):
        risk(model, True)


class Tied(eqx.Module):
    """x ↦ Eᵀ tanh(E x), the two layers one."""

    layers: eqx.nn.Shared

    def __init__(self, encoder, decoder):
        self.layers = eqx.nn.Shared(
            (encoder, decoder), lambda pair: pair[1].weight, lambda pair: pair[0].weight.T
        )

    def __call__(self, x):
        encoder, decoder = self.layers()
        return decoder(jnp.tanh(encoder(x)))


def test_layers_tied_by_shared_are_one():
    """∇L of Eᵀ tanh(E x) in E: both places count, d = 9."""
    encoder, decoder = (eqx.nn.Linear(3, 3, use_bias=False, key=jr.key(k)) for k in (0, 1))
    landscape = risk(Tied(encoder, decoder), True)
    assert landscape.dimension == 9

    def loss(theta):
        matrix = theta.reshape(3, 3)
        logits = jnp.tanh(INPUTS @ matrix.T) @ matrix
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(NUM), LABELS])

    theta = jnp.asarray(normal(4, 9))
    gradient = call(jax.grad(loss), theta)
    np.testing.assert_allclose(call(landscape.gradient, theta), gradient, rtol=0, atol=1e-14)


def test_one_array_in_two_places_is_warned_of():
    """layers[0].weight is layers[1].weight: a warning with both names, none for fixed arrays."""
    tied = eqx.tree_at(lambda m: m.layers[1].weight, MODEL, MODEL.layers[0].weight)
    told = r"layers\[0\].weight and .*layers\[1\].weight.*eqx.nn.Shared"
    with pytest.warns(UserWarning, match=told) as caught:
        risk(tied, True)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        risk(MODEL, True)
        risk(tied, lambda leaf: leaf.ndim == 1)
    # One place that is trained leaves the other behind.
    first = eqx.tree_at(lambda m: m.layers[0].weight, jax.tree.map(lambda _: False, tied), True)
    with pytest.warns(UserWarning, match=told):
        risk(tied, first)


@pytest.mark.parametrize("kind", ["dictionary", "tuple"])
def test_targets_may_be_trees(kind):
    """ℓ_i = w_i (−log softmax(model(x_i))_{y_i}), with (y_i, w_i) one example's target."""
    weights = np.abs(normal(5, NUM))
    if kind == "dictionary":
        targets = {"label": LABELS, "weight": weights.tolist()}
        loss = lambda p, y: y["weight"] * ss.cross_entropy(p, y["label"])  # noqa: E731
    else:
        targets = (LABELS, weights)
        loss = lambda p, y: y[1] * ss.cross_entropy(p, y[0])  # noqa: E731
    landscape = ss.EmpiricalRisk(MODEL, INPUTS, targets, loss, example_block=4)
    plain = ss.EmpiricalRisk(MODEL, INPUTS, LABELS, ss.cross_entropy)
    theta, batch = plain.initial, jnp.array([0, 3, 3])
    ours, theirs, of_batch, jacobian = call(
        lambda x: (
            landscape.example_losses(x),
            plain.example_losses(x),
            landscape.minibatch_gradient(x, batch),
            plain.example_gradients(x),
        ),
        theta,
    )
    np.testing.assert_allclose(ours, weights * theirs, rtol=1e-13)
    expected = (weights[:, None] * jacobian)[np.array(batch)].mean(axis=0)
    np.testing.assert_allclose(of_batch, expected, rtol=0, atol=1e-14)


def test_inputs_may_be_trees_and_lists_are_arrays():
    """model({"a": x, "b": z}); targets as a list or a tuple of numbers are one array."""

    class Sum(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return self.weight @ x["a"] + x["b"]

    model, inputs = Sum(jnp.ones(3)), {"a": INPUTS, "b": np.arange(NUM) / 2}
    for targets in ([0.0] * NUM, (0.0,) * NUM):
        landscape = ss.EmpiricalRisk(model, inputs, targets, ss.squared_error)
        expected = np.mean((INPUTS.sum(axis=1) + np.arange(NUM) / 2) ** 2) / 2
        np.testing.assert_allclose(landscape.loss(landscape.initial), expected, rtol=1e-13)
    with pytest.raises(ValueError, match=r"inputs\['b'\] \(5,\)"):
        ss.EmpiricalRisk(model, inputs | {"b": np.ones(5)}, [0.0] * NUM, ss.squared_error)
    with pytest.raises(ValueError, match=r"targets\['y'\] has 6 entries that are NaN"):
        ss.EmpiricalRisk(model, inputs, {"y": np.full(NUM, np.nan)}, ss.squared_error)
