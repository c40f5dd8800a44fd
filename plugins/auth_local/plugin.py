"""Answer who presents a credential and how they stand to projects, from a directory re-read when it changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.plugins import (
    ALL_ACTIONS,
    DEPLOY_TOKEN_SCOPES,
    JOB_CEILING,
    Action,
    Client,
    ConfigError,
    Credential,
    CredentialKind,
    Group,
    Health,
    Identity,
    InvalidCredentialError,
    Profile,
    Project,
    RegistryLevel,
    Scheme,
    Services,
    Standing,
    ceiling,
    hookimpl,
)
from plugins.auth_local import directory, rules
from plugins.auth_local.config import Config as _Config
from plugins.auth_local.directory import (
    Bot,
    DeployToken,
    GroupAccessToken,
    Index,
    JobToken,
    OauthToken,
    PersonalAccessToken,
    ProjectAccessToken,
    Token,
    User,
)
from plugins.auth_local.levels import Levels
from plugins.auth_local.passwords import Passwords

USER: Final = "user:"
TOKEN: Final = "token:"  # noqa: S105 - the beginning of an id, not a secret

_Stamp = tuple[int, int, int]


class Plugin:
    """Knows accounts, tokens, groups and projects from one YAML file."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._path = config.directory
        self._services = services
        self._levels = Levels(services.documents)
        self._passwords: Passwords | None = None
        self._index: Index | None = None
        self._stamp: _Stamp | None = None
        self._broken: tuple[str, ...] = ()
        self._looked = False
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
        facts = (await self._leveled()).facts
        return next((facts[path] for path in candidates if path in facts), None)

    @hookimpl
    async def gateway_standing(self, identity: Identity, project: Project) -> Standing | None:
        """The highest role over the project's members and its groups', or that a deploy token was made for it."""
        index = await self._current()
        path = project.path.lower()
        return _standing(index, identity, path) if path in index.facts else None

    @hookimpl
    async def gateway_projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]]:
        """The projects that are open to *identity*, and those where it has a role or that its token was made for."""
        index = await self._leveled()
        return [(index.facts[path], _standing(index, identity, path)) for path in _candidates(index, identity)]

    @hookimpl
    async def gateway_find_project(self, key: int | str) -> Project | None:
        """The project that has the number or the path *key*."""
        index = await self._leveled()
        path = index.by_number.get(key) if isinstance(key, int) else key.lower()
        return index.facts.get(path) if path else None

    @hookimpl
    async def gateway_find_group(self, key: int | str) -> Group | None:
        """The group that has the number or the path *key*."""
        index = await self._current()
        path = index.group_by_number.get(key) if isinstance(key, int) else key.lower()
        return index.groups.get(path) if path else None

    @hookimpl
    async def gateway_group_standing(self, identity: Identity, group: Group) -> Standing | None:
        """The highest role over the group's members and those of the groups above it."""
        index = await self._current()
        path = group.path.lower()
        return _group_standing(index, identity, path) if path in index.groups else None

    @hookimpl
    async def gateway_group_projects(self, group: Group) -> Sequence[Project]:
        """Every project below *group*."""
        index = await self._leveled()
        return [index.facts[path] for path in index.below(group.path.lower())]

    @hookimpl
    async def gateway_profile(self, identity: Identity) -> Profile | None:
        """The user of *identity*, a bot where its token is one's; a deploy token has none."""
        index = await self._current()
        token = index.fingerprints.get(identity.id.removeprefix(TOKEN))
        if isinstance(token, ProjectAccessToken | GroupAccessToken):
            bot = index.bots[token.digest]
            return Profile(
                index.user_ids[bot], bot, token.name or token.title, bot=True, token=_shown(index, token, bot)
            )
        username = token.user if isinstance(token, JobToken) else identity.id.removeprefix(USER)
        user = index.users.get(username.lower())
        if user is None:
            return None
        held = identity.credential if isinstance(identity.credential, PersonalAccessToken) else None
        return Profile(
            id=index.user_ids[user.username.lower()],
            username=user.username,
            name=user.name or user.username,
            state=user.state,
            admin=user.admin,
            external=user.external,
            email=user.email,
            token=_shown(index, held, user.username) if held is not None and held.digest in index.tokens else None,
        )

    @hookimpl
    async def gateway_set_registry_level(
        self, identity: Identity, project: Project, level: RegistryLevel
    ) -> RegistryLevel | None:
        """Keep *level* in the database, where it counts for more than the file, which is never written."""
        item = (await self._current()).projects.get(project.path.lower())
        if item is None:
            return None
        written = item.container_registry_access_level
        await self._levels.keep(item.path.lower(), level, identity.subject, written=written)
        return level

    # -- a request ----------------------------------------------------------------------------------

    @hookimpl
    async def gateway_authenticate(self, credential: Credential, client: Client) -> Identity | None:  # noqa: ARG002 - the hook's name for it
        """Try every kind of token, then the account password, as GitLab does (semantics 2.1).

        A secret belongs to one token, so that their order among each other does not matter; whether the username has
        to fit is the kind's own rule. The REST API takes no password and no deploy token, and looks at no username.
        """
        index = await self._current()
        token = index.token(credential.password.get_secret_value())
        basic = credential.scheme is Scheme.BASIC
        if token is not None and credential.scheme in token.schemes and (not basic or token.fits(credential.username)):
            return self._by_token(index, token)
        if not basic:
            return None
        return await self._by_password(index.logins.get(credential.username.lower()), credential)

    def _by_token(self, index: Index, token: Token) -> Identity:
        """The owner of *token*, within its scopes. Raises InvalidCredentialError where it is over."""
        _refuse_dead(token)
        match token:
            case PersonalAccessToken() | OauthToken():
                user = index.users[token.user.lower()]
                _refuse_inactive(user)
                kind = CredentialKind.OAUTH if isinstance(token, OauthToken) else CredentialKind.PERSONAL_ACCESS_TOKEN
                return self._user(user, kind, ceiling(token.scopes), token)
            case JobToken():
                user = index.users[token.user.lower()]
                _refuse_inactive(user)
                # What the user may do as an instance admin is not for the job (semantics 4, job token table).
                return replace(
                    self._user(user, CredentialKind.JOB_TOKEN, JOB_CEILING),
                    id=f"{TOKEN}{token.fingerprint}",
                    title=f"{token.title} of {token.project}, run by {user.username}",
                    admin=False,
                )
            case DeployToken():
                most = ceiling(token.scopes, DEPLOY_TOKEN_SCOPES)
                return self._token(token, CredentialKind.DEPLOY_TOKEN, token.username, most)
            case ProjectAccessToken() | GroupAccessToken():
                # GitLab makes a user for each such token, who is a member of that project or group alone.
                bot = index.bots[token.digest]
                return self._token(token, CredentialKind.PERSONAL_ACCESS_TOKEN, bot, ceiling(token.scopes))

    def _token(
        self,
        token: DeployToken | Bot,
        kind: CredentialKind,
        subject: str,
        most: frozenset[Action],
    ) -> Identity:
        return Identity(
            source=self._services.name,
            kind=kind,
            subject=subject,
            id=f"{TOKEN}{token.fingerprint}",
            ceiling=most,
            title=f"{token.title} of {token.place}",
            scopes=token.scopes,
        )

    async def _by_password(self, user: User | None, credential: Credential) -> Identity | None:
        assert self._passwords is not None
        if not await self._passwords.right(user, credential.password.get_secret_value()) or user is None:
            # Not "wrong": it may be a token of another source, where usernames do not matter.
            return None
        _refuse_inactive(user)
        if user.two_factor:
            raise InvalidCredentialError(
                f"{user.username} has two-factor authentication: use a personal access token in place of the password"
            )
        return self._user(user, CredentialKind.PASSWORD)

    def _user(
        self,
        user: User,
        kind: CredentialKind,
        most: frozenset[Action] = ALL_ACTIONS,
        token: PersonalAccessToken | OauthToken | None = None,
    ) -> Identity:
        return Identity(
            source=self._services.name,
            kind=kind,
            subject=user.username,
            id=f"{USER}{user.username}",
            ceiling=most,
            admin=user.admin,
            external=user.external,
            title=f"{token.title if token else 'account password'} of {user.username}",
            scopes=token.scopes if token else (),
            credential=token,
        )

    # -- the file -----------------------------------------------------------------------------------

    async def _current(self) -> Index:
        """The directory as it is now, or as it was before an edit broke it.

        The file is looked at once in a turn of the event loop: whatever was sent after an edit is read in a later one.
        Each look is a system call, a tenth of a token request when each question took one.
        """
        assert self._index is not None
        if not self._looked:
            if _stamp(self._path) == self._stamp:
                self._looked = True
                asyncio.get_running_loop().call_soon(self._look_again)
            else:
                await self._reread()
        return self._index

    async def _leveled(self) -> Index:
        """The directory as it is now, with the registry levels that were set through the API."""
        return await self._levels.laid_over(await self._current())

    def _look_again(self) -> None:
        self._looked = False

    async def _reread(self) -> None:
        async with self._reading:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                await self._read(stamp)

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
        found = os.stat(path)  # noqa: PTH116 - three times a request; pathlib doubles its cost
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _standing(index: Index, identity: Identity, path: str) -> Standing:
    """How *identity* stands to the project at *path*; a stranger once its user or token is no good any more."""
    if identity.id.startswith(USER):
        username = identity.id.removeprefix(USER).lower()
        user = index.users.get(username)
        return Standing(role=index.role(username, path)) if user is not None and user.active else Standing()
    token = index.fingerprints.get(identity.id.removeprefix(TOKEN))
    return Standing() if token is None or _dead(token) else token.standing(index, path)


def _group_standing(index: Index, identity: Identity, path: str) -> Standing:
    """The same for the group at *path*."""
    if identity.id.startswith(USER):
        username = identity.id.removeprefix(USER).lower()
        user = index.users.get(username)
        return index.group_standing(username, path) if user is not None and user.active else Standing()
    token = index.fingerprints.get(identity.id.removeprefix(TOKEN))
    return Standing() if token is None or _dead(token) else token.group_standing(index, path)


def _shown(index: Index, token: PersonalAccessToken | Bot, username: str) -> Mapping[str, object]:
    """A token as GitLab shows it to whoever has it; nobody wrote down when it was made."""
    return {
        "id": index.token_ids[token.digest],
        "name": token.name or token.title,
        "revoked": token.revoked,
        "created_at": None,
        "scopes": list(token.scopes),
        "user_id": index.user_ids[username.lower()],
        "active": not _dead(token),
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }


def _candidates(index: Index, identity: Identity) -> Iterable[str]:
    """The paths of the projects that *identity* may perhaps see, each once."""
    if identity.admin:
        return index.paths
    found = dict.fromkeys(index.open)
    token = index.fingerprints.get(identity.id.removeprefix(TOKEN))
    is_user = not identity.anonymous and not isinstance(token, DeployToken)
    if is_user and not identity.external:
        found |= dict.fromkeys(index.internal)
    if isinstance(token, JobToken):
        found |= dict.fromkeys((token.project.lower(), *index.joined(token.user.lower())))
    elif isinstance(token, ProjectAccessToken | GroupAccessToken | DeployToken):
        found |= dict.fromkeys(index.below(token.place.lower()))
    elif is_user:
        found |= dict.fromkeys(index.joined(identity.id.removeprefix(USER).lower()))
    return found


def _dead(token: Token) -> bool:
    over = token.revoked or rules.expired(token.expires_at, datetime.now(UTC).date())
    return over or (isinstance(token, JobToken) and token.status != "running")


def _refuse_dead(token: Token) -> None:
    if not _dead(token):
        return
    if token.revoked:
        raise InvalidCredentialError(f"the {token.title} is revoked")
    if isinstance(token, JobToken) and token.status != "running":
        raise InvalidCredentialError(f"the {token.title} is over: its job is not running but {token.status}")
    raise InvalidCredentialError(f"the {token.title} has expired: its last day was before {token.expires_at}")


def _refuse_inactive(user: User) -> None:
    if not user.active:
        raise InvalidCredentialError(f"the account {user.username} is {user.state}")
