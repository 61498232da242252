"""How an ensemble is cut: chunks of members from memory, devices, segments from time."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sde_sgd._checks import check_list, check_part, check_whole
from sde_sgd.memory import working_bytes
from sde_sgd.simulate.advance import StepCost

_RECORD_BYTES = 64 * 2**20


class Plan(eqx.Module):
    """Members in `num_chunks` chunks of `chunk_size`, the last padded with idle members.

    `capacity`: positions that a compiled call can record; `bytes`: what the run holds;
    `row_bytes`: of one position; `step_bytes`: of one member's iteration.
    """

    ensemble_size: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)
    num_chunks: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    bytes: int = eqx.field(static=True)
    row_bytes: int = eqx.field(static=True)
    step_bytes: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    @property
    def padded(self) -> int:
        """Members simulated, the idle ones included."""
        return self.chunk_size * self.num_chunks

    @property
    def multiple(self) -> int:
        """Devices, over which a chunk must divide."""
        return 1 if self.mesh is None else self.mesh.size

    def place(self, tree: Any) -> Any:
        """Puts a chunk on the devices, members split over them."""
        if self.mesh is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec("members")))


def make_mesh(devices: int | Sequence[Any] | None) -> Mesh | None:
    """A mesh with one axis, members, over some devices; None for the default device."""
    if devices is None:
        return None
    everything = jax.devices()
    if isinstance(devices, int | np.integer):
        number = check_whole("devices", devices)
        if number > len(everything):
            raise ValueError(
                f"devices={devices}, and JAX sees {len(everything)} ({everything[0].platform})."
            )
        chosen = everything[:number]
    else:
        chosen = check_list("devices", devices, "jax.devices()")
        if not chosen:
            raise ValueError("devices is empty: give a number of devices or a list of them.")
        for i, device in enumerate(chosen):
            check_part(f"devices[{i}]", device, jax.Device, "one of jax.devices()")
    return Mesh(np.array(chosen), ("members",), axis_types=(AxisType.Auto,))


def make_plan(
    ensemble_size: int,
    held_bytes: int,
    cost: StepCost,
    row_bytes: int,
    num_records: int | None,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> Plan:
    """Chunks whose members' steps fit a step's memory; `chunk_size` overrides."""
    count = 1 if mesh is None else mesh.size
    if chunk_size is None:
        fitting = working_bytes() * count // max(cost.bytes, 1)
        chunk_size = count if cost.one_by_one else max(1, min(ensemble_size, fitting))
    num_chunks = math.ceil(ensemble_size / chunk_size)
    chunk = math.ceil(math.ceil(ensemble_size / num_chunks) / count) * count
    capacity = 0
    if num_records is not None:
        capacity = max(1, min(num_records, 4096, _RECORD_BYTES // max(row_bytes * chunk, 1)))
    total = (
        2 * held_bytes * ensemble_size
        + cost.bytes * chunk
        + capacity * row_bytes * chunk
        # Twice, as the pieces are joined at the end.
        + 2 * (num_records or 0) * row_bytes * ensemble_size
    )
    chunks = math.ceil(ensemble_size / chunk)
    return Plan(ensemble_size, chunk, chunks, capacity, total, row_bytes, cost.bytes, mesh)
