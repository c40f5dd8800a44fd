"""Deleting harms nothing else, over every backend (semantics 6 and 16.28)."""

from __future__ import annotations

import pytest

from gateway.core.deletion import companions
from gateway.core.manifests import read
from gateway.errors import RegistryError
from gateway.oci import Digest, Tag
from gateway.plugins import Manifest, Task
from tests.contracts.oci.content import artifact, image, index
from tests.images.conftest import ALICE, APP, BY, Rig


async def test_sibling_tags_survive(images: Rig) -> None:
    """Of two tags on one image one can be deleted alone."""
    digest = await images.push(image(), "v1", "v2")
    assert await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.tags() == ["v2"]
    assert await images.has(digest)


async def test_a_tag_that_is_not_there(images: Rig) -> None:
    """Deleting what is not there says so, and harms nothing."""
    await images.push(image(), "v1")
    assert not await images.parts.images.delete_tag(APP, Tag("v2"), BY)
    assert await images.tags() == ["v1"]


async def test_a_digest_takes_its_tags_along(images: Rig) -> None:
    """Trap 28: deleting by digest takes every tag of that digest along, and no other."""
    digest = await images.push(image(), "v1", "v2")
    await images.push(image(), "v3")
    assert await images.parts.images.deletion.remove(APP, digest, BY)
    assert await images.tags() == ["v3"]
    assert not await images.has(digest)


async def test_the_log_says_who_what_and_how(images: Rig) -> None:
    """Each deletion is one line with the tag, the digest, the caller and the way."""
    digest = await images.push(image(), "v1", "v2")
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    await images.parts.images.deletion.remove(APP, digest, BY)
    first, second = images.deleted
    for line in (first, second):
        assert (line["repository"], line["digest"], line["how"], line["subject"]) == (APP, digest, "test", "alice")
        assert (line["client"], line["request_id"]) == ("192.0.2.1", "request-1")
    assert (first["what"], first["tags"]) == ("tag", ["v1"])
    assert (second["what"], second["tags"]) == ("manifest", ["v2"])


async def test_children_of_an_index_that_stays(images: Rig) -> None:
    """What a tagged index is made of stays, when its own tag goes."""
    child = image()
    await images.push(child, "amd64")
    await images.push(index([child, image()]), "v1")
    assert await images.parts.images.delete_tag(APP, Tag("amd64"), BY)
    assert await images.tags() == ["v1"]
    assert await images.has(child.digest)


async def test_a_child_of_an_index_can_t_be_deleted(images: Rig) -> None:
    """GitLab's registry answers 409 where an index would be left with a hole; without the index it can go."""
    child = image()
    whole = await images.push(index([child]), "v1")
    with pytest.raises(RegistryError) as caught:
        await images.parts.images.deletion.remove(APP, Digest(child.digest), BY)
    assert (caught.value.status, caught.value.code.name) == (409, "MANIFEST_REFERENCED_IN_LIST")
    assert await images.has(child.digest)
    assert await images.parts.images.deletion.remove(APP, whole, BY)
    assert await images.parts.images.deletion.remove(APP, Digest(child.digest), BY)


async def test_referrers_go_with_their_subject(images: Rig) -> None:
    """An SBOM, and the signature of that SBOM, go when their subject does."""
    subject = image()
    sbom = artifact(subject=subject.descriptor())
    signature = artifact(subject=sbom.descriptor())
    digest = await images.push(subject, "v1")
    for referrer in (sbom, signature):
        await images.push(referrer)
    assert await images.parts.images.deletion.remove(APP, digest, BY)
    assert not await images.has(sbom.digest)
    assert not await images.has(signature.digest)
    assert [line["digest"] for line in images.deleted] == [subject.digest, sbom.digest, signature.digest]
    assert images.deleted[1]["how"].startswith("test, with its subject")


async def test_referrers_stay_while_their_subject_does(images: Rig) -> None:
    """A tag that goes leaves the manifest, and so what refers to it."""
    subject = image()
    sbom = artifact(subject=subject.descriptor())
    await images.push(subject, "v1", "v2")
    await images.push(sbom)
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.has(sbom.digest)


@pytest.mark.parametrize("ending", ["", ".sig", ".att", ".sbom"], ids=["fallback", "sig", "att", "sbom"])
async def test_companion_tags_go_with_the_last_tag(images: Rig, ending: str) -> None:
    """A tag such as sha256-….sig stays while any tag leads to its subject, and goes with the last."""
    subject = image()
    await images.push(subject, "v1", "v2")
    companion = f"sha256-{subject.digest.partition(':')[2]}{ending}"
    await images.push(artifact(), companion)
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.tags() == [companion, "v2"]
    await images.parts.images.delete_tag(APP, Tag("v2"), BY)
    assert await images.tags() == []


async def test_a_signature_s_signature_goes_too(images: Rig) -> None:
    """What belongs to a companion goes with it."""
    subject, signature = image(), artifact()
    await images.push(subject, "v1")
    await images.push(signature, f"sha256-{subject.digest.partition(':')[2]}.sig")
    await images.push(artifact(), f"sha256-{signature.digest.partition(':')[2]}.sig")
    await images.parts.images.delete_tag(APP, Tag("v1"), BY)
    assert await images.tags() == []


async def test_companions_of_a_child_stay_with_the_index(images: Rig) -> None:
    """The signature of a child stays as long as an index that is tagged leads to the child."""
    child = image()
    await images.push(index([child]), "v1", "v2")
    await images.push(child, "amd64")
    companion = f"sha256-{child.digest.partition(':')[2]}.sig"
    await images.push(artifact(), companion)
    await images.parts.images.delete_tag(APP, Tag("amd64"), BY)
    assert await images.tags() == [companion, "v1", "v2"]


async def test_companions_go_with_a_digest(images: Rig) -> None:
    """A subject that is deleted by digest takes its companions' manifests along, fallback index included."""
    subject = image()
    signature, listed = artifact(), artifact(subject=subject.descriptor())
    digest = await images.push(subject, "v1")
    stem = f"sha256-{subject.digest.partition(':')[2]}"
    await images.push(signature, f"{stem}.sig")
    await images.push(index([listed]), stem)
    await images.parts.images.deletion.remove(APP, digest, BY)
    assert await images.tags() == []
    for gone in (subject, signature, listed):
        assert not await images.has(gone.digest)


async def _do(rig: Rig, task: Task) -> None:
    await rig.parts.tasks._handlers[task.kind].do(task)


async def _ordered(rig: Rig) -> Task:
    """Order the deletion of the repository, and give the promised task."""
    record = await rig.parts.images.named(APP)
    assert record is not None
    assert await rig.parts.images.delete_repository(record.id, BY)
    claimed = await rig.parts.tasks._claimed()
    assert claimed is not None
    return claimed[0]


async def test_a_whole_repository_goes(images: Rig) -> None:
    """A repository is scheduled first, and then goes with its tags, manifests and its record."""
    child = image()
    await images.push(index([child, image()]), "v1", "latest")
    await images.push(image(), "v2")
    await images.push(artifact(subject=child.descriptor()))
    task = await _ordered(images)
    record = await images.parts.images.named(APP)
    assert record is not None
    assert record.status == "delete_scheduled"
    await _do(images, task)
    assert await images.parts.images.named(APP) is None
    assert not await images.has(child.digest)
    assert {line["how"] for line in images.deleted} == {"test"}


async def test_a_number_is_never_another_s(images: Rig) -> None:
    """A client that still has the number of a repository that is gone finds nothing, and not the next repository."""
    await images.push(image(), "v1")
    task = await _ordered(images)
    await _do(images, task)
    await images.push(image(), "v1")
    again = await images.parts.images.named(APP)
    assert again is not None
    assert again.id > task.payload["number"]
    assert await images.parts.images.repository(ALICE, task.payload["number"]) is None


async def test_a_push_that_relies_on_an_old_blob_stays(local: Rig) -> None:
    """A manifest that is put after the order may refer to blobs that were there before: they stay linked."""
    manifest = image()
    await local.push(manifest, "v1")
    task = await _ordered(local)
    fresh = image(manifest.blobs[1:], manifest.blobs[0], annotations={"pushed": "again"})
    _, details = read(fresh.content, fresh.media_type)
    stored = Manifest(Digest(fresh.digest), fresh.media_type, len(fresh.content), fresh.content, details)
    await local.parts.metadata.put_manifest(APP, [Tag("v2")], stored, ALICE)
    await _do(local, task)
    assert await local.tags() == ["v2"]
    for blob in manifest.blobs:
        assert await local.parts.metadata.linked(APP, Digest(blob.digest)) == len(blob.content)


async def test_what_is_pushed_meanwhile_stays(images: Rig) -> None:
    """A push after the order is no part of it: it stays, whole, and so does the repository."""
    old = image()
    await images.push(old, "v1")
    task = await _ordered(images)
    fresh = index([image(), image()])
    await images.push(fresh, "v2")
    await _do(images, task)
    assert await images.tags() == ["v2"]
    for member in fresh.family:
        assert await images.has(member.digest)
    record = await images.parts.images.named(APP)
    assert record is not None
    assert record.status is None


async def test_a_deletion_is_ordered_once(images: Rig) -> None:
    """A second order while the first is waiting promises nothing more."""
    await images.push(image(), "v1")
    record = await images.parts.images.named(APP)
    assert record is not None
    assert await images.parts.images.delete_repository(record.id, BY)
    assert await images.parts.images.delete_repository(record.id, BY)
    assert await images.parts.tasks._claimed() is not None
    assert await images.parts.tasks._claimed() is None
    assert not await images.parts.images.delete_repository(record.id + 1000, BY)


async def test_a_deletion_that_fails_says_so(images: Rig) -> None:
    """A failure leaves the repository scheduled; the last one says delete_failed, and it can be ordered again."""
    await images.push(image(), "v1")
    task = await _ordered(images)
    failed = images.parts.tasks._handlers[task.kind].failed
    assert failed is not None
    for last, status in ((False, "delete_scheduled"), (True, "delete_failed")):
        await failed(task, last)
        record = await images.parts.images.named(APP)
        assert record is not None
        assert record.status == status
    assert await images.parts.images.delete_repository(task.payload["number"], BY)


async def test_nothing_is_deleted_while_the_registry_is_read_only(local: Rig) -> None:
    """Maintenance refuses every way to delete with 503, and promised work waits."""
    digest = await local.push(image(), "v1")
    task = await _ordered(local)
    await local.parts.maintenance.switch({"mode": "read_only"})
    for attempt in (
        local.parts.images.delete_tag(APP, Tag("v1"), BY),
        local.parts.images.deletion.remove(APP, digest, BY),
        local.parts.images.delete_repository(task.payload["number"], BY),
    ):
        with pytest.raises(RegistryError) as caught:
            await attempt
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
    await local.parts.tasks.add("delete repository", APP, {}, ALICE.subject)
    assert await local.parts.tasks._claimed() is None
    assert await local.tags() == ["v1"]


def test_which_tags_are_companions() -> None:
    """The specification's referrers tag schema and cosign's endings."""
    digest = Digest("sha256:" + "a" * 64)
    begins = "sha256-" + "a" * 64
    assert companions(digest) == [begins, f"{begins}.sig", f"{begins}.att", f"{begins}.sbom"]
