"""How far a score's error drives the probability flow from the laws of its SDE.

The SDE dθ = b dt + √2 D^{1/2} dW, D = ηC/2, has laws p_t, and its flow v = b − ∇·D − D s with
s = ∇log p_t keeps them. With ŝ = s + e the flow is v̂ = v − D e, and p_t fails its continuity
equation by the Fokker–Planck residual

    r_t = ∂_t p + ∇·(v̂ p) = −∇·(p D e) :   a spurious current −p D e .

Couple the two flows, X by v (law p_t) and Y by v̂ (law q_t), optimally at t = 0. Then

    ½ d/dt E|X − Y|² = E⟨X − Y, v̂(X) − v̂(Y)⟩ + E⟨X − Y, (D e)(X)⟩ ,

and with L̂_t the one-sided Lipschitz constant of v̂_t, the largest eigenvalue of its symmetrised
Jacobian, and ε_t = ‖D e_t‖_{L²(p_t)},

    d/dt W₂ ≤ L̂_t W₂ + ε_t ,     W₂(t) ≤ ∫₀^t ε_s exp(∫_s^t L̂) ds .

In one dimension ε_t is the norm of the residual itself (the dual one of ‖f′‖_{L²(p)}), which
determines its current there; in more dimensions that norm is at most ε_t. Two cases are exact. In
one dimension the quantile of level u is displaced, to first order in e, by the spurious current
that has passed it,

    Y_t(u) − X_t(u) = −(1/p_t(X_t)) ∫₀^t (p D e)_s(X_s(u)) ds ,     W₂² = ∫ |Y_t − X_t|² du .

And for a Gaussian law with ŝ = (1 + δ)s the flow is affine and stays Gaussian.

Source: for the bound, the coupling argument of Deveney et al. 2023 (2311.15996), here for one SDE
and its own flow; the first-order law follows from ∂_x v = −d/dt log p_t(X_t) along a quantile.
"""

import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from sde_sgd._checks import check_at_least, check_number, check_part, check_whole
from sde_sgd.processes.continuous.score import AbstractScore
from sde_sgd.theory import _arguments
from sde_sgd.theory._fields import Field
from sde_sgd.theory.equations.scores import GaussianScore
from sde_sgd.theory.laws.fokker_planck import FokkerPlanck
from sde_sgd.theory.laws.gaussian import Gaussian
from sde_sgd.theory.laws.grid_density import GridDensity
from sde_sgd.theory.laws.wasserstein import wasserstein2
from sde_sgd.theory.quantiles import normal_levels
from sde_sgd.types import RealLike, Scalar

_MOST_NODES = 100_000
_MOST_CALLS = 10_000


class FlowGap(NamedTuple):
    """W₂ between the law of a flow with a wrong score and the SDE's, and what bounds it.

    **Fields:** `times` (T,); `gap` (T,) the predicted W₂, exact or to first order in the error as
    the function says; `residual` (T,) ε_t; `lipschitz` (T,) L̂_t; `bound` (T,) of the integral
    inequality; `laws`: the Gaussian laws of the flow at `times`, or None.
    """

    times: Float[np.ndarray, " T"]
    gap: Float[np.ndarray, " T"]
    residual: Float[np.ndarray, " T"]
    lipschitz: Float[np.ndarray, " T"]
    bound: Float[np.ndarray, " T"]
    laws: list[Gaussian] | None = None


def gaussian_flow_gap(
    score: GaussianScore, relative_error: RealLike, times: ArrayLike, *, start_time: RealLike = 0.0
) -> FlowGap:
    """The flow with ŝ = (1 + δ)s on a quadratic with constant noise: exact law, gap and bound.

        Q' = A Q + Q Aᵀ ,   A = −H + (1 + δ) D M_t⁻¹ ,   Q(start_time) = M(start_time) ,

    by an ordinary differential equation solved to 1e-11; the mean is the SDE's. On the line
    Q_t = M_t (M_t/M_0)^δ e^{2δht}: in the stationary state an error δ > 0 of the score spreads the
    members exponentially, δ < 0 draws them together, as nothing moves but by the error. There
    the bound is an equality.

    **Arguments:** `score` of the SDE; `relative_error` δ; `times` (T,), t ≥ `start_time`.

    **Raises:** `ValueError` for a start where the law is a point, times before it.
    """
    check_part("score", score, GaussianScore, "a GaussianScore")
    delta = check_number("relative_error", relative_error)
    begin = check_at_least("start_time", start_time)
    clock = _arguments.times(times)
    if (clock < begin).any():
        raise ValueError(f"times must be >= start_time={begin:g}; got {clock.min():g}.")
    score.check(begin)
    hess, diffusion, size = score.hessian, score.diffusion, score.dimension

    def flow(t):
        """A, ε and L̂ at t."""
        inverse = np.linalg.inv(score.law(t).covariance)
        a = -hess + (1 + delta) * diffusion @ inverse
        lipschitz = np.linalg.eigvalsh((a + a.T) / 2)[-1]
        return a, abs(delta) * np.sqrt(np.trace(diffusion @ inverse @ diffusion)), lipschitz

    calls = itertools.count(1)

    def slope(t, y):
        if next(calls) > _MOST_CALLS:
            raise ValueError(
                f"times up to {clock.max():g} need more than {_MOST_CALLS} evaluations of the flow "
                f"with relative_error={delta:g}: ask for earlier times, or a smaller error."
            )
        q = y[:-1].reshape(size, size)
        a, residual, lipschitz = flow(t)
        return np.append((a @ q + q @ a.T).ravel(), lipschitz * y[-1] + residual)

    unique, where = np.unique(clock, return_inverse=True)
    initial = np.append(score.law(begin).covariance.ravel(), 0.0)
    end = max(float(clock.max()), begin + 1e-12)
    found = solve_ivp(slope, (begin, end), initial, "DOP853", t_eval=unique, rtol=1e-11, atol=1e-14)
    if not found.success:
        raise ValueError(f"The flow could not be integrated: {found.message}")
    states = found.y.T[where]
    laws = [
        Gaussian(score.law(t).mean, (q + q.T) / 2)
        for t, q in zip(clock, states[:, :-1].reshape(-1, size, size), strict=True)
    ]
    gaps = [wasserstein2(law, score.law(t)) for law, t in zip(laws, clock, strict=True)]
    residual, lipschitz = np.array([flow(t)[1:] for t in clock]).T
    return FlowGap(clock, np.array(gaps), residual, lipschitz, states[:, -1], laws)


def grid_flow_gap(
    equation: FokkerPlanck,
    start: Any,
    exact: AbstractScore,
    approximate: AbstractScore,
    times: ArrayLike,
    *,
    reach: RealLike = 4.0,
    nodes: int = 401,
) -> FlowGap:
    """The flow with an approximate score on the line: residual, bound, and first-order gap.

    All of it for the members between the quantiles Φ(−reach) and Φ(reach), who stay
    among themselves on the line: `gap` is W₂ of their laws to first order in the error of the
    score; `bound` takes the largest ∂_x v̂ between their outermost places (widened by a
    tenth on either side, for those whom the wrong score has moved).

    **Arguments:**

    - `equation`: one-dimensional; `start`: its law at t = 0; `exact`: its score (`GridScore`).
    - `approximate`: ŝ.
    - `times`: (T,) increasing, from 0; integrals over time are by the trapezoid rule on them.
    - `reach`, `nodes`: quantiles Φ(z), `nodes` equal steps of z.

    **Raises:** `ValueError` for another dimension, times that do not begin at 0, a score that is
    not finite where the members are.
    """
    check_part("equation", equation, FokkerPlanck, "a FokkerPlanck equation")
    check_part("exact", exact, AbstractScore, "a score, such as GridScore(equation, start)")
    check_part("approximate", approximate, AbstractScore, "a score, such as FunctionScore(f, 1)")
    nodes = check_whole("nodes", nodes, 3, _MOST_NODES)
    if equation.grid.dimension != 1 or exact.dimension != 1 or approximate.dimension != 1:
        raise ValueError("grid_flow_gap needs an equation and scores in one dimension.")
    clock = _arguments.times(times)
    if len(clock) < 2 or clock[0] != 0 or (np.diff(clock) <= 0).any():
        raise ValueError(f"times must increase from 0; got {clock.tolist()[:8]}.")
    for score in (exact, approximate):
        score.check(float(clock[0]))
        score.check(float(clock[-1]))
    levels, weights = normal_levels(nodes, check_number("reach", reach, above=0, below=8))
    shift, currents, residuals, slopes, gaps = np.zeros(nodes), [], [], [], []
    for k, (t, density) in enumerate(zip(clock, equation.propagate(start, clock), strict=True)):
        places = density.quantile(levels)
        heights = _quantile_density(density, places)
        error = _values(approximate, t, places) - _values(exact, t, places)
        push = _scalar(equation.diffusion, places) * error
        currents.append(heights * push)
        if k:
            shift = shift + (currents[-1] + currents[-2]) / 2 * (clock[k] - clock[k - 1])
        residuals.append(np.sqrt(weights @ push**2))
        gaps.append(np.sqrt(weights @ (shift / heights) ** 2))
        slopes.append(_steepest(equation, approximate, t, places))
    bound = _grown(clock, np.array(slopes), np.array(residuals))
    return FlowGap(clock, np.array(gaps), np.array(residuals), np.array(slopes), bound)


def _quantile_density(density: GridDensity, places: np.ndarray) -> np.ndarray:
    """p at the quantiles, from log p linear between the centres."""
    centres = density.grid.axis_centres(0)
    with np.errstate(divide="ignore"):
        return np.exp(np.interp(places, centres, np.log(density.values)))


@eqx.filter_jit
def _everywhere(score: AbstractScore, t: Scalar, places: Float[Array, " n"]) -> Float[Array, " n"]:
    return jax.vmap(lambda x: score(t, x[None])[0])(places)


def _values(score: AbstractScore, t: float, places: np.ndarray) -> np.ndarray:
    found = np.asarray(_everywhere(score, jnp.asarray(t, float), jnp.asarray(places)))
    if not np.isfinite(found).all():
        place = places[int(np.argmin(np.isfinite(found)))]
        raise ValueError(f"a score is not finite at t = {t:g}, θ = {place:g}.")
    return found


def _scalar(field: Field, places: np.ndarray) -> np.ndarray:
    """D or b of an equation on the line, at (n,) places."""
    return field.at(places[:, None]).reshape(len(places))


def _steepest(equation: FokkerPlanck, score: AbstractScore, t: float, places: np.ndarray) -> float:
    """The largest slope of v̂ = b − D′ − D ŝ between the outermost places and a tenth beyond."""
    margin = (places[-1] - places[0]) / 10
    low, high = equation.grid.edges(0)[[1, -2]]
    x = np.linspace(max(places[0] - margin, low), min(places[-1] + margin, high), 401)
    middle = (x[1:] + x[:-1]) / 2
    spread = _scalar(equation.diffusion, x)
    curved = np.diff(spread) / np.diff(x)
    velocity = (
        _scalar(equation.drift, middle)
        - curved
        - _scalar(equation.diffusion, middle) * _values(score, t, middle)
    )
    return float((np.diff(velocity) / np.diff(middle)).max())


def _grown(times: np.ndarray, lipschitz: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """W' = L̂W + ε from 0, both linear within an interval: trapezoid rules, exact exponentials."""
    found = [0.0]
    for k in range(1, len(times)):
        step = times[k] - times[k - 1]
        growth = np.exp(step * (lipschitz[k] + lipschitz[k - 1]) / 2)
        found.append(growth * found[-1] + step / 2 * (growth * residual[k - 1] + residual[k]))
    return np.array(found)
