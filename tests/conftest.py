"""float64, run-time shape and type checks on the whole package, four virtual CPU devices."""

import os
import signal
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The workers share the cores already: with a pool of threads in each, NumPy's small matrix products
# spin for the others' cores (the bootstrap of an energy distance then costs ten times the time).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4".strip()

import equinox as eqx
import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("sde_sgd", "beartype.beartype")


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Also where the tests run in the background of a shell, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def forget_what_was_compiled():
    """After each file in a worker of 2 GB: with all that it compiles it would grow to 4.5 GB."""
    yield
    pages = Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2e9:
        eqx.clear_caches()
        jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Files with a test marked `slow` first, the rest in their order.

    A long test that starts last leaves the other workers idle. Files stay whole, because their
    tests share fixtures and compiled functions; for the same reason `--dist worksteal`, which
    gives each worker one run of neighbours and moves tests only at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
