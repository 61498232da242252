"""Brownian motion on the iteration clock, as a Diffrax path."""

from typing import Any, Literal, TypeAlias

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from sde_sgd.random.draws import Draws, Stream

Increments: TypeAlias = Literal["gaussian", "two_point"]


class IterationNoise(dfx.AbstractBrownianPath):
    """A k-dimensional Brownian path W whose time is counted in iterations from an integer base.

    Over the j-th solver step of iteration base + i, W moves by √(1/substeps)·ξ with
    ξ = draws(key, noise stream, base + i, j, member): `t` is only used to find the small
    integer i·substeps + j, so that nothing is lost however large `base` is.

    Only increments over single solver steps exist: with `checked=True` (the terms a user
    takes) anything else stops the solve with an error.

    **Fields:** `draws` of one member at the base iteration; `size` k; `substeps` solver
    steps an iteration; `increments` "gaussian", or "two_point" (±√dt, weak order one only), whose
    signs have a stream of their own: no part of the Gaussian path.
    With `refinement` r an increment is the sum of r finer ones, so that the path is the one
    that `substeps·r` steps with refinement 1 see: common random numbers for two step sizes.
    """

    levy_area: type[dfx.BrownianIncrement | dfx.SpaceTimeLevyArea] = eqx.field(static=True)
    draws: Draws
    size: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    increments: Increments = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    refinement: int = eqx.field(static=True)
    checked: bool = eqx.field(static=True)

    def __init__(
        self,
        draws: Draws,
        *,
        size: int,
        substeps: int,
        dtype: Any,
        increments: Increments = "gaussian",
        levy_area: type[dfx.BrownianIncrement | dfx.SpaceTimeLevyArea] = dfx.BrownianIncrement,
        refinement: int = 1,
        checked: bool = True,
    ):
        self.draws, self.size, self.substeps = draws, size, substeps
        self.increments, self.dtype, self.levy_area = increments, jnp.dtype(dtype), levy_area
        self.refinement, self.checked = refinement, checked

    @property
    def t0(self):
        return 0.0

    @property
    def t1(self):
        return jnp.inf

    def step_index(self, t0, t1=None):
        """i·substeps + j of the solver step that starts at t0, an integer array."""
        position = jnp.asarray(t0) * self.substeps
        index = jnp.round(position)
        if self.checked:
            limit = 2.0 ** (jnp.finfo(index.dtype).nmant - 2)
            wrong = (jnp.abs(position - index) > 1e-2) | (index < 0) | (index > limit)
            if t1 is not None:
                length = (jnp.asarray(t1) - jnp.asarray(t0)) * self.substeps
                wrong = wrong | (jnp.abs(length - 1) > 1e-2)
            index = eqx.error_if(
                index,
                wrong,
                f"This noise only exists over single solver steps of 1/{self.substeps} iteration "
                f"that start at multiples of it: pass dt0=1/{self.substeps} and a constant step "
                f"size, and restart from a later base iteration after about 10⁶ steps in float32.",
            )
        return index.astype(jnp.uint32)

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        del left
        if t1 is None:
            raise ValueError(
                "IterationNoise has increments over solver steps, no values at a time."
            )
        index = self.step_index(t0, t1)
        substeps = jnp.uint32(self.substeps)
        draws = self.draws.at(self.draws.iteration + index // substeps, index % substeps)
        dt = jnp.asarray(1 / self.substeps, self.dtype)
        first = (index % substeps) * jnp.uint32(self.refinement)
        fine = [self._numbers(draws.at(substep=first + i)) for i in range(self.refinement)]
        increment = jnp.sqrt(dt / self.refinement) * sum(fine[1:], start=fine[0])
        if not use_levy:
            return increment
        if issubclass(self.levy_area, dfx.SpaceTimeLevyArea):
            area = jnp.sqrt(dt / 12) * draws.normal((self.size,), Stream.LEVY_AREA, self.dtype)
            return dfx.SpaceTimeLevyArea(dt=dt, W=increment, H=area)
        return dfx.BrownianIncrement(dt=dt, W=increment)

    def _numbers(self, draws: Draws) -> Float[Array, " k"]:
        if self.increments == "two_point":
            return draws.two_point((self.size,), Stream.TWO_POINT, self.dtype)
        return draws.normal((self.size,), Stream.NOISE, self.dtype)
