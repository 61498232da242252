"""Some repetitions in one batch: who is run, killed and cloned next, on the host's side."""

from typing import Any, NamedTuple, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from sde_sgd.rare_events.compiled import branch, create, replay, segment, words
from sde_sgd.rare_events.passage import BROKEN, REACHED, RUNNING

if TYPE_CHECKING:
    from sde_sgd.rare_events.campaign import Campaign

_create = eqx.filter_jit(create)
# Turns after which a wave is worth compiling for.
_LONG = 500
_NEVER = np.iinfo(np.int32).max


class SplittingError(RuntimeError):
    """Splitting cannot go on. `result` holds what was finished before (a `Splitting`)."""

    result: Any = None


class Settings(eqx.Module):
    """Numbers that say how a campaign is run; lanes and reps_at_once change no result."""

    num_replicas: int
    killed: int
    longest: int
    stride: int
    lanes: int
    num_paths: int
    reps_at_once: int


class Finished(eqx.Module):
    """What finished repetitions leave behind, (repetitions,) each.

    `cycle`: mean solver steps of a loop; `reactive`: mean solver steps of the paths that
    reached B (NaN without any); `top`: highest rung; `rounds` of killing.
    """

    probability: np.ndarray
    cycle: np.ndarray
    reactive: np.ndarray
    top: np.ndarray
    rounds: np.ndarray

    @staticmethod
    def join(parts: list["Finished"]) -> "Finished":
        """Repetitions one after the other."""
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)


class ReactivePath(NamedTuple):
    """A path to B: the `turn`-th that arrived of a repetition, positions (length, d)."""

    turn: int
    repetition: int
    positions: np.ndarray


def in_turn(paths: list[ReactivePath], wanted: int) -> list[ReactivePath]:
    """The first `wanted`: the first path of each repetition, then the second of each, …"""
    return sorted(paths, key=lambda path: (path.turn, path.repetition))[:wanted]


def below_threshold(
    rung: Int[np.ndarray, "reps n"], killed: int
) -> tuple[Int[np.ndarray, " reps"], Bool[np.ndarray, "reps n"]]:
    """The `killed`-th lowest of the highest rungs, and who is not above it: ties all die."""
    level = np.partition(rung, killed - 1, axis=1)[:, killed - 1]
    return level, rung <= level[:, None]


class Wave:
    """Some repetitions that are run together, asynchronously: none waits for another."""

    def __init__(self, campaign: "Campaign", first: int, count: int):
        self.campaign, self.first = campaign, first
        size = campaign.settings.num_replicas
        stride = campaign.settings.stride
        self.repetition = campaign.identities(first, count)
        blocks = self.repetition.astype(np.uint32)[:, None]
        identity = blocks * np.uint32(stride) + np.arange(size, dtype=np.uint32)
        theta = campaign.starts((self.repetition[:, None] * size + np.arange(size)).ravel())
        streams = campaign.streams
        self.replicas, self.rungs = _create(
            campaign.passage, theta, jnp.asarray(identity.ravel()), streams
        )
        shape = (count, size)
        self.rung = np.asarray(self.replicas.rung).reshape(shape).copy()
        self.outcome = np.zeros(shape, np.int32)
        self.steps = np.zeros(shape, np.int32)
        self.cycle = np.zeros(shape, np.int32)
        self.born = np.full(count, size, np.int64)
        self.rounds = np.zeros(count, np.int64)
        self.probability = np.ones(count)
        self.finished = np.zeros(count, bool)
        self.turns = 0
        self.lineages: list[list[tuple[int, int]]] | None = None
        if campaign.settings.num_paths:
            self.lineages = [[(int(i), 0)] for i in identity.ravel()]

    @property
    def arrays(self) -> list[np.ndarray]:
        """The host's arrays, in a fixed order."""
        return [
            self.rung,
            self.outcome,
            self.steps,
            self.cycle,
            self.born,
            self.rounds,
            self.probability,
            self.finished,
        ]

    def turn(self, length: int) -> tuple[int, float]:
        """One segment of the replicas that run, lowest repetition first, then the branchings.

        Returns member-iterations done and the share of the lanes that ended in it.
        """
        settings, total = self.campaign.settings, self.outcome.size
        running = np.flatnonzero(self.outcome.ravel() == RUNNING)[: settings.lanes]
        # The last replicas run in few lanes: worth a second executable in long waves only.
        self.turns += 1
        few = max(settings.lanes // 8, 1)
        width = few if self.turns > _LONG and len(running) <= few else settings.lanes
        index = np.full(width, total, np.int32)
        index[: len(running)] = running
        fixed = (self.campaign.passage, self.campaign.streams, index, np.asarray(length, np.int32))
        self.replicas, self.rungs, lanes, done = segment(fixed, self.replicas, self.rungs)
        count = len(running)
        self._take(running, lanes, count)
        # A clone has no loops of its own: the replica whose place it takes had.
        cycle = self.cycle.reshape(-1)
        cycle[running] = np.maximum(cycle[running], np.asarray(lanes.cycle)[:count])
        self._check(running)
        self._branch()
        ended = (np.asarray(lanes.outcome)[:count] != RUNNING).mean()
        return int(done) * count, float(ended)

    def _take(self, where: np.ndarray, lanes: Any, count: int) -> None:
        for name in ("rung", "outcome", "steps"):
            getattr(self, name).reshape(-1)[where] = np.asarray(getattr(lanes, name))[:count]

    def _check(self, running: np.ndarray) -> None:
        outcome, steps = self.outcome.ravel()[running], self.steps.ravel()[running]
        if (outcome == BROKEN).any():
            raise SplittingError(
                f"{int((outcome == BROKEN).sum())} replicas left the finite numbers, or their "
                f"level became NaN, before they reached A or B: lower the learning rate, or let "
                f"the target be reached earlier."
            )
        longest = self.campaign.settings.longest
        slow = (outcome == RUNNING) & (steps > longest * self.campaign.passage.process.substeps)
        if slow.any():
            inside = ~np.asarray(self.replicas.outside)[running[slow]]
            where = (
                "is still inside the surface: bring `surface` nearer to A"
                if inside.any()
                else "has reached neither A nor B: widen A (`origin`), or look for another "
                "attractor between them"
            )
            raise SplittingError(
                f"A replica ran longest={longest} iterations and {where}, or raise longest."
            )

    def _branch(self) -> None:
        """Kills and clones in all repetitions whose replicas have ended, until none has."""
        settings, size = self.campaign.settings, self.outcome.shape[1]
        top = self.campaign.passage.num_levels
        while True:
            ready = np.flatnonzero(~self.finished & (self.outcome != RUNNING).all(axis=1))
            if not len(ready):
                return
            level, dies = below_threshold(self.rung[ready], settings.killed)
            dies &= level[:, None] < top
            dead = dies.sum(axis=1)
            reached = (self.outcome[ready] == REACHED).mean(axis=1)
            self.probability[ready] *= np.where(level < top, 1 - dead / size, reached)
            ends = (level >= top) | (dead == size)
            self.finished[ready] = ends
            ready, dies, dead, level = ready[~ends], dies[~ends], dead[~ends], level[~ends]
            if not len(ready):
                continue
            self.rounds[ready] += 1
            rows, columns = np.nonzero(dies)
            rank = np.cumsum(dies, axis=1)[rows, columns] - 1
            number = self.born[ready][rows] + rank
            self.born[ready] += dead
            if (self.born[ready] >= settings.stride).any():
                raise SplittingError(
                    f"A repetition cloned {settings.stride} replicas without reaching B: the "
                    f"probability is beyond what this ladder can reach; check level and target."
                )
            repetition = self.repetition[ready[rows]].astype(np.uint64)
            identity = (repetition * settings.stride + number.astype(np.uint64)).astype(np.uint32)
            survivors = np.argsort(dies, axis=1, kind="stable")
            place = self._choose(identity, (size - dead)[rows])
            child = ready[rows] * size + columns
            parent = ready[rows] * size + survivors[rows, place]
            self._clone(child, parent, level[rows], identity)

    def _choose(self, identity: np.ndarray, count: np.ndarray) -> np.ndarray:
        """A uniform number below `count` for each new identity."""
        chosen = []
        for own, _ in self._padded(identity):
            chosen.append(np.asarray(words(self.campaign.streams, jnp.asarray(own))))
        word = np.concatenate(chosen)[: len(identity)].astype(np.uint64)
        return ((word * count.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)

    def _padded(self, values: np.ndarray, fill: int = 0):
        """Pieces of one size, the last filled up, and the part of it that is meant."""
        width = self.campaign.settings.lanes
        for i in range(0, len(values), width):
            piece = values[i : i + width]
            extra = np.full((width - len(piece), *values.shape[1:]), fill, values.dtype)
            yield np.concatenate([piece, extra]), slice(i, i + len(piece))

    def _clone(self, child, parent, level, identity) -> None:
        total, ages = self.outcome.size, np.zeros(len(child), np.int64)
        numbers = np.stack([child, parent, level], axis=1).astype(np.int32)
        pieces = zip(self._padded(numbers, total), self._padded(identity), strict=True)
        for (own, where), (new, _) in pieces:
            # Padding: a child out of range, whose parent only has to exist.
            parents = np.minimum(own[:, 1], total - 1)
            fixed = (self.campaign.passage, own[:, 0], parents, own[:, 2], new)
            self.replicas, self.rungs, born = branch(fixed, self.replicas, self.rungs)
            self._take(child[where], born, where.stop - where.start)
            ages[where] = np.asarray(born.age)[: where.stop - where.start]
        if self.lineages is not None:
            old = self.lineages[:]
            for c, p, number, age in zip(child, parent, identity, ages, strict=True):
                kept = [part for part in old[p] if part[1] < age or part[1] == 0]
                self.lineages[c] = [*kept, (int(number), int(age))]

    def prefix(self) -> int:
        """How many repetitions, from the first on, are finished without a gap."""
        return len(self.finished) if self.finished.all() else int(np.argmin(self.finished))

    def results(self, count: int) -> Finished:
        """Of the first `count` repetitions."""
        reached = self.outcome[:count] == REACHED
        with np.errstate(invalid="ignore"):
            reactive = np.where(reached, self.steps[:count], 0).sum(axis=1) / reached.sum(axis=1)
        probability = np.where(reached.any(axis=1), self.probability[:count], 0.0)
        loops = int(self.campaign.passage.last_crossing - self.campaign.passage.first_crossing)
        cycle = self.cycle[:count].mean(axis=1) / max(loops, 1)
        top = self.rung[:count].max(axis=1)
        return Finished(probability, cycle, reactive, top, self.rounds[:count])

    def paths(self, count: int, wanted: int, last: ReactivePath | None) -> list[ReactivePath]:
        """The first `wanted` reactive paths of `count` repetitions, and none that is after `last`.

        (length, d) positions by iteration each.
        """
        assert self.lineages is not None
        campaign, size = self.campaign, self.outcome.shape[1]
        reached = self.outcome[:count] == REACHED
        order = np.argsort(~reached, axis=1, kind="stable")
        numbers = self.repetition[:count].tolist()
        places = [
            (turn, r)
            for turn in range(int(reached.sum(axis=1).max(initial=0)))
            for r in range(count)
            if turn < reached[r].sum()
            and (last is None or (turn, numbers[r]) < (last.turn, last.repetition))
        ][:wanted]
        if not places:
            return []
        flat = [r * size + int(order[r, turn]) for turn, r in places]
        most = max(len(self.lineages[i]) for i in flat)
        identities = np.zeros((len(flat), most), np.uint32)
        ages = np.full((len(flat), most), _NEVER, np.int32)
        for row, i in enumerate(flat):
            followed, starts = zip(*self.lineages[i], strict=True)
            identities[row, : len(followed)], ages[row, : len(starts)] = followed, starts
        theirs = np.asarray(self.replicas.age)[flat].astype(int)
        repetition, number = np.divmod(identities[:, 0].astype(int), campaign.settings.stride)
        theta = campaign.starts(repetition * size + number)
        positions, begun = replay(
            campaign.passage,
            campaign.streams,
            theta,
            jnp.asarray(identities),
            jnp.asarray(ages),
            int(theirs.max()),
        )
        found = []
        rows = zip(places, np.asarray(positions), np.asarray(begun), theirs, strict=True)
        for (turn, r), path, own, end in rows:
            found.append(ReactivePath(turn, numbers[r], path[int(np.argmax(own)) : end + 1]))
        return found
