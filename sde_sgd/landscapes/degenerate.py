"""What a vanishing curvature leaves open: whether L falls where ∇²L does not say so.

At the origin of −x⁴, of x³ − 3xy² and of x³ both ∇L and ∇²L vanish, and none is a minimum.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from sde_sgd.landscapes.modes import Surroundings

# A minimum of x^{2k} is 2k − 1 of Newton's steps away, and as far behind it L has its value again:
# at this many steps L has risen up to k = 5, and on a parabola to 361 times its height.
_STEPS = 20
# Directions in which L is looked at, and factor from one distance to the next.
_MOST_DIRECTIONS, _FACTOR = 8, 4.0
# The farthest look along a flat direction, relative to max(1, |θ|).
_FARTHEST = 0.1


def fall_beside(
    loss: Callable[[np.ndarray], float],
    rounding: Callable[[np.ndarray], float],
    theta: Float[np.ndarray, " d"],
    around: Surroundings,
    eps: float,
) -> float | None:
    """The distance from θ at which L is lower although the curvature at θ allows none; or None.

    Along the least curved direction L is looked at far behind the minimum of the parabola; along
    flat ones at growing distances until it differs from L(θ) by more than its rounding: the
    nearest difference decides.

    **Arguments:** `loss`, L of one θ (d,), and its `rounding` there; `around`, the curvature at θ;
    `eps` of the dtype.
    """
    here, size = loss(theta), float(np.linalg.norm(theta))
    least = _STEPS * float(around.newton)
    for direction, flat in _directions(around):
        distance = max(least, np.sqrt(eps) * (size or float(flat)))
        while distance > 0:
            places = [theta + sign * distance * direction for sign in (1, -1)]
            rises = [loss(place) - here for place in places]
            slack = max(rounding(place) for place in (theta, *places))
            # A wall, where L is not finite, is no fall.
            lowest = min((rise for rise in rises if np.isfinite(rise)), default=0.0)
            if lowest < -slack:
                return distance
            seen = max(map(abs, rises)) > slack
            distance *= _FACTOR
            if seen or not flat or distance > _FARTHEST * max(1.0, size):
                break
    return None


def _directions(around: Surroundings) -> Iterator[tuple[np.ndarray, bool]]:
    """Unit vectors (d,), and whether L is flat along them: flat modes, and some between them."""
    flat = np.asarray(around.vectors)[np.asarray(around.flat, bool)]
    for vector in flat[: _MOST_DIRECTIONS // 2]:
        yield vector, True
    rng = np.random.default_rng(0)
    for _ in range(min(len(flat) - 1, _MOST_DIRECTIONS // 2)):
        mixed = rng.normal(size=len(flat)) @ flat
        yield mixed / np.linalg.norm(mixed), True
    if not len(flat):
        yield np.asarray(around.least), False
