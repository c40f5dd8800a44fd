"""Content discovery: tags, the catalog and referrers (spec: content discovery)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from .base import Contract
from .client import (
    REFERRERS,
    SHA512,
    TAG_PAGING,
    Client,
    Registry,
    manifest_at,
    next_page,
    referrers_of,
    tags_of,
    with_query,
)
from .content import (
    OCI_IMAGE,
    OCI_INDEX,
    SBOM,
    SIGNATURE,
    Document,
    Manifest,
    artifact,
    empty,
    image,
    platforms,
    random_blob,
    random_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TAGS = ["1.0", "1.1", "2.0", "beta", "latest"]

# n, last, the tags of the page, and whether another page has to follow (end-8b).
PAGES = [
    pytest.param({"n": "2"}, TAGS[:2], True, id="first-two"),
    pytest.param({"n": "1"}, TAGS[:1], True, id="first"),
    pytest.param({"n": "5"}, TAGS, False, id="exactly-all"),
    pytest.param({"n": "6"}, TAGS, False, id="more-than-all"),
    pytest.param({"n": "1000000"}, TAGS, False, id="many-more-than-all"),
    pytest.param({"n": "0"}, [], False, id="none"),
    pytest.param({"n": "0", "last": "1.0"}, [], False, id="none-after-a-tag"),
    pytest.param({"last": "1.1"}, TAGS[2:], False, id="rest-after-a-tag"),
    pytest.param({"n": "2", "last": "1.0"}, TAGS[1:3], True, id="two-after-a-tag"),
    pytest.param({"n": "2", "last": "2.0"}, TAGS[3:], False, id="last-two"),
    pytest.param({"n": "2", "last": "1.05"}, TAGS[1:3], True, id="after-a-tag-that-is-not-there"),
    pytest.param({"n": "2", "last": "latest"}, [], False, id="after-the-last"),
    pytest.param({"n": "2", "last": "zzz"}, [], False, id="after-everything"),
    pytest.param({"n": "2", "last": "0"}, TAGS[:2], True, id="after-what-is-before-everything"),
]

# Every form of a referrer with the artifactType that its descriptor must have (end-12a).
REFERRER_KINDS = [
    pytest.param(artifact, SBOM, id="artifact-type"),
    pytest.param(lambda **fields: image([empty()], random_blob(media_type=SBOM), **fields), SBOM, id="config-type"),
    pytest.param(
        lambda **fields: image([empty()], random_blob(media_type=SBOM), artifactType=SIGNATURE, **fields),
        SIGNATURE,
        id="artifact-type-before-config-type",
    ),
    pytest.param(
        lambda **fields: image([empty()], random_blob(media_type=SBOM), artifactType="", **fields),
        SBOM,
        id="empty-artifact-type",
    ),
    pytest.param(lambda **fields: platforms(artifactType=SBOM, **fields), SBOM, id="index-with-artifact-type"),
    pytest.param(platforms, None, id="index-without-artifact-type"),
]


class DiscoveryContract(Contract):
    """What a client that lists may rely on."""

    # -- tags -----------------------------------------------------------------------------------------

    async def test_tags_of_nothing(self, client: Client, repo: str) -> None:
        """A repository that was never pushed to has no tags: 404, or an empty list (end-8a)."""
        reply = await client.send("GET", tags_of(repo))
        if reply.status == 404:
            client.refused(reply, 404, codes=["NAME_UNKNOWN"])
        else:
            assert (reply.status, reply.json()["name"]) == (200, repo)
            assert not reply.json()["tags"]

    async def test_tags_without_tagged_manifests(self, client: Client, repo: str) -> None:
        """A repository whose manifests have no tags lists none (end-8a)."""
        await client.push(repo, image())
        assert await client.tags(repo) == []

    async def test_tags_are_listed_in_order(self, client: Client, registry: Registry, repo: str) -> None:
        """All tags are listed with the repository's name, in ASCII or in case-insensitive order (end-8a)."""
        registry.require(TAG_PAGING)
        tags = ["b", "A", "a.1", "C", "_x", "10", "9", "a-1", "B2", "c"]
        await client.push(repo, image(), *tags)
        reply = await client.send("GET", tags_of(repo))
        assert (reply.status, reply.json()["name"]) == (200, repo)
        assert reply.headers["Content-Type"].startswith("application/json")
        assert reply.json()["tags"] in (sorted(tags), sorted(tags, key=str.lower))

    @pytest.mark.parametrize(("query", "expected", "more"), PAGES)
    async def test_page_of_tags(
        self, client: Client, registry: Registry, repo: str, query: dict[str, str], expected: list[str], *, more: bool
    ) -> None:
        """A page has the tags after *last*, n of them, and a Link only while there are more (end-8b)."""
        registry.require(TAG_PAGING)
        await client.push(repo, image(), *reversed(TAGS))
        reply = await client.send("GET", tags_of(repo, **query))
        assert (reply.status, reply.json()["name"]) == (200, repo)
        assert (reply.json()["tags"] or []) == expected
        assert (next_page(reply) is not None) is more

    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    async def test_tags_by_their_links(self, client: Client, registry: Registry, repo: str, size: int) -> None:
        """Following the Link from page to page gives every tag once, in order (end-8b)."""
        registry.require(TAG_PAGING)
        await client.push(repo, image(), *TAGS)
        listed: list[str] = []
        target: str | None = tags_of(repo, n=str(size))
        while target and len(listed) < len(TAGS):
            reply = await client.send("GET", target)
            assert reply.status == 200
            assert len(reply.json()["tags"]) <= size
            listed += reply.json()["tags"]
            target = next_page(reply)
        assert (listed, target) == (TAGS, None)

    async def test_tags_by_the_last_one(self, client: Client, registry: Registry, repo: str) -> None:
        """A client that knows no Link pages by the last tag that it saw (end-8b)."""
        registry.require(TAG_PAGING)
        await client.push(repo, image(), *TAGS)
        listed = await client.tags(repo, n="2")
        for _ in TAGS:
            listed += await client.tags(repo, n="2", last=listed[-1])
        assert listed == TAGS

    # -- the catalog ----------------------------------------------------------------------------------

    async def test_catalog_lists_repositories(self, client: Client, repo: str) -> None:
        """The catalog has every repository that was pushed to, in order, page by page (Distribution: catalog)."""
        below = [f"{repo}/{name}" for name in ("a", "b", "c", "d")]
        for name in reversed(below):
            await client.push(name, image([]), "v1")
        listed: list[str] = []
        target: str | None = with_query("/v2/_catalog", n="3", last=repo)
        while target and not set(below) <= set(listed):
            reply = await client.send("GET", target)
            assert reply.status == 200
            assert len(reply.json()["repositories"]) <= 3
            listed += reply.json()["repositories"]
            target = next_page(reply)
        assert listed[:4] == below

    # -- referrers ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("used", [True, False], ids=["repository", "no-repository"])
    @pytest.mark.parametrize("query", [{}, {"artifactType": SBOM}], ids=["all", "filtered"])
    async def test_referrers_of_nothing(
        self, client: Client, registry: Registry, repo: str, query: dict[str, str], *, used: bool
    ) -> None:
        """A digest that nothing refers to has an empty index, never a 404 (end-12a)."""
        registry.require(REFERRERS)
        if used:
            await client.push(repo, image(), "v1")
        assert await self._referrers(client, repo, random_digest(), **query) == []

    @pytest.mark.parametrize(("build", "artifact_type"), REFERRER_KINDS)
    async def test_referrer_descriptor(
        self,
        client: Client,
        registry: Registry,
        repo: str,
        build: Callable[..., Manifest],
        artifact_type: str | None,
    ) -> None:
        """A referrer is listed with its type, size, artifactType and annotations (end-12a)."""
        registry.require(REFERRERS)
        subject = image()
        await client.push(repo, subject, "v1")
        referrer = build(subject=subject.descriptor(), annotations={"org.example.made": uuid4().hex})
        await client.push(repo, referrer)
        listed = await self._referrers(client, repo, subject.digest)
        assert listed == [referrer.referrer()]
        assert listed[0].get("artifactType") == artifact_type

    async def test_referrers_of_one_subject(self, client: Client, registry: Registry, repo: str) -> None:
        """Referrers pushed before and after their subject, with a tag or without, are all listed (end-12a)."""
        registry.require(REFERRERS)
        subject = image()
        early, late, listing = (build(subject=subject.descriptor()) for build in (artifact, artifact, platforms))
        await client.push(repo, early)
        await client.push(repo, subject, "v1")
        await client.push(repo, late, "tagged")
        await client.push(repo, listing)
        await client.push(repo, artifact(subject=image().descriptor()))
        listed = await self._referrers(client, repo, subject.digest)
        assert _by_digest(listed) == _by_digest([early.referrer(), late.referrer(), listing.referrer()])

    async def test_referrers_of_an_index(self, client: Client, registry: Registry, repo: str) -> None:
        """An index can be a subject too (end-12a)."""
        registry.require(REFERRERS)
        subject = platforms()
        await client.push(repo, subject, "v1")
        referrer = artifact(subject=subject.descriptor())
        await client.push(repo, referrer)
        assert await self._referrers(client, repo, subject.digest) == [referrer.referrer()]

    async def test_referrers_of_a_missing_subject(self, client: Client, registry: Registry, repo: str) -> None:
        """Referrers are listed though their subject was never pushed (spec: push, end-12a)."""
        registry.require(REFERRERS)
        subject = image()
        referrer = artifact(subject=subject.descriptor())
        await client.push(repo, referrer)
        assert await self._referrers(client, repo, subject.digest) == [referrer.referrer()]

    async def test_referrers_by_sha512(self, client: Client, registry: Registry, repo: str) -> None:
        """Subject and referrer may be named by sha512 (end-12a)."""
        registry.require(REFERRERS)
        registry.require(SHA512)
        subject = image(algorithm="sha512")
        await client.push(repo, subject)
        referrer = artifact(algorithm="sha512", subject=subject.descriptor())
        await client.push(repo, referrer)
        assert await self._referrers(client, repo, subject.digest) == [referrer.referrer()]

    @pytest.mark.parametrize("artifact_type", [SBOM, SIGNATURE, "application/vnd.example.unused"])
    async def test_referrers_by_artifact_type(
        self, client: Client, registry: Registry, repo: str, artifact_type: str
    ) -> None:
        """A filter lists only referrers of that artifactType and says that it was applied (end-12b)."""
        registry.require(REFERRERS)
        subject = image()
        await client.push(repo, subject, "v1")
        subjected: Document = {"subject": subject.descriptor()}
        referrers = [
            artifact(SBOM, **subjected),
            artifact(SIGNATURE, **subjected),
            image([empty()], random_blob(media_type=SBOM), **subjected),
            platforms(artifactType=SBOM, **subjected),
            platforms(**subjected),
        ]
        for referrer in referrers:
            await client.push(repo, referrer)
        listed = await self._referrers(client, repo, subject.digest, artifactType=artifact_type)
        expected = [item.referrer() for item in referrers if item.referrer().get("artifactType") == artifact_type]
        assert _by_digest(listed) == _by_digest(expected)

    async def test_deleted_referrer_is_not_listed(self, client: Client, registry: Registry, repo: str) -> None:
        """A deleted referrer leaves the list, and the others stay (end-9, end-12a)."""
        registry.require(REFERRERS)
        subject = image()
        await client.push(repo, subject, "v1")
        gone, kept = (artifact(subject=subject.descriptor()) for _ in range(2))
        await client.push(repo, gone)
        await client.push(repo, kept)
        assert (await client.send("DELETE", manifest_at(repo, gone.digest))).status == 202
        assert await self._referrers(client, repo, subject.digest) == [kept.referrer()]

    async def test_referrer_is_listed_once(self, client: Client, registry: Registry, repo: str) -> None:
        """A referrer that is pushed again, by digest and under tags, is listed once (end-12a)."""
        registry.require(REFERRERS)
        subject = image()
        referrer = artifact(subject=subject.descriptor())
        await client.push(repo, referrer, referrer.digest, "a", "b", referrer.digest)
        assert await self._referrers(client, repo, subject.digest) == [referrer.referrer()]

    async def test_referrers_stay_in_their_repository(
        self, client: Client, registry: Registry, repo: str, other_repo: str
    ) -> None:
        """Referrers of the same subject in another repository are not listed (end-12a: "in the same name")."""
        registry.require(REFERRERS)
        subject = image()
        await client.push(repo, subject)
        await client.push(other_repo, subject)
        await client.push(other_repo, artifact(subject=subject.descriptor()))
        assert await self._referrers(client, repo, subject.digest) == []

    async def _referrers(self, client: Client, repo: str, digest: str, **query: str) -> list[Document]:
        """List referrers, checking all that the list itself promises."""
        reply = await client.send("GET", referrers_of(repo, digest, **query))
        assert reply.status == 200, reply
        assert reply.headers["Content-Type"] == OCI_INDEX
        document = reply.json()
        assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
        assert ("artifactType" in reply.headers.get("OCI-Filters-Applied", "").split(", ")) is bool(query)
        manifests: list[Document] = document["manifests"]
        assert all(item["mediaType"] in (OCI_IMAGE, OCI_INDEX) for item in manifests)
        return manifests


def _by_digest(descriptors: list[Document]) -> list[Document]:
    return sorted(descriptors, key=lambda descriptor: str(descriptor["digest"]))
