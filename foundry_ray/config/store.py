"""The `store:` of a pipeline: where everything is kept, and how that endpoint wants to be talked to.

A URI alone is enough (`store: s3://bucket/prefix`); the mapping form adds what one endpoint needs. Nothing here is a secret: credentials
come from the standard AWS chain, from the environment, or from a file of mode 0600 that `credentials_file` names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from foundry_ray.config.section import Section

_TAG = re.compile(r"[\w +\-=.:/@]*")


def _checked_url(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("the URL holds credentials, which would end up in logs; put them into the environment or into `credentials_file`")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"got {url!r}, wanted a URL like https://host:port")
    return url


def _checked_tags(tags: dict[str, str]) -> dict[str, str]:
    for name, value in tags.items():
        is_short = 1 <= len(name) <= 128 and len(value) <= 256
        if not is_short or name.lower().startswith("aws:") or not (_TAG.fullmatch(name) and _TAG.fullmatch(value)):
            wanted = "wanted a name of 1 to 128 and a value of up to 256 letters, digits, spaces and + - = . _ : / @, not beginning with aws:"
            raise ValueError(f"got the tag {name!r}: {value!r}, {wanted}")
    return tags


_Url = Annotated[str | None, AfterValidator(_checked_url)]


class RetentionConfig(Section):
    """What `foundry store gc` may remove although a run of the store still names it."""

    checkpoints: Literal["all", "last", "none"] = Field(
        "last",
        description="Checkpoints of finished training that stay: all, the last one, or none. Unfinished training keeps all.",
    )
    trials: Literal["all", "front", "none"] = Field(
        "front", description="Trial checkpoints of finished studies that stay: all, those of the front, or none."
    )
    runs_days: float | None = Field(
        None,
        gt=0,
        description="Days after which the record of a run that no registered version names expires; absent: never.",
    )


class StoreConfig(Section):
    """Where everything is kept. All of it is execution. The keys from `endpoint` to `tags` are for `s3://` stores."""

    uri: str = Field("embedded", description="embedded, file:///path or s3://bucket/prefix.")
    endpoint: _Url = Field(None, description="URL of the S3 server; absent: AWS_ENDPOINT_URL, else AWS itself.")
    region: str | None = Field(None, description="Region; absent: as AWS_REGION and AWS_PROFILE say.")
    profile: str | None = Field(None, description="Profile of the AWS configuration files.")
    credentials_file: Path | None = Field(
        None,
        description="An AWS credentials file (INI) that only its owner can read, on every machine that opens the store.",
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Bucket in the path or in the host name; auto: path with an own endpoint, else virtual."
    )
    checksums: Literal["auto", "always", "when_required"] = Field(
        "auto", description="Checksums in requests; auto: always, unless the endpoint refuses them when it is probed."
    )
    signing: Literal["auto", "payload", "headers"] = Field(
        "auto",
        description="What a signature covers; auto: headers on https and loopback (faster), the payload too elsewhere.",
    )
    verify_tls: bool = Field(True, description="Check the server's certificate.")
    ca_bundle: Path | None = Field(None, description="PEM file of authorities to trust; absent: AWS_CA_BUNDLE, else the system's.")
    proxy: _Url = Field(None, description="URL of an HTTP proxy; absent: HTTPS_PROXY and HTTP_PROXY.")
    encryption: Literal["none", "AES256", "aws:kms"] = Field(
        "none",
        description="Server-side encryption that every write asks for; an endpoint that does not confirm it is refused.",
    )
    kms_key_id: str | None = Field(None, description="Key of aws:kms; absent: the account's default.")
    tags: Annotated[dict[str, str], AfterValidator(_checked_tags)] = Field({}, description="Tags of every object, at most 10.", max_length=10)
    single_writer: bool = Field(
        False,
        description="You promise that one process at a time writes: needed by endpoints without create-only writes.",
    )
    cache_bytes: int = Field(
        10 << 30,
        ge=0,
        description="Most bytes of blobs of an s3:// store kept under FOUNDRY_HOME on each machine; 0: none.",
    )
    retention: RetentionConfig = Field(RetentionConfig(), description="What `foundry store gc` may remove.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kms_key_id is not None and self.encryption != "aws:kms":
            raise ValueError(f"`kms_key_id` needs `encryption: aws:kms`, got {self.encryption}")
        if self.ca_bundle is not None and not self.verify_tls:
            raise ValueError("`ca_bundle` says whom to trust and `verify_tls: false` to trust everybody; remove one of them")
        idle = [] if self.uri.startswith("s3://") else [name for name in _OF_S3 if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            raise ValueError(f"`{idle[0]}` is for `s3://` stores, got `uri: {self.uri}`")
        return self

    def __str__(self) -> str:
        return self.uri


_OF_S3 = (
    "endpoint",
    "region",
    "profile",
    "credentials_file",
    "addressing",
    "checksums",
    "signing",
    "verify_tls",
    "ca_bundle",
    "proxy",
    "encryption",
    "kms_key_id",
    "tags",
)


def _from_uri(value: object) -> object:
    return {"uri": value} if isinstance(value, str) else value


StoreField = Annotated[StoreConfig, BeforeValidator(_from_uri, json_schema_input_type=str | StoreConfig)]
