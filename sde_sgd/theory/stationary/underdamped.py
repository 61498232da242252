"""The second-order (underdamped) SDE of heavy-ball momentum, linear dynamics, constant noise.

For m ← μm + ĝ, θ ← θ − ηPm and t = η·iterations, V = −Pm is the velocity dθ/dt, and

    dθ = V dt ,   dV = −[(1 − μ)/η] V dt − (1/η) P∇L dt + η^{−1/2} P C^{1/2} dW .

Its overdamped limit is the first-order SDE at the rate η/(1 − μ). The covariance of the discrete
chain is that of `momentum_covariance`; the two differ at relative order η.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import block_diag, solve_continuous_lyapunov

from sde_sgd._checks import check_flag, check_number
from sde_sgd.theory import _arguments
from sde_sgd.types import RealLike


def underdamped_covariance(
    hessian: ArrayLike,
    gradient_noise: ArrayLike,
    *,
    learning_rate: RealLike,
    momentum: RealLike,
    preconditioner: ArrayLike | None = None,
    joint: bool = False,
) -> Float[np.ndarray, "n n"]:
    """Stationary covariance of θ under the underdamped SDE: A S + S Aᵀ + Q = 0.

    A = [[0, 1], [−PH/η, −(1−μ)/η]] and Q = diag(0, PCP/η) for the joint covariance S of (θ, V). In
    one dimension, ηPC/(2h(1−μ)), the overdamped value; in more it is not the overdamped matrix
    unless PH and PCP commute.

    **Arguments:**

    - `hessian`: H, (d, d), symmetric positive definite.
    - `gradient_noise`: C = c Σ, (d, d), of one iteration's gradient.
    - `learning_rate`: η; `momentum`: μ in [0, 1).
    - `preconditioner`: P, (d, d), symmetric positive definite; the identity if None.
    - `joint`: the (2d, 2d) covariance of (θ, V) instead, V per unit t.

    **Raises:** `ValueError` for shapes, numbers, and matrices that are not as said. Every η is
    stable: a flow does not overshoot.

    **Source:** theory of heavy ball as in Li, Tai, E 2019 (for x ← x + ηv, another form).
    """
    hess = _arguments.symmetric("hessian", hessian)
    dim = len(hess)
    check_flag("joint", joint)
    noise = _arguments.covariance("gradient_noise", gradient_noise, dim)
    eta = check_number("learning_rate", learning_rate, above=0)
    mu = _arguments.momentum(momentum)
    _arguments.positive_eigenvalues("hessian", hess)
    scale = np.eye(dim)
    if preconditioner is not None:
        scale = _arguments.symmetric("preconditioner", preconditioner, dim)
    _arguments.positive_eigenvalues("preconditioner", scale)
    eye, zero, force = np.eye(dim), np.zeros((dim, dim)), scale @ hess
    drift = np.block([[zero, eye], [-force / eta, -(1 - mu) / eta * eye]])
    push = block_diag(zero, scale @ noise @ scale / eta)
    found = solve_continuous_lyapunov(drift, -push)
    both = (found + found.T) / 2
    return both if joint else both[:dim, :dim]
