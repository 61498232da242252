"""The cells of a sweep: which there are, what each is called, and which key each has."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.random as jr
import numpy as np

from sde_sgd._checks import check_list, check_text, in_brief

Label: TypeAlias = bool | int | float | str
_RESERVED = ("cell_failure", "cell_seconds")


class Cell(NamedTuple):
    """A cell: its place in the grid, the value of each axis, and a name made of these values."""

    place: tuple[int, ...]
    values: dict[str, Label]
    name: str


def check_grid(grid: Any) -> dict[str, list[Label]]:
    """Axes and their values, as Python numbers, texts and truth values."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            f'grid must name the axes and give the values of each, such as {{"learning_rate": '
            f'[0.1, 0.2], "seed": range(5)}}; got {in_brief(grid)}.'
        )
    return {_axis(name): _values(name, given) for name, given in grid.items()}


def cells_of(grid: Mapping[str, list[Label]]) -> list[Cell]:
    """All cells, the last axis fastest."""
    return [
        Cell(place, values, name_of(values))
        for place in itertools.product(*(range(len(v)) for v in grid.values()))
        for values in [{axis: v[i] for (axis, v), i in zip(grid.items(), place, strict=True)}]
    ]


def name_of(values: Mapping[str, Label]) -> str:
    """32 hexadecimal digits of the values alone: 1 and 1.0 are one, whatever the order of axes."""
    plain = {axis: _exactly(value) for axis, value in values.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def _exactly(value: Label) -> Label:
    """A whole number digit by digit, any other one by its bits."""
    if isinstance(value, bool | str):
        return value
    return f"{int(value)}" if value == int(value) else float(value).hex()


def key_of(key: jax.Array, cell: Cell) -> jax.Array:
    """The key of a cell, which the other cells of the grid have no part in."""
    for start in (0, 8):
        key = jr.fold_in(key, np.uint32(int(cell.name[start : start + 8], 16)))
    return key


def text_of(values: Mapping[str, Label]) -> str:
    """learning_rate=0.1, seed=3."""
    return ", ".join(f"{axis}={value}" for axis, value in values.items())


def _axis(name: Any) -> str:
    check_text("each name of grid", name)
    if name in _RESERVED or not name.isidentifier():
        raise ValueError(
            f"An axis of grid must be a name such as learning_rate, and none of "
            f"{', '.join(_RESERVED)}; got {name!r}."
        )
    return name


def _values(axis: str, given: Any) -> list[Label]:
    listed = check_list(f"grid[{axis!r}]", given, "[0.1, 0.2]")
    values = [_label(axis, value) for value in listed]
    if not values:
        raise ValueError(f"grid[{axis!r}] has no values: give one at least.")
    if len({(isinstance(v, str), v) for v in values}) < len(values):
        raise ValueError(f"grid[{axis!r}] has a value twice: {values}.")
    if len({isinstance(v, str) for v in values}) > 1:
        raise ValueError(f"grid[{axis!r}] mixes texts with numbers: {values}.")
    return values


def _label(axis: str, value: Any) -> Label:
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"grid[{axis!r}] must be finite; got {value}.")
    if not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"grid[{axis!r}] must hold numbers or texts, which label the cells; got "
            f"{in_brief(value)}. Give it a name, and let the function look the object up."
        )
    return value
