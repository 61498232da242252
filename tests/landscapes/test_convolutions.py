"""Convolutions are computed channels last, inside loops too, and give the same numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import sde_sgd as ss
from sde_sgd.landscapes.convolutions import channels_last, convolves, patch_bytes


class Network(eqx.Module):
    """A strided grouped convolution, and a dilated transposed one."""

    first: eqx.nn.Conv2d
    back: eqx.nn.ConvTranspose2d

    def __init__(self, key):
        keys = jr.split(key)
        self.first = eqx.nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, key=keys[0])
        self.back = eqx.nn.ConvTranspose2d(4, 3, 2, stride=2, dilation=2, key=keys[1])

    def __call__(self, image):
        return self.back(jnp.tanh(self.first(image))).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def risk():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 2, 5, 5)), rng.integers(0, 3, 6)
    return ss.EmpiricalRisk(Network(jr.key(1)), images, labels, ss.cross_entropy, example_block=4)


def test_losses_and_derivatives_are_those_of_the_network_as_it_stands(risk):
    """ℓ_i, ∇L, ∇²L v, J and ĝ_B equal those of `losses` without any rewriting."""
    theta = risk.initial
    direction = jnp.cos(jnp.arange(len(theta), dtype=theta.dtype))

    members = jnp.stack([theta, 0.5 * theta])
    batches = jnp.array([[0, 3, 3], [5, 1, 2]])

    @jax.jit
    def found(x):
        product = risk.hessian_vector_product(x, direction)
        steps = jax.vmap(risk.minibatch_gradient)(members, batches)
        return risk.example_losses(x), risk.gradient(x), product, risk.example_gradients(x), steps

    @jax.jit
    def wanted(x):
        def loss(x):
            return risk.losses(x, risk.data).mean()

        def batch_loss(x, batch):
            return risk.losses(x, risk.data)[batch].mean()

        product = jax.jvp(jax.grad(loss), (x,), (direction,))[1]
        jacobian = jax.jacrev(lambda x: risk.losses(x, risk.data))(x)
        steps = jax.vmap(jax.grad(batch_loss))(members, batches)
        return risk.losses(x, risk.data), jax.grad(loss)(x), product, jacobian, steps

    for one, other in zip(found(theta), wanted(theta), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * float(jnp.abs(other).max()))


def layouts(jaxpr):
    """Where convolutions of a program, its loops included, have batch and channels."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            numbers = equation.params["dimension_numbers"]
            yield numbers.lhs_spec[:2], numbers.out_spec[:2], numbers.rhs_spec[:2]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from layouts(inner)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the layout of a CPU")
def test_every_convolution_of_a_step_is_channels_last(risk):
    """b01f, 01io -> b01f: what XLA's fast routine takes, for gradients and their derivatives."""
    theta = risk.initial
    members, batches = jnp.stack([theta, theta]), jnp.zeros((2, 3), int)
    programs = [
        jax.make_jaxpr(risk.gradient)(theta),
        jax.make_jaxpr(risk.loss)(theta),
        jax.make_jaxpr(lambda v: risk.hessian_vector_product(theta, v))(theta),
        jax.make_jaxpr(jax.vmap(risk.minibatch_gradient))(members, batches),
        jax.make_jaxpr(risk.example_gradients)(theta),
    ]
    for program in programs:
        found = list(layouts(program.jaxpr))
        assert len(found) >= 2
        for lhs, out, rhs in found:
            assert lhs == out == (0, 3) and rhs == (3, 2)


def test_a_program_without_convolutions_is_left_alone():
    """The same program, equation by equation, from one trace of the function."""

    traces = []

    def product(x):
        traces.append(x)
        return jnp.sin(x) @ x

    x = jnp.arange(3.0)
    rewritten = jax.make_jaxpr(channels_last(product))(x)
    assert len(traces) == 1
    assert not convolves(rewritten.jaxpr)
    assert str(rewritten) == str(jax.make_jaxpr(product)(x))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a rule for a CPU")
def test_members_of_a_convolutional_network_move_one_by_one(risk):
    """Chunks of one member, and the numbers of chunks of three, bit for bit up to rounding."""
    sgd = ss.SGD(risk, learning_rate=0.1, sampling=ss.WithReplacement(2))
    common = dict(num_steps=3, ensemble_size=3, key=jr.key(0), progress=False)
    alone = ss.simulate(sgd, risk.initial, **common)
    assert alone._engine.plan.chunk_size == 1
    together = ss.simulate(sgd, risk.initial, chunk_size=3, **common)
    np.testing.assert_allclose(alone.positions, together.positions, rtol=0, atol=1e-13)


def test_patches_of_a_convolution():
    """2 images × 4·4 places × (3·3 window × 1 channel) × 4 bytes, whatever the outputs; in a loop.

    An input with holes (a transposed convolution) has no such patches.
    """
    image, kernel = jnp.ones((2, 1, 6, 6), jnp.float32), jnp.ones((5, 1, 3, 3), jnp.float32)

    def looped(x):
        return lax.fori_loop(
            0,
            3,
            lambda _, y: y + lax.conv(x, kernel, (1, 1), "VALID"),
            0.0 * jnp.ones((2, 5, 4, 4), jnp.float32),
        )

    def transposed(x):
        return lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2))

    assert patch_bytes(jax.make_jaxpr(looped)(image).jaxpr) == 2 * 16 * 9 * 4
    assert patch_bytes(jax.make_jaxpr(transposed)(image).jaxpr) == 0
