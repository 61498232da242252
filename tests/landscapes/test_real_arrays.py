"""Numbers that enter the library stay what they are, or are refused by name."""

import itertools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd._checks import (
    as_float64,
    as_real,
    check_fraction,
    check_non_negative,
    check_number,
    real_array,
)
from sde_sgd.identify import PolynomialBasis

NUM = 6
LABELS = np.arange(NUM) % 3


class Scaled(eqx.Module):
    """W (pixels/255), of W's dtype: uint8/255 alone is float32 in JAX."""

    weight: jax.Array

    def __call__(self, pixels):
        return self.weight @ (pixels.astype(self.weight.dtype) / 255)


class Transformer(eqx.Module):
    """Five tokens, two layers of attention, three classes from the mean over the sequence."""

    embedding: eqx.nn.Embedding
    layers: list[jax.Array]
    head: jax.Array

    def __init__(self):
        self.embedding = eqx.nn.Embedding(weight=jax.device_put(normal(0, 5, 2)))
        self.layers = [jax.device_put(normal(i, 2, 2)) for i in (1, 2)]
        self.head = jax.device_put(normal(3, 3, 2))

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        for layer in self.layers:
            x = jnp.tanh(x + jax.nn.softmax(x @ layer @ x.T) @ x)
        return self.head @ x.mean(axis=0)


@eqx.filter_jit
def hand_written_step(model, tokens, label):
    """θ − 0.3 ∇(−log softmax(model(tokens))_label)."""
    gradient = eqx.filter_grad(lambda m: -jax.nn.log_softmax(m(tokens))[label])(model)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.3 * g, gradient))


def test_sgd_trains_a_transformer_on_tokens():
    """Three steps with B = 1 of N = 2 end at one of the 2³ products of hand-written steps."""
    model = Transformer()
    tokens, labels = np.array([[0, 3, 4], [1, 1, 2]], np.int32), np.array([2, 0], np.uint8)
    landscape = ss.EmpiricalRisk(model, tokens, labels, ss.cross_entropy)
    assert landscape.data[0].dtype == np.int32
    assert landscape.dtype == np.float64
    run = ss.simulate(
        ss.SGD(landscape, 0.3, ss.WithReplacement(1)),
        landscape.initial,
        num_steps=3,
        ensemble_size=8,
        key=jr.key(1),
    )
    by_hand = {(): model}
    for length in (1, 2, 3):
        for path in itertools.product((0, 1), repeat=length):
            i = path[-1]
            by_hand[path] = hand_written_step(by_hand[path[:-1]], tokens[i], int(labels[i]))
    ends = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(eqx.filter(m, eqx.is_array))])
        for path, m in by_hand.items()
        if len(path) == 3
    ]
    gaps = np.abs(np.asarray(run.positions)[:, None] - np.stack(ends)).max(axis=2)
    assert gaps.min(axis=1).max() < 1e-12
    assert len(set(gaps.argmin(axis=1))) > 1


def test_a_float32_model_takes_int64_tokens():
    """The parameters' dtype is the landscape's, whatever the integers are."""
    model = Scaled(jax.device_put(np.ones((3, 2), np.float32)))
    landscape = ss.EmpiricalRisk(model, np.ones((NUM, 2), np.int64), LABELS, ss.cross_entropy)
    assert landscape.dtype == landscape.loss(landscape.initial).dtype == np.float32


@pytest.mark.parametrize("kind", [np.uint8, np.int16, bool])
def test_integer_inputs_reach_the_model_as_they_are(kind):
    """ℓ_i of uint8 pixels = ℓ_i of the same numbers as floats, in a model that scales them."""
    pixels = np.random.default_rng(0).integers(0, 256, (NUM, 4)).astype(kind)
    model = Scaled(jax.device_put(normal(0, 3, 4)))
    landscape = ss.EmpiricalRisk(model, pixels, LABELS, ss.cross_entropy)
    assert landscape.data[0].dtype == kind
    floats = ss.EmpiricalRisk(model, pixels.astype(float), LABELS, ss.cross_entropy)
    theta = landscape.initial
    np.testing.assert_allclose(
        landscape.example_losses(theta), floats.example_losses(theta), rtol=1e-14
    )


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (np.int8, 128),
        (np.int8, 200),
        (np.uint8, 200),
        (np.uint8, 256),
        (np.uint8, 300),
        (np.int16, 300),
        (np.uint32, 300),
        (np.uint64, 300),
        (bool, 2),
    ],
)
def test_labels_of_every_width_count_the_same_classes(kind, classes):
    """ℓ = log Σ_c e^{z_c} − z_y for every type that can hold the label y."""
    last = min(classes - 1, 1 if kind is bool else np.iinfo(kind).max)
    labels = np.array([0, last // 2, last]).astype(kind)
    logits = np.linspace(-1.0, 1.0, classes)
    model = Scaled(jax.device_put(logits[:, None]))
    landscape = ss.EmpiricalRisk(model, np.full((3, 1), 255), labels, ss.cross_entropy)
    exact = np.log(np.exp(logits).sum()) - logits[labels.astype(int)]
    losses = landscape.example_losses(landscape.initial)
    np.testing.assert_allclose(losses, exact, rtol=1e-12)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.int64, list])
def test_logistic_labels_of_every_type(kind):
    """Labels 0, 1 of any numeric type are one landscape."""
    labels = np.arange(NUM) % 2
    given = labels.tolist() if kind is list else labels.astype(kind)
    landscape = ss.LogisticRegression(normal(0, NUM, 2), given)
    assert landscape.num_classes == 2
    assert landscape.data[1].dtype == np.int32
    np.testing.assert_array_equal(landscape.data[1], labels)


@pytest.mark.parametrize(
    ("labels", "num_classes", "match"),
    [
        (np.arange(NUM) % 2 + 1, None, "they are 1, 2. Renumber.*num_classes="),
        (2 * (np.arange(NUM) % 2), None, "they are 0, 2"),
        (2**32 + np.arange(NUM) % 2, 2, "4294967296, 4294967297 and num_classes=2"),
        (np.arange(NUM) % 2, 2.5, "num_classes must be an integer ≥ 2; got 2.5"),
        (np.arange(NUM) % 2, True, "num_classes must be an integer ≥ 2; got True"),
        (np.full(NUM, np.nan), 2, "labels has 6 entries that are NaN"),
        (np.arange(NUM) % 2 + 0j, 2, "labels must be real"),
        (np.array(["cat", "dog"] * 3), 2, "labels must be real numbers, not of dtype <U3"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, num_classes, match):
    """A class without an example, a label that would wrap, a class number that would be cut."""
    with pytest.raises(ValueError, match=match):
        ss.LogisticRegression(normal(0, NUM, 2), labels, num_classes=num_classes)


def test_labels_with_a_gap_are_accepted_when_the_classes_are_told():
    """num_classes=3 makes three classes of labels 1, 2: d = 3(features + 1)."""
    landscape = ss.LogisticRegression(normal(0, NUM, 2), np.arange(NUM) % 2 + 1, num_classes=3)
    assert landscape.dimension == 9


def test_integers_become_the_same_floating_numbers_or_are_refused():
    """n is kept if n = fl(n): 2²⁴ + 2 and 2⁶² in float32, not 2²⁴ + 1; nor 2⁵³ + 1 in float64."""
    kept = np.array([2**24 + 2, -(2**24), 2**62, -(2**63)])
    np.testing.assert_array_equal(np.asarray(as_real("x", kept, np.float32)).astype(int), kept)
    for dtype, number in ((np.float32, 2**24 + 1), (np.float64, 2**53 + 1), (None, -(2**53) - 1)):
        with pytest.raises(ValueError, match=f"x has 1 integers that float.*first is {number}"):
            as_real("x", np.array([1, number]), dtype)
    with pytest.raises(ValueError, match=r"inputs has 6 integers.*9007199254740993"):
        ss.LeastSquares(np.full((NUM, 1), 2**53 + 1), np.ones(NUM))
    landscape = ss.LeastSquares(np.arange(NUM, dtype=np.uint8)[:, None], np.arange(NUM))
    assert landscape.data[0].dtype == landscape.data[1].dtype == np.float64


def test_wide_integers_are_not_wrapped_where_jax_has_32_bits():
    """Without 64-bit numbers 2³² + 1 would be 1."""
    with jax.enable_x64(False), pytest.raises(ValueError, match="1 integers that int32 cannot"):
        real_array("tokens", np.array([3, 2**32 + 1]))


def test_masks_without_masked_entries_are_arrays():
    """A masked array loses its mask only if that hides nothing."""
    np.testing.assert_array_equal(as_float64("x", np.ma.masked_array([1, 2])), [1.0, 2.0])
    with pytest.raises(ValueError, match="x has 1 masked entries"):
        as_float64("x", [np.ma.masked_array([1, 2], [True, False]), np.ones(2)])


@pytest.mark.parametrize("kind", [np.float16, jnp.bfloat16])
def test_half_precision_is_refused(kind):
    """Data, parameters and starts are float32 or float64; what is cast to float64 may be less."""
    half = jnp.ones((NUM, 2), kind)
    message = "must be float32 or float64, not b?float16"
    with pytest.raises(ValueError, match=f"inputs {message}"):
        ss.LeastSquares(half, half[:, 0])
    with pytest.raises(ValueError, match=f"parameters {message}"):
        ss.EmpiricalRisk(Scaled(half[:3]), np.ones((NUM, 2), int), LABELS, ss.cross_entropy)
    with pytest.raises(ValueError, match=f"theta0 {message}"):
        ss.simulate(sgd(), half[0], num_steps=1, ensemble_size=2, key=jr.key(0))
    np.testing.assert_array_equal(as_float64("x", half), np.ones((NUM, 2)))


def least_squares():
    return ss.LeastSquares(normal(0, NUM, 2), normal(1, NUM))


def sgd():
    return ss.SGD(least_squares(), 0.1, ss.WithReplacement(2))


def start(theta0):
    return ss.simulate(sgd(), theta0, num_steps=1, ensemble_size=2, key=jr.key(0))


def risk(inputs, targets):
    model = Scaled(jax.device_put(np.ones(2)))
    return ss.EmpiricalRisk(model, inputs, targets, ss.squared_error)


# name in the message: (shape of the array, what is called with it)
DOORS = {
    "inputs": ((NUM, 2), lambda x: ss.LeastSquares(x, np.ones(NUM))),
    "targets": ((NUM,), lambda x: ss.LeastSquares(np.ones((NUM, 2)), x)),
    "inputs of a model": ((NUM, 2), lambda x: risk(x, np.ones(NUM))),
    "targets of a model": ((NUM,), lambda x: risk(np.ones((NUM, 2)), x)),
    "inputs of classes": ((NUM, 2), lambda x: ss.LogisticRegression(x, LABELS)),
    "l2": ((), lambda x: check_non_negative("l2", x, np.float64)),
    "feature_covariance": ((2, 2), lambda x: ss.landscapes.PopulationLeastSquares(x, 1.0)),
    "minimum": ((2,), lambda x: ss.landscapes.PopulationLeastSquares(np.eye(2), 1.0, x)),
    "noise_covariance": ((), lambda x: ss.double_well(x)),
    "hessian": ((2, 2), lambda x: ss.quadratic(x, 1.0)),
    "anchor": ((2,), lambda x: ss.landscapes.ControlVariate(least_squares(), x)),
    "covariance": ((2, 2), lambda x: ss.ConstantNoise(x)),
    "scale": ((), lambda x: ss.HessianNoise(x)),
    "learning_rate": ((), lambda x: ss.SGD(least_squares(), x, ss.WithReplacement(2))),
    "momentum": ((), lambda x: check_fraction("momentum", x)),
    "number": ((), lambda x: check_number("number", x)),
    "theta0": ((2,), start),
    "levels": ((2,), lambda x: ss.measure.TailRatios(x)),
    "Histogram: edges": ((3,), lambda x: ss.Histogram(edges=x)),
    "centre": ((2,), lambda x: ss.measure.ArealVelocity(centre=x)),
    "samples": ((40,), lambda x: ss.measure.hill_tail_index(x)),
    "samples of an estimate": ((4, 2), lambda x: ss.Estimate.from_samples(x)),
    "theta": ((2,), lambda x: ss.validity((one := sgd()).landscape, one, x, key=jr.key(0))),
    "theta of a spectrum": ((2,), lambda x: ss.curvature.eigenvalues(least_squares(), x)),
    "x": ((NUM, 2), lambda x: ss.distances.energy(x, np.ones((NUM, 2)), key=jr.key(0))),
    "predicted": ((2,), lambda x: ss.compare(ss.Estimate(np.ones(2), np.ones(2), 4), x)),
    "trajectories": ((9, 4, 1), lambda x: ss.identify.linear(x, time_step=0.1)),
    "centre of a basis": ((2,), lambda x: PolynomialBasis(2, 1, x)),
    "hessian of a linear law": (
        (2, 2),
        lambda x: theory.stationary.linear_covariance(x, np.eye(2), learning_rate=0.1),
    ),
    "spacing": ((2,), lambda x: theory.matrices.wigner_surmise(x)),
}


def refused(door, value):
    name, (_, call) = door.split(" of ")[0], DOORS[door]
    with pytest.raises(ValueError, match=name) as error:
        call(value)
    return str(error.value)


@pytest.mark.parametrize("door", DOORS)
def test_complex_numbers_are_refused_by_name(door):
    """The imaginary part is not dropped, at any door."""
    value = np.full(DOORS[door][0], 0.5 + 0.5j)
    assert "must be real, not complex128" in refused(door, value)


@pytest.mark.parametrize("door", [d for d in DOORS if DOORS[d][0]])
def test_masked_numbers_are_refused_by_name(door):
    """The numbers under a mask are not used, at any door."""
    value = np.ma.masked_array(np.full(DOORS[door][0], 0.5))
    value[(0,) * value.ndim] = np.ma.masked
    assert "1 masked entries" in refused(door, value)


@pytest.mark.parametrize("of", ["moments", "spectrum", "autocovariance"])
def test_complex_values_of_a_function_are_refused(of):
    """of(θ) = θ + i is no real observable."""
    measures = {
        "moments": lambda: ss.Moments(of=lambda theta: theta + 1j),
        "spectrum": lambda: ss.Spectrum(lambda theta: jnp.outer(theta, theta) + 1j),
        "autocovariance": lambda: ss.Autocovariance(of=lambda theta: theta + 1j, lags=[0, 1]),
    }
    with pytest.raises(ValueError, match=r"must be real, not complex128"):
        ss.simulate(
            sgd(),
            jnp.ones(2),
            num_steps=2,
            ensemble_size=2,
            key=jr.key(0),
            measures={"m": measures[of]()},
        )


class Reader(eqx.Module):
    """A model of one token."""

    table: eqx.nn.Embedding

    def __call__(self, token):
        return self.table(token).sum()


def test_tokens_without_a_row_are_warned_of_and_floats_are_refused():
    """An Embedding of 4 rows: 0…3 pass, 4 and −1 warn, 1.0 and what is no model are refused."""
    model, targets = Reader(eqx.nn.Embedding(4, 2, key=jr.key(0))), np.zeros(3)

    def make(tokens, model=model):
        return ss.EmpiricalRisk(model, np.asarray(tokens), targets, ss.squared_error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make([0, 1, 3])
    for tokens, told in (([0, 1, 4], r"integers 0…4.*rows 0…3"), ([-1, 0, 1], "integers -1…1")):
        with pytest.warns(UserWarning, match=told):
            make(tokens)
    with pytest.raises(ValueError, match="The model raised.*dtype float64.*takes integers"):
        make([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="must be an Equinox module that is called on one input"):
        make([0, 1, 2], model=np.zeros(3))
