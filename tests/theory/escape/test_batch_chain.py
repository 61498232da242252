"""Exit times of SGD with its real batches: other grids, brackets, trees, the Gaussian limit."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import gmres, splu

import sde_sgd as ss
from sde_sgd.processes import Diffusion, Jumps
from sde_sgd.theory.escape import committor, exit_time, mean_exit_time

ETA, SIGMA = 0.25, 0.6


def two_point(batch_size=1, variance=SIGMA**2, eta=ETA):
    """SGD with two-point noise whose batch gradient has the given variance."""
    landscape = ss.double_well(variance * batch_size)
    return ss.SGD(landscape, eta, ss.WithReplacement(batch_size))


def steps(process, **options):
    """Mean number of iterations from −1 to +1."""
    options = {"start": -1.0, "exits": 1.0} | options
    return float(mean_exit_time(process, **options)) / ETA


def plain(cells, rounding=None):
    """E τ from −1 on a uniform grid of [−1.3, 1]: straight lines, or the next point rounded."""
    x = np.linspace(-1.3, 1.0, cells + 1)
    matrix = sparse.identity(cells + 1, format="csr")
    row = np.arange(cells + 1)
    for sign in (1, -1):
        place = (x - ETA * (x**3 - x) + sign * ETA * SIGMA + 1.3) / 2.3 * cells
        left = np.floor(place).astype(int) + (rounding == "up")
        share = place - left if rounding is None else 0 * place
        for column, weight in ((left, 1 - share), (left + 1, share)):
            # The last node is outside: it is the exit.
            inside = (column < cells) & (weight > 0) & (place < cells)
            shape = (cells + 1, cells + 1)
            entries = (weight[inside], (row[inside], column[inside]))
            matrix = matrix - 0.5 * sparse.csr_matrix(entries, shape=shape)
    if cells < 3000:
        times = splu(sparse.csc_matrix(matrix)).solve(np.ones(cells + 1))
    else:
        times, info = gmres(matrix, np.ones(cells + 1), rtol=1e-9, restart=300, maxiter=2)
        assert info == 0
    return np.interp(-1.0, x, times)


def test_two_point_noise():
    """σ = .6, η = .25: 19 462.9 iterations, against 4363.36 for Gaussian noise."""
    found = exit_time(two_point(), start=-1.0, exits=1.0)
    mean = found.mean / ETA
    assert mean == pytest.approx(19462.9, abs=0.1)
    assert found.error / ETA < 0.05
    assert found.variance == pytest.approx(found.mean**2, rel=1e-2)
    # Straight lines diffuse, an error that falls as the square of the cell.
    coarse, fine = plain(1000), plain(2000)
    assert abs(coarse / mean - 1) > 4e-4
    assert mean == pytest.approx(fine + (fine - coarse) / 3, rel=5e-5)
    # Control: the noise of the same variance that theory takes for it.
    sgd = two_point()
    gaussian = mean_exit_time(
        ss.GaussianSGD(sgd.landscape, ETA, sgd.gradient_noise), start=-1.0, exits=1.0
    )
    assert mean * ETA / gaussian == pytest.approx(19462.9 / 4363.36, rel=1e-4)


def test_brackets():
    """The map is increasing, so that rounding every step down (up) gives an upper (lower) bound."""
    assert plain(1500, "up") < 19462.9 < plain(1500, "down")


def test_mirror_and_both_ends():
    """x → −x: the same time; q(x) + q(−x) = 1 between ∓.9."""
    law = two_point()
    assert steps(law, start=1.0, exits=-1.0) == pytest.approx(19462.9, abs=0.1)
    q = committor(law, start=[-0.8, 0.8], lower=-0.9, upper=0.9)
    assert q.sum() == pytest.approx(1, abs=1e-6)
    assert 1e-4 < q[0] < 1e-3


def tree(start, low, high, gradients, probabilities, eta, depth):
    """E τ = Σ P(τ > k), E τ² = Σ (2k+1) P(τ > k), the share above, over all sequences."""
    positions, weights = np.array([start]), np.ones(1)
    total, square, above = 0.0, 0.0, 0.0
    alive = []
    for k in range(depth):
        total, square = total + weights.sum(), square + (2 * k + 1) * weights.sum()
        alive.append(weights.sum())
        positions = np.concatenate([positions - eta * g for g in gradients(positions)])
        weights = np.concatenate([weights * p for p in probabilities])
        above += weights[positions >= high].sum()
        inside = (positions > low) & (positions < high)
        positions, weights = positions[inside], weights[inside]
    # What is left decays geometrically: its rate is known by now.
    rest = alive[-1] * (alive[-1] / alive[-2]) ** np.arange(1, 400)
    total, odd = total + rest.sum(), 2 * (depth + np.arange(399)) + 1
    return total, square + odd @ rest - total**2, above / (1 - weights.sum())


def test_all_sequences():
    """Three unequal batches on a quadratic: E τ and the committor by enumerating all sequences."""
    offsets, probabilities = np.array([-1.5, 0.4, 1.9]), np.array([0.35, 0.4, 0.25])

    def gradients(x):
        return [x + b for b in offsets]

    law = Jumps(lambda theta: theta[0] + jnp.asarray(offsets), probabilities, 0.5)
    # 13 steps leave .4 % of the mass and half a million sequences.
    mean, variance, above = tree(0.1, -0.55, 0.75, gradients, probabilities, 0.5, 13)
    options = {"start": 0.1}
    found = exit_time(law, exits=(-0.55, 0.75), **options)
    assert found.mean / 0.5 == pytest.approx(mean, rel=2e-3)
    assert found.variance / 0.25 == pytest.approx(variance, rel=5e-3)
    share = committor(law, lower=-0.55, upper=0.75, **options)
    assert share == pytest.approx(above, rel=3e-3)
    wrong = Jumps(lambda theta: theta[0] + jnp.asarray(offsets), np.ones(3) / 3, 0.5)
    control = exit_time(wrong, exits=(-0.55, 0.75), **options)
    assert abs(control.mean / 0.5 / mean - 1) > 0.02


def test_gaussian_limit():
    """B two-point examples at the same variance: τ_B − τ_Gauss falls as 1/B."""
    gap16, gap64 = (steps(two_point(b), cells=500) - 4363.36 for b in (16, 64))
    assert gap16 / gap64 == pytest.approx(4, rel=0.06)
    assert gap64 > 50


def test_never_leaves():
    """σ < max|V'| = 2/√27: SGD never leaves (η V'' < 1), whatever the SDE says."""
    law = two_point(variance=0.14)
    found = exit_time(law, start=-1.0, exits=1.0)
    assert np.isinf(found.mean) and np.isinf(found.variance) and found.rate == 0
    assert 0.14 < 4 / 27 < 0.15
    sde = mean_exit_time(Diffusion(lambda x: x - x**3, ETA * 0.14 / 2), start=-1.0, exits=1.0)
    assert np.isfinite(sde)
    with pytest.raises(ValueError, match="no committor"):
        committor(law, start=-0.9, lower=-1.9, upper=0.9)


def test_refused():
    """Outside, runaway, too coarse."""
    law, options = two_point(), {"start": -1.0, "exits": 1.0}
    with pytest.raises(ValueError, match="already outside"):
        exit_time(law, **(options | {"exits": (-0.5, 1.0)}))
    with pytest.raises(ValueError, match="infinity"):
        exit_time(two_point(variance=400.0, eta=2.5), **(options | {"exits": 50}))
    with pytest.raises(ValueError, match="raise cells"):
        exit_time(two_point(variance=0.15), **options)
