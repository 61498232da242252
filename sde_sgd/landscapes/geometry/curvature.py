"""Curvature of what was selected, without forming a matrix: Hessian and gradient covariance.

Every quantity comes from Hessian–vector products (two gradients each) or from products with the
N×d Jacobian of the example losses (one forward and one reverse pass).
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy
from jax import lax
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import (
    as_float64,
    check_callable,
    check_choice,
    check_key,
    check_landscape,
    check_number,
    check_point,
    check_whole,
    real_values,
)
from sde_sgd.estimate import Estimate
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.types import Key, RealLike

__all__ = [
    "along",
    "CurvatureAlong",
    "density",
    "Eigenvalues",
    "eigenvalues",
    "noise_eigenvalues",
    "noise_trace",
    "SpectralDensity",
    "trace",
]

_DENSE = 16


class Eigenvalues(NamedTuple):
    """Extreme eigenvalues and their eigenvectors.

    **Fields:** `values` (k,), the most extreme first; `vectors` (d, k), orthonormal columns.
    """

    values: Float[np.ndarray, " k"]
    vectors: Float[np.ndarray, "d k"]


class SpectralDensity(NamedTuple):
    """The spectral density (1/d) Σ_i δ(x − h_i) of the Hessian, as atoms of a quadrature.

    **Fields:** `nodes`, `weights` (probes, steps): Gauss quadrature of every probe vector (weights
    of a probe sum to 1, so that Σ weights·f(nodes) averaged over probes estimates tr f(H)/d).
    """

    nodes: Float[np.ndarray, "probes steps"]
    weights: Float[np.ndarray, "probes steps"]

    def moment(self, power: int) -> Estimate:
        """tr H^p/d, with the error over probes; exact within a probe up to p = 2·steps − 1."""
        return Estimate.from_samples((self.weights * self.nodes**power).sum(axis=1))

    def density(self, x: ArrayLike, width: RealLike) -> Float[np.ndarray, " n"]:
        """The density at x (n,), each atom a Gaussian of standard deviation `width`."""
        points, sigma = as_float64("x", x), float(width)
        z = (points[:, None] - self.nodes.ravel()) / sigma
        mass = self.weights.ravel() / len(self.nodes)
        return np.exp(-(z**2) / 2) @ mass / (sigma * np.sqrt(2 * np.pi))


def eigenvalues(
    landscape: AbstractLandscape,
    theta: ArrayLike,
    count: int = 1,
    *,
    which: str = "largest",
    tolerance: RealLike = 1e-9,
    max_products: int | None = None,
    on_product: Callable[[], None] | None = None,
) -> Eigenvalues:
    """The `count` largest (or smallest) eigenvalues of ∇²L(θ), by Lanczos with restarts (ARPACK).

    **Arguments:** `theta` (d,); `count` < d; `which`: "largest" or "smallest" (algebraic);
    `tolerance`: of the errors, as a share of the eigenvalue, for the smallest as a share of the
    largest |eigenvalue| (a network has many near 0, which a small tolerance must tell apart);
    `max_products` with the Hessian, which are the whole cost; `on_product` is called after each.

    **Raises:** `ValueError` for a count outside 1…d, an unknown `which`, a θ of another
    shape or not finite, and if ARPACK does not converge, or not in `max_products`.
    """
    check_choice("which", which, ("largest", "smallest"))
    point = _point(landscape, theta)

    most = None if max_products is None else check_whole("max_products", max_products)
    done = itertools.count(1)

    def product(v):
        if most is not None and next(done) > most:
            raise ValueError(
                f"The {which} eigenvalues need more than max_products={most} products: raise it, "
                f"raise tolerance={tolerance:g}, or ask for fewer."
            )
        return compiled.hessian_vector_product(landscape, point, v)

    def extreme(of, number, share, which):
        return _extreme(of, landscape, number, share, which=which, on_product=on_product)

    if which == "largest":
        return extreme(product, count, tolerance, "LA")
    # The shift makes the smallest the largest of a positive matrix, and its tolerance one of |H|.
    shift = 1.1 * abs(extreme(product, 1, 1e-2, "LM").values[0])
    found = extreme(lambda v: shift * v - product(v), count, tolerance, "LA")
    return Eigenvalues(shift - found.values, found.vectors)


def noise_eigenvalues(
    landscape: AbstractLandscape,
    theta: ArrayLike,
    count: int = 1,
    *,
    tolerance: RealLike = 1e-9,
    on_product: Callable[[], None] | None = None,
) -> Eigenvalues:
    """The `count` largest eigenvalues of Σ(θ), the covariance of one example's gradient.

    On a finite sum Σv = (1/N) Jᵀ(Jv − mean Jv), J (N, d) never formed; else R(Rᵀv) with the root R.
    At most min(N − 1, d) of them are not 0. Arguments and errors as `curvature.eigenvalues`.
    """
    point = _point(landscape, theta)
    return _extreme(
        lambda v: _covariance_product(landscape, point, v),
        landscape,
        count,
        tolerance,
        on_product=on_product,
    )


def trace(
    landscape: AbstractLandscape, theta: ArrayLike, *, key: Key, num_probes: int = 64
) -> Estimate:
    """tr ∇²L(θ) by Hutchinson's estimator, mean of zᵀHz over random signs z, with its error."""
    point = _point(landscape, theta)
    num = _probes(num_probes, point)
    signs = jr.rademacher(check_key(key), (num, len(point)), landscape.dtype)
    return Estimate.from_samples(np.asarray(_quadratic_forms(landscape, point, signs)))


def noise_trace(
    landscape: AbstractLandscape,
    theta: ArrayLike,
    *,
    key: Key | None = None,
    num_probes: int = 64,
) -> Estimate:
    """Tr(H Σ) = E ξᵀHξ, ξ of covariance Σ(θ): what one step's noise costs, ½η²c Tr(HΣ), in loss.

    Without `key` on a finite sum exactly, (1/N) Σ_i (g_i − g)ᵀH(g_i − g), at the cost of N
    Hessian–vector products (error 0). With a `key` from `num_probes` Gaussian draws of the
    noise, with the error over draws.

    **Raises:** `ValueError` without a key where there are no examples to sum over.
    """
    point = _point(landscape, theta)
    if key is None:
        if not isinstance(landscape, AbstractFiniteSum):
            raise ValueError("A population has no examples to sum over: give a key and num_probes.")
        total = float(_exact_noise_trace(landscape, point))
        return Estimate(np.asarray(total), np.asarray(0.0), landscape.num_examples)
    num = _probes(num_probes, point)
    z = jr.normal(check_key(key), (num, landscape.noise_dimension), landscape.dtype)
    return Estimate.from_samples(np.asarray(_noise_quadratic_forms(landscape, point, z)))


def density(
    landscape: AbstractLandscape,
    theta: ArrayLike,
    *,
    key: Key,
    num_probes: int = 8,
    num_steps: int = 64,
) -> SpectralDensity:
    """The spectral density of ∇²L(θ) by stochastic Lanczos quadrature.

    Each probe, a random unit vector, is run through `num_steps` of Lanczos' three-term
    recurrence with full reorthogonalisation; memory is num_steps × d numbers.

    **Source:** Golub & Welsch 1969; Ghorbani, Krishnan, Xiao 2019 (1901.10159).
    """
    point = _point(landscape, theta)
    num = _probes(num_probes, point)
    steps = min(check_whole("num_steps", num_steps), len(point))
    nodes, weights = np.zeros((num, steps)), np.zeros((num, steps))
    for i, own in enumerate(jr.split(check_key(key), num)):
        start = jr.normal(own, point.shape, landscape.dtype)
        diagonal, off = (np.asarray(x, float) for x in _lanczos(landscape, point, start, steps))
        # A vanishing step has found an invariant subspace: what follows is rounding.
        ends = np.flatnonzero(off[:-1] <= 1e-10 * np.abs(diagonal).max())
        size = int(ends[0]) + 1 if len(ends) else steps
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:size], off[: size - 1])
        nodes[i, :size], weights[i, :size] = values, vectors[0] ** 2
    return SpectralDensity(nodes, weights)


class CurvatureAlong(NamedTuple):
    """Along positions (n, d): each array is (n,).

    **Fields:** `loss`; `sharpness`, the largest eigenvalue of ∇²L; `noise_trace`, Tr(HΣ).
    """

    loss: Float[np.ndarray, " n"]
    sharpness: Float[np.ndarray, " n"]
    noise_trace: Float[np.ndarray, " n"]


def along(
    landscape: AbstractFiniteSum, positions: ArrayLike, *, tolerance: RealLike = 1e-6
) -> CurvatureAlong:
    """Loss, sharpness and Tr(HΣ) at positions (n, d): a recorded trajectory, or members at the end.

    Every Lanczos run starts from the eigenvector found just before.
    """
    check_landscape(landscape, AbstractFiniteSum)
    rows = np.asarray(real_values("positions", positions))
    if rows.ndim != 2:
        raise ValueError(f"positions must be (n, {landscape.dimension}), got shape {rows.shape}.")
    loss, sharp, trace = (np.zeros(len(rows)) for _ in range(3))
    before = None
    for i, row in enumerate(rows):
        point = _point(landscape, row)

        def product(v, point=point):
            return compiled.hessian_vector_product(landscape, point, v)

        top = _extreme(product, landscape, 1, tolerance, start=before)
        before = top.vectors[:, 0]
        loss[i], sharp[i] = float(compiled.loss(landscape, point)), top.values[0]
        trace[i] = float(_exact_noise_trace(landscape, point))
    return CurvatureAlong(loss, sharp, trace)


def _extreme(
    product,
    landscape,
    count: int,
    tolerance: RealLike,
    *,
    which: str = "LA",
    start=None,
    on_product: Callable[[], None] | None = None,
) -> Eigenvalues:
    """The largest eigenvalues of a product ("LA"), or those of the largest size ("LM")."""
    size, dtype = landscape.dimension, np.dtype(landscape.dtype)
    count = check_whole("count", count, 1, size)
    tolerance = check_number("tolerance", tolerance, above=0)
    if on_product is not None:
        check_callable("on_product", on_product, "lambda: print('.')")

    def matvec(v):
        made = np.asarray(product(jnp.asarray(v.reshape(-1), landscape.dtype)))
        if on_product is not None:
            on_product()
        return made

    if size <= _DENSE or count >= size - 1:
        matrix = np.stack([matvec(e) for e in np.eye(size)], axis=1).astype(float)
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    else:
        # The stubs know neither `matvec` nor a real tolerance.
        make: Any = scipy.sparse.linalg.LinearOperator
        operator = make((size, size), matvec=matvec, dtype=dtype)
        solve: Any = scipy.sparse.linalg.eigsh
        # A fixed start: the answer must not depend on a hidden random state.
        first = np.random.default_rng(0).normal(size=size) if start is None else start
        try:
            values, vectors = solve(
                operator,
                k=count,
                which=which,
                tol=max(tolerance, float(np.finfo(dtype).eps)),
                v0=first.astype(dtype),
                ncv=min(size, max(2 * count + 1, 32)),
            )
        except scipy.sparse.linalg.ArpackNoConvergence as error:
            raise ValueError(
                f"{len(error.eigenvalues)} of {count} eigenvalues converged: raise "
                f"tolerance={tolerance:g} or ask for fewer."
            ) from None
    kept = np.argsort(values if which == "LA" else np.abs(values))[::-1][:count]
    return Eigenvalues(np.asarray(values[kept], float), np.asarray(vectors[:, kept], float))


def _probes(num_probes: int, point: Float[jax.Array, " d"]) -> int:
    """A number of probe vectors that fit in 0.8 GB together."""
    return check_whole("num_probes", num_probes, 2, max(10**8 // len(point), 2))


def _point(landscape: AbstractLandscape, theta: ArrayLike) -> Float[jax.Array, " d"]:
    check_landscape(landscape, AbstractLandscape)
    return check_point("theta", theta, landscape)


# Compiled once for each kind of landscape, not once for each call.


@eqx.filter_jit
def _covariance_product(landscape, theta, v):
    if not isinstance(landscape, AbstractFiniteSum):
        root = landscape.covariance_root(theta)
        return root @ (root.T @ v)
    slopes = jax.jvp(landscape.example_losses, (theta,), (v,))[1]
    return landscape.weighted_gradient(theta, (slopes - slopes.mean()) / slopes.shape[0])


@eqx.filter_jit
def _quadratic_forms(landscape, theta, vectors):
    return lax.map(lambda z: z @ landscape.hessian_vector_product(theta, z), vectors)


@eqx.filter_jit
def _noise_quadratic_forms(landscape, theta, z):
    gradient = landscape.gradient(theta)

    def one(row):
        noise = landscape.noisy_gradient(theta, row, 1.0) - gradient
        return noise @ landscape.hessian_vector_product(theta, noise)

    return lax.map(one, z)


@eqx.filter_jit
def _exact_noise_trace(landscape, theta):
    mean = landscape.gradient(theta)

    def one(example):
        batch = jax.tree.map(lambda leaf: leaf[None], example)
        own = jax.grad(lambda x: landscape.losses(x, batch)[0])(theta) - mean
        return own @ landscape.hessian_vector_product(theta, own)

    return jnp.mean(lax.map(one, landscape.data))


@eqx.filter_jit
def _lanczos(landscape, theta, start, steps: int):
    """Diagonal (steps,) and off-diagonal (steps,) of the tridiagonal matrix."""

    def body(j, carry):
        basis, diagonal, off, vector = carry
        basis = basis.at[j].set(vector)
        new = landscape.hessian_vector_product(theta, vector)
        diagonal = diagonal.at[j].set(vector @ new)
        # Twice is enough: Gram–Schmidt against all rows so far (the rest are zero).
        for _ in range(2):
            new = new - basis.T @ (basis @ new)
        length = jnp.linalg.norm(new)
        return basis, diagonal, off.at[j].set(length), new / jnp.where(length > 0, length, 1)

    zero = jnp.zeros(steps, theta.dtype)
    carry = (
        jnp.zeros((steps, theta.shape[0]), theta.dtype),
        zero,
        zero,
        start / jnp.linalg.norm(start),
    )
    _, diagonal, off, _ = lax.fori_loop(0, steps, body, carry)
    return diagonal, off
