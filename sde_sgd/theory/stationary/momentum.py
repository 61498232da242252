"""Linear dynamics with momentum and constant noise: discrete chains, their SDEs, their schemes."""

import equinox as eqx
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import expm, solve_continuous_lyapunov, solve_discrete_lyapunov

from sde_sgd._checks import check_choice, check_number, check_whole
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary.lyapunov import TransientMoments
from sde_sgd.types import RealLike

_KINDS = ("heavy_ball", "nesterov", "underdamped", "overdamped")


class MomentumLaw(eqx.Module):
    """Mean and covariance of a process with momentum on ½(θ−θ*)ᵀH(θ−θ*), on the clock t = ηk.

    State z = (θ − θ*, m), with C = Cov(ĝ) of one iteration and g = Hδ:

    - "heavy_ball": m ← μm + ĝ, θ ← θ − ηm;
    - "nesterov": m ← μm + ĝ, θ ← θ − η(ĝ + μm) (optax, PyTorch);
    - "underdamped": dθ = −ηm ds, dm = −(1−μ)m ds + g ds + C^{1/2}dW_s, s in iterations;
    - "overdamped": dθ = −[η/(1−μ)](g ds + C^{1/2}dW_s), the state is θ alone.

    The last two are SDEs, or with `substeps` the schemes of `UnderdampedEquation` and
    `OverdampedEquation` (Euler) at their solver step. The buffer starts at 0.

    **Fields:** `transition` and `push` (n, n): z ← Fz + ξ, Cov ξ = Q in one step of `step`
    iterations; or drift and noise rate per iteration where `step` is 0. `learning_rate`,
    `dimension` d.
    """

    transition: Float[np.ndarray, "n n"]
    push: Float[np.ndarray, "n n"]
    step: float
    learning_rate: float
    dimension: int

    @staticmethod
    def of(
        process: str,
        hessian: ArrayLike,
        gradient_noise: ArrayLike,
        *,
        learning_rate: RealLike,
        momentum: RealLike,
        substeps: int | None = None,
    ) -> "MomentumLaw":
        """From H (d, d) symmetric, C (d, d), η, μ in [0, 1).

        **Raises:** `ValueError` for bad matrices and numbers, an unknown process, and `substeps` of
        a discrete chain.
        """
        check_choice("process", process, _KINDS)
        hess = _arguments.symmetric("hessian", hessian)
        dim = len(hess)
        noise = _arguments.covariance("gradient_noise", gradient_noise, dim)
        eta = check_number("learning_rate", learning_rate, above=0)
        mu = _arguments.momentum(momentum)
        if substeps is not None:
            substeps = check_whole("substeps", substeps, 1, 10**9)
            if process in _KINDS[:2]:
                raise ValueError(
                    f"substeps={substeps} is for the schemes of the two SDEs; {process!r} has none."
                )
        eye, zero = np.eye(dim), np.zeros((dim, dim))
        friction = 1 - mu
        if process == "overdamped":
            rate = eta / friction
            if substeps is None:
                return MomentumLaw(-rate * hess, rate**2 * noise, 0.0, eta, dim)
            step = 1 / substeps
            return MomentumLaw(eye - step * rate * hess, step * rate**2 * noise, step, eta, dim)
        if process == "underdamped":
            if substeps is None:
                drift = np.block([[zero, -eta * eye], [hess, -friction * eye]])
                return MomentumLaw(drift, np.block([[zero, zero], [zero, noise]]), 0.0, eta, dim)
            step = 1 / substeps
            decay = np.exp(-friction * step)
            half = np.block([[eye, -eta * step / 2 * eye], [zero, eye]])
            kick = np.block([[eye, zero], [(1 - decay) / friction * hess, decay * eye]])
            spread = (1 - decay**2) / (2 * friction)
            push = half @ np.block([[zero, zero], [zero, spread * noise]]) @ half.T
            return MomentumLaw(half @ kick @ half, push, step, eta, dim)
        ahead = 1.0 if process == "heavy_ball" else 1 + mu
        memory = mu if process == "heavy_ball" else mu**2
        chain = np.block([[eye - eta * ahead * hess, -eta * memory * eye], [hess, mu * eye]])
        into = np.vstack([-eta * ahead * eye, eye])
        return MomentumLaw(chain, into @ noise @ into.T, 1.0, eta, dim)

    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Covariance of θ in the stationary state, (d, d).

        **Raises:** `ValueError` where there is none (unstable, or flat directions).
        """
        return self.stationary_joint()[: self.dimension, : self.dimension]

    def stationary_joint(self) -> Float[np.ndarray, "n n"]:
        """Covariance of the whole state z in the stationary state, (n, n).

        **Raises:** `ValueError` where there is none (unstable, or flat directions).
        """
        values = np.linalg.eigvals(self.transition)
        if self.step == 0:
            growth = float(values.real.max())
            stable, found = growth < 0, f"drift with an eigenvalue of real part {growth:g}"
        else:
            growth = float(np.abs(values).max())
            stable, found = growth < 1 - 1e-13, f"transition of spectral radius {growth:g}"
        if not stable:
            raise ValueError(
                f"No stationary covariance: learning_rate={self.learning_rate:g} gives a {found}. "
                f"Lower it, raise substeps, or project flat directions out."
            )
        if self.step == 0:
            both = solve_continuous_lyapunov(self.transition, -self.push)
        else:
            both = solve_discrete_lyapunov(self.transition, self.push)
        return (both + both.T) / 2

    def transient(
        self, times: ArrayLike, theta0: ArrayLike, minimum: ArrayLike | None = None
    ) -> TransientMoments:
        """Mean and covariance of θ at `times` t = ηk (T,), from `theta0` (d,) and an empty buffer.

        **Raises:** `ValueError` for shapes and for times between two steps of a chain.
        """
        clock = _arguments.times(times)
        start = _arguments.vector("theta0", theta0, self.dimension)
        centre = np.zeros(self.dimension)
        if minimum is not None:
            centre = _arguments.vector("minimum", minimum, self.dimension)
        size = len(self.transition)
        begin = np.zeros(size)
        begin[: self.dimension] = start - centre
        if self.step:
            counts = _arguments.whole_steps(clock, self.step * self.learning_rate)
            moves = [_power(self.transition, self.push, int(n)) for n in counts]
        else:
            moves = [_flow(self.transition, self.push, t / self.learning_rate) for t in clock]
        keep = slice(0, self.dimension)
        mean = np.array([(move @ begin)[keep] + centre for move, _ in moves])
        return TransientMoments(clock, mean, np.array([q[keep, keep] for _, q in moves]))


def _power(transition, push, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fⁿ and Σ_{j<n} F^j Q F^jᵀ, by doubling."""
    size = len(transition)
    total, spread = np.eye(size), np.zeros((size, size))
    while count:
        if count % 2:
            total, spread = total @ transition, push + transition @ spread @ transition.T
        push = push + transition @ push @ transition.T
        transition = transition @ transition
        count //= 2
    return total, spread


def _flow(drift, push, time: float) -> tuple[np.ndarray, np.ndarray]:
    """e^{At} and ∫_0^t e^{As} Q e^{Aᵀs} ds, by Van Loan's block exponential."""
    size = len(drift)
    whole = np.block([[-drift, push], [np.zeros((size, size)), drift.T]])
    # Over a short time, then doubled: the block e^{−At} would grow without bound.
    pieces = max(int(np.ceil(time * np.abs(drift).sum(axis=1).max())), 1)
    block = expm(whole * (time / pieces))
    move = block[size:, size:].T
    spread = move @ block[:size, size:]
    return _power(move, (spread + spread.T) / 2, pieces)
