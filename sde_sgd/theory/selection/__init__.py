"""Which minimum is selected: weights of basins, evidence, label noise, implicit bias."""

from sde_sgd.theory.selection.diagonal_networks import (
    diagonal_network_limit as diagonal_network_limit,
    DiagonalNetworkLimit as DiagonalNetworkLimit,
    hyperbolic_entropy as hyperbolic_entropy,
)
from sde_sgd.theory.selection.evidence import (
    Evidence as Evidence,
    evidence_by_quadrature as evidence_by_quadrature,
    laplace_evidence as laplace_evidence,
)
from sde_sgd.theory.selection.label_noise import (
    label_noise_balance as label_noise_balance,
    label_noise_flow as label_noise_flow,
)
from sde_sgd.theory.selection.law_of_balance import (
    balance_factor as balance_factor,
    balance_moments as balance_moments,
    balance_moments_gaussian as balance_moments_gaussian,
    BalanceMoments as BalanceMoments,
    law_of_balance_density as law_of_balance_density,
    law_of_balance_equation as law_of_balance_equation,
)
from sde_sgd.theory.selection.weights import (
    boltzmann_weights as boltzmann_weights,
    large_deviation_weights as large_deviation_weights,
    spanning_tree_energies as spanning_tree_energies,
    splitting_on_grid as splitting_on_grid,
    weights_on_grid as weights_on_grid,
)
