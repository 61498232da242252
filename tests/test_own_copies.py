"""What is given an array keeps a copy: a later change of the array changes nothing."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_sgd as ss


def aligned(values):
    """A NumPy array at a multiple of 64 bytes, whose memory JAX shares on a CPU."""
    values = np.asarray(values, float)
    room = np.zeros(values.size * 8 + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + values.size * 8].view(float).reshape(values.shape)
    array[...] = values
    return array


def first(x):
    return x[0]


def loss(parameters, x):
    return jnp.sum(parameters * x)


EDGES, MATRIX, POINTS = [1.0, 2.0, 4.0], [[2.0, 0.5], [0.5, 1.0]], [[1.0, 2.0], [3.0, 4.0]]
WR = ss.WithReplacement(1)
# A constructor and the arrays that it is given.
CASES = {
    "Histogram": (ss.Histogram, [EDGES]),
    "joint Histogram": (lambda x, y: ss.Histogram([x, y]), [EDGES, EDGES]),
    "TailRatios": (ss.measure.TailRatios, [EDGES]),
    "Spectrum": (lambda edges: ss.Spectrum(jnp.diag, edges=edges), [EDGES]),
    "ConditionalIncrements": (lambda edges: ss.ConditionalIncrements(first, edges), [EDGES]),
    "ArealVelocity": (lambda centre: ss.measure.ArealVelocity(centre=centre), [[1.0, 2.0]]),
    "PolynomialBasis": (lambda centre: ss.identify.PolynomialBasis(2, 2, centre), [[1.0, 2.0]]),
    "Estimate": (lambda v, e: ss.Estimate(v, e, 3), [EDGES, EDGES]),
    "Gaussian": (ss.theory.laws.Gaussian, [[1.0, 2.0], MATRIX]),
    "ConstantNoise": (ss.ConstantNoise, [MATRIX]),
    "HessianNoise": (ss.HessianNoise, [0.5]),
    "LeastSquares": (ss.LeastSquares, [POINTS, [1.0, 2.0]]),
    "Potential": (lambda c: ss.Potential(first, c), [MATRIX]),
    "quadratic": (ss.quadratic, [MATRIX, MATRIX, [1.0, 2.0]]),
    "SGD": (
        lambda eta: ss.SGD(ss.quadratic(1.0, 1.0), eta, WR),
        [0.1],
    ),
    "ModifiedEquation": (
        lambda eta: ss.ModifiedEquation(ss.quadratic(1.0, 1.0), eta, ss.MinibatchNoise(WR)),
        [0.1],
    ),
    "SGLD": (lambda eta: ss.SGLD(ss.quadratic(1.0, 1.0), eta, WR, 0.5), [0.1]),
    "SAM": (lambda eta: ss.SAM(ss.quadratic(1.0, 1.0), eta, 0.5, WR), [0.1]),
    "label_by_nearest": (ss.landscapes.label_by_nearest, [POINTS]),
    "GaussianScore": (
        lambda h, c, mean, m: ss.theory.equations.GaussianScore(
            ss.ModifiedEquation(ss.quadratic(h, c, m), 0.1, ss.ConstantNoise(c)).limit(),
            ss.theory.laws.Gaussian(mean, c),
        ),
        [MATRIX, MATRIX, [1.0, 2.0], [3.0, 4.0]],
    ),
}


def numbers(value):
    """All arrays inside an object, a tuple or what a function closes over, copied."""
    if inspect.isfunction(value):
        value = inspect.unwrap(value)
        value = [c.cell_contents for c in value.__closure__ or ()]
    found = [np.array(leaf) for leaf in jax.tree.leaves(value) if hasattr(leaf, "dtype")]
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        found += [np.array(x) for x in fields if isinstance(x, np.ndarray)]
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_changed_array_changes_nothing(name):
    """numbers(f(x)) are the same after x ← 10 x, for arrays that JAX could share."""
    make, values = CASES[name]
    given = [aligned(value) for value in values]
    made = make(*given)
    before = numbers(made)
    assert before
    for array in given:
        array *= 10
    for old, new in zip(before, numbers(made), strict=True):
        np.testing.assert_array_equal(new, old)
