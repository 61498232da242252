r"""Distances between two ensembles of independent members, with bootstrap errors.

A distance between samples is positive even when the laws are equal (Wasserstein: of order
n^{-1/2}), and the bootstrap of members adds the same sampling noise a second time. So near
equality the *mean* of the resamples is biased up and is not used, only their spread is; that
spread then overstates the true one (for the energy distance by about √3, exactly so when
the fluctuation of F − G is Gaussian). Whether two laws differ is for `permutation_test`,
or for `excess`, which subtracts the same distance to a second run of the same process.

Errors hold for independent members only. Under common random numbers use `paired_difference`.
"""

from typing import Literal, TypeAlias

import equinox as eqx
import numpy as np
from jaxtyping import Float

from sde_sgd._checks import check_choice, check_flag, check_list, check_whole
from sde_sgd.compare._resample import (
    as_ensembles,
    bootstrap_weights,
    Ensemble,
    generators,
    Key,
    MOST_RESAMPLES,
    pair_sums,
    random_directions,
    wasserstein_columns,
)
from sde_sgd.compare._text import text_table, with_error
from sde_sgd.estimate import Estimate

DistanceName: TypeAlias = Literal["wasserstein", "sliced", "energy"]
DISTANCES: tuple[DistanceName, ...] = ("wasserstein", "sliced", "energy")


def wasserstein_per_direction(
    x: Ensemble, y: Ensemble, *, key: Key, num_bootstrap: int = 200
) -> Estimate:
    """Wasserstein distance W₁ = ∫|F_x(t) − F_y(t)| dt of each coordinate, in its units.

    For n = m it is the mean of |x₍ᵢ₎ − y₍ᵢ₎| over the sorted members. It is biased up by
    O(n^{-1/2}) when the laws are equal: read it beside its floor (`excess`).

    Cost: one sort and `num_bootstrap`·(n + m) additions for each coordinate, about 10 ms at
    n = m = 4096 (25 s for d = 2410 on one core, 14 MB). At large d prefer
    `sliced_wasserstein`, or pass a few projections as coordinates.

    **Arguments:**

    - `x`, `y`: (n, d) and (m, d), independent members; n and m may differ.
    - `key`: a JAX key for the resampling of members.
    - `num_bootstrap`: resamples of both ensembles; the error has a relative error of
      (2·num_bootstrap)^{-1/2}.

    **Returns:** an `Estimate` of shape (d,), `num_samples` = min(n, m).

    **Raises:** `ValueError` for other shapes, different d, fewer than 2 members, NaN.
    """
    return _distance("wasserstein", x, y, key, num_bootstrap)


def sliced_wasserstein(
    x: Ensemble, y: Ensemble, *, key: Key, num_directions: int = 64, num_bootstrap: int = 200
) -> Estimate:
    """Sliced distance SW₁ = mean of W₁(u·x, u·y) over directions u uniform on the unit sphere.

    The error adds in squares the bootstrap of members and the spread over the drawn
    directions, √(var_u W₁/num_directions). The directions depend on `key` and d only. A shift
    s gives |s|·E|u₁|, which falls as √(2/(πd)).

    **Arguments:** as `wasserstein_per_direction`, and `num_directions` ≥ 2 directions.

    **Returns:** a scalar `Estimate`. **Raises:** `ValueError` as there.
    """
    return _distance("sliced", x, y, key, num_bootstrap, num_directions=num_directions)


def energy(
    x: Ensemble, y: Ensemble, *, key: Key, num_bootstrap: int = 200, unbiased: bool = True
) -> Estimate:
    """Energy distance 2E|X − Y| − E|X − X'| − E|Y − Y'| (squared form), Euclidean norm.

    Its unit is that of a coordinate; it vanishes only for equal laws. By default the
    U-statistic (pairs i ≠ j only): unbiased, hence negative half of the time when the laws
    are equal. `unbiased=False` is the V-statistic, the distance of the two empirical laws,
    ≥ 0, biased up by (E|X − X'|)/n + (E|Y − Y'|)/m; in one dimension it is
    `scipy.stats.energy_distance` squared (that function returns the root).

    Cost: O((n + m)² d) once, shared by all resamples, in blocks of 32 MB; no member is ever
    dropped. At n = m = 4096, about 1 s for d = 6 and 4 s for d = 2410. Above d = 64 distances
    come from a matrix product, exact to about 1e-8 of the spread.

    **Arguments:** as `wasserstein_per_direction`.

    **Returns:** a scalar `Estimate`. **Raises:** `ValueError` as there.

    **Source:** Székely and Rizzo, J. Stat. Plan. Inference 143 (2013) 1249, eqs. 1 and 5.
    """
    return _distance("energy", x, y, key, num_bootstrap, unbiased=unbiased)


def excess(
    x: Ensemble,
    y: Ensemble,
    reference: Ensemble,
    *,
    key: Key,
    distance: DistanceName = "energy",
    num_directions: int = 64,
    num_bootstrap: int = 200,
) -> Estimate:
    """Excess D(x, y) − D(x, reference) over the noise floor, with a joint bootstrap.

    `reference` is a second independent ensemble of the process of `x` (SGD′ beside SGD), so
    that D(x, reference) is the floor. Each resample of x is used in both terms. If y has the
    law of x the excess has mean zero exactly (y and reference are exchangeable), and its
    error is overstated as the module says: `compare(excess(...), 0.0)` then fails less often
    than its nominal rate.

    **Arguments:** `x` (n, d), `y` (m, d), `reference` (r, d); r = m unless the distance is
    the (unbiased) energy distance; `distance`: "wasserstein", "sliced" or "energy"; the
    others as `sliced_wasserstein`.

    **Returns:** an `Estimate`, (d,) for "wasserstein" and scalar otherwise.

    **Raises:** `ValueError` as `wasserstein_per_direction`, and if r ≠ m would give the two
    terms different floors.
    """
    return _row(distance, x, y, reference, key, num_bootstrap, num_directions).excess


def distance_change(
    x: Ensemble,
    coarse: Ensemble,
    fine: Ensemble,
    *,
    key: Key,
    distance: DistanceName = "energy",
    num_directions: int = 64,
    num_bootstrap: int = 200,
) -> Estimate:
    """Change D(x, coarse) − D(x, fine) between two versions of the same members.

    Member i of `coarse` and of `fine` share their random numbers (one equation at two solver
    steps, say), and a resample draws both or neither, so that the error is that of the change.
    The floors of the two distances are equal and drop out.

    **Arguments:** `x` (n, d); `coarse` and `fine`, both (m, d); the others as `excess`.

    **Returns:** an `Estimate` as `excess`. **Raises:** `ValueError` as there, and for versions of
    different sizes.
    """
    x, coarse, fine = as_ensembles(x=x, coarse=coarse, fine=fine)
    if len(coarse) != len(fine):
        raise ValueError(
            f"coarse and fine must be two versions of the same members; got {len(coarse)} and "
            f"{len(fine)} of them."
        )
    options = (key, num_bootstrap, num_directions)
    one, other = _resampled(distance, x, [coarse, fine], *options, paired=True)
    return _estimate(distance, one - other, min(len(x), len(coarse)))


class DistanceRow(eqx.Module):
    """One distance, its noise floor and the excess over it, from one joint bootstrap.

    **Fields:** `name`; `distance` = D(x, y), `floor` = D(x, reference) and
    `excess` = `distance` − `floor`, each an `Estimate`.
    """

    name: str
    distance: Estimate
    floor: Estimate
    excess: Estimate


class DistanceTable(eqx.Module):
    """Rows of `distances.table`; `table["energy"]` is one of them, `str(table)` is text."""

    rows: tuple[DistanceRow, ...]

    def __getitem__(self, name: str) -> DistanceRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"No distance {name!r}; there are {[row.name for row in self.rows]}.")

    def __str__(self) -> str:
        """One line for each distance; of a distance per coordinate, the largest excess."""
        header = ("distance", "between", "noise floor", "excess")
        return text_table(header, [_cells(row) for row in self.rows])


def table(
    x: Ensemble,
    y: Ensemble,
    reference: Ensemble,
    *,
    key: Key,
    distances: tuple[DistanceName, ...] = DISTANCES,
    num_directions: int = 64,
    num_bootstrap: int = 200,
) -> DistanceTable:
    """Distances between x and y beside the floor between x and `reference`, and the excess.

    Arguments, shapes and errors as `excess`; `distances` names the rows. Leave out
    "wasserstein" when d is large (see its cost).
    """
    names = check_list("distances", distances, '("energy",)')
    rows = [_row(name, x, y, reference, key, num_bootstrap, num_directions) for name in names]
    return DistanceTable(tuple(rows))


def _cells(row: DistanceRow) -> list[str]:
    index = np.unravel_index(np.argmax(row.excess.value), row.excess.value.shape)
    label = ", ".join(str(int(i)) for i in index)
    return [
        f"{row.name}[{label}]" if index else row.name,
        *(
            with_error(float(estimate.value[index]), float(estimate.standard_error[index]))
            for estimate in (row.distance, row.floor, row.excess)
        ),
    ]


def _distance(
    name: DistanceName,
    x: Ensemble,
    y: Ensemble,
    key: Key,
    num_bootstrap: int,
    *,
    num_directions: int = 64,
    unbiased: bool = True,
) -> Estimate:
    x, y = as_ensembles(x=x, y=y)
    options = (key, num_bootstrap, num_directions)
    unbiased = check_flag("unbiased", unbiased)
    (replicates,) = _resampled(name, x, [y], *options, unbiased=unbiased)
    return _estimate(name, replicates, min(len(x), len(y)))


def _row(
    name: DistanceName,
    x: Ensemble,
    y: Ensemble,
    reference: Ensemble,
    key: Key,
    num_bootstrap: int,
    num_directions: int,
) -> DistanceRow:
    x, y, reference = as_ensembles(x=x, y=y, reference=reference)
    name = check_choice("distance", name, DISTANCES)
    if name != "energy" and len(y) != len(reference):
        raise ValueError(
            f"The floor of a Wasserstein distance depends on the ensemble size: y has {len(y)} "
            f"members and reference {len(reference)}. Use equal sizes, or distance='energy'."
        )
    options = (key, num_bootstrap, num_directions)
    between, floor = _resampled(name, x, [y, reference], *options)
    members = min(len(x), len(y), len(reference))
    terms = (between, floor, between - floor)
    return DistanceRow(name, *(_estimate(name, term, members) for term in terms))


def _resampled(
    name: DistanceName,
    x: Float[np.ndarray, "n d"],
    others: list[Float[np.ndarray, "_ d"]],
    key: Key,
    num_bootstrap: int,
    num_directions: int,
    *,
    paired: bool = False,
    unbiased: bool = True,
) -> list[Float[np.ndarray, "replicates ..."]]:
    """The distance from x to each of the others, for each joint resample of all of them.

    `paired`: member i of all the others is one member, which a resample draws or leaves out.
    """
    num_bootstrap = check_whole("num_bootstrap", num_bootstrap, 2, MOST_RESAMPLES)
    (x, *others), for_members = _projected(name, key, num_directions, x, *others)
    weights_x = bootstrap_weights(for_members, len(x), num_bootstrap)
    drawn = others[:1] if paired else others
    weights = [bootstrap_weights(for_members, len(rows), num_bootstrap) for rows in drawn]
    weights = weights * len(others) if paired else weights
    # x in itself is a term of every energy distance from x.
    within = pair_sums(x, weights_x, x, weights_x) if name == "energy" else None
    return [
        _replicates(name, x, weights_x, y, own, unbiased, within)
        for y, own in zip(others, weights, strict=True)
    ]


def _projected(
    name: DistanceName, key: Key, num_directions: int, *ensembles: Float[np.ndarray, "_ d"]
) -> tuple[list[Float[np.ndarray, "_ columns"]], np.random.Generator]:
    """The ensembles, on random directions for the sliced distance, and a generator for members."""
    name = check_choice("distance", name, DISTANCES)
    for_directions, for_members = generators(key, 2)
    if name != "sliced":
        return list(ensembles), for_members
    num_directions = check_whole("num_directions", num_directions, 2, MOST_RESAMPLES)
    directions = random_directions(for_directions, ensembles[0].shape[1], num_directions)
    return [rows @ directions for rows in ensembles], for_members


def _replicates(
    name: DistanceName,
    x: Float[np.ndarray, "n d"],
    weights_x: Float[np.ndarray, "replicates n"],
    y: Float[np.ndarray, "m d"],
    weights_y: Float[np.ndarray, "replicates m"],
    unbiased: bool = True,
    within_x: Float[np.ndarray, " replicates"] | None = None,
) -> Float[np.ndarray, "replicates ..."]:
    """The distance for each row of weights; row 0 is that of the sample itself.

    `within_x`: the sum over pairs of x, where it is known.
    """
    if name != "energy":
        signed = np.concatenate([weights_x, -weights_y], axis=1)
        return wasserstein_columns(np.concatenate([x, y]), signed)
    between = pair_sums(x, weights_x, y, weights_y)
    if within_x is None:
        within_x = pair_sums(x, weights_x, x, weights_x)
    within_y = pair_sums(y, weights_y, y, weights_y)
    if unbiased:
        within_x = within_x * (len(x) / (len(x) - 1))
        within_y = within_y * (len(y) / (len(y) - 1))
    return 2 * between - within_x - within_y


def _estimate(
    name: DistanceName, replicates: Float[np.ndarray, "replicates ..."], members: int
) -> Estimate:
    variance_over_directions = 0.0
    if name == "sliced":
        variance_over_directions = replicates[0].var(ddof=1) / replicates.shape[1]
        replicates = replicates.mean(axis=1)
    variance = replicates[1:].var(axis=0, ddof=1) + variance_over_directions
    return Estimate(replicates[0], np.sqrt(variance), members)
