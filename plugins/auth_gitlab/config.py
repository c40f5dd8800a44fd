"""What an item ``use: auth_gitlab`` may say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from gateway.plugins import Action, Duration, Model

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def _web(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("expected an http(s) URL without login and query, such as https://gitlab.example.com")
    return value.rstrip("/")


class IdTokenRule(Model):
    """What a CI job may do whose ID token has these claims.

    In the patterns of *claims* and *repositories* ``*`` is anything without a slash, ``**`` anything at all.
    """

    claims: Mapping[str, str] = Field(min_length=1)
    repositories: tuple[str, ...] = Field(min_length=1)
    actions: frozenset[Action] = frozenset({Action.PULL})

    @field_validator("actions")
    @classmethod
    def _no_star(cls, value: frozenset[Action]) -> frozenset[Action]:
        if not value or Action.ALL in value:
            raise ValueError("expected some of pull, push and delete")
        return value


class IdTokens(Model):
    """CI ID tokens (GitLab's ``id_tokens``) as passwords: for whom they must be made, and what they open."""

    audience: str = Field(min_length=1)
    issuer: str | None = None
    rules: tuple[IdTokenRule, ...] = Field(min_length=1)


class Config(Model):
    """GitLab's address, and how far to trust and to wait for it."""

    url: Annotated[str, AfterValidator(_web)]
    mode: Literal["jwt", "api"] = "jwt"
    service_token: SecretStr | None = None
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
    id_tokens: IdTokens | None = None
    failed_logins: int = Field(default=10, ge=1)
    failed_logins_within: Duration = timedelta(minutes=1)
    anonymous_questions: int = Field(default=300, ge=1)
    anonymous_questions_within: Duration = timedelta(minutes=1)

    @model_validator(mode="after")
    def _servant(self) -> Self:
        if self.mode == "api" and self.service_token is None:
            raise ValueError(
                "mode api needs service_token_file: an administrator's token with read_api, for projects and roles"
            )
        return self

    @model_validator(mode="after")
    def _not_in_clear(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not self.allow_insecure:
            raise ValueError("url: passwords would cross the network in clear; use https, or set allow_insecure: true")
        return self
