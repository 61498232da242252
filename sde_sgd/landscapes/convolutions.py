"""Convolutions in the layout that XLA's fast routines on a CPU need.

XLA brings the convolutions of a compiled program into that layout (channels last), but not those
inside its loops, which it then computes entry by entry: a gradient of a small convolutional network
takes fourteen times as long inside a loop as outside it (jax 0.10). All that this library runs is
a loop over iterations and over blocks of examples. So convolutions are rewritten here, after a
function and its derivatives were traced.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, Literal
from jaxtyping import Array

_CONVOLUTION = lax.conv_general_dilated_p


def channels_last(function: Callable) -> Callable:
    """`function` of arrays, with every convolution in it computed channels last on a CPU.

    The numbers are the same to rounding. Derivatives that `function` takes itself are rewritten;
    forward derivatives of the result and `vmap` keep the layout.
    """

    def rewritten(*arguments: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments)
        # The program that was traced is what runs, with convolutions or without, so that nothing is
        # traced twice.
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        changed = ClosedJaxpr(_rewritten(traced.jaxpr), traced.consts)
        results = jaxpr_as_fun(changed)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def convolves(jaxpr: Jaxpr) -> bool:
    """Whether a program has a convolution, in its loops and branches too."""
    return any(
        equation.primitive is _CONVOLUTION
        or any(convolves(inner) for value in equation.params.values() for inner in _programs(value))
        for equation in jaxpr.eqns
    )


def patch_bytes(jaxpr: Jaxpr) -> int:
    """Bytes of the patches that a CPU's convolutions of a program are computed from.

    A convolution without holes in its input is one product of matrices: the kernel times the
    patches under it, outputs × (window · channels) numbers, which XLA holds beside the program's
    own values. All are counted: independent convolutions run at once, and the allocator keeps
    what was freed.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive is _CONVOLUTION and max(equation.params["lhs_dilation"]) == 1:
            kernel, out = _shaped(equation.invars[1]), _shaped(equation.outvars[0])
            channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += (
                math.prod(out.shape) * math.prod(kernel.shape) // channels**2 * out.dtype.itemsize
            )
        for value in equation.params.values():
            total += sum(map(patch_bytes, _programs(value)))
    return total


def _shaped(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)


def _convolve(lhs: Array, rhs: Array, params: dict[str, Any]) -> Array:
    """The convolution of `params`, its operands and result transposed to channels last."""
    numbers, last = params["dimension_numbers"], lhs.ndim - 1
    batch, channel, *places = numbers.lhs_spec
    outputs, inputs, *window = numbers.rhs_spec
    space = range(1, last)
    canonical = lax.ConvDimensionNumbers(
        (0, last, *space), (last, last - 1, *range(last - 1)), (0, last, *space)
    )
    value = _CONVOLUTION.bind(
        lhs.transpose(batch, *places, channel),
        rhs.transpose(*window, inputs, outputs),
        **{**params, "dimension_numbers": canonical},
    )
    batch, channel, *places = numbers.out_spec
    back = {axis: own for own, axis in enumerate((batch, *places, channel))}
    return jnp.transpose(value, [back[axis] for axis in range(last + 1)])


def _rewritten(jaxpr: Jaxpr) -> Jaxpr:
    """The same program, its convolutions and those of the programs inside it rewritten."""
    if not convolves(jaxpr):
        return jaxpr
    equations = []
    for equation in jaxpr.eqns:
        if equation.primitive is _CONVOLUTION:
            equations += _replacement(equation)
        else:
            params = {name: _inside(value) for name, value in equation.params.items()}
            equations.append(equation.replace(params=params))
    return jaxpr.replace(eqns=equations)


def _replacement(equation: Any) -> list[Any]:
    """Equations that stand for a convolution, between its own variables."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    traced = jax.make_jaxpr(lambda x, y: _convolve(x, y, equation.params))(*shapes).jaxpr
    own = dict(zip(traced.invars, equation.invars, strict=True))
    own[traced.outvars[0]] = equation.outvars[0]

    def named(variables: Any) -> list[Any]:
        return [v if isinstance(v, Literal) else own.get(v, v) for v in variables]

    return [
        step.replace(invars=named(step.invars), outvars=named(step.outvars)) for step in traced.eqns
    ]


def _inside(value: Any) -> Any:
    """A parameter of an equation, with the programs that it holds rewritten."""
    if isinstance(value, ClosedJaxpr):
        return ClosedJaxpr(_rewritten(value.jaxpr), value.consts)
    if isinstance(value, Jaxpr):
        return _rewritten(value)
    if type(value) in (tuple, list) and any(_programs(value)):
        return type(value)(_inside(item) for item in value)
    return value


def _programs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [p for item in value for p in _programs(item)] if type(value) in (tuple, list) else []
