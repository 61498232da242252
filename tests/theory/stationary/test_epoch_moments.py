"""Shuffled epochs: the covariance at their end, and the mean that they move."""

import itertools

import jax
import numpy as np
import pytest
from tools import normal

import sde_sgd as ss
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory import stationary

ETA, MU, L2 = 0.2, 0.6, 0.05
X, Y = normal(1, 5, 2) * np.array([1.0, 0.7]), normal(2, 5)
H, C = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, 0.2], [0.2, 0.5]])
TWO = ss.WithReplacement(2)


def least_squares():
    return ss.LeastSquares(X, Y, l2=L2)


LANDSCAPES = {
    "least squares": least_squares,
    "logistic": lambda: ss.LogisticRegression(X, np.array([0, 1, 0, 1, 1]), l2=0.5),
}


@pytest.mark.parametrize("momentum", [0.0, MU])
def test_shuffled_epochs_of_constant_noise(momentum):
    """At the end of an epoch; what follows a schedule of epochs has no limit of stability."""
    landscape = ss.quadratic(H, C)
    process = ss.SGD(landscape, ETA, ss.RandomReshuffling(1), momentum)
    exact = stationary.epoch_covariance(
        H, C, learning_rate=ETA, batches_per_epoch=landscape.num_examples, momentum=momentum
    )
    np.testing.assert_allclose(stationary.covariance(process), exact.epoch_end, rtol=1e-10)
    assert np.trace(exact.epoch_end) < 0.9 * np.trace(exact.average), "control: another phase"
    most = stationary.largest_stable_learning_rate(process)
    assert most == pytest.approx(2 * (1 + momentum) / np.linalg.eigvalsh(H)[-1])
    with pytest.raises(ValueError, match="no limit of stability is known"):
        stationary.largest_stable_learning_rate(
            ss.SGD(least_squares(), ETA, ss.RandomReshuffling(1), momentum)
        )


def orders_of_an_epoch(landscape, theta, eta):
    """Moments of θ at the end of an epoch of single examples, over all orders, linearised at θ."""
    dim = landscape.dimension
    g = np.asarray(landscape.example_gradients(theta))
    losses = [lambda x, i=i: landscape.example_losses(x)[i] for i in range(len(g))]
    h = [np.asarray(jax.hessian(loss)(theta)) for loss in losses]
    maps = []
    for i in range(len(g)):
        step = np.eye(dim + 1)
        step[1:, 0], step[1:, 1:] = -eta * g[i], np.eye(dim) - eta * h[i]
        maps.append(np.kron(step, step))
    epoch = np.zeros_like(maps[0])
    orders = list(itertools.permutations(range(len(g))))
    for order in orders:
        move = np.eye(len(epoch))
        for i in order:
            move = maps[i] @ move
        epoch += move / len(orders)
    law = np.eye(len(epoch))[0]
    for _ in range(3000):
        law = epoch @ law
    joint = law.reshape(dim + 1, dim + 1)
    return theta + joint[0, 1:], joint[1:, 1:] - np.outer(joint[0, 1:], joint[0, 1:])


@pytest.mark.parametrize("name", ["least squares", "logistic"])
def test_shuffled_epochs_move_the_mean(name):
    """All 120 orders of five examples: shifted mean and covariance at the end of an epoch.

    Exactly on least squares; elsewhere linearised, with each example's gradient and Hessian.
    """
    landscape = LANDSCAPES[name]()
    rest = landscape.minimise(np.zeros(landscape.dimension), tolerance=1e-12).theta
    process = ss.SGD(landscape, ETA, ss.RandomReshuffling(1))
    mean, covariance = orders_of_an_epoch(landscape, rest, ETA)
    about = None if name == "least squares" else rest
    np.testing.assert_allclose(stationary.mean(process, about), mean, atol=1e-9)
    np.testing.assert_allclose(stationary.covariance(process, about), covariance, rtol=1e-6)
    assert np.abs(mean - rest).max() > 1e-3, "control: not the minimum"
    independent = ss.SGD(landscape, ETA, ss.WithReplacement(1))
    assert np.abs(stationary.mean(independent, about) - rest).max() < 1e-8


def test_momentum_of_shuffled_epochs_is_not_known():
    """Noise that depends on θ, with a buffer: one error that says what is known."""
    process = ss.SGD(least_squares(), ETA, ss.RandomReshuffling(1), 0.5)
    with pytest.raises(NotKnown, match="without momentum.*epoch_covariance"):
        stationary.covariance(process)
    with pytest.raises(NotKnown, match="does not shuffle epochs"):
        stationary.epoch_moments(ss.SGD(least_squares(), ETA, TWO))
