"""Podman and Buildah: from a login to an image that somebody else runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.people import BOB, CAROL, PRIVATE
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
def test_login(tools: Containers, gateway: GatewayProcess, tool: str) -> None:
    """The right password logs in."""
    assert "Login Succeeded" in tools.login(gateway.host, CAROL, tool=tool).said


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_wrong_password(tools: Containers, gateway: GatewayProcess, tool: str) -> None:
    """A wrong password is called one."""
    refusal = tools.login(gateway.host, Account("carol", "wrong"), tool=tool, fails=True)
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


def test_pull_of_a_foreign_image(tools: Containers, gateway: GatewayProcess) -> None:
    """An image that another client made and pushed is pulled under its own digest."""
    image = images.image(b"foreign")
    gateway.wire(CAROL).push_image(f"{PRIVATE}/foreign", "1", image)
    name = f"{gateway.host}/{PRIVATE}/foreign:1"
    tools.login(gateway.host, BOB, tool="podman")
    tools.podman("pull", name)
    found = tools.podman("image", "inspect", "--format", "{{.Digest}}", name).stdout.strip()
    assert found == image.manifest.digest
