"""What an item ``use: auth_gitlab`` may say."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.plugins import Duration, Model

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def _web(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("expected an http(s) URL without login and query, such as https://gitlab.example.com")
    return value.rstrip("/")


class Config(Model):
    """GitLab's address, and how far to trust and to wait for it."""

    url: Annotated[str, AfterValidator(_web)]
    mode: Literal["jwt"] = "jwt"
    service: str = Field(default="container_registry", min_length=1)
    certificate_file: Path | None = None
    ca_file: Path | None = None
    proxy: Annotated[str, AfterValidator(_web)] | None = None
    allow_insecure: bool = False
    timeout: Duration = timedelta(seconds=5)
    concurrency: int = Field(default=32, ge=1, le=1000)
    stale_if_error: Duration = timedelta(minutes=10)
    remember: Duration = timedelta(minutes=5)
    remember_refusals: Duration = timedelta(seconds=10)
    failed_logins: int = Field(default=10, ge=1)
    failed_logins_within: Duration = timedelta(minutes=1)

    @model_validator(mode="after")
    def _not_in_clear(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not self.allow_insecure:
            raise ValueError("url: passwords would cross the network in clear; use https, or set allow_insecure: true")
        return self
