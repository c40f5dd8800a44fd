"""Blobs that somebody deletes: none that a manifest of the repository refers to, and each is a line of the log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.people import BOB, CAROL, DAVE, PRIVATE

if TYPE_CHECKING:
    from tests.support.gateway import GatewayProcess


def _deleted(gateway: GatewayProcess, digest: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gateway.log.splitlines() if digest in line]
    return [line for line in lines if line["event"] == "deleted"]


@pytest.mark.parametrize("part", ["config", "layer"])
def test_a_blob_that_is_needed_is_not_deleted(gateway: GatewayProcess, part: str) -> None:
    """While a manifest of the repository refers to it a blob can't be deleted: 405, and why (specification, end-10)."""
    name, image = f"{PRIVATE}/needed-{part}", images.image(part.encode())
    gateway.wire(CAROL).push_image(name, "1", image)
    blob = image.config if part == "config" else image.layers[0]
    refused = gateway.wire(DAVE).send("DELETE", f"/v2/{name}/blobs/{blob.digest}").expect(405)
    assert refused.header("Allow") == "GET, HEAD"
    (error,) = refused.json()["errors"]
    assert (error["code"], error["message"]) == (
        "UNSUPPORTED",
        "a manifest of the repository refers to the blob: delete that first",
    )
    assert gateway.wire(BOB).get(f"/v2/{name}/blobs/{blob.digest}").expect(200).body == blob.content
    assert _deleted(gateway, blob.digest) == []


def test_a_deleted_blob_is_logged(gateway: GatewayProcess) -> None:
    """After its manifest a blob can be deleted, and the log says who did it, what it was, and how."""
    name, image = f"{PRIVATE}/logged", images.image(b"logged")
    gateway.wire(CAROL).push_image(name, "1", image)
    dave, blob = gateway.wire(DAVE), image.layers[0]
    dave.send("DELETE", f"/v2/{name}/manifests/{image.manifest.digest}").expect(202)
    answer = dave.send("DELETE", f"/v2/{name}/blobs/{blob.digest}").expect(202)
    gateway.wire(BOB).get(f"/v2/{name}/blobs/{blob.digest}").expect(404)
    (line,) = _deleted(gateway, blob.digest)
    said = ("repository", "what", "tags", "digest", "how", "subject", "client", "request_id")
    assert {key: line[key] for key in said} == {
        "repository": name,
        "what": "blob",
        "tags": [],
        "digest": blob.digest,
        "how": "registry",
        "subject": "dave",
        "client": "127.0.0.1",
        "request_id": answer.header("X-Request-Id"),
    }
