"""Experiment on reading equations: its checks on exact data, and on the wrong process's."""

import numpy as np
import xarray as xr

import sde_sgd as ss
from experiments import _readings as problems, identify_sde_from_sgd as experiment
from experiments.framework import put


def store(config, predicted, swapped=False):
    """Exact values with small errors, 4096 members; `swapped`: SGD's data are the SDE's."""
    data = {}

    def add(name, value, dims, error=1e-5):
        value = np.asarray(value, float)
        put(data, name, ss.Estimate(value, np.full(value.shape, error), 4096), dims)

    for process in problems.PROCESSES:
        source = "SDE" if swapped else process
        for name in problems.READINGS:
            add(f"{process} {name} drift", predicted[source, name].drift, ("b",))
            add(f"{process} {name} rate", predicted[source, name].variance_rate, ("a",))
        for name in ("naive", "centred", "naive, long lag"):
            drift, rate = predicted[source, "well", name]
            add(f"{process} well {name} drift", drift, ("x",))
            add(f"{process} well {name} rate", rate, ("x",))
        for name in ("centred", "log map", "snapshots", "half"):
            data[f"{process} {name} coverage"] = (
                ("c",),
                np.full(5, 0.7 if name == "half" else 0.95),
            )
    drift, noise = problems.truth(config.plane_learning_rate)
    for name in ("centred", "naive"):
        extra = 0.01 if name == "naive" else 0.0
        add(f"plane {name} drift", drift, ("i", "k"))
        add(f"plane {name} rate", noise + extra, ("i", "j", "q"))
    return xr.Dataset(data)


def test_processes_are_told_apart():
    """Exact data pass every row; the SDE's data under the name of SGD fail SGD's rows only."""
    config = experiment.Config(substeps=2)
    predicted = experiment.predict(config)
    rows = experiment.check(config, store(config, predicted), predicted)
    assert [row.name for row in rows if not row.as_expected] == []
    rows = experiment.check(config, store(config, predicted, swapped=True), predicted)
    wrong = [row for row in rows if not row.as_expected]
    assert len(wrong) > 15 and {row.process for row in wrong} == {"SGD"}
    assert {"centred: drift is −∇L", "centred: a is ηcΣ"} <= {row.name for row in wrong}
