"""The pipelines of a platform, without the contracts of their data, as Airflow needs them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from apex_ml.contract.options_file import OptionValue, opened, options_and_wording
from apex_ml.contract.pipeline import Locations, PipelineSettings
from apex_ml.contract.reading import ContractFile
from apex_ml.errors import ConfigError
from apex_ml.pipeline_values import FORMER, FORMER_CONTRACT, is_url, override_variable
from apex_ml.settings import Settings
from apex_ml.warn_once import warn_once
from apex_ml.wording import did_you_mean

if TYPE_CHECKING:
    from apex_ml.contract.locations import LocationOptions
    from apex_ml.contract.options import PipelineOptions
    from apex_ml.pipeline_values import PipelineValue

logger = logging.getLogger(__name__)
FILE = "pipeline.yaml"
AnyPipeline = TypeVar("AnyPipeline", bound=PipelineSettings)
HOME_RECORD = "home.json"
"""Record of the pipelines of a home, in its folder of state."""
FORMER_PIPELINE = "orders"
"""The pipeline of the first edition, which had no others."""
FORMER_MODEL = "digital_orders_xgboost"
"""Its registered model."""
ROUTES = ("predict", "ready", "model", "health", "metrics", "docs")
"""First parts of the paths of the online service, where a pipeline's routes begin with its name."""
PAGE_ROUTES = ("static", "metrics")
"""First parts of the paths below the Apex page, where a pipeline's page has its name."""
RESERVED = ("apex", "public", "information_schema", "airflow", "mlflow", *ROUTES, *PAGE_ROUTES)
"""Names of the platform itself: its schemas, roles, databases and routes."""
MAX_NAME = 40
"""Characters of a name: with what is added to it, it is at most 63 bytes, the limit of Postgres."""


def pipeline_names(settings: Settings) -> tuple[str, ...]:
    """Names of the pipelines in the folder of the settings, sorted."""
    return tuple(sorted(path.parent.name for path in settings.pipelines.glob(f"*/{FILE}")))


def pipeline_file(settings: Settings) -> tuple[str, Path]:
    """Name and file of the pipeline that the settings name, or of the only one.

    Raises :class:`~apex_ml.errors.ConfigError` when there is none, or several and none is named.
    """
    if settings.former_contract:
        return _name_in(settings.former_contract), settings.former_contract
    named = settings.pipelines / settings.pipeline / FILE
    if settings.pipeline and name_fault(settings.pipeline) is None and named.is_file():
        return settings.pipeline, named  # without a look at the others: each of many pipelines is read this way
    names = pipeline_names(settings)
    if settings.pipeline:
        if settings.pipeline not in names:
            listed = f"there are {', '.join(names)}" if names else "there is none"
            raise ConfigError(
                f"no pipeline {settings.pipeline} in {settings.pipelines}; {listed}"
                f"{did_you_mean(settings.pipeline, names)}"
            )
        return settings.pipeline, settings.pipelines / settings.pipeline / FILE
    if not names:
        raise ConfigError(f"no pipeline in {settings.pipelines} (APEX_PIPELINES): it has no <name>/{FILE}")
    if len(names) > 1:
        raise ConfigError(f"there are several pipelines: {', '.join(names)}; name one: apex -p {names[0]} …")
    return names[0], settings.pipelines / names[0] / FILE


def name_fault(name: str) -> str | None:
    """Why a pipeline cannot have a name, which is part of names in Airflow, Postgres, MLflow and variables.

    >>> name_fault("claims"), name_fault("pg_claims")
    (None, 'is reserved; choose another name')
    >>> name_fault("two__words")
    'must be lower-case letters, digits and single underscores, at most 40, and begin with a letter'
    """
    if name in RESERVED or name.startswith("pg_"):
        return "is reserved; choose another name"
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return f"must be lower-case letters, digits and single underscores, at most {MAX_NAME}, and begin with a letter"
    return None


def checked_pipeline_file(settings: Settings) -> tuple[str, Path]:
    """As :func:`pipeline_file`, for a name that is one in Airflow, Postgres and MLflow, too."""
    name, path = pipeline_file(settings)
    if fault := name_fault(name):
        raise ConfigError(f"{path}: name: {name} {fault}")
    return name, path


def former_pipeline(settings: Settings) -> str | None:
    """The pipeline that owns the tables, folders and runs that a home of the first edition has under general names.

    It is the one that the home was recorded with. None where that is unclear: several pipelines, of which none is named
    and none has the name of the first edition's.
    """
    if settings.former_contract:
        return _name_in(settings.former_contract)
    names = pipeline_names(settings)
    candidates = (recorded_former_pipeline(settings), FORMER_PIPELINE, settings.pipeline)
    return next((name for name in candidates if name in names), names[0] if len(names) == 1 else None)


def recorded_former_pipeline(settings: Settings) -> str | None:
    """The pipeline in a home's record of the first edition, which the present record keeps; None without one."""
    try:
        record = _home_record(settings)
        if "former" in record:
            return str(record["former"])
        file = Path(record["contract"])
        return file.parent.name if file.name == FILE else _name_in(file)
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def recorded_pipelines(settings: Settings) -> frozenset[str]:
    """Names of the pipelines that the platform of this home has started with, also of those that are gone by now."""
    try:
        return frozenset(_home_record(settings).get("pipelines", ()))
    except (OSError, ValueError, AttributeError):
        return frozenset()


def _home_record(settings: Settings) -> Any:
    return json.loads((settings.state / HOME_RECORD).read_text(encoding="utf-8"))


def settings_by_pipeline(settings: Settings) -> dict[str, Settings]:
    """For every pipeline the settings that name it, or those of the one file that a first edition's home names."""
    if settings.former_contract:
        return {_name_in(settings.former_contract): settings}
    return {name: settings.model_copy(update={"pipeline": name}) for name in pipeline_names(settings)}


def load_all_pipeline_settings(settings: Settings) -> tuple[list[PipelineSettings], dict[str, ConfigError]]:
    """Read every pipeline without its contract; also the faults of those that cannot be read, by name."""
    return load_each(settings, load_pipeline_settings)


def load_each(
    settings: Settings, load: Callable[[Settings], AnyPipeline]
) -> tuple[list[AnyPipeline], dict[str, ConfigError]]:
    """Load every pipeline; also the faults of those that cannot be loaded, by name: they must not stop the others."""
    loaded: list[AnyPipeline] = []
    faults: dict[str, ConfigError] = {}
    for name, own in settings_by_pipeline(settings).items():
        try:
            loaded.append(load(own))
        except ConfigError as error:
            faults[name] = error
    faults |= _shared_models(loaded, recorded_pipelines(settings))
    return [pipeline for pipeline in loaded if pipeline.name not in faults], faults


def _shared_models(loaded: Sequence[PipelineSettings], recorded: Container[str]) -> dict[str, ConfigError]:
    """A fault for each pipeline whose registered model is that of another one.

    Versions of two pipelines in one registered model would be each other's champions. The only one that the platform
    has started with keeps the model: a copy of its folder must not stop it.
    """
    faults = {}
    owners: dict[str, list[str]] = {}
    for pipeline in loaded:
        owners.setdefault(pipeline.model_name, []).append(pipeline.name)
    for pipeline in loaded:
        others = [name for name in owners[pipeline.model_name] if name != pipeline.name]
        known = [name for name in owners[pipeline.model_name] if name in recorded]
        if others and known != [pipeline.name]:
            faults[pipeline.name] = ConfigError(
                f"{pipeline.file}: model.name: {pipeline.model_name} is also that of {', '.join(others)}: give each"
                " pipeline a registered model of its own"
            )
    return faults


def load_pipeline_settings(settings: Settings) -> PipelineSettings:
    """Read the pipeline of the settings without its contract, as Airflow does.

    Raises :class:`~apex_ml.errors.ConfigError` when its file cannot be read, or its options contradict themselves.
    """
    name, path = checked_pipeline_file(settings)
    options, wording = options_and_wording(path, tuple(option_values(settings, name)))
    locations = locations_of(settings, name, options.locations)
    return PipelineSettings(name, path, options, model_name_of(settings, name, options), locations, wording.rows)


def _name_in(path: Path) -> str:
    """The name of the pipeline that a file of the first edition describes."""
    data = ContractFile.read(path, opened(path)).data
    return str(data.get("name")) if isinstance(data, dict) else path.stem


def model_name_of(settings: Settings, name: str, options: PipelineOptions) -> str:
    """The registered model of a pipeline; a file of the first edition does not name it."""
    return options.model.name or (FORMER_MODEL if settings.former_contract else name)


def option_values(settings: Settings, name: str) -> Iterator[OptionValue]:
    """The values that replace options of a pipeline's file; the last one of an option wins.

    A value of a pipeline that does not exist is ignored with a warning: the pipeline was removed, and stops no other.
    Raises :class:`~apex_ml.errors.ConfigError` where its name was probably mistyped.
    """
    others = [value for value in settings.pipeline_values if value.pipeline and value.pipeline != name]
    names = {name, *pipeline_names(settings)} if others else {name}
    if unknown := [value for value in others if value.pipeline not in names]:
        _refuse_mistyped(unknown, names, recorded_pipelines(settings))
    owner = former_pipeline(settings) if any(v.variable in FORMER for v in settings.pipeline_values) else None
    if settings.former_contract:  # the first edition always tuned the weights
        yield OptionValue("model", "decision", "macro_f1", "model.decision", "as in the first edition")
    for value in settings.pipeline_values:
        # a variable of the first edition is about its only pipeline
        if value.pipeline == name or (value.pipeline is None and (value.variable not in FORMER or name == owner)):
            yield OptionValue(value.section, value.key, value.value, value.variable, value.where)


def _refuse_mistyped(unknown: Sequence[PipelineValue], names: Collection[str], recorded: Container[str]) -> None:
    """Raise ConfigError for values whose pipeline is probably another one's; warn of the others."""
    faults = []
    for value in unknown:
        fault = f"{value.variable}: there is no pipeline {value.pipeline}"
        guess = "" if value.pipeline in recorded else did_you_mean(str(value.pipeline), names)
        if guess:
            faults.append(f"{fault}{guess} ({value.where})")
        else:
            warn_once(logger, f"{fault}, so the value is not read ({value.where}); remove it, or restore the pipeline")
    if faults:
        raise ConfigError("settings: " + "; ".join(faults))


def locations_of(settings: Settings, name: str, options: LocationOptions) -> Locations:
    """The places of a pipeline's files: a relative folder is below the home, an empty option is its default."""

    def folder(url: str, *default: str) -> str:
        if is_url(url):
            return url
        return str(settings.home / (Path(url).expanduser() if url else Path(*default)))

    return Locations(
        raw=folder(options.raw, "data", name, "raw"),
        processed=folder(options.processed, "data", name, "processed"),
        drops=folder(options.drops, "data", name, "drops"),
        stores=options.stores,
        env_file=settings.env_file,
    )


def pipeline_variables(settings: Settings) -> dict[str, str]:
    """The variables with which another process replaces the same options of the pipeline as these settings.

    Options in ``.env`` are left out: the other process reads the file itself.
    """
    values = [value for value in settings.pipeline_values if value.where in ("environment", "argument")]
    variables = {FORMER_CONTRACT: str(settings.former_contract)} if settings.former_contract else {}
    for value in values:
        if (name := _pipeline_of(settings, value)) is not None:
            # folders are absolute, as the other process has a working folder of its own
            own = settings_by_pipeline(settings).get(name) if value.section == "locations" else None
            folder = None if own is None else getattr(load_pipeline_settings(own).locations, value.key)
            variable = override_variable(name, value.section, value.key)
            variables[variable] = option_text(value.value if folder is None else folder)
    return variables


def _pipeline_of(settings: Settings, value: PipelineValue) -> str | None:
    """The pipeline whose option a value replaces; None for one of the first edition that no pipeline owns."""
    if value.pipeline:
        return value.pipeline
    return former_pipeline(settings) if value.variable in FORMER else pipeline_file(settings)[0]


def option_text(value: object) -> str:
    """The value of an option as the text of a variable.

    >>> option_text(True), option_text(("xgboost", "logistic")), option_text(0.5)
    ('true', 'xgboost,logistic', '0.5')
    """
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
