"""A disk of a few megabytes that really fills up: a tmpfs in its own mount namespace.

The namespace lives as long as the process that holds it, which ends with the test however that ends: nothing is ever
mounted where anybody else could see it, and nothing is left to unmount. Only root may do so.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT


@dataclass(frozen=True)
class SmallDisk:
    """The disk is mounted at `folder`, for commands that begin with `command` only."""

    holder: int
    folder: Path

    @property
    def command(self) -> list[str]:
        """Beginning of a command that is to see the disk; entering a namespace loses the working folder."""
        entered = ["nsenter", f"--target={self.holder}", "--mount"]
        return [*entered, "sh", "-c", f'cd {shlex.quote(str(CODE_ROOT))} && exec "$@"', "sh"]

    def outside(self, path: Path) -> Path:
        """The same path, as this process can open it."""
        return Path(f"/proc/{self.holder}/root{path}")

    def mount(self, *arguments: str) -> None:
        """Mount something more in the namespace."""
        done = subprocess.run([*self.command, "mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount {shlex.join(arguments)}: {done.stderr.strip()}")

    def fill(self, leave: int = 0) -> None:
        """Fill the disk until `leave` bytes are free; a second call changes that."""
        filler = self.outside(self.folder / "filler")
        filler.unlink(missing_ok=True)
        free = os.statvfs(filler.parent)
        with filler.open("wb") as file, suppress(OSError):  # to the last page
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - leave, 1))

    def free(self) -> None:
        """Free the filled space."""
        self.outside(self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A disk of some megabytes over an existing folder. The test is skipped where nothing can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill it up")
    inside = f'mount -t tmpfs -o size={megabytes}m,mode=755 apex-test "$0" && echo mounted && exec cat'
    command = ["unshare", "--mount", "sh", "-c", inside, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin and holder.stdout and holder.stderr
        try:
            if holder.stdout.readline() != "mounted\n":
                pytest.skip(f"no small disk can be mounted here: {holder.stderr.read().strip()}")
            yield SmallDisk(holder.pid, folder)
        finally:
            holder.kill()
