"""The gateway grants what GitLab grants, for every caller and every project, in its releases of then and now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt
import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.fakes.gitlab_rules import Release
from tests.semantics import company
from tests.support.gateway import GatewayProcess
from tests.support.wire import SERVICE, Account, Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY: dict[str, Any] = company.directory()
PROJECTS = sorted(project["path"].lower() for project in DIRECTORY["projects"] if "_" not in project["path"])
ACTIONS = ("pull", "push", "delete", "*")
SCOPES = [*(f"repository:{path}:{','.join(ACTIONS)}" for path in PROJECTS), "registry:catalog:*"]


def callers() -> Iterator[tuple[str, Account | None]]:
    """Everybody: nobody, each user by password, each token under the user name that fits it and under another."""
    yield "nobody", None
    for person in DIRECTORY["users"]:
        if "password" in person:
            yield f"password of {person['username']}", Account(person["username"], person["password"])
            yield f"wrong password of {person['username']}", Account(person["username"], "wrong")
    for number, token in enumerate(DIRECTORY["tokens"]):
        fitting = {"ci_job_token": "gitlab-ci-token", "oauth_token": "oauth2"}.get(token["kind"], "anybody")
        for username in (token.get("username", fitting), "somebody-else"):
            yield f"{token['kind']} {number} as {username}", Account(username, token["token"])


CALLERS = dict(callers())


def granted(answer: Answer) -> tuple[int, set[tuple[str, str, str]]]:
    """Read status and grants: several entries of GitLab's for one repository are one of ours."""
    if answer.status != 200:
        return answer.status, set()
    access = jwt.decode(answer.json()["token"], options={"verify_signature": False})["access"]
    return 200, {(entry["type"], entry["name"], action) for entry in access for action in entry["actions"]}


@pytest.fixture(scope="module", params=["current", "14.x"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, Wire]]:
    """Run a GitLab of a release, and the gateway before it."""
    release: Release = request.param
    with FakeGitLab(DIRECTORY, release=release) as fake:
        item: dict[str, object] = {"use": "auth_gitlab", "url": fake.url, "failed_logins": 1_000_000}
        sources: list[dict[str, object]] = [item, {"use": "naming"}, {"use": "visibility"}]
        gateway = GatewayProcess(tmp_path_factory.mktemp(f"equal-{release}"), sources=sources)
        gateway.start()
        try:
            yield Wire(fake.url), gateway.wire()
        finally:
            gateway.end()


@pytest.mark.parametrize("who", CALLERS)
def test_the_gateway_grants_what_gitlab_grants(pair: tuple[Wire, Wire], who: str) -> None:
    """Asked for every action in every project at once, both answer with one status and the same grants."""
    query = urlencode([("service", SERVICE), *(("scope", scope) for scope in SCOPES)])
    theirs, ours = (granted(wire.acting_as(CALLERS[who]).get(f"/jwt/auth?{query}")) for wire in pair)
    assert ours == theirs
