"""What a comparison will cost, foreseen from a few iterations of each of its processes."""

import math
from typing import Any

from sde_sgd.processes.base import AbstractProcess
from sde_sgd.side_by_side.case import Case, make_case
from sde_sgd.side_by_side.ensembles import starts_of
from sde_sgd.simulate.engine import forecast
from sde_sgd.simulate.forecast import duration, Forecast
from sde_sgd.simulate.price import Price
from sde_sgd.terminal import StatusLine
from sde_sgd.types import Key

# Seconds from which on a run says beforehand what it will cost.
_WORTH_SAYING = 60
# Iterations from which on trying two of each process first costs little.
_MANY = 20


def forecast_side_by_side(
    sgd: AbstractProcess,
    sde: AbstractProcess,
    theta0: Any,
    *,
    num_steps: int,
    ensemble_size: int,
    key: Key,
    **options: Any,
) -> Price:
    """What `side_by_side` with the same arguments will take: a `Price`.

    Sums `forecast` over its ensembles: SGD twice, the SDE, and the SDE at its step and half of it
    on the fraction `step_check`. Each distinct process runs for a few iterations, as many as fit
    into about half a second, and at least two. `ratio_to_sgd` is the time of all over that of one
    ensemble of SGD; what an equation costs beside SGD, `gradients_per_iteration` says:
    substeps·N against B, so that the SDE takes about substeps·N/B times as long. With
    `substeps="auto"` it is the price of the first step that is tried: each further one costs more.
    Distances are not in it.

    **Arguments:** as `side_by_side`.
    """
    for name in ("progress", "checkpoint", "paired", "allow_deaths"):
        options.pop(name, None)
    sizes = dict(num_steps=num_steps, ensemble_size=ensemble_size, key=key)
    return price_of(make_case(sgd, sde, theta0, **sizes, **options))


def price_of(case: Case) -> Price:
    """The price of a comparison whose arguments are checked."""
    seconds = held = gradients = alone = 0.0
    for count, process, members, measures in _jobs(case):
        found = _forecast(case, process, members, measures)
        # Compiled once.
        again = found.seconds_per_iteration * case.num_steps
        seconds += found.seconds + (count - 1) * again
        held += count * found.bytes
        gradients += count * members * case.num_steps * process.gradients_per_iteration
        alone = alone or found.seconds
    return Price(seconds, held, gradients, seconds / alone)


def _jobs(case: Case) -> list[tuple[int, AbstractProcess, int, dict]]:
    """How many runs of which process, with how many members and which measures; SGD first."""
    jobs = [(2, case.sgd, case.ensemble_size, case.watched)]
    if case.check_members:
        m = case.sde.substeps
        for process in (case.sde.refined(m, 2), case.sde.refined(2 * m, 1)):
            jobs.append((1, process, case.check_members, case.own))
    return [*jobs, (1, case.sde, case.ensemble_size, case.watched)]


def _forecast(case: Case, process: AbstractProcess, members: int, measures: dict) -> Forecast:
    options = {name: x for name, x in case.shared.items() if name != "on_divergence"}
    return forecast(
        process,
        starts_of(case.starts, members),
        num_steps=case.num_steps,
        ensemble_size=members,
        key=case.keys[0],
        measures=measures,
        **options,
    )


def announce(case: Case, progress: bool | None) -> None:
    """Writes the price to stderr where progress is shown and it is more than a minute.

    SGD alone is tried first, and the rest foreseen from gradients: where that is less than a
    minute, or more than a tenth of the iterations would be spent on trying, no more is run.
    """
    line = StatusLine(progress)
    if not line.show:
        return
    price = _by_gradients(case)
    if price.seconds < _WORTH_SAYING:
        return
    if math.isnan(price.seconds) or case.num_steps >= _MANY:
        price = price_of(case)
    if price.seconds >= _WORTH_SAYING:
        line.close(price_line(case, price))


def _by_gradients(case: Case) -> Price:
    """As `price_of`, with every gradient at the time of one of SGD's, and compiled in no time."""
    jobs = _jobs(case)
    _, process, members, measures = jobs[0]
    found = _forecast(case, process, members, measures)
    counts = [n * members * process.gradients_per_iteration for n, process, members, _ in jobs]
    ratio = 2 * sum(counts) / counts[0]
    alone = found.seconds_per_iteration * case.num_steps
    held = float(sum(n * found.bytes for n, *_ in jobs))
    return Price(ratio * alone, held, sum(counts) * case.num_steps, ratio)


def price_line(case: Case, price: Price) -> str:
    """The price in one line."""
    least = "at least " if case.automatic else "about "
    text = (
        f"side_by_side: {least}{duration(price.seconds)} and {price.bytes / 1e9:.2g} GB, "
        f"{price.ratio_to_sgd:.3g} times one ensemble of SGD"
    )
    ratio = case.sde.gradients_per_iteration / case.sgd.gradients_per_iteration
    if math.isfinite(ratio):
        text += f"; an iteration of the SDE takes {ratio:.4g} times the gradients of one of SGD"
    return text + "."
