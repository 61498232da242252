"""Distances of ensembles and laws, with errors: `ss.distances.energy(x, y, key=key)`."""

from sde_sgd.compare.distances.ensembles import (
    DistanceRow as DistanceRow,
    DistanceTable as DistanceTable,
    energy as energy,
    excess as excess,
    sliced_wasserstein as sliced_wasserstein,
    table as table,
    wasserstein_per_direction as wasserstein_per_direction,
)
from sde_sgd.compare.distances.permutation import (
    permutation_test as permutation_test,
    PermutationTest as PermutationTest,
)
from sde_sgd.compare.distances.transport import wasserstein2 as wasserstein2
