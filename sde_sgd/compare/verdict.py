"""Estimate against prediction: z-scores, a threshold set by a failure rate, a verdict."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import equinox as eqx
import numpy as np
import scipy
from jaxtyping import ArrayLike, Bool, Float, Int

from sde_sgd._brief import for_stdout
from sde_sgd._checks import (
    as_float64,
    check_choice,
    check_list,
    check_number,
    check_part,
    check_text,
    check_whole,
    in_brief,
)
from sde_sgd.compare._text import number, score, text_table, with_error
from sde_sgd.estimate import Estimate

Verdict: TypeAlias = Literal["agrees", "disagrees", "inconclusive"]
Values: TypeAlias = ArrayLike | Sequence[Any]
VERDICTS: tuple[Verdict, ...] = ("agrees", "inconclusive", "disagrees")  # by severity
_AS_EXPECTED = {"agree": "agrees", "deviate": "disagrees"}


class Comparison(eqx.Module):
    """A measured value beside its prediction, and the verdict. Made by `compare`.

    **Fields** (arrays have the shape of the measured value):

    - `name`, `process`: what was measured, on what.
    - `predicted`, `measured`: the values.
    - `standard_error`: of the difference, √(se² + se_predicted²).
    - `z`: (measured − predicted)/standard_error; NaN where nothing was measured.
    - `severity`: the verdict of each entry, 0 agrees, 1 inconclusive, 2 disagrees.
    - `threshold`: the |z| that one entry may reach, c.
    - `bias`: what the difference may owe to something else than sampling, as given.
    - `expected`: "agree" or "deviate".
    - `verdict`: "agrees", "disagrees" or "inconclusive", the most severe of the entries.
    - `reason`: for the last two, which entries and what would help.
    """

    name: str
    process: str
    predicted: Float[np.ndarray, "..."]
    measured: Float[np.ndarray, "..."]
    standard_error: Float[np.ndarray, "..."]
    z: Float[np.ndarray, "..."]
    severity: Int[np.ndarray, "..."]
    threshold: float
    bias: Float[np.ndarray, "..."]
    expected: str
    verdict: Verdict
    reason: str

    @property
    def smallest_visible(self) -> Float[np.ndarray, "..."]:
        """c·s + bias: a larger difference would have been said to disagree."""
        return np.asarray(self.threshold * self.standard_error + self.bias)

    @property
    def as_expected(self) -> bool:
        """Whether "agree" met "agrees" or "deviate" met "disagrees"; never if inconclusive."""
        return self.verdict == _AS_EXPECTED[self.expected]

    @property
    def worst(self) -> tuple[tuple[int, ...], float]:
        """Index and signed z of the largest |z| among the entries that decide the verdict.

        If those have no z (unmeasured), among all entries; z is NaN if none has one.
        """
        size = np.abs(self.z)
        deciding = np.where(self.severity == self.severity.max(), size, np.nan)
        size = deciding if not np.isnan(deciding).all() else size
        flat = int(np.argmax(np.where(np.isnan(size), -1.0, size)))
        index = tuple(int(i) for i in np.unravel_index(flat, self.z.shape))
        return index, float(self.z[index])

    def row(self) -> dict[str, Any]:
        """A dictionary for strict JSON; arrays are nested lists, `z` is that of `worst`.

        NaN becomes None and ±∞ the strings "inf", "-inf" (`float` reads them back).
        """
        return {
            "name": self.name,
            "process": self.process,
            "predicted": _jsonable(self.predicted.tolist()),
            "measured": _jsonable(self.measured.tolist()),
            "standard_error": _jsonable(self.standard_error.tolist()),
            "z": _jsonable(self.worst[1]),
            "expected": self.expected,
            "verdict": self.verdict,
        }

    def __repr__(self) -> str:
        return f"Comparison({self})"

    def __str__(self) -> str:
        name, process, predicted, measured, difference, z, verdict, _ = _cells(self)
        of = f" of {process}" if process else ""
        outcome = "as expected" if self.as_expected else f"expected to {self.expected}"
        because = f": {self.reason}" if self.reason else ""
        return for_stdout(
            f"{name or 'value'}{of} {verdict} ({outcome}): measured {measured}, predicted "
            f"{predicted}, difference {difference}, z = {z}, threshold {self.threshold:.3g}"
            f"{because}"
        )


def sidak_threshold(
    num_entries: int, failure_rate: float = 2e-5, degrees_of_freedom: int | float = np.inf
) -> float:
    """The c with P(max|z| > c) = `failure_rate` over `num_entries` independent Student z's.

    Each entry may fail at the rate a = 1 − (1 − failure_rate)^{1/num_entries}; c is the
    two-sided quantile of Student's t (normal by default). For correlated normal entries the
    rate is at most `failure_rate` (Šidák, J. Am. Stat. Assoc. 62 (1967) 626).

    **Raises:** `ValueError` unless 0 < failure_rate < 1 and num_entries ≥ 1.
    """
    failure_rate = check_number("failure_rate", failure_rate, above=0, below=1)
    num_entries = check_whole("num_entries", num_entries)
    tail = -np.expm1(np.log1p(-failure_rate) / num_entries) / 2
    if np.isinf(degrees_of_freedom):
        return float(-scipy.special.ndtri(tail))
    return float(-scipy.special.stdtrit(degrees_of_freedom, tail))


def compare(
    measured: Estimate,
    predicted: Estimate | Values,
    *,
    resolution: Values | None = None,
    bias: Values = 0.0,
    failure_rate: float = 2e-5,
    name: str = "",
    process: str = "",
    expected: str = "agree",
) -> Comparison:
    """Compare an estimate with a prediction, or with an estimate from independent members.

    z = (measured − predicted)/s entrywise, s = √(se² + se_predicted²), and c the
    `sidak_threshold` over the entries that have a value and an error, with Student's t:
    num_samples − 1 degrees of freedom (against an `Estimate`: Welch–Satterthwaite, the
    smallest over entries). Exact for normal samples; with skewed ones use many members.

    Without `resolution` an entry *disagrees* if |z| > c. It *agrees* otherwise: no difference
    was seen, of whatever size the sample could show. If num_samples is so small that c is
    more than twice its normal value, an entry that does not disagree is *inconclusive*.

    `bias` b bounds what the difference may owe to something else than sampling, such as the step
    of a solver. An entry then disagrees only if |measured − predicted| > c·s + b. Without
    `resolution` it is *inconclusive*, not in agreement, where b exceeds c·s, since the bias could
    hide a difference that the sample would show, and where the difference is between c·s and
    c·s + b: more than sampling explains, and no more than the bias could.

    With `resolution` r, the smallest difference that matters, the interval
    measured − predicted ± (c·s + b) decides (all entries hold at once, at `failure_rate`):

    - it lies within ±r: *agrees* (equivalence), even if it excludes zero;
    - else it excludes zero: *disagrees*;
    - else (zero and something beyond ±r are both inside): *inconclusive*.

    An entry without finite value and error, or with fewer than 2 samples, is *inconclusive*
    and not counted in c; leave it out deliberately with `measured[measured.finite()]`.
    The verdict is that of the most severe entry: disagrees, inconclusive, agrees.

    A zero error is exact: z is 0 where the values are equal, else ±∞. Identities that hold
    to rounding only need a `resolution`; so do rare events that no member saw, whose error
    from the sample is zero but should not be.

    **Arguments:**

    - `measured`: an `Estimate`.
    - `predicted`: an array of its shape, a scalar, or an `Estimate` of its shape.
    - `resolution`: positive, scalar or of the shape of `measured`, in its units.
    - `bias`: not negative, likewise.
    - `failure_rate`: probability that a correct prediction is said to disagree.
    - `expected`: "agree", or "deviate" where the prediction is known to be wrong.

    **Raises:** `ValueError` for unequal shapes, no entries, a prediction that is NaN or
    infinite, complex values, a resolution that is not positive and finite, a bias that is
    negative or not finite, an unknown `expected`; `TypeError` if `measured` is not an `Estimate`.
    """
    if not isinstance(measured, Estimate):
        raise TypeError(
            f"measured must be an Estimate; got {type(measured).__name__}. Nothing measured is "
            "without error: use Estimate.from_samples(one row per independent member)."
        )
    expected = check_choice("expected", expected, tuple(_AS_EXPECTED))
    name, process = check_text("name", name), check_text("process", process)
    failure_rate = check_number("failure_rate", failure_rate, above=0, below=1)
    value, error = as_float64("measured", measured.value).copy(), measured.standard_error
    if value.size == 0:
        raise ValueError(f"measured has shape {value.shape}: there is nothing to compare.")
    other = _prediction(predicted, value.shape)
    width = _resolution(resolution, value.shape)
    offset = _bias(bias, value.shape)

    judged = np.asarray(_judged(measured) & _judged(other))
    combined = np.asarray(np.hypot(error, other.standard_error))
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(judged, value - other.value, np.nan)
        z = np.where(difference == 0, 0.0, difference / combined)
    threshold, few = np.nan, False
    if judged.any():
        freedom = _degrees_of_freedom(measured, other, np.asarray(judged & (combined > 0)))
        entries = int(judged.sum())
        threshold = sidak_threshold(entries, failure_rate, freedom)
        few = threshold > 2 * sidak_threshold(entries, failure_rate)

    severity = np.ones(value.shape, dtype=int)
    half = np.where(combined > 0, threshold * combined, 0.0)
    beyond = np.abs(difference) > half + offset
    if width is None:
        hidden = (few & (combined > 0)) | (offset > half) | (np.abs(difference) > half)
        severity[judged] = np.where(beyond, 2, np.where(hidden, 1, 0))[judged]
    else:
        within = np.abs(difference) + half + offset <= width
        severity[judged] = np.where(within, 0, np.where(beyond, 2, 1))[judged]

    verdict = VERDICTS[int(severity.max())]
    reason = _reason(verdict, severity, judged, difference, half, offset, width)
    return Comparison(
        name=name,
        process=process,
        predicted=np.array(other.value, dtype=float),
        measured=value,
        standard_error=combined,
        z=z,
        severity=severity,
        threshold=float(threshold),
        bias=np.array(offset, dtype=float),
        expected=expected,
        verdict=verdict,
        reason=reason,
    )


def verdict_table(comparisons: Sequence[Comparison]) -> str:
    """Aligned text, one line for each comparison; of an array, its worst entry.

    A trailing `!` marks a verdict that is not as expected.
    """
    numbers = ("predicted", "measured", "difference ± error", "z")
    header = ("name", "process", *numbers, "verdict", "expected")
    rows = []
    for i, comparison in enumerate(check_list("comparisons", comparisons, "[ss.compare(...)]")):
        check_part(f"comparisons[{i}]", comparison, Comparison, "what ss.compare gives")
        *cells, expected = _cells(comparison)
        rows.append([*cells, expected if comparison.as_expected else f"{expected} !"])
    return text_table(header, rows)


def _cells(comparison: Comparison) -> list[str]:
    index, z = comparison.worst
    label = f"[{', '.join(map(str, index))}]" if index else ""
    error = float(comparison.standard_error[index])
    predicted, measured = float(comparison.predicted[index]), float(comparison.measured[index])
    return [
        comparison.name + label,
        comparison.process,
        number(predicted),
        number(measured),
        with_error(measured - predicted, error),
        score(z, error),
        comparison.verdict,
        comparison.expected,
    ]


def _jsonable(value: Any) -> Any:
    if isinstance(value, list):
        return [_jsonable(entry) for entry in value]
    if np.isfinite(value):
        return value
    return None if np.isnan(value) else str(value)


def _prediction(predicted: Estimate | Values, shape: tuple[int, ...]) -> Estimate:
    """The prediction as an estimate, without error if it is an array."""
    if isinstance(predicted, Estimate):
        value, error, samples = predicted.value, predicted.standard_error, predicted.num_samples
    else:
        value = as_float64("predicted", predicted).copy()
        value = np.broadcast_to(value, shape) if value.ndim == 0 else value
        error, samples = np.zeros(value.shape), 0
        if not np.isfinite(value).all():
            raise ValueError(
                f"predicted has {int((~np.isfinite(value)).sum())} NaN or infinite entries: "
                "a theory that gives no number there cannot be compared. Leave them out."
            )
    if value.shape != shape:
        raise ValueError(
            f"measured has shape {shape} and predicted {value.shape}; they must be equal "
            "(only a scalar prediction is broadcast)."
        )
    return Estimate(as_float64("predicted", value).copy(), error, samples)


def _resolution(
    resolution: Values | None, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."] | None:
    if resolution is None:
        return None
    width = as_float64("resolution", resolution).copy()
    if width.ndim and width.shape != shape:
        raise ValueError(
            f"measured has shape {shape} and resolution {width.shape}; give a scalar or equal "
            "shapes."
        )
    if not (np.isfinite(width).all() and (width > 0).all()):
        raise ValueError(
            f"resolution must be positive and finite; got "
            f"{in_brief(resolution)}. It is the smallest "
            "difference that matters; leave it out to look for any difference."
        )
    return np.broadcast_to(width, shape)


def _bias(bias: Values, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    offset = as_float64("bias", bias).copy()
    if offset.ndim and offset.shape != shape:
        raise ValueError(
            f"measured has shape {shape} and bias {offset.shape}; give a scalar or equal shapes."
        )
    if not (np.isfinite(offset).all() and (offset >= 0).all()):
        raise ValueError(f"bias must be a finite bound ≥ 0; got {in_brief(bias)}.")
    return np.broadcast_to(offset, shape)


def _judged(estimate: Estimate) -> Bool[np.ndarray, "..."]:
    """Where there is a value and an error: an error from one sample is not one."""
    finite = np.isfinite(estimate.value) & np.isfinite(estimate.standard_error)
    return np.asarray(finite & ((estimate.standard_error == 0) | (estimate.num_samples >= 2)))


def _degrees_of_freedom(first: Estimate, second: Estimate, where: Bool[np.ndarray, "..."]) -> float:
    """Welch–Satterthwaite, 1/ν = Σ_a f_a²/(n_a − 1), f_a the share in the variance of z."""
    if not where.any():
        return np.inf
    scale = np.hypot(first.standard_error, second.standard_error)[where]
    inverse = np.zeros_like(scale)
    for estimate in (first, second):
        share = (estimate.standard_error[where] / scale) ** 2
        inverse += share**2 / max(estimate.num_samples - 1, 1)
    return float(1 / inverse.max())


def _reason(
    verdict: Verdict,
    severity: Int[np.ndarray, "..."],
    judged: Bool[np.ndarray, "..."],
    difference: Float[np.ndarray, "..."],
    half: Float[np.ndarray, "..."],
    bias: Float[np.ndarray, "..."],
    width: Float[np.ndarray, "..."] | None,
) -> str:
    deciding = severity == VERDICTS.index(verdict)
    entries = f"{int(deciding.sum())} of {severity.size} entries"
    if verdict == "agrees":
        return ""
    if verdict == "disagrees":
        return f"{entries} beyond the threshold"
    if not judged.all():
        return (
            f"{int((~judged).sum())} of {judged.size} entries without finite value and error "
            "from at least 2 samples; add members or leave those entries out"
        )
    if width is None:
        explained = deciding & (np.abs(difference) > half) & (bias <= half)
        if explained.any():
            return (
                f"{int(explained.sum())} of {severity.size} entries with a difference of up to "
                f"{float(np.max(np.abs(difference)[explained])):.2g}, more than sampling explains "
                f"({float(np.min(half[explained])):.2g}) and no more than a bias of up to "
                f"{float(np.max(np.broadcast_to(bias, severity.shape)[explained])):.2g} adds"
            )
    room = half if width is None else width
    hidden = np.broadcast_to(bias > room, severity.shape) & deciding
    if hidden.any():
        return (
            f"{int(hidden.sum())} of {severity.size} entries with a bias of up to "
            f"{float(np.max(np.where(hidden, bias, 0))):.2g}, more than the "
            f"{float(np.min(np.where(hidden, room, np.inf))):.2g} that could be seen without it"
        )
    if width is None:
        return f"{entries} with too few samples for a threshold; add members"
    left = np.maximum(width - bias, np.finfo(float).tiny)
    factor = float(((half / left) ** 2)[deciding].max())
    return f"{entries} not resolved; about {max(factor, 1.0):.2g} times the members needed"
