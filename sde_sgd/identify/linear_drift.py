"""The equation with linear drift and quadratic variance rate, by the exact log map."""

from typing import Any

import numpy as np
from jaxtyping import Float

from sde_sgd.identify._data import increments, trajectories
from sde_sgd.identify._regression import normal_equations
from sde_sgd.identify.basis import PolynomialBasis, values
from sde_sgd.identify.fitted import assemble, FittedSDE

_MOST_COORDINATES = 4


def linear(
    observed: Any, *, time_step: float | None = None, lag: int = 1, centre: Any = None
) -> FittedSDE:
    """dθ = (β₀ + β₁θ) dt + noise of a(θ) quadratic, exact at *any* lag: no bias from the step.

    The generator maps polynomials of degree ≤ 2 to themselves, so that E[ψ(θ_{t+τ}) | θ_t] =
    e^{τG} ψ(θ_t) for ψ = (1, θ_i, θ_iθ_j). P = e^{τG} is a regression, G = log(P)/τ, and b and a
    are its rows: the Ornstein–Uhlenbeck process (constant a) is the case −log(A)/τ. Least squares
    has this form. Of SGD it reads the SDE with the law of SGD *at every iteration*
    (`theory.equations.read_least_squares(reading="log_map")`): −log(1 − ηh)/η in place of h.

    **Arguments:** `observed`, `time_step` as in `identify.kramers_moyal`, for 1 to 4 coordinates;
    `lag` τ in records; `centre` c (d,), zero if not given: results are polynomials in θ − c.

    **Returns:** `FittedSDE` in `PolynomialBasis(d, 1, c)` and `(d, 2, c)`; errors over members, by
    linearisation (the derivative of the logarithm is exact). `.equations()` writes them out.

    **Raises:** `ValueError` as `identify.kramers_moyal` for the data; for trajectories so coarse
    that a mode has died out within its error over the lag (or alternates), where no logarithm is
    to be had; for more than 4 coordinates.

    **Source:** Forman & Sørensen 2008 (Pearson diffusions); Klus et al. 2020 (generator EDMD).
    """
    data = trajectories(observed, time_step)
    size = data.values.shape[2]
    if size > _MOST_COORDINATES:
        raise ValueError(
            f"linear fits (d+1)(d+2)/2 functions and takes d ≤ {_MOST_COORDINATES}; got "
            f"d={size}. Project onto fewer directions that are closed under the drift."
        )
    found = increments(data, lag, 1, coarse_advice=None)
    scale = found.starts.std(axis=(0, 1))
    basis = PolynomialBasis(size, 2, centre)
    # In units of the spread; powers are put back below.
    unit = PolynomialBasis(size, 2)
    before = (found.starts - basis.centre) / scale
    after = before + found.changes[0] / scale
    now, then = values(unit, before), values(unit, after)
    names = basis.names
    linear = normal_equations(now[..., : size + 1], then[..., 1 : size + 1]).solve(names)
    square = normal_equations(now, then[..., size + 1 :]).solve(names)

    num, count = before.shape[1], len(names)
    step, influence = np.eye(count), np.zeros((num, count, count))
    step[1 : size + 1, : size + 1] = linear.coefficients.T
    step[1 : size + 1, size + 1 :] = 0.0
    step[size + 1 :] = square.coefficients.T
    influence[:, 1 : size + 1, : size + 1] = np.swapaxes(linear.influence, 1, 2)
    influence[:, size + 1 :] = np.swapaxes(square.influence, 1, 2)
    _check_modes(step, influence, found.lag, size)
    generator, derivative = _logarithm(step, influence)
    powers = np.array(basis.powers)
    units = np.prod(scale**powers, axis=1)
    factor = units[:, None] / units / found.lag
    generator, derivative = generator * factor, derivative * factor
    drift = generator[1 : size + 1, : size + 1], derivative[:, 1 : size + 1, : size + 1]
    variance = (
        _variance(generator[None], size, basis)[0],
        _variance(derivative, size, basis),
    )
    return assemble(PolynomialBasis(size, 1, centre), basis, drift, variance, found.lag, np.inf)


def _check_modes(step: np.ndarray, influence: np.ndarray, lag: float, size: int) -> None:
    """Refuses maps without a real logarithm, or with one that the sample cannot resolve."""
    eigenvalues = np.linalg.eigvals(step[1 : size + 1, 1 : size + 1])
    squares = float(np.linalg.eigvals(step[size + 1 :, size + 1 :]).real.min())
    block = influence[:, 1 : size + 1, 1 : size + 1]
    error = float(np.sqrt((block**2).sum(axis=0).max()))
    smallest = float(eigenvalues.real.min())
    if smallest <= 3 * error or squares <= 0:
        raise ValueError(
            f"These trajectories are too coarse (or too few): over the lag t = {lag:.4g} a mode is "
            f"left with {smallest:.3g} ± {error:.2g} of itself, and a square with {squares:.3g}: a "
            f"logarithm of that is noise, or there is none (SGD with η·curvature ≥ 1 alternates). "
            f"Record more often, lower lag, take more members or starts that are spread out."
        )


def _logarithm(
    step: Float[np.ndarray, "q q"], influence: Float[np.ndarray, "members q q"]
) -> tuple[np.ndarray, np.ndarray]:
    """log P, and its derivative along each influence (Daleckii & Krein).

    P = V Λ V⁻¹ gives log P = V log Λ V⁻¹ and L(E) = V (F ∘ V⁻¹EV) V⁻¹, F the divided differences
    of the logarithm at the eigenvalues.
    """
    values, vectors = np.linalg.eig(step.astype(complex))
    condition = float(np.linalg.cond(vectors))
    if not condition < 1e10:
        raise ValueError(
            f"The modes of the map over a lag coincide (eigenvectors of condition number "
            f"{condition:.2g}): drift and noise are at the edge of what the sample resolves. Take "
            f"more members, or a longer lag."
        )
    inverse, logs = np.linalg.inv(vectors), np.log(values)
    gap = values[:, None] - values
    middle = (values[:, None] + values) / 2
    close = np.abs(gap) < 1e-6 * np.abs(middle)
    rise = (logs[:, None] - logs) / np.where(close, 1.0, gap)
    divided = np.where(close, 1 / middle, rise)
    derivative = vectors @ (divided * (inverse @ influence @ vectors)) @ inverse
    return np.real((vectors * logs) @ inverse), np.real(derivative)


def _variance(generators: np.ndarray, size: int, basis: PolynomialBasis) -> np.ndarray:
    """a_ij = 𝓛(θ_iθ_j) − θ_i b_j − θ_j b_i, coefficients (members, d, d, q); linear in G."""
    place = {powers: k for k, powers in enumerate(basis.powers)}
    found = np.zeros((len(generators), size, size, len(place)))
    for i in range(size):
        for j in range(size):
            product = np.bincount([i, j], minlength=size)
            found[:, i, j] += generators[:, place[tuple(int(n) for n in product)]]
            for one, other in ((i, j), (j, i)):
                for powers, k in place.items():
                    if sum(powers) < 2:
                        raised = list(powers)
                        raised[one] += 1
                        found[:, i, j, place[tuple(raised)]] -= generators[:, 1 + other, k]
    return found
