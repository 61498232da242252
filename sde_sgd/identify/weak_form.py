"""An equation from snapshots of an ensemble, without trajectories: the weak form."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import Float

from sde_sgd._checks import check_choice, check_flag
from sde_sgd.identify._data import snapshots
from sde_sgd.identify.basis import AbstractBasis, check_basis, derivatives, PolynomialBasis, values
from sde_sgd.identify.fitted import assemble, FittedSDE

# Members for each moment condition; at so few, intervals are about a tenth too short.
_MEMBERS_A_CONDITION = 20


class WeakForm(eqx.Module):
    """What `identify.from_snapshots` found.

    - `equation`: the `FittedSDE`.
    - `misfit`: Hansen's J, χ² with `degrees_of_freedom` if the laws at all times are those of one
      SDE of the family; `p_value` its tail: near 0, no choice of coefficients explains them.
    """

    equation: FittedSDE
    misfit: float
    degrees_of_freedom: int
    p_value: float

    def __repr__(self) -> str:
        return (
            f"WeakForm: misfit {self.misfit:.4g} on {self.degrees_of_freedom} degrees of freedom, "
            f"p = {self.p_value:.3g}\n{self.equation!r}"
        )


def from_snapshots(
    observed: Any,
    times: Any,
    basis: AbstractBasis,
    variance_basis: AbstractBasis | None = None,
    *,
    tests: AbstractBasis | None = None,
    linked: bool = False,
    quadrature: str = "spline",
) -> WeakForm:
    """b = Σ β_k f_k and a = Σ α_k g_k from the laws at several times: d/dt E φ = E 𝓛φ.

    Between two snapshots, for every test function φ,

        E φ(θ_{t'}) − E φ(θ_t) = ∫ E[Σ_ik β_ik f_k ∂_iφ + ½ Σ_ijk α_ijk g_k ∂_i∂_jφ] dt ,

    linear in the unknowns. The integral runs over a cubic spline through the snapshots (error
    O(δ⁴) in the gap δ, with four times or more) or over trapezoids (O(δ²)). The conditions
    are weighted by the inverse of their covariance (two-step generalised method of moments), which
    also gives errors and the misfit. Means of f_k ∂_iφ are sampled as well: that biases the
    coefficients by O(1/members), below their errors of O(members^{−½}).

    Laws at integer iterations do not know what is in between: of SGD on least squares it reads the
    SDE with SGD's law at every iteration (the log map, −log(1 − ηh)/η for h), *not* −∇L.

    **Arguments:**

    - `observed`: θ at the times, (num_times, members, d), or (num_times, members); e.g.
      `run["x"].values` of `Snapshots`. `times` (num_times,), in t.
    - `basis`, `variance_basis`: of b, and of a (a constant if not given).
    - `tests`: test functions; polynomials of degree 1 to 2, or up to the degree of the basis plus
      one, by default. Bounded ones where tails are heavy.
    - `linked`: whether column i is the same member at all times. If not (the default) the
      ensembles are independent, as different members were taken at every time.
    - `quadrature`.

    **Returns:** `WeakForm`. `lag` of its equation is the widest gap, `error_order` 2 for trapezoids
    and 4 for a spline (the number of snapshots where they are fewer).

    **Raises:** `ValueError` for shapes, NaN, times that do not increase, fewer conditions than
    unknowns, fewer than 20 members a condition (at 20, errors are a tenth too small), and for
    laws that do not move: a stationary law determines the ratio of drift and noise only, and not
    how fast they are.

    **Source:** Hansen 1982 (moments); Messenger & Bortz 2022 (weak form for laws of particles).
    """
    check_basis("basis", basis)
    linked = check_flag("linked", linked)
    data, clock = snapshots(observed, times)
    members, size = data.shape[1:]
    noise = PolynomialBasis(size, 0) if variance_basis is None else variance_basis
    functions = _default_tests(basis, size) if tests is None else tests
    check_basis("variance_basis", noise)
    check_basis("tests", functions)
    change, integral, order = _rules(clock, quadrature)
    laws = [_Snapshot.of(x, basis, noise, functions) for x in data]
    varying = np.any([law.value.std(axis=0) > 0 for law in laws], axis=0)
    laws = [law.only(varying) for law in laws]
    names = _unknowns(basis, noise, size)
    conditions = len(change) * int(varying.sum())
    _check_counts(conditions, len(names), members)

    target = np.stack([law.value.mean(axis=0) for law in laws])
    target = (change @ target).ravel()
    rows = np.stack([law.mean_rows() for law in laws])
    matrix = np.einsum("lj,jmp->lmp", integral, rows).reshape(conditions, -1)
    zero = np.zeros(len(names))
    shares = _shares(laws, change, integral, zero, linked)
    _check_moving(target, _covariance(shares))
    weight = np.diag(1 / np.diag(_covariance(shares)))
    for _ in range(2):
        solution, pull = _solve(matrix, weight, target, names)
        shares = _shares(laws, change, integral, solution, linked)
        weight = _inverse(_covariance(shares))
    solution, pull = _solve(matrix, weight, target, names)
    rest = target - matrix @ solution
    misfit, freedom = float(rest @ weight @ rest), conditions - len(names)
    found = _equation(
        solution, shares @ pull.T, (basis, noise), members, float(np.diff(clock).max()), order
    )
    tail = float(scipy.stats.chi2.sf(misfit, freedom)) if freedom else np.nan
    return WeakForm(found, misfit, freedom, tail)


class _Snapshot(NamedTuple):
    """Test functions with derivatives, and the two bases, at the members of one time."""

    value: Float[np.ndarray, "members M"]
    slope: Float[np.ndarray, "members M d"]
    curvature: Float[np.ndarray, "members M d d"]
    drifts: Float[np.ndarray, "members K"]
    noises: Float[np.ndarray, "members Q"]

    @classmethod
    def of(cls, points, basis, noise, tests) -> "_Snapshot":
        slope, curvature = derivatives(tests, points)
        return cls(
            values(tests, points), slope, curvature, values(basis, points), values(noise, points)
        )

    def only(self, kept: np.ndarray) -> "_Snapshot":
        return self._replace(
            value=self.value[:, kept],
            slope=self.slope[:, kept],
            curvature=self.curvature[:, kept],
        )

    def mean_rows(self) -> Float[np.ndarray, "M unknowns"]:
        """E of 𝓛φ's coefficients: f_k ∂_iφ, then ½g_k ∂_i∂_iφ or g_k ∂_i∂_jφ for i < j."""
        num, tests, size = self.slope.shape
        drift = np.einsum("nmi,nk->mik", self.slope, self.drifts).reshape(tests, -1)
        pairs = np.stack([self.curvature[..., i, j] * factor for i, j, factor in _pairs(size)], 2)
        variance = np.einsum("nmp,nk->mpk", pairs, self.noises).reshape(tests, -1)
        return np.concatenate([drift, variance], axis=1) / num

    def generator(self, solution: np.ndarray) -> Float[np.ndarray, "members M"]:
        """𝓛φ of every member under these coefficients."""
        beta, alpha = _split(solution, self.slope.shape[2], self.drifts.shape[1])
        drift, variance = self.drifts @ beta.T, np.einsum("nk,ijk->nij", self.noises, alpha)
        return np.einsum("nmi,ni->nm", self.slope, drift) + 0.5 * np.einsum(
            "nmij,nij->nm", self.curvature, variance
        )


def _pairs(size: int) -> list[tuple[int, int, float]]:
    return [(i, j, 0.5 if i == j else 1.0) for i in range(size) for j in range(i, size)]


def _split(solution: np.ndarray, size: int, drifts: int) -> tuple[np.ndarray, np.ndarray]:
    """β (..., d, K) and the symmetric α (..., d, d, Q)."""
    lead = solution.shape[:-1]
    beta = solution[..., : size * drifts].reshape(*lead, size, drifts)
    pairs = _pairs(size)
    packed = solution[..., size * drifts :].reshape(*lead, len(pairs), -1)
    alpha = np.zeros((*lead, size, size, packed.shape[-1]))
    for place, (i, j, _) in enumerate(pairs):
        alpha[..., i, j, :] = alpha[..., j, i, :] = packed[..., place, :]
    return beta, alpha


def _unknowns(basis: AbstractBasis, noise: AbstractBasis, size: int) -> tuple[str, ...]:
    drift = [f"{name} of b_{i}" for i in range(size) for name in basis.names]
    pairs = [f"{name} of a_{i}{j}" for i, j, _ in _pairs(size) for name in noise.names]
    return (*drift, *pairs)


def _default_tests(basis: AbstractBasis, size: int) -> AbstractBasis:
    if isinstance(basis, PolynomialBasis):
        return PolynomialBasis(size, max(2, basis.degree + 1), basis.centre)
    return PolynomialBasis(size, 2)


def _rules(clock: np.ndarray, quadrature: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows (intervals, times): differences over an interval, and integrals over it; the order."""
    check_choice("quadrature", quadrature, ("spline", "trapezoid"))
    count = len(clock)
    change = np.eye(count)[1:] - np.eye(count)[:-1]
    if quadrature == "trapezoid":
        return change, 0.5 * np.diff(clock)[:, None] * np.abs(change), 2
    antiderivative = scipy.interpolate.CubicSpline(clock, np.eye(count)).antiderivative()
    return change, np.diff(antiderivative(clock), axis=0), min(count, 4)


def _check_counts(conditions: int, unknowns: int, members: int) -> None:
    if conditions < unknowns:
        raise ValueError(
            f"{conditions} conditions (intervals × test functions that vary) cannot determine "
            f"{unknowns} coefficients: take snapshots at more times, or more tests."
        )
    if members < _MEMBERS_A_CONDITION * conditions:
        raise ValueError(
            f"{conditions} conditions need {_MEMBERS_A_CONDITION * conditions} members or more to "
            f"be weighted; there are {members}. Take more members, fewer times or fewer tests."
        )


def _shares(
    laws: list[_Snapshot],
    change: np.ndarray,
    integral: np.ndarray,
    solution: np.ndarray,
    linked: bool,
) -> Float[np.ndarray, "units conditions"]:
    """What each independent unit adds to the mean residual of every condition.

    A unit is a member; in unlinked snapshots a member of one snapshot.
    """
    parts = []
    for place, law in enumerate(laws):
        action = law.generator(solution)
        share = change[:, place, None] * law.value[:, None] - (
            integral[:, place, None] * action[:, None]
        )
        share = share - share.mean(axis=0)
        parts.append(share.reshape(len(share), -1) / len(share))
    return np.sum(parts, axis=0) if linked else np.concatenate(parts)


def _covariance(shares: np.ndarray) -> np.ndarray:
    return shares.T @ shares


def _inverse(matrix: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.diag(matrix))
    scaled = matrix / np.outer(scale, scale)
    return np.linalg.pinv(scaled, rcond=1e-10, hermitian=True) / np.outer(scale, scale)


def _check_moving(target: np.ndarray, spread: np.ndarray) -> None:
    statistic = float(target @ _inverse(spread) @ target)
    if scipy.stats.chi2.sf(statistic, len(target)) > 1e-3:
        raise ValueError(
            f"The laws of these snapshots do not move by more than their sampling error (χ² = "
            f"{statistic:.3g} on {len(target)}). A stationary law tells the ratio of drift and "
            f"noise only: take snapshots of the approach to it, or trajectories."
        )


def _solve(
    matrix: np.ndarray, weight: np.ndarray, target: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares, and the map from residuals to coefficients."""
    scale = np.sqrt(np.einsum("cp,cd,dp->p", matrix, weight, matrix).clip(min=0))
    silent = np.flatnonzero(~(scale > 0))
    if len(silent):
        raise ValueError(f"No test function sees the term {names[silent[0]]}: add tests that do.")
    scaled = matrix / scale
    normal = scaled.T @ weight @ scaled
    condition = float(np.linalg.cond(normal))
    if not condition < 1e10:
        vector = np.linalg.eigh(normal)[1][:, 0]
        involved = [names[i] for i in np.argsort(-np.abs(vector))[:3]]
        raise ValueError(
            f"These laws cannot tell {', '.join(involved)} apart (condition number "
            f"{condition:.2g}): take other starts, more times or tests, or fewer terms."
        )
    pull = np.linalg.solve(normal, scaled.T @ weight) / scale[:, None]
    return pull @ target, pull


def _equation(
    solution: np.ndarray,
    influence: np.ndarray,
    bases: tuple[AbstractBasis, AbstractBasis],
    members: int,
    lag: float,
    order: int,
) -> FittedSDE:
    size, count = bases[0].dimension, len(bases[0].names)
    beta, alpha = _split(solution, size, count)
    beta_influence, alpha_influence = _split(influence, size, count)
    return assemble(
        *bases,
        (beta, beta_influence),
        (alpha, alpha_influence),
        lag,
        order,
        num_samples=members,
    )
