"""Largest stable learning rates of SAM and of its equation, with all batches enumerated."""

import itertools

import closed_forms
import numpy as np
import pytest
from scipy.linalg import eigh
from tools import normal

import sde_sgd as ss
from sde_sgd.theory.stationary import largest_stable_learning_rate

POINTS = normal(5, 5, 2) * np.array([1.0, 0.6])
EYE = np.eye(2)
RHO, L2 = 0.3, 0.2
LINE = np.array([[2.0], [0.5], [0.3], [0.4], [0.6]])
SCHEMES = [
    *(ss.WithReplacement(size) for size in (1, 2, 3, 4)),
    *(ss.WithoutReplacement(size) for size in (1, 2, 3, 4, 5)),
]


def of_sam(inputs, radius, sampling, l2=0.0):
    """The limit of SAM, whatever the rate that it has."""
    landscape = ss.LeastSquares(inputs, np.zeros(len(inputs)), l2=l2)
    return largest_stable_learning_rate(ss.SAM(landscape, 0.1, radius, sampling))


def of_equation(inputs, radius, sampling, ratio, l2=0.0):
    """That of its equation at a step of η times `ratio`."""
    landscape = ss.LeastSquares(inputs, np.zeros(len(inputs)), l2=l2)
    substeps = round(1 / ratio) if ratio else 1
    noise = ss.MinibatchNoise(sampling)
    process = ss.SAMEquation(landscape, 0.1, radius, noise, substeps=substeps)
    return largest_stable_learning_rate(process if ratio else process.limit())


def hessians(sampling):
    """H_B of all batches, (n, d, d), each as likely as any other."""
    size, rows = sampling.batch_size, range(5)
    if isinstance(sampling, ss.WithReplacement):
        batches = list(itertools.product(rows, repeat=size))
    else:
        batches = list(itertools.combinations(rows, size))
    x = POINTS[np.array(batches)]
    return np.einsum("nba,nbc->nac", x, x) / size + L2 * EYE


def mean_kron(matrices):
    """E X⊗X of (n, d, d)."""
    return np.mean([np.kron(m, m) for m in matrices], axis=0)


@pytest.mark.parametrize("sampling", SCHEMES, ids=repr)
def test_limit_of_sam(sampling):
    """Spectral radius of E G_B⊗G_B, G_B = I − ηH_B(I + ρH_B), is 1 there, and crosses 1."""
    limit = of_sam(POINTS, RHO, sampling, L2)
    climb = [h @ (EYE + RHO * h) for h in hessians(sampling)]
    radii = [
        np.abs(np.linalg.eigvals(mean_kron([EYE - factor * limit * q for q in climb]))).max()
        for factor in (0.99, 1.0, 1.01)
    ]
    assert radii[1] == pytest.approx(1, abs=1e-12)
    assert radii[0] < 1 < radii[2]


@pytest.mark.parametrize("ratio", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("sampling", [SCHEMES[0], SCHEMES[1], SCHEMES[6]], ids=repr)
def test_limit_of_the_equation(sampling, ratio):
    """Q̄⊗I + I⊗Q̄ − η(r Q̄⊗Q̄ + Cov) is singular at η, Cov of ∂_θ of the noise's columns."""
    limit = of_equation(POINTS, RHO, sampling, ratio, L2)
    mean = np.mean([h @ (EYE + RHO * h) for h in hessians(sampling)], axis=0)
    each = POINTS[:, :, None] * POINTS[:, None, :] + L2 * EYE
    hess, c = each.mean(axis=0), sampling.noise_factor(5)
    s = sampling.third_factor(5) / c
    columns = [h + RHO * ((1 - s) * (hess @ h + h @ hess) + s * h @ h) for h in each]
    columns = np.sqrt(c) * (columns - np.mean(columns, axis=0))
    noise = ratio * np.kron(mean, mean) + mean_kron(columns)
    top = eigh(noise, np.kron(mean, EYE) + np.kron(EYE, mean), eigvals_only=True)[-1]
    assert limit == pytest.approx(1 / top, rel=1e-12)


def test_limit_in_one_dimension():
    """x = (2, .5, .3, .4, .6), ρ = .1, B = 1: 2E q/E q² = .410, q = x² + ρx⁴; SGD's is .599."""
    curvature = LINE[:, 0] ** 2
    q = curvature * (1 + 0.1 * curvature)
    exact = 2 * q.mean() / np.mean(q**2)
    found = of_sam(LINE, 0.1, ss.WithReplacement(1))
    assert found == pytest.approx(exact, rel=1e-13) and exact == pytest.approx(0.410, abs=5e-4)
    plain = closed_forms.largest_stable(LINE, noise_factor=1.0)
    assert plain == pytest.approx(2 * curvature.mean() / np.mean(curvature**2), rel=1e-13)
    assert exact < 0.5 < plain


def test_at_radius_zero_it_is_sgd():
    """ρ = 0: the largest stable rate of SGD, and of Euler at its step; flat directions left."""
    sampling = ss.WithoutReplacement(2)
    wide = np.concatenate([POINTS, POINTS[:, :1] - POINTS[:, 1:]], axis=1)  # rank 2 of 3
    noise = {"noise_factor": sampling.noise_factor(5)}
    assert of_sam(wide, 0.0, sampling) == pytest.approx(
        closed_forms.largest_stable(wide, **noise), rel=1e-12
    )
    found = of_equation(wide, 0.0, sampling, 0.25)
    exact = closed_forms.largest_stable(wide, step_ratio=0.25, **noise)
    assert found == pytest.approx(exact, rel=1e-12)


def test_at_batch_size_one_both_agree():
    """B = 1: Q_B = K_i, so that Euler's step at η has SAM's second moments, at any ρ."""
    for sampling in (ss.WithReplacement(1), ss.WithoutReplacement(1)):
        assert of_sam(POINTS, RHO, sampling, L2) == pytest.approx(
            of_equation(POINTS, RHO, sampling, 1.0, L2), rel=1e-12
        )


def test_what_is_refused():
    """Epochs, whose batches are dependent, and landscapes other than least squares."""
    with pytest.raises(ValueError, match="shuffled epochs depend on each other"):
        of_sam(POINTS, 0.1, ss.RandomReshuffling(1))
    process = ss.SAM(ss.quadratic(EYE, EYE), 0.1, 0.1, ss.WithReplacement(1))
    with pytest.raises(ValueError, match="known on LeastSquares"):
        largest_stable_learning_rate(process)
