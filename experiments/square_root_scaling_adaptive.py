"""Adaptive methods keep their law under the square-root rule, on the clock t = η²k.

Equal examples, ℓ = ½hx² + σzx with z ~ N(0, 1): the batch gradient is Gaussian, of variance
C = σ²/B. The SDEs in iterations s, v ≈ C where noise dominates,

    RMSprop  dx = −η v^{−1/2} (hx ds + C^{1/2} dW),
    Adam     dx = −η v^{−1/2} m ds,   dm = (1−β₁)[(hx − m) ds + C^{1/2} dW],

keep their law when B → κB, η → √κ η, 1−β → κ(1−β), ε → ε/√κ, with κ times fewer iterations. For
SignSGD with B = 1, M = Var x solves m/√(1+m) = (ηh/2σ)√(π/2), M = mσ²/h², for a Gaussian law of x.

Claim: SignSGD has the exact variance of its lattice chain, .0062862 to .3 % (η = .01, σ = h = 1),
and its SDE that of its own; from B to 4B the law of Adam and RMSprop is at least 5 times closer to
the first under the square-root rule than under the linear; each SDE has the variance of its scheme.

Source: Malladi, Lyu, Panigrahi, Arora 2022 (2205.10287), sections 4 and 5; Compagnoni et al. 2024
(2411.15958) for SignSGD; exact values by a birth–death chain, quadrature and a linear recursion.

Command: python -m experiments square_root_scaling_adaptive --preset paper
Subject: equations
"""

import dataclasses
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.scipy.special import erf as jax_erf
from scipy.linalg import solve_discrete_lyapunov
from scipy.special import erf, ndtr

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs; curvature h = 1."""

    learning_rate: float = 0.01
    """η of all methods, at κ = 1"""
    noise: float = 1.0
    """σ"""
    batch_size: int = 4
    """B of Adam and RMSprop at κ = 1 (SignSGD: 1)"""
    kappa: int = 4
    """κ"""
    beta1: float = 0.95
    """β₁ of Adam"""
    beta2: float = 0.998
    """β₂ of Adam, β of RMSprop"""
    substeps: int = 2
    """solver steps an iteration of the SDEs"""
    ensemble_size: int = 4096
    """independent members a process"""
    num_steps: int = 3200
    """iterations at κ = 1"""
    sign_steps: int = 16_000
    """iterations of SignSGD"""
    burn_in: float = 0.2
    """part of a run that is left out, from the start at the minimum"""
    resolution: float = 0.03
    """largest relative difference from its own exact value with which a process agrees"""
    sign_resolution: float = 0.02
    """the same for SignSGD and its SDE"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        ensemble_size=16384,
        num_steps=6000,
        sign_steps=100_000,
        burn_in=0.05,
        resolution=0.01,
        sign_resolution=0.003,
    ),
}
METHODS = ("Adam", "RMSprop")
RULES = ("base", "square root", "linear")


class EqualExamples(ss.landscapes.AbstractPopulation):
    """ℓ(x; z) = ½x² + σzx in one dimension, z ~ N(0, 1) fresh for every example."""

    spread: float

    @property
    def dimension(self):
        return 1

    @property
    def dtype(self):
        return jnp.dtype(jnp.result_type(float))

    @property
    def noise_dimension(self):
        return 1

    def loss(self, theta):
        return 0.5 * jnp.sum(theta**2)

    def example_loss(self, theta, example):
        return 0.5 * jnp.sum(theta**2) + self.spread * jnp.sum(example * theta)

    def covariance_root(self, theta):
        return jnp.full((1, 1), self.spread, theta.dtype)

    def draw_examples(self, draws, batch_size):
        return draws.normal((batch_size, 1), ss.Stream.BATCH, self.dtype)


def optimizer(config: Config, method: str, rule: str) -> ss.processes.AbstractAdaptive:
    """The optimiser of a method, scaled by a rule: memories always as the square-root rule says."""
    eta, kappa = config.learning_rate, config.kappa
    options = {"epsilon": 1e-8, "noise_dominated": True}
    if method == "Adam":
        base = ss.Adam(eta, config.beta1, config.beta2, **options)
    else:
        # v starts where it stays, as Malladi et al. let it.
        start = config.noise**2 / config.batch_size
        base = ss.RMSprop(eta, config.beta2, initial=start, **options)
    if rule == "base":
        return base
    scaled = ss.processes.square_root_scaling(base, kappa)
    if rule == "square root":
        return scaled
    assert isinstance(scaled, ss.Adam | ss.RMSprop)
    options["epsilon"] = scaled.epsilon
    if isinstance(scaled, ss.Adam):
        return ss.Adam(kappa * eta, scaled.beta1, scaled.beta2, **options)
    return ss.RMSprop(kappa * eta, scaled.beta, initial=scaled.initial, **options)


def measure(config: Config, key) -> xr.Dataset:
    """E x² in the stationary state of every process."""
    landscape = EqualExamples(config.noise)
    variables = {}

    def square(theta):
        return theta[0] ** 2

    def run(name, process, own, num_steps):
        found = ss.simulate(
            process,
            jnp.zeros(1),
            num_steps=num_steps,
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"x2": ss.Moments(square, round(config.burn_in * num_steps), 1, False)},
        )
        put(variables, name, found["x2"].mean)

    keys = iter(jr.split(key, 20))
    sign, one = ss.SignSGD(config.learning_rate), ss.WithReplacement(1)
    run("SignSGD", ss.OptaxSGD(landscape, sign, one), next(keys), config.sign_steps)
    noise = ss.ConstantNoise(np.array([[config.noise**2]]))
    sde = ss.AdaptiveEquation(landscape, sign, noise, config.substeps)
    run("SignSGD SDE", sde, next(keys), config.sign_steps)
    for method in METHODS:
        for rule in RULES:
            own, kappa = optimizer(config, method, rule), 1 if rule == "base" else config.kappa
            sampling = ss.WithReplacement(kappa * config.batch_size)
            steps = config.num_steps // kappa
            run(f"{method} {rule}", ss.OptaxSGD(landscape, own, sampling), next(keys), steps)
            if rule != "linear":
                noise = ss.ConstantNoise(np.array([[config.noise**2 / sampling.batch_size]]))
                sde = ss.AdaptiveEquation(landscape, own, noise, config.substeps)
                run(f"{method} SDE {rule}", sde, next(keys), steps)
    return xr.Dataset(variables)


def lattice_variance(eta: float) -> float:
    """Var of x ← x − η sign(x + ξ): detailed balance on ηZ."""
    reach = int(np.ceil(12 * np.sqrt(eta / 2) / eta))
    x = eta * np.arange(-reach, reach + 1)
    down = ndtr(x)
    log = np.concatenate([[0.0], np.cumsum(np.log((1 - down)[:-1] / down[1:]))])
    p = np.exp(log - log.max())
    return float(p @ x**2 / p.sum())


def sign_equation_variance(eta: float, substeps: int) -> float:
    """Stationary variance of Euler's scheme of SignSGD's SDE, by the master equation on nodes."""
    step = 1 / substeps
    # θ ← θ − (ηδ)ĝ with ĝ of mean e and variance (1 − e²)/δ.
    law = ss.processes.Diffusion(
        lambda x: -_mean_sign(x), lambda x: eta / 2 * (1 - _mean_sign(x) ** 2), eta * step
    )
    edge = 8 * np.sqrt(eta / 1.5)
    nodes = int(np.ceil(4 * 2 * edge / (eta * np.sqrt(step) * (1 - erf(edge) ** 2) ** 0.5)))
    chain = theory.laws.MasterEquation(law, [-edge, edge], nodes, mass_tolerance=1e-7)
    return chain.stationary().variance


def _mean_sign(x):
    return jax_erf(x / np.sqrt(2))


def scheme_variance(config: Config, method: str, rule: str) -> float:
    """Stationary E x² of the scheme of a method's SDE, v = C: a linear chain of (x, m)."""
    own, step = optimizer(config, method, rule), 1 / config.substeps
    kappa = 1 if rule == "base" else config.kappa
    c = config.noise**2 / (kappa * config.batch_size)
    slow = step * (1 - float(own.beta1)) if isinstance(own, ss.Adam) else 1.0
    scale = float(own.learning_rate.given) * step / np.sqrt(c)
    row = np.array([slow, 1 - slow])
    chain = np.vstack([np.array([1.0, 0.0]) - scale * row, row])
    kick = np.array([-scale, 1.0]) * slow * np.sqrt(c / step)
    return float(solve_discrete_lyapunov(chain, np.outer(kick, kick))[0, 0])


@functools.cache
def _predict(config: Config) -> dict[str, float]:
    eta, sigma = config.learning_rate, config.noise
    root = eta / (2 * sigma) * np.sqrt(np.pi / 2)
    values = {
        "SignSGD": sigma**2 * lattice_variance(eta / sigma),
        "SignSGD SDE": sigma**2 * sign_equation_variance(eta / sigma, config.substeps),
        "formula": sigma**2 * root * (root + np.sqrt(root**2 + 4)) / 2,
    }
    for method in METHODS:
        for rule in RULES[:2]:
            values[f"{method} SDE {rule}"] = scheme_variance(config, method, rule)
    return values


def predict(config: Config) -> dict[str, float]:
    """Exact variances: of the lattice chain, of the schemes of the SDEs; the Gaussian formula."""
    return _predict(config)


def distances(data: xr.Dataset, method: str) -> dict[str, ss.Estimate]:
    """|E x² − that at κ = 1| over that at κ = 1, for both rules."""
    base, found = get(data, f"{method} base"), {}
    for rule in RULES[1:]:
        own = get(data, f"{method} {rule}")
        ratio = float(own.value / base.value)
        error = ratio * np.hypot(
            float(own.standard_error / own.value), float(base.standard_error / base.value)
        )
        found[rule] = ss.Estimate(abs(ratio - 1), error, own.num_samples)
    return found


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """SignSGD and SDEs against exact values; the two rules against each other."""
    rows = []

    def own(name, key, words, resolution):
        value = predicted[key]
        options = {"resolution": resolution * value, "name": words, "process": name}
        rows.append(ss.compare(get(data, name), value, **options))

    own("SignSGD", "SignSGD", "variance, lattice chain", config.sign_resolution)
    own("SignSGD", "formula", "variance, Gaussian formula", config.sign_resolution)
    own("SignSGD SDE", "SignSGD SDE", "variance, own scheme", config.sign_resolution)
    for method in METHODS:
        for rule in RULES[:2]:
            name = f"{method} SDE {rule}"
            own(name, name, "variance, own scheme", config.resolution)
        found = distances(data, method)
        near, far = found["square root"], found["linear"]
        margin = float(far.value) - 5 * float(near.value)
        error = float(np.hypot(far.standard_error, 5 * near.standard_error))
        rows.append(
            ss.compare(
                # Not more than 0, and the claim has failed.
                ss.Estimate(max(margin, 0.0), error, far.num_samples),
                0.0,
                name="distance of the linear rule less 5 × that of the square-root rule",
                process=method,
                expected="deviate",
            )
        )
        rows.append(
            ss.compare(
                get(data, f"{method} linear"),
                get(data, f"{method} base"),
                name="variance at κB, linear rule, against that at B",
                process=method,
                expected="deviate",
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Both distances, and SignSGD's variance."""
    lines = []
    for method in METHODS:
        near, far = (distances(data, method)[rule] for rule in RULES[1:])
        lines.append(
            f"{method} from B to {config.kappa}B moves E x² by {float(near.value):.1%} ± "
            f"{float(near.standard_error):.1%} under the square-root rule and by "
            f"{float(far.value):.1%} ± {float(far.standard_error):.1%} under the linear one."
        )
    sign, value = get(data, "SignSGD"), predict(config)
    return (
        f"SignSGD: {float(sign.value):.7f} ± {float(sign.standard_error):.2g}, lattice chain "
        f"{value['SignSGD']:.7f}, formula {value['formula']:.7f}, SDE {value['SignSGD SDE']:.7f}. "
    ) + " ".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """Variances at B and κB under both rules, discrete and SDE."""
    figure, axes = new_figure(1, 2, width=5.2, height=3.8)
    for axis, method in zip(axes[0], METHODS, strict=True):
        base = float(get(data, f"{method} base").value)
        for place, rule in enumerate(RULES):
            for label, name, shift in (("SGD", method, -0.1), ("SDE", f"{method} SDE", 0.1)):
                key = f"{name} {rule}"
                if key not in data:
                    continue
                row = get(data, key)
                scaled = ss.Estimate(row.value[None] / base, row.standard_error[None] / base, 2)
                text = {"SGD": f"{method} (optax)", "SDE": "its SDE"}[label] if not place else ""
                points(axis, [place + shift], scaled, text, color=COLOURS[label])
                if key in predicted:
                    exact = predicted[key] / base
                    axis.hlines(exact, place, place + 0.2, color=COLOURS["prediction"], linewidth=1)
        axis.axhline(1, color=COLOURS["other"], linestyle=":", linewidth=1)
        axis.set_xticks(
            range(3),
            ["B", f"{config.kappa}B, η → √κ η", f"{config.kappa}B, η → κη"],
        )
        axis.set_ylabel("E x² / that at B (bars: exact)")
        axis.set_title(method, fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    return figure
