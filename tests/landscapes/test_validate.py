"""What the landscapes refuse, each with its reason."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

from sde_sgd.landscapes import (
    AbstractFiniteSum,
    AbstractNoiseForm,
    AbstractPopulation,
    cross_entropy,
    EmpiricalRisk,
    ExampleWeights,
    GaussianTilts,
    LeastSquares,
    LogisticRegression,
    Potential,
)
from sde_sgd.random.draws import Stream

NUM = 8


def inputs(*shape):
    return normal(1, NUM, *shape)


def labels(num_classes):
    return np.arange(NUM) % num_classes


def mlp(**options):
    return eqx.nn.MLP(2, 3, 4, 1, key=jr.key(2), **options)


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear


def stateful_pair():
    norm = eqx.nn.BatchNorm(2, "batch", mode="batch")
    return Stateful(norm, eqx.nn.Linear(2, 3, key=jr.key(0)))


def stateful_model():
    return eqx.nn.make_with_state(stateful_pair)()[0]


def dropout_model():
    return eqx.nn.Sequential([eqx.nn.Linear(2, 3, key=jr.key(0)), eqx.nn.Dropout(0.5)])


def spectral_model():
    layer = eqx.nn.SpectralNorm
    model, _ = eqx.nn.make_with_state(
        lambda: layer(eqx.nn.Linear(2, 3, key=jr.key(0)), "weight", key=jr.key(1))
    )()
    return eqx.nn.Sequential([model])


NAN = jnp.ones((NUM, 2)).at[3, 1].set(jnp.nan)
BAD = {
    "nan": (lambda: LeastSquares(NAN, jnp.ones(NUM)), r"inputs has 1 entries.*\(3, 1\)"),
    "infinite": (lambda: LeastSquares(inputs(2), jnp.full(NUM, jnp.inf)), "targets has 8"),
    "lengths": (lambda: LeastSquares(inputs(2), jnp.ones(7)), r"\(8, 2\) and \(7,\)"),
    "empty": (lambda: LeastSquares(jnp.ones((0, 2)), jnp.ones(0)), "N = 0"),
    "target_rank": (lambda: LeastSquares(inputs(2), jnp.ones((NUM, 1))), r"shape \(N,\)"),
    "input_rank": (lambda: LeastSquares(inputs(), jnp.ones(NUM)), r"inputs \(N, d\)"),
    "dtypes": (
        lambda: LeastSquares(inputs(2).astype(jnp.float32), jnp.ones(NUM)),
        "inputs are float32, targets are float64: cast",
    ),
    "negative_l2": (lambda: LeastSquares(inputs(2), jnp.ones(NUM), l2=-1.0), "l2 must be.*-1.0"),
    "one_class": (lambda: LogisticRegression(inputs(2), jnp.zeros(NUM)), "they are 0"),
    "negative_label": (lambda: LogisticRegression(inputs(2), labels(2) - 1), "they are -1, 0"),
    "large_label": (
        lambda: LogisticRegression(inputs(2), labels(3), num_classes=2),
        "got labels 0, 1, 2 and num_classes=2",
    ),
    "fractional_label": (lambda: LogisticRegression(inputs(2), labels(2) / 2), "must be integers"),
    "logistic_inputs": (
        lambda: LogisticRegression(inputs(2, 2), labels(2)),
        r"inputs \(N, features\)",
    ),
    "batch_norm": (
        lambda: EmpiricalRisk(stateful_model(), inputs(2), labels(2), cross_entropy),
        "BatchNorm carries running state.*no finite sum",
    ),
    "spectral_norm_in_a_sequential": (
        lambda: EmpiricalRisk(spectral_model(), inputs(2), labels(3), cross_entropy),
        "SpectralNorm carries running state",
    ),
    "dropout": (
        lambda: EmpiricalRisk(dropout_model(), inputs(2), labels(2), cross_entropy),
        "active dropout.*inference_mode",
    ),
    "no_parameters": (
        lambda: EmpiricalRisk(eqx.nn.Identity(), inputs(2), labels(2), cross_entropy),
        "nothing to train",
    ),
    "vector_loss": (
        lambda: EmpiricalRisk(mlp(), inputs(2), labels(3), lambda p, y: p - y),
        r"example_loss must return one float64 scalar; got shape \(3,\)",
    ),
    "model_dtype": (
        lambda: EmpiricalRisk(mlp(dtype=jnp.float32), inputs(2), labels(3), cross_entropy),
        "The model's arrays are float32, inputs are float64: cast them all to float32 or all to",
    ),
    "half_model": (
        lambda: EmpiricalRisk(mlp(dtype=jnp.bfloat16), inputs(2), labels(3), cross_entropy),
        "The model's parameters must be float32 or float64, not bfloat16",
    ),
    "words": (
        lambda: EmpiricalRisk(mlp(), inputs(2), np.array(["a", "b"] * 4), cross_entropy),
        r"targets must be real numbers, not of dtype <U1: number classes by np.unique\(targets",
    ),
    "ragged": (lambda: LeastSquares([[1.0], [2.0, 3.0]], [1.0, 2.0]), "rows of different lengths"),
    "nothing": (lambda: LeastSquares(None, jnp.ones(NUM)), "inputs must be an array.*got None"),
}


class Raising(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        raise RuntimeError("of the model's own\nwith a second line")


def risk(loss):
    return EmpiricalRisk(mlp(), inputs(2), labels(3), loss)


def potential(energy):
    return Potential(energy, np.eye(2))


class Sums(AbstractFiniteSum):
    """ℓ_i = f(θ, x_i) in one dimension."""

    data: jax.Array
    function: Callable
    noise_form: AbstractNoiseForm = ExampleWeights()

    @property
    def dimension(self):
        return 1

    def losses(self, theta, data):
        return self.function(theta, data)


class Fresh(AbstractPopulation):
    """½θ² + xθ in one dimension, with a root that may be none."""

    root: tuple[int, ...] = (1, 1)
    draws: tuple[int, ...] = ()

    @property
    def dimension(self):
        return 1

    def loss(self, theta):
        return 0.5 * jnp.sum(theta**2)

    def example_loss(self, theta, example):
        return 0.5 * jnp.sum(theta**2) + jnp.sum(example * theta)

    def covariance_root(self, theta):
        return jnp.ones(self.root, theta.dtype)

    def draw_examples(self, draws, batch_size):
        return draws.normal((*self.draws, batch_size, 1), Stream.BATCH, self.dtype)


FUNCTIONS = {
    "auxiliary": (
        lambda: risk(lambda p, y: (cross_entropy(p, y), {})),
        r"example_loss must return one scalar alone; it returned a tuple of 2: pass .*\[0\]",
    ),
    "no_return": (lambda: risk(lambda p, y: None), "must return numbers; it returned None"),
    "branch": (
        lambda: risk(lambda p, y: p[0] if p[0] > 0 else p[1]),
        "example_loss is compiled.*jnp.where",
    ),
    "or": (lambda: potential(lambda x: x[0] or x[1]), "energy is compiled.*[|] and ~"),
    "mask": (lambda: potential(lambda x: x[x > 0].sum()), "energy is compiled.*jnp.where"),
    "math": (lambda: potential(lambda x: math.sin(x[0])), "energy is compiled.*use jnp"),
    "numpy": (
        lambda: GaussianTilts(lambda x: np.sin(x).sum(), np.eye(2)),
        "energy is compiled.*use jnp",
    ),
    "raising_model": (
        lambda: EmpiricalRisk(Raising(jnp.ones(2)), inputs(2), labels(3), cross_entropy),
        r"The model raised RuntimeError when it was called on shape \(2,\) and dtype float64: of "
        r"the model's own\. Give the inputs",
    ),
    "raising_loss": (
        lambda: risk(lambda p: p.sum()),
        "example_loss raised TypeError when .*takes 1 positional argument",
    ),
    "no_function": (lambda: potential(3.0), "energy must be a function, such as lambda.*got 3.0"),
    "no_loss": (lambda: risk("mse"), "example_loss must be a function.*got 'mse'"),
    "energy_shape": (lambda: potential(lambda x: x), r"energy must return one float64 scalar"),
    "sum_of_losses": (
        lambda: Sums(jnp.ones(3), lambda theta, data: jnp.sum(theta * data)),
        r"Sums.losses\(theta, data\) of 2 rows must give shape \(2,\) and dtype float64; got",
    ),
    "integers_alone": (
        lambda: Sums(jnp.arange(3), lambda theta, data: theta * data),
        "data of Sums have no floating array.*dtype",
    ),
    "no_rows": (
        lambda: Sums(jnp.ones(()), lambda theta, data: theta * data),
        "data of Sums must be arrays with one leading axis",
    ),
    "root": (lambda: Fresh(root=(1,)), r"Fresh.covariance_root must give shape \(1, 1\)"),
    "draws": (lambda: Fresh(draws=(3,)), r"Fresh.draw_examples.*must give arrays \(members, B"),
}


@pytest.mark.parametrize(("make", "match"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_users_function_is_named_when_it_fails(make, match):
    """One sentence says whose fault it is, and the way out."""
    with pytest.raises(ValueError, match=match):
        make()


def test_a_class_of_the_users_own_that_fits_is_accepted():
    """ℓ_i = x_iθ, and a population in one dimension."""
    landscape = Sums(jnp.ones(3), lambda theta, data: theta[0] * data)
    assert (landscape.dimension, Fresh().dimension) == (1, 1)
    assert float(landscape.loss(jnp.array([2.0]))) == 2.0


@pytest.mark.parametrize("name", ["loss", "gradient", "hessian", "covariance_root"])
def test_the_point_is_checked(name):
    """L and its derivatives at a θ of another length."""
    landscape = LeastSquares(inputs(2), jnp.ones(NUM))
    with pytest.raises(ValueError, match=r"theta must have shape \(2,\), got \(3,\)"):
        getattr(landscape, name)(jnp.ones(3))
