"""What GitLab's REST API is asked for facts, whom it can't tell, and what happens when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.fakes.gitlab import VERSIONS, FakeGitLab
from tests.gitlab_api.conftest import directory
from tests.gitlab_jwt.test_asking import FAILURES, PULL, PUSH
from tests.journeys.test_explain import explain
from tests.semantics import company
from tests.semantics.asking import access, ask, claims, entries
from tests.semantics.company import DEVELOPER, HOME, REPORTER, STRANGER, deploy, job, token, user
from tests.support import images
from tests.support.peers import eventually
from tests.support.wire import Account, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess


@pytest.fixture
def own() -> Iterator[FakeGitLab]:
    """Run a GitLab of the test's own."""
    with FakeGitLab(directory()) as fake:
        fake.registry_enabled = False
        yield fake


def before(factory: GatewayFactory, fake: FakeGitLab, **keys: Any) -> GatewayProcess:
    """Put a gateway before it that decides from its facts."""
    item = {"use": "auth_gitlab", "url": fake.url, "mode": "api", "service_token": fake.service_token, **keys}
    return factory(sources=[item, {"use": "naming"}, {"use": "visibility"}])


KINDS = [
    pytest.param(token("personal_access_token", "api"), "personal_access_token", "maintainer", id="personal"),
    pytest.param(token("oauth_token", "api"), "oauth", "maintainer", id="OAuth"),
    pytest.param(job("developer"), "build", "developer", id="job"),
    pytest.param(deploy("project", "read_registry"), "deploy_token", "", id="deploy token"),
]


@pytest.mark.parametrize(("who", "kind", "subject"), KINDS)
def test_each_kind_of_token(
    gateway_factory: GatewayFactory, own: FakeGitLab, who: Account, kind: str, subject: str
) -> None:
    """Every kind of token is recognised, without GitLab's token endpoint."""
    gateway = before(gateway_factory, own)
    found = claims(gateway, ask(gateway, who, PULL))
    assert (found["auth_type"], found["sub"]) == (kind, subject)
    assert [entry["actions"] for entry in found["access"]] == [["pull"]]
    assert own.count("/jwt/auth") == 0


WRONG = [
    pytest.param(deploy("project", "read_registry")._replace(username="else"), id="deploy token, another username"),
    pytest.param(job("developer")._replace(username="developer"), id="job token, another username"),
    pytest.param(job("developer", status="success"), id="finished job"),
    pytest.param(Account("developer", "wrong"), id="wrong token"),
    pytest.param(Account("two-factor", "tök\u0000en"), id="no token at all"),
]


@pytest.mark.parametrize("who", WRONG)
def test_what_is_not_recognised(gateway_factory: GatewayFactory, own: FakeGitLab, who: Account) -> None:
    """What GitLab's own recognition refuses is refused."""
    ask(before(gateway_factory, own), who, PULL).expect(401)


def test_account_passwords_are_not_verified(gateway_factory: GatewayFactory) -> None:
    """REST verifies no account password: such a login is refused, and nothing is left behind in GitLab."""
    with FakeGitLab(company.directory()) as fake:
        ask(before(gateway_factory, fake), DEVELOPER, PULL).expect(401)
        assert fake.count("/oauth/token") == 0


def test_facts_are_remembered(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A second decision asks for nothing; another person's asks for what is theirs alone."""
    gateway = before(gateway_factory, own)
    ask(gateway, DEVELOPER, PUSH).expect(200)
    own.requests.clear()
    ask(gateway, DEVELOPER, PUSH).expect(200)
    assert [one.path for one in own.requests] == []
    ask(gateway, REPORTER, PUSH).expect(200)
    assert not [
        one.path for one in own.requests if one.path.startswith("/api/v4/projects/") and "members" not in one.path
    ]


def test_a_change_counts_when_the_fact_is_old(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A role, a token and a project are asked for again after `remember`."""
    gateway = before(gateway_factory, own, remember="1s")
    assert entries(ask(gateway, DEVELOPER, PUSH))[0]["actions"] == ["pull", "push"]
    changed = directory()
    next(group for group in changed["groups"] if group["path"] == "mx")["members"]["developer"] = "reporter"
    own.directory = changed
    eventually(lambda: entries(ask(gateway, DEVELOPER, PUSH))[0]["actions"] == ["pull"], "the role is that of now")
    next(person for person in changed["users"] if person["username"] == "developer")["state"] = "blocked"
    own.directory = changed
    eventually(lambda: ask(gateway, DEVELOPER, PULL).status == 401, "the account is blocked now")


@pytest.mark.parametrize("mode", FAILURES)
def test_gitlab_that_fails_is_503(gateway_factory: GatewayFactory, own: FakeGitLab, mode: Any) -> None:
    """What can't be found out is 503 with Retry-After, never a grant."""
    gateway = before(gateway_factory, own)
    own.mode = mode
    answer = ask(gateway, DEVELOPER, PULL).expect(503)
    assert answer.header("Retry-After")
    own.mode = "ok"
    eventually(lambda: ask(gateway, DEVELOPER, PULL).status == 200, "GitLab is asked again")


def test_a_service_token_that_may_not_read(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """A service token that GitLab refuses is a configuration problem, and is said with the fix."""
    gateway = before(gateway_factory, own)
    # The fake's own service token is part of its directory.
    own.service_token = "another"
    own.directory = directory()
    said = Wire(gateway.admin_url).get("/readyz").expect(503).body.decode()
    assert "the service token may not read version: it needs read_api, of an administrator" in said
    ask(gateway, REPORTER, PULL).expect(401)


def old(factory: GatewayFactory, fake: FakeGitLab) -> GatewayProcess:
    """Put a gateway before a GitLab that is too old: it starts, and never calls itself ready."""
    gateway = before(factory, fake)
    fake.release, fake.version = "14.x", VERSIONS["14.x"]
    fake._routes = fake._table()
    return gateway


def test_a_gitlab_that_is_too_old(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """GitLab before 15.5 tells no token's scopes: the log says why it is refused, and what to do."""
    gateway = old(gateway_factory, own)
    assert "use mode jwt" in Wire(gateway.admin_url).get("/readyz").expect(503).body.decode()
    answer = ask(gateway, token("personal_access_token", "api"), PULL).expect(401)
    eventually(lambda: answer.header("X-Request-Id") in gateway.log, "the line of the request")
    assert "older than 15.5" in gateway.log
    ask(gateway, job("developer"), PULL).expect(200)


def test_the_catalog(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The catalog shows what may be pulled, decided for each repository of a page."""
    gateway = before(gateway_factory, own)
    for name in (HOME, "mx/public-enabled", "mx/internal-enabled"):
        gateway.wire(user("owner")).push_image(name, "1", images.image(b"listed"))
    shown = {
        who.username: gateway.wire(who).get("/v2/_catalog").expect(200).json()["repositories"]
        for who in (DEVELOPER, STRANGER, user("external-stranger"))
    }
    assert shown == {
        "developer": [HOME, "mx/internal-enabled", "mx/public-enabled"],
        "stranger": ["mx/internal-enabled", "mx/public-enabled"],
        "external-stranger": ["mx/public-enabled"],
    }


def test_explain_shows_the_facts(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """The chain is the one of the matrix, from GitLab's facts."""
    said = explain(before(gateway_factory, own), REPORTER, "push", HOME)
    failed = [step for step in said["steps"] if not step["passed"]]
    assert failed[0]["finding"] == f"pushing needs the developer role in {HOME}, reporter is reporter"


def test_the_service_token_is_nowhere(gateway_factory: GatewayFactory, own: FakeGitLab) -> None:
    """It stands in no log line and no answer."""
    gateway = before(gateway_factory, own)
    answer = ask(gateway, DEVELOPER, PUSH).expect(200)
    own.mode = "500"
    ask(gateway, REPORTER, PUSH).expect(503)
    assert own.service_token not in gateway.log
    assert own.service_token.encode() not in answer.body


def test_a_number_is_its_source_s_own(gateway_factory: GatewayFactory, own: FakeGitLab, tmp_path: Path) -> None:
    """A project of another source that has the number of one in GitLab is not that one: nobody's role there counts."""
    other = {
        "groups": [{"path": "elsewhere", "visibility": "private"}],
        "projects": [{"path": "elsewhere/secret", "visibility": "private", "id": own.project_id(HOME)}],
    }
    local = tmp_path / "elsewhere.yaml"
    local.write_text(yaml.safe_dump(other))
    item = {"use": "auth_gitlab", "url": own.url, "mode": "api", "service_token": own.service_token}
    known = {"use": "auth_local", "directory": str(local)}
    gateway = gateway_factory(sources=[known, item, {"use": "naming"}, {"use": "visibility"}])
    developer = token("personal_access_token", "api")
    assert access(ask(gateway, developer, f"repository:{HOME}:pull")) == [(HOME, "pull")]
    assert access(ask(gateway, developer, "repository:elsewhere/secret:pull")) == []
