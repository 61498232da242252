"""A number measured on independent members, with its uncertainty."""

from collections.abc import Callable, Sequence
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Num

from sde_sgd._brief import for_stdout
from sde_sgd._checks import (
    as_float64,
    check_callable,
    check_list,
    check_number,
    check_text,
    check_whole,
    in_brief,
    real_values,
)
from sde_sgd._user_functions import naming

if TYPE_CHECKING:
    import xarray as xr


class Estimate(eqx.Module):
    """A measured value, its standard error and the number of independent samples.

    Members of an ensemble are the unit of replication: `num_samples` counts members
    (or independent repetitions), never correlated iterations of one member.

    **Fields:**

    - `value`: array of any shape, NaN where nothing could be estimated.
    - `standard_error`: array of the same shape, one standard deviation of `value`;
      infinite where fewer than two samples contribute.
    - `num_samples`: how many independent samples `value` averages.

    Estimates add, subtract, multiply and divide with numbers, arrays and each other, entry by
    entry. Errors go along to first order (delta method), those of two estimates as of *independent*
    ones: of two runs, say, not of two coordinates of one, nor of one taken twice. `num_samples` is
    then the smaller one.

        ratio = sgd_run["m"].covariance / sde_run["m"].covariance
    """

    value: Num[np.ndarray, "..."] = eqx.field(converter=lambda x: _numbers(x))
    standard_error: Float[np.ndarray, "..."] = eqx.field(
        converter=lambda x: np.array(as_float64("standard_error", x))
    )
    num_samples: int

    __array_ufunc__ = None  # so that NumPy leaves array * estimate to the estimate

    def __check_init__(self):
        check_whole("num_samples", self.num_samples, 0)
        if self.value.shape != self.standard_error.shape:
            raise ValueError(
                f"An Estimate needs value and standard_error of one shape; got "
                f"{self.value.shape} and {self.standard_error.shape}."
            )
        if (self.standard_error < 0).any():
            raise ValueError(
                f"standard_error must not be negative; got {in_brief(self.standard_error)}."
            )

    def __repr__(self) -> str:
        if self.value.ndim == 0:
            text = f"{self.value:.6g} ± {self.standard_error:.2g} (n={self.num_samples})"
            return for_stdout(text)
        return (
            f"Estimate(value={_digits(self.value, 6)}, "
            f"standard_error={_digits(self.standard_error, 2)}, num_samples={self.num_samples})"
        )

    @staticmethod
    def from_samples(samples: Num[np.ndarray | jax.Array, "members *shape"]) -> "Estimate":
        """Mean over the leading axis, x̄ = Σ x_i/n, with error √(Σ(x_i − x̄)²/(n(n−1))).

        **Arguments:** `samples`, (members, ...), one row for each independent member.
        """
        # The order of a sum, and so its rounding, follows the memory: equal samples, equal bits.
        rows = np.ascontiguousarray(as_float64("samples", samples))
        if np.ndim(samples) == 0:
            raise ValueError(
                f"samples must have one row for each independent member; got one number, {samples}."
            )
        num = rows.shape[0]
        if num == 0:
            nan = np.full(rows.shape[1:], np.nan)
            return Estimate(nan, np.full_like(nan, np.inf), 0)
        mean = rows.mean(axis=0)
        error = rows.std(axis=0, ddof=1) / np.sqrt(num) if num > 1 else np.full_like(mean, np.inf)
        return Estimate(mean, np.where(np.isnan(mean), np.inf, error), num)

    @staticmethod
    def of_variance(
        within: Num[np.ndarray, "members *shape"], between: Num[np.ndarray, "members *shape"]
    ) -> "Estimate":
        """Variance over members and time, V = (1/n) Σ_i within_i + Σ_i between_i/(n − 1).

        Unbiased where `within` is each member's second moment about its own mean x̄_i and
        `between` is (x̄_i − x̄)², both (members, ...); of covariances, products of two entries.

        The error is the jackknife's over members: that of the mean of
        within_i + n/(n − 2) between_i. Of normal members at one time its expected square is
        2σ⁴/(n − 2), and the variance of V is 2σ⁴/(n − 1). Infinite for fewer than three members.
        """
        within, between = as_float64("within", within), as_float64("between", between)
        if within.shape != between.shape or within.ndim == 0:
            raise ValueError(
                f"within and between must have one shape (members, ...); got {within.shape} and "
                f"{between.shape}."
            )
        num = len(within)
        if num < 3:
            mean = Estimate.from_samples(within + between * num).value
            return Estimate(mean, np.full(mean.shape, np.inf), num)
        value = within.mean(axis=0) + between.sum(axis=0) / (num - 1)
        pulled = Estimate.from_samples(within + num / (num - 2) * between)
        return Estimate(value, pulled.standard_error, num)

    def __getitem__(self, index) -> "Estimate":
        """The estimate of some entries, `value[index]` with its errors."""
        try:
            value = self.value[index]
        except (IndexError, ValueError, OverflowError, TypeError):
            raise IndexError(
                f"An Estimate of shape {self.value.shape} has no entry {in_brief(index)}."
            ) from None
        return Estimate(value, self.standard_error[index], self.num_samples)

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, self.standard_error, self.num_samples)

    def __add__(self, other: "Estimate | ArrayLike") -> "Estimate":
        return self._with(other, lambda x, y: x + y, lambda x, y, s, t: (s, t))

    def __sub__(self, other: "Estimate | ArrayLike") -> "Estimate":
        return self._with(other, lambda x, y: x - y, lambda x, y, s, t: (s, t))

    def __mul__(self, other: "Estimate | ArrayLike") -> "Estimate":
        return self._with(other, lambda x, y: x * y, lambda x, y, s, t: (y * s, x * t))

    def __truediv__(self, other: "Estimate | ArrayLike") -> "Estimate":
        return self._with(other, lambda x, y: x / y, lambda x, y, s, t: (s / y, x / y * (t / y)))

    def __pow__(self, power: float | int) -> "Estimate":
        exponent = check_number("power", power)
        return self.map(lambda x: x**exponent)

    def __radd__(self, other: ArrayLike) -> "Estimate":
        return self + other

    def __rsub__(self, other: ArrayLike) -> "Estimate":
        return -self + other

    def __rmul__(self, other: ArrayLike) -> "Estimate":
        return self * other

    def __rtruediv__(self, other: ArrayLike) -> "Estimate":
        return self._with(other, lambda x, y: y / x, lambda x, y, s, t: (y / x * (s / x), t / x))

    def map(self, function: Callable) -> "Estimate":
        """f of each entry, by the delta method: f(v) ± |f′(v)|·standard_error.

        To first order in the error: good where f is straight over a few of them.

        **Arguments:** `function`: f, a JAX function of one real number with a real value.

            rate = run["exit"].mean.map(lambda tau: 1 / tau)
        """
        check_callable("function", function, "jnp.sqrt")
        values = np.asarray(real_values("value", self.value), np.float64)
        points = jnp.asarray(values.ravel())
        with naming("function"):
            both = jax.vmap(lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),)))(points)
            if both[0].shape != points.shape:
                raise ValueError(
                    f"function must give one number for one; it gives shape {both[0].shape[1:]}."
                )
        value, slope = (np.asarray(x, np.float64).reshape(values.shape) for x in both)
        with np.errstate(all="ignore"):
            error = np.abs(slope) * self.standard_error
        return Estimate(value, _known_or_infinite(error), self.num_samples)

    def to_xarray(self, name: str = "value", dims: Sequence[str] | None = None) -> "xr.Dataset":
        """`name`, `name_standard_error` and `name_num_samples`, as a saved run names them.

        **Arguments:** `dims`: names of the axes, (n,) of them; `name_dim0`, ... by default.
        """
        import xarray as xr

        check_text("name", name)
        axes = [f"{name}_dim{i}" for i in range(self.value.ndim)] if dims is None else dims
        axes = [check_text("each of dims", a) for a in check_list("dims", axes, '("i",)')]
        if len(axes) != self.value.ndim:
            raise ValueError(
                f"dims must name the {self.value.ndim} axes of this Estimate; got {axes}."
            )
        return xr.Dataset(
            {
                name: (axes, self.value),
                f"{name}_standard_error": (axes, self.standard_error),
                f"{name}_num_samples": self.num_samples,
            }
        )

    def _with(self, other: Any, function: Callable, errors: Callable) -> "Estimate":
        """f of two independent estimates, errors to first order; a number has no error."""
        if other is self:
            raise ValueError(
                "An Estimate is not independent of itself: errors of two estimates are added as "
                "those of independent ones. Take 2 * e for e + e, e.map(lambda x: x**2) for e * e."
            )
        num, known = self.num_samples, (other, np.zeros(()))
        if isinstance(other, Estimate):
            num, known = min(num, other.num_samples), (other.value, other.standard_error)
        second = as_float64("other", known[0])
        try:
            x, y = np.broadcast_arrays(self.value, second)
        except ValueError:
            raise ValueError(
                f"other has shape {second.shape}, and the Estimate {self.value.shape}: they have "
                f"no common one."
            ) from None
        with np.errstate(all="ignore"):
            value = np.asarray(function(x, y))
            parts = errors(x, y, self.standard_error, known[1])
        error = _known_or_infinite(np.hypot(*map(np.abs, parts)))
        return Estimate(value, np.broadcast_to(error, value.shape), num)

    def interval(self, sigmas: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
        """Normal interval value ∓ sigmas·standard_error, two arrays of `value`'s shape."""
        half = check_number("sigmas", sigmas, above=0.0) * self.standard_error
        return self.value - half, self.value + half

    def finite(self) -> Bool[np.ndarray, "..."]:
        """Where both the value and its error are finite."""
        return np.asarray(np.isfinite(self.value) & np.isfinite(self.standard_error))


def _known_or_infinite(error: Any) -> np.ndarray:
    """Infinite where an error is none, as that of 0·∞."""
    return np.where(np.isnan(error), np.inf, error)


def _numbers(value) -> np.ndarray:
    """A copy; complex numbers, too, which `compare` refuses."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "c":
        return np.array(value)
    return np.array(real_values("value", value))


def _digits(values: np.ndarray, digits: int) -> str:
    """Each entry with so many significant digits: an error of 1e-4 is never printed as 0."""
    return np.array2string(
        values, threshold=20, formatter={"float_kind": lambda x: f"{x:.{digits}g}"}
    )
