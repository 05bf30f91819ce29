"""The pipelines and the ports of a home. `up` refuses settings and files that contradict them.

Ports, addresses, folders, contract and model name that a command gets are remembered in ``.env``.
``.apex/home.json`` records for each pipeline the contract of its tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from apex_ml.adapters.postgres.contracts import OWN_PIPELINE
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.api_keys import keys_fault
from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.candidates import missing_requirements
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.pipeline_settings import (
    FORMER_PIPELINE,
    HOME_RECORD,
    former_pipeline,
    load_all_pipeline_settings,
    load_pipeline_settings,
    option_values,
    pipeline_names,
    recorded_former_pipeline,
    settings_by_pipeline,
)
from apex_ml.pipeline_values import FORMER_CONTRACT, override_variable
from apex_ml.pipelines import load_all_pipelines, load_pipeline, usable_pipelines
from apex_ml.platform.embedded.env_file import file_values, remember, remember_former_contract, remember_option
from apex_ml.setting_sources import variable_of
from apex_ml.settings import PORTS, Settings
from apex_ml.sql.tables import scored_columns

REMEMBERED = (*PORTS, "host", "serving_host", "pipelines")
"""Settings that locate a platform and its data. Another command without them would use other data."""
REMEMBERED_OPTIONS = (("locations", "raw"), ("locations", "processed"), ("locations", "drops"), ("model", "name"))
"""Options of a pipeline that do the same, where the environment gives them."""


@dataclass(frozen=True)
class PipelineRecord:
    """What a home has of a pipeline."""

    file: str
    """The file with which the tables were made."""
    columns: Mapping[str, str]
    """Columns of the table of scored rows, with their types."""
    contract_sha256: str | None = None
    options_sha256: str | None = None
    """Digests of the file with which the platform was started; None: recorded by the first edition."""
    contract: Mapping[str, Any] | None = None
    """Identity of the contract of the tables; None: recorded by an older version of Apex."""
    removed: bool = False
    """Whether its folder was gone when the platform was started or checked last."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> PipelineRecord:
        """What a home has of this pipeline from now on."""
        digests = pipeline.contract.digest(), pipeline.options.digest()
        identity = pipeline.contract.identity().as_dict()
        return cls(str(pipeline.file), scored_columns(pipeline.contract), *digests, identity)


def refuse_contradiction(settings: Settings) -> dict[str, ConfigError]:
    """The faults of pipelines whose contract or model is not that of this home, by name.

    A contract may grow: its table of scored rows must have every column that the home's has, of the same type. The
    fault of one pipeline stops no other: it is raised for the pipeline that the settings name, or when all have one.
    """
    pipelines, records = usable_pipelines(settings)[0], _records(settings)
    faults = {p.name: fault for p in pipelines if (fault := _contradiction(settings, p, records)) is not None}
    if settings.pipeline in faults:
        raise faults[settings.pipeline]
    if faults and len(faults) == len(pipelines):
        raise next(iter(faults.values()))
    return faults


def _contradiction(settings: Settings, pipeline: Pipeline, records: Mapping[str, PipelineRecord]) -> ConfigError | None:
    """Why a pipeline cannot be one of this home, which has these records."""
    own = settings.model_copy(update={"pipeline": pipeline.name})
    record = records.get(pipeline.name)
    if record is None and settings.former_contract:  # which makes its pipeline the only one
        record = records.get(FORMER_PIPELINE, next(iter(records.values()), None))
        if record is None and (settings.state / "postgres").exists():
            # started before there were records: made for what .env and the folder of pipelines say
            record = PipelineRecord.of(load_pipeline(settings.without_environment()))
    if record is not None:
        required = scored_columns(pipeline.contract)
        other = sorted(name for name, kind in record.columns.items() if required.get(name) != kind)
        if other and settings.former_contract:
            return ConfigError(
                f"{pipeline.file}: this home ({settings.home}) is made for {record.file}; this contract has no"
                f" {', '.join(other)} of the same type. Take the home's contract, or another APEX_HOME for this one"
            )
        before = ContractIdentity.from_dict(record.contract)
        refused = () if before is None else compare_contracts(before, pipeline.contract).refused
        if refused or other:
            what = "; ".join(refused) or f"it makes no {', '.join(other)} of the same type, which its tables have"
            return ConfigError(f"{pipeline.file}: {what}: {OWN_PIPELINE}. Nothing was stopped or changed")
    # the pipeline's file and .env are a choice for the home; the environment belongs to one shell
    expected = load_pipeline_settings(own.without_environment()).model_name
    if expected != pipeline.model_name:
        return ConfigError(
            f"{pipeline.model_name} is named as the model: the model of this home ({settings.home}) is"
            f" {expected}. Take that name or another APEX_HOME; to start again with another model, set model.name in"
            f" {pipeline.file}"
        )
    return None


def _own_pipelines(settings: Settings, records: Mapping[str, PipelineRecord]) -> dict[str, PipelineRecord]:
    """What is to be recorded of the pipelines that can be those of this home, which has these records."""
    pipelines = load_all_pipelines(settings)[0]
    return {p.name: PipelineRecord.of(p) for p in pipelines if _contradiction(settings, p, records) is None}


def _records(settings: Settings) -> dict[str, PipelineRecord]:
    """The recorded pipelines of a home, by name."""
    path = settings.state / HOME_RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "pipelines" in content:
            return {name: PipelineRecord(**record) for name, record in content["pipelines"].items()}
        digests = content.get("contract_sha256"), content.get("options_sha256")
        record = PipelineRecord(str(content["contract"]), dict(content["columns"]), *digests)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged; remove it, and `apex up` writes it again") from error
    name = former_pipeline(settings)
    return {name: record} if name else {}


def recorded_contract(settings: Settings, pipeline: str) -> ContractIdentity | None:
    """The contract of a pipeline's tables as the home recorded it; None without a record."""
    record = _records(settings).get(pipeline)
    return None if record is None else ContractIdentity.from_dict(record.contract)


def refuse_unusable(settings: Settings) -> None:
    """Raise one ConfigError for valid settings with which a service or a step would fail."""
    faults = []
    if settings.alert_mail_to and not settings.alert_smtp_url.get_secret_value():
        faults.append(
            "APEX_ALERT_MAIL_TO is set, and APEX_ALERT_SMTP_URL is not: name the mail server, smtp://host:587"
        )
    local = settings.serving and settings.runtime == "local"
    if local and (fault := keys_fault(settings.serving_keys, settings.serving_address, settings_by_pipeline(settings))):
        faults.append(fault)
    for pipeline in load_all_pipeline_settings(settings)[0]:
        if pipeline.options.alerts.mail_to and not settings.alert_smtp_url.get_secret_value():
            faults.append(
                f"{pipeline.file}: alerts.mail_to is set, and APEX_ALERT_SMTP_URL is not: name the mail server,"
                " smtp://host:587"
            )
        for name in pipeline.options.model.candidates:
            faults += [
                f"{pipeline.file}: model.candidates: {name} needs a package that is not installed: .venv/bin/pip"
                f" install '{lacking}'"
                for lacking in missing_requirements(name)
            ]
    if faults:
        raise ConfigError("settings: " + "; ".join(faults))


def unremembered(settings: Settings) -> list[str]:
    """Settings that a home remembers and that come from a source other than ``.env`` or the default."""
    stored = file_values(settings)
    return [
        name
        for name in REMEMBERED
        if name in settings.model_fields_set
        and str(getattr(settings, name)) != stored.get(variable_of(name), str(Settings.model_fields[name].default))
    ]


def remember_given(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Write what locates the platform and its data and is not in ``.env`` into it, for the next command.

    Returns the settings, and the variables that were written.
    """
    written = []
    for name in unremembered(settings):
        settings = remember(settings, name, str(getattr(settings, name)))
        written.append(variable_of(name))
    if settings.former_contract and settings.without_environment().former_contract != settings.former_contract:
        remember_former_contract(settings, settings.former_contract)
        written.append(FORMER_CONTRACT)
    if not settings.pipeline and (only := _only_recorded(settings)) is not None:
        settings = remember(settings, "pipeline", only)
        written.append(variable_of("pipeline"))
    for pipeline in load_all_pipeline_settings(settings)[0]:
        for section, key in _options_of_shell(settings, pipeline.name):
            value = str(getattr(pipeline.locations, key) if section == "locations" else pipeline.model_name)
            settings = remember_option(settings, pipeline.name, section, key, value)
            written.append(override_variable(pipeline.name, section, key))
    return settings, tuple(written)


def _only_recorded(settings: Settings) -> str | None:
    """The one pipeline that a home had so far, when now there are several: commands go on to be about it."""
    records, names = _records(settings), pipeline_names(settings)
    only = next(iter(records)) if len(records) == 1 else None
    return only if only in names and len(names) > 1 else None


def _options_of_shell(settings: Settings, pipeline: str) -> list[tuple[str, str]]:
    """Options of a pipeline that a home remembers and that the environment gives."""
    given = {(value.section, value.key): value for value in option_values(settings, pipeline)}
    return [option for option in REMEMBERED_OPTIONS if option in given and given[option].where == "environment"]


def has_new_pipeline(settings: Settings) -> bool:
    """Whether the pipelines differ from those with which the running platform was started: one edited, new or gone.

    A home that was recorded without digests, or not at all, counts as unchanged.
    """
    records = _records(settings)
    if not records:
        return False
    now = _own_pipelines(settings, records)
    gone = records.keys() - settings_by_pipeline(settings).keys()
    return any(not records[name].removed for name in gone) or any(
        name not in records
        or records[name].removed
        or (records[name].contract_sha256 and records[name].contract_sha256 != record.contract_sha256)
        or (records[name].options_sha256 and records[name].options_sha256 != record.options_sha256)
        for name, record in now.items()
    )


def record_home(settings: Settings) -> None:
    """Record the pipelines of this home. One that is no longer on disk stays recorded: its tables do, too."""
    records = _records(settings)
    gone = records.keys() - settings_by_pipeline(settings).keys()
    records |= {name: replace(records[name], removed=True) for name in gone}
    records |= _own_pipelines(settings, records)
    content: dict[str, object] = {"pipelines": {name: asdict(record) for name, record in sorted(records.items())}}
    if former := recorded_former_pipeline(settings):
        content["former"] = former
    text = json_text(content, indent=1, ensure_ascii=False).encode()
    path = settings.state / HOME_RECORD
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, text)
