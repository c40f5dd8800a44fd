"""Content management: deleting tags, manifests and blobs (spec: content management)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .base import Contract
from .client import SHA512, TAG_DELETION, blob_at, manifest_at, uploads_of
from .content import KINDS, Manifest, artifact, image, platforms, random_blob, random_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Client, Registry

EVERY_KIND = [pytest.param(build, id=kind) for kind, build in KINDS.items()]


class ManagementContract(Contract):
    """What a client that deletes may rely on."""

    # -- tags -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("build", [image, artifact, platforms, KINDS["docker-manifest-list"]])
    async def test_delete_tag(
        self, client: Client, registry: Registry, repo: str, build: Callable[[], Manifest]
    ) -> None:
        """A deleted tag is gone at once, and its manifest is still there by digest (end-9)."""
        registry.require(TAG_DELETION)
        manifest = build()
        await client.push(repo, manifest, "v1")
        assert (await client.send("DELETE", manifest_at(repo, "v1"))).status == 202
        for method in ("GET", "HEAD"):
            assert (await client.look(method, repo, "v1")).status == 404
        assert (await client.look("GET", repo, manifest.digest)).body == manifest.content
        assert await client.tags(repo) == []

    async def test_delete_tag_leaves_siblings(self, client: Client, registry: Registry, repo: str) -> None:
        """Deleting a tag leaves every other tag, of the same manifest and of others (end-9)."""
        registry.require(TAG_DELETION)
        manifest, other = image(), image()
        await client.push(repo, manifest, "a", "b", "c")
        await client.push(repo, other, "d")
        assert (await client.send("DELETE", manifest_at(repo, "b"))).status == 202
        assert sorted(await client.tags(repo)) == ["a", "c", "d"]
        for tag, kept in {"a": manifest, "c": manifest, "d": other}.items():
            assert (await client.look("GET", repo, tag)).body == kept.content

    async def test_delete_missing_tag(self, client: Client, registry: Registry, repo: str) -> None:
        """Deleting a tag that is not there is 404 (end-9)."""
        registry.require(TAG_DELETION)
        await client.push(repo, image(), "v1")
        reply = await client.send("DELETE", manifest_at(repo, "v2"))
        client.refused(reply, 404, codes=["MANIFEST_UNKNOWN"])

    async def test_delete_tag_twice(self, client: Client, registry: Registry, repo: str) -> None:
        """A tag can be deleted once; after that it is missing (end-9)."""
        registry.require(TAG_DELETION)
        await client.push(repo, image(), "v1")
        statuses = [(await client.send("DELETE", manifest_at(repo, "v1"))).status for _ in range(2)]
        assert statuses == [202, 404]

    async def test_deleted_tag_can_be_pushed_again(self, client: Client, registry: Registry, repo: str) -> None:
        """A deleted tag can be given to another manifest (end-7a, end-9)."""
        registry.require(TAG_DELETION)
        await client.push(repo, image(), "v1")
        assert (await client.send("DELETE", manifest_at(repo, "v1"))).status == 202
        manifest = image()
        await client.push(repo, manifest, "v1")
        assert (await client.look("GET", repo, "v1")).body == manifest.content

    # -- manifests ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("build", EVERY_KIND)
    async def test_delete_manifest(self, client: Client, repo: str, build: Callable[[], Manifest]) -> None:
        """A whole object can be deleted from the top down, each part gone at once (end-9, end-10)."""
        manifest = build()
        await client.push(repo, manifest, "v1")
        for member in dict.fromkeys(reversed(manifest.family)):
            assert (await client.send("DELETE", manifest_at(repo, member.digest))).status == 202
            for method in ("GET", "HEAD"):
                assert (await client.look(method, repo, member.digest)).status == 404
        blobs = {blob.digest for member in manifest.family for blob in member.blobs}
        for digest in blobs:
            assert (await client.send("DELETE", blob_at(repo, digest))).status == 202
            assert (await client.send("HEAD", blob_at(repo, digest))).status == 404

    async def test_delete_digest_takes_its_tags(self, client: Client, repo: str) -> None:
        """Deleting a manifest takes every tag that points to it, and no other (end-9)."""
        manifest, other = image(), image()
        await client.push(repo, manifest, "a", "b", "c")
        await client.push(repo, other, "d", "e")
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        for tag in ("a", "b", "c"):
            assert (await client.look("GET", repo, tag)).status == 404
        assert sorted(await client.tags(repo)) == ["d", "e"]
        assert (await client.look("GET", repo, "e")).body == other.content

    async def test_delete_index_leaves_its_children(self, client: Client, repo: str) -> None:
        """Deleting an index leaves the manifests that it lists (end-9)."""
        manifest = platforms()
        await client.push(repo, manifest, "v1")
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        for child in manifest.children:
            assert (await client.look("GET", repo, child.digest)).body == child.content

    async def test_delete_sha512_manifest(self, client: Client, registry: Registry, repo: str) -> None:
        """A manifest that was pushed by sha512 is deleted by sha512 (end-9)."""
        registry.require(SHA512)
        manifest = image(algorithm="sha512")
        await client.push(repo, manifest)
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        assert (await client.look("GET", repo, manifest.digest)).status == 404
        for blob in manifest.blobs:
            assert (await client.send("DELETE", blob_at(repo, blob.digest))).status == 202
            assert (await client.get_blob(repo, blob.digest)).status == 404

    @pytest.mark.parametrize("used", [True, False], ids=["repository", "no-repository"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_delete_missing_manifest(self, client: Client, repo: str, algorithm: str, *, used: bool) -> None:
        """Deleting a manifest that is not there, in a repository or without one, is 404 (end-9)."""
        if used:
            await client.push(repo, image(), "v1")
        reply = await client.send("DELETE", manifest_at(repo, random_digest(algorithm)))
        client.refused(reply, 404, codes=["MANIFEST_UNKNOWN", "NAME_UNKNOWN"])

    async def test_delete_manifest_twice(self, client: Client, repo: str) -> None:
        """A manifest can be deleted once; after that it is missing (end-9)."""
        manifest = image()
        await client.push(repo, manifest)
        target = manifest_at(repo, manifest.digest)
        assert [(await client.send("DELETE", target)).status for _ in range(2)] == [202, 404]

    async def test_deleted_manifest_can_be_pushed_again(self, client: Client, repo: str) -> None:
        """The bytes of a deleted manifest can be pushed and pulled again (end-7, end-9)."""
        manifest = image()
        await client.push(repo, manifest, "v1")
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        await client.push(repo, manifest, "v2")
        assert (await client.look("GET", repo, "v2")).body == manifest.content
        assert sorted(await client.tags(repo)) == ["v2"]

    async def test_deletion_stays_in_its_repository(self, client: Client, repo: str, other_repo: str) -> None:
        """Deleting a manifest in one repository leaves the same manifest in another (end-9)."""
        manifest = image()
        await client.push(repo, manifest, "v1")
        await client.push(other_repo, manifest, "v1")
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        assert (await client.look("GET", other_repo, "v1")).body == manifest.content
        assert (await client.get_blob(other_repo, manifest.blobs[0].digest)).body == manifest.blobs[0].content

    # -- blobs ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_delete_blob(self, client: Client, repo: str, method: str) -> None:
        """A deleted blob is gone at once, and the others stay (end-10)."""
        blob, other = random_blob(), random_blob()
        await client.push_blob(repo, blob)
        await client.push_blob(repo, other)
        assert (await client.send("DELETE", blob_at(repo, blob.digest))).status == 202
        assert (await client.send(method, blob_at(repo, blob.digest))).status == 404
        assert (await client.get_blob(repo, other.digest)).body == other.content

    @pytest.mark.parametrize("used", [True, False], ids=["repository", "no-repository"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_delete_missing_blob(self, client: Client, repo: str, algorithm: str, *, used: bool) -> None:
        """Deleting a blob that is not there, in a repository or without one, is 404 (end-10)."""
        if used:
            await client.push_blob(repo, random_blob())
        reply = await client.send("DELETE", blob_at(repo, random_digest(algorithm)))
        client.refused(reply, 404, codes=["BLOB_UNKNOWN", "NAME_UNKNOWN"])

    async def test_delete_blob_twice(self, client: Client, repo: str) -> None:
        """A blob can be deleted once; after that it is missing (end-10)."""
        blob = random_blob()
        await client.push_blob(repo, blob)
        assert [(await client.send("DELETE", blob_at(repo, blob.digest))).status for _ in range(2)] == [202, 404]

    async def test_deleted_blob_can_be_pushed_again(self, client: Client, repo: str) -> None:
        """The bytes of a deleted blob can be pushed and pulled again (end-6, end-10)."""
        blob = random_blob()
        await client.push_blob(repo, blob)
        assert (await client.send("DELETE", blob_at(repo, blob.digest))).status == 202
        await client.push_blob(repo, blob)
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    async def test_delete_blob_in_use(self, client: Client, repo: str) -> None:
        """Deleting a blob that a manifest refers to is done or declined (end-10: 202, 404 or 405)."""
        manifest = image()
        await client.push(repo, manifest, "v1")
        reply = await client.send("DELETE", blob_at(repo, manifest.blobs[0].digest))
        assert reply.status in (202, 404, 405)
        assert (await client.look("GET", repo, "v1")).status == 200

    async def test_deleted_source_leaves_the_mounted_blob(self, client: Client, repo: str, other_repo: str) -> None:
        """A mounted blob outlives its deletion in the repository that it came from (end-10, end-11)."""
        blob = random_blob()
        await client.push_blob(other_repo, blob)
        await client.send("POST", uploads_of(repo, mount=blob.digest, **{"from": other_repo}))
        assert (await client.send("DELETE", blob_at(other_repo, blob.digest))).status == 202
        assert (await client.get_blob(repo, blob.digest)).body == blob.content
