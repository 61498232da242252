"""The verdict in words: valid or not, why, and which runs would be."""

import itertools

import numpy as np

from sde_sgd.estimate import Estimate
from sde_sgd.validity.lines import at_equal_time, Line
from sde_sgd.validity.local_model import Settings
from sde_sgd.validity.rule import decide, State, Watched

# A measured gap to SVAG overrules a prediction from so many of its errors on.
_SIGMAS = 4.0


def in_words(
    distance: Estimate,
    tolerance: float,
    worst: Watched,
    by_learning_rate: Line,
    by_batch_size: Line,
    settings: Settings,
    sampled: bool,
) -> str:
    """By the prediction alone."""
    value, error = float(distance.value), float(distance.standard_error)
    why = f"along {worst.name}: {worst.shares.largest}"
    advice = "more num_paths, or a larger sample" if sampled else "more num_paths"
    said = decide(value, error, tolerance, why, advice)
    passes = State.of(value, error, tolerance) is State.PASSES
    rates = _range("η", by_learning_rate, tolerance)
    if np.isfinite(by_learning_rate.high):
        steps = at_equal_time(settings, by_learning_rate.high).num_steps
        rates += f" (same ηK: K ≥ {steps})"
    sizes = _range("B", by_batch_size, tolerance)
    # What exists first, and what does not after it.
    first, last = (sizes, rates) if np.isnan(by_learning_rate.high) else (rates, sizes)
    return f"{said}; {'stays' if passes else 'would be'} valid for {first}; for {last}"


def overruled(
    gaps: dict[str, dict[int, Estimate]], tolerance: float, predicted: float
) -> str | None:
    """Words for the first measured gap beyond the tolerance by four errors, if there is one."""
    for name, row in gaps.items():
        for level, gap in row.items():
            value, error = float(gap.value), float(gap.standard_error)
            if abs(value) - _SIGMAS * error > tolerance:
                return (
                    f"not valid: measured {name} of SGD and SVAG({level}) {value:+.3g} ± "
                    f"{error:.1g} apart, beyond {tolerance:g} (predicted D {predicted:.3g})"
                )
    return None


def _range(symbol: str, line: Line, tolerance: float) -> str:
    """ "η ≤ 0.02", "B from 4 to 60", "B ≥ 4", or that there is none, and what comes nearest."""
    states, values = line.states(tolerance), line.values
    first, last = values[0], values[-1]
    if np.isnan(line.high):
        best = int(np.argmin(line.distances))
        some = State.UNDECIDED in states
        least = f"least D {line.distances[best]:.3g} at {symbol} = {values[best]:.6g}"
        reason = f"; undecided from {_ends(line, tolerance)}" if some else ""
        return f"no {symbol} from {first:.6g} to {last:.6g} ({least}{reason})"
    if line.low == first and line.high == last:
        text = f"every {symbol} from {first:.6g} to {last:.6g}"
    elif line.low == first:
        text = f"{symbol} ≤ {line.high:.6g}"
    elif line.high == last:
        text = f"{symbol} ≥ {line.low:.6g}"
    else:
        text = f"{symbol} from {line.low:.6g} to {line.high:.6g}"
    above = [(v, state) for v, state in zip(values, states, strict=True) if v > line.high]
    open_ = list(itertools.takewhile(lambda pair: pair[1] is State.UNDECIDED, above))
    if open_:
        text += f", undecided up to {open_[-1][0]:.6g}"
    return text


def _ends(line: Line, tolerance: float) -> str:
    low, high = line.undecided(tolerance)
    return f"{low:.6g} to {high:.6g}"
