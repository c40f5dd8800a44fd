"""A push that takes longer than its token lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, DAVE, PRIVATE

if TYPE_CHECKING:
    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess
    from tests.support.wire import Wire

IMAGE = images.image(b"a long push")
LAYER = IMAGE.layers[0]
SCOPE = f"repository:{PRIVATE}:pull,push"


@pytest.fixture
def hasty(gateway_factory: GatewayFactory) -> GatewayProcess:
    """Serve with tokens that live for two or three seconds (their times are whole seconds)."""
    return gateway_factory(extra={"tokens": {"ttl": "3s"}})


def expire(wire: Wire) -> None:
    """Wait until the caller's token no longer counts."""
    eventually(lambda: wire.get("/v2/").status == 401, "the token has expired")


def test_upload_goes_on_but_the_manifest_needs_a_live_token(hasty: GatewayProcess) -> None:
    """An upload is finished under the expired token that began it, and its manifest is refused under it."""
    carol = hasty.wire(hasty.wire(CAROL).token(SCOPE))
    location = carol.start_upload(PRIVATE)
    expire(carol)
    location = carol.append(location, LAYER.content).expect(202).location
    carol.close_upload(location, LAYER.digest).expect(201)
    refused = carol.put_manifest(PRIVATE, "1", IMAGE.manifest).expect(401)
    assert 'error="invalid_token"' in refused.header("WWW-Authenticate")


def test_fresh_token_finishes_the_push(hasty: GatewayProcess) -> None:
    """An upload that began under one token is finished under the next."""
    first = hasty.wire(hasty.wire(CAROL).token(SCOPE))
    location = first.append(first.start_upload(PRIVATE), LAYER.content).expect(202).location
    expire(first)
    second = hasty.wire(hasty.wire(CAROL).token(SCOPE))
    second.close_upload(location, LAYER.digest).expect(201)


def test_expired_token_begins_nothing(hasty: GatewayProcess) -> None:
    """No new upload begins under an expired token."""
    carol = hasty.wire(hasty.wire(CAROL).token(SCOPE))
    expire(carol)
    refused = carol.send("POST", f"/v2/{PRIVATE}/blobs/uploads/").expect(401)
    assert 'error="invalid_token"' in refused.header("WWW-Authenticate")


def test_location_is_no_credential(gateway: GatewayProcess) -> None:
    """Whoever learns an upload's address can't continue it without a credential."""
    location = gateway.wire(gateway.wire(CAROL).token(SCOPE)).start_upload(PRIVATE)
    gateway.wire().append(location, LAYER.content).expect(401)


def test_only_the_token_that_may_push_goes_on(gateway: GatewayProcess) -> None:
    """A reporter's token does not continue a developer's upload."""
    location = gateway.wire(gateway.wire(CAROL).token(SCOPE)).start_upload(PRIVATE)
    gateway.wire(gateway.wire(BOB).token(SCOPE)).append(location, LAYER.content).expect(403)


def test_another_subjects_expired_token_does_not_go_on(hasty: GatewayProcess) -> None:
    """An expired token continues only the uploads of its own subject."""
    dave = hasty.wire(hasty.wire(DAVE).token(SCOPE))
    location = hasty.wire(hasty.wire(CAROL).token(SCOPE)).start_upload(PRIVATE)
    expire(dave)
    dave.append(location, LAYER.content).expect(401)
