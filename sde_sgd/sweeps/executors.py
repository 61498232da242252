"""Cells at work: one after another in this process, or sent to an executor."""

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import xarray as xr

from sde_sgd.terminal import Interrupt

_PAUSES = (0.01, 0.5)
Task = TypeVar("Task")


def check_executor(executor: Any) -> None:
    """Raises `ValueError` for what cannot be sent a job."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ValueError(
            f"executor must have a method submit, as those of concurrent.futures, loky, submitit "
            f"and dask.distributed's Client.get_executor() have; got {type(executor).__name__}."
        )


def outcomes(
    jobs: Sequence[tuple[Task, Callable[[], xr.Dataset]]], executor: Any
) -> Iterator[tuple[Task, xr.Dataset | Exception]]:
    """Each task with what its job gave, or the error that ended it, as they come.

    A Ctrl-C reaches the run that is under way, which saves itself where it has a checkpoint.
    """
    if executor is None:
        for task, job in jobs:
            yield task, _here(job)
    else:
        yield from _sent(jobs, executor)


def _here(job: Callable[[], xr.Dataset]) -> xr.Dataset | Exception:
    try:
        # A run that is asked to stop returns what it has: no cell may be made of that.
        with Interrupt(at_once=True):
            return job()
    except Exception as error:
        return error


def _sent(jobs: Sequence[tuple[Task, Any]], executor: Any) -> Iterator[tuple[Task, Any]]:
    # One array job of a cluster, where the executor makes them (submitit).
    together = executor.batch() if hasattr(executor, "batch") else contextlib.nullcontext()
    waiting: dict[int, tuple[Task, Any]] = {}
    try:
        with together:
            for number, (task, job) in enumerate(jobs):
                waiting[number] = task, _submit(executor, job)
        pause = _PAUSES[0]
        while waiting:
            ready = [number for number, (_, future) in waiting.items() if future.done()]
            pause = _PAUSES[0] if ready else min(2 * pause, _PAUSES[1])
            for number in ready:
                task, future = waiting.pop(number)
                yield task, _result(future)
            if waiting:
                time.sleep(pause)
    finally:
        for _, future in waiting.values():
            if hasattr(future, "cancel"):
                future.cancel()


def _submit(executor: Any, job: Any) -> Any:
    try:
        return executor.submit(job)
    except Exception as error:
        if not _is_of_pickle(error):
            raise
        raise ValueError(_ADVICE.format(f"{job.function!r}: {error}")) from error


def _result(future: Any) -> xr.Dataset | Exception:
    try:
        return future.result()
    except Exception as error:
        if _is_of_pickle(error):
            raise ValueError(_ADVICE.format(error)) from error
        return error


_ADVICE = (
    "The function of the sweep cannot be sent to another process ({}): define it at the top of a "
    "file that the workers can import, without a lambda or a function inside a function, or take "
    "an executor that sends code along (loky, submitit, Dask)."
)


def _is_of_pickle(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in text
    )
