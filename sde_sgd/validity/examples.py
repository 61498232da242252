"""Some of the examples of a finite sum, where all of them would cost too much."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd.landscapes.base import AbstractFiniteSum
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm, ExampleWeights
from sde_sgd.types import Key, Vector, Weights

# A sample's gradients, all together, are at most so many numbers …
_NUMBERS = 5 * 10**7
# … but it has no fewer examples than this, and no more than that.
_LEAST, _MOST = 512, 2**14


class SomeExamples(AbstractFiniteSum):
    """The mean loss over some rows of another landscape's data."""

    landscape: AbstractFiniteSum
    data: PyTree[Array]
    noise_form: AbstractNoiseForm

    def __init__(self, landscape: AbstractFiniteSum, rows: np.ndarray):
        self.landscape = landscape
        self.data = jax.tree.map(lambda leaf: leaf[jnp.asarray(rows)], landscape.data)
        self.noise_form = ExampleWeights()

    @property
    def dimension(self) -> int:
        return self.landscape.dimension

    @property
    def dtype(self) -> jnp.dtype:
        return self.landscape.dtype

    @property
    def example_block(self) -> int:
        return min(self.landscape.example_block, self.num_examples)

    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        return self.landscape.losses(theta, data)


class Examples(eqx.Module):
    """Which examples are looked at.

    **Fields:** `chosen`, in which directions are sought; `examined`, on which those directions are
    judged. Samples of both share no example, since a direction that was found on some of them has
    more noise and curvature there than elsewhere. Both are the landscape itself without sampling.
    """

    chosen: AbstractFiniteSum
    examined: AbstractFiniteSum
    sampled: bool = eqx.field(static=True)

    @staticmethod
    def of(landscape: AbstractFiniteSum, sample: int, key: Key) -> "Examples":
        """All of N ≤ 2·`sample` examples, else two random samples of `sample` each."""
        num = landscape.num_examples
        if num <= 2 * sample:
            return Examples(landscape, landscape, False)
        rows = np.asarray(jr.permutation(key, num)[: 2 * sample])
        halves = (SomeExamples(landscape, rows[:sample]), SomeExamples(landscape, rows[sample:]))
        return Examples(*halves, True)


def default_sample(landscape: AbstractFiniteSum) -> int:
    """512 to 16 384 examples, whose gradients are 5·10⁷ numbers together if they can be."""
    return int(np.clip(_NUMBERS // landscape.dimension, _LEAST, _MOST))
