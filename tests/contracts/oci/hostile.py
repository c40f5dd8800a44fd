"""Bad input: each is refused by a 4xx in OCI form, never an error of the server's own, and leaves nothing behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from .base import Contract
from .client import (
    CHUNK_ORDER,
    ERROR_BODIES,
    LIMITS,
    REFERRERS,
    SINGLE_POST,
    STRICT_INPUT,
    STRICT_ROUTING,
    TAG_PAGING,
    TAG_PARAMETERS,
    Client,
    Registry,
    Reply,
    blob_at,
    manifest_at,
    referrers_of,
    tags_of,
    uploads_of,
    with_query,
)
from .content import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_IMAGE,
    OCI_INDEX,
    OCTET_STREAM,
    Document,
    Manifest,
    artifact,
    digest_of,
    encode,
    image,
    index,
    random_blob,
    random_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HEX = "0123456789abcdef" * 4

# Digests that break the grammar, and digests that keep it, or are no plain text, but that no registry can have
# something under (image-spec: digests).
MALFORMED_DIGESTS = [
    pytest.param("sha256:totallywrong", id="not-hexadecimal"),
    pytest.param("sha256:", id="nothing-encoded"),
    pytest.param(f"sha256:{HEX[1:]}", id="too-short"),
    pytest.param(f"sha256:{HEX}0", id="too-long"),
    pytest.param(f"sha256:{HEX.upper()}", id="upper-case"),
    pytest.param(f"sha512:{HEX}", id="length-of-another-algorithm"),
    pytest.param(f"SHA256:{HEX}", id="upper-case-algorithm"),
    pytest.param(f":{HEX}", id="no-algorithm"),
    pytest.param("sha256:" + "z" * 5000, id="very-long"),
]
UNSUPPORTED_DIGESTS = [
    pytest.param(f"md5:{HEX[:32]}", id="weak-algorithm"),
    pytest.param(f"sha1:{HEX[:40]}", id="another-weak-algorithm"),
    pytest.param("unknown:abcdef", id="unknown-algorithm"),
    pytest.param(f"sha256+b64:{HEX}", id="compound-algorithm"),
    pytest.param("sha256:%00", id="null-byte"),
    pytest.param("sha256:%0d%0aX-Injected:%20yes", id="line-break"),
    pytest.param("sha256:..%2f..%2f..%2fetc%2fpasswd", id="encoded-traversal"),
    pytest.param("sha256:%2e%2e", id="encoded-dots"),
]
BAD_DIGESTS = [*MALFORMED_DIGESTS, *UNSUPPORTED_DIGESTS]

# Names that the grammar excludes, in place of a repository below the namespace; sent as they stand.
BAD_NAMES = [
    pytest.param("UPPER", id="upper-case"),
    pytest.param("a..b", id="two-dots"),
    pytest.param("a._b", id="mixed-separators"),
    pytest.param("a___b", id="three-underscores"),
    pytest.param("-a", id="leading-dash"),
    pytest.param("a-", id="trailing-dash"),
    pytest.param("_a", id="leading-underscore"),
    pytest.param(".a", id="leading-dot"),
    pytest.param("a//b", id="empty-component"),
    pytest.param("a/", id="trailing-slash"),
    pytest.param("a:b", id="colon"),
    pytest.param("a@b", id="at"),
    pytest.param("a$b", id="dollar"),
    pytest.param("a~b", id="tilde"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a%5cb", id="encoded-backslash"),
    pytest.param("a%20b", id="space"),
    pytest.param("a%00b", id="null-byte"),
    pytest.param("a%0d%0aX-Injected:%20yes", id="line-break"),
    pytest.param("a%zzb", id="broken-escape"),
    pytest.param("a%", id="unfinished-escape"),
    pytest.param("%c3%a9", id="accent"),
    pytest.param("%c0%ae%c0%ae", id="overlong-dots"),
    pytest.param("%ff%fe", id="not-utf-8"),
    pytest.param(".", id="dot"),
    pytest.param("..", id="dot-dot"),
    pytest.param("%2e%2e", id="encoded-dot-dot"),
    pytest.param("%252e%252e", id="twice-encoded-dot-dot"),
    pytest.param("x/..", id="up-again"),
]

# Ways to spell the path of a repository that exists, none of which may lead there. The fields are the namespace,
# its slashes encoded, and the last component of the repository.
DISGUISES = [
    pytest.param("{encoded}%2f{name}", id="encoded-slashes"),
    pytest.param("{space}%2f{name}", id="one-encoded-slash"),
    pytest.param("{space}%2F{name}", id="one-upper-case-encoded-slash"),
    pytest.param("{space}%252f{name}", id="twice-encoded-slash"),
    pytest.param("{space}/x/../{name}", id="traversal"),
    pytest.param("{space}/x/%2e%2e/{name}", id="encoded-traversal"),
    pytest.param("{space}/./{name}", id="dot"),
    pytest.param("{space}/%2e/{name}", id="encoded-dot"),
    pytest.param("{space}//{name}", id="double-slash"),
    pytest.param("/{space}/{name}", id="leading-slash"),
    pytest.param("{space}/{name}/", id="trailing-slash"),
    pytest.param("../v2/{space}/{name}", id="from-above"),
    pytest.param("{space}\\{name}", id="backslash"),
    pytest.param("{space}/{name}%00", id="null-byte"),
    pytest.param("{space}/{name};x=y", id="path-parameter"),
    pytest.param("{space}/{upper}", id="upper-case"),
]

BAD_TAGS = [
    pytest.param(".hidden", id="leading-dot"),
    pytest.param("-dash", id="leading-dash"),
    pytest.param("a%20b", id="space"),
    pytest.param("a+b", id="plus"),
    pytest.param("a$b", id="dollar"),
    pytest.param("a@b", id="at"),
    pytest.param("a:b", id="colon"),
    pytest.param("a%2fb", id="encoded-slash"),
    pytest.param("%2e%2e", id="encoded-dot-dot"),
    pytest.param("..", id="dot-dot"),
    pytest.param("%c3%a9", id="accent"),
    pytest.param("a%00", id="null-byte"),
    pytest.param("a%zz", id="broken-escape"),
    pytest.param("", id="empty"),
]

UPLOAD_IDS = [
    pytest.param("00000000-0000-4000-8000-000000000000", id="unknown"),
    pytest.param("not-a-uuid", id="no-uuid"),
    pytest.param("..", id="dot-dot"),
    pytest.param("../../../../etc/passwd", id="traversal"),
    pytest.param("..%2f..%2f..%2fetc%2fpasswd", id="encoded-traversal"),
    pytest.param("%2e%2e", id="encoded-dot-dot"),
    pytest.param("a%00b", id="null-byte"),
    pytest.param("a%0ab", id="line-break"),
    pytest.param("%ff", id="not-utf-8"),
    pytest.param("x" * 4000, id="very-long"),
    pytest.param("?_state=e30", id="forged-state"),
    pytest.param("00000000-0000-4000-8000-000000000000?_state=e30", id="forged-state-of-an-id"),
]

# Not "bytes 0-9/100" but "0-9" (spec: pushing a blob in chunks).
BAD_CONTENT_RANGES = [
    "abc",
    "-",
    "0",
    "0-",
    "-9",
    "9-0",
    "a-b",
    "0-9-20",
    "+0-+9",
    "0x0-0x9",
    "0-9999999999999999999999",
]

# Method, path below /v2/ (of a repository that exists), and nothing else wrong with it.
WRONG_METHODS = [
    pytest.param("POST", "", id="post-ping"),
    pytest.param("DELETE", "", id="delete-ping"),
    pytest.param("PUT", "_catalog", id="put-catalog"),
    pytest.param("POST", "{repo}/manifests/v1", id="post-manifest"),
    pytest.param("PATCH", "{repo}/manifests/v1", id="patch-manifest"),
    pytest.param("POST", "{repo}/manifests/{digest}", id="post-manifest-by-digest"),
    pytest.param("PUT", "{repo}/blobs/{digest}", id="put-blob"),
    pytest.param("POST", "{repo}/blobs/{digest}", id="post-blob"),
    pytest.param("PATCH", "{repo}/blobs/{digest}", id="patch-blob"),
    pytest.param("GET", "{repo}/blobs/uploads/", id="get-uploads"),
    pytest.param("PUT", "{repo}/blobs/uploads/", id="put-uploads"),
    pytest.param("DELETE", "{repo}/blobs/uploads/", id="delete-uploads"),
    pytest.param("POST", "{repo}/tags/list", id="post-tags"),
    pytest.param("DELETE", "{repo}/tags/list", id="delete-tags"),
    pytest.param("PUT", "{repo}/referrers/{digest}", id="put-referrers"),
    pytest.param("DELETE", "{repo}/referrers/{digest}", id="delete-referrers"),
]

SCHEMA1: Document = {
    "schemaVersion": 1,
    "name": "library/old",
    "tag": "v1",
    "architecture": "amd64",
    "fsLayers": [],
    "history": [],
}

# Bodies that are no manifest, with the type they are sent under.
NO_MANIFESTS = [
    pytest.param(b"", OCI_IMAGE, id="nothing"),
    pytest.param(b"blablabla", OCI_IMAGE, id="no-json"),
    pytest.param(b'{"schemaVersion": 2,', OCI_IMAGE, id="unfinished-json"),
    pytest.param(b"{} {}", OCI_IMAGE, id="two-documents"),
    pytest.param(b"null", OCI_IMAGE, id="null"),
    pytest.param(b"[]", OCI_IMAGE, id="list"),
    pytest.param(b'"manifest"', OCI_IMAGE, id="string"),
    pytest.param(b"2", OCI_IMAGE, id="number"),
    pytest.param(b"{}", OCI_IMAGE, id="empty-object"),
    pytest.param(b"{}", OCI_INDEX, id="empty-object-as-index"),
    pytest.param(b"{}", DOCKER_LIST, id="empty-object-as-list"),
    pytest.param(b'{"schemaVersion": 2, "\xff": 1}', OCI_IMAGE, id="not-utf-8"),
    pytest.param(b"\x00" * 64, OCI_IMAGE, id="null-bytes"),
    pytest.param(b'{"a":' * 100_000, OCI_IMAGE, id="deep-and-unfinished"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, OCI_IMAGE, id="deep-list"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, OCI_INDEX, id="deep-object"),
    pytest.param(encode(SCHEMA1), DOCKER_SCHEMA1, id="docker-schema-1"),
    pytest.param(encode(SCHEMA1), DOCKER_SCHEMA1_SIGNED, id="docker-schema-1-signed"),
    pytest.param(encode(SCHEMA1), "application/json", id="docker-schema-1-as-json"),
    pytest.param(encode(SCHEMA1), OCI_IMAGE, id="docker-schema-1-as-oci"),
]


def _changed(path: str, value: Any) -> Callable[[Document], None]:
    """Set one value of a manifest, its path given as ``layers.0.digest``."""

    def change(document: Document) -> None:
        *parents, last = path.split(".")
        place: Any = document
        for name in parents:
            place = place[int(name) if isinstance(place, list) else name]
        place[int(last) if isinstance(place, list) else last] = value

    return change


# Changes that make an otherwise complete image, or an index, invalid (image-spec: manifest, image index, descriptor).
SPOILED_IMAGES = [
    pytest.param(_changed("schemaVersion", 1), id="schema-version-1"),
    pytest.param(_changed("schemaVersion", 3), id="schema-version-3"),
    pytest.param(_changed("schemaVersion", "2"), id="schema-version-as-string"),
    pytest.param(_changed("schemaVersion", None), id="no-schema-version"),
    pytest.param(_changed("mediaType", OCI_INDEX), id="type-of-an-index"),
    pytest.param(_changed("mediaType", DOCKER_IMAGE), id="type-of-docker"),
    pytest.param(_changed("mediaType", 7), id="type-as-number"),
    pytest.param(_changed("config", None), id="no-config"),
    pytest.param(_changed("config", []), id="config-as-list"),
    pytest.param(_changed("config", "config"), id="config-as-string"),
    pytest.param(_changed("layers", {}), id="layers-as-object"),
    pytest.param(_changed("layers", "layers"), id="layers-as-string"),
    pytest.param(_changed("layers.0", "layer"), id="layer-as-string"),
    pytest.param(_changed("layers.0", []), id="layer-as-list"),
    pytest.param(_changed("layers.0", {}), id="layer-without-fields"),
    pytest.param(_changed("layers.0.digest", "sha256:totallywrong"), id="malformed-digest"),
    pytest.param(_changed("layers.0.digest", "sha256:../../../../etc/passwd"), id="traversal-in-digest"),
    pytest.param(_changed("layers.0.digest", "sha256:\x00"), id="null-byte-in-digest"),
    pytest.param(_changed("layers.0.digest", ""), id="empty-digest"),
    pytest.param(_changed("layers.0.digest", 7), id="digest-as-number"),
    pytest.param(_changed("layers.0.digest", ["sha256"]), id="digest-as-list"),
    pytest.param(_changed("layers.0.size", "12"), id="size-as-string"),
    pytest.param(_changed("layers.0.size", [12]), id="size-as-list"),
    pytest.param(_changed("config.digest", "md5:" + HEX[:32]), id="weak-digest"),
    pytest.param(_changed("subject", "subject"), id="subject-as-string"),
    pytest.param(_changed("subject", {"digest": 7}), id="subject-without-digest"),
    pytest.param(_changed("subject", {"mediaType": OCI_IMAGE, "digest": "wrong", "size": 1}), id="malformed-subject"),
    pytest.param(_changed("manifests", []), id="image-and-index"),
]
SPOILED_INDEXES = [
    pytest.param(_changed("schemaVersion", 1), id="schema-version-1"),
    pytest.param(_changed("mediaType", OCI_IMAGE), id="type-of-an-image"),
    pytest.param(_changed("manifests", {}), id="manifests-as-object"),
    pytest.param(_changed("manifests", "manifests"), id="manifests-as-string"),
    pytest.param(_changed("manifests.0", "manifest"), id="manifest-as-string"),
    pytest.param(_changed("manifests.0.digest", "sha256:totallywrong"), id="malformed-digest"),
    pytest.param(_changed("manifests.0.digest", 7), id="digest-as-number"),
    pytest.param(_changed("manifests.0.size", {}), id="size-as-object"),
    pytest.param(_changed("config", {}), id="index-and-image"),
]

# Odd documents on which the specification is silent: stored or refused, but nothing breaks, also not their listing.
ODD_FIELDS: list[Any] = [
    pytest.param(_changed("annotations", {"a": "\ud800"}), id="lone-surrogate"),
    pytest.param(_changed("annotations", {"a\u0000": "\u0000"}), id="null-characters"),
    pytest.param(_changed("artifactType", "a\u0000b"), id="null-character-in-artifact-type"),
    pytest.param(_changed("artifactType", "\udfff"), id="lone-surrogate-in-artifact-type"),
    pytest.param(_changed("artifactType", "x" * 100_000), id="long-artifact-type"),
    pytest.param(_changed("artifactType", 7), id="artifact-type-as-number"),
    pytest.param(_changed("annotations", {"a": 7}), id="annotation-as-number"),
    pytest.param(_changed("annotations", [1]), id="annotations-as-list"),
    pytest.param(_changed("annotations", None), id="annotations-as-null"),
    pytest.param(_changed("config.mediaType", None), id="config-type-as-null"),
    pytest.param(_changed("layers.0.size", -1), id="negative-size"),
    pytest.param(_changed("layers.0.size", 1), id="wrong-size"),
    pytest.param(_changed("layers.0.size", 1.5), id="size-as-fraction"),
    pytest.param(_changed("layers.0.size", value=True), id="size-as-boolean"),
    pytest.param(_changed("layers.0.size", 2**63), id="size-over-63-bits"),
    pytest.param(_changed("layers.0.size", 10**30), id="size-over-all-bits"),
    pytest.param(_changed("subject.size", 2**63), id="subject-size-over-63-bits"),
    pytest.param(_changed("layers.0.urls", "https://example.com"), id="urls-as-string"),
    pytest.param(_changed("x", float("nan")), id="not-a-number"),
    pytest.param(_changed("x", json.loads("[" * 900 + "]" * 900)), id="deep-unknown-field"),
    pytest.param(_changed("layers", None), id="layers-as-null"),
]

# A body that ends early: head of the request (method, target, headers) and the part of the body that is sent.
TRUNCATIONS = [
    pytest.param([("Content-Length", "3000")], b"", id="with-length"),
    pytest.param([("Transfer-Encoding", "chunked")], b"3e8\r\n", id="in-a-chunk"),
]

# Requests that are wrong before anybody asks what they are about: request line, then header lines.
BROKEN_REQUESTS = [
    pytest.param("GARBAGE", [], id="no-request-line"),
    pytest.param("GET /v2/", [], id="no-version"),
    pytest.param("GET /v2/ HTTP/1.1", ["no colon in this line"], id="no-header-line"),
    pytest.param("GET /v2/ HTTP/1.1", ["Bad Name: x"], id="space-in-a-header-name"),
    pytest.param("GET /v2/ HTTP/1.1", ["Content-Length: abc"], id="length-of-letters"),
    pytest.param("GET /v2/ HTTP/1.1", ["Content-Length: -1"], id="negative-length"),
    pytest.param("GET /v2/ HTTP/1.1", ["Content-Length: 3", "Content-Length: 4"], id="two-lengths"),
    pytest.param("GET /v2/ HTTP/1.1", ["Transfer-Encoding: chunked, chunked"], id="chunked-twice"),
]


class HostileContract(Contract):
    """What an attacker, or a broken client, gets."""

    # -- digests --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("digest", BAD_DIGESTS)
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    @pytest.mark.parametrize("place", [blob_at, manifest_at], ids=["blob", "manifest"])
    async def test_bad_digest_in_path(
        self,
        *,
        client: Client,
        registry: Registry,
        standing_repo: str,
        place: Callable[[str, str], str],
        method: str,
        digest: str,
    ) -> None:
        """A digest that can't exist is 400 or 404 (end-2, end-3, end-9, end-10)."""
        registry.require(STRICT_INPUT)
        reply = await _raw(client, method, place(standing_repo, digest))
        assert reply.status in (400, 404)
        if method != "HEAD":
            client.refused(reply, 400, 404)

    @pytest.mark.parametrize("digest", MALFORMED_DIGESTS)
    async def test_referrers_of_malformed_digest(
        self, client: Client, registry: Registry, standing_repo: str, digest: str
    ) -> None:
        """Referrers of a digest that breaks the grammar are 400 (end-12a)."""
        registry.require(REFERRERS)
        client.refused(await _raw(client, "GET", referrers_of(standing_repo, digest)), 400)

    @pytest.mark.parametrize("digest", UNSUPPORTED_DIGESTS)
    async def test_referrers_of_unsupported_digest(
        self, client: Client, registry: Registry, standing_repo: str, digest: str
    ) -> None:
        """Referrers of a digest that nothing can have are none, or refused (end-12a)."""
        registry.require(REFERRERS)
        reply = await _raw(client, "GET", referrers_of(standing_repo, digest))
        if reply.status == 200:
            assert reply.json()["manifests"] == []
        else:
            client.refused(reply, 400, 404)

    @pytest.mark.parametrize("digest", BAD_DIGESTS)
    async def test_bad_digest_of_pushed_manifest(
        self,
        client: Client,
        registry: Registry,
        repo: str,
        digest: str,
    ) -> None:
        """A manifest can't be pushed under a digest that can't exist (end-7a)."""
        registry.require(STRICT_INPUT)
        manifest = image()
        await client.prepare(repo, manifest)
        headers = [("Content-Type", manifest.media_type), ("Content-Length", str(len(manifest.content)))]
        reply = await _raw(client, "PUT", manifest_at(repo, digest), headers, manifest.content)
        client.refused(reply, *([404, 400] if "%" in digest else [400]))
        assert await client.tags(repo) == []

    @pytest.mark.parametrize("digest", [*BAD_DIGESTS, pytest.param("", id="empty")])
    @pytest.mark.parametrize("way", ["put", "single-post"])
    async def test_bad_digest_of_upload(
        self,
        client: Client,
        registry: Registry,
        repo: str,
        way: str,
        digest: str,
    ) -> None:
        """An upload under a digest that can't exist is 400 (spec: pushing blobs)."""
        registry.require(STRICT_INPUT)
        if way == "single-post":
            registry.require(SINGLE_POST)
        target = await client.begin(repo) if way == "put" else uploads_of(repo)
        target += f"{'&' if '?' in target else '?'}digest={digest.replace('+', '%2b')}"
        method = "PUT" if way == "put" else "POST"
        reply = await client.send(method, target, headers={"Content-Type": OCTET_STREAM}, body=b"content")
        if way == "single-post" and not digest and reply.status == 202:
            return  # An empty digest may count as none, which begins an upload.
        client.refused(reply, 400, codes=["DIGEST_INVALID", "UNSUPPORTED"])

    async def test_closing_put_without_digest(self, client: Client, repo: str) -> None:
        """A closing PUT without a digest is 400, and the upload can still be closed or is gone (end-6)."""
        blob = random_blob()
        location = await client.begin(repo)
        reply = await client.send("PUT", location, headers={"Content-Type": OCTET_STREAM}, body=blob.content)
        client.refused(reply, 400, codes=["DIGEST_INVALID"])
        assert (await client.get_blob(repo, blob.digest)).status == 404

    @pytest.mark.parametrize("digest", BAD_DIGESTS)
    async def test_bad_digest_of_mount(
        self,
        client: Client,
        repo: str,
        other_repo: str,
        digest: str,
    ) -> None:
        """A mount of a digest that can't exist is refused or begins an upload (end-11)."""
        await client.push_blob(other_repo, random_blob())
        target = uploads_of(repo) + f"?mount={digest.replace('+', '%2b')}&from={quote(other_repo, safe='')}"
        reply = await client.send("POST", target)
        if reply.status != 202:
            client.refused(reply, 400, codes=["DIGEST_INVALID", "UNSUPPORTED"])

    @pytest.mark.parametrize("source", ["../../etc", "UPPER", "a//b", "%00", "x" * 5000, "", "a%zz", "%ff"])
    async def test_bad_source_of_mount(self, client: Client, repo: str, source: str) -> None:
        """A mount from a name that can't exist is refused or begins an upload (end-11)."""
        reply = await client.send("POST", uploads_of(repo) + f"?mount={random_digest()}&from={source}")
        if reply.status != 202:
            client.refused(reply, 400, 404, codes=["NAME_INVALID", "NAME_UNKNOWN"])

    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "unknown", "SHA256", "..%2f", "%00", "sha256,sha512"])
    async def test_unknown_algorithm(self, client: Client, registry: Registry, repo: str, algorithm: str) -> None:
        """An upload for an algorithm that the registry doesn't know is 400 (end-4c)."""
        registry.require(STRICT_INPUT)
        reply = await client.send("POST", uploads_of(repo) + f"?digest-algorithm={algorithm}")
        client.refused(reply, 400, codes=["DIGEST_INVALID", "UNSUPPORTED"])

    # -- names, tags and paths ------------------------------------------------------------------------

    @pytest.mark.parametrize("name", BAD_NAMES)
    @pytest.mark.parametrize("endpoint", ["tags", "pull", "push", "upload"])
    async def test_bad_name(self, client: Client, registry: Registry, name: str, endpoint: str) -> None:
        """A repository can't have a name outside the grammar (spec: pulling manifests)."""
        registry.require(STRICT_ROUTING)
        repo = f"{registry.namespace}/{name}"
        body = encode({"schemaVersion": 2})
        headers = [("Content-Type", OCI_IMAGE), ("Content-Length", str(len(body)))]
        reply = await {
            "tags": lambda: _raw(client, "GET", f"/v2/{repo}/tags/list"),
            "pull": lambda: _raw(client, "GET", f"/v2/{repo}/manifests/v1"),
            "push": lambda: _raw(client, "PUT", f"/v2/{repo}/manifests/v1", headers, body),
            "upload": lambda: _raw(client, "POST", f"/v2/{repo}/blobs/uploads/", [("Content-Length", "0")]),
        }[endpoint]()
        client.refused(reply, 400, 401, 403, 404)
        assert "X-Injected" not in reply.headers

    @pytest.mark.parametrize("form", DISGUISES)
    async def test_disguised_path(self, client: Client, registry: Registry, repo: str, form: str) -> None:
        """A repository is reached by its own path only, not by what decoding or joining makes of another."""
        registry.require(STRICT_ROUTING)
        manifest = image()
        await client.push(repo, manifest, "v1")
        space, _, name = repo.rpartition("/")
        disguised = form.format(space=space, name=name, upper=name.upper(), encoded=space.replace("/", "%2f"))
        for target in (manifest_at(disguised, "v1"), blob_at(disguised, manifest.blobs[0].digest), tags_of(disguised)):
            client.refused(await _raw(client, "GET", target), 400, 401, 403, 404)

    @pytest.mark.parametrize(
        "target",
        [
            "/v2/../v2/",
            "/v2/%2e%2e/",
            "/v2//",
            "/v2/x",
            "/v2/../../etc/passwd",
            "/v2/..%2f..%2fetc%2fpasswd",
            "/v2/{repo}",
            "/v2/{repo}/",
            "/v2/{repo}/tags",
            "/v2/{repo}/tags/list/",
            "/v2/{repo}/tags/other",
            "/v2/{repo}/blobs",
            "/v2/{repo}/blobs/",
            "/v2/{repo}/blobs/../manifests/v1",
            "/v2/{repo}/manifests/v1/",
            "/v2/{repo}/manifests/v1/x",
            "/v2/{repo}/unknown/v1",
            "/v2/tags/list",
            "/v2/manifests/v1",
            "/v2/blobs/uploads/",
        ],
    )
    async def test_path_that_is_none(self, client: Client, registry: Registry, repo: str, target: str) -> None:
        """A path that is no endpoint is refused, not cleaned up, redirected or failed on (spec: endpoints)."""
        registry.require(STRICT_ROUTING)
        await client.push(repo, image(), "v1")
        client.refused(await _raw(client, "GET", target.format(repo=repo)), 400, 401, 403, 404, 405)

    @pytest.mark.parametrize("tag", BAD_TAGS)
    async def test_bad_tag(self, client: Client, registry: Registry, repo: str, tag: str) -> None:
        """A tag outside the grammar can neither be pushed nor pulled (spec: pulling manifests)."""
        registry.require(STRICT_ROUTING)
        manifest = image()
        await client.push(repo, manifest)
        headers = [("Content-Type", manifest.media_type), ("Content-Length", str(len(manifest.content)))]
        client.refused(await _raw(client, "PUT", manifest_at(repo, tag), headers, manifest.content), 400, 404, 405)
        client.refused(await _raw(client, "GET", manifest_at(repo, tag)), 400, 404)
        assert await client.tags(repo) == []

    @pytest.mark.parametrize("tag", ["", ".hidden", "a%20b", "a%2fb", "x" * 129, "%00", "%ff"])
    async def test_bad_tag_parameter(self, client: Client, registry: Registry, repo: str, tag: str) -> None:
        """A push by digest with an impossible tag is refused as a whole (end-7b)."""
        registry.require(TAG_PARAMETERS)
        manifest = image()
        await client.prepare(repo, manifest)
        target = f"{manifest_at(repo, manifest.digest)}?tag=good&tag={tag}"
        headers = {"Content-Type": manifest.media_type}
        client.refused(await client.send("PUT", target, headers=headers, body=manifest.content), 400)
        assert (await client.look("GET", repo, "good")).status == 404
        assert (await client.look("GET", repo, manifest.digest)).status == 404

    @pytest.mark.parametrize("length", [129, 300, 5000])
    async def test_too_long_tag(self, client: Client, registry: Registry, repo: str, length: int) -> None:
        """A tag over 128 characters is refused (spec: pulling manifests)."""
        registry.require(LIMITS)
        manifest = image()
        await client.push(repo, manifest)
        client.refused(await client.put_manifest(repo, "x" * length, manifest), 400, 404, 414)
        client.refused(await client.look("GET", repo, "x" * length), 400, 404, 414)

    @pytest.mark.parametrize("length", [256, 300, 5000])
    async def test_too_long_name(self, client: Client, registry: Registry, length: int) -> None:
        """A name over 255 characters is refused (Distribution: limit of a name)."""
        registry.require(LIMITS)
        start = f"{registry.namespace}/"
        repo = start + "x" * (length - len(start))
        refusals = [400, 401, 403, 404, 414]
        client.refused(await client.send("POST", uploads_of(repo)), *refusals)
        client.refused(await client.send("GET", tags_of(repo)), *refusals)
        client.refused(await client.put_manifest(repo, "v1", image()), *refusals)

    @pytest.mark.parametrize("number", ["-1", "abc", "1.5", "0x1", "%00", "1%202", "1e3"])
    async def test_bad_page_size(self, client: Client, registry: Registry, repo: str, number: str) -> None:
        """A page size that is no number is 400 (Distribution 3: PAGINATION_NUMBER_INVALID)."""
        registry.require(TAG_PAGING)
        await client.push(repo, image(), "v1")
        client.refused(await client.send("GET", f"{tags_of(repo)}?n={number}"), 400)

    @pytest.mark.parametrize(
        "query",
        [
            f"n={10**30}",
            f"n={2**63}",
            "n=2&n=3",
            "n=",
            "last=",
            "last=%00",
            "last=%ff",
            "last=..%2f..%2fx",
            "last=%zz",
            f"last={'x' * 5000}",
            "n=2&last=%27%20OR%201=1",
            "&&&===",
            ";",
        ],
    )
    @pytest.mark.parametrize("listing", ["tags", "catalog", "referrers"])
    async def test_odd_query(self, client: Client, registry: Registry, repo: str, listing: str, query: str) -> None:
        """A list with an odd query is answered or refused, never failed on (end-8b, end-12b)."""
        registry.require(STRICT_INPUT)
        await client.push(repo, image(), "v1")
        target = {"tags": tags_of(repo), "catalog": "/v2/_catalog", "referrers": referrers_of(repo, random_digest())}
        if listing == "referrers":
            registry.require(REFERRERS)
            query = query.replace("last=", "artifactType=").replace("n=", "artifactType=")
        reply = await client.send("GET", f"{target[listing]}?{query}")
        if reply.status != 200:
            client.refused(reply, 400)

    # -- uploads --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", UPLOAD_IDS)
    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    async def test_unknown_upload(
        self, client: Client, registry: Registry, standing_repo: str, method: str, name: str
    ) -> None:
        """An upload that was never begun is unknown to every method, whatever its id looks like (end-5, end-6)."""
        if set(name) & set("%./?_"):
            registry.require(STRICT_ROUTING)
        target = f"/v2/{standing_repo}/blobs/uploads/{name}"
        body = b"content" if method in ("PATCH", "PUT") else b""
        if method == "PUT":
            target = with_query(target, digest=digest_of(body))
        headers = [("Content-Type", OCTET_STREAM), ("Content-Length", str(len(body)))]
        client.refused(await _raw(client, method, target, headers, body), 400, 404, 405)
        assert (await client.get_blob(standing_repo, digest_of(b"content"))).status == 404

    @pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
    @pytest.mark.parametrize("how", ["changed", "cut", "extended"])
    async def test_forged_location(self, client: Client, repo: str, how: str, method: str) -> None:
        """A location is taken as it was given or not at all (spec: it should match exactly)."""
        location = await client.begin(repo)
        # The middle of the last value: the ends of an encoded one can have bits that mean nothing.
        start = max(location.rfind("/"), location.rfind("=")) + 1
        middle = (start + len(location)) // 2
        other = "0" if location[middle] != "0" else "1"
        forged = {
            "changed": location[:middle] + other + location[middle + 1 :],
            "cut": location[:middle],
            "extended": location + "AAAA",
        }[how]
        body = b"content" if method in ("PATCH", "PUT") else b""
        if method == "PUT":
            forged = with_query(forged, digest=digest_of(body))
        reply = await client.send(method, forged, headers={"Content-Type": OCTET_STREAM}, body=body)
        client.refused(reply, 400, 404, codes=["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"])

    @pytest.mark.parametrize("header", BAD_CONTENT_RANGES)
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    async def test_bad_content_range(
        self, client: Client, registry: Registry, repo: str, method: str, header: str
    ) -> None:
        """A chunk whose Content-Range is none is refused, and the upload goes on without it (end-5, end-6)."""
        registry.require(CHUNK_ORDER)
        blob = random_blob(10)
        location = await client.begin(repo)
        target = location if method == "PATCH" else with_query(location, digest=blob.digest)
        headers = {"Content-Type": OCTET_STREAM, "Content-Range": header}
        client.refused(await client.send(method, target, headers=headers, body=blob.content), 400, 416)
        assert (await client.get_blob(repo, blob.digest)).status == 404
        status = await client.send("GET", location)
        assert (status.status, status.headers["Range"]) == (204, "0-0")
        assert (await client.put_blob(status.location, blob.digest, blob.content)).status == 201

    @pytest.mark.parametrize("header", ["0-8", "0-10", "0-0"])
    async def test_content_range_of_another_length(
        self, client: Client, registry: Registry, repo: str, header: str
    ) -> None:
        """A chunk that is not as long as its Content-Range says is refused, and nothing of it is kept (end-5)."""
        registry.require(CHUNK_ORDER)
        blob = random_blob(10)
        location = await client.begin(repo)
        headers = {"Content-Type": OCTET_STREAM, "Content-Range": header}
        client.refused(await client.send("PATCH", location, headers=headers, body=blob.content), 400, 416)
        status = await client.send("GET", location)
        assert (status.status, status.headers["Range"]) == (204, "0-0")
        assert (await client.put_blob(status.location, blob.digest, blob.content)).status == 201

    @pytest.mark.parametrize(("framing", "start"), TRUNCATIONS)
    @pytest.mark.parametrize("way", ["put", "single-post"])
    async def test_truncated_upload(
        self, client: Client, repo: str, framing: list[tuple[str, str]], start: bytes, way: str
    ) -> None:
        """A blob whose body ends early is not stored, neither whole nor as the part that came (end-4b, end-6)."""
        content = random_blob(3000).content
        for named in (content, content[:1000]):
            target = await client.begin(repo) if way == "put" else uploads_of(repo)
            target = _path(client, with_query(target, digest=digest_of(named)))
            method = "PUT" if way == "put" else "POST"
            headers = [("Content-Type", OCTET_STREAM), *framing]
            request = client.wire(method, target, headers=headers, body=start + content[:1000])
            await _not_accepted(client, request, unless_begun=way == "single-post")
            assert (await client.get_blob(repo, digest_of(named))).status == 404

    @pytest.mark.parametrize(("framing", "start"), TRUNCATIONS)
    async def test_truncated_stream_resumes(
        self, client: Client, registry: Registry, repo: str, framing: list[tuple[str, str]], start: bytes
    ) -> None:
        """An upload whose stream broke off goes on from the range that its status gives (spec: resumable push)."""
        registry.require(CHUNK_ORDER)
        content = random_blob(3000).content
        location = await client.begin(repo)
        headers = [("Content-Type", OCTET_STREAM), *framing]
        body = start + content[:1000]
        await _not_accepted(client, client.wire("PATCH", _path(client, location), headers=headers, body=body))
        for _ in range(100):  # The registry may still be storing what came before the end.
            status = await client.send("GET", location)
            assert status.status == 204
            received = int(status.headers["Range"].removeprefix("0-"))
            at = received + 1 if received else 0
            assert at <= 1000
            reply = await client.patch(status.location, content[at:], at=at)
            if reply.status == 202:
                break
            assert reply.status in (409, 416)
        assert (await client.put_blob(reply.location, digest_of(content))).status == 201
        assert (await client.get_blob(repo, digest_of(content))).body == content

    @pytest.mark.parametrize(("framing", "start"), TRUNCATIONS)
    async def test_truncated_manifest(
        self, client: Client, repo: str, framing: list[tuple[str, str]], start: bytes
    ) -> None:
        """A manifest whose body ends early is not stored (end-7a)."""
        manifest = image()
        await client.prepare(repo, manifest)
        headers = [("Content-Type", manifest.media_type), *framing]
        body = start + manifest.content
        await _not_accepted(client, client.wire("PUT", manifest_at(repo, "v1"), headers=headers, body=body))
        for reference in ("v1", manifest.digest):
            assert (await client.look("GET", repo, reference)).status == 404

    @pytest.mark.parametrize(
        "chunk", [b"zz\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n"]
    )
    async def test_broken_transfer_encoding(self, client: Client, registry: Registry, repo: str, chunk: bytes) -> None:
        """A body that breaks its transfer encoding is not stored (RFC 9112, 7.1)."""
        registry.require(STRICT_INPUT)
        target = _path(client, with_query(await client.begin(repo), digest=digest_of(b"abc")))
        headers = [("Content-Type", OCTET_STREAM), ("Transfer-Encoding", "chunked")]
        await _not_accepted(client, client.wire("PUT", target, headers=headers, body=chunk))
        assert (await client.get_blob(repo, digest_of(b"abc"))).status == 404

    async def test_body_longer_than_its_length(self, client: Client, repo: str) -> None:
        """Bytes after the declared length are no part of the blob, and no second request (RFC 9112, 6.3)."""
        content = random_blob().content
        target = _path(client, with_query(await client.begin(repo), digest=digest_of(content)))
        headers = [("Content-Type", OCTET_STREAM), ("Content-Length", str(len(content) - 1))]
        reply = await client.exchange(client.wire("PUT", target, headers=headers, body=content))
        client.refused(reply, 400)
        assert (await client.get_blob(repo, digest_of(content))).status == 404

    # -- manifests ------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("body", "media_type"), NO_MANIFESTS)
    async def test_body_that_is_no_manifest(
        self, client: Client, registry: Registry, standing_repo: str, body: bytes, media_type: str
    ) -> None:
        """What is no manifest, or one of schema 1, is refused and not stored (end-7a)."""
        registry.require(STRICT_INPUT)
        reply = await client.put_manifest(standing_repo, "v1", Manifest(body, media_type))
        client.refused(reply, 400, 415, codes=["MANIFEST_INVALID", "UNSUPPORTED", "MANIFEST_UNVERIFIED"])
        assert (await client.look("GET", standing_repo, "v1")).status == 404
        assert (await client.look("GET", standing_repo, digest_of(body))).status == 404

    @pytest.mark.parametrize("spoil", SPOILED_IMAGES)
    async def test_spoiled_image(
        self, client: Client, registry: Registry, repo: str, spoil: Callable[[Document], None]
    ) -> None:
        """An image with one wrong value is refused and not stored (image-spec: manifest)."""
        registry.require(STRICT_INPUT)
        await self._spoiled(client, repo, image(), spoil)

    @pytest.mark.parametrize("spoil", SPOILED_INDEXES)
    async def test_spoiled_index(
        self, client: Client, registry: Registry, repo: str, spoil: Callable[[Document], None]
    ) -> None:
        """An index with one wrong value is refused and not stored (image-spec: image index)."""
        registry.require(STRICT_INPUT)
        await self._spoiled(client, repo, index([image(), image()]), spoil)

    @pytest.mark.parametrize(
        "media_type",
        [
            "text/plain",
            "application/vnd.unknown.v1+json",
            DOCKER_LIST,
            OCI_INDEX,
            "nonsense",
            "/",
        ],
    )
    async def test_type_that_is_not_the_manifest_s(
        self, client: Client, registry: Registry, repo: str, media_type: str
    ) -> None:
        """A manifest under a Content-Type that is not its mediaType is refused and not stored (end-7a)."""
        registry.require(STRICT_INPUT)
        manifest = image()
        await client.prepare(repo, manifest)
        reply = await client.put_manifest(repo, "v1", Manifest(manifest.content, media_type))
        client.refused(reply, 400, 415, codes=["MANIFEST_INVALID", "UNSUPPORTED"])
        assert (await client.look("GET", repo, "v1")).status == 404

    @pytest.mark.parametrize("change", ODD_FIELDS)
    async def test_odd_manifest(
        self, client: Client, registry: Registry, repo: str, change: Callable[[Document], None]
    ) -> None:
        """A manifest with an odd value is stored as it is or refused, and listed or not (end-7a, end-12a)."""
        registry.require(STRICT_INPUT)
        subject = image()
        plain = artifact(subject=subject.descriptor())
        document = plain.document
        change(document)
        odd = Manifest(json.dumps(document).encode(), plain.media_type, plain.blobs)
        await client.prepare(repo, odd)
        reply = await client.put_manifest(repo, "v1", odd)
        if reply.status == 201:
            assert (await client.look("GET", repo, "v1")).body == odd.content
        else:
            client.refused(reply, 400)
            assert (await client.look("GET", repo, "v1")).status == 404
        if REFERRERS in registry.supports:
            listing = await client.send("GET", referrers_of(repo, subject.digest))
            assert listing.status == 200
            assert (odd.digest in str(listing.json())) is (reply.status == 201)

    async def _spoiled(self, client: Client, repo: str, manifest: Manifest, spoil: Callable[[Document], None]) -> None:
        await client.prepare(repo, manifest)
        document = manifest.document
        spoil(document)
        spoiled = Manifest(encode(document), manifest.media_type)
        reply = await client.put_manifest(repo, "v1", spoiled)
        client.refused(reply, 400, 404)
        for reference in ("v1", spoiled.digest):
            assert (await client.look("GET", repo, reference)).status == 404

    # -- requests -------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("method", "path"), WRONG_METHODS)
    async def test_wrong_method(self, client: Client, registry: Registry, repo: str, method: str, path: str) -> None:
        """A method that the endpoint doesn't have is 405 and says which it has (RFC 9110, 15.5.6)."""
        registry.require(STRICT_ROUTING)
        manifest = image()
        await client.push(repo, manifest, "v1")
        if "referrers" in path:
            registry.require(REFERRERS)
        target = "/v2/" + path.format(repo=repo, digest=manifest.digest)
        reply = await _raw(client, method, target, [("Content-Length", "0")])
        client.refused(reply, 405, codes=["UNSUPPORTED"])
        assert reply.headers["Allow"]
        assert method not in reply.headers["Allow"].replace(",", " ").split()

    async def test_wrong_method_of_an_upload(self, client: Client, registry: Registry, repo: str) -> None:
        """POST to an upload's location is 405 (end-5, end-6, end-13, end-14)."""
        registry.require(STRICT_ROUTING)
        reply = await client.send("POST", await client.begin(repo))
        client.refused(reply, 405, codes=["UNSUPPORTED"])

    async def test_unknown_method(self, client: Client, repo: str) -> None:
        """A method that nobody knows is refused (RFC 9110, 9.1: 501 if unknown, 405 if not allowed)."""
        await client.push(repo, image(), "v1")
        client.refused(await _raw(client, "BREW", manifest_at(repo, "v1")), 400, 405, 501)

    @pytest.mark.parametrize(("line", "headers"), BROKEN_REQUESTS)
    async def test_broken_request(self, client: Client, registry: Registry, line: str, headers: list[str]) -> None:
        """A request that is not HTTP is 400 in OCI form too (RFC 9112, 2.2)."""
        registry.require(ERROR_BODIES)
        request = "\r\n".join([line, "Host: registry", "Connection: close", *headers, "", ""])
        client.refused(await client.exchange(request.encode()), 400, 501, 505)

    @pytest.mark.parametrize("name", ["X-Padding", "Authorization", "Accept", "Cookie"])
    async def test_oversized_header(self, client: Client, registry: Registry, name: str) -> None:
        """A header of 100 KiB is refused, and nothing of it is quoted (RFC 6585, 5)."""
        registry.require(LIMITS)
        marker = uuid4().hex
        fields = [("Host", "registry"), ("Connection", "close"), (name, marker + "x" * 100 * 1024)]
        request = "\r\n".join(["GET /v2/ HTTP/1.1", *(f"{key}: {value}" for key, value in fields), "", ""])
        reply = await client.exchange(request.encode())
        client.refused(reply, 400, 431)
        assert reply is not None
        assert marker.encode() not in reply.body

    async def test_oversized_target(self, client: Client, registry: Registry) -> None:
        """A request target of 100 KiB is refused (RFC 9110, 15.5.15)."""
        registry.require(LIMITS)
        target = f"/v2/{registry.namespace}/{'x' * 100 * 1024}/tags/list"
        client.refused(await client.exchange(client.wire("GET", target)), 400, 403, 404, 414, 431)

    @pytest.mark.parametrize("size", [1024, 12 * 1024, 32 * 1024])
    async def test_large_header_is_served(self, client: Client, size: int) -> None:
        """Headers as large as tokens and scope lists get are served like any other (Distribution: 1 MiB)."""
        reply = await client.send("GET", "/v2/", headers={"X-Padding": "x" * size})
        assert reply.status == 200

    async def test_registry_lives_on(self, client: Client, repo: str) -> None:
        """After a connection that broke in every way, the next one is served (spec: determining support)."""
        for request in (b"", b"\x00" * 1000, b"GET", b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            await client.exchange(request)
        manifest = image()
        await client.push(repo, manifest, "v1")
        assert (await client.look("GET", repo, "v1")).body == manifest.content


async def _raw(
    client: Client, method: str, target: str, headers: list[tuple[str, str]] | None = None, body: bytes = b""
) -> Reply:
    """Send a target that no client library would, and expect an answer."""
    reply = await client.exchange(client.wire(method, target, headers=headers or [], body=body), method=method)
    assert reply is not None, "the registry closed the connection without an answer"
    return reply


async def _not_accepted(client: Client, request: bytes, *, unless_begun: bool = False) -> None:
    """Send a request whose body is broken: it is refused or hung up on, unless it may begin an upload."""
    reply = await client.exchange(request)
    if reply is None or (unless_begun and reply.status == 202):
        return
    assert 400 <= reply.status < 500, reply
    if reply.body:
        client.refused(reply, reply.status)


def _path(client: Client, location: str) -> str:
    """Give the request target of a location, which may be absolute."""
    return location.removeprefix(client.registry.base_url.rstrip("/"))
