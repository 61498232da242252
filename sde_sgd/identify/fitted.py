"""An equation that was read off data: coefficients with errors, and its values anywhere."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from sde_sgd._brief import for_stdout
from sde_sgd._checks import as_float64
from sde_sgd.estimate import Estimate
from sde_sgd.identify._regression import covariance
from sde_sgd.identify.basis import AbstractBasis, values


class FittedSDE(eqx.Module):
    """dθ_i = Σ_k β_ik f_k(θ) dt + noise, ⟨dθ_i dθ_j⟩ = a_ij dt, a_ij = Σ_k α_ijk g_k(θ) (Itô).

    a = 2D is the rate of the quadratic covariation, *not* the diffusion D; in the order-one
    modified equation it is ηcΣ(θ). Errors are over independent members.

    **Fields:**

    - `drift_basis`, `variance_basis`: f (K functions) and g (Q).
    - `drift`: Estimate (d, K) of β; `variance_rate`: Estimate (d, d, Q) of α, symmetric. Terms
      that a selection left out are 0 with error 0.
    - `drift_covariance` (d, K, K), `variance_covariance` (d, d, Q, Q): of the coefficients of one
      component; `standard_error` are the roots of their diagonals.
    - `lag`: the lag τ that it was read at, in t (of snapshots: the widest gap between two).
    - `error_order`: the bias of an *SDE's* coefficients that the finite step leaves is O(τ^order);
      infinite where there is none.
    """

    drift_basis: AbstractBasis
    variance_basis: AbstractBasis
    drift: Estimate
    variance_rate: Estimate
    drift_covariance: Float[np.ndarray, "d K K"]
    variance_covariance: Float[np.ndarray, "d d Q Q"]
    lag: float
    error_order: float

    def drift_at(self, points: Any) -> Estimate:
        """b at points (P, d), Estimate (P, d)."""
        f = values(self.drift_basis, self._points(points))
        value = f @ self.drift.value.T
        variance = np.einsum("pk,ikl,pl->pi", f, self.drift_covariance, f)
        return Estimate(value, np.sqrt(np.maximum(variance, 0)), self.drift.num_samples)

    def variance_rate_at(self, points: Any) -> Estimate:
        """a = 2D at points (P, d), Estimate (P, d, d)."""
        g = values(self.variance_basis, self._points(points))
        value = np.einsum("pk,ijk->pij", g, self.variance_rate.value)
        variance = np.einsum("pk,ijkl,pl->pij", g, self.variance_covariance, g)
        return Estimate(value, np.sqrt(np.maximum(variance, 0)), self.variance_rate.num_samples)

    def equations(self) -> tuple[str, ...]:
        """One line for each drift component and each entry of a on or above the diagonal."""
        size = len(self.drift.value)
        letters = "xyz" if size <= 3 else [f"x{i}" for i in range(size)]
        lines = [
            f"b_{letters[i]} = {_sum(self.drift[i], self.drift_basis.names)}" for i in range(size)
        ]
        for i in range(size):
            for j in range(i, size):
                text = _sum(self.variance_rate[i, j], self.variance_basis.names)
                lines.append(f"a_{letters[i]}{letters[j]} = {text}")
        return tuple(lines)

    def __repr__(self) -> str:
        lines = [
            f"FittedSDE at lag {self.lag:.4g} (errors over {self.drift.num_samples} members):",
            *self.equations(),
        ]
        return for_stdout("\n  ".join(lines))

    def _points(self, points: Any) -> np.ndarray:
        array = as_float64("points", points)
        size = len(self.drift.value)
        if array.ndim != 2 or array.shape[1] != size:
            raise ValueError(f"points must have shape (P, {size}); got {array.shape}.")
        return array


def assemble(
    drift_basis: AbstractBasis,
    variance_basis: AbstractBasis,
    drift: tuple[np.ndarray, np.ndarray],
    variance: tuple[np.ndarray, np.ndarray],
    lag: float,
    error_order: float | int,
    *,
    num_samples: int | None = None,
) -> FittedSDE:
    """A `FittedSDE` of coefficients and member influences.

    `drift`: β (d, K) and (members, d, K); `variance`: α (d, d, Q) and (members, d, d, Q).
    `num_samples`: independent members, where they are not the rows of the influences.
    """
    beta, beta_influence = drift
    alpha, alpha_influence = variance
    size = beta_influence.shape[1]
    num = len(beta_influence) if num_samples is None else num_samples
    of_drift = np.stack([covariance(beta_influence[:, i]) for i in range(size)])
    rows = [[covariance(alpha_influence[:, i, j]) for j in range(size)] for i in range(size)]
    of_variance = np.array(rows)
    errors = np.sqrt(np.diagonal(of_drift, axis1=-2, axis2=-1))
    spread = np.sqrt(np.diagonal(of_variance, axis1=-2, axis2=-1))
    return FittedSDE(
        drift_basis,
        variance_basis,
        Estimate(beta, np.where(beta == 0, 0.0, errors), num),
        Estimate(alpha, np.where(alpha == 0, 0.0, spread), num),
        of_drift,
        of_variance,
        float(lag),
        float(error_order),
    )


def _sum(estimate: Estimate, names: tuple[str, ...]) -> str:
    terms = []
    for value, error, name in zip(estimate.value, estimate.standard_error, names, strict=True):
        if value != 0:
            terms.append(f"{value:+.4g}(±{error:.1g})" + ("" if name == "1" else f" {name}"))
    return " ".join(terms) or "0"
