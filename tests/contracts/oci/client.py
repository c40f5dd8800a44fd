"""A client that sends exactly what it is told to, and hides nothing of the answer."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, cast
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from .content import OCTET_STREAM, Blob, Manifest

# What a registry may be unable to do. A test, or a row, that is about one of these is skipped where it is missing;
# only a registry without ERROR_BODIES is still asked, and has to give no more than the status of its refusals.
# Distribution 2.8.2 has none of them: ``supports=frozenset()``.
SHA512: Final = "sha512"
SHA512_MOUNTS: Final = "sha512-mounts"
"""Not where the bytes lie in a registry that links by sha256 alone: then the blob is uploaded."""
"""Blobs and manifests are addressed by sha512 as well."""
REFERRERS: Final = "referrers"
"""The referrers API answers, filters by artifactType, and a push says OCI-Subject (end-12)."""
TAG_PAGING: Final = "tag-paging"
"""tags/list is in order, obeys n and last and gives a Link (end-8)."""
TAG_DELETION: Final = "tag-deletion"
"""A tag can be deleted alone (end-9)."""
TAG_PARAMETERS: Final = "tag-parameters"
"""A push by digest sets the tags of its query (end-7b)."""
CHUNK_ORDER: Final = "chunk-order"
"""A chunk out of order is refused and the upload goes on (end-5, end-13)."""
SINGLE_POST: Final = "single-post"
"""A blob can be pushed by one POST (end-4b)."""
REPEATED_PUT: Final = "repeated-put"
"""The closing PUT of an upload may be repeated (Use cases: resumable push)."""
ANY_ACCEPT: Final = "any-accept"
"""A manifest is served whatever form the Accept header has, or without one (end-3)."""
BAD_RANGES: Final = "bad-ranges"
"""A Range that the blob doesn't have is 416; one that makes no sense, or on HEAD, is ignored (RFC 9110, 14.2)."""
FOREIGN_LAYERS: Final = "foreign-layers"
"""A manifest may refer to layers that are on somebody else's server."""
LIMITS: Final = "limits"
"""A manifest over 4 MiB is 413; a name over 255, a tag over 128 characters and an oversized header are refused."""
STRICT_ROUTING: Final = "strict-routing"
"""The raw path is what counts: nothing in it is decoded, joined or redirected before it is parsed; and every endpoint
has its own methods only."""
STRICT_INPUT: Final = "strict-input"
"""Malformed digests, bodies and values are refused by a 4xx rather than an error of the server's own."""
ERROR_BODIES: Final = "error-bodies"
"""Every refusal, also of a method, a path or a header, has a body in OCI form."""

EVERYTHING: Final = frozenset(
    {
        SHA512,
        SHA512_MOUNTS,
        REFERRERS,
        TAG_PAGING,
        TAG_DELETION,
        TAG_PARAMETERS,
        CHUNK_ORDER,
        SINGLE_POST,
        REPEATED_PUT,
        ANY_ACCEPT,
        BAD_RANGES,
        FOREIGN_LAYERS,
        LIMITS,
        STRICT_ROUTING,
        STRICT_INPUT,
        ERROR_BODIES,
    }
)

# The codes of the specification, the two that it keeps for older registries, and the two of Distribution 3 for
# questions on which the specification is silent.
ERROR_CODES: Final = frozenset(
    {
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
        "TAG_INVALID",
        "MANIFEST_UNVERIFIED",
        "PAGINATION_NUMBER_INVALID",
        "RANGE_INVALID",
    }
)

ANSWER_SECONDS: Final = 20
CHUNK_BYTES: Final = 1000
LARGE_BODY_BYTES: Final = 512 * 1024
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Registry:
    """Where a registry listens, and which part of it the suite may use.

    Repositories are made as ``f"{namespace}/<one or two more components>"``. With a username, every request carries
    Basic credentials that may do everything in both namespaces.
    """

    base_url: str
    namespace: str
    other_namespace: str
    username: str | None = None
    password: str | None = None
    supports: frozenset[str] = EVERYTHING

    def require(self, capability: str) -> None:
        """Skip the running test if the registry can't do what it is about."""
        if capability not in self.supports:
            pytest.skip(f"this registry has no {capability}")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, with the bytes as they came."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def location(self) -> str:
        """The Location header, which the answer must have."""
        location = self.headers.get("Location", "")
        assert location, f"no Location in a {self.status} answer"
        return location

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)

    def codes(self) -> list[str]:
        """Check that the body is an error in OCI form (spec: error codes) and give its codes."""
        assert self.headers.get("Content-Type", "").startswith("application/json"), self
        document = self.json()
        assert isinstance(document, dict), self
        assert document.get("errors"), self
        for error in document["errors"]:
            assert error["code"] in ERROR_CODES, self
            assert isinstance(error["message"], str), self
        return [error["code"] for error in document["errors"]]


def with_query(target: str, **parameters: str) -> str:
    """Add *parameters*, percent-encoded, to a target that may already have a query of its own."""
    if not parameters:
        return target
    added = "&".join(f"{quote(key, safe='-')}={quote(value, safe='')}" for key, value in parameters.items())
    return f"{target}{'&' if '?' in target else '?'}{added}"


def manifest_at(repo: str, reference: str) -> str:
    """Give the path of a manifest (end-3, end-7, end-9)."""
    return f"/v2/{repo}/manifests/{reference}"


def blob_at(repo: str, digest: str) -> str:
    """Give the path of a blob (end-2, end-10)."""
    return f"/v2/{repo}/blobs/{digest}"


def uploads_of(repo: str, **parameters: str) -> str:
    """Give the path where uploads begin (end-4, end-11)."""
    return with_query(f"/v2/{repo}/blobs/uploads/", **parameters)


def tags_of(repo: str, **parameters: str) -> str:
    """Give the path of a repository's tags (end-8)."""
    return with_query(f"/v2/{repo}/tags/list", **parameters)


def referrers_of(repo: str, digest: str, **parameters: str) -> str:
    """Give the path of a manifest's referrers (end-12)."""
    return with_query(f"/v2/{repo}/referrers/{digest}", **parameters)


def next_page(reply: Reply) -> str | None:
    """Give the target of a Link with rel="next" (RFC 5988), None without one."""
    link = reply.headers.get("Link")
    if link is None:
        return None
    found = re.fullmatch(r"<([^>]+)>\s*;\s*rel=\"?next\"?", link.strip())
    assert found, f"not a Link to the next page: {link}"
    return found[1]


async def pieces(*contents: bytes) -> AsyncIterator[bytes]:
    """Stream *contents*, so that the request has Transfer-Encoding: chunked and no length."""
    for content in contents:
        yield content


class Client:
    """Requests to one registry: raw paths, nothing unpacked, no redirect followed, no header of its own."""

    def __init__(self, registry: Registry, session: aiohttp.ClientSession) -> None:
        self.registry = registry
        self._session = session
        self._authorization: dict[str, str] = {}
        if registry.username is not None:
            pair = f"{registry.username}:{registry.password or ''}"
            self._authorization = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    @classmethod
    @asynccontextmanager
    async def connect(cls, registry: Registry) -> AsyncIterator[Client]:
        """Open a client and close it after use."""
        async with aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        ) as session:
            yield cls(registry, session)

    # -- one request -----------------------------------------------------------------------------

    async def send(self, method: str, target: str, *, headers: Headers = (), body: Body | None = None) -> Reply:
        """Send one request to a path or URL, which goes out undecoded, and read the whole answer."""
        fields = CIMultiDict(self._authorization)
        fields.extend(headers)
        url = URL(urljoin(self.registry.base_url, target), encoded=True)
        # aiohttp wants large bodies as files, so as not to write them in one go.
        data = io.BytesIO(body) if isinstance(body, bytes) and len(body) >= LARGE_BODY_BYTES else body
        async with self._session.request(method, url, headers=fields, data=data, allow_redirects=False) as answer:
            return Reply(answer.status, CIMultiDict(answer.headers), await answer.read())

    def wire(self, method: str, target: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> bytes:
        """Write a request as bytes for ``exchange``, with no length but the one in *headers*."""
        fields = [("Host", urlsplit(self.registry.base_url).netloc), ("Connection", "close")]
        fields += [*self._authorization.items(), *headers]
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    async def exchange(self, request: bytes, *, method: str = "GET") -> Reply | None:
        """Send bytes over a socket of their own and end the sending; None if the registry closes without answering.

        Sends and receives at once, and keeps what was received if the registry hangs up in the middle.
        """
        where = urlsplit(self.registry.base_url)
        loop = asyncio.get_running_loop()
        received = bytearray()
        async with asyncio.timeout(ANSWER_SECONDS):
            with socket.socket() as connection:
                connection.settimeout(0)
                await loop.sock_connect(connection, (where.hostname, where.port))
                sending = asyncio.create_task(_send_all(connection, request))
                with suppress(ConnectionError):
                    while data := await loop.sock_recv(connection, 65536):
                        received += data
                sending.cancel()
                await asyncio.wait([sending])
        return _parsed(bytes(received), method)

    # -- whole steps of a push, each of which has to succeed ----------------------------------------

    async def begin(self, repo: str, **parameters: str) -> str:
        """Begin an upload and give its location (end-4a, end-4c)."""
        reply = await self.send("POST", uploads_of(repo, **parameters))
        assert reply.status == 202, reply
        assert int(reply.headers.get("OCI-Chunk-Min-Length", "0")) <= CHUNK_BYTES, "the suite's chunks are too small"
        return reply.location

    async def push_blob(self, repo: str, blob: Blob) -> None:
        """Push a blob by POST and PUT (end-4a, end-6)."""
        algorithm = {} if blob.algorithm == "sha256" else {"digest-algorithm": blob.algorithm}
        location = await self.begin(repo, **algorithm)
        reply = await self.put_blob(location, blob.digest, blob.content)
        assert reply.status == 201, reply

    async def put_blob(self, location: str, digest: str, body: Body = b"", *, headers: Headers = ()) -> Reply:
        """Close an upload (end-6)."""
        fields = CIMultiDict({"Content-Type": OCTET_STREAM})
        fields.extend(headers)
        return await self.send("PUT", with_query(location, digest=digest), headers=fields, body=body)

    async def patch(self, location: str, body: Body, *, at: int | None = None) -> Reply:
        """Send a part of a blob, as the chunk that begins *at* or as a stream (end-5)."""
        headers = {"Content-Type": OCTET_STREAM}
        if at is not None:
            assert isinstance(body, bytes)
            headers["Content-Range"] = f"{at}-{at + len(body) - 1}"
        return await self.send("PATCH", location, headers=headers, body=body)

    async def put_manifest(self, repo: str, reference: str, manifest: Manifest, **parameters: str) -> Reply:
        """Push the bytes of a manifest (end-7)."""
        target = with_query(manifest_at(repo, reference), **parameters)
        return await self.send("PUT", target, headers={"Content-Type": manifest.media_type}, body=manifest.content)

    async def prepare(self, repo: str, manifest: Manifest) -> None:
        """Push all that a manifest refers to, but not the manifest; skip where that can't be stored."""
        if manifest.foreign:
            self.registry.require(FOREIGN_LAYERS)
        await asyncio.gather(*(self.push_blob(repo, blob) for blob in manifest.blobs))
        for child in dict.fromkeys(manifest.children):
            await self.push(repo, child)

    async def push(self, repo: str, manifest: Manifest, *references: str) -> None:
        """Push a manifest with all that it refers to, under each of *references*, or by its digest."""
        await self.prepare(repo, manifest)
        for reference in references or (manifest.digest,):
            reply = await self.put_manifest(repo, reference, manifest)
            assert reply.status == 201, reply

    # -- looking ------------------------------------------------------------------------------------

    async def look(self, method: str, repo: str, reference: str) -> Reply:
        """Ask for a manifest of any usual type (end-3)."""
        return await self.send(method, manifest_at(repo, reference), headers={"Accept": MANIFEST_TYPES})

    async def get_blob(self, repo: str, digest: str, *, headers: Headers = ()) -> Reply:
        """Pull a blob (end-2)."""
        return await self.send("GET", blob_at(repo, digest), headers=headers)

    async def tags(self, repo: str, **parameters: str) -> list[str]:
        """List the tags of a repository that may be gone with its last tag (end-8)."""
        reply = await self.send("GET", tags_of(repo, **parameters))
        if reply.status == 404:
            return []
        assert reply.status == 200, reply
        document = reply.json()
        assert document["name"] == repo
        return list(document["tags"] or [])

    # -- refusals -------------------------------------------------------------------------------------

    def refused(self, reply: Reply | None, *statuses: int, codes: Sequence[str] = ()) -> None:
        """Check that the answer is a refusal with one of *statuses* in OCI form, and one of *codes* if any are given.

        A registry without error bodies has only to give the status.
        """
        assert reply is not None, "the registry closed the connection without an answer"
        assert reply.status in statuses, reply
        if ERROR_BODIES in self.registry.supports:
            said = reply.codes()
            assert not codes or said[0] in codes, reply


async def _send_all(connection: socket.socket, request: bytes) -> None:
    """Send a request and say that nothing follows; the registry may hang up before it has read everything."""
    with suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(connection, request)
        connection.shutdown(socket.SHUT_WR)


class _Recorded:
    """The one method of a socket that http.client needs to read an answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parsed(data: bytes, method: str) -> Reply | None:
    if not data:
        return None
    response = HTTPResponse(cast("socket.socket", _Recorded(data)), method=method)
    try:
        response.begin()
        return Reply(response.status, CIMultiDict(response.getheaders()), response.read())
    except HTTPException as exc:
        raise AssertionError(f"not an HTTP answer: {data[:200]!r}") from exc
