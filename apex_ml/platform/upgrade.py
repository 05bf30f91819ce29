"""Move settings of the first edition from ``.env`` into the file of the pipeline, and its contract into its folder."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.contract.options_file import OptionValue, typed_values
from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import FILE, load_pipeline_settings, option_text, pipeline_file
from apex_ml.pipeline_values import FORMER, FORMER_CONTRACT, override_variable
from apex_ml.platform.embedded.env_file import replace_variables
from apex_ml.settings import Settings

UNFOLDED = 100_000
"""Width at which no line of a file is folded."""


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade changes: the pipeline's file, and lines of ``.env``."""

    file: Path
    before: str
    """Text of the file, or of the contract that is moved to it."""
    after: str
    removed: tuple[str, ...]
    """Variables of the first edition in ``.env``."""
    added: Mapping[str, str]
    """Variables that take their place: folders differ from one machine to the next."""

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.removed) or self.before != self.after

    def lines(self) -> Iterator[str]:
        """The changes for a person."""
        name = f"{self.file.parent.name}/{self.file.name}"
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
    name, source = pipeline_file(stored)
    target = settings.pipelines / name / FILE
    if source != target and target.exists() and target.read_bytes() != source.read_bytes():
        raise ConfigError(
            f"{target}: exists, and {FORMER_CONTRACT} names another file of the pipeline {name}, {source}: remove one"
        )
    former = [value for value in stored.pipeline_values if value.variable in FORMER]
    options = tuple(OptionValue(v.section, v.key, v.value, v.variable, v.where) for v in former)
    read_pipeline(source, options)
    typed = typed_values(options)
    if source != target:  # a file of the first edition does not name its model
        typed["model", "name"] = load_pipeline_settings(stored).model_name
    before = source.read_text(encoding="utf-8-sig")
    in_file = {place: value for place, value in typed.items() if place[0] != "locations"}
    added = {
        override_variable(name, section, key): option_text(value)
        for (section, key), value in typed.items()
        if section == "locations"
    }
    removed = tuple(dict.fromkeys(value.variable for value in former))
    if source != target:
        removed += (FORMER_CONTRACT,)
    return Upgrade(target, before, with_options(before, in_file), removed, added)


def with_options(text: str, options: Mapping[tuple[str, str], object]) -> str:
    """The text of a pipeline's file with other values of options; its comments and its layout stay."""
    if not options:
        return text
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = UNFOLDED, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    content: Any = yaml.load(text)
    for (section, key), value in options.items():
        if not isinstance(content.get(section), dict):
            content[section] = {}
        content[section][key] = _list(value) if isinstance(value, tuple) else value
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _list(values: tuple[object, ...]) -> CommentedSeq:
    """A list on one line."""
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def apply_upgrade(settings: Settings, upgrade: Upgrade) -> None:
    """Write the pipeline's file, check it, and then replace the lines of ``.env``; a killed call can be repeated."""
    upgrade.file.parent.mkdir(parents=True, exist_ok=True)
    if not upgrade.file.exists() or upgrade.file.read_text(encoding="utf-8-sig") != upgrade.after:
        write_atomically(upgrade.file, upgrade.after.encode())
    read_pipeline(upgrade.file)
    replace_variables(settings, upgrade.removed, upgrade.added)
