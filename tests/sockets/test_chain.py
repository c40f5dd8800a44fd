"""From question and verdict to answer: what is granted, what operators read, and what the caller may hear."""

from __future__ import annotations

import pytest

from gateway.oci import Action, RepositoryName
from gateway.plugins import (
    ALL_ACTIONS,
    ANONYMOUS,
    Access,
    CredentialKind,
    Identity,
    Project,
    Reason,
    Repository,
    Step,
    Unresolved,
    Verdict,
    Visibility,
)
from gateway.plugins.chain import Answer

NAME = RepositoryName("acme/app")
PROJECT = Project("Acme/App", Visibility.PRIVATE)
PULL, PUSH = frozenset({Action.PULL}), frozenset({Action.PUSH})
ROLE = Step("role", passed=False, finding="pushing needs the developer role", remedy="ask for it")


def alice(kind: CredentialKind = CredentialKind.PASSWORD, ceiling: frozenset[Action] = ALL_ACTIONS) -> Identity:
    """Be alice."""
    return Identity("local", kind, "alice", "user:alice", ceiling)


def answer(identity: Identity, allowed: frozenset[Action], *actions: str, steps: tuple[Step, ...] = ()) -> Answer:
    """Ask for actions on the project's image, where the authorizer says this much."""
    access = Access("repository", NAME, actions, Repository(NAME, PROJECT))
    return Answer.of(identity, access, Verdict(allowed, lambda: steps))


def test_all_granted() -> None:
    """Where all is granted, nothing is missing and there is no reason."""
    found = answer(alice(), PULL | PUSH, "push", "pull", "fly")
    assert (found.allowed, found.missing, found.why, found.reason) == (PULL | PUSH, (), None, None)
    assert all(step.passed for step in found.steps)


def test_the_steps_in_their_order() -> None:
    """An operator reads who came with what, where the name leads, and what the authorizer found."""
    found = answer(alice(), PULL, "pull", "push", steps=(ROLE,))
    assert [step.name for step in found.steps] == ["credential", "scopes", "naming", "project", "role"]
    assert found.why == Reason("role", ROLE.finding, ROLE.remedy)


def test_who_may_pull_hears_the_reason() -> None:
    """A caller who is granted pull hears why more is refused, also where pull was not asked for."""
    assert answer(alice(), PULL, "push", steps=(ROLE,)).reason == Reason("role", ROLE.finding, ROLE.remedy)


def test_who_may_not_pull_hears_nothing() -> None:
    """Without any grant the reason is for operators alone."""
    found = answer(alice(), frozenset(), "pull", steps=(ROLE,))
    assert found.reason is None
    assert found.why is not None


@pytest.mark.parametrize("actions", [("pull",), ("pull", "push")])
def test_who_may_push_alone_hears_of_the_scopes(actions: tuple[str, ...]) -> None:
    """With write_registry alone a developer hears which scope is missing."""
    found = answer(alice(CredentialKind.PERSONAL_ACCESS_TOKEN, PUSH), ALL_ACTIONS, *actions).reason
    assert found == Reason(
        "scopes", "the token's scopes do not allow pull", "use a token that has read_registry or api"
    )


def test_who_may_push_alone_hears_of_nothing_else() -> None:
    """With write_registry alone a refusal for another cause stays hidden: pull was never granted."""
    identity = alice(CredentialKind.PERSONAL_ACCESS_TOKEN, PUSH)
    assert answer(identity, PUSH, "pull", steps=(ROLE,)).reason is None


@pytest.mark.parametrize(
    ("identity", "action", "code", "message", "remedy"),
    [
        (
            alice(CredentialKind.PERSONAL_ACCESS_TOKEN, PULL),
            "push",
            "scopes",
            "do not allow push",
            "write_registry or api",
        ),
        (alice(CredentialKind.OAUTH, PULL), "delete", "scopes", "do not allow delete", "api"),
        (alice(CredentialKind.DEPLOY_TOKEN, PULL), "push", "scopes", "do not allow push", "write_registry"),
        (alice(CredentialKind.DEPLOY_TOKEN, PULL), "delete", "kind", "beyond a deploy token", "a maintainer"),
        (alice(CredentialKind.JOB_TOKEN, PULL | PUSH), "*", "kind", "beyond a CI job token", "a maintainer"),
        (ANONYMOUS, "push", "login", "nobody is logged in", "log in"),
    ],
)
def test_what_a_ceiling_cuts(identity: Identity, action: str, code: str, message: str, remedy: str) -> None:
    """What the credential may never do is said with the scope or the credential that would."""
    found = answer(identity, ALL_ACTIONS, "pull", action)
    assert Action(action) not in found.allowed
    assert found.reason is not None
    assert found.reason.code == code
    assert message in found.reason.message
    assert found.reason.remedy.endswith(remedy)


def test_every_cause_is_said_at_once() -> None:
    """A token that lacks the scope and an owner who lacks the role are told of together."""
    found = answer(alice(CredentialKind.PERSONAL_ACCESS_TOKEN, PULL), PULL, "pull", "push", steps=(ROLE,)).reason
    assert found is not None
    assert found.message == f"the token's scopes do not allow push; {ROLE.finding}"
    assert found.remedy == f"use a token that has write_registry or api; {ROLE.remedy}"


def test_what_no_scope_helps_is_the_only_cause() -> None:
    """Nobody needs a login first: what role they would need then is not said in the same breath."""
    found = answer(ANONYMOUS, PULL, "pull", "push", steps=(ROLE,)).reason
    assert found == Reason("login", "push needs a login, and nobody is logged in", "log in")


def test_an_authorizer_that_gives_no_steps() -> None:
    """A plugin that only says what is allowed still leads to a reason."""
    found = answer(alice(), PULL, "pull", "push")
    assert found.reason == Reason("policy", "push is not allowed here")


@pytest.mark.parametrize("public", [True, False])
def test_no_project(*, public: bool) -> None:
    """Why no project owns a name is heard only where that depends on the name alone."""
    why = Reason("naming", "too short", "add a group")
    access = Access("repository", "app", ("pull",), unresolved=Unresolved(why, public=public))
    found = Answer.of(alice(), access, Verdict())
    assert found.why == why
    assert found.reason == (why if public else None)


def test_no_project_and_no_reason() -> None:
    """A name that no plugin has an opinion on is refused with a reason for operators."""
    found = Answer.of(alice(), Access("repository", "a/b", ("pull",)), Verdict(ALL_ACTIONS))
    assert found.why is not None
    assert found.why.code == "project"
