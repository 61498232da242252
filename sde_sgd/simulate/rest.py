"""Batches become smaller: members at rest leave them, and they are halved where memory ends."""

import jax
import numpy as np

from sde_sgd.simulate.advance import Members

# Bytes that pass through the steps between two looks at who rests: a second of work or more, which
# pays for the compilation of a smaller batch. It is counted and never timed, so that a resumed
# run cuts where the uninterrupted one did, and gives the same bits.
WORK_BYTES = 2e10


def next_look(done: int, rows: int, step_bytes: int) -> int:
    """The iteration at which members at rest are looked for again, with so many still moved."""
    return done + max(1, int(WORK_BYTES / max(rows * step_bytes, 1)))


def halved(rows: int, needed: int, multiple: int) -> int:
    """The last of rows, rows/2, rows/4, … (up to a multiple) that is ≥ needed; 0 for none."""
    while needed > 0:
        half = -(-rows // (2 * multiple)) * multiple
        if half < needed or half == rows:
            return rows
        rows = half
    return 0


def cut(chunk: Members, needed: np.ndarray, rows: int) -> tuple[Members, Members]:
    """`rows` members, all the needed among them, and the others."""
    host = jax.device_get(chunk)
    order = np.argsort(~needed, kind="stable")
    kept, left = (
        jax.device_put(jax.tree.map(lambda x, own=own: x[own], host))
        for own in (np.sort(order[:rows]), np.sort(order[rows:]))
    )
    return kept, left


def in_halves(chunk: Members, multiple: int) -> list[Members]:
    """The chunk as two, the first a multiple of `multiple`; as it is where that is all of it."""
    rows = len(chunk.identity)
    first = -(-rows // (2 * multiple)) * multiple
    if first == rows:
        return [chunk]
    pieces = (slice(first), slice(first, rows))
    return [jax.tree.map(lambda x, own=own: x[own], chunk) for own in pieces]
