"""The weak orders of the modified equations of SGD: one and two, and what spoils them.

With t = ηk, C = Cov(ĝ) of one iteration and T fixed,

    order 1:  dX = −∇L dt + √η C^{1/2} dW,               E f(X_T) − E f(θ_k) = O(η),
    order 2:  dX = −∇(L + (η/4)|∇L|²) dt + √η C^{1/2} dW,                      O(η²).

Without sampling errors: on ½(x − γ)², γ = ±1, by moment closure for η = 2⁻⁴…2⁻⁸; on a logistic
loss, with real batches, by the master equation against Fokker–Planck for η = 2⁻³…2⁻⁶. By Monte
Carlo, on the same landscapes, for η ≥ 1/16, extrapolated in the solver step.

Claim: fitted orders are 1.0 ± .1 and 2.0 ± .1, by Monte Carlo too, which finds the exact errors;
(η/2)|∇L|² for (η/4)|∇L|², √η for η in the noise, and the time η(k+1) for ηk all lose the second
order. In the stationary state order 2 is the worse of the two.

Source: Li, Tai, E 2017 and 2019 (1511.06251, 1811.01558), Theorem 9; exact errors by moment closure
and backward equations (documented in sde_sgd.theory.orders).

Command: python -m experiments modified_equation_order --preset paper
"""

import dataclasses
import functools
from typing import Any

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
    """Parameters of the runs."""

    learning_rates: tuple[float, ...] = (0.25,)
    """η of the Monte Carlo runs"""
    substeps: tuple[int, ...] = (2,)
    """solver steps an iteration of the coarse run, by learning rate; the fine one takes twice"""
    ensemble_size: int = 200_000
    """independent members a process"""


PRESETS = {
    "smoke": Config(),
    "paper": Config((0.25, 0.125, 0.0625), (8, 4, 4), 1_000_000),
}
PAIR = (np.array([[1.0], [1.0]]), np.array([1.0, -1.0]))
SAMPLING = ss.WithReplacement(1)
QUADRATIC, LOGISTIC = 2.0 ** -np.arange(4, 9), 2.0 ** -np.arange(3, 7)
# On the quadratic the errors grow with x₀ and the sampling errors do not: far out they are seen.
STARTS = {"quadratic": 16.0, "logistic": 1.5}
CONTROLS = ("(η/2)|∇L|²", "√η in the noise", "t = η(k+1)")


@functools.cache
def landscape(name: str) -> ss.AbstractLandscape:
    """½(x − γ)², or a logistic loss with four examples and one weight."""
    if name == "quadratic":
        return ss.LeastSquares(*PAIR)
    inputs = jnp.array([[1.0], [-0.5], [1.5], [0.7]])
    return ss.LogisticRegression(inputs, jnp.array([1, 1, 0, 1]), l2=0.5, bias=False)


def position(theta):
    """x, the test function on the quadratic."""
    return theta[0]


def square(theta):
    """x², the test function on the logistic loss."""
    return theta[0] ** 2


FUNCTIONS = {"quadratic": position, "logistic": square}


def measure(config: Config, key) -> xr.Dataset:
    """Weak errors at T = 1 by Monte Carlo, by landscape, order and learning rate."""
    variables = {}
    for name in STARTS:
        for order in (1, 2):
            for eta, steps in zip(config.learning_rates, config.substeps, strict=True):
                key, own = jr.split(key)
                land, noise = landscape(name), ss.MinibatchNoise(SAMPLING)
                found = ss.weak_error(
                    ss.SGD(land, eta, SAMPLING),
                    ss.ModifiedEquation(land, eta, noise, order=order, substeps=steps),
                    jnp.array([STARTS[name]]),
                    num_steps=round(1 / eta),
                    ensemble_size=config.ensemble_size,
                    key=own,
                    of=FUNCTIONS[name],
                )
                put(variables, f"{name} {order} {eta:g}", found.error)
    return xr.Dataset(variables)


def scalar(rates, order=1, equation=None):
    """Exact weak errors of x² on the logistic loss."""
    return theory.weak_errors_scalar(
        landscape("logistic"),
        SAMPLING,
        of=square,
        learning_rates=rates,
        time=1.0,
        theta0=STARTS["logistic"],
        box=(-4.0, 4.0),
        order=order,
        equation=equation,
    ).errors


def exact(name: str, order: int, rates) -> np.ndarray:
    """Weak errors without sampling errors."""
    if name == "logistic":
        return scalar(rates, order)
    found = theory.weak_errors_least_squares(
        *PAIR,
        learning_rates=rates,
        noise_factor=1.0,
        time=1.0,
        theta0=[STARTS[name]],
        order=order,
    )
    return found.mean[:, 0]


def controls() -> dict[str, np.ndarray]:
    """Errors of equations that are nearly that of order 2."""
    late = []
    for eta in LOGISTIC:
        # (1 + η) b and (1 + η) D run the clock to η(k+1) at T = 1.
        def equation(rate, g, bent, c):
            return -(1 + rate) * (g + rate / 2 * bent), (1 + rate) * rate / 2 * c

        late.append(scalar(np.array([eta]), equation=equation)[0])
    return {
        CONTROLS[0]: scalar(LOGISTIC, equation=lambda e, g, b, c: (-g - e * b, e / 2 * c)),
        CONTROLS[1]: scalar(
            LOGISTIC, equation=lambda e, g, b, c: (-g - e / 2 * b, np.sqrt(e) / 2 * c)
        ),
        CONTROLS[2]: np.array(late),
    }


@functools.cache
def _predict(config: Config) -> dict:
    rates = {"quadratic": QUADRATIC, "logistic": LOGISTIC}
    values = {
        f"{name} {order}": exact(name, order, rates[name]) for name in STARTS for order in (1, 2)
    }
    runs = {
        f"{name} {order} {eta:g}": float(exact(name, order, np.array([eta]))[0])
        for name in STARTS
        for order in (1, 2)
        for eta in config.learning_rates
    }
    return {"errors": values, "runs": runs, "controls": controls(), "rates": rates}


def predict(config: Config) -> dict:
    """Exact errors on the grids of η, at the η of the runs, and those of the controls."""
    return _predict(config)


def left_over(config: Config, name: str, eta: float) -> float:
    """What Richardson leaves, ½h²·|f| at the finer step h, as an allowance."""
    steps = config.substeps[config.learning_rates.index(eta)]
    scale = abs(float(FUNCTIONS[name](np.array([STARTS[name]]))))
    return 0.5 * (eta / (2 * steps)) ** 2 * scale


def sampled_order(config: Config, data: xr.Dataset, order: int) -> ss.Estimate:
    """Slope of log|error| of the quadratic's Monte Carlo errors against log η, and its error.

    All rates weigh alike: weights from the sampling errors would leave only the largest, which
    are the farthest from the asymptote.
    """
    found = [get(data, f"quadratic {order} {eta:g}") for eta in config.learning_rates]
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

    def order_row(errors, rates, value, name, expected="agree"):
        fit = theory.fit_order(rates, errors)
        rows.append(
            ss.compare(
                ss.Estimate(fit.order, 0.0, 2),
                float(value),
                resolution=0.1,
                name=name,
                process="no sampling",
                expected=expected,
            )
        )

    for name in STARTS:
        for order in (1, 2):
            errors, rates = predicted["errors"][f"{name} {order}"], predicted["rates"][name]
            order_row(errors, rates, order, f"{name}: fitted order")
    for name, errors in predicted["controls"].items():
        order_row(errors, LOGISTIC, 2, f"logistic: order with {name}", "deviate")
    for name in STARTS:
        for order in (1, 2):
            for eta in config.learning_rates:
                label = f"{name} {order} {eta:g}"
                allowed = left_over(config, name, eta)
                measured = get(data, label)
                error = float(np.hypot(measured.standard_error, allowed / 4.3))
                rows.append(
                    ss.compare(
                        ss.Estimate(measured.value, error, measured.num_samples),
                        predicted["runs"][label],
                        name=f"{name}: weak error at η = {eta:g}",
                        process=f"order {order}",
                    )
                )
    for order in (1, 2) if len(config.learning_rates) > 2 else ():
        found = sampled_order(config, data, order)
        rows.append(
            ss.compare(
                found,
                float(order),
                # The exact errors at these rates have the slopes 1.06 and 2.05.
                resolution=0.1,
                name="quadratic: fitted order",
                process="Monte Carlo",
            )
        )
    eta = 0.1
    options: dict[str, Any] = {"learning_rate": eta, "noise_factor": 1.0}
    cov = theory.stationary_covariance_least_squares
    sgd = cov(*PAIR, time_step=eta, **options)[0, 0]
    gaps = [abs(cov(*PAIR, time_step=0.0, order=p, **options)[0, 0] - sgd) for p in (1, 2)]
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
    for name in STARTS:
        for order in (1, 2):
            fit = theory.fit_order(values["rates"][name], values["errors"][f"{name} {order}"])
            found.append(f"{name} {fit.order:.3f} ± {fit.uncertainty:.3f}")
    wrong = [
        f"{name} {theory.fit_order(LOGISTIC, errors).order:.2f}"
        for name, errors in values["controls"].items()
    ]
    text = f"Orders, first and second: {', '.join(found)}. Controls: {', '.join(wrong)}."
    if len(config.learning_rates) > 2:
        sampled = [sampled_order(config, data, order) for order in (1, 2)]
        slopes = ", ".join(f"{float(e.value):.3f} ± {float(e.standard_error):.3f}" for e in sampled)
        text += f" By Monte Carlo on the quadratic: {slopes}."
    return text


def plot(config: Config, data: xr.Dataset, predicted):
    """|weak error| against η: exact lines, Monte Carlo points, controls."""
    figure, axes = new_figure(1, 2, width=5.4, height=4.0)
    for axis, name in zip(axes[0], STARTS, strict=True):
        rates = predicted["rates"][name]
        for order, colour in ((1, "SGD"), (2, "SDE")):
            errors = np.abs(predicted["errors"][f"{name} {order}"])
            slope = theory.fit_order(rates, errors).order
            label = f"order {order}, exact: slope {slope:.2f}"
            wide = np.array(config.learning_rates)
            more = [abs(predicted["runs"][f"{name} {order} {eta:g}"]) for eta in wide]
            x, first = np.unique(np.concatenate([rates, wide]), return_index=True)
            y = np.concatenate([errors, more])[first]
            axis.loglog(x, y, "-", color=COLOURS[colour], linewidth=1, label=label)
            found = [get(data, f"{name} {order} {eta:g}") for eta in wide]
            axis.errorbar(
                wide,
                [abs(float(x.value)) for x in found],
                yerr=[float(x.standard_error) for x in found],
                fmt="o",
                markersize=4,
                capsize=2,
                color=COLOURS[colour],
                label=f"order {order}, Monte Carlo",
            )
        if name == "logistic":
            for (control, errors), line in zip(
                predicted["controls"].items(), ("--", ":", "-."), strict=True
            ):
                axis.loglog(
                    rates, np.abs(errors), line, color=COLOURS["other"], linewidth=1, label=control
                )
        f = "E x" if name == "quadratic" else "E x²"
        axis.set_title(f"{name} loss, error of {f} at t = 1", fontsize=10)
        axis.set_xlabel("learning rate η")
        axis.set_ylabel("|weak error|, SDE − SGD")
        axis.legend(frameon=False, fontsize=7)
    return figure
