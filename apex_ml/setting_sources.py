"""Where a setting's value comes from: variables of the environment and lines of ``.env``, under their present names.

A setting that was renamed is still read under its former name, with a warning that names the new one.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from apex_ml.env_syntax import EnvValue
from apex_ml.setting_fields import SettingFields
from apex_ml.wording import nearest

logger = logging.getLogger(__name__)

RENAMED: Mapping[str, str] = {
    "APEX_DRIFT_LEAST_ROWS": "APEX_DRIFT_MIN_ROWS",
    "APEX_QUALITY_LEAST_ORDERS": "APEX_QUALITY_MIN_ROWS",
    "APEX_QUALITY_OF_WEEKS": "APEX_QUALITY_WINDOW_WEEKS",
}
"""Former variable → present variable. Rename a setting by renaming its field and adding a line here."""
OTHER_VARIABLES = re.compile(r"APEX_(SUPERVISED|TEST_\w+|DIGEST_\w+)")
"""Variables with the prefix that are not settings: the mark of a process, those of the tests and the compose file."""


@dataclass(frozen=True)
class Given:
    """A value that somebody gave: the variable it was given by, which may be a former name, and where it stands."""

    variable: str
    text: str
    where: str


def with_present_names(stored: Mapping[str, EnvValue]) -> dict[str, EnvValue]:
    """Return the values of ``.env`` by the present names of their variables; a present name wins over a former one.

    >>> found = with_present_names({"APEX_DRIFT_LEAST_ROWS": EnvValue("200", 1), "APEX_SEED": EnvValue("7", 2)})
    >>> {name: value.text for name, value in found.items()}
    {'APEX_DRIFT_MIN_ROWS': '200', 'APEX_SEED': '7'}
    """
    former = {RENAMED[name]: value for name, value in stored.items() if name in RENAMED and value.text}
    present = {name: value for name, value in stored.items() if name not in RENAMED}
    return former | {name: value for name, value in present.items() if value.text or name not in former}


def given_values(stored: Mapping[str, EnvValue], env_file: Path) -> dict[str, Given]:
    """Return what ``.env`` and the environment give, by field; the environment wins. An empty value is not given.

    Warns, once a process, of every former name and names the present one.
    """
    sources = [
        {name: (value.text, f"{env_file}, line {value.line}") for name, value in stored.items()},
        {name: (value, "environment") for name, value in os.environ.items()},
    ]
    given: dict[str, Given] = {}
    for source in sources:
        for variable in (*RENAMED, *map(variable_of, SettingFields.model_fields)):
            text, where = source.get(variable, ("", ""))
            if not text:
                continue
            present = RENAMED.get(variable, variable)
            given[present.removeprefix("APEX_").lower()] = Given(variable, text, where)
            if variable in RENAMED:
                _warn_of_former_name(variable, where, bool(source.get(present, ("", ""))[0]))
    return given


def variable_of(field: str) -> str:
    """The environment variable of a setting: ``raw_url`` is ``APEX_RAW_URL``."""
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
        if nearest_variable(name):
            yield _not_a_setting(name, "environment")
        else:
            _warn_of_unknown_variable(name)


def nearest_variable(name: str) -> str | None:
    """Return the variable that was probably meant by a name; None when no setting is similar enough.

    >>> nearest_variable("APEX_TRAILS"), nearest_variable("apex_trials"), nearest_variable("APEX_SOMETHING_ELSE")
    ('APEX_TRIALS', 'APEX_TRIALS', None)
    """
    similar = nearest(name[len("APEX_") :], [field.upper() for field in SettingFields.model_fields])
    return f"APEX_{similar}" if similar else None


def _not_a_setting(name: str, where: str) -> str:
    similar = nearest_variable(name)
    question = f"did you mean {similar}? " if similar else ""
    return f"{name} is not a setting; {question}`apex settings` lists all ({where})"


def _is_variable(name: str) -> bool:
    """Whether a name with the prefix is a setting, was one, or is known to be none."""
    field = name.removeprefix("APEX_")
    is_setting = field.isupper() and field.lower() in SettingFields.model_fields
    return is_setting or name in RENAMED or bool(OTHER_VARIABLES.fullmatch(name))


@functools.cache
def _warn_of_unknown_variable(name: str) -> None:
    logger.warning("%s is not a setting of Apex and is not read (environment); `apex settings` lists all", name)


@functools.cache
def _warn_of_former_name(former: str, where: str, has_present: bool) -> None:
    present = RENAMED[former]
    if has_present:
        logger.warning("%s is not read, because %s, its new name, is also set; remove it (%s)", former, present, where)
    else:
        logger.warning("%s is now called %s. It is still read; please rename it (%s)", former, present, where)
