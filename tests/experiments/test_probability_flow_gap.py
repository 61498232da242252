"""The experiment on the probability flow: its checks on exact data, and on data of other laws."""

import numpy as np
import xarray as xr

from experiments import _flow, probability_flow_gap as experiment

CONFIG = experiment.Config(
    steps=(2, 5, 10),
    ensemble_size=2000,
    cells=100,
    kernel_size=60,
    tilts=(0.03, 0.3),
    bandwidths=(0.4,),
    relative_errors=(0.1,),
)


def exact_data(predicted):
    """What flows with no error of their own would give; controls are shifted by .2."""
    rng = np.random.default_rng(0)
    laws = predicted["densities"][1:]
    quantiles = np.stack([p.quantile(_flow.LEVELS) for p in laws])

    def sample(seed):
        levels = np.random.default_rng(seed).uniform(size=CONFIG.ensemble_size)
        return np.stack([p.quantile(levels) for p in laws])

    data = {
        "covariance δ=0": (("k", "i", "j"), predicted["covariance"]),
        "covariance δ=1": (("k", "i", "j"), 2 * predicted["covariance"]),
        "covariance δ=0.1": (
            ("k", "i", "j"),
            np.stack([law.covariance for law in predicted["gaussian"][0.1].laws]),
        ),
        "SDE members": (("k", "member"), sample(1)),
        "sample": (("recorded", "kernel member"), rng.normal(size=(6, 60))),
        "h=0.4 quantiles": (("k", "node"), quantiles + 0.1),
    }
    shifts = {"flow": 0.0} | dict.fromkeys(experiment.CONTROLS, 0.2)
    for name, shift in shifts.items():
        data[f"{name} members"] = (("k", "member"), sample(2) + shift)
        data[f"{name} quantiles"] = (("k", "node"), quantiles + shift)
    for a, made in predicted["tilts"].items():
        data[f"a={a:g} quantiles"] = (("k", "node"), quantiles + made.gap[-1])
    return xr.Dataset(data)


def unexpected(data, predicted):
    fresh = {name: value for name, value in predicted.items() if name != "laws"}
    return {
        f"{row.process}: {row.name}"
        for row in experiment.check(CONFIG, data, fresh)
        if not row.as_expected
    }


def test_laws_exchanged():
    """Exact data pass; those of the flow without ∇·D, and without the ½, fail their rows."""
    predicted = experiment.predict(CONFIG)
    data = exact_data(predicted)
    experiment.kernels(CONFIG, data, predicted)  # Of the sample, which stays the same.
    assert unexpected(data, predicted) == set()
    wrong = data.copy()
    for kind in ("members", "quantiles"):
        wrong[f"flow {kind}"] = data[f"no ∇·D {kind}"]
    wrong["covariance δ=0"] = data["covariance δ=1"]
    found = unexpected(wrong, predicted)
    assert any("covariance" in name for name in found)
    assert any("quantile" in name for name in found)
    assert any("Fokker–Planck" in name for name in found)
    assert not any(name.startswith("SDE") for name in found)
