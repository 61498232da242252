"""A sparse equation in a dictionary of functions, from trajectories."""

from typing import Any

import numpy as np

from sde_sgd._checks import check_choice, check_number, check_whole
from sde_sgd.compare.verdict import sidak_threshold
from sde_sgd.identify._data import increments, trajectories
from sde_sgd.identify._regression import (
    covariance,
    expected_squares,
    Fit,
    normal_equations,
    NormalEquations,
)
from sde_sgd.identify.basis import AbstractBasis, check_basis, PolynomialBasis, values
from sde_sgd.identify.fitted import assemble, FittedSDE


def sparse(
    observed: Any,
    basis: AbstractBasis,
    variance_basis: AbstractBasis | None = None,
    *,
    time_step: float | None = None,
    lag: int = 1,
    correction: str = "centred",
    num_lags: int = 2,
    failure_rate: float | None = 0.01,
) -> FittedSDE:
    """b and a as few terms of a dictionary, each with its interval (SINDy for SDEs).

    Increments at the lag τ are regressed on the basis, component by component, and their squares
    on `variance_basis`; the three corrections and their bias are those of `identify.kramers_moyal`.
    Then the term with the smallest |coefficient|/error is dropped and the rest fitted again, until
    every |coefficient|/error exceeds the two-sided threshold that one of K irrelevant terms passes
    with probability `failure_rate` (Šidák, Student's t). That is for many members and one fit: at
    60 members, with powers up to x³ and terms dropped one by one, an irrelevant term stayed in .021
    of the readings at a nominal .01 and in .109 at .1 (400 members: .067). So the rule has no scale
    of its own: a true term of β is kept if β is several errors, and members, not cleverness, buy
    more terms.

    Squares of residuals ("centred") are regressed on what they are expected to be under the
    leverage of the terms of b, with `variance_basis` as instruments: a has no bias from the fit of
    b. Coefficients are jackknifed over members. At 40 members intervals of a are too short, as
    squares are skewed (95 % hold it in 84 to 93 %, of one to fifteen changes a member).

    Errors are those of the chosen terms, as if they had been chosen beforehand. That is right
    where the true terms stand far above the threshold and the dictionary holds the drift; a term
    near the threshold is reported too large, on average.

    **Arguments:**

    - `observed`, `time_step`, `lag`, `correction`, `num_lags`: as in `identify.kramers_moyal`;
      any number of coordinates.
    - `basis`: candidates of the drift; `variance_basis`: of a = 2D, a constant if not given.
    - `failure_rate`: of keeping a term that is not there, for one component; None keeps all.

    **Raises:** `ValueError` as `identify.kramers_moyal` for the data; candidates that the data
    cannot tell apart; more of them than half the members.

    **Source:** Brunton, Proctor & Kutz 2016 (thresholded least squares); Boninsegna, Nüske &
    Clementi 2018 (SDEs; backward elimination).
    """
    check_basis("basis", basis)
    data = trajectories(observed, time_step)
    members, size = data.values.shape[1:]
    noise = PolynomialBasis(size, 0) if variance_basis is None else variance_basis
    check_basis("variance_basis", noise)
    check_choice("correction", correction, ("naive", "centred", "extrapolated"))
    if failure_rate is not None:
        failure_rate = check_number("failure_rate", failure_rate, above=0.0, below=1.0)
    most = max(len(basis.names), len(noise.names))
    if 2 * most > members:
        raise ValueError(
            f"A dictionary of {most} terms needs {2 * most} members or more for errors over "
            f"members; there are {members}. Take a smaller dictionary or a larger ensemble."
        )
    num_lags = check_whole("num_lags", num_lags)
    count = num_lags if correction == "extrapolated" else 1
    found = increments(data, lag, count, coarse_advice="")
    candidates = values(basis, found.starts)
    response = found.drift_response()
    equations = normal_equations(candidates, response)
    threshold = _threshold(len(basis.names), failure_rate, members)
    parts = [_select(equations.component(i), basis.names, threshold) for i in range(size)]
    beta = np.stack([part.coefficients[:, 0] for part in parts])
    beta_influence = np.stack([part.influence[..., 0] for part in parts], axis=1)

    squares = found.square_response()
    if correction == "centred":
        rest = response - candidates @ np.hstack([part.solution for part in parts])
        squares = found.lag * rest[..., :, None] * rest[..., None, :]
    shape = (size, size, len(noise.names))
    alpha, alpha_influence = np.zeros(shape), np.zeros((members, *shape))
    rates = expected = values(noise, found.starts)
    times = np.arange(float(len(rates)))[:, None]
    threshold = _threshold(len(noise.names), failure_rate, members)
    for i in range(size):
        for j in range(i, size):
            if correction == "centred":
                inverses = parts[i].inverse, parts[j].inverse
                expected = expected_squares(rates, candidates, inverses, times, lag)
            equations = normal_equations(expected, squares[..., i, j, None], instruments=rates)
            part = _select(equations, noise.names, threshold)
            for place in ((i, j), (j, i)):
                alpha[place] = part.coefficients[:, 0]
                alpha_influence[:, place[0], place[1]] = part.influence[..., 0]
    return assemble(
        basis, noise, (beta, beta_influence), (alpha, alpha_influence), found.lag, count
    )


def _threshold(num_terms: int, failure_rate: float | None, members: int) -> float:
    if failure_rate is None:
        return 0.0
    return sidak_threshold(num_terms, failure_rate, members - 1)


def _select(equations: NormalEquations, names: tuple[str, ...], threshold: float) -> Fit:
    """The fit of one response, with zeros for the terms dropped."""
    kept, count = np.arange(len(names)), len(names)
    members = len(equations.right)
    chosen = Fit(np.zeros((count, 1)), np.zeros((members, count, 1)), np.zeros((count, count)))
    while len(kept):
        fit = equations.subset(kept).solve(tuple(names[k] for k in kept))
        error = np.sqrt(np.diag(covariance(fit.influence[..., 0])))
        score = np.abs(fit.coefficients[:, 0]) / error
        weakest = int(np.argmin(score))
        if score[weakest] > threshold:
            chosen.solution[kept], chosen.influence[:, kept] = fit.solution, fit.influence
            chosen.inverse[np.ix_(kept, kept)] = fit.inverse
            break
        kept = np.delete(kept, weakest)
    return chosen
