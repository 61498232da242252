"""Files of comparisons, and figures that decide."""

import os

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
from tools import normal

import sde_sgd as ss
from sde_sgd.netcdf import write_dataset

INPUTS = normal(0, 16, 2)
LANDSCAPE = ss.LeastSquares(INPUTS, INPUTS[:, 0] + normal(1, 16))
SAMPLING = ss.WithReplacement(4)


@pytest.fixture(scope="module")
def both():
    """Eight members, two observables, all distances, common random numbers."""
    noise = ss.MinibatchNoise(SAMPLING)
    return ss.side_by_side(
        ss.GaussianSGD(LANDSCAPE, 0.2, noise),
        ss.ModifiedEquation(LANDSCAPE, 0.2, noise, substeps=2),
        jnp.ones(2), num_steps=6, ensemble_size=8, key=jr.key(7), snapshots=3, num_bootstrap=10,
        distances=("sliced", "energy", "wasserstein"), paired=True, resolution={"loss": 0.5},
        observables={"loss": LANDSCAPE.loss, "first": lambda x: x[0]}, progress=False,
    )  # fmt: skip


def test_a_saved_comparison_comes_back_whole(both, tmp_path):
    """Table, verdicts, arrays and figure of the file are those of the run."""
    path = tmp_path / "both.nc"
    both.save(path)
    again = ss.load_side_by_side(path)
    assert again.table == both.table and again.complete and again.runs == {}
    stored = xr.load_dataset(path, engine="h5netcdf")
    assert again.to_xarray().identical(stored)
    assert again.paired is not None and list(again.paired) == ["loss", "first"]
    for name, estimate in both.paired.items():
        np.testing.assert_array_equal(again.paired[name].value, estimate.value)
    assert again.figure().get_suptitle() == both.figure().get_suptitle()
    for name, error in both.step_errors.items():
        np.testing.assert_array_equal(again.step_errors[name].value, error.value)
    assert ss.load(path).identical(stored)
    with pytest.raises(FileNotFoundError, match=r"none.nc' does not exist"):
        ss.load_side_by_side(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("no netCDF")
    with pytest.raises(ValueError, match=r"cannot be read as a netCDF file"):
        ss.load_side_by_side(tmp_path / "text.nc")
    LANDSCAPE_RUN = xr.Dataset({"position": ("member", np.zeros(3))})
    write_dataset(LANDSCAPE_RUN, tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"not written by SideBySide.save: it has no"):
        ss.load_side_by_side(tmp_path / "run.nc")


def test_the_file_says_what_was_run(both):
    """(process, k, member) with t = ηk; η, B, N, d, key, versions; no commas in a name."""
    data = both.to_xarray()
    assert data.loss.dims == ("process", "k", "member") and data.loss.shape == (3, 4, 8)
    assert data.loss_mean.dims == ("process", "k") and data.sliced_excess.dims == ("k",)
    np.testing.assert_allclose(data.t, 0.2 * data.k)
    np.testing.assert_allclose(data.loss.mean("member"), data.loss_mean, rtol=1e-14)
    assert data.process.values.tolist() == ["SGD", "SGD (second ensemble)", "SDE"]
    assert not any("," in str(name) or " " in str(name) for name in data.variables)
    told = {
        "learning_rate": 0.2, "momentum": 0.0, "noise": "MinibatchNoise", "num_examples": 16,
        "sampling": "WithReplacement", "batch_size": 4, "dimension": 2, "substeps": 2,
        "members": 8, "num_steps": 6, "sgd": "GaussianSGD", "sde": "ModifiedEquation",
    }  # fmt: skip
    assert {name: data.attrs[name] for name in told} == told
    assert data.attrs["key"].tolist() == [0, 7]
    assert {"version.sde_sgd", "version.jax", "configuration"} <= set(data.attrs)
    assert data.loss_mean.attrs["num_samples"] == [8, 8, 8]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """A link stays a link; a failed write leaves the old file and no other."""
    target, link = tmp_path / "target.nc", tmp_path / "link.nc"
    link.symlink_to(target)
    write_dataset(xr.Dataset({"x": ("i", [1.0, np.nan])}), link)
    assert link.is_symlink() and xr.load_dataset(target).x.values[0] == 1
    write_dataset(xr.Dataset({"x": 2.0}), link)
    assert link.is_symlink() and xr.load_dataset(target).x == 2

    def fails(*arguments, **options):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        write_dataset(xr.Dataset({"x": 3.0}), link)
    assert xr.load_dataset(target).x == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.nc", "target.nc"]


def test_the_figure_decides(both):
    """η, B, N, d, members, substeps and verdicts in the title; members as points; linear scales."""
    figure = both.figure()
    title = figure.get_suptitle()
    for part in ("η = 0.2", "B = 4", "N = 16", "d = 2", "8 members", "substeps = 2", "mean loss"):
        assert part in title
    assert both.verdict in title
    laws = {axis.get_xlabel(): axis for axis in figure.axes}
    assert len(figure.axes) == 2 * 2 + 3
    for name in both.observables:
        axis = laws[f"{name} at t = 1.2"]
        (shown,) = [x for x in axis.lines if x.get_label() == "SDE"]
        rows = both.observables[name].samples["SDE"][-1]
        np.testing.assert_array_equal(shown.get_xdata(), rows)
        assert not axis.patches
    for axis in figure.axes:
        assert axis.get_xlabel() and axis.get_ylabel() and axis.get_yscale() == "linear"
        # Above the panel: off the data.
        assert axis.get_legend().get_bbox_to_anchor().y0 >= axis.bbox.y1 - 1
