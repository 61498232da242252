"""Numbers as a table of a journal sets them."""

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float, digits: int = 6) -> str:
    """`digits` significant digits; a power of ten beyond 10⁶ and below 10⁻⁴."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -5 < power < 6:
        return _signed(f"{value:.{digits}g}")
    digits_only = mantissa.rstrip("0").rstrip(".")
    return _signed(f"{digits_only}·10{str(power).translate(_RAISED)}")


def with_error(value: float, error: float) -> str:
    """«0.4205 ± 0.0052»: the error to two digits, the value to the same place."""
    if not (math.isfinite(value) and math.isfinite(error)) or error == 0:
        return plain(value)
    top = max(abs(value), abs(error))
    power = math.floor(math.log10(top))
    if -5 < power < 6:
        power = 0
    scale = 10.0**power
    places = max(0, 1 - math.floor(math.log10(error / scale)))
    both = f"{value / scale:.{places}f} ± {error / scale:.{places}f}"
    return _signed(both if power == 0 else f"({both})·10{str(power).translate(_RAISED)}")


def factor(ratio: float) -> str:
    """«×3.92», «×2.00»: three digits, and two of the difference from 1 where that is small."""
    if not math.isfinite(ratio) or not 1e-3 <= abs(ratio) < 1e3:
        return "×" + plain(ratio, 3)
    near = abs(abs(ratio) - 1.0)
    digits = 3 if near >= 0.01 or near == 0 else min(8, 2 - math.floor(math.log10(near)))
    return _signed(f"×{ratio:#.{digits}g}".rstrip("."))


def score(z: float, error: float) -> str:
    """z with its sign; none where nothing was sampled, for there the resolution decides."""
    if error == 0 or math.isnan(z):
        return "–"
    if abs(z) < 1000:
        return _signed(f"{z:+.2f}" if abs(z) < 100 else f"{z:+.0f}")
    return ("+" if z > 0 else "") + plain(z, 2)


def duration(seconds: float) -> str:
    """«34 s», «12 min 3 s»."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"


def _signed(text: str) -> str:
    return text.replace("-", "−")
