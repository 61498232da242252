"""Parts of a splitting, which separate processes computed, as the one result that they are of."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sde_sgd.rare_events.campaign import Campaign, in_file
from sde_sgd.rare_events.result import refuse_extinction, Splitting
from sde_sgd.rare_events.wave import Finished, in_turn, ReactivePath
from sde_sgd.simulate import checkpoint as ckpt
from sde_sgd.simulate.members import check_cover
from sde_sgd.simulate.merging import check_alike, file_of, name_of, refuse_copy
from sde_sgd.simulate.warn import warn


class _Part(NamedTuple):
    """What a part has found; `header`: what its checkpoint says of it."""

    name: str
    identities: np.ndarray
    found: list[Finished]
    paths: list[ReactivePath]
    header: dict[str, Any]


def merge_splittings(first: Splitting, parts: list[Any]) -> Splitting:
    """The result of all repetitions, of results and files of which `first` is one."""
    campaigns = {i: _campaign(i, part) for i, part in enumerate(parts) if not _is_file(part)}
    place = min(campaigns)
    ours = campaigns[place]
    found = [
        _of_campaign(name_of(i, part), campaigns[i])
        if isinstance(part, Splitting)
        else _of_file(name_of(i, part), file_of(i, part), ours)
        for i, part in enumerate(parts)
    ]
    names = [part.name for part in found]
    check_alike(names, [part.header["fingerprint"] for part in found], place, {"repetitions"})
    for part in found:
        done = sum(len(one.probability) for one in part.found)
        if done != len(part.identities):
            raise ValueError(
                f"{part.name} has finished {done} of its {len(part.identities)} repetitions: "
                f"resume it first, with resume() or from its checkpoint."
            )
    size = ours.num_repetitions if ours.part is not None else ours.requested
    check_cover("repetitions", names, [part.identities for part in found], size)
    lanes = {part.header["lanes"] for part in found}
    if len(lanes) > 1:
        warn(
            f"The parts moved {' and '.join(map(str, sorted(lanes)))} replicas at a time: the "
            f"merged result is right, and may differ from that of the whole in rounding. Give all "
            f"parts one chunk_size."
        )

    order = np.argsort(np.concatenate([part.identities for part in found]))
    joined = Finished.join([one for part in found for one in part.found])
    whole = Campaign(ours.passage, ours.streams, ours.starts, ours.settings, size)
    whole.done = [jax.tree.map(lambda x: x[order], joined)]
    paths = [path for part in found for path in part.paths]
    whole.paths = in_turn(paths, ours.settings.num_paths)
    whole.requested = size
    whole.seconds = sum(part.header["seconds"] for part in found)
    whole.iterations = sum(part.header["iterations"] for part in found)
    result = Splitting(whole)
    refuse_extinction(whole, result)
    return result


def _is_file(part: Any) -> bool:
    return isinstance(part, str | Path)


def _campaign(place: int, part: Any) -> Campaign:
    campaign = part._campaign
    if campaign is None:
        refuse_copy(name_of(place, part))
    if campaign.requested != part.requested_repetitions:
        raise ValueError(
            f"{name_of(place, part)} was extended to {campaign.requested} repetitions since: "
            f"merge the newest result."
        )
    return campaign


def _of_campaign(name: str, campaign: Campaign) -> _Part:
    header = campaign.header()
    return _Part(
        name, campaign.identities(0, campaign.requested), campaign.done, campaign.paths, header
    )


def _of_file(name: str, path: Path, ours: Campaign) -> _Part:
    header, arrays = ckpt.read(path, ours.header())
    ckpt.warn_of_versions(header)
    found, paths, _ = in_file(header, arrays)
    identities = header["repetitions"]
    if identities is None:
        identities = range(header["requested"])
    return _Part(name, np.asarray(identities), found, paths, header)
