"""Scores ∇log p_t(θ): what turns the SDE of SGD into a deterministic flow with the same laws."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sde_sgd._checks import (
    as_real,
    check_at_least,
    check_callable,
    check_number,
    check_part,
    check_whole,
)
from sde_sgd.processes.continuous.score import AbstractScore
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory import _arguments, _step_laws
from sde_sgd.theory._fields import traced
from sde_sgd.theory.laws.gaussian import Gaussian
from sde_sgd.theory.stationary.moments import read_linear
from sde_sgd.types import Matrix, Positions, RealLike, Scalar, Vector

_MOST_DIMENSIONS = 10**8


def check_place(t: Any, theta: Any, dimension: int) -> tuple[Scalar, Vector]:
    """t and θ (d,) as arrays, traced or not."""
    time, place = as_real("t", t), as_real("theta", theta)
    if time.shape != () or place.shape != (dimension,):
        raise ValueError(
            f"a score takes t, one number, and theta of shape ({dimension},); got {time.shape} and "
            f"{place.shape}."
        )
    return time, place


def everywhere(theta: Any, dimension: int) -> Bool[Array, " members"]:
    """True for each of the positions (members, d)."""
    places = as_real("theta", theta)
    if places.ndim != 2 or places.shape[1] != dimension:
        raise ValueError(f"theta must be (members, {dimension}); got {places.shape}.")
    return jnp.ones(places.shape[0], bool)


def check_span(name: str, time: RealLike, first: float, last: float) -> None:
    """Refuses a time outside [first, last], up to rounding."""
    time = check_number("time", time)
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
        check_callable("function", function, "lambda t, theta: -theta")
        dimension = check_whole("dimension", dimension, 1, _MOST_DIMENSIONS)
        first, last = (
            check_at_least("first_time", first_time),
            _arguments.end("last_time", last_time),
        )
        if not first < last:
            raise ValueError(f"first_time={first:g} must be below last_time={last:g}.")
        self.function, self.size, self.first, self.last = function, dimension, first, last
        real = jnp.result_type(float)
        found = eqx.filter_eval_shape(
            traced("function", function, 2),
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
        return everywhere(theta, self.dimension)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        return jnp.asarray(self.function(*check_place(t, theta, self.size)))


class GaussianScore(AbstractScore):
    """The exact score of dθ = −H(θ − θ*) dt + √η C^{1/2} dW from a Gaussian start N(m₀, M₀).

    The law stays Gaussian, s = −M_t⁻¹(θ − m_t), and in the eigenbasis of H, D = ηC/2,

        m_t = θ* + e^{−Ht}(m₀ − θ*),
        (M_t)_ij = e^{−(λ_i+λ_j)t} (M₀)_ij + 2 D_ij (1 − e^{−(λ_i+λ_j)t})/(λ_i + λ_j) .

    An equation of order 2 has H + ηH²/2 in place of H, an overdamped one H/(1 − μ) and C/(1 − μ)².

    **Arguments:**

    - `process`: the limit of `ModifiedEquation` or `OverdampedEquation` with a constant noise
      (`ConstantNoise`), on a quadratic; flat and unstable directions are allowed.
    - `start`: `Gaussian(mean, covariance)` at t = 0. Where the covariance is singular the law
      has no density at t = 0, and no score: begin the flow later (`start_time` of
      `ProbabilityFlow`), from members of `law(start_time)`.
    - `about`: θ (d,), where a landscape that is not quadratic is linearised: the score of the
      equation there.

    **Raises:** `ValueError` for shapes and matrices that are no covariance; `NotKnown` for a
    process with steps of its own, noise that depends on θ, and where `covariance` knows none.
    """

    basis: Matrix
    rates: Vector
    noise: Matrix
    minimum: Vector
    mean: Vector
    covariance: Matrix

    def __init__(self, process: Any, start: Any, about: Any = None):
        reading = read_linear(process, about)
        name, size = type(process).__name__, len(reading.rest)
        if reading.own.step != 0 or reading.own.injection.shape[1] != 1:
            raise NotKnown(
                f"A score in θ alone that is known at every t is that of an equation of first "
                f"order at solver step 0: pass ss.ModifiedEquation(...).limit(), say, not {name}."
            )
        if not _step_laws.has_constant_noise(reading):
            raise NotKnown(
                f"The law of {name} is no Gaussian: its noise depends on θ. Hold it with "
                f"ConstantNoise.at(landscape, θ, sampling), or take GridScore (d ≤ 2) or "
                f"KernelScore."
            )
        check_part("start", start, Gaussian, "a theory.laws.Gaussian(mean, covariance)")
        mean = _arguments.vector("mean of start", start.mean, size)
        spread = start.covariance
        eta, basis, centre = reading.learning_rate, reading.basis, reading.rest
        # Of an iteration the reading has the drift −ηH and the noise η²C.
        rates, kick = -reading.own.transition[:, 0, 0] / eta, reading.own.injection[:, 0]
        self.basis, self.rates, self.minimum = map(jnp.asarray, (basis, rates, centre))
        # All in the eigenbasis of H, the mean from θ*.
        self.mean = jnp.asarray(basis.T @ (mean - centre))
        self.covariance = jnp.asarray(basis.T @ spread @ basis)
        self.noise = jnp.asarray(np.outer(kick, kick) * reading.noise.star / (2 * eta))

    @property
    def dimension(self) -> int:
        return self.rates.shape[0]

    @property
    def last_time(self) -> float:
        return np.inf

    @property
    def hessian(self) -> Float[np.ndarray, "d d"]:
        """H of the drift −H(θ − θ*), of order 2 H + ηH²/2."""
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
        return everywhere(theta, self.dimension)

    def law(self, time: RealLike) -> Gaussian:
        """N(m_t, M_t) in the coordinates of θ."""
        given = map(np.asarray, (self.rates, self.noise, self.mean, self.covariance))
        mean, spread = _moments(np, check_at_least("time", time), *given)
        basis = np.asarray(self.basis)
        return Gaussian(np.asarray(self.minimum) + basis @ mean, basis @ spread @ basis.T)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        t, theta = check_place(t, theta, self.dimension)
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
