"""The one table of refusals, and the exceptions that carry them.

::

    RegistryError              an answer in OCI error form; everything a client may be told is in it
      PluginFailedError        a plugin raised, hung or answered with a wrong type: 503, never a grant
    InvalidCredentialError     an authenticator knows the credential and it is wrong: 401, nobody else is asked
    InvalidSettingError        a setting of a project is no good: 400
    ConfigError                start-up: one line for each thing to mend
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any


class ErrorCode(Enum):
    """The codes of OCI distribution specification 1.1, "Error Codes", and three that Distribution adds.

    Each is (status, message); a RegistryError may say both more exactly.
    """

    BLOB_UNKNOWN = (404, "blob unknown to registry")
    BLOB_UPLOAD_INVALID = (400, "blob upload invalid")
    BLOB_UPLOAD_UNKNOWN = (404, "blob upload unknown to registry")
    DIGEST_INVALID = (400, "provided digest did not match uploaded content")
    MANIFEST_BLOB_UNKNOWN = (400, "manifest references a manifest or blob unknown to registry")
    MANIFEST_INVALID = (400, "manifest invalid")
    MANIFEST_UNKNOWN = (404, "manifest unknown to registry")
    NAME_INVALID = (400, "invalid repository name")
    NAME_UNKNOWN = (404, "repository name not known to registry")
    SIZE_INVALID = (400, "provided length did not match content length")
    UNAUTHORIZED = (401, "authentication required")
    DENIED = (403, "requested access to the resource is denied")
    UNSUPPORTED = (405, "the operation is unsupported")
    TOOMANYREQUESTS = (429, "too many requests")
    # Distribution's own, for what the specification has no word for.
    PAGINATION_NUMBER_INVALID = (400, "invalid number of results requested")
    RANGE_INVALID = (416, "the requested range is not satisfiable")
    # GitLab's registry.
    MANIFEST_REFERENCED_IN_LIST = (409, "manifest referenced by a manifest list")
    UNAVAILABLE = (503, "service unavailable, try again later")
    UNKNOWN = (500, "unknown error")

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code unless an error says otherwise."""
        return self.value[0]

    @property
    def message(self) -> str:
        """What the specification, or Distribution, says of the code."""
        return self.value[1]


class RegistryError(Exception):
    """A refusal as a client hears it.

    *detail* is put into the answer as JSON; *members* stand beside ``errors`` in it; *headers* are added; *status*
    replaces the code's own. *why* is for the log: what operators may know and the client may not; *told* is the chain
    that led there, for those who may ask afterwards.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        detail: object = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
        why: str | None = None,
        told: Mapping[str, object] | None = None,
    ) -> None:
        self.code = code
        self.message = message or code.message
        self.detail = detail
        self.status = status or code.status
        self.headers = headers or {}
        self.members = members or {}
        self.why = why
        self.told = told
        super().__init__(f"{code.name}: {self.message}")


class PluginFailedError(RegistryError):
    """A plugin could not answer. *where* names plugin and hook, for the log and never for the client."""

    def __init__(self, where: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, headers={"Retry-After": "5"})
        self.where = where

    def __str__(self) -> str:
        return self.where


class InvalidCredentialError(Exception):
    """The credential is this plugin's to judge, and it is wrong. *steps*, for operators, led there."""

    def __init__(self, message: str = "", steps: Callable[[], Sequence[Any]] = tuple) -> None:
        self.steps = steps
        super().__init__(message)


class InvalidSettingError(ValueError):
    """A setting that somebody wants to save is no good: a sentence that names it."""


class ConfigError(Exception):
    """Everything that is wrong with the configuration, one readable line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
