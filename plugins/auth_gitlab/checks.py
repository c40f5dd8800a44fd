"""Whether GitLab can be relied on: each thing that is wrong is one sentence with the fix."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Any, Final

from pydantic import SecretStr

from gateway.plugins import Credential, Health
from plugins.auth_gitlab.client import GitLab, UnavailableError
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import HERE

_SKEW: Final = 60.0
_AGAIN: Final = 5.0
"""Seconds after which what was wrong is looked at again; readiness is probed more often."""
_SERVANT: Final = "registry-gateway"
"""GitLab looks at no username beside an access token (semantics 2.2)."""


class Checks:
    """What is asked at the start and by readiness.

    GitLab tells nobody its version, and nobody gets a token to look at its signature (semantics 3.2): in mode jwt both
    are looked at where a service token is given, until they are good. Another key is noticed at every login.
    """

    def __init__(self, config: Config, gitlab: GitLab, log: Any) -> None:
        self._config = config
        self._gitlab = gitlab
        self._log = log
        self._wrong: str | None = None
        """What was found with the service token in mode jwt: None before it was used, empty where all is well."""
        self._again = 0.0

    async def health(self) -> Health:
        """Whether GitLab answers now, is new enough, its tokens are believed, and its clock and ours agree."""
        secret = self._config.service_token
        try:
            if self._config.mode == "api" and secret is not None:
                await self._facts(secret)
                return skewed(self._gitlab.skew)
            await self._gitlab.ask(None, (), HERE)
        except UnavailableError as error:
            return Health(ok=False, message=str(error))
        clocks = skewed(self._gitlab.skew)
        if not clocks.ok:
            # A token that is not good yet is then no fault of its key.
            return clocks
        if secret is not None and (self._wrong != "" or self._gitlab.mistrust) and time.monotonic() >= self._again:
            self._again = time.monotonic() + _AGAIN
            self._wrong = await self._look(secret)
        wrong = self._wrong or self._gitlab.mistrust
        return Health(ok=not wrong, message=wrong)

    async def _facts(self, secret: SecretStr) -> None:
        """Ask something that only the service token opens."""
        status, version = await self._version(secret)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise UnavailableError("the service token may not read version: it needs read_api, of an administrator")
        if _is_before(version, (15, 5)):
            raise UnavailableError(
                f"GitLab {version} does not tell a token's scopes, which mode api needs (15.5): use mode jwt"
            )

    async def _look(self, secret: SecretStr) -> str:
        """What is wrong with the version and the signing key; empty where nothing is."""
        try:
            status, version = await self._version(secret)
            if status != HTTPStatus.OK:
                # As a password it might be a failed login, for which GitLab bans us all (semantics 2.6).
                why = f"GitLab answers {status} to the service token: it needs the scope read_api"
                self._log.warning("GitLab's version and signing key were not looked at", why=why)
                return ""
            if _is_before(version, (14, 0)):
                return f"GitLab {version} is too old: upgrade it to 14 or newer"
            if self._config.certificate_file is not None:
                await self._gitlab.ask(Credential(_SERVANT, secret), (), HERE)
        except UnavailableError as error:
            return str(error)
        return ""

    async def _version(self, secret: SecretStr) -> tuple[int, str]:
        status, _, found = await self._gitlab.rest("GET", "version", {"PRIVATE-TOKEN": secret.get_secret_value()})
        return status, str(found.get("version")) if isinstance(found, dict) else ""


def skewed(seconds: float) -> Health:
    """Whether GitLab's clock is near enough to ours for its tokens: within a minute."""
    if abs(seconds) <= _SKEW:
        return Health(ok=True)
    where = "ahead of" if seconds > 0 else "behind"
    message = f"GitLab's clock is {abs(seconds):.0f} s {where} this machine's; tokens are refused: set both by NTP"
    return Health(ok=False, message=message)


def _is_before(version: str, release: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < release
