"""The permission matrix (semantics 4): every cell as the token endpoint grants it, and as `/v2/` then answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.semantics import company
from tests.semantics.asking import ALL, NO_MANIFEST, may, rows
from tests.semantics.company import (
    ALLOWLISTS,
    ARCHIVED,
    DEVELOPER,
    HOME,
    HOMER,
    LOWERED,
    MAINTAINER,
    PERSONAL,
    RAISED,
    REPORTER,
    SUB,
    deploy,
    job,
    other,
    person,
)

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Account, Credential

GRANTS = {"-": "", "P": "pull", "PW": "pull,push", "PWT": "pull,push", "PWTA": ALL, "PWD": "pull,push,delete"}
"""A cell's letters as actions. T, deleting a tag over REST, is none; D is a job's `delete` without `*`."""

# A planner is a guest, an owner a maintainer (notes of section 4); external guests as in current GitLab.
MATRIX = rows("""
mx/               nobody stranger external-stranger guest planner external-guest external-planner
public-enabled    P      P        P                 P     P       P              P
public-private    -      -        -                 -     -       -              -
internal-enabled  -      P        -                 P     P       P              P
internal-private  -      -        -                 -     -       -              -
private-enabled   -      -        -                 -     -       -              -
private-private   -      -        -                 -     -       -              -
public-disabled   -      -        -                 -     -       -              -
internal-disabled -      -        -                 -     -       -              -
private-disabled  -      -        -                 -     -       -              -
public-archived   P      P        P                 P     P       P              P
internal-archived -      P        -                 P     P       P              P
private-archived  -      -        -                 -     -       -              -
""") + rows("""
mx/               reporter external-reporter developer maintainer owner admin
public-enabled    P        P                 PWT       PWTA       PWTA  PWTA
public-private    P        P                 PWT       PWTA       PWTA  PWTA
internal-enabled  P        P                 PWT       PWTA       PWTA  PWTA
internal-private  P        P                 PWT       PWTA       PWTA  PWTA
private-enabled   P        P                 PWT       PWTA       PWTA  PWTA
private-private   P        P                 PWT       PWTA       PWTA  PWTA
public-disabled   -        -                 -         -          -     -
internal-disabled -        -                 -         -          -     -
private-disabled  -        -                 -         -          -     -
public-archived   P        P                 P         P          P     P
internal-archived P        P                 P         P          P     P
private-archived  P        P                 P         P          P     P
""")
CELLS = [pytest.param(f"mx/{row}", column, cell, id=f"{row}: {column} {cell}") for row, column, cell in MATRIX]


@pytest.mark.parametrize(("project", "column", "cell"), CELLS)
def test_token(served: GatewayProcess, project: str, column: str, cell: str) -> None:
    """A token for everything holds what the cell allows; nobody who is allowed nothing is 403."""
    expected = GRANTS[cell] if cell != "-" or column != "nobody" else "403"
    assert may(served, person(column), project) == expected


@pytest.mark.parametrize(("project", "column", "cell"), CELLS)
def test_wire(served: GatewayProcess, project: str, column: str, cell: str) -> None:
    """Under Basic, or as nobody, the registry serves what the cell allows and refuses the rest."""
    hold(served, person(column), project, GRANTS[cell])


def hold(gateway: GatewayProcess, who: Credential, project: str, allowed: str) -> None:
    """Hold `/v2/` to the actions that are allowed, without a token in between."""
    refused = {401} if who is None else {403}
    wire, actions = gateway.wire(who), allowed.split(",")
    listed = wire.get(f"/v2/{project}/tags/list").status
    assert listed in ({200, 404} if "pull" in actions else refused), f"listing answered {listed}"
    opened = wire.send("POST", f"/v2/{project}/blobs/uploads/").status
    assert opened in ({202} if "push" in actions else refused), f"an upload answered {opened}"
    deleted = wire.send("DELETE", f"/v2/{project}/{NO_MANIFEST}").status
    assert deleted in ({404} if "delete" in actions else refused), f"a deletion answered {deleted}"


INHERITED = [
    pytest.param("guest", RAISED, "PWT", id="a guest of the group, developer of the project"),
    pytest.param("reporter", RAISED, "P", id="that raises nobody else"),
    pytest.param("maintainer", LOWERED, "PWTA", id="a maintainer of the group, guest of the project"),
    pytest.param("reporter", SUB, "PWTA", id="a reporter of the group, maintainer of the subgroup"),
    pytest.param("reporter", HOME, "P", id="that does not reach up into the group"),
    pytest.param("owner", SUB, "PWTA", id="an owner of the group, guest of the subgroup"),
    pytest.param("developer", SUB, "PWT", id="a developer of the group, in its subgroup"),
    pytest.param("external-reporter", SUB, "P", id="an external reporter of the group, in its subgroup"),
    pytest.param("guest", SUB, "-", id="a guest of the group, in its subgroup"),
    pytest.param("homer", PERSONAL, "PWTA", id="the owner of a personal project"),
    pytest.param("owner", PERSONAL, "-", id="somebody else and a personal project"),
    pytest.param("admin", PERSONAL, "PWTA", id="an admin and a personal project"),
    pytest.param("owner", other("private-enabled"), "-", id="an owner of another group"),
]


@pytest.mark.parametrize(("column", "project", "cell"), INHERITED)
def test_roles_are_inherited(served: GatewayProcess, column: str, project: str, cell: str) -> None:
    """Of the roles in the project and in the groups above it, the highest counts (design 4.3)."""
    assert may(served, person(column), project) == GRANTS[cell]
    hold(served, person(column), project, GRANTS[cell])


# -- deploy tokens ------------------------------------------------------------------------------------

DEPLOY = rows("""
project                read_registry write_registry read_registry,write_registry read_repository
mx/public-enabled      pull          push           pull,push                    403
mx/public-private      pull          push           pull,push                    403
mx/public-disabled     -             -              -                            403
mx/internal-enabled    pull          push           pull,push                    403
mx/internal-private    pull          push           pull,push                    403
mx/internal-disabled   -             -              -                            403
mx/private-enabled     pull          push           pull,push                    403
mx/private-private     pull          push           pull,push                    403
mx/private-disabled    -             -              -                            403
mx/public-archived     pull          -              pull                         403
mx/internal-archived   pull          -              pull                         403
mx/private-archived    pull          -              pull                         403
mx/sub/app             pull          push           pull,push                    403
other/public-enabled   pull          -              pull                         403
other/public-private   -             -              -                            403
other/public-disabled  -             -              -                            403
other/internal-enabled -             -              -                            403
other/internal-private -             -              -                            403
other/private-enabled  -             -              -                            403
other/private-private  -             -              -                            403
""")
"""A deploy token of the group `mx`. Beyond the group it is nobody, within its scopes."""


@pytest.mark.parametrize(
    ("project", "scopes", "cell"),
    [pytest.param(row, column, cell, id=f"{row}: {column} {cell}") for row, column, cell in DEPLOY],
)
def test_deploy_token_of_a_group(served: GatewayProcess, project: str, scopes: str, cell: str) -> None:
    """A group's deploy token does what its scopes say below the group, and never deletes."""
    who = deploy("group", scopes.replace(",", " "))
    allowed = "" if cell == "-" else cell
    assert may(served, who, project) == allowed
    if "push" not in allowed or "pull" in allowed:  # what an upload asks for beside push, the semantics leave open
        hold(served, who, project, "" if cell == "403" else allowed)


PLACES = [
    pytest.param("project", HOME, "pull,push", id="of the project"),
    pytest.param("project", "mx/private-enabled", "", id="of a project beside it"),
    pytest.param("project", "mx/public-enabled", "pull", id="of a project beside it, public"),
    pytest.param("project", SUB, "", id="of another project of the group"),
    pytest.param("group", HOME, "pull,push", id="of the group"),
    pytest.param("group", SUB, "pull,push", id="of the group above the group"),
    pytest.param("subgroup", SUB, "pull,push", id="of the subgroup"),
    pytest.param("subgroup", HOME, "", id="of a subgroup of the group"),
]


@pytest.mark.parametrize(("place", "project", "allowed"), PLACES)
def test_place_of_a_deploy_token(served: GatewayProcess, place: str, project: str, allowed: str) -> None:
    """A deploy token covers its own project, or every project below its group."""
    assert may(served, deploy(place, "read_registry write_registry"), project) == allowed


# -- job tokens ---------------------------------------------------------------------------------------

OWN = [
    *((f"mx/{visibility}-{level}", "PWD") for visibility in company.VISIBILITIES for level in ("enabled", "private")),
    *((f"mx/{visibility}-disabled", "-") for visibility in company.VISIBILITIES),
    *((project, "PWD") for project in ARCHIVED.values()),
]


@pytest.mark.parametrize(("project", "cell"), [pytest.param(*each, id=" ".join(each)) for each in OWN])
def test_job_at_home(served: GatewayProcess, project: str, cell: str) -> None:
    """In its own project a job pulls, pushes and deletes whoever runs it, unless the registry is disabled."""
    who = job("stranger", project)
    assert may(served, who, project) == GRANTS[cell]
    hold(served, who, project, GRANTS[cell])


@pytest.mark.parametrize("username", company.JOB_USERS)
def test_job_at_home_whoever_runs_it(served: GatewayProcess, username: str) -> None:
    """Neither a missing role nor adminship of its user changes what a job may do in its own project."""
    assert may(served, job(username), HOME) == "pull,push,delete"


# Who runs the job (courier: reporter of the target; lodger: guest of it) against what kind of project it pulls from.
ELSEWHERE = {
    "no list": """
other/           stranger external-stranger courier lodger admin
public-enabled   pull     pull              pull    pull   pull
public-private   -        -                 pull    -      -
public-disabled  -        -                 -       -      -
internal-enabled pull     -                 pull    pull   pull
internal-private -        -                 pull    -      -
private-enabled  -        -                 pull    -      -
private-private  -        -                 pull    -      -
private-disabled -        -                 -       -      -
""",
    "lists home": """
other/           stranger external-stranger courier lodger admin
public-enabled   pull     pull              pull    pull   pull
public-private   -        -                 pull    -      -
public-disabled  -        -                 -       -      -
internal-enabled pull     -                 pull    pull   pull
internal-private -        -                 pull    -      -
private-enabled  -        -                 pull    -      -
private-private  -        -                 pull    -      -
private-disabled -        -                 -       -      -
""",
    "empty list": """
other/           stranger external-stranger courier lodger admin
public-enabled   pull     pull              pull    pull   pull
public-private   -        -                 -       -      -
public-disabled  -        -                 -       -      -
internal-enabled pull     -                 pull    pull   pull
internal-private -        -                 -       -      -
private-enabled  -        -                 -       -      -
private-private  -        -                 -       -      -
private-disabled -        -                 -       -      -
""",
}


@pytest.mark.parametrize(
    ("project", "username", "allowed"),
    [
        pytest.param(other(row, title), column, "" if cell == "-" else cell, id=f"{row}, {title}: {column} {cell}")
        for title in ALLOWLISTS
        for row, column, cell in rows(ELSEWHERE[title])
    ],
)
def test_job_elsewhere(served: GatewayProcess, project: str, username: str, allowed: str) -> None:
    """In other projects a job at most pulls: what is open, or what its user may as a member and the list permits."""
    assert may(served, job(username), project) == allowed
    hold(served, job(username), project, allowed)


PERSONS = [
    pytest.param(job("homer"), PERSONAL, "pull", id="the owner's job pulls from a personal project"),
    pytest.param(job("stranger"), PERSONAL, "", id="a stranger's job and a personal project"),
    pytest.param(job("guest"), "mx/private-enabled", "", id="a guest's job and the project beside"),
    pytest.param(job("developer"), "mx/private-enabled", "pull", id="a developer's job and the project beside"),
    pytest.param(HOMER, HOME, "", id="who owns a personal project is nobody elsewhere"),
    pytest.param(DEVELOPER, HOME, "pull,push", id="what the developer may, for comparison"),
    pytest.param(MAINTAINER, HOME, ALL, id="what the maintainer may, for comparison"),
    pytest.param(REPORTER, HOME, "pull", id="what the reporter may, for comparison"),
]


@pytest.mark.parametrize(("who", "project", "allowed"), PERSONS)
def test_job_and_its_user(served: GatewayProcess, who: Account, project: str, allowed: str) -> None:
    """A job has a part of its user's rights, and only in its own project some of its own."""
    assert may(served, who, project) == allowed
