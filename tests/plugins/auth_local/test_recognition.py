"""Who a credential is, in GitLab's order (semantics 2.1 to 2.3)."""

from __future__ import annotations

import re

import pytest

from gateway.plugins import (
    ALL_ACTIONS,
    DEPLOY_TOKEN_SCOPES,
    Action,
    CredentialKind,
    Identity,
    InvalidCredentialError,
    Scheme,
    ceiling,
)
from plugins.auth_local import passwords, rules
from tests.plugins.auth_local.conftest import DAY, HASHED, TODAY, Local, content, deploy

NOTHING = frozenset[Action]()
PULL = frozenset({Action.PULL})
PUSH = frozenset({Action.PUSH})


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (["api"], ALL_ACTIONS),
        (["read_api"], PULL),
        (["read_registry"], PULL),
        (["write_registry"], PUSH),
        (["read_registry", "write_registry"], PULL | PUSH),
        (["read_virtual_registry", "write_virtual_registry"], NOTHING),
        (["read_user", "read_repository", "write_repository", "sudo", "admin_mode", "openid"], NOTHING),
        (["read_user", "read_registry"], PULL),
        ([], NOTHING),
    ],
)
def test_ceiling(scopes: list[str], expected: frozenset[Action]) -> None:
    """Scopes add up to the ceiling of semantics 2.3."""
    assert ceiling(scopes) == expected


def test_deploy_tokens_never_delete() -> None:
    """No scope lifts a deploy token over pull and push."""
    scopes = ["api", "read_registry", "write_registry"]
    assert ceiling(scopes, DEPLOY_TOKEN_SCOPES) == PULL | PUSH


@pytest.mark.parametrize(("days", "dead"), [(-1, True), (0, True), (1, False)])
def test_expiry(days: int, *, dead: bool) -> None:
    """A token that expires today is dead."""
    assert rules.expired(TODAY + days * DAY, TODAY) is dead


@pytest.mark.parametrize("username", ["alice", "bob", "nobody", "", "gitlab-ci-token"])
async def test_personal_token_ignores_the_username(local: Local, username: str) -> None:
    """A personal access token is its owner's whatever the username, even an empty one."""
    assert await local.login(username, "pat-api") == Identity(
        "local", CredentialKind.PERSONAL_ACCESS_TOKEN, "Alice", "user:Alice", ALL_ACTIONS, admin=True
    )


async def test_token_without_registry_scope(local: Local) -> None:
    """A token of other scopes is recognised and may do nothing."""
    found = await local.login("alice", "pat-user")
    assert found is not None
    assert found.ceiling == NOTHING


async def test_token_until_tomorrow(local: Local) -> None:
    """A token is good on the day before it expires."""
    assert await local.login("", "pat-tomorrow") is not None


@pytest.mark.parametrize(
    ("username", "secret"),
    [
        ("", "pat-today"),
        ("", "pat-revoked"),
        ("", "pat-eve"),
        ("", "oauth-eve"),
        ("deploy-old", "dt-old"),
        ("eve", "eve-secret"),
        ("gitlab-ci-token", "done"),
        ("gitlab-ci-token", "job-eve"),
    ],
)
async def test_known_and_wrong(local: Local, username: str, secret: str) -> None:
    """Expired, revoked and blocked end the search: no other plugin is asked."""
    with pytest.raises(InvalidCredentialError):
        await local.login(username, secret)


async def test_deploy_token(local: Local) -> None:
    """A deploy token with its username is recognised, within its scopes."""
    found = await local.login("deploy-app", "dt-app")
    assert found is not None
    assert (found.kind, found.subject, found.ceiling) == (CredentialKind.DEPLOY_TOKEN, "deploy-app", PULL | PUSH)


async def test_two_deploy_tokens_of_one_username(local: Local) -> None:
    """Deploy tokens may share a username, each with its own scopes and place."""
    changed = content()
    changed["tokens"].append(deploy("deploy-app", "dt-second", group="acme"))
    await local.edit(changed)
    first, second = await local.login("deploy-app", "dt-app"), await local.login("deploy-app", "dt-second")
    assert first is not None
    assert second is not None
    assert (first.ceiling, second.ceiling) == (PULL | PUSH, PULL)
    assert first.id != second.id


@pytest.mark.parametrize("username", ["", "alice", "Deploy-App", "deploy-group"])
async def test_deploy_token_needs_its_username(local: Local, username: str) -> None:
    """A deploy token under another username is not recognised."""
    assert await local.login(username, "dt-app") is None


async def test_shared_username(local: Local) -> None:
    """A user and a deploy token may share a username; the secret decides."""
    token, user = await local.login("alice", "dt-alice"), await local.login("alice", "plain-secret")
    assert token is not None
    assert user is not None
    assert (token.kind, user.kind) == (CredentialKind.DEPLOY_TOKEN, CredentialKind.PASSWORD)


@pytest.mark.parametrize("username", ["bob", "BOB", "Bob"])
@pytest.mark.parametrize("times", [1, 2])
async def test_password(local: Local, username: str, times: int) -> None:
    """A password is recognised in any case of the username, the first time and when remembered."""
    for _ in range(times):
        assert await local.login(username, "hashed-secret") == Identity(
            "local", CredentialKind.PASSWORD, "bob", "user:bob", ALL_ACTIONS, external=True
        )


@pytest.mark.parametrize(
    ("username", "secret"),
    [
        ("alice", "wrong"),
        ("bob", "wrong"),
        pytest.param("bob", HASHED, id="the hash itself"),
        ("nobody", "hashed-secret"),
        ("robot", ""),
        ("alice", ""),
        ("", ""),
        ("alice", "\ud800"),
    ],
)
async def test_not_recognised(local: Local, username: str, secret: str) -> None:
    """An unknown name or a wrong password is left to the next plugin."""
    assert await local.login(username, secret) is None


@pytest.mark.parametrize("username", ["", "bot", "alice", "gitlab-ci-token"])
@pytest.mark.parametrize("secret", ["prj", "grp"])
async def test_bots(local: Local, username: str, secret: str) -> None:
    """A project or group token is a user of its own, named as GitLab names it, neither admin nor external."""
    found = await local.login(username, secret)
    assert found is not None
    assert found.kind is CredentialKind.PERSONAL_ACCESS_TOKEN
    assert re.fullmatch({"prj": r"project_7_bot_[0-9a-f]+", "grp": r"group_\d+_bot_[0-9a-f]+"}[secret], found.subject)
    assert (found.ceiling, found.admin, found.external) == (ALL_ACTIONS, False, False)


@pytest.mark.parametrize("username", ["oauth2", "alice", ""])
async def test_oauth(local: Local, username: str) -> None:
    """An OAuth token is its user's, under any username (the newer rule)."""
    found = await local.login(username, "oauth")
    assert found == Identity("local", CredentialKind.OAUTH, "Alice", "user:Alice", ALL_ACTIONS, admin=True)


async def test_job(local: Local) -> None:
    """A running job's token acts for the user who runs it, and never administers."""
    found = await local.login("gitlab-ci-token", "job")
    assert found is not None
    assert (found.kind, found.subject, found.external) == (CredentialKind.JOB_TOKEN, "bob", True)
    assert found.ceiling == PULL | PUSH | {Action.DELETE}


async def test_job_of_an_admin(local: Local) -> None:
    """A job has nothing of its user's adminship."""
    changed = content()
    changed["users"][1]["admin"] = True
    await local.edit(changed)
    found = await local.login("gitlab-ci-token", "job")
    assert found is not None
    assert not found.admin


@pytest.mark.parametrize("username", ["", "bob", "GitLab-CI-token", "gitlab-ci-token "])
async def test_job_needs_its_username(local: Local, username: str) -> None:
    """A job token under another username is not recognised."""
    assert await local.login(username, "job") is None


async def test_login_by_email(local: Local) -> None:
    """An e-mail address, in any case, stands for its user."""
    changed = content()
    changed["users"][0]["email"] = "Alice@example.com"
    await local.edit(changed)
    found = await local.login("aLICE@Example.com", "plain-secret")
    assert found is not None
    assert found.subject == "Alice"


async def test_two_factor(local: Local) -> None:
    """With two-factor authentication the right password is refused, and the next step said."""
    with pytest.raises(InvalidCredentialError, match="personal access token"):
        await local.login("frank", "frank-secret")
    assert await local.login("frank", "wrong") is None


async def test_every_failure_costs_a_hash(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the account exists can't be told from the time that a failure takes."""
    verified: list[str] = []

    def matches(stored: str, given: bytes) -> bool:
        del given
        verified.append(stored)
        return False

    monkeypatch.setattr(passwords, "matches", matches)
    for username in ("nobody", "alice", "bob", "robot"):
        await local.login(username, "wrong")
    assert len(verified) == 4


async def test_right_password_is_remembered(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that was right is not hashed again, and a changed hash forgets it."""
    await local.login("bob", "hashed-secret")
    monkeypatch.setattr(passwords, "matches", lambda _stored, _given: False)
    assert await local.login("bob", "hashed-secret") is not None
    changed = content()
    changed["users"][1]["password_hash"] = HASHED[:-4] + "AAAA"
    await local.edit(changed)
    assert await local.login("bob", "hashed-secret") is None


# -- how it was presented (semantics 6) ---------------------------------------------------------------

BY_SCHEME = [
    pytest.param("pat-api", "PRIVATE-TOKEN Bearer", id="personal"),
    pytest.param("pat-user", "PRIVATE-TOKEN Bearer", id="personal, without a registry scope"),
    pytest.param("prj", "PRIVATE-TOKEN Bearer", id="project"),
    pytest.param("grp", "PRIVATE-TOKEN Bearer", id="group"),
    pytest.param("oauth", "Bearer", id="OAuth"),
    pytest.param("job", "JOB-TOKEN", id="job"),
    pytest.param("dt-app", "", id="deploy token"),
    pytest.param("plain-secret", "", id="password"),
    pytest.param("nothing", "", id="unknown"),
]


@pytest.mark.parametrize("username", ["", "alice", "deploy-app", "gitlab-ci-token"])
@pytest.mark.parametrize(("secret", "schemes"), BY_SCHEME)
async def test_schemes_of_the_rest_api(local: Local, username: str, secret: str, schemes: str) -> None:
    """The REST API takes access tokens in two headers, OAuth and job tokens in one each, and no other secret."""
    for scheme in (Scheme.PRIVATE_TOKEN, Scheme.BEARER, Scheme.JOB_TOKEN):
        found = await local.login(username, secret, scheme)
        assert (found is not None) == (scheme in schemes.split()), scheme


@pytest.mark.parametrize(
    ("secret", "scheme"),
    [
        ("pat-today", Scheme.PRIVATE_TOKEN),
        ("pat-revoked", Scheme.BEARER),
        ("pat-eve", Scheme.PRIVATE_TOKEN),
        ("oauth-eve", Scheme.BEARER),
        ("done", Scheme.JOB_TOKEN),
        ("job-eve", Scheme.JOB_TOKEN),
    ],
)
async def test_dead_in_the_rest_api(local: Local, secret: str, scheme: Scheme) -> None:
    """A token that is over is wrong there too."""
    with pytest.raises(InvalidCredentialError):
        await local.login("", secret, scheme)


async def test_the_same_identity_however_it_comes(local: Local) -> None:
    """A token is the same person with the same ceiling in every header."""
    assert await local.login("", "pat-api") == await local.login("", "pat-api", Scheme.PRIVATE_TOKEN)
    assert await local.login("gitlab-ci-token", "job") == await local.login("", "job", Scheme.JOB_TOKEN)
