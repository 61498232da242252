"""Which approximation between SGD and its SDE breaks: one measurement for each link of the chain.

    SGD —(1)— Gaussian SGD —(2)— Euler–Maruyama, step η —(3)— SDE (step → 0)

Link 1 replaces the minibatch gradient by a Gaussian of the same mean and covariance c Σ(θ), link 2
nothing (two names of one recursion), link 3 takes the solver's step to 0. In one-dimensional
least squares with δ = θ − θ*, a_i = x_i², b_i = ∂ℓ_i(θ*) and Σ(δ) = ⟨(a_i δ + b_i)²⟩ − (ā δ)²
the moments of every process close:

    SGD     E δⁿ = E[((1 − η A) δ − η B)ⁿ],  A and B the batch means of a_i and b_i,
    Euler   E δⁿ = Σ_{j even} C(n,j) (j−1)!! (hηc)^{j/2} (1 − h ā)^{n−j} E[δ^{n−j} Σ(δ)^{j/2}],
    SDE     0 = −n ā E δⁿ + ½ n(n−1) ηc E[δ^{n−2} Σ(δ)].

The variance is the same along links 1 and 2 whatever the noise; skewness and kurtosis need not be.

Claim: on real data at a high learning rate link 1 holds and link 3 breaks; with one mislabelled
example in 64 at a low learning rate and B = 1, link 1 breaks (in the shape, never in the variance)
and link 3 holds; link 2 is an identity.

Source: Li, Malladi, Arora 2021 (2102.12470) separate non-Gaussian noise from discretisation; the
closures are exact moment equations (above).

Command: python -m experiments which_link_breaks --preset paper
Subject: side_by_side
"""

import dataclasses
from math import comb, factorial

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from numpy.polynomial import polynomial as poly
from scipy.signal import convolve2d

import sde_sgd as ss
from sde_sgd.plots import COLOURS, new_figure, points

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the runs; those of the two landscapes in the order of LANDSCAPES."""

    learning_rates: tuple[float, float] = (0.5, 0.05)
    """η"""
    batch_sizes: tuple[int, int] = (64, 1)
    """B"""
    spacings: tuple[int, int] = (2, 10)
    """iterations between two looks at the members"""
    looks: int = 100
    """looks at each member"""
    burn_in: int = 200
    """iterations before the first look, from the start at the minimum"""
    ensemble_size: int = 8192
    """independent members a process"""
    substeps: int = 4
    """the SDE is integrated at h = η/substeps and, on the same Brownian path, at h/2"""
    num_examples: int = 64
    """N of the data set with a mislabelled example"""
    wrong_label: float = 12.0
    """its target, where the others have ±1"""
    resolution: float = 0.1
    """the smallest difference that breaks a link: a share of the variance, or in the skewness or
    the kurtosis"""
    rounding: float = 1e-12
    """largest distance of the two sides of link 2, in standard deviations of θ"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(looks=400, ensemble_size=32768),
}

LANDSCAPES = ("diabetes", "mislabelled")
# What must come out of the links that approximate, fixed before any run:
# (landscape, link) -> (variance, shape).
EXPECTED = {
    ("diabetes", 1): ("agree", "agree"),
    ("diabetes", 3): ("deviate", "agree"),
    ("mislabelled", 1): ("agree", "deviate"),
    ("mislabelled", 3): ("agree", "agree"),
}
OBSERVABLES = ("variance", "skewness", "excess kurtosis")
LABELS = {
    "sgd": "SGD",
    "gaussian": "Gaussian SGD",
    "euler": "Euler, h = η",
    "sde": "SDE, h = η/substeps",
    "limit": "SDE, h → 0",
}


def problem(config: Config, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (N,) and targets (N,)."""
    if name == "diabetes":  # the progression of the disease from the patient's age
        patients = ss.data.diabetes(test_fraction=0.0)
        return np.asarray(patients.inputs)[:, 0], np.asarray(patients.targets)
    num = config.num_examples
    targets = np.where(np.arange(num) % 2 == 0, 1.0, -1.0)
    targets[num // 2] = config.wrong_label
    return np.linspace(0.8, 1.2, num), targets


def setting(config: Config, name: str) -> tuple[float, int, int]:
    """η, B and the spacing of the looks on a landscape."""
    place = LANDSCAPES.index(name)
    return config.learning_rates[place], config.batch_sizes[place], config.spacings[place]


def measure(config: Config, key) -> xr.Dataset:
    """Variance, skewness and excess kurtosis of every process, and the distance across link 2."""
    variables = {}
    for name, own in zip(LANDSCAPES, jr.split(key, len(LANDSCAPES)), strict=True):
        _measure_one(config, name, own, variables)
    return xr.Dataset(variables, coords={"observable": list(OBSERVABLES)})


def _measure_one(config: Config, name: str, key, variables: dict) -> None:
    inputs, targets = problem(config, name)
    eta, batch, spacing = setting(config, name)
    landscape, sampling = ss.LeastSquares(inputs[:, None], targets), ss.WithReplacement(batch)
    noise, substeps = ss.MinibatchNoise(sampling), config.substeps
    minimum = landscape.minimum()
    at = range(config.burn_in + spacing, config.burn_in + spacing * config.looks + 1, spacing)
    key_sgd, key_gaussian, key_sde = jr.split(key, 3)

    def looks(process, own):
        run = ss.simulate(
            process,
            jnp.asarray(minimum),
            num_steps=at[-1],
            ensemble_size=config.ensemble_size,
            key=own,
            measures={"theta": ss.Snapshots(at)},
        )
        return run["theta"].values[..., 0] - minimum

    def sde(substeps, refinement=1):
        return ss.ModifiedEquation(landscape, eta, noise, substeps=substeps, refinement=refinement)

    gaussian = looks(ss.GaussianSGD(landscape, eta, noise), key_gaussian)
    euler = looks(sde(1), key_gaussian)  # the same key: the same normal numbers
    coarse = member_rows(looks(sde(substeps, refinement=2), key_sde))
    fine = member_rows(looks(sde(2 * substeps), key_sde))  # on the Brownian path of `coarse`
    rows = {
        "sgd": member_rows(looks(ss.SGD(landscape, eta, sampling), key_sgd)),
        "gaussian": member_rows(gaussian),
        "euler": member_rows(euler),
        "sde": coarse,
        "limit": 2 * fine - coarse,
    }
    for process, samples in rows.items():
        put(variables, f"{name} {process}", ss.Estimate.from_samples(samples), ("observable",))
    variables[f"{name} link 2"] = ((), np.abs(gaussian - euler).max() / gaussian.std())
    variables[f"{name} link 2 steps"] = ((), at[-1])


def member_rows(delta: np.ndarray) -> np.ndarray:
    """(looks, members) deviations from θ* → (members, 3) rows of OBSERVABLES.

    Their mean is m₂, m₃/m₂^{3/2}, m₄/m₂² − 3 of all members together; row i adds member i's
    first-order influence, so that the spread of the rows gives the error (delta method).
    """
    own = np.stack([(delta**n).mean(axis=0) for n in (2, 3, 4)])
    two, three, four = all_members = own.mean(axis=1)
    d_two, d_three, d_four = own - all_members[:, None]
    skewness, kurtosis = three / two**1.5, four / two**2
    return np.stack(
        [
            two + d_two,
            skewness + d_three / two**1.5 - 1.5 * skewness * d_two / two,
            kurtosis - 3 + d_four / two**2 - 2 * kurtosis * d_two / two,
        ],
        axis=1,
    )


def example_moments(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a_i = x_i² and b_i = x_i(x_i θ* − y_i), (N,) both: g_i(θ* + δ) = a_i δ + b_i."""
    minimum = inputs @ targets / (inputs @ inputs)
    return inputs**2, inputs * (inputs * minimum - targets)


def moments_sgd(inputs: np.ndarray, targets: np.ndarray, eta: float, batch: int) -> np.ndarray:
    """E δⁿ, n = 0…4, of stationary SGD with replacement, by the first closure above."""
    a, b = example_moments(inputs, targets)
    orders = np.arange(5)
    factorials = np.array([factorial(n) for n in orders])
    # δ ← U δ + V with U, V the batch means of 1 − ηa and −ηb. E U^p V^q/(p! q!) are coefficients
    # of a generating function; that of a sum of examples is a product.
    powers = [(base[:, None]) ** orders for base in ((1 - eta * a) / batch, -eta * b / batch)]
    one = np.einsum("ip,iq->pq", *powers) / len(a) / np.outer(factorials, factorials)
    total = one
    for _ in range(batch - 1):
        total = convolve2d(total, one)[:5, :5]
    moments = [1.0]
    for n in range(1, 5):
        # C(n,k) E U^k V^{n−k}
        weights = factorials[n] * np.array([total[k, n - k] for k in range(n + 1)])
        moments.append(float(np.dot(weights[:n], moments)) / (1 - weights[n]))
    return np.array(moments)


def moments_gaussian(
    inputs: np.ndarray, targets: np.ndarray, eta: float, batch: int, step: float
) -> np.ndarray:
    """E δⁿ, n = 0…4, of the stationary Euler scheme at `step` h (η: Gaussian SGD; 0: the SDE)."""
    a, b = example_moments(inputs, targets)
    curvature = a.mean()
    noise = eta / batch * np.array([np.mean(b**2), 2 * np.mean(a * b), np.var(a)])  # ηc S(δ)
    moments = [1.0]
    for n in range(1, 5):
        # Coefficients of E δ^k in the change of E δⁿ over a step (per unit of time if h = 0).
        change = np.zeros(5)
        if step == 0:
            change[n] -= n * curvature
            if n >= 2:
                change[n - 2 : n + 1] += n * (n - 1) / 2 * noise
        else:
            change[n] -= 1
            for j, gaussian in ((0, 1), (2, 1), (4, 3)):
                if j <= n:
                    shrink = comb(n, j) * gaussian * (1 - step * curvature) ** (n - j)
                    change[n - j : n + 1] += shrink * poly.polypow(step * noise, j // 2)
        moments.append(float(np.dot(change[:n], moments)) / -change[n])
    return np.array(moments)


def predict(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Exact OBSERVABLES (3,) by landscape and process; "residual": error of the extrapolation."""
    values = {}
    for name in LANDSCAPES:
        data = problem(config, name)
        eta, batch, _ = setting(config, name)
        steps = {"gaussian": eta, "sde": eta / config.substeps, "limit": 0.0}
        exact = {"sgd": _observables(moments_sgd(*data, eta, batch))}
        for process, step in steps.items():
            exact[process] = _observables(moments_gaussian(*data, eta, batch, step))
        fine = _observables(moments_gaussian(*data, eta, batch, steps["sde"] / 2))
        exact["residual"] = 2 * fine - exact["sde"] - exact["limit"]
        values[name] = exact
    return values


def _observables(moments: np.ndarray) -> np.ndarray:
    _, _, two, three, four = moments
    return np.array([two, three / two**1.5, four / two**2 - 3])


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Each process against its own exact values, then each link against its other side's."""
    rows, variance, shape = [], slice(0, 1), slice(1, 3)
    for name, exact in predicted.items():

        def against(measured, reference, part, what, of, name=name, **options):
            estimate = get(data, f"{name} {measured}")[part]
            rows.append(
                ss.compare(estimate, reference, name=f"{name}: {what}", process=of, **options)
            )

        for own in ("sgd", "gaussian", "sde"):
            against(own, exact[own], slice(None), "own exact values", LABELS[own])
        # The discretisation that is left is stated beside the statistical error.
        left = ss.Estimate(exact["limit"], np.abs(exact["residual"]), 2**31)
        against("limit", left, slice(None), "exact values at h = 0", LABELS["limit"])
        for link, one, other in ((1, "sgd", "gaussian"), (3, "euler", "limit")):
            reference, (same_variance, same_shape) = exact[other], EXPECTED[name, link]
            of = f"{LABELS[one]} against {LABELS[other]}"
            # No approximation touches the variance along link 1: any difference counts there.
            width = None if link == 1 else config.resolution * reference[variance]
            what = f"link {link}, variance" + ("" if link == 1 else f" to {config.resolution:.0%}")
            options = {"resolution": width, "expected": same_variance}
            against(one, reference[variance], variance, what, of, **options)
            what = f"link {link}, skewness and kurtosis to {config.resolution:g}"
            options = {"resolution": config.resolution, "expected": same_shape}
            against(one, reference[shape], shape, what, of, **options)
        distance, steps = data[f"{name} link 2"].values, int(data[f"{name} link 2 steps"])
        rows.append(
            ss.compare(
                ss.Estimate(distance, np.zeros(()), config.ensemble_size),
                0.0,
                resolution=config.rounding,
                name=f"{name}: link 2, max |Δθ|/σ in {steps} steps",
                process=f"{LABELS['gaussian']} against {LABELS['euler']}",
            )
        )
    return rows


def broken(comparisons: list[ss.Comparison], name: str) -> list[int]:
    """The links that were found to differ on a landscape."""
    wrong = [c.name for c in comparisons if c.verdict == "disagrees"]
    return [k for k in (1, 2, 3) if any(w.startswith(f"{name}: link {k}") for w in wrong)]


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """Which link broke where, and by what factor, as measured."""
    lines = []
    for name in LANDSCAPES:
        sgd, gaussian, euler, limit = (
            get(data, f"{name} {process}").value
            for process in ("sgd", "gaussian", "euler", "limit")
        )
        distance = float(data[f"{name} link 2"])
        identity = "identical to the last bit" if distance == 0 else f"{distance:.0e} σ apart"
        links = " and ".join(map(str, broken(comparisons, name))) or "none"
        lines.append(
            f"{name}, links broken: {links}. (1) Minibatch for Gaussian noise: variance × "
            f"{sgd[0] / gaussian[0]:.3f}, kurtosis × {(3 + sgd[2]) / (3 + gaussian[2]):.3f}, "
            f"skewness {sgd[1]:+.2f} for {gaussian[1]:+.2f}. (2) Gaussian SGD and Euler: "
            f"{identity}. (3) Step η for step 0: variance × {euler[0] / limit[0]:.3f}, kurtosis × "
            f"{(3 + euler[2]) / (3 + limit[2]):.3f}."
        )
    return "\n".join(lines)


def plot(config: Config, data: xr.Dataset, predicted):
    """One row a landscape: the observables along the chain, measured points on exact lines."""
    palette = {"sgd": "SGD", "gaussian": "Gaussian SGD", "euler": "Gaussian SGD"}
    own = {name: name for name in LABELS} | {"euler": "gaussian"}
    ticks = ["SGD", "Gaussian\nSGD", "Euler\nh = η", f"SDE\nh = η/{config.substeps}", "SDE\nh → 0"]
    figure, axes = new_figure(len(LANDSCAPES), 3, width=4.6)
    comparisons = check(config, data, predicted)
    for line, name in zip(axes, LANDSCAPES, strict=True):
        eta, batch, _ = setting(config, name)
        wrong = broken(comparisons, name)
        for place, axis in enumerate(line):
            axis.sharey(axes[0, place])
            unit = predicted[name]["sgd"][0] if place == 0 else 1.0
            for x, process in enumerate(own):
                height = predicted[name][own[process]][place] / unit
                label = "exact" if x == 0 else None
                axis.hlines(height, x - 0.35, x + 0.35, color=COLOURS["prediction"], label=label)
                estimate = get(data, f"{name} {process}")[place : place + 1]
                measured = ss.Estimate(
                    estimate.value / unit, estimate.standard_error / unit, estimate.num_samples
                )
                label = "measured, ± 1 s.e." if x == 0 else ""
                colour = COLOURS[palette.get(process, "SDE")]
                points(axis, [x], measured, label, color=colour)
            axis.set_xticks(range(len(own)), ticks, fontsize=8)
            axis.margins(y=0.1)
            axis.set_ylabel(OBSERVABLES[place] + (" / that of SGD" if place == 0 else ""))
        state = ", ".join(f"link {k} " + ("breaks" if k in wrong else "holds") for k in (1, 2, 3))
        line[1].set_title(f"{name}, η = {eta:g}, B = {batch}: {state}")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    return figure
