"""Podman and Buildah: from a login to an image that somebody else runs."""

from __future__ import annotations

import json
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
    PRIVATE,
    PROJECT_DEVELOPER,
    PUBLIC,
)
from tests.support.wire import Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.containers import Containers
    from tests.support.gateway import GatewayProcess


@pytest.fixture
def tools(containers: Containers, gateway: GatewayProcess) -> Containers:
    """Let the tools talk plain HTTP to the gateway."""
    containers.allow_http(gateway.host)
    return containers


@pytest.mark.parametrize("tool", ["podman", "buildah"])
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
def test_login(tools: Containers, gateway: GatewayProcess, account: Account, tool: str) -> None:
    """Every kind of credential logs in."""
    assert "Login Succeeded" in tools.login(gateway.host, account, tool=tool).said


@pytest.mark.parametrize("tool", ["podman", "buildah"])
@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account("carol", "wrong"), id="wrong password"),
        pytest.param(Account("bob", JOB.password), id="job token under its user's name"),
        pytest.param(JOB_FINISHED, id="token of a job that is over"),
        pytest.param(Account("carol", DEPLOY_READ.password), id="deploy token under another username"),
    ],
)
def test_login_refuses(tools: Containers, gateway: GatewayProcess, account: Account, tool: str) -> None:
    """A credential that GitLab does not recognise is called a wrong one."""
    refusal = tools.login(gateway.host, account, tool=tool, fails=True)
    assert "invalid username/password" in refusal.said


def build(tools: Containers, folder: Path, name: str, text: str) -> None:
    """Build an image of one file from scratch."""
    folder.mkdir()
    (folder / "content.txt").write_text(text)
    (folder / "Containerfile").write_text("FROM scratch\nCOPY content.txt /content.txt\n")
    tools.buildah("bud", "--isolation", "chroot", "--tag", name, folder)


def identity(tools: Containers, name: str) -> str:
    """Tell an image's id, which is the digest of its configuration."""
    return tools.podman("image", "inspect", "--format", "{{.Id}}", name).stdout.strip()


@pytest.mark.parametrize("format_", ["oci", "docker"])
def test_build_push_and_pull(tools: Containers, gateway: GatewayProcess, format_: str, tmp_path: Path) -> None:
    """What buildah built and podman pushed comes back as the same image."""
    name = f"{gateway.host}/{PRIVATE}/built-{format_}:1"
    tools.login(gateway.host, CAROL, tool="podman")
    build(tools, tmp_path / "context", name, format_)
    tools.buildah("push", name)
    tools.podman("push", "--format", "oci" if format_ == "oci" else "v2s2", name)
    tools.podman("rmi", name)
    tools.podman("pull", name)
    config = json.loads(gateway.wire(BOB).manifest(f"{PRIVATE}/built-{format_}", "1").expect(200).body)["config"]
    assert identity(tools, name) == config["digest"].removeprefix("sha256:")


def test_manifest_list(tools: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A manifest list is pushed with its images, and podman chooses from it."""
    image, name = f"{gateway.host}/{PRIVATE}/list-entry:1", f"{gateway.host}/{PRIVATE}/list:1"
    tools.login(gateway.host, CAROL, tool="podman")
    build(tools, tmp_path / "context", image, "list")
    built = identity(tools, image)
    tools.podman("push", image)
    tools.podman("manifest", "create", name)
    tools.podman("manifest", "add", name, image)
    tools.podman("manifest", "push", "--all", name, f"docker://{name}")
    tools.podman("manifest", "rm", name)
    tools.podman("rmi", image)
    tools.podman("pull", name)
    assert identity(tools, name) == built


def test_refused_push_names_the_role(tools: Containers, gateway: GatewayProcess, tmp_path: Path) -> None:
    """A reporter whose push is refused reads which role it takes."""
    name = f"{gateway.host}/{PRIVATE}/refused-podman:1"
    tools.login(gateway.host, BOB, tool="podman")
    build(tools, tmp_path / "context", name, "refused")
    assert "developer" in tools.podman("push", name, fails=True).said.lower()


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(PROJECT_DEVELOPER, id="project token with role developer"),
        pytest.param(JOB, id="job in its own project, of a reporter"),
    ],
)
def test_push_is_allowed(tools: Containers, gateway: GatewayProcess, account: Account, tmp_path: Path) -> None:
    """Machines push with the tokens that were made for them, and pull what they pushed."""
    name = f"{gateway.host}/{PRIVATE}/machine-podman:1"
    tools.login(gateway.host, account, tool="podman")
    build(tools, tmp_path / "context", name, str(account))
    tools.podman("push", name)
    tools.podman("rmi", name)
    tools.podman("pull", name)


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(GROUP_READ, PRIVATE, id="group token without write_registry"),
        pytest.param(JOB, PUBLIC, id="job in another project"),
    ],
)
def test_push_is_refused(
    tools: Containers, gateway: GatewayProcess, account: Account, project: str, tmp_path: Path
) -> None:
    """A token pushes neither without the scope nor out of its project."""
    name = f"{gateway.host}/{project}/refused-machine:1"
    tools.login(gateway.host, account, tool="podman")
    build(tools, tmp_path / "context", name, "refused")
    assert "denied" in tools.podman("push", name, fails=True).said


@pytest.mark.parametrize(
    ("account", "project"),
    [
        pytest.param(GROUP_READ, PRIVATE, id="private, group token"),
        pytest.param(JOB, PUBLIC, id="public, job of another project"),
    ],
)
def test_pull_is_allowed(tools: Containers, gateway: GatewayProcess, account: Account, project: str) -> None:
    """Machines pull what their role or the project's visibility opens to them."""
    image = images.image(b"pulled by a machine")
    gateway.wire(CAROL).push_image(f"{project}/for-machines", "1", image)
    tools.login(gateway.host, account, tool="podman")
    tools.podman("pull", f"{gateway.host}/{project}/for-machines:1")


def test_pull_of_a_foreign_image(tools: Containers, gateway: GatewayProcess) -> None:
    """An image that another client made and pushed is pulled under its own digest."""
    image = images.image(b"foreign")
    gateway.wire(CAROL).push_image(f"{PRIVATE}/foreign", "1", image)
    name = f"{gateway.host}/{PRIVATE}/foreign:1"
    tools.login(gateway.host, BOB, tool="podman")
    tools.podman("pull", name)
    found = tools.podman("image", "inspect", "--format", "{{.Digest}}", name).stdout.strip()
    assert found == image.manifest.digest


# What GitLab's documentation tells people to write into .gitlab-ci.yml, but for --tls-verify and what runs in chroot.
SCRIPT = """
echo "$CI_REGISTRY_PASSWORD" |
    podman login --tls-verify=false --username "$CI_REGISTRY_USER" --password-stdin "$CI_REGISTRY"
buildah bud --isolation chroot --tag "$CI_REGISTRY_IMAGE:job-$CI_TOOL" .
"$CI_TOOL" push "$CI_REGISTRY_IMAGE:job-$CI_TOOL"
made=$(podman image inspect --format "{{.Id}}" "$CI_REGISTRY_IMAGE:job-$CI_TOOL")
podman rmi "$CI_REGISTRY_IMAGE:job-$CI_TOOL"
"$CI_TOOL" pull "$CI_REGISTRY_IMAGE:job-$CI_TOOL"
test "$made" = "$(podman image inspect --format "{{.Id}}" "$CI_REGISTRY_IMAGE:job-$CI_TOOL")"
"""


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_ci_job(tools: Containers, gateway: GatewayProcess, tool: str, tmp_path: Path) -> None:
    """A CI job builds, pushes and pulls its project's image with nothing but the variables that GitLab gives it."""
    (tmp_path / "content.txt").write_text(tool)
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY content.txt /content.txt\n")
    job = people.ci_variables(gateway.host, PRIVATE, JOB)
    run(["sh", "-eu", "-c", SCRIPT], environment={**tools.environment, **job, "CI_TOOL": tool}, folder=tmp_path)
    gateway.wire(BOB).manifest(PRIVATE, f"job-{tool}").expect(200)
