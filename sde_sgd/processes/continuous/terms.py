"""Diffrax terms of the modified equations, on the iteration clock.

Time s counts SGD iterations. With t = ηs the Itô equation dθ = b dt + √η C^{1/2} dW_t
reads dθ = η b ds + η C^{1/2} dW_s, C = Cov(ĝ) of one iteration.
"""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.noise.paths import IterationNoise
from sde_sgd.processes.clock import LearningRate
from sde_sgd.processes.drift import correction, force
from sde_sgd.types import Vector

_EULER_ONLY = (
    "These are the fused terms of a ModifiedEquation with solver=diffrax.Euler(), and another "
    "solver would converge to another equation with them: solve with diffrax.Euler(), or make the "
    "ModifiedEquation with the solver you want and take its terms."
)


class FusedTerm(dfx.AbstractTerm):
    """−η(∇L ds + C^{1/2} dW_s) from one vector–Jacobian product, drift included. Euler only.

    The control is (s, ds, dW_s). `vf_prod` evaluates ∇L + C^{1/2} dW/ds at once, which is all
    that Euler asks for. Solvers that combine vector fields, or evaluate them elsewhere than at
    the start s of a step (implicit Euler), would run, and converge to another equation: they are
    refused (`ModifiedEquation` hands out separate terms for them).
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    noise: AbstractGradientNoise
    path: IterationNoise
    order: int = eqx.field(static=True)

    def vf(self, t, y, args) -> Vector:
        # `diffeqsolve` evaluates the shape of this; what a solver would do with it is `prod`.
        return y

    def is_vf_expensive(self, t0, t1, y, args) -> bool:
        raise ValueError(_EULER_ONLY)

    def contr(self, t0, t1, **kwargs) -> tuple[Any, Any, Any]:
        dt = jnp.asarray(1 / self.path.substeps, self.path.dtype)
        return t0, dt, self.path.evaluate(t0, t1, **kwargs)

    def prod(self, vf, control):
        raise ValueError(_EULER_ONLY)

    def vf_prod(self, t, y, args, control) -> Vector:
        start, dt, increment = control
        if self.path.checked:
            increment = eqx.error_if(increment, jnp.asarray(t) != start, _EULER_ONLY)
        eta = _rate(self.learning_rate, self.path, t, y.dtype)
        amplitude = float(self.path.substeps)
        noisy = self.noise.noisy_gradient(y, increment, amplitude, self.landscape)
        if self.order == 2:
            noisy = noisy + correction(self.landscape, y, eta)
        return -(eta * dt) * noisy


def separate_terms(
    landscape: AbstractLandscape,
    learning_rate: LearningRate,
    noise: AbstractGradientNoise,
    path: IterationNoise,
    order: int,
) -> dfx.MultiTerm:
    """Drift −η∇L (and its correction) and lineax diffusion ηC^{1/2}, for any Itô solver."""

    def drift(t, theta, args):
        eta = _rate(learning_rate, path, t, theta.dtype)
        return -eta * force(landscape, theta, eta, order)

    def diffusion(t, theta, args):
        eta = _rate(learning_rate, path, t, theta.dtype)
        # Leaf by leaf: ItoMilstein multiplies with the *tangent* of this operator, and that of a
        # lazy product −η·σ(θ), which has two factors, is (0, dσ), whose product is zero.
        return jax.tree.map(lambda leaf: -eta * leaf, noise.diffusion(theta, landscape))

    return dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(diffusion, path))


def _rate(learning_rate: LearningRate, path: IterationNoise, t, dtype):
    if learning_rate.schedule is None:
        return learning_rate.at(0, dtype)
    if not path.checked:
        # The engine steps inside one iteration, whose rate also holds at the step's end.
        return learning_rate.at(path.draws.iteration, dtype)
    # A hundredth of a step keeps t = 1 − 1e-16 in the iteration it was meant to open.
    step = jnp.floor(jnp.asarray(t) * path.substeps + 1e-2).astype(jnp.uint32)
    return learning_rate.at(path.draws.iteration + step // path.substeps, dtype)
