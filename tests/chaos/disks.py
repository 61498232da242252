"""Small disks that fill up, or become read-only, for the administrator too."""

import os
import subprocess
import time
from pathlib import Path


class Disk:
    """A tmpfs of some megabytes, mounted while the context lasts."""

    def __init__(self, path: Path, megabytes: int):
        self.path, self._size = path, megabytes

    def __enter__(self) -> "Disk":
        self.path.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={self._size}m", "tmpfs", str(self.path))
        return self

    def __exit__(self, *_) -> None:
        for _ in range(50):
            if subprocess.run(["umount", str(self.path)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)

    def fill(self, but: int = 0) -> None:
        """Leaves `but` bytes."""
        os.sync()
        room = os.statvfs(self.path)
        with open(self.path / "filler", "wb") as file:
            file.write(bytes(max(0, room.f_bavail * room.f_frsize - but)))

    def free(self) -> None:
        """Room again."""
        (self.path / "filler").unlink(missing_ok=True)

    def read_only(self) -> None:
        """Nobody writes any more."""
        self._mount("-o", "remount,ro", str(self.path))

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)


def can_mount(work: Path) -> bool:
    """Whether this user may: elsewhere full and read-only disks are not tried."""
    try:
        with Disk(work / "probe", 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
