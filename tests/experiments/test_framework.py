"""The command line: listing, options, replotting, exit codes, the shape of verdict.json."""

import dataclasses
import json

import pytest

from experiments import __main__ as command, framework, throughput

KEYS = {
    "experiment", "claim", "source", "preset", "seed", "versions", "device", "seconds", "checks",
}  # fmt: skip
ROW = {
    "name", "process", "predicted", "measured", "standard_error", "z", "expected", "verdict",
}  # fmt: skip


def test_every_experiment_follows_the_protocol():
    """A claim, a source, a command, a frozen Config, two presets, the four functions."""
    assert {"side_by_side", "stationary_covariance", "throughput", "which_link_breaks"} <= set(
        framework.names()
    )
    for name in framework.names():
        module = framework.load(name)
        for word in ("Claim", "Source", "Command"):
            assert framework.headline(module, word), (name, word)
        assert {"smoke", "paper"} <= set(module.PRESETS)
        for config in module.PRESETS.values():
            with pytest.raises(dataclasses.FrozenInstanceError):
                config.seed = 1
        assert all(callable(getattr(module, f)) for f in ("measure", "predict", "check", "plot"))


def test_listing_and_unknown_names(capsys):
    """No argument lists the claims; unknown names and presets say what there is."""
    assert command.main([]) == 0
    assert "which_link_breaks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="side_by_side"):
        command.main(["no_such_experiment"])
    with pytest.raises(SystemExit, match="smoke"):
        command.main(["side_by_side", "--preset", "huge"])


def test_files_exit_code_and_replot(tmp_path, monkeypatch):
    """A small run writes four files; --replot needs no simulation and repeats the verdicts."""
    name = "finite_learning_rate_variance"
    arguments = [
        name, "--out", str(tmp_path), "--ensemble-size", "8", "--num-steps", "20", "--seed", "4",
    ]  # fmt: skip
    # So few members are not precise enough: the command must say so.
    assert command.main(arguments) == 1
    folder = tmp_path / name
    assert {"config.json", "data.nc", "figure.png", "verdict.json"} <= {
        path.name for path in folder.iterdir()
    }
    first = json.loads((folder / "verdict.json").read_text())
    assert set(first) == KEYS and first["seed"] == 4
    assert all(set(row) == ROW for row in first["checks"])
    (folder / "figure.png").unlink()

    module = framework.load(name)
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("--replot must not simulate"))
    assert command.main([name, "--out", str(tmp_path), "--replot"]) == 1
    again = json.loads((folder / "verdict.json").read_text())
    assert again["checks"] == first["checks"] and (folder / "figure.png").is_file()
    with pytest.raises(SystemExit, match="earlier run"):
        command.main([name, "--out", str(tmp_path / "empty"), "--replot"])


def test_throughput_rows_can_fail():
    """A ratio short of its bound by more than its error is «disagrees», one above it agrees."""
    import xarray as xr

    name, cost = "SGD, MLP, against a scan", "SDE step, MLP, against gradient and random numbers"

    def verdict(row, values):
        data = xr.Dataset({"ratio": (("row", "repetition"), [values])}, {"row": [row]})
        config = throughput.PRESETS["smoke"]
        return throughput.check(config, data, throughput.predict(config))[0].verdict

    assert verdict(name, [0.95, 0.96, 0.97]) == "agrees"
    assert verdict(name, [0.50, 0.51, 0.52]) == "disagrees"
    assert verdict(cost, [1.0, 1.01, 0.99]) == "agrees"
    assert verdict(cost, [1.5, 1.51, 1.52]) == "disagrees"
