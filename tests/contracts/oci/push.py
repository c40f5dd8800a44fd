"""Push: uploads in every way, mounts and manifests (spec: push)."""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit
from uuid import uuid4

import pytest

from .base import Contract
from .client import (
    CHUNK_ORDER,
    LIMITS,
    REFERRERS,
    REPEATED_PUT,
    SHA512,
    SHA512_MOUNTS,
    SINGLE_POST,
    TAG_DELETION,
    TAG_PARAMETERS,
    Client,
    Registry,
    Reply,
    blob_at,
    manifest_at,
    pieces,
    referrers_of,
    tags_of,
    uploads_of,
)
from .content import (
    DOCKER_IMAGE,
    KINDS,
    MEBIBYTE,
    OCI_IMAGE,
    OCTET_STREAM,
    Blob,
    Manifest,
    artifact,
    config,
    digest_of,
    encode,
    image,
    index,
    layer,
    padded,
    platforms,
    random_blob,
    random_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ALGORITHMS = ["sha256", "sha512"]
EVERY_KIND = [pytest.param(build, id=kind) for kind, build in KINDS.items()]

# Repository names that contain the words of the API, below the namespace of the test.
RESERVED_NAMES = [
    "blobs",
    "blobs/uploads",
    "uploads",
    "uploads/blobs",
    "tags",
    "tags/list",
    "list",
    "manifests",
    "manifests/x",
    "manifests/latest",
    "referrers",
    "referrers/x",
    "v2",
    "v2/tags",
    "x/blobs",
    "x/manifests",
]

TAG_NAMES = [
    pytest.param("a", id="one-letter"),
    pytest.param("1", id="one-digit"),
    pytest.param("_hidden", id="leading-underscore"),
    pytest.param("UPPER.lower-1_2", id="all-characters"),
    pytest.param("v1..2--3__4", id="repeated-separators"),
    pytest.param("ends-with.", id="trailing-dot"),
    pytest.param("x" * 128, id="128-characters"),
    pytest.param("sha256", id="name-of-an-algorithm"),
    pytest.param(random_digest().replace(":", "-"), id="referrers-tag-schema"),
    pytest.param("list", id="word-of-the-api"),
    pytest.param("uploads", id="another-word-of-the-api"),
]


async def _by_single_post(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    target = uploads_of(repo, digest=digest)
    return await client.send("POST", target, headers={"Content-Type": OCTET_STREAM}, body=content)


async def _by_put(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    return await client.put_blob(await client.begin(repo), digest, content)


async def _by_streamed_put(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    return await client.put_blob(await client.begin(repo), digest, pieces(content[:100], content[100:]))


async def _by_stream(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    reply = await client.patch(await client.begin(repo), pieces(content[:200], content[200:]))
    assert (reply.status, reply.headers["Range"]) == (202, f"0-{len(content) - 1}")
    return await client.put_blob(reply.location, digest)


async def _by_two_streams(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    location = await client.begin(repo)
    for part in (content[:200], content[200:]):
        reply = await client.patch(location, pieces(part))
        assert reply.status == 202
        location = reply.location
    return await client.put_blob(location, digest)


async def _by_plain_patch(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    reply = await client.patch(await client.begin(repo), content)
    assert (reply.status, reply.headers["Range"]) == (202, f"0-{len(content) - 1}")
    return await client.put_blob(reply.location, digest)


async def _by_stream_and_put(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    reply = await client.patch(await client.begin(repo), pieces(content[:200]))
    assert reply.status == 202
    return await client.put_blob(reply.location, digest, content[200:])


async def _by_one_chunk(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    location = await _send_chunks(client, await client.begin(repo), [(0, content)])
    return await client.put_blob(location, digest)


async def _by_chunks(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    location = await _send_chunks(client, await client.begin(repo), _chunks(content))
    return await client.put_blob(location, digest)


async def _by_chunks_and_put(client: Client, repo: str, digest: str, content: bytes) -> Reply:
    *first, (at, last) = _chunks(content)
    location = await _send_chunks(client, await client.begin(repo), first)
    headers = {"Content-Range": f"{at}-{at + len(last) - 1}"}
    return await client.put_blob(location, digest, last, headers=headers)


async def _send_chunks(client: Client, location: str, chunks: list[tuple[int, bytes]]) -> str:
    """Send chunks in order, each to the location that the one before gave, and give the last."""
    for at, chunk in chunks:
        reply = await client.patch(location, chunk, at=at)
        assert (reply.status, reply.headers["Range"]) == (202, f"0-{at + len(chunk) - 1}")
        location = reply.location
    return location


def _chunks(content: bytes, count: int = 3) -> list[tuple[int, bytes]]:
    """Cut *content* into chunks, the last of them shorter, each with its offset."""
    size = len(content) // count + 1
    return [(at, content[at : at + size]) for at in range(0, len(content), size)]


WAYS = [
    pytest.param(_by_put, id="post-put"),
    pytest.param(_by_streamed_put, id="post-streamed-put"),
    pytest.param(_by_stream, id="stream"),
    pytest.param(_by_two_streams, id="two-streams"),
    pytest.param(_by_plain_patch, id="patch-with-length"),
    pytest.param(_by_stream_and_put, id="stream-and-put"),
    pytest.param(_by_one_chunk, id="one-chunk"),
    pytest.param(_by_chunks, id="chunks"),
    pytest.param(_by_chunks_and_put, id="chunks-and-put"),
]
ALL_WAYS = [pytest.param(_by_single_post, id="single-post"), *WAYS]

if TYPE_CHECKING:
    from collections.abc import Awaitable

    Way = Callable[[Client, str, str, bytes], Awaitable[Reply]]


class PushContract(Contract):
    """What a client that pushes may rely on."""

    # -- blobs ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", ALL_WAYS)
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_upload(self, client: Client, registry: Registry, repo: str, way: Way, algorithm: str) -> None:
        """A blob that is pushed in any way is 201 at a Location from which it can be pulled (end-4, end-5, end-6)."""
        _require(registry, way, algorithm)
        blob = random_blob(3000, algorithm=algorithm)
        reply = await way(client, repo, blob.digest, blob.content)
        assert reply.status == 201
        assert reply.headers.get("Docker-Content-Digest", blob.digest) == blob.digest
        assert (await client.send("GET", reply.location)).body == blob.content
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("way", ALL_WAYS)
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_upload_with_wrong_digest(
        self, client: Client, registry: Registry, repo: str, way: Way, algorithm: str
    ) -> None:
        """An upload whose bytes are not those of its digest is 400 and leaves neither blob (end-4b, end-6)."""
        _require(registry, way, algorithm)
        blob = random_blob(3000, algorithm=algorithm)
        content = blob.content + b"too much"
        client.refused(await way(client, repo, blob.digest, content), 400, codes=["DIGEST_INVALID"])
        for digest in (blob.digest, digest_of(content), digest_of(content, algorithm)):
            assert (await client.get_blob(repo, digest)).status == 404

    @pytest.mark.parametrize("way", ALL_WAYS)
    async def test_upload_of_what_is_there(self, client: Client, registry: Registry, repo: str, way: Way) -> None:
        """A blob that the repository already has can be pushed again (end-6)."""
        _require(registry, way)
        blob = random_blob(3000)
        for _ in range(2):
            assert (await way(client, repo, blob.digest, blob.content)).status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "monolithic"])
    async def test_upload_with_declared_algorithm(
        self, client: Client, registry: Registry, repo: str, algorithm: str, *, chunked: bool
    ) -> None:
        """A POST that names the digest's algorithm begins an upload for it (end-4c)."""
        if algorithm != "sha256":
            registry.require(SHA512)
        blob = random_blob(3000, algorithm=algorithm)
        location = await client.begin(repo, **{"digest-algorithm": algorithm})
        body = blob.content
        if chunked:
            location, body = await _send_chunks(client, location, _chunks(blob.content)), b""
        assert (await client.put_blob(location, blob.digest, body)).status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("size", [0, 1, 2, MEBIBYTE + 1])
    @pytest.mark.parametrize("way", [pytest.param(_by_put, id="put"), pytest.param(_by_single_post, id="post")])
    async def test_upload_of_any_size(self, client: Client, registry: Registry, repo: str, way: Way, size: int) -> None:
        """Blobs may be empty, tiny or more than a buffer (end-4b, end-6)."""
        _require(registry, way)
        blob = random_blob(size)
        assert (await way(client, repo, blob.digest, blob.content)).status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("safe", [":", ""], ids=["plain-colon", "encoded-colon"])
    async def test_closing_digest_may_be_encoded(self, client: Client, repo: str, safe: str) -> None:
        """The digest of the closing PUT may have its colon percent-encoded or not (end-6)."""
        blob = random_blob()
        location = await client.begin(repo)
        target = f"{location}{'&' if '?' in location else '?'}digest={quote(blob.digest, safe=safe)}"
        assert (await client.send("PUT", target, body=blob.content)).status == 201

    async def test_bytes_are_stored_as_sent(self, client: Client, repo: str) -> None:
        """A body under Content-Encoding is stored as it was sent, for its digest names those bytes (end-6)."""
        blob = Blob(gzip.compress(b"packed"))
        location = await client.begin(repo)
        reply = await client.put_blob(location, blob.digest, blob.content, headers={"Content-Encoding": "gzip"})
        assert reply.status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    async def test_same_upload_twice_at_once(self, client: Client, repo: str) -> None:
        """Two simultaneous uploads of one blob both succeed (spec: layer upload de-duplication)."""
        blob = random_blob(MEBIBYTE)
        replies = await asyncio.gather(*(_by_put(client, repo, blob.digest, blob.content) for _ in range(4)))
        assert [reply.status for reply in replies] == [201] * 4
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    async def test_single_post_or_session(self, client: Client, repo: str) -> None:
        """A POST with a digest stores the blob (201) or begins an upload and stores nothing (202) (end-4b)."""
        blob = random_blob()
        reply = await _by_single_post(client, repo, blob.digest, blob.content)
        assert reply.status in (201, 202)
        assert (await client.get_blob(repo, blob.digest)).status == (200 if reply.status == 201 else 404)
        if reply.status == 202:
            assert (await client.put_blob(reply.location, blob.digest, blob.content)).status == 201

    # -- the session ----------------------------------------------------------------------------------

    async def test_sessions_are_unique(self, client: Client, repo: str) -> None:
        """Each POST begins a session of its own, at a location that names it (end-4a)."""
        locations = {await client.begin(repo) for _ in range(3)}
        assert len(locations) == 3

    async def test_status_of_a_new_upload(self, client: Client, repo: str) -> None:
        """An upload that has nothing yet says so as Distribution does (end-13)."""
        reply = await client.send("GET", await client.begin(repo))
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["Range"] == "0-0"
        assert reply.location

    @pytest.mark.parametrize("stale", [True, False], ids=["first-location", "latest-location"])
    async def test_status_of_an_upload(self, client: Client, registry: Registry, repo: str, *, stale: bool) -> None:
        """The status of an upload is 204 with the received range, from any location it ever had (end-13)."""
        if stale:
            registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        first = await client.begin(repo)
        location = first
        for at, chunk in _chunks(content):
            location = await _send_chunks(client, location, [(at, chunk)])
            reply = await client.send("GET", first if stale else location)
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers["Range"] == f"0-{at + len(chunk) - 1}"
            location = reply.location
        assert (await client.put_blob(location, digest_of(content))).status == 201

    @pytest.mark.parametrize("received", [0, 1, 2])
    @pytest.mark.parametrize("wrong", ["ahead", "repeated", "overlapping"])
    async def test_chunk_out_of_order(
        self, client: Client, registry: Registry, repo: str, wrong: str, received: int
    ) -> None:
        """A chunk out of order is 416 and changes nothing: the upload goes on where it was (end-5, end-13)."""
        registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        chunks = _chunks(content)
        location = await _send_chunks(client, await client.begin(repo), chunks[:received])
        at = sum(len(chunk) for _, chunk in chunks[:received])
        offset = {"ahead": at + 7, "repeated": 0 if at else 1, "overlapping": max(at - 5, 0) or 2}[wrong]
        client.refused(await client.patch(location, content[offset : offset + 100], at=offset), 416)
        status = await client.send("GET", location)
        assert (status.status, status.headers["Range"]) == (204, f"0-{max(at - 1, 0)}")
        location = await _send_chunks(client, status.location, chunks[received:])
        assert (await client.put_blob(location, digest_of(content))).status == 201

    async def test_retried_chunk(self, client: Client, registry: Registry, repo: str) -> None:
        """A chunk sent again to the location it was first sent to is 416 (end-5)."""
        registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        first = await client.begin(repo)
        await _send_chunks(client, first, _chunks(content)[:1])
        client.refused(await client.patch(first, _chunks(content)[0][1], at=0), 416)

    async def test_last_chunk_out_of_order(self, client: Client, registry: Registry, repo: str) -> None:
        """A closing PUT whose chunk is out of order is 416, and the upload can still be closed (end-6)."""
        registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        *first, (at, last) = _chunks(content)
        location = await _send_chunks(client, await client.begin(repo), first)
        headers = {"Content-Range": f"{at + 1}-{at + len(last)}"}
        client.refused(await client.put_blob(location, digest_of(content), last, headers=headers), 416)
        location = (await client.send("GET", location)).location
        headers = {"Content-Range": f"{at}-{at + len(last) - 1}"}
        assert (await client.put_blob(location, digest_of(content), last, headers=headers)).status == 201
        assert (await client.get_blob(repo, digest_of(content))).body == content

    async def test_chunks_before_their_turn_by_put(self, client: Client, registry: Registry, repo: str) -> None:
        """A closing PUT with the last chunk before the others is 416 and stores nothing (end-6)."""
        registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        at, last = _chunks(content)[-1]
        headers = {"Content-Range": f"{at}-{at + len(last) - 1}"}
        reply = await client.put_blob(await client.begin(repo), digest_of(content), last, headers=headers)
        client.refused(reply, 416)
        assert (await client.get_blob(repo, digest_of(content))).status == 404

    @pytest.mark.parametrize("begun", [True, False], ids=["with-bytes", "empty"])
    async def test_cancelled_upload(self, client: Client, repo: str, *, begun: bool) -> None:
        """A cancelled upload is 204 and then unknown to every method (end-14)."""
        blob = random_blob()
        location = await client.begin(repo)
        if begun:
            location = (await client.patch(location, blob.content)).location
        cancelled = await client.send("DELETE", location)
        assert (cancelled.status, cancelled.body) == (204, b"")
        for reply in (
            await client.send("GET", location),
            await client.patch(location, b"more"),
            await client.put_blob(location, blob.digest, blob.content),
            await client.send("DELETE", location),
        ):
            client.refused(reply, 404, codes=["BLOB_UPLOAD_UNKNOWN"])
        assert (await client.get_blob(repo, blob.digest)).status == 404

    async def test_finished_upload_takes_no_more(self, client: Client, repo: str) -> None:
        """A finished upload takes no more bytes (end-5)."""
        blob = random_blob()
        location = await client.begin(repo)
        assert (await client.put_blob(location, blob.digest, blob.content)).status == 201
        client.refused(await client.patch(location, b"more"), 404, codes=["BLOB_UPLOAD_UNKNOWN"])

    @pytest.mark.parametrize("patched", [True, False], ids=["after-patch", "with-body"])
    async def test_same_closing_put_twice(
        self, client: Client, registry: Registry, repo: str, *, patched: bool
    ) -> None:
        """A closing PUT whose answer was lost can be repeated: 201 both times (spec: resumable push)."""
        registry.require(REPEATED_PUT)
        blob = random_blob()
        location, body = await client.begin(repo), blob.content
        if patched:
            location, body = (await client.patch(location, blob.content)).location, b""
        replies = [await client.put_blob(location, blob.digest, body) for _ in range(2)]
        assert [reply.status for reply in replies] == [201, 201]
        assert replies[0].location == replies[1].location
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    async def test_session_belongs_to_its_repository(self, client: Client, repo: str, other_repo: str) -> None:
        """An upload that was begun in one repository can't be continued in another (end-6)."""
        blob = random_blob()
        location = await client.begin(repo)
        assert repo in location
        moved = location.replace(repo, other_repo)
        client.refused(await client.put_blob(moved, blob.digest, blob.content), 400, 404)
        assert (await client.get_blob(other_repo, blob.digest)).status == 404

    # -- mounts ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_mount(self, client: Client, registry: Registry, repo: str, other_repo: str, algorithm: str) -> None:
        """A blob of another repository is mounted without sending it (end-11)."""
        if algorithm != "sha256":
            registry.require(SHA512_MOUNTS)
        blob = random_blob(algorithm=algorithm)
        await client.push_blob(other_repo, blob)
        reply = await client.send("POST", uploads_of(repo, mount=blob.digest, **{"from": other_repo}))
        assert reply.status == 201
        assert urlsplit(urljoin(registry.base_url, reply.location)).path == blob_at(repo, blob.digest)
        assert reply.headers.get("Docker-Content-Digest", blob.digest) == blob.digest
        assert (await client.send("GET", reply.location)).body == blob.content
        assert (await client.send("HEAD", blob_at(repo, blob.digest))).status == 200

    async def test_mount_within_its_repository(self, client: Client, repo: str) -> None:
        """A blob that the repository already has can be mounted from itself (end-11)."""
        blob = random_blob()
        await client.push_blob(repo, blob)
        reply = await client.send("POST", uploads_of(repo, mount=blob.digest, **{"from": repo}))
        assert reply.status == 201

    async def test_mount_without_source(self, client: Client, repo: str, other_repo: str) -> None:
        """A mount without from is 201 if the blob can be found, else the beginning of an upload (end-11)."""
        blob = random_blob()
        await client.push_blob(other_repo, blob)
        reply = await client.send("POST", uploads_of(repo, mount=blob.digest))
        assert reply.status in (201, 202)
        if reply.status == 202:
            assert (await client.put_blob(reply.location, blob.digest, blob.content)).status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("source", ["other", "unused", "none"])
    async def test_mount_of_what_is_missing(
        self, client: Client, registry: Registry, repo: str, other_repo: str, source: str
    ) -> None:
        """A mount of a blob that is not there begins an upload, which works (end-11)."""
        await client.push_blob(other_repo, random_blob())
        unused = f"{registry.other_namespace}/r{uuid4().hex}"
        query = {"other": {"from": other_repo}, "unused": {"from": unused}, "none": {}}[source]
        blob = random_blob()
        reply = await client.send("POST", uploads_of(repo, mount=blob.digest, **query))
        assert reply.status == 202
        assert (await client.get_blob(repo, blob.digest)).status == 404
        assert (await client.put_blob(reply.location, blob.digest, blob.content)).status == 201
        assert (await client.get_blob(repo, blob.digest)).body == blob.content

    # -- manifests ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("build", EVERY_KIND)
    async def test_push_by_digest(self, client: Client, repo: str, build: Callable[[], Manifest]) -> None:
        """A manifest pushed by digest is 201 at a Location from which it can be pulled, and has no tag (end-7a)."""
        manifest = build()
        await client.prepare(repo, manifest)
        reply = await client.put_manifest(repo, manifest.digest, manifest)
        assert reply.status == 201
        assert reply.headers["Docker-Content-Digest"] == manifest.digest
        pulled = await client.send("GET", reply.location, headers={"Accept": manifest.media_type})
        assert (pulled.status, pulled.body) == (200, manifest.content)
        assert pulled.headers["Content-Type"] == manifest.media_type
        assert await client.tags(repo) == []

    @pytest.mark.parametrize("build", [image, artifact, platforms, KINDS["docker-image"], KINDS["index-empty"]])
    async def test_push_by_tag(self, client: Client, repo: str, build: Callable[[], Manifest]) -> None:
        """A manifest pushed by tag is 201 with its digest, at a Location from which it can be pulled (end-7a)."""
        manifest = build()
        await client.prepare(repo, manifest)
        reply = await client.put_manifest(repo, "v1", manifest)
        assert reply.status == 201
        assert reply.headers["Docker-Content-Digest"] == manifest.digest
        pulled = await client.send("GET", reply.location, headers={"Accept": manifest.media_type})
        assert (pulled.status, pulled.body) == (200, manifest.content)
        assert await client.tags(repo) == ["v1"]

    @pytest.mark.parametrize("tag", TAG_NAMES)
    async def test_push_tag(self, client: Client, repo: str, tag: str) -> None:
        """Every tag that the grammar allows can be pushed, listed and pulled (spec: pulling manifests)."""
        manifest = image()
        await client.push(repo, manifest, tag)
        assert sorted(await client.tags(repo)) == [tag]
        assert (await client.look("GET", repo, tag)).body == manifest.content

    async def test_many_tags_of_one_manifest(self, client: Client, repo: str) -> None:
        """One manifest can have many tags (end-7a)."""
        manifest = image()
        tags = [f"test{number}" for number in range(4)]
        await client.push(repo, manifest, *tags)
        for tag in tags:
            assert (await client.look("GET", repo, tag)).headers["Docker-Content-Digest"] == manifest.digest

    async def test_moved_tag(self, client: Client, repo: str) -> None:
        """A tag that is pushed again points to the new manifest, and the old one stays by digest (end-7a)."""
        old, new = image(), platforms()
        await client.push(repo, old, "v1")
        await client.push(repo, new, "v1")
        assert (await client.look("GET", repo, "v1")).body == new.content
        assert (await client.look("GET", repo, old.digest)).body == old.content
        assert sorted(await client.tags(repo)) == ["v1"]

    async def test_manifest_pushed_at_once(self, client: Client, repo: str) -> None:
        """Simultaneous pushes of one manifest, by digest and under tags, all succeed (end-7a)."""
        manifest = image()
        await client.prepare(repo, manifest)
        references = [manifest.digest, "a", "b", "c", manifest.digest]
        replies = await asyncio.gather(*(client.put_manifest(repo, name, manifest) for name in references))
        assert [reply.status for reply in replies] == [201] * 5
        assert sorted(await client.tags(repo)) == ["a", "b", "c"]

    @pytest.mark.parametrize("parameter", ["; charset=utf-8", ";charset=UTF-8", "; a=b; c=d"])
    async def test_content_type_parameters_are_ignored(self, client: Client, repo: str, parameter: str) -> None:
        """Parameters of a pushed Content-Type are ignored and never come back (end-7a)."""
        manifest = image()
        await client.prepare(repo, manifest)
        headers = {"Content-Type": manifest.media_type + parameter}
        reply = await client.send("PUT", manifest_at(repo, "v1"), headers=headers, body=manifest.content)
        assert reply.status == 201
        assert (await client.look("GET", repo, "v1")).headers["Content-Type"] == manifest.media_type

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_push_by_digest_with_tags(
        self, client: Client, registry: Registry, repo: str, algorithm: str
    ) -> None:
        """A push by digest sets all tags of its query, at least ten, and OCI-Tag names each (end-7b)."""
        registry.require(TAG_PARAMETERS)
        if algorithm != "sha256":
            registry.require(SHA512)
        manifest = platforms(algorithm=algorithm)
        await client.prepare(repo, manifest)
        tags = sorted(f"tag-{number}" for number in range(10))
        target = f"{manifest_at(repo, manifest.digest)}?{'&'.join(f'tag={tag}' for tag in tags)}"
        headers = {"Content-Type": manifest.media_type}
        reply = await client.send("PUT", target, headers=headers, body=manifest.content)
        assert reply.status == 201
        assert reply.headers["Docker-Content-Digest"] == manifest.digest
        named = [tag.strip() for line in reply.headers.getall("OCI-Tag") for tag in line.split(",")]
        assert sorted(named) == tags
        assert sorted(await client.tags(repo)) == tags
        for reference in (*tags, manifest.digest):
            pulled = await client.look("GET", repo, reference)
            assert (pulled.status, pulled.body) == (200, manifest.content)

    async def test_push_by_digest_moves_its_tags(self, client: Client, registry: Registry, repo: str) -> None:
        """A tag in the query of a push by digest moves like any other (end-7b)."""
        registry.require(TAG_PARAMETERS)
        old, new = image(), image()
        await client.push(repo, old, "v1", "v2")
        await client.prepare(repo, new)
        assert (await client.put_manifest(repo, new.digest, new, tag="v1")).status == 201
        assert (await client.look("GET", repo, "v1")).body == new.content
        assert (await client.look("GET", repo, "v2")).body == old.content

    @pytest.mark.parametrize("by", ["tag", "digest"])
    @pytest.mark.parametrize("known", [True, False], ids=["known-subject", "unknown-subject"])
    @pytest.mark.parametrize("build", [image, artifact, platforms])
    async def test_push_with_subject(
        self, client: Client, registry: Registry, repo: str, build: Callable[..., Manifest], by: str, *, known: bool
    ) -> None:
        """A push of a manifest with a subject says so in OCI-Subject, also if the subject is missing (end-7a)."""
        registry.require(REFERRERS)
        subject = image()
        if known:
            await client.push(repo, subject)
        manifest = build(subject=subject.descriptor())
        await client.prepare(repo, manifest)
        reply = await client.put_manifest(repo, "v1" if by == "tag" else manifest.digest, manifest)
        assert (reply.status, reply.headers["OCI-Subject"]) == (201, subject.digest)

    async def test_push_without_subject(self, client: Client, repo: str) -> None:
        """A push of a manifest without a subject has no OCI-Subject (end-7a)."""
        manifest = image()
        await client.prepare(repo, manifest)
        assert "OCI-Subject" not in (await client.put_manifest(repo, "v1", manifest)).headers

    @pytest.mark.parametrize("by", ["tag", "digest"])
    @pytest.mark.parametrize(
        ("build", "missing"),
        [
            pytest.param(image, "layer", id="oci-layer"),
            pytest.param(image, "config", id="oci-config"),
            pytest.param(KINDS["docker-image"], "layer", id="docker-layer"),
            pytest.param(KINDS["docker-image"], "config", id="docker-config"),
            pytest.param(artifact, "layer", id="artifact-blob"),
            pytest.param(platforms, "child", id="oci-child"),
            pytest.param(KINDS["docker-manifest-list"], "child", id="docker-child"),
        ],
    )
    async def test_push_with_missing_part(
        self, client: Client, repo: str, build: Callable[[], Manifest], missing: str, by: str
    ) -> None:
        """A manifest that refers to what is not there is refused and not stored (spec: push)."""
        manifest = build()
        wanted = {"layer": manifest.blobs[1:], "config": manifest.blobs[:1], "child": ()}[missing]
        for blob in manifest.blobs:
            if blob not in wanted:
                await client.push_blob(repo, blob)
        for child in manifest.children[1:]:
            await client.push(repo, child)
        reference = "v1" if by == "tag" else manifest.digest
        reply = await client.put_manifest(repo, reference, manifest)
        client.refused(reply, 400, 404, codes=["MANIFEST_BLOB_UNKNOWN"])
        for name in ("v1", manifest.digest):
            assert (await client.look("GET", repo, name)).status == 404

    async def test_push_with_blob_of_another_repository(self, client: Client, repo: str, other_repo: str) -> None:
        """A manifest can't refer to blobs that only another repository has (spec: push)."""
        manifest = image()
        await client.prepare(other_repo, manifest)
        reply = await client.put_manifest(repo, "v1", manifest)
        client.refused(reply, 400, 404, codes=["MANIFEST_BLOB_UNKNOWN"])

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_push_by_wrong_digest(self, client: Client, registry: Registry, repo: str, algorithm: str) -> None:
        """A manifest that is not the one its digest names is 400 and not stored under either (end-7a)."""
        if algorithm != "sha256":
            registry.require(SHA512)
        manifest = image()
        await client.prepare(repo, manifest)
        wrong = Manifest(manifest.content + b"  ", manifest.media_type)
        named = digest_of(manifest.content, algorithm)
        client.refused(await client.put_manifest(repo, named, wrong), 400, codes=["DIGEST_INVALID"])
        for digest in (named, wrong.digest):
            assert (await client.look("GET", repo, digest)).status == 404

    @pytest.mark.parametrize("length", [4 * MEBIBYTE + 1, 6 * MEBIBYTE])
    @pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "with-length"])
    async def test_push_too_large_manifest(
        self, client: Client, registry: Registry, repo: str, length: int, *, streamed: bool
    ) -> None:
        """A manifest over 4 MiB is 413 and not stored (end-7a)."""
        registry.require(LIMITS)
        manifest = padded(length)
        await client.prepare(repo, manifest)
        body = pieces(manifest.content) if streamed else manifest.content
        headers = {"Content-Type": manifest.media_type}
        client.refused(await client.send("PUT", manifest_at(repo, "v1"), headers=headers, body=body), 413)
        assert (await client.look("GET", repo, "v1")).status == 404

    async def test_docker_image_keeps_its_type_beside_oci(self, client: Client, repo: str) -> None:
        """Manifests of both families over the same blobs keep their own types (end-3, end-7a)."""
        layers, settings = [layer()], config()
        oci = image(layers, settings)
        docker = image(layers, settings, media_type=DOCKER_IMAGE)
        await client.push(repo, oci, "oci")
        await client.push(repo, docker, "docker")
        await client.push(repo, index([oci, docker]), "both")
        assert (await client.look("GET", repo, "oci")).headers["Content-Type"] == OCI_IMAGE
        assert (await client.look("GET", repo, "docker")).headers["Content-Type"] == DOCKER_IMAGE

    # -- names ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", RESERVED_NAMES)
    async def test_name_with_words_of_the_api(self, client: Client, registry: Registry, name: str) -> None:
        """A repository whose name has words of the API works with every endpoint (spec: pulling manifests)."""
        repo, tag, manifest = f"{registry.namespace}/{name}", f"t{uuid4().hex}", image()
        await client.push(repo, manifest, tag)
        assert (await _by_chunks(client, repo, manifest.blobs[0].digest, manifest.blobs[0].content)).status == 201
        for method, body in (("GET", manifest.content), ("HEAD", b"")):
            for reference in (tag, manifest.digest):
                reply = await client.look(method, repo, reference)
                assert (reply.status, reply.body) == (200, body)
        assert (await client.get_blob(repo, manifest.blobs[0].digest)).body == manifest.blobs[0].content
        listing = (await client.send("GET", tags_of(repo))).json()
        assert listing["name"] == repo
        assert tag in listing["tags"]
        if REFERRERS in registry.supports:
            assert (await client.send("GET", referrers_of(repo, manifest.digest))).json()["manifests"] == []
        assert (await client.send("DELETE", await client.begin(repo))).status == 204
        if TAG_DELETION in registry.supports:
            assert (await client.send("DELETE", manifest_at(repo, tag))).status == 202
        assert (await client.send("DELETE", manifest_at(repo, manifest.digest))).status == 202
        assert (await client.send("DELETE", blob_at(repo, manifest.blobs[0].digest))).status == 202

    @pytest.mark.parametrize("form", ["{0}", "{0}/sub", "a.b-{0}", "a__{0}", "a---{0}", "0{0}", "{0}/v2"])
    async def test_name_of_any_legal_form(self, client: Client, registry: Registry, form: str) -> None:
        """Every separator that the grammar allows can stand in a name (spec: pulling manifests)."""
        repo, manifest = f"{registry.namespace}/{form.format(uuid4().hex)}", image()
        await client.push(repo, manifest, "v1")
        assert (await client.look("GET", repo, "v1")).body == manifest.content
        assert sorted(await client.tags(repo)) == ["v1"]

    async def test_longest_name(self, client: Client, registry: Registry) -> None:
        """A name of 255 characters works (Distribution: limit of a name)."""
        start = f"{registry.namespace}/{uuid4().hex}"
        repo, manifest = start + "x" * (255 - len(start)), image()
        assert re.fullmatch(r".{255}", repo)
        await client.push(repo, manifest, "v1")
        assert (await client.look("GET", repo, "v1")).body == manifest.content

    async def test_spellings_are_kept_apart(self, client: Client, repo: str) -> None:
        """Two spellings of one document are two manifests (spec: exact byte representation)."""
        plain = image()
        spaced = Manifest(encode(plain.document) + b"\n", plain.media_type, plain.blobs)
        await client.push(repo, plain, "plain")
        await client.push(repo, spaced, "spaced")
        assert (await client.look("GET", repo, "plain")).body == plain.content
        assert (await client.look("GET", repo, "spaced")).body == spaced.content


def _require(registry: Registry, way: Way, algorithm: str = "sha256") -> None:
    """Skip where the registry lacks the way or the algorithm."""
    if way is _by_single_post:
        registry.require(SINGLE_POST)
    if algorithm != "sha256":
        registry.require(SHA512)
