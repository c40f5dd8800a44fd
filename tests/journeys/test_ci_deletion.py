"""Deleting from a CI job, as the user guide's example and other tools do it: their own requests, in their order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from tests.contracts.oci import content
from tests.support import people
from tests.support.images import Blob
from tests.support.people import CAROL, DAVE, JOB, PRIVATE
from tests.support.wire import Account, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.gateway import GatewayProcess

REG_ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"
"""All that `reg` takes, whatever the image is."""

KINDS: dict[str, Callable[[], content.Manifest]] = {
    "docker image": lambda: content.image(
        [content.layer(content.DOCKER_LAYER)], content.config(content.DOCKER_CONFIG), media_type=content.DOCKER_IMAGE
    ),
    "oci image": content.image,
    "oci index": lambda: content.index([content.image(), content.image()]),
    "docker list": lambda: content.index(
        [content.image(media_type=content.DOCKER_IMAGE)], media_type=content.DOCKER_LIST
    ),
}


def push(wire: Wire, repository: str, tag: str, manifest: content.Manifest) -> None:
    """Push a manifest with all that belongs to it."""
    for member in manifest.family:
        for blob in member.blobs:
            wire.push_blob(repository, Blob(blob.media_type, blob.content))
        reference = tag if member is manifest else member.digest
        wire.put_manifest(repository, reference, Blob(member.media_type, member.content)).expect(201)


def tags(wire: Wire, repository: str) -> list[str]:
    """List a repository's tags."""
    found = wire.get(f"/v2/{repository}/tags/list").expect(200).json()["tags"]
    return list(found or ())


class Reg:
    """The requests of `reg rm -d --auth-url HOST -u USER -p PASSWORD IMAGE`: Basic first, Bearer where it is asked."""

    def __init__(self, host: str, account: Account, *, basic: bool) -> None:
        self.account = account
        self.wire = Wire(host, account if basic else None)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        """Ask, follow a challenge, and give the status and the digest."""
        answer = self.wire.send(method, path, headers=headers)
        if answer.status == 401:
            # It splits at two commas, takes no space after them, and believes that the scope is last.
            challenge = answer.header("WWW-Authenticate")
            found = re.fullmatch(r'Bearer realm="([^"]+)",service="([^"]+)"(?:,scope="([^"]+)")?', challenge)
            assert found is not None, challenge
            realm, service, scope = found.groups()
            query = urlencode([("service", service), *([("scope", scope)] if scope else [])])
            asking = self.wire.acting_as(self.account)
            token = asking.get(f"{realm.removeprefix(self.wire.base_url)}?{query}").expect(200).json()["token"]
            answer = self.wire.acting_as(str(token)).send(method, path, headers=headers)
        return answer.status, answer.headers.get("Docker-Content-Digest", "")

    def remove(self, repository: str, tag: str) -> None:
        """Delete what a tag points at."""
        assert self.ask("GET", "/v2/")[0] == 200
        status, digest = self.ask("GET", f"/v2/{repository}/manifests/{tag}", Accept=REG_ACCEPT)
        assert status == 200
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest), "reg: invalid checksum digest format"
        assert self.ask("DELETE", f"/v2/{repository}/manifests/{digest}")[0] == 202


@pytest.mark.parametrize("basic", [True, False], ids=["Basic", "Bearer"])
@pytest.mark.parametrize("kind", KINDS)
def test_reg_rm(gateway: GatewayProcess, kind: str, basic: bool) -> None:  # noqa: FBT001 - a table's column
    """A job deletes its branch's image as the guide's example has it, also one that is not Docker's schema 2."""
    repository = f"{PRIVATE}/reg"
    job = people.ci_variables(gateway.host, PRIVATE, JOB)
    account = Account(job["CI_REGISTRY_USER"], job["CI_REGISTRY_PASSWORD"])
    branch = f"branch-{kind.replace(' ', '-')}-{'basic' if basic else 'bearer'}"
    pushing = gateway.wire(CAROL)
    push(pushing, repository, f"{branch}-kept", content.image())
    push(pushing, repository, branch, KINDS[kind]())
    Reg(gateway.base_url, account, basic=basic).remove(repository, branch)
    left = tags(pushing, repository)
    assert branch not in left
    assert f"{branch}-kept" in left


@pytest.mark.parametrize("kind", KINDS)
def test_a_tag_is_deleted_by_its_name(gateway: GatewayProcess, kind: str) -> None:
    """`crane delete IMAGE:TAG` and `regctl tag rm` delete by tag: siblings on the same manifest stay."""
    repository = f"{PRIVATE}/by-name-{kind.replace(' ', '-')}"
    pushing = gateway.wire(CAROL)
    manifest = KINDS[kind]()
    for tag in ("kept", "dropped"):
        push(pushing, repository, tag, manifest)
    gateway.wire(DAVE).send("DELETE", f"/v2/{repository}/manifests/dropped").expect(202)
    assert tags(pushing, repository) == ["kept"]
    assert pushing.manifest(repository, "kept").expect(200).body == manifest.content


def test_a_job_deletes_in_its_own_project_alone(gateway: GatewayProcess) -> None:
    """Trap 10: the job of a project deletes there, whatever its user is, and nowhere else."""
    repository = f"{people.PUBLIC}/not-the-job-s"
    push(gateway.wire(CAROL), repository, "v1", content.image())
    digest = gateway.wire(CAROL).manifest(repository, "v1").header("Docker-Content-Digest")
    gateway.wire(JOB).send("DELETE", f"/v2/{repository}/manifests/{digest}").expect(403)
    assert tags(gateway.wire(CAROL), repository) == ["v1"]


def test_a_developer_does_not_delete_through_the_registry(gateway: GatewayProcess) -> None:
    """Trap 9: a developer, who may delete a tag through the REST API, never gets `delete` here."""
    repository = f"{PRIVATE}/developer-s"
    push(gateway.wire(CAROL), repository, "v1", content.image())
    gateway.wire(CAROL).send("DELETE", f"/v2/{repository}/manifests/v1").expect(403)
    assert tags(gateway.wire(CAROL), repository) == ["v1"]
