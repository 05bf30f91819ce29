"""The contract, the model and the ports of a home. `up` refuses settings that contradict them.

Ports, addresses, folders, contract and model name that a command gets are remembered in ``.env``.
``.apex/home.json`` records the contract of the tables.
"""

from __future__ import annotations

import json

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.api_keys import is_loopback
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.candidates import missing_requirements
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.pipeline_values import FORMER_CONTRACT, override_variable
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.env_file import file_values, remember, remember_former_contract, remember_option
from apex_ml.setting_sources import variable_of
from apex_ml.settings import PORTS, Settings
from apex_ml.sql.tables import scored_columns

RECORD = "home.json"
REMEMBERED = (*PORTS, "host", "serving_host", "pipelines")
"""Settings that locate a platform and its data. Another command without them would use other data."""
REMEMBERED_OPTIONS = (("locations", "raw"), ("locations", "processed"), ("locations", "drops"), ("model", "name"))
"""Options of a pipeline that do the same, where the environment gives them."""


def refuse_contradiction(settings: Settings) -> None:
    """Raise ConfigError when the pipeline cannot be read, or contract or model are not those of this home.

    A contract may grow: its table of scored orders must have every column that the home's has, of the same type.
    """
    pipeline = load_pipeline(settings)
    path = settings.state / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        columns, place = dict(record["columns"]), str(record["contract"])
    except FileNotFoundError:
        # started before there were records: made for what .env and the folder of pipelines say
        stored = load_pipeline(settings.without_environment()) if (settings.state / "postgres").exists() else pipeline
        columns, place = scored_columns(stored.contract), str(stored.file)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged; remove it, and `apex up` writes it again") from error
    required = scored_columns(pipeline.contract)
    other = sorted(name for name, kind in columns.items() if required.get(name) != kind)
    if other:
        raise ConfigError(
            f"{pipeline.file}: this home ({settings.home}) is made for {place}; this contract has no"
            f" {', '.join(other)} of the same type. Take the home's contract, or another APEX_HOME for this one"
        )
    # the pipeline's file and .env are a choice for the home; the environment belongs to one shell
    expected = load_pipeline_settings(settings.without_environment()).model_name
    if expected != pipeline.model_name:
        raise ConfigError(
            f"{pipeline.model_name} is named as the model: the model of this home ({settings.home}) is"
            f" {expected}. Take that name or another APEX_HOME; to start again with another model, set model.name in"
            f" {pipeline.file}"
        )


def refuse_unusable(settings: Settings) -> None:
    """Raise one ConfigError for valid settings with which a service or a step would fail."""
    faults = []
    if settings.alert_mail_to and not settings.alert_smtp_url.get_secret_value():
        faults.append(
            "APEX_ALERT_MAIL_TO is set, and APEX_ALERT_SMTP_URL is not: name the mail server, smtp://host:587"
        )
    local = settings.serving and settings.runtime == "local"
    if local and not settings.serving_keys and not is_loopback(settings.serving_address):
        faults.append(
            f"APEX_SERVING_HOST={settings.serving_address}: other machines can connect to it, and APEX_SERVING_KEYS is"
            " empty; make a key: apex serve-key"
        )
    for name in load_pipeline_settings(settings).options.model.candidates:
        faults += [
            f"model.candidates: {name} needs a package that is not installed: .venv/bin/pip install '{lacking}'"
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
    stored = load_pipeline_settings(settings.without_environment())
    if settings.former_contract and stored.file != settings.former_contract:
        remember_former_contract(settings, settings.former_contract)
        written.append(FORMER_CONTRACT)
    pipeline = load_pipeline_settings(settings)
    for section, key in _options_of_shell(settings):
        value = str(getattr(pipeline.locations, key) if section == "locations" else pipeline.model_name)
        settings = remember_option(settings, pipeline.name, section, key, value)
        written.append(override_variable(pipeline.name, section, key))
    return settings, tuple(written)


def _options_of_shell(settings: Settings) -> list[tuple[str, str]]:
    """Options of a pipeline that a home remembers and that the environment gives."""
    given = {(value.section, value.key): value for value in settings.pipeline_values}
    return [option for option in REMEMBERED_OPTIONS if option in given and given[option].where == "environment"]


def has_new_pipeline(settings: Settings) -> bool:
    """Whether the pipeline's file differs from the one with which the running platform was started.

    A home that was recorded without its digests counts as unchanged.
    """
    try:
        record = json.loads((settings.state / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    now = _digests(load_pipeline(settings))
    return any(name in record and record[name] != sha256 for name, sha256 in now.items())


def _digests(pipeline: Pipeline) -> dict[str, str]:
    return {"contract_sha256": pipeline.contract.digest(), "options_sha256": pipeline.options.digest()}


def record_home(settings: Settings) -> None:
    """Record the contract and the model of this home."""
    pipeline = load_pipeline(settings)
    record = {
        "contract": str(pipeline.file),
        "model_name": pipeline.model_name,
        "columns": scored_columns(pipeline.contract),
        **_digests(pipeline),
    }
    content = json_text(record, indent=1, ensure_ascii=False).encode()
    path = settings.state / RECORD
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
