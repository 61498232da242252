"""The linear reading of a process: its moments near a point of rest, at its own step.

Near θ* a process moves u = θ − θ*, or (u, m) with a buffer m, by its Hessian H and by noise whose
covariance is quadratic in u. Everything that a process does with a gradient is a function of H, so
that in the eigenbasis of H each direction i has its own w×w transition, w = 1 or 2, and each pair
of directions its own second moments:

    z_i ← F_i z_i + G_i n_i ,   E n = 0 ,   Cov(n | z) = C(v) = star + X v + K[v vᵀ] ,
    v_i = P_i z_i ,

with v where the step evaluates the gradient. On quadratic losses with the noise of batches this is
exact (`NoiseMoments`).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Bool, Float

from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.noise_moments import MAX_DIMENSION, NoiseMoments


class NotKnown(ValueError):
    """A reading that a process does not have, or not on its landscape; the message says what is."""


class LinearStep(NamedTuple):
    """One step in each eigendirection of H.

    **Fields:** `transition` F (d, w, w), `injection` G (d, w), `seen` P (d, w), and `step`, its
    length in iterations; where `step` is 0, F is the drift and G Gᵀ C the noise of one iteration.
    The first of the w coordinates is u.
    """

    transition: Float[np.ndarray, "d w w"]
    injection: Float[np.ndarray, "d w"]
    seen: Float[np.ndarray, "d w"]
    step: float


def first_order_step(
    rate: Float[np.ndarray, " d"], kick: float, substeps: int | None
) -> LinearStep:
    """u ← (1 − rate/m) u + kick/√m n of m substeps; du = −rate u ds + kick dW for None."""
    one = np.ones((len(rate), 1))
    if substeps is None:
        return LinearStep(-rate[:, None, None], kick * one, one, 0.0)
    transition = 1 - rate[:, None, None] / substeps
    return LinearStep(transition, kick / np.sqrt(substeps) * one, one, 1 / substeps)


def heavy_ball_step(eta: float, momentum: float, curvature: Float[np.ndarray, " d"]) -> LinearStep:
    """m ← μm + ĝ, u ← u − ηm."""
    if momentum == 0:
        return first_order_step(eta * curvature, eta, 1)
    one = np.ones_like(curvature)
    transition = _blocks(1 - eta * curvature, -eta * momentum * one, curvature, momentum * one)
    return LinearStep(transition, np.stack([-eta * one, one], 1), np.stack([one, 0 * one], 1), 1.0)


def underdamped_step(
    eta: float, momentum: float, curvature: Float[np.ndarray, " d"], substeps: int | None
) -> LinearStep:
    """du = −ηm ds, dm = −(1−μ)m ds + Hu ds + C^{1/2} dW_s, or its splitting with m substeps."""
    one, friction = np.ones_like(curvature), 1 - momentum
    if substeps is None:
        drift = _blocks(0 * one, -eta * one, curvature, -friction * one)
        return LinearStep(drift, np.stack([0 * one, one], 1), np.stack([one, 0 * one], 1), 0.0)
    step = 1 / substeps
    decay = np.exp(-friction * step)
    push, spread = (1 - decay) / friction, np.sqrt((1 - decay**2) / (2 * friction))
    drift = _blocks(one, -0.5 * step * eta * one, 0 * one, one)
    kick = _blocks(one, 0 * one, push * curvature, decay * one)
    injection = drift @ np.stack([0 * one, spread * one], 1)[..., None]
    return LinearStep(drift @ kick @ drift, injection[..., 0], drift[:, 0], step)


def _blocks(a, b, c, d) -> Float[np.ndarray, "d 2 2"]:
    return np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], -2)


class LinearReading(NamedTuple):
    """Moments of a process about a point, or exactly, on a quadratic with the noise of batches.

    Made by `process.linear()`; `theory.stationary` asks it, and so does the check of stability.

    **Fields:** `process`; `rest` (d,), where the mean comes to rest; `basis` (d, d), eigenvectors
    of H as columns, `curvature` (d,) its eigenvalues; `noise`, about `rest` in that basis;
    `learning_rate` η; `own`, the step.
    """

    process: Any
    rest: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d d"]
    curvature: Float[np.ndarray, " d"]
    noise: NoiseMoments
    learning_rate: float
    own: LinearStep

    @property
    def flat(self) -> Bool[np.ndarray, " d"]:
        """Which directions have no curvature beyond rounding."""
        size = np.abs(self.curvature).max(initial=0.0)
        return np.abs(self.curvature) <= len(self.curvature) * _rounding(self.process) * size

    def at(self, learning_rate: float) -> "LinearReading":
        """The same process with another η."""
        own = self.process.linear_step(learning_rate, self.curvature)
        return self._replace(learning_rate=learning_rate, own=own)

    def growth(self) -> float:
        """Spectral radius of the second moments of one step; of a limit, e^{growth per iteration}.

        Below 1 every second moment is bounded. Directions without curvature are left out. Of noise
        that feeds on itself it is a bound on the same side of 1: the largest of the means' own
        growth and the gain of the feedback.
        """
        moving = ~self.flat
        if not moving.any():
            return 0.0
        values = np.linalg.eigvals(self.own.transition[moving])
        top = values.real.max() if self.own.step == 0 else np.abs(values).max()
        mean = float(np.exp(2 * top)) if self.own.step == 0 else float(top) ** 2
        if mean >= 1 or self.noise.feedback is None:
            return mean
        pairs = half(moving[:, None] & moving[None, :], scaled=False).astype(bool)
        gain = half(self._response(moving), scaled=False)[pairs]
        feedback = on_symmetric(self.noise.feedback)[np.ix_(pairs, pairs)]
        if (gain >= 0).all():
            root = np.sqrt(gain)
            found = _top(root[:, None] * feedback * root)
        else:
            found = _top(gain[:, None] * feedback)
        return max(mean, found)

    def second_moment_growth(self) -> float:
        """The exact factor of E|u|² in an iteration, directions without curvature aside."""
        dim, width = self.own.injection.shape
        moving = np.repeat(~self.flat, width)
        if not moving.any():
            return 0.0
        pairs = half(moving[:, None] & moving[None, :], scaled=False).astype(bool)
        first = 1 + dim * width
        block = self._system()[first:, first:][np.ix_(pairs, pairs)]
        limit = self.own.step == 0
        top = _top(block, of_generator=limit)
        return float(np.exp(top)) if limit else top ** (1 / self.own.step)

    @property
    def stable(self) -> bool:
        """Whether second moments stay bounded, directions without curvature aside."""
        return self.growth() < 1

    def largest_stable_rate(self) -> float:
        """The η below which second moments are bounded, all else the same.

        ∞ if they always are, and 0 if they are at no η, as at a saddle. Found by bisection of the
        logarithm between a stable and an unstable rate.
        """
        low = high = self.learning_rate
        if self.at(low).stable:
            while self.at(high).stable:
                high *= 4
                if high > 1e12 * low:
                    return np.inf
        else:
            while not self.at(low).stable:
                low /= 4
                if low < 1e-12 * high:
                    return 0.0
        while high / low - 1 > 1e-12:
            middle = np.sqrt(low * high)
            low, high = (middle, high) if self.at(middle).stable else (low, middle)
        return float(low)

    def _response(self, moving) -> Float[np.ndarray, "d d"]:
        """E v_i v_j in the stationary state per unit covariance of n_i and n_j; 0 where flat."""
        joint = self._solve(np.ones((len(self.curvature),) * 2), moving)
        return np.einsum("ia,ijab,jb->ij", self.own.seen, joint, self.own.seen)

    def _solve(self, noise, moving) -> Float[np.ndarray, "d d w w"]:
        """Second moments of each pair z_i, z_j under a constant noise (d, d)."""
        f, g = self.own.transition, self.own.injection
        dim, width = g.shape
        push = np.einsum("ia,ij,jb->ijab", g, noise, g).reshape(dim, dim, -1)
        eye = np.eye(width)
        if self.own.step == 0:
            system = -(
                np.einsum("iab,cd->iacbd", f, eye).reshape(dim, 1, width**2, width**2)
                + np.einsum("ab,jcd->jacbd", eye, f).reshape(1, dim, width**2, width**2)
            )
        else:
            both = np.einsum("iab,jcd->ijacbd", f, f).reshape(dim, dim, width**2, width**2)
            system = np.eye(width**2) - both
        still = ~(moving[:, None] & moving[None, :])
        system = np.where(still[..., None, None], np.eye(width**2), system)
        push = np.where(still[..., None], 0.0, push)
        solved = np.linalg.solve(system, push[..., None])[..., 0]
        return solved.reshape(dim, dim, width, width)

    def stationary_noise(self) -> Float[np.ndarray, "d d"]:
        """E C(v) in the stationary state, in the eigenbasis of H."""
        if self.noise.feedback is None:
            return self.noise.star
        moving = ~self.flat
        gain = half(self._response(moving), scaled=False)
        feedback = on_symmetric(self.noise.feedback)
        star = half(self.noise.star)
        return full(np.linalg.solve(np.eye(len(star)) - feedback * gain, star))

    def joint(self) -> Float[np.ndarray, "n n"]:
        """Stationary covariance of (u, m), in the coordinates of θ: (d, d), or (2d, 2d)."""
        pairs = self._solve(self.stationary_noise(), ~self.flat)
        turned = np.einsum("ki,ijab,lj->akbl", self.basis, pairs, self.basis)
        size = turned.shape[0] * turned.shape[1]
        found = turned.reshape(size, size)
        return (found + found.T) / 2

    def transient(
        self, start: Float[np.ndarray, " d"], counts: np.ndarray
    ) -> tuple[Float[np.ndarray, "T d"], Float[np.ndarray, "T d d"]]:
        """Means and covariances of θ after steps `counts` (T,), of a limit after iterations.

        From θ = `start` and an empty buffer. Refuses nothing: unstable moments grow.
        """
        dim, width = self.own.injection.shape
        size = dim * width
        mean = np.zeros((dim, width))
        mean[:, 0] = self.basis.T @ (start - self.rest)
        mean = mean.ravel()
        state = np.concatenate([[1.0], mean, half(np.outer(mean, mean))])
        system = self._system()
        unique, places = np.unique(counts, return_inverse=True)
        means, covariances, powers = [], [], {}
        for gap in np.diff(unique, prepend=0):
            key = float(f"{gap:.14g}")  # a uniform grid has one spacing up to rounding
            if self.own.step == 0 or gap >= len(state):
                if key not in powers:
                    limit = self.own.step == 0
                    powers[key] = (
                        scipy.linalg.expm(gap * system)
                        if limit
                        else np.linalg.matrix_power(system, int(gap))
                    )
                state = powers[key] @ state
            else:
                for _ in range(int(gap)):
                    state = system @ state
            first = state[1 : 1 + size].reshape(dim, width)[:, 0]
            second = full(state[1 + size :]).reshape(dim, width, dim, width)[:, 0, :, 0]
            means.append(self.basis @ first + self.rest)
            covariances.append(self.basis @ (second - np.outer(first, first)) @ self.basis.T)
        found = np.array(covariances)[places]
        found[np.asarray(counts) == 0] = 0.0  # the start is one point, not to rounding
        return np.array(means)[places], found

    def _system(self) -> Float[np.ndarray, "s s"]:
        """The map of (1, E z, E z zᵀ) over one step, or its generator for one iteration."""
        f, g, p = self.own.transition, self.own.injection, self.own.seen
        dim, width = g.shape
        size = dim * width
        if size > MAX_DIMENSION:
            raise ValueError(
                f"Moments on the way of {type(self.process).__name__} need the square of "
                f"{size * (size + 1) // 2} numbers: at most {MAX_DIMENSION} coordinates, those of "
                f"the buffer included, are taken; got {size}."
            )
        rows, own = np.arange(size).reshape(dim, width), np.arange(dim)[:, None]
        move, into, seen = np.zeros((size, size)), np.zeros((size, dim)), np.zeros((dim, size))
        move[rows[:, :, None], rows[:, None, :]] = f
        into[rows, own] = g
        seen[own, rows] = p
        limit, eye = self.own.step == 0, np.eye(size)
        both = np.kron(move, eye) + np.kron(eye, move) if limit else np.kron(move, move)
        push = np.kron(into, into)
        pairs = size * (size + 1) // 2
        system = np.zeros((1 + size + pairs,) * 2)
        system[0, 0] = 0.0 if limit else 1.0
        system[1 : 1 + size, 1 : 1 + size] = move
        square = (size, size)
        system[1 + size :, 0] = half((push @ self.noise.star.ravel()).reshape(square))
        if self.noise.cross is not None and self.noise.feedback is not None:
            mixed = push @ self.noise.cross.reshape(dim**2, dim) @ seen
            system[1 + size :, 1 : 1 + size] = half(mixed.T.reshape(size, *square)).T
            both = both + push @ self.noise.feedback.reshape(dim**2, dim**2) @ np.kron(seen, seen)
        system[1 + size :, 1 + size :] = on_symmetric(both.reshape(square * 2))
        return system


def read(process: Any, about: Any) -> LinearReading:
    """The reading of a process about θ (d,), or about the minimum of a quadratic for None.

    **Raises:** `NotKnown` where the landscape is not quadratic and no θ is given, where the noise
    is not known to second order, and as the process does where its step is not linear.
    """
    landscape, eta = process.landscape, process.clock.constant
    name = type(process).__name__
    if eta is None:
        raise NotKnown(
            f"{name} has no constant learning rate: there is no stationary state to read. Ask for "
            f"a process with the rate at which the schedule ends."
        )
    rest = landscape.rest() if about is None else np.asarray(about, np.float64)
    if rest is None:
        raise NotKnown(
            f"{type(landscape).__name__} is not known to be quadratic, where moments of {name} are "
            f"exact (LeastSquares, PopulationLeastSquares, quadratic): give about=θ, the minimum "
            f"say, for its linearisation there, or take theory.laws in one or two dimensions."
        )
    point = jnp.asarray(rest, landscape.dtype)
    hessian = np.asarray(compiled.hessian(landscape, point), np.float64)
    curvature, basis = np.linalg.eigh((hessian + hessian.T) / 2)
    own = process.linear_step(eta, curvature)
    model = process.gradient_noise
    if model is None and not process.deterministic:
        raise NotKnown(
            f"{name} has a linear step and does not say what its noise is: give it gradient_noise, "
            f"or deterministic = True if it draws nothing."
        )
    dim = landscape.dimension
    moments = (
        NoiseMoments(np.zeros((dim, dim)), None, None, True)
        if model is None
        else model.moments(point, landscape)
    )
    if about is None and not moments.exact:
        raise NotKnown(
            f"{type(model).__name__} on {type(landscape).__name__} is not known to be quadratic in "
            f"θ: give about=θ, where it is then held."
        )
    if about is not None:
        slope = np.asarray(compiled.gradient(landscape, point), np.float64)
        steep = np.abs(curvature) > dim * _rounding(process) * np.abs(curvature).max(initial=0.0)
        by = -basis @ np.where(steep, basis.T @ slope / np.where(steep, curvature, 1.0), 0.0)
        rest, moments = rest + by, moments.moved(by)
    return LinearReading(process, rest, basis, curvature, moments.rotated(basis), eta, own)


def _top(matrix: np.ndarray, of_generator: bool = False) -> float:
    """The spectral radius of a map of second moments, or the abscissa of their generator.

    Either belongs to one real eigenvalue, the largest, as such a map keeps covariances what they
    are. It is found alone where the map is its own adjoint: not with `IsotropicNoise`, for one.
    """
    if np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12 * np.abs(matrix).max(initial=0.0)):
        last = len(matrix) - 1
        return float(scipy.linalg.eigh(matrix, eigvals_only=True, subset_by_index=[last, last])[0])
    values = np.linalg.eigvals(matrix)
    return float(values.real.max() if of_generator else np.abs(values).max())


def _rounding(process: Any) -> float:
    return float(jnp.finfo(process.landscape.dtype).eps)


def half(matrix: np.ndarray, *, scaled: bool = True) -> np.ndarray:
    """(..., d, d) symmetric → (..., p), off-diagonal entries × √2 unless not `scaled`."""
    rows, columns = np.triu_indices(matrix.shape[-1])
    entries = matrix[..., rows, columns]
    return entries * np.where(rows == columns, 1.0, np.sqrt(2)) if scaled else entries


def full(vector: np.ndarray) -> np.ndarray:
    """(..., p) → (..., d, d), the inverse of `half`."""
    dim = int(np.sqrt(2 * vector.shape[-1]))
    rows, columns = np.triu_indices(dim)
    entries = vector / np.where(rows == columns, 1.0, np.sqrt(2))
    matrix = np.zeros((*vector.shape[:-1], dim, dim))
    matrix[..., rows, columns] = entries
    matrix[..., columns, rows] = entries
    return matrix


def on_symmetric(feedback: Float[np.ndarray, "d d d d"]) -> Float[np.ndarray, "p p"]:
    """K on symmetric matrices stored as vectors, where Frobenius products are dot products."""
    inner = half((feedback + np.swapaxes(feedback, 2, 3)) / 2)
    return half(np.moveaxis(inner, -1, 0)).T
