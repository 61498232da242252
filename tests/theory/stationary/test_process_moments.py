"""`theory.stationary` of a process: every kind at its own step, on every landscape, or a reason."""

import itertools

import closed_forms
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from every_process import (
    C,
    ETA,
    H,
    L2,
    LANDSCAPES,
    least_squares,
    LINEAR,
    MU,
    NOISE,
    PROCESSES,
    START,
    SUBSET,
    TIMES,
    TWO,
    X,
    Y,
)
from momentum_law import MomentumLaw
from scipy.linalg import solve_discrete_lyapunov

import sde_sgd as ss
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.continuous.limit import ContinuousLimit
from sde_sgd.processes.linear import NotKnown
from sde_sgd.theory import stationary


def kinds(base):
    """Every final class of the package below `base`."""
    below = [kind for child in base.__subclasses__() for kind in [child, *kinds(child)]]
    final = (kind for kind in below if not kind.__name__.startswith("Abstract"))
    return {kind for kind in final if kind.__module__.startswith("sde_sgd.")}


def test_every_process_is_here():
    """So that a new one is asked for its readings."""
    made = {type(make(least_squares(), 0.1)) for make in PROCESSES.values()}
    assert made | {ContinuousLimit} == kinds(AbstractProcess)


@pytest.mark.parametrize("place", LANDSCAPES)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_covariance_or_a_reason(name, place):
    """What is linear has one, exact or about the minimum; the others say what is known."""
    landscape = LANDSCAPES[place]()
    about = (
        None
        if landscape.rest() is not None
        else landscape.minimise(landscape_start(landscape)).theta
    )
    process = PROCESSES[name](landscape, 0.02)
    if name not in LINEAR:
        with pytest.raises(ValueError, match=r"Known are|is that of diffrax.Euler"):
            stationary.covariance(process, about)
        return
    found = stationary.covariance(process, about)
    assert found.shape == (landscape.dimension,) * 2
    np.testing.assert_array_equal(found, found.T)
    assert np.linalg.eigvalsh(found)[0] > 0
    reading = process.linear(about)
    assert reading.stable and reading.growth() < 1
    beyond = 1.01 * stationary.largest_stable_learning_rate(process, about)
    assert not reading.at(beyond).stable and reading.at(beyond / 1.02).stable


def landscape_start(landscape):
    return (
        landscape.initial
        if isinstance(landscape, ss.EmpiricalRisk)
        else np.zeros(landscape.dimension)
    )


def test_without_a_point_only_quadratics():
    """Elsewhere θ is asked for, and named."""
    process = ss.SGD(LANDSCAPES["logistic"](), ETA, TWO)
    with pytest.raises(NotKnown, match=r"not known to be quadratic.*give about=θ"):
        stationary.covariance(process)


def batches(sampling):
    """The gradients' maps of all batches, g_B = H_B δ + n_B: pairs (H_B, n_B), equally likely."""
    size, rest = sampling.batch_size, least_squares().rest()
    rows = range(len(X))
    if isinstance(sampling, ss.WithReplacement):
        chosen = list(itertools.product(rows, repeat=size))
    else:
        chosen = list(itertools.combinations(rows, size))
    for batch in chosen:
        x, y = X[list(batch)], Y[list(batch)]
        yield x.T @ x / size + L2 * np.eye(2), x.T @ (x @ rest - y) / size + L2 * rest


@pytest.mark.parametrize("sampling", [TWO, SUBSET], ids=repr)
@pytest.mark.parametrize("momentum", [0.0, MU])
def test_sgd_by_all_batches(sampling, momentum):
    """M = E (A_B M A_Bᵀ + a_B a_Bᵀ) over every batch, with the buffer, to 1e-12."""
    eye = np.eye(2)
    second, constant = np.zeros((16, 16)), np.zeros(16)
    maps = list(batches(sampling))
    for curvature, slope in maps:
        move = np.block(
            [[eye - ETA * curvature, -ETA * momentum * eye], [curvature, momentum * eye]]
        )
        push = np.concatenate([-ETA * slope, slope])
        second += np.kron(move, move) / len(maps)
        constant += np.kron(push, push) / len(maps)
    exact = np.linalg.solve(np.eye(16) - second, constant).reshape(4, 4)[:2, :2]
    process = ss.SGD(least_squares(), ETA, sampling, momentum)
    np.testing.assert_allclose(stationary.covariance(process), exact, rtol=1e-11)
    np.testing.assert_allclose(stationary.mean(process), least_squares().rest(), rtol=1e-14)
    other = ss.SGD(least_squares(), ETA, ss.WithReplacement(3), momentum)
    assert np.abs(stationary.covariance(other) / exact - 1).max() > 0.1, "control: another B"


def arrays(**options):
    defaults = dict(learning_rate=ETA, noise_factor=0.5, time_step=ETA, l2=L2)
    return closed_forms.covariance(X, Y, **(defaults | options))


@pytest.mark.parametrize(
    ("process", "exact"),
    [
        (lambda L: ss.GaussianSGD(L, ETA, NOISE, MU), lambda: arrays(momentum=MU)),
        (lambda L: ss.SVAG(L, ETA, TWO, 5), lambda: arrays(time_step=ETA / 5)),
    ],
    ids=["Gaussian", "SVAG"],
)
def test_the_same_second_moments(process, exact):
    """Gaussian SGD has those of SGD with momentum, SVAG(5) those of Euler's scheme at η/5."""
    np.testing.assert_allclose(stationary.covariance(process(least_squares())), exact(), rtol=1e-10)


def test_fresh_examples():
    """(σ² + δᵀAδ)A + Aδδᵀ A: the population's covariance."""
    A = np.diag([1.0, 0.5])
    process = ss.SGD(ss.landscapes.PopulationLeastSquares(A, 0.3, START), ETA, TWO)
    exact = closed_forms.population(A, learning_rate=ETA, batch_size=2, label_noise=0.3)
    np.testing.assert_allclose(stationary.covariance(process), exact, rtol=1e-12)
    np.testing.assert_array_equal(stationary.mean(process), START)
    # From elsewhere the quadratic C is moved back to the minimum.
    np.testing.assert_allclose(stationary.covariance(process, START + 1), exact, rtol=1e-10)
    moments = process.landscape.noise_moments(jnp.asarray(START + 1))
    there = process.landscape.gradient_covariance(jnp.asarray(START + 1))
    np.testing.assert_allclose(moments.star, there, rtol=1e-12)


@pytest.mark.parametrize("substeps", [1, 3, None])
@pytest.mark.parametrize("kind", ["underdamped", "overdamped"])
def test_momentum_under_constant_noise(kind, substeps):
    """Lyapunov's equation of the whole (θ, m), to 1e-11."""
    make = {"underdamped": ss.UnderdampedEquation, "overdamped": ss.OverdampedEquation}[kind]
    process = make(ss.quadratic(H, C), ETA, ss.ConstantNoise(C), MU, substeps=substeps or 1)
    law = MomentumLaw.of(kind, H, C, learning_rate=ETA, momentum=MU, substeps=substeps)
    found = stationary.covariance(process if substeps else process.limit())
    np.testing.assert_allclose(found, law.covariance(), rtol=1e-11)


def test_underdamped_noise_is_read_in_the_middle_of_a_step():
    """C at θ − ½sηm: E over the noise of one step from random states, to 1e-12."""
    process = PROCESSES["UnderdampedEquation"](least_squares(), ETA)
    reading, rng = process.linear(), np.random.default_rng(0)
    basis, rest = reading.basis, reading.rest
    landscape = least_squares()
    for _ in range(3):
        u, m = rng.normal(size=(2, 2))
        step, friction = 1 / 3, 1 - MU
        decay = np.exp(-friction * step)
        middle = u - 0.5 * step * ETA * m
        spread = (1 - decay**2) / (2 * friction)
        covariance = 0.5 * np.asarray(landscape.gradient_covariance(jnp.asarray(rest + middle)))
        exact = spread * covariance  # of m
        z = np.stack([basis.T @ u, basis.T @ m], -1).ravel()
        state = np.concatenate([[1.0], z, half_of(np.outer(z, z))])
        after = reading._system() @ state
        first, second = after[1:5], full_of(after[5:])
        spread_of_m = (second - np.outer(first, first)).reshape(2, 2, 2, 2)[:, 1, :, 1]
        np.testing.assert_allclose(basis @ spread_of_m @ basis.T, exact, rtol=1e-11)


def half_of(matrix):
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))


def full_of(vector):
    rows, columns = np.triu_indices(4)
    matrix = np.zeros((4, 4))
    matrix[rows, columns] = matrix[columns, rows] = vector / np.where(
        rows == columns, 1, np.sqrt(2)
    )
    return matrix


@pytest.mark.parametrize(("order", "substeps"), [(1, None), (2, None), (1, 4), (2, 4)])
def test_on_the_way(order, substeps):
    """Mean and covariance at each t, beside the recursion in half the unknowns."""
    process = ss.ModifiedEquation(least_squares(), ETA, NOISE, order=order, substeps=substeps or 8)
    found = stationary.transient(process if substeps else process.limit(), TIMES, START)
    exact = closed_forms.transient(
        X,
        Y,
        learning_rate=ETA,
        noise_factor=0.5,
        time_step=ETA / substeps if substeps else 0.0,
        times=TIMES,
        theta0=START,
        l2=L2,
        order=order,
    )
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-10)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-9, atol=1e-15)


def test_on_the_way_with_a_buffer():
    """Heavy ball from an empty buffer."""
    found = stationary.transient(ss.SGD(least_squares(), ETA, TWO, MU), TIMES, START)
    exact = closed_forms.transient(
        X,
        Y,
        learning_rate=ETA,
        noise_factor=0.5,
        time_step=ETA,
        times=TIMES,
        theta0=START,
        l2=L2,
        momentum=MU,
    )
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-10)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-9, atol=1e-15)


def test_about_a_point_of_a_quadratic_is_exact():
    """Σ's quadratic is moved to the minimum, one Newton step away, whatever θ is."""
    for name in ("SGD", "heavy ball", "SGLD"):
        process = PROCESSES[name](least_squares(), ETA)
        found = stationary.covariance(process, START)
        np.testing.assert_allclose(found, stationary.covariance(process), rtol=1e-10)
        np.testing.assert_allclose(stationary.mean(process, START), least_squares().rest())


def test_each_example_keeps_its_own_hessian():
    """About the minimum of logistic regression: E over all batches of the linearised SGD."""
    landscape = LANDSCAPES["logistic"]()
    rest = landscape.minimise(np.zeros(landscape.dimension), tolerance=1e-12).theta
    g = np.asarray(landscape.example_gradients(rest))
    h = np.asarray(jax.jacfwd(landscape.example_gradients)(rest))
    dim = landscape.dimension
    second, constant = np.zeros((dim**2, dim**2)), np.zeros(dim**2)
    pairs = list(itertools.product(range(len(X)), repeat=2))
    for i, j in pairs:
        move, push = np.eye(dim) - ETA * (h[i] + h[j]) / 2, ETA * (g[i] + g[j]) / 2
        second += np.kron(move, move) / len(pairs)
        constant += np.kron(push, push) / len(pairs)
    exact = np.linalg.solve(np.eye(dim**2) - second, constant).reshape(dim, dim)
    found = stationary.covariance(ss.SGD(landscape, ETA, TWO), rest)
    np.testing.assert_allclose(found, exact, rtol=1e-8)
    frozen = ss.ConstantNoise.at(landscape, rest, TWO)
    held = stationary.covariance(ss.GaussianSGD(landscape, ETA, frozen), rest)
    flat = np.mean(h, axis=0)
    lyapunov = solve_discrete_lyapunov(np.eye(dim) - ETA * flat, ETA**2 * np.asarray(frozen.matrix))
    np.testing.assert_allclose(held, lyapunov, rtol=1e-8)
    assert np.abs(found / lyapunov - 1).max() > 1e-3, "control: noise held at the minimum"


@pytest.mark.parametrize("noise", [ss.DiagonalNoise, ss.IsotropicNoise])
def test_parts_of_the_noise(noise):
    """Diagonal and trace of Σ(θ): the fixed point of C(θ) read off the model itself."""
    landscape, model = least_squares(), noise(TWO)
    process = ss.GaussianSGD(landscape, ETA, model)
    found = stationary.covariance(process)
    root = np.linalg.cholesky(found)
    # A quadratic is averaged exactly by the two points ±√d along each column.
    points = [s * np.sqrt(2) * column for column in root.T for s in (1, -1)]
    rest = landscape.rest()
    mean = np.mean([model.covariance(jnp.asarray(rest + p), landscape) for p in points], axis=0)
    move = np.eye(2) - ETA * np.asarray(landscape.hessian(jnp.asarray(rest)))
    np.testing.assert_allclose(found, move @ found @ move.T + ETA**2 * mean, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stationary.covariance(ss.SGD(least_squares(), 9.0, TWO)), "stable below"),
        (lambda: stationary.covariance(ss.SGD(least_squares(), lambda k: 0.1, TWO)), "constant"),
        (lambda: stationary.covariance(least_squares()), "process"),
        (lambda: stationary.covariance(ss.SGD(least_squares(), 0.1, TWO), [0.0]), "about"),
        (lambda: stationary.mean(ss.SGD(ss.quadratic(-H, C), 0.1, TWO)), "no minimum"),
        (lambda: stationary.mean(ss.SGD(ss.LeastSquares(X[:1], Y[:1]), 0.1, SUBSET)), ""),
        (lambda: ss.SGD(least_squares(), 0.1, TWO).limit(), "limit of its equation"),
        (
            lambda: stationary.transient(ss.SGD(least_squares(), 0.1, TWO), [0.05], START),
            "multiple",
        ),
        (
            lambda: stationary.transient(ss.SGD(least_squares(), 50.0, TWO), [1e5], START),
            "largest stable rate",
        ),
    ],
)
def test_what_is_refused(make, words):
    """Each with the way out."""
    with pytest.raises(ValueError, match=words):
        make()


def test_noise_that_follows_the_hessian():
    """C = sH is constant on a quadratic; 2sL(θ)H is not taken for known, and held where asked."""
    landscape = least_squares()
    hessian = np.asarray(landscape.hessian(landscape.minimum()))
    process = ss.GaussianSGD(landscape, ETA, ss.HessianNoise(0.1))
    move, push = np.eye(2) - ETA * hessian, 0.1 * ETA**2 * hessian
    exact = solve_discrete_lyapunov(move, push)
    np.testing.assert_allclose(stationary.covariance(process), exact, rtol=1e-10)
    loud = ss.GaussianSGD(landscape, ETA, ss.HessianNoise(0.1, times_loss=True))
    with pytest.raises(NotKnown, match="HessianNoise on LeastSquares is not known to be quadratic"):
        stationary.covariance(loud)
    scale = 0.2 * float(landscape.loss(landscape.minimum()))
    held = ss.GaussianSGD(landscape, ETA, ss.HessianNoise(scale))
    at_rest = stationary.covariance(loud, landscape.rest())
    np.testing.assert_allclose(at_rest, stationary.covariance(held), rtol=1e-10)


def test_driven_by_white_noise():
    """The modified equation of order 1 at the same step, number for number; and its limit."""
    driven = PROCESSES["DrivenEquation"](least_squares(), ETA)
    equation = ss.ModifiedEquation(least_squares(), ETA, NOISE, substeps=3)
    for one, other in ((driven, equation), (driven.limit(), equation.limit())):
        np.testing.assert_allclose(
            stationary.covariance(one), stationary.covariance(other), rtol=1e-12
        )
    found, limit = (stationary.covariance(p) for p in (driven, driven.limit()))
    assert np.abs(found / limit - 1).max() > 0.01, "control: another step"


def test_a_limit_is_predicted_and_not_run():
    """`simulate` refuses it before time is spent."""
    limit = ss.ModifiedEquation(least_squares(), ETA, NOISE).limit()
    with pytest.raises(ValueError, match="can be predicted and not simulated"):
        ss.simulate(limit, START, num_steps=2, ensemble_size=2, key=jr.key(0))
