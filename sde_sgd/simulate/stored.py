"""What a checkpoint keeps of a run, and how a run goes on from it."""

from pathlib import Path
from typing import Any, NamedTuple, TYPE_CHECKING

import jax
import numpy as np

from sde_sgd.simulate import checkpoint as ckpt
from sde_sgd.simulate.advance import Members

if TYPE_CHECKING:
    from sde_sgd.simulate.driver import Engine


class Stored(NamedTuple):
    """A run that stands still.

    `members` on the host, in the order of their identities; `records`: iterations (n,) and
    positions (n, members, d); `layout`: the chunk of each row, −1 at rest.
    """

    header: dict[str, Any]
    members: Members
    records: tuple[np.ndarray, np.ndarray] | None
    layout: np.ndarray


def header(engine: "Engine") -> dict[str, Any]:
    """What a checkpoint says of a run, beside its arrays."""
    return {
        "fingerprint": engine.fingerprint,
        "versions": ckpt.versions(),
        "done": engine.done,
        "seconds": engine.seconds,
        "member_steps": engine.member_steps,
        "look": engine.look,
        "cut": _cut(engine),
    }


def of_engine(engine: "Engine") -> Stored:
    """A run as it stands."""
    return Stored(header(engine), engine.gather(), engine.records(), engine.layout())


def save(engine: "Engine", path: Path) -> None:
    """Writes the whole state atomically."""
    told, members, records, layout = of_engine(engine)
    ckpt.save(path, told, [*jax.tree.leaves(members), *(records or ()), layout])


def as_stored(
    engine: "Engine", path: Path, told: dict[str, Any], arrays: list[np.ndarray]
) -> Stored:
    """Header and arrays of a file, as those of a run of the engine's process and measures.

    **Raises:** `ValueError` for arrays that do not fit.
    """
    leaves, structure = jax.tree.flatten(engine.form)
    count = len(leaves)
    number = len(arrays[0]) if arrays else 0
    wanted = [(number, *leaf.shape[1:], leaf.dtype) for leaf in leaves]
    recorded = 0 if engine.record_every is None else 2
    fits = wanted == [(*array.shape, array.dtype) for array in arrays[:count]]
    if not fits or len(arrays) != count + recorded + 1:
        raise ValueError(
            f"checkpoint={str(path)!r} was written by another version of this library: its "
            f"arrays do not fit. Choose another file or remove it."
        )
    records = (arrays[count], arrays[count + 1]) if recorded else None
    members = jax.tree.unflatten(structure, arrays[:count])
    return Stored(told, members, records, arrays[-1])


def restore(engine: "Engine", path: Path, total: int) -> None:
    """The engine goes on from a checkpoint of its own configuration, to iteration `total`."""
    told, arrays = ckpt.load(path, header(engine))
    if told["done"] > total:
        raise ValueError(
            f"checkpoint={str(path)!r} is at iteration {told['done']}, beyond "
            f"num_steps={total}: ask for at least as many, or choose another file."
        )
    stored = as_stored(engine, path, told, arrays)
    # Other chunks or devices: everybody moves again, until the next look.
    same = told["cut"] == _cut(engine)
    take(engine, stored, stored.layout if same else engine.layout())
    if same:
        engine.look = int(told["look"])


def take(engine: "Engine", stored: Stored, layout: np.ndarray) -> None:
    """Puts what is stored in place of an engine's members, records and clock."""
    engine.done, engine.seconds = int(stored.header["done"]), float(stored.header["seconds"])
    engine.member_steps = int(stored.header["member_steps"])
    engine.put(stored.members, layout)
    if stored.records is not None:
        engine.replace_records(*stored.records)


def _cut(engine: "Engine") -> list[int]:
    return [engine.plan.chunk_size, engine.plan.num_chunks, engine.plan.multiple]
