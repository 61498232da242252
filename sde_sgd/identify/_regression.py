"""Linear regression with independent members as clusters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_WORST_CONDITION = 1e10


class NormalEquations(NamedTuple):
    """Σ_t w f fᵀ and Σ_t w f yᵀ of every member: `matrix` (members, p, p), `right` (members, p, r).

    Residuals of a member may depend on each other (overlapping lags do); members do not.
    """

    matrix: Float[np.ndarray, "members p p"]
    right: Float[np.ndarray, "members p r"]

    def subset(self, kept: np.ndarray) -> "NormalEquations":
        """The equations of some features only."""
        return NormalEquations(self.matrix[:, kept][:, :, kept], self.right[:, kept])

    def solve(self, names: tuple[str, ...]) -> "Fit":
        """Least squares over all members, and what each member adds to the estimate.

        **Raises:** `ValueError` for features that the data cannot tell apart.
        """
        total = self.matrix.sum(axis=0)
        scale = np.sqrt(np.diag(total))
        silent = np.flatnonzero(~(scale > 0))
        if len(silent):
            raise ValueError(f"The term {names[silent[0]]!r} is zero wherever the data are.")
        scaled = total / np.outer(scale, scale)
        condition = float(np.linalg.cond(scaled))
        if not condition < _WORST_CONDITION:
            vector = np.linalg.eigh(scaled)[1][:, 0]
            involved = [names[i] for i in np.argsort(-np.abs(vector))[:3]]
            raise ValueError(
                f"The data cannot tell the terms {', '.join(involved)} apart (condition number "
                f"{condition:.2g}): they stay too close together, or too far from the centre of "
                f"the basis. Take fewer terms, another centre=, or starts that are spread out."
            )
        inverse = np.linalg.inv(scaled) / np.outer(scale, scale)
        coefficients = inverse @ self.right.sum(axis=0)
        scores = self.right - self.matrix @ coefficients
        # The plain sandwich has the inverse of the total here. A member far out pulls the fit to
        # itself and hides its own residual, and intervals of curvatures would be a third too short.
        outer = np.outer(scale, scale)
        without = scaled - self.matrix / outer
        if not (np.linalg.cond(without) < _WORST_CONDITION).all():
            raise ValueError(
                f"A single member decides some of the terms {', '.join(names)}: without it they "
                f"cannot be told apart. Take more members, or fewer terms."
            )
        shares = np.linalg.inv(without) / outer @ scores
        return Fit(coefficients, shares * (len(scores) - 1) / len(scores))


class Fit(NamedTuple):
    """Coefficients (p, r) and the influence of each member on them, (members, p, r).

    `influence` is the change when the member is left out, (A − A_i)⁻¹(B_i − A_ic), times (n − 1)/n:
    the jackknife over members, which to first order is the sandwich. The covariance of a smooth
    function of the coefficients is that of the sum of its influences.
    """

    coefficients: Float[np.ndarray, "p r"]
    influence: Float[np.ndarray, "members p r"]


def normal_equations(
    features: Float[np.ndarray, "starts members p"],
    responses: Float[np.ndarray, "starts members r"],
    weights: Float[np.ndarray, "starts members"] | None = None,
) -> NormalEquations:
    """The sums over the starts of each member."""
    rows = np.moveaxis(features, 0, 1)
    left = rows if weights is None else rows * weights.T[..., None]
    left = np.swapaxes(left, 1, 2)
    return NormalEquations(left @ rows, left @ np.moveaxis(responses, 0, 1))


def covariance(influence: Float[np.ndarray, "members p"]) -> Float[np.ndarray, "p p"]:
    """n/(n − 1) Σ_i influence_i influence_iᵀ, n the number of members that have one."""
    num = int((influence != 0).any(axis=1).sum())
    if num < 2:
        return np.full((influence.shape[1],) * 2, np.inf)
    return num / (num - 1) * influence.T @ influence
