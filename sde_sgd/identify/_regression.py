"""Linear regression with independent members as clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_WORST_CONDITION = 1e10


class NormalEquations(NamedTuple):
    """Σ_t w z fᵀ and Σ_t w z yᵀ of every member: `matrix` (members, p, p), `right` (members, p, r).

    Instruments z are the features f themselves but for squares of residuals (`expected_squares`).
    Residuals of a member may depend on each other (overlapping lags do); members do not.
    """

    matrix: Float[np.ndarray, "members p p"]
    right: Float[np.ndarray, "members p r"]

    def subset(self, kept: np.ndarray) -> "NormalEquations":
        """The equations of some features only."""
        return NormalEquations(self.matrix[:, kept][:, :, kept], self.right[:, kept])

    def component(self, index: int) -> "NormalEquations":
        """The equations of one response only."""
        return NormalEquations(self.matrix, self.right[..., index : index + 1])

    def solve(self, names: tuple[str, ...]) -> "Fit":
        """The solution of the sums over members, and what each member adds to it.

        **Raises:** `Undetermined` for features that the data cannot tell apart.
        """
        total = self.matrix.sum(axis=0)
        scale = np.sqrt(np.abs(np.diag(total)))
        silent = np.flatnonzero(~(scale > 0))
        if len(silent):
            raise Undetermined(f"The term {names[silent[0]]!r} is zero wherever the data are.")
        outer = np.outer(scale, scale)
        scaled = total / outer
        condition = float(np.linalg.cond(scaled))
        if not condition < _WORST_CONDITION:
            vector = np.linalg.svd(scaled)[2][-1]
            involved = [names[i] for i in np.argsort(-np.abs(vector))[:3]]
            raise Undetermined(
                f"The data cannot tell the terms {', '.join(involved)} apart (condition number "
                f"{condition:.2g}): they stay too close together, or too far from the centre of "
                f"the basis. Take fewer terms, another centre=, or starts that are spread out."
            )
        inverse = np.linalg.inv(scaled) / outer
        coefficients = inverse @ self.right.sum(axis=0)
        scores = self.right - self.matrix @ coefficients
        # The plain sandwich has the inverse of the total here. A member far out pulls the fit to
        # itself and hides its own residual, and intervals of curvatures would be a third too short.
        without = scaled - self.matrix / outer
        if not (np.linalg.cond(without) < _WORST_CONDITION).all():
            raise Undetermined(
                f"A single member decides some of the terms {', '.join(names)}: without it they "
                f"cannot be told apart. Take more members, or fewer terms."
            )
        shares = np.linalg.inv(without) / outer @ scores
        return Fit(coefficients, shares * (len(scores) - 1) / len(scores), inverse)


class Undetermined(ValueError):
    """Features that the data cannot tell apart, with or without any one member."""


class Fit(NamedTuple):
    """Solution c (p, r), each member's influence on it (members, p, r), and (Σ w z fᵀ)⁻¹ (p, p).

    `influence` is the change when the member is left out, (A − A_i)⁻¹(B_i − A_ic), times (n − 1)/n:
    the jackknife over members, which to first order is the sandwich. The covariance of a smooth
    function of the coefficients is that of the sum of its influences.
    """

    solution: Float[np.ndarray, "p r"]
    influence: Float[np.ndarray, "members p r"]
    inverse: Float[np.ndarray, "p p"]

    @property
    def coefficients(self) -> Float[np.ndarray, "p r"]:
        """n c − (n − 1) × the mean of c without a member: Quenouille's jackknife.

        Starts later than a change depend on it, which leaves a bias O(1/n) in c (Hurwicz's, of
        autoregressions) and O(1/n²) here. Where starts depend on no change, neither has a bias.
        """
        return self.solution + self.influence.sum(axis=0)


def normal_equations(
    features: Float[np.ndarray, "starts members p"],
    responses: Float[np.ndarray, "starts members r"],
    weights: Float[np.ndarray, "starts members"] | None = None,
    instruments: Float[np.ndarray, "starts members p"] | None = None,
) -> NormalEquations:
    """The sums over the starts of each member; instruments are the features if not given."""
    rows = np.moveaxis(features, 0, 1)
    left = rows if instruments is None else np.moveaxis(instruments, 0, 1)
    left = left if weights is None else left * weights.T[..., None]
    left = np.swapaxes(left, 1, 2)
    return NormalEquations(left @ rows, left @ np.moveaxis(responses, 0, 1))


def expected_squares(
    noise: Float[np.ndarray, "starts members q"],
    features: Float[np.ndarray, "starts members p"],
    inverses: tuple[Float[np.ndarray, "p p"], Float[np.ndarray, "p p"]],
    times: Float[np.ndarray, "starts #members"],
    lag: int,
    weights: Float[np.ndarray, "starts members"] | None = None,
) -> Float[np.ndarray, "starts members q"]:
    """E r_i r′_i of the residuals of two components, if the covariance a of their errors is g_k.

    r = (1 − H)e with H_ij = f_iᵀ P f_j w_j, P = (Σ w f fᵀ)⁻¹, so that with independent errors

        E r_i r′_i = Σ_j (1 − H)_ij (1 − H′)_ij a_j = a_i (1 − H_ii − H′_ii) + Σ_j H_ij H′_ij a_j .

    Squares of residuals, regressed on these functions with the g as instruments, give an a without
    bias wherever a is in the basis; regressed on the g themselves, one that is too small. Changes
    over `lag` records from starts s records apart share 1 − s/lag of their noise (exactly where
    nothing relaxes over a lag), and have that correlation here.

    **Arguments:** `noise`: g; `features`: f; `inverses`: P and P′, zero for terms left out;
    `times` in records; `weights` w, 1 if not given.
    """
    pull = features if weights is None else features * weights[..., None]
    shared = _shared(pull, times, lag)
    one, other = inverses
    expected = noise * (1 - ((features @ (one + other)) * shared).sum(axis=-1, keepdims=True))
    flat = shared.reshape(-1, shared.shape[-1])
    for k in range(noise.shape[-1]):
        spread = (pull * noise[..., k, None]).reshape(flat.shape).T @ flat
        expected[..., k] += ((features @ (one @ spread @ other)) * features).sum(axis=-1)
    return expected


def _shared(rows: np.ndarray, times: np.ndarray, lag: int) -> np.ndarray:
    """Σ_j max(0, 1 − |t_i − t_j|/lag) rows_j over the starts j of a member, in order of time."""
    total = rows.copy()
    for gap in range(1, min(lag, len(rows))):
        share = np.maximum(1 - np.abs(times[gap:] - times[:-gap]) / lag, 0.0)[..., None]
        total[gap:] += share * rows[:-gap]
        total[:-gap] += share * rows[gap:]
    return total


def covariance(influence: Float[np.ndarray, "members p"]) -> Float[np.ndarray, "p p"]:
    """n/(n − 1) Σ_i influence_i influence_iᵀ, n the number of members that have one."""
    num = int((influence != 0).any(axis=1).sum())
    if num < 2:
        return np.full((influence.shape[1],) * 2, np.inf)
    return num / (num - 1) * influence.T @ influence
