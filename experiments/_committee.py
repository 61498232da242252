"""Two layers on a quadratic target: the landscape, and its deterministic limits.

h hidden units z ↦ z + ½εz² with fixed outputs ±α/h learn y = ½(β·x)² from N inputs x ~ N(0, I).
Units come in pairs of equal weights and opposite outputs, so that f = 0 at the start. The loss is
scaled by h/α², and time with it: then the lazy limit α → ∞ has a finite speed. As f is a quadratic
form b·x + xᵀAx, its error over the population is known without a test set.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

import sde_sgd as ss

_TOLERANCE = 1e-9
_MOST_STEPS = 4096
_GRID = 2001


class Committee(ss.AbstractFiniteSum):
    """ℓ_i(θ) = (h/2α²)(f(x_i) − y_i)², f(x) = (α/h) Σ_j s_j (z_j + ½ε z_j²), z_j = w_j·x.

    θ is W (h, D) flattened by rows; signs s_j = ±1 for the two halves; y_i = ½(β·x_i)².
    """

    data: tuple[Float[Array, "n inputs"], Float[Array, " n"]]
    target: Float[Array, " inputs"]
    scale: Float[Array, ""]
    quadratic: Float[Array, ""]
    hidden: int = eqx.field(static=True)
    noise_form: ss.landscapes.noise_forms.AbstractNoiseForm

    def __init__(self, inputs, target, *, scale: float, quadratic: float, hidden: int):
        x, beta = jnp.asarray(inputs, float), jnp.asarray(target, float)
        self.data = (x, 0.5 * (x @ beta) ** 2)
        self.target, self.hidden = beta, hidden
        self.scale, self.quadratic = jnp.asarray(scale, float), jnp.asarray(quadratic, float)
        self.noise_form = ss.landscapes.noise_forms.ExampleWeights()

    @property
    def dimension(self) -> int:
        return self.hidden * self.target.shape[0]

    @property
    def dtype(self):
        return self.target.dtype

    @property
    def _signs(self) -> Float[Array, " hidden"]:
        half = jnp.ones(self.hidden // 2, self.dtype)
        return jnp.concatenate([half, -half])

    def outputs(self, theta, inputs):
        """f(x) of each row, (n,)."""
        z = inputs @ theta.reshape(self.hidden, -1).T
        return self.scale / self.hidden * ((z + 0.5 * self.quadratic * z**2) @ self._signs)

    def losses(self, theta, data):
        inputs, targets = data
        unit = self.hidden / self.scale**2
        return 0.5 * unit * (self.outputs(theta, inputs) - targets) ** 2

    def form(self, theta):
        """b (D,) and A (D, D) of f(x) = b·x + xᵀAx."""
        weights, unit = theta.reshape(self.hidden, -1), self.scale / self.hidden
        matrix = (weights * self._signs[:, None]).T @ weights
        return unit * self._signs @ weights, 0.5 * unit * self.quadratic * matrix

    def population_error(self, form):
        """½E(f − y)² over x ~ N(0, I) of a form: ½(|b|² + 2|Δ|² + (tr Δ)²), Δ = A − ½ββᵀ."""
        b, matrix = form
        apart = matrix - 0.5 * jnp.outer(self.target, self.target)
        return 0.5 * (b @ b + 2 * jnp.sum(apart**2) + jnp.trace(apart) ** 2)

    def general_error(self, theta):
        """Error over the population."""
        return self.population_error(self.form(theta))

    def training_error(self, theta):
        """½ mean (f − y)² over the examples."""
        return self.loss(theta) * self.scale**2 / self.hidden


class Below(eqx.Module):
    """Whether the training error, or that over the population, is at most a level."""

    landscape: Committee
    level: Float[Array, ""]
    training: bool = eqx.field(static=True)

    def error(self, theta):
        """The error."""
        which = self.landscape.training_error if self.training else self.landscape.general_error
        return which(theta)

    def __call__(self, theta):
        return self.error(theta) <= self.level


def start(inputs: int, hidden: int, seed: int) -> np.ndarray:
    """Weights N(0, 1/D), the second half a copy of the first, so that f = 0; (h·D,)."""
    half = np.random.default_rng(seed).normal(size=(hidden // 2, inputs)) / np.sqrt(inputs)
    return np.concatenate([half, half]).ravel()


@eqx.filter_jit
def flow(landscape: Committee, theta, duration):
    """dθ/dt = −∇L by an 8th-order solver, with its continuous solution."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, place: -place.gradient(y)),
        diffrax.Dopri8(),
        0.0,
        duration,
        None,
        theta,
        args=landscape,
        saveat=diffrax.SaveAt(dense=True, t1=True),
        stepsize_controller=diffrax.PIDController(rtol=_TOLERANCE, atol=_TOLERANCE),
        max_steps=_MOST_STEPS,
    )


@eqx.filter_jit
def along(solution, watched: Below, times):
    """The watched error of the flow at times (n,)."""
    return lax.map(lambda t: watched.error(solution.evaluate(t)), times)


def passage(solution, watched: Below, duration: float) -> float:
    """First time at which the flow's error is at the level; infinite if that is later than T."""
    low, high = 0.0, duration
    # The second grid divides one step of the first, so that a straight line ends the search.
    for _ in range(2):
        times = np.linspace(low, high, _GRID)
        error = np.asarray(along(solution, watched, times)) - float(watched.level)
        if not (error <= 0).any():
            return np.inf
        last = int(np.argmax(error <= 0))
        low, high = times[last - 1], times[last]
    return float(low + (high - low) * error[last - 1] / (error[last - 1] - error[last]))


@eqx.filter_jit
def _backward(landscape: Committee, solution, slope, instant):
    def field(s, state, args):
        vector, _ = state
        theta = solution.evaluate(instant - s)
        # Σ along a vector is the variance over examples of the slope of their losses.
        _, slopes = jax.jvp(landscape.example_losses, (theta,), (vector,))
        return -landscape.hessian_vector_product(theta, vector), jnp.var(slopes)

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        instant,
        None,
        (slope, jnp.zeros(())),
        stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-9),
        max_steps=_MOST_STEPS,
    )
    assert found.ys is not None
    return found.ys[1][0]


def passage_variance(solution, watched: Below, instant: float) -> float:
    """V with Var τ → ηcV as η → 0: the linear noise about the flow, seen at its passage.

    δθ has the noise ηcΣ(θ(s)) ds and is carried by −∇²L; τ moves by ∇E·δθ/(∇E·∇L). So
    V = ∫ λᵀΣλ ds/(∇E·∇L)² with λ = ∇E at the passage, and dλ/ds = ∇²L λ before it.
    """
    landscape = watched.landscape
    theta = solution.evaluate(instant)
    slope = jax.grad(watched.error)(theta)
    speed = float(slope @ landscape.gradient(theta))
    return float(_backward(landscape, solution, slope, jnp.asarray(instant))) / speed**2


@eqx.filter_jit
def _euler(watched: Below, theta, step, most):
    def going(carry):
        k, _, _, now = carry
        return (now > watched.level) & (k < most)

    def move(carry):
        k, theta, _, now = carry
        theta = theta - step * watched.landscape.gradient(theta)
        return k + 1, theta, now, watched.error(theta)

    first = watched.error(theta)
    k, _, before, now = lax.while_loop(going, move, (jnp.asarray(0), theta, first, first))
    share = (before - watched.level) / (before - now)
    return jnp.where(now > watched.level, jnp.inf, (k - 1 + share) * step)


def euler_passage(watched: Below, theta, step: float, duration: float) -> float:
    """The time at which θ ← θ − h∇L is at the level, interpolated between two steps."""
    return float(_euler(watched, jnp.asarray(theta), step, int(duration / step)))


@eqx.filter_jit
def _slopes(landscape: Committee, theta):
    return jax.jacrev(lambda x: landscape.outputs(x, landscape.data[0]))(theta)


@eqx.filter_jit
def _lazy_errors(landscape: Committee, theta, moves):
    def one(move):
        return landscape.population_error(jax.jvp(landscape.form, (theta,), (move,))[1])

    return lax.map(one, moves)


def kernel_error(landscape: Committee, theta, times) -> Float[np.ndarray, " n"]:
    """Population error at times t (n,) of the lazy limit, the flow linearised about its start θ.

    With J the slopes of f/α at the examples and K = JJᵀ, that flow from f = 0 has
    αδθ = JᵀK⁻¹(1 − e^{−Kht/N})y, at t = ∞ kernel regression with the tangent kernel K; its form is
    that of the linearised b and A.
    """
    theta, scale = jnp.asarray(theta), float(landscape.scale)
    slopes = np.asarray(_slopes(landscape, theta)) / scale
    values, basis = np.linalg.eigh(slopes @ slopes.T)
    rates = landscape.hidden / landscape.num_examples * values
    fitted = -np.expm1(-np.multiply.outer(np.asarray(times, float), rates))
    fitted = fitted * (basis.T @ np.asarray(landscape.data[1])) / values
    moves = fitted @ basis.T @ slopes / scale
    return np.asarray(_lazy_errors(landscape, theta, jnp.asarray(moves)))
