"""Dyson Brownian motion: what noise on a symmetric matrix does to its eigenvalues.

A symmetric matrix with dW = K(W) dt + dN, where the noise N has off-diagonal entries of variance
g² and diagonal ones of 2g² per unit time and K shares the eigenvectors of W, has levels

    dx_i = K(x_i) dt + Σ_{j≠i} g²/(x_i − x_j) dt + √2 g dB_i .

Its stationary law is a Coulomb gas, p ∝ Π_{i<j} |x_i − x_j| exp(−Σ V(x_i)/g²) with K = −V′.
Stochastic gradients of learning rate η and batch size B make g² ∝ η/B per unit of t = ηk.

Source: Dyson 1962; Aarts, Lucini, Park 2024 (2407.16427).
"""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Float
from scipy import special

from sde_sgd._checks import check_at_least, check_number, in_brief
from sde_sgd.theory import _arguments, _fields
from sde_sgd.theory.matrices.spectra import rice_mean, Values
from sde_sgd.types import RealLike


def dyson_drift(
    levels: Values, *, strength: RealLike, force: Callable | None = None
) -> Float[np.ndarray, "... n"]:
    """K(x_i) + Σ_{j≠i} g²/(x_i − x_j) for levels (..., n), per unit of t.

    **Arguments:** `strength` g² ≥ 0; `force` K, a function of an array of levels, 0 by default.

    **Raises:** `ValueError` for fewer than two levels, and for two equal ones, where the
    repulsion is infinite.
    """
    x = _arguments.finite("levels", levels)
    g2 = check_at_least("strength", strength)
    if x.ndim < 1 or x.shape[-1] < 2:
        raise ValueError(f"levels must hold at least two levels, (..., n); got shape {x.shape}.")
    difference = x[..., :, None] - x[..., None, :]
    other = ~np.eye(x.shape[-1], dtype=bool)
    if (difference[..., other] == 0).any():
        raise ValueError("dyson_drift: two levels are equal, and their repulsion is infinite.")
    repulsion = np.where(other, g2 / np.where(other, difference, 1.0), 0.0).sum(axis=-1)
    if force is None:
        return np.asarray(repulsion)
    return np.asarray(repulsion + _fields.of_points("force", force)(x.ravel()).reshape(x.shape))


def coulomb_gas_log_density(
    levels: Values, *, strength: RealLike, potential: Callable
) -> Float[np.ndarray, "..."]:
    """Σ_{i<j} ln|x_i − x_j| − Σ V(x_i)/g² of levels (..., n), up to a constant.

    **Arguments:** `strength` g² > 0; `potential` V, a function of an array of levels.
    """
    x = _arguments.finite("levels", levels)
    g2 = check_number("strength", strength, above=0)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"levels must be (..., n), n >= 1; got shape {x.shape}.")
    row, column = np.triu_indices(x.shape[-1], 1)
    with np.errstate(divide="ignore"):
        repulsion = np.log(np.abs(x[..., row] - x[..., column])).sum(axis=-1)
    energy = _fields.of_points("potential", potential)(x.ravel()).reshape(x.shape)
    return np.asarray(repulsion - energy.sum(axis=-1) / g2)


class InjectedNoiseLevels(eqx.Module):
    """Levels of a symmetric 2×2 W trained towards λI under injected symmetric Gaussian noise.

    The loss is ½|W − λI|², a gradient carries the mean of B symmetric Gaussian matrices whose
    off-diagonal entry has the variance ν² and whose diagonal ones have 2ν². At solver step h
    (h = η: SGD; 0: the SDE) W stays Gaussian, with W₁₂ of variance exactly

        u = η ν² / (B (2 − h)) ,

    2u on the diagonal. Hence the gap s of the two levels of W has *exactly* Wigner's law, with

        ⟨s⟩ = √(2πu) = √π √(ην²/B) / √(1 − h/2) ,      ⟨s²⟩ = 8u ,

    and that of X = WᵀW, s_X = s|tr W| with tr W ~ N(2λ, 4u) independent of s, is known too: its
    mean is ⟨s⟩·E|tr W| ≈ 2λ⟨s⟩.

    **Arguments:** `learning_rate` η, `batch_size` B, `noise` ν > 0; `level` λ; `time_step` h,
    0 ≤ h ≤ η, None for SGD.

    **Raises:** `ValueError` for numbers out of range, h ≥ 2 (no stationary law), h that does not
    divide η.
    """

    learning_rate: float
    batch_size: float
    noise: float
    level: float
    time_step: float

    def __init__(
        self,
        *,
        learning_rate: RealLike,
        batch_size: RealLike,
        noise: RealLike,
        level: RealLike = 0.0,
        time_step: RealLike | None = None,
    ):
        self.learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.batch_size = check_at_least("batch_size", batch_size, 1)
        self.noise = check_number("noise", noise, above=0)
        self.level = check_number("level", level)
        step = self.learning_rate if time_step is None else time_step
        self.time_step = check_at_least("time_step", step)
        if self.time_step >= 2:
            raise ValueError(
                f"No stationary law at time_step={self.time_step:g}: the curvature is 1, so take "
                f"less than 2."
            )
        if self.time_step:
            _arguments.whole_steps(np.array([self.learning_rate]), self.time_step)

    @property
    def strength(self) -> float:
        """g² = ην²/B, the repulsion of the levels of W per unit of t."""
        return self.learning_rate * self.noise**2 / self.batch_size

    @property
    def variance(self) -> float:
        """u, the stationary variance of W₁₂."""
        return self.strength / (2 - self.time_step)

    @property
    def mean_spacing(self) -> float:
        """⟨s⟩ of W."""
        return float(np.sqrt(2 * np.pi * self.variance))

    @property
    def gram_mean_spacing(self) -> float:
        """⟨s⟩ of WᵀW, ⟨s_W⟩ E|tr W|, a folded normal."""
        mean, deviation = 2 * self.level, 2 * np.sqrt(self.variance)
        z = mean / deviation
        folded = deviation * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + mean * special.erf(
            z / np.sqrt(2)
        )
        return float(self.mean_spacing * folded)

    @property
    def gram_mean_square_spacing(self) -> float:
        """⟨s²⟩ of WᵀW, 8u (4λ² + 4u)."""
        u = self.variance
        return 8 * u * (4 * self.level**2 + 4 * u)

    def spacing_density(self, spacing: Values) -> Float[np.ndarray, "..."]:
        """p(s) = s/(4u) e^{−s²/(8u)} of W."""
        s = np.maximum(_arguments.finite("spacing", spacing), 0.0)
        return np.asarray(s / (4 * self.variance) * np.exp(-(s**2) / (8 * self.variance)))

    def gap_transition(
        self, spacing: Values
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Mean and variance of the gap of W one iteration after it was s, exactly.

        The vector (W₁₁ − W₂₂, 2W₁₂) shrinks by a and gets Gaussian noise, so that its length has
        Rice's law. As η → 0 the change per unit of t becomes Dyson's −s + 2g²/s, its variance 4g².
        """
        s = _arguments.finite("spacing", spacing)
        if (s < 0).any():
            raise ValueError(f"spacing must be >= 0, the smallest is {s.min():g}.")
        h = self.time_step
        shrink = (1 - h) ** round(self.learning_rate / h) if h else np.exp(-self.learning_rate)
        spread = 4 * self.variance * (1 - shrink**2)
        mean = rice_mean(shrink * s, np.sqrt(spread))
        return mean, np.asarray((shrink * s) ** 2 + 2 * spread - mean**2)

    def increments(self, edges: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean s, E[Δs] and E[Δs²] of an iteration that starts with s in each bin, (bins,).

        Averages over the stationary law within [e_j, e_{j+1}), by quadrature.
        """
        edge = _arguments.finite("edges", edges)
        if edge.ndim != 1 or edge.size < 2 or not (np.diff(edge) > 0).all() or edge[0] < 0:
            raise ValueError(f"edges must increase from 0 or above; got {in_brief(edge)}.")
        nodes, weights = np.polynomial.legendre.leggauss(40)
        half = np.diff(edge)[:, None] / 2
        s = edge[:-1, None] + half * (nodes + 1)
        share = weights * self.spacing_density(s)
        share = share / share.sum(axis=1, keepdims=True)
        mean, variance = self.gap_transition(s)
        change = mean - s
        return (
            (share * s).sum(axis=1),
            (share * change).sum(axis=1),
            (share * (variance + change**2)).sum(axis=1),
        )


def boltzmann_machine_spacing(
    kernel_level: Values,
    *,
    mass: RealLike,
    learning_rate: RealLike,
    batch_size: RealLike,
    time_step: RealLike | None = None,
) -> Float[np.ndarray, "..."]:
    """Mean gap of a twofold level of WWᵀ of the Gaussian RBM, to leading order in η/B.

    A twofold level κ of the data's kernel has the learnt level x = μ² − κ of X = WWᵀ, the rate of
    return Ω = 2x/κ² and, per step, noise 2ηx(Ĉ − C) with Cov C entries κ⁻²/B off the diagonal and
    twice that on it. Linearised, X₁₂ has the variance

        u = η x / (B (1 − h x/κ²))

    and the gap the mean √(2πu): κ cancels but for x = μ² − κ and the finite step,
    ⟨s⟩ = √(2π) √(η(μ² − κ)/B) (1 − h x/κ²)^{−1/2}.

    **Arguments:** `kernel_level` κ, of any shape; `mass` μ; η; B; `time_step` h, None for SGD.

    **Raises:** `ValueError` for κ ≤ 0, for κ ≥ μ² (that mode is not learnt, its level stays 0),
    and for a step beyond stability.

    **Source:** the scaling is Aarts, Lucini, Park 2024 (2407.16427); the prefactor by the algebra
    above.
    """
    kappa = _arguments.finite("kernel_level", kernel_level)
    mu = check_number("mass", mass, above=0, below=1e150)  # its square is a number
    eta = check_number("learning_rate", learning_rate, above=0)
    batch = check_at_least("batch_size", batch_size, 1)
    h = eta if time_step is None else check_at_least("time_step", time_step)
    if (kappa <= 0).any() or (kappa >= mu**2).any():
        raise ValueError(
            f"kernel_level must lie between 0 and mass² = {mu**2:g}, got "
            f"{in_brief(kappa)}: a mode of "
            f"κ ≥ μ² is not learnt, its level of WWᵀ stays at 0."
        )
    level = mu**2 - kappa
    if (h * level >= kappa**2).any():
        raise ValueError(f"time_step={h:g} is beyond the stability of this machine.")
    return np.asarray(np.sqrt(2 * np.pi * eta * level / (batch * (1 - h * level / kappa**2))))
