"""The command line: listing, options, replotting, exit codes, the shape of verdict.json."""

import dataclasses
import importlib.util
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import sde_sgd as ss
from experiments import __main__ as command, _files, framework, throughput
from sde_sgd.simulate.driver import Engine

KEYS = {
    "experiment", "claim", "source", "preset", "seed", "versions", "device", "seconds", "resumed",
    "checks", "config", "code",
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
            # As data.nc keeps it.
            kept = json.loads(json.dumps(dataclasses.asdict(config)))
            assert module.Config(**{k: framework.from_json(v) for k, v in kept.items()}) == config
        assert all(callable(getattr(module, f)) for f in ("measure", "predict", "check", "plot"))


def test_listing_and_unknown_names(capsys):
    """No argument lists the claims; unknown names and presets say what there is."""
    assert command.main([]) == 0
    assert "which_link_breaks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"'sidebyside'; the nearest are: side_by_side"):
        command.main(["sidebyside"])
    with pytest.raises(SystemExit, match="'smok'; the nearest are: smoke"):
        command.main(["side_by_side", "--preset", "smok"])
    with pytest.raises(SystemExit, match="Name an experiment first"):
        command.main(["--preset", "smoke"])


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
    # All is in data.nc; the other files are drawn and written from it.
    (folder / "config.json").write_text("{")
    (folder / "verdict.json").unlink()
    assert command.main([name, "--out", str(tmp_path), "--replot"]) == 1
    assert json.loads((folder / "verdict.json").read_text())["checks"] == first["checks"]
    assert json.loads((folder / "config.json").read_text())["config"]["num_steps"] == 20


@dataclasses.dataclass(frozen=True)
class Tiny:
    """An experiment of two runs."""

    rate: float = 0.1
    sizes: tuple[int, ...] = (3, 4)


def tiny_run(rate, size, key):
    process = ss.SGD(ss.quadratic(1.0, 1.0), rate, ss.WithReplacement(1))
    return ss.simulate(process, jnp.zeros(1), num_steps=40, ensemble_size=size, key=key).positions


@pytest.fixture
def tiny(monkeypatch):
    """An experiment called "tiny" whose runs are counted."""

    def measure(config, key):
        found = [tiny_run(config.rate, n, key)[:, 0] for n in config.sizes]
        return xr.Dataset(
            {f"x{n}": (f"member{n}", x) for n, x in zip(config.sizes, found, strict=True)}
        )

    def check(config, data, predicted):
        value = ss.Estimate(float(data.x3.mean()), 10.0, 3)
        return [ss.compare(value, predicted, name="mean", process="SGD")]

    module = SimpleNamespace(
        __doc__="Tiny.\n\nClaim: none.\n\nSource: none.\n",
        Config=Tiny,
        PRESETS={"smoke": Tiny(), "paper": Tiny(rate=0.2)},
        measure=measure,
        predict=lambda config: 0.0,
        check=check,
        plot=lambda config, data, predicted: plt.figure(),
    )
    monkeypatch.setattr(framework, "load", lambda name: module)
    yield module
    plt.close("all")


def positions(out):
    with xr.open_dataset(out / "tiny" / "data.nc", engine="h5netcdf") as data:
        return [data[name].values for name in ("x3", "x4")]


def iterations(monkeypatch):
    """Iterations that are run from now on, added up in a list."""
    counted, advance = [], Engine.advance

    def counting(self, length, blocks):
        counted.append(length * blocks)
        return advance(self, length, blocks)

    monkeypatch.setattr(Engine, "advance", counting)
    return counted


def test_an_interrupted_experiment_goes_on(tiny, tmp_path, monkeypatch, capsys):
    """resume(Ctrl-C(experiment)) = experiment, bit for bit, without the runs that were finished."""
    command.main(["tiny", "--out", str(tmp_path / "whole")])
    advance = Engine.advance

    def pressed(self, length, blocks):
        if self.plan.ensemble_size == 4 and self.done:
            signal.raise_signal(signal.SIGINT)
        return advance(self, length, blocks)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", pressed)
        with pytest.raises(SystemExit) as ended:
            command.main(["tiny", "--out", str(out)])
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 130 and "The same command goes on" in told
    (kept,) = (out / "tiny" / "unfinished").iterdir()
    assert len(list(kept.iterdir())) == 2 and not (out / "tiny" / "data.nc").exists()

    # A broken checkpoint is one sentence too.
    path = kept / "0001.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(SystemExit, match=r"0001\.npz.* is not a checkpoint .* remove it"):
        command.main(["tiny", "--out", str(out)])
    path.write_bytes(whole)

    # Another seed, preset or parameter starts anew and leaves what is kept.
    for other in (["--seed", "1"], ["--preset", "paper"], ["--rate", "0.3"]):
        counted = iterations(monkeypatch)
        command.main(["tiny", "--out", str(out), *other])
        told = " ".join(capsys.readouterr().out.split())  # lines are broken at the terminal's width
        assert sum(counted) == 80 and "runs of other arguments" in told
        assert [path.name for path in (out / "tiny" / "unfinished").iterdir()] == [kept.name]

    # So does other code.
    with monkeypatch.context() as patch:
        patch.setattr(_files, "code", lambda: "edited")
        counted = iterations(patch)
        command.main(["tiny", "--out", str(out)])
        assert sum(counted) == 80

    counted = iterations(monkeypatch)
    command.main(["tiny", "--out", str(out)])
    assert 0 < sum(counted) < 40
    assert json.loads((out / "tiny" / "verdict.json").read_text())["resumed"]
    assert not (out / "tiny" / "unfinished").exists()
    for ours, theirs in zip(positions(out), positions(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_that_cannot_be_written_is_refused_before_time_is_spent(
    tiny, tmp_path, monkeypatch
):
    """A file, a folder under a file, /proc, a folder in place of a result: one sentence each."""
    monkeypatch.setattr(tiny, "measure", lambda *_: pytest.fail("time is spent"))
    file = tmp_path / "file"
    file.write_text("kept")
    (tmp_path / "taken" / "tiny" / "verdict.json").mkdir(parents=True)
    (tmp_path / "used" / "tiny").mkdir(parents=True)
    (tmp_path / "used" / "tiny" / "unfinished").write_text("kept")
    long = tmp_path / ("x" * 300)
    for out in (file, file / "under", Path("/proc"), tmp_path / "taken", tmp_path / "used", long):
        with pytest.raises(SystemExit, match="--out: .* name another folder") as ended:
            command.main(["tiny", "--out", str(out)])
        assert "\n" not in str(ended.value)
    assert file.read_text() == "kept"


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**63) - 1])
def test_a_seed_of_more_than_64_bits_is_refused(seed, tiny, tmp_path):
    """−2⁶³ ≤ seed < 2⁶³, before anything is made."""
    with pytest.raises(SystemExit, match=f"--seed {seed} does not fit"):
        command.main(["tiny", "--out", str(tmp_path / "out"), f"--seed={seed}"])
    assert not (tmp_path / "out").exists()
    assert jr.key(2**63 - 1).shape == jr.key(-(2**63)).shape == ()


def test_replot_refuses_what_is_missing_broken_or_foreign(tiny, tmp_path, monkeypatch):
    """One sentence that names the file, and every file as it was."""
    command.main(["tiny", "--out", str(tmp_path)])
    path = tmp_path / "tiny" / "data.nc"
    verdict = (tmp_path / "tiny" / "verdict.json").read_bytes()
    whole = path.read_bytes()
    xr.Dataset({"x": 1.0}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    foreign = (tmp_path / "foreign.nc").read_bytes()
    of_another = whole.replace(b'"experiment": "tiny"', b'"experiment": "tidy"')
    for content in (b"", b"{}", whole[:100], whole[: len(whole) // 2], foreign, of_another):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=r"--replot: .*data\.nc") as ended:
            command.main(["tiny", "--out", str(tmp_path), "--replot"])
        assert "\n" not in str(ended.value) and path.read_bytes() == content
    path.unlink()
    for out in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit, match="run tiny without --replot first"):
            command.main(["tiny", "--out", str(out), "--replot"])
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "tiny" / "verdict.json").read_bytes() == verdict

    # Written by code that had other variables; an error of this very code stays what it is.
    path.write_bytes(whole)
    monkeypatch.setattr(tiny, "check", lambda config, data, predicted: data["not there"])
    with pytest.raises(KeyError):
        command.main(["tiny", "--out", str(tmp_path), "--replot"])
    monkeypatch.setattr(_files, "code", lambda: "newer")
    with pytest.raises(SystemExit, match="by another version of the code"):
        command.main(["tiny", "--out", str(tmp_path), "--replot"])


def test_a_full_disk_at_the_end_keeps_the_old_results_and_the_runs(tiny, tmp_path, monkeypatch):
    """One sentence; the same command then needs no iteration."""
    command.main(["tiny", "--out", str(tmp_path), "--seed", "1"])
    folder = tmp_path / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_files, "write_dataset", full)
        with pytest.raises(SystemExit, match="No space left.* The same command goes on"):
            command.main(["tiny", "--out", str(tmp_path)])
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    counted = iterations(monkeypatch)
    command.main(["tiny", "--out", str(tmp_path)])
    assert not counted and not (folder / "unfinished").exists()


def test_the_package_may_have_another_name():
    """A wheel has it as `sde_sgd.experiments`: no module says `experiments` by name."""
    root = Path(framework.__file__).parents[1]
    spec = importlib.util.spec_from_file_location("elsewhere", root / "__init__.py")
    sys.modules["elsewhere"] = importlib.util.module_from_spec(spec)
    try:
        own = importlib.import_module("elsewhere.framework")
        assert own.names() == framework.names()
        for name in own.names():
            assert own.load(name).__name__ == f"elsewhere.{name}"
        outside = {m for m in sys.modules if m.startswith("elsewhere")}
        assert "elsewhere.peers" in outside
    finally:
        for name in [m for m in sys.modules if m.startswith("elsewhere")]:
            del sys.modules[name]
    for file in root.rglob("*.py"):
        assert "from experiments" not in file.read_text(), file.name


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
