"""The permission matrix (semantics 4) as the REST API sees it: projects and groups, every kind of token (6 and 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.plugins import RegistryError, Scheme
from tests.semantics import company
from tests.semantics.abilities import HIDDEN, Shown, bearer, of_job, private
from tests.semantics.asking import ask, entries, rows
from tests.semantics.company import (
    ADMIN_API,
    CAMEL,
    CAMEL_ID,
    DEVELOPER,
    HOME,
    HOME_ID,
    INACTIVE,
    LOWERED,
    PERSONAL,
    RAISED,
    SUB,
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
from tests.semantics.test_matrix import CELLS

if TYPE_CHECKING:
    from tests.semantics.abilities import Deciding
    from tests.support.gateway import GatewayProcess

MEMBERS = set(company.MX_ROLES) | {"admin"}
MAINTAINERS = {"maintainer", "owner", "admin"}


def somebody(column: str) -> Shown | None:
    """Show the `api` token of whoever stands in a column."""
    return None if column == "nobody" else private(user(column).password)


def expected(project: str, column: str, cell: str) -> str:
    """Spell a cell as abilities: who sees the project follows its visibility, its settings are a maintainer's."""
    visibility = project.removeprefix("mx/").partition("-")[0]
    inside = column not in {"nobody", "external-stranger"}
    if not (visibility == "public" or (visibility == "internal" and inside) or column in MEMBERS):
        return HIDDEN
    settings = "S" if column in MAINTAINERS else ""
    return f"R{cell.strip('-').replace('W', '')}{settings}"


@pytest.mark.parametrize(("project", "column", "cell"), CELLS)
def test_matrix(deciding: Deciding, project: str, column: str, cell: str) -> None:
    """Each cell allows over REST what its letters say; W, pushing, is none of the REST API's."""
    assert deciding.may(somebody(column), project) == expected(project, column, cell)


INHERITED = [
    pytest.param("guest", RAISED, "RPT", id="a guest of the group, developer of the project"),
    pytest.param("maintainer", LOWERED, "RPTAS", id="a maintainer of the group, guest of the project"),
    pytest.param("reporter", SUB, "RPTAS", id="a reporter of the group, maintainer of the subgroup"),
    pytest.param("guest", SUB, "R", id="a guest of the group, in its subgroup"),
    pytest.param("homer", PERSONAL, "RPTAS", id="the owner of a personal project"),
    pytest.param("owner", PERSONAL, HIDDEN, id="somebody else and a personal project"),
    pytest.param("owner", other("private-enabled"), HIDDEN, id="an owner of another group"),
    pytest.param("lodger", other("private-private"), "R", id="a guest of the other group"),
]


@pytest.mark.parametrize(("column", "project", "allowed"), INHERITED)
def test_roles_are_inherited(deciding: Deciding, column: str, project: str, allowed: str) -> None:
    """Of the roles in the project and in the groups above it, the highest counts."""
    assert deciding.may(somebody(column), project) == allowed


# The maintainer's token of each scope, in her project: what the scope leaves of RPTAS. The REST API itself asks for
# api or read_api before it asks for anything else.
SCOPES = {
    "api": "RPTAS",
    "read_api": "RP",
    "read_user": HIDDEN,
    "sudo admin_mode": HIDDEN,
    "openid": HIDDEN,
    "read_virtual_registry write_virtual_registry": HIDDEN,
}


@pytest.mark.parametrize("scopes", SCOPES)
@pytest.mark.parametrize("kind", USER_KINDS)
def test_scopes(deciding: Deciding, kind: str, scopes: str) -> None:
    """A token does over REST no more than its scopes say, whatever its owner's role."""
    who = bearer(token(kind, scopes).password)
    assert set(deciding.identity(who).scopes) == set(scopes.split())
    assert _allowed(deciding, who, HOME) == SCOPES[scopes]


def _allowed(deciding: Deciding, who: Shown, path: str) -> str:
    """Spell what may be done; GitLab says of a token without a scope for it that it is forbidden, others: hidden."""
    try:
        return deciding.may(who, path)
    except RegistryError as error:
        return HIDDEN if error.status == 403 else str(error.status)


@pytest.mark.parametrize("role", company.BOT_ROLES)
@pytest.mark.parametrize("kind", ["project_access_token", "group_access_token"])
def test_role_of_a_bot(deciding: Deciding, kind: str, role: str) -> None:
    """A project's or group's token has the role that it was given."""
    letters = {"guest": "R", "planner": "R", "reporter": "RP", "developer": "RPT"}.get(role, "RPTAS")
    assert deciding.may(private(bot(kind, role).password), HOME) == letters


# -- which credentials ----------------------------------------------------------------------------------

TAKEN = [
    pytest.param(token("personal_access_token", "api").password, "PRIVATE-TOKEN Bearer", id="personal"),
    pytest.param(token("personal_access_token", "read_registry").password, "PRIVATE-TOKEN Bearer", id="registry only"),
    pytest.param(bot("project_access_token", "guest").password, "PRIVATE-TOKEN Bearer", id="project"),
    pytest.param(bot("group_access_token", "guest").password, "PRIVATE-TOKEN Bearer", id="group"),
    pytest.param(token("oauth_token", "api").password, "Bearer", id="OAuth"),
    pytest.param(job("developer").password, "JOB-TOKEN", id="job"),
    pytest.param(job("developer", status="success").password, "", id="finished job"),
    pytest.param(deploy("project", "read_registry").password, "", id="deploy token"),
    pytest.param("never-made", "", id="unknown"),
    *(
        pytest.param(ending(kind, end).password, "", id=f"{kind} {end}")
        for kind in ("personal_access_token", "project_access_token", "oauth_token")
        for end in ("expires today", "revoked")
    ),
    *(pytest.param(of_inactive(kind).password, "", id=f"{kind} of a blocked user") for kind in ("oauth_token",)),
    pytest.param(of_inactive("ci_job_token").password, "", id="job of a blocked user"),
    pytest.param("tök\u00e9n", "", id="not ASCII"),
    pytest.param("x" * 6000, "", id="endless"),
]


@pytest.mark.parametrize(("secret", "schemes"), TAKEN)
def test_credentials(deciding: Deciding, secret: str, schemes: str) -> None:
    """Access tokens come in two headers, OAuth and job tokens in one each; what is over, or no token, in none."""
    for scheme in (Scheme.PRIVATE_TOKEN, Scheme.BEARER, Scheme.JOB_TOKEN):
        assert deciding.knows(Shown(scheme, secret)) == (scheme in schemes.split()), scheme


@pytest.mark.parametrize("state", INACTIVE)
def test_no_password(deciding: Deciding, state: str) -> None:
    """The password of an account that is not active is no token either."""
    assert not deciding.knows(private(user(state).password))


# -- job tokens (6) ---------------------------------------------------------------------------------------

JOB_AT_HOME = {"stranger": "", "guest": "", "reporter": "P", "developer": "PT", "maintainer": "PTA"}


@pytest.mark.parametrize("username", JOB_AT_HOME)
def test_job_at_home(deciding: Deciding, username: str) -> None:
    """In its own project a job's token does what its user's role there allows, and never changes settings."""
    found = deciding.may(of_job(job(username).password), HOME).replace(HIDDEN, "")
    assert found.strip("R") == JOB_AT_HOME[username]


@pytest.mark.parametrize("project", ["mx/public-enabled", "mx/private-enabled", other("public-enabled")])
@pytest.mark.parametrize("username", ["maintainer", "stranger"])
def test_job_elsewhere(deciding: Deciding, username: str, project: str) -> None:
    """In other projects a job at most sees the project, and the refusal of the images says that it is a job's."""
    found = deciding.answer(of_job(job(username).password), project)
    if found is None:
        assert project == "mx/private-enabled"
        return
    assert {str(ability) for ability in found.allowed} <= {"read"}
    if found.allowed:
        assert found.why is not None
        assert found.why.code in {"job_token", "kind"}


# -- numbers and groups -----------------------------------------------------------------------------------


def test_by_number_and_path(deciding: Deciding) -> None:
    """A project is found by its number and by its path in any case."""
    who = private(user("developer").password)
    assert deciding.may(who, HOME_ID) == deciding.may(who, HOME.upper()) == "RPT"
    assert deciding.may(None, CAMEL_ID) == deciding.may(None, CAMEL.lower()) == "RP"
    assert deciding.may(who, 987_654) == deciding.may(who, "mx/none") == HIDDEN


GROUPS = rows("""
group  nobody stranger external-stranger guest planner reporter developer owner admin lodger
mx     R      R        R                 R     R       RP       RP        RP    RP    R
mx/sub 404    404      404               R     R       RP       RP        RP    RP    404
""")


@pytest.mark.parametrize(("group", "column", "allowed"), [pytest.param(*each, id=" ".join(each)) for each in GROUPS])
def test_groups(deciding: Deciding, group: str, column: str, allowed: str) -> None:
    """A group's images are for its reporters, however public it is or its projects are (trap 34)."""
    assert deciding.may_with_group(somebody(column), group) == allowed


def test_group_of_a_project_bot(deciding: Deciding) -> None:
    """A member of a project below a private group is no member of the group: its images are not for it."""
    assert "P" not in deciding.may_with_group(private(bot("project_access_token", "owner").password), "mx")


def test_no_job_lists_a_group(deciding: Deciding) -> None:
    """A job token lists no group's images, whoever runs the job."""
    assert deciding.may_with_group(of_job(job("maintainer").password), "mx") == "R"


def test_projects_of_a_group(deciding: Deciding) -> None:
    """A group's projects are those below it, in subgroups too."""
    found = deciding.listed(private(ADMIN_API.password), "mx")
    assert {HOME, SUB, CAMEL} <= set(found)
    assert all(path.startswith("mx/") for path in found)
    assert deciding.listed(private(user("owner").password), "mx/sub") == [SUB]


# -- tokens of the registry -------------------------------------------------------------------------------

NO_SCOPES = [
    f"project:{HOME}:read",
    f"project:{HOME}:admin_project,destroy_container_image",
    f"project:{HOME}:pull,push,*",
    "group:mx:read_container_image",
    "group:mx:*",
]


@pytest.mark.parametrize("wanted", NO_SCOPES)
@pytest.mark.parametrize("who", [user("owner"), company.ADMIN, DEVELOPER], ids=["owner", "admin", "developer"])
def test_no_token_holds_them(served: GatewayProcess, who: Any, wanted: str) -> None:
    """The token endpoint grants nothing of the REST API's, to nobody: such a scope is dropped."""
    found = entries(ask(served, who, wanted, f"repository:{HOME}:pull"))
    assert [entry["type"] for entry in found] == ["repository"]
