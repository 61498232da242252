"""The score of a kernel density estimate of recorded members."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_number
from sde_sgd.processes.continuous.score import AbstractScore
from sde_sgd.theory import _arguments
from sde_sgd.theory.equations.scores import check_place, check_span, everywhere
from sde_sgd.types import Positions, RealLike, Scalar, Vector


class KernelScore(AbstractScore):
    """∇log of a Gaussian kernel estimate of a fixed sample x₁…x_n(t), recorded at some times.

        p̂_t(θ) = (1/n) Σ_i N(θ; x_i(t), h² S_t) ,   S_t the sample covariance,

    between two recorded times the linear mean of the two scores (error O(Δt²)). The sample is that
    of another run, such as `Snapshots` of the SDE: members of one ensemble never meet, so that a
    kernel estimate of the flow's own members is not offered.

    The estimate is broader than the law, by h²S_t: where the law is N(m, M) its score tends to
    s/(1 + h²) as n → ∞, a relative score error of −h²/(1 + h²) that does not go away with n.

    **Arguments:**

    - `samples`: (times, members, d), independent members. `times`: (times,) increasing physical t.
      Of a run: `run["x"].values` and `run["x"].times`.
    - `bandwidth`: h > 0, relative to the spread of the sample; Silverman's (4/((d + 2)n))^{1/(d+4)}
      if None, which is too broad for laws with several modes.

    Costs 2·n·d operations a member and stage of the solver.

    **Raises:** `ValueError` for shapes, NaN, a sample without spread in some direction (a point
    start has no score at t = 0), times that do not increase.
    """

    white: Float[Array, "times n d"]
    roots: Float[Array, "times d d"]
    times: Float[Array, " times"]
    bandwidth: Scalar
    first: float = eqx.field(static=True)
    last: float = eqx.field(static=True)

    def __init__(self, samples: ArrayLike, times: ArrayLike, bandwidth: RealLike | None = None):
        members = _arguments.array("samples", samples, 3)
        clock = _arguments.times(times)
        count, num, size = members.shape
        if clock.shape != (count,) or (np.diff(clock) <= 0).any() or count < 2:
            raise ValueError(
                f"KernelScore needs two or more increasing times, one for each sample; got "
                f"{clock.tolist()[:8]} for samples of shape {members.shape}."
            )
        if num < 10 * size:
            raise ValueError(
                f"a kernel estimate in {size} dimensions needs {10 * size} members at least; got "
                f"{num}."
            )
        if bandwidth is None:
            bandwidth = (4 / ((size + 2) * num)) ** (1 / (size + 4))
        roots = []
        for t, rows in zip(clock, members, strict=True):
            spread = np.atleast_2d(np.cov(rows.T))
            values = np.linalg.eigvalsh(spread)
            if values[0] <= size * np.finfo(float).eps * max(np.abs(rows).max() ** 2, 1e-300):
                raise ValueError(
                    f"at t = {t:g} the sample has no spread in some direction (smallest variance "
                    f"{values[0]:g}): the law of a point has no score. Record a run that starts "
                    f"spread out, or leave that time out and begin the flow later (start_time)."
                )
            roots.append(np.linalg.cholesky(spread))
        self.roots = jnp.asarray(np.stack(roots))
        white = np.linalg.solve(np.stack(roots), members.transpose(0, 2, 1))
        self.white = jnp.asarray(white.transpose(0, 2, 1))
        self.times = jnp.asarray(clock)
        self.bandwidth = jnp.asarray(check_number("bandwidth", bandwidth, above=0))
        self.first, self.last = float(clock[0]), float(clock[-1])

    @property
    def dimension(self) -> int:
        return self.white.shape[2]

    @property
    def last_time(self) -> float:
        return self.last

    def check(self, time: float) -> None:
        check_span("this KernelScore", time, self.first, self.last)

    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        return everywhere(theta, self.dimension)

    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        t, theta = check_place(t, theta, self.dimension)
        later = jnp.clip(
            jnp.searchsorted(self.times, t.astype(self.times.dtype)), 1, self.times.shape[0] - 1
        )
        start, stop = self.times[later - 1], self.times[later]
        share = (t - start) / (stop - start)
        before, after = (self._recorded(k, theta) for k in (later - 1, later))
        return (1 - share) * before + share * after

    def _recorded(self, index: Array, theta: Vector) -> Vector:
        """The score of the estimate at one recorded time."""
        root = self.roots[index]
        place = jax.scipy.linalg.solve_triangular(root, theta.astype(root.dtype), lower=True)
        offset = self.white[index] - place
        weights = jax.nn.softmax(-0.5 * jnp.sum(offset**2, axis=1) / self.bandwidth**2)
        pull = weights @ offset / self.bandwidth**2
        return jax.scipy.linalg.solve_triangular(root.T, pull, lower=False)
