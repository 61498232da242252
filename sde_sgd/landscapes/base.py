"""What is minimised: the common base, finite sums and populations.

θ is one flat vector (d,); optimisers of matrices see the parameters as `unravel` gives them."""

import abc
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sde_sgd.landscapes.blocks import fitting_block, map_blocks, sum_blocks
from sde_sgd.landscapes.convolutions import channels_last
from sde_sgd.landscapes.noise_forms import AbstractNoiseForm
from sde_sgd.landscapes.noise_moments import (
    constant,
    example_expansions,
    NoiseMoments,
    of_examples,
    refuse_many,
)
from sde_sgd.landscapes.probe import check_finite_sum, check_population
from sde_sgd.landscapes.validate import as_point
from sde_sgd.random.draws import Draws, Stream
from sde_sgd.types import Indices, Matrix, RealLike, Scalar, Vector, Weights

if TYPE_CHECKING:
    from sde_sgd.landscapes.minimise import Minimum


class AbstractLandscape(eqx.Module):
    """A loss L(θ) on R^d with random gradients ĝ of mean ∇L and known covariance.

    Conventions: L is a *mean* loss; Σ(θ), 1/N-normalised, is the covariance of the gradient of one
    example; that of a batch is c Σ, c the factor of the sampling scheme.

    A landscape of your own derives from `AbstractFiniteSum` (examples in memory: two methods) or
    `AbstractPopulation` (fresh examples: five), whose docstrings show one; an energy without
    examples is `Potential(energy, noise_covariance)`, a network `EmpiricalRisk`.

    A landscape holds arrays, which `jax.jit` cannot hash: `eqx.filter_jit(landscape.gradient)`.
    """

    def __repr__(self) -> str:
        known = "" if self.num_examples is None else f"N={self.num_examples}, "
        return f"{type(self).__name__}({known}d={self.dimension})"

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """d, the length of θ."""

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """The floating dtype of θ and of everything computed from it."""

    @property
    @abc.abstractmethod
    def num_examples(self) -> int | None:
        """N, or None for a population."""

    @property
    @abc.abstractmethod
    def noise_dimension(self) -> int:
        """k, the number of normal numbers behind one draw of Σ^{1/2}(θ)·noise."""

    @abc.abstractmethod
    def loss(self, theta: Vector) -> Scalar:
        """L(θ)."""

    @abc.abstractmethod
    def gradient(self, theta: Vector) -> Vector:
        """∇L(θ), (d,)."""

    @abc.abstractmethod
    def minibatch_loss(self, theta: Vector, examples: PyTree[Array]) -> Scalar:
        """L_B(θ) = (1/B) Σ_{i∈batch} ℓ_i(θ).

        `examples` are (B,) indices for a finite sum, B fresh examples for a population.
        """

    def minibatch_gradient(self, theta: Vector, examples: PyTree[Array]) -> Vector:
        """ĝ_B(θ) = ∇L_B(θ), (d,)."""
        return jax.grad(self.minibatch_loss)(theta, examples)

    @abc.abstractmethod
    def gradient_covariance(self, theta: Vector) -> Matrix:
        """Σ(θ), (d, d): the covariance of one example's gradient. Costs O(N d²)."""

    def gradient_variance(self, theta: Vector) -> Vector:
        """Σ_jj(θ), (d,): the variance of each coordinate of one example's gradient.

        A finite sum forms the gradients of its examples, some at a time: far dearer than ∇L.
        """
        return jnp.sum(self.covariance_root(theta) ** 2, axis=1)

    @abc.abstractmethod
    def noisy_gradient(self, theta: Vector, z: Float[Array, " k"], amplitude) -> Vector:
        """∇L(θ) + amplitude·Σ^{1/2}(θ) z, z of `noise_dimension` entries."""

    @abc.abstractmethod
    def covariance_root(self, theta: Vector) -> Float[Array, "d k"]:
        """A root R(θ), (d, k), with R Rᵀ = Σ(θ): the matrix that `noisy_gradient` applies to z."""

    @abc.abstractmethod
    def draw_examples(self, draws: Draws, batch_size: int) -> PyTree[Array]:
        """`batch_size` independent examples for each member, (members, B, ...)."""

    def unravel(self, theta: Vector) -> PyTree[Array]:
        """The parameters that θ consists of, in their own shapes: here the vector itself."""
        return theta

    def ravel(self, parameters: PyTree[Array]) -> Vector:
        """θ (d,) of such parameters, the inverse of `unravel`."""
        return parameters

    def hessian(self, theta: Vector) -> Matrix:
        """∇²L(θ), (d, d)."""
        return jax.jacfwd(self.gradient)(as_point(self, theta))

    def hessian_vector_product(self, theta: Vector, vector: Vector) -> Vector:
        """∇²L(θ) v at the cost of two gradients."""
        along = (as_point(self, vector, "vector"),)
        return jax.jvp(self.gradient, (as_point(self, theta),), along)[1]

    def rest(self) -> np.ndarray | None:
        """The minimum (d,) of an L that is quadratic, where moments close; None by default."""
        return None

    def noise_moments(self, theta: Vector) -> NoiseMoments:
        """Σ(θ + u) to second order in u; held at Σ(θ), by default."""
        return constant(self.gradient_covariance(as_point(self, theta)), exact=False)

    def minimise(
        self,
        theta: Any,
        *,
        method: str = "lbfgs",
        tolerance: RealLike = 1e-6,
        max_steps: int = 10_000,
        budget: RealLike | None = None,
        progress: bool | None = None,
    ) -> "Minimum":
        """A minimum of L near θ, for SGD to start from, or the one below where SGD ended.

        No d×d matrix is formed beyond d = 64, and examples are in memory block by block: networks
        of 10⁵ and more parameters have room. The search is over where |∇L| is `tolerance` times
        the gradient of one example (root mean square at the start, from eight draws), a drift that
        is invisible beside minibatch noise; or at the rounding of θ. ∇²L is then looked at: where
        it has a negative eigenvalue, or Newton's step is longer than √tolerance·max(1, |θ|), the
        result says so and has not `converged`.

        **Arguments:**

        - `theta`: the start, (d,).
        - `method`: "lbfgs", limited-memory BFGS; "newton-cg", Newton's method by conjugate
          gradients in a trust region, for ill-conditioned L (a Hessian–vector product costs two
          gradients), and what "lbfgs" goes over to where rounding ends it. Both may leave the basin
          of the start; "gradient-flow" follows dθ/dt = −∇L(θ), dearer by far, and stays in it.
        - `tolerance`: of |∇L|, see above; if it is below the rounding of θ that ends the search.
        - `max_steps`: iterations of the method.
        - `budget`: seconds, after which the best point so far comes back; so it does on Ctrl-C.
        - `progress`: a line on stderr; None shows it on a terminal.

        **Raises:** `ValueError` for a θ of another shape, or where L is not finite.
        """
        from sde_sgd.landscapes.minimise import minimise

        return minimise(self, theta, method, tolerance, max_steps, budget, progress)


# Blocks by class, dimension and shapes of the data: each trace of a landscape asks for its own.
_BLOCKS: dict[tuple, int] = {}


class AbstractFiniteSum(AbstractLandscape):
    """L(θ) = (1/N) Σ_i ℓ_i(θ).

    A subclass gives `data` (leading axis N on every leaf), `dimension` d and
    `losses(theta, data)`, the losses (n,) of any n rows of it at θ (d,). Everything else follows
    from one vector–Jacobian product, Jᵀw with J the N×d Jacobian of the example losses;
    `noise_form` says how ∇L and minibatch noise come about: `ExampleWeights()` serves any finite
    sum, others know a shorter way. `dtype` is that of the first floating array of `data`.

    Losses, weighted gradients and all that follows from them hold `example_block` examples in
    memory at a time, so that N is bounded by the data and not by a network's activations.

    ```python
    class PoissonRegression(ss.AbstractFiniteSum):
        "ℓ_i(θ) = exp(x_i·θ) − y_i x_i·θ."

        data: tuple[jax.Array, jax.Array]
        noise_form: ss.landscapes.AbstractNoiseForm = ss.landscapes.ExampleWeights()

        @property
        def dimension(self):
            return self.data[0].shape[1]

        def losses(self, theta, data):
            inputs, counts = data
            return jnp.exp(inputs @ theta) - counts * (inputs @ theta)
    ```
    """

    data: eqx.AbstractVar[PyTree[Array]]
    noise_form: eqx.AbstractVar[AbstractNoiseForm]

    def __check_init__(self):
        check_finite_sum(self)

    @abc.abstractmethod
    def losses(self, theta: Vector, data: PyTree[Array]) -> Weights:
        """ℓ_i(θ) for the examples in `data`, (n,)."""

    @property
    def dtype(self) -> jnp.dtype:
        for leaf in jax.tree.leaves(self.data):
            if eqx.is_inexact_array(leaf):
                return leaf.dtype
        raise ValueError(
            f"The data of {type(self).__name__} have no floating array, whose dtype θ would have: "
            f"give it a property `dtype`, or cast an array."
        )

    @property
    def num_examples(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]

    @property
    def noise_dimension(self) -> int:
        return self.noise_form.dimension(self)

    @property
    def example_block(self) -> int:
        """Examples in memory at a time, for one member: as many as fit.

        A default of its own, from the bytes of one example's gradient; `EmpiricalRisk` takes it
        as an argument.
        """
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(self.data))
        kind = (type(self), self.dimension, str(self.dtype), shapes)
        if kind not in _BLOCKS:
            point = jax.ShapeDtypeStruct((self.dimension,), self.dtype)
            _BLOCKS[kind] = fitting_block(self._pull_back, point, self.data)
        return _BLOCKS[kind]

    def example_losses(self, theta: Vector) -> Weights:
        """ℓ_i(θ), (N,)."""
        losses, point = channels_last(self.losses), as_point(self, theta)
        return map_blocks(lambda data: losses(point, data), self.data, self.example_block)

    def weighted_gradient(self, theta: Vector, weights: Weights) -> Vector:
        """Jᵀw = Σ_i w_i ∇ℓ_i(θ), (d,): one vector–Jacobian product whatever the weights."""
        point = as_point(self, theta)
        return sum_blocks(
            lambda data, own: self._pull_back(point, data, own),
            self.data,
            weights,
            self.example_block,
        )

    def _pull_back(self, theta: Vector, data: PyTree[Array], weights: Weights) -> Vector:
        """Σ_i w_i ∇ℓ_i(θ) over the examples in `data`, all in memory at once."""

        def product(theta, data, weights):
            _, pull_back = jax.vjp(lambda x: self.losses(x, data), theta)
            return pull_back(weights)[0]

        return channels_last(product)(theta, data, weights)

    def example_gradients(self, theta: Vector) -> Float[Array, "n d"]:
        """J, (N, d). Costs N gradients and N·d numbers: not for every step."""
        point = as_point(self, theta)
        return map_blocks(
            lambda data: self.gradients_of(point, data), self.data, self.example_block
        )

    def gradients_of(self, theta: Vector, data: PyTree[Array]) -> Float[Array, "n d"]:
        """∇ℓ_i(θ) for the examples in `data`, all in memory at once."""

        def one(theta, example):
            batch = jax.tree.map(lambda a: a[None], example)
            return jax.grad(lambda x: self.losses(x, batch)[0])(theta)

        return channels_last(jax.vmap(one, (None, 0)))(theta, data)

    def weighted_hessian_gradient(self, theta: Vector, weights: Weights) -> Vector:
        """½∇ Σ_i w_i |∇ℓ_i|² = Σ_i w_i ∇²ℓ_i ∇ℓ_i, (d,): N Hessian products and N·d numbers."""
        return 0.5 * jax.grad(lambda x: weights @ jnp.sum(self.example_gradients(x) ** 2, 1))(theta)

    def noise_moments(self, theta: Vector) -> NoiseMoments:
        """Σ(θ + u) with each example's own gradient and Hessian kept; exact for quadratic ℓ_i."""
        refuse_many(self.dimension, type(self).__name__)
        exact = self.rest() is not None
        return of_examples(example_expansions(self, as_point(self, theta)), exact)

    def loss(self, theta: Vector) -> Scalar:
        return jnp.mean(self.example_losses(theta))

    def gradient(self, theta: Vector) -> Vector:
        return self.noise_form.gradient(self, as_point(self, theta))

    def minibatch_loss(self, theta: Vector, examples: Indices) -> Scalar:
        losses, point = channels_last(self.losses), as_point(self, theta)
        values = map_blocks(
            lambda some: losses(point, self._rows(some)), examples, self.example_block
        )
        return jnp.mean(values)

    def minibatch_gradient(self, theta: Vector, examples: Indices) -> Vector:
        size, point = examples.shape[0], as_point(self, theta)
        return sum_blocks(
            lambda some, weights: self._pull_back(point, self._rows(some), weights),
            examples,
            jnp.full((size,), 1 / size, point.dtype),
            self.example_block,
        )

    def _rows(self, examples: Indices) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: leaf[examples], self.data)

    def gradient_covariance(self, theta: Vector) -> Matrix:
        root = self.covariance_root(theta)
        return root @ root.T

    def noisy_gradient(self, theta: Vector, z: Float[Array, " k"], amplitude) -> Vector:
        return self.noise_form.noisy_gradient(self, as_point(self, theta), z, amplitude)

    def covariance_root(self, theta: Vector) -> Float[Array, "d k"]:
        return self.noise_form.root(self, as_point(self, theta))

    def gradient_variance(self, theta: Vector) -> Vector:
        return self.noise_form.variance(self, as_point(self, theta))

    def draw_examples(self, draws: Draws, batch_size: int) -> PyTree[Array]:
        return draws.integers((batch_size,), self.num_examples, Stream.BATCH)


class AbstractPopulation(AbstractLandscape):
    """A landscape known through its population: every step sees fresh examples.

    A subclass gives `dimension` d, `loss` L(θ), `example_loss` ℓ(θ; x), `covariance_root` R(θ)
    (d, k) with R Rᵀ = Σ(θ), and `draw_examples`, B fresh ones for each member, (members, B, ...).
    There is no N and there are no example weights. k is d (`noise_dimension`) and `dtype` JAX's
    default floating dtype, unless you write them.

    ```python
    class NoisyMean(ss.landscapes.AbstractPopulation):
        "ℓ(θ; x) = ½(θ − x)², x standard normal, d = 1: L(θ) = ½θ² + ½, Σ(θ) = 1."
        dimension = 1

        def loss(self, theta):
            return 0.5 * jnp.sum(theta**2) + 0.5

        def example_loss(self, theta, example):
            return 0.5 * jnp.sum((theta - example) ** 2)

        def covariance_root(self, theta):
            return jnp.eye(1, dtype=theta.dtype)

        def draw_examples(self, draws, batch_size):
            return draws.normal((batch_size, 1), ss.Stream.BATCH, self.dtype)
    ```
    """

    def __check_init__(self):
        check_population(self)

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(jnp.result_type(float))

    @property
    def noise_dimension(self) -> int:
        return self.dimension

    @abc.abstractmethod
    def example_loss(self, theta: Vector, example: PyTree[Array]) -> Scalar:
        """ℓ(θ; example), whose mean over the population is L(θ)."""

    @property
    def num_examples(self) -> None:
        return None

    def gradient(self, theta: Vector) -> Vector:
        return jax.grad(self.loss)(theta)

    def minibatch_loss(self, theta: Vector, examples: PyTree[Array]) -> Scalar:
        return jnp.mean(jax.vmap(lambda example: self.example_loss(theta, example))(examples))

    def gradient_covariance(self, theta: Vector) -> Matrix:
        root = self.covariance_root(theta)
        return root @ root.T

    def noisy_gradient(self, theta: Vector, z: Float[Array, " k"], amplitude) -> Vector:
        noise = self.covariance_root(theta) @ z
        return self.gradient(theta) + jnp.asarray(amplitude, theta.dtype) * noise
