"""Several workers on one store and one database are one registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.people import BOB, CAROL, PRIVATE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import GatewayFactory
    from tests.support.containers import Containers
    from tests.support.gateway import GatewayProcess

CHUNK = 100_000
CONTENT = images.noise(12 * CHUNK)


@pytest.fixture(params=["sqlite", "postgresql"])
def gateway(request: pytest.FixtureRequest, gateway_factory: GatewayFactory) -> GatewayProcess:
    """Serve with two workers, on each kind of database."""
    if request.param == "sqlite":
        return gateway_factory(workers=2)
    return gateway_factory(workers=2, database_url=request.getfixturevalue("postgres").database())


def test_push_and_pull(gateway: GatewayProcess, containers: Containers, tmp_path: Path) -> None:
    """An image that went to some worker comes back from any."""
    image = images.image(b"several workers")
    target = f"docker://{gateway.host}/{PRIVATE}:1"
    containers.allow_http(gateway.host)
    containers.login(gateway.host, CAROL)
    containers.skopeo("copy", images.layout(tmp_path / "layout", "1", image), target)
    for _ in range(10):
        found = gateway.wire(BOB).manifest(PRIVATE, "1").expect(200)
        assert found.body == image.manifest.content


def test_upload_wanders(gateway: GatewayProcess) -> None:
    """The chunks of one upload, each on a new connection, add up whichever worker takes them."""
    carol = gateway.wire(CAROL)
    location = carol.start_upload(PRIVATE)
    for start in range(0, len(CONTENT), CHUNK):
        location = carol.append(location, CONTENT[start : start + CHUNK], start=start).expect(202).location
    digest = images.sha256(CONTENT)
    carol.close_upload(location, digest).expect(201)
    assert gateway.wire(BOB).get(f"/v2/{PRIVATE}/blobs/{digest}").expect(200).body == CONTENT


def test_moved_tag_is_seen_at_once(gateway: GatewayProcess) -> None:
    """After a tag was moved, no worker serves the image that it named before."""
    for text in (b"before", b"after", b"and again"):
        image = images.image(text)
        gateway.wire(CAROL).push_image(PRIVATE, "moving", image)
        found = {gateway.wire(BOB).manifest(PRIVATE, "moving").header("Docker-Content-Digest") for _ in range(10)}
        assert found == {image.manifest.digest}
