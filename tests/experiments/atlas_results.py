"""Small results for the tests of the atlas, by the writer that every experiment has."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from rich.console import Console

import sde_sgd as ss
from experiments import _files as files, framework
from experiments.framework import single


def compared(name, process, predicted, measured, error=0.01, expected="agree"):
    """One row of a verdict."""
    estimate = ss.Estimate(np.asarray(measured, float), np.full(np.shape(measured), error), 1000)
    return ss.compare(estimate, predicted, name=name, process=process, expected=expected)


ROWS = {
    "sharp_or_flat_well": [
        compared("P(sharp), η=0.4, B=1, exact", "SGD", 0.2733, 0.2757),
        compared("P(sharp), η=0.4, B=1", "SDE", 0.3276, 0.3291),
        compared("P(sharp), η=0.4, B=1, against the SDE's", "SGD", 0.4, 0.2, expected="deviate"),
    ],
    "stationary_covariance": [
        compared("M", "SGD", np.eye(2), [[1.005, 0.0], [0.01, 1.0]]),
        compared("M", "SDE, h = η/substeps", np.eye(2), np.eye(2)),
        compared("M", "Euler, h = η", np.eye(2), [[1.0, 0.0], [0.5, 1.0]]),
    ],
    "sgld_logistic_posterior": [
        compared("excess <b>, none & more", "SGLD", 0.0, 0.37, expected="deviate"),
        compared("excess b, that of η → 0", "SGWORLD", 0.0, 0.002),
    ],
}  # fmt: skip


def put(out: Path, name: str, preset="smoke", seed=3, **changed):
    """A result of an experiment in `out`, by the writer that every experiment has."""
    module = framework.load(name)
    config = module.PRESETS["smoke"]
    figure = plt.figure(figsize=(4, 2))
    figure.add_subplot().plot([0, 1])

    class Made:
        __doc__ = module.__doc__
        Config = type(config)
        predict = staticmethod(lambda config: {})
        check = staticmethod(lambda config, data, predicted: ROWS[name])
        plot = staticmethod(lambda config, data, predicted: figure)

    values = framework.as_json(config) | changed
    described = files.Described(name, preset, seed, values, 75.0, False, "cpu", files.code())
    folder = out / name
    files.make_writable(folder)
    files.write_data(folder, xr.Dataset({"x": 1.0}), described)
    single._finish(Made, described, xr.Dataset(), folder, Console(quiet=True))
    plt.close(figure)


def edit(folder: Path, **changed):
    """Other values in a verdict.json."""
    path = folder / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def three(out: Path) -> Path:
    """Three results; one is of another version."""
    for name in ROWS:
        put(out, name)
    edit(out / "sgld_logistic_posterior", code="0123456789abcdef")
    return out
