"""Manifests of steps that did not run in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def leave_manifest(run: Path, step: str, finished_at: str, **result: Any) -> None:
    """Write the manifest of a finished step into the folder of a run; `result` has the keys that the step requires."""
    folder = run / step
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "step": step,
        "run": run.name,
        "key": "",
        "inputs": {},
        "code": {"version": "", "git_commit": None, "dirty": False},
        "finished_at": finished_at,
        "outputs": {},
        "result": {"run": run.name, "step": step} | result,
    }
    (folder / "manifest.json").write_text(json.dumps(content))
