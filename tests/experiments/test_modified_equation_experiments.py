"""Predictions of the modified-equation experiments against theory's tables; their checks."""

import numpy as np
import pytest
import xarray as xr

import sde_sgd as ss
from experiments import (
    linear_scaling_breaks,
    modified_equation_order,
    momentum_modified_equation,
    square_root_scaling_adaptive,
    svag_converges,
    volterra_risk_curves,
)
from experiments.framework import put

# Exact values of all runs, with their label in the data and a small relative error.
CONFIGS = {
    svag_converges: svag_converges.Config(),
    momentum_modified_equation: momentum_modified_equation.Config(),
    linear_scaling_breaks: linear_scaling_breaks.Config(num_directions=2, num_examples=128),
}


def data_of(module, config, shift=0.0):
    """What a perfect measurement would hold, all values moved by a relative `shift`."""
    variables, predicted = {}, module.predict(config)
    if module is svag_converges:
        names = svag_converges.names(config)
    elif module is linear_scaling_breaks:
        names = linear_scaling_breaks.runs(config)
    else:
        names = [k for k in predicted if k[0].isdigit() and k[2:] in module.LABELS]
    for name in names:
        value = predicted[name] * (1 + shift)
        put(variables, name, ss.Estimate(value, 1e-4 * predicted[name], 4096))
    return xr.Dataset(variables)


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__.split(".")[1])
def test_checks(module):
    """Exact values pass every check; values 6 % off fail."""
    config = CONFIGS[module]
    for shift, outcome in ((0.0, True), (0.06, False)):
        rows = module.check(config, data_of(module, config, shift), module.predict(config))
        assert all(row.as_expected for row in rows) is outcome
    assert module.conclude(config, data_of(module, config), rows)
    assert module.plot(config, data_of(module, config), module.predict(config)).axes


def test_tables():
    """SVAG .1, .083333, .076923 and .0714286; heavy ball 2.878788 and 6; SignSGD .0062862."""
    svag = svag_converges.predict(svag_converges.Config())
    found = [svag[k] for k in ("SVAG(1)", "SVAG(2)", "SVAG(4)", "limit")]
    np.testing.assert_allclose(found, [0.1, 0.083333, 0.076923, 0.0714286], atol=5e-7)
    momentum = momentum_modified_equation.predict(momentum_modified_equation.Config())
    found = [momentum[f"{case} {k}"] for case in (0, 1) for k in ("heavy_ball", "limit")]
    np.testing.assert_allclose(found, [2.878788, 2.5, 6.0, 3.0], rtol=1e-6)
    sign = square_root_scaling_adaptive.predict(square_root_scaling_adaptive.Config())
    assert sign["formula"] == pytest.approx(0.0062862, abs=5e-8)
    assert sign["SignSGD"] == pytest.approx(0.0062862, rel=3e-3)
    # Of the chain's noise E e² ≈ (2/π)M belongs to the drift; Euler at h = ½ gives half of it back.
    exact = sign["SignSGD"] * (1 - sign["SignSGD"] / np.pi)
    assert sign["SignSGD SDE"] == pytest.approx(exact, rel=1e-3)


def test_orders_without_runs():
    """Exact errors in place of the runs come out as expected; those of the other order do not."""
    module, config = modified_equation_order, modified_equation_order.Config()
    predicted = module.predict(config)
    variables = {}
    for name, value in predicted["runs"].items():
        put(variables, name, ss.Estimate(value, 1e-3 * abs(value), 1000))
        put(variables, f"{name} plain", ss.Estimate(value, 1e-3, 1000))
    rows = module.check(config, xr.Dataset(variables), predicted)
    assert all(row.as_expected for row in rows)
    sampled = [row for row in rows if row.process == "Monte Carlo"]
    assert [float(row.predicted) for row in sampled] == [1, 2, 1, 2]
    one, two = "quadratic 1 0.25", "quadratic 2 0.25"
    swapped = variables | {one: variables[two], two: variables[one]}
    rows = module.check(config, xr.Dataset(swapped), predicted)
    assert not all(row.as_expected for row in rows)


def test_margin_of_the_rules():
    """A square-root rule no better than the linear one fails the check."""
    module = square_root_scaling_adaptive
    config = module.Config()
    predicted = module.predict(config)
    for linear, outcome in ((2.0, True), (1.01, False)):
        variables = {}
        for name in ("SignSGD", "SignSGD SDE"):
            put(variables, name, ss.Estimate(predicted[name], 1e-5 * predicted[name], 4096))
        for method in module.METHODS:
            for rule, factor in (("base", 1.0), ("square root", 1.01), ("linear", linear)):
                base = predicted[f"{method} SDE base"]
                put(variables, f"{method} {rule}", ss.Estimate(factor * base, 1e-3 * base, 4096))
                name = f"{method} SDE {rule}"
                if name in predicted:
                    value = predicted[name]
                    put(variables, name, ss.Estimate(value, 1e-3 * value, 4096))
        rows = module.check(config, xr.Dataset(variables), predicted)
        assert all(row.as_expected for row in rows) is outcome


def risks_of(config, shift=0.0):
    """Volterra experiment: exact means of both processes, moved by a relative `shift`."""
    module, variables = volterra_risk_curves, {}
    means = module.predict(config)["means"]
    for name, value in means.items():
        dims = (f"time {name.split()[1]}",)
        put(variables, name, ss.Estimate(value * (1 + shift), 1e-3 * value, 2560), dims)
        if name.endswith("below"):
            near = np.full(len(value), 0.01)
            put(variables, f"{name[:3]} scatter", ss.Estimate(near, 0.01 * near, 2560), dims)
    return xr.Dataset(variables)


def test_risk_curves():
    """Own exact means pass, 4 % off and the other process's means fail; theory's table."""
    module = volterra_risk_curves
    config = module.Config(dimension=64, dimension_beyond=64)
    predicted = module.predict(config)
    table = [0.100899, 0.047612, 0.010593, 0.003650, 0.002121]
    np.testing.assert_allclose(predicted["curves"]["volterra"], table, atol=6e-7)
    for shift, outcome in ((0.0, True), (0.04, False)):
        rows = module.check(config, risks_of(config, shift), predicted)
        assert all(row.as_expected for row in rows) is outcome
    data = risks_of(config)
    kinds = {"SGD beyond": "SDE beyond", "SDE beyond": "SGD beyond"}
    rows = module.check(config, data.rename(kinds), predicted)
    assert not all(row.as_expected for row in rows)
    assert module.conclude(config, data, rows)
    assert module.plot(config, data, predicted).axes


def test_scatter_of_a_mean():
    """σ/(√n μ) of a mean of n, and the error of that: normal samples, four standard errors."""
    values = 2 + 0.3 * np.random.default_rng(0).normal(size=(4000, 3))
    found = volterra_risk_curves.scatter(values, 25)
    assert np.all(np.abs(found.value - 0.03) < 4 * found.standard_error)
    np.testing.assert_allclose(found.standard_error, 0.03 / np.sqrt(2 * 4000), rtol=0.1)
