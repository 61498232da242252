"""The score that a probability flow follows; `theory.equations` has some."""

import abc

import equinox as eqx
from jaxtyping import Array, Bool

from sde_sgd.types import Positions, Scalar, Vector


class AbstractScore(eqx.Module):
    """s(t, θ) = ∇log p_t(θ) of one member, t the physical time ηk of the SDE."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """d, the length of θ."""

    @property
    @abc.abstractmethod
    def last_time(self) -> float:
        """The t up to which the score is known; ∞ if always."""

    @abc.abstractmethod
    def check(self, time: float) -> None:
        """Raises `ValueError` where p_t has no score at t = `time`, or none that is known."""

    @abc.abstractmethod
    def inside(self, theta: Positions) -> Bool[Array, " members"]:
        """Which positions (members, d) lie where the score is known."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, theta: Vector) -> Vector:
        """∇log p_t(θ), (d,)."""
