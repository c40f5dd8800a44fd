"""A deletion and what else happens meanwhile: pushes, refusals, ends of processes, maintenance (semantics 6)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, update

from gateway.core import deletion
from gateway.core.manifests import read
from gateway.core.schema import tasks
from gateway.errors import RegistryError
from gateway.oci import Digest, Tag
from gateway.plugins import Manifest, Task
from tests.contracts.oci import content
from tests.contracts.oci.content import artifact, image, index
from tests.fakes.proxy import ForwardProxy
from tests.images.conftest import ALICE, APP, BY, Rig, rig
from tests.support.distribution import distribution
from tests.support.images import Blob
from tests.support.images import image as small_image
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

MANY, THERE = 60, 20
"""Images of a repository that goes: here some dozen go at once, another registry deletes one after the other."""


@dataclass(frozen=True)
class Planned:
    """What a plan says of a tag."""

    digest: str


async def _put(rig: Rig, manifest: content.Manifest, *tags: str) -> None:
    """Put a manifest whose blobs and children are there."""
    _, details = read(manifest.content, manifest.media_type)
    size = len(manifest.content)
    stored = Manifest(Digest(manifest.digest), manifest.media_type, size, manifest.content, details)
    references = [Tag(tag) for tag in tags]
    await (await rig.store()).put_manifest(APP, references or [stored.digest], stored, ALICE)


async def _ordered(rig: Rig) -> Task:
    record = await rig.parts.images.named(APP)
    assert record is not None
    assert await rig.parts.images.delete_repository(record.id, BY)
    return await _claimed(rig)


async def _claimed(rig: Rig) -> Task:
    claimed = await rig.parts.tasks._claimed()
    assert claimed is not None
    return claimed[0]


async def _do(rig: Rig, task: Task) -> None:
    await rig.parts.tasks._handlers[task.kind].do(task)


async def _begun(rig: Rig, *also: content.Manifest) -> tuple[asyncio.Task[None], list[content.Manifest]]:
    """Begin to delete a repository of many images, and give these when the first are gone."""
    images = [image() for _ in range(THERE if rig.parts.plugins.upstreams() else MANY)]
    for one in (*images, *also):
        await rig.push(one)
    doing = asyncio.create_task(_do(rig, await _ordered(rig)))
    while not rig.deleted:
        assert not doing.done()
        await asyncio.sleep(0)
    return doing, images


async def test_what_is_pushed_again_while_its_repository_goes_stays(images: Rig) -> None:
    """An image that is pushed again, or tagged, or put into an index while the deletion runs is whole afterwards."""
    doing, doomed = await _begun(images)
    gone = {line["digest"] for line in images.deleted}
    again, tagged, child = [one for one in doomed if one.digest not in gone][:3]
    await images.push(again)
    await images.push(tagged, "again")
    parent = index([child])
    await images.push(parent, "parent")
    await doing
    for one in (again, tagged, child, parent):
        assert await images.has(one.digest)
    assert await images.tags() == ["again", "parent"]
    kept = {one.digest for one in (again, tagged, child, parent)}
    assert not [one for one in doomed if one.digest not in kept and await images.has(one.digest)]


async def test_signatures_of_what_was_pushed_again_stay(images: Rig) -> None:
    """Who pushes an image again after the order keeps its signatures and its bill of materials."""
    subject = image()
    sbom = artifact(subject=subject.descriptor())
    companion = f"sha256-{subject.digest.partition(':')[2]}.sig"
    await images.push(subject, "v1")
    await images.push(sbom)
    await images.push(artifact(), companion)
    task = await _ordered(images)
    await _put(images, subject, "v2")
    await _do(images, task)
    assert {companion, "v2"} <= set(await images.tags())
    assert await images.has(sbom.digest)


async def test_a_repository_s_deletion_waits_for_maintenance(images: Rig) -> None:
    """What was ordered is not done while the registry is read-only, and goes on afterwards."""
    digest = await images.push(image(), "v1")
    task = await _ordered(images)
    await images.parts.maintenance.switch({"mode": "read_only"})
    with pytest.raises(RegistryError) as caught:
        await _do(images, task)
    assert caught.value.status == 503
    assert await images.has(digest)
    await images.parts.maintenance.switch({"mode": None})
    await _do(images, task)
    assert not await images.has(digest)


async def test_no_index_gets_a_hole(local: Rig) -> None:
    """Of an index that is put while its child is deleted, one is refused."""
    for _ in range(20):
        child = image()
        await local.push(child)
        parent = index([child])

        async def put(parent: content.Manifest = parent) -> bool:
            try:
                await _put(local, parent)
            except LookupError:
                return False
            return True

        async def remove(child: content.Manifest = child) -> bool:
            try:
                return await local.parts.images.deletion.remove(APP, Digest(child.digest), BY)
            except RegistryError:
                return False

        stored, gone = await asyncio.gather(put(), remove())
        assert (stored, gone) in {(True, False), (False, True)}
        assert await local.has(child.digest) is stored


async def test_a_companion_that_moved_since_the_plan_stays(images: Rig) -> None:
    """A signature that was appended to after the plan is left alone."""
    subject, planned = image(), artifact()
    companion = f"sha256-{subject.digest.partition(':')[2]}.sig"
    await images.push(subject, "v1")
    await images.push(planned, companion)
    within = {"v1": Planned(subject.digest), companion: Planned(planned.digest)}
    await images.push(artifact(), companion)
    deleted = images.parts.images.deletion
    assert await deleted.tag(APP, Tag("v1"), BY, Digest(subject.digest), within=within)
    assert await images.tags() == [companion]


async def test_more_than_goes_at_once(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to a manifest and is too much for one transaction goes right after it."""
    monkeypatch.setattr(deletion, "_AT_ONCE", 5)
    subject = image()
    await local.push(subject, "v1")
    referrers = [artifact(subject=subject.descriptor()) for _ in range(12)]
    about = artifact(subject=referrers[-1].descriptor())
    for one in (*referrers, about):
        await local.push(one)
    assert await local.parts.images.deletion.remove(APP, Digest(subject.digest), BY)
    while claimed := await local.parts.tasks._claimed():
        await _do(local, claimed[0])
        await local.parts.tasks.tick_off(claimed[0].id)
    assert not [one for one in (*referrers, about) if await local.has(one.digest)]
    assert len(local.deleted) == 14


# -- over another registry ---------------------------------------------------------------------------


async def test_maintenance_ends_a_repository_s_deletion(tmp_path: Path) -> None:
    """A deletion that runs stops where the registry becomes read-only."""
    with distribution(tmp_path) as registry:
        async with rig(tmp_path / "gateway", backend={"use": "backend_distribution", "url": registry.url}) as images:
            doing, doomed = await _begun(images)
            await images.parts.maintenance.switch({"mode": "read_only"})
            with pytest.raises(RegistryError) as caught:
                await doing
            assert caught.value.status == 503
            assert [one for one in doomed if await images.has(one.digest)]


async def test_what_belongs_goes_later_where_the_registry_fails(tmp_path: Path) -> None:
    """A registry that fails behind the subject's deletion loses nothing: the signature goes once it can."""
    with ForwardProxy() as proxy, distribution(tmp_path) as registry:
        backend = {"use": "backend_distribution", "url": registry.url, "proxy": proxy.url, "exclusive": True}
        async with rig(tmp_path / "gateway", backend=backend) as images:
            subject = image()
            companion = f"sha256-{subject.digest.partition(':')[2]}.sig"
            sbom = artifact(subject=subject.descriptor())
            await images.push(subject, "v1")
            await images.push(artifact(), companion)
            await images.push(sbom)
            proxy.last = "DELETE "
            assert await images.parts.images.deletion.remove(APP, Digest(subject.digest), BY)
            proxy.last = None
            assert await images.has(sbom.digest)
            async with images.parts.database.write() as writer:
                await writer.run(update(tasks).values(due_at=0))
            await _do(images, await _claimed(images))
            assert await images.tags() == []
            assert not await images.has(sbom.digest)
            assert {line["digest"] for line in images.deleted} >= {subject.digest, sbom.digest}


async def test_a_tag_that_is_half_deleted_goes_later(tmp_path: Path) -> None:
    """A registry that fails between the two steps of a tag's deletion is asked for the second, and nothing is left."""
    with ForwardProxy() as proxy, distribution(tmp_path) as registry:
        backend = {"use": "backend_distribution", "url": registry.url, "proxy": proxy.url, "exclusive": True}
        async with rig(tmp_path / "gateway", backend=backend) as images:
            subject = image()
            companion = f"sha256-{subject.digest.partition(':')[2]}.sig"
            await images.push(subject, "v1")
            await images.push(artifact(), companion)
            await images.push(image(), "v2")
            proxy.last = f"PUT {registry.url}/v2/{APP}/manifests/v1"
            with pytest.raises(RegistryError) as caught:
                await images.parts.images.delete_tag(APP, Tag("v1"), BY)
            assert caught.value.status >= 500
            proxy.last = None
            async with images.parts.database.write() as writer:
                await writer.run(update(tasks).values(due_at=0))
            await _do(images, await _claimed(images))
            assert await images.tags() == ["v2"]
            there = Wire(registry.url).get(f"/v2/{APP}/tags/list").expect(200).json()
            assert there["tags"] == ["v2"]
            assert [line["tags"] for line in images.deleted] == [["v1"], [companion]]


async def test_a_refused_deletion_takes_no_record(tmp_path: Path) -> None:
    """A registry that deletes nothing leaves all that is known: who pushed when, and what refers to what."""
    with distribution(tmp_path, delete=False) as registry:
        backend = {"use": "backend_distribution", "url": registry.url, "exclusive": True}
        async with rig(tmp_path / "gateway", backend=backend) as images:
            subject = image()
            sbom = artifact(subject=subject.descriptor())
            await images.push(subject, "v1")
            await images.push(sbom)
            before = await images.parts.images.tag(ALICE, APP, Tag("v1"))
            for reference in (Digest(subject.digest), Digest(sbom.digest), Tag("v1")):
                with pytest.raises(RegistryError) as caught:
                    await images.parts.images.deletion.remove(APP, reference, BY)
                assert caught.value.status == 405
            assert await images.parts.images.tag(ALICE, APP, Tag("v1")) == before
            store = await images.store()
            listed = await store.referrers(APP, Digest(subject.digest), None, "", 10)
            assert [one.digest for one in listed] == [sbom.digest]
            async with images.parts.database.write() as writer:
                assert not await writer.rows(select(tasks.c.id))


async def test_a_child_of_an_index_that_nobody_recorded(tmp_path: Path) -> None:
    """In a registry that was there before, an index gets no hole either."""
    with distribution(tmp_path) as registry:
        there = Wire(registry.url)
        child = small_image(b"a child")
        there.push_image(APP, "child", child)
        parent = Blob(
            content.OCI_INDEX,
            json.dumps(
                {"schemaVersion": 2, "mediaType": content.OCI_INDEX, "manifests": [child.manifest.descriptor]}
            ).encode(),
        )
        there.put_manifest(APP, "whole", parent).expect(201)
        async with rig(tmp_path / "gateway", backend={"use": "backend_distribution", "url": registry.url}) as images:
            with pytest.raises(RegistryError) as caught:
                await images.parts.images.deletion.remove(APP, Digest(child.manifest.digest), BY)
            assert caught.value.status == 409
            assert await images.has(child.manifest.digest)
