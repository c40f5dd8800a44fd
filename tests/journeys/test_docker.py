"""The Docker Engine and its command line, as most people meet a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import images, people
from tests.support.peers import run
from tests.support.people import (
    ALICE_API,
    ALICE_OAUTH,
    BOB,
    CAROL,
    DEPLOY_READ,
    GROUP_READ,
    JOB,
    JOB_FINISHED,
    MALLORY,
    PRIVATE,
    PROJECT_DEVELOPER,
    PUBLIC,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.docker import Docker, Engine
    from tests.support.gateway import GatewayProcess


@pytest.fixture
def docker(engine: Engine, tmp_path: Path) -> Docker:
    """Give somebody a command line that is logged in nowhere."""
    return engine.client(tmp_path / "docker")


def bring_in(docker: Docker, name: str, text: str) -> None:
    """Make a local image out of one file."""
    docker("import", "-", name, stdin=images.archive("content.txt", text.encode()))


def identity(docker: Docker, name: str) -> str:
    """Tell a local image's id."""
    return docker("image", "inspect", "--format", "{{.Id}}", name).stdout.strip()


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(CAROL, id="account password"),
        pytest.param(ALICE_API, id="personal access token"),
        pytest.param(PROJECT_DEVELOPER, id="project access token"),
        pytest.param(GROUP_READ, id="group access token"),
        pytest.param(ALICE_OAUTH, id="OAuth access token"),
        pytest.param(DEPLOY_READ, id="deploy token"),
        pytest.param(JOB, id="job token"),
    ],
)
def test_login_accepts(docker: Docker, gateway: GatewayProcess, account: Account) -> None:
    """Every kind of credential logs in."""
    assert "Login Succeeded" in docker.login(gateway.host, account).said


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account("carol", "wrong"), id="wrong password"),
        pytest.param(Account("bob", JOB.password), id="job token under its user's name"),
        pytest.param(JOB_FINISHED, id="token of a job that is over"),
        pytest.param(Account("carol", DEPLOY_READ.password), id="deploy token under another username"),
    ],
)
def test_login_refuses(docker: Docker, gateway: GatewayProcess, account: Account) -> None:
    """A login with a credential that GitLab does not recognise fails with GitLab's words."""
    refusal = docker.login(gateway.host, account, fails=True)
    assert "HTTP Basic: Access denied" in refusal.said


def test_push_and_pull(docker: Docker, gateway: GatewayProcess) -> None:
    """An image that was pushed comes back as the same image under the same digest."""
    name = f"{gateway.host}/{PRIVATE}/engine:1"
    assert "Login Succeeded" in docker.login(gateway.host, CAROL).said
    bring_in(docker, name, "push and pull")
    made = identity(docker, name)
    docker("push", name)
    digest = docker.digest(name)
    docker("rmi", name)
    docker("pull", name)
    assert (identity(docker, name), docker.digest(name)) == (made, digest)


def test_pull_by_digest(docker: Docker, gateway: GatewayProcess) -> None:
    """A digest is as good a reference as a tag."""
    image = images.image(b"by digest")
    gateway.wire(CAROL).push_image(f"{PRIVATE}/by-digest", "1", image)
    docker.login(gateway.host, BOB)
    name = f"{gateway.host}/{PRIVATE}/by-digest@{image.manifest.digest}"
    docker("pull", name)
    assert identity(docker, name) == image.config.digest


def test_build_from_a_pushed_image(docker: Docker, gateway: GatewayProcess, tmp_path: Path) -> None:
    """An image is built from scratch, pushed, and built upon through the registry."""
    base, name = f"{gateway.host}/{PRIVATE}/base:1", f"{gateway.host}/{PRIVATE}/upon:1"
    (tmp_path / "content.txt").write_text("build")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY content.txt /\n")
    (tmp_path / "Dockerfile.upon").write_text(f"FROM {base}\nCOPY content.txt /again.txt\n")
    docker.login(gateway.host, CAROL)
    docker("build", "--tag", base, tmp_path)
    docker("push", base)
    docker("rmi", base)
    docker("build", "--file", tmp_path / "Dockerfile.upon", "--tag", name, tmp_path)
    docker("push", name)
    manifest = gateway.wire(BOB).manifest(f"{PRIVATE}/upon", "1").expect(200).json()
    assert len(manifest["layers"]) == 2


def test_push_to_a_second_project(docker: Docker, gateway: GatewayProcess) -> None:
    """An image that lies in one project already is pushed to another under the same digest."""
    first, second = f"{gateway.host}/{PRIVATE}/first:1", f"{gateway.host}/{PUBLIC}/second:1"
    docker.login(gateway.host, CAROL)
    bring_in(docker, first, "twice")
    docker("push", first)
    docker("tag", first, second)
    docker("push", second)
    first_digest, second_digest = (
        gateway.wire(BOB).manifest(path, "1").expect(200).header("Docker-Content-Digest")
        for path in (f"{PRIVATE}/first", f"{PUBLIC}/second")
    )
    assert first_digest == second_digest


def test_refused_push_names_the_role(docker: Docker, gateway: GatewayProcess) -> None:
    """A reporter whose push is refused reads which role it takes."""
    name = f"{gateway.host}/{PRIVATE}/refused-docker:1"
    docker.login(gateway.host, BOB)
    bring_in(docker, name, "refused")
    assert "developer" in docker("push", name, fails=True).said.lower()


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(PROJECT_DEVELOPER, id="project token with role developer"),
        pytest.param(JOB, id="job in its own project, of a reporter"),
    ],
)
def test_push_is_allowed(docker: Docker, gateway: GatewayProcess, account: Account) -> None:
    """Machines push with the tokens that were made for them, and pull what they pushed."""
    name = f"{gateway.host}/{PRIVATE}/machine-docker:1"
    docker.login(gateway.host, account)
    bring_in(docker, name, str(account))
    docker("push", name)
    docker("rmi", name)
    docker("pull", name)


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(GROUP_READ, PRIVATE, id="group token without write_registry"),
        pytest.param(JOB, PUBLIC, id="job in another project"),
    ],
)
def test_push_is_refused(docker: Docker, gateway: GatewayProcess, account: Account, project: str) -> None:
    """A token pushes neither without the scope nor out of its project."""
    name = f"{gateway.host}/{project}/refused-machine-docker:1"
    docker.login(gateway.host, account)
    bring_in(docker, name, "refused")
    assert "denied" in docker("push", name, fails=True).said


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(GROUP_READ, PRIVATE, id="private, group token"),
        pytest.param(JOB, PUBLIC, id="public, job of another project"),
    ],
)
def test_pull_is_allowed(docker: Docker, gateway: GatewayProcess, account: Account, project: str) -> None:
    """Machines pull what their role or the project's visibility opens to them."""
    image = images.image(b"pulled by a machine")
    gateway.wire(CAROL).push_image(f"{project}/for-machines-docker", "1", image)
    docker.login(gateway.host, account)
    name = f"{gateway.host}/{project}/for-machines-docker:1"
    docker("pull", name)
    assert docker.digest(name) == image.manifest.digest


# What GitLab's documentation tells people to write into .gitlab-ci.yml.
SCRIPT = """
echo "$CI_REGISTRY_PASSWORD" | docker login --username "$CI_REGISTRY_USER" --password-stdin "$CI_REGISTRY"
docker build --tag "$CI_REGISTRY_IMAGE:job-docker" .
docker push "$CI_REGISTRY_IMAGE:job-docker"
made=$(docker image inspect --format "{{.Id}}" "$CI_REGISTRY_IMAGE:job-docker")
docker rmi "$CI_REGISTRY_IMAGE:job-docker"
docker pull "$CI_REGISTRY_IMAGE:job-docker"
test "$made" = "$(docker image inspect --format "{{.Id}}" "$CI_REGISTRY_IMAGE:job-docker")"
"""


def test_ci_job(docker: Docker, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A CI job builds, pushes and pulls its project's image with nothing but the variables that GitLab gives it."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "content.txt").write_text("made by a job")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY content.txt /\n")
    job = people.ci_variables(gateway.host, PRIVATE, JOB)
    run(["sh", "-eu", "-c", SCRIPT], environment={**docker.environment, **job}, folder=context)
    gateway.wire(BOB).manifest(PRIVATE, "job-docker").expect(200)


def test_anonymous_pull_of_a_public_image(docker: Docker, gateway: GatewayProcess) -> None:
    """A public image is pulled without a login."""
    image = images.image(b"public")
    gateway.wire(CAROL).push_image(f"{PUBLIC}/for-all", "1", image)
    name = f"{gateway.host}/{PUBLIC}/for-all:1"
    docker("pull", name)
    assert docker.digest(name) == image.manifest.digest


@pytest.mark.parametrize(
    "account",
    [pytest.param(None, id="nobody"), pytest.param(MALLORY, id="stranger")],
)
def test_private_image_stays_private(docker: Docker, gateway: GatewayProcess, account: Account | None) -> None:
    """Without membership a private image can't be pulled, and whether it exists can't be learnt."""
    gateway.wire(CAROL).push_image(f"{PRIVATE}/existing-docker", "1", images.image(b"private"))
    if account:
        docker.login(gateway.host, account)
    said = [
        docker("pull", f"{gateway.host}/{PRIVATE}/{name}-docker:1", fails=True).said.replace(name, "NAME")
        for name in ("existing", "missing")
    ]
    assert said[0] == said[1]


def test_logout(docker: Docker, gateway: GatewayProcess) -> None:
    """After a logout the private image is out of reach again."""
    gateway.wire(CAROL).push_image(f"{PRIVATE}/logged-out", "1", images.image(b"logged out"))
    docker.login(gateway.host, BOB)
    docker("logout", gateway.host)
    docker("pull", f"{gateway.host}/{PRIVATE}/logged-out:1", fails=True)
