"""Array, key and shape aliases: the one place where shapes are spelled.

Every position is a flat vector θ ∈ R^d (`Vector`); an ensemble of them has the
members first (`Positions`). Everything real is floating in the dtype of θ.
"""

from typing import TYPE_CHECKING, TypeAlias

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

if TYPE_CHECKING:
    import matplotlib.figure

Vector: TypeAlias = Float[Array, " d"]
Matrix: TypeAlias = Float[Array, "d d"]
Scalar: TypeAlias = Float[Array, ""]
Positions: TypeAlias = Float[Array, "members d"]
Weights: TypeAlias = Float[Array, " num_examples"]
Indices: TypeAlias = Int[Array, " batch"]
Alive: TypeAlias = Bool[Array, " members"]
Identity: TypeAlias = UInt32[Array, "..."]
Iteration: TypeAlias = Int[Array, ""] | UInt32[Array, "..."]
Key: TypeAlias = PRNGKeyArray
# Named and not imported: matplotlib comes in with the first figure.
Figure: TypeAlias = "matplotlib.figure.Figure"
RealLike: TypeAlias = float | int | Float[Array, ""]
