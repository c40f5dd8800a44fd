"""Whatever is done through one replica is done at the other too, at once."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from tests.replicas.conftest import inside
from tests.support import images
from tests.support.people import ALICE_API, BOB, CAROL, DAVE, PRIVATE, ROOT

if TYPE_CHECKING:
    from tests.replicas.conftest import Replicas

CHUNK = 100_000
CONTENT = images.noise(7 * CHUNK)
TURNS = 8


def test_upload_wanders(replicas: Replicas) -> None:
    """An upload whose requests alternate between the replicas is whole, and both say the truth about it all along."""
    both = replicas.wires(CAROL)
    turns = cycle(both)
    location = inside(next(turns).start_upload(PRIVATE))
    for start in range(0, len(CONTENT), CHUNK):
        chunk = CONTENT[start : start + CHUNK]
        location = inside(next(turns).append(location, chunk, start=start).expect(202).location)
        for wire in both:
            assert wire.get(location).expect(204).header("Range") == f"0-{start + CHUNK - 1}"
    digest = images.sha256(CONTENT)
    next(turns).close_upload(location, digest).expect(201)
    for wire in replicas.wires(BOB):
        assert wire.get(f"/v2/{PRIVATE}/blobs/{digest}").expect(200).body == CONTENT


def test_old_location_goes_on(replicas: Replicas) -> None:
    """A chunk for the Location before the last one is taken by the other replica, if it begins at the right byte."""
    first, second = replicas.wires(CAROL)
    location = inside(first.start_upload(PRIVATE))
    first.append(location, CONTENT[:CHUNK]).expect(202)
    assert second.append(location, CONTENT[:CHUNK]).expect(416).header("Range") == f"0-{CHUNK - 1}"
    second.append(location, CONTENT[CHUNK:], start=CHUNK).expect(202)
    digest = images.sha256(CONTENT)
    first.close_upload(location, digest).expect(201)
    # A client that lost the answer asks again, and nobody says that it asks the same replica.
    second.close_upload(location, digest).expect(201)


def test_moved_tag(replicas: Replicas) -> None:
    """A tag that is moved, back and forth, is seen in its new place at once by the other replica."""
    one, other = images.image(b"one"), images.image(b"other")
    for image in (one, other):
        replicas.first.wire(CAROL).push_image(PRIVATE, "moving", image)
    writers, readers = cycle(replicas.wires(CAROL)), cycle(reversed(replicas.wires(BOB)))
    for image in [one, other] * TURNS:
        next(writers).put_manifest(PRIVATE, "moving", image.manifest).expect(201)
        answer = next(readers).manifest(PRIVATE, "moving").expect(200)
        assert answer.body == image.manifest.content
        assert answer.header("Docker-Content-Digest") == image.manifest.digest


def test_deleted_tag(replicas: Replicas) -> None:
    """A tag that is deleted is gone at once at the other replica, and there again once it is pushed again."""
    image = images.image(b"tagged")
    replicas.first.wire(CAROL).push_image(PRIVATE, "kept", image)
    writers, readers = cycle(replicas.wires(DAVE)), cycle(reversed(replicas.wires(BOB)))
    for _ in range(TURNS):
        writer, reader = next(writers), next(readers)
        writer.put_manifest(PRIVATE, "going", image.manifest).expect(201)
        assert reader.manifest(PRIVATE, "going").expect(200).body == image.manifest.content
        writer.send("DELETE", f"/v2/{PRIVATE}/manifests/going").expect(202)
        reader.manifest(PRIVATE, "going").expect(404)
        reader.manifest(PRIVATE, "kept").expect(200)
        assert "going" not in reader.get(f"/v2/{PRIVATE}/tags/list").expect(200).json()["tags"]


def test_deleted_manifest(replicas: Replicas) -> None:
    """A manifest that is deleted is gone at once at the other replica, by its digest and by each of its tags."""
    image = images.image(b"short-lived")
    replicas.first.wire(CAROL).push_image(PRIVATE, "before", image)
    writers, readers = cycle(replicas.wires(DAVE)), cycle(reversed(replicas.wires(BOB)))
    references = ("short", "lived", image.manifest.digest)
    for _ in range(TURNS):
        writer, reader = next(writers), next(readers)
        for reference in references:
            writer.put_manifest(PRIVATE, reference, image.manifest).expect(201)
            reader.manifest(PRIVATE, reference).expect(200)
        writer.send("DELETE", f"/v2/{PRIVATE}/manifests/{image.manifest.digest}").expect(202)
        for reference in references:
            reader.manifest(PRIVATE, reference).expect(404)


def test_token(replicas: Replicas) -> None:
    """A token of one replica opens the other, and their keys are the same."""
    image = images.image(b"under a token")
    replicas.first.wire(CAROL).push_image(PRIVATE, "token", image)
    both = replicas.wires(BOB)
    for issuer, server in (both, both[::-1]):
        under_token = server.acting_as(issuer.token(f"repository:{PRIVATE}:pull"))
        assert under_token.manifest(PRIVATE, "token").expect(200).body == image.manifest.content
    assert both[0].get("/jwt/keys").expect(200).json() == both[1].get("/jwt/keys").expect(200).json()


def test_catalog(replicas: Replicas) -> None:
    """Both replicas list the same repositories, as soon as the first image of one is pushed, and page alike."""
    image = images.image(b"listed")
    first, second = replicas.wires(ROOT)
    for number, writer in enumerate(replicas.wires(ALICE_API) * 3):
        writer.push_image(f"acme/open/n{number}", "1", image)
        listed = [reader.get("/v2/_catalog").expect(200).json()["repositories"] for reader in (first, second)]
        assert listed[0] == listed[1]
        assert f"acme/open/n{number}" in listed[0]
    pages = [reader.get("/v2/_catalog?n=2&last=acme/open/n1").expect(200) for reader in (first, second)]
    assert [page.json()["repositories"] for page in pages] == [["acme/open/n2", "acme/open/n3"]] * 2
    assert pages[0].header("Link") == pages[1].header("Link")


def test_mount(replicas: Replicas) -> None:
    """A blob that was pushed through one replica is mounted elsewhere through the other."""
    blob = images.image(b"mounted").layers[0]
    first, second = replicas.wires(ALICE_API)
    first.push_blob(PRIVATE, blob)
    second.send("POST", f"/v2/acme/open/blobs/uploads/?mount={blob.digest}&from={PRIVATE}").expect(201)
    assert first.get(f"/v2/acme/open/blobs/{blob.digest}").expect(200).body == blob.content
