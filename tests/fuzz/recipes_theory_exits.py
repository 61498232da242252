"""Valid calls of `sde_sgd.theory`, the second part, in the order of its files."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss

from .made_theory import C, H, made, r, X1, X2, Y1, Y2
from .recipes import add

add(
    "theory.equations.conditional_moments",
    lambda: (
        ss.theory.equations.conditional_moments,
        dict(equation=made.master, points=[0.0, 0.5], steps=[1, 2]),
    ),
)
add(
    "theory.equations.ConditionalMoments.read",
    lambda: (made.moments_read.read, dict(time_step=0.1, reading="naive")),
)
add(
    "theory.equations.effective_linear",
    lambda: (
        ss.theory.equations.effective_linear,
        dict(process=made.held, about=[0.1, 0.2]),
    ),
)
add(
    "theory.equations.finite_lag_bias",
    lambda: (
        ss.theory.equations.finite_lag_bias,
        dict(drift=lambda x: -x[0], variance_rate=1.0, points=[0.0, 1.0], lag=0.1, reading="naive"),
    ),
)
add(
    "theory.equations.read_least_squares",
    lambda: (
        ss.theory.equations.read_least_squares,
        dict(process=made.line_sgd, lag=0.6, reading="extrapolated", num_lags=2),
    ),
)
add(
    "theory.laws.stationary_density",
    lambda: (
        ss.theory.laws.stationary_density,
        dict(
            process=made.sde.limit(),
            lower=-5.0,
            upper=5.0,
            convention="ito",
            centre=0.0,
            scale=1.0,
        ),
    ),
)
add("theory.laws.StationaryDensity.pdf", lambda: (made.stationary.pdf, dict(x=0.1)))
add("theory.laws.StationaryDensity.cdf", lambda: (made.stationary.cdf, dict(x=0.1)))
add("theory.laws.StationaryDensity.survival", lambda: (made.stationary.survival, dict(x=0.1)))
add(
    "theory.laws.StationaryDensity.quantile",
    lambda: (made.stationary.quantile, dict(level=0.1)),
)
add("theory.laws.StationaryDensity.moment", lambda: (made.stationary.moment, dict(order=2)))
add(
    "theory.laws.StationaryDensity.absolute_moment",
    lambda: (made.stationary.absolute_moment, dict(order=2)),
)
add(
    "theory.laws.StationaryDensity.expect",
    lambda: (made.stationary.expect, dict(of=lambda x: x[0] ** 2)),
)
add(
    "theory.laws.StationaryDensity.sample",
    lambda: (made.stationary.sample, dict(key=jr.key(0), num_samples=4)),
)
add(
    "theory.equations.KernelScore",
    lambda: (
        ss.theory.equations.KernelScore,
        dict(samples=r.normal(size=(2, 30, 1)), times=[0.0, 1.0], bandwidth=0.5),
    ),
)
add("theory.equations.KernelScore.check", lambda: (made.kernel_score.check, dict(time=0.5)))
add(
    "theory.equations.KernelScore.__call__",
    lambda: (made.kernel_score, dict(t=jnp.asarray(0.5), theta=jnp.zeros(1))),
)
add(
    "theory.equations.KernelScore.inside",
    lambda: (made.kernel_score.inside, dict(theta=jnp.zeros((3, 1)))),
)
add(
    "theory.laws.tail_index",
    lambda: (ss.theory.laws.tail_index, dict(process=made.online_sgd)),
)
add(
    "theory.laws.tail_index_published",
    lambda: (ss.theory.laws.tail_index_published, dict(process=made.online_sgd)),
)
add(
    "theory.laws.KramersMoyal",
    lambda: (
        ss.theory.laws.KramersMoyal,
        dict(
            process=made.relaxing_steps,
            box=(-4.0, 4.0),
            order=3,
            polynomials=4,
            nodes=60,
            mass_tolerance=1e-6,
        ),
    ),
)
add(
    "theory.laws.KramersMoyal.moments",
    lambda: (made.kramers_moyal.moments, dict(start=0.1, steps=[1, 2], max_power=2)),
)
add(
    "theory.selection.label_noise_flow",
    lambda: (
        ss.theory.selection.label_noise_flow,
        dict(
            landscape=made.manifold,
            start=[2.0, 0.5],
            learning_rate=0.1,
            label_noise=0.5,
            batch_size=1,
            times=[0.0, 0.1],
        ),
    ),
)

add(
    "theory.selection.label_noise_balance",
    lambda: (
        ss.theory.selection.label_noise_balance,
        dict(u=1.0, w=0.5, learning_rate=0.1, label_noise=0.5, num_steps=3, batch_size=1),
    ),
)
add(
    "theory.stationary.epoch_moments",
    lambda: (
        ss.theory.stationary.epoch_moments,
        dict(process=ss.SGD(ss.LeastSquares(X2[:4], Y2[:4], l2=0.1), 0.1, ss.RandomReshuffling(2))),
    ),
)
add(
    "theory.stationary.posterior",
    lambda: (
        ss.theory.stationary.posterior,
        dict(landscape=ss.LeastSquares(X2, Y2), temperature=0.1),
    ),
)
add(
    "theory.stationary.growth",
    lambda: (ss.theory.stationary.growth, dict(process=made.sgd, about=np.zeros(2))),
)
add(
    "theory.laws.Gaussian",
    lambda: (ss.theory.laws.Gaussian, dict(mean=[0.0], covariance=[[1.0]])),
)
add("theory.laws.Gaussian.expect", lambda: (made.gaussian.expect, dict(of=lambda x: x[0] ** 2)))
add("theory.laws.Gaussian.marginal", lambda: (made.gaussian.marginal, dict(axis=0)))
add("theory.laws.Gaussian.pdf", lambda: (made.gaussian.pdf, dict(x=[0.1, 0.2])))
add(
    "theory.escape.quasi_potential",
    lambda: (
        ss.theory.escape.quasi_potential,
        dict(process=made.sde, start=-1.0, end=0.0),
    ),
)
add(
    "theory.selection.balance_factor",
    lambda: (ss.theory.selection.balance_factor, dict(gradient=1.0, learning_rate=0.1)),
)
add(
    "theory.selection.balance_moments",
    lambda: (ss.theory.selection.balance_moments, dict(inputs=X1, targets=Y1)),
)
add(
    "theory.selection.balance_moments_gaussian",
    lambda: (
        ss.theory.selection.balance_moments_gaussian,
        dict(feature_variance=1.0, slope=1.0, label_noise=1.0),
    ),
)
add(
    "theory.selection.law_of_balance_density",
    lambda: (
        ss.theory.selection.law_of_balance_density,
        dict(moments=made.balance, temperature=0.1),
    ),
)
add(
    "theory.selection.law_of_balance_equation",
    lambda: (
        ss.theory.selection.law_of_balance_equation,
        dict(moments=made.balance, value=0.5, temperature=0.1),
    ),
)
add(
    "theory.stationary.linear_covariance",
    lambda: (
        ss.theory.stationary.linear_covariance,
        dict(hessian=H, gradient_noise=C, learning_rate=0.1, time_step=0.1),
    ),
)
add(
    "theory.stationary.momentum_covariance",
    lambda: (
        ss.theory.stationary.momentum_covariance,
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
    "theory.stationary.linear_transient",
    lambda: (
        ss.theory.stationary.linear_transient,
        dict(
            hessian=H,
            gradient_noise=C,
            learning_rate=0.1,
            time_step=0.1,
            times=[0.0, 0.2],
            theta0=[1.0, 0.0],
            minimum=[0.0, 0.0],
        ),
    ),
)
add(
    "theory.laws.MasterEquation",
    lambda: (
        ss.theory.laws.MasterEquation,
        dict(
            process=made.relaxing_steps,
            box=(-4.0, 4.0),
            nodes=60,
            mass_tolerance=1e-3,
        ),
    ),
)
add(
    "theory.laws.MasterEquation (batches)",
    lambda: (
        ss.theory.laws.MasterEquation,
        dict(
            process=made.line_sgd,
            box=(-4.0, 4.0),
            nodes=60,
            mass_tolerance=1e-3,
        ),
    ),
)
