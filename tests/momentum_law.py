"""Linear dynamics with momentum and constant noise from their whole transitions, as matrices.

Another route to what `theory.stationary` reads off processes, direction by direction.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov, solve_discrete_lyapunov

from sde_sgd.theory.stationary import TransientMoments


class MomentumLaw(NamedTuple):
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

    transition: np.ndarray
    push: np.ndarray
    step: float
    learning_rate: float
    dimension: int

    @staticmethod
    def of(process, hessian, gradient_noise, *, learning_rate, momentum, substeps=None):
        """From H (d, d) symmetric, C (d, d), η, μ in [0, 1)."""
        hess, noise = np.asarray(hessian, float), np.asarray(gradient_noise, float)
        dim, eta, mu = len(hess), learning_rate, momentum
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
        assert process in ("heavy_ball", "nesterov") and substeps is None
        ahead = 1.0 if process == "heavy_ball" else 1 + mu
        memory = mu if process == "heavy_ball" else mu**2
        chain = np.block([[eye - eta * ahead * hess, -eta * memory * eye], [hess, mu * eye]])
        into = np.vstack([-eta * ahead * eye, eye])
        return MomentumLaw(chain, into @ noise @ into.T, 1.0, eta, dim)

    def covariance(self):
        """Covariance of θ in the stationary state, (d, d)."""
        solve = solve_continuous_lyapunov if self.step == 0 else solve_discrete_lyapunov
        both = solve(self.transition, -self.push if self.step == 0 else self.push)
        return ((both + both.T) / 2)[: self.dimension, : self.dimension]

    def transient(self, times, theta0, minimum=0.0):
        """Mean and covariance of θ at `times` t = ηk, from `theta0` (d,) and no buffer."""
        clock, centre = np.asarray(times, float), minimum + np.zeros(self.dimension)
        begin = np.zeros(len(self.transition))
        begin[: self.dimension] = np.asarray(theta0) - centre
        if self.step:
            counts = np.rint(clock / (self.step * self.learning_rate)).astype(int)
            moves = [_power(self.transition, self.push, int(n)) for n in counts]
        else:
            moves = [_flow(self.transition, self.push, t / self.learning_rate) for t in clock]
        keep = slice(0, self.dimension)
        mean = np.array([(move @ begin)[keep] + centre for move, _ in moves])
        return TransientMoments(clock, mean, np.array([q[keep, keep] for _, q in moves]))


def _power(transition, push, count):
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


def _flow(drift, push, time):
    """e^{At} and ∫_0^t e^{As} Q e^{Aᵀs} ds, by Van Loan's block exponential."""
    size = len(drift)
    whole = np.block([[-drift, push], [np.zeros((size, size)), drift.T]])
    # Over a short time, then doubled: the block e^{−At} would grow without bound.
    pieces = max(int(np.ceil(time * np.abs(drift).sum(axis=1).max())), 1)
    block = expm(whole * (time / pieces))
    move = block[size:, size:].T
    spread = move @ block[:size, size:]
    return _power(move, (spread + spread.T) / 2, pieces)
