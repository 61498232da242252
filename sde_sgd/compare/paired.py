"""Differences between two ensembles driven by common random numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sde_sgd._checks import as_float64, check_callable
from sde_sgd.compare._resample import as_ensemble, Ensemble
from sde_sgd.estimate import Estimate


def paired_difference(x: Ensemble, y: Ensemble, of: Callable[[Any], Any] | None = None) -> Estimate:
    """Mean of f(xᵢ) − f(yᵢ) over members i, with the error of the paired differences.

    Member i of both ensembles must have the same identity and share its random numbers; pairs
    are independent of each other. Then the error is √(Var[f(x) − f(y)]/n), smaller than for
    independent ensembles by √(1 − ρ), ρ the correlation of the pair; `compare(result, 0.0)`
    is the test.

    **Arguments:**

    - `x`, `y`: (n, d) both, in the same order of members.
    - `of`: f for the whole ensemble, (n, d) → (n, ...), row by row: `lambda x: x**2` for
      second moments, `jax.vmap(loss)` for a function of one θ. The identity if omitted.

    **Returns:** an `Estimate` with the shape of one row of f, `num_samples` = n.

    **Raises:** `ValueError` for unequal shapes, fewer than 2 members, NaN, or an `of` that
    does not keep the members first.
    """
    x, y = as_ensemble(x, "x"), as_ensemble(y, "y")
    if x.shape != y.shape:
        raise ValueError(
            f"Paired ensembles need the same members; got shapes {x.shape} and {y.shape}. For "
            "independent ensembles use distances.energy or compare two Estimates."
        )
    if of is not None:
        check_callable("of", of, "lambda x: x**2")
        members = len(x)
        x, y = as_float64("of(x)", of(x)), as_float64("of(y)", of(y))
        if x.shape[:1] != (members,) or x.shape != y.shape:
            raise ValueError(
                f"of must map (n, d) to (n, ...) with n = {members}; got shapes {x.shape} and "
                f"{y.shape}. For a function of one member pass jax.vmap(of)."
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("of gave NaN or infinite values; restrict it to where it is defined.")
    return Estimate.from_samples(x - y)
