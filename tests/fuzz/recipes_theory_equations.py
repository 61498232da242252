"""Valid calls of `sde_sgd.theory`, the last part, in the order of its files."""

import jax.numpy as jnp
import numpy as np

import sde_sgd as ss

from .made_theory import C, H, made, W, wide, X2, Y2
from .recipes import add

add(
    "theory.laws.MasterEquation.propagate",
    lambda: (made.master.propagate, dict(start=0.1, steps=[0, 1], on_grid=False)),
)
add(
    "theory.laws.MasterEquation.propagate (batches)",
    lambda: (made.batch_master.propagate, dict(start=0.1, steps=[0, 1], on_grid=True)),
)
add(
    "theory.equations.fit_order",
    lambda: (
        ss.theory.equations.fit_order,
        dict(
            learning_rates=[0.1, 0.2, 0.4],
            errors=[0.1, 0.2, 0.4],
            standard_errors=[0.001, 0.001, 0.001],
        ),
    ),
)
add(
    "theory.equations.weak_errors",
    lambda: (
        ss.theory.equations.weak_errors,
        dict(
            process=ss.SGD(ss.LeastSquares(X2, Y2), 0.1, ss.WithReplacement(2)),
            equation=ss.SVAG(ss.LeastSquares(X2, Y2), 0.1, ss.WithReplacement(2), 2),
            learning_rates=[0.1, 0.05],
            time=0.2,
            theta0=[1.0, 0.0],
        ),
    ),
)
add(
    "theory.equations.weak_errors_scalar",
    lambda: (
        ss.theory.equations.weak_errors_scalar,
        dict(
            landscape=made.small,
            sampling=ss.WithReplacement(1),
            of=lambda x: x[0] ** 2,
            learning_rates=[0.1],
            time=0.2,
            theta0=0.5,
            box=(-20.0, 20.0),
            order=1,
            equation=lambda e, g, b, c: (-g, e / 2 * c),
            degree=15,
        ),
    ),
)
add(
    "theory.stationary.stationary_current",
    lambda: (
        ss.theory.stationary.stationary_current,
        dict(process=made.held, about=[0.1, 0.2]),
    ),
)
add(
    "theory.stationary.areal_velocity",
    lambda: (ss.theory.stationary.areal_velocity, dict(process=made.sgd, about=[0.1, 0.2])),
)
add(
    "theory.stationary.EntropyRate.__call__",
    lambda: (made.current.step_entropy, dict(before=np.zeros(2), after=np.ones(2))),
)
add(
    "theory.stationary.EntropyRate.potential",
    lambda: (made.current.step_entropy.potential, dict(position=np.ones(2))),
)
add(
    "theory.stationary.EntropyRate.area",
    lambda: (made.current.step_entropy.area, dict(before=np.zeros(2), after=np.ones(2))),
)
add(
    "theory.stationary.posterior_by_quadrature",
    lambda: (
        ss.theory.stationary.posterior_by_quadrature,
        dict(landscape=made.line, temperature=0.1, start=[0.1], tolerance=1e-7),
    ),
)
add(
    "theory.matrices.product_points",
    lambda: (
        ss.theory.matrices.product_points,
        dict(densities=[made.density, made.density], groups=[[0], [1]], num_points=8, shift=0),
    ),
)
add(
    "theory.matrices.product_closure",
    lambda: (
        ss.theory.matrices.product_closure,
        dict(
            landscape=made.plane,
            noise=ss.ConstantNoise(np.eye(2)),
            starts=[wide, wide],
            groups=[[0], [1]],
            learning_rate=0.1,
            times=[0.0, 0.1],
            time_step=0.1,
            box=(-6.0, 6.0),
            cells=30,
            num_points=256,
            num_knots=5,
            mass_tolerance=0.1,
        ),
    ),
)
add("theory.laws.ScalarLaw.expect", lambda: (made.scalar_law.expect, dict(of=lambda x: x[0])))
add(
    "theory.laws.ScalarLaw.grid_error",
    lambda: (made.batch_master.stationary().grid_error, dict(of=lambda x: x[0])),
)
add("theory.laws.ScalarLaw.cdf", lambda: (made.scalar_law.cdf, dict(x=0.1)))
add("theory.laws.ScalarLaw.pdf", lambda: (made.scalar_law.pdf, dict(x=0.1)))
add("theory.laws.ScalarLaw.quantile", lambda: (made.scalar_law.quantile, dict(level=0.4)))
add(
    "theory.stationary.stationary_scalar_moments",
    lambda: (
        ss.theory.stationary.stationary_scalar_moments,
        dict(process=made.line_sgd, max_moment=3),
    ),
)
add(
    "theory.stationary.transient_scalar_moments",
    lambda: (
        ss.theory.stationary.transient_scalar_moments,
        dict(process=made.line_sgd, times=[0.0, 0.6], theta0=1.0, max_moment=3),
    ),
)
add(
    "theory.equations.FunctionScore",
    lambda: (
        ss.theory.equations.FunctionScore,
        dict(function=lambda t, x: -x, dimension=1, first_time=0.0, last_time=2.0),
    ),
)
add("theory.equations.FunctionScore.check", lambda: (made.function_score.check, dict(time=0.5)))
add(
    "theory.equations.GaussianScore",
    lambda: (
        ss.theory.equations.GaussianScore,
        dict(
            process=made.held_equation.limit(),
            start=ss.theory.laws.Gaussian(np.zeros(2), np.eye(2)),
            about=[0.1, 0.2],
        ),
    ),
)
add("theory.equations.GaussianScore.check", lambda: (made.gaussian_score.check, dict(time=0.5)))
add("theory.equations.GaussianScore.law", lambda: (made.gaussian_score.law, dict(time=0.5)))
add(
    "theory.equations.GaussianScore.__call__",
    lambda: (made.gaussian_score, dict(t=jnp.asarray(0.5), theta=jnp.zeros(2))),
)
add(
    "theory.equations.GridScore",
    lambda: (
        ss.theory.equations.GridScore,
        dict(equation=made.fokker_planck, start=wide, duration=0.3, num_times=4),
    ),
)
add("theory.equations.GridScore.check", lambda: (made.grid_score.check, dict(time=0.1)))
add(
    "theory.equations.GridScore.__call__",
    lambda: (made.grid_score, dict(t=jnp.asarray(0.1), theta=jnp.zeros(1))),
)
add(
    "theory.selection.boltzmann_weights",
    lambda: (
        ss.theory.selection.boltzmann_weights,
        dict(losses=[0.0, 0.1], hessians=[[1.0], [2.0]], temperature=0.1),
    ),
)
add(
    "theory.selection.large_deviation_weights",
    lambda: (ss.theory.selection.large_deviation_weights, dict(barriers=W, learning_rate=0.1)),
)
add(
    "theory.selection.spanning_tree_energies",
    lambda: (ss.theory.selection.spanning_tree_energies, dict(barriers=W)),
)
add(
    "theory.selection.splitting_on_grid",
    lambda: (
        ss.theory.selection.splitting_on_grid,
        dict(equation=made.fokker_planck, targets=[lambda x: x[0] < -1.0, lambda x: x[0] > 1.0]),
    ),
)
add(
    "theory.selection.weights_on_grid",
    lambda: (
        ss.theory.selection.weights_on_grid,
        dict(density=made.density, label=lambda x: jnp.where(x[0] > 0, 1, 0), num_basins=2),
    ),
)
add(
    "theory.selection.weights_on_grid (array)",
    lambda: (
        ss.theory.selection.weights_on_grid,
        dict(density=made.density, label=np.arange(40) // 20, num_basins=2),
    ),
)
for _name in ("mean", "covariance", "largest_stable_learning_rate"):
    add(
        f"theory.stationary.{_name}",
        lambda name=_name: (
            getattr(ss.theory.stationary, name),
            dict(process=made.sgd, about=np.zeros(2)),
        ),
    )
add(
    "theory.stationary.transient",
    lambda: (
        ss.theory.stationary.transient,
        dict(process=made.sgd, times=[0.1], theta0=np.zeros(2), about=np.zeros(2)),
    ),
)
add(
    "theory.matrices.MarchenkoPastur",
    lambda: (ss.theory.matrices.MarchenkoPastur, dict(ratio=0.5, entry_variance=1.0)),
)
add(
    "theory.matrices.MarchenkoPastur.pdf",
    lambda: (made.marchenko_pastur.pdf, dict(x=1.0)),
)
add("theory.matrices.MarchenkoPastur.cdf", lambda: (made.marchenko_pastur.cdf, dict(x=1.0)))
add(
    "theory.matrices.MarchenkoPastur.quantile",
    lambda: (made.marchenko_pastur.quantile, dict(level=0.5)),
)
add("theory.matrices.MarchenkoPastur.moment", lambda: (made.marchenko_pastur.moment, dict(order=2)))
add("theory.matrices.mean_gap_ratio", lambda: (ss.theory.matrices.mean_gap_ratio, dict(kind="goe")))
add(
    "theory.matrices.rice_mean", lambda: (ss.theory.matrices.rice_mean, dict(centre=1.0, scale=1.0))
)
add(
    "theory.matrices.wigner_surmise", lambda: (ss.theory.matrices.wigner_surmise, dict(spacing=1.0))
)
add(
    "theory.matrices.wigner_surmise_cdf",
    lambda: (ss.theory.matrices.wigner_surmise_cdf, dict(spacing=1.0)),
)
add(
    "theory.matrices.teacher_student_spacing",
    lambda: (
        ss.theory.matrices.teacher_student_spacing,
        dict(learning_rate=0.1, batch_size=8, label_noise=1.0, level=1.0, time_step=0.1),
    ),
)
add(
    "theory.stationary.underdamped_covariance",
    lambda: (
        ss.theory.stationary.underdamped_covariance,
        dict(
            hessian=H,
            gradient_noise=C,
            learning_rate=0.1,
            momentum=0.5,
            preconditioner=np.eye(2),
            joint=False,
        ),
    ),
)
add(
    "theory.equations.OnlineRisk",
    lambda: (
        ss.theory.equations.OnlineRisk,
        dict(process=made.risk.process, theta0=[1.0, 1.0]),
    ),
)
add(
    "theory.equations.OnlineRisk.after",
    lambda: (made.risk.after, dict(iterations=[0, 2])),
)
add(
    "theory.equations.OnlineRisk.volterra",
    lambda: (made.homogenised_risk.volterra, dict(iterations=[0, 2], substeps=1)),
)
add(
    "theory.laws.wasserstein2",
    lambda: (
        ss.theory.laws.wasserstein2,
        dict(
            first=ss.theory.laws.Gaussian([0.0], [[1.0]]),
            second=ss.theory.laws.Gaussian([1.0], [[1.0]]),
        ),
    ),
)
add(
    "theory.laws.wasserstein2 (line)",
    lambda: (ss.theory.laws.wasserstein2, dict(first=made.density, second=made.scalar_law)),
)
