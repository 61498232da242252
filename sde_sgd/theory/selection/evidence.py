"""Bayesian evidence of a model against the null that knows nothing: Laplace and quadrature.

With N examples, summed cost C(ω) = Σ_i ℓ_i(ω) + ½ ωᵀΛω and n classes,

    E = −ln ∫ e^{−C(ω)} √det(Λ/2π) dω − N ln n ,

the log-evidence ratio of Smith & Le with their sign: E < 0 favours the model.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve, cholesky

from sde_sgd._checks import as_float64, check_number, check_whole, in_brief
from sde_sgd.landscapes import compiled
from sde_sgd.landscapes.base import AbstractFiniteSum, AbstractLandscape
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike

_MOST_NEWTON_STEPS = 200
_REACH = 12.0
_MOST_NODES = 2**12


class Evidence(NamedTuple):
    """ln (null's evidence / model's evidence), and what it is made of.

    **Fields:**

    - `value`: E; negative where the model is favoured.
    - `cost`: C(ω₀) at the mode; `occam`: ½ ln(det H/det Λ) (Laplace), else the rest of E.
    - `null`: N ln n.
    - `mode`: ω₀ (d,); `hessian`: ∇²C(ω₀) = H, the prior's Λ included, (d, d).
    """

    value: float
    cost: float
    occam: float
    null: float
    mode: Float[np.ndarray, " d"]
    hessian: Float[np.ndarray, "d d"]


def laplace_evidence(
    landscape: AbstractLandscape,
    *,
    prior: RealLike | ArrayLike,
    num_classes: int,
    start: ArrayLike | None = None,
) -> Evidence:
    """E ≈ C(ω₀) + ½ ln(det H/det Λ) − N ln n: Gaussian around the mode ω₀ of e^{−C}.

    For Λ = λI the middle term is ½ Σ ln(h_i/λ), h_i the eigenvalues of H, which includes λ.
    Under a linear map ω = Aφ of the parameters, the prior being mapped too (Λ → AᵀΛA), E does not
    change, though the sharpness h_max does; Laplace's value is not invariant under
    nonlinear maps (the evidence itself is).

    **Arguments:**

    - `landscape`: a finite sum of negative log-likelihoods ℓ_i; its own `l2` must be 0.
    - `prior`: Λ, the precision of a centred Gaussian prior: λ > 0, (d,) or (d, d).
    - `num_classes`: n of the null that gives every example the probability 1/n.
    - `start`: (d,), where the search for the mode begins; 0 if not given.

    **Raises:** `ValueError` for a prior that is not positive definite (λ = 0: a flat direction
    has no evidence), a landscape with l2 > 0 or of another number of classes, a mode that is
    not found.

    **Source:** Smith & Le 2017 (1710.06451), eqs 3–7; MacKay 1992.
    """
    problem = _Problem(landscape, prior, num_classes)
    mode, hessian = problem.mode(start)
    root = cholesky(hessian, lower=True)
    occam = float(np.log(np.diag(root)).sum()) - problem.log_det_prior / 2
    cost = problem.cost(mode)
    return Evidence(cost + occam - problem.null, cost, occam, problem.null, mode, hessian)


def evidence_by_quadrature(
    landscape: AbstractLandscape,
    *,
    prior: RealLike | ArrayLike,
    num_classes: int,
    start: ArrayLike | None = None,
    tolerance: RealLike = 1e-10,
) -> Evidence:
    """E by the trapezoidal rule in one or two parameters, halved until it moves < `tolerance`.

    The rule runs in the coordinates that make H the identity, over a box that is doubled until
    what lies outside no longer matters; it converges faster than any power of the spacing.
    `tolerance` is not below ten times the rounding of C (1e-10 is out of reach in float32).
    Arguments otherwise as `laplace_evidence`. `occam` is E + N ln n − C(ω₀).

    **Raises:** `ValueError` for more than two parameters, a prior that is not positive definite,
    an integral that does not converge.
    """
    problem = _Problem(landscape, prior, num_classes)
    if landscape.dimension > 2:
        raise ValueError(
            f"evidence_by_quadrature integrates over 1 or 2 parameters; the landscape has "
            f"d={landscape.dimension}. Use laplace_evidence."
        )
    accuracy = check_number("tolerance", tolerance, above=0, below=1)
    mode, hessian = problem.mode(start)
    inverse_root = np.linalg.inv(cholesky(hessian, lower=True).T)
    cost = problem.cost(mode)
    beside = mode + np.concatenate([inverse_root.T, -inverse_root.T])
    unsure = problem.landscape.num_examples * compiled.loss_rounding(landscape, beside)
    accuracy = max(accuracy, 10 * unsure)
    log_volume = float(np.linalg.slogdet(inverse_root)[1])
    constant = log_volume + problem.log_det_prior / 2 - len(mode) / 2 * np.log(2 * np.pi)

    def integral(reach: float, count: int) -> float:
        axis = np.linspace(-reach, reach, count + 1)
        nodes = np.stack(np.meshgrid(*[axis] * len(mode), indexing="ij"), -1)
        nodes = nodes.reshape(-1, len(mode))
        values = np.exp(cost - problem.costs(mode + nodes @ inverse_root.T))
        return float(values.sum() * (axis[1] - axis[0]) ** len(mode))

    reach, count = _REACH, 64
    before = integral(reach, count)
    while True:
        count *= 2
        now = integral(reach, count)
        wider = integral(2 * reach, 2 * count)
        if abs(wider - now) > accuracy * wider:
            reach *= 2
        elif abs(now - before) <= accuracy * now:
            occam = -(np.log(now) + constant)
            value = cost + occam - problem.null
            return Evidence(float(value), cost, float(occam), problem.null, mode, hessian)
        before = integral(reach, count)
        if count > _MOST_NODES // (4 if len(mode) == 2 else 1):
            raise ValueError(
                f"The integral of e^-C still moves by {abs(now - before) / now:.2g} at {count} "
                f"nodes an axis: raise tolerance, or look at the landscape for separate modes."
            )


class _Problem:
    """C(ω), its derivatives, and what the prior and the null contribute."""

    def __init__(self, landscape: AbstractLandscape, prior: Any, num_classes: int):
        if not isinstance(landscape, AbstractFiniteSum):
            raise ValueError(
                f"landscape must be a finite sum, the likelihood of N examples; got "
                f"{in_brief(landscape)}."
            )
        own = float(getattr(landscape, "l2", 0.0))
        if own != 0:
            raise ValueError(
                f"The landscape has l2={own:g}, which would count the prior twice: make it with "
                f"l2=0 and give prior={own * landscape.num_examples:g} (l2 times N)."
            )
        num_classes = check_whole("num_classes", num_classes, 2, 10**9)
        known = getattr(landscape, "num_classes", num_classes)
        if known != num_classes:
            raise ValueError(
                f"The landscape tells {known} classes apart and the null num_classes="
                f"{num_classes}: give num_classes={known}."
            )
        self.landscape = landscape
        self.prior = _precision(prior, landscape.dimension)
        self.log_det_prior = float(np.linalg.slogdet(self.prior)[1])
        self.null = float(landscape.num_examples * np.log(num_classes))

    def cost(self, omega: np.ndarray) -> float:
        return float(self.costs(omega[None])[0])

    def costs(self, omega: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        theta = jnp.asarray(omega, self.landscape.dtype)
        losses = np.asarray(compiled.losses(self.landscape, theta), np.float64)
        penalty = np.einsum("ni,ij,nj->n", omega, self.prior, omega) / 2
        return self.landscape.num_examples * losses + penalty

    def mode(self, start: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
        """ω₀ and ∇²C there, by Newton's method, steps halved, with |H| where H is indefinite."""
        size, num = self.landscape.dimension, self.landscape.num_examples
        omega = np.zeros(size) if start is None else _arguments.vector("start", start, size)
        now, precision = self.cost(omega), float(jnp.finfo(self.landscape.dtype).eps)
        for _ in range(_MOST_NEWTON_STEPS):
            theta = jnp.asarray(omega, self.landscape.dtype)
            slope, curvature = _DERIVATIVES(self.landscape, theta)
            gradient = num * np.asarray(slope, np.float64) + self.prior @ omega
            hessian = num * np.asarray(curvature, np.float64) + self.prior
            hessian = (hessian + hessian.T) / 2
            root, ridged = _cholesky(hessian)
            move = cho_solve((root, True), gradient)
            decrement = float(gradient @ move)
            if not ridged and decrement <= 1e3 * precision**1.5 * max(1.0, abs(now)):
                return omega, hessian
            share = 1.0
            while share > 1e-10 and not self.cost(omega - share * move) < now:
                share /= 2
            if share <= 1e-10:
                # No descent beyond rounding: a mode if the decrement says so, else none.
                if not ridged and decrement <= 1e3 * precision * max(1.0, abs(now)):
                    return omega, hessian
                break
            omega = omega - share * move
            now = self.cost(omega)
        raise ValueError(
            f"No mode of e^-C found from start={'0' if start is None else start}: Newton's method "
            f"stalls at cost {now:.6g}. Start nearer to a minimum of the regularised cost."
        )


_DERIVATIVES = eqx.filter_jit(
    lambda landscape, theta: (landscape.gradient(theta), landscape.hessian(theta))
)


def _cholesky(hessian: np.ndarray) -> tuple[np.ndarray, bool]:
    """A root of H, or of |H| with its small eigenvalues raised where H is indefinite."""
    try:
        return cholesky(hessian, lower=True), False
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(hessian)
        size = np.maximum(np.abs(values), 1e-3 * np.abs(values).max())
        return cholesky((vectors * size) @ vectors.T, lower=True), True


def _precision(prior: Any, size: int) -> np.ndarray:
    """Λ (d, d) from a number, a diagonal or a matrix; positive definite."""
    value = as_float64("prior", prior)
    matrix = (
        value * np.eye(size) if value.ndim == 0 else np.diag(value) if value.ndim == 1 else value
    )
    matrix = _arguments.symmetric("prior", matrix, size)
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if not smallest > 0:
        raise ValueError(
            f"prior must be positive definite, its smallest eigenvalue is {smallest:g}: a flat "
            f"direction (λ = 0) has no evidence, its Occam factor is infinite. Give λ > 0."
        )
    return matrix
