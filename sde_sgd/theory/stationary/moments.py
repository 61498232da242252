"""Means and covariances of a process: stationary, and on the way there."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sde_sgd._checks import check_part
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.linear import LinearReading
from sde_sgd.theory import _arguments
from sde_sgd.theory.stationary.epoch_moments import epoch_moments
from sde_sgd.theory.stationary.epochs import epoch_covariance
from sde_sgd.theory.stationary.lyapunov import TransientMoments


def mean(process: Any, about: Any = None) -> Float[np.ndarray, " d"]:
    """The stationary mean of θ, (d,).

    On a quadratic it is the minimum, at every stable rate. `about=θ` linearises the gradient there:
    the point of rest is then θ − H⁻¹∇L(θ), one Newton step away.

    Shuffled epochs move it, where their noise depends on θ: this is the mean at the end of one.

    **Arguments, errors:** as `covariance`.
    """
    reading = stable_reading(process, about)
    if process.epoch is None or reading.noise.feedback is None:
        return reading.rest
    return epoch_moments(process, about).epoch_end.mean


def covariance(process: Any, about: Any = None) -> Float[np.ndarray, "d d"]:
    """The stationary covariance of θ, (d, d), of a process at its own step.

    Exact on a quadratic loss (`LeastSquares`, `PopulationLeastSquares`, `quadratic`) with the noise
    of batches or a constant one: the minibatch covariance cΣ(θ) is quadratic in θ, so that second
    moments close. It is a different matrix for SGD, for SGD with momentum, for its SDE at a solver
    step and for `sde.limit()`, the SDE itself.

        both = ss.theory.stationary.covariance(sgd), ss.theory.stationary.covariance(sde.limit())

    **Arguments:**

    - `process`: `SGD` (any momentum; shuffled epochs at the end of one: where their noise depends
      on θ for few examples and without momentum, see `epoch_moments`), `GaussianSGD`, `SVAG`,
      `SGLD`, `ModifiedEquation` of both orders by Euler, `OverdampedEquation`,
      `UnderdampedEquation`, `DrivenEquation` with `WhiteNoise`, and limits. Constant learning
      rate; d ≤ 64 where the noise depends on θ.
    - `about`: θ (d,), on a landscape that is not quadratic: the linearisation there, with each
      example's own gradient and Hessian kept.

    **Raises:** `ValueError` for a process or a landscape whose moments do not close, with what is
    known; for directions without curvature; where second moments diverge, with the largest stable
    rate.

    **Source:** second-moment closure; for constant noise Mandt, Hoffman, Blei 2017 (1704.04289)
    and, at a finite step, Liu, Ziyin, Ueda 2021 (2012.03636).
    """
    reading = stable_reading(process, about)
    epoch = process.epoch
    if epoch is None:
        dim = len(reading.rest)
        return reading.joint()[:dim, :dim]
    if reading.noise.feedback is not None:
        return epoch_moments(process, about).epoch_end.covariance
    basis = reading.basis
    return epoch_covariance(
        (basis * reading.curvature) @ basis.T,
        basis @ reading.noise.star @ basis.T,
        learning_rate=reading.learning_rate,
        batches_per_epoch=epoch,
        momentum=_momentum(reading),
    ).epoch_end


def transient(
    process: Any, times: ArrayLike, theta0: ArrayLike, about: Any = None
) -> TransientMoments:
    """Mean and covariance of θ at `times` t, from θ0, of a process at its own step.

    Exact where `covariance` is; unstable rates are allowed, whose moments grow.

    **Arguments:** `times` (T,), t = ηk in the units of `process.time`, whole solver steps unless
    the process is a limit; `theta0` (d,), the start, with an empty buffer; the rest as
    `covariance`.

    **Raises:** `ValueError` as `covariance`, for times between two steps, for shuffled epochs, for
    more than 64 coordinates, those of a buffer included.
    """
    return transient_of(read_linear(process, about), times, theta0)


def transient_of(reading: LinearReading, times: ArrayLike, theta0: ArrayLike) -> TransientMoments:
    """`transient`, of a reading, which may have another learning rate than its process."""
    process = reading.process
    if process.epoch is not None:
        raise ValueError("Moments on the way of shuffled epochs are not known: see `covariance`.")
    clock = _arguments.times(times)
    start = _arguments.vector("theta0", theta0, len(reading.rest))
    unit, step = reading.learning_rate, reading.own.step
    counts = clock / unit
    if step > 0:
        way = "pass whole numbers of them, or take the limit of an equation, `process.limit()`"
        counts = _arguments.whole_steps(clock, step * unit, called="one step", way=way)
    with np.errstate(over="ignore", invalid="ignore"):
        means, covariances = reading.transient(start, counts)
    if not (np.isfinite(means).all() and np.isfinite(covariances).all()):
        raise ValueError(
            f"The moments overflow before t = {clock.max():g}: this {type(process).__name__} is "
            f"unstable. Its largest stable rate is {reading.largest_stable_rate():.6g}."
        )
    return TransientMoments(clock, means, covariances)


def largest_stable_learning_rate(process: Any, about: Any = None) -> float:
    """The η below which second moments of the process stay bounded, all else the same; or ∞.

    Batch, momentum, substeps and solver are those of `process`, whatever its own η. `SAM` and
    `SAMEquation` have theirs on `LeastSquares`.

    **Arguments, errors:** as `covariance`, for an unstable rate too.
    """
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    return process.largest_stable_rate(place(process, about))


def growth(process: Any, about: Any = None) -> float:
    """The factor by which E|θ − θ*|² grows in an iteration, in the long run; below 1 it is stable.

    The spectral radius of the second moments of one solver step, to the power of the steps in an
    iteration; of a limit, e to the power of its generator's. Directions without curvature, which
    never move, are left out.

    **Arguments, errors:** as `covariance`, for an unstable rate too; at most 64 coordinates, those
    of a buffer included.
    """
    return read_linear(process, about).second_moment_growth()


def read_linear(process: Any, about: Any = None) -> LinearReading:
    """The linear reading of a process, after a check that it is one."""
    check_part("process", process, AbstractProcess, "a process such as ss.SGD")
    return process.linear(place(process, about))


def place(process: Any, about: Any) -> Float[np.ndarray, " d"] | None:
    """`about` as a point (d,) of the landscape of a process, checked."""
    return None if about is None else _arguments.vector("about", about, process.landscape.dimension)


def stable_reading(process: Any, about: Any) -> LinearReading:
    """The linear reading of a process that has a stationary state about its point of rest."""
    reading = read_linear(process, about)
    flat = int(reading.flat.sum())
    if flat or not len(reading.curvature):
        raise ValueError(
            f"{flat} of {len(reading.curvature)} directions have no curvature: there is no "
            f"stationary covariance. Use l2 > 0, or project the inputs onto their span."
        )
    if reading.curvature[0] < 0:
        raise ValueError(
            f"The Hessian has the eigenvalue {reading.curvature[0]:.4g} < 0: θ is no minimum, and "
            f"there is no stationary law about it. Give a minimum (`landscape.minimise`)."
        )
    growth = reading.growth()
    if not growth < 1:
        raise ValueError(
            f"The second moments of {type(process).__name__} grow at "
            f"learning_rate={reading.learning_rate:g}, by a factor of {growth:.4g} or more: it is "
            f"stable below {reading.largest_stable_rate():.6g}, all else the same."
        )
    return reading


def _momentum(reading: LinearReading) -> float:
    """μ of heavy ball, read off its step."""
    width = reading.own.injection.shape[1]
    return 0.0 if width == 1 else float(reading.own.transition[0, 1, 1])
