"""Every cell of the permission matrix, and the tables of deploy and job tokens (semantics 4)."""

from __future__ import annotations

import pytest

from gateway.plugins import (
    ANONYMOUS,
    Access,
    Action,
    CredentialKind,
    Identity,
    Project,
    RegistryLevel,
    Repository,
    RepositoryName,
    Role,
    Standing,
    Visibility,
)
from plugins.visibility import rules
from plugins.visibility.rules import Letter

WORDS = {
    "-": frozenset[Action](),
    "P": frozenset({Action.PULL}),
    "PW": frozenset({Action.PULL, Action.PUSH}),
    "PWD": frozenset({Action.PULL, Action.PUSH, Action.DELETE}),
}

# anonymous, signed in, external, guest, planner, external guest, external planner, reporter, external reporter,
# developer, maintainer, owner, admin
ROWS = {
    "public enabled": "P P P P P P P P P PWT PWTA PWTA PWTA",
    "public private": "- - - - - - - P P PWT PWTA PWTA PWTA",
    "internal enabled": "- P - P P P P P P PWT PWTA PWTA PWTA",
    "internal private": "- - - - - - - P P PWT PWTA PWTA PWTA",
    "private enabled": "- - - - - - - P P PWT PWTA PWTA PWTA",
    "private private": "- - - - - - - P P PWT PWTA PWTA PWTA",
    "public disabled": "- - - - - - - - - - - - -",
    "internal disabled": "- - - - - - - - - - - - -",
    "private disabled": "- - - - - - - - - - - - -",
}
ON_THE_WIRE = {
    "-": WORDS["-"],
    "P": WORDS["P"],
    "PWT": WORDS["PW"],
    "PWTA": frozenset(Action),
}
"""A developer deletes tags by REST (T) and never gets the registry's `delete`, which is A (semantics 3.3.5)."""


def user(*, admin: bool = False, external: bool = False) -> Identity:
    """Log bob in."""
    return Identity("local", CredentialKind.PASSWORD, "bob", "user:bob", admin=admin, external=external)


def deploy() -> Identity:
    """Present a deploy token."""
    return Identity("local", CredentialKind.DEPLOY_TOKEN, "ci", "token:ci", WORDS["PW"])


def job(*, external: bool = False) -> Identity:
    """Present a job's token; bob runs the job."""
    return Identity("local", CredentialKind.JOB_TOKEN, "bob", "token:job", WORDS["PWD"], external=external)


COLUMNS = (
    ("anonymous", ANONYMOUS, None),
    ("signed in", user(), None),
    ("external", user(external=True), None),
    ("guest", user(), Role.GUEST),
    ("planner", user(), Role.PLANNER),
    ("external guest", user(external=True), Role.GUEST),
    ("external planner", user(external=True), Role.PLANNER),
    ("reporter", user(), Role.REPORTER),
    ("external reporter", user(external=True), Role.REPORTER),
    ("developer", user(), Role.DEVELOPER),
    ("maintainer", user(), Role.MAINTAINER),
    ("owner", user(), Role.OWNER),
    ("admin", user(admin=True), None),
)
CELLS = [
    pytest.param(row, identity, role, word, id=f"{row} {name}")
    for row, words in ROWS.items()
    for (name, identity, role), word in zip(COLUMNS, words.split(), strict=True)
]


def project(row: str, *, archived: bool = False) -> Project:
    """Make the project of a row."""
    visibility, level = row.split()
    return Project("acme/app", Visibility(visibility), RegistryLevel(level), archived)


def access(of: Project, *actions: str) -> Access:
    """Ask for actions on its root image."""
    return Access("repository", of.path, actions, Repository(RepositoryName(of.path.lower()), of))


@pytest.mark.parametrize(("row", "identity", "role", "word"), CELLS)
def test_cell(row: str, identity: Identity, role: Role | None, word: str) -> None:
    """A cell of the matrix has the abilities that GitLab's has, and the actions that they are on the wire."""
    letters = "".join(ability.name or "" for ability in rules.abilities(identity, project(row), Standing(role)))
    assert letters == word.strip("-")
    assert rules.policy(identity, project(row), Standing(role)) == ON_THE_WIRE[word]


@pytest.mark.parametrize(("row", "identity", "role", "word"), CELLS)
def test_archived_cell(row: str, identity: Identity, role: Role | None, word: str) -> None:
    """In an archived project of any cell, pulling stays and writing goes."""
    found = rules.abilities(identity, project(row, archived=True), Standing(role))
    assert found == (Letter.P if "P" in word else Letter.NONE)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("covered", "archived"), [(True, False), (False, False), (True, True)])
def test_deploy_token(row: str, *, covered: bool, archived: bool) -> None:
    """A deploy token pulls and pushes where it was made for, at any level but disabled; elsewhere it is nobody."""
    found = rules.policy(deploy(), project(row, archived=archived), Standing(covered=covered))
    if not covered:
        assert found == (WORDS["P"] if row == "public enabled" else WORDS["-"])
    elif row.endswith("disabled"):
        assert found == WORDS["-"]
    else:
        assert found == WORDS["P" if archived else "PW"]


# stranger, external stranger, guest, external guest, reporter, external reporter, developer, owner; as the job's user
JOB_ROWS = {
    "public enabled": "P P P P P P P P",
    "public private": "- - - - P P P P",
    "internal enabled": "P - P - P P P P",
    "internal private": "- - - - P P P P",
    "private enabled": "- - - - P P P P",
    "private private": "- - - - P P P P",
    "public disabled": "- - - - - - - -",
    "internal disabled": "- - - - - - - -",
    "private disabled": "- - - - - - - -",
}
# the same, for a job that the target's allowlist does not name
UNLISTED_ROWS = {
    "public enabled": "P P P P P P P P",
    "internal enabled": "P - P - P - P P",
}
JOB_COLUMNS: tuple[tuple[str, bool, Role | None], ...] = (
    ("stranger", False, None),
    ("external stranger", True, None),
    ("guest", False, Role.GUEST),
    ("external guest", True, Role.GUEST),
    ("reporter", False, Role.REPORTER),
    ("external reporter", True, Role.REPORTER),
    ("developer", False, Role.DEVELOPER),
    ("owner", False, Role.OWNER),
)
JOB_CELLS = [
    pytest.param(row, external, role, listed, word, id=f"{row} {name}{'' if listed else ' unlisted'}")
    for listed in (True, False)
    for row in ROWS
    for (name, external, role), word in zip(
        JOB_COLUMNS, (JOB_ROWS if listed else UNLISTED_ROWS).get(row, "- - - - - - - -").split(), strict=True
    )
]


@pytest.mark.parametrize(("row", "external", "role", "listed", "word"), JOB_CELLS)
def test_job_in_another_project(row: str, *, external: bool, role: Role | None, listed: bool, word: str) -> None:
    """Elsewhere a job pulls what is open to its user, or as a member where the allowlist permits."""
    assert rules.policy(job(external=external), project(row), Standing(role, listed=listed)) == WORDS[word]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("role", [None, Role.GUEST, Role.OWNER])
@pytest.mark.parametrize("archived", [False, True])
def test_job_at_home(row: str, role: Role | None, *, archived: bool) -> None:
    """In its own project a job pulls, pushes and deletes, whatever its user's role; only `disabled` stops it."""
    found = rules.policy(job(), project(row, archived=archived), Standing(role, covered=True))
    assert found == (WORDS["-"] if row.endswith("disabled") else WORDS["PWD"])


@pytest.mark.parametrize("kind", [CredentialKind.NONE])
def test_other_kinds(kind: CredentialKind) -> None:
    """A kind of credential without a table gets nothing, even in a public project."""
    identity = Identity("local", kind, "x", "x")
    found = rules.verdict(identity, access(project("public enabled"), "pull"), Standing(Role.OWNER, covered=True))
    assert found.allowed == WORDS["-"]


REFUSED = [
    (user(), Standing(Role.REPORTER), "push", "role", "pushing needs the developer role in acme/app, bob is reporter"),
    (
        user(),
        Standing(Role.DEVELOPER),
        "delete",
        "role",
        "deleting needs the maintainer role in acme/app, bob is developer",
    ),
    (user(), Standing(), "push", "role", "pushing needs the developer role in acme/app, bob is not a member"),
    (ANONYMOUS, Standing(), "push", "role", "pushing needs the developer role in acme/app, and nobody is logged in"),
    (deploy(), Standing(), "push", "deploy_token", "pushing needs a deploy token of acme/app or its groups"),
    (deploy(), Standing(covered=True), "delete", "deploy_token", "deleting is beyond a deploy token"),
    (job(), Standing(), "push", "job_token", "pushing is for the jobs of acme/app itself"),
    (job(), Standing(covered=True), "*", "job_token", "administering images is beyond a job token"),
]


@pytest.mark.parametrize(("identity", "standing", "action", "name", "finding"), REFUSED)
def test_the_step_that_refuses(identity: Identity, standing: Standing, action: str, name: str, finding: str) -> None:
    """The step that does not pass says what is missing, and what would change it."""
    steps = rules.verdict(identity, access(project("public enabled"), "pull", action), standing).steps()
    failed = [step for step in steps if not step.passed]
    assert [(step.name, step.finding) for step in failed] == [(name, finding)]
    assert failed[0].remedy


@pytest.mark.parametrize(
    ("row", "standing", "name", "finding"),
    [
        ("private enabled", Standing(), "role", "the reporter role in acme/app, bob is not a member"),
        ("private enabled", Standing(Role.REPORTER, listed=False), "allowlist", "does not let the job's project in"),
        ("private disabled", Standing(Role.REPORTER), "visibility", "registry disabled"),
    ],
)
def test_the_step_that_refuses_a_jobs_pull(row: str, standing: Standing, name: str, finding: str) -> None:
    """A job that may not pull from another project hears of the role, the allowlist or the setting that stops it."""
    steps = rules.verdict(job(), access(project(row), "pull"), standing).steps()
    failed = [step for step in steps if not step.passed]
    assert [step.name for step in failed] == [name]
    assert finding in failed[0].finding


def test_the_step_of_an_archived_project() -> None:
    """A developer's push to an archived project is refused for that, not for the role."""
    archived = project("private enabled", archived=True)
    steps = rules.verdict(user(), access(archived, "pull", "push"), Standing(Role.DEVELOPER)).steps()
    assert [step.finding for step in steps if not step.passed] == ["the project is archived: it is read-only"]


def test_all_steps_pass_where_all_is_granted() -> None:
    """Unknown and repeated actions refuse nothing of their own."""
    found = rules.verdict(user(), access(project("public enabled"), "pull", "pull", "fly"), Standing())
    assert all(step.passed for step in found.steps())
    assert found.allowed == WORDS["P"]


def test_no_project_no_verdict() -> None:
    """A name that no project owns is answered with nothing."""
    found = rules.verdict(user(admin=True), Access("repository", "acme/x", ("pull",)), Standing())
    assert (found.allowed, found.steps()) == (WORDS["-"], ())
