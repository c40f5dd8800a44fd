"""GitLab's permission matrix (semantics 4) as tables, and what it grants of images; without I/O.

``policy`` is what a person or token may do with a project by its standing there; ``verdict`` says it with the steps
that led there. The credential's ceiling is not looked at here: the core cuts every verdict to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Flag, StrEnum, auto
from functools import cache
from typing import Final

from gateway.plugins import (
    Access,
    Action,
    CredentialKind,
    Identity,
    Project,
    RegistryLevel,
    Role,
    Standing,
    Step,
    Verdict,
    Visibility,
)


class Letter(Flag):
    """GitLab's abilities on a project's images (semantics 1), as the matrix spells them."""

    NONE = 0
    P = auto()
    """``read_container_image``: pull, see lists."""
    W = auto()
    """``create_container_image``: push."""
    T = auto()
    """``destroy_container_image``: delete one tag through the REST API; no action of the registry."""
    A = auto()
    """``admin_container_image``: the registry's ``delete`` and ``*``, deleting a repository, bulk deletion."""


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


_P: Final = Letter.P
_PW: Final = Letter.P | Letter.W
_PWT: Final = _PW | Letter.T
_PWTA: Final = _PWT | Letter.A

_BY_ROLE: Final[Mapping[Column, Letter]] = {
    Column.REPORTER: _P,
    Column.DEVELOPER: _PWT,
    Column.MAINTAINER: _PWTA,
    Column.ADMIN: _PWTA,
}
_EVERYONE: Final = dict.fromkeys(Column, _P) | dict(_BY_ROLE)
_INSIDERS: Final = dict.fromkeys((Column.SIGNED_IN, Column.GUEST, Column.EXTERNAL_GUEST), _P) | dict(_BY_ROLE)

MATRIX: Final[Mapping[tuple[Visibility, RegistryLevel], Mapping[Column, Letter]]] = {
    (Visibility.PUBLIC, RegistryLevel.ENABLED): _EVERYONE,
    (Visibility.PUBLIC, RegistryLevel.PRIVATE): _BY_ROLE,
    (Visibility.PUBLIC, RegistryLevel.DISABLED): {},
    (Visibility.INTERNAL, RegistryLevel.ENABLED): _INSIDERS,
    (Visibility.INTERNAL, RegistryLevel.PRIVATE): _BY_ROLE,
    (Visibility.INTERNAL, RegistryLevel.DISABLED): {},
    (Visibility.PRIVATE, RegistryLevel.ENABLED): _BY_ROLE,
    (Visibility.PRIVATE, RegistryLevel.PRIVATE): _BY_ROLE,
    (Visibility.PRIVATE, RegistryLevel.DISABLED): {},
}
"""Row and column to what is allowed. A cell that is missing is empty; ``disabled`` is, for admins too."""

ACTIONS: Final[Mapping[Letter, frozenset[Action]]] = {
    Letter.P: frozenset({Action.PULL}),
    Letter.W: frozenset({Action.PUSH}),
    Letter.T: frozenset(),
    Letter.A: frozenset({Action.DELETE, Action.ALL}),
}
"""What an ability is called on the wire (semantics 3.3.5)."""

_JOB_AT_HOME: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})
_PULL: Final = frozenset({Action.PULL})

_ROLES: Final = {
    Role.GUEST: Column.GUEST,
    Role.PLANNER: Column.GUEST,
    Role.REPORTER: Column.REPORTER,
    Role.DEVELOPER: Column.DEVELOPER,
    Role.MAINTAINER: Column.MAINTAINER,
    Role.OWNER: Column.MAINTAINER,
}
USERS: Final = frozenset({CredentialKind.PASSWORD, CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.OAUTH})

_KINDS: Final = {CredentialKind.JOB_TOKEN: "this job", CredentialKind.DEPLOY_TOKEN: "this deploy token"}
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


def abilities(identity: Identity, project: Project, standing: Standing) -> Letter:
    """The cell of the matrix that *identity*, a user or nobody, stands in; read-only where the project is archived."""
    cell = MATRIX[project.visibility, project.registry].get(column(identity, standing), Letter.NONE)
    return cell & _P if project.archived else cell


def policy(identity: Identity, project: Project, standing: Standing) -> frozenset[Action]:
    """What *identity* may do with *project* by its standing."""
    if identity.kind is CredentialKind.JOB_TOKEN:
        return _job(identity, project, standing)
    if identity.kind is CredentialKind.DEPLOY_TOKEN:
        return _actions(_deploy_token(project, standing))
    if identity.kind in USERS or identity.anonymous:
        return _actions(abilities(identity, project, standing))
    return frozenset()


def may_pull(identity: Identity, project: Project, standing: Standing) -> bool:
    """Whether *identity* may pull the images of *project*."""
    return Action.PULL in policy(identity, project, standing)


@cache
def _actions(abilities: Letter) -> frozenset[Action]:
    return frozenset[Action]().union(*(ACTIONS[ability] for ability in abilities))


def _deploy_token(project: Project, standing: Standing) -> Letter:
    """What a token does in a project that it was made for, at any level but disabled; elsewhere it is nobody."""
    if not standing.covered:
        return MATRIX[project.visibility, project.registry].get(Column.ANONYMOUS, Letter.NONE)
    if project.registry is RegistryLevel.DISABLED:
        return Letter.NONE
    return _P if project.archived else _PW


def _job(identity: Identity, project: Project, standing: Standing) -> frozenset[Action]:
    """In its own project a job needs no role of its user; elsewhere it only pulls (semantics 2.5 and 4)."""
    if project.registry is RegistryLevel.DISABLED:
        return frozenset()
    if standing.covered:
        return _JOB_AT_HOME
    by_visibility = project.registry is RegistryLevel.ENABLED and (
        project.visibility is Visibility.PUBLIC or (project.visibility is Visibility.INTERNAL and not identity.external)
    )
    # Membership, not adminship: an instance admin's job is let in nowhere for that.
    by_role = standing.listed and standing.role is not None and standing.role.level >= Role.REPORTER.level
    return _PULL if by_visibility or by_role else frozenset()


# -- what is said of it -------------------------------------------------------------------------------


def verdict(identity: Identity, access: Access, standing: Standing) -> Verdict:
    """The answer for one access of type ``repository``; nothing where no project owns the name."""
    if access.type != "repository" or access.repository is None:
        return Verdict()
    project = access.repository.project
    allowed = policy(identity, project, standing)
    return Verdict(allowed, lambda: (*standing.steps(), *_steps(identity, project, standing, access.actions, allowed)))


def catalog(identity: Identity, actions: Iterable[str]) -> Verdict:
    """The answer for ``registry:catalog:*``: for instance admins, and only for exactly that (semantics 3.3.2)."""
    who = identity.subject or "nobody"
    if not identity.admin:
        step = Step("admin", passed=False, finding=f"{who} is not an instance admin", remedy="log in as an admin")
        return Verdict(steps=lambda: (step,))
    granted = tuple(actions) == (Action.ALL,)
    finding = f"{who} is an instance admin, and the catalog's one action is *"
    step = Step("admin", passed=granted, finding=finding, remedy="" if granted else "ask for * and nothing else")
    return Verdict(frozenset({Action.ALL}) if granted else frozenset(), lambda: (step,))


def _steps(
    identity: Identity, project: Project, standing: Standing, asked: Sequence[str], allowed: frozenset[Action]
) -> Iterable[Step]:
    """Who the identity is in the project, and what the cell that it stands in says of the actions that are missing."""
    where = f"{project.visibility} project, registry {project.registry}: {_cell(identity, project, standing)}"
    action = next((action for action in Action if action in asked and action not in allowed), None)
    who = described(identity, project.path, standing)
    if action is None:
        yield Step("role", passed=True, finding=who)
        yield Step("visibility", passed=True, finding=where)
        return
    if project.registry is RegistryLevel.DISABLED:
        yield Step("role", passed=True, finding=who)
        remedy = f"let a maintainer of {project.path} enable its container registry"
        yield Step(
            "visibility", passed=False, finding=f"{where}: nobody may do anything, admins included", remedy=remedy
        )
        return
    yield from _refused(identity, project, standing, action, where)


def _refused(identity: Identity, project: Project, standing: Standing, action: Action, where: str) -> Iterable[Step]:
    doing, path, who = _DOING[action], project.path, described(identity, project.path, standing)
    if project.archived and action in policy(identity, replace(project, archived=False), standing):
        yield Step("role", passed=True, finding=who)
        yield Step(
            "archived", passed=False, finding="the project is archived: it is read-only", remedy=f"unarchive {path}"
        )
    elif identity.kind is CredentialKind.DEPLOY_TOKEN:
        yield _refused_deploy_token(action, path, covered=standing.covered)
    elif identity.kind is CredentialKind.JOB_TOKEN:
        yield _refused_job(identity, action, path, standing)
    else:
        role = _NEEDED_ROLE[action]
        finding = f"{doing} needs the {role} role in {path}, {stands(identity, standing)}"
        remedy = f"ask a maintainer or owner of {path} for the {role} role"
        yield Step(
            "role", passed=False, finding=finding, remedy=f"log in, and {remedy}" if identity.anonymous else remedy
        )
    yield Step("visibility", passed=True, finding=where)


def _refused_deploy_token(action: Action, path: str, *, covered: bool) -> Step:
    if action in {Action.PULL, Action.PUSH} and not covered:
        finding = f"{_DOING[action]} needs a deploy token of {path} or its groups"
        return Step(
            "deploy_token", passed=False, finding=finding, remedy=f"use a deploy token that was made for {path}"
        )
    finding = f"{_DOING[action]} is beyond a deploy token"
    return Step("deploy_token", passed=False, finding=finding, remedy="use the account or an api token of a maintainer")


def _refused_job(identity: Identity, action: Action, path: str, standing: Standing) -> Step:
    if action is not Action.PULL:
        finding = (
            f"{_DOING[action]} is for the jobs of {path} itself"
            if not standing.covered
            else (f"{_DOING[action]} is beyond a job token")
        )
        remedy = "use the account or an api token of a maintainer"
        if action is Action.PUSH:
            remedy = f"push to the job's own project (CI_REGISTRY_IMAGE), or use a deploy token of {path}"
        return Step("job_token", passed=False, finding=finding, remedy=remedy)
    if not standing.listed:
        finding = f"the job token allowlist of {path} does not let the job's project in"
        return Step(
            "allowlist", passed=False, finding=finding, remedy=f"add the job's project to the allowlist of {path}"
        )
    finding = f"pulling from another project's job needs the reporter role in {path}, {stands(identity, standing)}"
    remedy = f"ask a maintainer or owner of {path} to make {identity.subject} a reporter"
    return Step("role", passed=False, finding=finding, remedy=remedy)


def _cell(identity: Identity, project: Project, standing: Standing) -> str:
    """What is allowed in the cell that the identity stands in, in words."""
    if project.registry is RegistryLevel.DISABLED:
        return "nobody may do anything"
    who = _KINDS.get(identity.kind) or column(identity, standing)
    allowed = policy(identity, project, standing)
    return f"{who} may {', '.join(action for action in Action if action in allowed) or 'do nothing'} here"


def stands(identity: Identity, standing: Standing) -> str:
    """The end of a sentence that says which role is needed: the one that the identity has."""
    if identity.anonymous:
        return "and nobody is logged in"
    return f"{identity.subject} is {standing.role or 'not a member'}"


def described(identity: Identity, path: str, standing: Standing) -> str:
    """How the identity stands to the project at *path*, in a sentence."""
    if identity.anonymous:
        return "nobody is logged in"
    if identity.kind is CredentialKind.DEPLOY_TOKEN:
        made = f"the deploy token was made for {path} or a group above it"
        return (
            made if standing.covered else f"the deploy token was not made for {path}: it is nobody in particular here"
        )
    if identity.kind is CredentialKind.JOB_TOKEN and standing.covered:
        return f"the job runs in {path} itself"
    member = f"{identity.subject} is {standing.role or 'not a member'} in {path}"
    if identity.kind is CredentialKind.JOB_TOKEN:
        return f"the job runs in another project; {member}"
    external = ", and an external user" if identity.external else ""
    return f"{member}{', and an instance admin' if identity.admin else external}"
