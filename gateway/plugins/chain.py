"""From a question to its answer: what is granted, the steps that led there, and what the caller may hear of them.

The one place that builds the chain. An explanation shows it whole; a denial's message and detail, the refusals in a
token and the reason in the log are cut from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from gateway.oci import Action
from gateway.plugins.types import Ability, Access, CredentialKind, Identity, Reason, Step, Verdict

HIDDEN: Final = Reason(
    "hidden",
    "the repository does not exist, or you may not see it",
    "check the name, that its project exists and has the container registry enabled, and that your credential may "
    "read it",
)
"""What everybody hears until pull is granted: missing, hidden and refused are one answer."""

_NO_PROJECT: Final = Reason("project", "no project owns the name", "check the name, or create the project")
_SCOPES: Final = "scopes"
_LOGIN: Final = "login"
_KIND: Final = "kind"
_FINAL: Final = frozenset({_LOGIN, _KIND})
"""Steps that no other credential of the kind could pass: what follows them is beside the point."""

_SCOPE_FOR: Final[Mapping[CredentialKind, Mapping[Action, str]]] = {
    CredentialKind.PERSONAL_ACCESS_TOKEN: {
        Action.PULL: "read_registry or api",
        Action.PUSH: "write_registry or api",
        Action.DELETE: "api",
        Action.ALL: "api",
    },
    CredentialKind.DEPLOY_TOKEN: {Action.PULL: "read_registry", Action.PUSH: "write_registry"},
}
"""The scope that lifts a token's ceiling to an action (semantics 2.3); an OAuth token's are a personal token's."""


_CEILING: Final[Mapping[Action | Ability, Action]] = {
    Ability.READ: Action.PULL,
    Ability.READ_IMAGES: Action.PULL,
    # A job token deletes in its own project and changes no settings (semantics 2.2, 6).
    Ability.DELETE_TAG: Action.DELETE,
    Ability.ADMIN_IMAGES: Action.DELETE,
    Ability.ADMIN: Action.ALL,
}
"""The action that a credential's ceiling must have for an ability."""


def _words(access: Access) -> list[Action | Ability]:
    """The actions of *access* that its type has, each once."""
    known: type[Action | Ability] = Ability if access.type in {"project", "group"} else Action
    return [word for word in known if word in access.actions]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one access: *allowed* is what was asked, within the credential's ceiling, within the verdict."""

    identity: Identity
    access: Access
    verdict: Verdict
    allowed: frozenset[Action | Ability]

    @classmethod
    def of(cls, identity: Identity, access: Access, verdict: Verdict) -> Self:
        """Cut *verdict* to what was asked and to what the credential may ever do; without a project, to nothing."""
        asked = frozenset(_words(access))
        if access.type == "repository" and access.repository is None and verdict.project is None:
            asked = frozenset()
        ceiling = frozenset(word for word in asked if _CEILING.get(word, word) in identity.ceiling)
        return cls(identity, access, verdict, verdict.allowed & ceiling)

    @property
    def project(self) -> str | None:
        """The lower-case path of the project; empty where nobody says which it is, None where there is none."""
        repository = self.access.repository
        return self.verdict.project if repository is None else repository.project.path.lower()

    @property
    def project_id(self) -> int | None:
        """The project's number, where its source gives it one."""
        repository = self.access.repository
        return self.verdict.project_id if repository is None else repository.project.id

    @property
    def missing(self) -> tuple[Action | Ability, ...]:
        """The actions that were asked and are refused; words that nobody knows are not among them."""
        return tuple(word for word in _words(self.access) if word not in self.allowed)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The whole chain, for operators."""
        led = (
            *self.identity.steps(),
            _credential(self.identity),
            _ceiling(self.identity, self.access),
            *(() if self.access.repository is None and self.verdict.project is not None else _place(self.access)),
            *self.verdict.steps(),
        )
        if self.missing and all(step.passed for step in led):
            led += (Step("policy", passed=False, finding=f"{_listed(self.missing)} is not allowed here"),)
        return led

    @property
    def why(self) -> Reason | None:
        """Why something is refused, for operators; None where all is granted."""
        failed = [step for step in self.steps if not step.passed]
        if not self.missing or not failed:
            return None
        if failed[0].name in _FINAL:
            failed = failed[:1]
        return Reason(
            failed[0].name,
            "; ".join(step.finding for step in failed),
            "; ".join(dict.fromkeys(step.remedy for step in failed if step.remedy)),
        )

    @property
    def reason(self) -> Reason | None:
        """What the caller may know of why something is refused.

        Without pull, a project that is hidden must look like one that is missing. Who may push without pulling
        (``write_registry`` alone) hears of the scopes, and of nothing else.
        """
        why = self.why
        if why is None or self.access.type != "repository":
            return why
        if self.access.unresolved is not None and self.verdict.project is None:
            return self.access.unresolved.reason if self.access.unresolved.public else None
        within = self.verdict.allowed & self.identity.ceiling
        by_scopes = {step.name for step in self.steps if not step.passed} == {_SCOPES}
        return why if Action.PULL in within or (within and by_scopes) else None


def _credential(identity: Identity) -> Step:
    """What the identity came with, such as ``account password of alice``."""
    named = identity.title or f"{identity.kind.label} of {identity.subject}"
    return Step("credential", passed=True, finding="none: nobody is logged in" if identity.anonymous else named)


def _ceiling(identity: Identity, access: Access) -> Step:
    ceiling = _listed(action for action in Action if action in identity.ceiling) or "nothing"
    named = f"{', '.join(identity.scopes)}: at most {ceiling}" if identity.scopes else f"at most {ceiling}"
    needed_here = {_CEILING.get(word) or Action(word) for word in _words(access)}
    missing = [action for action in Action if action in needed_here - identity.ceiling]
    if not missing:
        return Step(_SCOPES, passed=True, finding=named)
    short = _listed(missing)
    if identity.anonymous:
        return Step(_LOGIN, passed=False, finding=f"{short} needs a login, and nobody is logged in", remedy="log in")
    kind = CredentialKind.PERSONAL_ACCESS_TOKEN if identity.kind is CredentialKind.OAUTH else identity.kind
    needed = _SCOPE_FOR.get(kind, {})
    if all(action in needed for action in missing):
        has = f" ({', '.join(identity.scopes)})" if identity.scopes else ""
        scopes = " and ".join(dict.fromkeys(needed[action] for action in missing))
        return Step(
            _SCOPES,
            passed=False,
            finding=f"the token's scopes{has} do not allow {short}",
            remedy=f"use a token that has {scopes}",
        )
    title = identity.kind.label
    article = "an" if title[0] in "aeiouAEIOU" else "a"
    return Step(
        _KIND,
        passed=False,
        finding=f"{short} is beyond {article} {title}",
        remedy="use the account or an api token of a maintainer",
    )


def _place(access: Access) -> tuple[Step, ...]:
    if access.type != "repository":
        return ()
    if access.repository is None:
        why = access.unresolved.reason if access.unresolved else _NO_PROJECT
        asked = access.unresolved.steps() if access.unresolved else ()
        return (*asked, Step(why.code, passed=False, finding=why.message, remedy=why.remedy))
    project = access.repository.project
    return (
        *project.steps(),
        Step("naming", passed=True, finding=_below(access.name, project.path)),
        Step("project", passed=True, finding=f"{project.path}: {project.visibility}, registry {project.registry}"),
    )


def _below(name: str, project: str) -> str:
    extra = name.removeprefix(project.lower()).strip("/")
    return f"{extra!r} below the project {project}" if extra else f"the image of the project {project} itself"


def _listed(actions: Iterable[Action | Ability]) -> str:
    return ", ".join(actions)
