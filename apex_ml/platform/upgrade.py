"""Move settings of the first edition from ``.env`` into the file of the pipeline, and its contract into its folder."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.contract.options_file import OptionValue, typed_values
from apex_ml.contract.pipeline_file import parse_pipeline
from apex_ml.contract.yaml_edit import with_values
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import (
    FILE,
    former_pipeline,
    load_pipeline_settings,
    option_text,
    pipeline_file,
    pipeline_names,
)
from apex_ml.pipeline_values import FORMER, FORMER_CONTRACT, override_variable
from apex_ml.platform.embedded.env_file import replace_variables
from apex_ml.settings import Settings


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade changes: the pipeline's file, and lines of ``.env``."""

    file: Path
    before: str
    """Text of the file, or of the contract that is moved to it."""
    after: str
    is_new: bool
    """Whether the file is made from a contract elsewhere."""
    removed: tuple[str, ...]
    """Variables of the first edition in ``.env``."""
    added: Mapping[str, str]
    """Variables that take their place: folders differ from one machine to the next."""

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.removed) or self.is_new or self.before != self.after

    def lines(self) -> Iterator[str]:
        """The changes for a person."""
        name = f"{self.file.parent.name}/{self.file.name}"
        if self.is_new:
            yield f"{self.file}: is made"
        yield from difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), f"{name} (now)", f"{name} (then)", lineterm="", n=1
        )
        yield from (f".env: - {variable}" for variable in self.removed)
        yield from (f".env: + {variable}={value}" for variable, value in self.added.items())


def find_upgrade(settings: Settings) -> Upgrade:
    """What is to be moved. Nothing is written.

    Raises :class:`~apex_ml.errors.ConfigError` for a value that its option does not accept, and when the contract of
    the first edition would replace another pipeline's file.
    """
    stored = settings.without_environment()
    if not stored.former_contract and (owner := former_pipeline(stored)):
        stored = stored.model_copy(update={"pipeline": owner})
    name, source = pipeline_file(stored)
    target = settings.pipelines / name / FILE
    is_elsewhere = source.resolve() != target.resolve()
    if is_elsewhere and target.exists() and target.read_bytes() != source.read_bytes():
        raise ConfigError(
            f"{target}: exists, and {FORMER_CONTRACT} names another file of the pipeline {name}, {source}: remove one"
        )
    former = [value for value in stored.pipeline_values if value.variable in FORMER]
    # where a present variable of .env counts, the former one only goes
    present = {(v.section, v.key) for v in stored.pipeline_values if v.variable not in FORMER and v.pipeline == name}
    moved = [value for value in former if (value.section, value.key) not in present]
    options = tuple(OptionValue(v.section, v.key, v.value, v.variable, v.where) for v in moved)
    typed = typed_values(options)
    if is_elsewhere:  # a file of the first edition names neither its model nor its decision
        typed["model", "name"] = load_pipeline_settings(stored).model_name
        typed["model", "decision"] = "macro_f1"
    before = source.read_bytes().decode()
    after = _with_options(before, {place: value for place, value in typed.items() if place[0] != "locations"})
    parse_pipeline(target, after.encode())
    added = {
        override_variable(name, section, key): option_text(value)
        for (section, key), value in typed.items()
        if section == "locations"
    }
    removed = tuple(dict.fromkeys(value.variable for value in former))
    if stored.former_contract:
        removed += (FORMER_CONTRACT,)
        if set(pipeline_names(settings)) - {name}:
            added["APEX_PIPELINE"] = name
    return Upgrade(target, before, after, is_elsewhere, removed, added)


def _with_options(text: str, options: Mapping[tuple[str, str], object]) -> str:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    return mark + with_values(text.removeprefix(mark), options)


def apply_upgrade(settings: Settings, upgrade: Upgrade) -> None:
    """Write the pipeline's file and then the lines of ``.env``; a killed call can be repeated.

    A link stays one: the file that it names is written.
    """
    upgrade.file.parent.mkdir(parents=True, exist_ok=True)
    file, content = upgrade.file.resolve(), upgrade.after.encode()
    if not file.exists():
        write_atomically(file, content)
    elif file.read_bytes() != content:
        mode = stat.S_IMODE(file.stat().st_mode)
        if not mode & stat.S_IWUSR:
            raise ConfigError(f"{file}: is write-protected; make it writable (chmod u+w) and run again")
        write_atomically(file, content, mode=mode)
    replace_variables(settings, upgrade.removed, upgrade.added)
