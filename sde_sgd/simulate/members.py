"""Which members of an ensemble a run moves, and how parts of it are put together again."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from sde_sgd._checks import check_list, in_brief


class Ensemble(eqx.Module):
    """The members that a run moves: all of an ensemble, or a part of it.

    - `size`: members of the whole ensemble; identities are 0 … size − 1.
    - `identities` (members,): of those that are moved, increasing.
    - `starts` (members, d): where these begin; `theta0`: what the user gave for them, from which
      those of the others follow.
    """

    size: int
    identities: np.ndarray
    starts: jax.Array
    theta0: Any

    @property
    def is_whole(self) -> bool:
        """Whether all members are moved."""
        return len(self.identities) == self.size

    def rows(self, padded: int) -> np.ndarray:
        """The identities of `padded` rows, increasing: the members', then those of idle rows.

        An idle row has an identity beyond the ensemble, which no other part has for a member.
        """
        idle = self.size + np.arange(padded - len(self.identities))
        return np.concatenate([self.identities, idle]).astype(np.uint32)

    def described(self) -> dict[str, Any]:
        """What a fingerprint says of it; that of a part names its members."""
        told = {"theta0": self.starts, "ensemble_size": self.size}
        return told if self.is_whole else told | {"members": in_ranges(self.identities)}


def check_identities(name: str, given: Any, size: int, of: str) -> range | np.ndarray:
    """Identities that a range or a list names, increasing; all `size` of them for None.

    Those of a range are not written out, as nobody knows yet whether they fit into memory.

    **Raises:** `ValueError` for none, for one that is named twice, and for what is no integer in
    [0, `size`), where `of` is the name of that number.
    """
    if given is None:
        return range(size)
    if not isinstance(given, range):
        given = check_list(name, given, f"range(0, {size})")
    if not len(given):
        raise ValueError(f"{name} is empty: give identities from 0 to {size - 1}.")
    looked_at = (given[0], given[-1]) if isinstance(given, range) else given
    bad = [i for i in looked_at if not _is_integer(i) or not 0 <= i < size]
    if bad:
        raise ValueError(
            f"{name} must be identities from 0 to {size - 1}, as {of}={size} is the size of the "
            f"whole; got {in_brief(bad[0])}."
        )
    if isinstance(given, range):
        return given if given.step > 0 else given[::-1]
    found, counts = np.unique(np.asarray(given, np.int64), return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{name} names {in_ranges(found[counts > 1], 5)} more than once: name each once."
        )
    return found


def as_array(identities: range | np.ndarray) -> np.ndarray:
    """Identities written out."""
    if isinstance(identities, range):
        return np.arange(identities.start, identities.stop, identities.step)
    return identities


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def in_ranges(identities: np.ndarray, most: int | None = None) -> str:
    """«0 … 5, 9, 12 … 20» of increasing identities; of more than `most` stretches the first."""
    ends = np.flatnonzero(np.diff(identities) != 1)
    first = identities[np.concatenate([[0], ends + 1])]
    last = identities[np.concatenate([ends, [len(identities) - 1]])]
    told = [f"{a} … {b}" if b > a else f"{a}" for a, b in zip(first, last, strict=True)]
    if most is not None and len(told) > most:
        told = [*told[:most], f"and {int((last - first + 1)[most:].sum())} more"]
    return ", ".join(told)


def check_cover(name: str, names: Sequence[str], parts: Sequence[np.ndarray], size: int) -> None:
    """Raises `ValueError` unless each of `size` identities is in one of the parts, and in one only.

    `name`: what is merged ("members"); `names`: how the parts are called in the message.
    """
    owner = np.full(size, -1)
    for i, identities in enumerate(parts):
        twice = np.asarray(identities[owner[identities] >= 0])
        if len(twice):
            other = int(owner[twice[0]])
            both = twice[owner[twice] == other]
            raise ValueError(
                f"{name} {in_ranges(both, 5)} are both in {names[other]} and in {names[i]}: "
                f"give each to one part only."
            )
        owner[identities] = i
    missing = np.flatnonzero(owner < 0)
    if len(missing):
        raise ValueError(
            f"{name} {in_ranges(missing, 5)} of {size} are in none of the parts: run them too, "
            f"with {name}=…, and merge all."
        )


def refuse_joined(name: str, size: int) -> None:
    """Raises `ValueError` where `jax.distributed` has joined processes and `name` is not given.

    Each of them would compute everything and write the same files.
    """
    count = jax.process_count()
    if count > 1:
        raise ValueError(
            f"jax.distributed has joined {count} processes, and each would compute all {size} "
            f"{name} and write the same files. Give each its own, {name}=range(a, b), a file of "
            f"its own, and put the parts together with ss.merge (for which processes need not be "
            f"joined); {name}=range({size}) if this one is meant to compute them all."
        )
