"""Credentials (semantics 2.1 to 2.3): how each is recognised, when it is dead, and what it may at most do."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.semantics import company
from tests.semantics.asking import ALL, FORBIDDEN, ask, claims, may, rows, scope, user_info
from tests.semantics.company import (
    ADMIN,
    DEVELOPER,
    HOME,
    MAINTAINER,
    NAMESAKE,
    NAMESAKE_DEPLOY,
    SHARED,
    SUB,
    TWO_FACTOR,
    USER_KINDS,
    bot,
    deploy,
    ending,
    job,
    of_inactive,
    other,
    token,
    user,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Credential

PUBLIC = other("public-enabled")

# -- ceilings -----------------------------------------------------------------------------------------

CEILINGS = rows("""
scopes                                      at-home            public-elsewhere private-elsewhere
api                                         pull,push,delete,* pull             -
read_api                                    pull               pull             -
read_registry                               pull               pull             -
write_registry                              push               -                -
read_registry+write_registry                pull,push          pull             -
read_api+write_registry                     pull,push          pull             -
read_registry+read_user                     pull               pull             -
read_user                                   403                403              403
read_repository+write_repository            403                403              403
sudo+admin_mode                             403                403              403
openid                                      403                403              403
read_virtual_registry+write_virtual_registry 403               403              403
""")
"""A maintainer's tokens, and those of bots who are maintainers: what their scopes leave of it (2.3)."""
WHERE = {"at-home": HOME, "public-elsewhere": PUBLIC, "private-elsewhere": other("private-enabled")}


@pytest.mark.parametrize("kind", USER_KINDS)
@pytest.mark.parametrize(("scopes", "where", "allowed"), [pytest.param(*each, id=" ".join(each)) for each in CEILINGS])
def test_ceiling(served: GatewayProcess, kind: str, scopes: str, where: str, allowed: str) -> None:
    """Scopes add up to a ceiling, which cuts the owner's rights; without one for the registry all is 403."""
    assert may(served, token(kind, scopes.replace("+", " ")), WHERE[where]) == allowed.removeprefix("-")


DEPLOY_CEILINGS = rows("""
scopes                       at-home   public-elsewhere private-elsewhere
read_registry                pull      pull             -
write_registry               push      -                -
read_registry+write_registry pull,push pull             -
read_repository              403       403              403
""")


@pytest.mark.parametrize("place", ["project", "group"])
@pytest.mark.parametrize(
    ("scopes", "where", "allowed"), [pytest.param(*each, id=" ".join(each)) for each in DEPLOY_CEILINGS]
)
def test_deploy_ceiling(served: GatewayProcess, place: str, scopes: str, where: str, allowed: str) -> None:
    """A deploy token pulls and pushes by its scopes where it belongs, and is nobody elsewhere."""
    assert may(served, deploy(place, scopes.replace("+", " ")), WHERE[where]) == allowed.removeprefix("-")


BOT_ROLES = {
    "guest": "",
    "planner": "",
    "reporter": "pull",
    "developer": "pull,push",
    "maintainer": ALL,
    "owner": ALL,
}


@pytest.mark.parametrize("kind", ["project_access_token", "group_access_token"])
@pytest.mark.parametrize(("role", "allowed"), BOT_ROLES.items())
def test_role_of_a_bot(served: GatewayProcess, kind: str, role: str, allowed: str) -> None:
    """The bot of a project's or group's token is a member with that role, whatever its scopes would allow."""
    assert may(served, bot(kind, role), HOME) == allowed


PLACES = [
    pytest.param(bot("project_access_token", "owner"), SUB, "", id="a project's token in another project"),
    pytest.param(bot("group_access_token", "owner"), SUB, ALL, id="a group's token in its subgroup"),
    pytest.param(company.DEEP_SUBGROUP_BOT, SUB, ALL, id="a subgroup's token in the subgroup"),
    pytest.param(company.DEEP_SUBGROUP_BOT, HOME, "", id="a subgroup's token in the group above"),
]


@pytest.mark.parametrize(("who", "project", "allowed"), PLACES)
def test_place_of_a_bot(served: GatewayProcess, who: Account, project: str, allowed: str) -> None:
    """A bot is a member where its token was made, and below."""
    assert may(served, who, project) == allowed


# -- recognition --------------------------------------------------------------------------------------

PERSONAL, OAUTH = (token(kind, "api").password for kind in ("personal_access_token", "oauth_token"))
DEPLOY = deploy("project", "read_registry")
JOB = job("developer")

# Whose token comes back: `sub` and `auth_type`; or None for 401.
RECOGNISED: list[tuple[str, str, str, tuple[str, str] | None]] = [
    ("password", "developer", DEVELOPER.password, ("developer", "gitlab_or_ldap")),
    ("password, capitals in the name", "DEVELOPER", DEVELOPER.password, ("developer", "gitlab_or_ldap")),
    ("password, by e-mail", "developer@example.com", DEVELOPER.password, ("developer", "gitlab_or_ldap")),
    ("password, capitals in the e-mail", "Developer@Example.com", DEVELOPER.password, ("developer", "gitlab_or_ldap")),
    ("password, capitals in the secret", "developer", DEVELOPER.password.upper(), None),
    ("password of somebody else", "reporter", DEVELOPER.password, None),
    ("password without a username", "", DEVELOPER.password, None),
    ("password and two factors", *TWO_FACTOR, None),
    ("no such user", "nobody-at-all", "password", None),
    ("no secret", "developer", "", None),
    ("personal, its owner's name", "maintainer", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, another user's name", "developer", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, no name", "", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, nobody's name", "x", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, the name of jobs", "gitlab-ci-token", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, the name of OAuth", "oauth2", PERSONAL, ("maintainer", "personal_access_token")),
    ("personal, a deploy token's name", DEPLOY.username, PERSONAL, ("maintainer", "personal_access_token")),
    ("OAuth, its own name", "oauth2", OAUTH, ("maintainer", "oauth")),
    ("OAuth, any name", "developer", OAUTH, ("maintainer", "oauth")),
    ("OAuth, no name", "", OAUTH, ("maintainer", "oauth")),
    ("deploy, its name", *DEPLOY, ("", "deploy_token")),
    ("deploy, capitals in its name", DEPLOY.username.upper(), DEPLOY.password, None),
    ("deploy, another deploy token's name", deploy("group", "read_registry").username, DEPLOY.password, None),
    ("deploy, a user's name", "developer", DEPLOY.password, None),
    ("deploy, the name of jobs", "gitlab-ci-token", DEPLOY.password, None),
    ("deploy, no name", "", DEPLOY.password, None),
    ("job, the name of jobs", *JOB, ("developer", "build")),
    ("job, capitals in the name", "GitLab-CI-Token", JOB.password, None),
    ("job, its user's name", "developer", JOB.password, None),
    ("job, no name", "", JOB.password, None),
    ("a name of both, the user's secret", *NAMESAKE, ("namesake", "gitlab_or_ldap")),
    ("a name of both, the deploy token's secret", *NAMESAKE_DEPLOY, ("", "deploy_token")),
    ("a name of both, capitals, the user's secret", "NameSake", NAMESAKE.password, ("namesake", "gitlab_or_ldap")),
    ("a name of both, capitals, the deploy token's secret", "NameSake", NAMESAKE_DEPLOY.password, None),
]


@pytest.mark.parametrize(
    ("username", "secret", "expected"), [pytest.param(*row, id=title) for title, *row in RECOGNISED]
)
def test_recognition(served: GatewayProcess, username: str, secret: str, expected: tuple[str, str] | None) -> None:
    """The secret decides who it is, and each kind has its own rule for the username (2.1)."""
    answer = ask(served, Account(username, secret))
    if expected is None:
        answer.expect(401)
    else:
        found = claims(served, answer)
        assert (found["sub"], found["auth_type"]) == expected


@pytest.mark.parametrize(
    ("who", "allowed"),
    [pytest.param(SHARED[0], ("pull", ""), id="of one"), pytest.param(SHARED[1], ("", "pull"), id="of the other")],
)
def test_two_deploy_tokens_share_a_username(served: GatewayProcess, who: Account, allowed: tuple[str, str]) -> None:
    """Under one username, the secret tells two deploy tokens apart."""
    assert (may(served, who, HOME), may(served, who, SUB)) == allowed


# -- the dead -----------------------------------------------------------------------------------------

DEAD: list[tuple[str, Account]] = [
    *(
        (f"{kind}, {end}", ending(kind, end))
        for kind, end in product((*USER_KINDS, "deploy_token"), ("expired yesterday", "expires today", "revoked"))
    ),
    *((f"password of a user who is {state}", user(state)) for state in company.INACTIVE),
    *((f"{kind} of a blocked user", of_inactive(kind)) for kind in ("personal_access_token", "oauth_token")),
    ("ci_job_token of a blocked user", of_inactive("ci_job_token")),
    *((f"ci_job_token, {status}", job("developer", status=status)) for status in company.STATUSES),
]


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in DEAD])
def test_dead(served: GatewayProcess, who: Account) -> None:
    """A dead credential is 401, at the token endpoint and at a public image alike: it is not nobody (2.2)."""
    ask(served, who).expect(401)
    ask(served, who, scope(PUBLIC, "pull")).expect(401)
    served.wire(who).get(f"/v2/{PUBLIC}/tags/list").expect(401)


@pytest.mark.parametrize("kind", [*USER_KINDS, "deploy_token"])
def test_alive_until_the_day_before(served: GatewayProcess, kind: str) -> None:
    """A token that expires tomorrow is good today."""
    assert "pull" in may(served, ending(kind, "expires tomorrow"), HOME).split(",")


# -- the gate -----------------------------------------------------------------------------------------

SCOPELESS = {
    **{kind: token(kind, "read_user") for kind in USER_KINDS},
    "deploy token of a project": deploy("project", "read_repository"),
    "deploy token of a group": deploy("group", "read_repository"),
}
ASKED = {
    "nothing": [],
    "a public image": [scope(PUBLIC, "pull")],
    "an image of its own": [scope(HOME, "pull")],
    "something illegible": ["pull"],
}


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in SCOPELESS.items()])
@pytest.mark.parametrize("scopes", [pytest.param(scopes, id=title) for title, scopes in ASKED.items()])
def test_gate(served: GatewayProcess, who: Account, scopes: list[str]) -> None:
    """A good token without a scope of the registry is 403 whatever it asks for (3.2, step 4)."""
    assert ask(served, who, *scopes).expect(403).json() == FORBIDDEN


@pytest.mark.parametrize("who", [pytest.param(who, id=title) for title, who in SCOPELESS.items()])
def test_gate_at_the_registry(served: GatewayProcess, who: Account) -> None:
    """Under Basic such a token opens no public image either: it does not fall back to nobody (trap 6)."""
    assert served.wire(who).get(f"/v2/{PUBLIC}/tags/list").expect(403).json()["errors"][0]["code"] == "DENIED"


# -- claims about the caller --------------------------------------------------------------------------

# The scope that is asked, `auth_type`, `sub`, and the username in `user`.
CALLERS: list[tuple[str, Credential, str, str, str]] = [
    ("password", DEVELOPER, "gitlab_or_ldap", "developer", "developer"),
    ("admin", ADMIN, "gitlab_or_ldap", "admin", "admin"),
    ("personal", Account("", PERSONAL), "personal_access_token", "maintainer", "maintainer"),
    ("OAuth", Account("", OAUTH), "oauth", "maintainer", "maintainer"),
    ("deploy token", DEPLOY, "deploy_token", "", DEPLOY.username),
    ("job", JOB, "build", "developer", "developer"),
    ("an admin's job", job("admin"), "build", "admin", "admin"),
]


@pytest.mark.parametrize(
    ("who", "auth_type", "subject", "username"), [pytest.param(*row, id=title) for title, *row in CALLERS]
)
def test_claims_of_a_caller(served: GatewayProcess, who: Account, auth_type: str, subject: str, username: str) -> None:
    """A token tells how its bearer came, as whom, and in a JWT of its own under which username (3.4)."""
    found = claims(served, ask(served, who, scope(PUBLIC, "pull")))
    assert (found["auth_type"], found["sub"]) == (auth_type, subject)
    content = user_info(served, found)
    assert content is not None
    assert (content["token_type"], content["username"]) == (auth_type, username)


@pytest.mark.parametrize("kind", ["project_access_token", "group_access_token"])
def test_claims_of_a_bot(served: GatewayProcess, kind: str) -> None:
    """A project's or group's token is a personal one of a bot, under whatever name the bot has."""
    found = claims(served, ask(served, token(kind, "api")))
    content = user_info(served, found)
    assert content is not None
    assert found["auth_type"] == content["token_type"] == "personal_access_token"
    assert found["sub"] == content["username"] not in {"", "whoever", MAINTAINER.username}


def test_claims_of_nobody(served: GatewayProcess) -> None:
    """Nobody's token has the type none, an empty subject and no user."""
    found = claims(served, ask(served, None, scope(PUBLIC, "pull")))
    assert (found["auth_type"], found["sub"], user_info(served, found)) == ("none", "", None)
