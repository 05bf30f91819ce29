"""Files appear whole or not at all, and secrets are readable by nobody else at any time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from apex_ml.adapters.storage.atomic_writes import new_file, write_atomically


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    write_atomically(path, b"old")
    with new_file(path) as draft:
        draft.write_bytes(b"new")
        assert path.read_bytes() == b"old" and draft.name.startswith(".")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), new_file(path, mode=0o600) as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_secret_is_private_from_its_first_byte_on(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with new_file(path, mode=mode) as draft:
        assert mode_of(draft) == 0o600
        draft.write_bytes(b"new")
    assert mode_of(path) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_is_given_to_its_owner(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"x", mode=0o600, owner=(12345, 54321))
    status = (tmp_path / "a").stat()
    assert (status.st_uid, status.st_gid) == (12345, 54321)
