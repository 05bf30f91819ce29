"""Values of a pipeline's file that the environment gives instead.

``APEX_<PIPELINE>__<SECTION>__<KEY>`` replaces one value on this platform, for example
``APEX_CLAIMS__LOCATIONS__RAW=/data/raw``. Variables of the first edition, which knew one pipeline, are still read
(``APEX_TRIALS``), with a warning that shows what to write.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from apex_ml.env_syntax import EnvValue
from apex_ml.json_text import json_text

logger = logging.getLogger(__name__)

FORMER: Mapping[str, tuple[str, str]] = {
    "APEX_MODEL_NAME": ("model", "name"),
    "APEX_CANDIDATES": ("model", "candidates"),
    "APEX_SPLIT": ("model", "split"),
    "APEX_SELECTION": ("model", "selection"),
    "APEX_CLASS_WEIGHTS": ("model", "class_weights"),
    "APEX_TRIALS": ("model", "trials"),
    "APEX_SEARCH_SECONDS": ("model", "search_seconds"),
    "APEX_SEARCH_FOLDS": ("model", "search_folds"),
    "APEX_EARLY_STOPPING_ROUNDS": ("model", "early_stopping_rounds"),
    "APEX_DEVICE": ("model", "device"),
    "APEX_SEED": ("model", "seed"),
    "APEX_APPROVAL": ("approval", "required"),
    "APEX_APPROVAL_HOURS": ("approval", "hours"),
    "APEX_APPROVAL_DEFAULT": ("approval", "default"),
    "APEX_SHADOW_DAYS": ("shadow", "days"),
    "APEX_RETRAIN_SCHEDULE": ("schedule", "retrain"),
    "APEX_SWEEP_SCHEDULE": ("schedule", "sweep"),
    "APEX_MONITOR_SCHEDULE": ("schedule", "monitor"),
    "APEX_RETRAIN_DEADLINE_MINUTES": ("schedule", "retrain_deadline_minutes"),
    "APEX_RAW_URL": ("locations", "raw"),
    "APEX_PROCESSED_URL": ("locations", "processed"),
    "APEX_DROPS_URL": ("locations", "drops"),
    "APEX_INBOX_POLL_SECONDS": ("scoring", "poll_seconds"),
    "APEX_UPLOAD_MINUTES": ("scoring", "upload_minutes"),
    "APEX_DROP_DEADLINE_MINUTES": ("scoring", "deadline_minutes"),
    "APEX_SCORE_CHUNK_DROPS": ("scoring", "chunk_drops"),
    "APEX_SCORE_CHUNK_MB": ("scoring", "chunk_mb"),
    "APEX_STEP_TIMEOUT_MINUTES": ("steps", "timeout_minutes"),
    "APEX_STEP_RETRIES": ("steps", "retries"),
    "APEX_RETRY_DELAY_SECONDS": ("steps", "retry_delay_seconds"),
    "APEX_EXPECTATION_ROWS": ("validation", "expectation_rows"),
    "APEX_QUARANTINE_ROWS_IN_SQL": ("validation", "quarantine_rows_in_sql"),
    "APEX_DRIFT_ALPHA": ("monitoring", "drift_alpha"),
    "APEX_DRIFT_MIN_ROWS": ("monitoring", "drift_min_rows"),
    "APEX_DRIFT_LEAST_ROWS": ("monitoring", "drift_min_rows"),
    "APEX_QUALITY_MARGIN": ("monitoring", "quality_margin"),
    "APEX_QUALITY_ALPHA": ("monitoring", "quality_alpha"),
    "APEX_QUALITY_YEAR_ALPHA": ("monitoring", "quality_year_alpha"),
    "APEX_QUALITY_MIN_ROWS": ("monitoring", "quality_min_rows"),
    "APEX_QUALITY_LEAST_ORDERS": ("monitoring", "quality_min_rows"),
    "APEX_QUALITY_WORSE_WEEKS": ("monitoring", "quality_worse_weeks"),
    "APEX_QUALITY_WINDOW_WEEKS": ("monitoring", "quality_window_weeks"),
    "APEX_QUALITY_OF_WEEKS": ("monitoring", "quality_window_weeks"),
    "APEX_DEADLINE_ALERTS": ("alerts", "deadlines"),
    "APEX_SERVING_RECORD_SHARE": ("serving", "record_share"),
}
"""Settings of the first edition → section and key of a pipeline's file."""
FORMER_CONTRACT = "APEX_CONTRACT"
"""The first edition's variable for the file of the pipeline."""
OVERRIDE = re.compile(r"APEX_([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__([A-Z]+)__([A-Z]+(?:_[A-Z]+)*)")


@dataclass(frozen=True)
class PipelineValue:
    """One value for a pipeline's file: text of a variable, or a value of Python that a caller passes."""

    pipeline: str | None
    """Name of the pipeline; None: the only one."""
    section: str
    key: str
    value: object
    variable: str
    where: str

    @property
    def is_stored(self) -> bool:
        """Whether ``.env`` gives it, which is a choice for the home; the environment belongs to one shell."""
        return self.where not in ("environment", "argument")


def former_contract(file: Path, where: str) -> PipelineValue:
    """The file of the pipeline by the variable of the first edition."""
    return PipelineValue(None, "", "", file, FORMER_CONTRACT, where)


def override_variable(pipeline: str, section: str, key: str) -> str:
    """The variable that replaces a value of a pipeline.

    >>> override_variable("claims", "locations", "raw")
    'APEX_CLAIMS__LOCATIONS__RAW'
    """
    return f"APEX_{pipeline}__{section}__{key}".upper()


def is_pipeline_variable(name: str) -> bool:
    """Whether a variable gives a value of a pipeline's file."""
    return name in FORMER or name == FORMER_CONTRACT or bool(OVERRIDE.fullmatch(name))


def variable_sources(stored: Mapping[str, EnvValue], env_file: object) -> list[dict[str, tuple[str, str]]]:
    """The variables of ``.env`` and of the environment, which wins: text, and where it is set."""
    return [
        {name: (value.text, f"{env_file}, line {value.line}") for name, value in stored.items()},
        {name: (value, "environment") for name, value in os.environ.items()},
    ]


def is_url(text: str) -> bool:
    """Whether a location is a URL and no path.

    >>> is_url("s3://bucket/raw"), is_url("file:/data"), is_url("/data/raw")
    (True, True, False)
    """
    return "://" in text or text.startswith("file:")


def given_pipeline_values(stored: Mapping[str, EnvValue], env_file: object) -> tuple[PipelineValue, ...]:
    """The values that ``.env`` and the environment give for pipelines. A later one wins over an earlier one.

    Warns, once a process, of every variable of the first edition and shows the lines to write.
    """
    values: list[PipelineValue] = []
    for source in variable_sources(stored, env_file):
        values += _former_values(source)
        values += _overrides(source)
    return tuple(map(_absolute, values))


def _absolute(value: PipelineValue) -> PipelineValue:
    """A folder that the environment gives by a path that is relative to the caller's folder, as an absolute path.

    Every process of the platform has a working folder of its own, so a relative path would mean another in each.
    """
    url = str(value.value)
    if value.is_stored or value.section != "locations" or is_url(url):
        return value
    return replace(value, value=str(Path.cwd() / Path(url).expanduser()))


def _former_values(source: Mapping[str, tuple[str, str]]) -> Iterator[PipelineValue]:
    for variable, (section, key) in FORMER.items():
        text, where = source.get(variable, ("", ""))
        if text:
            _warn_of_former_variable(variable, text, where)
            yield PipelineValue(None, section, key, text, variable, where)


def _overrides(source: Mapping[str, tuple[str, str]]) -> Iterator[PipelineValue]:
    for variable in sorted(source):
        match = OVERRIDE.fullmatch(variable)
        text, where = source[variable]
        if match and text:
            pipeline, section, key = match[1].lower(), match[2].lower(), match[3].lower()
            yield PipelineValue(pipeline, section, key, text, variable, where)


@functools.cache
def warn_of_former_contract(file: Path, where: str) -> None:
    """Say, once a process, where the file of a pipeline belongs now."""
    remedy = "unset it" if where == "environment" else "`apex upgrade` moves it"
    logger.warning(
        "%s=%s is still read. The file belongs into pipelines/<name>/pipeline.yaml; %s (%s)",
        *(FORMER_CONTRACT, file, remedy, where),
    )


@functools.cache
def _warn_of_former_variable(variable: str, text: str, where: str) -> None:
    section, key = FORMER[variable]
    if where == "environment":
        remedy = f"set {override_variable('<pipeline>', section, key)} instead"
    else:
        remedy = "or run `apex upgrade`"
    logger.warning(
        "%s is now part of the pipeline's file. It is still read; write `%s: {%s: %s}` into"
        " pipelines/<name>/pipeline.yaml, %s (%s)",
        *(variable, section, key, _yaml_text(text, is_list=key == "candidates"), remedy, where),
    )


def _yaml_text(text: str, *, is_list: bool) -> str:
    """The text of a variable as YAML has it.

    >>> _yaml_text("5", is_list=False), _yaml_text("on", is_list=False), _yaml_text("a,b", is_list=True)
    ('5', '"on"', '[a, b]')
    """
    if is_list:
        return f"[{', '.join(part.strip() for part in text.split(','))}]"
    if re.fullmatch(r"true|false|[a-z]+_[a-z_]+|/[\w/.-]+|0|[1-9]\d*|(0|[1-9]\d*)\.\d+", text):
        return text
    return json_text(text, ensure_ascii=False)


def callers_values(pipeline: str | None, arguments: Mapping[str, Hashable]) -> tuple[PipelineValue, ...]:
    """The values that a caller passes for a pipeline: ``model__trials=3``, or ``trials=3`` as the first edition did.

    >>> [(v.section, v.key, v.value) for v in callers_values(None, {"model__trials": 3, "raw_url": "/data"})]
    [('model', 'trials', 3), ('locations', 'raw', '/data')]
    """
    values = []
    for name, value in arguments.items():
        section, separator, key = name.partition("__")
        if not separator:
            section, key = FORMER[f"APEX_{name.upper()}"]
        values.append(PipelineValue(pipeline, section, key, value, name, "argument"))
    return tuple(values)


def is_pipeline_argument(name: str) -> bool:
    """Whether an argument of a caller gives a value of a pipeline's file.

    >>> is_pipeline_argument("model__trials"), is_pipeline_argument("trials"), is_pipeline_argument("threads")
    (True, True, False)
    """
    return "__" in name or f"APEX_{name.upper()}" in FORMER
