"""Estimates in the data set that `measure` returns."""

from typing import Any

import xarray as xr

import sde_sgd as ss


def put(data: dict[str, Any], name: str, estimate: ss.Estimate, dims: tuple[str, ...] = ()) -> None:
    """Stores an Estimate as `name`, `name_standard_error` and `name_num_samples`."""
    data[name] = (dims, estimate.value)
    data[f"{name}_standard_error"] = (dims, estimate.standard_error)
    data[f"{name}_num_samples"] = ((), estimate.num_samples)


def get(data: xr.Dataset, name: str) -> ss.Estimate:
    """The Estimate that `put` stored."""
    return ss.Estimate(
        data[name].values,
        data[f"{name}_standard_error"].values,
        int(data[f"{name}_num_samples"]),
    )
