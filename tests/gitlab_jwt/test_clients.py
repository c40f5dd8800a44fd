"""Real clients before a GitLab: each kind of credential logs in, and a CI job pushes and pulls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.gitlab_jwt.test_asking import PATH, before, own
from tests.semantics import company
from tests.semantics.asking import ask, entries, scope
from tests.semantics.company import DEVELOPER, HOME, REPORTER, deploy, job, token, user
from tests.support import images
from tests.support.peers import run
from tests.support.wire import Account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.containers import Containers
    from tests.support.docker import Engine
    from tests.support.gateway import GatewayProcess

__all__ = ["own"]

KINDS = [
    pytest.param(DEVELOPER, id="password"),
    pytest.param(token("personal_access_token", "api"), id="personal token"),
    pytest.param(token("project_access_token", "api"), id="project token"),
    pytest.param(token("group_access_token", "read_registry"), id="group token"),
    pytest.param(token("oauth_token", "api"), id="OAuth token"),
    pytest.param(deploy("project", "read_registry"), id="deploy token"),
    pytest.param(job("developer"), id="CI job token"),
]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeGitLab]:
    """Run a GitLab."""
    with FakeGitLab(company.directory()) as running:
        yield running


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, fake: FakeGitLab) -> GatewayProcess:
    """Put a gateway before it."""
    return before(gateway_factory, fake)


@pytest.mark.parametrize("who", KINDS)
def test_skopeo_logs_in(containers: Containers, gateway: GatewayProcess, who: Account) -> None:
    """Whoever GitLab knows logs in, and who it does not know doesn't."""
    containers.allow_http(gateway.host)
    assert "Login Succeeded" in containers.login(gateway.host, who).said
    wrong = Account(who.username, "wrong")
    assert "invalid username/password" in containers.login(gateway.host, wrong, fails=True).said


@pytest.mark.parametrize("who", [KINDS[0], KINDS[1], KINDS[-1]])
def test_docker_logs_in(gateway: GatewayProcess, engine: Engine, who: Account, tmp_path: Path) -> None:
    """So does Docker."""
    assert "Login Succeeded" in engine.client(tmp_path / "home").login(gateway.host, who).said


def test_a_reporter_pulls_and_does_not_push(containers: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """GitLab's answer decides what a login may do."""
    source = images.layout(tmp_path / "layout", "1", images.image(b"before gitlab"))
    containers.allow_http(gateway.host)
    containers.login(gateway.host, DEVELOPER)
    containers.skopeo("copy", source, f"docker://{gateway.host}/{HOME}:1")
    containers.login(gateway.host, REPORTER)
    containers.skopeo("inspect", f"docker://{gateway.host}/{HOME}:1")
    refused = containers.skopeo("copy", source, f"docker://{gateway.host}/{HOME}:2", fails=True)
    assert "denied" in refused.said


CI = """
printf %s "$CI_REGISTRY_PASSWORD" |
  skopeo login --tls-verify=false -u "$CI_REGISTRY_USER" --password-stdin "$CI_REGISTRY"
skopeo copy --dest-tls-verify=false "$SOURCE" "docker://$CI_REGISTRY_IMAGE:built"
skopeo inspect --tls-verify=false "docker://$CI_REGISTRY_IMAGE:built"
"""


def test_a_ci_job_pushes_and_pulls(containers: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A job's script works with the variables that GitLab gives it."""
    who = job("developer")
    variables = {
        "CI_REGISTRY": gateway.host,
        "CI_REGISTRY_IMAGE": f"{gateway.host}/{HOME}",
        "CI_REGISTRY_USER": who.username,
        "CI_REGISTRY_PASSWORD": who.password,
        "SOURCE": images.layout(tmp_path / "layout", "1", images.image(b"built by a job")),
    }
    run(["sh", "-eu", "-c", CI], environment={**containers.environment, **variables})


def test_gitlab_is_the_realm(
    containers: Containers, gateway_factory: GatewayFactory, own: FakeGitLab, tmp_path: Path
) -> None:
    """With the realm at GitLab, clients ask it for tokens, which the gateway takes for GitLab's certificate."""
    path = tmp_path / "gitlab.crt"
    path.write_text(own.certificate_pem)
    trusted = {"issuer": "gitlab-issuer", "certificate_file": str(path)}
    realm = {"tokens": {"realm": f"{own.url}{PATH}", "trusted_issuers": [trusted]}}
    gateway = gateway_factory(extra=realm)
    containers.allow_http(gateway.host)
    containers.login(gateway.host, DEVELOPER)
    source = images.layout(tmp_path / "layout", "1", images.image(b"realm"))
    containers.skopeo("copy", source, f"docker://{gateway.host}/{HOME}:1")
    containers.skopeo("inspect", f"docker://{gateway.host}/{HOME}:1")
    assert own.count(PATH) > 0


HOSTILE = [
    pytest.param(Account("x" * 10_000, "y"), id="10 kB username"),
    pytest.param(Account("developer", "y" * 10_000), id="10 kB password"),
    pytest.param(Account("developer", "p\u00e4ss\u4e16"), id="beyond ASCII"),
    pytest.param(Account("de\nveloper", "p\r\nX-Injected: 1"), id="line feeds"),
    pytest.param(Account("", ""), id="empty"),
]


@pytest.mark.parametrize("who", HOSTILE)
def test_odd_credentials_are_refused_as_gitlab_does(gateway: GatewayProcess, who: Account) -> None:
    """Whatever is presented goes to GitLab as it is, or nowhere, and is a wrong credential."""
    assert ask(gateway, who, scope(HOME, "pull")).status == 401


def test_oversized_guesses_do_not_close_gitlab_for_others(gateway: GatewayProcess, fake: FakeGitLab) -> None:
    """What GitLab's web server would call malformed is no failure of GitLab's, however often it is sent."""
    fake.requests.clear()
    for number in range(8):
        ask(gateway, Account("developer", f"{number}" * 9000)).expect(401)
    assert fake.requests == []
    ask(gateway, REPORTER).expect(200)


def test_hundreds_of_scopes_are_asked_fifty_at_a_time(gateway: GatewayProcess, fake: FakeGitLab) -> None:
    """A long request is several questions that GitLab's web server takes, and one answer."""
    fake.requests.clear()
    names = [f"{HOME}/{number}" for number in range(230)]
    answer = ask(gateway, user("owner"), *(scope(name, "pull") for name in names))
    assert [entry["name"] for entry in entries(answer)] == names
    sizes = [sum(key == "scope" for key, _ in one.query) for one in fake.requests if one.username == "owner"]
    assert sizes == [0, 50, 50, 50, 50, 30]


def test_long_names_make_shorter_questions(gateway: GatewayProcess, fake: FakeGitLab) -> None:
    """Fifty of the longest names are more than a request line: none is refused for that."""
    fake.requests.clear()
    names = [f"{HOME}/{'n' * 240}{number:03}" for number in range(60)]
    answer = ask(gateway, user("owner"), *(scope(name, "pull") for name in names))
    assert [entry["name"] for entry in entries(answer)] == names
