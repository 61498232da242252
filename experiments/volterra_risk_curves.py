"""Risk of online least squares in high dimension: SGD, homogenised SGD, and where both diverge.

Features x ~ N(0, A) in d dimensions, targets y = σε, one fresh example a step, learning rate
η = γ/d, time k/d. SGD's mean risk E L closes exactly at any d. Homogenised SGD, the SDE

    dθ = −∇L dt + √(2ηL(θ)) A^{1/2} dW,   t = ηk,

leaves out the part (∇L)(∇L)ᵀ of Σ(θ); its mean risk Ψ solves Ψ(t) = F(t) + η∫₀ᵗ K(t−s) Ψ(s) ds,

    F(t) = ½σ² + ½ Σ λ_i δ_i² e^{−2λ_i t},   K(t) = Σ λ_i² e^{−2λ_i t},

and grows without bound for γ > 2/λ̄; SGD does so from (η/B) Σ λ_i/G_i = 1 on, a little earlier.

Claim: at d = 512 the Volterra equation gives SGD's exact mean excess risk to .5 %; simulated SGD
and SDE have each their own exact mean, and a mean of 50 runs has it to 2 % (d = 512); beyond the
critical learning rate the risk grows, each process by its own exact factor and not the other's
(d = 128).

Source: Paquette, Paquette, Adlam, Pennington 2022 (2205.07069), Collins-Woodfin, Paquette 2023
(2304.06847); exact means by Isserlis' theorem (documented in sde_sgd.theory.equations.online_risk).

Command: python -m experiments volterra_risk_curves --preset paper
Subject: equations
"""

import dataclasses
import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.plots import COLOURS, new_figure, points

from ._rows import scalar
from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs; λ_i = i/d and |θ₀ − θ*| = 1, the same in all directions."""

    dimension: int = 128
    """d of the simulations"""
    gamma: float = 1.0
    """γ = ηd"""
    label_noise: float = 0.1
    """σ"""
    times: tuple[int, ...] = (1, 2, 4)
    """k/d at which the risk is compared"""
    beyond: float = 1.25
    """η of the diverging runs over SGD's critical one"""
    dimension_beyond: int = 128
    """d of those, small enough that they leave each other"""
    times_beyond: tuple[int, ...] = (1, 2)
    """k/d at which those are compared"""
    ensemble_size: int = 2560
    """independent members a process"""
    ensemble_beyond: int = 2560
    """the same of the diverging runs"""
    group: int = 100
    """runs in the mean whose error is stated"""
    resolution: float = 0.02
    """largest relative difference from its own exact mean with which a process agrees"""
    resolution_beyond: float = 0.1
    """the same of the diverging runs"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(
        dimension=512,
        times=(1, 2, 5, 10),
        ensemble_size=512,
        ensemble_beyond=16384,
        group=50,
        resolution_beyond=0.05,
    ),
}
# Where the equation is held against the exact mean, whatever is simulated.
LARGE, TABLE = 512, (1, 2, 5, 10, 20)
KINDS = ("SGD", "SDE")
OTHER = {"SGD": "SDE", "SDE": "SGD"}


@functools.cache
def problem(config: Config, dimension: int) -> ss.landscapes.PopulationLeastSquares:
    """λ_i = i/d in d = `dimension`."""
    spectrum = np.arange(1, dimension + 1) / dimension
    return ss.landscapes.PopulationLeastSquares(np.diag(spectrum), config.label_noise)


def start(dimension: int) -> np.ndarray:
    """θ₀, at the distance 1 from θ* = 0."""
    return np.full(dimension, dimension**-0.5)


def homogenised(landscape, eta: float) -> ss.ModifiedEquation:
    """The SDE with the covariance 2L(θ)A, at one solver step an iteration."""
    return ss.ModifiedEquation(landscape, eta, ss.HessianNoise(1.0, times_loss=True), substeps=1)


def risk(process: ss.AbstractProcess) -> theory.equations.OnlineRisk:
    """Of a process from θ₀."""
    return theory.equations.OnlineRisk(process, start(process.landscape.dimension))


def critical(config: Config) -> dict[str, float]:
    """η beyond which the risk grows: of SGD, and of homogenised SGD at solver step 0."""
    own = problem(config, config.dimension_beyond)
    sgd, sde = ss.SGD(own, 0.1, ss.WithReplacement(1)), homogenised(own, 0.1).limit()
    return {"SGD": risk(sgd).critical_learning_rate(), "SDE": risk(sde).critical_learning_rate()}


@dataclasses.dataclass(frozen=True)
class Case:
    """Runs below or beyond the critical rate."""

    dimension: int
    learning_rate: float
    times: tuple[int, ...]
    ensemble_size: int

    @property
    def at(self) -> np.ndarray:
        """Iterations of `times`."""
        return self.dimension * np.array(self.times)


def cases(config: Config) -> dict[str, Case]:
    """Both kinds of runs."""
    rate = config.gamma / config.dimension
    return {
        "below": Case(config.dimension, rate, config.times, config.ensemble_size),
        "beyond": Case(
            config.dimension_beyond,
            config.beyond * critical(config)["SGD"],
            config.times_beyond,
            config.ensemble_beyond,
        ),
    }


def process(kind: str, eta: float, landscape) -> ss.AbstractProcess:
    """SGD with fresh examples one by one, or homogenised SGD with the root of its diagonal A."""
    if kind == "SGD":
        return ss.SGD(landscape, eta, ss.WithReplacement(1))
    roots = jnp.sqrt(jnp.diagonal(landscape.feature_covariance))
    noise = ss.FunctionNoise(lambda theta: jnp.sqrt(2 * landscape.loss(theta)) * roots)
    return ss.ModifiedEquation(landscape, eta, noise, substeps=1)


def measure(config: Config, key) -> xr.Dataset:
    """Excess risk of every member at the times, and the scatter of its mean over a group."""
    variables, times = {}, {}
    for name, case in cases(config).items():
        landscape = problem(config, case.dimension)

        def excess(theta, landscape=landscape):
            return landscape.loss(theta) - 0.5 * landscape.label_noise**2

        dims = (f"time {name}",)
        times[dims[0]] = list(case.times)
        for kind in KINDS:
            key, its_key = jr.split(key)
            run = ss.simulate(
                process(kind, case.learning_rate, landscape),
                jnp.asarray(start(case.dimension)),
                num_steps=int(case.at[-1]),
                ensemble_size=case.ensemble_size,
                key=its_key,
                measures={"risk": ss.Snapshots(case.at.tolist(), excess)},
            )
            values = np.asarray(run["risk"].values, dtype=float).T
            put(variables, f"{kind} {name}", ss.Estimate.from_samples(values), dims)
            if name == "below":
                put(variables, f"{kind} scatter", scatter(values, config.group), dims)
    return xr.Dataset(variables, times)


def scatter(values: np.ndarray, group: int) -> ss.Estimate:
    """Standard deviation of the mean of `group` members over that mean, (members, n) → (n,)."""
    num, mean = len(values), values.mean(axis=0)
    squares = (values - mean) ** 2
    deviation = np.sqrt(squares.mean(axis=0))
    error = squares.std(axis=0) / (2 * deviation * np.sqrt(num))
    scale = np.sqrt(group) * mean
    return ss.Estimate(deviation / scale, error / scale, num)


@functools.cache
def _predict(config: Config) -> dict:
    large, at = problem(config, LARGE), LARGE * np.array(TABLE)
    eta = config.gamma / LARGE
    limit = risk(homogenised(large, eta).limit())
    curves = {
        "exact": risk(process("SGD", eta, large)).after(at),
        "volterra": limit.volterra(at),
        "eigenvectors": limit.after(at),
    }
    means, lines = {}, {}
    for name, case in cases(config).items():
        own, rate = problem(config, case.dimension), case.learning_rate
        fine = np.unique(np.linspace(0, case.at[-1], 60).astype(int))
        for kind in KINDS:
            # One Euler step an iteration: the SDE's own mean is that of the scheme.
            exact = process("SGD", rate, own) if kind == "SGD" else homogenised(own, rate)
            found = risk(exact).after(np.concatenate([fine, case.at]))
            means[f"{kind} {name}"] = found[len(fine) :]
            lines[f"{kind} {name}"] = (fine / case.dimension, found[: len(fine)])
        curve = risk(homogenised(own, rate).limit()).volterra(fine, substeps=4)
        lines[f"Volterra {name}"] = (fine / case.dimension, curve)
    return {
        "curves": curves,
        "means": means,
        "lines": lines,
        "critical": {k: config.dimension_beyond * v for k, v in critical(config).items()},
        "start": float(lines["SGD beyond"][1][0]),
    }


def predict(config: Config) -> dict:
    """The curves at d = 512, the exact means of the runs, their lines, the critical γ."""
    return _predict(config)


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Volterra against the exact mean; each process against its own mean; growth beyond η*."""
    rows, curves = [], predicted["curves"]
    for name, other, most in (
        ("exact mean", "exact", 5e-3),
        ("eigenvectors", "eigenvectors", 1e-6),
    ):
        off = np.abs(curves["volterra"] / curves[other] - 1).max()
        rows.append(
            ss.compare(
                scalar(off, 0.0, 2),
                0.0,
                resolution=most,
                name=f"excess risk, d = {LARGE}: distance to the {name}",
                process="Volterra",
            )
        )
    for kind in KINDS:
        own = predicted["means"][f"{kind} below"]
        rows.append(
            ss.compare(
                get(data, f"{kind} below"),
                own,
                resolution=config.resolution * own,
                name="excess risk, own exact mean",
                process=kind,
            )
        )
        rows.append(
            ss.compare(
                get(data, f"{kind} scatter"),
                np.zeros(len(config.times)),
                resolution=0.02 * np.ones(len(config.times)),
                name=f"relative error of a mean of {config.group} runs",
                process=kind,
            )
        )
    for kind in KINDS:
        own, measured = predicted["means"][f"{kind} beyond"], get(data, f"{kind} beyond")
        words = f"excess risk at {config.beyond:g} of the critical rate"
        rows.append(
            ss.compare(
                measured,
                own,
                resolution=config.resolution_beyond * own,
                name=f"{words}, own exact mean",
                process=kind,
            )
        )
        rows.append(
            ss.compare(
                measured[-1],
                predicted["start"],
                name=f"{words}, against the start",
                process=kind,
                expected="deviate",
            )
        )
        rows.append(
            ss.compare(
                measured[-1],
                predicted["means"][f"{OTHER[kind]} beyond"][-1],
                name=f"{words}, exact mean of the other",
                process=kind,
                expected="deviate",
            )
        )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """How close the equation is, and how fast the risk grows."""
    predicted = predict(config)
    curves, critical = predicted["curves"], predicted["critical"]
    off = np.abs(curves["volterra"] / curves["exact"] - 1).max()
    measured = get(data, "SGD below").value / predicted["means"]["SGD below"] - 1
    grown = {kind: get(data, f"{kind} beyond")[-1] for kind in KINDS}
    factors = ", ".join(
        f"{kind} {float(x.value) / predicted['start']:.2f} ± "
        f"{float(x.standard_error) / predicted['start']:.2f} (exact "
        f"{predicted['means'][f'{kind} beyond'][-1] / predicted['start']:.2f})"
        for kind, x in grown.items()
    )
    return (
        f"Volterra is within {off:.2%} of the exact mean at d = {LARGE}; SGD at d = "
        f"{config.dimension} within {np.abs(measured).max():.2%} of its own. The critical γ is "
        f"{critical['SGD']:.4f} for SGD and {critical['SDE']:.4f} for its SDE; at "
        f"{config.beyond:g} of its critical γ, d = {config.dimension_beyond}, the risk has grown "
        f"at k/d = {config.times_beyond[-1]} by: {factors}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """Risk against k/d below and beyond the critical rate: measured points, exact lines."""
    figure, axes = new_figure(1, 2, width=5.2, height=3.8)
    words = {"SGD": "exact mean, SGD", "SDE": "exact mean, Euler(η)", "Volterra": "Volterra, SDE"}
    for axis, (name, case) in zip(axes[0], cases(config).items(), strict=True):
        for kind, line in (("SGD", "-"), ("SDE", "--"), ("Volterra", ":")):
            colour = COLOURS.get(kind, COLOURS["prediction"])
            x, y = predicted["lines"][f"{kind} {name}"]
            axis.semilogy(x, y, line, color=colour, linewidth=1.2, label=words[kind])
        for kind, marker in (("SGD", "o"), ("SDE", "s")):
            label = f"{kind}, mean of {case.ensemble_size} runs"
            found = get(data, f"{kind} {name}")
            points(axis, case.times, found, label, color=COLOURS[kind], fmt=marker)
        gamma = case.dimension * case.learning_rate
        axis.set_title(f"d = {case.dimension}, γ = ηd = {gamma:.3g}", fontsize=10)
        axis.set_xlabel("k/d")
        axis.set_ylabel("excess risk E L − σ²/2")
        axis.legend(frameon=False, fontsize=8)
    return figure
