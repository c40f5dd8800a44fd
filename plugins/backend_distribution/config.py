"""What an item ``use: backend_distribution`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from gateway.plugins import Duration, Model, RepositoryName, Size

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def _web(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("expected an http(s) URL without login and query, such as https://registry.example.com")
    return value.rstrip("/")


def is_private(url: str) -> bool:
    """Whether nobody between here and there can read what goes to *url*."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


class BlobCache(Model):
    """Where blobs that were pulled are kept on disk, and how many bytes of them."""

    path: Path
    size: Size


class Config(Model):
    """The registry's address, how it calls what is ours, and how far to wait for it."""

    url: Annotated[str, AfterValidator(_web)]
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    proxy: Annotated[str, AfterValidator(_web)] | None = None
    allow_insecure: bool = False
    path_prefix: str = ""
    paths: Mapping[str, str] = Field(default_factory=dict)
    exclusive: bool = False
    tag_freshness: Duration = timedelta(0)
    blob_cache: BlobCache | None = None
    redirects: tuple[str, ...] = ()
    connections: int = Field(default=100, ge=1, le=10_000)
    connect_timeout: Duration = timedelta(seconds=5)
    read_timeout: Duration = timedelta(seconds=60)
    attempts: int = Field(default=3, ge=1, le=10)
    notifications_token: SecretStr | None = None

    @field_validator("path_prefix")
    @classmethod
    def _legal_prefix(cls, value: str) -> str:
        return RepositoryName.parse(value.strip("/")) if value else ""

    @field_validator("paths")
    @classmethod
    def _legal_paths(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for path in (*value, *value.values()):
            RepositoryName.parse(path)
        targets = list(value.values())
        for path, target in value.items():
            if targets.count(target) > 1:
                raise ValueError(f"{path}: another path leads to {target} too; two projects would share its images")
        return value

    @field_validator("connect_timeout", "read_timeout")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if not value:
            raise ValueError("expected some time, such as 5s")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.username is None) is not (self.password is None):
            raise ValueError("username and password_file belong together: set both or neither")
        if self.client_key_file is not None and self.client_certificate_file is None:
            raise ValueError("client_key_file: there is no client_certificate_file that it belongs to")
        if self.username is not None and ":" in self.username:
            raise ValueError("username: a colon ends a user name in HTTP; it can have none")
        return self

    @model_validator(mode="after")
    def _not_in_clear(self) -> Self:
        if not is_private(self.url) and not self.allow_insecure:
            raise ValueError("url: images would cross the network in clear; use https, or set allow_insecure: true")
        return self
