"""A gateway that ends, gently or not: what was acknowledged is there, and what was begun goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.people import BOB, CAROL, PRIVATE

if TYPE_CHECKING:
    from tests.conftest import GatewayFactory

CONTENT = images.noise(3 * 1024 * 1024)
HALF = len(CONTENT) // 2


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_upload_goes_on(gateway_factory: GatewayFactory, end: str) -> None:
    """An upload is asked for its state after a restart, and finished from there."""
    gateway = gateway_factory()
    carol = gateway.wire(CAROL)
    location = carol.append(carol.start_upload(PRIVATE), CONTENT[:HALF]).expect(202).location
    gateway.stop() if end == "stop" else gateway.kill()
    gateway.restart()
    state = carol.get(location).expect(204)
    assert state.header("Range") == f"0-{HALF - 1}"
    location = carol.append(state.location, CONTENT[HALF:], start=HALF).expect(202).location
    digest = images.sha256(CONTENT)
    carol.close_upload(location, digest).expect(201)
    assert gateway.wire(BOB).get(f"/v2/{PRIVATE}/blobs/{digest}").expect(200).body == CONTENT


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_acknowledged_image_is_there(gateway_factory: GatewayFactory, end: str) -> None:
    """An image whose push was acknowledged is served after the restart, byte for byte."""
    gateway = gateway_factory()
    image = images.image(CONTENT)
    gateway.wire(CAROL).push_image(PRIVATE, "1", image)
    gateway.stop() if end == "stop" else gateway.kill()
    gateway.restart()
    bob = gateway.wire(BOB)
    assert bob.manifest(PRIVATE, "1").expect(200).body == image.manifest.content
    assert bob.get(f"/v2/{PRIVATE}/blobs/{image.layers[0].digest}").expect(200).body == image.layers[0].content


def test_token_outlives_the_restart(gateway_factory: GatewayFactory) -> None:
    """A token from before the restart is good after it, because the signing key is kept."""
    gateway = gateway_factory()
    token = gateway.wire(CAROL).token(f"repository:{PRIVATE}:pull")
    gateway.restart()
    gateway.wire(token).get("/v2/").expect(200)
