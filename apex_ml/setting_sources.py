"""Where a setting's value comes from: variables of the environment and lines of ``.env``."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from apex_ml.env_syntax import EnvValue
from apex_ml.pipeline_values import FORMER, is_pipeline_variable, override_variable, variable_sources
from apex_ml.setting_fields import SettingFields
from apex_ml.wording import nearest

logger = logging.getLogger(__name__)

OTHER_VARIABLES = re.compile(r"APEX_(SUPERVISED|PG_PIPELINE_READERS|TEST_\w+|DIGEST_\w+)")
"""Variables with the prefix that are not settings: the mark of a process, those of the tests and the compose file."""


@dataclass(frozen=True)
class Given:
    """A value that somebody gave: the variable it was given by, and where it stands."""

    variable: str
    text: str
    where: str


def given_values(stored: Mapping[str, EnvValue], env_file: Path) -> dict[str, Given]:
    """Return what ``.env`` and the environment give, by field; the environment wins. An empty value is not given."""
    given: dict[str, Given] = {}
    for source in variable_sources(stored, env_file):
        for field in SettingFields.model_fields:
            text, where = source.get(variable_of(field), ("", ""))
            if text:
                given[field] = Given(variable_of(field), text, where)
    return given


def variable_of(field: str) -> str:
    """The environment variable of a setting: ``pg_port`` is ``APEX_PG_PORT``."""
    return f"APEX_{field.upper()}"


def unknown_names(stored: Mapping[str, EnvValue], env_file: Path, home: Path) -> Iterator[str]:
    """Yield an error for each name in ``.env`` that is not a setting; the file is this project's own."""
    for name, value in stored.items():
        if not name.upper().startswith("APEX_"):
            continue
        where = f"{env_file}, line {value.line}"
        if not _is_variable(name):
            yield _not_a_setting(name, where)
        elif name == "APEX_HOME" and value.text and env_file == home / ".env":
            if Path(value.text).expanduser().resolve() != home:
                yield f"APEX_HOME={value.text!r}: names the folder of this file: give it in the environment ({where})"
        elif name == "APEX_ENV_FILE" and value.text and Path(value.text).expanduser().absolute() != env_file:
            yield f"APEX_ENV_FILE={value.text!r}: names this file: give it in the environment ({where})"


def misspelt_variables() -> Iterator[str]:
    """Yield an error for each variable of the environment that looks like a setting and is not one.

    A variable that resembles no setting belongs to another tool; it is only reported in the log.
    """
    for name in sorted(os.environ):
        if not name.upper().startswith("APEX_") or _is_variable(name) or not os.environ[name]:
            continue
        if nearest_variable(name) or "__" in name:
            yield _not_a_setting(name, "environment")
        else:
            _warn_of_unknown_variable(name)


def nearest_variable(name: str) -> str | None:
    """Return the variable that was probably meant by a name; None when no setting is similar enough.

    >>> nearest_variable("APEX_TREADS"), nearest_variable("apex_threads"), nearest_variable("APEX_SOMETHING_ELSE")
    ('APEX_THREADS', 'APEX_THREADS', None)
    """
    fields = [field.upper() for field in SettingFields.model_fields]
    former = [variable.removeprefix("APEX_") for variable in FORMER]
    meant = name[len("APEX_") :]
    first = meant.partition("__")[0]
    options = [override_variable(first, *place).removeprefix("APEX_") for place in FORMER.values()]
    similar = nearest(meant, [*fields, *former, *(options if "__" in meant else ())])
    return f"APEX_{similar}" if similar else None


def _not_a_setting(name: str, where: str) -> str:
    similar = nearest_variable(name)
    question = f"did you mean {similar}? " if similar else ""
    return f"{name} is not a setting; {question}`apex settings` lists all ({where})"


def _is_variable(name: str) -> bool:
    """Whether a name with the prefix is a setting, an option of a pipeline, or is known to be none."""
    field = name.removeprefix("APEX_")
    is_setting = field.isupper() and field.lower() in SettingFields.model_fields
    return is_setting or is_pipeline_variable(name) or bool(OTHER_VARIABLES.fullmatch(name))


@functools.cache
def _warn_of_unknown_variable(name: str) -> None:
    logger.warning("%s is not a setting of Apex and is not read (environment); `apex settings` lists all", name)
