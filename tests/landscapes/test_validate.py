"""What the landscapes refuse, each with its reason."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import normal

from sde_sgd.landscapes import cross_entropy, EmpiricalRisk, LeastSquares, LogisticRegression

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
        r"one float64 scalar an example; got shape \(3,\)",
    ),
    "model_dtype": (
        lambda: EmpiricalRisk(mlp(dtype=jnp.float32), inputs(2), labels(3), cross_entropy),
        "parameters are float32, inputs are float64",
    ),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()


def test_dropout_that_is_switched_off_is_accepted():
    """eqx.nn.inference_mode(model) is stateless and deterministic."""
    model = eqx.nn.inference_mode(dropout_model())
    landscape = EmpiricalRisk(model, inputs(2), labels(3), cross_entropy)
    assert bool(jnp.isfinite(landscape.loss(landscape.initial)))


def test_a_landscape_keeps_its_data_when_the_array_changes():
    """Inputs and targets are copies, also of arrays that lie as a device would lay them."""
    memory = np.zeros(8 * 6 + 64, np.uint8)
    first = -memory.ctypes.data % 64
    aligned = memory[first : first + 8 * 6].view(float).reshape(6, 1)
    aligned[:] = np.arange(6.0)[:, None]
    landscape = LeastSquares(aligned, aligned[:, 0])
    aligned[:] = 7.0
    np.testing.assert_array_equal(landscape.data[0], np.arange(6.0)[:, None])
    np.testing.assert_array_equal(landscape.data[1], np.arange(6.0))
