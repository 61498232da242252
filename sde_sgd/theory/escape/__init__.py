"""Exit times and rates, committors, and the quasi-potential of large deviations."""

from sde_sgd.theory.escape.backward_equation import (
    committor_on_grid as committor_on_grid,
    GridFunction as GridFunction,
    mean_exit_time_on_grid as mean_exit_time_on_grid,
)
from sde_sgd.theory.escape.exit_times import (
    committor as committor,
    exit_time as exit_time,
    ExitTime as ExitTime,
    mean_exit_time as mean_exit_time,
)
from sde_sgd.theory.escape.eyring_kramers_rates import (
    eyring_kramers as eyring_kramers,
    EyringKramers as EyringKramers,
    stationary_point as stationary_point,
    StationaryPoint as StationaryPoint,
)
from sde_sgd.theory.escape.large_deviations import (
    quasi_potential as quasi_potential,
    QuasiPotential as QuasiPotential,
)
from sde_sgd.theory.escape.published_rates import (
    mori_escape_rate as mori_escape_rate,
    mori_stationary_exponent as mori_stationary_exponent,
    watched_barrier_shift as watched_barrier_shift,
    xie_escape_time as xie_escape_time,
)
