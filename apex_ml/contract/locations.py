"""Where a pipeline's files are: in folders or in object stores, with their options. A login is never among them."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from apex_ml.contract.part import ContractPart, ContradictionError

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
"""Schemes of URLs of object stores."""


def is_object_store(url: str) -> bool:
    """Whether a location is in an object store.

    >>> is_object_store("s3://bucket/raw"), is_object_store("file:///data"), is_object_store("/data")
    (True, False, False)
    """
    return url.partition("://")[0] in SCHEMES and "://" in url


def scheme_of(url: str) -> str:
    """The kind of store of a URL: s3, gs or az.

    >>> scheme_of("abfss://data@account.dfs.core.windows.net/x"), scheme_of("s3a://bucket/x")
    ('az', 's3')
    """
    scheme = url.partition("://")[0]
    return {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az"}.get(scheme, scheme)


def check_store_url(url: str) -> str:
    """The URL of a store, or of a prefix in it. Raises ValueError for another text."""
    if not is_object_store(url) or not urlsplit(url).netloc:
        raise ValueError(f"{url!r} is no object store; write one such as s3://bucket, gs://bucket or az://container")
    return url


def check_endpoint(url: str) -> str:
    """The address of a server, without a login in it. Raises ValueError for another text."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(f"{url!r} is no address of a server; write one such as https://minio.example.org:9000")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address without a login: the login belongs in .env (AWS_ACCESS_KEY_ID, …)")
    return url


StoreUrl = Annotated[str, AfterValidator(check_store_url)]
Endpoint = Annotated[str, AfterValidator(check_endpoint)]


class StoreOptions(ContractPart):
    """How one object store is reached."""

    endpoint: Endpoint = Field(
        "", description="Address of the server, for one that is not the cloud's own: https://minio.example.org."
    )
    region: str = Field("", description="Region, of S3 only. Empty: AWS_REGION, else us-east-1.")
    path_style: bool = Field(
        True,
        description="Name the bucket in the path (true), or in the host (false: the endpoint then begins with the"
        " bucket), of S3 only.",
    )
    anonymous: bool = Field(False, description="Ask without a login, for public data.")
    profile: str = Field("", description="Profile of the AWS tools to log in with, of S3 only; needs boto3.")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.anonymous and self.profile:
            raise ContradictionError([(("profile",), "with anonymous: true nobody logs in; remove one of them")])
        return self

    def config(self, url: str) -> dict[str, str | bool]:
        """The options as obstore names them for the store of a URL."""
        config: dict[str, str | bool] = {}
        if self.endpoint:
            config["base_url" if url.startswith(("gs://", "gcs://")) else "endpoint"] = self.endpoint
        if self.anonymous:
            config["skip_signature"] = True
        if url.startswith(("s3://", "s3a://")):
            config["virtual_hosted_style_request"] = not self.path_style
            config["copy_if_not_exists"] = "multipart"
            if self.region:
                config["region"] = self.region
        if scheme_of(url) == "az" and "@" in (place := urlsplit(url).netloc):
            # else the account of the login would replace that of the URL
            config["azure_storage_account_name"] = place.rpartition("@")[2].partition(".")[0]
        return config


class LocationOptions(ContractPart):
    """Where the pipeline's files are. A relative folder is below the home."""

    raw: str = Field(
        "",
        description="Folder of raw files, or a prefix of an object store such as s3://bucket/raw. Empty:"
        " <home>/data/<pipeline>/raw.",
    )
    processed: str = Field(
        "",
        description="Folder of the steps' outputs, or a prefix of an object store. Empty:"
        " <home>/data/<pipeline>/processed.",
    )
    drops: str = Field(
        "",
        description="Folder, or prefix of an object store, of inbox/, done/ and quarantine/. Empty:"
        " <home>/data/<pipeline>/drops.",
    )
    stores: dict[StoreUrl, StoreOptions] = Field(
        {},
        exclude_if=lambda stores: not stores,
        description="Options of object stores, by the URL of a bucket or of a prefix in it; the longest that fits a"
        " location holds. The login is in .env or in the environment, never here.",
    )
