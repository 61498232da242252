"""A process: what moves θ from one SGD iteration to the next."""

import abc
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sde_sgd._brief import as_typed
from sde_sgd._checks import in_brief
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise
from sde_sgd.noise.thermal import check_bath, total_temperature
from sde_sgd.processes.clock import Clock
from sde_sgd.processes.linear import LinearReading, LinearStep, NotKnown, read
from sde_sgd.processes.rules import Rule
from sde_sgd.processes.step_laws import Diffusion, StepLaw
from sde_sgd.random.draws import Draws
from sde_sgd.types import Matrix, Positions, Vector

# (carry, positions before, positions after, substep) -> carry: called once a solver step.
Observe: TypeAlias = Callable[[Any, Positions, Positions, Any], Any]


class AbstractProcess(eqx.Module):
    """Moves all members of an ensemble by one SGD iteration at a time.

    A process of your own has a field `landscape` and the method `step`. Give it the other methods
    and properties where their defaults, for a process that remembers nothing beside θ, are wrong:

    - `step(state, draws, observe, carry)`: the state after one iteration, and what
      `observe(carry, before, after, jnp.uint32(j))` gave after each solver step j, θ before and
      after (members, d). Random numbers are `draws.normal((n,), stream, dtype)`, (members, n),
      at substep j `draws.at(substep=j)`.
    - `init(theta, draws)` and `position(state)`, if the state is more than θ (members, d): every
      leaf has the members first, and members never meet, so that any slice of a state is the state
      of those members.
    - `clock`, if t is not counted in iterations; `substeps`, if there are solver steps;
      `autonomous`, for refill and splitting, if a member may begin at any iteration.
    - `linear_step` and `gradient_noise`: stationary moments and the check of stability; `law`: exit
      times and densities; `update_rule`: whether it belongs beside an equation in `side_by_side`;
      `gradients_per_iteration`: forecasts of cost; `refined` and `weak_order`: step errors.

    One that draws a batch of a sampling scheme may derive from `processes.AbstractBatchProcess`.

    ```python
    class NoisyDescent(ss.AbstractProcess):
        "θ ← θ − η(∇L(θ) + σξ_k), ξ_k standard normal."

        landscape: ss.AbstractLandscape
        learning_rate: float
        noise: float
        def step(self, state, draws, observe, carry):
            xi = draws.normal(state.shape[1:], ss.Stream.NOISE, state.dtype)
            noisy = jax.vmap(self.landscape.gradient)(state) + self.noise * xi
            after = state - self.learning_rate * noisy
            return after, observe(carry, state, after, jnp.uint32(0))

        @property
        def clock(self):
            return ss.processes.Clock(self.learning_rate)
    ```
    """

    landscape: eqx.AbstractVar[AbstractLandscape]

    def __repr__(self) -> str:
        return as_typed(self)

    def __check_init__(self):
        if not isinstance(self.clock, Clock):
            raise ValueError(
                f"{type(self).__name__}.clock must be a ss.processes.Clock, such as "
                f"Clock(learning_rate); got {in_brief(self.clock)}."
            )
        if self.clock.rate is not None:
            check_bath(self.gradient_noise, self.clock.constant, type(self).__name__)

    @abc.abstractmethod
    def step(
        self, state: PyTree[Array], draws: Draws, observe: Observe, carry: Any
    ) -> tuple[PyTree[Array], Any]:
        """One iteration; `carry` goes through `observe` after every solver step."""

    def init(self, theta: Positions, draws: Draws) -> PyTree[Array]:
        """The state that starts at θ, (members, d); by default θ itself."""
        return theta

    def position(self, state: PyTree[Array]) -> Positions:
        """θ of every member, (members, d); by default the state itself."""
        return state

    @property
    def substeps(self) -> int:
        """Solver steps in one iteration; 1 for discrete processes, and by default."""
        return 1

    @property
    def clock(self) -> Clock:
        """What its physical time is; iterations by default."""
        return Clock()

    def time(self, iterations: np.ndarray) -> np.ndarray:
        """Physical time t of iterations k (integers, any shape), by its `clock`."""
        return self.clock.time(iterations)

    @property
    def autonomous(self) -> bool:
        """Whether an iteration has the same law at every k: not under a schedule.

        A member may then be put back to its start at any time, as refill and splitting do. False
        by default, as a step may look at `draws.iteration`.
        """
        return False

    @property
    def num_steps(self) -> int | None:
        """Iterations for which it is defined; None, by default, for any number."""
        return None

    @property
    def deterministic(self) -> bool:
        """Whether it draws no random number, so that equal states stay equal; False by default."""
        return False

    @property
    def two_point(self) -> bool:
        """Whether its noise takes two values: for moments only, not for exits and tails."""
        return False

    @property
    def gradient_noise(self) -> AbstractGradientNoise | None:
        """The noise of an iteration's gradient, a bath included; None if there is none.

        Of a discrete process that of its batches.
        """
        return None

    @property
    def bath_temperature(self) -> float:
        """T of the bath in its noise: 0 without one."""
        return total_temperature(self.gradient_noise)

    @property
    def update_rule(self) -> Rule | None:
        """The rule that it follows, or that its equation describes; None, by default: not known.

        `side_by_side` refuses two sides of different rules.
        """
        return None

    @property
    def gradients_per_iteration(self) -> float:
        """Gradients of single examples in one iteration of one member; NaN, by default: not known.

        `forecast` and the price of a comparison count with them.
        """
        return math.nan

    def check(self) -> None:
        """Raises `ValueError` for a process that cannot run, before time is spent."""

    def check_start(self, theta: Positions) -> None:
        """Raises `ValueError` for starts (members, d) from which it cannot run; most run from any.

        A default of its own: it does nothing, and few processes define it anew.
        """

    def check_state(self, state: PyTree[Array]) -> None:
        """Raises `ValueError` for a state that a run has come to and that must not be gone on with.

        A default of its own: it does nothing. A run asks about twice a second.
        """

    @property
    def knows_mean_step(self) -> bool:
        """Whether `mean_step` holds; a default of its own, False, as for any memory beside θ."""
        return False

    def mean_step(self, theta: Vector, iteration: Array) -> Vector:
        """E[θ′ − θ | θ] of one solver step of an iteration, (d,), where `knows_mean_step`."""
        raise ValueError(
            f"the mean step of {type(self).__name__} is not a function of θ alone, or is not "
            f"known: ask `knows_mean_step` first."
        )

    def law(self) -> StepLaw:
        """The law of θ after one solver step: a `Diffusion` at its step, or the `Batches` of SGD.

        Of a limit the `Diffusion` at step 0. `theory.laws` and `theory.escape` ask for it.
        **Raises:** `NotKnown`, by default, and where θ alone has none: with a buffer, under a
        schedule, of two-point increments, of other solvers than Euler.
        """
        raise NotKnown(
            f"The law of one step of {type(self).__name__} is not known as a function of θ alone. "
            f"Known are SGD and GaussianSGD without momentum, ModifiedEquation and "
            f"OverdampedEquation by Euler, and their limits, at a constant learning rate."
        )

    def limit_law(self) -> Diffusion:
        """`law` at solver step 0, of an equation."""
        raise NotKnown(
            f"The limit of {type(self).__name__} is not known as a diffusion of θ alone: known are "
            f"those of ModifiedEquation, OverdampedEquation and TransformedEquation."
        )

    def gaussian_step(self, theta: Vector) -> tuple[Vector, Matrix]:
        """Mean (d,) and covariance (d, d) of θ after one solver step, where its law is Gaussian.

        **Raises:** `NotKnown` where it is not, with the reason.
        """
        law = self.law()
        if not isinstance(law, Diffusion):
            raise NotKnown(
                f"Only Gaussian steps have this kernel: GaussianSGD and ModifiedEquation, not "
                f"{type(self).__name__}. Minibatch SGD jumps on a lattice of its own, and most "
                f"jumps cannot be undone."
            )
        step = jnp.asarray(law.step, theta.dtype)
        drift: Any = law.drift  # of a process these are functions
        diffusion: Any = law.diffusion
        return theta + step * drift(theta), 2 * step * diffusion(theta)

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        """Its step where L is quadratic, in each direction of a curvature (d,), at η.

        What `linear` is made of. **Raises:** `NotKnown`, by default, where it is not linear in
        the gradient, or not known.
        """
        raise NotKnown(
            f"The step of {type(self).__name__} is not a linear function of the gradient, or not "
            f"known as one: its moments do not close. Known are SGD with and without momentum, "
            f"GaussianSGD, SVAG, SGLD, ModifiedEquation by Euler, OverdampedEquation, "
            f"UnderdampedEquation and their limits."
        )

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        """`linear_step` at solver step 0, of an equation."""
        raise NotKnown(f"The linear reading of {type(self).__name__} at step 0 is not known.")

    def linear(self, about: Any = None) -> LinearReading:
        """Its moments near a point: exact on a quadratic (None), else linearised about θ (d,).

        `theory.stationary` and the check of stability ask for it. **Raises:** `NotKnown` where
        there is none, with the reason.
        """
        return read(self, about)

    def largest_stable_rate(self, about: Any = None, at_step_zero: bool = False) -> float:
        """The η below which second moments stay bounded, all else the same.

        ∞ if they always do, and 0 if they do at no η, as at a saddle.
        Of the equation at solver step 0 where `at_step_zero`. Arguments and errors: `linear`.
        """
        return self._independent(
            (self.limit() if at_step_zero else self).linear(about)
        ).largest_stable_rate()

    def _independent(self, reading: LinearReading) -> LinearReading:
        """Refuses noise that depends on θ and, within an epoch, on the steps before."""
        if self.epoch is not None and reading.noise.feedback is not None:
            raise NotKnown(
                "Batches of shuffled epochs depend on each other: where their noise depends on θ, "
                "no limit of stability is known (it can lie beyond that of independent batches)."
            )
        return reading

    def stable(self, about: Any = None) -> bool:
        """Whether second moments stay bounded; arguments and errors as `linear`."""
        return self._independent(self.linear(about)).stable

    def overshoot(self, curvature: float) -> tuple[float, str] | None:
        """By how much one step overshoots along a curvature, from 2 on for ever, and its formula.

        None where nothing is known: optimisers with rates of their own, solvers without a known
        step. For warnings on landscapes that are not quadratic.
        """
        eta = self.clock.constant
        if eta is None:
            return None
        try:
            own = self.linear_step(eta, np.array([0.0, curvature])).transition
        except NotKnown:
            return None
        # The step's eigenvalues leave the unit circle through −1.
        rest, moved = np.linalg.det(np.eye(own.shape[1]) + own)
        return 2 * (1 - moved / rest), "η λ_max/(substeps·(1+μ))"

    @property
    def stages(self) -> tuple["AbstractProcess", ...]:
        """The processes that it consists of, one after another: by default itself."""
        return (self,)

    def limit(self) -> "AbstractProcess":
        """The same equation at solver step 0, for predictions; it cannot be simulated.

        **Raises:** `ValueError`, by default: a discrete process has none.
        """
        raise ValueError(
            f"{type(self).__name__} has no solver step that could go to 0: take the limit of its "
            f"equation, ss.ModifiedEquation(...).limit() say."
        )

    @property
    def epoch(self) -> int | None:
        """Iterations of an epoch whose batches exclude each other; None: steps are independent."""
        return None

    @property
    def weak_order(self) -> int | None:
        """Weak order of the integrator in its solver step, of an equation that `refined` knows.

        A default of its own, None: for processes without a solver step, and for solvers that
        cannot run at two steps on one Brownian path.
        """
        return None

    @property
    def unrefined(self) -> str:
        """Why a process with a solver step cannot be refined, in a few words; by default empty."""
        return ""

    def refined(self, substeps: int, refinement: int = 1) -> "AbstractProcess":
        """The same equation with `substeps` solver steps an iteration, where `weak_order` is known.

        Each step sums `refinement` increments of a finer Brownian path: `refined(m, 2)` and
        `refined(2m, 1)` run on one path.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be run at two solver steps on one Brownian path: it has "
            f"no solver step, or a solver whose increments do not add up (Lévy areas)."
        )
