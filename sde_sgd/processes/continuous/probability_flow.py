"""The deterministic twin of the SDE: an equation without noise whose members have the same laws."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_sgd._checks import (
    as_real,
    check_choice,
    check_non_negative,
    check_part,
    check_vector,
    check_whole,
)
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.noise.models import AbstractGradientNoise, check_noise
from sde_sgd.processes.base import AbstractProcess, Observe
from sde_sgd.processes.clock import Clock, LearningRate
from sde_sgd.processes.continuous._steps import step_members
from sde_sgd.processes.continuous.modified import check_ordinary, FlowState, solver_step
from sde_sgd.processes.continuous.score import AbstractScore
from sde_sgd.processes.drift import force
from sde_sgd.processes.rules import heavy_ball, Rule
from sde_sgd.random.draws import Draws
from sde_sgd.types import Positions, RealLike, Scalar, Vector


class ProbabilityFlow(AbstractProcess):
    """dθ/dt = b(θ) − ½∇·(ηC(θ)) − ½ηC(θ) s(t, θ), s = ∇log p_t, t = `start_time` + ηk.

    With b, C of the Itô equation dθ = b dt + √η C^{1/2} dW (`ModifiedEquation`: b = −∇L in order 1)
    and the exact score of its law p_t, the Fokker–Planck equation ∂p/∂t = −∇·(bp) + ½∇∇:(ηCp) is
    the continuity equation of this flow: members that start with the law p_{start_time} have the
    SDE's law at every later time, each along one smooth path. Only the law of one instant is the
    same; what joins two instants (escapes, correlations in time) is not. (∇·C)_i = Σ_j ∂_j C_ij.

    In one dimension every member keeps its quantile, P(θ ≤ θ_t) = constant. In a stationary state
    without currents nothing moves, so that an error of the score is never forgotten: see
    `theory.equations.gaussian_flow_gap` and `theory.equations.grid_flow_gap` for the gap that it
    leaves.

    **Arguments:**

    - `landscape`, `learning_rate` η > 0 (no schedule), `noise`, `order`: as `ModifiedEquation`.
    - `score`: an `AbstractScore`: `theory.equations.GaussianScore` (constant noise on a quadratic),
      `theory.equations.GridScore` (one dimension), `theory.equations.KernelScore` (a recorded
      sample), or `theory.equations.FunctionScore`. That it is the score of *this* equation is not
      checked (nor that the members start with its law): the flow of a wrong score is an object of
      study.
    - `start_time`: t at k = 0. A law that starts at a point has no score at t = 0: begin later.
    - `substeps`: solver steps an iteration; `solver`: a Diffrax solver for ordinary equations,
      `diffrax.Tsit5()` by default.

    Where C depends on θ a step costs d derivatives of C(θ), (d, d), and d³ numbers.

    **Raises:** `ValueError` for a score of another dimension, a start where it does not exist, a
    schedule, a solver of stochastic equations alone; in `simulate` for runs beyond its last time
    and starts where it is not known.

    **Source:** Song et al. 2021 (2011.13456), eq. 13 and appendix D.1.
    """

    landscape: AbstractLandscape
    learning_rate: LearningRate
    noise: AbstractGradientNoise
    score: AbstractScore
    solver: dfx.AbstractSolver
    start_time: Scalar
    order: int = eqx.field(static=True)
    num_substeps: int = eqx.field(static=True)

    def __init__(
        self,
        landscape: AbstractLandscape,
        learning_rate: Any,
        noise: AbstractGradientNoise,
        score: Any,
        *,
        start_time: RealLike = 0.0,
        order: int = 1,
        substeps: int = 1,
        solver: dfx.AbstractSolver | None = None,
    ):
        check_noise(landscape, noise)
        check_part(
            "score", score, AbstractScore, "a score such as ss.theory.equations.GaussianScore(...)"
        )
        self.landscape = landscape
        self.learning_rate = LearningRate(learning_rate)
        if self.learning_rate.schedule is not None:
            raise ValueError(
                "ProbabilityFlow needs a constant learning_rate: the scores are those of an SDE "
                "whose η does not change."
            )
        self.noise = noise
        self.score = score
        self.order = check_choice("order", order, (1, 2))
        self.num_substeps = check_whole("substeps", substeps)
        self.solver = dfx.Tsit5() if solver is None else solver
        check_part("solver", self.solver, dfx.AbstractSolver, "a solver such as diffrax.Tsit5()")
        check_ordinary(self.solver)
        self.start_time = check_non_negative("start_time", start_time, float)
        begin = float(self.start_time)
        if score.dimension != landscape.dimension:
            raise ValueError(
                f"{type(score).__name__} is a score of {score.dimension} coordinates and the "
                f"landscape has d={landscape.dimension}."
            )
        score.check(begin)

    @property
    def substeps(self) -> int:
        return self.num_substeps

    @property
    def deterministic(self) -> bool:
        return True

    @property
    def clock(self) -> Clock:
        return Clock(self.learning_rate, start=float(self.start_time))

    @property
    def gradient_noise(self) -> AbstractGradientNoise:
        return self.noise

    @property
    def update_rule(self) -> Rule:
        return heavy_ball(self.landscape, self.learning_rate)

    @property
    def num_steps(self) -> int | None:
        """Iterations until the score ends; None if it does not."""
        last = self.score.last_time
        if not np.isfinite(last):
            return None
        eta = self.learning_rate.constant()
        assert eta is not None
        # A millionth of an iteration for times that were computed as η·k.
        return int(np.floor((last - float(self.start_time)) / eta + 1e-6))

    def check(self) -> None:
        self.noise.check(self.landscape)

    def check_start(self, theta: Positions) -> None:
        known = np.asarray(self.score.inside(theta))
        if not known.all():
            member = int(np.argmin(known))
            raise ValueError(
                f"{int((~known).sum())} of {len(known)} starts lie where the score is not known, "
                f"the first of them member {member} at {np.asarray(theta)[member]}. Start from the "
                f"law whose score it is, or make the score on a larger box."
            )

    def velocity(self, t: Scalar, theta: Vector) -> Vector:
        """dθ/dt at one θ (d,)."""
        theta = check_vector("theta", theta, self.landscape.dimension, self.landscape.dtype)
        t = as_real("t", t)
        eta = self.learning_rate.at(0, theta.dtype)
        covariance = self.noise.covariance(theta, self.landscape)
        score = self.score(t, theta).astype(theta.dtype)
        pushed = covariance @ score
        if not self.noise.additive:
            slopes = jax.jacfwd(lambda x: self.noise.covariance(x, self.landscape))(theta)
            pushed = pushed + jnp.einsum("ijj->i", slopes)
        return -force(self.landscape, theta, eta, self.order) - 0.5 * eta * pushed

    def init(self, theta: Positions, draws: Draws) -> FlowState:
        return FlowState(theta)

    def step(self, state: FlowState, draws: Draws, observe: Observe, carry: Any):
        def advance(theta, own, j):
            eta = self.learning_rate.at(0, theta.dtype)
            clock = self.learning_rate.at(0, self.start_time.dtype)
            begin = self.start_time + clock * draws.iteration.astype(clock.dtype)

            def field(s, y, args):
                return eta * self.velocity(begin + clock * s.astype(clock.dtype), y)

            return solver_step(self.solver, dfx.ODETerm(field), j, self.substeps, theta)

        theta, carry = step_members(self.substeps, advance, state.theta, draws, observe, carry)
        return FlowState(theta), carry

    def position(self, state: FlowState) -> Positions:
        return state.theta
