"""How much time is spent in which basin, which way members go, and where they end."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jaxtyping import Array, Float, Int

from sde_sgd._checks import (
    as_float64,
    check_callable,
    check_choice,
    check_number,
    check_whole,
    in_brief,
)
from sde_sgd.estimate import Estimate
from sde_sgd.measure.base import (
    AbstractMeasure,
    check_schedule,
    due,
    MeasureResult,
    shape_at_theta,
    Tick,
)
from sde_sgd.types import Alive, Positions

_EXAMPLE = "lambda theta: (theta[0] > 0).astype(int)"


class OccupationCarry(eqx.Module):
    """Looks (members, m) in each basin, transitions (members, m, m), last basin (members,),
    looks (members, m) begun with each as the last basin, looks in all (members,), and the last
    label that was none, 0 without one."""

    inside: Array
    transitions: Array
    last: Array
    held: Array
    count: Array
    stray: Array


class OccupationResult(MeasureResult):
    """Where members were, how they moved, and where they ended; over the members alive.

    - `weights`: Estimate (m,), the share of looks in each basin; `elsewhere`: Estimate (), the
      share of looks in none (label −1), so that Σ weights + elsewhere = 1. The errors are from the
      spread between members.
    - `selection`: Estimate (m,), the share of members whose last basin is i; `selected` (m,) their
      numbers, `unselected` the number of members that never were in a basin, so that Σ selected +
      unselected is all. The error is binomial, of (n_i + ½)/(n + 1), so that it is not 0 for
      n_i = 0.
    - `transitions`: (m, m), changes of the last basin from i to j, of all members; `rates`:
      Estimate (m, m), the same per iteration spent with i as last basin (0 where it never was).
    - `final`: (members,) last basin of each member, −1 if it never was in one.
    - `num_looks`: of each member.
    """

    weights: Estimate
    elsewhere: Estimate
    selection: Estimate
    selected: Int[np.ndarray, " m"]
    unselected: int
    transitions: Int[np.ndarray, "m m"]
    rates: Estimate
    final: Int[np.ndarray, " members"]
    num_looks: int
    axes: ClassVar[dict[str, tuple[str, ...]]] = {
        "selected": ("basin",),
        "transitions": ("from_basin", "to_basin"),
        "final": ("member",),
    }

    def interval(
        self, confidence: float = 0.95, method: Literal["wilson", "clopper-pearson"] = "wilson"
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Binomial confidence limits of every selection probability, each (m,)."""
        return binomial_interval(self.selected, len(self.final), confidence, method)


def binomial_interval(
    successes: Any,
    trials: int,
    confidence: float = 0.95,
    method: Literal["wilson", "clopper-pearson"] = "wilson",
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Limits of a probability from k successes in n trials.

    "wilson" inverts the normal test of p (near the stated confidence on average);
    "clopper-pearson" the exact one (at least the stated confidence for every p).

    **Raises:** `ValueError` for k outside 0…n, n < 1, a confidence outside (0, 1).
    """
    k, trials = as_float64("successes", successes), check_whole("trials", trials)
    if not ((k >= 0) & (k <= trials)).all():
        raise ValueError(f"successes must lie in 0…{trials}; got {in_brief(successes)}.")
    confidence = check_number("confidence", confidence, above=0.0, below=1.0)
    check_choice("method", method, ("wilson", "clopper-pearson"))
    # By hand for arrays of k: scipy.stats.binomtest takes one at a time.
    tail = (1 - confidence) / 2
    if method == "clopper-pearson":
        low = np.where(k > 0, scipy.special.betaincinv(np.maximum(k, 1), trials - k + 1, tail), 0.0)
        high = scipy.special.betaincinv(k + 1, np.maximum(trials - k, 1), 1 - tail)
        return low, np.where(k < trials, high, 1.0)
    z = -scipy.special.ndtri(tail)
    share, scale = k / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return np.where(k == 0, 0.0, low), np.where(k == trials, 1.0, high)


class Occupation(AbstractMeasure):
    """Shares of time in basins, transitions between them, and the basin where members end.

    **Arguments:**

    - `label`: a function of θ (d,) that gives an integer, the number 0, …, m − 1 of a basin, or
      −1 for none: a `Basins` (gradient flow, dear), `label_by_nearest`, or a user's own. A member
      with label −1 keeps the basin in which it last was, so that labels that are −1 outside
      cores count no recrossings of a boundary as transitions.
    - `num_basins`: m.
    - `burn_in`, `every`: iterations left out, and between two looks.
    """

    label: Callable
    num_basins: int = eqx.field(static=True)
    burn_in: int = eqx.field(static=True, default=0)
    every: int = eqx.field(static=True, default=1)
    watches: ClassVar[Literal["iterations", "substeps"]] = "iterations"

    def __check_init__(self):
        check_callable("Occupation: label", self.label, _EXAMPLE)
        check_whole("Occupation: num_basins", self.num_basins)

    def check(self, process: Any, num_steps: int) -> None:
        check_schedule("Occupation", self.burn_in, self.every, num_steps)
        out = shape_at_theta("Occupation: label", self.label, process.landscape)
        if out.shape != () or not jnp.issubdtype(out.dtype, jnp.integer):
            raise ValueError(
                f"label(θ) must give one integer for θ of shape "
                f"({process.landscape.dimension},), such as (θ[0] > 0).astype(int); it gives shape "
                f"{out.shape} and dtype {out.dtype}."
            )

    def check_start(self, theta: Positions) -> None:
        labels = np.asarray(self._labels(theta))
        if labels.max() >= self.num_basins or labels.min() < -1:
            raise ValueError(
                f"label(θ) is between {labels.min()} and {labels.max()} at the starts; with "
                f"num_basins={self.num_basins} it must be -1 … {self.num_basins - 1}."
            )

    def _labels(self, theta: Positions) -> Array:
        return jax.vmap(lambda x: jnp.asarray(self.label(x), jnp.int32))(theta)

    def init(self, theta: Positions) -> OccupationCarry:
        members, m = theta.shape[0], self.num_basins
        last = self._labels(theta) if self.burn_in == 0 else jnp.full(members, -1, jnp.int32)
        zero = jnp.zeros
        return OccupationCarry(
            zero((members, m), jnp.int32),
            zero((members, m, m), jnp.int32),
            last,
            zero((members, m), jnp.int32),
            zero(members, jnp.int32),
            zero(members, jnp.int32),
        )

    def update(
        self, carry: OccupationCarry, before: Positions, after: Positions, tick: Tick, alive: Alive
    ) -> OccupationCarry:
        def add() -> OccupationCarry:
            found = self._labels(after)
            beyond = ((found >= self.num_basins) | (found < -1)) & alive
            stray = jnp.where(beyond, found, carry.stray)
            known = jnp.arange(self.num_basins, dtype=jnp.int32)[None]
            here = found[:, None] == known
            old = carry.last[:, None] == known
            other = ~jnp.eye(self.num_basins, dtype=bool)[None]
            moved = old[:, :, None] & here[:, None, :] & other
            last = jnp.where(found >= 0, found, carry.last)
            return OccupationCarry(
                carry.inside + here.astype(jnp.int32),
                carry.transitions + moved.astype(jnp.int32),
                last,
                carry.held + old.astype(jnp.int32),
                carry.count + 1,
                stray,
            )

        if self.burn_in == 0 and self.every == 1:
            return add()
        return lax.cond(due(tick.iteration, self.burn_in, self.every), add, lambda: carry)

    def finished(self, carry: OccupationCarry) -> None:
        return None

    def restart(self, carry: OccupationCarry, restarted: Alive) -> OccupationCarry:
        # Another life: its first basin is no transition from the last one of the old life.
        return eqx.tree_at(lambda c: c.last, carry, jnp.where(restarted, -1, carry.last))

    def result(self, carry: OccupationCarry, alive: np.ndarray, process: Any) -> OccupationResult:
        stray = np.asarray(carry.stray)[alive]
        if stray.any():
            # Counted as any other basin it would be a wrong number.
            raise ValueError(
                f"label(θ) was {stray[stray != 0][0]}, in {int((stray != 0).sum())} members, and "
                f"with num_basins={self.num_basins} it must be -1 … {self.num_basins - 1}: raise "
                f"num_basins, or let the label be -1 there."
            )
        inside = np.asarray(carry.inside)[alive]
        moves = np.asarray(carry.transitions)[alive]
        held = np.asarray(carry.held, dtype=float)[alive] * self.every
        last, count = np.asarray(carry.last)[alive], np.asarray(carry.count)[alive]
        members = np.flatnonzero(alive)
        return _summary(members, inside, moves, held, last, count, self.num_basins)


def _summary(members, inside, moves, held, last, count, m: int) -> OccupationResult:
    """All estimates from what each member counted."""
    num = len(last)
    shares = inside / np.maximum(count, 1)[:, None]
    selected = np.bincount(last[last >= 0], minlength=m)
    smooth = (selected + 0.5) / (num + 1)
    error = np.sqrt(smooth * (1 - smooth) / max(num, 1))
    selection = Estimate(selected / max(num, 1), error, num)
    return OccupationResult(
        Estimate.from_samples(shares),
        Estimate.from_samples(1 - inside.sum(axis=1) / np.maximum(count, 1)),
        selection,
        selected,
        int(num - selected.sum()),
        moves.sum(axis=0).astype(int),
        _rates(moves, held),
        last,
        int(count.max(initial=0)),
        members=members,
    )


def _rates(moves, held) -> Estimate:
    """Σ n_ij/Σ held_i over members, with the ratio estimator's error."""
    num, total = len(held), held.sum(axis=0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(total > 0, moves.sum(axis=0) / total, 0.0)
        spread = ((moves - rate * held[:, :, None]) ** 2).sum(axis=0)
        error = np.sqrt(num / max(num - 1, 1) * spread) / total
    # Without a transition: the error of one, as `FirstPassage` does.
    error = np.where(moves.sum(axis=0) == 0, 1 / np.maximum(total, 1e-300), error)
    return Estimate(rate, np.where((total > 0) & (num > 1), error, np.inf), num)
