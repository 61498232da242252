"""Are two ensembles of one law? An exact test that needs no error bar."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float

from sde_sgd._checks import check_choice, check_number, check_whole
from sde_sgd.compare._resample import (
    as_ensembles,
    Ensemble,
    generators,
    Key,
    MOST_RESAMPLES,
    pair_sums,
    random_directions,
    wasserstein_columns,
)

Statistic = Literal["energy", "wasserstein", "sliced"] | Callable[[np.ndarray, np.ndarray], float]


class PermutationTest(eqx.Module):
    """Outcome of `permutation_test`.

    **Fields:** `statistic`, observed; `null`, (num_permutations,), the same under relabelling;
    `p_value` = (1 + #{null ≥ statistic})/(1 + num_permutations).
    """

    statistic: float
    null: Float[np.ndarray, " num_permutations"]
    p_value: float


def permutation_test(
    x: Ensemble,
    y: Ensemble,
    *,
    key: Key,
    statistic: Statistic = "energy",
    num_permutations: int = 999,
    num_directions: int = 64,
) -> PermutationTest:
    """Permutation test that x and y have one law: pooled members are relabelled at random.

    If all n + m members are independent and of one law, P(p ≤ a) ≤ a at every size, with
    equality where a·(num_permutations + 1) is an integer and there are no ties. It is
    **invalid** for members correlated with each other, and for ensembles that share random
    numbers (there use `paired_difference`). A p-value of 2e-5 needs at least 49 999 permutations.

    **Arguments:**

    - `x`, `y`: (n, d) and (m, d).
    - `key`: a JAX key for relabelling (and for directions).
    - `statistic`: "energy" (V-statistic), "wasserstein" (mean over coordinates of W₁, so
      coordinates should have one scale), "sliced" (mean over `num_directions` directions),
      or a function (x, y) → float, large when the ensembles differ, called once for each
      relabelling.

    Cost: as the distance with `num_bootstrap = num_permutations`; memory for three arrays of
    (num_permutations, n + m), 200 MB for n = m = 4096.

    **Raises:** `ValueError` for other shapes, different d, fewer than 2 members, NaN, an
    unknown statistic, or `num_permutations` < 1.
    """
    x, y = as_ensembles(x=x, y=y)
    num_permutations = check_whole("num_permutations", num_permutations, 1, MOST_RESAMPLES)
    for_directions, for_labels = generators(key, 2)
    pool = np.concatenate([x, y])
    labels = np.tile(np.concatenate([np.ones(len(x)), np.zeros(len(y))]), (num_permutations + 1, 1))
    labels[1:] = for_labels.permuted(labels[1:], axis=1)
    signed = labels / len(x) - (1 - labels) / len(y)
    if not callable(statistic):
        check_choice("statistic", statistic, ("energy", "wasserstein", "sliced"))
    if callable(statistic):
        values = np.array(
            [
                check_number("statistic(x, y)", statistic(pool[row == 1], pool[row == 0]))
                for row in labels
            ]
        )
    elif statistic == "energy":
        values = -pair_sums(pool, signed, pool, signed)
    elif statistic == "wasserstein":
        values = wasserstein_columns(pool, signed).mean(axis=1)
    else:
        num_directions = check_whole("num_directions", num_directions, 2, MOST_RESAMPLES)
        directions = random_directions(for_directions, pool.shape[1], num_directions)
        values = wasserstein_columns(pool @ directions, signed).mean(axis=1)
    # A relabelling equal to the observed one may differ from it by rounding: it must count.
    rounding = 1e-12 * np.abs(values).max()
    exceeding = np.count_nonzero(values[1:] >= values[0] - rounding)
    p_value = (1 + exceeding) / (1 + num_permutations)
    return PermutationTest(float(values[0]), values[1:], float(p_value))
