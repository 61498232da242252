"""The weak orders of the modified equations of SGD: one and two, and what spoils them.

With t = ηk, C = Cov(ĝ) of one iteration and T fixed,

    order 1:  dX = −∇L dt + √η C^{1/2} dW,               E f(X_T) − E f(θ_k) = O(η),
    order 2:  dX = −∇(L + (η/4)|∇L|²) dt + √η C^{1/2} dW,                      O(η²).

Without sampling errors: on ½(x − γ)², γ = ±1, by moment closure for η = 2⁻⁴…2⁻⁸; on a logistic
loss, with real batches, by the master equation against Fokker–Planck for η = 2⁻³…2⁻⁶. By Monte
Carlo on both, of another f on the first, for η = 1/4, 1/8, 1/16: three solver steps extrapolated to
0 on common random numbers, the noise of each run its control variate.

Claim: fitted orders are 1.0 ± .1 and 2.0 ± .1, by Monte Carlo too, which finds the exact errors;
(η/2)|∇L|² for (η/4)|∇L|², √η for η in the noise, and the time η(k+1) for ηk all lose the second
order. In the stationary state order 2 is the worse of the two.

Source: Li, Tai, E 2017 and 2019 (1511.06251, 1811.01558), Theorem 9; exact errors by moment closure
and backward equations (documented in sde_sgd.theory.equations.orders).

Command: python -m experiments modified_equation_order --preset paper
Subject: equations
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

import sde_sgd as ss
from sde_sgd import theory
from sde_sgd.plots import COLOURS, new_figure

from .framework import get, put


@dataclasses.dataclass(frozen=True)
class Config:
    """Parameters of the Monte Carlo runs."""

    learning_rates: tuple[float, ...] = (0.25, 0.125, 0.0625)
    """η, each of which divides T = 1"""
    substeps: int = 2
    """solver steps an iteration of the coarsest run; the others take 2 and 4 times as many"""
    quadratic_members: int = 400_000
    """independent members a process on the quadratic"""
    logistic_members: int = 10_000
    """the same on the logistic loss"""


PRESETS = {
    "smoke": Config(),
    "paper": Config(quadratic_members=4_000_000, logistic_members=200_000),
}
PAIR = (np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))
SAMPLING = ss.WithReplacement(1)
QUADRATIC, LOGISTIC = 2.0 ** -np.arange(4, 9), 2.0 ** -np.arange(3, 7)
LEVELS = 3
CONTROLS = ("(η/2)|∇L|²", "√η in the noise", "t = η(k+1)")


class Case(NamedTuple):
    """What is sampled on a landscape: f, its name, the start, an interval that SGD cannot leave."""

    of: Callable
    label: str
    start: float
    box: tuple[float, float]


def position(theta):
    """x."""
    return theta[0]


def sine(theta):
    """sin x."""
    return jnp.sin(theta[0])


# The starts are those at which the exact errors keep their order at η = 1/4…1/16 already.
CASES = {
    "quadratic": Case(sine, "E sin x", 1.0, (-6.0, 6.0)),
    "logistic": Case(position, "E x", 3.0, (-4.0, 4.0)),
}


@functools.cache
def landscape(name: str) -> ss.AbstractLandscape:
    """½(x − γ)², or a logistic loss with four examples and one weight."""
    if name == "quadratic":
        return ss.LeastSquares(*PAIR)
    inputs = jnp.array([[1.0], [-0.5], [1.5], [0.7]])
    return ss.LogisticRegression(inputs, jnp.array([1, 1, 0, 1]), l2=0.5, bias=False)


def processes(config: Config, name: str, order: int) -> Callable:
    """η ↦ SGD and its modified equation."""
    land, noise = landscape(name), ss.MinibatchNoise(SAMPLING)

    def make(eta: float):
        # E f is all that is asked, of which two-point increments keep every power of the step.
        sde = ss.ModifiedEquation(
            land, eta, noise, order=order, substeps=config.substeps, increments="two_point"
        )
        return ss.SGD(land, eta, SAMPLING), sde

    return make


def members(config: Config, name: str) -> int:
    """Independent members a process."""
    return {"quadratic": config.quadratic_members, "logistic": config.logistic_members}[name]


def measure(config: Config, key) -> xr.Dataset:
    """Weak errors at T = 1 by landscape, order and learning rate, with the control and without."""
    variables = {}
    for name, case in CASES.items():
        for order in (1, 2):
            make = processes(config, name, order)
            for eta in config.learning_rates:
                key, own = jr.split(key)
                sgd, sde = make(eta)
                found = ss.weak_error(
                    sgd,
                    sde,
                    jnp.array([case.start]),
                    num_steps=round(1 / eta),
                    ensemble_size=members(config, name),
                    key=own,
                    of=case.of,
                    levels=LEVELS,
                )
                put(variables, f"{name} {order} {eta:g}", found.error)
                put(variables, f"{name} {order} {eta:g} plain", found.plain)
    return xr.Dataset(variables)


def exact(name: str, rates, order=1, equation=None) -> np.ndarray:
    """Weak errors of the f that is sampled, without sampling errors."""
    case = CASES[name]
    return theory.equations.weak_errors_scalar(
        landscape(name),
        SAMPLING,
        of=case.of,
        learning_rates=rates,
        time=1.0,
        theta0=case.start,
        box=case.box,
        order=order,
        equation=equation,
    ).errors


def pair(eta: float, order: int) -> tuple[ss.SGD, ss.AbstractProcess]:
    """SGD on ½(θ ± 1)², one example at a time, and its equation at solver step 0."""
    landscape, one = ss.LeastSquares(*PAIR), ss.WithReplacement(1)
    equation = ss.ModifiedEquation(landscape, eta, ss.MinibatchNoise(one), order=order)
    return ss.SGD(landscape, eta, one), equation.limit()


def closure(order: int) -> np.ndarray:
    """Weak errors of E x on the quadratic, by moment closure."""
    sgd, equation = pair(QUADRATIC[0], order)
    found = theory.equations.weak_errors(
        sgd, equation, learning_rates=QUADRATIC, time=1.0, theta0=[1.0]
    )
    return found.mean[:, 0]


def controls() -> dict[str, np.ndarray]:
    """Errors of equations that are nearly that of order 2."""
    late = []
    for eta in LOGISTIC:
        # (1 + η) b and (1 + η) D run the clock to η(k+1) at T = 1.
        def equation(rate, g, bent, c):
            return -(1 + rate) * (g + rate / 2 * bent), (1 + rate) * rate / 2 * c

        late.append(exact("logistic", np.array([eta]), equation=equation)[0])
    rows = [
        exact("logistic", LOGISTIC, equation=lambda e, g, b, c: (-g - e * b, e / 2 * c)),
        exact(
            "logistic", LOGISTIC, equation=lambda e, g, b, c: (-g - e / 2 * b, np.sqrt(e) / 2 * c)
        ),
        np.array(late),
    ]
    return dict(zip(CONTROLS, rows, strict=True))


@functools.cache
def _predict(config: Config) -> dict:
    wide = np.unique(np.concatenate([QUADRATIC, LOGISTIC, np.array(config.learning_rates)]))[::-1]
    lines = {f"{name} {order}": exact(name, wide, order) for name in CASES for order in (1, 2)}
    runs = {
        f"{line} {eta:g}": float(values[np.argmin(abs(wide - eta))])
        for line, values in lines.items()
        for eta in config.learning_rates
    }
    small = np.isin(wide, LOGISTIC)
    fits = {f"quadratic {order}": (QUADRATIC, closure(order)) for order in (1, 2)}
    fits |= {
        f"logistic {order}": (wide[small], lines[f"logistic {order}"][small]) for order in (1, 2)
    }
    return {"fits": fits, "lines": lines, "rates": wide, "runs": runs, "controls": controls()}


def predict(config: Config) -> dict:
    """Exact errors for the fits, on a wide grid of η, at the η of the runs, and of the controls."""
    return _predict(config)


def left_over(config: Config, name: str, eta: float) -> float:
    """What the extrapolation leaves, h₁h₂h₃·|f| or less, as an allowance."""
    steps = eta / config.substeps * 0.5 ** np.arange(LEVELS)
    case = CASES[name]
    return float(np.prod(steps) * abs(case.of(jnp.array([case.start]))))


def sampled_order(config: Config, data: xr.Dataset, name: str, order: int) -> ss.Estimate:
    """Slope of log|error| of the Monte Carlo errors against log η, and its standard error.

    All rates weigh alike: weights from the sampling errors would leave only the largest, which
    are the farthest from the asymptote.
    """
    found = [get(data, f"{name} {order} {eta:g}") for eta in config.learning_rates]
    x = np.log(config.learning_rates)
    lever = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    size = np.array([abs(float(e.value)) for e in found])
    noise = np.array([float(e.standard_error) for e in found]) / size
    return ss.Estimate(
        float(lever @ np.log(size)), float(np.linalg.norm(lever * noise)), found[0].num_samples
    )


def check(config: Config, data: xr.Dataset, predicted) -> list[ss.Comparison]:
    """Fitted orders; Monte Carlo against exact errors; controls; the stationary variance."""
    rows = []

    def order_row(found, value, name, process="no sampling", expected="agree"):
        rows.append(
            ss.compare(
                found, float(value), resolution=0.1, name=name, process=process, expected=expected
            )
        )

    for name, fitted in predicted["fits"].items():
        found = theory.equations.fit_order(*fitted).order
        order_row(ss.Estimate(found, 0.0, 2), name[-1], f"{name[:-2]}: fitted order, E x")
    for name, errors in predicted["controls"].items():
        found = theory.equations.fit_order(LOGISTIC, errors).order
        label = f"logistic: order with {name}"
        order_row(ss.Estimate(found, 0.0, 2), 2, label, expected="deviate")
    for name, case in CASES.items():
        for order in (1, 2):
            found = sampled_order(config, data, name, order)
            order_row(found, order, f"{name}: fitted order, {case.label}", "Monte Carlo")
            for eta in config.learning_rates:
                label = f"{name} {order} {eta:g}"
                allowed = left_over(config, name, eta)
                for kind in ("", " plain"):
                    measured = get(data, label + kind)
                    error = float(np.hypot(measured.standard_error, allowed / 4.3))
                    without = ", without control variate" if kind else ""
                    rows.append(
                        ss.compare(
                            ss.Estimate(measured.value, error, measured.num_samples),
                            predicted["runs"][label],
                            name=f"{name}: weak error of {case.label} at η = {eta:g}{without}",
                            process=f"order {order}",
                        )
                    )
    eta = 0.1
    gaps = []
    for order in (1, 2):
        sgd, limit = (theory.stationary.covariance(process) for process in pair(eta, order))
        gaps.append(abs(limit - sgd).item())
    rows.append(
        ss.compare(
            ss.Estimate(gaps[1] / gaps[0], 0.0, 2),
            0.0,
            resolution=1.0,
            name="stationary variance: error of order 2 over that of order 1",
            process="no sampling",
            expected="deviate",
        )
    )
    return rows


def conclude(config: Config, data: xr.Dataset, comparisons: list[ss.Comparison]) -> str:
    """The orders in words."""
    values = predict(config)
    found = []
    for name, fitted in values["fits"].items():
        fit = theory.equations.fit_order(*fitted)
        found.append(f"{name[:-2]} {fit.order:.3f} ± {fit.uncertainty:.3f}")
    wrong = [
        f"{name} {theory.equations.fit_order(LOGISTIC, errors).order:.2f}"
        for name, errors in values["controls"].items()
    ]
    sampled = [sampled_order(config, data, name, order) for name in CASES for order in (1, 2)]
    slopes = ", ".join(f"{float(e.value):.3f} ± {float(e.standard_error):.3f}" for e in sampled)
    return (
        f"Orders, first and second: {', '.join(found)}. Controls: {', '.join(wrong)}. By Monte "
        f"Carlo on {' and '.join(CASES)}: {slopes}."
    )


def plot(config: Config, data: xr.Dataset, predicted):
    """|weak error| against η: exact lines, Monte Carlo points, controls."""
    figure, axes = new_figure(1, 2, width=5.4, height=4.0)
    for axis, (name, case) in zip(axes[0], CASES.items(), strict=True):
        for order, colour in ((1, "SGD"), (2, "SDE")):
            errors = np.abs(predicted["lines"][f"{name} {order}"])
            line = {"color": COLOURS[colour], "linewidth": 1, "label": f"order {order}, exact"}
            axis.loglog(predicted["rates"], errors, "-", **line)
            found = [get(data, f"{name} {order} {eta:g}") for eta in config.learning_rates]
            slope = sampled_order(config, data, name, order)
            fit = f"{float(slope.value):.3f} ± {float(slope.standard_error):.3f}"
            axis.errorbar(
                config.learning_rates,
                [abs(float(x.value)) for x in found],
                yerr=[float(x.standard_error) for x in found],
                fmt="o",
                markersize=4,
                capsize=2,
                color=COLOURS[colour],
                label=f"order {order}, Monte Carlo: slope {fit}",
            )
        if name == "logistic":
            for (control, errors), style in zip(
                predicted["controls"].items(), ("--", ":", "-."), strict=True
            ):
                axis.loglog(
                    LOGISTIC,
                    np.abs(errors),
                    style,
                    color=COLOURS["other"],
                    linewidth=1,
                    label=control,
                )
        axis.set_title(f"{name} loss, error of {case.label} at t = 1", fontsize=10)
        axis.set_xlabel("learning rate η")
        axis.set_ylabel("|weak error|, SDE − SGD (± 1 s.e.)")
        axis.legend(frameon=False, fontsize=7)
    return figure
