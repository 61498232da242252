"""Bytes: what a computation holds while it runs, and what the machine has left."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import Var

# On a CPU a step that stays near its caches is quickest, and this much still fills the cores.
_CPU_WORK = 256 * 2**20
# Of XLA and LLVM on a CPU: 18 to 71 MB measured over least squares, MLPs, CNNs and a transformer.
_CPU_COMPILER = 64 * 2**20
# No machine has this much: what a cgroup without a limit says in its first version.
_NO_LIMIT = 2**60
_UNKNOWN = 4 * 2**30


def working_bytes() -> int:
    """Bytes that one compiled step of several members should hold.

    256 MB on a CPU, for its caches; half of the free memory of an accelerator.
    """
    free = _free_on(jax.local_devices()[0])
    return _CPU_WORK if free is None else max(free // 2, 2**20)


def compiler_bytes() -> int:
    """Bytes of the default device that a compiled program and its compiler keep."""
    return _CPU_COMPILER if jax.local_devices()[0].platform == "cpu" else 0


def available_memory() -> int:
    """Bytes that the default device would give now.

    An accelerator is asked for its own memory. A host has the least of what the operating system
    has left, the limits of the control groups (versions 1 and 2) around this process, and its
    own limit on addresses (`ulimit -v`).
    """
    free = _free_on(jax.local_devices()[0])
    if free is not None:
        return free
    return max(min([_free_on_host(), *control_group_limits(), *_address_limit()]), 0)


def _free_on(device: Any) -> int | None:
    """Free bytes of an accelerator; None on a host, and where a device does not say."""
    if device.platform == "cpu":
        return None
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


def _free_on_host() -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN


def control_group_limits(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes left under every memory limit of the control groups around this process.

    A group's page cache that nobody uses ("inactive_file") counts as free: the kernel takes it
    back before it refuses memory. `membership` and `root` are where Linux says which groups.
    """
    found = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            base = root / "unified" if (root / "unified").is_dir() else root
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        # Inside a container the path may be the host's, and then only the top is there.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            left = _left_in_group(base.joinpath(*parts[:depth]), *names)
            if left is not None:
                found.append(left)
    return found


def _left_in_group(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= _NO_LIMIT:
            return None
        used = int((folder / usage).read_text())
        stats = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
        return int(most) - used + int(stats.get(cache, 0))
    except (OSError, ValueError):
        return None


def _address_limit() -> list[int]:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return []
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return [soft]
    return [soft - pages * resource.getpagesize()]


def peak_bytes(function: Callable, *arguments: Any) -> int:
    """Bytes of a function's values at their fullest, before fusion: an upper bound.

    The arguments (arrays, or their shapes) are not counted.
    """
    return peak_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def peak_of(jaxpr: Any) -> int:
    """Largest total of live values while the equations of a program run in order."""
    last = {}
    for index, equation in enumerate(jaxpr.eqns):
        last.update((var, index) for var in equation.invars if isinstance(var, Var))
    # Arguments and constants are not counted, and results are held to the end.
    held = {var for var in jaxpr.outvars if isinstance(var, Var)}
    held.update(jaxpr.invars, jaxpr.constvars)
    live = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        inner = max((peak_of(sub) for sub in _inner(equation)), default=0)
        live += sum(_bytes(var) for var in equation.outvars)
        peak = max(peak, live + inner)
        for var in {var for var in equation.invars if isinstance(var, Var)} - held:
            if last[var] == index:
                live -= _bytes(var)
    return peak


def _inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr


def _bytes(var: Any) -> int:
    shape = getattr(var.aval, "shape", ())
    size = 1
    for extent in shape:
        size *= int(extent)
    return size * getattr(getattr(var.aval, "dtype", None), "itemsize", 4)
