"""A directory on disk, and the plugin that reads it."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import argon2
import pytest
import yaml
from pydantic import SecretStr

from gateway.plugins import Client, Credential, Document, Scheme, Services
from plugins.auth_local import Plugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.plugins import Documents, Identity

TODAY = dt.datetime.now(dt.UTC).date()
DAY = dt.timedelta(days=1)
HASHED = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("hashed-secret")


def pat(token: str, scopes: list[str], **more: object) -> dict[str, Any]:
    """Write down a personal access token of alice."""
    return {"kind": "personal_access_token", "user": "alice", "token": token, "scopes": scopes, **more}


def deploy(username: str, token: str, **more: object) -> dict[str, Any]:
    """Write down a deploy token."""
    return {"kind": "deploy_token", "username": username, "token": token, "scopes": ["read_registry"], **more}


def content() -> dict[str, Any]:
    """Write down a small company."""
    return {
        "users": [
            {"username": "Alice", "password": "plain-secret", "admin": True},
            {"username": "bob", "password_hash": HASHED, "external": True},
            {"username": "eve", "password": "eve-secret", "state": "blocked"},
            {"username": "robot"},
            {"username": "frank", "email": "frank@example.com", "password": "frank-secret", "two_factor": True},
        ],
        "groups": [
            {"path": "Acme", "members": {"alice": "guest", "bob": "reporter"}},
            {"path": "acme/sub", "members": {"Bob": "maintainer"}},
        ],
        "projects": [
            {"path": "acme/App", "id": 7, "members": {"alice": "developer", "bob": "guest"}},
            {"path": "acme/sub/deep", "visibility": "public", "container_registry_access_level": "private"},
            {"path": "other/thing", "archived": True, "job_token_allowlist": ["acme/app"]},
            {"path": "robot/own", "visibility": "internal", "job_token_allowlist": ["acme"]},
            {"path": "robot/shut", "visibility": "public", "job_token_allowlist": []},
        ],
        "tokens": [
            pat("pat-api", ["api"]),
            pat("pat-user", ["read_user", "read_repository"]),
            pat("pat-today", ["api"], expires_at=TODAY),
            pat("pat-tomorrow", ["api"], expires_at=TODAY + DAY),
            pat("pat-revoked", ["api"], revoked=True),
            {**pat("pat-eve", ["api"]), "user": "eve"},
            deploy("deploy-app", "dt-app", project="acme/app", scopes=["read_registry", "write_registry"]),
            deploy("deploy-group", "dt-group", group="acme", name="gitlab-deploy-token"),
            deploy("deploy-old", "dt-old", project="acme/app", expires_at=TODAY),
            deploy("alice", "dt-alice", project="acme/app"),
            {"kind": "project_access_token", "project": "acme/app", "role": "owner", "token": "prj", "scopes": ["api"]},
            {"kind": "group_access_token", "group": "acme", "role": "owner", "token": "grp", "scopes": ["api"]},
            {"kind": "oauth_token", "user": "alice", "token": "oauth", "scopes": ["api"]},
            {"kind": "ci_job_token", "project": "acme/app", "user": "alice", "token": "done", "status": "success"},
            {"kind": "ci_job_token", "project": "acme/app", "user": "bob", "token": "job"},
            {"kind": "ci_job_token", "project": "acme/app", "user": "eve", "token": "job-eve"},
            {"kind": "oauth_token", "user": "eve", "token": "oauth-eve", "scopes": ["api"]},
        ],
    }


def write(path: Path, directory: object) -> None:
    """Put a directory at *path* in one step, as editors do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(directory if isinstance(directory, str) else yaml.safe_dump(directory), encoding="utf-8")
    fresh.replace(path)


class Log:
    """Keeps the errors that were logged."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **values: object) -> None:
        """Keep one line."""
        self.errors.append(f"{event} {values}")


class Kept:
    """Documents in memory, which other plugins may share as replicas do their database."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Document] = {}

    async def get(self, kind: str, key: str) -> Document | None:
        """Give one."""
        return self._found.get((kind, key))

    async def all(self, kind: str) -> list[Document]:
        """Give those of a kind."""
        return [self._found[place] for place in sorted(self._found) if place[0] == kind]

    async def put(self, kind: str, key: str, value: Any, by: str, *, version: int | None = None) -> bool:
        """Keep one, as the database does."""
        known = self._found.get((kind, key))
        now = known.version if known else 0
        if version not in {None, now}:
            return False
        self._found[kind, key] = Document(key, value, now + 1, by)
        return True

    async def remove(self, kind: str, key: str) -> None:
        """Keep it no longer."""
        self._found.pop((kind, key), None)


class Local:
    """The plugin on a directory of its own."""

    def __init__(self, path: Path, documents: Documents | None = None) -> None:
        self.path = path
        self.log = Log()
        nothing = cast("Any", None)
        services = Services("local", nothing, nothing, cast("Any", self.log), b"k" * 32, documents=documents or Kept())
        self.plugin = Plugin(Plugin.Config(directory=path), services)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Enter the plugin's life."""
        async with self.plugin.gateway_lifespan():
            yield

    async def edit(self, directory: object) -> None:
        """Change the directory while the plugin runs, before anything that is sent afterwards."""
        write(self.path, directory)
        # What is sent after an edit is read in a later turn of the event loop.
        await asyncio.sleep(0)

    async def login(self, username: str, password: str, scheme: Scheme = Scheme.BASIC) -> Identity | None:
        """Present a credential."""
        credential = Credential(username, SecretStr(password), scheme)
        return await self.plugin.gateway_authenticate(credential, Client("192.0.2.1"))


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    """Run the plugin on the small company."""
    write(tmp_path / "directory.yaml", content())
    local = Local(tmp_path / "directory.yaml")
    async with local.running():
        yield local
