"""Valid calls of `sde_sgd.theory`, the first part, in the order of its files."""

import jax.numpy as jnp
import numpy as np

import sde_sgd as ss

from .made_theory import C, H, made, pts, wide, X2, Y2
from .recipes import add

add(
    "theory.escape.committor_on_grid",
    lambda: (
        ss.theory.escape.committor_on_grid,
        dict(equation=made.fokker_planck, lower=lambda x: x[0] < -1.0, upper=lambda x: x[0] > 1.0),
    ),
)
add(
    "theory.escape.mean_exit_time_on_grid",
    lambda: (
        ss.theory.escape.mean_exit_time_on_grid,
        dict(equation=made.fokker_planck, exited=lambda x: x[0] > 1.0),
    ),
)
add("theory.escape.GridFunction.__call__", lambda: (made.grid_function, dict(theta=[0.5])))
add(
    "theory.selection.diagonal_network_limit",
    lambda: (
        ss.theory.selection.diagonal_network_limit,
        dict(inputs=X2[:1], targets=Y2[:1], scale=0.5, start=[0.0, 0.1]),
    ),
)
add(
    "theory.selection.hyperbolic_entropy",
    lambda: (ss.theory.selection.hyperbolic_entropy, dict(beta=[1.0, 2.0], scale=0.5)),
)
add(
    "theory.stationary.fractional_ornstein_uhlenbeck_variance",
    lambda: (
        ss.theory.stationary.fractional_ornstein_uhlenbeck_variance,
        dict(rate=1.0, amplitude=1.0, hurst=0.5),
    ),
)
add(
    "theory.stationary.driven_covariance",
    lambda: (
        ss.theory.stationary.driven_covariance,
        dict(process=made.driven, about=[0.1, 0.2]),
    ),
)
add(
    "theory.stationary.stationary_scale_stable",
    lambda: (
        ss.theory.stationary.stationary_scale_stable,
        dict(process=made.stable, about=[0.1]),
    ),
)
add(
    "theory.matrices.boltzmann_machine_spacing",
    lambda: (
        ss.theory.matrices.boltzmann_machine_spacing,
        dict(kernel_level=0.5, mass=1.0, learning_rate=0.01, batch_size=4, time_step=0.01),
    ),
)
add(
    "theory.matrices.coulomb_gas_log_density",
    lambda: (
        ss.theory.matrices.coulomb_gas_log_density,
        dict(levels=[0.0, 1.0], strength=1.0, potential=lambda x: x**2),
    ),
)
add(
    "theory.matrices.dyson_drift",
    lambda: (
        ss.theory.matrices.dyson_drift,
        dict(levels=[0.0, 1.0], strength=1.0, force=lambda x: -x),
    ),
)
add(
    "theory.matrices.InjectedNoiseLevels",
    lambda: (
        ss.theory.matrices.InjectedNoiseLevels,
        dict(learning_rate=0.1, batch_size=4, noise=1.0, level=1.0, time_step=0.05),
    ),
)
add(
    "theory.matrices.InjectedNoiseLevels.spacing_density",
    lambda: (made.levels.spacing_density, dict(spacing=[0.1, 0.2])),
)
add(
    "theory.matrices.InjectedNoiseLevels.gap_transition",
    lambda: (made.levels.gap_transition, dict(spacing=[0.1, 0.2])),
)
add(
    "theory.matrices.InjectedNoiseLevels.increments",
    lambda: (made.levels.increments, dict(edges=[0.1, 0.2])),
)
add(
    "theory.matrices.conditional_coefficients",
    lambda: (
        ss.theory.matrices.conditional_coefficients,
        dict(
            landscape=made.plane,
            noise=ss.MinibatchNoise(ss.WithReplacement(2)),
            positions=pts,
            groups=[[0], [1]],
            learning_rate=0.1,
            weights=np.ones(200),
            num_knots=4,
        ),
    ),
)
add(
    "theory.matrices.entry_rates",
    lambda: (
        ss.theory.matrices.entry_rates,
        dict(
            landscape=made.plane,
            noise=ss.MinibatchNoise(ss.WithReplacement(2)),
            positions=pts,
            learning_rate=0.1,
        ),
    ),
)
add(
    "theory.matrices.EntryCoefficients",
    lambda: (
        ss.theory.matrices.EntryCoefficients,
        dict(
            knots=np.array([[0.0, 1.0]]),
            drift=np.array([[0.0, 1.0]]),
            diffusion=np.array([[1.0, 1.0]]),
        ),
    ),
)
add(
    "theory.matrices.EntryCoefficients.equation",
    lambda: (made.entries.equation, dict(group=0, box=(-5.0, 5.0), cells=20)),
)
add(
    "theory.matrices.evolve_entries",
    lambda: (
        ss.theory.matrices.evolve_entries,
        dict(
            coefficients=[made.entries, made.entries],
            times=[0.0, 0.01],
            starts=[wide, wide],
            box=(-6.0, 6.0),
            cells=30,
            mass_tolerance=0.1,
        ),
    ),
)
add(
    "theory.matrices.fit_entries",
    lambda: (
        ss.theory.matrices.fit_entries,
        dict(
            positions=pts,
            rates=(-pts, np.ones_like(pts)),
            groups=[[0], [1]],
            weights=np.ones(200),
            num_knots=4,
        ),
    ),
)
add(
    "theory.stationary.epoch_noise_autocovariance",
    lambda: (
        ss.theory.stationary.epoch_noise_autocovariance,
        dict(batches_per_epoch=4, lags=[0, 1]),
    ),
)
add(
    "theory.stationary.epoch_covariance",
    lambda: (
        ss.theory.stationary.epoch_covariance,
        dict(hessian=H, gradient_noise=C, learning_rate=0.1, batches_per_epoch=3, momentum=0.5),
    ),
)
add(
    "theory.escape.mori_escape_rate",
    lambda: (
        ss.theory.escape.mori_escape_rate,
        dict(
            minimum_curvature=1.0,
            saddle_loss=2.0,
            minimum_loss=1.0,
            learning_rate=0.1,
            batch_size=4,
            dimension=1,
            prefactor=1.0,
        ),
    ),
)
add(
    "theory.escape.mori_stationary_exponent",
    lambda: (
        ss.theory.escape.mori_stationary_exponent,
        dict(minimum_curvature=1.0, learning_rate=0.1, batch_size=4),
    ),
)
add(
    "theory.escape.watched_barrier_shift",
    lambda: (ss.theory.escape.watched_barrier_shift, dict(diffusion=1.0, time_step=0.1)),
)
add(
    "theory.escape.xie_escape_time",
    lambda: (
        ss.theory.escape.xie_escape_time,
        dict(
            minimum_curvature=1.0,
            saddle_curvature=-1.0,
            barrier=1.0,
            learning_rate=1.0,
            batch_size=4,
            path_fraction=0.5,
        ),
    ),
)
add(
    "theory.selection.evidence_by_quadrature",
    lambda: (
        ss.theory.selection.evidence_by_quadrature,
        dict(landscape=made.logistic, prior=1.0, num_classes=2, start=[0.1], tolerance=1e-8),
    ),
)
add(
    "theory.selection.laplace_evidence",
    lambda: (
        ss.theory.selection.laplace_evidence,
        dict(landscape=made.logistic, prior=1.0, num_classes=2, start=[0.1]),
    ),
)
add(
    "theory.escape.committor",
    lambda: (
        ss.theory.escape.committor,
        dict(process=made.relaxing, start=0.1, lower=-1.0, upper=1.0, cells=40),
    ),
)
add(
    "theory.escape.committor (SGD)",
    lambda: (
        ss.theory.escape.committor,
        dict(process=made.line_sgd, start=0.0, lower=-0.1, upper=0.1, cells=40),
    ),
)
add(
    "theory.escape.exit_time",
    lambda: (
        ss.theory.escape.exit_time,
        dict(process=made.relaxing, start=0.1, exits=1.0, wall=-1.0, cells=40),
    ),
)
add(
    "theory.escape.mean_exit_time",
    lambda: (
        ss.theory.escape.mean_exit_time,
        dict(process=made.line_sgd, start=0.0, exits=(-0.1, 0.1), wall=None, cells=40),
    ),
)
add(
    "theory.escape.eyring_kramers",
    lambda: (
        ss.theory.escape.eyring_kramers,
        dict(process=made.sde.limit(), minimum=[-1.0], saddle=[0.1]),
    ),
)
add(
    "landscapes.stationary_point",
    lambda: (
        ss.landscapes.stationary_point,
        dict(landscape=made.well, start=[0.9], index=0, within=1.0),
    ),
)
add(
    "theory.equations.gaussian_flow_gap",
    lambda: (
        ss.theory.equations.gaussian_flow_gap,
        dict(score=made.gaussian_score, relative_error=0.1, times=[0.0, 0.5], start_time=0.0),
    ),
)
add(
    "theory.equations.grid_flow_gap",
    lambda: (
        ss.theory.equations.grid_flow_gap,
        dict(
            equation=made.fokker_planck,
            start=wide,
            exact=made.grid_score,
            approximate=made.function_score,
            times=[0.0, 0.1],
            reach=3.0,
            nodes=21,
        ),
    ),
)
add(
    "theory.laws.FokkerPlanck",
    lambda: (
        ss.theory.laws.FokkerPlanck,
        dict(
            process=made.sde.limit(),
            box=(-2.0, 2.0),
            cells=20,
            sides="reflecting",
            mass_tolerance=1e-6,
        ),
    ),
)
add("theory.laws.FokkerPlanck.refined", lambda: (made.fokker_planck.refined, dict(factor=2)))
add(
    "theory.laws.FokkerPlanck.propagate",
    lambda: (made.fokker_planck.propagate, dict(start=wide, times=[0.0, 0.1])),
)
add(
    "theory.laws.FokkerPlanck.current",
    lambda: (made.fokker_planck.current, dict(density=made.density)),
)
add("theory.laws.GridDensity.expect", lambda: (made.density.expect, dict(of=lambda x: x[0])))
add("theory.laws.GridDensity.marginal", lambda: (made.density.marginal, dict(axis=0)))
add("theory.laws.GridDensity.pdf", lambda: (made.density.pdf, dict(x=0.1)))
add("theory.laws.GridDensity.cdf", lambda: (made.density.cdf, dict(x=0.1)))
add("theory.laws.GridDensity.quantile", lambda: (made.density.quantile, dict(level=0.3)))
add(
    "processes.Diffusion",
    lambda: (ss.processes.Diffusion, dict(drift=lambda x: -x, diffusion=0.5, step=0.1)),
)
add(
    "processes.Jumps",
    lambda: (
        ss.processes.Jumps,
        dict(gradients=lambda x: jnp.array([1.0, -1.0]) * x[0], probabilities=[0.5, 0.5], step=0.1),
    ),
)
