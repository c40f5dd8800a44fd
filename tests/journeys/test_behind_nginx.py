"""A gateway that clients reach through nginx: every address that it names is one from outside."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from tests.support import images
from tests.support.nginx import tls_in_front
from tests.support.peers import free_port
from tests.support.people import CAROL, PRIVATE
from tests.support.wire import SERVICE, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.containers import Containers
    from tests.support.docker import Engine


@dataclass(frozen=True)
class Front:
    """What the outside sees."""

    url: str
    host: str
    certificate: Path

    @property
    def carol(self) -> Wire:
        """A developer's requests from outside."""
        return Wire(self.url, CAROL, certificate=self.certificate)


def front(gateway_factory: GatewayFactory, folder: Path, sub_path: str) -> Iterator[Front]:
    """Start a gateway and nginx before it."""
    port = free_port()
    host = f"127.0.0.1:{port}"
    gateway = gateway_factory(external_url=f"https://{host}{sub_path}", trusted_proxies=["127.0.0.1"])
    with tls_in_front(folder, port=port, upstream=gateway.host, sub_path=sub_path) as certificate:
        yield Front(f"https://{host}{sub_path}", host, certificate)


@pytest.fixture(params=[pytest.param("", id="odd port"), pytest.param("/registry", id="sub-path")])
def outside(request: pytest.FixtureRequest, gateway_factory: GatewayFactory, tmp_path: Path) -> Iterator[Front]:
    """Serve over TLS at the root of an odd port, and under a sub-path."""
    yield from front(gateway_factory, tmp_path, request.param)


@pytest.fixture
def at_the_root(gateway_factory: GatewayFactory, tmp_path: Path) -> Iterator[Front]:
    """Serve over TLS at the root, where alone the usual clients look."""
    yield from front(gateway_factory, tmp_path, "")


def test_challenge(outside: Front) -> None:
    """The challenge sends clients to the token endpoint's outside address."""
    challenge = outside.carol.acting_as(None).get("/v2/").expect(401).header("WWW-Authenticate")
    assert challenge == f'Bearer realm="{outside.url}/jwt/auth",service="{SERVICE}"'


def test_token(outside: Front) -> None:
    """The token from the outside address opens the registry behind it."""
    token = outside.carol.token(f"repository:{PRIVATE}:pull,push")
    outside.carol.acting_as(token).get("/v2/").expect(200)


def test_upload(outside: Front) -> None:
    """Each Location of an upload leads back through nginx, until the blob is there."""
    blob = images.image(b"behind nginx").layers[0]
    location = outside.carol.start_upload(PRIVATE)
    assert location.startswith(f"{outside.url}/v2/")
    after_chunk = outside.carol.append(location, blob.content).expect(202).location
    assert after_chunk.startswith(f"{outside.url}/v2/")
    stored = outside.carol.close_upload(after_chunk, blob.digest).expect(201).location
    assert outside.carol.get(stored).expect(200).body == blob.content


def test_manifest_location(outside: Front) -> None:
    """A pushed manifest's Location can be fetched from outside."""
    image = images.image(b"located")
    for blob in (image.config, *image.layers):
        outside.carol.push_blob(PRIVATE, blob)
    stored = outside.carol.put_manifest(PRIVATE, "1", image.manifest).expect(201).location
    assert outside.carol.get(stored, Accept=images.MANIFEST).expect(200).body == image.manifest.content


def test_next_page(outside: Front) -> None:
    """The Link to the next page leads through nginx."""
    for tag in ("1", "2"):
        outside.carol.push_image(PRIVATE, tag, images.image(b"paged"))
    first = outside.carol.get(f"/v2/{PRIVATE}/tags/list?n=1").expect(200)
    link = re.fullmatch(r'<(.+)>; *rel="?next"?', first.header("Link"))
    assert link
    assert outside.carol.get(urljoin(first.url, link[1])).expect(200).json()["tags"] == ["2"]


def test_skopeo(at_the_root: Front, containers: Containers, tmp_path: Path) -> None:
    """A client that trusts nginx's certificate logs in, pushes and pulls."""
    certificates = tmp_path / "trusted"
    certificates.mkdir()
    shutil.copy(at_the_root.certificate, certificates / "ca.crt")
    image = images.image(b"over TLS")
    source = images.layout(tmp_path / "layout", "1", image)
    target = f"docker://{at_the_root.host}/{PRIVATE}:1"
    containers.login(at_the_root.host, CAROL, certificates=certificates)
    containers.skopeo("copy", "--dest-cert-dir", certificates, source, target)
    found = containers.skopeo("inspect", "--cert-dir", certificates, "--format", "{{.Digest}}", target)
    assert found.stdout.strip() == image.manifest.digest


def test_docker(at_the_root: Front, engine: Engine, tmp_path: Path) -> None:
    """The Docker Engine logs in, pushes and pulls over TLS."""
    docker = engine.client(tmp_path / "docker")
    name = f"{at_the_root.host}/{PRIVATE}:1"
    docker.login(at_the_root.host, CAROL)
    docker("import", "-", name, stdin=images.archive("content.txt", b"over TLS"))
    docker("push", name)
    digest = docker.digest(name)
    docker("rmi", name)
    docker("pull", name)
    assert docker.digest(name) == digest
