"""Checked ensembles, resampling weights, and the two kernels that every distance is made of.

A resample is a row of member weights, so that K resamples of one ensemble cost one sort
(Wasserstein) or one pass over the pairwise distances (energy), never K.
"""

from typing import TypeAlias

import jax
import jaxtyping
import numpy as np
import scipy
from jaxtyping import Float, Num, UInt32

from sde_sgd._checks import as_float64, check_key

# (members, d); left open here because `as_ensemble` names the fault and the way out.
Ensemble: TypeAlias = Num[np.ndarray | jax.Array, "..."]
# One key; the shape is open for the same reason (`generators` names it).
Key: TypeAlias = jaxtyping.Key[jax.Array, "..."] | UInt32[np.ndarray | jax.Array, "..."]

# Of bootstraps, relabellings and directions: for p-values of 1e-6, and hours of work.
MOST_RESAMPLES = 10_000_000
_BLOCK_ENTRIES = 4_000_000  # of a pairwise distance block: 32 MB in float64
_DIRECT_DIMENSION = 64  # above it, distances come from a matrix product (15 times faster)


def as_ensemble(ensemble: Ensemble, name: str) -> Float[np.ndarray, "members d"]:
    """The ensemble in float64, or `ValueError` naming what is wrong with it."""
    rows = as_float64(name, ensemble)
    if rows.ndim != 2:
        raise ValueError(
            f"{name} must have shape (members, d); got {rows.shape}. For a scalar observable "
            f"pass {name}[:, None]; for a trajectory pick one iteration."
        )
    if rows.shape[0] < 2 or rows.shape[1] < 1:
        raise ValueError(
            f"{name} has shape {rows.shape}; a distance with an error needs at least 2 "
            "independent members of at least 1 coordinate. Raise ensemble_size."
        )
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        member = int(np.argmax(bad))
        raise ValueError(
            f"{name} has {int(bad.sum())} members with NaN or infinite entries, the first is "
            f"member {member}: {rows[member]}. Find why they diverged; drop them only if the "
            "comparison is meant to condition on survival."
        )
    return rows


def as_ensembles(**ensembles: Ensemble) -> list[Float[np.ndarray, "members d"]]:
    """All ensembles checked, of one dimension d."""
    checked = [as_ensemble(value, name) for name, value in ensembles.items()]
    if len({rows.shape[1] for rows in checked}) > 1:
        shapes = ", ".join(
            f"{name} {rows.shape}" for name, rows in zip(ensembles, checked, strict=True)
        )
        raise ValueError(
            f"Ensembles must have one number of coordinates d; got {shapes}. "
            "Map both through the same observable first."
        )
    return checked


def generators(key: Key, count: int) -> list[np.random.Generator]:
    """Independent NumPy generators, a function of the JAX key alone."""
    words = np.asarray(jax.random.key_data(check_key(key)))
    return np.random.default_rng(np.random.SeedSequence(words.tolist())).spawn(count)


def bootstrap_weights(
    rng: np.random.Generator, members: int, num_bootstrap: int
) -> Float[np.ndarray, "replicates members"]:
    """Weights summing to one: row 0 the sample itself, then resamples of n − 1 of its n members.

    Means of n − 1 spread by Σ(x − x̄)²/(n(n − 1)), the squared error of x̄; those of n by
    Σ(x − x̄)²/n², too little (Rao, Wu, J. Am. Stat. Assoc. 83 (1988) 231).
    """
    drawn = members - 1
    counts = rng.multinomial(drawn, np.full(members, 1 / members), size=num_bootstrap)
    return np.concatenate([np.full((1, members), 1 / members), counts / drawn])


def random_directions(
    rng: np.random.Generator, dimension: int, num_directions: int
) -> Float[np.ndarray, "d num_directions"]:
    """Columns uniform on the unit sphere of R^d."""
    normals = rng.standard_normal((dimension, num_directions))
    return normals / np.linalg.norm(normals, axis=0)


def wasserstein_columns(
    points: Float[np.ndarray, "members columns"], signed: Float[np.ndarray, "replicates members"]
) -> Float[np.ndarray, "replicates columns"]:
    """W₁ = ∫|F − G| in each column; a row of `signed` holds the jumps of F − G at the points."""
    distances = np.empty((len(signed), points.shape[1]))
    for column, values in enumerate(points.T):
        order = np.argsort(values)
        heights = np.take(signed, order, axis=1)
        np.cumsum(heights, axis=1, out=heights)
        np.abs(heights, out=heights)
        distances[:, column] = heights[:, :-1] @ np.diff(values[order])
    return distances


def pair_sums(
    a: Float[np.ndarray, "n d"],
    weights_a: Float[np.ndarray, "replicates n"],
    b: Float[np.ndarray, "m d"],
    weights_b: Float[np.ndarray, "replicates m"],
) -> Float[np.ndarray, " replicates"]:
    """Σ_ij u_i v_j |a_i − b_j| for each pair of weight rows (u, v), in blocks of rows of a."""
    sums = np.zeros(len(weights_a))
    rows = max(1, _BLOCK_ENTRIES // len(b))
    columns = np.ascontiguousarray(weights_b.T)
    centre = b.mean(axis=0)  # a matrix product loses digits to a common offset
    for start in range(0, len(a), rows):
        block = slice(start, start + rows)
        if a.shape[1] <= _DIRECT_DIMENSION:
            distances = scipy.spatial.distance.cdist(a[block], b)
        else:
            distances = _product_distances(a[block] - centre, b - centre)
            if a is b:
                np.fill_diagonal(distances[:, start:], 0.0)
        sums += np.einsum("ki,ik->k", weights_a[:, block], distances @ columns)
    return sums


def _product_distances(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """|a_i − b_j| from |a|² + |b|² − 2a·b: absolute error below about 1e-8 times the spread."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
