"""Valid calls of landscapes, samplings, noises and processes."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss

from .made import C, H, made, THETA, X, Y
from .recipes import add

LABELS = np.array([0, 1, 0, 1, 1, 0])

# Landscapes and data.
add("LeastSquares", lambda: (ss.LeastSquares, dict(inputs=X, targets=Y, l2=0.1)))
add(
    "LogisticRegression",
    lambda: (
        ss.LogisticRegression,
        dict(inputs=X, labels=LABELS, num_classes=2, l2=0.1, bias=True),
    ),
)
add(
    "EmpiricalRisk",
    lambda: (
        ss.EmpiricalRisk,
        dict(
            model=made.linear_model,
            inputs=X,
            targets=Y,
            example_loss=ss.squared_error,
            l2=0.1,
            example_block=2,
        ),
    ),
)
add("Potential", lambda: (ss.Potential, dict(energy=jnp.sum, noise_covariance=C, tilts=None)))
add("Potential (tilts)", lambda: (ss.Potential, dict(energy=jnp.sum, tilts=X - X.mean(0))))
add("quadratic", lambda: (ss.quadratic, dict(hessian=H, noise_covariance=C, minimum=THETA)))
add("double_well", lambda: (ss.double_well, dict(noise_covariance=0.5, asymmetry=0.1)))
add(
    "landscapes.sharp_and_flat_wells",
    lambda: (
        ss.landscapes.sharp_and_flat_wells,
        dict(noise_covariance=0.5, flat_curvature=1.0, sharp_curvature=9.0, asymmetry=0.1),
    ),
)
add(
    "landscapes.mueller_brown",
    lambda: (ss.landscapes.mueller_brown, dict(noise_covariance=C, scale=0.1)),
)
add(
    "landscapes.PopulationLeastSquares",
    lambda: (
        ss.landscapes.PopulationLeastSquares,
        dict(feature_covariance=H, label_noise=0.1, minimum=THETA),
    ),
)
add(
    "landscapes.GaussianRBM",
    lambda: (ss.landscapes.GaussianRBM, dict(kernel=H, mass=3.0, num_hidden=2)),
)
add(
    "landscapes.scalar_field_kernel",
    lambda: (ss.landscapes.scalar_field_kernel, dict(size=4, mass=1.0)),
)
add(
    "landscapes.LinearTeacherStudent",
    lambda: (
        ss.landscapes.LinearTeacherStudent,
        dict(teacher=np.eye(2), label_noise=0.1, feature_covariance=H),
    ),
)
add(
    "landscapes.GaussianTilts",
    lambda: (ss.landscapes.GaussianTilts, dict(energy=jnp.sum, noise_covariance=C)),
)
add(
    "landscapes.symmetric_noise_covariance",
    lambda: (ss.landscapes.symmetric_noise_covariance, dict(size=2, scale=1.0)),
)
add(
    "landscapes.ControlVariate",
    lambda: (ss.landscapes.ControlVariate, dict(landscape=made.sum, anchor=THETA)),
)
add(
    "data.random_labels",
    lambda: (ss.data.random_labels, dict(targets=LABELS, key=jr.key(0), num_classes=2)),
)
add(
    "data.teacher_student",
    lambda: (
        ss.data.teacher_student,
        dict(
            num_examples=4,
            dimension=2,
            label_noise=0.1,
            key=jr.key(0),
            feature_covariance=H,
            teacher=THETA,
            num_test=2,
        ),
    ),
)


def _mnist():
    """The data set, once its file has been read, which takes seconds."""
    ss.data.mnist_subset((0, 1))
    return ss.data.mnist_subset


_split = dict(test_fraction=0.2, seed=0, dtype=None)
_images = dict(classes=(0, 1), layout="flat", principal_directions=2, **_split)
add("data.digits", lambda: (ss.data.digits, dict(scaling="standard", **_images)))
add("data.mnist_subset", lambda: (_mnist(), dict(scaling="unit", **_images)))
add("data.breast_cancer", lambda: (ss.data.breast_cancer, dict(_split)))
add("data.diabetes", lambda: (ss.data.diabetes, dict(_split)))
add(
    "data.digits_regression",
    lambda: (ss.data.digits_regression, dict(num_directions=2, targets="parity", **_split)),
)
add("cross_entropy", lambda: (ss.cross_entropy, dict(logits=jnp.ones(2), label=1)))
add("squared_error", lambda: (ss.squared_error, dict(prediction=jnp.ones(2), target=jnp.ones(2))))
add(
    "LeastSquares.minimise",
    lambda: (
        made.sum.minimise,
        dict(
            theta=THETA,
            method="newton-cg",
            tolerance=1e-6,
            max_steps=5,
            budget=None,
            progress=False,
        ),
    ),
)
add(
    "LeastSquares.hessian_vector_product",
    lambda: (made.sum.hessian_vector_product, dict(theta=THETA, vector=THETA)),
)
for _name in (
    "loss",
    "gradient",
    "hessian",
    "gradient_covariance",
    "gradient_variance",
    "covariance_root",
    "example_losses",
    "example_gradients",
):
    add(
        f"LeastSquares.{_name}",
        lambda name=_name: (getattr(made.sum, name), dict(theta=jnp.asarray(THETA))),
    )

# Samplings and noises.
for _sampling in ("WithReplacement", "WithoutReplacement", "RandomReshuffling"):
    add(_sampling, lambda name=_sampling: (getattr(ss, name), dict(batch_size=2)))
    add(
        f"{_sampling}.noise_factor",
        lambda name=_sampling: (getattr(ss, name)(2).noise_factor, dict(num_examples=6)),
    )
for _noise in ("MinibatchNoise", "IsotropicNoise", "DiagonalNoise"):
    add(_noise, lambda name=_noise: (getattr(ss, name), dict(sampling=made.sampling)))
add("ConstantNoise", lambda: (ss.ConstantNoise, dict(covariance=C)))
add(
    "ConstantNoise.at",
    lambda: (ss.ConstantNoise.at, dict(landscape=made.sum, theta=THETA, sampling=made.sampling)),
)
add("HessianNoise", lambda: (ss.HessianNoise, dict(scale=0.5, times_loss=True)))
add("FunctionNoise", lambda: (ss.FunctionNoise, dict(root=lambda t: t)))
add(
    "ThermalNoise",
    lambda: (ss.ThermalNoise, dict(noise=made.noise, temperature=0.1, learning_rate=0.1)),
)
add(
    "noise.ColouredNoise",
    lambda: (ss.noise.ColouredNoise, dict(rates=[1.0], weights=[1.0], white=0.5)),
)
add("noise.StableNoise", lambda: (ss.noise.StableNoise, dict(index=1.5, scale=1.0)))
add(
    "noise.fractional_noise",
    lambda: (
        ss.noise.fractional_noise,
        dict(hurst=0.7, num_states=12, slowest=1e-3, fastest=1e3),
    ),
)
add("noise.epoch_noise", lambda: (ss.noise.epoch_noise, dict(batches_per_epoch=4)))

# Processes.
_on_sum = lambda: dict(landscape=made.sum, learning_rate=0.1)  # noqa: E731
_equation = lambda: dict(**_on_sum(), noise=made.noise)  # noqa: E731
_batches = lambda: dict(**_on_sum(), sampling=made.sampling)  # noqa: E731
add("SGD", lambda: (ss.SGD, dict(**_batches(), momentum=0.5)))
add("GaussianSGD", lambda: (ss.GaussianSGD, dict(**_equation(), momentum=0.5)))
add("GradientFlow", lambda: (ss.GradientFlow, dict(**_on_sum(), substeps=2, solver=None)))
add(
    "ModifiedEquation",
    lambda: (
        ss.ModifiedEquation,
        dict(**_equation(), order=1, substeps=2, increments="gaussian", solver=None, refinement=1),
    ),
)
add("ModifiedEquation.refined", lambda: (made.sde.refined, dict(substeps=2, refinement=2)))
add(
    "DrivenEquation",
    lambda: (ss.DrivenEquation, dict(**_equation(), driving=ss.noise.WhiteNoise(), substeps=2)),
)
add(
    "UnderdampedEquation",
    lambda: (
        ss.UnderdampedEquation,
        dict(**_equation(), momentum=0.5, substeps=2, refinement=1),
    ),
)
add(
    "OverdampedEquation",
    lambda: (
        ss.OverdampedEquation,
        dict(**_equation(), momentum=0.5, substeps=2, order=1, increments="gaussian", refinement=1),
    ),
)
add(
    "ProbabilityFlow",
    lambda: (
        ss.ProbabilityFlow,
        dict(
            landscape=made.quadratic,
            learning_rate=0.1,
            noise=ss.ConstantNoise(C),
            score=made.score,
            start_time=0.0,
            order=1,
            substeps=1,
            solver=None,
        ),
    ),
)
add(
    "SGLD",
    lambda: (ss.SGLD, dict(**_batches(), temperature=0.1, control_variate=None)),
)
add("SAM", lambda: (ss.SAM, dict(**_batches(), radius=0.1, normalized=False)))
add(
    "SAMEquation",
    lambda: (ss.SAMEquation, dict(**_equation(), radius=0.1, substeps=2, refinement=1)),
)
add("SVAG", lambda: (ss.SVAG, dict(**_batches(), steps=2)))
add("Stages", lambda: (ss.Stages, dict(processes=[made.sgd, made.sgd], lengths=[2, 3])))
add(
    "processes.TransformedEquation",
    lambda: (
        ss.processes.TransformedEquation,
        dict(equation=made.sde, forward=lambda x: x, inverse=lambda y: y, tamed=False),
    ),
)
add("SignSGD", lambda: (ss.SignSGD, dict(learning_rate=0.1, weight_decay=0.1, diagonal=True)))
add(
    "RMSprop",
    lambda: (
        ss.RMSprop,
        dict(
            learning_rate=0.1,
            beta=0.9,
            epsilon=1e-8,
            initial=0.0,
            weight_decay=0.1,
            bias_correction=False,
            noise_dominated=False,
        ),
    ),
)
add(
    "Adam",
    lambda: (
        ss.Adam,
        dict(
            learning_rate=0.1,
            beta1=0.9,
            beta2=0.99,
            epsilon=1e-8,
            weight_decay=0.1,
            noise_dominated=False,
        ),
    ),
)
add(
    "AdaptiveEquation",
    lambda: (
        ss.AdaptiveEquation,
        dict(
            landscape=made.sum,
            optimizer=ss.Adam(0.1),
            noise=made.noise,
            substeps=2,
            refinement=1,
        ),
    ),
)
add(
    "OptaxSGD",
    lambda: (
        ss.OptaxSGD,
        dict(
            landscape=made.sum,
            optimizer=ss.Adam(0.1),
            sampling=made.sampling,
            learning_rate=None,
        ),
    ),
)
add(
    "processes.linear_scaling",
    lambda: (
        ss.processes.linear_scaling,
        dict(learning_rate=0.1, batch_size=2, kappa=2.0, num_examples=8),
    ),
)
add(
    "processes.square_root_scaling",
    lambda: (ss.processes.square_root_scaling, dict(optimizer=ss.Adam(0.1), kappa=2.0)),
)
add("ModifiedEquation.terms", lambda: (made.sde.terms, dict(key=made.key, member=0, iteration=0)))
add(
    "ModifiedEquation.diffusion",
    lambda: (
        made.sde.diffusion,
        dict(theta=jnp.asarray(THETA), direction=jnp.ones(2), iteration=0),
    ),
)
add(
    "ProbabilityFlow.velocity",
    lambda: (
        ss.ProbabilityFlow(made.quadratic, 0.1, ss.ConstantNoise(C), made.score).velocity,
        dict(t=jnp.asarray(0.1), theta=jnp.asarray(THETA)),
    ),
)
add("processes.Clock", lambda: (ss.processes.Clock, dict(learning_rate=0.1, power=2, start=0.5)))
