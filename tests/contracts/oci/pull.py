"""Pull: blobs, manifests, ranges and conditional requests (spec: pull)."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from .base import Contract
from .client import ANY_ACCEPT, BAD_RANGES, SHA512, blob_at, manifest_at
from .content import KINDS, Blob, Manifest, artifact, image, platforms, random_blob, random_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .client import Client, Registry

ALGORITHMS = ["sha256", "sha512"]
AGREEING_HEADERS = ["Content-Length", "Content-Type", "Docker-Content-Digest", "ETag"]
EVERY_KIND = [pytest.param(build, id=kind) for kind, build in KINDS.items()]
SIZE = 2048


@dataclass(frozen=True, slots=True)
class Ranged:
    """A Range header, the statuses that may answer it, and the part of the blob that a 206 has."""

    header: str
    statuses: tuple[int, ...]
    first: int = 0
    end: int = SIZE


RANGES = [
    pytest.param(Ranged("bytes=500-1499", (206,), 500, 1500), id="single"),
    pytest.param(Ranged("bytes=0-0", (206,), 0, 1), id="first-byte"),
    pytest.param(Ranged("bytes=2047-2047", (206,), 2047, 2048), id="last-byte"),
    pytest.param(Ranged("bytes=0-2047", (206,)), id="everything"),
    pytest.param(Ranged("bytes=500-", (206,), 500, SIZE), id="open"),
    pytest.param(Ranged("bytes=0-", (206,)), id="open-from-zero"),
    pytest.param(Ranged("bytes=-500", (206,), SIZE - 500, SIZE), id="suffix"),
    # RFC 9110, 14.1.2: a suffix longer than the blob is the whole blob.
    pytest.param(Ranged("bytes=-5000", (200, 206)), id="suffix-longer-than-the-blob"),
    pytest.param(Ranged("bytes=2000-5000", (206,), 2000, SIZE), id="past-the-end"),
    pytest.param(Ranged("bytes=5000-10000", (416,)), id="unsatisfiable"),
    pytest.param(Ranged("bytes=2048-", (416,)), id="unsatisfiable-at-the-end"),
    pytest.param(Ranged("bytes=-0", (416,)), id="unsatisfiable-empty-suffix"),
    # RFC 9110 leaves a reversed range to the server; the conformance suite wants 416.
    pytest.param(Ranged("bytes=500-0", (416,)), id="reversed"),
]

# RFC 9110, 14.2: an unknown unit MUST be ignored, a malformed specifier MAY be.
IGNORED_RANGES = [
    pytest.param("octets=0-5", id="unknown-unit"),
    pytest.param("bytes=abc", id="letters"),
    pytest.param("bytes=", id="empty"),
    pytest.param("bytes=-", id="dash"),
    pytest.param("bytes=--5", id="two-dashes"),
    pytest.param("bytes=5", id="no-dash"),
    pytest.param("bytes=1.5-3", id="fraction"),
    pytest.param("bytes=0x1-0x3", id="hexadecimal"),
    pytest.param("bytes=+1-3", id="signed"),
    pytest.param("bytes 0-5", id="no-equals"),
    pytest.param("5-9", id="no-unit"),
]

ACCEPTS = [
    pytest.param([], id="absent"),
    pytest.param([("Accept", "*/*")], id="anything"),
    pytest.param([("Accept", "{0}, application/json;q=0.5")], id="one-line"),
    pytest.param([("Accept", "application/json"), ("Accept", "{0}")], id="several-lines"),
    pytest.param([("Accept", "text/plain;q=0.1,{0};q=0.9")], id="with-quality"),
    pytest.param([("Accept", "application/*")], id="any-of-application"),
]


class PullContract(Contract):
    """What a client that pulls may rely on."""

    async def test_registry_answers_its_ping(self, client: Client) -> None:
        """GET /v2/ is 200 and names the API as Distribution does (end-1)."""
        reply = await client.send("GET", "/v2/")
        assert reply.status == 200
        assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"

    # -- what is not there ----------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("used", [True, False], ids=["repository", "no-repository"])
    async def test_missing_blob(self, client: Client, repo: str, method: str, algorithm: str, *, used: bool) -> None:
        """A blob that is not in the repository is 404, whether or not the repository exists (end-2)."""
        if used:
            await client.push(repo, image(), "v1")
        reply = await client.send(method, blob_at(repo, random_digest(algorithm)))
        assert reply.status == 404
        if method == "GET":
            client.refused(reply, 404, codes=["BLOB_UNKNOWN", "NAME_UNKNOWN"])
        else:
            assert reply.body == b""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "reference",
        ["missing", ".INVALID_MANIFEST_NAME", random_digest(), random_digest("sha512")],
        ids=["tag", "impossible-tag", "sha256", "sha512"],
    )
    @pytest.mark.parametrize("used", [True, False], ids=["repository", "no-repository"])
    async def test_missing_manifest(
        self, client: Client, repo: str, method: str, reference: str, *, used: bool
    ) -> None:
        """A manifest that is not in the repository is 404, also under a name that no tag can have (end-3)."""
        if used:
            await client.push(repo, image(), "v1")
        reply = await client.look(method, repo, reference)
        assert reply.status == 404
        if method == "GET":
            client.refused(reply, 404, codes=["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "TAG_INVALID"])
        else:
            assert reply.body == b""

    async def test_blob_of_another_repository(self, client: Client, repo: str, other_repo: str) -> None:
        """A blob is not served through a repository that doesn't have it (end-2: "in the repository")."""
        blob = random_blob()
        await client.push_blob(repo, blob)
        await client.push_blob(other_repo, random_blob())
        assert (await client.get_blob(other_repo, blob.digest)).status == 404

    async def test_manifest_of_another_repository(self, client: Client, repo: str, other_repo: str) -> None:
        """A manifest is not served through a repository that doesn't have it (end-3: "in the repository")."""
        manifest = image()
        await client.push(repo, manifest)
        await client.push(other_repo, image())
        assert (await client.look("GET", other_repo, manifest.digest)).status == 404

    # -- what is there --------------------------------------------------------------------------------

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize(
        "content",
        [b"", b"{}", b"x", os.urandom(SIZE), os.urandom(1024 * 1024 + 1), gzip.compress(b"packed")],
        ids=["empty", "empty-json", "one-byte", "2-kibibytes", "over-1-mebibyte", "compressed"],
    )
    async def test_blob_round_trip(
        self, client: Client, registry: Registry, repo: str, content: bytes, algorithm: str
    ) -> None:
        """A pushed blob comes back byte for byte, with its length and digest (end-2)."""
        if algorithm != "sha256":
            registry.require(SHA512)
        blob = Blob(content, algorithm=algorithm)
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest)
        assert (reply.status, reply.body) == (200, content)
        assert reply.headers["Content-Length"] == str(len(content))
        assert reply.headers["Docker-Content-Digest"] == blob.digest

    async def test_blob_is_not_compressed_on_the_way(self, client: Client, repo: str) -> None:
        """Accept-Encoding changes nothing in the bytes of a blob, which its digest names (end-2)."""
        blob = Blob(b"compressible " * 1000)
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
        assert reply.body == blob.content
        assert "Content-Encoding" not in reply.headers

    @pytest.mark.parametrize("build", EVERY_KIND)
    async def test_manifest_round_trip(self, client: Client, repo: str, build: Callable[[], Manifest]) -> None:
        """A pushed manifest comes back by tag and digest byte for byte, with its type, length and digest (end-3)."""
        manifest = build()
        await client.push(repo, manifest, "v1")
        for reference in ("v1", manifest.digest):
            reply = await client.look("GET", repo, reference)
            assert (reply.status, reply.body) == (200, manifest.content)
            assert reply.headers["Content-Type"] == manifest.media_type
            assert reply.headers["Content-Length"] == str(len(manifest.content))
            assert reply.headers["Docker-Content-Digest"] == manifest.digest

    @pytest.mark.parametrize(
        "build", [image, artifact, platforms, KINDS["index-nested"], KINDS["docker-manifest-list"]]
    )
    async def test_children_and_blobs_round_trip(
        self, client: Client, repo: str, build: Callable[[], Manifest]
    ) -> None:
        """All that a manifest was pushed with can be pulled and looked up (end-2, end-3)."""
        manifest = build()
        await client.push(repo, manifest, "v1")
        for member in manifest.family:
            assert (await client.look("GET", repo, member.digest)).body == member.content
            for blob in member.blobs:
                head = await client.send("HEAD", blob_at(repo, blob.digest))
                assert (head.status, head.headers["Content-Length"]) == (200, str(len(blob.content)))
                assert (await client.get_blob(repo, blob.digest)).body == blob.content

    @pytest.mark.parametrize("build", [image, platforms, artifact])
    async def test_sha512_round_trip(
        self, client: Client, registry: Registry, repo: str, build: Callable[..., Manifest]
    ) -> None:
        """A manifest pushed by sha512 with blobs under sha512 comes back by that digest (end-3)."""
        registry.require(SHA512)
        manifest = build(algorithm="sha512")
        await client.push(repo, manifest)
        for member in manifest.family:
            for method in ("GET", "HEAD"):
                reply = await client.look(method, repo, member.digest)
                assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, member.digest)
                assert reply.body == (member.content if method == "GET" else b"")

    @pytest.mark.parametrize("colon", [":", "%3A", "%3a"], ids=["plain", "encoded", "encoded-in-lower-case"])
    async def test_colon_of_a_digest_may_be_encoded(self, client: Client, repo: str, colon: str) -> None:
        """The colon of a digest may be percent-encoded in a path, as some clients send it (RFC 3986, 2.1)."""
        manifest = image()
        await client.push(repo, manifest)
        blob = manifest.blobs[0]
        assert (await client.look("GET", repo, manifest.digest.replace(":", colon))).body == manifest.content
        assert (await client.get_blob(repo, blob.digest.replace(":", colon))).body == blob.content

    @pytest.mark.parametrize("build", EVERY_KIND)
    async def test_manifest_head_agrees_with_get(
        self, client: Client, repo: str, build: Callable[[], Manifest]
    ) -> None:
        """HEAD of a manifest is GET without the body (end-3)."""
        manifest = build()
        await client.push(repo, manifest, "v1")
        for reference in ("v1", manifest.digest):
            head, get = [await client.look(method, repo, reference) for method in ("HEAD", "GET")]
            assert (head.status, head.body) == (get.status, b"")
            assert _agreeing(head.headers) == _agreeing(get.headers)
            assert head.headers["Content-Length"] == str(len(manifest.content))

    @pytest.mark.parametrize("size", [0, 2, SIZE])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_blob_head_agrees_with_get(
        self, client: Client, registry: Registry, repo: str, size: int, algorithm: str
    ) -> None:
        """HEAD of a blob is GET without the body (end-2)."""
        if algorithm != "sha256":
            registry.require(SHA512)
        blob = random_blob(size, algorithm=algorithm)
        await client.push_blob(repo, blob)
        head, get = [await client.send(method, blob_at(repo, blob.digest)) for method in ("HEAD", "GET")]
        assert (head.status, head.body) == (200, b"")
        assert _agreeing(head.headers) == _agreeing(get.headers)
        assert head.headers["Content-Length"] == str(size)

    @pytest.mark.parametrize("form", ACCEPTS)
    @pytest.mark.parametrize("build", [image, KINDS["docker-image"], platforms, KINDS["docker-manifest-list"]])
    async def test_manifest_whatever_the_accept_header_looks_like(
        self,
        client: Client,
        registry: Registry,
        repo: str,
        build: Callable[[], Manifest],
        form: Sequence[tuple[str, str]],
    ) -> None:
        """An Accept header that covers the type gets the manifest as it was pushed, and so does none (end-3)."""
        registry.require(ANY_ACCEPT)
        manifest = build()
        await client.push(repo, manifest, "v1")
        headers = [(name, value.format(manifest.media_type)) for name, value in form]
        reply = await client.send("GET", manifest_at(repo, "v1"), headers=headers)
        assert (reply.status, reply.body) == (200, manifest.content)
        assert reply.headers["Content-Type"] == manifest.media_type

    # -- ranges ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("row", RANGES)
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_range(self, client: Client, registry: Registry, repo: str, row: Ranged, algorithm: str) -> None:
        """A range of a blob is 206 with that part, or 416 where the blob has no such part (RFC 9110, 14)."""
        if algorithm != "sha256":
            registry.require(SHA512)
        if 416 in row.statuses:
            registry.require(BAD_RANGES)
        blob = random_blob(SIZE, algorithm=algorithm)
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest, headers={"Range": row.header})
        assert reply.status in row.statuses
        part = blob.content[row.first : row.end]
        if reply.status == 206:
            assert reply.body == part
            assert reply.headers["Content-Length"] == str(len(part))
            assert reply.headers["Content-Range"] in [
                f"bytes {row.first}-{row.end - 1}/{total}" for total in (SIZE, "*")
            ]
        elif reply.status == 416:
            assert reply.headers["Content-Range"] == f"bytes */{SIZE}"
        else:
            assert reply.body == blob.content

    @pytest.mark.parametrize("header", IGNORED_RANGES)
    async def test_range_that_is_none(self, client: Client, registry: Registry, repo: str, header: str) -> None:
        """A Range header that makes no sense is ignored (RFC 9110, 14.2)."""
        registry.require(BAD_RANGES)
        blob = random_blob(SIZE)
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest, headers={"Range": header})
        assert (reply.status, reply.body) == (200, blob.content)

    async def test_several_ranges(self, client: Client, repo: str) -> None:
        """Several ranges are either answered as parts or ignored, never as another part (RFC 9110, 14.2)."""
        blob = random_blob(SIZE)
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest, headers={"Range": "bytes=0-99,1000-1099"})
        if reply.status == 206:
            assert reply.headers["Content-Type"].startswith("multipart/byteranges")
            assert blob.content[:100] in reply.body
            assert blob.content[1000:1100] in reply.body
        else:
            assert (reply.status, reply.body) == (200, blob.content)

    async def test_head_ignores_ranges(self, client: Client, registry: Registry, repo: str) -> None:
        """HEAD with a Range is HEAD of the whole blob (RFC 9110, 14.2: only GET)."""
        registry.require(BAD_RANGES)
        blob = random_blob(SIZE)
        await client.push_blob(repo, blob)
        reply = await client.send("HEAD", blob_at(repo, blob.digest), headers={"Range": "bytes=0-9"})
        assert (reply.status, reply.headers["Content-Length"]) == (200, str(SIZE))

    async def test_range_of_nothing(self, client: Client, repo: str) -> None:
        """An empty blob has no range to give: 416, or the empty blob (RFC 9110, 14.1.2)."""
        blob = Blob(b"")
        await client.push_blob(repo, blob)
        reply = await client.get_blob(repo, blob.digest, headers={"Range": "bytes=0-"})
        assert reply.status in (200, 416)

    async def test_interrupted_pull_resumes(self, client: Client, repo: str) -> None:
        """The parts of a blob, pulled one after the other, are the blob (spec: resumable pull)."""
        blob = random_blob(300_000)
        await client.push_blob(repo, blob)
        pulled = b""
        while len(pulled) < len(blob.content):
            header = {"Range": f"bytes={len(pulled)}-{len(pulled) + 99_999}"}
            reply = await client.get_blob(repo, blob.digest, headers=header)
            assert reply.status == 206
            pulled += reply.body
        assert pulled == blob.content

    @pytest.mark.parametrize(
        ("condition", "status"),
        [
            pytest.param("{0}", 206, id="same"),
            pytest.param('"something-else"', 200, id="changed"),
            # RFC 9110, 13.1.5: If-Range compares strongly, and a weak validator never matches.
            pytest.param("W/{0}", 200, id="weak"),
            pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 200, id="old-date"),
        ],
    )
    async def test_if_range(self, client: Client, repo: str, condition: str, status: int) -> None:
        """A range under If-Range is served while the ETag is still the same, else the whole blob (RFC 9110, 13.1.5)."""
        blob = random_blob(SIZE)
        await client.push_blob(repo, blob)
        etag = (await client.send("HEAD", blob_at(repo, blob.digest))).headers["ETag"]
        headers = {"Range": "bytes=0-9", "If-Range": condition.format(etag)}
        reply = await client.get_blob(repo, blob.digest, headers=headers)
        assert reply.status == status
        assert reply.body == (blob.content[:10] if status == 206 else blob.content)

    # -- conditional requests -------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        ("condition", "status"),
        [
            pytest.param("{0}", 304, id="same"),
            pytest.param("W/{0}", 304, id="weak"),
            pytest.param('"other", {0}', 304, id="one-of-a-list"),
            pytest.param("*", 304, id="anything"),
            pytest.param('"other"', 200, id="changed"),
        ],
    )
    async def test_blob_if_none_match(
        self, client: Client, repo: str, method: str, condition: str, status: int
    ) -> None:
        """A blob that the client already has is 304 without a body (RFC 9110, 13.1.2)."""
        blob = random_blob(SIZE)
        await client.push_blob(repo, blob)
        etag = (await client.send("HEAD", blob_at(repo, blob.digest))).headers["ETag"]
        headers = {"If-None-Match": condition.format(etag)}
        reply = await client.send(method, blob_at(repo, blob.digest), headers=headers)
        assert reply.status == status
        assert reply.headers["ETag"] == etag
        assert reply.body == (blob.content if (method, status) == ("GET", 200) else b"")

    @pytest.mark.parametrize("reference", ["tag", "digest"])
    async def test_manifest_if_none_match(self, client: Client, repo: str, reference: str) -> None:
        """A manifest that the client already has is 304 without a body, as on Distribution (RFC 9110, 13.1.2)."""
        manifest = image()
        await client.push(repo, manifest, "v1")
        name = "v1" if reference == "tag" else manifest.digest
        etag = (await client.look("GET", repo, name)).headers["ETag"]
        headers = {"Accept": manifest.media_type, "If-None-Match": etag}
        reply = await client.send("GET", manifest_at(repo, name), headers=headers)
        assert (reply.status, reply.body) == (304, b"")

    async def test_moved_tag_is_not_unmodified(self, client: Client, repo: str) -> None:
        """A tag that moved is 200 with the new manifest for a client that has the old one (RFC 9110, 13.1.2)."""
        old, new = image(), image()
        await client.push(repo, old, "v1")
        etag = (await client.look("GET", repo, "v1")).headers["ETag"]
        await client.push(repo, new, "v1")
        headers = {"Accept": new.media_type, "If-None-Match": etag}
        reply = await client.send("GET", manifest_at(repo, "v1"), headers=headers)
        assert (reply.status, reply.body) == (200, new.content)

    @pytest.mark.parametrize("kind", ["blob", "manifest"])
    async def test_etag_is_a_quoted_name_of_the_content(self, client: Client, repo: str, kind: str) -> None:
        """An ETag is a strong, quoted one and differs between contents (RFC 9110, 8.8.3)."""
        etags = set()
        for _ in range(2):
            manifest = image()
            await client.push(repo, manifest)
            reply = (
                await client.look("GET", repo, manifest.digest)
                if kind == "manifest"
                else await client.get_blob(repo, manifest.blobs[0].digest)
            )
            etag = reply.headers["ETag"]
            assert etag[0] == etag[-1] == '"'
            etags.add(etag)
        assert len(etags) == 2


def _agreeing(headers: Mapping[str, str]) -> dict[str, str | None]:
    """Give the headers in which HEAD and GET may not differ."""
    return {name: headers.get(name) for name in AGREEING_HEADERS}
