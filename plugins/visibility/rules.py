"""GitLab's permission matrix (semantics 4) as tables, without I/O.

``policy`` is what a person or token may do with a project by its standing there; the credential's ceiling then cuts it.
``verdict`` does both, and says why something is refused to a caller who may know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from gateway.plugins import (
    ALL_ACTIONS,
    Access,
    Action,
    CredentialKind,
    Identity,
    Project,
    Reason,
    RegistryLevel,
    Role,
    Standing,
    Verdict,
    Visibility,
)


class Column(StrEnum):
    """The columns of the matrix. A planner is a guest here, and an owner a maintainer (semantics 4, notes)."""

    ANONYMOUS = "anonymous"
    SIGNED_IN = "signed-in non-member"
    EXTERNAL = "external non-member"
    GUEST = "guest"
    EXTERNAL_GUEST = "external guest"
    REPORTER = "reporter"
    DEVELOPER = "developer"
    MAINTAINER = "maintainer"
    ADMIN = "admin"


_NOTHING: Final[frozenset[Action]] = frozenset()
_PULL: Final = frozenset({Action.PULL})
_PUSH: Final = frozenset({Action.PULL, Action.PUSH})

_BY_ROLE: Final[Mapping[Column, frozenset[Action]]] = {
    Column.REPORTER: _PULL,
    Column.DEVELOPER: _PUSH,
    Column.MAINTAINER: ALL_ACTIONS,
    Column.ADMIN: ALL_ACTIONS,
}
_EVERYONE: Final = dict.fromkeys(Column, _PULL) | dict(_BY_ROLE)
_INSIDERS: Final = dict.fromkeys((Column.SIGNED_IN, Column.GUEST, Column.EXTERNAL_GUEST), _PULL) | dict(_BY_ROLE)

MATRIX: Final[Mapping[tuple[Visibility, RegistryLevel], Mapping[Column, frozenset[Action]]]] = {
    (Visibility.PUBLIC, RegistryLevel.ENABLED): _EVERYONE,
    (Visibility.PUBLIC, RegistryLevel.PRIVATE): _BY_ROLE,
    (Visibility.INTERNAL, RegistryLevel.ENABLED): _INSIDERS,
    (Visibility.INTERNAL, RegistryLevel.PRIVATE): _BY_ROLE,
    (Visibility.PRIVATE, RegistryLevel.ENABLED): _BY_ROLE,
    (Visibility.PRIVATE, RegistryLevel.PRIVATE): _BY_ROLE,
}
"""Row and column to what is allowed. A cell that is missing is empty; ``disabled`` has no row, for admins either."""

DEPLOY_TOKEN: Final[Mapping[RegistryLevel, frozenset[Action]]] = {
    RegistryLevel.ENABLED: _PUSH,
    RegistryLevel.PRIVATE: _PUSH,
}
"""What a deploy token may do in a project that it covers, before its scopes cut it."""

_ROLES: Final = {
    Role.GUEST: Column.GUEST,
    Role.PLANNER: Column.GUEST,
    Role.REPORTER: Column.REPORTER,
    Role.DEVELOPER: Column.DEVELOPER,
    Role.MAINTAINER: Column.MAINTAINER,
    Role.OWNER: Column.MAINTAINER,
}
_USERS: Final = frozenset({CredentialKind.PASSWORD, CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.OAUTH})

_DOING: Final = {
    Action.PULL: "pulling",
    Action.PUSH: "pushing",
    Action.DELETE: "deleting",
    Action.ALL: "administering images",
}
_NEEDED_ROLE: Final = {
    Action.PULL: Role.REPORTER,
    Action.PUSH: Role.DEVELOPER,
    Action.DELETE: Role.MAINTAINER,
    Action.ALL: Role.MAINTAINER,
}
_NEEDED_SCOPE: Final = {
    Action.PULL: "read_registry or api",
    Action.PUSH: "write_registry or api",
    Action.DELETE: "api",
    Action.ALL: "api",
}
_NEEDED_DEPLOY_SCOPE: Final = {Action.PULL: "read_registry", Action.PUSH: "write_registry"}


def column(identity: Identity, standing: Standing) -> Column:
    """The column of the matrix that *identity* stands in."""
    if identity.anonymous:
        return Column.ANONYMOUS
    if identity.admin:
        return Column.ADMIN
    if standing.role is None:
        return Column.EXTERNAL if identity.external else Column.SIGNED_IN
    found = _ROLES[standing.role]
    return Column.EXTERNAL_GUEST if identity.external and found is Column.GUEST else found


def unarchived_policy(identity: Identity, project: Project, standing: Standing) -> frozenset[Action]:
    """What *identity* may do with *project* if it were not archived, by its standing alone."""
    row = MATRIX.get((project.visibility, project.registry), {})
    if identity.kind is CredentialKind.DEPLOY_TOKEN:
        if standing.covered:
            return DEPLOY_TOKEN.get(project.registry, _NOTHING)
        return row.get(Column.ANONYMOUS, _NOTHING)
    if identity.kind in _USERS or identity.anonymous:
        return row.get(column(identity, standing), _NOTHING)
    return _NOTHING


def policy(identity: Identity, project: Project, standing: Standing) -> frozenset[Action]:
    """What *identity* may do with *project* by its standing; an archived project is read-only for everybody."""
    allowed = unarchived_policy(identity, project, standing)
    return allowed & _PULL if project.archived else allowed


def may_pull(identity: Identity, project: Project, standing: Standing) -> bool:
    """Whether *identity* may pull the images of *project*, ceiling and all."""
    return Action.PULL in policy(identity, project, standing) & identity.ceiling


def verdict(identity: Identity, access: Access, standing: Standing) -> Verdict:
    """The answer for one access of type ``repository`` to a project; nothing where no project owns the name."""
    if access.type != "repository" or access.repository is None:
        return Verdict()
    project = access.repository.project
    allowed = policy(identity, project, standing) & identity.ceiling
    missing = [action for action in Action if action in access.actions and action not in allowed]
    if not missing or not allowed:
        # Without any grant, a project that is hidden must look like one that is missing.
        return Verdict(allowed)
    why = reason(identity, project, standing, missing)
    # Who may push without pulling (write_registry alone) hears of the scopes, and of nothing else.
    return Verdict(allowed, why if Action.PULL in allowed or why.code == "scopes" else None)


def catalog(identity: Identity, actions: Iterable[str]) -> Verdict:
    """The answer for ``registry:catalog:*``: for instance admins, and only for exactly that."""
    return Verdict(frozenset({Action.ALL})) if identity.admin and tuple(actions) == (Action.ALL,) else Verdict()


def reason(identity: Identity, project: Project, standing: Standing, missing: Iterable[Action]) -> Reason:
    """Why the first of *missing* is refused, for a caller who knows that the project exists."""
    action = next(iter(missing))
    deploy = identity.kind is CredentialKind.DEPLOY_TOKEN
    if action in policy(identity, project, standing):
        needed = (_NEEDED_DEPLOY_SCOPE if deploy else _NEEDED_SCOPE)[action]
        return Reason("scopes", f"the token's scopes do not allow {action}: it needs {needed}")
    if action in unarchived_policy(identity, project, standing):
        return Reason("archived", "the project is archived: it is read-only")
    if deploy:
        if action in _NEEDED_DEPLOY_SCOPE:
            return Reason("deploy_token", f"{_DOING[action]} needs a deploy token of {project.path} or its groups")
        return Reason("deploy_token", f"{_DOING[action]} is beyond a deploy token: use a maintainer's account")
    needs = f"{_DOING[action]} needs the {_NEEDED_ROLE[action]} role in {project.path}"
    if identity.anonymous:
        return Reason("role", f"{needs}, and nobody is logged in")
    return Reason("role", f"{needs}, {identity.subject} is {standing.role or 'not a member'}")
