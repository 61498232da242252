"""Parts of an ensemble, which separate processes computed, as the one run that they are of."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np

from sde_sgd._checks import check_list, in_brief
from sde_sgd.simulate import checkpoint as ckpt, stored
from sde_sgd.simulate.driver import Engine
from sde_sgd.simulate.members import check_cover, Ensemble
from sde_sgd.simulate.run import Run
from sde_sgd.simulate.validate import check_memory, starts
from sde_sgd.simulate.warn import warn

T = TypeVar("T")

# What a part has of its own; whether `theta0` is that of the others its starts tell.
_OWN = {"members", "theta0"}


def merge(parts: Sequence[T | str | Path]) -> T:
    """The one run (or splitting) that all parts together are, as if it had been run at once.

    A part is a run with `simulate(..., members=...)`, a splitting with
    `splitting(..., repetitions=...)`, or the file that was their `checkpoint`. k processes that
    know nothing of each other (an array job, say) compute k parts of an ensemble:

    ```python
    def part(i):
        members = range(i * 2500, (i + 1) * 2500)
        return ss.simulate(sgd, theta0, num_steps=2000, ensemble_size=10_000, key=key,
                           measures=measures, members=members, checkpoint=f"part{i}.npz")

    whole = ss.merge([part(0), "part1.npz", "part2.npz", "part3.npz"])
    ```

    Files hold numbers and no functions: one part must be a run, which has the process and the
    measures. (`part(0)` computes nothing where its file is complete.) States, records and what
    measures have kept are put in the order of identities, and each result is then computed from
    all members at once, so that nothing is averaged over parts: a `FirstPassage` with refill has
    all exits of all lives over all time at risk, with the error from the spread over all members.
    The merged run can be extended, saved and merged no further. Its `seconds` and `member_steps`
    are the sums over parts.

    It is the whole run bit for bit where the parts moved in chunks of the size of the whole's
    (`chunk_size` in `simulate`, and the same in `splitting`), on one kind of machine, and no
    member at rest has left its chunk (long runs with exits, without refill). Otherwise random
    numbers are the same, and the rounding of compiled code may differ.

    **Raises:** `ValueError` for members (repetitions) that are in no part or in two, by name; for
    parts of other configurations, and what differs; for parts that have done different numbers of
    iterations; for copies that went through `pickle`. `MemoryError` where the whole does not fit.
    """
    given = check_list("parts", parts, "the runs of all parts")
    runs = [part for part in given if not isinstance(part, str | Path)]
    if not runs:
        raise ValueError(
            "merge needs a run among the parts: files hold numbers, and no process and measures. "
            "Give one part as simulate(..., members=..., checkpoint=its file), which goes on from "
            "that file and computes nothing where it is complete."
            if given
            else "parts is empty: give the runs of all parts, or their checkpoints and one run."
        )
    for i, part in enumerate(given):
        if not isinstance(part, str | Path) and type(part) is not type(runs[0]):
            raise ValueError(
                f"parts[{i}] is a {type(part).__name__} and another part is a "
                f"{type(runs[0]).__name__}: merge parts of one kind."
            )
    return merged(runs[0], given)


@functools.singledispatch
def merged(first: Any, parts: list[Any]) -> Any:
    """The parts as one result of the kind of `first`, which is the first of them in memory."""
    raise ValueError(
        f"parts must be runs, splittings or files of their checkpoints; got {in_brief(first)}."
    )


class Part(NamedTuple):
    """A part, and what a message calls it."""

    name: str
    stored: stored.Stored
    requested: int
    stopped: str

    @property
    def identities(self) -> np.ndarray:
        """Of its members, increasing."""
        return np.asarray(self.stored.members.identity, np.int64)

    @property
    def header(self) -> dict[str, Any]:
        """What its checkpoint says, or would."""
        return self.stored.header


@merged.register(Run)
def merge_runs(first: Run, parts: list[Any]) -> Run:
    """The run of all members, of runs and files of which `first` is one."""
    engines = {i: _engine(i, part) for i, part in enumerate(parts) if isinstance(part, Run)}
    place = min(engines)
    engine = engines[place]
    found = [
        _of_engine(name_of(i, part), engines[i])
        if isinstance(part, Run)
        else _of_file(name_of(i, part), file_of(i, part), engine)
        for i, part in enumerate(parts)
    ]
    names = [part.name for part in found]
    check_alike(names, [part.header["fingerprint"] for part in found], place, _OWN)
    _check_clocks(found)
    size = engine.ensemble.size
    check_cover("members", names, [part.identities for part in found], size)
    plan = engine.plan.of_all()
    check_memory(plan.bytes, None, f"the {size} members of {len(found)} parts")
    for part in found:
        _check_starts(part, engine, names[place])
    for part in found:
        if part.header["cut"][0] != plan.chunk_size:
            warn(
                f"{part.name} moved in chunks of {part.header['cut'][0]} members and "
                f"{names[place]} of {plan.chunk_size}: the merged run is right, and may differ "
                f"from that of the whole in rounding. Give all parts one chunk_size."
            )
            break

    order = np.argsort(np.concatenate([part.identities for part in found]))
    members = jax.tree.map(
        lambda *leaves: np.concatenate(leaves)[order], *(part.stored.members for part in found)
    )
    ensemble = Ensemble(
        size, np.arange(size), jax.device_put(members.start), engine.ensemble.theta0
    )
    whole = Engine(
        engine.process,
        engine.measures,
        ensemble,
        engine.key,
        plan,
        engine.record_every,
        engine.refill,
        None,
    )
    records = None
    if found[0].stored.records is not None:
        rows = [part.stored.records[1] for part in found if part.stored.records is not None]
        records = found[0].stored.records[0], np.concatenate(rows, axis=1)[:, order]
    header = {
        "done": found[0].header["done"],
        "seconds": sum(part.header["seconds"] for part in found),
        "member_steps": sum(part.header["member_steps"] for part in found),
    }
    layout = whole.layout()
    stored.take(whole, stored.Stored(header, members, records, layout), layout)
    whole.requested = max(part.requested for part in found)
    whole.stopped = next((part.stopped for part in found if part.stopped), "")
    masked = any(one.on_divergence == "mask" for one in engines.values())
    whole.on_divergence = "mask" if masked else "raise"
    run = Run(whole)
    for remark in run.remarks():
        warn(remark)
    return run


def name_of(place: int, part: Any) -> str:
    """What a message calls a part."""
    return f"parts[{place}] ({str(part)!r})" if isinstance(part, str | Path) else f"parts[{place}]"


def file_of(place: int, part: str | Path) -> Path:
    """The path of a part that is a file."""
    path = Path(part)
    if not path.is_file():
        raise ValueError(
            f"{name_of(place, part)} is no file: give the checkpoint of that part, or run it."
        )
    return path


def refuse_copy(name: str) -> NoReturn:
    """Says that a result which went through `pickle` cannot be merged, and what can."""
    raise ValueError(
        f"{name} is a copy, which holds what was found and not the state of its members: give "
        f"each part a checkpoint, and merge those files with one run."
    )


def check_alike(
    names: list[str], fingerprints: list[dict[str, Any]], place: int, own: set[str]
) -> None:
    """Raises `ValueError` unless all parts are of the configuration of the part at `place`.

    `own`: what a part has of its own. A user's version is compared where both have been given one.
    """
    ours = fingerprints[place]
    for name, theirs in zip(names, fingerprints, strict=True):
        left_out = own if "version" in theirs and "version" in ours else own | {"version"}
        pair = [{k: v for k, v in told.items() if k not in left_out} for told in (ours, theirs)]
        found = ckpt.differences(*pair)
        if found:
            raise ValueError(
                f"{name} is of another configuration than {names[place]}: {'; '.join(found[:4])}. "
                f"Run it again with that of the others, or leave it out."
            )


def _engine(place: int, run: Run) -> Engine:
    engine = run._engine
    if engine is None:
        refuse_copy(name_of(place, run))
    if engine.done != run.num_steps:
        raise ValueError(
            f"{name_of(place, run)} ended at iteration {run.num_steps} and has been extended to "
            f"{engine.done} since: merge the newest result."
        )
    return engine


def _of_engine(name: str, engine: Engine) -> Part:
    return Part(name, stored.of_engine(engine), engine.requested, engine.stopped)


def _of_file(name: str, path: Path, engine: Engine) -> Part:
    header, arrays = ckpt.read(path, stored.header(engine))
    check_alike([name, "the run"], [header["fingerprint"], engine.fingerprint], 1, _OWN)
    ckpt.warn_of_versions(header)
    found = stored.as_stored(engine, path, header, arrays)
    return Part(name, found, header["done"], "")


def _check_clocks(parts: list[Part]) -> None:
    first = max(parts, key=lambda part: part.header["done"])
    for part in parts:
        if part.header["done"] != first.header["done"]:
            raise ValueError(
                f"{part.name} has done {part.header['done']} iterations and {first.name} "
                f"{first.header['done']}: extend it, or resume it from its checkpoint, first."
            )


def _check_starts(part: Part, engine: Engine, other: str) -> None:
    """Raises `ValueError` for members that did not begin where `theta0` puts them."""
    theta0, size = engine.ensemble.theta0, engine.ensemble.size
    theirs = part.stored.members.start
    ours = np.asarray(starts(engine.process, theta0, size, engine.key, part.identities))
    # A sampler that is compiled for other numbers of members may round differently.
    near = np.sqrt(np.finfo(ours.dtype).eps) * max(np.abs(ours).max(), 1e-300)
    apart = np.abs(theirs - ours).max(axis=1) > near
    if apart.any():
        row = int(np.argmax(apart))
        raise ValueError(
            f"{part.name} has another theta0 than {other}: its member {part.identities[row]} began "
            f"at {in_brief(theirs[row])} and would have at {in_brief(ours[row])}. Run all parts "
            f"with the theta0 of the whole ensemble."
        )
