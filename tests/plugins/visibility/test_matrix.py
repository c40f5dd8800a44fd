"""Every cell of the permission matrix and the deploy-token table (semantics 4)."""

from __future__ import annotations

import pytest

from gateway.plugins import (
    ALL_ACTIONS,
    ANONYMOUS,
    Access,
    Action,
    CredentialKind,
    Identity,
    Project,
    Reason,
    RegistryLevel,
    Repository,
    RepositoryName,
    Role,
    Standing,
    Verdict,
    Visibility,
)
from plugins.visibility import rules

WORDS = {
    "-": frozenset[Action](),
    "P": frozenset({Action.PULL}),
    "W": frozenset({Action.PUSH}),
    "PW": frozenset({Action.PULL, Action.PUSH}),
    "PWA": ALL_ACTIONS,
}

# anonymous, signed in, external, guest, planner, external guest, external planner, reporter, external reporter,
# developer, maintainer, owner, admin
ROWS = {
    "public enabled": "P P P P P P P P P PW PWA PWA PWA",
    "public private": "- - - - - - - P P PW PWA PWA PWA",
    "internal enabled": "- P - P P P P P P PW PWA PWA PWA",
    "internal private": "- - - - - - - P P PW PWA PWA PWA",
    "private enabled": "- - - - - - - P P PW PWA PWA PWA",
    "private private": "- - - - - - - P P PW PWA PWA PWA",
    "public disabled": "- - - - - - - - - - - - -",
    "internal disabled": "- - - - - - - - - - - - -",
    "private disabled": "- - - - - - - - - - - - -",
}


def user(*, admin: bool = False, external: bool = False, ceiling: frozenset[Action] = ALL_ACTIONS) -> Identity:
    """Log bob in."""
    return Identity("local", CredentialKind.PASSWORD, "bob", "user:bob", ceiling, admin=admin, external=external)


def deploy(ceiling: str) -> Identity:
    """Present a deploy token."""
    return Identity("local", CredentialKind.DEPLOY_TOKEN, "ci", "deploy_token:ci", WORDS[ceiling])


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
    pytest.param(row, identity, role, WORDS[word], id=f"{row} {name}")
    for row, words in ROWS.items()
    for (name, identity, role), word in zip(COLUMNS, words.split(), strict=True)
]


def project(row: str, *, archived: bool = False) -> Project:
    """Make the project of a row."""
    visibility, level = row.split()
    return Project("acme/app", Visibility(visibility), RegistryLevel(level), archived)


def access(of: Project, *actions: str) -> Access:
    """Ask for actions on its root image."""
    return Access("repository", of.path, actions, Repository(RepositoryName(of.path), of))


@pytest.mark.parametrize(("row", "identity", "role", "expected"), CELLS)
def test_cell(row: str, identity: Identity, role: Role | None, expected: frozenset[Action]) -> None:
    """A cell of the matrix allows what GitLab's does."""
    assert rules.verdict(identity, access(project(row), "pull"), Standing(role)).allowed == expected


@pytest.mark.parametrize(("row", "identity", "role", "expected"), CELLS)
def test_archived_cell(row: str, identity: Identity, role: Role | None, expected: frozenset[Action]) -> None:
    """In an archived project of any cell, pulling stays and writing goes."""
    found = rules.verdict(identity, access(project(row, archived=True), "pull"), Standing(role)).allowed
    assert found == expected & WORDS["P"]


@pytest.mark.parametrize(("row", "identity", "role", "expected"), CELLS)
def test_silence_without_pull(row: str, identity: Identity, role: Role | None, expected: frozenset[Action]) -> None:
    """Whoever may not pull hears no reason, whatever was asked."""
    found = rules.verdict(identity, access(project(row), "pull", "push", "delete", "*"), Standing(role))
    assert (found.reason is None) == (expected in (WORDS["-"], WORDS["PWA"]))


@pytest.mark.parametrize("visibility", list(Visibility))
@pytest.mark.parametrize("level", ["enabled", "private"])
@pytest.mark.parametrize("ceiling", ["P", "W", "PW", "-"])
def test_covering_deploy_token(visibility: str, level: str, ceiling: str) -> None:
    """A deploy token does in its project what its scopes say: read pulls, write alone only pushes."""
    found = rules.verdict(deploy(ceiling), access(project(f"{visibility} {level}"), "pull"), Standing(covered=True))
    assert found.allowed == WORDS[ceiling]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("ceiling", ["P", "W", "PW", "-"])
def test_stray_deploy_token(row: str, ceiling: str) -> None:
    """Elsewhere a deploy token is an anonymous caller within its scopes."""
    found = rules.verdict(deploy(ceiling), access(project(row), "pull", "push"), Standing())
    assert found.allowed == (WORDS["P"] & WORDS[ceiling] if row == "public enabled" else WORDS["-"])


@pytest.mark.parametrize("row", [row for row in ROWS if row.endswith("disabled")])
def test_deploy_token_of_a_disabled_registry(row: str) -> None:
    """A disabled registry is closed to the project's own deploy token."""
    assert rules.verdict(deploy("PW"), access(project(row), "pull"), Standing(covered=True)).allowed == WORDS["-"]


def test_archived_with_deploy_token() -> None:
    """An archived project is read-only for its deploy tokens too."""
    archived = project("private enabled", archived=True)
    assert rules.verdict(deploy("PW"), access(archived, "push"), Standing(covered=True)).allowed == WORDS["P"]


@pytest.mark.parametrize("kind", [CredentialKind.JOB_TOKEN, CredentialKind.NONE])
def test_other_kinds(kind: CredentialKind) -> None:
    """A kind of credential without a table gets nothing, even in a public project."""
    identity = Identity("local", kind, "x", "x")
    assert rules.verdict(identity, access(project("public enabled"), "pull"), Standing(Role.OWNER, covered=True)) == (
        Verdict()
    )


@pytest.mark.parametrize("ceiling", ["P", "W", "PW", "-"])
def test_ceiling(ceiling: str) -> None:
    """No role widens a credential."""
    owner = rules.verdict(
        user(ceiling=WORDS[ceiling]), access(project("private enabled"), "pull"), Standing(Role.OWNER)
    )
    assert owner.allowed == WORDS[ceiling]


@pytest.mark.parametrize(
    ("identity", "role", "action", "code", "message"),
    [
        (user(), Role.REPORTER, "push", "role", "pushing needs the developer role in acme/app, bob is reporter"),
        (user(), Role.DEVELOPER, "delete", "role", "deleting needs the maintainer role in acme/app, bob is developer"),
        (user(), None, "push", "role", "pushing needs the developer role in acme/app, bob is not a member"),
        (ANONYMOUS, None, "push", "role", "pushing needs the developer role in acme/app, and nobody is logged in"),
        (
            user(ceiling=WORDS["P"]),
            Role.OWNER,
            "push",
            "scopes",
            "the token's scopes do not allow push: it needs write_registry or api",
        ),
        (user(ceiling=WORDS["PW"]), Role.OWNER, "*", "scopes", "the token's scopes do not allow *: it needs api"),
        (deploy("P"), None, "push", "deploy_token", "pushing needs a deploy token of acme/app or its groups"),
    ],
)
def test_reasons(identity: Identity, role: Role | None, action: str, code: str, message: str) -> None:
    """Who may pull hears why more is refused, and what would allow it."""
    found = rules.verdict(identity, access(project("public enabled"), "pull", action), Standing(role)).reason
    assert found == Reason(code, message)


def test_reason_archived() -> None:
    """A developer hears that an archived project is read-only."""
    archived = project("private enabled", archived=True)
    found = rules.verdict(user(), access(archived, "push"), Standing(Role.DEVELOPER)).reason
    assert found == Reason("archived", "the project is archived: it is read-only")


def test_reason_for_write_only() -> None:
    """A deploy token that may push without pulling hears which scope it lacks, and nothing else."""
    covered, private = Standing(covered=True), project("private enabled")
    found = rules.verdict(deploy("W"), access(private, "pull"), covered).reason
    assert found == Reason("scopes", "the token's scopes do not allow pull: it needs read_registry")
    assert rules.verdict(deploy("W"), access(private, "delete"), covered).reason is None


def test_no_reason_where_all_is_granted() -> None:
    """Unknown and repeated actions give no reason of their own."""
    found = rules.verdict(user(), access(project("public enabled"), "pull", "pull", "fly"), Standing())
    assert found == Verdict(WORDS["P"])
