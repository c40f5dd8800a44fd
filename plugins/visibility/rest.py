"""What the REST API may do with a project or a group, by the same matrix (semantics 4 and 6); without I/O.

Deploy tokens do not come this way. A job token opens the images of its own project alone, and there its user's role
counts, which it does not where a job pulls and pushes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from gateway.plugins import (
    Ability,
    CredentialKind,
    Group,
    Identity,
    Project,
    RegistryLevel,
    Role,
    Standing,
    Step,
    Verdict,
    Visibility,
)
from plugins.visibility import rules
from plugins.visibility.rules import Column, Letter

_LETTERS: Final[Mapping[Ability, Letter]] = {
    Ability.READ_IMAGES: Letter.P,
    Ability.DELETE_TAG: Letter.T,
    Ability.ADMIN_IMAGES: Letter.A,
}
"""What GitLab's abilities are called in the matrix."""
_DOING: Final[Mapping[Ability, str]] = {
    Ability.READ: "seeing it",
    Ability.READ_IMAGES: "seeing its images",
    Ability.DELETE_TAG: "deleting a tag",
    Ability.ADMIN_IMAGES: "administering its images",
    Ability.ADMIN: "changing its settings",
}
_NEEDED_ROLE: Final[Mapping[Ability, Role]] = {
    Ability.READ: Role.GUEST,
    Ability.READ_IMAGES: Role.REPORTER,
    Ability.DELETE_TAG: Role.DEVELOPER,
    Ability.ADMIN_IMAGES: Role.MAINTAINER,
    Ability.ADMIN: Role.MAINTAINER,
}


def of_project(identity: Identity, project: Project, standing: Standing) -> frozenset[Ability]:
    """What *identity* may do with *project*.

    Its settings are a maintainer's, whatever they say now: else nobody could enable a registry that is disabled. GitLab
    makes an archived project's images read-only, and not its settings.
    """
    if not _comes(identity):
        return frozenset()
    found = {Ability.READ} if _sees(identity, project.visibility, standing) else set()
    if identity.kind is CredentialKind.JOB_TOKEN and not standing.covered:
        return frozenset(found)
    cell = rules.abilities(identity, project, standing)
    found |= {ability for ability, letter in _LETTERS.items() if letter & cell}
    if rules.column(identity, standing) in {Column.MAINTAINER, Column.ADMIN}:
        found.add(Ability.ADMIN)
    return frozenset(found)


def of_group(identity: Identity, group: Group, standing: Standing) -> frozenset[Ability]:
    """What *identity* may do with *group*: its reporters alone list its images, however public it is (trap 34)."""
    if not _comes(identity):
        return frozenset()
    found = set()
    # Whoever is a member of a project below may see the groups above it, and nothing more of them.
    if standing.covered or _sees(identity, group.visibility, standing):
        found.add(Ability.READ)
    if identity.kind is not CredentialKind.JOB_TOKEN and (identity.admin or _reports(standing)):
        found.add(Ability.READ_IMAGES)
    return frozenset(found)


def _comes(identity: Identity) -> bool:
    """Whether credentials of the kind open the REST API at all."""
    return identity.anonymous or identity.kind in rules.USERS or identity.kind is CredentialKind.JOB_TOKEN


def _sees(identity: Identity, visibility: Visibility, standing: Standing) -> bool:
    if identity.admin or visibility is Visibility.PUBLIC or standing.role is not None:
        return True
    return visibility is Visibility.INTERNAL and not identity.anonymous and not identity.external


def _reports(standing: Standing) -> bool:
    return standing.role is not None and standing.role.level >= Role.REPORTER.level


# -- what is said of it -------------------------------------------------------------------------------


def project_verdict(identity: Identity, project: Project, standing: Standing, asked: Iterable[str]) -> Verdict:
    """The answer for an access of the type ``project``."""
    allowed = of_project(identity, project, standing)

    def steps() -> tuple[Step, ...]:
        missing = _first_missing(asked, allowed)
        finding = f"{project.visibility} project, registry {project.registry}: {_listed(allowed)}"
        led = _project_steps(identity, project, standing, missing, finding)
        return (*project.steps(), *standing.steps(), *led)

    return Verdict(allowed, steps)


def group_verdict(identity: Identity, group: Group, standing: Standing, asked: Iterable[str]) -> Verdict:
    """The answer for an access of the type ``group``."""
    allowed = of_group(identity, group, standing)

    def steps() -> tuple[Step, ...]:
        missing = _first_missing(asked, allowed)
        seen = Step("visibility", passed=True, finding=f"{group.visibility} group: {_listed(allowed)}")
        return (*group.steps(), *standing.steps(), _role(identity, group.path, standing, missing), seen)

    return Verdict(allowed, steps)


def _project_steps(
    identity: Identity, project: Project, standing: Standing, missing: Ability | None, finding: str
) -> Iterable[Step]:
    """Who the identity is in the project, and what stops the first ability that is missing."""
    path, who = project.path, rules.described(identity, project.path, standing)
    of_images = missing in _LETTERS and _comes(identity)
    if of_images and identity.kind is CredentialKind.JOB_TOKEN and not standing.covered:
        yield Step(
            "job_token",
            passed=False,
            finding=f"the job runs in another project, and the images of {path} are for its own jobs",
            remedy="use an access token",
        )
    elif of_images and project.registry is RegistryLevel.DISABLED:
        yield Step("role", passed=True, finding=who)
        remedy = f"let a maintainer of {path} enable its container registry"
        yield Step("visibility", passed=False, finding=f"the container registry of {path} is disabled", remedy=remedy)
    elif of_images and project.archived and missing in of_project(identity, replace(project, archived=False), standing):
        yield Step("role", passed=True, finding=who)
        yield Step(
            "archived", passed=False, finding="the project is archived: it is read-only", remedy=f"unarchive {path}"
        )
    else:
        yield _role(identity, path, standing, missing)
    yield Step("visibility", passed=True, finding=finding)


def _role(identity: Identity, path: str, standing: Standing, missing: Ability | None) -> Step:
    if missing is None:
        return Step("role", passed=True, finding=rules.described(identity, path, standing))
    if not _comes(identity):
        finding = f"the REST API takes access, OAuth and job tokens, and no {identity.kind.label}"
        return Step("kind", passed=False, finding=finding, remedy="use an access token with the scope api")
    needed = _NEEDED_ROLE[missing]
    finding = f"{_DOING[missing]} needs the {needed} role in {path}, {rules.stands(identity, standing)}"
    remedy = f"ask a maintainer or owner of {path} for the {needed} role"
    return Step("role", passed=False, finding=finding, remedy=f"log in, and {remedy}" if identity.anonymous else remedy)


def _first_missing(asked: Iterable[str], allowed: frozenset[Ability]) -> Ability | None:
    words = set(asked)
    return next((ability for ability in Ability if ability in words and ability not in allowed), None)


def _listed(allowed: frozenset[Ability]) -> str:
    return ", ".join(ability for ability in Ability if ability in allowed) or "nothing is allowed"
