"""Continuous processes on Diffrax: gradient flow and the modified equations of SGD."""

import math
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sde_sgd._checks import check_choice, check_landscape, check_part, check_vector, check_whole
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, check_noise
from sde_sgd.noise.paths import Increments, IterationNoise
from sde_sgd.noise.thermal import ThermalNoise
from sde_sgd.processes._cost import of_all_examples, of_noisy_steps
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import by_its_clock, Clock, constant_rate, LearningRate
from sde_sgd.processes.continuous._equation import AbstractEquation
from sde_sgd.processes.continuous._steps import step_members
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.processes.continuous.terms import FusedTerm, separate_terms
from sde_sgd.processes.drift import rates
from sde_sgd.processes.linear import first_order_step, LinearStep, NotKnown
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.processes.step_laws import Diffusion, matched_diffusion
from sde_sgd.random.draws import as_counter, Draws
from sde_sgd.types import Key, Positions, RealLike, Vector

# Solvers that converge to the Itô solution for any σ(θ).
_ITO = (dfx.Euler, dfx.ItoMilstein)
# With additive noise the two readings agree, and these are right as well.
_ADDITIVE = (
    dfx.Heun,
    dfx.Midpoint,
    dfx.Ralston,
    dfx.EulerHeun,
    dfx.StratonovichMilstein,
    dfx.SEA,
    dfx.SRA1,
    dfx.ShARK,
)
_SPACE_TIME = (dfx.SEA, dfx.SRA1, dfx.ShARK)


class FlowState(eqx.Module):
    """θ (members, d)."""

    theta: Positions


class GradientFlow(AbstractProcess):
    """dθ = −∇L dt by a Diffrax solver with fixed steps, t = ηk.

    **Arguments:** `learning_rate` sets the clock (one iteration is η of time); `substeps`
    solver steps an iteration; `solver`, `diffrax.Tsit5()` by default. With
    `diffrax.Euler()` and one substep this is full-batch gradient descent.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    solver: dfx.AbstractSolver
    num_substeps: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        substeps: int = 1,
        solver: dfx.AbstractSolver | None = None,
    ):
        check_landscape(landscape, AbstractLandscape)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.solver = dfx.Tsit5() if solver is None else solver
        check_part("solver", self.solver, dfx.AbstractSolver, "a solver such as diffrax.Euler()")
        check_ordinary(self.solver)
        self.num_substeps = check_whole("substeps", substeps)

    @property
    def substeps(self) -> int:
        return self.num_substeps

    autonomous = by_its_clock

    @property
    def deterministic(self) -> bool:
        return True

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate)

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate)

    @property
    def gradients_per_iteration(self) -> float:
        """substeps·N, one gradient a step, by Euler; NaN by solvers of several stages."""
        return (
            of_all_examples(self.landscape, self.substeps)
            if isinstance(self.solver, dfx.Euler)
            else math.nan
        )

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        refuse_other_solvers(self.solver)
        return first_order_step(learning_rate * curvature, 0.0, self.substeps)

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return first_order_step(learning_rate * curvature, 0.0, None)

    def limit(self) -> ContinuousLimit:
        return ContinuousLimit(self)

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry):
        def advance(theta, own, j):
            eta = self.learning_rate.at(draws.iteration, theta.dtype)
            term = dfx.ODETerm(lambda t, y, args: -eta * self.landscape.gradient(y))
            return solver_step(self.solver, term, j, self.substeps, theta)

        theta, carry = step_members(self.substeps, advance, state.theta, draws, observe, carry)
        return FlowState(theta), carry

    def position(self, state: FlowState) -> Positions:
        return state.theta


class ModifiedEquation(AbstractEquation):
    """The SDE of SGD (Li, Tai, E 1511.06251; Itô), t = ηk:

    order 1:  dθ = −∇L dt + √η C^{1/2}(θ) dW,
    order 2:  dθ = −∇(L + (η/4)|∇L|²) dt + √η C^{1/2}(θ) dW,

    C = Cov(ĝ), cΣ(θ) for `MinibatchNoise`. Solved with `substeps` equal steps of length
    h = η/substeps an iteration. With `substeps=1` this *is* Gaussian SGD; the continuous
    limit is h → 0, and exact values for a run are those at its h.

    **Arguments:**

    - `landscape`, `learning_rate` (η > 0 or a schedule).
    - `noise`: a gradient-noise model.
    - `order`: 1 or 2, the weak order in η on finite times. (In the stationary state order 2
      is the worse of the two.)
    - `substeps`: solver steps an iteration.
    - `increments`: "gaussian", or "two_point" (±√h: cheaper, same weak order, for
      moments only; wrong tails and exit rates).
    - `refinement`: r > 1 sums r finer increments for each step, so that the run sees the
      Brownian path of a run with r·substeps: paired runs at two steps.
    - `solver`: `diffrax.Euler()` by default. `ItoMilstein` is Itô as well; Stratonovich and
      additive-noise solvers are accepted for additive noise only.

    **Raises:** `ValueError` for a solver that would converge to another equation, and for order 2
    with a bath (`ThermalNoise`), which is of weak order one there.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    noise: AbstractGradientNoise
    solver: dfx.AbstractSolver
    order: int = eqx.field(static=True)
    num_substeps: int = eqx.field(static=True)
    increments: Increments = eqx.field(static=True)
    refinement: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        order: int = 1,
        substeps: int = 8,
        increments: Increments = "gaussian",
        solver: dfx.AbstractSolver | None = None,
        refinement: int = 1,
    ):
        check_noise(landscape, noise)
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        self.noise = noise
        self.order = check_choice("order", order, (1, 2))
        self.num_substeps = check_whole("substeps", substeps)
        self.increments = check_choice("increments", increments, ("gaussian", "two_point"))
        self.refinement = check_whole("refinement", refinement)
        self.solver = dfx.Euler() if solver is None else solver
        check_part("solver", self.solver, dfx.AbstractSolver, "a solver such as diffrax.Euler()")
        _check_order(order, noise)
        _check_solver(self.solver, noise, increments)
        if refinement > 1 and isinstance(self.solver, _SPACE_TIME):
            raise ValueError("refinement sums increments; Lévy areas do not add up so simply.")

    @property
    def two_point(self) -> bool:
        return self.increments == "two_point"

    @property
    def weak_order(self) -> int | None:
        """Of the solver, in its step: 1, and None where two steps have no common path."""
        return None if isinstance(self.solver, _SPACE_TIME) else 1

    @property
    def knows_mean_step(self) -> bool:
        """Whether `mean_step` holds: for Itô solvers, which evaluate the start of a step alone."""
        return isinstance(self.solver, _ITO)

    def mean_step(self, theta: Vector, iteration: Array) -> Vector:
        """E[θ′ − θ | θ] of one solver step of an iteration: that of the solver without noise."""
        draws = Draws.create(jnp.zeros(2, jnp.uint32), 0).at(iteration)
        terms = self._terms(draws, checked=False)
        zero, dt = jnp.zeros((), theta.dtype), jnp.asarray(1 / self.substeps, theta.dtype)
        if isinstance(terms, FusedTerm):
            none = jnp.zeros((self.noise.dimension(self.landscape),), theta.dtype)
            return terms.vf_prod(zero, theta, None, (zero, dt, none))
        return dt * terms.terms[0].vf(zero, theta, None)

    @property
    def unrefined(self) -> str:
        if self.weak_order is not None:
            return ""
        solver = type(self.solver).__name__
        return f"the Lévy areas of {solver} have no common path at two step sizes"

    def refined(self, substeps: int, refinement: int = 1) -> "ModifiedEquation":
        """The same equation at another solver step."""
        return ModifiedEquation(
            self.landscape,
            self.learning_rate.given,
            self.noise,
            order=self.order,
            substeps=substeps,
            increments=self.increments,
            solver=self.solver,
            refinement=refinement,
        )

    def law(self) -> Diffusion:
        if self.two_point:
            raise NotKnown('Two-point steps have no density: use increments="gaussian".')
        if not isinstance(self.solver, dfx.Euler):
            raise NotKnown(
                f"The steps of {type(self.solver).__name__} are not Gaussian: use diffrax.Euler()."
            )
        return self._law(constant_rate(self.learning_rate) / self.substeps)

    def limit_law(self) -> Diffusion:
        return self._law(0.0)

    def _law(self, step: RealLike) -> Diffusion:
        eta = constant_rate(self.learning_rate)
        return matched_diffusion(self.landscape, self.noise, eta, order=self.order, step=step)

    @property
    def gradients_per_iteration(self) -> float:
        """substeps·N, of order 1 by Euler with exact or constant noise."""
        return (
            of_noisy_steps(self.landscape, self.noise, self.substeps)
            if self.order == 1 and isinstance(self.solver, dfx.Euler)
            else math.nan
        )

    def linear_step(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        refuse_other_solvers(self.solver)
        return self._linear(learning_rate, curvature, self.substeps)

    def linear_limit(self, learning_rate: float, curvature: np.ndarray) -> LinearStep:
        return self._linear(learning_rate, curvature, None)

    def _linear(self, eta: float, curvature: np.ndarray, substeps: int | None) -> LinearStep:
        return first_order_step(eta * rates(curvature, eta, self.order), eta, substeps)

    def terms(self, key: Key, member: int = 0, iteration: int = 0) -> Any:
        """Diffrax terms of one member from an integer base iteration on.

        Their time counts iterations from the base: `diffeqsolve(terms, solver, t0=0, t1=n,
        dt0=1/substeps, y0=theta, max_steps=n*substeps)` reproduces n iterations of that
        member of a run with the same key.
        """
        if self.learning_rate.schedule is not None and isinstance(self.solver, dfx.Heun):
            raise ValueError(
                "Heun evaluates the end of a step, where a schedule may have jumped to the next "
                "rate: inside `simulate` that is known, from the time alone it is not. Take the "
                "terms with a constant learning rate, or diffrax.Midpoint()."
            )
        who, base = as_counter("member", member), as_counter("iteration", iteration)
        return self._terms(Draws.create(key, who, base), checked=True)

    def diffusion(self, theta: Vector, direction: Array, iteration: int = 0) -> Vector:
        """√η C^{1/2}(θ) v per √t, for a direction v of `noise.dimension` entries, (d,).

        `iteration` says which η of a schedule.
        """
        landscape = self.landscape
        theta = check_vector("theta", theta, landscape.dimension, landscape.dtype)
        size = self.noise.dimension(landscape)
        direction = check_vector("direction", direction, size, landscape.dtype)
        eta = self.learning_rate.at(as_counter("iteration", iteration), theta.dtype)
        moved = self.noise.noisy_gradient(theta, direction, 1.0, self.landscape)
        return jnp.sqrt(eta) * (moved - self.landscape.gradient(theta))

    def _terms(self, draws: Draws, checked: bool) -> Any:
        needs_area = isinstance(self.solver, _SPACE_TIME)
        path = IterationNoise(
            draws,
            size=self.noise.dimension(self.landscape),
            substeps=self.substeps,
            increments=self.increments,
            dtype=self.landscape.dtype,
            levy_area=dfx.SpaceTimeLevyArea if needs_area else dfx.BrownianIncrement,
            refinement=self.refinement,
            checked=checked,
        )
        # Other noise models have no closed form to gain from one product; Euler takes both.
        if isinstance(self.solver, dfx.Euler) and self.noise.fused:
            return FusedTerm(self.landscape, self.learning_rate, self.noise, path, self.order)
        return separate_terms(self.landscape, self.learning_rate, self.noise, path, self.order)

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry):
        def advance(theta, own, j):
            terms = self._terms(own, checked=False)
            return solver_step(self.solver, terms, j, self.substeps, theta)

        theta, carry = step_members(self.substeps, advance, state.theta, draws, observe, carry)
        return FlowState(theta), carry


def solver_step(solver: dfx.AbstractSolver, terms: Any, j, substeps: int, theta: Vector) -> Vector:
    """One step of a Diffrax solver over [j, j+1]/substeps, in iterations."""
    start = j.astype(theta.dtype) / substeps
    stop = (j + 1).astype(theta.dtype) / substeps
    state = solver.init(terms, start, stop, theta, None)
    return solver.step(terms, start, stop, theta, None, state, made_jump=False)[0]


def refuse_other_solvers(solver: dfx.AbstractSolver) -> None:
    """Raises `ValueError` for a solver whose step is not Euler's, where that is what is known."""
    if not isinstance(solver, dfx.Euler):
        raise NotKnown(
            f"The linear reading of a step is that of diffrax.Euler(), not of "
            f"{type(solver).__name__}: take `process.limit()`, which has no step."
        )


def check_ordinary(solver: dfx.AbstractSolver) -> None:
    """Refuses solvers that need a drift and a diffusion apart (Milstein's, SRK)."""
    if solver.term_structure not in (dfx.AbstractTerm, dfx.ODETerm):
        raise ValueError(
            f"{type(solver).__name__} does not solve an equation without noise as it stands here: "
            f"use a solver of ordinary equations such as diffrax.Tsit5()."
        )


def _check_order(order: int, noise: AbstractGradientNoise) -> None:
    """Refuses the second order with a bath, whose noise is not small in η."""
    if order == 2 and isinstance(noise, ThermalNoise) and float(noise.temperature) > 0:
        raise ValueError(
            f"order=2 has the drift of SGD, whose noise is of order √η; with a bath of temperature "
            f"{float(noise.temperature):g} it is of weak order one, and less exact than order=1: "
            f"use order=1."
        )


def _check_solver(solver, noise: AbstractGradientNoise, increments: Increments) -> None:
    name, model = type(solver).__name__, type(noise).__name__
    if type(solver) in _ADDITIVE and noise.additive:
        if increments == "two_point" and type(solver) in _SPACE_TIME:
            raise ValueError(f"{name} needs Gaussian increments and their Lévy area.")
        return
    if type(solver) in _ITO:
        if increments == "two_point" and not isinstance(solver, dfx.Euler):
            raise ValueError(f"Two-point increments are of weak order one, with Euler; not {name}.")
        return
    stratonovich = type(solver) in _ADDITIVE or isinstance(solver, dfx.AbstractStratonovichSolver)
    if stratonovich and not noise.additive:
        raise ValueError(
            f"{name} converges to the Stratonovich equation, or holds for additive noise only, and "
            f"{model} depends on θ: the modified equations of SGD are Itô. Use diffrax.Euler() or "
            f"diffrax.ItoMilstein(), or freeze the noise with ConstantNoise.at(landscape, θ, "
            f"sampling)."
        )
    raise ValueError(
        f"{name} is not known to converge to the Itô solution of an SDE; use one of "
        f"{[s.__name__ for s in _ITO]} (any noise) or {[s.__name__ for s in _ADDITIVE]} "
        f"(additive noise)."
    )
