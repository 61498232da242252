"""Closed moments of a data set at one step, asked of the process that has this step."""

import numpy as np

import sde_sgd as ss
from sde_sgd.theory import stationary


class Factor(ss.noise.AbstractSampling):
    """Batches of which only c in Cov(ĝ) = cΣ is known: for predictions, not for runs."""

    factor: float
    batch_size: int = 1

    def noise_factor(self, num_examples):
        return self.factor

    def init(self, draws, landscape):
        raise NotImplementedError

    def draw(self, state, draws, landscape):
        raise NotImplementedError


def process_of(
    inputs,
    targets,
    *,
    learning_rate,
    noise_factor,
    time_step,
    l2=0.0,
    momentum=0.0,
    order=1,
    frozen_noise=False,
):
    """SGD for a step h = η, Euler for h = η/m, the equation itself for h = 0."""
    landscape, sampling = ss.LeastSquares(inputs, targets, l2=l2), Factor(noise_factor)
    if time_step == learning_rate and order == 1 and not frozen_noise:
        return ss.SGD(landscape, learning_rate, sampling, momentum)
    assert momentum == 0
    noise = ss.MinibatchNoise(sampling)
    if frozen_noise:
        noise = ss.ConstantNoise.at(landscape, landscape.minimum(), sampling)
    substeps = 1 if time_step == 0 else round(learning_rate / time_step)
    assert time_step == 0 or abs(substeps * time_step / learning_rate - 1) < 1e-9
    equation = ss.ModifiedEquation(landscape, learning_rate, noise, order=order, substeps=substeps)
    return equation.limit() if time_step == 0 else equation


def covariance(inputs, targets, **options):
    return stationary.covariance(process_of(inputs, targets, **options))


def transient(inputs, targets, *, times, theta0, **options):
    return stationary.transient(process_of(inputs, targets, **options), times, theta0)


def mean(inputs, targets, l2=0.0):
    options = dict(learning_rate=1e-3, noise_factor=0.5, time_step=1e-3, l2=l2)
    return stationary.mean(process_of(inputs, targets, **options))


def growth(inputs, **options):
    """Of second moments in an iteration; the targets do not enter."""
    return stationary.growth(process_of(inputs, np.zeros(len(inputs)), **options))


def largest_stable(inputs, *, noise_factor, l2=0.0, momentum=0.0, step_ratio=1.0):
    process = process_of(
        inputs,
        np.zeros(len(inputs)),
        learning_rate=0.1,
        noise_factor=noise_factor,
        time_step=0.1 * step_ratio,
        l2=l2,
        momentum=momentum,
    )
    return stationary.largest_stable_learning_rate(process)


def langevin(
    inputs,
    targets,
    *,
    learning_rate,
    noise_factor,
    temperature,
    time_step=None,
    l2=0.0,
    anchor=None,
):
    """Covariance of SGLD, or of its SDE at a step."""
    landscape, sampling = ss.LeastSquares(inputs, targets, l2=l2), Factor(noise_factor)
    if time_step is None or time_step == learning_rate:
        process = ss.SGLD(landscape, learning_rate, sampling, temperature, control_variate=anchor)
        return stationary.covariance(process)
    assert anchor is None
    noise = ss.ThermalNoise(ss.MinibatchNoise(sampling), temperature, learning_rate)
    substeps = 1 if time_step == 0 else round(learning_rate / time_step)
    equation = ss.ModifiedEquation(landscape, learning_rate, noise, substeps=substeps)
    return stationary.covariance(equation.limit() if time_step == 0 else equation)


def langevin_epochs(
    inputs, targets, *, learning_rate, batch_size, temperature, l2=0.0, anchor=None
):
    """Moments of SGWORLD."""
    landscape, sampling = ss.LeastSquares(inputs, targets, l2=l2), ss.RandomReshuffling(batch_size)
    process = ss.SGLD(landscape, learning_rate, sampling, temperature, control_variate=anchor)
    return stationary.epoch_moments(process)


def population(
    feature_covariance, *, label_noise, learning_rate, batch_size, momentum=0.0, time_step=None
):
    """Covariance on online least squares: (σ²/B)(1 + κ/B) η G⁻¹, κ = τ/(1 − τ/B), τ = Tr[η A G⁻¹].

    G = 2(1−μ) − ((1−μ)/(1+μ) + 1/B) η A for SGD with heavy ball, and 2 − (h + η/B) A at solver step
    h. Ziyin, Liu, Mori, Ueda 2021, "Strength of minibatch noise in SGD".
    """
    eta, mu = learning_rate, momentum
    h = eta if time_step is None else time_step
    values, basis = np.linalg.eigh(feature_covariance)
    g = 2 * (1 - mu) - ((1 - mu) / (1 + mu) * h + eta / batch_size) * values
    trace = np.sum(eta * values / g)
    assert g.min() > 0 and trace < batch_size and (mu == 0 or h == eta)
    kappa = trace / (1 - trace / batch_size)
    variances = label_noise**2 / batch_size * (1 + kappa / batch_size) * eta / g
    return (basis * variances) @ basis.T
