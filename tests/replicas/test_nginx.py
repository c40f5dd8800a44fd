"""nginx before two gateways, configured as `deploy/nginx.conf` has it."""

from __future__ import annotations

import os
from contextlib import suppress
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING

from tests.support import images
from tests.support.images import Blob
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, PRIVATE
from tests.support.traffic import Question, Traffic
from tests.support.wire import SERVICE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.replicas.conftest import Front
    from tests.support.containers import Containers
    from tests.support.wire import Answer


def test_push_and_pull_through_nginx(front: Front, containers: Containers, tmp_path: Path) -> None:
    """An image goes through nginx to whichever gateway, and comes back byte for byte from both."""
    image = images.image(images.noise(3_000_000))
    target = f"docker://{front.host}/{PRIVATE}:nginx"
    trust = front.trusted(tmp_path)
    containers.login(front.host, CAROL, certificates=trust)
    containers.skopeo("copy", "--dest-cert-dir", trust, images.layout(tmp_path / "layout", "1", image), target)
    containers.skopeo("copy", "--src-cert-dir", trust, target, f"oci:{tmp_path / 'pulled'}:1")
    for blob in image.blobs:
        pulled = tmp_path / "pulled/blobs/sha256" / blob.digest.removeprefix("sha256:")
        assert pulled.read_bytes() == blob.content
    challenge = front.wire().get("/v2/").expect(401).header("WWW-Authenticate")
    assert challenge == f'Bearer realm="https://{front.host}/jwt/auth",service="{SERVICE}"'


def test_no_gateway_at_all(front: Front) -> None:
    """While both are away clients get the specification's form of an error, and when to come again."""
    for gateway in front.behind.both:
        gateway.kill()

    def asked() -> Answer | None:
        # What nginx sends over a connection that a gateway just left is cut, as it would be without nginx.
        with suppress(RemoteDisconnected):
            return front.wire(BOB).get("/v2/")
        return None

    answer = eventually(asked, "nginx answers").expect(503)
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Retry-After") == "5"
    assert [error["code"] for error in answer.json()["errors"]] == ["UNAVAILABLE"]


def test_rolling_restart(front: Front) -> None:
    """While the gateways are restarted one after the other, every request of every client is answered as ever."""
    image = images.image(b"rolling")
    carol, bob = front.wire(CAROL), front.wire(BOB)
    carol.push_image(PRIVATE, "rolling", image)

    def push(_: int) -> bool:
        blob = Blob(images.LAYER, os.urandom(200_000))
        carol.push_blob(PRIVATE, blob)
        return bob.get(f"/v2/{PRIVATE}/blobs/{blob.digest}").expect(200).body == blob.content

    pull = Question("pull", lambda _: bob.manifest(PRIVATE, "rolling").body, image.manifest.content)
    with Traffic([pull, Question("push", push, right=True)], clients=2) as traffic:
        for gateway in front.behind.both:
            traffic.more(8)
            gateway.restart()
            before = gateway.answered
            eventually(lambda: gateway.answered > before, "nginx asks it again")  # noqa: B023 - waited for here
    assert traffic.wrong == []
