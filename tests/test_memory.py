"""Bytes: limits of control groups from simulated files, addresses, and peaks counted by hand."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_sgd import memory
from sde_sgd.memory import _address_limit, available_memory, control_group_limits, peak_bytes

SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
# The kernel counts both in memory.stat; only one of them belongs to the usage of its version.
DECOYS = {"inactive_file": "total_inactive_file", "total_inactive_file": "active_file"}


def group(folder, names, most, used, cache):
    """A control group's files: its limit, its usage, and page cache that nobody uses."""
    limit, usage, stat = names
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / usage).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{DECOYS[stat]} 7777\n{stat} {cache}\nfile 9\n")


def member(tmp_path, *lines):
    path = tmp_path / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_nested_groups_of_the_second_version(tmp_path):
    """limit − usage + inactive page cache of each group on the path; "max" is none."""
    root = tmp_path / "fs"
    group(root / "user", SECOND, 1000, 400, 50)
    group(root / "user/job", SECOND, "max", 300, 20)
    group(root / "user/job/step", SECOND, 500, 450, 30)
    group(root / "user/other", SECOND, 1, 1, 0)
    membership = member(tmp_path, "0::/user/job/step")
    assert control_group_limits(membership, root) == [650, 80]


def test_groups_of_the_first_version(tmp_path):
    """memory.limit_in_bytes below the controller's folder; 2⁶³ − 4096 is none."""
    root = tmp_path / "fs"
    group(root / "memory", FIRST, 2**63 - 4096, 10**9, 0)
    group(root / "memory/job", FIRST, 1000, 900, 200)
    group(root / "cpu/job", FIRST, 1, 1, 0)
    membership = member(tmp_path, "5:cpu,cpuacct:/job", "4:hugetlb,memory:/job", "1:name=systemd:/")
    assert control_group_limits(membership, root) == [300]


def test_both_versions_at_once(tmp_path):
    """The second version is in `unified` where both are mounted, and both limits hold."""
    root = tmp_path / "fs"
    group(root / "unified/a", SECOND, 70, 30, 5)
    group(root / "memory/a", FIRST, 60, 30, 2)
    assert control_group_limits(member(tmp_path, "3:memory:/a", "0::/a"), root) == [32, 45]


def test_a_path_of_the_host_and_files_that_are_not_there(tmp_path):
    """Of a path that a container does not see the top is there; no files, no limit."""
    root = tmp_path / "fs"
    group(root, SECOND, 100, 90, 1)
    assert control_group_limits(member(tmp_path, "0::/docker/0123"), root) == [11]
    (root / "memory.stat").unlink()
    assert control_group_limits(member(tmp_path, "0::/docker/0123"), root) == []
    assert control_group_limits(tmp_path / "none", root) == []


def test_the_limit_on_addresses(monkeypatch):
    """`ulimit -v` less the addresses in use; none if it is infinite."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert _address_limit() == []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**50, resource.RLIM_INFINITY))
    (left,) = _address_limit()
    with open("/proc/self/status") as lines:
        (used,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
    assert 2**50 - left == pytest.approx(used, rel=0.05)


def test_the_least_of_all_limits_is_available(monkeypatch):
    """min of the system's, the groups' and the addresses' bytes, never below zero."""
    monkeypatch.setattr(memory, "_free_on", lambda _: None)
    monkeypatch.setattr(memory, "_free_on_host", lambda: 50)
    for groups, addresses, least in (
        ([], [], 50),
        ([60, 40], [45], 40),
        ([60], [30], 30),
        ([-1], [], 0),
    ):
        monkeypatch.setattr(memory, "control_group_limits", lambda found=groups: found)
        monkeypatch.setattr(memory, "_address_limit", lambda found=addresses: found)
        assert available_memory() == least


@pytest.mark.parametrize(
    ("stats", "free", "working"),
    [
        ({"bytes_limit": 9 * 2**20, "bytes_in_use": 2**20}, 8 * 2**20, 4 * 2**20),
        ({"bytes_limit": 2**20, "bytes_in_use": 2**20}, 0, 2**20),
        ({}, None, 256 * 2**20),
    ],
    ids=["half of it", "full", "does not say"],
)
def test_an_accelerator_is_asked_for_its_own(monkeypatch, stats, free, working):
    """bytes_limit − bytes_in_use; a step takes half of it, and 1 MB at least."""

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert memory.working_bytes() == working
    if free is not None:
        assert available_memory() == free


# Peaks: arguments are not counted, a value is held until its last use.


def array(*shape, dtype=np.float64):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_peak_of_products():
    """AB is 8·n·m bytes; (AB)C holds AB beside the result, ((AB)C)D no longer AB."""
    a, b, c, d = array(3, 5), array(5, 7), array(7, 11), array(11, 2)
    assert peak_bytes(jnp.matmul, a, b) == 8 * 3 * 7
    assert peak_bytes(lambda *m: m[0] @ m[1] @ m[2], a, b, c) == 8 * (3 * 7 + 3 * 11)
    assert peak_bytes(lambda *m: m[0] @ m[1] @ m[2] @ m[3], a, b, c, d) == 8 * (3 * 7 + 3 * 11)
    single = [array(*m.shape, dtype=np.float32) for m in (a, b)]
    assert peak_bytes(jnp.matmul, *single) == 4 * 3 * 7


def test_peak_of_a_scan():
    """A scan of K steps holds its carry and its K results, and one step's values once."""

    def run(start, rows):
        return jax.lax.scan(lambda c, x: (c + jnp.exp(x), jnp.sum(x)), start, rows)

    for steps in (10, 1000):
        # exp x and c + exp x of one step, then the sum in place of exp x; the carry and K sums.
        step, whole = 8 * (4 + 4), 8 * (4 + steps)
        assert peak_bytes(run, array(4), array(steps, 4)) == step + whole


def test_peak_of_what_is_still_needed():
    """A result that is used on the way is held to the end; a constant was never counted."""
    constant = jnp.arange(4.0)

    def run(x):
        first = jnp.exp(x)
        second = jnp.sin(first)
        return first, jnp.cos(second * constant)

    assert peak_bytes(run, array(4)) == 8 * 4 * 3
