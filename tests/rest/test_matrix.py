"""Each route, by each caller, of projects of each visibility: GitLab's statuses (semantics 4 and 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.rest.place import Place, url
from tests.support import people
from tests.support.gateway import GatewayProcess
from tests.support.images import image
from tests.support.people import (
    ALICE_READ,
    ALICE_READ_API,
    BOB_API,
    CAROL_API,
    DAVE_API,
    GINA_API,
    JOB,
    JOB_ELSEWHERE,
    JOB_OF_DEVELOPER,
    JOB_OF_MAINTAINER,
    MALLORY_API,
    ROOT_API,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.wire import Account

PRIVATE, INTERNAL, PUBLIC = people.PRIVATE, people.INTERNAL, people.PUBLIC
MEMBERS, OFF = "acme/members", "acme/off"
"""Public projects, whose registry is for members, or disabled."""
PROJECTS = (PRIVATE, INTERNAL, PUBLIC, MEMBERS, OFF)

# What a caller may: S know that the project is there, P see its images, T delete a tag, A the rest, M change settings.
OUT, SEES, READS, DEVELOPS, MAINTAINS = "", "S", "SP", "SPT", "SPTAM"
MAY: dict[str, tuple[str, str, str, str, str]] = {
    # Semantics 4, in the order of PROJECTS.
    "nobody": (OUT, OUT, READS, SEES, SEES),
    "stranger": (OUT, READS, READS, SEES, SEES),
    "guest": (SEES, READS, READS, SEES, SEES),
    "reporter": (READS, READS, READS, READS, SEES),
    "developer": (DEVELOPS, DEVELOPS, DEVELOPS, DEVELOPS, SEES),
    # Settings are a maintainer's also where the registry is disabled: else nobody could enable it.
    "maintainer": (MAINTAINS, MAINTAINS, MAINTAINS, MAINTAINS, "SM"),
    "admin": (MAINTAINS, MAINTAINS, MAINTAINS, MAINTAINS, "SM"),
}
USERS: dict[str, Account | None] = {
    "nobody": None,
    "stranger": MALLORY_API,
    "guest": GINA_API,
    "reporter": BOB_API,
    "developer": CAROL_API,
    "maintainer": DAVE_API,
    "admin": ROOT_API,
}
JOBS = {"reporter": JOB, "developer": JOB_OF_DEVELOPER, "maintainer": JOB_OF_MAINTAINER}
"""Jobs of PRIVATE, by who runs them."""

NO_PROJECT = (404, {"message": "404 Project Not Found"})
NOT_FOUND = (404, {"message": "404 Not found"})
FORBIDDEN = (403, {"message": "403 Forbidden"})
UNAUTHORIZED = (401, {"message": "401 Unauthorized"})
FOREIGN_JOB = (
    403,
    {
        "message": "403 Forbidden - This project's CI/CD job token cannot be used to authenticate with the container "
        "registry of a different project."
    },
)


def lacking(scopes: str) -> tuple[int, dict[str, str]]:
    """Spell GitLab's answer to a token that lacks every one of *scopes*."""
    description = "The request requires higher privileges than provided by the access token."
    return 403, {"error": "insufficient_scope", "error_description": description, "scope": scopes}


class Route(NamedTuple):
    """A route below a project: which of what it needs is enough, and how it answers who may. None changes anything."""

    method: str
    path: str
    needs: str
    granted: int


# A caller who may is told what is wrong with the request, and nobody else hears that.
ROUTES = {
    "list": Route("GET", "registry/repositories", "P", 200),
    "tags": Route("GET", "registry/repositories/{number}/tags", "P", 200),
    "tag": Route("GET", "registry/repositories/{number}/tags/v1", "P", 200),
    # Whoever may rename a project whose registry is disabled sees none of its images, which stand in the way.
    "has tags": Route("GET", "registry/has_tags", "PM", 200),
    "delete a tag": Route("DELETE", "registry/repositories/{number}/tags/missing", "T", 404),
    "delete in bulk": Route("DELETE", "registry/repositories/{number}/tags", "A", 400),
    "delete": Route("DELETE", "registry/repositories/999999999", "A", 404),
}


class Company(NamedTuple):
    """A gateway, and the number of the one repository of each project."""

    place: Place
    numbers: dict[str, int]

    def ask(self, method: str, project: str, path: str, account: Account | None) -> tuple[int, Any]:
        """Send a request below a project: the status, and of a refusal the body."""
        below = url("projects", project) + (f"/{path.format(number=self.numbers[project])}" if path else "")
        answer = self.place.send(method, below, account)
        return answer.status, answer.json() if answer.status >= 400 else None


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Serve projects of each kind, with an image in each; one is disabled afterwards."""
    known = people.directory()
    known["projects"] += [
        {"path": MEMBERS, "visibility": "public", "container_registry_access_level": "private"},
        {"path": OFF, "visibility": "public"},
    ]
    gateway = GatewayProcess(tmp_path_factory.mktemp("matrix"), directory=known)
    gateway.start()
    place = Place(gateway)
    for project in PROJECTS:
        place.push(project, image(project.encode()), "v1")
    numbers = {project: place.number(project, project) for project in PROJECTS}
    place.send("PUT", url("projects", OFF, container_registry_access_level="disabled")).expect(200)
    yield Company(place, numbers)
    gateway.end()


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("caller", USERS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_route_asks_what_the_caller_may(company: Company, route: str, caller: str, project: str) -> None:
    """Invisible is 404, visible but forbidden 403; only who may learns more (trap 30)."""
    method, path, needs, granted = ROUTES[route]
    may = MAY[caller][PROJECTS.index(project)]
    status, body = company.ask(method, project, path, USERS[caller])
    if set(needs) & set(may):
        assert status == granted
        assert (status, body) not in (NO_PROJECT, FORBIDDEN)
    else:
        assert (status, body) == (FORBIDDEN if "S" in may else NO_PROJECT)


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("caller", USERS)
def test_a_single_repository_asks_who_is_signed_in(company: Company, caller: str, project: str) -> None:
    """401 for nobody, 403 for who sees the project; else it is as one that is not there (trap 30)."""
    may = MAY[caller][PROJECTS.index(project)]
    number = company.numbers[project]
    answer = company.place.get("registry", "repositories", number, account=USERS[caller])
    if caller == "nobody":
        assert (answer.status, answer.json()) == UNAUTHORIZED
    elif "P" in may:
        assert (answer.status, answer.json()["id"]) == (200, number)
    else:
        assert (answer.status, answer.json()) == (FORBIDDEN if "S" in may else NOT_FOUND)


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("caller", USERS)
def test_a_project_is_shown_to_who_may_know_of_it(company: Company, caller: str, project: str) -> None:
    """404 for everybody else."""
    status, body = company.ask("GET", project, "", USERS[caller])
    assert (status, body) == ((200, None) if "S" in MAY[caller][PROJECTS.index(project)] else NO_PROJECT)


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("caller", USERS)
def test_settings_are_a_maintainers(company: Company, caller: str, project: str) -> None:
    """401 for nobody; a maintainer is told that this request says nothing."""
    may = MAY[caller][PROJECTS.index(project)]
    status, body = company.ask("PUT", project, "", USERS[caller])
    if caller == "nobody":
        assert (status, body) == UNAUTHORIZED
    elif "M" in may:
        assert status == 400
    else:
        assert (status, body) == (FORBIDDEN if "S" in may else NO_PROJECT)


# -- job tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", JOBS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_job_may_in_its_own_project_what_its_user_may(company: Company, route: str, caller: str) -> None:
    """And no settings: see below."""
    method, path, needs, granted = ROUTES[route]
    may = MAY[caller][PROJECTS.index(PRIVATE)]
    status, body = company.ask(method, PRIVATE, path, JOBS[caller])
    if set(needs) & set(may):
        assert status == granted
    else:
        assert (status, body) == FORBIDDEN


@pytest.mark.parametrize("project", [*PROJECTS[1:], PRIVATE])
@pytest.mark.parametrize("route", ROUTES)
def test_a_job_of_another_project_is_told_so(company: Company, route: str, project: str) -> None:
    """Whatever its user may there, and whether or not they may know of the project (semantics 2.5)."""
    method, path, _, _ = ROUTES[route]
    job = JOB_ELSEWHERE if project == PRIVATE else JOB_OF_MAINTAINER
    assert company.ask(method, project, path, job) == FOREIGN_JOB


def test_a_job_can_not_tell_a_foreign_project_from_none(company: Company) -> None:
    """What is not there is answered like what is another's."""
    answer = company.place.get("projects", "acme/nowhere", "registry", "repositories", account=JOB)
    assert (answer.status, answer.json()) == FOREIGN_JOB


def test_a_job_asks_for_a_single_repository_of_its_own_project(company: Company) -> None:
    """And for no other one."""
    for project, expected in ((PRIVATE, 200), (PUBLIC, 403)):
        company.place.get("registry", "repositories", company.numbers[project], account=JOB).expect(expected)


def test_a_job_can_not_tell_a_foreign_repository_from_none(company: Company) -> None:
    """A number that there is not is answered like another project's."""
    for number in (company.numbers[PUBLIC], company.numbers[INTERNAL], 999_999_999):
        answer = company.place.get("registry", "repositories", number, account=JOB)
        assert (answer.status, answer.json()) == FOREIGN_JOB


def test_the_tags_of_a_disabled_registry_stand_in_the_way(company: Company) -> None:
    """Of who may rename the project (semantics 10)."""
    answer = company.place.get("projects", OFF, "registry", "has_tags", account=DAVE_API).expect(200)
    assert answer.json()["has_tags"] is True


ELSEWHERE = [
    pytest.param("GET", ("user",), UNAUTHORIZED, id="user"),
    pytest.param("GET", ("version",), UNAUTHORIZED, id="version"),
    pytest.param("GET", ("personal_access_tokens", "self"), UNAUTHORIZED, id="token"),
    pytest.param("GET", ("projects", PRIVATE), NO_PROJECT, id="project"),
    pytest.param("PUT", ("projects", PRIVATE), UNAUTHORIZED, id="settings"),
    pytest.param("GET", ("groups", "acme", "registry", "repositories"), FORBIDDEN, id="group's repositories"),
]


@pytest.mark.parametrize(("method", "parts", "expected"), ELSEWHERE)
def test_a_job_is_nobody_elsewhere(
    company: Company, method: str, parts: tuple[str, ...], expected: tuple[int, Any]
) -> None:
    """Job tokens open the registry's routes and nothing else."""
    answer = company.place.send(method, url(*parts), JOB_OF_MAINTAINER)
    assert (answer.status, answer.json()) == expected


# -- scopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_registry_token_opens_no_route(company: Company, route: str, project: str) -> None:
    """``read_registry`` is for the registry: 403, also of what is public (trap 33)."""
    method, path, _, _ = ROUTES[route]
    expected = lacking("api read_api" if method == "GET" else "api")
    assert company.ask(method, project, path, ALICE_READ) == expected


@pytest.mark.parametrize("route", ROUTES)
def test_a_reading_token_changes_nothing(company: Company, route: str) -> None:
    """``read_api`` of an owner lists and shows."""
    method, path, _, granted = ROUTES[route]
    status, body = company.ask(method, PRIVATE, path, ALICE_READ_API)
    assert (status, body) == ((granted, None) if method == "GET" else lacking("api"))


SCOPES = [
    pytest.param(people.ALICE_API, "user", 200, id="api, user"),
    pytest.param(ALICE_READ_API, "user", 200, id="read_api, user"),
    pytest.param(people.ALICE_NO_REGISTRY, "user", 200, id="read_user, user"),
    pytest.param(ALICE_READ, "user", 403, id="read_registry, user"),
    pytest.param(ALICE_READ, "version", 403, id="read_registry, version"),
    pytest.param(ALICE_READ, "personal_access_tokens/self", 200, id="read_registry, token"),
    pytest.param(people.ALICE_NO_REGISTRY, "version", 403, id="read_user, version"),
]


@pytest.mark.parametrize(("account", "path", "status"), SCOPES)
def test_a_scope_opens_its_routes(company: Company, account: Account, path: str, status: int) -> None:
    """A token that may not read its user still reads itself (trap 33)."""
    company.place.get(*path.split("/"), account=account).expect(status)


# -- credentials ----------------------------------------------------------------------------------------

BAD = [
    pytest.param({"PRIVATE-TOKEN": "no-such-token"}, id="unknown"),
    pytest.param({"PRIVATE-TOKEN": people.ALICE_REVOKED.password}, id="revoked"),
    pytest.param({"PRIVATE-TOKEN": people.ALICE_EXPIRED.password}, id="expires today"),
    pytest.param({"PRIVATE-TOKEN": people.ALICE.password}, id="a password"),
    pytest.param({"PRIVATE-TOKEN": people.DEPLOY_READ.password}, id="a deploy token"),
    pytest.param({"PRIVATE-TOKEN": JOB.password}, id="a job token"),
    pytest.param({"Authorization": "Bearer no-such-token"}, id="unknown Bearer"),
    pytest.param({"JOB-TOKEN": "no-such-token"}, id="unknown job"),
    pytest.param({"JOB-TOKEN": people.JOB_FINISHED.password}, id="a finished job"),
    pytest.param({"JOB-TOKEN": people.ALICE_API.password}, id="an access token for a job's"),
]


@pytest.mark.parametrize("headers", BAD)
def test_a_bad_credential_is_not_nobody(company: Company, headers: dict[str, str]) -> None:
    """401, also for what anybody may see."""
    answer = company.place.send("GET", url("projects", PUBLIC), None, headers=headers)
    assert (answer.status, answer.json()) == UNAUTHORIZED


GOOD = [
    pytest.param({"PRIVATE-TOKEN": people.ALICE_API.password}, "", id="PRIVATE-TOKEN"),
    pytest.param({"Authorization": f"Bearer {people.ALICE_API.password}"}, "", id="Bearer"),
    pytest.param({"Authorization": f"bearer {people.ALICE_OAUTH.password}"}, "", id="OAuth"),
    pytest.param({}, f"?private_token={people.ALICE_API.password}", id="query"),
    pytest.param(
        {"PRIVATE-TOKEN": people.ALICE_API.password, "JOB-TOKEN": "no-such-token"}, "", id="PRIVATE-TOKEN is first"
    ),
]


@pytest.mark.parametrize(("headers", "query"), GOOD)
def test_a_credential_comes_in_each_of_gitlabs_ways(company: Company, headers: dict[str, str], query: str) -> None:
    """By header or parameter; the first that is there counts."""
    answer = company.place.send("GET", url("user") + query, None, headers=headers).expect(200)
    assert answer.json()["username"] == "alice"


def test_basic_is_no_way_in(company: Company) -> None:
    """GitLab looks at no Basic header here: whoever shows one is nobody."""
    wire = company.place.gateway.wire(people.ALICE)
    wire.get(url("user")).expect(401)
    wire.get(url("projects", PUBLIC)).expect(200)


def test_a_token_of_the_registry_is_none_of_the_api(company: Company) -> None:
    """What ``/jwt/auth`` signs opens ``/v2/`` alone."""
    wire = company.place.registry
    token = wire.token(f"repository:{PRIVATE}:pull")
    wire.acting_as(token).get(url("projects", PRIVATE)).expect(401)


# -- groups ---------------------------------------------------------------------------------------------

GROUPS = {
    # Group, route below it: who may, and what others hear (trap 34).
    ("acme", ""): {"nobody": 200, "stranger": 200, "guest": 200, "reporter": 200, "admin": 200},
    ("acme", "registry/repositories"): {"nobody": 403, "stranger": 403, "guest": 403, "reporter": 200, "admin": 200},
    ("acme", "registry/has_tags"): {"nobody": 403, "stranger": 403, "guest": 403, "reporter": 200, "admin": 200},
    ("conf", ""): {"nobody": 404, "stranger": 404, "guest": 404, "reporter": 404, "admin": 200},
    ("conf", "registry/repositories"): {"nobody": 404, "stranger": 404, "reporter": 404, "admin": 200},
    ("conf", "registry/has_tags"): {"nobody": 404, "stranger": 404, "reporter": 404, "admin": 200},
    ("nowhere", "registry/repositories"): {"nobody": 404, "reporter": 404, "admin": 404},
}
OF_GROUPS = [
    pytest.param(group, below, caller, status, id=f"{group} {below or 'itself'}, {caller}")
    for (group, below), statuses in GROUPS.items()
    for caller, status in statuses.items()
]


@pytest.mark.parametrize(("group", "below", "caller", "status"), OF_GROUPS)
def test_a_groups_images_are_for_its_reporters(
    company: Company, group: str, below: str, caller: str, status: int
) -> None:
    """However public the group and its projects are (trap 34)."""
    parts = [part for part in ("groups", group, *below.split("/")) if part]
    answer = company.place.get(*parts, account=USERS[caller]).expect(status)
    if status == 404:
        assert answer.json() == {"message": "404 Group Not Found"}


def test_a_group_lists_no_images_of_a_disabled_registry(company: Company) -> None:
    """All of its projects' repositories but those, with the numbers of their projects."""
    listed = company.place.get("groups", "acme", "registry", "repositories").expect(200).json()
    owners = {one["path"]: one["project_id"] for one in listed}
    assert set(owners) == {PRIVATE, INTERNAL, PUBLIC, MEMBERS}
    for project, number in owners.items():
        assert company.place.get("projects", project).expect(200).json()["id"] == number
