"""The database that the replicas share is gone for a while: what needs it is refused for now, the rest goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.replicas.conftest import inside
from tests.support import images
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, PRIVATE

if TYPE_CHECKING:
    from tests.replicas.conftest import Replicas
    from tests.support.wire import Answer, Wire

IMAGE = images.image(b"the database is down")
LAYER = IMAGE.layers[0]
CONTENT = images.noise(300_000)
HALF = len(CONTENT) // 2


def refused(answer: Answer) -> None:
    """Hold an answer to the refusal of what can't be done now."""
    assert [error["code"] for error in answer.expect(503).json()["errors"]] == ["UNAVAILABLE"]
    assert int(answer.header("Retry-After")) > 0


def under_token(replicas: Replicas) -> tuple[Wire, Wire]:
    """Push the image, and talk to each replica under a token for pulls."""
    replicas.first.wire(CAROL).push_image(PRIVATE, "down", IMAGE)
    token = replicas.second.wire(BOB).token(f"repository:{PRIVATE}:pull")
    return replicas.wires(token)


@pytest.mark.parametrize("known", [True, False], ids=["pulled before", "never pulled"])
def test_pulls_go_on(replicas: Replicas, *, known: bool) -> None:
    """Under a token that was issued before, an image is pulled by tag and by digest from both replicas."""
    both = under_token(replicas)
    for wire in both if known else ():
        wire.manifest(PRIVATE, "down").expect(200)
    replicas.database.stop()
    for wire in both:
        assert wire.manifest(PRIVATE, "down").expect(200).body == IMAGE.manifest.content
        assert wire.manifest(PRIVATE, IMAGE.manifest.digest).expect(200).body == IMAGE.manifest.content
        assert wire.get(f"/v2/{PRIVATE}/blobs/{LAYER.digest}").expect(200).body == LAYER.content


def test_rest_is_refused_for_now(replicas: Replicas) -> None:
    """What can't be known or written is 503 in the specification's form and never a 404, and readiness says why."""
    readers = under_token(replicas)
    writers = replicas.wires(replicas.first.wire(CAROL).token(f"repository:{PRIVATE}:pull,push"))
    replicas.database.stop()
    for reader, writer in zip(readers, writers, strict=True):
        refused(reader.manifest(PRIVATE, "no-such-tag"))
        refused(writer.send("POST", f"/v2/{PRIVATE}/blobs/uploads/"))
        refused(writer.put_manifest(PRIVATE, "down", IMAGE.manifest))
    for gateway in replicas.both:
        assert not gateway.ready()


def test_all_is_well_afterwards(replicas: Replicas) -> None:
    """Once the database is back both replicas are ready by themselves, and an upload goes on where it was."""
    first, second = replicas.wires(CAROL)
    location = inside(first.append(inside(first.start_upload(PRIVATE)), CONTENT[:HALF]).expect(202).location)
    replicas.database.stop()
    refused(second.append(location, CONTENT[HALF:], start=HALF))
    replicas.database.start()
    for gateway in replicas.both:
        eventually(gateway.ready, "the gateway is ready again")
    location = inside(second.append(location, CONTENT[HALF:], start=HALF).expect(202).location)
    first.close_upload(location, images.sha256(CONTENT)).expect(201)
    for writer, reader in ((first, second), (second, first)):
        writer.push_image(PRIVATE, "after", IMAGE)
        reader.manifest(PRIVATE, "after").expect(200)
        reader.manifest(PRIVATE, "no-such-tag").expect(404)
