"""How an ensemble is cut: chunks of members from memory, devices, segments from time."""

import dataclasses
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
_OTHERS = (
    "The devices of other processes move members of their own: give each process "
    "members=range(a, b), and put the parts together with ss.merge."
)


class Plan(eqx.Module):
    """Members in `num_chunks` chunks of `chunk_size`, the last padded with idle members.

    `num_members` of the `ensemble_size` are moved; `chunk_size` is that of the whole ensemble, as
    compiled code rounds by the shape of its arrays: a part has the bits of the whole.

    `capacity`: positions that a compiled call can record; `num_records`: that the run will;
    `held_bytes`: state and measures of one member; `row_bytes`: one position; `step_bytes`: one
    member's iteration.
    """

    ensemble_size: int = eqx.field(static=True)
    num_members: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    num_records: int = eqx.field(static=True)
    held_bytes: int = eqx.field(static=True)
    row_bytes: int = eqx.field(static=True)
    step_bytes: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    @property
    def num_chunks(self) -> int:
        """Chunks that the members fill."""
        return math.ceil(self.num_members / self.chunk_size)

    @property
    def padded(self) -> int:
        """Members simulated, the idle ones included."""
        return self.chunk_size * self.num_chunks

    @property
    def bytes(self) -> int:
        """What the run holds."""
        rows = max(self.num_members, self.chunk_size)
        return (
            2 * self.held_bytes * rows
            + self.step_bytes * self.chunk_size
            + self.capacity * self.row_bytes * self.chunk_size
            # Twice, as the pieces are joined at the end.
            + 2 * self.num_records * self.row_bytes * self.num_members
        )

    def of_all(self) -> "Plan":
        """The plan of all members of the ensemble, in chunks of the same size."""
        return dataclasses.replace(self, num_members=self.ensemble_size)

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
    # Of this process: arrays on the devices of another one could not be read here.
    everything = jax.local_devices()
    if isinstance(devices, int | np.integer):
        number = check_whole("devices", devices)
        if number > len(everything):
            raise ValueError(
                f"devices={devices}, and JAX sees {len(everything)} ({everything[0].platform})."
                + (f" {_OTHERS}" if jax.process_count() > 1 else "")
            )
        chosen = everything[:number]
    else:
        chosen = check_list("devices", devices, "jax.local_devices()")
        if not chosen:
            raise ValueError("devices is empty: give a number of devices or a list of them.")
        for i, device in enumerate(chosen):
            check_part(f"devices[{i}]", device, jax.Device, "one of jax.local_devices()")
            if device.process_index != jax.process_index():
                raise ValueError(
                    f"devices[{i}] belongs to process {device.process_index} of jax.distributed, "
                    f"and this is process {jax.process_index()}: take jax.local_devices(). "
                    f"{_OTHERS}"
                )
    return Mesh(np.array(chosen), ("members",), axis_types=(AxisType.Auto,))


def make_plan(
    ensemble_size: int,
    num_members: int,
    held_bytes: int,
    cost: StepCost,
    row_bytes: int,
    num_records: int | None,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> Plan:
    """Chunks whose members' steps fit a step's memory; `chunk_size` overrides.

    They are those of the whole ensemble, however few of its members are moved.
    """
    count = 1 if mesh is None else mesh.size
    if chunk_size is None:
        fitting = working_bytes() * count // max(cost.bytes, 1)
        chunk_size = count if cost.one_by_one else max(1, min(ensemble_size, fitting))
    num_chunks = math.ceil(ensemble_size / chunk_size)
    chunk = math.ceil(math.ceil(ensemble_size / num_chunks) / count) * count
    capacity = 0
    if num_records is not None:
        capacity = max(1, min(num_records, 4096, _RECORD_BYTES // max(row_bytes * chunk, 1)))
    return Plan(
        ensemble_size,
        num_members,
        chunk,
        capacity,
        num_records or 0,
        held_bytes,
        row_bytes,
        cost.bytes,
        mesh,
    )
