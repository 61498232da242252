"""Estimate against prediction, and ensemble against ensemble: z-scores, distances, verdicts."""

from sde_sgd.compare._law_distances import LawDistance
from sde_sgd.compare.distances import (
    distance_change,
    distance_table,
    DistanceRow,
    DistanceTable,
    energy_distance,
    excess,
    sliced_wasserstein,
    wasserstein_per_direction,
)
from sde_sgd.compare.laws import compare_law, compare_laws, LawComparison
from sde_sgd.compare.orders import weak_error, weak_order, WeakError, WeakOrder
from sde_sgd.compare.paired import paired_difference
from sde_sgd.compare.permutation import permutation_test, PermutationTest
from sde_sgd.compare.transport import wasserstein2
from sde_sgd.compare.verdict import compare, Comparison, sidak_threshold, verdict_table

__all__ = [
    "Comparison",
    "DistanceRow",
    "DistanceTable",
    "LawComparison",
    "LawDistance",
    "PermutationTest",
    "WeakError",
    "WeakOrder",
    "compare",
    "compare_law",
    "compare_laws",
    "distance_change",
    "distance_table",
    "energy_distance",
    "excess",
    "paired_difference",
    "permutation_test",
    "sidak_threshold",
    "sliced_wasserstein",
    "verdict_table",
    "wasserstein2",
    "wasserstein_per_direction",
    "weak_error",
    "weak_order",
]
