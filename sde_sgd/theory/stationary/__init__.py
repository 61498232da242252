"""Moments of the stationary state and on the way to it, currents, and which steps are stable."""

from sde_sgd.theory.stationary.currents import (
    areal_velocity as areal_velocity,
    EntropyRate as EntropyRate,
    stationary_current as stationary_current,
    StationaryCurrent as StationaryCurrent,
)
from sde_sgd.theory.stationary.driven import (
    driven_covariance as driven_covariance,
    fractional_ornstein_uhlenbeck_variance as fractional_ornstein_uhlenbeck_variance,
    stationary_scale_stable as stationary_scale_stable,
)
from sde_sgd.theory.stationary.epoch_moments import (
    epoch_moments as epoch_moments,
    EpochMoments as EpochMoments,
)
from sde_sgd.theory.stationary.epochs import (
    epoch_covariance as epoch_covariance,
    epoch_noise_autocovariance as epoch_noise_autocovariance,
    EpochCovariance as EpochCovariance,
)
from sde_sgd.theory.stationary.lyapunov import (
    linear_covariance as linear_covariance,
    linear_transient as linear_transient,
    momentum_covariance as momentum_covariance,
    TransientMoments as TransientMoments,
)
from sde_sgd.theory.stationary.moments import (
    covariance as covariance,
    growth as growth,
    largest_stable_learning_rate as largest_stable_learning_rate,
    mean as mean,
    transient as transient,
)
from sde_sgd.theory.stationary.posterior import (
    MeanAndCovariance as MeanAndCovariance,
    posterior as posterior,
    posterior_by_quadrature as posterior_by_quadrature,
)
from sde_sgd.theory.stationary.scalar_moments import (
    ScalarMoments as ScalarMoments,
    stationary_scalar_moments as stationary_scalar_moments,
    transient_scalar_moments as transient_scalar_moments,
)
from sde_sgd.theory.stationary.underdamped import (
    underdamped_covariance as underdamped_covariance,
)
