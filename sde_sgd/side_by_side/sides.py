"""Whether two processes can be compared at all, said before time is spent."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from sde_sgd._checks import check_whole
from sde_sgd.compare import sidak_threshold
from sde_sgd.landscapes.base import AbstractLandscape
from sde_sgd.processes.base import AbstractProcess
from sde_sgd.processes.batches import noise_factor
from sde_sgd.processes.clock import check_clocks
from sde_sgd.processes.rules import different_rules
from sde_sgd.simulate.warn import warn

# Fields that may differ although the loss is one: other starts or blocks change no value.
_SAME_LOSS = ("initial", "noise_form", "_block")


def check_sides(
    sgd: AbstractProcess, sde: AbstractProcess, num_steps: int, allow_different: bool
) -> None:
    """Raises `ValueError` for sides whose difference would say nothing about the SDE of SGD."""
    for name, process in (("sgd", sgd), ("sde", sde)):
        if not isinstance(process, AbstractProcess):
            raise ValueError(f"{name} must be a process such as ss.SGD; got {process!r}.")
    if sgd.landscape.dimension != sde.landscape.dimension:
        raise ValueError(
            f"The two processes live on landscapes of {sgd.landscape.dimension} and "
            f"{sde.landscape.dimension} dimensions; a comparison needs one landscape."
        )
    check_clocks(sgd, sde, num_steps)
    if sgd.weak_order is not None and sde.weak_order is None and not allow_different:
        raise ValueError(
            f"sgd is the equation {type(sgd).__name__} and sde the process {type(sde).__name__} "
            f"without a solver step, as if the arguments were swapped: give SGD first and its SDE "
            f"second (allow_different=True compares them as they are)."
        )
    found = differences(sgd, sde)
    if found and not allow_different:
        raise ValueError(
            f"The two sides differ in more than being SGD and its SDE: {'; '.join(found)}. Make "
            f"them equal, or pass allow_different=True if that difference is the question."
        )


def differences(sgd: AbstractProcess, sde: AbstractProcess) -> list[str]:
    """What differs between the sides beside the dynamics, each in a few words."""
    found = _landscapes(sgd.landscape, sde.landscape)
    factors = [noise_factor(process) for process in (sgd, sde)]
    if None not in factors and not np.isclose(*factors, rtol=1e-9):  # pyright: ignore
        found.append(
            f"the minibatch noise of SGD has the factor c = {factors[0]:.6g} and that of the SDE "
            f"c = {factors[1]:.6g} (another batch size or scheme)"
        )
    baths = [process.bath_temperature for process in (sgd, sde)]
    if not np.isclose(*baths, rtol=1e-6, atol=0):
        found.append(f"the baths have the temperatures {baths[0]:.6g} and {baths[1]:.6g}")
    rules = different_rules(sgd, sde)
    return [*found, rules] if rules else found


def _landscapes(one: AbstractLandscape, other: AbstractLandscape) -> list[str]:
    if one is other or bool(eqx.tree_equal(one, other)):
        return []
    if type(one) is not type(other):
        return [f"the landscapes are {type(one).__name__} and {type(other).__name__}"]
    names = [
        field.name
        for field in dataclasses.fields(one)
        if not _equal(getattr(one, field.name), getattr(other, field.name))
    ]
    told = [name for name in names if name not in _SAME_LOSS]
    return [f"the landscapes differ in {', '.join(told)}"] if told else []


def _equal(one: Any, other: Any) -> bool:
    return bool(eqx.tree_equal(one, other))


def check_members(ensemble_size: int) -> None:
    """Raises for less than two members; warns where no number of standard errors would do."""
    check_whole("ensemble_size", ensemble_size, 2)
    threshold = sidak_threshold(1, degrees_of_freedom=2 * (ensemble_size - 1))
    if threshold > 2 * sidak_threshold(1):
        warn(
            f"ensemble_size={ensemble_size} members cannot say that SGD and the SDE agree: with so "
            f"few the threshold is {threshold:.3g} standard errors, against "
            f"{sidak_threshold(1):.3g} with many. Take 6 or more."
        )
