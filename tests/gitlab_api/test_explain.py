"""The chain shows what GitLab's REST API was asked, what it answered, and where that was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.gitlab_api.test_facts import before, own
from tests.gitlab_jwt.test_explain import MISSING, heard, record, refused, strangers_hear_nothing
from tests.journeys.test_explain import explain
from tests.semantics.asking import ask
from tests.semantics.company import (
    DEVELOPER,
    HOME,
    HOME_ID,
    OTHER,
    REPORTER,
    STRANGER,
    deploy,
    job,
    other,
    token,
)
from tests.support import redis as peers
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.fakes.gitlab import FakeGitLab

__all__ = ["own"]

PROJECT = "GET /projects/mx%2Fhome → 200 private, registry enabled"
GUESSED = ["GET /oauth/token/info → 401", "GET /personal_access_tokens/self → 401"]
DEPLOY = deploy("project", "read_registry")
CLOSED = other("internal-private", "empty list")

ASKED = [
    pytest.param(
        REPORTER,
        HOME,
        [
            "GET /oauth/token/info → 401",
            "GET /personal_access_tokens/self → 200 active, scopes: api",
            "GET /users/{reporter} → 200 active",
            PROJECT,
            f"GET /projects/{HOME_ID}/members/all/{{reporter}} → 200 reporter",
        ],
        id="personal token",
    ),
    pytest.param(
        STRANGER,
        HOME,
        [
            "GET /oauth/token/info → 401",
            "GET /personal_access_tokens/self → 200 active, scopes: api",
            "GET /users/{stranger} → 200 active",
            PROJECT,
            f"GET /projects/{HOME_ID}/members/all/{{stranger}} → 404",
        ],
        id="stranger",
    ),
    pytest.param(
        token("oauth_token", "read_registry"),
        HOME,
        [
            "GET /oauth/token/info → 200 scopes: read_registry",
            "GET /users/{maintainer} → 200 active",
            PROJECT,
            f"GET /projects/{HOME_ID}/members/all/{{maintainer}} → 200 maintainer",
        ],
        id="OAuth token",
    ),
    pytest.param(
        job("courier"),
        CLOSED,
        [
            "GET /job → 200 running",
            "GET /users/{courier} → 200 active",
            "GET /projects/other%2Finternal-private-empty-list → 200 internal, registry private",
            "GET /projects/{closed}/members/all/{courier} → 200 reporter",
            "GET /projects/{closed}/job_token_scope → 200 inbound limited",
            "GET /projects/{closed}/job_token_scope/allowlist → 200 0 listed",
            "GET /projects/{closed}/job_token_scope/groups_allowlist → 200 0 listed",
            f"GET /projects/{HOME_ID} → 200 {HOME}",
        ],
        id="job token",
    ),
    pytest.param(
        DEPLOY,
        OTHER["private-enabled"],
        [
            *GUESSED,
            f"POST /admin/token → 200 deploy token of the username {DEPLOY.username}, scopes: read_registry",
            "GET /projects/other%2Fprivate-enabled → 200 private, registry enabled",
            "GET /projects/{elsewhere}/deploy_tokens → 200 0 listed",
            "GET /groups/other/deploy_tokens → 200 0 listed",
        ],
        id="deploy token",
    ),
    pytest.param(None, HOME, [PROJECT], id="nobody"),
    pytest.param(None, MISSING, ["GET /projects/mx%2Fmissing → 404"], id="no project"),
    pytest.param(Account("reporter", "hunter2"), HOME, [*GUESSED, "POST /admin/token → 404"], id="wrong token"),
]


@pytest.mark.parametrize(("who", "image", "expected"), ASKED)
def test_what_gitlab_was_asked_and_said(
    gateway_factory: GatewayFactory, own: FakeGitLab, who: Account | None, image: str, expected: list[str]
) -> None:
    """Each question stands there with its answer, and neither the caller's secret nor the service token does."""
    said = explain(before(gateway_factory, own), who, "delete", image)
    numbers = {name: own.user_id(name) for name in ("reporter", "stranger", "maintainer", "courier")}
    places = {"closed": own.project_id(CLOSED), "elsewhere": own.project_id(OTHER["private-enabled"])}
    assert heard(said) == [f"{one.format(**numbers, **places)} (asked just now)" for one in expected]
    assert not said["granted"]
    assert own.service_token not in json.dumps(said)
    assert who is None or who.password not in json.dumps(said)


def test_the_questions_stand_before_what_follows_from_them(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The chain goes from credential to project to role, each after the questions that it rests on."""
    said = explain(before(gateway_factory, own), REPORTER, "push", HOME)
    steps = [step["step"] for step in said["steps"]]
    asked = "auth_gitlab"
    chain = ["credential", "scopes", asked, "naming", "project", asked, "role", "visibility", "result"]
    assert steps == [asked, asked, asked, *chain]


def test_a_credential_that_this_gitlab_cannot_tell(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """Where GitLab has no call that tells a token's scopes, the call that it answered 404 is shown."""
    gateway = before(gateway_factory, own)
    own.release = "14.x"
    own._routes = own._table()
    said = explain(gateway, token("personal_access_token", "api"), "pull", HOME)
    assert "GET /personal_access_tokens/self → 404 (asked just now)" in heard(said)
    assert "older than 15.5" in said["steps"][-2]["finding"]


def test_where_it_was_found(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The record of a refusal says of each fact whether it was heard just then or remembered."""
    gateway = before(gateway_factory, own)
    for source in ("asked just now", "in memory"):
        said = heard(record(gateway, refused(gateway)))
        assert len(said) == 5
        assert all(one.endswith(f"({source})") for one in said)


def test_what_replicas_share(gateway_factory: GatewayFactory, own: FakeGitLab, tmp_path: Path) -> None:
    """The command finds the facts that a gateway put into Redis, says so, and asks GitLab for none of them again."""
    with peers.redis(tmp_path / "redis") as server:
        item = {"use": "auth_gitlab", "url": own.url, "mode": "api", "service_token": own.service_token}
        cache = {"cache": {"url": server.url, "timeout": "1s"}}
        gateway = gateway_factory(sources=[item, {"use": "naming"}, {"use": "visibility"}], extra=cache)
        ask(gateway, DEVELOPER, f"repository:{HOME}:pull").expect(200)
        own.requests.clear()
        said = heard(explain(gateway, DEVELOPER, "push", HOME))
    assert len(said) == 5
    assert all(one.endswith("(in Redis)") for one in said)
    assert {one.path for one in own.requests} == {"/api/v4/version"}


def test_a_stranger_hears_nothing_of_it(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """What GitLab was asked is for operators: to a stranger hidden and missing are one answer, byte for byte."""
    strangers_hear_nothing(before(gateway_factory, own))


def test_who_may_pull_hears_the_reason_alone(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A refused push tells who may pull which role is missing, and not what GitLab was asked."""
    answer = before(gateway_factory, own).wire(REPORTER).send("POST", f"/v2/{HOME}/blobs/uploads/").expect(403)
    assert answer.json()["errors"][0]["detail"]["reason"] == "role"
    assert b"/projects/" not in answer.body
