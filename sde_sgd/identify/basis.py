"""Functions of θ from which drifts, variance rates and test functions are made."""

import abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from sde_sgd._checks import (
    as_float64,
    check_callable,
    check_finite,
    check_part,
    check_whole,
    in_brief,
    output_shape,
)
from sde_sgd.types import Vector

_MOST_FUNCTIONS = 10_000


class AbstractBasis(eqx.Module):
    """K functions of θ ∈ R^d, as one JAX function (d,) ↦ (K,).

    `dimension` d; `names`, what each is called in an equation.
    """

    dimension: eqx.AbstractVar[int]
    names: eqx.AbstractVar[tuple[str, ...]]

    @abc.abstractmethod
    def __call__(self, theta: Vector) -> Float[Array, " K"]:
        """All functions at one θ."""


class PolynomialBasis(AbstractBasis):
    """All monomials ∏ (θ_i − c_i)^{k_i} of degree ≤ `degree`, by degree: 1, x, x², … for d = 1.

    **Arguments:** `dimension` d, `degree`; `centre` c, (d,), zero if not given. Powers of numbers
    much larger than their spread cannot be told apart: put the centre where the data are.
    """

    dimension: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    centre: Float[np.ndarray, " d"]

    def __init__(self, dimension: int, degree: int, centre: Any = None):
        self.dimension = dimension = check_whole("PolynomialBasis: dimension", dimension)
        self.degree = check_whole("PolynomialBasis: degree", degree, 0)
        # log of the number of monomials, (d + K over K).
        size = (
            scipy.special.gammaln(dimension + degree + 1)
            - scipy.special.gammaln(dimension + 1)
            - scipy.special.gammaln(degree + 1)
        )
        if size > np.log(_MOST_FUNCTIONS):
            raise ValueError(
                f"PolynomialBasis of degree {degree} in {dimension} coordinates has more than "
                f"{_MOST_FUNCTIONS} monomials: lower the degree, or take a FunctionBasis."
            )
        self.centre = (
            np.zeros(dimension) if centre is None else np.array(as_float64("centre", centre))
        )
        if self.centre.shape != (dimension,):
            raise ValueError(f"centre must have shape ({dimension},); got {self.centre.shape}.")
        check_finite("centre", self.centre)

    @property
    def powers(self) -> tuple[tuple[int, ...], ...]:
        """The exponents (k_1, …, k_d) of each function."""
        found = []
        for degree in range(self.degree + 1):
            for chosen in itertools.combinations_with_replacement(range(self.dimension), degree):
                found.append(tuple(chosen.count(i) for i in range(self.dimension)))
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        letters = "xyz" if self.dimension <= 3 else [f"x{i}" for i in range(self.dimension)]
        return tuple(_monomial(letters, powers) for powers in self.powers)

    def __call__(self, theta: Vector) -> Float[Array, " K"]:
        # Products of integer powers: 0⁰ and its derivatives are then right.
        ladder = [jnp.ones_like(theta)]
        for _ in range(self.degree):
            ladder.append(ladder[-1] * (theta - jnp.asarray(self.centre, theta.dtype)))
        one = jnp.ones((), theta.dtype)
        products = []
        for powers in self.powers:
            term = one
            for axis, power in enumerate(powers):
                term = term * ladder[power][axis] if power else term
            products.append(term)
        return jnp.stack(products)


class FunctionBasis(AbstractBasis):
    """Functions of your own: `functions` θ (d,) ↦ scalar, JAX, and what they are called."""

    dimension: int = eqx.field(static=True)
    functions: tuple[Callable, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, dimension: int, functions: Sequence[Callable], names: Sequence[str]):
        self.dimension = check_whole("FunctionBasis: dimension", dimension)
        for what, given in (("functions", functions), ("names", names)):
            if not isinstance(given, list | tuple):
                raise ValueError(f"FunctionBasis: {what} must be a list; got {in_brief(given)}.")
        self.functions, self.names = tuple(functions), tuple(names)
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"FunctionBasis: names must be text; got {in_brief(names)}.")
        if not self.functions or len(self.functions) != len(self.names):
            raise ValueError(
                f"FunctionBasis needs one name for each function, and one function at least; got "
                f"{len(self.functions)} functions and {len(self.names)} names."
            )
        probe = jax.ShapeDtypeStruct((self.dimension,), jnp.result_type(float))
        for name, function in zip(self.names, self.functions, strict=True):
            check_callable(f"The function {name!r}", function, "lambda theta: theta[0] ** 2")
            shape = output_shape(f"The function {name!r}", function, probe).shape
            if shape != ():
                raise ValueError(f"{name}: f(θ) must be a scalar; it has shape {shape}.")

    def __call__(self, theta: Vector) -> Float[Array, " K"]:
        return jnp.stack([jnp.asarray(f(theta), theta.dtype) for f in self.functions])


@eqx.filter_jit
def _values(basis: AbstractBasis, points: Array) -> Array:
    return jax.vmap(basis)(points)


@eqx.filter_jit
def _derivatives(basis: AbstractBasis, points: Array) -> tuple[Array, Array]:
    slopes = jax.jacfwd(basis)
    return jax.vmap(slopes)(points), jax.vmap(jax.jacfwd(slopes))(points)


def values(basis: AbstractBasis, points: Float[np.ndarray, "*shape d"]) -> np.ndarray:
    """f_k at all points, (*shape, K)."""
    _check(basis, points)
    if isinstance(basis, PolynomialBasis):
        # In float64 whatever JAX is set to, and without its dispatch, which repeated fits feel.
        centred = points - basis.centre
        ladder = [np.ones_like(centred)]
        for _ in range(basis.degree):
            ladder.append(ladder[-1] * centred)
        columns = [
            np.prod([ladder[k][..., axis] for axis, k in enumerate(powers)], axis=0)
            for powers in basis.powers
        ]
        return np.stack(columns, axis=-1)
    flat = jnp.asarray(points.reshape(-1, points.shape[-1]), jnp.result_type(float))
    return np.asarray(_values(basis, flat), float).reshape(*points.shape[:-1], -1)


def derivatives(
    basis: AbstractBasis, points: Float[np.ndarray, "*shape d"]
) -> tuple[np.ndarray, np.ndarray]:
    """∇f_k (*shape, K, d) and ∇²f_k (*shape, K, d, d) at all points."""
    _check(basis, points)
    flat = jnp.asarray(points.reshape(-1, points.shape[-1]), jnp.result_type(float))
    first, second = _derivatives(basis, flat)
    shape = points.shape[:-1]
    return (
        np.asarray(first, float).reshape(*shape, *first.shape[1:]),
        np.asarray(second, float).reshape(*shape, *second.shape[1:]),
    )


def check_basis(name: str, basis: Any) -> AbstractBasis:
    """What a caller passed for a basis."""
    check_part(name, basis, AbstractBasis, "a basis such as PolynomialBasis(dimension, degree)")
    return basis


def _check(basis: AbstractBasis, points: np.ndarray) -> None:
    if points.shape[-1] != basis.dimension:
        raise ValueError(
            f"The basis is one of {basis.dimension} coordinates, and positions have "
            f"{points.shape[-1]}."
        )


def _monomial(letters: Sequence[str], powers: tuple[int, ...]) -> str:
    signs = {2: "²", 3: "³"}
    parts = [
        letter + ("" if k == 1 else signs.get(k, f"^{k}"))
        for letter, k in zip(letters, powers, strict=False)
        if k
    ]
    return "".join(parts) or "1"
