"""The gradient noise of a landscape to second order about a point, where moments close."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sde_sgd.types import Vector

# Noise that depends on θ needs d⁴ numbers.
MAX_DIMENSION = 64
_ROWS = 512  # examples whose Hessians are in memory at a time


class NoiseMoments(NamedTuple):
    """Cov(ĝ) at θ + u as a quadratic in u: C(u) = star + X u + K[u uᵀ].

    Exact where example losses are quadratic: the mean of C over any law of u then needs the first
    two moments of u alone. `cross` is X (d, d, d), X u = `cross` @ u; `feedback` is K (d, d, d, d),
    K[S]_ac = Σ_bd `feedback`[a, c, b, d] S_bd for symmetric S; both are None where C does not
    depend on θ. `exact`: whether nothing was left out.
    """

    star: Float[np.ndarray, "d d"]
    cross: Float[np.ndarray, "d d d"] | None
    feedback: Float[np.ndarray, "d d d d"] | None
    exact: bool

    def scaled(self, factor: float) -> "NoiseMoments":
        """Of `factor` times this covariance."""
        return self.mapped(lambda array: factor * array)

    def mapped(self, linear) -> "NoiseMoments":
        """Of a linear function of this covariance, applied to the first two axes (d, d, ...)."""
        first = None if self.cross is None else linear(self.cross)
        second = None if self.feedback is None else linear(self.feedback)
        return NoiseMoments(linear(self.star), first, second, self.exact)

    def plus(self, constant: Float[np.ndarray, "d d"]) -> "NoiseMoments":
        """With an independent noise of constant covariance on top."""
        return self._replace(star=self.star + constant)

    def moved(self, by: Float[np.ndarray, " d"]) -> "NoiseMoments":
        """About θ + `by` in place of θ."""
        if self.cross is None or self.feedback is None:
            return self
        pulled = self.feedback @ by
        pulled = pulled + np.swapaxes(self.feedback, 2, 3) @ by
        return NoiseMoments(
            self.star + self.cross @ by + np.einsum("acbd,b,d->ac", self.feedback, by, by),
            self.cross + pulled,
            self.feedback,
            self.exact,
        )

    def rotated(self, basis: Float[np.ndarray, "d d"]) -> "NoiseMoments":
        """In the coordinates basisᵀu."""

        def turn(array):
            for axis in range(array.ndim):
                array = np.moveaxis(np.tensordot(array, basis, (axis, 0)), -1, axis)
            return array

        first = None if self.cross is None else turn(self.cross)
        second = None if self.feedback is None else turn(self.feedback)
        return NoiseMoments(turn(self.star), first, second, self.exact)

    def at(
        self, second: Float[np.ndarray, "d d"], mean: Float[np.ndarray, " d"]
    ) -> Float[np.ndarray, "d d"]:
        """E C(u) for u of a mean and a second moment E u uᵀ."""
        if self.cross is None or self.feedback is None:
            return self.star
        return self.star + self.cross @ mean + np.tensordot(self.feedback, second, 2)


def refuse_many(dimension: int, name: str) -> None:
    """Raises `ValueError` where d⁴ numbers are too many."""
    if dimension > MAX_DIMENSION:
        raise ValueError(
            f"{name} has d={dimension}, and moments of noise that depends on θ need d⁴ numbers, "
            f"for d ≤ {MAX_DIMENSION}: use fewer parameters, or freeze the noise with "
            f"ConstantNoise.at(landscape, θ, sampling)."
        )


def example_expansions(
    landscape: Any, theta: Vector
) -> Iterator[tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d d"]]]:
    """g_i and H_i of a finite sum's examples at θ, some at a time."""
    for rows in np.array_split(
        np.arange(landscape.num_examples), -(-landscape.num_examples // _ROWS)
    ):
        first, second = _expansion(landscape, theta, jnp.asarray(rows))
        yield np.asarray(first, np.float64), np.asarray(second, np.float64)


@eqx.filter_jit
def _expansion(landscape: Any, theta: Vector, rows: Array) -> tuple[Array, Array]:
    data = jax.tree.map(lambda leaf: leaf[rows], landscape.data)

    def gradients(x):
        return landscape.gradients_of(x, data)

    return gradients(theta), jax.jacfwd(gradients)(theta)


def constant(covariance, exact: bool) -> NoiseMoments:
    """Of a covariance that does not depend on θ, or that is held where it is."""
    return NoiseMoments(np.asarray(covariance, np.float64), None, None, exact)


def of_examples(
    examples: Iterable[tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d d"]]], exact: bool
) -> NoiseMoments:
    """Σ about θ, from each example's gradient g_i (n, d) and Hessian H_i (n, d, d), in blocks.

    With means ḡ, H̄ over all examples, Σ(θ + u) is the covariance of g_i + H_i u:

        star = ⟨g gᵀ⟩ − ḡ ḡᵀ ,   X u = ⟨g uᵀH + H u gᵀ⟩ − (ḡ uᵀH̄ + H̄ u ḡᵀ) ,
        K[S] = ⟨H S H⟩ − H̄ S H̄ .
    """
    total, slope, curve, square, mixed, quartic = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for g, h in examples:
        dim = g.shape[1]
        flat = h.reshape(len(h), -1)
        total += len(g)
        slope, curve, square = slope + g.sum(0), curve + h.sum(0), square + g.T @ g
        mixed = mixed + (g.T @ flat).reshape(dim, dim, dim)  # ⟨g_a H_cj⟩, axes (a, c, j)
        quartic = quartic + (flat.T @ flat).reshape(dim, dim, dim, dim)  # ⟨H_ab H_cd⟩
    slope, curve, mixed = slope / total, curve / total, np.asarray(mixed) / total
    star = square / total - np.outer(slope, slope)
    mixed = mixed - np.multiply.outer(slope, curve)
    quartic = np.asarray(quartic) / total - np.multiply.outer(curve, curve)
    feedback = np.ascontiguousarray(np.moveaxis(quartic, 1, 2))  # axes (a, c, b, d)
    return NoiseMoments(star, mixed + np.swapaxes(mixed, 0, 1), feedback, exact)
