"""Scores ∇log p_t(θ): what turns the SDE of SGD into a deterministic flow with the same laws."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from sde_sgd.theory import _checks
from sde_sgd.theory.langevin import Gaussian
from sde_sgd.types import Matrix, Positions, RealLike, Scalar, Vector

from .._checks import in_brief, real_output


class AbstractScore(eqx.Module):
    """s(t, θ) = ∇log p_t(θ) of one member, t the physical time ηk of the SDE."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """d, the length of θ."""

    @property
    @abc.abstractmethod
    def last_time(self) -> float:
        """The t up to which the score is known; ∞ if always."""

    @abc.abstractmethod
    def check(self, time: float) -> None:
        """Raises `ValueError` where p_t has no score at t = `time`, or none that is known."""

    @abc.abstractmethod
    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        """Which positions (members, d) lie where the score is known."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        """∇log p_t(θ), (d,)."""


def check_span(name: str, time: float, first: float, last: float) -> None:
    """Refuses a time outside [first, last], up to rounding."""
    slack = 1e-6 * max(abs(first), abs(last if np.isfinite(last) else 0.0), 1e-300)
    if not first - slack <= time <= last + slack:
        raise ValueError(
            f"{name} is known for {first:g} <= t <= {last:g}, and is asked for at t = {time:g}: "
            f"make it for longer, start the flow within (start_time), or run fewer iterations."
        )


class FunctionScore(AbstractScore):
    """A score of your own, such as a trained network or another score with an error.

    **Arguments:** `function`, (t, θ (d,)) ↦ s (d,), a function or callable Equinox module;
    `dimension` d; `first_time`, `last_time`: where it holds.

    **Raises:** `ValueError` for a function of another shape.
    """

    function: Callable
    size: int = eqx.field(static=True)
    first: float = eqx.field(static=True)
    last: float = eqx.field(static=True)

    def __init__(
        self,
        function: Callable,
        dimension: int,
        first_time: RealLike = 0.0,
        last_time: RealLike = np.inf,
    ):
        if not callable(function):
            raise ValueError(f"FunctionScore needs a function of (t, θ); got {in_brief(function)}.")
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise ValueError(f"dimension must be an integer >= 1; got {in_brief(dimension)}.")
        first, last = float(first_time), float(last_time)
        if not 0 <= first < last:
            raise ValueError(f"times must satisfy 0 <= first < last; got {first:g}, {last:g}.")
        self.function, self.size, self.first, self.last = function, dimension, first, last
        real = jnp.result_type(float)
        found = eqx.filter_eval_shape(
            lambda t, x: real_output("function(t, θ)", function(t, x)),
            jax.ShapeDtypeStruct((), real),
            jax.ShapeDtypeStruct((dimension,), real),
        )
        if found.shape != (dimension,):
            raise ValueError(
                f"FunctionScore: function(t, θ) must have θ's shape ({dimension},), one number "
                f"for each coordinate; it has shape {found.shape}."
            )

    @property
    def dimension(self) -> int:
        return self.size

    @property
    def last_time(self) -> float:
        return self.last

    def check(self, time: float) -> None:
        check_span("this FunctionScore", time, self.first, self.last)

    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        return jnp.ones(theta.shape[0], bool)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        return jnp.asarray(self.function(t, theta))


class GaussianScore(AbstractScore):
    """The exact score of dθ = −H(θ − θ*) dt + √η C^{1/2} dW from a Gaussian start N(m₀, M₀).

    The law stays Gaussian, s = −M_t⁻¹(θ − m_t), and in the eigenbasis of H, D = ηC/2,

        m_t = θ* + e^{−Ht}(m₀ − θ*),
        (M_t)_ij = e^{−(λ_i+λ_j)t} (M₀)_ij + 2 D_ij (1 − e^{−(λ_i+λ_j)t})/(λ_i + λ_j) .

    With `order=2` the drift is −∇(L + (η/4)|∇L|²), H → H + ηH²/2.

    **Arguments:**

    - `hessian`: H, (d, d), symmetric; flat and unstable directions are allowed.
    - `gradient_noise`: C = Cov(ĝ) of one iteration, (d, d), the same everywhere.
    - `learning_rate`: η.
    - `start`: `Gaussian(mean, covariance)` at t = 0. Where the covariance is singular the law
      has no density at t = 0, and no score: begin the flow later (`start_time` of
      `ProbabilityFlow`), from members of `law(start_time)`.
    - `minimum`: θ*, (d,); the origin if None.

    **Raises:** `ValueError` for shapes, matrices that are no covariance.
    """

    basis: Matrix
    rates: Vector
    noise: Matrix
    minimum: Vector
    mean: Vector
    covariance: Matrix

    def __init__(
        self,
        hessian: ArrayLike,
        gradient_noise: ArrayLike,
        *,
        learning_rate: RealLike,
        start: Any,
        minimum: ArrayLike | None = None,
        order: int = 1,
    ):
        hess = _checks.symmetric("hessian", hessian)
        size = len(hess)
        eta = _checks.number("learning_rate", learning_rate)
        diffusion = eta / 2 * _checks.covariance("gradient_noise", gradient_noise, size)
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2; got {in_brief(order)}.")
        if not isinstance(start, tuple) or len(start) != 2:
            raise ValueError(f"start must be a Gaussian(mean, covariance); got {in_brief(start)}.")
        mean = _vector("mean of start", start[0], size)
        spread = _checks.covariance("covariance of start", start[1], size)
        centre = np.zeros(size) if minimum is None else _vector("minimum", minimum, size)
        rates, basis = np.linalg.eigh(hess)
        if order == 2:
            rates = rates + eta / 2 * rates**2
        self.basis, self.rates, self.minimum = map(jnp.asarray, (basis, rates, centre))
        # All in the eigenbasis of H, the mean from θ*.
        self.mean = jnp.asarray(basis.T @ (mean - centre))
        self.covariance = jnp.asarray(basis.T @ spread @ basis)
        self.noise = jnp.asarray(basis.T @ diffusion @ basis)

    @property
    def dimension(self) -> int:
        return self.rates.shape[0]

    @property
    def last_time(self) -> float:
        return np.inf

    @property
    def hessian(self) -> Float[np.ndarray, "d d"]:
        """H of the drift −H(θ − θ*), with `order=2` H + ηH²/2."""
        basis = np.asarray(self.basis)
        return basis * np.asarray(self.rates) @ basis.T

    @property
    def diffusion(self) -> Float[np.ndarray, "d d"]:
        """D = ηC/2."""
        basis = np.asarray(self.basis)
        return basis @ np.asarray(self.noise) @ basis.T

    def check(self, time: float) -> None:
        check_span("a GaussianScore", time, 0.0, np.inf)
        values = np.linalg.eigvalsh(self.law(time).covariance)
        if values[0] <= self.dimension * np.finfo(float).eps * max(values[-1], 1e-300):
            raise ValueError(
                f"at t = {time:g} the law is a point in some direction (smallest variance "
                f"{values[0]:g}) and has no density there, hence no score. Start from a Gaussian "
                f"with a positive definite covariance, or begin the flow later (start_time > 0) "
                f"from members of score.law(start_time), if C has noise in that direction."
            )

    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        return jnp.ones(theta.shape[0], bool)

    def law(self, time: RealLike) -> Gaussian:
        """N(m_t, M_t) in the coordinates of θ."""
        given = map(np.asarray, (self.rates, self.noise, self.mean, self.covariance))
        mean, spread = _moments(np, float(time), *given)
        basis = np.asarray(self.basis)
        return Gaussian(np.asarray(self.minimum) + basis @ mean, basis @ spread @ basis.T)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        given = (self.rates, self.noise, self.mean, self.covariance)
        mean, spread = _moments(jnp, t.astype(self.rates.dtype), *given)
        offset = self.basis.T @ (theta.astype(self.rates.dtype) - self.minimum) - mean
        return -self.basis @ jnp.linalg.solve(spread, offset)


def _moments(xp: Any, t: Any, rates: Any, noise: Any, mean: Any, covariance: Any) -> Any:
    """Mean from θ* and covariance at t in the eigenbasis of H, by `numpy` or `jax.numpy`."""
    total = rates[:, None] + rates[None, :]
    flat = total == 0
    safe = xp.where(flat, 1.0, total)
    grown = xp.where(flat, t, -xp.expm1(-total * t) / safe)
    spread = xp.exp(-total * t) * covariance + 2 * noise * grown
    return xp.exp(-rates * t) * mean, spread


def _vector(name: str, value: Any, size: int) -> Float[np.ndarray, " d"]:
    vector = _checks.real_array(name, value, 1)
    if vector.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {vector.shape}.")
    return vector
