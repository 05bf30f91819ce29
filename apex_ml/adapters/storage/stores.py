"""Open the storage of a location: a folder, or a prefix in S3, Google Cloud Storage or Azure.

Options of a store are in the pipeline's file; the login is in the environment or in ``.env``, under the names that the
tools of each cloud use, or comes from the machine (an instance role, workload identity).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.storage import Storage
from apex_ml.contract.locations import StoreOptions, is_object_store, scheme_of
from apex_ml.contract.pipeline import Locations
from apex_ml.env_syntax import read_env_file
from apex_ml.errors import ConfigError
from apex_ml.warn_once import warn_once

if TYPE_CHECKING:
    from apex_ml.adapters.storage.object_store import ObjectStorage

logger = logging.getLogger(__name__)
LOGINS = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"),
        *("AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    "az": (
        *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID"),
        *("AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"),
    ),
}
"""Variables that configure a login, by the kind of store. obstore accepts no others in its configuration."""
CONNECTION = "AIRFLOW_CONN_"
"""How the name of a variable begins that is a connection of Airflow."""
RETRIES: dict[str, Any] = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
HTTP_OPTIONS: dict[str, Any] = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "30m"}
"""A request may take as long as the largest object; a server that sends nothing for a minute is given up."""


def open_storage(locations: Locations, url: str, setting: str) -> Storage:
    """The storage of one location of a pipeline. `setting` names it in errors."""
    if is_object_store(url):
        return open_objects(locations, url)
    return LocalStorage(local_folder(url, setting))


def open_objects(locations: Locations, url: str) -> ObjectStorage:
    """The object store of a location, without a request to it.

    Raises :class:`~apex_ml.errors.ConfigError` for a location, an option or a login that cannot be right.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    from apex_ml.adapters.storage.object_errors import error_text
    from apex_ml.adapters.storage.object_store import ObjectStorage

    options = store_options(locations, url)
    arguments: dict[str, Any] = {
        "config": login_variables(url, locations.env_file) | options.config(url),
        # an endpoint without TLS is the pipeline's or the environment's choice
        "client_options": HTTP_OPTIONS | {"allow_http": True},
        "retry_config": RETRIES,
    }
    if options.profile:
        arguments["credential_provider"] = _profile_login(url, options.profile)
    try:
        store = from_url(url, **arguments)
    except (BaseError, ValueError, TypeError) as error:
        raise ConfigError(f"{url}: {error_text(error)}; correct the location, or the options of its store") from error
    return ObjectStorage(store, url)


def store_options(locations: Locations, url: str) -> StoreOptions:
    """The options of a location's store: those of the longest URL that it begins with."""
    fitting = [place for place in locations.stores if f"{url}/".startswith(f"{place.rstrip('/')}/")]
    if locations.stores and not fitting:
        warn_once(logger, f"{url}: no entry of locations.stores fits; there are {', '.join(locations.stores)}")
    return locations.stores[max(fitting, key=len)] if fitting else StoreOptions()


def login_variables(url: str, env_file: Path | None) -> dict[str, str]:
    """The login of a location in ``.env``, in lower case as obstore reads it; the environment wins."""
    given = {} if env_file is None else logins_in(env_file)
    names = LOGINS[scheme_of(url)]
    return {name.lower(): value for name, value in given.items() if name in names and name not in os.environ}


def logins_in(env_file: Path) -> dict[str, str]:
    """The variables of ``.env`` that configure a login, of any store."""
    names = {name for group in LOGINS.values() for name in group}
    return {name: value.text for name, value in read_env_file(env_file).items() if name in names and value.text}


def connections_in(env_file: Path) -> dict[str, str]:
    """The variables of ``.env`` that are connections of Airflow, for queues of events."""
    return {name: value.text for name, value in read_env_file(env_file).items() if name.startswith(CONNECTION)}


def _profile_login(url: str, profile: str) -> Callable[[], Any]:
    """A login of a profile of the AWS tools."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise ConfigError(f"{url}: a profile needs boto3, which is not installed: pip install boto3") from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile))
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"{url}: the profile {profile} cannot be used: {error}") from error
