"""Weak orders of modified equations without any sampling error.

The weak error of an equation of order p is E f(X_T) − E f(θ_k) = O(η^p) at t = ηk = T, X its
solution. Its sign is kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.interpolate import BarycentricInterpolator
from scipy.linalg import expm

from sde_sgd._checks import check_at_least, check_callable, check_number, check_whole, in_brief
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.noise.models import MinibatchNoise
from sde_sgd.noise.sampling import AbstractSampling
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.step_laws import Batches
from sde_sgd.theory import _arguments, _fields, _step_laws
from sde_sgd.theory.stationary.moments import read_linear, transient_of
from sde_sgd.types import RealLike

# An error of which the two degrees differ by more than this part of it is not resolved.
_RESOLVED = 1e-3
_MOST_DEGREE = 1000


class WeakErrors(NamedTuple):
    """Weak errors of an equation, E of it − E of the process, by learning rate.

    **Fields:** `learning_rates` (n,), `mean` of E θ (n, d), `second` of E θθᵀ (n, d, d).
    """

    learning_rates: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, "n d"]
    second: Float[np.ndarray, "n d d"]


def weak_errors(
    process: AbstractProcess,
    equation: AbstractProcess,
    *,
    learning_rates: ArrayLike,
    time: RealLike,
    theta0: ArrayLike,
) -> WeakErrors:
    """Errors of an equation's first and second moments at t = `time`, exactly.

    Both sides by `theory.stationary.transient`, where moments close: on quadratic losses with the
    noise of batches.

        weak_errors(sgd, sde.limit(), learning_rates=[0.1, 0.05], time=1.0, theta0=start)

    **Arguments:** `process`, such as `SGD`, and `equation`, such as a `ModifiedEquation` or its
    limit, each at its own step, on one landscape; `learning_rates` (n,) in place of their own, of
    each of which `time` must be a multiple; `theta0` (d,).

    **Raises:** `ValueError` as `transient`, and for a time between two iterations.
    """
    rates = _arguments.array("learning_rates", learning_rates, 1)
    horizon = [check_at_least("time", time)]
    readings = [read_linear(side) for side in (process, equation)]
    means, seconds = [], []
    for eta in rates:
        found = [transient_of(r.at(float(eta)), horizon, theta0) for r in readings]
        sgd, sde = ((m.mean[0], m.covariance[0] + np.outer(m.mean[0], m.mean[0])) for m in found)
        means.append(sde[0] - sgd[0])
        seconds.append(sde[1] - sgd[1])
    return WeakErrors(rates, np.array(means), np.array(seconds))


class ScalarErrors(NamedTuple):
    """Weak errors, SDE − SGD, by learning rate, and both sides.

    **Fields:** `learning_rates`, `errors`, `sgd`, `sde`, and `accuracy`, how far the errors move
    between two degrees, each (n,).
    """

    learning_rates: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    sgd: Float[np.ndarray, " n"]
    sde: Float[np.ndarray, " n"]
    accuracy: Float[np.ndarray, " n"]


def weak_errors_scalar(
    landscape: AbstractLandscape,
    sampling: AbstractSampling,
    *,
    of: Callable,
    learning_rates: ArrayLike,
    time: RealLike,
    theta0: RealLike,
    box: Any,
    order: int = 1,
    equation: Callable | None = None,
    degree: int = 64,
) -> ScalarErrors:
    """Errors of E f for real batches on any smooth landscape in one dimension, without sampling.

    Both backward equations on one Chebyshev grid: the master equation's,
    u_{k+1}(x) = E u_k(x − ηĝ(x)) over all batches, and Fokker–Planck's adjoint,
    ∂u/∂t = b u′ + D u″ with b = −∇L (or of order 2) and D = ηcΣ/2; u = f at the start, E f = u(θ0)
    at the end. The box need not hold the paths with room to spare, but SGD must not
    leave it, and f and the landscape must be smooth on it: errors fall exponentially with `degree`.

    **Arguments:**

    - `landscape`, `sampling`: a one-dimensional finite sum, and batches that can be enumerated.
    - `of`: f, a JAX function of θ (1,) with one value.
    - `learning_rates` (n,), of each of which `time` T must be a multiple.
    - `theta0`, the start; `box` (low, high).
    - `order`: 1 or 2; or an `equation` of your own, (η, L′, L″L′, C) ↦ (b, D), from arrays (n,) at
      the nodes to arrays, C = Cov(ĝ). Order 2 is `lambda eta, g, bent, c: (-g - eta / 2 * bent,
      eta / 2 * c)`.
    - `degree`: nodes, ≥ 12; everything is also solved on two thirds of them.

    **Raises:** `ValueError` for SGD that leaves the box, a `degree` that does not resolve the error
    to 0.1 %, a time between two iterations.
    """
    rates = _arguments.array("learning_rates", learning_rates, 1)
    horizon, start = check_number("time", time, above=0), check_number("theta0", theta0)
    ends = _arguments.interval("box", box)
    if not ends[0] < start < ends[1]:
        raise ValueError(f"box must be (low, high) around theta0={start:g}; got {in_brief(box)}.")
    order, degree = _arguments.order(order), check_whole("degree", degree, 12, _MOST_DEGREE)
    _arguments.landscape(landscape)
    _arguments.sampling(sampling)
    check_callable("of", of, "lambda theta: theta[0] ** 2")
    _fields.scalar("of", of, 1)
    if equation is not None:
        check_callable("equation", equation, "lambda eta, g, bent, c: (-g, eta / 2 * c)")
    if landscape.dimension != 1 or not isinstance(landscape, AbstractFiniteSum):
        raise ValueError(
            f"weak_errors_scalar needs a finite sum with d=1; got {type(landscape).__name__} with "
            f"d={landscape.dimension}. By Monte Carlo any landscape will do: ss.weak_error."
        )
    noise = MinibatchNoise(sampling)
    noise.check(landscape)
    law = _step_laws.jump_step(Batches(landscape, sampling, 1.0))
    grids = [_chebyshev(num, ends) for num in (2 * degree // 3, degree)]
    points = np.concatenate([nodes for nodes, _, _ in grids])
    table = np.asarray(_evaluate(landscape, noise, of, points[:, None]), dtype=float)
    split = np.split(table, [len(grids[0][0])])

    def both(grid, values, eta, count) -> tuple[float, float]:
        """E f(θ_count) and E f(X_T)."""
        nodes, weights, slope = grid
        evaluated = BarycentricInterpolator(nodes, np.eye(len(nodes)), wi=weights)
        begin, g, bent, c = values.T
        moved = law._replace(step=eta).after(nodes)
        if moved.min() < ends[0] - 1e-12 or moved.max() > ends[1] + 1e-12:
            raise ValueError(
                f"SGD at learning_rate={eta:g} leaves the box {ends.tolist()}, "
                f"for [{moved.min():.4g}, {moved.max():.4g}]: take a box that its steps map into "
                f"itself."
            )
        step = np.zeros((len(nodes), len(nodes)))
        for column, chance in zip(moved.T, law.probabilities, strict=True):
            step += chance * evaluated(column)
        if equation is None:
            b, d = -g - (eta / 2 * bent if order == 2 else 0), eta / 2 * c
        else:
            b, d = _coefficients(equation, eta, g, bent, c)
        generator = b[:, None] * slope + d[:, None] * (slope @ slope)
        at_start = evaluated([start])[0]
        sgd = at_start @ (np.linalg.matrix_power(step, count) @ begin)
        return float(sgd), float(at_start @ (expm(horizon * generator) @ begin))

    rows = []
    for eta in rates:
        (count,) = _arguments.whole_steps(np.array([horizon]), float(eta))
        rough, fine = (both(*at, float(eta), int(count)) for at in zip(grids, split, strict=True))
        rows.append((*fine, abs((fine[1] - fine[0]) - (rough[1] - rough[0]))))
    sgd, sde, accuracy = np.array(rows).T
    errors = sde - sgd
    poor = accuracy > _RESOLVED * np.abs(errors) + 1e-13
    if poor.any():
        worst = int(np.argmax(poor))
        raise ValueError(
            f"degree={degree} does not resolve the error at learning_rate={rates[worst]:g}: "
            f"{errors[worst]:.3g}, known to {accuracy[worst]:.2g}. Raise degree, or shrink the box."
        )
    return ScalarErrors(rates, errors, sgd, sde, accuracy)


def _coefficients(equation: Callable, *given) -> tuple[np.ndarray, np.ndarray]:
    """b and D (n,) of a user's equation."""
    size = given[1].shape
    found = equation(*given)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError(f"equation must return the pair (b, D); it returns {in_brief(found)}.")
    values = [_arguments.finite("equation", x) for x in found]
    if any(x.shape not in ((), size) for x in values):
        raise ValueError(
            f"equation must return b and D of the shape {size} of its arguments; got "
            f"{values[0].shape} and {values[1].shape}."
        )
    b, d = (np.broadcast_to(x, size) for x in values)
    return b, d


@eqx.filter_jit
def _evaluate(landscape, noise, of, points):
    """f, L′, L″L′ and C at each point, (n, 4)."""

    def one(theta):
        theta = theta.astype(landscape.dtype)
        gradient = landscape.gradient(theta)
        bent = landscape.hessian_vector_product(theta, gradient)
        value = jnp.reshape(of(theta), (1,))
        covariance = noise.covariance(theta, landscape)[0]
        return jnp.concatenate([value, gradient, bent, covariance])

    return jax.vmap(one)(points)


def _chebyshev(num: int, box: np.ndarray):
    """Nodes, barycentric weights and the differentiation matrix (Berrut, Trefethen 2004)."""
    index = np.arange(num)
    nodes = box.mean() + np.diff(box)[0] / 2 * np.cos(np.pi * index / (num - 1))
    weights = (-1.0) ** index
    weights[[0, -1]] /= 2
    gap = nodes[:, None] - nodes
    np.fill_diagonal(gap, 1.0)
    slope = weights / weights[:, None] / gap
    np.fill_diagonal(slope, 0.0)
    np.fill_diagonal(slope, -slope.sum(axis=1))
    return nodes, weights, slope
