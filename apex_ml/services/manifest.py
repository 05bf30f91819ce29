"""The manifest of a run folder: the inputs of the step, the version of the code, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from apex_ml.services.json_record import JsonRecord
from apex_ml.services.results import FolderResult

R = TypeVar("R", bound=FolderResult)


@dataclass(frozen=True, kw_only=True)
class OutputFile(JsonRecord):
    """A file that a step wrote."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CodeVersion(JsonRecord):
    """The code that wrote a run folder; `git_commit` is None outside a checkout."""

    version: str
    git_commit: str | None
    dirty: bool


@dataclass(frozen=True, kw_only=True)
class Manifest(Generic[R]):
    """Content of ``manifest.json``; `key` is the digest of the inputs."""

    step: str
    run: str
    key: str
    inputs: Mapping[str, Any]
    code: CodeVersion
    finished_at: str
    seconds: float | None
    outputs: Mapping[str, OutputFile]
    result: R

    @property
    def as_of(self) -> str:
        """The day as of which the run looked at the data, in ISO format; empty for a step without one."""
        day = getattr(self.result, "as_of", None)
        return day.isoformat() if day else ""

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-able values."""
        return {
            "step": self.step,
            "run": self.run,
            "key": self.key,
            "inputs": dict(self.inputs),
            "code": self.code.to_json(),
            "finished_at": self.finished_at,
            "seconds": self.seconds,
            "outputs": {name: file.to_json() for name, file in self.outputs.items()},
            "result": self.result.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], kind: type[R]) -> Manifest[R]:
        """Read what :meth:`to_json` wrote. Raises KeyError or ValueError when it is not a manifest."""
        return cls(
            step=content["step"],
            run=content["run"],
            key=content["key"],
            inputs=content["inputs"],
            code=CodeVersion.from_json(content["code"]),
            finished_at=content["finished_at"],
            seconds=content.get("seconds"),
            outputs={name: OutputFile.from_json(file) for name, file in content["outputs"].items()},
            result=kind.from_json(content["result"]),
        )
