"""What is handed over in the place of each argument."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import sde_sgd as ss


class Nothing:
    """A class of the user's."""


def three_arguments(first, second, third):
    return first


def gives_none(*arguments):
    return None


def gives_word(*arguments):
    return "a"


def gives_complex(*arguments):
    return arguments[-1] * 1j


def gives_ragged(*arguments):
    return [arguments[-1], [1.0, [2.0]]]


def raises(*arguments):
    raise RuntimeError("of the user's own function")


def bad_values():
    """Names and values, of the same form in every run."""
    numbers = {
        "nan": float("nan"),
        "inf": float("inf"),
        "minus inf": -float("inf"),
        "minus one": -1,
        "zero": 0,
        "one and a half": 1.5,
        "two": 2,
        "a billion": 10**9,
        "2^63": 2**63,
        "10^400": 10**400,
        "1e300": 1e300,
        "complex": 1 + 2j,
        "true": True,
    }
    others = {
        "None": None,
        "data.digits": "10",
        "word": "a",
        "bytes": b"1",
        "object": object(),
        "class": Nothing,
        "path": Path("/nowhere/x"),
        "empty list": [],
        "ragged list": [1, [2, 3]],
        "mixed list": [1, "a"],
        "two numbers": [1.0, 2.0],
        "dict": {"a": 1.0},
        "int key dict": {1: 2.0},
        "set": {1},
        "generator": (i for i in range(2)),
        "jax key": jax.random.key(0),
    }
    arrays = {
        "object array": np.array([None, 1], object),
        "masked array": np.ma.masked_array([1.0, 2.0], [True, False]),
        "shape (2, 3)": np.zeros((2, 3)),
        "shape (1, 1, 1)": np.ones((1, 1, 1)),
        "empty array": np.zeros(0),
        "nan array": np.array([np.nan, 1.0]),
        "complex array": np.array([1j, 1.0]),
        "string array": np.array("a"),
        "date": np.datetime64("2020-01-01"),
        "half array": np.ones(2, np.float16),
        "big integers": np.array([2**63, 1], np.uint64),
    }
    functions = {
        "three arguments": three_arguments,
        "gives None": gives_none,
        "gives a word": gives_word,
        "gives complex": gives_complex,
        "gives a ragged list": gives_ragged,
        "raises": raises,
        "numpy function": np.sin,
    }
    parts = {
        "landscape": ss.Potential(jnp.sum, np.eye(2)),
        "sampling": ss.WithReplacement(2),
        "estimate": ss.Estimate(1.0, 0.1, 5),
    }
    return numbers | others | arrays | functions | parts
