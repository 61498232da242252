"""What a careful user would write by hand: the peers of `throughput`."""

from collections.abc import Callable

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
from jax import lax

from sde_sgd.landscapes import AbstractFiniteSum


def by_hand_increments(shape: tuple[int, int]) -> Callable:
    """x ← x − .01 x + .1 ξ, one `fold_in` and one `normal` a step."""

    @jax.jit
    def scan(key, x, steps):
        def body(k, x):
            return x - 0.01 * x + 0.1 * jr.normal(jr.fold_in(key, k), shape, x.dtype)

        return lax.fori_loop(0, steps, body, x)

    return scan


def by_hand_sgd(landscape: AbstractFiniteSum, eta: float, batch: int) -> Callable:
    """SGD with replacement: indices, gathered batch, gradient of its mean loss, for all members."""
    data, losses, num = landscape.data, landscape.losses, landscape.num_examples

    @jax.jit
    def scan(key, theta, steps):
        def gradient(theta, index):
            chosen = jax.tree.map(lambda leaf: leaf[index], data)
            return jax.grad(lambda x: jnp.mean(losses(x, chosen)))(theta)

        def body(k, theta):
            index = jr.randint(jr.fold_in(key, k), (theta.shape[0], batch), 0, num)
            return theta - eta * jax.vmap(gradient)(theta, index)

        return lax.fori_loop(0, steps, body, theta)

    return scan


def full_gradient_scan(landscape: AbstractFiniteSum, eta: float, random_numbers: bool) -> Callable:
    """Full-batch gradient descent that also draws N normal numbers a member and step."""
    data, losses, num = landscape.data, landscape.losses, landscape.num_examples

    @jax.jit
    def scan(key, theta, steps):
        gradient = jax.vmap(jax.grad(lambda x: jnp.mean(losses(x, data))))

        def body(k, theta):
            new = theta - eta * gradient(theta)
            if random_numbers:
                z = jr.normal(jr.fold_in(key, k), (theta.shape[0], num), theta.dtype)
                # The numbers must be used, or the compiler drops them.
                new = new + 1e-12 * jnp.sum(z, axis=1, keepdims=True)
            return new

        return lax.fori_loop(0, steps, body, theta)

    return scan


def per_example_scan(landscape: AbstractFiniteSum, eta: float) -> Callable:
    """The textbook way: per-example gradients, centred, times normal numbers."""
    num = landscape.num_examples

    @jax.jit
    def scan(key, theta, steps):
        def step(theta, z):
            each = landscape.example_gradients(theta)
            mean = each.mean(axis=0)
            return theta - eta * (mean + z @ (each - mean) / jnp.sqrt(16.0 * num))

        def body(k, theta):
            z = jr.normal(jr.fold_in(key, k), (theta.shape[0], num), theta.dtype)
            return lax.map(lambda row: step(*row), (theta, z))

        return lax.fori_loop(0, steps, body, theta)

    return scan


def diffrax_tree(dim: int, members: int, steps: int, eta: float) -> Callable:
    """Ornstein–Uhlenbeck by `vmap(diffeqsolve)` with a `VirtualBrownianTree` a member."""

    def solve(key):
        path = dfx.VirtualBrownianTree(
            0.0, steps * eta, tol=eta / 2, shape=(dim,), key=key, levy_area=dfx.BrownianIncrement
        )
        scale = jnp.sqrt(jnp.float32(eta)) * jnp.ones(dim, jnp.float32)
        terms = dfx.MultiTerm(
            dfx.ODETerm(lambda t, y, args: -y),
            dfx.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(scale), path),
        )
        start = jnp.zeros(dim, jnp.float32)
        solution = dfx.diffeqsolve(
            terms,
            dfx.Euler(),
            t0=0.0,
            t1=steps * eta,
            dt0=eta,
            y0=start,
            max_steps=steps + 2,
            adjoint=dfx.ForwardMode(),
        )
        assert solution.ys is not None
        return solution.ys[-1]

    return jax.jit(lambda key: jax.vmap(solve)(jr.split(key, members)))


def torchsde_solve(dim: int, members: int, steps: int, eta: float) -> Callable[[], None] | None:
    """The same Ornstein–Uhlenbeck run by torchsde, or None where that is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import torchsde  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    class Ornstein(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return np.sqrt(eta) * torch.ones_like(y)

    times = torch.tensor([0.0, steps * eta])
    start = torch.zeros(members, dim)

    def solve() -> None:
        with torch.no_grad():
            torchsde.sdeint(Ornstein(), start, times, dt=eta, method="euler")

    return solve
