"""What is run: four small problems with checkpoints, whose results are digests of all their bits.

Each reads a function of the user's from `helper.py` in its folder, and saves itself there as often
as it can.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import sde_sgd as ss
from sde_sgd.simulate import driver

HELPER = (
    "import jax.numpy as jnp\n\nSCALE = 1.0\n\n\ndef observe(x):\n    return SCALE * jnp.sum(x)\n"
)
EDITED = HELPER.replace("SCALE = 1.0", "SCALE = 2.0")


class Partial(Exception):
    """The run has stopped early and said so."""


def digest(tree: Any) -> str:
    """Of all bits of the arrays of a tree."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        hashed.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return hashed.hexdigest()[:16]


def _helper(folder: Path):
    spec = importlib.util.spec_from_file_location("helper", folder / "helper.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["helper"] = module
    spec.loader.exec_module(module)
    return module


def _landscape() -> ss.LeastSquares:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(24, 3))
    return ss.LeastSquares(inputs, inputs @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=24))


def _simulate(process: ss.AbstractProcess, num_steps: int, folder: Path, budget: float | None):
    measures = {
        "moments": ss.Moments(burn_in=5, every=2),
        "observed": ss.Moments(of=_helper(folder).observe),
        "passage": ss.FirstPassage(lambda x: x[0] > 0.5),
    }
    run = ss.simulate(
        process,
        jnp.zeros(3),
        num_steps=num_steps,
        ensemble_size=40,
        key=jr.key(3),
        measures=measures,
        record_every=num_steps // 8,
        chunk_size=16,
        budget=budget,
        checkpoint=ss.Checkpoint(folder / "saved.npz", every_seconds=0.0),
    )
    if not run.complete:
        raise Partial
    return run.positions, run.records, run.diverged_at, run.results


def sgd(folder: Path, budget: float | None):
    """Reshuffled SGD with momentum."""
    process = ss.SGD(_landscape(), 0.05, ss.RandomReshuffling(4), momentum=0.8)
    return _simulate(process, 12_000, folder, budget)


def sde(folder: Path, budget: float | None):
    """Its modified equation."""
    noise = ss.MinibatchNoise(ss.WithReplacement(4))
    process = ss.ModifiedEquation(_landscape(), 0.1, noise, substeps=3)
    return _simulate(process, 3_000, folder, budget)


def splitting(folder: Path, budget: float | None):
    """A rare event of Gaussian SGD, in several waves' worth of rounds."""
    found = ss.splitting(
        ss.GaussianSGD(ss.quadratic(1.0, 1.0), 0.1, ss.MinibatchNoise(ss.WithReplacement(1))),
        jnp.zeros(1),
        level=_helper(folder).observe,
        origin=-0.2,
        target=0.9,
        num_replicas=32,
        num_repetitions=8,
        num_levels=10,
        key=jr.key(5),
        num_paths=2,
        budget=budget,
        checkpoint=ss.Checkpoint(folder / "saved.npz", every_seconds=0.0),
    )
    if not found.complete:
        raise Partial
    return found.probabilities, found.reactive_time.value, found.extinct, found.paths


def side_by_side(folder: Path, budget: float | None):
    """Two ensembles of SGD, the SDE at two steps, the SDE."""
    sampling = ss.WithReplacement(4)
    found = ss.side_by_side(
        ss.SGD(_landscape(), 0.1, sampling),
        ss.ModifiedEquation(_landscape(), 0.1, ss.MinibatchNoise(sampling), substeps=2),
        jnp.zeros(3),
        num_steps=400,
        ensemble_size=48,
        key=jr.key(7),
        observables={"observed": _helper(folder).observe},
        distances=("energy",),
        num_bootstrap=10,
        budget=budget,
        checkpoint=ss.Checkpoint(folder / "saved", every_seconds=0.0),
    )
    if not found.complete:
        raise Partial
    verdicts = [(c.measured, c.standard_error, c.bias) for c in found.comparisons]
    return [run.positions for run in found.runs.values()], verdicts


PROBLEMS = {"SGD": sgd, "SDE": sde, "splitting": splitting, "side_by_side": side_by_side}


def prepare(folder: Path) -> None:
    """The folder of a problem, with the user's function in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helper.py").write_text(HELPER)


def solve(name: str, folder: Path, budget: float | None) -> str:
    """The digest of a problem. Stretches are short, so that it saves itself often."""
    driver._SEGMENT_SECONDS = 0.02
    return digest(PROBLEMS[name](folder, budget))
