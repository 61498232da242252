"""Estimate against prediction, and ensemble against ensemble: z-scores, distances, verdicts."""

from sde_sgd.compare._law_distances import LawDistance as LawDistance
from sde_sgd.compare.laws import (
    compare_law as compare_law,
    compare_laws as compare_laws,
    LawComparison as LawComparison,
)
from sde_sgd.compare.orders import (
    weak_error as weak_error,
    weak_order as weak_order,
    WeakError as WeakError,
    WeakOrder as WeakOrder,
)
from sde_sgd.compare.paired import paired_difference as paired_difference
from sde_sgd.compare.verdict import (
    compare as compare,
    Comparison as Comparison,
    sidak_threshold as sidak_threshold,
    verdict_table as verdict_table,
)
