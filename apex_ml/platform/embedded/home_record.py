"""The contract, the model and the ports of a home. `up` refuses settings that contradict them.

Ports, addresses, folders, contract and model name that a command gets are remembered in ``.env``.
``.apex/home.json`` records the contract of the tables.
"""

from __future__ import annotations

import json
from pathlib import Path

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.api_keys import is_loopback
from apex_ml.contract.model import load_contract
from apex_ml.core.candidates import missing_requirements
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.platform.embedded.env_file import file_values, remember
from apex_ml.setting_sources import variable_of
from apex_ml.settings import FOLDERS, PORTS, Settings
from apex_ml.sql.tables import scored_columns

RECORD = "home.json"
REMEMBERED = (*PORTS, "host", "serving_host", *FOLDERS, "contract", "model_name")
"""Settings that locate a platform and its data. Another command without them would use other data."""


def refuse_contradiction(settings: Settings) -> None:
    """Raise ConfigError when the contract cannot be read, or contract or model are not those of this home.

    A contract may grow: its table of scored orders must have every column that the home's has, of the same type.
    """
    contract = load_contract(settings.contract)
    stored = file_values(settings)
    path = settings.state / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        columns, model, place = dict(record["columns"]), str(record["model_name"]), str(record["contract"])
    except FileNotFoundError:
        columns, model, place = {}, "", ""
        if (settings.state / "postgres").exists():  # started before there were records
            place = stored.get(variable_of("contract"), str(Settings.model_fields["contract"].default))
            columns = scored_columns(load_contract(Path(place)))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged; remove it, and `apex up` writes it again") from error
    required = scored_columns(contract)
    other = sorted(name for name, kind in columns.items() if required.get(name) != kind)
    if other:
        raise ConfigError(
            f"APEX_CONTRACT={settings.contract}: this home ({settings.home}) is made for {place}; the other contract"
            f" has no {', '.join(other)} of the same type. Take the home's contract, or another APEX_HOME for this one"
        )
    # a line in .env is a choice for the home; the environment belongs to one shell
    expected = stored.get(variable_of("model_name")) or model
    if expected and expected != settings.model_name:
        raise ConfigError(
            f"APEX_MODEL_NAME={settings.model_name}: the model of this home ({settings.home}) is {expected}. Take that"
            f" name or another APEX_HOME; to start again with another model, set it in {settings.env_file}"
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
    for name in settings.candidates.split(","):
        faults += [
            f"APEX_CANDIDATES: {name.strip()} needs a package that is not installed: .venv/bin/pip install '{lacking}'"
            for lacking in missing_requirements(name.strip())
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


def remember_given(settings: Settings) -> Settings:
    """Write the settings of :func:`unremembered` into ``.env`` for the next command."""
    for name in unremembered(settings):
        settings = remember(settings, name, str(getattr(settings, name)))
    return settings


def has_new_contract(settings: Settings) -> bool:
    """Whether the contract differs from the one with which the running platform was started.

    A home that was recorded without its contract's digest counts as unchanged.
    """
    try:
        record = json.loads((settings.state / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return "contract_sha256" in record and bool(record["contract_sha256"] != load_contract(settings.contract).digest())


def record_home(settings: Settings) -> None:
    """Record the contract and the model of this home."""
    record = {
        "contract": str(settings.contract),
        "model_name": settings.model_name,
        "columns": scored_columns(load_contract(settings.contract)),
        "contract_sha256": load_contract(settings.contract).digest(),
    }
    content = json_text(record, indent=1, ensure_ascii=False).encode()
    path = settings.state / RECORD
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
