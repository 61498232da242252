"""Absorbing Markov chains solved without a subtraction, so that rare exits stay accurate."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class AbsorbingChain(NamedTuple):
    """(I − P) u = r for a chain with transition probabilities P and killing 1 − Σ_j P_ij.

    Ordinary elimination loses as many digits as the exit is rare, because I − P is nearly
    singular. The elimination of Grassmann, Taksar and Heyman takes the diagonal of I − P as the
    sum of what leaves, and then only adds, multiplies and divides positive numbers: each entry of
    u has full relative accuracy, be the exit probability 10⁻³ or 10⁻³⁰.

    **Fields:** `reduced`, (n, n), row i of it the transition rates from i to j < i once the
    states above i are gone, columns above the diagonal the multipliers; `leaving`, (n,).

    **Source:** Grassmann, Taksar, Heyman 1985, Operations Research 33, 1107; O'Cinneide 1993.
    """

    reduced: Float[np.ndarray, "n n"]
    leaving: Float[np.ndarray, " n"]

    @staticmethod
    def factor(
        transitions: Float[np.ndarray, "n n"], killing: Float[np.ndarray, " n"]
    ) -> "AbsorbingChain":
        """From P ≥ 0 (its diagonal is not used) and the killing probabilities ≥ 0."""
        work, kill = np.array(transitions), np.array(killing)
        size = len(kill)
        leaving = np.zeros(size)
        for n in range(size - 1, -1, -1):
            leaving[n] = work[n, :n].sum() + kill[n]
            work[:n, n] /= leaving[n]
            work[:n, :n] += work[:n, n, None] * work[n, None, :n]
            kill[:n] += work[:n, n] * kill[n]
        return AbsorbingChain(work, leaving)

    def solve(self, right: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """u ≥ 0 for r ≥ 0: with r = 1 the mean number of steps to the exit."""
        rest = np.array(right)
        for n in range(len(rest) - 1, 0, -1):
            rest[:n] += self.reduced[:n, n] * rest[n]
        for n in range(len(rest)):
            rest[n] = (rest[n] + self.reduced[n, :n] @ rest[:n]) / self.leaving[n]
        return rest
