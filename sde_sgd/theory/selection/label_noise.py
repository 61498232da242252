"""Label noise flattens: the slow flow of tr ∇²L along the manifold of zero loss.

With losses ½(f(θ) − y)² and fresh label noise of variance σ² in every example and step, SGD that
has fitted the clean labels goes on moving along {L = 0}, on average as

    dθ/dt = −(ησ²/4B) P ∇ tr ∇²L ,      P the projector on the tangent space, t = ηk,

to leading order in η. (Losses r² without the ½ have twice that.) In the product f = uw the exact
balance identity gives the higher orders too.
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from sde_sgd._checks import check_number, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

# Eigenvalues below this share of the largest belong to the tangent space.
_FLAT = 1e-6
_ON_MANIFOLD = 1e-8
_MOST_STEPS = 10**7
_MOST_CALLS = 5_000


def label_noise_flow(
    landscape: AbstractLandscape,
    start: ArrayLike,
    *,
    learning_rate: RealLike,
    label_noise: RealLike,
    batch_size: int = 1,
    times: ArrayLike,
) -> Float[np.ndarray, "T d"]:
    """θ(t) along the zero-loss manifold, (T, d), by a Runge–Kutta method.

    **Arguments:**

    - `landscape`: the *clean* mean loss of ½ r²; d so small that Hessians (d, d) can be formed.
    - `start`: (d,), on the manifold (|∇L| = 0).
    - `learning_rate` η, `label_noise` σ (a standard deviation), `batch_size` B.
    - `times`: (T,), t = η·iterations ≥ 0, increasing.

    **Raises:** `ValueError` for a start off the manifold, a manifold without a tangent direction
    (an isolated minimum stays where it is), times that do not increase.

    **Source:** Blanc et al. 2020 (1904.09080); Damian, Ma, Lee 2021 (2106.06530); Li, Wang, Arora
    2022 (2110.06914).
    """
    _arguments.landscape(landscape)
    theta = _arguments.vector("start", start, landscape.dimension)
    eta = check_number("learning_rate", learning_rate, above=0)
    sigma = _arguments.label_noise(label_noise)
    size = _arguments.batch_size(batch_size)
    clock = _arguments.times(times)
    if (np.diff(clock) <= 0).any():
        raise ValueError(f"times must increase, got {clock.tolist()}.")
    at = _derivatives(landscape)
    gradient, hessian, _ = at(theta)
    values = np.linalg.eigvalsh(hessian)
    # In units of length, whatever the scale of L.
    if np.linalg.norm(gradient) > _ON_MANIFOLD * values[-1] * max(1.0, np.linalg.norm(theta)):
        raise ValueError(
            f"start is off the zero-loss manifold, |gradient| = {np.linalg.norm(gradient):.3g}: "
            f"train to a minimum without label noise first."
        )
    if values[0] > _FLAT * values[-1]:
        raise ValueError(
            f"start is an isolated minimum (smallest Hessian eigenvalue {values[0]:.3g}): there is "
            f"no direction along which label noise could move it."
        )
    speed, calls = eta * sigma**2 / (4 * size), itertools.count(1)

    def field(_, x):
        # The step that holds the solution on the manifold is stable below 3.3/speed, of six calls.
        if next(calls) > _MOST_CALLS or not 1.8 * speed * clock[-1] < _MOST_CALLS:
            raise ValueError(
                f"times up to {clock[-1]:g} need more than {_MOST_CALLS} evaluations of the flow: "
                f"ask for earlier times, a smaller learning_rate or label_noise, or a start where "
                f"L is less steep."
            )
        slope, hess, steepest = at(x)
        eigenvalues, vectors = np.linalg.eigh(hess)
        flat = eigenvalues < _FLAT * eigenvalues[-1]
        along = vectors[:, flat] @ (vectors[:, flat].T @ steepest)
        # A Newton step towards the manifold holds the solution on it.
        normal = vectors[:, ~flat] @ ((vectors[:, ~flat].T @ slope) / eigenvalues[~flat])
        return -speed * (along + (np.linalg.norm(along) + 1) * normal)

    solution: Any = solve_ivp(
        field, (0.0, clock[-1]), theta, t_eval=clock, method="RK45", rtol=1e-8, atol=1e-10
    )
    if not solution.success:
        raise ValueError(f"The flow could not be integrated: {solution.message}")
    return solution.y.T


def label_noise_balance(
    u: RealLike,
    w: RealLike,
    *,
    learning_rate: RealLike,
    label_noise: RealLike,
    num_steps: int,
    batch_size: int = 1,
) -> float:
    """E (u² − w²)_k/(u² − w²)_0 for f = uw on its minimum: Π_k (1 − η² E g_k²).

    Every step multiplies u² − w² by exactly 1 − η²g², g = ∂ℓ̂/∂(uw). On the manifold the residual
    is a stationary linear recursion, E g² = 2(σ²/B)/(2 − η(u² + w²)), with u² + w² =
    √((u² − w²)² + 4(uw)²) followed along. What is left out is of relative order ησ²/B.

    **Arguments:** `u`, `w`: the start, whose product is the clean target; losses ½r²;
    `num_steps`: k.

    **Raises:** `ValueError` at η(u² + w²) ≥ 2, where the minimum is unstable, and for noise that
    turns the imbalance round in one step.
    """
    eta = check_number("learning_rate", learning_rate, above=0)
    variance = _arguments.label_noise(label_noise) ** 2
    variance /= _arguments.batch_size(batch_size)
    steps = check_whole("num_steps", num_steps, 0, _MOST_STEPS)
    one, other = (
        check_number(name, x, -_arguments.LARGE, _arguments.LARGE)
        for name, x in (("u", u), ("w", w))
    )
    first, product = one**2 - other**2, one * other
    sharpness = float(np.hypot(first, 2 * product))
    if eta * sharpness >= 2:
        raise ValueError(
            f"learning_rate times u² + w² is {eta * sharpness:g}, not below 2: the minimum is "
            f"unstable. Take learning_rate < {2 / sharpness:g}."
        )
    with np.errstate(over="ignore"):
        push = 2 * np.square(eta) * variance
    if not push < 2 - eta * sharpness:
        raise ValueError(
            f"learning_rate²·label_noise²/batch_size = {push / 2:g} turns the imbalance round in "
            f"one step, and what is left out is not small: take smaller ones."
        )
    ratio = 1.0
    for _ in range(steps):
        sharpness = np.hypot(ratio * first, 2 * product)
        ratio *= 1 - push / (2 - eta * sharpness)
    return float(ratio)


def _derivatives(landscape: AbstractLandscape):
    """∇L, ∇²L and ∇ tr ∇²L at a numpy θ."""

    def at(theta: np.ndarray):
        found = _DERIVATIVES(landscape, jnp.asarray(theta, landscape.dtype))
        return tuple(np.asarray(x, np.float64) for x in found)

    return at


_DERIVATIVES = eqx.filter_jit(
    lambda landscape, theta: (
        landscape.gradient(theta),
        landscape.hessian(theta),
        jax.grad(lambda x: jnp.trace(landscape.hessian(x)))(theta),
    )
)
