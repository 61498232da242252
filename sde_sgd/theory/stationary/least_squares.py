"""Exact moments of SGD, Euler and SDE on a finite least-squares data set, noise included.

Losses ℓ_i = ½(x_i·θ − y_i)² + (λ/2)|θ|² with λ = `l2`. The minibatch covariance c Σ(θ) is a
quadratic function of θ, so mean and second moment obey a closed linear system and nothing is
approximated. At solver step h (in units of t = η·iterations)

    θ ← θ − h ∇L(θ) + √(h η c) Σ^{1/2}(θ) ξ ,

has the first two moments of SGD for h = η, is Euler–Maruyama for h = η/substeps, and the Itô SDE
dθ = −∇L dt + √(ηc) Σ^{1/2} dW for h = 0. `order=2` replaces ∇L by ∇(L + (η/4)|∇L|²), the drift of
the second-order modified equation (Li, Tai, E). `frozen_noise` holds Σ at its value at θ*.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, expm, LinAlgError

from sde_sgd._checks import check_at_least, check_flag, check_number
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary import _second_moments as moments
from sde_sgd.theory.stationary.lyapunov import momentum_covariance, TransientMoments
from sde_sgd.types import RealLike

_MOST_STEPS = 10**7


class MeanSquareStability(NamedTuple):
    """Growth of E|θ − θ*|² under the homogeneous second-moment equation.

    **Fields:**

    - `spectral_radius`: factor per solver step h; NaN for h = 0, which has no step.
    - `spectral_abscissa`: exponential rate per unit t, log(spectral_radius)/h when h > 0.
    - `stable`: whether it decays, so that a stationary covariance exists.
    """

    spectral_radius: float
    spectral_abscissa: float
    stable: bool


def least_squares_mean(
    inputs: ArrayLike, targets: ArrayLike, *, l2: RealLike = 0.0
) -> Float[np.ndarray, " d"]:
    """The stationary mean θ* = (XᵀX/N + λI)⁻¹ Xᵀy/N: exactly the minimum, at any stable rate.

    **Arguments:** `inputs` X (N, d), `targets` y (N,), `l2` λ ≥ 0.

    **Raises:** `ValueError` for bad shapes, and when the minimum is not unique.
    """
    problem = _problem(inputs, targets, l2, frozen=True)
    _refuse_flat(problem)
    return problem.basis @ problem.minimum


def least_squares_covariance(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    l2: RealLike = 0.0,
    momentum: RealLike = 0.0,
    order: int = 1,
    frozen_noise: bool = False,
    joint: bool = False,
) -> Float[np.ndarray, "n n"]:
    """M of HM + MH − h HMH − η c [(1/N) Σ H_i M H_i − AMA] = η c Σ*, exact for the data set.

    H_i = x_i x_iᵀ, A = (1/N) Σ H_i, H = A + λI, Σ* the example-gradient covariance at θ*. With
    momentum, the same noise drives heavy ball, m ← μm + ĝ, θ ← θ − ηm.

    **Arguments:**

    - `inputs`: (N, d) with d ≤ 64; `targets`: (N,).
    - `learning_rate`: η.
    - `noise_factor`: c in Cov(ĝ) = c Σ, 1/B with replacement, (N−B)/(B(N−1)) without (a fresh
      subset each step; not epochs, whose steps are correlated).
    - `time_step`: h in units of t: η for SGD, η/substeps for Euler, 0 for the SDE.
    - `l2`: λ ≥ 0, a penalty in every example loss, hence noiseless.
    - `momentum`: μ in [0, 1), for SGD only (`time_step == learning_rate`).
    - `order`: 1, or 2 for the drift of the second-order modified equation.
    - `frozen_noise`: constant noise c Σ*, which drops the bracket.
    - `joint`: the (2d, 2d) covariance of (θ, m) instead, for SGD only.

    **Returns:** the covariance of θ, (d, d).

    **Raises:** `ValueError` for bad shapes, numbers and combinations, for a singular Hessian, and
    when the second moment diverges (naming the growth and the largest stable learning rate).
    """
    problem = _problem(inputs, targets, l2, frozen=frozen_noise)
    eta, c, h, mu = _numbers(learning_rate, noise_factor, time_step, momentum, order)
    if check_flag("joint", joint) and (h != eta or order != 1):
        raise ValueError(
            f"joint=True is for SGD: it needs time_step == learning_rate ({eta:g}) and order=1, "
            f"got time_step={h:g} and order={order}."
        )
    _refuse_flat(problem)
    resistance = moments.resistance(moments.drift(problem, eta, order), eta, h, mu)
    try:
        factor = cho_factor(moments.check_held(np.diag(resistance) - c * problem.feedback))
    except LinAlgError:
        raise ValueError(_unstable(problem, eta, c, h, mu, order)) from None
    second = cho_solve(factor, c * problem.star)
    if joint:
        noise = moments.full(c * (problem.star + problem.feedback @ second))
        return momentum_covariance(
            (problem.basis * problem.hessian) @ problem.basis.T,
            problem.basis @ noise @ problem.basis.T,
            learning_rate=eta,
            momentum=mu,
            joint=True,
        )
    return problem.basis @ moments.full(second) @ problem.basis.T


def least_squares_transient(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    times: ArrayLike,
    theta0: ArrayLike,
    l2: RealLike = 0.0,
    momentum: RealLike = 0.0,
    order: int = 1,
    frozen_noise: bool = False,
) -> TransientMoments:
    """Exact mean and covariance of θ at `times`, started from the deterministic `theta0`.

    h > 0: the recursion E δ ← (I − hH) E δ, E δδᵀ ← (I − hH) E δδᵀ (I − hH) + hηc E Σ(θ* + δ);
    h = 0: the matrix exponential of its generator. Momentum starts from an empty buffer, and its
    cost is linear in the number of steps; the rest costs O(log steps) products of d²/2 × d²/2
    matrices (milliseconds at d = 5, seconds at d = 64 for each distinct interval).

    **Arguments:** as `least_squares_covariance`, and

    - `times`: (T,) in units of t = η·iterations, in any order, t ≥ 0; multiples of `time_step`
      unless it is 0.
    - `theta0`: (d,).

    **Returns:** `TransientMoments`. The covariance is a difference of second moments: it keeps
    about 16 − log10(|θ0 − θ*|²/variance) digits.

    **Raises:** `ValueError` for bad shapes, numbers and combinations, and times between two steps.
    An unstable rate is allowed: its moments grow; `ValueError` when they leave float64.
    """
    problem = _problem(inputs, targets, l2, frozen=frozen_noise)
    eta, c, h, mu = _numbers(learning_rate, noise_factor, time_step, momentum, order)
    clock = _arguments.times(times)
    start = _arguments.vector("theta0", theta0, len(problem.hessian))
    delta = problem.basis.T @ start - problem.minimum
    ticks = _arguments.whole_steps(clock, h) if h > 0 else clock
    if mu and ticks.max() > _MOST_STEPS:
        raise ValueError(
            f"times up to {clock.max():g} are {ticks.max()} steps, at most {_MOST_STEPS} are gone "
            f"through one by one with momentum: ask for earlier times, or the stationary law."
        )
    unique, where = np.unique(ticks, return_inverse=True)
    with np.errstate(over="ignore", invalid="ignore"):
        if mu:
            mean, covariance = _heavy_ball(problem, eta, c, mu, unique, delta)
        else:
            system = moments.affine_system(problem, eta, c, h, order)
            mean, covariance = _propagate(system, unique, delta, exponential=h == 0)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(
            f"The moments overflow before t = {clock.max():g}. "
            + _unstable(problem, eta, c, h, mu, order)
        )
    mean = (mean + problem.minimum) @ problem.basis.T
    covariance = problem.basis @ covariance @ problem.basis.T
    return TransientMoments(clock, mean[where], covariance[where])


def second_moment_operator(
    inputs: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    l2: RealLike = 0.0,
    frozen_noise: bool = False,
) -> Float[np.ndarray, "dd dd"]:
    """The (d², d²) matrix P of vec E δδᵀ ← P vec E δδᵀ + constant, δ = θ − θ*, E δ = 0.

    P = (I − hH)⊗(I − hH) + hηc [(1/N) Σ H_i⊗H_i − A⊗A] per solver step h; for h = 0 the generator
    −(H⊗I + I⊗H) + ηc[...] per unit t. Arguments and errors: `least_squares_covariance`.
    """
    x = _inputs(inputs)
    eta, c, h, _ = _numbers(learning_rate, noise_factor, time_step, 0.0, 1)
    num, dim = x.shape
    hess = x.T @ x / num
    penalised, eye = hess + check_at_least("l2", l2) * np.eye(dim), np.eye(dim)
    if h == 0:
        operator, scale = -np.kron(penalised, eye) - np.kron(eye, penalised), eta * c
    else:
        operator, scale = np.kron(eye - h * penalised, eye - h * penalised), h * eta * c
    if not check_flag("frozen_noise", frozen_noise):
        for rows in np.array_split(x, -(-num // 2048)):
            squares = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
            operator += scale / num * (squares.T @ squares)
        operator -= scale * np.kron(hess, hess)
    return operator


def mean_square_stability(
    inputs: ArrayLike,
    *,
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    l2: RealLike = 0.0,
    order: int = 1,
    frozen_noise: bool = False,
) -> MeanSquareStability:
    """Whether E|θ − θ*|² contracts: spectral radius < 1 of `second_moment_operator`.

    Stronger than contraction of the mean, η < 2/λ_max(H). Directions that no input sees never move
    when l2 = 0 and are left out. Arguments and errors: `least_squares_covariance`.

    **Returns:** `MeanSquareStability`.
    """
    x = _inputs(inputs)
    problem = _problem(x, np.zeros(len(x)), l2, frozen=frozen_noise)
    eta, c, h, _ = _numbers(learning_rate, noise_factor, time_step, 0.0, order)
    return _stability(problem, eta, c, h, order)


def max_stable_learning_rate(
    inputs: ArrayLike,
    *,
    noise_factor: RealLike,
    l2: RealLike = 0.0,
    momentum: RealLike = 0.0,
    step_ratio: RealLike = 1.0,
) -> float:
    """The largest η with a finite stationary second moment; infinite if every η has one.

    η_max = 1/λ_max(𝓗⁻¹(r H⊗H + cK)) with 𝓗 = H⊗I + I⊗H, K = (1/N) Σ H_i⊗H_i − A⊗A and
    r = h/η the `step_ratio`: an eigenvalue, so exact, not a bisection.

    **Arguments:** `inputs`, `noise_factor`, `l2`, `momentum` as in
    `least_squares_covariance`; `step_ratio`: `time_step / learning_rate`, 1 for SGD,
    1/substeps for Euler, 0 for the SDE.
    """
    x = _inputs(inputs)
    problem = _problem(x, np.zeros(len(x)), l2, frozen=False)
    ratio = check_at_least("step_ratio", step_ratio)
    c, mu = _arguments.noise_factor(noise_factor), _arguments.momentum(momentum)
    _numbers(1.0, c, ratio, mu, 1)
    return moments.largest_stable_rate(problem, c, ratio, mu)


def _propagate(
    system: np.ndarray, ticks: np.ndarray, delta: np.ndarray, *, exponential: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance at increasing `ticks`: steps of a map, or times of a generator."""
    dim, size = len(delta), len(system)
    state = np.concatenate([[1.0], delta, moments.half(np.outer(delta, delta))])
    cache: dict[float, np.ndarray] = {}
    states = []
    for gap in np.diff(ticks, prepend=0):
        if exponential or gap >= size:  # below, applying the map is cheaper than its power
            key = float(f"{gap:.14g}")  # a uniform grid has one spacing up to rounding
            if key not in cache:
                cache[key] = (
                    expm(key * system) if exponential else np.linalg.matrix_power(system, int(gap))
                )
            state = cache[key] @ state
        else:
            for _ in range(int(gap)):
                state = system @ state
        states.append(state)
    stack = np.stack(states)
    mean = stack[:, 1 : 1 + dim]
    covariance = moments.full(stack[:, 1 + dim :]) - mean[:, :, None] * mean[:, None, :]
    covariance[ticks == 0] = 0.0  # the start is deterministic, not to rounding
    return mean, covariance


def _heavy_ball(
    problem: moments.Closure,
    eta: float,
    c: float,
    mu: float,
    ticks: np.ndarray,
    delta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of θ − θ* under z ← F z + G ξ, z = (θ − θ*, m), Cov ξ = c Σ(θ)."""
    dim = len(delta)
    eye, hess = np.eye(dim), np.diag(problem.hessian)
    transition = np.block([[eye - eta * hess, -eta * mu * eye], [hess, mu * eye]])
    injection = np.vstack([-eta * eye, eye])
    mean, covariance = np.concatenate([delta, np.zeros(dim)]), np.zeros((2 * dim, 2 * dim))
    means, covariances = [], []
    for gap in np.diff(ticks, prepend=0):
        for _ in range(int(gap)):
            centre = mean[:dim]
            second = moments.half(covariance[:dim, :dim] + np.outer(centre, centre))
            noise = moments.full(c * problem.noise(second, centre))
            covariance = transition @ covariance @ transition.T + injection @ noise @ injection.T
            mean = transition @ mean
        means.append(mean[:dim])
        covariances.append(covariance[:dim, :dim])
    return np.stack(means), np.stack(covariances)


def _stability(
    problem: moments.Closure, eta: float, c: float, h: float, order: int
) -> MeanSquareStability:
    top = moments.growth(problem, eta, c, h, order)
    if h == 0:
        return MeanSquareStability(float("nan"), top, top < 0)
    return MeanSquareStability(top, float(np.log(top) / h) if top > 0 else -np.inf, top < 1)


def _unstable(
    problem: moments.Closure, eta: float, c: float, h: float, mu: float, order: int
) -> str:
    message = f"The second moment diverges at learning_rate={eta:g}, time_step={h:g}"
    if mu == 0:
        found = _stability(problem, eta, c, h, order)
        message += (
            f" (spectral abscissa {found.spectral_abscissa:g} per unit t must be < 0)"
            if h == 0
            else f" (spectral radius {found.spectral_radius:g} per step must be < 1)"
        )
    advice = "a smaller learning_rate"
    if order == 1:
        limit = moments.largest_stable_rate(problem, c, h / eta, mu)
        advice = f"learning_rate < {limit:g} at the same time_step/learning_rate"
    return f"{message}. Take {advice}, or a larger batch."


def _refuse_flat(problem: moments.Closure) -> None:
    if problem.flat.any():
        raise ValueError(
            f"{int(problem.flat.sum())} of {len(problem.flat)} directions are seen by no input: "
            f"the minimum is not unique and there is no stationary covariance. Pass l2 > 0, or "
            f"project the inputs onto their span."
        )


def _inputs(inputs: ArrayLike) -> Float[np.ndarray, "N d"]:
    x = _arguments.array("inputs", inputs, 2)
    if x.shape[1] > moments.MAX_DIMENSION:
        raise ValueError(
            f"inputs have d = {x.shape[1]} features; the second-moment equations need d^4 numbers "
            f"and are limited to d <= {moments.MAX_DIMENSION}. Use fewer features (a random "
            f"projection), or frozen noise with `linear_covariance`."
        )
    if not x.any():
        raise ValueError("inputs are all zero: there is nothing to learn and nothing moves.")
    return x


def _problem(
    inputs: ArrayLike, targets: ArrayLike, l2: RealLike, *, frozen: bool
) -> moments.Closure:
    x = _inputs(inputs)
    y = _arguments.array("targets", targets, 1)
    if len(y) != len(x):
        raise ValueError(f"targets must have shape ({len(x)},) to match inputs, got {y.shape}.")
    check_flag("frozen_noise", frozen)
    return moments.closure(x, y, check_at_least("l2", l2), frozen=frozen)


def _numbers(
    learning_rate: RealLike,
    noise_factor: RealLike,
    time_step: RealLike,
    momentum: RealLike,
    order: int,
) -> tuple[float, float, float, float]:
    eta = check_number("learning_rate", learning_rate, above=0)
    c = _arguments.noise_factor(noise_factor)
    h = check_at_least("time_step", time_step)
    if abs(h - eta) < 1e-6 * eta:
        h = eta  # the same number, one of the two rounded to float32
    mu = _arguments.momentum(momentum)
    order = _arguments.order(order)
    if mu and (h != eta or order != 1):
        raise ValueError(
            f"momentum={mu:g} is the discrete heavy ball: it needs time_step == learning_rate "
            f"({eta:g}) and order=1, got time_step={h:g} and order={order}."
        )
    return eta, c, h, mu
