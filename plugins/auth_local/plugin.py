"""Answer who presents a credential and how they stand to projects, from a directory re-read when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.plugins import (
    ALL_ACTIONS,
    Action,
    Client,
    ConfigError,
    Credential,
    CredentialKind,
    Health,
    Identity,
    InvalidCredentialError,
    Project,
    Services,
    Standing,
    hookimpl,
)
from plugins.auth_local import directory, rules
from plugins.auth_local.config import Config as _Config
from plugins.auth_local.directory import DeployToken, Index, PersonalAccessToken, TokenItem, User
from plugins.auth_local.passwords import Passwords

USER: Final = "user:"
DEPLOY_TOKEN: Final = "deploy_token:"  # noqa: S105 - the beginning of an id, not a secret

_Stamp = tuple[int, int, int]


class Plugin:
    """Knows accounts, tokens, groups and projects from one YAML file."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._path = config.directory
        self._services = services
        self._passwords: Passwords | None = None
        self._index: Index | None = None
        self._stamp: _Stamp | None = None
        self._broken: tuple[str, ...] = ()
        self._reading = asyncio.Lock()

    # -- start-up -----------------------------------------------------------------------------------

    @hookimpl
    def gateway_check(self) -> Iterator[str]:
        """What is wrong with the directory."""
        try:
            directory.read(self._path)
        except ConfigError as error:
            yield from error.problems

    @hookimpl
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Read the directory; without a good one the gateway does not start."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self._stamp = _stamp(self._path)
        self._index = await asyncio.to_thread(directory.read, self._path)
        passwords = self._passwords = Passwords(self._services.key)
        try:
            yield
        finally:
            passwords.close()

    @hookimpl
    async def gateway_health(self) -> Health:
        """Whether the directory can be read as it is now."""
        await self._current()
        if not self._broken:
            return Health(ok=True)
        more = f" (and {len(self._broken) - 1} more)" if len(self._broken) > 1 else ""
        return Health(ok=False, message=f"the directory's old content is in use; mend {self._broken[0]}{more}")

    # -- facts --------------------------------------------------------------------------------------

    @hookimpl
    async def gateway_project(self, candidates: Sequence[str]) -> Project | None:
        """The project at the first of *candidates* that the directory has."""
        facts = (await self._current()).facts
        return next((facts[path] for path in candidates if path in facts), None)

    @hookimpl
    async def gateway_standing(self, identity: Identity, project: Project) -> Standing | None:
        """The highest role over the project's members and its groups', or that a deploy token was made for it."""
        index = await self._current()
        path = project.path.lower()
        return _standing(index, identity, path) if path in index.facts else None

    @hookimpl
    async def gateway_projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]]:
        """Every project of the directory."""
        index = await self._current()
        return [(project, _standing(index, identity, path)) for path, project in index.facts.items()]

    # -- a request ----------------------------------------------------------------------------------

    @hookimpl
    async def gateway_authenticate(self, credential: Credential, client: Client) -> Identity | None:  # noqa: ARG002 - the hook's name for it
        """Try personal access token, deploy token and account password, in GitLab's order (semantics 2.1)."""
        index = await self._current()
        token = index.token(credential.password.get_secret_value())
        if isinstance(token, PersonalAccessToken):
            user = index.users[token.user.lower()]
            _refuse_dead(token)
            _refuse_inactive(user)
            return self._user(user, CredentialKind.PERSONAL_ACCESS_TOKEN, rules.ceiling(token.scopes))
        # A user and a deploy token may share a username: the secret decides.
        if isinstance(token, DeployToken) and token.username == credential.username:
            _refuse_dead(token)
            return Identity(
                source=self._services.name,
                kind=CredentialKind.DEPLOY_TOKEN,
                subject=token.username,
                id=f"{DEPLOY_TOKEN}{token.username}",
                ceiling=rules.ceiling(token.scopes, rules.DEPLOY_SCOPES),
            )
        return await self._by_password(index.users.get(credential.username.lower()), credential)

    async def _by_password(self, user: User | None, credential: Credential) -> Identity | None:
        assert self._passwords is not None
        if not await self._passwords.right(user, credential.password.get_secret_value()) or user is None:
            # Not "wrong": it may be a token of another source, where usernames do not matter.
            return None
        _refuse_inactive(user)
        return self._user(user, CredentialKind.PASSWORD)

    def _user(self, user: User, kind: CredentialKind, ceiling: frozenset[Action] = ALL_ACTIONS) -> Identity:
        return Identity(
            source=self._services.name,
            kind=kind,
            subject=user.username,
            id=f"{USER}{user.username}",
            ceiling=ceiling,
            admin=user.admin,
            external=user.external,
        )

    # -- the file -----------------------------------------------------------------------------------

    async def _current(self) -> Index:
        """The directory as it is now, or as it was before an edit broke it."""
        assert self._index is not None
        if _stamp(self._path) != self._stamp:
            async with self._reading:
                stamp = _stamp(self._path)
                if stamp != self._stamp:
                    await self._read(stamp)
        return self._index

    async def _read(self, stamp: _Stamp | None) -> None:
        self._broken = ()
        try:
            self._index = await asyncio.to_thread(directory.read, self._path)
        except ConfigError as error:
            self._broken = error.problems
        if self._broken:
            self._services.log.error("the directory is broken; its old content is in use", problems=self._broken)
        self._stamp = stamp


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file does; None where it can't be had."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _standing(index: Index, identity: Identity, path: str) -> Standing:
    if identity.id.startswith(USER):
        username = identity.id.removeprefix(USER).lower()
        user = index.users.get(username)
        return Standing(role=index.role(username, path)) if user is not None and user.active else Standing()
    token = index.deploy_tokens.get(identity.id.removeprefix(DEPLOY_TOKEN))
    if identity.kind is not CredentialKind.DEPLOY_TOKEN or token is None or _dead(token):
        return Standing()
    return Standing(covered=token.covers(path))


def _dead(token: TokenItem) -> bool:
    return token.revoked or rules.expired(token.expires_at, datetime.now(UTC).date())


def _refuse_dead(token: TokenItem) -> None:
    if _dead(token):
        raise InvalidCredentialError("the token is revoked" if token.revoked else "the token has expired")


def _refuse_inactive(user: User) -> None:
    if not user.active:
        raise InvalidCredentialError(f"the account {user.username} is {user.state}")
