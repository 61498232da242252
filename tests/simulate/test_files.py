"""What a write leaves behind: the whole new file, or the old one."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from sde_sgd.netcdf import replace_file, write_dataset

# A file may not grow beyond 64 kB, which is to a program what a full disk is.
FULL = """
import os, resource, signal, sys
import numpy as np, xarray as xr
from sde_sgd.netcdf import write_dataset
path = sys.argv[1]
write_dataset(xr.Dataset({"x": ("k", np.arange(3.0))}), path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    write_dataset(xr.Dataset({"x": ("k", np.arange(1e5))}), path)
except OSError as error:
    print(error.errno, str(error).count("\\n"), os.path.basename(path) in str(error))
"""


def data(n=3):
    return xr.Dataset({"x": ("k", np.arange(float(n)))}, attrs={"learning_rate": 0.1})


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path):
    """An OSError of one line with the file's name; the old file is whole, and nothing beside it."""
    path = tmp_path / "run.nc"
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=120
    )
    assert (child.returncode, child.stdout.split()) == (0, [str(errno.EFBIG), "0", "True"])
    with xr.open_dataset(path, engine="h5netcdf") as old:
        np.testing.assert_array_equal(old["x"], [0, 1, 2])
    assert os.listdir(tmp_path) == ["run.nc"]


def test_a_link_stays_a_link(tmp_path):
    """The file behind a link is replaced, with its permissions; the link still leads to it."""
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "run.nc", tmp_path / "link.nc"
    write_dataset(data(), target)
    target.chmod(0o640)
    link.symlink_to(target)
    write_dataset(data(5), link)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o640
    with xr.open_dataset(target, engine="h5netcdf") as new:
        assert new.sizes["k"] == 5 and new.attrs["learning_rate"] == 0.1
    assert sorted(os.listdir(tmp_path / "far")) == ["run.nc"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_stops_half_way(error, tmp_path):
    """The old bytes stay whatever ends the write, and no half file lies beside them."""
    path = tmp_path / "state"
    replace_file(path, lambda file: file.write(b"old"))

    def half(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, half)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["state"]


def test_where_nothing_can_be_written(tmp_path):
    """A missing folder and a folder in place of a file are named, in one line."""
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist: create it"):
        write_dataset(data(), tmp_path / "nowhere" / "run.nc")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        write_dataset(data(), tmp_path)
    write_dataset(data(), tmp_path / ("n" * 250))
