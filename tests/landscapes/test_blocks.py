"""Block by block as in one pass: values, derivatives of two orders, and less memory."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tools import call, normal

from sde_sgd.landscapes import blocks, EmpiricalRisk, squared_error
from sde_sgd.landscapes.blocks import fitting_block, map_blocks, sum_blocks
from sde_sgd.memory import peak_bytes

NUM = 10
INPUTS, TARGETS, WEIGHTS = normal(1, NUM, 2), normal(2, NUM), normal(3, NUM)
POINTS = normal(4, 3, 2)


def values(theta, data):
    """tanh(θ·x) y², two numbers an example."""
    inputs, targets = data
    first = jnp.tanh(inputs @ theta) * targets**2
    return jnp.stack([first, first * theta[0]], axis=1)


def found(theta, data, weights, size):
    """Mapped and summed, and derivatives of both, at a point."""

    def mapped(x):
        return map_blocks(lambda some: values(x, some), data, size)

    def summed(x, w):
        def add(some, own):
            return {"sum": own @ values(x, some), "square": jnp.sum(own * some[1] ** 2)}

        return sum_blocks(add, data, w, size)

    def scalar(x, w):
        return summed(x, w)["sum"] @ jnp.array([1.0, -2.0]) + jnp.sum(mapped(x) ** 2)

    return (
        mapped(theta),
        summed(theta, weights),
        jax.grad(scalar, argnums=(0, 1))(theta, weights),
        jax.hessian(scalar)(theta, weights),
    )


def many(size):
    data = (jnp.asarray(INPUTS), jnp.asarray(TARGETS))
    return call(
        lambda points, weights: jax.vmap(lambda x: found(x, data, weights, size))(points),
        POINTS,
        WEIGHTS,
    )


def test_blocks_are_one_pass():
    """Values, ∇ and ∇² of maps and sums, of three points at once: 10 = 4 + 4 + 2 examples."""
    one_pass = many(NUM)
    inner = np.tanh(POINTS @ INPUTS.T) * TARGETS**2
    np.testing.assert_allclose(one_pass[0][..., 0], inner, rtol=1e-12)
    np.testing.assert_allclose(one_pass[1]["sum"][:, 0], inner @ WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(one_pass[1]["square"], WEIGHTS @ TARGETS**2, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), many(4), one_pass
    )


def test_few_rows_of_a_block_are_not_counted_twice():
    """N = 7 in blocks of 3: Σ w_i i, and i for each i, exactly."""
    rows, weights = np.arange(7.0), 2.0 ** np.arange(7)
    sizes = (1, 2, 3, 5, 7, 8)

    def of_each_size(i, w):
        return [
            (sum_blocks(lambda some, own: some @ own, i, w, n), map_blocks(jnp.square, i, n))
            for n in sizes
        ]

    for total, squares in call(of_each_size, rows, weights):
        assert total == rows @ weights
        assert squares.tolist() == (rows**2).tolist()


# The size of a block


def risk(**options):
    model = eqx.nn.MLP(2, "scalar", 4, 1, activation=jnp.tanh, key=jr.key(2))
    return EmpiricalRisk(model, INPUTS, TARGETS, squared_error, **options)


@functools.cache
def whole():
    return risk()


@functools.cache
def cut():
    return risk(example_block=4)


def test_a_small_network_has_all_its_examples_at_once():
    """256 MB hold 10 examples of 17 parameters; asked for less, it holds less."""
    assert (whole().example_block, cut().example_block) == (NUM, 4)
    assert risk(example_block=np.int32(4)).example_block == 4


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "all"])
def test_a_block_is_an_integer(size):
    """example_block ≥ 1."""
    with pytest.raises(ValueError, match="example_block must be an integer ≥ 1; got"):
        risk(example_block=size)


def test_eight_members_share_the_memory(monkeypatch):
    """n examples of b bytes each fit for eight members when 8nb ≤ the bytes of a step."""

    def gradient(theta, data, weights):
        return weights @ jnp.exp(data)  # 8·5 bytes an example

    arguments = (gradient, jax.ShapeDtypeStruct((5,), np.dtype(float)))
    for room, size in ((8 * 40 * 6, 6), (8 * 40 * 6 - 1, 5), (0, 1), (2**30, 20)):
        monkeypatch.setattr(blocks, "working_bytes", lambda room=room: room)
        assert fitting_block(*arguments, jnp.zeros((20, 5))) == size


def test_the_size_of_a_block_does_not_change_a_risk():
    """L, ∇L and minibatch gradients of blocks of 4 are those of one pass, to rounding."""
    drawn = jnp.array([0, 3, 3, 9, 1, 2])

    def all_of(landscape, theta):
        return (
            landscape.example_losses(theta),
            landscape.gradient(theta),
            landscape.minibatch_loss(theta, drawn),
            landscape.minibatch_gradient(theta, drawn),
        )

    theta = np.asarray(whole().initial)
    for a, b in zip(call(all_of, cut(), theta), call(all_of, whole(), theta), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_blocked_gradient_holds_one_block():
    """1000 examples of 50 activations: ∇ and ∇²·v of blocks of 10 peak below 1/20."""
    data, weights = jax.ShapeDtypeStruct((1000, 1), np.dtype(float)), jnp.ones(1000)
    theta = jax.ShapeDtypeStruct((50,), np.dtype(float))

    def bytes_of(size, derivative):
        def total(x, rows):
            def add(some, own):
                return own @ jnp.sum(jnp.tanh(some * x), axis=1)

            return sum_blocks(add, rows, weights, size)

        return peak_bytes(derivative(total), theta, data)

    def second(f):
        return lambda x, rows: jax.jvp(lambda y: jax.grad(f)(y, rows), (x,), (x,))

    for derivative in (jax.grad, second):
        assert bytes_of(1000, derivative) > 8 * 1000 * 50
        assert bytes_of(10, derivative) < bytes_of(1000, derivative) / 20
